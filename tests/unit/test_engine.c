/* Two engines, joined by hand: who is told what, in which order, and what must not happen before what. Faults, crashes
 * and random orders of events are the simulator's business (tests/sim). */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repl/engine/engine.h"

#define VOLUME_BYTES (1 * MIB)

/* One node: its engine, and what it wants done and nobody has done yet. */
struct node {
    struct engine *engine;
    struct actions actions;
    bool serving;
    struct action pages[META_PAGES_MAX];
    unsigned page_count;
    bool meta_pending;
    struct superblock meta; /* the last one given to the disk */
    struct action disk[64]; /* started, not answered */
    unsigned disk_count;
    struct action sent[64];
    unsigned sent_count;
    int completed; /* ACT_COMPLETE seen, and the last result */
    int32_t complete_result;
    int orders_done;
    int32_t order_result;
    bool ready;
    bool refused;
    bool dropped;
    char text[ACTION_TEXT_BYTES];
};

static struct id id_of(uint8_t fill)
{
    struct id id;
    memset(&id, fill, sizeof(id));
    return id;
}

static void node_attach(struct node *n, unsigned index, bool has_peer, const struct superblock *sb)
{
    *n = (struct node) { 0 };
    struct engine_config config = {
        .volume = "gold42",
        .node = index ? "paris-b" : "paris-a",
        .peer = !has_peer ? NULL
                : index   ? "paris-a"
                          : "paris-b",
        .backing = index ? "/dev/b" : "/dev/a",
        .node_index = index,
        .capacity_bytes = VOLUME_BYTES,
        .window_frames = 8,
        .window_bytes = IO_BYTES_MAX,
        .superblock = *sb,
    };
    engine_attach(&config.superblock, id_of(50), has_peer);
    n->meta = config.superblock;
    n->engine = engine_open(&config);
    assert_non_null(n->engine);
    n->actions.max = ENGINE_ACTIONS_MAX;
    n->actions.list = calloc(n->actions.max, sizeof(struct action));
    n->actions.text_bytes = ENGINE_TEXT_BYTES;
    n->actions.text = calloc(1, n->actions.text_bytes);
}

static void node_open(struct node *n, unsigned index, bool has_peer)
{
    struct superblock fresh = {
        .sequence = 1, .leg = LEG_UP_TO_DATE, .pristine = true, .leg_id = id_of((uint8_t)(index + 1))
    };
    node_attach(n, index, has_peer, &fresh);
}

static void node_close(struct node *n)
{
    engine_close(n->engine);
    free(n->actions.list);
    free(n->actions.text);
}

/* The daemon's end, clean or not, and another one's beginning, whose configuration may have a peer or not. */
static void node_restart(struct node *n, unsigned index, bool has_peer)
{
    struct superblock on_disk = n->meta;
    assert_false(n->meta_pending);
    node_close(n);
    node_attach(n, index, has_peer, &on_disk);
}

static void step(struct node *n, struct event ev)
{
    engine_step(n->engine, &ev, &n->actions);
    for (uint32_t i = 0; i < n->actions.count; i++) {
        const struct action *a = &n->actions.list[i];
        switch (a->kind) {
        case ACT_DISK: n->disk[n->disk_count++] = *a; break;
        case ACT_META_WRITE:
            assert_false(n->meta_pending);
            n->meta_pending = true;
            n->meta = *a->meta.superblock;
            break;
        case ACT_META_PAGE:
            assert_true(n->page_count < META_PAGES_MAX);
            n->pages[n->page_count++] = *a;
            break;
        case ACT_SEND: n->sent[n->sent_count++] = *a; break;
        case ACT_BUF_PUT: buf_put(a->put.buf); break;
        case ACT_COMPLETE:
            n->completed++;
            n->complete_result = a->complete.result;
            break;
        case ACT_SESSION_READY: n->ready = true; break;
        case ACT_SESSION_REFUSE: n->refused = true; break;
        case ACT_SESSION_DROP: n->dropped = true; break;
        case ACT_SERVE: n->serving = a->serve.on; break;
        case ACT_ORDER_DONE:
            n->orders_done++;
            n->order_result = a->order.result;
            break;
        case ACT_NOTE: break;
        }
    }
    actions_clear(&n->actions);
}

static void meta_done(struct node *n, int32_t result)
{
    assert_true(n->meta_pending);
    n->meta_pending = false;
    step(n, (struct event) { .kind = EV_META_DONE, .meta = { .result = result } });
}

static void metas_done(struct node *n)
{
    while (n->meta_pending)
        meta_done(n, 0);
}

/* Answers the oldest disk request. */
static void disk_done(struct node *n, int32_t result)
{
    assert_true(n->disk_count > 0);
    uint32_t op = n->disk[0].disk.op;
    memmove(&n->disk[0], &n->disk[1], --n->disk_count * sizeof(n->disk[0]));
    step(n, (struct event) { .kind = EV_DISK_DONE, .disk = { .op = op, .result = result } });
}

/* Carries the oldest frame over. */
static struct frame deliver(struct node *from, struct node *to)
{
    assert_true(from->sent_count > 0);
    struct frame frame = from->sent[0].send.frame;
    memmove(&from->sent[0], &from->sent[1], --from->sent_count * sizeof(from->sent[0]));
    step(to, (struct event) { .kind = EV_FRAME, .frame = { .frame = frame } });
    return frame;
}

static void hellos(struct node *a, struct node *b)
{
    struct hello of_a, of_b;
    engine_hello(a->engine, &of_a);
    engine_hello(b->engine, &of_b);
    step(a, (struct event) { .kind = EV_HELLO, .hello = &of_b });
    step(b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
}

static void connect_nodes(struct node *a, struct node *b)
{
    hellos(a, b);
    metas_done(a);
    metas_done(b);
    assert_true(a->ready && b->ready);
    a->ready = b->ready = false;
    step(a, (struct event) { .kind = EV_SESSION_UP });
    step(b, (struct event) { .kind = EV_SESSION_UP });
}

static void disconnect_nodes(struct node *a, struct node *b)
{
    a->sent_count = b->sent_count = 0;
    step(a, (struct event) { .kind = EV_SESSION_DOWN, .down = { .reason = "test" } });
    step(b, (struct event) { .kind = EV_SESSION_DOWN, .down = { .reason = "test" } });
}

static void promote(struct node *a, struct node *b)
{
    step(a, (struct event) { .kind = EV_PROMOTE });
    if (a->sent_count) {
        assert_int_equal(deliver(a, b).kind, FRAME_DECREE);
        metas_done(b);
        assert_int_equal(deliver(b, a).kind, FRAME_ACK);
    }
    metas_done(a);
    assert_true(a->serving);
}

/* Discards stand for all changes: they need no buffer. */
static void request(struct node *n, enum op_kind kind, uint64_t offset)
{
    uint64_t length = kind == OP_FLUSH ? 0 : 4096;
    step(n, (struct event) { .kind = EV_REQUEST,
                             .request = { .kind = kind, .offset_bytes = offset, .length_bytes = length } });
}

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
    assert_int_equal(a.sent[0].send.frame.lsn, first.lsn);
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
    step(&a, (struct event) { .kind = EV_PROMOTE });
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
    step(&a, (struct event) { .kind = EV_PROMOTE });
    step(&b, (struct event) { .kind = EV_PROMOTE });
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
    step(&b, (struct event) { .kind = EV_PROMOTE });
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
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, -EIO);
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
    step(&b, (struct event) { .kind = EV_PROMOTE });
    request(&a, OP_DISCARD, 0);
    deliver(&a, &b);
    disk_done(&a, 0);
    disk_done(&b, 0);
    deliver(&b, &a); /* its decree */
    deliver(&a, &b); /* the objection */
    deliver(&b, &a); /* the acknowledgement */
    assert_int_equal(a.completed, 1);

    step(&a, (struct event) { .kind = EV_DEMOTE });
    disk_done(&a, 0);
    metas_done(&a);
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
    step(&b, (struct event) { .kind = EV_PROMOTE });
    disconnect_nodes(&a, &b);
    metas_done(&b);
    assert_false(b.serving);
    assert_int_equal(b.order_result, -EBUSY);
    connect_nodes(&a, &b);
    assert_true(a.serving);
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
    step(&a, (struct event) { .kind = EV_DETACH });
    disconnect_nodes(&a, &b);
    disk_done(&a, 0);
    promote(&b, &a);
    request(&b, OP_DISCARD, 0);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, -EIO);
    assert_int_equal(b.completed, 0);
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
    step(&a, (struct event) { .kind = EV_DETACH });
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
    step(&a, (struct event) { .kind = EV_DETACH });
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
    struct hello theirs;
    engine_hello(b.engine, &theirs);
    theirs.unclean_primary = true; /* any reason will do */
    step(&a, (struct event) { .kind = EV_HELLO, .hello = &theirs });
    assert_true(a.refused);
    metas_done(&a);
    step(&a, (struct event) { .kind = EV_SESSION_DOWN });

    int orders = a.orders_done;
    step(&a, (struct event) { .kind = EV_PROMOTE, .order = { .cookie = &a } });
    assert_int_equal(a.orders_done, orders + 1);
    assert_int_equal(a.order_result, -EPERM);
    assert_false(a.serving);

    /* Forced, it takes an epoch that nobody has served at, which deposes the other one. */
    step(&a, (struct event) { .kind = EV_PROMOTE, .order = { .cookie = &a, .force = true } });
    metas_done(&a);
    assert_true(a.serving);
    struct engine_view ours, others;
    engine_view(a.engine, &ours);
    engine_view(b.engine, &others);
    assert_true(ours.epoch > others.epoch);
    step(&b, (struct event) { .kind = EV_SESSION_DOWN });
    struct hello own;
    engine_hello(a.engine, &own);
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
    assert_true(a.refused && b.refused);
    assert_false(a.serving);
    assert_true(b.serving);
    assert_int_equal(a.completed, 1); /* it was never acknowledged: it fails */
    assert_int_equal(a.complete_result, -EIO);
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
    step(&a, (struct event) { .kind = EV_DEMOTE });
    assert_false(a.serving);
    assert_int_equal(a.orders_done, 1); /* the promotion */
    disk_done(&a, 0);
    deliver(&a, &b);
    disk_done(&b, 0);
    deliver(&b, &a);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.disk_count, 1);
    assert_int_equal(a.disk[0].disk.kind, OP_FLUSH);
    assert_false(a.meta_pending); /* not before the flush is done */
    disk_done(&a, 0);
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
    step(&a, (struct event) { .kind = EV_DETACH });
    assert_int_equal(a.order_result, -EBUSY);
    assert_true(a.serving);
    step(&a, (struct event) { .kind = EV_DETACH, .order = { .force = true } });
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
    assert_int_equal(a.completed, 3);
    assert_int_equal(a.complete_result, -EIO);
    request(&a, OP_DISCARD, 16384);
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
    step(&a, (struct event) { .kind = EV_PROMOTE });
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
    step(n, (struct event) { .kind = EV_DETACH });
    disk_done(n, 0); /* the flush */
    metas_done(n);
    assert_int_equal(n->order_result, 0);
}

/* A pair whose peer was taken out of the configuration for a while: what was written meanwhile, the peer lacks. */
static void what_a_node_wrote_on_its_own_its_old_peer_is_known_to_lack(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    connect_nodes(&a, &b);
    promote(&a, &b);
    disconnect_nodes(&a, &b);
    detach(&a);

    node_restart(&a, 0, false);
    promote(&a, &a);
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);
    assert_int_equal(a.completed, 1);
    assert_int_equal(a.complete_result, 0);
    detach(&a);

    node_restart(&a, 0, true);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
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
    request(&a, OP_DISCARD, 0);
    disk_done(&a, 0);

    node_restart(&a, 0, false);
    detach(&a);
    node_restart(&a, 0, true);
    disconnect_nodes(&b, &b);
    hellos(&a, &b);
    assert_true(a.refused && b.refused);
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
    step(&a, (struct event) { .kind = EV_DEMOTE });
    disconnect_nodes(&a, &b);
    step(&a, (struct event) { .kind = EV_DETACH });
    assert_int_equal(a.order_result, -EBUSY);
    assert_int_equal(a.completed, 0);
    step(&a, (struct event) { .kind = EV_DETACH, .order = { .force = true } });
    assert_int_equal(a.order_result, -EBUSY); /* its role is changing, which now ends by itself */
    assert_int_equal(a.completed, 1);
    metas_done(&a);
    disk_done(&a, 0);
    metas_done(&a);
    step(&a, (struct event) { .kind = EV_DETACH, .order = { .force = true } });
    disk_done(&a, 0);
    metas_done(&a);
    assert_int_equal(a.order_result, 0);
    assert_true(a.meta.unclean && !a.meta.attached);
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
    assert_true(a.meta.unclean);
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
    step(&a, (struct event) { .kind = EV_DEMOTE, .order = { .force = true } });
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

/* A hello is on its way when its sender is promoted: the peer has not seen that epoch, and must be told. */
static void an_epoch_that_the_hello_did_not_say_is_told_by_a_decree(void **state)
{
    struct node a, b;
    node_open(&a, 0, true);
    node_open(&b, 1, true);
    struct hello of_a, of_b;
    engine_hello(a.engine, &of_a);
    promote(&a, &b);
    step(&b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
    engine_hello(b.engine, &of_b);
    step(&a, (struct event) { .kind = EV_HELLO, .hello = &of_b });
    metas_done(&a);
    metas_done(&b);
    step(&a, (struct event) { .kind = EV_SESSION_UP });
    step(&b, (struct event) { .kind = EV_SESSION_UP });
    request(&a, OP_DISCARD, 0);
    assert_int_equal(a.sent_count, 1);
    assert_int_equal(deliver(&a, &b).kind, FRAME_DECREE);
    metas_done(&b);
    assert_int_equal(deliver(&b, &a).kind, FRAME_ACK);
    assert_int_equal(deliver(&a, &b).kind, FRAME_DISCARD);
    assert_false(b.dropped);
    node_close(&a);
    node_close(&b);
}

/* A frame that breaks the rules ends the session and changes nothing. */
static void broken_rules_drop_the_session(void **state)
{
    static const struct frame bad[] = {
        { .kind = FRAME_DISCARD, .epoch = 1, .offset_bytes = VOLUME_BYTES, .length_bytes = 4096 },
        { .kind = FRAME_DISCARD, .epoch = 1, .offset_bytes = UINT64_MAX - 511, .length_bytes = 4096 },
        { .kind = FRAME_DISCARD, .epoch = 0, .offset_bytes = 0, .length_bytes = 4096 },
        { .kind = FRAME_DISCARD, .epoch = 2, .offset_bytes = 0, .length_bytes = 4096 },
        { .kind = FRAME_DISCARD, .epoch = 1, .offset_bytes = 256, .length_bytes = 4096 },
        { .kind = FRAME_ACK, .epoch = 1, .tag = 3 },
        { .kind = FRAME_ACK, .epoch = 1, .tag = UINT32_MAX - 1 },
        { .kind = FRAME_HELLO },
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
        cmocka_unit_test(of_two_that_drain_one_is_deposed),
        cmocka_unit_test(a_leg_that_fails_while_it_drains_stays_failed),
        cmocka_unit_test(a_detach_drains_over_a_session_of_its_own),
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
        cmocka_unit_test(what_a_node_wrote_on_its_own_its_old_peer_is_known_to_lack),
        cmocka_unit_test(an_unclean_end_outlives_a_time_without_a_peer),
        cmocka_unit_test(a_flush_that_fails_after_a_write_is_not_forgotten),
        cmocka_unit_test(a_demotion_that_waits_is_no_obstacle_to_force),
        cmocka_unit_test(a_flush_after_a_failed_write_does_not_condemn_the_peer),
        cmocka_unit_test(a_change_of_its_own_that_fails_after_a_deposition_fails_the_leg_for_good),
        cmocka_unit_test(fast_zeroes_under_way_at_a_deposition_are_remembered),
        cmocka_unit_test(writes_given_up_while_a_session_is_being_made_end_it),
        cmocka_unit_test(an_epoch_that_the_hello_did_not_say_is_told_by_a_decree),
        cmocka_unit_test(broken_rules_drop_the_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
