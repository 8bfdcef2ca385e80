/* A leg is made anew, as `lockstep create` does, and its node gets everything from the other: its disk is replaced, or
 * a person gives up what is on it. */
#include "tests/sim/plan.h"

bool plan_may_be_given_up(struct sim *s, unsigned node)
{
    unsigned other = 1 - node;
    struct engine_view v;
    struct superblock theirs;
    if (s->legs.split || s->plan.gone[other] || !sim_legs_can_be_source(s, other))
        return false;
    /* In a resize that was cut off this one may be the larger. */
    sim_node_superblock(s, other, &theirs);
    if (theirs.size_bytes < (uint64_t)s->block_count * BLOCK_BYTES)
        return false;
    return !sim_node_view(s, other, &v) || (v.leg == LEG_UP_TO_DATE && !v.diskless_epoch);
}

/* Nobody counts on what is on this leg any more. */
static void forget(struct sim *s, unsigned node)
{
    sim_legs_replaced(s, node);
    s->plan.resync.known = false;
    s->plan.half_forced[node] = s->plan.half[node] = s->plan.obstacle[node] = false;
    s->plan.old_copy[node] = s->copy[node].taken = false;
}

static void replace(struct sim *s, unsigned node)
{
    unsigned other = 1 - node;
    struct engine_view v;
    struct superblock theirs;
    COVER(replaced);
    if (s->legs.blank[node])
        COVER(replaced_again);
    if (sim_node_view(s, other, &v) && v.serving && v.alone_epoch)
        COVER(replaced_alone);
    /* What `create` has zeroed reads as zeroes, until the disk spoils it; two fresh legs count on that. */
    sim_node_superblock(s, other, &theirs);
    sim_disk_replace(s, node, theirs.history.count > 0 && chance(s, 300000));
    sim_node_create(s, node);
    forget(s, node);
}

void sim_plan_start(struct sim *s, unsigned node)
{
    bool is_new = s->plan.replaces[node] && plan_may_be_given_up(s, node);
    s->plan.replaces[node] = false;
    if (is_new)
        replace(s, node);
    sim_node_start(s, node);
    if (!is_new || s->plan.stage != STAGE_LOAD || chance(s, 500000))
        return;
    /* Something of this kind comes in its first resync, if that has begun by then. */
    static const enum cut cuts[] = { CUT_SESSION, CUT_DAEMON, CUT_REPLACE };
    sim_at(s, now_plus(s, draw(s, 1, 60 * NS_PER_MS)), Q_CRASH, node, cuts[draw(s, 0, ARRAY_LEN(cuts) - 1)]);
}

void plan_replace(struct sim *s, unsigned node)
{
    if (!plan_may_be_given_up(s, node))
        return;
    if (s->node[node].up && s->plan.stage == STAGE_LOAD && chance(s, 400000)) {
        s->plan.replaces[node] = plan_order(s, node, ORDER_DETACH);
        return;
    }
    s->plan.replaces[node] = true;
    if (s->node[node].up)
        sim_node_crash(s, node);
    if (s->plan.stage == STAGE_LOAD)
        sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, node, 0);
}

/* What is on it is the volume, if a person says so. */
static bool can_be_kept(struct sim *s, unsigned node)
{
    struct superblock sb;
    struct engine_view v;
    sim_node_superblock(s, node, &sb);
    bool has_failed = sim_node_view(s, node, &v) && v.leg == LEG_FAILED;
    return !has_failed && !s->legs.blank[node] && sb.leg == LEG_UP_TO_DATE && sb.history.count > 0 &&
           sb.size_bytes >= (uint64_t)s->block_count * BLOCK_BYTES;
}

void plan_decide(struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v) || v.leg != LEG_FAILED || s->plan.mends)
            continue;
        sim_trace(s, "  plan    disks are mended after all");
        s->plan.mends = true;
        plan_enter(s, STAGE_HEAL, HEAL_MAX_NS);
        return;
    }
    unsigned keep = (unsigned)draw(s, 0, 1);
    bool other_can = can_be_kept(s, 1 - keep);
    if (!can_be_kept(s, keep) || (s->plan.old_copy[keep] && other_can))
        keep = 1 - keep;
    if (!can_be_kept(s, keep))
        sim_fail(s, "decided", "neither leg is fit to be kept");
    if (s->plan.decided)
        sim_fail(s, "decided", "a person has made one leg anew, and is to decide once more");
    COVER(decided);
    bool resolves = plan_can_resolve(s, 1 - keep) && chance(s, 600000);
    sim_trace(s, "  plan    leg %c is kept, the other one %s", 'A' + keep, resolves ? "given up" : "made anew");
    s->plan.decided = true;
    sim_disk_stop_lying(s, keep);
    sim_register_keeps(s, keep);
    if (resolves)
        plan_resolve(s, 1 - keep);
    else if (s->node[1 - keep].up)
        sim_node_crash(s, 1 - keep);
    sim_legs_keep(s, keep);
    if (resolves)
        forget(s, 1 - keep);
    else
        replace(s, 1 - keep);
    s->plan.half_forced[keep] = s->plan.half[keep] = s->plan.gone[keep] = s->plan.gone[1 - keep] = false;
    s->plan.home = keep;
    s->acked_epoch = 0;
    plan_enter(s, STAGE_HEAL, HEAL_MAX_NS);
}

bool plan_is_new_disk(struct sim *s, unsigned node)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    return s->legs.blank[node] && (sb.leg != LEG_UP_TO_DATE || sb.history.count == 0);
}
