/* A limit of rate that somebody has set for a resync or a verify: how much may be begun when. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/base/units.h"

/* What may be begun at once after a pause: so that a limit is reached although ticks come late. */
#define PACE_BURST_NS (50 * NS_PER_MS)

struct pace {
    uint64_t bytes_per_s; /* 0: no limit; at most 2^40, so that a window's time fits */
    uint64_t free_at_ns;  /* when all that was begun is paid for */
};

/* Something may be begun, however large; it is paid for by what comes after it. */
static inline bool pace_allows(const struct pace *p, uint64_t now_ns) { return now_ns >= p->free_at_ns; }

/* `bytes` (at most BUF_BYTES_MAX) are begun. */
static inline void pace_take(struct pace *p, uint64_t bytes, uint64_t now_ns)
{
    if (p->bytes_per_s == 0)
        return;
    uint64_t from_ns = now_ns > PACE_BURST_NS ? now_ns - PACE_BURST_NS : 0;
    p->free_at_ns = max_u64(p->free_at_ns, from_ns) + bytes * NS_PER_S / p->bytes_per_s;
}
