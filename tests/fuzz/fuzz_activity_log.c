/* An activity log from a disk that holds anything: read without harm, and what is accepted can be gone on with. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/meta/activity_log.h"

#define RING 8u
#define EXTENT 4096u
#define EXTENTS 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct al_options options = { .size_bytes = (EXTENTS - 1) * EXTENT + 512,
                                           .extent_bytes = EXTENT,
                                           .slots = 8,
                                           .ring_blocks = RING,
                                           .context_slots = 4,
                                           .owner = { { 1 } } };

struct set {
    bool has[EXTENTS];
    unsigned count;
};

static void found(void *ctx, struct range r)
{
    struct set *s = ctx;
    uint64_t e = r.offset_bytes / EXTENT;
    if (r.offset_bytes % EXTENT || !r.length_bytes || !range_fits(r, options.size_bytes) || s->has[e])
        abort();
    s->has[e] = true;
    s->count++;
}

static struct activity_log *load(const uint8_t *ring, uint64_t from, struct set *s, int *result)
{
    struct err err = { 0 };
    struct activity_log *al = al_open(&options, &err);
    if (!al)
        abort();
    memset(s, 0, sizeof(*s));
    *result = al_load(al, ring, from, found, s, &err);
    /* What only the newest block tells of is not hot before the next one has told it again. */
    uint32_t hot = al_view(al).hot;
    if (hot > s->count || s->count - hot > AL_UPDATES_MAX || (*result && (s->count || !err.text[0])))
        abort();
    return al;
}

static bool is_damaged(const uint8_t *ring, unsigned i)
{
    static const uint8_t zeroes[AL_BLOCK_BYTES];
    struct activity_log *al = al_open(&options, NULL);
    if (!al)
        abort();
    /* Alone in its ring a good block is found, or is void; one that is not good leaves no trace. */
    static uint8_t alone[RING * AL_BLOCK_BYTES];
    memset(alone, 0, sizeof(alone));
    const uint8_t *block = ring + (size_t)i * AL_BLOCK_BYTES;
    memcpy(alone + (size_t)i * AL_BLOCK_BYTES, block, AL_BLOCK_BYTES);
    struct set s = { 0 };
    al_load(al, alone, 1, found, &s, NULL);
    bool trace = al_next_sequence(al) > 1;
    al_close(al);
    return !trace && memcmp(block, zeroes, AL_BLOCK_BYTES) != 0;
}

static bool two_damaged_in_a_row(const uint8_t *ring)
{
    for (unsigned i = 0; i < RING; i++)
        if (is_damaged(ring, i) && is_damaged(ring, (i + 1) % RING))
            return true;
    return false;
}

static void try(uint8_t *ring, uint64_t from)
{
    static struct al_commit c;
    struct set before, after;
    int r;
    struct activity_log *al = load(ring, from, &before, &r);
    if (al_next_sequence(al) >= AL_SEQUENCE_MAX - RING) { /* no log gets there: only a forger's, and it ends here */
        al_close(al);
        return;
    }
    if (r)
        memset(ring, 0, RING * AL_BLOCK_BYTES); /* as the caller does */
    /* One more extent; what was found before is found again, but for what this gave up. */
    uint32_t cold = 0;
    while (before.has[cold])
        cold++;
    struct range wanted = { (uint64_t)cold * EXTENT, 512 };
    enum al_verdict verdict = al_enter(al, wanted); /* STUCK: what the newest block told of took all slots */
    if (verdict == AL_HOT)
        abort();
    for (unsigned commits = 0; commits < 2 && verdict != AL_HOT; commits++) { /* the first one tells of that again */
        if (!al_commit_begin(al, &c) || c.evicted_count > 1)
            abort();
        memcpy(ring + (size_t)c.index * AL_BLOCK_BYTES, c.block, AL_BLOCK_BYTES);
        al_commit_done(al, true);
        verdict = al_enter(al, wanted);
    }
    if (verdict != AL_HOT)
        abort();
    al_close(al);
    int again;
    al = load(ring, r ? c.sequence : from, &after, &again);
    /* Old damage that was harmless may look like more now that the newest block is next to it: then nothing is
     * believed. Damage apart, all is found. */
    if (!again && (!after.has[cold] || after.count != before.count + 1 - c.evicted_count))
        abort();
    if (again && (r || !two_damaged_in_a_row(ring)))
        abort();
    al_close(al);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t ring[RING * AL_BLOCK_BYTES], copy[RING * AL_BLOCK_BYTES];
    static const uint8_t zeroes[AL_BLOCK_BYTES];
    if (size < 1)
        return 0;
    uint64_t from = data[0];
    memset(ring, 0, sizeof(ring));
    memcpy(ring, data + 1, size - 1 < sizeof(ring) ? size - 1 : sizeof(ring));
    memcpy(copy, ring, sizeof(ring));
    try(copy, from);
    /* The fuzzer cannot guess a checksum: give it one, so that it gets to the fields behind. */
    for (unsigned i = 0; i < RING; i++) {
        uint8_t *block = ring + (size_t)i * AL_BLOCK_BYTES;
        if (memcmp(block, zeroes, sizeof(zeroes)) == 0 || data[0] >> i & 1)
            continue; /* never written, or damaged */
        memset(block + 8, 0, 8);
        uint64_t check = checksum64(block, AL_BLOCK_BYTES);
        memcpy(block + 8, &check, sizeof(check));
    }
    try(ring, from);
    try(ring, from);
    return 0;
}
