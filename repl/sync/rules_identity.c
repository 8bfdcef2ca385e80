/* Who speaks: the node, the volume, the leg and the program that this node is to talk to, and configured as it is? */
#include "repl/sync/rule.h"

#include <string.h>

#include "repl/base/units.h"

static bool other_version(const struct hello *own, const struct hello *peer) { return own->version != peer->version; }

static void explain_version(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "%s speaks protocol version %u, %s version %u: bring both to the same release", peer->node, peer->version,
        own->node, own->version);
}

const struct rule rule_other_version = { "other-version", other_version, SYNC_REFUSE, explain_version };

static bool other_volume_name(const struct hello *own, const struct hello *peer)
{
    return strcmp(own->volume, peer->volume) != 0;
}

static void explain_volume_name(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "the peer replicates volume %s, this node %s: check the paths in the configuration", peer->volume,
        own->volume);
}

const struct rule rule_other_volume = { "other-volume", other_volume_name, SYNC_REFUSE, explain_volume_name };

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

const struct rule rule_other_nodes = { "other-nodes", other_nodes, SYNC_REFUSE, explain_nodes };

/* A peer that lets fewer or smaller changes through could not take the largest write. */
#define WINDOW_FRAMES_MIN 1
#define WINDOW_BYTES_MIN (1 * MIB)

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

const struct rule rule_window_too_small = { "window-too-small", window_too_small, SYNC_REFUSE, explain_window };

static bool same_leg(const struct hello *own, const struct hello *peer) { return id_equal(own->leg_id, peer->leg_id); }

static void explain_same_leg(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j,
        "%s and %s present the same leg: one backing is a copy of the other. Make the copy anew with `lockstep "
        "create --force`",
        own->node, peer->node);
}

const struct rule rule_same_leg = { "same-leg", same_leg, SYNC_REFUSE, explain_same_leg };

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

const struct rule rule_other_volume_id = { "other-volume-id", other_volume_id, SYNC_REFUSE, explain_volume_id };

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
    j->two_primaries = both_lead(own, peer);
    say(j, "%s has a witness in its configuration, and %s has none: the configuration must be the same on both",
        with->node, (with == own ? peer : own)->node);
}

const struct rule rule_one_without_witness = { "one-without-witness", only_one_asks, SYNC_REFUSE,
                                               explain_only_one_asks };

#define DEAD_AFTER_FAR_TIMES 2 /* or more: too far apart, also where no register counts by it */

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

const struct rule rule_other_dead_after = { "other-dead-after", other_dead_after, SYNC_REFUSE, explain_dead_after };
