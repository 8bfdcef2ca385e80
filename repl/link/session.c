/* The session's state machine: its states, and what each event does in them. */
#include "repl/link/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/link/session_internal.h"

#define RTT_SMOOTHING 8 /* each sample moves the estimate by an eighth, as TCP's does (RFC 6298) */

struct session *session_open(const struct session_config *config)
{
    assert(config->path_count > 0 && config->path_count <= SESSION_PATHS_MAX);
    assert(config->dead_after_ns >= SESSION_HEARTBEATS_PER_DEAD_AFTER);
    assert(config->retry_min_ns > 0 && config->retry_min_ns <= config->retry_max_ns && config->refused_retry_ns > 0);
    struct session *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    snprintf(s->volume, sizeof(s->volume), "%s", config->volume);
    snprintf(s->node, sizeof(s->node), "%s", config->node);
    snprintf(s->peer, sizeof(s->peer), "%s", config->peer);
    for (unsigned i = 0; i < config->path_count; i++) {
        if (config->path_names[i])
            snprintf(s->path_names[i], sizeof(s->path_names[i]), "%s", config->path_names[i]);
        else
            snprintf(s->path_names[i], sizeof(s->path_names[i]), "path %u", i + 1);
    }
    s->initiator = config->initiator;
    s->path_count = config->path_count;
    s->dead_after_ns = config->dead_after_ns;
    /* Two nodes that live are to find each other again before either acts as if the other were lost: a connection is
     * ended on purpose, too, such as for a decree. */
    s->retry_max_ns = min_u64(config->retry_max_ns, config->dead_after_ns / 2);
    s->retry_min_ns = min_u64(config->retry_min_ns, s->retry_max_ns);
    s->refused_retry_ns = config->refused_retry_ns;
    s->prng = prng_seed(config->seed);
    s->state = STATE_STOPPED;
    snprintf(s->reason, sizeof(s->reason), "not started");
    s->due_ns = UINT64_MAX;
    return s;
}

void session_close(struct session *s) { free(s); }

/* ------------------------------------------------------------------------------------------------- transitions */

static void enter_opening(struct session *s, uint64_t now, struct session_actions *out)
{
    assert(s->state == STATE_WAITING && s->initiator);
    s->conns_named = s->conns_named % (CONN_OUTGOING - 1) + 1;
    s->conn = (struct conn) {
        .id = CONN_OUTGOING | s->conns_named,
        .path = s->path,
        .opened_ns = now,
        .heard_ns = now,
    };
    s->state = STATE_OPENING;
    struct session_action *a = session_act(out, SA_CONNECT);
    a->connect.conn = s->conn.id;
    a->connect.path = s->conn.path;
}

static void enter_hello(struct session *s, uint64_t now, struct session_actions *out)
{
    assert(s->state == STATE_OPENING);
    s->conn.opened_ns = now;
    s->conn.heard_ns = now;
    s->state = STATE_HELLO;
    session_send_hello(s, now, out);
}

void session_enter_answering(struct session *s, uint64_t now, const struct conn *c, const struct hello *hello)
{
    assert(s->state == STATE_WAITING && !s->judged);
    s->conn = *c;
    s->conn.heard_ns = now;
    s->path = c->path;
    s->hello = *hello;
    s->state = STATE_ANSWERING;
}

void session_enter_judging(struct session *s, uint64_t now, struct session_actions *out)
{
    assert((s->state == STATE_HELLO || s->state == STATE_ANSWERING) && !s->judged);
    if (s->state == STATE_ANSWERING)
        session_send_hello(s, now, out);
    s->state = STATE_JUDGING;
    s->judged = true;
    struct session_action *a = session_act(out, SA_EVENT);
    a->event.kind = EV_HELLO;
    a->event.now_ns = now;
    a->event.hello = &s->hello;
}

static void enter_up(struct session *s, uint64_t now, struct session_actions *out)
{
    assert(s->state == STATE_JUDGING && s->ready_sent && s->ready_received);
    s->state = STATE_UP;
    s->refused = false;
    s->reason[0] = 0;
    s->up_since_ns = now;
    s->noted[s->conn.path] = 0;
    session_note(out, NOTE_INFO, "connected to %s over %s", s->peer, s->path_names[s->conn.path]);
    session_send_heartbeat(s, now, out); /* the first one starts the measuring of round trips */
    struct session_action *a = session_act(out, SA_EVENT);
    a->event.kind = EV_SESSION_UP;
    a->event.now_ns = now;
    a->event.heard.sent_ns = s->conn.hello_ns; /* its ready answers our hello */
}

/* ------------------------------------------------------------------------------------------------- events */

const char *session_misnamed(const struct session *s, const struct hello *h, struct session_actions *out)
{
    if (strcmp(h->volume, s->volume) != 0)
        return session_text(out, "this is volume %s on %s, not volume %s", s->volume, s->node, h->volume);
    if (strcmp(h->peer, s->node) != 0)
        return session_text(out, "this is node %s, not %s", s->node, h->peer);
    if (strcmp(h->node, s->peer) != 0)
        return session_text(out, "the peer of %s for volume %s is %s, not %s", s->node, s->volume, s->peer, h->node);
    return NULL;
}

static void on_opened(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    if (ev->opened.incoming)
        session_on_accepted(s, ev, out);
    else if (s->state == STATE_OPENING && ev->opened.conn == s->conn.id)
        enter_hello(s, ev->now_ns, out);
    else
        session_close_conn(ev->opened.conn, false, out);
}

static void on_closed(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    struct conn *stranger = session_find_stranger(s, ev->closed.conn);
    if (stranger)
        session_forget_stranger(s, stranger);
    if (!s->conn.id || ev->closed.conn != s->conn.id)
        return;
    const char *path = s->path_names[s->conn.path];
    if (s->state == STATE_UP)
        session_leave(s, ev->now_ns, OUTCOME_LOST,
                      session_text(out, "connection to %s over %s lost: %s", s->peer, path, ev->closed.reason), out);
    else
        session_leave(s, ev->now_ns, OUTCOME_FAILED,
                      session_text(out, "no connection to %s over %s: %s", s->peer, path, ev->closed.reason), out);
}

static void on_garbage(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    struct conn *stranger = session_find_stranger(s, ev->closed.conn);
    if (stranger)
        session_drop_stranger(s, ev->now_ns, stranger, ev->closed.reason, out);
    else if (s->conn.id && ev->closed.conn == s->conn.id)
        session_broken(s, ev->now_ns, out, "%s", ev->closed.reason);
}

static bool is_next(struct session *s, const struct session_event *ev, uint64_t number, struct session_actions *out)
{
    if (number != s->conn.received + 1) {
        session_broken(s, ev->now_ns, out, "frame number %llu came where %llu was due", (unsigned long long)number,
                       (unsigned long long)s->conn.received + 1);
        return false;
    }
    s->conn.received = number;
    s->conn.heard_ns = ev->now_ns;
    return true;
}

static void on_hello(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    struct conn *stranger = session_find_stranger(s, ev->hello.conn);
    if (stranger) {
        session_on_stranger_hello(s, stranger, ev, out);
        return;
    }
    if (!s->conn.id || ev->hello.conn != s->conn.id || !is_next(s, ev, ev->hello.frame.number, out))
        return;
    if (s->state != STATE_HELLO) {
        session_broken(s, ev->now_ns, out, "a second hello");
        return;
    }
    const char *why = session_misnamed(s, ev->hello.hello, out);
    if (why) {
        session_refuse_conn(&s->conn, FRAME_REFUSE_LASTING, why, out);
        session_leave(s, ev->now_ns, OUTCOME_REFUSED,
                      session_text(out, "%s answers as volume %s of %s: %s", s->path_names[s->conn.path],
                                   ev->hello.hello->volume, ev->hello.hello->node, why),
                      out);
        return;
    }
    s->hello = *ev->hello.hello;
    session_enter_judging(s, ev->now_ns, out);
}

static bool payload_is_sound(const struct session_event *ev)
{
    const struct frame *f = &ev->frame.frame;
    return f->payload_bytes == 0 || checksum64(ev->frame.payload->data, f->payload_bytes) == f->payload_check;
}

static void on_damaged(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    const struct frame *f = &ev->frame.frame;
    /* Told at once and always: this is data of the volume, and somebody's memory, wire or cable has changed it. */
    session_note(
        out, NOTE_ERROR,
        "payload of a %s from %s over %s is damaged: lsn %llu, offset %llu, %u bytes: checksum is %016llx, should be "
        "%016llx; it is not applied, and will be sent again",
        frame_kind_name(f->kind), s->peer, s->path_names[s->conn.path], (unsigned long long)f->lsn,
        (unsigned long long)f->offset_bytes, f->payload_bytes,
        (unsigned long long)checksum64(ev->frame.payload->data, f->payload_bytes),
        (unsigned long long)f->payload_check);
    session_broken(s, ev->now_ns, out, "damaged payload of a %s (lsn %llu)", frame_kind_name(f->kind),
                   (unsigned long long)f->lsn);
}

static void on_refusal(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    /* The peer's words, made fit for a terminal. */
    char said[FRAME_REFUSE_BYTES_MAX + 1];
    size_t n = ev->frame.frame.payload_bytes;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = ev->frame.payload->data[i];
        said[i] = c >= 0x20 && c != 0x7f ? (char)c : '?';
    }
    said[n] = 0;
    session_close_conn(s->conn.id, false, out);
    if (ev->frame.frame.status == FRAME_REFUSE_LASTING)
        session_leave(s, ev->now_ns, OUTCOME_REFUSED, session_text(out, "%s refuses: %s", s->peer, said), out);
    else
        session_leave(s, ev->now_ns, s->state == STATE_UP ? OUTCOME_LOST : OUTCOME_FAILED,
                      session_text(out, "%s ended the connection: %s", s->peer, said), out);
}

static void on_heartbeat(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    struct conn *c = &s->conn;
    uint64_t stamp = ev->now_ns - c->opened_ns + 1;
    uint64_t echo = ev->frame.frame.offset_bytes;
    uint64_t kept_ns = (uint64_t)ev->frame.frame.tag * NS_PER_US;
    c->peer_stamp = ev->frame.frame.lsn;
    c->peer_stamp_ns = ev->now_ns;
    bool answers = echo > 0 && echo <= stamp;
    uint64_t age = ev->frame.frame.epoch;
    if (s->state == STATE_UP && (answers || age)) {
        struct session_action *a = session_act(out, SA_EVENT);
        a->event.kind = EV_HEARD;
        a->event.now_ns = ev->now_ns;
        a->event.heard.sent_ns = answers ? c->opened_ns + echo - 1 : 0;
        a->event.heard.age = age;
    }
    if (!answers)
        return;
    uint64_t sample = stamp - echo;
    if (kept_ns > sample || sample - kept_ns > s->dead_after_ns)
        return;
    sample -= kept_ns;
    if (s->rtt_ns == 0)
        s->rtt_ns = sample;
    else
        s->rtt_ns = s->rtt_ns - s->rtt_ns / RTT_SMOOTHING + sample / RTT_SMOOTHING;
    if (s->rtt_ns == 0)
        s->rtt_ns = 1;
}

static void on_ready(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    if (s->ready_received) {
        session_broken(s, ev->now_ns, out, "ready said twice");
        return;
    }
    s->ready_received = true;
    if (s->ready_sent) {
        enter_up(s, ev->now_ns, out);
        return;
    }
    struct session_action *a = session_act(out, SA_EVENT);
    a->event.kind = EV_PEER_READY;
    a->event.now_ns = ev->now_ns;
}

/* A peer may say it is ready once it has our hello, and send the rest once it has our ready, too. */
static bool is_timely(const struct session *s, enum frame_kind kind)
{
    switch (s->state) {
    case STATE_STOPPED:
    case STATE_WAITING:
    case STATE_OPENING: return false;
    case STATE_HELLO: return kind == FRAME_REFUSE;
    case STATE_ANSWERING: return kind == FRAME_REFUSE || kind == FRAME_HEARTBEAT;
    case STATE_JUDGING: return kind == FRAME_REFUSE || kind == FRAME_HEARTBEAT || kind == FRAME_READY;
    case STATE_UP: return kind != FRAME_HELLO && kind != FRAME_READY;
    }
    return false;
}

/* True when the reference to the payload went on to the engine. */
static bool on_frame(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    const struct frame *f = &ev->frame.frame;
    struct conn *stranger = session_find_stranger(s, ev->frame.conn);
    if (stranger) {
        session_drop_stranger(s, ev->now_ns, stranger, "its first frame is not a hello", out);
        return false;
    }
    if (!s->conn.id || ev->frame.conn != s->conn.id || !is_next(s, ev, f->number, out))
        return false;
    if (!is_timely(s, f->kind)) {
        session_broken(s, ev->now_ns, out, "%s %s the session is up", frame_kind_name(f->kind),
                       s->state == STATE_UP ? "although" : "before");
        return false;
    }
    if (!payload_is_sound(ev)) {
        on_damaged(s, ev, out);
        return false;
    }
    switch (f->kind) {
    case FRAME_HELLO: return false;
    case FRAME_READY: on_ready(s, ev, out); return false;
    case FRAME_REFUSE: on_refusal(s, ev, out); return false;
    case FRAME_HEARTBEAT: on_heartbeat(s, ev, out); return false;
    case FRAME_WRITE:
    case FRAME_DISCARD:
    case FRAME_WRITE_ZEROES:
    case FRAME_FLUSH:
    case FRAME_ACK:
    case FRAME_DECREE:
    case FRAME_SYNC_BITS:
    case FRAME_SYNC_ASK:
    case FRAME_SYNC_DATA:
    case FRAME_SYNC_STABLE:
    case FRAME_SYNC_DONE:
    case FRAME_READ:
    case FRAME_READ_DATA:
    case FRAME_VERIFY_ASK:
    case FRAME_VERIFY_REPLY:
    case FRAME_VERIFY_FOUND:
    case FRAME_RESIZE:
    case FRAME_RESIZE_REPLY: {
        struct session_action *a = session_act(out, SA_EVENT);
        a->event.kind = EV_FRAME;
        a->event.now_ns = ev->now_ns;
        a->event.frame.frame = *f;
        a->event.frame.payload = ev->frame.payload;
        return true;
    }
    }
    return false;
}

/* A write's payload has been checked since its capture; that of all others is sealed here. */
static void on_send(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    if (s->state != STATE_UP)
        return;
    struct frame frame = ev->send.frame;
    if (frame.kind == FRAME_HEARTBEAT) {
        s->conn.age = frame.epoch;
        session_send_heartbeat(s, ev->now_ns, out);
        return;
    }
    if (frame.payload_bytes && frame.kind != FRAME_WRITE)
        frame.payload_check = checksum64(ev->send.payload->data, frame.payload_bytes);
    session_send(&s->conn, &frame, ev->send.payload, NULL, out);
}

static void on_silence(struct session *s, uint64_t now, struct session_actions *out)
{
    const char *path = s->path_names[s->conn.path];
    bool was_up = s->state == STATE_UP;
    const char *why = s->state == STATE_OPENING
                          ? session_text(out, "no connection to %s over %s: no answer", s->peer, path)
                          : session_text(out, "nothing heard of %s over %s for %llu ms", s->peer, path,
                                         (unsigned long long)((now - s->conn.heard_ns) / NS_PER_MS));
    /* Nothing that is still queued may reach the peer later. */
    session_close_conn(s->conn.id, false, out);
    session_leave(s, now, was_up ? OUTCOME_SILENT : OUTCOME_FAILED, why, out);
}

static void on_tick(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    uint64_t now = ev->now_ns;
    /* When this node itself did not run for a while, what the peer said in that time waits to be received. */
    bool overslept = now > s->due_ns && now - s->due_ns > session_heartbeat_interval_ns(s);
    session_expire_strangers(s, now, out);
    switch (s->state) {
    case STATE_STOPPED: break;
    case STATE_WAITING:
        if (s->initiator && now >= s->retry_ns)
            enter_opening(s, now, out);
        break;
    case STATE_ANSWERING: session_enter_judging(s, now, out); break;
    case STATE_OPENING:
    case STATE_HELLO:
    case STATE_JUDGING:
    case STATE_UP:
        if (s->state != STATE_OPENING && s->state != STATE_HELLO)
            s->conn.heard_ns = max_u64(s->conn.heard_ns, min_u64(ev->tick.heard_ns, now));
        if (overslept && now >= s->conn.heard_ns + s->dead_after_ns)
            s->conn.heard_ns = now - s->dead_after_ns + session_heartbeat_interval_ns(s);
        if (now >= s->conn.heard_ns + s->dead_after_ns)
            on_silence(s, now, out);
        else if (s->state != STATE_OPENING && now >= s->conn.heartbeat_ns)
            session_send_heartbeat(s, now, out);
        break;
    }
}

static void on_start(struct session *s, uint64_t now, struct session_actions *out)
{
    if (s->state != STATE_STOPPED)
        return;
    s->state = STATE_WAITING;
    s->refused = false;
    s->path = 0;
    s->tries_left = s->path_count;
    s->backoff_ns = s->retry_min_ns;
    s->retry_ns = now;
    snprintf(s->reason, sizeof(s->reason), s->initiator ? "connecting to %s" : "waiting for %s to connect", s->peer);
}

static void on_stop(struct session *s, uint64_t now, struct session_actions *out)
{
    if (s->state == STATE_STOPPED)
        return;
    while (s->stranger_count) {
        session_close_conn(s->strangers[0].id, false, out);
        session_forget_stranger(s, &s->strangers[0]);
    }
    if (s->state == STATE_OPENING)
        session_close_conn(s->conn.id, false, out);
    else if (s->conn.id)
        session_refuse_conn(&s->conn, FRAME_REFUSE_FOR_NOW, "disconnected by its operator", out);
    session_leave(s, now, OUTCOME_STOPPED, "disconnected by the operator", out);
}

/* The engine's words come late when the session has ended meanwhile: it learns of that from EV_SESSION_DOWN. */
static void on_engine_ready(struct session *s, uint64_t now, struct session_actions *out)
{
    if (s->state != STATE_JUDGING || s->ready_sent)
        return;
    session_send(&s->conn, &(struct frame) { .kind = FRAME_READY }, NULL, NULL, out);
    s->ready_sent = true;
    if (s->ready_received)
        enter_up(s, now, out);
}

static void on_engine_refuses(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    if (!s->judged)
        return;
    session_refuse_conn(&s->conn, FRAME_REFUSE_LASTING, ev->text.text, out);
    session_leave(s, ev->now_ns, OUTCOME_REFUSED, session_text(out, "refused %s: %s", s->peer, ev->text.text), out);
}

static void on_engine_drops(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    if (s->judged)
        session_broken(s, ev->now_ns, out, "%s", ev->text.text);
}

void session_step(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    out->count = 0;
    out->text_used = 0;
    bool payload_given = false;
    switch (ev->kind) {
    case SV_START: on_start(s, ev->now_ns, out); break;
    case SV_STOP: on_stop(s, ev->now_ns, out); break;
    case SV_OPENED: on_opened(s, ev, out); break;
    case SV_OPEN_FAILED: on_closed(s, ev, out); break;
    case SV_CLOSED: on_closed(s, ev, out); break;
    case SV_FRAME: payload_given = on_frame(s, ev, out); break;
    case SV_HELLO: on_hello(s, ev, out); break;
    case SV_GARBAGE: on_garbage(s, ev, out); break;
    case SV_TICK: on_tick(s, ev, out); break;
    case SV_SEND: on_send(s, ev, out); break;
    case SV_READY: on_engine_ready(s, ev->now_ns, out); break;
    case SV_REFUSE: on_engine_refuses(s, ev, out); break;
    case SV_DROP: on_engine_drops(s, ev, out); break;
    }
    if (ev->kind == SV_FRAME && ev->frame.payload && !payload_given)
        buf_put(ev->frame.payload);
    assert((s->conn.id != 0) == (s->state != STATE_STOPPED && s->state != STATE_WAITING));
    assert(s->judged == (s->state == STATE_JUDGING || s->state == STATE_UP));
    s->due_ns = session_deadline_ns(s);
}

uint64_t session_deadline_ns(const struct session *s)
{
    uint64_t due = UINT64_MAX;
    if (s->stranger_count)
        due = s->strangers[0].opened_ns + s->dead_after_ns;
    switch (s->state) {
    case STATE_STOPPED: return due;
    case STATE_WAITING: return s->initiator ? min_u64(due, s->retry_ns) : due;
    case STATE_ANSWERING: return 0;
    case STATE_OPENING: return min_u64(due, s->conn.heard_ns + s->dead_after_ns);
    case STATE_HELLO:
    case STATE_JUDGING:
    case STATE_UP: return min_u64(due, min_u64(s->conn.heartbeat_ns, s->conn.heard_ns + s->dead_after_ns));
    }
    return due;
}

enum link_state session_state(const struct session *s)
{
    if (s->state == STATE_STOPPED)
        return LINK_DOWN;
    if (s->state == STATE_UP)
        return LINK_CONNECTED;
    return s->refused ? LINK_REFUSED : LINK_CONNECTING;
}

const char *session_reason(const struct session *s) { return s->reason; }

unsigned session_path(const struct session *s) { return s->conn.id ? s->conn.path : s->path; }

uint64_t session_rtt_ns(const struct session *s) { return s->rtt_ns; }

conn_id session_conn(const struct session *s) { return s->conn.id; }
