/* The NBD front's own view of itself: server, connections, commands, pieces, answers.
 *
 * A client's request is a command. It is done in pieces of at most IO_BYTES_MAX, each a request to the sink with a
 * buffer of its own. What a client is to be sent is an answer; those of one turn leave in one call.
 *
 *     nbd_server.c   listens, accepts, keeps time, opens and closes
 *     nbd_conn.c     one client: from its bytes to commands
 *     nbd_command.c  from commands to the sink and back
 *     nbd_send.c     from answers to the client's bytes
 *
 * All of it is allocated at open, and shared as nbd_share.h says. Buffers of clients that do not read their answers
 * come out of a budget of their own, so that they stall no writes; and as memory gets scarce, pieces get shorter, down
 * to what every client is guaranteed. So a client that stops, in the middle of a payload or before its answers, stalls
 * itself.
 *
 * A client that is held (front_hold()) has nothing but its place: its buffers and commands are given back as if it were
 * gone, and no receive is posted. What it says fills its socket, until it waits.
 *
 * A client that is gone while the sink is busy with its requests, for hours where writes wait for the peer, holds no
 * place for long: what it leaves behind are orphans, nobody's commands, with room of their own in the tables. */
#pragma once

#include <sys/socket.h>

#include "blockdev/front/front.h"
#include "blockdev/front/nbd_proto.h"
#include "blockdev/front/nbd_share.h"
#include "repl/base/list.h"
#include "repl/base/scatter.h"

#define NBD_CONNECTIONS_MAX 64
#define NBD_LISTENERS_MAX 4   /* a host name may stand for several addresses */
#define NBD_COMMANDS_MAX 1024 /* of all clients together */
#define NBD_PIECES_MAX 2048   /* of all clients together */
#define NBD_MAPS_MAX 16       /* block status queries at work */
#define NBD_ORPHANS_MAX 512   /* commands, and as many pieces, that do not count against those of clients */
#define NBD_SCARCE_PART 8     /* a piece takes at most that part of what is free */

/* What each client is guaranteed. Of memory: less in a small pool, but never less than the smallest buffer. */
#define NBD_COMMANDS_EACH 4
#define NBD_PIECES_EACH 8
#define NBD_BYTES_EACH_MAX (32 * KIB)                                /* for reads, and as much for writes */
#define NBD_POOL_BYTES_MIN (8 * NBD_CONNECTIONS_MAX * BUF_BYTES_MIN) /* without what is to be kept free */

#define NBD_READ_WINDOW 4 /* pieces that one read has at a time */

/* A payload is guessed to be as long as the last one was, so that a run of writes is received by one call. */
#define NBD_GUESSES_MAX 16
#define NBD_GUESS_BYTES_MAX (64 * KIB)
#define NBD_GUESSES_BYTES_MAX (128 * KIB)
#define NBD_IDLE_GUESS_BYTES_MAX (16 * KIB) /* what a client that says nothing may keep */
#define NBD_HEADS 64                        /* headers that one receive takes in where no payload is expected */

#define NBD_SEND_ANSWERS_MAX 64 /* answers in one send, and about how many bytes */
#define NBD_SEND_BYTES_MAX (4 * MIB)
#define NBD_TRASH_BYTES (64 * KIB)

#define NBD_TICK_NS (1 * NS_PER_S)
#define NBD_NEGOTIATION_NS (10 * NS_PER_S) /* a client that has not agreed by then goes */
#define NBD_DRAIN_NS (10 * NS_PER_S)       /* a client that leaves, but takes no answer for so long, goes */
#define NBD_WARNINGS_MAX 8                 /* in ... */
#define NBD_WARNINGS_NS (10 * NS_PER_S)    /* ... such a time: the others are counted, and told of by one more */
#define NBD_CLOSE_NS (2 * NS_PER_S)        /* the same while the front closes */

static_assert(NBD_DF_BYTES_MAX <= NBD_POOL_BYTES_MIN / 8, "an unfragmented read, which is one piece, finds room");
#define NBD_WAIT_ALL_BYTES_MIN (128 * KIB) /* rest of a payload that is received by one completion */
static_assert(2 * NBD_GUESSES_MAX + 2 <= SCATTER_PLACES_MAX, "all guesses fit into one receive");

struct nbd_server;
struct nbd_conn;
struct nbd_command;

/* What is shared among clients. */
enum nbd_thing {
    NBD_COMMANDS,
    NBD_PIECES,
    NBD_READ_BYTES,
    NBD_WRITE_BYTES,
};
#define NBD_THINGS (NBD_WRITE_BYTES + 1)

/* Something to be sent: a head, and data that stays where it is until it is sent. */
struct nbd_answer {
    struct list link;
    const uint8_t *data;
    uint32_t data_bytes;
    uint32_t head_bytes;
    uint8_t head[NBD_REPLY_HEAD_BYTES_MAX];
    void (*sent)(struct nbd_answer *a); /* sent, or never to be: the data is no longer needed */
};

struct nbd_command {
    struct list link;      /* free, or the connection's */
    struct list turn_link; /* waits for its turn to send: see nbd_conn.streaming */
    struct nbd_server *server;
    struct nbd_conn *conn; /* NULL: the client is gone */
    struct nbd_request request;
    enum op_kind kind;
    uint32_t op_flags;
    uint64_t next_bytes;       /* offset of the next piece to be made */
    uint64_t left_bytes;       /* from there on */
    uint64_t sent_up_to_bytes; /* simple replies: offset of the next byte to be queued for sending */
    unsigned pieces;           /* that exist */
    unsigned in_sink;          /* of those */
    int32_t result;
    bool answered;       /* the last answer is queued */
    bool abandoned;      /* not to be answered: its payload did not come in whole */
    struct list in_turn; /* simple replies: pieces that are done before their turn */
    struct nbd_answer answer;
};

struct nbd_piece {
    struct list link;
    struct nbd_command *command;
    struct buf *buf; /* NULL where there is no payload */
    uint64_t offset_bytes;
    uint32_t length_bytes;
    struct nbd_answer answer;
};

/* A block status query: asked of the disk beside the loop. */
struct nbd_map {
    struct list link;
    struct nbd_piece *piece;
    struct disk_map map;
};

enum nbd_conn_state {
    NBD_CONN_FREE,
    NBD_CONN_NEGOTIATING,
    NBD_CONN_SERVING,
    NBD_CONN_DRAINING, /* nothing is taken from it any more; what is in flight is answered */
    NBD_CONN_HELD,     /* nor is it told anything: it only stays open, and keeps nothing but its place */
    NBD_CONN_ENDING,   /* shut down; waits for the ring to let go */
};

enum nbd_rx {
    NBD_RX_HEADER,
    NBD_RX_ADMIT,   /* a header was taken; its command waits for room */
    NBD_RX_PIECE,   /* the next piece of the payload waits for room */
    NBD_RX_PAYLOAD, /* the piece is being received */
    NBD_RX_SUBMIT,  /* the piece is here, and waits for the sink */
    NBD_RX_SKIP,    /* the payload of a rejected write */
};

struct nbd_conn {
    struct nbd_server *server;
    enum nbd_conn_state state;
    int fd;
    struct ring_file file;
    struct ring_op recv_op;
    struct ring_op send_op;
    struct msghdr recv_msg;
    struct msghdr send_msg;
    char name[80];
    uint64_t since_ns;    /* negotiating: when it came */
    uint64_t drain_ns;    /* draining: since when */
    uint64_t progress_ns; /* draining: when it last took an answer */
    bool active;          /* said something since the last tick */
    bool trim;            /* its receive is being cancelled to get guesses back */
    bool rejected;        /* a rejected request of it was noted */
    unsigned unanswered;  /* held: requests of it that were read */
    struct list commands;

    /* What it holds. */
    uint64_t held[NBD_THINGS];

    /* Waiting for room. */
    struct list wait_read_link;
    struct list wait_change_link;
    struct list resting; /* pieces of reads that wait to be used again */

    /* Receiving. */
    struct nbd_session session;
    enum nbd_rx rx;
    struct scatter scatter;
    struct nbd_request request;
    enum nbd_verdict verdict;
    struct nbd_command *command; /* the write that is being received, or the change that is not all with the sink yet */
    struct nbd_piece *piece;
    uint32_t have_bytes; /* of the header, or of the piece */
    uint32_t skip_bytes;
    struct buf *guesses[NBD_GUESSES_MAX];
    unsigned guess_count;
    unsigned guess_next; /* those before have been adopted or passed */
    unsigned guess_want;
    uint32_t posted_bytes; /* as long as the guesses of the last receive */
    uint32_t guess_bytes;  /* 0: no payload is expected */
    unsigned writes_seen;  /* headers since the last receive */
    unsigned others_seen;
    uint8_t header[NBD_REQUEST_BYTES];
    uint8_t heads[NBD_HEADS][NBD_REQUEST_BYTES];

    /* Sending. */
    struct list answers;
    struct list sending;
    struct list behind;            /* answers that wait for `streaming` to end */
    struct list turns;             /* commands that wait to stream */
    struct nbd_command *streaming; /* its reply has begun and goes on over several answers; nothing may come between */
    struct list ready_link;
    unsigned iov_first;
    unsigned iov_count;
    struct iovec iov[2 * NBD_SEND_ANSWERS_MAX];
    uint8_t send_heads[NBD_SEND_ANSWERS_MAX * NBD_REPLY_HEAD_BYTES_MAX];

    /* Negotiating. */
    struct nbd_negotiation negotiation;
    size_t in_bytes;
    uint8_t in[NBD_NEGOTIATION_IN_BYTES];
    uint8_t out[NBD_NEGOTIATION_OUT_BYTES];
};

struct nbd_listener {
    struct nbd_server *server;
    int fd;
    struct ring_op accept_op;
};

struct nbd_server {
    struct front front;
    struct ring *ring;
    struct buf_pool *pool;
    struct disk *disk;
    size_t keep_free_bytes;
    uint64_t read_budget_bytes;
    uint64_t read_bytes; /* held for reads */
    struct nbd_share shares[NBD_THINGS];
    bool serving;
    struct nbd_export export;
    char name[NBD_EXPORT_NAME_BYTES_MAX + 1];
    char refusal[NBD_REFUSAL_BYTES_MAX + 1];

    struct nbd_listener listeners[NBD_LISTENERS_MAX];
    unsigned listener_count;
    char unix_path[108]; /* empty: TCP */
    uint64_t unix_inode;
    bool flooded; /* a refusal for want of connections was noted */

    uint64_t warnings_since_ns; /* 0: no period of NBD_WARNINGS_NS is on */
    unsigned warnings;          /* in this period, told */
    unsigned warnings_untold;

    struct ring_timer tick;
    struct ring_task resume_task;
    struct ring_task close_task;
    bool resume_posted;
    bool close_posted;
    bool released; /* something came back since those who wait were last asked */
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;

    struct list waiting_reads; /* connections */
    struct list waiting_changes;
    struct list ready; /* connections with answers to send */

    unsigned connection_count;
    unsigned held_count;
    unsigned in_sink;
    unsigned maps_busy;
    unsigned commands_free_count;
    unsigned pieces_free_count;
    unsigned orphan_commands; /* in use, of clients that are gone */
    unsigned orphan_pieces;
    struct list commands_free;
    struct list pieces_free;
    struct list maps_free;
    struct nbd_conn conns[NBD_CONNECTIONS_MAX];
    struct nbd_command commands[NBD_COMMANDS_MAX + NBD_ORPHANS_MAX];
    struct nbd_piece pieces[NBD_PIECES_MAX + NBD_ORPHANS_MAX];
    struct nbd_map maps[NBD_MAPS_MAX];
    uint8_t trash[NBD_TRASH_BYTES]; /* where payloads go that nobody wants */
};

/* nbd_server.c */
/* Warnings are what clients do wrong: anyone who reaches the socket can cause them, as fast as he likes, and what else
 * has happened is not to drown in them. */
void nbd_note(struct nbd_server *s, enum note_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void nbd_server_check_closed(struct nbd_server *s);

/* nbd_conn.c */
void nbd_conn_init(struct nbd_server *s, struct nbd_conn *c);
void nbd_conn_begin(struct nbd_server *s, int fd, const char *name);
/* Ends it at once; `reason` is noted. Requests in flight complete into nowhere. */
void nbd_conn_end(struct nbd_conn *c, enum note_level level, const char *reason);
/* Takes nothing more from it, and ends it when what is in flight is answered. */
void nbd_conn_drain(struct nbd_conn *c);
void nbd_conn_check_drained(struct nbd_conn *c);
/* It is draining, and nothing but the sink is waited for: ended now, it is free at once. */
bool nbd_conn_waits_for_sink(const struct nbd_conn *c);
void nbd_conn_check_free(struct nbd_conn *c);
/* One that is served gets no answer any more, and stays. */
void nbd_conn_hold(struct nbd_conn *c);
void nbd_conn_check_held(struct nbd_conn *c);
unsigned nbd_conn_waiting(const struct nbd_conn *c); /* held: how many requests of it wait, at the least */
/* The buffer that the next `bytes` of the stream lie in from its beginning to its end, if a guess was right. */
struct buf *nbd_guess_adopt(struct nbd_conn *c, uint32_t bytes);
void nbd_negotiation_sent(struct nbd_conn *c);
/* Goes on with what waited for room. */
void nbd_conn_resume(struct nbd_conn *c);
void nbd_conn_tick(struct nbd_conn *c, uint64_t now_ns);

/* nbd_command.c */
/* A command other than a write is with the sink afterwards: all of it, but for reads, of which the first piece is.
 * False: no room now; the connection waits. */
bool nbd_command_begin(struct nbd_conn *c);
/* Answers a request that was not accepted. */
bool nbd_command_reject(struct nbd_conn *c);
/* A buffer for the next piece of a write. NULL: no room now. */
struct nbd_piece *nbd_write_piece(struct nbd_conn *c, struct nbd_command *w);
/* The client is gone: it holds nothing any more, though the sink may. */
void nbd_shares_forget(struct nbd_conn *c);
/* Hands a received piece on. False: the sink has no room now. */
bool nbd_write_submit(struct nbd_conn *c, struct nbd_piece *p);
/* A buffer for a payload that is only expected: NULL when memory is scarce. */
struct buf *nbd_guess_buf(struct nbd_conn *c, uint32_t bytes);
/* Gives up a write that was not received in whole. */
void nbd_write_abandon(struct nbd_conn *c);
/* Uses the resting pieces of reads again, as far as there is room. */
void nbd_reads_resume(struct nbd_conn *c);
/* Reads that have not begun in whole are cut short: no more requests may go to the sink. */
void nbd_reads_cut(struct nbd_conn *c);
/* The client is gone: what it had in flight is nobody's. */
void nbd_commands_detach(struct nbd_conn *c);
void nbd_wait_for_reads(struct nbd_conn *c);
void nbd_wait_for_changes(struct nbd_conn *c);

/* nbd_send.c */
void nbd_answer_queue(struct nbd_conn *c, struct nbd_answer *a);
/* Ahead of all that waits for the streaming reply: it is part of it. */
void nbd_answer_stream(struct nbd_conn *c, struct nbd_answer *a);
void nbd_answer_stream_end(struct nbd_conn *c);
void nbd_send(struct nbd_conn *c);
void nbd_send_done(struct ring_op *op, int32_t result);
/* Negotiation: one message, `data` stays until nbd_negotiation_sent(). */
void nbd_send_plain(struct nbd_conn *c, const uint8_t *data, size_t bytes);
/* The ring has let go of them, and nobody wants them any more. */
void nbd_send_drop_all(struct nbd_conn *c);
