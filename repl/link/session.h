/* A session with the peer, over whatever carries frames: who connects, when to try again, what counts as lost. Pure.
 *
 * One connection at a time carries the session. The initiator (the node listed first) connects to the peer's paths in
 * order of preference, with back-off; the other accepts, and a newer connection replaces an older one: whatever was
 * still on its way on the old one is never looked at again, so that a late frame cannot overwrite a newer change.
 *
 *   CLOSED --connect--> OPENING --opened--> HELLO (both send FRAME_HELLO) --verdict READY sent and received--> UP
 *   any state --closed, silence for dead_after, gap in the frame numbers, bad checksum, broken rule--> CLOSED, back-off
 *
 * The session numbers frames, checks the numbers it receives, sends heartbeats, verifies every payload's checksum
 * before the engine sees it, and turns what it learns into engine events. */
#pragma once

#include "repl/core/action.h"
#include "repl/core/event.h"

#define SESSION_PATHS_MAX 8

typedef uint32_t conn_id; /* names one connection of a transport; never used twice by one process; 0: none */

struct session_config {
    const char *node;
    const char *peer;
    bool initiator;
    unsigned path_count;
    uint64_t dead_after_ns; /* silence after which the peer counts as lost; heartbeats go out four times as often */
    uint64_t retry_min_ns;  /* back-off between attempts: doubles from min to max, with jitter */
    uint64_t retry_max_ns;
    uint64_t refused_retry_ns; /* after a refusal, which only a person or the peer's restart can change */
    uint64_t seed;             /* of the jitter */
};

enum session_event_kind {
    SV_START,       /* begin to connect or to accept */
    SV_STOP,        /* say good-bye, close, stay closed */
    SV_OPENED,      /* .conn: our connect succeeded, or a peer's connection was accepted */
    SV_OPEN_FAILED, /* .conn_failed: the connect of SA_CONNECT came to nothing */
    SV_CLOSED,      /* .closed: the transport lost it (never after our own SA_CLOSE) */
    SV_FRAME,       /* .frame: well-formed header and whole payload */
    SV_HELLO,       /* .hello: a FRAME_HELLO, its payload decoded */
    SV_GARBAGE,     /* .closed: bytes that are no frame, or a hello that does not decode; the reason says what */
    SV_TICK,        /* time has come to session_deadline_ns() */
    SV_SEND,        /* .send: the engine's ACT_SEND */
    SV_READY,       /* the engine's ACT_SESSION_READY */
    SV_REFUSE,      /* .text: ACT_SESSION_REFUSE */
    SV_DROP,        /* .text: ACT_SESSION_DROP */
};

struct session_event {
    enum session_event_kind kind;
    uint64_t now_ns;
    union {
        struct {
            conn_id conn;
            bool incoming;
            unsigned path;
        } opened;
        struct {
            conn_id conn;
            const char *reason;
        } closed; /* SV_CLOSED, SV_OPEN_FAILED, SV_GARBAGE */
        struct {
            conn_id conn;
            struct frame frame;
            struct buf *payload;
        } frame; /* payload: one reference, given */
        struct {
            conn_id conn;
            struct frame frame;
            struct hello hello;
        } hello;
        struct {
            struct frame frame;
            struct buf *payload;
        } send; /* payload: the session adds no reference of its own */
        struct {
            const char *text;
        } text;
    };
};

enum session_action_kind {
    SA_CONNECT,    /* .connect: answered by SV_OPENED or SV_OPEN_FAILED with the same conn */
    SA_SEND,       /* .send: on this connection, in order */
    SA_SEND_HELLO, /* .send: the frame is complete but for its payload: the shell encodes engine_hello() into it */
    SA_CLOSE, /* .close: drop it; nothing of it may be reported any more. `after_sending`: let queued frames out first
               */
    SA_EVENT, /* .event: give this to the engine */
    SA_NOTE,  /* .note */
};

struct session_action {
    enum session_action_kind kind;
    union {
        struct {
            conn_id conn;
            unsigned path;
        } connect;
        struct {
            conn_id conn;
            struct frame frame;
            struct buf *payload;
            const char *text;
        } send; /* text: FRAME_REFUSE's payload */
        struct {
            conn_id conn;
            bool after_sending;
        } close;
        struct event event;
        struct {
            enum note_level level;
            const char *text;
        } note;
    };
};

#define SESSION_ACTIONS_MAX 16

struct session_actions {
    struct session_action list[SESSION_ACTIONS_MAX];
    unsigned count;
    char text[1024]; /* what the const char * above point into; valid until the next step */
    unsigned text_used;
};

struct session; /* allocated once by session_open() */

struct session *session_open(const struct session_config *config);
void session_close(struct session *s);

/* One step: clears `out`, then fills it. */
void session_step(struct session *s, const struct session_event *ev, struct session_actions *out);

/* When SV_TICK is due; UINT64_MAX: never. */
uint64_t session_deadline_ns(const struct session *s);

enum link_state session_state(const struct session *s);
const char *session_reason(const struct session *s); /* why it is not connected; "" when it is */
unsigned session_path(const struct session *s);      /* in use, or tried last */
uint64_t session_rtt_ns(const struct session *s);    /* smoothed, from heartbeats; 0: not known yet */
conn_id session_conn(const struct session *s);       /* 0: none */
