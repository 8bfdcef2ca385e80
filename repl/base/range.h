/* A run of bytes on a volume: [offset, offset + length). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct range {
    uint64_t offset_bytes;
    uint64_t length_bytes;
};

static inline uint64_t range_end(struct range r) { return r.offset_bytes + r.length_bytes; }

static inline bool range_overlaps(struct range a, struct range b)
{
    return a.offset_bytes < range_end(b) && b.offset_bytes < range_end(a);
}

/* True when `r` lies inside [0, size); also for values that a hostile peer chose so that their sum wraps. */
static inline bool range_fits(struct range r, uint64_t size_bytes)
{
    return r.offset_bytes <= size_bytes && r.length_bytes <= size_bytes - r.offset_bytes;
}
