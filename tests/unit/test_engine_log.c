/* The activity log and the bitmap on disk: what waits for them, what a clean end and a crash leave, what damage costs.
 */
#include "tests/unit/engine_pair.h"

#include <errno.h>
#include <string.h>

#define EXTENT_BYTES (64 * KIB)
#define PATIENCE_NS (2 * NS_PER_S)

/* An activity log of two extents, so that the third one needs a place. */
static const struct node_options tiny_log = {
    .has_peer = true, .alone_after_ns = PATIENCE_NS, .extent_bytes = EXTENT_BYTES, .log_slots = 2
};
static const struct node_options strict = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE };

static void open_alone(struct node *a, struct node *b)
{
    open_promoted(a, b, &tiny_log);
    disconnect_nodes(a, b);
    patience_ends(a, PATIENCE_NS);
    metas_done(a);
    assert_true(told(a, "goes on alone"));
}

static uint64_t dirty_bytes(struct node *n)
{
    struct hello hello;
    say_hello(n, &hello);
    return hello.dirty_bytes;
}

static void a_cold_change_reaches_nobody_before_its_block_is_on_disk(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &tiny_log);
    a.hold_pages = true;
    write_block(&a, 0, 1);
    write_block(&a, CHANGE_BYTES, 2);
    assert_int_equal(a.disk_count + a.sent_count, 0);
    assert_int_equal(a.page_count, 1);
    assert_int_equal(a.pages[0].page.area, META_ACTIVITY_LOG);
    page_done(&a, 0);
    assert_int_equal(a.disk_count, 2);
    assert_int_equal(a.sent_count, 2);
    /* Hot now: nothing to wait for. */
    write_block(&a, 2 * CHANGE_BYTES, 3);
    assert_int_equal(a.page_count, 0);
    assert_int_equal(a.disk_count, 3);
    /* Whatever becomes of it, a crash finds the extent. */
    node_restart(&a, true);
    assert_int_equal(dirty_bytes(&a), EXTENT_BYTES);
    close_both(&a, &b);
}

/* Its bits are in memory only: on disk before the log forgets the extent. */
static void an_extent_is_given_up_when_its_bits_are_on_disk(void **state)
{
    struct node a, b;
    open_alone(&a, &b);
    write_block(&a, 0 * EXTENT_BYTES, 1);
    write_block(&a, 1 * EXTENT_BYTES, 2);
    disks_done(&a);
    assert_int_equal(a.completed, 2);
    a.hold_pages = true;
    write_block(&a, 2 * EXTENT_BYTES, 3);
    /* No slot is free before a flush, which nobody else asks for. */
    assert_int_equal(a.page_count, 0);
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.disk[0].disk.kind, OP_FLUSH);
    disk_done(&a, 0);
    assert_int_equal(a.page_count, 1);
    assert_int_equal(a.pages[0].page.area, META_BITMAP);
    page_done(&a, 0);
    assert_int_equal(a.disk_count, 0);
    assert_int_equal(a.page_count, 1);
    assert_int_equal(a.pages[0].page.area, META_ACTIVITY_LOG);
    page_done(&a, 0);
    assert_int_equal(a.disk_count, 1);
    disks_done(&a);
    assert_int_equal(a.completed, 3);

    node_restart(&a, true);
    assert_int_equal(dirty_bytes(&a), 2 * EXTENT_BYTES + CHANGE_BYTES);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* What waits ends with an error, on no disk; the leg has failed for good. */
static void what_cannot_be_logged_fails_the_leg(void **state)
{
    for (int page = 0; page < 2; page++) {
        struct node a, b;
        open_alone(&a, &b);
        write_block(&a, 0 * EXTENT_BYTES, 1);
        write_block(&a, 1 * EXTENT_BYTES, 2);
        disks_done(&a);
        request(&a, OP_FLUSH, 0);
        disks_done(&a);
        assert_int_equal(a.completed, 3);
        a.hold_pages = true;
        write_block(&a, 2 * EXTENT_BYTES, 3);
        assert_int_equal(a.pages[0].page.area, META_BITMAP);
        if (!page)
            page_done(&a, 0);
        page_done(&a, -EIO);
        assert_int_equal(a.completed, 4);
        assert_int_equal(a.complete_result, -EIO);
        assert_int_equal(a.disk_count + a.sent_count + a.page_count, 0);
        assert_true(told(&a, page ? "the out-of-sync bitmap on /dev/a could not be written"
                                  : "the activity log on /dev/a could not be written"));
        assert_int_equal(view_of(&a).leg, LEG_FAILED);
        metas_done(&a);
        assert_int_equal(a.on_disk.leg, LEG_FAILED);
        write_block(&a, 0, 4);
        assert_int_equal(a.completed, 5);
        assert_int_equal(a.complete_result, -EIO);
        assert_int_equal(a.disk_count, 0);
        close_both(&a, &b);
    }
}

static void a_log_that_fails_ends_the_session(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &tiny_log);
    a.hold_pages = true;
    write_block(&a, 0, 1);
    page_done(&a, -EIO);
    assert_int_equal(a.completed, 0);
    assert_int_equal(a.disk_count + a.sent_count, 0);
    assert_true(a.dropped);
    close_both(&a, &b);
}

static void detach(struct node *n, struct node *peer)
{
    order(n, EV_DETACH, false);
    run(n, peer);
    assert_int_equal(n->order_result, 0);
    assert_false(n->on_disk.attached);
}

/* The peer has flushed what it was sent: neither the log nor the bitmap is needed any more. */
static void a_clean_end_with_the_peer_leaves_nothing_to_do(void **state)
{
    for (int demote = 0; demote < 2; demote++) {
        struct node a, b;
        open_promoted(&a, &b, &tiny_log);
        write_block(&a, 0, 1);
        run(&a, &b);
        uint64_t al_from = a.on_disk.al_from;
        order(&a, demote ? EV_DEMOTE : EV_DETACH, false);
        assert_int_equal(a.sent[0].frame.kind, FRAME_FLUSH);
        run(&a, &b);
        assert_int_equal(a.order_result, 0);
        assert_true(a.on_disk.al_from > al_from);
        disconnect_nodes(&a, &b);
        /* Whatever happens to the machines now. */
        node_lose_power(&b);
        node_restart(&a, true);
        assert_int_equal(dirty_bytes(&a), 0);
        assert_memory_equal(a.content, b.content, VOLUME_BYTES);
        close_both(&a, &b);
    }
}

/* The peer is not there to flush: what it may lose with its power is told by the bitmap. */
static void a_clean_end_without_the_peer_keeps_what_it_may_lose(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 0, 1);
    run(&a, &b);
    assert_int_equal(a.completed, 1);
    disconnect_nodes(&a, &b);
    uint64_t al_from = a.on_disk.al_from;
    a.hold_pages = true;
    order(&a, EV_DETACH, false);
    assert_int_equal(a.page_count, 1);
    assert_int_equal(a.pages[0].page.area, META_BITMAP);
    assert_int_equal(a.disk_count, 0);
    page_done(&a, 0);
    assert_false(a.meta_pending);
    disks_done(&a);
    assert_true(a.meta_pending);
    metas_done(&a);
    assert_true(a.on_disk.al_from > al_from);
    assert_false(a.on_disk.attached);

    node_lose_power(&b);
    node_restart(&a, true);
    assert_int_equal(dirty_bytes(&a), CHANGE_BYTES);
    assert_memory_not_equal(a.content, b.content, VOLUME_BYTES);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.content[0], 1);
    close_both(&a, &b);
}

static void a_failed_leg_keeps_its_log(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &tiny_log);
    write_block(&a, 0, 1);
    disk_done(&a, -EIO);
    run(&a, &b);
    disconnect_nodes(&a, &b);
    metas_done(&a);
    uint64_t al_from = a.on_disk.al_from;
    order(&a, EV_DETACH, true); /* the change waits for the peer */
    run(&a, &b);
    assert_int_equal(a.order_result, 0);
    assert_int_equal(a.on_disk.al_from, al_from);
    node_restart(&a, true);
    assert_int_equal(dirty_bytes(&a), EXTENT_BYTES);
    close_both(&a, &b);
}

/* Its memory goes with the engine. */
static void a_failed_leg_is_let_go_when_its_pages_are_back(void **state)
{
    struct node a, b;
    open_alone(&a, &b);
    write_block(&a, 0 * EXTENT_BYTES, 1);
    write_block(&a, 1 * EXTENT_BYTES, 2);
    disks_done(&a);
    request(&a, OP_FLUSH, 0);
    disks_done(&a);
    write_block(&a, 0 * EXTENT_BYTES, 3);
    assert_int_equal(a.disk_count, 1);
    a.hold_pages = true;
    write_block(&a, 2 * EXTENT_BYTES, 4);
    assert_int_equal(a.page_count, 1);
    disk_done(&a, -EIO);
    assert_int_equal(view_of(&a).leg, LEG_FAILED);
    metas_done(&a);
    int orders = a.orders_done;
    order(&a, EV_DETACH, true);
    disks_done(&a);
    metas_done(&a);
    assert_int_equal(a.page_count, 1);
    assert_int_equal(a.orders_done, orders);
    while (a.page_count)
        page_done(&a, 0);
    disks_done(&a);
    metas_done(&a);
    assert_int_equal(a.orders_done, orders + 1);
    close_both(&a, &b);
}

/* Who comes while a block is on its way is in the next one, which begins when that is done. */
static void one_block_follows_the_other(void **state)
{
    static const struct node_options log_of_eight = {
        .has_peer = true, .alone_after_ns = PATIENCE_NS, .extent_bytes = EXTENT_BYTES, .log_slots = 8
    };
    struct node a, b;
    open_promoted(&a, &b, &log_of_eight);
    a.hold_pages = true;
    write_block(&a, 0, 1);
    write_block(&a, 1 * EXTENT_BYTES, 2);
    write_block(&a, 2 * EXTENT_BYTES, 3);
    assert_int_equal(a.page_count, 1);
    page_done(&a, 0);
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.page_count, 1);
    disks_done(&a); /* what happens meanwhile changes nothing */
    assert_int_equal(a.page_count, 1);
    page_done(&a, 0);
    assert_int_equal(a.disk_count, 2);
    assert_int_equal(a.page_count, 0);
    a.hold_pages = false;
    run(&a, &b);
    assert_int_equal(a.completed, 3);
    close_both(&a, &b);
}

/* With an eighth of the slots left the flush begins, and they go to whoever is cold meanwhile. */
static void the_log_is_flushed_before_it_runs_out(void **state)
{
    enum { SLOTS = 16, BYTES = VOLUME_BYTES / (2 * SLOTS) };
    static const struct node_options sixteen = {
        .has_peer = true, .alone_after_ns = PATIENCE_NS, .extent_bytes = BYTES, .log_slots = SLOTS
    };
    struct node a, b;
    open_promoted(&a, &b, &sixteen);
    unsigned i = 0;
    for (; i < SLOTS - 3; i++) {
        write_block(&a, i * BYTES, 1);
        assert_int_equal(a.disk_count, 1); /* no flush */
        run(&a, &b);
    }
    write_block(&a, i++ * BYTES, 1);
    assert_int_equal(a.disk_count, 2);
    assert_int_equal(a.sent_count, 2);
    assert_true(a.disk[0].disk.kind == OP_FLUSH || a.disk[1].disk.kind == OP_FLUSH);
    /* It is under way, and not waited for. */
    while (i < SLOTS)
        write_block(&a, i++ * BYTES, 1);
    assert_int_equal(a.disk_count, 4);
    write_block(&a, i * BYTES, 1); /* one more than there are slots */
    assert_int_equal(a.disk_count, 4);
    run(&a, &b);
    assert_int_equal(a.completed, SLOTS + 1);
    close_both(&a, &b);
}

static bool ring_is_written(const struct node *n, unsigned index)
{
    const uint8_t *block = n->ring + (size_t)index * META_PAGE_BYTES;
    return block[0] != 0;
}

/* A block that nothing comes after for days is told from one that a crash has torn, if it rots. */
static void the_newest_block_is_sealed(void **state)
{
    static const struct node_options two_blocks_a_cycle = {
        .has_peer = true, .alone_after_ns = PATIENCE_NS, .extent_bytes = EXTENT_BYTES, .log_slots = 1024
    };
    enum { NOTHING, SEALED, SEAL, CASES };
    for (int damaged = 0; damaged < CASES; damaged++) {
        struct node a, b;
        open_promoted(&a, &b, &two_blocks_a_cycle);
        write_block(&a, 0, 1);
        disks_done(&a); /* and not the peer */
        assert_true(ring_is_written(&a, 1) && !ring_is_written(&a, 2));
        tick(&a, a.now_ns + 5 * NS_PER_S);
        assert_true(ring_is_written(&a, 2));
        tick(&a, a.now_ns + 5 * NS_PER_S);
        assert_false(ring_is_written(&a, 3));
        switch (damaged) {
        case NOTHING: break;
        case SEALED: a.ring[1 * META_PAGE_BYTES + 100] ^= 1; break;
        case SEAL: a.ring[2 * META_PAGE_BYTES + 100] ^= 1; break;
        }
        node_restart(&a, true);
        assert_int_equal(dirty_bytes(&a), damaged == SEALED ? VOLUME_BYTES : EXTENT_BYTES);
        close_both(&a, &b);
    }
}

/* All slots are in the newest block, which may be in the disk's cache only: a new primary has the next one say the
 * same, and then everybody gets in. */
static void what_the_newest_block_tells_is_told_again_after_a_crash(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &tiny_log);
    request(&a, OP_DISCARD, EXTENT_BYTES - CHANGE_BYTES / 2); /* both slots at once */
    assert_true(ring_is_written(&a, 1));
    run(&a, &b);
    disconnect_nodes(&a, &b);
    node_restart(&a, true);
    assert_int_equal(dirty_bytes(&a), 2 * EXTENT_BYTES);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    a.hold_pages = true;
    promote(&a, &b);
    assert_int_equal(a.page_count, 1);
    assert_int_equal(a.pages[0].page.area, META_ACTIVITY_LOG);
    assert_int_equal(a.pages[0].page.index, 2);
    write_block(&a, 2 * EXTENT_BYTES, 4);
    write_block(&a, 0, 3);
    assert_int_equal(a.disk_count, 0);
    page_done(&a, 0);
    assert_int_equal(a.disk_count, 1); /* the one whose extent is hot again */
    assert_int_equal(a.disk[0].disk.offset_bytes, 0);
    a.hold_pages = false;
    while (a.page_count)
        page_done(&a, 0);
    run(&a, &b);
    assert_int_equal(a.completed, 2);
    assert_int_equal(a.complete_result, 0);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

static void a_crash_leaves_the_extents_that_were_in_use(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &tiny_log);
    write_block(&a, 3 * EXTENT_BYTES, 1);
    disks_done(&a); /* and not the peer */
    node_restart(&a, true);
    disconnect_nodes(&b, &b);
    assert_int_equal(dirty_bytes(&a), EXTENT_BYTES);
    connect_nodes(&a, &b);
    assert_false(view_of(&a).in_sync);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(dirty_bytes(&a), 0);
    close_both(&a, &b);
}

static void damage_counts_as_out_of_sync_and_is_told(void **state)
{
    enum { PAGE_UNREADABLE, PAGE_DAMAGED, LOG_DAMAGED, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        struct node a, b;
        open_promoted(&a, &b, &tiny_log);
        for (unsigned i = 0; i < 6; i++) {
            write_block(&a, i * EXTENT_BYTES, 1);
            run(&a, &b);
        }
        disconnect_nodes(&a, &b);
        switch (kind) {
        case PAGE_UNREADABLE: a.page_unreadable = true; break;
        case PAGE_DAMAGED: memset(a.bitmap, 0x5a, META_PAGE_BYTES); break;
        /* More than the one block that a crash can tear. */
        case LOG_DAMAGED: memset(a.ring, 0x5a, (size_t)LOG_BLOCKS * META_PAGE_BYTES); break;
        }
        node_restart(&a, true);
        assert_int_equal(dirty_bytes(&a), VOLUME_BYTES);
        assert_true(told(&a, kind == LOG_DAMAGED ? "the activity log on /dev/a is damaged"
                                                 : "1 pages of the out-of-sync bitmap on /dev/a are damaged"));
        a.page_unreadable = false;
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(dirty_bytes(&a), 0);
        disconnect_nodes(&a, &b);
        detach(&a, &b);
        node_restart(&a, true);
        assert_int_equal(dirty_bytes(&a), 0);
        assert_false(told(&a, "damaged"));
        close_both(&a, &b);
    }
}

/* Its extent is not in the log: nothing but the bitmap's page tells of it after a crash. */
static void what_a_verify_found_outlives_a_crash(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &tiny_log);
    b.content[5 * EXTENT_BYTES] = 7; /* a disk that lies */
    order(&a, EV_VERIFY, false);
    for (int i = 0; i < 100 && a.order_result == 0; i++) {
        run(&a, &b);
        tick(&a, a.now_ns + 10 * NS_PER_MS);
        tick(&b, b.now_ns + 10 * NS_PER_MS);
    }
    run(&a, &b);
    assert_int_equal(a.order_result, -EILSEQ);
    assert_int_equal(dirty_bytes(&a), CHANGE_BYTES);
    node_restart(&a, true);
    assert_int_equal(dirty_bytes(&a), CHANGE_BYTES);
    close_both(&a, &b);
}

/* An application that never flushes: what a loss of the peer's power costs stays a few seconds' changes. */
static void what_nobody_flushes_is_flushed_all_the_same(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_block(&a, 0, 1);
    run(&a, &b);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.stable[0] + b.stable[0], 0);
    uint64_t due_ns = engine_deadline_ns(a.engine);
    assert_true(due_ns <= a.now_ns + 5 * NS_PER_S);
    tick(&a, due_ns - 1);
    assert_int_equal(a.disk_count + a.sent_count, 0);
    tick(&a, due_ns);
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.disk[0].disk.kind, OP_FLUSH);
    assert_int_equal(a.sent_count, 1);
    assert_int_equal(a.sent[0].frame.kind, FRAME_FLUSH);
    run(&a, &b);
    assert_int_equal(a.completed, 1); /* no request of the application */
    assert_int_equal(a.stable[0], 1);
    assert_int_equal(b.stable[0], 1);

    /* Nothing to flush, no flush; and again when there is. */
    tick(&a, engine_deadline_ns(a.engine));
    run(&a, &b);
    tick(&a, engine_deadline_ns(a.engine));
    assert_int_equal(a.disk_count + a.sent_count, 0);
    write_block(&a, EXTENT_BYTES, 2);
    run(&a, &b);
    tick(&a, engine_deadline_ns(a.engine));
    run(&a, &b);
    assert_int_equal(b.stable[EXTENT_BYTES], 2);

    /* All of that the peer has, with its power gone. */
    disconnect_nodes(&a, &b);
    node_lose_power(&b);
    connect_nodes(&a, &b);
    assert_int_equal(dirty_bytes(&a), 0);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cold_change_reaches_nobody_before_its_block_is_on_disk),
        cmocka_unit_test(an_extent_is_given_up_when_its_bits_are_on_disk),
        cmocka_unit_test(what_cannot_be_logged_fails_the_leg),
        cmocka_unit_test(a_log_that_fails_ends_the_session),
        cmocka_unit_test(a_clean_end_with_the_peer_leaves_nothing_to_do),
        cmocka_unit_test(a_clean_end_without_the_peer_keeps_what_it_may_lose),
        cmocka_unit_test(a_failed_leg_keeps_its_log),
        cmocka_unit_test(a_failed_leg_is_let_go_when_its_pages_are_back),
        cmocka_unit_test(one_block_follows_the_other),
        cmocka_unit_test(the_log_is_flushed_before_it_runs_out),
        cmocka_unit_test(the_newest_block_is_sealed),
        cmocka_unit_test(what_the_newest_block_tells_is_told_again_after_a_crash),
        cmocka_unit_test(a_crash_leaves_the_extents_that_were_in_use),
        cmocka_unit_test(damage_counts_as_out_of_sync_and_is_told),
        cmocka_unit_test(what_a_verify_found_outlives_a_crash),
        cmocka_unit_test(what_nobody_flushes_is_flushed_all_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
