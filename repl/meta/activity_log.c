/* The hot extents in memory: who is in them, which may be given up, and who gets their slots. */
#include "repl/meta/activity_log.h"
#include "repl/base/resident.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repl/meta/activity_log_internal.h"

/* ---- Lists and look-up ---- */

static void list_take(struct activity_log *al, uint32_t i)
{
    struct al_slot *s = &al->slot[i];
    struct al_head *h = &al->lists[s->list];
    if (s->prev == AL_NONE)
        h->first = s->next;
    else
        al->slot[s->prev].next = s->next;
    if (s->next == AL_NONE)
        h->last = s->prev;
    else
        al->slot[s->next].prev = s->prev;
    h->count--;
}

static void list_put(struct activity_log *al, uint32_t i, enum al_list to)
{
    struct al_slot *s = &al->slot[i];
    struct al_head *h = &al->lists[to];
    s->list = (uint8_t)to;
    s->next = AL_NONE;
    s->prev = h->last;
    if (h->last == AL_NONE)
        h->first = i;
    else
        al->slot[h->last].next = i;
    h->last = i;
    h->count++;
}

static void list_put_first(struct activity_log *al, uint32_t i, enum al_list to)
{
    struct al_slot *s = &al->slot[i];
    struct al_head *h = &al->lists[to];
    s->list = (uint8_t)to;
    s->prev = AL_NONE;
    s->next = h->first;
    if (h->first == AL_NONE)
        h->last = i;
    else
        al->slot[h->first].prev = i;
    h->first = i;
    h->count++;
}

static void list_move(struct activity_log *al, uint32_t i, enum al_list to)
{
    list_take(al, i);
    list_put(al, i, to);
}

static uint32_t *bucket(const struct activity_log *al, uint32_t extent)
{
    /* Fibonacci hashing: neighbours, which are what applications write, go to different buckets. */
    return &al->hash[(extent * 2654435769u) >> (32 - al->hash_bits)];
}

static uint32_t find(const struct activity_log *al, uint32_t extent)
{
    for (uint32_t i = *bucket(al, extent); i; i = al->slot[i - 1].chain)
        if (al->slot[i - 1].extent == extent)
            return i - 1;
    return AL_NONE;
}

static void hash_add(struct activity_log *al, uint32_t i)
{
    uint32_t *head = bucket(al, al->slot[i].extent);
    al->slot[i].chain = *head;
    *head = i + 1;
}

static void hash_remove(struct activity_log *al, uint32_t i)
{
    uint32_t *at = bucket(al, al->slot[i].extent);
    while (*at != i + 1) {
        assert(*at);
        at = &al->slot[*at - 1].chain;
    }
    *at = al->slot[i].chain;
}

static struct al_span span_of(const struct activity_log *al, struct range range)
{
    assert(range.length_bytes > 0 && range_fits(range, al->options.size_bytes));
    struct al_span s = { (uint32_t)(range.offset_bytes >> al->extent_shift),
                         (uint32_t)((range_end(range) - 1) >> al->extent_shift) + 1 };
    assert(s.end - s.first <= al_change_extents_max(al));
    return s;
}

static bool span_holds(struct al_span s, uint32_t extent) { return extent >= s.first && extent < s.end; }

struct range al_extent_range(const struct activity_log *al, uint32_t extent)
{
    uint64_t offset = (uint64_t)extent * al->options.extent_bytes;
    assert(offset < al->options.size_bytes);
    return (struct range) { offset, min_u64(al->options.extent_bytes, al->options.size_bytes - offset) };
}

static bool is_hot(const struct al_slot *s) { return s->list >= AL_BUSY; }

/* ---- Open and close ---- */

static uint32_t hash_bits_for(uint32_t slots)
{
    uint32_t bits = 1;
    while (1u << bits < slots)
        bits++;
    return bits;
}

void al_reset(struct activity_log *al, uint32_t slots, uint32_t context_slots)
{
    assert(slots > 0 && slots <= al->capacity && !al->commit_in_flight);
    al->slots = slots;
    al->context_slots = context_slots;
    al->hash_bits = hash_bits_for(slots);
    memset(al->hash, 0, sizeof(*al->hash) << al->hash_bits);
    for (unsigned i = 0; i < AL_LISTS; i++)
        al->lists[i] = (struct al_head) { AL_NONE, AL_NONE, 0 };
    for (uint32_t i = 0; i < slots; i++) {
        al->slot[i] = (struct al_slot) { .extent = AL_NO_EXTENT };
        list_put(al, i, AL_FREE);
    }
    al->update_count = 0;
    al->may_be_there = false;
    al->unsealed = false;
    al->wanted_count = 0;
    al->has_first = false;
    al->draining_count = 0;
}

static bool shape_is_possible(const struct al_options *o)
{
    bool extent = o->extent_bytes && (o->extent_bytes & (o->extent_bytes - 1)) == 0;
    return extent && o->slots <= AL_SLOTS_MAX && o->context_slots <= AL_CONTEXT_MAX &&
           al_cycle(o->slots, o->context_slots) + AL_RING_SPARE <= o->ring_blocks;
}

struct activity_log *al_open(const struct al_options *options, struct err *err)
{
    struct al_options o = *options;
    o.slots = o.slots ? o.slots : AL_SLOTS_DEFAULT;
    o.ring_blocks = o.ring_blocks ? o.ring_blocks : AL_RING_BLOCKS;
    o.context_slots = o.context_slots ? o.context_slots : AL_CONTEXT_MAX;
    assert(shape_is_possible(&o));
    struct activity_log *al = calloc(1, sizeof(*al));
    if (al) {
        /* What is not used is not touched, and costs no memory. */
        al->capacity = (uint32_t)min_u64((o.ring_blocks - AL_RING_SPARE) * UINT64_C(1) * AL_CONTEXT_MAX, AL_SLOTS_MAX);
        al->slot = resident_calloc(al->capacity, sizeof(*al->slot));
        al->hash = resident_calloc(1u << hash_bits_for(al->capacity), sizeof(*al->hash));
        al->seen = resident_calloc(al->capacity / 64 + 1, sizeof(*al->seen));
        al->ring_sequences = resident_calloc(o.ring_blocks, sizeof(*al->ring_sequences));
        if (al->slot && al->hash && al->seen && al->ring_sequences) {
            al->options = o;
            al->extent_shift = (uint32_t)__builtin_ctz(o.extent_bytes);
            al->sequence = 1;
            al_reset(al, o.slots, o.context_slots);
            al_set_size(al, o.size_bytes);
            return al;
        }
    }
    al_close(al);
    err_set(err, -ENOMEM, "out of memory for the activity log");
    return NULL;
}

void al_close(struct activity_log *al)
{
    if (!al)
        return;
    free(al->slot);
    free(al->hash);
    free(al->seen);
    free(al->ring_sequences);
    free(al);
}

void al_set_size(struct activity_log *al, uint64_t size_bytes)
{
    assert(size_bytes >= al->options.size_bytes && size_bytes / al->options.extent_bytes < AL_NO_EXTENT);
    al->options.size_bytes = size_bytes;
}

bool al_place(struct activity_log *al, uint32_t slot, uint32_t extent)
{
    assert(al->slot[slot].list == AL_FREE);
    if (find(al, extent) != AL_NONE)
        return false;
    al->slot[slot].extent = extent;
    hash_add(al, slot);
    list_move(al, slot, AL_FLUSHED);
    return true;
}

void al_tell_again(struct activity_log *al, uint32_t slot)
{
    if (al->slot[slot].list == AL_COMMITTING) /* a block that names it twice, which none of ours does */
        return;
    assert(al->update_count < AL_UPDATES_MAX);
    list_move(al, slot, AL_COMMITTING);
    al->updates[al->update_count++] = (struct al_replaced) { .slot = slot, .evicted = AL_NO_EXTENT };
}

uint64_t al_next_sequence(const struct activity_log *al) { return al->sequence; }

uint64_t al_clear(struct activity_log *al)
{
    assert(!al->lists[AL_BUSY].count);
    /* Void, too, like all that were written. */
    al->sequence += al->may_be_there;
    al_reset(al, al->options.slots, al->options.context_slots);
    return al->sequence;
}

/* ---- Who waits longest ---- */

/* Extents of the span that have no slot. */
static uint32_t missing(const struct activity_log *al, struct al_span s)
{
    uint32_t n = 0;
    for (uint32_t e = s.first; e < s.end; e++)
        n += find(al, e) == AL_NONE;
    return n;
}

static bool kept_for_first(const struct activity_log *al, uint32_t slot)
{
    return al->has_first && span_holds(al->first, al->slot[slot].extent);
}

/* Slots that the next commit can have. */
static uint32_t available(const struct activity_log *al)
{
    uint32_t n = al->lists[AL_FREE].count + al->lists[AL_FLUSHED].count;
    for (uint32_t e = al->first.first; al->has_first && e < al->first.end; e++) {
        uint32_t i = find(al, e);
        n -= i != AL_NONE && al->slot[i].list == AL_FLUSHED;
    }
    return n;
}

static void stop_draining(struct activity_log *al)
{
    for (uint32_t i = 0; i < al->draining_count; i++)
        al->slot[al->draining[i]].draining = false;
    al->draining_count = 0;
}

static void first_is_over(struct activity_log *al)
{
    al->has_first = false;
    stop_draining(al);
}

static bool is_first(const struct activity_log *al, struct al_span s)
{
    return al->has_first && al->first.first == s.first && al->first.end == s.end;
}

/* The oldest asks first in each round. So if somebody else asks, and it has not: it was given up. */
static void settle_first(struct activity_log *al, struct al_span asking)
{
    if (al->has_first && !is_first(al, asking) && al->first_round != al->round)
        first_is_over(al);
    if (!al->has_first) {
        al->has_first = true;
        al->first = asking;
        al->first_stuck = false;
    }
    if (is_first(al, asking))
        al->first_round = al->round;
}

/* Extents that are always in use would keep the first one waiting for ever: so many of them are closed, until their
 * changes are over and flushed. */
static void drain_for_first(struct activity_log *al)
{
    uint32_t need = missing(al, al->first), have = available(al);
    for (uint32_t i = 0; i < al->draining_count; i++)
        have += al->slot[al->draining[i]].list != AL_FLUSHED;
    static const enum al_list from[] = { AL_UNFLUSHED, AL_BUSY };
    for (unsigned l = 0; l < ARRAY_LEN(from); l++) {
        for (uint32_t i = al->lists[from[l]].first; i != AL_NONE && have < need; i = al->slot[i].next) {
            if (al->slot[i].draining || kept_for_first(al, i))
                continue;
            assert(al->draining_count < AL_UPDATES_MAX);
            al->slot[i].draining = true;
            al->draining[al->draining_count++] = i;
            have++;
        }
    }
}

/* ---- Changes ---- */

uint32_t al_change_extents_max(const struct activity_log *al) { return (uint32_t)min_u64(AL_UPDATES_MAX, al->slots); }

static void want(struct activity_log *al, uint32_t extent)
{
    for (uint32_t i = 0; i < al->wanted_count; i++)
        if (al->wanted[i] == extent)
            return;
    if (al->wanted_count < AL_UPDATES_MAX) /* else it is told again when it asks again */
        al->wanted[al->wanted_count++] = extent;
}

static enum al_verdict refuse(struct activity_log *al, struct al_span s)
{
    settle_first(al, s);
    bool draining = false;
    uint32_t cold = 0;
    for (uint32_t e = s.first; e < s.end; e++) {
        uint32_t i = find(al, e);
        if (i == AL_NONE) {
            cold++;
            want(al, e);
            continue;
        }
        draining |= al->slot[i].draining;
        if (al->slot[i].list == AL_FLUSHED && !al->slot[i].draining)
            list_move(al, i, AL_FLUSHED); /* used soon: not to be given up for another of its own */
    }
    bool stuck = cold ? available(al) == 0 : draining;
    if (stuck && is_first(al, s) && !al->first_stuck) {
        al->first_stuck = true;
        al->first_stuck_generation = al->generation;
    }
    return stuck ? AL_STUCK : AL_COLD;
}

enum al_verdict al_enter(struct activity_log *al, struct range range)
{
    struct al_span s = span_of(al, range);
    uint32_t in[AL_UPDATES_MAX];
    uint32_t n = 0;
    for (uint32_t e = s.first; e < s.end; e++) {
        uint32_t i = find(al, e);
        if (i == AL_NONE || !is_hot(&al->slot[i]) || al->slot[i].draining)
            return refuse(al, s);
        in[n++] = i;
    }
    for (uint32_t k = 0; k < n; k++) {
        if (al->slot[in[k]].uses++ == 0)
            list_move(al, in[k], AL_BUSY);
        assert(al->slot[in[k]].uses);
    }
    if (is_first(al, s))
        first_is_over(al);
    return AL_HOT;
}

void al_leave(struct activity_log *al, struct range range)
{
    struct al_span s = span_of(al, range);
    for (uint32_t e = s.first; e < s.end; e++) {
        uint32_t i = find(al, e);
        assert(i != AL_NONE && al->slot[i].list == AL_BUSY && al->slot[i].uses > 0);
        if (--al->slot[i].uses)
            continue;
        al->slot[i].generation = al->generation;
        list_move(al, i, AL_UNFLUSHED);
    }
}

bool al_covers(const struct activity_log *al, struct range range)
{
    assert(range.length_bytes > 0 && range_fits(range, al->options.size_bytes));
    uint32_t bytes = al->options.extent_bytes;
    for (uint64_t e = range.offset_bytes / bytes; e <= (range_end(range) - 1) / bytes; e++) {
        uint32_t i = find(al, (uint32_t)e);
        if (i == AL_NONE || !is_hot(&al->slot[i]))
            return false;
    }
    return true;
}

/* ---- Commits ---- */

/* A slot for another extent: a free one, or that which was used least recently; AL_NONE: there is none. */
static uint32_t take_slot(struct activity_log *al, uint32_t *evicted)
{
    *evicted = AL_NO_EXTENT;
    uint32_t i = al->lists[AL_FREE].first;
    if (i == AL_NONE) {
        i = al->lists[AL_FLUSHED].first;
        while (i != AL_NONE && kept_for_first(al, i))
            i = al->slot[i].next;
        if (i == AL_NONE)
            return AL_NONE;
        *evicted = al->slot[i].extent;
        hash_remove(al, i);
        al->evictions++;
    }
    return i;
}

static void take_in(struct activity_log *al, uint32_t extent)
{
    uint32_t evicted;
    if (al->update_count == AL_UPDATES_MAX || find(al, extent) != AL_NONE)
        return;
    uint32_t i = take_slot(al, &evicted);
    if (i == AL_NONE)
        return;
    al->slot[i].extent = extent;
    hash_add(al, i);
    list_move(al, i, AL_COMMITTING);
    al->updates[al->update_count++] = (struct al_replaced) { i, evicted };
}

/* A draining slot that was given up is not draining any more. */
static void forget_drained(struct activity_log *al)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < al->draining_count; i++) {
        uint32_t slot = al->draining[i];
        if (al->slot[slot].list == AL_COMMITTING)
            al->slot[slot].draining = false;
        else
            al->draining[kept++] = slot;
    }
    al->draining_count = kept;
}

static void fill_commit(const struct activity_log *al, struct al_commit *c)
{
    struct al_block b = {
        .sequence = al->sequence,
        .owner = al->options.owner,
        .extent_bytes = al->options.extent_bytes,
        .slots = al->slots,
        .context_slots = al->context_slots,
        .update_count = al->update_count,
    };
    c->index = (uint32_t)(al->sequence % al->options.ring_blocks);
    c->sequence = al->sequence;
    c->evicted_count = 0;
    for (uint32_t i = 0; i < al->update_count; i++) {
        const struct al_replaced *u = &al->updates[i];
        b.updates[i] = (struct al_update) { u->slot, al->slot[u->slot].extent };
        if (u->evicted != AL_NO_EXTENT)
            c->evicted[c->evicted_count++] = al_extent_range(al, u->evicted);
    }
    struct al_window w = al_window_of(b.sequence, b.slots, b.context_slots);
    for (uint32_t i = 0; i < w.count; i++)
        b.context[i] = al->slot[w.first + i].extent;
    al_block_encode(&b, c->block);
}

bool al_commit_begin(struct activity_log *al, struct al_commit *c)
{
    if (al->commit_in_flight)
        return false;
    if (al->update_count == 0) {
        if (al->has_first && al->first_round != al->round)
            first_is_over(al);
        for (uint32_t e = al->first.first; al->has_first && e < al->first.end; e++)
            take_in(al, e);
        for (uint32_t i = 0; i < al->wanted_count; i++)
            take_in(al, al->wanted[i]);
        if (al->update_count == 0)
            return false;
        al->wanted_count = 0; /* who still waits asks again when this is done */
        forget_drained(al);
    }
    al->commit_in_flight = true;
    fill_commit(al, c);
    return true;
}

bool al_seal_begin(struct activity_log *al, struct al_commit *c)
{
    if (al->commit_in_flight || !al->unsealed)
        return false;
    al->commit_in_flight = true;
    fill_commit(al, c);
    return true;
}

void al_commit_done(struct activity_log *al, bool ok)
{
    assert(al->commit_in_flight);
    al->commit_in_flight = false;
    al->may_be_there = !ok;
    if (!ok)
        return;
    al->unsealed = al->update_count > 0;
    for (uint32_t i = 0; i < al->update_count; i++)
        list_move(al, al->updates[i].slot, AL_FLUSHED);
    al->update_count = 0;
    al->sequence++;
    al->commits++;
    al->round++;
}

/* ---- Flushes ---- */

uint32_t al_flush_begin(struct activity_log *al) { return al->generation++; }

/* Begun now, a flush may be over before what is left has run out. Not much earlier: where flushes are what everybody
 * waits for, each should free as many slots as it can. */
static bool runs_low(const struct activity_log *al)
{
    return available(al) <= al->slots / 8 && al->lists[AL_UNFLUSHED].count >= al->slots / 2;
}

bool al_wants_flush(const struct activity_log *al)
{
    if (runs_low(al))
        return true;
    if (al->commit_in_flight || al->update_count > 0 || available(al) > 0)
        return false;
    return al->wanted_count > 0 || (al->has_first && missing(al, al->first) > 0);
}

void al_flush_done(struct activity_log *al, uint32_t generation)
{
    for (uint32_t i; (i = al->lists[AL_UNFLUSHED].first) != AL_NONE;) {
        if ((int32_t)(al->slot[i].generation - generation) > 0)
            break;
        list_take(al, i);
        if (al->slot[i].draining)
            list_put_first(al, i, AL_FLUSHED);
        else
            list_put(al, i, AL_FLUSHED);
    }
    if (al->has_first && al->first_stuck && (int32_t)(generation - al->first_stuck_generation) >= 0)
        drain_for_first(al);
    al->round++;
}

struct al_view al_view(const struct activity_log *al)
{
    uint32_t busy = al->lists[AL_BUSY].count, unflushed = al->lists[AL_UNFLUSHED].count;
    return (struct al_view) {
        .slots = al->slots,
        .hot = busy + unflushed + al->lists[AL_FLUSHED].count,
        .busy = busy,
        .unflushed = unflushed,
        .commits = al->commits,
        .evictions = al->evictions,
    };
}
