/* The shell of one node: what repl/node does around the engine and the session, with simulated disk, network and clock.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/link/hello_codec.h"
#include "tests/sim/sim.h"

/* Clocks differ in speed by this at the most, in both directions: 1 %. With a register, which counts on it, by what it
 * bears: 10 % between two. */
#define CLOCK_DRIFT_PER_MILLION 10000
#define CLOCK_DRIFT_WITH_REGISTER_PER_MILLION 48000
#define MILLION UINT64_C(1000000)

uint64_t sim_node_now(const struct sim *s, unsigned node)
{
    const struct sim_clock *c = &s->node[node].clock;
    return c->local_ns + (s->now_ns - c->world_ns) * c->per_million / MILLION;
}

/* The first moment of the world at which the node's clock shows `local_ns`. */
static uint64_t world_ns(const struct sim_node *n, uint64_t local_ns)
{
    const struct sim_clock *c = &n->clock;
    if (local_ns <= c->local_ns)
        return c->world_ns;
    return c->world_ns + ((local_ns - c->local_ns) * MILLION + c->per_million - 1) / c->per_million;
}

static struct id random_id(struct sim *s)
{
    struct id id;
    for (unsigned i = 0; i < sizeof(id.bytes); i++)
        id.bytes[i] = (uint8_t)sim_below(s, CHANCE_NODE, 256);
    return id;
}

void sim_node_create(struct sim *s, unsigned node)
{
    struct sim_node *n = &s->node[node];
    struct superblock sb = {
        .sequence = 1,
        .backing_bytes = (uint64_t)s->disk[node].block_count * BLOCK_BYTES,
        .leg_id = random_id(s),
        .role = ROLE_SECONDARY,
        .leg = LEG_UP_TO_DATE,
        .pristine = true,
        .granule_bytes = SIM_GRANULE_BYTES,
        .extent_bytes = SIM_EXTENT_BYTES,
    };
    strcpy(sb.volume, SIM_VOLUME);
    strcpy(sb.node, SIM_NODE_NAME(node));
    sim_meta_reset(&n->meta);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        uint8_t block[SUPERBLOCK_BYTES];
        superblock_encode(&sb, i, block);
        sim_meta_put(s, node, SIM_META_SUPERBLOCK, i, block, SIM_META_WHOLE);
    }
    n->meta_has_failed = false;
    n->served_blocks = n->former_blocks = 0;
}

void sim_node_reset(struct sim *s, unsigned node)
{
    struct sim_node *n = &s->node[node];
    sim_node_create(s, node);
    n->index = node;
    n->machine = random_id(s);
    n->up = false;
    n->asks = false;
    n->paused_until_ns = 0;
    n->boot = 0;
    uint64_t drift = s->registered ? CLOCK_DRIFT_WITH_REGISTER_PER_MILLION : CLOCK_DRIFT_PER_MILLION;
    n->clock = (struct sim_clock) {
        .local_ns = sim_below(s, CHANCE_NODE, 1000 * NS_PER_S),
        .per_million = sim_between(s, CHANCE_NODE, MILLION - drift, MILLION + drift),
    };
    n->tells_heard = sim_chance(s, CHANCE_NODE, 500000);
    n->tick_at_ns = UINT64_MAX;
}

void sim_node_superblock(struct sim *s, unsigned node, struct superblock *sb)
{
    struct sim_node *n = &s->node[node];
    if (!sim_meta_superblock_is_new(&n->meta)) {
        *sb = n->superblock_read;
        if (n->superblock_bad)
            COVER(superblock_repaired);
        return;
    }
    uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        /* What cannot be read is as good as damaged. */
        if (sim_meta_read(s, node, SIM_META_SUPERBLOCK, i, blocks[i]))
            memset(blocks[i], 0, sizeof(blocks[i]));
    }
    unsigned good;
    struct err err;
    if (superblock_choose(blocks, sb, &good, &err) < 0)
        sim_fail(s, "superblock", "node %u: %s", node, err.text);
    n->superblock_read = *sb;
    n->superblock_bad = ~good & ((1u << SUPERBLOCK_COPIES) - 1);
    if (n->superblock_bad)
        COVER(superblock_repaired);
}

static const char *const order_names[] = {
    [ORDER_PROMOTE] = "promote",
    [ORDER_PROMOTE_FORCE] = "promote by force",
    [ORDER_DEMOTE] = "demote",
    [ORDER_DEMOTE_FORCE] = "demote by force",
    [ORDER_DETACH] = "detach",
    [ORDER_DETACH_FORCE] = "detach by force",
    [ORDER_VERIFY] = "verify",
    [ORDER_VERIFY_REPAIR] = "verify and repair",
    [ORDER_RESIZE] = "resize",
    [ORDER_RESOLVE] = "resolve",
    [ORDER_RESOLVE_FORCE] = "resolve by force",
    [ORDER_SWITCHOVER] = "switch over",
    [ORDER_ADOPT] = "adopt",
};

static void run(struct sim *s, struct sim_node *n);

static void set_tick(struct sim *s, struct sim_node *n)
{
    uint64_t due = min_u64(session_deadline_ns(n->session), engine_deadline_ns(n->engine));
    if (due == UINT64_MAX)
        return;
    due = max_u64(world_ns(n, due), s->now_ns + 1);
    if (due >= n->tick_at_ns)
        return;
    n->tick_at_ns = due;
    sim_at(s, due, Q_TICK, n->index, 0);
}

/* Before anything else: what lies on disk of the bitmap and the activity log. */
static void load_metadata(struct sim *s, struct sim_node *n)
{
    static uint8_t ring[SIM_META_LOG_PAGES][META_PAGE_BYTES];
    for (uint32_t i = 0; i < engine_page_count(n->engine); i++) {
        uint8_t block[META_PAGE_BYTES];
        int r = sim_meta_read(s, n->index, SIM_META_BITMAP, i, block);
        engine_load_page(n->engine, i, r ? NULL : block);
    }
    for (uint32_t i = 0; i < SIM_META_LOG_PAGES; i++)
        (void)sim_meta_read(s, n->index, SIM_META_ACTIVITY_LOG, i, ring[i]);
    actions_clear(&s->actions);
    engine_load_log(n->engine, ring[0], &s->actions);
    for (uint32_t i = 0; i < s->actions.count; i++) {
        assert(s->actions.list[i].kind == ACT_NOTE);
        sim_trace(s, "%c note    %s: %s", 'A' + n->index, s->actions.list[i].note.topic, s->actions.list[i].note.text);
    }
}

void sim_node_start(struct sim *s, unsigned node)
{
    struct sim_node *n = &s->node[node];
    if (n->up)
        sim_fail(s, "simulator", "node %u is started twice", node);
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    sb.moved_from_bytes = 0; /* what is left there of old superblocks is zeroed before all else */
    if (n->superblock_bad || sb.attached)
        sim_meta_settle_superblocks(s, node);
    engine_attach(&sb, n->machine, true);
    bool cut = sim_plan_cuts_start(s);
    unsigned whole = SUPERBLOCK_COPIES, torn = 0;
    if (cut) {
        whole = (unsigned)sim_below(s, CHANCE_NODE, SUPERBLOCK_COPIES / SUPERBLOCK_COPIES_AT_ONCE) *
                SUPERBLOCK_COPIES_AT_ONCE;
        torn = SUPERBLOCK_COPIES_AT_ONCE;
    }
    superblock_write_order(n->superblock_bad, n->superblock_order);
    for (unsigned i = 0; i < whole + torn; i++) {
        unsigned copy = n->superblock_order[i];
        uint8_t block[SUPERBLOCK_BYTES];
        superblock_encode(&sb, copy, block);
        sim_meta_put(s, node, SIM_META_SUPERBLOCK, copy, block,
                     i < whole ? SIM_META_WHOLE : (unsigned)sim_below(s, CHANCE_NODE, SIM_META_WHOLE + 1));
    }
    if (cut) {
        sim_plan_start_is_cut(s, node);
        return;
    }
    struct engine_config config = {
        .volume = SIM_VOLUME,
        .node = SIM_NODE_NAME(node),
        .peer = SIM_NODE_NAME(1 - node),
        .backing = node == 0 ? "disk-a" : "disk-b",
        .node_index = node,
        .capacity_bytes = sb.backing_bytes,
        .window_frames = s->window_frames,
        .window_bytes = s->window_bytes,
        .superblock = sb,
        .granule_bytes = SIM_GRANULE_BYTES,
        .extent_bytes = SIM_EXTENT_BYTES,
        .log_slots = s->log_slots,
        .log_blocks = SIM_META_LOG_PAGES,
        .resync_window_bytes = SIM_RESYNC_WINDOW_BYTES,
        .unflushed_max = SIM_UNFLUSHED_MAX,
        .age_tick_ns = s->age_tick_ns,
        .alone_after_ns = (s->registered ? !s->reg.suspends : s->goes_alone) ? s->dead_after_ns : ENGINE_NEVER_ALONE,
        .failover = { .has_register = s->registered,
                      .automatic = s->reg.automatic,
                      .dead_after_ns = s->dead_after_ns,
                      .fail_after_ns = s->reg.fail_after_ns },
        .hold_when_deposed = s->seed % 2,
        .seed = sim_below(s, CHANCE_NODE, UINT64_MAX),
        .pool = &n->pool,
        .pool_keep_free_bytes = SIM_POOL_BYTES / 8,
    };
    struct session_config session = {
        .volume = SIM_VOLUME,
        .node = SIM_NODE_NAME(node),
        .peer = SIM_NODE_NAME(1 - node),
        .initiator = node == 0,
        .path_count = 2,
        .dead_after_ns = s->dead_after_ns,
        .retry_min_ns = 2 * NS_PER_MS,
        .retry_max_ns = 200 * NS_PER_MS,
        .refused_retry_ns = 300 * NS_PER_MS,
        .seed = sim_below(s, CHANCE_NODE, UINT64_MAX),
    };
    sim_trouble(s);
    n->up = true;
    n->epoch = sb.epoch;
    n->heard_epoch = 0;
    n->boot++;
    n->asks = false;
    n->serving = n->holds = n->detached = n->superblock_busy = n->stepping = n->moves = false;
    memset(n->orders, 0, sizeof(n->orders));
    n->event_count = 0;
    n->tick_at_ns = UINT64_MAX;
    n->engine = engine_open(&config);
    n->session = session_open(&session);
    if (!n->engine || !n->session)
        abort();
    load_metadata(s, n);
    if (s->plan.stage < STAGE_HEAL && sim_chance(s, CHANCE_NODE, 200000)) {
        for (unsigned i = 0; i < ARRAY_LEN(n->ballast); i++)
            n->ballast[i] = buf_get(&n->pool, SIM_POOL_BYTES >> (i + 1), 0);
    }
    sim_trace(s, "%c node    starts: %s, leg %s, epoch %" PRIu64 "%s", 'A' + node, role_name(sb.role),
              leg_state_name(sb.leg), sb.epoch, sb.attached ? ", after an unclean end" : "");
    sim_node_session(s, node, (struct session_event) { .kind = SV_START });
}

static void end(struct sim *s, struct sim_node *n)
{
    engine_close(n->engine);
    session_close(n->session);
    n->engine = NULL;
    n->session = NULL;
    n->up = n->serving = false;
    n->paused_until_ns = 0;
}

static void drop_ballast(struct sim_node *n)
{
    for (unsigned i = 0; i < ARRAY_LEN(n->ballast); i++) {
        if (n->ballast[i])
            buf_put(n->ballast[i]);
        n->ballast[i] = NULL;
    }
}

void sim_node_drop_ballast(struct sim *s, unsigned node) { drop_ballast(&s->node[node]); }

/* The process is gone, with all that it had. */
static void vanish(struct sim *s, struct sim_node *n, bool silent)
{
    sim_trouble(s);
    sim_net_crash(s, n->index, silent);
    sim_clients_daemon_died(s, n->index);
    end(s, n);
    memset(n->ballast, 0, sizeof(n->ballast));
    /* Its memory goes as it is; only an orderly end has to have given everything back. */
    buf_pool_reset(&n->pool);
}

void sim_node_crash(struct sim *s, unsigned node)
{
    struct sim_node *n = &s->node[node];
    if (!n->up)
        sim_fail(s, "simulator", "node %u is down and crashes", node);
    sim_trace(s, "%c node    is killed", 'A' + node);
    sim_disk_crash(s, node);
    sim_meta_crash(s, node);
    vanish(s, n, sim_chance(s, CHANCE_NET, 300000));
}

void sim_node_power_loss(struct sim *s, unsigned node)
{
    static const unsigned survive[] = { 0, 100000, 500000, 900000, 1000000 };
    struct sim_node *n = &s->node[node];
    unsigned survive_per_million = survive[sim_below(s, CHANCE_NODE, ARRAY_LEN(survive))];
    sim_trace(s, "%c node    loses power", 'A' + node);
    sim_disk_power_loss(s, node, survive_per_million);
    sim_meta_power_loss(s, node, survive_per_million);
    n->machine = random_id(s);
    if (n->up)
        vanish(s, n, true);
}

void sim_node_clock_jump(struct sim *s, unsigned node, uint64_t by_ns)
{
    struct sim_node *n = &s->node[node];
    sim_trace(s, "%c node    its clock goes forward by %" PRIu64 " ms", 'A' + node, by_ns / NS_PER_MS);
    n->clock.local_ns = sim_node_now(s, node) + by_ns;
    n->clock.world_ns = s->now_ns;
    if (n->up)
        set_tick(s, n);
}

/* The engine has said that it is done: what a daemon does next. */
static void finish_detach(struct sim *s, struct sim_node *n)
{
    if (n->serving)
        sim_fail(s, "detach", "node %u is detached and serves", n->index);
    sim_node_session(s, n->index, (struct session_event) { .kind = SV_STOP });
    struct superblock sb;
    sim_node_superblock(s, n->index, &sb);
    if (sb.attached && !n->meta_has_failed)
        sim_fail(s, "detach", "node %u is detached, but its superblock says it is not", n->index);
    if (s->disk[n->index].busy)
        sim_fail(s, "detach", "node %u is detached with %u disk requests in flight", n->index, s->disk[n->index].busy);
    sim_net_crash(s, n->index, false);
    sim_disk_daemon_ends(s, n->index);
    drop_ballast(n);
    if (n->pool.free_bytes != n->pool.arena_bytes)
        sim_fail(s, "buffers", "node %u is detached and keeps %zu bytes of buffers", n->index,
                 n->pool.arena_bytes - n->pool.free_bytes);
    end(s, n);
}

static sim_meta_done_fn superblock_copy_done;

/* Never so many at once that a loss of power could leave no two that agree. */
static void superblock_start(struct sim *s, struct sim_node *n)
{
    n->superblock_left = SUPERBLOCK_COPIES_AT_ONCE;
    for (unsigned left = n->superblock_left; left > 0; left--) {
        unsigned i = n->superblock_order[n->superblock_started++];
        sim_meta_write(s, n->index, SIM_META_SUPERBLOCK, i, n->superblock_blocks[i], superblock_copy_done);
    }
}

static void superblock_copy_done(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t copy,
                                 int32_t copy_result)
{
    (void)area;
    (void)copy;
    struct sim_node *n = &s->node[node];
    n->superblock_good += copy_result == 0;
    if (--n->superblock_left > 0)
        return;
    if (n->superblock_started < SUPERBLOCK_COPIES) {
        superblock_start(s, n);
        return;
    }
    n->superblock_busy = false;
    n->superblock_done_ns = s->now_ns;
    if (n->superblock_good >= SUPERBLOCK_COPIES_TO_WRITE)
        n->epoch = n->superblock_epoch;
    int32_t result = n->superblock_good >= SUPERBLOCK_COPIES_TO_WRITE ? 0 : -EIO;
    if (result) {
        COVER(meta_failed);
        n->meta_has_failed = true;
    }
    sim_trace(s, "%c meta    done: %d", 'A' + node, result);
    sim_node_engine(s, node, (struct event) { .kind = EV_META_DONE, .meta = { .result = result } });
    struct engine_view view = { .leg = LEG_FAILED };
    if (n->up)
        engine_view(n->engine, &view);
    if (result && view.leg != LEG_FAILED)
        sim_fail(s, "superblock", "node %u: it could not be written, and the leg is %s", node,
                 leg_state_name(view.leg));
}

static void superblock_write(struct sim *s, struct sim_node *n, const struct superblock *sb)
{
    if (n->superblock_busy)
        sim_fail(s, "superblock", "node %u: written while a write of it is in flight", n->index);
    n->superblock_busy = true;
    sim_size_on_record(s, n->index, sb);
    n->superblock_started = n->superblock_good = 0;
    n->superblock_epoch = sb->epoch;
    struct superblock before, other;
    sim_node_superblock(s, n->index, &before);
    sim_node_superblock(s, 1 - n->index, &other);
    n->knew_decree[1] = n->knew_decree[0];
    n->knew_decree[0] = other.registered;
    /* (Who is promoted by force does so as a secondary.) */
    if (before.role == ROLE_PRIMARY && before.peer_in_sync && sb->role == ROLE_PRIMARY && !sb->peer_in_sync)
        sim_legs_leaves_behind(s, n->index);
    if (before.leg != LEG_SYNCING && sb->leg == LEG_SYNCING) {
        sim_legs_becomes_target(s, n->index);
        sim_register_becomes_target(s, n->index, n->knew_decree[n->superblock_done_ns == s->now_ns]);
    }
    sim_register_takes_in(s, n->index, &before, sb);
    sim_resolve_on_record(s, n->index, &before, sb);
    sim_trace(s, "%c meta    %s, leg %s, peer leg %s, epoch %" PRIu64 ", sequence %" PRIu64 "%s%s", 'A' + n->index,
              role_name(sb->role), leg_state_name(sb->leg), leg_state_name(sb->peer_leg), sb->epoch, sb->sequence,
              sb->attached ? ", attached" : "", sb->pristine ? ", pristine" : "");
    sim_plan_writes_meta(s, n->index, sb);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        superblock_encode(sb, i, n->superblock_blocks[i]);
    superblock_write_order(n->superblock_bad, n->superblock_order);
    superblock_start(s, n);
}

static void page_done(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t index, int32_t result)
{
    if (result)
        s->node[node].meta_has_failed = true;
    sim_trace(s, "%c meta    page %u of area %d done: %d", 'A' + node, index, (int)area, result);
    sim_node_engine(s, node,
                    (struct event) { .kind = EV_META_PAGE_DONE,
                                     .page = { .area = (enum meta_area)area, .index = index, .result = result } });
}

/* ---- session ---- */

static void push_event(struct sim *s, struct sim_node *n, struct event ev)
{
    if (n->event_count == SIM_EVENTS_MAX)
        sim_fail(s, "simulator", "node %u: too many events at once", n->index);
    uint32_t slot = (n->event_head + n->event_count++) % SIM_EVENTS_MAX;
    ev.now_ns = sim_node_now(s, n->index);
    if (ev.kind == EV_SESSION_DOWN) {
        strncpy(n->event_text[slot], ev.down.reason ? ev.down.reason : "", sizeof(n->event_text[slot]) - 1);
        ev.down.reason = n->event_text[slot];
    }
    n->events[slot] = ev;
}

static void check_session_event(struct sim *s, struct sim_node *n, const struct event *ev, conn_id fed)
{
    switch (ev->kind) {
    case EV_FRAME:
        if (!sim_net_is_open(s, n->index, fed) || session_conn(n->session) != fed)
            sim_fail(s, "old-session", "node %u: a %s of connection %x is applied; the session is on %x", n->index,
                     frame_kind_name(ev->frame.frame.kind), fed, session_conn(n->session));
        if (ev->frame.payload &&
            checksum64(ev->frame.payload->data, ev->frame.frame.payload_bytes) != ev->frame.frame.payload_check)
            sim_fail(s, "payload", "node %u: a damaged payload of %s LSN %" PRIu64 " got past the session", n->index,
                     frame_kind_name(ev->frame.frame.kind), ev->frame.frame.lsn);
        return;
    case EV_SESSION_UP:
        COVER(sessions_up);
        sim_register_session_is_up(s, n->index);
        return;
    case EV_SESSION_DOWN:
        COVER(sessions_down);
        sim_clients_session_lost(s);
        return;
    case EV_HEARD: return;
    case EV_HELLO:
        n->hello_volume = ev->hello->volume_id;
        n->hello_epoch = ev->hello->epoch;
        return;
    case EV_PEER_READY: return;
    case EV_REQUEST:
    case EV_DISK_DONE:
    case EV_META_DONE:
    case EV_META_PAGE_DONE:
    case EV_TICK:
    case EV_VERIFY:
    case EV_RESIZE:
    case EV_GROW_DONE:
    case EV_RESOLVE:
    case EV_KEEP_DONE:
    case EV_PROMOTE:
    case EV_DEMOTE:
    case EV_DETACH:
    case EV_REGISTER:
    case EV_SWITCHOVER:
    case EV_HELD_GONE:
    case EV_ADOPT: break;
    }
    sim_fail(s, "session", "node %u: event %d comes from the session", n->index, (int)ev->kind);
}

static void send_hello(struct sim *s, struct sim_node *n, conn_id conn, struct frame frame)
{
    uint8_t bytes[FRAME_HELLO_BYTES_MAX];
    struct hello hello = { 0 };
    uint8_t nonce[HELLO_NONCE_BYTES];
    for (unsigned i = 0; i < sizeof(nonce); i++)
        nonce[i] = (uint8_t)sim_below(s, CHANCE_NODE, 256);
    engine_hello(n->engine, nonce, &hello);
    sim_age_is_told(s, n->index, hello.age);
    frame.payload_bytes = (uint32_t)hello_encode(&hello, bytes);
    frame.payload_check = checksum64(bytes, frame.payload_bytes);
    sim_net_send(s, n->index, conn, &frame, NULL, bytes);
}

static void step_session(struct sim *s, struct sim_node *n, struct session_event ev)
{
    struct session_actions out;
    conn_id fed = ev.kind == SV_FRAME ? ev.frame.conn : 0;
    ev.now_ns = sim_node_now(s, n->index);
    session_step(n->session, &ev, &out);
    for (unsigned i = 0; i < out.count; i++) {
        const struct session_action *a = &out.list[i];
        switch (a->kind) {
        case SA_CONNECT: sim_net_connect(s, n->index, a->connect.conn, a->connect.path); break;
        case SA_SEND: sim_net_send(s, n->index, a->send.conn, &a->send.frame, a->send.payload, a->send.text); break;
        case SA_SEND_HELLO: send_hello(s, n, a->send.conn, a->send.frame); break;
        case SA_CLOSE: sim_net_close(s, n->index, a->close.conn, a->close.after_sending); break;
        case SA_EVENT:
            if (i + 1 != out.count)
                sim_fail(s, "session", "node %u: an event for the engine is not the last action", n->index);
            check_session_event(s, n, &a->event, fed);
            push_event(s, n, a->event);
            break;
        case SA_NOTE: sim_trace(s, "%c link    %s", 'A' + n->index, a->note.text); break;
        }
    }
    set_tick(s, n);
}

/* An epoch that was seen in a hello is not taken, also where that was refused. */
static void hear_epoch(struct sim *s, struct sim_node *n)
{
    struct superblock sb;
    struct engine_view v;
    sim_node_superblock(s, n->index, &sb);
    bool same = !id_is_none(sb.volume_id) && id_equal(sb.volume_id, n->hello_volume);
    if (same && sim_node_view(s, n->index, &v) && v.role == ROLE_SECONDARY && sim_node_orders(s, n->index) == 0)
        n->heard_epoch = max_u64(n->heard_epoch, n->hello_epoch);
}

static void check_epoch_is_new(struct sim *s, struct sim_node *n)
{
    struct engine_view v;
    engine_view(n->engine, &v);
    /* Others may have read of its own swap before it knew the end. */
    const struct decree *d = &s->reg.back.last;
    bool is_own = s->registered && d->epoch == v.epoch && strcmp(d->primary, SIM_NODE_NAME(n->index)) == 0;
    if (v.epoch < n->heard_epoch || (v.epoch == n->heard_epoch && !is_own))
        sim_fail(s, "epoch", "node %u serves at epoch %" PRIu64 ", and has heard of epoch %" PRIu64, n->index, v.epoch,
                 n->heard_epoch);
    if (n->heard_epoch)
        COVER(epoch_heard);
}

/* ---- engine ---- */

static void serve(struct sim *s, struct sim_node *n, bool on, bool hold, uint64_t size_bytes)
{
    bool before = n->serving;
    sim_trace(s, "%c front   %s", 'A' + n->index, on ? "opens" : hold ? "holds its clients" : "closes");
    if (on)
        sim_size_served(s, n->index, size_bytes);
    if (on && !before) {
        check_epoch_is_new(s, n);
        sim_plan_serves(s, n->index);
        drop_ballast(n);
    }
    n->serving = on;
    n->holds = hold;
}

static void carry_out(struct sim *s, struct sim_node *n, const struct action *a)
{
    unsigned node = n->index;
    switch (a->kind) {
    case ACT_DISK: sim_disk_submit(s, node, a); return;
    case ACT_META_WRITE: superblock_write(s, n, a->meta.superblock); return;
    case ACT_META_PAGE:
        sim_meta_write(s, node, (enum sim_meta_area)a->page.area, a->page.index, a->page.block, page_done);
        return;
    case ACT_SEND:
        step_session(s, n, (struct session_event) { .kind = SV_SEND, .send = { a->send.frame, a->send.payload } });
        if (a->send.payload_is_given)
            buf_put(a->send.payload);
        return;
    case ACT_BUF_PUT: buf_put(a->put.buf); return;
    case ACT_COMPLETE:
        /* To the model one that is never answered is one that failed: it may be there, or not. */
        sim_client_complete(s, node, a->complete.cookie, n->holds ? -EIO : a->complete.result);
        return;
    case ACT_SESSION_READY: step_session(s, n, (struct session_event) { .kind = SV_READY }); return;
    case ACT_SESSION_REFUSE:
        COVER(refused);
        hear_epoch(s, n);
        sim_trace(s, "%c engine  refuses the session: %s", 'A' + node, a->text.text);
        step_session(s, n, (struct session_event) { .kind = SV_REFUSE, .text = { a->text.text } });
        return;
    case ACT_SESSION_DROP:
        sim_trace(s, "%c engine  drops the session: %s", 'A' + node, a->text.text);
        step_session(s, n, (struct session_event) { .kind = SV_DROP, .text = { a->text.text } });
        return;
    case ACT_SERVE: serve(s, n, a->serve.on, a->serve.hold, a->serve.size_bytes); return;
    case ACT_GROW: sim_grow(s, node, a->grow.step); return;
    case ACT_KEEP: sim_keep(s, node, a); return;
    case ACT_REGISTER:
        if (!s->registered)
            sim_fail(s, "register", "node %u asks a register, and has none", node);
        sim_register_ask(s, node, a->ask.request);
        return;
    case ACT_ORDER_DONE: {
        struct sim_order *o = a->order.cookie;
        if (o < n->orders || o >= n->orders + SIM_ORDERS_MAX || !o->busy)
            sim_fail(s, "order", "node %u: an order ends that was not given", node);
        o->busy = false;
        sim_trouble(s);
        sim_trace(s, "%c engine  order to %s ends: %d %s", 'A' + node, order_names[o->what], a->order.result,
                  a->order.text ? a->order.text : "");
        n->detached |= (o->what == ORDER_DETACH || o->what == ORDER_DETACH_FORCE) && a->order.result == 0;
        sim_plan_order_done(s, node, o->what, a->order.result, a->order.text);
        return;
    }
    case ACT_NOTE:
        sim_trace(s, "%c note    %s: %s", 'A' + node, a->note.topic, a->note.text);
        sim_plan_note(s, node, a->note.text);
        return;
    }
}

static void run(struct sim *s, struct sim_node *n)
{
    if (n->stepping)
        return;
    n->stepping = true;
    while (n->event_count > 0) {
        struct event ev = n->events[n->event_head];
        n->event_head = (n->event_head + 1) % SIM_EVENTS_MAX;
        n->event_count--;
        actions_clear(&s->actions);
        engine_step(n->engine, &ev, &s->actions);
        for (uint32_t i = 0; i < s->actions.count; i++)
            carry_out(s, n, &s->actions.list[i]);
    }
    n->stepping = false;
    sim_legs_look(s);
    sim_plan_look(s, n->index);
    if (s->tracing && n->up) {
        struct engine_view v;
        engine_view(n->engine, &v);
        if (v.out_of_sync_bytes != n->traced_dirty_bytes)
            sim_trace(s, "%c bitmap  %" PRIu64 " bytes may differ", 'A' + n->index, v.out_of_sync_bytes);
        n->traced_dirty_bytes = v.out_of_sync_bytes;
    }
    if (n->up)
        set_tick(s, n);
    if (n->detached && n->up) {
        n->detached = false;
        finish_detach(s, n);
    }
}

void sim_node_engine(struct sim *s, unsigned node, struct event ev)
{
    push_event(s, &s->node[node], ev);
    run(s, &s->node[node]);
}

void sim_node_session(struct sim *s, unsigned node, struct session_event ev)
{
    step_session(s, &s->node[node], ev);
    run(s, &s->node[node]);
}

void sim_node_tick(struct sim *s, unsigned node)
{
    struct sim_node *n = &s->node[node];
    if (n->tick_at_ns != s->now_ns)
        return; /* an earlier one took its place */
    n->tick_at_ns = UINT64_MAX;
    if (engine_deadline_ns(n->engine) <= sim_node_now(s, node)) {
        uint32_t boot = n->boot;
        sim_node_engine(s, node, (struct event) { .kind = EV_TICK });
        if (!n->up || n->boot != boot)
            return;
        if (engine_deadline_ns(n->engine) <= sim_node_now(s, node))
            sim_fail(s, "spin", "node %u wants a tick at once, after one", node);
    }
    if (session_deadline_ns(n->session) > sim_node_now(s, node)) {
        set_tick(s, n);
        return;
    }
    uint64_t heard = n->tells_heard ? sim_net_heard_ns(s, node, session_conn(n->session)) : 0;
    sim_node_session(s, node, (struct session_event) { .kind = SV_TICK, .tick = { heard } });
}

unsigned sim_node_orders(const struct sim *s, unsigned node)
{
    unsigned count = 0;
    for (unsigned i = 0; i < SIM_ORDERS_MAX; i++)
        count += s->node[node].orders[i].busy && !order_stands_aside(s->node[node].orders[i].what);
    return count;
}

bool sim_node_resolves(const struct sim *s, unsigned node)
{
    bool any = false;
    for (unsigned i = 0; i < SIM_ORDERS_MAX; i++)
        any |= s->node[node].orders[i].busy && order_resolves(s->node[node].orders[i].what);
    return any;
}

bool sim_node_adopts(const struct sim *s, unsigned node)
{
    bool any = false;
    for (unsigned i = 0; i < SIM_ORDERS_MAX; i++)
        any |= s->node[node].orders[i].busy && s->node[node].orders[i].what == ORDER_ADOPT;
    return any;
}

bool sim_node_verifies(const struct sim *s, unsigned node)
{
    bool any = false;
    for (unsigned i = 0; i < SIM_ORDERS_MAX; i++)
        any |= s->node[node].orders[i].busy && order_verifies(s->node[node].orders[i].what);
    return any;
}

void sim_node_order(struct sim *s, unsigned node, enum order what)
{
    static const enum event_kind kinds[] = {
        [ORDER_PROMOTE] = EV_PROMOTE,     [ORDER_PROMOTE_FORCE] = EV_PROMOTE, [ORDER_DEMOTE] = EV_DEMOTE,
        [ORDER_DEMOTE_FORCE] = EV_DEMOTE, [ORDER_DETACH] = EV_DETACH,         [ORDER_DETACH_FORCE] = EV_DETACH,
        [ORDER_VERIFY] = EV_VERIFY,       [ORDER_VERIFY_REPAIR] = EV_VERIFY,  [ORDER_RESIZE] = EV_RESIZE,
        [ORDER_RESOLVE] = EV_RESOLVE,     [ORDER_RESOLVE_FORCE] = EV_RESOLVE, [ORDER_SWITCHOVER] = EV_SWITCHOVER,
        [ORDER_ADOPT] = EV_ADOPT,
    };
    struct sim_order *o = s->node[node].orders;
    while (o->busy)
        o++;
    if (o >= s->node[node].orders + SIM_ORDERS_MAX)
        sim_fail(s, "simulator", "node %u gets too many orders at once", node);
    *o = (struct sim_order) { .busy = true, .what = what };
    sim_trouble(s);
    sim_trace(s, "%c order   to %s", 'A' + node, order_names[what]);
    bool force = what == ORDER_PROMOTE_FORCE || what == ORDER_DEMOTE_FORCE || what == ORDER_DETACH_FORCE ||
                 what == ORDER_VERIFY_REPAIR || what == ORDER_RESOLVE_FORCE;
    sim_node_engine(s, node, (struct event) { .kind = kinds[what], .order = { .force = force, .cookie = o } });
}
