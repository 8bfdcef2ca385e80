/* With a register: an application that has moved to the node which serves by now, and a part of it that has not
 * noticed. Clients alone would soon stand still, each waiting for what the former primary cannot complete. */
#include "tests/sim/plan.h"

/* The one that was named later. */
static unsigned newer(const struct sim *s)
{
    struct engine_view v[SIM_NODES] = { 0 };
    for (unsigned i = 0; i < SIM_NODES; i++)
        sim_node_view(s, i, &v[i]);
    return v[1].epoch > v[0].epoch ? 1 : 0;
}

/* A block in which the former primary has nothing in flight: a read of another one would wait for that. */
static bool find_block(struct sim *s, unsigned former)
{
    for (unsigned tries = 0; tries < 8; tries++) {
        if (s->probed < s->block_count && !sim_clients_change(s, former, s->probed))
            return true;
        s->probed = (uint32_t)sim_below(s, CHANCE_CLIENT, s->block_count);
    }
    return false;
}

void sim_probe(struct sim *s)
{
    const struct sim_clients *c = &s->clients;
    bool both = s->node[0].serving && s->node[1].serving;
    if (!s->registered || !both || c->in_flight > SIM_OPS_MAX / 2)
        return;
    unsigned node = newer(s);
    if (sim_is_paused(&s->node[node], s->now_ns) || !find_block(s, 1 - node))
        return;
    sim_client_submit(s, 0, node, OP_WRITE, 0, s->probed, 1);
    if (sim_is_paused(&s->node[1 - node], s->now_ns))
        return;
    COVER(probes);
    sim_client_submit(s, 0, 1 - node, OP_READ, 0, s->probed, 1);
}
