/* The model that a run is checked against. */
#include "tests/sim/model.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/units.h"

/* Clusters of a block beyond which dead ones are looked for. */
#define PRUNE_MIN 8

static uint64_t later(uint64_t a, uint64_t b) { return max_u64(a, b); }

/* What images are known to show of a block has to be looked at again. */
static void renew(struct model *m, struct model_block *b) { b->version = ++m->versions; }

static struct model_cluster *cluster_of(struct model_block *b, uint32_t write)
{
    for (uint32_t i = b->count; i-- > 0;) {
        if (b->live[i].write == write)
            return &b->live[i];
    }
    return NULL;
}

static void cluster_add(struct model *m, struct model_block *b, struct model_cluster c)
{
    renew(m, b);
    if (b->count == b->max) {
        b->max = b->max ? b->max * 2 : 16;
        b->live = realloc(b->live, b->max * sizeof(*b->live));
        if (!b->live)
            abort();
    }
    b->live[b->count++] = c;
}

void model_reset(struct model *m, uint32_t block_count)
{
    assert(block_count > 0 && block_count <= MODEL_BLOCKS_MAX);
    m->clock = 1;
    m->block_count = block_count;
    m->write_count = m->torn_count = 0;
    m->damaged = NULL;
    memset(m->spans, 0, sizeof(m->spans));
    m->span_bound = 0;
    uint32_t initial = model_write_begin(m, 0, block_count, true);
    assert(initial == 0);
    for (uint32_t i = 0; i < block_count; i++)
        m->blocks[i].count = 0;
    m->writes[0] = (struct model_write) { .acked = 0, .ended = 0, .count = block_count, .zero = true };
    for (uint32_t i = 0; i < block_count; i++)
        cluster_add(m, &m->blocks[i], (struct model_cluster) { .zero = true });
}

void model_grow(struct model *m, uint32_t block_count)
{
    assert(block_count > m->block_count && block_count <= MODEL_BLOCKS_MAX);
    for (uint32_t i = m->block_count; i < block_count; i++) {
        m->blocks[i].count = 0;
        cluster_add(m, &m->blocks[i], (struct model_cluster) { .zero = true });
    }
    m->writes[0].count = m->block_count = block_count;
}

uint32_t model_write_begin(struct model *m, uint32_t first, uint32_t count, bool zero)
{
    assert(count > 0 && first < m->block_count && count <= m->block_count - first);
    if (m->write_count == m->write_max) {
        m->write_max = m->write_max ? m->write_max * 2 : 1024;
        m->writes = realloc(m->writes, m->write_max * sizeof(*m->writes));
        if (!m->writes)
            abort();
    }
    uint32_t id = m->write_count++;
    uint64_t now = m->clock++;
    m->writes[id] = (struct model_write) {
        .begin = now, .acked = MODEL_NEVER, .ended = MODEL_NEVER, .first = first, .count = count, .zero = zero
    };
    for (uint32_t i = first; i < first + count; i++)
        cluster_add(m, &m->blocks[i],
                    (struct model_cluster) {
                        .write = id, .zero = zero, .acked = MODEL_NEVER, .first_end = MODEL_NEVER, .last_begin = now });
    return id;
}

/* Each word depends on the write, the block and its place, so that torn, mixed and misplaced blocks all show. */
static uint64_t pattern(uint32_t write, uint32_t block, unsigned word)
{
    uint64_t v = ((uint64_t)write << 32 | block) + (uint64_t)word * UINT64_C(0x9e3779b97f4a7c15);
    return word == 0 ? v : (v ^ v >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
}

void model_fill(uint32_t write, uint32_t block, uint8_t data[BLOCK_BYTES])
{
    uint64_t words[BLOCK_BYTES / 8];
    for (unsigned i = 0; i < ARRAY_LEN(words); i++)
        words[i] = pattern(write, block, i);
    memcpy(data, words, BLOCK_BYTES);
}

enum content { CONTENT_ZERO, CONTENT_WRITE, CONTENT_TORN };

/* What no write put there may be known all the same. */
static enum content torn_content(const struct model *m, uint32_t block, const uint8_t *data, uint32_t *write)
{
    for (uint32_t i = 0; i < m->torn_count; i++) {
        const struct model_torn *t = &m->torn[i];
        if (t->block != block || memcmp(t->data, data, BLOCK_BYTES) != 0)
            continue;
        *write = t->write;
        return CONTENT_WRITE;
    }
    return CONTENT_TORN;
}

static enum content content_of(const struct model *m, uint32_t block, const uint8_t *data, uint32_t *write)
{
    uint64_t words[BLOCK_BYTES / 8];
    memcpy(words, data, BLOCK_BYTES);
    *write = (uint32_t)(words[0] >> 32);
    uint64_t wrong = 0;
    if (words[0] == 0) {
        for (unsigned i = 1; i < ARRAY_LEN(words); i++)
            wrong |= words[i];
        return wrong ? torn_content(m, block, data, write) : CONTENT_ZERO;
    }
    for (unsigned i = 0; i < ARRAY_LEN(words); i++)
        wrong |= words[i] ^ pattern(*write, block, i);
    if (wrong || *write >= m->write_count || m->writes[*write].zero)
        return torn_content(m, block, data, write);
    return CONTENT_WRITE;
}

/* A write that ended without an acknowledgement may be there or not, on one leg or on both: it says nothing of others,
 * but what was begun after its end and acknowledged has overwritten it. */
static bool has_failed(const struct model_write *w) { return w->acked == MODEL_NEVER && w->ended != MODEL_NEVER; }

/* A write has been acknowledged, has ended or is lost: its clusters say so, too. */
static void tell_clusters(struct model *m, uint32_t write)
{
    const struct model_write *w = &m->writes[write];
    for (uint32_t i = w->first; i < w->first + w->count; i++) {
        struct model_cluster *c = cluster_of(&m->blocks[i], write);
        if (!c)
            continue;
        renew(m, &m->blocks[i]);
        c->acked = w->acked;
        c->failed = has_failed(w);
        c->first_end = min_u64(c->first_end, w->acked);
    }
}

/* Is it settled that X came before Y, which is acknowledged, given that X took effect at all? */
static bool came_before(const struct model *m, const struct model_cluster *x, const struct model_cluster *y)
{
    if (x->failed)
        return m->writes[x->write].ended < m->writes[y->write].begin;
    return x->first_end < y->last_begin;
}

/* When the oldest operation in flight began. */
static uint64_t oldest_span(const struct model *m)
{
    uint64_t oldest = m->clock;
    for (unsigned i = 0; i < m->span_bound; i++) {
        if (m->spans[i])
            oldest = min_u64(oldest, m->spans[i]);
    }
    return oldest;
}

/* Drops the clusters that no operation in flight or to come may meet: Y is acknowledged, came later, and was
 * acknowledged before any of those began. */
static void prune(struct model *m, struct model_block *b, uint64_t oldest)
{
    uint64_t settled = 0; /* the latest begin among the clusters that were acknowledged in time */
    for (uint32_t i = 0; i < b->count; i++) {
        if (b->live[i].acked < oldest)
            settled = later(settled, m->writes[b->live[i].write].begin);
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < b->count; i++) {
        struct model_cluster c = b->live[i];
        bool dead = c.failed                 ? m->writes[c.write].ended < settled
                    : c.acked != MODEL_NEVER ? c.first_end < settled
                                             : false;
        if (!dead)
            b->live[kept++] = c;
    }
    b->count = kept;
}

void model_write_acked(struct model *m, uint32_t write)
{
    struct model_write *w = &m->writes[write];
    assert(w->ended == MODEL_NEVER);
    w->acked = w->ended = m->clock++;
    tell_clusters(m, write);
    uint64_t oldest = oldest_span(m);
    for (uint32_t i = w->first; i < w->first + w->count; i++) {
        if (m->blocks[i].count >= PRUNE_MIN)
            prune(m, &m->blocks[i], oldest);
    }
}

void model_write_ended(struct model *m, uint32_t write)
{
    struct model_write *w = &m->writes[write];
    if (w->ended != MODEL_NEVER)
        return;
    w->ended = m->clock++;
    tell_clusters(m, write);
}

/* When what lies in a block had been put there at the latest. False: no write did that. */
static bool latest_end(const struct model *m, uint32_t block, const uint8_t *data, uint64_t *end)
{
    const struct model_block *b = &m->blocks[block];
    uint32_t write;
    enum content what = content_of(m, block, data, &write);
    *end = 0; /* overwritten long ago */
    for (uint32_t i = 0; i < b->count; i++) {
        const struct model_cluster *c = &b->live[i];
        if (what == CONTENT_ZERO ? c->zero : c->write == write)
            *end = later(*end, c->failed ? m->writes[c->write].ended : c->first_end);
    }
    return what != CONTENT_TORN;
}

void model_tear(struct model *m, uint32_t block, const uint8_t before[BLOCK_BYTES], const uint8_t after[BLOCK_BYTES],
                const uint8_t torn[BLOCK_BYTES])
{
    uint64_t old, new;
    uint32_t write;
    bool known = latest_end(m, block, before, &old) && latest_end(m, block, after, &new);
    if (!known || content_of(m, block, torn, &write) != CONTENT_TORN)
        return;
    write = model_write_begin(m, block, 1, false);
    struct model_write *w = &m->writes[write];
    w->ended = min_u64(m->clock++, min_u64(old, new));
    w->begin = min_u64(w->begin, w->ended);
    w->given_up = true;
    tell_clusters(m, write);
    if (m->torn_count == m->torn_max) {
        m->torn_max = m->torn_max ? m->torn_max * 2 : 64;
        m->torn = realloc(m->torn, m->torn_max * sizeof(*m->torn));
        if (!m->torn)
            abort();
    }
    struct model_torn *t = &m->torn[m->torn_count++];
    *t = (struct model_torn) { .write = write, .block = block };
    memcpy(t->data, torn, BLOCK_BYTES);
}

bool model_shows_torn(const struct model *m, const uint8_t data[BLOCK_BYTES], uint32_t block)
{
    uint32_t write;
    return torn_content(m, block, data, &write) == CONTENT_WRITE;
}

void model_lost_power(struct model *m, uint64_t since)
{
    uint64_t now = m->clock++;
    for (uint32_t i = 0; i < m->write_count; i++) {
        struct model_write *w = &m->writes[i];
        w->given_up |= w->ended == MODEL_NEVER;
        if (w->acked == MODEL_NEVER || w->acked < since || w->durable)
            continue;
        w->acked = MODEL_NEVER;
        w->ended = now;
        w->given_up = true;
        tell_clusters(m, i);
    }
}

void model_give_up(struct model *m, unsigned owner, uint64_t since, uint64_t until)
{
    uint64_t now = m->clock++;
    for (uint32_t i = 1; i < m->write_count; i++) {
        struct model_write *w = &m->writes[i];
        if (w->owner != owner || w->acked == MODEL_NEVER || w->acked < since || w->acked >= until)
            continue;
        w->acked = MODEL_NEVER;
        w->ended = now;
        w->given_up = true;
        tell_clusters(m, i);
    }
}

uint32_t model_span_begin(struct model *m)
{
    for (uint32_t i = 0; i < MODEL_SPANS_MAX; i++) {
        if (m->spans[i] == 0) {
            m->spans[i] = m->clock++;
            m->span_bound = i >= m->span_bound ? i + 1 : m->span_bound;
            return i;
        }
    }
    abort();
}

uint64_t model_span_begun(const struct model *m, uint32_t span)
{
    assert(m->spans[span] != 0);
    return m->spans[span];
}

void model_span_end(struct model *m, uint32_t span)
{
    assert(m->spans[span] != 0);
    m->spans[span] = 0;
}

void model_span_move(struct model *m, uint32_t span, uint64_t begun)
{
    assert(m->spans[span] != 0);
    m->spans[span] = begun;
}

static int describe(const struct model *m, char *to, size_t room, uint32_t write)
{
    const struct model_write *w = &m->writes[write];
    char acked[32] = "never", ended[32] = "in flight";
    if (w->acked != MODEL_NEVER)
        snprintf(acked, sizeof(acked), "%" PRIu64, w->acked);
    if (w->ended != MODEL_NEVER)
        snprintf(ended, sizeof(ended), "%" PRIu64, w->ended);
    return snprintf(to, room, "%s %u of blocks %u-%u (begun %" PRIu64 ", acknowledged %s, ended %s)",
                    w->zero ? "zeroes" : "write", write, w->first, w->first + w->count - 1, w->begin, acked, ended);
}

static bool violated(struct model *m, uint32_t block, const char *what, uint32_t found, const char *which,
                     uint32_t other)
{
    int n = snprintf(m->facts, sizeof(m->facts), "block %u: %s ", block, what);
    n += describe(m, m->facts + n, sizeof(m->facts) - (size_t)n, found);
    n += snprintf(m->facts + n, sizeof(m->facts) - (size_t)n, "; %s ", which);
    describe(m, m->facts + n, sizeof(m->facts) - (size_t)n, other);
    return false;
}

static bool torn(struct model *m, uint32_t block, const uint8_t *data, uint32_t write)
{
    uint64_t words[BLOCK_BYTES / 8];
    memcpy(words, data, BLOCK_BYTES);
    unsigned same = 0;
    for (unsigned i = 0; i < ARRAY_LEN(words); i++)
        same += words[i] == pattern(write, block, i);
    snprintf(
        m->facts, sizeof(m->facts),
        "block %u holds what no write put there: it begins as block %u of write %u (known: %u), of which %u of %zu "
        "words are right",
        block, (uint32_t)words[0], write, m->write_count, same, ARRAY_LEN(words));
    return false;
}

/* The write that a read of `c` in [begin, now] contradicts, or UINT32_MAX. */
static uint32_t contradicts(const struct model *m, const struct model_block *b, const struct model_cluster *c,
                            uint64_t begin, uint64_t now)
{
    struct model_cluster with = *c;
    with.last_begin = later(with.last_begin, begin);
    with.first_end = min_u64(with.first_end, now);
    for (uint32_t i = 0; i < b->count; i++) {
        const struct model_cluster *d = &b->live[i];
        if (d->write == c->write || d->failed)
            continue;
        if (c->failed ? d->acked < begin && came_before(m, c, d)
                      : with.first_end < d->last_begin && d->first_end < with.last_begin)
            return d->write;
    }
    return UINT32_MAX;
}

static bool check_read_block(struct model *m, uint64_t begin, uint64_t now, uint32_t block, const uint8_t *data)
{
    struct model_block *b = &m->blocks[block];
    struct model_cluster *seen = NULL;
    uint32_t write;
    switch (content_of(m, block, data, &write)) {
    case CONTENT_TORN: return torn(m, block, data, write);
    case CONTENT_WRITE: {
        seen = cluster_of(b, write);
        if (!seen) {
            snprintf(m->facts, sizeof(m->facts), "block %u: returned the content of write %u, overwritten long ago",
                     block, write);
            return false;
        }
        uint32_t other = contradicts(m, b, seen, begin, now);
        if (other != UINT32_MAX)
            return violated(m, block, "returned the content of", write, "contradicted by", other);
        break;
    }
    case CONTENT_ZERO: {
        unsigned fit = 0;
        uint32_t other = 0;
        for (uint32_t i = 0; i < b->count; i++) {
            if (!b->live[i].zero)
                continue;
            uint32_t against = contradicts(m, b, &b->live[i], begin, now);
            if (against == UINT32_MAX) {
                fit++;
                seen = &b->live[i];
            } else {
                other = against;
            }
        }
        if (fit == 0)
            return violated(m, block, "returned zeroes, as left by no", other, "the last known is", other);
        if (fit > 1)
            return true;
        break;
    }
    }
    if (!seen->failed && (now < seen->first_end || begin > seen->last_begin)) {
        seen->first_end = min_u64(seen->first_end, now);
        seen->last_begin = later(seen->last_begin, begin);
        renew(m, b);
    }
    return true;
}

static bool is_left_out(const struct model *m, uint32_t block)
{
    return m->damaged && (m->damaged[block / 64] >> (block % 64) & 1);
}

bool model_shows(const uint8_t data[BLOCK_BYTES], uint32_t write, uint32_t block)
{
    uint64_t first;
    memcpy(&first, data, sizeof(first));
    return first == pattern(write, block, 0);
}

bool model_shows_failed(const struct model *m, const uint8_t data[BLOCK_BYTES], uint32_t block, uint32_t *write)
{
    return content_of(m, block, data, write) == CONTENT_WRITE && has_failed(&m->writes[*write]);
}

bool model_check_read(struct model *m, uint32_t span, uint32_t first, uint32_t count, const uint8_t *data)
{
    uint64_t begin = model_span_begun(m, span);
    uint64_t now = m->clock++;
    for (uint32_t i = 0; i < count; i++) {
        if (!is_left_out(m, first + i) && !check_read_block(m, begin, now, first + i, data + (size_t)i * BLOCK_BYTES))
            return false;
    }
    return true;
}

/* Calls `older` for what lies in a block; zeroes pass when any write of zeroes passes. */
typedef uint32_t older_fn(const struct model *m, const struct model_block *b, const struct model_cluster *c,
                          uint64_t arg);

static bool check_image_block(struct model *m, uint32_t block, const uint8_t *data, older_fn *older, uint64_t arg)
{
    struct model_block *b = &m->blocks[block];
    uint32_t write;
    uint32_t than = UINT32_MAX;
    switch (content_of(m, block, data, &write)) {
    case CONTENT_TORN: return torn(m, block, data, write);
    case CONTENT_WRITE: {
        const struct model_cluster *c = cluster_of(b, write);
        if (!c) {
            snprintf(m->facts, sizeof(m->facts), "block %u still holds write %u, overwritten long ago", block, write);
            return false;
        }
        than = older(m, b, c, arg);
        if (than != UINT32_MAX)
            return violated(m, block, "still holds", write, "and lacks", than);
        return true;
    }
    case CONTENT_ZERO:
        for (uint32_t i = 0; i < b->count; i++) {
            if (!b->live[i].zero)
                continue;
            uint32_t against = older(m, b, &b->live[i], arg);
            if (against == UINT32_MAX)
                return true;
            than = against;
        }
        if (than == UINT32_MAX) {
            snprintf(m->facts, sizeof(m->facts), "block %u still holds zeroes, overwritten long ago", block);
            return false;
        }
        return violated(m, block, "holds zeroes, but lacks", than, "known last", than);
    }
    return false;
}

/* What an image shows in a block, looked at only if it may have changed. False: nothing that was ever written. */
static bool look(const struct model *m, struct model_image *image, uint32_t block)
{
    struct model_seen *seen = &image->seen[block];
    uint64_t stamp = image->stamps ? image->stamps[block] : 0;
    if (stamp && seen->stamp == stamp)
        return seen->known;
    const struct model_seen *same = image->twin ? &image->twin->seen[block] : NULL;
    if (stamp && same && same->stamp == stamp) {
        *seen = *same;
        return seen->known;
    }
    enum content what = content_of(m, block, image->data + (size_t)block * BLOCK_BYTES, &seen->write);
    seen->stamp = stamp;
    seen->known = what != CONTENT_TORN;
    seen->zero = what == CONTENT_ZERO;
    seen->version = 0;
    return seen->known;
}

static uint32_t older_than_write(const struct model *m, const struct model_block *b, const struct model_cluster *c,
                                 uint64_t write)
{
    const struct model_cluster *w = cluster_of((struct model_block *)b, (uint32_t)write);
    return w && c != w && came_before(m, c, w) ? (uint32_t)write : UINT32_MAX;
}

bool model_check_holds(struct model *m, struct model_image *image, uint32_t write)
{
    const struct model_write *w = &m->writes[write];
    for (uint32_t i = w->first; i < w->first + w->count; i++) {
        /* Mostly it is this very write; while it is in flight, no block has forgotten it. */
        const struct model_seen *seen = &image->seen[i];
        if (look(m, image, i) && w->ended == MODEL_NEVER &&
            (w->zero ? seen->zero : !seen->zero && seen->write == write))
            continue;
        if (!is_left_out(m, i) &&
            !check_image_block(m, i, image->data + (size_t)i * BLOCK_BYTES, older_than_write, write))
            return false;
    }
    return true;
}

static uint32_t older_than_acked(const struct model *m, const struct model_block *b, const struct model_cluster *c,
                                 uint64_t bound)
{
    for (uint32_t i = 0; i < b->count; i++) {
        const struct model_cluster *d = &b->live[i];
        if (d != c && d->acked < bound && came_before(m, c, d))
            return d->write;
    }
    return UINT32_MAX;
}

/* For which bounds older_than_acked() finds nothing: up to this one. */
static uint64_t current_until(const struct model *m, const struct model_block *b, struct model_cluster *c)
{
    if (c->version == b->version)
        return c->current;
    c->version = b->version;
    c->current = MODEL_NEVER;
    for (uint32_t i = 0; i < b->count; i++) {
        const struct model_cluster *d = &b->live[i];
        if (d->acked < c->current && d != c && came_before(m, c, d))
            c->current = d->acked;
    }
    return c->current;
}

static uint64_t image_current_until(struct model *m, struct model_image *image, uint32_t block)
{
    struct model_block *b = &m->blocks[block];
    struct model_seen *seen = &image->seen[block];
    if (!look(m, image, block))
        return 0;
    if (seen->version == b->version)
        return seen->current;
    seen->version = b->version;
    seen->current = 0;
    if (!seen->zero) {
        struct model_cluster *c = cluster_of(b, seen->write);
        seen->current = c ? current_until(m, b, c) : 0;
        return seen->current;
    }
    for (uint32_t i = 0; i < b->count; i++) {
        if (b->live[i].zero)
            seen->current = later(seen->current, current_until(m, b, &b->live[i]));
    }
    return seen->current;
}

bool model_check_current(struct model *m, struct model_image *image, uint64_t bound)
{
    assert(bound > 0);
    for (uint32_t i = 0; i < m->block_count; i++) {
        if (image_current_until(m, image, i) < bound && !is_left_out(m, i) &&
            !check_image_block(m, i, image->data + (size_t)i * BLOCK_BYTES, older_than_acked, bound))
            return false;
    }
    return true;
}

bool model_check_durable(struct model *m, struct model_image *image, uint64_t bound)
{
    for (uint32_t i = 0; i < m->write_count; i++) {
        const struct model_write *w = &m->writes[i];
        if (w->durable && w->acked != MODEL_NEVER && w->acked >= bound && !model_check_holds(m, image, i))
            return false;
    }
    return model_check_current(m, image, bound);
}
