/* Which way the data flows: who is the source, may it be that, and do the bitmaps tell what the target lacks? */
#include "repl/sync/rule.h"

#include <string.h>

/* Of legs with equal histories, whose is the source: the one to whom nothing worse has happened. */
static bool leads_among_equals(const struct hello *a, const struct hello *b)
{
    /* Neither was part of anything yet, but one may have served while the first resync was under way. The other was
     * never written to: it has nothing to give, whoever promoted it. */
    if (is_new(a) && a->pristine != b->pristine)
        return b->pristine;
    if (is_primary(a) != is_primary(b))
        return is_primary(a);
    if (has_moved_on(a, b) != has_moved_on(b, a))
        return has_moved_on(a, b);
    bool a_lacks = may_lack_what_was_flushed(a, b), b_lacks = may_lack_what_was_flushed(b, a);
    if (a_lacks != b_lacks)
        return b_lacks;
    if (a->differs != b->differs)
        return b->differs;
    /* Who served last has what the last readers saw. Not who has seen the higher epoch: that may be the other one's. */
    if (a->served_epoch != b->served_epoch)
        return a->served_epoch > b->served_epoch;
    if (a->was_primary != b->was_primary)
        return a->was_primary;
    return memcmp(&a->leg_id, &b->leg_id, sizeof(struct id)) > 0;
}

bool is_ahead(const struct hello *a, const struct hello *b)
{
    if (is_half(a) != is_half(b))
        return is_half(b);
    switch (relation(a, b)) {
    case HISTORY_DESCENDANT: return true;
    case HISTORY_ANCESTOR: return false;
    case HISTORY_EQUAL: return leads_among_equals(a, b);
    case HISTORY_DIVERGED:
    case HISTORY_UNRELATED: break;
    }
    return false;
}

/* What is half made can only be a target, of a leg that has all that it has been part of. */
static bool both_half(const struct hello *own, const struct hello *peer) { return is_half(own) && is_half(peer); }

static void explain_both_half(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j,
        "neither leg is whole: a resync was under way on both %s and %s, or each was given up for the other (and has "
        "all that it had yet). Promote with --force the one that is to be kept, and make the other anew if it is "
        "refused then, too",
        own->node, peer->node);
}

const struct rule rule_both_syncing = { "both-syncing", both_half, SYNC_REFUSE, explain_both_half };

/* A leg on which a resync was under way, and the one that it came from is older now: nobody has all that it had. */
static bool half_is_newer(const struct hello *own, const struct hello *peer)
{
    const struct hello *half = is_half(own) ? own : peer;
    const struct hello *other = half == own ? peer : own;
    return is_half(half) && history_relate(&half->history, &other->history) == HISTORY_DESCENDANT;
}

static void explain_half_is_newer(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *half = is_half(own) ? own : peer;
    say(j,
        "the leg of %s is inconsistent, and that of %s is older than what it was before its resync: neither has "
        "everything. Promote with --force the one whose loss can be borne",
        half->node, half == own ? peer->node : own->node);
}

const struct rule rule_syncing_is_newer = { "syncing-is-newer", half_is_newer, SYNC_REFUSE, explain_half_is_newer };

/* The one that would be the target is primary. */
static bool primary_is_behind(const struct hello *own, const struct hello *peer)
{
    return (is_primary(own) && is_ahead(peer, own)) || (is_primary(peer) && is_ahead(own, peer));
}

static void explain_primary_is_behind(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *behind = is_primary(own) ? own : peer;
    const struct hello *other = behind == own ? peer : own;
    say(j, "%s is primary, but its leg lacks what that of %s has: demote it, and promote %s", behind->node, other->node,
        other->node);
}

const struct rule rule_primary_is_behind = { "primary-is-behind", primary_is_behind, SYNC_REFUSE,
                                             explain_primary_is_behind };

/* Rule out-before-target. */
static bool counts_target_in(const struct hello *from, const struct hello *to)
{
    /* Who has not heard of the register yet does so by this. */
    bool registered = from->registered || (to->registered && to->epoch >= from->epoch);
    return registered && from->peer_in_sync && is_ahead(from, to);
}

static bool target_in_set(const struct hello *own, const struct hello *peer)
{
    return counts_target_in(own, peer) || counts_target_in(peer, own);
}

static void explain_target_in_set(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *to = counts_target_in(own, peer) ? peer : own;
    const struct hello *from = to == peer ? own : peer;
    j->for_now = true;
    j->target_in_set = to == peer;
    /* Who may lack something itself does not put the other one out: what that may lose, a person says. */
    if (may_lack_anything(from, to))
        say(j,
            "%s is to get what it lacks, and has to leave the in-sync set first. %s may lack something, too, and does "
            "not see to that by itself: `lockstep promote %s --force` on %s does, and says what may be lost",
            to->node, from->node, from->volume, from->node);
    else
        say(j, "%s is to get what it lacks, and has to leave the in-sync set first", to->node);
}

const struct rule rule_target_in_set = { "target-in-set", target_in_set, SYNC_REFUSE, explain_target_in_set };

/* The source's bitmap knows all that this target lacks only if the target is the leg that it is about, and has been
 * part of what was when the bitmap began. A target whose resync was interrupted remembers which bitmap it went by. */
static bool bits_do_not_tell(const struct hello *from, const struct hello *to)
{
    if (from->full || to->full || !knows(from, to) || !knows(to, from))
        return true;
    if (relation(from, to) == HISTORY_EQUAL)
        return false;
    if (is_half(to) && !history_entry_is_none(to->base) && history_entry_equal(to->base, from->base))
        return false;
    return history_entry_is_none(from->base) || !history_holds(&to->history, from->base);
}

static bool own_is_ahead(const struct hello *own, const struct hello *peer) { return is_ahead(own, peer); }

const struct rule rule_own_is_ahead = { "own-is-ahead", own_is_ahead, SYNC_SOURCE, .full = bits_do_not_tell };

static bool peer_is_ahead(const struct hello *own, const struct hello *peer) { return is_ahead(peer, own); }

const struct rule rule_peer_is_ahead = { "peer-is-ahead", peer_is_ahead, SYNC_TARGET, .full = bits_do_not_tell };
