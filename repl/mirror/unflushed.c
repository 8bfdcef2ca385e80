/* The unflushed set: exactly what the peer has acknowledged, and would lack if it lost its power now. */
#include "repl/meta/bitmap.h"
#include "repl/mirror/mirror_internal.h"

static uint64_t unflushed_used(const struct unflushed *u) { return u->head - u->tail; }

bool unflushed_has_room(const struct unflushed *u) { return unflushed_used(u) + u->reserved <= u->mask; }

bool unflushed_is_half_full(const struct unflushed *u) { return unflushed_used(u) > u->mask / 2; }

void unflushed_add(struct unflushed *u, struct range range)
{
    assert(u->reserved > 0 && unflushed_used(u) <= u->mask);
    u->reserved--;
    u->ring[u->head++ & u->mask] = range;
}

void unflushed_drop(struct unflushed *u, uint64_t mark)
{
    /* Flushes may end in another order than they began; and the set may have become bits meanwhile. */
    u->tail = max_u64(u->tail, mark);
    assert(u->tail <= u->head);
}

void mirror_unflushed_to_bitmap(struct mirror *m)
{
    struct unflushed *u = &m->unflushed;
    for (; u->tail < u->head; u->tail++)
        bitmap_set(m->bitmap, u->ring[u->tail & u->mask]);
}
