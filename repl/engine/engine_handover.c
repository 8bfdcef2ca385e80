/* Switchover: the primary stops, and its peer takes its place, with nothing lost and nothing resynced
 * (docs/FAILOVER.md, "How it goes").
 *
 * Its front stays open, and what clients ask waits there. What is in flight ends, and both legs are flushed; until then
 * it may go on as if nothing had been. Then the peer is told (handed), and asks the register for this node's place.
 * From there on there is no way back but by a decree of its own (rule give-up-by-swap). */
#include <errno.h>
#include <stdio.h>

#include "repl/engine/engine_internal.h"

static bool is_draining_still(const struct engine *e) { return e->role.phase == PHASE_HANDING && !e->role.handed; }

static bool has_handed(const struct engine *e) { return e->role.phase == PHASE_HANDING && e->role.handed; }

/* All else is done. */
bool handover_waits_for_register(const struct engine *e)
{
    return is_draining_still(e) && e->witness.hand_unread && e->own_flushed;
}

bool handover_tries_register(const struct engine *e) { return is_draining_still(e) && e->witness.hand_unread; }

void handover_on_answer(struct engine *e, bool good, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    if (!is_draining_still(e) || !w->hand_unread)
        return;
    if (good && !w->request.tries) { /* it was asked before this began */
        w->read_at_ns = e->now_ns;
        return;
    }
    w->hand_unread = false;
    if (!good)
        handover_is_called_off(e, actions_text(out, "the witness does not help: %s", w->reason), out);
}

bool handover_is_stuck(const struct engine *e) { return has_handed(e) && e->witness.gives_up; }

/* ---- the order ---- */

/* Why it is not safe, or not possible now, as a text that lives as long as the actions'; NULL: it is. */
static const char *obstacle(struct engine *e, int32_t *code, struct actions *out)
{
    const struct engine_witness *w = &e->witness;
    *code = -EPERM;
    if (!e->config.peer)
        return "the volume has a single node";
    if (!e->config.failover.has_register)
        return actions_text(out,
                            "not without a `witness` in the configuration: `lockstep demote` on the node that serves, "
                            "then `lockstep promote` on the other one");
    if (!register_rules(e))
        return "the volume has no decree yet: promote it first, with both nodes and the witness in reach";
    const char *why_not = release_is_stuck(e) ? NULL : engine_why_not(e);
    if (why_not)
        return actions_text(out, "both legs must be connected and in sync: %s", why_not);
    if (!e->peer.hands_over)
        return actions_text(out, "%s runs a version that does not know it", e->config.peer);
    if (w->state == REGISTER_STATE_ASKING)
        return "the witness has not answered yet";
    if (w->state != REGISTER_STATE_REACHABLE)
        return actions_text(out, "the witness does not help: %s", w->reason);
    *code = -EBUSY;
    if (e->resize.ordered || e->resize.asked || !grow_is_idle(e))
        return "a resize is under way: wait for its end";
    /* Whether it is in the set, and at which epoch, its primary has heard last. */
    bool heard = !is_leading(e) || (w->decree.epoch == e->sb.epoch && w->decree.member_count == DECREE_MEMBERS_MAX);
    bool settled = heard && w->swap == SWAP_NOT && !w->adopt && persisted(e);
    if (!settled)
        return "the decree that stands is just changing; try again in a moment";
    return NULL;
}

static bool may_lead_out(const struct engine *e) { return e->role.phase == PHASE_PRIMARY && e->peer_ready; }

static bool may_follow(const struct engine *e)
{
    return e->role.phase == PHASE_SECONDARY && e->session == SESSION_UP && e->peer_leads && !e->decree_owed &&
           !e->witness.promote && e->promotion_count == 0;
}

static void begin(struct engine *e, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    e->own_flushed = false;
    e->ending_flushed = false;
    w->gives_up = w->peer_waits = w->fails_held = false;
    /* What it was a while ago does not tell whether it answers now, and who has handed over needs that it does. */
    w->hand_unread = true;
    w->read_at_ns = e->now_ns;
    w->hand_since_ns = e->now_ns;
    w->hand_until_ns = e->now_ns + e->config.failover.dead_after_ns;
    w->switch_until_ns = e->now_ns + register_wait_ns(e);
    role_hand(&e->role);
    actions_note(out, NOTE_INFO, "role", "%s hands over to %s: requests wait", e->config.node, e->config.peer);
}

void handover_order(struct engine *e, void *cookie, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    if (e->role.phase == PHASE_HANDING || w->switch_asked) { /* as is under way already */
        order_keep(e, cookie, out);
        return;
    }
    int32_t code;
    const char *text = obstacle(e, &code, out);
    if (!text && !may_lead_out(e) && !may_follow(e)) {
        code = -EBUSY;
        text = "nobody serves, or roles are just changing: see `lockstep status`";
    }
    if (text) {
        bool unreachable = e->config.peer && e->config.failover.has_register && e->session != SESSION_UP;
        order_answer(cookie, unreachable ? -ENOTCONN : code, text, out);
        return;
    }
    if (!order_keep(e, cookie, out))
        return;
    if (may_lead_out(e)) {
        begin(e, out);
        return;
    }
    w->switch_asked = true;
    w->switch_until_ns = e->now_ns + register_wait_ns(e);
    decree_send(FRAME_DECREE, FRAME_FLAG_HAND, e->sb.epoch, 0, out);
}

/* ---- the primary ---- */

void handover_hand(struct engine *e, struct actions *out)
{
    e->witness.hand_until_ns = e->now_ns + e->config.failover.dead_after_ns;
    decree_send(FRAME_DECREE, FRAME_FLAG_HAND, e->sb.epoch, 0, out);
}

static void give_up(struct engine *e, const char *why)
{
    struct engine_witness *w = &e->witness;
    if (w->gives_up)
        return;
    w->gives_up = true;
    w->read_at_ns = e->now_ns;
    snprintf(w->why_kept, sizeof(w->why_kept), "%s", why);
}

static void refuse(struct engine *e, uint64_t epoch, uint16_t status, struct actions *out)
{
    e->witness.handed = false;
    decree_send(FRAME_ACK, FRAME_FLAG_HAND, epoch, status, out);
}

/* What the peer, which has asked for it, tells its operator. */
static uint16_t status_of_refusal(const struct engine *e)
{
    bool answers = e->witness.state == REGISTER_STATE_REACHABLE && !handover_waits_for_register(e);
    return answers ? EBUSY : EHOSTUNREACH;
}

void handover_is_called_off(struct engine *e, const char *why, struct actions *out)
{
    if (e->role.handed) {
        actions_add(out, ACT_SERVE)->serve.on = false;
        role_step_down(&e->role);
        e->sb.role = ROLE_SECONDARY;
        want_persisted(e);
        orders_finish(e, -EBUSY, actions_text(out, "%s; %s may have taken over, or may yet", why, e->config.peer), out);
        return;
    }
    uint16_t status = status_of_refusal(e);
    role_keep(&e->role);
    e->ending_flushed = false;
    if (e->own_flush_busy && e->own_flush_for == FLUSH_FOR_ENDING)
        e->own_flush_for = FLUSH_IN_VAIN;
    const char *text = actions_text(out, "%s: %s serves on", why, e->config.node);
    actions_note(out, NOTE_WARNING, "role", "not handed over: %s", text);
    orders_finish(e, -EBUSY, text, out);
    if (e->witness.peer_waits && e->session == SESSION_UP)
        refuse(e, e->sb.epoch, status, out);
}

void handover_returns(struct engine *e, struct actions *out)
{
    if (!has_handed(e))
        return;
    role_keep(&e->role);
    e->witness.gives_up = false;
    const char *text = actions_text(out, "%s: %s serves on", e->witness.why_kept, e->config.node);
    actions_note(out, NOTE_WARNING, "role", "not handed over: %s", text);
    orders_finish(e, -EBUSY, text, out);
}

/* Nothing is in flight, and both legs are flushed: the activity log tells nothing any more, as after a demotion. */
void handover_is_taken(struct engine *e, struct actions *out)
{
    assert(has_handed(e));
    actions_add(out, ACT_SERVE)->serve.on = false;
    role_step_down(&e->role);
    alone_forget(e);
    if (!e->leg_failed && log_is_settled(e))
        e->sb.al_from = al_clear(e->al);
    e->ending_flushed = false;
    e->sb.role = ROLE_SECONDARY;
    e->sb.was_primary = false;
    e->peer_leads = true;
    e->witness.heard_ns = max_u64(e->witness.heard_ns, e->now_ns);
    want_persisted(e);
    const char *pause = actions_text(out, "Requests waited for %llu ms",
                                     (unsigned long long)((e->now_ns - e->witness.hand_since_ns) / NS_PER_MS));
    actions_note(out, NOTE_INFO, "role", "%s has handed over to %s; it is secondary. %s", e->config.node,
                 e->config.peer, pause);
    orders_finish(e, 0, pause, out);
}

/* ---- frames ---- */

void handover_on_frame(struct engine *e, const struct frame *frame, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    int32_t code;
    if (e->role.phase == PHASE_HANDING) { /* both were ordered to */
        w->peer_waits = true;
        return;
    }
    if (e->role.phase == PHASE_PRIMARY) {
        if (frame->epoch == e->sb.epoch && may_lead_out(e) && !obstacle(e, &code, out)) {
            begin(e, out);
            w->peer_waits = true;
        } else {
            refuse(e, frame->epoch, status_of_refusal(e), out);
        }
        return;
    }
    bool may = e->role.phase == PHASE_SECONDARY && frame->epoch == e->sb.epoch && persisted(e) && !e->decree_owed &&
               engine_is_in_sync(e) && register_rules(e) && w->swap == SWAP_NOT;
    if (!may) {
        refuse(e, frame->epoch, EBUSY, out);
        return;
    }
    w->handed = true;
    w->read_at_ns = e->now_ns;
}

static const char *refusal_text(const struct engine *e, uint16_t status, struct actions *out)
{
    return status == EHOSTUNREACH ? actions_text(out, "%s does not reach the witness", e->config.peer)
                                  : actions_text(out, "%s cannot do its part now: see its status", e->config.peer);
}

void handover_on_refused(struct engine *e, const struct frame *frame, struct actions *out)
{
    const char *text = refusal_text(e, frame->status, out);
    if (has_handed(e) && frame->epoch == e->sb.epoch)
        give_up(e, text);
    handover_fails(e, text, out);
}

/* ---- the secondary ---- */

void handover_fails(struct engine *e, const char *text, struct actions *out)
{
    e->witness.handed = false;
    if (!e->witness.switch_asked)
        return;
    e->witness.switch_asked = false;
    orders_finish(e, -EBUSY, text, out);
}

void handover_was_read(struct engine *e, int row, struct actions *out)
{
    bool asks = row >= 0 && swap_cause(row) == DECREE_SWITCH;
    if (e->witness.handed && !asks && persisted(e) && e->session == SESSION_UP)
        refuse(e, e->sb.epoch, EBUSY, out);
}

/* ---- both ---- */

/* A swap that was sent may be carried out yet: its end is heard of. */
void handover_on_session_down(struct engine *e, struct actions *out)
{
    const char *why = actions_text(out, "the connection to %s was lost", e->config.peer);
    if (is_draining_still(e))
        handover_is_called_off(e, why, out);
    else if (has_handed(e))
        give_up(e, why);
    e->witness.handed = false;
    if (e->witness.swap == SWAP_NOT)
        handover_fails(e, why, out);
}

void handover_advance(struct engine *e, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    bool late = e->now_ns >= w->hand_until_ns;
    if (is_draining_still(e) && !engine_is_in_sync(e))
        handover_is_called_off(e, "the legs are not in sync any more", out);
    else if (is_draining_still(e) && late && handover_waits_for_register(e))
        handover_is_called_off(e, "the witness does not help: it has not answered in time", out);
    else if (is_draining_still(e) && late)
        handover_is_called_off(e, "what was in flight did not end in time: a disk is slow, or hangs", out);
    if (has_handed(e) && late)
        give_up(e, actions_text(out, "%s did not take over in time", e->config.peer));
    bool overdue = e->now_ns >= w->switch_until_ns;
    if (has_handed(e) && w->gives_up && overdue && e->order_count > 0)
        orders_finish(e, -ETIMEDOUT,
                      actions_text(out,
                                   "%s, and the witness does not tell who serves: requests wait here until it does, or "
                                   "until this node is taken down (`lockstep down --force`)",
                                   w->why_kept),
                      out);
    if (w->handed && w->swap == SWAP_NOT && w->state != REGISTER_STATE_REACHABLE && e->session == SESSION_UP)
        refuse(e, e->sb.epoch, EHOSTUNREACH, out);
    if (w->switch_asked && overdue)
        handover_fails(e, "not done in time: see `lockstep status`", out);
}

uint64_t handover_deadline_ns(const struct engine *e)
{
    const struct engine_witness *w = &e->witness;
    uint64_t at_ns = w->switch_asked ? w->switch_until_ns : UINT64_MAX;
    if (e->role.phase != PHASE_HANDING)
        return at_ns;
    if (!w->gives_up)
        return min_u64(at_ns, w->hand_until_ns);
    return e->order_count > 0 ? min_u64(at_ns, w->switch_until_ns) : at_ns;
}
