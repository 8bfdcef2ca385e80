/* A split brain that a person ends without making a leg anew: what is given up is kept first. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "tests/sim/plan.h"

#define SHELL_MIN_NS (20 * NS_PER_US)
#define SHELL_MAX_NS (4 * NS_PER_MS)

/* ---- the shell: a file, on a disk of its own ---- */

static void keep_pieces(struct sim *s, unsigned node, const struct action *a)
{
    struct sim_keep *k = &s->node[node].keep;
    for (uint32_t i = 0; i < a->keep.count; i++) {
        const struct keep_piece *p = &a->keep.pieces[i];
        if (!range_fits(p->range, (uint64_t)s->disk[node].block_count * BLOCK_BYTES))
            sim_fail(s, "kept", "node %u keeps what its disk does not have", node);
        for (uint64_t at = 0; at < p->range.length_bytes; at += BLOCK_BYTES) {
            uint32_t block = (uint32_t)((p->range.offset_bytes + at) / BLOCK_BYTES);
            if (k->state[block])
                sim_fail(s, "kept", "node %u keeps block %u twice", node, block);
            k->state[block] = p->kind == KEEP_KIND_DATA ? SIM_KEPT : SIM_KEPT_UNREADABLE;
            if (p->kind == KEEP_KIND_DATA)
                memcpy(k->data + (size_t)block * BLOCK_BYTES, a->keep.buf->data + p->buf_offset_bytes + at,
                       BLOCK_BYTES);
        }
    }
}

void sim_keep(struct sim *s, unsigned node, const struct action *a)
{
    struct sim_keep *k = &s->node[node].keep;
    int32_t result = chance(s, 30000) && a->keep.step != KEEP_DROP ? -ENOSPC : 0;
    if (a->keep.step == KEEP_BEGIN || a->keep.step == KEEP_DROP)
        memset(k, 0, sizeof(*k));
    else if (!k->open)
        sim_fail(s, "kept", "node %u: step %d, and there is no file", node, (int)a->keep.step);
    if (a->keep.step == KEEP_DATA && !result)
        keep_pieces(s, node, a);
    k->open =
        (a->keep.step == KEEP_BEGIN && !result) || a->keep.step == KEEP_DATA || (a->keep.step == KEEP_END && result);
    k->whole = a->keep.step == KEEP_END && !result;
    k->result = result;
    sim_trace(s, "%c keep    step %d: %d", 'A' + node, (int)a->keep.step, result);
    sim_at(s, s->now_ns + sim_between(s, CHANCE_NODE, SHELL_MIN_NS, SHELL_MAX_NS), Q_KEEP, node, 0);
}

void sim_keep_event(struct sim *s, unsigned node)
{
    int32_t result = s->node[node].keep.result;
    sim_node_engine(s, node,
                    (struct event) { .kind = EV_KEEP_DONE,
                                     .keep = { .result = result, .reason = result ? "there is no room" : NULL } });
}

/* ---- what must hold ---- */

/* A block that shows what this node has acknowledged on its own, and that nobody else has. (The model counts that as
 * given up since the person decided.) */
static void check_block(struct sim *s, unsigned node, uint32_t block, uint64_t since)
{
    const struct sim_keep *k = &s->node[node].keep;
    const uint8_t *there = sim_block(s->disk[node].data.content, block);
    uint8_t written[BLOCK_BYTES];
    for (uint32_t w = 1; w < s->model.write_count; w++) {
        const struct model_write *write = &s->model.writes[w];
        if (write->zero || write->owner != node || write->begin < since || !write->given_up || block < write->first ||
            block >= write->first + write->count)
            continue;
        model_fill(w, block, written);
        if (memcmp(there, written, BLOCK_BYTES) != 0)
            continue;
        /* Nobody could. */
        if (k->state[block] == SIM_KEPT_UNREADABLE && !medium_is_readable(&s->disk[node].data, block, 1))
            return;
        if (k->state[block] != SIM_KEPT || memcmp(k->data + (size_t)block * BLOCK_BYTES, there, BLOCK_BYTES) != 0)
            sim_fail(s, "kept", "node %u gives up block %u, which has what it acknowledged on its own, and %s", node,
                     block, k->state[block] ? "has kept something else" : "has not kept it");
        COVER(kept);
        return;
    }
}

/* Zeroes; or what this write put there. */
static bool shows(struct sim *s, const uint8_t *data, uint32_t w, uint32_t block)
{
    const struct model_write *write = &s->model.writes[w];
    if (block < write->first || block >= write->first + write->count)
        return false;
    uint8_t written[BLOCK_BYTES] = { 0 };
    if (!write->zero)
        model_fill(w, block, written);
    return memcmp(data, written, BLOCK_BYTES) == 0;
}

static bool is_spoilt(const struct medium *m, uint32_t block)
{
    return m->has_flaws && (sector_bit(m->damaged, block) || sector_bit(m->unreadable, block));
}

/* Where the two legs differ, the kept one's content comes in the place of this one's. The latter is in the file, or is
 * what the kept leg's node has written over since. (What a disk has spoilt, or a client has not been told is written,
 * may go.) */
static void check_difference(struct sim *s, unsigned node, uint32_t block)
{
    const struct medium *own = &s->disk[node].data, *other = &s->disk[1 - node].data;
    const uint8_t *there = sim_block(own->content, block), *theirs = sim_block(other->content, block);
    static const uint8_t zeroes[BLOCK_BYTES];
    if (s->node[node].keep.state[block] || is_spoilt(own, block) || is_spoilt(other, block) ||
        memcmp(there, theirs, BLOCK_BYTES) == 0 || memcmp(there, zeroes, BLOCK_BYTES) == 0)
        return;
    for (uint32_t w = s->model.write_count; w-- > 1;) {
        if (shows(s, theirs, w, block) && s->model.writes[w].owner == 1 - node)
            return;
        if (shows(s, there, w, block))
            sim_fail(s, "kept", "node %u gives up block %u, which has write %u, the other leg has not, and no file has",
                     node, block, w);
    }
}

void sim_resolve_on_record(struct sim *s, unsigned node, const struct superblock *before, const struct superblock *sb)
{
    bool given_up = sb->leg == LEG_SYNCING && s->plan.resolves && node == s->plan.resolved &&
                    (before->leg != LEG_SYNCING || sb->history.count < before->history.count);
    if (!given_up)
        return;
    if (!s->node[node].keep.whole && s->plan.keeps_something)
        sim_fail(s, "kept", "node %u gives up what it has, before it is kept", node);
    COVER(given_up);
    for (uint32_t b = 0; b < s->block_count && s->plan.alone_since != MODEL_NEVER; b++)
        check_block(s, node, b, s->plan.alone_since);
    for (uint32_t b = 0; b < s->block_count; b++)
        check_difference(s, node, b);
}

/* ---- the person ---- */

bool plan_can_resolve(struct sim *s, unsigned node)
{
    struct engine_view v, other;
    return sim_node_view(s, node, &v) && sim_node_view(s, 1 - node, &other) && v.apart.rule && v.leg != LEG_FAILED &&
           other.leg == LEG_UP_TO_DATE;
}

void plan_resolve(struct sim *s, unsigned node)
{
    const struct sim_legs *l = &s->legs;
    COVER(resolves);
    s->plan.resolves = true;
    s->plan.resolved = node;
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    s->plan.was_half = sb.leg == LEG_SYNCING;
    /* What it acknowledges from then on, the other one has not, unless it got some of it in a resync: before it was
     * forced, or one that came to its end. */
    bool has_none = l->split && l->alone[node] && l->behind[1 - node] && !s->plan.half_forced[1 - node];
    s->plan.alone_since = has_none ? max_u64(l->since[1 - node], l->taken_in[1 - node]) : MODEL_NEVER;
}

/* Until the leg is given up on its disk: as often as it takes. */
void plan_resolve_on(struct sim *s)
{
    unsigned node = s->plan.resolved;
    struct engine_view v;
    struct superblock sb;
    if (!s->plan.resolves)
        return;
    sim_node_superblock(s, node, &sb);
    if (sb.leg == LEG_SYNCING && !s->plan.was_half) {
        s->plan.resolves = false;
        return;
    }
    if (!sim_node_view(s, node, &v) || sim_node_orders(s, node) > 0 || sim_node_resolves(s, node))
        return;
    if (v.role == ROLE_PRIMARY) {
        plan_order(s, node, ORDER_DEMOTE_FORCE);
        return;
    }
    if (!v.apart.rule)
        return;
    s->plan.keeps_something = v.out_of_sync_bytes > 0 || !v.apart.own.changed_known || !v.apart.peer.changed_known;
    sim_node_order(s, node, s->plan.resolves_by_force ? ORDER_RESOLVE_FORCE : ORDER_RESOLVE);
    if (chance(s, 300000))
        sim_at(s, now_plus(s, draw(s, 1, 400 * NS_PER_MS)), Q_CRASH, node, CUT_RESOLVE);
}

void plan_resolve_done(struct sim *s, unsigned node, int32_t result)
{
    if (result)
        COVER(resolve_broken);
    else
        COVER(resolved);
    /* Some of it cannot be read, and never will be. */
    s->plan.resolves_by_force |= result == -EIO;
    if (!result && node == s->plan.resolved)
        s->plan.resolves = false;
}
