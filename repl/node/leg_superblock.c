/* A leg's superblock on the ring: where it lies, also if the backing has grown or its move was cut off. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/scoped.h"
#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"
#include "repl/node/leg.h"

#define ALL_COPIES ((1u << SUPERBLOCK_COPIES) - 1)

static uint8_t (*blocks_of(struct leg *leg))[SUPERBLOCK_BYTES]
{
    return (uint8_t(*)[SUPERBLOCK_BYTES])leg->store.blocks->data;
}

static void store_start(struct leg *leg, unsigned count, uint32_t flags, disk_done_fn *done)
{
    struct leg_store *store = &leg->store;
    store->pending = count;
    for (; count > 0; count--) {
        unsigned i = store->order[store->started++];
        store->copies[i].leg = leg;
        struct disk_io *io = &store->copies[i].io;
        io->kind = store->kind;
        io->flags = flags;
        io->offset_bytes = superblock_copy_offset(&leg->layout, i);
        io->length_bytes = SUPERBLOCK_BYTES;
        io->data = blocks_of(leg)[i];
        io->done = done;
        disk_submit(leg->meta, io);
    }
}

static void store_begin(struct leg *leg, enum op_kind kind)
{
    struct leg_store *store = &leg->store;
    assert(store->pending == 0);
    store->kind = kind;
    superblock_write_order(store->bad, store->order);
    store->started = 0;
    store->good = 0;
    store->bad = 0;
    store->first_error = 0;
}

static struct leg *leg_of(struct disk_io *io) { return container_of(io, struct leg_copy, io)->leg; }

/* True when this was the last of those under way. */
static bool store_copy_done(struct leg_store *store, struct disk_io *io)
{
    if (io->result == 0)
        store->good++;
    else
        store->bad |= 1u << (container_of(io, struct leg_copy, io) - store->copies);
    if (!store->first_error)
        store->first_error = io->result;
    return --store->pending == 0;
}

static void read_done(struct disk_io *io)
{
    struct leg *leg = leg_of(io);
    /* What cannot be read is as good as damaged. */
    if (io->result)
        memset(io->data, 0, SUPERBLOCK_BYTES);
    if (store_copy_done(&leg->store, io))
        ring_stop(leg->ring);
}

static int check_superblock(const struct leg *leg, const struct volume_config *config, const struct superblock *sb,
                            struct err *err)
{
    const struct config_node *self = config_self(config);
    if (strcmp(sb->volume, config->volume) != 0)
        return err_set(err, -EINVAL, "%s: holds volume %s, not %s: check `backing` in the configuration", self->backing,
                       sb->volume, config->volume);
    if (strcmp(sb->node, self->name) != 0)
        return err_set(err, -EINVAL, "%s: is the leg of node %s, not %s: check --node and `backing`", self->backing,
                       sb->node, self->name);
    if (sb->granule_bytes != GRANULE_BYTES_DEFAULT || sb->extent_bytes != EXTENT_BYTES_DEFAULT)
        return err_set(err, -ENOTSUP,
                       "%s: has granules of %u and extents of %u bytes, where this program knows %u and %u: use the "
                       "program that wrote it",
                       self->backing, sb->granule_bytes, sb->extent_bytes, GRANULE_BYTES_DEFAULT, EXTENT_BYTES_DEFAULT);
    if (sb->backing_bytes > leg->bare->geometry.size_bytes)
        return err_set(err, -ENOSPC, "%s: has shrunk from %llu to %llu bytes, and the volume with it: restore its size",
                       self->backing, (unsigned long long)sb->backing_bytes,
                       (unsigned long long)leg->bare->geometry.size_bytes);
    if (config->size_bytes && sb->size_bytes > config->size_bytes)
        return err_set(err, -EINVAL,
                       "%s: the volume has %llu bytes, where the configuration says %llu: set `size` back",
                       self->backing, (unsigned long long)sb->size_bytes, (unsigned long long)config->size_bytes);
    return 0;
}

static int read_copies(struct leg *leg, struct superblock *sb, struct err *err)
{
    store_begin(leg, OP_READ);
    store_start(leg, SUPERBLOCK_COPIES, 0, read_done);
    ring_run(leg->ring, NULL, NULL);
    unsigned agree = 0;
    int r = superblock_choose(blocks_of(leg), sb, &agree, err);
    leg->store.bad = ALL_COPIES & ~agree;
    return r;
}

int leg_tell_read_copy(struct leg *leg, unsigned copy, struct err *err)
{
    struct superblock sb;
    struct err why = { 0 };
    int32_t error = leg->store.copies[copy].io.result;
    unsigned long long at_bytes = superblock_copy_offset(&leg->layout, copy);
    if (!(leg->store.bad & 1u << copy))
        return 0;
    if (!error && superblock_decode(blocks_of(leg)[copy], copy, &sb, &why) == 0)
        return err_set(err, -ESTALE,
                       "%s: superblock copy %u at %llu differed from the others, as after a write that was cut off or "
                       "had failed, and was written again",
                       leg->meta->path, copy, at_bytes);
    return err_set(err, -EBADMSG,
                   "%s: superblock copy %u at %llu was damaged, and was written again: %s. If that comes again without "
                   "a loss of power, replace the disk",
                   leg->meta->path, copy, at_bytes, error ? strerror(-error) : why.text);
}

/* Of those just read: what could not be read, or is ours in part. It did not count, and may another time. */
static unsigned suspect_copies(struct leg *leg)
{
    unsigned suspects = 0;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        struct superblock sb;
        struct err ignored = { 0 };
        if (leg->store.copies[i].io.result || superblock_decode(blocks_of(leg)[i], i, &sb, &ignored) != -ENOENT)
            suspects |= 1u << i;
    }
    return suspects;
}

/* A disk that was never a leg's is not read to its beginning. */
#define SEARCH_NS (3 * NS_PER_S)

struct search_read {
    struct disk_io io;
    struct ring *ring;
    unsigned *pending;
};

static void search_read_done(struct disk_io *io)
{
    struct search_read *r = container_of(io, struct search_read, io);
    if (--*r->pending == 0)
        ring_stop(r->ring);
}

/* Reads the metadata from where it lies if the backing has grown since, and leaves the layout so. -ENOENT: it was not
 * found. A copy that is alone, as one of an earlier life that was missed, hides no leg that lies further back. */
static int read_former_end(struct leg *leg, struct superblock *sb, struct err *err)
{
    CLEANUP_FREE struct search_read *reads = calloc(SUPERBLOCK_SEARCH_READS, sizeof(*reads));
    CLEANUP_FREE void *bytes = NULL;
    if (!reads || posix_memalign(&bytes, BUF_BYTES_MIN, SUPERBLOCK_SEARCH_READS * SUPERBLOCK_BYTES)) {
        return err_set(err, -ENOMEM, "out of memory");
    }
    struct meta_layout passed = leg->layout, found;
    int r = -ENOENT;
    struct superblock_search search;
    uint64_t places[SUPERBLOCK_SEARCH_READS];
    unsigned pending;
    uint64_t until_ns = ring_now_ns(leg->ring) + SEARCH_NS;
    superblock_search_begin(&search, leg->meta->geometry.size_bytes);
    while (ring_now_ns(leg->ring) < until_ns && (pending = superblock_search_next(&search, places))) {
        unsigned count = pending;
        for (unsigned i = 0; i < count; i++) {
            reads[i] = (struct search_read) { .ring = leg->ring, .pending = &pending };
            reads[i].io.kind = OP_READ;
            reads[i].io.offset_bytes = places[i];
            reads[i].io.length_bytes = SUPERBLOCK_BYTES;
            reads[i].io.data = (uint8_t *)bytes + i * SUPERBLOCK_BYTES;
            reads[i].io.done = search_read_done;
            disk_submit(leg->meta, &reads[i].io);
        }
        ring_run(leg->ring, NULL, NULL);
        for (unsigned i = 0; i < count; i++) {
            if (reads[i].io.result || !superblock_search_look(places[i], reads[i].io.data, &passed, &found))
                continue;
            leg->layout = passed = found;
            r = read_copies(leg, sb, err);
            if (r == 0)
                return 0;
        }
    }
    return r;
}

struct wait_io {
    struct disk_io io;
    struct ring *ring;
};

static void waited_io_done(struct disk_io *io) { ring_stop(container_of(io, struct wait_io, io)->ring); }

/* What cannot be read tells of nothing. */
static bool holds_trace(struct leg *leg)
{
    CLEANUP_FREE void *bytes = NULL;
    struct wait_io w = { .ring = leg->ring };
    struct range left = meta_trace_range(&leg->layout);
    if (posix_memalign(&bytes, BUF_BYTES_MIN, META_TRACE_STEP_BYTES))
        return false;
    while (left.length_bytes > 0) {
        w.io.kind = OP_READ;
        w.io.offset_bytes = left.offset_bytes;
        w.io.length_bytes = META_TRACE_STEP_BYTES;
        w.io.data = bytes;
        w.io.done = waited_io_done;
        disk_submit(leg->meta, &w.io);
        ring_run(leg->ring, NULL, NULL);
        if (!w.io.result && meta_trace_found(bytes, META_TRACE_STEP_BYTES))
            return true;
        left.offset_bytes += META_TRACE_STEP_BYTES;
        left.length_bytes -= META_TRACE_STEP_BYTES;
    }
    return false;
}

/* No copy is ours, here or at a former end. Nobody whose disk is bad, or whose backing has changed, may be led to zero
 * it. */
static int tell_no_leg(struct leg *leg, const struct volume_config *config, int32_t read_error, struct err *err)
{
    if (read_error)
        return err_set(err, -EIO, "%s: superblocks cannot be read: %s. If that stays: " METADATA_LOST_ADVICE,
                       leg->meta->path, strerror(-read_error));
    if (holds_trace(leg))
        return err_set(
            err, -EBADMSG,
            "%s: holds the activity log or the bitmap of a leg, but none of its superblocks: " METADATA_LOST_ADVICE,
            leg->meta->path);
    return err_set(
        err, -ENOENT, "%s: holds no leg yet: run `lockstep create %s` on this node%s", leg->bare->path, config->volume,
        leg_is_internal(leg) ? ". If it did hold one, do not: the metadata was at its end, and was looked for there. "
                               "Give it its former size back"
                             : ". If it did hold one, do not: this is not the metadata that it had. Check `metadata`, "
                               "and what is mounted");
}

/* What is zeroed there, is so before the volume can be as large, and never again. */
static int check_former(const struct leg *leg, const struct superblock *sb, struct err *err)
{
    struct meta_layout former;
    struct err ignored = { 0 };
    if (!sb->moved_from_bytes)
        return 0;
    if (!leg_is_internal(leg) || meta_layout_internal(sb->moved_from_bytes, &former, &ignored) ||
        former.meta_offset_bytes < max_u64(sb->size_bytes, sb->room_bytes) ||
        former.meta_offset_bytes + former.meta_bytes > leg->layout.meta_offset_bytes)
        return err_set(err, -EBADMSG, "%s: tells of old metadata in a place where none can be", leg->meta->path);
    return 0;
}

/* The layout that the superblock tells of: the backing may have grown since. */
static int settle_layout(struct leg *leg, const struct volume_config *config, const struct superblock *sb,
                         struct err *err)
{
    struct meta_layout layout;
    uint64_t holder_bytes = leg_is_internal(leg) ? 0 : leg->meta->geometry.size_bytes;
    int r = leg_layout(config, sb->backing_bytes, holder_bytes, &layout, err);
    if (r)
        return r;
    if (layout.meta_offset_bytes != leg->layout.meta_offset_bytes)
        return err_set(err, -EBADMSG, "%s: holds the metadata of a backing of another size", leg->meta->path);
    if (max_u64(sb->size_bytes, sb->room_bytes) > layout.data_bytes)
        return err_set(err, -EBADMSG, "%s: tells of a volume of %llu bytes, for which there is no room",
                       leg->meta->path, (unsigned long long)sb->size_bytes);
    leg->layout = layout;
    return check_former(leg, sb, err);
}

/* Copies that differ are left by a write that was cut off with its daemon: those that count may be in the disk's cache
 * only. The first write goes over the others, and with the power none would be left. Where all agree the last two may
 * be there still, and that write goes over the first two. */
static int make_copies_stable(struct leg *leg, struct err *err)
{
    struct wait_io w = { .ring = leg->ring };
    w.io.kind = OP_FLUSH;
    w.io.done = waited_io_done;
    disk_submit(leg->meta, &w.io);
    ring_run(leg->ring, NULL, NULL);
    return w.io.result
               ? err_set(err, w.io.result, "%s: its superblocks cannot be flushed before they are written again: %s",
                         leg->meta->path, strerror(-w.io.result))
               : 0;
}

int leg_read_superblock(struct leg *leg, const struct volume_config *config, struct superblock *sb, struct err *err)
{
    struct meta_layout present = leg->layout;
    int r = read_copies(leg, sb, err);
    int32_t read_error = leg->store.first_error;
    /* Damaged at the present end, good at a former one: a move of the metadata was cut off before it counted. */
    bool look_further = leg_is_internal(leg) && (r == -ENOENT || r == -EBADMSG);
    struct err ignored = { 0 };
    if (look_further) {
        leg->suspects = suspect_copies(leg);
        int former = read_former_end(leg, sb, r == -ENOENT ? err : &ignored);
        /* What was found last counts, but finding none leaves what was there before. */
        r = former == -ENOENT || former == -ENOMEM ? r : former;
    }
    if (r == -ENOENT)
        return tell_no_leg(leg, config, read_error, err);
    if (r == -EBADMSG) {
        struct err why = *err;
        return err_set(err, r, "%s: %s: " METADATA_LOST_ADVICE, leg->meta->path, why.text);
    }
    if (r)
        return err_prefix(err, "%s", leg->meta->path);
    r = check_superblock(leg, config, sb, err);
    if (r)
        return r;
    r = settle_layout(leg, config, sb, err);
    /* By its sizes alone; what a configured `size` leaves of it, `resize` tells. */
    leg->present = present;
    return !r && (leg->store.bad || sb->attached) ? make_copies_stable(leg, err) : r;
}

/* Zeroes `copies` (bits) of a place of which none may count again. How many are left: one that cannot be zeroed, which
 * is told in `err`, without a code; more of them are an error, as they could count. */
static int wipe_copies(struct leg *leg, const struct meta_layout *place, unsigned copies, struct err *err)
{
    struct wait_io w = { .ring = leg->ring };
    int32_t error = 0;
    unsigned left = 0;
    uint64_t at_bytes = 0;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        if (!(copies & 1u << i))
            continue;
        w.io.kind = OP_WRITE;
        w.io.flags = OP_FLAG_FUA;
        w.io.offset_bytes = superblock_copy_offset(place, i);
        w.io.length_bytes = SUPERBLOCK_BYTES;
        w.io.data = memset(leg->page_blocks->data, 0, SUPERBLOCK_BYTES);
        w.io.done = waited_io_done;
        disk_submit(leg->meta, &w.io);
        ring_run(leg->ring, NULL, NULL);
        if (w.io.result) {
            left++;
            error = w.io.result;
            at_bytes = w.io.offset_bytes;
        }
    }
    if (left >= SUPERBLOCK_COPIES_TO_READ)
        return err_set(err, error, "%s: %u old superblocks cannot be removed, the last at %llu: %s", leg->meta->path,
                       left, (unsigned long long)at_bytes, strerror(-error));
    if (left)
        snprintf(
            err->text, sizeof(err->text),
            "%s: an old superblock at %llu cannot be removed: %s. Alone it does no harm; the next start tries again",
            leg->meta->path, (unsigned long long)at_bytes, strerror(-error));
    return (int)left;
}

int leg_wipe_stale(struct leg *leg, struct superblock *sb, struct err *err)
{
    struct meta_layout former;
    int left = 0;
    *err = (struct err) { 0 };
    /* A leg that has grown by less than its metadata takes has never moved: what it needs reaches into this place. */
    if (leg->present.meta_offset_bytes >= leg->layout.meta_offset_bytes + leg->layout.meta_bytes)
        left = wipe_copies(leg, &leg->present, leg->suspects, err);
    if (left < 0 || !sb->moved_from_bytes)
        return left < 0 ? left : 0;
    int r = meta_layout_internal(sb->moved_from_bytes, &former, err);
    left = r ? r : wipe_copies(leg, &former, ALL_COPIES, err);
    if (left < 0)
        return left;
    leg->former_end_bytes = left ? former.meta_offset_bytes + former.meta_bytes : 0;
    if (!left)
        sb->moved_from_bytes = 0;
    return 0;
}

/* A loss of power may tear every copy that is being written then: never so many that no two of the others agree. */
static void write_done(struct disk_io *io)
{
    struct leg *leg = leg_of(io);
    struct leg_store *store = &leg->store;
    if (!store_copy_done(store, io))
        return;
    if (store->started < SUPERBLOCK_COPIES)
        store_start(leg, SUPERBLOCK_COPIES_AT_ONCE, OP_FLAG_FUA, write_done);
    else
        store->done(store->ctx, store->good >= SUPERBLOCK_COPIES_TO_WRITE ? 0 : store->first_error);
}

bool leg_tell_write(struct leg *leg, struct err *err)
{
    struct leg_store *store = &leg->store;
    bool news = store->bad & ~store->told;
    store->told = store->bad;
    if (news)
        snprintf(
            err->text, sizeof(err->text),
            "%s: superblock copy %d at %llu cannot be written: %s. The others are as many as it takes; if one more "
            "fails, so does the leg: replace the disk",
            leg->meta->path, __builtin_ctz(store->bad),
            (unsigned long long)superblock_copy_offset(&leg->layout, (unsigned)__builtin_ctz(store->bad)),
            strerror(-store->first_error));
    return news;
}

void leg_write_superblock(struct leg *leg, const struct superblock *sb, void (*done)(void *ctx, int32_t result),
                          void *ctx)
{
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        superblock_encode(sb, i, blocks_of(leg)[i]);
    leg->store.done = done;
    leg->store.ctx = ctx;
    store_begin(leg, OP_WRITE);
    store_start(leg, SUPERBLOCK_COPIES_AT_ONCE, OP_FLAG_FUA, write_done);
}
