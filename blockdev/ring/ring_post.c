/* Tasks from other threads: a lock-free stack (R. K. Treiber, 1986) that is only ever taken whole, and an eventfd that
 * wakes the loop. */
#include <errno.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "blockdev/ring/ring_private.h"

static void await_wake(struct ring *r)
{
    r->wake.sqe = (struct io_uring_sqe) { 0 };
    io_uring_prep_read(&r->wake.sqe, r->wake_fd, &r->wake_count, sizeof(r->wake_count), 0);
    ring_submit_op(r, &r->wake);
}

static void woken(struct ring_op *op, int32_t result)
{
    struct ring *r = container_of(op, struct ring, wake);
    if (r->closing)
        return;
    ring_tasks_run(r);
    await_wake(r);
}

int ring_wake_open(struct ring *r)
{
    /* Not EFD_NONBLOCK: the ring would answer -EAGAIN instead of waiting. */
    r->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (r->wake_fd < 0)
        return -errno;
    r->wake.done = woken;
    await_wake(r);
    return 0;
}

void ring_post(struct ring *r, struct ring_task *task)
{
    atomic_fetch_add_explicit(&r->posting, 1, memory_order_relaxed);
    struct ring_task *newest = atomic_load_explicit(&r->posted, memory_order_relaxed);
    do
        task->next = newest;
    while (
        !atomic_compare_exchange_weak_explicit(&r->posted, &newest, task, memory_order_release, memory_order_relaxed));
    /* Whoever finds the stack empty wakes the loop, which takes all that is there by then. */
    if (newest == NULL) {
        const uint64_t one = 1;
        ssize_t n = write(r->wake_fd, &one, sizeof(one));
        assert(n == sizeof(one));
    }
    atomic_fetch_sub_explicit(&r->posting, 1, memory_order_release);
}

void ring_post_wait(struct ring *r)
{
    /* The task may have run, and brought the ring to its end, before its poster came to wake the loop: a moment later
     * it would write into a file that is closed by then, or is somebody else's. It is one system call from its end. */
    while (atomic_load_explicit(&r->posting, memory_order_acquire) > 0)
        sched_yield();
}

void ring_tasks_run(struct ring *r)
{
    struct ring_task *newest = atomic_exchange_explicit(&r->posted, NULL, memory_order_acquire);
    struct ring_task *oldest = NULL;
    while (newest) {
        struct ring_task *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct ring_task *task = oldest;
        oldest = task->next;
        task->run(task);
    }
}
