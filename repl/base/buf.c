/* Payload buffers by the buddy method. */
#include "repl/base/buf.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HUGE_PAGE_BYTES (2 * MIB)
static_assert(HUGE_PAGE_BYTES % BUF_BYTES_MAX == 0, "an arena aligned to huge pages is aligned to buffers");

static unsigned order_of(size_t bytes)
{
    unsigned order = 0;
    while ((BUF_BYTES_MIN << order) < bytes)
        order++;
    return order;
}

static size_t index_of(const struct buf_pool *pool, const struct buf *b) { return (size_t)(b - pool->bufs); }

static struct buf *buddy_of(struct buf_pool *pool, struct buf *b, unsigned order)
{
    return &pool->bufs[index_of(pool, b) ^ ((size_t)1 << order)];
}

int buf_pool_open(struct buf_pool *pool, size_t arena_bytes)
{
    assert(arena_bytes >= BUF_BYTES_MAX && arena_bytes % BUF_BYTES_MAX == 0);
    *pool = (struct buf_pool) { 0 };
    /* Mapped larger, then trimmed, so that each buffer is aligned to its own size, and huge pages fit: with these the
     * kernel takes a fifth less time to write a registered buffer. */
    size_t map_bytes = arena_bytes + HUGE_PAGE_BYTES;
    uint8_t *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return -ENOMEM;
    uint8_t *arena = (uint8_t *)align_up((uintptr_t)map, HUGE_PAGE_BYTES);
    if (arena > map)
        munmap(map, (size_t)(arena - map));
    munmap(arena + arena_bytes, map_bytes - arena_bytes - (size_t)(arena - map));
    madvise(arena, arena_bytes, MADV_HUGEPAGE); /* where the kernel has none, small pages do */
    /* Faulted in now, so that memory is constant and no write ever waits for a page. */
    if (madvise(arena, arena_bytes, MADV_POPULATE_WRITE) < 0) {
        for (size_t i = 0; i < arena_bytes; i += BUF_BYTES_MIN)
            ((volatile uint8_t *)arena)[i] = 0;
    }
    pool->bufs = calloc(arena_bytes / BUF_BYTES_MIN, sizeof(*pool->bufs));
    if (!pool->bufs) {
        munmap(arena, arena_bytes);
        return -ENOMEM;
    }
    pool->arena = arena;
    pool->arena_bytes = arena_bytes;
    buf_pool_reset(pool);
    return 0;
}

void buf_pool_reset(struct buf_pool *pool)
{
    pool->free_bytes = pool->arena_bytes;
    pool->starved = pool->came_back = false;
    for (unsigned i = 0; i < BUF_ORDERS; i++)
        list_init(&pool->free[i]);
    for (size_t i = 0; i < pool->arena_bytes / BUF_BYTES_MIN; i++) {
        struct buf *b = &pool->bufs[i];
        *b = (struct buf) { .data = pool->arena + i * BUF_BYTES_MIN, .pool = pool };
        list_init(&b->link);
        if (i % (BUF_BYTES_MAX / BUF_BYTES_MIN) == 0) {
            b->size_bytes = BUF_BYTES_MAX;
            list_append(&pool->free[BUF_ORDERS - 1], &b->link);
        }
    }
}

void buf_pool_close(struct buf_pool *pool)
{
    assert(pool->free_bytes == pool->arena_bytes);
    buf_pool_abandon(pool);
}

void buf_pool_abandon(struct buf_pool *pool)
{
    if (!pool->arena)
        return;
    free(pool->bufs);
    munmap(pool->arena, pool->arena_bytes);
    *pool = (struct buf_pool) { 0 };
}

struct buf *buf_get(struct buf_pool *pool, size_t bytes, size_t keep_free_bytes)
{
    assert(bytes > 0 && bytes <= BUF_BYTES_MAX);
    unsigned want = order_of(bytes);
    unsigned order = want;
    while (order < BUF_ORDERS && list_empty(&pool->free[order]))
        order++;
    if (order == BUF_ORDERS || pool->free_bytes < (BUF_BYTES_MIN << want) + keep_free_bytes) {
        pool->starved = true;
        return NULL;
    }
    struct buf *b = container_of(list_pop(&pool->free[order]), struct buf, link);
    while (order > want) {
        order--;
        struct buf *half = buddy_of(pool, b, order);
        half->size_bytes = (uint32_t)(BUF_BYTES_MIN << order);
        list_append(&pool->free[order], &half->link);
    }
    b->size_bytes = (uint32_t)(BUF_BYTES_MIN << want);
    b->refs = 1;
    pool->free_bytes -= b->size_bytes;
    return b;
}

void buf_put(struct buf *b)
{
    struct buf_pool *pool = b->pool;
    assert(b->refs > 0);
    if (--b->refs > 0)
        return;
    pool->free_bytes += b->size_bytes;
    pool->came_back = pool->starved;
    unsigned order = order_of(b->size_bytes);
    while (order < BUF_ORDERS - 1) {
        struct buf *buddy = buddy_of(pool, b, order);
        bool buddy_is_free = buddy->refs == 0 && !list_empty(&buddy->link) && buddy->size_bytes == b->size_bytes;
        if (!buddy_is_free)
            break;
        list_remove(&buddy->link);
        struct buf *left = buddy < b ? buddy : b;
        struct buf *right = buddy < b ? b : buddy;
        right->size_bytes = 0;
        b = left;
        order++;
        b->size_bytes = (uint32_t)(BUF_BYTES_MIN << order);
    }
    /* Last in, first out: the buffer that is still in the cache is used next. */
    list_append(pool->free[order].next, &b->link);
}

bool buf_pool_take_starved(struct buf_pool *pool)
{
    bool was = pool->starved && pool->came_back;
    if (was)
        pool->starved = pool->came_back = false;
    return was;
}
