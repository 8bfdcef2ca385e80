/* The recording filter: what its log tells, and what is above it does not notice. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blockdev/disk/disk.h"
#include "blockdev/disk/record_format.h"
#include "repl/base/buf.h"

#define SIZE_BYTES (8 * MIB)
#define EVENTS_MAX 64

static struct fixture {
    struct ring *ring;
    struct buf_pool pool;
    struct buf *buf;
    struct disk *disk;
    char backing[64];
    char log[72];
} fixture;

static void open_recorder(void)
{
    struct err err = { 0 };
    struct disk *bare = disk_open(fixture.ring, fixture.backing, 0, &err);
    if (!bare)
        fail_msg("%s", err.text);
    fixture.disk = disk_filter_record(bare, fixture.log, &err);
    if (!fixture.disk)
        fail_msg("%s", err.text);
}

static int setup(void **state)
{
    struct fixture *f = &fixture;
    snprintf(f->backing, sizeof(f->backing), "/var/tmp/test_disk_record.XXXXXX");
    int fd = mkostemp(f->backing, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, SIZE_BYTES), 0);
    close(fd);
    snprintf(f->log, sizeof(f->log), "%.63s.log", f->backing);
    assert_int_equal(buf_pool_open(&f->pool, 4 * BUF_BYTES_MAX), 0);
    struct ring_config config = {
        .entries = 8, .files_max = 4, .arena = f->pool.arena, .arena_bytes = f->pool.arena_bytes
    };
    struct err err = { 0 };
    f->ring = ring_open(&config, &err);
    if (!f->ring)
        fail_msg("%s", err.text);
    f->buf = buf_get(&f->pool, 1 * MIB, 0);
    memset(f->buf->data, 0x5a, 1 * MIB);
    open_recorder();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    disk_close(f->disk);
    ring_close(f->ring);
    buf_put(f->buf);
    buf_pool_close(&f->pool);
    unlink(f->backing);
    unlink(f->log);
    return 0;
}

static void io_done(struct disk_io *io) { ring_stop(fixture.ring); }

static int32_t run_on(struct disk *d, enum op_kind kind, uint32_t flags, uint64_t offset, uint64_t length)
{
    static struct disk_io io;
    io.kind = kind;
    io.flags = flags;
    io.offset_bytes = offset;
    io.length_bytes = length;
    io.data = fixture.buf->data;
    io.done = io_done;
    disk_submit(d, &io);
    ring_run(fixture.ring, NULL, NULL);
    return io.result;
}

static int32_t run(enum op_kind kind, uint32_t flags, uint64_t offset, uint64_t length)
{
    return run_on(fixture.disk, kind, flags, offset, length);
}

static uint64_t log_bytes(void)
{
    struct stat st;
    assert_int_equal(stat(fixture.log, &st), 0);
    return (uint64_t)st.st_size;
}

/* Reads all of the log; the payloads have to be what `buf` holds. */
static unsigned read_log(struct record_event events[EVENTS_MAX])
{
    int fd = open(fixture.log, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    struct record_file_header file;
    uint64_t size_bytes;
    struct err err = { 0 };
    assert_int_equal(read(fd, &file, sizeof(file)), sizeof(file));
    assert_int_equal(record_file_header_decode(&file, &size_bytes, &err), 0);
    assert_int_equal(size_bytes, SIZE_BYTES);
    uint8_t *payload = malloc(1 * MIB);
    assert_non_null(payload);
    unsigned count = 0;
    struct record_event_header header;
    while (read(fd, &header, sizeof(header)) == sizeof(header)) {
        assert_true(count < EVENTS_MAX);
        struct record_event *e = &events[count];
        if (record_event_decode(&header, count + 1, SIZE_BYTES, e, &err))
            fail_msg("%s", err.text);
        assert_int_equal(read(fd, payload, e->payload_bytes), e->payload_bytes);
        assert_memory_equal(payload, fixture.buf->data, e->payload_bytes);
        assert_true(count == 0 || e->time_ns >= events[count - 1].time_ns);
        count++;
    }
    free(payload);
    close(fd);
    return count;
}

static void assert_request(const struct record_event *e, enum op_kind op, uint32_t flags, uint64_t offset,
                           uint64_t length, int32_t result)
{
    assert_int_equal(e[0].event, RECORD_SUBMIT);
    assert_int_equal(e[1].event, RECORD_COMPLETE);
    assert_int_equal(e[0].request, e[0].number);
    assert_int_equal(e[1].request, e[0].number);
    assert_int_equal(e[1].result, result);
    assert_int_equal(e[0].payload_bytes, op == OP_WRITE ? length : 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(e[i].op, op);
        assert_int_equal(e[i].flags, flags);
        assert_int_equal(e[i].offset_bytes, offset);
        assert_int_equal(e[i].length_bytes, length);
    }
}

static void changes_and_flushes_are_written_down_and_reads_are_not(void **state)
{
    assert_int_equal(run(OP_WRITE, 0, 8192, 65536), 0);
    assert_int_equal(run(OP_READ, 0, 8192, 4096), 0);
    assert_int_equal(run(OP_WRITE, OP_FLAG_FUA, 0, 4096), 0);
    assert_int_equal(run(OP_FLUSH, 0, 12345, 0), 0);
    assert_int_equal(run(OP_DISCARD, 0, 4 * MIB, 1 * MIB), 0);
    assert_int_equal(run(OP_WRITE_ZEROES, OP_FLAG_KEEP_ALLOCATED, 0, 4096), 0);
    assert_int_equal(run(OP_WRITE, 0, SIZE_BYTES, 4096), -ENOSPC); /* touches nothing */
    struct record_event e[EVENTS_MAX];
    assert_int_equal(read_log(e), 11);
    assert_int_equal(e[0].event, RECORD_OPEN);
    assert_request(&e[1], OP_WRITE, 0, 8192, 65536, 0);
    assert_request(&e[3], OP_WRITE, OP_FLAG_FUA, 0, 4096, 0);
    assert_request(&e[5], OP_FLUSH, 0, 0, 0, 0);
    assert_request(&e[7], OP_DISCARD, 0, 4 * MIB, 1 * MIB, 0);
    assert_request(&e[9], OP_WRITE_ZEROES, OP_FLAG_KEEP_ALLOCATED, 0, 4096, 0);
}

static unsigned many_left;
static void one_of_many_done(struct disk_io *io)
{
    assert_int_equal(io->result, 0);
    if (--many_left == 0)
        ring_stop(fixture.ring);
}

static void submits_come_before_completions_as_they_happen(void **state)
{
    enum { N = 16 };
    static struct disk_io io[N];
    memset(io, 0, sizeof(io));
    many_left = N;
    for (unsigned i = 0; i < N; i++) {
        io[i] = (struct disk_io) {
            .kind = OP_WRITE, .offset_bytes = i * 4096, .length_bytes = 4096, .data = fixture.buf->data
        };
        io[i].done = one_of_many_done;
        disk_submit(fixture.disk, &io[i]);
    }
    ring_run(fixture.ring, NULL, NULL);
    struct record_event e[EVENTS_MAX];
    assert_int_equal(read_log(e), 1 + 2 * N);
    bool ended[N] = { false };
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(e[1 + i].event, RECORD_SUBMIT);
        assert_int_equal(e[1 + i].offset_bytes, i * 4096);
        const struct record_event *end = &e[1 + N + i];
        assert_int_equal(end->event, RECORD_COMPLETE);
        assert_int_equal(end->offset_bytes, (end->request - 2) * 4096); /* the first submit is event 2 */
        assert_false(ended[end->request - 2]);
        ended[end->request - 2] = true;
    }
}

static void what_fails_below_is_written_down_as_failed(void **state)
{
    struct err err = { 0 };
    struct disk_fault_config faults = { .error_per_million = { [OP_WRITE] = 1000000, [OP_FLUSH] = 1000000 },
                                        .error = -EIO };
    disk_close(fixture.disk);
    unlink(fixture.log);
    struct disk *below = disk_filter_fault(disk_open(fixture.ring, fixture.backing, 0, &err), &faults, &err);
    assert_non_null(below);
    fixture.disk = disk_filter_record(below, fixture.log, &err);
    assert_non_null(fixture.disk);
    assert_int_equal(run(OP_WRITE, 0, 0, 4096), -EIO);
    assert_int_equal(run(OP_FLUSH, 0, 0, 0), -EIO);
    struct record_event e[EVENTS_MAX];
    assert_int_equal(read_log(e), 5);
    assert_request(&e[1], OP_WRITE, 0, 0, 4096, -EIO);
    assert_request(&e[3], OP_FLUSH, 0, 0, 0, -EIO);
}

static void a_log_is_continued_and_its_torn_end_cut_off(void **state)
{
    assert_int_equal(run(OP_WRITE, 0, 0, 65536), 0);
    disk_close(fixture.disk);
    uint64_t whole = log_bytes();
    int fd = open(fixture.log, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    /* A killed daemon: an event whose payload is not all there. */
    struct record_event torn = {
        .event = RECORD_SUBMIT, .op = OP_WRITE, .number = 5, .request = 5, .length_bytes = 4096, .payload_bytes = 4096
    };
    struct record_event_header header;
    record_event_encode(&torn, &header);
    assert_int_equal(pwrite(fd, &header, sizeof(header), (off_t)whole), sizeof(header));
    assert_int_equal(pwrite(fd, fixture.buf->data, 100, (off_t)(whole + sizeof(header))), 100);
    close(fd);
    open_recorder();
    assert_int_equal(run(OP_FLUSH, 0, 0, 0), 0);
    struct record_event e[EVENTS_MAX];
    assert_int_equal(read_log(e), 7);
    assert_int_equal(e[3].event, RECORD_CLOSE);
    assert_int_equal(e[4].event, RECORD_OPEN);
    assert_request(&e[5], OP_FLUSH, 0, 0, 0, 0);
}

static void what_is_no_log_of_this_disk_is_left_alone(void **state)
{
    static const struct {
        const char *text;
        uint64_t size_bytes;
        const char *reason;
    } cases[] = {
        { "somebody's file", 0, "is no log of a recorded disk" },
        { NULL, 4096, "is the log of a disk of 4096 bytes, not" },
    };
    disk_close(fixture.disk);
    struct err err = { 0 };
    fixture.disk = disk_open(fixture.ring, fixture.backing, 0, &err);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        int fd = open(fixture.log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        struct record_file_header file;
        record_file_header_encode(cases[i].size_bytes, 512, &file);
        const void *data = cases[i].text ? (const void *)cases[i].text : &file;
        size_t bytes = cases[i].text ? strlen(cases[i].text) : sizeof(file);
        assert_int_equal(write(fd, data, bytes), bytes);
        close(fd);
        assert_null(disk_filter_record(fixture.disk, fixture.log, &err));
        assert_int_equal(strncmp(err.text, fixture.log, strlen(fixture.log)), 0);
        assert_non_null(strstr(err.text, cases[i].reason));
        assert_int_equal(log_bytes(), bytes);
    }
}

static void every_flipped_bit_of_an_event_is_noticed(void **state)
{
    struct record_event event = {
        .event = RECORD_SUBMIT, .op = OP_WRITE, .number = 7, .request = 7, .length_bytes = 512, .payload_bytes = 512
    };
    struct record_event back;
    struct record_event_header header;
    struct err err = { 0 };
    record_event_encode(&event, &header);
    assert_int_equal(record_event_decode(&header, 7, SIZE_BYTES, &back, &err), 0);
    assert_int_equal(record_event_decode(&header, 8, SIZE_BYTES, &back, &err), -EBADMSG);
    for (unsigned bit = 0; bit < 8 * sizeof(header); bit++) {
        struct record_event_header damaged = header;
        ((uint8_t *)&damaged)[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(record_event_decode(&damaged, 7, SIZE_BYTES, &back, &err), -EBADMSG);
    }
    event.offset_bytes = SIZE_BYTES;
    record_event_encode(&event, &header);
    assert_int_equal(record_event_decode(&header, 7, SIZE_BYTES, &back, &err), -EBADMSG);
}

/* A log that has no room must not look like a disk to which nothing happened. */
static void changes_fail_when_the_log_cannot_be_written(void **state)
{
    struct rlimit old, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = (struct rlimit) { SIZE_BYTES + 512 * KIB, old.rlim_max };
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int32_t result = 0;
    unsigned written = 0;
    while (result == 0 && written < 16) {
        result = run(OP_WRITE, 0, 0, 1 * MIB);
        written += result == 0;
    }
    int32_t flush = run(OP_FLUSH, 0, 0, 0);
    int32_t read = run(OP_READ, 0, 0, 4096);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(written, 8);
    assert_int_equal(result, -ENOSPC);
    assert_int_equal(flush, -ENOSPC);
    assert_int_equal(read, 0);
    struct record_event e[EVENTS_MAX];
    assert_int_equal(read_log(e), 1 + 2 * written); /* whole events only */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(changes_and_flushes_are_written_down_and_reads_are_not),
        TEST(submits_come_before_completions_as_they_happen),
        TEST(what_fails_below_is_written_down_as_failed),
        TEST(a_log_is_continued_and_its_torn_end_cut_off),
        TEST(what_is_no_log_of_this_disk_is_left_alone),
        TEST(every_flipped_bit_of_an_event_is_noticed),
        TEST(changes_fail_when_the_log_cannot_be_written),
    };
    struct ring_config config = { .entries = 8 };
    struct err err = { 0 };
    struct ring *r = ring_open(&config, &err);
    if (!r) {
        printf("skipped: %s\n", err.text);
        return 77;
    }
    ring_close(r);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
