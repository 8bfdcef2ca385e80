/* Diskless: the primary's leg fails, and it goes on through its peer's. What is on whose disk, before what. */
#include "tests/unit/engine_pair.h"

#include <errno.h>
#include <string.h>

#define ELSEWHERE (16 * CHANGE_BYTES)

static const struct node_options options = { .has_peer = true, .alone_after_ns = 2 * NS_PER_S };

static void open_pair(struct node *a, struct node *b)
{
    open_promoted(a, b, &options);
    write_block(a, 0, 1);
    run(a, b);
    assert_int_equal(a->completed, 1);
    assert_in_sync(a, b);
    a->completed = 0;
}

/* The local disk fails a write that the peer has acknowledged. */
static void fail_leg(struct node *a, struct node *b)
{
    write_block(a, 0, 2);
    disk_done(a, -EIO);
    assert_true(a->dropped);
    metas_done(a);
    disconnect_nodes(a, b);
    assert_int_equal(a->completed, 0);
}

static void up(struct node *a, struct node *b)
{
    a->ready = b->ready = false;
    step(a, (struct event) { .kind = EV_SESSION_UP });
    step(b, (struct event) { .kind = EV_SESSION_UP });
}

static void go_diskless(struct node *a, struct node *b)
{
    open_pair(a, b);
    fail_leg(a, b);
    connect_nodes(a, b);
    run(a, b);
    assert_int_equal(a->completed, 1);
    assert_int_equal(a->complete_result, 0);
}

static void write_through(struct node *a, struct node *b, uint64_t offset_bytes, uint8_t fill)
{
    int completed = a->completed;
    write_block(a, offset_bytes, fill);
    assert_int_equal(a->disk_count, 0);
    run(a, b);
    assert_int_equal(a->completed, completed + 1);
    assert_int_equal(a->complete_result, 0);
    assert_int_equal(b->content[offset_bytes], fill);
    assert_int_not_equal(a->content[offset_bytes], fill);
}

static struct buf *begin_read(struct node *a, uint64_t offset_bytes)
{
    struct buf *buf = buf_get(&a->pool, CHANGE_BYTES, 0);
    assert_non_null(buf);
    memset(buf->data, 0xee, CHANGE_BYTES);
    buf_ref(buf);
    step(a, (struct event) { .kind = EV_REQUEST,
                             .request = { .kind = OP_READ,
                                          .offset_bytes = offset_bytes,
                                          .length_bytes = CHANGE_BYTES,
                                          .buf = buf,
                                          .cookie = buf } });
    return buf;
}

/* Returns the first byte read. */
static uint8_t read_at(struct node *a, struct node *b, uint64_t offset_bytes)
{
    int completed = a->completed;
    struct buf *buf = begin_read(a, offset_bytes);
    run(a, b);
    assert_int_equal(a->completed, completed + 1);
    assert_int_equal(a->complete_result, 0);
    uint8_t byte = buf->data[0];
    buf_put(buf);
    return byte;
}

static void the_peer_has_it_on_record_before_anything_is_acknowledged(void **state)
{
    struct node a, b;
    open_pair(&a, &b);
    uint64_t epoch = a.on_disk.epoch;
    struct history before = a.on_disk.history;
    write_block(&a, 0, 2);
    write_block(&a, CHANGE_BYTES, 3);
    disk_done(&a, -EIO);
    disk_done(&a, 0);
    assert_true(a.dropped);
    assert_int_equal(a.complete_result + a.completed, 0);
    metas_done(&a);
    disconnect_nodes(&a, &b);
    write_block(&a, ELSEWHERE, 4);
    assert_int_equal(a.disk_count, 0);
    /* What the own leg can read, it may still show. */
    assert_int_equal(read_at(&a, &a, 2 * ELSEWHERE), 0);
    a.completed = 0;
    assert_non_null(strstr(view_of(&a).why_not, "everything waits"));

    hellos(&a, &b);
    assert_true(a.ready);
    assert_false(b.ready);
    assert_true(b.meta_pending);
    assert_int_equal(a.completed, 0);
    metas_done(&b);
    assert_true(b.ready);
    assert_int_equal(b.on_disk.epoch, epoch + 1);
    assert_int_equal(b.on_disk.history.count, before.count + 1);
    assert_int_equal(history_last(&b.on_disk.history)->epoch, epoch + 1);
    assert_false(b.on_disk.peer_in_sync);
    struct hello hello;
    say_hello(&b, &hello);
    assert_int_equal(hello.dirty_bytes, VOLUME_BYTES);
    assert_int_equal(a.completed, 0);
    up(&a, &b);
    run(&a, &b);
    assert_int_equal(a.completed, 3);
    assert_int_equal(a.complete_result, 0);
    assert_int_equal(b.content[0], 2);
    assert_int_equal(b.content[CHANGE_BYTES], 3);
    assert_int_equal(b.content[ELSEWHERE], 4);

    write_through(&a, &b, 2 * ELSEWHERE, 5);
    assert_int_equal(read_at(&a, &b, 2 * ELSEWHERE), 5);
    assert_int_equal(read_at(&a, &b, 0), 2);
    int completed = a.completed;
    request(&a, OP_FLUSH, 0);
    assert_int_equal(a.disk_count, 0);
    run(&a, &b);
    assert_int_equal(a.completed, completed + 1);
    assert_memory_equal(b.stable, b.content, VOLUME_BYTES);
    /* Its own record never claims to have been part of it. */
    metas_done(&a);
    assert_int_equal(history_relate(&a.on_disk.history, &before), HISTORY_EQUAL);
    assert_int_equal(a.on_disk.leg, LEG_FAILED);
    assert_int_equal(view_of(&a).diskless_epoch, epoch + 1);
    assert_non_null(strstr(view_of(&a).why_not, "serves through that of paris-b"));
    assert_non_null(strstr(view_of(&b).why_not, "the leg of paris-a has failed"));
    assert_false(view_of(&a).in_sync || view_of(&b).in_sync);
    close_both(&a, &b);
}

/* Whatever fails of the leg: a flush, the log, the superblock, which then says nothing of it. */
static void every_failure_of_the_leg_is_survived(void **state)
{
    enum { FLUSH, LOG, SUPERBLOCK, WHILE_AWAY, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct node a, b;
        open_pair(&a, &b);
        switch (kind) {
        case FLUSH:
            request(&a, OP_FLUSH, 0);
            disk_done(&a, -EIO);
            break;
        case LOG:
            disks_done(&a);
            node_close(&a);
            node_close(&b);
            node_open_with(&a, 0, &options);
            node_open_with(&b, 1, &options);
            connect_nodes(&a, &b);
            promote(&a, &b);
            a.hold_pages = true;
            write_block(&a, 0, 2);
            page_done(&a, -EIO);
            a.hold_pages = false;
            break;
        case SUPERBLOCK:
            write_block(&a, 0, 2);
            disk_done(&a, -EIO);
            meta_done(&a, -EIO);
            break;
        case WHILE_AWAY:
            disconnect_nodes(&a, &b);
            write_block(&a, 0, 2);
            disk_done(&a, -EIO);
            break;
        }
        assert_int_equal(view_of(&a).leg, LEG_FAILED);
        assert_int_equal(a.completed, 0);
        if (kind != WHILE_AWAY) {
            assert_true(a.dropped);
            disconnect_nodes(&a, &b);
        }
        assert_int_equal(a.completed, 0);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_int_equal(a.completed, 1);
        assert_int_equal(a.complete_result, 0);
        write_through(&a, &b, ELSEWHERE, 5);
        close_both(&a, &b);
    }
}

static void the_peer_may_die_at_any_point(void **state)
{
    enum { BEFORE_RECORD, AFTER_RECORD, WHILE_SERVING, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct node a, b;
        open_pair(&a, &b);
        fail_leg(&a, &b);
        hellos(&a, &b);
        if (kind >= AFTER_RECORD)
            metas_done(&b);
        if (kind == WHILE_SERVING) {
            up(&a, &b);
            run(&a, &b);
            assert_int_equal(a.completed, 1);
            write_block(&a, ELSEWHERE, 7);
        }
        int completed = a.completed;
        disconnect_nodes(&a, &a);
        node_restart(&b, true);
        write_block(&a, 2 * ELSEWHERE, 8);
        assert_int_equal(a.completed, completed);
        uint32_t entries = b.on_disk.history.count;
        connect_nodes(&a, &b);
        assert_int_equal(b.on_disk.history.count, entries + (kind == BEFORE_RECORD));
        run(&a, &b);
        assert_int_equal(a.completed, completed + (kind == WHILE_SERVING ? 2 : 2));
        assert_int_equal(a.complete_result, 0);
        assert_int_equal(b.content[2 * ELSEWHERE], 8);
        assert_false(b.on_disk.peer_in_sync);
        close_both(&a, &b);
    }
}

/* Its superblock says what it could still write, or nothing of the failure. */
static void the_primary_may_die_at_any_point_and_its_leg_is_the_target(void **state)
{
    enum { BEFORE_RECORD, AFTER_RECORD, WHILE_SERVING, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        for (int unwritten = 0; unwritten < 2; unwritten++) {
            struct node a, b;
            open_pair(&a, &b);
            struct superblock before = a.on_disk;
            fail_leg(&a, &b);
            hellos(&a, &b);
            if (kind >= AFTER_RECORD)
                metas_done(&b);
            if (kind == WHILE_SERVING) {
                up(&a, &b);
                run(&a, &b);
                write_through(&a, &b, ELSEWHERE, 7);
            }
            if (unwritten)
                a.on_disk = before;
            node_restart(&a, true);
            disconnect_nodes(&b, &b);
            metas_done(&b);
            connect_nodes(&a, &b);
            if (kind >= AFTER_RECORD) {
                order(&a, EV_PROMOTE, false);
                assert_int_equal(a.order_result, -EPERM);
                assert_int_equal(view_of(&a).leg, LEG_SYNCING);
                assert_true(view_of(&a).resync.active && !view_of(&a).resync.is_source);
            }
            run(&a, &b);
            assert_in_sync(&a, &b);
            assert_int_equal(b.content[ELSEWHERE], kind == WHILE_SERVING ? 7 : 0);
            assert_true(history_relate(&a.on_disk.history, &b.on_disk.history) == HISTORY_EQUAL);
            assert_true(a.on_disk.peer_in_sync && b.on_disk.peer_in_sync);
            assert_false(a.on_disk.full || b.on_disk.full);
            close_both(&a, &b);
        }
    }
}

/* What it completed and had not flushed is gone, and the application counts on it. */
static void a_peer_that_lost_power_cannot_stand_in(void **state)
{
    for (int decided = 0; decided < 2; decided++) {
        struct node a, b;
        open_pair(&a, &b);
        fail_leg(&a, &b);
        if (decided) {
            connect_nodes(&a, &b);
            run(&a, &b);
            write_through(&a, &b, ELSEWHERE, 7);
            disconnect_nodes(&a, &a);
        }
        node_lose_power(&b);
        int completed = a.completed;
        write_block(&a, ELSEWHERE, 8);
        hellos(&a, &b);
        assert_true(a.refused && b.refused);
        assert_non_null(strstr(a.text, "without warning"));
        disconnect_nodes(&a, &b);
        assert_int_equal(a.completed, completed);
        assert_non_null(strstr(view_of(&a).why_not, "cannot stand in for it"));
        order(&b, EV_PROMOTE, false);
        assert_int_equal(b.order_result, -EPERM);
        order(&a, EV_DEMOTE, true);
        assert_int_equal(a.completed, completed + (decided ? 1 : 2));
        assert_int_equal(a.complete_result, -EIO);
        run(&a, &b);
        assert_false(a.serving);
        order(&b, EV_PROMOTE, true);
        run(&b, &a);
        assert_false(b.serving); /* what it has heard last was a primary */
        hellos(&a, &b);
        disconnect_nodes(&a, &b);
        run(&b, &a);
        assert_true(b.serving && b.order_result == 0);
        close_both(&a, &b);
    }
}

/* A flush of the peer's failed, and its own disk has no record of that: the primary has heard of it, and knows. */
static void a_peer_whose_flush_failed_cannot_stand_in(void **state)
{
    for (int decided = 0; decided < 2; decided++) {
        struct node a, b;
        open_pair(&a, &b);
        if (decided) {
            fail_leg(&a, &b);
            connect_nodes(&a, &b);
            run(&a, &b);
        }
        write_block(&a, ELSEWHERE, 7);
        run(&a, &b);
        struct superblock before = b.on_disk;
        int completed = a.completed;
        request(&a, OP_FLUSH, 0);
        disks_done(&a);
        deliver(&a, &b);
        disk_done(&b, -EIO);
        if (b.meta_pending)
            meta_done(&b, -EIO);
        while (b.sent_count)
            deliver(&b, &a);
        assert_true(a.dropped);
        disconnect_nodes(&a, &b);
        b.on_disk = before;
        memcpy(b.content, b.stable, VOLUME_BYTES);
        node_restart(&b, true);
        if (!decided) {
            write_block(&a, 0, 8);
            while (a.disk_count)
                disk_done(&a, -EIO);
            assert_int_equal(view_of(&a).diskless_epoch, 0);
            assert_int_equal(a.complete_result, -EIO);
        }
        metas_done(&a);
        hellos(&a, &b);
        assert_true(a.refused && b.refused);
        disconnect_nodes(&a, &b);
        if (decided)
            assert_int_equal(a.completed, completed);
        metas_done(&b);
        assert_true(b.on_disk.history.count == before.history.count);
        close_both(&a, &b);
    }
}

/* In the same run of its machine its cache still shows what a failed flush has lost. All of it is written again, also
 * when nothing on that disk tells of the failure: the peer does. */
static void a_leg_whose_reads_lie_gets_everything_again(void **state)
{
    enum { RECORDED, UNRECORDED, REBOOTED, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct node a, b;
        open_pair(&a, &b);
        assert_int_equal(a.content[0], 1);
        assert_int_equal(a.stable[0], 0);
        struct superblock before = a.on_disk;
        request(&a, OP_FLUSH, 0);
        disk_done(&a, -EIO);
        metas_done(&a);
        assert_true(a.on_disk.reads_lie);
        disconnect_nodes(&a, &b);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_int_equal(a.complete_result, 0);
        if (kind != RECORDED)
            a.on_disk = before;
        if (kind == REBOOTED)
            node_lose_power(&a);
        else
            node_restart(&a, true);
        disconnect_nodes(&b, &b);
        assert_int_equal(b.on_disk.peer_leg, LEG_FAILED);
        a.notes[0] = 0;
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_memory_equal(a.stable, b.stable, VOLUME_BYTES);
        assert_true(told(&a, "is up to date"));
        assert_int_equal(told(&a, "is up to date: 0 bytes were equal"), kind != REBOOTED);
        assert_int_equal(b.on_disk.peer_leg, LEG_NONE);
        assert_false(a.on_disk.reads_lie || a.on_disk.lost_power);
        close_both(&a, &b);
    }
}

/* The disk has dropped what it had not written, although it was acknowledged: only the peer shows it. */
static void after_a_failed_flush_the_own_leg_is_not_read(void **state)
{
    for (int gives_up = 0; gives_up < 2; gives_up++) {
        struct node a, b;
        open_pair(&a, &b);
        request(&a, OP_FLUSH, 0);
        struct buf *early = begin_read(&a, 0);
        disk_done(&a, -EIO);
        memcpy(a.content, a.stable, VOLUME_BYTES);
        disk_done(&a, 0);
        struct buf *late = begin_read(&a, 0);
        assert_int_equal(a.disk_count, 0);
        assert_int_equal(a.completed, 0);
        metas_done(&a);
        disconnect_nodes(&a, &b);
        if (gives_up) {
            order(&a, EV_DEMOTE, true);
            run(&a, &a);
            assert_int_equal(a.completed, 3);
            assert_int_equal(a.complete_result, -EIO);
        } else {
            connect_nodes(&a, &b);
            run(&a, &b);
            assert_int_equal(a.completed, 3);
            assert_int_equal(a.complete_result, 0);
            assert_int_equal(early->data[0], 1);
            assert_int_equal(late->data[0], 1);
        }
        buf_put(early);
        buf_put(late);
        close_both(&a, &b);
    }
}

/* A write failed first, which drops nothing of a cache; the flush that was with the disk as well fails when the node is
 * diskless already. That is put on record all the same: what the leg shows later is not to be believed. */
static void a_flush_that_fails_later_is_recorded(void **state)
{
    struct node a, b;
    open_pair(&a, &b);
    write_block(&a, CHANGE_BYTES, 7);
    request(&a, OP_FLUSH, 0);
    assert_int_equal(a.disk_count, 2);
    disk_done(&a, -EIO);
    metas_done(&a);
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    a.hold_disk = true;
    run(&a, &b);
    assert_int_equal(a.disk_count, 1);
    assert_false(a.on_disk.reads_lie);
    a.hold_disk = false;
    disk_done(&a, -EIO);
    run(&a, &b);
    assert_true(a.on_disk.reads_lie);
    close_both(&a, &b);
}

/* Cut off when its leg failed, it has seen no epoch but the one that it would go on at, which the other serves at. */
static void a_peer_that_was_promoted_before_it_recorded_anything(void **state)
{
    struct node a, b;
    open_pair(&a, &b);
    disconnect_nodes(&a, &b);
    write_block(&a, 0, 2);
    disk_done(&a, -EIO);
    metas_done(&a);
    assert_true(view_of(&a).diskless_epoch > 0);
    promote(&b, &b);
    assert_int_equal(view_of(&b).epoch, view_of(&a).diskless_epoch);
    hellos(&a, &b);
    assert_false(a.serving);
    assert_true(b.serving);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, -EIO);
    run(&a, &b);
    assert_int_equal(view_of(&a).diskless_epoch, 0);
    disconnect_nodes(&a, &b);
    metas_done(&b);
    node_restart(&a, true);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

static void nobody_stands_in_who_lacks_something(void **state)
{
    struct node a, b;
    node_open_with(&a, 0, &options);
    node_open_with(&b, 1, &options);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    write_block(&a, 0, 1);
    disks_done(&a);
    patience_ends(&a, 2 * NS_PER_S);
    metas_done(&a);
    assert_int_equal(a.completed, 1); /* alone */
    connect_nodes(&a, &b);            /* and the resync is not done */
    write_block(&a, ELSEWHERE, 2);
    while (a.disk_count > 1) /* what the resync reads first */
        disk_done(&a, 0);
    disk_done(&a, -EIO);
    disconnect_nodes(&a, &b);
    assert_int_equal(view_of(&a).diskless_epoch, 0);
    assert_int_equal(a.completed, 2);
    assert_int_equal(a.complete_result, -EIO);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
    close_both(&a, &b);
}

/* The peer has seen the epoch, but cannot have recorded what it is for: perhaps somebody has served at it. */
static void an_epoch_that_the_peer_has_seen_is_not_taken(void **state)
{
    for (int wrote = 0; wrote < 2; wrote++) {
        struct node a, b;
        open_pair(&a, &b);
        disconnect_nodes(&a, &b);
        order(&b, EV_PROMOTE, false);
        metas_done(&b);
        if (wrote)
            write_block(&b, ELSEWHERE, 9);
        order(&b, EV_DEMOTE, true);
        run(&b, &b);
        assert_int_equal(b.completed, wrote);
        assert_int_equal(b.on_disk.epoch, a.on_disk.epoch + 1);
        write_block(&a, 0, 2);
        disk_done(&a, -EIO);
        hellos(&a, &b);
        assert_true(a.refused && b.refused);
        disconnect_nodes(&a, &b);
        metas_done(&a);
        hellos(&a, &b);
        /* What it wrote by itself failed there: nobody may find it after he has read what was there before. */
        assert_int_equal(a.refused, wrote);
        if (wrote) {
            disconnect_nodes(&a, &b);
            assert_int_equal(a.completed, 0);
            assert_int_equal(read_at(&a, &a, ELSEWHERE), 0);
        } else {
            connect_judged(&a, &b);
            run(&a, &b);
            assert_int_equal(a.completed, 1);
            assert_int_equal(a.complete_result, 0);
            assert_int_equal(history_last(&b.on_disk.history)->epoch, a.on_disk.epoch);
        }
        close_both(&a, &b);
    }
}

/* As an operator is told to: the peer becomes primary, and the leg comes back when its disk is mended. */
static void the_service_moves_to_the_peer_and_the_leg_comes_back(void **state)
{
    for (int detach = 0; detach < 2; detach++) {
        struct node a, b;
        go_diskless(&a, &b);
        write_through(&a, &b, ELSEWHERE, 7);
        assert_memory_not_equal(b.stable, b.content, VOLUME_BYTES);
        order(&a, detach ? EV_DETACH : EV_DEMOTE, false);
        run(&a, &b);
        assert_int_equal(a.order_result, 0);
        assert_memory_equal(b.stable, b.content, VOLUME_BYTES);
        assert_false(a.serving);
        assert_true(a.dropped);
        disconnect_nodes(&a, &b);
        if (!detach) {
            hellos(&a, &b);
            assert_true(a.refused && b.refused);
            disconnect_nodes(&a, &b);
        }
        promote(&b, &b);
        tick(&b, b.now_ns + 1);
        metas_done(&b);
        write_block(&b, 0, 9);
        run(&b, &b);
        assert_int_equal(b.completed, 1);
        node_restart(&a, true);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(a.content[0], 9);
        assert_int_equal(a.content[ELSEWHERE], 7);
        close_both(&a, &b);
    }
}

static void a_peer_that_was_promoted_deposes_it(void **state)
{
    struct node a, b;
    go_diskless(&a, &b);
    disconnect_nodes(&a, &b);
    write_block(&a, ELSEWHERE, 7);
    promote(&b, &b);
    hellos(&a, &b);
    assert_false(a.serving);
    assert_int_equal(a.completed, 2);
    assert_int_equal(a.complete_result, -EIO);
    run(&a, &b);
    assert_int_equal(view_of(&a).diskless_epoch, 0);
    assert_true(b.serving);
    close_both(&a, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_peer_has_it_on_record_before_anything_is_acknowledged),
        cmocka_unit_test(every_failure_of_the_leg_is_survived),
        cmocka_unit_test(the_peer_may_die_at_any_point),
        cmocka_unit_test(the_primary_may_die_at_any_point_and_its_leg_is_the_target),
        cmocka_unit_test(a_peer_that_lost_power_cannot_stand_in),
        cmocka_unit_test(a_peer_whose_flush_failed_cannot_stand_in),
        cmocka_unit_test(a_leg_whose_reads_lie_gets_everything_again),
        cmocka_unit_test(after_a_failed_flush_the_own_leg_is_not_read),
        cmocka_unit_test(a_flush_that_fails_later_is_recorded),
        cmocka_unit_test(a_peer_that_was_promoted_before_it_recorded_anything),
        cmocka_unit_test(nobody_stands_in_who_lacks_something),
        cmocka_unit_test(an_epoch_that_the_peer_has_seen_is_not_taken),
        cmocka_unit_test(the_service_moves_to_the_peer_and_the_leg_comes_back),
        cmocka_unit_test(a_peer_that_was_promoted_deposes_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
