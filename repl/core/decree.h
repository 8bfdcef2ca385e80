/* Decrees, and what is asked of the register that holds the one which counts (docs/FAILOVER.md). */
#pragma once

#include <string.h>

#include "repl/core/names.h"

#define DECREE_MEMBERS_MAX 2
#define REGISTER_REASON_BYTES 192

/* A leg of the in-sync set: a node, and which of its disks. A replaced disk is no member. */
struct decree_member {
    char node[NAME_BYTES_MAX];
    struct id leg_id;
};

/* Why a decree was made; for people, and for the history that the register keeps. */
enum decree_cause {
    DECREE_FIRST,   /* there was none */
    DECREE_OUT,     /* the peer is lost, or is to be a target */
    DECREE_TAKE,    /* the primary is lost */
    DECREE_IN,      /* the peer's resync is done */
    DECREE_RESUME,  /* the primary has restarted */
    DECREE_RENEW,   /* the same again: makes a swap void that may be under way */
    DECREE_SWITCH,  /* switchover */
    DECREE_LEG_OUT, /* the primary's leg has failed: it serves through its peer's */
    DECREE_NOBODY,  /* demoted, or taken down by an operator */
    DECREE_PROMOTE, /* by an operator, after nobody served */
    DECREE_FORCE,   /* by an operator, on a leg that may lack something */
    DECREE_ADOPT,   /* by an operator, over a register that is older than the nodes */
};

struct decree {
    uint64_t epoch; /* 0: no decree; at most INT64_MAX. Each has a higher one than those before it */
    uint64_t tag;   /* random, never 0: a retry finds its own swap by it. That of the entry in the legs' histories */
    enum decree_cause cause;
    char primary[NAME_BYTES_MAX]; /* the node that serves; empty: nobody */
    uint32_t member_count;
    struct decree_member members[DECREE_MEMBERS_MAX]; /* the in-sync set, in no order */
};

enum register_ask {
    REGISTER_READ,
    REGISTER_SWAP, /* "if `expected` still stands, put `proposal` in its place" */
};

/* What a node asks, and what it tells of itself with it. */
struct register_request {
    enum register_ask ask;
    struct id volume_id;
    char volume[NAME_BYTES_MAX]; /* the register's key */
    char node[NAME_BYTES_MAX];   /* who asks */
    char peer[NAME_BYTES_MAX];   /* empty: a volume of one node */
    uint64_t known_epoch;        /* the highest that `node` knows, on disk or from an answer; 0: it was never told one
                                    by a register */
    bool serving_alone;      /* `node` serves at known_epoch, alone in the set, and no swap of its own is under way */
    uint64_t expected_epoch; /* SWAP: 0 with a tag of 0: there is no decree yet */
    uint64_t expected_tag;
    struct decree proposal;           /* SWAP: its epoch is above expected_epoch */
    bool over_older;                  /* SWAP by `adopt`: whatever stands is replaced, if its epoch is lower */
    char note[REGISTER_REASON_BYTES]; /* SWAP: for the history, in words: what is known of a loss; may be empty */
    uint64_t leg_age;                 /* of `node`'s leg, on stable storage; 0: it does not tell */
    bool tries; /* READ: STANDS only if a decree could be stored now. A register need not heed it */
};

enum register_outcome {
    REGISTER_STANDS,      /* READ: .decree is what stands; its epoch is 0 if there is none */
    REGISTER_DONE,        /* SWAP: the proposal stands. Also if an earlier try of it was what put it there */
    REGISTER_LOST,        /* SWAP: another decree stands, .decree; this proposal was not and will not be carried out */
    REGISTER_UNREACHABLE, /* no answer: a SWAP may have been carried out, or be at any later time */
    REGISTER_UNCONFIRMED, /* the register has started anew and waits for both nodes' word; a SWAP was not carried out.
                             .decree stands */
    REGISTER_OLDER,   /* .decree has a lower epoch than `known_epoch`, or is none: a register that was rolled back */
    REGISTER_REFUSED, /* not carried out: other volume, malformed, disk full, database damaged; .reason says it */
};

struct register_answer {
    enum register_outcome outcome;
    struct decree decree;
    char reason[REGISTER_REASON_BYTES]; /* a sentence that says what to do; empty unless UNREACHABLE, UNCONFIRMED,
                                           OLDER, REFUSED */
    uint64_t leg_age; /* the highest that `node` has told before this request, as far as the register remembers; 0:
                         none */
};

/* How it stands between this node and the register. */
enum register_state {
    REGISTER_STATE_NONE,        /* there is none in the configuration */
    REGISTER_STATE_ASKING,      /* it was asked, and has not answered since this node has the volume up */
    REGISTER_STATE_REACHABLE,   /* it has answered what was asked last */
    REGISTER_STATE_UNREACHABLE, /* it has not */
    REGISTER_STATE_UNCONFIRMED, /* it has started anew, and waits for both nodes' word */
    REGISTER_STATE_OLDER,       /* it knows less than this node: an operator is needed */
    REGISTER_STATE_REFUSED,     /* it does not do what it is asked; the reason says why */
};

static inline const char *decree_cause_name(enum decree_cause c)
{
    switch (c) {
    case DECREE_FIRST: return "first";
    case DECREE_OUT: return "out";
    case DECREE_TAKE: return "take";
    case DECREE_IN: return "in";
    case DECREE_RESUME: return "resume";
    case DECREE_RENEW: return "renew";
    case DECREE_SWITCH: return "switch";
    case DECREE_LEG_OUT: return "leg-out";
    case DECREE_NOBODY: return "nobody";
    case DECREE_PROMOTE: return "promote";
    case DECREE_FORCE: return "force";
    case DECREE_ADOPT: return "adopt";
    }
    return "?";
}

static inline const char *register_state_name(enum register_state s)
{
    switch (s) {
    case REGISTER_STATE_NONE: return "none";
    case REGISTER_STATE_ASKING: return "asking";
    case REGISTER_STATE_REACHABLE: return "reachable";
    case REGISTER_STATE_UNREACHABLE: return "unreachable";
    case REGISTER_STATE_UNCONFIRMED: return "unconfirmed";
    case REGISTER_STATE_OLDER: return "older";
    case REGISTER_STATE_REFUSED: return "refused";
    }
    return "?";
}

static inline bool decree_is_none(const struct decree *d) { return d->epoch == 0; }

static inline bool decree_has_member(const struct decree *d, struct id leg_id)
{
    for (uint32_t i = 0; i < d->member_count; i++) {
        if (id_equal(d->members[i].leg_id, leg_id)) {
            return true;
        }
    }
    return false;
}

/* ... whichever of the node's disks that is. */
static inline bool decree_has_member_of(const struct decree *d, const char *node)
{
    for (uint32_t i = 0; i < d->member_count && i < DECREE_MEMBERS_MAX; i++)
        if (strcmp(d->members[i].node, node) == 0)
            return true;
    return false;
}
