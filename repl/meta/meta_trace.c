/* What tells of a leg where its superblocks are gone. */
#include <string.h>

#include "repl/base/endian.h"
#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"
#include "repl/meta/superblock_disk.h"

struct range meta_trace_range(const struct meta_layout *layout)
{
    uint64_t from = meta_page_offset(layout, META_ACTIVITY_LOG, 0);
    uint64_t bitmap = meta_page_offset(layout, META_BITMAP, 0);
    uint32_t pages = (uint32_t)min_u64(meta_page_count(layout, META_BITMAP), AL_RING_BLOCKS);
    return (struct range) { from, bitmap - from + (uint64_t)pages * META_PAGE_BYTES };
}

bool meta_trace_found(const uint8_t *bytes, uint64_t length_bytes)
{
    for (uint64_t at = 0; at + META_PAGE_BYTES <= length_bytes; at += META_PAGE_BYTES) {
        le64 magic;
        memcpy(&magic, bytes + at, sizeof(magic));
        if (from_le64(magic) == AL_MAGIC || from_le64(magic) == BITMAP_PAGE_MAGIC)
            return true;
    }
    return false;
}
