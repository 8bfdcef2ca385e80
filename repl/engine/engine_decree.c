/* Who is primary at which epoch: asking the peer, answering it, taking an epoch, and being overtaken by one. */
#include <errno.h>

#include "repl/engine/engine_internal.h"

void decree_send(enum frame_kind kind, uint64_t epoch, uint16_t status, struct actions *out)
{
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = NULL;
    a->send.frame = (struct frame) { .kind = kind, .epoch = epoch, .tag = TAG_DECREE, .status = status };
}

/* A primary that learns that another epoch has begun serves no longer. What waits was never acknowledged. */
void decree_step_down(struct engine *e, struct actions *out)
{
    if (role_is_serving(&e->role))
        actions_add(out, ACT_SERVE)->serve.on = false;
    role_step_down(&e->role);
    e->draining_primary = false;
    e->sb.role = ROLE_SECONDARY;
    /* What has been completed is on both legs. What has not may be on one: also on the peer's only, while our own disk
     * is still busy with it, which we may not live to see. */
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    e->sb.unclean |= mirror.unsettled;
    want_persisted(e);
    mirror_fail_all(e->mirror, -EIO, out);
    if (e->role.phase == PHASE_SECONDARY)
        orders_finish(e, -EPERM, "this node was deposed", out);
    actions_note(out, NOTE_ERROR, "role", "deposed: another epoch has begun; this node is secondary");
}

void decree_on_ask(struct engine *e, const struct frame *frame, struct actions *out)
{
    uint16_t objection = 0;
    switch (e->role.phase) {
    case PHASE_PROMOTING:
    case PHASE_PRIMARY:
    case PHASE_DEMOTING:
    case PHASE_DETACHING:
    case PHASE_DETACHED: objection = EBUSY; break;
    case PHASE_ASKING:
        /* Both were told to promote: the higher epoch wins, then the node that is listed first. */
        if (frame->epoch < e->asked_epoch || (frame->epoch == e->asked_epoch && e->config.node_index == 0)) {
            objection = EBUSY;
            break;
        }
        role_yield(&e->role);
        orders_finish(e, -EBUSY, actions_text(out, "%s is becoming primary", e->config.peer), out);
        break;
    case PHASE_SECONDARY:
        if (frame->epoch < e->sb.epoch)
            objection = ESTALE;
        break;
    }
    if (objection) {
        decree_send(FRAME_ACK, frame->epoch, objection, out);
        return;
    }
    if (frame->epoch > e->sb.epoch) {
        e->sb.epoch = frame->epoch;
        want_persisted(e);
    }
    e->decree_owed = true;
    e->decree_epoch = frame->epoch;
    actions_note(out, NOTE_INFO, "role", "%s is primary from epoch %llu", e->config.peer,
                 (unsigned long long)frame->epoch);
}

/* This node takes an epoch that nobody has served at. */
void decree_take(struct engine *e, uint64_t epoch, struct actions *out)
{
    e->sb.epoch = epoch;
    e->sb.role = ROLE_PRIMARY;
    e->sb.pristine = false;
    e->peer_ready = false; /* of an earlier term in the same session: the mirror is to learn the new epoch */
    if (e->promote_force && (own_leg(e) != LEG_UP_TO_DATE || e->sb.lost_power)) {
        actions_note(out, NOTE_WARNING, "role",
                     "promotion was forced: acknowledged writes may be lost, and the legs may "
                     "differ until a resync");
        e->sb.unclean = e->config.peer != NULL;
        e->sb.lost_power = false;
    }
    if (!e->config.peer && !id_is_none(e->sb.peer_leg_id)) {
        /* From now on writes are acknowledged that the leg which it was paired with lacks. */
        actions_note(
            out, NOTE_WARNING, "leg",
            "promoted with no peer in the configuration: the leg that this one was paired with is left behind, "
            "and needs a full resync to come back");
        e->sb.peer_leg_id = (struct id) { 0 };
        e->sb.peer_leg = LEG_NONE;
    }
    if (id_is_none(e->sb.volume_id))
        e->sb.volume_id = e->sb.leg_id;
    if (e->sb.size_bytes == 0) {
        e->sb.size_bytes = e->config.capacity_bytes;
        mirror_set_size(e->mirror, e->sb.size_bytes);
    }
    want_persisted(e);
}

void decree_on_answer(struct engine *e, const struct frame *frame, struct actions *out)
{
    if (e->role.phase == PHASE_ASKING && frame->epoch == e->asked_epoch) {
        if (frame->status == 0) {
            role_agreed(&e->role);
            e->peer_epoch = frame->epoch;
            decree_take(e, frame->epoch, out);
            return;
        }
        role_yield(&e->role);
        orders_finish(
            e, -EPERM,
            actions_text(out, "%s is primary, or is becoming it: demote it first (promise 3: one primary at a time)",
                         e->config.peer),
            out);
        return;
    }
    bool ours = (e->role.phase == PHASE_PROMOTING || is_leading(e)) && frame->epoch == e->sb.epoch;
    if (!ours)
        return;
    if (frame->status == 0)
        e->peer_epoch = frame->epoch;
    else
        session_drop(e, "the peer does not accept this node as primary", out);
}
