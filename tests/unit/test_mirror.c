/* The mirror alone, between a disk and a peer that are made here: what waits for what, by hand; and two mirrors with
 * every order of events that chance finds, against images of both disks. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/prng.h"
#include "repl/core/range_lock.h"
#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"
#include "repl/mirror/mirror.h"

#define GRANULE 4096u
#define GRANULES 64u
#define VOLUME_BYTES (GRANULES * GRANULE)
#define EXTENT_BYTES (4 * GRANULE)
#define LOG_SLOTS 4u
#define UNFLUSHED 8u
#define QUEUE 512

/* ---- A mirror with everything that it needs, and what it wants done ---- */

struct rig {
    struct mirror *mirror;
    struct range_locks locks;
    struct activity_log *al;
    struct bitmap *bitmap;
    struct buf_pool pool;
    struct actions actions;
    struct action disk[QUEUE]; /* started, not answered */
    unsigned disk_count;
    struct action sent[QUEUE]; /* each with a reference to its payload */
    unsigned sent_count;
    unsigned completed;
    int32_t result; /* of the last one */
    void (*on_complete)(struct rig *r, void *cookie, int32_t result);
    void (*on_disk)(struct rig *r, const struct action *a);
    struct al_commit commit;
};

static void rig_open(struct rig *r, bool has_log)
{
    memset(r, 0, sizeof(*r));
    range_locks_init(&r->locks);
    assert_int_equal(buf_pool_open(&r->pool, 4 * MIB), 0);
    if (has_log) {
        struct err err;
        r->al = al_open(
            &(struct al_options) { .size_bytes = VOLUME_BYTES, .extent_bytes = EXTENT_BYTES, .slots = LOG_SLOTS },
            &err);
        r->bitmap = bitmap_open(VOLUME_BYTES, GRANULE, (struct id) { { 1 } }, &err);
        assert_true(r->al && r->bitmap);
    }
    r->mirror = mirror_open(&(struct mirror_config) { .backing = "/dev/a",
                                                      .peer = "paris-b",
                                                      .locks = &r->locks,
                                                      .al = r->al,
                                                      .bitmap = r->bitmap,
                                                      .pool = &r->pool,
                                                      .unflushed_max = UNFLUSHED });
    assert_non_null(r->mirror);
    mirror_set_size(r->mirror, VOLUME_BYTES);
    r->actions.max = 4 * MIRROR_OPS;
    r->actions.list = calloc(r->actions.max, sizeof(struct action));
    r->actions.text_bytes = 64 * KIB;
    r->actions.text = malloc(r->actions.text_bytes);
}

static void rig_close(struct rig *r)
{
    mirror_close(r->mirror);
    if (r->al)
        al_close(r->al);
    if (r->bitmap)
        bitmap_close(r->bitmap);
    free(r->actions.list);
    free(r->actions.text);
    buf_pool_abandon(&r->pool);
}

/* Takes note of what a call wants done. */
static void rig_take(struct rig *r)
{
    for (uint32_t i = 0; i < r->actions.count; i++) {
        struct action *a = &r->actions.list[i];
        switch (a->kind) {
        case ACT_DISK:
            assert_true(r->disk_count < QUEUE);
            r->disk[r->disk_count++] = *a;
            if (r->on_disk)
                r->on_disk(r, a);
            break;
        case ACT_SEND:
            assert_true(r->sent_count < QUEUE);
            if (a->send.payload)
                buf_ref(a->send.payload);
            r->sent[r->sent_count++] = *a;
            break;
        case ACT_BUF_PUT: buf_put(a->put.buf); break;
        case ACT_COMPLETE:
            r->completed++;
            r->result = a->complete.result;
            if (r->on_complete)
                r->on_complete(r, a->complete.cookie, a->complete.result);
            break;
        case ACT_NOTE: break;
        case ACT_META_WRITE:
        case ACT_META_PAGE:
        case ACT_SESSION_READY:
        case ACT_SESSION_REFUSE:
        case ACT_SESSION_DROP:
        case ACT_SERVE:
        case ACT_GROW:
        case ACT_KEEP:
        case ACT_REGISTER:
        case ACT_ORDER_DONE: fail_msg("not the mirror's");
        }
    }
    actions_clear(&r->actions);
}

/* Calls the mirror, and takes note. */
#define DO(r, call)                                                                                                    \
    do {                                                                                                               \
        (call);                                                                                                        \
        rig_take(r);                                                                                                   \
    } while (0)

static void ready(struct rig *r) { DO(r, mirror_peer_ready(r->mirror, 1, 64, 16 * MIB, &r->actions)); }

static void forget_sent(struct rig *r)
{
    for (unsigned i = 0; i < r->sent_count; i++)
        if (r->sent[i].send.payload)
            buf_put(r->sent[i].send.payload);
    r->sent_count = 0;
}

static void lost(struct rig *r)
{
    forget_sent(r);
    DO(r, mirror_peer_lost(r->mirror, &r->actions));
}

static void request(struct rig *r, enum op_kind kind, uint32_t flags, unsigned granule)
{
    struct request q = { .kind = kind,
                         .flags = flags,
                         .offset_bytes = kind == OP_FLUSH ? 0 : granule * GRANULE,
                         .length_bytes = kind == OP_FLUSH ? 0 : GRANULE };
    DO(r, mirror_request(r->mirror, &q, 1, &r->actions));
}

static void disk_done_at(struct rig *r, unsigned i, int32_t result)
{
    assert_true(i < r->disk_count);
    uint32_t op = r->disk[i].disk.op;
    memmove(&r->disk[i], &r->disk[i + 1], (--r->disk_count - i) * sizeof(r->disk[0]));
    DO(r, mirror_disk_done(r->mirror, op, result, &r->actions));
}

static void disk_done(struct rig *r, int32_t result) { disk_done_at(r, 0, result); }

static struct action take_sent(struct rig *r)
{
    assert_true(r->sent_count > 0);
    struct action a = r->sent[0];
    memmove(&r->sent[0], &r->sent[1], --r->sent_count * sizeof(r->sent[0]));
    return a;
}

/* The peer acknowledges the oldest change that was sent. */
static void ack(struct rig *r)
{
    struct action a = take_sent(r);
    struct frame frame = { .kind = FRAME_ACK, .lsn = a.send.frame.lsn, .tag = a.send.frame.tag };
    assert_null(mirror_ack(r->mirror, &frame, &r->actions));
    rig_take(r);
    if (a.send.payload)
        buf_put(a.send.payload);
}

/* Commits what waits for the activity log; false: nothing does. */
static bool commit(struct rig *r)
{
    if (!mirror_wants_log(r->mirror) || !al_commit_begin(r->al, &r->commit))
        return false;
    al_commit_done(r->al, true);
    DO(r, mirror_log_committed(r->mirror, &r->actions));
    return true;
}

static bool bit(const struct rig *r, unsigned granule)
{
    return bitmap_any(r->bitmap, (struct range) { granule * GRANULE, GRANULE });
}

/* A change from request to completion, on both legs. */
static void change(struct rig *r, uint32_t flags, unsigned granule)
{
    request(r, OP_DISCARD, flags, granule);
    while (commit(r)) {}
    disk_done(r, 0);
    ack(r);
    assert_int_equal(r->disk_count + r->sent_count, 0);
}

/* ---- The activity log ---- */

static void cold_changes_wait_for_the_log_and_hot_ones_do_not(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    request(&r, OP_DISCARD, 0, 0);
    request(&r, OP_DISCARD, 0, 1);
    assert_int_equal(r.disk_count + r.sent_count, 0); /* neither leg is written before the extent is in the log */
    assert_true(mirror_wants_log(r.mirror));
    struct mirror_view view;
    mirror_view(r.mirror, &view);
    assert_int_equal(view.logging, 2);
    assert_false(view.unsettled);
    assert_true(commit(&r));
    assert_int_equal(r.disk_count, 2);
    assert_int_equal(r.disk[0].disk.offset_bytes, 0); /* in the order of asking */
    assert_int_equal(r.sent_count, 2);
    assert_false(mirror_wants_log(r.mirror));
    request(&r, OP_DISCARD, 0, 2); /* the same extent */
    assert_int_equal(r.disk_count, 3);
    assert_int_equal(al_view(r.al).busy, 1);
    while (r.disk_count) {
        disk_done(&r, 0);
        ack(&r);
    }
    assert_int_equal(r.completed, 3);
    assert_int_equal(al_view(r.al).busy, 0);
    rig_close(&r);
}

static void a_commit_that_fails_lets_nothing_reach_a_leg(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    request(&r, OP_DISCARD, 0, 0);
    request(&r, OP_DISCARD, 0, 0); /* waits for the range */
    assert_true(al_commit_begin(r.al, &r.commit));
    al_commit_done(r.al, false);
    DO(&r, mirror_fail_leg(r.mirror, &r.actions));
    assert_int_equal(r.disk_count + r.sent_count, 0);
    assert_int_equal(r.completed, 2);
    assert_int_equal(r.result, -EIO);
    assert_true(mirror_is_idle(r.mirror));
    assert_int_equal(bitmap_dirty_bytes(r.bitmap), 0); /* no leg was touched */
    rig_close(&r);
}

static void a_full_log_is_freed_by_an_own_flush(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    for (unsigned i = 0; i < LOG_SLOTS; i++)
        change(&r, OP_FLAG_FUA, 4 * i);
    request(&r, OP_DISCARD, OP_FLAG_FUA, 4 * LOG_SLOTS);
    assert_false(commit(&r));
    assert_true(mirror_log_stuck(r.mirror) && mirror_wants_flush(r.mirror));
    unsigned completed = r.completed;
    DO(&r, mirror_flush(r.mirror, 2, &r.actions));
    assert_false(mirror_wants_flush(r.mirror)); /* one is enough */
    assert_int_equal(r.disk[0].disk.kind, OP_FLUSH);
    assert_int_equal(r.sent[0].send.frame.kind, FRAME_FLUSH);
    disk_done(&r, 0);
    assert_false(commit(&r)); /* both legs, or it was no flush */
    ack(&r);
    assert_int_equal(r.completed, completed); /* to nobody */
    assert_true(commit(&r));
    disk_done(&r, 0);
    ack(&r);
    assert_int_equal(r.completed, completed + 1);
    rig_close(&r);
}

static void changes_that_wait_end_when_the_leg_fails(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    request(&r, OP_DISCARD, 0, 0);
    commit(&r);
    request(&r, OP_DISCARD, 0, 8); /* cold */
    disk_done(&r, -EIO);
    assert_int_equal(r.completed, 1); /* the first is still with the peer; the cold one will not be committed for */
    assert_int_equal(r.result, -EIO);
    assert_true(mirror_has_faults(r.mirror));
    assert_false(mirror_wants_flush(r.mirror));
    ack(&r);
    assert_int_equal(r.completed, 2);
    assert_true(bit(&r, 0) && !bit(&r, 8)); /* one leg has it, or a part of it */
    rig_close(&r);
}

/* ---- The unflushed set ---- */

static void what_the_peer_may_lose_with_its_power_becomes_bits(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    change(&r, 0, 0);
    change(&r, OP_FLAG_FUA, 1);
    request(&r, OP_FLUSH, 0, 0);
    struct action flush = take_sent(&r);
    request(&r, OP_DISCARD, 0, 2); /* acknowledged after the flush began, though before it ended */
    disk_done_at(&r, 1, 0);
    ack(&r);
    r.sent[r.sent_count++] = flush;
    ack(&r);
    struct mirror_view view;
    mirror_view(r.mirror, &view);
    assert_int_equal(view.unflushed, 2); /* the local disk has not flushed yet */
    disk_done(&r, 0);
    mirror_view(r.mirror, &view);
    assert_int_equal(view.unflushed, 1);
    lost(&r);
    mirror_unflushed_to_bitmap(r.mirror);
    assert_false(bit(&r, 0) || bit(&r, 1));
    assert_true(bit(&r, 2));
    assert_int_equal(bitmap_dirty_bytes(r.bitmap), GRANULE);
    rig_close(&r);
}

static void a_full_set_makes_changes_wait_for_an_own_flush(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    for (unsigned i = 0; i < UNFLUSHED / 2; i++) {
        assert_false(mirror_wants_flush(r.mirror));
        change(&r, 0, i);
    }
    assert_true(mirror_wants_flush(r.mirror)); /* in time */
    for (unsigned i = UNFLUSHED / 2; i < UNFLUSHED; i++)
        change(&r, 0, i);
    request(&r, OP_DISCARD, 0, 0);
    request(&r, OP_DISCARD, OP_FLAG_FUA, 1); /* needs no place */
    assert_int_equal(r.disk_count, 1);
    assert_int_equal(r.disk[0].disk.offset_bytes, GRANULE);
    assert_true(mirror_log_stuck(r.mirror));
    DO(&r, mirror_flush(r.mirror, 2, &r.actions));
    disk_done_at(&r, 1, 0);
    ack(&r); /* of the FUA one */
    ack(&r);
    assert_int_equal(r.disk_count, 2); /* the one that waited has begun */
    assert_false(mirror_log_stuck(r.mirror));
    rig_close(&r);
}

static void an_own_flush_ends_with_its_session(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    change(&r, 0, 0);
    DO(&r, mirror_flush(r.mirror, 2, &r.actions));
    lost(&r);
    struct mirror_view view;
    mirror_view(r.mirror, &view);
    assert_int_equal(view.waiting, 0);
    assert_false(mirror_is_idle(r.mirror)); /* the disk is busy with it */
    disk_done(&r, 0);
    assert_true(mirror_is_idle(r.mirror));
    mirror_view(r.mirror, &view);
    assert_int_equal(view.unflushed, 1);
    DO(&r, mirror_flush(r.mirror, 3, &r.actions)); /* could not end */
    assert_true(mirror_is_idle(r.mirror));
    rig_close(&r);
}

/* ---- Alone ---- */

static void bits_come_first(struct rig *r, const struct action *a)
{
    if (a->disk.kind != OP_READ && a->disk.kind != OP_FLUSH)
        assert_true(bit(r, (unsigned)(a->disk.offset_bytes / GRANULE)));
}

static void alone_everything_that_the_peer_may_lack_is_marked(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    change(&r, 0, 0);                                   /* acknowledged, not flushed */
    change(&r, OP_FLAG_FUA, 1);                         /* stable there */
    request(&r, OP_DISCARD, 0, 2);                      /* sent */
    request(&r, OP_DISCARD, OP_FLAG_FUA, 3);            /* sent, and acknowledged; the disk still busy */
    request(&r, OP_WRITE_ZEROES, OP_FLAG_FAST_ONLY, 5); /* cold */
    commit(&r);
    request(&r, OP_WRITE_ZEROES, OP_FLAG_FAST_ONLY, 6); /* not sent: the local disk is asked first */
    request(&r, OP_DISCARD, 0, 2);                      /* behind the first one */
    request(&r, OP_READ, 0, 2);                         /* and a read behind it */
    struct action first = take_sent(&r);
    ack(&r);
    r.sent[r.sent_count++] = first;
    assert_int_equal(r.disk_count, 4);
    disk_done(&r, 0); /* granule 2, local */
    unsigned completed = r.completed;
    lost(&r);
    assert_int_equal(r.completed, completed); /* promise 2: nothing before it is said so */
    assert_int_equal(bitmap_dirty_bytes(r.bitmap), 0);

    r.on_disk = bits_come_first;
    DO(&r, mirror_go_alone(r.mirror, &r.actions));
    assert_int_equal(r.completed, completed + 1);
    assert_true(bit(&r, 0) && bit(&r, 2) && bit(&r, 5) && bit(&r, 6));
    assert_false(bit(&r, 1) || bit(&r, 3));
    assert_int_equal(r.sent_count, 0);
    while (r.disk_count)
        disk_done(&r, 0);
    assert_int_equal(r.completed, completed + 6);
    assert_int_equal(r.result, 0);
    /* A flush is of this leg only. */
    request(&r, OP_FLUSH, 0, 0);
    disk_done(&r, 0);
    assert_int_equal(r.completed, completed + 7);

    /* In flight when the peer is back: never sent. What comes then is. */
    request(&r, OP_DISCARD, 0, 4);
    request(&r, OP_WRITE_ZEROES, OP_FLAG_FAST_ONLY, 7);
    r.on_disk = NULL;
    ready(&r);
    assert_int_equal(r.sent_count, 0);
    struct mirror_view view;
    mirror_view(r.mirror, &view);
    assert_int_equal(view.waiting, 0);
    while (r.disk_count)
        disk_done(&r, 0);
    assert_int_equal(r.sent_count, 0);
    assert_int_equal(r.completed, completed + 9);
    assert_true(bit(&r, 4) && bit(&r, 7));
    request(&r, OP_DISCARD, 0, 1);
    assert_int_equal(r.sent_count, 1);
    disk_done(&r, 0);
    ack(&r);
    assert_false(bit(&r, 1));
    assert_int_equal(r.completed, completed + 10);
    rig_close(&r);
}

static void writes_given_up_are_marked(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    request(&r, OP_DISCARD, 0, 0);
    commit(&r);
    disk_done(&r, 0);
    lost(&r);
    DO(&r, mirror_abandon_waiting(r.mirror, -EIO, &r.actions));
    assert_int_equal(r.completed, 1);
    assert_int_equal(r.result, -EIO);
    assert_true(bit(&r, 0)); /* this leg has it, and the peer may */
    rig_close(&r);
}

/* ---- Reads that the own leg cannot answer ---- */

static struct buf *get_filled(struct rig *r, uint8_t fill)
{
    struct buf *b = buf_get(&r->pool, GRANULE, 0);
    assert_non_null(b);
    memset(b->data, fill, GRANULE);
    return b;
}

static struct buf *read_into(struct rig *r, unsigned granule)
{
    struct buf *b = get_filled(r, 0);
    struct request q = { .kind = OP_READ, .offset_bytes = granule * GRANULE, .length_bytes = GRANULE, .buf = b };
    DO(r, mirror_request(r->mirror, &q, 1, &r->actions));
    return b;
}

static const char *answer(struct rig *r, struct frame frame, struct buf *payload)
{
    frame.kind = FRAME_READ_DATA;
    frame.payload_bytes = payload ? GRANULE : 0;
    const char *wrong;
    DO(r, wrong = mirror_read_data(r->mirror, &frame, payload, &r->actions));
    return wrong;
}

static void set_readable(struct rig *r, bool on) { DO(r, mirror_set_peer_readable(r->mirror, on, &r->actions)); }

static void set_replaceable(struct rig *r, bool on) { DO(r, mirror_set_replaceable(r->mirror, on, &r->actions)); }

static void a_read_error_is_masked_and_repaired(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    set_readable(&r, true);
    for (unsigned round = 0; round < 2; round++) {
        struct buf *b = read_into(&r, 3);
        disk_done(&r, -EIO);
        assert_int_equal(r.completed, round);
        struct action ask = take_sent(&r);
        assert_int_equal(ask.send.frame.kind, FRAME_READ);
        assert_int_equal(ask.send.frame.length_bytes, GRANULE);
        request(&r, OP_DISCARD, 0, 3); /* waits until the repair is over */
        assert_null(answer(&r, ask.send.frame, get_filled(&r, 42)));
        assert_int_equal(r.completed, round + 1);
        assert_int_equal(r.result, 0);
        assert_int_equal(b->data[GRANULE - 1], 42);
        if (round == 0) { /* a change of this leg alone: were it torn, nothing else would tell */
            assert_int_equal(r.disk_count, 0);
            assert_true(commit(&r));
        }
        assert_true(al_covers(r.al, (struct range) { 3 * GRANULE, GRANULE }));
        assert_int_equal(al_view(r.al).busy, 1);
        assert_int_equal(r.disk_count, 1);
        assert_int_equal(r.disk[0].disk.kind, OP_WRITE);
        assert_int_equal(r.disk[0].disk.buf->data[0], 42);
        assert_int_equal(r.disk[0].disk.offset_bytes, 3 * GRANULE);
        buf_put(b);
        disk_done(&r, round ? -EIO : 0);
        assert_false(mirror_has_faults(r.mirror)); /* also when it fails */
        commit(&r);
        disk_done(&r, 0);
        ack(&r);
        r.completed--;
    }
    struct mirror_view view;
    mirror_view(r.mirror, &view);
    assert_int_equal(view.reads_masked, 2);
    assert_int_equal(view.repairs_failed, 1);
    assert_true(mirror_is_idle(r.mirror));
    assert_int_equal(r.pool.free_bytes, r.pool.arena_bytes);
    rig_close(&r);
}

static void a_repair_that_waits_is_given_up_with_the_peer_or_the_leg(void **state)
{
    for (unsigned round = 0; round < 2; round++) {
        struct rig r;
        rig_open(&r, true);
        ready(&r);
        set_readable(&r, true);
        struct buf *b = read_into(&r, 3);
        disk_done(&r, -EIO);
        assert_null(answer(&r, take_sent(&r).send.frame, get_filled(&r, 42)));
        assert_int_equal(r.completed, 1);
        assert_false(mirror_is_idle(r.mirror));
        assert_true(mirror_wants_log(r.mirror));
        if (round)
            DO(&r, mirror_fail_leg(r.mirror, &r.actions));
        else
            lost(&r);
        assert_int_equal(r.disk_count, 0);
        assert_true(mirror_is_idle(r.mirror));
        assert_false(mirror_wants_log(r.mirror));
        buf_put(b);
        assert_int_equal(r.pool.free_bytes, r.pool.arena_bytes);
        rig_close(&r);
    }
}

static void what_cannot_be_read_is_mended_for_nobody(void **state)
{
    struct rig r;
    int32_t result;
    struct range range = { 3 * GRANULE, GRANULE };
    rig_open(&r, true);
    ready(&r);
    set_readable(&r, true);
    assert_false(mirror_mend_over(r.mirror, &result));
    bool begun;
    DO(&r, begun = mirror_mend(r.mirror, range, &r.actions));
    assert_true(begun);
    assert_false(mirror_mend(r.mirror, range, &r.actions)); /* one at a time */
    assert_false(mirror_mend_over(r.mirror, &result));
    disk_done(&r, 0);
    assert_true(mirror_mend_over(r.mirror, &result));
    assert_int_equal(result, 0);
    assert_false(mirror_mend_over(r.mirror, &result));

    DO(&r, assert_true(mirror_mend(r.mirror, range, &r.actions)));
    disk_done(&r, -EIO);
    assert_null(answer(&r, take_sent(&r).send.frame, get_filled(&r, 42)));
    assert_true(commit(&r));
    assert_int_equal(r.disk[0].disk.kind, OP_WRITE);
    assert_false(mirror_mend_over(r.mirror, &result));
    disk_done(&r, 0);
    assert_true(mirror_mend_over(r.mirror, &result));
    assert_int_equal(result, 0);

    /* The peer cannot read it, either; what it has may be something else; what it sent cannot be written. */
    for (unsigned round = 0; round < 3; round++) {
        if (round == 1)
            bitmap_set(r.bitmap, range);
        DO(&r, assert_true(mirror_mend(r.mirror, range, &r.actions)));
        disk_done(&r, -EBADMSG);
        if (round == 0) {
            assert_null(answer(&r, (struct frame) { .tag = take_sent(&r).send.frame.tag, .status = EIO }, NULL));
        } else if (round == 2) {
            assert_null(answer(&r, take_sent(&r).send.frame, get_filled(&r, 42)));
            disk_done(&r, -EIO);
        }
        assert_int_equal(r.sent_count, 0);
        assert_true(mirror_mend_over(r.mirror, &result));
        assert_int_equal(result, round == 2 ? -EIO : -EBADMSG);
        bitmap_clear(r.bitmap, (struct range) { 0, bitmap_size_bytes(r.bitmap) });
    }
    struct mirror_view view;
    mirror_view(r.mirror, &view);
    assert_int_equal(view.reads_masked, 0);
    assert_int_equal(r.completed, 0);
    assert_true(mirror_is_idle(r.mirror));
    assert_int_equal(r.pool.free_bytes, r.pool.arena_bytes);
    rig_close(&r);
}

static void a_read_error_stands_where_the_peer_cannot_help(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    struct buf *b = read_into(&r, 0);
    disk_done(&r, -EIO); /* not known to be up to date */
    assert_int_equal(r.completed, 1);
    assert_int_equal(r.result, -EIO);
    buf_put(b);

    set_readable(&r, true);
    bitmap_set(r.bitmap, (struct range) { 0, GRANULE });
    b = read_into(&r, 0);
    disk_done(&r, -EIO); /* the peer may have something else there */
    assert_int_equal(r.completed, 2);
    buf_put(b);

    b = read_into(&r, 1);
    disk_done(&r, -EBADMSG);
    assert_null(answer(&r, (struct frame) { .tag = take_sent(&r).send.frame.tag, .status = EIO }, NULL));
    assert_int_equal(r.completed, 3);
    assert_int_equal(r.result, -EBADMSG);
    buf_put(b);

    b = read_into(&r, 1);
    disk_done(&r, -EBADMSG);
    assert_int_equal(r.completed, 3);
    lost(&r);
    assert_int_equal(r.completed, 4);
    assert_int_equal(r.result, -EBADMSG);
    buf_put(b);
    assert_true(mirror_is_idle(r.mirror));
    rig_close(&r);
}

/* A path that fails over while a bad spot is read is no error of the application's. */
static void a_read_that_the_leg_cannot_give_waits_for_the_peer(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    set_readable(&r, true);
    set_replaceable(&r, true);
    struct buf *asked = read_into(&r, 1);
    disk_done(&r, -EIO);
    assert_int_equal(take_sent(&r).send.frame.kind, FRAME_READ);
    struct buf *late = read_into(&r, 2);
    lost(&r);
    disk_done(&r, -EIO);
    assert_int_equal(r.completed, 0);
    struct mirror_view view;
    mirror_view(r.mirror, &view);
    assert_int_equal(view.reads_waiting, 2);
    ready(&r);
    assert_int_equal(r.sent_count, 0); /* it is there; whether it has everything is not known yet */
    set_readable(&r, true);
    for (unsigned i = 1; i <= 2; i++) {
        struct frame ask = take_sent(&r).send.frame;
        assert_int_equal(ask.offset_bytes, i * GRANULE);
        assert_null(answer(&r, ask, get_filled(&r, (uint8_t)(6 + i))));
    }
    assert_int_equal(r.completed, 2);
    assert_int_equal(r.result, 0);
    assert_true(asked->data[0] == 7 && late->data[0] == 8);
    commit(&r);
    while (r.disk_count)
        disk_done(&r, 0);
    buf_put(asked);
    buf_put(late);

    /* A peer that will not stand in for this leg is waited for no longer. */
    late = read_into(&r, 3);
    lost(&r);
    disk_done(&r, -EBADMSG);
    assert_int_equal(r.completed, 2);
    set_replaceable(&r, false);
    assert_int_equal(r.completed, 3);
    assert_int_equal(r.result, -EBADMSG);
    buf_put(late);

    late = read_into(&r, 3);
    disk_done(&r, -EBADMSG);
    assert_int_equal(r.completed, 4);
    buf_put(late);
    assert_true(mirror_is_idle(r.mirror));
    rig_close(&r);
}

/* A node that steps down shows nothing any more: a read that ends gives its range to a change, which ends, too, and
 * gives it to another read. */
static void no_read_reaches_the_disk_when_all_fail(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    set_readable(&r, true);
    set_replaceable(&r, true);
    struct buf *first = read_into(&r, 1);
    lost(&r);
    disk_done(&r, -EIO);
    request(&r, OP_DISCARD, 0, 1);
    struct buf *second = read_into(&r, 1);
    assert_int_equal(r.completed + r.disk_count, 0);
    DO(&r, mirror_fail_all(r.mirror, -EIO, &r.actions));
    assert_int_equal(r.disk_count, 0);
    assert_int_equal(r.completed, 3);
    assert_int_equal(r.result, -EIO);
    buf_put(first);
    buf_put(second);
    assert_true(mirror_is_idle(r.mirror));
    rig_close(&r);
}

static void answers_nobody_asked_for_are_refused(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    set_readable(&r, true);
    struct frame f = { .tag = MIRROR_READS_MAX };
    assert_non_null(answer(&r, f, get_filled(&r, 1)));
    f.tag = UINT32_MAX;
    assert_non_null(answer(&r, f, get_filled(&r, 1)));
    f.tag = 0;
    assert_non_null(answer(&r, f, get_filled(&r, 1)));
    struct buf *b = read_into(&r, 2);
    assert_non_null(answer(&r, f, get_filled(&r, 1))); /* it is with the local disk */
    disk_done(&r, -EIO);
    f = take_sent(&r).send.frame;
    f.offset_bytes = 0;
    assert_non_null(answer(&r, f, get_filled(&r, 1)));
    f.offset_bytes = 2 * GRANULE;
    f.status = EIO;
    assert_null(answer(&r, f, NULL));
    assert_non_null(answer(&r, f, NULL)); /* once */
    assert_int_equal(b->data[0], 0);
    buf_put(b);
    assert_int_equal(r.pool.free_bytes, r.pool.arena_bytes);
    rig_close(&r);
}

/* ---- Diskless ---- */

static void a_failed_leg_is_replaced_by_the_peers_when_that_is_decided(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    set_readable(&r, true);
    set_replaceable(&r, true);
    request(&r, OP_DISCARD, 0, 0);
    commit(&r);
    request(&r, OP_DISCARD, 0, 1);
    request(&r, OP_DISCARD, 0, 8);                      /* cold */
    request(&r, OP_WRITE_ZEROES, OP_FLAG_FAST_ONLY, 2); /* asks the local disk first */
    disk_done(&r, -EIO);
    assert_true(mirror_take_faults(r.mirror).leg);
    ack(&r);
    request(&r, OP_FLUSH, 0, 0);
    disk_done(&r, 0);
    ack(&r);
    disk_done(&r, -EIO);
    assert_int_equal(r.completed, 0); /* neither the failed one, nor what both legs have */
    assert_int_equal(r.sent_count + r.disk_count, 0);

    DO(&r, mirror_set_local(r.mirror, false, &r.actions));
    assert_int_equal(r.completed, 2);
    assert_int_equal(r.disk_count, 0);
    assert_int_equal(r.sent_count, 3); /* the zeroes, the cold one, the flush */
    while (r.sent_count)
        ack(&r);
    assert_int_equal(r.completed, 5);
    assert_int_equal(r.result, 0);
    assert_int_equal(bitmap_dirty_bytes(r.bitmap), 0); /* the leg is out: there is nothing to compare */

    /* From now on the peer's leg is the only one, for reads as well. */
    request(&r, OP_DISCARD, 0, 3);
    struct buf *b = read_into(&r, 4);
    assert_int_equal(r.disk_count, 0);
    ack(&r);
    assert_int_equal(r.completed, 6);
    struct frame ask = r.sent[0].send.frame;
    assert_int_equal(ask.kind, FRAME_READ);
    lost(&r);
    assert_int_equal(r.completed, 6); /* waits, like a change */
    ready(&r);
    ask = take_sent(&r).send.frame;
    assert_null(answer(&r, ask, get_filled(&r, 7)));
    assert_int_equal(r.completed, 7);
    assert_int_equal(b->data[0], 7);
    assert_int_equal(r.disk_count, 0); /* nothing to repair */
    buf_put(b);
    b = read_into(&r, 4);
    lost(&r);
    DO(&r, mirror_abandon_waiting(r.mirror, -EIO, &r.actions));
    assert_int_equal(r.completed, 8);
    assert_int_equal(r.result, -EIO);
    buf_put(b);
    assert_true(mirror_is_idle(r.mirror));
    rig_close(&r);
}

static void undecided_changes_wait_until_the_peer_cannot_stand_in(void **state)
{
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    set_readable(&r, true);
    set_replaceable(&r, true);
    request(&r, OP_DISCARD, 0, 0);
    commit(&r);
    request(&r, OP_DISCARD, 0, 1);
    disk_done(&r, -EIO);
    disk_done(&r, 0);
    ack(&r);
    ack(&r);
    request(&r, OP_DISCARD, 0, 0);
    request(&r, OP_DISCARD, 0, 2);
    struct buf *b = read_into(&r, 4);
    assert_int_equal(r.completed, 0);
    lost(&r);
    disk_done(&r, -EIO); /* the read: what the own leg cannot read, the peer may */
    assert_int_equal(r.completed, 0);
    assert_int_equal(r.disk_count + r.sent_count, 0);
    struct mirror_view view;
    mirror_view(r.mirror, &view);
    assert_true(view.undecided && view.reads_waiting == 1);
    set_replaceable(&r, false);
    assert_int_equal(r.completed, 5);
    assert_int_equal(r.result, -EIO);
    assert_int_equal(r.disk_count + r.sent_count, 0);
    assert_true(bit(&r, 0) && !bit(&r, 2));
    assert_true(mirror_is_idle(r.mirror));
    buf_put(b);
    rig_close(&r);
}

/* A disk that fails a flush may drop what it had not written. What was acknowledged, the peer has: a read shows that,
 * or waits. */
static void after_a_failed_flush_reads_are_the_peers(void **state)
{
    for (int stands_in = 0; stands_in < 2; stands_in++) {
        struct rig r;
        rig_open(&r, true);
        ready(&r);
        set_readable(&r, true);
        set_replaceable(&r, true);
        struct buf *early = read_into(&r, 4), *late = read_into(&r, 5);
        request(&r, OP_FLUSH, 0, 0);
        disk_done_at(&r, 2, -EIO);
        set_readable(&r, false);
        disk_done(&r, 0); /* the early one: the answer may be older than the failure, or not */
        lost(&r);
        struct buf *next = read_into(&r, 6);
        assert_int_equal(r.completed, 0);
        assert_int_equal(r.disk_count, 1);
        if (stands_in) {
            DO(&r, mirror_set_local(r.mirror, false, &r.actions));
            ready(&r);
            disk_done(&r, 0);
            assert_int_equal(r.completed, 0);
            for (unsigned i = 0; i < 3; i++) {
                struct action ask = take_sent(&r);
                while (ask.send.frame.kind != FRAME_READ)
                    ask = take_sent(&r);
                assert_null(answer(&r, ask.send.frame, get_filled(&r, 42)));
            }
            assert_int_equal(r.completed, 3);
            assert_int_equal(early->data[0] + late->data[0] + next->data[0], 3 * 42);
        } else { /* nobody has anything better */
            set_replaceable(&r, false);
            assert_int_equal(r.completed, 1);
            assert_int_equal(r.result, -EIO); /* the flush */
            assert_int_equal(r.disk_count, 3);
            while (r.disk_count)
                disk_done(&r, 0);
            assert_int_equal(r.completed, 4);
            assert_int_equal(r.result, 0);
            assert_true(mirror_is_idle(r.mirror));
        }
        buf_put(early);
        buf_put(late);
        buf_put(next);
        forget_sent(&r);
        rig_close(&r);
    }
}

/* The leg was out already, as a write had failed: a read that was given to its disk before that comes after the flush.
 */
static void a_flush_that_fails_when_the_leg_is_out_takes_its_reads_along(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, true);
    ready(&r);
    set_replaceable(&r, true);
    struct buf *early = read_into(&r, 4);
    request(&r, OP_FLUSH, 0, 0);
    lost(&r);
    DO(&r, mirror_set_local(r.mirror, false, &r.actions));
    mirror_take_faults(r.mirror);
    ready(&r);
    forget_sent(&r);
    disk_done_at(&r, 1, -EIO);
    struct mirror_faults faults = mirror_take_faults(r.mirror);
    assert_true(faults.leg && faults.flush);
    disk_done(&r, 0);
    assert_int_equal(r.completed, 0);
    struct action ask = take_sent(&r);
    assert_int_equal(ask.send.frame.kind, FRAME_READ);
    assert_null(answer(&r, ask.send.frame, get_filled(&r, 42)));
    assert_int_equal(r.completed, 1);
    assert_int_equal(early->data[0], 42);
    buf_put(early);
    forget_sent(&r);
    rig_close(&r);
}

/* ---- Reads for the peer ---- */

static const char *peer_read(struct rig *r, uint64_t offset, uint64_t length, uint32_t tag)
{
    struct frame frame = { .kind = FRAME_READ, .offset_bytes = offset, .length_bytes = length, .tag = tag };
    const char *wrong;
    DO(r, wrong = mirror_peer_read(r->mirror, &frame, &r->actions));
    return wrong;
}

static void the_peers_reads_are_answered(void **state)
{
    struct rig r;
    rig_open(&r, false);
    ready(&r);
    assert_non_null(peer_read(&r, VOLUME_BYTES, GRANULE, 0));
    assert_non_null(peer_read(&r, UINT64_MAX - 511, GRANULE, 0));
    assert_non_null(peer_read(&r, 0, 0, 0));
    assert_non_null(peer_read(&r, 0, 2 * IO_BYTES_MAX, 0));
    assert_true(mirror_is_idle(r.mirror));

    /* Behind a change that is with the disk. */
    struct frame write = { .kind = FRAME_DISCARD, .length_bytes = GRANULE, .lsn = 1 };
    DO(&r, mirror_peer_change(r.mirror, &write, NULL, &r.actions));
    assert_null(peer_read(&r, 0, GRANULE, 77));
    assert_int_equal(r.disk_count, 1);
    disk_done(&r, 0);
    assert_int_equal(r.disk[0].disk.kind, OP_READ);
    memset(r.disk[0].disk.buf->data, 9, GRANULE);
    assert_false(mirror_is_idle(r.mirror));
    disk_done(&r, 0);
    take_sent(&r); /* the acknowledgement */
    struct action data = take_sent(&r);
    assert_int_equal(data.send.frame.kind, FRAME_READ_DATA);
    assert_int_equal(data.send.frame.tag, 77);
    assert_int_equal(data.send.frame.payload_bytes, GRANULE);
    assert_int_equal(data.send.payload->data[0], 9);
    buf_put(data.send.payload);
    assert_int_equal(r.pool.free_bytes, r.pool.arena_bytes);

    assert_null(peer_read(&r, 0, GRANULE, 78));
    disk_done(&r, -EIO);
    data = take_sent(&r);
    assert_int_equal(data.send.frame.status, EIO);
    assert_int_equal(data.send.frame.payload_bytes, 0);
    assert_false(mirror_has_faults(r.mirror));

    /* Of a session that has ended: no answer. */
    assert_null(peer_read(&r, 0, GRANULE, 79));
    lost(&r);
    disk_done(&r, 0);
    assert_int_equal(r.sent_count, 0);
    assert_true(mirror_is_idle(r.mirror));
    rig_close(&r);
}

static void the_peers_reads_take_bounded_memory(void **state)
{
    struct rig r;
    rig_open(&r, false);
    ready(&r);
    for (uint32_t i = 0; i < MIRROR_PEER_READS_MAX; i++)
        assert_null(peer_read(&r, (i % GRANULES) * GRANULE, GRANULE, i));
    assert_non_null(peer_read(&r, 0, GRANULE, 0)); /* more than there can be */
    assert_int_equal(r.disk_count, MIRROR_PEER_READS_READING_MAX);
    assert_int_equal(r.pool.free_bytes, r.pool.arena_bytes - MIRROR_PEER_READS_READING_MAX * GRANULE);
    for (uint32_t i = 0; i < MIRROR_PEER_READS_MAX; i++) {
        disk_done(&r, 0);
        struct action data = take_sent(&r);
        assert_int_equal(data.send.frame.tag, i);
        buf_put(data.send.payload);
    }
    assert_true(mirror_is_idle(r.mirror));

    /* None is free: it waits until one comes back. */
    struct buf *all[4];
    for (unsigned i = 0; i < 4; i++)
        assert_non_null(all[i] = buf_get(&r.pool, MIB, 0));
    assert_null(peer_read(&r, 0, GRANULE, 1));
    assert_null(peer_read(&r, 0, GRANULE, 2));
    assert_int_equal(r.disk_count, 0);
    assert_true(mirror_wants_memory(r.mirror));
    for (unsigned i = 0; i < 4; i++)
        buf_put(all[i]);
    DO(&r, mirror_memory_came_back(r.mirror, &r.actions));
    assert_int_equal(r.disk_count, 2);
    assert_false(mirror_wants_memory(r.mirror));
    rig_close(&r);
}

/* A disk that is slow with the reads of the last session: all those of the next one find room, and are answered. */
static void the_peers_reads_find_room_beside_leftovers(void **state)
{
    struct rig r;
    rig_open(&r, false);
    ready(&r);
    for (uint32_t i = 0; i < MIRROR_READS_MAX; i++)
        assert_null(peer_read(&r, 0, GRANULE, i));
    lost(&r);
    assert_int_equal(r.disk_count, MIRROR_PEER_READS_READING_MAX);
    ready(&r);
    for (uint32_t i = 0; i < MIRROR_READS_MAX; i++)
        assert_null(peer_read(&r, 0, GRANULE, i));
    assert_int_equal(r.disk_count, MIRROR_PEER_READS_READING_MAX);
    for (uint32_t i = 0; i < MIRROR_PEER_READS_READING_MAX; i++)
        disk_done(&r, 0);
    assert_int_equal(r.sent_count, 0);
    for (uint32_t i = 0; i < MIRROR_READS_MAX; i++) {
        disk_done(&r, 0);
        struct action data = take_sent(&r);
        assert_int_equal(data.send.frame.tag, i);
        buf_put(data.send.payload);
    }
    assert_true(mirror_is_idle(r.mirror));
    rig_close(&r);
}

/* ---- Chance ----
 *
 * A primary's mirror and a secondary's, their disks with what is volatile and what is stable on each, and a link. What
 * an engine would do, chance does: commits, own flushes, going alone, a resync. At every moment:
 * - for each granule whose four images are not all the same, a crash of everything finds it: its extent is in the
 *   activity log on disk, or its bit is on disk, too;
 * - while all live, where the legs differ there is a change in flight, or the bit is set;
 * - what is completed is on both legs, or the bit is set; what is flushed is stable there. */

#define REQUESTS_MAX 24
#define POISON (UINT64_MAX - 1) /* what nobody writes */
#define UNKNOWN UINT64_MAX      /* a change that failed may be there, or not */

typedef uint64_t image[GRANULES];

struct world_request {
    bool busy;
    struct request request;
    image before; /* a flush: what was completed when it came */
};

struct world_disk {
    image now, stable;
    image flushing[QUEUE]; /* by op, modulo: what a flush has to make stable */
};

struct world {
    struct rig a, b;
    struct prng prng;
    struct world_disk disk_a, disk_b;
    image completed; /* that the application knows of */
    bool bit_on_disk[GRANULES];
    bool commit_busy;
    bool connected, lost_power;
    enum { IN_SYNC, WAITING, ALONE, RESYNC } state;
    bool decided; /* diskless */
    bool failing; /* one local write is to fail */
    uint64_t version;
    struct world_request requests[REQUESTS_MAX];
    uint64_t counts[8];
};

static struct world world;

static uint64_t below(uint64_t bound) { return prng_below(&world.prng, bound); }

static unsigned first_of(const struct request *q) { return (unsigned)(q->offset_bytes / GRANULE); }
static unsigned end_of(const struct request *q) { return (unsigned)((q->offset_bytes + q->length_bytes) / GRANULE); }

static uint64_t *cell(struct buf *b, unsigned i) { return (uint64_t *)(void *)(b->data + (size_t)i * GRANULE); }

static void complete_in_world(struct rig *r, void *cookie, int32_t result)
{
    struct world *w = &world;
    struct world_request *q = cookie;
    assert_true(q->busy);
    q->busy = false;
    const struct request *request = &q->request;
    bool undecided = !w->decided && mirror_has_faults(r->mirror);
    /* Nothing is said to be done from a leg's failure until it has left the set; but reads and errors are. */
    if (undecided && request->kind != OP_READ)
        assert_int_not_equal(result, 0);
    bool lost = w->lost_power && w->state == WAITING; /* it had acknowledged it, and lost it since */
    for (unsigned g = first_of(request); g < end_of(request); g++) {
        if (request->kind == OP_READ) {
            if (!result && w->completed[g] != UNKNOWN)
                assert_true(*cell(request->buf, g - first_of(request)) == w->completed[g]);
            continue;
        }
        if (result) {
            w->completed[g] = result == -EOPNOTSUPP ? w->completed[g] : UNKNOWN;
            continue;
        }
        uint64_t version = request->kind == OP_WRITE ? *cell(request->buf, g - first_of(request)) : 0;
        w->completed[g] = version;
        if (w->decided) {
            assert_true(w->disk_b.now[g] == version);
            continue;
        }
        assert_true(w->disk_a.now[g] == version);
        assert_true(w->disk_b.now[g] == version || bit(&w->a, g) || lost);
        if (request->flags & OP_FLAG_FUA)
            assert_true(w->disk_a.stable[g] == version && (w->disk_b.stable[g] == version || bit(&w->a, g)));
    }
    for (unsigned g = 0; g < GRANULES && request->kind == OP_FLUSH && !result; g++) {
        /* Zeroes may have come and gone meanwhile; versions are never the same twice. */
        if (!q->before[g] || w->completed[g] != q->before[g])
            continue;
        if (!w->decided && w->disk_a.now[g] == q->before[g])
            assert_true(w->disk_a.stable[g] == q->before[g]);
        bool on_b = w->decided || !bit(&w->a, g);
        if (on_b && w->disk_b.now[g] == q->before[g])
            assert_true(w->disk_b.stable[g] == q->before[g]);
    }
    if (request->buf)
        buf_put(request->buf);
    w->counts[0]++;
}

static void disk_begin(struct rig *r, const struct action *a)
{
    struct world_disk *d = r == &world.a ? &world.disk_a : &world.disk_b;
    if (r == &world.a && !world.decided && a->disk.kind != OP_READ && a->disk.kind != OP_FLUSH && world.state == ALONE)
        for (unsigned g = (unsigned)(a->disk.offset_bytes / GRANULE);
             g < (a->disk.offset_bytes + a->disk.length_bytes) / GRANULE; g++)
            assert_true(bit(r, g));
    if (a->disk.kind == OP_FLUSH)
        memcpy(d->flushing[a->disk.op % QUEUE], d->now, sizeof(d->now));
}

/* A random request that the disk has ends. */
static void disk_end(struct rig *r, bool may_fail)
{
    struct world *w = &world;
    struct world_disk *d = r == &w->a ? &w->disk_a : &w->disk_b;
    if (!r->disk_count)
        return;
    unsigned i = (unsigned)below(r->disk_count);
    const struct action a = r->disk[i];
    unsigned first = (unsigned)(a.disk.offset_bytes / GRANULE);
    unsigned count = (unsigned)(a.disk.length_bytes / GRANULE);
    int32_t result = 0;
    if (may_fail && a.disk.kind == OP_READ && below(8) == 0)
        result = -EIO;
    bool change_of_a = r == &w->a && a.disk.kind != OP_READ && w->state == IN_SYNC && a.disk.op < MIRROR_CHANGES_MAX;
    if (may_fail && w->failing && change_of_a && below(30) == 0)
        result = -EIO;
    if (a.disk.kind == OP_WRITE_ZEROES && (a.disk.flags & OP_FLAG_FAST_ONLY) && below(2))
        result = -EOPNOTSUPP;
    for (unsigned g = first; g < first + count && !result; g++) {
        if (a.disk.kind == OP_READ) {
            *cell(a.disk.buf, g - first) = d->now[g];
            continue;
        }
        d->now[g] = a.disk.kind == OP_WRITE ? *cell(a.disk.buf, g - first) : 0;
        if (a.disk.flags & OP_FLAG_FUA)
            d->stable[g] = d->now[g];
    }
    for (unsigned g = 0; g < GRANULES && a.disk.kind == OP_FLUSH && !result; g++)
        if (d->flushing[a.disk.op % QUEUE][g] == d->now[g] || below(2))
            d->stable[g] = d->now[g];
    disk_done_at(r, i, result);
}

/* The bitmap's pages as they are now reach the disk. */
static void write_bitmap(void)
{
    struct world *w = &world;
    static uint8_t block[BITMAP_PAGE_BYTES];
    for (uint64_t page; (page = bitmap_next_stale(w->a.bitmap, 0)) != BITMAP_NONE;) {
        bitmap_page_encode(w->a.bitmap, page, block);
        bitmap_page_written(w->a.bitmap, page, true);
    }
    for (unsigned g = 0; g < GRANULES; g++)
        w->bit_on_disk[g] = bit(&w->a, g);
}

static bool in_flight(unsigned g)
{
    for (unsigned i = 0; i < REQUESTS_MAX; i++) {
        const struct world_request *q = &world.requests[i];
        if (q->busy && q->request.kind != OP_READ && first_of(&q->request) <= g && g < end_of(&q->request))
            return true;
    }
    return false;
}

static void check_world(void)
{
    struct world *w = &world;
    if (w->decided || mirror_has_faults(w->a.mirror))
        return;
    for (unsigned g = 0; g < GRANULES; g++) {
        uint64_t v = w->disk_a.now[g];
        bool all_equal = w->disk_a.stable[g] == v && w->disk_b.now[g] == v && w->disk_b.stable[g] == v;
        bool logged = al_covers(w->a.al, (struct range) { g * GRANULE, GRANULE });
        if (!all_equal && !logged && !w->bit_on_disk[g])
            fail_msg("granule %u: images differ, and a crash would not find it", g);
        /* What a peer that is away has lost with its power is known when it is back, or not waited for. */
        bool known = in_flight(g) || bit(&w->a, g) || (w->lost_power && w->state == WAITING);
        if (w->disk_b.now[g] != v && !known)
            fail_msg("granule %u: the legs differ, and nobody knows", g);
    }
}

static void request_in_world(void)
{
    struct world *w = &world;
    struct world_request *q = NULL;
    for (unsigned i = 0; i < REQUESTS_MAX && !q; i++)
        q = w->requests[i].busy ? NULL : &w->requests[i];
    static const enum op_kind kinds[] = { OP_WRITE, OP_WRITE,   OP_WRITE,        OP_READ,
                                          OP_READ,  OP_DISCARD, OP_WRITE_ZEROES, OP_FLUSH };
    if (!q)
        return;
    enum op_kind kind = kinds[below(ARRAY_LEN(kinds))];
    unsigned count = kind == OP_FLUSH ? 0 : 1 + (unsigned)below(4);
    unsigned first = kind == OP_FLUSH ? 0 : (unsigned)below(GRANULES - count);
    q->request = (struct request) {
        .kind = kind, .offset_bytes = first * GRANULE, .length_bytes = count * GRANULE, .cookie = q
    };
    if (kind == OP_WRITE_ZEROES && below(2))
        q->request.flags |= OP_FLAG_FAST_ONLY;
    if (kind != OP_READ && kind != OP_FLUSH && below(4) == 0)
        q->request.flags |= OP_FLAG_FUA;
    if (kind == OP_WRITE || kind == OP_READ) {
        q->request.buf = buf_get(&w->a.pool, count * GRANULE, 0);
        for (unsigned i = 0; i < count; i++)
            *cell(q->request.buf, i) = kind == OP_WRITE ? ++w->version : POISON;
    }
    memcpy(q->before, w->completed, sizeof(q->before));
    q->busy = true;
    DO(&w->a, mirror_request(w->a.mirror, &q->request, 1, &w->a.actions));
}

/* The oldest frame arrives. */
static void deliver_to_b(void)
{
    struct world *w = &world;
    if (!w->a.sent_count)
        return;
    struct action a = take_sent(&w->a);
    const char *wrong;
    if (a.send.frame.kind == FRAME_READ)
        wrong = mirror_peer_read(w->b.mirror, &a.send.frame, &w->b.actions);
    else
        wrong = mirror_peer_change(w->b.mirror, &a.send.frame, a.send.payload, &w->b.actions);
    assert_null(wrong);
    rig_take(&w->b);
}

static void deliver_to_a(void)
{
    struct world *w = &world;
    if (!w->b.sent_count)
        return;
    struct action a = take_sent(&w->b);
    const char *wrong;
    /* Received into memory of the receiver's: the sender may end before it is used. */
    struct buf *payload = NULL;
    if (a.send.payload) {
        payload = buf_get(&w->a.pool, a.send.frame.payload_bytes, 0);
        memcpy(payload->data, a.send.payload->data, a.send.frame.payload_bytes);
        buf_put(a.send.payload);
    }
    if (a.send.frame.kind == FRAME_READ_DATA)
        wrong = mirror_read_data(w->a.mirror, &a.send.frame, payload, &w->a.actions);
    else
        wrong = mirror_ack(w->a.mirror, &a.send.frame, &w->a.actions);
    assert_null(wrong);
    rig_take(&w->a);
}

static void commit_in_world(void)
{
    struct world *w = &world;
    if (w->commit_busy) {
        w->commit_busy = false;
        al_commit_done(w->a.al, true);
        DO(&w->a, mirror_log_committed(w->a.mirror, &w->a.actions));
        return;
    }
    if (!mirror_wants_log(w->a.mirror) || !al_commit_begin(w->a.al, &w->a.commit))
        return;
    w->commit_busy = true;
    w->counts[1] += w->a.commit.evicted_count;
    if (w->a.commit.evicted_count)
        write_bitmap();
}

static void disconnect(void)
{
    struct world *w = &world;
    if (!w->connected)
        return;
    w->connected = false;
    forget_sent(&w->b);
    lost(&w->a);
    DO(&w->b, mirror_peer_lost(w->b.mirror, &w->b.actions));
    if (w->state == RESYNC) {
        /* The decree has not changed: it is still the only one in sync. */
        w->state = ALONE;
        DO(&w->a, mirror_go_alone(w->a.mirror, &w->a.actions));
    } else if (w->state == IN_SYNC) {
        w->state = WAITING;
    }
    if (below(2))
        return;
    /* It loses its power: what was with its disk has happened, or not. */
    w->lost_power = true;
    w->counts[2]++;
    while (w->b.disk_count && below(2))
        disk_end(&w->b, false);
    rig_close(&w->b);
    rig_open(&w->b, false);
    w->b.on_disk = disk_begin;
    for (unsigned g = 0; g < GRANULES; g++) {
        if (below(4) == 0)
            w->disk_b.stable[g] = w->disk_b.now[g];
        /* Where there is no other leg, what was not flushed is gone. */
        if (w->decided && w->disk_b.stable[g] != w->disk_b.now[g])
            w->completed[g] = UNKNOWN;
        w->disk_b.now[g] = w->disk_b.stable[g];
    }
}

static void reconnect(void)
{
    struct world *w = &world;
    if (w->connected)
        return;
    w->connected = true;
    if (w->lost_power && !w->decided)
        mirror_unflushed_to_bitmap(w->a.mirror);
    w->lost_power = false;
    bool clean = w->state == WAITING && bitmap_dirty_bytes(w->a.bitmap) == 0;
    w->state = clean || w->decided ? IN_SYNC : RESYNC;
    ready(&w->b);
    ready(&w->a);
    if (w->state == IN_SYNC)
        set_readable(&w->a, true);
    set_replaceable(&w->a, w->state == IN_SYNC);
}

static void go_alone(void)
{
    struct world *w = &world;
    if (w->connected || w->state != WAITING || w->decided)
        return;
    set_replaceable(&w->a, false);
    DO(&w->a, mirror_go_alone(w->a.mirror, &w->a.actions));
    w->state = ALONE;
    w->counts[3]++;
}

static bool disk_is_at(const struct rig *r, unsigned g)
{
    for (unsigned i = 0; i < r->disk_count; i++)
        if (r->disk[i].disk.offset_bytes / GRANULE <= g &&
            g < (r->disk[i].disk.offset_bytes + r->disk[i].disk.length_bytes) / GRANULE)
            return true;
    return false;
}

/* In place of a resync: copies a granule that nobody is at, to the peer's stable storage. */
static void resync(void)
{
    struct world *w = &world;
    unsigned g = (unsigned)below(GRANULES);
    if (w->state != RESYNC)
        return;
    if (bitmap_dirty_bytes(w->a.bitmap) == 0) {
        w->state = IN_SYNC;
        set_readable(&w->a, true);
        set_replaceable(&w->a, true);
        w->counts[4]++;
    } else if (bit(&w->a, g) && !in_flight(g) && !disk_is_at(&w->b, g)) {
        w->disk_b.now[g] = w->disk_b.stable[g] = w->disk_a.now[g];
        bitmap_clear(w->a.bitmap, (struct range) { g * GRANULE, GRANULE });
    }
}

static void world_step(void)
{
    struct world *w = &world;
    switch (below(16)) {
    case 0:
    case 1:
    case 2: request_in_world(); break;
    case 3:
    case 4:
    case 5: disk_end(&w->a, true); break;
    case 6:
    case 7: disk_end(&w->b, false); break;
    case 8:
    case 9: deliver_to_b(); break;
    case 10:
    case 11: deliver_to_a(); break;
    case 12: commit_in_world(); break;
    case 13:
        if (mirror_wants_flush(w->a.mirror) || below(30) == 0)
            DO(&w->a, mirror_flush(w->a.mirror, 1, &w->a.actions));
        break;
    case 14:
        for (unsigned i = 0; i < 16; i++)
            resync();
        break;
    case 15:
        if (below(w->state == IN_SYNC ? 8 : 40) == 0)
            disconnect();
        else if (below(6) == 0)
            go_alone();
        else if (below(12) == 0)
            reconnect();
        break;
    }
    /* The engine's decree that the own leg is out. */
    if (!w->decided && mirror_has_faults(w->a.mirror) && w->connected && below(10) == 0) {
        w->decided = true;
        w->counts[5]++;
        (void)mirror_take_faults(w->a.mirror);
        DO(&w->a, mirror_set_local(w->a.mirror, false, &w->a.actions));
    }
}

static void world_run(uint64_t seed, bool failing)
{
    struct world *w = &world;
    memset(w, 0, sizeof(*w));
    w->prng = prng_seed(seed);
    w->failing = failing;
    rig_open(&w->a, true);
    rig_open(&w->b, false);
    w->a.on_complete = complete_in_world;
    w->a.on_disk = w->b.on_disk = disk_begin;
    w->state = WAITING;
    reconnect();
    bool over = false;
    for (unsigned i = 0; i < 4000; i++) {
        world_step();
        check_world();
        if (mirror_has_faults(w->a.mirror) && !w->connected &&
            (w->lost_power || w->state != WAITING || below(100) == 0)) {
            /* Before it was decided: what was under way fails, and the node is of no use. */
            set_replaceable(&w->a, false);
            DO(&w->a, mirror_abandon_waiting(w->a.mirror, -EIO, &w->a.actions));
            over = true;
            break;
        }
    }
    /* Everything ends, when all that it waits for comes. */
    for (unsigned i = 0; i < 20000 && !mirror_is_idle(w->a.mirror); i++) {
        if (!over)
            reconnect();
        disk_end(&w->a, false);
        disk_end(&w->b, false);
        deliver_to_b();
        deliver_to_a();
        commit_in_world();
        if (mirror_wants_flush(w->a.mirror))
            DO(&w->a, mirror_flush(w->a.mirror, 1, &w->a.actions));
        if (mirror_has_faults(w->a.mirror) && w->connected) {
            w->decided = true;
            (void)mirror_take_faults(w->a.mirror);
            DO(&w->a, mirror_set_local(w->a.mirror, false, &w->a.actions));
        }
        check_world();
    }
    assert_true(mirror_is_idle(w->a.mirror));
    struct mirror_view view;
    mirror_view(w->a.mirror, &view);
    w->counts[6] += view.reads_masked;
    for (unsigned i = 0; i < REQUESTS_MAX; i++)
        assert_false(w->requests[i].busy);
    forget_sent(&w->a);
    forget_sent(&w->b);
    rig_close(&w->a);
    rig_close(&w->b);
}

static void chance(bool failing, uint64_t first_seed, unsigned rounds)
{
    uint64_t sums[8] = { 0 };
    for (unsigned i = 0; i < rounds; i++) {
        world_run(first_seed + i, failing);
        for (unsigned k = 0; k < ARRAY_LEN(sums); k++)
            sums[k] += world.counts[k];
    }
    print_message("completed %llu, evicted %llu, power losses %llu, alone %llu, in sync again %llu, diskless %llu, "
                  "reads masked %llu\n",
                  (unsigned long long)sums[0], (unsigned long long)sums[1], (unsigned long long)sums[2],
                  (unsigned long long)sums[3], (unsigned long long)sums[4], (unsigned long long)sums[5],
                  (unsigned long long)sums[6]);
    assert_true(sums[0] && sums[1] && sums[2] && sums[3] && sums[4] && sums[6]);
    assert_true(!failing || sums[5]);
}

static void nothing_differs_that_nobody_knows_of(void **state) { chance(false, 1, 150); }

static void a_leg_that_fails_loses_nothing_that_was_completed(void **state) { chance(true, 1000, 150); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cold_changes_wait_for_the_log_and_hot_ones_do_not),
        cmocka_unit_test(a_commit_that_fails_lets_nothing_reach_a_leg),
        cmocka_unit_test(a_full_log_is_freed_by_an_own_flush),
        cmocka_unit_test(changes_that_wait_end_when_the_leg_fails),
        cmocka_unit_test(what_the_peer_may_lose_with_its_power_becomes_bits),
        cmocka_unit_test(a_full_set_makes_changes_wait_for_an_own_flush),
        cmocka_unit_test(an_own_flush_ends_with_its_session),
        cmocka_unit_test(alone_everything_that_the_peer_may_lack_is_marked),
        cmocka_unit_test(writes_given_up_are_marked),
        cmocka_unit_test(a_read_error_is_masked_and_repaired),
        cmocka_unit_test(a_repair_that_waits_is_given_up_with_the_peer_or_the_leg),
        cmocka_unit_test(what_cannot_be_read_is_mended_for_nobody),
        cmocka_unit_test(a_read_error_stands_where_the_peer_cannot_help),
        cmocka_unit_test(a_read_that_the_leg_cannot_give_waits_for_the_peer),
        cmocka_unit_test(no_read_reaches_the_disk_when_all_fail),
        cmocka_unit_test(answers_nobody_asked_for_are_refused),
        cmocka_unit_test(a_failed_leg_is_replaced_by_the_peers_when_that_is_decided),
        cmocka_unit_test(undecided_changes_wait_until_the_peer_cannot_stand_in),
        cmocka_unit_test(after_a_failed_flush_reads_are_the_peers),
        cmocka_unit_test(a_flush_that_fails_when_the_leg_is_out_takes_its_reads_along),
        cmocka_unit_test(the_peers_reads_are_answered),
        cmocka_unit_test(the_peers_reads_take_bounded_memory),
        cmocka_unit_test(the_peers_reads_find_room_beside_leftovers),
        cmocka_unit_test(nothing_differs_that_nobody_knows_of),
        cmocka_unit_test(a_leg_that_fails_loses_nothing_that_was_completed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
