/* The last state changes: order, filter by volume, and what a slow follower missed. */
#include "repl/node/events.h"

#include <stdio.h>
#include <time.h>

#include "tests/unit/unit.h"

static void add(struct events *e, const char *volume, unsigned number)
{
    char text[32];
    snprintf(text, sizeof(text), "%u", number);
    struct event_record r;
    event_record_fill(&r, volume, NOTE_WARNING, "link", text);
    events_add(e, &r);
}

/* Not time(): that one lags behind the clock by up to a tick, and a record of a new second is then of the future. */
static uint64_t real_time_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void a_record_is_complete(void **state)
{
    struct event_record r;
    uint64_t before_us = real_time_us();
    event_record_fill(&r, NULL, NOTE_ERROR, "a topic that is too long", "two\nlines");
    uint64_t after_us = real_time_us();
    assert_string_equal(r.volume, "");
    assert_string_equal(r.topic, "a topic that is");
    assert_string_equal(r.text, "two?lines");
    assert_int_equal(r.level, NOTE_ERROR);
    assert_in_range(r.time_us, before_us, after_us);
    assert_string_equal(note_level_name(r.level), "error");
}

static void followers_see_all_or_their_volume(void **state)
{
    struct events e;
    assert_int_equal(events_open(&e), 0);
    uint64_t missed;
    uint64_t all = events_oldest(&e);
    uint64_t only_h = all;
    assert_null(events_next(&e, &all, NULL, &missed));
    add(&e, "g", 1);
    add(&e, "h", 2);
    add(&e, "g", 3);
    for (unsigned i = 1; i <= 3; i++) {
        const struct event_record *r = events_next(&e, &all, NULL, &missed);
        assert_non_null(r);
        assert_int_equal(r->sequence, i);
        assert_int_equal(missed, 0);
    }
    assert_null(events_next(&e, &all, NULL, &missed));
    const struct event_record *r = events_next(&e, &only_h, "h", &missed);
    assert_non_null(r);
    assert_string_equal(r->text, "2");
    assert_null(events_next(&e, &only_h, "h", &missed));
    assert_int_equal(only_h, all);
    events_close(&e);
}

static void what_is_not_kept_is_told(void **state)
{
    struct events e;
    assert_int_equal(events_open(&e), 0);
    uint64_t cursor = events_oldest(&e);
    uint64_t missed;
    for (unsigned i = 1; i <= EVENTS_KEPT + 5; i++)
        add(&e, "g", i);
    const struct event_record *r = events_next(&e, &cursor, NULL, &missed);
    assert_non_null(r);
    assert_int_equal(missed, 5);
    assert_int_equal(r->sequence, 6);
    assert_string_equal(r->text, "6");
    unsigned seen = 1;
    while ((r = events_next(&e, &cursor, NULL, &missed))) {
        assert_int_equal(missed, 0);
        assert_int_equal(r->sequence, 6 + seen);
        seen++;
    }
    assert_int_equal(seen, EVENTS_KEPT);
    events_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_is_complete),
        cmocka_unit_test(followers_see_all_or_their_volume),
        cmocka_unit_test(what_is_not_kept_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
