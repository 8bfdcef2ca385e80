/* The metadata area of a simulated leg: pages of 4096 bytes, on the same kind of medium as the data. A write of a page
 * is stable when it is reported as done; one that is cut by a loss of power tears between its sectors. */
#include <errno.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/meta/al_block.h"
#include "tests/sim/sim.h"

#define LATENCY_MIN_NS (20 * NS_PER_US)
#define LATENCY_MAX_NS (2 * NS_PER_MS)

#define PAGE_SECTORS (META_PAGE_BYTES / SECTOR_BYTES)
#define SUPERBLOCK_PAGES SUPERBLOCK_COPIES

static_assert(SUPERBLOCK_BYTES == META_PAGE_BYTES, "a superblock is a page");

static const struct {
    const char *name;
    uint32_t first;
    uint32_t count;
} areas[] = {
    [SIM_META_SUPERBLOCK] = { "superblock", 0, SUPERBLOCK_PAGES },
    [SIM_META_ACTIVITY_LOG] = { "activity log", SUPERBLOCK_PAGES, SIM_META_LOG_PAGES },
    [SIM_META_BITMAP] = { "bitmap", SUPERBLOCK_PAGES + SIM_META_LOG_PAGES, SIM_META_BITMAP_PAGES },
};

void sim_meta_open(struct sim_meta *meta)
{
    medium_open(&meta->medium, (SUPERBLOCK_PAGES + SIM_META_LOG_PAGES + SIM_META_BITMAP_PAGES) * PAGE_SECTORS);
}

void sim_meta_reset(struct sim_meta *meta)
{
    medium_reset(&meta->medium);
    memset(meta->requests, 0, sizeof(meta->requests));
    meta->busy = 0;
    meta->error_per_million = meta->page_error_per_million = 0;
    meta->log_newest = meta->log_before = UINT32_MAX;
    meta->log_sealed = false;
}

static uint32_t sector_of(struct sim *s, enum sim_meta_area area, uint32_t index)
{
    if (index >= areas[area].count)
        sim_fail(s, "meta-range", "%s page %u, of %u", areas[area].name, index, areas[area].count);
    return (areas[area].first + index) * PAGE_SECTORS;
}

static void put(struct medium *m, uint32_t sector, const uint8_t *block, unsigned which)
{
    for (uint32_t i = 0; i < PAGE_SECTORS; i++) {
        if (which >> i & 1)
            medium_write(m, sector + i, block + (size_t)i * SECTOR_BYTES);
    }
}

static void settle(struct medium *m, uint32_t sector)
{
    for (uint32_t i = 0; i < PAGE_SECTORS; i++)
        medium_settle(m, sector + i);
}

#define ALL_SECTORS ((1u << PAGE_SECTORS) - 1)

int sim_meta_read(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t index, uint8_t block[META_PAGE_BYTES])
{
    struct medium *m = &s->node[node].meta.medium;
    uint32_t sector = sector_of(s, area, index);
    if (!medium_is_readable(m, sector, PAGE_SECTORS)) {
        COVER(meta_unreadable);
        memset(block, 0xff, META_PAGE_BYTES);
        return -EIO;
    }
    memcpy(block, medium_sector(m->content, sector), META_PAGE_BYTES);
    return 0;
}

bool sim_meta_superblock_is_new(struct sim_meta *meta)
{
    static_assert(sizeof(meta->superblock_stamps) / 8 == SUPERBLOCK_PAGES * PAGE_SECTORS, "a stamp for each sector");
    const struct medium *m = &meta->medium;
    const uint64_t *stamps = &m->content_stamps[areas[SIM_META_SUPERBLOCK].first * PAGE_SECTORS];
    bool is_same = memcmp(meta->superblock_stamps, stamps, sizeof(meta->superblock_stamps)) == 0;
    memcpy(meta->superblock_stamps, stamps, sizeof(meta->superblock_stamps));
    return !is_same || m->has_flaws;
}

void sim_meta_settle_superblocks(struct sim *s, unsigned node)
{
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        settle(&s->node[node].meta.medium, sector_of(s, SIM_META_SUPERBLOCK, i));
}

void sim_meta_put(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t index, const uint8_t *block,
                  unsigned sectors)
{
    struct medium *m = &s->node[node].meta.medium;
    uint32_t sector = sector_of(s, area, index);
    put(m, sector, block, sectors);
    settle(m, sector);
}

void sim_meta_write(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t index, const uint8_t *block,
                    sim_meta_done_fn *done)
{
    struct sim_meta *meta = &s->node[node].meta;
    uint32_t slot = SIM_META_REQUESTS_MAX;
    sector_of(s, area, index);
    if (s->node[node].moves)
        sim_fail(s, "grow", "node %u: %s page %u is written while the metadata moves", node, areas[area].name, index);
    for (uint32_t i = 0; i < SIM_META_REQUESTS_MAX; i++) {
        const struct sim_meta_request *r = &meta->requests[i];
        if (r->busy && r->area == area && r->index == index)
            sim_fail(s, "meta-overlap", "node %u: %s page %u is written while a write of it is in flight", node,
                     areas[area].name, index);
        if (!r->busy && slot == SIM_META_REQUESTS_MAX)
            slot = i;
    }
    if (slot == SIM_META_REQUESTS_MAX)
        sim_fail(s, "meta-flood", "node %u: more than %u metadata pages in flight", node, SIM_META_REQUESTS_MAX);
    meta->requests[slot] = (struct sim_meta_request) { .busy = true,
                                                       .area = area,
                                                       .index = index,
                                                       .block = block,
                                                       .check = checksum64(block, META_PAGE_BYTES),
                                                       .done = done };
    meta->busy++;
    if (area == SIM_META_ACTIVITY_LOG && meta->log_newest != index) {
        meta->log_before = meta->log_newest;
        meta->log_newest = index;
    }
    if (area == SIM_META_ACTIVITY_LOG)
        meta->log_sealed = false;
    sim_at(s, s->now_ns + sim_between(s, CHANCE_NODE, LATENCY_MIN_NS, LATENCY_MAX_NS), Q_META, node, slot);
}

static bool changes_nothing(const uint8_t *block)
{
    struct al_block b;
    return al_block_decode(block, &b, NULL) == 0 && b.update_count == 0;
}

static void count_error(enum sim_meta_area area)
{
    switch (area) {
    case SIM_META_SUPERBLOCK: COVER(meta_copy_error); return;
    case SIM_META_ACTIVITY_LOG: COVER(log_page_error); return;
    case SIM_META_BITMAP: COVER(bitmap_page_error); return;
    }
}

void sim_meta_event(struct sim *s, unsigned node, uint32_t slot)
{
    struct sim_meta *meta = &s->node[node].meta;
    struct sim_meta_request r = meta->requests[slot];
    uint32_t sector = sector_of(s, r.area, r.index);
    if (checksum64(r.block, META_PAGE_BYTES) != r.check)
        sim_fail(s, "meta-changed", "node %u: %s page %u was changed while it was being written", node,
                 areas[r.area].name, r.index);
    meta->requests[slot].busy = false;
    meta->busy--;
    bool is_page = r.area != SIM_META_SUPERBLOCK;
    unsigned pages = is_page ? meta->page_error_per_million : 0;
    if (sim_chance(s, CHANCE_NODE, meta->error_per_million) || sim_chance(s, CHANCE_NODE, pages)) {
        count_error(r.area);
        if (is_page)
            sim_plan_page_failed(s, node);
        /* It may be there all the same. */
        if (sim_chance(s, CHANCE_NODE, 300000))
            put(&meta->medium, sector, r.block, ALL_SECTORS);
        r.done(s, node, r.area, r.index, -EIO);
        return;
    }
    put(&meta->medium, sector, r.block, ALL_SECTORS);
    settle(&meta->medium, sector);
    if (r.area == SIM_META_ACTIVITY_LOG)
        meta->log_sealed = changes_nothing(r.block);
    r.done(s, node, r.area, r.index, 0);
}

/* What was in flight goes on without the process: a page is written or not, and when it is, it may still be in the
 * disk's cache. */
void sim_meta_crash(struct sim *s, unsigned node)
{
    struct sim_meta *meta = &s->node[node].meta;
    for (uint32_t i = 0; i < SIM_META_REQUESTS_MAX; i++) {
        struct sim_meta_request *r = &meta->requests[i];
        if (!r->busy)
            continue;
        COVER(meta_cut);
        r->busy = false;
        uint64_t fate = sim_below(s, CHANCE_NODE, 3);
        uint32_t sector = sector_of(s, r->area, r->index);
        if (fate > 0)
            put(&meta->medium, sector, r->block, ALL_SECTORS);
        if (fate > 1)
            settle(&meta->medium, sector);
    }
    meta->busy = 0;
}

static void count_torn(uint32_t sector)
{
    uint32_t page = sector / PAGE_SECTORS;
    if (page < areas[SIM_META_ACTIVITY_LOG].first)
        COVER(cut_torn_superblock);
    else if (page < areas[SIM_META_BITMAP].first)
        COVER(cut_torn_log);
    else
        COVER(cut_torn_bitmap);
}

static void tear(struct sim *s, struct sim_meta *meta)
{
    struct medium *m = &meta->medium;
    for (uint32_t i = 0; i < m->sectors; i++) {
        if (!sector_bit(m->dirty, i))
            continue;
        if (sim_chance(s, CHANCE_NODE, s->plan.cut.unreadable_per_million)) {
            COVER(cut_unreadable_meta);
            medium_break(m, i);
        } else if (sim_chance(s, CHANCE_NODE, s->plan.cut.torn_per_million) &&
                   medium_tear(m, i, &s->chance[CHANCE_NODE])) {
            count_torn(i);
        }
    }
}

void sim_meta_power_loss(struct sim *s, unsigned node, unsigned survive_per_million)
{
    struct sim_meta *meta = &s->node[node].meta;
    for (uint32_t i = 0; i < SIM_META_REQUESTS_MAX; i++) {
        struct sim_meta_request *r = &meta->requests[i];
        if (!r->busy)
            continue;
        r->busy = false;
        unsigned sectors = (unsigned)sim_below(s, CHANCE_NODE, ALL_SECTORS + 1);
        if (sim_chance(s, CHANCE_NODE, 500000))
            sectors = sim_chance(s, CHANCE_NODE, 500000) ? ALL_SECTORS : 0;
        if (sectors != 0 && sectors != ALL_SECTORS)
            COVER(meta_torn);
        put(&meta->medium, sector_of(s, r->area, r->index), r->block, sectors);
    }
    meta->busy = 0;
    tear(s, meta);
    medium_power_loss(&meta->medium, &s->chance[CHANCE_NODE], survive_per_million);
}

static bool is_flawed(const struct medium *m, uint32_t page)
{
    for (uint32_t i = page * PAGE_SECTORS; i < (page + 1) * PAGE_SECTORS; i++) {
        if (sector_bit(m->unreadable, i) || sector_bit(m->stable_damaged, i) || sector_bit(m->damaged, i))
            return true;
    }
    return false;
}

bool sim_meta_damage(struct sim *s, unsigned node)
{
    struct sim_meta *meta = &s->node[node].meta;
    struct medium *m = &meta->medium;
    enum sim_meta_area area = (enum sim_meta_area)sim_below(s, CHANCE_NODE, ARRAY_LEN(areas));
    uint32_t page = areas[area].first + (uint32_t)sim_below(s, CHANCE_NODE, areas[area].count);
    /* The newest block of the log, before it is sealed, is not told from one that a crash has torn, and whose changes
     * never began. Of a write that a crash has cut, nothing may be there: then it is the one before. */
    bool newest = area == SIM_META_ACTIVITY_LOG &&
                  (page - areas[area].first == meta->log_newest || page - areas[area].first == meta->log_before);
    if (newest && !meta->log_sealed)
        return false;
    if (meta->busy > 0 || !sector_bit(m->touched, page * PAGE_SECTORS))
        return false;
    /* Whatever is lost of one copy of the superblock, the others make good; of two it is not promised. */
    for (uint32_t i = 0; area == SIM_META_SUPERBLOCK && i < SUPERBLOCK_PAGES; i++) {
        if (is_flawed(m, i))
            return false;
    }
    uint32_t sector = page * PAGE_SECTORS + (uint32_t)sim_below(s, CHANCE_NODE, PAGE_SECTORS);
    bool rots = sim_chance(s, CHANCE_NODE, 500000);
    if (!rots && !medium_make_unreadable(m, sector))
        return false;
    if (newest)
        COVER(seal_damage);
    if (rots)
        medium_rot(m, sector, (uint32_t)sim_below(s, CHANCE_NODE, SECTOR_BYTES * 8));
    sim_trace(s, "%c meta    %s page %u %s", 'A' + node, areas[area].name, page - areas[area].first,
              rots ? "rots" : "cannot be read any more");
    return true;
}
