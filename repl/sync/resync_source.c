/* The source of a resync. */
#include "repl/sync/resync_source.h"
#include "repl/base/resident.h"

#include <stdlib.h>
#include <string.h>

#include "repl/sync/resync_internal.h"

#define BITS_RUN_BYTES_MAX (1 * TIB) /* what a frame's length can say */
#define BITS_FRAMES_PER_STEP 64

#define UNREADABLE_NOTES_MAX 16 /* in a session: the target asks again and again */

#define OP_FLUSH_INDEX (SYNC_WINDOWS_MAX * SYNC_ENTRIES_MAX)

struct resync_source {
    struct resync_config config;
    enum resync_state state;
    struct digest_key key;
    bool reads_count; /* see resync_source_begin() */
    uint64_t now_ns;
    uint64_t deadline_ns;
    bool busy;

    bool bits_over; /* all bits were sent */
    uint64_t bits_cursor_bytes;

    /* Questions that wait for a window, a buffer or room for their answer's record: a ring. */
    struct buf *waiting[SYNC_WINDOWS_MAX];
    uint32_t waiting_bytes[SYNC_WINDOWS_MAX]; /* of the payload */
    uint32_t waiting_count;

    uint32_t asked;    /* the last number that came */
    uint32_t open;     /* questions that have no answer yet */
    uint32_t begun;    /* all up to this one have left `waiting` */
    uint32_t answered; /* all up to this one are answered */
    uint32_t stable;   /* all up to this one are stable at the target */
    uint32_t cleared;  /* all up to this one are stable here, too, and cleared, and the target knows */
    bool target_done;

    bool flushing;
    bool flush_is_ours;
    uint32_t flush_to;

    uint64_t done_bytes; /* as the target tells */
    uint64_t total_bytes;
    uint64_t equal_bytes;
    uint64_t data_bytes;
    uint64_t zero_bytes;
    unsigned unreadable; /* ranges that were answered so, */
    uint64_t unreadable_bytes;
    uint64_t unreadable_offset_bytes; /* and the last of them */

    struct sync_record records[SYNC_UNSTABLE_WINDOWS_MAX];
    struct sync_window windows[SYNC_WINDOWS_MAX];
};

static struct sync_record *record_of(struct resync_source *s, uint32_t number)
{
    return &s->records[number % SYNC_UNSTABLE_WINDOWS_MAX];
}

struct resync_source *resync_source_open(const struct resync_config *config)
{
    assert(bitmap_granule_bytes(config->bitmap) <= RESYNC_GRANULE_BYTES_MAX);
    struct resync_source *s = resident_calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->config = *config;
    s->deadline_ns = UINT64_MAX;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        window_open(&s->windows[i], config->locks, SYNC_SOURCE_OP_FIRST + i * SYNC_ENTRIES_MAX);
    return s;
}

void resync_source_close(struct resync_source *s) { free(s); }

/* ---- Bits ---- */

/* The next piece of the bitmap with anything set in it. False: no buffer was free. */
static bool send_bits(struct resync_source *s, struct actions *out)
{
    const struct bitmap *b = s->config.bitmap;
    uint64_t granule = bitmap_granule_bytes(b), piece_bytes = SYNC_BITS_BYTES_MAX * 8 * granule;
    struct range run;
    if (!bitmap_next(b, s->bits_cursor_bytes, BITS_RUN_BYTES_MAX, &run)) {
        s->bits_over = true;
        actions_add(out, ACT_SEND)->send.frame = (struct frame) { .kind = FRAME_SYNC_BITS };
        return true;
    }
    struct frame frame = { .kind = FRAME_SYNC_BITS, .offset_bytes = run.offset_bytes };
    struct buf *payload = NULL;
    if (run.length_bytes >= piece_bytes) {
        frame.flags = FRAME_FLAG_ALL;
    } else {
        payload = buf_get(s->config.pool, SYNC_BITS_BYTES_MAX, s->config.keep_free_bytes);
        if (!payload)
            return false;
        run.length_bytes = min_u64(piece_bytes, bitmap_size_bytes(b) - run.offset_bytes);
        bitmap_export(b, run, payload->data);
        frame.payload_bytes = (uint32_t)bitmap_wire_bytes(b, run);
    }
    frame.length_bytes = run.length_bytes;
    s->bits_cursor_bytes = range_end(run);
    struct action *a = actions_add(out, ACT_SEND);
    a->send.frame = frame;
    a->send.payload = payload;
    a->send.payload_is_given = payload != NULL;
    return true;
}

/* ---- Answers ---- */

static bool is_zeroes(const uint8_t *data, uint32_t bytes)
{
    /* Each byte equals its neighbour, and the first is zero: at the speed of memcmp. */
    return data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0;
}

static enum sync_answer answer_to(const struct resync_source *s, const struct sync_entry *e, const uint8_t *data)
{
    if (e->result)
        return SYNC_ANSWER_UNREADABLE;
    if (e->has_digest && digest_equal(e->digest, digest128(&s->key, data, e->length_bytes)))
        return SYNC_ANSWER_EQUAL;
    return is_zeroes(data, e->length_bytes) ? SYNC_ANSWER_ZEROES : SYNC_ANSWER_DATA;
}

/* All of it was read, and no change has touched it since: each has to wait until the answer is on its way. */
static void window_answer(struct resync_source *s, struct sync_window *w, struct actions *out)
{
    struct sync_record *r = record_of(s, w->number);
    uint8_t *table = w->buf->data;
    uint32_t at = SYNC_TABLE_BYTES;
    memset(table, 0, SYNC_TABLE_BYTES);
    for (uint32_t i = 0; i < w->count; i++) {
        struct sync_entry *e = &w->entries[i];
        uint8_t *data = w->buf->data + e->buf_offset_bytes;
        e->answer = answer_to(s, e, data);
        table[i] = (uint8_t)e->answer;
        r->entries[i].stays |= e->answer == SYNC_ANSWER_UNREADABLE;
        switch (e->answer) {
        case SYNC_ANSWER_EQUAL: s->equal_bytes += e->length_bytes; break;
        case SYNC_ANSWER_ZEROES: s->zero_bytes += e->length_bytes; break;
        case SYNC_ANSWER_DATA:
            s->data_bytes += e->length_bytes;
            if (at != e->buf_offset_bytes)
                memmove(w->buf->data + at, data, e->length_bytes);
            at += e->length_bytes;
            break;
        case SYNC_ANSWER_UNREADABLE:
            s->unreadable_bytes += e->length_bytes;
            s->unreadable_offset_bytes = e->offset_bytes;
            if (s->unreadable++ < UNREADABLE_NOTES_MAX)
                actions_note(out, NOTE_ERROR, "disk", "resync: read failed on %s: %s, offset %llu, length %u",
                             s->config.backing, strerror(-e->result), (unsigned long long)e->offset_bytes,
                             e->length_bytes);
            break;
        }
    }
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = w->buf;
    a->send.payload_is_given = true;
    a->send.frame = (struct frame) {
        .kind = FRAME_SYNC_DATA,
        .flags = s->busy ? FRAME_FLAG_BUSY : 0,
        .payload_bytes = at,
        .tag = w->number,
    };
    w->buf = NULL;
    r->over = true;
    s->open--;
    while (s->answered != s->begun && record_of(s, s->answered + 1)->over)
        s->answered++;
    /* Only now may changes go on: their frames come after the answer, whatever they do to what it says. */
    window_unlock(w, out);
    window_free(w);
}

static struct sync_window *free_window(struct resync_source *s)
{
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (s->windows[i].state == WINDOW_FREE)
            return &s->windows[i];
    }
    return NULL;
}

/* The payload was checked when it came. */
static uint32_t window_take_question(struct sync_window *w, const struct buf *payload, uint32_t payload_bytes)
{
    const struct sync_entry_wire *wire = (const struct sync_entry_wire *)(const void *)payload->data;
    uint32_t at = SYNC_TABLE_BYTES;
    w->count = payload_bytes / (uint32_t)sizeof(*wire);
    for (uint32_t i = 0; i < w->count; i++) {
        struct sync_entry *e = &w->entries[i];
        assert(e->state == ENTRY_IDLE);
        e->offset_bytes = from_le64(wire[i].offset_bytes);
        e->length_bytes = from_le32(wire[i].length_bytes);
        e->buf_offset_bytes = at;
        e->has_digest = from_le32(wire[i].flags) & SYNC_ENTRY_DIGEST;
        e->digest = (struct digest) { from_le64(wire[i].digest.low), from_le64(wire[i].digest.high) };
        at += e->length_bytes;
    }
    return at;
}

/* True: the oldest question that waits has become a window. */
static bool begin_window(struct resync_source *s, struct actions *out)
{
    struct sync_window *w = free_window(s);
    if (s->waiting_count == 0 || !w)
        return false;
    assert(s->begun - s->cleared < SYNC_UNSTABLE_WINDOWS_MAX); /* as no more are asked for */
    struct buf *question = s->waiting[0];
    uint32_t bytes = window_take_question(w, question, s->waiting_bytes[0]);
    w->buf = buf_get(s->config.pool, bytes, s->config.keep_free_bytes);
    if (!w->buf) {
        s->deadline_ns = s->now_ns + RETRY_NS;
        return false;
    }
    buf_put(question);
    s->waiting_count--;
    memmove(&s->waiting[0], &s->waiting[1], s->waiting_count * sizeof(s->waiting[0]));
    memmove(&s->waiting_bytes[0], &s->waiting_bytes[1], s->waiting_count * sizeof(s->waiting_bytes[0]));
    w->number = ++s->begun;
    w->state = WINDOW_READING;
    struct sync_record *r = record_of(s, w->number);
    r->over = false;
    r->count = w->count;
    for (uint32_t i = 0; i < w->count; i++) {
        r->entries[i].offset_bytes = w->entries[i].offset_bytes;
        r->entries[i].length_bytes = w->entries[i].length_bytes;
        r->entries[i].stays = false;
    }
    for (uint32_t i = 0; i < w->count; i++)
        window_want(w, i, OP_READ);
    window_go(w, !s->reads_count, out);
    return true;
}

/* A failed flush has left in the cache what no later one will write, unless it is written anew. Nobody else has it. */
static void window_was_read(struct resync_source *s, struct sync_window *w, struct actions *out)
{
    w->state = WINDOW_WRITING;
    for (uint32_t i = 0; i < w->count && !s->reads_count; i++) {
        if (w->entries[i].result == 0)
            window_write_back(w, i, out);
    }
    if (w->busy == 0)
        window_answer(s, w, out);
}

/* What the target has on stable storage counts once it is on this leg's, too: it may have been in a cache only when it
 * was read for the answer. */
static void flush_if_due(struct resync_source *s, struct actions *out)
{
    if (s->flushing || s->stable == s->cleared)
        return;
    s->flushing = true;
    s->flush_is_ours = true;
    s->flush_to = s->stable;
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = SYNC_SOURCE_OP_FIRST + OP_FLUSH_INDEX;
    a->disk.kind = OP_FLUSH;
}

/* Whatever has become possible, happens. */
static void advance(struct resync_source *s, struct actions *out)
{
    if (s->state != RESYNC_RUNNING)
        return;
    s->deadline_ns = UINT64_MAX;
    for (unsigned i = 0; i < BITS_FRAMES_PER_STEP && !s->bits_over; i++) {
        if (!send_bits(s, out))
            break;
    }
    if (!s->bits_over)
        s->deadline_ns = s->now_ns + RETRY_NS;
    while (begin_window(s, out)) {}
    flush_if_due(s, out);
    if (s->target_done)
        s->state = bitmap_dirty_bytes(s->config.bitmap) ? RESYNC_AGAIN : RESYNC_DONE;
}

/* ---- Questions ---- */

static const char *check_question(const struct resync_source *s, const struct frame *frame, const struct buf *payload)
{
    uint32_t count = frame->payload_bytes / (uint32_t)sizeof(struct sync_entry_wire);
    assert(count > 0 && count <= SYNC_ENTRIES_MAX);
    if (!s->bits_over)
        return "question before all bits were sent";
    if (frame->tag != s->asked + 1)
        return "not the next window (tag)";
    if (s->open >= SYNC_WINDOWS_MAX)
        return "more windows at a time than agreed";
    if (s->asked - s->cleared >= SYNC_UNSTABLE_WINDOWS_MAX)
        return "more windows than agreed that are not stable yet";
    if (frame->offset_bytes > bitmap_size_bytes(s->config.bitmap) || frame->lsn > frame->offset_bytes)
        return "impossible progress (offset_bytes, lsn)";
    const struct sync_entry_wire *wire = (const struct sync_entry_wire *)(const void *)payload->data;
    uint64_t end = 0, total = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct range range = { from_le64(wire[i].offset_bytes), from_le32(wire[i].length_bytes) };
        if (!is_granules(s->config.bitmap, range))
            return "entry not of this volume, or not whole granules (payload)";
        if (range.offset_bytes < end)
            return "entries that overlap, or do not rise (payload)";
        if (from_le32(wire[i].flags) & ~SYNC_ENTRY_DIGEST)
            return "unknown flag of an entry (payload)";
        end = range_end(range);
        total += range.length_bytes;
    }
    return total > SYNC_WINDOW_BYTES_MAX ? "window of too many bytes (payload)" : NULL;
}

static const char *on_question(struct resync_source *s, const struct frame *frame, struct buf *payload)
{
    const char *wrong = check_question(s, frame, payload);
    if (wrong) {
        buf_put(payload);
        return wrong;
    }
    assert(s->waiting_count < SYNC_WINDOWS_MAX);
    s->waiting[s->waiting_count] = payload;
    s->waiting_bytes[s->waiting_count] = frame->payload_bytes;
    s->waiting_count++;
    s->asked = frame->tag;
    s->open++;
    s->total_bytes = frame->offset_bytes;
    s->done_bytes = frame->lsn;
    return NULL;
}

static const char *on_stable(struct resync_source *s, const struct frame *frame)
{
    if (!number_after(frame->tag, s->stable) || number_after(frame->tag, s->answered))
        return "stable what was not answered, or was stable before (tag)";
    s->stable = frame->tag;
    return NULL;
}

static const char *on_target_done(struct resync_source *s)
{
    if (!s->bits_over)
        return "done before all bits were sent";
    if (s->cleared != s->asked)
        return "done, with windows that are not stable";
    s->target_done = true;
    return NULL;
}

const char *resync_source_frame(struct resync_source *s, const struct frame *frame, struct buf *payload,
                                uint64_t now_ns, struct actions *out)
{
    s->now_ns = now_ns;
    if (s->state != RESYNC_RUNNING || s->target_done) {
        if (payload)
            buf_put(payload);
        return s->state == RESYNC_FAILED ? NULL : "no resync is under way";
    }
    const char *wrong;
    if (frame->kind == FRAME_SYNC_ASK) {
        wrong = on_question(s, frame, payload);
    } else {
        assert(!payload && (frame->kind == FRAME_SYNC_STABLE || frame->kind == FRAME_SYNC_DONE));
        wrong = frame->kind == FRAME_SYNC_STABLE ? on_stable(s, frame) : on_target_done(s);
    }
    if (!wrong)
        advance(s, out);
    return wrong;
}

/* ---- The disk ---- */

static void let_go(struct resync_source *s, struct actions *out)
{
    windows_stop(s->windows, out);
    while (s->waiting_count > 0)
        buf_put(s->waiting[--s->waiting_count]);
    s->flush_is_ours = false;
    s->deadline_ns = UINT64_MAX;
}

static void fail(struct resync_source *s, struct actions *out)
{
    let_go(s, out);
    s->state = RESYNC_FAILED;
}

/* True: there may be more to do. */
static bool on_window_done(struct resync_source *s, struct sync_window *w, uint32_t i, int32_t result,
                           struct actions *out)
{
    struct sync_entry *e = &w->entries[i];
    bool last = window_disk_done(w, i, result);
    bool lost = result && e->op == OP_WRITE;
    if (lost)
        actions_note(out, NOTE_ERROR, "disk", "resync: write failed on %s: %s, offset %llu, length %u",
                     s->config.backing, strerror(-result), (unsigned long long)e->offset_bytes, e->length_bytes);
    if (w->state == WINDOW_DRAINING)
        window_drain(w, out);
    else if (last && w->state == WINDOW_READING)
        window_was_read(s, w, out);
    else if (last && !lost)
        window_answer(s, w, out);
    if (lost)
        fail(s, out);
    return last || lost || w->state == WINDOW_DRAINING;
}

bool resync_source_disk_done(struct resync_source *s, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out)
{
    assert(op >= SYNC_SOURCE_OP_FIRST && op - SYNC_SOURCE_OP_FIRST < RESYNC_OPS && result <= 0);
    s->now_ns = now_ns;
    uint32_t index = op - SYNC_SOURCE_OP_FIRST;
    if (index != OP_FLUSH_INDEX) {
        if (!on_window_done(s, &s->windows[index / SYNC_ENTRIES_MAX], index % SYNC_ENTRIES_MAX, result, out))
            return false;
    } else {
        s->flushing = false;
        if (result) {
            actions_note(out, NOTE_ERROR, "disk", "resync: flush failed on %s: %s", s->config.backing,
                         strerror(-result));
            fail(s, out);
        } else if (s->flush_is_ours) {
            records_clear(s->records, &s->cleared, s->flush_to, s->config.bitmap);
            actions_add(out, ACT_SEND)->send.frame = (struct frame) { .kind = FRAME_SYNC_STABLE, .tag = s->cleared };
        }
        s->flush_is_ours = false;
    }
    advance(s, out);
    return true;
}

/* ---- Its owner ---- */

void resync_source_begin(struct resync_source *s, const struct digest_key *key, bool reads_count, uint64_t now_ns,
                         struct actions *out)
{
    assert(s->state == RESYNC_IDLE || s->state == RESYNC_FAILED);
    s->key = *key;
    s->reads_count = reads_count;
    s->now_ns = now_ns;
    s->state = RESYNC_RUNNING;
    s->bits_over = false;
    s->bits_cursor_bytes = 0;
    s->open = 0;
    s->asked = s->begun = s->answered = s->stable = s->cleared = 0;
    s->target_done = false;
    s->done_bytes = s->equal_bytes = s->data_bytes = s->zero_bytes = 0;
    s->unreadable = 0;
    s->unreadable_bytes = 0;
    s->total_bytes = bitmap_dirty_bytes(s->config.bitmap);
    advance(s, out);
}

void resync_source_set_busy(struct resync_source *s, bool busy) { s->busy = busy; }

void resync_source_tick(struct resync_source *s, uint64_t now_ns, struct actions *out)
{
    s->now_ns = now_ns;
    advance(s, out);
}

uint64_t resync_source_deadline_ns(const struct resync_source *s) { return s->deadline_ns; }

void resync_source_stop(struct resync_source *s, struct actions *out)
{
    let_go(s, out);
    if (s->state != RESYNC_FAILED)
        s->state = RESYNC_IDLE;
}

bool resync_source_is_idle(const struct resync_source *s)
{
    bool idle = !s->flushing;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        idle &= s->windows[i].busy == 0;
    return idle;
}

enum resync_state resync_source_state(const struct resync_source *s) { return s->state; }

void resync_source_view(const struct resync_source *s, struct resync_view *view)
{
    *view = (struct resync_view) {
        .state = s->state,
        .done_bytes = s->state == RESYNC_DONE ? s->total_bytes : s->done_bytes,
        .total_bytes = s->total_bytes,
        .unreadable_bytes = s->unreadable_bytes,
        .unreadable_offset_bytes = s->unreadable_offset_bytes,
        .equal_bytes = s->equal_bytes,
        .data_bytes = s->data_bytes,
        .zero_bytes = s->zero_bytes,
    };
}
