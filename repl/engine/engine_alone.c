/* Going on alone, where the configuration allows it without a witness (`when-alone: continue`).
 *
 * The peer leaves the in-sync set durably, by a decree of its own, before anything that it lacks is acknowledged. It is
 * waited for a moment first: a daemon that is restarted, or a path that fails over, then costs no resync.
 *
 * The decree makes this leg the one that counts, and all that the peer has the one that is overwritten. So what both
 * have completed is on stable storage here before it: else a loss of power would take that from the volume, although
 * the peer has it. */
#include "repl/engine/engine_internal.h"

#define ALONE_RETRY_NS (10 * NS_PER_MS) /* a handshake is under way: it decides, or ends soon */

/* Rule in-counts-at-once; and a volume that has no decree yet is nobody's to serve alone. */
static bool register_allows(const struct engine *e)
{
    if (!e->config.failover.has_register)
        return true;
    const struct engine_witness *w = &e->witness;
    bool asks_in = w->in_forgotten || (w->swap != SWAP_NOT && w->request.proposal.cause == DECREE_IN);
    return e->sb.registered && !asks_in;
}

static bool may_go_alone(const struct engine *e)
{
    return register_allows(e) && e->config.alone_after_ns != ENGINE_NEVER_ALONE && e->config.peer && is_leading(e) &&
           !e->leg_failed && !e->sb_broken;
}

/* A leg that has never been part of anything is no new one any more: what it has now, nobody may overwrite. */
static bool needs_decree(const struct engine *e) { return e->sb.peer_in_sync || e->sb.history.count == 0; }

void alone_consider(struct engine *e, uint64_t now_ns, uint64_t heard_ns)
{
    if (!may_go_alone(e) || e->alone || e->alone_at_ns)
        return;
    /* Rule living-primary: the peer counts its silence from when it heard something last, too; and what has to be
     * flushed is flushed meanwhile. */
    uint64_t since_ns = register_rules(e) && heard_ns ? heard_ns : now_ns;
    if (register_rules(e) && needs_decree(e))
        leg_want_stable(e);
    /* The decree says already that the peer is not in sync: there is nothing to wait for. */
    e->alone_at_ns = e->sb.peer_in_sync ? max_u64(now_ns, since_ns + e->config.alone_after_ns) : now_ns;
}

void alone_end(struct engine *e, struct actions *out)
{
    e->alone = false;
    mirror_peer_ready(e->mirror, e->sb.epoch, e->peer.window_frames, e->peer.window_bytes, out);
}

void alone_on_session_up(struct engine *e)
{
    e->alone_at_ns = 0;
    e->alone_flushes = false;
    e->alone_wanted = false;
    e->witness.out_wanted = false;
}

void alone_forget(struct engine *e)
{
    alone_on_session_up(e);
    if (e->alone)
        mirror_peer_hold(e->mirror);
    e->alone = false;
    e->alone_since_ns = 0;
}

/* The bitmap is complete up to the entry that came before it. */
uint64_t alone_epoch(const struct engine *e)
{
    const struct history *h = &e->sb.history;
    for (uint32_t i = 0; i < h->count; i++)
        if (h->entries[i].epoch > e->sb.base.epoch)
            return h->entries[i].epoch;
    return e->sb.epoch;
}

/* The peer counts as lost. */
static void leave_peer_behind(struct engine *e, struct actions *out)
{
    if (needs_decree(e) && e->stable != STABLE_ALL) {
        e->alone_flushes = true;
        leg_want_stable(e);
        return;
    }
    /* Rule out-first: the table asks for it, now that the leg is flushed. */
    if (needs_decree(e) && register_rules(e)) {
        e->witness.out_wanted = true;
        return;
    }
    if (needs_decree(e))
        decree_renew(e, false, out);
    e->stable = STABLE_NOT;
    e->alone_wanted = true;
}

void alone_advance(struct engine *e, uint64_t now_ns, struct actions *out)
{
    if (e->alone_flushes && e->stable == STABLE_ALL) {
        e->alone_flushes = false;
        e->alone_at_ns = now_ns;
    }
    if (e->alone_at_ns && now_ns >= e->alone_at_ns) {
        e->alone_at_ns = 0;
        bool deciding = e->session == SESSION_JUDGED || e->session == SESSION_READY;
        if (deciding) {
            e->alone_at_ns = now_ns + ALONE_RETRY_NS;
        } else if (may_go_alone(e) && e->session != SESSION_UP) {
            leave_peer_behind(e, out);
        }
    }
    if (!e->alone_wanted || !persisted(e))
        return;
    e->alone_wanted = false;
    if (!may_go_alone(e) || e->session == SESSION_UP || e->sb.peer_in_sync)
        return;
    e->alone = true;
    if (!e->alone_since_ns)
        e->alone_since_ns = now_ns;
    mirror_go_alone(e->mirror, out);
    actions_note(out, NOTE_WARNING, "role", "%s goes on alone from epoch %llu: %s has left the in-sync set",
                 e->config.node, (unsigned long long)e->sb.epoch, e->config.peer);
}
