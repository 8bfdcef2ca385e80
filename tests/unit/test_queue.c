/* The queue from any thread to one: nothing is lost, doubled or reordered per thread; what does not fit is counted. */
#include "repl/node/queue.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "tests/unit/unit.h"

struct item {
    uint64_t thread;
    uint64_t number;
    char ballast[100]; /* all of one byte: a torn copy shows */
};

static void items_come_in_order_and_overflow_is_counted(void **state)
{
    struct queue q;
    assert_int_equal(queue_open(&q, 4, sizeof(struct item)), 0);
    struct item item = { 0 };
    assert_false(queue_take(&q, &item));
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 6; i++) {
            item.number = i;
            assert_int_equal(queue_put(&q, &item), i < 4);
        }
        for (unsigned i = 0; i < 4; i++) {
            assert_true(queue_take(&q, &item));
            assert_int_equal(item.number, i);
        }
        assert_false(queue_take(&q, &item));
        assert_int_equal(queue_take_dropped(&q), 2);
        assert_int_equal(queue_take_dropped(&q), 0);
    }
    queue_close(&q);
}

static void a_put_wakes(void **state)
{
    struct queue q;
    assert_int_equal(queue_open(&q, 2, sizeof(uint64_t)), 0);
    struct pollfd fd = { .fd = queue_wake_fd(&q), .events = POLLIN };
    assert_int_equal(poll(&fd, 1, 0), 0);
    uint64_t item = 7;
    queue_put(&q, &item);
    assert_int_equal(poll(&fd, 1, 0), 1);
    queue_awake(&q);
    assert_int_equal(poll(&fd, 1, 0), 0);
    queue_awake(&q); /* once too often is harmless */
    queue_wake(&q);
    assert_int_equal(poll(&fd, 1, 0), 1);
    queue_close(&q);
}

#define THREADS 4
#define ITEMS_EACH 20000

static struct queue shared;

static void *produce(void *arg)
{
    struct item item = { .thread = (uint64_t)(uintptr_t)arg };
    memset(item.ballast, (int)item.thread, sizeof(item.ballast));
    for (item.number = 0; item.number < ITEMS_EACH; item.number++)
        queue_put(&shared, &item);
    return NULL;
}

static void many_threads_put(void **state)
{
    assert_int_equal(queue_open(&shared, 256, sizeof(struct item)), 0);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, produce, (void *)i), 0);
    uint64_t next[THREADS] = { 0 };
    uint64_t seen = 0;
    uint64_t dropped = 0;
    while (seen + dropped < THREADS * ITEMS_EACH) {
        struct item item;
        while (queue_take(&shared, &item)) {
            assert_true(item.thread < THREADS);
            assert_true(item.number >= next[item.thread]);
            for (size_t i = 0; i < sizeof(item.ballast); i++)
                assert_int_equal(item.ballast[i], item.thread);
            next[item.thread] = item.number + 1;
            seen++;
        }
        dropped += queue_take_dropped(&shared);
        struct pollfd fd = { .fd = queue_wake_fd(&shared), .events = POLLIN };
        if (seen + dropped < THREADS * ITEMS_EACH && poll(&fd, 1, 1000) == 1)
            queue_awake(&shared);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(seen + dropped, THREADS * ITEMS_EACH);
    assert_true(seen > 0);
    queue_close(&shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_come_in_order_and_overflow_is_counted),
        cmocka_unit_test(a_put_wakes),
        cmocka_unit_test(many_threads_put),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
