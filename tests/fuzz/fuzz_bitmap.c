/* Bitmap pages from a disk that holds anything: read without harm, and what is accepted is written back the same. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/meta/bitmap.h"

#define GRANULE 512u
#define SIZE (((uint64_t)BITMAP_PAGE_GRANULES + 100) * GRANULE)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bitmap *empty(void)
{
    static const struct id owner = { { 1 } };
    struct err err;
    struct bitmap *b = bitmap_open(SIZE, GRANULE, owner, &err);
    if (!b)
        abort();
    return b;
}

static void try(uint64_t page, const uint8_t *block)
{
    struct bitmap *b = empty(), *again = empty();
    struct err err = { 0 };
    uint8_t once[BITMAP_PAGE_BYTES], twice[BITMAP_PAGE_BYTES];
    if (bitmap_page_load(b, page, block, &err)) {
        if (bitmap_dirty_bytes(b) || err.code != -74 || !err.text[0]) /* EBADMSG, with a reason; nothing is changed */
            abort();
    } else {
        bitmap_page_encode(b, page, once);
        if (bitmap_page_load(again, page, once, &err) || bitmap_dirty_bytes(b) != bitmap_dirty_bytes(again))
            abort();
        bitmap_page_encode(again, page, twice);
        if (memcmp(once, twice, sizeof(once)) != 0)
            abort();
    }
    bitmap_close(b);
    bitmap_close(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t block[BITMAP_PAGE_BYTES] = { 0 };
    memcpy(block, data, size < sizeof(block) ? size : sizeof(block));
    for (uint64_t page = 0; page < 2; page++)
        try(page, block);
    /* The fuzzer cannot guess a checksum: give it one, so that it gets to the fields behind. */
    memset(block + 8, 0, 8);
    uint64_t check = checksum64(block, sizeof(block));
    memcpy(block + 8, &check, sizeof(check));
    for (uint64_t page = 0; page < 2; page++)
        try(page, block);
    return 0;
}
