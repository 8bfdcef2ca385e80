/* `lockstep metadata dump` on a disk that holds anything: read and shown without harm. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "repl/base/checksum.h"
#include "repl/cli/metadata.h"
#include "repl/meta/activity_log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BACKING_BYTES (16 * MIB)
#define BLOCK_BYTES 4096
#define LOG_BLOCKS 4
#define PAGES 2
#define BLOCKS (SUPERBLOCK_COPIES + LOG_BLOCKS + PAGES)

struct file {
    int fd;
    char path[32];
};

static void open_file(struct file *f, uint64_t bytes)
{
    if (f->fd <= 0) {
        f->fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(f->path, sizeof(f->path), "/proc/self/fd/%d", f->fd);
    }
    if (f->fd < 0 || ftruncate(f->fd, 0) < 0 || ftruncate(f->fd, (off_t)bytes) < 0)
        abort();
}

/* A log block goes where its sequence says. */
static uint64_t place_of(const struct meta_layout *layout, unsigned i, const uint8_t *block)
{
    uint64_t sequence;
    memcpy(&sequence, block + 24, sizeof(sequence));
    if (i < SUPERBLOCK_COPIES)
        return superblock_copy_offset(layout, i);
    i -= SUPERBLOCK_COPIES;
    return i < LOG_BLOCKS ? meta_page_offset(layout, META_ACTIVITY_LOG, (uint32_t)(sequence % AL_RING_BLOCKS))
                          : meta_page_offset(layout, META_BITMAP, i - LOG_BLOCKS);
}

static void check(const struct metadata *m)
{
    uint64_t before = 0;
    for (uint64_t i = 0; i < m->range_count; i++) {
        if (m->ranges[i].offset_bytes < before || range_end(m->ranges[i]) > m->superblock.size_bytes)
            abort();
        before = range_end(m->ranges[i]);
    }
    if (m->usable && m->dirty_bytes > m->superblock.size_bytes)
        abort();
}

/* A byte of options: where the metadata is; the rest: superblocks, blocks of the log, pages. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct file backing, holder;
    static struct metadata m;
    static FILE *out;
    struct meta_layout layout;
    struct err err = { 0 };
    bool external = size > 0 && data[0] & 1;
    if (size == 0 || (!out && !(out = fopen("/dev/null", "w"))))
        return 0;
    open_file(&backing, BACKING_BYTES);
    open_file(&holder, BACKING_BYTES);
    if (external ? meta_layout_external(BACKING_BYTES, 0, &layout, &err)
                 : meta_layout_internal(BACKING_BYTES, &layout, &err))
        abort();
    data++, size--;
    for (unsigned i = 0; i < BLOCKS && size > 0; i++) {
        uint8_t block[BLOCK_BYTES] = { 0 };
        size_t n = size < sizeof(block) ? size : sizeof(block);
        memcpy(block, data, n);
        data += n, size -= n;
        /* Nobody guesses a checksum. */
        memset(block + 8, 0, 8);
        uint64_t right = checksum64(block, sizeof(block));
        memcpy(block + 8, &right, sizeof(right));
        if (pwrite(external ? holder.fd : backing.fd, block, sizeof(block), (off_t)place_of(&layout, i, block)) !=
            sizeof(block))
            abort();
    }
    struct metadata_source source = { .backing = backing.path, .metadata = external ? holder.path : NULL };
    if (metadata_read(&source, &m, &err))
        return 0;
    check(&m);
    metadata_show(&(struct show) { .out = out }, &m, true);
    metadata_show(&(struct show) { .out = out, .json = true }, &m, true);
    metadata_free(&m);
    return 0;
}
