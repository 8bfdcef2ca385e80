/* What the files of the ring share. */
#pragma once

#include <stdatomic.h>

#include "blockdev/ring/ring.h"
#include "repl/base/units.h"

/* The kernel registers at most 1 GiB as one buffer, so that the arena is registered in pieces. */
#define RING_ARENA_PIECE_BYTES (1 * GIB)
#define RING_ARENA_PIECES_MAX 64

/* The longest that a loop looks for work before it sleeps. */
#define RING_LOOK_MAX_NS (100 * NS_PER_US)

/* Completions that belong to no op. An op's is its address. */
#define RING_DATA_IGNORED UINT64_C(0)
#define RING_DATA_ALARM UINT64_C(1)

struct ring {
    struct io_uring uring;
    const char *mode;
    uint64_t now_ns;
    bool running;
    bool stop;
    bool closing;
    bool can_poll_first;    /* Linux 5.19 */
    bool tells_of_work;     /* the kernel sets IORING_SQ_TASKRUN */
    uint64_t look_ns;       /* how long to look for work before sleeping; 0: not at all */
    uint64_t look_from_ns;  /* not before */
    uint64_t look_pause_ns; /* how long the last pause was, less what went well since */
    bool cancels_unsent;    /* the submission queue was full */

    struct list backlog; /* ops by state; RING_OP_IDLE ones are in no list */
    struct list kernel;
    struct list ended;

    struct list timers;    /* by due_ns */
    uint64_t alarm_due_ns; /* of the one kernel timer; UINT64_MAX: not armed */
    struct __kernel_timespec alarm_at;

    _Atomic(struct ring_task *) posted; /* newest first */
    atomic_uint posting;                /* threads within ring_post() */
    int wake_fd;                        /* eventfd; -1: none */
    uint64_t wake_count;
    struct ring_op wake;

    unsigned *free_slots; /* a stack */
    unsigned free_slot_count;
    unsigned files_max;

    uintptr_t arena;
    size_t arena_bytes; /* 0: not registered */

    void (*log)(void *ctx, const char *text);
    void *log_ctx;
};

void ring_log(const struct ring *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Room in the submission queue, or NULL when it is full and the kernel takes nothing just now. */
struct io_uring_sqe *ring_sqe(struct ring *r);

/* Submits op->sqe now or when there is room. */
void ring_submit_op(struct ring *r, struct ring_op *op);

/* ring_wait.c: submits what is queued and waits for at least one completion; as io_uring_submit_and_wait() returns.
 * Then `now_ns` is the time. */
int ring_wait(struct ring *r);

/* ring_timer.c: false when the kernel could not be told, so that the loop must not sleep. */
bool ring_timers_arm(struct ring *r);
bool ring_timers_due(const struct ring *r);
void ring_timers_fire(struct ring *r);
void ring_timers_forget(struct ring *r);

/* ring_post.c */
int ring_wake_open(struct ring *r);
void ring_post_wait(struct ring *r); /* until no thread is within ring_post() any more */
void ring_tasks_run(struct ring *r);
