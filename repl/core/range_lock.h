/* Range locks: where two overlap and one of them is exclusive, they are granted one after the other, in the order in
 * which they were asked for. Changes lock exclusively, reads share.
 *
 * Nothing is allocated. A lock of up to RANGE_LOCK_REGION_BYTES touches at most two regions of the volume and is found
 * by their hash; longer ones (discards) go on a list of their own that everybody looks at. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/base/list.h"
#include "repl/base/range.h"
#include "repl/base/units.h"

#define RANGE_LOCK_REGION_BYTES (1 * MIB)
#define RANGE_LOCK_BUCKETS 1024

struct actions;
struct range_lock;

/* Called when a lock that had to wait is granted. */
typedef void range_granted_fn(struct range_lock *lock, struct actions *out);

/* A lock as filed under one region, or under "wide". */
struct range_lock_entry {
    struct list link;
    struct range_lock *lock;
    uint64_t region;
};

/* Embedded by its owner, who keeps it until range_unlock(). */
struct range_lock {
    range_granted_fn *on_granted; /* the owner's, set before asking */
    void *owner;                  /* likewise: for `on_granted` */
    struct range range;
    bool exclusive;
    uint32_t blockers; /* earlier conflicting locks that are still there; 0: granted */
    uint64_t order;    /* of asking */
    struct range_lock_entry entries[2];
    unsigned entry_count;
    struct list in_all;
    struct list granted; /* node in the list of those that range_unlock() is about to tell */
};

struct range_locks {
    uint64_t next_order;
    struct list all;  /* by in_all, in asking order */
    struct list wide; /* entries of locks longer than a region */
    struct list buckets[RANGE_LOCK_BUCKETS];
};

void range_locks_init(struct range_locks *locks);

/* Asks for `range` (length > 0). True: granted at once. False: it waits, and a later range_unlock() hands it out. */
bool range_lock(struct range_locks *locks, struct range_lock *lock, struct range range, bool exclusive);

/* Gives a lock back, granted or still waiting. Those that are granted by this are told, in asking order. */
void range_unlock(struct range_locks *locks, struct range_lock *lock, struct actions *out);
