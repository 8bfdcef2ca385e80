/* A volume that grows: what is on which disk before what, and what a crash at any point leaves. */
#include "tests/unit/engine_pair.h"

#include <errno.h>
#include <string.h>

#define PATIENCE_NS (2 * NS_PER_S)
#define GROWN_BYTES (3 * VOLUME_BYTES)
#define FORMER_BYTES (64 * KIB) /* of metadata that stood right behind the volume */

static const struct node_options may_go_alone = { .has_peer = true, .alone_after_ns = PATIENCE_NS };

static struct grow_plan plan_of(bool internal)
{
    struct grow_plan plan = { .data_bytes = GROWN_BYTES, .backing_bytes = DISK_BYTES, .move = true };
    if (internal)
        plan.former = (struct range) { VOLUME_BYTES, FORMER_BYTES };
    return plan;
}

/* A pair, in sync, with data; beyond the volume's end each disk has something else. */
static void open_grown(struct node *a, struct node *b, bool internal)
{
    node_open_with(a, 0, &may_go_alone);
    node_open_with(b, 1, &may_go_alone);
    struct node *both[] = { a, b };
    for (unsigned i = 0; i < 2; i++) {
        memset(both[i]->content + VOLUME_BYTES, 0x51 + (int)i, DISK_BYTES - VOLUME_BYTES);
        memcpy(both[i]->stable, both[i]->content, DISK_BYTES);
        both[i]->plan = plan_of(internal);
    }
    connect_nodes(a, b);
    promote(a, b);
    write_block(a, 0, 1);
    write_block(a, VOLUME_BYTES - CHANGE_BYTES, 2);
    run(a, b);
    request(a, OP_FLUSH, 0);
    run(a, b);
    assert_int_equal(a->completed, 3);
    a->orders_done = 0;
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

static void assert_grown(struct node *a, struct node *b)
{
    assert_in_sync(a, b);
    assert_int_equal(view_of(a).size_bytes, GROWN_BYTES);
    assert_int_equal(a->served_bytes, GROWN_BYTES);
    assert_true(is_zero(a->content + VOLUME_BYTES, GROWN_BYTES - VOLUME_BYTES));
    assert_int_equal(a->content[0], 1);
    assert_int_equal(a->content[VOLUME_BYTES - 1], 2);
    /* Nothing beyond it is touched: there may be the metadata. */
    assert_int_equal(a->content[GROWN_BYTES], 0x51);
    assert_int_equal(b->content[GROWN_BYTES], 0x52);
    assert_int_equal(a->on_disk.size_bytes, GROWN_BYTES);
    assert_int_equal(b->on_disk.size_bytes, GROWN_BYTES);
    assert_int_equal(a->on_disk.moved_from_bytes, 0);
    assert_int_equal(b->on_disk.moved_from_bytes, 0);
}

/* The peer is back while this node writes its record of the new room: nothing goes to it before that is on disk, but it
 * is no less there than it was while it was away. */
static void a_read_that_waits_for_the_peer_does_not_fail_as_it_is_back(void **state)
{
    struct node a, b;
    open_grown(&a, &b, false);
    struct buf *buf = buf_get(&a.pool, CHANGE_BYTES, 0);
    struct request read = {
        .kind = OP_READ, .offset_bytes = 0, .length_bytes = CHANGE_BYTES, .buf = buf, .cookie = buf
    };
    step(&a, (struct event) { .kind = EV_REQUEST, .request = read });
    disk_done(&a, -EIO);
    order(&a, EV_RESIZE, false);
    grow_done(&a, 0);
    disconnect_nodes(&a, &b);
    hellos(&a, &b);
    metas_done(&a);
    metas_done(&b);
    assert_true(a.ready && b.ready);
    disks_done(&a);
    grow_done(&a, 0);
    assert_true(a.meta_pending);
    int completed = a.completed;
    step(&a, (struct event) { .kind = EV_SESSION_UP });
    step(&b, (struct event) { .kind = EV_SESSION_UP });
    assert_int_equal(a.completed, completed);
    run(&a, &b);
    assert_int_equal(a.completed, completed + 1);
    assert_int_equal(a.complete_result, 0);
    assert_true(told(&a, "wrote back what was unreadable"));
    close_both(&a, &b);
}

static void both_legs_get_room_and_then_the_size(void **state)
{
    for (unsigned internal = 0; internal < 2; internal++) {
        struct node a, b;
        open_grown(&a, &b, internal);
        order(&a, EV_RESIZE, false);
        bool peer_first = false, half = false;
        uint64_t done_bytes = 0;
        while (run_step(&a, &b)) {
            struct engine_growth growth = view_of(&a).growth;
            assert_true(growth.done_bytes <= growth.total_bytes);
            if (growth.total_bytes) {
                assert_int_equal(growth.total_bytes, GROWN_BYTES - VOLUME_BYTES);
                assert_true(growth.active && growth.done_bytes >= done_bytes);
                done_bytes = growth.done_bytes;
                half |= done_bytes > 0 && done_bytes < growth.total_bytes;
            }
            bool a_has = a.on_disk.size_bytes == GROWN_BYTES, b_has = b.on_disk.size_bytes == GROWN_BYTES;
            assert_true(b_has || !a_has);
            peer_first |= b_has && !a_has;
            /* It does not say that it has what is not on its disk. */
            assert_true(view_of(&b).size_bytes == b.on_disk.size_bytes || b.sent_count == 0);
            if (a_has || b_has) { /* whoever is left behind can follow */
                assert_int_equal(a.on_disk.room_bytes, GROWN_BYTES);
                assert_int_equal(b.on_disk.room_bytes, GROWN_BYTES);
            }
            /* No client may write where the peer does not know of. */
            assert_true(a.served_bytes == VOLUME_BYTES || (a_has && b_has));
        }
        assert_true(peer_first);
        assert_int_equal(done_bytes, GROWN_BYTES - VOLUME_BYTES);
        assert_true(half || !internal);
        assert_false(view_of(&a).growth.active);
        assert_int_equal(a.orders_done, 1);
        assert_int_equal(a.order_result, 0);
        assert_grown(&a, &b);
        assert_int_equal(a.on_disk.backing_bytes, DISK_BYTES);
        /* And it is used. */
        write_block(&a, GROWN_BYTES - CHANGE_BYTES, 9);
        run(&a, &b);
        assert_int_equal(a.completed, 4);
        assert_int_equal(a.complete_result, 0);
        assert_int_equal(b.content[GROWN_BYTES - 1], 9);
        close_both(&a, &b);
    }
}

enum crash {
    CRASH_A,
    CRASH_B,
    CRASH_BOTH,
    CUT_LINK,
    CRASHES,
};

static void crash(struct node *a, struct node *b, enum crash how)
{
    if (how == CRASH_A || how == CRASH_BOTH)
        node_lose_power(a);
    else
        disconnect_nodes(a, a);
    if (how == CRASH_B || how == CRASH_BOTH)
        node_lose_power(b);
    else
        disconnect_nodes(b, b);
    /* What the disks have still under way comes to its end. */
    while (a->meta_pending || a->disk_count || a->grow_pending || a->page_count || b->meta_pending || b->disk_count ||
           b->grow_pending || b->page_count) {
        a->sent_count = b->sent_count = 0;
        run_step(a, b);
    }
}

/* At each point of a resize, in each way; then the legs meet, are equal, of one size, and can grow to the end. */
static void a_crash_at_any_point_leaves_equal_legs(void **state)
{
    unsigned points = 0;
    for (unsigned internal = 0; internal < 2; internal++) {
        for (enum crash how = 0; how < CRASHES; how++) {
            bool ended = false;
            for (unsigned at = 0; !ended; at++, points++) {
                struct node a, b;
                open_grown(&a, &b, internal);
                order(&a, EV_RESIZE, false);
                for (unsigned i = 0; i < at && !ended; i++)
                    ended = !run_step(&a, &b);
                crash(&a, &b, how);
                /* A shell does so before it opens the engine. */
                hellos(&a, &b);
                if (!make_ready(&a, &b))
                    fail_msg("at %u, %d: not connected: %s / %s", at, (int)how, a.text, b.text);
                session_up(&a, &b);
                run(&a, &b);
                if (!view_of(&a).serving)
                    promote(&a, &b);
                run(&a, &b);
                assert_in_sync(&a, &b);
                if (view_of(&a).size_bytes != GROWN_BYTES) {
                    assert_int_equal(view_of(&a).size_bytes, VOLUME_BYTES);
                    /* What a moved leg sees of its backing the next time. */
                    struct node *both[] = { &a, &b };
                    for (unsigned i = 0; i < 2; i++) {
                        if (both[i]->on_disk.backing_bytes == DISK_BYTES)
                            both[i]->plan =
                                (struct grow_plan) { .data_bytes = GROWN_BYTES, .backing_bytes = DISK_BYTES };
                    }
                    order(&a, EV_RESIZE, false);
                    run(&a, &b);
                    if (a.order_result)
                        fail_msg("at %u, %d: %d %s", at, (int)how, a.order_result, a.order_text);
                }
                metas_done(&a);
                metas_done(&b);
                assert_int_equal(view_of(&a).size_bytes, GROWN_BYTES);
                assert_true(is_zero(a.content + VOLUME_BYTES, GROWN_BYTES - VOLUME_BYTES));
                assert_in_sync(&a, &b);
                assert_int_equal(a.content[VOLUME_BYTES - 1], 2);
                close_both(&a, &b);
            }
        }
    }
    assert_true(points > 100);
}

/* A page that went to the former place after the log was copied would be lost. */
static void nothing_of_the_metadata_is_written_while_it_moves(void **state)
{
    struct node a, b;
    struct node_options options = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE, .extent_bytes = 256 * KIB };
    node_open_with(&a, 0, &options);
    node_open_with(&b, 1, &options);
    a.plan = b.plan = plan_of(true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    a.hold_pages = true;
    order(&a, EV_RESIZE, false);
    /* A block of the log is under way when the move is due. */
    write_block(&a, 0, 1);
    assert_int_equal(a.page_count, 1);
    while (a.grow_pending || a.disk_count || a.meta_pending) {
        if (a.grow_pending)
            grow_done(&a, 0);
        else if (a.disk_count)
            disk_done(&a, 0);
        else
            meta_done(&a, 0);
    }
    assert_int_equal(a.grow_pending, 0); /* it waits for the page */
    write_block(&a, 256 * KIB, 2);
    assert_int_equal(a.page_count, 1);
    page_done(&a, 0);
    assert_int_equal(a.grow_pending, 1 + GROW_MOVE);
    assert_int_equal(a.page_count, 0);
    write_block(&a, 512 * KIB, 3); /* cold: it waits, too */
    assert_int_equal(a.page_count, 0);
    assert_false(a.meta_pending);
    grow_done(&a, 0);
    assert_true(a.meta_pending);
    assert_int_equal(a.page_count, 0);
    meta_done(&a, 0);
    assert_int_equal(a.on_disk.moved_from_bytes, 0); /* the test's legs have no size of a backing before */
    assert_int_equal(a.on_disk.backing_bytes, DISK_BYTES);
    assert_int_equal(a.page_count, 1);
    a.hold_pages = false;
    page_done(&a, 0);
    run(&a, &b);
    assert_int_equal(a.completed, 3);
    assert_int_equal(a.order_result, 0);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* Ordered at each point of a resize: who hears of equal legs takes that for the whole volume, as it is then. What the
 * volume grows by differs as soon as the peer has taken the size. */
static void a_verify_compares_what_the_volume_grows_by(void **state)
{
    unsigned found_of_a_smaller = 0, equal_of_a_smaller = 0;
    bool ended = false;
    for (unsigned at = 0; !ended; at++) {
        struct node a, b;
        open_grown(&a, &b, true);
        order(&a, EV_RESIZE, false);
        for (unsigned i = 0; i < at && !ended; i++)
            ended = !run_step(&a, &b);
        bool smaller = view_of(&a).size_bytes == VOLUME_BYTES;
        order(&a, EV_VERIFY, false);
        struct verify_view verify;
        do {
            if (b.on_disk.size_bytes == GROWN_BYTES)
                b.content[GROWN_BYTES - 1] = 7;
            engine_verify_view(a.engine, &verify);
        } while (verify.running && run_step(&a, &b));
        assert_false(verify.running);
        assert_int_equal(verify.total_bytes, view_of(&a).size_bytes);
        bool grown = verify.total_bytes == GROWN_BYTES;
        assert_int_equal(told(&a, "verify: both legs are equal"), !grown);
        assert_int_equal(told(&a, "verify: the legs differ"), grown);
        assert_int_equal(verify.differing_bytes, grown ? CHANGE_BYTES : 0);
        found_of_a_smaller += smaller && grown;
        equal_of_a_smaller += smaller && !grown;
        b.content[GROWN_BYTES - 1] = 0;
        run(&a, &b);
        assert_int_equal(view_of(&a).size_bytes, GROWN_BYTES);
        close_both(&a, &b);
    }
    assert_true(found_of_a_smaller > 0 && equal_of_a_smaller > 0);
}

static void refused(struct node *n, int32_t result, const char *words)
{
    int before = n->orders_done;
    order(n, EV_RESIZE, false);
    assert_int_equal(n->orders_done, before + 1);
    assert_int_equal(n->order_result, result);
    if (!strstr(n->order_text, words))
        fail_msg("it says: %s", n->order_text);
}

static void what_cannot_be_is_refused(void **state)
{
    struct node a, b;
    open_grown(&a, &b, true);
    refused(&b, -EBUSY, "not primary");
    /* Only one has grown, or neither. */
    b.plan.data_bytes = VOLUME_BYTES;
    order(&a, EV_RESIZE, false);
    run(&a, &b);
    assert_int_equal(a.order_result, -ENOSPC);
    assert_non_null(strstr(a.order_text, "paris-b"));
    a.plan.data_bytes = VOLUME_BYTES;
    order(&a, EV_RESIZE, false);
    run(&a, &b);
    assert_int_equal(a.order_result, -ENOSPC);
    /* The peer cannot. */
    a.plan = b.plan = plan_of(true);
    order(&a, EV_RESIZE, false);
    while (!b.grow_pending)
        assert_true(run_step(&a, &b));
    refused(&a, -EBUSY, "under way");
    grow_done(&b, -EIO);
    run(&a, &b);
    assert_int_equal(a.order_result, -EIO);
    assert_int_equal(view_of(&a).size_bytes, VOLUME_BYTES);
    assert_true(view_of(&a).in_sync);
    /* Nobody is there, or lacks something. */
    disconnect_nodes(&a, &b);
    refused(&a, -ENOTCONN, "no connection");
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    write_block(&a, 4 * CHANGE_BYTES, 3);
    disks_done(&a);
    connect_nodes(&a, &b);
    refused(&a, -EBUSY, "resync");
    run(&a, &b);
    order(&a, EV_RESIZE, false);
    run(&a, &b);
    assert_int_equal(a.order_result, 0);
    assert_int_equal(view_of(&b).size_bytes, GROWN_BYTES);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

static void a_peer_is_not_believed(void **state)
{
    struct node a, b;
    open_grown(&a, &b, true);
    /* An answer that nobody asked for changes nothing. */
    struct frame f = { .kind = FRAME_RESIZE_REPLY, .tag = 7, .offset_bytes = GROWN_BYTES };
    step(&a, (struct event) { .kind = EV_FRAME, .frame = { .frame = f } });
    assert_false(a.dropped);
    assert_int_equal(view_of(&a).size_bytes, VOLUME_BYTES);
    /* A size for which there is no room; and one that is smaller. */
    uint64_t sizes[] = { GROWN_BYTES, VOLUME_BYTES - CHANGE_BYTES };
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        f = (struct frame) { .kind = FRAME_RESIZE, .tag = 1, .offset_bytes = sizes[i] };
        step(&b, (struct event) { .kind = EV_FRAME, .frame = { .frame = f } });
        assert_true(b.dropped);
        assert_non_null(strstr(b.text, "offset_bytes"));
        assert_int_equal(view_of(&b).size_bytes, VOLUME_BYTES);
        disconnect_nodes(&a, &b);
        connect_nodes(&a, &b);
        run(&a, &b);
    }
    close_both(&a, &b);
}

/* It is a flush of the whole disk, and told once: what had been completed before may be lost. */
static void a_flush_that_fails_in_it_fails_the_leg(void **state)
{
    enum { OWN, PEERS, SHELLS, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct node a, b;
        open_grown(&a, &b, true);
        struct node *failing = kind == PEERS ? &b : &a;
        order(&a, EV_RESIZE, false);
        for (bool asked = kind == SHELLS; !asked;) {
            assert_true(run_step(&a, &b));
            asked = failing->disk_count == 1 && failing->disk[0].disk.op == ENGINE_OP_GROW &&
                    failing->disk[0].disk.kind == OP_FLUSH;
        }
        if (kind == SHELLS) {
            assert_int_equal(a.grow_pending, 1 + GROW_LOOK);
            a.grow_pending = 0;
            step(&a, (struct event) { .kind = EV_GROW_DONE,
                                      .grow = { .step = GROW_LOOK, .result = -EIO, .flush_failed = true } });
        } else {
            disk_done(failing, -EIO);
        }
        assert_int_equal(view_of(failing).leg, LEG_FAILED);
        assert_true(failing->dropped);
        while (failing->meta_pending)
            meta_done(failing, 0);
        assert_true(failing->on_disk.reads_lie);
        disconnect_nodes(&a, &b);
        assert_int_equal(a.orders_done, 1);
        assert_true(a.order_result < 0);
        assert_int_equal(view_of(&a).size_bytes, VOLUME_BYTES);
        close_both(&a, &b);
    }
}

/* Who is taken down does not wait until all is zeroed. */
static void a_demotion_ends_it(void **state)
{
    struct node a, b;
    open_grown(&a, &b, true);
    order(&a, EV_RESIZE, false);
    while (!a.disk_count)
        assert_true(run_step(&a, &b));
    order(&a, EV_DETACH, false);
    run(&a, &b);
    assert_int_equal(a.orders_done, 2);
    assert_false(a.on_disk.attached);
    assert_int_equal(a.on_disk.size_bytes, VOLUME_BYTES);
    close_both(&a, &b);
}

/* In the same session the other one may be promoted next, and serve what it has taken. */
static void a_demotion_after_the_peer_was_told_takes_the_size(void **state)
{
    struct node a, b;
    open_grown(&a, &b, true);
    order(&a, EV_RESIZE, false);
    while (b.on_disk.size_bytes != GROWN_BYTES)
        assert_true(run_step(&a, &b));
    assert_int_equal(a.on_disk.size_bytes, VOLUME_BYTES);
    order(&a, EV_DEMOTE, false);
    run(&a, &b);
    assert_int_equal(a.orders_done, 2);
    assert_int_equal(a.on_disk.size_bytes, GROWN_BYTES);
    promote(&b, &a);
    assert_int_equal(b.served_bytes, GROWN_BYTES);
    write_block(&b, GROWN_BYTES - CHANGE_BYTES, 9);
    run(&a, &b);
    assert_false(a.dropped);
    assert_int_equal(a.content[GROWN_BYTES - 1], 9);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

static void a_volume_of_one_node_grows_alone(void **state)
{
    struct node a;
    node_open(&a, 0, false);
    a.plan = plan_of(true);
    memset(a.content + VOLUME_BYTES, 0x51, DISK_BYTES - VOLUME_BYTES);
    order(&a, EV_PROMOTE, false);
    metas_done(&a);
    order(&a, EV_RESIZE, false);
    run(&a, &a);
    assert_int_equal(a.order_result, 0);
    assert_int_equal(a.served_bytes, GROWN_BYTES);
    assert_true(is_zero(a.content + VOLUME_BYTES, GROWN_BYTES - VOLUME_BYTES));
    node_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_legs_get_room_and_then_the_size),
        cmocka_unit_test(a_read_that_waits_for_the_peer_does_not_fail_as_it_is_back),
        cmocka_unit_test(a_crash_at_any_point_leaves_equal_legs),
        cmocka_unit_test(nothing_of_the_metadata_is_written_while_it_moves),
        cmocka_unit_test(a_verify_compares_what_the_volume_grows_by),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(a_peer_is_not_believed),
        cmocka_unit_test(a_flush_that_fails_in_it_fails_the_leg),
        cmocka_unit_test(a_demotion_ends_it),
        cmocka_unit_test(a_demotion_after_the_peer_was_told_takes_the_size),
        cmocka_unit_test(a_volume_of_one_node_grows_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
