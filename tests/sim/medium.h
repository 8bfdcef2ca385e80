/* What a disk keeps its sectors on: two layers, and all that can go wrong with a sector at rest or in a loss of power.
 *
 * `content` is what a read returns, `stable` what would survive a loss of power; a sector that is dirty has not got
 * from the one to the other. A flaw belongs to a sector of a layer and goes where its content goes: a damaged sector
 * holds something else than the disk's user believes, an unreadable one nothing. Writing a sector mends it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/base/prng.h"

#define SECTOR_BYTES 512 /* what a disk writes whole or not at all, unless it loses power just then */

struct medium {
    uint32_t sectors;
    uint32_t words; /* of each bitmap below, one bit a sector */
    uint8_t *content;
    uint8_t *stable;
    uint64_t *dirty;
    uint64_t *touched; /* since the last reset */
    uint64_t *unreadable;
    uint64_t *damaged;
    uint64_t *stable_unreadable;
    uint64_t *stable_damaged;
    /* A number for what lies in each sector of a layer, never 0: where it is the same as before, or as in the other
     * layer, the bytes are the same, too. */
    uint64_t *content_stamps;
    uint64_t *stable_stamps;
    uint64_t stamps; /* given so far; never reset */
    bool has_flaws;  /* some sector has had one since the last reset */
};

void medium_open(struct medium *m, uint32_t sectors); /* zeroes; out of memory ends the process */
void medium_close(struct medium *m);
void medium_reset(struct medium *m); /* zeroes again, at the cost of what was touched */

static inline uint8_t *medium_sector(uint8_t *layer, uint32_t sector)
{
    return layer + (uint64_t)sector * SECTOR_BYTES;
}

static inline bool sector_bit(const uint64_t *map, uint32_t sector) { return map[sector / 64] >> (sector % 64) & 1; }

/* `data` of SECTOR_BYTES; NULL: zeroes. Dirty afterwards. */
void medium_write(struct medium *m, uint32_t sector, const uint8_t *data);

/* A dirty sector becomes stable. */
void medium_settle(struct medium *m, uint32_t sector);

/* ... all those whose bit is set in `which` (of `words` words). */
void medium_settle_all(struct medium *m, const uint64_t *which);

/* A failed flush: the sector stays as it reads, and no later flush knows that it is not stable. */
void medium_forget_dirty(struct medium *m, uint32_t sector);

/* What is dirty by its content is dirty again. */
void medium_find_dirty(struct medium *m);

/* Before medium_power_loss(), of a dirty sector that was just being written when the power went. */

/* A part of it is new, the rest old: what comes first, or last, or any of its words. False: it is not, as it has a
 * flaw. */
bool medium_tear(struct medium *m, uint32_t sector, struct prng *chance);

/* It cannot be read any more until it is written. */
void medium_break(struct medium *m, uint32_t sector);

/* The machine goes down: of each dirty sector either the new or the old content is left. Returns the number of those
 * that lost the new one. */
uint32_t medium_power_loss(struct medium *m, struct prng *chance, unsigned survive_per_million);

/* What is stable, of every sector; and back, as if nothing had been written since: without flaws. */
void medium_copy(const struct medium *m, uint8_t *to);
void medium_put_back(struct medium *m, const uint8_t *from);

bool medium_is_readable(const struct medium *m, uint32_t first, uint32_t count);

/* A write that is reported as done and never happens. `data` as for medium_write(). */
void medium_write_lost(struct medium *m, uint32_t sector, const uint8_t *data);

/* A write that is reported as done and lands at `to` instead. */
void medium_write_misdirected(struct medium *m, uint32_t first, uint32_t count, uint32_t to, const uint8_t *data);

/* A latent read error. False: the sector is dirty, and what is about to be written over cannot be lost. */
bool medium_make_unreadable(struct medium *m, uint32_t sector);

/* A bit of the stable layer flips; a sector that is not dirty reads so, too. */
void medium_rot(struct medium *m, uint32_t sector, uint32_t bit);

/* What was just written to the sector had rotted where it came from. */
void medium_is_damaged(struct medium *m, uint32_t sector);

/* ... or so has what lies in the stable layer. */
void medium_stable_is_damaged(struct medium *m, uint32_t sector);

/* Sectors that read otherwise than they should. */
uint32_t medium_damaged_count(const struct medium *m);
