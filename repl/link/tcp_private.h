/* What the parts of the TCP transport share: tcp.c (connections), tcp_recv.c, tcp_send.c, tcp_names.c. */
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "repl/base/net_address.h"
#include "repl/base/scatter.h"
#include "repl/link/link.h"

/* The session's own, its strangers, and a few that are on their way out. */
#define TCP_CONNS_MAX 12
static_assert(TCP_CONNS_MAX >= SESSION_STRANGERS_MAX + 2, "strangers leave room for the peer");
static_assert(TCP_CONNS_MAX <= TRANSPORT_FILES_MAX, "each connection is a registered file");

/* Frames queued and not yet with the kernel, of all connections: the changes in flight, as many acks, and heartbeats
 * for minutes. */
#define TCP_SEND_SLOTS 4096
#define TCP_SEND_IOV_MAX 128
#define TCP_SEND_BYTES_MAX (2 * MIB) /* of one call, so that buffers come back in time */

/* What the kernel may hold beyond what the network has room for: more would only grow cold in its queue. */
#define TCP_UNSENT_BYTES (256 * 1024)

/* Frames that one receive expects at the most, and the payload room that this may bind. */
#define TCP_RECV_FRAMES_MAX 16
#define TCP_RECV_GUESS_BYTES_MAX (1 * MIB)
#define TCP_RECV_BARE_MAX 32 /* room, in headers, where no payload is expected */
static_assert(2 * TCP_RECV_FRAMES_MAX + 2 <= SCATTER_PLACES_MAX, "the places fit");

/* Of the rest of a payload, so much is waited for at once; shorter rests are taken as they come. */
#define TCP_LOW_WATER_BYTES_MIN (64 * KIB)
#define TCP_LOW_WATER_BYTES_MAX (256 * KIB)

#define TCP_LINGER_NS (1 * NS_PER_S)
#define TCP_ACCEPT_PAUSE_NS (100 * NS_PER_MS) /* after a failed accept, out of descriptors for example */

#define TCP_REASON_BYTES_MAX 160

struct tcp;
struct tcp_lookup;

enum tcp_conn_state {
    CONN_FREE,
    CONN_RESOLVING,
    CONN_CONNECTING,
    CONN_OPEN,
    CONN_LINGERING, /* dropped: lets its last words out, and reads on so that the kernel does not reset them away */
    CONN_CLOSING,   /* waits for the kernel to let go of it */
};

struct tcp_send_slot {
    struct list link;
    struct frame_wire wire;
    struct buf *payload; /* one reference, or NULL */
    uint32_t payload_bytes;
};

struct tcp_conn {
    struct tcp *tcp;
    enum tcp_conn_state state;
    conn_id id;
    unsigned path;
    int fd; /* -1: none */
    struct ring_file file;
    uint64_t since_ns; /* state entered */
    uint64_t heard_ns;
    struct ring_op connect_op;
    struct ring_op recv_op;
    struct ring_op send_op;
    struct ring_timer linger;
    struct net_address to;
    char failed[TCP_REASON_BYTES_MAX]; /* to be reported from the loop; "": nothing */

    /* Receiving: where in the stream we are, and the room posted for what comes next. */
    struct frame_wire wire;
    uint32_t wire_have;
    bool header_done;
    struct frame frame;
    struct buf *payload;
    uint32_t payload_have;
    int low_water; /* SO_RCVLOWAT as set */
    bool starved;  /* no buffer for the payload: waits for resume */
    bool resume;   /* buffers may have come back: go on from the loop */
    bool deaf;     /* what came was no frame: waits to be dropped */
    uint64_t frames_in;
    uint32_t expect_payload_bytes; /* of the frames to come, by those that came; 0: none */
    uint32_t bare_run;             /* frames without payload since the last with one */
    unsigned expect_frames;
    struct scatter in;
    struct msghdr in_msg;
    struct frame_wire headers[TCP_RECV_BARE_MAX];
    struct buf *spare[TCP_RECV_FRAMES_MAX]; /* in the order posted */
    unsigned spare_count;

    /* Sending: the queue's first slots are with the kernel while send_op is busy. */
    struct list queue;
    uint32_t first_sent_bytes; /* of the first slot */
    int32_t send_error;        /* it is shut down for that; the receiver reports it */
    struct msghdr out_msg;
    struct iovec out_iov[TCP_SEND_IOV_MAX];
};

struct tcp_listener {
    struct tcp *tcp;
    unsigned path;
    int fd; /* -1: none */
    struct ring_op op;
    struct ring_timer pause;
    int accepted; /* waits for a free connection; -1: none */
    char warning[256];
};

/* The peer's address on one path. Where it is a name, its look-up can outlast the attempt to connect that began it: a
 * name server that does not answer costs several seconds. It runs on, and the next attempt that finds it ended uses
 * what it has found, once. */
struct tcp_name {
    struct tcp_lookup *lookup; /* runs; NULL: none */
    struct tcp_conn *waits;    /* for it; NULL: nobody does any more */
    bool ended;                /* and nobody has used it: */
    struct net_address address;
    char failed[TCP_REASON_BYTES_MAX]; /* "": the address was found */
};

struct tcp {
    struct transport base;
    struct ring *ring;
    struct buf_pool *pool;
    bool initiator;
    unsigned path_count;
    char connect_to[SESSION_PATHS_MAX][NET_ADDRESS_TEXT_BYTES_MAX];
    struct tcp_name names[SESSION_PATHS_MAX];
    struct tcp_listener listeners[SESSION_PATHS_MAX];
    struct tcp_conn conns[TCP_CONNS_MAX];
    uint32_t conns_named;
    conn_id unplaced; /* to be connected, but all places are taken: fails from the loop */
    struct tcp_send_slot *slots;
    struct list free_slots;
    struct buf *hello_room[SESSION_STRANGERS_MAX + 1]; /* so that a peer can say hello while the pool is exhausted */
    struct ring_timer wake;                            /* something is to be done from the loop */
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

struct tcp_conn *tcp_find(const struct tcp *t, conn_id id);

/* Reports the end of a connection, or of the attempt to open one, and lets go of it. From the loop only. */
void tcp_fail(struct tcp_conn *c, const char *reason);

/* The same, from anywhere, a turn later. */
void tcp_fail_later(struct tcp_conn *c, const char *reason);

/* Ends what is in flight; the slot is free once the kernel has let go. */
void tcp_begin_close(struct tcp_conn *c);
void tcp_release_if_done(struct tcp_conn *c);
void tcp_last_word_sent(struct tcp_conn *c);

/* Begins, or goes on, to receive; also while lingering, to throw away. */
void tcp_recv_start(struct tcp_conn *c);
void tcp_recv_resume(struct tcp_conn *c);
void tcp_recv_done(struct ring_op *op, int32_t result);
/* When bytes last came in, also those that the kernel still gathers. */
uint64_t tcp_heard_ns(const struct tcp_conn *c);
void tcp_recv_forget(struct tcp_conn *c); /* gives back all buffers; nothing is in flight */

void tcp_send_queue(struct tcp_conn *c, const struct frame *frame, struct buf *payload);
void tcp_send_flush(struct tcp_conn *c);
void tcp_send_done(struct ring_op *op, int32_t result);
void tcp_send_forget(struct tcp_conn *c);
bool tcp_send_is_idle(const struct tcp_conn *c);

/* On a thread of its own; `done` is called from the loop unless the lookup was forgotten before. NULL with err set. */
struct tcp_lookup *tcp_lookup_start(struct ring *r, const char *text, void *ctx,
                                    void (*done)(void *ctx, int result, const struct net_address *address,
                                                 const char *reason),
                                    struct err *err);
void tcp_lookup_forget(struct tcp_lookup *l);
