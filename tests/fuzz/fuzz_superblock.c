/* Superblocks from a disk that holds anything: read without harm, and what is accepted is written back the same. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/meta/superblock_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A good copy is found in its own place, and in no other copy's. */
static void look(const uint8_t *block, unsigned copy, const struct superblock *sb)
{
    struct meta_layout layout, found;
    struct err err = { 0 };
    bool fits = meta_layout_internal(sb->backing_bytes, &layout, &err) == 0;
    if (superblock_search_look(sb->lsn, block, NULL, &found) &&
        (!fits || superblock_copy_offset(&layout, copy) != sb->lsn))
        abort();
    for (unsigned i = 0; fits && i < SUPERBLOCK_COPIES; i++) {
        uint64_t place_bytes = superblock_copy_offset(&layout, i);
        if (superblock_search_look(place_bytes, block, NULL, &found) != (i == copy) ||
            superblock_search_look(place_bytes, block, &layout, &found))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    memset(blocks, 0, sizeof(blocks));
    memcpy(blocks, data, size < sizeof(blocks) ? size : sizeof(blocks));
    struct superblock sb;
    unsigned good;
    struct err err = { 0 };
    superblock_choose(blocks, &sb, &good, &err);
    /* The fuzzer cannot guess a checksum: give it one, so that it gets to the fields behind. */
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        uint64_t check = 0;
        memcpy(blocks[i] + 8, &check, sizeof(check));
        check = checksum64(blocks[i], SUPERBLOCK_BYTES);
        memcpy(blocks[i] + 8, &check, sizeof(check));
        if (superblock_decode(blocks[i], i, &sb, &err))
            continue;
        look(blocks[i], i, &sb);
        uint8_t again[SUPERBLOCK_BYTES];
        superblock_encode(&sb, i, again);
        if (memcmp(again, blocks[i], sizeof(again)) != 0)
            abort();
    }
    superblock_choose(blocks, &sb, &good, &err);
    return 0;
}
