/* A filter that writes down what reaches the disk below, for a replay of power cuts. record_format.h has the log.
 *
 * Requests pass unchanged. Only their changes are written down: with write() from the ring's own thread, through the
 * page cache, so that the log is complete even when the process is killed. That blocks the thread for as long as a
 * copy to memory takes, or, when the log's disk is behind, longer: this is for tests. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "blockdev/disk/disk_private.h"
#include "blockdev/disk/record_format.h"
#include "repl/base/clock.h"
#include "repl/base/range.h"

struct disk_record {
    struct disk disk;
    int fd;
    uint64_t number; /* of the last event */
    uint64_t end_bytes;
    int32_t failed; /* the log could not be written: all changes fail from then on, lest a test go on unrecorded */
};

/* All of it or nothing: what was written of an event that found no room is cut off again. */
static int32_t append(struct disk_record *f, const struct record_event *event, const void *payload)
{
    struct record_event_header header;
    record_event_encode(event, &header);
    struct iovec parts[2] = {
        { &header, sizeof(header) },
        { (void *)payload, event->payload_bytes },
    };
    uint64_t bytes = sizeof(header) + event->payload_bytes;
    ssize_t n;
    do
        n = pwritev(f->fd, parts, event->payload_bytes ? 2 : 1, (off_t)f->end_bytes);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)bytes) {
        f->end_bytes += bytes;
        return 0;
    }
    f->failed = n < 0 ? -errno : -ENOSPC;
    if (ftruncate(f->fd, (off_t)f->end_bytes) < 0)
        f->failed = -errno;
    return f->failed;
}

static void record_done(struct disk_io *io)
{
    struct disk_record *f = container_of(disk_filter_of(io), struct disk_record, disk);
    struct record_event event = {
        .event = RECORD_COMPLETE,
        .op = (uint8_t)io->kind,
        .flags = io->flags,
        .result = io->result,
        .number = ++f->number,
        .request = *disk_filter_note(io),
        .time_ns = clock_awake_ns(),
        .offset_bytes = io->kind == OP_FLUSH ? 0 : io->offset_bytes,
        .length_bytes = io->length_bytes,
    };
    int32_t failed = f->failed ? f->failed : append(f, &event, NULL);
    if (failed && !io->result)
        io->result = failed;
    disk_filter_leave(io);
    io->done(io);
}

static void record_submit(struct disk *d, struct disk_io *io)
{
    struct disk_record *f = container_of(d, struct disk_record, disk);
    /* What the disk refuses without looking changes nothing, and its range may be anything. */
    uint64_t block = d->geometry.logical_block_bytes;
    bool fits = io->kind == OP_FLUSH ||
                (io->offset_bytes % block == 0 && io->length_bytes % block == 0 &&
                 range_fits((struct range) { io->offset_bytes, io->length_bytes }, d->geometry.size_bytes));
    if (io->kind == OP_READ || !fits) {
        disk_submit(d->below, io);
        return;
    }
    struct record_event event = {
        .event = RECORD_SUBMIT,
        .op = (uint8_t)io->kind,
        .flags = io->flags,
        .number = ++f->number,
        .request = f->number,
        .time_ns = clock_awake_ns(),
        .offset_bytes = io->kind == OP_FLUSH ? 0 : io->offset_bytes,
        .length_bytes = io->length_bytes,
        .payload_bytes = io->kind == OP_WRITE ? (uint32_t)io->length_bytes : 0,
    };
    int32_t failed = f->failed ? f->failed : append(f, &event, io->data);
    if (failed) {
        disk_end_later(d->ring, io, failed);
        return;
    }
    disk_filter_enter(d, io, record_done);
    *disk_filter_note(io) = event.number;
    disk_submit(d->below, io);
}

static void record_map(struct disk *d, struct disk_map *map) { disk_map(d->below, map); }

static void record_close(struct disk *d)
{
    struct disk_record *f = container_of(d, struct disk_record, disk);
    struct record_event event = { .event = RECORD_CLOSE, .number = ++f->number, .time_ns = clock_awake_ns() };
    if (!f->failed)
        append(f, &event, NULL); /* nobody is left to be told */
    close(f->fd);
    free(f);
}

static const struct disk_ops record_ops = { record_submit, record_map, NULL, record_close };

/* Finds the end of what a predecessor has written; a last event that is not whole is cut off. */
static int find_end(struct disk_record *f, uint64_t log_bytes, struct err *err)
{
    uint64_t size_bytes;
    struct record_file_header file;
    if (pread(f->fd, &file, sizeof(file), 0) != sizeof(file))
        return err_set(err, -EBADMSG, "is no log of a recorded disk");
    int r = record_file_header_decode(&file, &size_bytes, err);
    if (r)
        return r;
    if (size_bytes != f->disk.geometry.size_bytes)
        return err_set(err, -EINVAL, "is the log of a disk of %llu bytes, not %llu", (unsigned long long)size_bytes,
                       (unsigned long long)f->disk.geometry.size_bytes);
    f->end_bytes = sizeof(file);
    struct record_event_header header;
    while (pread(f->fd, &header, sizeof(header), (off_t)f->end_bytes) == sizeof(header)) {
        struct record_event event;
        r = record_event_decode(&header, f->number + 1, size_bytes, &event, err);
        if (r)
            return r;
        uint64_t next = f->end_bytes + sizeof(header) + event.payload_bytes;
        if (next > log_bytes)
            break;
        f->end_bytes = next;
        f->number++;
    }
    return ftruncate(f->fd, (off_t)f->end_bytes) < 0 ? err_set(err, -errno, "%s", strerror(errno)) : 0;
}

static int open_log(struct disk_record *f, const char *path, struct err *err)
{
    f->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    off_t log_bytes = f->fd < 0 ? -1 : lseek(f->fd, 0, SEEK_END);
    if (log_bytes < 0)
        return err_set(err, -errno, "cannot be opened: %s", strerror(errno));
    if (log_bytes > 0) {
        int r = find_end(f, (uint64_t)log_bytes, err);
        if (r)
            return r;
    } else {
        struct record_file_header file;
        record_file_header_encode(f->disk.geometry.size_bytes, f->disk.geometry.logical_block_bytes, &file);
        if (pwrite(f->fd, &file, sizeof(file), 0) != sizeof(file))
            return err_set(err, -EIO, "cannot be written");
        f->end_bytes = sizeof(file);
    }
    struct record_event event = { .event = RECORD_OPEN, .number = ++f->number, .time_ns = clock_awake_ns() };
    int r = append(f, &event, NULL);
    return r ? err_set(err, r, "cannot be written: %s", strerror(-r)) : 0;
}

struct disk *disk_filter_record(struct disk *below, const char *path, struct err *err)
{
    struct disk_record *f = calloc(1, sizeof(*f));
    if (!f) {
        err_set(err, -ENOMEM, "%s: no memory for a recording filter", below->path);
        return NULL;
    }
    f->fd = -1;
    if (disk_filter_init(&f->disk, &record_ops, below, err) < 0)
        goto failed;
    if (open_log(f, path, err) < 0) {
        err_prefix(err, "%s", path);
        goto failed;
    }
    return &f->disk;

failed:
    if (f->fd >= 0)
        close(f->fd);
    free(f);
    return NULL;
}
