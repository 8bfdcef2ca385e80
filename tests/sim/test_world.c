/* The simulated world itself: a disk that fails otherwise than it claims to would prove nothing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/sim.h"

#define SECTORS 200

static void fill(uint8_t data[SECTOR_BYTES], uint8_t with) { memset(data, with, SECTOR_BYTES); }

static void write_sector(struct medium *m, uint32_t sector, uint8_t with)
{
    uint8_t data[SECTOR_BYTES];
    fill(data, with);
    medium_write(m, sector, data);
}

static uint8_t reads(const struct medium *m, uint32_t sector) { return medium_sector(m->content, sector)[0]; }

static int medium_setup(void **state)
{
    static struct medium m;
    medium_open(&m, SECTORS);
    *state = &m;
    return 0;
}

static int medium_teardown(void **state)
{
    medium_close(*state);
    return 0;
}

static void a_loss_of_power_leaves_any_subset_of_what_was_not_flushed(void **state)
{
    struct medium *m = *state;
    struct prng chance = prng_seed(1);
    unsigned kept[SECTORS] = { 0 };
    unsigned pairs[4] = { 0 };
    for (unsigned round = 0; round < 200; round++) {
        medium_reset(m);
        for (uint32_t i = 0; i < SECTORS; i++)
            write_sector(m, i, 1);
        medium_settle_all(m, m->dirty);
        for (uint32_t i = 0; i < SECTORS; i += 2)
            write_sector(m, i, 2);
        uint32_t lost = medium_power_loss(m, &chance, 500000);
        for (uint32_t i = 0; i < SECTORS; i++) {
            assert_true(reads(m, i) == 1 || (i % 2 == 0 && reads(m, i) == 2));
            kept[i] += reads(m, i) == 2;
            lost -= i % 2 == 0 && reads(m, i) == 1;
        }
        assert_int_equal(lost, 0);
        assert_memory_equal(m->content, m->stable, SECTORS * SECTOR_BYTES);
        pairs[(reads(m, 0) - 1) * 2 + (reads(m, 2) - 1)]++;
    }
    for (uint32_t i = 0; i < SECTORS; i += 2)
        assert_in_range(kept[i], 60, 140);
    for (unsigned i = 0; i < 4; i++)
        assert_true(pairs[i] > 20);
}

static void a_loss_of_power_can_take_all_or_nothing(void **state)
{
    struct medium *m = *state;
    struct prng chance = prng_seed(1);
    for (uint32_t i = 0; i < SECTORS; i++)
        write_sector(m, i, 1);
    assert_int_equal(medium_power_loss(m, &chance, 1000000), 0);
    for (uint32_t i = 0; i < SECTORS; i++)
        write_sector(m, i, 2);
    assert_int_equal(medium_power_loss(m, &chance, 0), SECTORS);
    for (uint32_t i = 0; i < SECTORS; i++)
        assert_int_equal(reads(m, i), 1);
}

static void what_a_failed_flush_forgot_reads_well_until_power_is_lost(void **state)
{
    struct medium *m = *state;
    struct prng chance = prng_seed(1);
    write_sector(m, 7, 1);
    medium_forget_dirty(m, 7);
    medium_settle_all(m, m->dirty);
    assert_int_equal(reads(m, 7), 1);
    medium_find_dirty(m); /* another daemon's flush could still save it */
    assert_true(sector_bit(m->dirty, 7));
    medium_forget_dirty(m, 7);
    medium_power_loss(m, &chance, 1000000);
    assert_int_equal(reads(m, 7), 0);
}

static void a_lost_write_is_known_until_it_is_written_over(void **state)
{
    struct medium *m = *state;
    uint8_t two[SECTOR_BYTES];
    fill(two, 2);
    write_sector(m, 7, 1);
    medium_settle(m, 7);
    medium_write_lost(m, 7, two);
    assert_int_equal(reads(m, 7), 1);
    assert_true(sector_bit(m->damaged, 7));
    assert_false(sector_bit(m->stable_damaged, 7));
    medium_settle_all(m, m->dirty); /* a flush claims to have saved it */
    assert_true(sector_bit(m->stable_damaged, 7));
    medium_write(m, 7, two);
    assert_int_equal(medium_damaged_count(m), 0);
    medium_write_lost(m, 7, two); /* it is there already */
    medium_write_lost(m, 8, NULL);
    assert_int_equal(medium_damaged_count(m), 0);
}

static void a_misdirected_write_spoils_two_places(void **state)
{
    struct medium *m = *state;
    uint8_t data[3 * SECTOR_BYTES];
    memset(data, 3, sizeof(data));
    medium_write_misdirected(m, 10, 3, 100, data);
    for (uint32_t i = 0; i < SECTORS; i++) {
        assert_int_equal(reads(m, i), i >= 100 && i < 103 ? 3 : 0);
        assert_int_equal(sector_bit(m->damaged, i), (i >= 100 && i < 103) || (i >= 10 && i < 13));
    }
    /* Overlapping: what lies right by chance is not spoilt. */
    medium_reset(m);
    medium_write_misdirected(m, 10, 3, 11, data);
    assert_true(sector_bit(m->damaged, 10));
    assert_true(sector_bit(m->damaged, 13));
    assert_int_equal(reads(m, 10), 0);
    assert_int_equal(reads(m, 13), 3);
}

static void what_cannot_be_read_can_be_written(void **state)
{
    struct medium *m = *state;
    struct prng chance = prng_seed(1);
    assert_true(medium_make_unreadable(m, 7));
    assert_true(medium_is_readable(m, 0, 7));
    assert_false(medium_is_readable(m, 6, 2));
    write_sector(m, 7, 1);
    assert_true(medium_is_readable(m, 6, 2));
    assert_false(medium_make_unreadable(m, 7)); /* about to be written over */
    medium_power_loss(m, &chance, 0);           /* that write is lost */
    assert_false(medium_is_readable(m, 7, 1));
    write_sector(m, 7, 1);
    medium_settle(m, 7);
    medium_power_loss(m, &chance, 0);
    assert_true(medium_is_readable(m, 7, 1));
}

/* What is new of a sector that held 1 everywhere and was to hold 2: each byte is one of both. */
static size_t count_new(const struct medium *m, uint32_t sector)
{
    size_t count = 0;
    for (size_t i = 0; i < SECTOR_BYTES; i++) {
        uint8_t byte = medium_sector(m->stable, sector)[i];
        assert_true(byte == 1 || byte == 2);
        count += byte == 2;
    }
    return count;
}

static void a_sector_may_tear_inside(void **state)
{
    struct medium *m = *state;
    struct prng chance = prng_seed(1);
    unsigned first = 0, last = 0, neither = 0;
    for (unsigned round = 0; round < 300; round++) {
        medium_reset(m);
        write_sector(m, 7, 1);
        medium_settle(m, 7);
        write_sector(m, 7, 2);
        assert_true(medium_tear(m, 7, &chance));
        assert_int_equal(medium_power_loss(m, &chance, 1000000), 0); /* it is not taken for whole */
        size_t new = count_new(m, 7);
        const uint8_t *torn = medium_sector(m->content, 7);
        assert_memory_equal(torn, medium_sector(m->stable, 7), SECTOR_BYTES);
        assert_true(new > 0 && new < SECTOR_BYTES);
        bool prefix = torn[new - 1] == 2 && torn[new] == 1, suffix = torn[SECTOR_BYTES - new] == 2;
        first += prefix && torn[0] == 2;
        last += suffix && torn[0] == 1 && torn[SECTOR_BYTES - new - 1] == 1;
        neither += torn[0] == torn[SECTOR_BYTES - 1];
    }
    assert_true(first > 50 && last > 50 && neither > 30);
    /* What is spoilt already does not tear. */
    medium_rot(m, 8, 0);
    write_sector(m, 8, 1);
    assert_false(medium_tear(m, 8, &chance));
}

static void a_sector_may_be_lost_in_its_write(void **state)
{
    struct medium *m = *state;
    struct prng chance = prng_seed(1);
    write_sector(m, 7, 1);
    medium_break(m, 7);
    assert_true(medium_is_readable(m, 7, 1)); /* until the power is gone */
    medium_power_loss(m, &chance, 1000000);
    assert_false(medium_is_readable(m, 7, 1));
    write_sector(m, 7, 2);
    assert_true(medium_is_readable(m, 7, 1));
    medium_settle(m, 7);
    medium_power_loss(m, &chance, 0);
    assert_true(medium_is_readable(m, 7, 1));
    assert_int_equal(reads(m, 7), 2);
}

static void a_bit_rots_at_rest(void **state)
{
    struct medium *m = *state;
    struct prng chance = prng_seed(1);
    medium_rot(m, 7, 9);
    assert_int_equal(medium_sector(m->content, 7)[1], 2);
    assert_true(sector_bit(m->damaged, 7));
    /* Under a write that has not reached it: seen only if that is lost. */
    write_sector(m, 8, 1);
    medium_rot(m, 8, 0);
    assert_int_equal(reads(m, 8), 1);
    assert_false(sector_bit(m->damaged, 8));
    medium_power_loss(m, &chance, 0);
    assert_int_equal(reads(m, 8), 1); /* the bit that flipped in zeroes */
    assert_int_equal(medium_sector(m->content, 8)[1], 0);
    assert_true(sector_bit(m->damaged, 8));
}

static void a_reset_leaves_nothing(void **state)
{
    struct medium *m = *state;
    static const uint8_t none[SECTORS * SECTOR_BYTES];
    write_sector(m, 1, 1);
    write_sector(m, 2, 1);
    medium_settle(m, 2);
    medium_rot(m, 3, 5);
    medium_make_unreadable(m, 64);
    medium_reset(m);
    assert_memory_equal(m->content, none, sizeof(none));
    assert_memory_equal(m->stable, none, sizeof(none));
    assert_true(medium_is_readable(m, 0, SECTORS));
    assert_int_equal(medium_damaged_count(m), 0);
}

/* ---- the metadata of a node ---- */

static unsigned pages_done, pages_failed;

static void page_done(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t index, int32_t result)
{
    (void)s;
    assert_int_equal(node, 1);
    assert_true((area == SIM_META_ACTIVITY_LOG && index == 5) || (area == SIM_META_BITMAP && index == 1));
    pages_done++;
    pages_failed += result != 0;
}

static int world_setup(void **state)
{
    static struct sim *s;
    if (!s)
        s = sim_new();
    sim_reset(s, 1);
    queue_clear(&s->queue);
    pages_done = pages_failed = 0;
    *state = s;
    return 0;
}

static void run_meta(struct sim *s)
{
    struct queue_event ev;
    while (queue_pop(&s->queue, &ev)) {
        assert_int_equal(ev.kind, Q_META);
        s->now_ns = ev.time_ns;
        sim_meta_event(s, ev.node, ev.a);
    }
}

static void a_page_that_is_done_survives_a_loss_of_power(void **state)
{
    struct sim *s = *state;
    uint8_t five[META_PAGE_BYTES], six[META_PAGE_BYTES], found[META_PAGE_BYTES];
    memset(five, 5, sizeof(five));
    memset(six, 6, sizeof(six));
    sim_meta_write(s, 1, SIM_META_ACTIVITY_LOG, 5, five, page_done);
    sim_meta_write(s, 1, SIM_META_BITMAP, 1, six, page_done);
    run_meta(s);
    assert_int_equal(pages_done, 2);
    sim_meta_power_loss(s, 1, 0);
    assert_int_equal(sim_meta_read(s, 1, SIM_META_ACTIVITY_LOG, 5, found), 0);
    assert_memory_equal(found, five, sizeof(found));
    assert_int_equal(sim_meta_read(s, 1, SIM_META_BITMAP, 1, found), 0);
    assert_memory_equal(found, six, sizeof(found));
}

/* Cuts a write of a page and counts what is left of it: not at all, torn, whole. */
static void cut_often(struct sim *s, bool power, unsigned left[3])
{
    s->plan.cut.torn_per_million = s->plan.cut.unreadable_per_million = 0;
    for (unsigned round = 0; round < 200; round++) {
        uint8_t old[META_PAGE_BYTES], new[META_PAGE_BYTES], found[META_PAGE_BYTES];
        memset(old, 1, sizeof(old));
        memset(new, 2, sizeof(new));
        sim_meta_put(s, 1, SIM_META_BITMAP, 1, old, SIM_META_WHOLE);
        sim_meta_write(s, 1, SIM_META_BITMAP, 1, new, page_done);
        queue_clear(&s->queue);
        if (power)
            sim_meta_power_loss(s, 1, 900000);
        else
            sim_meta_crash(s, 1);
        assert_int_equal(sim_meta_read(s, 1, SIM_META_BITMAP, 1, found), 0);
        unsigned news = 0;
        for (unsigned i = 0; i < META_PAGE_BYTES; i += SECTOR_BYTES) {
            assert_memory_equal(found + i, found[i] == 2 ? new : old, SECTOR_BYTES);
            news += found[i] == 2;
        }
        left[news == 0 ? 0 : news < META_PAGE_BYTES / SECTOR_BYTES ? 1 : 2]++;
    }
    assert_int_equal(pages_done, 0);
}

static void a_page_tears_between_sectors_when_power_is_lost(void **state)
{
    unsigned left[3] = { 0 };
    cut_often(*state, true, left);
    assert_true(left[0] > 10 && left[1] > 10 && left[2] > 10);
}

static void a_page_tears_inside_its_sectors_too(void **state)
{
    struct sim *s = *state;
    uint8_t old[META_PAGE_BYTES], new[META_PAGE_BYTES], found[META_PAGE_BYTES];
    unsigned torn = 0, unreadable = 0;
    memset(old, 1, sizeof(old));
    memset(new, 2, sizeof(new));
    s->plan.cut.torn_per_million = 200000;
    s->plan.cut.unreadable_per_million = 20000;
    for (unsigned round = 0; round < 200; round++) {
        sim_meta_put(s, 1, SIM_META_BITMAP, 1, old, SIM_META_WHOLE);
        sim_meta_write(s, 1, SIM_META_BITMAP, 1, new, page_done);
        queue_clear(&s->queue);
        sim_meta_power_loss(s, 1, 500000);
        bool read = sim_meta_read(s, 1, SIM_META_BITMAP, 1, found) == 0;
        unreadable += !read;
        for (unsigned i = 0; read && i < META_PAGE_BYTES; i += SECTOR_BYTES)
            torn += memcmp(found + i, old, SECTOR_BYTES) != 0 && memcmp(found + i, new, SECTOR_BYTES) != 0;
    }
    assert_true(torn > 50 && unreadable > 5);
}

static void a_page_does_not_tear_when_a_daemon_dies(void **state)
{
    unsigned left[3] = { 0 };
    cut_often(*state, false, left);
    assert_true(left[0] > 10 && left[2] > 10);
    assert_int_equal(left[1], 0);
}

static void a_page_that_failed_may_be_there_all_the_same(void **state)
{
    struct sim *s = *state;
    unsigned there = 0;
    s->node[1].meta.error_per_million = 1000000;
    for (unsigned round = 1; round <= 100; round++) {
        uint8_t block[META_PAGE_BYTES], found[META_PAGE_BYTES];
        memset(block, (int)round, sizeof(block));
        sim_meta_write(s, 1, SIM_META_BITMAP, 1, block, page_done);
        run_meta(s);
        sim_meta_read(s, 1, SIM_META_BITMAP, 1, found);
        there += found[0] == round;
    }
    assert_int_equal(pages_failed, 100);
    assert_in_range(there, 10, 60);
}

static void of_the_superblock_one_copy_at_a_time_is_spoilt(void **state)
{
    struct sim *s = *state;
    unsigned spoilt = 0;
    for (unsigned round = 0; round < 1000; round++)
        spoilt += sim_meta_damage(s, 1);
    assert_int_equal(spoilt, 1);
    struct superblock sb;
    sim_node_superblock(s, 1, &sb); /* still the right one; else it ends the process */
    assert_string_equal(sb.volume, SIM_VOLUME);
}

static void copy_done(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t copy, int32_t result)
{
    (void)s;
    (void)node;
    (void)copy;
    assert_int_equal(area, SIM_META_SUPERBLOCK);
    assert_int_equal(result, 0);
    pages_done++;
}

/* Writes a superblock, so many copies at once, until the power is lost somewhere. Returns what is found afterwards: its
 * sequence, or 0 when nothing agrees. */
static uint64_t cut_superblock(struct sim *s, struct superblock *sb, unsigned at_once)
{
    static uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        superblock_encode(sb, i, blocks[i]);
        sim_meta_put(s, 1, SIM_META_SUPERBLOCK, i, blocks[i], SIM_META_WHOLE);
    }
    /* Longer than a sector, so that it can tear. */
    sb->epoch = ++sb->sequence;
    history_append(&sb->history, (struct history_entry) { sb->sequence, 1, 1 });
    pages_done = 0;
    unsigned until = (unsigned)sim_below(s, CHANCE_PLAN, SUPERBLOCK_COPIES + 1), started = 0;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        superblock_encode(sb, i, blocks[i]);
    for (;;) {
        struct queue_event ev;
        for (; started < SUPERBLOCK_COPIES && started < pages_done / at_once * at_once + at_once; started++)
            sim_meta_write(s, 1, SIM_META_SUPERBLOCK, started, blocks[started], copy_done);
        if (pages_done == until || !queue_pop(&s->queue, &ev))
            break;
        s->now_ns = ev.time_ns;
        sim_meta_event(s, ev.node, ev.a);
    }
    sim_meta_power_loss(s, 1, 500000);
    queue_clear(&s->queue);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        sim_meta_read(s, 1, SIM_META_SUPERBLOCK, i, blocks[i]);
    struct superblock found;
    unsigned good;
    struct err err;
    return superblock_choose(blocks, &found, &good, &err) < 0 ? 0 : found.sequence;
}

static void a_superblock_is_found_wherever_its_write_was_cut(void **state)
{
    struct sim *s = *state;
    unsigned old = 0, new = 0, nothing = 0;
    struct superblock base;
    sim_node_superblock(s, 1, &base);
    base.sequence = 100;
    base.epoch = 30;
    s->plan.cut.torn_per_million = 100000;
    s->plan.cut.unreadable_per_million = 20000;
    for (uint64_t epoch = 1; epoch <= 30; epoch++)
        history_append(&base.history, (struct history_entry) { epoch, 1, 1 });
    for (unsigned round = 0; round < 500; round++) {
        struct superblock sb = base;
        uint64_t found = cut_superblock(s, &sb, SUPERBLOCK_COPIES_AT_ONCE);
        assert_true(found == 100 || found == 101);
        old += found == 100;
        new += found == 101;
        if (pages_done == SUPERBLOCK_COPIES)
            assert_int_equal(found, 101);
        sb = base;
        nothing += cut_superblock(s, &sb, SUPERBLOCK_COPIES) == 0;
    }
    assert_true(old > 50 && new > 50);
    assert_true(nothing > 5); /* which is why they are not written all at once */
}

/* ---- clocks, and the model ---- */

static void clocks_differ_and_go_forward(void **state)
{
    struct sim *s = *state;
    struct sim_clock *c = &s->node[0].clock;
    *c = (struct sim_clock) { .local_ns = 5 * NS_PER_S, .per_million = 1010000 };
    s->now_ns = 100 * NS_PER_S;
    assert_int_equal(sim_node_now(s, 0), 106 * NS_PER_S);
    sim_node_clock_jump(s, 0, 3 * NS_PER_S);
    assert_int_equal(sim_node_now(s, 0), 109 * NS_PER_S);
    s->now_ns = 200 * NS_PER_S;
    assert_int_equal(sim_node_now(s, 0), 210 * NS_PER_S);
}

static void what_was_not_flushed_may_be_lost_with_both_legs(void **state)
{
    struct sim *s = *state;
    struct model *m = &s->model;
    static uint8_t image[MODEL_BLOCKS_MAX * BLOCK_BYTES];
    static struct model_image leg = { .data = image };
    uint32_t flushed = model_write_begin(m, 0, 3, false);
    model_write_acked(m, flushed);
    uint32_t horizon = model_span_begin(m);
    uint32_t lost = model_write_begin(m, 0, 1, false);
    model_write_acked(m, lost);
    uint32_t durable = model_write_begin(m, 1, 1, false);
    model_write_acked(m, durable);
    m->writes[durable].durable = true;
    for (uint32_t i = 0; i < 3; i++)
        model_fill(i == 1 ? durable : flushed, i, image + (size_t)i * BLOCK_BYTES);
    assert_false(model_check_current(m, &leg, m->clock));
    assert_true(model_check_durable(m, &leg, model_span_begun(m, horizon)));
    model_lost_power(m, model_span_begun(m, horizon));
    assert_true(model_check_current(m, &leg, m->clock));
    model_fill(flushed, 1, image + BLOCK_BYTES);
    assert_false(model_check_current(m, &leg, m->clock));
    assert_false(model_check_durable(m, &leg, model_span_begun(m, horizon)));
    model_fill(durable, 1, image + BLOCK_BYTES);
    memset(image + 2 * BLOCK_BYTES, 0, BLOCK_BYTES);
    assert_false(model_check_durable(m, &leg, model_span_begun(m, horizon)));
    uint64_t damaged[SIM_BITMAP_WORDS] = { UINT64_C(1) << 2 };
    m->damaged = damaged;
    assert_true(model_check_durable(m, &leg, model_span_begun(m, horizon)));
    m->damaged = NULL;
}

static void what_a_person_gives_up_is_nobodys_measure(void **state)
{
    struct sim *s = *state;
    struct model *m = &s->model;
    static uint8_t image[MODEL_BLOCKS_MAX * BLOCK_BYTES];
    static struct model_image leg = { .data = image };
    uint32_t write[3];
    uint64_t parted = 0;
    for (unsigned i = 0; i < ARRAY_LEN(write); i++) {
        write[i] = model_write_begin(m, i, 1, false);
        m->writes[write[i]].owner = i > 0;
        m->writes[write[i]].durable = true;
        if (i == 2)
            parted = m->clock;
        model_write_acked(m, write[i]);
    }
    model_fill(write[0], 0, image);
    model_fill(write[1], 1, image + BLOCK_BYTES); /* node 1's, from before they parted */
    assert_false(model_check_current(m, &leg, m->clock));
    model_give_up(m, 0, parted, MODEL_NEVER);
    assert_false(model_check_current(m, &leg, m->clock));
    model_give_up(m, 1, 1, parted);
    assert_false(model_check_current(m, &leg, m->clock));
    model_give_up(m, 1, parted, MODEL_NEVER);
    assert_true(model_check_current(m, &leg, m->clock));
    memset(image, 0, BLOCK_BYTES); /* its own stays */
    assert_false(model_check_current(m, &leg, m->clock));
}

/* `torn` is what lies in block 0 after `before`, which it held, and `after`, which was being written there. */
static void tear_model(struct model *m, uint32_t before, uint32_t after, uint8_t torn[BLOCK_BYTES])
{
    uint8_t old[BLOCK_BYTES], new[BLOCK_BYTES];
    model_fill(before, 0, old);
    model_fill(after, 0, new);
    memcpy(torn, new, 100);
    memcpy(torn + 100, old + 100, BLOCK_BYTES - 100);
    model_tear(m, 0, old, new, torn);
}

static void a_torn_block_may_be_where_both_of_its_parts_may(void **state)
{
    struct sim *s = *state;
    struct model *m = &s->model;
    uint8_t torn[BLOCK_BYTES];
    static uint8_t image[MODEL_BLOCKS_MAX * BLOCK_BYTES];
    static struct model_image leg = { .data = image };
    uint32_t old = model_write_begin(m, 0, 1, false);
    model_write_acked(m, old);
    uint32_t horizon = model_span_begin(m);
    uint32_t failed = model_write_begin(m, 0, 1, false);
    tear_model(m, old, failed, torn);
    memcpy(image, torn, sizeof(torn));
    assert_true(model_check_current(m, &leg, m->clock));
    assert_false(model_check_holds(m, &leg, failed));
    torn[BLOCK_BYTES - 1] ^= 1; /* what is like it and was never left */
    uint32_t span = model_span_begin(m);
    assert_false(model_check_read(m, span, 0, 1, torn));
    torn[BLOCK_BYTES - 1] ^= 1;
    assert_true(model_check_read(m, span, 0, 1, torn));
    model_span_end(m, span);
    model_write_ended(m, failed);
    /* It is written over. */
    uint32_t next = model_write_begin(m, 0, 1, false);
    model_write_acked(m, next);
    span = model_span_begin(m);
    assert_false(model_check_read(m, span, 0, 1, torn));
    model_span_end(m, span);
    assert_false(model_check_current(m, &leg, m->clock));
    assert_true(model_check_current(m, &leg, model_span_begun(m, horizon)));
    /* Neither of its parts makes up for what the other one lacks. */
    uint32_t last = model_write_begin(m, 0, 1, false);
    tear_model(m, old, last, torn);
    memcpy(image, torn, sizeof(torn));
    assert_false(model_check_current(m, &leg, m->clock));
    tear_model(m, next, last, torn);
    memcpy(image, torn, sizeof(torn));
    assert_true(model_check_current(m, &leg, m->clock));
    /* What both legs have lost is nobody's measure any more. */
    model_write_acked(m, last);
    assert_false(model_check_current(m, &leg, m->clock));
    model_lost_power(m, model_span_begun(m, horizon));
    assert_true(model_check_current(m, &leg, m->clock));
}

/* What is remembered of a leg from one check to the next never hides anything: whatever happens to its medium and to
 * the history of its blocks, a check that begins from nothing finds the same. */
static void a_check_that_remembers_finds_what_one_finds_that_does_not(void **state)
{
    struct sim *s = *state;
    struct model *m = &s->model;
    struct medium *medium = &s->disk[0].data;
    struct prng chance = prng_seed(7);
    uint32_t last[16] = { 0 };
    unsigned good = 0, bad = 0;
    for (unsigned step = 0; step < 20000; step++) {
        uint32_t block = (uint32_t)prng_below(&chance, ARRAY_LEN(last));
        uint8_t data[BLOCK_BYTES];
        switch (prng_below(&chance, 12)) {
        case 0:
        case 1:
        case 2:
        case 3: {
            bool zero = prng_chance(&chance, 300000);
            uint32_t write = model_write_begin(m, block, 1, zero);
            model_fill(write, block, data);
            medium_write(medium, block, zero ? NULL : data);
            if (prng_chance(&chance, 100000))
                model_write_ended(m, write);
            else
                model_write_acked(m, write);
            last[block] = write;
            break;
        }
        case 4: /* an old write comes back, or another block's lands here */
            model_fill(last[prng_below(&chance, ARRAY_LEN(last))], prng_chance(&chance, 500000) ? block : 0, data);
            medium_write(medium, block, data);
            break;
        case 5: medium_settle_all(medium, medium->dirty); break;
        case 6: medium_settle(medium, block); break;
        case 7: medium_forget_dirty(medium, block); break;
        case 8: medium_find_dirty(medium); break;
        case 9:
            if (!prng_chance(&chance, 50000))
                break;
            for (uint32_t b = 0; b < ARRAY_LEN(last); b++) {
                memcpy(data, sim_block(medium->stable, b), BLOCK_BYTES);
                if (sector_bit(medium->dirty, b) && prng_chance(&chance, 300000) && medium_tear(medium, b, &chance))
                    model_tear(m, b, data, sim_block(medium->content, b), sim_block(medium->stable, b));
            }
            medium_power_loss(medium, &chance, 500000);
            break;
        case 10:
            if (prng_chance(&chance, 50000))
                medium_rot(medium, block, (uint32_t)prng_below(&chance, BLOCK_BYTES * 8));
            break;
        default:
            if (prng_chance(&chance, 50000))
                model_lost_power(m, m->clock - prng_below(&chance, min_u64(m->clock, 50)));
        }
        for (unsigned layer = 0; layer < SIM_LAYERS; layer++) {
            struct model_image fresh = { .data = s->disk[0].image[layer].data };
            uint64_t bound = m->clock - prng_below(&chance, min_u64(m->clock, 100));
            bool holds = model_check_current(m, &fresh, bound);
            assert_int_equal(model_check_current(m, &s->disk[0].image[layer], bound), holds);
            assert_int_equal(model_check_holds(m, &s->disk[0].image[layer], last[block]),
                             model_check_holds(m, &fresh, last[block]));
            good += holds;
            bad += !holds;
        }
    }
    assert_true(good > 100 && bad > 100);
}

int main(void)
{
#define MEDIUM(f) cmocka_unit_test_setup_teardown(f, medium_setup, medium_teardown)
#define WORLD(f) cmocka_unit_test_setup(f, world_setup)
    const struct CMUnitTest tests[] = {
        MEDIUM(a_loss_of_power_leaves_any_subset_of_what_was_not_flushed),
        MEDIUM(a_loss_of_power_can_take_all_or_nothing),
        MEDIUM(what_a_failed_flush_forgot_reads_well_until_power_is_lost),
        MEDIUM(a_lost_write_is_known_until_it_is_written_over),
        MEDIUM(a_misdirected_write_spoils_two_places),
        MEDIUM(what_cannot_be_read_can_be_written),
        MEDIUM(a_sector_may_tear_inside),
        MEDIUM(a_sector_may_be_lost_in_its_write),
        MEDIUM(a_bit_rots_at_rest),
        MEDIUM(a_reset_leaves_nothing),
        WORLD(a_page_that_is_done_survives_a_loss_of_power),
        WORLD(a_page_tears_between_sectors_when_power_is_lost),
        WORLD(a_page_tears_inside_its_sectors_too),
        WORLD(a_page_does_not_tear_when_a_daemon_dies),
        WORLD(a_page_that_failed_may_be_there_all_the_same),
        WORLD(of_the_superblock_one_copy_at_a_time_is_spoilt),
        WORLD(a_superblock_is_found_wherever_its_write_was_cut),
        WORLD(clocks_differ_and_go_forward),
        WORLD(what_was_not_flushed_may_be_lost_with_both_legs),
        WORLD(what_a_person_gives_up_is_nobodys_measure),
        WORLD(a_torn_block_may_be_where_both_of_its_parts_may),
        WORLD(a_check_that_remembers_finds_what_one_finds_that_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
