/* Going on alone: when it may, what is on disk before, and what stands against it. */
#include "tests/unit/engine_pair.h"

#include <errno.h>
#include <string.h>

#define PATIENCE_NS (2 * NS_PER_S)
#define FOREVER_NS (1000 * NS_PER_S)

static const struct node_options may_go_alone = { .has_peer = true, .alone_after_ns = PATIENCE_NS };

/* A primary with one change that its local disk has and the peer has not, and the session just lost. */
static void open_and_part(struct node *a, struct node *b, const struct node_options *options)
{
    node_open_with(a, 0, options);
    node_open_with(b, 1, options);
    connect_nodes(a, b);
    promote(a, b);
    write_block(a, 0, 1);
    disks_done(a);
    disconnect_nodes(a, b);
    assert_int_equal(a->completed, 0);
}

/* A disk that neither answers nor fails, behind a daemon that lives: no session is lost, and nobody else would tell. */
static void a_write_that_hangs_is_told_of(void **state)
{
    for (int peers = 0; peers < 2; peers++) {
        struct node a, b;
        node_open_with(&a, 0, &may_go_alone);
        node_open_with(&b, 1, &may_go_alone);
        connect_nodes(&a, &b);
        promote(&a, &b);
        run(&a, &b);
        struct node *good = peers ? &a : &b;
        write_block(&a, 0, 1);
        while (a.sent_count)
            deliver(&a, &b);
        disks_done(good);
        while (good->sent_count)
            deliver(good, good == &a ? &b : &a);
        uint64_t written_ns = a.now_ns;
        tick(&a, written_ns + 5 * NS_PER_S);
        assert_true(engine_deadline_ns(a.engine) <= a.now_ns + 5 * NS_PER_S);
        assert_false(told(&a, "has waited"));
        tick(&a, written_ns + 11 * NS_PER_S);
        assert_true(told(&a, peers ? "for paris-b, which is connected" : "which neither answers nor fails"));
        a.notes[0] = 0;
        tick(&a, written_ns + 20 * NS_PER_S);
        assert_false(told(&a, "has waited")); /* once */
        disks_done(&a);
        disks_done(&b);
        while (b.sent_count)
            deliver(&b, &a);
        assert_int_equal(a.completed, 1);
        tick(&a, written_ns + 30 * NS_PER_S);
        assert_true(told(&a, "writes go on"));
        close_both(&a, &b);
    }
}

static void the_decree_is_on_disk_before_anything_is_acknowledged(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    uint64_t deadline_ns = a.now_ns + PATIENCE_NS;
    uint64_t epoch = a.on_disk.epoch;
    uint32_t entries = a.on_disk.history.count;
    assert_true(engine_deadline_ns(a.engine) <= deadline_ns);
    tick(&a, deadline_ns - 1);
    assert_false(a.meta_pending);
    patience_ends(&a, 1);
    assert_true(a.meta_pending);
    write_block(&a, CHANGE_BYTES, 2);
    disks_done(&a);
    assert_int_equal(a.completed, 0);
    meta_done(&a, 0);
    assert_int_equal(a.completed, 2);
    assert_int_equal(a.complete_result, 0);
    assert_int_equal(a.sent_count, 0);
    assert_true(told(&a, "paris-a goes on alone"));
    assert_int_equal(a.on_disk.epoch, epoch + 1);
    assert_int_equal(a.on_disk.history.count, entries + 1);
    assert_false(a.on_disk.peer_in_sync);
    /* The bitmap tells all that the peer lacks since the decree before. */
    assert_true(history_entry_equal(a.on_disk.base, a.on_disk.history.entries[entries - 1]));
    struct hello hello;
    say_hello(&a, &hello);
    assert_int_equal(hello.dirty_bytes, 2 * CHANGE_BYTES);
    assert_non_null(strstr(view_of(&a).why_not, "no connection to paris-b; paris-a goes on alone"));
    close_both(&a, &b);
}

static void a_bit_is_set_before_the_local_disk_is_written(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    struct hello hello;
    write_block(&a, 2 * CHANGE_BYTES, 2);
    assert_int_equal(a.disk_count, 1);
    say_hello(&a, &hello);
    assert_int_equal(hello.dirty_bytes, 2 * CHANGE_BYTES);
    /* In memory it is set; on disk the activity log covers it. */
    node_restart(&a, true);
    say_hello(&a, &hello);
    assert_true(hello.dirty_bytes >= 3 * CHANGE_BYTES);
    close_both(&a, &b);
}

static void a_peer_that_is_back_in_time_costs_no_decree(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    uint64_t deadline_ns = a.now_ns + PATIENCE_NS;
    struct superblock before = a.on_disk;
    tick(&a, deadline_ns - 1);
    connect_nodes(&a, &b);
    run(&a, &b);
    tick(&a, deadline_ns);
    run(&a, &b);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.on_disk.epoch, before.epoch);
    assert_int_equal(a.on_disk.history.count, before.history.count);
    assert_true(a.on_disk.peer_in_sync);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* As a change does: a path that fails over is no error of the application's, and a peer that is given up is no help. */
static void a_read_that_the_leg_cannot_give_waits_as_long_as_a_change_would(void **state)
{
    for (int back = 0; back < 2; back++) {
        struct node a, b;
        open_and_part(&a, &b, &may_go_alone);
        uint64_t deadline_ns = a.now_ns + PATIENCE_NS;
        memset(b.content + 8 * CHANGE_BYTES, 7, CHANGE_BYTES);
        struct buf *buf = buf_get(&a.pool, CHANGE_BYTES, 0);
        struct request read = {
            .kind = OP_READ, .offset_bytes = 8 * CHANGE_BYTES, .length_bytes = CHANGE_BYTES, .buf = buf, .cookie = buf
        };
        step(&a, (struct event) { .kind = EV_REQUEST, .request = read });
        disk_done(&a, -EIO);
        assert_true(told(&a, "the peer will be asked when it is back"));
        tick(&a, deadline_ns - 1);
        assert_int_equal(a.completed, 0);
        order(&a, EV_DEMOTE, false);
        assert_non_null(strstr(a.order_text, "2 requests wait for paris-b"));
        if (back) {
            connect_nodes(&a, &b);
            assert_int_equal(a.completed, 0);
            run(&a, &b);
            assert_int_equal(a.completed, 2);
            assert_int_equal(a.complete_result, 0);
            assert_true(told(&a, "wrote back what was unreadable"));
            assert_int_equal(a.content[8 * CHANGE_BYTES], 7);
        } else {
            patience_ends(&a, 1);
            assert_int_equal(a.completed, 1);
            assert_int_equal(a.complete_result, -EIO);
            metas_done(&a);
            assert_int_equal(a.completed, 2); /* the change */
            assert_int_equal(a.complete_result, 0);
            assert_true(told(&a, "paris-a goes on alone"));
        }
        close_both(&a, &b);
    }
}

/* The peer was told of a node that had not gone on alone. */
static void nobody_goes_on_alone_while_a_handshake_decides(void **state)
{
    for (int fails = 0; fails < 2; fails++) {
        struct node a, b;
        open_and_part(&a, &b, &may_go_alone);
        uint64_t deadline_ns = a.now_ns + PATIENCE_NS;
        tick(&a, deadline_ns - 1);
        hellos(&a, &b);
        metas_done(&a);
        metas_done(&b);
        assert_true(a.ready && b.ready);
        a.ready = b.ready = false;
        tick(&a, deadline_ns);
        assert_false(a.meta_pending);
        uint64_t again_ns = engine_deadline_ns(a.engine);
        assert_true(again_ns > deadline_ns && again_ns <= deadline_ns + NS_PER_S);
        if (fails) {
            disconnect_nodes(&a, &b);
            patience_ends(&a, again_ns - a.now_ns);
            assert_true(a.meta_pending);
            metas_done(&a);
            assert_int_equal(a.completed, 1);
            assert_false(a.on_disk.peer_in_sync);
        } else {
            step(&a, (struct event) { .kind = EV_SESSION_UP });
            step(&b, (struct event) { .kind = EV_SESSION_UP });
            tick(&a, again_ns);
            assert_false(a.meta_pending);
            assert_int_equal(a.completed, 0);
            run(&a, &b);
            assert_int_equal(a.completed, 1);
            assert_in_sync(&a, &b);
        }
        close_both(&a, &b);
    }
}

/* The decree is on its way to the disk when the peer is back: what waits goes over, the rest is a short resync. */
static void a_peer_that_is_back_while_the_decree_is_written_gets_all(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    patience_ends(&a, PATIENCE_NS);
    assert_true(a.meta_pending);
    hellos(&a, &b);
    assert_false(a.ready);
    assert_true(make_ready(&a, &b));
    /* Decided by the handshake, it is not alone any more: only the peer's acknowledgement completes. */
    assert_int_equal(a.on_disk.peer_in_sync, false);
    int completed = a.completed;
    session_up(&a, &b);
    write_block(&a, CHANGE_BYTES, 2);
    disks_done(&a);
    assert_int_equal(a.completed, completed);
    run(&a, &b);
    assert_int_equal(a.completed, 2);
    assert_int_equal(a.complete_result, 0);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* Both legs have completed it, and neither has flushed. With the decree on disk this leg is the one that the volume
 * goes on from, and the peer's is overwritten: it must not have been lost here by then. */
static void what_both_have_is_stable_before_the_decree(void **state)
{
    for (int cut = 0; cut < 2; cut++) {
        struct node a, b;
        node_open_with(&a, 0, &may_go_alone);
        node_open_with(&b, 1, &may_go_alone);
        connect_nodes(&a, &b);
        promote(&a, &b);
        write_block(&a, 0, 1);
        run(&a, &b);
        assert_int_equal(a.completed, 1);
        disconnect_nodes(&a, &b);
        tick(&a, a.now_ns + PATIENCE_NS);
        assert_int_equal(a.disk_count, 1);
        assert_int_equal(a.disk[0].disk.kind, OP_FLUSH);
        assert_false(a.meta_pending);
        if (cut) { /* the peer's leg is the one that counts, and has it */
            node_lose_power(&a);
            assert_int_equal(a.content[0], 0);
        } else {
            flush_done(&a, 0);
            metas_done(&a);
            assert_false(a.on_disk.peer_in_sync);
            node_lose_power(&a);
            assert_int_equal(a.content[0], 1);
        }
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_true(a.content[0] == 1 && b.content[0] == 1);
        close_both(&a, &b);
    }
}

/* Who has everything is the peer, who may stand in. */
static void a_flush_that_fails_leaves_the_peer_in_the_set(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    tick(&a, a.now_ns + PATIENCE_NS);
    flush_done(&a, -EIO);
    metas_done(&a);
    tick(&a, a.now_ns + FOREVER_NS);
    metas_done(&a);
    assert_false(told(&a, "goes on alone"));
    assert_true(a.on_disk.peer_in_sync);
    assert_int_equal(a.completed, 0);
    close_both(&a, &b);
}

/* The flush of an earlier parting says nothing of what was completed since. */
static void a_peer_that_is_back_while_the_leg_is_flushed(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    tick(&a, a.now_ns + PATIENCE_NS);
    struct action flush = a.disk[0];
    assert_int_equal(flush.disk.kind, OP_FLUSH);
    a.disk_count = 0;
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_int_equal(a.completed, 1);
    assert_in_sync(&a, &b);
    disconnect_nodes(&a, &b);
    tick(&a, a.now_ns + PATIENCE_NS);
    assert_int_equal(a.disk_count, 0); /* one at a time */
    step(&a, (struct event) { .kind = EV_DISK_DONE, .disk = { .op = flush.disk.op } });
    assert_false(a.meta_pending);
    flush_done(&a, 0);
    assert_true(a.meta_pending);
    metas_done(&a);
    assert_true(told(&a, "goes on alone"));
    close_both(&a, &b);
}

static void strict_waits_for_ever(void **state)
{
    static const struct node_options strict = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE };
    struct node a, b;
    open_and_part(&a, &b, &strict);
    tick(&a, FOREVER_NS);
    tick(&a, 2 * FOREVER_NS);
    assert_false(a.meta_pending);
    assert_int_equal(a.completed, 0);
    assert_true(a.on_disk.peer_in_sync);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_int_equal(a.completed, 1);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

static void a_failed_leg_does_not_go_on_alone(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    write_block(&a, CHANGE_BYTES, 2);
    disk_done(&a, -EIO);
    metas_done(&a);
    struct superblock before = a.on_disk;
    patience_ends(&a, PATIENCE_NS);
    assert_false(a.meta_pending);
    assert_int_equal(a.completed, 0); /* all wait for the peer, who may stand in */
    assert_int_equal(a.on_disk.epoch, before.epoch);
    assert_true(a.on_disk.peer_in_sync);
    close_both(&a, &b);
}

/* The decree is on its way, or cannot be written. */
static void a_leg_that_fails_beside_the_decree_acknowledges_nothing(void **state)
{
    for (int superblock = 0; superblock < 2; superblock++) {
        struct node a, b;
        open_and_part(&a, &b, &may_go_alone);
        write_block(&a, CHANGE_BYTES, 2);
        patience_ends(&a, PATIENCE_NS);
        assert_true(a.meta_pending);
        if (superblock) {
            meta_done(&a, -EIO);
            disks_done(&a);
        } else {
            disk_done(&a, -EIO);
            metas_done(&a);
        }
        assert_int_equal(a.completed, 2);
        assert_int_equal(a.complete_result, -EIO);
        assert_false(told(&a, "goes on alone"));
        tick(&a, a.now_ns + FOREVER_NS);
        assert_false(told(&a, "goes on alone"));
        close_both(&a, &b);
    }
}

/* It was alone before it crashed: there is nobody to wait for, and no new decree to take. */
static void promoted_again_it_goes_on_alone_at_once(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    node_restart(&a, true);
    uint32_t entries = a.on_disk.history.count;
    order(&a, EV_PROMOTE, false);
    metas_done(&a);
    assert_true(a.serving);
    tick(&a, a.now_ns);
    write_block(&a, CHANGE_BYTES, 2);
    disks_done(&a);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, 0);
    assert_int_equal(a.on_disk.history.count, entries);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* One goes on alone; the other is promoted all the same, and goes on alone, too. Only a person can decide, and both
 * say so. */
static void of_two_that_went_on_alone_neither_is_overwritten(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    node_restart(&a, true);
    order(&b, EV_PROMOTE, false);
    metas_done(&b);
    assert_true(b.serving);
    patience_ends(&b, PATIENCE_NS);
    metas_done(&b);
    write_block(&b, 0, 3);
    disks_done(&b);
    assert_int_equal(b.completed, 1);
    assert_int_equal(b.complete_result, 0);

    hellos(&a, &b);
    assert_true(a.refused && b.refused);
    assert_non_null(strstr(a.text, "split brain: up to epoch "));
    assert_non_null(strstr(b.text, "split brain: up to epoch "));
    assert_true(told(&a, "paris-a went on alone from epoch ") && told(&a, "and paris-b from epoch "));
    assert_true(told(&b, "paris-b went on alone from epoch ") && told(&b, "and paris-a from epoch "));
    assert_true(b.serving); /* it has what nobody else has: it is not deposed by the one that is refused */
    assert_int_equal(a.content[0], 1);
    assert_int_equal(b.content[0], 3);
    close_both(&a, &b);
}

/* A handshake that comes to nothing takes nothing back: it goes on alone as before, and says so. */
static void a_refused_peer_does_not_end_going_alone(void **state)
{
    struct node a, b;
    open_and_part(&a, &b, &may_go_alone);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    uint64_t epoch = view_of(&a).alone_epoch;
    assert_true(epoch > 0);
    a.notes[0] = 0;
    struct hello theirs, ours;
    say_hello(&b, &theirs);
    say_hello(&a, &ours);
    theirs.leg = LEG_FAILED;
    step(&a, (struct event) { .kind = EV_HELLO, .hello = &theirs });
    assert_true(a.refused);
    metas_done(&a);
    disconnect_nodes(&a, &a);
    assert_int_equal(view_of(&a).alone_epoch, epoch);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    assert_false(told(&a, "goes on alone"));
    int completed = a.completed;
    write_block(&a, 2 * CHANGE_BYTES, 3);
    disks_done(&a);
    assert_int_equal(a.completed, completed + 1);
    close_both(&a, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_decree_is_on_disk_before_anything_is_acknowledged),
        cmocka_unit_test(a_write_that_hangs_is_told_of),
        cmocka_unit_test(a_bit_is_set_before_the_local_disk_is_written),
        cmocka_unit_test(a_peer_that_is_back_in_time_costs_no_decree),
        cmocka_unit_test(a_read_that_the_leg_cannot_give_waits_as_long_as_a_change_would),
        cmocka_unit_test(nobody_goes_on_alone_while_a_handshake_decides),
        cmocka_unit_test(a_peer_that_is_back_while_the_decree_is_written_gets_all),
        cmocka_unit_test(what_both_have_is_stable_before_the_decree),
        cmocka_unit_test(a_flush_that_fails_leaves_the_peer_in_the_set),
        cmocka_unit_test(a_peer_that_is_back_while_the_leg_is_flushed),
        cmocka_unit_test(strict_waits_for_ever),
        cmocka_unit_test(a_failed_leg_does_not_go_on_alone),
        cmocka_unit_test(a_leg_that_fails_beside_the_decree_acknowledges_nothing),
        cmocka_unit_test(promoted_again_it_goes_on_alone_at_once),
        cmocka_unit_test(of_two_that_went_on_alone_neither_is_overwritten),
        cmocka_unit_test(a_refused_peer_does_not_end_going_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
