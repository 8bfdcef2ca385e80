/* A block device or a file on the ring: each request is a walk over a few steps. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/uio.h>

#include "blockdev/disk/disk_private.h"
#include "repl/base/buf.h"
#include "repl/base/range.h"

/* -EINTR and -EAGAIN are tried again that often. */
#define RETRIES_MAX 16

/* Zeroes are written out in pieces of this, where the backing has nothing better. Never written to: all of it is the
 * kernel's one zero page. */
#define ZEROES_BYTES (256 * KIB)
static uint8_t zeroes[ZEROES_BYTES] __attribute__((aligned(4096)));

#define WRITE_ASIDE_BYTES_MIN (256 * KIB) /* takes longer to copy than to wake a thread for it */

struct disk_file {
    struct disk disk;
    int fd;
    struct ring_file file;
    bool read_only;
    bool no_punch; /* was refused once; not tried again */
    bool no_zero_range;
    uint64_t in_flight;
    struct disk_mapper mapper; /* regular files only */
};

enum step {
    STEP_TRANSFER, /* read or write */
    STEP_PUNCH,    /* clear the range by giving its storage back */
    STEP_ZERO_RANGE,
    STEP_WRITE_ZEROES,
    STEP_SYNC,
    STEP_DONE,
};

static struct disk_file *file_of(const struct disk_io *io) { return container_of(io->disk, struct disk_file, disk); }

static void finish(struct disk_io *io, int32_t result)
{
    file_of(io)->in_flight--;
    io->result = result;
    io->done(io);
}

static void step_done(struct ring_op *op, int32_t result);

/* To memory, a write is a copy made by the caller: a long one is left to another CPU. */
static void start_write(struct disk_io *io, const void *data, uint32_t bytes, uint64_t offset_bytes)
{
    struct disk_file *f = file_of(io);
    int rw_flags = io->flags & OP_FLAG_FUA ? RWF_DSYNC : 0;
    if (f->disk.geometry.writes_inline && bytes >= WRITE_ASIDE_BYTES_MIN)
        ring_write_aside(f->disk.ring, &io->op, f->file, data, bytes, offset_bytes, rw_flags);
    else
        ring_write(f->disk.ring, &io->op, f->file, data, bytes, offset_bytes, rw_flags);
}

static void start(struct disk_io *io, enum step step)
{
    struct disk_file *f = file_of(io);
    struct ring *r = f->disk.ring;
    uint64_t offset = io->offset_bytes + io->progress_bytes;
    uint64_t left = io->length_bytes - io->progress_bytes;
    io->step = step;
    io->op.done = step_done;
    switch (step) {
    case STEP_TRANSFER: {
        uint8_t *data = (uint8_t *)io->data + io->progress_bytes;
        if (io->kind == OP_READ)
            ring_read(r, &io->op, f->file, data, (uint32_t)left, offset);
        else
            start_write(io, data, (uint32_t)left, offset);
        break;
    }
    case STEP_PUNCH:
        /* On a file the kernel zeroes partial blocks itself; on a block device it zeroes with unmap and neither writes
         * zeroes out nor rounds to the device's discard granularity. Either way exactly this range reads as zeroes. */
        ring_fallocate(r, &io->op, f->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, left);
        break;
    case STEP_ZERO_RANGE:
        ring_fallocate(r, &io->op, f->file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, left);
        break;
    case STEP_WRITE_ZEROES:
        ring_write(r, &io->op, f->file, zeroes, (uint32_t)min_u64(left, ZEROES_BYTES), offset, 0);
        break;
    case STEP_SYNC: ring_fdatasync(r, &io->op, f->file); break;
    case STEP_DONE: finish(io, 0); break;
    }
}

/* Also from within disk_submit(), where `done` must not be called. */
static void end_unstarted(struct disk_io *io, int32_t result)
{
    file_of(io)->in_flight--;
    disk_end_later(io->disk->ring, io, result);
}

/* Makes the range read as zeroes in the best way not yet refused. */
static void start_clearing(struct disk_io *io)
{
    const struct disk_file *f = file_of(io);
    bool keep = io->kind == OP_WRITE_ZEROES && (io->flags & OP_FLAG_KEEP_ALLOCATED);
    bool fast = io->kind == OP_WRITE_ZEROES && (io->flags & OP_FLAG_FAST_ONLY);
    /* For a block device that knows no write-zeroes the kernel writes the zeroes out itself. */
    bool zero_range_is_fast = !f->disk.geometry.is_block_device || f->disk.geometry.zeroes_fast;
    if (!keep && !f->no_punch)
        start(io, STEP_PUNCH);
    else if (!f->no_zero_range && (!fast || zero_range_is_fast))
        start(io, STEP_ZERO_RANGE);
    else if (!fast)
        start(io, STEP_WRITE_ZEROES);
    else
        end_unstarted(io, -EOPNOTSUPP);
}

static bool is_refusal(int32_t result) { return result == -EOPNOTSUPP || result == -ENOSYS; }

static void after_clearing(struct disk_io *io)
{
    bool sync = (io->flags & OP_FLAG_FUA) && !io->disk->geometry.writes_inline;
    start(io, sync ? STEP_SYNC : STEP_DONE);
}

/* False when the transfer came to nothing, so that it would not end. */
static bool advance(struct disk_io *io, int32_t transferred)
{
    /* What O_DIRECT left in the middle of a block is done again: it must begin where a block does. */
    uint64_t block = io->disk->geometry.logical_block_bytes;
    uint64_t progress = io->progress_bytes + (uint64_t)transferred;
    if (progress < io->length_bytes)
        progress = align_down(progress, block);
    bool moved = progress > io->progress_bytes;
    io->progress_bytes = progress;
    return moved;
}

static void step_done(struct ring_op *op, int32_t result)
{
    struct disk_io *io = container_of(op, struct disk_io, op);
    struct disk_file *f = file_of(io);
    enum step step = (enum step)io->step;
    if ((result == -EINTR || result == -EAGAIN) && io->retries < RETRIES_MAX) {
        io->retries++;
        start(io, step);
        return;
    }
    switch (step) {
    case STEP_TRANSFER:
    case STEP_WRITE_ZEROES:
        if (result < 0)
            finish(io, result);
        else if (!advance(io, result))
            finish(io, -EIO);
        else if (io->progress_bytes < io->length_bytes)
            start(io, step);
        else if (step == STEP_WRITE_ZEROES)
            after_clearing(io);
        else
            finish(io, 0);
        break;
    case STEP_PUNCH:
    case STEP_ZERO_RANGE:
        if (is_refusal(result)) {
            if (step == STEP_PUNCH)
                f->no_punch = true;
            else
                f->no_zero_range = true;
            start_clearing(io);
        } else if (result < 0) {
            finish(io, result);
        } else {
            after_clearing(io);
        }
        break;
    case STEP_SYNC: finish(io, result); break;
    case STEP_DONE: assert(!"never with the ring"); break;
    }
}

static int32_t check(const struct disk_file *f, const struct disk_io *io)
{
    const struct disk_geometry *g = &f->disk.geometry;
    if (f->read_only && io->kind != OP_READ && io->kind != OP_FLUSH)
        return -EROFS;
    if (io->kind == OP_FLUSH)
        return 0;
    assert(io->length_bytes > 0);
    if (io->offset_bytes % g->logical_block_bytes || io->length_bytes % g->logical_block_bytes)
        return -EINVAL;
    if (!range_fits((struct range) { io->offset_bytes, io->length_bytes }, g->size_bytes))
        return io->kind == OP_READ ? -EIO : -ENOSPC;
    return 0;
}

static void file_submit(struct disk *d, struct disk_io *io)
{
    struct disk_file *f = container_of(d, struct disk_file, disk);
    assert(!io->op.busy && io->done);
    io->disk = d;
    io->progress_bytes = 0;
    io->retries = 0;
    int32_t refused = check(f, io);
    f->in_flight++;
    if (refused) {
        end_unstarted(io, refused);
        return;
    }
    switch (io->kind) {
    case OP_READ:
    case OP_WRITE:
        assert(io->length_bytes <= IO_BYTES_MAX && (uintptr_t)io->data % d->geometry.memory_align_bytes == 0);
        start(io, STEP_TRANSFER);
        break;
    case OP_DISCARD:
    case OP_WRITE_ZEROES: start_clearing(io); break;
    case OP_FLUSH:
        /* Memory has nothing to flush to, and a worker thread would take 60 us to find that out. */
        if (d->geometry.writes_inline)
            end_unstarted(io, 0);
        else
            start(io, STEP_SYNC);
        break;
    }
}

static void mapped(struct ring_task *task)
{
    struct disk_map *map = container_of(task, struct disk_map, task);
    container_of(map->disk, struct disk_file, disk)->in_flight--;
    map->done(map);
}

static void file_map(struct disk *d, struct disk_map *map)
{
    struct disk_file *f = container_of(d, struct disk_file, disk);
    assert(map->runs_max > 0 && map->runs_max <= DISK_MAP_RUNS_MAX && map->length_bytes > 0);
    assert(range_fits((struct range) { map->offset_bytes, map->length_bytes }, d->geometry.size_bytes));
    map->disk = d;
    map->result = 0;
    map->task.run = mapped;
    f->in_flight++;
    if (!d->geometry.is_block_device) {
        disk_mapper_ask(&f->mapper, map);
        return;
    }
    map->runs[0] = (struct disk_run) { map->length_bytes, false };
    map->run_count = 1;
    ring_post(d->ring, &map->task);
}

static void file_close(struct disk *d)
{
    struct disk_file *f = container_of(d, struct disk_file, disk);
    assert(f->in_flight == 0);
    if (!d->geometry.is_block_device)
        disk_mapper_close(&f->mapper);
    ring_unregister_file(d->ring, f->file.slot);
    /* The ring may keep the file open for a while; nothing is in flight, so that the next one may have it now. */
    if (!d->geometry.is_block_device)
        flock(f->fd, LOCK_UN);
    close(f->fd);
    free(f);
}

static int file_look_again(struct disk *d, uint64_t *size_bytes)
{
    const struct disk_file *f = container_of(d, struct disk_file, disk);
    off_t end = lseek(f->fd, 0, SEEK_END); /* nobody reads or writes at the file's position */
    if (end < 0)
        return -errno;
    *size_bytes = align_down((uint64_t)end, d->geometry.logical_block_bytes);
    return 0;
}

static const struct disk_ops file_ops = { file_submit, file_map, file_look_again, file_close };

struct disk *disk_open(struct ring *r, const char *path, unsigned flags, struct err *err)
{
    struct disk_file *f = calloc(1, sizeof(*f));
    if (!f) {
        err_set(err, -ENOMEM, "%s: out of memory", path);
        return NULL;
    }
    f->disk.ops = &file_ops;
    f->disk.ring = r;
    f->read_only = flags & DISK_OPEN_READ_ONLY;
    snprintf(f->disk.path, sizeof(f->disk.path), "%s", path);
    f->fd = disk_open_fd(path, flags, &f->disk.geometry, err);
    if (f->fd < 0)
        goto no_file;
    f->file.slot = ring_register_file(r, f->fd);
    if (f->file.slot < 0) {
        err_set(err, f->file.slot, "%s: the ring takes no more files: %s", path, strerror(-f->file.slot));
        goto no_slot;
    }
    if (!f->disk.geometry.is_block_device) {
        int rc = disk_mapper_open(&f->mapper, r, f->fd);
        if (rc < 0) {
            err_set(err, rc, "%s: cannot start a thread: %s", path, strerror(-rc));
            goto no_mapper;
        }
    }
    return &f->disk;

no_mapper:
    ring_unregister_file(r, f->file.slot);
no_slot:
    close(f->fd);
no_file:
    free(f);
    return NULL;
}
