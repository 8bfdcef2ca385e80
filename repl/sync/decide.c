/* The handshake table. */
#include "repl/sync/decide.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "repl/base/units.h"

/* A peer that lets fewer or smaller changes through could not take the largest write. */
#define WINDOW_FRAMES_MIN 1
#define WINDOW_BYTES_MIN (1 * MIB)

#define DEAD_AFTER_FAR_TIMES 2 /* or more: too far apart, also where no register counts by it */

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

__attribute__((format(printf, 2, 3))) static void say(struct sync_judgement *j, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(j->text, sizeof(j->text), format, ap);
    va_end(ap);
}

static bool other_version(const struct hello *own, const struct hello *peer) { return own->version != peer->version; }

static void explain_version(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "%s speaks protocol version %u, %s version %u: bring both to the same release", peer->node, peer->version,
        own->node, own->version);
}

static bool other_volume_name(const struct hello *own, const struct hello *peer)
{
    return strcmp(own->volume, peer->volume) != 0;
}

static void explain_volume_name(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "the peer replicates volume %s, this node %s: check the paths in the configuration", peer->volume,
        own->volume);
}

static bool other_nodes(const struct hello *own, const struct hello *peer)
{
    return strcmp(own->node, peer->peer) != 0 || strcmp(own->peer, peer->node) != 0;
}

static void explain_nodes(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j,
        "the peer is %s and wants to talk to %s, where this node is %s and wants %s: the configuration must be the "
        "same on both",
        peer->node, peer->peer, own->node, own->peer);
}

static bool window_too_small(const struct hello *own, const struct hello *peer)
{
    return own->window_frames < WINDOW_FRAMES_MIN || peer->window_frames < WINDOW_FRAMES_MIN ||
           own->window_bytes < WINDOW_BYTES_MIN || peer->window_bytes < WINDOW_BYTES_MIN;
}

static void explain_window(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    (void)own;
    say(j,
        "%s takes %u changes and %llu bytes at a time, which is less than one write can need: bring both to the same "
        "release",
        peer->node, peer->window_frames, (unsigned long long)peer->window_bytes);
}

static bool same_leg(const struct hello *own, const struct hello *peer) { return id_equal(own->leg_id, peer->leg_id); }

static void explain_same_leg(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j,
        "%s and %s present the same leg: one backing is a copy of the other. Make the copy anew with `lockstep "
        "create --force`",
        own->node, peer->node);
}

/* Clients of a serving primary send changes as small as they were told they may. */
static bool serves_too_small(const struct hello *a, const struct hello *b)
{
    return a->served_block_bytes && a->served_block_bytes < b->block_bytes;
}

static bool block_too_large(const struct hello *own, const struct hello *peer)
{
    return serves_too_small(own, peer) || serves_too_small(peer, own);
}

static void explain_block(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *serving = serves_too_small(own, peer) ? own : peer;
    const struct hello *other = serving == own ? peer : own;
    say(j, "the disk of %s needs blocks of %u bytes, and %s serves the volume with %u: demote and promote %s once",
        other->node, other->block_bytes, serving->node, serving->served_block_bytes, serving->node);
}

static bool granules_differ(const struct hello *own, const struct hello *peer)
{
    return own->granule_bytes != peer->granule_bytes;
}

static void explain_granule(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "the bitmap of %s has a bit for each %u bytes, that of %s for each %u: make one of the legs anew", own->node,
        own->granule_bytes, peer->node, peer->granule_bytes);
}

/* ---- who belongs to whom ---- */

static bool knows(const struct hello *a, const struct hello *b) { return id_equal(a->peer_leg_id, b->leg_id); }

/* It has never been part of a pair, nor served alone: nothing on it was ever acknowledged. */
static bool is_new(const struct hello *h) { return h->history.count == 0; }

/* The entry with which both histories of a pair begin: of the two legs' ids, so that both make the same. */
static uint64_t pair_tag(const struct hello *a, const struct hello *b)
{
    uint64_t tag = 0;
    for (unsigned i = 0; i < sizeof(a->leg_id.bytes); i++)
        tag ^= (uint64_t)(a->leg_id.bytes[i] ^ b->leg_id.bytes[i]) << (i % 8 * 8);
    return tag ? tag : 1;
}

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

static bool other_volume_id(const struct hello *own, const struct hello *peer)
{
    return !id_is_none(own->volume_id) && !id_is_none(peer->volume_id) && !id_equal(own->volume_id, peer->volume_id) &&
           !is_new(own) && !is_new(peer);
}

static void explain_volume_id(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j,
        "the legs of %s and %s belong to different volumes that are both called %s: check `backing`, or make one of "
        "them anew with `lockstep create --force`, which then gets everything from the other",
        own->node, peer->node, own->volume);
}

/* ---- who is primary ---- */

static bool is_merely_paired(const struct hello *a, const struct hello *b)
{
    return knows(a, b) && a->history.count == 1 && a->history.entries[0].tag == pair_tag(a, b);
}

static enum history_relation relation(const struct hello *own, const struct hello *peer)
{
    enum history_relation r = history_relate(&own->history, &peer->history);
    if (r != HISTORY_UNRELATED)
        return r;
    /* Who recorded the pairing, and was part of nothing after it, has nothing that the other lacks, although that one
     * went on without recording it: they were never in sync, whatever has been begun on that leg since. */
    if (is_merely_paired(own, peer))
        return HISTORY_ANCESTOR;
    return is_merely_paired(peer, own) ? HISTORY_DESCENDANT : r;
}

static bool is_primary(const struct hello *h) { return h->role == ROLE_PRIMARY; }

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

static bool two_primaries(const struct hello *own, const struct hello *peer)
{
    return is_primary(own) && is_primary(peer);
}

static void explain_two_primaries(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    j->two_primaries = true;
    say(j, "split brain: both %s and %s are primary at epoch %llu; demote one of them", own->node, peer->node,
        (unsigned long long)own->epoch);
}

/* ---- what the legs are ---- */

static bool is_bad(const struct hello *h) { return h->leg == LEG_FAILED || h->leg == LEG_NONE; }

/* By its own word; or by that of the other, who has heard of a failed flush that its own disk may not have recorded. */
static bool may_lack_what_was_flushed(const struct hello *a, const struct hello *b)
{
    return a->lost_power || b->peer_failed;
}

static bool may_lack_anything(const struct hello *a, const struct hello *b)
{
    return may_lack_what_was_flushed(a, b) || a->differs;
}

/* By their histories, which may be all that is equal. */
static bool are_equal(const struct hello *own, const struct hello *peer)
{
    return own->history.count > 0 && relation(own, peer) == HISTORY_EQUAL && own->leg != LEG_SYNCING &&
           peer->leg != LEG_SYNCING;
}

static bool nobody_leads(const struct hello *own, const struct hello *peer)
{
    return !is_primary(own) && !is_primary(peer);
}

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

/* ---- a disk that was put back from an older copy (docs/METADATA.md, "Age") ---- */

static bool is_half(const struct hello *h) { return h->leg == LEG_SYNCING; }

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
        "now "
        "and gets everything from the other one",
        old->node, (old == own ? peer : own)->node);
}

static bool is_ahead(const struct hello *a, const struct hello *b);

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

/* Of the volume's name. */
#define RESOLVE_ADVICE                                                                                                 \
    "`lockstep resolve %s --discard local` there keeps them in a file first, and gets what it lacks from the other"

static void explain_served_older_copy(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *old = has_served_older_copy(own, peer) ? own : peer;
    const struct hello *other = old == own ? peer : own;
    j->person_decides = true;
    say(j,
        "split brain: the disk of %s was put back from an older copy, and %s there since; %s has what was written "
        "after "
        "the copy was made. Stop what uses the volume on %s%s. Only a person can tell whose changes are to be given "
        "up: " RESOLVE_ADVICE,
        old->node, is_primary(old) ? "the volume is served" : "the volume was served", other->node, old->node,
        is_primary(old) ? ", and demote it" : "", own->volume);
}

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

/* The one that would be the target is primary. */
static bool primary_is_behind(const struct hello *own, const struct hello *peer);

static void explain_primary_is_behind(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *behind = is_primary(own) ? own : peer;
    const struct hello *other = behind == own ? peer : own;
    say(j, "%s is primary, but its leg lacks what that of %s has: demote it, and promote %s", behind->node, other->node,
        other->node);
}

/* ---- which way the data flows ---- */

static bool needs_nothing(const struct hello *h)
{
    return !h->full && h->dirty_bytes == 0 && !h->lost_power && !h->differs && !h->peer_failed;
}

static bool in_sync(const struct hello *own, const struct hello *peer)
{
    /* Two that never recorded being a pair may each hold what was begun before. */
    return are_equal(own, peer) && knows(own, peer) && knows(peer, own) && needs_nothing(own) && needs_nothing(peer);
}

/* Equal histories prove nothing where a leg was replaced in between, and the new one's resync was not ended: it may
 * have got what the old one has not, and no entry tells of it. Who was paired with another since has what both had. */
static bool has_moved_on(const struct hello *a, const struct hello *from) { return knows(from, a) && !knows(a, from); }

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

/* Does `a` have what `b` lacks? */
static bool is_ahead(const struct hello *a, const struct hello *b)
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

static bool own_is_ahead(const struct hello *own, const struct hello *peer) { return is_ahead(own, peer); }
static bool peer_is_ahead(const struct hello *own, const struct hello *peer) { return is_ahead(peer, own); }

static bool primary_is_behind(const struct hello *own, const struct hello *peer)
{
    return (is_primary(own) && is_ahead(peer, own)) || (is_primary(peer) && is_ahead(own, peer));
}

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

static bool other_size(const struct hello *own, const struct hello *peer)
{
    /* A resize was cut off between the two nodes' records of it: the other has room, which reads as zeroes. */
    if (own->size_bytes && peer->size_bytes) {
        const struct hello *smaller = own->size_bytes < peer->size_bytes ? own : peer;
        return own->size_bytes != peer->size_bytes &&
               smaller->capacity_bytes < max_u64(own->size_bytes, peer->size_bytes);
    }
    return own->size_bytes > peer->capacity_bytes || peer->size_bytes > own->capacity_bytes;
}

static void explain_size(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j,
        "the volume has %llu bytes on %s and %llu on %s: set the same `size` on both, no larger than either backing "
        "allows",
        (unsigned long long)(own->size_bytes ? own->size_bytes : own->capacity_bytes), own->node,
        (unsigned long long)(peer->size_bytes ? peer->size_bytes : peer->capacity_bytes), peer->node);
}

/* ---- with a register (docs/FAILOVER.md) ---- */

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

/* With a register the one counts by it how long it may answer reads, and the other one when it may take over. Without
 * one it only has to be longer than what comes between two of the other's heartbeats, of which there are four in its
 * own: it can be changed on one node after the other. */
static bool other_dead_after(const struct hello *own, const struct hello *peer)
{
    uint64_t a_us = own->config.dead_after_us, b_us = peer->config.dead_after_us;
    if (a_us == 0 || b_us == 0)
        return false;
    bool counts = own->config.witness || peer->config.witness;
    return counts ? a_us != b_us : max_u64(a_us, b_us) / min_u64(a_us, b_us) >= DEAD_AFTER_FAR_TIMES;
}

static void explain_dead_after(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "dead-after is %g s on %s and %g s on %s: the configuration must be the same on both",
        (double)own->config.dead_after_us / 1e6, own->node, (double)peer->config.dead_after_us / 1e6, peer->node);
}

/* Who asks no register takes part in none of its decrees. Which one both ask, their addresses do not tell: where one of
 * them asks another one, that is older than what it knows. */
static bool only_one_asks(const struct hello *own, const struct hello *peer)
{
    bool both_say = own->config.dead_after_us && peer->config.dead_after_us;
    return both_say && (own->config.witness == 0) != (peer->config.witness == 0);
}

static void explain_only_one_asks(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *with = own->config.witness ? own : peer;
    j->two_primaries = two_primaries(own, peer);
    say(j, "%s has a witness in its configuration, and %s has none: the configuration must be the same on both",
        with->node, (with == own ? peer : own)->node);
}

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

static const struct rule rules[] = {
    { "other-version", other_version, SYNC_REFUSE, explain_version, NULL },
    { "other-volume", other_volume_name, SYNC_REFUSE, explain_volume_name, NULL },
    { "other-nodes", other_nodes, SYNC_REFUSE, explain_nodes, NULL },
    { "window-too-small", window_too_small, SYNC_REFUSE, explain_window, NULL },
    { "same-leg", same_leg, SYNC_REFUSE, explain_same_leg, NULL },
    { "other-granule", granules_differ, SYNC_REFUSE, explain_granule, NULL },
    { "other-volume-id", other_volume_id, SYNC_REFUSE, explain_volume_id, NULL },
    { "deposed", deposed, SYNC_REFUSE, explain_deposed, NULL },
    { "asked-to-take-over", asked_to_take_over, SYNC_REFUSE, explain_asked, NULL },
    { "one-without-witness", only_one_asks, SYNC_REFUSE, explain_only_one_asks, NULL },
    { "two-primaries", two_primaries, SYNC_REFUSE, explain_two_primaries, NULL },
    { "other-dead-after", other_dead_after, SYNC_REFUSE, explain_dead_after, NULL },
    { "served-an-older-copy", served_older_copy, SYNC_REFUSE, explain_served_older_copy, NULL, true },
    { "older-copy", older_copy, SYNC_REFUSE, explain_older_copy, NULL },
    { "only-leg-lost-power", only_leg_lost_power, SYNC_REFUSE, explain_only_leg, NULL },
    { "leg-failed", a_leg_failed, SYNC_REFUSE, explain_leg_failed, NULL },
    { "other-size", other_size, SYNC_REFUSE, explain_size, NULL },
    { "block-too-large", block_too_large, SYNC_REFUSE, explain_block, NULL },
    { "through-the-peer", through, SYNC_THROUGH, NULL, NULL },
    { "both-fresh", both_fresh, SYNC_PAIR, NULL, NULL },
    { "split-brain", diverged, SYNC_REFUSE, explain_diverged, NULL, true },
    { "unrelated", unrelated, SYNC_REFUSE, explain_unrelated, NULL, true },
    { "both-syncing", both_half, SYNC_REFUSE, explain_both_half, NULL },
    { "syncing-is-newer", half_is_newer, SYNC_REFUSE, explain_half_is_newer, NULL },
    { "forced-half-made", forced_half_made, SYNC_REFUSE, explain_forced_half_made, NULL, true },
    { "only-an-older-copy", only_older_copy, SYNC_REFUSE, explain_only_older_copy, NULL },
    { "replaced", was_replaced, SYNC_REFUSE, explain_replaced, NULL, true },
    { "found-to-differ", found_to_differ, SYNC_REFUSE, explain_found_to_differ, NULL, true },
    { "promoted-apart", promoted_apart, SYNC_REFUSE, explain_promoted_apart, NULL, true },
    { "in-sync", in_sync, SYNC_CONNECT, NULL, NULL },
    { "primary-is-behind", primary_is_behind, SYNC_REFUSE, explain_primary_is_behind, NULL },
    { "target-in-set", target_in_set, SYNC_REFUSE, explain_target_in_set, NULL },
    { "own-is-ahead", own_is_ahead, SYNC_SOURCE, NULL, bits_do_not_tell },
    { "peer-is-ahead", peer_is_ahead, SYNC_TARGET, NULL, bits_do_not_tell },
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

void sync_decide(const struct hello *own, const struct hello *peer, struct sync_judgement *out)
{
    *out = (struct sync_judgement) { 0 };
    for (unsigned i = 0; i < ARRAY_LEN(rules); i++) {
        if (!rules[i].applies(own, peer))
            continue;
        out->verdict = rules[i].verdict;
        out->rule = rules[i].name;
        if (out->verdict == SYNC_REFUSE) {
            rules[i].explain(own, peer, out);
            out->resolvable = rules[i].resolvable;
            return;
        }
        if (out->verdict == SYNC_SOURCE)
            out->full = rules[i].full(own, peer);
        else if (out->verdict == SYNC_TARGET)
            out->full = rules[i].full(peer, own);
        out->size_bytes = agreed_size(own, peer);
        out->volume_id = agreed_volume_id(own, peer);
        out->epoch = max_u64(own->epoch, peer->epoch);
        if (out->verdict == SYNC_PAIR)
            make_pair(own, peer, out);
        return;
    }
    assert(!"of two legs one is ahead");
}
