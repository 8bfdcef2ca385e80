/* Who is primary at which epoch: asking the peer, answering it, taking an epoch, and being overtaken by one. */
#include <errno.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

void decree_send(enum frame_kind kind, uint8_t flags, uint64_t epoch, uint16_t status, struct actions *out)
{
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = NULL;
    a->send.frame =
        (struct frame) { .kind = kind, .flags = flags, .epoch = epoch, .tag = TAG_DECREE, .status = status };
}

/* A new entry of this node's own: from now on nothing is acknowledged under the one before it. */
static void append_entry(struct engine *e, uint64_t epoch)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    uint64_t tag = e->entry_tag ? e->entry_tag : prng_next(&e->chance);
    history_append(&e->sb.history, (struct history_entry) { epoch, mirror.lsn + 1, tag ? tag : 1 });
    e->entry_ns = e->now_ns;
    e->sb.epoch = epoch;
    want_persisted(e);
}

/* From here on the bitmap tells what the peer lacks. Not only from when it leaves the in-sync set: it may never have
 * heard that it was taken in, and would have to be compared in full. */
void decree_agreed(struct engine *e)
{
    const struct history_entry *last = history_last(&e->sb.history);
    struct history_entry base = last ? *last : (struct history_entry) { 0 };
    if (history_entry_equal(e->sb.base, base))
        return;
    e->sb.base = base;
    want_persisted(e);
}

static void lose_peer(struct engine *e)
{
    if (!e->sb.peer_in_sync)
        return;
    e->sb.peer_in_sync = false;
    want_persisted(e);
}

void decree_renew(struct engine *e, bool peer_in_sync, struct actions *out)
{
    if (peer_in_sync)
        e->sb.peer_in_sync = true;
    else
        lose_peer(e);
    append_entry(e, max_u64(e->sb.epoch, e->asked_epoch) + 1);
    if (is_leading(e))
        e->sb.served_epoch = e->sb.epoch;
}

/* What waits was never acknowledged. */
void decree_step_down(struct engine *e, const char *why, struct actions *out)
{
    /* Handed over, as was ordered: that is how it learns that it is done. */
    bool handed = e->role.phase == PHASE_HANDING && e->role.handed;
    if (role_has_front(&e->role)) {
        /* Ahead of what fails below: those who are held are not to hear of it. */
        struct action *a = actions_add(out, ACT_SERVE);
        a->serve.on = false;
        a->serve.hold = !handed && hold_begin(e);
    }
    role_step_down(&e->role);
    alone_forget(e);
    e->draining_primary = false;
    e->sb.role = ROLE_SECONDARY;
    want_persisted(e);
    /* What has been completed is on both legs. What has not may be on one: also on the peer's only, while our own disk
     * is still busy with it. The mirror sets the bits of all of it. */
    mirror_fail_all(e->mirror, -EIO, out);
    if (e->role.phase == PHASE_SECONDARY)
        orders_finish(e, handed ? 0 : -EPERM, handed ? NULL : why, out);
    actions_note(out, handed ? NOTE_INFO : NOTE_ERROR, "role", "%s; it is secondary", why);
}

/* Epochs are the register's to give. This node has read that one there before it was told, after a switchover. */
static bool is_of_the_register(const struct engine *e, uint64_t epoch)
{
    const struct decree *d = &e->witness.decree;
    return d->epoch == epoch && strcmp(d->primary, e->config.peer) == 0;
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
    case PHASE_HANDING:
        if (e->role.handed && frame->epoch > e->sb.epoch)
            handover_is_taken(e, out);
        else
            objection = EBUSY;
        break;
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
        if ((register_rules(e) && !is_of_the_register(e, frame->epoch)) || frame->epoch < e->sb.epoch)
            objection = ESTALE;
        else if (e->peer_state == PEER_TARGET && !e->finish_told)
            objection = EBUSY; /* it is being overwritten */
        break;
    }
    if (objection) {
        decree_send(FRAME_ACK, 0, frame->epoch, objection, out);
        return;
    }
    if (frame->epoch > e->sb.epoch) {
        e->sb.epoch = frame->epoch;
        want_persisted(e);
    }
    if (e->sb.was_primary) {
        e->sb.was_primary = false;
        want_persisted(e);
    }
    e->decree_owed = true;
    e->peer_leads = true;
    e->decree_epoch = frame->epoch;
}

/* What this leg lacks is in nobody's bitmap: the other leg, which may have it, is to be compared in full. Not even
 * that, if this one was half made: see the handshake's "forced-half-made". */
void decree_accept_loss(struct engine *e)
{
    const struct history_entry *last = history_last(&e->sb.history);
    bool bits_from_now = last && e->sb.leg != LEG_SYNCING && !history_entry_is_none(e->sb.base);
    e->sb.leg = LEG_UP_TO_DATE;
    superblock_clear_doubts(&e->sb);
    age_raise_above(e, 0);
    e->sb.base = bits_from_now ? *last : (struct history_entry) { 0 };
    want_persisted(e);
}

/* This node takes an epoch that nobody has served at. */
bool decree_take(struct engine *e, uint64_t epoch, struct actions *out)
{
    bool lost = false;
    bool forced =
        e->promote_force && (own_leg(e) != LEG_UP_TO_DATE || superblock_is_doubtful(&e->sb) || age_is_below_record(e));
    e->sb.role = ROLE_PRIMARY;
    e->sb.was_primary = true;
    e->sb.pristine = false;
    e->peer_leads = false;
    e->peer_ready = false; /* of an earlier term in the same session: the mirror is to learn the new epoch */
    mirror_peer_hold(e->mirror);
    alone_forget(e);
    if (forced) {
        bool half = e->sb.leg == LEG_SYNCING;
        actions_note(out, NOTE_WARNING, "role",
                     "promotion was forced: acknowledged writes may be lost; the peer's leg, if it is ever seen again, "
                     "is %s%s%s",
                     half ? "refused as split brain" : "overwritten, or refused as split brain", half ? ". " : "",
                     half ? sync_last_consistent(e, out) : "");
        e->promoted_half_made = half;
        lose_peer(e);
        lost = true;
    }
    if (!e->config.peer && !id_is_none(e->sb.peer_leg_id)) {
        /* From now on writes are acknowledged that the leg which it was paired with lacks. */
        actions_note(
            out, NOTE_WARNING, "leg",
            "promoted with no peer in the configuration: the leg that this one was paired with is left behind, "
            "and needs a full resync to come back");
        e->sb.peer_leg_id = (struct id) { 0 };
        e->sb.peer_leg = LEG_NONE;
        e->sb.peer_in_sync = false;
        e->sb.base = (struct history_entry) { 0 };
        lost = true;
    }
    if (id_is_none(e->sb.volume_id))
        e->sb.volume_id = e->sb.leg_id;
    if (e->sb.size_bytes == 0 && !engine_fix_size(e, e->config.capacity_bytes))
        return false;
    /* An entry in the history is for what the other leg lacks: with the peer in sync, or waited for, there is nothing.
     */
    bool lacks = lost || (!e->config.peer && e->sb.history.count == 0);
    e->sb.epoch = e->sb.served_epoch = epoch;
    want_persisted(e);
    if (lacks)
        append_entry(e, epoch);
    if (forced)
        decree_accept_loss(e);
    /* Both were in sync but for what a verify has found: from now on they are not, and the next handshake says so. */
    if (lost && e->peer_state == PEER_IN_SYNC)
        session_drop(e, "the leg was promoted by force: the peer's is to be compared in full", out);
    return true;
}

/* Takes the peer's leg, whose resync is done, into the in-sync set. */
void decree_tell(struct engine *e, struct actions *out)
{
    const struct history_entry *last = history_last(&e->sb.history);
    assert(last && persisted(e));
    e->told_epoch = last->epoch;
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = NULL;
    a->send.frame = (struct frame) { .kind = FRAME_DECREE,
                                     .flags = FRAME_FLAG_TAKEN,
                                     .epoch = last->epoch,
                                     .lsn = last->first_lsn,
                                     .offset_bytes = last->tag,
                                     .tag = TAG_DECREE };
}

/* Equal to the source's leg now: what that has been part of, this one has. False: it is older than what the source said
 * that it has been part of. */
static bool take_over_history(struct engine *e, struct history_entry entry)
{
    struct history h = e->peer.history;
    const struct history_entry *last = history_last(&h);
    if (!last || !history_entry_equal(*last, entry)) {
        if (!history_may_append(&h, entry))
            return false;
        history_append(&h, entry);
    }
    e->sb.history = h;
    e->entry_ns = 0; /* none of this node's own */
    return true;
}

static void be_taken_in(struct engine *e, struct history_entry entry)
{
    e->sb.epoch = max_u64(e->sb.epoch, entry.epoch);
    e->sb.peer_in_sync = true;
    e->sb.was_primary = false;
    e->sb.served_epoch = 0; /* what this leg served is overwritten */
    decree_agreed(e);
    want_persisted(e);
}

void decree_taken_unheard(struct engine *e, struct history_entry entry, struct actions *out)
{
    if (!take_over_history(e, entry))
        return;
    sync_leg_is_whole(e);
    be_taken_in(e, entry);
    actions_note(out, NOTE_INFO, "resync",
                 "the leg of %s is up to date: it had everything when the connection to %s was lost, and was taken in, "
                 "as the witness says",
                 e->config.node, e->config.peer);
}

/* The source takes this leg in. NULL, or what is wrong with it. */
const char *decree_on_taken(struct engine *e, const struct frame *frame, struct actions *out)
{
    struct history_entry entry = { frame->epoch, frame->lsn, frame->offset_bytes };
    if (e->role.phase != PHASE_SECONDARY || e->peer_state != PEER_SOURCE || !sync_target_is_done(e))
        return "a leg is taken in that did not ask for it (kind)";
    if (e->leg_failed)
        return "a leg is taken in that has just failed: it is not up to date";
    if (!take_over_history(e, entry))
        return "a decree that is older than what the source said it has been part of (epoch)";
    sync_target_finish(e, out);
    be_taken_in(e, entry);
    e->taken_owed = true;
    e->taken_epoch = entry.epoch;
    return NULL;
}

void decree_on_answer(struct engine *e, const struct frame *frame, struct actions *out)
{
    if (frame->flags & FRAME_FLAG_HAND) {
        handover_on_refused(e, frame, out);
        return;
    }
    if (frame->flags & FRAME_FLAG_TAKEN) {
        if (e->told_epoch == 0 || frame->epoch != e->told_epoch)
            return;
        e->told_epoch = 0;
        e->peer_epoch = max_u64(e->peer_epoch, frame->epoch);
        sync_source_on_told(e, out);
        return;
    }
    if (e->role.phase == PHASE_ASKING && frame->epoch == e->asked_epoch) {
        if (frame->status == 0) {
            role_agreed(&e->role);
            e->peer_epoch = frame->epoch;
            if (!decree_take(e, frame->epoch, out)) {
                role_yield(&e->role);
                orders_finish(e, -ENOMEM, TEXT_NO_MEMORY, out);
            }
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
    if (frame->status == 0) {
        e->peer_epoch = frame->epoch;
        /* From then on it counts this node as primary: reads need not wait for the next heartbeat. */
        lease_on_heard(e, e->witness.decree_sent_ns);
    } else {
        session_drop(e, "the peer does not accept this node as primary", out);
    }
}
