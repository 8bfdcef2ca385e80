/* The monotonic clock. Not for pure code, which learns the time from its events (tests/lint/includes.py). */
#pragma once

#include <time.h>

#include "repl/base/units.h"

/* CLOCK_MONOTONIC */
static inline uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}
