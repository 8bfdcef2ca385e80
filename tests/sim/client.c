/* The clients of the volume: what an application and its front do, and the check of every answer they get. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "tests/sim/sim.h"

/* What a front leaves of the pool, so that reads and the peer can go on. */
#define KEEP_FREE_BYTES (256 * KIB)

/* Until a client that was held back tries again. */
#define HELD_BACK_NS (300 * NS_PER_US)

void sim_clients_reset(struct sim *s)
{
    struct sim_clients *c = &s->clients;
    memset(c, 0, sizeof(*c));
    c->client_count = (unsigned)sim_between(s, CHANCE_CLIENT, 1, SIM_CLIENTS_MAX);
    c->hot_count = (uint32_t)sim_between(s, CHANCE_CLIENT, 1, 12);
    c->hot_first = (uint32_t)sim_below(s, CHANCE_CLIENT, s->block_count - c->hot_count + 1);
    c->left = (uint32_t)sim_between(s, CHANCE_CLIENT, 50, 500);
    bool has_many = sim_chance(s, CHANCE_CLIENT, 10000); /* enough to fill the engine */
    for (unsigned i = 0; i < c->client_count; i++) {
        c->client[i] = (struct sim_client) {
            .queue_depth = (unsigned)sim_between(s, CHANCE_CLIENT, 1, 32),
            .count_max = (unsigned)sim_between(s, CHANCE_CLIENT, 1, 16),
            .read_per_million = (unsigned)sim_below(s, CHANCE_CLIENT, 700000),
            .zero_per_million = (unsigned)sim_below(s, CHANCE_CLIENT, 200000),
            .flush_per_million = (unsigned)sim_below(s, CHANCE_CLIENT, 150000),
            .fua_per_million = (unsigned)sim_below(s, CHANCE_CLIENT, 300000),
            .hot_per_million = (unsigned)sim_below(s, CHANCE_CLIENT, 900000),
            .think_max_ns = sim_between(s, CHANCE_CLIENT, 1 * NS_PER_US, 2 * NS_PER_MS),
        };
        if (!has_many)
            continue;
        /* Most of these need no buffer, which would run out first. */
        c->client[i].queue_depth = SIM_OPS_MAX;
        c->client[i].flush_per_million = 400000;
        c->client[i].zero_per_million = 600000;
        c->client[i].think_max_ns = 2 * NS_PER_US;
    }
    if (has_many)
        c->left = 3000;
}

static bool is_change(enum op_kind kind) { return kind == OP_WRITE || kind == OP_DISCARD || kind == OP_WRITE_ZEROES; }

static struct sim_op *op_new(struct sim *s)
{
    for (uint32_t w = 0; w < ARRAY_LEN(s->clients.ops_busy); w++) {
        uint64_t free = ~s->clients.ops_busy[w];
        if (free)
            return &s->clients.ops[w * 64 + (uint32_t)__builtin_ctzll(free)];
    }
    return NULL;
}

/* The first request in flight at or after this one, or NULL. */
static struct sim_op *op_busy(struct sim *s, const struct sim_op *from)
{
    uint32_t i = (uint32_t)(from - s->clients.ops);
    for (uint32_t w = i / 64; w < ARRAY_LEN(s->clients.ops_busy); w++) {
        uint64_t busy = s->clients.ops_busy[w];
        if (w == i / 64)
            busy = busy >> (i % 64) << (i % 64);
        if (busy)
            return &s->clients.ops[w * 64 + (uint32_t)__builtin_ctzll(busy)];
    }
    return NULL;
}

static void op_mark(struct sim *s, struct sim_op *op, bool busy)
{
    uint32_t i = (uint32_t)(op - s->clients.ops);
    assert(op->busy != busy);
    op->busy = busy;
    s->clients.ops_busy[i / 64] ^= UINT64_C(1) << (i % 64);
}

static void op_free(struct sim *s, struct sim_op *op)
{
    if (op->has_span)
        model_span_end(&s->model, op->span);
    op_mark(s, op, false);
    op->has_span = false;
    s->clients.client[op->client].in_flight--;
    s->clients.in_flight--;
    if (is_change(op->kind))
        s->clients.changes_in_flight--;
    if (op->kind == OP_READ)
        s->clients.reads_in_flight--;
}

static void cover_overlap(struct sim *s, uint32_t first, uint32_t count)
{
    for (struct sim_op *o = op_busy(s, s->clients.ops); o; o = op_busy(s, o + 1)) {
        if (is_change(o->kind) && first < o->first + o->count && o->first < first + count) {
            COVER(overlap_queued);
            return;
        }
    }
}

bool sim_client_submit(struct sim *s, uint32_t client, unsigned node, enum op_kind kind, uint32_t flags, uint32_t first,
                       uint32_t count)
{
    struct sim_node *n = &s->node[node];
    struct sim_op *op = op_new(s);
    if (!n->serving || !op || first + count > n->served_blocks)
        return false;
    if (!engine_can_accept(n->engine, kind)) {
        COVER(front_full);
        return false;
    }
    struct buf *buf = NULL;
    if (kind == OP_READ || kind == OP_WRITE) {
        buf = buf_get(&n->pool, (size_t)count * BLOCK_BYTES, KEEP_FREE_BYTES);
        if (!buf) {
            COVER(front_starved);
            return false;
        }
    }
    COVER(requests);
    cover_overlap(s, first, count);
    uint32_t generation = op->generation + 1;
    *op = (struct sim_op) { .generation = generation,
                            .client = client,
                            .node = node,
                            .boot = n->boot,
                            .kind = kind,
                            .flags = flags,
                            .first = first,
                            .count = count,
                            .buf = buf,
                            .begun_ns = s->now_ns };
    op_mark(s, op, true);
    s->clients.client[client].in_flight++;
    s->clients.in_flight++;
    s->clients.reads_in_flight += kind == OP_READ;
    struct request request = {
        .kind = kind,
        .flags = flags,
        .offset_bytes = (uint64_t)first * BLOCK_BYTES,
        .length_bytes = (uint64_t)count * BLOCK_BYTES,
        .buf = buf,
        .cookie = (void *)((uintptr_t)generation << 16 | (uintptr_t)(op - s->clients.ops)),
    };
    if (is_change(kind)) {
        s->clients.changes_in_flight++;
        s->clients.changed_blocks += count;
        op->write = model_write_begin(&s->model, first, count, kind != OP_WRITE);
        s->model.writes[op->write].owner = node;
    }
    if (!is_change(kind) || (flags & OP_FLAG_FUA)) {
        op->has_span = true;
        op->span = model_span_begin(&s->model);
    }
    if (kind == OP_WRITE) {
        for (uint32_t i = 0; i < count; i++)
            model_fill(op->write, first + i, buf->data + (size_t)i * BLOCK_BYTES);
        request.payload_check = checksum64(buf->data, request.length_bytes);
    }
    sim_trace(s, "%c client  %u: %s %u blocks %u+%u%s", 'A' + node, client, op_name(kind), op->write, first, count,
              flags & OP_FLAG_FUA ? " fua" : "");
    sim_node_engine(s, node, (struct event) { .kind = EV_REQUEST, .request = request });
    return true;
}

/* The check that it fails on this leg, or NULL. */
static const char *lacks(struct sim *s, unsigned leg, const struct sim_op *op)
{
    if (!sim_leg_holds(s, leg, SIM_CONTENT, op->write))
        return "acknowledged-early";
    if ((op->flags & OP_FLAG_FUA) && !sim_leg_holds(s, leg, SIM_STABLE, op->write))
        return "fua-not-stable";
    return NULL;
}

static bool is_diskless(const struct sim *s, unsigned node)
{
    struct engine_view v;
    return sim_node_view(s, node, &v) && v.diskless_epoch;
}

static void check_on_legs(struct sim *s, const struct sim_op *op)
{
    if (s->legs.split)
        return;
    if (is_diskless(s, op->node)) {
        unsigned other = 1 - op->node;
        sim_legs_acked_through(s, op->node);
        const char *lacking = lacks(s, other, op);
        if (lacking)
            sim_fail(s, lacking, "write %u, leg %c, through which node %u serves: %s", op->write, 'A' + other, op->node,
                     s->model.facts);
        return;
    }
    const char *own = lacks(s, op->node, op);
    if (own)
        sim_fail(s, own, "write %u, leg %c, on its own node: %s", op->write, 'A' + op->node, s->model.facts);
    sim_legs_acked(s, op->node, lacks(s, 1 - op->node, op));
}

/* A change is acknowledged: is that allowed, and is it true? */
static void check_acked(struct sim *s, const struct sim_op *op)
{
    struct engine_view view;
    engine_view(s->node[op->node].engine, &view);
    if (view.leg != LEG_UP_TO_DATE && !view.diskless_epoch)
        sim_fail(s, "failed-leg", "node %u acknowledges write %u with its leg %s", op->node, op->write,
                 leg_state_name(view.leg));
    sim_force_acked(s, op->node, &view);
    check_on_legs(s, op);
    if (s->legs.split)
        return;
    /* That which is on record: it may just be taking the peer in with another one. */
    uint64_t epoch = s->node[op->node].epoch;
    if (view.diskless_epoch) /* its own disk may not have it any more */
        epoch = view.epoch;
    /* Both legs have it (above), or the only one, and the other node had it before it began to serve: it was complete
     * but for this node's disk, or this node's word. Nobody can know here that the other one was promoted since. */
    unsigned other = 1 - op->node;
    bool is_old = s->model.writes[op->write].begin < s->served_at[other];
    /* A half-made leg that was promoted by force may not have heard of this node's last epoch. */
    bool forced_apart =
        s->plan.forces[other] && s->plan.half_forced[other] && s->served_at[other] > s->served_at[op->node];
    if (is_old && (forced_apart || (epoch < s->acked_epoch && s->acked_node == (int)other))) {
        COVER(acked_late);
        return;
    }
    if (epoch < s->acked_epoch || (epoch == s->acked_epoch && s->acked_node != (int)op->node))
        sim_fail(s, "epoch", "node %u acknowledges write %u at epoch %" PRIu64 ", after node %d did so at %" PRIu64,
                 op->node, op->write, epoch, s->acked_node, s->acked_epoch);
    s->acked_epoch = epoch;
    s->acked_node = (int)op->node;
}

/* The other leg had it, said so, and lost it with its power, before this node could complete it: its own disk took
 * long, or it has none. What that leg lost is given up, by this node's wish (diskless) or by force, whether it had been
 * acknowledged by then or was about to be. */
static bool is_lost_beforehand(const struct sim *s, const struct sim_op *op)
{
    const struct model_write *w = &s->model.writes[op->write];
    if (op->flags & OP_FLAG_FUA)
        return false;
    return w->given_up || (is_diskless(s, op->node) && w->begin < s->legs.cut[1 - op->node]);
}

static void complete_change(struct sim *s, struct sim_op *op, int32_t result)
{
    if (result) {
        COVER(changes_failed);
        model_write_ended(&s->model, op->write);
        return;
    }
    if (is_lost_beforehand(s, op)) {
        COVER(acked_late);
        model_write_ended(&s->model, op->write);
        return;
    }
    check_acked(s, op);
    if (op->kind == OP_WRITE)
        COVER(writes_ok);
    else
        COVER(zeroes_ok);
    if (op->kind != OP_WRITE && sim_resyncs(s))
        COVER(zeroes_resync);
    if (op->flags & OP_FLAG_FUA) {
        COVER(fua_ok);
        s->model.writes[op->write].durable = true;
    }
    model_write_acked(&s->model, op->write);
}

static void complete_flush(struct sim *s, struct sim_op *op, int32_t result)
{
    s->clients.flush_failed = result != 0;
    if (result) {
        COVER(changes_failed);
        return;
    }
    COVER(flushes_ok);
    uint64_t begun = model_span_begun(&s->model, op->span);
    if (is_diskless(s, op->node))
        sim_legs_acked_through(s, op->node);
    else
        sim_legs_acked(s, op->node, NULL);
    for (unsigned i = 0; i < SIM_NODES && !s->legs.split; i++) {
        /* A leg that is being resynced has it when that is done. */
        if (s->legs.behind[i] || (i != op->node && sim_legs_is_target(s, i)))
            continue;
        if (!sim_leg_is_current(s, i, SIM_STABLE, begun))
            sim_fail(s, "flush-not-stable", "leg %c: %s", 'A' + i, s->model.facts);
        sim_legs_flushed(s, i, begun);
    }
    sim_plan_flushed(s);
}

/* A node shows nothing that it has not acknowledged: were it lost then, its reader had seen what never was. */
static void check_not_dirty(struct sim *s, const struct sim_op *read)
{
    for (struct sim_op *o = op_busy(s, s->clients.ops); o; o = op_busy(s, o + 1)) {
        if (o->node != read->node || o->kind != OP_WRITE)
            continue;
        for (uint32_t b = read->first; b < read->first + read->count; b++) {
            if (b >= o->first && b < o->first + o->count &&
                model_shows(read->buf->data + (size_t)(b - read->first) * BLOCK_BYTES, o->write, b))
                sim_fail(s, "dirty-read", "of block %u on node %u shows write %u, which is still in flight", b,
                         read->node, o->write);
        }
    }
}

/* A node that has ceased to be primary answers no read with what it let fail on the way out: the new primary may not
 * have it. */
static void check_not_deposed(struct sim *s, const struct sim_op *read)
{
    struct engine_view view;
    engine_view(s->node[read->node].engine, &view);
    if (view.role == ROLE_PRIMARY || view.leg != LEG_UP_TO_DATE)
        return;
    for (uint32_t b = read->first; b < read->first + read->count; b++) {
        uint32_t write;
        const uint8_t *data = read->buf->data + (size_t)(b - read->first) * BLOCK_BYTES;
        if (model_shows_failed(&s->model, data, b, &write) && !s->model.writes[write].given_up &&
            s->model.writes[write].owner == read->node &&
            s->model.writes[write].ended > model_span_begun(&s->model, read->span))
            sim_fail(s, "deposed-read", "of block %u on node %u, which is secondary, shows write %u, which failed", b,
                     read->node, write);
    }
}

bool sim_is_held_up(struct sim *s, unsigned node)
{
    struct engine_view view;
    engine_view(s->node[node].engine, &view);
    return s->reg.fail_after_ns && view.role == ROLE_PRIMARY && !view.serving;
}

/* In sync, an error is the reader's business only when neither leg can give what he asked for. Who was deposed while
 * his disk hung has nobody to ask. */
static void check_not_repairable(struct sim *s, const struct sim_op *read)
{
    const struct sim_disk *other = &s->disk[1 - read->node];
    if (READ_REPAIR_EXISTS && sim_primary(s) == (int)read->node && sim_legs_in_sync(s) &&
        other->faults.error_per_million[OP_READ] == 0 && medium_is_readable(&other->data, read->first, read->count))
        sim_fail(s, "read-error", "of blocks %u-%u on node %u, in sync, where the other leg has them", read->first,
                 read->first + read->count - 1, read->node);
}

/* Else it was promoted by hand, perhaps as a volume of its own. */
static bool acts_by_register(struct sim *s, unsigned node)
{
    struct superblock sb;
    if (!s->registered)
        return false;
    sim_node_superblock(s, node, &sb);
    return sb.registered;
}

static void complete_read(struct sim *s, struct sim_op *op, int32_t result)
{
    if (result) {
        COVER(reads_failed);
        for (uint32_t b = op->first; b < op->first + op->count; b++) {
            if (!medium_is_readable(&s->disk[0].data, b, 1) && !medium_is_readable(&s->disk[1].data, b, 1))
                COVER(read_nobody);
        }
        if (sim_is_held_up(s, op->node))
            COVER(held_failed);
        else
            check_not_repairable(s, op);
        return;
    }
    COVER(reads_ok);
    check_not_dirty(s, op);
    check_not_deposed(s, op);
    /* What is read apart from the node that goes on is not the volume. */
    bool diskless = is_diskless(s, op->node);
    bool apart = (s->legs.behind[op->node] && !diskless) || s->node[1 - op->node].serving;
    /* With a register that the node has heard of, nothing that is read is not the volume, but where a clock has told
     * that time had passed which had not, and on a leg that an operator has forced although it lacks something. */
    if (s->legs.split || (s->reg.forced && s->legs.behind[op->node]) ||
        (apart && (!acts_by_register(s, op->node) || sim_sleep_lease_is_void(s, op->node, op->begun_ns))))
        return;
    if (diskless)
        COVER(read_diskless);
    const struct medium *from = &s->disk[diskless ? 1 - op->node : op->node].data;
    uint64_t damaged[SIM_BITMAP_WORDS];
    memcpy(damaged, from->damaged, sizeof(damaged));
    for (uint32_t i = 0; s->spoilt.any && i < op->count; i++) {
        if (sim_is_spoilt(s, op->first + i, sim_block(op->buf->data, i)))
            damaged[(op->first + i) / 64] |= UINT64_C(1) << (op->first + i) % 64;
    }
    for (uint32_t i = 0; s->model.torn_count > 0 && i < op->count; i++) {
        if (model_shows_torn(&s->model, sim_block(op->buf->data, i), op->first + i))
            COVER(torn_read);
    }
    s->model.damaged = from->has_flaws || s->spoilt.any ? damaged : NULL;
    bool good = model_check_read(&s->model, op->span, op->first, op->count, op->buf->data);
    s->model.damaged = NULL;
    if (!good)
        sim_fail(s, "read", "of blocks %u-%u on node %u: %s", op->first, op->first + op->count - 1, op->node,
                 s->model.facts);
}

void sim_client_complete(struct sim *s, unsigned node, void *cookie, int32_t result)
{
    uint32_t index = (uint32_t)((uintptr_t)cookie & 0xffff);
    uint32_t generation = (uint32_t)((uintptr_t)cookie >> 16);
    if (index >= SIM_OPS_MAX || !s->clients.ops[index].busy || s->clients.ops[index].generation != generation ||
        s->clients.ops[index].node != node)
        sim_fail(s, "completion", "node %u completes request %p, which is not in flight there", node, cookie);
    struct sim_op *op = &s->clients.ops[index];
    sim_mix(s, (uint64_t)generation << 32 | (uint32_t)result);
    sim_trace(s, "%c client  %u: %s %u blocks %u+%u ends: %d", 'A' + node, op->client, op_name(op->kind), op->write,
              op->first, op->count, result);
    if (result > 0)
        sim_fail(s, "completion", "node %u completes %s with %d", node, op_name(op->kind), result);
    if (result == -EOPNOTSUPP) {
        COVER(not_supported);
        if (!(op->flags & OP_FLAG_FAST_ONLY))
            sim_fail(s, "completion", "node %u: %s ends with EOPNOTSUPP", node, op_name(op->kind));
    }
    if (op->kind == OP_READ)
        complete_read(s, op, result);
    else if (op->kind == OP_FLUSH)
        complete_flush(s, op, result);
    else
        complete_change(s, op, result);
    if (op->buf)
        buf_put(op->buf);
    op_free(s, op);
}

unsigned sim_clients_busy(struct sim *s, unsigned node)
{
    unsigned busy = 0;
    for (struct sim_op *op = op_busy(s, s->clients.ops); op; op = op_busy(s, op + 1))
        busy += op->node == node;
    return busy;
}

bool sim_clients_change(struct sim *s, unsigned node, uint32_t block)
{
    for (struct sim_op *op = op_busy(s, s->clients.ops); op; op = op_busy(s, op + 1))
        if (op->node == node && is_change(op->kind) && block >= op->first && block < op->first + op->count)
            return true;
    return false;
}

void sim_clients_daemon_died(struct sim *s, unsigned node)
{
    for (struct sim_op *op = op_busy(s, s->clients.ops); op; op = op_busy(s, op + 1)) {
        if (op->node != node)
            continue;
        COVER(requests_lost);
        if (is_change(op->kind))
            model_write_ended(&s->model, op->write);
        op_free(s, op);
    }
}

void sim_clients_session_lost(struct sim *s)
{
    if (s->clients.changes_in_flight > 0)
        COVER(down_with_changes);
}

static bool submit_random(struct sim *s, uint32_t client, unsigned node)
{
    const struct sim_client *c = &s->clients.client[client];
    uint32_t count = (uint32_t)sim_between(s, CHANCE_CLIENT, 1, c->count_max);
    uint32_t first;
    if (sim_chance(s, CHANCE_CLIENT, c->hot_per_million)) {
        first = s->clients.hot_first + (uint32_t)sim_below(s, CHANCE_CLIENT, s->clients.hot_count);
        count = (uint32_t)min_u64(count, s->block_count - first);
    } else {
        first = (uint32_t)sim_below(s, CHANCE_CLIENT, s->block_count - count + 1);
    }
    enum op_kind kind = OP_WRITE;
    uint32_t flags = sim_chance(s, CHANCE_CLIENT, c->fua_per_million) ? OP_FLAG_FUA : 0;
    if (sim_chance(s, CHANCE_CLIENT, c->read_per_million)) {
        kind = OP_READ;
        flags = 0;
        /* Where a disk shows something older, it is to be looked at while it does. */
        uint32_t old = sim_disk_old_block(s, node, first);
        if (old != UINT32_MAX) {
            first = old;
            count = 1;
        }
    } else if (sim_chance(s, CHANCE_CLIENT, c->flush_per_million)) {
        kind = OP_FLUSH;
        flags = first = count = 0;
    } else if (sim_chance(s, CHANCE_CLIENT, c->zero_per_million)) {
        kind = OP_DISCARD;
        if (sim_chance(s, CHANCE_CLIENT, 500000)) {
            kind = OP_WRITE_ZEROES;
            flags |= sim_chance(s, CHANCE_CLIENT, 500000) ? OP_FLAG_KEEP_ALLOCATED : 0;
            flags |= sim_chance(s, CHANCE_CLIENT, 300000) ? OP_FLAG_FAST_ONLY : 0;
        }
        if (s->log_slots >= MODEL_BLOCKS_MAX / 8 &&
            sim_chance(s, CHANCE_CLIENT, 100000)) { /* a long one, without a payload */
            first = 0;
            count = s->block_count;
        }
    }
    if (!sim_client_submit(s, client, node, kind, flags, first, count))
        return false;
    s->clients.left--;
    return true;
}

void sim_client_event(struct sim *s, uint32_t client)
{
    struct sim_client *c = &s->clients.client[client];
    if (s->clients.stopped || s->clients.left == 0)
        return;
    unsigned node = (unsigned)sim_below(s, CHANCE_CLIENT, SIM_NODES);
    if (!s->node[node].serving || sim_is_paused(&s->node[node], s->now_ns))
        node = 1 - node;
    uint64_t wait_ns = 1 + sim_below(s, CHANCE_CLIENT, c->think_max_ns);
    if (!s->node[node].serving || sim_is_paused(&s->node[node], s->now_ns) || c->in_flight == c->queue_depth ||
        !submit_random(s, client, node))
        wait_ns += HELD_BACK_NS;
    sim_at(s, s->now_ns + wait_ns, Q_CLIENT, 0, client);
}
