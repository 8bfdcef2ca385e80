/* A small seeded generator for simulation, back-off jitter and test data; never for secrets.
 * SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct prng {
    uint64_t state;
};

static inline struct prng prng_seed(uint64_t seed) { return (struct prng) { seed }; }

static inline uint64_t prng_next(struct prng *p)
{
    uint64_t z = (p->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Uniform enough in [0, bound); bound > 0. */
static inline uint64_t prng_below(struct prng *p, uint64_t bound) { return prng_next(p) % bound; }

static inline bool prng_chance(struct prng *p, unsigned per_million) { return prng_below(p, 1000000) < per_million; }
