/* The session with the peer: its hello, its frames, its end. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

void session_drop(struct engine *e, const char *text, struct actions *out)
{
    if (e->session == SESSION_NONE || e->session == SESSION_ENDING)
        return;
    e->session = SESSION_ENDING;
    actions_add(out, ACT_SESSION_DROP)->text.text = text;
}

static void refuse(struct engine *e, const char *text, struct actions *out)
{
    e->session = SESSION_ENDING;
    actions_add(out, ACT_SESSION_REFUSE)->text.text = actions_text(out, "%s", text);
    if (strcmp(e->refused, text) == 0)
        return;
    snprintf(e->refused, sizeof(e->refused), "%s", text);
    actions_note(out, NOTE_ERROR, "link", "refused: %s", text);
}

void session_on_hello(struct engine *e, const struct hello *peer, struct actions *out)
{
    assert(e->session == SESSION_NONE && e->config.peer);
    bool leaving = e->role.phase == PHASE_DETACHED || (e->role.phase == PHASE_DETACHING && !e->draining_primary);
    if (leaving) {
        e->session = SESSION_ENDING;
        actions_add(out, ACT_SESSION_REFUSE)->text.text =
            actions_text(out, "volume %s is being taken down on %s", e->config.volume, e->config.node);
        return;
    }
    /* As we are now, which is not always what we said: the peer has seen the epoch that was said. */
    struct hello own;
    uint64_t said_epoch = e->said_epoch;
    engine_hello(e, &own);
    e->said_epoch = said_epoch;
    struct sync_judgement j;
    sync_judge(&own, peer, &j);
    e->peer_leg = peer->leg;
    e->peer_block_bytes = peer->block_bytes;
    e->refused_a_primary = peer->role == ROLE_PRIMARY;
    if (j.verdict == SYNC_REFUSE) {
        if (j.own_deposed)
            decree_step_down(e, out);
        /* Refused or not, the epoch is seen: this node must not take it a second time. */
        bool same_volume = !id_is_none(own.volume_id) && id_equal(own.volume_id, peer->volume_id);
        if (same_volume && !is_leading(e) && e->role.phase != PHASE_PROMOTING && peer->epoch > e->sb.epoch) {
            e->sb.epoch = peer->epoch;
            want_persisted(e);
        }
        refuse(e, j.text, out);
        return;
    }
    if (e->sb.peer_leg == LEG_FAILED) {
        refuse(e,
               "the peer's leg failed a flush and may lack acknowledged writes. This version has no resync: save the "
               "data, run `lockstep create --force` on both nodes, put it back",
               out);
        return;
    }
    e->refused[0] = 0;
    e->refused_a_primary = false;
    e->session = SESSION_JUDGED;
    e->peer = *peer;
    e->peer_epoch = peer->epoch;
    e->peer_ready = false;
    if (j.verdict == SYNC_PAIR)
        e->sb.pristine = false;
    bool changed = e->sb.epoch != j.epoch || e->sb.size_bytes != j.size_bytes ||
                   !id_equal(e->sb.volume_id, j.volume_id) || !id_equal(e->sb.peer_leg_id, peer->leg_id);
    if (!changed)
        return;
    e->sb.epoch = j.epoch;
    e->sb.size_bytes = j.size_bytes;
    e->sb.volume_id = j.volume_id;
    e->sb.peer_leg_id = peer->leg_id;
    mirror_set_size(e->mirror, j.size_bytes);
    want_persisted(e);
    if (j.verdict == SYNC_PAIR)
        actions_note(out, NOTE_INFO, "leg", "paired with the fresh leg of %s; the volume has %llu bytes", peer->node,
                     (unsigned long long)j.size_bytes);
}

void session_on_up(struct engine *e, struct actions *out)
{
    assert(e->session == SESSION_READY || e->session == SESSION_ENDING);
    if (e->session == SESSION_ENDING)
        return;
    e->session = SESSION_UP;
    e->session_was_up = true;
    /* The peer judged our hello as we judged its: it has persisted the higher of both epochs. */
    e->peer_epoch = max_u64(e->peer.epoch, e->said_epoch);
    /* A secondary's mirror has nothing to send; it learns that a session began. A leader's learns it when the peer has
     * agreed to the epoch. */
    if (!is_leading(e))
        mirror_peer_ready(e->mirror, e->sb.epoch, e->peer.window_frames, e->peer.window_bytes, out);
}

void session_on_down(struct engine *e, struct actions *out)
{
    bool was_up = e->session_was_up;
    e->session = SESSION_NONE;
    e->session_was_up = false;
    e->peer_ready = false;
    e->decree_owed = false;
    role_session_lost(&e->role);
    /* The peer may be primary, and about to say so. An operator who promotes now knows that they are apart. */
    if (e->role.phase == PHASE_ASKING) {
        role_yield(&e->role);
        orders_finish(
            e, -EBUSY,
            actions_text(out, "the connection to %s was lost before it agreed. If it is not primary, promote again",
                         e->config.peer),
            out);
    }
    mirror_peer_lost(e->mirror, out);
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    /* Why it ended, the session has told already. */
    if (was_up && mirror.waiting)
        actions_note(out, NOTE_WARNING, "link", "%u writes wait until %s is back", mirror.waiting, e->config.peer);
}

/* A frame that breaks the rules ends the session; `payload` is released here. */
static void broken_rule(struct engine *e, const struct frame *frame, struct buf *payload, const char *text,
                        struct actions *out)
{
    if (payload)
        buf_put(payload);
    session_drop(e, actions_text(out, "%s frame: %s", frame_kind_name(frame->kind), text), out);
}

void session_on_frame(struct engine *e, const struct frame *frame, struct buf *payload, struct actions *out)
{
    if (e->session != SESSION_UP) {
        /* Ours to drop: we have ended this session, but the news has not come back yet. */
        if (payload)
            buf_put(payload);
        return;
    }
    const char *wrong = NULL;
    switch (frame->kind) {
    case FRAME_WRITE:
    case FRAME_DISCARD:
    case FRAME_WRITE_ZEROES:
    case FRAME_FLUSH:
        /* Who asks to be primary is still secondary, of a primary that may be about to object. */
        if (e->role.phase != PHASE_SECONDARY && e->role.phase != PHASE_ASKING)
            broken_rule(e, frame, payload, "this node is not secondary", out);
        else if (frame->epoch != e->sb.epoch || e->decree_owed)
            broken_rule(e, frame, payload, "not of the current epoch (epoch)", out);
        else if ((frame->offset_bytes | frame->length_bytes) % own_block_bytes(e))
            /* Else the disk would refuse it, and the leg would seem to have failed. */
            broken_rule(e, frame, payload, "not aligned to this leg's blocks (offset_bytes, length_blocks)", out);
        else
            wrong = mirror_peer_change(e->mirror, frame, payload, out);
        break;
    case FRAME_ACK:
        if (frame->tag == TAG_DECREE)
            decree_on_answer(e, frame, out);
        else
            wrong = mirror_ack(e->mirror, frame, out);
        break;
    case FRAME_DECREE: decree_on_ask(e, frame, out); break;
    case FRAME_HELLO:
    case FRAME_READY:
    case FRAME_REFUSE:
    case FRAME_HEARTBEAT:
    case FRAME_SYNC_BITS:
    case FRAME_SYNC_ASK:
    case FRAME_SYNC_DATA:
    case FRAME_SYNC_STABLE:
    case FRAME_SYNC_DONE:
    case FRAME_READ:
    case FRAME_READ_DATA:
    case FRAME_VERIFY_ASK:
    case FRAME_VERIFY_REPLY: broken_rule(e, frame, payload, "not expected here", out); return;
    }
    if (wrong)
        broken_rule(e, frame, NULL, wrong, out);
}
