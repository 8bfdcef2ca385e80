/* Two engines, joined by hand: who is told what, in which order, and what must not happen before what. Faults, crashes
 * and random orders of events are the simulator's business (tests/sim). */
#include "tests/unit/engine_pair.h"

#include <errno.h>
#include <string.h>

static void a_change_completes_when_both_legs_have_it(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);

    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    assert_int_equal(a.completed, 0);
    assert_int_equal(deliver(&a, &b).kind, FRAME_DISCARD);
    assert_int_equal(b.sent_count, 0); /* no acknowledgement before the disk has it */
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, 0);

    /* The other way round: the peer is faster than the local disk. */
    request(&a, OP_FLUSH, 0);
    deliver(&a, &b);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.completed, 1);
    disk_done(&a, 0);
    assert_int_equal(a.completed, 2);
    node_close(&a);
    node_close(&b);
}

static void overlapping_changes_and_reads_wait_their_turn(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);

    request(&a, OP_DISCARD, 0);
    request(&a, OP_DISCARD, 0);
    request(&a, OP_READ, 0);
    request(&a, OP_READ, 8192);
    assert_int_equal(a.disk_count, 2); /* the first change, and the read beside it */
    assert_int_equal(a.disk[1].disk.offset_bytes, 8192);
    assert_int_equal(a.sent_count, 1);
    disk_done(&a, 0);
    disk_done(&a, 0);
    assert_int_equal(a.disk_count, 0); /* the peer has not acknowledged: the second one waits, the read behind it too */
    deliver(&a, &b);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.disk[0].disk.kind, OP_DISCARD);
    node_close(&a);
    node_close(&b);
}

static void without_the_peer_changes_wait_and_are_sent_again(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    request(&a, OP_DISCARD, 8192);
    struct frame first = deliver(&a, &b);
    disconnect_nodes(&a, &b);
    while (a.disk_count)
        disk_done(&a, 0);
    assert_int_equal(a.completed, 0);
    /* Reads go on. */
    request(&a, OP_READ, 65536);
    disk_done(&a, 0);
    assert_int_equal(a.completed, 1);

    connect_nodes(&a, &b);
    assert_int_equal(a.sent_count, 2);
    assert_int_equal(a.sent[0].frame.lsn, first.lsn);
    /* The old session's copy is still with B's disk: the new one waits for it, and only the new one is acknowledged. */
    deliver(&a, &b);
    deliver(&a, &b);
    assert_int_equal(b.disk_count, 2);
    disk_done(&b, 0);
    assert_int_equal(b.sent_count, 0);
    assert_int_equal(b.disk_count, 2);
    disk_done(&b, 0);
    disk_done(&b, 0);
    deliver(&b, &a);
    deliver(&b, &a);
    assert_int_equal(a.completed, 3);
    node_close(&a);
    node_close(&b);
}

static void an_epoch_is_persisted_before_it_is_acted_on(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    order(&a, EV_PROMOTE, false);
    deliver(&a, &b);
    assert_int_equal(b.sent_count, 0); /* no agreement before it is on the peer's disk */
    metas_done(&b);
    deliver(&b, &a);
    assert_false(a.serving); /* and no service before it is on our own */
    metas_done(&a);
    assert_true(a.serving);
    assert_int_equal(a.orders_done, 1);
    assert_int_equal(a.order_result, 0);
    node_close(&a);
    node_close(&b);
}

static void of_two_promoted_at_once_one_wins(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    order(&a, EV_PROMOTE, false);
    order(&b, EV_PROMOTE, false);
    metas_done(&a);
    metas_done(&b);
    deliver(&a, &b);
    deliver(&b, &a);
    metas_done(&a);
    metas_done(&b);
    while (a.sent_count || b.sent_count) {
        if (a.sent_count)
            deliver(&a, &b);
        if (b.sent_count)
            deliver(&b, &a);
        metas_done(&a);
        metas_done(&b);
    }
    assert_true(a.serving && !b.serving);
    assert_int_equal(a.order_result, 0);
    assert_int_equal(b.order_result, -EBUSY);
    node_close(&a);
    node_close(&b);
}

static void a_secondary_obeys_one_primary_only(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    order(&b, EV_PROMOTE, false);
    deliver(&b, &a); /* its decree */
    deliver(&a, &b); /* the objection */
    assert_int_equal(b.order_result, -EPERM);
    assert_false(b.serving);
    /* The refused promotion has left no trace: no epoch that would depose the primary when they meet again. */
    assert_false(b.meta_pending);
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    assert_true(a.serving);
    node_close(&a);
    node_close(&b);
}

/* Zeroes that are refused because they would not be fast are refused before the peer hears of them; no leg fails. */
static void fast_zeroes_ask_the_local_disk_first(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    struct event zeroes = { .kind = EV_REQUEST,
                            .request = { .kind = OP_WRITE_ZEROES, .flags = OP_FLAG_FAST_ONLY, .length_bytes = 4096 } };
    step(&a, zeroes);
    assert_int_equal(a.sent_count, 0);
    disk_done(&a, -EOPNOTSUPP);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, -EOPNOTSUPP);
    assert_int_equal(a.sent_count, 0);

    step(&a, zeroes);
    disk_done(&a, 0);
    assert_int_equal(a.completed, 1);
    deliver(&a, &b);
    assert_int_equal(b.disk[0].disk.flags & OP_FLAG_FAST_ONLY, 0);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.completed, 2);
    assert_int_equal(a.complete_result, 0);
    node_close(&a);
    node_close(&b);
}

/* The peer could be promoted in the same session, and would call itself protected by a leg that has failed. */
static void a_leg_that_fails_ends_the_session(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, -EIO);
    assert_true(a.dropped);
    disconnect_nodes(&a, &b);
    assert_int_equal(a.completed, 0); /* it waits: the peer may stand in */
    order(&a, EV_DEMOTE, true);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, -EIO);
    run(&a, &b);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
    node_close(&a);
    node_close(&b);
}

/* A change that waits behind a read, which waits behind a change, which only the local disk is slow with: nothing waits
 * for the peer, the leg stays clean, and so the last one must not reach the disk when the read lets go. */
static void what_a_deposed_primary_lets_go_stays_off_the_disk(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    deliver(&a, &b);
    disk_done(&b, 0);
    deliver(&b, &a); /* the peer has it; our disk is slow */
    step(&a, (struct event) { .kind = EV_REQUEST, .request = { .kind = OP_READ, .length_bytes = 8192 } });
    request(&a, OP_DISCARD, 4096);
    disconnect_nodes(&a, &b);
    promote(&b, &a);
    hellos(&a, &b);
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.completed, 2);
    disk_done(&a, 0);
    assert_int_equal(a.completed, 3);
    assert_int_equal(a.complete_result, -EIO); /* a deposed primary acknowledges nothing */
    node_close(&a);
    node_close(&b);
}

/* While the peer asks to be primary itself, it goes on as secondary; and a session outlives the terms of its primaries.
 */
static void a_refused_promotion_and_a_new_term_disturb_no_session(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    order(&b, EV_PROMOTE, false);
    request(&a, OP_DISCARD, 0);
    deliver(&a, &b);
    disk_done(&a, 0);
    disk_done(&b, 0);
    deliver(&b, &a); /* its decree */
    deliver(&a, &b); /* the objection */
    deliver(&b, &a); /* the acknowledgement */
    assert_int_equal(a.completed, 1);

    order(&a, EV_DEMOTE, false);
    run(&a, &b);
    assert_false(a.serving);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    deliver(&a, &b);
    disk_done(&a, 0);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.completed, 2);
    assert_int_equal(a.complete_result, 0);
    node_close(&a);
    node_close(&b);
}

static void a_promotion_is_called_off_when_the_peer_cannot_be_asked(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    order(&b, EV_PROMOTE, false);
    disconnect_nodes(&a, &b);
    metas_done(&b);
    assert_false(b.serving);
    assert_int_equal(b.order_result, -EBUSY);
    connect_nodes(&a, &b);
    assert_true(a.serving);
    node_close(&a);
    node_close(&b);
}

/* It would serve, and each write would fail. Whatever the peer answers: it was asked before. */
static void a_leg_that_fails_while_its_node_asks_is_not_promoted(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    deliver(&a, &b);
    order(&b, EV_PROMOTE, false);
    uint64_t epoch = b.sent[0].frame.epoch;
    disk_done(&b, -EIO);
    step(&b, (struct event) {
                 .kind = EV_FRAME,
                 .frame = { .frame = { .kind = FRAME_ACK, .epoch = epoch, .tag = UINT32_MAX } },
             });
    metas_done(&b);
    assert_false(b.serving);
    assert_int_equal(b.orders_done, 1);
    assert_int_equal(b.order_result, -EIO);
    assert_non_null(strstr(b.order_text, "the leg of paris-b has failed"));
    order(&b, EV_PROMOTE, false);
    assert_int_equal(b.order_result, -EPERM);
    node_close(&a);
    node_close(&b);
}

/* Who brings both nodes up and promotes one of them is not to know when they have met. */
static void a_promotion_waits_until_the_handshake_is_decided(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    hellos(&a, &b);
    order(&a, EV_PROMOTE, false);
    assert_int_equal(a.orders_done, 0);
    order(&a, EV_DEMOTE, false);
    assert_int_equal(a.order_result, -EBUSY);
    connect_judged(&a, &b);
    run(&a, &b);
    assert_int_equal(a.orders_done, 2);
    assert_int_equal(a.order_result, 0);
    assert_true(a.serving);
    assert_in_sync(&a, &b);
    node_close(&a);
    node_close(&b);
}

/* Refused for what is true then: at once, and not before the refused connection has ended. */
static void a_promotion_that_waits_hears_why_the_handshake_was_refused(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&b, &a);
    disconnect_nodes(&a, &b);
    struct hello of_a, of_b;
    say_hello(&a, &of_a);
    say_hello(&b, &of_b);
    of_b.leg = LEG_FAILED;
    step(&a, (struct event) { .kind = EV_HELLO, .hello = &of_b });
    assert_true(a.refused);
    order(&a, EV_PROMOTE, false);
    assert_int_equal(a.orders_done, 0);
    disconnect_nodes(&a, &a);
    assert_int_equal(a.orders_done, 1);
    assert_int_equal(a.order_result, -EPERM);
    assert_non_null(strstr(a.order_text, "was primary when it was last heard of"));

    of_b.role = ROLE_SECONDARY;
    say_hello(&a, &of_a);
    step(&a, (struct event) { .kind = EV_HELLO, .hello = &of_b });
    order(&a, EV_PROMOTE, false);
    assert_int_equal(a.orders_done, 1);
    disconnect_nodes(&a, &a);
    metas_done(&a);
    assert_true(a.serving);
    assert_int_equal(a.orders_done, 2);
    assert_int_equal(a.order_result, 0);
    node_close(&a);
    node_close(&b);
}

/* What the peer would have said, nobody knows then: an operator decides, who knows that they are apart. */
static void a_promotion_does_not_outlive_the_handshake_that_it_waits_for(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    hellos(&a, &b);
    order(&a, EV_PROMOTE, true);
    disconnect_nodes(&a, &b);
    metas_done(&a);
    assert_int_equal(a.orders_done, 1);
    assert_int_equal(a.order_result, -EBUSY);
    assert_false(a.serving);

    hellos(&a, &b); /* one that hangs */
    order(&a, EV_PROMOTE, false);
    assert_int_equal(a.orders_done, 1);
    uint64_t until_ns = engine_deadline_ns(a.engine);
    assert_true(until_ns > a.now_ns && until_ns - a.now_ns <= 10 * NS_PER_S);
    tick(&a, until_ns);
    assert_int_equal(a.orders_done, 2);
    assert_int_equal(a.order_result, -EBUSY);
    assert_int_equal(engine_deadline_ns(a.engine), UINT64_MAX);

    order(&a, EV_PROMOTE, false);
    order(&a, EV_DETACH, false);
    assert_int_equal(a.orders_done, 3);
    assert_int_equal(a.order_result, -EPERM);
    disconnect_nodes(&a, &b);
    run(&a, &a);
    assert_int_equal(a.orders_done, 4);
    assert_int_equal(a.order_result, 0);
    assert_false(a.serving);
    node_close(&a);
    node_close(&b);
}

/* Two that were promoted apart and are taken down: each still has a change of its own, and only one may send it. */
static void of_two_that_drain_one_is_deposed(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    order(&a, EV_DETACH, false);
    disconnect_nodes(&a, &b);
    disk_done(&a, 0);
    promote(&b, &a);
    request(&b, OP_DISCARD, 0);
    hellos(&a, &b);
    assert_true(a.dropped && b.dropped);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, -EIO);
    assert_int_equal(b.completed, 0);
    /* What is being taken down lets nobody in, and says so: for that the other one waits. */
    disconnect_nodes(&a, &b);
    hellos(&a, &b);
    assert_true(a.refused && strstr(a.text, "is being taken down"));
    node_close(&a);
    node_close(&b);
}

/* At one epoch nobody is deposed: who drains gives way to who serves, or drains, too. Else each would wait for ever for
 * an acknowledgement of the other's, who refuses a second primary. */
static void who_drains_gives_way_to_another_primary(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    order(&a, EV_DEMOTE, false);
    disconnect_nodes(&a, &b);
    struct hello own, theirs;
    say_hello(&a, &own);
    say_hello(&b, &theirs);
    theirs.role = ROLE_PRIMARY;
    assert_int_equal(own.role, ROLE_PRIMARY);
    assert_int_equal(own.epoch, theirs.epoch);
    step(&a, (struct event) { .kind = EV_HELLO, .hello = &theirs });
    assert_true(a.refused);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, -EIO);
    assert_int_equal(a.order_result, -EPERM);
    /* What was given up may be on one leg. */
    metas_done(&a);
    disconnect_nodes(&a, &b);
    say_hello(&a, &own);
    assert_int_equal(own.role, ROLE_SECONDARY);
    assert_int_equal(own.dirty_bytes, CHANGE_BYTES);
    promote(&b, &a);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    node_close(&a);
    node_close(&b);
}

/* A write behind a read of the same blocks has not been sent yet, and needs the peer all the same: found by a demotion
 * that was begun although it could not end. */
static void a_write_that_waits_for_its_range_waits_for_the_peer(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    request(&a, OP_READ, 0);
    request(&a, OP_DISCARD, 0);
    assert_int_equal(view_of(&a).writes_waiting, 1);
    order(&a, EV_DEMOTE, false);
    assert_int_equal(a.order_result, -ENOTCONN);
    assert_true(a.serving);
    disk_done(&a, 0);
    disk_done(&a, 0);
    assert_int_equal(a.completed, 1);
    order(&a, EV_DEMOTE, true);
    run(&a, &b);
    assert_int_equal(a.completed, 2);
    assert_int_equal(a.complete_result, -EIO);
    assert_int_equal(a.order_result, 0);
    node_close(&a);
    node_close(&b);
}

/* Its disk still has a change that was given up when it was deposed. Sent now, that would land on top of what the other
 * node has acknowledged since, which serves no more and would take it. */
static void what_was_given_up_is_not_sent_to_a_later_peer(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    request(&a, OP_DISCARD, 0);
    promote(&b, &a);
    hellos(&a, &b);
    metas_done(&a);
    disconnect_nodes(&a, &b);
    assert_int_equal(a.completed, 0);
    assert_int_equal(view_of(&a).writes_waiting, 0);
    order(&b, EV_DEMOTE, false);
    disk_done(&b, 0);
    metas_done(&b);
    assert_int_equal(b.order_result, 0);
    connect_nodes(&a, &b);
    for (unsigned i = 0; i < a.sent_count; i++)
        assert_int_not_equal(a.sent[i].frame.kind, FRAME_DISCARD);
    run(&a, &b);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, -EIO);
    assert_in_sync(&a, &b);
    node_close(&a);
    node_close(&b);
}

/* The superblock cannot tell it any more; the next hello must all the same. */
static void what_is_detached_is_no_primary(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    order(&a, EV_DETACH, false);
    disk_done(&a, 0); /* its flush */
    assert_true(a.meta_pending);
    meta_done(&a, -EIO);
    assert_int_equal(a.order_result, -EIO);
    struct hello hello;
    say_hello(&a, &hello);
    assert_int_equal(hello.role, ROLE_SECONDARY);
    node_close(&a);
    node_close(&b);
}

/* The application was told of an error, and the legs may differ there: that must outlive the daemon. */
static void a_leg_that_fails_while_it_drains_stays_failed(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    order(&a, EV_DETACH, false);
    deliver(&a, &b);
    disk_done(&b, 0);
    disk_done(&a, -EIO);
    assert_true(a.meta_pending);
    assert_int_equal(a.meta.leg, LEG_FAILED);
    node_close(&a);
    node_close(&b);
}

static void a_detach_drains_over_a_session_of_its_own(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    order(&a, EV_DETACH, false);
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    deliver(&a, &b);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, 0);
    node_close(&a);
    node_close(&b);
}

/* The last session before its end made it the source of a resync, which begins with a flush: that is waited for. */
static void a_detach_leaves_nothing_with_the_disk(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    deliver(&a, &b);
    disk_done(&a, 0);
    disk_done(&b, 0);
    deliver(&b, &a);
    node_lose_power(&b);
    step(&a, (struct event) { .kind = EV_SESSION_DOWN, .down = { .reason = "test" } });
    order(&a, EV_DETACH, false);
    int orders = a.orders_done;
    assert_int_equal(a.disk_count, 1); /* its flush */
    hellos(&a, &b);
    metas_done(&a);
    disk_done(&a, 0);
    assert_int_equal(a.disk_count, 0); /* not another one, for the handshake */
    metas_done(&a);
    assert_int_equal(a.orders_done, orders + 1);
    assert_int_equal(a.order_result, 0);
    assert_true(a.dropped);
    node_close(&a);
    node_close(&b);
}

/* The flush that a demotion waits for was lost with its session, and its own half ends while the next one is being
 * made: bits that were set then would be unknown to both nodes' judgement, and nobody would ever clear them. */
static void a_demotion_sets_no_bits_behind_a_handshake(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    deliver(&a, &b);
    disk_done(&a, 0);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.completed, 1);
    order(&a, EV_DEMOTE, false);
    disconnect_nodes(&a, &b);
    hellos(&a, &b);
    disk_done(&a, 0);
    connect_judged(&a, &b);
    run(&a, &b);
    assert_int_equal(a.order_result, 0);
    assert_int_equal(view_of(&a).role, ROLE_SECONDARY);
    assert_in_sync(&a, &b);
    node_close(&a);
    node_close(&b);
}

/* A read that waits behind a change which fails: the peer, who goes on alone, may not have what it would show. */
static void a_deposed_primary_fails_the_reads_that_wait(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    request(&a, OP_READ, 0);
    promote(&b, &a);
    hellos(&a, &b);
    assert_int_equal(a.completed, 2);
    assert_int_equal(a.complete_result, -EIO);
    assert_int_equal(a.disk_count, 0);
    node_close(&a);
    node_close(&b);
}

/* Promoted apart, both believe in themselves: refused on both sides, and neither can acknowledge anything. */
static void two_primaries_are_refused(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    disconnect_nodes(&a, &b);
    promote(&a, &b);
    promote(&b, &a);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    request(&b, OP_DISCARD, 0);
    disk_done(&b, 0);
    assert_int_equal(a.completed + b.completed, 0);
    node_close(&a);
    node_close(&b);
}

/* Found by killing a primary, promoting its peer, and promoting the restarted one: both served, both at one epoch. */
static void a_refused_node_knows_who_is_primary(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    disconnect_nodes(&a, &b);
    promote(&b, &a);
    a.refused = false;
    struct hello theirs, own;
    say_hello(&a, &own);
    say_hello(&b, &theirs);
    theirs.leg = LEG_FAILED; /* any reason will do */
    step(&a, (struct event) { .kind = EV_HELLO, .hello = &theirs });
    assert_true(a.refused);
    metas_done(&a);
    step(&a, (struct event) { .kind = EV_SESSION_DOWN });

    int orders = a.orders_done;
    order(&a, EV_PROMOTE, false);
    assert_int_equal(a.orders_done, orders + 1);
    assert_int_equal(a.order_result, -EPERM);
    assert_false(a.serving);

    /* Forced, when the other one is out of reach, it takes an epoch that nobody has served at, which deposes that one.
     */
    order(&a, EV_PROMOTE, true);
    metas_done(&a);
    assert_false(a.serving);
    tick(&a, a.now_ns + 10 * NS_PER_S);
    metas_done(&a);
    assert_true(a.serving);
    struct engine_view ours, others;
    engine_view(a.engine, &ours);
    engine_view(b.engine, &others);
    assert_true(ours.epoch > others.epoch);
    say_hello(&a, &own);
    say_hello(&b, &theirs);
    step(&b, (struct event) { .kind = EV_HELLO, .hello = &own });
    assert_false(b.serving);
    node_close(&a);
    node_close(&b);
}

static void a_deposed_primary_stops_serving(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    promote(&b, &a);
    hellos(&a, &b);
    assert_false(a.serving);
    assert_true(b.serving);
    assert_int_equal(a.completed, 1); /* it was never acknowledged: it fails */
    assert_int_equal(a.complete_result, -EIO);
    /* For now: neither waits before the two meet again, as what stood between them is over. */
    assert_true(a.dropped && b.dropped && !a.refused && !b.refused);
    disconnect_nodes(&a, &b);
    metas_done(&a);
    connect_nodes(&a, &b);
    node_close(&a);
    node_close(&b);
}

static void demotion_drains_flushes_and_records(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    order(&a, EV_DEMOTE, false);
    assert_false(a.serving);
    assert_int_equal(a.orders_done, 1); /* the promotion */
    disk_done(&a, 0);
    deliver(&a, &b);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.completed, 1);
    /* Both legs are flushed: then neither can lose what the other keeps, and the activity log is not needed. */
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.disk[0].disk.kind, OP_FLUSH);
    assert_int_equal(a.sent[0].frame.kind, FRAME_FLUSH);
    disk_done(&a, 0);
    deliver(&a, &b);
    assert_int_equal(a.disk_count, 0);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.disk[0].disk.kind, OP_FLUSH);
    assert_false(a.meta_pending); /* not before the flush is done */
    disk_done(&a, 0);
    assert_true(a.meta.al_from > 0);
    metas_done(&a);
    assert_int_equal(a.orders_done, 2);
    promote(&b, &a);
    node_close(&a);
    node_close(&b);
}

static void writes_that_wait_hold_up_a_detach_unless_forced(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    order(&a, EV_DETACH, false);
    assert_int_equal(a.order_result, -ENOTCONN);
    assert_true(a.serving);
    order(&a, EV_DETACH, true);
    assert_int_equal(a.complete_result, -EIO);
    metas_done(&a);
    disk_done(&a, 0);
    metas_done(&a);
    assert_int_equal(a.orders_done, 3);
    assert_int_equal(a.order_result, 0);
    node_close(&a);
    node_close(&b);
}

static void a_failed_leg_acknowledges_nothing(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    request(&a, OP_DISCARD, 8192);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    deliver(&a, &b);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.completed, 1);
    disk_done(&a, -ENOSPC);
    disk_done(&a, 0);
    metas_done(&a);
    assert_int_equal(a.completed, 1); /* the peer has it on its way */
    disconnect_nodes(&a, &b);
    request(&a, OP_DISCARD, 16384);
    assert_int_equal(a.completed, 1);
    order(&a, EV_DEMOTE, false);
    assert_int_equal(a.order_result, -ENOTCONN);
    order(&a, EV_DEMOTE, true);
    assert_int_equal(a.completed, 4);
    assert_int_equal(a.complete_result, -EIO);
    struct engine_view view;
    engine_view(a.engine, &view);
    assert_false(view.in_sync);
    assert_int_equal(view.leg, LEG_FAILED);
    node_close(&a);
    node_close(&b);
}

static void a_failed_leg_of_the_peer_is_like_a_lost_peer(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    deliver(&a, &b);
    disk_done(&b, -EIO);
    deliver(&b, &a);
    assert_true(a.dropped);
    assert_int_equal(a.completed, 0);
    disconnect_nodes(&a, &b);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
    node_close(&a);
    node_close(&b);
}

static void a_superblock_that_cannot_be_written_fails_the_leg(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    order(&a, EV_PROMOTE, false);
    deliver(&a, &b);
    metas_done(&b);
    deliver(&b, &a);
    meta_done(&a, -EIO);
    assert_false(a.serving);
    assert_int_equal(a.order_result, -EIO);
    struct engine_view view;
    engine_view(a.engine, &view);
    assert_int_equal(view.leg, LEG_FAILED);
    node_close(&a);
    node_close(&b);
}

static void a_single_node_serves_alone(void **state)
{
    struct node a;
    node_open(&a, 0, false);
    promote(&a, &a);
    request(&a, OP_DISCARD, 0);
    assert_int_equal(a.sent_count, 0);
    disk_done(&a, 0);
    assert_int_equal(a.completed, 1);
    struct engine_view view;
    engine_view(a.engine, &view);
    assert_false(view.in_sync);
    node_close(&a);
}

static void detach(struct node *n)
{
    order(n, EV_DETACH, false);
    disk_done(n, 0); /* the flush */
    metas_done(n);
    assert_int_equal(n->order_result, 0);
}

/* A pair whose peer was taken out of the configuration for a while: what was written meanwhile, the peer lacks, and no
 * bitmap tells of it. */
static void what_a_node_wrote_on_its_own_its_old_peer_gets(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    detach(&a);

    node_restart(&a, false);
    promote(&a, &a);
    write_block(&a, 0, 7);
    disk_done(&a, 0);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, 0);
    detach(&a);

    node_restart(&a, true);
    connect_nodes(&a, &b);
    assert_true(told(&b, "paris-b gets what it lacks from paris-a: everything is compared"));
    run(&a, &b);
    assert_in_sync(&a, &b);
    node_close(&a);
    node_close(&b);
}

/* Two legs that may differ, and no primary: A, which was it, is the source. */
static void crash_with_differing_legs(struct node *a, struct node *b)
{
    node_open(a, 0, true);
    node_open(b, 1, true);
    connect_nodes(a, b);
    promote(a, b);
    write_block(a, 0, 7);
    disk_done(a, 0);
    node_restart(a, true);
    node_restart(b, true);
    connect_nodes(a, b);
    assert_false(view_of(a).in_sync);
}

/* A promotion at the end of a resync: the target owes two answers, to the question and to the decree that takes it in,
 * and neither passes for the other. */
static void a_promotion_may_cross_with_the_end_of_a_resync(void **state)
{
    struct node a, b;
    crash_with_differing_legs(&a, &b);
    assert_true(run_until_sent(&a, &b, &a, FRAME_DECREE));
    order(&a, EV_PROMOTE, false);
    assert_int_equal(a.sent_count, 2);
    assert_int_equal(deliver(&a, &b).flags, FRAME_FLAG_TAKEN);
    assert_int_equal(deliver(&a, &b).flags, 0);
    run(&a, &b);
    assert_true(a.serving);
    assert_int_equal(a.order_result, 0);
    assert_in_sync(&a, &b);
    node_close(&a);
    node_close(&b);

    /* The question comes first: the leg is taken in at the epoch that follows from the answer. */
    crash_with_differing_legs(&a, &b);
    assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_DONE));
    order(&a, EV_PROMOTE, false);
    deliver(&b, &a);
    assert_int_equal(a.sent_count, 1);
    assert_int_equal(deliver(&a, &b).flags, 0);
    metas_done(&b);
    deliver(&b, &a);
    assert_false(view_of(&a).in_sync); /* the target's leg is not up to date on its disk */
    run(&a, &b);
    assert_true(a.serving);
    assert_in_sync(&a, &b);
    node_close(&a);
    node_close(&b);
}

/* An unclean end while there was a peer is not forgotten by a daemon that is configured without one. */
static void an_unclean_end_outlives_a_time_without_a_peer(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    write_block(&a, 0, 7);
    disk_done(&a, 0);

    node_restart(&a, false);
    detach(&a);
    node_restart(&a, true);
    disconnect_nodes(&b, &b);
    assert_memory_not_equal(a.content, b.content, VOLUME_BYTES);
    connect_nodes(&a, &b);
    assert_false(view_of(&a).in_sync);
    run(&a, &b);
    assert_in_sync(&a, &b);
    node_close(&a);
    node_close(&b);
}

/* A failed write of the secondary is made good by sending it again; a failed flush is not, also when it comes second.
 */
static void a_flush_that_fails_after_a_write_is_not_forgotten(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    request(&a, OP_FLUSH, 0);
    deliver(&a, &b);
    deliver(&a, &b);
    disk_done(&b, -EIO);
    metas_done(&b);
    assert_int_equal(b.meta.leg, LEG_UP_TO_DATE);
    disk_done(&b, -EIO);
    metas_done(&b);
    assert_int_equal(b.meta.leg, LEG_FAILED);
    node_close(&a);
    node_close(&b);
}

/* A demotion that waits for a peer who died meanwhile: by force the node can be taken down nonetheless, also by a
 * daemon that must end. */
static void a_demotion_that_waits_is_no_obstacle_to_force(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    order(&a, EV_DEMOTE, false);
    disconnect_nodes(&a, &b);
    order(&a, EV_DETACH, false);
    assert_int_equal(a.order_result, -ENOTCONN);
    assert_int_equal(a.completed, 0);
    order(&a, EV_DETACH, true);
    assert_int_equal(a.order_result, -EBUSY); /* its role is changing, which now ends by itself */
    assert_int_equal(a.completed, 1);
    metas_done(&a);
    disk_done(&a, 0);
    metas_done(&a);
    order(&a, EV_DETACH, true);
    disk_done(&a, 0);
    metas_done(&a);
    assert_int_equal(a.order_result, 0);
    assert_false(a.meta.attached);
    /* What was given up may be on one leg: the bitmap on disk tells of it. */
    node_restart(&a, true);
    struct hello hello;
    say_hello(&a, &hello);
    assert_int_equal(hello.dirty_bytes, CHANGE_BYTES);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    node_close(&a);
    node_close(&b);
}

/* Nor is a flush failed that came to nothing only because a write had failed before it: that leg is good after down and
 * up. */
static void a_flush_after_a_failed_write_does_not_condemn_the_peer(void **state)
{
    for (int late = 0; late < 2; late++) {
        struct node a, b;
        node_open(&a, 0, true);
        node_open(&b, 1, true);
        connect_nodes(&a, &b);
        promote(&a, &b);
        request(&a, OP_DISCARD, 0);
        request(&a, OP_FLUSH, 0);
        deliver(&a, &b);
        if (!late)
            deliver(&a, &b);
        disk_done(&b, -ENOSPC);
        if (late)
            deliver(&a, &b);
        else
            disk_done(&b, 0);
        deliver(&b, &a);
        deliver(&b, &a);
        assert_true(a.dropped);
        assert_int_equal(a.completed, 0);
        assert_false(a.meta_pending);
        assert_int_not_equal(a.meta.peer_leg, LEG_FAILED);
        node_close(&a);
        node_close(&b);
    }
}

/* What the peer has and this node's disk refused makes the legs differ, whatever role the node has got meanwhile. */
static void a_change_of_its_own_that_fails_after_a_deposition_fails_the_leg_for_good(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    request(&a, OP_DISCARD, 0);
    deliver(&a, &b);
    disk_done(&b, 0);
    deliver(&b, &a);
    disconnect_nodes(&a, &b);
    promote(&b, &a);
    hellos(&a, &b);
    metas_done(&a);
    assert_false(a.serving);
    disk_done(&a, -EIO);
    metas_done(&a);
    assert_int_equal(a.meta.leg, LEG_FAILED);
    node_close(&a);
    node_close(&b);
}

/* Fast zeroes are on the local disk before the peer hears of them: deposed in between, the legs may differ. */
static void fast_zeroes_under_way_at_a_deposition_are_remembered(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    step(&a,
         (struct event) { .kind = EV_REQUEST,
                          .request = { .kind = OP_WRITE_ZEROES, .flags = OP_FLAG_FAST_ONLY, .length_bytes = 4096 } });
    promote(&b, &a);
    hellos(&a, &b);
    metas_done(&a);
    disk_done(&a, 0);
    metas_done(&a);
    assert_int_equal(a.complete_result, -EIO);
    struct hello hello;
    say_hello(&a, &hello);
    assert_int_equal(hello.dirty_bytes, CHANGE_BYTES);
    node_close(&a);
    node_close(&b);
}

/* The peer is just coming back, and has accepted a node that had lost nothing: it must hear that this is no longer so.
 */
static void writes_given_up_while_a_session_is_being_made_end_it(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    a.ready = b.ready = false;
    hellos(&a, &b);
    assert_true(a.ready && b.ready);
    order(&a, EV_DEMOTE, true);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, -EIO);
    assert_true(a.dropped);
    step(&a, (struct event) { .kind = EV_SESSION_UP });
    struct engine_view view;
    engine_view(a.engine, &view);
    assert_false(view.in_sync);
    node_close(&a);
    node_close(&b);
}

/* A hello is on its way when its sender is promoted: the peer would judge what is no longer true. The next one decides,
 * and tells the epoch. */
static void a_hello_that_is_no_longer_true_decides_nothing(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    struct hello of_a, of_b;
    say_hello(&a, &of_a);
    promote(&a, &b);
    step(&b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
    say_hello(&b, &of_b);
    step(&a, (struct event) { .kind = EV_HELLO, .hello = &of_b });
    assert_true(a.dropped && !a.ready);
    metas_done(&b);
    disconnect_nodes(&a, &b);

    connect_nodes(&a, &b);
    request(&a, OP_DISCARD, 0);
    assert_int_equal(deliver(&a, &b).kind, FRAME_DISCARD);
    assert_false(b.dropped);
    node_close(&a);
    node_close(&b);
}

/* A frame that breaks the rules ends the session and changes nothing. */
static void broken_rules_drop_the_session(void **state)
{
    enum { EPOCH = 2 }; /* of the first promotion of a pair */
    static const struct frame bad[] = {
        { .kind = FRAME_DISCARD, .epoch = EPOCH, .offset_bytes = VOLUME_BYTES, .length_bytes = 4096 },
        { .kind = FRAME_DISCARD, .epoch = EPOCH, .offset_bytes = UINT64_MAX - 511, .length_bytes = 4096 },
        { .kind = FRAME_DISCARD, .epoch = EPOCH - 1, .offset_bytes = 0, .length_bytes = 4096 },
        { .kind = FRAME_DISCARD, .epoch = EPOCH + 1, .offset_bytes = 0, .length_bytes = 4096 },
        { .kind = FRAME_DISCARD, .epoch = EPOCH, .offset_bytes = 256, .length_bytes = 4096 },
        { .kind = FRAME_DISCARD, .epoch = EPOCH, .lsn = FRAME_LSN_JUMP_MAX + 1, .length_bytes = 4096 },
        { .kind = FRAME_FLUSH, .epoch = EPOCH, .lsn = FRAME_LSN_MAX },
        { .kind = FRAME_ACK, .epoch = EPOCH, .tag = 3 },
        { .kind = FRAME_ACK, .epoch = EPOCH, .tag = UINT32_MAX - 1 },
        { .kind = FRAME_HELLO },
        { .kind = FRAME_SYNC_BITS },
        { .kind = FRAME_SYNC_ASK, .tag = 1 },
        { .kind = FRAME_SYNC_DATA, .tag = 1 },
        { .kind = FRAME_SYNC_STABLE, .tag = 1 },
        { .kind = FRAME_SYNC_DONE },
        { .kind = FRAME_READ_DATA, .tag = 1 },
        /* Nobody asked to be taken in; and who was, is not again. */
        { .kind = FRAME_DECREE, .flags = FRAME_FLAG_TAKEN, .epoch = EPOCH + 1, .lsn = 1, .offset_bytes = 1 },
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct node a, b;
        node_open(&a, 0, true);
        node_open(&b, 1, true);
        connect_nodes(&a, &b);
        promote(&a, &b);
        step(&b, (struct event) { .kind = EV_FRAME, .frame = { .frame = bad[i] } });
        assert_true(b.dropped);
        assert_int_equal(b.disk_count, 0);
        assert_false(b.meta_pending);
        node_close(&a);
        node_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_change_completes_when_both_legs_have_it),
        cmocka_unit_test(overlapping_changes_and_reads_wait_their_turn),
        cmocka_unit_test(without_the_peer_changes_wait_and_are_sent_again),
        cmocka_unit_test(an_epoch_is_persisted_before_it_is_acted_on),
        cmocka_unit_test(of_two_promoted_at_once_one_wins),
        cmocka_unit_test(a_secondary_obeys_one_primary_only),
        cmocka_unit_test(a_leg_that_fails_ends_the_session),
        cmocka_unit_test(what_a_deposed_primary_lets_go_stays_off_the_disk),
        cmocka_unit_test(fast_zeroes_ask_the_local_disk_first),
        cmocka_unit_test(a_refused_promotion_and_a_new_term_disturb_no_session),
        cmocka_unit_test(a_promotion_is_called_off_when_the_peer_cannot_be_asked),
        cmocka_unit_test(a_leg_that_fails_while_its_node_asks_is_not_promoted),
        cmocka_unit_test(a_promotion_waits_until_the_handshake_is_decided),
        cmocka_unit_test(a_promotion_that_waits_hears_why_the_handshake_was_refused),
        cmocka_unit_test(a_promotion_does_not_outlive_the_handshake_that_it_waits_for),
        cmocka_unit_test(of_two_that_drain_one_is_deposed),
        cmocka_unit_test(who_drains_gives_way_to_another_primary),
        cmocka_unit_test(a_write_that_waits_for_its_range_waits_for_the_peer),
        cmocka_unit_test(what_was_given_up_is_not_sent_to_a_later_peer),
        cmocka_unit_test(what_is_detached_is_no_primary),
        cmocka_unit_test(a_leg_that_fails_while_it_drains_stays_failed),
        cmocka_unit_test(a_detach_drains_over_a_session_of_its_own),
        cmocka_unit_test(a_demotion_sets_no_bits_behind_a_handshake),
        cmocka_unit_test(a_detach_leaves_nothing_with_the_disk),
        cmocka_unit_test(a_deposed_primary_fails_the_reads_that_wait),
        cmocka_unit_test(two_primaries_are_refused),
        cmocka_unit_test(a_refused_node_knows_who_is_primary),
        cmocka_unit_test(a_deposed_primary_stops_serving),
        cmocka_unit_test(demotion_drains_flushes_and_records),
        cmocka_unit_test(writes_that_wait_hold_up_a_detach_unless_forced),
        cmocka_unit_test(a_failed_leg_acknowledges_nothing),
        cmocka_unit_test(a_failed_leg_of_the_peer_is_like_a_lost_peer),
        cmocka_unit_test(a_superblock_that_cannot_be_written_fails_the_leg),
        cmocka_unit_test(a_single_node_serves_alone),
        cmocka_unit_test(what_a_node_wrote_on_its_own_its_old_peer_gets),
        cmocka_unit_test(a_promotion_may_cross_with_the_end_of_a_resync),
        cmocka_unit_test(an_unclean_end_outlives_a_time_without_a_peer),
        cmocka_unit_test(a_flush_that_fails_after_a_write_is_not_forgotten),
        cmocka_unit_test(a_demotion_that_waits_is_no_obstacle_to_force),
        cmocka_unit_test(a_flush_after_a_failed_write_does_not_condemn_the_peer),
        cmocka_unit_test(a_change_of_its_own_that_fails_after_a_deposition_fails_the_leg_for_good),
        cmocka_unit_test(fast_zeroes_under_way_at_a_deposition_are_remembered),
        cmocka_unit_test(writes_given_up_while_a_session_is_being_made_end_it),
        cmocka_unit_test(a_hello_that_is_no_longer_true_decides_nothing),
        cmocka_unit_test(broken_rules_drop_the_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
