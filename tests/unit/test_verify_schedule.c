/* When the next verify is due: after restarts, at a time of day, over days that are an hour short or long. */
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <time.h>

#include "repl/node/verify_schedule.h"

#define DAY_S UINT64_C(86400)

static uint64_t local(int month, int day, int hour, int minute)
{
    struct tm t = { .tm_year = 126, .tm_mon = month - 1, .tm_mday = day, .tm_hour = hour, .tm_min = minute };
    t.tm_isdst = -1;
    return (uint64_t)mktime(&t);
}

static const struct volume_config none = { .verify_at_minute = CONFIG_ANY_TIME };
static const struct volume_config weekly = { .verify_every_ns = 7 * DAY_S * NS_PER_S, .verify_at_minute = 3 * 60 };
static const struct volume_config two_hourly = { .verify_every_ns = UINT64_C(7200) * NS_PER_S,
                                                 .verify_at_minute = CONFIG_ANY_TIME };

static void without_a_schedule_there_is_none(void **state)
{
    assert_int_equal(verify_schedule_next_s(&none, 0, local(6, 1, 0, 0)), VERIFY_NEVER_S);
    assert_int_equal(verify_schedule_next_s(&none, 1, local(6, 1, 0, 0)), VERIFY_NEVER_S);
}

static void at_any_time_it_is_due_when_the_time_is_over(void **state)
{
    uint64_t now = local(6, 1, 12, 0);
    assert_int_equal(verify_schedule_next_s(&two_hourly, 0, now), now);
    assert_int_equal(verify_schedule_next_s(&two_hourly, now - 60, now), now - 60 + 7200);
    assert_int_equal(verify_schedule_next_s(&two_hourly, now - 9000, now), now);
    assert_int_equal(verify_schedule_next_s(&two_hourly, now + 30 * DAY_S, now), now + 7200);
}

static void a_time_of_day_is_waited_for(void **state)
{
    /* Never yet: at the next three in the morning, however often the daemon is restarted. */
    assert_int_equal(verify_schedule_next_s(&weekly, 0, local(6, 1, 12, 0)), local(6, 2, 3, 0));
    assert_int_equal(verify_schedule_next_s(&weekly, 0, local(6, 2, 2, 59)), local(6, 2, 3, 0));
    assert_int_equal(verify_schedule_next_s(&weekly, 0, local(6, 2, 3, 0)), local(6, 2, 3, 0));
    assert_int_equal(verify_schedule_next_s(&weekly, 0, local(6, 2, 3, 1)), local(6, 3, 3, 0));
    /* A week after the last one, which began a little late. */
    uint64_t last = local(6, 2, 3, 0) + 20;
    assert_int_equal(verify_schedule_next_s(&weekly, last, last + 1), local(6, 9, 3, 0));
    assert_int_equal(verify_schedule_next_s(&weekly, last, local(6, 9, 2, 0)), local(6, 9, 3, 0));
    /* Missed: the next day, not in the middle of this one. */
    assert_int_equal(verify_schedule_next_s(&weekly, last, local(6, 9, 9, 0)), local(6, 10, 3, 0));
    /* By hand, in the afternoon. */
    assert_int_equal(verify_schedule_next_s(&weekly, local(6, 4, 15, 0), local(6, 4, 16, 0)), local(6, 12, 3, 0));
}

static void clocks_are_put_forward_and_back(void **state)
{
    /* Germany in 2026: 29 March has no 02:30, 25 October has two. */
    struct volume_config daily = { .verify_every_ns = DAY_S * NS_PER_S, .verify_at_minute = 2 * 60 + 30 };
    for (int month = 3; month <= 10; month += 7) {
        uint64_t at = local(month, month == 3 ? 26 : 22, 2, 30);
        for (int i = 0; i < 6; i++) {
            uint64_t next = verify_schedule_next_s(&daily, at, at + 60);
            assert_in_range(next - at, DAY_S - 3600, DAY_S + 3600);
            at = next;
        }
    }
}

/* ---- a plan, kept up while time goes on ---- */

static struct verify_plan plan;
static struct verify_clocks clocks;

static void begin_plan(const struct volume_config *config, uint64_t now_s, uint64_t last_s)
{
    clocks = (struct verify_clocks) { .now_s = now_s, .monotonic_s = 1000, .last_s = last_s };
    verify_plan_make(&plan, config, clocks, false);
}

static bool is_due_after(const struct volume_config *config, uint64_t seconds)
{
    clocks.now_s += seconds;
    clocks.monotonic_s += seconds;
    return verify_plan_is_due(&plan, config, clocks);
}

static void a_verify_that_was_ordered_moves_the_next_one(void **state)
{
    uint64_t now = local(6, 1, 12, 0);
    begin_plan(&two_hourly, now, now - 3600);
    assert_false(is_due_after(&two_hourly, 3599));
    clocks.last_s = clocks.now_s; /* by hand, a second before */
    assert_false(is_due_after(&two_hourly, 1));
    assert_int_equal(plan.next_s, clocks.last_s + 7200);
    assert_false(is_due_after(&two_hourly, 7198));
    assert_true(is_due_after(&two_hourly, 1));
}

static void a_clock_that_is_set_back_costs_no_years(void **state)
{
    uint64_t wrong = local(6, 1, 12, 0) + 3000 * DAY_S;
    begin_plan(&two_hourly, wrong, wrong - 60);
    clocks.now_s -= 3000 * DAY_S;
    assert_false(is_due_after(&two_hourly, 1));
    assert_int_equal(plan.next_s, clocks.now_s + 7200);
    begin_plan(&weekly, wrong, wrong - 60);
    clocks.now_s -= 3000 * DAY_S;
    assert_false(is_due_after(&weekly, 1));
    assert_in_range(plan.next_s, clocks.now_s, clocks.now_s + 8 * DAY_S);
}

static void a_clock_that_is_set_forward_begins_none_at_noon(void **state)
{
    begin_plan(&weekly, local(6, 1, 2, 0), 0);
    assert_int_equal(plan.next_s, local(6, 1, 3, 0));
    clocks.now_s += 10 * UINT64_C(3600);
    assert_false(is_due_after(&weekly, 1));
    assert_int_equal(plan.next_s, local(6, 2, 3, 0));
    /* Nor one for which the daemon had no time. */
    assert_false(is_due_after(&weekly, 18 * UINT64_C(3600)));
    assert_int_equal(plan.next_s, local(6, 3, 3, 0));
    assert_true(is_due_after(&weekly, plan.next_s + 30 - clocks.now_s));
}

static void a_clock_that_is_adjusted_by_little_changes_nothing(void **state)
{
    uint64_t now = local(6, 1, 12, 0);
    begin_plan(&two_hourly, now, now);
    for (int i = 0; i < 60; i++) {
        clocks.now_s++; /* it goes too fast */
        assert_false(is_due_after(&two_hourly, 60));
        assert_int_equal(plan.next_s, now + 7200);
    }
}

static void one_that_was_skipped_waits(void **state)
{
    uint64_t now = local(6, 1, 12, 0);
    begin_plan(&two_hourly, now, 0);
    assert_true(is_due_after(&two_hourly, 0));
    verify_plan_make(&plan, &two_hourly, clocks, true);
    assert_false(is_due_after(&two_hourly, 3599));
    assert_true(is_due_after(&two_hourly, 1));
    begin_plan(&weekly, local(6, 1, 3, 0), 0);
    assert_true(is_due_after(&weekly, 0));
    verify_plan_make(&plan, &weekly, clocks, true);
    assert_int_equal(plan.next_s, local(6, 2, 3, 0));
}

int main(void)
{
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    tzset();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_schedule_there_is_none),
        cmocka_unit_test(at_any_time_it_is_due_when_the_time_is_over),
        cmocka_unit_test(a_time_of_day_is_waited_for),
        cmocka_unit_test(clocks_are_put_forward_and_back),
        cmocka_unit_test(a_verify_that_was_ordered_moves_the_next_one),
        cmocka_unit_test(a_clock_that_is_set_back_costs_no_years),
        cmocka_unit_test(a_clock_that_is_set_forward_begins_none_at_noon),
        cmocka_unit_test(a_clock_that_is_adjusted_by_little_changes_nothing),
        cmocka_unit_test(one_that_was_skipped_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
