/* A machine sleeps, or both do, in a run with a register: nothing of it runs, its clock (CLOCK_BOOTTIME) goes on, and
 * what has come meanwhile reaches it when it wakes, all at once: answers of the disk, frames, timers and requests of
 * its clients, in any order but that of each connection.
 *
 * And a clock that goes forward while its machine does not stand still, which no machine's does: no write may depend on
 * that, but reads may. */
#include <inttypes.h>

#include "tests/sim/plan.h"

#define SLEEP_LONG_NS (15 * NS_PER_S) /* longer than anything that a node waits for */
#define WAKE_READS_MAX 12

static bool happens(struct sim *s, unsigned per_million) { return sim_chance(s, CHANCE_REGISTER, per_million); }

static uint64_t between(struct sim *s, uint64_t low, uint64_t high)
{
    return sim_between(s, CHANCE_REGISTER, low, high);
}

void sim_sleep_reset(struct sim *s)
{
    s->sleep = (struct sim_sleep) { 0 };
    if (!s->registered || s->reg.calm)
        return;
    s->sleep.often = happens(s, 300000);
    s->sleep.jumps = happens(s, 100000);
}

bool sim_sleeps(const struct sim *s)
{
    return sim_is_paused(&s->node[0], s->now_ns) || sim_is_paused(&s->node[1], s->now_ns);
}

/* Who serves does so no longer than its peer lets it; but its clients don't know, and ask when it wakes. */
static void fall_asleep(struct sim *s, unsigned node, uint64_t until_ns)
{
    struct sim_node *n = &s->node[node];
    if (!n->up || sim_is_paused(n, s->now_ns))
        return;
    COVER(sleeps);
    sim_trace(s, "%c node    sleeps for %" PRIu64 " ms", 'A' + node, (until_ns - s->now_ns) / NS_PER_MS);
    n->paused_until_ns = until_ns;
    for (uint64_t i = n->serving ? between(s, 0, WAKE_READS_MAX) : 0; i > 0; i--)
        sim_at(s, until_ns + (happens(s, 700000) ? 0 : between(s, 0, s->dead_after_ns)), Q_WAKE, node, 0);
}

/* A clock that goes by itself. Its node may take over before the other one's lease is over, and so for as long as that
 * lasts; the other one's clock is slower by a tenth at the most. */
static void jump(struct sim *s, unsigned node)
{
    COVER(clock_jump_alone);
    sim_node_clock_jump(s, node, between(s, 1, 10 * NS_PER_S));
    s->sleep.lease_void_until_ns[1 - node] = s->now_ns + s->dead_after_ns + s->dead_after_ns / 8;
}

void sim_sleep_strike(struct sim *s)
{
    struct sim_sleep *p = &s->sleep;
    if (p->jumps && happens(s, 50000))
        jump(s, (unsigned)between(s, 0, 1));
    if (!p->often || sim_sleeps(s) || !happens(s, 80000))
        return;
    int serving = sim_primary(s);
    unsigned node = serving >= 0 && happens(s, 700000) ? (unsigned)serving : (unsigned)between(s, 0, 1);
    uint64_t until_ns = s->now_ns + between(s, s->dead_after_ns / 2, 10 * s->dead_after_ns);
    if (!p->had_long && happens(s, 30000)) {
        p->had_long = true;
        until_ns = s->now_ns + between(s, SLEEP_LONG_NS / 2, SLEEP_LONG_NS);
        COVER(sleeps_long);
    }
    fall_asleep(s, node, until_ns);
    /* On one host, say. */
    if (happens(s, 150000)) {
        COVER(sleeps_both);
        fall_asleep(s, 1 - node, happens(s, 500000) ? until_ns : s->now_ns + between(s, 1, until_ns - s->now_ns));
    }
}

void sim_wake_event(struct sim *s, unsigned node)
{
    if (s->plan.stage != STAGE_LOAD || s->probed >= s->block_count ||
        !sim_client_submit(s, 0, node, OP_READ, 0, s->probed, 1))
        return;
    COVER(sleeps_read);
    if (s->node[1 - node].serving)
        COVER(sleeps_read_deposed);
}

bool sim_sleep_lease_is_void(const struct sim *s, unsigned node, uint64_t begun_ns)
{
    return begun_ns <= s->sleep.lease_void_until_ns[node];
}
