/* An operator puts this node's decree over a register that is older, or has lost everything (docs/FAILOVER.md, "When
 * the witness is lost, or older").
 *
 * The register says itself that it is older. Whatever was under way expects an epoch that it does not have, and the gap
 * that adopting leaves is above what may yet come of it: it is given up, so that the nodes can meet. Between them they
 * know everything that was decided when they are in session and in sync, or would be by a decree; or one does, if the
 * other is out of the set. */
#include <errno.h>

#include "repl/engine/engine_internal.h"

#define ADOPT_WAIT_NS (10 * NS_PER_S) /* two nodes find each other, and are in sync */

static void answer(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    e->witness.adopt = false;
    order_answer(e->witness.adopt_cookie, result, text, out);
}

void adopt_order(struct engine *e, void *cookie, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    bool settled = e->role.phase == PHASE_PRIMARY || e->role.phase == PHASE_SECONDARY;
    if (!e->config.failover.has_register) {
        order_answer(cookie, -EPERM, "not without a `witness` in the configuration", out);
    } else if (handover_is_stuck(e)) {
        order_answer(cookie, -EBUSY,
                     actions_text(out,
                                  "%s has stopped for a switchover, and waits for the witness: `lockstep down --force` "
                                  "and `lockstep up` on it, and this once it is connected again",
                                  e->config.node),
                     out);
    } else if (e->role.phase == PHASE_DEMOTING && w->ended) {
        order_answer(
            cookie, -EBUSY,
            actions_text(out,
                         "%s was demoted, and waits to tell the witness: `lockstep down --force` and `lockstep "
                         "up` on it, and this once it is connected again",
                         e->config.node),
            out);
    } else if (!settled || w->adopt) {
        order_answer(cookie, -EBUSY, "another order is under way; try again in a moment", out);
    } else if (e->session == SESSION_UP && e->peer_leads) {
        order_answer(cookie, -EPERM, actions_text(out, "%s is primary: order it there", e->config.peer), out);
    } else {
        w->adopt = true;
        w->adopt_cookie = cookie;
        w->adopt_until_ns = e->now_ns + ADOPT_WAIT_NS + 2 * e->config.failover.dead_after_ns;
        w->read_at_ns = w->retry_at_ns = e->now_ns;
    }
}

/* Refused says that it was not carried out: also when the order has ended since, nobody is kept apart by it. */
static void on_refused(struct engine *e, const struct register_answer *a, struct actions *out)
{
    register_forget_swap(e);
    if (e->witness.adopt)
        answer(e, -EPERM, actions_text(out, "%s", a->reason), out);
}

void adopt_on_answer(struct engine *e, bool of_read, const struct register_answer *a, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    bool adopts = w->swap != SWAP_NOT && w->request.proposal.cause == DECREE_ADOPT;
    if (adopts && a->outcome == REGISTER_REFUSED)
        on_refused(e, a, out);
    if (!w->adopt)
        return;
    if (a->outcome == REGISTER_OLDER && !adopts) {
        swaps_forget_in(e);
        register_forget_swap(e);
        if (e->sb.asked_epoch) {
            e->sb.asked_epoch = 0;
            want_persisted(e);
        }
        register_take_decree(e, &a->decree);
        w->fresh = true;
    } else if (of_read && a->outcome == REGISTER_STANDS) {
        answer(e, -EPERM, "the witness is not older than this node: there is nothing to adopt", out);
    }
}

void adopt_ends(struct engine *e, bool done, struct actions *out)
{
    if (e->witness.adopt)
        answer(e, done ? 0 : -EPERM, done ? NULL : "another decree stands by now: see `lockstep status`", out);
}

void adopt_advance(struct engine *e, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    if (!w->adopt || e->now_ns < w->adopt_until_ns)
        return;
    if (w->swap != SWAP_NOT && w->request.proposal.cause == DECREE_ADOPT)
        answer(e, -ETIMEDOUT, "the witness has not answered: it may have adopted the decree, see `lockstep status`",
               out);
    else if (e->session == SESSION_UP && e->peer_leads)
        answer(e, -EPERM, actions_text(out, "%s is primary: order it there", e->config.peer), out);
    else if (w->state != REGISTER_STATE_OLDER)
        answer(e, -EPERM, actions_text(out, "the witness does not say that it is older: %s", w->reason), out);
    else
        answer(
            e, -EPERM,
            actions_text(out,
                         "only with %s connected and in sync, or its resync at its end, or out of the in-sync set by "
                         "the last epoch that is known here, do the nodes know all that was decided: see `lockstep "
                         "status`",
                         e->config.peer),
            out);
}

uint64_t adopt_deadline_ns(const struct engine *e) { return e->witness.adopt ? e->witness.adopt_until_ns : UINT64_MAX; }
