/* Verify: an operator wants to know whether both legs are equal. This node asks, its peer answers.
 *
 * What differs has its bit set while its range is locked: it counts as out of sync from then on, and the next resync,
 * which `repair` brings about at once, makes it equal to the source's. */
#include <errno.h>

#include "repl/engine/engine_internal.h"

static struct digest_key key_of(const struct engine *e)
{
    bool first = e->config.node_index == 0;
    return resync_key(first ? e->said.nonce : e->peer.nonce, first ? e->peer.nonce : e->said.nonce);
}

static void found(void *ctx, struct range granule, bool unreadable)
{
    struct engine *e = ctx;
    bitmap_set(e->bitmap, granule);
    e->log.settle = true; /* the activity log does not cover it: a crash would forget it */
    struct verify_run *last = e->verify.run_count ? &e->verify.runs[e->verify.run_count - 1] : NULL;
    if (last && last->unreadable == unreadable && range_end(last->range) == granule.offset_bytes) {
        last->range.length_bytes += granule.length_bytes;
        return;
    }
    e->verify.places++;
    if (e->verify.run_count < VERIFY_RUNS_MAX)
        e->verify.runs[e->verify.run_count++] = (struct verify_run) { granule, unreadable };
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

static void end_order(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    verify_stop(e->verify.asker, out);
    e->verify.running = false;
    order_answer(e->verify.cookie, result, text, out);
}

void verify_on_session_down(struct engine *e, struct actions *out)
{
    if (e->verify.answers)
        verify_reply_stop(e->verify.answerer, out);
    e->verify.answers = false;
    if (e->verify.running)
        end_order(e, -EIO,
                  actions_text(
                      out,
                      "the connection to %s was lost before all was compared: run it again when the volume is in sync",
                      e->config.peer),
                  out);
}

void verify_order(struct engine *e, bool repair, void *cookie, uint64_t now_ns, struct actions *out)
{
    const char *no = NULL;
    if (!e->config.peer)
        no = "the volume has a single node: there is nothing to compare with";
    else if (e->session != SESSION_UP || e->peer_state != PEER_IN_SYNC)
        no = actions_text(out, "both legs must be connected and in sync: %s", engine_why_not(e));
    else if (e->role.phase != PHASE_PRIMARY && e->role.phase != PHASE_SECONDARY)
        no = "its role is just changing; try again in a moment";
    else if (!is_leading(e) && e->peer_leads)
        no = actions_text(out, "%s is primary: run it there, where changes can be kept away from what is compared",
                          e->config.peer);
    else if (e->verify.running)
        no = "a verify is under way already";
    if (no) {
        order_answer(cookie, -EBUSY, no, out);
        return;
    }
    e->verify.running = true;
    e->verify.repair = repair;
    e->verify.cookie = cookie;
    e->verify.run_count = 0;
    e->verify.places = 0;
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
        out, "%llu bytes in %u place%s differ%s, the first at offset %llu, length %llu; they count as out of sync%s",
        (unsigned long long)view->differing_bytes + (unsigned long long)view->unreadable_bytes, e->verify.places,
        e->verify.places == 1 ? "" : "s", view->unreadable_bytes ? " or cannot be read" : "",
        (unsigned long long)first->range.offset_bytes, (unsigned long long)first->range.length_bytes,
        e->verify.repair ? " and are repaired by a resync now"
                         : " until a resync: `lockstep verify --repair`, run on the node whose leg is right");
}

void verify_advance(struct engine *e, uint64_t now_ns, struct actions *out)
{
    if (e->verify.answers)
        verify_reply_tick(e->verify.answerer, now_ns, out);
    if (!e->verify.running)
        return;
    verify_set_busy(e->verify.asker, e->request_ns && now_ns - e->request_ns < BUSY_NS);
    verify_tick(e->verify.asker, now_ns, out);
    struct verify_view view;
    verify_view(e->verify.asker, &view);
    if (!view.done)
        return;
    if (e->verify.places == 0) {
        actions_note(out, NOTE_INFO, "verify", "both legs are equal");
        end_order(e, 0, NULL, out);
        return;
    }
    for (unsigned i = 0; i < e->verify.run_count; i++)
        actions_note(out, NOTE_ERROR, "verify", "%s at offset %llu, length %llu",
                     e->verify.runs[i].unreadable ? "cannot be read on one leg" : "the legs differ",
                     (unsigned long long)e->verify.runs[i].range.offset_bytes,
                     (unsigned long long)e->verify.runs[i].range.length_bytes);
    const char *text = summary(e, &view, out);
    actions_note(out, NOTE_ERROR, "verify", "%s", text);
    bool repair = e->verify.repair;
    end_order(e, -EILSEQ, text, out);
    if (repair)
        session_drop(e, "what a verify found is resynced", out);
}

uint64_t verify_next_ns(const struct engine *e)
{
    uint64_t at_ns = e->verify.answers ? verify_reply_deadline_ns(e->verify.answerer) : UINT64_MAX;
    return e->verify.running ? min_u64(at_ns, verify_deadline_ns(e->verify.asker)) : at_ns;
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
