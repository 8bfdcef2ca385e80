/* Sizes: of the volume, of the blocks that a disk takes, of what a bit of the bitmap stands for. */
#include "repl/sync/rule.h"

#include "repl/base/units.h"

static bool granules_differ(const struct hello *own, const struct hello *peer)
{
    return own->granule_bytes != peer->granule_bytes;
}

static void explain_granule(const struct hello *own, const struct hello *peer, struct sync_judgement *j)
{
    say(j, "the bitmap of %s has a bit for each %u bytes, that of %s for each %u: make one of the legs anew", own->node,
        own->granule_bytes, peer->node, peer->granule_bytes);
}

const struct rule rule_other_granule = { "other-granule", granules_differ, SYNC_REFUSE, explain_granule };

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

const struct rule rule_other_size = { "other-size", other_size, SYNC_REFUSE, explain_size };

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

const struct rule rule_block_too_large = { "block-too-large", block_too_large, SYNC_REFUSE, explain_block };
