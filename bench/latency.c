/* Latency samples and their quantiles. */
#include "bench/latency.h"

#include <assert.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The smallest sample that at least per_mille of all samples do not exceed. */
static uint64_t quantile(const uint64_t *sorted_ns, size_t count, unsigned per_mille)
{
    size_t rank = (count * per_mille + 999) / 1000;
    return sorted_ns[rank ? rank - 1 : 0];
}

struct latency_summary latency_summarise(uint64_t *samples_ns, size_t count)
{
    assert(count > 0);
    qsort(samples_ns, count, sizeof(*samples_ns), compare);
    uint64_t sum_ns = 0;
    for (size_t i = 0; i < count; i++)
        sum_ns += samples_ns[i];
    return (struct latency_summary) {
        .count = count,
        .min_ns = samples_ns[0],
        .p50_ns = quantile(samples_ns, count, 500),
        .p99_ns = quantile(samples_ns, count, 990),
        .p999_ns = quantile(samples_ns, count, 999),
        .max_ns = samples_ns[count - 1],
        .mean_ns = sum_ns / count,
    };
}
