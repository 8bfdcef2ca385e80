/* Waiting for what comes next: a look around first, then sleep.
 *
 * To wake a thread costs tens of microseconds where the CPU has to be fetched back from its host or from a deep idle
 * state, and a write passes four wake-ups on its way. Where events follow each other closely the loop looks for the
 * next one for a moment before it sleeps, and gives its CPU away between two looks to whoever wants it.
 *
 * How long it looks adapts, as Linux's haltpoll governor does for idle CPUs (drivers/cpuidle/governors/haltpoll.c): it
 * grows while waits are so short that looking would have spared, or did spare, the sleep; it ends when they are not. An
 * idle volume, or one whose waits are longer than RING_LOOK_MAX_NS, costs nothing. A thread that computes would keep
 * the CPU it is given for milliseconds: where one is met, the loop goes without looking for a while. */
#include <sched.h>

#include "blockdev/ring/ring_private.h"
#include "repl/base/clock.h"

#define LOOK_FIRST_NS (5 * NS_PER_US)
/* Who keeps the CPU for longer computes; one that waits for the next event, as we do, gives it back sooner. */
#define YIELD_MAX_NS (200 * NS_PER_US)
#define LOOK_PAUSE_MIN_NS (20 * NS_PER_MS)
#define LOOK_PAUSE_MAX_NS (1 * NS_PER_S)

/* True when io_uring_enter() would find something to complete. */
static bool has_work(const struct ring *r)
{
    unsigned flags = __atomic_load_n(r->uring.sq.kflags, __ATOMIC_RELAXED);
    return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) || io_uring_cq_ready(&r->uring) > 0;
}

static void adapt(struct ring *r, uint64_t waited_ns)
{
    if (waited_ns > RING_LOOK_MAX_NS) {
        r->look_ns = 0;
        return;
    }
    if (waited_ns > r->look_ns)
        r->look_ns = min_u64(max_u64(2 * r->look_ns, LOOK_FIRST_NS), RING_LOOK_MAX_NS);
    else
        r->look_pause_ns -= r->look_pause_ns / 16;
}

/* Until there is work, it has looked long enough, or the CPU turns out to be wanted by others. */
static void look(struct ring *r, uint64_t start_ns)
{
    uint64_t now_ns = start_ns;
    while (!has_work(r) && now_ns - start_ns < r->look_ns) {
        sched_yield();
        uint64_t back_ns = clock_ns();
        if (back_ns - now_ns > YIELD_MAX_NS) {
            r->look_pause_ns = min_u64(max_u64(2 * r->look_pause_ns, LOOK_PAUSE_MIN_NS), LOOK_PAUSE_MAX_NS);
            r->look_from_ns = back_ns + r->look_pause_ns;
            return;
        }
        now_ns = back_ns;
    }
}

/* Tells the kernel what is queued, and takes what is there already. A call for nothing would cost as much as one of the
 * three that a lone write needs. */
static int submit(struct ring *r)
{
    return io_uring_sq_ready(&r->uring) > 0 || has_work(r) ? io_uring_submit_and_get_events(&r->uring) : 0;
}

int ring_wait(struct ring *r)
{
    if (!r->tells_of_work) {
        int rc = io_uring_submit_and_wait(&r->uring, 1);
        r->now_ns = clock_ns();
        return rc;
    }
    bool looks = r->look_ns > 0 && r->now_ns >= r->look_from_ns;
    if (looks) {
        int rc = submit(r);
        if (rc < 0 || io_uring_cq_ready(&r->uring) > 0) {
            r->now_ns = clock_ns();
            return rc;
        }
    }
    uint64_t start_ns = clock_ns();
    if (looks)
        look(r, start_ns);
    int rc = io_uring_submit_and_wait(&r->uring, 1);
    r->now_ns = clock_ns();
    adapt(r, r->now_ns - start_ns);
    return rc;
}
