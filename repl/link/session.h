/* A session with the peer, over whatever carries frames: who connects, when to try again, what counts as lost. Pure.
 *
 * One connection at a time carries the session. The initiator (the node listed first) connects to the peer's paths in
 * order of preference, with back-off, and speaks first; the other accepts, and answers only a hello that names this
 * volume and these two nodes. Such a hello on a newer connection replaces the older one: whatever was still on its way
 * on the old one is never looked at again, so that a late frame cannot overwrite a newer change. A stranger can hold
 * one of SESSION_STRANGERS_MAX places for dead_after, and no more.
 *
 *   WAITING --connect--> OPENING --opened, our hello sent--> HELLO --peer's hello--> JUDGING
 *   WAITING --peer's hello on an accepted connection, our hello sent--> JUDGING
 *   JUDGING --READY sent and received--> UP
 *   any --closed, silence for dead_after, gap in the frame numbers, bad checksum, broken rule--> WAITING (back-off)
 *   any --refused by either side--> WAITING (refused: long back-off)
 *
 * The session numbers frames, checks the numbers it receives, sends heartbeats, verifies every payload's checksum
 * before the engine sees it, and turns what it learns into engine events, so that the engine sees runs of
 *
 *   EV_HELLO  [EV_PEER_READY]  [EV_SESSION_UP  EV_FRAME and EV_HEARD...]  EV_SESSION_DOWN
 *
 * and nothing else: exactly one EV_SESSION_DOWN for each EV_HELLO, also after the engine's own refusal or drop, and
 * nothing of the old session after it. A shell that gathers the engine's actions over several events forgets those
 * for the session (send, ready, refuse, drop) when it gives EV_SESSION_DOWN: the next EV_HELLO may follow at once, and
 * must not get the answer to an earlier one. docs/PROTOCOL.md has the rules as the wire sees them. */
#pragma once

#include "repl/core/action.h"
#include "repl/core/event.h"

#define SESSION_PATHS_MAX 8
#define SESSION_STRANGERS_MAX 8 /* accepted connections that have not yet said who they are; the oldest makes room */
#define SESSION_HEARTBEATS_PER_DEAD_AFTER 4

/* Names one connection of a transport; 0: none. The session names those it opens, with CONN_OUTGOING set; the transport
 * names those it accepts, without. Never used again while anything of the old bearer could still be on its way. */
typedef uint32_t conn_id;
#define CONN_OUTGOING (UINT32_C(1) << 31)

/* The strings are copied. */
struct session_config {
    const char *volume;
    const char *node;
    const char *peer;
    bool initiator;
    unsigned path_count;                       /* 1 ... SESSION_PATHS_MAX */
    const char *path_names[SESSION_PATHS_MAX]; /* as people know them, for notes; may be NULL */
    uint64_t dead_after_ns;    /* silence after which the peer counts as lost; heartbeats go out four times as often */
    uint64_t retry_min_ns;     /* back-off between attempts: doubles from min to max; each wait is half to all of it */
    uint64_t retry_max_ns;     /* >= retry_min_ns > 0; half of dead_after_ns where that is less */
    uint64_t refused_retry_ns; /* after a refusal, which only a person or the peer's restart can change */
    uint64_t seed;             /* of the jitter */
};

enum session_event_kind {
    SV_START,       /* begin to connect or to accept */
    SV_STOP,        /* close, stay closed; a peer that connects is told so */
    SV_OPENED,      /* .opened: our connect succeeded, or a peer's connection was accepted */
    SV_OPEN_FAILED, /* .closed: the connect of SA_CONNECT came to nothing */
    SV_CLOSED,      /* .closed: the transport lost it (never after our own SA_CLOSE) */
    SV_FRAME,       /* .frame: well-formed header and whole payload; any kind but FRAME_HELLO */
    SV_HELLO,       /* .hello: a FRAME_HELLO, its payload's check verified and decoded */
    SV_GARBAGE,     /* .closed: bytes that are no frame, or a hello that does not decode; the reason says what */
    SV_TICK,        /* .tick: time has come to session_deadline_ns() */
    SV_SEND,        /* .send: the engine's ACT_SEND. Vanishes when the session is not up */
    SV_READY,       /* the engine's ACT_SESSION_READY */
    SV_REFUSE,      /* .text: ACT_SESSION_REFUSE */
    SV_DROP,        /* .text: ACT_SESSION_DROP */
};

/* Events of a connection that the session has closed or does not know are ignored. */
struct session_event {
    enum session_event_kind kind;
    uint64_t now_ns; /* monotonic, never going back */
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
            struct buf *payload; /* one reference, given */
        } frame;
        struct {
            conn_id conn;
            struct frame frame;
            const struct hello *hello; /* valid during the step */
        } hello;
        struct {
            /* When bytes of any kind last came in on session_conn(), or now_ns when we ourselves do not receive for
             * lack of buffers: silence then says nothing of the peer. 0: only frames count. */
            uint64_t heard_ns;
        } tick;
        struct {
            struct frame frame;
            struct buf *payload; /* the session adds no reference of its own */
        } send;
        struct {
            const char *text;
        } text;
    };
};

enum session_action_kind {
    SA_CONNECT,    /* .connect: answered by SV_OPENED or SV_OPEN_FAILED with the same conn */
    SA_SEND,       /* .send: on this connection, in order */
    SA_SEND_HELLO, /* .send: the frame is complete but for its payload, its length and its check: the shell encodes
                      engine_hello() into it */
    SA_CLOSE,      /* .close: drop it; nothing of it may be reported any more. `after_sending`: let queued frames out
                      first */
    SA_EVENT,      /* .event: give this to the engine */
    SA_NOTE,       /* .note */
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
            const char *text; /* FRAME_REFUSE: the payload, frame.payload_bytes long; its check is made already */
        } send;
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

#define SESSION_ACTIONS_MAX 24
#define SESSION_TEXT_BYTES 4096

struct session_actions {
    struct session_action list[SESSION_ACTIONS_MAX];
    unsigned count;
    unsigned text_used;
    char text[SESSION_TEXT_BYTES]; /* what the const char * above point into; valid until this is used again */
};

struct session; /* allocated once by session_open() */

/* NULL: out of memory. */
struct session *session_open(const struct session_config *config);
void session_close(struct session *s);

/* One step: clears `out`, then fills it; carry the actions out in order. There is at most one SA_EVENT in it, and it is
 * the last action: the engine's answer to it may be stepped in at once. */
void session_step(struct session *s, const struct session_event *ev, struct session_actions *out);

/* When SV_TICK is due (ticks that come early do nothing); in the past: at once. UINT64_MAX: never. */
uint64_t session_deadline_ns(const struct session *s);

enum link_state session_state(const struct session *s);
const char *session_reason(const struct session *s); /* why it is not connected; "" when it is */
unsigned session_path(const struct session *s);      /* in use, or tried last */
uint64_t session_rtt_ns(const struct session *s);    /* smoothed, from heartbeats; 0: not known yet */
conn_id session_conn(const struct session *s);       /* carries the session, or is about to; 0: none */
