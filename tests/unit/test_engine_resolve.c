/* A split brain that a person ends: what is kept, what is given up and when, and what stands against it. */
#include "tests/unit/engine_pair.h"

#include <errno.h>
#include <string.h>

#define PATIENCE_NS (2 * NS_PER_S)
#define FILL_BOTH 1
#define FILL_A 0xaa
#define FILL_B 0xbb

static const struct node_options strict = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE };
static const struct node_options alone = {
    .has_peer = true,
    .alone_after_ns = PATIENCE_NS,
    .extent_bytes = 16 * KIB,
    .failover.dead_after_ns = 2 * NS_PER_S,
};

static uint64_t at(unsigned block) { return (uint64_t)block * CHANGE_BYTES; }

static uint8_t content(const struct node *n, unsigned block) { return n->content[at(block)]; }

static void go_alone(struct node *n)
{
    patience_ends(n, PATIENCE_NS);
    run(n, n);
    assert_true(view_of(n).alone_epoch > 0);
}

static void write_alone(struct node *n, unsigned block, uint8_t fill)
{
    int before = n->completed;
    write_block(n, at(block), fill);
    run(n, n);
    assert_int_equal(n->completed, before + 1);
    assert_int_equal(n->complete_result, 0);
}

static void refused(struct node *a, struct node *b, const char *words)
{
    hellos(a, b);
    run(a, b);
    assert_true(a->refused && b->refused);
    if (!strstr(a->text, words))
        fail_msg("%s", a->text);
    disconnect_nodes(a, b);
    run(a, b);
}

/* Block 0 is the same on both; A wrote 1 and 2 alone, B 2 and 3. A is demoted; B goes on, if it serves. */
static void open_split(struct node *a, struct node *b, bool b_serves)
{
    open_promoted(a, b, &alone);
    run(a, b);
    write_block(a, at(0), FILL_BOTH);
    run(a, b);
    request(a, OP_FLUSH, 0);
    run(a, b);
    disconnect_nodes(a, b);
    run(a, b);
    go_alone(a);
    write_alone(a, 1, FILL_A);
    write_alone(a, 2, FILL_A);
    order(b, EV_PROMOTE, true);
    run(b, b);
    go_alone(b);
    write_alone(b, 2, FILL_B);
    write_alone(b, 3, FILL_B);
    order(a, EV_DEMOTE, false);
    run(a, a);
    assert_int_equal(a->order_result, 0);
    if (!b_serves) {
        order(b, EV_DEMOTE, false);
        run(b, b);
    }
    refused(a, b, "resolve gold42 --discard local");
}

/* The order, and all but the peer's hello. */
static void resolve(struct node *n)
{
    n->orders_done = 0;
    order(n, EV_RESOLVE, false);
    run(n, n);
}

static void assert_given_up(struct node *a, struct node *b)
{
    if (a->orders_done != 1 || a->order_result)
        fail_msg("%d: %s", a->order_result, a->order_text);
    assert_int_equal(a->on_disk.leg, LEG_SYNCING);
    connect_nodes(a, b);
    run(a, b);
    assert_in_sync(a, b);
}

static void what_it_has_changed_is_kept_and_the_rest_comes_from_the_other(void **state)
{
    for (int b_serves = 0; b_serves < 2; b_serves++) {
        struct node a, b;
        open_split(&a, &b, b_serves);
        uint64_t epoch = a.on_disk.epoch, own_epoch = a.on_disk.history.entries[1].epoch;
        struct engine_apart apart = view_of(&a).apart;
        assert_string_equal(apart.rule, "split-brain");
        assert_true(apart.own.changed_known && apart.peer.changed_known);
        assert_int_equal(apart.own.changed_bytes, at(2));
        assert_int_equal(apart.peer.changed_bytes, at(2));
        assert_int_equal(apart.differ_bytes_max, at(4));
        assert_int_equal(apart.common_epoch, 1);
        assert_true(apart.own.epoch > 1 && apart.peer.epoch > 1);
        assert_true(apart.own.since_ns > 0 && apart.own.since_ns <= a.now_ns);
        assert_true(apart.peer.since_ns > 0 && apart.peer.since_ns <= a.now_ns);
        resolve(&a);
        assert_int_equal(a.orders_done, 0); /* not before the peer is heard once more */
        assert_true(a.kept_whole);
        assert_true(!a.is_kept[0] && a.is_kept[1] && a.is_kept[2] && !a.is_kept[3]);
        assert_int_equal(a.kept[at(1)], FILL_A);
        assert_int_equal(a.kept[at(2) + CHANGE_BYTES - 1], FILL_A);
        assert_int_equal(a.on_disk.leg, LEG_UP_TO_DATE);
        assert_int_equal(a.on_disk.history.count, 2);
        refused(&a, &b, "split brain");
        assert_int_equal(a.on_disk.history.count, 1);
        assert_int_equal(a.on_disk.epoch, epoch > b.on_disk.epoch ? epoch : b.on_disk.epoch);
        assert_int_equal(a.on_disk.consistent_epoch, own_epoch);
        assert_given_up(&a, &b);
        /* By bits: what neither has changed was not looked at. */
        assert_true(told(&a, "the blocks that may differ are compared"));
        assert_int_equal(content(&a, 1), 0);
        assert_int_equal(content(&a, 2), FILL_B);
        assert_int_equal(content(&a, 3), FILL_B);
        assert_int_equal(content(&b, 0), FILL_BOTH);
        assert_null(view_of(&a).apart.rule);
        close_both(&a, &b);
    }
}

/* Whatever happens in between, the leg is whole, and the order can be given again; or it is given up, and nothing is
 * left to be done. */
static void a_crash_at_any_point_loses_nothing(void **state)
{
    unsigned points = 0, recorded = 0;
    for (unsigned crash_at = 0;; crash_at++) {
        struct node a, b;
        open_split(&a, &b, false);
        uint8_t had[CHANGE_BYTES];
        memcpy(had, a.content + at(1), CHANGE_BYTES);
        a.orders_done = 0;
        order(&a, EV_RESOLVE, false);
        unsigned done = 0;
        bool heard = false;
        while (done < crash_at) {
            if (run_step(&a, &a)) {
                done++;
                continue;
            }
            if (heard)
                break;
            heard = true;
            hellos(&a, &b);
            done++;
        }
        if (done < crash_at) {
            close_both(&a, &b);
            break;
        }
        points++;
        if (crash_at % 2)
            node_lose_power(&a);
        else
            node_restart(&a, true);
        bool given_up = a.on_disk.leg == LEG_SYNCING;
        recorded += given_up;
        if (given_up) {
            assert_true(a.kept_whole);
            assert_memory_equal(a.kept + at(1), had, CHANGE_BYTES);
        } else {
            assert_memory_equal(a.content + at(1), had, CHANGE_BYTES);
            assert_int_equal(a.on_disk.history.count, 2);
            if (b.refused || b.dropped)
                disconnect_nodes(&b, &b);
            refused(&a, &b, "split brain");
            resolve(&a);
            assert_true(a.kept_whole);
            assert_memory_equal(a.kept + at(1), had, CHANGE_BYTES);
            refused(&a, &b, "split brain");
        }
        if (given_up && (b.refused || b.dropped))
            disconnect_nodes(&b, &b);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(content(&a, 2), FILL_B);
        close_both(&a, &b);
    }
    assert_true(points > 6 && recorded > 0 && recorded < points);
}

static void assert_order_refused(struct node *n, int32_t result, const char *words)
{
    resolve(n);
    assert_int_equal(n->orders_done, 1);
    if (n->order_result != result || !strstr(n->order_text, words))
        fail_msg("%d: %s", n->order_result, n->order_text);
}

static void it_is_refused_with_the_reason(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &alone);
    run(&a, &b);
    assert_order_refused(&a, -EPERM, "paris-a is primary");
    assert_order_refused(&b, -EPERM, "there is no split brain: it is connected");
    disconnect_nodes(&a, &b);
    assert_order_refused(&b, -ENOTCONN, "has not been heard of");
    close_both(&a, &b);

    open_split(&a, &b, true);
    assert_order_refused(&b, -EPERM, "paris-b is primary");
    assert_int_equal(a.on_disk.history.count, 2);
    tick(&a, a.now_ns + 20 * NS_PER_S);
    assert_order_refused(&a, -ENOTCONN, "20 s ago");
    refused(&a, &b, "split brain");
    resolve(&a);
    order(&a, EV_RESOLVE, false);
    assert_int_equal(a.order_result, -EBUSY);
    order(&a, EV_PROMOTE, false);
    assert_int_equal(a.order_result, -EBUSY);
    assert_non_null(strstr(a.order_text, "resolve"));
    close_both(&a, &b);

    struct node single;
    node_open(&single, 0, false);
    assert_order_refused(&single, -EPERM, "single node");
    node_close(&single);
}

/* By force two would serve. What the other one is by now, it says every few seconds. */
static void nobody_is_forced_beside_a_primary_in_reach(void **state)
{
    struct node a, b;
    open_split(&a, &b, true);
    int orders = a.orders_done;
    order(&a, EV_PROMOTE, true);
    assert_int_equal(a.orders_done, orders); /* it waits for that */
    refused(&a, &b, "split brain");
    assert_true(a.orders_done == orders + 1 && a.order_result == -EPERM && !a.serving);
    assert_non_null(strstr(a.order_text, "paris-b is primary, as it has just said"));
    assert_non_null(strstr(a.order_text, "Demote it first"));

    order(&b, EV_DEMOTE, false);
    run(&b, &b);
    order(&a, EV_PROMOTE, true); /* what was heard last is not so any more */
    assert_int_equal(a.orders_done, orders + 1);
    disconnect_nodes(&a, &b); /* of a connection that comes to nothing before that, too */
    run(&a, &b);
    assert_int_equal(a.orders_done, orders + 1);
    refused(&a, &b, "split brain");
    assert_true(a.orders_done == orders + 2 && a.order_result == 0 && a.serving);
    close_both(&a, &b);
}

/* It was switched off for this, or the network between them is gone: force is for that, too. Its hellos may come late,
 * where a path of several is silent. */
static void who_is_out_of_reach_is_passed_over_by_force(void **state)
{
    for (int late = 0; late < 2; late++) {
        struct node a, b;
        open_split(&a, &b, true);
        int orders = a.orders_done;
        uint64_t heard_ns = a.now_ns;
        if (late)
            tick(&a, heard_ns + 60 * NS_PER_S);
        order(&a, EV_PROMOTE, true);
        for (unsigned i = 0; i < 1000 && a.now_ns < heard_ns + 18 * NS_PER_S; i++) {
            run(&a, &a);
            assert_false(a.serving);
            assert_true(engine_deadline_ns(a.engine) > a.now_ns);
            tick(&a, engine_deadline_ns(a.engine));
        }
        run(&a, &a);
        assert_true(a.orders_done == orders + 1 && a.order_result == 0 && a.serving);
        close_both(&a, &b);
    }
}

static void nothing_is_given_up_where_it_cannot_be_kept(void **state)
{
    for (int fails = 1; fails <= 3; fails++) { /* at the beginning, in the middle, at the end */
        struct node a, b;
        open_split(&a, &b, false);
        a.orders_done = 0;
        order(&a, EV_RESOLVE, false);
        for (int i = 1; i < fails; i++) {
            disks_done(&a);
            keep_done(&a, 0);
            disks_done(&a);
        }
        keep_done(&a, -ENOSPC);
        /* A file that was begun goes away again. */
        assert_int_equal(a.keep_pending, fails > 1 ? 1 + KEEP_DROP : 0);
        run(&a, &a);
        assert_int_equal(a.orders_done, 1);
        assert_int_equal(a.order_result, -ENOSPC);
        assert_string_equal(a.order_text, "nothing was given up: no room");
        refused(&a, &b, "split brain");
        assert_int_equal(a.on_disk.leg, LEG_UP_TO_DATE);
        assert_int_equal(a.on_disk.history.count, 2);
        close_both(&a, &b);
    }
}

/* What is decided about is the peer of this moment. */
static void the_peer_is_another_one_by_then(void **state)
{
    struct node a, b, c;
    open_split(&a, &b, false);
    resolve(&a);
    node_open_with(&c, 1, &alone); /* B's leg was made anew meanwhile: A's is the only one left */
    c.on_disk.leg_id = id_of(7);
    node_restart(&c, true);
    hellos(&a, &c);
    run(&a, &c);
    assert_int_equal(a.orders_done, 1);
    assert_int_equal(a.order_result, -EBUSY);
    assert_int_equal(a.on_disk.leg, LEG_UP_TO_DATE);
    assert_true(a.kept_whole);
    node_close(&c);
    close_both(&a, &b);

    open_split(&a, &b, false);
    resolve(&a);
    tick(&a, a.now_ns + 29 * NS_PER_S);
    assert_int_equal(a.orders_done, 0);
    tick(&a, a.now_ns + 2 * NS_PER_S);
    assert_int_equal(a.order_result, -ENOTCONN);
    assert_int_equal(a.on_disk.history.count, 2);
    close_both(&a, &b);
}

static void taken_down_in_the_middle_it_ends(void **state)
{
    for (unsigned steps = 0; steps < 5; steps++) {
        struct node a, b;
        open_split(&a, &b, false);
        a.orders_done = 0;
        order(&a, EV_RESOLVE, false);
        for (unsigned i = 0; i < steps; i++)
            run_step(&a, &a);
        order(&a, EV_DETACH, false);
        run(&a, &a);
        assert_int_equal(a.orders_done, 2);
        assert_false(a.on_disk.attached);
        assert_int_equal(a.on_disk.leg, LEG_UP_TO_DATE);
        assert_int_equal(a.on_disk.history.count, 2);
        close_both(&a, &b);
    }
}

/* Without `base` nobody knows what it has changed: all of it is kept, and everything compared. */
static void where_no_bits_tell_everything_is_kept(void **state)
{
    struct node a, b;
    open_split(&a, &b, false);
    order(&a, EV_DETACH, false);
    run(&a, &a);
    a.on_disk.base = (struct history_entry) { 0 };
    node_restart(&a, true);
    refused(&a, &b, "split brain");
    struct engine_apart apart = view_of(&a).apart;
    assert_false(apart.own.changed_known);
    assert_int_equal(apart.own.since_ns, 0); /* another daemon's */
    assert_int_equal(apart.differ_bytes_max, VOLUME_BYTES);
    resolve(&a);
    for (unsigned i = 0; i < VOLUME_BYTES / CHANGE_BYTES; i++)
        assert_true(a.is_kept[i]);
    assert_memory_equal(a.kept, a.content, VOLUME_BYTES);
    refused(&a, &b, "split brain");
    assert_int_equal(view_of(&a).out_of_sync_bytes, VOLUME_BYTES);
    assert_given_up(&a, &b);
    assert_int_equal(content(&a, 1), 0);
    close_both(&a, &b);
}

/* B, primary, loses with its power what A has, and its clients have been told is written; A serves, alone, and shows
 * it; B is forced. A's bits tell what A has changed since. What B has lost, nobody's tell. */
static void open_lost_and_forced(struct node *a, struct node *b)
{
    open_promoted(b, a, &alone);
    run(b, a);
    write_block(b, at(5), FILL_BOTH);
    run(b, a);
    disconnect_nodes(b, a);
    node_lose_power(b);
    assert_int_equal(content(a, 5), FILL_BOTH);
    assert_int_equal(content(b, 5), 0);
    order(a, EV_PROMOTE, true);
    run(a, a);
    go_alone(a);
}

static void what_the_other_one_has_lost_is_kept(void **state)
{
    for (int writes = 0; writes < 2; writes++) {
        struct node a, b;
        open_lost_and_forced(&a, &b);
        if (writes)
            write_alone(&a, 1, FILL_A);
        order(&b, EV_PROMOTE, true);
        run(&b, &b);
        go_alone(&b);
        order(&a, EV_DEMOTE, false);
        run(&a, &a);
        order(&b, EV_DEMOTE, false);
        run(&b, &b);
        refused(&a, &b, "split brain");
        struct engine_apart apart = view_of(&a).apart;
        assert_true(apart.own.changed_known && !apart.peer.changed_known);
        resolve(&a);
        assert_true(a.kept_whole && a.is_kept[5]);
        assert_int_equal(a.kept[at(5)], FILL_BOTH);
        refused(&a, &b, "split brain");
        assert_given_up(&a, &b);
        assert_int_equal(content(&a, 5), 0);
        close_both(&a, &b);
    }
}

/* What was to be kept was asked while both sides' bits told. */
static void the_peer_has_lost_something_by_then(void **state)
{
    for (int forced = 0; forced < 2; forced++) {
        struct node a, b;
        open_split(&a, &b, false);
        resolve(&a);
        assert_true(a.kept_whole);
        order(&b, EV_PROMOTE, true);
        run(&b, &b);
        go_alone(&b);
        node_lose_power(&b);
        if (forced) {
            order(&b, EV_PROMOTE, true);
            run(&b, &b);
            go_alone(&b);
            order(&b, EV_DEMOTE, false);
            run(&b, &b);
        }
        refused(&a, &b, "split brain");
        assert_int_equal(a.orders_done, 1);
        assert_int_equal(a.order_result, -EBUSY);
        assert_non_null(strstr(a.order_text, "order it again"));
        assert_int_equal(a.on_disk.leg, LEG_UP_TO_DATE);
        assert_int_equal(a.on_disk.history.count, 2);
        resolve(&a);
        refused(&a, &b, "split brain");
        assert_true(a.kept_whole && a.is_kept[0]);
        assert_given_up(&a, &b);
        close_both(&a, &b);
    }
}

/* Each operator gives his own side up: nothing is overwritten, and either can be kept yet. */
static void both_are_given_up(void **state)
{
    struct node a, b;
    open_split(&a, &b, false);
    resolve(&a);
    resolve(&b);
    hellos(&a, &b);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    run(&a, &b);
    assert_true(a.kept_whole && b.kept_whole);
    assert_true(a.on_disk.leg == LEG_SYNCING && b.on_disk.leg == LEG_SYNCING);
    refused(&a, &b, "each was given up for the other");
    order(&a, EV_PROMOTE, true);
    run(&a, &a);
    assert_true(a.serving);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(content(&b, 1), FILL_A);
    assert_int_equal(content(&b, 3), 0);
    close_both(&a, &b);
}

/* A path that is down for a moment is no bad sector: without a word of the operator's nothing is given up for it. */
static void what_cannot_be_read_is_given_up_by_force_only(void **state)
{
    struct node a, b;
    open_split(&a, &b, false);
    a.orders_done = 0;
    order(&a, EV_RESOLVE, false);
    keep_done(&a, 0);
    while (a.disk_count)
        disk_done(&a, -EIO);
    run(&a, &a);
    assert_int_equal(a.orders_done, 1);
    assert_int_equal(a.order_result, -EIO);
    assert_non_null(strstr(a.order_text, "8192 bytes could not be read, the first at offset 4096"));
    assert_true(a.kept_whole); /* it may be all that can be had */
    refused(&a, &b, "split brain");
    assert_int_equal(a.on_disk.leg, LEG_UP_TO_DATE);
    assert_int_equal(a.on_disk.history.count, 2);
    resolve(&a);
    refused(&a, &b, "split brain");
    assert_true(a.is_kept[1] && a.is_kept[2]);
    assert_given_up(&a, &b);
    close_both(&a, &b);
}

static void one_bad_sector_takes_no_neighbour_along(void **state)
{
    struct node a, b;
    open_split(&a, &b, false);
    a.orders_done = 0;
    order(&a, EV_RESOLVE, true);
    keep_done(&a, 0);
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.disk[0].disk.length_bytes, at(2));
    disk_done(&a, -EIO);
    assert_int_equal(a.disk[0].disk.length_bytes, at(1));
    disk_done(&a, -EIO);
    run(&a, &a);
    assert_true(!a.is_kept[1] && a.is_kept[2] && a.kept_whole);
    refused(&a, &b, "split brain");
    assert_non_null(strstr(a.order_text, "8192 bytes (of which 4096 could not be read)"));
    assert_given_up(&a, &b);
    close_both(&a, &b);
}

/* Forced half-way out of its resync, or the one that it came from: either can be given up. */
static void a_leg_forced_half_way_can_be_given_up_and_so_can_its_source(void **state)
{
    for (int forced = 0; forced < 2; forced++) {
        struct node a, b;
        open_promoted(&a, &b, &strict);
        write_block(&a, at(1), FILL_A);
        run(&a, &b);
        disconnect_nodes(&a, &b);
        node_lose_power(&b);
        connect_nodes(&a, &b);
        assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_ASK));
        disconnect_nodes(&a, &b);
        order(&b, EV_PROMOTE, true);
        run(&b, &b);
        assert_true(b.serving);
        hellos(&a, &b); /* deposed */
        disconnect_nodes(&a, &b);
        run(&a, &b);
        order(&b, EV_DEMOTE, true);
        run(&b, &b);
        refused(&a, &b, "by force in the middle of its resync");
        struct node *loser = forced ? &b : &a, *other = forced ? &a : &b;
        assert_string_equal(view_of(loser).apart.rule, "forced-half-made");
        uint8_t had = content(other, 1);
        resolve(loser);
        assert_true(loser->kept_whole);
        refused(&a, &b, "by force in the middle of its resync");
        assert_int_equal(loser->order_result, 0);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(content(loser, 1), had);
        close_both(&a, &b);
    }
}

/* The peer's leg is lost before it has given anything: who forces this one's promotion gets all that it had. */
static void a_leg_that_was_given_up_can_be_forced(void **state)
{
    struct node a, b;
    open_split(&a, &b, false);
    resolve(&a);
    refused(&a, &b, "split brain");
    order(&a, EV_PROMOTE, false);
    assert_int_equal(a.order_result, -EPERM);
    order(&a, EV_PROMOTE, true);
    run(&a, &a);
    assert_true(a.serving);
    assert_int_equal(content(&a, 1), FILL_A);
    refused(&a, &b, "split brain");
    close_both(&a, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_it_has_changed_is_kept_and_the_rest_comes_from_the_other),
        cmocka_unit_test(a_crash_at_any_point_loses_nothing),
        cmocka_unit_test(it_is_refused_with_the_reason),
        cmocka_unit_test(nobody_is_forced_beside_a_primary_in_reach),
        cmocka_unit_test(who_is_out_of_reach_is_passed_over_by_force),
        cmocka_unit_test(nothing_is_given_up_where_it_cannot_be_kept),
        cmocka_unit_test(the_peer_is_another_one_by_then),
        cmocka_unit_test(taken_down_in_the_middle_it_ends),
        cmocka_unit_test(where_no_bits_tell_everything_is_kept),
        cmocka_unit_test(what_the_other_one_has_lost_is_kept),
        cmocka_unit_test(the_peer_has_lost_something_by_then),
        cmocka_unit_test(both_are_given_up),
        cmocka_unit_test(what_cannot_be_read_is_given_up_by_force_only),
        cmocka_unit_test(one_bad_sector_takes_no_neighbour_along),
        cmocka_unit_test(a_leg_forced_half_way_can_be_given_up_and_so_can_its_source),
        cmocka_unit_test(a_leg_that_was_given_up_can_be_forced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
