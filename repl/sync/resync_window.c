/* Windows of ranges that are locked and go to the disk. */
#include "repl/sync/resync_internal.h"

#include <string.h>

struct digest_key resync_key(const uint8_t source_nonce[32], const uint8_t target_nonce[32])
{
    uint8_t seed[64];
    memcpy(seed, source_nonce, 32);
    memcpy(seed + 32, target_nonce, 32);
    struct digest_key key;
    digest_key_make(&key, seed, sizeof(seed));
    return key;
}

bool is_granules(const struct bitmap *b, struct range range)
{
    uint64_t size = bitmap_size_bytes(b), granule = bitmap_granule_bytes(b);
    return range.length_bytes > 0 && range_fits(range, size) && range.offset_bytes % granule == 0 &&
           (range_end(range) == size || range.length_bytes % granule == 0);
}

static void to_disk(struct sync_window *w, struct sync_entry *e, struct actions *out)
{
    e->state = ENTRY_DISK;
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = w->op_first + (uint32_t)(e - w->entries);
    a->disk.kind = e->op;
    a->disk.offset_bytes = e->offset_bytes;
    a->disk.length_bytes = e->length_bytes;
    if (e->op == OP_READ || e->op == OP_WRITE) {
        a->disk.buf = w->buf;
        a->disk.buf_offset_bytes = e->buf_offset_bytes;
    }
}

static void span_to_disk(struct sync_window *w, struct sync_span *s, struct actions *out)
{
    s->state = SPAN_LOCKED;
    for (uint32_t i = s->first; i < s->end; i++) {
        if (w->entries[i].state == ENTRY_WANTED)
            to_disk(w, &w->entries[i], out);
    }
}

/* Nothing of it is with the disk, and nothing is wanted any more. */
static void span_give_up(struct sync_window *w, struct sync_span *s)
{
    w->busy -= s->busy;
    s->busy = 0;
}

static void span_unlock(struct sync_window *w, struct sync_span *s, struct actions *out)
{
    assert(s->state != SPAN_FREE && s->busy == 0);
    s->state = SPAN_FREE;
    for (uint32_t i = s->first; i < s->end; i++)
        w->entries[i].state = ENTRY_IDLE;
    range_unlock(w->locks, &s->lock, out);
}

static void on_granted(struct range_lock *lock, struct actions *out)
{
    struct sync_window *w = lock->owner;
    struct sync_span *s = container_of(lock, struct sync_span, lock);
    assert(s->state == SPAN_LOCKING);
    if (w->state == WINDOW_DRAINING)
        span_give_up(w, s); /* windows_stop() is about to give it back */
    else
        span_to_disk(w, s, out);
}

void window_open(struct sync_window *w, struct range_locks *locks, uint32_t op_first)
{
    w->locks = locks;
    w->op_first = op_first;
    for (unsigned i = 0; i < SYNC_ENTRIES_MAX; i++) {
        struct range_lock *lock = &w->spans[i].lock;
        lock->owner = w;
        lock->on_granted = on_granted;
        list_init(&lock->granted);
    }
}

void window_want(struct sync_window *w, uint32_t i, enum op_kind op)
{
    struct sync_entry *e = &w->entries[i];
    assert(i < w->count && e->state == ENTRY_IDLE);
    e->op = op;
    e->result = 0;
    e->state = ENTRY_WANTED;
    w->busy++;
}

/* From entry `first`, which is wanted, as far as one lock reaches. */
static struct range span_gather(struct sync_window *w, struct sync_span *s, uint32_t first)
{
    struct range range = { w->entries[first].offset_bytes, 0 };
    s->first = s->end = first;
    s->busy = 0;
    for (uint32_t i = first; i < w->count; i++) {
        struct sync_entry *e = &w->entries[i];
        if (e->state != ENTRY_WANTED)
            continue;
        assert(e->offset_bytes >= range_end(range));
        uint64_t gap_bytes = e->offset_bytes - range_end(range);
        uint64_t length_bytes = range_end(entry_range(e)) - range.offset_bytes;
        if (i > first && (gap_bytes > SPAN_GAP_BYTES_MAX || length_bytes > SPAN_BYTES_MAX))
            break;
        range.length_bytes = length_bytes;
        e->span = (uint32_t)(s - w->spans);
        s->end = i + 1;
        s->busy++;
    }
    return range;
}

void window_go(struct sync_window *w, bool exclusive, struct actions *out)
{
    w->span_count = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->entries[i].state != ENTRY_WANTED)
            continue;
        struct sync_span *s = &w->spans[w->span_count++];
        assert(s->state == SPAN_FREE);
        s->state = SPAN_LOCKING;
        struct range range = span_gather(w, s, i);
        i = s->end - 1;
        if (range_lock(w->locks, &s->lock, range, exclusive))
            span_to_disk(w, s, out);
    }
}

void window_write_back(struct sync_window *w, uint32_t i, struct actions *out)
{
    struct sync_entry *e = &w->entries[i];
    struct sync_span *s = &w->spans[e->span];
    assert(e->state == ENTRY_OVER && s->state == SPAN_LOCKED && e->op == OP_READ && e->result == 0);
    e->op = OP_WRITE;
    w->busy++;
    s->busy++;
    to_disk(w, e, out);
}

bool window_disk_done(struct sync_window *w, uint32_t i, int32_t result)
{
    struct sync_entry *e = &w->entries[i];
    struct sync_span *s = &w->spans[e->span];
    assert(e->state == ENTRY_DISK && w->busy > 0 && s->busy > 0);
    e->state = ENTRY_OVER;
    e->result = result;
    s->busy--;
    return --w->busy == 0;
}

void window_unlock_if_over(struct sync_window *w, uint32_t i, struct actions *out)
{
    struct sync_span *s = &w->spans[w->entries[i].span];
    if (s->busy == 0)
        span_unlock(w, s, out);
}

void window_unlock(struct sync_window *w, struct actions *out)
{
    for (uint32_t i = 0; i < w->span_count; i++)
        span_unlock(w, &w->spans[i], out);
}

void window_free(struct sync_window *w)
{
    assert(w->busy == 0);
    for (uint32_t i = 0; i < w->span_count; i++)
        assert(w->spans[i].state == SPAN_FREE);
    if (w->buf)
        buf_put(w->buf);
    w->buf = NULL;
    w->span_count = 0;
    w->state = WINDOW_FREE;
}

void windows_stop(struct sync_window *windows, struct actions *out)
{
    /* All are marked before the first range goes back: one window's may be what another waits for. */
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (windows[i].state != WINDOW_FREE)
            windows[i].state = WINDOW_DRAINING;
    }
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        struct sync_window *w = &windows[i];
        if (w->state == WINDOW_FREE)
            continue;
        for (uint32_t k = 0; k < w->span_count; k++) {
            if (w->spans[k].state == SPAN_LOCKING)
                span_give_up(w, &w->spans[k]);
        }
        window_drain(w, out);
    }
}

void window_drain(struct sync_window *w, struct actions *out)
{
    assert(w->state == WINDOW_DRAINING);
    for (uint32_t i = 0; i < w->span_count; i++) {
        struct sync_span *s = &w->spans[i];
        if (s->state != SPAN_FREE && s->busy == 0)
            span_unlock(w, s, out);
    }
    if (w->busy == 0)
        window_free(w);
}

void records_clear(const struct sync_record *records, uint32_t *done, uint32_t up_to, struct bitmap *bitmap)
{
    while (*done != up_to) {
        const struct sync_record *r = &records[++*done % SYNC_UNSTABLE_WINDOWS_MAX];
        for (uint32_t i = 0; i < r->count; i++) {
            if (!r->entries[i].stays)
                bitmap_clear(bitmap, (struct range) { r->entries[i].offset_bytes, r->entries[i].length_bytes });
        }
    }
}
