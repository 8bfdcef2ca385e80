/* The monotonic clock, which goes on while the machine sleeps. Not for pure code, which learns the time from its
 * events (tests/lint/includes.py). */
#pragma once

#include <time.h>

#include "repl/base/units.h"

/* CLOCK_MONOTONIC, which stands still while the machine sleeps: other programs' logs count by it. */
static inline uint64_t clock_awake_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* CLOCK_BOOTTIME: a lease must not outlive a sleep of the machine (docs/FAILOVER.md, "Reads"). */
static inline uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}
