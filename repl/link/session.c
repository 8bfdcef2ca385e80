/* The session's state machine: connections, hellos, silence, numbers, back-off. */
#include "repl/link/session.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/base/prng.h"

#define REASON_BYTES (FRAME_REFUSE_BYTES_MAX + 1) /* whole refusals: what to do stands at their end */
#define PATH_NAME_BYTES 80
/* The same failure again is worth a line of the log only so often. */
#define REPEAT_NOTE_NS (60 * NS_PER_S)
#define STRANGER_NOTE_NS (10 * NS_PER_S)
#define RTT_SMOOTHING 8 /* each sample moves the estimate by an eighth, as TCP's does (RFC 6298) */

enum state {
    STATE_STOPPED,
    STATE_WAITING,   /* initiator: for retry_ns; acceptor: for the peer */
    STATE_OPENING,   /* initiator: our connect is under way */
    STATE_HELLO,     /* initiator: our hello is sent, the peer's is awaited */
    STATE_ANSWERING, /* acceptor: the peer's hello ended an older session; ours goes out once the engine knows of that
                      */
    STATE_JUDGING,   /* both hellos are exchanged; the two engines make up their minds */
    STATE_UP,
};

/* What an end means for the next attempt. */
enum outcome {
    OUTCOME_FAILED,   /* an attempt came to nothing: next path, after the last one back-off */
    OUTCOME_LOST,     /* the connection broke: begin with the preferred path again */
    OUTCOME_SILENT,   /* the path went dead under us: begin with the next one */
    OUTCOME_REFUSED,  /* trying soon again changes nothing */
    OUTCOME_REPLACED, /* there is a newer connection already */
    OUTCOME_STOPPED,
};

struct conn {
    conn_id id; /* 0: none */
    unsigned path;
    uint64_t opened_ns;
    uint64_t heard_ns;
    uint64_t heartbeat_ns; /* when the next is due */
    uint64_t sent;         /* number of the last frame sent */
    uint64_t received;
    uint64_t peer_stamp; /* from the peer's last heartbeat; 0: none yet */
    uint64_t peer_stamp_ns;
    uint64_t hello_ns; /* when ours was sent */
    uint64_t age;      /* of this node's leg, as the engine has last told; 0: it has not */
};

struct session {
    char volume[NAME_BYTES_MAX];
    char node[NAME_BYTES_MAX];
    char peer[NAME_BYTES_MAX];
    char path_names[SESSION_PATHS_MAX][PATH_NAME_BYTES];
    bool initiator;
    unsigned path_count;
    uint64_t dead_after_ns;
    uint64_t retry_min_ns;
    uint64_t retry_max_ns;
    uint64_t refused_retry_ns;
    struct prng prng;

    enum state state;
    bool refused; /* and not up since */
    char reason[REASON_BYTES];
    struct conn conn;
    struct hello hello; /* the peer's, until STATE_ANSWERING ends */
    bool judged;        /* the engine was given EV_HELLO and not yet EV_SESSION_DOWN */
    bool ready_sent;
    bool ready_received;
    uint64_t up_since_ns;
    uint64_t rtt_ns;

    unsigned path;       /* in use, or to be tried next */
    unsigned tries_left; /* of this round over the paths */
    uint64_t backoff_ns;
    uint64_t retry_ns;
    uint32_t conns_named;

    struct conn strangers[SESSION_STRANGERS_MAX]; /* oldest first */
    unsigned stranger_count;
    uint64_t stranger_note_ns; /* when the next may be told of */
    unsigned strangers_untold;

    uint64_t noted[SESSION_PATHS_MAX]; /* checksum of what was last told of this path's failure */
    uint64_t noted_ns[SESSION_PATHS_MAX];
    uint64_t due_ns; /* what session_deadline_ns() was after the last step */
};

static uint64_t heartbeat_interval_ns(const struct session *s)
{
    return s->dead_after_ns / SESSION_HEARTBEATS_PER_DEAD_AFTER;
}

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
    s->retry_min_ns = config->retry_min_ns;
    s->retry_max_ns = config->retry_max_ns;
    s->refused_retry_ns = config->refused_retry_ns;
    s->prng = prng_seed(config->seed);
    s->state = STATE_STOPPED;
    snprintf(s->reason, sizeof(s->reason), "not started");
    s->due_ns = UINT64_MAX;
    return s;
}

void session_close(struct session *s) { free(s); }

/* ------------------------------------------------------------------------------------------------- actions */

static struct session_action *act(struct session_actions *out, enum session_action_kind kind)
{
    assert(out->count < SESSION_ACTIONS_MAX);
    /* The engine's answer to an event is stepped in at once: nothing may be left to do by then. */
    assert(out->count == 0 || out->list[out->count - 1].kind != SA_EVENT);
    struct session_action *a = &out->list[out->count++];
    a->kind = kind;
    return a;
}

__attribute__((format(printf, 2, 0))) static const char *vtext(struct session_actions *out, const char *format,
                                                               va_list ap)
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

__attribute__((format(printf, 2, 3))) static const char *text(struct session_actions *out, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const char *t = vtext(out, format, ap);
    va_end(ap);
    return t;
}

__attribute__((format(printf, 3, 4))) static void note(struct session_actions *out, enum note_level level,
                                                       const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const char *t = vtext(out, format, ap);
    va_end(ap);
    struct session_action *a = act(out, SA_NOTE);
    a->note.level = level;
    a->note.text = t;
}

static void send(struct conn *c, const struct frame *frame, struct buf *payload, const char *t,
                 struct session_actions *out)
{
    struct session_action *a = act(out, frame->kind == FRAME_HELLO ? SA_SEND_HELLO : SA_SEND);
    a->send.conn = c->id;
    a->send.frame = *frame;
    a->send.frame.number = ++c->sent;
    a->send.payload = payload;
    a->send.text = t;
}

static void close_conn(conn_id id, bool after_sending, struct session_actions *out)
{
    struct session_action *a = act(out, SA_CLOSE);
    a->close.conn = id;
    a->close.after_sending = after_sending;
}

/* Says why, then closes. */
static void refuse_conn(struct conn *c, uint16_t how_long, const char *why, struct session_actions *out)
{
    const char *words = text(out, "%.*s", FRAME_REFUSE_BYTES_MAX, why);
    size_t bytes = strlen(words);
    struct frame frame = {
        .kind = FRAME_REFUSE,
        .status = how_long,
        .payload_bytes = (uint32_t)bytes,
        .payload_check = bytes ? checksum64(words, bytes) : 0,
    };
    send(c, &frame, NULL, words, out);
    close_conn(c->id, true, out);
}

/* Of a stamp of the peer's: bounded, as a connection of an hour without a heartbeat is long over. */
static uint32_t kept_us(uint64_t kept_ns) { return (uint32_t)min_u64(kept_ns / NS_PER_US, UINT32_MAX); }

static void send_heartbeat(struct session *s, uint64_t now, struct session_actions *out)
{
    struct conn *c = &s->conn;
    struct frame frame = {
        .kind = FRAME_HEARTBEAT,
        .epoch = c->age,
        .lsn = now - c->opened_ns + 1,
        .offset_bytes = c->peer_stamp,
        .tag = c->peer_stamp ? kept_us(now - c->peer_stamp_ns) : 0,
    };
    send(c, &frame, NULL, NULL, out);
    c->heartbeat_ns = now + heartbeat_interval_ns(s);
}

static void send_hello(struct session *s, uint64_t now, struct session_actions *out)
{
    send(&s->conn, &(struct frame) { .kind = FRAME_HELLO }, NULL, NULL, out);
    s->conn.heartbeat_ns = now + heartbeat_interval_ns(s);
    s->conn.hello_ns = now;
}

/* ------------------------------------------------------------------------------------------------- retrying */

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
    note(out, level, "%s", s->reason);
}

/* The end of a connection, or of an attempt: the only way back to WAITING. Its SA_CLOSE, if one is due, is out already.
 */
static void leave(struct session *s, uint64_t now, enum outcome outcome, const char *why, struct session_actions *out)
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
        struct session_action *a = act(out, SA_EVENT);
        a->event.kind = EV_SESSION_DOWN;
        a->event.now_ns = now;
        a->event.down.reason = text(out, "%s", s->reason);
        a->event.down.heard_ns = heard_ns;
    }
}

/* The peer did what no peer of ours does: tell it, and be done with this connection. */
__attribute__((format(printf, 4, 5))) static void broken(struct session *s, uint64_t now, struct session_actions *out,
                                                         const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const char *why = vtext(out, format, ap);
    va_end(ap);
    refuse_conn(&s->conn, FRAME_REFUSE_FOR_NOW, why, out);
    enum outcome outcome = s->state == STATE_UP ? OUTCOME_LOST : OUTCOME_FAILED;
    leave(s, now, outcome, text(out, "connection to %s dropped: %s", s->peer, why), out);
}

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
    struct session_action *a = act(out, SA_CONNECT);
    a->connect.conn = s->conn.id;
    a->connect.path = s->conn.path;
}

static void enter_hello(struct session *s, uint64_t now, struct session_actions *out)
{
    assert(s->state == STATE_OPENING);
    s->conn.opened_ns = now;
    s->conn.heard_ns = now;
    s->state = STATE_HELLO;
    send_hello(s, now, out);
}

static void enter_answering(struct session *s, uint64_t now, const struct conn *c, const struct hello *hello)
{
    assert(s->state == STATE_WAITING && !s->judged);
    s->conn = *c;
    s->conn.heard_ns = now;
    s->path = c->path;
    s->hello = *hello;
    s->state = STATE_ANSWERING;
}

static void enter_judging(struct session *s, uint64_t now, struct session_actions *out)
{
    assert((s->state == STATE_HELLO || s->state == STATE_ANSWERING) && !s->judged);
    if (s->state == STATE_ANSWERING)
        send_hello(s, now, out);
    s->state = STATE_JUDGING;
    s->judged = true;
    struct session_action *a = act(out, SA_EVENT);
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
    note(out, NOTE_INFO, "connected to %s over %s", s->peer, s->path_names[s->conn.path]);
    send_heartbeat(s, now, out); /* the first one starts the measuring of round trips */
    struct session_action *a = act(out, SA_EVENT);
    a->event.kind = EV_SESSION_UP;
    a->event.now_ns = now;
    a->event.heard.sent_ns = s->conn.hello_ns; /* its ready answers our hello */
}

/* ------------------------------------------------------------------------------------------------- strangers */

static struct conn *find_stranger(struct session *s, conn_id id)
{
    for (unsigned i = 0; i < s->stranger_count; i++)
        if (s->strangers[i].id == id)
            return &s->strangers[i];
    return NULL;
}

static void forget_stranger(struct session *s, struct conn *c)
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
        note(out, NOTE_WARNING, "connection on %s turned away: %s (and %u more before it)", s->path_names[path], why,
             s->strangers_untold);
    else
        note(out, NOTE_WARNING, "connection on %s turned away: %s", s->path_names[path], why);
    s->strangers_untold = 0;
    s->stranger_note_ns = now + STRANGER_NOTE_NS;
}

static void drop_stranger(struct session *s, uint64_t now, struct conn *c, const char *why, struct session_actions *out)
{
    close_conn(c->id, false, out);
    note_stranger(s, now, c->path, why, out);
    forget_stranger(s, c);
}

static void on_accepted(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    unsigned path = ev->opened.path < s->path_count ? ev->opened.path : 0;
    if (s->initiator) {
        close_conn(ev->opened.conn, false, out);
        note_stranger(s, ev->now_ns, path, "this node does not accept, it connects", out);
        return;
    }
    if (s->stranger_count == SESSION_STRANGERS_MAX)
        drop_stranger(s, ev->now_ns, &s->strangers[0], "too many that do not say who they are", out);
    s->strangers[s->stranger_count++] = (struct conn) {
        .id = ev->opened.conn,
        .path = path,
        .opened_ns = ev->now_ns,
        .heard_ns = ev->now_ns,
    };
}

/* NULL when this is the node, and the volume, that we are to be connected with. */
static const char *misnamed(const struct session *s, const struct hello *h, struct session_actions *out)
{
    if (strcmp(h->volume, s->volume) != 0)
        return text(out, "this is volume %s on %s, not volume %s", s->volume, s->node, h->volume);
    if (strcmp(h->peer, s->node) != 0)
        return text(out, "this is node %s, not %s", s->node, h->peer);
    if (strcmp(h->node, s->peer) != 0)
        return text(out, "the peer of %s for volume %s is %s, not %s", s->node, s->volume, s->peer, h->node);
    return NULL;
}

static void on_stranger_hello(struct session *s, struct conn *c, const struct session_event *ev,
                              struct session_actions *out)
{
    const struct hello *h = ev->hello.hello;
    if (ev->hello.frame.number != 1) {
        drop_stranger(s, ev->now_ns, c, "its hello is not its first frame", out);
        return;
    }
    c->received = 1;
    const char *why = misnamed(s, h, out);
    if (!why && s->state == STATE_STOPPED)
        why = text(out, "%s is disconnected by its operator", s->node);
    if (why) {
        refuse_conn(c, FRAME_REFUSE_LASTING, why, out);
        note_stranger(s, ev->now_ns, c->path, why, out);
        /* The peer itself, configured otherwise than we are: an operator looks at the status first. */
        if (s->state == STATE_WAITING && strcmp(h->node, s->peer) == 0) {
            s->refused = true;
            snprintf(s->reason, sizeof(s->reason), "refused %s: %s", s->peer, why);
        }
        forget_stranger(s, c);
        return;
    }
    struct conn taken = *c;
    forget_stranger(s, c);
    if (s->conn.id) {
        close_conn(s->conn.id, false, out);
        leave(s, ev->now_ns, OUTCOME_REPLACED, text(out, "%s connected anew", s->peer), out);
        enter_answering(s, ev->now_ns, &taken, h);
        return;
    }
    enter_answering(s, ev->now_ns, &taken, h);
    enter_judging(s, ev->now_ns, out);
}

/* ------------------------------------------------------------------------------------------------- events */

static void on_opened(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    if (ev->opened.incoming)
        on_accepted(s, ev, out);
    else if (s->state == STATE_OPENING && ev->opened.conn == s->conn.id)
        enter_hello(s, ev->now_ns, out);
    else
        close_conn(ev->opened.conn, false, out);
}

static void on_closed(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    struct conn *stranger = find_stranger(s, ev->closed.conn);
    if (stranger)
        forget_stranger(s, stranger);
    if (!s->conn.id || ev->closed.conn != s->conn.id)
        return;
    const char *path = s->path_names[s->conn.path];
    if (s->state == STATE_UP)
        leave(s, ev->now_ns, OUTCOME_LOST,
              text(out, "connection to %s over %s lost: %s", s->peer, path, ev->closed.reason), out);
    else
        leave(s, ev->now_ns, OUTCOME_FAILED,
              text(out, "no connection to %s over %s: %s", s->peer, path, ev->closed.reason), out);
}

static void on_garbage(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    struct conn *stranger = find_stranger(s, ev->closed.conn);
    if (stranger)
        drop_stranger(s, ev->now_ns, stranger, ev->closed.reason, out);
    else if (s->conn.id && ev->closed.conn == s->conn.id)
        broken(s, ev->now_ns, out, "%s", ev->closed.reason);
}

static bool is_next(struct session *s, const struct session_event *ev, uint64_t number, struct session_actions *out)
{
    if (number != s->conn.received + 1) {
        broken(s, ev->now_ns, out, "frame number %llu came where %llu was due", (unsigned long long)number,
               (unsigned long long)s->conn.received + 1);
        return false;
    }
    s->conn.received = number;
    s->conn.heard_ns = ev->now_ns;
    return true;
}

static void on_hello(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    struct conn *stranger = find_stranger(s, ev->hello.conn);
    if (stranger) {
        on_stranger_hello(s, stranger, ev, out);
        return;
    }
    if (!s->conn.id || ev->hello.conn != s->conn.id || !is_next(s, ev, ev->hello.frame.number, out))
        return;
    if (s->state != STATE_HELLO) {
        broken(s, ev->now_ns, out, "a second hello");
        return;
    }
    const char *why = misnamed(s, ev->hello.hello, out);
    if (why) {
        refuse_conn(&s->conn, FRAME_REFUSE_LASTING, why, out);
        leave(s, ev->now_ns, OUTCOME_REFUSED,
              text(out, "%s answers as volume %s of %s: %s", s->path_names[s->conn.path], ev->hello.hello->volume,
                   ev->hello.hello->node, why),
              out);
        return;
    }
    s->hello = *ev->hello.hello;
    enter_judging(s, ev->now_ns, out);
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
    note(out, NOTE_ERROR,
         "payload of a %s from %s over %s is damaged: lsn %llu, offset %llu, %u bytes: checksum is %016llx, should be "
         "%016llx; it is not applied, and will be sent again",
         frame_kind_name(f->kind), s->peer, s->path_names[s->conn.path], (unsigned long long)f->lsn,
         (unsigned long long)f->offset_bytes, f->payload_bytes,
         (unsigned long long)checksum64(ev->frame.payload->data, f->payload_bytes),
         (unsigned long long)f->payload_check);
    broken(s, ev->now_ns, out, "damaged payload of a %s (lsn %llu)", frame_kind_name(f->kind),
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
    close_conn(s->conn.id, false, out);
    if (ev->frame.frame.status == FRAME_REFUSE_LASTING)
        leave(s, ev->now_ns, OUTCOME_REFUSED, text(out, "%s refuses: %s", s->peer, said), out);
    else
        leave(s, ev->now_ns, s->state == STATE_UP ? OUTCOME_LOST : OUTCOME_FAILED,
              text(out, "%s ended the connection: %s", s->peer, said), out);
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
        struct session_action *a = act(out, SA_EVENT);
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
        broken(s, ev->now_ns, out, "ready said twice");
        return;
    }
    s->ready_received = true;
    if (s->ready_sent) {
        enter_up(s, ev->now_ns, out);
        return;
    }
    struct session_action *a = act(out, SA_EVENT);
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
    struct conn *stranger = find_stranger(s, ev->frame.conn);
    if (stranger) {
        drop_stranger(s, ev->now_ns, stranger, "its first frame is not a hello", out);
        return false;
    }
    if (!s->conn.id || ev->frame.conn != s->conn.id || !is_next(s, ev, f->number, out))
        return false;
    if (!is_timely(s, f->kind)) {
        broken(s, ev->now_ns, out, "%s %s the session is up", frame_kind_name(f->kind),
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
        struct session_action *a = act(out, SA_EVENT);
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
        send_heartbeat(s, ev->now_ns, out);
        return;
    }
    if (frame.payload_bytes && frame.kind != FRAME_WRITE)
        frame.payload_check = checksum64(ev->send.payload->data, frame.payload_bytes);
    send(&s->conn, &frame, ev->send.payload, NULL, out);
}

static void expire_strangers(struct session *s, uint64_t now, struct session_actions *out)
{
    while (s->stranger_count && now >= s->strangers[0].opened_ns + s->dead_after_ns)
        drop_stranger(s, now, &s->strangers[0], "it did not say who it is", out);
}

static void on_silence(struct session *s, uint64_t now, struct session_actions *out)
{
    const char *path = s->path_names[s->conn.path];
    bool was_up = s->state == STATE_UP;
    const char *why = s->state == STATE_OPENING ? text(out, "no connection to %s over %s: no answer", s->peer, path)
                                                : text(out, "nothing heard of %s over %s for %llu ms", s->peer, path,
                                                       (unsigned long long)((now - s->conn.heard_ns) / NS_PER_MS));
    /* Nothing that is still queued may reach the peer later. */
    close_conn(s->conn.id, false, out);
    leave(s, now, was_up ? OUTCOME_SILENT : OUTCOME_FAILED, why, out);
}

static void on_tick(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    uint64_t now = ev->now_ns;
    /* When this node itself did not run for a while, what the peer said in that time waits to be received. */
    bool overslept = now > s->due_ns && now - s->due_ns > heartbeat_interval_ns(s);
    expire_strangers(s, now, out);
    switch (s->state) {
    case STATE_STOPPED: break;
    case STATE_WAITING:
        if (s->initiator && now >= s->retry_ns)
            enter_opening(s, now, out);
        break;
    case STATE_ANSWERING: enter_judging(s, now, out); break;
    case STATE_OPENING:
    case STATE_HELLO:
    case STATE_JUDGING:
    case STATE_UP:
        if (s->state != STATE_OPENING && s->state != STATE_HELLO)
            s->conn.heard_ns = max_u64(s->conn.heard_ns, min_u64(ev->tick.heard_ns, now));
        if (overslept && now >= s->conn.heard_ns + s->dead_after_ns)
            s->conn.heard_ns = now - s->dead_after_ns + heartbeat_interval_ns(s);
        if (now >= s->conn.heard_ns + s->dead_after_ns)
            on_silence(s, now, out);
        else if (s->state != STATE_OPENING && now >= s->conn.heartbeat_ns)
            send_heartbeat(s, now, out);
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
        close_conn(s->strangers[0].id, false, out);
        forget_stranger(s, &s->strangers[0]);
    }
    if (s->state == STATE_OPENING)
        close_conn(s->conn.id, false, out);
    else if (s->conn.id)
        refuse_conn(&s->conn, FRAME_REFUSE_FOR_NOW, "disconnected by its operator", out);
    leave(s, now, OUTCOME_STOPPED, "disconnected by the operator", out);
}

/* The engine's words come late when the session has ended meanwhile: it learns of that from EV_SESSION_DOWN. */
static void on_engine_ready(struct session *s, uint64_t now, struct session_actions *out)
{
    if (s->state != STATE_JUDGING || s->ready_sent)
        return;
    send(&s->conn, &(struct frame) { .kind = FRAME_READY }, NULL, NULL, out);
    s->ready_sent = true;
    if (s->ready_received)
        enter_up(s, now, out);
}

static void on_engine_refuses(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    if (!s->judged)
        return;
    refuse_conn(&s->conn, FRAME_REFUSE_LASTING, ev->text.text, out);
    leave(s, ev->now_ns, OUTCOME_REFUSED, text(out, "refused %s: %s", s->peer, ev->text.text), out);
}

static void on_engine_drops(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    if (s->judged)
        broken(s, ev->now_ns, out, "%s", ev->text.text);
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
