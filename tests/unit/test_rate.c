/* The rate of a resync, as status shows it. */
#include "repl/node/rate.h"

#include "tests/unit/unit.h"

#define S NS_PER_S

static void nothing_is_known_at_first(void **state)
{
    struct rate r = { 0 };
    assert_int_equal(rate_bytes_per_s(&r, 10 * S, 100), 0);
    rate_sample(&r, 10 * S, 100);
    assert_int_equal(rate_bytes_per_s(&r, 10 * S, 100), 0);
    assert_int_equal(rate_bytes_per_s(&r, 11 * S, 100), 0);
    assert_int_equal(rate_bytes_per_s(&r, 11 * S, 100 + MIB), MIB);
}

static void it_is_that_of_the_last_seconds(void **state)
{
    struct rate r = { 0 };
    uint64_t now_ns = S;
    uint64_t done = 0;
    for (unsigned i = 0; i < 1000; i++, now_ns += S / 100, done += MIB) /* 100 MiB/s */
        rate_sample(&r, now_ns, done);
    assert_in_range(rate_bytes_per_s(&r, now_ns, done), 99 * MIB, 101 * MIB);
    for (unsigned i = 0; i < 1000; i++, now_ns += S / 100, done += MIB / 100)
        rate_sample(&r, now_ns, done);
    assert_in_range(rate_bytes_per_s(&r, now_ns, done), 99 * MIB / 100, 101 * MIB / 100);
    /* It stands still: less and less. */
    assert_in_range(rate_bytes_per_s(&r, now_ns + 100 * S, done), 0, MIB / 10);
}

static void another_beginning_forgets(void **state)
{
    struct rate r = { 0 };
    rate_sample(&r, S, 500 * MIB);
    rate_sample(&r, 2 * S, 1000 * MIB);
    rate_sample(&r, 3 * S, 1 * MIB);
    assert_int_equal(r.count, 1);
    assert_int_equal(rate_bytes_per_s(&r, 4 * S, 3 * MIB), 2 * MIB);
    rate_sample(&r, 4 * S + RATE_STALE_NS, 4 * MIB);
    assert_int_equal(r.count, 1);
    rate_reset(&r);
    assert_null(rate_newest(&r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_known_at_first),
        cmocka_unit_test(it_is_that_of_the_last_seconds),
        cmocka_unit_test(another_beginning_forgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
