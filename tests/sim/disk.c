/* A simulated disk: requests end in any order and after any time, fail, tear, and reach stable storage when they like.
 */
#include <errno.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/base/range.h"
#include "tests/sim/sim.h"

#define LATENCY_MIN_NS (10 * NS_PER_US)
#define LATENCY_MAX_NS (300 * NS_PER_US)
#define LATENCY_LONG_NS (20 * NS_PER_MS)

static_assert(SECTOR_BYTES == BLOCK_BYTES, "a block is a sector");

void sim_disk_open(struct sim_disk *d)
{
    medium_open(&d->data, MODEL_BLOCKS_MAX);
    d->image[SIM_CONTENT] = (struct model_image) { .data = d->data.content,
                                                   .stamps = d->data.content_stamps,
                                                   .twin = &d->image[SIM_STABLE] };
    d->image[SIM_STABLE] = (struct model_image) { .data = d->data.stable,
                                                  .stamps = d->data.stable_stamps,
                                                  .twin = &d->image[SIM_CONTENT] };
}

void sim_disk_reset(struct sim *s, unsigned node, uint32_t block_count)
{
    struct sim_disk *d = &s->disk[node];
    d->node = node;
    d->block_count = block_count;
    medium_reset(&d->data);
    memset(d->readers, 0, sizeof(d->readers));
    memset(d->writers, 0, sizeof(d->writers));
    memset(d->requests, 0, d->request_high * sizeof(d->requests[0]));
    d->request_high = d->free_count = d->busy = 0;
    d->faults = (struct sim_disk_faults) { 0 };
    d->stalled_until_ns = 0;
    d->zeroes_fast = sim_chance(s, CHANCE_DISK, 700000);
    d->has_failed = d->lies = d->shows_old = false;
}

/* ---- what is spoilt without a word ---- */

bool sim_is_spoilt(const struct sim *s, uint32_t block, const uint8_t *data)
{
    uint64_t check = s->spoilt.count[block] ? checksum64(data, BLOCK_BYTES) : 0;
    for (unsigned i = 0; i < s->spoilt.count[block]; i++) {
        if (s->spoilt.checks[block][i] == check)
            return true;
    }
    return false;
}

/* A flaw goes where its content goes, also to the other disk. */
static void find_spoilt(struct sim *s, struct sim_disk *d, uint32_t block)
{
    if (s->spoilt.count[block] == 0)
        return;
    if (sim_is_spoilt(s, block, sim_block(d->data.content, block)))
        medium_is_damaged(&d->data, block);
    if (sim_is_spoilt(s, block, sim_block(d->data.stable, block)))
        medium_stable_is_damaged(&d->data, block);
}

/* The other leg may have it already: what a lost write was to replace, and a resync finds to be the same on both. */
static void know_spoilt(struct sim *s, uint32_t block, const uint8_t *data)
{
    s->spoilt.any = true;
    if (sim_is_spoilt(s, block, data))
        return;
    if (s->spoilt.count[block] == SIM_SPOILT_MAX)
        sim_fail(s, "simulator", "block %u was spoilt more than %d times", block, SIM_SPOILT_MAX);
    s->spoilt.checks[block][s->spoilt.count[block]++] = checksum64(data, BLOCK_BYTES);
    s->spoilt.last_ns[block] = s->now_ns;
    for (unsigned i = 0; i < SIM_NODES; i++)
        find_spoilt(s, &s->disk[i], block);
}

static void spoil(struct sim *s, struct sim_disk *d, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        uint64_t words[BLOCK_BYTES / 8];
        for (unsigned w = 0; w < ARRAY_LEN(words); w++)
            words[w] = prng_next(&s->chance[CHANCE_DISK]);
        medium_write(&d->data, i, (const uint8_t *)words);
        medium_settle(&d->data, i);
    }
}

void sim_disk_replace(struct sim *s, unsigned node, bool spoilt)
{
    struct sim_disk *d = &s->disk[node];
    assert(d->busy == 0);
    sim_trace(s, "%c disk    is replaced", 'A' + node);
    sim_disk_reset(s, node, d->block_count);
    if (spoilt)
        spoil(s, d, 0, d->block_count);
    for (uint32_t b = 0; s->spoilt.any && b < d->block_count; b++)
        find_spoilt(s, d, b);
}

void sim_disk_grow(struct sim *s, unsigned node, uint32_t block_count)
{
    struct sim_disk *d = &s->disk[node];
    assert(block_count <= MODEL_BLOCKS_MAX);
    sim_trace(s, "%c disk    grows to %u blocks", 'A' + node, block_count);
    spoil(s, d, d->block_count, block_count);
    d->block_count = block_count;
}

static const uint8_t *payload_of(const struct sim_disk_request *r, uint32_t i)
{
    return r->kind == OP_WRITE ? r->buf->data + r->buf_offset + (size_t)i * BLOCK_BYTES : NULL;
}

static bool is_change(enum op_kind kind) { return kind == OP_WRITE || kind == OP_DISCARD || kind == OP_WRITE_ZEROES; }

/* A read that the peer answered is written back, among other reads: they meet the same data, or the error. */
static bool is_mending(const struct sim_disk_request *r)
{
    return r->kind == OP_WRITE && r->op > MIRROR_CHANGES_MAX && r->op <= MIRROR_CHANGES_MAX + MIRROR_READS_MAX;
}

/* What it writes was read from the other disk; else it is what a client wants. */
static bool is_copy(const struct sim_disk_request *r)
{
    return is_mending(r) || (r->op >= SYNC_OP_FIRST && r->op < SYNC_OP_END);
}

/* What the other disk has lost meanwhile was to replace this change, too, where it comes so late. */
static bool may_bring_spoilt(const struct sim *s, const struct sim_disk_request *r, uint32_t block)
{
    return s->spoilt.any && (is_copy(r) || r->begun_ns < s->spoilt.last_ns[block]);
}

static void apply_block(struct sim *s, struct sim_disk *d, const struct sim_disk_request *r, uint32_t i)
{
    medium_write(&d->data, r->first + i, payload_of(r, i));
    if (may_bring_spoilt(s, r, r->first + i))
        find_spoilt(s, d, r->first + i);
}

static bool is_shared(const struct sim_disk_request *r) { return r->kind == OP_READ || is_mending(r); }

/* No two requests in flight may touch one block unless both read it: a disk owes nobody an order. */
static void lock_check(struct sim *s, struct sim_disk *d, const struct sim_disk_request *r)
{
    for (uint32_t i = r->first; i < r->first + r->count; i++) {
        if (d->writers[i] > 0 || (d->readers[i] > 0 && !is_shared(r)))
            sim_fail(s, "disk-overlap", "node %u: %s of blocks %u-%u begins while a %s of block %u is in flight",
                     d->node, op_name(r->kind), r->first, r->first + r->count - 1, d->writers[i] ? "change" : "read",
                     i);
    }
}

static void lock_count(struct sim_disk *d, const struct sim_disk_request *r, int by)
{
    uint16_t *counts = is_shared(r) ? d->readers : d->writers;
    for (uint32_t i = r->first; i < r->first + r->count; i++)
        counts[i] = (uint16_t)(counts[i] + by);
}

static uint64_t latency_ns(struct sim *s, struct sim_disk *d)
{
    uint64_t ns = sim_between(s, CHANCE_DISK, LATENCY_MIN_NS, LATENCY_MAX_NS);
    if (sim_chance(s, CHANCE_DISK, d->faults.slow_per_million))
        ns = sim_between(s, CHANCE_DISK, LATENCY_MAX_NS, LATENCY_LONG_NS);
    return ns;
}

void sim_disk_submit(struct sim *s, unsigned node, const struct action *a)
{
    struct sim_disk *d = &s->disk[node];
    struct sim_disk_request r = { .busy = true, .op = a->disk.op, .kind = a->disk.kind, .flags = a->disk.flags };
    if (r.kind != OP_FLUSH) {
        struct range range = { a->disk.offset_bytes, a->disk.length_bytes };
        if (range.offset_bytes % BLOCK_BYTES || range.length_bytes % BLOCK_BYTES || range.length_bytes == 0 ||
            !range_fits(range, (uint64_t)d->block_count * BLOCK_BYTES))
            sim_fail(s, "disk-range", "node %u: %s at %llu + %llu", node, op_name(r.kind),
                     (unsigned long long)range.offset_bytes, (unsigned long long)range.length_bytes);
        r.first = (uint32_t)(range.offset_bytes / BLOCK_BYTES);
        r.count = (uint32_t)(range.length_bytes / BLOCK_BYTES);
        lock_check(s, d, &r);
        lock_count(d, &r, 1);
    }
    if (r.kind == OP_READ || r.kind == OP_WRITE) {
        r.buf = a->disk.buf;
        r.buf_offset = a->disk.buf_offset_bytes;
        if (!r.buf || r.buf->refs == 0 || r.buf->size_bytes < r.buf_offset + a->disk.length_bytes)
            sim_fail(s, "disk-buffer", "node %u: %s without a buffer of its size", node, op_name(r.kind));
        if (r.kind == OP_WRITE)
            r.check = checksum64(r.buf->data + r.buf_offset, a->disk.length_bytes);
    }
    r.begun_ns = s->now_ns;
    if (r.kind == OP_FLUSH)
        memcpy(r.dirty_before, d->data.dirty, sizeof(r.dirty_before));
    if (d->free_count == 0 && d->request_high == SIM_DISK_REQUESTS_MAX)
        sim_fail(s, "disk-flood", "node %u: more than %u requests in flight", node, SIM_DISK_REQUESTS_MAX);
    uint32_t slot = d->free_count ? d->free_slots[--d->free_count] : d->request_high++;
    d->requests[slot] = r;
    d->busy++;
    sim_trace(s, "%c disk    %s blocks %u+%u%s op %u begins", 'A' + node, op_name(r.kind), r.first, r.count,
              r.flags & OP_FLAG_FUA ? " fua" : "", r.op);
    sim_at(s, max_u64(s->now_ns, d->stalled_until_ns) + latency_ns(s, d), Q_DISK, node, slot);
}

/* Writes a part of what was asked: a random subset of blocks, as a disk may when it is interrupted. */
static void apply_part(struct sim *s, struct sim_disk *d, const struct sim_disk_request *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        if (sim_chance(s, CHANCE_DISK, 500000))
            apply_block(s, d, r, i);
    }
}

/* A flush that fails is told once: the next one knows nothing of what was lost, and succeeds. */
static void lose_dirt(struct sim *s, struct sim_disk *d, const struct sim_disk_request *r)
{
    for (uint32_t i = 0; i < d->block_count; i++) {
        if (sector_bit(r->dirty_before, i) && sim_chance(s, CHANCE_DISK, 300000))
            medium_forget_dirty(&d->data, i);
    }
    d->shows_old = true;
}

/* Until its daemon ends: what a failed flush has lost is not in the cache any more either. Only as long as another leg
 * can answer instead; what nobody else has, a disk that shows something older gives to nobody. */
static bool shows_stable(struct sim *s, struct sim_disk *d, uint32_t block)
{
    struct engine_view v;
    bool lost = !sector_bit(d->data.dirty, block) &&
                memcmp(sim_block(d->data.content, block), sim_block(d->data.stable, block), BLOCK_BYTES) != 0;
    return lost && sim_node_view(s, d->node, &v) && v.diskless_epoch;
}

uint32_t sim_disk_old_block(struct sim *s, unsigned node, uint32_t from)
{
    struct sim_disk *d = &s->disk[node];
    for (uint32_t i = from; d->shows_old && i < d->block_count; i++)
        if (shows_stable(s, d, i))
            return i;
    return UINT32_MAX;
}

static void read_blocks(struct sim *s, struct sim_disk *d, const struct sim_disk_request *r)
{
    uint8_t *to = r->buf->data + r->buf_offset;
    memcpy(to, sim_block(d->data.content, r->first), (size_t)r->count * BLOCK_BYTES);
    for (uint32_t i = 0; d->shows_old && i < r->count; i++) {
        if (!shows_stable(s, d, r->first + i))
            continue;
        COVER(read_old);
        memcpy(to + (size_t)i * BLOCK_BYTES, sim_block(d->data.stable, r->first + i), BLOCK_BYTES);
    }
}

static void count_error(enum op_kind kind)
{
    switch (kind) {
    case OP_READ: COVER(disk_read_error); return;
    case OP_WRITE: COVER(disk_write_error); return;
    case OP_DISCARD:
    case OP_WRITE_ZEROES: COVER(disk_zero_error); return;
    case OP_FLUSH: COVER(disk_flush_error); return;
    }
}

static void know_damaged(struct sim *s, struct sim_disk *d, uint32_t first, uint32_t count)
{
    for (uint32_t b = first; b < first + count; b++) {
        if (sector_bit(d->data.damaged, b))
            know_spoilt(s, b, sim_block(d->data.content, b));
    }
}

/* Damage that no answer tells of. True: the change has gone this way instead of where it should. */
static bool goes_astray(struct sim *s, struct sim_disk *d, const struct sim_disk_request *r)
{
    if (sim_chance(s, CHANCE_DISK, d->faults.lost_per_million)) {
        COVER(disk_lost_write);
        sim_trace(s, "%c disk    %s blocks %u+%u op %u is lost", 'A' + d->node, op_name(r->kind), r->first, r->count,
                  r->op);
        for (uint32_t i = 0; i < r->count; i++)
            medium_write_lost(&d->data, r->first + i, payload_of(r, i));
        know_damaged(s, d, r->first, r->count);
        return true;
    }
    if (sim_chance(s, CHANCE_DISK, d->faults.misdirected_per_million)) {
        uint32_t to = (uint32_t)sim_below(s, CHANCE_DISK, d->block_count - r->count + 1);
        COVER(disk_misdirected_write);
        sim_trace(s, "%c disk    %s blocks %u+%u op %u lands at %u", 'A' + d->node, op_name(r->kind), r->first,
                  r->count, r->op, to);
        if (to == r->first)
            return false;
        medium_write_misdirected(&d->data, r->first, r->count, to, payload_of(r, 0));
        know_damaged(s, d, r->first, r->count);
        know_damaged(s, d, to, r->count);
        return true;
    }
    return false;
}

static int32_t do_change(struct sim *s, struct sim_disk *d, struct sim_disk_request *r)
{
    bool astray = (d->faults.lost_per_million || d->faults.misdirected_per_million) && goes_astray(s, d, r);
    for (uint32_t i = 0; !astray && i < r->count; i++)
        apply_block(s, d, r, i);
    if (r->flags & OP_FLAG_FUA) {
        for (uint32_t i = 0; i < r->count; i++)
            medium_settle(&d->data, r->first + i);
    }
    /* The cache writes back what it likes, when it likes. */
    if (sim_chance(s, CHANCE_DISK, 200000)) {
        uint32_t from = (uint32_t)sim_below(s, CHANCE_DISK, d->block_count);
        for (uint32_t i = from; i < d->block_count && i < from + 16; i++)
            medium_settle(&d->data, i);
    }
    return 0;
}

static int32_t do_request(struct sim *s, struct sim_disk *d, struct sim_disk_request *r)
{
    if (sim_chance(s, CHANCE_DISK, d->faults.error_per_million[r->kind])) {
        count_error(r->kind);
        if (is_change(r->kind))
            apply_part(s, d, r);
        if (r->kind == OP_FLUSH)
            lose_dirt(s, d, r);
        if (r->kind == OP_READ)
            memset(r->buf->data + r->buf_offset, 0xee, (size_t)r->count * BLOCK_BYTES);
        else
            d->has_failed = true;
        return r->kind == OP_WRITE && sim_chance(s, CHANCE_DISK, 300000) ? -ENOSPC : -EIO;
    }
    switch (r->kind) {
    case OP_READ:
        if (!medium_is_readable(&d->data, r->first, r->count)) {
            COVER(disk_latent_error);
            memset(r->buf->data + r->buf_offset, 0xee, (size_t)r->count * BLOCK_BYTES);
            return -EIO;
        }
        read_blocks(s, d, r);
        return 0;
    case OP_WRITE:
        if (sim_chance(s, CHANCE_DISK, d->faults.short_per_million)) {
            COVER(disk_short_write);
            uint32_t part = (uint32_t)sim_below(s, CHANCE_DISK, r->count);
            for (uint32_t i = 0; i < part; i++)
                apply_block(s, d, r, i);
            d->has_failed = true;
            return -EIO;
        }
        return do_change(s, d, r);
    case OP_DISCARD: return do_change(s, d, r);
    case OP_WRITE_ZEROES:
        if ((r->flags & OP_FLAG_FAST_ONLY) && !d->zeroes_fast)
            return -EOPNOTSUPP;
        return do_change(s, d, r);
    case OP_FLUSH: medium_settle_all(&d->data, r->dirty_before); return 0;
    }
    return -EINVAL;
}

static void end_request(struct sim_disk *d, uint32_t slot)
{
    struct sim_disk_request *r = &d->requests[slot];
    if (r->kind != OP_FLUSH)
        lock_count(d, r, -1);
    r->busy = false;
    d->free_slots[d->free_count++] = slot;
    d->busy--;
}

void sim_disk_event(struct sim *s, unsigned node, uint32_t slot)
{
    struct sim_disk *d = &s->disk[node];
    struct sim_disk_request *r = &d->requests[slot];
    if (d->stalled_until_ns > s->now_ns) {
        sim_at(s, d->stalled_until_ns + latency_ns(s, d), Q_DISK, node, slot);
        return;
    }
    assert(r->kind != OP_WRITE || r->buf);
    if (r->buf && r->buf->refs == 0)
        sim_fail(s, "disk-buffer", "node %u: the buffer of a %s in flight was freed", node, op_name(r->kind));
    if (r->kind == OP_WRITE && checksum64(r->buf->data + r->buf_offset, (size_t)r->count * BLOCK_BYTES) != r->check)
        sim_fail(s, "disk-buffer", "node %u: the payload of a write in flight (blocks %u-%u) was changed", node,
                 r->first, r->first + r->count - 1);
    int32_t result = do_request(s, d, r);
    sim_mix(s, (uint64_t)r->op << 32 | (uint32_t)result);
    sim_trace(s, "%c disk    %s blocks %u+%u op %u ends: %d", 'A' + node, op_name(r->kind), r->first, r->count, r->op,
              result);
    uint32_t op = r->op;
    end_request(d, slot);
    sim_node_engine(s, node, (struct event) { .kind = EV_DISK_DONE, .disk = { .op = op, .result = result } });
}

void sim_disk_crash(struct sim *s, unsigned node)
{
    struct sim_disk *d = &s->disk[node];
    for (uint32_t slot = 0; slot < d->request_high; slot++) {
        struct sim_disk_request *r = &d->requests[slot];
        if (!r->busy)
            continue;
        if (is_change(r->kind)) {
            switch (sim_below(s, CHANCE_DISK, 3)) {
            case 0: break;
            case 1:
                COVER(crash_torn_write);
                apply_part(s, d, r);
                break;
            default:
                for (uint32_t i = 0; i < r->count; i++)
                    apply_block(s, d, r, i);
            }
        }
        end_request(d, slot);
    }
    sim_disk_daemon_ends(s, node);
}

void sim_disk_daemon_ends(struct sim *s, unsigned node)
{
    struct sim_disk *d = &s->disk[node];
    /* A daemon that dies before it could record a failed flush would not know of it: not simulated, what was lost is
     * found again. Else it reads on, and is never written. */
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    d->shows_old = false;
    d->lies = sb.reads_lie;
    if (d->lies)
        COVER(reads_lie);
    else
        medium_find_dirty(&d->data);
}

void sim_disk_stop_lying(struct sim *s, unsigned node)
{
    if (s->disk[node].lies)
        medium_find_dirty(&s->disk[node].data);
    s->disk[node].lies = false;
}

/* Of what it was just writing, also from its cache, a block may be torn inside, or be gone. */
static void tear(struct sim *s, struct sim_disk *d)
{
    for (uint32_t b = 0; b < d->block_count; b++) {
        if (!sector_bit(d->data.dirty, b) || s->spoilt.count[b] > 0)
            continue;
        const uint8_t *block = sim_block(d->data.stable, b);
        uint8_t before[BLOCK_BYTES];
        memcpy(before, block, BLOCK_BYTES);
        if (sim_chance(s, CHANCE_DISK, s->plan.cut.unreadable_per_million)) {
            COVER(cut_unreadable);
            medium_break(&d->data, b);
            sim_trace(s, "%c disk    block %u cannot be read any more", 'A' + d->node, b);
        } else if (sim_chance(s, CHANCE_DISK, s->plan.cut.torn_per_million) &&
                   medium_tear(&d->data, b, &s->chance[CHANCE_DISK])) {
            COVER(cut_torn);
            if (b < s->model.block_count)
                model_tear(&s->model, b, before, sim_block(d->data.content, b), block);
            sim_trace(s, "%c disk    block %u is torn", 'A' + d->node, b);
        }
    }
}

void sim_disk_power_loss(struct sim *s, unsigned node, unsigned survive_per_million)
{
    struct sim_disk *d = &s->disk[node];
    for (uint32_t slot = 0; slot < d->request_high; slot++) {
        struct sim_disk_request *r = &d->requests[slot];
        if (!r->busy)
            continue;
        if (is_change(r->kind))
            apply_part(s, d, r);
        end_request(d, slot);
    }
    tear(s, d);
    uint32_t lost = medium_power_loss(&d->data, &s->chance[CHANCE_DISK], survive_per_million);
    if (lost > 0)
        COVER(power_lost_sectors);
    d->lies = d->shows_old = false;
    sim_trace(s, "%c disk    loses power, and %u unflushed blocks with it", 'A' + node, lost);
}

bool sim_disk_make_unreadable(struct sim *s, unsigned node)
{
    struct sim_disk *d = &s->disk[node];
    uint32_t block = (uint32_t)sim_below(s, CHANCE_DISK, d->block_count);
    if (!medium_make_unreadable(&d->data, block))
        return false;
    sim_trace(s, "%c disk    block %u cannot be read any more", 'A' + node, block);
    return true;
}

void sim_disk_rot(struct sim *s, unsigned node)
{
    struct sim_disk *d = &s->disk[node];
    uint32_t block = (uint32_t)sim_below(s, CHANCE_DISK, s->block_count);
    /* What is written over soon is seldom found. */
    for (int i = 0; i < 8 && sector_bit(d->data.dirty, block); i++)
        block = (uint32_t)sim_below(s, CHANCE_DISK, s->block_count);
    COVER(disk_rot);
    medium_rot(&d->data, block, (uint32_t)sim_below(s, CHANCE_DISK, SECTOR_BYTES * 8));
    know_spoilt(s, block, sim_block(d->data.stable, block));
    sim_trace(s, "%c disk    block %u rots", 'A' + node, block);
}
