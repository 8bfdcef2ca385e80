/* A bounded queue from any thread to one. */
#include "repl/node/queue.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* `turn` says whose the slot is: equal to the position, free for its producer; one more, the consumer's. */
struct queue_slot {
    atomic_uint_fast64_t turn;
    _Alignas(max_align_t) uint8_t item[];
};

static struct queue_slot *slot_at(const struct queue *q, uint64_t position)
{
    return (struct queue_slot *)(void *)(q->slots + (position & q->mask) * q->slot_bytes);
}

int queue_open(struct queue *q, unsigned items, size_t item_bytes)
{
    assert(items > 1 && (items & (items - 1)) == 0);
    size_t align = _Alignof(struct queue_slot);
    memset(q, 0, sizeof(*q));
    q->item_bytes = item_bytes;
    q->slot_bytes = (sizeof(struct queue_slot) + item_bytes + align - 1) / align * align;
    q->mask = items - 1;
    q->slots = calloc(items, q->slot_bytes);
    if (!q->slots)
        return -ENOMEM;
    q->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->wake_fd < 0) {
        int rc = -errno;
        free(q->slots);
        return rc;
    }
    for (unsigned i = 0; i < items; i++)
        atomic_init(&slot_at(q, i)->turn, i);
    return 0;
}

void queue_close(struct queue *q)
{
    close(q->wake_fd);
    free(q->slots);
    memset(q, 0, sizeof(*q));
    q->wake_fd = -1;
}

void queue_wake(struct queue *q)
{
    uint64_t one = 1;
    ssize_t n = write(q->wake_fd, &one, sizeof(one));
    assert(n == sizeof(one) || errno == EAGAIN); /* EAGAIN: 2^64 - 2 wakes are waiting to be seen */
}

bool queue_put(struct queue *q, const void *item)
{
    uint64_t position = atomic_load_explicit(&q->head, memory_order_relaxed);
    struct queue_slot *slot;
    for (;;) {
        slot = slot_at(q, position);
        uint64_t turn = atomic_load_explicit(&slot->turn, memory_order_acquire);
        if (turn == position) {
            if (atomic_compare_exchange_weak_explicit(&q->head, &position, position + 1, memory_order_relaxed,
                                                      memory_order_relaxed))
                break;
        } else if ((int64_t)(turn - position) < 0) { /* a round behind: not taken yet */
            atomic_fetch_add_explicit(&q->dropped, 1, memory_order_relaxed);
            return false;
        } else {
            position = atomic_load_explicit(&q->head, memory_order_relaxed);
        }
    }
    memcpy(slot->item, item, q->item_bytes);
    atomic_store_explicit(&slot->turn, position + 1, memory_order_release);
    queue_wake(q);
    return true;
}

bool queue_take(struct queue *q, void *item)
{
    struct queue_slot *slot = slot_at(q, q->tail);
    if (atomic_load_explicit(&slot->turn, memory_order_acquire) != q->tail + 1)
        return false;
    memcpy(item, slot->item, q->item_bytes);
    atomic_store_explicit(&slot->turn, q->tail + q->mask + 1, memory_order_release);
    q->tail++;
    return true;
}

uint64_t queue_take_dropped(struct queue *q) { return atomic_exchange_explicit(&q->dropped, 0, memory_order_relaxed); }

int queue_wake_fd(const struct queue *q) { return q->wake_fd; }

void queue_awake(struct queue *q)
{
    uint64_t count;
    ssize_t n = read(q->wake_fd, &count, sizeof(count));
    assert(n == sizeof(count) || errno == EAGAIN);
}
