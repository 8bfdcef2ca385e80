/* `lockstep metadata dump` tells what a leg's metadata says, good or damaged, and leaves it as it was. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "repl/cli/metadata.h"
#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"

#define BACKING_BYTES (300 * MIB)
#define VOLUME_BYTES (200 * MIB)

static char path[] = "/tmp/lockstep-metadata-XXXXXX";
static int fd;
static struct meta_layout layout;

static void write_at(const void *bytes, size_t n, uint64_t at) { assert_int_equal(pwrite(fd, bytes, n, (off_t)at), n); }

static struct superblock sample(uint64_t sequence)
{
    struct superblock sb = {
        .sequence = sequence,
        .volume = "gold42",
        .node = "paris-a",
        .size_bytes = VOLUME_BYTES,
        .backing_bytes = BACKING_BYTES,
        .epoch = 2,
        .served_epoch = 1,
        .lsn = 99,
        .leg = LEG_SYNCING,
        .peer_leg = LEG_UP_TO_DATE,
        .lost_power = true,
        .differs = true,
        .age = 41,
        .peer_age = 17,
        .heard_epoch = 4,
        .was_primary = true,
        .al_from = 2,
        .granule_bytes = GRANULE_BYTES_DEFAULT,
        .extent_bytes = EXTENT_BYTES_DEFAULT,
        .consistent_epoch = 1,
        .consistent_lsn = 50,
        .room_bytes = 250 * MIB,
        .moved_from_bytes = 100 * MIB,
    };
    memset(&sb.leg_id, 0xa5, sizeof(sb.leg_id));
    history_append(&sb.history, (struct history_entry) { 1, 1, 0x11 });
    history_append(&sb.history, (struct history_entry) { 2, 60, 0x22 });
    return sb;
}

static void write_superblock(unsigned copy, const struct superblock *sb)
{
    uint8_t block[SUPERBLOCK_BYTES];
    superblock_encode(sb, copy, block);
    write_at(block, sizeof(block), superblock_copy_offset(&layout, copy));
}

/* One extent in a void block, then three: two neighbours and one apart. */
static void write_log(const struct superblock *sb)
{
    static struct al_commit c;
    static const uint64_t extents[] = { 9, 3, 4, 20 };
    struct err err = { 0 };
    struct al_options o = { .size_bytes = sb->size_bytes, .extent_bytes = sb->extent_bytes, .owner = sb->leg_id };
    struct activity_log *al = al_open(&o, &err);
    assert_non_null(al);
    for (unsigned i = 0; i < ARRAY_LEN(extents); i++) {
        if (i == 1)
            assert_int_equal(al_clear(al), 2);
        struct range r = { extents[i] * EXTENT_BYTES_DEFAULT, 4096 };
        assert_int_equal(al_enter(al, r), AL_COLD);
        assert_true(al_commit_begin(al, &c));
        write_at(c.block, sizeof(c.block), meta_page_offset(&layout, META_ACTIVITY_LOG, c.index));
        al_commit_done(al, true);
    }
    al_close(al);
}

static void write_bitmap(const struct superblock *sb)
{
    uint8_t block[BITMAP_PAGE_BYTES];
    struct err err = { 0 };
    struct bitmap *b = bitmap_open(sb->size_bytes, sb->granule_bytes, sb->leg_id, &err);
    assert_non_null(b);
    bitmap_set(b, (struct range) { 4096, 12288 });
    bitmap_page_encode(b, 0, block);
    write_at(block, sizeof(block), meta_page_offset(&layout, META_BITMAP, 0));
    bitmap_close(b);
}

static int set_up(void **state)
{
    (void)state;
    struct err err = { 0 };
    strcpy(path + strlen(path) - 6, "XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0 && ftruncate(fd, BACKING_BYTES) == 0);
    assert_int_equal(meta_layout_internal(BACKING_BYTES, &layout, &err), 0);
    struct superblock sb = sample(7);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        write_superblock(i, &sb);
    write_log(&sb);
    write_bitmap(&sb);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(fd);
    unlink(path);
    return 0;
}

static char *dump(bool json, bool verbose)
{
    static struct metadata m;
    struct err err = { 0 };
    struct metadata_source source = { .backing = path };
    assert_int_equal(metadata_read(&source, &m, &err), 0);
    char *text = NULL;
    size_t bytes;
    struct show s = { .out = open_memstream(&text, &bytes), .json = json };
    metadata_show(&s, &m, verbose);
    fclose(s.out);
    metadata_free(&m);
    return text;
}

static void tells(bool json, bool verbose, const char *const *parts, unsigned count)
{
    char *text = dump(json, verbose);
    for (unsigned i = 0; i < count; i++)
        if (!strstr(text, parts[i]))
            fail_msg("\"%s\" is not in:\n%s", parts[i], text);
    free(text);
}

#define TELLS(json, verbose, ...)                                                                                      \
    tells(json, verbose, (const char *const[]) { __VA_ARGS__ }, ARRAY_LEN(((const char *const[]) { __VA_ARGS__ })))

static void a_good_leg_is_told(void **state)
{
    (void)state;
    TELLS(false, true, "copy 3       good, sequence 7", "volume gold42 on node paris-a", "syncing; peer's up-to-date",
          "room         up to 262144000 bytes reads as zeroes", "moved from   the end of 104857600 bytes",
          "epoch        2, lsn 99; served last at 1", "age          41; the peer has told 17",
          "has heard    of epoch 4 in the register", "lost-power, found to differ by a verify, was-primary",
          "consistent   epoch 1, lsn 50", "history: 2 decrees", "epoch 2 from lsn 60, tag 0000000000000022",
          "3 hot extents of 4194304 bytes; sequences 2 to 5", "\n  12582912 + 8388608\n  83886080 + 4194304\n",
          "12288 bytes set in granules of 4096; 1 of 2 pages written, 0 damaged");
    TELLS(true, true, "\"copy\":0,\"state\":\"good\",\"sequence\":7,\"reason\":null", "\"in_use\":false",
          "\"went_back\":false,\"age\":41,\"peer_age\":17,", "\"room_bytes\":262144000,\"moved_from_bytes\":104857600,",
          "\"served_epoch\":1,", "\"heard_epoch\":4,",
          "\"history\":[{\"epoch\":1,\"first_lsn\":1,\"tag\":\"0000000000000011\"},",
          "\"activity_log\":{\"state\":\"good\",\"reason\":null,\"next_sequence\":5,\"hot_extents\":3,",
          "\"ranges\":[{\"offset_bytes\":12582912,\"length_bytes\":8388608},",
          "\"bitmap\":{\"dirty_bytes\":12288,\"pages\":2,\"written_pages\":1,\"damaged_pages\":0,\"reason\":null}");
}

static void damage_is_told(void **state)
{
    (void)state;
    struct superblock newer = sample(8);
    write_superblock(1, &newer);
    write_at("x", 1, superblock_copy_offset(&layout, 2) + 300);
    for (uint32_t i = 3; i <= 4; i++)
        write_at("x", 1, meta_page_offset(&layout, META_ACTIVITY_LOG, i) + 100);
    write_at("x", 1, meta_page_offset(&layout, META_BITMAP, 1) + 2000);
    TELLS(false, false, "copy 0       good, sequence 7", "copy 1       differs, sequence 8",
          "copy 2       damaged: superblock copy 2 is damaged (checksum)",
          "activity log: activity log block 3 is damaged, and the one after it, too",
          "2 of 2 pages written, 1 damaged: bitmap page 1: is none (magic)");
    TELLS(true, false, "\"activity_log\":{\"state\":\"damaged\"", "\"damaged_pages\":1", "\"usable\":true");
}

static void what_cannot_be_used_is_told(void **state)
{
    (void)state;
    uint8_t zeroes[SUPERBLOCK_BYTES] = { 0 };
    for (unsigned i = 1; i < SUPERBLOCK_COPIES; i++)
        write_at(zeroes, sizeof(zeroes), superblock_copy_offset(&layout, i));
    TELLS(false, false, "copy 0       differs, sequence 7", "copy 1       damaged: no Lockstep metadata",
          "fewer than 2 of 4 superblock copies agree: " METADATA_LOST_ADVICE);
    TELLS(true, false, "\"usable\":false", "\"superblock\":null", "\"activity_log\":null");
    write_at(zeroes, sizeof(zeroes), superblock_copy_offset(&layout, 0));
    TELLS(false, false, "no Lockstep metadata");
}

static void an_older_copy_is_told(void **state)
{
    (void)state;
    struct superblock sb = sample(8);
    sb.went_back = true;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        write_superblock(i, &sb);
    TELLS(false, false, "lost-power, put back from an older copy, was-primary");
    TELLS(true, false, "\"differs\":true,\"went_back\":true");
}

/* With checksums that are right: by a bug or a forger. */
static void a_forged_one_is_refused(void **state)
{
    (void)state;
    struct superblock sb = sample(8);
    sb.size_bytes = 3 * TIB;
    sb.granule_bytes = sb.extent_bytes = 512;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        write_superblock(i, &sb);
    TELLS(false, false, "copy 3       damaged: superblock with an impossible number of extents");
    TELLS(true, false, "\"usable\":false");
}

static void who_uses_it_is_told(void **state)
{
    (void)state;
    assert_int_equal(flock(fd, LOCK_EX), 0);
    TELLS(false, false, "in use; what is read may change");
    TELLS(true, false, "\"in_use\":true");
}

static void it_can_be_in_a_file_of_its_own(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct metadata m;
    char data[] = "/tmp/lockstep-metadata-data-XXXXXX";
    int data_fd = mkstemp(data);
    assert_true(data_fd >= 0 && ftruncate(data_fd, VOLUME_BYTES) == 0);
    assert_int_equal(meta_layout_external(VOLUME_BYTES, 0, &layout, &err), 0);
    struct superblock sb = sample(7);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        write_superblock(i, &sb);
    write_log(&sb);
    struct metadata_source source = { .backing = data, .metadata = path };
    assert_int_equal(metadata_read(&source, &m, &err), 0);
    assert_true(m.usable && m.hot_extents == 3 && m.path == path);
    metadata_free(&m);

    /* A file that is too small for it, and none at all. */
    assert_int_equal(ftruncate(fd, 4096), 0);
    assert_int_equal(metadata_read(&source, &m, &err), -ENOSPC);
    source.backing = "/nowhere";
    assert_int_equal(metadata_read(&source, &m, &err), -ENOENT);
    close(data_fd);
    unlink(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_good_leg_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_older_copy_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_used_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_forged_one_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_uses_it_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_can_be_in_a_file_of_its_own, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
