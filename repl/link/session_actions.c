/* What a session has its shell do, and says: frames, closes, notes. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/link/session_internal.h"

struct session_action *session_act(struct session_actions *out, enum session_action_kind kind)
{
    assert(out->count < SESSION_ACTIONS_MAX);
    /* The engine's answer to an event is stepped in at once: nothing may be left to do by then. */
    assert(out->count == 0 || out->list[out->count - 1].kind != SA_EVENT);
    struct session_action *a = &out->list[out->count++];
    a->kind = kind;
    return a;
}

const char *session_vtext(struct session_actions *out, const char *format, va_list ap)
{
    char *text = out->text + out->text_used;
    /* Each has its share, so that a long one, which may be the peer's, leaves room for those after it. */
    size_t room = min_u64(sizeof(out->text) - out->text_used, FRAME_REFUSE_BYTES_MAX + 1);
    if (room < 2)
        return "";
    int n = vsnprintf(text, room, format, ap);
    size_t used = n < 0 ? 0 : (size_t)n;
    out->text_used += (unsigned)(used < room ? used + 1 : room);
    return text;
}

const char *session_text(struct session_actions *out, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const char *t = session_vtext(out, format, ap);
    va_end(ap);
    return t;
}

void session_note(struct session_actions *out, enum note_level level, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const char *t = session_vtext(out, format, ap);
    va_end(ap);
    struct session_action *a = session_act(out, SA_NOTE);
    a->note.level = level;
    a->note.text = t;
}

void session_send(struct conn *c, const struct frame *frame, struct buf *payload, const char *t,
                  struct session_actions *out)
{
    struct session_action *a = session_act(out, frame->kind == FRAME_HELLO ? SA_SEND_HELLO : SA_SEND);
    a->send.conn = c->id;
    a->send.frame = *frame;
    a->send.frame.number = ++c->sent;
    a->send.payload = payload;
    a->send.text = t;
}

void session_close_conn(conn_id id, bool after_sending, struct session_actions *out)
{
    struct session_action *a = session_act(out, SA_CLOSE);
    a->close.conn = id;
    a->close.after_sending = after_sending;
}

void session_refuse_conn(struct conn *c, uint16_t how_long, const char *why, struct session_actions *out)
{
    const char *words = session_text(out, "%.*s", FRAME_REFUSE_BYTES_MAX, why);
    size_t bytes = strlen(words);
    struct frame frame = {
        .kind = FRAME_REFUSE,
        .status = how_long,
        .payload_bytes = (uint32_t)bytes,
        .payload_check = bytes ? checksum64(words, bytes) : 0,
    };
    session_send(c, &frame, NULL, words, out);
    session_close_conn(c->id, true, out);
}

/* Of a stamp of the peer's: bounded, as a connection of an hour without a heartbeat is long over. */
static uint32_t kept_us(uint64_t kept_ns) { return (uint32_t)min_u64(kept_ns / NS_PER_US, UINT32_MAX); }

uint64_t session_heartbeat_interval_ns(const struct session *s)
{
    return s->dead_after_ns / SESSION_HEARTBEATS_PER_DEAD_AFTER;
}

void session_send_heartbeat(struct session *s, uint64_t now, struct session_actions *out)
{
    struct conn *c = &s->conn;
    struct frame frame = {
        .kind = FRAME_HEARTBEAT,
        .epoch = c->age,
        .lsn = now - c->opened_ns + 1,
        .offset_bytes = c->peer_stamp,
        .tag = c->peer_stamp ? kept_us(now - c->peer_stamp_ns) : 0,
    };
    session_send(c, &frame, NULL, NULL, out);
    c->heartbeat_ns = now + session_heartbeat_interval_ns(s);
}

void session_send_hello(struct session *s, uint64_t now, struct session_actions *out)
{
    session_send(&s->conn, &(struct frame) { .kind = FRAME_HELLO }, NULL, NULL, out);
    s->conn.heartbeat_ns = now + session_heartbeat_interval_ns(s);
    s->conn.hello_ns = now;
}
