/* With a register: who serves after which loss, and what is on disk, or in the register, before it (docs/FAILOVER.md).
 */
#include "tests/unit/engine_world.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* It loses its peer, goes on without it, and has a write that b lacks. */
static void a_writes_alone(struct world *w)
{
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    write_block(&w->a, 0, 1);
    calm(w, &w->a);
    assert_true(w->a.completed == 1 && !is_member(w, &w->b));
}

static void a_lost_peer_leaves_the_set_first(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    write_block(&w->a, 0, 1);
    calm(w, &w->a);
    wait_ns(w, &w->a, DEAD_AFTER_NS - 1);
    assert_true(w->a.completed == 0 && is_member(w, &w->b));
    tick(&w->a, w->a.now_ns + 1);
    /* Read, then swapped; acknowledged when the record is on disk. */
    if (w->a.asked->ask == REGISTER_READ)
        answer(w, &w->a);
    assert_int_equal(w->a.asked->ask, REGISTER_SWAP);
    assert_int_equal(w->a.asked->proposal.cause, DECREE_OUT);
    lose_answer(w, &w->a); /* its own tag tells */
    assert_true(w->a.completed == 0 && !is_member(w, &w->b) && w->a.on_disk.peer_in_sync);
    assert_null(w->a.asked);
    tick(&w->a, engine_deadline_ns(w->a.engine));
    answer(w, &w->a);
    assert_int_equal(w->a.completed, 0);
    metas_done(&w->a);
    assert_int_equal(w->a.completed, 1);
    assert_true(!w->a.on_disk.peer_in_sync && w->a.on_disk.epoch == w->row.decree.epoch);
    assert_true(history_last(&w->a.on_disk.history)->tag == w->row.decree.tag);
    /* The other one may not take over, however long. */
    wait_ns(w, &w->b, 10 * TAKE_AFTER_NS);
    assert_false(w->b.serving);
    /* It is back, a target, and then a member again. */
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    assert_true(is_member(w, &w->b));
    assert_int_equal(w->row.decree.cause, DECREE_IN);
    close_world(w);
}

static void a_lost_primary_is_replaced(void **state)
{
    struct world *w = open_world(&automatic);
    write_block(&w->a, 0, 1);
    calm_both(w);
    assert_int_equal(w->a.completed, 1);
    disconnect_nodes(&w->a, &w->b);
    write_block(&w->a, 4096, 2); /* which nobody acknowledges */
    disks_done(&w->a);
    wait_ns(w, &w->b, TAKE_AFTER_NS - 1);
    assert_false(w->b.serving || w->b.on_disk.asked_epoch);
    uint64_t epoch = w->row.decree.epoch;
    tick(&w->b, w->b.now_ns + 1);
    answer(w, &w->b); /* read */
    assert_true(w->b.meta_pending && !w->b.asked);
    meta_done(&w->b, 0);
    assert_true(w->b.on_disk.asked_epoch == epoch);
    assert_int_equal(w->b.asked->proposal.cause, DECREE_TAKE);
    calm(w, &w->b);
    assert_true(w->b.serving && is_named(w, &w->b) && !is_member(w, &w->a));
    assert_true(w->b.on_disk.epoch == epoch + 1 && w->b.on_disk.asked_epoch == 0);
    write_block(&w->b, 8192, 3);
    calm(w, &w->b);
    assert_int_equal(w->b.completed, 1);
    /* The former primary stops, and becomes a target, by bits and by nobody's order. Nobody waits for longer than after
     * any lost connection, and the next hellos but one go on. */
    hellos(&w->a, &w->b);
    assert_true(w->a.dropped && w->b.dropped && !w->a.refused && !w->b.refused);
    disconnect_nodes(&w->a, &w->b);
    calm_both(w);
    assert_true(meet(w));
    assert_true(!w->a.serving && w->a.completed == 2 && w->a.complete_result == -5);
    assert_in_sync(&w->a, &w->b);
    assert_true(is_member(w, &w->a) && is_named(w, &w->b));
    close_world(w);
}

/* The session's end by silence. */
static void fall_silent(struct node *n, uint64_t ns)
{
    n->now_ns += ns;
    step(n, (struct event) { .kind = EV_SESSION_DOWN, .down = { .reason = "test", .heard_ns = n->now_ns - ns } });
}

/* Each has lost the other, and both reach the register: by an end of the connection, or by silence. */
static void a_living_primary_is_first(void **state)
{
    for (int silence = 0; silence < 2; silence++) {
        struct world *w = open_world(&automatic);
        if (silence) {
            fall_silent(&w->a, DEAD_AFTER_NS);
            fall_silent(&w->b, DEAD_AFTER_NS);
        } else {
            disconnect_nodes(&w->a, &w->b);
        }
        for (uint64_t ms = 0; ms < 20000; ms += 50) {
            wait_ns(w, &w->a, 50 * NS_PER_MS);
            wait_ns(w, &w->b, 50 * NS_PER_MS);
        }
        assert_true(w->a.serving && !w->b.serving && is_named(w, &w->a) && !is_member(w, &w->b));
        close_world(w);
    }
}

/* A secondary that comes up meets a primary that has just begun, and is refused. */
static void a_primary_that_has_just_begun_is_heard_of(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->b, DEAD_AFTER_NS);
    struct hello later;
    say_hello(&w->b, &later);
    say_hello(&w->a, &later);
    later.epoch++;
    w->row.decree.epoch++;
    w->row.decree.tag++;
    later.leg = LEG_FAILED;
    step(&w->b, (struct event) { .kind = EV_HELLO, .hello = &later });
    assert_true(w->b.refused);
    disconnect_nodes(&w->b, &w->b);
    wait_ns(w, &w->b, TAKE_AFTER_NS - 1);
    assert_true(!w->b.serving && is_named(w, &w->a) && w->row.decree.cause != DECREE_TAKE);
    wait_ns(w, &w->b, DEAD_AFTER_NS);
    assert_true(w->b.serving);
    close_world(w);
}

/* What has to be flushed before it asks, it flushes while it waits. */
static void a_primary_flushes_while_it_waits(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    flush_done(&w->a, 0);
    tick(&w->a, w->a.now_ns + DEAD_AFTER_NS);
    assert_true(w->a.asked && w->a.disk_count == 0);
    close_world(w);
}

static void a_primary_resumes_by_a_swap_of_its_own(void **state)
{
    struct world *w = open_world(&automatic);
    uint64_t epoch = w->row.decree.epoch;
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    wait_ns(w, &w->a, 0);
    tick(&w->a, w->a.now_ns + NS_PER_MS);
    calm(w, &w->a);
    assert_true(w->a.serving && w->row.decree.epoch == epoch + 1);
    assert_int_equal(w->row.decree.cause, DECREE_RESUME);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    /* Its swap to be rid of the peer is carried out, and it dies before it knows: it makes up for the entry. */
    disconnect_nodes(&w->a, &w->b);
    calm(w, &w->a);
    tick(&w->a, w->a.now_ns + DEAD_AFTER_NS);
    while (w->a.asked->ask == REGISTER_READ)
        answer(w, &w->a);
    lose_answer(w, &w->a);
    uint64_t tag = w->row.decree.tag;
    node_restart(&w->a, true);
    tick(&w->a, w->a.now_ns + NS_PER_MS);
    calm(w, &w->a);
    assert_true(w->a.serving && is_named(w, &w->a) && !is_member(w, &w->b));
    assert_true(history_last(&w->a.on_disk.history)->tag == tag);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* The secondary asks, and nobody knows whether it will get it: the primary makes that void before it goes on with it.
 */
static void who_has_asked_is_answered_by_a_renewal(void **state)
{
    for (int restarts = 0; restarts < 2; restarts++) {
        struct world *w = open_world(&automatic);
        disconnect_nodes(&w->a, &w->b);
        wait_ns(w, &w->b, TAKE_AFTER_NS - 1);
        tick(&w->b, w->b.now_ns + 1);
        answer(w, &w->b);
        metas_done(&w->b);
        assert_int_equal(w->b.asked->ask, REGISTER_SWAP);
        struct register_request late = *w->b.asked;
        answer_with(&w->b, REGISTER_UNREACHABLE);
        if (restarts)
            node_restart(&w->b, true);
        /* The primary did not notice anything. */
        hellos(&w->a, &w->b);
        assert_true(w->a.dropped && w->b.dropped);
        disconnect_nodes(&w->a, &w->b);
        calm(w, &w->a);
        assert_int_equal(w->row.decree.cause, DECREE_RENEW);
        struct register_answer to_late;
        register_row_ask(&w->row, &late, &to_late);
        assert_int_equal(to_late.outcome, REGISTER_LOST);
        meet_at_last(w);
        assert_true(w->a.serving && w->b.on_disk.asked_epoch == 0);
        assert_in_sync(&w->a, &w->b);
        close_world(w);
    }
}

/* Up to the moment at which it has read who serves, and prepares to take that place. */
static void wait_to_take_over(struct world *w)
{
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->b, TAKE_AFTER_NS - 1);
    tick(&w->b, w->b.now_ns + 1);
    answer(w, &w->b);
    assert_true(w->b.meta_pending && !w->b.asked);
}

/* One that cannot record that it asks does not ask. */
static void who_cannot_record_asks_for_nothing(void **state)
{
    struct world *w = open_world(&automatic);
    wait_to_take_over(w);
    meta_done(&w->b, -5);
    for (unsigned i = 0; i < 50; i++) {
        assert_false(w->b.asked && w->b.asked->ask == REGISTER_SWAP);
        wait_ns(w, &w->b, 100 * NS_PER_MS);
    }
    assert_true(is_named(w, &w->a) && !w->b.serving);
    order(&w->b, EV_DETACH, false);
    calm(w, &w->b);
    assert_int_equal(w->b.orders_done, 1);
    close_world(w);
}

/* It is taken down while its record is on the way: nothing was asked, so nothing is to be waited for. */
static void who_is_taken_down_asks_for_nothing(void **state)
{
    struct world *w = open_world(&automatic);
    uint64_t epoch = w->row.decree.epoch;
    wait_to_take_over(w);
    order(&w->b, EV_DETACH, false);
    calm(w, &w->b);
    assert_true(w->b.orders_done == 1 && w->b.order_result == 0);
    assert_true(w->row.decree.epoch == epoch && w->b.on_disk.asked_epoch == 0);
    close_world(w);
}

/* What both had, and B had not flushed, went with B's power. An operator takes B all the same: no bitmap of either leg
 * tells what it lacks. */
static void who_was_forced_is_compared_in_full(void **state)
{
    for (int dies = 0; dies < 2; dies++) {
        struct world *w = open_world(&automatic);
        write_block(&w->a, 0, 7);
        calm_both(w);
        assert_true(w->a.completed == 1 && w->b.content[0] == 7 && w->b.stable[0] == 0);
        disconnect_nodes(&w->a, &w->b);
        node_lose_power(&w->b);
        calm(w, &w->b);
        order(&w->b, EV_PROMOTE, true);
        if (dies) { /* before it knows that it has it */
            while (!w->b.asked || w->b.asked->ask == REGISTER_READ) {
                metas_done(&w->b);
                if (w->b.asked && w->b.asked->ask == REGISTER_READ)
                    answer(w, &w->b);
            }
            lose_answer(w, &w->b);
        } else {
            calm(w, &w->b);
        }
        assert_non_null(strstr(w->note, "paris-b is up-to-date at epoch "));
        assert_non_null(strstr(w->note, ", perhaps without what it had not flushed; what it lacks of paris-a"));
        if (dies) {
            node_restart(&w->b, true);
            tick(&w->b, w->b.now_ns + NS_PER_MS);
            calm(w, &w->b);
            assert_string_equal(w->note, ""); /* a decree that gives up nothing */
        }
        assert_true(w->b.serving && !w->b.on_disk.lost_power);
        assert_int_equal(w->row.decree.cause, dies ? DECREE_RESUME : DECREE_FORCE);
        meet_at_last(w);
        assert_true(told(&w->b, "everything is compared"));
        assert_in_sync(&w->a, &w->b);
        close_world(w);
    }
}

/* The register's history says what is known of the loss when one is forced that is half old, half new; and its operator
 * is told the same first. */
static void who_is_forced_half_made_says_how_much_is_missing(void **state)
{
    struct world *w = open_world(&automatic);
    a_writes_alone(w);
    hellos(&w->a, &w->b);
    connect_judged(&w->a, &w->b);
    assert_true(run_until_sent(&w->a, &w->b, &w->b, FRAME_SYNC_ASK));
    disconnect_nodes(&w->a, &w->b);
    while (view_of(&w->b).witness.decree.epoch != w->row.decree.epoch)
        wait_ns(w, &w->b, NS_PER_S);
    struct engine_view had = view_of(&w->b);
    assert_true(had.leg == LEG_SYNCING && had.consistent_epoch && had.consistent_epoch < had.epoch);
    char told_before[LOSS_TEXT_BYTES];
    engine_loss_of_force(w->b.engine, &had, told_before);
    order(&w->b, EV_PROMOTE, true);
    calm(w, &w->b);
    assert_true(w->b.serving && w->row.decree.cause == DECREE_FORCE);
    char says[2 * REGISTER_REASON_BYTES];
    snprintf(says, sizeof(says),
             "paris-b is syncing at epoch %llu, LSN %llu, consistent at epoch %llu, LSN %llu, not in the set of epoch "
             "%llu; it lacks %u bytes, and what came since",
             (unsigned long long)had.epoch, (unsigned long long)had.lsn, (unsigned long long)had.consistent_epoch,
             (unsigned long long)had.consistent_lsn, (unsigned long long)w->row.decree.epoch - 1, CHANGE_BYTES);
    assert_string_equal(w->note, says);
    assert_string_equal(w->note, told_before); /* to who orders it */
    close_world(w);
}

/* The leg that the primary serves through loses its power: whether it counts as it is, an operator decides. */
static void a_sole_leg_that_lost_power_is_not_taken(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    node_lose_power(&w->b);
    w->row.decree.member_count = 1; /* as "leg-out" leaves it */
    w->row.decree.members[0].leg_id = w->b.on_disk.leg_id;
    strcpy(w->row.decree.members[0].node, "paris-b");
    wait_ns(w, &w->b, 10 * TAKE_AFTER_NS);
    assert_true(!w->b.serving && is_named(w, &w->a));
    order(&w->b, EV_PROMOTE, true);
    calm(w, &w->b);
    assert_true(w->b.serving && w->row.decree.cause == DECREE_FORCE);
    close_world(w);
}

/* Alone, then its peer's resync: up to the moment at which it asks for it to be taken in. It says a hello on the way.
 */
static void run_until_in_is_asked(struct world *w)
{
    struct hello early;
    a_writes_alone(w);
    hellos(&w->a, &w->b);
    connect_judged(&w->a, &w->b);
    say_hello(&w->a, &early);
    run_until_asks(w, &w->a, DECREE_IN);
}

/* It does not know whether its peer is a member; that one does, and has taken over since. */
static void a_hello_of_a_later_primary_stops_first(void **state)
{
    struct world *w = open_world(&automatic);
    run_until_in_is_asked(w);
    lose_answer(w, &w->a);
    struct hello later;
    say_hello(&w->b, &later);
    disconnect_nodes(&w->a, &w->b);
    write_block(&w->a, 4096, 2);
    later.role = ROLE_PRIMARY;
    later.epoch = w->row.decree.epoch + 1;
    step(&w->a, (struct event) { .kind = EV_HELLO, .hello = &later });
    assert_true(w->a.dropped && strstr(w->a.text, "changed since it said hello"));
    disconnect_nodes(&w->a, &w->a);
    if (w->a.asked)
        answer_with(&w->a, REGISTER_UNREACHABLE);
    metas_done(&w->a);
    disks_done(&w->a);
    assert_true(!w->a.serving && w->a.completed == 2 && w->a.complete_result == -5);
    close_world(w);
}

/* With the register out of reach the new one becomes a target while the set has the old one: who has to leave is the
 * old one still, as soon as there is somebody to ask. */
static void the_leg_before_a_new_one_leaves_the_set(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    replace_disk(&w->b);
    calm_without_register(&w->b);
    join_the_new_leg(w);
    disconnect_nodes(&w->a, &w->b);
    write_block(&w->a, 0, 1);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    assert_true(w->a.completed == 1 && w->row.decree.member_count == 1 && is_member(w, &w->a));
    calm_without_register(&w->b);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    assert_true(is_member(w, &w->b));
    close_world(w);
}

/* A witness that has started anew waits for the word of a node that cannot give it before it has a session: nothing is
 * asked of it that would be in the way of that one. */
static void a_witness_that_has_started_anew_keeps_nobody_apart(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    struct decree d = w->row.decree;
    register_row_start(&w->row, "gold42", w->row.volume_id, &d);
    replace_disk(&w->b);
    for (unsigned tries = 0; tries < 40 && !meet(w); tries++) {
        assert_int_not_equal(w->row.decree.epoch, 0);
        wait_ns(w, &w->a, DEAD_AFTER_NS / 4);
        wait_ns(w, &w->b, DEAD_AFTER_NS / 4);
    }
    wait_ns(w, &w->b, DEAD_AFTER_NS);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    calm_both(w);
    assert_true(w->row.confirmed && w->a.serving && is_member(w, &w->a));
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* Its leg fails between asking and the answer. */
static void a_failed_leg_is_not_served(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    tick(&w->a, w->a.now_ns + NS_PER_MS);
    answer_with(&w->a, REGISTER_UNREACHABLE);
    metas_done(&w->a);
    tick(&w->a, w->a.now_ns + DEAD_AFTER_NS); /* it flushes what it may have to take over with */
    assert_true(w->a.disk_count == 1);
    run_until_asks(w, &w->a, DECREE_RESUME);
    flush_done(&w->a, -5);
    metas_done(&w->a);
    answer(w, &w->a);
    calm(w, &w->a);
    assert_true(!w->a.serving && is_named(w, &w->a) && w->a.on_disk.epoch == w->row.decree.epoch);
    assert_int_equal(view_of(&w->a).role, ROLE_SECONDARY);
    wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
    assert_true(w->b.serving && is_named(w, &w->b));
    close_world(w);
}

/* The same by force, which accepts what the leg lacks, and not that it has just failed: before the question leaves, or
 * before its answer is there. */
static void a_failed_leg_is_not_served_by_force(void **state)
{
    for (int sent = 0; sent < 2; sent++) {
        struct world *w = open_world(&automatic);
        disconnect_nodes(&w->a, &w->b);
        node_lose_power(&w->b);
        wait_ns(w, &w->b, NS_PER_MS);
        tick(&w->b, w->b.now_ns + DEAD_AFTER_NS); /* it flushes what it may have to take over with */
        assert_true(w->b.disk_count == 1);
        order(&w->b, EV_PROMOTE, true);
        while (!w->b.asked || w->b.asked->ask == REGISTER_READ) {
            if (w->b.asked)
                answer(w, &w->b);
            if (!sent && w->b.meta_pending)
                break;
            metas_done(&w->b);
        }
        flush_done(&w->b, -5);
        if (sent) {
            assert_int_equal(w->b.asked->proposal.cause, DECREE_FORCE);
            metas_done(&w->b);
        }
        calm(w, &w->b);
        assert_true(w->row.decree.cause == (sent ? DECREE_FORCE : DECREE_FIRST));
        assert_true(!w->b.serving && view_of(&w->b).role == ROLE_SECONDARY);
        assert_int_equal(w->b.on_disk.leg, LEG_FAILED);
        assert_true(w->b.orders_done == 1 && w->b.order_result == -EIO);
        assert_non_null(strstr(w->b.order_text, sent ? "and the witness names it" : "its leg has failed: mend"));

        order(&w->b, EV_PROMOTE, true); /* ... nor when that is known */
        wait_ns(w, &w->b, DEAD_AFTER_NS);
        assert_true(w->b.orders_done == 2 && w->b.order_result == -EPERM && !w->b.serving);
        node_restart(&w->b, true); /* its disk is well again: who is named serves, alone in the set */
        wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
        assert_true(w->b.serving == sent && w->b.on_disk.lost_power != sent);
        order(&w->b, EV_PROMOTE, true);
        wait_ns(w, &w->b, DEAD_AFTER_NS);
        assert_true(w->b.serving && w->b.order_result == 0);
        close_world(w);
    }
}

/* Its swap was carried out, and its peer knows that before it does itself. */
static void who_is_told_of_its_own_decree_goes_on(void **state)
{
    struct world *w = open_world(&automatic);
    wait_to_take_over(w);
    metas_done(&w->b);
    write_block(&w->a, 0, 1);
    wait_ns(w, &w->a, DEAD_AFTER_NS - 1);
    tick(&w->a, w->a.now_ns + 1);
    run_until_asks(w, &w->a, DECREE_OUT);
    lose_answer(w, &w->a);
    answer(w, &w->b); /* it has lost */
    metas_done(&w->b);
    assert_true(w->b.on_disk.epoch == w->row.decree.epoch && w->a.on_disk.epoch < w->b.on_disk.epoch);
    hellos(&w->a, &w->b);
    assert_true(w->a.serving && w->a.completed == 0 && w->a.dropped);
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    assert_true(w->a.serving && w->a.completed == 1 && w->a.complete_result == 0 && !is_member(w, &w->b));
    close_world(w);
}

/* Nobody is left behind from a leg that has failed. */
static void a_failed_leg_does_not_stay_alone_in_the_set(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true); /* so that it does not know whether the peer can stand in */
    calm(w, &w->a);
    tick(&w->a, w->a.now_ns + NS_PER_MS);
    calm(w, &w->a);
    assert_true(w->a.serving);
    while (w->a.now_ns < 4 * DEAD_AFTER_NS + NS_PER_S) {
        calm_without_register(&w->a);
        tick(&w->a, engine_deadline_ns(w->a.engine));
    }
    write_block(&w->a, 0, 1);
    calm_without_register(&w->a);
    write_block(&w->a, 4096, 2);
    disk_done(&w->a, -5);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    assert_true(is_member(w, &w->a) && is_member(w, &w->b));
    assert_true(w->a.completed == 2 && w->a.complete_result == -5);
    close_world(w);
}

/* The other order: it had asked already. */
static void who_is_alone_with_a_failed_leg_fails_what_waits(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    calm(w, &w->a);
    write_block(&w->a, 0, 1);
    tick(&w->a, w->a.now_ns + DEAD_AFTER_NS);
    run_until_asks(w, &w->a, DECREE_OUT);
    lose_answer(w, &w->a);
    disk_done(&w->a, -5);
    metas_done(&w->a);
    assert_int_equal(w->a.completed, 0);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    assert_true(w->a.completed == 1 && w->a.complete_result == -5);
    close_world(w);
}

/* The peer is lost while a primary drains: it leaves the set as at any other time. */
static void who_drains_goes_on_alone(void **state)
{
    static const enum event_kind kinds[] = { EV_DETACH, EV_DEMOTE };
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        struct world *w = open_world(&automatic);
        write_block(&w->a, 0, 1);
        order(&w->a, kinds[i], false);
        disconnect_nodes(&w->a, &w->b);
        wait_ns(w, &w->a, 3 * DEAD_AFTER_NS);
        assert_true(w->a.completed == 1 && w->a.complete_result == 0);
        assert_true(w->a.orders_done == 2 && w->a.order_result == 0 && !is_member(w, &w->b));
        close_world(w);
    }
}

/* Without the register nobody hears that nobody is to serve. */
static void a_demotion_that_nobody_hears_of_ends(void **state)
{
    struct world *w = open_world(&automatic);
    order(&w->a, EV_DEMOTE, false);
    run(&w->a, &w->b);
    for (uint64_t until_ns = w->a.now_ns + 60 * NS_PER_S; w->a.now_ns < until_ns;) {
        calm_without_register(&w->a);
        tick(&w->a, engine_deadline_ns(w->a.engine));
    }
    assert_true(w->a.orders_done == 2 && w->a.order_result == -ETIMEDOUT);
    assert_non_null(strstr(w->a.order_text, "but the witness does not answer: test, and has not heard"));
    assert_true(!w->a.serving && is_named(w, &w->a));
    /* Until it does, status says so, and what can be done. */
    struct engine_view view;
    engine_view(w->a.engine, &view);
    assert_true(!view.in_sync && strstr(view.why_not, "waits for the witness to hear that nobody is to serve"));
    order(&w->a, EV_ADOPT, false); /* ... which would have it serve again */
    assert_true(w->a.orders_done == 3 && w->a.order_result == -EBUSY);
    assert_non_null(strstr(w->a.order_text, "was demoted, and waits to tell the witness: `lockstep down --force`"));
    order(&w->a, EV_PROMOTE, false);
    assert_true(w->a.orders_done == 4 && w->a.order_result == -EPERM);
    assert_non_null(strstr(w->a.order_text, "lockstep down --force"));
    order(&w->a, EV_SWITCHOVER, false);
    assert_true(w->a.orders_done == 5 && w->a.order_result == -EPERM);
    assert_non_null(strstr(w->a.order_text, "the witness does not help"));
    order(&w->a, EV_DETACH, false);
    disconnect_nodes(&w->a, &w->b);
    calm_without_register(&w->a);
    assert_true(w->a.orders_done == 6 && w->a.order_result == 0 && strstr(w->a.order_text, "witness"));
    assert_true(!w->a.on_disk.attached && is_named(w, &w->a));
    close_world(w);
}

/* It answers, and does not do it: the order's answer has its reason. */
static void a_demotion_that_is_not_taken_says_why(void **state)
{
    struct world *w = open_world(&automatic);
    order(&w->a, EV_DEMOTE, false);
    run(&w->a, &w->b);
    while (w->a.orders_done < 2) {
        metas_done(&w->a);
        disks_done(&w->a);
        if (w->a.asked && w->a.asked->ask == REGISTER_READ)
            answer(w, &w->a);
        else if (w->a.asked)
            answer_with(&w->a, REGISTER_REFUSED);
        else
            tick(&w->a, engine_deadline_ns(w->a.engine));
    }
    assert_int_equal(w->a.order_result, -ETIMEDOUT);
    assert_non_null(strstr(w->a.order_text, "but the witness does not take it: test, and has not heard"));
    /* And it tells it as soon as it is taken. */
    calm(w, &w->a);
    wait_ns(w, &w->a, NS_PER_S);
    assert_true(w->row.decree.cause == DECREE_NOBODY && !w->a.serving);
    close_world(w);
}

/* A promotion was asked for, and its node has died since: nobody serves, and the two find each other all the same. */
static void who_has_asked_and_died_withdraws(void **state)
{
    struct node_options manual = automatic;
    manual.failover.automatic = false;
    struct world *w = open_world(&manual);
    order(&w->a, EV_DEMOTE, false);
    calm_both(w);
    assert_int_equal(w->row.decree.cause, DECREE_NOBODY);
    order(&w->b, EV_PROMOTE, false);
    disconnect_nodes(&w->a, &w->b);
    while (!w->b.asked || w->b.asked->ask == REGISTER_READ) {
        metas_done(&w->b);
        if (w->b.asked && w->b.asked->ask == REGISTER_READ)
            answer(w, &w->b);
    }
    assert_int_equal(w->b.asked->proposal.cause, DECREE_PROMOTE);
    struct register_request late = *w->b.asked;
    node_restart(&w->b, true);
    assert_int_not_equal(w->b.on_disk.asked_epoch, 0);
    tick(&w->b, w->b.now_ns + NS_PER_MS);
    calm(w, &w->b);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    assert_true(!w->a.serving && !w->b.serving && !*w->row.decree.primary && w->row.decree.member_count == 2);
    struct register_answer to_late;
    register_row_ask(&w->row, &late, &to_late);
    assert_int_equal(to_late.outcome, REGISTER_LOST);
    order(&w->a, EV_PROMOTE, false);
    disconnect_nodes(&w->a, &w->b);
    calm_both(w);
    assert_true(w->a.serving);
    close_world(w);
}

/* What it asked for is void by decrees of its peer's, of which it has heard in refusals only. */
static void what_cannot_be_granted_any_more_keeps_no_split_brain(void **state)
{
    struct world *w = open_world(&automatic);
    a_writes_alone(w);
    order(&w->b, EV_PROMOTE, true);
    wait_ns(w, &w->b, TAKE_AFTER_NS);
    write_block(&w->b, 0, 2);
    calm(w, &w->b);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    assert_true(w->a.completed == 1 && w->b.completed == 1 && w->b.serving && !w->a.serving);
    order(&w->a, EV_PROMOTE, true);
    for (unsigned i = 0; i < 10 && (!w->a.asked || w->a.asked->ask == REGISTER_READ); i++) {
        metas_done(&w->a);
        if (w->a.asked && w->a.asked->ask == REGISTER_READ)
            answer(w, &w->a);
        else if (!w->a.asked)
            tick(&w->a, engine_deadline_ns(w->a.engine));
    }
    assert_non_null(w->a.asked);
    assert_int_equal(w->a.asked->proposal.cause, DECREE_FORCE);
    node_restart(&w->a, true);
    assert_int_equal(w->a.on_disk.asked_epoch, w->row.decree.epoch);
    order(&w->b, EV_DEMOTE, false);
    calm(w, &w->b);
    order(&w->b, EV_PROMOTE, false);
    calm(w, &w->b);
    for (unsigned i = 0; i < 4; i++) {
        hellos(&w->a, &w->b);
        disconnect_nodes(&w->a, &w->b);
        wait_ns(w, &w->b, DEAD_AFTER_NS);
        wait_ns(w, &w->a, DEAD_AFTER_NS);
    }
    hellos(&w->a, &w->b);
    assert_non_null(strstr(w->a.text, "split brain"));
    disconnect_nodes(&w->a, &w->b);
    assert_true(w->a.on_disk.asked_epoch && w->b.serving && is_named(w, &w->b));
    order(&w->a, EV_RESOLVE, false);
    assert_int_equal(w->a.order_result, 0);
    assert_int_not_equal(w->a.keep_pending, 0);
    close_world(w);
}

/* `witness` is taken out of the configuration: what was asked of it keeps nobody apart. */
static void what_was_asked_of_a_register_that_is_gone(void **state)
{
    struct world *w = open_world(&automatic);
    wait_to_take_over(w);
    metas_done(&w->b);
    w->a.options.failover.has_register = w->b.options.failover.has_register = false;
    node_restart(&w->a, true);
    node_restart(&w->b, true);
    assert_int_not_equal(w->b.on_disk.asked_epoch, 0);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* What keeps the two apart for now is told, and forgotten when it is over. */
static void what_is_waited_for_is_told(void **state)
{
    struct world *w = open_world(&automatic);
    wait_to_take_over(w);
    metas_done(&w->b);
    answer_with(&w->b, REGISTER_UNREACHABLE);
    hellos(&w->a, &w->b);
    assert_true(w->a.dropped && w->b.dropped);
    disconnect_nodes(&w->a, &w->b);
    assert_non_null(strstr(view_of(&w->a).why_not, "has asked the witness to take over"));
    assert_non_null(strstr(view_of(&w->b).why_not, "has asked the witness to take over"));
    assert_true(told(&w->a, "has asked the witness to take over"));
    calm(w, &w->a); /* a renewal */
    assert_null(strstr(view_of(&w->a).why_not, "has asked"));
    calm(w, &w->b);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

static void orders_are_answered_with_what_is_true(void **state)
{
    struct world *w = open_world(&automatic);
    order(&w->b, EV_PROMOTE, true);
    calm(w, &w->b);
    assert_true(w->b.order_result < 0 && strstr(w->b.order_text, "the peer is primary"));
    disconnect_nodes(&w->a, &w->b);
    order(&w->b, EV_PROMOTE, false);
    order(&w->b, EV_DEMOTE, false);
    assert_true(w->b.order_result < 0 && strstr(w->b.order_text, "being promoted"));
    close_world(w);
}

/* While the witness is asked, an order with force neither loses it to one without, nor lends it. */
static void orders_with_and_without_force_are_not_one(void **state)
{
    for (int force = 0; force < 2; force++) {
        struct world *w = open_world(&automatic);
        disconnect_nodes(&w->a, &w->b);
        order(&w->b, EV_PROMOTE, force);
        w->b.order_result = 1;
        order(&w->b, EV_PROMOTE, force); /* waits with the first */
        assert_int_equal(w->b.order_result, 1);
        order(&w->b, EV_PROMOTE, !force);
        assert_int_equal(w->b.order_result, -EBUSY);
        assert_non_null(
            strstr(w->b.order_text, force ? "being promoted with --force" : "being promoted without --force"));
        close_world(w);
    }
}

/* Force is for what is refused, and would follow; not for what is late. */
static void a_promotion_that_is_late_is_no_refusal(void **state)
{
    struct node_options manual = automatic;
    manual.failover.automatic = false;
    for (int sent = 0; sent < 2; sent++) {
        struct world *w = open_world(&manual);
        disconnect_nodes(&w->a, &w->b);
        if (sent) {
            wait_ns(w, &w->b, TAKE_AFTER_NS);
            order(&w->b, EV_PROMOTE, false);
            for (unsigned i = 0; i < 1000 && !(w->b.asked && w->b.asked->ask == REGISTER_SWAP); i++) {
                metas_done(&w->b);
                if (w->b.asked && w->b.asked->ask == REGISTER_READ)
                    answer(w, &w->b);
            }
            assert_true(w->b.asked && w->b.asked->ask == REGISTER_SWAP);
        } else {
            order(&w->b, EV_PROMOTE, false);
        }
        w->b.order_result = 0;
        tick(&w->b, w->b.now_ns + 60 * NS_PER_S); /* the register says nothing */
        assert_int_equal(w->b.order_result, -ETIMEDOUT);
        assert_non_null(strstr(w->b.order_text, sent ? "does not answer what it was asked" : "turn in time"));
        close_world(w);
    }
}

/* Its primary was refused once, for a reason that is over, and is lost: a member needs no force. */
static void who_refused_a_primary_is_promoted_without_force(void **state)
{
    struct node_options manual = automatic;
    manual.failover.automatic = false;
    struct world *w = open_world(&manual);
    disconnect_nodes(&w->a, &w->b);
    struct hello of_a;
    say_hello(&w->b, &of_a);
    say_hello(&w->a, &of_a);
    of_a.leg = LEG_FAILED;
    step(&w->b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
    assert_true(w->b.refused);
    disconnect_nodes(&w->b, &w->b);
    wait_ns(w, &w->b, TAKE_AFTER_NS);
    order(&w->b, EV_PROMOTE, false);
    wait_ns(w, &w->b, TAKE_AFTER_NS);
    assert_true(w->b.serving && w->b.order_result == 0);
    close_world(w);
}

/* Demoted in the middle of a resync: that goes on between two secondaries, and its end is the register's to hear. */
static void a_secondary_takes_in_whom_it_has_resynced(void **state)
{
    struct world *w = open_world(&automatic);
    a_writes_alone(w);
    hellos(&w->a, &w->b);
    connect_judged(&w->a, &w->b);
    order(&w->a, EV_DEMOTE, false);
    for (unsigned i = 0; i < 1000 && w->row.decree.cause != DECREE_NOBODY; i++) {
        if (w->a.asked)
            answer(w, &w->a);
        else
            assert_true(run_step(&w->a, &w->b));
    }
    assert_int_equal(w->row.decree.cause, DECREE_NOBODY);
    calm_both(w);
    if (w->a.dropped || w->b.dropped) {
        disconnect_nodes(&w->a, &w->b);
        meet_at_last(w);
    }
    assert_true(!w->a.serving && !*w->row.decree.primary);
    assert_true(w->row.decree.cause == DECREE_IN && is_member(w, &w->b));
    assert_in_sync(&w->a, &w->b);
    order(&w->b, EV_PROMOTE, false);
    disconnect_nodes(&w->a, &w->b);
    calm_both(w);
    assert_true(w->b.serving);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* The source dies between "in" and its word: the target finds itself in the register. Not so one whose daemon has
 * restarted, nor one that was not done. */
static void a_target_that_is_done_is_taken_by_either_word(void **state)
{
    enum { DIES, DIES_BEFORE_IT_IS_DONE, TARGET_RESTARTS, SOURCE_COMES_BACK, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct world *w = open_world(&automatic);
        a_writes_alone(w);
        hellos(&w->a, &w->b);
        connect_judged(&w->a, &w->b);
        for (unsigned i = 0; i < 1000; i++) {
            bool asks_in = w->a.asked && w->a.asked->ask == REGISTER_SWAP;
            if (asks_in || (kind == DIES_BEFORE_IT_IS_DONE && w->b.content[0] == 1))
                break;
            if (w->a.asked)
                answer(w, &w->a);
            else if (w->b.asked)
                answer(w, &w->b);
            else
                assert_true(run_step(&w->a, &w->b));
        }
        if (kind == DIES_BEFORE_IT_IS_DONE) {
            assert_true(!w->a.asked || w->a.asked->ask == REGISTER_READ);
        } else {
            assert_int_equal(w->a.asked->proposal.cause, DECREE_IN);
            lose_answer(w, &w->a);
            assert_true(is_member(w, &w->b) && w->b.on_disk.leg == LEG_SYNCING);
        }
        uint64_t epoch = w->row.decree.epoch;
        disconnect_nodes(&w->a, &w->b);
        if (kind == TARGET_RESTARTS)
            node_restart(&w->b, true);
        for (unsigned i = 0; i < 100; i++)
            wait_ns(w, &w->b, 100 * NS_PER_MS);
        if (kind == DIES_BEFORE_IT_IS_DONE || kind == TARGET_RESTARTS) {
            assert_true(!w->b.serving && w->b.on_disk.leg == LEG_SYNCING && is_named(w, &w->a));
            close_world(w);
            continue;
        }
        assert_true(w->b.serving && w->b.on_disk.leg == LEG_UP_TO_DATE && is_named(w, &w->b));
        assert_int_equal(w->row.decree.cause, DECREE_TAKE);
        assert_int_equal(w->row.decree.epoch, epoch + 1);
        if (kind == SOURCE_COMES_BACK) { /* it makes up for the same entry, and is an ancestor */
            write_block(&w->b, 4096, 2);
            calm(w, &w->b);
            node_restart(&w->a, true);
            meet_at_last(w);
            assert_true(w->a.content[4096] == 2 && w->b.content[0] == 1);
            assert_in_sync(&w->a, &w->b);
        }
        close_world(w);
    }
}

/* The set has the leg that was there before the present one, also after a restart of the primary, which resumes with
 * the set as it stands: that leg may be back any time. */
static void who_resumes_beside_a_leg_of_before_puts_it_out(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    replace_disk(&w->b);
    calm_without_register(&w->b);
    join_the_new_leg(w);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    tick(&w->a, w->a.now_ns + NS_PER_MS);
    calm(w, &w->a);
    assert_true(w->a.serving && w->row.decree.cause == DECREE_RESUME && w->row.decree.member_count == 2);
    write_block(&w->a, 0, 1);
    calm(w, &w->a);
    assert_true(w->a.completed == 0);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    assert_true(w->a.completed == 1 && w->row.decree.member_count == 1 && is_member(w, &w->a));
    calm_without_register(&w->b);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* The volume gets a witness when one of its nodes has gone on alone. */
static struct world *open_without_decree(void)
{
    static struct world w;
    static const struct node_options unwitnessed = { .has_peer = true, .alone_after_ns = DEAD_AFTER_NS };
    memset(&w, 0, sizeof(w));
    register_row_start(&w.row, "gold42", (struct id) { { 0 } }, NULL);
    open_promoted(&w.a, &w.b, &unwitnessed);
    calm_both(&w);
    disconnect_nodes(&w.a, &w.b);
    write_block(&w.a, 0, 1);
    wait_ns(&w, &w.a, 2 * DEAD_AFTER_NS);
    assert_int_equal(w.a.completed, 1);
    w.a.options = w.b.options = automatic;
    node_restart(&w.a, true);
    node_restart(&w.b, true);
    tick(&w.a, w.a.now_ns + NS_PER_MS);
    tick(&w.b, w.b.now_ns + NS_PER_MS);
    calm_both(&w); /* the witness knows what both know */
    assert_true(w.row.confirmed);
    return &w;
}

/* While the witness is asked, a resync of the leg that is to serve begins, or it hears that it is behind. */
static void a_promotion_is_looked_at_again(void **state)
{
    for (int lost = 0; lost < 2; lost++) {
        struct world *w = open_without_decree();
        order(&w->b, EV_PROMOTE, false);
        assert_non_null(w->b.asked);
        assert_int_equal(w->b.orders_done, 0);
        hellos(&w->a, &w->b);
        calm(w, &w->a);
        metas_done(&w->b);
        if (lost) {
            disconnect_nodes(&w->a, &w->b);
        } else {
            step(&w->b, (struct event) { .kind = EV_PEER_READY });
            metas_done(&w->b);
            assert_int_equal(w->b.on_disk.leg, LEG_SYNCING);
        }
        answer(w, &w->b);
        metas_done(&w->b);
        if (!lost) {
            disconnect_nodes(&w->a, &w->b); /* it was waited for what comes of the handshake */
            calm(w, &w->b);
        }
        assert_false(w->b.serving);
        assert_true(w->b.orders_done == 1 && w->b.order_result < 0);
        close_world(w);
    }
}

/* The primary asks for the first decree, and is demoted before it knows its end. */
static void a_demotion_waits_for_the_first_decree(void **state)
{
    struct world *w = open_pair(&automatic);
    order(&w->a, EV_PROMOTE, false);
    run_until_asks(w, &w->a, DECREE_FIRST);
    lose_answer(w, &w->a);
    order(&w->a, EV_DEMOTE, false);
    run(&w->a, &w->b);
    assert_true(!w->a.serving && w->a.orders_done == 1);
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->a, TAKE_AFTER_NS);
    assert_true(w->a.orders_done == 2 && w->a.order_result == 0);
    assert_true(!w->a.serving && w->row.decree.cause == DECREE_NOBODY && !*w->row.decree.primary);
    wait_ns(w, &w->a, 2 * TAKE_AFTER_NS);
    assert_false(w->a.serving);
    close_world(w);
}

/* The one that the register names does not reach it, and meets the other one, who does, again and again. */
static void who_wants_to_take_over_has_the_time_for_it(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    calm_without_register(&w->a);
    hellos(&w->a, &w->b);
    calm_without_register(&w->a);
    calm(w, &w->b);
    connect_judged(&w->a, &w->b);
    run(&w->a, &w->b);
    for (unsigned i = 0; i < 200 && !w->b.dropped; i++) {
        wait_ns(w, &w->b, 50 * NS_PER_MS);
        tick(&w->a, w->a.now_ns + 50 * NS_PER_MS);
        calm_without_register(&w->a);
        run(&w->a, &w->b);
    }
    assert_true(w->b.dropped && !w->b.serving);
    disconnect_nodes(&w->a, &w->b);
    /* Each step of its way to the decree takes as long as the other one's next hello. */
    for (unsigned i = 0; i < 20 && !w->b.serving; i++) {
        struct hello of_a;
        say_hello(&w->a, &of_a);
        say_hello(&w->b, &(struct hello) { 0 });
        step(&w->b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
        metas_done(&w->b);
        assert_true(w->b.dropped || w->b.refused);
        disconnect_nodes(&w->b, &w->b);
        tick(&w->b, w->b.now_ns + 50 * NS_PER_MS);
        if (w->b.disk_count)
            disk_done(&w->b, 0);
        else if (w->b.asked)
            answer(w, &w->b);
        metas_done(&w->b);
    }
    assert_true(w->b.serving && is_named(w, &w->b));
    close_world(w);
}

/* The last flush of a demotion fails: what it drops, the peer has. */
static void a_leg_that_fails_at_the_end_leaves_the_set(void **state)
{
    struct world *w = open_world(&automatic);
    write_block(&w->a, 0, 1);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    order(&w->a, EV_DEMOTE, false);
    while (w->a.meta_pending || w->a.disk_count == 0) {
        if (w->a.asked)
            answer(w, &w->a);
        metas_done(&w->a);
    }
    flush_done(&w->a, -5);
    calm(w, &w->a);
    assert_true(w->row.decree.cause == DECREE_NOBODY && !*w->row.decree.primary);
    assert_true(!is_member(w, &w->a) && is_member(w, &w->b));
    assert_int_equal(w->a.orders_done, 2);
    /* Its disk has forgotten that, and took nothing up of what was to be recorded. */
    w->a.on_disk.leg = LEG_UP_TO_DATE;
    node_restart(&w->a, true);
    calm(w, &w->a);
    order(&w->a, EV_PROMOTE, false);
    wait_ns(w, &w->a, 2 * TAKE_AFTER_NS);
    assert_true(!w->a.serving && w->a.order_result < 0);
    order(&w->b, EV_PROMOTE, false);
    wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
    assert_true(w->b.serving && w->b.order_result == 0);
    close_world(w);
}

/* Its leg has left the set, it has heard that from the register, and does not know why any more. */
static void who_is_no_member_lets_nobody_in(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    write_block(&w->a, 0, 1);
    metas_done(&w->a);
    disks_done(&w->a);
    node_restart(&w->a, true);
    struct decree *d = &w->row.decree;
    *d = (struct decree) { .epoch = d->epoch + 1, .tag = d->tag + 1, .cause = DECREE_LEG_OUT, .member_count = 1 };
    strcpy(d->primary, "paris-a");
    strcpy(d->members[0].node, "paris-b");
    d->members[0].leg_id = w->b.on_disk.leg_id;
    calm(w, &w->a);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    assert_false(w->a.serving);
    bool counted_in = false;
    for (unsigned i = 0; i < 20; i++) {
        calm_without_register(&w->a);
        calm_without_register(&w->b);
        hellos(&w->a, &w->b);
        counted_in |= strstr(w->a.text, "has to leave the in-sync set first") != NULL;
        assert_true(w->a.dropped || w->b.dropped || w->a.refused || w->b.refused);
        disconnect_nodes(&w->a, &w->b);
        tick(&w->a, w->a.now_ns + DEAD_AFTER_NS / 4);
    }
    assert_true(counted_in);
    close_world(w);
}

/* ... and where its hello is refused for something else. */
static void a_later_primary_of_another_build_stops_first(void **state)
{
    struct world *w = open_world(&automatic);
    run_until_in_is_asked(w);
    lose_answer(w, &w->a);
    struct hello later;
    say_hello(&w->b, &later);
    disconnect_nodes(&w->a, &w->b);
    write_block(&w->a, 4096, 2);
    later.role = ROLE_PRIMARY;
    later.epoch = w->row.decree.epoch + 1;
    later.version++;
    say_hello(&w->a, &(struct hello) { 0 });
    step(&w->a, (struct event) { .kind = EV_HELLO, .hello = &later });
    disconnect_nodes(&w->a, &w->a);
    if (w->a.asked)
        answer_with(&w->a, REGISTER_UNREACHABLE);
    metas_done(&w->a);
    disks_done(&w->a);
    assert_true(!w->a.serving && w->a.completed == 2 && w->a.complete_result == -5);
    close_world(w);
}

/* A person has decided, by force; from then on the register says whose leg counts. */
static void a_person_decides_once(void **state)
{
    struct node_options manual = automatic;
    manual.failover.automatic = false;
    struct world *w = open_world(&manual);
    order(&w->a, EV_DEMOTE, false);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    node_lose_power(&w->b);
    calm(w, &w->b);
    struct hello of_a;
    say_hello(&w->a, &of_a);
    of_a.differs = true;
    say_hello(&w->b, &(struct hello) { 0 });
    step(&w->b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
    assert_true(w->b.refused && strstr(w->b.text, "a person decides"));
    disconnect_nodes(&w->b, &w->b);
    order(&w->b, EV_PROMOTE, true);
    wait_ns(w, &w->b, TAKE_AFTER_NS);
    assert_true(w->b.serving && w->row.decree.cause == DECREE_FORCE);
    order(&w->b, EV_DEMOTE, false);
    wait_ns(w, &w->b, TAKE_AFTER_NS);
    order(&w->b, EV_PROMOTE, false);
    wait_ns(w, &w->b, TAKE_AFTER_NS);
    assert_true(w->b.serving && w->b.order_result == 0);
    close_world(w);
}

/* A split brain: A went on alone, and B was forced and serves. By force A would take its clients from it, unasked. */
static void who_serves_in_reach_is_not_passed_over_by_force(void **state)
{
    struct world *w = open_world(&automatic);
    a_writes_alone(w);
    order(&w->b, EV_PROMOTE, true);
    wait_ns(w, &w->b, DEAD_AFTER_NS);
    assert_true(w->b.serving && w->row.decree.cause == DECREE_FORCE);
    write_block(&w->b, 0, 2);
    wait_ns(w, &w->b, 2 * DEAD_AFTER_NS);
    assert_int_equal(w->b.completed, 1);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    assert_false(w->a.serving);
    meet(w);
    assert_true(view_of(&w->a).apart.rule != NULL);
    for (int demoted = 0; demoted < 2; demoted++) {
        int orders = w->a.orders_done;
        if (demoted) {
            order(&w->b, EV_DEMOTE, false);
            wait_ns(w, &w->b, DEAD_AFTER_NS);
        }
        order(&w->a, EV_PROMOTE, true);
        wait_ns(w, &w->a, DEAD_AFTER_NS);
        assert_true(w->a.orders_done == orders && !w->a.serving);
        meet(w);
        wait_ns(w, &w->a, DEAD_AFTER_NS);
        assert_true(w->a.orders_done == orders + 1 && w->a.serving == demoted);
        assert_true(w->a.order_result == (demoted ? 0 : -EPERM) && is_named(w, demoted ? &w->a : &w->b));
    }
    close_world(w);
}

/* What it makes up for after a restart costs no wait. */
static void who_has_to_record_first_resumes_at_once(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    calm(w, &w->a);
    tick(&w->a, w->a.now_ns + DEAD_AFTER_NS);
    while (w->a.asked->ask == REGISTER_READ)
        answer(w, &w->a);
    lose_answer(w, &w->a);
    node_restart(&w->a, true);
    tick(&w->a, w->a.now_ns + NS_PER_MS);
    answer(w, &w->a);
    assert_true(w->a.meta_pending && !w->a.asked);
    meta_done(&w->a, 0);
    assert_non_null(w->a.asked);
    calm(w, &w->a);
    assert_true(w->a.serving);
    close_world(w);
}

/* A handshake hangs: the peer never says that it is ready. */
static void what_waits_beside_a_handshake_fails_too(void **state)
{
    struct node_options options = automatic;
    options.failover.fail_after_ns = 4 * DEAD_AFTER_NS;
    struct world *w = open_world(&options);
    disconnect_nodes(&w->a, &w->b);
    calm(w, &w->a);
    write_block(&w->a, 0, 1);
    hellos(&w->a, &w->b);
    for (uint64_t until_ns = w->a.now_ns + 8 * DEAD_AFTER_NS; w->a.now_ns < until_ns && w->a.completed == 0;) {
        assert_false(w->a.dropped);
        if (w->a.asked)
            answer_with(&w->a, REGISTER_UNREACHABLE);
        metas_done(&w->a);
        disks_done(&w->a);
        tick(&w->a, min_u64(engine_deadline_ns(w->a.engine), until_ns));
    }
    assert_true(w->a.completed == 1 && w->a.complete_result == -5);
    assert_true(w->a.dropped); /* what it may have heard of them */
    close_world(w);
}

/* A volume whose peer is gone for good when it gets its witness. */
static void without_a_first_decree_nobody_goes_on_alone(void **state)
{
    struct world *w = open_without_decree();
    order(&w->a, EV_PROMOTE, false);
    calm(w, &w->a);
    assert_true(w->a.serving);
    write_block(&w->a, 0, 2);
    wait_ns(w, &w->a, 10 * DEAD_AFTER_NS);
    assert_int_equal(w->a.completed, 0);
    assert_non_null(strstr(view_of(&w->a).why_not, "has no decree yet"));
    close_world(w);
}

/* Promoted by force in the middle of its resync, and it died before it knew. What it gets meanwhile makes it no more
 * than it is. */
static void who_was_forced_half_made_and_died_is_told_of(void **state)
{
    struct world *w = open_world(&automatic);
    run_until_in_is_asked(w);
    answer_with(&w->a, REGISTER_UNREACHABLE);
    disconnect_nodes(&w->a, &w->b);
    struct decree *d = &w->row.decree;
    *d = (struct decree) { .epoch = d->epoch + 1, .tag = d->tag + 1, .cause = DECREE_FORCE, .member_count = 1 };
    strcpy(d->primary, "paris-b");
    strcpy(d->members[0].node, "paris-b");
    d->members[0].leg_id = w->b.on_disk.leg_id;
    assert_int_equal(w->b.on_disk.leg, LEG_SYNCING);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    wait_ns(w, &w->b, DEAD_AFTER_NS);
    assert_false(w->a.serving || w->b.serving);
    meet_at_last(w);
    assert_non_null(strstr(view_of(&w->a).why_not, "`lockstep promote --force` on paris-a"));
    assert_non_null(strstr(view_of(&w->b).why_not, "`lockstep promote --force` on paris-a"));
    order(&w->a, EV_PROMOTE, true);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->a, TAKE_AFTER_NS);
    assert_true(w->a.serving && w->a.order_result == 0);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* A peer that asks no register, as one without a `witness` in its configuration: its epochs are none of the register's.
 */
static void nobody_is_asked_but_the_register(void **state)
{
    struct world *w = open_world(&automatic);
    order(&w->a, EV_DEMOTE, false);
    calm_both(w);
    uint64_t epoch = w->b.on_disk.epoch;
    struct frame ask = { .kind = FRAME_DECREE, .epoch = epoch + 1 };
    step(&w->b, (struct event) { .kind = EV_FRAME, .frame = { .frame = ask } });
    assert_int_equal(w->b.sent_count, 1);
    assert_true(w->b.sent[0].frame.kind == FRAME_ACK && w->b.sent[0].frame.status == ESTALE);
    metas_done(&w->b);
    assert_int_equal(w->b.on_disk.epoch, epoch);
    close_world(w);
}

static void epochs_of_who_asks_no_register_are_none(void **state)
{
    struct node_options options = automatic;
    options.configured = (struct hello_config) { .dead_after_us = 2000000, .witness = 7 };
    struct world *w = open_world(&options);
    wait_to_take_over(w);
    struct hello of_a;
    say_hello(&w->a, &of_a);
    uint64_t epoch = w->b.on_disk.epoch;
    of_a.epoch = of_a.served_epoch = epoch + 5;
    of_a.config.witness = 0;
    of_a.registered = false;
    say_hello(&w->b, &(struct hello) { 0 });
    step(&w->b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
    assert_true(w->b.refused && strstr(w->b.text, "has a witness"));
    disconnect_nodes(&w->b, &w->b);
    metas_done(&w->b);
    assert_int_equal(w->b.on_disk.epoch, epoch);
    calm(w, &w->b);
    assert_true(w->b.serving && is_named(w, &w->b));
    close_world(w);
}

static void nor_do_they_depose_anybody(void **state)
{
    struct node_options options = automatic;
    options.configured = (struct hello_config) { .dead_after_us = 2000000, .witness = 7 };
    for (int primary = 0; primary < 2; primary++) {
        struct world *w = open_world(&options);
        disconnect_nodes(&w->a, &w->b);
        struct hello of_b;
        say_hello(&w->b, &of_b);
        uint64_t epoch = w->a.on_disk.epoch;
        of_b.epoch = epoch + 5;
        of_b.role = primary ? ROLE_PRIMARY : ROLE_SECONDARY;
        of_b.config.witness = 0;
        say_hello(&w->a, &(struct hello) { 0 });
        step(&w->a, (struct event) { .kind = EV_HELLO, .hello = &of_b });
        assert_true(w->a.refused && strstr(w->a.text, "has a witness"));
        metas_done(&w->a);
        assert_true(w->a.serving && view_of(&w->a).role == ROLE_PRIMARY);
        assert_int_equal(w->a.on_disk.epoch, epoch);
        close_world(w);
    }
}

static void reads_wait_without_a_lease(void **state)
{
    struct world *w = open_world(&automatic);
    request(&w->a, OP_READ, 0); /* the test's hellos have no time: no lease comes of them */
    assert_int_equal(w->a.disk_count, 0);
    uint64_t sent_ns = w->a.now_ns;
    step(&w->a, (struct event) { .kind = EV_HEARD, .heard = { .sent_ns = sent_ns } });
    calm_both(w);
    assert_int_equal(w->a.completed, 1);
    disconnect_nodes(&w->a, &w->b);
    w->a.now_ns = sent_ns + DEAD_AFTER_NS - 1;
    request(&w->a, OP_READ, 0);
    disks_done(&w->a);
    assert_int_equal(w->a.completed, 2);
    assert_non_null(strstr(view_of(&w->a).why_not, "no connection to paris-b: writes wait here"));
    w->a.now_ns++;
    request(&w->a, OP_READ, 0);
    assert_int_equal(w->a.completed, 2);
    assert_non_null(strstr(view_of(&w->a).why_not, "no connection to paris-b: reads and writes wait here"));
    /* With the peer out of the set nobody else can serve. */
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    assert_true(!is_member(w, &w->b) && w->a.completed == 3);
    close_world(w);
}

/* Both are told to, and one has been asked by the other, and not recorded it, when it is told that there is no decree.
 */
static void both_are_promoted_before_there_is_a_decree(void **state)
{
    struct world *w = open_pair(&automatic);
    order(&w->b, EV_PROMOTE, false);
    order(&w->a, EV_PROMOTE, false);
    assert_true(w->a.asked && w->b.asked);
    answer(w, &w->a);
    assert_int_equal(w->a.sent_count, 1);
    deliver(&w->a, &w->b);
    assert_true(w->b.meta_pending);
    answer(w, &w->b);
    while (w->b.sent_count)
        deliver(&w->b, &w->a);
    metas_done(&w->a);
    while (w->a.sent_count)
        deliver(&w->a, &w->b);
    while (w->a.asked)
        answer(w, &w->a);
    calm_both(w);
    assert_true(w->a.serving != w->b.serving);
    assert_true(w->a.orders_done == 1 && w->b.orders_done == 1);
    close_world(w);
}

/* The first decree stands, and who asked for it does not know: its peer may take over by it. */
static void reads_need_a_lease_from_the_first_decree_on(void **state)
{
    struct world *w = open_pair(&automatic);
    order(&w->a, EV_PROMOTE, false);
    run_until_asks(w, &w->a, DECREE_FIRST);
    lose_answer(w, &w->a);
    disconnect_nodes(&w->a, &w->b);
    w->a.now_ns += DEAD_AFTER_NS;
    request(&w->a, OP_READ, 0);
    disks_done(&w->a);
    assert_int_equal(w->a.completed, 0);
    close_world(w);
}

/* The primary's leg fails while the first decree is under way: that one has it in the set, so it has to leave by one.
 */
static void a_leg_that_fails_beside_the_first_decree(void **state)
{
    struct world *w = open_pair(&automatic);
    order(&w->a, EV_PROMOTE, false);
    run_until_asks(w, &w->a, DECREE_FIRST);
    write_block(&w->a, 0, 1);
    metas_done(&w->a);
    while (w->a.disk_count)
        disk_done(&w->a, -5);
    answer(w, &w->a);
    disconnect_nodes(&w->a, &w->b);
    calm(w, &w->a);
    assert_true(w->row.decree.cause == DECREE_LEG_OUT && !is_member(w, &w->a) && is_member(w, &w->b));
    meet_at_last(w);
    calm_both(w);
    assert_true(w->a.completed == 1 && w->a.complete_result == 0 && w->b.content[0] == 1);
    assert_true(history_last(&w->b.on_disk.history)->tag == w->row.decree.tag);
    close_world(w);
}

/* The first decree arrives when its node has died, has been promoted again without one, and asks for the first once
 * more: nobody acts by the late one. */
static void a_first_decree_that_is_late_gives_way(void **state)
{
    struct world *w = open_pair(&automatic);
    struct register_request late = { 0 };
    for (unsigned round = 0; round < 2; round++) {
        order(&w->a, EV_PROMOTE, false);
        run_until_asks(w, &w->a, DECREE_FIRST);
        if (round > 0)
            break;
        late = *w->a.asked;
        disconnect_nodes(&w->a, &w->b);
        node_restart(&w->a, true);
        calm_both(w);
        connect_nodes(&w->a, &w->b);
        calm_both(w);
    }
    struct register_answer to_late;
    register_row_ask(&w->row, &late, &to_late);
    assert_int_equal(to_late.outcome, REGISTER_DONE);
    answer(w, &w->a);
    assert_true(w->a.serving);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    meet_at_last(w);
    assert_true(w->a.serving && w->row.decree.epoch > late.proposal.epoch && w->row.decree.epoch == w->a.on_disk.epoch);
    assert_true(w->a.on_disk.registered && w->b.on_disk.registered);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* The first decree stands, and its node knows; but the peer, which had been told of none, was promoted by hand since,
 * and again: its epochs are none of the register's. That decree gives way, too. */
static void a_first_decree_beside_a_promotion_by_hand_gives_way(void **state)
{
    struct world *w = open_pair(&automatic);
    order(&w->a, EV_PROMOTE, false);
    while (!w->a.asked || w->a.asked->ask == REGISTER_READ) {
        if (w->a.asked)
            answer(w, &w->a);
        else if (w->b.asked)
            answer(w, &w->b);
        else
            assert_true(run_step(&w->a, &w->b));
    }
    assert_int_equal(w->a.asked->proposal.cause, DECREE_FIRST);
    disconnect_nodes(&w->a, &w->b);
    calm(w, &w->b);
    order(&w->b, EV_PROMOTE, false);
    assert_non_null(w->b.asked);
    answer(w, &w->b); /* that there is none */
    answer(w, &w->a);
    calm_both(w);
    while (w->b.on_disk.epoch <= w->a.on_disk.epoch) {
        order(&w->b, EV_DEMOTE, false);
        calm_both(w);
        order(&w->b, EV_PROMOTE, false);
        calm_both(w);
    }
    assert_true(w->a.on_disk.registered && !w->b.on_disk.registered && w->b.serving);
    assert_true(w->b.on_disk.epoch > w->row.decree.epoch && is_named(w, &w->a));
    meet_at_last(w);
    for (unsigned i = 0; i < 3 && !is_named(w, &w->b); i++) {
        wait_ns(w, &w->b, DEAD_AFTER_NS);
        calm_both(w);
        disconnect_nodes(&w->a, &w->b);
        meet_at_last(w);
    }
    assert_true(w->b.serving && is_named(w, &w->b) && w->row.decree.epoch == w->b.on_disk.epoch);
    assert_true(w->a.on_disk.registered && w->b.on_disk.registered);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* A pair whose first decree is on record in the register only: its node has died since. */
static struct world *open_world_of_a_late_decree(void)
{
    struct world *w = open_pair(&automatic);
    order(&w->a, EV_PROMOTE, false);
    run_until_asks(w, &w->a, DECREE_FIRST);
    lose_answer(w, &w->a);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    return w;
}

/* One of two that are in session learns that there is a register: the other one, which has not read it, must not take
 * it that there is none. */
static void who_learns_of_the_register_in_a_session_tells(void **state)
{
    struct world *w = open_world_of_a_late_decree();
    hellos(&w->a, &w->b);
    for (unsigned i = 0; i < 3; i++) {
        metas_done(&w->a);
        metas_done(&w->b);
        disks_done(&w->b);
    }
    assert_true(make_ready(&w->a, &w->b));
    session_up(&w->a, &w->b);
    assert_true(!w->a.dropped && !w->a.on_disk.registered);
    if (!w->a.asked)
        tick(&w->a, engine_deadline_ns(w->a.engine));
    answer(w, &w->a);
    assert_true(w->a.dropped && !w->b.on_disk.registered);
    disconnect_nodes(&w->a, &w->b);
    meet_at_last(w);
    assert_true(w->a.on_disk.registered && w->b.on_disk.registered);
    close_world(w);
}

/* Refused, it has not joined the session; but it must not be promoted as if there were no register. */
static void who_is_refused_learns_of_the_register(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    node_lose_power(&w->b);
    w->b.on_disk.registered = false;
    node_restart(&w->b, true);
    hellos(&w->a, &w->b);
    assert_true(w->a.dropped && w->b.dropped); /* the set has it */
    metas_done(&w->b);
    assert_true(w->b.on_disk.registered);
    close_world(w);
}

/* The other leg has left by a swap that was never recorded, and by a later one nobody serves. */
static void who_was_left_alone_unrecorded_makes_up_for_it(void **state)
{
    struct world *w = open_world(&automatic);
    struct superblock before = w->a.on_disk;
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    assert_true(w->row.decree.cause == DECREE_OUT && !is_member(w, &w->b));
    order(&w->a, EV_DEMOTE, false);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    assert_true(w->row.decree.cause == DECREE_NOBODY && w->a.order_result == 0);
    before.role = ROLE_SECONDARY;
    w->a.on_disk = before; /* its disk has kept neither */
    node_restart(&w->a, true);
    assert_true(w->a.on_disk.peer_in_sync);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    assert_true(!w->a.on_disk.peer_in_sync && w->a.on_disk.epoch == w->row.decree.epoch);
    assert_int_equal(history_last(&w->a.on_disk.history)->tag, w->row.decree.tag);
    calm(w, &w->b);
    for (unsigned i = 0; i < 10 && !(meet(w) && is_member(w, &w->b)); i++)
        wait_ns(w, &w->a, DEAD_AFTER_NS);
    assert_true(is_member(w, &w->a) && is_member(w, &w->b) && w->b.on_disk.leg == LEG_UP_TO_DATE);
    close_world(w);
}

/* What the register's state was when it was last read may be long ago. */
static void who_is_to_put_its_target_out_asks_at_once(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    calm_both(w);
    assert_null(w->a.asked);
    node_lose_power(&w->b);
    node_restart(&w->b, true);
    hellos(&w->a, &w->b);
    assert_true(w->a.dropped);
    assert_true(w->a.asked || engine_deadline_ns(w->a.engine) <= w->a.now_ns);
    close_world(w);
}

/* Both go on for a while, and meet again where they have lost each other. */
static void go_on(struct world *w, uint64_t ns)
{
    if (!view_of(&w->a).session_up || !view_of(&w->b).session_up) {
        disconnect_nodes(&w->a, &w->b);
        meet(w);
    }
    wait_ns(w, &w->a, ns);
    wait_ns(w, &w->b, ns);
    run(&w->a, &w->b);
}

static void lose_the_register(struct world *w) { register_row_start(&w->row, "gold42", (struct id) { { 0 } }, NULL); }

/* The register has lost everything. A swap was under way, and would keep the two apart for ever. */
static void what_is_known_is_put_over_an_older_register(void **state)
{
    for (int asks = 0; asks < 2; asks++) {
        struct world *w = open_world(&automatic);
        uint64_t epoch = w->a.on_disk.epoch;
        if (asks) {
            disconnect_nodes(&w->a, &w->b);
            calm(w, &w->a);
            tick(&w->a, w->a.now_ns + DEAD_AFTER_NS);
            run_until_asks(w, &w->a, DECREE_OUT);
            answer_with(&w->a, REGISTER_UNREACHABLE);
        }
        lose_the_register(w);
        wait_ns(w, &w->a, DEAD_AFTER_NS);
        assert_int_equal(view_of(&w->a).witness.state, REGISTER_STATE_OLDER);
        order(&w->a, EV_ADOPT, false);
        for (unsigned i = 0; i < 50 && w->a.orders_done < 2; i++)
            go_on(w, 100 * NS_PER_MS);
        assert_true(w->a.orders_done == 2 && w->a.order_result == 0);
        disconnect_nodes(&w->a, &w->b);
        meet_at_last(w);
        assert_true(w->row.decree.cause == DECREE_ADOPT && w->row.decree.epoch > epoch + (1 << 19));
        assert_non_null(strstr(w->note, "over no decree, where epoch "));
        assert_true(w->a.serving && is_member(w, &w->a) && is_member(w, &w->b));
        assert_in_sync(&w->a, &w->b);
        close_world(w);
    }
}

/* The same after both nodes have restarted: nobody serves, and nobody can but by this. */
static void a_secondary_may_adopt_where_nobody_serves(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    lose_the_register(w);
    node_restart(&w->a, true);
    node_restart(&w->b, true);
    calm_both(w);
    meet_at_last(w);
    wait_ns(w, &w->a, 2 * TAKE_AFTER_NS);
    wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
    assert_false(w->a.serving || w->b.serving);
    order(&w->b, EV_ADOPT, false);
    wait_ns(w, &w->b, NS_PER_S);
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->b, NS_PER_S);
    assert_true(w->b.orders_done == 1 && w->b.order_result == 0);
    meet_at_last(w);
    assert_true(w->b.serving && is_named(w, &w->b) && is_member(w, &w->a));
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* B has taken over, and never heard of it: another register answered, which was older, and an operator had the two meet
 * by `adopt`. When the right one is back it names B, and A answers reads yet, by what B has heard of it. */
static void who_is_named_beside_a_primary_waits_for_its_lease(void **state)
{
    for (int knows = 0; knows < 2; knows++) {
        struct world *w = open_world(&automatic);
        wait_to_take_over(w);
        run_until_asks(w, &w->b, DECREE_TAKE);
        lose_answer(w, &w->b);
        struct register_row right = w->row;
        assert_true(is_named(w, &w->b) && !is_member(w, &w->a));
        lose_the_register(w);
        wait_ns(w, &w->b, NS_PER_S);
        order(&w->b, EV_ADOPT, false);
        wait_ns(w, &w->b, NS_PER_S);
        meet_at_last(w);
        assert_true(w->a.serving && view_of(&w->a).in_sync && view_of(&w->b).in_sync);

        w->row = right;
        w->cut_off = knows ? NULL : &w->a;
        wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
        assert_true(w->a.serving && !w->b.serving && !w->b.dropped); /* all that A does B has */
        wait_ns(w, &w->a, 2 * TAKE_AFTER_NS);
        assert_true(w->a.serving == !knows); /* it has read who serves */
        disconnect_nodes(&w->a, &w->b);
        wait_ns(w, &w->b, TAKE_AFTER_NS - 1);
        assert_false(w->b.serving);
        wait_ns(w, &w->b, DEAD_AFTER_NS);
        assert_true(w->b.serving && is_named(w, &w->b));
        w->cut_off = NULL;
        wait_ns(w, &w->a, DEAD_AFTER_NS);
        assert_false(w->a.serving);
        for (unsigned i = 0; i < 10 && !is_member(w, &w->a); i++)
            go_on(w, DEAD_AFTER_NS);
        assert_in_sync(&w->a, &w->b);
        close_world(w);
    }
}

/* Its daemon has crashed meanwhile: the other leg gets what it may lack, and could only be in sync by a decree. */
static void the_source_of_a_target_that_is_done_may_adopt(void **state)
{
    struct world *w = open_world(&automatic);
    write_block(&w->a, 0, 1);
    run(&w->a, &w->b);
    lose_the_register(w);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    calm_both(w);
    for (unsigned i = 0; i < 10; i++)
        go_on(w, DEAD_AFTER_NS / 2);
    assert_true(view_of(&w->a).session_up && w->a.on_disk.peer_in_sync && !w->a.serving && !w->b.serving);
    assert_int_equal(w->b.on_disk.leg, LEG_SYNCING);
    order(&w->b, EV_ADOPT, false);
    order(&w->a, EV_ADOPT, false);
    /* Nobody leaves the set by that: what A has it need not have flushed. */
    for (unsigned i = 0; i < 100 && w->row.decree.cause != DECREE_ADOPT; i++)
        go_on(w, 100 * NS_PER_MS);
    assert_true(is_named(w, &w->a) && is_member(w, &w->a) && is_member(w, &w->b));
    for (unsigned i = 0; i < 100 && !(w->a.serving && view_of(&w->a).in_sync); i++)
        go_on(w, 100 * NS_PER_MS);
    assert_true(w->a.orders_done == 1 && w->a.order_result == 0);
    assert_true(w->b.orders_done == 0 || w->b.order_result < 0);
    assert_true(w->a.serving && is_named(w, &w->a) && is_member(w, &w->a) && is_member(w, &w->b));
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* B has served alone, and its disk was replaced since; the register is lost, too. What stood there last, nobody knows.
 */
static void the_source_of_a_new_leg_knows_nothing(void **state)
{
    struct world *w = open_world(&automatic);
    write_block(&w->a, 0, 1);
    run(&w->a, &w->b);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
    assert_true(w->b.serving && !is_member(w, &w->a));
    write_block(&w->b, 0, 7);
    calm(w, &w->b);
    assert_true(w->b.completed == 1 && w->b.complete_result == 0);
    replace_disk(&w->b);
    lose_the_register(w);
    calm_both(w);
    for (unsigned i = 0; i < 20; i++)
        go_on(w, DEAD_AFTER_NS / 2);
    order(&w->a, EV_ADOPT, false);
    for (unsigned i = 0; i < 200 && w->a.orders_done == 0; i++)
        go_on(w, 100 * NS_PER_MS);
    for (unsigned i = 0; i < 50; i++)
        go_on(w, 100 * NS_PER_MS);
    assert_false(w->a.serving);
    close_world(w);
}

/* ... also for who has only read it. */
static void a_late_first_decree_that_was_only_read_gives_way(void **state)
{
    struct world *w = open_pair(&automatic);
    order(&w->a, EV_PROMOTE, false);
    run_until_asks(w, &w->a, DECREE_FIRST);
    struct register_request late = *w->a.asked;
    answer_with(&w->a, REGISTER_UNREACHABLE);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    calm_both(w);
    for (unsigned i = 0; i < 10 && w->a.on_disk.epoch <= late.proposal.epoch; i++) {
        order(&w->a, EV_DEMOTE, false);
        calm_both(w);
        order(&w->a, EV_PROMOTE, false);
        calm_both(w);
    }
    struct register_answer ans;
    register_row_ask(&w->row, &late, &ans);
    wait_ns(w, &w->b, DEAD_AFTER_NS);
    for (unsigned i = 0; i < 50 && !meet(w); i++) {
        wait_ns(w, &w->b, DEAD_AFTER_NS);
        wait_ns(w, &w->a, DEAD_AFTER_NS);
        assert_true(w->a.serving && !w->b.serving);
    }
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    calm_both(w);
    assert_true(is_named(w, &w->a) && w->a.serving && !w->b.serving);
    close_world(w);
}

static void who_knows_no_more_adopts_nothing(void **state)
{
    struct world *w = open_world(&automatic);
    order(&w->a, EV_ADOPT, false);
    calm_both(w);
    assert_true(w->a.order_result < 0 && strstr(w->a.order_text, "not older"));
    lose_the_register(w);
    disconnect_nodes(&w->a, &w->b);
    order(&w->a, EV_ADOPT, false);
    wait_ns(w, &w->a, 60 * NS_PER_S);
    assert_true(w->a.orders_done == 3 && w->a.order_result < 0 && strstr(w->a.order_text, "in sync"));
    assert_true(w->row.decree.epoch == 0);
    close_world(w);
}

/* ... when the order has ended already, as the register did not answer: the two are not kept apart by it. */
static void what_is_not_adopted_late_is_given_up(void **state)
{
    struct world *w = open_world(&automatic);
    lose_the_register(w);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    order(&w->a, EV_ADOPT, false);
    run_until_asks(w, &w->a, DECREE_ADOPT);
    while (w->a.orders_done < 2) {
        if (w->a.asked)
            answer_with(&w->a, REGISTER_UNREACHABLE);
        tick(&w->a, engine_deadline_ns(w->a.engine));
    }
    assert_int_equal(w->a.order_result, -ETIMEDOUT);
    while (!w->a.asked)
        tick(&w->a, engine_deadline_ns(w->a.engine));
    answer_with(&w->a, REGISTER_REFUSED);
    assert_false(view_of(&w->a).witness.swap_under_way);
    disconnect_nodes(&w->a, &w->b);
    meet_at_last(w);
    close_world(w);
}

/* The register is one that remembers nothing but its decree, as etcd does, and was put back by one. Whoever is out of
 * the set since knows that it is older, also when an operator orders the wrong thing on it. */
static void who_is_out_takes_nothing_over_by_adopting(void **state)
{
    struct world *w = open_world(&automatic);
    struct decree before = w->row.decree;
    a_writes_alone(w);
    wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
    order(&w->b, EV_ADOPT, false);
    while (w->b.now_ns < 2 * 60 * NS_PER_S) {
        register_row_start(&w->row, "gold42", w->row.volume_id, &before);
        w->row.confirmed = true;
        metas_done(&w->b);
        disks_done(&w->b);
        if (w->b.asked)
            answer(w, &w->b);
        else
            tick(&w->b, engine_deadline_ns(w->b.engine));
        assert_true(!w->b.serving && w->row.decree.cause != DECREE_TAKE);
    }
    assert_int_equal(view_of(&w->b).witness.state, REGISTER_STATE_OLDER);
    close_world(w);
}

/* A register that remembers nothing but its decree, as etcd does, and is put back to `old` time and again. */
static void one_step_of_etcd(struct world *w, struct node *n, const struct decree *old)
{
    metas_done(n);
    disks_done(n);
    if (old)
        register_row_start(&w->row, "gold42", w->row.volume_id, old);
    w->row.confirmed = true;
    w->row.highest_told = 0;
    if (n->asked)
        answer(w, n);
    else
        tick(n, max_u64(n->now_ns, engine_deadline_ns(n->engine)));
}

/* It has only read that it is out, and restarts: it would be a member that hears nobody. */
static void what_was_read_in_the_register_outlives_a_restart(void **state)
{
    struct world *w = open_world(&automatic);
    struct decree before = w->row.decree;
    a_writes_alone(w);
    wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
    assert_true(w->row.decree.epoch > before.epoch && w->b.on_disk.epoch == before.epoch);
    assert_true(w->b.on_disk.heard_epoch == w->row.decree.epoch);
    uint64_t sequence = w->b.on_disk.sequence;
    wait_ns(w, &w->b, 20 * DEAD_AFTER_NS); /* what it has on record already costs nothing */
    assert_true(w->b.on_disk.sequence == sequence);
    node_restart(&w->b, true);
    while (w->b.now_ns < 60 * NS_PER_S) {
        one_step_of_etcd(w, &w->b, &before);
        assert_true(!w->b.serving && w->row.decree.epoch == before.epoch);
    }
    assert_int_equal(view_of(&w->b).witness.state, REGISTER_STATE_OLDER);
    /* The way out is the primary's. */
    order(&w->a, EV_ADOPT, false);
    for (unsigned i = 0; i < 1000 && w->a.orders_done < 2; i++)
        one_step_of_etcd(w, &w->a, NULL);
    assert_true(w->a.orders_done == 2 && w->a.order_result == 0);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    assert_true(w->a.serving && is_member(w, &w->b) && w->b.on_disk.heard_epoch == 0);
    close_world(w);
}

/* The site of the primary and of the register is gone, and who was out goes on without a register: what that one has is
 * older from then on, when it is back. */
static void who_goes_on_without_the_register_goes_above_what_it_heard(void **state)
{
    struct world *w = open_world(&automatic);
    a_writes_alone(w);
    wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
    assert_true(w->b.on_disk.heard_epoch == w->row.decree.epoch);
    w->b.options.failover.has_register = false;
    node_restart(&w->b, true);
    calm(w, &w->b);
    order(&w->b, EV_PROMOTE, true);
    calm(w, &w->b);
    assert_true(w->b.serving);
    write_block(&w->b, 0, 7);
    calm(w, &w->b);
    assert_true(w->b.on_disk.epoch > w->row.decree.epoch && w->b.on_disk.heard_epoch == 0);
    w->b.options.failover.has_register = true;
    node_restart(&w->b, true);
    wait_ns(w, &w->b, DEAD_AFTER_NS);
    assert_int_equal(view_of(&w->b).witness.state, REGISTER_STATE_OLDER);
    close_world(w);
}

/* Another etcd cluster's decree counts as older, whatever its epoch: one that was restored, and nothing was decided
 * since. */
static void an_older_register_of_the_same_epoch_is_adopted_over(void **state)
{
    struct world *w = open_world(&automatic);
    order(&w->a, EV_ADOPT, false);
    assert_int_equal(w->a.asked->ask, REGISTER_READ);
    struct register_answer a = { .outcome = REGISTER_OLDER, .decree = w->row.decree, .reason = "another cluster's" };
    w->a.asked = NULL;
    step(&w->a, (struct event) { .kind = EV_REGISTER, .answer = &a });
    run_until_asks(w, &w->a, DECREE_ADOPT);
    calm_both(w);
    assert_true(w->a.orders_done == 2 && w->a.order_result == 0);
    disconnect_nodes(&w->a, &w->b);
    meet_at_last(w);
    assert_true(w->a.serving && w->row.decree.cause == DECREE_ADOPT && is_member(w, &w->b));
    close_world(w);
}

/* ... also by who knows of no decree, as it never heard that its first one was carried out there. */
static void an_older_register_is_adopted_over_before_a_first_decree(void **state)
{
    struct world *w = open_pair(&automatic);
    order(&w->a, EV_PROMOTE, false);
    run_until_asks(w, &w->a, DECREE_FIRST);
    lose_answer(w, &w->a);
    uint64_t epoch = w->row.decree.epoch;
    assert_true(epoch > w->a.on_disk.epoch && !w->a.on_disk.registered);
    order(&w->a, EV_ADOPT, false);
    while (!w->a.asked || w->a.asked->ask == REGISTER_READ || w->a.asked->proposal.cause != DECREE_ADOPT) {
        struct register_answer a = { .outcome = REGISTER_OLDER, .decree = w->row.decree, .reason = "another cluster" };
        if (!w->a.asked) {
            tick(&w->a, max_u64(w->a.now_ns, engine_deadline_ns(w->a.engine)));
            continue;
        }
        w->a.asked = NULL;
        step(&w->a, (struct event) { .kind = EV_REGISTER, .answer = &a });
        metas_done(&w->a);
        assert_int_equal(w->a.orders_done, 1);
    }
    calm_both(w);
    assert_true(w->a.orders_done == 2 && w->a.order_result == 0 && w->a.on_disk.registered);
    assert_true(w->row.decree.cause == DECREE_ADOPT && w->row.decree.epoch > epoch + (1 << 19));
    assert_true(is_member(w, &w->a) && is_member(w, &w->b));
    close_world(w);
}

/* A is alone, and B back as a target that is done; "in" is asked for. */
static struct world *open_with_in_asked(void)
{
    struct world *w = open_world(&automatic);
    a_writes_alone(w);
    for (;;) {
        hellos(&w->a, &w->b);
        calm(w, &w->a);
        calm(w, &w->b);
        if (!w->a.dropped && !w->b.dropped && make_ready(&w->a, &w->b))
            break;
        disconnect_nodes(&w->a, &w->b);
    }
    session_up(&w->a, &w->b);
    run_until_asks(w, &w->a, DECREE_IN);
    return w;
}

/* ... and A does not hear whether it was carried out. */
static struct world *open_with_in_unheard(bool carried_out)
{
    struct world *w = open_with_in_asked();
    if (carried_out)
        lose_answer(w, &w->a);
    else
        answer_with(&w->a, REGISTER_UNREACHABLE);
    disconnect_nodes(&w->a, &w->b);
    return w;
}

/* A is alone by its own record, and has heard since that it is not: what B has acknowledged it would give up. */
static void who_has_heard_of_more_is_not_alone(void **state)
{
    struct world *w = open_with_in_asked();
    struct decree before = w->row.decree;
    lose_answer(w, &w->a);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
    assert_true(w->b.serving && !is_member(w, &w->a));
    write_block(&w->b, 0, 7);
    calm(w, &w->b);
    assert_true(w->b.completed == 1 && w->b.complete_result == 0);
    wait_ns(w, &w->a, DEAD_AFTER_NS);
    assert_true(!w->a.on_disk.peer_in_sync && w->a.on_disk.heard_epoch == w->row.decree.epoch);
    for (int lives = 0; lives < 2; lives++) {
        order(&w->a, EV_ADOPT, false);
        uint64_t until_ns = w->a.now_ns + 60 * NS_PER_S;
        while (w->a.now_ns < until_ns) {
            one_step_of_etcd(w, &w->a, &before);
            assert_true(!w->a.serving && w->row.decree.epoch == before.epoch);
        }
        assert_true(w->a.orders_done == 1 && w->a.order_result < 0);
        node_restart(&w->a, true);
    }
    close_world(w);
}

/* A is alone by its own record, and its peer has told it of a later epoch, in a session that came to nothing, or one
 * that was refused: what that one has acknowledged since, A lacks. */
static void who_was_told_of_more_by_its_peer_is_not_alone(void **state)
{
    for (int forced = 0; forced < 2; forced++) {
        struct world *w = forced ? open_world(&automatic) : open_with_in_asked();
        if (forced)
            a_writes_alone(w);
        else
            lose_answer(w, &w->a);
        disconnect_nodes(&w->a, &w->b);
        node_restart(&w->a, true);
        calm_without_register(&w->a);
        if (forced)
            order(&w->b, EV_PROMOTE, true);
        wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
        assert_true(w->b.serving && !is_member(w, &w->a));
        write_block(&w->b, 0, 7);
        calm(w, &w->b);
        assert_true(w->b.completed == 1 && w->b.complete_result == 0);
        hellos(&w->a, &w->b);
        calm_without_register(&w->a);
        calm(w, &w->b);
        assert_true(w->a.on_disk.epoch == w->b.on_disk.epoch && !w->a.on_disk.peer_in_sync);
        assert_int_equal(w->a.on_disk.leg, LEG_UP_TO_DATE);
        disconnect_nodes(&w->a, &w->b);
        calm_without_register(&w->a);
        lose_the_register(w);
        for (int lives = 0; lives < 2; lives++) {
            int done = w->a.orders_done;
            order(&w->a, EV_ADOPT, false);
            wait_ns(w, &w->a, 60 * NS_PER_S);
            assert_false(w->a.serving && w->b.serving);
            assert_true(!w->a.serving && w->a.orders_done == done + 1 && w->a.order_result < 0);
            node_restart(&w->a, true);
        }
        close_world(w);
    }
}

/* Whether "in" was carried out, nobody knows; then the register has lost everything, an operator adopts, that comes to
 * nothing, and the register is what it was. If it was, the other one may take over: nothing was acknowledged without
 * it. If it was not, nobody waits for ever. */
static void who_forgets_a_swap_by_adopting_counts_the_peer_in(void **state)
{
    for (int carried_out = 0; carried_out < 2; carried_out++) {
        struct world *w = open_with_in_unheard(carried_out);
        write_block(&w->a, 8192, 2);
        struct register_row right = w->row;
        lose_the_register(w);
        order(&w->a, EV_ADOPT, false);
        while (w->a.orders_done < 2) {
            metas_done(&w->a);
            disks_done(&w->a);
            if (w->a.asked && w->a.asked->ask == REGISTER_SWAP && w->a.asked->proposal.cause == DECREE_ADOPT)
                answer_with(&w->a, REGISTER_REFUSED);
            else if (w->a.asked)
                answer(w, &w->a);
            else
                tick(&w->a, engine_deadline_ns(w->a.engine));
        }
        assert_true(w->a.order_result < 0 && w->a.completed == 1);
        w->row = right;
        struct node *next = carried_out ? &w->b : &w->a;
        wait_ns(w, next, 2 * TAKE_AFTER_NS);
        assert_true(next->serving && w->a.completed == 1 + !carried_out);
        close_world(w);
    }
}

/* The order to adopt comes to its end on this node, whatever else is asked meanwhile; true: it was carried out. */
static bool adopts(struct world *w, struct node *n)
{
    int done = n->orders_done;
    order(n, EV_ADOPT, false);
    for (unsigned i = 0; i < 1000 && n->orders_done == done; i++) {
        calm(w, n);
        if (n->orders_done == done)
            tick(n, engine_deadline_ns(n->engine));
    }
    assert_int_equal(n->orders_done, done + 1);
    return n->order_result == 0;
}

/* Whether "in" was carried out, nobody knows; then the register has lost everything. B may have been taken in, and have
 * taken over: without it nothing is adopted. With it nobody leaves the set, and both legs have everything. */
static void who_adopts_after_an_in_of_unknown_end_counts_the_peer_in(void **state)
{
    for (int carried_out = 0; carried_out < 2; carried_out++) {
        struct world *w = open_with_in_unheard(carried_out);
        if (carried_out)
            wait_ns(w, &w->b, DEAD_AFTER_NS);
        assert_int_equal(w->b.on_disk.leg, carried_out ? LEG_UP_TO_DATE : LEG_SYNCING);
        lose_the_register(w);
        assert_false(adopts(w, &w->a));
        assert_true(decree_is_none(&w->row.decree));
        bool adopted = false;
        for (unsigned i = 0; i < 20 && !adopted; i++) {
            struct node *source = view_of(&w->a).leg == LEG_UP_TO_DATE && w->a.serving ? &w->a : &w->b;
            adopted = meet(w) && adopts(w, source);
            wait_ns(w, &w->a, DEAD_AFTER_NS / 4);
            wait_ns(w, &w->b, DEAD_AFTER_NS / 4);
            disconnect_nodes(&w->a, &w->b);
        }
        assert_true(adopted);
        for (unsigned i = 0; i < 40 && !(w->row.decree.member_count == 2 && (w->a.serving || w->b.serving)); i++) {
            disconnect_nodes(&w->a, &w->b);
            wait_ns(w, &w->a, DEAD_AFTER_NS / 4);
            wait_ns(w, &w->b, DEAD_AFTER_NS / 4);
            meet(w);
        }
        assert_true(w->a.serving != w->b.serving && is_member(w, &w->a) && is_member(w, &w->b));
        disconnect_nodes(&w->a, &w->b);
        meet_at_last(w);
        write_block(w->a.serving ? &w->a : &w->b, 8192, 2);
        calm_both(w);
        assert_true(w->a.content[8192] == 2 && w->b.content[8192] == 2 && w->a.content[0] == 1);
        assert_in_sync(&w->a, &w->b);
        close_world(w);
    }
}

/* ... and its daemon has forgotten that it has asked. Which leg has what the other one lacks, only a person can tell
 * then; but neither is overwritten. */
static void who_adopts_and_has_forgotten_that_it_asked_for_in_is_told_apart(void **state)
{
    struct world *w = open_with_in_unheard(true);
    wait_ns(w, &w->b, DEAD_AFTER_NS);
    assert_int_equal(w->b.on_disk.leg, LEG_UP_TO_DATE);
    lose_the_register(w);
    node_restart(&w->a, true);
    wait_ns(w, &w->a, NS_PER_MS);
    assert_true(adopts(w, &w->a));
    wait_ns(w, &w->a, NS_PER_S);
    assert_true(w->a.serving && !is_member(w, &w->b));
    write_block(&w->a, 8192, 2);
    calm(w, &w->a);
    assert_true(w->a.completed == 1 && w->a.complete_result == 0);
    node_restart(&w->a, true);
    node_restart(&w->b, true);
    for (unsigned i = 0; i < 10; i++) {
        assert_false(meet(w));
        wait_ns(w, &w->a, DEAD_AFTER_NS);
        wait_ns(w, &w->b, DEAD_AFTER_NS);
    }
    assert_true(w->a.content[8192] == 2 && w->b.content[8192] != 2);
    assert_non_null(strstr(w->b.text, "split brain"));
    close_world(w);
}

/* Neither the peer nor the register: what waits ends with an error, and what comes later, too. */
static void what_waits_too_long_fails(void **state)
{
    struct node_options options = automatic;
    options.failover.fail_after_ns = 4 * DEAD_AFTER_NS;
    struct world *w = open_world(&options);
    disconnect_nodes(&w->a, &w->b);
    for (int round = 0; round < 2; round++) {
        write_block(&w->a, 0, 1);
        request(&w->a, OP_READ, 8192);
        uint64_t begun_ns = w->a.now_ns;
        while (w->a.completed < 2 * (round + 1)) {
            if (w->a.asked)
                answer_with(&w->a, REGISTER_UNREACHABLE);
            metas_done(&w->a);
            disks_done(&w->a);
            tick(&w->a, engine_deadline_ns(w->a.engine));
        }
        assert_int_equal(w->a.complete_result, -5);
        assert_in_range(w->a.now_ns - begun_ns, options.failover.fail_after_ns, 2 * options.failover.fail_after_ns);
    }
    /* It goes on when one of the two is back. */
    write_block(&w->a, 0, 1);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    assert_true(w->a.completed == 5 && w->a.complete_result == 0 && !is_member(w, &w->b));
    close_world(w);
}

static void a_demoted_volume_is_nobodys(void **state)
{
    struct world *w = open_world(&automatic);
    order(&w->a, EV_DEMOTE, false);
    calm_both(w);
    assert_int_equal(w->a.orders_done, 2);
    assert_true(!w->a.serving && w->row.decree.cause == DECREE_NOBODY && !*w->row.decree.primary);
    for (unsigned i = 0; i < 100; i++) {
        wait_ns(w, &w->a, 100 * NS_PER_MS);
        wait_ns(w, &w->b, 100 * NS_PER_MS);
    }
    assert_false(w->a.serving || w->b.serving);
    order(&w->b, EV_PROMOTE, false);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b); /* who asks for itself takes part in nothing */
    calm_both(w);
    assert_true(w->b.serving && is_named(w, &w->b) && w->b.order_result == 0);
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* A has served alone, was demoted, and has just taken B back. */
static void promote_as_the_peer_is_taken_in(struct world *w)
{
    a_writes_alone(w);
    order(&w->a, EV_DEMOTE, false);
    calm(w, &w->a);
    assert_int_equal(w->row.decree.cause, DECREE_NOBODY);
    hellos(&w->a, &w->b);
    connect_judged(&w->a, &w->b);
    run_until_asks(w, &w->a, DECREE_IN);
    answer(w, &w->a);
    order(&w->a, EV_PROMOTE, false);
}

/* The decree that takes it back is followed by a promotion at once: if the session ended for that before the peer has
 * it on record that its leg is whole, the register would name a member that cannot be promoted. */
static void a_promotion_waits_until_the_peer_is_back(void **state)
{
    struct world *w = open_world(&automatic);
    promote_as_the_peer_is_taken_in(w);
    calm(w, &w->a);
    assert_true(!w->a.dropped && is_member(w, &w->b) && w->b.on_disk.leg == LEG_SYNCING);
    calm_both(w);
    assert_int_equal(w->b.on_disk.leg, LEG_UP_TO_DATE);
    disconnect_nodes(&w->a, &w->b);
    calm(w, &w->a);
    assert_true(w->a.serving && w->row.decree.cause == DECREE_PROMOTE && w->a.order_result == 0);
    wait_ns(w, &w->b, 3 * TAKE_AFTER_NS);
    assert_true(w->b.serving && is_named(w, &w->b));
    close_world(w);
}

/* A peer that does not come to its end is not waited for. */
static void a_promotion_does_not_wait_for_ever(void **state)
{
    struct world *w = open_world(&automatic);
    promote_as_the_peer_is_taken_in(w);
    for (unsigned i = 0; i < 100 && !w->a.dropped; i++) {
        metas_done(&w->a);
        disks_done(&w->a);
        if (w->a.asked)
            answer(w, &w->a);
        tick(&w->a, w->a.now_ns + DEAD_AFTER_NS / 10);
    }
    assert_true(w->a.dropped && !w->a.serving);
    disconnect_nodes(&w->a, &w->b);
    calm(w, &w->a);
    assert_true(w->a.serving && w->a.order_result == 0);
    close_world(w);
}

/* Each is to be left, and has something that the other one lacks: A lost its power, B was found to differ. */
static struct world *open_doubtful(void)
{
    struct world *w = open_world(&automatic);
    order(&w->a, EV_DEMOTE, false);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    calm_both(w);
    w->b.on_disk.differs = true;
    node_restart(&w->b, true);
    node_lose_power(&w->a);
    calm_both(w);
    assert_false(meet(w));
    assert_non_null(strstr(w->a.text, "a verify found that it differs"));
    return w;
}

/* Whose leg is given up is a member yet, and the one who is kept does not put it out by itself: what is to be done is
 * said where the order is answered, and where the two do not connect. */
static void a_leg_that_is_given_up_leaves_the_set_by_force(void **state)
{
    struct world *w = open_doubtful();
    w->a.orders_done = 0;
    order(&w->a, EV_RESOLVE, false);
    calm(w, &w->a);
    run(&w->a, &w->a);
    assert_true(w->a.kept_whole);
    assert_false(meet(w));
    assert_int_equal(w->a.orders_done, 1);
    assert_int_equal(w->a.order_result, 0);
    if (!strstr(w->a.order_text, "`lockstep promote gold42 --force` on paris-b"))
        fail_msg("%s", w->a.order_text);
    assert_int_equal(w->a.on_disk.leg, LEG_SYNCING);
    assert_false(meet(w));
    assert_true(is_member(w, &w->a));
    if (!strstr(w->a.text, "`lockstep promote gold42 --force` on paris-b"))
        fail_msg("%s", w->a.text);
    order(&w->b, EV_PROMOTE, true);
    calm(w, &w->b);
    assert_true(w->b.serving && !is_member(w, &w->a));
    meet_at_last(w);
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

static void the_only_leg_of_the_set_is_not_given_up(void **state)
{
    struct world *w = open_doubtful();
    w->row.decree.member_count = 1;
    w->row.decree.members[0].leg_id = w->a.on_disk.leg_id;
    strcpy(w->row.decree.members[0].node, "paris-a");
    strcpy(w->row.decree.primary, "paris-b"); /* named itself, it would have made up for that, and be the source */
    wait_ns(w, &w->a, 10 * TAKE_AFTER_NS);
    assert_false(meet(w));
    w->a.orders_done = 0;
    order(&w->a, EV_RESOLVE, false);
    calm(w, &w->a);
    assert_int_equal(w->a.orders_done, 1);
    assert_int_equal(w->a.order_result, -EPERM);
    if (!strstr(w->a.order_text, "`lockstep promote gold42 --force` on paris-b first"))
        fail_msg("%s", w->a.order_text);
    close_world(w);
}

/* A decree of its own that it hears of while it is given up makes no entry: what is kept ends before it. */
static void who_is_given_up_catches_up_with_nothing(void **state)
{
    struct world *w = open_doubtful();
    order(&w->a, EV_RESOLVE, false);
    calm(w, &w->a);
    run(&w->a, &w->a);
    assert_true(w->a.kept_whole);
    uint32_t entries = w->a.on_disk.history.count;
    w->row.decree.epoch += 5;
    w->row.decree.cause = DECREE_OUT;
    w->row.decree.tag = 4711;
    strcpy(w->row.decree.primary, "paris-a");
    wait_ns(w, &w->a, 10 * DEAD_AFTER_NS);
    assert_true(view_of(&w->a).resolve.active);
    assert_int_equal(view_of(&w->a).witness.decree.tag, 4711);
    assert_int_equal(w->a.on_disk.history.count, entries);
    close_world(w);
}

static void since_when_it_is_alone_is_said(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    write_block(&w->a, 0, 1);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    assert_int_equal(w->row.decree.cause, DECREE_OUT);
    wait_ns(w, &w->a, 7 * NS_PER_S);
    struct hello h;
    say_hello(&w->a, &h);
    assert_in_range(h.alone_s, 7, 12);
    close_world(w);
}

/* The volume's parts are just being closed, and its disks with them. */
static void an_answer_after_the_end_changes_nothing(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    assert_false(is_member(w, &w->b));
    calm_without_register(&w->b);
    tick(&w->b, w->b.now_ns + DEAD_AFTER_NS);
    assert_non_null(w->b.asked);
    order(&w->b, EV_DETACH, false);
    while (w->b.meta_pending || w->b.disk_count) {
        metas_done(&w->b);
        disks_done(&w->b);
    }
    assert_true(w->b.orders_done == 1 && w->b.order_result == 0 && !w->b.on_disk.attached);
    assert_true(w->b.asked && w->b.on_disk.epoch < w->row.decree.epoch);
    assert_true(register_row_take_age(&w->row, "paris-b", w->b.on_disk.age + 10));
    answer(w, &w->b);
    assert_true(!w->b.meta_pending && !w->b.asked && w->b.disk_count == 0);
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lost_peer_leaves_the_set_first),
        cmocka_unit_test(a_lost_primary_is_replaced),
        cmocka_unit_test(a_living_primary_is_first),
        cmocka_unit_test(a_primary_that_has_just_begun_is_heard_of),
        cmocka_unit_test(a_primary_flushes_while_it_waits),
        cmocka_unit_test(a_primary_resumes_by_a_swap_of_its_own),
        cmocka_unit_test(who_has_asked_is_answered_by_a_renewal),
        cmocka_unit_test(who_cannot_record_asks_for_nothing),
        cmocka_unit_test(who_is_taken_down_asks_for_nothing),
        cmocka_unit_test(who_was_forced_is_compared_in_full),
        cmocka_unit_test(who_is_forced_half_made_says_how_much_is_missing),
        cmocka_unit_test(a_sole_leg_that_lost_power_is_not_taken),
        cmocka_unit_test(a_hello_of_a_later_primary_stops_first),
        cmocka_unit_test(the_leg_before_a_new_one_leaves_the_set),
        cmocka_unit_test(a_witness_that_has_started_anew_keeps_nobody_apart),
        cmocka_unit_test(a_failed_leg_is_not_served),
        cmocka_unit_test(a_failed_leg_is_not_served_by_force),
        cmocka_unit_test(who_is_told_of_its_own_decree_goes_on),
        cmocka_unit_test(a_failed_leg_does_not_stay_alone_in_the_set),
        cmocka_unit_test(who_is_alone_with_a_failed_leg_fails_what_waits),
        cmocka_unit_test(who_drains_goes_on_alone),
        cmocka_unit_test(a_demotion_that_nobody_hears_of_ends),
        cmocka_unit_test(a_demotion_that_is_not_taken_says_why),
        cmocka_unit_test(who_has_asked_and_died_withdraws),
        cmocka_unit_test(what_cannot_be_granted_any_more_keeps_no_split_brain),
        cmocka_unit_test(what_was_asked_of_a_register_that_is_gone),
        cmocka_unit_test(what_is_waited_for_is_told),
        cmocka_unit_test(orders_are_answered_with_what_is_true),
        cmocka_unit_test(orders_with_and_without_force_are_not_one),
        cmocka_unit_test(a_promotion_that_is_late_is_no_refusal),
        cmocka_unit_test(who_refused_a_primary_is_promoted_without_force),
        cmocka_unit_test(a_secondary_takes_in_whom_it_has_resynced),
        cmocka_unit_test(a_target_that_is_done_is_taken_by_either_word),
        cmocka_unit_test(who_resumes_beside_a_leg_of_before_puts_it_out),
        cmocka_unit_test(a_promotion_is_looked_at_again),
        cmocka_unit_test(a_demotion_waits_for_the_first_decree),
        cmocka_unit_test(who_wants_to_take_over_has_the_time_for_it),
        cmocka_unit_test(a_leg_that_fails_at_the_end_leaves_the_set),
        cmocka_unit_test(who_is_no_member_lets_nobody_in),
        cmocka_unit_test(a_later_primary_of_another_build_stops_first),
        cmocka_unit_test(a_person_decides_once),
        cmocka_unit_test(who_serves_in_reach_is_not_passed_over_by_force),
        cmocka_unit_test(who_has_to_record_first_resumes_at_once),
        cmocka_unit_test(what_waits_beside_a_handshake_fails_too),
        cmocka_unit_test(without_a_first_decree_nobody_goes_on_alone),
        cmocka_unit_test(who_was_forced_half_made_and_died_is_told_of),
        cmocka_unit_test(nobody_is_asked_but_the_register),
        cmocka_unit_test(epochs_of_who_asks_no_register_are_none),
        cmocka_unit_test(nor_do_they_depose_anybody),
        cmocka_unit_test(reads_wait_without_a_lease),
        cmocka_unit_test(both_are_promoted_before_there_is_a_decree),
        cmocka_unit_test(reads_need_a_lease_from_the_first_decree_on),
        cmocka_unit_test(a_leg_that_fails_beside_the_first_decree),
        cmocka_unit_test(a_first_decree_that_is_late_gives_way),
        cmocka_unit_test(a_first_decree_beside_a_promotion_by_hand_gives_way),
        cmocka_unit_test(who_learns_of_the_register_in_a_session_tells),
        cmocka_unit_test(who_is_refused_learns_of_the_register),
        cmocka_unit_test(who_was_left_alone_unrecorded_makes_up_for_it),
        cmocka_unit_test(who_is_to_put_its_target_out_asks_at_once),
        cmocka_unit_test(what_is_known_is_put_over_an_older_register),
        cmocka_unit_test(a_secondary_may_adopt_where_nobody_serves),
        cmocka_unit_test(who_is_named_beside_a_primary_waits_for_its_lease),
        cmocka_unit_test(the_source_of_a_target_that_is_done_may_adopt),
        cmocka_unit_test(the_source_of_a_new_leg_knows_nothing),
        cmocka_unit_test(a_late_first_decree_that_was_only_read_gives_way),
        cmocka_unit_test(who_knows_no_more_adopts_nothing),
        cmocka_unit_test(what_is_not_adopted_late_is_given_up),
        cmocka_unit_test(who_is_out_takes_nothing_over_by_adopting),
        cmocka_unit_test(what_was_read_in_the_register_outlives_a_restart),
        cmocka_unit_test(who_goes_on_without_the_register_goes_above_what_it_heard),
        cmocka_unit_test(an_older_register_of_the_same_epoch_is_adopted_over),
        cmocka_unit_test(an_older_register_is_adopted_over_before_a_first_decree),
        cmocka_unit_test(who_has_heard_of_more_is_not_alone),
        cmocka_unit_test(who_was_told_of_more_by_its_peer_is_not_alone),
        cmocka_unit_test(who_forgets_a_swap_by_adopting_counts_the_peer_in),
        cmocka_unit_test(who_adopts_after_an_in_of_unknown_end_counts_the_peer_in),
        cmocka_unit_test(who_adopts_and_has_forgotten_that_it_asked_for_in_is_told_apart),
        cmocka_unit_test(what_waits_too_long_fails),
        cmocka_unit_test(a_leg_that_is_given_up_leaves_the_set_by_force),
        cmocka_unit_test(the_only_leg_of_the_set_is_not_given_up),
        cmocka_unit_test(who_is_given_up_catches_up_with_nothing),
        cmocka_unit_test(since_when_it_is_alone_is_said),
        cmocka_unit_test(a_demoted_volume_is_nobodys),
        cmocka_unit_test(a_promotion_waits_until_the_peer_is_back),
        cmocka_unit_test(a_promotion_does_not_wait_for_ever),
        cmocka_unit_test(an_answer_after_the_end_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
