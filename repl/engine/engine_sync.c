/* Bringing the two legs together again: what each verdict of the handshake asks of this node.
 *
 * Source: has on stable storage all that was acknowledged, before it says that it is ready. Leaves no change unmirrored
 * from the moment the session is up, then sends its bits. When the target says that nothing is left, the leg is taken
 * back into the in-sync set: by a decree, if this node is primary.
 * Target: waits for the source to be ready; is `syncing`, durably, before the first block is changed; is up to date,
 * durably, before the source counts on it. */
#include "repl/engine/engine_internal.h"

bool sync_open(struct engine *e)
{
    struct resync_config c = {
        .backing = e->config.backing,
        .peer = e->config.peer,
        .locks = &e->locks,
        .bitmap = e->bitmap,
        .pool = e->config.pool,
        .keep_free_bytes = e->config.pool_keep_free_bytes,
        .window_bytes = e->config.resync_window_bytes,
        .bytes_per_s = e->config.resync_bytes_per_s,
    };
    e->source = resync_source_open(&c);
    e->target = resync_target_open(&c);
    c.bytes_per_s = e->config.verify_bytes_per_s;
    return e->source && e->target && verify_parts_open(e, &c);
}

void sync_close(struct engine *e)
{
    verify_parts_close(e);
    if (e->source)
        resync_source_close(e->source);
    if (e->target)
        resync_target_close(e->target);
}

/* What the peer had completed and not flushed is lost with its machine's power. */
static void count_what_the_peer_lost(struct engine *e)
{
    if (e->peer.lost_power || e->sb.peer_leg == LEG_FAILED)
        mirror_unflushed_to_bitmap(e->mirror);
}

/* Nothing on it was ever acknowledged. */
static bool never_counted(const struct hello *h) { return h->history.count == 0; }

/* From the target's record on this leg is the only one that counts: what both have acknowledged, and neither has
 * flushed, would go with its machine's power. A leg that is half made already, or a new one, loses nothing. */
static bool takes_a_whole_leg(const struct engine *e)
{
    return e->peer_state == PEER_TARGET && e->peer.leg == LEG_UP_TO_DATE && !never_counted(&e->peer);
}

void sync_judged_source(struct engine *e, bool full, struct actions *out)
{
    e->peer_state = PEER_TARGET;
    count_what_the_peer_lost(e);
    if (takes_a_whole_leg(e))
        leg_want_stable(e);
    if (full) {
        const struct history_entry *last = history_last(&e->sb.history);
        e->sb.base = last ? *last : (struct history_entry) { 0 };
        log_count_all(e);
    }
    actions_note(out, NOTE_INFO, "resync", "%s gets what it lacks from %s: %s", e->config.peer, e->config.node,
                 full ? "everything is compared" : "the blocks that may differ are compared");
}

static void become_target(struct engine *e)
{
    if (e->sb.leg != LEG_SYNCING) {
        const struct history_entry *last = history_last(&e->sb.history);
        e->sb.consistent_epoch = last ? last->epoch : 0;
        e->sb.consistent_lsn = e->said.lsn; /* by now the mirror's is above the source's, too */
    }
    /* Whose bitmap this leg goes by, should the session end before it is done. */
    const struct history_entry *newest = history_last(&e->peer.history);
    e->sb.base = e->sync_full && newest ? *newest : e->peer.base;
    engine_joins(e);
    /* Also a new leg in the place of one that was older: it is not taken for that one's copy. */
    if (e->sync_full)
        age_leap(e);
    e->sb.leg = LEG_SYNCING;
    e->sb.pristine = false;
    want_persisted(e);
}

void sync_judged_target(struct engine *e, bool full, struct actions *out)
{
    e->peer_state = PEER_SOURCE;
    e->sync_full = full;
    /* It is not on record before the source is ready, and the source may be lost before that. */
    e->is_behind = history_relate(&e->said.history, &e->peer.history) == HISTORY_ANCESTOR;
    /* A new leg joins the volume in the same record: nobody must take its zeroes for the volume's content. */
    if (never_counted(&e->said))
        become_target(e);
    actions_note(out, NOTE_INFO, "resync",
                 "%s gets what it lacks from %s: %s. Until it is done, this leg is inconsistent", e->config.node,
                 e->config.peer, full ? "everything is compared" : "the blocks that may differ are compared");
}

bool sync_may_begin(const struct engine *e)
{
    if (e->peer_state == PEER_SOURCE)
        return e->peer_is_ready;
    return !takes_a_whole_leg(e) || e->stable == STABLE_ALL;
}

/* The source has made stable what is to count alone from now on. */
void sync_on_peer_ready(struct engine *e)
{
    if (e->peer_state == PEER_SOURCE && !never_counted(&e->said))
        become_target(e);
}

/* What a person who thinks of forcing its promotion wants to know. */
const char *sync_last_consistent(const struct engine *e, struct actions *out)
{
    if (e->sb.consistent_epoch == 0)
        return "Its leg is inconsistent, and has never been consistent";
    return actions_text(out,
                        "Its leg is inconsistent: newer in part than its last consistent state, epoch %llu, LSN %llu",
                        (unsigned long long)e->sb.consistent_epoch, (unsigned long long)e->sb.consistent_lsn);
}

/* After a failed flush. The source may know of one that this leg's disk could not record; what is on record there,
 * power lost or a write that failed, may be of an earlier time. But no cache outlives its machine's run. */
static bool reads_may_lie(const struct engine *e)
{
    return e->sb.reads_lie || (e->peer.peer_failed && !e->sb.first_of_run);
}

/* The target takes what the source sends from the very beginning; the source begins when its changes flow. */
void sync_on_session_up(struct engine *e, uint64_t now_ns)
{
    e->sync_begun = false;
    e->sync_finishing = false;
    e->finish_told = false;
    if (e->peer_state != PEER_SOURCE)
        return;
    struct digest_key key = resync_key(e->peer.nonce, e->said.nonce);
    resync_target_begin(e->target, &key, !reads_may_lie(e), now_ns);
    e->sync_begun = true;
}

void sync_leave(struct engine *e, struct actions *out)
{
    if (e->sync_begun && e->peer_state == PEER_TARGET)
        resync_source_stop(e->source, out);
    if (e->sync_begun && e->peer_state == PEER_SOURCE)
        resync_target_stop(e->target, out);
}

void sync_on_session_down(struct engine *e, struct actions *out)
{
    sync_leave(e, out);
    e->sync_begun = false;
}

const char *sync_on_frame(struct engine *e, const struct frame *frame, struct buf *payload, uint64_t now_ns,
                          struct actions *out)
{
    bool from_source = e->peer_state == PEER_SOURCE;
    bool sources = frame->kind == FRAME_SYNC_BITS || frame->kind == FRAME_SYNC_DATA;
    if (!e->sync_begun || (sources != from_source && frame->kind != FRAME_SYNC_STABLE)) {
        if (payload)
            buf_put(payload);
        return "no resync is under way to which it could belong (kind)";
    }
    if (from_source)
        return resync_target_frame(e->target, frame, payload, now_ns, out);
    return resync_source_frame(e->source, frame, payload, now_ns, out);
}

bool sync_owns(uint32_t op) { return op >= SYNC_OP_FIRST && op < SYNC_OP_END; }

bool sync_on_disk_done(struct engine *e, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out)
{
    return op < SYNC_SOURCE_OP_FIRST ? resync_target_disk_done(e->target, op, result, now_ns, out)
                                     : resync_source_disk_done(e->source, op, result, now_ns, out);
}

bool sync_is_idle(const struct engine *e)
{
    return resync_source_is_idle(e->source) && resync_target_is_idle(e->target);
}

bool sync_target_is_done(const struct engine *e)
{
    return e->sync_begun && resync_target_state(e->target) == RESYNC_DONE;
}

/* Told when it is over, as nothing is left to look at then. Of this session: what came before an interruption was told
 * of by nobody. */
static void note_up_to_date(const char *node, const struct resync_view *v, struct actions *out)
{
    actions_note(out, NOTE_INFO, "resync",
                 "the leg of %s is up to date: %llu bytes were equal, %llu sent, %llu zeroed without being sent", node,
                 (unsigned long long)v->equal_bytes, (unsigned long long)v->data_bytes,
                 (unsigned long long)v->zero_bytes);
}

void sync_leg_is_whole(struct engine *e)
{
    e->is_behind = false;
    e->sb.leg = LEG_UP_TO_DATE;
    superblock_clear_doubts(&e->sb);
    age_raise_above(e, 0);
    e->sb.reads_lie = false;
    e->sb.peer_leg = LEG_NONE;
    e->sb.full = false;
    e->sb.consistent_epoch = 0;
    e->sb.consistent_lsn = 0;
    e->log.settle = true; /* what lies on disk of bits that are clear now */
    want_persisted(e);
}

/* The source has taken this leg in: it has all that the source's has. */
void sync_target_finish(struct engine *e, struct actions *out)
{
    assert(e->peer_state == PEER_SOURCE && sync_target_is_done(e));
    struct resync_view view;
    resync_target_view(e->target, &view);
    resync_target_stop(e->target, out);
    e->sync_begun = false;
    e->peer_state = PEER_IN_SYNC;
    sync_leg_is_whole(e);
    note_up_to_date(e->config.node, &view, out);
}

/* The peer has its leg up to date on record. */
void sync_source_on_told(struct engine *e, struct actions *out)
{
    if (e->peer_state != PEER_TARGET || !e->sync_finishing)
        return;
    struct resync_view view;
    resync_source_view(e->source, &view);
    resync_source_stop(e->source, out);
    e->sync_begun = false;
    e->sync_finishing = false;
    e->peer_state = PEER_IN_SYNC;
    e->peer_leg = LEG_UP_TO_DATE;
    e->alone_since_ns = 0;
    e->sb.full = false;
    superblock_clear_doubts(&e->sb);
    e->sb.reads_lie = false; /* what it showed was written back */
    e->log.settle = true;
    decree_agreed(e);
    want_persisted(e);
    note_up_to_date(e->config.peer, &view, out);
}

/* What is done is clear on disk, too, soon: a crash of the source must not make it begin all over. The target needs no
 * such thing, as bits are united with the source's. */
#define SETTLE_NS (5 * NS_PER_S)

static void settle_when_due(struct engine *e, uint64_t now_ns)
{
    if (now_ns < e->sync_settle_ns)
        return;
    e->sync_settle_ns = now_ns + SETTLE_NS;
    e->log.settle = true;
}

static void begin_source(struct engine *e, uint64_t now_ns, struct actions *out)
{
    /* A change that only this leg gets would be in no bit that the target hears of. */
    if (is_leading(e) && !e->peer_ready)
        return;
    /* It drains, and would not wait for the end. */
    if (e->role.phase == PHASE_DETACHING)
        return;
    struct digest_key key = resync_key(e->said.nonce, e->peer.nonce);
    e->sync_begun = true;
    e->sync_settle_ns = now_ns + SETTLE_NS;
    resync_source_begin(e->source, &key, !reads_may_lie(e), now_ns, out);
}

/* The target is done: this node's record says so first, then the peer is told. */
static void finish_source(struct engine *e, struct actions *out)
{
    if (!e->sync_finishing) {
        /* One decree at a time: else the later one could get the lower epoch. */
        if (e->role.phase == PHASE_ASKING)
            return;
        /* With a register it is a primary's to ask for, and what follows has happened with the answer. */
        if (register_rules(e) && !e->witness.took_in)
            return;
        e->witness.took_in = false;
        e->sync_finishing = true;
        /* Who was not part of the last decree gets another one: what comes from now on, the leg in whose place it is
         * may lack, and that one's history is equal to this one's still. */
        bool is_new = history_relate(&e->sb.history, &e->peer.history) != HISTORY_EQUAL;
        if (!register_rules(e) && (is_leading(e) || e->sb.history.count == 0 || is_new))
            decree_renew(e, true, out);
        e->sb.peer_in_sync = true;
        /* All of it is stable there, and until its own record says so, that says that it is half made. If this node
         * held it to have failed a moment longer, and lost its power then, both legs would seem to lack something. */
        e->sb.peer_leg = LEG_NONE;
        want_persisted(e);
    }
    if (persisted(e) && !e->finish_told) {
        e->finish_told = true;
        decree_tell(e, out);
        if (is_leading(e))
            mirror_set_epoch(e->mirror, e->sb.epoch);
    }
}

/* A write or flush of theirs failed on this leg; also one that was with the disk when its session ended. */
static void fail_leg_if_theirs_did(struct engine *e, struct actions *out)
{
    bool failed = resync_target_state(e->target) == RESYNC_FAILED || resync_source_state(e->source) == RESYNC_FAILED;
    /* Also when a write had failed before: that is mended by an attach, and a failed flush is not. */
    bool recorded = e->sb.reads_lie && (e->sb.leg == LEG_FAILED || e->sb.lost_power);
    if (!failed || (e->leg_failed && recorded))
        return;
    leg_fail_for_good(e, "its leg failed in a resync", out);
}

void sync_advance(struct engine *e, uint64_t now_ns, struct actions *out)
{
    fail_leg_if_theirs_did(e, out);
    if (e->session != SESSION_UP)
        return;
    switch (e->peer_state) {
    case PEER_AWAY:
    case PEER_THROUGH:
    case PEER_IN_SYNC: return;
    case PEER_SOURCE:
        if (!e->sync_begun)
            return;
        resync_target_tick(e->target, now_ns, out);
        return;
    case PEER_TARGET:
        if (!e->sync_begun) {
            begin_source(e, now_ns, out);
            return;
        }
        resync_source_set_busy(e->source, e->request_ns && now_ns - e->request_ns < BUSY_NS);
        resync_source_tick(e->source, now_ns, out);
        settle_when_due(e, now_ns);
        switch (resync_source_state(e->source)) {
        case RESYNC_IDLE:
        case RESYNC_RUNNING:
        case RESYNC_UNREADABLE: return;
        case RESYNC_AGAIN: session_drop(e, "bits were set while it was resynced: once more", out); return;
        case RESYNC_FAILED: return; /* told below */
        case RESYNC_DONE: finish_source(e, out); return;
        }
    }
}

/* As sync_advance(): a deadline that nobody looks at would be in the past for ever. */
uint64_t sync_deadline_ns(const struct engine *e)
{
    if (!e->sync_begun || e->session != SESSION_UP)
        return UINT64_MAX;
    return e->peer_state == PEER_SOURCE ? resync_target_deadline_ns(e->target)
                                        : min_u64(resync_source_deadline_ns(e->source), e->sync_settle_ns);
}

bool sync_progress(const struct engine *e, struct resync_view *view)
{
    if (!e->sync_begun)
        return false;
    if (e->peer_state == PEER_SOURCE)
        resync_target_view(e->target, view);
    else
        resync_source_view(e->source, view);
    return true;
}
