/* What an operator's order gives up, as the register's history keeps it. */
#include "tests/unit/unit.h"

#include <string.h>

#include "repl/role/loss.h"

static char text[LOSS_TEXT_BYTES];

static const char *of_force(const struct loss_facts *f)
{
    loss_of_force(f, text);
    return text;
}

static void what_is_known_is_said_in_numbers(void **state)
{
    struct decree out = { .epoch = 9, .member_count = 1, .members = { { .node = "paris-a" } } };
    struct loss_facts f = { .node = "paris-b", .peer = "paris-a", .leg = LEG_OUTDATED, .epoch = 7, .lsn = 100 };
    assert_string_equal(of_force(&f),
                        "paris-b is outdated at epoch 7, LSN 100; what it lacks of paris-a is not known here");
    f.stands = &out;
    f.leg = LEG_UP_TO_DATE;
    assert_string_equal(of_force(&f), "paris-b is up-to-date at epoch 7, LSN 100, not in the set of epoch 9; what it "
                                      "lacks of paris-a is not known here");
    f.epoch = 10; /* what the register said last is older than what its primary said */
    assert_string_equal(of_force(&f),
                        "paris-b is up-to-date at epoch 10, LSN 100, not in the set of epoch 9, the last that was "
                        "read here; what it lacks of paris-a is not known here");
    f.epoch = 7;
    strcpy(out.members[0].node, "paris-b");
    f.doubt = LEG_DOUBT_LACKS;
    assert_string_equal(of_force(&f), "paris-b is up-to-date at epoch 7, LSN 100, perhaps without what it had not "
                                      "flushed; what it lacks of paris-a is not known here");
    f.doubt = LEG_DOUBT_DIFFERS;
    f.peer = NULL;
    assert_string_equal(of_force(&f), "paris-b is up-to-date at epoch 7, LSN 100, found by a verify to differ");
}

/* The set has this node's name, and another of its disks. */
static void a_replaced_disk_is_not_in_the_set(void **state)
{
    struct decree d = { .epoch = 9,
                        .member_count = 2,
                        .members = { { .node = "paris-a", .leg_id = { { 1 } } },
                                     { .node = "paris-b", .leg_id = { { 2 } } } } };
    struct loss_facts f = { .node = "paris-b", .leg_id = { { 3 } }, .leg = LEG_OUTDATED, .epoch = 7, .stands = &d };
    assert_string_equal(of_force(&f), "paris-b is outdated at epoch 7, LSN 0, not in the set of epoch 9");
    f.leg_id = d.members[1].leg_id;
    assert_string_equal(of_force(&f), "paris-b is outdated at epoch 7, LSN 0");
    f.leg_id = (struct id) { { 0 } }; /* not known */
    assert_string_equal(of_force(&f), "paris-b is outdated at epoch 7, LSN 0");
    f.node = "paris-c";
    assert_string_equal(of_force(&f), "paris-c is outdated at epoch 7, LSN 0, not in the set of epoch 9");
    d = (struct decree) { 0 };
    assert_null(strstr(of_force(&f), "not in the set"));
}

static void the_bytes_that_are_to_come_are_those_of_a_target(void **state)
{
    struct loss_facts f = {
        .node = "paris-b", .peer = "paris-a", .leg = LEG_SYNCING, .epoch = 7, .lsn = 100, .to_come_bytes = 4096
    };
    assert_string_equal(of_force(&f), "paris-b is syncing at epoch 7, LSN 100; it lacks 4096 bytes, and what came "
                                      "since");
    f.consistent_epoch = 5;
    f.consistent_lsn = 90;
    assert_string_equal(of_force(&f), "paris-b is syncing at epoch 7, LSN 100, consistent at epoch 5, LSN 90; it lacks "
                                      "4096 bytes, and what came since");
    f.leg = LEG_OUTDATED;
    assert_null(strstr(of_force(&f), "4096"));
}

static void what_the_peer_has_changed_alone_is_said_where_it_is_known(void **state)
{
    struct loss_facts f = {
        .node = "paris-b", .peer = "paris-a", .leg = LEG_UP_TO_DATE, .epoch = 7, .lsn = 100, .peer_changed_bytes = 8192
    };
    assert_string_equal(of_force(&f), "paris-b is up-to-date at epoch 7, LSN 100; it lacks what paris-a has changed "
                                      "alone, at most 8192 bytes when that was heard last");
}

/* The register takes a text of this length and no longer. */
static void the_longest_is_cut_off(void **state)
{
    char node[NAME_BYTES_MAX], peer[NAME_BYTES_MAX];
    memset(node, 'a', sizeof(node) - 1);
    memset(peer, 'b', sizeof(peer) - 1);
    node[sizeof(node) - 1] = peer[sizeof(peer) - 1] = 0;
    struct decree d = { .epoch = INT64_MAX };
    struct loss_facts f = { .node = node,
                            .peer = peer,
                            .leg = LEG_SYNCING,
                            .epoch = INT64_MAX,
                            .lsn = UINT64_MAX,
                            .consistent_epoch = INT64_MAX,
                            .consistent_lsn = UINT64_MAX,
                            .to_come_bytes = UINT64_MAX,
                            .stands = &d };
    assert_int_equal(strlen(of_force(&f)), LOSS_TEXT_BYTES - 1);
    /* With names and numbers as they are, all of it fits. */
    f.node = "datacenter-north-storage-12";
    f.epoch = f.consistent_epoch = d.epoch = 12345;
    f.lsn = f.consistent_lsn = 123456789;
    f.to_come_bytes = UINT64_C(1) << 32;
    assert_non_null(strstr(of_force(&f), "what came since"));
}

static void who_adopts_says_over_what(void **state)
{
    struct decree d = { .epoch = 4, .cause = DECREE_TAKE, .primary = "paris-b" };
    loss_of_adopting(&d, 9, text);
    assert_string_equal(text, "over epoch 4 (take), primary paris-b, where epoch 9 was known");
    d.primary[0] = 0;
    loss_of_adopting(&d, 9, text);
    assert_string_equal(text, "over epoch 4 (take), primary nobody, where epoch 9 was known");
    loss_of_adopting(&(struct decree) { 0 }, 9, text);
    assert_string_equal(text, "over no decree, where epoch 9 was known");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_known_is_said_in_numbers),
        cmocka_unit_test(a_replaced_disk_is_not_in_the_set),
        cmocka_unit_test(the_bytes_that_are_to_come_are_those_of_a_target),
        cmocka_unit_test(what_the_peer_has_changed_alone_is_said_where_it_is_known),
        cmocka_unit_test(the_longest_is_cut_off),
        cmocka_unit_test(who_adopts_says_over_what),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
