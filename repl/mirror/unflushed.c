/* The unflushed set: exactly what the peer has acknowledged, and would lack if it lost its power now. */
#include "repl/meta/bitmap.h"
#include "repl/mirror/mirror_internal.h"

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
