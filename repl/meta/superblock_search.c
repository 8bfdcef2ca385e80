/* Looking for the superblocks of a leg whose backing has grown. */
#include <assert.h>
#include <errno.h>

#include "repl/meta/superblock_disk.h"

#define NEAR_BYTES (256 * MIB) /* where every block is looked at: former sizes may be odd */
#define STRIDE_BYTES (SUPERBLOCK_COPIES * SUPERBLOCK_SPACING_BYTES)

void superblock_search_begin(struct superblock_search *s, uint64_t backing_bytes)
{
    s->end_bytes = align_down(backing_bytes, SUPERBLOCK_BYTES);
    s->near_bytes = s->end_bytes > NEAR_BYTES ? align_down(s->end_bytes - NEAR_BYTES, STRIDE_BYTES) : 0;
}

unsigned superblock_search_next(struct superblock_search *s, struct range reads[SUPERBLOCK_SEARCH_READS])
{
    unsigned n = 0;
    while (n < SUPERBLOCK_SEARCH_READS && s->end_bytes > 0) {
        struct range *r = &reads[n++];
        if (s->end_bytes > s->near_bytes) {
            r->length_bytes = min_u64(SUPERBLOCK_SEARCH_READ_BYTES, s->end_bytes - s->near_bytes);
            r->offset_bytes = s->end_bytes - r->length_bytes;
        } else {
            r->offset_bytes = s->end_bytes - STRIDE_BYTES;
            r->length_bytes = SUPERBLOCK_BYTES;
        }
        s->end_bytes = r->offset_bytes;
    }
    return n;
}

bool superblock_search_look(struct range read, const uint8_t *bytes, const struct meta_layout *but,
                            struct meta_layout *out)
{
    assert(read.length_bytes % SUPERBLOCK_BYTES == 0);
    for (uint64_t at = read.length_bytes; at > 0; at -= SUPERBLOCK_BYTES) {
        const uint8_t *block = bytes + at - SUPERBLOCK_BYTES;
        uint64_t offset = read.offset_bytes + at - SUPERBLOCK_BYTES;
        for (unsigned copy = 0; copy < SUPERBLOCK_COPIES; copy++) {
            struct superblock sb;
            struct err ignored = { 0 };
            int r = superblock_decode(block, copy, &sb, &ignored);
            if (r == -ENOENT)
                break;
            /* In the volume's data there may be anything: also the image of a leg. */
            if (r == 0 && meta_layout_internal(sb.backing_bytes, out, &ignored) == 0 &&
                superblock_copy_offset(out, copy) == offset &&
                (!but || out->meta_offset_bytes != but->meta_offset_bytes))
                return true;
        }
    }
    return false;
}
