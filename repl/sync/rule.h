/* What a rule of the handshake is, the words in which the rules speak of two hellos, and all rules there are. Their
 * order, and what comes of a verdict, is in decide.c; the rules are in rules_*.c, by what they are about. */
#pragma once

#include "repl/sync/decide.h"

typedef bool applies_fn(const struct hello *own, const struct hello *peer);
typedef void explain_fn(const struct hello *own, const struct hello *peer, struct sync_judgement *j);
/* SYNC_SOURCE or SYNC_TARGET: `from` is whose leg is the source. */
typedef bool full_fn(const struct hello *from, const struct hello *to);

struct rule {
    const char *name;
    applies_fn *applies;
    enum sync_verdict verdict;
    explain_fn *explain; /* of a refusal */
    full_fn *full;       /* of a resync */
    bool resolvable;     /* a refusal that ends when one of the legs is given up */
};

/* Of the volume's name. */
#define RESOLVE_ADVICE                                                                                                 \
    "`lockstep resolve %s --discard local` there keeps them in a file first, and gets what it lacks from the other"

__attribute__((format(printf, 2, 3))) void say(struct sync_judgement *j, const char *format, ...);

/* ---- what a node is ---- */

static inline bool is_primary(const struct hello *h) { return h->role == ROLE_PRIMARY; }

static inline bool nobody_leads(const struct hello *own, const struct hello *peer)
{
    return !is_primary(own) && !is_primary(peer);
}

static inline bool both_lead(const struct hello *own, const struct hello *peer)
{
    return is_primary(own) && is_primary(peer);
}

/* ---- what a leg is ---- */

/* It has never been part of a pair, nor served alone: nothing on it was ever acknowledged. */
static inline bool is_new(const struct hello *h) { return h->history.count == 0; }

static inline bool is_bad(const struct hello *h) { return h->leg == LEG_FAILED || h->leg == LEG_NONE; }

static inline bool is_half(const struct hello *h) { return h->leg == LEG_SYNCING; }

/* By its own word; or by that of the other, who has heard of a failed flush that its own disk may not have recorded. */
static inline bool may_lack_what_was_flushed(const struct hello *a, const struct hello *b)
{
    return a->lost_power || b->peer_failed;
}

static inline bool may_lack_anything(const struct hello *a, const struct hello *b)
{
    return may_lack_what_was_flushed(a, b) || a->differs;
}

/* ---- what two legs are to each other ---- */

static inline bool knows(const struct hello *a, const struct hello *b) { return id_equal(a->peer_leg_id, b->leg_id); }

/* Equal histories prove nothing where a leg was replaced in between, and the new one's resync was not ended: it may
 * have got what the old one has not, and no entry tells of it. Who was paired with another since has what both had. */
static inline bool has_moved_on(const struct hello *a, const struct hello *from)
{
    return knows(from, a) && !knows(a, from);
}

/* The entry with which both histories of a pair begin: of the two legs' ids, so that both make the same. */
uint64_t pair_tag(const struct hello *a, const struct hello *b);

enum history_relation relation(const struct hello *own, const struct hello *peer);

/* By their histories, which may be all that is equal. */
bool are_equal(const struct hello *own, const struct hello *peer);

/* Does `a` have what `b` lacks? (rules_source.c) */
bool is_ahead(const struct hello *a, const struct hello *b);

/* ---- the rules ---- */

/* rules_identity.c */
extern const struct rule rule_other_version;
extern const struct rule rule_other_volume;
extern const struct rule rule_other_nodes;
extern const struct rule rule_window_too_small;
extern const struct rule rule_same_leg;
extern const struct rule rule_other_volume_id;
extern const struct rule rule_one_without_witness;
extern const struct rule rule_other_dead_after;

/* rules_sizes.c */
extern const struct rule rule_other_granule;
extern const struct rule rule_other_size;
extern const struct rule rule_block_too_large;

/* rules_serving.c */
extern const struct rule rule_deposed;
extern const struct rule rule_asked_to_take_over;
extern const struct rule rule_two_primaries;

/* rules_diskless.c */
extern const struct rule rule_only_leg_lost_power;
extern const struct rule rule_leg_failed;
extern const struct rule rule_through_the_peer;

/* rules_older_copy.c */
extern const struct rule rule_served_an_older_copy;
extern const struct rule rule_older_copy;
extern const struct rule rule_only_an_older_copy;

/* rules_apart.c */
extern const struct rule rule_split_brain;
extern const struct rule rule_unrelated;
extern const struct rule rule_forced_half_made;

/* rules_equal.c */
extern const struct rule rule_both_fresh;
extern const struct rule rule_replaced;
extern const struct rule rule_found_to_differ;
extern const struct rule rule_promoted_apart;
extern const struct rule rule_in_sync;

/* rules_source.c */
extern const struct rule rule_both_syncing;
extern const struct rule rule_syncing_is_newer;
extern const struct rule rule_primary_is_behind;
extern const struct rule rule_target_in_set;
extern const struct rule rule_own_is_ahead;
extern const struct rule rule_peer_is_ahead;
