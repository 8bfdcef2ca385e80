/* Each leg may have what the other one lacks, by their histories: split brain (docs/RECOVERY.md). */
#include "repl/sync/rule.h"

static bool diverged(const struct hello *own, const struct hello *peer)
{
    return relation(own, peer) == HISTORY_DIVERGED;
}

static void explain_diverged(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    int own_common = history_last_common(&own->history, &peer->history);
    int peer_common = history_last_common(&peer->history, &own->history);
    const struct history_entry *both = &own->history.entries[own_common];
    const struct history_entry *ours = &own->history.entries[own_common + 1];
    const struct history_entry *theirs = &peer->history.entries[peer_common + 1];
    say(j,
        "split brain: up to epoch %llu both legs are the same; then %s went on alone from epoch %llu, LSN %llu (now at "
        "epoch %llu), and %s from epoch %llu, LSN %llu (now at epoch %llu). Only a person can tell whose changes are "
        "to be given up: " RESOLVE_ADVICE,
        (unsigned long long)both->epoch, own->node, (unsigned long long)ours->epoch,
        (unsigned long long)ours->first_lsn, (unsigned long long)own->epoch, peer->node,
        (unsigned long long)theirs->epoch, (unsigned long long)theirs->first_lsn, (unsigned long long)peer->epoch,
        own->volume);
}

const struct rule rule_split_brain = { "split-brain", diverged, SYNC_REFUSE, explain_diverged, .resolvable = true };

static bool unrelated(const struct hello *own, const struct hello *peer)
{
    return relation(own, peer) == HISTORY_UNRELATED;
}

static void explain_unrelated(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j,
        "the legs of %s and %s have nothing in common, or went apart so long ago that it is forgotten. Only a person "
        "can tell which of them is to be given up: " RESOLVE_ADVICE,
        own->node, peer->node, own->volume);
}

const struct rule rule_unrelated = { "unrelated", unrelated, SYNC_REFUSE, explain_unrelated, .resolvable = true };

/* `a` was promoted by force in the middle of its resync from `b`: what it lacks, no bitmap tells since (`base`). By the
 * histories it is the newer leg; but who forced it may have named the loss of what he could not reach, not the end of
 * what has come back. */
static bool was_forced_half_made(const struct hello *a, const struct hello *b)
{
    bool b_is_untouched = is_new(b) && b->pristine;
    return relation(a, b) == HISTORY_DESCENDANT && history_entry_is_none(a->base) && knows(a, b) && knows(b, a) &&
           !is_half(a) && !is_half(b) && !b_is_untouched;
}

static bool forced_half_made(const struct hello *own, const struct hello *peer)
{
    return was_forced_half_made(own, peer) || was_forced_half_made(peer, own);
}

static void explain_forced_half_made(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *forced = was_forced_half_made(own, peer) ? own : peer;
    const struct hello *other = forced == own ? peer : own;
    say(j,
        "split brain: %s was promoted by force in the middle of its resync from %s, whose leg may have acknowledged "
        "writes that it lacks. Only a person can tell whose are to be given up: " RESOLVE_ADVICE,
        forced->node, other->node, own->volume);
}

const struct rule rule_forced_half_made = { "forced-half-made", forced_half_made, SYNC_REFUSE, explain_forced_half_made,
                                            .resolvable = true };
