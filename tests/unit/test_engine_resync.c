/* The way back: who gets what it lacks from whom, what is on disk before the next step, and what may come in between.
 */
#include "tests/unit/engine_pair.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PATIENCE_NS (2 * NS_PER_S)
#define EXTENT_BYTES (64 * KIB)

static const struct node_options may_go_alone = { .has_peer = true, .alone_after_ns = PATIENCE_NS };
static const struct node_options strict = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE };

/* A fresh leg in the place of its own. */
static void replace_disk_of_b(struct node *b)
{
    node_close(b);
    node_open_with(b, 1, &may_go_alone);
    b->on_disk.leg_id = id_of(9);
    node_restart(b, true);
}

static struct hello hello_of(struct node *n)
{
    struct hello hello;
    say_hello(n, &hello);
    return hello;
}

/* A pair whose primary has gone on alone, and written what the peer lacks. */
static void open_apart(struct node *a, struct node *b)
{
    open_promoted(a, b, &may_go_alone);
    write_block(a, 0, 1);
    run(a, b);
    disconnect_nodes(a, b);
    patience_ends(a, PATIENCE_NS);
    metas_done(a);
    write_block(a, 4 * CHANGE_BYTES, 2);
    write_block(a, 64 * CHANGE_BYTES, 3);
    disks_done(a);
    assert_int_equal(a->completed, 3);
}

/* The same, connected again, the resync under way: the target's first question is in its queue. */
static void open_resyncing(struct node *a, struct node *b)
{
    open_apart(a, b);
    connect_nodes(a, b);
    assert_true(run_until_sent(a, b, b, FRAME_SYNC_ASK));
}

static void the_target_is_inconsistent_on_disk_before_it_is_ready(void **state)
{
    struct node a, b;
    open_apart(&a, &b);
    uint64_t last_good = history_last(&b.on_disk.history)->epoch;
    hellos(&a, &b);
    assert_true(told(&a, "paris-b gets what it lacks from paris-a: the blocks that may differ are compared"));
    assert_true(told(&b, "paris-b gets what it lacks from paris-a: the blocks that may differ are compared"));
    metas_done(&b);
    assert_int_equal(b.on_disk.leg, LEG_UP_TO_DATE);
    flush_done(&a, 0);
    assert_true(a.ready && !b.ready && !b.meta_pending);
    step(&b, (struct event) { .kind = EV_PEER_READY });
    assert_true(b.meta_pending && !b.ready);
    meta_done(&b, 0);
    assert_true(b.ready);
    assert_int_equal(b.on_disk.leg, LEG_SYNCING);
    assert_int_equal(b.on_disk.consistent_epoch, last_good);
    assert_int_equal(b.on_disk.history.count, a.on_disk.history.count - 1);
    /* A crash now: it is still not to be promoted. */
    node_restart(&b, true);
    order(&b, EV_PROMOTE, false);
    assert_int_equal(b.order_result, -EPERM);
    close_both(&a, &b);
}

/* Both have acknowledged what neither has flushed, and the peer, which was found to differ elsewhere, is to be a
 * target: whenever the power is lost here, one of the legs has it, and counts. A change that the peer has, and this
 * disk not yet, completes in the middle of the handshake. */
static void a_source_is_flushed_before_its_peer_is_a_target(void **state)
{
    enum { JUDGED, LATE, FLUSHED, RECORDED, KINDS };
    for (int at = 0; at < KINDS; at++) {
        struct node a, b;
        open_promoted(&a, &b, &strict);
        b.content[100 * CHANGE_BYTES] ^= 1;
        order(&a, EV_VERIFY, false);
        run(&a, &b);
        assert_true(b.on_disk.differs);
        write_block(&a, 0, 5);
        deliver(&a, &b);
        disks_done(&b);
        deliver(&b, &a);
        a.hold_disk = true;
        disconnect_nodes(&a, &b);
        hellos(&a, &b);
        metas_done(&a);
        metas_done(&b);
        assert_int_equal(a.disk_count, 1); /* the write; no flush yet */
        int completed = a.completed;
        if (at >= LATE) {
            disk_done(&a, 0);
            assert_int_equal(a.completed, completed + 1);
            assert_int_equal(a.disk_count, 1);
            assert_int_equal(a.disk[0].disk.kind, OP_FLUSH);
        }
        assert_false(a.ready || b.ready);
        if (at >= FLUSHED) {
            flush_done(&a, 0);
            assert_int_equal(a.stable[0], 5);
            assert_true(a.ready && !b.ready);
        }
        assert_int_equal(b.on_disk.leg, LEG_UP_TO_DATE);
        if (at >= RECORDED) {
            assert_true(make_ready(&a, &b));
            assert_int_equal(b.on_disk.leg, LEG_SYNCING);
        }
        node_lose_power(&a);
        disconnect_nodes(&b, &b);
        assert_true(b.content[0] == 5 && (at < FLUSHED || a.content[0] == 5));
        hellos(&a, &b);
        if (at < RECORDED) { /* a person has both */
            assert_true(a.refused && b.refused);
            disconnect_nodes(&a, &b);
            order(&b, EV_PROMOTE, true);
            metas_done(&b);
            assert_true(b.serving);
            connect_nodes(&a, &b);
        } else {
            connect_judged(&a, &b);
        }
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(a.content[0], 5);
        close_both(&a, &b);
    }
}

/* The peer has everything, and stays as it is. */
static void a_source_whose_flush_fails_takes_no_target(void **state)
{
    struct node a, b;
    open_apart(&a, &b);
    hellos(&a, &b);
    metas_done(&a);
    flush_done(&a, -EIO);
    assert_true(a.dropped && !a.ready);
    metas_done(&a);
    metas_done(&b);
    assert_int_equal(a.on_disk.leg, LEG_FAILED);
    assert_int_equal(b.on_disk.leg, LEG_UP_TO_DATE);
    close_both(&a, &b);
}

/* B was primary and has lost its power; A was promoted in its place, and shows what only its leg has. Then A's leg
 * fails, too, and is mended; B has seen A's epoch meanwhile. */
static void who_served_last_is_the_source(void **state)
{
    for (unsigned first = 0; first < 2; first++) {
        struct node n[2];
        struct node *b = &n[first], *a = &n[1 - first];
        node_open_with(&n[0], 0, &strict);
        node_open_with(&n[1], 1, &strict);
        connect_nodes(&n[0], &n[1]);
        promote(b, a);
        uint64_t epoch = b->on_disk.epoch;
        assert_int_equal(b->on_disk.served_epoch, epoch);
        write_block(b, 0, 7);
        run(&n[0], &n[1]);
        assert_int_equal(b->completed, 1);
        node_lose_power(b);
        disconnect_nodes(a, a);
        promote(a, a);
        assert_int_equal(a->on_disk.served_epoch, epoch + 1);
        b->stable[0] = 0; /* it was flushed nowhere */
        b->content[0] = 0;
        /* Its own flush fails. */
        hellos(&n[0], &n[1]);
        metas_done(b);
        metas_done(a);
        flush_done(a, -EIO);
        metas_done(a);
        assert_int_equal(a->on_disk.leg, LEG_FAILED);
        disconnect_nodes(&n[0], &n[1]);
        assert_int_equal(b->on_disk.epoch, epoch + 1);
        assert_int_equal(b->on_disk.served_epoch, epoch);
        node_restart(a, true);
        assert_true(a->on_disk.lost_power && b->on_disk.lost_power);
        assert_true(a->on_disk.was_primary && b->on_disk.was_primary);
        connect_nodes(&n[0], &n[1]);
        run(&n[0], &n[1]);
        assert_in_sync(&n[0], &n[1]);
        assert_int_equal(b->content[0], 7);
        assert_int_equal(b->on_disk.served_epoch, 0); /* what it served is overwritten */
        close_both(&n[0], &n[1]);
    }
}

/* However often it is interrupted: what came with the changes since is on it beside blocks that are old. */
static void the_last_consistent_state_is_kept_until_the_resync_is_done(void **state)
{
    enum { SESSION, DAEMON, POWER, KINDS };
    struct node a, b;
    open_apart(&a, &b);
    uint64_t epoch = history_last(&b.on_disk.history)->epoch, lsn = view_of(&b).lsn;
    assert_true(epoch > 0 && lsn > 0);
    assert_int_equal(view_of(&b).consistent_epoch + view_of(&b).consistent_lsn, 0);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        connect_nodes(&a, &b);
        assert_int_equal(b.on_disk.leg, LEG_SYNCING);
        assert_int_equal(b.on_disk.consistent_epoch, epoch);
        assert_int_equal(b.on_disk.consistent_lsn, lsn);
        assert_int_equal(view_of(&b).consistent_epoch, epoch);
        assert_int_equal(view_of(&b).consistent_lsn, lsn);
        assert_int_equal(view_of(&a).consistent_epoch, 0);
        assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_ASK));
        write_block(&a, (10 + kind) * CHANGE_BYTES, 9);
        while (a.sent_count)
            deliver(&a, &b);
        disks_done(&a);
        disks_done(&b);
        assert_true(view_of(&b).lsn > lsn);
        disconnect_nodes(&a, &b);
        disks_done(&a);
        disks_done(&b);
        if (kind == DAEMON)
            node_restart(&b, true);
        if (kind == POWER)
            node_lose_power(&b);
        assert_int_equal(view_of(&b).consistent_lsn, lsn);
    }
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.on_disk.consistent_epoch + b.on_disk.consistent_lsn, 0);
    assert_int_equal(view_of(&b).consistent_epoch + view_of(&b).consistent_lsn, 0);
    close_both(&a, &b);
}

/* Who thinks of force is told what he would get. */
static void whoever_promotes_a_half_made_leg_hears_what_it_is(void **state)
{
    for (unsigned made_anew = 0; made_anew < 2; made_anew++) {
        struct node a, b;
        open_apart(&a, &b);
        char words[ACTION_TEXT_BYTES] = "Its leg is inconsistent, and has never been consistent";
        if (made_anew)
            replace_disk_of_b(&b);
        else
            snprintf(words, sizeof(words),
                     "Its leg is inconsistent: newer in part than its last consistent state, epoch %llu, LSN %llu",
                     (unsigned long long)history_last(&b.on_disk.history)->epoch, (unsigned long long)view_of(&b).lsn);
        connect_nodes(&a, &b);
        assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_ASK));
        disconnect_nodes(&a, &b);
        order(&b, EV_PROMOTE, false);
        assert_int_equal(b.order_result, -EPERM);
        assert_non_null(strstr(b.order_text, "--force"));
        assert_non_null(strstr(b.order_text, words));
        assert_false(told(&b, words));
        order(&b, EV_PROMOTE, true);
        metas_done(&b);
        assert_true(b.serving);
        assert_int_equal(b.order_result, 0);
        assert_string_equal(b.order_text, words);
        assert_true(told(&b, words));
        /* It counts from here on. */
        assert_int_equal(view_of(&b).consistent_epoch, 0);
        order(&b, EV_DEMOTE, false);
        disks_done(&b);
        metas_done(&b);
        assert_int_equal(b.order_result, 0);
        order(&b, EV_PROMOTE, false);
        metas_done(&b);
        assert_true(b.serving);
        assert_string_equal(b.order_text, "");
        close_both(&a, &b);
    }
}

static void each_step_of_the_finish_waits_for_the_one_before(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    assert_string_equal(view_of(&a).why_not, "the leg of paris-b is being resynced");
    assert_string_equal(view_of(&b).why_not, "the leg of paris-b is being resynced from paris-a");
    assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_STABLE));
    struct superblock before = a.on_disk;
    deliver(&b, &a);
    /* The source's own leg is flushed: it may have read from a cache what the target has on stable storage. */
    assert_int_equal(a.disk[0].disk.kind, OP_FLUSH);
    assert_int_equal(a.sent_count, 0);
    disks_done(&a);
    assert_int_equal(deliver(&a, &b).kind, FRAME_SYNC_STABLE);
    assert_false(a.meta_pending);
    assert_int_equal(deliver(&b, &a).kind, FRAME_SYNC_DONE);
    /* The source's record, before the target is told. */
    assert_true(a.meta_pending);
    assert_int_equal(a.sent_count, 0);
    meta_done(&a, 0);
    assert_int_equal(a.on_disk.epoch, before.epoch + 1);
    assert_int_equal(a.on_disk.history.count, before.history.count + 1);
    assert_true(a.on_disk.peer_in_sync);
    assert_int_equal(a.sent_count, 1);
    assert_int_equal(b.on_disk.leg, LEG_SYNCING);
    assert_int_equal(deliver(&a, &b).kind, FRAME_DECREE);
    /* The target's record, before it acknowledges. */
    assert_true(b.meta_pending);
    assert_int_equal(b.sent_count, 0);
    meta_done(&b, 0);
    assert_int_equal(b.on_disk.leg, LEG_UP_TO_DATE);
    assert_int_equal(history_relate(&a.on_disk.history, &b.on_disk.history), HISTORY_EQUAL);
    assert_int_equal(b.sent_count, 1);
    /* The acknowledgement, before the source counts on it. */
    assert_false(view_of(&a).in_sync);
    assert_int_equal(deliver(&b, &a).kind, FRAME_ACK);
    assert_true(view_of(&a).in_sync);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(hello_of(&a).dirty_bytes + hello_of(&b).dirty_bytes, 0);
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* Changes reach both legs from the first moment on, also where the target has old blocks still. */
static void the_application_goes_on_writing(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    int completed = a.completed;
    write_block(&a, 4 * CHANGE_BYTES, 7);  /* which is asked for */
    write_block(&a, 10 * CHANGE_BYTES, 8); /* which is equal */
    disks_done(&a);
    assert_int_equal(a.completed, completed);
    run(&a, &b);
    assert_int_equal(a.completed, completed + 2);
    assert_int_equal(a.complete_result, 0);
    assert_in_sync(&a, &b);
    assert_int_equal(b.content[4 * CHANGE_BYTES], 7);
    assert_int_equal(b.content[10 * CHANGE_BYTES], 8);
    close_both(&a, &b);
}

enum finish_step {
    TARGET_IS_DONE,    /* the source's record is on its way to its disk */
    SOURCE_HAS_RECORD, /* the target is told, but does not hear it */
    TARGET_IS_TOLD,    /* its record is on its way to its disk */
    TARGET_HAS_RECORD, /* it acknowledges, but the source does not hear it */
    SOURCE_IS_TOLD,    /* all is done */
    FINISH_STEPS,
};

static void finish_up_to(struct node *a, struct node *b, enum finish_step last)
{
    assert_true(run_until_sent(a, b, b, FRAME_SYNC_DONE));
    deliver(b, a);
    disks_done(a);
    assert_true(a->meta_pending);
    if (last >= SOURCE_HAS_RECORD)
        metas_done(a);
    if (last >= TARGET_IS_TOLD)
        assert_int_equal(deliver(a, b).kind, FRAME_DECREE);
    if (last >= TARGET_HAS_RECORD)
        metas_done(b);
    if (last >= SOURCE_IS_TOLD)
        assert_int_equal(deliver(b, a).kind, FRAME_ACK);
}

enum what_ends { SESSION_ENDS, SOURCE_CRASHES, TARGET_CRASHES, BOTH_CRASH, TARGET_LOSES_POWER, BOTH_LOSE_POWER, ENDS };

static void end_session(struct node *a, struct node *b, enum what_ends what)
{
    bool source = what == SOURCE_CRASHES || what == BOTH_CRASH;
    bool target = what == TARGET_CRASHES || what == BOTH_CRASH;
    disconnect_nodes(a, b);
    if (what == BOTH_LOSE_POWER)
        node_lose_power(a);
    if (what == TARGET_LOSES_POWER || what == BOTH_LOSE_POWER)
        node_lose_power(b);
    if (source)
        node_restart(a, true);
    if (target)
        node_restart(b, true);
    metas_done(a);
    metas_done(b);
    disks_done(a);
    disks_done(b);
}

/* Wherever it is cut: nothing that was acknowledged is lost, and the next session brings both together. */
static void a_session_lost_in_the_finish_is_made_good(void **state)
{
    for (enum what_ends what = 0; what < ENDS; what++) {
        for (enum finish_step last = 0; last < FINISH_STEPS; last++) {
            struct node a, b;
            open_apart(&a, &b);
            request(&a, OP_FLUSH, 0);
            disks_done(&a);
            connect_nodes(&a, &b);
            finish_up_to(&a, &b, last);
            end_session(&a, &b, what);
            assert_int_equal(b.on_disk.leg, last >= TARGET_HAS_RECORD ||
                                                    (last == TARGET_IS_TOLD && what == SESSION_ENDS) ||
                                                    (last == TARGET_IS_TOLD && what == SOURCE_CRASHES)
                                                ? LEG_UP_TO_DATE
                                                : LEG_SYNCING);
            connect_nodes(&a, &b);
            run(&a, &b);
            assert_in_sync(&a, &b);
            assert_int_equal(b.content[4 * CHANGE_BYTES], 2);
            assert_int_equal(history_relate(&a.on_disk.history, &b.on_disk.history), HISTORY_EQUAL);
            assert_false(told(&a, "everything is compared"));
            close_both(&a, &b);
        }
    }
}

/* The same with a source that goes on alone when the session is lost, and a target that comes back later. */
static void a_source_that_goes_on_alone_again_is_the_source_again(void **state)
{
    for (enum finish_step last = 0; last < FINISH_STEPS; last++) {
        struct node a, b;
        open_resyncing(&a, &b);
        finish_up_to(&a, &b, last);
        end_session(&a, &b, SESSION_ENDS);
        patience_ends(&a, PATIENCE_NS);
        metas_done(&a);
        int completed = a.completed;
        write_block(&a, 4 * CHANGE_BYTES, 9);
        disks_done(&a);
        assert_int_equal(a.completed, completed + 1);
        assert_int_equal(a.complete_result, 0);
        connect_nodes(&a, &b);
        assert_false(view_of(&a).in_sync);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(b.content[4 * CHANGE_BYTES], 9);
        /* By bits, also if the target never heard of the decree that takes it in. */
        assert_false(told(&b, "everything is compared"));
        close_both(&a, &b);
    }
}

/* Its record says that it is in sync: who is promoted then has all. If the old primary goes on alone meanwhile, that is
 * split brain, and nobody's changes are overwritten. */
static void a_target_promoted_right_after_its_record(void **state)
{
    for (int source_goes_alone = 0; source_goes_alone < 2; source_goes_alone++) {
        struct node a, b;
        open_resyncing(&a, &b);
        finish_up_to(&a, &b, TARGET_HAS_RECORD);
        end_session(&a, &b, SOURCE_CRASHES);
        order(&b, EV_PROMOTE, false);
        metas_done(&b);
        assert_true(b.serving);
        patience_ends(&b, PATIENCE_NS);
        metas_done(&b);
        write_block(&b, 0, 5);
        disks_done(&b);
        assert_int_equal(b.complete_result, 0);
        if (source_goes_alone) {
            order(&a, EV_PROMOTE, false);
            metas_done(&a);
            patience_ends(&a, PATIENCE_NS);
            metas_done(&a);
            write_block(&a, 0, 6);
            disks_done(&a);
            assert_int_equal(a.completed, 1);
            node_restart(&a, true);
            hellos(&a, &b);
            assert_true(a.refused && b.refused);
            assert_true(told(&a, "split brain") && told(&b, "split brain"));
            assert_true(a.content[0] == 6 && b.content[0] == 5);
        } else {
            connect_nodes(&a, &b);
            run(&a, &b);
            assert_in_sync(&a, &b);
            assert_int_equal(a.content[0], 5);
        }
        close_both(&a, &b);
    }
}

static void the_target_is_not_promoted_while_it_is_resynced(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    order(&b, EV_PROMOTE, false);
    assert_int_equal(b.order_result, -EPERM);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

static void the_source_is_demoted_and_promoted_during_a_resync(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    int orders = a.orders_done;
    order(&a, EV_DEMOTE, false);
    assert_false(a.serving);
    run(&a, &b);
    assert_int_equal(a.orders_done, orders + 1);
    assert_int_equal(a.order_result, 0);
    assert_int_equal(a.on_disk.role, ROLE_SECONDARY);
    run(&a, &b);
    assert_in_sync(&a, &b);
    /* Either can be promoted now. */
    promote(&b, &a);
    close_both(&a, &b);

    /* And again, by a source that is secondary from the start. */
    open_apart(&a, &b);
    node_restart(&a, true);
    connect_nodes(&a, &b);
    assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_ASK));
    order(&a, EV_PROMOTE, false);
    run(&a, &b);
    assert_true(a.serving);
    assert_int_equal(a.order_result, 0);
    write_block(&a, 4 * CHANGE_BYTES, 9);
    run(&a, &b);
    assert_int_equal(a.completed, 1);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

static void detached_during_a_resync_it_goes_on_later(void **state)
{
    for (int target = 0; target < 2; target++) {
        struct node a, b;
        open_resyncing(&a, &b);
        struct node *n = target ? &b : &a;
        order(n, EV_DETACH, false);
        while (!n->dropped) {
            disks_done(&a);
            metas_done(&a);
            disks_done(&b);
            metas_done(&b);
            if (n->dropped)
                break;
            if (a.sent_count)
                deliver(&a, &b);
            else if (b.sent_count)
                deliver(&b, &a);
            else
                fail_msg("nobody drops the session");
        }
        disconnect_nodes(&a, &b);
        disks_done(n);
        metas_done(n);
        assert_int_equal(n->order_result, 0);
        assert_false(n->on_disk.attached);
        node_restart(n, true);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(b.content[64 * CHANGE_BYTES], 3);
        assert_false(told(&b, "everything is compared"));
        close_both(&a, &b);
    }
}

/* A resync can take hours: its reads are under way all the time. */
static void an_order_does_not_wait_for_the_end_of_a_resync(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    deliver(&b, &a);
    assert_true(a.disk_count > 0);
    order(&a, EV_DETACH, false);
    assert_true(a.dropped);
    disconnect_nodes(&a, &b);
    disks_done(&a);
    metas_done(&a);
    assert_int_equal(a.order_result, 0);
    assert_false(a.on_disk.attached);
    close_both(&a, &b);

    open_resyncing(&a, &b);
    deliver(&b, &a);
    unsigned reads = a.disk_count;
    assert_true(reads > 0);
    order(&a, EV_DEMOTE, false);
    /* The demotion's flush comes first. */
    assert_int_equal(a.disk_count, reads + 1);
    struct action flush = a.disk[reads];
    assert_int_equal(flush.disk.kind, OP_FLUSH);
    a.disk[reads] = a.disk[0];
    a.disk[0] = flush;
    int orders = a.orders_done;
    disk_done(&a, 0);
    metas_done(&a);
    assert_int_equal(a.orders_done, orders + 1);
    assert_int_equal(a.order_result, 0);
    assert_int_equal(a.on_disk.role, ROLE_SECONDARY);
    assert_int_equal(a.disk_count, reads);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* The peer's one acknowledgement answers both. */
static void a_promotion_is_asked_for_right_after_the_target_is_taken_in(void **state)
{
    struct node a, b;
    open_apart(&a, &b);
    node_restart(&a, true);
    connect_nodes(&a, &b);
    finish_up_to(&a, &b, SOURCE_HAS_RECORD);
    assert_int_equal(a.sent[0].frame.kind, FRAME_DECREE);
    order(&a, EV_PROMOTE, false);
    assert_int_equal(a.sent_count, 2);
    assert_int_equal(a.sent[1].frame.kind, FRAME_DECREE);
    deliver(&a, &b);
    deliver(&a, &b);
    run(&a, &b);
    assert_true(a.serving);
    assert_in_sync(&a, &b);
    write_block(&a, 0, 9);
    run(&a, &b);
    assert_int_equal(a.completed, 1);
    assert_in_sync(&a, &b);
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* The target is promoted itself at that moment: it serves when both of its records are on disk. */
static void a_target_that_has_just_been_taken_in_may_ask_itself(void **state)
{
    struct node a, b;
    open_apart(&a, &b);
    node_restart(&a, true);
    connect_nodes(&a, &b);
    finish_up_to(&a, &b, TARGET_IS_TOLD);
    order(&b, EV_PROMOTE, false);
    assert_false(b.serving);
    run(&a, &b);
    assert_true(b.serving);
    assert_int_equal(b.order_result, 0);
    assert_in_sync(&a, &b);
    write_block(&b, 0, 9);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* What it had completed, and the primary acknowledged, is gone with its power: the primary knows exactly what. */
static void a_secondary_that_lost_its_power_gets_what_it_had_not_flushed(void **state)
{
    for (int flushed = 0; flushed < 2; flushed++) {
        struct node a, b;
        open_promoted(&a, &b, &strict);
        write_block(&a, 0, 1);
        run(&a, &b);
        request(&a, OP_FLUSH, 0);
        run(&a, &b);
        if (!flushed)
            write_block(&a, 8 * CHANGE_BYTES, 2);
        run(&a, &b);
        disconnect_nodes(&a, &b);
        node_lose_power(&b);
        assert_int_equal(b.content[8 * CHANGE_BYTES], 0);
        order(&b, EV_PROMOTE, false);
        assert_int_equal(b.order_result, -EPERM);
        connect_nodes(&a, &b);
        assert_int_equal(hello_of(&a).dirty_bytes, flushed ? 0 : CHANGE_BYTES);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(b.content[0], 1);
        assert_int_equal(b.content[8 * CHANGE_BYTES], flushed ? 0 : 2);
        /* It has what it lacked: it may be promoted now, and after its next clean start. */
        assert_false(b.on_disk.lost_power);
        order(&a, EV_DEMOTE, false);
        run(&a, &b);
        promote(&b, &a);
        close_both(&a, &b);
    }
}

/* The primary has crashed, too, and with it what it knew of the peer's flushes: its log on disk covers all that. */
static void both_machines_lose_power(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 0, 1);
    run(&a, &b);
    request(&a, OP_FLUSH, 0);
    run(&a, &b);
    write_block(&a, 8 * CHANGE_BYTES, 2);
    run(&a, &b);
    memcpy(b.stable, b.content, VOLUME_BYTES); /* one disk was faster than the other */
    disconnect_nodes(&a, &b);
    node_lose_power(&a);
    node_lose_power(&b);
    assert_memory_not_equal(a.content, b.content, VOLUME_BYTES);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(a.content[0], 1);
    assert_false(a.on_disk.lost_power || b.on_disk.lost_power);
    close_both(&a, &b);
}

/* The primary's machine alone lost its power: the secondary has what was acknowledged. */
static void a_primary_that_lost_its_power_gets_it_from_the_secondary(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 8 * CHANGE_BYTES, 2);
    run(&a, &b);
    assert_int_equal(a.completed, 1);
    disconnect_nodes(&a, &b);
    node_lose_power(&a);
    assert_int_equal(a.content[8 * CHANGE_BYTES], 0);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(a.content[8 * CHANGE_BYTES], 2);
    close_both(&a, &b);
}

/* What the secondary gave back to it was in the secondary's cache only. That the legs may differ there is known from
 * the activity log of the former primary, and from nothing else. */
static void a_source_that_loses_its_power_before_it_has_flushed_what_it_sent(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 8 * CHANGE_BYTES, 2);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    node_lose_power(&a);
    connect_nodes(&a, &b);
    assert_true(run_until_sent(&a, &b, &a, FRAME_SYNC_STABLE));
    assert_int_equal(a.stable[8 * CHANGE_BYTES], 2);
    deliver(&a, &b);
    assert_int_equal(b.disk[0].disk.kind, OP_FLUSH);
    disconnect_nodes(&a, &b);
    node_lose_power(&b);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* Promoted by force, a leg that lacks what was acknowledged: no bitmap tells what it lost, and the other leg, which has
 * it still, must not keep it silently. */
static void what_a_forced_promotion_gave_up_is_gone_on_both_legs(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 0, 1);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    node_lose_power(&b);
    assert_int_equal(b.content[0], 0);
    order(&b, EV_PROMOTE, true);
    metas_done(&b);
    assert_true(b.serving);
    hellos(&a, &b);
    metas_done(&a);
    assert_false(a.serving);
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(a.content[0], 0);
    close_both(&a, &b);
}

/* In the middle of its resync it has neither what it had nor what it was to get: whoever forces it has named the loss
 * of what he could not reach, not the end of what comes back. */
static void a_leg_forced_half_way_overwrites_nobody(void **state)
{
    for (unsigned made_anew = 0; made_anew < 2; made_anew++) {
        struct node a, b;
        open_promoted(&a, &b, &strict);
        write_block(&a, 0, 1);
        run(&a, &b);
        disconnect_nodes(&a, &b);
        if (made_anew)
            replace_disk_of_b(&b);
        else
            node_lose_power(&b);
        connect_nodes(&a, &b);
        assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_ASK));
        disconnect_nodes(&a, &b);
        order(&b, EV_PROMOTE, true);
        metas_done(&b);
        assert_true(b.serving);
        assert_true(told(&b, "is refused as split brain"));
        hellos(&a, &b); /* deposed */
        metas_done(&a);
        assert_false(a.serving);
        for (unsigned i = 0; i < 2; i++) {
            disconnect_nodes(&a, &b);
            hellos(&a, &b);
            assert_true(a.refused && b.refused);
            if (!strstr(a.text, "split brain: paris-b was promoted") || strcmp(a.text, b.text) != 0)
                fail_msg("%s / %s", a.text, b.text);
            /* Also after the next start of either. */
            node_restart(i ? &b : &a, true);
        }
        assert_int_equal(a.content[0], 1);
        assert_int_equal(a.on_disk.leg, LEG_UP_TO_DATE);
        disconnect_nodes(&a, &b);
        replace_disk_of_b(&b);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(b.content[0], 1);
        close_both(&a, &b);
    }
}

/* Overtaken while it had a change under way: it may be on one leg, and the new primary's content holds. */
static void a_deposed_primary_reconciles(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 0, 1);
    run(&a, &b);
    write_block(&a, 0, 2);
    disks_done(&a);
    disconnect_nodes(&a, &b);
    promote(&b, &a);
    write_block(&b, 8 * CHANGE_BYTES, 3);
    disks_done(&b);
    hellos(&a, &b);
    assert_true(a.dropped && b.dropped && !a.refused && !b.refused);
    metas_done(&a);
    assert_false(a.serving);
    assert_int_equal(a.complete_result, -EIO);
    disconnect_nodes(&a, &b);
    assert_int_equal(hello_of(&a).dirty_bytes, CHANGE_BYTES);

    connect_nodes(&a, &b);
    run(&a, &b);
    assert_true(told(&a, "paris-a gets what it lacks from paris-b: the blocks that may differ are compared"));
    assert_in_sync(&a, &b);
    assert_int_equal(a.content[0], 1);
    assert_int_equal(b.completed, 1);
    assert_int_equal(a.content[8 * CHANGE_BYTES], 3);
    close_both(&a, &b);
}

/* A flush fails, then the superblock that is to tell of it, then the daemon ends: on that disk everything looks well.
 */
static void a_failure_that_its_own_disk_did_not_record(void **state)
{
    enum { PRIMARY_FAILS, SECONDARY_FAILS, BOTH_RESTART, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct node a, b;
        open_promoted(&a, &b, &strict);
        write_block(&a, 0, 1);
        run(&a, &b);
        request(&a, OP_FLUSH, 0);
        run(&a, &b);
        write_block(&a, 8 * CHANGE_BYTES, 2);
        run(&a, &b);
        assert_int_equal(a.completed, 3);
        struct node *bad = kind == SECONDARY_FAILS ? &b : &a, *good = bad == &a ? &b : &a;
        request(&a, OP_FLUSH, 0);
        deliver(&a, &b);
        disk_done(bad, -EIO);
        disk_done(good, 0);
        if (bad->meta_pending)
            meta_done(bad, -EIO);
        while (b.sent_count)
            deliver(&b, &a);
        metas_done(good);
        disconnect_nodes(&a, &b);
        /* Else it would go on through the peer, who would have more on record than this. */
        if (bad == &a)
            order(&a, EV_DEMOTE, true);
        hellos(&a, &b);
        metas_done(good);
        assert_true(a.refused && b.refused);
        assert_int_equal(good->on_disk.peer_leg, LEG_FAILED);
        assert_int_equal(bad->on_disk.leg, LEG_UP_TO_DATE);
        disconnect_nodes(&a, &b);
        memcpy(bad->content, bad->stable, VOLUME_BYTES);
        memset(bad->content + 8 * CHANGE_BYTES, 0, CHANGE_BYTES);
        node_restart(bad, true);
        assert_false(bad->on_disk.lost_power);
        if (kind == BOTH_RESTART)
            node_restart(good, true);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(a.content[8 * CHANGE_BYTES], 2);
        assert_int_equal(good->on_disk.peer_leg, LEG_NONE);
        close_both(&a, &b);
    }
}

/* The leg that had failed is whole on its own record, and the source loses its power before it has written that the
 * resync is over: the failure must not be held against the leg any more. */
static void power_lost_as_the_resync_of_a_failed_leg_ends(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 0, 1);
    run(&a, &b);
    request(&a, OP_FLUSH, 0);
    deliver(&a, &b);
    disk_done(&b, -EIO);
    disk_done(&a, 0);
    while (b.sent_count)
        deliver(&b, &a);
    metas_done(&a);
    metas_done(&b);
    disconnect_nodes(&a, &b);
    hellos(&a, &b);
    metas_done(&a);
    assert_int_equal(a.on_disk.peer_leg, LEG_FAILED);
    disconnect_nodes(&a, &b);
    node_restart(&b, true);
    connect_nodes(&a, &b);
    assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_DONE));
    while (b.sent_count)
        deliver(&b, &a);
    assert_int_equal(a.on_disk.peer_leg, LEG_FAILED);
    metas_done(&a);
    assert_int_equal(a.on_disk.peer_leg, LEG_NONE);
    assert_int_equal(b.on_disk.leg, LEG_SYNCING);
    while (a.sent_count)
        deliver(&a, &b);
    metas_done(&b);
    assert_int_equal(b.on_disk.leg, LEG_UP_TO_DATE);
    int completed = a.completed;
    write_block(&a, 8 * CHANGE_BYTES, 2);
    while (a.disk_count + b.disk_count + a.sent_count + b.sent_count > 0) {
        disks_done(&a);
        disks_done(&b);
        if (a.sent_count)
            deliver(&a, &b);
        if (b.sent_count)
            deliver(&b, &a);
    }
    assert_true(a.completed > completed);
    disconnect_nodes(&a, &b);
    node_lose_power(&a);
    assert_int_equal(a.content[8 * CHANGE_BYTES], 0);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(a.content[8 * CHANGE_BYTES], 2);
    close_both(&a, &b);
}

/* The target called a granule stable, got another change into it, and fails the flush of that; meanwhile the source's
 * flush for the former is on its way, and ends before the connection does. */
static void a_bit_set_by_a_failed_flush_outlives_the_flush_before_it(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_STABLE));
    int completed = a.completed;
    write_block(&a, 64 * CHANGE_BYTES, 9);
    disks_done(&a);
    while (a.sent_count)
        deliver(&a, &b);
    disks_done(&b);
    while (b.sent_count)
        deliver(&b, &a);
    assert_int_equal(a.completed, completed + 1);
    assert_true(a.disk_count == 1 && a.disk[0].disk.kind == OP_FLUSH); /* the source's */
    request(&a, OP_FLUSH, 0);
    while (a.sent_count)
        deliver(&a, &b);
    assert_true(b.disk_count == 1 && b.disk[0].disk.kind == OP_FLUSH);
    disk_done(&b, -EIO);
    while (b.sent_count)
        deliver(&b, &a);
    assert_true(a.dropped);
    disks_done(&a);
    assert_true(view_of(&a).out_of_sync_bytes >= CHANGE_BYTES);
    metas_done(&a);
    metas_done(&b);
    disconnect_nodes(&a, &b);
    /* Its next flush does not write what this one has lost. */
    memset(b.content + 64 * CHANGE_BYTES, 0, CHANGE_BYTES);
    node_restart(&b, true);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.stable[64 * CHANGE_BYTES], 9);
    close_both(&a, &b);
}

/* A flush of an earlier session, acknowledged to nobody any more, fails while its leg is a target: the device may have
 * let go of what the present session wrote, although its next flush succeeds. */
static void an_old_flush_fails_in_a_resync(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_block(&a, 0, 1);
    run(&a, &b);
    request(&a, OP_FLUSH, 0);
    deliver(&a, &b);
    assert_true(b.disk_count == 1 && b.disk[0].disk.kind == OP_FLUSH);
    struct action old = b.disk[0]; /* it takes its time */
    b.disk_count = 0;
    disks_done(&a);
    disconnect_nodes(&a, &b);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    write_block(&a, 4 * CHANGE_BYTES, 2);
    write_block(&a, 64 * CHANGE_BYTES, 3);
    disks_done(&a);
    assert_int_equal(a.completed, 4);
    connect_nodes(&a, &b);
    while (!(b.disk_count && b.disk[0].disk.kind == OP_FLUSH))
        assert_true(run_step(&a, &b));
    assert_int_equal(b.content[4 * CHANGE_BYTES], 2);
    struct action own = b.disk[0];
    b.disk_count = 0;
    memcpy(b.content, b.stable, DISK_BYTES);
    step(&b, (struct event) { .kind = EV_DISK_DONE, .disk = { .op = old.disk.op, .result = -EIO } });
    b.disk[b.disk_count++] = own;
    assert_true(b.dropped);
    disks_done(&b);
    for (uint32_t i = 0; i < b.sent_count; i++)
        assert_int_not_equal(b.sent[i].frame.kind, FRAME_SYNC_STABLE);
    metas_done(&b);
    disconnect_nodes(&a, &b);
    node_restart(&b, true);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.content[4 * CHANGE_BYTES], 2);
    close_both(&a, &b);
}

/* A new disk in the place of the old one, and one that has failed and was mended. */
static void a_replaced_disk_gets_everything(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_block(&a, 0, 1);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    replace_disk_of_b(&b);
    connect_nodes(&a, &b);
    assert_true(told(&b, "everything is compared"));
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.content[0], 1);
    close_both(&a, &b);
}

/* In the record by which it becomes one of the volume's, it is a target: whoever loses the other one then must not be
 * given its zeroes. */
static void a_new_leg_is_never_the_volumes_and_whole(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_block(&a, 0, 1);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    replace_disk_of_b(&b);
    hellos(&a, &b);
    assert_true(id_is_none(b.on_disk.volume_id));
    metas_done(&b);
    assert_true(id_equal(b.on_disk.volume_id, a.on_disk.volume_id));
    assert_int_equal(b.on_disk.leg, LEG_SYNCING);
    assert_false(b.ready);
    node_lose_power(&a);
    disconnect_nodes(&b, &b);
    order(&b, EV_PROMOTE, false);
    metas_done(&b);
    assert_false(b.serving);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* It has no history before its first resync is over, but the application's changes since that began. */
static void a_new_leg_that_loses_its_power_at_the_end_of_its_first_resync(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_block(&a, 0, 1);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    replace_disk_of_b(&b);
    connect_nodes(&a, &b);
    assert_true(told(&b, "everything is compared"));
    assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_DONE));
    assert_int_equal(hello_of(&b).dirty_bytes, 0); /* all that differed is stable there */
    assert_int_equal(b.on_disk.history.count, 0);
    int completed = a.completed;
    write_block(&a, 8 * CHANGE_BYTES, 2);
    /* All but the source's record of the end. */
    for (bool busy = true; busy && a.completed == completed;) {
        busy = a.disk_count + b.disk_count + a.sent_count + b.sent_count > 0;
        disks_done(&a);
        disks_done(&b);
        if (a.sent_count)
            deliver(&a, &b);
        if (b.sent_count)
            deliver(&b, &a);
    }
    assert_int_equal(a.completed, completed + 1);
    assert_int_equal(b.on_disk.leg, LEG_SYNCING);
    disconnect_nodes(&a, &b);
    node_lose_power(&b);
    assert_true(b.on_disk.lost_power);
    assert_int_equal(b.content[8 * CHANGE_BYTES], 0);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.content[8 * CHANGE_BYTES], 2);
    close_both(&a, &b);
}

/* A full resync of which the first windows are done: what is left does not grow again, whatever interrupts it. */
static void a_full_resync_goes_on_where_it_was(void **state)
{
    static const struct node_options tiny_log = {
        .has_peer = true, .alone_after_ns = PATIENCE_NS, .extent_bytes = EXTENT_BYTES, .log_slots = 2
    };
    for (enum what_ends what = 0; what < ENDS; what++) {
        struct node a, b;
        open_promoted(&a, &b, &tiny_log);
        for (unsigned i = 0; i < VOLUME_BYTES / CHANGE_BYTES; i++) {
            write_block(&a, (uint64_t)i * CHANGE_BYTES, (uint8_t)i);
            run(&a, &b);
        }
        request(&a, OP_FLUSH, 0);
        run(&a, &b);
        disconnect_nodes(&a, &b);
        replace_disk_of_b(&b);
        connect_nodes(&a, &b);
        assert_true(told(&a, "everything is compared"));
        assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_ASK));
        deliver(&b, &a);
        assert_int_equal(a.disk[0].disk.kind, OP_READ);
        disk_done(&a, -EIO); /* so that something is left */
        assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_STABLE));
        deliver(&b, &a);
        /* It may take hours: what is done is on disk every few seconds. */
        disks_done(&a);
        tick(&a, a.now_ns + 10 * NS_PER_S);
        metas_done(&a);
        assert_false(a.on_disk.full);
        uint64_t left = hello_of(&a).dirty_bytes;
        assert_true(left > 0 && left <= VOLUME_BYTES / 8);
        a.notes[0] = b.notes[0] = 0;
        end_session(&a, &b, what);
        connect_nodes(&a, &b);
        assert_false(told(&a, "everything is compared") || told(&b, "everything is compared"));
        /* After a crash, what the activity log covers beside that. */
        bool crashed = what == SOURCE_CRASHES || what == BOTH_CRASH || what == BOTH_LOSE_POWER;
        assert_true(hello_of(&a).dirty_bytes <= left + (crashed ? 2 * EXTENT_BYTES : 0));
        run(&a, &b);
        assert_in_sync(&a, &b);
        close_both(&a, &b);
    }
}

/* Pages of the bitmap are on their way still: `full` stands for them. */
static void full_stays_on_record_until_the_bitmap_tells(void **state)
{
    for (int crashes = 0; crashes < 2; crashes++) {
        struct node a, b;
        open_promoted(&a, &b, &may_go_alone);
        write_block(&a, 0, 1);
        run(&a, &b);
        disconnect_nodes(&a, &b);
        replace_disk_of_b(&b);
        a.hold_pages = true;
        hellos(&a, &b);
        metas_done(&a);
        assert_int_equal(a.page_count, 1);
        assert_true(a.on_disk.full);
        if (crashes) {
            disconnect_nodes(&a, &b);
            node_restart(&a, true);
            assert_int_equal(hello_of(&a).dirty_bytes, VOLUME_BYTES);
        } else {
            page_done(&a, 0);
            metas_done(&a);
            assert_false(a.on_disk.full);
        }
        close_both(&a, &b);
    }
}

/* A page that was on its way when the daemon was killed may be in the disk's cache, and is gone with its power. Who
 * reads it in between does not count on it: `full` stays until the page was written once more. */
static void a_page_that_nobody_saw_written_is_written_again(void **state)
{
    for (int landed = 0; landed < 2; landed++) {
        struct node a, b;
        open_promoted(&a, &b, &may_go_alone);
        write_block(&a, 0, 1);
        run(&a, &b);
        disconnect_nodes(&a, &b);
        replace_disk_of_b(&b);
        a.hold_pages = true;
        hellos(&a, &b);
        metas_done(&a);
        assert_int_equal(a.page_count, 1);
        if (landed)
            memcpy(a.bitmap, a.pages[0].page.block, META_PAGE_BYTES);
        node_restart(&a, true);
        assert_true(a.on_disk.full);
        a.hold_pages = true;
        tick(&a, a.now_ns + 1);
        metas_done(&a);
        assert_int_equal(a.page_count, 1);
        assert_true(a.on_disk.full);
        page_done(&a, 0);
        metas_done(&a);
        assert_false(a.on_disk.full);
        disconnect_nodes(&b, &b);
        a.hold_pages = false;
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        close_both(&a, &b);
    }
}

static void a_mended_leg_gets_what_it_lacks(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 0, 1);
    run(&a, &b);
    request(&a, OP_FLUSH, 0);
    deliver(&a, &b);
    disk_done(&b, -EIO);
    disks_done(&a);
    run(&a, &b);
    assert_true(a.dropped || b.dropped);
    disconnect_nodes(&a, &b);
    metas_done(&a);
    metas_done(&b);
    assert_int_equal(b.on_disk.leg, LEG_FAILED);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
    disconnect_nodes(&a, &b);
    memset(b.content, 0, VOLUME_BYTES); /* the page cache let go of what it could not write */
    node_restart(&b, true);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.content[0], 1);
    assert_int_equal(a.complete_result, 0); /* the flush, at last */
    close_both(&a, &b);
}

/* The disk's cache shows what a failed flush has lost, and the next flush says that all is well. */
static void after_a_failed_flush_equal_reads_prove_nothing(void **state)
{
    for (int rebooted = 0; rebooted < 2; rebooted++) {
        struct node a, b;
        open_promoted(&a, &b, &strict);
        write_block(&a, 0, 1);
        run(&a, &b);
        request(&a, OP_FLUSH, 0);
        deliver(&a, &b);
        disk_done(&b, -EIO);
        disks_done(&a);
        run(&a, &b);
        disconnect_nodes(&a, &b);
        metas_done(&a);
        metas_done(&b);
        assert_true(b.on_disk.reads_lie);
        assert_int_equal(b.content[0], 1);
        if (rebooted)
            node_lose_power(&b);
        else
            node_restart(&b, true);
        connect_nodes(&a, &b);
        assert_true(run_until_sent(&a, &b, &a, FRAME_SYNC_DATA));
        /* Once more to the disk, although it reads the same. */
        deliver(&a, &b);
        assert_int_equal(b.disk_count, 1);
        assert_int_equal(b.disk[0].disk.kind, OP_WRITE);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(b.stable[0], 1);
        metas_done(&b);
        assert_false(b.on_disk.reads_lie);
        close_both(&a, &b);
    }
}

/* It went on alone: nobody else has what its cache shows, and no later flush writes that, unless it is written anew. */
static void a_source_whose_reads_lie_writes_back_what_it_sends(void **state)
{
    for (int failed = 0; failed < 2; failed++) {
        struct node a, b;
        open_apart(&a, &b);
        if (failed) {
            request(&a, OP_FLUSH, 0);
            disk_done(&a, -EIO);
            metas_done(&a);
        }
        assert_int_equal(a.on_disk.reads_lie, failed);
        node_restart(&a, true);
        connect_nodes(&a, &b);
        bool wrote = false;
        while (a.sent_count == 0 || a.sent[0].frame.kind != FRAME_SYNC_DATA) {
            for (unsigned i = 0; i < a.disk_count; i++)
                wrote |= a.disk[i].disk.kind == OP_WRITE;
            assert_true(run_step(&a, &b));
        }
        assert_int_equal(wrote, failed);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(a.content[64 * CHANGE_BYTES], 3);
        assert_memory_equal(a.stable, a.content, VOLUME_BYTES);
        assert_false(a.on_disk.reads_lie || a.on_disk.lost_power);
        close_both(&a, &b);
    }
}

/* A failed write is mended by an attach. The flush that fails after it is not, though the leg had lost its power
 * before. */
static void a_failed_flush_is_recorded_whatever_came_before(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    disconnect_nodes(&a, &b);
    metas_done(&a);
    metas_done(&b);
    node_lose_power(&b);
    assert_true(b.on_disk.lost_power && b.on_disk.leg == LEG_SYNCING);
    connect_nodes(&a, &b);
    while (b.disk_count == 0 || b.disk[0].disk.kind != OP_FLUSH)
        assert_true(run_step(&a, &b));
    write_block(&a, 128 * CHANGE_BYTES, 7);
    while (deliver(&a, &b).kind != FRAME_WRITE) {}
    assert_int_equal(b.disk_count, 2);
    struct action flush = b.disk[0];
    b.disk[0] = b.disk[1];
    b.disk[1] = flush;
    disk_done(&b, -EIO);
    assert_int_equal(view_of(&b).leg, LEG_FAILED);
    metas_done(&b);
    assert_false(b.on_disk.reads_lie);
    disk_done(&b, -EIO);
    metas_done(&b);
    assert_true(b.on_disk.reads_lie);
    close_both(&a, &b);
}

/* Both nodes say which, and what ends it. */
static void what_the_source_cannot_read_is_told_until_it_is_written(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    for (bool more = true; more;) {
        bool bad = a.disk_count && a.disk[0].disk.kind == OP_READ && a.disk[0].disk.offset_bytes == 4 * CHANGE_BYTES;
        if (bad)
            disk_done(&a, -EIO);
        more = bad || run_step(&a, &b);
    }
    assert_true(told(&a, "resync: read failed on /dev/a: Input/output error, offset 16384"));
    assert_true(told(&b, "4096 bytes cannot be read on paris-a and stay out of sync"));
    assert_true(told(&b, "cannot be read on paris-a: offset 16384, length 4096"));
    struct node *nodes[] = { &a, &b };
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(view_of(nodes[i]).out_of_sync_bytes, 4096);
        assert_string_equal(view_of(nodes[i]).why_not,
                            "the leg of paris-b is being resynced, and what cannot be read on paris-a, as at offset "
                            "16384, stays out of sync until it is written");
    }
    write_block(&a, 4 * CHANGE_BYTES, 9);
    run(&a, &b);
    tick(&b, b.now_ns + 6 * NS_PER_S);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.stable[4 * CHANGE_BYTES], 9);
    close_both(&a, &b);
}

/* A flush of an earlier session: its acknowledgement would belong to that one. */
static void a_failure_that_no_acknowledgement_tells_ends_the_session(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 0, 1);
    run(&a, &b);
    request(&a, OP_FLUSH, 0);
    deliver(&a, &b);
    disks_done(&a);
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    assert_int_equal(deliver(&a, &b).kind, FRAME_FLUSH);
    assert_int_equal(b.disk_count, 2);
    disk_done(&b, -EIO);
    assert_true(b.dropped);
    metas_done(&b);
    assert_int_equal(b.on_disk.leg, LEG_FAILED);
    disconnect_nodes(&a, &b);
    disks_done(&b);
    assert_false(view_of(&a).in_sync);
    node_restart(&b, true);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.stable[0], 1);
    close_both(&a, &b);
}

/* In sync, or the wrong way around: what belongs to no resync of ours touches no disk, and ends the session. */
static void what_nobody_asked_for_ends_the_session(void **state)
{
    static const enum frame_kind kinds[] = { FRAME_SYNC_BITS, FRAME_SYNC_ASK,     FRAME_SYNC_DATA, FRAME_SYNC_STABLE,
                                             FRAME_SYNC_DONE, FRAME_VERIFY_REPLY, FRAME_READ_DATA, FRAME_DECREE };
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        for (int resyncs = 0; resyncs < 2; resyncs++) {
            struct node a, b;
            if (resyncs)
                open_resyncing(&a, &b);
            else
                open_promoted(&a, &b, &strict);
            /* To the source what a source sends, to the target what a target sends; in sync to the secondary. */
            bool of_source = kinds[i] == FRAME_SYNC_BITS || kinds[i] == FRAME_SYNC_DATA || kinds[i] == FRAME_DECREE;
            struct node *to = resyncs && of_source ? &a : &b;
            unsigned disk = to->disk_count;
            struct frame frame = { .kind = kinds[i], .tag = 1, .offset_bytes = 0, .length_bytes = VOLUME_BYTES };
            if (kinds[i] == FRAME_DECREE)
                frame = (struct frame) { .kind = FRAME_DECREE,
                                         .flags = FRAME_FLAG_TAKEN,
                                         .epoch = 99,
                                         .lsn = 1,
                                         .offset_bytes = 7,
                                         .tag = UINT32_MAX };
            bool has_payload = kinds[i] == FRAME_SYNC_ASK || kinds[i] == FRAME_SYNC_DATA ||
                               kinds[i] == FRAME_VERIFY_REPLY || kinds[i] == FRAME_READ_DATA;
            struct buf *payload = has_payload ? buf_get(&to->pool, CHANGE_BYTES, 0) : NULL;
            if (payload) {
                memset(payload->data, 0, CHANGE_BYTES);
                frame.payload_bytes = (uint32_t)sizeof(struct sync_entry_wire);
            }
            uint64_t epoch = to->on_disk.epoch;
            step(to, (struct event) { .kind = EV_FRAME, .frame = { .frame = frame, .payload = payload } });
            if (!to->dropped)
                fail_msg("%s was taken%s", frame_kind_name(kinds[i]), resyncs ? " in a resync" : "");
            assert_int_equal(to->disk_count, disk);
            metas_done(to);
            assert_int_equal(to->on_disk.epoch, epoch);
            disconnect_nodes(&a, &b);
            disks_done(&a);
            disks_done(&b);
            connect_nodes(&a, &b);
            run(&a, &b);
            assert_in_sync(&a, &b);
            close_both(&a, &b);
        }
    }
}

/* Legs that are not in sync yet do differ: that says nothing about who is right, and a target's granules are being
 * written. */
static void what_belongs_to_a_verify_ends_a_resyncs_session(void **state)
{
    static const enum frame_kind kinds[] = { FRAME_VERIFY_FOUND, FRAME_VERIFY_ASK };
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        for (int at_target = 0; at_target < 2; at_target++) {
            struct node a, b;
            open_resyncing(&a, &b);
            struct node *to = at_target ? &b : &a;
            unsigned disk = to->disk_count, sent = to->sent_count;
            struct frame frame = { .kind = kinds[i], .length_bytes = CHANGE_BYTES };
            step(to, (struct event) { .kind = EV_FRAME, .frame = { .frame = frame } });
            if (!to->dropped)
                fail_msg("%s was taken by the %s", frame_kind_name(kinds[i]), at_target ? "target" : "source");
            assert_non_null(strstr(to->text, "in sync"));
            assert_int_equal(to->disk_count, disk);
            assert_int_equal(to->sent_count, sent);
            metas_done(to);
            assert_false(to->on_disk.differs);
            disconnect_nodes(&a, &b);
            connect_nodes(&a, &b);
            run(&a, &b);
            assert_in_sync(&a, &b);
            close_both(&a, &b);
        }
    }
}

/* The target is done, and is told of a decree that cannot follow what its source said it had been part of. */
static void a_decree_that_is_older_than_the_history_takes_nobody_in(void **state)
{
    for (int kind = 0; kind < 3; kind++) {
        struct node a, b;
        open_resyncing(&a, &b);
        assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_DONE));
        const struct history_entry *last = history_last(&a.on_disk.history);
        struct frame frame = { .kind = FRAME_DECREE,
                               .flags = FRAME_FLAG_TAKEN,
                               .epoch = kind == 0 ? last->epoch - 1 : last->epoch + (uint64_t)kind - 1,
                               .lsn = last->first_lsn,
                               .offset_bytes = kind == 2 ? 0 : last->tag + 1,
                               .tag = UINT32_MAX };
        struct superblock before = b.on_disk;
        step(&b, (struct event) { .kind = EV_FRAME, .frame = { .frame = frame } });
        assert_true(b.dropped);
        assert_non_null(strstr(b.text, "older than what the source said"));
        metas_done(&b);
        assert_int_equal(b.on_disk.leg, LEG_SYNCING);
        assert_memory_equal(&b.on_disk.history, &before.history, sizeof(before.history));
        disconnect_nodes(&a, &b);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        close_both(&a, &b);
    }
}

/* The target's disk fails while it takes: the leg has failed, and the primary goes on. */
static void a_target_that_fails_ends_the_resync(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    assert_true(run_until_sent(&a, &b, &a, FRAME_SYNC_DATA));
    deliver(&a, &b);
    assert_true(b.disk_count > 0);
    disk_done(&b, -EIO);
    disks_done(&b);
    metas_done(&b);
    assert_true(b.dropped);
    assert_int_equal(view_of(&b).leg, LEG_FAILED);
    disconnect_nodes(&a, &b);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
    disconnect_nodes(&a, &b);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    int completed = a.completed;
    write_block(&a, 0, 9);
    disks_done(&a);
    assert_int_equal(a.completed, completed + 1);
    assert_int_equal(a.complete_result, 0);
    node_restart(&b, true);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* The shell's timer is set to what the engine wants: while a connection is being closed nothing may be due for ever. */
static void an_ending_session_leaves_no_deadline_in_the_past(void **state)
{
    struct node a, b;
    open_resyncing(&a, &b);
    step(&a, (struct event) { .kind = EV_FRAME, .frame = { .frame = { .kind = FRAME_HELLO } } });
    assert_true(a.dropped);
    for (int i = 0; i < 20; i++) {
        uint64_t at_ns = engine_deadline_ns(a.engine);
        tick(&a, min_u64(at_ns, a.now_ns + NS_PER_S));
        disks_done(&a);
    }
    close_both(&a, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_target_is_inconsistent_on_disk_before_it_is_ready),
        cmocka_unit_test(the_last_consistent_state_is_kept_until_the_resync_is_done),
        cmocka_unit_test(whoever_promotes_a_half_made_leg_hears_what_it_is),
        cmocka_unit_test(each_step_of_the_finish_waits_for_the_one_before),
        cmocka_unit_test(the_application_goes_on_writing),
        cmocka_unit_test(a_session_lost_in_the_finish_is_made_good),
        cmocka_unit_test(a_source_that_goes_on_alone_again_is_the_source_again),
        cmocka_unit_test(a_target_promoted_right_after_its_record),
        cmocka_unit_test(the_target_is_not_promoted_while_it_is_resynced),
        cmocka_unit_test(the_source_is_demoted_and_promoted_during_a_resync),
        cmocka_unit_test(detached_during_a_resync_it_goes_on_later),
        cmocka_unit_test(an_order_does_not_wait_for_the_end_of_a_resync),
        cmocka_unit_test(a_promotion_is_asked_for_right_after_the_target_is_taken_in),
        cmocka_unit_test(a_target_that_has_just_been_taken_in_may_ask_itself),
        cmocka_unit_test(a_secondary_that_lost_its_power_gets_what_it_had_not_flushed),
        cmocka_unit_test(both_machines_lose_power),
        cmocka_unit_test(a_primary_that_lost_its_power_gets_it_from_the_secondary),
        cmocka_unit_test(a_source_that_loses_its_power_before_it_has_flushed_what_it_sent),
        cmocka_unit_test(what_a_forced_promotion_gave_up_is_gone_on_both_legs),
        cmocka_unit_test(a_leg_forced_half_way_overwrites_nobody),
        cmocka_unit_test(a_deposed_primary_reconciles),
        cmocka_unit_test(a_failure_that_its_own_disk_did_not_record),
        cmocka_unit_test(power_lost_as_the_resync_of_a_failed_leg_ends),
        cmocka_unit_test(a_bit_set_by_a_failed_flush_outlives_the_flush_before_it),
        cmocka_unit_test(an_old_flush_fails_in_a_resync),
        cmocka_unit_test(a_replaced_disk_gets_everything),
        cmocka_unit_test(a_new_leg_is_never_the_volumes_and_whole),
        cmocka_unit_test(a_new_leg_that_loses_its_power_at_the_end_of_its_first_resync),
        cmocka_unit_test(a_full_resync_goes_on_where_it_was),
        cmocka_unit_test(full_stays_on_record_until_the_bitmap_tells),
        cmocka_unit_test(a_page_that_nobody_saw_written_is_written_again),
        cmocka_unit_test(a_mended_leg_gets_what_it_lacks),
        cmocka_unit_test(after_a_failed_flush_equal_reads_prove_nothing),
        cmocka_unit_test(a_source_whose_reads_lie_writes_back_what_it_sends),
        cmocka_unit_test(a_failed_flush_is_recorded_whatever_came_before),
        cmocka_unit_test(what_the_source_cannot_read_is_told_until_it_is_written),
        cmocka_unit_test(a_failure_that_no_acknowledgement_tells_ends_the_session),
        cmocka_unit_test(a_source_is_flushed_before_its_peer_is_a_target),
        cmocka_unit_test(a_source_whose_flush_fails_takes_no_target),
        cmocka_unit_test(who_served_last_is_the_source),
        cmocka_unit_test(what_nobody_asked_for_ends_the_session),
        cmocka_unit_test(what_belongs_to_a_verify_ends_a_resyncs_session),
        cmocka_unit_test(a_decree_that_is_older_than_the_history_takes_nobody_in),
        cmocka_unit_test(a_target_that_fails_ends_the_resync),
        cmocka_unit_test(an_ending_session_leaves_no_deadline_in_the_past),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
