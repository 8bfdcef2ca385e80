/* Histories: which of two legs is the older one, and when they went apart. */
#include "tests/unit/unit.h"

#include <string.h>

#include "repl/base/units.h"
#include "repl/core/history.h"

/* Entries named by letters: a letter's place is its epoch; upper case: another node's decision on the same epoch. */
static struct history_entry entry(char letter)
{
    bool other = letter < 'a';
    unsigned epoch = (unsigned)(other ? letter - 'A' : letter - 'a') + 1;
    return (struct history_entry) { .epoch = epoch, .first_lsn = epoch * 100, .tag = epoch * 2 + other };
}

static struct history make(const char *letters)
{
    struct history h = { 0 };
    for (; *letters; letters++)
        history_append(&h, entry(*letters));
    return h;
}

static enum history_relation opposite(enum history_relation r)
{
    if (r == HISTORY_ANCESTOR)
        return HISTORY_DESCENDANT;
    return r == HISTORY_DESCENDANT ? HISTORY_ANCESTOR : r;
}

static void relations(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        enum history_relation is;
        int common;
    } cases[] = {
        { "", "", HISTORY_EQUAL, -1 },          { "", "abc", HISTORY_ANCESTOR, -1 },
        { "abc", "abc", HISTORY_EQUAL, 2 },     { "ab", "abc", HISTORY_ANCESTOR, 1 },
        { "abC", "abc", HISTORY_DIVERGED, 1 },  { "abCd", "abcd", HISTORY_EQUAL, 3 },
        { "abD", "abcd", HISTORY_DIVERGED, 1 }, { "AB", "ab", HISTORY_UNRELATED, -1 },
        { "ad", "abcd", HISTORY_EQUAL, 1 },     { "ad", "abcde", HISTORY_ANCESTOR, 1 },
        { "ab", "cd", HISTORY_UNRELATED, -1 },  { "abE", "abc", HISTORY_DIVERGED, 1 },
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct history a = make(cases[i].a), b = make(cases[i].b);
        assert_int_equal(history_relate(&a, &b), cases[i].is);
        assert_int_equal(history_relate(&b, &a), opposite(cases[i].is));
        assert_int_equal(history_last_common(&a, &b), cases[i].common);
        assert_true(history_is_valid(&a) && history_is_valid(&b));
    }
}

static void the_oldest_is_forgotten(void **state)
{
    (void)state;
    struct history h = { 0 }, before = { 0 };
    assert_null(history_last(&h));
    for (uint64_t epoch = 1; epoch <= HISTORY_MAX + 3; epoch++) {
        history_append(&h, (struct history_entry) { .epoch = epoch, .first_lsn = epoch, .tag = epoch });
        if (epoch == HISTORY_MAX)
            before = h;
        assert_int_equal(history_last(&h)->epoch, epoch);
    }
    assert_int_equal(h.count, HISTORY_MAX);
    assert_int_equal(h.entries[0].epoch, 4);
    assert_true(history_is_valid(&h));
    assert_int_equal(history_relate(&before, &h), HISTORY_ANCESTOR);
    struct history old = { 0 };
    history_append(&old, (struct history_entry) { .epoch = 2, .first_lsn = 2, .tag = 2 });
    assert_int_equal(history_relate(&old, &h), HISTORY_UNRELATED);
}

static void what_cannot_be_is_noticed(void **state)
{
    (void)state;
    struct history h = make("abc");
    assert_false(history_may_append(&h, entry('c')));
    assert_false(history_may_append(&h, entry('B')));
    assert_false(history_may_append(&h, (struct history_entry) { .epoch = 9, .first_lsn = 1 }));
    assert_true(history_may_append(&h, entry('d')));

    struct history same_epoch = h;
    same_epoch.entries[2].epoch = 2;
    assert_false(history_is_valid(&same_epoch));
    struct history no_tag = h;
    no_tag.entries[0].tag = 0;
    assert_false(history_is_valid(&no_tag));
    struct history too_many = h;
    too_many.count = HISTORY_MAX + 1;
    assert_false(history_is_valid(&too_many));
}

/* Two nodes that decide alone on the same epoch, with the same first LSN: only the tag tells. */
static void only_the_tag_tells_two_decisions_apart(void **state)
{
    (void)state;
    struct history a = make("ab"), b = make("ab");
    history_append(&a, (struct history_entry) { .epoch = 3, .first_lsn = 7, .tag = 1 });
    history_append(&b, (struct history_entry) { .epoch = 3, .first_lsn = 7, .tag = 2 });
    assert_int_equal(history_relate(&a, &b), HISTORY_DIVERGED);
    assert_false(history_holds(&a, b.entries[2]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(relations),
        cmocka_unit_test(the_oldest_is_forgotten),
        cmocka_unit_test(what_cannot_be_is_noticed),
        cmocka_unit_test(only_the_tag_tells_two_decisions_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
