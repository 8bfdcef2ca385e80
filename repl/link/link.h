/* The link to the peer on the ring: a session over a transport. The transport is a table of operations that TCP
 * implements now and RDMA later; filters with the same table stack on it and inject faults and delay. */
#pragma once

#include "blockdev/ring/ring.h"
#include "repl/base/buf.h"
#include "repl/link/session.h"

struct transport;

/* What a transport reports to whoever stands on it. Never from within one of its operations (but for notes). */
struct transport_sink {
    void *ctx;
    void (*opened)(void *ctx, conn_id conn, bool incoming, unsigned path);
    void (*open_failed)(void *ctx, conn_id conn, const char *reason);
    void (*closed)(void *ctx, conn_id conn, const char *reason);
    void (*frame)(void *ctx, conn_id conn, const struct frame *frame, struct buf *payload); /* one reference, given */
    void (*garbage)(void *ctx, conn_id conn, const char *reason); /* bytes that are no frame; it receives no more */
    void (*note)(void *ctx, enum note_level level, const char *text);
};

struct transport_ops {
    const char *name;                   /* "tcp", "rdma" */
    void (*start)(struct transport *t); /* once, after the sink is set: begins to accept */
    void (*connect)(struct transport *t, conn_id conn, unsigned path); /* conn: of the caller's choice, CONN_OUTGOING */
    /* Queues; takes its own reference to the payload until the kernel has it. Frames of one turn leave in one call. */
    void (*send)(struct transport *t, conn_id conn, const struct frame *frame, struct buf *payload);
    /* Nothing of it is reported afterwards. `after_sending`: what is queued leaves first, within a bounded time. */
    void (*drop)(struct transport *t, conn_id conn, bool after_sending);
    /* When bytes last came in; now, while nothing is received for lack of buffers; 0: no such connection. */
    uint64_t (*heard_ns)(const struct transport *t, conn_id conn);
    void (*flush)(struct transport *t);  /* once per turn: hand what was queued to the kernel */
    void (*resume)(struct transport *t); /* buffers may have come back: go on receiving */
    void (*close)(struct transport *t, void (*closed)(void *ctx), void *ctx); /* frees it; `closed` from the loop */
};

struct transport {
    const struct transport_ops *ops;
    struct transport_sink sink;
    struct transport *below; /* filters */
};

#define TRANSPORT_FILES_MAX 16 /* registered files of the ring that a transport needs */

struct transport_config {
    struct ring *ring;
    struct buf_pool *pool;
    unsigned path_count;
    const char *listen[SESSION_PATHS_MAX];  /* this node's "HOST:PORT" per path; the acceptor listens on them */
    const char *connect[SESSION_PATHS_MAX]; /* the peer's; the initiator connects to them */
    bool initiator;
};

/* TCP. The acceptor listens at once, and accepts once it is started. Names among its own addresses are looked up here
 * and now; the peer's at the attempts to connect, on a thread of their own, which may
 * outlast the attempt: the next one uses what it has found. Connections that have not said a valid
 * hello are bounded by the session (SESSION_STRANGERS_MAX); further ones wait in the kernel's queue, so that a flood of
 * strangers cannot end the living session. The strings are copied. NULL with `err` set. */
struct transport *transport_tcp_open(const struct transport_config *config, struct err *err);

/* Faults on the receiving side, seeded. Rates are per million frames. A test changes them while it runs. */
struct transport_fault_config {
    uint64_t seed;
    unsigned drop_per_million;    /* a frame vanishes (its number is missing: the session notices) */
    unsigned corrupt_per_million; /* one bit of a payload flips */
    unsigned cut_per_million;     /* the connection breaks */
    uint64_t delay_min_ns;        /* each frame comes in this much later, at least */
    uint64_t delay_max_ns;        /* order is kept within a connection; across connections frames may overtake */
    bool stall;                   /* nothing passes while set, also no heartbeats; what came meanwhile comes then */
};

/* Takes `below` over; on failure it stays the caller's. */
struct transport *transport_filter_fault(struct ring *r, struct transport *below,
                                         const struct transport_fault_config *config, struct err *err);
void transport_filter_fault_set(struct transport *t, const struct transport_fault_config *config);

struct link;

struct link_config {
    struct session_config session;
    struct ring *ring;
    struct buf_pool *pool;
    struct transport *transport; /* taken over; on failure it stays the caller's */
    void *ctx;
    /* To the engine, from the loop; never from within a link_ call. A frame's payload comes with one reference. */
    void (*event)(void *ctx, const struct event *ev);
    void (*hello)(void *ctx, struct hello *out);                      /* fills in what this node says of itself now */
    void (*note)(void *ctx, enum note_level level, const char *text); /* also from within link_ calls */
};

/* NULL with `err` set. */
struct link *link_open(const struct link_config *config, struct err *err);
void link_start(struct link *l); /* connect, or accept */
void link_stop(struct link *l);  /* disconnect, stay so; EV_SESSION_DOWN follows if there was a session */

/* Says good-bye, closes the transport and frees the link; no event follows. `closed` is called from the loop, after at
 * most a second or so: buffers of the pool are given back by then. */
void link_close(struct link *l, void (*closed)(void *ctx), void *ctx);

/* The engine's actions. */
void link_send(struct link *l, const struct frame *frame, struct buf *payload); /* takes its own reference */
void link_ready(struct link *l);
void link_refuse(struct link *l, const char *text);
void link_drop(struct link *l, const char *text);

/* Once per turn, after everything else: what was sent in this turn leaves in one call. */
void link_flush(struct link *l);

/* Buffers of the pool came back (buf_pool_take_starved()): goes on receiving if it had to stop. */
void link_resume(struct link *l);

const struct session *link_session(const struct link *l);
const char *link_transport_name(const struct link *l);
