/* Which swap a node asks the register for, in which state, and what it proposes: one table (docs/FAILOVER.md). Pure.
 *
 * The engine gathers the facts, asks for what the table says, and carries out what follows from the answer. Who asks
 * for what, under which rule, is here and nowhere else. */
#pragma once

#include "repl/core/decree.h"

/* What the engine knows of its node when it asks the table. */
struct swap_facts {
    const char *node;
    const char *peer; /* NULL: a volume of one node */
    struct id leg_id;
    struct id peer_leg_id;       /* of the leg this one is paired with */
    const struct decree *stands; /* as the register has just said */
    bool registered;             /* the volume has a decree, as far as this node knows */
    uint64_t epoch;              /* of the last decree that it acts by, on disk */
    uint64_t known_epoch;        /* the highest that it has seen, also of a register that it does not follow */

    enum swap_role {
        SWAP_SECONDARY,
        SWAP_PRIMARY,
        SWAP_HANDING,  /* a primary that has stopped for a switchover */
        SWAP_DRAINING, /* a primary that is being demoted, or taken down */
        SWAP_ENDING,   /* a primary that was demoted: drained, and flushed */
        SWAP_BUSY,     /* between two of these: asks for nothing */
    } role;
    bool whole;       /* nothing stands against its leg */
    bool went_back;   /* that its disk was put back from an older copy: for people */
    bool lost_power;  /* ... but that it may lack what was not flushed */
    bool serves_peer; /* a session with a primary is up */

    /* Of a primary. */
    bool peer_lost;      /* for dead-after, and what this leg has is flushed */
    bool peer_is_target; /* it is to be one, as both have said; and what this leg has is flushed. Also of a secondary */
    bool resync_done;    /* the peer has everything, stable. Also of a secondary */
    bool peer_has_asked; /* to take over from this epoch, or a later one; or may be in by a swap that was forgotten */
    bool leg_failed;     /* and the peer's can stand in for it */
    bool in_sync;        /* with the peer, in session */
    bool never_served;   /* nothing of the volume was ever acknowledged before this term */
    bool gives_up;       /* HANDING: it goes on itself */
    bool leg_is_lost;    /* ENDING: it has failed, and nobody stands in for it any more */
    bool peer_is_whole;  /* ... as far as is known here */

    /* Of a secondary. */
    bool lends;     /* a primary that it has heard in a session may answer reads by that yet */
    bool silent;    /* nothing was heard of a primary for take-after, and what this leg has is flushed */
    bool automatic; /* it takes over by itself */
    bool handed;    /* its primary has stopped for a switchover, and both are in sync */
    bool has_asked; /* before it died, from what stands; and does not know of it */
    bool promote;   /* ordered by an operator */
    bool force;     /* ... also on a leg that may lack something */

    bool peer_is_kept; /* the peer's leg is in the set by what is on record here, and has everything, stable; or it may
                          have been taken in by a swap of unknown end */
    bool adopt;        /* ordered by an operator, over what is older, and the nodes know everything that was decided */
};

/* The first row of the table that applies, as its number; -1: nothing is to be asked. */
int swap_choose(const struct swap_facts *f);

enum decree_cause swap_cause(int row);

/* What the row proposes in the place of what stands. */
struct decree swap_propose(int row, const struct swap_facts *f, uint64_t tag);

/* Where the node, at `epoch`, knows of no decree yet: one that was asked for long ago, by somebody who has died. Nobody
 * has acted by it, and operators have promoted since as if there were none: the first one is asked for over it. */
bool swap_is_late_first(const struct decree *stands, uint64_t epoch);

/* Does this decree add an entry to the history of the node that it makes, or leaves, primary? */
bool swap_makes_entry(const struct decree *d);

/* The epoch it comes from is recorded before it is asked (rule no-session-while-asking). */
bool swap_is_claim(enum decree_cause cause);

/* Why a promotion that was ordered cannot be asked for, as a constant text; NULL: it can, or is not needed. */
const char *swap_obstacle(const struct swap_facts *f);
