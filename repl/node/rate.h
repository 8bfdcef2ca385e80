/* How fast something goes: the mean over the last seconds, from samples of how much of it is done. Pure. */
#pragma once

#include <stddef.h>

#include "repl/base/units.h"

#define RATE_SAMPLES 16
#define RATE_SAMPLE_NS (300 * NS_PER_MS)                  /* samples that follow sooner are not kept */
#define RATE_STALE_NS (2 * RATE_SAMPLES * RATE_SAMPLE_NS) /* what is older tells nothing of now */

struct rate {
    unsigned count;
    unsigned next;
    struct rate_sample {
        uint64_t at_ns;
        uint64_t done_bytes;
    } samples[RATE_SAMPLES];
};

/* Nothing is under way. */
static inline void rate_reset(struct rate *r) { *r = (struct rate) { 0 }; }

static inline const struct rate_sample *rate_newest(const struct rate *r)
{
    return r->count ? &r->samples[(r->next + RATE_SAMPLES - 1) % RATE_SAMPLES] : NULL;
}

/* `done_bytes` that falls is a new beginning. */
static inline void rate_sample(struct rate *r, uint64_t now_ns, uint64_t done_bytes)
{
    const struct rate_sample *newest = rate_newest(r);
    if (newest && (done_bytes < newest->done_bytes || now_ns - newest->at_ns > RATE_STALE_NS))
        rate_reset(r);
    else if (newest && now_ns - newest->at_ns < RATE_SAMPLE_NS)
        return;
    r->samples[r->next] = (struct rate_sample) { now_ns, done_bytes };
    r->next = (r->next + 1) % RATE_SAMPLES;
    r->count += r->count < RATE_SAMPLES;
}

/* From the oldest sample until now. 0: not known yet, or it stands still. */
static inline uint64_t rate_bytes_per_s(const struct rate *r, uint64_t now_ns, uint64_t done_bytes)
{
    if (r->count == 0)
        return 0;
    const struct rate_sample *oldest = &r->samples[(r->next + RATE_SAMPLES - r->count) % RATE_SAMPLES];
    if (now_ns <= oldest->at_ns || done_bytes <= oldest->done_bytes)
        return 0;
    double seconds = (double)(now_ns - oldest->at_ns) / (double)NS_PER_S;
    return (uint64_t)((double)(done_bytes - oldest->done_bytes) / seconds);
}
