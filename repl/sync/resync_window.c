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

static void on_granted(struct range_lock *lock, struct actions *out)
{
    struct sync_window *w = lock->owner;
    struct sync_entry *e = container_of(lock, struct sync_entry, lock);
    if (w->state != WINDOW_DRAINING) {
        assert(e->state == ENTRY_LOCKING);
        to_disk(w, e, out);
    } else if (e->state == ENTRY_LOCKING) {
        w->busy--;
        e->state = ENTRY_LOCKED; /* windows_stop() is about to give it back */
    }
}

void window_open(struct sync_window *w, struct range_locks *locks, uint32_t op_first)
{
    w->locks = locks;
    w->op_first = op_first;
    for (unsigned i = 0; i < SYNC_ENTRIES_MAX; i++) {
        struct range_lock *lock = &w->entries[i].lock;
        lock->owner = w;
        lock->on_granted = on_granted;
        list_init(&lock->granted);
    }
}

void window_start_entry(struct sync_window *w, uint32_t i, bool exclusive, enum op_kind op, struct actions *out)
{
    struct sync_entry *e = &w->entries[i];
    assert(i < w->count && e->state == ENTRY_IDLE);
    e->op = op;
    e->result = 0;
    e->state = ENTRY_LOCKING;
    w->busy++;
    if (range_lock(w->locks, &e->lock, entry_range(e), exclusive))
        to_disk(w, e, out);
}

bool window_disk_done(struct sync_window *w, uint32_t i, int32_t result)
{
    struct sync_entry *e = &w->entries[i];
    assert(e->state == ENTRY_DISK && w->busy > 0);
    e->state = ENTRY_LOCKED;
    e->result = result;
    return --w->busy == 0;
}

void window_unlock(struct sync_window *w, uint32_t i, struct actions *out)
{
    struct sync_entry *e = &w->entries[i];
    assert(e->state == ENTRY_LOCKED);
    e->state = ENTRY_IDLE;
    range_unlock(w->locks, &e->lock, out);
}

void window_free(struct sync_window *w)
{
    assert(w->busy == 0);
    if (w->buf)
        buf_put(w->buf);
    w->buf = NULL;
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
        for (uint32_t k = 0; k < w->count; k++) {
            if (w->entries[k].state == ENTRY_LOCKING) {
                w->busy--;
                w->entries[k].state = ENTRY_LOCKED;
            }
        }
        window_drain(w, out);
    }
}

void window_drain(struct sync_window *w, struct actions *out)
{
    assert(w->state == WINDOW_DRAINING);
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->entries[i].state == ENTRY_LOCKED)
            window_unlock(w, i, out);
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
