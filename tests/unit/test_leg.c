/* Superblocks in places that the metadata has left, or was about to go to: what counts at a start, on a bad disk. */
#include "repl/node/leg.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repl/node/create.h"
#include "tests/unit/unit.h"

#define FORMER_BYTES (64 * MIB)
#define PRESENT_BYTES (128 * MIB)

static struct volume_config config;
static struct meta_layout former_place, present_place;

/* A leg, on a disk that fails where it is told. */
static struct buf_pool pool;
static struct ring *ring;
static struct leg leg;
static struct disk *faulty;

static void grow_to(uint64_t bytes) { assert_int_equal(truncate(config.nodes[0].backing, (off_t)bytes), 0); }

static int setup(void **state)
{
    struct err err = { 0 };
    config = (struct volume_config) { .volume = "g", .node_count = 1, .nodes = { { .name = "a" } } };
    char *path = config.nodes[0].backing;
    snprintf(path, sizeof(config.nodes[0].backing), "/var/tmp/test_leg.XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, FORMER_BYTES) < 0 || close(fd) < 0)
        return -1;
    return volume_create(&config, false, false, NULL, NULL, &err) ||
           meta_layout_internal(FORMER_BYTES, &former_place, &err) ||
           meta_layout_internal(PRESENT_BYTES, &present_place, &err);
}

static int teardown(void **state) { return unlink(config.nodes[0].backing); }

/* Every `kind` of `length_bytes` from `offset_bytes` on fails; length 0: none does. */
static void open_leg(enum op_kind kind, uint64_t offset_bytes, uint64_t length_bytes)
{
    struct err err = { 0 };
    assert_int_equal(buf_pool_open(&pool, 4 * BUF_BYTES_MAX), 0);
    ring = ring_open(
        &(struct ring_config) { .entries = 64, .files_max = 4, .arena = pool.arena, .arena_bytes = pool.arena_bytes },
        &err);
    assert_non_null(ring);
    assert_int_equal(leg_open(&leg, ring, &pool, &config, &err), 0);
    struct disk_fault_config fault = { .error = -EIO,
                                       .error_offset_bytes = offset_bytes,
                                       .error_length_bytes = length_bytes };
    fault.error_per_million[kind] = length_bytes ? 1000000 : 0;
    faulty = disk_filter_fault(leg.bare, &fault, &err);
    assert_non_null(faulty);
    leg.bare = leg.meta = leg.disk = faulty;
}

static void close_leg(void)
{
    leg_close(&leg);
    ring_close(ring);
    buf_pool_close(&pool);
}

static void written(void *ctx, int32_t result)
{
    *(int32_t *)ctx = result;
    ring_stop(ring);
}

/* What a daemon does with a leg before anything else. The text of a success tells what is left. */
static int attach(struct superblock *sb, struct err *err)
{
    int r = leg_read_superblock(&leg, &config, sb, err);
    if (!r)
        r = leg_wipe_stale(&leg, sb, err);
    if (r)
        return r;
    int32_t result = 1;
    sb->sequence++;
    leg_write_superblock(&leg, sb, written, &result);
    ring_run(ring, NULL, NULL);
    return result;
}

/* On a disk without faults. */
static int attach_again(struct superblock *sb, struct err *err)
{
    open_leg(OP_READ, 0, 0);
    int r = attach(sb, err);
    close_leg();
    return r;
}

static void write_copies(const struct superblock *sb, const struct meta_layout *place, unsigned count)
{
    static uint8_t block[SUPERBLOCK_BYTES];
    int fd = open(config.nodes[0].backing, O_WRONLY | O_CLOEXEC);
    for (unsigned i = 0; i < count; i++) {
        superblock_encode(sb, i, block);
        assert_int_equal(pwrite(fd, block, sizeof(block), (off_t)superblock_copy_offset(place, i)), sizeof(block));
    }
    close(fd);
}

static bool is_zeroes(const struct meta_layout *place, unsigned copy)
{
    static const uint8_t zeroes[SUPERBLOCK_BYTES];
    uint8_t block[SUPERBLOCK_BYTES];
    int fd = open(config.nodes[0].backing, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, block, sizeof(block), (off_t)superblock_copy_offset(place, copy)), sizeof(block));
    close(fd);
    return memcmp(block, zeroes, sizeof(block)) == 0;
}

static struct superblock superblock_at_the_former_end(void)
{
    struct superblock sb;
    struct err err = { 0 };
    open_leg(OP_READ, 0, 0);
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), 0);
    close_leg();
    return sb;
}

/* A resize that was cut off when the superblock at the new end counted. */
static void move(void)
{
    struct superblock sb = superblock_at_the_former_end();
    grow_to(PRESENT_BYTES);
    sb.sequence++;
    sb.moved_from_bytes = sb.backing_bytes;
    sb.backing_bytes = PRESENT_BYTES;
    write_copies(&sb, &present_place, SUPERBLOCK_COPIES);
}

static void look_done(void *ctx, enum grow_step step, int32_t err, const char *reason, const struct grow_plan *plan)
{
    *(int32_t *)ctx = err;
    ring_stop(ring);
}

static void an_old_superblock_that_cannot_be_removed_keeps_no_leg_down(void **state)
{
    for (unsigned bad = 0; bad < SUPERBLOCK_COPIES; bad++) {
        struct superblock sb;
        struct err err = { 0 };
        teardown(state);
        assert_int_equal(setup(state), 0);
        move();
        open_leg(OP_WRITE, superblock_copy_offset(&former_place, bad), SUPERBLOCK_BYTES);
        assert_int_equal(attach(&sb, &err), 0);
        assert_non_null(strstr(err.text, "cannot be removed"));
        assert_int_equal(sb.moved_from_bytes, FORMER_BYTES);
        for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
            assert_int_equal(is_zeroes(&former_place, i), i != bad);
        /* Who grows it goes over that place, or does not grow it. */
        int32_t looked = 1;
        config.size_bytes = former_place.meta_offset_bytes + MIB;
        leg_grow(&leg, &config, GROW_LOOK, look_done, &looked);
        ring_run(ring, NULL, NULL);
        assert_int_equal(looked, -ENOSPC);
        config.size_bytes = 0;
        leg_grow(&leg, &config, GROW_LOOK, look_done, &looked);
        ring_run(ring, NULL, NULL);
        assert_int_equal(looked, 0);
        close_leg();
        /* It counts for nothing, whatever becomes of the others. */
        open_leg(OP_READ, superblock_copy_offset(&present_place, 0),
                 superblock_copy_offset(&present_place, 3) - superblock_copy_offset(&present_place, 0));
        assert_int_equal(attach(&sb, &err), -EBADMSG);
        close_leg();
        /* And goes as soon as it can. */
        assert_int_equal(attach_again(&sb, &err), 0);
        assert_string_equal(err.text, "");
        assert_int_equal(sb.moved_from_bytes, 0);
        assert_true(is_zeroes(&former_place, bad));
    }
}

static void two_old_superblocks_that_cannot_be_removed_are_too_many(void **state)
{
    struct superblock sb;
    struct err err = { 0 };
    move();
    open_leg(OP_WRITE, superblock_copy_offset(&former_place, 1), SUPERBLOCK_SPACING_BYTES + SUPERBLOCK_BYTES);
    assert_int_equal(attach(&sb, &err), -EIO);
    assert_non_null(strstr(err.text, "2 old superblocks"));
    close_leg();
    assert_int_equal(attach_again(&sb, &err), 0);
    assert_string_equal(err.text, "");
}

/* By a bug or a forger: nobody's data is zeroed for it. */
static void old_superblocks_inside_the_volume_are_not_believed(void **state)
{
    struct superblock sb;
    struct err err = { 0 };
    move();
    open_leg(OP_READ, 0, 0);
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), 0);
    close_leg();
    sb.size_bytes = former_place.meta_offset_bytes + 4096;
    write_copies(&sb, &present_place, SUPERBLOCK_COPIES);
    assert_int_equal(attach_again(&sb, &err), -EBADMSG);
    assert_false(is_zeroes(&former_place, 0));
}

/* A move whose superblock had reached two copies when it was cut off: nobody was told of it, and one of them cannot be
 * read at the next start. The leg goes on at the former end, and that is what the start after it finds. */
static void a_move_that_was_cut_off_does_not_come_back(void **state)
{
    for (unsigned bad = 0; bad < 2; bad++) {
        struct superblock sb;
        struct err err = { 0 };
        teardown(state);
        assert_int_equal(setup(state), 0);
        sb = superblock_at_the_former_end();
        grow_to(PRESENT_BYTES);
        sb.sequence++;
        sb.lsn = 1;
        sb.backing_bytes = PRESENT_BYTES;
        write_copies(&sb, &present_place, 2);
        open_leg(OP_READ, superblock_copy_offset(&present_place, bad), SUPERBLOCK_BYTES);
        assert_int_equal(attach(&sb, &err), 0);
        assert_string_equal(err.text, "");
        assert_int_equal(sb.backing_bytes, FORMER_BYTES);
        sb.lsn = 77;
        write_copies(&sb, &former_place, SUPERBLOCK_COPIES);
        close_leg();
        assert_int_equal(attach_again(&sb, &err), 0);
        assert_int_equal(sb.lsn, 77);
        assert_int_equal(sb.backing_bytes, FORMER_BYTES);
    }
}

/* The present end's place lies in the metadata, where the log has something. */
static void a_leg_that_has_grown_a_little_keeps_its_metadata(void **state)
{
    struct superblock sb;
    struct err err = { 0 };
    struct meta_layout little;
    uint8_t block[SUPERBLOCK_BYTES], found[SUPERBLOCK_BYTES];
    grow_to(FORMER_BYTES + MIB);
    assert_int_equal(meta_layout_internal(FORMER_BYTES + MIB, &little, &err), 0);
    off_t at = (off_t)superblock_copy_offset(&little, 2);
    assert_in_range(at, meta_page_offset(&former_place, META_ACTIVITY_LOG, 0),
                    former_place.meta_offset_bytes + former_place.meta_bytes);
    memset(block, 0x5a, sizeof(block));
    int fd = open(config.nodes[0].backing, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, block, sizeof(block), at), sizeof(block));
    open_leg(OP_READ, (uint64_t)at, SUPERBLOCK_BYTES);
    assert_int_equal(attach(&sb, &err), 0);
    close_leg();
    assert_int_equal(pread(fd, found, sizeof(found), at), sizeof(found));
    assert_memory_equal(found, block, sizeof(found));
    close(fd);
}

static void damage_copy(unsigned copy)
{
    int fd = open(config.nodes[0].backing, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "x", 1, (off_t)superblock_copy_offset(&former_place, copy) + 300), 1);
    close(fd);
}

/* What the start says of each copy, and that the next start finds all of them good. */
static void check_copies(const int codes[SUPERBLOCK_COPIES], const char *text)
{
    struct superblock sb;
    struct err err = { 0 };
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), 0);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        struct err said = { 0 };
        assert_int_equal(leg_tell_read_copy(&leg, i, &said), codes[i]);
        if (codes[i]) {
            assert_non_null(strstr(said.text, config.nodes[0].backing));
            assert_non_null(strstr(said.text, text));
        }
    }
    close_leg();
    assert_int_equal(attach_again(&sb, &err), 0);
    open_leg(OP_READ, 0, 0);
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), 0);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        assert_int_equal(leg_tell_read_copy(&leg, i, &err), 0);
    close_leg();
}

static void copies_that_are_written_again_are_told(void **state)
{
    damage_copy(2);
    open_leg(OP_READ, 0, 0);
    check_copies((int[]) { 0, 0, -EBADMSG, 0 }, "was damaged, and was written again: superblock copy 2 is damaged");

    open_leg(OP_READ, superblock_copy_offset(&former_place, 1), SUPERBLOCK_BYTES);
    check_copies((int[]) { 0, -EBADMSG, 0, 0 }, "was damaged, and was written again: Input/output error");

    /* A write that a kill has cut off. */
    struct superblock sb = superblock_at_the_former_end();
    sb.sequence++;
    write_copies(&sb, &former_place, 1);
    open_leg(OP_READ, 0, 0);
    check_copies((int[]) { -ESTALE, 0, 0, 0 }, "differed from the others");
}

/* The two that count may be in the disk's cache only, and the first write goes over the others. */
static void copies_that_differ_are_flushed_first(void **state)
{
    struct superblock sb = superblock_at_the_former_end();
    struct err err = { 0 };
    open_leg(OP_FLUSH, 0, UINT64_MAX);
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), 0);
    close_leg();

    sb.sequence++;
    write_copies(&sb, &former_place, 2);
    open_leg(OP_FLUSH, 0, UINT64_MAX);
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), -EIO);
    assert_non_null(strstr(err.text, "cannot be flushed before they are written again"));
    close_leg();
    assert_int_equal(attach_again(&sb, &err), 0);
}

/* ... and so may the last two where all agree: that write goes over the first two. */
static void copies_of_an_unclean_end_are_flushed_first(void **state)
{
    struct superblock sb = superblock_at_the_former_end();
    struct err err = { 0 };
    sb.sequence++;
    sb.attached = true;
    write_copies(&sb, &former_place, SUPERBLOCK_COPIES);
    open_leg(OP_FLUSH, 0, UINT64_MAX);
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), -EIO);
    close_leg();
}

static void who_has_lost_too_many_copies_is_told_what_to_do(void **state)
{
    struct superblock sb;
    struct err err = { 0 };
    for (unsigned i = 0; i < 3; i++)
        damage_copy(i);
    assert_int_equal(attach_again(&sb, &err), -EBADMSG);
    assert_non_null(strstr(err.text, config.nodes[0].backing));
    assert_non_null(strstr(err.text, "fewer than 2 of 4 superblock copies agree"));
    assert_non_null(strstr(err.text, METADATA_LOST_ADVICE));
    /* With the peer's leg, and without it. */
    assert_non_null(strstr(METADATA_LOST_ADVICE, "`lockstep create --force`"));
    assert_non_null(strstr(METADATA_LOST_ADVICE, "`lockstep create --adopt --force`"));
}

/* None of them tells of a leg; but who says "make one" has read them. */
static void superblocks_that_cannot_be_read_are_no_missing_leg(void **state)
{
    struct superblock sb;
    struct err err = { 0 };
    open_leg(OP_READ, superblock_copy_offset(&former_place, 0), MIB);
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), -EIO);
    assert_non_null(strstr(err.text, config.nodes[0].backing));
    assert_non_null(strstr(err.text, "cannot be read"));
    assert_non_null(strstr(err.text, METADATA_LOST_ADVICE));
    close_leg();
    assert_int_equal(attach_again(&sb, &err), 0);
}

/* A later version's: its bitmap and log are not to be read, or written, in other units. */
static void other_granules_and_extents_are_not_taken_for_ours(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct superblock sb;
        struct err err = { 0 };
        teardown(state);
        assert_int_equal(setup(state), 0);
        sb = superblock_at_the_former_end();
        sb.sequence++;
        *(i ? &sb.granule_bytes : &sb.extent_bytes) *= 2;
        write_copies(&sb, &former_place, SUPERBLOCK_COPIES);
        assert_int_equal(attach_again(&sb, &err), -ENOTSUP);
        assert_non_null(strstr(err.text, i ? "granules of 8192" : "extents of 8388608"));
        assert_non_null(strstr(err.text, "use the program that wrote it"));
    }
}

/* A disk whose requests are answered by hand: what is on its way at once can be seen. */
static struct disk_io *held[SUPERBLOCK_COPIES];
static unsigned held_count;

static void hold(struct disk *d, struct disk_io *io)
{
    assert_in_range(held_count, 0, SUPERBLOCK_COPIES - 1);
    held[held_count++] = io;
}

static void told(void *ctx, int32_t result) { *(int32_t *)ctx = result; }

#define NOT_TOLD 1

static uint8_t order[SUPERBLOCK_COPIES]; /* of the write below */

/* Writes a superblock on such a disk, of which the copies in `bad` (bits) fail. Those that the write before has missed
 * come first. */
static int32_t write_by_hand(const struct superblock *sb, unsigned bad)
{
    static const struct disk_ops ops = { .submit = hold };
    struct disk holding = { .ops = &ops, .ring = ring, .geometry = leg.meta->geometry };
    struct disk *meta = leg.meta;
    int32_t result = NOT_TOLD;
    leg.meta = &holding;
    superblock_write_order(leg.store.bad, order);
    leg_write_superblock(&leg, sb, told, &result);
    for (unsigned n = 0; n < SUPERBLOCK_COPIES;) {
        /* The ones that power may tear now leave two that agree, the old ones or the new ones. */
        struct disk_io *two[] = { held[0], held[1] };
        assert_int_equal(held_count, ARRAY_LEN(two));
        held_count = 0;
        for (unsigned i = 0; i < ARRAY_LEN(two); i++) {
            unsigned copy = order[n++];
            assert_int_equal(result, NOT_TOLD);
            assert_int_equal(held_count, 0); /* none is begun before both are stable */
            assert_int_equal(two[i]->kind, OP_WRITE);
            assert_true(two[i]->flags & OP_FLAG_FUA);
            assert_int_equal(two[i]->offset_bytes, superblock_copy_offset(&leg.layout, copy));
            two[i]->result = bad & 1u << copy ? -EIO - (int32_t)copy : 0;
            two[i]->done(two[i]);
        }
    }
    assert_int_equal(held_count, 0);
    leg.meta = meta;
    return result;
}

static void a_superblock_counts_when_three_copies_are_stable(void **state)
{
    struct superblock sb;
    struct err err = { 0 };
    open_leg(OP_READ, 0, 0);
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), 0);
    for (unsigned bad = 0; bad < 1u << SUPERBLOCK_COPIES; bad++) {
        int32_t result = write_by_hand(&sb, bad);
        unsigned first = 0;
        while (first < SUPERBLOCK_COPIES - 1 && !(bad >> order[first] & 1))
            first++;
        assert_int_equal(result, __builtin_popcount(bad) <= 1 ? 0 : -EIO - order[first]);
    }
    close_leg();
}

/* Once, not with each of the many writes that follow; and again if it has been good in between. */
static void a_copy_that_cannot_be_written_is_told(void **state)
{
    struct superblock sb;
    struct err err = { 0 };
    static const struct {
        unsigned bad;
        const char *text;
    } writes[] = { { 0, NULL },      { 1u << 3, "superblock copy 3 at " }, { 1u << 3, NULL },
                   { 0, NULL },      { 1u << 3, "superblock copy 3 at " }, { 1u << 1, "superblock copy 1 at " },
                   { 1u << 1, NULL } };
    open_leg(OP_READ, 0, 0);
    assert_int_equal(leg_read_superblock(&leg, &config, &sb, &err), 0);
    for (unsigned i = 0; i < ARRAY_LEN(writes); i++) {
        struct err said = { 0 };
        assert_int_equal(write_by_hand(&sb, writes[i].bad), 0);
        assert_int_equal(leg_tell_write(&leg, &said), writes[i].text != NULL);
        assert_non_null(strstr(said.text, writes[i].text ? writes[i].text : ""));
        assert_int_equal(said.text[0] != 0, writes[i].text != NULL);
    }
    close_leg();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_old_superblock_that_cannot_be_removed_keeps_no_leg_down, setup, teardown),
        cmocka_unit_test_setup_teardown(two_old_superblocks_that_cannot_be_removed_are_too_many, setup, teardown),
        cmocka_unit_test_setup_teardown(old_superblocks_inside_the_volume_are_not_believed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_move_that_was_cut_off_does_not_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(a_superblock_counts_when_three_copies_are_stable, setup, teardown),
        cmocka_unit_test_setup_teardown(who_has_lost_too_many_copies_is_told_what_to_do, setup, teardown),
        cmocka_unit_test_setup_teardown(other_granules_and_extents_are_not_taken_for_ours, setup, teardown),
        cmocka_unit_test_setup_teardown(superblocks_that_cannot_be_read_are_no_missing_leg, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_that_are_written_again_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_that_differ_are_flushed_first, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_of_an_unclean_end_are_flushed_first, setup, teardown),
        cmocka_unit_test_setup_teardown(a_copy_that_cannot_be_written_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(a_leg_that_has_grown_a_little_keeps_its_metadata, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
