/* The io_uring loop of one volume: one ring, one thread. Everything that waits, waits here.
 *
 * An operation is a struct ring_op that its owner embeds, zeroed before its first use, and keeps until its `done` has
 * been called; the ring never allocates. `done` is called from ring_run() and ring_close() only, never from within
 * another ring_*() call, so completions do not recurse. All functions but ring_post() belong to the thread that opened
 * the ring; another thread stops a ring by posting a task that calls ring_stop().
 *
 * A turn of the loop is one io_uring_enter(): it submits all that the turn before queued and waits for what comes next.
 *
 * Needs Linux 5.15 or newer; uses what newer kernels add (single issuer, deferred task work) where they have it. */
#pragma once

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#include "repl/base/err.h"
#include "repl/base/list.h"

struct ring;
struct ring_op;

/* `result` is what the system call would return: >= 0, or a negative errno. The op may be submitted again inside. */
typedef void ring_done_fn(struct ring_op *op, int32_t result);

enum ring_op_state {
    RING_OP_IDLE,
    RING_OP_BACKLOG, /* waits for room in the submission queue */
    RING_OP_KERNEL,  /* in the submission queue or with the kernel */
    RING_OP_ENDED,   /* has its result, `done` is due */
};

struct ring_op {
    ring_done_fn *done;
    bool busy; /* submitted and not yet done */

    /* The ring's own from here on. */
    uint8_t state;       /* enum ring_op_state */
    bool cancelled;      /* ring_cancel() was called */
    bool cancel_sent;    /* and the kernel was told */
    bool awaits_ready;   /* polls for `ready_events`, then is tried again */
    bool socket_drained; /* the last receive emptied the socket: poll before the next */
    uint16_t ready_events;
    int32_t result;
    struct list link;
    struct io_uring_sqe sqe;
};

struct ring_config {
    unsigned entries;   /* submission queue; completions have four times as many. More than that is queued, too */
    unsigned files_max; /* registered files */
    void *arena;        /* memory that is registered for fixed reads and writes; may be NULL */
    size_t arena_bytes;
    void (*log)(void *ctx, const char *text); /* told what the kernel lacks; may be NULL */
    void *log_ctx;
    unsigned modes_skipped; /* tests: leave out that many of the best ways to set up, as an older kernel would */
};

/* Returns NULL with `err` set: for example where io_uring is disabled, saying by what and how to allow it. */
struct ring *ring_open(const struct ring_config *config, struct err *err);

/* Cancels what is still in flight, waits until the kernel has let go of it, and frees the ring. `done` is called with
 * -ECANCELED or the real result for each such op; what is submitted meanwhile ends with -ECANCELED at once. Tasks that
 * were posted are run, timers are not. A thread that is still within ring_post() is waited for; none may begin to. Not
 * from within ring_run(). NULL is allowed. */
void ring_close(struct ring *r);

/* How the ring was set up, for people: "single issuer, deferred task work", ... */
const char *ring_mode(const struct ring *r);

/* Submits what was queued, waits for at least one completion, timer or posted task unless some are there already, and
 * calls what is due. `idle`, if set, is called once per turn after all completions were handled and before submitting,
 * so that an owner can batch: answers of one turn leave in one send. Returns when ring_stop() was called, at the end of
 * that turn; ring_run() may be called again. */
void ring_run(struct ring *r, void (*idle)(void *ctx), void *ctx);
void ring_stop(struct ring *r);

/* clock_ns(), within ring_run() as read once for this turn; good enough for time-outs, not for measuring. */
uint64_t ring_now_ns(const struct ring *r);

/* Reads the clock anew, for what must not be told a time from before it was taken in. */
uint64_t ring_look_at_clock(struct ring *r);

/* Registered files: the slot is used instead of the descriptor. Returns the slot, or a negative errno: -ENFILE when
 * full. The descriptor stays the caller's; unregister before closing it.
 *
 * Kernels before 6.13 may keep an unregistered file open until every operation that was in flight by then, on any
 * file, has ended: shutdown() a socket rather than rely on close() to tell its peer. */
int ring_register_file(struct ring *r, int fd);
void ring_unregister_file(struct ring *r, int slot);

/* A file as the operations take it: a registered slot. */
struct ring_file {
    int slot;
};

/* Disk. Memory inside the registered arena is used as fixed buffers automatically. rw_flags: RWF_DSYNC or 0. A result
 * may be short. */
void ring_read(struct ring *r, struct ring_op *op, struct ring_file f, void *data, uint32_t bytes,
               uint64_t offset_bytes);
void ring_write(struct ring *r, struct ring_op *op, struct ring_file f, const void *data, uint32_t bytes,
                uint64_t offset_bytes, int rw_flags);
/* The same on a worker thread of the kernel's: for what would be copied within io_uring_enter() and is long. */
void ring_write_aside(struct ring *r, struct ring_op *op, struct ring_file f, const void *data, uint32_t bytes,
                      uint64_t offset_bytes, int rw_flags);
void ring_fdatasync(struct ring *r, struct ring_op *op, struct ring_file f);
void ring_fallocate(struct ring *r, struct ring_op *op, struct ring_file f, int mode, uint64_t offset_bytes,
                    uint64_t length_bytes);

/* Sockets, blocking or not: the op waits until the socket is ready. The msghdr and what it points to must stay until
 * `done`. Sending never raises SIGPIPE. */
void ring_accept(struct ring *r, struct ring_op *op,
                 int listen_fd); /* result: the new descriptor, non-blocking, CLOEXEC */
void ring_connect(struct ring *r, struct ring_op *op, int fd, const void *addr, unsigned addr_bytes);
void ring_recvmsg(struct ring *r, struct ring_op *op, struct ring_file f, struct msghdr *msg, int flags);
void ring_sendmsg(struct ring *r, struct ring_op *op, struct ring_file f, const struct msghdr *msg, int flags);

/* Asks for an op to be ended early; its `done` is still called, with -ECANCELED or its real result. Harmless on an op
 * that is not busy. */
void ring_cancel(struct ring *r, struct ring_op *op);

/* A timer that its owner embeds, zeroed before its first use. Fires once; may be set again, which replaces its due
 * time, also inside `fired`. Resolution: 1 ms at best. Timers are few: setting one looks through those due later. */
struct ring_timer {
    struct list link;
    uint64_t due_ns; /* as ring_now_ns() counts */
    void (*fired)(struct ring_timer *t);
    bool set;
};

void ring_timer_set(struct ring *r, struct ring_timer *t, uint64_t due_ns);
void ring_timer_clear(struct ring *r, struct ring_timer *t);

/* A task handed over from any thread: `run` is called on the ring's thread, in the order of posting. The owner keeps it
 * until then; `run` may free it or post it again. */
struct ring_task {
    struct ring_task *next;
    void (*run)(struct ring_task *task);
};

void ring_post(struct ring *r, struct ring_task *task);
