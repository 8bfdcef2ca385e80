/* Diskless: the primary's own leg fails, and it goes on through the peer's.
 *
 * Its leg leaves the in-sync set by a decree that the peer records, who has a disk that works: an entry in the history
 * which this node's own disk never gets. So whatever this leg is when it comes back, its history is older than the
 * peer's, and it is the target. The entry goes over in the hello: the peer accepts the session only when it has it on
 * record, so that a session which is up is the proof. Until then nothing is acknowledged, and nothing fails.
 * docs/RECOVERY.md has the argument. */
#include <stdio.h>

#include "repl/engine/engine_internal.h"

bool diskless_is(const struct engine *e) { return e->diskless != DISKLESS_NOT; }

/* Nothing is on record of what the peer's leg may lack. */
static bool peer_has_all(const struct engine *e)
{
    return e->sb.peer_in_sync && e->sb.peer_leg != LEG_FAILED && !e->sb.full && bitmap_dirty_bytes(e->bitmap) == 0 &&
           !e->alone && !e->alone_wanted;
}

/* The peer's leg holds every acknowledged change: it was in sync in this term, and nothing completed without it since.
 */
static bool may_be_replaced(const struct engine *e)
{
    bool whole = e->sb.history.count > 0 && e->sb.leg == LEG_UP_TO_DATE && !superblock_is_doubtful(&e->sb);
    bool peer = e->peer_state == PEER_IN_SYNC || e->peer_state == PEER_AWAY;
    if (!e->config.peer || !role_has_front(&e->role) || !whole || !peer_has_all(e) || !peer)
        return false;
    /* A session that is just up is used when this node's record is on disk: what was true before it still is. */
    bool in_use = e->session == SESSION_UP && e->peer_ready;
    return in_use ? e->peer_state == PEER_IN_SYNC : e->replaceable;
}

static void set_replaceable(struct engine *e, bool replaceable, struct actions *out)
{
    if (e->replaceable == replaceable)
        return;
    e->replaceable = replaceable;
    mirror_set_replaceable(e->mirror, replaceable, out);
}

static void make_entry(struct engine *e, uint64_t above_epoch)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    uint64_t tag = prng_next(&e->chance);
    /* With a register it is the decree's, and comes with that (rule leg-out-first). */
    e->witness.leg_is_declared = false;
    if (register_may_rule(e))
        return;
    e->diskless_entry = (struct history_entry) { above_epoch + 1, mirror.lsn + 1, tag ? tag : 1 };
    /* On this node's disk, too, if that can still be written: a higher epoch alone claims nothing. */
    e->sb.epoch = e->diskless_entry.epoch;
    want_persisted(e);
}

void diskless_declared(struct engine *e, const struct decree *d)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    e->witness.leg_is_declared = true;
    e->diskless_entry = (struct history_entry) { d->epoch, mirror.lsn + 1, d->tag };
}

bool diskless_begin(struct engine *e, struct actions *out)
{
    /* What was known at the end of the last step may be old news. */
    if (!e->replaceable || !peer_has_all(e) || !is_leading(e)) {
        set_replaceable(e, false, out);
        return false;
    }
    e->diskless = DISKLESS_WANTED;
    e->diskless_entry = (struct history_entry) { 0 };
    e->diskless_since_ns = e->now_ns;
    make_entry(e, max_u64(e->sb.epoch, e->asked_epoch));
    actions_note(out, NOTE_ERROR, "leg",
                 "the leg on %s has failed: %s goes on through the leg of %s as soon as that has it on record",
                 e->config.backing, e->config.node, e->config.peer);
    return true;
}

void diskless_add_to_hello(const struct engine *e, struct hello *hello)
{
    if (!diskless_is(e) || !is_leading(e) || history_entry_is_none(e->diskless_entry))
        return;
    hello->diskless = true;
    history_append(&hello->history, e->diskless_entry);
}

void diskless_on_refused(struct engine *e, const struct hello *peer)
{
    /* The peer has seen this epoch, but not with this entry. Who lacks it now cannot record it later: each session
     * begins with a hello, and those to come have another one. */
    if (register_may_rule(e))
        return;
    bool seen = peer->epoch >= e->diskless_entry.epoch && !history_holds(&peer->history, e->diskless_entry);
    if (e->diskless == DISKLESS_WANTED && is_leading(e) && peer->role == ROLE_SECONDARY &&
        id_equal(peer->volume_id, e->sb.volume_id) && seen)
        make_entry(e, peer->epoch);
}

/* SYNC_THROUGH, on the node whose leg is the only one: what is recorded now is on disk before the session is up. */
static void become_the_only_leg(struct engine *e, struct actions *out)
{
    const struct history_entry *entry = history_last(&e->peer.history);
    const struct history_entry *last = history_last(&e->sb.history);
    if (last && history_entry_equal(*last, *entry))
        return;
    history_append(&e->sb.history, *entry);
    e->sb.epoch = max_u64(e->sb.epoch, entry->epoch);
    e->sb.peer_in_sync = false;
    e->sb.was_primary = false;
    /* Nobody can tell what a disk that fails has kept: everything is compared when it is back. So no bit has to be on
     * disk before a change is acknowledged. */
    log_count_all(e);
    e->sb.base = *entry;
    want_persisted(e);
    actions_note(out, NOTE_WARNING, "leg",
                 "the leg of %s has failed: %s serves through this one, the only one left, from epoch %llu",
                 e->config.peer, e->config.peer, (unsigned long long)entry->epoch);
}

void diskless_judged(struct engine *e, struct actions *out)
{
    e->peer_state = PEER_THROUGH;
    if (!diskless_is(e))
        become_the_only_leg(e, out);
}

void diskless_on_session_up(struct engine *e, struct actions *out)
{
    if (e->peer_state != PEER_THROUGH || e->diskless != DISKLESS_WANTED)
        return;
    e->diskless = DISKLESS_DECIDED;
    e->leg_is_out = true;
    mirror_set_local(e->mirror, false, out);
    actions_note(out, NOTE_WARNING, "leg",
                 "%s goes on without a leg of its own, through that of %s, from epoch %llu. Demote it here and promote "
                 "%s, then mend the disk, or replace it (`lockstep down`, `create --force`, `up`)",
                 e->config.node, e->config.peer, (unsigned long long)e->diskless_entry.epoch, e->config.peer);
}

void diskless_give_up(struct engine *e, struct actions *out)
{
    if (e->diskless == DISKLESS_WANTED)
        e->diskless = DISKLESS_NOT;
    if (!diskless_is(e))
        set_replaceable(e, false, out);
}

/* At the end of each step, so that a leg which fails in the next one finds it as it is. */
void diskless_advance(struct engine *e, struct actions *out)
{
    if (!e->leg_failed)
        set_replaceable(e, may_be_replaced(e), out);
    if (diskless_is(e) && !is_leading(e)) {
        e->diskless = DISKLESS_NOT;
        set_replaceable(e, false, out);
        session_drop(e, actions_text(out, "the leg of %s has failed, and it is secondary now", e->config.node), out);
    }
    if (!diskless_is(e) && e->leg_is_out && mirror_is_idle(e->mirror)) {
        e->leg_is_out = false;
        mirror_set_local(e->mirror, true, out);
        mirror_fail_leg(e->mirror, out);
    }
}

const char *diskless_why_not(struct engine *e)
{
    const char *node = e->config.node, *peer = e->config.peer;
    if (e->diskless == DISKLESS_DECIDED && e->session == SESSION_UP)
        snprintf(e->why_not, sizeof(e->why_not),
                 "the leg of %s has failed; since epoch %llu it serves through that of %s, the only one. Demote %s and "
                 "promote %s, then mend its disk, or replace it (`down`, `create --force`, `up`)",
                 node, (unsigned long long)e->diskless_entry.epoch, peer, node, peer);
    else if (e->refused[0])
        snprintf(e->why_not, sizeof(e->why_not), "the leg of %s has failed, and %s cannot stand in for it: %.300s",
                 node, peer, e->refused);
    else
        snprintf(e->why_not, sizeof(e->why_not),
                 "the leg of %s has failed, and %s, which has the only one, is not connected: everything waits for it",
                 node, peer);
    return e->why_not;
}
