/* The read lease: a primary answers reads only while its peer, which may take over, has heard of it lately
 * (docs/FAILOVER.md, "Reads").
 *
 * Counted from when this node sent what the peer has received: hearing the peer is not enough, as it may not hear this
 * node. Reads that find none wait, as writes do. */
#include "repl/engine/engine_internal.h"

/* Nobody can be promoted but the peer, and only as a member. One that was asked for counts. Without a leg of its own
 * the peer's answers, who knows. */
static bool is_needed(const struct engine *e)
{
    bool member = e->sb.peer_in_sync || e->witness.swap != SWAP_NOT;
    return register_may_rule(e) && e->config.peer && is_leading(e) && !e->leg_is_out && member;
}

void lease_on_heard(struct engine *e, uint64_t sent_ns)
{
    /* Of a primary only: before, the peer did not count on it. */
    if (!is_leading(e) && e->role.phase != PHASE_PROMOTING)
        return;
    e->witness.lease_until_ns = max_u64(e->witness.lease_until_ns, sent_ns + e->config.failover.dead_after_ns);
}

/* To be called when a step begins, before a read can get its range in it, and when it ends. */
void lease_look(struct engine *e, struct actions *out)
{
    bool hold = is_needed(e) && e->now_ns >= e->witness.lease_until_ns;
    if (hold != e->witness.reads_held) {
        e->witness.reads_held = hold;
        e->witness.held_since_ns = e->now_ns;
        mirror_hold_reads(e->mirror, hold, out);
    }
}
