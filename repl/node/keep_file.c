/* Writes a file of kept blocks. */
#include "repl/node/keep_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/checksum.h"
#include "repl/base/scoped.h"
#include "repl/meta/kept_disk.h"
#include "repl/node/config.h"

#define PARTIAL ".partial"

struct keep_file {
    int fd;
    char path[CONFIG_PATH_BYTES];
    char partial[CONFIG_PATH_BYTES + sizeof(PARTIAL)];
    uint64_t at_bytes;
    struct kept_sums sums;
    struct kept_chunk chunk; /* under construction */
    uint8_t data[KEPT_CHUNK_DATA_BYTES_MAX];
};

static int failed(struct keep_file *f, struct err *err, const char *what)
{
    return err_set(err, -errno, "%s: %s: %s", f->partial, what, strerror(errno));
}

static int write_all(struct keep_file *f, const void *bytes, size_t count, struct err *err)
{
    for (size_t done = 0; done < count;) {
        ssize_t n = pwrite(f->fd, (const uint8_t *)bytes + done, count - done, (off_t)f->at_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return failed(f, err, "cannot be written");
        done += (size_t)n;
        f->at_bytes += (uint64_t)n;
    }
    return 0;
}

/* Each chunk takes its head, too, and what is kept in small pieces takes a few bytes for each. */
static uint64_t bytes_with_heads(uint64_t bytes) { return bytes + bytes / 64 + 4 * KEPT_CHUNK_HEAD_BYTES; }

static int check_room(struct keep_file *f, uint64_t bytes, struct err *err)
{
    struct statvfs vfs;
    if (fstatvfs(f->fd, &vfs) < 0)
        return failed(f, err, "its file system cannot be asked for room");
    uint64_t room = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    if (bytes_with_heads(bytes) <= room)
        return 0;
    return err_set(
        err, -ENOSPC,
        "up to %llu bytes are to be kept, and the file system of %s has room for %llu: name a file elsewhere "
        "with --keep",
        (unsigned long long)bytes_with_heads(bytes), f->path, (unsigned long long)room);
}

/* The name of a partial one may be anybody's, such as a backing's whose daemon is down: what is written over is empty,
 * or the beginning of a file of kept blocks. */
static int check_is_partial(struct keep_file *f, const struct stat *st, struct err *err)
{
    uint8_t first[8] = { 0 };
    bool is_ours =
        S_ISREG(st->st_mode) && st->st_nlink == 1 &&
        (st->st_size == 0 || (pread(f->fd, first, sizeof(first), 0) == (ssize_t)sizeof(first) && kept_is_head(first)));
    return is_ours
               ? 0
               : err_set(err, -EEXIST, "%s: is no cut off file of kept blocks, and is not written over", f->partial);
}

static int take_partial(struct keep_file *f, struct err *err)
{
    /* O_NONBLOCK: no FIFO of that name holds it up. */
    f->fd = open(f->partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (f->fd < 0)
        return failed(f, err, "cannot be made");
    if (flock(f->fd, LOCK_EX | LOCK_NB) < 0)
        return failed(f, err, "another one writes it");
    /* Who wrote it may have ended meanwhile: then it is whole, and has its own name. */
    struct stat st, named;
    if (fstat(f->fd, &st) < 0)
        return failed(f, err, "cannot be looked at");
    if (lstat(f->partial, &named) < 0 || st.st_dev != named.st_dev || st.st_ino != named.st_ino)
        return err_set(err, -EEXIST, "%s: another one has just been written under that name", f->path);
    int r = check_is_partial(f, &st, err);
    if (!r && ftruncate(f->fd, 0) < 0)
        r = failed(f, err, "cannot be written over");
    return r;
}

static int begin(struct keep_file *f, const struct keep_info *info, uint64_t held_bytes, struct err *err)
{
    struct stat st;
    if (lstat(f->path, &st) == 0)
        return err_set(err, -EEXIST, "%s: there is something of that name, which is not written over", f->path);
    int r = take_partial(f, err);
    if (!r)
        r = check_room(f, min_u64(info->bytes_max, held_bytes), err);
    if (r)
        return r;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint8_t block[KEPT_BLOCK_BYTES];
    kept_encode_head(info, (uint64_t)now.tv_sec * (NS_PER_S / NS_PER_US) + (uint64_t)now.tv_nsec / NS_PER_US, block);
    return write_all(f, block, sizeof(block), err);
}

struct keep_file *keep_file_open(const char *path, const struct keep_info *info, uint64_t held_bytes, struct err *err)
{
    struct keep_file *f = calloc(1, sizeof(*f));
    if (!f) {
        err_set(err, -ENOMEM, "out of memory");
        return NULL;
    }
    f->fd = -1;
    snprintf(f->path, sizeof(f->path), "%s", path);
    snprintf(f->partial, sizeof(f->partial), "%s" PARTIAL, f->path);
    if (begin(f, info, held_bytes, err) == 0)
        return f;
    if (err->code == -EEXIST || err->code == -EWOULDBLOCK) /* somebody's */
        f->partial[0] = 0;
    keep_file_drop(f);
    return NULL;
}

static int write_chunk(struct keep_file *f, struct err *err)
{
    uint8_t head[KEPT_CHUNK_HEAD_BYTES];
    if (f->chunk.count == 0)
        return 0;
    f->chunk.number = f->sums.chunks;
    f->chunk.data_check = checksum64(f->data, f->chunk.data_bytes);
    kept_encode_chunk(&f->chunk, head);
    kept_count(&f->sums, &f->chunk);
    int r = write_all(f, head, sizeof(head), err);
    if (!r)
        r = write_all(f, f->data, f->chunk.data_bytes, err);
    f->chunk.count = f->chunk.data_bytes = 0;
    return r;
}

/* Joins what goes on where the last extent ends: a sparse leg is mostly one extent of zeroes. */
static int add(struct keep_file *f, struct range range, enum keep_kind kind, const uint8_t *data, struct err *err)
{
    struct kept_chunk *c = &f->chunk;
    struct kept_extent *last = c->count ? &c->extents[c->count - 1] : NULL;
    uint64_t data_bytes = kind == KEEP_KIND_DATA ? range.length_bytes : 0;
    bool joins = last && last->kind == kind && range_end(last->range) == range.offset_bytes;
    if (c->data_bytes + data_bytes > KEPT_CHUNK_DATA_BYTES_MAX || (!joins && c->count == KEPT_EXTENTS_MAX)) {
        int r = write_chunk(f, err);
        if (r)
            return r;
        joins = false;
    }
    if (joins)
        last->range.length_bytes += range.length_bytes;
    else
        c->extents[c->count++] = (struct kept_extent) { range, kind };
    if (data_bytes)
        memcpy(f->data + c->data_bytes, data, data_bytes);
    c->data_bytes += (uint32_t)data_bytes;
    return 0;
}

static bool is_zero(const uint8_t *data, uint64_t bytes)
{
    return data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0;
}

int keep_file_add(struct keep_file *f, const struct keep_piece *pieces, uint32_t count, const uint8_t *data,
                  struct err *err)
{
    int r = 0;
    for (uint32_t i = 0; i < count && !r; i++) {
        const struct keep_piece *p = &pieces[i];
        if (p->kind != KEEP_KIND_DATA) {
            r = add(f, p->range, p->kind, NULL, err);
            continue;
        }
        for (uint64_t at = 0; at < p->range.length_bytes && !r; at += KEPT_ZERO_GRAIN_BYTES) {
            const uint8_t *from = data + p->buf_offset_bytes + at;
            struct range grain = { p->range.offset_bytes + at,
                                   min_u64(KEPT_ZERO_GRAIN_BYTES, p->range.length_bytes - at) };
            enum keep_kind kind = is_zero(from, grain.length_bytes) ? KEEP_KIND_ZEROES : KEEP_KIND_DATA;
            r = add(f, grain, kind, from, err);
        }
    }
    return r;
}

static int rename_to_new(const char *from, const char *to)
{
    int rc = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
    /* Not every file system can promise that; nothing had the name when the file was begun. */
    return rc < 0 && errno == EINVAL ? rename(from, to) : rc;
}

/* What a crash leaves of the name. */
static int sync_directory(struct keep_file *f, struct err *err)
{
    char copy[CONFIG_PATH_BYTES];
    snprintf(copy, sizeof(copy), "%s", f->path);
    CLEANUP_CLOSE int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return failed(f, err, "its directory cannot be flushed");
    return 0;
}

int keep_file_end(struct keep_file *f, struct err *err)
{
    uint8_t block[KEPT_BLOCK_BYTES];
    int r = write_chunk(f, err);
    if (!r) {
        kept_encode_end(&f->sums, block);
        r = write_all(f, block, sizeof(block), err);
    }
    if (!r && fsync(f->fd) < 0)
        r = failed(f, err, "cannot be flushed");
    if (!r && rename_to_new(f->partial, f->path) < 0)
        r = failed(f, err, "cannot get its name");
    if (!r)
        r = sync_directory(f, err);
    if (r)
        return r;
    close(f->fd);
    free(f);
    return 0;
}

void keep_file_drop(struct keep_file *f)
{
    if (f->fd >= 0 && f->partial[0])
        unlink(f->partial);
    if (f->fd >= 0)
        close(f->fd);
    free(f);
}
