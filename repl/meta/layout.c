/* Where a leg's metadata lies. */
#include "repl/meta/superblock_disk.h"

#include <assert.h>
#include <errno.h>

#include "repl/base/units.h"
#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"

/* docs/METADATA.md. One bit of bitmap and one of dirty map for each 4 KiB of data; the rest is fixed. */
#define META_BLOCK_BYTES UINT64_C(4096)
#define SUPERBLOCKS_BYTES (1 * MIB) /* the copies, spread so that one bad spot cannot hit two */
#define ACTIVITY_LOG_BYTES (4 * MIB)
#define BITMAP_GRANULE_BYTES_MIN UINT64_C(4096)
#define BITMAP_PAGE_BITS_MIN (4000 * 8) /* what a page holds beside its header, at the least */
#define BITMAPS 2                       /* out of sync, and dirty for snapshots */
static_assert(SUPERBLOCK_COPIES * SUPERBLOCK_SPACING_BYTES == SUPERBLOCKS_BYTES, "the copies fill their area");
static_assert(AL_RING_BLOCKS * AL_BLOCK_BYTES == ACTIVITY_LOG_BYTES, "the ring fills its area");
static_assert(BITMAP_PAGE_GRANULES >= BITMAP_PAGE_BITS_MIN && GRANULE_BYTES_DEFAULT >= BITMAP_GRANULE_BYTES_MIN,
              "the bitmap's pages fit into its area");

static uint64_t bitmap_bytes_for(uint64_t data_bytes)
{
    uint64_t pages = data_bytes / (BITMAP_PAGE_BITS_MIN * BITMAP_GRANULE_BYTES_MIN) + 1;
    return align_up(pages * META_BLOCK_BYTES, MIB);
}

static uint64_t meta_bytes_for(uint64_t data_bytes)
{
    return SUPERBLOCKS_BYTES + ACTIVITY_LOG_BYTES + BITMAPS * bitmap_bytes_for(data_bytes);
}

static int too_small(uint64_t have, uint64_t need, struct err *err)
{
    return err_set(err, -ENOSPC, "too small: %llu bytes, where metadata alone takes %llu and the volume at least 1 MiB",
                   (unsigned long long)have, (unsigned long long)need);
}

int meta_layout_internal(uint64_t backing_bytes, struct meta_layout *out, struct err *err)
{
    /* So that a copy of the superblock lies at a multiple of their spacing, whatever the size: it can be searched for.
     */
    uint64_t usable = align_down(backing_bytes, SUPERBLOCK_SPACING_BYTES);
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
    return layout->meta_offset_bytes + copy * SUPERBLOCK_SPACING_BYTES;
}

uint32_t meta_page_count(const struct meta_layout *layout, enum meta_area area)
{
    switch (area) {
    case META_ACTIVITY_LOG: return ACTIVITY_LOG_BYTES / META_PAGE_BYTES;
    case META_BITMAP:
        return (uint32_t)((layout->meta_bytes - SUPERBLOCKS_BYTES - ACTIVITY_LOG_BYTES) / BITMAPS / META_PAGE_BYTES);
    }
    return 0;
}

uint64_t meta_page_offset(const struct meta_layout *layout, enum meta_area area, uint32_t index)
{
    assert(index < meta_page_count(layout, area));
    uint64_t start = layout->meta_offset_bytes + SUPERBLOCKS_BYTES;
    if (area == META_BITMAP)
        start += ACTIVITY_LOG_BYTES;
    return start + (uint64_t)index * META_PAGE_BYTES;
}
