/* One block of the activity log as it lies on disk. Pure: bytes in, values out. docs/METADATA.md has the format. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/base/err.h"
#include "repl/core/names.h"

#define AL_MAGIC UINT64_C(0x474f4c4143534b4c) /* "LKSCALOG" as bytes */
#define AL_BLOCK_BYTES 4096
#define AL_UPDATES_MAX 240      /* extents that one block can take in */
#define AL_CONTEXT_MAX 528      /* slots that one block repeats */
#define AL_SLOTS_MAX (1u << 18) /* 1 TiB of extents of 4 MiB */
#define AL_NO_EXTENT UINT32_MAX /* the slot is free */
#define AL_SEQUENCE_MAX (UINT64_MAX / 2)

struct al_block {
    uint64_t sequence;
    struct id owner; /* the leg: blocks of an earlier life are told from ours */
    uint32_t extent_bytes;
    uint32_t slots;
    uint32_t context_slots;
    uint32_t update_count;
    struct al_update {
        uint32_t slot;
        uint32_t extent;
    } updates[AL_UPDATES_MAX];
    uint32_t context[AL_CONTEXT_MAX]; /* extents of the slots in the block's window, as they are after the updates */
};

/* A block repeats the slots of one window; the windows take turns, so that `al_cycle()` blocks in a row tell all. */
struct al_window {
    uint32_t first;
    uint32_t count;
};

uint32_t al_cycle(uint32_t slots, uint32_t context_slots);
struct al_window al_window_of(uint64_t sequence, uint32_t slots, uint32_t context_slots);

void al_block_encode(const struct al_block *b, uint8_t block[AL_BLOCK_BYTES]);

/* -ENOENT: all zeroes, never written; -EBADMSG: damaged, or it says what cannot be; 0: good. */
int al_block_decode(const uint8_t block[AL_BLOCK_BYTES], struct al_block *b, struct err *err);
