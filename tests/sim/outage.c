/* Both machines lose their power, in a run with a register: who is back when, and whether the register is lost with
 * them. Of two that come back, the first may find nobody for longer than anybody waits. */
#include <string.h>

#include "tests/sim/plan.h"

void plan_outage(struct sim *s)
{
    struct sim_register *r = &s->reg;
    COVER(outage);
    if (r->calm || !chance(s, 500000))
        return;
    COVER(outage_register);
    r->down_until_ns = now_plus(s, draw(s, 1, 8 * s->dead_after_ns));
    sim_register_starts_anew(s);
}

void plan_outage_ends(struct sim *s)
{
    unsigned first = (unsigned)draw(s, 0, 1);
    uint64_t soon = now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS);
    sim_at(s, soon, Q_START, first, 0);
    switch (draw(s, 0, 2)) {
    case 0: /* the other one soon, too, before or after it */
        sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, 1 - first, 0);
        return;
    case 1: /* ... long after */
        sim_at(s, soon + draw(s, 3 * s->dead_after_ns, 20 * s->dead_after_ns), Q_START, 1 - first, 0);
        return;
    default: /* ... when all is healed */ return;
    }
}

bool plan_sole_leg_resumes(struct sim *s)
{
    const struct decree *d = &s->reg.row.decree;
    for (unsigned i = 0; s->registered && i < SIM_NODES; i++) {
        struct superblock sb;
        struct engine_view v;
        if (d->member_count != 1 || strcmp(d->primary, SIM_NODE_NAME(i)) != 0 || !sim_register_has(s, i))
            continue;
        sim_node_superblock(s, i, &sb);
        return sb.registered && sb.leg == LEG_UP_TO_DATE && !sb.differs && sim_node_view(s, i, &v) &&
               v.leg == LEG_UP_TO_DATE;
    }
    return false;
}
