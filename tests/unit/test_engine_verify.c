/* Verify as the engine runs it: who is told what was found, whose leg counts, and what ends one. */
#include "tests/unit/engine_pair.h"

#include <errno.h>
#include <string.h>

static const struct node_options usual = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE };

static void open_pair(struct node *a, struct node *b, bool promoted)
{
    node_open_with(a, 0, &usual);
    node_open_with(b, 1, &usual);
    connect_nodes(a, b);
    if (promoted)
        promote(a, b);
}

/* Ends what is under way; time goes on, for what is tried again. */
static void settle(struct node *a, struct node *b)
{
    for (int i = 0; i < 20; i++) {
        run(a, b);
        tick(a, a->now_ns + 10 * NS_PER_MS);
        tick(b, b->now_ns + 10 * NS_PER_MS);
    }
    run(a, b);
}

static int32_t verify(struct node *n, struct node *other, bool repair)
{
    int before = n->orders_done;
    order(n, EV_VERIFY, repair);
    settle(n, other);
    assert_int_equal(n->orders_done, before + 1);
    return n->order_result;
}

static void reconnect(struct node *a, struct node *b)
{
    disconnect_nodes(a, b);
    connect_nodes(a, b);
    settle(a, b);
}

static void a_peer_whose_leg_differs_knows_it(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    b.content[5 * CHANGE_BYTES] = 7;
    assert_int_equal(verify(&a, &b, false), -EILSEQ);
    assert_false(view_of(&a).in_sync);
    assert_false(view_of(&b).in_sync);
    assert_true(b.on_disk.differs && !b.on_disk.lost_power);
    assert_false(a.on_disk.differs || a.on_disk.lost_power);
    assert_true(told(&b, "not promoted without --force"));
    assert_false(b.dropped || a.dropped);

    /* Its primary is gone, and it is asked to serve. */
    disconnect_nodes(&a, &b);
    order(&b, EV_PROMOTE, false);
    assert_int_equal(b.order_result, -EPERM);
    node_restart(&b, true);
    order(&b, EV_PROMOTE, false);
    assert_int_equal(b.order_result, -EPERM);

    connect_nodes(&a, &b);
    settle(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(a.content[5 * CHANGE_BYTES], 0);
    assert_false(b.on_disk.differs);
    close_both(&a, &b);
}

/* As many as there is room for. */
static void the_places_are_known(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    for (unsigned i = 0; i < VERIFY_PLACES_MAX + 4; i++)
        b.content[2 * i * GRANULE_BYTES_DEFAULT] = 1;
    assert_int_equal(verify(&a, &b, false), -EILSEQ);
    struct verify_places found;
    engine_verify_places(a.engine, &found);
    assert_int_equal(found.total, VERIFY_PLACES_MAX + 4);
    assert_int_equal(found.count, VERIFY_PLACES_MAX);
    for (unsigned i = 0; i < found.count; i++) {
        const struct verify_place *p = &found.places[i];
        assert_int_equal(b.content[p->range.offset_bytes], 1);
        assert_int_equal(p->range.length_bytes, GRANULE_BYTES_DEFAULT);
        assert_string_equal(p->what, "the legs differ");
    }
    assert_true(told(&a, "in 20 places differ"));
    close_both(&a, &b);
}

/* What was answered holds after a crash: the bits are on this node's disk, too. */
static void the_answer_waits_for_the_bits(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    b.content[5 * CHANGE_BYTES] = 7;
    a.hold_pages = true;
    int before = a.orders_done;
    order(&a, EV_VERIFY, false);
    while (a.orders_done == before) {
        disks_done(&a);
        disks_done(&b);
        metas_done(&b);
        if (a.sent_count)
            deliver(&a, &b);
        else if (b.sent_count)
            deliver(&b, &a);
        else if (a.page_count) /* nothing else is left to wait for */
            page_done(&a, 0);
        else
            tick(&a, a.now_ns + 10 * NS_PER_MS);
    }
    assert_int_equal(a.order_result, -EILSEQ);
    assert_int_equal(a.page_count, 0);
    disconnect_nodes(&a, &b);
    node_restart(&a, true);
    connect_nodes(&a, &b);
    settle(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.content[5 * CHANGE_BYTES], 0);
    close_both(&a, &b);
}

/* The order ends when the peer has it on disk, not before. */
static void the_order_waits_for_the_peers_record(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    b.content[0] = 7;
    order(&a, EV_VERIFY, false);
    assert_true(run_until_sent(&a, &b, &a, FRAME_VERIFY_FOUND));
    int before = a.orders_done;
    deliver(&a, &b);
    assert_true(b.meta_pending);
    for (unsigned i = 0; i < b.sent_count; i++)
        assert_int_not_equal(b.sent[i].frame.kind, FRAME_VERIFY_FOUND);
    for (int i = 0; i < 3; i++)
        tick(&a, a.now_ns + 10 * NS_PER_MS);
    assert_int_equal(a.orders_done, before);
    meta_done(&b, 0);
    settle(&a, &b);
    assert_int_equal(a.orders_done, before + 1);
    close_both(&a, &b);
}

static void repairing_makes_the_peer_equal_to_the_primary(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    a.content[9 * CHANGE_BYTES] = 3;
    assert_int_equal(verify(&a, &b, true), -EILSEQ);
    assert_true(a.dropped);
    reconnect(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.content[9 * CHANGE_BYTES], 3);
    assert_int_equal(verify(&a, &b, false), 0);
    close_both(&a, &b);
}

/* The bits of an earlier one stay until a resync, also when a write has made the legs equal: `--repair`, which is what
 * the status asks for, must bring it about. */
static void repairing_clears_what_a_write_has_mended(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    b.content[5 * CHANGE_BYTES] = 7;
    assert_int_equal(verify(&a, &b, false), -EILSEQ);
    write_block(&a, 5 * CHANGE_BYTES, 0x42);
    settle(&a, &b);
    assert_int_equal(verify(&a, &b, true), 0);
    assert_true(a.dropped);
    reconnect(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* A write that both have is acknowledged; the primary's power takes it out of its cache. */
static void lose_a_write_to_power(struct node *a, struct node *b, uint64_t offset_bytes, uint8_t fill)
{
    int before = a->completed;
    write_block(a, offset_bytes, fill);
    settle(a, b);
    assert_int_equal(a->completed, before + 1);
    assert_int_equal(a->complete_result, 0);
    disconnect_nodes(a, b);
    node_lose_power(a);
    assert_int_not_equal(a->content[offset_bytes], fill);
    assert_int_equal(b->content[offset_bytes], fill);
}

/* One lacks what was acknowledged last, the other one has that, and blocks that are wrong: nobody overwrites the other
 * for that, until a person says which is kept. */
static void a_primary_loses_power_after_a_verify_found_something(void **state)
{
    for (int keeps_b = 0; keeps_b < 2; keeps_b++) {
        struct node a, b;
        open_pair(&a, &b, true);
        write_block(&a, 0, 1);
        settle(&a, &b);
        request(&a, OP_FLUSH, 0);
        settle(&a, &b);
        b.content[100 * CHANGE_BYTES] ^= 1;
        b.stable[100 * CHANGE_BYTES] ^= 1;
        assert_int_equal(verify(&a, &b, false), -EILSEQ);
        lose_a_write_to_power(&a, &b, 8 * CHANGE_BYTES, 2);

        /* Again and again, in any state of the daemons. */
        for (int i = 0; i < 3; i++) {
            hellos(&a, &b);
            assert_true(a.refused && b.refused);
            assert_non_null(strstr(a.text, "a verify found"));
            assert_string_equal(a.text, b.text);
            disconnect_nodes(&a, &b);
            node_restart(i ? &b : &a, true);
        }
        for (int i = 0; i < 2; i++) {
            order(i ? &b : &a, EV_PROMOTE, false);
            assert_int_equal((i ? &b : &a)->order_result, -EPERM);
        }
        assert_non_null(strstr(a.order_text, "without warning"));
        assert_non_null(strstr(b.order_text, "a verify"));
        assert_int_equal(b.content[8 * CHANGE_BYTES], 2);

        struct node *kept = keeps_b ? &b : &a;
        order(kept, EV_PROMOTE, true);
        metas_done(kept);
        settle(kept, kept);
        assert_int_equal(view_of(kept).role, ROLE_PRIMARY);
        connect_nodes(&a, &b);
        settle(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(a.content[8 * CHANGE_BYTES], keeps_b ? 2 : 0);
        assert_int_equal(a.content[100 * CHANGE_BYTES], keeps_b ? 1 : 0);
        assert_int_equal(verify(kept, keeps_b ? &a : &b, false), 0);
        close_both(&a, &b);
    }
}

/* Without a primary, whoever was primary last, or has the larger id, would be the source. */
static void without_a_primary_who_is_told_to_repair_is_right(void **state)
{
    for (int round = 0; round < 4; round++) {
        struct node a, b;
        open_pair(&a, &b, false);
        if (round & 1) {
            promote(&a, &b);
            order(&a, EV_DEMOTE, false);
            settle(&a, &b);
            assert_int_equal(a.order_result, 0);
            reconnect(&a, &b); /* a secondary does not learn otherwise that its primary is none any more */
        }
        struct node *asker = round & 2 ? &b : &a, *other = round & 2 ? &a : &b;
        asker->content[2 * CHANGE_BYTES] = 1;
        other->content[2 * CHANGE_BYTES] = 2;
        /* To look is no verdict. */
        assert_int_equal(verify(asker, other, false), -EILSEQ);
        assert_false(a.on_disk.differs || b.on_disk.differs);
        assert_int_equal(verify(asker, other, true), -EILSEQ);
        assert_true(other->on_disk.differs);
        reconnect(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(other->content[2 * CHANGE_BYTES], 1);
        close_both(&a, &b);
    }
}

/* A primary has found that this leg is the wrong one: that is not turned round in passing. */
static void who_was_found_wrong_repairs_nobody(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    b.content[0] = 7;
    assert_int_equal(verify(&a, &b, false), -EILSEQ);
    order(&a, EV_DEMOTE, false);
    settle(&a, &b);
    b.notes[0] = 0;
    order(&b, EV_VERIFY, true);
    assert_int_equal(b.order_result, -EBUSY);
    assert_false(a.on_disk.differs);
    /* By force it is, and then the other gets everything. */
    order(&b, EV_PROMOTE, true);
    settle(&a, &b);
    if (b.dropped || a.dropped)
        reconnect(&a, &b);
    settle(&a, &b);
    assert_int_equal(view_of(&b).role, ROLE_PRIMARY);
    assert_in_sync(&a, &b);
    assert_int_equal(a.content[0], 7);
    close_both(&a, &b);
}

/* Its answers are still on their way when the roles have changed: nobody takes them amiss. */
static void a_demotion_ends_it_and_the_session_goes_on(void **state)
{
    for (int round = 0; round < 2; round++) {
        struct node a, b;
        open_pair(&a, &b, true);
        order(&a, EV_VERIFY, false);
        if (round == 0) {
            assert_true(run_until_sent(&a, &b, &a, FRAME_VERIFY_ASK));
        } else {
            assert_int_equal(a.disk_count, 1); /* it is reading */
        }
        int before = a.orders_done;
        order(&a, EV_DEMOTE, false);
        assert_true(a.orders_done > before);
        settle(&a, &b);
        assert_int_equal(a.orders_done, before + 2);
        assert_true(told(&a, "secondary"));
        promote(&b, &a);
        settle(&a, &b);
        assert_false(a.dropped || b.dropped);
        assert_int_equal(verify(&b, &a, false), 0);
        assert_in_sync(&a, &b);
        close_both(&a, &b);
    }
}

static void without_a_peer_it_says_that_none_is_in_reach(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    order(&a, EV_VERIFY, false);
    assert_true(run_until_sent(&a, &b, &a, FRAME_VERIFY_ASK));
    int before = a.orders_done;
    disconnect_nodes(&a, &b);
    metas_done(&a);
    disks_done(&a);
    assert_int_equal(a.orders_done, before + 1);
    assert_int_equal(a.order_result, -ENOTCONN);
    order(&a, EV_VERIFY, false);
    assert_int_equal(a.orders_done, before + 2);
    assert_int_equal(a.order_result, -ENOTCONN);
    connect_nodes(&a, &b);
    settle(&a, &b);
    assert_int_equal(verify(&a, &b, false), 0);
    close_both(&a, &b);
}

/* Both are secondary; the one that is not comparing becomes primary. */
static void the_peers_promotion_ends_it(void **state)
{
    struct node a, b;
    open_pair(&a, &b, false);
    order(&a, EV_VERIFY, false);
    assert_true(run_until_sent(&a, &b, &a, FRAME_VERIFY_ASK));
    int before = a.orders_done;
    order(&b, EV_PROMOTE, false);
    settle(&a, &b);
    assert_true(b.serving);
    assert_int_equal(a.orders_done, before + 1);
    assert_int_equal(a.order_result, -EBUSY);
    assert_false(a.dropped || b.dropped);
    assert_int_equal(verify(&b, &a, false), 0);
    close_both(&a, &b);
}

/* Reads of one block of this node fail until it is written. */
static void settle_with_bad_block(struct node *bad, uint64_t offset_bytes, struct node *a, struct node *b)
{
    bool is_bad = true;
    for (int i = 0; i < 2000; i++) {
        for (struct node *n = a;; n = b) {
            while (n->disk_count) {
                struct action d = n->disk[0];
                struct range range = { d.disk.offset_bytes, d.disk.length_bytes };
                bool hit = n == bad && d.disk.kind != OP_FLUSH &&
                           range_overlaps(range, (struct range) { offset_bytes, CHANGE_BYTES });
                bool reads = d.disk.kind == OP_READ;
                disk_done(n, hit && reads && is_bad ? -EIO : 0);
                is_bad &= !(hit && !reads);
            }
            metas_done(n);
            if (n == b)
                break;
        }
        if (a->sent_count)
            deliver(a, b);
        else if (b->sent_count)
            deliver(b, a);
        else if (i % 10 == 0)
            tick(a, a->now_ns + 10 * NS_PER_MS);
    }
}

/* A bit would keep the peer from answering for it: the application's reads would fail, where they were masked before.
 */
static void what_only_the_peer_can_read_is_mended_and_gets_no_bit(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    write_block(&a, 0, 9);
    settle(&a, &b);
    a.content[7] = 0xee; /* what the disk would show, could it be read */
    int before = a.orders_done;
    order(&a, EV_VERIFY, false);
    settle_with_bad_block(&a, 0, &a, &b);
    assert_int_equal(a.orders_done, before + 1);
    assert_int_equal(a.order_result, 0);
    assert_true(told(&a, "were mended with what the peer has"));
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

static void what_the_peer_cannot_read_comes_by_a_resync(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    write_block(&a, 0, 9);
    settle(&a, &b);
    b.content[7] = 0xee;
    order(&a, EV_VERIFY, true);
    settle_with_bad_block(&b, 0, &a, &b);
    assert_int_equal(a.order_result, -EILSEQ);
    assert_true(told(&a, "cannot be read by the peer"));
    assert_false(b.on_disk.differs); /* it may serve: what it cannot read, it says */
    assert_true(a.dropped);
    reconnect(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* The peer, promoted next, knows nothing of the bits, and this node would keep them for ever. */
static void what_the_peer_cannot_read_comes_before_it_is_primary(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    write_block(&a, 0, 9);
    settle(&a, &b);
    b.content[7] = 0xee;
    order(&a, EV_VERIFY, false);
    settle_with_bad_block(&b, 0, &a, &b);
    assert_int_equal(a.order_result, -EILSEQ);
    assert_false(a.dropped);
    order(&a, EV_DEMOTE, false);
    settle(&a, &b);
    assert_int_equal(a.order_result, 0);
    assert_true(a.dropped);
    reconnect(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* Without a primary no leg is changed, and no bit is set: whoever becomes primary has his reads masked. */
static void without_a_primary_nothing_is_mended(void **state)
{
    for (int round = 0; round < 2; round++) {
        struct node a, b;
        open_pair(&a, &b, false);
        order(&a, EV_VERIFY, true);
        settle_with_bad_block(round ? &b : &a, 0, &a, &b);
        assert_int_equal(a.order_result, -EILSEQ);
        assert_true(told(&a, round ? "cannot be read by the peer" : "cannot be read here"));
        assert_false(a.dropped || b.dropped);
        assert_in_sync(&a, &b);
        close_both(&a, &b);
    }
}

/* Its own changes would be kept away from nothing that the peer compares. */
static void a_primary_answers_no_question(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    struct frame frame = { .kind = FRAME_VERIFY_ASK, .length_bytes = CHANGE_BYTES };
    step(&a, (struct event) { .kind = EV_FRAME, .frame = { .frame = frame } });
    assert_true(a.dropped);
    assert_non_null(strstr(a.text, "only a secondary"));
    assert_int_equal(a.disk_count, 0);
    close_both(&a, &b);
}

/* There is no memory for a verify when its session ends. */
static void an_ending_session_leaves_no_deadline_in_the_past(void **state)
{
    struct node a, b;
    open_pair(&a, &b, true);
    struct buf *all[8];
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        assert_non_null(all[i] = buf_get(&a.pool, MIB, 0));
    order(&a, EV_VERIFY, false);
    assert_true(engine_deadline_ns(a.engine) < a.now_ns + NS_PER_S);
    step(&a, (struct event) { .kind = EV_FRAME, .frame = { .frame = { .kind = FRAME_HELLO } } });
    assert_true(a.dropped);
    for (int i = 0; i < 20; i++)
        tick(&a, a.now_ns + 100 * NS_PER_MS);
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        buf_put(all[i]);
    disconnect_nodes(&a, &b);
    assert_int_equal(a.order_result, -ENOTCONN);
    close_both(&a, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_peer_whose_leg_differs_knows_it),
        cmocka_unit_test(the_places_are_known),
        cmocka_unit_test(the_answer_waits_for_the_bits),
        cmocka_unit_test(the_order_waits_for_the_peers_record),
        cmocka_unit_test(repairing_makes_the_peer_equal_to_the_primary),
        cmocka_unit_test(repairing_clears_what_a_write_has_mended),
        cmocka_unit_test(a_primary_loses_power_after_a_verify_found_something),
        cmocka_unit_test(without_a_primary_who_is_told_to_repair_is_right),
        cmocka_unit_test(who_was_found_wrong_repairs_nobody),
        cmocka_unit_test(a_demotion_ends_it_and_the_session_goes_on),
        cmocka_unit_test(without_a_peer_it_says_that_none_is_in_reach),
        cmocka_unit_test(the_peers_promotion_ends_it),
        cmocka_unit_test(what_only_the_peer_can_read_is_mended_and_gets_no_bit),
        cmocka_unit_test(what_the_peer_cannot_read_comes_by_a_resync),
        cmocka_unit_test(what_the_peer_cannot_read_comes_before_it_is_primary),
        cmocka_unit_test(without_a_primary_nothing_is_mended),
        cmocka_unit_test(a_primary_answers_no_question),
        cmocka_unit_test(an_ending_session_leaves_no_deadline_in_the_past),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
