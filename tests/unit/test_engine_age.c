/* A disk that was put back from an older copy: who notices, and what follows (docs/METADATA.md, "Age"). */
#include "tests/unit/engine_world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MINUTE_NS (60 * NS_PER_S)
#define PATIENCE_NS (2 * NS_PER_S)

static const struct node_options strict = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE };
static const struct node_options may_go_alone = { .has_peer = true, .alone_after_ns = PATIENCE_NS };

/* All that a node's disk has. */
struct copy {
    struct superblock superblock;
    uint8_t *ring, *bitmap, *content;
};

static void *duplicate(const void *from, size_t bytes)
{
    void *to = malloc(bytes);
    memcpy(to, from, bytes);
    return to;
}

static struct copy copy_of(const struct node *n)
{
    return (struct copy) {
        .superblock = n->on_disk,
        .ring = duplicate(n->ring, (size_t)LOG_BLOCKS * META_PAGE_BYTES),
        .bitmap = duplicate(n->bitmap, META_PAGE_BYTES),
        .content = duplicate(n->content, DISK_BYTES),
    };
}

/* The daemon ends, its disk is put back, and it starts again. `again`: the copy is kept for another time. */
static void put_back(struct node *n, struct copy *c, bool again)
{
    n->on_disk = c->superblock;
    memcpy(n->ring, c->ring, (size_t)LOG_BLOCKS * META_PAGE_BYTES);
    memcpy(n->bitmap, c->bitmap, META_PAGE_BYTES);
    memcpy(n->content, c->content, DISK_BYTES);
    memcpy(n->stable, c->content, DISK_BYTES);
    if (!again) {
        free(c->ring);
        free(c->bitmap);
        free(c->content);
    }
    node_restart(n, true);
}

static void write_and_run(struct node *a, struct node *b, uint64_t offset_bytes, uint8_t fill)
{
    int completed = a->completed;
    write_block(a, offset_bytes, fill);
    run(a, b);
    assert_int_equal(a->completed, completed + 1);
    assert_int_equal(a->complete_result, 0);
}

/* A minute goes by: what was told of ages has arrived. */
static void get_older(struct node *a, struct node *b)
{
    tick(a, a->now_ns + MINUTE_NS);
    tick(b, b->now_ns + MINUTE_NS);
    run(a, b);
    deliver_age(a, b);
    deliver_age(b, a);
}

static void it_grows_with_time_and_changes(void **state)
{
    (void)state;
    struct node a, b;
    open_promoted(&a, &b, &strict);
    run(&a, &b);
    /* The first meeting is worth one, and told at once. */
    assert_int_equal(a.on_disk.age, 2);
    assert_int_equal(b.on_disk.age, 2);
    assert_int_equal(a.age_told, 2);
    deliver_age(&a, &b);
    deliver_age(&b, &a);
    get_older(&a, &b); /* what was heard is on record at the next tick, if not before */
    assert_int_equal(a.on_disk.peer_age, 2);
    assert_int_equal(b.on_disk.peer_age, 2);
    uint64_t age = a.on_disk.age;
    get_older(&a, &b); /* nothing has changed */
    assert_int_equal(a.on_disk.age, age);
    assert_int_equal(b.on_disk.age, age);
    write_and_run(&a, &b, 0, 1);
    assert_int_equal(a.on_disk.age, age);
    tick(&a, a.now_ns + MINUTE_NS);
    assert_true(a.meta_pending && a.meta.age == age + 1);
    assert_int_equal(a.age_told, 0); /* it is not on disk yet */
    struct hello h;
    say_hello(&a, &h);
    assert_int_equal(h.age, age);
    meta_done(&a, 0);
    assert_int_equal(a.age_told, age + 1);
    say_hello(&a, &h);
    assert_int_equal(h.age, age + 1);
    deliver_age(&a, &b);
    say_hello(&b, &h);
    assert_int_equal(h.peer_age, age + 1);
    close_both(&a, &b);
}

/* Neither what clients want, nor a handshake, nor a heartbeat. */
static void nothing_waits_for_its_record(void **state)
{
    (void)state;
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_and_run(&a, &b, 0, 1);
    tick(&a, a.now_ns + MINUTE_NS);
    assert_true(a.meta_pending);
    write_block(&a, CHANGE_BYTES, 2);
    disks_done(&a);
    while (a.sent_count)
        deliver(&a, &b);
    disks_done(&b);
    while (b.sent_count)
        deliver(&b, &a);
    assert_int_equal(a.completed, 2);
    assert_true(a.meta_pending);
    /* Another record waits for it, and is on disk after it. */
    order(&a, EV_DEMOTE, false);
    disks_done(&a);
    run(&a, &b);
    assert_int_equal(a.order_result, 0);
    assert_int_equal(a.on_disk.role, ROLE_SECONDARY);
    order(&a, EV_DETACH, false);
    run(&a, &b);
    assert_false(a.on_disk.attached);
    close_both(&a, &b);
}

/* Both were in sync when the copy was made, and when it was put back: nothing else tells of what is missing. */
static void a_copy_that_was_put_back_gets_everything(void **state)
{
    (void)state;
    for (int primary_went_back = 0; primary_went_back < 2; primary_went_back++) {
        for (int minutes = 0; minutes < 3; minutes++) {
            struct node a, b;
            open_promoted(&a, &b, &strict);
            struct node *back = primary_went_back ? &a : &b, *other = primary_went_back ? &b : &a;
            write_and_run(&a, &b, 0, 1);
            run(&a, &b);
            deliver_age(&a, &b);
            deliver_age(&b, &a);
            for (int i = 0; i < minutes; i++)
                get_older(&a, &b);
            struct copy c = copy_of(back);
            write_and_run(&a, &b, 0, 2);
            get_older(&a, &b);
            write_and_run(&a, &b, 8 * CHANGE_BYTES, 3);
            disconnect_nodes(other, other);
            put_back(back, &c, false);
            assert_memory_not_equal(a.content, b.content, CHANGE_BYTES);
            hellos(&a, &b);
            assert_true(a.dropped && b.dropped);
            assert_non_null(strstr(other->text, "was put back from an older copy"));
            uint64_t age = back->meta.age;
            disconnect_nodes(&a, &b);
            hellos(&a, &b); /* its record is on its way */
            assert_true(a.dropped && b.dropped);
            metas_done(&a);
            metas_done(&b);
            assert_int_equal(back->on_disk.age, age);
            assert_true(back->on_disk.went_back && back->on_disk.differs);
            assert_int_equal(view_of(back).out_of_sync_bytes, view_of(back).size_bytes);
            assert_true(back->on_disk.age > other->on_disk.peer_age);
            assert_false(other->on_disk.went_back || other->on_disk.differs);
            disconnect_nodes(&a, &b);
            assert_non_null(strstr(view_of(back).why_not, "was put back from an older copy"));
            assert_int_equal(view_of(back).leg, LEG_OUTDATED);
            order(back, EV_PROMOTE, false);
            assert_int_equal(back->order_result, -EPERM);
            assert_non_null(strstr(back->order_text, "was put back from an older copy"));
            /* It is on record: another daemon knows it. */
            node_restart(back, true);
            connect_nodes(&a, &b);
            run(&a, &b);
            assert_in_sync(&a, &b);
            assert_true(a.content[0] == 2 && a.content[8 * CHANGE_BYTES] == 3);
            assert_false(back->on_disk.went_back || back->on_disk.differs || back->on_disk.full);
            close_both(&a, &b);
        }
    }
}

/* The same copy, twice; and one that was made while it got everything. */
static void each_time_it_is_noticed(void **state)
{
    (void)state;
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_and_run(&a, &b, 0, 1);
    struct copy first = copy_of(&b);
    get_older(&a, &b);
    for (int i = 0; i < 3; i++) {
        write_and_run(&a, &b, 0, (uint8_t)(2 + i));
        disconnect_nodes(&a, &a);
        put_back(&b, &first, i < 2);
        hellos(&a, &b);
        metas_done(&b);
        assert_true(b.on_disk.went_back);
        disconnect_nodes(&a, &b);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(b.content[0], 2 + i);
        deliver_age(&b, &a);
    }
    close_both(&a, &b);
}

/* Half made already: its bits tell of what it lacked then. */
static void a_target_that_went_back_begins_anew(void **state)
{
    (void)state;
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_and_run(&a, &b, 0, 1);
    deliver_age(&b, &a);
    disconnect_nodes(&a, &b);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    write_block(&a, 0, 2);
    write_block(&a, 4 * CHANGE_BYTES, 2);
    disks_done(&a);
    assert_int_equal(a.completed, 3);
    connect_nodes(&a, &b);
    metas_done(&b);
    assert_int_equal(b.on_disk.leg, LEG_SYNCING);
    struct copy c = copy_of(&b);
    assert_true(run_until_sent(&a, &b, &a, FRAME_SYNC_STABLE));
    tick(&b, b.now_ns + MINUTE_NS);
    metas_done(&b);
    deliver_age(&b, &a);
    while (a.sent_count)
        deliver(&a, &b);
    disconnect_nodes(&a, &a);
    put_back(&b, &c, false);
    hellos(&a, &b);
    metas_done(&b);
    assert_true(b.on_disk.went_back && b.on_disk.leg == LEG_SYNCING);
    assert_int_equal(view_of(&b).out_of_sync_bytes, view_of(&b).size_bytes);
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.content[4 * CHANGE_BYTES], 2);
    close_both(&a, &b);
}

/* ... of a time when the volume was smaller: it lacks what was written in the rest of it, too, although it counts as
 * out of sync before it takes the size. */
static void what_it_has_grown_by_is_missing_as_well(void **state)
{
    (void)state;
    struct node a, b;
    open_promoted(&a, &b, &strict);
    struct grow_plan plan = { .data_bytes = 2 * VOLUME_BYTES, .backing_bytes = DISK_BYTES, .move = true };
    a.plan = b.plan = plan;
    get_older(&a, &b);
    order(&a, EV_RESIZE, false);
    while (b.on_disk.room_bytes != plan.data_bytes)
        assert_true(run_step(&a, &b));
    assert_int_equal(b.on_disk.size_bytes, VOLUME_BYTES);
    struct copy c = copy_of(&b);
    run(&a, &b);
    assert_int_equal(a.served_bytes, plan.data_bytes);
    write_and_run(&a, &b, VOLUME_BYTES, 7);
    request(&a, OP_FLUSH, 0);
    run(&a, &b);
    get_older(&a, &b);
    disconnect_nodes(&a, &a);
    put_back(&b, &c, false);
    hellos(&a, &b);
    run(&b, &b);
    assert_true(b.on_disk.went_back && !b.on_disk.full); /* its bits are on disk */
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_true(b.on_disk.size_bytes == plan.data_bytes && b.content[VOLUME_BYTES] == 7);
    close_both(&a, &b);
}

/* Promoted by hand on the old copy, and written to: by its history it is the newer leg. */
static void what_has_served_from_there_a_person_decides(void **state)
{
    (void)state;
    for (int forced = 0; forced < 2; forced++) {
        struct node a, b;
        open_promoted(&a, &b, &may_go_alone);
        write_and_run(&a, &b, 0, 1);
        struct copy c = copy_of(&b);
        get_older(&a, &b);
        write_and_run(&a, &b, 0, 2);
        order(&a, EV_DEMOTE, false);
        run(&a, &b);
        disconnect_nodes(&a, &a);
        put_back(&b, &c, false);
        order(&b, EV_PROMOTE, false);
        metas_done(&b);
        assert_true(b.serving);
        patience_ends(&b, PATIENCE_NS);
        metas_done(&b);
        write_block(&b, 4 * CHANGE_BYTES, 3);
        disks_done(&b);
        assert_int_equal(b.completed, 1);
        for (int i = 0; i < 5; i++) { /* however long: nobody hears of it */
            tick(&b, b.now_ns + MINUTE_NS);
            disks_done(&b);
            metas_done(&b);
        }
        hellos(&a, &b);
        assert_true(a.refused && b.refused);
        assert_true(b.serving && !b.on_disk.went_back);
        assert_non_null(strstr(b.text, "split brain: the disk of paris-b was put back from an older copy"));
        assert_non_null(strstr(b.text, "and demote it"));
        disconnect_nodes(&a, &b);
        order(&b, EV_DEMOTE, false);
        disks_done(&b);
        metas_done(&b);
        assert_int_equal(b.order_result, 0);
        for (int i = 0; i < 3; i++) {
            hellos(&a, &b);
            assert_true(a.refused && b.refused);
            disconnect_nodes(&a, &b);
        }
        order(&b, EV_PROMOTE, false);
        assert_int_equal(b.order_result, -EPERM);
        if (forced) {
            order(&b, EV_PROMOTE, true);
            metas_done(&b);
            assert_true(b.serving);
        } else {
            order(&b, EV_RESOLVE, false);
            while (b.keep_pending || b.disk_count)
                b.keep_pending ? keep_done(&b, 0) : disks_done(&b);
            assert_true(b.kept_whole && b.is_kept[4] && b.kept[4 * CHANGE_BYTES] == 3);
            hellos(&a, &b);
            metas_done(&b);
            disconnect_nodes(&a, &b);
        }
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_in_sync(&a, &b);
        assert_int_equal(a.content[0], forced ? 1 : 2);
        assert_int_equal(a.content[4 * CHANGE_BYTES], forced ? 3 : 0);
        close_both(&a, &b);
    }
}

/* Neither is what the other one knew of it. */
static void of_two_copies_a_person_keeps_one(void **state)
{
    (void)state;
    struct node a, b;
    open_promoted(&a, &b, &strict);
    write_and_run(&a, &b, 0, 1);
    deliver_age(&a, &b);
    deliver_age(&b, &a);
    struct copy of_a = copy_of(&a), of_b = copy_of(&b);
    /* What each has heard of the other is in its own copy, if it was made late enough. */
    of_a.superblock.peer_age = b.on_disk.age + 1;
    of_b.superblock.peer_age = a.on_disk.age + 1;
    put_back(&a, &of_a, false);
    put_back(&b, &of_b, false);
    hellos(&a, &b);
    metas_done(&a);
    metas_done(&b);
    assert_true(a.on_disk.went_back && b.on_disk.went_back);
    disconnect_nodes(&a, &b);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
    assert_non_null(strstr(a.text, "an older copy, too"));
    disconnect_nodes(&a, &b);
    order(&b, EV_PROMOTE, false);
    assert_int_equal(b.order_result, -EPERM);
    order(&b, EV_PROMOTE, true);
    metas_done(&b);
    assert_true(b.serving && !b.on_disk.went_back);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    close_both(&a, &b);
}

/* Whoever is put in the place of a leg is none of its copies. */
static void a_replaced_leg_is_not_taken_for_a_copy(void **state)
{
    (void)state;
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    for (int i = 0; i < 3; i++) {
        write_and_run(&a, &b, 0, (uint8_t)(1 + i));
        get_older(&a, &b);
    }
    uint64_t age = b.on_disk.age;
    disconnect_nodes(&a, &a);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    node_close(&b);
    node_open(&b, 1, true);
    b.on_disk.leg_id = id_of(7);
    node_restart(&b, true);
    connect_nodes(&a, &b);
    metas_done(&b);
    assert_true(b.on_disk.leg == LEG_SYNCING && b.on_disk.age > age && !b.on_disk.went_back);
    assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_ASK));
    disconnect_nodes(&a, &b);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_true(b.on_disk.age > age && !told(&b, "older copy"));
    close_both(&a, &b);
}

/* What nobody could have heard is no number that its disk would not take. */
static void no_age_is_too_high(void **state)
{
    (void)state;
    struct node a, b;
    struct hello of_a, of_b;
    open_promoted(&a, &b, &strict);
    disconnect_nodes(&a, &b);
    for (int i = 0; i < 2; i++) {
        say_hello(&a, &of_a);
        say_hello(&b, &of_b);
        of_a.peer_age = FRAME_EPOCH_MAX;
        step(&b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
        metas_done(&b);
        assert_true(b.on_disk.went_back && b.on_disk.age == FRAME_EPOCH_MAX);
        disconnect_nodes(&b, &b);
    }
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_in_sync(&a, &b);
    assert_int_equal(b.on_disk.age, FRAME_EPOCH_MAX);
    close_both(&a, &b);
}

/* ---- with a register ---- */

static void wait_both(struct world *w, uint64_t ns)
{
    for (uint64_t done = 0; done < ns; done += DEAD_AFTER_NS / 4) {
        wait_ns(w, &w->a, DEAD_AFTER_NS / 4);
        wait_ns(w, &w->b, DEAD_AFTER_NS / 4);
        /* Heartbeats: else the primary holds its reads. */
        step(&w->a, (struct event) { .kind = EV_HEARD, .heard = { .sent_ns = w->a.now_ns } });
        deliver_age(&w->a, &w->b);
        deliver_age(&w->b, &w->a);
    }
}

/* It is alone with the register, which has them both as members. */
static void who_went_back_does_not_take_over(void **state)
{
    (void)state;
    for (int forced = 0; forced < 2; forced++) {
        struct world *w = open_world(&automatic);
        write_block(&w->a, 0, 1);
        calm_both(w);
        struct copy c = copy_of(&w->b);
        write_block(&w->a, 0, 2);
        calm_both(w);
        wait_both(w, MINUTE_NS + 2 * DEAD_AFTER_NS);
        assert_int_equal(w->a.completed, 2);
        disconnect_nodes(&w->a, &w->a);
        put_back(&w->b, &c, false);
        wait_ns(w, &w->b, 10 * TAKE_AFTER_NS);
        assert_false(w->b.serving);
        assert_true(is_named(w, &w->a) && w->b.on_disk.went_back);
        assert_non_null(strstr(view_of(&w->b).why_not, "was put back from an older copy"));
        order(&w->b, EV_PROMOTE, false);
        calm(w, &w->b);
        assert_int_equal(w->b.order_result, -EPERM);
        assert_non_null(strstr(w->b.order_text, "was put back from an older copy"));
        if (forced) {
            order(&w->b, EV_PROMOTE, true);
            wait_ns(w, &w->b, TAKE_AFTER_NS);
            assert_true(w->b.serving && !w->b.on_disk.went_back);
            assert_true(w->b.on_disk.age >= age_told(w, "paris-b"));
        }
        meet_at_last(w);
        assert_in_sync(&w->a, &w->b);
        assert_int_equal(w->b.content[0], forced ? 1 : 2);
        assert_true(is_member(w, &w->a) && is_member(w, &w->b));
        close_world(w);
    }
}

/* The one that served, alone or not, resumes nothing. */
static void a_primary_that_went_back_does_not_resume(void **state)
{
    (void)state;
    for (int alone = 0; alone < 2; alone++) {
        struct world *w = open_world(&automatic);
        if (alone) {
            disconnect_nodes(&w->a, &w->b);
            wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
            assert_false(is_member(w, &w->b));
        }
        write_block(&w->a, 0, 1);
        alone ? calm(w, &w->a) : calm_both(w);
        assert_int_equal(w->a.completed, 1);
        struct copy c = copy_of(&w->a);
        write_block(&w->a, 0, 2);
        alone ? calm(w, &w->a) : calm_both(w);
        alone ? wait_ns(w, &w->a, MINUTE_NS + 2 * DEAD_AFTER_NS) : wait_both(w, MINUTE_NS + 2 * DEAD_AFTER_NS);
        if (!alone)
            disconnect_nodes(&w->b, &w->b);
        put_back(&w->a, &c, false);
        wait_ns(w, &w->a, 10 * TAKE_AFTER_NS);
        assert_true(!w->a.serving && w->a.on_disk.went_back);
        if (alone) { /* the other one was never to serve, and this one is no source for it before a person says so */
            for (int i = 0; i < 4; i++)
                assert_false(meet(w));
            assert_non_null(strstr(w->a.text, "older copy"));
            order(&w->a, EV_PROMOTE, true);
            wait_ns(w, &w->a, TAKE_AFTER_NS);
            assert_true(w->a.serving);
        } else {
            wait_ns(w, &w->b, 2 * TAKE_AFTER_NS);
            assert_true(w->b.serving);
        }
        meet_at_last(w);
        assert_in_sync(&w->a, &w->b);
        assert_int_equal(w->a.content[0], alone ? 1 : 2);
        close_world(w);
    }
}

/* What it knows less, and what another machine of this name has told it, changes nothing. */
static void only_a_higher_age_tells(void **state)
{
    (void)state;
    struct world *w = open_world(&automatic);
    write_block(&w->a, 0, 1);
    calm_both(w);
    memset(w->row.ages, 0, sizeof(w->row.ages));
    wait_both(w, 2 * DEAD_AFTER_NS);
    assert_in_sync(&w->a, &w->b);
    register_row_take_age(&w->row, "paris-a", w->a.on_disk.age + 5);
    wait_both(w, 2 * DEAD_AFTER_NS);
    assert_true(w->a.serving && !w->a.on_disk.went_back);
    assert_true(told(&w->a, "is there a copy of this machine"));
    assert_in_sync(&w->a, &w->b);
    close_world(w);
}

/* A target's older copy, alone with the register, does not grow past what its source remembers. */
static void a_half_made_copy_does_not_hide(void **state)
{
    struct world *w = open_world(&automatic);
    write_block(&w->a, 0, 1);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    wait_ns(w, &w->a, 2 * DEAD_AFTER_NS);
    assert_false(is_member(w, &w->b));
    write_block(&w->a, 0, 2);
    write_block(&w->a, 4 * CHANGE_BYTES, 2);
    calm(w, &w->a);
    hellos(&w->a, &w->b);
    calm(w, &w->a);
    calm(w, &w->b);
    assert_true(make_ready(&w->a, &w->b));
    session_up(&w->a, &w->b);
    metas_done(&w->a);
    metas_done(&w->b);
    assert_int_equal(w->b.on_disk.leg, LEG_SYNCING);
    /* No more of the resync comes through, but changes do not, either: the copy. */
    struct copy c = copy_of(&w->b);
    /* It gets some of it, and older by three. */
    assert_true(run_until_sent(&w->a, &w->b, &w->a, FRAME_SYNC_STABLE));
    for (int i = 0; i < 3; i++) {
        tick(&w->b, w->b.now_ns + MINUTE_NS);
        metas_done(&w->b);
        deliver_age(&w->b, &w->a);
    }
    calm(w, &w->b);
    /* What it has got is stable, and written to; it is flushed. */
    for (int i = 0; i < 200; i++) {
        if (!run_step(&w->a, &w->b))
            break;
        if (w->a.asked && w->a.asked->ask == REGISTER_SWAP && w->a.asked->proposal.cause == DECREE_IN)
            break;
    }
    write_block(&w->a, 8 * CHANGE_BYTES, 3);
    run(&w->a, &w->b);
    request(&w->a, OP_FLUSH, 0);
    run(&w->a, &w->b);
    disconnect_nodes(&w->a, &w->b);
    put_back(&w->b, &c, false);
    wait_ns(w, &w->b, NS_PER_S);
    for (int i = 0; i < 6; i++)
        wait_ns(w, &w->b, MINUTE_NS);
    hellos(&w->a, &w->b);
    calm(w, &w->a);
    calm(w, &w->b);
    disconnect_nodes(&w->a, &w->b);
    meet_at_last(w);
    calm_both(w);
    assert_memory_equal(w->a.content, w->b.content, VOLUME_BYTES);
    close_world(w);
}

/* A has served alone, and the register alone has heard how old its leg became; then its disk was lost. B was promoted
 * by force, and A has a new disk. */
static struct world *open_with_a_new_disk(bool reaches_register)
{
    struct world *w = open_world(&automatic);
    write_block(&w->a, 0, 1);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    for (int i = 0; i < 10; i++) {
        write_block(&w->a, 0, (uint8_t)i);
        calm(w, &w->a);
        wait_ns(w, &w->a, MINUTE_NS);
    }
    node_close(&w->a);
    node_open_with(&w->a, 0, &automatic);
    w->a.on_disk.leg_id = id_of(9);
    if (!reaches_register)
        w->cut_off = &w->a;
    node_restart(&w->a, true);
    calm(w, &w->a);
    order(&w->b, EV_PROMOTE, true);
    wait_ns(w, &w->b, 10 * TAKE_AFTER_NS);
    assert_true(w->b.serving);
    return w;
}

/* In the place of a leg of which the register alone has heard, and that has asked it before it is whole. */
static void a_new_leg_is_not_taken_for_a_copy(void **state)
{
    struct world *w = open_with_a_new_disk(true);
    for (int i = 0; i < 10 && !meet(w); i++)
        ;
    wait_both(w, 2 * DEAD_AFTER_NS);
    assert_false(told(&w->a, "older copy"));
    close_world(w);
}

/* Nor one that is whole when its node reaches the register at last: the peer has heard of less than that one. */
static void a_new_leg_that_asks_late_is_not_taken_for_a_copy(void **state)
{
    struct world *w = open_with_a_new_disk(false);
    uint64_t of_the_lost = age_told(w, "paris-a");
    meet_at_last(w);
    for (int i = 0; i < 100 && !is_member(w, &w->a); i++)
        wait_both(w, DEAD_AFTER_NS);
    assert_true(is_member(w, &w->a));
    assert_in_sync(&w->a, &w->b);
    assert_int_equal(age_told(w, "paris-a"), of_the_lost);
    struct copy c = copy_of(&w->a);
    w->cut_off = NULL;
    wait_both(w, MINUTE_NS + 2 * DEAD_AFTER_NS);
    assert_false(w->a.dropped || w->a.on_disk.went_back || told(&w->a, "older copy"));
    assert_true(age_told(w, "paris-a") > of_the_lost);
    /* A copy of it from before the register had heard of it is one all the same. */
    write_block(&w->b, 0, 99);
    calm_both(w);
    wait_both(w, MINUTE_NS + 2 * DEAD_AFTER_NS);
    disconnect_nodes(&w->a, &w->b);
    put_back(&w->a, &c, false);
    wait_ns(w, &w->a, 10 * TAKE_AFTER_NS);
    assert_true(!w->a.serving && w->a.on_disk.went_back);
    close_world(w);
}

/* Its record that it is whole is on its way when the register answers. */
static void an_answer_comes_before_the_record(void **state)
{
    struct world *w = open_with_a_new_disk(true);
    bool up = false;
    for (int i = 0; i < 10 && !up; i++) {
        hellos(&w->a, &w->b);
        for (int j = 0; j < 3; j++) {
            calm(w, &w->a);
            calm(w, &w->b);
        }
        up = !w->a.dropped && !w->b.dropped && make_ready(&w->a, &w->b);
        if (!up)
            disconnect_nodes(&w->a, &w->b);
    }
    assert_true(up);
    session_up(&w->a, &w->b);
    for (int i = 0; i < 100000; i++) {
        if (w->b.asked)
            answer(w, &w->b);
        if (w->a.meta_pending && w->a.meta.leg == LEG_UP_TO_DATE)
            break;
        if (w->a.asked)
            answer(w, &w->a);
        if (!run_step(&w->a, &w->b) && !w->a.asked && !w->b.asked)
            break;
    }
    assert_true(w->a.meta_pending);
    if (!w->a.asked)
        tick(&w->a, w->a.now_ns + DEAD_AFTER_NS);
    assert_non_null(w->a.asked);
    answer(w, &w->a);
    assert_false(w->a.dropped);
    close_world(w);
}

/* It looks like a fresh disk, and the other one like one that was only ever paired. */
static void a_copy_from_before_the_pairing(void **state)
{
    for (int which = 0; which < 2; which++) {
        struct node a, b;
        node_open_with(&a, 0, &strict);
        node_open_with(&b, 1, &strict);
        struct node *back = which ? &b : &a;
        struct copy c = copy_of(back);
        connect_nodes(&a, &b);
        run(&a, &b);
        promote(&a, &b);
        run(&a, &b);
        write_and_run(&a, &b, 0, 1);
        get_older(&a, &b);
        write_and_run(&a, &b, 8 * CHANGE_BYTES, 2);
        get_older(&a, &b);
        order(&a, EV_DEMOTE, false);
        run(&a, &b);
        disconnect_nodes(&a, &b);
        put_back(back, &c, false);
        hellos(&a, &b);
        disconnect_nodes(&a, &b);
        metas_done(back);
        assert_true(back->on_disk.went_back);
        connect_nodes(&a, &b);
        run(&a, &b);
        assert_memory_equal(a.content, b.content, VOLUME_BYTES);
        close_both(&a, &b);
    }
}

/* The same beside a primary that serves by a register. */
static void a_copy_from_before_the_pairing_beside_a_register(void **state)
{
    static struct world world;
    struct world *w = &world;
    memset(w, 0, sizeof(*w));
    register_row_start(&w->row, "gold42", (struct id) { { 0 } }, NULL);
    node_open_with(&w->a, 0, &automatic);
    node_open_with(&w->b, 1, &automatic);
    struct copy c = copy_of(&w->b);
    connect_nodes(&w->a, &w->b);
    calm_both(w);
    order(&w->a, EV_PROMOTE, false);
    calm_both(w);
    disconnect_nodes(&w->a, &w->b);
    meet_at_last(w);
    write_block(&w->a, 0, 1);
    calm_both(w);
    wait_both(w, 2 * MINUTE_NS);
    disconnect_nodes(&w->a, &w->b);
    put_back(&w->b, &c, false);
    calm_both(w);
    hellos(&w->a, &w->b);
    disconnect_nodes(&w->a, &w->b);
    calm_both(w);
    assert_true(w->b.on_disk.went_back);
    meet_at_last(w);
    run(&w->a, &w->b);
    calm_both(w);
    assert_memory_equal(w->a.content, w->b.content, VOLUME_BYTES);
    close_world(w);
}

/* It has no history yet; what it had got and was written to since is missing on it. */
static void a_copy_of_a_first_resync(void **state)
{
    struct node a, b;
    open_promoted(&a, &b, &may_go_alone);
    write_and_run(&a, &b, 0, 1);
    disconnect_nodes(&a, &a);
    patience_ends(&a, PATIENCE_NS);
    metas_done(&a);
    node_close(&b);
    node_open_with(&b, 1, &may_go_alone);
    b.on_disk.leg_id = id_of(7);
    node_restart(&b, true);
    connect_nodes(&a, &b);
    metas_done(&b);
    assert_int_equal(b.on_disk.leg, LEG_SYNCING);
    /* Up to here it has got everything but its end; the copy. */
    assert_true(run_until_sent(&a, &b, &a, FRAME_SYNC_STABLE));
    while (a.sent_count)
        deliver(&a, &b);
    for (int i = 0; i < 8 && b.on_disk.history.count == 0; i++) {
        tick(&b, b.now_ns + MINUTE_NS);
        if (b.meta_pending)
            meta_done(&b, 0);
        deliver_age(&b, &a);
        if (i == 3)
            break;
    }
    assert_int_equal(b.on_disk.history.count, 0);
    struct copy c = copy_of(&b);
    write_block(&a, 8 * CHANGE_BYTES, 3);
    disks_done(&a);
    while (a.sent_count)
        deliver(&a, &b);
    disks_done(&b);
    while (b.sent_count)
        deliver(&b, &a);
    tick(&b, b.now_ns + MINUTE_NS);
    metas_done(&b);
    deliver_age(&b, &a);
    request(&a, OP_FLUSH, 0);
    disks_done(&a);
    while (a.sent_count)
        deliver(&a, &b);
    disks_done(&b);
    struct hello h;
    say_hello(&a, &h);
    for (int i = 0; i < 4 && b.sent_count; i++)
        deliver(&b, &a);
    disconnect_nodes(&a, &b);
    put_back(&b, &c, false);
    hellos(&a, &b);
    disconnect_nodes(&a, &b);
    metas_done(&b);
    assert_true(b.on_disk.went_back);
    connect_nodes(&a, &b);
    run(&a, &b);
    assert_memory_equal(a.content, b.content, VOLUME_BYTES);
    close_both(&a, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_grows_with_time_and_changes),
        cmocka_unit_test(nothing_waits_for_its_record),
        cmocka_unit_test(a_copy_that_was_put_back_gets_everything),
        cmocka_unit_test(each_time_it_is_noticed),
        cmocka_unit_test(a_target_that_went_back_begins_anew),
        cmocka_unit_test(what_it_has_grown_by_is_missing_as_well),
        cmocka_unit_test(what_has_served_from_there_a_person_decides),
        cmocka_unit_test(of_two_copies_a_person_keeps_one),
        cmocka_unit_test(a_replaced_leg_is_not_taken_for_a_copy),
        cmocka_unit_test(no_age_is_too_high),
        cmocka_unit_test(who_went_back_does_not_take_over),
        cmocka_unit_test(a_primary_that_went_back_does_not_resume),
        cmocka_unit_test(only_a_higher_age_tells),
        cmocka_unit_test(a_new_leg_is_not_taken_for_a_copy),
        cmocka_unit_test(a_new_leg_that_asks_late_is_not_taken_for_a_copy),
        cmocka_unit_test(a_half_made_copy_does_not_hide),
        cmocka_unit_test(an_answer_comes_before_the_record),
        cmocka_unit_test(a_copy_from_before_the_pairing),
        cmocka_unit_test(a_copy_from_before_the_pairing_beside_a_register),
        cmocka_unit_test(a_copy_of_a_first_resync),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
