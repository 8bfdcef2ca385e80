/* Digests that two nodes compare instead of the data: XXH3-128 with a secret of its own for each session
 * (https://github.com/Cyan4973/xxHash), so that no data that is written today can be made to collide tomorrow. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct digest {
    uint64_t low;
    uint64_t high;
};

#define DIGEST_SECRET_BYTES 192

struct digest_key {
    uint8_t secret[DIGEST_SECRET_BYTES];
};

/* The same key on every machine from the same seed, of at least one byte. */
void digest_key_make(struct digest_key *key, const void *seed, size_t seed_bytes);

struct digest digest128(const struct digest_key *key, const void *data, size_t length_bytes);

static inline bool digest_equal(struct digest a, struct digest b) { return a.low == b.low && a.high == b.high; }
