/* The out-of-sync bitmap in memory, and its pages as they lie on disk. */
#include "repl/meta/bitmap.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/block.h"
#include "repl/base/checksum.h"
#include "repl/base/endian.h"

#define PAGE_VERSION 1
#define WORD_BITS 64u
#define PAGE_WORDS (BITMAP_PAGE_GRANULES / WORD_BITS)

struct page_disk {
    le64 magic;
    le64 check; /* XXH3-64 over the block with this field as 0 */
    le32 version;
    le32 granule_bytes;
    le64 index; /* of the page: a misdirected write is told from a good one */
    struct id owner;
    uint8_t zero[16];
    le64 bits[PAGE_WORDS]; /* the lowest bit of the first word is the page's first granule */
};
static_assert(sizeof(struct page_disk) == BITMAP_PAGE_BYTES, "a page is one block");
static_assert(offsetof(struct page_disk, bits) == BITMAP_PAGE_HEADER_BYTES, "no padding");
static_assert(BITMAP_PAGE_GRANULES % WORD_BITS == 0, "a word belongs to one page");
static_assert(BITMAP_PAGE_GRANULES <= UINT16_MAX, "a page's count of set bits fits");

struct bitmap {
    uint64_t size_bytes;
    uint64_t granules;
    uint64_t pages;
    uint64_t set_granules;
    uint64_t stale_pages; /* stale, being written, or both */
    uint32_t granule_bytes;
    struct id owner;
    uint64_t *words;    /* PAGE_WORDS for each page */
    uint16_t *set;      /* set granules of each page */
    uint64_t *nonempty; /* a bit a page: any granule set. Makes empty parts cheap to skip */
    uint64_t *stale;    /* a bit a page: changed since it was last read or given to be written */
    uint64_t *writing;  /* a bit a page: on its way to the disk */
};

static bool bit_get(const uint64_t *bits, uint64_t i) { return bits[i / WORD_BITS] >> i % WORD_BITS & 1; }
static void bit_set(uint64_t *bits, uint64_t i) { bits[i / WORD_BITS] |= UINT64_C(1) << i % WORD_BITS; }
static void bit_clear(uint64_t *bits, uint64_t i) { bits[i / WORD_BITS] &= ~(UINT64_C(1) << i % WORD_BITS); }

static uint64_t words_for(uint64_t bits) { return (bits + WORD_BITS - 1) / WORD_BITS; }

/* `count` ones from bit `at` of a word on. */
static uint64_t mask(unsigned at, uint64_t count)
{
    assert(count > 0 && at + count <= WORD_BITS);
    return (UINT64_MAX >> (WORD_BITS - count)) << at;
}

/* The first set bit in [from, end) of words, whose bits beyond end may be anything; `end`: there is none. */
static uint64_t first_set(const uint64_t *bits, uint64_t from, uint64_t end)
{
    for (uint64_t i = from; i < end; i = align_down(i, WORD_BITS) + WORD_BITS) {
        uint64_t rest = bits[i / WORD_BITS] & (UINT64_MAX << i % WORD_BITS);
        if (rest)
            return min_u64(align_down(i, WORD_BITS) + (unsigned)__builtin_ctzll(rest), end);
    }
    return end;
}

static uint64_t first_clear(const uint64_t *bits, uint64_t from, uint64_t end)
{
    for (uint64_t i = from; i < end; i = align_down(i, WORD_BITS) + WORD_BITS) {
        uint64_t rest = ~bits[i / WORD_BITS] & (UINT64_MAX << i % WORD_BITS);
        if (rest)
            return min_u64(align_down(i, WORD_BITS) + (unsigned)__builtin_ctzll(rest), end);
    }
    return end;
}

static uint64_t granules_for(uint64_t size_bytes, uint32_t granule_bytes)
{
    return size_bytes / granule_bytes + (size_bytes % granule_bytes != 0);
}

static bool is_granule(uint32_t bytes)
{
    return bytes >= GRANULE_BYTES_MIN && bytes <= GRANULE_BYTES_MAX && (bytes & (bytes - 1)) == 0;
}

uint64_t bitmap_pages_for(uint64_t size_bytes, uint32_t granule_bytes)
{
    assert(is_granule(granule_bytes));
    uint64_t granules = granules_for(size_bytes, granule_bytes);
    return granules / BITMAP_PAGE_GRANULES + (granules % BITMAP_PAGE_GRANULES != 0);
}

/* ---- Open, resize, close ---- */

static void arrays_close(struct bitmap *b)
{
    free(b->words);
    free(b->set);
    free(b->nonempty);
    free(b->stale);
    free(b->writing);
}

static bool arrays_open(struct bitmap *b, uint64_t size_bytes)
{
    b->size_bytes = size_bytes;
    b->granules = granules_for(size_bytes, b->granule_bytes);
    b->pages = bitmap_pages_for(size_bytes, b->granule_bytes);
    size_t pages = b->pages ? b->pages : 1; /* so that nothing is NULL */
    b->words = calloc(pages * PAGE_WORDS, sizeof(*b->words));
    b->set = calloc(pages, sizeof(*b->set));
    b->nonempty = calloc(words_for(pages), sizeof(uint64_t));
    b->stale = calloc(words_for(pages), sizeof(uint64_t));
    b->writing = calloc(words_for(pages), sizeof(uint64_t));
    if (b->words && b->set && b->nonempty && b->stale && b->writing)
        return true;
    arrays_close(b);
    return false;
}

static int out_of_memory(uint64_t size_bytes, struct err *err)
{
    return err_set(err, -ENOMEM, "out of memory for the bitmap of %llu bytes of volume",
                   (unsigned long long)size_bytes);
}

struct bitmap *bitmap_open(uint64_t size_bytes, uint32_t granule_bytes, struct id owner, struct err *err)
{
    assert(is_granule(granule_bytes) && size_bytes % BLOCK_BYTES == 0);
    struct bitmap *b = calloc(1, sizeof(*b));
    if (b) {
        b->granule_bytes = granule_bytes;
        b->owner = owner;
        if (arrays_open(b, size_bytes))
            return b;
        free(b);
    }
    out_of_memory(size_bytes, err);
    return NULL;
}

void bitmap_close(struct bitmap *b)
{
    if (!b)
        return;
    arrays_close(b);
    free(b);
}

int bitmap_resize(struct bitmap *b, uint64_t size_bytes, struct err *err)
{
    assert(size_bytes % BLOCK_BYTES == 0);
    if (size_bytes < b->size_bytes)
        return err_set(err, -EINVAL, "a volume of %llu bytes cannot shrink to %llu", (unsigned long long)b->size_bytes,
                       (unsigned long long)size_bytes);
    struct bitmap grown = *b;
    if (!arrays_open(&grown, size_bytes))
        return out_of_memory(size_bytes, err);
    for (uint64_t page = 0; page < b->pages; page++) {
        if (bit_get(b->stale, page))
            bit_set(grown.stale, page);
        if (bit_get(b->writing, page))
            bit_set(grown.writing, page);
        if (!b->set[page])
            continue; /* untouched memory stays untouched */
        memcpy(&grown.words[page * PAGE_WORDS], &b->words[page * PAGE_WORDS], PAGE_WORDS * sizeof(*b->words));
        grown.set[page] = b->set[page];
        bit_set(grown.nonempty, page);
    }
    arrays_close(b);
    *b = grown;
    return 0;
}

uint64_t bitmap_size_bytes(const struct bitmap *b) { return b->size_bytes; }
uint32_t bitmap_granule_bytes(const struct bitmap *b) { return b->granule_bytes; }

/* ---- Bits ---- */

static void touch(struct bitmap *b, uint64_t page)
{
    if (bit_get(b->stale, page))
        return;
    bit_set(b->stale, page);
    b->stale_pages += !bit_get(b->writing, page);
}

static void count(struct bitmap *b, uint64_t page, int64_t change)
{
    b->set[page] = (uint16_t)(b->set[page] + change);
    b->set_granules = (uint64_t)((int64_t)b->set_granules + change);
    assert(b->set[page] <= BITMAP_PAGE_GRANULES);
    if (b->set[page])
        bit_set(b->nonempty, page);
    else
        bit_clear(b->nonempty, page);
}

/* Sets the ones of `bits` in one word, or clears them. True: something changed. */
static bool change_word(struct bitmap *b, uint64_t word, uint64_t bits, bool set)
{
    uint64_t changed = bits & (set ? ~b->words[word] : b->words[word]);
    if (!changed)
        return false;
    b->words[word] ^= changed;
    uint64_t page = word / PAGE_WORDS;
    int64_t n = __builtin_popcountll(changed);
    count(b, page, set ? n : -n);
    touch(b, page);
    return true;
}

/* [first, end) in granules. */
static bool change_granules(struct bitmap *b, uint64_t first, uint64_t end, bool set)
{
    bool any = false;
    for (uint64_t g = first; g < end;) {
        uint64_t page = g / BITMAP_PAGE_GRANULES, page_end = (page + 1) * BITMAP_PAGE_GRANULES;
        if (!set && !b->set[page]) {
            g = page_end;
            continue;
        }
        /* All set already, as in each session of a full resync after the first. */
        if (set && b->set[page] == BITMAP_PAGE_GRANULES) {
            g = page_end;
            continue;
        }
        /* Whole pages at once: 16 TiB have 134,000 of them. */
        if (set && !b->set[page] && g % BITMAP_PAGE_GRANULES == 0 && page_end <= end) {
            memset(&b->words[page * PAGE_WORDS], 0xff, PAGE_WORDS * sizeof(*b->words));
            count(b, page, BITMAP_PAGE_GRANULES);
            touch(b, page);
            any = true;
            g = page_end;
            continue;
        }
        unsigned at = (unsigned)(g % WORD_BITS);
        uint64_t n = min_u64(WORD_BITS - at, end - g);
        any |= change_word(b, g / WORD_BITS, mask(at, n), set);
        g += n;
    }
    return any;
}

static uint64_t granule_end(const struct bitmap *b, struct range range)
{
    return granules_for(range_end(range), b->granule_bytes);
}

bool bitmap_set(struct bitmap *b, struct range range)
{
    assert(range_fits(range, b->size_bytes));
    if (!range.length_bytes)
        return false;
    return change_granules(b, range.offset_bytes / b->granule_bytes, granule_end(b, range), true);
}

void bitmap_clear(struct bitmap *b, struct range range)
{
    assert(range_fits(range, b->size_bytes));
    uint64_t first = granules_for(range.offset_bytes, b->granule_bytes);
    uint64_t end = range_end(range) == b->size_bytes ? b->granules : range_end(range) / b->granule_bytes;
    if (first < end)
        change_granules(b, first, end, false);
}

bool bitmap_any(const struct bitmap *b, struct range range)
{
    assert(range_fits(range, b->size_bytes));
    if (!range.length_bytes || !b->set_granules)
        return false;
    uint64_t first = range.offset_bytes / b->granule_bytes, end = granule_end(b, range);
    while (first < end) {
        uint64_t page = first / BITMAP_PAGE_GRANULES;
        uint64_t stop = min_u64(end, (page + 1) * BITMAP_PAGE_GRANULES);
        if (b->set[page] && first_set(b->words, first, stop) < stop)
            return true;
        first = stop;
    }
    return false;
}

void bitmap_page_set_all(struct bitmap *b, uint64_t page)
{
    bitmap_set(b, bitmap_page_range(b, page));
    touch(b, page); /* also when they all were: what the disk holds is not this */
}

void bitmap_set_all(struct bitmap *b) { bitmap_set(b, (struct range) { 0, b->size_bytes }); }

uint64_t bitmap_dirty_bytes(const struct bitmap *b)
{
    if (!b->set_granules)
        return 0;
    uint64_t bytes = b->set_granules * b->granule_bytes;
    bool last = bit_get(b->words, b->granules - 1);
    return last ? bytes - (b->granules * b->granule_bytes - b->size_bytes) : bytes;
}

/* The range of [first, end) in granules, cut at the volume's end. */
static struct range range_of(const struct bitmap *b, uint64_t first, uint64_t end)
{
    uint64_t offset = first * b->granule_bytes;
    return (struct range) { offset, min_u64(end * b->granule_bytes, b->size_bytes) - offset };
}

bool bitmap_next(const struct bitmap *b, uint64_t from_bytes, uint64_t length_bytes_max, struct range *out)
{
    assert(length_bytes_max >= b->granule_bytes);
    if (!b->set_granules || from_bytes >= b->size_bytes)
        return false;
    assert(from_bytes % b->granule_bytes == 0);
    uint64_t g = from_bytes / b->granule_bytes;
    for (;;) {
        uint64_t page = first_set(b->nonempty, g / BITMAP_PAGE_GRANULES, b->pages);
        if (page == b->pages)
            return false;
        g = max_u64(g, page * BITMAP_PAGE_GRANULES);
        uint64_t stop = (page + 1) * BITMAP_PAGE_GRANULES;
        g = first_set(b->words, g, stop);
        if (g < stop)
            break;
    }
    uint64_t end_max = g + min_u64(b->granules - g, length_bytes_max / b->granule_bytes);
    *out = range_of(b, g, first_clear(b->words, g, end_max));
    return true;
}

/* ---- For the wire ---- */

static uint64_t wire_granules(const struct bitmap *b, struct range range)
{
    assert(range_fits(range, b->size_bytes) && range.offset_bytes % b->granule_bytes == 0);
    assert(range_end(range) == b->size_bytes || range_end(range) % b->granule_bytes == 0);
    return granules_for(range.length_bytes, b->granule_bytes);
}

uint64_t bitmap_wire_bytes(const struct bitmap *b, struct range range) { return (wire_granules(b, range) + 7) / 8; }

void bitmap_export(const struct bitmap *b, struct range range, uint8_t *bytes)
{
    uint64_t n = wire_granules(b, range), g = range.offset_bytes / b->granule_bytes;
    for (; n > 0; bytes += 8) {
        /* 64 granules, which may begin inside a word. */
        unsigned at = (unsigned)(g % WORD_BITS);
        uint64_t v = b->words[g / WORD_BITS] >> at;
        uint64_t take = min_u64(n, WORD_BITS);
        if (at && at + take > WORD_BITS)
            v |= b->words[g / WORD_BITS + 1] << (WORD_BITS - at);
        le64 wire = to_le64(v & mask(0, take));
        memcpy(bytes, &wire, (take + 7) / 8);
        g += take;
        n -= take;
    }
}

void bitmap_import(struct bitmap *b, struct range range, const uint8_t *bytes)
{
    uint64_t n = wire_granules(b, range), g = range.offset_bytes / b->granule_bytes;
    for (; n > 0; bytes += 8) {
        unsigned at = (unsigned)(g % WORD_BITS);
        uint64_t take = min_u64(n, WORD_BITS);
        le64 wire = { 0 };
        memcpy(&wire, bytes, (take + 7) / 8);
        uint64_t v = from_le64(wire) & mask(0, take);
        change_word(b, g / WORD_BITS, v << at, true);
        if (at && at + take > WORD_BITS)
            change_word(b, g / WORD_BITS + 1, v >> (WORD_BITS - at), true);
        g += take;
        n -= take;
    }
}

/* ---- Pages ---- */

uint64_t bitmap_page_count(const struct bitmap *b) { return b->pages; }

uint64_t bitmap_page_of(const struct bitmap *b, uint64_t offset_bytes)
{
    assert(offset_bytes < b->size_bytes);
    return offset_bytes / b->granule_bytes / BITMAP_PAGE_GRANULES;
}

struct range bitmap_page_range(const struct bitmap *b, uint64_t page)
{
    assert(page < b->pages);
    return range_of(b, page * BITMAP_PAGE_GRANULES, (page + 1) * BITMAP_PAGE_GRANULES);
}

void bitmap_page_touch(struct bitmap *b, uint64_t page)
{
    assert(page < b->pages);
    touch(b, page);
}

bool bitmap_page_is_stale(const struct bitmap *b, uint64_t page)
{
    assert(page < b->pages);
    return bit_get(b->stale, page) || bit_get(b->writing, page);
}

uint64_t bitmap_next_stale(const struct bitmap *b, uint64_t from)
{
    if (!b->stale_pages)
        return BITMAP_NONE;
    for (uint64_t page = from; page < b->pages; page++) {
        page = first_set(b->stale, page, b->pages);
        if (page == b->pages)
            return BITMAP_NONE;
        if (!bit_get(b->writing, page))
            return page;
    }
    return BITMAP_NONE;
}

uint64_t bitmap_stale_pages(const struct bitmap *b) { return b->stale_pages; }

static uint64_t page_check(const struct page_disk *d)
{
    struct page_disk copy = *d;
    copy.check = to_le64(0);
    return checksum64(&copy, sizeof(copy));
}

void bitmap_page_encode(struct bitmap *b, uint64_t page, uint8_t block[BITMAP_PAGE_BYTES])
{
    assert(page < b->pages && !bit_get(b->writing, page));
    b->stale_pages += !bit_get(b->stale, page);
    bit_clear(b->stale, page);
    bit_set(b->writing, page);
    struct page_disk d = {
        .magic = to_le64(BITMAP_PAGE_MAGIC),
        .version = to_le32(PAGE_VERSION),
        .granule_bytes = to_le32(b->granule_bytes),
        .index = to_le64(page),
        .owner = b->owner,
    };
    for (unsigned i = 0; i < PAGE_WORDS; i++)
        d.bits[i] = to_le64(b->words[page * PAGE_WORDS + i]);
    d.check = to_le64(page_check(&d));
    memcpy(block, &d, sizeof(d));
}

void bitmap_page_written(struct bitmap *b, uint64_t page, bool ok)
{
    assert(page < b->pages && bit_get(b->writing, page));
    bit_clear(b->writing, page);
    if (!ok)
        bit_set(b->stale, page); /* nobody knows what is there */
    b->stale_pages -= !bit_get(b->stale, page);
}

static int bad(struct err *err, uint64_t page, const char *what)
{
    return err_set(err, -EBADMSG, "bitmap page %llu: %s", (unsigned long long)page, what);
}

/* Everything but the bits: those of granules beyond the volume's end are checked by the caller. */
static int check_page(const struct bitmap *b, uint64_t page, const struct page_disk *d, struct err *err)
{
    static const uint8_t zero[sizeof(d->zero)];
    if (from_le64(d->magic) != BITMAP_PAGE_MAGIC)
        return bad(err, page, "is none (magic)");
    if (from_le64(d->check) != page_check(d))
        return bad(err, page, "is damaged (checksum)");
    if (from_le32(d->version) != PAGE_VERSION)
        return bad(err, page, "is of another format");
    if (memcmp(d->zero, zero, sizeof(zero)) != 0)
        return bad(err, page, "has something where nothing belongs");
    if (!id_equal(d->owner, b->owner))
        return bad(err, page, "belongs to another leg");
    if (from_le64(d->index) != page)
        return bad(err, page, "is another page, which was written here");
    if (from_le32(d->granule_bytes) != b->granule_bytes)
        return bad(err, page, "has granules of another size");
    return 0;
}

int bitmap_page_load(struct bitmap *b, uint64_t page, const uint8_t block[BITMAP_PAGE_BYTES], struct err *err)
{
    assert(page < b->pages);
    struct page_disk d;
    static const struct page_disk never_written;
    memcpy(&d, block, sizeof(d));
    bool zero = memcmp(&d, &never_written, sizeof(d)) == 0;
    if (zero && !b->set[page])
        return 0; /* of a large volume almost all: its memory is not touched */
    int r = zero ? 0 : check_page(b, page, &d, err);
    if (r)
        return r;
    uint64_t first = page * PAGE_WORDS;
    for (unsigned i = 0; i < PAGE_WORDS; i++) {
        uint64_t granule = (first + i) * WORD_BITS;
        uint64_t inside = granule >= b->granules ? 0 : mask(0, min_u64(b->granules - granule, WORD_BITS));
        if (from_le64(d.bits[i]) & ~inside)
            return bad(err, page, "has bits beyond the volume's end");
    }
    bool was_stale = bit_get(b->stale, page), differs = false;
    for (unsigned i = 0; i < PAGE_WORDS; i++) {
        change_word(b, first + i, from_le64(d.bits[i]), true);
        differs |= b->words[first + i] != from_le64(d.bits[i]);
    }
    /* What came from the disk is on the disk. */
    if (!was_stale && !differs && bit_get(b->stale, page)) {
        bit_clear(b->stale, page);
        b->stale_pages -= !bit_get(b->writing, page);
    }
    if (differs)
        touch(b, page);
    return 0;
}
