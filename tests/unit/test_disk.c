/* Backing devices: real files in memory and on disk, and loop devices where they can be had. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "blockdev/disk/disk.h"
#include "repl/base/buf.h"
#include "repl/base/clock.h"
#include "repl/base/prng.h"

#define SIZE_BYTES (8 * MIB)
#define FILES_MAX 8

/* Where the tests run, one after the other. */
static const struct place {
    const char *name;
    const char *dir;
    unsigned loop_block_bytes; /* a loop device with such blocks over a file there; 0: the file itself */
} places[] = {
    { "tmpfs", "/dev/shm", 0 },
    { "disk", "/var/tmp", 0 },
    { "loop device", "/dev/shm", 512 },
    { "loop device with 4 KiB blocks", "/dev/shm", 4096 },
};
static const struct place *place;

static struct fixture {
    struct ring *ring;
    struct buf_pool pool;
    struct disk *disk;
    char file[64]; /* the file, also under a loop device */
    char path[64]; /* the backing */
    int loop_fd;
} fixture;

/* Returns a descriptor that keeps the loop device alive: it goes away with the last one. -1: cannot be had. */
static int loop_open(const char *file, unsigned block_bytes, unsigned flags, char *path, size_t path_bytes)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int backing = open(file, (flags & LO_FLAGS_READ_ONLY ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    int loop = -1;
    /* Others may take the free one first, also for reading only. */
    for (unsigned attempt = 0; control >= 0 && backing >= 0 && loop < 0 && attempt < 100; attempt++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0)
            break;
        snprintf(path, path_bytes, "/dev/loop%d", number);
        loop = open(path, O_RDWR | O_CLOEXEC); /* else it would be read-only */
        if (loop < 0)
            continue;
        struct loop_config config = {
            .fd = (uint32_t)backing,
            .block_size = block_bytes,
            .info.lo_flags = flags | LO_FLAGS_AUTOCLEAR,
        };
        bool configured = ioctl(loop, LOOP_CONFIGURE, &config) == 0;
        int keep = configured ? open(path, O_RDONLY | O_CLOEXEC) : -1; /* not to be taken for a writer */
        close(loop);
        loop = keep;
    }
    if (control >= 0)
        close(control);
    if (backing >= 0)
        close(backing);
    return loop;
}

static void make_file(const char *dir, uint64_t bytes, char *path, size_t path_bytes)
{
    snprintf(path, path_bytes, "%s/test_disk.XXXXXX", dir);
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
}

static void open_backing(unsigned flags)
{
    struct err err = { 0 };
    fixture.disk = disk_open(fixture.ring, fixture.path, flags, &err);
    if (!fixture.disk)
        fail_msg("disk_open: %s", err.text);
}

static int setup(void **state)
{
    struct fixture *f = &fixture;
    make_file(place->dir, SIZE_BYTES, f->file, sizeof(f->file));
    memcpy(f->path, f->file, sizeof(f->path));
    f->loop_fd = -1;
    if (place->loop_block_bytes) {
        f->loop_fd = loop_open(f->file, place->loop_block_bytes, 0, f->path, sizeof(f->path));
        assert_true(f->loop_fd >= 0);
    }
    assert_int_equal(buf_pool_open(&f->pool, 4 * BUF_BYTES_MAX), 0);
    struct ring_config config = {
        .entries = 64,
        .files_max = FILES_MAX,
        .arena = f->pool.arena,
        .arena_bytes = f->pool.arena_bytes,
    };
    struct err err = { 0 };
    f->ring = ring_open(&config, &err);
    if (!f->ring)
        fail_msg("ring_open: %s", err.text);
    open_backing(0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    disk_close(f->disk);
    ring_close(f->ring);
    if (f->pool.free_bytes == f->pool.arena_bytes) /* else a test has failed, which is to be told instead */
        buf_pool_close(&f->pool);
    if (f->loop_fd >= 0)
        close(f->loop_fd);
    unlink(f->file);
    return 0;
}

static struct ring *io_ring;
static bool io_ended;
static void io_done(struct disk_io *io)
{
    io_ended = true;
    ring_stop(io_ring);
}

/* One request, from start to end. */
static int32_t run_on(struct disk *d, enum op_kind kind, uint32_t flags, uint64_t offset, uint64_t length, void *data)
{
    static struct disk_io io; /* used again and again, as owners do */
    io.kind = kind;
    io.flags = flags;
    io.offset_bytes = offset;
    io.length_bytes = length;
    io.data = data;
    io.done = io_done;
    io_ring = d->ring;
    io_ended = false;
    disk_submit(d, &io);
    assert_false(io_ended); /* never from within the call */
    ring_run(d->ring, NULL, NULL);
    assert_true(io_ended);
    assert_int_equal(io.length_bytes, length);
    assert_true(io.result <= 0);
    return io.result;
}

static int32_t run(enum op_kind kind, uint32_t flags, uint64_t offset, uint64_t length, void *data)
{
    return run_on(fixture.disk, kind, flags, offset, length, data);
}

static uint64_t allocated_bytes(void)
{
    struct stat st;
    assert_int_equal(stat(fixture.file, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void geometry_is_what_we_made(void **state)
{
    const struct fixture *f = *state;
    const struct disk_geometry *g = &f->disk->geometry;
    printf("%s: logical block %u, memory alignment %u, direct %d, unmap %d, fast zeroes %d, FUA %d, inline %d\n",
           place->name, g->logical_block_bytes, g->memory_align_bytes, g->direct, g->can_unmap, g->zeroes_fast, g->fua,
           g->writes_inline);
    assert_int_equal(g->size_bytes, SIZE_BYTES);
    assert_int_equal(g->is_block_device, place->loop_block_bytes != 0);
    if (place->loop_block_bytes)
        assert_int_equal(g->logical_block_bytes, place->loop_block_bytes);
    assert_in_range(g->logical_block_bytes, 512, 4096);
    assert_in_range(g->memory_align_bytes, 1, BUF_BYTES_MIN);
    assert_int_equal(g->writes_inline, strcmp(place->name, "tmpfs") == 0);
    assert_string_equal(f->disk->path, f->path);
}

static void written_is_read_by_others_after_a_flush(void **state)
{
    struct fixture *f = *state;
    uint64_t block = f->disk->geometry.logical_block_bytes;
    struct buf *b = buf_get(&f->pool, BUF_BYTES_MAX, 0);
    struct prng p = prng_seed(1);
    for (size_t i = 0; i < BUF_BYTES_MAX; i++)
        b->data[i] = (uint8_t)prng_next(&p);
    assert_int_equal(run(OP_WRITE, 0, 0, BUF_BYTES_MAX, b->data), 0);
    assert_int_equal(run(OP_WRITE, OP_FLAG_FUA, 2 * MIB, block, b->data), 0);
    assert_int_equal(run(OP_WRITE, 0, SIZE_BYTES - block, block, b->data), 0);
    assert_int_equal(run(OP_FLUSH, 0, 0, 0, NULL), 0);
    uint8_t *seen = malloc(SIZE_BYTES);
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, seen, SIZE_BYTES, 0), SIZE_BYTES);
    close(fd);
    assert_memory_equal(seen, b->data, BUF_BYTES_MAX);
    assert_memory_equal(seen + 2 * MIB, b->data, block);
    assert_memory_equal(seen + SIZE_BYTES - block, b->data, block);
    assert_int_equal(seen[BUF_BYTES_MAX], 0);
    free(seen);
    struct buf *back = buf_get(&f->pool, BUF_BYTES_MAX, 0);
    assert_int_equal(run(OP_READ, 0, 0, BUF_BYTES_MAX, back->data), 0);
    assert_memory_equal(back->data, b->data, BUF_BYTES_MAX);
    buf_put(back);
    buf_put(b);
}

static void what_does_not_fit_is_refused_and_touches_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t block = f->disk->geometry.logical_block_bytes;
    struct buf *b = buf_get(&f->pool, 8192, 0);
    memset(b->data, 0xff, 8192);
    assert_int_equal(run(OP_READ, 0, SIZE_BYTES, block, b->data), -EIO);
    assert_int_equal(run(OP_READ, 0, SIZE_BYTES - block, 2 * block, b->data), -EIO);
    assert_int_equal(run(OP_WRITE, 0, SIZE_BYTES - block, 2 * block, b->data), -ENOSPC);
    assert_int_equal(run(OP_WRITE, 0, UINT64_MAX - block + 1, block, b->data), -ENOSPC);
    assert_int_equal(run(OP_DISCARD, 0, SIZE_BYTES - block, 2 * block, NULL), -ENOSPC);
    assert_int_equal(run(OP_WRITE_ZEROES, 0, SIZE_BYTES, block, NULL), -ENOSPC);
    assert_int_equal(run(OP_WRITE, 0, 1, block, b->data), -EINVAL);
    assert_int_equal(run(OP_WRITE, 0, block / 2, block, b->data), -EINVAL);
    assert_int_equal(run(OP_READ, 0, 0, block / 2, b->data), -EINVAL);
    assert_int_equal(run(OP_DISCARD, 0, block, block + 1, NULL), -EINVAL);
    struct stat st;
    assert_int_equal(stat(f->file, &st), 0);
    assert_int_equal(st.st_size, SIZE_BYTES); /* a file would have grown */
    assert_int_equal(run(OP_READ, 0, 0, 8192, b->data), 0);
    for (unsigned i = 0; i < 8192; i++)
        assert_int_equal(b->data[i], 0);
    buf_put(b);
}

/* Any sequence of changes, at any alignment that the geometry allows, against a model in memory: above all no discard
 * and no zeroing may touch a neighbour or leave a rest. */
static void random_changes_equal_a_model(void **state)
{
    struct fixture *f = *state;
    uint64_t block = f->disk->geometry.logical_block_bytes;
    const uint64_t blocks = SIZE_BYTES / block;
    uint8_t *model = calloc(1, SIZE_BYTES);
    struct buf *b = buf_get(&f->pool, BUF_BYTES_MAX, 0);
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct prng p = prng_seed(seed);
        for (unsigned i = 0; i < 400; i++) {
            uint64_t at = prng_below(&p, blocks);
            uint64_t max = prng_below(&p, 2) ? 16 : BUF_BYTES_MAX / block;
            uint64_t n = 1 + prng_below(&p, min_u64(max, blocks - at));
            uint64_t offset = at * block, length = n * block;
            uint32_t fua = prng_below(&p, 8) == 0 ? OP_FLAG_FUA : 0;
            uint8_t fill = (uint8_t)(1 + prng_below(&p, 255));
            switch (prng_below(&p, 6)) {
            case 0:
            case 1:
                memset(b->data, fill, length);
                assert_int_equal(run(OP_WRITE, fua, offset, length, b->data), 0);
                memset(model + offset, fill, length);
                break;
            case 2:
                assert_int_equal(run(OP_DISCARD, fua, offset, length, NULL), 0);
                memset(model + offset, 0, length);
                break;
            case 3:
                assert_int_equal(run(OP_WRITE_ZEROES, fua | (i % 2 ? OP_FLAG_KEEP_ALLOCATED : 0), offset, length, NULL),
                                 0);
                memset(model + offset, 0, length);
                break;
            case 4: {
                uint32_t keep = i % 2 ? OP_FLAG_KEEP_ALLOCATED : 0;
                int32_t result = run(OP_WRITE_ZEROES, fua | keep | OP_FLAG_FAST_ONLY, offset, length, NULL);
                assert_true(result == 0 || result == -EOPNOTSUPP);
                if (result == 0)
                    memset(model + offset, 0, length);
                break;
            }
            case 5:
                assert_int_equal(run(OP_READ, 0, offset, length, b->data), 0);
                assert_memory_equal(b->data, model + offset, length);
                break;
            }
        }
        for (uint64_t at = 0; at < SIZE_BYTES; at += BUF_BYTES_MAX) {
            assert_int_equal(run(OP_READ, 0, at, BUF_BYTES_MAX, b->data), 0);
            assert_memory_equal(b->data, model + at, BUF_BYTES_MAX);
        }
    }
    buf_put(b);
    free(model);
}

static void discard_gives_back_and_keep_allocated_keeps(void **state)
{
    struct fixture *f = *state;
    if (!f->disk->geometry.can_unmap) {
        printf("skipped: %s gives no storage back\n", place->name);
        skip();
    }
    struct buf *b = buf_get(&f->pool, BUF_BYTES_MAX, 0);
    memset(b->data, 0x77, BUF_BYTES_MAX);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(run(OP_WRITE, 0, i * BUF_BYTES_MAX, BUF_BYTES_MAX, b->data), 0);
    assert_int_equal(run(OP_FLUSH, 0, 0, 0, NULL), 0);
    buf_put(b);
    uint64_t full = allocated_bytes();
    assert_true(full >= 4 * BUF_BYTES_MAX);
    assert_int_equal(run(OP_DISCARD, 0, BUF_BYTES_MAX, BUF_BYTES_MAX, NULL), 0);
    assert_int_equal(run(OP_WRITE_ZEROES, 0, 2 * BUF_BYTES_MAX, BUF_BYTES_MAX, NULL), 0);
    assert_int_equal(run(OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_true(allocated_bytes() <= full - 2 * BUF_BYTES_MAX + 64 * KIB);
    /* Last: a loop device over tmpfs refuses to zero without unmapping, and its kernel then thinks that it cannot do
     * either. */
    uint64_t rest = allocated_bytes();
    assert_int_equal(run(OP_WRITE_ZEROES, OP_FLAG_KEEP_ALLOCATED, 0, BUF_BYTES_MAX, NULL), 0);
    assert_int_equal(run(OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_true(allocated_bytes() + 64 * KIB >= rest);
}

/* tmpfs cannot zero without punching: then fast-only is refused, and without it zeroes are written. */
static void fast_only_never_writes_zeroes_out(void **state)
{
    struct fixture *f = *state;
    uint32_t keep_fast = OP_FLAG_KEEP_ALLOCATED | OP_FLAG_FAST_ONLY;
    int32_t kept = run(OP_WRITE_ZEROES, keep_fast, 0, 65536, NULL);
    if (strcmp(place->name, "tmpfs") == 0)
        assert_int_equal(kept, -EOPNOTSUPP);
    else
        assert_true(kept == 0 || kept == -EOPNOTSUPP);
    assert_int_equal(run(OP_WRITE_ZEROES, keep_fast, 0, 65536, NULL), kept); /* remembered */
    assert_int_equal(run(OP_WRITE_ZEROES, OP_FLAG_FAST_ONLY, 0, 65536, NULL),
                     f->disk->geometry.zeroes_fast ? 0 : -EOPNOTSUPP);
}

/* --- who may open --- */

/* A child that holds the backing until it is killed. */
static pid_t fork_holder(void)
{
    int ready[2];
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct disk_geometry g;
        struct err err = { 0 };
        int fd = disk_open_fd(fixture.path, 0, &g, &err);
        if (fd < 0 || write(ready[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    char byte;
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void a_second_opener_is_refused_and_told_who(void **state)
{
    struct fixture *f = *state;
    struct disk_geometry g;
    struct err err = { 0 };
    char pid_text[32];
    /* In this process. */
    uint64_t start = clock_ns();
    assert_int_equal(disk_open_fd(f->path, 0, &g, &err), -EBUSY);
    assert_int_equal(disk_open_fd(f->path, DISK_OPEN_READ_ONLY, &g, &err), -EBUSY);
    assert_null(disk_open(f->ring, f->path, 0, &err));
    assert_true(clock_ns() - start < DISK_LOCK_WAIT_NS); /* a holder that lives is not waited for */
    snprintf(pid_text, sizeof(pid_text), "pid %d", getpid());
    assert_non_null(strstr(err.text, f->path));
    assert_non_null(strstr(err.text, pid_text));
    disk_close(f->disk);

    /* In another, until it is gone. */
    pid_t pid = fork_holder();
    assert_int_equal(disk_open_fd(f->path, 0, &g, &err), -EBUSY);
    snprintf(pid_text, sizeof(pid_text), "pid %d", pid);
    assert_non_null(strstr(err.text, pid_text));
    kill(pid, SIGKILL);
    open_backing(0); /* at once, while the other may still be on its way out */
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status));
}

/* The lock outlives its taker as long as something holds the open file: a request in flight, or here a second process
 * that inherited it. It is waited for. */
static void a_lock_left_behind_is_waited_for(void **state)
{
    struct fixture *f = *state;
    if (f->disk->geometry.is_block_device) {
        printf("skipped: on block devices a process that has them open cannot be told from the one that locked them\n");
        skip();
    }
    disk_close(f->disk);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct disk_geometry g;
        struct err err = { 0 };
        if (disk_open_fd(f->path, 0, &g, &err) < 0)
            _exit(1);
        if (fork() == 0) {
            struct timespec t = { .tv_nsec = (long)(300 * NS_PER_MS) };
            nanosleep(&t, NULL);
        }
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    open_backing(0);
}

static void open_fails_with(const char *path, int code, const char *says)
{
    struct disk_geometry g;
    struct err err = { 0 };
    assert_int_equal(disk_open_fd(path, 0, &g, &err), code);
    if (!strstr(err.text, path) || !strstr(err.text, says))
        fail_msg("'%s' does not say '%s'", err.text, says);
}

static void what_cannot_be_opened_is_explained(void **state)
{
    char dir[64], path[128], beyond[136];
    snprintf(dir, sizeof(dir), "%s/test_disk.d.XXXXXX", place->dir);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/x", dir);
    snprintf(beyond, sizeof(beyond), "%s/y", path);
    open_fails_with(dir, -EISDIR, "directory");
    open_fails_with(path, -ENOENT, "does not exist");
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    open_fails_with(path, -ENOSPC, "empty");
    assert_int_equal(ftruncate(fd, 511), 0); /* less than a block */
    open_fails_with(path, -ENOSPC, "empty");
    open_fails_with(beyond, -ENOTDIR, "cannot be reached");
    close(fd);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    open_fails_with(path, -ENOTBLK, "neither");
    unlink(path);
    open_fails_with("/dev/null", -ENOTBLK, "neither");
    rmdir(dir);
}

static void no_permission_is_explained(void **state)
{
    struct fixture *f = *state;
    disk_close(f->disk);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (geteuid() == 0 && (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
            _exit(77);
        chmod(f->path, 0400);
        struct disk_geometry g;
        struct err err = { 0 };
        int rc = disk_open_fd(f->path, 0, &g, &err);
        _exit(rc == -EACCES && strstr(err.text, "no permission") ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    open_backing(0);
    if (WEXITSTATUS(status) == 77) {
        printf("skipped: cannot become another user\n");
        skip();
    }
    assert_int_equal(status, 0);
}

static void read_only_stays_so(void **state)
{
    struct fixture *f = *state;
    disk_close(f->disk);
    open_backing(DISK_OPEN_READ_ONLY);
    struct buf *b = buf_get(&f->pool, 4096, 0);
    assert_int_equal(run(OP_READ, 0, 0, 4096, b->data), 0);
    assert_int_equal(run(OP_WRITE, 0, 0, 4096, b->data), -EROFS);
    assert_int_equal(run(OP_DISCARD, 0, 0, 4096, NULL), -EROFS);
    buf_put(b);
    if (place->loop_block_bytes) {
        char path[64];
        int loop = loop_open(f->file, place->loop_block_bytes, LO_FLAGS_READ_ONLY, path, sizeof(path));
        assert_true(loop >= 0);
        open_fails_with(path, -EROFS, "read-only");
        close(loop);
    }
}

/* --- transfers that come to an end too early --- */

static void a_file_cut_off_under_us_is_an_error(void **state)
{
    struct fixture *f = *state;
    if (f->disk->geometry.is_block_device) {
        printf("skipped: a block device does not shrink\n");
        skip();
    }
    assert_int_equal(truncate(f->file, MIB + 4096), 0);
    struct buf *b = buf_get(&f->pool, 65536, 0);
    assert_int_equal(run(OP_READ, 0, MIB, 65536, b->data), -EIO);     /* short, then nothing */
    assert_int_equal(run(OP_READ, 0, 2 * MIB, 65536, b->data), -EIO); /* nothing at all */
    buf_put(b);
}

static void a_write_that_comes_to_a_limit_goes_on_and_then_fails(void **state)
{
    struct fixture *f = *state;
    if (f->disk->geometry.is_block_device) {
        printf("skipped: limits are for files\n");
        skip();
    }
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = MIB + 8192;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    struct buf *b = buf_get(&f->pool, 65536, 0);
    memset(b->data, 0x11, 65536);
    int32_t result = run(OP_WRITE, 0, MIB, 65536, b->data);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(result, -EFBIG);
    assert_int_equal(run(OP_READ, 0, MIB, 65536, b->data), 0);
    for (unsigned i = 0; i < 65536; i++)
        assert_int_equal(b->data[i], i < 8192 ? 0x11 : 0);
    buf_put(b);
}

/* --- many at once --- */

static unsigned storm_left;
static void storm_done(struct disk_io *io)
{
    assert_int_equal(io->result, 0);
    if (--storm_left == 0)
        ring_stop(io_ring);
}

static void many_in_flight_each_end_once(void **state)
{
    struct fixture *f = *state;
    enum { N = 500 };
    static struct disk_io io[N];
    struct buf *b = buf_get(&f->pool, 4096, 0);
    memset(b->data, 0x42, 4096);
    memset(io, 0, sizeof(io));
    io_ring = f->ring;
    storm_left = N;
    for (unsigned i = 0; i < N; i++) {
        io[i] = (struct disk_io) {
            .kind = i % 7 == 6 ? OP_FLUSH : OP_WRITE,
            .offset_bytes = i * UINT64_C(4096),
            .length_bytes = i % 7 == 6 ? 0 : 4096,
            .data = b->data,
            .done = storm_done,
        };
        disk_submit(f->disk, &io[i]);
    }
    ring_run(f->ring, NULL, NULL);
    assert_int_equal(storm_left, 0);
    buf_put(b);
}

/* --- holes --- */

static void map_done(struct disk_map *map) { ring_stop(io_ring); }

static void map_it(struct disk_map *map, uint64_t offset, uint64_t length, unsigned runs_max)
{
    memset(map, 0, sizeof(*map));
    map->offset_bytes = offset;
    map->length_bytes = length;
    map->runs_max = runs_max;
    map->done = map_done;
    io_ring = fixture.ring;
    disk_map(fixture.disk, map);
    ring_run(fixture.ring, NULL, NULL);
    assert_int_equal(map->result, 0);
    assert_in_range(map->run_count, 1, runs_max);
}

static void holes_are_found(void **state)
{
    struct fixture *f = *state;
    static struct disk_map map;
    if (f->disk->geometry.is_block_device) {
        map_it(&map, 4096, SIZE_BYTES - 4096, 64);
        assert_int_equal(map.run_count, 1);
        assert_false(map.runs[0].hole);
        assert_int_equal(map.runs[0].length_bytes, SIZE_BYTES - 4096);
        return;
    }
    map_it(&map, 0, SIZE_BYTES, 64);
    assert_int_equal(map.run_count, 1);
    assert_true(map.runs[0].hole);
    assert_int_equal(map.runs[0].length_bytes, SIZE_BYTES);

    struct buf *b = buf_get(&f->pool, 65536, 0);
    memset(b->data, 0x33, 65536);
    for (unsigned i = 1; i < 8; i += 2)
        assert_int_equal(run(OP_WRITE, 0, i * 65536, 65536, b->data), 0);
    buf_put(b);
    assert_int_equal(run(OP_FLUSH, 0, 0, 0, NULL), 0);
    map_it(&map, 0, SIZE_BYTES, 64);
    assert_int_equal(map.run_count, 9);
    for (unsigned i = 0; i < 9; i++) {
        assert_int_equal(map.runs[i].hole, i % 2 == 0);
        assert_int_equal(map.runs[i].length_bytes, i < 8 ? 65536 : SIZE_BYTES - 8 * 65536);
    }
    map_it(&map, 65536 + 512, 65536, 64); /* begins in data, ends in a hole */
    assert_int_equal(map.run_count, 2);
    assert_int_equal(map.runs[0].length_bytes, 65536 - 512);
    assert_int_equal(map.runs[1].length_bytes, 512);
    assert_true(map.runs[1].hole);
    map_it(&map, 0, SIZE_BYTES, 3); /* a prefix when there is no room for more */
    assert_int_equal(map.run_count, 3);
}

/* --- filters --- */

static void put_on_faults(const struct disk_fault_config *config)
{
    struct err err = { 0 };
    struct disk *d = disk_filter_fault(fixture.disk, config, &err);
    assert_non_null(d);
    fixture.disk = d;
}

static void faults_hit_where_and_when_told(void **state)
{
    struct fixture *f = *state;
    struct buf *b = buf_get(&f->pool, 65536, 0);
    memset(b->data, 0x55, 65536);
    assert_int_equal(run(OP_WRITE, 0, 0, 65536, b->data), 0);
    struct disk_fault_config config = {
        .error_per_million = { [OP_WRITE] = 1000000, [OP_FLUSH] = 1000000 },
        .error = -ENOMEDIUM,
        .error_offset_bytes = 65536,
        .error_length_bytes = 4096,
    };
    put_on_faults(&config);
    assert_int_equal(run(OP_WRITE, 0, 0, 65536, b->data), 0);
    assert_int_equal(run(OP_WRITE, 0, 65536 - 4096, 8192, b->data), -ENOMEDIUM);
    assert_int_equal(run(OP_READ, 0, 65536, 4096, b->data), 0);
    assert_int_equal(b->data[0], 0); /* a request that fails does nothing */
    assert_int_equal(run(OP_FLUSH, 0, 0, 0, NULL), -ENOMEDIUM);
    config.error_after_requests = 2;
    config.error_length_bytes = 0;
    disk_filter_fault_set(f->disk, &config);
    assert_int_equal(run(OP_WRITE, 0, 0, 4096, b->data), 0);
    assert_int_equal(run(OP_WRITE, 0, 0, 4096, b->data), 0);
    assert_int_equal(run(OP_WRITE, 0, 0, 4096, b->data), -ENOMEDIUM);
    buf_put(b);
}

static void the_same_seed_gives_the_same_faults(void **state)
{
    struct fixture *f = *state;
    struct buf *b = buf_get(&f->pool, 16384, 0);
    struct disk_fault_config config = {
        .seed = 42,
        .error_per_million = { [OP_READ] = 300000 },
        .error = -EIO,
    };
    put_on_faults(&config);
    int32_t first[100];
    unsigned failed = 0;
    for (unsigned round = 0; round < 2; round++) {
        disk_filter_fault_set(f->disk, &config);
        for (unsigned i = 0; i < ARRAY_LEN(first); i++) {
            int32_t result = run(OP_READ, 0, 0, 16384, b->data);
            if (round == 0) {
                first[i] = result;
                failed += result != 0;
            } else {
                assert_int_equal(result, first[i]);
            }
        }
    }
    assert_in_range(failed, 10, 60);
    buf_put(b);
}

static void a_write_cut_short_is_done_in_part_and_fails(void **state)
{
    struct fixture *f = *state;
    struct disk_fault_config config = { .seed = 5, .error = -EIO, .short_per_million = 1000000 };
    put_on_faults(&config);
    struct buf *b = buf_get(&f->pool, 65536, 0);
    memset(b->data, 0x66, 65536);
    assert_int_equal(run(OP_WRITE, 0, 0, 65536, b->data), -EIO);
    config.short_per_million = 0;
    disk_filter_fault_set(f->disk, &config);
    assert_int_equal(run(OP_READ, 0, 0, 65536, b->data), 0);
    unsigned written = 0;
    while (written < 65536 && b->data[written] == 0x66)
        written++;
    assert_in_range(written, 512, 65536 - 512);
    for (unsigned i = written; i < 65536; i++)
        assert_int_equal(b->data[i], 0);
    buf_put(b);
}

static void delays_stack_on_faults_and_keep_their_time(void **state)
{
    struct fixture *f = *state;
    struct disk_fault_config faults = {
        .error_per_million = { [OP_DISCARD] = 1000000 },
        .error = -EIO,
    };
    struct disk_delay_config delay = { .seed = 1, .min_ns = 3 * NS_PER_MS, .max_ns = 4 * NS_PER_MS };
    struct err err = { 0 };
    put_on_faults(&faults);
    for (unsigned i = 1; i < DISK_FILTERS_MAX; i++) {
        struct disk *d = disk_filter_delay(f->disk, &delay, &err);
        assert_non_null(d);
        f->disk = d;
    }
    assert_null(disk_filter_delay(f->disk, &delay, &err));
    assert_int_equal(err.code, -E2BIG);
    assert_int_equal(f->disk->geometry.size_bytes, SIZE_BYTES);
    struct buf *b = buf_get(&f->pool, 4096, 0);
    uint64_t start = clock_ns();
    assert_int_equal(run(OP_WRITE, 0, 0, 4096, b->data), 0);
    uint64_t took_ns = clock_ns() - start;
    assert_true(took_ns >= (DISK_FILTERS_MAX - 1) * 3 * NS_PER_MS);
    assert_int_equal(run(OP_DISCARD, 0, 0, 4096, NULL), -EIO);
    static struct disk_map map;
    map_it(&map, 0, SIZE_BYTES, 64);
    buf_put(b);
}

/* --- */

static const char *unusable(void)
{
    if (access(place->dir, W_OK) < 0)
        return "the directory is missing";
    if (place->loop_block_bytes) {
        char file[64], path[64];
        make_file(place->dir, SIZE_BYTES, file, sizeof(file));
        int loop = loop_open(file, place->loop_block_bytes, 0, path, sizeof(path));
        unlink(file);
        if (loop < 0)
            return "no loop device can be had (needs root and the loop driver)";
        close(loop);
    }
    return NULL;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(geometry_is_what_we_made),
        TEST(written_is_read_by_others_after_a_flush),
        TEST(what_does_not_fit_is_refused_and_touches_nothing),
        TEST(random_changes_equal_a_model),
        TEST(discard_gives_back_and_keep_allocated_keeps),
        TEST(fast_only_never_writes_zeroes_out),
        TEST(a_second_opener_is_refused_and_told_who),
        TEST(a_lock_left_behind_is_waited_for),
        TEST(what_cannot_be_opened_is_explained),
        TEST(no_permission_is_explained),
        TEST(read_only_stays_so),
        TEST(a_file_cut_off_under_us_is_an_error),
        TEST(a_write_that_comes_to_a_limit_goes_on_and_then_fails),
        TEST(many_in_flight_each_end_once),
        TEST(holes_are_found),
        TEST(faults_hit_where_and_when_told),
        TEST(the_same_seed_gives_the_same_faults),
        TEST(a_write_cut_short_is_done_in_part_and_fails),
        TEST(delays_stack_on_faults_and_keep_their_time),
    };
    struct ring_config config = { .entries = 8 };
    struct err err = { 0 };
    struct ring *r = ring_open(&config, &err);
    if (!r) {
        printf("skipped: %s\n", err.text);
        return 77;
    }
    ring_close(r);
    int failed = 0;
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        place = &places[i];
        const char *why = unusable();
        printf("%s: %s%s\n", place->name, why ? "skipped: " : place->dir, why ? why : "");
        fflush(stdout);
        if (!why)
            failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}
