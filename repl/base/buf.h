/* The payload buffers of one volume: one arena, fixed and faulted in at open, cut up by the buddy method
 * (Knowlton, "A fast storage allocator", CACM 1965). The arena is what the ring registers, so that a payload is
 * received, written, hashed and sent from one place. Not thread-safe: a pool belongs to its volume's thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/base/list.h"
#include "repl/base/units.h"

#define BUF_BYTES_MIN (4 * KIB)
#define BUF_BYTES_MAX (1 * MIB)
#define BUF_ORDERS 9 /* 4 KiB << 0 ... 4 KiB << 8 */
static_assert(BUF_BYTES_MIN << (BUF_ORDERS - 1) == BUF_BYTES_MAX, "orders cover the sizes");

struct buf {
    uint8_t *data; /* aligned to its size, at least BUF_BYTES_MIN */
    struct buf_pool *pool;
    struct list link;    /* in a free list, or the holder's while it has the only reference */
    uint32_t size_bytes; /* a power of two in [BUF_BYTES_MIN, BUF_BYTES_MAX] */
    uint32_t refs;       /* 0: free, or the tail of a larger buffer */
};

struct buf_pool {
    uint8_t *arena; /* aligned to BUF_BYTES_MAX */
    size_t arena_bytes;
    size_t free_bytes;
    struct buf *bufs; /* one descriptor for every BUF_BYTES_MIN of the arena */
    struct list free[BUF_ORDERS];
    bool starved;   /* a buf_get() failed since buf_pool_take_starved() last told of it */
    bool came_back; /* ... and a buffer was freed since */
};

/* The arena is a multiple of BUF_BYTES_MAX. Returns 0 or -ENOMEM. */
int buf_pool_open(struct buf_pool *pool, size_t arena_bytes);

/* Every buffer must have been put back. */
void buf_pool_close(struct buf_pool *pool);

/* The same for an owner that ended in the middle: whatever is still out is gone with the arena. */
void buf_pool_abandon(struct buf_pool *pool);

/* Every buffer is free again, whoever has it, and what lies in them stays: for a simulated process that has ended. */
void buf_pool_reset(struct buf_pool *pool);

/* A buffer of at least `bytes` (1 ... BUF_BYTES_MAX) with one reference, or NULL when none is free, or when fewer than
 * `keep_free_bytes` would remain: the caller then waits until buffers come back. */
struct buf *buf_get(struct buf_pool *pool, size_t bytes, size_t keep_free_bytes);

static inline void buf_ref(struct buf *b)
{
    assert(b->refs > 0);
    b->refs++;
}

/* Gives one reference back; the last one frees the buffer. */
void buf_put(struct buf *b);

/* True once after a buf_get() had failed and something has come back since: time to wake those who wait. */
bool buf_pool_take_starved(struct buf_pool *pool);
