/* The course of a run: it sets the volume up, loads it while faults strike and operators give orders, then heals
 * everything and demands that all comes to a good end. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

#define POLL_NS (5 * NS_PER_MS)
#define LOAD_MAX_NS (3 * NS_PER_S)
#define SETUP_MAX_NS (10 * NS_PER_S)
#define HEAL_MAX_NS (20 * NS_PER_S) /* simulated: in which all must be well again once nothing goes wrong any more */
#define READ_BACK_BLOCKS 32

enum strike {
    STRIKE_BREAK,
    STRIKE_STALL,
    STRIKE_PARTITION,
    STRIKE_STRANGER,
    STRIKE_PATH,
    STRIKE_DISK_STALL,
    STRIKE_SECONDARY_CRASH,
    STRIKE_SECONDARY_DETACH,
    STRIKE_DEMOTE,
    STRIKE_PROMOTE_SECONDARY,
    STRIKE_PROMOTE_BOTH,
    STRIKE_PRIMARY_DETACH,
    STRIKE_CLOCK,
    STRIKE_META_DAMAGE,
    STRIKE_LATENT_ERROR,
    STRIKE_VERIFY,
    STRIKE_RESYNC_BREAK, /* see sim_plan_sends() */
    STRIKE_RECOVERABLE,  /* those above: the volume is in sync again afterwards */
    STRIKE_DISK_ERRORS = STRIKE_RECOVERABLE,
    STRIKE_DISKLESS, /* the primary's disk fails; then cuts and orders at the worst moments */
    STRIKE_META_ERRORS,
    STRIKE_PRIMARY_CRASH,
    STRIKE_PROMOTE_FORCE,
    STRIKE_DEMOTE_FORCE,
    STRIKE_TAKEOVER,
    STRIKE_POWER,
    STRIKE_POWER_BOTH,
    STRIKE_SILENT_DAMAGE, /* the last: not drawn unless VERIFY_EXISTS */
    STRIKES,
};

#define STRIKES_DRAWN (VERIFY_EXISTS ? STRIKES : STRIKE_SILENT_DAMAGE)

static bool has(const struct sim *s, enum strike k) { return s->plan.kinds >> k & 1; }

static uint64_t now_plus(const struct sim *s, uint64_t ns) { return s->now_ns + ns; }

static uint64_t draw(struct sim *s, uint64_t low, uint64_t high) { return sim_between(s, CHANCE_PLAN, low, high); }

static bool chance(struct sim *s, unsigned per_million) { return sim_chance(s, CHANCE_PLAN, per_million); }

static unsigned rate(struct sim *s, unsigned per_run, unsigned max)
{
    return chance(s, per_run) ? (unsigned)draw(s, 1, max) : 0;
}

static void network_faults(struct sim *s)
{
    s->net.faults = (struct sim_net_faults) {
        .connect_fail_per_million = rate(s, 300000, 500000),
        .connect_hang_per_million = rate(s, 200000, 200000),
        .break_per_million = rate(s, 400000, 10000),
        .drop_per_million = rate(s, 300000, 5000),
        .corrupt_payload_per_million = rate(s, 300000, 10000),
        .corrupt_header_per_million = rate(s, 300000, 5000),
        .slow_per_million = rate(s, 300000, 30000),
        .stale_per_million = rate(s, 500000, 1000000),
    };
}

void sim_plan_reset(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    *p = (struct sim_plan) { .home = (unsigned)draw(s, 0, 1), .gap_max_ns = draw(s, 1, 60) * NS_PER_MS };
    bool calm = chance(s, 100000);
    if (!calm) {
        for (unsigned k = 0; k < STRIKE_RECOVERABLE; k++)
            p->kinds |= (uint32_t)chance(s, 250000) << k;
        /* At most one of those that end the service, so that each is seen alone. */
        if (chance(s, 350000))
            p->kinds |= 1u << draw(s, STRIKE_RECOVERABLE, STRIKES_DRAWN - 1);
        if (chance(s, 600000))
            network_faults(s);
    }
    p->mends = chance(s, 700000);
    bool loses_power = has(s, STRIKE_POWER) || has(s, STRIKE_POWER_BOTH) || has(s, STRIKE_DISKLESS);
    /* One copy of the superblock may be spoilt, and a write of it fail on any; but where power cuts a write, which
     * tears two, one more is more than four copies can bear. */
    if (loses_power)
        p->kinds &= ~(1u << STRIKE_META_DAMAGE);
    for (unsigned i = 0; i < SIM_NODES; i++)
        s->disk[i].faults.slow_per_million = rate(s, 400000, 50000);
    for (unsigned i = 0; i < SIM_NODES; i++)
        sim_at(s, now_plus(s, 1 + draw(s, 0, 30 * NS_PER_MS)), Q_START, i, 0);
    p->deadline_ns = now_plus(s, SETUP_MAX_NS);
    sim_at(s, now_plus(s, POLL_NS), Q_PLAN, 0, 0);
}

/* ---- looking ---- */

bool sim_node_view(const struct sim *s, unsigned node, struct engine_view *v)
{
    if (!s->node[node].up)
        return false;
    engine_view(s->node[node].engine, v);
    return true;
}

int sim_primary(const struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (s->node[i].up && s->node[i].serving)
            return (int)i;
    }
    return -1;
}

static bool link_is_down(const struct sim *s, unsigned node)
{
    struct engine_view v;
    return !sim_node_view(s, node, &v) || !v.session_up;
}

static bool is_diskless(const struct sim *s, unsigned node)
{
    struct engine_view v;
    return sim_node_view(s, node, &v) && v.diskless_epoch;
}

/* ---- orders ---- */

/* Is the other node primary, or was it when it died, or does it still have changes of its own? */
static bool other_leads(struct sim *s, unsigned node)
{
    struct engine_view other;
    struct superblock sb;
    if (sim_node_view(s, 1 - node, &other))
        return other.role == ROLE_PRIMARY || other.writes_waiting > 0;
    sim_node_superblock(s, 1 - node, &sb);
    return sb.attached && sb.role == ROLE_PRIMARY;
}

/* What only force overcomes. */
static bool has_obstacle(struct sim *s, unsigned node)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    return sb.lost_power || sb.leg != LEG_UP_TO_DATE;
}

static bool order(struct sim *s, unsigned node, enum order what)
{
    struct engine_view v;
    /* One at a time; but force may come to the help of one that waits. */
    bool force = what == ORDER_PROMOTE_FORCE || what == ORDER_DEMOTE_FORCE || what == ORDER_DETACH_FORCE;
    if (!sim_node_view(s, node, &v) || sim_node_orders(s, node) > (force ? 1 : 0))
        return false;
    bool promotes = what == ORDER_PROMOTE || what == ORDER_PROMOTE_FORCE;
    struct engine_view other;
    bool connected = v.session_up && sim_node_view(s, 1 - node, &other) && other.session_up;
    /* Seldom is a node promoted although the operator knows that the other one went on without it. */
    if (promotes && !connected && s->legs.alone[1 - node] && !s->legs.split && !chance(s, 100000))
        return false;
    if (promotes && sim_node_orders(s, node) == 0) {
        s->plan.asked[node] = connected && v.role == ROLE_SECONDARY && other_leads(s, node);
        s->plan.forces[node] = what == ORDER_PROMOTE_FORCE;
        s->plan.obstacle[node] = has_obstacle(s, node);
        s->plan.half[node] = v.leg == LEG_SYNCING;
    }
    if (what == ORDER_PROMOTE_FORCE) /* the other is made from it then */
        sim_disk_stop_lying(s, node);
    sim_node_order(s, node, what);
    return true;
}

/* Without a witness, an operator may promote a node that cannot see the other, so that two may serve. One will be
 * deposed, and what waited there is lost; or both go on alone, and that is a split brain. Connected, there is one
 * primary. */
void sim_plan_serves(struct sim *s, unsigned node)
{
    struct engine_view v;
    sim_legs_serves(s, node);
    s->served_at[node] = s->model.clock;
    if (link_is_down(s, node) && !s->legs.split && !s->legs.behind[node]) {
        COVER(survivor_checked);
        sim_audit(s);
    }
    if (!sim_node_view(s, node, &v) || !other_leads(s, node))
        return;
    struct engine_view other;
    if (v.session_up && sim_node_view(s, 1 - node, &other) && other.session_up)
        sim_fail(s, "two-primaries", "node %u begins to serve, connected to the other, which is primary", node);
    if (s->plan.asked[node])
        sim_fail(s, "two-primaries", "node %u was told to promote while it was connected to a primary, and serves",
                 node);
    COVER(two_primaries);
}

static void verify_done(struct sim *s, unsigned node, int32_t result, const char *text);

void sim_plan_order_done(struct sim *s, unsigned node, enum order what, int32_t result, const char *text)
{
    /* What the peer has not flushed is marked when a primary ends without it. */
    s->plan.resync.known &= what == ORDER_PROMOTE || what == ORDER_PROMOTE_FORCE || order_verifies(what);
    s->plan.resync.known &= result != -EILSEQ;
    if (node != s->plan.home && s->plan.stage == STAGE_SETUP)
        sim_fail(s, "simulator", "node %u ends an order that it was not given", node);
    if (result < 0 && (!text || !*text))
        sim_fail(s, "order", "node %u: order %d is refused with %d and without a reason", node, (int)what, result);
    switch (what) {
    case ORDER_PROMOTE:
        if (result < 0) {
            COVER(promote_refused);
            return;
        }
        COVER(promoted);
        struct engine_view other;
        if (s->legs.alone[node] && sim_node_view(s, 1 - node, &other) && other.leg == LEG_FAILED)
            COVER(diskless_swapped);
        s->plan.detaches_primary[node] = false;
        if (node != s->plan.home) {
            COVER(role_swapped);
            s->plan.home = node;
        }
        return;
    case ORDER_PROMOTE_FORCE:
        if (result < 0) {
            COVER(promote_refused);
            return;
        }
        COVER(promoted_force);
        s->plan.forced[node] = true;
        if (s->plan.half[node])
            COVER(promoted_half);
        s->plan.home = node;
        return;
    case ORDER_DEMOTE:
    case ORDER_DEMOTE_FORCE:
        if (result == 0)
            COVER(demoted);
        return;
    case ORDER_DETACH:
    case ORDER_DETACH_FORCE:
        if (result == 0 && what == ORDER_DETACH && s->plan.detaches_primary[node])
            COVER(primary_detach);
        if (result == 0 && s->plan.stage == STAGE_LOAD)
            sim_at(s, now_plus(s, draw(s, 1, 50) * NS_PER_MS), Q_START, node, 0);
        return;
    case ORDER_VERIFY:
    case ORDER_VERIFY_REPAIR: verify_done(s, node, result, text); return;
    }
}

/* ---- what strikes ---- */

static void crash(struct sim *s, unsigned node)
{
    sim_node_crash(s, node);
    sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, node, 0);
}

/* These machines lose power at one instant. */
static void power_loss(struct sim *s, const bool cut[SIM_NODES])
{
    bool lost[SIM_NODES] = { false };
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (!cut[i])
            continue;
        struct superblock sb;
        sim_node_power_loss(s, i);
        sim_node_superblock(s, i, &sb);
        lost[i] = sb.attached; /* else everything was flushed before */
    }
    sim_legs_power_lost(s, lost);
    sim_disks_stop_lying(s);
}

static void power_of(struct sim *s, const bool cut[SIM_NODES])
{
    if (s->plan.stage != STAGE_LOAD)
        return;
    power_loss(s, cut);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        /* Back soon, or when all is healed. */
        if (cut[i] && chance(s, 800000))
            sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, i, 0);
    }
}

static void cut_power_of(struct sim *s, unsigned node)
{
    COVER(diskless_power);
    power_loss(s, (bool[SIM_NODES]) { node == 0, node == 1 });
    sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, node, 0);
}

static void strike_power(struct sim *s, bool both)
{
    int serving = sim_primary(s);
    unsigned node = (unsigned)draw(s, 0, 1);
    bool cut[SIM_NODES] = { both || node == 0, both || node == 1 };
    if (s->plan.stage != STAGE_LOAD)
        return;
    if (both && sim_resyncs(s))
        COVER(resync_power_both);
    if (both)
        COVER(power_both);
    else if (serving == (int)node)
        COVER(power_primary);
    else
        COVER(power_secondary);
    power_of(s, cut);
}

/* A daemon may die in the middle of a superblock, and a machine, too. */
void sim_plan_writes_meta(struct sim *s, unsigned node, const struct superblock *sb)
{
    bool is_secondary = !s->node[node].serving && sb->role == ROLE_SECONDARY && sb->attached;
    if (s->plan.stage != STAGE_LOAD)
        return;
    if (has(s, STRIKE_SECONDARY_CRASH) && is_secondary && chance(s, 100000))
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_CRASH, node, CUT_DAEMON);
    if (has(s, STRIKE_POWER) && chance(s, 300000))
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_CRASH, node, CUT_POWER);
    /* The record that the primary's leg is out. */
    if (has(s, STRIKE_DISKLESS) && is_secondary && is_diskless(s, 1 - node) && chance(s, 300000)) {
        COVER(diskless_cut_peer);
        unsigned cut = chance(s, 600000) ? node : 1 - node;
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_CRASH, cut,
               cut == node && chance(s, 200000) ? CUT_POWER_OF : CUT_NODE);
    }
}

/* The moments after a flush are those in which most could be lost that must not be. */
void sim_plan_flushed(struct sim *s)
{
    if (s->plan.stage == STAGE_LOAD && has(s, STRIKE_POWER_BOTH) && chance(s, 20000))
        sim_at(s, now_plus(s, draw(s, 1, NS_PER_MS)), Q_CRASH, 0, CUT_POWER_BOTH);
}

bool sim_resyncs(const struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (s->node[i].up && engine_resync_view(s->node[i].engine).active)
            return true;
    }
    return false;
}

static void cut_soon(struct sim *s, unsigned node, enum cut how)
{
    sim_at(s, now_plus(s, draw(s, 1, NS_PER_MS)), Q_CRASH, node, how);
}

/* Each frame of a resync is a moment in which something may end. */
void sim_plan_sends(struct sim *s, unsigned from, const struct frame *frame)
{
    bool taken = frame->kind == FRAME_DECREE && (frame->flags & FRAME_FLAG_TAKEN);
    bool of_resync = taken || (frame->kind >= FRAME_SYNC_BITS && frame->kind <= FRAME_SYNC_DONE);
    if (!of_resync || s->plan.stage != STAGE_LOAD)
        return;
    if (frame->kind == FRAME_SYNC_DONE && s->clients.changes_in_flight > 0)
        COVER(finish_raced);
    bool rare = taken || frame->kind == FRAME_SYNC_DONE;
    unsigned target = frame->kind == FRAME_SYNC_DATA || taken ? 1 - from : from;
    if (has(s, STRIKE_RESYNC_BREAK) && chance(s, rare ? 400000 : 100000)) {
        cut_soon(s, from, CUT_SESSION);
        if (taken)
            COVER(break_taken);
        else if (frame->kind == FRAME_SYNC_BITS)
            COVER(break_bits);
        else if (frame->kind == FRAME_SYNC_ASK)
            COVER(break_ask);
        else if (frame->kind == FRAME_SYNC_DATA)
            COVER(break_data);
        else if (frame->kind == FRAME_SYNC_STABLE)
            COVER(break_stable);
        else
            COVER(break_done);
    }
    if (has(s, STRIKE_PRIMARY_CRASH) && taken && chance(s, 300000))
        cut_soon(s, from, CUT_SOURCE);
    if (has(s, STRIKE_SECONDARY_CRASH) && target == from && chance(s, rare ? 200000 : 30000))
        cut_soon(s, from, CUT_DAEMON);
    if (has(s, STRIKE_POWER) && chance(s, rare ? 200000 : 20000))
        cut_soon(s, from, CUT_POWER);
    if (has(s, STRIKE_POWER_BOTH) && chance(s, rare ? 200000 : 20000))
        cut_soon(s, from, CUT_POWER_BOTH);
    /* What either calls stable is believed at once; and what was sent may be in its sender's cache still. */
    if (has(s, STRIKE_POWER) && frame->kind == FRAME_SYNC_STABLE && chance(s, 500000)) {
        unsigned victim = chance(s, 500000) ? from : 1 - from;
        sim_at(s, now_plus(s, draw(s, 1, 200 * NS_PER_US)), Q_CRASH, victim, CUT_POWER_THIS);
    }
    if (has(s, STRIKE_PROMOTE_FORCE) && frame->kind == FRAME_SYNC_DATA && chance(s, 50000)) {
        if (chance(s, 700000))
            cut_soon(s, from, CUT_SESSION);
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_ORDER, target, ORDER_PROMOTE_FORCE);
    }
}

/* A resync that was interrupted goes on: with both daemons alive all the time, nothing is out of sync that was in sync
 * when it was interrupted, but for what was changed. */
void sim_plan_look(struct sim *s, unsigned node)
{
    struct engine_view v;
    struct engine_resync resync = { 0 };
    if (s->node[node].up)
        resync = engine_resync_view(s->node[node].engine);
    bool active = resync.active && resync.is_source && sim_node_view(s, node, &v);
    bool same = s->plan.resync.known && s->plan.resync.source == node;
    for (unsigned i = 0; i < SIM_NODES; i++)
        same &= s->plan.resync.boot[i] == s->node[i].boot;
    if (!active) {
        s->plan.resync.interrupted |= same;
        /* Its session may have outlived the target's daemon. */
        s->plan.resync.known &= same || s->plan.resync.source != node;
        return;
    }
    if (same && s->plan.resync.interrupted && s->plan.resync.done_bytes > 0 && s->plan.resync.left_bytes > 0) {
        uint64_t changed = (s->clients.changed_blocks - s->plan.resync.changed_blocks) * BLOCK_BYTES;
        COVER(resync_resumed);
        if (s->plan.resync.full)
            COVER(resync_full_resumed);
        if (!s->goes_alone && !s->plan.resync.writes && v.out_of_sync_bytes > s->plan.resync.left_bytes + changed)
            sim_fail(s, "starts-over",
                     "node %u: a resync was interrupted with %" PRIu64 " bytes left, and begins again with %" PRIu64
                     ", of which %" PRIu64 " were changed at the most",
                     node, s->plan.resync.left_bytes, v.out_of_sync_bytes, changed);
    }
    bool goes_on = same && s->plan.resync.full && s->plan.resync.left_bytes > 0;
    s->plan.resync.full = goes_on || v.resync.total_bytes == (uint64_t)s->block_count * BLOCK_BYTES;
    bool begins = !s->plan.resync.known || s->plan.resync.interrupted || s->plan.resync.source != node;
    for (unsigned i = 0; begins && i < SIM_NODES; i++)
        s->plan.resync.boot[i] = s->node[i].boot;
    /* A demotion by force that is under way gives up what waits for the peer, later: that is out of sync then. */
    s->plan.resync.known = sim_node_orders(s, node) == 0;
    s->plan.resync.interrupted = false;
    s->plan.resync.source = node;
    s->plan.resync.left_bytes = v.out_of_sync_bytes;
    s->plan.resync.done_bytes = v.resync.done_bytes;
    s->plan.resync.writes = s->clients.changes_in_flight > 0;
    s->plan.resync.changed_blocks = s->clients.changed_blocks;
}

bool sim_plan_cuts_start(struct sim *s)
{
    bool may = has(s, STRIKE_POWER) || has(s, STRIKE_POWER_BOTH);
    return may && s->plan.stage == STAGE_LOAD && chance(s, 100000);
}

void sim_plan_start_is_cut(struct sim *s, unsigned node)
{
    COVER(power_at_start);
    power_loss(s, (bool[SIM_NODES]) { node == 0, node == 1 });
    sim_at(s, now_plus(s, draw(s, 1, 50) * NS_PER_MS), Q_START, node, 0);
}

void sim_plan_cut(struct sim *s, unsigned node, enum cut how)
{
    if (how == CUT_SESSION) {
        if (s->plan.stage == STAGE_LOAD)
            sim_net_break(s, chance(s, 300000));
        return;
    }
    if (how == CUT_SOURCE) {
        if (s->plan.stage != STAGE_LOAD)
            return;
        COVER(finish_source_dies);
        crash(s, node);
        return;
    }
    if (how == CUT_POWER_THIS) {
        COVER(power_stable);
        power_of(s, (bool[SIM_NODES]) { node == 0, node == 1 });
        return;
    }
    if (how == CUT_NODE || how == CUT_POWER_OF) {
        if (s->plan.stage != STAGE_LOAD || !s->node[node].up)
            return;
        if (how == CUT_NODE)
            crash(s, node);
        else
            cut_power_of(s, node);
        return;
    }
    if (how != CUT_DAEMON) {
        strike_power(s, how == CUT_POWER_BOTH);
        return;
    }
    struct engine_view v;
    bool is_secondary = sim_node_view(s, node, &v) && v.role == ROLE_SECONDARY && v.writes_waiting == 0;
    if (s->plan.stage == STAGE_LOAD && is_secondary && sim_node_orders(s, node) == 0)
        crash(s, node);
}

static void strike_primary_crash(struct sim *s, unsigned primary_node)
{
    COVER(primary_crash);
    sim_node_crash(s, primary_node);
    if (chance(s, 700000))
        sim_at(s, now_plus(s, draw(s, 1, 500) * NS_PER_MS), Q_START, primary_node, 0);
    else
        s->plan.gone[primary_node] = true;
    if (chance(s, 700000))
        sim_at(s, now_plus(s, draw(s, 0, 2 * s->dead_after_ns)), Q_ORDER, 1 - primary_node,
               chance(s, 700000) ? ORDER_PROMOTE : ORDER_PROMOTE_FORCE);
}

static void strike_force(struct sim *s, unsigned primary_node)
{
    /* The operator sees no primary and takes his decision, rightly or not. */
    s->net.partitioned_until_ns = now_plus(s, draw(s, 1, 3) * s->dead_after_ns);
    sim_at(s, now_plus(s, draw(s, 0, 2 * s->dead_after_ns)), Q_ORDER, 1 - primary_node, ORDER_PROMOTE_FORCE);
}

/* The primary's disk hangs, it loses its peer, the peer is promoted, they meet again, and the deposed one is killed:
 * what it had not finished is where the legs may differ. Or both are told to come down in the middle of it. */
static void strike_takeover(struct sim *s, unsigned p)
{
    unsigned other = 1 - p;
    bool drains = chance(s, 300000);
    switch (s->plan.takeover++) {
    case 0:
        COVER(takeover);
        s->disk[p].stalled_until_ns = now_plus(s, 3 * s->dead_after_ns);
        return;
    case 1:
        if (drains)
            order(s, p, ORDER_DETACH);
        s->net.bad_paths = 3;
        sim_net_break(s, false);
        sim_at(s, now_plus(s, draw(s, 1, 5) * NS_PER_MS), Q_ORDER, other,
               chance(s, 500000) ? ORDER_PROMOTE : ORDER_PROMOTE_FORCE);
        if (drains)
            sim_at(s, now_plus(s, draw(s, 8, 20) * NS_PER_MS), Q_ORDER, other, ORDER_DETACH);
        return;
    case 2:
        s->net.bad_paths = 0;
        if (!drains)
            sim_at(s, now_plus(s, draw(s, 1, 30) * NS_PER_MS), Q_CRASH, p, CUT_DAEMON);
        return;
    default: return;
    }
}

static void strike_diskless(struct sim *s, unsigned p)
{
    unsigned other = 1 - p;
    if (!is_diskless(s, p)) {
        /* By a write or a flush, or by its metadata. */
        if (chance(s, 700000)) {
            s->disk[p].faults.error_per_million[OP_WRITE] = (unsigned)draw(s, 1, 1000000);
            s->disk[p].faults.error_per_million[OP_FLUSH] = (unsigned)draw(s, 1, 1000000);
        }
        if (chance(s, 500000))
            s->node[p].meta.error_per_million = (unsigned)draw(s, 1, 1000000);
        return;
    }
    switch (draw(s, 0, 9)) {
    case 0:
        COVER(diskless_cut_primary);
        crash(s, p);
        return;
    case 1:
        if (s->node[other].up)
            crash(s, other);
        return;
    case 2:
        if (s->node[other].up)
            cut_power_of(s, other);
        return;
    case 3:
        if (!order(s, p, chance(s, 700000) ? ORDER_DEMOTE : ORDER_DETACH))
            return;
        sim_at(s, now_plus(s, draw(s, 1, 100 * NS_PER_MS)), Q_ORDER, other, ORDER_PROMOTE);
        return;
    case 4:
        s->net.partitioned_until_ns = now_plus(s, draw(s, 1, 3) * s->dead_after_ns);
        sim_at(s, now_plus(s, draw(s, 0, 2 * s->dead_after_ns)), Q_ORDER, other, ORDER_PROMOTE);
        return;
    case 5: order(s, p, ORDER_DEMOTE_FORCE); return;
    case 6: s->disk[other].faults.error_per_million[OP_WRITE] = (unsigned)draw(s, 1, 10000); return;
    default: sim_net_break(s, chance(s, 300000)); return;
    }
}

static void disk_errors(struct sim *s, unsigned p)
{
    /* Also while the primary is on its way out. */
    if (chance(s, 300000))
        order(s, p, chance(s, 500000) ? ORDER_DETACH : ORDER_DEMOTE);
    unsigned node = (unsigned)draw(s, 0, 1);
    struct sim_disk_faults *f = &s->disk[node].faults;
    switch (draw(s, 0, 3)) {
    case 0: f->error_per_million[OP_WRITE] = (unsigned)draw(s, 1, 100000); break;
    case 1: f->error_per_million[OP_FLUSH] = (unsigned)draw(s, 1, 300000); break;
    case 2: f->short_per_million = (unsigned)draw(s, 1, 100000); break;
    default:
        f->error_per_million[OP_READ] = (unsigned)draw(s, 1, 100000);
        f->error_per_million[OP_DISCARD] = f->error_per_million[OP_WRITE_ZEROES] = (unsigned)draw(s, 1, 200000);
    }
}

static void silent_damage(struct sim *s)
{
    unsigned node = (unsigned)draw(s, 0, 1);
    struct sim_disk_faults *f = &s->disk[node].faults;
    switch (draw(s, 0, 2)) {
    case 0: f->lost_per_million = (unsigned)draw(s, 1, 50000); return;
    case 1: f->misdirected_per_million = (unsigned)draw(s, 1, 50000); return;
    default: sim_disk_rot(s, node);
    }
}

/* Whatever else is going on: what it finds must be there, and what it is overtaken by must not mind. */
static void strike_verify(struct sim *s, unsigned primary_node)
{
    unsigned node = chance(s, 800000) ? primary_node : 1 - primary_node;
    if (!s->node[node].up || sim_node_verifies(s, node))
        return;
    sim_node_order(s, node, chance(s, 300000) ? ORDER_VERIFY_REPAIR : ORDER_VERIFY);
    /* Its primary goes, the peer comes. */
    if (chance(s, 200000) && order(s, primary_node, ORDER_DEMOTE))
        sim_at(s, now_plus(s, draw(s, 1, 20 * NS_PER_MS)), Q_ORDER, (unsigned)draw(s, 0, 1), ORDER_PROMOTE);
}

/* No disk of these runs spoils anything without a word: two legs that are in sync are equal, as far as both can be
 * read. */
static void verify_done(struct sim *s, unsigned node, int32_t result, const char *text)
{
    if (result == 0)
        COVER(verified);
    else if (result == -EBUSY)
        COVER(verify_refused);
    else if (result != -EILSEQ)
        COVER(verify_broken);
    else if (strstr(text, "cannot be read"))
        COVER(verify_unreadable);
    else if (!has(s, STRIKE_SILENT_DAMAGE))
        sim_fail(s, "verify", "node %u finds what cannot be: %s", node, text);
}

static void strike_at(struct sim *s, enum strike k, unsigned p)
{
    unsigned other = 1 - p;
    bool other_up = s->node[other].up && sim_node_orders(s, other) == 0 && !s->node[other].serving;
    switch (k) {
    case STRIKE_BREAK: sim_net_break(s, chance(s, 300000)); return;
    case STRIKE_STALL:
        COVER(stalled);
        sim_net_stall(s, (unsigned)draw(s, 0, 1), now_plus(s, draw(s, 1, 3 * s->dead_after_ns)));
        return;
    case STRIKE_PARTITION:
        COVER(partition);
        s->net.partitioned_until_ns = now_plus(s, draw(s, 1, 3 * s->dead_after_ns));
        return;
    case STRIKE_STRANGER: sim_net_stranger(s); return;
    case STRIKE_PATH: s->net.bad_paths = (unsigned)draw(s, 0, 3); return;
    case STRIKE_DISK_STALL:
        COVER(disk_stall);
        s->disk[draw(s, 0, 1)].stalled_until_ns = now_plus(s, draw(s, 1, 3 * s->dead_after_ns));
        return;
    case STRIKE_SECONDARY_CRASH:
        if (!other_up)
            return;
        COVER(secondary_crash);
        crash(s, other);
        return;
    case STRIKE_SECONDARY_DETACH:
        if (!other_up)
            return;
        COVER(secondary_detach);
        order(s, other, ORDER_DETACH);
        return;
    case STRIKE_DEMOTE:
        if (!order(s, p, ORDER_DEMOTE))
            return;
        /* Someone is to be primary again afterwards: the peer, or the same. */
        sim_at(s, now_plus(s, draw(s, 1, 100 * NS_PER_MS)), Q_ORDER, chance(s, 600000) ? other : p, ORDER_PROMOTE);
        return;
    case STRIKE_PROMOTE_SECONDARY: order(s, other, ORDER_PROMOTE); return;
    case STRIKE_PROMOTE_BOTH:
        if (!order(s, p, ORDER_DEMOTE))
            return;
        COVER(promote_race);
        uint64_t at_ns = now_plus(s, draw(s, 10 * NS_PER_MS, 60 * NS_PER_MS));
        sim_at(s, at_ns, Q_ORDER, 0, ORDER_PROMOTE);
        sim_at(s, at_ns + draw(s, 0, 3 * NS_PER_MS), Q_ORDER, 1, ORDER_PROMOTE);
        return;
    case STRIKE_PRIMARY_DETACH:
        if (order(s, p, ORDER_DETACH))
            s->plan.detaches_primary[p] = true;
        return;
    case STRIKE_DISK_ERRORS: disk_errors(s, p); return;
    case STRIKE_DISKLESS: strike_diskless(s, p); return;
    case STRIKE_META_ERRORS: s->node[draw(s, 0, 1)].meta.error_per_million = (unsigned)draw(s, 1, 400000); return;
    case STRIKE_PRIMARY_CRASH:
        if (!s->node[other].serving)
            strike_primary_crash(s, p);
        return;
    case STRIKE_PROMOTE_FORCE:
        if (s->node[other].up)
            strike_force(s, p);
        return;
    case STRIKE_DEMOTE_FORCE:
        if (chance(s, 700000))
            s->net.partitioned_until_ns = now_plus(s, draw(s, 1, 3 * s->dead_after_ns));
        sim_at(s, now_plus(s, draw(s, 1, 3 * s->dead_after_ns)), Q_ORDER, p, ORDER_DEMOTE_FORCE);
        return;
    case STRIKE_TAKEOVER:
        if (s->node[other].up)
            strike_takeover(s, p);
        return;
    case STRIKE_CLOCK:
        COVER(clock_jump);
        sim_node_clock_jump(s, (unsigned)draw(s, 0, 1), draw(s, 1, 10 * NS_PER_S));
        return;
    case STRIKE_META_DAMAGE:
        if (sim_meta_damage(s, (unsigned)draw(s, 0, 1)))
            COVER(meta_damage);
        return;
    case STRIKE_VERIFY: strike_verify(s, p); return;
    case STRIKE_RESYNC_BREAK: return;
    case STRIKE_LATENT_ERROR: sim_disk_make_unreadable(s, (unsigned)draw(s, 0, 1)); return;
    case STRIKE_POWER: strike_power(s, false); return;
    case STRIKE_POWER_BOTH: strike_power(s, true); return;
    case STRIKE_SILENT_DAMAGE: silent_damage(s); return;
    case STRIKES: break;
    }
}

static void strike(struct sim *s)
{
    if (s->plan.kinds == 0 || chance(s, 300000))
        return;
    enum strike k;
    do
        k = (enum strike)draw(s, 0, STRIKES - 1);
    while (!has(s, k));
    int p = sim_primary(s);
    if (p >= 0) {
        strike_at(s, k, (unsigned)p);
        return;
    }
    /* Nobody serves: an operator who sees that may promote. */
    if (chance(s, 200000))
        order(s, (unsigned)draw(s, 0, 1), ORDER_PROMOTE);
}

/* ---- the stages ---- */

static void enter(struct sim *s, enum stage stage, uint64_t max_ns)
{
    static const char *const names[] = { "setup", "load", "heal", "read back", "detach", "end" };
    sim_trace(s, "  plan    %s", names[stage]);
    s->plan.stage = stage;
    s->plan.step = 0;
    /* A node whose buffers never come back cannot be healed. */
    for (unsigned i = 0; stage == STAGE_HEAL && i < SIM_NODES; i++)
        sim_node_drop_ballast(s, i);
    s->plan.deadline_ns = now_plus(s, max_ns);
}

static void overdue(struct sim *s, const char *what)
{
    if (s->now_ns < s->plan.deadline_ns)
        return;
    char facts[1024] = "";
    size_t used = 0;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v))
            continue;
        used += (size_t)snprintf(
            facts + used, sizeof(facts) - used,
            "; node %c: %s, %s, epoch %" PRIu64
            ", leg %s, peer's leg %s, link %s (%s), why not in sync: %s, %u changes wait, %u disk requests",
            'A' + i, role_name(v.role), v.serving ? "serves" : "does not serve", v.epoch, leg_state_name(v.leg),
            leg_state_name(v.peer_leg), link_state_name(session_state(s->node[i].session)),
            session_reason(s->node[i].session), v.why_not ? v.why_not : "-", v.writes_waiting, s->disk[i].busy);
        if (used >= sizeof(facts))
            break;
    }
    sim_fail(s, "liveness", "%s; %u requests (%u changes) in flight%s", what, s->clients.in_flight,
             s->clients.changes_in_flight, facts);
}

static void setup(struct sim *s)
{
    struct engine_view v;
    unsigned home = s->plan.home;
    if (s->node[home].serving) {
        enter(s, STAGE_LOAD, LOAD_MAX_NS);
        s->plan.load_until_ns = s->plan.deadline_ns;
        for (uint32_t i = 0; i < s->clients.client_count; i++)
            sim_at(s, now_plus(s, 1 + i), Q_CLIENT, 0, i);
        return;
    }
    overdue(s, "the volume does not come up");
    /* Some operators don't wait until the nodes have found each other. */
    if (sim_node_view(s, home, &v) && (v.session_up || chance(s, 20000)))
        order(s, home, ORDER_PROMOTE);
}

static void load(struct sim *s)
{
    bool over = s->clients.left == 0 && (s->clients.in_flight == 0 || chance(s, 50000));
    if (over || s->now_ns >= s->plan.load_until_ns) {
        s->clients.stopped = true;
        sim_net_heal(s);
        for (unsigned i = 0; i < SIM_NODES; i++) {
            s->disk[i].faults = (struct sim_disk_faults) { 0 };
            s->disk[i].stalled_until_ns = 0;
            s->node[i].meta.error_per_million = 0;
        }
        enter(s, STAGE_HEAL, HEAL_MAX_NS);
        return;
    }
    strike(s);
}

/* Disks were replaced: their nodes are taken down and up, as the operators are told to. */
static bool restart_failed(struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v) || v.leg != LEG_FAILED || !s->plan.mends)
            continue;
        s->plan.mended[i] = true;
        sim_node_crash(s, i);
        return true;
    }
    return false;
}

/* Neither node may call the volume protected, and both tell why not, in these words. */
static bool demand_told(struct sim *s, const char *words)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v))
            continue;
        if (v.in_sync)
            sim_fail(s, "not-told", "node %u calls the volume protected, which needs a person (%s)", i,
                     words ? words : "a leg has failed");
        bool last = s->now_ns + NS_PER_S > s->plan.deadline_ns; /* it may be about to learn it */
        if (words && !last && !strstr(v.why_not, words) && !strstr(v.why_not, "failed"))
            return false;
        if (words && v.leg != LEG_FAILED && !strstr(v.why_not, words) && !strstr(v.why_not, "failed"))
            sim_fail(s, "not-told", "node %u: not in sync because of: %s. Where is \"%s\"?", i, v.why_not, words);
    }
    return true;
}

/* What only a person can mend: the volume must say so. */
static bool ended_for_good(struct sim *s)
{
    struct superblock a, b;
    sim_node_superblock(s, 0, &a);
    sim_node_superblock(s, 1, &b);
    /* One that has been part of nothing may still join. */
    bool both_used = a.history.count > 0 && b.history.count > 0;
    if (both_used && !id_is_none(a.volume_id) && !id_is_none(b.volume_id) && !id_equal(a.volume_id, b.volume_id)) {
        if (!demand_told(s, "different volumes"))
            return false;
        COVER(two_volumes);
        return true;
    }
    enum history_relation relation = history_relate(&a.history, &b.history);
    if (relation == HISTORY_DIVERGED) {
        if (!demand_told(s, "split brain"))
            return false;
        COVER(split_told);
        return true;
    }
    /* A target that was promoted by force before it had been part of anything. */
    bool forced = has(s, STRIKE_PROMOTE_FORCE) || has(s, STRIKE_PRIMARY_CRASH) || has(s, STRIKE_TAKEOVER);
    if (relation == HISTORY_UNRELATED && (forced || s->legs.split)) {
        if (!demand_told(s, "nothing in common"))
            return false;
        COVER(split_told);
        return true;
    }
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v) || v.leg != LEG_FAILED || s->plan.mends)
            continue;
        if (!demand_told(s, NULL))
            return false;
        COVER(leg_failed);
        return true;
    }
    return false;
}

/* What cannot be read on the source keeps a resync from its end, until it is written. */
static void write_unreadable(struct sim *s, unsigned node)
{
    struct medium *m = &s->disk[node].data;
    for (uint32_t b = 0; m->has_flaws && s->clients.in_flight == 0 && b < s->block_count; b++) {
        if (medium_is_readable(m, b, 1))
            continue;
        COVER(unreadable_healed);
        sim_client_submit(s, 0, node, OP_WRITE, 0, b, 1);
        return;
    }
}

static bool says(const struct engine_view *v, const char *words) { return v->why_not && strstr(v->why_not, words); }

/* What operators do when the nodes cannot decide. */
static void operate(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    struct engine_view v[SIM_NODES] = { 0 };
    for (unsigned i = 0; i < SIM_NODES; i++)
        sim_node_view(s, i, &v[i]);
    if (s->node[0].serving && s->node[1].serving) {
        /* Deposed, once one learns of the other; or promoted apart at the same epoch. */
        unsigned loser = s->legs.alone[0] == s->legs.alone[1] ? 1 - p->home : s->legs.alone[0] ? 1 : 0;
        if (says(&v[0], "split brain") || says(&v[1], "split brain") || says(&v[0], "demote"))
            order(s, loser, ORDER_DEMOTE_FORCE);
        return;
    }
    int serving = sim_primary(s);
    if (serving >= 0) {
        write_unreadable(s, (unsigned)serving);
        if (says(&v[serving], "a verify has found") && !sim_node_verifies(s, (unsigned)serving))
            sim_node_order(s, (unsigned)serving, ORDER_VERIFY_REPAIR);
        if (says(&v[serving], "its leg lacks") && order(s, (unsigned)serving, ORDER_DEMOTE_FORCE))
            p->home = 1 - (unsigned)serving;
        return;
    }
    /* One that was being demoted when it lost its peer is to let go of what waits first. */
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (v[i].role == ROLE_PRIMARY && v[i].writes_waiting > 0) {
            order(s, i, chance(s, 500000) ? ORDER_DEMOTE_FORCE : ORDER_DETACH_FORCE);
            return;
        }
    }
    if (s->legs.alone[0] != s->legs.alone[1])
        p->home = s->legs.alone[0] ? 0 : 1;
    /* Who reads that a node was deposed, or is half made, goes to the other. */
    if (says(&v[p->home], p->home == 0 ? "paris-a was deposed" : "paris-b was deposed"))
        p->home = 1 - p->home;
    if (v[p->home].leg == LEG_SYNCING && v[1 - p->home].leg == LEG_UP_TO_DATE)
        p->home = 1 - p->home;
    unsigned home = p->home;
    /* When neither can be promoted, and what the source cannot read keeps it so, only force helps. */
    bool stuck = s->now_ns + HEAL_MAX_NS * 3 / 4 > p->deadline_ns && v[home].leg == LEG_UP_TO_DATE;
    bool force = stuck || (p->gone[1 - home] && !s->legs.behind[home]);
    if (order(s, home, force ? ORDER_PROMOTE_FORCE : ORDER_PROMOTE) && chance(s, 300000))
        p->home = 1 - home;
}

static void heal(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    bool late = s->now_ns + HEAL_MAX_NS / 2 > p->deadline_ns;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        bool survivor_first = p->gone[i] && !s->node[1 - i].serving && s->node[1 - i].up && !late;
        if (!s->node[i].up && !survivor_first) {
            p->gone[i] = false;
            sim_node_start(s, i);
            return;
        }
    }
    bool verifies = sim_node_verifies(s, 0) || sim_node_verifies(s, 1); /* it may find something yet */
    if (sim_primary(s) >= 0 && sim_legs_in_sync(s) && s->clients.in_flight == 0 && !verifies) {
        enter(s, STAGE_READ_BACK, HEAL_MAX_NS);
        return;
    }
    if (restart_failed(s))
        return;
    if (late && ended_for_good(s)) {
        enter(s, STAGE_END, 0);
        return;
    }
    overdue(s, "the volume is not in sync again");
    if (chance(s, 300000))
        operate(s);
}

/* Everything is read back through the front, and flushed; then the legs are held against each other. */
static void read_back(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    int node = sim_primary(s);
    overdue(s, "the volume cannot be read back");
    if (node < 0)
        return;
    while (p->step < s->block_count) {
        uint32_t count = (uint32_t)min_u64(READ_BACK_BLOCKS, s->block_count - p->step);
        if (!sim_client_submit(s, 0, (unsigned)node, OP_READ, 0, p->step, count))
            return;
        p->step += count;
    }
    if (s->clients.in_flight > 0)
        return;
    if (p->step == s->block_count) {
        if (sim_client_submit(s, 0, (unsigned)node, OP_FLUSH, 0, 0, 0))
            p->step++;
        return;
    }
    if (s->clients.flush_failed) { /* on a node that was deposed meanwhile */
        p->step = s->block_count;
        s->clients.flush_failed = false;
        return;
    }
    /* A frame that was lost long ago may be missed only now, and the flush have reached one leg: once more then. */
    if (!sim_legs_in_sync(s)) {
        enter(s, STAGE_HEAL, HEAL_MAX_NS);
        return;
    }
    sim_audit(s);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct medium *m = &s->disk[i].data;
        if (memcmp(m->content, m->stable, (size_t)s->block_count * BLOCK_BYTES) != 0)
            sim_fail(s, "flush-not-stable", "leg %c: after a flush, with nothing in flight", 'A' + i);
    }
    uint32_t block = sim_legs_differ(s);
    if (block != UINT32_MAX)
        sim_fail(s, "legs-differ", "in block %u, at the end, with nothing in flight", block);
    COVER(converged);
    enter(s, STAGE_DETACH, HEAL_MAX_NS);
}

static void detach(struct sim *s)
{
    overdue(s, "the nodes do not come down");
    bool any_up = false;
    unsigned first = s->plan.home ^ (unsigned)(s->seed & 1);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        unsigned node = first ^ i;
        if (!s->node[node].up)
            continue;
        any_up = true;
        order(s, node, ORDER_DETACH);
        break;
    }
    if (!any_up)
        enter(s, STAGE_END, 0);
}

void sim_plan_late_order(struct sim *s, unsigned node, enum order what)
{
    if (s->plan.stage == STAGE_LOAD)
        order(s, node, what);
}

void sim_plan_event(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    if (p->stage == STAGE_LOAD)
        sim_at(s, now_plus(s, 1 + draw(s, 0, p->gap_max_ns)), Q_PLAN, 0, 0);
    else
        sim_at(s, now_plus(s, POLL_NS), Q_PLAN, 0, 0);
    switch (p->stage) {
    case STAGE_SETUP: setup(s); return;
    case STAGE_LOAD: load(s); return;
    case STAGE_HEAL: heal(s); return;
    case STAGE_READ_BACK: read_back(s); return;
    case STAGE_DETACH: detach(s); return;
    case STAGE_END: s->ended = true; return;
    }
}
