/* The handshake table, and what a verdict brings. */
#include "repl/sync/decide.h"

#include <assert.h>
#include <string.h>

#include "repl/base/units.h"
#include "repl/sync/rule.h"

/* The first that applies decides: each takes for granted that none above it does. They refuse, where nothing else is
 * written beside them. */
static const struct rule *const rules[] = {
    &rule_other_version,
    &rule_other_volume,
    &rule_other_nodes,
    &rule_window_too_small,
    &rule_same_leg,
    &rule_other_granule,
    &rule_other_volume_id,
    &rule_deposed,
    &rule_asked_to_take_over,
    &rule_one_without_witness,
    &rule_two_primaries,
    &rule_other_dead_after,
    &rule_served_an_older_copy,
    &rule_older_copy,
    &rule_only_leg_lost_power,
    &rule_leg_failed,
    &rule_other_size,
    &rule_block_too_large,
    &rule_through_the_peer, /* SYNC_THROUGH */
    &rule_both_fresh,       /* SYNC_PAIR */
    &rule_split_brain,
    &rule_unrelated,
    &rule_both_syncing,
    &rule_syncing_is_newer,
    &rule_forced_half_made,
    &rule_only_an_older_copy,
    &rule_replaced,
    &rule_found_to_differ,
    &rule_promoted_apart,
    &rule_in_sync, /* SYNC_CONNECT */
    &rule_primary_is_behind,
    &rule_target_in_set,
    &rule_own_is_ahead,  /* SYNC_SOURCE */
    &rule_peer_is_ahead, /* SYNC_TARGET */
};

static uint64_t agreed_size(const struct hello *own, const struct hello *peer)
{
    if (own->size_bytes || peer->size_bytes)
        return max_u64(own->size_bytes, peer->size_bytes);
    return min_u64(own->capacity_bytes, peer->capacity_bytes);
}

/* Of two that are paired while neither has one. */
static struct id joined_id(struct id leg, struct id peer_leg)
{
    /* Symmetric, and as random as its parts. */
    for (unsigned i = 0; i < sizeof(leg.bytes); i++)
        leg.bytes[i] ^= peer_leg.bytes[i];
    return leg;
}

static struct id agreed_volume_id(const struct hello *own, const struct hello *peer)
{
    if (id_is_none(own->volume_id) || id_is_none(peer->volume_id)) {
        struct id known = id_is_none(own->volume_id) ? peer->volume_id : own->volume_id;
        return id_is_none(known) ? joined_id(own->leg_id, peer->leg_id) : known;
    }
    /* One of them is new, and takes the other's; else the later epoch's name stays, or the larger one. */
    if (is_new(own) != is_new(peer))
        return is_new(own) ? peer->volume_id : own->volume_id;
    if (own->epoch != peer->epoch)
        return own->epoch > peer->epoch ? own->volume_id : peer->volume_id;
    return memcmp(&own->volume_id, &peer->volume_id, sizeof(struct id)) > 0 ? own->volume_id : peer->volume_id;
}

static void make_pair(const struct hello *own, const struct hello *peer, struct sync_judgement *out)
{
    out->epoch = max_u64(out->epoch, 1);
    const struct history *known = is_new(own) ? &peer->history : &own->history;
    out->pair_entry = known->count ? known->entries[0] : (struct history_entry) { out->epoch, 1, pair_tag(own, peer) };
}

bool sync_bits_tell_apart(const struct hello *own, const struct hello *peer)
{
    return relation(own, peer) == HISTORY_DIVERGED && !is_half(own) && !own->full && knows(own, peer) &&
           knows(peer, own) && !history_entry_is_none(own->base) && history_holds(&peer->history, own->base);
}

static const struct rule *first_that_applies(const struct hello *own, const struct hello *peer)
{
    for (unsigned i = 0;; i++) {
        assert(i < ARRAY_LEN(rules)); /* of two legs one is ahead */
        if (rules[i]->applies(own, peer))
            return rules[i];
    }
}

void sync_decide(const struct hello *own, const struct hello *peer, struct sync_judgement *out)
{
    *out = (struct sync_judgement) { 0 };
    const struct rule *rule = first_that_applies(own, peer);
    out->verdict = rule->verdict;
    out->rule = rule->name;
    if (out->verdict == SYNC_REFUSE) {
        rule->explain(own, peer, out);
        out->resolvable = rule->resolvable;
        return;
    }
    if (out->verdict == SYNC_SOURCE)
        out->full = rule->full(own, peer);
    else if (out->verdict == SYNC_TARGET)
        out->full = rule->full(peer, own);
    out->size_bytes = agreed_size(own, peer);
    out->volume_id = agreed_volume_id(own, peer);
    out->epoch = max_u64(own->epoch, peer->epoch);
    if (out->verdict == SYNC_PAIR)
        make_pair(own, peer, out);
}
