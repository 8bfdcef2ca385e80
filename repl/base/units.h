/* Units, so that a constant reads as what it means. */
#pragma once

#include <stdint.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS (1000 * NS_PER_US)
#define NS_PER_S (1000 * NS_PER_MS)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static inline uint64_t align_down(uint64_t v, uint64_t align) { return v - v % align; }
static inline uint64_t align_up(uint64_t v, uint64_t align) { return align_down(v + align - 1, align); }
static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }
