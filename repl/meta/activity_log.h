/* The activity log: the extents that may hold changes in flight, or not yet flushed. After a crash they count as out of
 * sync.
 *
 * A change enters its extents before either leg is written, and leaves them when it is over on both. An extent that was
 * entered HOT is found by al_load() after a crash, until it was left by all and a flush began after that and is done.
 * Extents stay in the log until their slot is needed for others; then their bitmap pages are written first.
 *
 * What the caller does, so that nobody waits for ever:
 * - A change enters the log as the last thing that it waits for: it holds its range lock already.
 * - Changes that were told COLD or STUCK ask again after each al_commit_done() and each al_flush_done(), the oldest
 *   first, before anything else. (One that is given up simply does not ask again.)
 * - After asks, and after each done: al_commit_begin(); if it gives a block, write it. If somebody waits then, and
 *   al_wants_flush(): flush both legs (alone: this one).
 * Pure: nothing here reads, writes or waits, and only open and close allocate. Not thread-safe. */
#pragma once

#include "repl/base/range.h"
#include "repl/base/units.h"
#include "repl/meta/al_block.h"

#define EXTENT_BYTES_DEFAULT (4u << 20)
#define AL_SLOTS_DEFAULT 65536u /* 256 GiB */
#define AL_RING_BLOCKS 1024u
#define AL_RING_SPARE                                                                                                  \
    2u /* blocks of the ring beyond one cycle: that being written, and that which tells it from damage */

struct al_options {
    uint64_t size_bytes;    /* of the volume; 0: not known yet */
    uint32_t extent_bytes;  /* a power of two, a multiple of the bitmap's granule */
    uint32_t slots;         /* extents that fit; 0: AL_SLOTS_DEFAULT. At most AL_SLOTS_MAX */
    uint32_t ring_blocks;   /* 0: AL_RING_BLOCKS */
    uint32_t context_slots; /* 0: AL_CONTEXT_MAX. Less only in tests */
    struct id owner;        /* the leg */
};

struct activity_log;

/* Nothing is in it. NULL: out of memory. */
struct activity_log *al_open(const struct al_options *options, struct err *err);
void al_close(struct activity_log *al);

/* The volume has grown. */
void al_set_size(struct activity_log *al, uint64_t size_bytes);

/* Reads the log as a crash left it. `ring`: all blocks of the ring, one after the other; one that could not be read is
 * filled with 0xff. Blocks with a sequence below `from_sequence` (al_from of the superblock) are void. Each extent that
 * may differ is given to `found`, as its range cut at the volume's end; it is in the log, and nobody is in it. It is
 * hot, unless only the newest block tells of it: that may not be stable, and the next one tells of it once more.
 * The number of slots is that of the log on disk, until it is void.
 * 0; or -EBADMSG: an extent may be missing; `found` was not called, nothing is in the log. The caller sets every bit,
 * and writes al_from = al_next_sequence() into the superblock. It had better zero the ring, too: damaged blocks that
 * stay there may be taken for more damage after the next crash. */
int al_load(struct activity_log *al, const uint8_t *ring, uint64_t from_sequence,
            void (*found)(void *ctx, struct range range), void *ctx, struct err *err);

/* The sequence of the next block: al_from for a clean end. */
uint64_t al_next_sequence(const struct activity_log *al);

/* A clean end: forgets all extents; none may be in use, and no commit under way. Only when both legs are flushed, or
 * the bits of all extents are on disk. Returns al_from for the superblock; nobody may enter until it is written. */
uint64_t al_clear(struct activity_log *al);

/* ---- Changes ---- */

enum al_verdict {
    AL_HOT,   /* all its extents are on disk, and in use until al_leave() */
    AL_COLD,  /* wanted: ask again after the next commit */
    AL_STUCK, /* no slot can be given up before a flush; ask again after it, and after the next commit */
};

/* How many extents one change may touch. */
uint32_t al_change_extents_max(const struct activity_log *al);

/* `range`: not empty, inside the volume. COLD and STUCK count nothing. */
enum al_verdict al_enter(struct activity_log *al, struct range range);

/* The change of a range that was entered HOT is over, on both legs. */
void al_leave(struct activity_log *al, struct range range);

/* Would all extents of the range be found after a crash now? */
bool al_covers(const struct activity_log *al, struct range range);

/* ---- Commits ---- */

struct al_commit {
    uint32_t index;    /* of the block in the ring */
    uint64_t sequence; /* for messages */
    uint32_t evicted_count;
    struct range evicted[AL_UPDATES_MAX]; /* extents given up: none of their bitmap pages may be stale when the block is
                                             given to the disk */
    uint8_t block[AL_BLOCK_BYTES];
};

/* True: there is a block to be written, and none is under way; `c` is filled, and stays the caller's. */
bool al_commit_begin(struct activity_log *al, struct al_commit *c);

/* Now and then, when nobody waits. True: the newest block on disk is the only one that tells of its updates, and a
 * block is to be written after it, as any other is; it has no updates, but for those that are due anyhow. From then on
 * the loss of the former is noticed: docs/METADATA.md. */
bool al_seal_begin(struct activity_log *al, struct al_commit *c);

/* The block is stable; or it could not be written, and may be on disk or not: then the next al_commit_begin() gives the
 * same again, and what it gives up stays cold meanwhile. */
void al_commit_done(struct activity_log *al, bool ok);

/* ---- Flushes ---- */

/* A flush of both legs (alone: this one) begins now. Any number may be under way. */
uint32_t al_flush_begin(struct activity_log *al);

/* To be asked when somebody waits for the log. No slot can be given up before a flush; or those that can, may run out
 * before it is over. */
bool al_wants_flush(const struct activity_log *al);

/* It succeeded: extents that were left before it began may be given up. One that fails is not told. */
void al_flush_done(struct activity_log *al, uint32_t generation);

struct al_view {
    uint32_t slots;
    uint32_t hot;       /* extents in the log, all on disk */
    uint32_t busy;      /* of these: in use */
    uint32_t unflushed; /* of these: left, not flushed */
    uint64_t commits;
    uint64_t evictions;
};
struct al_view al_view(const struct activity_log *al);
