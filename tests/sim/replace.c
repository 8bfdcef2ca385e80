/* A disk is replaced: its node goes down, a leg is made on a new one as `lockstep create` does, the node comes back,
 * and gets everything from the other. */
#include "tests/sim/plan.h"

/* Nobody gives up the only good copy: the other leg has all that was acknowledged, and its node knows it. */
static bool may_be_given_up(struct sim *s, unsigned node)
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
    sim_legs_replaced(s, node);
    s->plan.resync.known = false;
    s->plan.half_forced[node] = s->plan.half[node] = s->plan.obstacle[node] = false;
}

void sim_plan_start(struct sim *s, unsigned node)
{
    bool is_new = s->plan.replaces[node] && may_be_given_up(s, node);
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
    if (!may_be_given_up(s, node))
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

bool plan_is_new_disk(struct sim *s, unsigned node)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    return s->legs.blank[node] && (sb.leg != LEG_UP_TO_DATE || sb.history.count == 0);
}
