/* The volume grows: its backings, what the shell does for a leg that gets room, and what must hold of all sizes. Where
 * the metadata lies is not simulated: it stays in its place, but for its former one, which becomes data. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "tests/sim/plan.h"

#define SHELL_MIN_NS (20 * NS_PER_US)
#define SHELL_MAX_NS (4 * NS_PER_MS)

static uint64_t bytes_of(uint32_t blocks) { return (uint64_t)blocks * BLOCK_BYTES; }

/* ---- the shell ---- */

void sim_grow(struct sim *s, unsigned node, enum grow_step step)
{
    struct sim_node *n = &s->node[node];
    sim_trace(s, "%c grow    %s", 'A' + node, step == GROW_LOOK ? "looks" : "moves");
    if (step == GROW_MOVE && (n->superblock_busy || n->meta.busy > 0))
        sim_fail(s, "grow", "node %u: the metadata moves while it is being written", node);
    n->moves = step == GROW_MOVE;
    sim_at(s, s->now_ns + sim_between(s, CHANCE_NODE, SHELL_MIN_NS, SHELL_MAX_NS), Q_GROW, node, step);
}

void sim_grow_event(struct sim *s, unsigned node, enum grow_step step)
{
    struct sim_node *n = &s->node[node];
    const struct sim_disk *d = &s->disk[node];
    struct event ev = { .kind = EV_GROW_DONE, .grow = { .step = step } };
    n->moves = false;
    if (sim_chance(s, CHANCE_NODE, n->meta.error_per_million)) {
        ev.grow.result = -EIO;
    } else if (step == GROW_LOOK) {
        struct superblock sb;
        sim_node_superblock(s, node, &sb);
        struct grow_plan *p = &ev.grow.plan;
        p->data_bytes = p->backing_bytes = bytes_of(d->block_count);
        p->move = p->data_bytes > sb.backing_bytes;
        if (p->move && n->former_blocks)
            p->former = (struct range) { sb.backing_bytes,
                                         min_u64(bytes_of(n->former_blocks), p->data_bytes - sb.backing_bytes) };
    }
    sim_node_engine(s, node, ev);
}

/* ---- what must hold ---- */

static bool is_zero(const struct sim *s, unsigned node, uint64_t from_bytes, uint64_t to_bytes)
{
    static const uint8_t zeroes[BLOCK_BYTES];
    const struct medium *m = &s->disk[node].data;
    for (uint32_t b = (uint32_t)(from_bytes / BLOCK_BYTES); b < to_bytes / BLOCK_BYTES; b++) {
        if (sector_bit(m->damaged, b) || sector_bit(m->stable_damaged, b))
            continue;
        if (memcmp(sim_block(m->content, b), zeroes, BLOCK_BYTES) != 0 ||
            memcmp(sim_block(m->stable, b), zeroes, BLOCK_BYTES) != 0)
            return false;
    }
    return true;
}

/* A volume of this size is on this leg, or can be, by what is on its disk. */
static bool has_room(struct sim *s, unsigned node, uint64_t bytes)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    return s->legs.blank[node] || max_u64(sb.size_bytes, sb.room_bytes) >= bytes;
}

void sim_size_on_record(struct sim *s, unsigned node, const struct superblock *sb)
{
    struct superblock old;
    sim_node_superblock(s, node, &old);
    if (!old.size_bytes)
        return;
    if (sb->size_bytes < old.size_bytes)
        sim_fail(s, "size", "node %u: the volume shrinks from %" PRIu64 " to %" PRIu64 " bytes", node, old.size_bytes,
                 sb->size_bytes);
    if (sb->size_bytes > old.size_bytes && !has_room(s, 1 - node, sb->size_bytes))
        sim_fail(s, "size", "node %u takes %" PRIu64 " bytes, for which node %u has no room on record", node,
                 sb->size_bytes, 1 - node);
    uint64_t from = max_u64(old.size_bytes, old.room_bytes);
    if (sb->room_bytes > from && !is_zero(s, node, from, sb->room_bytes))
        sim_fail(s, "room", "node %u has room for %" PRIu64 " bytes, which are not all zeroes on stable storage", node,
                 sb->room_bytes);
}

void sim_size_served(struct sim *s, unsigned node, uint64_t bytes)
{
    struct sim_node *n = &s->node[node];
    uint32_t blocks = (uint32_t)(bytes / BLOCK_BYTES);
    if (blocks < n->served_blocks)
        sim_fail(s, "size", "node %u serves %u blocks, after %u", node, blocks, n->served_blocks);
    n->served_blocks = blocks;
    if (blocks <= s->block_count)
        return;
    COVER(grown);
    /* Apart, what only this leg has taken may be served: the other one has room. */
    struct engine_view v;
    struct superblock theirs;
    sim_node_superblock(s, 1 - node, &theirs);
    if (sim_node_view(s, node, &v) && v.session_up && !s->legs.blank[1 - node] && theirs.size_bytes < bytes)
        sim_fail(s, "size", "node %u serves %u blocks, which the other one has not on record", node, blocks);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (!has_room(s, i, bytes))
            sim_fail(s, "size", "node %u serves %u blocks, for which node %u has no room", node, blocks, i);
        if (!s->legs.blank[i] && !s->legs.split && !is_zero(s, i, bytes_of(s->block_count), bytes))
            sim_fail(s, "room", "node %u serves %u blocks, and leg %c has something in the new ones", node, blocks,
                     'A' + i);
    }
    sim_trace(s, "  plan    the volume has %u blocks now", blocks);
    model_grow(&s->model, blocks);
    s->block_count = blocks;
}

void plan_sizes_agree(struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct superblock sb;
        struct engine_view v;
        sim_node_superblock(s, i, &sb);
        if (sim_node_view(s, i, &v) && (v.size_bytes != bytes_of(s->block_count) || sb.size_bytes != v.size_bytes))
            sim_fail(s, "size", "node %u: the volume has %u blocks, and %" PRIu64 " bytes here (on disk: %" PRIu64 ")",
                     i, s->block_count, v.size_bytes, sb.size_bytes);
    }
}

/* ---- the operators ---- */

static void grow_backing(struct sim *s, unsigned node)
{
    uint32_t more = s->plan.grow_to - s->disk[node].block_count;
    if (more == 0)
        return;
    s->node[node].former_blocks = chance(s, 500000) ? (uint32_t)draw(s, 1, more) : 0;
    sim_disk_grow(s, node, s->plan.grow_to);
}

static bool is_resizing(const struct sim *s, unsigned node)
{
    for (unsigned i = 0; i < SIM_ORDERS_MAX; i++) {
        if (s->node[node].orders[i].busy && s->node[node].orders[i].what == ORDER_RESIZE)
            return true;
    }
    return false;
}

void plan_resize(struct sim *s, unsigned p)
{
    if (s->plan.grow_to == 0) {
        if (s->block_count == MODEL_BLOCKS_MAX)
            return;
        s->plan.grow_to = (uint32_t)draw(s, s->block_count + 1, MODEL_BLOCKS_MAX);
    }
    unsigned only = (unsigned)draw(s, 0, SIM_NODES - 1);
    bool one = chance(s, 200000);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (!one || i == only)
            grow_backing(s, i);
    }
    unsigned node = chance(s, 950000) ? p : 1 - p;
    if (!s->node[node].up || is_resizing(s, node))
        return;
    sim_node_order(s, node, ORDER_RESIZE);
    if (chance(s, 400000))
        return;
    static const enum cut cuts[] = { CUT_SESSION, CUT_SESSION, CUT_DAEMON, CUT_NODE, CUT_REPLACE };
    unsigned how = (unsigned)draw(s, 0, ARRAY_LEN(cuts) - 1);
    unsigned whom = cuts[how] == CUT_NODE ? p : 1 - p;
    if (cuts[how] == CUT_REPLACE && !has(s, STRIKE_REPLACE))
        return;
    COVER(resize_cut);
    sim_at(s, now_plus(s, draw(s, 1, 20 * NS_PER_MS)), Q_CRASH, whom, cuts[how]);
}

void plan_resize_done(struct sim *s, unsigned node, int32_t result)
{
    struct superblock sb;
    if (result) {
        COVER(resize_refused);
        return;
    }
    COVER(resized);
    sim_node_superblock(s, node, &sb);
    if (!has_room(s, 1 - node, sb.size_bytes))
        sim_fail(s, "size", "node %u: resized to %" PRIu64 " bytes, for which the other has no room", node,
                 sb.size_bytes);
}

bool plan_resizes_to_the_end(struct sim *s)
{
    int node = sim_primary(s);
    if (s->plan.grow_to == 0 || node < 0)
        return false;
    for (unsigned i = 0; i < SIM_NODES; i++)
        grow_backing(s, i);
    if (s->block_count < s->plan.grow_to) {
        if (!is_resizing(s, (unsigned)node))
            sim_node_order(s, (unsigned)node, ORDER_RESIZE);
        return true;
    }
    if (!s->plan.wrote_to_the_end)
        s->plan.wrote_to_the_end = sim_client_submit(s, 0, (unsigned)node, OP_WRITE, 0, s->block_count - 1, 1);
    return s->clients.in_flight > 0;
}
