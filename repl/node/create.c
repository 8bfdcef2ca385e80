/* Making a leg: checks, zeroes, the first superblock. */
#include "repl/node/create.h"

#include <assert.h>
#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/base/scoped.h"
#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"
#include "repl/node/blank.h"
#include "repl/node/leg.h"

#define ZERO_STEP_BYTES (256 * MIB) /* between two reports of progress */
#define ZERO_BLOCK_BYTES (1 * MIB)

/* Where this leg's bytes go while it is being made. */
struct target {
    int data_fd;
    int meta_fd;           /* may be the same */
    uint64_t holder_bytes; /* of what was there for the metadata before; 0: nothing, or it is internal */
    struct disk_geometry geometry;
    struct meta_layout layout;
};

static int lock_file(int fd, const char *path, struct err *err)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    int code = errno == EWOULDBLOCK ? -EBUSY : -errno;
    close(fd);
    return err_set(err, code, "%s: %s", path, code == -EBUSY ? "is in use by another process" : strerror(-code));
}

/* The metadata's own file is made if it is not there. `holder_bytes`: 0 if it is new or empty. */
static int open_holder(const char *path, uint64_t *holder_bytes, struct err *err)
{
    struct stat st;
    *holder_bytes = 0;
    bool missing = stat(path, &st) < 0;
    if (missing && errno != ENOENT)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    if (missing || (S_ISREG(st.st_mode) && st.st_size == 0)) {
        int fd = open(path, O_RDWR | O_CLOEXEC | (missing ? O_CREAT | O_EXCL : 0), 0600);
        if (fd < 0)
            return err_set(err, -errno, "%s: cannot be %s: %s", path, missing ? "made" : "opened", strerror(errno));
        return lock_file(fd, path, err);
    }
    /* Something is there, which may be somebody's: it is neither shortened nor shared. */
    struct disk_geometry geometry;
    int fd = disk_open_fd(path, 0, &geometry, err);
    if (fd >= 0)
        *holder_bytes = geometry.size_bytes;
    return fd;
}

static bool is_same(const char *a, const char *b)
{
    struct stat x, y;
    if (stat(a, &x) < 0 || stat(b, &y) < 0)
        return false;
    bool same_device = S_ISBLK(x.st_mode) && S_ISBLK(y.st_mode) && x.st_rdev == y.st_rdev;
    return same_device || (x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

static int open_backing(const struct volume_config *config, struct target *t, struct err *err)
{
    t->data_fd = disk_open_fd(config_self(config)->backing, 0, &t->geometry, err);
    return t->data_fd < 0 ? t->data_fd : 0;
}

static int open_metadata(const struct volume_config *config, struct target *t, struct err *err)
{
    const struct config_node *self = config_self(config);
    uint64_t holder_bytes = 0;
    t->meta_fd = t->data_fd;
    if (self->metadata[0]) {
        if (is_same(self->backing, self->metadata))
            return err_set(err, -EINVAL, "%s: is the backing %s itself: `metadata` needs a file or device of its own",
                           self->metadata, self->backing);
        t->meta_fd = open_holder(self->metadata, &holder_bytes, err);
        if (t->meta_fd < 0)
            return t->meta_fd;
    }
    t->holder_bytes = holder_bytes;
    int r = leg_layout(config, t->geometry.size_bytes, holder_bytes, &t->layout, err);
    if (r)
        return r;
    if (self->metadata[0] && holder_bytes == 0 && ftruncate(t->meta_fd, (off_t)t->layout.meta_bytes) < 0)
        return err_set(err, -errno, "%s: cannot be made %llu bytes long: %s", self->metadata,
                       (unsigned long long)t->layout.meta_bytes, strerror(errno));
    if (config->size_bytes > t->layout.data_bytes)
        return err_set(err, -ENOSPC, "%s: `size` is %llu bytes, but the backing has room for %llu%s", self->backing,
                       (unsigned long long)config->size_bytes, (unsigned long long)t->layout.data_bytes,
                       self->metadata[0] ? "" : " beside its metadata");
    return 0;
}

static void close_target(struct target *t)
{
    if (t->meta_fd >= 0 && t->meta_fd != t->data_fd)
        close(t->meta_fd);
    if (t->data_fd >= 0)
        close(t->data_fd);
}

/* At least as far as a daemon looks (leg.c), which keeps many reads in flight: what it would find is not taken for
 * nothing here. */
#define SEARCH_NS (60 * NS_PER_S)

/* Holes of a file need not be read. Of a device this is not known. */
static bool is_hole(int fd, uint64_t from_bytes, uint64_t end_bytes)
{
    off_t data = lseek(fd, (off_t)from_bytes, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= end_bytes;
}

/* A leg on a backing that has grown since does not show itself at the present end. */
struct former_search {
    const struct target *target;
    struct superblock_search search;
    uint64_t places[SUPERBLOCK_SEARCH_READS];
    unsigned count, next; /* of the places */
    uint64_t until_ns;
    void *bytes; /* owned */
};

static int former_search_open(struct former_search *f, const struct target *t, struct err *err)
{
    *f = (struct former_search) { .target = t, .until_ns = clock_ns() + SEARCH_NS };
    if (posix_memalign(&f->bytes, 4096, SUPERBLOCK_BYTES))
        return err_set(err, -ENOMEM, "out of memory");
    /* Metadata of its own file or device lies at the start of that. */
    superblock_search_begin(&f->search, t->meta_fd == t->data_fd ? t->geometry.size_bytes : 0);
    return 0;
}

static void former_search_close(struct former_search *f) { free(f->bytes); }

/* The next places that may hold something; false: all was looked at. */
static bool former_search_refill(struct former_search *f)
{
    do {
        f->next = 0;
        f->count = superblock_search_next(&f->search, f->places);
        if (f->count == 0)
            return false;
    } while (is_hole(f->target->data_fd, f->places[f->count - 1], f->places[0] + SUPERBLOCK_BYTES));
    return true;
}

/* True: one was found, and the same place is looked at again the next time. False: none, or none in time. */
static bool former_search_next(struct former_search *f, struct meta_layout *out)
{
    while (clock_ns() < f->until_ns && (f->next < f->count || former_search_refill(f))) {
        uint64_t at = f->places[f->next];
        ssize_t n = pread(f->target->data_fd, f->bytes, SUPERBLOCK_BYTES, (off_t)at);
        if (n == SUPERBLOCK_BYTES && superblock_search_look(at, f->bytes, NULL, out))
            return true;
        f->next++;
    }
    return false;
}

/* The caller need not fail for it, but whoever ordered it must know: a text without a code. */
static void former_search_tell(const struct former_search *f, struct err *err)
{
    uint64_t left = f->next < f->count ? f->places[f->next] : f->search.end_bytes;
    if (left)
        snprintf(err->text, sizeof(err->text),
                 "it took too long to look for a former leg everywhere: the first %llu bytes were not looked at, and "
                 "one may have been there",
                 (unsigned long long)left);
}

#define WAY_OUT "To keep what the leg holds, as after a crash: --adopt --force; to write over it: --force"

/* Its superblocks are gone, but it was here. */
static int refuse_trace(const char *path, const struct target *t, struct err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    struct range range = meta_trace_range(&t->layout);
    if (posix_memalign(&bytes, 4096, META_TRACE_STEP_BYTES))
        return err_set(err, -ENOMEM, "out of memory");
    for (uint64_t at = range.offset_bytes; at < range_end(range); at += META_TRACE_STEP_BYTES) {
        ssize_t n = pread(t->meta_fd, bytes, META_TRACE_STEP_BYTES, (off_t)at);
        if (n > 0 && meta_trace_found(bytes, (uint64_t)n))
            return err_set(
                err, -EEXIST,
                "%s: holds the activity log or the bitmap of a leg, whose superblocks are lost. To keep what "
                "the leg holds, as after a crash: --adopt --force; to write over it: --force",
                path);
    }
    return 0;
}

static int refuse_foreign_metadata(const struct volume_config *config, const struct target *t, uint8_t *blocks,
                                   struct err *err)
{
    const char *path = t->meta_fd == t->data_fd ? config_self(config)->backing : config_self(config)->metadata;
    struct meta_layout former, layout = t->layout;
    struct former_search search;
    int r = former_search_open(&search, t, err);
    if (r)
        return r;
    if (former_search_next(&search, &former))
        layout = former;
    else
        former_search_tell(&search, err);
    former_search_close(&search);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        ssize_t n = pread(t->meta_fd, blocks + i * SUPERBLOCK_BYTES, SUPERBLOCK_BYTES,
                          (off_t)superblock_copy_offset(&layout, i));
        if (n < 0)
            return err_set(err, -errno, "%s: cannot be read: %s", path, strerror(errno));
        /* Of a backing that has shrunk, a copy may lie beyond the end: as good as damaged. */
        if (n != SUPERBLOCK_BYTES)
            memset(blocks + i * SUPERBLOCK_BYTES, 0, SUPERBLOCK_BYTES);
    }
    struct superblock sb;
    unsigned good;
    struct err why = { 0 };
    r = superblock_choose((uint8_t(*)[SUPERBLOCK_BYTES])blocks, &sb, &good, &why);
    if (r == -ENOENT)
        return refuse_trace(path, t, err);
    if (r)
        return err_set(err, -EEXIST, "%s: holds Lockstep metadata that cannot be used (%s). %s", path, why.text,
                       r == -EBADMSG ? WAY_OUT : "To write over it: --force");
    return err_set(err, -EEXIST, "%s: already holds a leg of volume %s, made on node %s. To write over it: --force",
                   path, sb.volume, sb.node);
}

/* A file system or partition table at the beginning: somebody's data. What cannot be examined may be that, too. */
static int refuse_foreign_data(const char *path, int fd, const char *way_out, struct err *err)
{
    /* libblkid reads a few bytes here and there, which O_DIRECT would refuse. */
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_DIRECT) < 0)
        return err_set(err, -errno, "%s: cannot be examined: %s", path, strerror(errno));
    blkid_probe probe = blkid_new_probe();
    if (!probe)
        return err_set(err, -ENOMEM, "out of memory");
    int r = 0;
    errno = 0;
    int found = blkid_probe_set_device(probe, fd, 0, 0);
    if (found == 0) {
        blkid_probe_enable_superblocks(probe, 1);
        blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE);
        blkid_probe_enable_partitions(probe, 1);
        found = blkid_do_safeprobe(probe);
    }
    const char *type = "something";
    switch (found) {
    case 1: break; /* nothing that is known */
    case 0:
    case -2: /* signs of more than one thing */
        if (blkid_probe_lookup_value(probe, "TYPE", &type, NULL) < 0)
            (void)blkid_probe_lookup_value(probe, "PTTYPE", &type, NULL);
        r = err_set(err, -EEXIST, "%s: holds data (%s). %s; to lose it: --force", path, type, way_out);
        break;
    default: r = err_set(err, -EIO, "%s: cannot be examined: %s", path, errno ? strerror(errno) : "libblkid failed");
    }
    blkid_free_probe(probe);
    if (fcntl(fd, F_SETFL, flags) < 0 && !r)
        r = err_set(err, -errno, "%s: %s", path, strerror(errno));
    return r;
}

/* Where the metadata lies by itself, and tells of no leg, it may be the wrong one, or not be mounted: the backing may
 * hold a leg that nothing else shows. */
static int refuse_used_backing(const struct volume_config *config, const struct target *t, struct err *err)
{
    const struct config_node *self = config_self(config);
    struct err why = { 0 };
    int r = blank_look(self->backing, t->data_fd, t->geometry.size_bytes, &why);
    if (r == -EEXIST)
        return err_set(
            err, r,
            "%s. It may be a leg whose metadata is not the one at %s: is its file system mounted? If it is no leg: "
            "to keep it as the volume's content: --adopt; to lose it: --force",
            why.text, self->metadata);
    return r ? err_set(err, r, "%s", why.text) : 0;
}

static int refuse_data(const struct volume_config *config, const struct target *t, struct err *err)
{
    const struct config_node *self = config_self(config);
    int r = refuse_foreign_data(self->backing, t->data_fd, "To keep it as the volume's content: --adopt", err);
    return r || !self->metadata[0] ? r : refuse_used_backing(config, t, err);
}

/* A file or device for the metadata that is there already: ours to use when it is made for that, and empty. */
static int refuse_foreign_holder(const char *path, const struct target *t, const uint8_t *blocks, struct err *err)
{
    struct stat st;
    if (fstat(t->meta_fd, &st) < 0)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    bool zeroes = true;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES * SUPERBLOCK_BYTES; i++)
        zeroes = zeroes && blocks[i] == 0;
    /* A file is made in this size by `create`, which may have been cut short. Any other is somebody's. */
    if (S_ISREG(st.st_mode) && (t->holder_bytes != t->layout.meta_bytes || !zeroes))
        return err_set(
            err, -EEXIST,
            "%s: is there already, and holds no Lockstep metadata. Name a file that is not there yet; or, to "
            "lose what it holds: --force",
            path);
    return refuse_foreign_data(path, t->meta_fd, "Name another device for the metadata", err);
}

static int zero_by_writing(int fd, uint64_t offset, uint64_t length, const uint8_t *zeroes)
{
    while (length > 0) {
        ssize_t n = pwrite(fd, zeroes, (size_t)min_u64(length, ZERO_BLOCK_BYTES), (off_t)offset);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        offset += (uint64_t)n;
        length -= (uint64_t)n;
    }
    return 0;
}

static int zero(const char *path, int fd, struct range range, void (*progress)(void *, uint64_t, uint64_t), void *ctx,
                struct err *err)
{
    CLEANUP_FREE void *zeroes = NULL;
    if (posix_memalign(&zeroes, 4096, ZERO_BLOCK_BYTES))
        return err_set(err, -ENOMEM, "out of memory");
    memset(zeroes, 0, ZERO_BLOCK_BYTES);
    static const int modes[] = { FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE };
    unsigned mode = 0;
    for (uint64_t done = 0; done < range.length_bytes;) {
        uint64_t step = min_u64(range.length_bytes - done, ZERO_STEP_BYTES), at = range.offset_bytes + done;
        int r = -EOPNOTSUPP;
        while (mode < ARRAY_LEN(modes)) {
            r = fallocate(fd, modes[mode], (off_t)at, (off_t)step) < 0 ? -errno : 0;
            if (r != -EOPNOTSUPP)
                break;
            mode++;
        }
        if (r == -EOPNOTSUPP)
            r = zero_by_writing(fd, at, step, zeroes);
        if (r)
            return err_set(err, r, "%s: cannot be zeroed at offset %llu: %s", path, (unsigned long long)at,
                           strerror(-r));
        done += step;
        if (progress)
            progress(ctx, done, range.length_bytes);
    }
    return 0;
}

/* What was there before is an epoch of its own: a leg that lacks it is older, and gets all of it. */
static int begin_history(struct superblock *sb, const struct volume_config *config, const struct target *t,
                         struct err *err)
{
    struct history_entry first = { .epoch = 1, .first_lsn = 1 };
    while (first.tag == 0) {
        if (getrandom(&first.tag, sizeof(first.tag), 0) != sizeof(first.tag))
            return err_set(err, -EIO, "no random numbers from the kernel");
    }
    history_append(&sb->history, first);
    sb->epoch = first.epoch;
    /* The other leg must have room for all of it. */
    sb->size_bytes = config->size_bytes ? config->size_bytes : t->layout.data_bytes;
    return 0;
}

/* That there is such a file is on disk, too: without it the leg would be lost with the power. */
static int flush_directory_of(const char *path, struct err *err)
{
    char directory[CONFIG_PATH_BYTES];
    snprintf(directory, sizeof(directory), "%s", path);
    CLEANUP_CLOSE int fd = open(dirname(directory), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return err_set(err, -errno, "the directory of %s cannot be flushed: %s", path, strerror(errno));
    return 0;
}

static int write_first_superblock(const struct volume_config *config, const struct target *t, bool adopt,
                                  uint8_t *block, struct err *err)
{
    const struct config_node *self = config_self(config);
    struct superblock sb = {
        .sequence = 1,
        .size_bytes = config->size_bytes,
        .backing_bytes = t->geometry.size_bytes,
        .leg = LEG_UP_TO_DATE,
        .pristine = !adopt,
        .adopted = adopt,
        .granule_bytes = GRANULE_BYTES_DEFAULT,
        .extent_bytes = EXTENT_BYTES_DEFAULT,
    };
    snprintf(sb.volume, sizeof(sb.volume), "%s", config->volume);
    snprintf(sb.node, sizeof(sb.node), "%s", self->name);
    if (getrandom(&sb.leg_id, sizeof(sb.leg_id), 0) != sizeof(sb.leg_id))
        return err_set(err, -EIO, "no random numbers from the kernel");
    int r = adopt ? begin_history(&sb, config, t, err) : 0;
    if (r)
        return r;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        superblock_encode(&sb, i, block);
        ssize_t n = pwrite(t->meta_fd, block, SUPERBLOCK_BYTES, (off_t)superblock_copy_offset(&t->layout, i));
        if (n != SUPERBLOCK_BYTES)
            return err_set(err, n < 0 ? -errno : -EIO, "the metadata cannot be written: %s",
                           n < 0 ? strerror(errno) : "the disk is full");
    }
    if (fsync(t->data_fd) < 0 || fsync(t->meta_fd) < 0)
        return err_set(err, -errno, "the leg cannot be flushed: %s", strerror(errno));
    return t->meta_fd != t->data_fd && !t->holder_bytes ? flush_directory_of(self->metadata, err) : 0;
}

static int wipe_copies(const struct target *t, const struct meta_layout *layout, uint8_t *block, struct err *err)
{
    memset(block, 0, SUPERBLOCK_BYTES);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        /* Of a backing that has shrunk. */
        if (t->meta_fd == t->data_fd && superblock_copy_offset(layout, i) + SUPERBLOCK_BYTES > t->geometry.size_bytes)
            continue;
        ssize_t n = pwrite(t->meta_fd, block, SUPERBLOCK_BYTES, (off_t)superblock_copy_offset(layout, i));
        if (n != SUPERBLOCK_BYTES)
            return err_set(err, n < 0 ? -errno : -EIO, "the old metadata cannot be removed: %s",
                           n < 0 ? strerror(errno) : "the disk is full");
    }
    return 0;
}

/* Before anything else changes: an old leg must not vouch for data that is not its own any more, should this be cut
 * short. A daemon would find one at a former end, too. */
static int wipe_superblocks(const struct target *t, bool former, uint8_t *block, struct err *err)
{
    struct meta_layout found;
    struct former_search search;
    int r = wipe_copies(t, &t->layout, block, err);
    if (!r && former) {
        r = former_search_open(&search, t, err);
        if (r)
            return r;
        while (!r && former_search_next(&search, &found))
            r = wipe_copies(t, &found, block, err);
        if (!r)
            former_search_tell(&search, err);
        former_search_close(&search);
    }
    if (!r && fsync(t->meta_fd) < 0)
        r = err_set(err, -errno, "the old metadata cannot be removed: %s", strerror(errno));
    return r;
}

static int create_on(const struct volume_config *config, const struct target *t, bool adopt, bool force,
                     void (*progress)(void *, uint64_t, uint64_t), void *ctx, struct err *err)
{
    const struct config_node *self = config_self(config);
    bool internal = t->meta_fd == t->data_fd;
    CLEANUP_FREE void *blocks = NULL;
    if (posix_memalign(&blocks, 4096, SUPERBLOCK_COPIES * SUPERBLOCK_BYTES))
        return err_set(err, -ENOMEM, "out of memory");
    int r = force ? 0 : refuse_foreign_metadata(config, t, blocks, err);
    if (!r && !force && t->holder_bytes)
        r = refuse_foreign_holder(self->metadata, t, blocks, err);
    if (!r && !force && !adopt)
        r = refuse_data(config, t, err);
    if (!r && !force && adopt && internal)
        r = err_set(
            err, -EEXIST,
            "%s: its last %llu bytes would be written over by the metadata. Give `metadata:` a file of its own, or "
            "shrink what it holds to %llu bytes and use --force",
            self->backing, (unsigned long long)t->layout.meta_bytes, (unsigned long long)t->layout.data_bytes);
    if (!r) /* without force none was found */
        r = wipe_superblocks(t, force, blocks, err);
    /* An earlier life's log and bitmap would be taken for damaged ones of this one. */
    if (!r)
        r = zero(internal ? self->backing : self->metadata, t->meta_fd,
                 (struct range) { t->layout.meta_offset_bytes, t->layout.meta_bytes }, NULL, NULL, err);
    /* Before the data is: what is left of a leg's metadata says that its data is there, too. */
    if (!r && fsync(t->meta_fd) < 0)
        r = err_set(err, -errno, "the old metadata cannot be removed: %s", strerror(errno));
    /* All data reads as zeroes afterwards, so that two fresh legs are equal. */
    if (!r && !adopt)
        r = zero(self->backing, t->data_fd,
                 (struct range) { 0, internal ? t->geometry.size_bytes : t->layout.data_bytes }, progress, ctx, err);
    if (!r)
        r = write_first_superblock(config, t, adopt, blocks, err);
    return r;
}

int volume_create(const struct volume_config *config, bool adopt, bool force,
                  void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes), void *ctx, struct err *err)
{
    struct target t = { .data_fd = -1, .meta_fd = -1 };
    int r = open_backing(config, &t, err);
    /* Before a file for the metadata is made, which would be found there later. */
    if (!r && !force && !adopt && leg_metadata_is_missing(config))
        r = refuse_data(config, &t, err);
    if (!r)
        r = open_metadata(config, &t, err);
    if (!r)
        r = create_on(config, &t, adopt, force, progress, ctx, err);
    close_target(&t);
    return r;
}
