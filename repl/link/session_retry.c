/* The end of a connection, or of an attempt: what it means for the next one, and what is told of it. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/link/session_internal.h"

/* The same failure again is worth a line of the log only so often. */
#define REPEAT_NOTE_NS (60 * NS_PER_S)

static uint64_t with_jitter(struct session *s, uint64_t wait_ns)
{
    return wait_ns - prng_below(&s->prng, wait_ns / 2 + 1);
}

static void back_off(struct session *s, uint64_t now)
{
    s->retry_ns = now + with_jitter(s, s->backoff_ns);
    s->backoff_ns = min_u64(2 * s->backoff_ns, s->retry_max_ns);
    s->tries_left = s->path_count;
}

static void plan_retry(struct session *s, uint64_t now, enum outcome outcome)
{
    /* A session that breaks as soon as it is up does not start the back-off afresh. */
    if (s->state == STATE_UP && now - s->up_since_ns >= s->dead_after_ns)
        s->backoff_ns = s->retry_min_ns;
    switch (outcome) {
    case OUTCOME_FAILED:
        s->path = (s->path + 1) % s->path_count;
        if (--s->tries_left > 0) {
            s->retry_ns = now;
        } else {
            s->path = 0;
            back_off(s, now);
        }
        break;
    case OUTCOME_LOST:
        s->path = 0;
        back_off(s, now);
        break;
    case OUTCOME_SILENT:
        s->path = (s->path + 1) % s->path_count;
        back_off(s, now);
        break;
    case OUTCOME_REFUSED:
        s->path = 0;
        s->tries_left = s->path_count;
        s->retry_ns = now + with_jitter(s, s->refused_retry_ns);
        break;
    case OUTCOME_REPLACED:
    case OUTCOME_STOPPED: break;
    }
}

/* Tells of a failure, but not of the same one at every attempt. */
static void note_end(struct session *s, uint64_t now, enum note_level level, struct session_actions *out)
{
    unsigned path = s->conn.id ? s->conn.path : s->path;
    uint64_t check = checksum64(s->reason, strlen(s->reason));
    if (s->noted[path] == check && now - s->noted_ns[path] < REPEAT_NOTE_NS)
        return;
    s->noted[path] = check;
    s->noted_ns[path] = now;
    session_note(out, level, "%s", s->reason);
}

void session_leave(struct session *s, uint64_t now, enum outcome outcome, const char *why, struct session_actions *out)
{
    char reason[REASON_BYTES]; /* `why` may be made from the old reason */
    snprintf(reason, sizeof(reason), "%s", why);
    memcpy(s->reason, reason, sizeof(s->reason));
    s->refused = outcome == OUTCOME_REFUSED;
    enum note_level level = outcome == OUTCOME_REFUSED                                  ? NOTE_ERROR
                            : outcome == OUTCOME_STOPPED || outcome == OUTCOME_REPLACED ? NOTE_INFO
                                                                                        : NOTE_WARNING;
    note_end(s, now, level, out);
    if (s->initiator)
        plan_retry(s, now, outcome);
    bool judged = s->judged;
    uint64_t heard_ns = s->conn.heard_ns;
    s->conn = (struct conn) { 0 };
    s->judged = false;
    s->ready_sent = false;
    s->ready_received = false;
    s->rtt_ns = 0;
    s->state = outcome == OUTCOME_STOPPED ? STATE_STOPPED : STATE_WAITING;
    if (judged) {
        struct session_action *a = session_act(out, SA_EVENT);
        a->event.kind = EV_SESSION_DOWN;
        a->event.now_ns = now;
        a->event.down.reason = session_text(out, "%s", s->reason);
        a->event.down.heard_ns = heard_ns;
    }
}

void session_broken(struct session *s, uint64_t now, struct session_actions *out, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const char *why = session_vtext(out, format, ap);
    va_end(ap);
    session_refuse_conn(&s->conn, FRAME_REFUSE_FOR_NOW, why, out);
    enum outcome outcome = s->state == STATE_UP ? OUTCOME_LOST : OUTCOME_FAILED;
    session_leave(s, now, outcome, session_text(out, "connection to %s dropped: %s", s->peer, why), out);
}
