/* Reads a leg's metadata from its file or device. */
#include "repl/cli/metadata.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/base/scoped.h"
#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"

#define CHUNK_PAGES 128u
#define SEARCH_S 60 /* for a leg at a former end, as `create` does */
#define CHUNK_BYTES (CHUNK_PAGES * META_PAGE_BYTES)

static int open_file(const char *path, uint64_t *size_bytes, struct err *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(err, -ENOTBLK, "%s is neither a block device nor a file", path);
    /* Past the page cache, which does not see what a daemon writes; where that is not possible there is no other. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd < 0 && errno == EINVAL)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (end >= 0) {
        *size_bytes = (uint64_t)end;
        return fd;
    }
    int code = -errno;
    if (fd >= 0)
        close(fd);
    return err_set(err, code, "%s: %s", path, strerror(-code));
}

static bool is_in_use(int fd)
{
    if (flock(fd, LOCK_SH | LOCK_NB) < 0)
        return true;
    flock(fd, LOCK_UN);
    return false;
}

/* False: not all of it could be read. */
static bool read_at(int fd, uint8_t *bytes, size_t length, uint64_t offset)
{
    while (length > 0) {
        ssize_t n = pread(fd, bytes, length, (off_t)offset);
        if (n <= 0)
            return false;
        bytes += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
    }
    return true;
}

/* ---- Superblocks ---- */

static void __attribute__((format(printf, 2, 3))) say(char out[METADATA_TEXT_BYTES], const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(out, METADATA_TEXT_BYTES, format, ap);
    va_end(ap);
}

static void read_superblocks(int fd, const struct meta_layout *layout, uint8_t *blocks, struct metadata *m)
{
    bool readable[SUPERBLOCK_COPIES];
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        uint8_t *block = blocks + (size_t)i * SUPERBLOCK_BYTES;
        readable[i] = read_at(fd, block, SUPERBLOCK_BYTES, superblock_copy_offset(layout, i));
        if (!readable[i])
            memset(block, 0, SUPERBLOCK_BYTES);
    }
    unsigned good = 0;
    struct err err = { 0 };
    int chosen = superblock_choose((uint8_t(*)[SUPERBLOCK_BYTES])blocks, &m->superblock, &good, &err);
    m->usable = chosen == 0;
    m->lost = chosen == -EBADMSG;
    say(m->why_not, "%s", m->usable ? "" : err.text);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        struct metadata_copy *c = &m->copies[i];
        struct superblock sb;
        struct err why = { 0 };
        int r = superblock_decode(blocks + (size_t)i * SUPERBLOCK_BYTES, i, &sb, &why);
        c->sequence = r ? 0 : sb.sequence;
        c->state = r ? COPY_DAMAGED : good >> i & 1 ? COPY_GOOD : COPY_DIFFERS;
        if (!readable[i])
            say(c->reason, "cannot be read");
        else if (r)
            say(c->reason, "%s", why.text);
    }
}

/* ---- Activity log ---- */

struct found {
    struct range *ranges;
    uint64_t count, room;
};

static void take_extent(void *ctx, struct range range)
{
    struct found *f = ctx;
    if (f->count < f->room)
        f->ranges[f->count++] = range;
}

static int by_offset(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return (x->offset_bytes > y->offset_bytes) - (x->offset_bytes < y->offset_bytes);
}

static void join_neighbours(struct metadata *m)
{
    uint64_t out = 0;
    for (uint64_t i = 0; i < m->range_count; i++) {
        if (out > 0 && range_end(m->ranges[out - 1]) == m->ranges[i].offset_bytes)
            m->ranges[out - 1].length_bytes += m->ranges[i].length_bytes;
        else
            m->ranges[out++] = m->ranges[i];
    }
    m->range_count = out;
}

static int read_log(int fd, const struct meta_layout *layout, uint8_t *chunk, struct metadata *m, struct err *err)
{
    const struct superblock *sb = &m->superblock;
    struct al_options options = { .size_bytes = sb->size_bytes, .extent_bytes = sb->extent_bytes, .owner = sb->leg_id };
    CLEANUP_FREE uint8_t *ring = malloc((size_t)AL_RING_BLOCKS * AL_BLOCK_BYTES);
    struct found found = { .ranges = malloc(AL_SLOTS_MAX * sizeof(struct range)), .room = AL_SLOTS_MAX };
    m->ranges = found.ranges;
    if (!ring || !found.ranges)
        return err_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < AL_RING_BLOCKS; i++) {
        uint8_t *block = ring + (size_t)i * AL_BLOCK_BYTES;
        bool ok = read_at(fd, chunk, AL_BLOCK_BYTES, meta_page_offset(layout, META_ACTIVITY_LOG, i));
        memset(block, 0xff, AL_BLOCK_BYTES);
        if (ok)
            memcpy(block, chunk, AL_BLOCK_BYTES);
    }
    struct activity_log *al = al_open(&options, err);
    if (!al)
        return -ENOMEM;
    struct err why = { 0 };
    m->log_damaged = al_load(al, ring, sb->al_from, take_extent, &found, &why) != 0;
    say(m->log_reason, "%s", why.text);
    m->log_next_sequence = al_next_sequence(al);
    al_close(al);
    m->hot_extents = m->range_count = found.count;
    qsort(m->ranges, m->range_count, sizeof(*m->ranges), by_offset);
    join_neighbours(m);
    return 0;
}

/* ---- Bitmap ---- */

static void read_page(struct bitmap *b, uint64_t page, const uint8_t *block, struct metadata *m)
{
    static const uint8_t zeroes[BITMAP_PAGE_BYTES];
    struct err why = { 0 };
    m->written_pages += !block || memcmp(block, zeroes, sizeof(zeroes)) != 0;
    if (!block)
        err_set(&why, -EIO, "bitmap page %llu: cannot be read", (unsigned long long)page);
    else if (bitmap_page_load(b, page, block, &why) == 0)
        return;
    if (m->damaged_pages++ == 0)
        say(m->page_reason, "%s", why.text);
}

static int read_bitmap(int fd, const struct meta_layout *layout, uint8_t *chunk, struct metadata *m, struct err *err)
{
    const struct superblock *sb = &m->superblock;
    m->pages = bitmap_pages_for(sb->size_bytes, sb->granule_bytes);
    if (m->pages > meta_page_count(layout, META_BITMAP))
        return err_set(err, -EBADMSG, "the superblock tells of a bitmap larger than its room");
    struct bitmap *b = bitmap_open(sb->size_bytes, sb->granule_bytes, sb->leg_id, err);
    if (!b)
        return -ENOMEM;
    for (uint64_t page = 0; page < m->pages; page += CHUNK_PAGES) {
        uint64_t n = min_u64(m->pages - page, CHUNK_PAGES);
        uint64_t at = meta_page_offset(layout, META_BITMAP, (uint32_t)page);
        bool ok = read_at(fd, chunk, n * META_PAGE_BYTES, at);
        for (uint64_t i = 0; i < n; i++) {
            uint8_t *block = chunk + i * META_PAGE_BYTES;
            bool readable = ok || read_at(fd, block, META_PAGE_BYTES, at + i * META_PAGE_BYTES);
            read_page(b, page + i, readable ? block : NULL, m);
        }
    }
    m->dirty_bytes = bitmap_dirty_bytes(b);
    bitmap_close(b);
    return 0;
}

/* ---- All ---- */

/* The layout that the backing had when the leg was made, or was last resized. */
static int find_layout(int fd, const struct metadata_source *source, uint64_t backing_bytes, uint64_t holder_bytes,
                       uint8_t *chunk, struct meta_layout *layout, struct metadata *m, struct err *err)
{
    struct superblock_search search;
    uint64_t places[SUPERBLOCK_SEARCH_READS];
    unsigned count = 0;
    struct meta_layout passed = *layout;
    uint64_t until_ns = clock_ns() + SEARCH_S * NS_PER_S;
    superblock_search_begin(&search, source->metadata ? 0 : backing_bytes);
    while (!m->usable && clock_ns() < until_ns && (count = superblock_search_next(&search, places)))
        for (unsigned i = 0; i < count && !m->usable; i++)
            if (read_at(fd, chunk, SUPERBLOCK_BYTES, places[i]) &&
                superblock_search_look(places[i], chunk, &passed, layout)) {
                passed = *layout;
                read_superblocks(fd, layout, chunk, m);
            }
    size_t said = strlen(m->why_not);
    if (!m->usable && search.end_bytes > 0)
        snprintf(m->why_not + said, sizeof(m->why_not) - said,
                 "%sgiven up the search for a former end after %d s, with the first %llu bytes left", said ? "; " : "",
                 SEARCH_S, (unsigned long long)search.end_bytes);
    if (!source->metadata)
        return 0;
    return meta_layout_external(m->usable ? m->superblock.backing_bytes : backing_bytes,
                                holder_bytes ? holder_bytes : 1, layout, err);
}

static int read_all(int fd, const struct metadata_source *source, uint64_t backing_bytes, uint64_t holder_bytes,
                    struct metadata *m, struct err *err)
{
    CLEANUP_FREE void *chunk = NULL;
    if (posix_memalign(&chunk, 4096, CHUNK_BYTES))
        return err_set(err, -ENOMEM, "out of memory");
    struct meta_layout place, *layout = &place;
    int r = source->metadata ? meta_layout_external(backing_bytes, 0, layout, err)
                             : meta_layout_internal(backing_bytes, layout, err);
    if (r)
        return err_prefix(err, "%s", m->path);
    read_superblocks(fd, layout, chunk, m);
    r = find_layout(fd, source, backing_bytes, holder_bytes, chunk, layout, m, err);
    if (r)
        return err_prefix(err, "%s", m->path);
    if (!m->usable || !m->superblock.size_bytes)
        return 0;
    if (m->superblock.size_bytes > layout->data_bytes)
        return err_set(err, -ENOSPC, "%s: the volume of %llu bytes that it tells of has no room there: it has shrunk",
                       m->path, (unsigned long long)m->superblock.size_bytes);
    r = read_log(fd, layout, chunk, m, err);
    return r ? r : read_bitmap(fd, layout, chunk, m, err);
}

int metadata_read(const struct metadata_source *source, struct metadata *m, struct err *err)
{
    memset(m, 0, sizeof(*m));
    m->path = source->metadata ? source->metadata : source->backing;
    uint64_t backing_bytes = 0, holder_bytes = 0;
    CLEANUP_CLOSE int backing = open_file(source->backing, &backing_bytes, err);
    CLEANUP_CLOSE int holder = source->metadata && backing >= 0 ? open_file(source->metadata, &holder_bytes, err) : -1;
    if (backing < 0 || (source->metadata && holder < 0))
        return backing < 0 ? backing : holder;
    m->in_use = is_in_use(backing);
    int r = read_all(source->metadata ? holder : backing, source, backing_bytes, holder_bytes, m, err);
    if (r)
        metadata_free(m);
    return r;
}

void metadata_free(struct metadata *m)
{
    free(m->ranges);
    m->ranges = NULL;
}
