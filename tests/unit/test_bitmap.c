/* The bitmap against a plain array of granules, and its pages through writes, crashes and damage. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/base/prng.h"
#include "repl/base/units.h"
#include "repl/meta/bitmap.h"

#define GRANULE 512u
#define PAGE_DATA ((uint64_t)BITMAP_PAGE_GRANULES * GRANULE)

static struct id owner(uint8_t which)
{
    struct id id;
    memset(&id, which, sizeof(id));
    return id;
}

static struct bitmap *must_open(uint64_t size_bytes)
{
    struct err err = { 0 };
    struct bitmap *b = bitmap_open(size_bytes, GRANULE, owner(1), &err);
    assert_non_null(b);
    return b;
}

/* docs/METADATA.md, byte by byte. */
static void a_page_lies_as_documented(void **state)
{
    (void)state;
    uint8_t expected[BITMAP_PAGE_BYTES] = "LKSSTMAP", block[BITMAP_PAGE_BYTES];
    struct err err = { 0 };
    struct bitmap *b = must_open(2 * PAGE_DATA);
    uint64_t first = (uint64_t)32256 * GRANULE;
    bitmap_set(b, (struct range) { first, GRANULE });
    bitmap_set(b, (struct range) { first + 9 * GRANULE, GRANULE });
    bitmap_set(b, (struct range) { first + 32255 * GRANULE, GRANULE });
    expected[16] = 1;
    expected[21] = GRANULE >> 8;
    expected[24] = 1;
    memset(expected + 32, 1, 16);
    expected[64] = 1;
    expected[65] = 2;
    expected[4095] = 128;
    uint64_t check = checksum64(expected, sizeof(expected));
    memcpy(expected + 8, &check, sizeof(check)); /* tests run on little-endian machines */
    bitmap_page_encode(b, 1, block);
    assert_memory_equal(block, expected, sizeof(block));
    bitmap_close(b);

    b = must_open(2 * PAGE_DATA);
    assert_int_equal(bitmap_page_load(b, 1, expected, &err), 0);
    assert_int_equal(bitmap_dirty_bytes(b), 3 * GRANULE);
    assert_true(bitmap_any(b, (struct range) { first, GRANULE }));
    assert_true(bitmap_any(b, (struct range) { first + 9 * GRANULE, GRANULE }));
    assert_true(bitmap_any(b, (struct range) { first + 32255 * GRANULE, GRANULE }));
    bitmap_close(b);
}

static void set_outward_and_cleared_inward(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct bitmap *b = bitmap_open(10 * 4096 + 512, 4096, owner(1), &err);
    assert_true(bitmap_set(b, (struct range) { 4096 + 512, 512 }));
    assert_int_equal(bitmap_dirty_bytes(b), 4096);
    assert_false(bitmap_set(b, (struct range) { 4096, 512 }));
    assert_true(bitmap_set(b, (struct range) { 4096, 4097 }));
    assert_int_equal(bitmap_dirty_bytes(b), 8192);
    assert_false(bitmap_set(b, (struct range) { 30000, 0 }));
    assert_false(bitmap_any(b, (struct range) { 4096, 0 }));
    assert_true(bitmap_any(b, (struct range) { 4608, 512 }));
    bitmap_clear(b, (struct range) { 4096 + 512, 8192 });
    assert_int_equal(bitmap_dirty_bytes(b), 4096); /* the first one was cut */
    bitmap_clear(b, (struct range) { 4096, 4096 });
    assert_int_equal(bitmap_dirty_bytes(b), 0);

    /* The last one is short: the volume's end is its end. */
    assert_true(bitmap_set(b, (struct range) { 10 * 4096, 512 }));
    assert_int_equal(bitmap_dirty_bytes(b), 512);
    struct range r;
    assert_true(bitmap_next(b, 0, 1 * MIB, &r));
    assert_int_equal(r.offset_bytes, 10 * 4096);
    assert_int_equal(r.length_bytes, 512);
    bitmap_clear(b, (struct range) { 9 * 4096, 4096 + 512 });
    assert_int_equal(bitmap_dirty_bytes(b), 0);
    bitmap_set_all(b);
    assert_int_equal(bitmap_dirty_bytes(b), 10 * 4096 + 512);
    bitmap_clear(b, (struct range) { 0, bitmap_size_bytes(b) });
    assert_false(bitmap_next(b, 0, 1 * MIB, &r));
    bitmap_close(b);
}

/* A model: a byte a granule for memory, and one for each disk page's content. */
struct model {
    uint64_t granules, pages, size_bytes;
    uint8_t *bits;
    uint8_t *disk;    /* what a load would give */
    uint8_t *writing; /* what the write under way will give */
    bool *in_flight;
    uint8_t (*blocks)[BITMAP_PAGE_BYTES];
    uint8_t (*flying)[BITMAP_PAGE_BYTES];
};

static struct model model_of(uint64_t size_bytes)
{
    struct model m = { .size_bytes = size_bytes };
    m.granules = align_up(size_bytes, GRANULE) / GRANULE;
    m.pages = bitmap_pages_for(size_bytes, GRANULE);
    m.bits = calloc(m.granules, 1);
    m.disk = calloc(m.granules, 1);
    m.writing = calloc(m.granules, 1);
    m.in_flight = calloc(m.pages, sizeof(bool));
    m.blocks = calloc(m.pages, BITMAP_PAGE_BYTES);
    m.flying = calloc(m.pages, BITMAP_PAGE_BYTES);
    assert_true(m.bits && m.disk && m.writing && m.in_flight && m.blocks && m.flying);
    return m;
}

static void model_free(struct model *m)
{
    free(m->bits);
    free(m->disk);
    free(m->writing);
    free(m->in_flight);
    free(m->blocks);
    free(m->flying);
}

static void page_span(const struct model *m, uint64_t page, uint64_t *first, uint64_t *n)
{
    *first = page * BITMAP_PAGE_GRANULES;
    *n = min_u64(m->granules - *first, BITMAP_PAGE_GRANULES);
}

static void compare(const struct bitmap *b, const struct model *m)
{
    uint64_t dirty = 0, from = 0;
    for (uint64_t g = 0; g < m->granules; g++)
        dirty += m->bits[g];
    assert_int_equal(bitmap_dirty_bytes(b), dirty * GRANULE);
    struct range r;
    while (bitmap_next(b, from, 7 * GRANULE, &r)) {
        assert_true(r.length_bytes > 0 && r.length_bytes <= 7 * GRANULE);
        for (; from < r.offset_bytes; from += GRANULE)
            assert_int_equal(m->bits[from / GRANULE], 0);
        for (; from < range_end(r); from += GRANULE)
            assert_int_equal(m->bits[from / GRANULE], 1);
    }
    for (; from < m->size_bytes; from += GRANULE)
        assert_int_equal(m->bits[from / GRANULE], 0);
    /* A page that is not stale is equal on the disk. */
    uint64_t stale = 0;
    for (uint64_t page = 0; page < m->pages; page++) {
        uint64_t first, n;
        page_span(m, page, &first, &n);
        stale += bitmap_page_is_stale(b, page);
        if (!bitmap_page_is_stale(b, page))
            assert_memory_equal(&m->bits[first], &m->disk[first], n);
    }
    assert_int_equal(bitmap_stale_pages(b), stale);
}

static struct range some_range(struct prng *p, const struct model *m)
{
    uint64_t lengths[] = { 1, 3, 64, 700, BITMAP_PAGE_GRANULES, m->granules };
    uint64_t first = prng_below(p, m->granules);
    uint64_t n = 1 + prng_below(p, lengths[prng_below(p, ARRAY_LEN(lengths))]);
    return (struct range) { first * GRANULE, min_u64(n, m->granules - first) * GRANULE };
}

static void begin_write(struct bitmap *b, struct model *m, uint64_t page)
{
    uint64_t first, n;
    page_span(m, page, &first, &n);
    memcpy(&m->writing[first], &m->bits[first], n);
    m->in_flight[page] = true;
    bitmap_page_encode(b, page, m->flying[page]);
    assert_true(bitmap_page_is_stale(b, page));
}

static void land(struct model *m, uint64_t page)
{
    uint64_t first, n;
    page_span(m, page, &first, &n);
    memcpy(&m->disk[first], &m->writing[first], n);
    memcpy(m->blocks[page], m->flying[page], BITMAP_PAGE_BYTES);
}

/* All that is left is what was on the disk; a write under way may have got there or not. */
static struct bitmap *crash(struct bitmap *b, struct model *m, struct prng *p)
{
    bitmap_close(b);
    for (uint64_t page = 0; page < m->pages; page++) {
        if (m->in_flight[page] && prng_chance(p, 500000))
            land(m, page);
        m->in_flight[page] = false;
    }
    memcpy(m->bits, m->disk, m->granules);
    b = must_open(m->size_bytes);
    struct err err = { 0 };
    for (uint64_t page = 0; page < m->pages; page++) {
        assert_int_equal(bitmap_page_load(b, page, m->blocks[page], &err), 0);
        assert_false(bitmap_page_is_stale(b, page));
    }
    return b;
}

static void one_step(struct bitmap **b, struct model *m, struct prng *p)
{
    struct range r = some_range(p, m);
    uint8_t *bits = &m->bits[r.offset_bytes / GRANULE];
    uint64_t n = r.length_bytes / GRANULE, page = prng_below(p, m->pages), what = prng_below(p, 100);
    bool any_set = memchr(bits, 1, n), any_clear = memchr(bits, 0, n);
    if (what < 35) {
        assert_int_equal(bitmap_set(*b, r), any_clear);
        memset(bits, 1, n);
    } else if (what < 60) {
        bitmap_clear(*b, r);
        memset(bits, 0, n);
    } else if (what < 70) {
        assert_int_equal(bitmap_any(*b, r), any_set);
    } else if (what < 92) {
        page = bitmap_next_stale(*b, page);
        if (page != BITMAP_NONE && !m->in_flight[page])
            begin_write(*b, m, page);
        for (page = 0; page < m->pages; page++) {
            if (!m->in_flight[page] || prng_chance(p, 500000))
                continue;
            bool ok = prng_chance(p, 900000);
            if (ok || prng_chance(p, 500000))
                land(m, page);
            bitmap_page_written(*b, page, ok);
            m->in_flight[page] = false;
        }
    } else if (what < 98) {
        uint64_t bytes = bitmap_wire_bytes(*b, r);
        uint8_t *wire = malloc(bytes);
        assert_non_null(wire);
        bitmap_export(*b, r, wire);
        for (uint64_t i = 0; i < bytes * 8; i++)
            assert_int_equal(wire[i / 8] >> i % 8 & 1, i < n ? bits[i] : 0);
        for (uint64_t i = 0; i < bytes; i++)
            wire[i] = (uint8_t)(prng_next(p) & prng_next(p));
        bitmap_import(*b, r, wire);
        for (uint64_t i = 0; i < n; i++)
            bits[i] |= wire[i / 8] >> i % 8 & 1;
        free(wire);
    } else {
        *b = crash(*b, m, p);
    }
}

static void it_does_what_a_plain_array_does(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct prng p = prng_seed(seed);
        struct model m = model_of((1 + prng_below(&p, 3 * BITMAP_PAGE_GRANULES)) * GRANULE);
        struct bitmap *b = must_open(m.size_bytes);
        for (unsigned i = 0; i < 120; i++) {
            one_step(&b, &m, &p);
            compare(b, &m);
        }
        bitmap_close(b);
        model_free(&m);
    }
}

static void changed_while_being_written_is_stale_again(void **state)
{
    (void)state;
    struct bitmap *b = must_open(3 * PAGE_DATA);
    uint8_t block[BITMAP_PAGE_BYTES];
    assert_int_equal(bitmap_next_stale(b, 0), BITMAP_NONE);
    bitmap_set(b, (struct range) { PAGE_DATA, GRANULE });
    assert_int_equal(bitmap_next_stale(b, 0), 1);
    bitmap_page_encode(b, 1, block);
    assert_true(bitmap_page_is_stale(b, 1));
    assert_int_equal(bitmap_next_stale(b, 0), BITMAP_NONE);
    bitmap_set(b, (struct range) { PAGE_DATA + GRANULE, GRANULE });
    assert_int_equal(bitmap_next_stale(b, 0), BITMAP_NONE); /* one write at a time */
    bitmap_page_written(b, 1, true);
    assert_int_equal(bitmap_next_stale(b, 0), 1);
    bitmap_page_encode(b, 1, block);
    bitmap_page_written(b, 1, false);
    assert_int_equal(bitmap_next_stale(b, 0), 1);
    bitmap_page_encode(b, 1, block);
    bitmap_page_written(b, 1, true);
    assert_false(bitmap_page_is_stale(b, 1));
    assert_int_equal(bitmap_stale_pages(b), 0);
    bitmap_close(b);
}

static void every_flipped_bit_is_noticed(void **state)
{
    (void)state;
    struct bitmap *b = must_open(PAGE_DATA), *read = must_open(PAGE_DATA);
    uint8_t block[BITMAP_PAGE_BYTES];
    bitmap_set(b, (struct range) { 100 * GRANULE, 33 * GRANULE });
    bitmap_page_encode(b, 0, block);
    for (unsigned bit = 0; bit < BITMAP_PAGE_BYTES * 8; bit++) {
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(bitmap_page_load(read, 0, block, NULL), -EBADMSG);
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(bitmap_dirty_bytes(read), 0);
    assert_int_equal(bitmap_page_load(read, 0, block, NULL), 0);
    assert_int_equal(bitmap_dirty_bytes(read), 33 * GRANULE);
    bitmap_close(b);
    bitmap_close(read);
}

static void a_page_that_does_not_belong_is_noticed(void **state)
{
    (void)state;
    uint8_t block[BITMAP_PAGE_BYTES];
    struct err err = { 0 };
    struct bitmap *b = must_open(2 * PAGE_DATA);
    bitmap_set_all(b);
    bitmap_page_encode(b, 1, block);
    bitmap_close(b);

    b = must_open(2 * PAGE_DATA);
    assert_int_equal(bitmap_page_load(b, 0, block, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "another page"));
    bitmap_page_set_all(b, 0);
    assert_int_equal(bitmap_dirty_bytes(b), PAGE_DATA);
    assert_true(bitmap_page_is_stale(b, 0));
    bitmap_close(b);

    b = bitmap_open(2 * PAGE_DATA, GRANULE, owner(2), &err);
    assert_int_equal(bitmap_page_load(b, 1, block, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "another leg"));
    bitmap_close(b);

    b = bitmap_open(4 * PAGE_DATA, 2 * GRANULE, owner(1), &err);
    assert_int_equal(bitmap_page_load(b, 1, block, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "another size"));
    bitmap_close(b);

    b = must_open(2 * PAGE_DATA - GRANULE);
    assert_int_equal(bitmap_page_load(b, 1, block, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "beyond the volume's end"));
    bitmap_close(b);
}

/* Its bits were all set already: but the disk does not say so. */
static void a_damaged_page_is_stale_whatever_memory_holds(void **state)
{
    (void)state;
    uint8_t block[BITMAP_PAGE_BYTES];
    struct bitmap *b = must_open(PAGE_DATA);
    bitmap_set_all(b);
    bitmap_page_encode(b, 0, block);
    bitmap_page_written(b, 0, true);
    block[99] ^= 1;
    assert_int_equal(bitmap_page_load(b, 0, block, NULL), -EBADMSG);
    assert_false(bitmap_page_is_stale(b, 0));
    bitmap_page_set_all(b, 0);
    assert_true(bitmap_page_is_stale(b, 0));
    bitmap_close(b);
}

static void memory_is_united_with_the_disk(void **state)
{
    (void)state;
    uint8_t block[BITMAP_PAGE_BYTES];
    struct bitmap *b = must_open(PAGE_DATA);
    bitmap_set(b, (struct range) { 0, 2 * GRANULE });
    bitmap_page_encode(b, 0, block);
    bitmap_close(b);
    b = must_open(PAGE_DATA);
    bitmap_set(b, (struct range) { GRANULE, 2 * GRANULE });
    assert_int_equal(bitmap_page_load(b, 0, block, NULL), 0);
    assert_int_equal(bitmap_dirty_bytes(b), 3 * GRANULE);
    assert_true(bitmap_page_is_stale(b, 0));
    bitmap_close(b);
}

static void a_volume_grows(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct bitmap *b = must_open(0);
    struct range r;
    assert_int_equal(bitmap_page_count(b), 0);
    bitmap_set_all(b);
    assert_int_equal(bitmap_dirty_bytes(b), 0);
    assert_false(bitmap_next(b, 0, MIB, &r));
    assert_int_equal(bitmap_resize(b, PAGE_DATA + 3 * GRANULE, &err), 0);
    bitmap_set(b, (struct range) { PAGE_DATA, 3 * GRANULE });
    assert_int_equal(bitmap_resize(b, 5 * PAGE_DATA, &err), 0);
    assert_int_equal(bitmap_page_count(b), 5);
    assert_int_equal(bitmap_dirty_bytes(b), 3 * GRANULE);
    assert_int_equal(bitmap_next_stale(b, 0), 1);
    assert_true(bitmap_next(b, 0, MIB, &r));
    assert_int_equal(r.offset_bytes, PAGE_DATA);
    assert_int_equal(bitmap_resize(b, PAGE_DATA, &err), -EINVAL);
    assert_int_equal(bitmap_size_bytes(b), 5 * PAGE_DATA);
    bitmap_close(b);
}

/* 16 TiB: what is not set costs neither memory nor time. */
static void a_large_volume_is_cheap(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct bitmap *b = bitmap_open(16 * TIB, GRANULE_BYTES_DEFAULT, owner(1), &err);
    assert_non_null(b);
    bitmap_set(b, (struct range) { 16 * TIB - 4096, 4096 });
    struct range r;
    for (unsigned i = 0; i < 100; i++)
        assert_true(bitmap_next(b, 0, MIB, &r));
    assert_int_equal(r.offset_bytes, 16 * TIB - 4096);
    assert_int_equal(bitmap_next_stale(b, 0), bitmap_page_count(b) - 1);
    bitmap_clear(b, (struct range) { 0, bitmap_size_bytes(b) });
    assert_false(bitmap_any(b, (struct range) { 0, 16 * TIB }));
    bitmap_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_lies_as_documented),
        cmocka_unit_test(set_outward_and_cleared_inward),
        cmocka_unit_test(it_does_what_a_plain_array_does),
        cmocka_unit_test(changed_while_being_written_is_stale_again),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(a_page_that_does_not_belong_is_noticed),
        cmocka_unit_test(a_damaged_page_is_stale_whatever_memory_holds),
        cmocka_unit_test(memory_is_united_with_the_disk),
        cmocka_unit_test(a_volume_grows),
        cmocka_unit_test(a_large_volume_is_cheap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
