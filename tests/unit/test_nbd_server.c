/* The NBD front on a real ring over a volume in memory, with libnbd as the client, and with clients that no library
 * would be. */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "blockdev/front/nbd_proto.h"
#include "repl/base/clock.h"
#include "repl/base/endian.h"
#include "repl/base/prng.h"
#include "tests/unit/ram_volume.h"

#define VOLUME_BYTES (128 * MIB)
#define ARENA_BYTES (32 * MIB)
#define KEEP_FREE_BYTES (8 * MIB)
#define CLIENTS_MAX 64
#define PATIENCE_MS 20000

static char dir[64];
static char address[128];
static const char *socket_path;

static struct ram_config roomy(void)
{
    return (struct ram_config) { .address = address,
                                 .size_bytes = VOLUME_BYTES,
                                 .arena_bytes = ARENA_BYTES,
                                 .keep_free_bytes = KEEP_FREE_BYTES,
                                 .serve = true };
}

/* As little of everything as there can be. */
static struct ram_config tiny(void)
{
    struct ram_config config = roomy();
    config.arena_bytes = 3 * MIB;
    config.keep_free_bytes = 1 * MIB;
    config.accept_changes_max = 3;
    config.accept_reads_max = 2;
    return config;
}

static uint64_t now_ms(void) { return clock_ns() / NS_PER_MS; }

/* Waits for something that another thread brings about. */
static void eventually(struct ram_volume *v, void (*look)(struct ram_volume *v, void *arg), bool *seen)
{
    uint64_t end = now_ms() + PATIENCE_MS;
    for (;;) {
        ram_call(v, look, seen);
        if (*seen)
            return;
        if (now_ms() > end)
            fail_msg("it did not happen; notes:\n%s", v->notes);
        poll(NULL, 0, 1);
    }
}

static void noted(struct ram_volume *v, const char *text)
{
    uint64_t end = now_ms() + PATIENCE_MS;
    while (!ram_noted(v, text)) {
        if (now_ms() > end)
            fail_msg("not noted: %s; but:\n%s", text, v->notes);
        poll(NULL, 0, 1);
    }
}

static void everything_is_back(struct ram_volume *v, void *seen)
{
    *(bool *)seen = v->pool.free_bytes == v->pool.arena_bytes && front_is_quiet(v->front);
}

static void all_back(struct ram_volume *v)
{
    bool seen = false;
    eventually(v, everything_is_back, &seen);
}

/* libnbd clients */

static struct nbd_handle *client_as(bool structured)
{
    struct nbd_handle *h = nbd_create();
    assert_non_null(h);
    nbd_set_request_structured_replies(h, structured);
    nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION);
    nbd_set_export_name(h, "gold42");
    if (nbd_connect_unix(h, socket_path) < 0)
        fail_msg("%s", nbd_get_error());
    /* What the library would not send is sent, too. */
    nbd_set_strict_mode(h, 0);
    return h;
}

static struct nbd_handle *client(void) { return client_as(true); }

/* For what the server sees a moment later than we do. */
static struct nbd_handle *client_when_there_is_room(void)
{
    uint64_t end = now_ms() + PATIENCE_MS;
    for (;;) {
        struct nbd_handle *h = nbd_create();
        assert_non_null(h);
        nbd_set_export_name(h, "gold42");
        if (nbd_connect_unix(h, socket_path) == 0)
            return h;
        if (now_ms() > end)
            fail_msg("%s", nbd_get_error());
        nbd_close(h);
        poll(NULL, 0, 1);
    }
}

static void leave(struct nbd_handle *h)
{
    nbd_shutdown(h, 0);
    nbd_close(h);
}

#define done(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            fail_msg("%s: %s", #call, nbd_get_error());                                                                \
    } while (0)

#define fails(call, error)                                                                                             \
    do {                                                                                                               \
        assert_int_equal(call, -1);                                                                                    \
        assert_int_equal(nbd_get_errno(), error);                                                                      \
    } while (0)

static void fill(struct prng *p, uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t word = prng_next(p);
        memcpy(data + i, &word, sizeof(word));
    }
}

static void all_commands(bool structured)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    struct nbd_handle *h = client_as(structured);
    static uint8_t data[1 << 20], back[1 << 20], zeroes[1 << 20];
    struct prng p = prng_seed(1);
    fill(&p, data, sizeof(data));

    assert_int_equal(nbd_get_size(h), VOLUME_BYTES);
    assert_int_equal(nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM), 512);
    assert_int_equal(nbd_get_block_size(h, LIBNBD_SIZE_PREFERRED), 4096);
    assert_int_equal(nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM), 32 * MIB);
    assert_true(nbd_can_multi_conn(h) && nbd_can_flush(h) && nbd_can_fua(h) && nbd_can_trim(h) && nbd_can_zero(h) &&
                nbd_can_fast_zero(h) && nbd_is_read_only(h) == 0 && nbd_is_rotational(h) == 0);
    assert_int_equal(nbd_can_df(h), structured);
    assert_int_equal(nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION), structured);

    size_t sizes[] = { 512, 1024, 4096, 12288, 65536, 66048, 1 << 20 };
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        uint64_t offset = 512 + i * 2 * MIB;
        done(nbd_pwrite(h, data, sizes[i], offset, i % 2 ? LIBNBD_CMD_FLAG_FUA : 0));
        done(nbd_pread(h, back, sizes[i], offset, 0));
        assert_memory_equal(data, back, sizes[i]);
        done(nbd_pread(h, back, 512, offset + sizes[i], 0));
        assert_memory_equal(zeroes, back, 512);
    }
    assert_int_equal(v->fua_writes, 3);
    done(nbd_flush(h, 0));
    assert_int_equal(v->submitted[OP_FLUSH], 1);

    done(nbd_pwrite(h, data, 65536, 0, 0));
    done(nbd_zero(h, 4096, 4096, LIBNBD_CMD_FLAG_NO_HOLE | LIBNBD_CMD_FLAG_FUA));
    done(nbd_trim(h, 4096, 12288, 0));
    assert_int_equal(v->kept_allocated, 1);
    assert_int_equal(v->submitted[OP_WRITE_ZEROES] + v->submitted[OP_DISCARD], 2);
    memset(data + 4096, 0, 4096);
    memset(data + 12288, 0, 4096);
    done(nbd_pread(h, back, 65536, 0, 0));
    assert_memory_equal(data, back, 65536);

    done(nbd_zero(h, VOLUME_BYTES, 0, LIBNBD_CMD_FLAG_FAST_ZERO));
    done(nbd_pread(h, back, sizeof(back), 0, 0));
    assert_memory_equal(zeroes, back, sizeof(back));
    v->fast_zero_is_slow = true;
    fails(nbd_zero(h, 4096, 0, LIBNBD_CMD_FLAG_FAST_ZERO), ENOTSUP);
    done(nbd_trim(h, VOLUME_BYTES, 0, 0));
    leave(h);
    ram_close(v);
}

static void test_all_commands(void **state) { all_commands(true); }
static void test_all_commands_with_simple_replies(void **state) { all_commands(false); }

/* Where a trim could only be carried out by writing zeroes. */
static void test_no_trims_where_nothing_is_given_back(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    struct nbd_handle *h = client();
    assert_int_equal(nbd_can_trim(h), 1);
    leave(h);
    ram_close(v);
    config.no_unmap = true;
    v = ram_open(&config);
    h = client();
    assert_int_equal(nbd_can_trim(h), 0);
    fails(nbd_trim(h, MIB, 0, 0), EINVAL); /* said all the same */
    assert_int_equal(nbd_can_zero(h), 1);
    done(nbd_zero(h, MIB, 0, 0));
    leave(h);
    all_back(v);
    ram_close(v);
}

static void test_constraints(void **state)
{
    struct ram_config config = roomy();
    config.logical_block_bytes = 4096;
    struct ram_volume *v = ram_open(&config);
    static uint8_t data[33 << 20];
    for (unsigned structured = 0; structured < 2; structured++) {
        struct nbd_handle *h = client_as(structured);
        assert_int_equal(nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM), 4096);
        fails(nbd_pread(h, data, 512, 0, 0), EINVAL);
        fails(nbd_pread(h, data, 4096, 512, 0), EINVAL);
        fails(nbd_pwrite(h, data, 4096, 512, 0), EINVAL);
        fails(nbd_pwrite(h, data, 66000, 0, 0), EINVAL);
        fails(nbd_pwrite(h, data, 33 << 20, 0, 0), EINVAL);
        fails(nbd_pread(h, data, 4096, VOLUME_BYTES, 0), EINVAL);
        fails(nbd_pwrite(h, data, 8192, VOLUME_BYTES - 4096, 0), ENOSPC);
        fails(nbd_zero(h, 8192, VOLUME_BYTES - 4096, 0), ENOSPC);
        fails(nbd_trim(h, 8192, VOLUME_BYTES - 4096, 0), EINVAL);
        fails(nbd_cache(h, 4096, 0, 0), EINVAL);
        /* And it goes on as if nothing had been. */
        done(nbd_pwrite(h, data, 4096, VOLUME_BYTES - 4096, 0));
        leave(h);
    }
    assert_int_equal(v->submitted[OP_WRITE], 2);
    assert_int_equal(v->submitted[OP_READ], 0);
    ram_close(v);
}

static int whole_chunk(void *chunks, const void *data, size_t bytes, uint64_t offset, unsigned status, int *error)
{
    ++*(unsigned *)chunks;
    return 0;
}

static void test_unfragmented_reads(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    struct nbd_handle *h = client();
    static uint8_t data[1 << 20];
    unsigned chunks = 0;
    nbd_chunk_callback count = { .callback = whole_chunk, .user_data = &chunks };
    done(nbd_pread_structured(h, data, 65536, 512, count, LIBNBD_CMD_FLAG_DF));
    assert_int_equal(chunks, 1);
    fails(nbd_pread_structured(h, data, 66048, 512, count, LIBNBD_CMD_FLAG_DF), EOVERFLOW);
    leave(h);
    ram_close(v);
}

struct extents {
    unsigned count;
    uint32_t pairs[256];
};

static int take_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
    struct extents *e = arg;
    assert_string_equal(context, LIBNBD_CONTEXT_BASE_ALLOCATION);
    assert_true(count <= ARRAY_LEN(e->pairs));
    memcpy(e->pairs, entries, count * sizeof(*entries));
    e->count = (unsigned)count / 2;
    return 0;
}

static void test_block_status(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    struct nbd_handle *h = client();
    struct extents e = { 0 };
    nbd_extent_callback take = { .callback = take_extents, .user_data = &e };
    uint64_t part = VOLUME_BYTES / ARRAY_LEN(v->hole_map);
    v->hole_map[0] = true;
    v->hole_map[3] = true;
    v->hole_map[4] = true;
    done(nbd_block_status(h, VOLUME_BYTES, 0, take, 0));
    assert_int_equal(e.count, 4);
    uint32_t want[] = { (uint32_t)part, 3, (uint32_t)(2 * part), 0, (uint32_t)(2 * part), 3, (uint32_t)(59 * part), 0 };
    assert_memory_equal(e.pairs, want, sizeof(want));
    done(nbd_block_status(h, 4 * part, part - 512, take, LIBNBD_CMD_FLAG_REQ_ONE));
    assert_int_equal(e.count, 1);
    assert_int_equal(e.pairs[0], 512);
    assert_int_equal(e.pairs[1], 3);
    /* A file system that cannot tell is no error. */
    v->map_fails = true;
    done(nbd_block_status(h, 8192, 0, take, 0));
    assert_int_equal(e.count, 1);
    assert_int_equal(e.pairs[0], 8192);
    assert_int_equal(e.pairs[1], 0);
    fails(nbd_block_status(h, 8192, VOLUME_BYTES, take, 0), EINVAL);
    /* The holes of a backing that lacks what the volume has are nobody's zeroes. */
    v->map_fails = false;
    v->backing_is_stale = true;
    done(nbd_block_status(h, part, 0, take, 0));
    assert_int_equal(e.count, 1);
    assert_int_equal(e.pairs[0], part);
    assert_int_equal(e.pairs[1], 0);
    leave(h);
    ram_close(v);
}

static void test_longest_requests(void **state)
{
    static uint8_t data[32 << 20], back[32 << 20];
    struct prng p = prng_seed(2);
    for (unsigned round = 0; round < 4; round++) {
        struct ram_config config = round & 2 ? tiny() : roomy();
        struct ram_volume *v = ram_open(&config);
        struct nbd_handle *h = client_as(round & 1);
        v->reverse = true;
        fill(&p, data, sizeof(data));
        memset(data + (5 << 20), 0, 3 << 20);
        done(nbd_pwrite(h, data, sizeof(data), 512, 0));
        assert_memory_equal(v->data + 512, data, sizeof(data));
        done(nbd_pread(h, back, sizeof(back), 512, 0));
        assert_memory_equal(data, back, sizeof(data));
        assert_true(v->longest_bytes <= IO_BYTES_MAX);
        if (!(round & 2))
            assert_int_equal(v->longest_bytes, IO_BYTES_MAX);
        leave(h);
        ram_close(v);
    }
}

/* Random requests of many clients, compared with what they wrote. Every request in flight has a slot of the volume of
 * its own. */
#define SLOT_BYTES (256 * KIB)
#define SLOTS_MAX 256

struct slot {
    struct nbd_handle *h;
    int64_t cookie;
    bool reads;
    uint64_t at;
    size_t bytes;
    uint8_t want[SLOT_BYTES]; /* what the volume has there */
    uint8_t data[SLOT_BYTES];
};

static struct slot slots[SLOTS_MAX];

static size_t random_size(struct prng *p, size_t usual_bytes)
{
    if (prng_chance(p, 700000))
        return usual_bytes;
    return 512 * (1 + prng_below(p, prng_chance(p, 500000) ? 16 : SLOT_BYTES / 512));
}

static void slot_begin(struct prng *p, struct slot *s, unsigned index, size_t usual_bytes)
{
    s->bytes = random_size(p, usual_bytes);
    s->at = 512 * prng_below(p, (SLOT_BYTES - s->bytes) / 512 + 1);
    uint64_t offset = index * SLOT_BYTES + s->at;
    uint64_t kind = prng_below(p, 100);
    s->reads = false;
    if (kind < 50) {
        fill(p, s->want + s->at, s->bytes);
        memcpy(s->data, s->want + s->at, s->bytes);
        s->cookie =
            nbd_aio_pwrite(s->h, s->data, s->bytes, offset, NBD_NULL_COMPLETION, kind < 5 ? LIBNBD_CMD_FLAG_FUA : 0);
    } else if (kind < 90) {
        s->reads = true;
        memset(s->data, 0xa5, s->bytes);
        s->cookie = nbd_aio_pread(s->h, s->data, s->bytes, offset, NBD_NULL_COMPLETION, 0);
    } else if (kind < 96) {
        memset(s->want + s->at, 0, s->bytes);
        s->cookie = kind < 93 ? nbd_aio_zero(s->h, s->bytes, offset, NBD_NULL_COMPLETION, 0)
                              : nbd_aio_trim(s->h, s->bytes, offset, NBD_NULL_COMPLETION, 0);
    } else {
        s->cookie = nbd_aio_flush(s->h, NBD_NULL_COMPLETION, 0);
    }
    if (s->cookie < 0)
        fail_msg("%s", nbd_get_error());
}

static void slot_end(struct slot *s)
{
    if (s->reads)
        assert_memory_equal(s->data, s->want + s->at, s->bytes);
    s->cookie = 0;
}

static void random_load(const struct ram_config *config, unsigned clients, unsigned depth, unsigned requests,
                        bool structured, uint64_t seed)
{
    struct ram_volume *v = ram_open(config);
    struct nbd_handle *h[CLIENTS_MAX];
    struct pollfd fds[CLIENTS_MAX];
    struct prng p = prng_seed(seed);
    assert(clients * depth <= SLOTS_MAX);
    for (unsigned i = 0; i < clients; i++) {
        h[i] = client_as(structured);
        nbd_set_pread_initialize(h[i], false);
    }
    for (unsigned i = 0; i < clients * depth; i++) {
        slots[i].h = h[i % clients];
        slots[i].cookie = 0;
        memset(slots[i].want, 0, sizeof(slots[i].want));
    }
    unsigned begun = 0;
    unsigned ended = 0;
    size_t usual_bytes = 4096;
    while (ended < requests) {
        for (unsigned i = 0; i < clients * depth; i++) {
            if (slots[i].cookie > 0 && nbd_aio_command_completed(slots[i].h, (uint64_t)slots[i].cookie) != 0) {
                if (nbd_get_errno() && nbd_aio_is_dead(slots[i].h))
                    fail_msg("%s; notes:\n%s", nbd_get_error(), v->notes);
                slot_end(&slots[i]);
                ended++;
            }
            if (slots[i].cookie == 0 && begun < requests) {
                if (prng_chance(&p, 10000))
                    usual_bytes = 512u << prng_below(&p, 8);
                slot_begin(&p, &slots[i], i, usual_bytes);
                begun++;
            }
        }
        for (unsigned i = 0; i < clients; i++) {
            unsigned dir_bits = nbd_aio_get_direction(h[i]);
            fds[i].fd = nbd_aio_get_fd(h[i]);
            fds[i].events = (short)((dir_bits & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                                    (dir_bits & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
        }
        if (ended == requests)
            break;
        if (poll(fds, clients, PATIENCE_MS) == 0)
            fail_msg("nothing moves: %u begun, %u ended; notes:\n%s", begun, ended, v->notes);
        for (unsigned i = 0; i < clients; i++) {
            if ((fds[i].revents & (POLLIN | POLLHUP)) && (fds[i].events & POLLIN))
                nbd_aio_notify_read(h[i]);
            else if ((fds[i].revents & POLLOUT) && (fds[i].events & POLLOUT))
                nbd_aio_notify_write(h[i]);
        }
    }
    for (unsigned i = 0; i < clients * depth; i++)
        assert_memory_equal(v->data + i * SLOT_BYTES, slots[i].want, SLOT_BYTES);
    for (unsigned i = 0; i < clients; i++)
        leave(h[i]);
    all_back(v);
    ram_close(v);
}

static void test_random_load(void **state)
{
    struct ram_config config = roomy();
    random_load(&config, 1, 64, 6000, true, 3);
    random_load(&config, 1, 64, 6000, false, 4);
    random_load(&config, 16, 16, 6000, true, 5);
}

static void test_random_load_with_little_room(void **state)
{
    struct ram_config config = tiny();
    random_load(&config, 1, 64, 3000, true, 6);
    random_load(&config, 1, 64, 3000, false, 7);
    random_load(&config, 64, 4, 3000, true, 8);
    random_load(&config, 64, 4, 3000, false, 9);
}

static void test_long_changes_without_payload(void **state)
{
    struct ram_config config = roomy();
    config.size_bytes = 5 * GIB;
    config.accept_changes_max = 3; /* fewer than one has pieces */
    struct ram_volume *v = ram_open(&config);
    static uint8_t data[4096], back[4096], zeroes[4096];
    memset(data, 0x5a, sizeof(data));
    uint64_t offset = 512 * MIB + 4096, length = 1 * GIB;
    uint64_t inside[] = { 0, OP_RANGE_BYTES_MAX - 4096, OP_RANGE_BYTES_MAX, length - 4096 };
    for (unsigned structured = 0; structured < 2; structured++) {
        struct nbd_handle *h = client_as(structured);
        for (unsigned zero = 0; zero < 2; zero++) {
            for (unsigned i = 0; i < ARRAY_LEN(inside); i++)
                done(nbd_pwrite(h, data, 4096, offset + inside[i], 0));
            done(nbd_pwrite(h, data, 4096, offset - 4096, 0));
            done(nbd_pwrite(h, data, 4096, offset + length, 0));
            uint64_t before = v->submitted[OP_DISCARD] + v->submitted[OP_WRITE_ZEROES];
            done(zero ? nbd_zero(h, length, offset, 0) : nbd_trim(h, length, offset, LIBNBD_CMD_FLAG_FUA));
            assert_int_equal(v->submitted[OP_DISCARD] + v->submitted[OP_WRITE_ZEROES] - before,
                             length / OP_RANGE_BYTES_MAX);
            for (unsigned i = 0; i < ARRAY_LEN(inside); i++) {
                done(nbd_pread(h, back, 4096, offset + inside[i], 0));
                assert_memory_equal(back, zeroes, 4096);
            }
            done(nbd_pread(h, back, 4096, offset - 4096, 0));
            assert_memory_equal(back, data, 4096);
            done(nbd_pread(h, back, 4096, offset + length, 0));
            assert_memory_equal(back, data, 4096);
        }
        /* The longest there is, and several at a time. */
        int64_t cookies[8];
        for (unsigned i = 0; i < ARRAY_LEN(cookies); i++)
            done(cookies[i] = nbd_aio_trim(h, UINT32_MAX - 511, i * 4096, NBD_NULL_COMPLETION, 0));
        for (unsigned i = 0; i < ARRAY_LEN(cookies); i++) {
            int r;
            while ((r = nbd_aio_command_completed(h, (uint64_t)cookies[i])) == 0)
                done(nbd_poll(h, PATIENCE_MS));
            assert_int_equal(r, 1);
        }
        /* The first error is the answer; what was not begun then never is. */
        v->fail_offset_bytes = offset + OP_RANGE_BYTES_MAX;
        v->fail_result = -ENOSPC;
        uint64_t before = v->submitted[OP_WRITE_ZEROES];
        fails(nbd_zero(h, length, offset, 0), ENOSPC);
        assert_in_range(v->submitted[OP_WRITE_ZEROES] - before, 2, 4);
        v->fail_offset_bytes = UINT64_MAX;
        leave(h);
    }
    /* The client goes in the middle of one. */
    v->hold_changes = true;
    struct nbd_handle *h = client();
    uint64_t before = v->submitted[OP_DISCARD];
    done(nbd_aio_trim(h, length, 0, NBD_NULL_COMPLETION, 0));
    while (v->submitted[OP_DISCARD] - before < 3)
        done(nbd_poll(h, 1));
    nbd_close(h); /* which is seen when it is answered: its socket is not read before all of it is with the sink */
    v->hold_changes = false;
    noted(v, "sending to it failed");
    all_back(v);
    assert_int_equal(v->submitted[OP_DISCARD] - before, length / OP_RANGE_BYTES_MAX);
    ram_close(v);
}

static void test_errors_of_the_volume(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    static uint8_t data[8 << 20];
    for (unsigned structured = 0; structured < 2; structured++) {
        struct nbd_handle *h = client_as(structured);
        v->fail_offset_bytes = 2 * MIB;
        v->fail_result = -EIO;
        fails(nbd_pread(h, data, 4096, 2 * MIB, 0), EIO);
        fails(nbd_pread(h, data, sizeof(data), 2 * MIB, 0), EIO); /* in its first piece */
        fails(nbd_pwrite(h, data, sizeof(data), 0, 0), EIO);      /* in its last */
        v->fail_result = -ENOSPC;
        fails(nbd_pwrite(h, data, 4096, 2 * MIB, 0), ENOSPC);
        fails(nbd_zero(h, 4 * MIB, 0, 0), ENOSPC);
        v->fail_result = -ETIMEDOUT;
        fails(nbd_trim(h, 4 * MIB, 0, 0), EIO);
        /* Told in a chunk, or, with a simple reply that has begun, by hanging up. */
        v->fail_offset_bytes = 7 * MIB;
        int r = nbd_pread(h, data, sizeof(data), 0, 0);
        assert_int_equal(r, -1);
        if (structured)
            assert_int_equal(nbd_get_errno(), EIO);
        else
            noted(v, "a read failed after its reply had begun");
        v->fail_offset_bytes = UINT64_MAX;
        if (structured)
            done(nbd_pread(h, data, 4096, 2 * MIB, 0));
        leave(h);
    }
    all_back(v);
    ram_close(v);
}

/* Clients without a library */

static int raw_connect(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    strcpy(addr.sun_path, socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

static void raw_send(int fd, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    while (bytes > 0) {
        ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);
        assert_true(n > 0);
        at += n;
        bytes -= (size_t)n;
    }
}

static void raw_recv(int fd, void *data, size_t bytes)
{
    struct pollfd p = { fd, POLLIN, 0 };
    uint8_t *at = data;
    while (bytes > 0) {
        assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        ssize_t n = recv(fd, at, bytes, 0);
        assert_true(n > 0);
        at += n;
        bytes -= (size_t)n;
    }
}

static void raw_expect_end(int fd)
{
    struct pollfd p = { fd, POLLIN, 0 };
    uint8_t junk[4096];
    for (;;) {
        assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        ssize_t n = recv(fd, junk, sizeof(junk), 0);
        if (n <= 0)
            return;
    }
}

/* In the oldest way, which needs the fewest bytes. */
static int raw_client(void)
{
    int fd = raw_connect();
    uint8_t in[18 + 10];
    raw_recv(fd, in, 18);
    raw_send(fd, "\0\0\0\3IHAVEOPT\0\0\0\1\0\0\0\6gold42", 4 + 16 + 6);
    raw_recv(fd, in, 10);
    return fd;
}

struct raw_request {
    be32 magic;
    be16 flags;
    be16 type;
    be64 cookie;
    be64 offset;
    be32 length;
} __attribute__((packed));

static struct raw_request raw(uint16_t type, uint64_t cookie, uint64_t offset, uint32_t length)
{
    return (struct raw_request) { to_be32(0x25609513), to_be16(0),      to_be16(type),
                                  to_be64(cookie),     to_be64(offset), to_be32(length) };
}

static void raw_expect_reply(int fd, uint64_t cookie, uint32_t error)
{
    struct __attribute__((packed)) {
        be32 magic;
        be32 error;
        be64 cookie;
    } reply;
    raw_recv(fd, &reply, sizeof(reply));
    assert_int_equal(from_be32(reply.magic), 0x67446698);
    assert_int_equal(from_be32(reply.error), error);
    assert_int_equal(from_be64(reply.cookie), cookie);
}

/* A stream of requests, cut at every place that a network might cut it at. */
static void test_streams_in_small_parts(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    static uint8_t stream[1 << 20];
    static uint8_t want[64 * KIB];
    struct prng p = prng_seed(10);
    for (unsigned round = 0; round < 60; round++) {
        int fd = raw_client();
        size_t bytes = 0;
        unsigned writes = 12;
        size_t usual = 512u << (round % 4);
        for (unsigned i = 0; i < writes; i++) {
            size_t length = prng_chance(&p, 800000) ? usual : 512 * (1 + prng_below(&p, 8));
            bool bad = prng_chance(&p, 150000); /* misaligned: its payload is skipped */
            struct raw_request r = raw(NBD_CMD_WRITE, i, i * 4096 + bad, (uint32_t)length);
            memcpy(stream + bytes, &r, sizeof(r));
            bytes += sizeof(r);
            fill(&p, stream + bytes, length);
            if (!bad)
                memcpy(want + i * 4096, stream + bytes, length);
            bytes += length;
            if (prng_chance(&p, 200000)) {
                r = raw(NBD_CMD_FLUSH, 100, 0, 0);
                memcpy(stream + bytes, &r, sizeof(r));
                bytes += sizeof(r);
            }
        }
        struct raw_request bye = raw(NBD_CMD_DISC, 0, 0, 0);
        memcpy(stream + bytes, &bye, sizeof(bye));
        bytes += sizeof(bye);
        for (size_t at = 0; at < bytes;) {
            size_t part = prng_chance(&p, 300000) ? 1 + prng_below(&p, 40) : 1 + prng_below(&p, 20000);
            part = part < bytes - at ? part : bytes - at;
            raw_send(fd, stream + at, part);
            at += part;
        }
        raw_expect_end(fd);
        close(fd);
        assert_memory_equal(v->data, want, 12 * 4096);
    }
    ram_close(v);
}

static void test_broken_clients(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    struct nbd_handle *other = client();
    uint8_t data[4096] = { 1, 2, 3 };
    uint8_t back[4096];

    int fd = raw_client();
    struct raw_request r = raw(NBD_CMD_READ, 1, 0, 4096);
    r.magic = to_be32(0xdeadbeef);
    raw_send(fd, &r, sizeof(r));
    raw_expect_end(fd);
    close(fd);
    noted(v, "does not begin with its magic");

    fd = raw_client();
    r = raw(NBD_CMD_WRITE, 1, 0, UINT32_MAX);
    raw_send(fd, &r, sizeof(r));
    raw_expect_end(fd);
    close(fd);
    noted(v, "a write of absurd length");

    /* Half a header, half a payload, half a large payload: nothing of it is written. */
    fd = raw_client();
    r = raw(NBD_CMD_WRITE, 1, 0, 4096);
    raw_send(fd, &r, 13);
    close(fd);
    noted(v, "in the middle of a request");
    fd = raw_client();
    raw_send(fd, &r, sizeof(r));
    raw_send(fd, data, 100);
    close(fd);
    fd = raw_connect();
    raw_send(fd, "GET / HTTP/1.0\r\n\r\n", 18);
    raw_expect_end(fd);
    close(fd);
    noted(v, "handshake flags that do not exist");
    fd = raw_connect();
    raw_recv(fd, back, NBD_GREETING_BYTES);
    close(fd);
    noted(v, "left during negotiation");

    /* A client that closes its sending side is still answered. */
    fd = raw_client();
    r = raw(NBD_CMD_READ, 7, 0, 4096);
    raw_send(fd, &r, sizeof(r));
    shutdown(fd, SHUT_WR);
    raw_expect_reply(fd, 7, 0);
    raw_recv(fd, back, sizeof(back));
    raw_expect_end(fd);
    close(fd);

    done(nbd_pread(other, back, sizeof(back), 0, 0));
    memset(data, 0, sizeof(data));
    assert_memory_equal(back, data, sizeof(back));
    assert_int_equal(v->submitted[OP_WRITE], 0);
    leave(other);
    all_back(v);
    ram_close(v);
}

static void hold(struct ram_volume *v, void *arg) { v->hold_changes = v->hold_reads = *(bool *)arg; }

static void five_in_sink(struct ram_volume *v, void *seen) { *(bool *)seen = v->waiting_count >= 5; }

/* What a dead client had in flight is still done, and bothers nobody. */
static void test_client_killed_in_flight(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    static uint8_t data[1 << 20];
    struct nbd_handle *other = client();
    memset(data, 0x77, sizeof(data));
    for (unsigned round = 0; round < 5; round++) {
        ram_call(v, hold, &(bool) { true });
        int fd = raw_client();
        for (unsigned i = 0; i < 3; i++) {
            struct raw_request w = raw(NBD_CMD_WRITE, i, i * MIB, 65536);
            raw_send(fd, &w, sizeof(w));
            raw_send(fd, data, 65536);
        }
        struct raw_request rd = raw(NBD_CMD_READ, 9, 0, 8 * MIB);
        raw_send(fd, &rd, sizeof(rd));
        struct raw_request w = raw(NBD_CMD_WRITE, 4, 16 * MIB, 4 * MIB);
        raw_send(fd, &w, sizeof(w));
        raw_send(fd, data, round * 300000 < sizeof(data) ? round * 300000 : sizeof(data));
        bool seen = false;
        eventually(v, five_in_sink, &seen);
        close(fd);
        ram_call(v, hold, &(bool) { false });
        done(nbd_pread(other, data, 4096, 2 * MIB, 0));
    }
    leave(other);
    all_back(v);
    assert_int_equal(v->data[2 * MIB], 0x77);
    ram_close(v);
}

static void lowest(struct ram_volume *v, void *arg) { *(size_t *)arg = v->pool.free_bytes; }

/* Clients that ask for much and read nothing stall only themselves. */
static void test_clients_that_do_not_read(void **state)
{
    for (unsigned round = 0; round < 2; round++) {
        struct ram_config config = round ? tiny() : roomy();
        struct ram_volume *v = ram_open(&config);
        int greedy[8];
        for (unsigned i = 0; i < ARRAY_LEN(greedy); i++) {
            greedy[i] = raw_client();
            fcntl(greedy[i], F_SETFL, O_NONBLOCK);
            for (unsigned n = 0; n < 64; n++) {
                struct raw_request r = raw(NBD_CMD_READ, n, 0, 32 * MIB);
                if (send(greedy[i], &r, sizeof(r), MSG_NOSIGNAL) < 0)
                    break;
            }
        }
        struct nbd_handle *h = client();
        static uint8_t data[4 << 20];
        for (unsigned i = 0; i < 20; i++) {
            done(nbd_pwrite(h, data, sizeof(data), 0, 0));
            done(nbd_pread(h, data, sizeof(data), 0, 0));
        }
        size_t free_bytes = 0;
        ram_call(v, lowest, &free_bytes);
        if (!round)
            assert_true(free_bytes >= KEEP_FREE_BYTES + (ARENA_BYTES - KEEP_FREE_BYTES) / 2);
        leave(h);
        for (unsigned i = 0; i < ARRAY_LEN(greedy); i++)
            close(greedy[i]);
        all_back(v);
        ram_close(v);
    }
}

/* Clients that stop in the middle of a payload hold little. */
static void test_clients_that_stop_in_a_payload(void **state)
{
    for (unsigned round = 0; round < 2; round++) {
        struct ram_config config = round ? tiny() : roomy();
        struct ram_volume *v = ram_open(&config);
        int slow[60];
        for (unsigned i = 0; i < ARRAY_LEN(slow); i++) {
            slow[i] = raw_client();
            struct raw_request w = raw(NBD_CMD_WRITE, 1, 0, 32 * MIB);
            raw_send(slow[i], &w, sizeof(w));
            raw_send(slow[i], "some of it", 10);
        }
        struct nbd_handle *h = client();
        static uint8_t data[8 << 20];
        for (unsigned i = 0; i < 10; i++)
            done(nbd_pwrite(h, data, sizeof(data), 32 * MIB, 0));
        leave(h);
        for (unsigned i = 0; i < ARRAY_LEN(slow); i++)
            close(slow[i]);
        all_back(v);
        ram_close(v);
    }
}

static void test_connection_limit(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    struct nbd_handle *h[64];
    uint8_t data[4096] = { 0 };
    for (unsigned i = 0; i < 64; i++)
        h[i] = client();
    for (unsigned i = 0; i < 100; i++) {
        int fd = raw_connect();
        raw_expect_end(fd);
        close(fd);
    }
    noted(v, "there are 64 already");
    for (unsigned i = 0; i < 64; i++)
        done(nbd_pwrite(h[i], data, sizeof(data), i * 4096, 0));
    leave(h[17]);
    noted(v, "it is done");
    h[17] = client();
    done(nbd_pwrite(h[17], data, sizeof(data), 0, 0));
    for (unsigned i = 0; i < 64; i++)
        leave(h[i]);
    all_back(v);
    ram_close(v);
}

static void hold_changes(struct ram_volume *v, void *arg) { v->hold_changes = *(bool *)arg; }

static void in_sink(struct ram_volume *v, void *seen) { *(bool *)seen = v->waiting_count >= CLIENTS_MAX; }

static int raw_writer(uint64_t cookie)
{
    uint8_t data[4096] = { 0 };
    int fd = raw_client();
    struct raw_request w = raw(NBD_CMD_WRITE, cookie, cookie * sizeof(data), sizeof(data));
    raw_send(fd, &w, sizeof(w));
    raw_send(fd, data, sizeof(data));
    return fd;
}

/* Anyone can cause warnings: they are told as far as they tell something. */
static void test_warnings_are_counted_where_there_are_many(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    for (unsigned i = 0; i < 300; i++) {
        int fd = raw_connect();
        raw_send(fd, "this is no NBD client", 21);
        raw_expect_end(fd);
        close(fd);
    }
    struct nbd_handle *h = client();
    leave(h);
    all_back(v);
    unsigned lines = 0;
    for (const char *at = v->notes; (at = strstr(at, "is disconnected: ")); at++)
        lines += strncmp(at + 17, "it is done", 10) != 0;
    assert_in_range(lines, 1, 3 * 8); /* a slow machine may need several periods */
    /* The rest when the time is over, though nobody is there any more. */
    noted(v, "more warnings in the last 10 s");
    ram_close(v);
}

/* Those who died while their writes wait, as they do without the peer, keep nobody out. */
static void test_the_dead_make_room(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    static uint8_t data[MIB];
    ram_call(v, hold_changes, &(bool) { true });
    int fds[CLIENTS_MAX];
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        fds[i] = raw_writer(i);
    bool seen = false;
    eventually(v, in_sink, &seen);
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        close(fds[i]);
    struct nbd_handle *h[8];
    for (unsigned i = 0; i < ARRAY_LEN(h); i++) {
        h[i] = client_when_there_is_room();
        done(nbd_pread(h[i], data, sizeof(data), 0, 0));
    }
    noted(v, "it left without waiting for its answers");
    ram_call(v, hold_changes, &(bool) { false });
    for (unsigned i = 0; i < ARRAY_LEN(h); i++) {
        done(nbd_pwrite(h[i], data, sizeof(data), 0, 0));
        leave(h[i]);
    }
    all_back(v);
    ram_close(v);
}

/* Who only stopped sending is answered, if there is room for it until then. */
static void test_the_oldest_that_left_makes_room(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    int fds[CLIENTS_MAX];
    uint8_t data[4096];
    ram_call(v, hold_changes, &(bool) { true });
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        fds[i] = raw_writer(i);
    bool seen = false;
    eventually(v, in_sink, &seen);
    shutdown(fds[17], SHUT_WR);
    struct nbd_handle *h = client_when_there_is_room();
    raw_expect_end(fds[17]);
    noted(v, "its place is needed");
    done(nbd_pread(h, data, sizeof(data), 0, 0));
    shutdown(fds[18], SHUT_WR);
    ram_call(v, hold_changes, &(bool) { false });
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        if (i != 17)
            raw_expect_reply(fds[i], i, 0);
        close(fds[i]);
    }
    leave(h);
    all_back(v);
    ram_close(v);
}

static void do_refuse(struct ram_volume *v, void *why) { front_refuse(v->front, why); }

static void do_serve(struct ram_volume *v, void *arg)
{
    front_serve(v->front, VOLUME_BYTES, v->disk.geometry.logical_block_bytes);
}

static void expect_refusal(const char *text)
{
    struct nbd_handle *h = nbd_create();
    nbd_set_export_name(h, "gold42");
    assert_int_equal(nbd_connect_unix(h, socket_path), -1);
    nbd_close(h);

    int fd = raw_connect();
    uint8_t in[18 + 20 + 4 + 6 + 20 + 20];
    raw_recv(fd, in, 18);
    raw_send(fd, "\0\0\0\3IHAVEOPT\0\0\0\3\0\0\0\0", 4 + 16); /* the list still has it */
    raw_recv(fd, in, 20 + 4 + 6 + 20);
    assert_memory_equal(in + 24, "gold42", 6);
    raw_send(fd, "IHAVEOPT\0\0\0\7\0\0\0\xc\0\0\0\6gold42\0\0", 16 + 12);
    raw_recv(fd, in, 20);
    assert_memory_equal(in + 12, "\x80\0\0\2", 4);
    assert_int_equal(in[19], strlen(text));
    char told[256];
    raw_recv(fd, told, strlen(text));
    assert_memory_equal(told, text, strlen(text));
    raw_send(fd, "IHAVEOPT\0\0\0\2\0\0\0\0", 16);
    raw_expect_end(fd);
    close(fd);
}

static void test_refusal(void **state)
{
    struct ram_config config = roomy();
    config.serve = false;
    struct ram_volume *v = ram_open(&config);
    expect_refusal("the volume is not served here yet");
    ram_call(v, do_serve, NULL);

    static uint8_t data[65536];
    ram_call(v, hold, &(bool) { true });
    int fd = raw_client();
    int idle = raw_client();
    for (unsigned i = 0; i < 5; i++) {
        struct raw_request w = raw(NBD_CMD_WRITE, i, i * 65536, sizeof(data));
        raw_send(fd, &w, sizeof(w));
        raw_send(fd, data, sizeof(data));
    }
    bool seen = false;
    eventually(v, five_in_sink, &seen);
    struct raw_request half = raw(NBD_CMD_WRITE, 6, 0, sizeof(data));
    raw_send(fd, &half, sizeof(half));
    ram_call(v, do_refuse, (void *)"volume gold42 is served by paris-a");
    raw_expect_end(idle);
    close(idle);
    expect_refusal("volume gold42 is served by paris-a");
    /* What is in flight is answered, then the client is let go. */
    ram_call(v, hold, &(bool) { false });
    for (unsigned i = 0; i < 5; i++)
        raw_expect_reply(fd, i, 0);
    raw_expect_end(fd);
    close(fd);
    assert_int_equal(v->submitted[OP_WRITE], 5);
    all_back(v);

    ram_call(v, do_serve, NULL);
    struct nbd_handle *h = client();
    done(nbd_pwrite(h, data, sizeof(data), 0, 0));
    leave(h);
    ram_close(v);
}

/* A long read is cut short when the volume is taken away: no request follows. */
static void test_refusal_in_a_long_read(void **state)
{
    for (unsigned structured = 0; structured < 2; structured++) {
        struct ram_config config = roomy();
        struct ram_volume *v = ram_open(&config);
        struct nbd_handle *h = client_as(structured);
        static uint8_t data[32 << 20];
        ram_call(v, hold, &(bool) { true });
        int64_t cookie = nbd_aio_pread(h, data, sizeof(data), 0, NBD_NULL_COMPLETION, 0);
        assert_true(cookie > 0);
        while (nbd_aio_get_direction(h) & LIBNBD_AIO_DIRECTION_WRITE)
            nbd_aio_notify_write(h);
        uint64_t end = now_ms() + PATIENCE_MS;
        while (v->submitted[OP_READ] < 4 && now_ms() < end)
            ram_call(v, hold, &(bool) { true });
        ram_call(v, do_refuse, (void *)"taken away");
        ram_call(v, hold, &(bool) { false });
        while (nbd_aio_command_completed(h, (uint64_t)cookie) == 0 && nbd_poll(h, PATIENCE_MS) > 0)
            ;
        assert_int_equal(v->submitted[OP_READ], 4);
        nbd_close(h);
        all_back(v);
        ram_close(v);
    }
}

/* Held: neither answered nor let go */

#define SILENCE_MS 100

static void do_hold(struct ram_volume *v, void *why) { front_hold(v->front, why); }

static void held_now(struct ram_volume *v, void *held) { *(struct front_held *)held = front_held(v->front); }

static struct front_held held(struct ram_volume *v)
{
    struct front_held held;
    ram_call(v, held_now, &held);
    return held;
}

static void nobody_is_held(struct ram_volume *v, void *seen)
{
    *(bool *)seen = !front_holds(v->front);
    assert(*(bool *)seen == (front_held(v->front).clients == 0));
}

/* How many bytes were on their way still; then neither an answer nor an end comes. */
static size_t raw_expect_silence(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN | POLLRDHUP };
    static uint8_t junk[65536];
    size_t bytes = 0;
    while (poll(&p, 1, SILENCE_MS) > 0) {
        assert_int_equal(p.revents, POLLIN);
        ssize_t n = recv(fd, junk, sizeof(junk), 0);
        assert_true(n > 0);
        bytes += (size_t)n;
    }
    return bytes;
}

static void turns(struct ram_volume *v, void *arg) { *(uint64_t *)arg = v->turns; }

/* How many bytes were on their way still, however slow the server's thread is: when it has had its turn nothing
 * follows. */
static size_t raw_drain(struct ram_volume *v, int fd)
{
    size_t bytes = 0;
    for (size_t more = 1; more > 0; bytes += more) {
        ram_call(v, turns, &(uint64_t) { 0 });
        more = raw_expect_silence(fd);
    }
    return bytes;
}

static void five_writes_came(struct ram_volume *v, void *seen) { *(bool *)seen = v->submitted[OP_WRITE] >= 5; }

/* Of one that fails, all that the sink has of it has to be ended first. */
static void fail_first_waiting(struct ram_volume *v, void *arg)
{
    assert_true(v->waiting_count > 0 && v->waiting[0].kind == OP_READ && v->waiting[0].offset_bytes > 0);
    v->fail_offset_bytes = v->waiting[0].offset_bytes;
    v->fail_result = -EIO;
}

/* Writes, all of which the sink has. */
static void five_writes(struct ram_volume *v, int fd)
{
    static const uint8_t data[65536];
    for (unsigned i = 0; i < 5; i++) {
        struct raw_request w = raw(NBD_CMD_WRITE, i, i * 65536, sizeof(data));
        raw_send(fd, &w, sizeof(w));
        raw_send(fd, data, sizeof(data));
    }
    bool seen = false;
    eventually(v, five_writes_came, &seen);
}

static void test_who_is_held_hears_nothing(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    static const uint8_t data[65536];
    int deaf = raw_client(); /* takes nothing but the beginning of an answer */
    int slow = raw_client(); /* its reply has begun: an error in it would be told by hanging up */
    struct raw_request r = raw(NBD_CMD_READ, 1, 0, 32 * MIB);
    raw_send(deaf, &r, sizeof(r));
    raw_send(slow, &r, sizeof(r));
    uint8_t head[16];
    raw_recv(deaf, head, sizeof(head));
    raw_recv(slow, head, sizeof(head));
    ram_call(v, hold, &(bool) { true });
    size_t got = raw_drain(v, slow);
    assert_in_range(got, 1, 32 * MIB - 1);
    ram_call(v, fail_first_waiting, NULL);
    int idle = raw_client();
    int busy = raw_client();
    int leaving = raw_client();
    r = raw(NBD_CMD_FLUSH, 1, 0, 0);
    raw_send(leaving, &r, sizeof(r));
    r = raw(NBD_CMD_DISC, 2, 0, 0);
    raw_send(leaving, &r, sizeof(r));
    five_writes(v, busy);
    struct raw_request half = raw(NBD_CMD_WRITE, 6, 0, sizeof(data));
    raw_send(busy, &half, sizeof(half));
    raw_send(busy, data, 100);

    ram_call(v, do_hold, (void *)"volume gold42 is served by paris-a");
    struct front_held h = held(v);
    assert_int_equal(h.clients, 5);
    assert_in_range(h.requests, 8, 11); /* what was not read counts as one, if it can be seen */
    unsigned writes = v->submitted[OP_WRITE];
    unsigned reads = v->submitted[OP_READ];
    /* What the sink had ends now, as it does when a primary is deposed, some of it with an error. */
    ram_call(v, hold, &(bool) { false });
    all_back(v);
    raw_expect_silence(deaf);
    assert_int_equal(raw_expect_silence(slow) + raw_expect_silence(idle) + raw_expect_silence(busy) +
                         raw_expect_silence(leaving),
                     0);
    expect_refusal("volume gold42 is served by paris-a");
    /* What they say is taken from nobody: neither carried out, nor looked at again and again. */
    v->fail_offset_bytes = UINT64_MAX;
    raw_send(busy, data, sizeof(data) - 100);
    for (unsigned i = 0; i < 4; i++) {
        r = raw(i % 2 ? NBD_CMD_READ : NBD_CMD_FLUSH, 10 + i, 0, i % 2 ? 4096 : 0);
        raw_send(idle, &r, sizeof(r));
    }
    uint64_t before;
    uint64_t after;
    ram_call(v, turns, &before);
    assert_int_equal(raw_expect_silence(idle) + raw_expect_silence(busy), 0);
    ram_call(v, turns, &after);
    assert_in_range(after - before, 0, 20);
    assert_in_range(held(v).requests, 10, 13);
    assert_true(v->submitted[OP_WRITE] == writes && v->submitted[OP_READ] == reads && v->submitted[OP_FLUSH] == 1);
    all_back(v);

    /* Whoever is served next is alone. */
    ram_call(v, do_serve, NULL);
    assert_int_equal(held(v).clients, 0);
    int all[] = { slow, deaf, idle, busy, leaving };
    for (unsigned i = 0; i < ARRAY_LEN(all); i++) {
        raw_expect_end(all[i]);
        close(all[i]);
    }
    struct nbd_handle *other = client();
    done(nbd_pwrite(other, data, sizeof(data), 0, 0));
    leave(other);
    assert_int_equal(v->submitted[OP_WRITE], writes + 1);
    all_back(v);
    ram_close(v);
}

/* By who gives the volume up for good, and by the front's end; and clients of which the disk still has a write. */
static void test_who_is_held_is_let_go(void **state)
{
    for (unsigned closes = 0; closes < 2; closes++) {
        struct ram_config config = roomy();
        struct ram_volume *v = ram_open(&config);
        ram_call(v, hold, &(bool) { true });
        int fd = raw_client();
        five_writes(v, fd);
        ram_call(v, do_hold, (void *)"elsewhere");
        assert_int_equal(raw_expect_silence(fd), 0);
        if (closes) {
            ram_close(v);
        } else {
            ram_call(v, do_refuse, (void *)"elsewhere");
            assert_int_equal(held(v).clients, 0);
        }
        raw_expect_end(fd);
        close(fd);
        if (!closes)
            ram_close(v);
    }
}

/* Held again and again, with little room: nothing of it is lost. */
static void test_holding_costs_nothing(void **state)
{
    struct ram_config config = tiny();
    struct ram_volume *v = ram_open(&config);
    static const uint8_t data[65536];
    for (unsigned round = 0; round < 20; round++) {
        ram_call(v, hold, &(bool) { round % 2 });
        int fds[8];
        for (unsigned i = 0; i < ARRAY_LEN(fds); i++) {
            fds[i] = raw_client();
            fcntl(fds[i], F_SETFL, O_NONBLOCK);
            for (unsigned n = 0; n < 8; n++) {
                struct raw_request r = raw((i + n) % 3 ? NBD_CMD_WRITE : NBD_CMD_READ, n, 0, sizeof(data));
                if (send(fds[i], &r, sizeof(r), MSG_NOSIGNAL) < (ssize_t)sizeof(r))
                    break;
                if ((i + n) % 3 && send(fds[i], data, sizeof(data), MSG_NOSIGNAL) < (ssize_t)sizeof(data))
                    break;
            }
        }
        ram_call(v, do_hold, (void *)"elsewhere");
        ram_call(v, hold, &(bool) { false });
        all_back(v);
        assert_int_equal(held(v).clients, ARRAY_LEN(fds));
        for (unsigned i = 0; i < ARRAY_LEN(fds); i += 2)
            close(fds[i]);
        ram_call(v, do_serve, NULL);
        for (unsigned i = 1; i < ARRAY_LEN(fds); i += 2) {
            raw_expect_end(fds[i]);
            close(fds[i]);
        }
        struct nbd_handle *h = client_when_there_is_room();
        done(nbd_flush(h, 0));
        leave(h);
    }
    ram_close(v);
}

static void test_held_clients_may_leave(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    int gone = raw_client();
    int quiet = raw_client(); /* it only says that nothing more will come */
    ram_call(v, do_hold, (void *)"elsewhere");
    assert_int_equal(held(v).clients, 2);
    close(gone);
    shutdown(quiet, SHUT_WR);
    bool seen = false;
    eventually(v, nobody_is_held, &seen);
    noted(v, "it left while it was held");
    raw_expect_end(quiet);
    close(quiet);
    ram_close(v);
}

/* Listening */

static bool opens(const char *where, char *why, size_t why_bytes)
{
    struct err err = { 0 };
    struct ring *r = ring_open(&(struct ring_config) { .entries = 8, .files_max = 8 }, &err);
    assert_non_null(r);
    struct buf_pool pool;
    assert_int_equal(buf_pool_open(&pool, 4 * MIB), 0);
    struct front_config fc = { .ring = r, .pool = &pool, .volume = "gold42", .address = where };
    struct front *f = front_nbd_open(&fc, &err);
    snprintf(why, why_bytes, "%s", err.text);
    assert_null(f);
    ring_close(r);
    buf_pool_close(&pool);
    return f != NULL;
}

static void test_addresses(void **state)
{
    char why[512];
    struct ram_config config = roomy();
    struct stat st;

    /* Left behind by a server that was killed. */
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    strcpy(addr.sun_path, socket_path);
    int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(stale, (struct sockaddr *)&addr, sizeof(addr)), 0);
    close(stale);
    struct ram_volume *v = ram_open(&config);
    assert_int_equal(stat(socket_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    leave(client());

    opens(address, why, sizeof(why));
    assert_non_null(strstr(why, "somebody already listens"));
    leave(client());
    ram_close(v);
    assert_int_equal(stat(socket_path, &st), -1);

    int file = open(socket_path, O_CREAT | O_WRONLY, 0600);
    close(file);
    opens(address, why, sizeof(why));
    assert_non_null(strstr(why, "is no socket"));
    assert_int_equal(stat(socket_path, &st), 0);
    unlink(socket_path);

    const char *wrong[] = { "unix:", "localhost", ":10809", "127.0.0.1:", "127.0.0.1:notaport", "192.0.2.1:10809" };
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        opens(wrong[i], why, sizeof(why));
        assert_true(why[0] != '\0');
    }
}

static void test_tcp(void **state)
{
    char where[64];
    char uri[96];
    snprintf(where, sizeof(where), "%s:10809", own_loopback());
    snprintf(uri, sizeof(uri), "nbd://%s/gold42", where);
    struct ram_config config = roomy();
    config.address = where;
    struct ram_volume *v = ram_open(&config);
    struct nbd_handle *h = nbd_create();
    done(nbd_connect_uri(h, uri));
    static uint8_t data[3 << 20], back[3 << 20];
    struct prng p = prng_seed(11);
    fill(&p, data, sizeof(data));
    done(nbd_pwrite(h, data, sizeof(data), 4096, 0));
    done(nbd_pread(h, back, sizeof(back), 4096, 0));
    assert_memory_equal(data, back, sizeof(data));
    leave(h);
    noted(v, "127.0.0.1:");

    /* A client that is held, and goes. */
    h = nbd_create();
    done(nbd_connect_uri(h, uri));
    ram_call(v, do_hold, (void *)"elsewhere");
    assert_int_equal(held(v).clients, 1);
    nbd_close(h);
    bool seen = false;
    eventually(v, nobody_is_held, &seen);
    ram_close(v);
}

/* Closing while clients are there: what is in flight is answered, and those who do not listen are cut off. */
static void test_close_under_load(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    static uint8_t data[65536];
    ram_call(v, hold, &(bool) { true });
    int fd = raw_client();
    int half = raw_connect();
    int deaf = raw_client();
    for (unsigned i = 0; i < 5; i++) {
        struct raw_request w = raw(NBD_CMD_WRITE, i, i * 65536, sizeof(data));
        raw_send(fd, &w, sizeof(w));
        raw_send(fd, data, sizeof(data));
    }
    struct raw_request r = raw(NBD_CMD_READ, 1, 0, 4 * MIB);
    raw_send(deaf, &r, sizeof(r));
    bool seen = false;
    eventually(v, five_in_sink, &seen);
    ram_close(v);
    for (unsigned i = 0; i < 5; i++)
        raw_expect_reply(fd, i, 0);
    raw_expect_end(fd);
    raw_expect_end(half);
    close(fd);
    close(half);
    close(deaf);
}

/* Time: a client that never negotiates goes, and one that is idle keeps next to nothing. */

static void little_held(struct ram_volume *v, void *seen)
{
    *(bool *)seen = v->pool.free_bytes >= v->pool.arena_bytes - 4096;
}

static void test_idle_and_silent_clients(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    int silent = raw_connect();
    struct nbd_handle *h = client();
    static uint8_t data[4096];
    for (unsigned i = 0; i < 64; i++)
        nbd_aio_pwrite(h, data, sizeof(data), i * 4096, NBD_NULL_COMPLETION, 0);
    while (nbd_aio_in_flight(h) > 0)
        nbd_poll(h, PATIENCE_MS);
    bool seen = false;
    eventually(v, little_held, &seen);
    done(nbd_pwrite(h, data, sizeof(data), 0, 0));
    leave(h);
    raw_expect_end(silent);
    close(silent);
    noted(v, "too long to negotiate");
    ram_close(v);
}

/* Nothing is allocated once the front is open. */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);

static __thread bool counted;
static unsigned allocations;

void *__wrap_malloc(size_t bytes)
{
    allocations += counted;
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    allocations += counted;
    return __real_calloc(n, bytes);
}

void *__wrap_realloc(void *p, size_t bytes)
{
    allocations += counted;
    return __real_realloc(p, bytes);
}

static void count(struct ram_volume *v, void *arg)
{
    counted = *(bool *)arg;
    /* Proves that it counts; volatile, so that the compiler does not find it useless. */
    void *volatile one = counted ? malloc(1) : NULL;
    free(one);
}

static void test_no_allocation(void **state)
{
    struct ram_config config = roomy();
    struct ram_volume *v = ram_open(&config);
    static uint8_t data[4 << 20];
    ram_call(v, count, &(bool) { true });
    assert_int_equal(allocations, 1);
    struct nbd_handle *h = client();
    for (unsigned i = 0; i < 50; i++) {
        done(nbd_pwrite(h, data, 4096, i * 4096, 0));
        done(nbd_pwrite(h, data, sizeof(data), 0, 0));
        done(nbd_pread(h, data, sizeof(data), 0, 0));
        done(nbd_zero(h, 4096, 0, 0));
        done(nbd_flush(h, 0));
    }
    leave(h);
    all_back(v);
    ram_call(v, count, &(bool) { false });
    assert_int_equal(allocations, 1);
    ram_close(v);
}

int main(void)
{
    snprintf(dir, sizeof(dir), "/tmp/test_nbd_XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    snprintf(address, sizeof(address), "unix:%s/sock", dir);
    socket_path = address + strlen("unix:");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_commands),
        cmocka_unit_test(test_all_commands_with_simple_replies),
        cmocka_unit_test(test_no_trims_where_nothing_is_given_back),
        cmocka_unit_test(test_constraints),
        cmocka_unit_test(test_unfragmented_reads),
        cmocka_unit_test(test_block_status),
        cmocka_unit_test(test_longest_requests),
        cmocka_unit_test(test_random_load),
        cmocka_unit_test(test_random_load_with_little_room),
        cmocka_unit_test(test_long_changes_without_payload),
        cmocka_unit_test(test_errors_of_the_volume),
        cmocka_unit_test(test_streams_in_small_parts),
        cmocka_unit_test(test_broken_clients),
        cmocka_unit_test(test_client_killed_in_flight),
        cmocka_unit_test(test_clients_that_do_not_read),
        cmocka_unit_test(test_clients_that_stop_in_a_payload),
        cmocka_unit_test(test_connection_limit),
        cmocka_unit_test(test_warnings_are_counted_where_there_are_many),
        cmocka_unit_test(test_the_dead_make_room),
        cmocka_unit_test(test_the_oldest_that_left_makes_room),
        cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_refusal_in_a_long_read),
        cmocka_unit_test(test_who_is_held_hears_nothing),
        cmocka_unit_test(test_who_is_held_is_let_go),
        cmocka_unit_test(test_holding_costs_nothing),
        cmocka_unit_test(test_held_clients_may_leave),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_close_under_load),
        cmocka_unit_test(test_idle_and_silent_clients),
        cmocka_unit_test(test_no_allocation),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(socket_path);
    rmdir(dir);
    return failed;
}
