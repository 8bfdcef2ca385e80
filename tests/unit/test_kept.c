/* Files of kept blocks: written, read, exported; and everything that is not one. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "repl/cli/kept.h"
#include "repl/meta/superblock_disk.h"
#include "repl/node/keep_file.h"

#define SIZE (64 * MIB)

struct place {
    char dir[64];
    char path[128];
    char partial[160];
    char image[128];
};

static struct place make_place(void)
{
    struct place p;
    strcpy(p.dir, "/tmp/lockstep-kept-XXXXXX");
    assert_non_null(mkdtemp(p.dir));
    snprintf(p.path, sizeof(p.path), "%s/kept", p.dir);
    snprintf(p.partial, sizeof(p.partial), "%s.partial", p.path);
    snprintf(p.image, sizeof(p.image), "%s/image", p.dir);
    return p;
}

static void clear_place(struct place *p)
{
    unlink(p->path);
    unlink(p->partial);
    unlink(p->image);
    assert_int_equal(rmdir(p->dir), 0);
}

static struct keep_info info(void)
{
    struct keep_info i = { .size_bytes = SIZE,
                           .epoch = 7,
                           .lsn = 700,
                           .common = { 3, 300, 33 },
                           .first = { 5, 500, 55 },
                           .bytes_max = 8 * MIB };
    strcpy(i.volume, "gold42");
    strcpy(i.node, "paris-a");
    strcpy(i.peer, "paris-b");
    return i;
}

/* Two pieces of data, the second with zeroes inside; a bad sector; and more than one chunk takes. */
static void write_some(struct keep_file *f, uint8_t *data)
{
    struct err err = { 0 };
    memset(data, 0x11, MIB);
    memset(data + 16 * KIB, 0, 8 * KIB);
    struct keep_piece pieces[] = {
        { { 4096, 4096 }, 0, KEEP_KIND_DATA },
        { { 1 * MIB, 32 * KIB }, 8 * KIB, KEEP_KIND_DATA }, /* zeroes from 8 KiB on, for 8 KiB */
        { { 2 * MIB, 4096 }, 0, KEEP_KIND_UNREADABLE },
    };
    assert_int_equal(keep_file_add(f, pieces, ARRAY_LEN(pieces), data, &err), 0);
    for (uint64_t i = 0; i < 3; i++) {
        memset(data, 0x22 + (int)i, MIB);
        struct keep_piece more = { { 10 * MIB + i * MIB, MIB }, 0, KEEP_KIND_DATA };
        assert_int_equal(keep_file_add(f, &more, 1, data, &err), 0);
    }
    /* Every other block: more extents than a chunk has room for. */
    memset(data, 0, MIB);
    for (unsigned i = 0; i < 256; i += 2)
        data[i * 4096] = 1;
    for (uint64_t i = 0; i < 3; i++) {
        struct keep_piece more = { { 20 * MIB + i * MIB, MIB }, 0, KEEP_KIND_DATA };
        assert_int_equal(keep_file_add(f, &more, 1, data, &err), 0);
    }
}

static void write_file(const struct place *p)
{
    struct err err = { 0 };
    struct keep_info i = info();
    uint8_t *data = malloc(MIB);
    struct keep_file *f = keep_file_open(p->path, &i, UINT64_MAX, &err);
    assert_non_null(f);
    assert_int_equal(access(p->path, F_OK), -1); /* what has the name is whole */
    assert_int_equal(access(p->partial, F_OK), 0);
    write_some(f, data);
    assert_int_equal(keep_file_end(f, &err), 0);
    assert_int_equal(access(p->partial, F_OK), -1);
    free(data);
}

static char *listed(const char *path, bool json)
{
    char *text = NULL;
    size_t bytes;
    struct err err = { 0 };
    FILE *out = open_memstream(&text, &bytes);
    assert_int_equal(kept_list(&(struct show) { .out = out, .json = json }, path, &err), 0);
    fclose(out);
    return text;
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct place p = make_place();
    write_file(&p);
    struct stat st;
    assert_int_equal(stat(p.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    char *text = listed(p.path, false);
    assert_non_null(strstr(text, "volume gold42, 67108864 bytes: what paris-a gave up for paris-b"));
    assert_non_null(strstr(text, "the same up to epoch 3; on its own from epoch 5, LSN 500 to epoch 7, LSN 700"));
    const char *sum =
        "what it may have changed since: 774 extents, with 4747264 bytes of data, 1581056 of zeroes, 4096 that "
        "could not be read\n";
    assert_non_null(strstr(text, sum));
    assert_true(strstr(text, sum) < strstr(text, "offset ")); /* before them */
    assert_non_null(strstr(text, "offset 4096, length 4096: data\n"));
    assert_non_null(strstr(text, "offset 1048576, length 8192: data\n"));
    assert_non_null(strstr(text, "offset 1056768, length 8192: zeroes\n"));
    assert_non_null(strstr(text, "offset 1064960, length 16384: data\n"));
    assert_non_null(strstr(text, "offset 2097152, length 4096: unreadable\n"));
    assert_non_null(strstr(text, "offset 10485760, length 3145728: data\n")); /* over several chunks */
    free(text);
    text = listed(p.path, true);
    assert_non_null(strstr(text, "\"first_epoch\":5"));
    assert_non_null(strstr(text, "\"unreadable_bytes\":4096"));
    assert_non_null(strstr(text, "\"extent_count\":774"));
    free(text);

    struct err err = { 0 };
    struct show quiet = { .out = fopen("/dev/null", "w") };
    assert_int_equal(kept_export(&quiet, p.path, p.image, false, &err), 0);
    assert_int_equal(stat(p.image, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    assert_true(st.st_blocks * 512 < 8 * (long)MIB);
    uint8_t block[4096], expected[4096];
    int fd = open(p.image, O_RDWR);
    const struct {
        uint64_t at;
        int fill;
    } blocks[] = {
        { 0, 0 }, { 4096, 0x11 }, { MIB, 0x11 }, { MIB + 8 * KIB, 0 }, { 12 * MIB, 0x24 }, { SIZE - 4096, 0 }
    };
    for (unsigned i = 0; i < ARRAY_LEN(blocks); i++) {
        assert_int_equal(pread(fd, block, sizeof(block), (off_t)blocks[i].at), sizeof(block));
        memset(expected, blocks[i].fill, sizeof(expected));
        assert_memory_equal(block, expected, sizeof(block));
    }
    /* Over a copy of the volume: zeroes, too, and nothing else. */
    assert_int_equal(kept_export(&quiet, p.path, p.image, false, &err), -EEXIST);
    memset(block, 0x77, sizeof(block));
    assert_int_equal(pwrite(fd, block, sizeof(block), MIB + 8 * KIB), sizeof(block));
    assert_int_equal(pwrite(fd, block, sizeof(block), 0), sizeof(block));
    assert_int_equal(kept_export(&quiet, p.path, p.image, true, &err), 0);
    assert_int_equal(pread(fd, block, sizeof(block), MIB + 8 * KIB), sizeof(block));
    assert_int_equal(block[0], 0);
    assert_int_equal(pread(fd, block, sizeof(block), 0), sizeof(block));
    assert_int_equal(block[0], 0x77);
    close(fd);
    fclose(quiet.out);
    clear_place(&p);
}

/* Any bit that rots, and any end that is missing, is found; and then no image is begun. */
static void damage_is_found(void **state)
{
    (void)state;
    struct place p = make_place();
    write_file(&p);
    struct err err = { 0 };
    struct show quiet = { .out = fopen("/dev/null", "w") };
    int fd = open(p.path, O_RDWR);
    off_t end = lseek(fd, 0, SEEK_END);
    uint8_t byte;
    for (off_t at = 9; at < end; at += 70001) {
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 4;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        int r = kept_list(&quiet, p.path, &err);
        assert_true(r == -EBADMSG || r == -ENOENT || r == -ENOTSUP);
        assert_true(kept_export(&quiet, p.path, p.image, false, &err) < 0);
        assert_int_equal(access(p.image, F_OK), -1);
        byte ^= 4;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    assert_int_equal(kept_list(&quiet, p.path, &err), 0);
    assert_int_equal(pwrite(fd, &byte, 1, end), 1);
    assert_int_equal(kept_list(&quiet, p.path, &err), -EBADMSG);
    for (off_t shorter = end - 1; shorter > 0; shorter -= shorter > 100001 ? 100001 : shorter) {
        assert_int_equal(ftruncate(fd, shorter), 0);
        assert_int_equal(kept_list(&quiet, p.path, &err), -EBADMSG);
    }
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(kept_list(&quiet, p.path, &err), -EBADMSG);
    close(fd);
    assert_int_equal(kept_list(&quiet, p.dir, &err), -EINVAL);
    assert_int_equal(kept_list(&quiet, "/nonexistent", &err), -ENOENT);
    fclose(quiet.out);
    clear_place(&p);
}

static void leave(const char *path, const char *text)
{
    FILE *left = fopen(path, "w");
    assert_non_null(left);
    assert_int_equal(fputs(text, left) >= 0, true);
    fclose(left);
}

static void assert_refused(const struct place *p)
{
    struct err err = { 0 };
    struct keep_info i = info();
    assert_null(keep_file_open(p->path, &i, UINT64_MAX, &err));
    assert_int_equal(err.code, -EEXIST);
}

/* Instead of libc's: what happens to a name between open() and flock(). */
static const struct place *renamed;

int flock(int fd, int operation)
{
    if (renamed)
        assert_int_equal(rename(renamed->partial, renamed->path), 0);
    renamed = NULL;
    return (int)syscall(SYS_flock, fd, operation);
}

/* The other one was whole, and got its name, just when this one wanted to write it over. */
static void one_that_has_just_got_its_name_is_not_emptied(void **state)
{
    (void)state;
    struct place p = make_place();
    write_file(&p);
    assert_int_equal(rename(p.path, p.partial), 0);
    renamed = &p;
    assert_refused(&p);
    char *text = listed(p.path, false);
    free(text);
    assert_int_equal(access(p.partial, F_OK), -1);
    clear_place(&p);
}

static void what_is_not_ours_is_left_alone(void **state)
{
    (void)state;
    struct place p = make_place();
    struct stat st;
    leave(p.partial, "somebody's backing");
    assert_refused(&p);
    assert_int_equal(stat(p.partial, &st), 0);
    assert_int_equal(st.st_size, strlen("somebody's backing"));
    unlink(p.partial);
    /* One of ours that has another name, too. */
    write_file(&p);
    assert_int_equal(link(p.path, p.partial), 0);
    assert_int_equal(rename(p.path, p.image), 0);
    assert_refused(&p);
    char *text = listed(p.image, false);
    free(text);
    unlink(p.partial);
    assert_int_equal(mkfifo(p.partial, 0600), 0);
    assert_refused(&p);
    assert_int_equal(access(p.partial, F_OK), 0);
    unlink(p.partial);
    /* Empty is what a crash leaves that came at once. */
    leave(p.partial, "");
    write_file(&p);
    clear_place(&p);
}

static void nothing_is_written_over(void **state)
{
    (void)state;
    struct place p = make_place();
    struct err err = { 0 };
    struct keep_info i = info();
    write_file(&p);
    assert_null(keep_file_open(p.path, &i, UINT64_MAX, &err));
    assert_int_equal(err.code, -EEXIST);
    char *text = listed(p.path, false);
    free(text);
    unlink(p.path);
    /* Two at a time; and what comes of one that is given up, or that a crash has cut off. */
    struct keep_file *f = keep_file_open(p.path, &i, UINT64_MAX, &err);
    assert_non_null(f);
    assert_null(keep_file_open(p.path, &i, UINT64_MAX, &err));
    assert_int_equal(err.code, -EAGAIN);
    assert_int_equal(access(p.partial, F_OK), 0);
    keep_file_drop(f);
    assert_int_equal(access(p.partial, F_OK), -1);
    leave(p.partial, ".LKSKEPT, and no more");
    write_file(&p);
    text = listed(p.path, false);
    free(text);
    clear_place(&p);
}

static void assert_not_into(const struct place *p, const char *image, const char *words)
{
    struct err err = { 0 };
    struct show quiet = { .out = fopen("/dev/null", "w") };
    int r = kept_export(&quiet, p->path, image, true, &err);
    assert_true(*words ? r == -EEXIST : r < 0); /* a refusal, or it cannot be */
    if (!strstr(err.text, words))
        fail_msg("%s", err.text);
    fclose(quiet.out);
}

/* What is kept goes over no leg, beneath its daemon or not, and not over itself. */
static void no_image_is_what_others_need(void **state)
{
    (void)state;
    struct place p = make_place();
    write_file(&p);
    assert_not_into(&p, p.path, "the file of kept blocks itself");
    assert_int_equal(link(p.path, p.image), 0);
    assert_not_into(&p, p.image, "the file of kept blocks itself");
    unlink(p.image);
    char *text = listed(p.path, false);
    free(text);

    leave(p.image, "a backing");
    int fd = open(p.image, O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_not_into(&p, p.image, "in use");
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, strlen("a backing"));
    close(fd);
    unlink(p.image);

    struct meta_layout layout;
    struct err err = { 0 };
    struct superblock sb = { .sequence = 1,
                             .volume = "gold42",
                             .node = "paris-a",
                             .size_bytes = SIZE,
                             .backing_bytes = 2 * SIZE,
                             .epoch = 2,
                             .leg = LEG_UP_TO_DATE,
                             .granule_bytes = 4 * KIB,
                             .extent_bytes = 4 * MIB };
    uint8_t block[SUPERBLOCK_BYTES];
    fd = open(p.image, O_RDWR | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, 2 * SIZE), 0);
    assert_int_equal(meta_layout_internal(2 * SIZE, &layout, &err), 0);
    superblock_encode(&sb, 1, block);
    assert_int_equal(pwrite(fd, block, sizeof(block), (off_t)superblock_copy_offset(&layout, 1)), sizeof(block));
    close(fd);
    assert_not_into(&p, p.image, "is a leg");
    unlink(p.image);

    assert_int_equal(mkfifo(p.image, 0600), 0);
    assert_not_into(&p, p.image, "");
    assert_int_equal(kept_list(&(struct show) { .out = stdout }, p.image, &err), -EINVAL);
    clear_place(&p);
}

static void without_room_it_is_refused_before_anything_is_written(void **state)
{
    (void)state;
    struct place p = make_place();
    struct err err = { 0 };
    struct keep_info i = info();
    i.size_bytes = i.bytes_max = 64 * TIB;
    assert_null(keep_file_open(p.path, &i, UINT64_MAX, &err));
    assert_int_equal(err.code, -ENOSPC);
    assert_non_null(strstr(err.text, "--keep"));
    assert_int_equal(access(p.partial, F_OK), -1);
    /* More than the backing holds cannot come. */
    struct keep_file *f = keep_file_open(p.path, &i, MIB, &err);
    assert_non_null(f);
    keep_file_drop(f);
    assert_null(keep_file_open("/nonexistent/kept", &i, 0, &err));
    assert_int_equal(err.code, -ENOENT);
    clear_place(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(nothing_is_written_over),
        cmocka_unit_test(one_that_has_just_got_its_name_is_not_emptied),
        cmocka_unit_test(what_is_not_ours_is_left_alone),
        cmocka_unit_test(no_image_is_what_others_need),
        cmocka_unit_test(without_room_it_is_refused_before_anything_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
