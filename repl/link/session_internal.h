/* What the files of a session share: session.c (its states, and what happens in each), session_actions.c,
 * session_retry.c and session_strangers.c. */
#pragma once

#include <stdarg.h>

#include "repl/base/prng.h"
#include "repl/link/session.h"

#define REASON_BYTES (FRAME_REFUSE_BYTES_MAX + 1) /* whole refusals: what to do stands at their end */
#define PATH_NAME_BYTES 80

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

/* ---- session.c ---- */

/* NULL when this is the node, and the volume, that we are to be connected with. */
const char *session_misnamed(const struct session *s, const struct hello *h, struct session_actions *out);

/* A stranger has said who it is, and from now on is the connection. */
void session_enter_answering(struct session *s, uint64_t now, const struct conn *c, const struct hello *hello);
void session_enter_judging(struct session *s, uint64_t now, struct session_actions *out);

/* ---- session_actions.c ---- */

struct session_action *session_act(struct session_actions *out, enum session_action_kind kind);

/* Text that lives as long as the actions. What there is no room for is cut off. */
const char *session_text(struct session_actions *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *session_vtext(struct session_actions *out, const char *format, va_list ap)
    __attribute__((format(printf, 2, 0)));

void session_note(struct session_actions *out, enum note_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Numbers the frame. `t`: as its payload, if it has one and no `payload`. */
void session_send(struct conn *c, const struct frame *frame, struct buf *payload, const char *t,
                  struct session_actions *out);
void session_send_hello(struct session *s, uint64_t now, struct session_actions *out);
void session_send_heartbeat(struct session *s, uint64_t now, struct session_actions *out);
uint64_t session_heartbeat_interval_ns(const struct session *s);

void session_close_conn(conn_id id, bool after_sending, struct session_actions *out);

/* Says why, then closes. */
void session_refuse_conn(struct conn *c, uint16_t how_long, const char *why, struct session_actions *out);

/* ---- session_retry.c ---- */

/* The end of a connection, or of an attempt: the only way back to WAITING. Its SA_CLOSE, if one is due, is out already.
 */
void session_leave(struct session *s, uint64_t now, enum outcome outcome, const char *why, struct session_actions *out);

/* The peer did what no peer of ours does: tell it, and be done with this connection. */
void session_broken(struct session *s, uint64_t now, struct session_actions *out, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- session_strangers.c ---- */

/* NULL: it is none. */
struct conn *session_find_stranger(struct session *s, conn_id id);
void session_forget_stranger(struct session *s, struct conn *c);

/* Closes it, too, and tells why. */
void session_drop_stranger(struct session *s, uint64_t now, struct conn *c, const char *why,
                           struct session_actions *out);
void session_expire_strangers(struct session *s, uint64_t now, struct session_actions *out);

void session_on_accepted(struct session *s, const struct session_event *ev, struct session_actions *out);
void session_on_stranger_hello(struct session *s, struct conn *c, const struct session_event *ev,
                               struct session_actions *out);
