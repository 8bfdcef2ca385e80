/* A leg has failed: may a primary serve through the other one? */
#include "repl/sync/rule.h"

/* It had the only leg, and what it had not flushed is gone, though the application was told that it is written; or what
 * it has was never right: the primary's clients must not go on as if it were there. */
static bool lost_the_only_leg(const struct hello *p, const struct hello *other)
{
    return p->diskless && is_primary(p) && other->leg == LEG_UP_TO_DATE && may_lack_anything(other, p) &&
           knows(p, other) && knows(other, p);
}

static bool only_leg_lost_power(const struct hello *own, const struct hello *peer)
{
    return lost_the_only_leg(own, peer) || lost_the_only_leg(peer, own);
}

static void explain_only_leg(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *p = own->diskless ? own : peer;
    const struct hello *other = p == own ? peer : own;
    say(j,
        "the leg of %s has failed, and %s, which has the only other one, %s. Stop what uses the volume, demote %s with "
        "--force, and promote %s with --force",
        p->node, other->node,
        may_lack_what_was_flushed(other, p)
            ? "may lack acknowledged writes: it went down without warning, or a flush failed"
        : other->went_back ? "is an older copy that was put back"
                           : "was found by a verify to differ in some blocks",
        p->node, other->node);
}

const struct rule rule_only_leg_lost_power = { "only-leg-lost-power", only_leg_lost_power, SYNC_REFUSE,
                                               explain_only_leg };

/* `p`, a primary, has no leg, and `other` has all that was acknowledged: it has recorded that `p`'s leg is out, or was
 * in sync with it and is to record it. What `p` says of its history ends with that decree, which its own disk never
 * has. */
static bool serves_through(const struct hello *p, const struct hello *other)
{
    const struct history *h = &p->history;
    if (!p->diskless || !is_primary(p) || p->leg != LEG_FAILED || h->count == 0 || is_primary(other) ||
        other->leg != LEG_UP_TO_DATE || may_lack_anything(other, p) || !knows(p, other) || !knows(other, p) ||
        !id_equal(p->volume_id, other->volume_id))
        return false;
    if (history_relate(h, &other->history) == HISTORY_EQUAL)
        return true;
    /* Its bits do not matter, which may be left of a record that it began and did not end: it has what was
     * acknowledged. But those that it set while it served by itself are of writes that failed there, and that nobody
     * may find now. An epoch that it has seen may have been served at. */
    bool wrote = other->was_primary && other->dirty_bytes > 0;
    const struct history_entry *last = history_last(&other->history);
    return last && h->count > 1 && history_entry_equal(*last, h->entries[h->count - 2]) && !other->full && !wrote &&
           h->entries[h->count - 1].epoch > other->epoch;
}

static bool through(const struct hello *own, const struct hello *peer)
{
    return serves_through(own, peer) || serves_through(peer, own);
}

const struct rule rule_through_the_peer = { "through-the-peer", through, SYNC_THROUGH };

static bool a_leg_failed(const struct hello *own, const struct hello *peer)
{
    return (is_bad(own) || is_bad(peer)) && !through(own, peer);
}

static void explain_leg_failed(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *bad = is_bad(peer) ? peer : own;
    say(j, "the leg of %s is %s: after its disk is mended, `lockstep down` and `up` there, or make the leg anew",
        bad->node, leg_state_name(bad->leg));
}

const struct rule rule_leg_failed = { "leg-failed", a_leg_failed, SYNC_REFUSE, explain_leg_failed };
