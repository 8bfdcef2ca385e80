/* What witness.c (the thread, and orders), witness_conn.c (clients) and witness_batch.c (questions) share. */
#pragma once

#include <pthread.h>
#include <sys/socket.h>

#include "repl/witness/register_table.h"
#include "repl/witness/witness.h"
#include "repl/witness/witness_codec.h"

#define BATCH_MAX 64 /* questions that are carried out by one commit */
#define CONN_IN_BYTES (2 * WITNESS_FRAME_BYTES_MAX)
#define CONN_OUT_BYTES (4 * WITNESS_FRAME_BYTES_MAX)
#define REOPEN_NS (1 * NS_PER_S)

/* A client. It is freed at the end of a round only: the batch points to it. */
struct conn {
    struct list link;
    int fd;
    bool dead;
    bool asked;           /* a whole question, ever */
    uint32_t events;      /* that epoll watches */
    uint64_t heard_ns;    /* when it sent something last */
    uint64_t in_until_ns; /* the rest of a message is due; UINT64_MAX: none is */
    uint64_t out_until_ns;
    unsigned pending; /* of its questions in the batch */
    size_t in_used;
    size_t out_used;
    char who[64]; /* its address */
    uint8_t in[CONN_IN_BYTES];
    uint8_t out[CONN_OUT_BYTES];
};

/* Who has asked for the volume whose decree stands, since the start. */
struct heard_node {
    char node[NAME_BYTES_MAX]; /* empty: free */
    uint64_t at_ns;
};

struct volume_row {
    struct register_row row;
    struct heard_node heard[REGISTER_TOLD_MAX]; /* the one who was heard longest ago makes room */
    uint64_t since_us;
    unsigned told_outcomes; /* bits by enum register_outcome: in the log since the last decree */
};

struct pending {
    struct conn *conn;
    uint64_t number;
    struct register_request request;
    struct register_answer answer;
    struct volume_row *volume; /* NULL: there is no room for it */
    struct register_row before;
    uint64_t time_us; /* of the decree */
    bool changed;
    bool was_confirmed;
};

struct witness {
    struct witness_options options;
    char *state;
    char address[WITNESS_ADDRESS_BYTES];
    pthread_t thread;
    int listen_fd;
    int epoll_fd;
    int wake_fd;
    pthread_mutex_t lock; /* of orders and stop */
    struct list orders;
    bool stop;
    struct witness_store *store; /* NULL: it is to be opened anew */
    struct err store_err;
    uint64_t reopen_ns;
    bool ages_fail;              /* so the log has it */
    uint64_t ages_rest_until_ns; /* then they are tried again: a disk may take long to fail, and all wait meanwhile */
    struct volume_row *rows;     /* WITNESS_VOLUMES_MAX */
    unsigned row_count;
    struct list conns;
    unsigned conn_count;
    unsigned batch_count;
    struct pending batch[BATCH_MAX];
};

void witness_tell(struct witness *w, const char *volume, enum note_level level, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- witness_conn.c ---- */

/* 0, or a negative errno. */
int conns_listen(struct witness *w, struct err *err);
void conns_accept(struct witness *w);
void conn_step(struct witness *w, struct conn *c, uint32_t events);
/* Queues the answer; there is room, as its question was taken. */
void conn_answer(struct conn *c, uint64_t number, const struct register_answer *answer);
/* Sends what is queued, takes what was left, ends who is late, frees who is dead. Returns when to be called again. */
uint64_t conns_sweep(struct witness *w);
void conns_close(struct witness *w);

/* ---- witness_batch.c ---- */

/* Opens the store, and begins all rows anew. `is_new` as in witness_store_open(). */
int batch_open(struct witness *w, bool *is_new, struct err *err);
/* Answers all questions of the batch, and empties it. */
void batch_run(struct witness *w);
/* The store is closed until w->reopen_ns. */
void batch_store_lost(struct witness *w, const struct err *err);
struct volume_row *batch_find(struct witness *w, const char *volume);
