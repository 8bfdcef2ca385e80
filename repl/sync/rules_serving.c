/* Who serves: at most one of the two, and nobody whom a later epoch has overtaken, or may yet (docs/FAILOVER.md). */
#include "repl/sync/rule.h"

#include "repl/base/units.h"

/* Of what `other` says that it has seen, nothing is of the register by whose decrees `a` acts. */
static bool is_none_of_its_register(const struct hello *a, const struct hello *other)
{
    bool other_asks_none = other->config.dead_after_us && other->config.witness == 0;
    return a->registered && a->config.dead_after_us && a->config.witness && other_asks_none;
}

static bool is_overtaken(const struct hello *primary, const struct hello *other)
{
    return is_primary(primary) && other->epoch > primary->epoch && !is_none_of_its_register(primary, other);
}

static bool deposed(const struct hello *own, const struct hello *peer)
{
    return is_overtaken(own, peer) || is_overtaken(peer, own);
}

static void explain_deposed(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    j->own_deposed = is_overtaken(own, peer);
    /* It judges the same, and steps down before it says hello again. One that still waits for the end of a swap of its
     * own comes back at the pace of any lost connection. */
    j->for_now = true;
    const struct hello *old = own->epoch < peer->epoch ? own : peer;
    const struct hello *new = own->epoch < peer->epoch ? peer : own;
    say(j, "%s is primary at epoch %llu, but %s has seen epoch %llu: %s was deposed and must not serve any longer",
        old->node, (unsigned long long)old->epoch, new->node, (unsigned long long)new->epoch, old->node);
}

const struct rule rule_deposed = { "deposed", deposed, SYNC_REFUSE, explain_deposed };

/* Rule no-session-while-asking: it may get its decree yet. */
static bool has_asked(const struct hello *a, const struct hello *b)
{
    return a->asked_epoch && a->asked_epoch >= max_u64(a->epoch, b->epoch);
}

static bool asked_to_take_over(const struct hello *own, const struct hello *peer)
{
    return has_asked(own, peer) || has_asked(peer, own);
}

static void explain_asked(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *asker = has_asked(own, peer) ? own : peer;
    j->for_now = true;
    j->peer_asked = has_asked(peer, own);
    say(j, "%s has asked the witness to take over from epoch %llu, and waits for what comes of it", asker->node,
        (unsigned long long)asker->asked_epoch);
}

const struct rule rule_asked_to_take_over = { "asked-to-take-over", asked_to_take_over, SYNC_REFUSE, explain_asked };

static void explain_two_primaries(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    j->two_primaries = true;
    say(j, "split brain: both %s and %s are primary at epoch %llu; demote one of them", own->node, peer->node,
        (unsigned long long)own->epoch);
}

const struct rule rule_two_primaries = { "two-primaries", both_lead, SYNC_REFUSE, explain_two_primaries };
