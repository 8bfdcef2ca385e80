/* Looking for the superblocks of a leg whose backing has grown. */
#include <errno.h>

#include "repl/meta/superblock_disk.h"

#define STRIDE_BYTES (2 * SUPERBLOCK_SPACING_BYTES) /* no single bad copy hides a leg */

void superblock_search_begin(struct superblock_search *s, uint64_t backing_bytes)
{
    /* The last place is looked at first: of a backing that has shrunk, a single copy may be left. */
    uint64_t places = backing_bytes / SUPERBLOCK_SPACING_BYTES;
    s->end_bytes = places ? (places + 1) * SUPERBLOCK_SPACING_BYTES : 0;
}

unsigned superblock_search_next(struct superblock_search *s, uint64_t places[SUPERBLOCK_SEARCH_READS])
{
    unsigned n = 0;
    while (n < SUPERBLOCK_SEARCH_READS && s->end_bytes > 0) {
        s->end_bytes -= min_u64(s->end_bytes, STRIDE_BYTES);
        places[n++] = s->end_bytes;
    }
    return n;
}

bool superblock_search_look(uint64_t place_bytes, const uint8_t block[SUPERBLOCK_BYTES], const struct meta_layout *but,
                            struct meta_layout *out)
{
    for (unsigned copy = 0; copy < SUPERBLOCK_COPIES; copy++) {
        struct superblock sb;
        struct err ignored = { 0 };
        int r = superblock_decode(block, copy, &sb, &ignored);
        if (r == -ENOENT)
            return false;
        /* In the volume's data there may be anything: also the image of a leg. */
        if (r == 0 && meta_layout_internal(sb.backing_bytes, out, &ignored) == 0 &&
            superblock_copy_offset(out, copy) == place_bytes &&
            (!but || out->meta_offset_bytes != but->meta_offset_bytes))
            return true;
    }
    return false;
}
