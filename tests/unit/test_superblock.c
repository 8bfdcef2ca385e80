/* The superblock on disk: what is written is read, and no damage passes for good. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/base/units.h"
#include "repl/meta/superblock_disk.h"

static struct superblock sample(uint64_t sequence)
{
    struct superblock sb = {
        .sequence = sequence,
        .volume = "gold42",
        .node = "paris-a",
        .size_bytes = 40 * GIB,
        .backing_bytes = 41 * GIB,
        .epoch = 7,
        .lsn = 123456,
        .role = ROLE_PRIMARY,
        .leg = LEG_UP_TO_DATE,
        .peer_leg = LEG_OUTDATED,
        .attached = true,
        .peer_in_sync = true,
        .al_from = 77,
        .granule_bytes = 4096,
        .extent_bytes = 4 * MIB,
        .base = { .epoch = 6, .first_lsn = 1000, .tag = 60 },
        .consistent_epoch = 5,
        .consistent_lsn = 999,
        .room_bytes = 50 * GIB,
        .moved_from_bytes = 30 * GIB,
        .verified_at_s = 1795000000,
        .verified_found_bytes = 8192,
        .served_epoch = 5,
        .asked_epoch = 8,
        .age = 6,
        .peer_age = UINT64_MAX / 2,
        .heard_epoch = 9,
    };
    for (uint64_t epoch = 1; epoch <= 7; epoch++)
        history_append(&sb.history, (struct history_entry) { epoch, epoch * 100, epoch * 10 });
    memset(&sb.leg_id, 0xa5, sizeof(sb.leg_id));
    memset(&sb.volume_id, 0x5a, sizeof(sb.volume_id));
    memset(&sb.peer_leg_id, 0x3c, sizeof(sb.peer_leg_id));
    memset(&sb.boot_id, 0xc3, sizeof(sb.boot_id));
    return sb;
}

static void fill(uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES], unsigned copy, uint64_t sequence)
{
    struct superblock sb = sample(sequence);
    superblock_encode(&sb, copy, blocks[copy]);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    uint8_t block[SUPERBLOCK_BYTES];
    struct superblock in = sample(3), out;
    struct err err = { 0 };
    superblock_encode(&in, 2, block);
    assert_int_equal(superblock_decode(block, 2, &out, &err), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    /* A copy that lies where another belongs is a misdirected write. */
    assert_int_equal(superblock_decode(block, 1, &out, &err), -EBADMSG);
}

static void every_flag_and_a_full_history_are_kept(void **state)
{
    (void)state;
    uint8_t block[SUPERBLOCK_BYTES];
    struct err err = { 0 };
    for (unsigned i = 0; i < 11; i++) {
        struct superblock in = sample(3), out;
        bool *flags[] = { &in.attached,    &in.pristine, &in.adopted,   &in.lost_power, &in.peer_in_sync, &in.went_back,
                          &in.was_primary, &in.full,     &in.reads_lie, &in.differs,    &in.registered };
        for (unsigned k = 0; k < ARRAY_LEN(flags); k++)
            *flags[k] = k == i;
        in.epoch = HISTORY_MAX;
        while (in.history.count < HISTORY_MAX)
            history_append(&in.history, (struct history_entry) { in.history.count + 1, i, UINT64_MAX - i });
        superblock_encode(&in, 1, block);
        assert_int_equal(superblock_decode(block, 1, &out, &err), 0);
        assert_memory_equal(&in, &out, sizeof(in));
    }
}

/* With a checksum that is right: a bug's or a forger's. */
static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    static const struct {
        unsigned at, bytes;
        uint64_t value;
        int result;
        const char *text;
    } forged[] = {
        { 0, 8, 0, -ENOENT, "no Lockstep metadata" },
        { 16, 4, 1, -ENOTSUP, "the older format 1" },
        { 16, 4, 3, -ENOTSUP, "the newer format 3" },
        { 20, 4, 1, -EBADMSG, "copy 1 lies where copy 0 belongs" },
        { 24, 8, UINT64_C(1) << 63, -EBADMSG, "sequence" },
        { 32, 8, 513, -EBADMSG, "size" },
        { 32, 8, 64 * TIB + 512, -EBADMSG, "size" },
        { 48, 8, UINT64_C(1) << 63, -EBADMSG, "epoch" },
        { 48, 8, 6, -EBADMSG, "history" }, /* ends with 7 */
        { 56, 8, UINT64_C(1) << 63, -EBADMSG, "lsn" },
        { 64, 4, 8, -ENOTSUP, "flags 8, which" }, /* reserved */
        { 64, 4, 4096, -ENOTSUP, "flags 4096, which" },
        { 71, 1, 1, -ENOTSUP, "byte 71, which" },
        { 324, 4, 1, -ENOTSUP, "byte 324, which" },
        { 324, 4, 1u << 31, -ENOTSUP, "byte 327, which" },
        { 328 + 7 * 24, 1, 1, -ENOTSUP, "byte 496, which" }, /* behind the history's last entry */
        { 1863, 1, 1, -ENOTSUP, "byte 1863, which" },
        { 1896, 8, 8, -EBADMSG, "served epoch" }, /* 7 was seen */
        { 1904, 8, UINT64_C(1) << 63, -EBADMSG, "epoch asked for" },
        { 1912, 8, UINT64_C(1) << 63, -EBADMSG, "age" },
        { 1920, 8, UINT64_C(1) << 63, -EBADMSG, "age" },
        { 1928, 8, UINT64_C(1) << 63, -EBADMSG, "epoch of the register's" },
        { 1936, 1, 1, -ENOTSUP, "byte 1936, which" },
        { 4095, 1, 1, -ENOTSUP, "byte 4095, which" },
        { 68, 1, 2, -EBADMSG, "role" },
        { 69, 1, 5, -EBADMSG, "leg state" },
        { 70, 1, 5, -EBADMSG, "leg state" },
        { 136, 1, 0, -EBADMSG, "name" },
        { 137, 1, 27, -EBADMSG, "name" },
        { 205, 1, 127, -EBADMSG, "name" },
        { 264, 8, UINT64_MAX, -EBADMSG, "activity log" },
        { 272, 4, 0, -EBADMSG, "granule" },
        { 272, 4, 4097, -EBADMSG, "granule" },
        { 272, 4, 256, -EBADMSG, "granule" },
        { 276, 4, 0, -EBADMSG, "extent" },
        { 276, 4, 2048, -EBADMSG, "extent" },
        { 276, 4, 1u << 31, -EBADMSG, "extent" },
        { 1864, 8, 513, -EBADMSG, "room" },
        { 1864, 8, 64 * TIB + 512, -EBADMSG, "room" },
        { 312, 8, 0, -EBADMSG, "base" },
        { 320, 4, 8, -EBADMSG, "history" },
        { 320, 4, HISTORY_MAX + 1, -EBADMSG, "history" },
        { 328, 8, 3, -EBADMSG, "history" },
        { 344, 8, 0, -EBADMSG, "history" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(forged); i++) {
        uint8_t block[SUPERBLOCK_BYTES];
        struct superblock sb = sample(3), out;
        struct err err = { 0 };
        superblock_encode(&sb, 0, block);
        memcpy(block + forged[i].at, &forged[i].value, forged[i].bytes); /* tests run on little-endian machines */
        memset(block + 8, 0, 8);
        uint64_t check = checksum64(block, sizeof(block));
        memcpy(block + 8, &check, sizeof(check));
        assert_int_equal(superblock_decode(block, 0, &out, &err), forged[i].result);
        assert_non_null(strstr(err.text, forged[i].text));
    }
}

/* docs/METADATA.md, byte by byte. What is on disks stays readable. */
static void put(uint8_t *block, unsigned at, unsigned bytes, uint64_t value)
{
    for (unsigned i = 0; i < bytes; i++)
        block[at + i] = (uint8_t)(value >> 8 * i);
}

static void put_check(uint8_t block[SUPERBLOCK_BYTES])
{
    put(block, 8, 8, 0);
    put(block, 8, 8, checksum64(block, SUPERBLOCK_BYTES));
}

static void the_superblock_lies_as_documented(void **state)
{
    (void)state;
    uint8_t expected[SUPERBLOCK_BYTES] = "LKSTEPES", block[SUPERBLOCK_BYTES];
    struct superblock in = sample(3), out;
    struct err err = { 0 };
    put(expected, 16, 4, 2);
    put(expected, 20, 4, 2);
    put(expected, 24, 8, 3);
    put(expected, 32, 8, 40 * GIB);
    put(expected, 40, 8, 41 * GIB);
    put(expected, 48, 8, 7);
    put(expected, 56, 8, 123456);
    put(expected, 68, 1, 1);
    put(expected, 69, 1, 1);
    put(expected, 70, 1, 3);
    memset(expected + 72, 0x5a, 16);
    memset(expected + 88, 0xa5, 16);
    memset(expected + 104, 0x3c, 16);
    memset(expected + 120, 0xc3, 16);
    strcpy((char *)expected + 136, "gold42");
    strcpy((char *)expected + 200, "paris-a");
    put(expected, 264, 8, 77);
    put(expected, 272, 4, 4096);
    put(expected, 276, 4, 4 * MIB);
    put(expected, 280, 8, 5);
    put(expected, 288, 8, 999);
    put(expected, 296, 8, 6);
    put(expected, 304, 8, 1000);
    put(expected, 312, 8, 60);
    put(expected, 320, 4, 7);
    for (unsigned i = 0; i < 7; i++) {
        put(expected, 328 + 24 * i, 8, i + 1);
        put(expected, 336 + 24 * i, 8, 100 * (i + 1));
        put(expected, 344 + 24 * i, 8, 10 * (i + 1));
    }
    put(expected, 1864, 8, 50 * GIB);
    put(expected, 1872, 8, 30 * GIB);
    put(expected, 1880, 8, 1795000000);
    put(expected, 1888, 8, 8192);
    put(expected, 1896, 8, 5);
    put(expected, 1904, 8, 8);
    put(expected, 1912, 8, 6);
    put(expected, 1920, 8, UINT64_MAX / 2);
    put(expected, 1928, 8, 9);
    bool *flags[] = { &in.attached,    &in.pristine, &in.adopted,   NULL,        &in.lost_power, &in.peer_in_sync,
                      &in.was_primary, &in.full,     &in.reads_lie, &in.differs, &in.registered, &in.went_back };
    in.attached = in.peer_in_sync = false;
    for (unsigned i = 0; i < ARRAY_LEN(flags); i++) {
        if (!flags[i])
            continue;
        *flags[i] = true;
        put(expected, 64, 4, UINT64_C(1) << i);
        put_check(expected);
        superblock_encode(&in, 2, block);
        assert_memory_equal(block, expected, sizeof(block));
        assert_int_equal(superblock_decode(expected, 2, &out, &err), 0);
        assert_memory_equal(&in, &out, sizeof(in));
        *flags[i] = false;
    }
}

/* In whatever of its sizes: the log counts extents in 32 bits. */
static void more_extents_than_can_be_are_refused(void **state)
{
    (void)state;
    uint8_t block[SUPERBLOCK_BYTES];
    struct err err = { 0 };
    for (unsigned room = 0; room < 2; room++) {
        struct superblock sb = sample(3), out;
        sb.granule_bytes = sb.extent_bytes = 512;
        uint64_t *bytes = room ? &sb.room_bytes : &sb.size_bytes;
        *bytes = UINT64_C(512) * (UINT32_MAX - 1);
        superblock_encode(&sb, 0, block);
        assert_int_equal(superblock_decode(block, 0, &out, &err), 0);
        *bytes += 512;
        superblock_encode(&sb, 0, block);
        assert_int_equal(superblock_decode(block, 0, &out, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "extents"));
    }
}

static void every_flipped_bit_is_noticed(void **state)
{
    (void)state;
    uint8_t block[SUPERBLOCK_BYTES];
    struct superblock sb = sample(3), out;
    superblock_encode(&sb, 0, block);
    for (unsigned bit = 0; bit < SUPERBLOCK_BYTES * 8; bit++) {
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(superblock_decode(block, 0, &out, NULL), 0);
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(superblock_decode(block, 0, &out, NULL), 0);
}

static void the_newest_that_enough_copies_agree_on_is_chosen(void **state)
{
    (void)state;
    uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    struct superblock sb;
    struct err err = { 0 };
    unsigned good;

    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        fill(blocks, i, 5);
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), 0);
    assert_int_equal(sb.sequence, 5);
    assert_int_equal(good, 0xf);

    /* A write that reached one copy only was never reported as done: the old state holds. */
    fill(blocks, 1, 6);
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), 0);
    assert_int_equal(good, 0xd);

    /* One that was reported as done is on three, and any loss of one of them leaves it readable. */
    fill(blocks, 0, 6);
    fill(blocks, 2, 6);
    blocks[2][100] ^= 1;
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), 0);
    assert_int_equal(sb.sequence, 6);

    memset(blocks[0], 0, SUPERBLOCK_BYTES);
    memset(blocks[1], 0, SUPERBLOCK_BYTES);
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "copies agree"));

    memset(blocks, 0, sizeof(blocks));
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), -ENOENT);
}

/* Three copies were written; a later write failed, but landed on one; one more rotted: no two agree. */
static void the_newest_of_enough_copies_is_chosen_when_no_two_agree(void **state)
{
    (void)state;
    uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    struct superblock sb;
    struct err err = { 0 };
    unsigned good;
    /* Every way to have 6 on one copy, 5 on another, and 4 or damage on the others. */
    for (unsigned newest = 0; newest < SUPERBLOCK_COPIES; newest++) {
        for (unsigned before = 0; before < SUPERBLOCK_COPIES; before++) {
            for (unsigned oldest = 0; oldest <= SUPERBLOCK_COPIES; oldest++) {
                if (newest == before || newest == oldest || before == oldest)
                    continue;
                memset(blocks, 0x5a, sizeof(blocks));
                if (oldest < SUPERBLOCK_COPIES)
                    fill(blocks, oldest, 4);
                fill(blocks, before, 5);
                fill(blocks, newest, 6);
                assert_int_equal(superblock_choose(blocks, &sb, &good, &err), 0);
                assert_int_equal(sb.sequence, 6);
                assert_int_equal(good, 1u << newest);
            }
        }
    }
    /* One copy alone may be one that a write had missed long ago. */
    memset(blocks, 0x5a, sizeof(blocks));
    fill(blocks, 2, 6);
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), -EBADMSG);
    /* Nobody knows which of these was meant to hold. */
    struct superblock other = sample(6);
    other.full = true;
    superblock_encode(&other, 1, blocks[1]);
    fill(blocks, 0, 5);
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), -EBADMSG);
}

/* Nothing is repaired, and nobody is told that it is lost. */
static void a_newer_programs_metadata_is_no_damage(void **state)
{
    (void)state;
    uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    struct superblock sb;
    struct err err = { 0 };
    unsigned good;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        fill(blocks, i, 5);
        uint32_t version = 3;
        memcpy(blocks[i] + 16, &version, sizeof(version));
        memset(blocks[i] + 8, 0, 8);
        uint64_t check = checksum64(blocks[i], SUPERBLOCK_BYTES);
        memcpy(blocks[i] + 8, &check, sizeof(check));
    }
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "newer format 3"));
    /* Two old copies left over: it could not tell all of the newer ones' write from damage, had they rotted. */
    fill(blocks, 0, 4);
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), -ENOTSUP);
}

/* Whatever a write was cut to, the next one is told from it. */
static void the_next_write_has_a_sequence_of_its_own(void **state)
{
    (void)state;
    uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    struct superblock sb;
    struct err err = { 0 };
    unsigned good;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        fill(blocks, i, 5);
    struct superblock cut = sample(6);
    cut.full = true;
    superblock_encode(&cut, 3, blocks[3]);
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), 0);
    assert_false(sb.full);
    assert_int_equal(good, 0x7);
    assert_int_equal(sb.sequence, 6);
}

/* A crash can leave a write on one copy that nobody was told of. The next daemon, which read the state before it, gives
 * its own write the same sequence. Only copies that say the same agree. */
static void copies_of_one_sequence_that_differ_do_not_agree(void **state)
{
    (void)state;
    uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    struct superblock sb, lost = sample(6), done = sample(6);
    struct err err = { 0 };
    unsigned good;
    lost.full = true;
    superblock_encode(&lost, 0, blocks[0]);
    for (unsigned i = 1; i < SUPERBLOCK_COPIES; i++)
        superblock_encode(&done, i, blocks[i]);
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), 0);
    assert_false(sb.full);
    assert_int_equal(good, 0xe);

    /* One each of two that were cut short: neither holds. */
    fill(blocks, 2, 5);
    fill(blocks, 3, 5);
    assert_int_equal(superblock_choose(blocks, &sb, &good, &err), 0);
    assert_int_equal(good, 0xc);
}

static void layouts_leave_room_for_metadata(void **state)
{
    (void)state;
    static const uint64_t sizes[] = { 16 * MIB, 2 * GIB, 2 * GIB + 12345, 1 * TIB, 64 * TIB };
    struct err err = { 0 };
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        struct meta_layout l;
        assert_int_equal(meta_layout_internal(sizes[i], &l, &err), 0);
        assert_int_equal(l.data_bytes, l.meta_offset_bytes);
        assert_true(l.meta_offset_bytes + l.meta_bytes <= sizes[i]);
        /* A bit for each 4 KiB, twice, fits beside the rest. */
        assert_true(l.meta_bytes >= 5 * MIB + 2 * (l.data_bytes / 4096 / 8));
        for (unsigned copy = 0; copy < SUPERBLOCK_COPIES; copy++) {
            uint64_t at = superblock_copy_offset(&l, copy);
            assert_true(at >= l.data_bytes && at + SUPERBLOCK_BYTES <= sizes[i] && at % 4096 == 0);
        }
        assert_int_equal(meta_layout_external(sizes[i], 0, &l, &err), 0);
        assert_int_equal(l.data_bytes, sizes[i] - sizes[i] % 4096);
    }
    struct meta_layout l;
    assert_int_equal(meta_layout_internal(4 * MIB, &l, &err), -ENOSPC);
    assert_int_equal(meta_layout_internal(200 * TIB, &l, &err), -EFBIG);
    assert_int_equal(meta_layout_external(2 * GIB, 1 * MIB, &l, &err), -ENOSPC);
}

/* A backing as far as a search reads it: zeroes, and copies of a leg of `former` bytes. */
struct grown {
    uint64_t former_bytes;
    unsigned copies; /* bits */
    bool planted;    /* the volume's users have filled it with superblocks, each for the place where it lies */
};

static void plant(uint64_t place_bytes, uint8_t block[SUPERBLOCK_BYTES])
{
    /* What a backing must have had for copy 0 to lie there. */
    struct meta_layout l;
    struct err err = { 0 };
    for (uint64_t bytes = align_down(place_bytes, MIB) + 7 * MIB; meta_layout_internal(bytes, &l, &err) == 0;
         bytes += MIB) {
        if (l.meta_offset_bytes > place_bytes)
            return;
        for (unsigned copy = 0; copy < SUPERBLOCK_COPIES; copy++) {
            if (superblock_copy_offset(&l, copy) != place_bytes)
                continue;
            struct superblock sb = sample(9);
            sb.backing_bytes = bytes;
            superblock_encode(&sb, copy, block);
            return;
        }
    }
}

static bool search(const struct grown *g, uint64_t backing_bytes, struct meta_layout *found)
{
    static uint8_t block[SUPERBLOCK_BYTES];
    struct err err = { 0 };
    struct meta_layout former;
    assert_int_equal(meta_layout_internal(g->former_bytes, &former, &err), 0);
    struct superblock sb = sample(9);
    sb.backing_bytes = g->former_bytes;
    struct superblock_search s;
    uint64_t places[SUPERBLOCK_SEARCH_READS];
    uint64_t before = backing_bytes;
    superblock_search_begin(&s, backing_bytes);
    for (unsigned n; (n = superblock_search_next(&s, places));) {
        for (unsigned i = 0; i < n; i++) {
            assert_true(places[i] + SUPERBLOCK_BYTES <= before && places[i] % SUPERBLOCK_BYTES == 0);
            before = places[i];
            memset(block, 0, sizeof(block));
            for (unsigned copy = 0; copy < SUPERBLOCK_COPIES; copy++)
                if (g->copies & 1u << copy && superblock_copy_offset(&former, copy) == places[i])
                    superblock_encode(&sb, copy, block);
            if (g->planted && places[i] + SUPERBLOCK_BYTES <= former.data_bytes)
                plant(places[i], block);
            if (superblock_search_look(places[i], block, NULL, found))
                return true;
        }
    }
    return false;
}

static void a_leg_is_found_on_a_backing_that_has_grown(void **state)
{
    (void)state;
    static const struct {
        uint64_t former_bytes, backing_bytes;
        unsigned copies;
        bool found;
    } cases[] = {
        { 64 * MIB, 128 * MIB, 0xf, true },
        { 64 * MIB, 64 * MIB, 0xf, true },
        { 64 * MIB + 12288, 200 * MIB, 0xf, true },
        { 100 * GIB, 200 * GIB, 0xf, true },
        { 100 * GIB + 4096, 200 * GIB, 0xf, true },
        { 100 * GIB + 256 * KIB, 200 * GIB, 0xf, true },
        { 100 * GIB + 256 * KIB - 512, 200 * GIB + 512, 0xf, true },
        { 100 * GIB, 200 * GIB, 0xe, true }, /* any one of them may be bad */
        { 100 * GIB, 200 * GIB, 0xd, true },
        { 100 * GIB, 200 * GIB, 0xb, true },
        { 100 * GIB, 200 * GIB, 0x7, true },
        { 64 * MIB, 128 * MIB, 0, false },
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct meta_layout former, found;
        struct err err = { 0 };
        assert_int_equal(meta_layout_internal(cases[i].former_bytes, &former, &err), 0);
        struct grown g = { cases[i].former_bytes, cases[i].copies, false };
        assert_int_equal(search(&g, cases[i].backing_bytes, &found), cases[i].found);
        if (cases[i].found)
            assert_memory_equal(&former, &found, sizeof(found));
    }
}

/* Who writes the volume cannot have a leg of his own found before the true one, whatever its size was. */
static void planted_superblocks_come_after_the_true_ones(void **state)
{
    (void)state;
    struct meta_layout former = { 0 }, found = { 0 };
    struct err err = { 0 };
    for (uint64_t odd = 0; odd < 2 * MIB; odd += 60 * KIB) {
        struct grown g = { 900 * MIB + odd, 0xf, true };
        assert_int_equal(meta_layout_internal(g.former_bytes, &former, &err), 0);
        assert_true(search(&g, 2 * GIB, &found));
        assert_memory_equal(&former, &found, sizeof(found));
        /* They would be found: the test plants them right. */
        g.copies = 0;
        assert_true(search(&g, 2 * GIB, &found));
        assert_true(found.meta_offset_bytes < former.meta_offset_bytes);
    }
}

/* An image of a leg in the volume, or what another leg has left on a disk. */
static void a_copy_in_another_place_is_none(void **state)
{
    (void)state;
    static uint8_t block[SUPERBLOCK_BYTES];
    struct meta_layout layout;
    struct err err = { 0 };
    assert_int_equal(meta_layout_internal(41 * GIB, &layout, &err), 0);
    struct superblock sb = sample(9);
    superblock_encode(&sb, 1, block);
    uint64_t place = superblock_copy_offset(&layout, 1);
    struct meta_layout found;
    assert_true(superblock_search_look(place, block, NULL, &found));
    /* A move was cut off when one copy had been written at the present end: that place has been looked at. */
    assert_false(superblock_search_look(place, block, &layout, &found));
    assert_false(superblock_search_look(place + SUPERBLOCK_BYTES, block, NULL, &found));
    assert_false(superblock_search_look(superblock_copy_offset(&layout, 2), block, NULL, &found));
    block[100] ^= 1;
    assert_false(superblock_search_look(place, block, NULL, &found));
}

/* The power is lost in the middle of each of two writes in a row: both copies that were being written are torn.
 * Whatever half of the first write it was, two copies agree after the second. */
static void power_lost_in_write_after_write_leaves_one(void **state)
{
    (void)state;
    uint8_t order[SUPERBLOCK_COPIES];
    for (unsigned first = 0; first < SUPERBLOCK_COPIES; first += SUPERBLOCK_COPIES_AT_ONCE) {
        for (unsigned second = 0; second < SUPERBLOCK_COPIES; second += SUPERBLOCK_COPIES_AT_ONCE) {
            unsigned bad = 0;
            superblock_write_order(bad, order);
            for (unsigned i = first; i < first + SUPERBLOCK_COPIES_AT_ONCE; i++)
                bad |= 1u << order[i];
            superblock_write_order(bad, order);
            unsigned seen = 0;
            for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
                seen |= 1u << order[i];
            assert_int_equal(seen, (1u << SUPERBLOCK_COPIES) - 1);
            /* What came before is on disk; what was in flight is torn; the rest is as it was. */
            for (unsigned i = 0; i < second; i++)
                bad &= ~(1u << order[i]);
            for (unsigned i = second; i < second + SUPERBLOCK_COPIES_AT_ONCE; i++)
                bad |= 1u << order[i];
            assert_true(SUPERBLOCK_COPIES - (unsigned)__builtin_popcount(bad) >= SUPERBLOCK_COPIES_TO_READ);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_lost_in_write_after_write_leaves_one),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(every_flag_and_a_full_history_are_kept),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(more_extents_than_can_be_are_refused),
        cmocka_unit_test(the_superblock_lies_as_documented),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(the_newest_that_enough_copies_agree_on_is_chosen),
        cmocka_unit_test(the_newest_of_enough_copies_is_chosen_when_no_two_agree),
        cmocka_unit_test(a_newer_programs_metadata_is_no_damage),
        cmocka_unit_test(the_next_write_has_a_sequence_of_its_own),
        cmocka_unit_test(copies_of_one_sequence_that_differ_do_not_agree),
        cmocka_unit_test(layouts_leave_room_for_metadata),
        cmocka_unit_test(a_leg_is_found_on_a_backing_that_has_grown),
        cmocka_unit_test(planted_superblocks_come_after_the_true_ones),
        cmocka_unit_test(a_copy_in_another_place_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
