/* A resync: two machines joined by queues, over disks that answer in any order, beside an application that writes; and
 * each machine alone against a peer that breaks the rules. RESYNC_SEED=n RESYNC_SEEDS=1 replays one run. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/block.h"
#include "repl/base/prng.h"
#include "repl/sync/pace.h"
#include "repl/sync/resync_internal.h"
#include "repl/sync/resync_source.h"
#include "repl/sync/resync_target.h"
#include "repl/sync/verify_reply.h"

#define SEEDS 3000
#define VERIFY_SEEDS 1000
#define SIZE_MAX_BYTES (6 * MIB)
#define BLOCKS_MAX (SIZE_MAX_BYTES / BLOCK_BYTES)
#define POOL_BYTES (8 * MIB)
#define REQUESTS_MAX 4096
#define WRITES_MAX 16 /* of the application, at a time */
#define WRITE_BLOCKS_MAX 64
#define FRAMES_MAX 1024
#define STEPS_MAX 400000
#define OP_PEER_WRITE 1000

enum { SOURCE, TARGET };

static const struct digest_key solo_key;

static struct buf_pool pools[2];

struct request_slot {
    bool busy;
    struct action a;
    uint8_t *snapshot; /* OP_FLUSH */
};

struct node {
    struct range_locks locks;
    struct bitmap *bitmap;
    uint8_t *content; /* what a read returns */
    uint8_t *stable;  /* what is left without power */
    bool bad[BLOCKS_MAX];
    bool lost[BLOCKS_MAX]; /* by a failed flush: later ones do not write it, unless it is written anew */
    struct request_slot requests[REQUESTS_MAX];
    unsigned busy;
};

struct queued_frame {
    struct frame frame;
    uint8_t *payload;
};

struct queue {
    struct queued_frame frames[FRAMES_MAX];
    unsigned first, count;
};

/* The tiniest mirror: exclusive on the source until both have it; at the target in the stream's order. */
struct app_write {
    struct range_lock lock;      /* on the source */
    struct range_lock peer_lock; /* on the target */
    bool in_use, granted, local_done, queued, sent, acked, alone;
    bool peer_busy, peer_started, peer_forgotten;
    uint64_t lsn;
    struct range range;
    bool zeroes;
    struct buf *buf, *peer_buf;
};

struct world {
    struct prng p;
    struct actions out;
    struct node nodes[2];
    struct queue to[2]; /* frames on their way to ... */
    struct resync_source *source;
    struct resync_target *target;
    struct verify *verify;             /* on the source's node */
    struct verify_reply *verify_reply; /* on the target's */
    bool *planted;                     /* verify: granules that differ, which the application leaves alone */
    bool *found;
    uint8_t *expected; /* verify: 0, or 1 + the finding */
    struct app_write writes[WRITES_MAX];
    bool written[BLOCKS_MAX];  /* ever, by the application */
    bool original[BLOCKS_MAX]; /* the target's own bits, by granule: what is left of its bitmap after a crash */
    uint64_t size_bytes;
    uint32_t granule_bytes;
    uint64_t now_ns;
    uint64_t lsn;
    uint64_t session;
    bool up, alone, quiet;
    bool write_errors;
    bool source_lies; /* what its disk shows where bits are set, a failed flush may have lost */
    bool large;
    uint64_t seed;
};

#define CHECK(w, cond)                                                                                                 \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fail_msg("seed %llu: %s", (unsigned long long)(w)->seed, #cond);                                           \
            abort(); /* for those who read the code: nothing comes after */                                            \
        }                                                                                                              \
    } while (0)

static bool chance(struct world *w, unsigned per_cent) { return prng_below(&w->p, 100) < per_cent; }

static uint32_t granules(const struct world *w)
{
    return (uint32_t)((w->size_bytes + w->granule_bytes - 1) / w->granule_bytes);
}

static struct range granule_range(const struct world *w, uint32_t g)
{
    uint64_t offset = (uint64_t)g * w->granule_bytes;
    assert(offset < w->size_bytes);
    return (struct range) { offset, min_u64(w->granule_bytes, w->size_bytes - offset) };
}

static unsigned long long env(const char *name, unsigned long long otherwise)
{
    const char *v = getenv(name);
    return v ? strtoull(v, NULL, 10) : otherwise;
}

/* ---------------------------------------------------------------------------------------------------------- disks */

static void apply(struct world *w, struct node *n, const struct action *a, bool all)
{
    uint64_t first = a->disk.offset_bytes / BLOCK_BYTES, count = a->disk.length_bytes / BLOCK_BYTES;
    for (uint64_t i = 0; i < count; i++) {
        if (!all && chance(w, 50))
            continue;
        uint8_t *at = n->content + (first + i) * BLOCK_BYTES;
        uint8_t *data = a->disk.buf ? a->disk.buf->data + a->disk.buf_offset_bytes + i * BLOCK_BYTES : NULL;
        assert(data || a->disk.kind == OP_DISCARD || a->disk.kind == OP_WRITE_ZEROES);
        if (a->disk.kind == OP_READ)
            memcpy(data, at, BLOCK_BYTES);
        else if (a->disk.kind == OP_WRITE)
            memcpy(at, data, BLOCK_BYTES);
        else
            memset(at, 0, BLOCK_BYTES);
        if (a->disk.kind != OP_READ)
            n->bad[first + i] = n->lost[first + i] = false;
    }
}

static void submit(struct world *w, struct node *n, const struct action *a)
{
    bool changes = a->disk.kind != OP_READ && a->disk.kind != OP_FLUSH;
    struct range range = { a->disk.offset_bytes, a->disk.length_bytes };
    unsigned slot = REQUESTS_MAX;
    for (unsigned i = 0; i < REQUESTS_MAX; i++) {
        const struct action *b = &n->requests[i].a;
        if (!n->requests[i].busy) {
            slot = min_u64(slot, i);
            if (i > n->busy + 64)
                break;
            continue;
        }
        CHECK(w, b->disk.op != a->disk.op);
        bool conflict = b->disk.kind != OP_FLUSH && (changes || b->disk.kind != OP_READ) &&
                        range_overlaps(range, (struct range) { b->disk.offset_bytes, b->disk.length_bytes });
        CHECK(w, a->disk.kind == OP_FLUSH || !conflict);
    }
    CHECK(w, slot < REQUESTS_MAX);
    struct request_slot *r = &n->requests[slot];
    r->busy = true;
    r->a = *a;
    n->busy++;
    if (a->disk.kind == OP_FLUSH) {
        r->snapshot = malloc(w->size_bytes);
        memcpy(r->snapshot, n->content, w->size_bytes);
        for (uint64_t b = 0; w->source_lies && b < w->size_bytes / BLOCK_BYTES; b++) {
            if (n->lost[b])
                memcpy(r->snapshot + b * BLOCK_BYTES, n->stable + b * BLOCK_BYTES, BLOCK_BYTES);
        }
        return;
    }
    CHECK(w, range_fits(range, w->size_bytes) && range.length_bytes > 0 && range.length_bytes % BLOCK_BYTES == 0);
    bool has_data = a->disk.kind == OP_READ || a->disk.kind == OP_WRITE;
    CHECK(w, has_data == (a->disk.buf != NULL));
    CHECK(w, !has_data ||
                 (a->disk.buf->refs > 0 && a->disk.buf_offset_bytes + range.length_bytes <= a->disk.buf->size_bytes));
    apply(w, n, a, a->disk.kind == OP_READ);
}

/* -------------------------------------------------------------------------------------------------------- network */

static void send(struct world *w, unsigned to, const struct frame *frame, const struct buf *payload)
{
    struct queue *q = &w->to[to];
    if (!w->up)
        return;
    CHECK(w, q->count < FRAMES_MAX);
    struct queued_frame *f = &q->frames[(q->first + q->count++) % FRAMES_MAX];
    f->frame = *frame;
    f->payload = NULL;
    if (frame->payload_bytes) {
        CHECK(w, payload && payload->refs > 0 && frame->payload_bytes <= payload->size_bytes);
        f->payload = malloc(frame->payload_bytes);
        memcpy(f->payload, payload->data, frame->payload_bytes);
    }
}

static void carry_out(struct world *w, unsigned node)
{
    /* Nothing in here calls a machine: the list stands still. */
    for (uint32_t i = 0; i < w->out.count; i++) {
        const struct action *a = &w->out.list[i];
        if (a->kind == ACT_SEND) {
            send(w, 1 - node, &a->send.frame, a->send.payload);
            if (a->send.payload_is_given)
                buf_put(a->send.payload);
        } else if (a->kind == ACT_DISK) {
            submit(w, &w->nodes[node], a);
        } else {
            CHECK(w, a->kind == ACT_NOTE);
        }
    }
    actions_clear(&w->out);
}

/* --------------------------------------------------------------------------------------------------- application */

static void write_send(struct world *w, struct app_write *m)
{
    m->queued = false;
    m->sent = true;
    struct action *a = actions_add(&w->out, ACT_SEND);
    a->send.payload = m->zeroes ? NULL : m->buf;
    a->send.frame = (struct frame) {
        .kind = m->zeroes ? FRAME_DISCARD : FRAME_WRITE,
        .payload_bytes = m->zeroes ? 0 : (uint32_t)m->range.length_bytes,
        .lsn = m->lsn,
        .offset_bytes = m->range.offset_bytes,
        .length_bytes = m->range.length_bytes,
        .tag = (uint32_t)(m - w->writes),
    };
}

static void disk_change(struct world *w, uint32_t op, const struct app_write *m, struct buf *buf)
{
    struct action *a = actions_add(&w->out, ACT_DISK);
    a->disk.op = op;
    a->disk.kind = m->zeroes ? OP_DISCARD : OP_WRITE;
    a->disk.offset_bytes = m->range.offset_bytes;
    a->disk.length_bytes = m->range.length_bytes;
    a->disk.buf = m->zeroes ? NULL : buf;
}

static void on_write_granted(struct range_lock *lock, struct actions *out)
{
    struct world *w = lock->owner;
    assert_ptr_equal(out, &w->out);
    struct app_write *m = container_of(lock, struct app_write, lock);
    m->granted = true;
    m->alone = !w->up && w->alone;
    if (m->alone)
        bitmap_set(w->nodes[SOURCE].bitmap, m->range);
    else if (w->up)
        write_send(w, m);
    else
        m->queued = true;
    disk_change(w, (uint32_t)(m - w->writes), m, m->buf);
}

static void on_peer_granted(struct range_lock *lock, struct actions *out)
{
    struct world *w = lock->owner;
    assert_ptr_equal(out, &w->out);
    struct app_write *m = container_of(lock, struct app_write, peer_lock);
    m->peer_started = true;
    disk_change(w, OP_PEER_WRITE + (uint32_t)(m - w->writes), m, m->peer_buf);
}

static void write_complete_if_over(struct world *w, struct app_write *m)
{
    if (!m->local_done || !(m->acked || m->alone))
        return;
    if (m->peer_busy)
        return; /* a leftover of this slot is with the target's disk still */
    m->in_use = false;
    if (m->buf)
        buf_put(m->buf);
    m->buf = NULL;
    range_unlock(&w->nodes[SOURCE].locks, &m->lock, &w->out);
}

static void app_begin(struct world *w)
{
    struct app_write *m = &w->writes[prng_below(&w->p, WRITES_MAX)];
    if (m->in_use || m->peer_busy)
        return;
    uint64_t blocks = w->size_bytes / BLOCK_BYTES;
    assert(blocks > 0);
    uint64_t first = prng_below(&w->p, blocks);
    uint64_t count = 1 + prng_below(&w->p, min_u64(WRITE_BLOCKS_MAX, blocks - first));
    for (uint64_t b = first; w->planted && b < first + count; b++) {
        if (w->planted[b * BLOCK_BYTES / w->granule_bytes])
            return;
    }
    struct buf *buf = buf_get(&pools[SOURCE], count * BLOCK_BYTES, 0);
    if (!buf)
        return;
    *m = (struct app_write) { .in_use = true, .lsn = ++w->lsn, .zeroes = chance(w, 25), .buf = buf };
    m->range = (struct range) { first * BLOCK_BYTES, count * BLOCK_BYTES };
    for (uint64_t i = 0; i < count; i++) {
        memset(buf->data + i * BLOCK_BYTES, (int)prng_below(&w->p, 4), BLOCK_BYTES);
        w->written[first + i] = true;
    }
    m->lock.owner = m->peer_lock.owner = w;
    m->lock.on_granted = on_write_granted;
    m->peer_lock.on_granted = on_peer_granted;
    list_init(&m->lock.granted);
    list_init(&m->peer_lock.granted);
    if (range_lock(&w->nodes[SOURCE].locks, &m->lock, m->range, true))
        on_write_granted(&m->lock, &w->out);
    carry_out(w, SOURCE);
}

static void on_peer_write(struct world *w, const struct frame *frame, struct buf *payload)
{
    struct app_write *m = &w->writes[frame->tag];
    CHECK(w, m->in_use && m->sent && m->lsn == frame->lsn);
    CHECK(w, !m->peer_busy);
    m->peer_busy = true;
    m->peer_started = m->peer_forgotten = false;
    m->peer_buf = payload;
    if (range_lock(&w->nodes[TARGET].locks, &m->peer_lock, m->range, true))
        on_peer_granted(&m->peer_lock, &w->out);
    carry_out(w, TARGET);
}

static void peer_write_free(struct world *w, struct app_write *m)
{
    m->peer_busy = false;
    if (m->peer_buf)
        buf_put(m->peer_buf);
    m->peer_buf = NULL;
    range_unlock(&w->nodes[TARGET].locks, &m->peer_lock, &w->out);
    carry_out(w, TARGET);
    if (m->in_use && m->alone) {
        write_complete_if_over(w, m);
        carry_out(w, SOURCE);
    }
}

static void peer_write_done(struct world *w, struct app_write *m)
{
    if (!m->peer_forgotten) {
        struct action *a = actions_add(&w->out, ACT_SEND);
        a->send.frame = (struct frame) { .kind = FRAME_ACK, .lsn = m->lsn, .tag = (uint32_t)(m - w->writes) };
        carry_out(w, TARGET);
    }
    peer_write_free(w, m);
}

/* -------------------------------------------------------------------------------------------------------- events */

static void disk_done(struct world *w, unsigned node)
{
    struct node *n = &w->nodes[node];
    if (n->busy == 0)
        return;
    unsigned nth = (unsigned)prng_below(&w->p, n->busy), slot = 0;
    for (;; slot++) {
        if (n->requests[slot].busy && nth-- == 0)
            break;
    }
    struct request_slot *r = &n->requests[slot];
    struct action a = r->a;
    int32_t result = 0;
    if (a.disk.kind == OP_FLUSH) {
        if (w->write_errors && chance(w, 1))
            result = -EIO;
        else
            memcpy(n->stable, r->snapshot, w->size_bytes);
        free(r->snapshot);
        r->snapshot = NULL;
    } else if (a.disk.kind == OP_READ) {
        for (uint64_t b = a.disk.offset_bytes; b < a.disk.offset_bytes + a.disk.length_bytes; b += BLOCK_BYTES)
            result = n->bad[b / BLOCK_BYTES] ? -EIO : result;
        if (!result) {
            /* All of it was read at once; some is read again now. */
            apply(w, n, &a, false);
        }
    } else if (w->write_errors && a.disk.op >= SYNC_OP_FIRST && prng_below(&w->p, 2000) == 0) {
        result = -EIO;
    } else {
        apply(w, n, &a, true);
    }
    r->busy = false;
    n->busy--;
    if (a.disk.op >= VERIFY_REPLY_OP_FIRST) {
        verify_reply_disk_done(w->verify_reply, a.disk.op, result, w->now_ns, &w->out);
    } else if (a.disk.op >= VERIFY_OP_FIRST) {
        verify_disk_done(w->verify, a.disk.op, result, w->now_ns, &w->out);
    } else if (a.disk.op >= SYNC_SOURCE_OP_FIRST) {
        resync_source_disk_done(w->source, a.disk.op, result, w->now_ns, &w->out);
    } else if (a.disk.op >= SYNC_TARGET_OP_FIRST) {
        resync_target_disk_done(w->target, a.disk.op, result, w->now_ns, &w->out);
    } else if (a.disk.op >= OP_PEER_WRITE) {
        peer_write_done(w, &w->writes[a.disk.op - OP_PEER_WRITE]);
    } else {
        w->writes[a.disk.op].local_done = true;
        write_complete_if_over(w, &w->writes[a.disk.op]);
    }
    carry_out(w, node);
}

static void deliver(struct world *w, unsigned to)
{
    struct queue *q = &w->to[to];
    if (q->count == 0)
        return;
    struct queued_frame f = q->frames[q->first];
    struct buf *payload = NULL;
    if (f.payload) {
        payload = buf_get(&pools[to], f.frame.payload_bytes, 0);
        if (!payload)
            return; /* the stream waits */
        memcpy(payload->data, f.payload, f.frame.payload_bytes);
    }
    if (f.frame.kind == FRAME_WRITE || f.frame.kind == FRAME_DISCARD) {
        /* A leftover of an earlier session holds the slot: the stream waits for the disk. */
        if (w->writes[f.frame.tag].peer_busy) {
            if (payload)
                buf_put(payload);
            return;
        }
    }
    q->first = (q->first + 1) % FRAMES_MAX;
    q->count--;
    free(f.payload);
    const char *wrong = NULL;
    if (f.frame.kind == FRAME_WRITE || f.frame.kind == FRAME_DISCARD) {
        on_peer_write(w, &f.frame, payload);
    } else if (f.frame.kind == FRAME_ACK) {
        struct app_write *m = &w->writes[f.frame.tag];
        CHECK(w, m->in_use && m->sent && m->lsn == f.frame.lsn);
        m->acked = true;
        write_complete_if_over(w, m);
    } else if (f.frame.kind == FRAME_VERIFY_ASK) {
        wrong = verify_reply_frame(w->verify_reply, &f.frame, w->now_ns, &w->out);
    } else if (f.frame.kind == FRAME_VERIFY_REPLY) {
        wrong = verify_frame(w->verify, &f.frame, payload, w->now_ns, &w->out);
    } else if (to == SOURCE) {
        wrong = resync_source_frame(w->source, &f.frame, payload, w->now_ns, &w->out);
    } else {
        wrong = resync_target_frame(w->target, &f.frame, payload, w->now_ns, &w->out);
    }
    carry_out(w, to);
    if (wrong)
        fail_msg("seed %llu: %s: %s", (unsigned long long)w->seed, frame_kind_name(f.frame.kind), wrong);
}

static void tick(struct world *w)
{
    w->now_ns += prng_below(&w->p, NS_PER_MS);
    uint64_t due = min_u64(resync_source_deadline_ns(w->source), resync_target_deadline_ns(w->target));
    bool nothing_else = w->to[0].count + w->to[1].count + w->nodes[0].busy + w->nodes[1].busy == 0;
    if (due != UINT64_MAX && nothing_else)
        w->now_ns = max_u64(w->now_ns, due);
    if (w->now_ns >= resync_source_deadline_ns(w->source)) {
        resync_source_tick(w->source, w->now_ns, &w->out);
        carry_out(w, SOURCE);
    }
    if (w->now_ns >= resync_target_deadline_ns(w->target)) {
        resync_target_tick(w->target, w->now_ns, &w->out);
        carry_out(w, TARGET);
    }
}

static bool in_flight(const struct world *w, uint64_t block)
{
    for (unsigned i = 0; i < WRITES_MAX; i++) {
        const struct app_write *m = &w->writes[i];
        if ((m->in_use || m->peer_busy) &&
            range_overlaps(m->range, (struct range) { block * BLOCK_BYTES, BLOCK_BYTES }))
            return true;
    }
    return false;
}

/* What a clear bit means: equal now, but for writes in flight; and, unless written since, equal on stable storage. */
static void check_clear_bits(const struct world *w, bool also_stable)
{
    const struct node *s = &w->nodes[SOURCE], *t = &w->nodes[TARGET];
    for (uint64_t block = 0; block < w->size_bytes / BLOCK_BYTES; block++) {
        struct range range = { block * BLOCK_BYTES, BLOCK_BYTES };
        if (bitmap_any(s->bitmap, range) || bitmap_any(t->bitmap, range))
            continue;
        size_t at = block * BLOCK_BYTES;
        if (!in_flight(w, block) && memcmp(s->content + at, t->content + at, BLOCK_BYTES) != 0)
            fail_msg("seed %llu: block %llu is clear, and differs", (unsigned long long)w->seed,
                     (unsigned long long)block);
        if (also_stable && !w->written[block] &&
            (memcmp(s->stable + at, t->stable + at, BLOCK_BYTES) != 0 ||
             memcmp(s->stable + at, s->content + at, BLOCK_BYTES) != 0))
            fail_msg("seed %llu: block %llu is clear, and differs on stable storage", (unsigned long long)w->seed,
                     (unsigned long long)block);
    }
}

static void session_begin(struct world *w)
{
    w->session++;
    w->up = true;
    w->alone = false;
    uint8_t nonces[2][32] = { { (uint8_t)w->session }, { 7 } };
    struct digest_key key = resync_key(nonces[0], nonces[1]);
    /* Everything that was not acknowledged, in LSN order. */
    for (uint64_t lsn = 1; lsn <= w->lsn; lsn++) {
        for (unsigned i = 0; i < WRITES_MAX; i++) {
            struct app_write *m = &w->writes[i];
            if (m->in_use && m->lsn == lsn && m->queued)
                write_send(w, m);
        }
    }
    carry_out(w, SOURCE);
    if (chance(w, 5))
        bitmap_set_all(w->nodes[SOURCE].bitmap);
    resync_source_begin(w->source, &key, !w->source_lies, w->now_ns, &w->out);
    carry_out(w, SOURCE);
    resync_target_begin(w->target, &key, !chance(w, 10), w->now_ns);
    carry_out(w, TARGET);
}

static void queues_clear(struct world *w)
{
    for (unsigned i = 0; i < 2; i++) {
        struct queue *q = &w->to[i];
        for (; q->count > 0; q->count--) {
            free(q->frames[q->first].payload);
            q->first = (q->first + 1) % FRAMES_MAX;
        }
    }
}

static void session_end(struct world *w)
{
    check_clear_bits(w, true);
    w->up = false;
    w->alone = chance(w, 50);
    queues_clear(w);
    resync_target_stop(w->target, &w->out);
    carry_out(w, TARGET);
    for (unsigned i = WRITES_MAX; i-- > 0;) {
        struct app_write *m = &w->writes[i];
        if (!m->peer_busy)
            continue;
        m->peer_forgotten = true;
        if (!m->peer_started)
            peer_write_free(w, m);
    }
    resync_source_stop(w->source, &w->out);
    carry_out(w, SOURCE);
    for (unsigned i = 0; i < WRITES_MAX; i++) {
        struct app_write *m = &w->writes[i];
        if (!m->in_use || !m->granted || m->acked || m->alone)
            continue;
        m->sent = false;
        m->queued = !w->alone;
        m->alone = w->alone;
        if (w->alone) {
            bitmap_set(w->nodes[SOURCE].bitmap, m->range);
            write_complete_if_over(w, m);
        }
    }
    carry_out(w, SOURCE);
}

/* Power goes, while the nodes are apart. What was not flushed is there, or not, block by block. */
static void lose_power(struct world *w, unsigned node)
{
    struct node *n = &w->nodes[node];
    if (n->busy > 0)
        return; /* kept simple: the disk was idle */
    for (uint64_t b = 0; b < w->size_bytes / BLOCK_BYTES; b++) {
        if (chance(w, 50))
            memcpy(n->content + b * BLOCK_BYTES, n->stable + b * BLOCK_BYTES, BLOCK_BYTES);
        memcpy(n->stable + b * BLOCK_BYTES, n->content + b * BLOCK_BYTES, BLOCK_BYTES);
        n->lost[b] = false;
    }
    for (uint32_t g = 0; g < granules(w); g++) {
        struct range range = granule_range(w, g);
        /* The source's activity log, or its unflushed set: every granule that the application wrote to. */
        for (uint64_t b = range.offset_bytes; b < range_end(range); b += BLOCK_BYTES) {
            if (w->written[b / BLOCK_BYTES])
                bitmap_set(w->nodes[SOURCE].bitmap, range);
        }
        if (node == TARGET && !w->original[g])
            bitmap_clear(n->bitmap, range); /* was in memory only, on the source's word */
        w->original[g] &= bitmap_any(w->nodes[TARGET].bitmap, range);
    }
}

/* -------------------------------------------------------------------------------------------------------- a run */

static void fill(struct world *w)
{
    struct node *s = &w->nodes[SOURCE], *t = &w->nodes[TARGET];
    unsigned dirty = (unsigned)prng_below(&w->p, 101), zeroes = (unsigned)prng_below(&w->p, 101);
    unsigned really = (unsigned)prng_below(&w->p, 101), bad = chance(w, 30) ? 2 : 0;
    for (uint64_t at = 0; at < w->size_bytes; at += 8) {
        uint64_t v = prng_next(&w->p);
        memcpy(s->content + at, &v, 8);
    }
    bool run = false;
    for (uint32_t g = 0; g < granules(w); g++) {
        struct range range = granule_range(w, g);
        if (chance(w, zeroes) && chance(w, 50))
            memset(s->content + range.offset_bytes, 0, range.length_bytes);
        memcpy(t->content + range.offset_bytes, s->content + range.offset_bytes, range.length_bytes);
        if (g % 8 == 0 || chance(w, 20))
            run = chance(w, dirty);
        if (w->large)
            run = g % 2 == 0; /* entries of one granule */
        w->original[g] = false;
        if (!run)
            continue;
        unsigned who = (unsigned)prng_below(&w->p, 3);
        if (who != 1)
            bitmap_set(s->bitmap, range);
        if (who != 0)
            bitmap_set(t->bitmap, range);
        w->original[g] = who != 0;
        if (chance(w, really))
            t->content[range.offset_bytes + prng_below(&w->p, range.length_bytes)] ^= 0x55;
    }
    memcpy(s->stable, s->content, w->size_bytes);
    memcpy(t->stable, t->content, w->size_bytes);
    for (uint32_t g = 0; g < granules(w); g++) {
        struct range range = granule_range(w, g);
        /* Where either knows that they differ, the source may not have flushed; nor the target, where the source knows.
         */
        if ((bitmap_any(s->bitmap, range) || bitmap_any(t->bitmap, range)) && chance(w, 30)) {
            s->stable[range.offset_bytes] ^= 0xaa;
            s->lost[range.offset_bytes / BLOCK_BYTES] = w->source_lies;
        }
        if (bitmap_any(s->bitmap, range) && chance(w, 30))
            t->stable[range.offset_bytes] ^= 0x99;
        if (bitmap_any(s->bitmap, range) && bad && chance(w, bad))
            s->bad[range.offset_bytes / BLOCK_BYTES] = true;
        if (bad && chance(w, bad))
            t->bad[range.offset_bytes / BLOCK_BYTES] = true;
    }
}

static struct world *world_open(uint64_t seed)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->seed = seed;
    w->p = prng_seed(seed);
    w->now_ns = NS_PER_S;
    w->out = (struct actions) { .list = calloc(16384, sizeof(struct action)), .max = 16384 };
    w->out.text_bytes = 65536;
    w->out.text = malloc(w->out.text_bytes);
    w->granule_bytes = chance(w, 70) ? 512 : chance(w, 70) ? 4096 : 128 * KIB;
    /* Now and then more windows than may be unstable, so that flushes run beside them. */
    w->large = prng_below(&w->p, 150) == 0;
    uint64_t blocks = w->large ? BLOCKS_MAX : 1 + prng_below(&w->p, chance(w, 90) ? 256 : 4096);
    if (w->large)
        w->granule_bytes = 512;
    w->size_bytes = blocks * BLOCK_BYTES;
    w->source_lies = chance(w, 15);
    struct resync_config config = { .backing = "disk", .peer = "peer" };
    for (unsigned i = 0; i < 2; i++) {
        struct node *n = &w->nodes[i];
        range_locks_init(&n->locks);
        n->bitmap = bitmap_open(w->size_bytes, w->granule_bytes, (struct id) { { 1 } }, NULL);
        n->content = malloc(w->size_bytes);
        n->stable = malloc(w->size_bytes);
        config.locks = &n->locks;
        config.bitmap = n->bitmap;
        config.pool = &pools[i];
        config.keep_free_bytes = chance(w, 70) ? 2 * MIB : POOL_BYTES - MIB;
        if (i == SOURCE)
            w->source = resync_source_open(&config);
        else
            w->target = resync_target_open(&config);
    }
    fill(w);
    return w;
}

static void world_close(struct world *w)
{
    queues_clear(w);
    resync_source_close(w->source);
    resync_target_close(w->target);
    for (unsigned i = 0; i < 2; i++) {
        bitmap_close(w->nodes[i].bitmap);
        free(w->nodes[i].content);
        free(w->nodes[i].stable);
    }
    free(w->out.list);
    free(w->out.text);
    free(w);
}

static void drain(struct world *w)
{
    while (w->nodes[SOURCE].busy + w->nodes[TARGET].busy + w->to[SOURCE].count + w->to[TARGET].count > 0) {
        disk_done(w, SOURCE);
        disk_done(w, TARGET);
        if (w->up) {
            deliver(w, SOURCE);
            deliver(w, TARGET);
        }
    }
}

static bool is_over(const struct world *w)
{
    return resync_source_state(w->source) == RESYNC_DONE && resync_target_state(w->target) == RESYNC_DONE;
}

static bool has_failed(const struct world *w)
{
    return resync_source_state(w->source) == RESYNC_FAILED || resync_target_state(w->target) == RESYNC_FAILED;
}

static struct {
    unsigned done, failed, sessions, unreadable, grown;
} seen;

static void run(uint64_t seed)
{
    struct world *w = world_open(seed);
    unsigned break_chance = chance(w, 50) ? 0 : 40 + (unsigned)prng_below(&w->p, 800); /* in 40000 steps */
    unsigned write_chance = (unsigned)prng_below(&w->p, 3) * 5;
    if (w->large) {
        break_chance = 1;
        write_chance = chance(w, 50) ? 0 : write_chance; /* they would soon have touched everything */
    }
    unsigned noisy_steps = w->large ? 150000 : 200 + (unsigned)prng_below(&w->p, 3000);
    w->write_errors = chance(w, 10);
    unsigned steps = 0;
    bool was_unreadable = false;
    for (; !(w->quiet && is_over(w)) && !has_failed(w); steps++) {
        if (steps == noisy_steps) {
            w->quiet = true;
            memset(w->nodes[SOURCE].bad, 0, sizeof(w->nodes[SOURCE].bad));
        }
        if (steps > STEPS_MAX)
            fail_msg("seed %llu: no end", (unsigned long long)seed);
        was_unreadable |= resync_target_state(w->target) == RESYNC_UNREADABLE;
        if (!w->up) {
            if (chance(w, 10))
                lose_power(w, (unsigned)prng_below(&w->p, 2));
            if (chance(w, 20) || w->quiet)
                session_begin(w);
        } else if (!w->quiet && prng_below(&w->p, 40000) < break_chance) {
            session_end(w);
        }
        if (!w->quiet && chance(w, write_chance))
            app_begin(w);
        if (chance(w, 1))
            resync_source_set_busy(w->source, !w->quiet && chance(w, 50));
        switch (prng_below(&w->p, 5)) {
        case 0: disk_done(w, SOURCE); break;
        case 1: disk_done(w, TARGET); break;
        case 2: deliver(w, SOURCE); break;
        case 3: deliver(w, TARGET); break;
        default: tick(w); break;
        }
    }
    seen.sessions += (unsigned)w->session;
    seen.unreadable += was_unreadable;
    if (has_failed(w)) {
        CHECK(w, w->write_errors);
        seen.failed++;
        if (w->up)
            session_end(w);
    } else {
        seen.done++;
        drain(w);
        CHECK(w, bitmap_dirty_bytes(w->nodes[SOURCE].bitmap) == 0);
        CHECK(w, bitmap_dirty_bytes(w->nodes[TARGET].bitmap) == 0);
        check_clear_bits(w, true);
        assert_memory_equal(w->nodes[SOURCE].content, w->nodes[TARGET].content, w->size_bytes);
        struct resync_view s, t;
        resync_source_view(w->source, &s);
        resync_target_view(w->target, &t);
        CHECK(w, s.done_bytes == s.total_bytes && t.done_bytes == t.total_bytes && t.unreadable_bytes == 0);
        session_end(w);
    }
    drain(w);
    w->alone = true;
    for (unsigned i = 0; i < WRITES_MAX; i++) {
        struct app_write *m = &w->writes[i];
        m->alone = true;
        if (m->in_use)
            write_complete_if_over(w, m);
        carry_out(w, SOURCE);
    }
    drain(w);
    /* Nothing is kept: no range, no buffer. */
    CHECK(w, resync_source_is_idle(w->source) && resync_target_is_idle(w->target));
    for (unsigned i = 0; i < 2; i++) {
        CHECK(w, list_empty(&w->nodes[i].locks.all));
        CHECK(w, pools[i].free_bytes == pools[i].arena_bytes);
    }
    world_close(w);
}

/* -------------------------------------------------------------------------------------------------------- verify */

static void on_found(void *ctx, struct range granule, enum verify_finding finding, struct actions *out)
{
    (void)out;
    struct world *w = ctx;
    CHECK(w, granule.offset_bytes % w->granule_bytes == 0);
    uint32_t g = (uint32_t)(granule.offset_bytes / w->granule_bytes);
    CHECK(w, granule.length_bytes == granule_range(w, g).length_bytes);
    CHECK(w, !w->found[g] && w->expected[g] == 1 + (int)finding);
    w->found[g] = true;
}

static void run_verify(uint64_t seed)
{
    struct world *w = world_open(seed);
    struct node *s = &w->nodes[SOURCE], *t = &w->nodes[TARGET];
    memcpy(t->content, s->content, w->size_bytes);
    bitmap_clear(s->bitmap, (struct range) { 0, bitmap_size_bytes(s->bitmap) });
    bitmap_clear(t->bitmap, (struct range) { 0, bitmap_size_bytes(t->bitmap) });
    memset(s->bad, 0, sizeof(s->bad));
    memset(t->bad, 0, sizeof(t->bad));
    assert(granules(w) > 0);
    w->planted = calloc(granules(w), sizeof(bool));
    w->found = calloc(granules(w), sizeof(bool));
    w->expected = calloc(granules(w), sizeof(*w->expected));
    unsigned share = chance(w, 20) ? 100 : (unsigned)prng_below(&w->p, 6);
    uint64_t differing = 0, unreadable = 0, mendable = 0;
    bool mends = chance(w, 50);
    for (uint32_t g = 0; g < granules(w); g++) {
        struct range range = granule_range(w, g);
        w->planted[g] = chance(w, share);
        if (!w->planted[g])
            continue;
        unsigned kind = (unsigned)prng_below(&w->p, 13);
        if (kind > 3) {
            t->content[range.offset_bytes + prng_below(&w->p, range.length_bytes)] ^= 1;
            w->expected[g] = 1 + VERIFY_DIFFERS;
            differing += range.length_bytes;
            continue;
        }
        s->bad[range.offset_bytes / BLOCK_BYTES] = kind != 0;
        t->bad[range.offset_bytes / BLOCK_BYTES] = kind <= 1;
        w->expected[g] = 1 + (kind == 0   ? VERIFY_UNREADABLE_THERE
                              : kind == 1 ? VERIFY_UNREADABLE_BOTH
                                          : VERIFY_UNREADABLE_HERE);
        if (kind > 1 && mends) {
            w->expected[g] = 0;
            mendable += range.length_bytes;
        } else {
            unreadable += range.length_bytes;
        }
    }
    /* In some the volume grows meanwhile: both know of a part of it before. */
    uint32_t known = chance(w, 40) ? 1 + (uint32_t)prng_below(&w->p, granules(w)) : granules(w);
    uint64_t size_bytes = min_u64((uint64_t)known * w->granule_bytes, w->size_bytes);
    struct bitmap *sizes[2];
    for (unsigned i = 0; i < 2; i++)
        sizes[i] = bitmap_open(size_bytes, w->granule_bytes, (struct id) { { 1 } }, NULL);
    struct resync_config config = { .backing = "disk", .peer = "peer", .keep_free_bytes = MIB };
    config.locks = &s->locks;
    config.bitmap = sizes[SOURCE];
    config.pool = &pools[SOURCE];
    w->verify = verify_open(&config, on_found, w);
    config.locks = &t->locks;
    config.bitmap = sizes[TARGET];
    config.pool = &pools[TARGET];
    w->verify_reply = verify_reply_open(&config);
    w->up = true;
    unsigned write_chance = (unsigned)prng_below(&w->p, 4) * 5;
    uint64_t stop_at = chance(w, 50) ? 0 : 1 + prng_below(&w->p, 200);
    uint64_t grow_at = prng_below(&w->p, 50);
    struct verify_view view = { 0 };
    verify_reply_begin(w->verify_reply, &solo_key);
    verify_begin(w->verify, &solo_key, w->now_ns, &w->out);
    carry_out(w, SOURCE);
    for (unsigned steps = 0; !view.done; steps++) {
        CHECK(w, steps < STEPS_MAX);
        if (steps == grow_at && size_bytes < w->size_bytes) {
            size_bytes = w->size_bytes;
            seen.grown++;
            for (unsigned i = 0; i < 2; i++)
                CHECK(w, bitmap_resize(sizes[i], size_bytes, NULL) == 0);
        }
        if (steps && steps == stop_at) {
            /* The session breaks; what is with the disks is answered in the next one. */
            verify_stop(w->verify, &w->out);
            carry_out(w, SOURCE);
            verify_reply_stop(w->verify_reply, &w->out);
            carry_out(w, TARGET);
            for (unsigned i = 0; i < 2; i++) {
                for (unsigned n = w->to[i].count; n > 0; n--) {
                    struct queue *q = &w->to[i];
                    struct queued_frame f = q->frames[q->first];
                    q->first = (q->first + 1) % FRAMES_MAX;
                    q->count--;
                    if (f.frame.kind != FRAME_VERIFY_ASK && f.frame.kind != FRAME_VERIFY_REPLY)
                        q->frames[(q->first + q->count++) % FRAMES_MAX] = f;
                    else
                        free(f.payload);
                }
            }
            memset(w->found, 0, granules(w) * sizeof(bool));
            verify_reply_begin(w->verify_reply, &solo_key);
            verify_begin(w->verify, &solo_key, w->now_ns, &w->out);
            carry_out(w, SOURCE);
        }
        if (chance(w, write_chance))
            app_begin(w);
        if (chance(w, 1))
            verify_set_busy(w->verify, chance(w, 50));
        switch (prng_below(&w->p, 5)) {
        case 0: disk_done(w, SOURCE); break;
        case 1: disk_done(w, TARGET); break;
        case 2: deliver(w, SOURCE); break;
        case 3: deliver(w, TARGET); break;
        default:
            w->now_ns += 2 * NS_PER_MS;
            verify_tick(w->verify, w->now_ns, &w->out);
            carry_out(w, SOURCE);
            verify_reply_tick(w->verify_reply, w->now_ns, &w->out);
            carry_out(w, TARGET);
            break;
        }
        struct range lost;
        if (chance(w, 30) && verify_wants_mend(w->verify, &lost)) {
            CHECK(w, s->bad[lost.offset_bytes / BLOCK_BYTES]);
            verify_mended(w->verify, mends ? 0 : -EIO, w->now_ns, &w->out);
            carry_out(w, SOURCE);
        }
        verify_view(w->verify, &view);
        CHECK(w, view.done_bytes <= view.total_bytes);
    }
    /* It has told of all that there was before its end, and of nothing more. */
    CHECK(w, view.done_bytes == size_bytes && view.total_bytes == size_bytes);
    for (uint32_t g = 0; g < granules(w); g++)
        CHECK(w, w->found[g] == (w->expected[g] != 0 && granule_range(w, g).offset_bytes < size_bytes));
    if (size_bytes == w->size_bytes) {
        CHECK(w, view.differing_bytes == differing && view.unreadable_bytes == unreadable);
        CHECK(w, view.mended_bytes == mendable);
    }
    drain(w);
    verify_reply_stop(w->verify_reply, &w->out);
    CHECK(w, verify_is_idle(w->verify) && verify_reply_is_idle(w->verify_reply));
    for (unsigned i = 0; i < 2; i++) {
        CHECK(w, list_empty(&w->nodes[i].locks.all));
        CHECK(w, pools[i].free_bytes == pools[i].arena_bytes);
    }
    verify_close(w->verify);
    verify_reply_close(w->verify_reply);
    for (unsigned i = 0; i < 2; i++)
        bitmap_close(sizes[i]);
    free(w->planted);
    free(w->found);
    free(w->expected);
    world_close(w);
}

static void verify_finds_what_differs_and_nothing_else(void **state)
{
    (void)state;
    unsigned long long first = env("RESYNC_SEED", 1), count = env("RESYNC_SEEDS", VERIFY_SEEDS);
    for (unsigned long long seed = first; seed < first + count; seed++)
        run_verify(seed);
    assert_true(count < VERIFY_SEEDS || seen.grown > 100);
}

/* --------------------------------------------------------------------------------------------------- one machine */

/* A machine alone, and a peer made by hand. Its disk reads zeroes, and completes when it is told to. */
struct solo {
    struct actions out;
    struct range_locks locks;
    struct bitmap *bitmap;
    struct resync_source *source;
    struct resync_target *target;
    uint64_t size_bytes;
};

static struct solo *solo_open(uint64_t size_bytes, uint32_t granule_bytes)
{
    struct solo *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    t->out = (struct actions) { .list = calloc(4096, sizeof(struct action)), .max = 4096, .text_bytes = 4096 };
    t->out.text = malloc(t->out.text_bytes);
    t->size_bytes = size_bytes;
    range_locks_init(&t->locks);
    t->bitmap = bitmap_open(size_bytes, granule_bytes, (struct id) { { 1 } }, NULL);
    struct resync_config config = {
        .backing = "disk", .peer = "peer", .locks = &t->locks, .bitmap = t->bitmap, .pool = &pools[0]
    };
    t->source = resync_source_open(&config);
    t->target = resync_target_open(&config);
    return t;
}

/* The frames that were sent, and the requests, given back; how many requests there were. */
static unsigned solo_take(struct solo *t)
{
    unsigned requests = 0;
    for (uint32_t i = 0; i < t->out.count; i++) {
        requests += t->out.list[i].kind == ACT_DISK;
        if (t->out.list[i].kind == ACT_SEND && t->out.list[i].send.payload_is_given)
            buf_put(t->out.list[i].send.payload);
    }
    actions_clear(&t->out);
    return requests;
}

static unsigned solo_disk_all(struct solo *t)
{
    unsigned done = 0;
    while (t->out.count > 0) {
        struct action copy[4096];
        uint32_t n = t->out.count;
        memcpy(copy, t->out.list, n * sizeof(copy[0]));
        solo_take(t);
        for (uint32_t i = 0; i < n; i++) {
            if (copy[i].kind != ACT_DISK)
                continue;
            const struct action *a = &copy[i];
            if (a->disk.kind == OP_READ)
                memset(a->disk.buf->data + a->disk.buf_offset_bytes, 0, a->disk.length_bytes);
            if (a->disk.op >= SYNC_SOURCE_OP_FIRST)
                resync_source_disk_done(t->source, a->disk.op, 0, 1, &t->out);
            else
                resync_target_disk_done(t->target, a->disk.op, 0, 1, &t->out);
            done++;
        }
    }
    return done;
}

static void solo_close(struct solo *t)
{
    solo_take(t);
    resync_source_stop(t->source, &t->out);
    resync_target_stop(t->target, &t->out);
    assert_true(list_empty(&t->locks.all));
    assert_int_equal(pools[0].free_bytes, pools[0].arena_bytes);
    resync_source_close(t->source);
    resync_target_close(t->target);
    bitmap_close(t->bitmap);
    free(t->out.list);
    free(t->out.text);
    free(t);
}

static struct sync_entry_wire entry(uint64_t offset, uint64_t length, uint32_t flags)
{
    return (struct sync_entry_wire) { .offset_bytes = to_le64(offset),
                                      .length_bytes = to_le32((uint32_t)length),
                                      .flags = to_le32(flags) };
}

static const char *ask(struct solo *t, uint32_t tag, const struct sync_entry_wire *entries, unsigned count)
{
    struct buf *payload = buf_get(&pools[0], count * sizeof(*entries), 0);
    memcpy(payload->data, entries, count * sizeof(*entries));
    struct frame frame = { .kind = FRAME_SYNC_ASK, .tag = tag, .payload_bytes = count * (uint32_t)sizeof(*entries) };
    return resync_source_frame(t->source, &frame, payload, 1, &t->out);
}

/* A good question, by which the target tells how far it is. */
static const char *ask_at(struct solo *t, uint32_t tag, uint64_t done_bytes, uint64_t total_bytes)
{
    struct sync_entry_wire good = entry(0, 4096, 0);
    struct buf *payload = buf_get(&pools[0], sizeof(good), 0);
    memcpy(payload->data, &good, sizeof(good));
    struct frame frame = { .kind = FRAME_SYNC_ASK,
                           .tag = tag,
                           .payload_bytes = sizeof(good),
                           .lsn = done_bytes,
                           .offset_bytes = total_bytes };
    return resync_source_frame(t->source, &frame, payload, 1, &t->out);
}

static const char *say(struct solo *t, enum frame_kind kind, uint32_t tag)
{
    struct frame frame = { .kind = kind, .tag = tag };
    return resync_source_frame(t->source, &frame, NULL, 1, &t->out);
}

static void complains(const char *wrong, const char *of)
{
    if (!wrong || !strstr(wrong, of))
        fail_msg("\"%s\" is not about \"%s\"", wrong ? wrong : "nothing", of);
}

static void a_source_bounds_a_hostile_target(void **state)
{
    (void)state;
    struct solo *t = solo_open(MIB, 4096);
    struct sync_entry_wire good = entry(0, 4096, 0);
    complains(ask(t, 1, &good, 1), "no resync");
    bitmap_set_all(t->bitmap);
    resync_source_begin(t->source, &solo_key, true, 1, &t->out);
    complains(ask(t, 2, &good, 1), "tag");
    complains(ask(t, 0, &good, 1), "tag");
    struct {
        struct sync_entry_wire entries[2];
        const char *wrong;
    } cases[] = {
        { { entry(0, 4096, 0), entry(0, 4096, 0) }, "overlap" },
        { { entry(8192, 4096, 0), entry(0, 4096, 0) }, "rise" },
        { { entry(0, 4096, 0), entry(MIB, 4096, 0) }, "granules" },
        { { entry(0, 4096, 0), entry(UINT64_MAX - 4095, 4096, 0) }, "granules" },
        { { entry(0, 4096, 0), entry(4096, 0, 0) }, "granules" },
        { { entry(0, 4096, 0), entry(4096, 512, 0) }, "granules" },
        { { entry(0, 4096, 0), entry(4608, 4096, 0) }, "granules" },
        { { entry(0, 4096, 0), entry(4096, 4096, 2) }, "flag" },
        { { entry(0, 4096, 0), entry(4096, SYNC_WINDOW_BYTES_MAX, 0) }, "too many bytes" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        complains(ask(t, 1, cases[i].entries, 2), cases[i].wrong);
    complains(ask_at(t, 1, 0, MIB + 512), "impossible progress");
    complains(ask_at(t, 1, 8192, 4096), "impossible progress");
    complains(say(t, FRAME_SYNC_STABLE, 1), "tag");
    solo_take(t);

    /* No more windows at a time than agreed, whatever the disk does. */
    for (uint32_t i = 1; i <= SYNC_WINDOWS_MAX; i++)
        assert_null(ask(t, i, &good, 1));
    complains(ask(t, SYNC_WINDOWS_MAX + 1, &good, 1), "more windows at a time");
    complains(say(t, FRAME_SYNC_STABLE, 1), "tag");
    complains(say(t, FRAME_SYNC_DONE, 0), "not stable");
    assert_int_equal(solo_disk_all(t), SYNC_WINDOWS_MAX);
    /* Nor more in all than it remembers. */
    for (uint32_t i = SYNC_WINDOWS_MAX + 1; i <= SYNC_UNSTABLE_WINDOWS_MAX; i++) {
        assert_null(ask(t, i, &good, 1));
        solo_disk_all(t);
    }
    complains(ask(t, SYNC_UNSTABLE_WINDOWS_MAX + 1, &good, 1), "not stable yet");
    assert_null(say(t, FRAME_SYNC_STABLE, 3));
    complains(say(t, FRAME_SYNC_STABLE, 3), "tag");
    complains(say(t, FRAME_SYNC_STABLE, SYNC_UNSTABLE_WINDOWS_MAX + 1), "tag");
    assert_true(bitmap_any(t->bitmap, (struct range) { 0, 4096 }));
    assert_int_equal(solo_disk_all(t), 1); /* the flush */
    assert_false(bitmap_any(t->bitmap, (struct range) { 0, 4096 }));
    assert_null(say(t, FRAME_SYNC_STABLE, SYNC_UNSTABLE_WINDOWS_MAX));
    complains(say(t, FRAME_SYNC_DONE, 0), "not stable"); /* not before its own flush */
    solo_disk_all(t);
    assert_null(say(t, FRAME_SYNC_DONE, 0));
    /* It lied: nearly all bits are set. */
    assert_int_equal(resync_source_state(t->source), RESYNC_AGAIN);
    complains(say(t, FRAME_SYNC_DONE, 0), "no resync");
    solo_close(t);
}

/* There is no memory for its bits: until the target has them, it cannot know what to ask for, nor be done. */
static void a_source_hears_nothing_before_its_bits_are_over(void **state)
{
    (void)state;
    struct solo *t = solo_open(MIB, 4096);
    struct sync_entry_wire good = entry(0, 4096, 0);
    struct buf *held[POOL_BYTES / MIB];
    bitmap_set_all(t->bitmap);
    for (unsigned i = 0; i < ARRAY_LEN(held); i++)
        assert_non_null(held[i] = buf_get(&pools[0], MIB, 0));
    resync_source_begin(t->source, &solo_key, true, 1, &t->out);
    assert_int_equal(t->out.count, 0);
    for (unsigned i = 0; i < ARRAY_LEN(held); i++)
        buf_put(held[i]);
    complains(ask(t, 1, &good, 1), "before all bits");
    complains(say(t, FRAME_SYNC_DONE, 0), "before all bits");
    assert_int_equal(resync_source_state(t->source), RESYNC_RUNNING);
    resync_source_tick(t->source, 2, &t->out);
    assert_null(ask(t, 1, &good, 1));
    assert_int_equal(solo_disk_all(t), 1);
    solo_close(t);
}

/* Ticks come late; what is compared in the end is what was allowed, within a burst and a window. */
static void a_limit_of_rate_is_kept_and_reached(void **state)
{
    const uint64_t rate = 16 * MIB, seconds = 4;
    struct pace p = { .bytes_per_s = rate };
    uint64_t taken = 0, now_ns = 5 * NS_PER_S, end_ns = now_ns + seconds * NS_PER_S;
    for (; now_ns < end_ns; now_ns += 30 * NS_PER_MS) {
        while (pace_allows(&p, now_ns)) {
            pace_take(&p, SYNC_WINDOW_BYTES_MAX, now_ns);
            taken += SYNC_WINDOW_BYTES_MAX;
        }
    }
    uint64_t burst = rate * PACE_BURST_NS / NS_PER_S + SYNC_WINDOW_BYTES_MAX;
    assert_in_range(taken, rate * seconds - burst, rate * seconds + burst);
    /* A pause is not made up for. */
    now_ns += 3600 * NS_PER_S;
    for (taken = 0; pace_allows(&p, now_ns); taken += MIB)
        pace_take(&p, MIB, now_ns);
    assert_in_range(taken, MIB, burst + MIB);
    struct pace none = { 0 };
    for (int i = 0; i < 1000; i++)
        pace_take(&none, MIB, 1);
    assert_true(pace_allows(&none, 1));
}

static void a_target_asks_no_faster_than_it_may(void **state)
{
    struct solo *t = solo_open(4 * MIB, 4096);
    struct resync_config config = { .backing = "disk",
                                    .peer = "peer",
                                    .locks = &t->locks,
                                    .bitmap = t->bitmap,
                                    .pool = &pools[0],
                                    .bytes_per_s = MIB };
    resync_target_close(t->target);
    t->target = resync_target_open(&config);
    bitmap_set_all(t->bitmap);
    uint64_t now_ns = 10 * NS_PER_S;
    resync_target_begin(t->target, &solo_key, true, now_ns);
    struct frame end = { .kind = FRAME_SYNC_BITS };
    assert_null(resync_target_frame(t->target, &end, NULL, now_ns, &t->out));
    uint64_t begun_ns = now_ns;
    for (unsigned windows = 1; windows < 5; windows++) {
        uint64_t asked = 0;
        for (uint32_t i = 0; i < t->out.count; i++)
            asked += t->out.list[i].kind == ACT_DISK ? t->out.list[i].disk.length_bytes : 0;
        assert_in_range(asked, 1, SYNC_WINDOW_BYTES_MAX);
        solo_disk_all(t);
        now_ns = resync_target_deadline_ns(t->target);
        assert_in_range(now_ns - begun_ns, windows * asked * NS_PER_S / MIB - PACE_BURST_NS,
                        windows * SYNC_WINDOW_BYTES_MAX * NS_PER_S / MIB);
        resync_target_tick(t->target, now_ns - 1, &t->out);
        assert_int_equal(t->out.count, 0);
        resync_target_tick(t->target, now_ns, &t->out);
    }
    solo_disk_all(t);
    solo_close(t);
}

static unsigned locks_of(const struct solo *t)
{
    unsigned n = 0;
    list_for_each (node, &t->locks.all)
        n++;
    return n;
}

static void granted_later(struct range_lock *lock, struct actions *out)
{
    (void)out;
    *(bool *)lock->owner = true;
}

/* Entries near each other share a lock, gaps and all; it is given back when all of them are answered, and not before.
 */
static void scattered_entries_share_locks(void **state)
{
    (void)state;
    struct solo *t = solo_open(8 * MIB, 4096);
    bitmap_set_all(t->bitmap);
    resync_source_begin(t->source, &solo_key, true, 1, &t->out);
    solo_take(t);
    /* A gap as long as may be; one that is longer; a span that becomes too long. */
    struct sync_entry_wire entries[SYNC_ENTRIES_MAX] = { entry(0, 4096, 0), entry(4096 + SPAN_GAP_BYTES_MAX, 4096, 0),
                                                         entry(12288 + 2 * SPAN_GAP_BYTES_MAX, 4096, 0) };
    unsigned count = 3;
    for (uint64_t at = 4 * MIB; at <= 4 * MIB + SPAN_BYTES_MAX; at += 64 * KIB)
        entries[count++] = entry(at, 4096, 0);
    assert_null(ask(t, 1, entries, count));
    assert_int_equal(locks_of(t), 4);

    bool gap_granted = false, beyond_granted = false;
    struct range_lock gap = { .on_granted = granted_later, .owner = &gap_granted };
    struct range_lock beyond = { .on_granted = granted_later, .owner = &beyond_granted };
    assert_false(range_lock(&t->locks, &gap, (struct range) { 8192, 4096 }, true));
    assert_true(range_lock(&t->locks, &beyond, (struct range) { 2 * MIB, 4096 }, true));

    struct action reads[SYNC_ENTRIES_MAX];
    uint32_t reads_count = 0;
    for (uint32_t i = 0; i < t->out.count; i++) {
        assert_int_equal(t->out.list[i].kind, ACT_DISK);
        reads[reads_count++] = t->out.list[i];
    }
    assert_int_equal(reads_count, count);
    actions_clear(&t->out);
    for (uint32_t i = 0; i < reads_count; i++) {
        bool last = i + 1 == reads_count;
        memset(reads[i].disk.buf->data + reads[i].disk.buf_offset_bytes, 1, reads[i].disk.length_bytes);
        assert_int_equal(resync_source_disk_done(t->source, reads[i].disk.op, 0, 2, &t->out), last);
        assert_int_equal(gap_granted, last);
        assert_int_equal(t->out.count, last);
    }
    assert_int_equal(t->out.list[0].send.frame.payload_bytes, SYNC_TABLE_BYTES + count * 4096);
    range_unlock(&t->locks, &gap, &t->out);
    range_unlock(&t->locks, &beyond, &t->out);
    solo_close(t);
}

/* The session ends while one span waits and another is with the disk: the one is given back now, the other then. */
static void a_window_that_is_cut_off_keeps_what_is_with_the_disk(void **state)
{
    (void)state;
    struct solo *t = solo_open(8 * MIB, 4096);
    bitmap_set_all(t->bitmap);
    resync_source_begin(t->source, &solo_key, true, 1, &t->out);
    solo_take(t);
    bool granted = false;
    struct range_lock change = { .on_granted = granted_later, .owner = &granted };
    assert_true(range_lock(&t->locks, &change, (struct range) { 2 * MIB, 4096 }, true));
    struct sync_entry_wire entries[] = { entry(0, 4096, 0), entry(8192, 4096, 0), entry(2 * MIB, 4096, 0) };
    assert_null(ask(t, 1, entries, 3));
    assert_int_equal(t->out.count, 2);
    struct action first = t->out.list[0], second = t->out.list[1];
    solo_take(t);
    resync_source_stop(t->source, &t->out);
    assert_int_equal(locks_of(t), 2); /* the change's, and one span's */
    range_unlock(&t->locks, &change, &t->out);
    assert_false(resync_source_is_idle(t->source));
    assert_true(resync_source_disk_done(t->source, first.disk.op, 0, 2, &t->out));
    assert_int_equal(locks_of(t), 1);
    assert_true(resync_source_disk_done(t->source, second.disk.op, -EIO, 2, &t->out));
    assert_true(resync_source_is_idle(t->source));
    solo_close(t);
}

static const char *tell(struct solo *t, struct frame frame, const void *data)
{
    struct buf *payload = NULL;
    if (frame.payload_bytes) {
        payload = buf_get(&pools[0], frame.payload_bytes, 0);
        memset(payload->data, 0, frame.payload_bytes);
        if (data)
            memcpy(payload->data, data, min_u64(frame.payload_bytes, SYNC_TABLE_BYTES));
    }
    return resync_target_frame(t->target, &frame, payload, 1, &t->out);
}

static void a_target_believes_only_what_it_asked_for(void **state)
{
    (void)state;
    static uint8_t table[SYNC_TABLE_BYTES];
    struct solo *t = solo_open(12 * 1024, 4096);
    struct frame bits = { .kind = FRAME_SYNC_BITS, .flags = FRAME_FLAG_ALL, .length_bytes = 12 * 1024 };
    struct frame data = { .kind = FRAME_SYNC_DATA, .tag = 1, .payload_bytes = SYNC_TABLE_BYTES };
    complains(tell(t, bits, NULL), "no resync");
    complains(tell(t, data, table), "no resync");
    resync_target_begin(t->target, &solo_key, true, 1);
    struct frame bad = bits;
    bad.length_bytes = 16 * 1024;
    complains(tell(t, bad, NULL), "whole granules");
    bad.length_bytes = 512;
    complains(tell(t, bad, NULL), "whole granules");
    bad = bits;
    bad.flags = 0;
    bad.payload_bytes = 2;
    complains(tell(t, bad, table), "one bit a granule");
    complains(tell(t, data, table), "not asked");
    assert_null(tell(t, bits, NULL));
    assert_null(tell(t, (struct frame) { .kind = FRAME_SYNC_BITS }, NULL));
    complains(tell(t, bits, NULL), "after their end");
    /* One run of three granules is read for its digest; then asked for. */
    solo_disk_all(t);
    data.tag = 2;
    complains(tell(t, data, table), "not asked");
    data.tag = 1;
    table[0] = 4;
    complains(tell(t, data, table), "unknown answer");
    table[0] = SYNC_ANSWER_DATA;
    complains(tell(t, data, table), "wrong length");
    data.payload_bytes = SYNC_TABLE_BYTES + 16 * 1024;
    complains(tell(t, data, table), "wrong length");
    data.payload_bytes = SYNC_TABLE_BYTES + 12 * 1024;
    assert_null(tell(t, data, table));
    complains(tell(t, data, table), "not asked");
    struct frame stable = { .kind = FRAME_SYNC_STABLE, .tag = 1 };
    complains(tell(t, stable, NULL), "did not call so");
    assert_int_equal(solo_disk_all(t), 2); /* the write, the flush */
    /* It has its flush; what it was sent may be in the source's cache only. */
    assert_int_equal(bitmap_dirty_bytes(t->bitmap), 12 * 1024);
    assert_int_equal(resync_target_state(t->target), RESYNC_RUNNING);
    for (stable.tag = 0; stable.tag <= 2; stable.tag += 2)
        complains(tell(t, stable, NULL), "tag");
    stable.tag = 1;
    assert_null(tell(t, stable, NULL));
    assert_int_equal(bitmap_dirty_bytes(t->bitmap), 0);
    assert_int_equal(resync_target_state(t->target), RESYNC_DONE);
    table[0] = 0;
    solo_close(t);
}

/* A leg whose reads prove nothing asks without digests: who calls it equal would leave it as it is. */
static void what_has_no_digest_is_never_equal(void **state)
{
    (void)state;
    static const uint8_t table[SYNC_TABLE_BYTES] = { SYNC_ANSWER_EQUAL };
    struct solo *t = solo_open(12 * 1024, 4096);
    struct frame bits = { .kind = FRAME_SYNC_BITS, .flags = FRAME_FLAG_ALL, .length_bytes = 12 * 1024 };
    struct frame data = { .kind = FRAME_SYNC_DATA, .tag = 1, .payload_bytes = SYNC_TABLE_BYTES };
    resync_target_begin(t->target, &solo_key, false, 1);
    assert_null(tell(t, bits, NULL));
    assert_null(tell(t, (struct frame) { .kind = FRAME_SYNC_BITS }, NULL));
    assert_int_equal(solo_take(t), 0); /* nothing was read */
    complains(tell(t, data, table), "equal without a digest");
    assert_int_equal(bitmap_dirty_bytes(t->bitmap), 12 * 1024);
    solo_close(t);
}

static const char *ask_verify(struct solo *t, struct verify_reply *r, uint64_t offset_bytes, uint64_t length_bytes)
{
    struct frame frame = { .kind = FRAME_VERIFY_ASK, .offset_bytes = offset_bytes, .length_bytes = length_bytes };
    return verify_reply_frame(r, &frame, 1, &t->out);
}

/* Who compares asks for pieces of the volume, and for so many at a time as there is room for here. */
static void a_verify_answers_no_more_than_was_agreed(void **state)
{
    (void)state;
    enum { SIZE_BYTES = 2 * MIB + 4096 + 512 };
    static const struct range bad[] = {
        { SIZE_BYTES, 4096 },
        { 2 * MIB, 2 * 4096 },
        { UINT64_MAX - 4095, 4096 },
        { UINT64_MAX - 4095, 8192 },
        { 0, 0 },
        { 512, 4096 },
        { 0, 512 },
        { 0, VERIFY_PIECE_BYTES + 4096 },
    };
    struct solo *t = solo_open(SIZE_BYTES, 4096);
    struct resync_config config = {
        .backing = "disk", .peer = "peer", .locks = &t->locks, .bitmap = t->bitmap, .pool = &pools[0]
    };
    struct verify_reply *r = verify_reply_open(&config);
    complains(ask_verify(t, r, 0, 4096), "no verify");
    verify_reply_begin(r, &solo_key);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        complains(ask_verify(t, r, bad[i].offset_bytes, bad[i].length_bytes), "range not of this volume");
    assert_int_equal(t->out.count, 0);
    /* The last granule is short. Those of one place wait for nothing, as reads share it. */
    for (unsigned i = 0; i < VERIFY_WINDOWS_MAX; i++)
        assert_null(ask_verify(t, r, i & 1 ? 0 : 2 * MIB + 4096, i & 1 ? VERIFY_PIECE_BYTES : 512));
    complains(ask_verify(t, r, 0, 4096), "more ranges at a time");
    assert_int_equal(t->out.count, VERIFY_WINDOWS_MAX);
    struct action first = t->out.list[0];
    assert_int_equal(first.kind, ACT_DISK);
    actions_clear(&t->out);
    /* An answer makes room for one more question. */
    memset(first.disk.buf->data, 0, first.disk.length_bytes);
    verify_reply_disk_done(r, first.disk.op, 0, 1, &t->out);
    assert_int_equal(t->out.list[0].send.frame.kind, FRAME_VERIFY_REPLY);
    assert_int_equal(solo_take(t), 0);
    assert_null(ask_verify(t, r, 0, 4096));
    complains(ask_verify(t, r, 0, 4096), "more ranges at a time");
    actions_clear(&t->out);
    verify_reply_stop(r, &t->out);
    for (unsigned i = 0; i < VERIFY_WINDOWS_MAX; i++)
        verify_reply_disk_done(r, VERIFY_REPLY_OP_FIRST + i, -EIO, 1, &t->out);
    assert_true(verify_reply_is_idle(r));
    verify_reply_close(r);
    solo_close(t);
}

/* A bitmap as large as it takes for runs that need no bits. */
static void the_targets_bits_become_the_union(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct prng p = prng_seed(seed);
        uint64_t size = 3 * TIB + prng_below(&p, 4096) * 512;
        struct solo *s = solo_open(size, 256 * KIB), *t = solo_open(size, 256 * KIB);
        struct bitmap *wanted = bitmap_open(size, 256 * KIB, (struct id) { { 1 } }, NULL);
        for (unsigned i = 0; i < 40; i++) {
            struct range range = { prng_below(&p, size), 0 };
            range.length_bytes =
                1 + prng_below(&p, min_u64(size - range.offset_bytes, prng_chance(&p, 100000) ? 2 * TIB : 20 * GIB));
            if (prng_chance(&p, 700000))
                bitmap_set(s->bitmap, range);
            else
                bitmap_set(t->bitmap, range);
            bitmap_set(wanted, range);
        }
        if (seed % 4 == 0) {
            bitmap_set_all(s->bitmap);
            bitmap_set_all(wanted);
        }
        resync_target_begin(t->target, &solo_key, true, 1);
        resync_source_begin(s->source, &solo_key, true, 1, &s->out);
        bool over = false;
        for (uint64_t now = 2; !over; now++) {
            for (uint32_t i = 0; i < s->out.count; i++) {
                const struct action *a = &s->out.list[i];
                over = a->send.frame.length_bytes == 0;
                if (over)
                    break;
                assert_null(tell(t, a->send.frame, a->send.payload ? a->send.payload->data : NULL));
            }
            solo_take(s);
            if (!over)
                resync_source_tick(s->source, now, &s->out);
        }
        struct range range, found;
        uint64_t at = 0;
        while (bitmap_next(wanted, at, TIB, &range)) {
            assert_true(bitmap_next(t->bitmap, at, TIB, &found));
            assert_true(range.offset_bytes == found.offset_bytes && range.length_bytes == found.length_bytes);
            at = range_end(range);
        }
        assert_false(bitmap_next(t->bitmap, at, TIB, &found));
        bitmap_close(wanted);
        solo_close(s);
        solo_close(t);
    }
}

static void legs_become_equal_whatever_happens(void **state)
{
    (void)state;
    unsigned long long first = env("RESYNC_SEED", 1), count = env("RESYNC_SEEDS", SEEDS);
    for (unsigned long long seed = first; seed < first + count; seed++)
        run(seed);
    printf("%u done, %u ended by a failed disk, %u sessions, %u with unreadable blocks\n", seen.done, seen.failed,
           seen.sessions, seen.unreadable);
    if (count >= SEEDS)
        assert_true(seen.done > 0 && seen.failed > 0 && seen.unreadable > 0 && seen.sessions > count);
}

static int open_pools(void **state)
{
    (void)state;
    return buf_pool_open(&pools[0], POOL_BYTES) || buf_pool_open(&pools[1], POOL_BYTES);
}

static int close_pools(void **state)
{
    (void)state;
    buf_pool_close(&pools[0]);
    buf_pool_close(&pools[1]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_source_bounds_a_hostile_target),
        cmocka_unit_test(a_source_hears_nothing_before_its_bits_are_over),
        cmocka_unit_test(scattered_entries_share_locks),
        cmocka_unit_test(a_window_that_is_cut_off_keeps_what_is_with_the_disk),
        cmocka_unit_test(a_limit_of_rate_is_kept_and_reached),
        cmocka_unit_test(a_target_asks_no_faster_than_it_may),
        cmocka_unit_test(a_target_believes_only_what_it_asked_for),
        cmocka_unit_test(what_has_no_digest_is_never_equal),
        cmocka_unit_test(a_verify_answers_no_more_than_was_agreed),
        cmocka_unit_test(the_targets_bits_become_the_union),
        cmocka_unit_test(legs_become_equal_whatever_happens),
        cmocka_unit_test(verify_finds_what_differs_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, open_pools, close_pools);
}
