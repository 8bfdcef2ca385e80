/* What a node says of itself when a connection opens. Both ends judge both hellos by the same table (repl/sync). */
#pragma once

#include "repl/core/history.h"
#include "repl/core/names.h"

#define PROTOCOL_VERSION 1
#define HELLO_NONCE_BYTES 32

struct hello {
    uint32_t version;  /* the protocol version spoken; PROTOCOL_VERSION */
    uint64_t features; /* bits both must have to use; none are defined yet */
    char volume[NAME_BYTES_MAX];
    char node[NAME_BYTES_MAX]; /* who speaks */
    char peer[NAME_BYTES_MAX]; /* whom it believes to speak to */
    uint64_t size_bytes;       /* of the volume once it is fixed, else 0 */
    uint64_t capacity_bytes;   /* the largest volume this leg can hold, or the configured size; once the size is fixed:
                                  what it can grow to at once, for what is between reads as zeroes */
    struct id volume_id;       /* none until the legs are paired */
    struct id leg_id;          /* of this leg, made by `create` */
    struct id peer_leg_id;     /* the leg this one is paired with; none until then */
    uint64_t epoch;            /* highest seen, persisted */
    enum role role;
    enum leg_state leg;
    bool pristine;          /* zeroes since `create`: nothing was ever written to it */
    bool lost_power;        /* may lack writes it had completed but not flushed */
    bool differs;           /* a verify found it to be the wrong one of two legs that differ somewhere */
    bool went_back;         /* its disk was put back from an older copy, and it knows: comes with `differs` */
    bool peer_failed;       /* the peer's leg failed, as this node was told, and was not resynced since */
    uint32_t window_frames; /* changes that may be on their way to this node, not yet acknowledged */
    uint64_t window_bytes;  /* payload of those */
    uint32_t block_bytes;   /* what this leg's disk needs changes aligned to: a power of two, 512 ... 4096 */
    uint32_t granule_bytes; /* of the bitmap: both must be the same */
    uint64_t lsn;           /* the highest given or applied: whoever is primary next begins above both */
    bool full;              /* every block of this leg counts as different from the peer's */
    uint64_t dirty_bytes;   /* what may differ from the peer's leg, as this one knows */
    bool was_primary;       /* this node was the primary of the last decree that it knows of */
    uint64_t served_epoch;  /* the highest at which it served on this leg, or could have; 0: never. At most `epoch` */
    bool peer_in_sync;      /* the peer is in the in-sync set by that decree */
    struct history history;
    uint64_t alone_s; /* for how many seconds it has been going on by the last entry of `history`, a decree of its own;
                         0: not known */
    bool diskless; /* a primary whose leg has failed, and leaves the in-sync set by the last entry of `history`: it is
                      to serve through the peer's leg, once that has recorded the entry */
    struct history_entry base; /* this leg's bitmap is complete from this decree on; none: it cannot be relied on */
    bool registered;           /* this node acts by a register's decrees */
    uint64_t asked_epoch;      /* it has asked to take over from it, and may get it yet; 0: it has not */
    bool hands_over;           /* it knows FRAME_FLAG_HAND */
    struct hello_config {
        uint64_t dead_after_us; /* 0: it does not say how it is configured, nor in what follows */
        uint64_t witness;       /* of its URL; 0: it has none */
        uint32_t failover;      /* these are compared, and for people: a number means the same on both nodes */
        uint32_t when_alone;
    } config;
    uint64_t age;                     /* of this leg, on its disk: it only grows; 0: it does not say */
    uint64_t peer_age;                /* the highest that it has heard of the peer's leg; 0: none */
    uint8_t nonce[HELLO_NONCE_BYTES]; /* random for each hello: both together key the digests of a session */
    uint32_t served_block_bytes;      /* what the primary's clients were told, likewise; 0: it does not serve */
};
