/* A disk that was put back from an older copy (docs/METADATA.md, "Age"). */
#include "repl/sync/rule.h"

/* `b` has heard of a later state of this leg than it is in, and its node does not know yet. That of a new leg in the
 * place of another tells nothing; the one that `b` is paired with is no new one, whatever its disk says. */
static bool is_older_than_known(const struct hello *a, const struct hello *b)
{
    return a->age && a->age < b->peer_age && (!is_new(a) || knows(b, a)) && !is_bad(a);
}

/* It has served from there, or still does: what it has written since, the other one lacks. Where both have, that is a
 * split brain like any other. */
static bool has_served_older_copy(const struct hello *a, const struct hello *b)
{
    enum history_relation r = relation(a, b);
    if (!is_older_than_known(a, b) || is_half(a) || r == HISTORY_DIVERGED || r == HISTORY_UNRELATED)
        return false;
    return is_primary(a) || r == HISTORY_DESCENDANT;
}

static bool served_older_copy(const struct hello *own, const struct hello *peer)
{
    return has_served_older_copy(own, peer) || has_served_older_copy(peer, own);
}

static void explain_served_older_copy(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *old = has_served_older_copy(own, peer) ? own : peer;
    const struct hello *other = old == own ? peer : own;
    j->person_decides = true;
    say(j,
        "split brain: the disk of %s was put back from an older copy, and %s there since; %s has what was written "
        "after the copy was made. Stop what uses the volume on %s%s. Only a person can tell whose changes are to be "
        "given "
        "up: " RESOLVE_ADVICE,
        old->node, is_primary(old) ? "the volume is served" : "the volume was served", other->node, old->node,
        is_primary(old) ? ", and demote it" : "", own->volume);
}

const struct rule rule_served_an_older_copy = { "served-an-older-copy", served_older_copy, SYNC_REFUSE,
                                                explain_served_older_copy, .resolvable = true };

static bool older_copy(const struct hello *own, const struct hello *peer)
{
    enum history_relation r = relation(own, peer);
    bool apart = r == HISTORY_DIVERGED || r == HISTORY_UNRELATED;
    return !apart && (is_older_than_known(own, peer) || is_older_than_known(peer, own));
}

static void explain_older_copy(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *old = is_older_than_known(own, peer) ? own : peer;
    j->for_now = true;
    j->own_went_back = is_older_than_known(own, peer);
    say(j,
        "the disk of %s was put back from an older copy: %s has heard of a later state of that leg, which is marked "
        "now and gets everything from the other one",
        old->node, (old == own ? peer : own)->node);
}

const struct rule rule_older_copy = { "older-copy", older_copy, SYNC_REFUSE, explain_older_copy };

/* It is marked, and would be the source; or the other one may lack the last of what was acknowledged. Nobody has
 * everything. */
static bool has_older_copy_only(const struct hello *a, const struct hello *b)
{
    if (!a->went_back || is_half(a) || is_bad(a))
        return false;
    bool either_lacks = nobody_leads(a, b) && are_equal(a, b) && (b->went_back || may_lack_what_was_flushed(b, a));
    return is_ahead(a, b) || either_lacks;
}

static bool only_older_copy(const struct hello *own, const struct hello *peer)
{
    return has_older_copy_only(own, peer) || has_older_copy_only(peer, own);
}

static void explain_only_older_copy(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *old = has_older_copy_only(own, peer) ? own : peer;
    const struct hello *other = old == own ? peer : own;
    j->person_decides = true;
    say(j,
        "the disk of %s was put back from an older copy, and the leg of %s is %s: neither is known to have every "
        "acknowledged write. Only a person can tell which is to be kept: compare both, save what is wanted, then "
        "`lockstep promote --force` on that one",
        old->node, other->node,
        other->went_back        ? "an older copy, too"
        : is_half(other)        ? "inconsistent"
        : is_primary(other)     ? "older yet, and primary"
        : are_equal(old, other) ? "one that may lack the last of them"
                                : "older yet");
}

const struct rule rule_only_an_older_copy = { "only-an-older-copy", only_older_copy, SYNC_REFUSE,
                                              explain_only_older_copy };
