/* A binary heap of what is still to happen. */
#include "tests/sim/queue.h"

#include <stdlib.h>

static bool before(const struct queue_event *a, const struct queue_event *b)
{
    if (a->time_ns != b->time_ns)
        return a->time_ns < b->time_ns;
    if (a->tie != b->tie)
        return a->tie < b->tie;
    return a->serial < b->serial;
}

void queue_clear(struct queue *q)
{
    q->count = 0;
    q->serial = 0;
}

void queue_push(struct queue *q, struct queue_event ev)
{
    if (q->count == q->max) {
        q->max = q->max ? q->max * 2 : 1024;
        q->heap = realloc(q->heap, q->max * sizeof(*q->heap));
        if (!q->heap)
            abort();
    }
    ev.serial = q->serial++;
    uint32_t i = q->count++;
    while (i > 0 && before(&ev, &q->heap[(i - 1) / 2])) {
        q->heap[i] = q->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    q->heap[i] = ev;
}

bool queue_pop(struct queue *q, struct queue_event *out)
{
    if (q->count == 0)
        return false;
    *out = q->heap[0];
    struct queue_event last = q->heap[--q->count];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= q->count)
            break;
        if (child + 1 < q->count && before(&q->heap[child + 1], &q->heap[child]))
            child++;
        if (!before(&q->heap[child], &last))
            break;
        q->heap[i] = q->heap[child];
        i = child;
    }
    if (q->count > 0)
        q->heap[i] = last;
    return true;
}
