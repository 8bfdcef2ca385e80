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
    /* It may end because the peer's leg has failed: bits that are set for that must not be cleared by a flush of this
     * leg's that was asked for before, and comes to its end before the connection does. */
    sync_leave(e, out);
    actions_add(out, ACT_SESSION_DROP)->text.text = text;
}

static void refuse(struct engine *e, const char *text, struct actions *out)
{
    e->session = SESSION_ENDING;
    e->handshake_refused = true;
    actions_add(out, ACT_SESSION_REFUSE)->text.text = actions_text(out, "%s", text);
    e->refused_for_now = false;
    if (strcmp(e->refused, text) == 0)
        return;
    snprintf(e->refused, sizeof(e->refused), "%s", text);
    actions_note(out, NOTE_ERROR, "link", "refused: %s", text);
}

/* It goes on as soon as one of the two has stepped down, or has had its answer from the register. */
static void refuse_for_now(struct engine *e, const char *text, struct actions *out)
{
    e->session = SESSION_ENDING;
    e->handshake_refused = true;
    actions_add(out, ACT_SESSION_DROP)->text.text = actions_text(out, "%s", text);
    e->refused_for_now = true;
    if (strcmp(e->refused, text) == 0)
        return;
    snprintf(e->refused, sizeof(e->refused), "%s", text);
    actions_note(out, NOTE_WARNING, "link", "not connected for now: %s", text);
}

void session_waits_no_more(struct engine *e)
{
    if (e->refused_for_now)
        e->refused[0] = 0;
    e->refused_for_now = false;
}

static bool is_still_as_said(struct engine *e)
{
    struct hello now;
    engine_make_hello(e, &now);
    const struct hello *s = &e->said;
    return now.epoch == s->epoch && now.role == s->role && now.leg == s->leg && now.full == s->full &&
           now.diskless == s->diskless && now.lost_power == s->lost_power && now.differs == s->differs &&
           now.went_back == s->went_back && now.peer_failed == s->peer_failed && now.was_primary == s->was_primary &&
           now.served_epoch == s->served_epoch && now.pristine == s->pristine && now.size_bytes == s->size_bytes &&
           (now.dirty_bytes == 0) == (s->dirty_bytes == 0) && id_equal(now.peer_leg_id, s->peer_leg_id) &&
           now.registered == s->registered && now.asked_epoch == s->asked_epoch &&
           (!now.registered || now.peer_in_sync == s->peer_in_sync) &&
           history_relate(&now.history, &s->history) == HISTORY_EQUAL && history_entry_equal(now.base, s->base);
}

void engine_joins(struct engine *e)
{
    if (id_equal(e->sb.peer_leg_id, e->peer.leg_id))
        return;
    e->sb.peer_leg_id = e->peer.leg_id;
    e->sb.peer_leg = LEG_NONE;
}

/* Both were promoted at one epoch, and nothing came of it: from now on that epoch is at most one node's. */
static void forget_a_term_apart(struct engine *e)
{
    if (is_leading(e) || e->sb.served_epoch == 0 || e->sb.served_epoch != e->peer.served_epoch)
        return;
    e->sb.served_epoch = 0;
    want_persisted(e);
}

static bool is_news_of_a_register(const struct engine *e, const struct hello *peer)
{
    return e->config.failover.has_register && peer->registered && !e->sb.registered;
}

/* A first decree was carried out late: an operator has promoted the peer since, by hand, as that one had heard of none.
 * Its epoch is none of the register's; to whoever knows it as one, the register would be an older one for ever. So that
 * decree counts for nothing, here as there, and the peer makes another first one. */
static void forget_a_late_first(struct engine *e, const struct hello *peer)
{
    const struct engine_witness *w = &e->witness;
    bool same_volume = !id_is_none(e->sb.volume_id) && id_equal(e->sb.volume_id, peer->volume_id);
    bool by_hand = peer->role == ROLE_PRIMARY && !peer->registered && swaps_are_of_one_register(e, peer);
    bool leads = is_leading(e) || e->role.phase == PHASE_PROMOTING;
    bool late = !decree_is_none(&w->decree) && swap_is_late_first(&w->decree, peer->epoch);
    if (!register_rules(e) || !same_volume || !by_hand || leads || peer->epoch <= e->sb.epoch || w->swap != SWAP_NOT ||
        !late)
        return;
    e->sb.registered = false;
    e->sb.epoch = peer->epoch; /* else the next answer of the register would be news */
    want_persisted(e);
}

static void on_refusal(struct engine *e, const struct hello *peer, const struct sync_judgement *j, struct actions *out)
{
    /* Who drains serves no more and gives way: two that wait for each other's acknowledgement would wait for ever.
     * Alone it needs nobody's. Who has no leg can do nothing without a peer that serves by itself now. */
    if (j->own_deposed)
        decree_step_down(e, "this node was deposed: another epoch has begun", out);
    else if (j->two_primaries && ((is_draining(e) && !e->alone) || diskless_is(e)))
        decree_step_down(e, "the peer is primary, too: what waited for it on this node was given up", out);
    /* Refused or not, the epoch is seen: this node must not take it a second time. */
    bool same_volume = !id_is_none(e->said.volume_id) && id_equal(e->said.volume_id, peer->volume_id);
    /* ... and that it is a register's: it must not be promoted as if there were none. */
    if (same_volume && is_news_of_a_register(e, peer) && peer->epoch >= e->sb.epoch) {
        e->sb.registered = true;
        want_persisted(e);
    }
    bool counts = same_volume && swaps_are_of_one_register(e, peer);
    if (counts && !is_leading(e) && e->role.phase != PHASE_PROMOTING && peer->epoch > e->sb.epoch) {
        e->sb.epoch = peer->epoch;
        want_persisted(e);
        swaps_heard_of(e, peer);
    }
    diskless_on_refused(e, peer);
    e->person_decides = j->person_decides;
    swaps_on_refused(e, peer, j);
    if (j->for_now)
        refuse_for_now(e, j->text, out);
    else
        refuse(e, j->text, out);
}

static void pair(struct engine *e, const struct hello *peer, const struct sync_judgement *j, struct actions *out)
{
    e->peer_state = PEER_IN_SYNC;
    e->sb.pristine = false;
    superblock_clear_doubts(&e->sb); /* nothing was acknowledged yet that it could lack */
    e->sb.peer_leg = LEG_NONE;
    e->sb.peer_in_sync = true;
    /* From now on neither leg is new: a fresh one in the place of the other is told from it. */
    if (e->sb.history.count == 0)
        history_append(&e->sb.history, j->pair_entry);
    decree_agreed(e);
    forget_a_term_apart(e);
    want_persisted(e);
    actions_note(out, NOTE_INFO, "leg", "paired with the fresh leg of %s; the volume has %llu bytes", peer->node,
                 (unsigned long long)j->size_bytes);
}

/* What the two have agreed on, before what follows from the verdict. */
static void agree(struct engine *e, const struct hello *peer, const struct sync_judgement *j)
{
    e->refused[0] = 0;
    e->refused_a_primary = false;
    e->is_behind = false;
    e->person_decides = false;
    e->session = SESSION_JUDGED;
    e->session_made = true;
    e->peer = *peer;
    e->witness.complete = false;
    e->peer_epoch = peer->epoch;
    e->peer_ready = false;
    e->peer_is_ready = false;
    e->peer_leads = peer->role == ROLE_PRIMARY;
    mirror_raise_lsn(e->mirror, peer->lsn);
    /* Whoever is told of a register by its peer asks it, too; and what it had asked for, that epoch makes void. */
    bool told = is_news_of_a_register(e, peer) && peer->epoch >= e->sb.epoch;
    bool is_void = e->sb.asked_epoch && e->sb.asked_epoch < j->epoch;
    if (told || is_void) {
        e->sb.registered |= told;
        e->sb.asked_epoch = is_void ? 0 : e->sb.asked_epoch;
        want_persisted(e);
    }
    /* A target takes over whom it belongs to when it becomes one: before its source has on record what it is to get,
     * the two legs must not take each other for a pair. */
    bool joins = j->verdict != SYNC_TARGET && !id_equal(e->sb.peer_leg_id, peer->leg_id);
    if (e->sb.epoch != j->epoch || !id_equal(e->sb.volume_id, j->volume_id) || joins) {
        e->sb.epoch = j->epoch;
        e->sb.volume_id = j->volume_id;
        if (joins)
            engine_joins(e);
        want_persisted(e);
    }
}

void session_on_hello(struct engine *e, const struct hello *peer, struct actions *out)
{
    assert(e->session == SESSION_NONE && e->config.peer);
    e->handshake_refused = false;
    bool leaving = e->role.phase == PHASE_DETACHED || (e->role.phase == PHASE_DETACHING && !e->draining_primary);
    if (leaving) {
        e->session = SESSION_ENDING;
        actions_add(out, ACT_SESSION_REFUSE)->text.text =
            actions_text(out, "volume %s is being taken down on %s", e->config.volume, e->config.node);
        return;
    }
    swaps_on_hello(e, peer, out);
    forget_a_late_first(e, peer);
    e->session_made = false;
    if (!is_still_as_said(e)) {
        /* The peer judges what was said: only the next hello can bring both to the same verdict. */
        e->session = SESSION_ENDING;
        actions_add(out, ACT_SESSION_DROP)->text.text = "this node's state has changed since it said hello";
        return;
    }
    struct sync_judgement j;
    sync_decide(&e->said, peer, &j);
    resolve_on_hello(e, peer, &j, out);
    age_on_hello(e, peer, &j, out);
    bool undecided = e->witness.swap != SWAP_NOT && !j.own_deposed && !j.peer_asked;
    e->peer_leg = peer->leg;
    e->peer_block_bytes = peer->block_bytes;
    e->refused_a_primary = peer->role == ROLE_PRIMARY;
    e->hellos_heard++;
    if (e->refused_a_primary)
        e->refused_primary_ns = e->now_ns;
    if (id_equal(e->sb.peer_leg_id, peer->leg_id) && peer->leg == LEG_FAILED)
        peer_has_failed(e);
    if (j.own_deposed && swaps_may_be_own(e, peer)) {
        refuse_for_now(e, "this node waits for the witness's answer, of which the peer seems to know", out);
        return;
    }
    if (j.verdict == SYNC_REFUSE) {
        on_refusal(e, peer, &j, out);
        return;
    }
    if (register_wants_no_session(e) && peer->role != ROLE_PRIMARY) {
        refuse_for_now(e, "this node is about to ask the witness for a decree", out);
        return;
    }
    if (undecided) {
        refuse_for_now(e, "this node waits for the witness's answer", out);
        return;
    }
    if (!engine_fix_size(e, j.size_bytes)) {
        refuse(e, "out of memory for the bitmap of a volume of this size", out);
        return;
    }
    agree(e, peer, &j);
    switch (j.verdict) {
    case SYNC_REFUSE: break; /* above */
    case SYNC_PAIR: pair(e, peer, &j, out); break;
    case SYNC_CONNECT:
        e->peer_state = PEER_IN_SYNC;
        decree_agreed(e);
        forget_a_term_apart(e);
        break;
    case SYNC_SOURCE: sync_judged_source(e, j.full, out); break;
    case SYNC_TARGET: sync_judged_target(e, j.full, out); break;
    case SYNC_THROUGH: diskless_judged(e, out); break;
    }
}

void session_on_peer_ready(struct engine *e)
{
    if (e->session != SESSION_JUDGED) /* ours to drop: its end is on its way */
        return;
    e->peer_is_ready = true;
    sync_on_peer_ready(e);
}

void session_on_up(struct engine *e, uint64_t now_ns, uint64_t said_ns, struct actions *out)
{
    assert(e->session == SESSION_READY || e->session == SESSION_ENDING);
    if (e->session == SESSION_ENDING)
        return;
    e->session = SESSION_UP;
    e->session_was_up = true;
    e->stable = STABLE_NOT;
    alone_on_session_up(e);
    e->ending_flushed = false; /* a flush that the last session took with it counts for nothing */
    /* The peer judged our hello as we judged its: it has persisted the higher of both epochs. */
    e->peer_epoch = max_u64(e->peer.epoch, e->said.epoch);
    if (said_ns)
        lease_on_heard(e, said_ns);
    swaps_on_session_up(e);
    diskless_on_session_up(e, out);
    /* A secondary's mirror has nothing to send; it learns that a session began. A leader's learns it when the peer has
     * agreed to the epoch. */
    if (!is_leading(e))
        alone_end(e, out);
    sync_on_session_up(e, now_ns);
    verify_on_session_up(e);
}

void session_on_down(struct engine *e, uint64_t now_ns, uint64_t heard_ns, struct actions *out)
{
    bool was_up = e->session_was_up;
    swaps_on_session_down(e, e->session_made, heard_ns);
    e->session_made = false;
    e->witness.took_in = false;
    e->session = SESSION_NONE;
    e->session_was_up = false;
    e->peer_ready = false;
    e->decree_owed = false;
    e->taken_owed = false;
    e->told_epoch = 0;
    e->witness.complete |= was_up && e->peer_state == PEER_SOURCE && sync_target_is_done(e);
    sync_on_session_down(e, out);
    verify_on_session_down(e, out);
    resize_on_session_down(e, out);
    e->peer_state = PEER_AWAY;
    e->peer_readable = false;
    if (e->alone) /* what it has acknowledged since is another matter */
        e->stable = STABLE_NOT;
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
    promotions_lost(e, out);
    handover_on_session_down(e, out);
    mirror_peer_lost(e->mirror, out);
    alone_consider(e, now_ns, heard_ns);
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

void session_on_frame(struct engine *e, const struct frame *frame, struct buf *payload, uint64_t now_ns,
                      struct actions *out)
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
    case FRAME_DECREE:
        if (frame->flags & FRAME_FLAG_TAKEN)
            wrong = decree_on_taken(e, frame, out);
        else if (frame->flags & FRAME_FLAG_HAND)
            handover_on_frame(e, frame, out);
        else
            decree_on_ask(e, frame, out);
        break;
    case FRAME_SYNC_BITS:
    case FRAME_SYNC_ASK:
    case FRAME_SYNC_DATA:
    case FRAME_SYNC_STABLE:
    case FRAME_SYNC_DONE: wrong = sync_on_frame(e, frame, payload, now_ns, out); break;
    case FRAME_VERIFY_ASK:
    case FRAME_VERIFY_REPLY: wrong = verify_on_frame(e, frame, payload, now_ns, out); break;
    case FRAME_VERIFY_FOUND: wrong = verify_on_found(e, frame, out); break;
    case FRAME_READ:
        if (e->role.phase != PHASE_SECONDARY && e->role.phase != PHASE_ASKING)
            wrong = "this node is not secondary";
        else if ((frame->offset_bytes | frame->length_bytes) % own_block_bytes(e))
            wrong = "not aligned to this leg's blocks (offset_bytes, length_blocks)";
        else
            wrong = mirror_peer_read(e->mirror, frame, out);
        break;
    case FRAME_RESIZE:
    case FRAME_RESIZE_REPLY: wrong = resize_on_frame(e, frame, out); break;
    case FRAME_READ_DATA: wrong = mirror_read_data(e->mirror, frame, payload, out); break;
    case FRAME_HELLO:
    case FRAME_READY:
    case FRAME_REFUSE:
    case FRAME_HEARTBEAT: broken_rule(e, frame, payload, "not expected here", out); return;
    }
    if (wrong)
        broken_rule(e, frame, NULL, wrong, out);
}
