/* What a leg remembers of itself across restarts. repl/meta knows how it lies on disk; here it is plain values. */
#pragma once

#include "repl/core/history.h"
#include "repl/core/names.h"

struct superblock {
    uint64_t sequence; /* grows with every write of the superblock */
    char volume[NAME_BYTES_MAX];
    char node[NAME_BYTES_MAX];
    uint64_t size_bytes;    /* of the volume; 0 until it is fixed by pairing, configuration or the first promotion */
    uint64_t backing_bytes; /* of the backing when this was written, metadata included */
    struct id volume_id;    /* none until paired or promoted */
    struct id leg_id;       /* made by `create` */
    struct id peer_leg_id;  /* the leg we are paired with; none until then */
    struct id boot_id;      /* of the machine's run in which the leg was last attached */
    uint64_t lsn;           /* the highest given or applied when this was written; later ones may have been */
    uint64_t epoch;         /* highest seen */
    uint64_t served_epoch;  /* the highest at which this node served on this leg, or could have; 0: never */
    enum role role;         /* as of the last superblock write */
    enum leg_state leg;
    enum leg_state peer_leg; /* what we know of the peer's. LEG_FAILED: it may lack writes that were not flushed, also
                                if its own disk could not record that. Until a resync */
    bool attached;           /* a daemon has it open; still set when it is opened: that daemon ended uncleanly */
    bool pristine;           /* zeroes since `create` */
    bool lost_power;         /* was attached when its machine went down: may lack writes that were not flushed. Until a
                                resync */
    bool differs;      /* a verify found this leg to be the wrong one of two that differ somewhere. Until a resync */
    bool went_back;    /* the disk was put back from an older copy, as the peer or the register knew: what was written
                          since is missing. Comes with `differs` and `full`. Until a resync */
    bool reads_lie;    /* a flush failed: what this leg's disk shows may be in its cache only, and never be written,
                          although later flushes succeed. Until the machine's next run, or a resync */
    bool unclean;      /* not on disk: engine_attach() found that the last daemon had not let go of it */
    bool first_of_run; /* not on disk: engine_attach() found the last attachment to be of an earlier run of the machine
                        */
    bool adopted;      /* `create --adopt`: held data before it was ours */

    /* What the two legs need to find each other again. */
    bool peer_in_sync;      /* the peer is in the in-sync set by the last decree known here */
    bool was_primary;       /* this node was the primary of that decree */
    bool full;              /* every granule counts as out of sync: a new or replaced disk */
    uint64_t al_from;       /* blocks of the activity log with a lower sequence are void; at most UINT64_MAX / 2 */
    uint32_t granule_bytes; /* of the bitmap */
    uint32_t extent_bytes;  /* of the activity log: a multiple of granule_bytes */
    struct history history;
    struct history_entry base; /* the bitmap is complete from this decree on; none: nothing is known */
    uint64_t consistent_epoch; /* a syncing leg: its last consistent state */
    uint64_t consistent_lsn;

    /* Growing (docs/METADATA.md). */
    uint64_t room_bytes; /* what lies between size_bytes and here reads as zeroes, on stable storage; 0: not known */
    uint64_t moved_from_bytes; /* the backing's size when the metadata lay at its former end, where old superblocks may
                                  still be; 0: none are */

    uint64_t verified_at_s; /* when the last verify that was ordered here, and came to its end, began: since 1970; 0:
                               never */
    uint64_t verified_found_bytes; /* that it found to differ, or could not compare */

    /* With a register (docs/FAILOVER.md). */
    bool registered;      /* the volume has a decree in a register: one that does not know it is older */
    uint64_t heard_epoch; /* the highest that the register was heard to have, if it is above `epoch`: another node's
                             decree, by which this one does nothing but stand back. 0: none was */
    uint64_t asked_epoch; /* this node has asked to take over from it, and may get it yet: it takes part in nothing at
                             this epoch or below; 0: it has not */

    /* Of the two nodes' places in the pair, whatever leg is there (docs/METADATA.md, "Age"). */
    uint64_t age;      /* only grows; told to nobody before it is on disk here. 0: an older release wrote this */
    uint64_t peer_age; /* the highest that the peer has told of its own; 0: none */
};

/* May it lack anything that was acknowledged? */
static inline bool superblock_is_doubtful(const struct superblock *sb) { return sb->lost_power || sb->differs; }

/* Nothing stands against it any more. */
static inline void superblock_clear_doubts(struct superblock *sb)
{
    sb->lost_power = sb->differs = sb->went_back = false;
}
