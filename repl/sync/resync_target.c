/* The target of a resync. */
#include "repl/sync/resync_target.h"
#include "repl/base/resident.h"

#include <stdlib.h>
#include <string.h>

#include "repl/sync/pace.h"
#include "repl/sync/resync_internal.h"

#define FLUSH_AFTER_BYTES (16 * MIB)
#define FLUSH_AFTER_WINDOWS 32 /* where granules are few and far between */
static_assert(2 * FLUSH_AFTER_WINDOWS + SYNC_WINDOWS_MAX <= SYNC_UNSTABLE_WINDOWS_MAX,
              "asking goes on while both flush");

/* With a digest, a run is sent whole where one byte differs: short runs send less. Without, long ones cost less. */
#define DIGEST_RUN_BYTES (64 * KIB)

/* Of what was asked with digests lately, how much was equal: of 256, as a moving average. */
#define EQUAL_ALL 256
#define EQUAL_TOO_LITTLE (EQUAL_ALL / 8) /* below: reading for digests is not worth it */
#define EQUAL_AGAIN (EQUAL_ALL / 2)      /* a probe above: it is again */
#define PROBE_EVERY_WINDOWS 16

#define UNREADABLE_RETRY_NS (5 * NS_PER_S)
#define UNREADABLE_NOTES_MAX 16

#define OP_FLUSH_INDEX (SYNC_WINDOWS_MAX * SYNC_ENTRIES_MAX)

struct resync_target {
    struct resync_config config;
    enum resync_state state;
    struct digest_key key;
    bool reads_count; /* see resync_target_begin() */
    uint64_t now_ns;
    uint64_t deadline_ns;

    bool bits_over; /* all of the source's bits have come */
    bool busy;      /* the source says that application writes flow */

    uint64_t cursor_bytes; /* what is below was asked for in this pass */
    bool fine;             /* this pass asks granule by granule: something in a longer run could not be read */
    bool was_coarse;       /* an unreadable run was longer than a granule */
    bool told;             /* of what cannot be read */
    bool out_of_buffers;
    struct pace pace; /* of asking, equal or not: reading for digests takes the disk's time, too */
    bool paced;

    uint32_t asked;   /* the last number given */
    uint32_t over;    /* all up to this one are written */
    uint32_t flushed; /* all up to this one are on this leg's stable storage, and the source knows */
    uint32_t stable;  /* all up to this one are on the source's, too, and cleared */
    uint64_t unflushed_bytes;

    bool flushing;      /* a flush is with the disk, of this session or an earlier one */
    bool flush_is_ours; /* it is of this session */
    bool has_flushed;   /* in this session */
    uint32_t flush_to;

    uint32_t equal_share; /* of EQUAL_ALL */
    bool digests;
    uint32_t without_digest; /* windows since the last one with a digest */

    uint64_t total_bytes;
    uint64_t unreadable_bytes;
    uint64_t unreadable_offset_bytes; /* the last of them */
    uint64_t equal_bytes;
    uint64_t data_bytes;
    uint64_t zero_bytes;

    struct sync_record records[SYNC_UNSTABLE_WINDOWS_MAX];
    struct sync_window windows[SYNC_WINDOWS_MAX];
};

static struct sync_record *record_of(struct resync_target *t, uint32_t number)
{
    return &t->records[number % SYNC_UNSTABLE_WINDOWS_MAX];
}

static uint64_t done_bytes(const struct resync_target *t)
{
    return t->total_bytes - min_u64(t->total_bytes, bitmap_dirty_bytes(t->config.bitmap));
}

static bool is_under_way(const struct resync_target *t)
{
    return t->state == RESYNC_RUNNING || t->state == RESYNC_UNREADABLE;
}

struct resync_target *resync_target_open(const struct resync_config *config)
{
    assert(bitmap_granule_bytes(config->bitmap) <= RESYNC_GRANULE_BYTES_MAX);
    struct resync_target *t = resident_calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->config = *config;
    t->pace.bytes_per_s = config->bytes_per_s;
    t->deadline_ns = UINT64_MAX;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        window_open(&t->windows[i], config->locks, SYNC_TARGET_OP_FIRST + i * SYNC_ENTRIES_MAX);
    return t;
}

void resync_target_close(struct resync_target *t) { free(t); }

/* ---- The leg ---- */

static void fail(struct resync_target *t, struct actions *out)
{
    windows_stop(t->windows, out);
    t->flush_is_ours = false;
    t->deadline_ns = UINT64_MAX;
    t->state = RESYNC_FAILED;
}

static void disk_note(struct resync_target *t, const char *what, const struct sync_entry *e, int32_t result,
                      enum note_level level, struct actions *out)
{
    if (e)
        actions_note(out, level, "disk", "resync: %s failed on %s: %s, offset %llu, length %u", what, t->config.backing,
                     strerror(-result), (unsigned long long)e->offset_bytes, e->length_bytes);
    else
        actions_note(out, level, "disk", "resync: %s failed on %s: %s", what, t->config.backing, strerror(-result));
}

/* ---- Asking ---- */

static struct sync_window *free_window(struct resync_target *t)
{
    uint32_t in_use = 0;
    struct sync_window *w = NULL;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (t->windows[i].state == WINDOW_FREE)
            w = &t->windows[i];
        else if (t->windows[i].state != WINDOW_DRAINING)
            in_use++;
    }
    return in_use < (t->busy ? 1 : SYNC_WINDOWS_MAX) ? w : NULL;
}

static bool any_in_use(const struct resync_target *t)
{
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (t->windows[i].state != WINDOW_FREE && t->windows[i].state != WINDOW_DRAINING)
            return true;
    }
    return false;
}

/* Windows that will have a number before they are stable: those that read for their digests have none yet. */
static bool has_room_for_number(const struct resync_target *t)
{
    uint32_t unstable = t->asked - t->stable;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        unstable += t->windows[i].state == WINDOW_READING;
    return unstable < SYNC_UNSTABLE_WINDOWS_MAX;
}

/* Fills the window with the next set granules; the bytes of all. The bits stay set until it is stable: the cursor alone
 * keeps them from being asked for twice. */
static uint32_t window_gather(struct resync_target *t, struct sync_window *w, bool digests, uint64_t *end_bytes)
{
    const struct bitmap *b = t->config.bitmap;
    uint64_t granule = bitmap_granule_bytes(b);
    uint64_t window_max = t->config.window_bytes ? t->config.window_bytes : SYNC_WINDOW_BYTES_MAX;
    uint64_t run_max = t->fine ? granule : digests ? max_u64(DIGEST_RUN_BYTES, granule) : window_max;
    uint64_t total = 0, from = t->cursor_bytes;
    struct range run;
    w->count = 0;
    while (w->count < SYNC_ENTRIES_MAX && total + granule <= window_max) {
        if (!bitmap_next(b, from, min_u64(run_max, window_max - total), &run))
            break;
        struct sync_entry *e = &w->entries[w->count++];
        assert(e->state == ENTRY_IDLE);
        e->offset_bytes = run.offset_bytes;
        e->length_bytes = (uint32_t)run.length_bytes;
        e->buf_offset_bytes = (uint32_t)total;
        e->has_digest = digests;
        total += run.length_bytes;
        from = range_end(run);
    }
    *end_bytes = from;
    return (uint32_t)total;
}

static void window_ask(struct resync_target *t, struct sync_window *w, struct actions *out)
{
    w->number = ++t->asked;
    w->state = WINDOW_ASKED;
    struct sync_record *r = record_of(t, w->number);
    r->over = false;
    r->count = w->count;
    /* The digests are made: what was read for them makes room for the question. */
    struct sync_entry_wire *wire = (struct sync_entry_wire *)(void *)w->buf->data;
    for (uint32_t i = 0; i < w->count; i++) {
        const struct sync_entry *e = &w->entries[i];
        r->entries[i].offset_bytes = e->offset_bytes;
        r->entries[i].length_bytes = e->length_bytes;
        r->entries[i].stays = true;
        wire[i] = (struct sync_entry_wire) {
            .offset_bytes = to_le64(e->offset_bytes),
            .length_bytes = to_le32(e->length_bytes),
            .flags = to_le32(e->has_digest ? SYNC_ENTRY_DIGEST : 0),
            .digest = { to_le64(e->has_digest ? e->digest.low : 0), to_le64(e->has_digest ? e->digest.high : 0) },
        };
    }
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = w->buf;
    a->send.payload_is_given = true;
    w->buf = NULL;
    a->send.frame = (struct frame) {
        .kind = FRAME_SYNC_ASK,
        .payload_bytes = w->count * (uint32_t)sizeof(*wire),
        .lsn = done_bytes(t),
        .offset_bytes = t->total_bytes,
        .tag = w->number,
    };
}

/* Every run was read, or could not be: then its data is wanted in any case, and writing it may mend the disk. */
static void window_was_read(struct resync_target *t, struct sync_window *w, struct actions *out)
{
    bool noted = false;
    for (uint32_t i = 0; i < w->count; i++) {
        struct sync_entry *e = &w->entries[i];
        if (e->result == 0) {
            e->digest = digest128(&t->key, w->buf->data + e->buf_offset_bytes, e->length_bytes);
            continue;
        }
        e->has_digest = false;
        if (!noted)
            disk_note(t, "read", e, e->result, NOTE_WARNING, out);
        noted = true;
    }
    window_ask(t, w, out);
}

static bool wants_digests(struct resync_target *t)
{
    if (t->fine || !t->reads_count)
        return false;
    return t->digests || t->without_digest >= PROBE_EVERY_WINDOWS;
}

/* True: one more window is on its way. */
static bool open_window(struct resync_target *t, struct actions *out)
{
    struct sync_window *w = free_window(t);
    if (!w || !has_room_for_number(t))
        return false;
    if (!pace_allows(&t->pace, t->now_ns)) {
        t->paced = true;
        return false;
    }
    bool digests = wants_digests(t);
    uint64_t end_bytes;
    uint32_t total = window_gather(t, w, digests, &end_bytes);
    if (total == 0) {
        t->cursor_bytes = bitmap_size_bytes(t->config.bitmap);
        return false;
    }
    w->buf = buf_get(t->config.pool, digests ? total : SYNC_ENTRIES_MAX * sizeof(struct sync_entry_wire),
                     t->config.keep_free_bytes);
    if (!w->buf) {
        t->out_of_buffers = true;
        return false;
    }
    t->cursor_bytes = end_bytes;
    pace_take(&t->pace, total, t->now_ns);
    t->without_digest = digests ? 0 : t->without_digest + 1;
    if (!digests) {
        window_ask(t, w, out);
        return true;
    }
    w->state = WINDOW_READING;
    for (uint32_t i = 0; i < w->count; i++)
        window_want(w, i, OP_READ);
    window_go(w, false, out);
    return true;
}

static bool all_asked(const struct resync_target *t) { return t->cursor_bytes >= bitmap_size_bytes(t->config.bitmap); }

static void flush_if_due(struct resync_target *t, struct actions *out)
{
    /* Also if nothing was written: what both legs had before they parted, the source may have flushed for its
     * application since, and this leg has it in its cache. */
    if (t->flushing || (t->over == t->flushed && t->has_flushed))
        return;
    uint64_t after_bytes = t->config.window_bytes ? t->config.window_bytes : FLUSH_AFTER_BYTES;
    bool due = t->unflushed_bytes >= after_bytes || t->over - t->flushed >= FLUSH_AFTER_WINDOWS ||
               (all_asked(t) && !any_in_use(t));
    if (!due)
        return;
    t->flushing = true;
    t->flush_is_ours = true;
    t->flush_to = t->over;
    t->unflushed_bytes = 0;
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = SYNC_TARGET_OP_FIRST + OP_FLUSH_INDEX;
    a->disk.kind = OP_FLUSH;
}

static void start_pass(struct resync_target *t, bool fine)
{
    t->cursor_bytes = 0;
    t->fine = fine;
    t->was_coarse = false;
    t->unreadable_bytes = 0;
}

static void tell_unreadable(const struct resync_target *t, uint64_t left_bytes, struct actions *out)
{
    actions_note(out, NOTE_ERROR, "resync",
                 "%llu bytes cannot be read on %s and stay out of sync; a write to them heals it, and they are tried "
                 "again every %llu s",
                 (unsigned long long)left_bytes, t->config.peer, (unsigned long long)(UNREADABLE_RETRY_NS / NS_PER_S));
    uint64_t from = 0;
    struct range run;
    for (unsigned i = 0; i < UNREADABLE_NOTES_MAX && bitmap_next(t->config.bitmap, from, UINT64_MAX, &run); i++) {
        actions_note(out, NOTE_ERROR, "resync", "cannot be read on %s: offset %llu, length %llu", t->config.peer,
                     (unsigned long long)run.offset_bytes, (unsigned long long)run.length_bytes);
        from = range_end(run);
    }
}

/* All that was set when the pass began was asked for and is stable on both legs: what is set still, the source could
 * not read. */
static void end_pass(struct resync_target *t, struct actions *out)
{
    uint64_t left = bitmap_dirty_bytes(t->config.bitmap);
    if (left == 0) {
        t->state = RESYNC_DONE;
        actions_add(out, ACT_SEND)->send.frame = (struct frame) { .kind = FRAME_SYNC_DONE };
        return;
    }
    if (t->was_coarse) {
        start_pass(t, true);
        return;
    }
    if (!t->told)
        tell_unreadable(t, left, out);
    t->told = true;
    t->state = RESYNC_UNREADABLE;
    t->deadline_ns = t->now_ns + UNREADABLE_RETRY_NS;
}

/* Whatever has become possible, happens. */
static void advance(struct resync_target *t, struct actions *out)
{
    if (t->state == RESYNC_UNREADABLE && t->now_ns >= t->deadline_ns) {
        start_pass(t, true);
        t->state = RESYNC_RUNNING;
    }
    if (t->state != RESYNC_RUNNING || !t->bits_over)
        return;
    t->out_of_buffers = t->paced = false;
    for (;;) {
        while (!all_asked(t) && open_window(t, out)) {}
        flush_if_due(t, out);
        bool pass_over = all_asked(t) && !any_in_use(t) && t->stable == t->asked && t->has_flushed;
        if (!pass_over)
            break;
        end_pass(t, out);
        if (t->state != RESYNC_RUNNING)
            return;
    }
    t->deadline_ns = t->out_of_buffers ? t->now_ns + RETRY_NS : t->paced ? t->pace.free_at_ns : UINT64_MAX;
}

/* ---- Answers ---- */

static void window_is_over(struct resync_target *t, struct sync_window *w)
{
    record_of(t, w->number)->over = true;
    window_free(w);
    while (t->over != t->asked && record_of(t, t->over + 1)->over)
        t->over++;
}

static void learn_from(struct resync_target *t, uint64_t equal_bytes, uint64_t digest_bytes)
{
    if (digest_bytes == 0)
        return;
    uint32_t share = (uint32_t)(equal_bytes * EQUAL_ALL / digest_bytes);
    if (t->digests) {
        t->equal_share = (t->equal_share * 7 + share) / 8;
        t->digests = t->equal_share >= EQUAL_TOO_LITTLE;
    } else if (share >= EQUAL_AGAIN) {
        t->digests = true;
        t->equal_share = share;
    }
}

static struct sync_window *asked_window(struct resync_target *t, uint32_t number)
{
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (t->windows[i].state == WINDOW_ASKED && t->windows[i].number == number)
            return &t->windows[i];
    }
    return NULL;
}

/* Checks the answer's table and length; marks what each entry got, and where its data lies. */
static const char *take_table(struct sync_window *w, const struct frame *frame, const uint8_t *table)
{
    uint32_t at = SYNC_TABLE_BYTES;
    for (uint32_t i = 0; i < w->count; i++) {
        struct sync_entry *e = &w->entries[i];
        if (table[i] > SYNC_ANSWER_UNREADABLE)
            return "unknown answer (payload)";
        e->answer = (enum sync_answer)table[i];
        if (e->answer == SYNC_ANSWER_EQUAL && !e->has_digest)
            return "equal without a digest (payload)";
        e->buf_offset_bytes = at;
        if (e->answer == SYNC_ANSWER_DATA)
            at += e->length_bytes;
    }
    return at == frame->payload_bytes ? NULL : "answer of the wrong length (payload_bytes)";
}

/* In the order of the stream: ranges are asked for here and now, before anything that came later. */
static const char *on_data(struct resync_target *t, const struct frame *frame, struct buf *payload, struct actions *out)
{
    struct sync_window *w = asked_window(t, frame->tag);
    const char *wrong = w ? take_table(w, frame, payload->data) : "answer to what was not asked (tag)";
    if (wrong) {
        buf_put(payload);
        return wrong;
    }
    t->busy = frame->flags & FRAME_FLAG_BUSY;
    w->state = WINDOW_WRITING;
    w->buf = payload;
    struct sync_record *r = record_of(t, w->number);
    uint64_t digest_bytes = 0, equal_bytes = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        const struct sync_entry *e = &w->entries[i];
        digest_bytes += e->has_digest ? e->length_bytes : 0;
        r->entries[i].stays = e->answer == SYNC_ANSWER_UNREADABLE;
        switch (e->answer) {
        case SYNC_ANSWER_EQUAL: equal_bytes += e->length_bytes; break;
        case SYNC_ANSWER_DATA:
            t->data_bytes += e->length_bytes;
            t->unflushed_bytes += e->length_bytes;
            window_want(w, i, OP_WRITE);
            break;
        case SYNC_ANSWER_ZEROES:
            t->zero_bytes += e->length_bytes;
            t->unflushed_bytes += e->length_bytes;
            window_want(w, i, OP_WRITE_ZEROES);
            break;
        case SYNC_ANSWER_UNREADABLE:
            t->unreadable_bytes += e->length_bytes;
            t->unreadable_offset_bytes = e->offset_bytes;
            t->was_coarse |= e->length_bytes > bitmap_granule_bytes(t->config.bitmap);
            break;
        }
    }
    window_go(w, true, out);
    t->equal_bytes += equal_bytes;
    learn_from(t, equal_bytes, digest_bytes);
    if (w->busy == 0)
        window_is_over(t, w);
    return NULL;
}

static const char *on_bits(struct resync_target *t, const struct frame *frame, const struct buf *payload)
{
    struct bitmap *b = t->config.bitmap;
    struct range range = { frame->offset_bytes, frame->length_bytes };
    if (t->bits_over)
        return "bits after their end";
    if (range.length_bytes == 0) {
        t->bits_over = true;
        t->total_bytes = bitmap_dirty_bytes(b);
        return NULL;
    }
    if (!is_granules(b, range))
        return "not of this volume, or not whole granules (offset_bytes, length_blocks)";
    if (frame->flags & FRAME_FLAG_ALL) {
        bitmap_set(b, range);
        return NULL;
    }
    if (frame->payload_bytes != bitmap_wire_bytes(b, range))
        return "not one bit a granule (payload_bytes)";
    bitmap_import(b, range, payload->data);
    return NULL;
}

/* What the source answered with is on its stable storage, too: only now does nobody have to remember it any more. */
static const char *on_stable(struct resync_target *t, const struct frame *frame)
{
    if (!number_after(frame->tag, t->stable) || number_after(frame->tag, t->flushed))
        return "stable what this node did not call so, or was stable before (tag)";
    records_clear(t->records, &t->stable, frame->tag, t->config.bitmap);
    return NULL;
}

const char *resync_target_frame(struct resync_target *t, const struct frame *frame, struct buf *payload,
                                uint64_t now_ns, struct actions *out)
{
    t->now_ns = now_ns;
    const char *wrong = NULL;
    if (!is_under_way(t)) {
        wrong = t->state == RESYNC_FAILED ? NULL : "no resync is under way";
        if (payload)
            buf_put(payload);
        return wrong;
    }
    if (frame->kind == FRAME_SYNC_BITS) {
        wrong = on_bits(t, frame, payload);
        if (payload)
            buf_put(payload);
    } else if (frame->kind == FRAME_SYNC_DATA) {
        wrong = on_data(t, frame, payload, out);
    } else {
        assert(frame->kind == FRAME_SYNC_STABLE && !payload);
        wrong = on_stable(t, frame);
    }
    if (!wrong)
        advance(t, out);
    return wrong;
}

/* ---- The disk ---- */

static void on_flushed(struct resync_target *t, int32_t result, struct actions *out)
{
    bool ours = t->flush_is_ours;
    t->flushing = false;
    t->flush_is_ours = false;
    if (result) {
        disk_note(t, "flush", NULL, result, NOTE_ERROR, out);
        fail(t, out);
        return;
    }
    if (!ours)
        return;
    t->has_flushed = true;
    if (t->flushed == t->flush_to)
        return;
    t->flushed = t->flush_to;
    actions_add(out, ACT_SEND)->send.frame = (struct frame) { .kind = FRAME_SYNC_STABLE, .tag = t->flushed };
}

/* False: the window goes on. */
static bool on_window_done(struct resync_target *t, struct sync_window *w, uint32_t i, int32_t result,
                           struct actions *out)
{
    struct sync_entry *e = &w->entries[i];
    bool last = window_disk_done(w, i, result);
    bool lost = result && e->op != OP_READ;
    if (lost)
        disk_note(t, op_name(e->op), e, result, NOTE_ERROR, out);
    if (w->state == WINDOW_DRAINING) {
        window_drain(w, out);
    } else {
        window_unlock_if_over(w, i, out);
        if (last && w->state == WINDOW_READING)
            window_was_read(t, w, out);
        else if (last && !lost)
            window_is_over(t, w);
        else if (!lost)
            return false;
    }
    if (lost)
        fail(t, out);
    return true;
}

bool resync_target_disk_done(struct resync_target *t, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out)
{
    assert(op >= SYNC_TARGET_OP_FIRST && op - SYNC_TARGET_OP_FIRST < RESYNC_OPS && result <= 0);
    t->now_ns = now_ns;
    uint32_t index = op - SYNC_TARGET_OP_FIRST;
    if (index == OP_FLUSH_INDEX)
        on_flushed(t, result, out);
    else if (!on_window_done(t, &t->windows[index / SYNC_ENTRIES_MAX], index % SYNC_ENTRIES_MAX, result, out))
        return false;
    advance(t, out);
    return true;
}

/* ---- Its owner ---- */

void resync_target_begin(struct resync_target *t, const struct digest_key *key, bool reads_count, uint64_t now_ns)
{
    assert(t->state == RESYNC_IDLE || t->state == RESYNC_FAILED);
    t->key = *key;
    t->reads_count = reads_count;
    t->now_ns = now_ns;
    t->deadline_ns = UINT64_MAX;
    t->state = RESYNC_RUNNING;
    t->bits_over = false;
    t->busy = false;
    start_pass(t, false);
    t->told = false;
    t->asked = t->over = t->flushed = t->stable = 0;
    t->has_flushed = false;
    t->unflushed_bytes = 0;
    t->digests = true;
    t->equal_share = EQUAL_AGAIN;
    t->without_digest = 0;
    t->total_bytes = t->equal_bytes = t->data_bytes = t->zero_bytes = 0;
}

void resync_target_tick(struct resync_target *t, uint64_t now_ns, struct actions *out)
{
    t->now_ns = now_ns;
    advance(t, out);
}

uint64_t resync_target_deadline_ns(const struct resync_target *t) { return t->deadline_ns; }

void resync_target_stop(struct resync_target *t, struct actions *out)
{
    windows_stop(t->windows, out);
    t->flush_is_ours = false;
    t->deadline_ns = UINT64_MAX;
    if (t->state != RESYNC_FAILED)
        t->state = RESYNC_IDLE;
}

bool resync_target_is_idle(const struct resync_target *t)
{
    bool idle = !t->flushing;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        idle &= t->windows[i].state != WINDOW_DRAINING && t->windows[i].busy == 0;
    return idle;
}

enum resync_state resync_target_state(const struct resync_target *t) { return t->state; }

void resync_target_view(const struct resync_target *t, struct resync_view *view)
{
    *view = (struct resync_view) {
        .state = t->state,
        .done_bytes = done_bytes(t),
        .total_bytes = t->total_bytes,
        .unreadable_bytes = t->unreadable_bytes,
        .unreadable_offset_bytes = t->unreadable_offset_bytes,
        .equal_bytes = t->equal_bytes,
        .data_bytes = t->data_bytes,
        .zero_bytes = t->zero_bytes,
    };
}
