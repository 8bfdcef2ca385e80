/* The activity log and the bitmap on their way to the disk.
 *
 * A block of the log may give extents up; the bitmap's pages that cover those must be on disk before it, for until then
 * the log on disk is all that tells of bits that are set in memory only (docs/METADATA.md). Other stale pages are
 * written in passes over all of them: so that little has to be compared again after a crash, because a clean end needs
 * them, and because `full` in the superblock stands for those that were never written. */
#include <errno.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

static struct page_slot *find_slot(struct engine *e, uint64_t page)
{
    for (unsigned i = 0; i < PAGE_SLOTS; i++) {
        if (e->log.slots[i].busy && e->log.slots[i].page == page)
            return &e->log.slots[i];
    }
    return NULL;
}

static struct page_slot *free_slot(struct engine *e)
{
    for (unsigned i = 0; i < PAGE_SLOTS; i++) {
        if (!e->log.slots[i].busy)
            return &e->log.slots[i];
    }
    return NULL;
}

static void write_page(struct engine *e, struct page_slot *slot, uint64_t page, bool needed, struct actions *out)
{
    slot->busy = true;
    slot->needed = needed;
    if (needed)
        e->log.needed_busy++;
    else
        e->log.pass_busy++;
    slot->page = page;
    bitmap_page_encode(e->bitmap, page, slot->block);
    struct action *a = actions_add(out, ACT_META_PAGE);
    a->page.area = META_BITMAP;
    a->page.index = (uint32_t)page;
    a->page.block = slot->block;
}

/* Starts writing the pages that the block under way waits for. True: all are on disk. A page that was on its way before
 * the block was begun is written once more: it may lack the last bits. */
static bool write_needed_pages(struct engine *e, struct actions *out)
{
    struct engine_log *l = &e->log;
    while (l->evicted_next < l->commit.evicted_count) {
        struct range r = l->commit.evicted[l->evicted_next];
        uint64_t first = bitmap_page_of(e->bitmap, r.offset_bytes);
        uint64_t last = bitmap_page_of(e->bitmap, range_end(r) - 1);
        uint64_t page = max_u64(first, l->page_next);
        for (; page <= last; page++) {
            struct page_slot *under_way = find_slot(e, page);
            if (under_way && under_way->needed)
                continue; /* two extents of one page */
            if (!bitmap_page_is_stale(e->bitmap, page))
                continue;
            struct page_slot *slot = free_slot(e);
            if (under_way || !slot) {
                l->page_next = page;
                return false;
            }
            write_page(e, slot, page, true, out);
        }
        l->page_next = 0;
        l->evicted_next++;
    }
    return l->needed_busy == 0;
}

static void fail_leg(struct engine *e, const char *what, int32_t result, struct actions *out)
{
    actions_note(out, NOTE_ERROR, "leg", "the %s on %s could not be written: %s. The leg has failed", what,
                 e->config.backing, strerror(-result));
    leg_fail_for_good(e, actions_text(out, "the leg of %s has failed", e->config.node), out);
}

static void write_log_block(uint32_t index, const uint8_t *block, struct actions *out)
{
    struct action *a = actions_add(out, ACT_META_PAGE);
    a->page.area = META_ACTIVITY_LOG;
    a->page.index = index;
    a->page.block = block;
}

static void block_begin(struct engine_log *l)
{
    l->phase = LOG_PAGES;
    l->evicted_next = 0;
    l->page_next = 0;
}

static void block_write_when_possible(struct engine *e, struct actions *out)
{
    struct engine_log *l = &e->log;
    if (l->phase != LOG_PAGES || !write_needed_pages(e, out))
        return;
    l->phase = LOG_BLOCK;
    write_log_block(l->commit.index, l->commit.block, out);
}

static const uint8_t never_written[META_PAGE_BYTES];

/* Damaged blocks that stayed would be taken for new damage at every start until the ring has come round. What they may
 * hide is on record before the first is gone (sb.full). */
static void wipe_if_wanted(struct engine *e, struct actions *out)
{
    struct engine_log *l = &e->log;
    if (grow_holds_log(e) || !l->wipe_wanted || l->phase != LOG_IDLE || !persisted(e) || e->leg_failed)
        return;
    l->wipe_wanted = false;
    l->phase = LOG_WIPE;
    l->wipe_next = 0;
    write_log_block(0, never_written, out);
}

static void on_wiped(struct engine *e, int32_t result, struct actions *out)
{
    struct engine_log *l = &e->log;
    if (result == 0 && ++l->wipe_next < (e->config.log_blocks ? e->config.log_blocks : AL_RING_BLOCKS)) {
        write_log_block(l->wipe_next, never_written, out);
        return;
    }
    l->phase = LOG_IDLE;
    if (result)
        fail_leg(e, "activity log", result, out);
}

void log_count_all(struct engine *e)
{
    bitmap_set_all(e->bitmap);
    e->sb.full = true;
    e->log.pass_of_full = false; /* what it has written so far may lack bits */
    e->log.settle = true;
    want_persisted(e);
}

/* All pages that are under way when it begins may lack bits: it waits for them. */
static void pass_begin_if_wanted(struct engine *e)
{
    struct engine_log *l = &e->log;
    if (!l->settle || l->passing || l->needed_busy || e->leg_failed)
        return;
    l->settle = false;
    l->passing = true;
    l->pass_of_full = e->sb.full;
    l->pass_next = 0;
}

static void pass_advance(struct engine *e, struct actions *out)
{
    struct engine_log *l = &e->log;
    pass_begin_if_wanted(e);
    if (!l->passing)
        return;
    while (!e->leg_failed && l->pass_busy < PASS_PAGES_MAX) {
        struct page_slot *slot = free_slot(e);
        uint64_t page = slot ? bitmap_next_stale(e->bitmap, l->pass_next) : BITMAP_NONE;
        if (!slot || page == BITMAP_NONE)
            break;
        l->pass_next = page + 1;
        write_page(e, slot, page, false, out);
    }
    bool over = e->leg_failed || bitmap_next_stale(e->bitmap, l->pass_next) == BITMAP_NONE;
    if (!over || l->pass_busy || l->needed_busy)
        return;
    l->passing = false;
    /* Whatever is set is so on disk, or covered by the activity log: the bits tell now, also after a crash, so that
     * what a resync has done by then is not done again. */
    if (l->pass_of_full && e->sb.full && !e->leg_failed) {
        e->sb.full = false;
        want_persisted(e);
    }
}

void log_advance(struct engine *e, struct actions *out)
{
    struct engine_log *l = &e->log;
    wipe_if_wanted(e, out);
    if (l->phase == LOG_IDLE && !grow_holds_log(e) && !l->wipe_wanted && !e->leg_failed &&
        mirror_wants_log(e->mirror) && al_commit_begin(e->al, &l->commit))
        block_begin(l);
    if (l->phase == LOG_PAGES && e->leg_failed) {
        if (l->needed_busy > 0)
            return;
        l->phase = LOG_IDLE;
        al_commit_done(e->al, false);
        mirror_log_committed(e->mirror, out);
    }
    block_write_when_possible(e, out);
    if (!grow_holds_log(e))
        pass_advance(e, out);
}

void log_seal(struct engine *e, struct actions *out)
{
    struct engine_log *l = &e->log;
    bool may = e->role.phase == PHASE_PRIMARY && l->phase == LOG_IDLE && !l->wipe_wanted && !e->leg_failed;
    if (!may || grow_holds_log(e) || !al_seal_begin(e->al, &l->commit))
        return;
    block_begin(l);
    block_write_when_possible(e, out);
}

bool log_is_idle(const struct engine *e)
{
    const struct engine_log *l = &e->log;
    return l->phase == LOG_IDLE && l->needed_busy == 0 && l->pass_busy == 0;
}

bool log_is_settled(const struct engine *e)
{
    return bitmap_stale_pages(e->bitmap) == 0 && e->log.phase == LOG_IDLE && !e->log.wipe_wanted;
}

void log_on_page_done(struct engine *e, enum meta_area area, uint32_t index, int32_t result, struct actions *out)
{
    struct engine_log *l = &e->log;
    switch (area) {
    case META_ACTIVITY_LOG:
        if (l->phase == LOG_WIPE) {
            on_wiped(e, result, out);
            return;
        }
        assert(l->phase == LOG_BLOCK && index == l->commit.index);
        l->phase = LOG_IDLE;
        al_commit_done(e->al, result == 0);
        if (result)
            fail_leg(e, "activity log", result, out);
        mirror_log_committed(e->mirror, out);
        return;
    case META_BITMAP: {
        struct page_slot *slot = find_slot(e, index);
        assert(slot);
        slot->busy = false;
        if (slot->needed)
            l->needed_busy--;
        else
            l->pass_busy--;
        bitmap_page_written(e->bitmap, index, result == 0);
        if (result)
            fail_leg(e, "out-of-sync bitmap", result, out);
        return;
    }
    }
}

static void found_hot(void *ctx, struct range range)
{
    struct engine *e = ctx;
    bitmap_set(e->bitmap, range);
}

uint32_t engine_page_count(const struct engine *e) { return (uint32_t)bitmap_page_count(e->bitmap); }

void engine_load_page(struct engine *e, uint32_t index, const uint8_t *block)
{
    struct err err = { 0 };
    if (block && bitmap_page_load(e->bitmap, index, block, &err) == 0) {
        /* A daemon that was killed may have had it on its way: it is in the disk's cache then, and in no record that
         * outlives that. Nothing may count on it before it was written once more. */
        if (e->sb.unclean && memcmp(block, never_written, META_PAGE_BYTES) != 0) {
            bitmap_page_touch(e->bitmap, index);
            e->log.settle = true;
        }
        return;
    }
    bitmap_page_set_all(e->bitmap, index);
    e->pages_damaged++;
}

void engine_load_log(struct engine *e, const uint8_t *ring, struct actions *out)
{
    struct err err = { 0 };
    if (e->pages_damaged)
        actions_note(out, NOTE_WARNING, "leg",
                     "%u pages of the out-of-sync bitmap on %s are damaged: what they cover counts as out of sync",
                     e->pages_damaged, e->config.backing);
    if (al_load(e->al, ring, e->sb.al_from, found_hot, e, &err)) {
        actions_note(out, NOTE_WARNING, "leg",
                     "the activity log on %s is damaged (%s): the whole volume counts as out of sync",
                     e->config.backing, err.text);
        e->sb.full = true;
        e->sb.al_from = al_next_sequence(e->al);
        e->log.wipe_wanted = true;
    }
    if (e->sb.full)
        log_count_all(e);
}
