/* Where a leg's metadata lies. */
#include "repl/meta/superblock_disk.h"

#include <assert.h>
#include <errno.h>

#include "repl/base/units.h"

/* docs/METADATA.md. One bit of bitmap and one of dirty map for each 4 KiB of data; the rest is fixed. */
#define META_BLOCK_BYTES UINT64_C(4096)
#define SUPERBLOCKS_BYTES (1 * MIB) /* the copies, spread so that one bad spot cannot hit two */
#define ACTIVITY_LOG_BYTES (4 * MIB)
#define DATA_BYTES_PER_BITMAP_BYTE (META_BLOCK_BYTES * 8)
#define BITMAPS 2
#define VOLUME_BYTES_MAX (64 * TIB)

static uint64_t meta_bytes_for(uint64_t data_bytes)
{
    uint64_t bitmap = align_up(data_bytes / DATA_BYTES_PER_BITMAP_BYTE + 1, MIB);
    return SUPERBLOCKS_BYTES + ACTIVITY_LOG_BYTES + BITMAPS * bitmap;
}

static int too_small(uint64_t have, uint64_t need, struct err *err)
{
    return err_set(err, -ENOSPC, "too small: %llu bytes, where metadata alone takes %llu and the volume at least 1 MiB",
                   (unsigned long long)have, (unsigned long long)need);
}

int meta_layout_internal(uint64_t backing_bytes, struct meta_layout *out, struct err *err)
{
    uint64_t usable = align_down(backing_bytes, META_BLOCK_BYTES);
    if (usable > VOLUME_BYTES_MAX + meta_bytes_for(VOLUME_BYTES_MAX))
        return err_set(err, -EFBIG, "larger than the largest volume, 64 TiB");
    /* Sized for the whole backing: a little more than the data needs, and it depends on nothing else. */
    uint64_t meta = meta_bytes_for(usable);
    if (usable < meta + MIB)
        return too_small(backing_bytes, meta, err);
    *out = (struct meta_layout) { .data_bytes = usable - meta, .meta_offset_bytes = usable - meta, .meta_bytes = meta };
    return 0;
}

int meta_layout_external(uint64_t backing_bytes, uint64_t holder_bytes, struct meta_layout *out, struct err *err)
{
    uint64_t usable = align_down(backing_bytes, META_BLOCK_BYTES);
    if (usable > VOLUME_BYTES_MAX)
        return err_set(err, -EFBIG, "larger than the largest volume, 64 TiB");
    uint64_t meta = meta_bytes_for(usable);
    if (usable < MIB)
        return err_set(err, -ENOSPC, "too small for a volume: %llu bytes, where 1 MiB is the least",
                       (unsigned long long)backing_bytes);
    if (holder_bytes && holder_bytes < meta)
        return too_small(holder_bytes, meta, err);
    *out = (struct meta_layout) { .data_bytes = usable, .meta_offset_bytes = 0, .meta_bytes = meta };
    return 0;
}

uint64_t superblock_copy_offset(const struct meta_layout *layout, unsigned copy)
{
    assert(copy < SUPERBLOCK_COPIES);
    return layout->meta_offset_bytes + copy * (SUPERBLOCKS_BYTES / SUPERBLOCK_COPIES);
}
