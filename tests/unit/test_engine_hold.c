/* `when-deposed: wait`: what a primary had under way, and did not end before it was deposed, is answered by nobody and
 * done by nobody; and how that ends. */
#include "tests/unit/engine_world.h"

#include <errno.h>
#include <string.h>

static struct node_options waits(void)
{
    struct node_options options = automatic;
    options.hold_when_deposed = true;
    return options;
}

/* A is cut off with a write on its own disk, one that waits behind it for their range, and a read; B takes over, and
 * has written there. */
static struct world *open_cut_off(const struct node_options *options)
{
    struct world *w = open_world(options);
    write_block(&w->a, 0, 1);
    calm_both(w);
    assert_int_equal(w->a.completed, 1);
    disconnect_nodes(&w->a, &w->b);
    write_block(&w->a, 0, 2);
    write_block(&w->a, 0, 3);
    request(&w->a, OP_READ, 0);
    wait_ns(w, &w->b, TAKE_AFTER_NS);
    assert_true(w->b.serving);
    write_block(&w->b, 0, 4);
    calm(w, &w->b);
    return w;
}

static struct world *open_deposed(const struct node_options *options)
{
    struct world *w = open_cut_off(options);
    meet_at_last(w);
    assert_true(!w->a.serving && w->b.serving);
    assert_in_sync(&w->a, &w->b);
    assert_true(is_member(w, &w->a) && is_named(w, &w->b));
    assert_int_equal(w->a.content[0], 4);
    return w;
}

static void nobody_hears_of_what_was_under_way(void **state)
{
    struct node_options options = waits();
    struct world *w = open_deposed(&options);
    assert_true(w->a.holds && w->a.completed == 1 && w->a.complete_result == 0);
    assert_int_equal(w->a.completed_held, 3); /* their buffers are free */
    assert_true(view_of(&w->a).held_since_ns);
    /* For as long as nobody ends it, and it is in sync meanwhile. */
    for (unsigned i = 0; i < 100; i++) {
        wait_ns(w, &w->a, NS_PER_S);
        wait_ns(w, &w->b, NS_PER_S);
    }
    assert_true(w->a.holds && w->a.completed == 1 && !w->a.dropped);
    order(&w->a, EV_DEMOTE, false);
    assert_true(!w->a.holds && w->a.order_result == 0 && strstr(w->a.order_text, "ends with an error"));
    assert_false(view_of(&w->a).held_since_ns);
    order(&w->a, EV_DEMOTE, false);
    assert_true(w->a.order_result == 0 && !*w->a.order_text);
    assert_int_equal(w->a.completed, 1);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

static void without_the_setting_it_fails(void **state)
{
    struct world *w = open_deposed(&automatic);
    assert_true(!w->a.holds && w->a.completed == 4 && w->a.complete_result == -EIO);
    assert_false(view_of(&w->a).held_since_ns);
    close_world(w);
}

/* The register says it before the peer does. What its own disk still has ends later, and nobody is told. */
static void the_registers_word_is_enough(void **state)
{
    struct node_options options = waits();
    struct world *w = open_cut_off(&options);
    unsigned with_disk = w->a.disk_count;
    assert_true(with_disk > 0 && w->a.serving);
    while (w->a.serving) {
        if (w->a.asked)
            answer(w, &w->a);
        else
            tick(&w->a, engine_deadline_ns(w->a.engine));
    }
    assert_true(w->a.holds && w->a.completed == 1 && w->a.completed_held > 0);
    assert_int_equal(w->a.disk_count, with_disk); /* nothing is begun by what lets go of a range */
    disks_done(&w->a);
    assert_true(w->a.holds && w->a.completed == 1 && w->a.completed_held == 3);
    assert_int_not_equal(w->a.content[0], 3);
    close_world(w);
}

/* The same without a register: a hello tells. */
static void the_peers_word_is_enough(void **state)
{
    struct node a, b;
    struct node_options options = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE, .hold_when_deposed = true };
    node_open_with(&a, 0, &options);
    node_open_with(&b, 1, &options);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    promote(&b, &a);
    hellos(&a, &b);
    assert_true(a.dropped && b.dropped && !a.serving && b.serving);
    assert_true(a.holds && a.completed == 0 && a.completed_held == 1);
    close_both(&a, &b);
}

/* Who is served later, is served by a front that holds nobody: this ends with ACT_SERVE. */
static void who_serves_again_holds_nobody(void **state)
{
    struct node_options options = waits();
    struct world *w = open_deposed(&options);
    order(&w->b, EV_SWITCHOVER, false);
    calm_both(w);
    assert_true(w->a.serving && !w->a.holds && !w->b.serving);
    assert_false(view_of(&w->a).held_since_ns);
    assert_false(w->b.holds); /* it has handed over, as was ordered, and was not deposed */
    assert_true(w->a.completed == 1 && w->a.content[0] == 4);
    write_block(&w->a, 0, 5);
    calm_both(w);
    assert_true(w->a.completed == 2 && w->a.complete_result == 0);
    assert_in_sync(&w->a, &w->b);
    /* Nor does a demotion hold anybody. */
    order(&w->a, EV_DEMOTE, false);
    calm_both(w);
    assert_true(!w->a.serving && !w->a.holds);
    close_world(w);
}

static void taken_down_it_holds_nobody(void **state)
{
    struct node_options options = waits();
    struct world *w = open_deposed(&options);
    order(&w->a, EV_DETACH, false);
    assert_false(w->a.holds);
    disconnect_nodes(&w->a, &w->b);
    calm(w, &w->a);
    assert_int_equal(w->a.order_result, 0);
    close_world(w);
}

static void fail_after_ends_it(void **state)
{
    struct node_options options = waits();
    options.failover.fail_after_ns = 100 * DEAD_AFTER_NS;
    struct world *w = open_deposed(&options);
    assert_true(w->a.holds);
    uint64_t since_ns = view_of(&w->a).held_since_ns;
    while (w->a.now_ns + DEAD_AFTER_NS < since_ns + options.failover.fail_after_ns) {
        wait_ns(w, &w->a, DEAD_AFTER_NS);
        wait_ns(w, &w->b, DEAD_AFTER_NS);
        assert_true(w->a.holds);
    }
    wait_ns(w, &w->a, since_ns + options.failover.fail_after_ns - w->a.now_ns);
    assert_true(!w->a.holds && w->a.completed == 1 && told(&w->a, "`fail-after`"));
    assert_false(view_of(&w->a).held_since_ns);
    close_world(w);
}

/* Those who were held have gone, by themselves: nothing ends that anybody could be told of. */
static void nobody_is_left(void **state)
{
    struct node_options options = waits();
    options.failover.fail_after_ns = 100 * DEAD_AFTER_NS;
    for (int demoted = 0; demoted < 2; demoted++) {
        struct world *w = open_deposed(&options);
        uint64_t since_ns = view_of(&w->a).held_since_ns;
        assert_true(since_ns);
        step(&w->a, (struct event) { .kind = EV_HELD_GONE });
        assert_false(view_of(&w->a).held_since_ns);
        if (demoted) {
            order(&w->a, EV_DEMOTE, false);
            assert_true(w->a.order_result == 0 && !*w->a.order_text);
        }
        while (w->a.now_ns < since_ns + 2 * options.failover.fail_after_ns) {
            wait_ns(w, &w->a, DEAD_AFTER_NS);
            wait_ns(w, &w->b, DEAD_AFTER_NS);
        }
        assert_false(told(&w->a, "`fail-after`"));
        assert_in_sync(&w->a, &w->b);
        close_world(w);
    }
}

/* By an operator's force what waits fails: he has said so. */
static void what_is_given_up_by_order_fails(void **state)
{
    struct node_options options = waits();
    struct world *w = open_world(&options);
    disconnect_nodes(&w->a, &w->b);
    write_block(&w->a, 0, 1);
    disks_done(&w->a);
    order(&w->a, EV_DEMOTE, true);
    calm(w, &w->a);
    assert_true(!w->a.serving && !w->a.holds && w->a.completed == 1 && w->a.complete_result == -EIO);
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_hears_of_what_was_under_way),
        cmocka_unit_test(without_the_setting_it_fails),
        cmocka_unit_test(the_registers_word_is_enough),
        cmocka_unit_test(the_peers_word_is_enough),
        cmocka_unit_test(who_serves_again_holds_nobody),
        cmocka_unit_test(taken_down_it_holds_nobody),
        cmocka_unit_test(fail_after_ends_it),
        cmocka_unit_test(nobody_is_left),
        cmocka_unit_test(what_is_given_up_by_order_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
