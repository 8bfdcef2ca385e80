/* Making a leg over another one: what is there if it is cut short. */
#include "repl/node/create.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"
#include "repl/node/leg.h"
#include "tests/unit/unit.h"

#define BACKING_BYTES (600 * MIB) /* sparse; zeroed in several steps */

static struct volume_config config;

int __real_fsync(int fd);
int __wrap_fsync(int fd);
static unsigned directories_flushed;

int __wrap_fsync(int fd)
{
    struct stat st, of_metadata;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && stat("/var/tmp", &of_metadata) == 0)
        directories_flushed += st.st_ino == of_metadata.st_ino;
    return __real_fsync(fd);
}

static int setup(void **state)
{
    config = (struct volume_config) { .volume = "g", .node_count = 1, .nodes = { { .name = "a" } } };
    char *path = config.nodes[0].backing;
    snprintf(path, sizeof(config.nodes[0].backing), "/var/tmp/test_create.XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, BACKING_BYTES) < 0)
        return -1;
    return close(fd);
}

static int teardown(void **state) { return unlink(config.nodes[0].backing); }

static int find_leg(void)
{
    static uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    struct meta_layout layout;
    struct err err = { 0 };
    assert_int_equal(leg_layout(&config, BACKING_BYTES, 0, &layout, &err), 0);
    int fd = open(config.nodes[0].backing, O_RDONLY | O_CLOEXEC);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        assert_int_equal(pread(fd, blocks[i], SUPERBLOCK_BYTES, (off_t)superblock_copy_offset(&layout, i)),
                         SUPERBLOCK_BYTES);
    close(fd);
    struct superblock sb = { 0 };
    unsigned good;
    return superblock_choose(blocks, &sb, &good, &err);
}

static void note_leg(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    if (done_bytes < total_bytes)
        *(int *)ctx = find_leg();
}

static void ignore_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes) {}

/* The old metadata must not vouch for data that is being zeroed: a daemon that is started after a crash would bring the
 * leg up as up to date. */
static void an_old_leg_is_gone_before_its_data_is(void **state)
{
    struct err err = { 0 };
    assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), 0);
    assert_int_equal(find_leg(), 0);
    int meanwhile = 1;
    assert_int_equal(volume_create(&config, false, true, note_leg, &meanwhile, &err), 0);
    assert_int_equal(meanwhile, -ENOENT);
    assert_int_equal(find_leg(), 0);
}

/* The backing has grown since: a daemon looks for the old leg before what was its end. */
static void a_leg_at_a_former_end_is_gone_before_its_data_is(void **state)
{
    static const uint64_t growth[] = { MIB, 16 * MIB, 1000 * MIB };
    for (unsigned i = 0; i < ARRAY_LEN(growth); i++) {
        for (int adopt = 0; adopt < 2; adopt++) {
            struct err err = { 0 };
            assert_int_equal(truncate(config.nodes[0].backing, 0), 0);
            assert_int_equal(truncate(config.nodes[0].backing, BACKING_BYTES), 0);
            assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), 0);
            assert_int_equal(find_leg(), 0);
            assert_int_equal(truncate(config.nodes[0].backing, (off_t)(BACKING_BYTES + growth[i])), 0);
            assert_int_equal(volume_create(&config, adopt, false, ignore_progress, NULL, &err), -EEXIST);
            assert_non_null(strstr(err.text, "already holds a leg"));
            assert_int_equal(find_leg(), 0);
            int meanwhile = adopt ? -ENOENT : 1; /* nothing is zeroed then */
            err = (struct err) { 0 };
            assert_int_equal(volume_create(&config, adopt, true, note_leg, &meanwhile, &err), 0);
            assert_int_equal(meanwhile, -ENOENT);
            assert_int_equal(find_leg(), -ENOENT);
            assert_string_equal(err.text, "");
        }
    }
}

/* The last of the copies, or all but the first, are cut off. */
static void a_leg_on_a_backing_that_has_shrunk_is_seen(void **state)
{
    struct meta_layout layout;
    struct err err = { 0 };
    struct stat st;
    const char *path = config.nodes[0].backing;
    assert_int_equal(leg_layout(&config, BACKING_BYTES, 0, &layout, &err), 0);
    for (unsigned kept = 1; kept < SUPERBLOCK_COPIES; kept++) {
        uint64_t bytes = superblock_copy_offset(&layout, kept);
        assert_int_equal(truncate(path, 0), 0);
        assert_int_equal(truncate(path, BACKING_BYTES), 0);
        assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), 0);
        assert_int_equal(truncate(path, (off_t)bytes), 0);
        assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), -EEXIST);
        assert_non_null(strstr(err.text, kept > 1 ? "already holds a leg" : "cannot be used"));
        assert_int_equal(volume_create(&config, false, true, ignore_progress, NULL, &err), 0);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, bytes);
    }
}

static void write_lone_copy(uint64_t backing_bytes, unsigned copy)
{
    static uint8_t block[SUPERBLOCK_BYTES];
    struct meta_layout layout;
    struct err err = { 0 };
    struct superblock sb = {
        .volume = "g",
        .node = "a",
        .sequence = 9,
        .leg = LEG_UP_TO_DATE,
        .backing_bytes = backing_bytes,
        .leg_id = { { 1 } },
        .granule_bytes = GRANULE_BYTES_DEFAULT,
        .extent_bytes = EXTENT_BYTES_DEFAULT,
    };
    superblock_encode(&sb, copy, block);
    assert_int_equal(leg_layout(&config, backing_bytes, 0, &layout, &err), 0);
    int fd = open(config.nodes[0].backing, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, block, sizeof(block), (off_t)superblock_copy_offset(&layout, copy)), sizeof(block));
    close(fd);
}

static int read_leg(struct superblock *sb, struct err *err)
{
    struct buf_pool pool;
    struct leg leg = { 0 };
    assert_int_equal(buf_pool_open(&pool, 4 * BUF_BYTES_MAX), 0);
    struct ring *ring = ring_open(
        &(struct ring_config) { .entries = 64, .files_max = 4, .arena = pool.arena, .arena_bytes = pool.arena_bytes },
        err);
    assert_non_null(ring);
    int r = leg_open(&leg, ring, &pool, &config, err);
    if (!r)
        r = leg_read_superblock(&leg, &config, sb, err);
    leg_close(&leg);
    ring_close(ring);
    buf_pool_close(&pool);
    return r;
}

/* One that was missed when an earlier life ended. */
static void a_lone_copy_hides_no_leg_further_back(void **state)
{
    struct err err = { 0 };
    struct superblock sb = { 0 };
    assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), 0);
    assert_int_equal(truncate(config.nodes[0].backing, BACKING_BYTES + 300 * MIB), 0);
    assert_int_equal(read_leg(&sb, &err), 0);
    write_lone_copy(BACKING_BYTES + 100 * MIB, 1);
    write_lone_copy(BACKING_BYTES + 200 * MIB, 3);
    assert_int_equal(read_leg(&sb, &err), 0);
    assert_int_equal(sb.backing_bytes, BACKING_BYTES);
    assert_int_equal(sb.sequence, 1);
    /* Alone with each other they are no leg, and not nothing. */
    assert_int_equal(truncate(config.nodes[0].backing, 0), 0);
    assert_int_equal(truncate(config.nodes[0].backing, BACKING_BYTES + 300 * MIB), 0);
    write_lone_copy(BACKING_BYTES + 100 * MIB, 1);
    assert_int_equal(read_leg(&sb, &err), -EBADMSG);
    assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), -EEXIST);
    assert_int_equal(volume_create(&config, false, true, ignore_progress, NULL, &err), 0);
}

/* A file of somebody's that `metadata:` names by mistake. */
#define DIARY "Dear diary,\n"
#define DIARY_BYTES (100 * MIB)

static void make_diary(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, DIARY, sizeof(DIARY)), sizeof(DIARY));
    assert_int_equal(ftruncate(fd, DIARY_BYTES), 0);
    close(fd);
}

static void check_diary(const char *path)
{
    char text[sizeof(DIARY)];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, text, sizeof(text)), sizeof(text));
    assert_memory_equal(text, DIARY, sizeof(DIARY));
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, DIARY_BYTES);
    close(fd);
}

static void name_metadata(void)
{
    char *path = config.nodes[0].metadata;
    strcpy(path, config.nodes[0].backing);
    strcat(path, ".meta");
    (void)unlink(path);
}

static void a_file_that_is_there_is_not_taken_for_metadata(void **state)
{
    struct err err = { 0 };
    name_metadata();
    const char *path = config.nodes[0].metadata;
    make_diary(path);
    for (int adopt = 0; adopt < 2; adopt++) {
        assert_int_equal(volume_create(&config, adopt, false, ignore_progress, NULL, &err), -EEXIST);
        assert_non_null(strstr(err.text, "--force"));
        check_diary(path);
    }
    assert_int_equal(volume_create(&config, false, true, ignore_progress, NULL, &err), 0);
    assert_int_equal(unlink(path), 0);
}

static void a_metadata_file_is_made_kept_and_made_anew(void **state)
{
    struct err err = { 0 };
    struct stat st;
    name_metadata();
    const char *path = config.nodes[0].metadata;
    directories_flushed = 0;
    assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), 0);
    assert_int_equal(directories_flushed, 1); /* else the file may be gone with the power */
    assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), -EEXIST);
    assert_int_equal(volume_create(&config, false, true, ignore_progress, NULL, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    /* What a `create` that was cut short leaves behind stands in nobody's way. */
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(truncate(path, st.st_size), 0);
    assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), 0);
    assert_int_equal(unlink(path), 0);
}

/* By another name, which the configuration cannot tell. */
static void the_backing_is_not_its_own_metadata(void **state)
{
    struct err err = { 0 };
    name_metadata();
    const char *path = config.nodes[0].metadata;
    for (int hard = 0; hard < 2; hard++) {
        struct stat st;
        assert_int_equal(hard ? link(config.nodes[0].backing, path) : symlink(config.nodes[0].backing, path), 0);
        for (int force = 0; force < 2; force++) {
            assert_int_equal(volume_create(&config, false, force, ignore_progress, NULL, &err), -EINVAL);
            assert_int_equal(stat(config.nodes[0].backing, &st), 0);
            assert_int_equal(st.st_size, BACKING_BYTES);
        }
        assert_int_equal(unlink(path), 0);
    }
}

static void write_at(const char *path, const char *text, uint64_t at)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, text, strlen(text), (off_t)at), strlen(text));
    close(fd);
}

static void check_at(const char *path, const char *text, uint64_t at)
{
    char found[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, found, strlen(text), (off_t)at), strlen(text));
    assert_memory_equal(found, text, strlen(text));
    close(fd);
}

/* Of a leg that has been written to, the superblocks are lost: in a file of its own, or at the backing's end. */
static void a_leg_without_superblocks_is_not_made_anew(void **state)
{
    static const char zeroes[SUPERBLOCK_BYTES];
    static const struct {
        enum meta_area area;
        uint32_t index;
        const char *magic; /* docs/METADATA.md */
    } traces[] = { { META_ACTIVITY_LOG, 1, "LKSCALOG" },
                   { META_ACTIVITY_LOG, 1023, "LKSCALOG" },
                   { META_BITMAP, 0, "LKSSTMAP" } };
    for (unsigned i = 0; i < 2 * ARRAY_LEN(traces); i++) {
        struct meta_layout layout;
        struct superblock sb = { 0 };
        struct err err = { 0 };
        const char *backing = config.nodes[0].backing;
        const char *holder = i % 2 ? config.nodes[0].metadata : backing;
        config.nodes[0].metadata[0] = 0;
        if (i % 2)
            name_metadata();
        assert_int_equal(volume_create(&config, false, true, ignore_progress, NULL, &err), 0);
        assert_int_equal(leg_layout(&config, BACKING_BYTES, 0, &layout, &err), 0);
        write_at(backing, DIARY, 5 * MIB);
        int fd = open(holder, O_WRONLY | O_CLOEXEC);
        for (unsigned copy = 0; copy < SUPERBLOCK_COPIES; copy++)
            assert_int_equal(pwrite(fd, zeroes, sizeof(zeroes), (off_t)superblock_copy_offset(&layout, copy)),
                             sizeof(zeroes));
        close(fd);
        assert_int_equal(read_leg(&sb, &err), -ENOENT); /* nothing tells of it but what it held */
        write_at(holder, traces[i / 2].magic, meta_page_offset(&layout, traces[i / 2].area, traces[i / 2].index));
        assert_int_equal(read_leg(&sb, &err), -EBADMSG);
        assert_non_null(strstr(err.text, holder));
        assert_non_null(strstr(err.text, "none of its superblocks"));
        assert_non_null(strstr(err.text, METADATA_LOST_ADVICE));
        for (int adopt = 0; adopt < 2; adopt++) {
            assert_int_equal(volume_create(&config, adopt, false, ignore_progress, NULL, &err), -EEXIST);
            assert_non_null(strstr(err.text, "superblocks are lost"));
            assert_non_null(strstr(err.text, "--adopt --force"));
        }
        assert_int_equal(volume_create(&config, true, true, ignore_progress, NULL, &err), 0);
        assert_int_equal(read_leg(&sb, &err), 0);
        check_at(backing, DIARY, 5 * MIB);
    }
    assert_int_equal(unlink(config.nodes[0].metadata), 0);
}

/* The file system with the metadata is not mounted yet: the leg is not taken for one that was never made, and `create`
 * does not lose it. */
static void a_leg_whose_metadata_is_missing_is_not_made_anew(void **state)
{
    static const uint64_t places[] = { 0, 5 * MIB + 4096, BACKING_BYTES - 4096 };
    struct err err = { 0 };
    struct superblock sb = { 0 };
    struct stat st;
    const char *backing = config.nodes[0].backing, *path = config.nodes[0].metadata;
    name_metadata();
    assert_int_equal(read_leg(&sb, &err), -ENOENT); /* blank: it can be made */
    assert_non_null(strstr(err.text, "lockstep create g"));
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        assert_int_equal(truncate(backing, 0), 0);
        assert_int_equal(truncate(backing, BACKING_BYTES), 0);
        assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), 0);
        write_at(backing, DIARY, places[i]);
        assert_int_equal(unlink(path), 0);
        for (int empty = 0; empty < 2; empty++) { /* nor is it, if somebody makes the file */
            assert_int_equal(read_leg(&sb, &err), -ENXIO);
            assert_non_null(strstr(err.text, "is its file system mounted?"));
            assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), -EEXIST);
            assert_non_null(strstr(err.text, "not blank"));
            assert_non_null(strstr(err.text, "--force"));
            check_at(backing, DIARY, places[i]);
            assert_int_equal(stat(path, &st), empty ? 0 : -1); /* no file was made, or made longer */
            assert_int_equal(empty ? st.st_size : 0, 0);
            close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        }
        /* A file of the right size that holds no leg is no better. */
        struct meta_layout layout;
        assert_int_equal(leg_layout(&config, BACKING_BYTES, 0, &layout, &err), 0);
        assert_int_equal(truncate(path, (off_t)layout.meta_bytes), 0);
        assert_int_equal(read_leg(&sb, &err), -ENOENT);
        assert_non_null(strstr(err.text, "If it did hold one, do not"));
        assert_int_equal(volume_create(&config, false, false, ignore_progress, NULL, &err), -EEXIST);
        check_at(backing, DIARY, places[i]);
        assert_int_equal(volume_create(&config, true, false, ignore_progress, NULL, &err), 0);
        check_at(backing, DIARY, places[i]);
        assert_int_equal(volume_create(&config, false, true, ignore_progress, NULL, &err), 0);
        assert_int_equal(unlink(path), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_file_that_is_there_is_not_taken_for_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(a_metadata_file_is_made_kept_and_made_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(a_leg_whose_metadata_is_missing_is_not_made_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(a_leg_without_superblocks_is_not_made_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(the_backing_is_not_its_own_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(a_leg_at_a_former_end_is_gone_before_its_data_is, setup, teardown),
        cmocka_unit_test_setup_teardown(a_leg_on_a_backing_that_has_shrunk_is_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(a_lone_copy_hides_no_leg_further_back, setup, teardown),
        cmocka_unit_test_setup_teardown(an_old_leg_is_gone_before_its_data_is, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
