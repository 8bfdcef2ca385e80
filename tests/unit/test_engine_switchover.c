/* Switchover: what waits, what is flushed before what, and who serves whatever is lost on the way (docs/FAILOVER.md).
 */
#include "tests/unit/engine_world.h"

#include <errno.h>
#include <string.h>

static bool takes_requests(const struct node *n) { return engine_can_accept(n->engine, OP_WRITE); }

/* Until node A has told B to take over, for which the register has to answer it. */
static bool run_until_handed(struct world *w)
{
    if (run_until_sent(&w->a, &w->b, &w->a, FRAME_DECREE))
        return true;
    assert_true(w->a.asked->ask == REGISTER_READ && w->a.asked->tries);
    answer(w, &w->a);
    return run_until_sent(&w->a, &w->b, &w->a, FRAME_DECREE);
}

/* `on`: ordered there. */
static void hand_over(struct world *w, struct node *on)
{
    order(on, EV_SWITCHOVER, false);
    assert_true(run_until_handed(w));
    assert_true(w->a.sent[0].frame.flags == FRAME_FLAG_HAND);
    assert_true(w->a.serving && !takes_requests(&w->a) && on->orders_done == (on == &w->a));
}

/* ... and B has asked for A's place. */
static void ask_for_it(struct world *w)
{
    deliver(&w->a, &w->b);
    assert_int_equal(w->b.asked->ask, REGISTER_READ);
    answer(w, &w->b);
    assert_int_equal(w->b.asked->ask, REGISTER_SWAP);
    assert_int_equal(w->b.asked->proposal.cause, DECREE_SWITCH);
    assert_int_equal(w->b.asked->proposal.member_count, 2);
}

/* A has its place still, by this decree; and what B has asked for comes to nothing, however late. */
static void assert_a_serves_on(struct world *w, enum decree_cause cause, struct register_request *late)
{
    assert_true(w->a.serving && takes_requests(&w->a) && !w->b.serving && is_named(w, &w->a));
    assert_int_equal(w->row.decree.cause, cause);
    if (late) {
        struct register_answer a;
        register_row_ask(&w->row, late, &a);
        assert_int_equal(a.outcome, REGISTER_LOST);
    }
    meet_at_last(w);
    write_block(&w->a, 0, 77);
    calm_both(w);
    assert_true(w->a.complete_result == 0 && w->b.content[0] == 77);
    assert_in_sync(&w->a, &w->b);
}

static void assert_b_serves(struct world *w)
{
    assert_true(w->b.serving && takes_requests(&w->b) && !w->a.serving && is_named(w, &w->b));
    assert_true(is_member(w, &w->a) && is_member(w, &w->b));
    int completed = w->b.completed;
    write_block(&w->b, 0, 78);
    calm_both(w);
    assert_true(w->b.completed == completed + 1 && w->b.complete_result == 0 && w->a.content[0] == 78);
    assert_in_sync(&w->a, &w->b);
    assert_int_equal(view_of(&w->b).out_of_sync_bytes, 0);
    assert_int_equal(view_of(&w->a).out_of_sync_bytes, 0);
}

/* Requests end, both legs are flushed, the register is asked: in this order. No session ends, nothing is resynced. */
static void the_other_node_takes_over(void **state)
{
    for (int on_b = 0; on_b < 2; on_b++) {
        struct world *w = open_world(&automatic);
        struct node *on = on_b ? &w->b : &w->a;
        uint64_t epoch = w->row.decree.epoch;
        write_block(&w->a, 0, 1);
        w->a.hold_disk = w->b.hold_disk = true;
        order(on, EV_SWITCHOVER, false);
        assert_false(run_until_sent(&w->a, &w->b, &w->a, FRAME_DECREE));
        assert_true(w->a.serving && !takes_requests(&w->a) && w->a.completed == 0);
        w->a.hold_disk = w->b.hold_disk = false;
        assert_true(run_until_handed(w));
        assert_true(w->a.completed == 1 && w->a.complete_result == 0);
        assert_true(w->a.stable[0] == 1 && w->b.stable[0] == 1);
        ask_for_it(w);
        assert_false(w->b.serving || view_of(&w->b).role == ROLE_PRIMARY);
        answer(w, &w->b);
        /* It serves when its record and A's are on disk: A does not any more by then. */
        assert_true(w->b.meta_pending && w->b.sent_count == 0 && w->a.serving);
        meta_done(&w->b, 0);
        assert_int_equal(deliver(&w->b, &w->a).epoch, epoch + 1);
        assert_true(!w->a.serving && w->a.meta_pending && w->a.sent_count == 0 && !w->b.serving);
        assert_true(view_of(&w->a).role == ROLE_SECONDARY && w->a.orders_done == 2 - on_b);
        metas_done(&w->a);
        assert_true(w->a.on_disk.epoch == epoch + 1 && !w->a.on_disk.was_primary);
        calm_both(w);
        assert_true(on->orders_done == 2 - on_b && on->order_result == 0);
        assert_true(told(&w->a, "Requests waited for ") && (on_b || strstr(w->a.order_text, "Requests waited for ")));
        /* A has had B's epoch: reads need not wait for what B hears of it next (the test's heartbeats have no time). */
        int completed = w->b.completed;
        request(&w->b, OP_READ, 0);
        calm_both(w);
        assert_true(w->b.completed == completed + 1 && w->b.complete_result == 0);
        assert_false(w->a.dropped || w->b.dropped || told(&w->a, "gets what it lacks"));
        assert_b_serves(w);
        /* And back. */
        order(on, EV_SWITCHOVER, false);
        calm_both(w);
        assert_true(w->a.serving && !w->b.serving && on->order_result == 0 && is_named(w, &w->a));
        assert_int_equal(w->row.decree.epoch, epoch + 2);
        assert_in_sync(&w->a, &w->b);
        close_world(w);
    }
}

/* ... for dead-after from when B told its epoch, not from A's answer. */
static void the_lease_begins_when_the_epoch_was_sent(void **state)
{
    struct world *w = open_world(&automatic);
    hand_over(w, &w->a);
    ask_for_it(w);
    answer(w, &w->b);
    assert_true(run_until_sent(&w->a, &w->b, &w->b, FRAME_DECREE));
    uint64_t sent_ns = w->b.now_ns;
    w->b.now_ns += DEAD_AFTER_NS / 2;
    run(&w->a, &w->b);
    assert_true(w->b.serving);
    int completed = w->b.completed;
    w->b.now_ns = sent_ns + DEAD_AFTER_NS - 1;
    request(&w->b, OP_READ, 0);
    disks_done(&w->b);
    assert_int_equal(w->b.completed, completed + 1);
    w->b.now_ns++;
    request(&w->b, OP_READ, 0);
    assert_true(w->b.completed == completed + 1 && w->b.disk_count == 0);
    step(&w->b, (struct event) { .kind = EV_HEARD, .heard = { .sent_ns = w->b.now_ns } });
    disks_done(&w->b);
    assert_int_equal(w->b.completed, completed + 2);
    calm_both(w);
    close_world(w);
}

/* What the former primary had in its activity log is void: killed after that, it comes back without a resync. */
static void the_former_primary_has_nothing_left_to_tell(void **state)
{
    struct world *w = open_world(&automatic);
    write_block(&w->a, 0, 1);
    calm_both(w);
    order(&w->a, EV_SWITCHOVER, false);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->a, true);
    assert_int_equal(view_of(&w->a).out_of_sync_bytes, 0);
    meet_at_last(w);
    assert_b_serves(w);
    close_world(w);
}

static void refuses(struct node *n, int32_t result, const char *words)
{
    int done = n->orders_done;
    order(n, EV_SWITCHOVER, false);
    assert_int_equal(n->orders_done, done + 1);
    assert_int_equal(n->order_result, result);
    if (!strstr(n->order_text, words))
        fail_msg("%s", n->order_text);
}

static void what_is_not_safe_is_refused(void **state)
{
    struct world *w = open_world(&automatic);
    /* A register that does not answer. */
    tick(&w->a, w->a.now_ns + DEAD_AFTER_NS);
    answer_with(&w->a, REGISTER_UNREACHABLE);
    refuses(&w->a, -EPERM, "the witness does not help");
    wait_ns(w, &w->a, NS_PER_S);
    /* A resize. */
    order(&w->a, EV_RESIZE, false);
    refuses(&w->a, -EBUSY, "resize");
    calm_both(w);
    /* Legs that differ. */
    write_block(&w->a, 0, 1);
    calm_both(w);
    w->b.content[0] = 2;
    order(&w->a, EV_VERIFY, false);
    calm_both(w);
    refuses(&w->a, -EPERM, "verify");
    refuses(&w->b, -EPERM, "verify");
    order(&w->a, EV_VERIFY, true);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    refuses(&w->a, -ENOTCONN, "in sync");
    refuses(&w->b, -ENOTCONN, "in sync");
    meet_at_last(w);
    /* Who is just being resynced, or has been, is in sync again: nobody serves. */
    order(&w->a, EV_DEMOTE, false);
    calm_both(w);
    refuses(&w->a, -EBUSY, "nobody serves");
    close_world(w);

    const struct node_options alone = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE };
    struct node a, b;
    open_promoted(&a, &b, &alone);
    refuses(&a, -EPERM, "`lockstep demote`");
    refuses(&b, -EPERM, "`lockstep demote`");
    close_both(&a, &b);
}

/* It would end the session. */
static void who_does_not_know_the_frame_gets_none(void **state)
{
    struct world *w = open_world(&automatic);
    disconnect_nodes(&w->a, &w->b);
    struct hello of_a, of_b;
    say_hello(&w->a, &of_a);
    say_hello(&w->b, &of_b);
    assert_true(of_a.hands_over && of_b.hands_over);
    of_b.hands_over = false;
    step(&w->a, (struct event) { .kind = EV_HELLO, .hello = &of_b });
    step(&w->b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
    connect_judged(&w->a, &w->b);
    calm_both(w);
    refuses(&w->a, -EPERM, "does not know it");
    assert_true(w->a.sent_count == 0 && takes_requests(&w->a));
    close_world(w);
}

/* Until it has handed over it has asked nobody for anything: it goes on as if nothing had been. */
static void who_drains_may_go_on(void **state)
{
    enum { SLOW_DISK, NO_SESSION, NO_LEG, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct world *w = open_world(&automatic);
        uint64_t epoch = w->row.decree.epoch;
        write_block(&w->a, 0, 1);
        w->a.hold_disk = true;
        order(&w->a, EV_SWITCHOVER, false);
        run(&w->a, &w->b);
        assert_false(takes_requests(&w->a));
        if (kind == SLOW_DISK) {
            tick(&w->a, w->a.now_ns + DEAD_AFTER_NS - 1);
            assert_false(takes_requests(&w->a));
            tick(&w->a, engine_deadline_ns(w->a.engine));
            assert_non_null(strstr(w->a.order_text, "slow, or hangs"));
        } else if (kind == NO_SESSION) {
            disconnect_nodes(&w->a, &w->b);
        } else {
            disk_done(&w->a, -EIO);
        }
        assert_true(takes_requests(&w->a) && w->a.orders_done == 2 && w->a.order_result == -EBUSY);
        assert_int_equal(w->row.decree.epoch, epoch);
        w->a.hold_disk = false;
        calm(w, &w->a);
        if (kind == NO_LEG) { /* it goes on through the peer's */
            disconnect_nodes(&w->a, &w->b);
            calm_both(w);
            meet_at_last(w);
            assert_int_equal(w->row.decree.cause, DECREE_LEG_OUT);
            assert_true(w->a.serving && w->a.completed == 1 && w->a.complete_result == 0);
        } else {
            if (kind == SLOW_DISK)
                disconnect_nodes(&w->a, &w->b);
            assert_a_serves_on(w, DECREE_FIRST, NULL);
        }
        close_world(w);
    }
}

/* What the register was when it was read last says nothing of now: who stops first and finds it away then would wait
 * for it, with all that is asked. */
static void the_register_answers_before_it_hands_over(void **state)
{
    enum { GOES_AWAY, IS_SILENT, KINDS };
    for (int i = 0; i < 2 * KINDS; i++) {
        int kind = i % KINDS;
        struct world *w = open_world(&automatic);
        struct node *on = i < KINDS ? &w->a : &w->b;
        uint64_t epoch = w->row.decree.epoch;
        assert_int_equal(view_of(&w->a).witness.state, REGISTER_STATE_REACHABLE);
        assert_null(w->a.asked);
        order(on, EV_SWITCHOVER, false);
        run(&w->a, &w->b);
        assert_non_null(w->a.asked);
        assert_int_equal(w->a.asked->ask, REGISTER_READ);
        assert_true(!takes_requests(&w->a) && w->a.sent_count == 0);
        if (kind == GOES_AWAY) {
            answer_with(&w->a, REGISTER_UNREACHABLE);
        } else {
            tick(&w->a, w->a.now_ns + DEAD_AFTER_NS - 1);
            assert_false(takes_requests(&w->a));
            tick(&w->a, engine_deadline_ns(w->a.engine));
        }
        assert_true(takes_requests(&w->a));
        if (on == &w->b)
            deliver(&w->a, &w->b);
        assert_true(on->orders_done == 1 + (on == &w->a) && on->order_result == -EBUSY);
        const char *said = on == &w->a ? "the witness does not help" : "does not reach the witness";
        assert_non_null(strstr(on->order_text, said));
        assert_int_equal(w->row.decree.epoch, epoch);
        if (kind == IS_SILENT)
            answer_with(&w->a, REGISTER_UNREACHABLE); /* late */
        disconnect_nodes(&w->a, &w->b);
        assert_a_serves_on(w, DECREE_FIRST, NULL);
        close_world(w);
    }
}

/* Whoever had it ordered hears when it is called off, and may order it again. The other one is told nothing. */
static void the_secondary_hears_that_it_is_called_off(void **state)
{
    enum { OF_B, OF_A, OF_BOTH, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct world *w = open_world(&automatic);
        write_block(&w->a, 0, 1);
        w->a.hold_disk = true;
        if (kind != OF_B)
            order(&w->a, EV_SWITCHOVER, false);
        if (kind != OF_A)
            order(&w->b, EV_SWITCHOVER, false);
        run(&w->a, &w->b);
        assert_false(takes_requests(&w->a));
        tick(&w->a, w->a.now_ns + DEAD_AFTER_NS);
        assert_true(takes_requests(&w->a));
        if (kind == OF_A) {
            assert_int_equal(w->a.sent_count, 0);
        } else {
            assert_int_equal(w->b.orders_done, 0);
            deliver(&w->a, &w->b);
            assert_true(w->b.orders_done == 1 && w->b.order_result == -EBUSY);
            assert_non_null(strstr(w->b.order_text, "cannot do its part now"));
        }
        w->a.hold_disk = false;
        calm_both(w);
        order(&w->b, EV_SWITCHOVER, false);
        calm_both(w);
        assert_true(w->b.orders_done == 1 + (kind != OF_A) && w->b.order_result == 0);
        assert_b_serves(w);
        close_world(w);
    }
}

/* A flush that was begun for one that was called off does not count for the next one. */
static void a_flush_in_vain_counts_for_nothing(void **state)
{
    struct world *w = open_world(&automatic);
    order(&w->a, EV_SWITCHOVER, false);
    w->a.hold_disk = true;
    run(&w->a, &w->b);
    assert_int_equal(w->a.disk_count, 1);
    tick(&w->a, w->a.now_ns + DEAD_AFTER_NS);
    assert_true(w->a.order_result == -EBUSY && takes_requests(&w->a));
    order(&w->a, EV_SWITCHOVER, false);
    flush_done(&w->a, 0);
    assert_true(w->a.disk_count == 1 && w->a.sent_count == 0);
    w->a.hold_disk = false;
    calm_both(w);
    assert_b_serves(w);
    close_world(w);
}

/* The swap's end is not known in time: by a decree of its own A has its place still. */
static void who_is_not_taken_over_in_time_renews(void **state)
{
    enum { NOT_SENT, SENT, REFUSED, LOST_SESSION, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct world *w = open_world(&automatic);
        hand_over(w, &w->a);
        struct register_request late = { 0 };
        if (kind == REFUSED) {
            deliver(&w->a, &w->b);
            answer_with(&w->b, REGISTER_UNREACHABLE);
            assert_int_equal(deliver(&w->b, &w->a).flags, FRAME_FLAG_HAND);
        } else if (kind != NOT_SENT) {
            ask_for_it(w);
            late = *w->b.asked;
        }
        if (kind == LOST_SESSION)
            disconnect_nodes(&w->a, &w->b);
        else if (kind != REFUSED)
            tick(&w->a, w->a.now_ns + DEAD_AFTER_NS - 1);
        assert_true(!takes_requests(&w->a) && w->a.orders_done == 1);
        if (kind == NOT_SENT || kind == SENT) {
            calm(w, &w->a); /* it reads now and then */
            tick(&w->a, w->a.now_ns + 1);
        }
        /* Who asks for itself takes part in nothing. */
        if (kind != LOST_SESSION) {
            if (w->a.asked)
                answer(w, &w->a);
            assert_true(w->a.dropped);
            disconnect_nodes(&w->a, &w->b);
        }
        calm(w, &w->a);
        assert_true(w->a.orders_done == 2 && w->a.order_result == -EBUSY);
        assert_non_null(strstr(w->a.order_text, kind == REFUSED        ? "does not reach the witness"
                                                : kind == LOST_SESSION ? "connection"
                                                                       : "in time"));
        if (w->b.asked)
            answer(w, &w->b);
        assert_a_serves_on(w, DECREE_RENEW, late.ask == REGISTER_SWAP ? &late : NULL);
        close_world(w);
    }
}

/* B has the place, and A does not hear of it: its own swap comes too late. */
static void who_was_taken_over_unheard_stops(void **state)
{
    struct world *w = open_world(&automatic);
    hand_over(w, &w->a);
    ask_for_it(w);
    disconnect_nodes(&w->a, &w->b);
    answer(w, &w->b);
    calm(w, &w->b);
    assert_true(w->b.serving && w->a.serving && !takes_requests(&w->a));
    calm(w, &w->a);
    assert_true(!w->a.serving && w->a.orders_done == 2 && w->a.order_result == 0);
    meet_at_last(w);
    assert_b_serves(w);
    close_world(w);
}

/* B has the place, its disk is replaced, and A, which cannot ask the register, takes the new leg for its target. Who is
 * named cannot serve then, and A is the only one that can: it does, as when B had lost its disk a moment later. */
static void who_was_taken_over_by_a_leg_that_is_gone_takes_it_back(void **state)
{
    struct world *w = open_world(&automatic);
    write_block(&w->a, 0, 1);
    hand_over(w, &w->a);
    ask_for_it(w);
    lose_answer(w, &w->b);
    disconnect_nodes(&w->a, &w->b);
    replace_disk(&w->b);
    calm_without_register(&w->b);
    join_the_new_leg(w);
    run(&w->a, &w->b);
    assert_true(is_named(w, &w->b) && w->a.serving && !takes_requests(&w->a));
    assert_int_equal(view_of(&w->b).leg, LEG_SYNCING);
    wait_ns(w, &w->a, DEAD_AFTER_NS / 4);
    assert_true(w->a.dropped && !w->a.serving && w->a.orders_done == 2);
    disconnect_nodes(&w->a, &w->b);
    for (unsigned i = 0; i < 20 && !meet(w); i++) {
        wait_ns(w, &w->a, DEAD_AFTER_NS / 4);
        wait_ns(w, &w->b, DEAD_AFTER_NS / 4);
        assert_false(w->b.serving);
    }
    assert_true(takes_requests(&w->a) && told(&w->a, "take: epoch "));
    disconnect_nodes(&w->a, &w->b);
    assert_a_serves_on(w, DECREE_IN, NULL);
    close_world(w);
}

/* B has the place, its daemon is another one, which does not know why, and A is in session with that before it has read
 * of it. It does not take B for one that leads, as B does not of A: one of the two serves. */
static void who_was_taken_over_by_one_that_has_died_since_leaves_it_to_that(void **state)
{
    struct world *w = open_world(&automatic);
    hand_over(w, &w->a);
    ask_for_it(w);
    lose_answer(w, &w->b);
    disconnect_nodes(&w->a, &w->b);
    node_restart(&w->b, true);
    for (unsigned i = 0; i < 4; i++) {
        calm_without_register(&w->a);
        calm_without_register(&w->b);
        tick(&w->a, w->a.now_ns + DEAD_AFTER_NS / 2);
    }
    connect_nodes(&w->a, &w->b);
    assert_true(is_named(w, &w->b) && w->a.serving && !takes_requests(&w->a) && !w->b.serving);
    for (unsigned i = 0; i < 20 && !w->b.serving; i++) {
        wait_ns(w, &w->a, DEAD_AFTER_NS / 4);
        wait_ns(w, &w->b, DEAD_AFTER_NS / 4);
        if (w->a.dropped || w->b.dropped) {
            disconnect_nodes(&w->a, &w->b);
            meet(w);
        }
    }
    assert_true(w->a.orders_done == 2 && !w->a.serving && w->b.serving);
    disconnect_nodes(&w->a, &w->b);
    meet_at_last(w);
    assert_b_serves(w);
    close_world(w);
}

/* A reads of it before B has told it. */
static void what_the_register_says_counts_at_once(void **state)
{
    struct world *w = open_world(&automatic);
    w->a.hold_disk = true;
    order(&w->a, EV_SWITCHOVER, false);
    run(&w->a, &w->b);
    answer(w, &w->a);                             /* while it flushes */
    tick(&w->a, w->a.now_ns + DEAD_AFTER_NS / 2); /* of the time between two looks */
    w->a.hold_disk = false;
    assert_true(run_until_sent(&w->a, &w->b, &w->a, FRAME_DECREE));
    ask_for_it(w);
    answer(w, &w->b);
    tick(&w->a, w->a.now_ns + DEAD_AFTER_NS / 2);
    answer(w, &w->a);
    assert_true(!w->a.serving && !w->a.dropped && w->a.order_result == 0 && w->a.orders_done == 2);
    calm_both(w);
    assert_false(w->a.dropped || w->b.dropped);
    assert_b_serves(w);
    close_world(w);
}

/* Without the register nobody knows who serves, and nobody does, until it answers. A can be taken down all the same. */
static void without_the_register_it_waits(void **state)
{
    for (int down = 0; down < 2; down++) {
        struct world *w = open_world(&automatic);
        hand_over(w, &w->a);
        ask_for_it(w);
        answer_with(&w->b, REGISTER_UNREACHABLE);
        disconnect_nodes(&w->a, &w->b);
        for (unsigned i = 0; i < 1000; i++) {
            for (unsigned k = 0; k < 2; k++) {
                struct node *n = k ? &w->b : &w->a;
                if (n->asked)
                    answer_with(n, REGISTER_UNREACHABLE);
                tick(n, n->now_ns + 100 * NS_PER_MS);
            }
            assert_true(w->a.serving && !takes_requests(&w->a) && !w->b.serving);
        }
        assert_true(w->a.orders_done == 2 && w->a.order_result == -ETIMEDOUT);
        assert_non_null(strstr(w->a.order_text, "`lockstep down --force`"));
        if (down) {
            order(&w->a, EV_DETACH, false);
            while (w->a.meta_pending || w->a.disk_count || w->a.page_count) {
                metas_done(&w->a);
                disks_done(&w->a);
            }
            assert_true(!w->a.serving && w->a.orders_done == 3 && w->a.order_result == 0);
            calm(w, &w->b);
            wait_ns(w, &w->b, NS_PER_S);
            assert_true(w->b.serving && is_named(w, &w->b));
        } else {
            calm(w, &w->a);
            wait_ns(w, &w->a, NS_PER_S);
            if (w->b.asked)
                answer(w, &w->b);
            assert_a_serves_on(w, DECREE_RENEW, NULL);
        }
        close_world(w);
    }
}

/* ... but for requests, where the configuration says for how long at the most. */
static void with_fail_after_what_is_held_fails(void **state)
{
    enum { APART, CONNECTED, TAKEN, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct node_options options = automatic;
        options.failover.fail_after_ns = 4 * DEAD_AFTER_NS;
        struct world *w = open_world(&options);
        uint64_t begun_ns = w->a.now_ns;
        hand_over(w, &w->a);
        if (kind == CONNECTED) {
            deliver(&w->a, &w->b);
            answer_with(&w->b, REGISTER_UNREACHABLE);
            deliver(&w->b, &w->a);
        } else {
            ask_for_it(w);
            if (kind == TAKEN)
                lose_answer(w, &w->b);
            else
                answer_with(&w->b, REGISTER_UNREACHABLE);
            disconnect_nodes(&w->a, &w->b);
        }
        while (!takes_requests(&w->a)) {
            if (w->a.asked)
                answer_with(&w->a, REGISTER_UNREACHABLE);
            metas_done(&w->a);
            tick(&w->a, engine_deadline_ns(w->a.engine));
        }
        assert_in_range(w->a.now_ns - begun_ns, options.failover.fail_after_ns, 5 * DEAD_AFTER_NS);
        assert_true(w->a.serving && told(&w->a, "(`fail-after`)"));
        int completed = w->a.completed;
        unsigned sent = w->a.sent_count, disk = w->a.disk_count;
        write_block(&w->a, 0, 66);
        request(&w->a, OP_READ, 0);
        request(&w->a, OP_FLUSH, 0);
        assert_true(w->a.completed == completed + 3 && w->a.complete_result == -EIO);
        assert_true(w->a.disk_count == disk && w->a.sent_count == sent && takes_requests(&w->a));
        /* It ends as it would have. */
        if (kind == CONNECTED)
            disconnect_nodes(&w->a, &w->b);
        if (kind == TAKEN)
            wait_ns(w, &w->b, NS_PER_S);
        calm(w, &w->a);
        wait_ns(w, &w->a, NS_PER_S);
        assert_int_not_equal(w->a.content[0], 66);
        if (kind == TAKEN) {
            assert_false(takes_requests(&w->a));
            meet_at_last(w);
            assert_b_serves(w);
        } else {
            if (w->b.asked)
                answer(w, &w->b);
            assert_a_serves_on(w, DECREE_RENEW, NULL);
        }
        /* The next one is another matter. */
        struct node *primary = kind == TAKEN ? &w->b : &w->a;
        wait_ns(w, kind == TAKEN ? &w->a : &w->b, DEAD_AFTER_NS); /* it hears that the witness is back */
        order(primary, EV_SWITCHOVER, false);
        assert_false(takes_requests(primary));
        calm_both(w);
        assert_true(primary->order_result == 0 && !primary->serving);
        close_world(w);
    }
}

/* Nobody serves, though both are connected and have everything: it says so, and what ends it if the register has lost
 * all that it knew. */
static void it_says_what_it_waits_for(void **state)
{
    for (int lost = 0; lost < 2; lost++) {
        struct world *w = open_world(&automatic);
        hand_over(w, &w->a);
        assert_true(view_of(&w->a).in_sync); /* it is a matter of milliseconds */
        deliver(&w->a, &w->b);
        answer_with(&w->b, REGISTER_UNREACHABLE);
        deliver(&w->b, &w->a);
        for (unsigned i = 0; i < 200; i++) {
            if (w->a.asked)
                answer_with(&w->a, REGISTER_UNREACHABLE);
            tick(&w->a, w->a.now_ns + 100 * NS_PER_MS);
        }
        assert_true(w->a.orders_done == 2 && w->a.order_result == -ETIMEDOUT);
        assert_non_null(strstr(w->a.order_text, "`lockstep down --force`"));
        disconnect_nodes(&w->a, &w->b);
        hellos(&w->a, &w->b);
        assert_true(make_ready(&w->a, &w->b));
        session_up(&w->a, &w->b);
        run(&w->a, &w->b);
        assert_false(w->a.dropped || w->b.dropped || takes_requests(&w->a) || w->b.serving);
        struct engine_view v = view_of(&w->a);
        assert_true(!v.in_sync && strstr(v.why_not, "paris-a has stopped for a switchover"));
        assert_true(told(&w->a, "not protected: paris-a has stopped for a switchover"));
        order(&w->a, EV_ADOPT, false);
        assert_true(w->a.orders_done == 3 && w->a.order_result == -EBUSY);
        assert_non_null(strstr(w->a.order_text, "`lockstep down --force`"));
        if (!lost) {
            wait_ns(w, &w->a, NS_PER_S);
            disconnect_nodes(&w->a, &w->b);
            calm(w, &w->a);
            assert_a_serves_on(w, DECREE_RENEW, NULL);
            assert_null(view_of(&w->a).why_not);
        } else {
            register_row_start(&w->row, "gold42", (struct id) { { 0 } }, NULL);
            order(&w->a, EV_DETACH, true);
            disconnect_nodes(&w->a, &w->b);
            calm(w, &w->a);
            assert_true(!w->a.serving && w->a.order_result == 0);
            node_restart(&w->a, true);
            calm_both(w);
            meet_at_last(w);
            order(&w->b, EV_ADOPT, false);
            wait_ns(w, &w->b, NS_PER_S);
            disconnect_nodes(&w->a, &w->b);
            wait_ns(w, &w->b, NS_PER_S);
            assert_true(w->b.orders_done == 1 && w->b.order_result == 0);
            meet_at_last(w);
            assert_b_serves(w);
        }
        close_world(w);
    }
}

/* Either dies, and is back: whom the register names serves by itself. */
static void who_dies_on_the_way(void **state)
{
    enum { A_DRAINS, A_HANDED, A_TAKEN, B_HANDED, B_SENT, B_DONE, B_RECORDED, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct world *w = open_world(&automatic);
        write_block(&w->a, 0, 1);
        if (kind == A_DRAINS) {
            w->a.hold_disk = true;
            order(&w->a, EV_SWITCHOVER, false);
            run(&w->a, &w->b);
            w->a.hold_disk = false;
        } else {
            hand_over(w, &w->b);
        }
        if (kind != A_DRAINS && kind != A_HANDED && kind != B_HANDED)
            ask_for_it(w);
        if (kind == B_DONE)
            lose_answer(w, &w->b);
        else if (kind == B_RECORDED || kind == A_TAKEN)
            answer(w, &w->b);
        if (kind == B_RECORDED || kind == A_TAKEN)
            metas_done(&w->b);
        bool of_a = kind == A_DRAINS || kind == A_HANDED || kind == A_TAKEN;
        bool named_b = kind == A_TAKEN || kind == B_DONE || kind == B_RECORDED;
        node_restart(of_a ? &w->a : &w->b, true);
        disconnect_nodes(of_a ? &w->b : &w->a, of_a ? &w->b : &w->a);
        for (unsigned i = 0; i < 100; i++) {
            wait_ns(w, &w->a, 50 * NS_PER_MS);
            wait_ns(w, &w->b, 50 * NS_PER_MS);
            assert_false(takes_requests(&w->a) && takes_requests(&w->b) &&
                         view_of(&w->a).epoch == view_of(&w->b).epoch);
        }
        /* A handed over, and B asked, with a decree's life between: one of the two serves, whoever the register names.
         */
        assert_true(is_named(w, &w->b) ? w->b.serving : w->a.serving);
        if (named_b)
            assert_true(is_named(w, &w->b));
        meet_at_last(w);
        struct node *p = is_named(w, &w->b) ? &w->b : &w->a;
        assert_true(p->serving && !(p == &w->a ? &w->b : &w->a)->serving);
        write_block(p, 4096, 9);
        calm_both(w);
        assert_true(w->a.content[4096] == 9 && w->b.content[4096] == 9);
        assert_true(kind == A_DRAINS || (w->a.content[0] == 1 && w->b.content[0] == 1));
        assert_in_sync(&w->a, &w->b);
        close_world(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_other_node_takes_over),
        cmocka_unit_test(the_lease_begins_when_the_epoch_was_sent),
        cmocka_unit_test(the_former_primary_has_nothing_left_to_tell),
        cmocka_unit_test(what_is_not_safe_is_refused),
        cmocka_unit_test(who_does_not_know_the_frame_gets_none),
        cmocka_unit_test(who_drains_may_go_on),
        cmocka_unit_test(the_register_answers_before_it_hands_over),
        cmocka_unit_test(the_secondary_hears_that_it_is_called_off),
        cmocka_unit_test(a_flush_in_vain_counts_for_nothing),
        cmocka_unit_test(who_is_not_taken_over_in_time_renews),
        cmocka_unit_test(who_was_taken_over_unheard_stops),
        cmocka_unit_test(who_was_taken_over_by_a_leg_that_is_gone_takes_it_back),
        cmocka_unit_test(who_was_taken_over_by_one_that_has_died_since_leaves_it_to_that),
        cmocka_unit_test(what_the_register_says_counts_at_once),
        cmocka_unit_test(without_the_register_it_waits),
        cmocka_unit_test(with_fail_after_what_is_held_fails),
        cmocka_unit_test(it_says_what_it_waits_for),
        cmocka_unit_test(who_dies_on_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
