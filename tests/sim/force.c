/* An operator in error forces a promotion while the other node serves, or has what this leg lacks, in a run with a
 * register. What that may cost, and what it may not, is in docs/FAILOVER.md, "Forced promotion". */
#include <string.h>

#include "tests/sim/plan.h"

void plan_force_in_error(struct sim *s, unsigned primary_node)
{
    struct sim_register *r = &s->reg;
    unsigned other = 1 - primary_node;
    uint64_t until_ns = now_plus(s, draw(s, 1, 4 * s->dead_after_ns));
    switch (draw(s, 0, 3)) {
    case 0: /* in its session, which refuses that */ break;
    case 1: /* ... from which it has gone */ s->net.partitioned_until_ns = until_ns; break;
    case 2: /* nor does the other one hear of the decree, and serves on if it is alone in the set */
        s->net.partitioned_until_ns = until_ns;
        if (!r->calm)
            r->cut_until_ns[primary_node][WAY_THERE] = r->cut_until_ns[primary_node][WAY_BACK] = until_ns;
        break;
    default: /* it has lost its power, and is back before it has got what it lacks */
        plan_cut_power_of(s, other);
        s->net.partitioned_until_ns = until_ns;
        break;
    }
    sim_at(s, now_plus(s, draw(s, 0, 3 * s->dead_after_ns)), Q_ORDER, other, ORDER_PROMOTE_FORCE);
}

/* Does the leg that a decree by force names lack anything, by what the model knows? */
static bool lacks_something(struct sim *s, unsigned node)
{
    return s->legs.split || s->legs.behind[node] || s->legs.alone[1 - node] || sim_legs_is_target(s, node);
}

void sim_force_decreed(struct sim *s, unsigned node)
{
    unsigned other = 1 - node;
    struct superblock sb;
    sim_node_superblock(s, other, &sb);
    if (s->node[other].serving && !sim_is_paused(&s->node[other], s->now_ns))
        COVER(forced_living);
    if (!s->legs.behind[other] && sb.leg == LEG_UP_TO_DATE && !superblock_is_doubtful(&sb))
        COVER(forced_past_whole);
    struct engine_view v;
    if (sim_node_view(s, node, &v) && v.leg == LEG_SYNCING) /* perhaps only since it was ordered */
        s->plan.half[node] = true;
    /* A primary that lives has not heard of it, and answers for a while yet what it has. */
    if (lacks_something(s, node) || s->node[other].serving) {
        s->reg.forced = true;
        s->reg.forced_node = node;
    }
}

bool sim_is_forced(const struct sim *s, unsigned node) { return s->reg.forced && s->reg.forced_node == node; }

void sim_force_is_over(struct sim *s) { s->reg.forced = false; }

void sim_force_acked(struct sim *s, unsigned node, const struct engine_view *v)
{
    const struct decree *d = &v->witness.decree;
    bool follows =
        s->registered && v->witness.state != REGISTER_STATE_OLDER; /* what another cluster has, nobody does */
    if (follows && d->epoch > v->epoch && *d->primary && strcmp(d->primary, SIM_NODE_NAME(node)) != 0)
        sim_fail(s, "deposed",
                 "node %u acknowledges a change at epoch %llu, and knows the decree of epoch %llu, for %s", node,
                 (unsigned long long)v->epoch, (unsigned long long)d->epoch, d->primary);
}
