/* `lockstep resolve --list` and `--export` of a file that holds anything: read, shown and exported without harm. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "repl/base/checksum.h"
#include "repl/cli/kept.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK_AT 8
#define DATA_CHECK_AT 24 /* of a chunk's head, like what follows */
#define DATA_BYTES_AT 32
#define SIZE_AT 32 /* of the file's head */
#define VOLUME_BYTES (16 * MIB)

static void put_check(uint8_t *block, size_t bytes)
{
    memset(block + CHECK_AT, 0, 8);
    uint64_t right = checksum64(block, bytes);
    memcpy(block + CHECK_AT, &right, sizeof(right));
}

/* Nobody guesses a checksum: the head has its own right, and each chunk whose data is there. And no image is to be
 * larger than a fuzzer's memory. */
static void put_checks(uint8_t *bytes, size_t size)
{
    size_t at = KEPT_BLOCK_BYTES;
    uint64_t volume = VOLUME_BYTES;
    if (size < KEPT_BLOCK_BYTES)
        return;
    memcpy(bytes + SIZE_AT, &volume, sizeof(volume));
    put_check(bytes, KEPT_BLOCK_BYTES);
    while (size - at >= KEPT_BLOCK_BYTES) {
        uint8_t *block = bytes + at;
        uint32_t data_bytes;
        if (kept_is_end(block)) {
            put_check(block, KEPT_BLOCK_BYTES);
            return;
        }
        if (size - at < KEPT_CHUNK_HEAD_BYTES)
            return;
        memcpy(&data_bytes, block + DATA_BYTES_AT, sizeof(data_bytes));
        at += KEPT_CHUNK_HEAD_BYTES;
        if (data_bytes <= size - at) {
            uint64_t check = checksum64(bytes + at, data_bytes);
            memcpy(block + DATA_CHECK_AT, &check, sizeof(check));
            at += data_bytes;
        }
        put_check(block, KEPT_CHUNK_HEAD_BYTES);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int kept = -1, image = -1;
    static char kept_path[32], image_path[32];
    static FILE *out;
    struct err err = { 0 };
    if (kept < 0) {
        kept = memfd_create("kept", MFD_CLOEXEC);
        image = memfd_create("image", MFD_CLOEXEC);
        out = fopen("/dev/null", "w");
        snprintf(kept_path, sizeof(kept_path), "/proc/self/fd/%d", kept);
        snprintf(image_path, sizeof(image_path), "/proc/self/fd/%d", image);
    }
    uint8_t *copy = malloc(size ? size : 1);
    if (kept < 0 || image < 0 || !out || !copy)
        abort();
    memcpy(copy, data, size);
    put_checks(copy, size);
    if (ftruncate(kept, 0) < 0 || ftruncate(image, 0) < 0 || pwrite(kept, copy, size, 0) != (ssize_t)size)
        abort();
    free(copy);
    struct show eyes = { .out = out }, json = { .out = out, .json = true };
    int r = kept_list(&eyes, kept_path, &err);
    if (kept_list(&json, kept_path, &err) != r)
        abort();
    /* (memfd's are always there.) */
    if ((kept_export(&eyes, kept_path, image_path, true, &err) == 0) != (r == 0))
        abort();
    if (lseek(image, 0, SEEK_END) > (off_t)VOLUME_BYTES)
        abort();
    return 0;
}
