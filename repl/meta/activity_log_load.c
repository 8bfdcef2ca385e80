/* Reading the activity log as a crash left it: which blocks may be trusted, and which extents they name. */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "repl/meta/activity_log_internal.h"

#define NEVER_WRITTEN UINT64_MAX
#define DAMAGED 0

/* What the state of the log is rebuilt from: the blocks [oldest, newest], all of one shape. */
struct al_run {
    uint64_t oldest, newest;
    uint32_t slots, context_slots;
    bool from_empty; /* the log was empty before the oldest: not every slot need be named */
};

static uint32_t index_of(const struct activity_log *al, uint64_t sequence)
{
    return (uint32_t)(sequence % al->options.ring_blocks);
}

static bool extents_fit(const struct activity_log *al, const struct al_block *b)
{
    uint64_t extents = (al->options.size_bytes + al->options.extent_bytes - 1) / al->options.extent_bytes;
    for (uint32_t i = 0; i < b->update_count; i++)
        if (b->updates[i].extent >= extents)
            return false;
    for (uint32_t i = 0; i < AL_CONTEXT_MAX; i++)
        if (b->context[i] != AL_NO_EXTENT && b->context[i] >= extents)
            return false;
    return true;
}

/* A good block, of this leg, in its own place. */
static bool read_block(const struct activity_log *al, const uint8_t *ring, uint32_t index, struct al_block *b, int *why)
{
    *why = al_block_decode(&ring[(size_t)index * AL_BLOCK_BYTES], b, NULL);
    return !*why && id_equal(b->owner, al->options.owner) && b->extent_bytes == al->options.extent_bytes &&
           index_of(al, b->sequence) == index && extents_fit(al, b) &&
           al_cycle(b->slots, b->context_slots) + AL_RING_SPARE <= al->options.ring_blocks;
}

/* Looks at the whole ring. Returns the highest sequence of a good block; 0: there is none. */
static uint64_t survey(struct activity_log *al, const uint8_t *ring)
{
    uint64_t newest = 0;
    struct al_block b;
    for (uint32_t i = 0; i < al->options.ring_blocks; i++) {
        int why;
        bool good = read_block(al, ring, i, &b, &why);
        al->ring_sequences[i] = good ? b.sequence : why == -ENOENT ? NEVER_WRITTEN : DAMAGED;
        if (good)
            newest = max_u64(newest, b.sequence);
    }
    return newest;
}

/* One block at a time is written, each after the one before it was stable: so only the one after the newest can be
 * torn. If the one after that is damaged, too, then this is no torn write, and both may have been good once. */
static bool tail_is_torn_only(const struct activity_log *al, uint64_t newest)
{
    return al->ring_sequences[index_of(al, newest + 1)] != DAMAGED ||
           al->ring_sequences[index_of(al, newest + 2)] != DAMAGED;
}

static bool slot_seen(struct activity_log *al, uint32_t slot)
{
    uint64_t bit = UINT64_C(1) << slot % 64;
    bool before = al->seen[slot / 64] & bit;
    al->seen[slot / 64] |= bit;
    return before;
}

/* From the newest to the oldest: what is said of a slot first holds. */
static bool apply(struct activity_log *al, const struct al_block *b)
{
    for (uint32_t i = 0; i < b->update_count; i++) {
        const struct al_update *u = &b->updates[i];
        if (!slot_seen(al, u->slot) && !al_place(al, u->slot, u->extent))
            return false;
    }
    struct al_window w = al_window_of(b->sequence, b->slots, b->context_slots);
    for (uint32_t i = 0; i < w.count; i++) {
        if (slot_seen(al, w.first + i) || b->context[i] == AL_NO_EXTENT)
            continue;
        if (!al_place(al, w.first + i, b->context[i]))
            return false;
    }
    return true;
}

static int damaged(struct err *err, uint64_t sequence, const char *what)
{
    return err_set(err, -EBADMSG, "activity log block %llu %s: what was being written at the crash is not known",
                   (unsigned long long)sequence, what);
}

static int rebuild(struct activity_log *al, const uint8_t *ring, const struct al_run *run, struct err *err)
{
    al_reset(al, run->slots, run->context_slots);
    memset(al->seen, 0, (run->slots / 64 + 1) * sizeof(*al->seen));
    for (uint64_t s = run->newest; s >= run->oldest; s--) {
        struct al_block b;
        int why;
        if (al->ring_sequences[index_of(al, s)] != s || !read_block(al, ring, index_of(al, s), &b, &why))
            return damaged(err, s, "is missing");
        if (b.slots != run->slots || b.context_slots != run->context_slots || !apply(al, &b))
            return damaged(err, s, "contradicts the others");
    }
    for (uint32_t slot = 0; slot < run->slots && !run->from_empty; slot++)
        if (!slot_seen(al, slot))
            return damaged(err, run->newest, "and those before it leave a slot out");
    return 0;
}

static void run_of(const struct activity_log *al, const uint8_t *ring, uint64_t from, uint64_t newest,
                   struct al_run *run)
{
    struct al_block b;
    int why;
    bool good = read_block(al, ring, index_of(al, newest), &b, &why);
    assert(good);
    uint32_t cycle = al_cycle(b.slots, b.context_slots);
    *run = (struct al_run) { .newest = newest, .slots = b.slots, .context_slots = b.context_slots };
    run->from_empty = newest - from < cycle;
    run->oldest = run->from_empty ? from : newest - cycle + 1;
}

/* Slots are in no order: give the extents out as they come. */
static void tell(const struct activity_log *al, void (*found)(void *ctx, struct range range), void *ctx)
{
    for (uint32_t i = 0; i < al->slots; i++)
        if (al->slot[i].extent != AL_NO_EXTENT)
            found(ctx, al_extent_range(al, al->slot[i].extent));
}

/* The newest block may be what the last daemon had on its way, or could not write, and be in the disk's cache only.
 * Nobody may count on what it alone tells of, before a block that is known to be stable says the same. That is the next
 * one, and not the same written once more: what a cut write spoils must not be what was stable before. */
static void tell_newest_again(struct activity_log *al, const uint8_t *ring, uint64_t newest)
{
    struct al_block b;
    int why;
    bool good = read_block(al, ring, index_of(al, newest), &b, &why);
    assert(good);
    for (uint32_t i = 0; i < b.update_count; i++)
        al_tell_again(al, b.updates[i].slot);
}

int al_load(struct activity_log *al, const uint8_t *ring, uint64_t from_sequence,
            void (*found)(void *ctx, struct range range), void *ctx, struct err *err)
{
    uint64_t from = max_u64(from_sequence, 1);
    assert(from <= AL_SEQUENCE_MAX);
    uint64_t highest = survey(al, ring), newest = max_u64(highest, from - 1);
    al_reset(al, al->options.slots, al->options.context_slots);
    int r = tail_is_torn_only(al, newest) ? 0 : damaged(err, newest + 1, "is damaged, and the one after it, too");
    if (!r && newest >= from) {
        struct al_run run;
        run_of(al, ring, from, newest, &run);
        r = rebuild(al, ring, &run, err);
    }
    if (r) {
        /* Beyond whatever the damaged blocks were: none of them can count again. */
        al_reset(al, al->options.slots, al->options.context_slots);
        al->sequence = newest + 1 + al->options.ring_blocks;
        return r;
    }
    al->sequence = newest + 1;
    al->unsealed = newest >= from;
    if (newest >= from)
        tell_newest_again(al, ring, newest);
    tell(al, found, ctx);
    return 0;
}
