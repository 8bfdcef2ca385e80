/* The volume grows: both legs get room, then the peer has the size on disk, then this node, then its clients see it.
 *
 * The peer first: a change beyond its size would be refused by it. What is between size and room reads as zeroes on
 * both, so that a leg which is left behind by a crash takes the larger size in the next handshake. */
#include <errno.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

static void finish(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    void *cookie = e->resize.cookie;
    e->resize.ordered = false;
    order_answer(cookie, result, text, out);
}

static void send(enum frame_kind kind, uint32_t number, uint64_t bytes, int32_t result, struct actions *out)
{
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = NULL;
    a->send.frame = (struct frame) {
        .kind = kind, .tag = number, .offset_bytes = bytes, .status = (uint16_t)-result, .length_bytes = 0
    };
}

static bool can_grow_now(const struct engine *e)
{
    return own_leg(e) == LEG_UP_TO_DATE && !e->sb.full && bitmap_dirty_bytes(e->bitmap) == 0 &&
           (!e->config.peer || (e->session == SESSION_UP && e->peer_state == PEER_IN_SYNC));
}

void resize_order(struct engine *e, void *cookie, struct actions *out)
{
    struct engine_resize *r = &e->resize;
    if (e->role.phase != PHASE_PRIMARY) {
        order_answer(cookie, -EBUSY, "this node is not primary: resize it there, or promote it first", out);
        return;
    }
    if (r->ordered) {
        order_answer(cookie, -EBUSY, "a resize is under way", out);
        return;
    }
    if (!can_grow_now(e)) {
        const char *why = engine_why_not(e);
        bool unreachable = e->config.peer && e->session != SESSION_UP;
        order_answer(cookie, unreachable ? -ENOTCONN : -EBUSY,
                     actions_text(out, "both legs must be equal to grow: %s", why ? why : "they differ"), out);
        return;
    }
    *r = (struct engine_resize) { .ordered = true, .cookie = cookie, .number = r->number + 1 };
    if (e->config.peer)
        send(FRAME_RESIZE, r->number, 0, 0, out);
    else
        r->peer_ready = true;
    grow_begin(e, out);
}

/* This leg has room now, or will not. */
void resize_on_room(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    struct engine_resize *r = &e->resize;
    if (r->asked) {
        r->asked = false;
        if (e->session == SESSION_UP)
            send(FRAME_RESIZE_REPLY, r->asked_number, grow_room_bytes(e), result, out);
    }
    if (!r->ordered)
        return;
    if (result)
        finish(e, result == -ECANCELED ? -EBUSY : result, text, out);
    else
        r->own_ready = true;
}

static void agree(struct engine *e, struct actions *out)
{
    struct engine_resize *r = &e->resize;
    uint64_t room = grow_room_bytes(e);
    if (e->config.peer)
        room = min_u64(room, r->peer_room_bytes);
    if (room <= e->sb.size_bytes) {
        const char *who = grow_room_bytes(e) <= e->sb.size_bytes ? e->config.node : e->config.peer;
        finish(e, -ENOSPC,
               actions_text(out,
                            "the backing of %s has no room for more than the %llu bytes that the volume has, or its "
                            "configured `size` says so: both must grow first",
                            who, (unsigned long long)e->sb.size_bytes),
               out);
        return;
    }
    r->size_bytes = room;
    if (e->config.peer)
        send(FRAME_RESIZE, r->number, room, 0, out);
}

static void take_size(struct engine *e, struct actions *out)
{
    struct engine_resize *r = &e->resize;
    if (!engine_fix_size(e, max_u64(r->size_bytes, e->sb.size_bytes))) {
        finish(e, -ENOMEM, TEXT_NO_MEMORY, out);
        return;
    }
    r->recording = true;
}

void resize_advance(struct engine *e, struct actions *out)
{
    struct engine_resize *r = &e->resize;
    if (r->set_owed && persisted(e) && e->session == SESSION_UP) {
        r->set_owed = false;
        send(FRAME_RESIZE_REPLY, r->set_number, e->sb.size_bytes, 0, out);
    }
    if (!r->ordered)
        return;
    if (e->role.phase != PHASE_PRIMARY || e->leg_failed || e->sb_broken) {
        finish(e, -EBUSY, "this node is not primary any more, or its leg has failed", out);
        return;
    }
    if (r->own_ready && r->peer_ready && !r->size_bytes) {
        agree(e, out);
        if (r->ordered && !e->config.peer)
            take_size(e, out);
    }
    if (r->ordered && r->recording && persisted(e))
        finish(e, 0, NULL, out);
}

void resize_on_session_down(struct engine *e, struct actions *out)
{
    struct engine_resize *r = &e->resize;
    r->asked = false;
    r->set_owed = false;
    if (!r->ordered || r->recording)
        return;
    finish(e, -ENOTCONN,
           actions_text(out,
                        "the connection to %s was lost before both had grown: resize again. If the peer has taken the "
                        "new size already, this node does so when they meet",
                        e->config.peer),
           out);
}

static const char *on_asked(struct engine *e, const struct frame *frame, struct actions *out)
{
    struct engine_resize *r = &e->resize;
    if (frame->offset_bytes == 0) {
        if (e->role.phase != PHASE_SECONDARY || !can_grow_now(e)) {
            send(FRAME_RESIZE_REPLY, frame->tag, grow_room_bytes(e), -EBUSY, out);
            return NULL;
        }
        r->asked = true;
        r->asked_number = frame->tag;
        grow_begin(e, out);
        return NULL;
    }
    if (e->role.phase != PHASE_SECONDARY)
        return "this node is not secondary";
    if (frame->offset_bytes < e->sb.size_bytes || frame->offset_bytes > grow_room_bytes(e))
        return "a size that this leg has not said to have room for (offset_bytes)";
    if (!engine_fix_size(e, frame->offset_bytes)) {
        send(FRAME_RESIZE_REPLY, frame->tag, e->sb.size_bytes, -ENOMEM, out);
        return NULL;
    }
    actions_note(out, NOTE_INFO, "leg", "the volume has %llu bytes now", (unsigned long long)e->sb.size_bytes);
    r->set_owed = true;
    r->set_number = frame->tag;
    return NULL;
}

const char *resize_on_frame(struct engine *e, const struct frame *frame, struct actions *out)
{
    struct engine_resize *r = &e->resize;
    if (e->peer_state != PEER_IN_SYNC)
        return "the legs are not in sync";
    if (frame->kind == FRAME_RESIZE)
        return on_asked(e, frame, out);
    if (frame->tag != r->number)
        return NULL; /* of another resize */
    if (!r->ordered) {
        /* It has ended here, as this node was demoted, and the peer has taken the size meanwhile: in the same session
         * it may become primary, and serve it. */
        bool taken = !frame->status && r->size_bytes && frame->offset_bytes == r->size_bytes;
        if (taken && own_leg(e) == LEG_UP_TO_DATE && !engine_fix_size(e, max_u64(r->size_bytes, e->sb.size_bytes)))
            return TEXT_NO_MEMORY;
        return NULL;
    }
    if (frame->status) {
        finish(e, -frame->status,
               actions_text(out, "%s cannot grow its leg: %s. Its log has the reason", e->config.peer,
                            strerror(frame->status)),
               out);
        return NULL;
    }
    if (!r->peer_ready) {
        r->peer_ready = true;
        r->peer_room_bytes = frame->offset_bytes;
    } else if (r->size_bytes && !r->recording) {
        if (frame->offset_bytes < r->size_bytes)
            return "another size than was agreed (offset_bytes)";
        take_size(e, out);
    }
    return NULL;
}
