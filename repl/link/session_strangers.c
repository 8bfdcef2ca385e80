/* Accepted connections that have not said yet who they are: a stranger can have a place for dead-after, and no more. */
#include <stdio.h>
#include <string.h>

#include "repl/link/session_internal.h"

#define STRANGER_NOTE_NS (10 * NS_PER_S)

struct conn *session_find_stranger(struct session *s, conn_id id)
{
    for (unsigned i = 0; i < s->stranger_count; i++)
        if (s->strangers[i].id == id)
            return &s->strangers[i];
    return NULL;
}

void session_forget_stranger(struct session *s, struct conn *c)
{
    size_t after = (size_t)(&s->strangers[s->stranger_count] - (c + 1));
    memmove(c, c + 1, after * sizeof(*c));
    s->stranger_count--;
}

/* Anyone who reaches the port can cause these: one line in a while, with a count. */
static void note_stranger(struct session *s, uint64_t now, unsigned path, const char *why, struct session_actions *out)
{
    if (now < s->stranger_note_ns) {
        s->strangers_untold++;
        return;
    }
    if (s->strangers_untold)
        session_note(out, NOTE_WARNING, "connection on %s turned away: %s (and %u more before it)", s->path_names[path],
                     why, s->strangers_untold);
    else
        session_note(out, NOTE_WARNING, "connection on %s turned away: %s", s->path_names[path], why);
    s->strangers_untold = 0;
    s->stranger_note_ns = now + STRANGER_NOTE_NS;
}

void session_drop_stranger(struct session *s, uint64_t now, struct conn *c, const char *why,
                           struct session_actions *out)
{
    session_close_conn(c->id, false, out);
    note_stranger(s, now, c->path, why, out);
    session_forget_stranger(s, c);
}

void session_on_accepted(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    unsigned path = ev->opened.path < s->path_count ? ev->opened.path : 0;
    if (s->initiator) {
        session_close_conn(ev->opened.conn, false, out);
        note_stranger(s, ev->now_ns, path, "this node does not accept, it connects", out);
        return;
    }
    if (s->stranger_count == SESSION_STRANGERS_MAX)
        session_drop_stranger(s, ev->now_ns, &s->strangers[0], "too many that do not say who they are", out);
    s->strangers[s->stranger_count++] = (struct conn) {
        .id = ev->opened.conn,
        .path = path,
        .opened_ns = ev->now_ns,
        .heard_ns = ev->now_ns,
    };
}

void session_expire_strangers(struct session *s, uint64_t now, struct session_actions *out)
{
    while (s->stranger_count && now >= s->strangers[0].opened_ns + s->dead_after_ns)
        session_drop_stranger(s, now, &s->strangers[0], "it did not say who it is", out);
}

void session_on_stranger_hello(struct session *s, struct conn *c, const struct session_event *ev,
                               struct session_actions *out)
{
    const struct hello *h = ev->hello.hello;
    if (ev->hello.frame.number != 1) {
        session_drop_stranger(s, ev->now_ns, c, "its hello is not its first frame", out);
        return;
    }
    c->received = 1;
    const char *why = session_misnamed(s, h, out);
    if (!why && s->state == STATE_STOPPED)
        why = session_text(out, "%s is disconnected by its operator", s->node);
    if (why) {
        session_refuse_conn(c, FRAME_REFUSE_LASTING, why, out);
        note_stranger(s, ev->now_ns, c->path, why, out);
        /* The peer itself, configured otherwise than we are: an operator looks at the status first. */
        if (s->state == STATE_WAITING && strcmp(h->node, s->peer) == 0) {
            s->refused = true;
            snprintf(s->reason, sizeof(s->reason), "refused %s: %s", s->peer, why);
        }
        session_forget_stranger(s, c);
        return;
    }
    struct conn taken = *c;
    session_forget_stranger(s, c);
    if (s->conn.id) {
        session_close_conn(s->conn.id, false, out);
        session_leave(s, ev->now_ns, OUTCOME_REPLACED, session_text(out, "%s connected anew", s->peer), out);
        session_enter_answering(s, ev->now_ns, &taken, h);
        return;
    }
    session_enter_answering(s, ev->now_ns, &taken, h);
    session_enter_judging(s, ev->now_ns, out);
}
