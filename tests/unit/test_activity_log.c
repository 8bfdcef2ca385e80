/* The activity log: whatever a crash leaves of it, every extent that may differ is found, and nobody waits for ever. */
#include "tests/unit/unit.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/base/prng.h"
#include "repl/meta/activity_log.h"

#define EXTENT 4096u
#define EXTENTS_MAX 4096u
#define RING_MAX 64u
#define CHANGES 12u

static struct id owner(uint8_t which)
{
    struct id id;
    memset(&id, which, sizeof(id));
    return id;
}

/* ---- A model: the disk's ring and bitmap, the changes, and what must be found after a crash ---- */

enum phase { IDLE, WAITS, HOT };

struct change {
    enum phase phase;
    uint32_t first, count; /* extents */
    uint64_t asked;        /* order of first asking */
    uint32_t rounds;       /* commits and flushes that went by since */
};

struct world {
    struct prng prng;
    struct al_options options;
    struct activity_log *al;
    uint64_t from; /* al_from of the superblock */
    uint32_t extents;
    uint8_t ring[RING_MAX][AL_BLOCK_BYTES];
    bool mem_bits[EXTENTS_MAX], disk_bits[EXTENTS_MAX]; /* of the bitmap; one an extent is enough here */
    uint32_t uses[EXTENTS_MAX];
    bool unflushed[EXTENTS_MAX], covered[EXTENTS_MAX]; /* `covered`: by the flush under way */
    bool found[EXTENTS_MAX];
    struct change changes[CHANGES];
    uint64_t asks;
    struct al_commit commit;
    bool committing;
    bool failed;       /* the last write: the leg has, too, and has no clean end */
    bool loses_cached; /* else a disk without a cache */
    struct {
        bool may_go; /* with the power: a block that nobody was told to be stable */
        uint32_t index;
        uint8_t before[AL_BLOCK_BYTES]; /* what is there then */
    } cached;
    bool flushing;
    uint32_t flush_generation;
    uint32_t waited_max;
    unsigned stuck, evictions, torn, hot, seals, gone, gaps;
};

static struct range extents_range(uint32_t first, uint32_t count)
{
    return (struct range) { (uint64_t)first * EXTENT, (uint64_t)count * EXTENT };
}

static void take_found(void *ctx, struct range r)
{
    struct world *w = ctx;
    assert_int_equal(r.offset_bytes % EXTENT, 0);
    assert_int_equal(r.length_bytes, EXTENT);
    assert_false(w->found[r.offset_bytes / EXTENT]);
    w->found[r.offset_bytes / EXTENT] = true;
}

static void ask(struct world *w, struct change *c)
{
    enum al_verdict v = al_enter(w->al, extents_range(c->first, c->count));
    w->stuck += v == AL_STUCK;
    if (v != AL_HOT)
        return;
    w->hot++;
    c->phase = HOT;
    if (c->rounds > w->waited_max)
        w->waited_max = c->rounds;
    for (uint32_t e = c->first; e < c->first + c->count; e++) {
        w->uses[e]++;
        w->unflushed[e] = true;
        w->covered[e] = false;
        w->mem_bits[e] |= prng_chance(&w->prng, 300000); /* alone: bits in memory only, as the log covers them */
    }
}

/* The oldest first. */
static void ask_again(struct world *w)
{
    uint64_t after = 0;
    for (;;) {
        struct change *next = NULL;
        for (unsigned i = 0; i < CHANGES; i++) {
            struct change *c = &w->changes[i];
            if (c->phase == WAITS && c->asked > after && (!next || c->asked < next->asked))
                next = c;
        }
        if (!next)
            return;
        after = next->asked;
        next->rounds++;
        ask(w, next);
    }
}

static void leave(struct world *w, struct change *c)
{
    al_leave(w->al, extents_range(c->first, c->count));
    for (uint32_t e = c->first; e < c->first + c->count; e++) {
        assert_true(w->uses[e] > 0);
        w->uses[e]--;
        w->covered[e] = false; /* by the flush under way: it began before */
    }
    c->phase = IDLE;
}

static void flush_begin(struct world *w)
{
    w->flush_generation = al_flush_begin(w->al);
    w->flushing = true;
    for (uint32_t e = 0; e < w->extents; e++)
        w->covered[e] = w->uses[e] == 0;
}

static void flush_done(struct world *w)
{
    for (uint32_t e = 0; e < w->extents; e++)
        if (w->covered[e])
            w->unflushed[e] = false;
    w->flushing = false;
    al_flush_done(w->al, w->flush_generation);
    ask_again(w);
}

static void commit_begin(struct world *w)
{
    if (w->committing || !al_commit_begin(w->al, &w->commit))
        return;
    w->committing = true;
    assert_true(w->commit.index < w->options.ring_blocks);
    for (uint32_t i = 0; i < w->commit.evicted_count; i++) {
        uint32_t e = (uint32_t)(w->commit.evicted[i].offset_bytes / EXTENT);
        assert_true(w->uses[e] == 0 && !w->unflushed[e]);
        assert_false(al_covers(w->al, w->commit.evicted[i]));
        w->disk_bits[e] = w->mem_bits[e]; /* first its bitmap pages */
        w->evictions++;
    }
}

static void keep_in_cache(struct world *w)
{
    uint32_t index = w->commit.index;
    if (!w->cached.may_go || w->cached.index != index)
        memcpy(w->cached.before, w->ring[index], AL_BLOCK_BYTES);
    w->cached.may_go = true;
    w->cached.index = index;
    memcpy(w->ring[index], w->commit.block, AL_BLOCK_BYTES);
}

enum cut { KILLED, FAILED, POWER_LOST };

/* What a write that a crash or an error cut off leaves behind. */
static void cut_off(struct world *w, enum cut by)
{
    uint8_t *place = w->ring[w->commit.index];
    switch (prng_below(&w->prng, by == KILLED ? 2 : 4)) {
    case 0: break;
    case 1:
        if (by == POWER_LOST)
            memcpy(place, w->commit.block, AL_BLOCK_BYTES);
        else
            keep_in_cache(w);
        break;
    case 2: /* any of its sectors */
        for (unsigned s = 0; s < AL_BLOCK_BYTES; s += 512)
            if (prng_chance(&w->prng, 500000))
                memcpy(place + s, w->commit.block + s, 512);
        w->torn++;
        break;
    default:
        for (unsigned i = 0; i < AL_BLOCK_BYTES; i++)
            place[i] = (uint8_t)prng_next(&w->prng);
        w->torn++;
    }
}

static void commit_done(struct world *w, bool ok)
{
    if (ok) {
        memcpy(w->ring[w->commit.index], w->commit.block, AL_BLOCK_BYTES);
        w->cached.may_go = w->cached.may_go && w->cached.index != w->commit.index;
    } else {
        cut_off(w, FAILED);
    }
    w->committing = false;
    w->failed = !ok;
    al_commit_done(w->al, ok);
    if (ok)
        ask_again(w);
}

/* False: it is not believed, as a block went with the power after a later one was stable, or torn: all bits are set,
 * and on disk ("full" in the superblock). */
static bool open_log(struct world *w)
{
    struct err err = { 0 };
    w->al = al_open(&w->options, &err);
    assert_non_null(w->al);
    memset(w->found, 0, sizeof(w->found));
    if (al_load(w->al, w->ring[0], w->from, take_found, w, &err) == 0)
        return true;
    assert_true(w->gone > 0);
    w->gaps++;
    memset(w->disk_bits, true, sizeof(w->disk_bits));
    memset(w->ring, 0, sizeof(w->ring));
    w->from = al_next_sequence(w->al);
    return false;
}

static void comes_back(struct world *w, bool clean)
{
    al_close(w->al);
    bool believed = open_log(w);
    uint32_t found = 0, hot = 0;
    for (uint32_t e = 0; e < w->extents; e++) {
        bool must = w->uses[e] > 0 || w->unflushed[e], covers = al_covers(w->al, extents_range(e, 1));
        assert_true(!must || clean || w->found[e] || !believed);
        assert_true(!w->mem_bits[e] || w->found[e] || w->disk_bits[e]);
        assert_true(!covers || w->found[e]);
        found += w->found[e];
        hot += covers;
        /* What was found and is not hot has its bit because the last daemon may have let somebody in; if it has not,
         * then the bit stands for nothing and may get lost. */
        bool stands = covers || must || w->mem_bits[e];
        w->mem_bits[e] = w->disk_bits[e] || (w->found[e] && stands);
        w->uses[e] = 0;
        w->unflushed[e] = false;
    }
    assert_true(found <= al_view(w->al).slots && (!clean || found == 0));
    assert_int_equal(hot, al_view(w->al).hot);
    memset(w->changes, 0, sizeof(w->changes));
    w->committing = false;
    w->failed = false;
    w->flushing = false;
}

static void crash(struct world *w)
{
    enum cut by = prng_chance(&w->prng, 500000) ? POWER_LOST : KILLED;
    if (by == POWER_LOST) {
        if (w->cached.may_go && w->loses_cached) {
            memcpy(w->ring[w->cached.index], w->cached.before, AL_BLOCK_BYTES);
            w->gone++;
        }
        w->cached.may_go = false;
    }
    if (w->committing)
        cut_off(w, by);
    comes_back(w, false);
}

/* Drained and flushed, then al_from in the superblock; the next one may be configured otherwise. */
static void clean_end(struct world *w)
{
    for (unsigned i = 0; i < CHANGES; i++) {
        if (w->changes[i].phase == HOT)
            leave(w, &w->changes[i]);
        w->changes[i].phase = IDLE;
    }
    if (w->committing)
        commit_done(w, true);
    memcpy(w->disk_bits, w->mem_bits, sizeof(w->disk_bits));
    memset(w->unflushed, 0, sizeof(w->unflushed));
    uint64_t next = al_clear(w->al);
    assert_int_equal(next, al_next_sequence(w->al));
    w->from = next;
    if (prng_chance(&w->prng, 500000))
        comes_back(w, true);
}

static void one_step(struct world *w)
{
    struct change *c = &w->changes[prng_below(&w->prng, CHANGES)];
    uint64_t what = prng_below(&w->prng, 1000);
    if (what < 600 && c->phase == IDLE) {
        uint32_t most = al_change_extents_max(w->al);
        assert(most > 0 && most <= w->extents);
        uint32_t count = 1 + (uint32_t)(prng_chance(&w->prng, 200000) ? prng_below(&w->prng, most) : 0);
        assert(count <= w->extents);
        uint32_t first = (uint32_t)prng_below(&w->prng, (uint64_t)w->extents - count + 1);
        *c = (struct change) { WAITS, first, count, ++w->asks, 0 };
        ask(w, c);
    } else if (what < 600 && c->phase == HOT) {
        leave(w, c);
    } else if (what < 700 && w->flushing) {
        flush_done(w);
    } else if (what < 720 && !w->flushing) {
        flush_begin(w);
    } else if (what < 850 && w->committing) {
        commit_done(w, prng_chance(&w->prng, 950000));
    } else if (what < 855 && c->phase == WAITS) {
        c->phase = IDLE; /* given up: it does not ask again */
    } else if (what < 870 && !w->committing && al_seal_begin(w->al, &w->commit)) {
        w->committing = true;
        w->seals++;
    } else if (what == 998 && !w->failed) {
        clean_end(w);
    } else if (what == 999 || (w->cached.may_go && w->loses_cached && prng_chance(&w->prng, 50000))) {
        crash(w);
    }
    commit_begin(w);
    if (al_wants_flush(w->al) && !w->flushing)
        flush_begin(w);
}

/* From here on nothing new: whoever waits gets in. */
static void settle(struct world *w)
{
    for (unsigned i = 0; i < 1000; i++) {
        bool waits = false;
        for (unsigned k = 0; k < CHANGES; k++) {
            if (w->changes[k].phase == HOT)
                leave(w, &w->changes[k]);
            waits |= w->changes[k].phase == WAITS;
        }
        if (!waits)
            return;
        commit_begin(w);
        if (w->committing)
            commit_done(w, true);
        if (al_wants_flush(w->al) && !w->flushing)
            flush_begin(w);
        if (w->flushing)
            flush_done(w);
    }
    fail_msg("somebody waits for ever");
}

static struct world *world_of(uint64_t seed)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->prng = prng_seed(seed);
    w->loses_cached = seed % 2;
    w->extents = 8 + (uint32_t)prng_below(&w->prng, 120);
    uint32_t slots = 1 + (uint32_t)prng_below(&w->prng, min_u64(w->extents, 40));
    uint32_t context = 1 + (uint32_t)prng_below(&w->prng, 12);
    uint32_t ring = al_cycle(slots, context) + AL_RING_SPARE + (uint32_t)prng_below(&w->prng, 5);
    w->options = (struct al_options) {
        .size_bytes = (uint64_t)w->extents * EXTENT,
        .extent_bytes = EXTENT,
        .slots = slots,
        .ring_blocks = (uint32_t)min_u64(ring, RING_MAX),
        .context_slots = context,
        .owner = owner(1),
    };
    open_log(w);
    return w;
}

static void every_extent_that_may_differ_is_found_after_a_crash(void **state)
{
    (void)state;
    const char *wish = getenv("LOCKSTEP_TEST_SEEDS");
    uint64_t seeds = wish ? strtoull(wish, NULL, 10) : 150;
    unsigned evictions = 0, torn = 0, stuck = 0, hot = 0, seals = 0, gone = 0, gaps = 0, waited = 0;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct world *w = world_of(seed);
        for (unsigned i = 0; i < 4000; i++)
            one_step(w);
        settle(w);
        crash(w);
        evictions += w->evictions;
        torn += w->torn;
        stuck += w->stuck;
        hot += w->hot;
        seals += w->seals;
        gone += w->gone;
        gaps += w->gaps;
        waited = w->waited_max > waited ? w->waited_max : waited;
        al_close(w->al);
        free(w);
    }
    printf("%u entered, %u evictions, %u torn blocks, %u lost from a cache (%u noticed), %u seals, %u stuck, "
           "longest wait %u rounds\n",
           hot, evictions, torn, gone, gaps, seals, stuck, waited);
    assert_true(evictions > 0 && torn > 0 && gone > gaps && gaps > 0 && seals > 0 && stuck > 0 && waited < 1000);
}

/* ---- The rules of trust, one by one ---- */

#define R 8u

struct log {
    struct activity_log *al;
    uint8_t ring[R][AL_BLOCK_BYTES];
    unsigned found;
    uint32_t last;
    bool has[EXTENTS_MAX];
};

static const struct al_options small = {
    .size_bytes = 64 * EXTENT, .extent_bytes = EXTENT, .slots = 8, .ring_blocks = R, .context_slots = 4
};

static void count_found(void *ctx, struct range r)
{
    struct log *l = ctx;
    l->found++;
    l->has[r.offset_bytes / EXTENT] = true;
}

static int reload(struct log *l, const struct al_options *o, uint64_t from, struct err *err)
{
    al_close(l->al);
    l->al = al_open(o, err);
    l->found = 0;
    memset(l->has, 0, sizeof(l->has));
    return al_load(l->al, l->ring[0], from, count_found, l, err);
}

/* One extent comes in by one block, and is left and flushed. */
static void come(struct log *l, uint32_t extent)
{
    static struct al_commit c;
    struct range r = extents_range(extent, 1);
    assert_int_equal(al_enter(l->al, r), AL_COLD);
    do { /* what only the newest block told of comes first */
        assert_true(al_commit_begin(l->al, &c));
        memcpy(l->ring[c.index], c.block, AL_BLOCK_BYTES);
        al_commit_done(l->al, true);
    } while (al_enter(l->al, r) == AL_COLD);
    al_leave(l->al, r);
    al_flush_done(l->al, al_flush_begin(l->al));
}

static struct log *log_of(unsigned blocks)
{
    struct log *l = calloc(1, sizeof(*l));
    struct err err = { 0 };
    assert_non_null(l);
    assert_int_equal(reload(l, &small, 0, &err), 0);
    for (unsigned i = 0; i < blocks; i++)
        come(l, i);
    return l;
}

static void log_free(struct log *l)
{
    al_close(l->al);
    free(l);
}

static void damage(struct log *l, uint64_t sequence) { l->ring[sequence % R][77] ^= 1; }

static void only_the_newest_block_may_be_torn(void **state)
{
    (void)state;
    struct err err = { 0 };
    /* 20 blocks, sequences 1 ... 20, two of them a cycle, in a ring of 8. */
    for (uint64_t victim = 13; victim <= 20; victim++) {
        struct log *l = log_of(20);
        damage(l, victim);
        int r = reload(l, &small, 0, &err);
        if (victim == 19) { /* needed, and not the newest */
            assert_int_equal(r, -EBADMSG);
            assert_non_null(strstr(err.text, "19 is missing"));
            assert_int_equal(l->found, 0);
        } else { /* not needed any more; or 20, taken for torn: extent 19 was on its way, 12 ... 18 were hot */
            assert_int_equal(r, 0);
            assert_int_equal(l->found, 8);
            assert_true(victim == 20 ? l->has[11] && !l->has[19] : l->has[19] && !l->has[11]);
            assert_int_equal(al_next_sequence(l->al), victim == 20 ? 20 : 21);
        }
        log_free(l);
    }
}

static void two_damaged_blocks_in_a_row_are_no_torn_write(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct log *l = log_of(20);
    damage(l, 19);
    damage(l, 20);
    assert_int_equal(reload(l, &small, 0, &err), -EBADMSG);
    /* Nothing of what is there counts any more once al_from is written. */
    uint64_t from = al_next_sequence(l->al);
    assert_true(from > 20 + R - 2);
    come(l, 40);
    assert_int_equal(reload(l, &small, from, &err), 0);
    assert_int_equal(l->found, 1);
    assert_true(l->has[40]);
    /* Without that it is not believed. */
    assert_int_equal(reload(l, &small, 0, &err), -EBADMSG);
    log_free(l);
}

/* Found after a lost write: the block that was reported as written is not there, a later one is. */
static void a_gap_is_noticed(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct log *l = log_of(19);
    uint8_t before[AL_BLOCK_BYTES];
    memcpy(before, l->ring[20 % R], AL_BLOCK_BYTES);
    come(l, 30);
    come(l, 31);
    memcpy(l->ring[20 % R], before, AL_BLOCK_BYTES);
    assert_int_equal(reload(l, &small, 0, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "20 is missing"));
    log_free(l);
}

static bool seal(struct log *l)
{
    static struct al_commit c;
    if (!al_seal_begin(l->al, &c))
        return false;
    assert_int_equal(c.evicted_count, 0);
    memcpy(l->ring[c.index], c.block, AL_BLOCK_BYTES);
    al_commit_done(l->al, true);
    return true;
}

/* What a killed daemon had on its way is in the disk's cache, and goes with the power: no change may count on it. */
static void the_newest_block_counts_when_the_next_one_says_the_same(void **state)
{
    (void)state;
    static struct al_commit c;
    struct err err = { 0 };
    struct range newest = extents_range(30, 1);
    for (int waits = 0; waits < 2; waits++) {
        struct log *l = log_of(12);
        uint8_t before[AL_BLOCK_BYTES], cached[AL_BLOCK_BYTES];
        memcpy(before, l->ring[13 % R], AL_BLOCK_BYTES);
        come(l, 30);
        memcpy(cached, l->ring[13 % R], AL_BLOCK_BYTES);
        assert_int_equal(reload(l, &small, 0, &err), 0);
        assert_true(l->has[30] && !l->has[4]);
        assert_true(al_covers(l->al, extents_range(11, 1)));
        assert_false(al_covers(l->al, newest));
        /* The next block is there for who waits; or without, instead of a seal. */
        if (waits) {
            assert_int_equal(al_enter(l->al, newest), AL_COLD);
            assert_true(al_commit_begin(l->al, &c));
        } else {
            assert_true(al_seal_begin(l->al, &c));
        }
        assert_int_equal(c.sequence, 14);
        assert_int_equal(c.evicted_count, 0);
        /* The power is lost before that is written: nobody was in it, and what it was to replace is there. */
        memcpy(l->ring[13 % R], before, AL_BLOCK_BYTES);
        assert_int_equal(reload(l, &small, 0, &err), 0);
        assert_true(!l->has[30] && l->has[4]);
        /* Lost after it: that is noticed. */
        uint8_t after[AL_BLOCK_BYTES];
        memcpy(after, l->ring[14 % R], AL_BLOCK_BYTES);
        memcpy(l->ring[14 % R], c.block, AL_BLOCK_BYTES);
        assert_int_equal(reload(l, &small, 0, &err), -EBADMSG);
        /* The same spoilt as it is written: what was stable before is found. */
        memcpy(l->ring[13 % R], cached, AL_BLOCK_BYTES);
        damage(l, 14);
        assert_int_equal(reload(l, &small, 0, &err), 0);
        assert_true(l->has[30]);
        /* All goes well. */
        memcpy(l->ring[14 % R], after, AL_BLOCK_BYTES);
        assert_int_equal(reload(l, &small, 0, &err), 0);
        assert_true(seal(l));
        assert_memory_equal(l->ring[14 % R], c.block, AL_BLOCK_BYTES);
        assert_int_equal(al_enter(l->al, newest), AL_HOT);
        assert_true(seal(l)); /* one without updates */
        assert_false(seal(l));
        assert_int_equal(reload(l, &small, 0, &err), 0);
        assert_true(al_covers(l->al, newest)); /* a seal tells of nothing: all before it was stable */
        log_free(l);
    }
}

/* With every slot in the newest block nobody can come in before it is told again; and then one after the other can. */
static void a_log_that_is_full_of_the_newest_block_goes_on(void **state)
{
    (void)state;
    static struct al_commit c;
    struct err err = { 0 };
    struct log *l = log_of(0);
    struct range all = extents_range(0, 8), other = extents_range(20, 1);
    assert_int_equal(al_enter(l->al, all), AL_COLD);
    assert_true(al_commit_begin(l->al, &c));
    memcpy(l->ring[c.index], c.block, AL_BLOCK_BYTES);
    assert_int_equal(reload(l, &small, 0, &err), 0);
    assert_int_equal(l->found, 8);
    assert_int_equal(al_view(l->al).hot, 0);
    assert_int_equal(al_enter(l->al, other), AL_STUCK);
    assert_int_equal(al_enter(l->al, all), AL_COLD);
    assert_false(al_wants_flush(l->al)); /* it would help nobody */
    assert_true(al_commit_begin(l->al, &c));
    assert_int_equal(c.sequence, 2);
    al_commit_done(l->al, true);
    assert_int_equal(al_enter(l->al, other), AL_COLD);
    assert_int_equal(al_enter(l->al, all), AL_HOT);
    al_leave(l->al, all);
    assert_true(al_wants_flush(l->al));
    al_flush_done(l->al, al_flush_begin(l->al));
    assert_int_equal(al_enter(l->al, other), AL_COLD);
    assert_true(al_commit_begin(l->al, &c));
    assert_int_equal(c.evicted_count, 1);
    al_commit_done(l->al, true);
    assert_int_equal(al_enter(l->al, other), AL_HOT);
    log_free(l);
}

/* Once there is a block after it, the newest that has updates is no torn write, whatever has become of it; and what
 * seals it tells nothing that others don't. */
static void a_sealed_block_is_missed(void **state)
{
    (void)state;
    enum { NOTHING, SEALED_DAMAGED, SEALED_LOST, SEAL_DAMAGED, BOTH_DAMAGED, CASES };
    for (int what = 0; what < CASES; what++) {
        struct err err = { 0 };
        struct log *l = log_of(19);
        uint8_t before[AL_BLOCK_BYTES];
        memcpy(before, l->ring[20 % R], AL_BLOCK_BYTES);
        come(l, 19);
        assert_true(seal(l));
        assert_false(seal(l)); /* once is enough */
        switch (what) {
        case NOTHING: break;
        case SEALED_LOST: memcpy(l->ring[20 % R], before, AL_BLOCK_BYTES); break;
        case SEAL_DAMAGED: damage(l, 21); break;
        case BOTH_DAMAGED: damage(l, 21); /* fall through */
        case SEALED_DAMAGED: damage(l, 20); break;
        }
        bool noticed = what != NOTHING && what != SEAL_DAMAGED;
        assert_int_equal(reload(l, &small, 0, &err), noticed ? -EBADMSG : 0);
        assert_int_equal(l->found, noticed ? 0 : 8);
        assert_true(noticed || (l->has[19] && l->has[12] && !l->has[11]));
        log_free(l);
    }
}

/* A seal that failed may be there or not. It is neither in the way of the next block nor of a clean end. */
static void a_seal_that_failed_changes_nothing(void **state)
{
    (void)state;
    static struct al_commit c;
    for (int what = 0; what < 3; what++) {
        struct err err = { 0 };
        struct log *l = log_of(20);
        assert_true(al_seal_begin(l->al, &c));
        assert_false(al_seal_begin(l->al, &c)); /* one block at a time */
        if (what)
            memcpy(l->ring[c.index], c.block, AL_BLOCK_BYTES);
        al_commit_done(l->al, false);
        uint64_t from = 0;
        if (what == 2)
            from = al_clear(l->al);
        else
            come(l, 30);
        assert_int_equal(reload(l, &small, from, &err), 0);
        assert_int_equal(l->found, what == 2 ? 0 : 8);
        assert_true(what == 2 || l->has[30]);
        log_free(l);
    }
}

static void blocks_of_earlier_lives_are_void(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct log *l = log_of(20);
    uint64_t from = al_clear(l->al);
    assert_int_equal(from, 21);
    assert_int_equal(reload(l, &small, from, &err), 0);
    assert_int_equal(l->found, 0);
    come(l, 50);
    assert_int_equal(reload(l, &small, from, &err), 0);
    assert_int_equal(l->found, 1);
    assert_true(l->has[50]);

    /* Another leg's blocks are not ours. */
    struct al_options other = small;
    other.owner = owner(9);
    assert_int_equal(reload(l, &other, 0, &err), -EBADMSG);
    log_free(l);
}

static void the_number_of_slots_on_disk_holds_until_a_clean_end(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct log *l = log_of(20);
    struct al_options less = small;
    less.slots = 3;
    assert_int_equal(reload(l, &less, 0, &err), 0);
    assert_int_equal(l->found, 8);
    assert_int_equal(al_view(l->al).slots, 8);
    come(l, 60);
    uint64_t from = al_clear(l->al);
    assert_int_equal(al_view(l->al).slots, 3);
    assert_int_equal(reload(l, &less, from, &err), 0);
    come(l, 61);
    assert_int_equal(reload(l, &less, from, &err), 0);
    assert_int_equal(l->found, 1);
    log_free(l);
}

static void every_flipped_bit_is_noticed(void **state)
{
    (void)state;
    struct log *l = log_of(3);
    struct al_block b;
    struct err err = { 0 };
    uint8_t *block = l->ring[3];
    for (unsigned bit = 0; bit < AL_BLOCK_BYTES * 8; bit++) {
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(al_block_decode(block, &b, &err), -EBADMSG);
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(al_block_decode(block, &b, &err), 0);
    assert_int_equal(al_block_decode(l->ring[0], &b, &err), -ENOENT);
    log_free(l);
}

/* A block that says what cannot be, with a checksum that is right. */
static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    struct log *l = log_of(4);
    struct al_block good, b, out;
    uint8_t block[AL_BLOCK_BYTES];
    struct err err = { 0 };
    assert_int_equal(al_block_decode(l->ring[4], &good, &err), 0);
    static const struct {
        unsigned at, bytes;
        uint64_t value;
    } forged[] = {
        { 16, 4, 2 },
        { 24, 8, 0 },
        { 24, 8, UINT64_MAX },
        { 48, 4, 0 },
        { 48, 4, AL_SLOTS_MAX + 1 },
        { 52, 2, 0 },
        { 52, 2, 529 },
        { 54, 2, 241 },
        { 54, 2, 0 },
        { 56, 8, 1 },
        { 64, 4, 8 /* slot */ },
        { 68, 4, 7 },
        { 68, 4, AL_NO_EXTENT },
        { 4095, 1, 1 },
    };
    for (unsigned i = 0; i < ARRAY_LEN(forged); i++) {
        al_block_encode(&good, block);
        memcpy(block + forged[i].at, &forged[i].value, forged[i].bytes); /* little-endian machines only */
        memset(block + 8, 0, 8);
        uint64_t check = checksum64(block, sizeof(block));
        memcpy(block + 8, &check, sizeof(check));
        assert_int_equal(al_block_decode(block, &out, &err), -EBADMSG);
    }
    /* One extent in two slots; an extent beyond the volume's end; other extents. */
    for (unsigned i = 0; i < 3; i++) {
        b = good;
        uint32_t extent = i == 1 ? 64 : b.context[0] == 0 ? 1 : 0;
        b.extent_bytes = i == 2 ? 2 * EXTENT : EXTENT;
        b.updates[b.update_count++] = (struct al_update) { 7, extent };
        struct al_window w = al_window_of(b.sequence, b.slots, b.context_slots);
        if (w.first <= 7 && 7 < w.first + w.count)
            b.context[7 - w.first] = extent;
        al_block_encode(&b, l->ring[4]);
        int r = reload(l, &small, 0, &err);
        /* The last two are no blocks of this log: the newest is torn, as far as anybody can tell. */
        assert_int_equal(r, i == 0 ? -EBADMSG : 0);
        assert_int_equal(l->found, i == 0 ? 0 : 3);
    }
    log_free(l);
}

/* ---- Slots ---- */

static void a_failed_commit_is_written_again_the_same(void **state)
{
    (void)state;
    static struct al_commit once, twice;
    struct log *l = log_of(8);
    struct range old = extents_range(0, 1), cold = extents_range(20, 1);
    assert_int_equal(al_enter(l->al, cold), AL_COLD);
    assert_true(al_commit_begin(l->al, &once));
    assert_int_equal(once.evicted_count, 1);
    assert_int_equal(once.evicted[0].offset_bytes, 0);
    al_commit_done(l->al, false);
    /* It may be on disk: who was given up by it is not hot, whatever memory would like. */
    assert_int_not_equal(al_enter(l->al, old), AL_HOT);
    assert_true(al_commit_begin(l->al, &twice));
    assert_memory_equal(once.block, twice.block, AL_BLOCK_BYTES);
    assert_int_equal(twice.evicted_count, 1);
    al_commit_done(l->al, true);
    assert_int_equal(al_enter(l->al, cold), AL_HOT);
    log_free(l);
}

/* It may be on disk: after a clean end it is void like all others. */
static void a_failed_commit_is_void_after_a_clean_end(void **state)
{
    (void)state;
    static struct al_commit c;
    struct err err = { 0 };
    struct log *l = log_of(3);
    assert_int_equal(al_enter(l->al, extents_range(20, 1)), AL_COLD);
    assert_true(al_commit_begin(l->al, &c));
    memcpy(l->ring[c.index], c.block, AL_BLOCK_BYTES);
    al_commit_done(l->al, false);
    uint64_t from = al_clear(l->al);
    assert_int_equal(reload(l, &small, from, &err), 0);
    assert_int_equal(l->found, 0);
    log_free(l);
}

static void an_extent_is_not_given_up_before_a_flush_that_began_after_it_was_left(void **state)
{
    (void)state;
    static struct al_commit c;
    struct al_options o = small;
    o.slots = 1;
    struct log *l = calloc(1, sizeof(*l));
    struct err err = { 0 };
    assert_non_null(l);
    assert_int_equal(reload(l, &o, 0, &err), 0);
    struct range a = extents_range(0, 1), b = extents_range(1, 1);
    assert_int_equal(al_enter(l->al, a), AL_COLD);
    assert_true(al_commit_begin(l->al, &c));
    assert_int_not_equal(al_enter(l->al, a), AL_HOT);
    al_commit_done(l->al, true);
    assert_int_equal(al_enter(l->al, a), AL_HOT);
    assert_int_equal(al_enter(l->al, b), AL_STUCK);
    assert_false(al_commit_begin(l->al, &c));
    uint32_t early = al_flush_begin(l->al);
    al_leave(l->al, a);
    al_flush_done(l->al, early);
    assert_int_equal(al_enter(l->al, b), AL_STUCK);
    assert_true(al_wants_flush(l->al));
    al_flush_done(l->al, al_flush_begin(l->al));
    assert_int_equal(al_enter(l->al, b), AL_COLD);
    assert_true(al_commit_begin(l->al, &c));
    assert_int_equal(c.evicted_count, 1);
    al_commit_done(l->al, true);
    assert_int_equal(al_enter(l->al, b), AL_HOT);
    log_free(l);
}

/* While some slots can be given up still, so that they last until it is over. */
static void a_flush_is_wanted_before_the_slots_run_out(void **state)
{
    (void)state;
    static struct al_commit c;
    struct log *l = log_of(8); /* all can be given up */
    assert_int_equal(al_enter(l->al, extents_range(20, 1)), AL_COLD);
    for (unsigned e = 0; e < 7; e++) {
        assert_false(al_wants_flush(l->al));
        assert_int_equal(al_enter(l->al, extents_range(e, 1)), AL_HOT);
        if (e > 2) /* the others stay in use: four are enough to flush for */
            al_leave(l->al, extents_range(e, 1));
    }
    assert_true(al_wants_flush(l->al)); /* one is left */
    uint32_t flush = al_flush_begin(l->al);
    /* Nobody waits for it. */
    assert_true(al_commit_begin(l->al, &c));
    assert_int_equal(c.evicted_count, 1);
    assert_int_equal(c.evicted[0].offset_bytes, 7 * EXTENT);
    al_commit_done(l->al, true);
    assert_int_equal(al_enter(l->al, extents_range(20, 1)), AL_HOT);
    al_flush_done(l->al, flush);
    assert_false(al_wants_flush(l->al));
    log_free(l);
}

/* Every slot is always in use by somebody who never lets go before the next one is in. A cold change gets in. */
static void a_cold_change_does_not_starve_behind_hot_ones(void **state)
{
    (void)state;
    static struct al_commit c;
    struct log *l = log_of(8);
    struct range cold = extents_range(30, 4);
    bool held[8] = { 0 };
    enum al_verdict v = AL_COLD;
    unsigned rounds = 0;
    for (unsigned e = 0; e < 8; e++)
        held[e] = al_enter(l->al, extents_range(e, 1)) == AL_HOT;
    for (; rounds < 20 && (v = al_enter(l->al, cold)) != AL_HOT; rounds++) {
        if (al_commit_begin(l->al, &c))
            al_commit_done(l->al, true);
        else
            al_flush_done(l->al, al_flush_begin(l->al));
        if ((v = al_enter(l->al, cold)) == AL_HOT)
            break;
        for (unsigned e = 0; e < 8; e++) {
            bool in = al_enter(l->al, extents_range(e, 1)) == AL_HOT;
            if (held[e])
                al_leave(l->al, extents_range(e, 1));
            held[e] = in;
        }
    }
    assert_int_equal(v, AL_HOT);
    assert_true(rounds <= 5);
    al_leave(l->al, cold);
    log_free(l);
}

struct sum {
    uint64_t extents, numbers;
};

static void sum_up(void *ctx, struct range r)
{
    struct sum *sum = ctx;
    sum->extents++;
    sum->numbers += r.offset_bytes / EXTENT_BYTES_DEFAULT;
}

/* Who asked while a block was being written stands before the older ones that ask again after it. The slot is theirs.
 */
static void a_younger_change_does_not_overtake(void **state)
{
    (void)state;
    static struct al_commit c;
    struct log *l = log_of(8);
    struct range a = extents_range(20, 1), older = extents_range(30, 1), younger = extents_range(40, 1);
    for (unsigned e = 0; e < 7; e++)
        assert_int_equal(al_enter(l->al, extents_range(e, 1)), AL_HOT);
    assert_int_equal(al_enter(l->al, a), AL_COLD);
    assert_int_equal(al_enter(l->al, older), AL_COLD);
    assert_true(al_commit_begin(l->al, &c)); /* one slot is free: it is a's */
    assert_int_not_equal(al_enter(l->al, younger), AL_HOT);
    al_commit_done(l->al, true);
    assert_int_equal(al_enter(l->al, a), AL_HOT);
    al_leave(l->al, a);
    al_flush_done(l->al, al_flush_begin(l->al));
    assert_int_equal(al_enter(l->al, older), AL_COLD);
    assert_true(al_commit_begin(l->al, &c));
    al_commit_done(l->al, true);
    assert_int_equal(al_enter(l->al, older), AL_HOT);
    log_free(l);
}

/* The default size, filled twice over: a bounded scan of the ring names every slot. */
static void the_default_size_is_found_whole(void **state)
{
    (void)state;
    static struct al_commit c;
    struct err err = { 0 };
    struct al_options o = { .size_bytes = 3 * TIB, .extent_bytes = EXTENT_BYTES_DEFAULT, .owner = owner(1) };
    uint8_t *ring = calloc(AL_RING_BLOCKS, AL_BLOCK_BYTES);
    struct activity_log *al = al_open(&o, &err);
    assert_true(ring && al);
    uint64_t step = 32ull * EXTENT_BYTES_DEFAULT;
    for (uint64_t at = 0; at < 2ull * AL_SLOTS_DEFAULT * EXTENT_BYTES_DEFAULT; at += 4 * step) {
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(al_enter(al, (struct range) { at + i * step, step }), AL_COLD);
        assert_true(al_commit_begin(al, &c));
        memcpy(ring + (size_t)c.index * AL_BLOCK_BYTES, c.block, AL_BLOCK_BYTES);
        al_commit_done(al, true);
    }
    assert_int_equal(al_view(al).hot, AL_SLOTS_DEFAULT);
    al_close(al);
    al = al_open(&o, &err);
    struct sum sum = { 0 };
    assert_int_equal(al_load(al, ring, 0, sum_up, &sum, &err), 0);
    assert_int_equal(sum.extents, AL_SLOTS_DEFAULT);
    /* The second half, each extent once: the sum of their numbers tells. */
    uint64_t n = AL_SLOTS_DEFAULT;
    assert_int_equal(sum.numbers, n * n + n * (n - 1) / 2);
    al_close(al);
    free(ring);
}

/* docs/METADATA.md, byte by byte. */
static void put(uint8_t *block, unsigned at, unsigned bytes, uint64_t value)
{
    for (unsigned i = 0; i < bytes; i++)
        block[at + i] = (uint8_t)(value >> 8 * i);
}

static void a_block_lies_as_documented(void **state)
{
    (void)state;
    uint8_t expected[AL_BLOCK_BYTES] = "LKSCALOG", block[AL_BLOCK_BYTES];
    struct err err = { 0 };
    /* The second of two windows: slots 528 to 983. */
    static struct al_block in = { .sequence = 7 + (UINT64_C(5) << 40) * 2,
                                  .extent_bytes = 4 * MIB,
                                  .slots = 984,
                                  .context_slots = 528,
                                  .update_count = 240 },
                           out;
    in.owner = owner(0xa5);
    put(expected, 16, 4, 1);
    put(expected, 20, 4, 4 * MIB);
    put(expected, 24, 8, in.sequence);
    memset(expected + 32, 0xa5, 16);
    put(expected, 48, 4, 984);
    put(expected, 52, 2, 528);
    put(expected, 54, 2, 240);
    for (unsigned i = 0; i < 240; i++) {
        in.updates[i] = (struct al_update) { .slot = i, .extent = 70000 + i };
        put(expected, 64 + 8 * i, 4, i);
        put(expected, 68 + 8 * i, 4, 70000 + i);
    }
    for (unsigned i = 0; i < 984 - 528; i++) {
        in.context[i] = i ? 1000 + i : AL_NO_EXTENT;
        put(expected, 1984 + 4 * i, 4, i ? 1000 + i : UINT32_MAX);
    }
    put(expected, 8, 8, checksum64(expected, sizeof(expected)));
    al_block_encode(&in, block);
    assert_memory_equal(block, expected, sizeof(block));
    assert_int_equal(al_block_decode(expected, &out, &err), 0);
    assert_memory_equal(&in, &out, sizeof(in));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_lies_as_documented),
        cmocka_unit_test(every_extent_that_may_differ_is_found_after_a_crash),
        cmocka_unit_test(only_the_newest_block_may_be_torn),
        cmocka_unit_test(two_damaged_blocks_in_a_row_are_no_torn_write),
        cmocka_unit_test(a_gap_is_noticed),
        cmocka_unit_test(a_sealed_block_is_missed),
        cmocka_unit_test(the_newest_block_counts_when_the_next_one_says_the_same),
        cmocka_unit_test(a_log_that_is_full_of_the_newest_block_goes_on),
        cmocka_unit_test(a_seal_that_failed_changes_nothing),
        cmocka_unit_test(blocks_of_earlier_lives_are_void),
        cmocka_unit_test(the_number_of_slots_on_disk_holds_until_a_clean_end),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(a_failed_commit_is_written_again_the_same),
        cmocka_unit_test(a_failed_commit_is_void_after_a_clean_end),
        cmocka_unit_test(an_extent_is_not_given_up_before_a_flush_that_began_after_it_was_left),
        cmocka_unit_test(a_flush_is_wanted_before_the_slots_run_out),
        cmocka_unit_test(a_cold_change_does_not_starve_behind_hot_ones),
        cmocka_unit_test(a_younger_change_does_not_overtake),
        cmocka_unit_test(the_default_size_is_found_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
