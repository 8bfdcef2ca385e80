/* The answering half of verify. */
#include "repl/sync/verify_reply.h"
#include "repl/base/resident.h"

#include <stdlib.h>
#include <string.h>

#include "repl/sync/resync_internal.h"

struct verify_reply {
    struct resync_config config;
    struct digest_key key;
    bool running;
    uint64_t now_ns;
    uint64_t deadline_ns;
    struct {
        struct range range;
        uint32_t tag;
    } waiting[VERIFY_WINDOWS_MAX]; /* for a window or a buffer */
    unsigned waiting_count;
    unsigned open; /* questions without an answer */
    struct sync_window windows[SYNC_WINDOWS_MAX];
};

/* One more than are answered at a time may be with the disk for a session that is over; so many operations it has. */
#define REPLY_WINDOWS_MAX (SYNC_VERIFY_OPS - SYNC_WINDOWS_MAX)

struct verify_reply *verify_reply_open(const struct resync_config *config)
{
    static_assert(REPLY_WINDOWS_MAX == SYNC_WINDOWS_MAX, "an operation for each window");
    struct verify_reply *r = resident_calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->config = *config;
    r->deadline_ns = UINT64_MAX;
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++)
        window_open(&r->windows[i], config->locks, VERIFY_REPLY_OP_FIRST + i);
    return r;
}

void verify_reply_close(struct verify_reply *r) { free(r); }

static struct sync_window *free_window(struct verify_reply *r)
{
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (r->windows[i].state == WINDOW_FREE)
            return &r->windows[i];
    }
    return NULL;
}

static bool begin_window(struct verify_reply *r, struct actions *out)
{
    struct sync_window *w = free_window(r);
    if (!w || r->waiting_count == 0)
        return false;
    w->buf = buf_get(r->config.pool, r->waiting[0].range.length_bytes, r->config.keep_free_bytes);
    if (!w->buf) {
        r->deadline_ns = r->now_ns + RETRY_NS;
        return false;
    }
    w->count = 1;
    w->number = r->waiting[0].tag;
    w->entries[0].offset_bytes = r->waiting[0].range.offset_bytes;
    w->entries[0].length_bytes = (uint32_t)r->waiting[0].range.length_bytes;
    w->entries[0].buf_offset_bytes = 0;
    r->waiting_count--;
    memmove(&r->waiting[0], &r->waiting[1], r->waiting_count * sizeof(r->waiting[0]));
    w->state = WINDOW_READING;
    window_want(w, 0, OP_READ);
    window_go(w, false, out);
    return true;
}

static void advance(struct verify_reply *r, struct actions *out)
{
    r->deadline_ns = UINT64_MAX;
    while (begin_window(r, out)) {}
}

const char *verify_reply_frame(struct verify_reply *r, const struct frame *frame, uint64_t now_ns, struct actions *out)
{
    struct range range = { frame->offset_bytes, frame->length_bytes };
    assert(frame->kind == FRAME_VERIFY_ASK);
    if (!r->running)
        return "no verify is under way";
    if (!is_granules(r->config.bitmap, range) || range.length_bytes > VERIFY_PIECE_BYTES)
        return "range not of this volume, not whole granules, or too long (offset_bytes, length_blocks)";
    if (r->open >= VERIFY_WINDOWS_MAX)
        return "more ranges at a time than agreed";
    r->now_ns = now_ns;
    r->open++;
    r->waiting[r->waiting_count].range = range;
    r->waiting[r->waiting_count].tag = frame->tag;
    r->waiting_count++;
    advance(r, out);
    return NULL;
}

static void answer(struct verify_reply *r, struct sync_window *w, int32_t result, struct actions *out)
{
    struct action *a = actions_add(out, ACT_SEND);
    a->send.frame = (struct frame) { .kind = FRAME_VERIFY_REPLY, .status = (uint16_t)-result, .tag = w->number };
    if (result == 0) {
        struct digest d = digest128(&r->key, w->buf->data, w->entries[0].length_bytes);
        struct digest_wire wire = { to_le64(d.low), to_le64(d.high) };
        memcpy(w->buf->data, &wire, sizeof(wire));
        a->send.frame.payload_bytes = sizeof(wire);
        a->send.payload = w->buf;
        a->send.payload_is_given = true;
        w->buf = NULL;
    }
    r->open--;
    window_unlock(w, out);
    window_free(w);
}

void verify_reply_disk_done(struct verify_reply *r, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out)
{
    assert(op >= VERIFY_REPLY_OP_FIRST && op - VERIFY_REPLY_OP_FIRST < REPLY_WINDOWS_MAX && result <= 0);
    r->now_ns = now_ns;
    struct sync_window *w = &r->windows[op - VERIFY_REPLY_OP_FIRST];
    window_disk_done(w, 0, result);
    if (w->state == WINDOW_DRAINING)
        window_drain(w, out);
    else
        answer(r, w, result, out);
    advance(r, out);
}

void verify_reply_begin(struct verify_reply *r, const struct digest_key *key)
{
    assert(!r->running);
    r->key = *key;
    r->running = true;
}

void verify_reply_tick(struct verify_reply *r, uint64_t now_ns, struct actions *out)
{
    r->now_ns = now_ns;
    advance(r, out);
}

uint64_t verify_reply_deadline_ns(const struct verify_reply *r) { return r->deadline_ns; }

void verify_reply_stop(struct verify_reply *r, struct actions *out)
{
    windows_stop(r->windows, out);
    r->waiting_count = 0;
    r->open = 0;
    r->running = false;
    r->deadline_ns = UINT64_MAX;
}

bool verify_reply_is_idle(const struct verify_reply *r)
{
    for (unsigned i = 0; i < SYNC_WINDOWS_MAX; i++) {
        if (r->windows[i].busy > 0)
            return false;
    }
    return true;
}
