/* Service that moves by itself, or goes on without the peer, in a run with a register: not where nothing is wrong, and
 * has not been for a while. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/plan.h"

/* In these times `dead-after` each node has learned what became of the last trouble. */
#define SETTLED_AFTER 12
#define RESTS_FOR 24

void sim_moves_reset(struct sim *s)
{
    static const struct sim_net_faults none;
    s->moves = (struct sim_moves) { 0 };
    s->moves.calm =
        s->registered && s->reg.calm && s->plan.kinds == 0 && memcmp(&s->net.faults, &none, sizeof(none)) == 0;
    if (s->moves.calm)
        COVER(calm_runs);
}

void sim_trouble(struct sim *s) { s->moves.trouble_ns = s->now_ns; }

static bool is_calm(const struct sim *s)
{
    bool nothing_strikes = s->moves.calm || s->plan.stage > STAGE_LOAD;
    return nothing_strikes && s->now_ns > s->moves.trouble_ns + SETTLED_AFTER * s->dead_after_ns;
}

void sim_moves_decreed(struct sim *s, unsigned by)
{
    const struct decree *d = &s->reg.row.decree;
    if (d->cause != DECREE_TAKE && d->cause != DECREE_OUT)
        return;
    unsigned other = 1 - by;
    if (d->cause == DECREE_TAKE && s->node[other].serving && !sim_is_paused(&s->node[other], s->now_ns))
        COVER(took_living);
    /* Rule out-before-target: one whose bad sectors keep it from being whole may be in the set still; or the register
     * names one whose disk is a new one, and cannot serve. */
    struct superblock theirs;
    sim_node_superblock(s, other, &theirs);
    bool is_target = theirs.leg == LEG_SYNCING;
    if (is_calm(s) && !is_target)
        sim_fail(s, "needless", "%s of node %u, and nothing was wrong for %" PRIu64 " ms", decree_cause_name(d->cause),
                 by, (s->now_ns - s->moves.trouble_ns) / NS_PER_MS);
}

bool plan_rests(struct sim *s)
{
    struct sim_moves *m = &s->moves;
    if (!s->registered || m->rested)
        return false;
    if (m->rests_until_ns == 0) {
        if (!chance(s, 250000)) {
            m->rested = true;
            return false;
        }
        m->rests_until_ns = now_plus(s, RESTS_FOR * s->dead_after_ns);
        s->plan.deadline_ns += RESTS_FOR * s->dead_after_ns;
    }
    if (s->now_ns < m->rests_until_ns)
        return true;
    m->rested = true;
    COVER(rested);
    return false;
}
