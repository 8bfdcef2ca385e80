/* Opening a backing for this process alone, and finding out what it can do. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "blockdev/disk/disk_private.h"
#include "repl/base/buf.h"
#include "repl/base/clock.h"
#include "repl/base/scoped.h"

#define LOCK_RETRY_NS (20 * NS_PER_MS)
#define LOGICAL_BLOCK_BYTES_MAX 4096

/* Takes the lock without waiting: an open descriptor, or a negative errno; -EBUSY: someone has it.
 *
 * Both locks belong to the open file, not to the process: requests that are in flight keep the file open after its
 * process was killed, and so nobody can open the backing while an old write may still reach it. (A POSIX lock would
 * vanish with the process.) */
static int open_locked(const char *path, int open_flags, bool block_device)
{
    if (block_device) {
        int fd = open(path, open_flags | O_EXCL);
        return fd < 0 ? -errno : fd;
    }
    int fd = open(path, open_flags);
    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int code = errno == EWOULDBLOCK ? -EBUSY : -errno;
        close(fd);
        return code;
    }
    return fd;
}

/* Waits for a holder that is about to let go: a daemon that was killed is restarted faster than the kernel ends its
 * last requests. There is nothing to sleep on for that, hence the polling; it happens before the volume serves. A
 * holder that lives is not waited for. */
static int open_patiently(const char *path, int open_flags, const struct stat *st, char *who, size_t who_bytes)
{
    uint64_t deadline_ns = clock_ns() + DISK_LOCK_WAIT_NS;
    for (;;) {
        int fd = open_locked(path, open_flags, S_ISBLK(st->st_mode));
        if (fd != -EBUSY)
            return fd;
        bool lasting = disk_busy_by(path, st, who, who_bytes);
        if (lasting || clock_ns() >= deadline_ns)
            return -EBUSY;
        struct timespec pause = { .tv_nsec = (long)LOCK_RETRY_NS };
        nanosleep(&pause, NULL);
    }
}

static bool is_memory_backed(const char *path)
{
    struct statfs fs;
    return statfs(path, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

static bool is_read_only_device(int fd)
{
    int ro = 0;
    return fd >= 0 && ioctl(fd, BLKROGET, &ro) == 0 && ro;
}

static int explain(const char *path, const struct stat *st, int code, const char *who, struct err *err)
{
    switch (-code) {
    case EBUSY: return err_set(err, code, "%s is in use by %s", path, who);
    case EROFS:
        return err_set(err, code, "%s is read-only: %s", path,
                       S_ISBLK(st->st_mode) ? "make the device writable (blockdev --setrw)"
                                            : "mount its file system writable");
    case EACCES:
    case EPERM: {
        CLEANUP_CLOSE int fd = S_ISBLK(st->st_mode) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (is_read_only_device(fd))
            return explain(path, st, -EROFS, who, err);
        return err_set(err, code,
                       "no permission to open %s for reading and writing: run as its owner, or give this user access "
                       "(uid %u; the backing belongs to uid %u, mode %03o)",
                       path, geteuid(), st->st_uid, st->st_mode & 0777);
    }
    case ENXIO:
    case ENODEV:
    case ENOMEDIUM: return err_set(err, code, "%s: the device is gone or holds no medium", path);
    default: return err_set(err, code, "%s cannot be opened: %s", path, strerror(-code));
    }
}

/* One value of the queue of a device, or of the disk that it is a partition of; -1: not known. */
static long queue_value(dev_t dev, const char *name)
{
    static const char *const ups[] = { "", "../" };
    for (size_t i = 0; i < ARRAY_LEN(ups); i++) {
        char path[128];
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(dev), minor(dev), ups[i], name);
        FILE *f = fopen(path, "re");
        if (!f)
            continue;
        long value;
        int n = fscanf(f, "%ld", &value);
        fclose(f);
        return n == 1 ? value : -1;
    }
    return -1;
}

/* What O_DIRECT asks of offsets and memory; 0: the kernel does not say. */
static void stated_alignment(int fd, uint32_t *offset_bytes, uint32_t *memory_bytes)
{
    *offset_bytes = 0;
    *memory_bytes = 0;
#ifdef STATX_DIOALIGN /* Linux 6.1 */
    struct statx x;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) == 0 && (x.stx_mask & STATX_DIOALIGN)) {
        *offset_bytes = x.stx_dio_offset_align;
        *memory_bytes = x.stx_dio_mem_align;
    }
#endif
}

/* Older kernels are asked by trying: an aligned read that is refused was not aligned enough. */
static uint32_t tried_alignment(int fd, uint64_t size_bytes)
{
    static uint8_t room[2 * LOGICAL_BLOCK_BYTES_MAX] __attribute__((aligned(LOGICAL_BLOCK_BYTES_MAX)));
    for (uint32_t align = BLOCK_BYTES; align < LOGICAL_BLOCK_BYTES_MAX; align *= 2) {
        if (2 * align <= size_bytes && pread(fd, room, align, align) == (ssize_t)align)
            return align;
    }
    return LOGICAL_BLOCK_BYTES_MAX;
}

static int probe_block_device(int fd, const char *path, const struct stat *st, struct disk_geometry *g, struct err *err)
{
    int logical_bytes = 0;
    if (ioctl(fd, BLKGETSIZE64, &g->size_bytes) < 0 || ioctl(fd, BLKSSZGET, &logical_bytes) < 0)
        return err_set(err, -errno, "%s: the device does not tell its size: %s", path, strerror(errno));
    uint32_t offset_bytes;
    stated_alignment(fd, &offset_bytes, &g->memory_align_bytes);
    g->logical_block_bytes = (uint32_t)logical_bytes;
    g->is_block_device = true;
    g->rotational = queue_value(st->st_rdev, "rotational") == 1;
    /* Discards zero with unmap, because a bare discard may leave anything; so this is what matters, not
     * discard_max_bytes. */
    g->zeroes_fast = queue_value(st->st_rdev, "write_zeroes_max_bytes") > 0;
    g->can_unmap = g->zeroes_fast && queue_value(st->st_rdev, "discard_max_bytes") > 0;
    g->fua = queue_value(st->st_rdev, "fua") == 1;
    return 0;
}

static void probe_file(int fd, const struct stat *st, bool memory_backed, struct disk_geometry *g)
{
    g->size_bytes = (uint64_t)st->st_size;
    uint32_t offset_bytes;
    stated_alignment(fd, &offset_bytes, &g->memory_align_bytes);
    if (!g->direct)
        offset_bytes = BLOCK_BYTES;
    else if (offset_bytes == 0)
        offset_bytes = tried_alignment(fd, g->size_bytes);
    g->logical_block_bytes = offset_bytes;
    /* Beyond the end, where there is nothing to punch or to zero: only whether it would be done. */
    off_t end = (off_t)align_up(g->size_bytes, MIB);
    g->can_unmap = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, LOGICAL_BLOCK_BYTES_MAX) == 0;
    g->zeroes_fast = g->can_unmap;
    g->writes_inline = memory_backed;
    g->fua = memory_backed || queue_value(st->st_dev, "fua") == 1;
    g->rotational = !memory_backed && queue_value(st->st_dev, "rotational") == 1;
}

static int probe(int fd, const char *path, const struct stat *st, bool memory_backed, struct disk_geometry *g,
                 struct err *err)
{
    if (S_ISBLK(st->st_mode)) {
        int rc = probe_block_device(fd, path, st, g, err);
        if (rc < 0)
            return rc;
    } else {
        probe_file(fd, st, memory_backed, g);
    }
    if (g->logical_block_bytes < BLOCK_BYTES)
        g->logical_block_bytes = BLOCK_BYTES;
    if (g->memory_align_bytes == 0)
        g->memory_align_bytes = BUF_BYTES_MIN;
    if (g->logical_block_bytes > LOGICAL_BLOCK_BYTES_MAX)
        return err_set(err, -ENOTSUP, "%s has logical blocks of %u bytes: at most %u are supported", path,
                       g->logical_block_bytes, LOGICAL_BLOCK_BYTES_MAX);
    if (g->memory_align_bytes > BUF_BYTES_MIN)
        return err_set(err, -ENOTSUP, "%s wants memory aligned to %u bytes: at most %u are supported", path,
                       g->memory_align_bytes, (unsigned)BUF_BYTES_MIN);
    g->size_bytes = align_down(g->size_bytes, g->logical_block_bytes);
    if (g->size_bytes == 0)
        return err_set(err, -ENOSPC, "%s is empty: %s", path,
                       g->is_block_device ? "the device has no capacity"
                                          : "give the file its size first, for example with 'truncate -s 40G'");
    return 0;
}

static int examine(int fd, const char *path, struct stat *st, bool memory_backed, unsigned flags,
                   struct disk_geometry *g, struct err *err)
{
    mode_t kind = st->st_mode & S_IFMT;
    if (fstat(fd, st) < 0 || (st->st_mode & S_IFMT) != kind)
        return err_set(err, -EAGAIN, "%s was replaced while it was opened: try again", path);
    /* Newer kernels let a read-only device be opened for writing, and refuse the writes. */
    if (S_ISBLK(kind) && !(flags & DISK_OPEN_READ_ONLY) && is_read_only_device(fd))
        return explain(path, st, -EROFS, NULL, err);
    return probe(fd, path, st, memory_backed, g, err);
}

int disk_open_fd(const char *path, unsigned flags, struct disk_geometry *geometry, struct err *err)
{
    *geometry = (struct disk_geometry) { .direct = true };
    /* Looked at before it is opened: opening a tape or a FIFO has effects. */
    struct stat st;
    if (stat(path, &st) < 0) {
        if (errno == ENOENT)
            return err_set(err, -ENOENT,
                           "%s does not exist: name a block device, or make a file first, for example with "
                           "'truncate -s 40G'",
                           path);
        return err_set(err, -errno, "%s cannot be reached: %s", path, strerror(errno));
    }
    if (S_ISDIR(st.st_mode))
        return err_set(err, -EISDIR, "%s is a directory: name a block device or a file", path);
    if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
        return err_set(err, -ENOTBLK, "%s is neither a block device nor a file", path);
    bool memory_backed = S_ISREG(st.st_mode) && is_memory_backed(path);
    int open_flags = (flags & DISK_OPEN_READ_ONLY ? O_RDONLY : O_RDWR) | O_CLOEXEC;
    /* io_uring hands writes on tmpfs to worker threads (60 us instead of 2), unless the file says that it does not
     * block; and memory does not. */
    if (memory_backed)
        open_flags |= O_NONBLOCK;
    char who[256] = "another process";
    int fd = open_patiently(path, open_flags | O_DIRECT, &st, who, sizeof(who));
    if (fd == -EINVAL) {
        geometry->direct = false;
        fd = open_patiently(path, open_flags, &st, who, sizeof(who));
    }
    if (fd < 0)
        return explain(path, &st, fd, who, err);
    bool looped = S_ISREG(st.st_mode) && !(flags & DISK_OPEN_READ_ONLY) && disk_under_loop(&st, who, sizeof(who));
    int rc =
        looped ? explain(path, &st, -EBUSY, who, err) : examine(fd, path, &st, memory_backed, flags, geometry, err);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}
