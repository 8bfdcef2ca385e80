/* Making a leg over another one: what is there if it is cut short. */
#include "repl/node/create.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repl/node/leg.h"
#include "tests/unit/unit.h"

#define BACKING_BYTES (600 * MIB) /* sparse; zeroed in several steps */

static struct volume_config config;

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
    struct superblock sb;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_old_leg_is_gone_before_its_data_is, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
