/* Equal legs, and those whose histories are equal and prove less than that. */
#include "repl/sync/rule.h"

/* Zeroes that belong to no pair; or already paired with this one, and no more than that: a crash can come between the
 * two nodes' records of the pairing. Before both have recorded it no session is up, so that nothing was acknowledged.
 */
static bool is_fresh_for(const struct hello *a, const struct hello *b)
{
    if (a->full || a->dirty_bytes || a->differs || a->leg != LEG_UP_TO_DATE)
        return false;
    if (is_new(a))
        return knows(a, b) || (a->pristine && id_is_none(a->peer_leg_id));
    return knows(a, b) && a->history.count == 1 && a->history.entries[0].tag == pair_tag(a, b);
}

static bool both_fresh(const struct hello *own, const struct hello *peer)
{
    bool pair_already = !is_new(own) && !is_new(peer);
    return !pair_already && is_fresh_for(own, peer) && is_fresh_for(peer, own);
}

const struct rule rule_both_fresh = { "both-fresh", both_fresh, SYNC_PAIR };

static bool was_replaced(const struct hello *own, const struct hello *peer)
{
    bool strangers = !knows(own, peer) && !knows(peer, own);
    /* A primary is the source in any case: what was acknowledged is on its leg. */
    bool either_may_lack = nobody_leads(own, peer) && ((has_moved_on(own, peer) && may_lack_anything(own, peer)) ||
                                                       (has_moved_on(peer, own) && may_lack_anything(peer, own)));
    return are_equal(own, peer) && (strangers || either_may_lack);
}

static void explain_replaced(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j,
        "the legs of %s and %s were in sync once, but were paired with others since, and neither is known to have all "
        "that the other has. Only a person can tell whose content is to be given up: " RESOLVE_ADVICE,
        own->node, peer->node, own->volume);
}

const struct rule rule_replaced = { "replaced", was_replaced, SYNC_REFUSE, explain_replaced, .resolvable = true };

/* `a` may lack the last of what was acknowledged. `b` has that, and blocks that are not as they should be: neither is
 * to overwrite the other. */
static bool each_has_what_the_other_lacks(const struct hello *a, const struct hello *b)
{
    return may_lack_what_was_flushed(a, b) && !may_lack_what_was_flushed(b, a) && b->differs;
}

static bool found_to_differ(const struct hello *own, const struct hello *peer)
{
    /* A primary is the source in any case: what was acknowledged is on its leg. */
    return are_equal(own, peer) && nobody_leads(own, peer) &&
           (each_has_what_the_other_lacks(own, peer) || each_has_what_the_other_lacks(peer, own));
}

static void explain_found_to_differ(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *lacks = each_has_what_the_other_lacks(own, peer) ? own : peer;
    const struct hello *differs = lacks == own ? peer : own;
    j->person_decides = true;
    say(j,
        "%s went down without warning, or a flush failed there, and may lack the last acknowledged writes; %s has "
        "them, but a verify found that it differs in some blocks. Neither is overwritten until a person decides: "
        "compare both, save what is wanted, then `lockstep promote --force` on the one to keep, and the other gets "
        "everything from it",
        lacks->node, differs->node);
}

const struct rule rule_found_to_differ = { "found-to-differ", found_to_differ, SYNC_REFUSE, explain_found_to_differ,
                                           .resolvable = true };

/* At one epoch only one node serves, unless operators promoted both while neither saw the other. What both have
 * acknowledged before, each may lack a part of by now, and nothing tells which of them lacks less. */
static bool promoted_apart(const struct hello *own, const struct hello *peer)
{
    return are_equal(own, peer) && nobody_leads(own, peer) && own->served_epoch > 0 &&
           own->served_epoch == peer->served_epoch && may_lack_what_was_flushed(own, peer) &&
           may_lack_what_was_flushed(peer, own);
}

static void explain_promoted_apart(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    j->person_decides = true;
    say(j,
        "%s and %s were both promoted at epoch %llu, apart from each other, and each may lack acknowledged writes: it "
        "went down without warning, or a flush failed. Neither is overwritten until a person decides: compare both, "
        "save what is wanted, then `lockstep promote --force` on the one to keep, and the other gets everything from "
        "it",
        own->node, peer->node, (unsigned long long)own->served_epoch);
}

const struct rule rule_promoted_apart = { "promoted-apart", promoted_apart, SYNC_REFUSE, explain_promoted_apart,
                                          .resolvable = true };

static bool needs_nothing(const struct hello *h)
{
    return !h->full && h->dirty_bytes == 0 && !h->lost_power && !h->differs && !h->peer_failed;
}

static bool in_sync(const struct hello *own, const struct hello *peer)
{
    /* Two that never recorded being a pair may each hold what was begun before. */
    return are_equal(own, peer) && knows(own, peer) && knows(peer, own) && needs_nothing(own) && needs_nothing(peer);
}

const struct rule rule_in_sync = { "in-sync", in_sync, SYNC_CONNECT };
