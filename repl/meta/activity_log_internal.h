/* The activity log from inside: for its two files only. */
#pragma once

#include "repl/meta/activity_log.h"

#define AL_NONE UINT32_MAX

/* Each slot is on exactly one. */
enum al_list {
    AL_FREE,       /* no extent */
    AL_COMMITTING, /* its extent is being written into the log: not hot yet */
    AL_BUSY,       /* in use */
    AL_UNFLUSHED,  /* left; by the time of leaving */
    AL_FLUSHED,    /* may be given up; the least recently used first */
    AL_LISTS,
};

struct al_slot {
    uint32_t extent;
    uint32_t uses;
    uint32_t generation; /* UNFLUSHED: a flush with this generation or a later one covers it */
    uint32_t next, prev; /* in its list */
    uint32_t chain;      /* the next slot with the same hash, + 1 */
    uint8_t list;        /* enum al_list */
    bool draining;       /* nobody may enter: the slot is wanted for the change that waits longest */
};

struct al_span {
    uint32_t first, end; /* extents */
};

struct activity_log {
    struct al_options options;
    uint32_t extent_shift;  /* log2 of extent_bytes */
    uint32_t capacity;      /* the most slots that the ring can tell of */
    uint32_t slots;         /* in use: as configured, or as found on disk */
    uint32_t context_slots; /* likewise */
    uint64_t sequence;      /* of the next block */
    uint64_t commits, evictions;
    uint32_t generation; /* of the next flush */
    uint32_t round;      /* grows with each commit and each flush: who waits asks in each */

    struct al_head {
        uint32_t first, last, count;
    } lists[AL_LISTS];
    struct al_slot *slot; /* `capacity`, of which `slots` are used and touched */
    uint32_t *hash;       /* heads of chains, + 1; 0: none */
    uint32_t hash_bits;

    bool commit_in_flight;
    bool may_be_there;     /* the last write of this sequence's block failed */
    bool unsealed;         /* the newest block on disk has updates, which no other tells of */
    uint32_t update_count; /* of the block being written, or to be written next */
    struct al_replaced {
        uint32_t slot;
        uint32_t evicted; /* AL_NO_EXTENT: the slot was free */
    } updates[AL_UPDATES_MAX];

    uint32_t wanted_count;
    uint32_t wanted[AL_UPDATES_MAX]; /* extents, in the order of asking */

    bool has_first;
    struct al_span first; /* of the change that waits longest: its extents are served first and not given up */
    uint32_t first_round; /* in which it last asked */
    bool first_stuck;
    uint32_t first_stuck_generation;
    uint32_t draining_count;
    uint32_t draining[AL_UPDATES_MAX];

    uint64_t *ring_sequences; /* al_load(): of each block; 0: damaged; UINT64_MAX: never written */
    uint64_t *seen;           /* al_load(): a bit a slot */
};

/* Everything forgotten, with so many slots. */
void al_reset(struct activity_log *al, uint32_t slots, uint32_t context_slots);

/* Puts an extent into a free slot, hot. False: it is in another one already. */
bool al_place(struct activity_log *al, uint32_t slot, uint32_t extent);

/* The extent in this slot is not hot, but an update of the next block, too, which evicts nothing for it. */
void al_tell_again(struct activity_log *al, uint32_t slot);

struct range al_extent_range(const struct activity_log *al, uint32_t extent);
