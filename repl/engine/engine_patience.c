/* `fail-after`: requests that wait for the peer or the register end with an error when they have waited for so long.
 *
 * Looked at now and then, so that nothing is counted on the way of a request: none ends early, and none waits for more
 * than a quarter longer. But where a switchover has come to nothing, and nobody tells who serves, requests are held in
 * the front, out of sight: what came first has waited since this node has stopped, and what comes later fails with it,
 * at once, until it is known. No leg sees anything of them: that fails what may be another node's to answer, and
 * acknowledges nothing. */
#include <errno.h>

#include "repl/engine/engine_internal.h"

#define LOOKS 4

/* A handshake may hang, too. */
static bool waits(const struct engine *e)
{
    bool apart = e->session == SESSION_NONE || e->session == SESSION_JUDGED || e->session == SESSION_READY;
    return register_may_rule(e) && e->config.failover.fail_after_ns && is_leading(e) && apart && !e->alone;
}

/* Since when the oldest has waited; 0: none does. */
static uint64_t oldest_ns(const struct engine *e)
{
    struct mirror_view v;
    mirror_view(e->mirror, &v);
    uint64_t since_ns = v.waiting ? v.oldest_waiting_ns : 0;
    uint64_t held_ns = e->witness.reads_held && v.reads_waiting ? e->witness.held_since_ns : 0;
    return since_ns && held_ns ? min_u64(since_ns, held_ns) : since_ns + held_ns;
}

/* A register that answers ends it in a moment. */
static bool is_held_up(const struct engine *e)
{
    return e->config.failover.fail_after_ns && handover_is_stuck(e) && e->witness.state != REGISTER_STATE_REACHABLE;
}

static uint64_t held_until_ns(const struct engine *e)
{
    return e->witness.hand_since_ns + e->config.failover.fail_after_ns;
}

bool patience_is_over(const struct engine *e) { return e->witness.fails_held && handover_is_stuck(e); }

void patience_fail(const struct request *request, struct actions *out)
{
    struct action *a = actions_add(out, ACT_COMPLETE);
    a->complete.cookie = request->cookie;
    a->complete.result = -EIO;
}

static void look_at_what_is_held(struct engine *e, struct actions *out)
{
    if (patience_is_over(e) || !is_held_up(e) || e->now_ns < held_until_ns(e))
        return;
    e->witness.fails_held = true;
    actions_note(out, NOTE_ERROR, "role",
                 "the witness does not tell who serves: what is held for the switchover fails (`fail-after`), and what "
                 "comes until it does");
}

void patience_look(struct engine *e, struct actions *out)
{
    uint64_t fail_after_ns = e->config.failover.fail_after_ns;
    look_at_what_is_held(e, out);
    if (!waits(e)) {
        e->witness.patience_ns = UINT64_MAX;
        return;
    }
    if (e->witness.patience_ns != UINT64_MAX && e->now_ns < e->witness.patience_ns)
        return;
    e->witness.patience_ns = e->now_ns + max_u64(fail_after_ns / LOOKS, 1);
    uint64_t since_ns = oldest_ns(e);
    if (!since_ns || e->now_ns < since_ns + fail_after_ns)
        return;
    actions_note(out, NOTE_ERROR, "role", "neither %s nor the witness: what has waited for it fails (`fail-after`)",
                 e->config.peer);
    /* It was agreed to by a peer who does not know of this. */
    session_drop(e, "what waited for the peer has failed (`fail-after`)", out);
    mirror_abandon_waiting(e->mirror, -EIO, out);
    e->witness.held_since_ns = e->now_ns;
}

uint64_t patience_deadline_ns(const struct engine *e)
{
    uint64_t at_ns = waits(e) ? e->witness.patience_ns : UINT64_MAX;
    return is_held_up(e) && !e->witness.fails_held ? min_u64(at_ns, held_until_ns(e)) : at_ns;
}
