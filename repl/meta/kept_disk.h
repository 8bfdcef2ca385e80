/* The file of blocks that were kept before a leg gave its changes up, as it lies on disk. Pure: bytes in, values out.
 * docs/METADATA.md, "Kept blocks", has the format: a head, chunks of extents with their data, an end. */
#pragma once

#include "repl/base/err.h"
#include "repl/base/units.h"
#include "repl/core/keep.h"

#define KEPT_BLOCK_BYTES 4096 /* of the head and of the end */
#define KEPT_CHUNK_HEAD_BYTES 8192
#define KEPT_CHUNK_DATA_BYTES_MAX (1 * MIB)
#define KEPT_EXTENTS_MAX 338        /* of a chunk */
#define KEPT_ZERO_GRAIN_BYTES 4096u /* what reads as zeroes in pieces of this is kept without its bytes */

struct kept_extent {
    struct range range;
    enum keep_kind kind;
};

struct kept_chunk {
    uint64_t number; /* from 0 */
    uint32_t count;
    uint32_t data_bytes; /* that follow: of the extents of KEEP_KIND_DATA, one after the other */
    uint64_t data_check; /* checksum64() of them */
    struct kept_extent extents[KEPT_EXTENTS_MAX];
};

/* What the whole file has; it says so at its end, and while it is read it is counted. */
struct kept_sums {
    uint64_t chunks;
    uint64_t extents;
    uint64_t data_bytes;
    uint64_t zero_bytes;
    uint64_t unreadable_bytes;
};

void kept_encode_head(const struct keep_info *info, uint64_t made_us, uint8_t block[KEPT_BLOCK_BYTES]);
void kept_encode_chunk(const struct kept_chunk *c, uint8_t head[KEPT_CHUNK_HEAD_BYTES]);
void kept_encode_end(const struct kept_sums *sums, uint8_t block[KEPT_BLOCK_BYTES]);

/* Does a file that begins with these bytes begin as one of kept blocks? */
bool kept_is_head(const uint8_t first[8]);

/* -ENOENT: no such file; -EBADMSG: damaged; -ENOTSUP: of another format; 0: good. `made_us`: since 1970, UTC. */
int kept_decode_head(const uint8_t block[KEPT_BLOCK_BYTES], struct keep_info *info, uint64_t *made_us, struct err *err);

/* What follows the head or a chunk, by its first KEPT_BLOCK_BYTES. */
bool kept_is_end(const uint8_t block[KEPT_BLOCK_BYTES]);

/* -EBADMSG: damaged, or not what belongs there. `sums`: of what came before; what comes is added. `from_bytes`: where
 * the extents before ended, which rise through the file; moved on. They lie within the volume. */
int kept_decode_chunk(const uint8_t head[KEPT_CHUNK_HEAD_BYTES], uint64_t size_bytes, struct kept_sums *sums,
                      uint64_t *from_bytes, struct kept_chunk *c, struct err *err);

/* -EBADMSG: damaged, or it tells of another file than what was read. */
int kept_decode_end(const uint8_t block[KEPT_BLOCK_BYTES], const struct kept_sums *sums, struct err *err);

void kept_count(struct kept_sums *sums, const struct kept_chunk *c);
