/* Timers: a sorted list over one kernel timer.
 *
 * The kernel timer is only moved when something is due earlier. One that goes off before anything is due costs a turn
 * of the loop and is armed again; so a time-out that is pushed back with every frame costs the kernel nothing. */
#include "blockdev/ring/ring_private.h"

void ring_timer_set(struct ring *r, struct ring_timer *t, uint64_t due_ns)
{
    assert(t->fired);
    ring_timer_clear(r, t);
    t->due_ns = due_ns;
    t->set = true;
    /* From the end: a new timer is mostly due last. Equal ones fire in the order they were set. */
    struct list *after = r->timers.prev;
    while (after != &r->timers && container_of(after, struct ring_timer, link)->due_ns > due_ns)
        after = after->prev;
    list_insert_before(after->next, &t->link);
}

void ring_timer_clear(struct ring *r, struct ring_timer *t)
{
    if (t->set)
        list_remove(&t->link);
    t->set = false;
}

static uint64_t next_due_ns(const struct ring *r)
{
    const struct list *first = list_first(&r->timers);
    return first ? container_of(first, struct ring_timer, link)->due_ns : UINT64_MAX;
}

bool ring_timers_due(const struct ring *r) { return next_due_ns(r) <= r->now_ns; }

bool ring_timers_arm(struct ring *r)
{
    uint64_t due_ns = next_due_ns(r);
    if (due_ns >= r->alarm_due_ns || due_ns <= r->now_ns)
        return true;
    struct io_uring_sqe *sqe = ring_sqe(r);
    if (!sqe)
        return false;
    r->alarm_at.tv_sec = (int64_t)(due_ns / NS_PER_S);
    r->alarm_at.tv_nsec = (int64_t)(due_ns % NS_PER_S);
    if (r->alarm_due_ns == UINT64_MAX) {
        io_uring_prep_timeout(sqe, &r->alarm_at, 0, IORING_TIMEOUT_ABS | IORING_TIMEOUT_BOOTTIME);
        io_uring_sqe_set_data64(sqe, RING_DATA_ALARM);
    } else {
        /* It stays on its clock. Comes too late if the alarm has gone off meanwhile: its completion then makes the next
         * turn arm it anew. */
        io_uring_prep_timeout_update(sqe, &r->alarm_at, RING_DATA_ALARM, IORING_TIMEOUT_ABS);
        io_uring_sqe_set_data64(sqe, RING_DATA_IGNORED);
    }
    r->alarm_due_ns = due_ns;
    return true;
}

void ring_timers_fire(struct ring *r)
{
    if (!ring_timers_due(r))
        return;
    /* Those due now are set apart first, so that one which sets itself again cannot hold up the loop. They stay linked:
     * one that fires may clear another. */
    struct list due;
    list_init(&due);
    while (ring_timers_due(r))
        list_append(&due, list_pop(&r->timers));
    struct list *node;
    while ((node = list_pop(&due))) {
        struct ring_timer *t = container_of(node, struct ring_timer, link);
        t->set = false;
        t->fired(t);
    }
}

void ring_timers_forget(struct ring *r)
{
    struct list *node;
    while ((node = list_pop(&r->timers)))
        container_of(node, struct ring_timer, link)->set = false;
}
