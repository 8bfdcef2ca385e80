/* The moments between two hellos and a session: what each side has on record by then, and what is told if it lasts. */
#include "tests/unit/engine_pair.h"

#include <errno.h>
#include <string.h>

#define PATIENCE_NS (2 * NS_PER_S)
#define LONG_NS (50 * NS_PER_S)
#define TICK_NS (5 * NS_PER_S)

static const struct node_options may_go_alone = { .has_peer = true, .alone_after_ns = PATIENCE_NS };
static const struct node_options strict = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE };

static void wait_long(struct node *n)
{
    for (uint64_t until = n->now_ns + LONG_NS; n->now_ns < until;) {
        tick(n, n->now_ns + TICK_NS);
        metas_done(n);
    }
}

static void last_becomes_first(struct node *n)
{
    assert_int_equal(n->disk_count, 2);
    struct action first = n->disk[0];
    n->disk[0] = n->disk[1];
    n->disk[1] = first;
}

/* The source is lost before it was ready to be one, and the target has nothing on record yet. */
static void who_has_heard_that_it_is_behind_is_not_promoted(void **state)
{
    for (int forced = 0; forced < 2; forced++) {
        struct node a, b;
        open_promoted(&a, &b, &may_go_alone);
        write_block(&a, 0, 1);
        run(&a, &b);
        disconnect_nodes(&a, &b);
        patience_ends(&a, PATIENCE_NS);
        metas_done(&a);
        write_block(&a, 4 * CHANGE_BYTES, 2);
        disks_done(&a);
        assert_int_equal(a.completed, 2);
        hellos(&a, &b);
        metas_done(&a);
        metas_done(&b);
        assert_true(told(&b, "paris-b gets what it lacks from paris-a"));
        assert_int_equal(b.on_disk.leg, LEG_UP_TO_DATE);
        order(&b, EV_PROMOTE, false);
        assert_int_equal(b.order_result, -EPERM);
        disconnect_nodes(&b, &b);
        order(&b, EV_PROMOTE, forced);
        metas_done(&b);
        assert_int_equal(b.order_result, forced ? 0 : -EPERM);
        assert_int_equal(b.serving, forced);
        close_both(&a, &b);
    }
}

static void promote_apart(struct node *x, struct node *y)
{
    node_open_with(x, 0, &strict);
    node_open_with(y, 1, &strict);
    connect_nodes(x, y);
    run(x, y);
    disconnect_nodes(x, y);
    promote(x, x);
    promote(y, y);
    assert_int_equal(x->on_disk.served_epoch, y->on_disk.served_epoch);
}

/* Both were promoted at one epoch, and one gave way before anything came of it. What ends both nodes long after that
 * needs nobody to decide. */
static void a_term_apart_is_forgotten_in_sync(void **state)
{
    for (unsigned who = 0; who < 2; who++) {
        struct node n[2];
        promote_apart(&n[0], &n[1]);
        struct node *x = &n[who], *y = &n[1 - who];
        order(y, EV_DEMOTE, false);
        run(y, y);
        assert_int_equal(y->order_result, 0);
        connect_nodes(&n[0], &n[1]);
        run(&n[0], &n[1]);
        assert_true(x->on_disk.served_epoch > 0);
        assert_int_equal(y->on_disk.served_epoch, 0);
        write_block(x, 0, 7);
        run(&n[0], &n[1]);
        assert_int_equal(x->completed, 1);
        assert_in_sync(&n[0], &n[1]);
        for (unsigned i = 0; i < 2; i++) {
            node_lose_power(&n[i]);
            node_restart(&n[i], true);
        }
        connect_nodes(&n[0], &n[1]);
        run(&n[0], &n[1]);
        assert_true(told(y, "resync: the leg of"));
        assert_in_sync(&n[0], &n[1]);
        close_both(&n[0], &n[1]);
    }
}

/* The same of two fresh legs that become a pair with that. */
static void a_term_apart_is_forgotten_in_a_first_meeting(void **state)
{
    struct node x, y;
    node_open_with(&x, 0, &strict);
    node_open_with(&y, 1, &strict);
    promote(&x, &x);
    promote(&y, &y);
    assert_int_equal(x.on_disk.served_epoch, y.on_disk.served_epoch);
    order(&y, EV_DEMOTE, false);
    run(&y, &y);
    connect_nodes(&x, &y);
    run(&x, &y);
    assert_true(told(&x, "paired with the fresh leg"));
    assert_in_sync(&x, &y);
    assert_true(x.on_disk.served_epoch > 0);
    assert_int_equal(y.on_disk.served_epoch, 0);
    close_both(&x, &y);
}

/* One has lost its power, and knows of a flush of the other one's that failed, of which that has no record. */
static void a_leg_that_a_person_is_to_judge_needs_force(void **state)
{
    for (int forced = 0; forced < 2; forced++) {
        struct node x, y;
        promote_apart(&x, &y);
        node_lose_power(&y);
        y.on_disk.peer_leg = LEG_FAILED;
        node_restart(&x, true);
        node_restart(&y, true);
        hellos(&x, &y);
        assert_true(told(&x, "were both promoted at epoch") && told(&y, "were both promoted at epoch"));
        disconnect_nodes(&x, &y);
        assert_false(x.on_disk.lost_power);
        order(&x, EV_PROMOTE, forced);
        metas_done(&x);
        assert_int_equal(x.order_result, forced ? 0 : -EPERM);
        assert_int_equal(x.serving, forced);
        close_both(&x, &y);
    }
}

static void a_new_leg_that_was_promoted_once_is_new_all_the_same(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_block(&a, 0, 1);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    node_close(&b);
    node_open_with(&b, 1, &strict);
    b.on_disk.leg_id = id_of(9);
    node_restart(&b, true);
    order(&b, EV_PROMOTE, false);
    metas_done(&b);
    assert_true(b.serving);
    order(&b, EV_DEMOTE, false);
    run(&b, &b);
    assert_false(b.serving);
    hellos(&a, &b);
    metas_done(&b);
    assert_true(id_equal(b.on_disk.volume_id, a.on_disk.volume_id));
    assert_int_equal(b.on_disk.leg, LEG_SYNCING);
    close_both(&a, &b);
}

/* A's old disk comes back after another one has been in its place. It has everything, as far as anybody knows, but B
 * has had other blocks since; all of B is to be compared. */
static void the_pair_is_known_by_both_or_by_none(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_block(&a, 0, 1);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    struct id former = b.on_disk.peer_leg_id;
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    write_block(&a, 4 * CHANGE_BYTES, 2);
    disks_done(&a);
    hellos(&a, &b);
    metas_done(&b);
    assert_true(id_equal(b.on_disk.peer_leg_id, former));
    disconnect_nodes(&a, &b);
    a.on_disk.leg_id = id_of(7); /* ... another one, with the history of the first */
    node_restart(&a, true);
    hellos(&a, &b);
    metas_done(&b);
    assert_true(id_equal(b.on_disk.peer_leg_id, former));
    assert_int_equal(b.on_disk.leg, LEG_UP_TO_DATE);
    assert_true(make_ready(&a, &b));
    assert_true(id_equal(b.on_disk.peer_leg_id, id_of(7)));
    assert_int_equal(b.on_disk.leg, LEG_SYNCING);
    assert_true(a.on_disk.full || a.on_disk.peer_leg == LEG_NONE);
    session_up(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* What both had before they parted, the one that went on flushes for its application. The other one, a primary until
 * then, has it in its cache, and no bit says so. */
static void a_resync_of_nothing_flushes_the_target(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_block(&a, 0, 5);
    run(&a, &b);
    assert_int_equal(a.stable[0], 0);
    disconnect_nodes(&a, &b);
    order(&b, EV_PROMOTE, false);
    metas_done(&b);
    assert_true(b.serving);
    patience_ends(&b, PATIENCE_NS);
    metas_done(&b);
    request(&b, OP_FLUSH, 0);
    disks_done(&b);
    assert_int_equal(b.completed, 1);
    hellos(&a, &b);
    assert_true(a.dropped && b.dropped); /* deposed */
    disconnect_nodes(&a, &b);
    metas_done(&a);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(a.stable[0], 5);
    close_both(&a, &b);
}

/* The peer has acknowledged one write that hangs with the own disk, and is lost: another one waits for the flush that
 * this keeps from beginning. */
static void a_disk_that_hangs_before_the_flush_is_told(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_block(&a, 0, 1);
    write_block(&a, 8 * CHANGE_BYTES, 2);
    deliver(&a, &b);
    deliver(&a, &b);
    last_becomes_first(&b);
    disk_done(&b, 0);
    deliver(&b, &a);
    a.hold_disk = true;
    disk_done(&a, 0);
    assert_int_equal(a.disk_count, 1);
    disconnect_nodes(&a, &b);
    wait_long(&a);
    assert_true(told(&a, "which neither answers nor fails"));
    close_both(&a, &b);
}

/* The peer comes back in sync for a moment while the flush before the decree hangs. */
static void a_flush_that_hangs_is_told_after_a_reconnect(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_block(&a, 0, 1);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    tick(&a, a.now_ns + PATIENCE_NS);
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.disk[0].disk.op, ENGINE_OP_OWN_FLUSH);
    hellos(&a, &b);
    metas_done(&a);
    metas_done(&b);
    session_up(&a, &b);
    metas_done(&a);
    metas_done(&b);
    disconnect_nodes(&a, &b);
    write_block(&a, 8 * CHANGE_BYTES, 2);
    last_becomes_first(&a);
    disk_done(&a, 0);
    wait_long(&a);
    assert_true(told(&a, "a flush of"));
    close_both(&a, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_has_heard_that_it_is_behind_is_not_promoted),
        cmocka_unit_test(a_term_apart_is_forgotten_in_sync),
        cmocka_unit_test(a_term_apart_is_forgotten_in_a_first_meeting),
        cmocka_unit_test(a_leg_that_a_person_is_to_judge_needs_force),
        cmocka_unit_test(a_new_leg_that_was_promoted_once_is_new_all_the_same),
        cmocka_unit_test(the_pair_is_known_by_both_or_by_none),
        cmocka_unit_test(a_resync_of_nothing_flushes_the_target),
        cmocka_unit_test(a_disk_that_hangs_before_the_flush_is_told),
        cmocka_unit_test(a_flush_that_hangs_is_told_after_a_reconnect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
