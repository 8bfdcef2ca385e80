/* Opening a leg; the pages of its metadata on the ring. */
#include "repl/node/leg.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/base/scoped.h"
#include "repl/node/blank.h"

static bool metadata_is_internal(const struct volume_config *config) { return config_self(config)->metadata[0] == 0; }

int leg_layout(const struct volume_config *config, uint64_t backing_bytes, uint64_t holder_bytes,
               struct meta_layout *out, struct err *err)
{
    const struct config_node *self = config_self(config);
    int r = metadata_is_internal(config) ? meta_layout_internal(backing_bytes, out, err)
                                         : meta_layout_external(backing_bytes, 0, out, err);
    if (r)
        return err_prefix(err, "%s", self->backing);
    if (!metadata_is_internal(config) && holder_bytes && holder_bytes < out->meta_bytes)
        return err_set(err, -ENOSPC, "%s: too small: %llu bytes, where the metadata of %s takes %llu. Was it cut off?",
                       self->metadata, (unsigned long long)holder_bytes, self->backing,
                       (unsigned long long)out->meta_bytes);
    return 0;
}

/* Of a file or block device; 0: it cannot be told. */
static uint64_t bytes_of(const char *path)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    return end < 0 ? 0 : (uint64_t)end;
}

int leg_check_size(const struct volume_config *config, struct err *err)
{
    const struct config_node *self = config_self(config);
    if (!config->size_bytes) /* nor is a disk looked at that may not answer */
        return 0;
    uint64_t backing_bytes = bytes_of(self->backing);
    uint64_t holder_bytes = metadata_is_internal(config) ? 0 : bytes_of(self->metadata);
    struct meta_layout layout;
    struct err ignored = { 0 };
    if (!backing_bytes || leg_layout(config, backing_bytes, holder_bytes, &layout, &ignored) ||
        config->size_bytes <= layout.data_bytes)
        return 0;
    return err_set(err, -EINVAL, "%s:%u: size: expected at most %llu bytes, for which %s has room%s, found %llu",
                   config->file, config->size_line, (unsigned long long)layout.data_bytes, self->backing,
                   metadata_is_internal(config) ? " beside its metadata" : "", (unsigned long long)config->size_bytes);
}

bool leg_metadata_is_missing(const struct volume_config *config)
{
    struct stat st;
    if (metadata_is_internal(config))
        return false;
    if (stat(config_self(config)->metadata, &st) < 0)
        return errno == ENOENT;
    return S_ISREG(st.st_mode) && st.st_size == 0;
}

/* Says whether there is no leg, or one whose metadata is somewhere else: it may be on a file system that is not mounted
 * yet, and making it anew would lose all of the leg. */
static int refuse_missing_metadata(const struct volume_config *config, struct err *err)
{
    const struct config_node *self = config_self(config);
    struct disk_geometry geometry;
    CLEANUP_CLOSE int fd = disk_open_fd(self->backing, DISK_OPEN_READ_ONLY, &geometry, err);
    if (fd < 0)
        return fd;
    struct err why = { 0 };
    int r = blank_look(self->backing, fd, geometry.size_bytes, &why);
    if (r == 0)
        return err_set(err, -ENOENT,
                       "%s: holds no leg yet, nor is its metadata %s there: run `lockstep create %s` on this node",
                       self->backing, self->metadata, config->volume);
    return err_set(err, -ENXIO,
                   "metadata %s is not there: is its file system mounted? Mount it, then `lockstep up %s`. Without its "
                   "metadata nothing is known of the leg on the backing, which is not blank (%s)",
                   self->metadata, config->volume, why.text);
}

/* A recorder stands right on the backing, where the metadata passes it, too. */
static int record_backing(struct leg *leg, const struct volume_config *config, struct err *err)
{
    const char *path = config->test.disk_record;
    if (!path[0])
        return 0;
    if (!metadata_is_internal(config))
        return err_set(err, -EINVAL,
                       "%s: test.disk.record needs internal metadata: of two disks the order would be lost",
                       config->file);
    struct disk *recorder = disk_filter_record(leg->bare, path, err);
    if (!recorder)
        return err->code;
    leg->bare = recorder;
    return 0;
}

/* The configured faults and delays, stacked on the backing. */
static int stack_filters(struct leg *leg, const struct config_test *test, struct err *err)
{
    if (test->disk_fault_on) {
        struct disk *d = disk_filter_fault(leg->disk, &test->disk_fault, err);
        if (!d)
            return err->code;
        leg->disk = d;
    }
    if (test->disk_delay_on) {
        struct disk *d = disk_filter_delay(leg->disk, &test->disk_delay, err);
        if (!d)
            return err->code;
        leg->disk = d;
    }
    return 0;
}

int leg_open(struct leg *leg, struct ring *ring, struct buf_pool *pool, const struct volume_config *config,
             struct err *err)
{
    const struct config_node *self = config_self(config);
    *leg = (struct leg) { .ring = ring };
    if (leg_metadata_is_missing(config))
        return refuse_missing_metadata(config, err);
    leg->bare = disk_open(ring, self->backing, 0, err);
    if (!leg->bare)
        return err->code;
    int r = record_backing(leg, config, err);
    leg->disk = leg->bare;
    leg->meta = leg->bare;
    if (!r && !metadata_is_internal(config)) {
        leg->meta = disk_open(ring, self->metadata, 0, err);
        r = leg->meta ? 0 : err_prefix(err, "metadata of volume %s", config->volume);
    }
    if (!r)
        /* Whether a holder has room is for the superblock to tell: the backing may have grown, and it not. */
        r = leg_layout(config, leg->bare->geometry.size_bytes, 0, &leg->layout, err);
    if (!r)
        r = stack_filters(leg, &config->test, err);
    if (!r) {
        leg->store.blocks = buf_get(pool, SUPERBLOCK_COPIES * SUPERBLOCK_BYTES, 0);
        leg->page_blocks = buf_get(pool, META_PAGES_MAX * META_PAGE_BYTES, 0);
        r = leg->store.blocks && leg->page_blocks ? 0 : err_set(err, -ENOMEM, "no buffers for the metadata");
    }
    if (r)
        leg_close(leg);
    return r;
}

void leg_close(struct leg *leg)
{
    if (leg->store.blocks)
        buf_put(leg->store.blocks);
    if (leg->page_blocks)
        buf_put(leg->page_blocks);
    if (leg->meta && leg->meta != leg->bare)
        disk_close(leg->meta);
    if (leg->disk)
        disk_close(leg->disk);
    *leg = (struct leg) { 0 };
}

static void page_written(struct disk_io *io)
{
    struct leg_page *p = container_of(io, struct leg_page, io);
    p->busy = false;
    p->leg->page_done(p->leg->page_ctx, p->area, p->index, io->result);
}

void leg_write_page(struct leg *leg, enum meta_area area, uint32_t index, const uint8_t *block)
{
    unsigned slot = 0;
    while (slot < META_PAGES_MAX && leg->pages[slot].busy)
        slot++;
    assert(slot < META_PAGES_MAX);
    struct leg_page *p = &leg->pages[slot];
    p->leg = leg;
    p->busy = true;
    p->area = area;
    p->index = index;
    p->io.kind = OP_WRITE;
    p->io.flags = OP_FLAG_FUA;
    p->io.offset_bytes = meta_page_offset(&leg->layout, area, index);
    p->io.length_bytes = META_PAGE_BYTES;
    p->io.data = leg->page_blocks->data + slot * META_PAGE_BYTES;
    p->io.done = page_written;
    memcpy(p->io.data, block, META_PAGE_BYTES);
    disk_submit(leg->meta, &p->io);
}

#define AREA_READS_MAX 4
#define AREA_READ_BYTES (512 * KIB)

struct area_read {
    struct disk_io io;
    struct area_reader *reader;
    struct buf *buf;
    uint32_t first; /* page, of those with the disk */
    uint32_t end;   /* pages up to here are this read's, one by one after an error */
};

struct area_reader {
    struct leg *leg;
    enum meta_area area;
    uint32_t next; /* page */
    uint32_t count;
    unsigned busy;
    leg_page_fn *found;
    void *ctx;
    struct area_read reads[AREA_READS_MAX];
};

static void area_read_done(struct disk_io *io);

static void area_read_start(struct area_read *r, uint32_t pages)
{
    struct area_reader *a = r->reader;
    a->busy++;
    r->io.kind = OP_READ;
    r->io.flags = 0;
    r->io.offset_bytes = meta_page_offset(&a->leg->layout, a->area, r->first);
    r->io.length_bytes = (uint64_t)pages * META_PAGE_BYTES;
    r->io.data = r->buf->data;
    r->io.done = area_read_done;
    disk_submit(a->leg->meta, &r->io);
}

static void area_read_next(struct area_read *r)
{
    struct area_reader *a = r->reader;
    if (r->first < r->end) { /* after an error */
        area_read_start(r, 1);
    } else if (a->next < a->count) {
        r->first = a->next;
        a->next += (uint32_t)min_u64(a->count - a->next, AREA_READ_BYTES / META_PAGE_BYTES);
        r->end = a->next;
        area_read_start(r, r->end - r->first);
    }
}

static void area_read_done(struct disk_io *io)
{
    struct area_read *r = container_of(io, struct area_read, io);
    struct area_reader *a = r->reader;
    uint32_t pages = (uint32_t)(io->length_bytes / META_PAGE_BYTES);
    a->busy--;
    /* One bad sector takes no other page along: once more, page by page. */
    if (!io->result || pages == 1) {
        for (uint32_t i = 0; i < pages; i++)
            a->found(a->ctx, r->first + i, io->result ? NULL : r->buf->data + (size_t)i * META_PAGE_BYTES);
        r->first += pages;
    }
    area_read_next(r);
    if (a->busy == 0)
        ring_stop(a->leg->ring);
}

int leg_read_area(struct leg *leg, struct buf_pool *pool, enum meta_area area, uint32_t count, leg_page_fn *found,
                  void *ctx, struct err *err)
{
    assert(count <= meta_page_count(&leg->layout, area));
    struct area_reader a = { .leg = leg, .area = area, .count = count, .found = found, .ctx = ctx };
    unsigned bufs = 0;
    while (bufs < AREA_READS_MAX && (a.reads[bufs].buf = buf_get(pool, AREA_READ_BYTES, 0)))
        a.reads[bufs++].reader = &a;
    if (bufs > 0 && count > 0) {
        for (unsigned i = 0; i < bufs; i++)
            area_read_next(&a.reads[i]);
        ring_run(leg->ring, NULL, NULL);
    }
    for (unsigned i = 0; i < bufs; i++)
        buf_put(a.reads[i].buf);
    return bufs > 0 ? 0 : err_set(err, -ENOMEM, "no buffers to read the metadata");
}

int leg_capacity(const struct leg *leg, const struct volume_config *config, uint64_t size_bytes, uint64_t *out,
                 struct err *err)
{
    *out = leg->layout.data_bytes;
    if (!config->size_bytes || size_bytes)
        return 0;
    if (config->size_bytes > leg->layout.data_bytes)
        return err_set(err, -ENOSPC, "%s: `size` is %llu bytes, but the backing has room for %llu beside its metadata",
                       leg->bare->path, (unsigned long long)config->size_bytes,
                       (unsigned long long)leg->layout.data_bytes);
    *out = config->size_bytes;
    return 0;
}

uint64_t leg_room_bytes(const struct leg *leg, const struct volume_config *config)
{
    uint64_t can = leg->present.data_bytes;
    return config->size_bytes ? min_u64(can, config->size_bytes) : can;
}
