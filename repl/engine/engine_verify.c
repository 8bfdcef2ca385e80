/* Verify: an operator wants to know whether both legs are equal. This node asks, its peer answers.
 *
 * What differs has its bit set while its range is locked: it counts as out of sync from then on, and the next resync,
 * which `repair` brings about at once, makes it equal to the source's. The source is the primary; without one it is who
 * was told to repair. The other one has that on record before the order ends: it is not promoted without force, and
 * cannot become the source. */
#include <errno.h>

#include "repl/engine/engine_internal.h"

static struct digest_key key_of(const struct engine *e)
{
    bool first = e->config.node_index == 0;
    return resync_key(first ? e->said.nonce : e->peer.nonce, first ? e->peer.nonce : e->said.nonce);
}

/* The peer is to have on record that its leg is the one that is wrong. */
static void tell_peer(struct engine *e, struct range first, struct actions *out)
{
    e->verify.telling = TELLING_ASKED;
    actions_add(out, ACT_SEND)->send.frame = (struct frame) { .kind = FRAME_VERIFY_FOUND,
                                                              .offset_bytes = first.offset_bytes,
                                                              .length_bytes = first.length_bytes };
}

static void found(void *ctx, struct range granule, enum verify_finding finding, struct actions *out)
{
    struct engine *e = ctx;
    if (finding == VERIFY_DIFFERS && is_leading(e) && e->verify.telling == TELLING_NOTHING)
        tell_peer(e, granule, out);
    /* Of what only one leg can read, that one knows all there is to know: reads of the other's are masked, as long as
     * there is no bit, and a resync is to bring it to the peer, if this leg is its source. */
    bool marks = finding == VERIFY_DIFFERS || (finding != VERIFY_UNREADABLE_HERE && is_leading(e));
    if (marks) {
        bitmap_set(e->bitmap, granule);
        e->verify.marked = true;
        e->log.settle = true; /* the activity log does not cover it: a crash would forget it */
    }
    struct verify_run *last = e->verify.run_count ? &e->verify.runs[e->verify.run_count - 1] : NULL;
    if (last && last->finding == finding && range_end(last->range) == granule.offset_bytes) {
        last->range.length_bytes += granule.length_bytes;
        return;
    }
    e->verify.places++;
    if (e->verify.run_count < VERIFY_PLACES_MAX)
        e->verify.runs[e->verify.run_count++] = (struct verify_run) { granule, finding };
}

bool verify_parts_open(struct engine *e, const struct resync_config *config)
{
    e->verify.asker = verify_open(config, found, e);
    e->verify.answerer = verify_reply_open(config);
    return e->verify.asker && e->verify.answerer;
}

void verify_parts_close(struct engine *e)
{
    if (e->verify.asker)
        verify_close(e->verify.asker);
    if (e->verify.answerer)
        verify_reply_close(e->verify.answerer);
}

void verify_on_session_up(struct engine *e)
{
    struct digest_key key = key_of(e);
    verify_reply_begin(e->verify.answerer, &key);
    e->verify.answers = true;
}

static const char *whose(const struct engine *e, enum verify_finding finding)
{
    return finding == VERIFY_DIFFERS            ? "the legs differ"
           : finding == VERIFY_UNREADABLE_BOTH  ? "cannot be read on either leg"
           : finding == VERIFY_UNREADABLE_THERE ? "cannot be read by the peer"
           : is_leading(e)                      ? "cannot be read here, nor mended"
                                                : "cannot be read here";
}

static void tell_places(struct engine *e, struct actions *out)
{
    for (unsigned i = 0; i < e->verify.run_count; i++)
        actions_note(out, NOTE_ERROR, "verify", "%s: offset %llu, length %llu", whose(e, e->verify.runs[i].finding),
                     (unsigned long long)e->verify.runs[i].range.offset_bytes,
                     (unsigned long long)e->verify.runs[i].range.length_bytes);
}

static const char *so_far(const struct engine *e)
{
    return e->verify.marked ? "; what was found until then counts as out of sync" : "";
}

/* The machine has stopped, or is done. */
static void end_order(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    e->verify.running = false;
    e->verify.mend = MEND_NOTHING;
    order_answer(e->verify.cookie, result, text, out);
}

void verify_on_session_down(struct engine *e, struct actions *out)
{
    if (e->verify.answers)
        verify_reply_stop(e->verify.answerer, out);
    e->verify.answers = false;
    e->verify.told_owed = false;
    e->verify.telling = TELLING_NOTHING;
    if (!e->verify.running) {
        verify_stop(e->verify.asker, out); /* what was still to be answered never will be */
        return;
    }
    verify_stop(e->verify.asker, out);
    tell_places(e, out);
    end_order(
        e, -ENOTCONN,
        actions_text(out,
                     "the connection to %s was lost before all was compared%s: run it again when the volume is in sync",
                     e->config.peer, so_far(e)),
        out);
}

static bool may_run(const struct engine *e)
{
    bool steady = e->role.phase == PHASE_PRIMARY || (e->role.phase == PHASE_SECONDARY && !e->peer_leads);
    return e->session == SESSION_UP && e->peer_state == PEER_IN_SYNC && steady && !e->leg_failed;
}

void verify_end_if_overtaken(struct engine *e, struct actions *out)
{
    /* Without a session it ends with that. */
    if (!e->verify.running || e->session != SESSION_UP || may_run(e))
        return;
    verify_cancel(e->verify.asker, out);
    tell_places(e, out);
    end_order(e, -EBUSY,
              actions_text(out, "the roles of the nodes are changing%s: run it again on the primary when that is done",
                           so_far(e)),
              out);
}

void verify_order(struct engine *e, bool repair, void *cookie, uint64_t now_ns, struct actions *out)
{
    const char *no = NULL;
    if (!e->config.peer)
        no = "the volume has a single node: there is nothing to compare with";
    else if (e->session != SESSION_UP || e->peer_state != PEER_IN_SYNC)
        no = actions_text(out, "both legs must be connected and in sync: %s", engine_why_not(e));
    else if (e->leg_failed)
        no = "its leg has failed";
    else if (e->role.phase != PHASE_PRIMARY && e->role.phase != PHASE_SECONDARY)
        no = "its role is just changing; try again in a moment";
    else if (!is_leading(e) && e->peer_leads)
        no = actions_text(out, "%s is primary: run it there, where changes can be kept away from what is compared",
                          e->config.peer);
    else if (e->verify.running)
        no = "a verify is under way already";
    else if (repair && !is_leading(e) && e->sb.differs)
        no = actions_text(out,
                          "%s has found, while it was primary, that this leg differs, and its own counts: repair it "
                          "there, or promote this node with --force first",
                          e->config.peer);
    if (no) {
        bool unreachable = e->config.peer && e->session != SESSION_UP;
        order_answer(cookie, unreachable ? -ENOTCONN : -EBUSY, no, out);
        return;
    }
    e->verify.running = true;
    e->verify.repair = repair;
    e->verify.begun_s = e->verify.order_s;
    e->verify.cookie = cookie;
    e->verify.run_count = 0;
    e->verify.places = 0;
    e->verify.marked = false;
    if (e->verify.telling == TELLING_DONE) /* else the peer is told already, and its answer will come */
        e->verify.telling = TELLING_NOTHING;
    struct digest_key key = key_of(e);
    actions_note(out, NOTE_INFO, "verify", "comparing both legs");
    verify_begin(e->verify.asker, &key, now_ns, out);
}

const char *verify_on_frame(struct engine *e, const struct frame *frame, struct buf *payload, uint64_t now_ns,
                            struct actions *out)
{
    if (frame->kind == FRAME_VERIFY_REPLY)
        return verify_frame(e->verify.asker, frame, payload, now_ns, out);
    /* Its own changes are kept away from nothing that the peer locks. */
    if (is_leading(e) || e->peer_state != PEER_IN_SYNC)
        return "a question that only a secondary, in sync, answers (kind)";
    return verify_reply_frame(e->verify.answerer, frame, now_ns, out);
}

/* Told that the peer's leg counts, and this one differs from it. */
static const char *on_told(struct engine *e, const struct frame *frame, struct actions *out)
{
    if (e->peer_state != PEER_IN_SYNC)
        return "found by a verify of legs that are not in sync (kind)";
    if (e->role.phase != PHASE_SECONDARY) {
        actions_add(out, ACT_SEND)->send.frame =
            (struct frame) { .kind = FRAME_VERIFY_FOUND, .flags = FRAME_FLAG_TAKEN, .status = EBUSY };
        return NULL;
    }
    if (!e->sb.differs) {
        e->sb.differs = true;
        want_persisted(e);
        actions_note(out, NOTE_ERROR, "verify",
                     "a verify on %s has found that the leg of %s differs, first at offset %llu: until a resync it is "
                     "not promoted without --force",
                     e->config.peer, e->config.node, (unsigned long long)frame->offset_bytes);
    }
    e->verify.told_owed = true;
    return NULL;
}

const char *verify_on_found(struct engine *e, const struct frame *frame, struct actions *out)
{
    if (!(frame->flags & FRAME_FLAG_TAKEN))
        return on_told(e, frame, out);
    if (e->verify.telling != TELLING_ASKED)
        return "answer to what it was not told (kind)";
    e->verify.telling = TELLING_DONE;
    /* Who leads has its bits set: the handshake brings the peer to the same, and resyncs it. */
    if (frame->status && is_leading(e))
        session_drop(e, "what a verify found is resynced", out);
    return NULL;
}

bool verify_owns(uint32_t op) { return op >= VERIFY_OP_FIRST && op < SYNC_OP_END; }

void verify_on_disk_done(struct engine *e, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out)
{
    if (op < VERIFY_REPLY_OP_FIRST)
        verify_disk_done(e->verify.asker, op, result, now_ns, out);
    else
        verify_reply_disk_done(e->verify.answerer, op, result, now_ns, out);
}

static const char *summary(const struct engine *e, const struct verify_view *view, struct actions *out)
{
    const struct verify_run *first = &e->verify.runs[0];
    return actions_text(
        out, "%llu bytes in %u place%s differ%s, the first at offset %llu, length %llu%s%s",
        (unsigned long long)view->differing_bytes + (unsigned long long)view->unreadable_bytes, e->verify.places,
        e->verify.places == 1 ? "" : "s", view->unreadable_bytes ? " or cannot be read" : "",
        (unsigned long long)first->range.offset_bytes, (unsigned long long)first->range.length_bytes,
        e->verify.marked ? "; they count as out of sync" : "",
        !e->verify.marked  ? ""
        : e->verify.repair ? " and are repaired by a resync now"
        : is_leading(e)    ? " until a resync, as by `lockstep verify --repair`"
                           : " until a resync: `lockstep verify --repair`, run on the node whose leg is right");
}

#define MEND_RETRY_NS (10 * NS_PER_MS) /* there was no memory */

/* What only the peer can read is read through the mirror, which masks and mends it. */
static void mend(struct engine *e, uint64_t now_ns, struct actions *out)
{
    struct engine_verify *v = &e->verify;
    int32_t result;
    /* Also of one whose verify has ended before it. */
    bool over = mirror_mend_over(e->mirror, &result);
    if (over && v->mend == MEND_BEGUN) {
        v->mend = MEND_NOTHING;
        verify_mended(v->asker, result, now_ns, out);
    }
    while (v->mend == MEND_NOTHING && verify_wants_mend(v->asker, &v->mend_range)) {
        if (is_leading(e))
            v->mend = MEND_WANTED;
        else
            verify_mended(v->asker, -EROFS, now_ns, out); /* without a primary no leg is changed */
    }
    if (v->mend != MEND_WANTED)
        return;
    v->mend_at_ns = now_ns + MEND_RETRY_NS;
    if (mirror_mend(e->mirror, v->mend_range, out))
        v->mend = MEND_BEGUN;
}

static void record(struct engine *e, const struct verify_view *view)
{
    e->sb.verified_at_s = e->verify.begun_s;
    e->sb.verified_found_bytes = view->differing_bytes + view->unreadable_bytes;
    want_persisted(e);
}

void verify_advance(struct engine *e, uint64_t now_ns, struct actions *out)
{
    if (e->verify.answers)
        verify_reply_tick(e->verify.answerer, now_ns, out);
    if (e->verify.told_owed && e->session == SESSION_UP && persisted(e)) {
        e->verify.told_owed = false;
        actions_add(out, ACT_SEND)->send.frame =
            (struct frame) { .kind = FRAME_VERIFY_FOUND, .flags = FRAME_FLAG_TAKEN };
    }
    if (!e->verify.running || e->session != SESSION_UP)
        return;
    verify_set_busy(e->verify.asker, e->request_ns && now_ns - e->request_ns < BUSY_NS);
    verify_tick(e->verify.asker, now_ns, out);
    mend(e, now_ns, out);
    struct verify_view view;
    verify_view(e->verify.asker, &view);
    if (!view.done)
        return;
    if (e->verify.places == 0) {
        record(e, &view);
        if (view.mended_bytes)
            actions_note(out, NOTE_WARNING, "verify",
                         "%llu bytes could not be read on %s, and were mended with what the peer has; else both legs "
                         "are equal",
                         (unsigned long long)view.mended_bytes, e->config.backing);
        else
            actions_note(out, NOTE_INFO, "verify", "both legs are equal");
        end_order(e, 0, NULL, out);
        /* What an earlier one had found, a write has mended. Its bits go as all do: by a resync, which flushes. */
        if (e->verify.repair && bitmap_dirty_bytes(e->bitmap))
            session_drop(e, "what a verify found is resynced", out);
        return;
    }
    /* Without a primary this is what makes this node the source. */
    if (e->verify.repair && e->verify.marked && !is_leading(e) && e->verify.telling == TELLING_NOTHING)
        tell_peer(e, e->verify.runs[0].range, out);
    if (e->verify.telling == TELLING_ASKED)
        return;
    /* Who is told that these places count as out of sync may rely on it after a crash. */
    if (e->verify.marked && bitmap_stale_pages(e->bitmap) && !e->leg_failed) {
        e->log.settle |= !e->log.passing;
        return;
    }
    record(e, &view);
    tell_places(e, out);
    const char *text = summary(e, &view, out);
    actions_note(out, NOTE_ERROR, "verify", "%s", text);
    bool repair = e->verify.repair && e->verify.marked;
    end_order(e, -EILSEQ, text, out);
    if (repair)
        session_drop(e, "what a verify found is resynced", out);
}

uint64_t verify_next_ns(const struct engine *e)
{
    uint64_t at_ns = e->verify.answers ? verify_reply_deadline_ns(e->verify.answerer) : UINT64_MAX;
    /* As verify_advance(): a deadline that nobody looks at would be in the past for ever. */
    if (!e->verify.running || e->session != SESSION_UP)
        return at_ns;
    if (e->verify.mend == MEND_WANTED)
        at_ns = min_u64(at_ns, e->verify.mend_at_ns);
    return min_u64(at_ns, verify_deadline_ns(e->verify.asker));
}

bool verify_parts_idle(const struct engine *e)
{
    return verify_is_idle(e->verify.asker) && verify_reply_is_idle(e->verify.answerer);
}

void engine_verify_view(const struct engine *e, struct verify_view *view)
{
    verify_view(e->verify.asker, view);
    view->running = e->verify.running;
}

void engine_verify_places(const struct engine *e, struct verify_places *out)
{
    *out = (struct verify_places) { .total = e->verify.places, .count = e->verify.run_count };
    for (unsigned i = 0; i < out->count; i++)
        out->places[i] = (struct verify_place) { e->verify.runs[i].range, whose(e, e->verify.runs[i].finding) };
}
