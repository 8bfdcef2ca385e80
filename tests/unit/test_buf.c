/* The payload pool: sizes, references, back-pressure, and that everything merges again after any history. */
#include "tests/unit/unit.h"

#include <string.h>

#include "repl/base/buf.h"
#include "repl/base/prng.h"

#define ARENA_BYTES (8 * MIB)

static void assert_whole(struct buf_pool *pool)
{
    assert_int_equal(pool->free_bytes, pool->arena_bytes);
    for (unsigned order = 0; order < BUF_ORDERS - 1; order++)
        assert_true(list_empty(&pool->free[order]));
    size_t n = 0;
    list_for_each (node, &pool->free[BUF_ORDERS - 1]) {
        const struct buf *b = container_of(node, struct buf, link);
        assert_int_equal(b->size_bytes, BUF_BYTES_MAX);
        assert_int_equal((uintptr_t)b->data % BUF_BYTES_MAX, 0);
        n++;
    }
    assert_int_equal(n, pool->arena_bytes / BUF_BYTES_MAX);
}

static int setup(void **state)
{
    static struct buf_pool pool;
    *state = &pool;
    return buf_pool_open(&pool, ARENA_BYTES);
}

static int teardown(void **state)
{
    assert_whole(*state);
    buf_pool_close(*state);
    return 0;
}

static void sizes_are_rounded_up_and_aligned(void **state)
{
    struct buf_pool *pool = *state;
    static const struct {
        size_t ask, get;
    } cases[] = {
        { 1, BUF_BYTES_MIN },
        { 512, BUF_BYTES_MIN },
        { BUF_BYTES_MIN, BUF_BYTES_MIN },
        { BUF_BYTES_MIN + 1, 2 * BUF_BYTES_MIN },
        { 5 * BUF_BYTES_MIN, 8 * BUF_BYTES_MIN },
        { BUF_BYTES_MAX - 1, BUF_BYTES_MAX },
        { BUF_BYTES_MAX, BUF_BYTES_MAX },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf *b = buf_get(pool, cases[i].ask, 0);
        assert_non_null(b);
        assert_int_equal(b->size_bytes, cases[i].get);
        assert_int_equal((uintptr_t)b->data % b->size_bytes, 0);
        assert_in_range(b->data - pool->arena, 0, ARENA_BYTES - b->size_bytes);
        assert_int_equal(pool->free_bytes, ARENA_BYTES - cases[i].get);
        buf_put(b);
    }
}

static void last_reference_frees(void **state)
{
    struct buf_pool *pool = *state;
    struct buf *b = buf_get(pool, BUF_BYTES_MIN, 0);
    buf_ref(b);
    buf_ref(b);
    buf_put(b);
    buf_put(b);
    assert_int_equal(pool->free_bytes, ARENA_BYTES - BUF_BYTES_MIN);
    buf_put(b);
    assert_int_equal(pool->free_bytes, ARENA_BYTES);
}

static void the_buffer_still_in_the_cache_is_used_next(void **state)
{
    struct buf_pool *pool = *state;
    struct buf *keep = buf_get(pool, BUF_BYTES_MIN, 0); /* its buddy then stays unmerged */
    struct buf *a = buf_get(pool, BUF_BYTES_MIN, 0);
    buf_put(a);
    assert_ptr_equal(buf_get(pool, BUF_BYTES_MIN, 0), a);
    buf_put(a);
    buf_put(keep);
}

static void exhaustion_is_told_and_ends(void **state)
{
    struct buf_pool *pool = *state;
    struct buf *held[ARENA_BYTES / BUF_BYTES_MAX];
    assert_false(buf_pool_take_starved(pool));
    for (size_t i = 0; i < ARRAY_LEN(held); i++) {
        held[i] = buf_get(pool, BUF_BYTES_MAX, 0);
        assert_non_null(held[i]);
    }
    assert_null(buf_get(pool, 1, 0));
    assert_false(buf_pool_take_starved(pool)); /* nothing came back yet */
    buf_put(held[0]);
    assert_true(buf_pool_take_starved(pool));
    assert_false(buf_pool_take_starved(pool)); /* told once */
    for (size_t i = 1; i < ARRAY_LEN(held); i++)
        buf_put(held[i]);
}

/* Some is free, but too little for who waits: who is told at every turn of a loop would keep that loop from sleeping.
 */
static void who_waits_is_told_only_when_something_came_back(void **state)
{
    struct buf_pool *pool = *state;
    struct buf *held[ARENA_BYTES / BUF_BYTES_MAX];
    for (size_t i = 1; i < ARRAY_LEN(held); i++)
        held[i] = buf_get(pool, BUF_BYTES_MAX, 0);
    held[0] = buf_get(pool, BUF_BYTES_MIN, 0);
    assert_true(pool->free_bytes > 0);
    for (unsigned turn = 0; turn < 3; turn++) {
        assert_null(buf_get(pool, BUF_BYTES_MAX, 0));
        assert_false(buf_pool_take_starved(pool));
    }
    buf_put(held[0]);
    assert_true(buf_pool_take_starved(pool));
    assert_false(buf_pool_take_starved(pool));
    for (size_t i = 1; i < ARRAY_LEN(held); i++)
        buf_put(held[i]);
}

static void some_is_kept_free_for_others(void **state)
{
    struct buf_pool *pool = *state;
    const size_t keep = 2 * MIB;
    struct buf *held[ARENA_BYTES / BUF_BYTES_MIN];
    size_t n = 0;
    while ((held[n] = buf_get(pool, BUF_BYTES_MIN, keep)))
        n++;
    assert_int_equal(pool->free_bytes, keep);
    struct buf *urgent = buf_get(pool, BUF_BYTES_MIN, 0);
    assert_non_null(urgent);
    buf_put(urgent);
    while (n > 0)
        buf_put(held[--n]);
    assert_true(buf_pool_take_starved(pool));
}

/* Random histories: buffers never overlap (each is filled with its own pattern and checked when it goes), the free
 * count is exact, and after the last one has gone the arena is whole again. */
static void any_history_merges_again(void **state)
{
    struct buf_pool *pool = *state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct prng p = prng_seed(seed);
        struct {
            struct buf *b;
            uint8_t mark;
        } held[512];
        size_t n = 0;
        size_t held_bytes = 0;
        for (unsigned step = 0; step < 20000; step++) {
            bool get = n == 0 || (n < ARRAY_LEN(held) && prng_below(&p, 100) < 52);
            if (get) {
                size_t bytes = 1 + prng_below(&p, BUF_BYTES_MIN << prng_below(&p, BUF_ORDERS));
                struct buf *b = buf_get(pool, bytes, 0);
                if (!b)
                    continue;
                assert_true(b->size_bytes >= bytes);
                held[n].b = b;
                held[n].mark = (uint8_t)prng_next(&p);
                memset(b->data, held[n].mark, 64);
                memset(b->data + b->size_bytes - 64, held[n].mark, 64);
                held_bytes += b->size_bytes;
                n++;
            } else {
                size_t i = prng_below(&p, n);
                struct buf *b = held[i].b;
                for (unsigned j = 0; j < 64; j++) {
                    assert_int_equal(b->data[j], held[i].mark);
                    assert_int_equal(b->data[b->size_bytes - 64 + j], held[i].mark);
                }
                held_bytes -= b->size_bytes;
                buf_put(b);
                held[i] = held[--n];
            }
            assert_int_equal(pool->free_bytes + held_bytes, ARENA_BYTES);
        }
        while (n > 0)
            buf_put(held[--n].b);
        assert_whole(pool);
    }
    buf_pool_take_starved(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sizes_are_rounded_up_and_aligned, setup, teardown),
        cmocka_unit_test_setup_teardown(last_reference_frees, setup, teardown),
        cmocka_unit_test_setup_teardown(the_buffer_still_in_the_cache_is_used_next, setup, teardown),
        cmocka_unit_test_setup_teardown(exhaustion_is_told_and_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(who_waits_is_told_only_when_something_came_back, setup, teardown),
        cmocka_unit_test_setup_teardown(some_is_kept_free_for_others, setup, teardown),
        cmocka_unit_test_setup_teardown(any_history_merges_again, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
