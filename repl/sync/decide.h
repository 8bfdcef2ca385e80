/* May these two legs go on together, and which of them gets what it lacks from the other? A table of named rules over
 * what both nodes say of themselves; the first that applies decides. Pure, and symmetric: both ends judge the same two
 * hellos, each from its side, and reach the same verdict or opposite ones, so that no end goes on while the other
 * refuses, and data flows one way.
 *
 * Data never flows from the older leg to the newer one. Which is older, the histories tell (repl/core/history.h); that
 * they went apart is split brain, and only a person decides. */
#pragma once

#include "repl/core/hello.h"

enum sync_verdict {
    SYNC_REFUSE,
    SYNC_PAIR,    /* fresh legs, equal because both are zeroes: from now on they are a pair */
    SYNC_CONNECT, /* equal but for what is in flight */
    SYNC_SOURCE,  /* the peer gets from this leg what it lacks */
    SYNC_TARGET,  /* this leg gets from the peer's what it lacks */
    SYNC_THROUGH, /* the primary's leg has failed: it serves through the other one's */
};

#define SYNC_TEXT_BYTES 512

struct sync_judgement {
    enum sync_verdict verdict;
    const char *rule;    /* its name, for the log and the tests */
    bool full;           /* SYNC_SOURCE, SYNC_TARGET: the bitmaps cannot be relied on: everything is compared */
    bool own_deposed;    /* refused, and we are a primary that another epoch has overtaken */
    bool for_now;        /* refused until one of the two has stepped down, or has had its answer from the register */
    bool peer_asked;     /* ... as the peer has asked to take over from this epoch */
    bool target_in_set;  /* ... as the peer would be our target, and is in the set */
    bool two_primaries;  /* refused, and both are primary, and neither was deposed */
    bool own_went_back;  /* refused, until this node has on record that its leg went back in time */
    bool person_decides; /* refused, and neither leg is to be promoted without force, whatever it says of itself */
    bool resolvable;     /* refused, until one of the legs is given up: docs/RECOVERY.md, "Split brain" */
    char text[SYNC_TEXT_BYTES]; /* SYNC_REFUSE: why, and what to do, from our side; else "" */
    uint64_t size_bytes;        /* else: of the volume from now on */
    struct id volume_id;
    uint64_t epoch;                  /* the highest that either has seen; at least 1 for a pair */
    struct history_entry pair_entry; /* SYNC_PAIR: the first of both histories */
};

/* Of two legs that have diverged: do the own one's bits tell all that it has changed since both were the same? */
bool sync_bits_tell_apart(const struct hello *own, const struct hello *peer);

void sync_decide(const struct hello *own, const struct hello *peer, struct sync_judgement *out);
