/* The loop: submits, waits, completes. */
#include "blockdev/ring/ring.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockdev/ring/ring_private.h"
#include "repl/base/clock.h"

/* While ring_close() waits for the kernel, it says so this often. */
#define CLOSE_LOG_EVERY_S 5
/* How long to let completions free memory when the kernel has none left for a submission. */
#define OUT_OF_MEMORY_PAUSE_MS 10

/* Handles what io_uring_enter() may say. Whatever was not submitted stays in the queue for the next turn. */
static void check_enter(struct ring *r, int rc)
{
    if (rc >= 0)
        return;
    switch (-rc) {
    case EINTR: /* a signal */
    case ETIME: /* nothing came in time */
    case EBUSY: /* completions overflowed: they must be handled before the kernel takes more */ return;
    case EAGAIN:
    case ENOMEM: {
        struct pollfd p = { .fd = r->uring.ring_fd, .events = POLLIN };
        poll(&p, 1, OUT_OF_MEMORY_PAUSE_MS);
        io_uring_get_events(&r->uring);
        return;
    }
    default:
        /* -EBADR: the kernel lost a completion for want of memory, so that an op would never end. Any other: the ring
         * is broken. To stop is better than to go on wrong; the peer has every acknowledged write. */
        ring_log(r, "io_uring_enter: %s: the ring cannot go on", strerror(-rc));
        fprintf(stderr, "io_uring_enter: %s: the ring cannot go on\n", strerror(-rc));
        abort();
    }
}

struct io_uring_sqe *ring_sqe(struct ring *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
    if (sqe)
        return sqe;
    check_enter(r, io_uring_submit(&r->uring));
    return io_uring_get_sqe(&r->uring);
}

static void enter_state(struct ring *r, struct ring_op *op, enum ring_op_state state)
{
    if (op->state != RING_OP_IDLE)
        list_remove(&op->link);
    op->state = (uint8_t)state;
    switch (state) {
    case RING_OP_IDLE: break;
    case RING_OP_BACKLOG: list_append(&r->backlog, &op->link); break;
    case RING_OP_KERNEL: list_append(&r->kernel, &op->link); break;
    case RING_OP_ENDED: list_append(&r->ended, &op->link); break;
    }
}

static void give_to_kernel(struct ring *r, struct ring_op *op, struct io_uring_sqe *sqe)
{
    *sqe = op->sqe;
    if (op->awaits_ready) {
        io_uring_prep_poll_add(sqe, op->sqe.fd, op->ready_events);
        sqe->flags = op->sqe.flags;
    }
    io_uring_sqe_set_data(sqe, op);
    enter_state(r, op, RING_OP_KERNEL);
}

/* In the order of submission: an op never overtakes the backlog. */
static void queue(struct ring *r, struct ring_op *op)
{
    struct io_uring_sqe *sqe = list_empty(&r->backlog) ? ring_sqe(r) : NULL;
    if (sqe)
        give_to_kernel(r, op, sqe);
    else
        enter_state(r, op, RING_OP_BACKLOG);
}

static void drain_backlog(struct ring *r)
{
    struct list *node;
    while ((node = list_first(&r->backlog))) {
        struct io_uring_sqe *sqe = ring_sqe(r);
        if (!sqe)
            return;
        give_to_kernel(r, container_of(node, struct ring_op, link), sqe);
    }
}

static void end_early(struct ring *r, struct ring_op *op)
{
    op->result = -ECANCELED;
    enter_state(r, op, RING_OP_ENDED);
}

void ring_submit_op(struct ring *r, struct ring_op *op)
{
    assert(!op->busy && op->done);
    op->busy = true;
    op->state = RING_OP_IDLE;
    op->cancelled = false;
    op->cancel_sent = false;
    op->awaits_ready = false;
    if (r->closing)
        end_early(r, op);
    else
        queue(r, op);
}

static void send_cancel(struct ring *r, struct ring_op *op)
{
    struct io_uring_sqe *sqe = ring_sqe(r);
    if (!sqe) {
        r->cancels_unsent = true;
        return;
    }
    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data64(sqe, RING_DATA_IGNORED);
    op->cancel_sent = true;
}

static void send_cancels(struct ring *r)
{
    if (!r->cancels_unsent)
        return;
    r->cancels_unsent = false;
    list_for_each (node, &r->kernel) {
        struct ring_op *op = container_of(node, struct ring_op, link);
        if (op->cancelled && !op->cancel_sent)
            send_cancel(r, op);
    }
}

void ring_cancel(struct ring *r, struct ring_op *op)
{
    if (!op->busy || op->cancelled)
        return;
    op->cancelled = true;
    switch ((enum ring_op_state)op->state) {
    case RING_OP_BACKLOG: end_early(r, op); break;
    case RING_OP_KERNEL: send_cancel(r, op); break;
    case RING_OP_IDLE:
    case RING_OP_ENDED: break;
    }
}

static void finish(struct ring *r, struct ring_op *op, int32_t result)
{
    enter_state(r, op, RING_OP_IDLE);
    op->busy = false;
    op->done(op, result);
}

static void complete(struct ring *r, struct ring_op *op, int32_t result, uint32_t flags)
{
    assert(op->busy && op->state == RING_OP_KERNEL);
    /* Some kernels answer -EAGAIN on non-blocking sockets instead of waiting: wait for them, then try again. */
    bool again = op->awaits_ready ? result >= 0 : result == -EAGAIN && op->ready_events;
    if (again && !op->cancelled && !r->closing) {
        op->awaits_ready = !op->awaits_ready;
        queue(r, op);
        return;
    }
    op->socket_drained = r->can_poll_first && result > 0 && !(flags & IORING_CQE_F_SOCK_NONEMPTY);
    finish(r, op, again ? -ECANCELED : result);
}

/* Handles the completions that are there now. Those that come meanwhile belong to the next turn, so that timers and
 * batches have theirs. */
static void handle_completions(struct ring *r)
{
    for (unsigned n = io_uring_cq_ready(&r->uring); n > 0; n--) {
        struct io_uring_cqe *cqe;
        if (io_uring_peek_cqe(&r->uring, &cqe) < 0)
            return;
        uint64_t data = cqe->user_data;
        int32_t result = cqe->res;
        uint32_t flags = cqe->flags;
        /* Gives the slot back first: `done` may submit so much that the kernel needs it. */
        io_uring_cqe_seen(&r->uring, cqe);
        if (data == RING_DATA_ALARM)
            r->alarm_due_ns = UINT64_MAX;
        else if (data != RING_DATA_IGNORED)
            complete(r, (struct ring_op *)(uintptr_t)data, result, flags);
    }
}

static unsigned length(const struct list *head)
{
    unsigned n = 0;
    list_for_each (node, head)
        n++;
    return n;
}

/* The same for what ended without the kernel. */
static void handle_ended(struct ring *r)
{
    for (unsigned n = length(&r->ended); n > 0; n--) {
        struct ring_op *op = container_of(list_first(&r->ended), struct ring_op, link);
        finish(r, op, op->result);
    }
}

static void turn(struct ring *r)
{
    drain_backlog(r);
    send_cancels(r);
    bool armed = ring_timers_arm(r);
    bool sleep = !r->stop && armed && list_empty(&r->ended) && !ring_timers_due(r) && !r->cancels_unsent;
    if (sleep) {
        check_enter(r, ring_wait(r));
    } else {
        check_enter(r, io_uring_submit_and_get_events(&r->uring));
        r->now_ns = clock_ns();
    }
    handle_completions(r);
    handle_ended(r);
    ring_timers_fire(r);
}

void ring_run(struct ring *r, void (*idle)(void *ctx), void *ctx)
{
    assert(!r->running && !r->closing);
    r->running = true;
    r->now_ns = clock_ns();
    while (!r->stop) {
        if (idle)
            idle(ctx);
        turn(r);
    }
    r->stop = false;
    r->running = false;
}

void ring_stop(struct ring *r) { r->stop = true; }

uint64_t ring_now_ns(const struct ring *r) { return r->running ? r->now_ns : clock_ns(); }

uint64_t ring_look_at_clock(struct ring *r)
{
    r->now_ns = clock_ns();
    return r->now_ns;
}

const char *ring_mode(const struct ring *r) { return r->mode; }

void ring_close(struct ring *r)
{
    if (!r)
        return;
    assert(!r->running);
    r->closing = true;
    ring_timers_forget(r);
    list_for_each_safe (node, &r->backlog)
        end_early(r, container_of(node, struct ring_op, link));
    list_for_each (node, &r->kernel)
        container_of(node, struct ring_op, link)->cancelled = true;
    r->cancels_unsent = true;
    unsigned silent_s = 0;
    while (!list_empty(&r->kernel) || !list_empty(&r->ended)) {
        send_cancels(r);
        struct __kernel_timespec second = { .tv_sec = 1 };
        struct io_uring_cqe *cqe;
        int rc = list_empty(&r->ended) ? io_uring_submit_and_wait_timeout(&r->uring, &cqe, 1, &second, NULL)
                                       : io_uring_submit_and_get_events(&r->uring);
        if (rc == -ETIME && ++silent_s % CLOSE_LOG_EVERY_S == 0)
            ring_log(r, "io_uring: closing waits for %u operations that the kernel has not ended for %u s",
                     length(&r->kernel), silent_s);
        check_enter(r, rc);
        handle_completions(r);
        handle_ended(r);
    }
    ring_tasks_run(r);
    ring_post_wait(r);
    /* The ring itself is torn down by the kernel some time later. Files and memory shall be free at once. */
    if (r->free_slots)
        io_uring_unregister_files(&r->uring);
    if (r->arena_bytes)
        io_uring_unregister_buffers(&r->uring);
    io_uring_queue_exit(&r->uring);
    if (r->wake_fd >= 0)
        close(r->wake_fd);
    free(r->free_slots);
    free(r);
}
