/* The asking half of verify. */
#include "repl/sync/verify.h"
#include "repl/base/resident.h"

#include <stdlib.h>
#include <string.h>

#include "repl/sync/pace.h"
#include "repl/sync/resync_internal.h"

#define NARROW_BY 16 /* 1 MiB, 64 KiB, 4 KiB */

/* A range to be compared in pieces of this size. */
struct walk {
    struct range range;
    uint64_t piece_bytes;
};

/* Nothing larger is begun while something smaller is left: of each size no more than the windows can have found. */
#define WALKS_MAX (1 + 3 * VERIFY_WINDOWS_MAX)

struct verify {
    struct resync_config config;
    verify_found_fn *found;
    void *ctx;
    struct digest_key key;
    uint64_t now_ns;
    uint64_t deadline_ns;
    struct pace pace;
    bool running;
    bool done;
    bool busy;
    uint64_t size_bytes;          /* of the volume, as far as it is walked */
    struct walk walks[WALKS_MAX]; /* by falling piece size; the last is gone on with */
    unsigned walk_count;
    uint64_t differing_bytes;
    uint64_t unreadable_bytes;
    uint64_t mended_bytes;
    struct sync_window *mending; /* the one that was asked for */
    struct sync_window windows[SYNC_WINDOWS_MAX];
};

struct verify *verify_open(const struct resync_config *config, verify_found_fn *found, void *ctx)
{
    struct verify *v = resident_calloc(1, sizeof(*v));
    if (!v)
        return NULL;
    v->config = *config;
    v->pace.bytes_per_s = config->bytes_per_s;
    v->found = found;
    v->ctx = ctx;
    v->deadline_ns = UINT64_MAX;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        window_open(&v->windows[i], config->locks, VERIFY_OP_FIRST + i);
    return v;
}

void verify_close(struct verify *v) { free(v); }

static bool is_in_use(const struct sync_window *w)
{
    return w->state == WINDOW_READING || w->state == WINDOW_ASKED || w->state == WINDOW_MENDING;
}

static unsigned in_use(const struct verify *v)
{
    unsigned n = 0;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        n += is_in_use(&v->windows[i]);
    return n;
}

static struct sync_window *free_window(struct verify *v)
{
    /* The peer has not answered these either, and counts them. */
    unsigned open = in_use(v);
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        open += v->windows[i].state == WINDOW_VOID;
    if (open >= (v->busy ? 1 : VERIFY_WINDOWS_MAX))
        return NULL;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (v->windows[i].state == WINDOW_FREE)
            return &v->windows[i];
    }
    return NULL;
}

static bool begin_window(struct verify *v, struct actions *out)
{
    struct sync_window *w = free_window(v);
    if (!w || v->walk_count == 0)
        return false;
    if (!pace_allows(&v->pace, v->now_ns)) {
        v->deadline_ns = v->pace.free_at_ns;
        return false;
    }
    struct walk *walk = &v->walks[v->walk_count - 1];
    uint64_t length = min_u64(walk->piece_bytes, walk->range.length_bytes);
    w->buf = buf_get(v->config.pool, length, v->config.keep_free_bytes);
    if (!w->buf) {
        v->deadline_ns = v->now_ns + RETRY_NS;
        return false;
    }
    pace_take(&v->pace, length, v->now_ns);
    w->count = 1;
    w->entries[0].offset_bytes = walk->range.offset_bytes;
    w->entries[0].length_bytes = (uint32_t)length;
    w->entries[0].buf_offset_bytes = 0;
    walk->range.offset_bytes += length;
    walk->range.length_bytes -= length;
    if (walk->range.length_bytes == 0)
        v->walk_count--;
    w->state = WINDOW_READING;
    window_want(w, 0, OP_READ);
    window_go(w, false, out);
    return true;
}

/* The smallest pieces stay last. */
static void add_walk(struct verify *v, struct walk walk)
{
    assert(v->walk_count < WALKS_MAX);
    unsigned at = v->walk_count++;
    for (; at > 0 && v->walks[at - 1].piece_bytes < walk.piece_bytes; at--)
        v->walks[at] = v->walks[at - 1];
    v->walks[at] = walk;
}

/* The volume has grown meanwhile: who hears that the legs are equal takes it for all of them. Only the walk of the
 * largest pieces comes to the end, and it is the first, if any of it is left. */
static void walk_on(struct verify *v)
{
    uint64_t size = bitmap_size_bytes(v->config.bitmap);
    if (size == v->size_bytes)
        return;
    if (v->walk_count == 0 || v->walks[0].piece_bytes < VERIFY_PIECE_BYTES)
        add_walk(v, (struct walk) { { v->size_bytes, 0 }, VERIFY_PIECE_BYTES });
    v->walks[0].range.length_bytes += size - v->size_bytes;
    v->size_bytes = size;
}

static void advance(struct verify *v, struct actions *out)
{
    if (!v->running)
        return;
    v->deadline_ns = UINT64_MAX;
    walk_on(v);
    while (begin_window(v, out)) {}
    if (v->walk_count == 0 && in_use(v) == 0) {
        v->running = false;
        v->done = true;
    }
}

static void window_over(struct sync_window *w, struct actions *out)
{
    window_unlock(w, out);
    window_free(w);
}

/* The window's range differs, or cannot be read, on one leg or both: where in it? */
static void window_narrow(struct verify *v, struct sync_window *w, enum verify_finding finding, struct actions *out)
{
    struct range range = entry_range(&w->entries[0]);
    uint64_t granule = bitmap_granule_bytes(v->config.bitmap);
    if (range.length_bytes > granule) {
        /* By its place among the sizes, not by its length: the volume's end may be short. */
        uint64_t piece = VERIFY_PIECE_BYTES;
        while (piece >= range.length_bytes)
            piece = max_u64(piece / NARROW_BY, granule);
        add_walk(v, (struct walk) { range, piece });
    } else if (finding == VERIFY_UNREADABLE_HERE) {
        /* Without the range: changes may come before, and mend it as well. */
        window_unlock(w, out);
        w->state = WINDOW_MENDING;
        return;
    } else {
        *(finding == VERIFY_DIFFERS ? &v->differing_bytes : &v->unreadable_bytes) += range.length_bytes;
        v->found(v->ctx, range, finding, out);
    }
    window_over(w, out);
}

bool verify_wants_mend(struct verify *v, struct range *range)
{
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX && !v->mending; i++) {
        if (v->windows[i].state != WINDOW_MENDING)
            continue;
        v->mending = &v->windows[i];
        *range = entry_range(&v->windows[i].entries[0]);
        return true;
    }
    return false;
}

void verify_mended(struct verify *v, int32_t result, uint64_t now_ns, struct actions *out)
{
    struct sync_window *w = v->mending;
    assert(w && w->state == WINDOW_MENDING);
    v->now_ns = now_ns;
    v->mending = NULL;
    struct range range = entry_range(&w->entries[0]);
    *(result ? &v->unreadable_bytes : &v->mended_bytes) += range.length_bytes;
    if (result)
        v->found(v->ctx, range, VERIFY_UNREADABLE_HERE, out);
    window_free(w);
    advance(v, out);
}

static void window_ask(struct sync_window *w, uint32_t tag, struct actions *out)
{
    if (w->buf)
        buf_put(w->buf);
    w->buf = NULL;
    /* The range stays locked until the peer has said what it has there. */
    w->state = WINDOW_ASKED;
    actions_add(out, ACT_SEND)->send.frame = (struct frame) {
        .kind = FRAME_VERIFY_ASK,
        .offset_bytes = w->entries[0].offset_bytes,
        .length_bytes = w->entries[0].length_bytes,
        .tag = tag,
    };
}

void verify_disk_done(struct verify *v, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out)
{
    assert(op >= VERIFY_OP_FIRST && op < VERIFY_REPLY_OP_FIRST && result <= 0);
    v->now_ns = now_ns;
    struct sync_window *w = &v->windows[op - VERIFY_OP_FIRST];
    struct sync_entry *e = &w->entries[0];
    window_disk_done(w, 0, result);
    if (w->state == WINDOW_DRAINING) {
        window_drain(w, out);
    } else if (result && e->length_bytes > bitmap_granule_bytes(v->config.bitmap)) {
        window_narrow(v, w, VERIFY_UNREADABLE_HERE, out);
    } else {
        /* Of a granule that cannot be read here, the peer tells whether it can be read there. */
        if (result == 0)
            e->digest = digest128(&v->key, w->buf->data, e->length_bytes);
        window_ask(w, op - VERIFY_OP_FIRST, out);
    }
    advance(v, out);
}

const char *verify_frame(struct verify *v, const struct frame *frame, struct buf *payload, uint64_t now_ns,
                         struct actions *out)
{
    assert(frame->kind == FRAME_VERIFY_REPLY && (frame->status == 0) == (payload != NULL));
    v->now_ns = now_ns;
    struct digest_wire wire = { 0 };
    if (payload) {
        memcpy(&wire, payload->data, sizeof(wire));
        buf_put(payload);
    }
    struct sync_window *w = frame->tag < SYNC_WINDOWS_MAX ? &v->windows[frame->tag] : NULL;
    if (w && w->state == WINDOW_VOID) {
        window_free(w);
        advance(v, out);
        return NULL;
    }
    if (!w || w->state != WINDOW_ASKED)
        return "digest that was not asked for (tag)";
    struct digest theirs = { from_le64(wire.low), from_le64(wire.high) };
    bool here = w->entries[0].result == 0, there = frame->status == 0;
    if (!here || !there)
        window_narrow(v, w,
                      here    ? VERIFY_UNREADABLE_THERE
                      : there ? VERIFY_UNREADABLE_HERE
                              : VERIFY_UNREADABLE_BOTH,
                      out);
    else if (!digest_equal(theirs, w->entries[0].digest))
        window_narrow(v, w, VERIFY_DIFFERS, out);
    else
        window_over(w, out);
    advance(v, out);
    return NULL;
}

void verify_begin(struct verify *v, const struct digest_key *key, uint64_t now_ns, struct actions *out)
{
    assert(!v->running);
    v->key = *key;
    v->now_ns = now_ns;
    v->running = true;
    v->done = false;
    v->differing_bytes = v->unreadable_bytes = v->mended_bytes = 0;
    v->size_bytes = 0;
    v->walk_count = 0;
    advance(v, out);
}

void verify_set_busy(struct verify *v, bool busy) { v->busy = busy; }

void verify_tick(struct verify *v, uint64_t now_ns, struct actions *out)
{
    v->now_ns = now_ns;
    advance(v, out);
}

uint64_t verify_deadline_ns(const struct verify *v) { return v->deadline_ns; }

void verify_stop(struct verify *v, struct actions *out)
{
    windows_stop(v->windows, out);
    v->mending = NULL;
    v->running = false;
    v->deadline_ns = UINT64_MAX;
}

void verify_cancel(struct verify *v, struct actions *out)
{
    bool unanswered[SYNC_WINDOWS_MAX];
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        unanswered[i] = v->windows[i].state == WINDOW_ASKED || v->windows[i].state == WINDOW_VOID;
    verify_stop(v, out);
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (unanswered[i]) {
            assert(v->windows[i].state == WINDOW_FREE);
            v->windows[i].state = WINDOW_VOID;
        }
    }
}

bool verify_is_idle(const struct verify *v)
{
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (v->windows[i].busy > 0)
            return false;
    }
    return true;
}

void verify_view(const struct verify *v, struct verify_view *view)
{
    uint64_t left = 0;
    for (unsigned i = 0; i < v->walk_count && v->running; i++)
        left += v->walks[i].range.length_bytes;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX && v->running; i++) {
        if (is_in_use(&v->windows[i]))
            left += v->windows[i].entries[0].length_bytes;
    }
    *view = (struct verify_view) {
        .running = v->running,
        .done = v->done,
        .total_bytes = v->size_bytes,
        .done_bytes = v->running || v->done ? v->size_bytes - left : 0,
        .differing_bytes = v->differing_bytes,
        .unreadable_bytes = v->unreadable_bytes,
        .mended_bytes = v->mended_bytes,
    };
}
