/* The handshake table. */
#include "repl/sync/handshake.h"

#include <stdarg.h>
#include <stdio.h>

#include "repl/base/units.h"

/* A peer that lets fewer or smaller changes through could not take the largest write. */
#define WINDOW_FRAMES_MIN 1
#define WINDOW_BYTES_MIN (1 * MIB)

/* What to do about legs that may differ. */
#define NO_RESYNC "This version has no resync: save the data, run `lockstep create --force` on both nodes, put it back"

typedef bool applies_fn(const struct hello *own, const struct hello *peer);
typedef void explain_fn(const struct hello *own, const struct hello *peer, struct sync_judgement *j);

struct rule {
    const char *name;
    applies_fn *applies;
    enum sync_verdict verdict;
    explain_fn *explain; /* of a refusal */
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
    say(j, "%s takes %u changes and %llu bytes at a time, which is less than one write can need", peer->node,
        peer->window_frames, (unsigned long long)peer->window_bytes);
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

static bool knows(const struct hello *a, const struct hello *b) { return id_equal(a->peer_leg_id, b->leg_id); }

static bool paired(const struct hello *own, const struct hello *peer) { return knows(own, peer) && knows(peer, own); }

/* Zeroes that belong to no pair; or already paired with this one: a crash can come between the two nodes' records of
 * the pairing. Before both have recorded it no session is up, so that nothing can have been acknowledged. */
static bool fresh_for(const struct hello *a, const struct hello *b)
{
    return knows(a, b) || (a->pristine && id_is_none(a->peer_leg_id));
}

static bool both_fresh(const struct hello *own, const struct hello *peer)
{
    return fresh_for(own, peer) && fresh_for(peer, own);
}

static bool other_volume_id(const struct hello *own, const struct hello *peer)
{
    return !id_is_none(own->volume_id) && !id_is_none(peer->volume_id) && !id_equal(own->volume_id, peer->volume_id) &&
           !both_fresh(own, peer);
}

static void explain_volume_id(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "the legs of %s and %s belong to different volumes that are both called %s", own->node, peer->node,
        own->volume);
}

static bool deposed(const struct hello *own, const struct hello *peer)
{
    return (own->role == ROLE_PRIMARY && peer->epoch > own->epoch) ||
           (peer->role == ROLE_PRIMARY && own->epoch > peer->epoch);
}

static void explain_deposed(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    j->own_deposed = own->role == ROLE_PRIMARY && peer->epoch > own->epoch;
    const struct hello *old = own->epoch < peer->epoch ? own : peer;
    const struct hello *new = own->epoch < peer->epoch ? peer : own;
    say(j, "%s is primary at epoch %llu, but %s has seen epoch %llu: %s was deposed and must not serve any longer",
        old->node, (unsigned long long)old->epoch, new->node, (unsigned long long)new->epoch, old->node);
}

static bool two_primaries(const struct hello *own, const struct hello *peer)
{
    return own->role == ROLE_PRIMARY && peer->role == ROLE_PRIMARY;
}

static void explain_two_primaries(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "split brain: both %s and %s are primary at epoch %llu. Neither acknowledges writes; demote one of them",
        own->node, peer->node, (unsigned long long)own->epoch);
}

static bool a_leg_failed(const struct hello *own, const struct hello *peer)
{
    return own->leg != LEG_UP_TO_DATE || peer->leg != LEG_UP_TO_DATE;
}

static void explain_leg_failed(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *bad = peer->leg != LEG_UP_TO_DATE ? peer : own;
    say(j, "the leg of %s is %s: after its disk is mended, `lockstep down` and `up` there, or make the leg anew",
        bad->node, leg_state_name(bad->leg));
}

static bool lost_power(const struct hello *own, const struct hello *peer)
{
    return own->lost_power || peer->lost_power;
}

static void explain_lost_power(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "%s went down without warning and may lack writes that were not flushed. " NO_RESYNC,
        peer->lost_power ? peer->node : own->node);
}

static bool unclean(const struct hello *own, const struct hello *peer)
{
    return own->unclean_primary || peer->unclean_primary;
}

static void explain_unclean(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "%s ended while it was primary, and the legs may differ where its last writes were in flight. " NO_RESYNC,
        peer->unclean_primary ? peer->node : own->node);
}

static bool other_size(const struct hello *own, const struct hello *peer)
{
    if (own->size_bytes && peer->size_bytes)
        return own->size_bytes != peer->size_bytes;
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

static bool always(const struct hello *own, const struct hello *peer)
{
    (void)own;
    (void)peer;
    return true;
}

static void explain_strangers(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    const struct hello *newer = knows(own, peer) || own->pristine ? own : peer;
    say(j, "the leg of %s is not the one that %s was paired with. " NO_RESYNC, newer->node,
        newer == own ? peer->node : own->node);
}

static const struct rule rules[] = {
    { "other-version", other_version, SYNC_REFUSE, explain_version },
    { "other-volume", other_volume_name, SYNC_REFUSE, explain_volume_name },
    { "other-nodes", other_nodes, SYNC_REFUSE, explain_nodes },
    { "window-too-small", window_too_small, SYNC_REFUSE, explain_window },
    { "same-leg", same_leg, SYNC_REFUSE, explain_same_leg },
    { "other-volume-id", other_volume_id, SYNC_REFUSE, explain_volume_id },
    { "deposed", deposed, SYNC_REFUSE, explain_deposed },
    { "two-primaries", two_primaries, SYNC_REFUSE, explain_two_primaries },
    { "leg-failed", a_leg_failed, SYNC_REFUSE, explain_leg_failed },
    { "lost-power", lost_power, SYNC_REFUSE, explain_lost_power },
    { "unclean-primary", unclean, SYNC_REFUSE, explain_unclean },
    { "other-size", other_size, SYNC_REFUSE, explain_size },
    { "block-too-large", block_too_large, SYNC_REFUSE, explain_block },
    { "paired", paired, SYNC_CONNECT, NULL },
    { "both-fresh", both_fresh, SYNC_PAIR, NULL },
    { "strangers", always, SYNC_REFUSE, explain_strangers },
};

static uint64_t agreed_size(const struct hello *own, const struct hello *peer)
{
    if (own->size_bytes || peer->size_bytes)
        return max_u64(own->size_bytes, peer->size_bytes);
    return min_u64(own->capacity_bytes, peer->capacity_bytes);
}

struct id sync_volume_id(struct id leg, struct id peer_leg)
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
        return id_is_none(known) ? sync_volume_id(own->leg_id, peer->leg_id) : known;
    }
    /* Two that were promoted alone and wrote nothing: the later epoch's name stays, else the larger one. */
    if (own->epoch != peer->epoch)
        return own->epoch > peer->epoch ? own->volume_id : peer->volume_id;
    return memcmp(&own->volume_id, &peer->volume_id, sizeof(struct id)) > 0 ? own->volume_id : peer->volume_id;
}

void sync_judge(const struct hello *own, const struct hello *peer, struct sync_judgement *out)
{
    *out = (struct sync_judgement) { 0 };
    for (unsigned i = 0; i < ARRAY_LEN(rules); i++) {
        if (!rules[i].applies(own, peer))
            continue;
        out->verdict = rules[i].verdict;
        out->rule = rules[i].name;
        if (out->verdict == SYNC_REFUSE) {
            rules[i].explain(own, peer, out);
            return;
        }
        out->size_bytes = agreed_size(own, peer);
        out->volume_id = agreed_volume_id(own, peer);
        out->epoch = max_u64(own->epoch, peer->epoch);
        return;
    }
}
