/* Sectors in two layers, and their flaws. */
#include "tests/sim/medium.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/units.h"

static void bit_put(uint64_t *map, uint32_t i, bool on)
{
    uint64_t bit = UINT64_C(1) << (i % 64);
    map[i / 64] = on ? map[i / 64] | bit : map[i / 64] & ~bit;
}

static void bit_set(uint64_t *map, uint32_t i) { map[i / 64] |= UINT64_C(1) << (i % 64); }

static void bit_copy(uint64_t *to, const uint64_t *from, uint32_t i) { bit_put(to, i, sector_bit(from, i)); }

static void *zeroes(size_t count, size_t bytes)
{
    void *p = calloc(count, bytes);
    if (!p)
        abort();
    return p;
}

#define STAMP_OF_ZEROES 1

static void stamp_zeroes(struct medium *m)
{
    for (uint32_t i = 0; i < m->sectors; i++)
        m->content_stamps[i] = m->stable_stamps[i] = STAMP_OF_ZEROES;
}

void medium_open(struct medium *m, uint32_t sectors)
{
    uint32_t words = (sectors + 63) / 64;
    *m = (struct medium) { .sectors = sectors, .words = words };
    m->content = zeroes(sectors, SECTOR_BYTES);
    m->stable = zeroes(sectors, SECTOR_BYTES);
    uint64_t **maps[] = {
        &m->dirty, &m->touched, &m->unreadable, &m->damaged, &m->stable_unreadable, &m->stable_damaged,
    };
    for (unsigned i = 0; i < ARRAY_LEN(maps); i++)
        *maps[i] = zeroes(words, sizeof(uint64_t));
    m->content_stamps = zeroes(sectors, sizeof(uint64_t));
    m->stable_stamps = zeroes(sectors, sizeof(uint64_t));
    m->stamps = STAMP_OF_ZEROES;
    stamp_zeroes(m);
}

void medium_close(struct medium *m)
{
    free(m->content);
    free(m->stable);
    free(m->dirty);
    free(m->touched);
    free(m->unreadable);
    free(m->damaged);
    free(m->stable_unreadable);
    free(m->stable_damaged);
    free(m->content_stamps);
    free(m->stable_stamps);
    *m = (struct medium) { 0 };
}

/* The first bit that is set at or after `*i`. False: none. */
static bool next_bit(const struct medium *m, const uint64_t *map, uint32_t *i)
{
    uint32_t word = *i / 64;
    if (word >= m->words)
        return false;
    uint64_t left = map[word] >> (*i % 64) << (*i % 64);
    while (!left) {
        if (++word == m->words)
            return false;
        left = map[word];
    }
    *i = word * 64 + (uint32_t)__builtin_ctzll(left);
    return true;
}

void medium_reset(struct medium *m)
{
    for (uint32_t i = 0; next_bit(m, m->touched, &i); i++) {
        memset(medium_sector(m->content, i), 0, SECTOR_BYTES);
        memset(medium_sector(m->stable, i), 0, SECTOR_BYTES);
    }
    uint64_t *maps[] = { m->dirty, m->touched, m->unreadable, m->damaged, m->stable_unreadable, m->stable_damaged };
    for (unsigned i = 0; i < ARRAY_LEN(maps); i++)
        memset(maps[i], 0, m->words * sizeof(uint64_t));
    m->has_flaws = false;
    stamp_zeroes(m);
}

void medium_write(struct medium *m, uint32_t sector, const uint8_t *data)
{
    assert(sector < m->sectors);
    uint8_t *to = medium_sector(m->content, sector);
    if (data)
        memcpy(to, data, SECTOR_BYTES);
    else
        memset(to, 0, SECTOR_BYTES);
    bit_set(m->dirty, sector);
    bit_set(m->touched, sector);
    m->content_stamps[sector] = ++m->stamps;
    if (m->has_flaws) {
        bit_put(m->unreadable, sector, false);
        bit_put(m->damaged, sector, false);
    }
}

void medium_settle(struct medium *m, uint32_t sector)
{
    if (!sector_bit(m->dirty, sector))
        return;
    memcpy(medium_sector(m->stable, sector), medium_sector(m->content, sector), SECTOR_BYTES);
    bit_put(m->dirty, sector, false);
    m->stable_stamps[sector] = m->content_stamps[sector];
    if (m->has_flaws) {
        bit_copy(m->stable_unreadable, m->unreadable, sector);
        bit_copy(m->stable_damaged, m->damaged, sector);
    }
}

void medium_settle_all(struct medium *m, const uint64_t *which)
{
    for (uint32_t i = 0; next_bit(m, which, &i); i++)
        medium_settle(m, i);
}

void medium_forget_dirty(struct medium *m, uint32_t sector) { bit_put(m->dirty, sector, false); }

void medium_find_dirty(struct medium *m)
{
    for (uint32_t i = 0; next_bit(m, m->touched, &i); i++) {
        if (memcmp(medium_sector(m->content, i), medium_sector(m->stable, i), SECTOR_BYTES) != 0)
            bit_set(m->dirty, i);
    }
}

static bool has_flaw(const struct medium *m, uint32_t sector)
{
    return m->has_flaws && (sector_bit(m->unreadable, sector) || sector_bit(m->damaged, sector) ||
                            sector_bit(m->stable_unreadable, sector) || sector_bit(m->stable_damaged, sector));
}

bool medium_tear(struct medium *m, uint32_t sector, struct prng *chance)
{
    assert(sector_bit(m->dirty, sector));
    if (has_flaw(m, sector))
        return false;
    uint8_t *to = medium_sector(m->stable, sector);
    const uint8_t *from = medium_sector(m->content, sector);
    uint64_t style = prng_below(chance, 3);
    size_t at = (size_t)prng_below(chance, SECTOR_BYTES - 1) + 1;
    for (size_t word = 0; style == 2 && word < SECTOR_BYTES; word += 8) {
        if (prng_chance(chance, 500000))
            memcpy(to + word, from + word, 8);
    }
    if (style == 0)
        memcpy(to, from, at);
    else if (style == 1)
        memcpy(to + at, from + at, SECTOR_BYTES - at);
    bit_put(m->dirty, sector, false);
    m->stable_stamps[sector] = ++m->stamps;
    return true;
}

void medium_break(struct medium *m, uint32_t sector)
{
    assert(sector_bit(m->dirty, sector));
    m->has_flaws = true;
    bit_set(m->stable_unreadable, sector);
    bit_put(m->dirty, sector, false);
}

uint32_t medium_power_loss(struct medium *m, struct prng *chance, unsigned survive_per_million)
{
    uint32_t lost = 0;
    for (uint32_t i = 0; next_bit(m, m->dirty, &i); i++) {
        if (prng_chance(chance, survive_per_million))
            medium_settle(m, i);
        else
            lost++;
    }
    /* Also where a failed flush has made it forget. */
    for (uint32_t j = 0; next_bit(m, m->touched, &j); j++)
        memcpy(medium_sector(m->content, j), medium_sector(m->stable, j), SECTOR_BYTES);
    memcpy(m->content_stamps, m->stable_stamps, m->sectors * sizeof(uint64_t));
    memset(m->dirty, 0, m->words * sizeof(uint64_t));
    memcpy(m->unreadable, m->stable_unreadable, m->words * sizeof(uint64_t));
    memcpy(m->damaged, m->stable_damaged, m->words * sizeof(uint64_t));
    return lost;
}

void medium_copy(const struct medium *m, uint8_t *to) { memcpy(to, m->stable, (size_t)m->sectors * SECTOR_BYTES); }

void medium_put_back(struct medium *m, const uint8_t *from)
{
    uint64_t *maps[] = { m->dirty, m->unreadable, m->damaged, m->stable_unreadable, m->stable_damaged };
    for (unsigned i = 0; i < ARRAY_LEN(maps); i++)
        memset(maps[i], 0, m->words * sizeof(uint64_t));
    memcpy(m->content, from, (size_t)m->sectors * SECTOR_BYTES);
    memcpy(m->stable, from, (size_t)m->sectors * SECTOR_BYTES);
    for (uint32_t i = 0; i < m->sectors; i++)
        m->content_stamps[i] = m->stable_stamps[i] = ++m->stamps;
}

bool medium_is_readable(const struct medium *m, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; m->has_flaws && i < first + count; i++) {
        if (sector_bit(m->unreadable, i))
            return false;
    }
    return true;
}

static bool differs(const struct medium *m, uint32_t sector, const uint8_t *data)
{
    static const uint8_t none[SECTOR_BYTES];
    return memcmp(medium_sector(m->content, sector), data ? data : none, SECTOR_BYTES) != 0;
}

void medium_write_lost(struct medium *m, uint32_t sector, const uint8_t *data)
{
    assert(sector < m->sectors);
    if (!differs(m, sector, data))
        return;
    m->has_flaws = true;
    bit_set(m->damaged, sector);
    /* Stable as what it should not be, once it is flushed. */
    bit_set(m->dirty, sector);
    bit_set(m->touched, sector);
}

void medium_write_misdirected(struct medium *m, uint32_t first, uint32_t count, uint32_t to, const uint8_t *data)
{
    assert(to <= m->sectors && count <= m->sectors - to);
    for (uint32_t i = 0; i < count; i++)
        medium_write_lost(m, first + i, data ? medium_sector((uint8_t *)data, i) : NULL);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *sector = data ? medium_sector((uint8_t *)data, i) : NULL;
        if (!differs(m, to + i, sector))
            continue;
        medium_write(m, to + i, sector);
        m->has_flaws = true;
        bit_set(m->damaged, to + i);
    }
}

bool medium_make_unreadable(struct medium *m, uint32_t sector)
{
    if (sector_bit(m->dirty, sector))
        return false;
    m->has_flaws = true;
    bit_set(m->touched, sector);
    bit_set(m->unreadable, sector);
    bit_set(m->stable_unreadable, sector);
    return true;
}

void medium_rot(struct medium *m, uint32_t sector, uint32_t bit)
{
    assert(bit < SECTOR_BYTES * 8);
    m->has_flaws = true;
    bit_set(m->touched, sector);
    medium_sector(m->stable, sector)[bit / 8] ^= (uint8_t)(1u << bit % 8);
    bit_set(m->stable_damaged, sector);
    m->stable_stamps[sector] = ++m->stamps;
    if (sector_bit(m->dirty, sector))
        return;
    medium_sector(m->content, sector)[bit / 8] ^= (uint8_t)(1u << bit % 8);
    bit_set(m->damaged, sector);
    m->content_stamps[sector] = ++m->stamps;
}

void medium_is_damaged(struct medium *m, uint32_t sector)
{
    assert(sector < m->sectors);
    m->has_flaws = true;
    bit_set(m->damaged, sector);
}

void medium_stable_is_damaged(struct medium *m, uint32_t sector)
{
    assert(sector < m->sectors);
    m->has_flaws = true;
    bit_set(m->stable_damaged, sector);
}

uint32_t medium_damaged_count(const struct medium *m)
{
    uint32_t count = 0;
    for (uint32_t w = 0; w < m->words; w++)
        count += (uint32_t)__builtin_popcountll(m->damaged[w]);
    return count;
}
