/* Latency samples and their quantiles. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct latency_summary {
    size_t count;
    uint64_t min_ns, p50_ns, p99_ns, p999_ns, max_ns, mean_ns;
};

/* Sorts `samples_ns` (the caller's, count >= 1) in place. A quantile is the nearest-rank one: a sample that was seen.
 */
struct latency_summary latency_summarise(uint64_t *samples_ns, size_t count);
