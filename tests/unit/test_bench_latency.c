/* Quantiles of latency samples: nearest rank, whatever the order they came in. */
#include "tests/unit/unit.h"

#include "bench/latency.h"

static void one_sample_is_every_quantile(void **state)
{
    uint64_t one[] = { 7 };
    struct latency_summary s = latency_summarise(one, 1);
    assert_int_equal(s.min_ns, 7);
    assert_int_equal(s.p50_ns, 7);
    assert_int_equal(s.p999_ns, 7);
    assert_int_equal(s.max_ns, 7);
    assert_int_equal(s.mean_ns, 7);
}

static void quantiles_are_nearest_rank(void **state)
{
    uint64_t samples[1000];
    for (size_t i = 0; i < 1000; i++)
        samples[i] = (i * 617) % 1000 + 1; /* 1 .. 1000, shuffled: 617 and 1000 have no common factor */
    struct latency_summary s = latency_summarise(samples, 1000);
    assert_int_equal(s.count, 1000);
    assert_int_equal(s.min_ns, 1);
    assert_int_equal(s.p50_ns, 500);
    assert_int_equal(s.p99_ns, 990);
    assert_int_equal(s.p999_ns, 999);
    assert_int_equal(s.max_ns, 1000);
    assert_int_equal(s.mean_ns, 500);
}

static void an_odd_count_has_its_middle_as_median(void **state)
{
    uint64_t samples[] = { 30, 10, 20 };
    struct latency_summary s = latency_summarise(samples, 3);
    assert_int_equal(s.p50_ns, 20);
    assert_int_equal(s.p99_ns, 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_sample_is_every_quantile),
        cmocka_unit_test(quantiles_are_nearest_rank),
        cmocka_unit_test(an_odd_count_has_its_middle_as_median),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
