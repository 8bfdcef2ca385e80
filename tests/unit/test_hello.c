/* The hello codec: what it carries, and what it refuses. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/handshake.pb-c.h"
#include "repl/link/hello_codec.h"
#include "tests/unit/unit.h"

static struct hello sample(void)
{
    struct hello h = {
        .version = PROTOCOL_VERSION,
        .features = UINT64_C(0x8000000000000001),
        .volume = "gold42",
        .node = "paris-a",
        .peer = "paris-b",
        .size_bytes = 40 * GIB,
        .capacity_bytes = 64 * TIB,
        .epoch = FRAME_EPOCH_MAX,
        .role = ROLE_PRIMARY,
        .leg = LEG_FAILED,
        .pristine = true,
        .lost_power = true,
        .differs = true,
        .went_back = true,
        .age = FRAME_EPOCH_MAX,
        .peer_age = FRAME_EPOCH_MAX - 1,
        .peer_failed = true,
        .window_frames = 1024,
        .granule_bytes = 4096,
        .full = true,
        .diskless = true,
        .dirty_bytes = 123456,
        .lsn = 77,
        .was_primary = true,
        .served_epoch = FRAME_EPOCH_MAX,
        .alone_s = UINT64_MAX,
        .peer_in_sync = true,
        .registered = true,
        .asked_epoch = 9,
        .hands_over = true,
        .config = { .dead_after_us = UINT64_MAX, .witness = UINT64_MAX - 1, .failover = UINT32_MAX, .when_alone = 3 },
        .history = { .count = 2, .entries = { { 3, 1, 0xaaaa }, { 7, 99, UINT64_MAX } } },
        .base = { 3, 1, 0xaaaa },
        .window_bytes = 32 * MIB,
        .block_bytes = 4096,
        .served_block_bytes = 512,
    };
    memset(h.volume_id.bytes, 0xaa, sizeof(h.volume_id.bytes));
    memset(h.leg_id.bytes, 0xbb, sizeof(h.leg_id.bytes));
    memset(h.nonce, 0xcc, sizeof(h.nonce));
    return h;
}

static int decode_message(const Lockstep__Hello *m, struct hello *h, const char **why)
{
    uint8_t bytes[FRAME_HELLO_BYTES_MAX];
    assert_true(lockstep__hello__get_packed_size(m) <= sizeof(bytes));
    return hello_decode(bytes, lockstep__hello__pack(m, bytes), h, why);
}

static Lockstep__Hello valid_message(void)
{
    Lockstep__Hello m = LOCKSTEP__HELLO__INIT;
    m.version = PROTOCOL_VERSION;
    m.volume = (char *)"v";
    m.node = (char *)"a";
    m.peer = (char *)"b";
    m.window_frames = 1;
    m.granule_bytes = 4096;
    static uint8_t nonce[HELLO_NONCE_BYTES];
    m.nonce = (ProtobufCBinaryData) { sizeof(nonce), nonce };
    m.window_bytes = FRAME_PAYLOAD_BYTES_MAX;
    return m;
}

static void test_round_trip(void **state)
{
    struct hello h = sample();
    struct hello back = { 0 };
    uint8_t bytes[FRAME_HELLO_BYTES_MAX];
    const char *why = NULL;
    assert_int_equal(hello_decode(bytes, hello_encode(&h, bytes), &back, &why), 0);
    uint8_t again[FRAME_HELLO_BYTES_MAX];
    assert_int_equal(hello_encode(&back, again), hello_encode(&h, bytes));
    assert_memory_equal(again, bytes, hello_encode(&h, bytes));
    assert_string_equal(back.peer, h.peer);
    assert_int_equal(back.size_bytes, h.size_bytes);
}

static void test_longest_fits(void **state)
{
    struct hello h = sample();
    memset(h.volume, 'v', NAME_BYTES_MAX - 1);
    memset(h.node, 'n', NAME_BYTES_MAX - 1);
    memset(h.peer, 'p', NAME_BYTES_MAX - 1);
    memset(h.peer_leg_id.bytes, 0xcc, sizeof(h.peer_leg_id.bytes));
    h.size_bytes = h.capacity_bytes = UINT64_MAX - UINT64_MAX % BLOCK_BYTES;
    h.window_frames = UINT32_MAX;
    h.window_bytes = UINT64_MAX;
    h.history = (struct history) { 0 };
    for (uint64_t i = 0; i < HISTORY_MAX; i++)
        history_append(&h.history, (struct history_entry) { h.epoch - HISTORY_MAX + i, UINT64_MAX, UINT64_MAX - i });
    struct hello back = { 0 };
    uint8_t bytes[FRAME_HELLO_BYTES_MAX];
    const char *why = NULL;
    assert_int_equal(hello_decode(bytes, hello_encode(&h, bytes), &back, &why), 0);
    uint8_t again[FRAME_HELLO_BYTES_MAX];
    assert_int_equal(hello_encode(&back, again), hello_encode(&h, bytes));
    assert_memory_equal(again, bytes, hello_encode(&h, bytes));
    assert_string_equal(back.peer, h.peer);
    assert_int_equal(back.size_bytes, h.size_bytes);
}

static void refused(const Lockstep__Hello *m, const char *field)
{
    struct hello h;
    const char *why = "";
    assert_int_equal(decode_message(m, &h, &why), -EPROTO);
    if (!strstr(why, field))
        fail_msg("refused with \"%s\", which does not name %s", why, field);
}

static void test_bad_fields(void **state)
{
    char long_name[NAME_BYTES_MAX + 1];
    memset(long_name, 'x', NAME_BYTES_MAX);
    long_name[NAME_BYTES_MAX] = 0;
    Lockstep__Hello m = valid_message();
    m.volume = (char *)"";
    refused(&m, "(volume)");
    m = valid_message();
    m.node = long_name;
    refused(&m, "(node)");
    m = valid_message();
    m.peer = (char *)"red\x1b[31m";
    refused(&m, "(peer)");
    uint8_t bytes[17] = { 1 };
    for (size_t n = 1; n <= sizeof(bytes); n++) {
        if (n == 16)
            continue;
        m = valid_message();
        m.leg_id = (ProtobufCBinaryData) { n, bytes };
        refused(&m, "leg_id");
    }
    m = valid_message();
    m.role = (Lockstep__HelloRole)2;
    refused(&m, "(role)");
    m = valid_message();
    m.role = (Lockstep__HelloRole)-1;
    refused(&m, "(role)");
    m = valid_message();
    m.leg = (Lockstep__HelloLeg)5;
    refused(&m, "(leg)");
    m = valid_message();
    m.epoch = UINT64_MAX;
    refused(&m, "(epoch, lsn)");
    m = valid_message();
    m.epoch = 4;
    m.served_epoch = 5;
    refused(&m, "(served_epoch)");
    m = valid_message();
    m.asked_epoch = FRAME_EPOCH_MAX + 1;
    refused(&m, "(asked_epoch)");
    m = valid_message();
    m.age = FRAME_EPOCH_MAX + 1;
    refused(&m, "(age, peer_age)");
    m = valid_message();
    m.peer_age = FRAME_EPOCH_MAX + 1;
    refused(&m, "(age, peer_age)");
    m = valid_message();
    m.went_back = true;
    refused(&m, "(went_back)");
    m = valid_message();
    m.size_bytes = 513;
    refused(&m, "(size_bytes)");
    m = valid_message();
    m.capacity_bytes = 1;
    refused(&m, "(capacity_bytes)");
    m = valid_message();
    m.window_frames = 0;
    refused(&m, "window_frames");
    m = valid_message();
    m.window_bytes--;
    refused(&m, "window_bytes");
    m = valid_message();
    m.granule_bytes = 5000;
    refused(&m, "(granule_bytes)");
    m = valid_message();
    m.nonce.len = 31;
    refused(&m, "(nonce)");
    m = valid_message();
    m.diskless = true;
    refused(&m, "(diskless)");
    m.diskless = false;
    m.base_epoch = 1;
    refused(&m, "(base)");
    uint64_t rising[] = { 1, 2 }, falling[] = { 2, 1 }, tags[] = { 5, 6 }, none[] = { 0, 6 }, many[HISTORY_MAX + 1];
    m = valid_message();
    m.epoch = 2;
    m.n_history_epoch = m.n_history_first_lsn = m.n_history_tag = 2;
    m.history_epoch = m.history_first_lsn = rising;
    m.history_tag = tags;
    struct hello h;
    const char *why;
    assert_int_equal(decode_message(&m, &h, &why), 0);
    m.history_epoch = falling;
    refused(&m, "(history)");
    m.history_epoch = rising;
    m.history_tag = none;
    refused(&m, "(history)");
    m.history_tag = tags;
    m.n_history_tag = 1;
    refused(&m, "(history)");
    m.n_history_tag = 2;
    m.epoch = 1; /* it would have been part of an epoch that it has not seen */
    refused(&m, "(history)");
    m.epoch = FRAME_EPOCH_MAX;
    for (unsigned i = 0; i <= HISTORY_MAX; i++)
        many[i] = i + 1;
    m.history_epoch = m.history_first_lsn = m.history_tag = many;
    m.n_history_epoch = m.n_history_first_lsn = m.n_history_tag = HISTORY_MAX + 1;
    refused(&m, "(history)");
}

static void test_other_version_keeps_names(void **state)
{
    Lockstep__Hello m = valid_message();
    m.version = PROTOCOL_VERSION + 1;
    m.role = (Lockstep__HelloRole)77; /* means something there, perhaps */
    m.size_bytes = 3;
    struct hello h;
    const char *why = NULL;
    assert_int_equal(decode_message(&m, &h, &why), 0);
    assert_int_equal(h.version, PROTOCOL_VERSION + 1);
    assert_string_equal(h.volume, "v");
    assert_int_equal(h.role, ROLE_SECONDARY);
    assert_int_equal(h.size_bytes, 0);
    m.node = (char *)"";
    refused(&m, "(node)");
}

static void test_garbage(void **state)
{
    static const uint8_t junk[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    struct hello h;
    const char *why = NULL;
    assert_int_equal(hello_decode(junk, sizeof(junk), &h, &why), -EPROTO);
    uint8_t *large = calloc(1, FRAME_HELLO_BYTES_MAX + 1);
    assert_int_equal(hello_decode(large, FRAME_HELLO_BYTES_MAX + 1, &h, &why), -EPROTO);
    free(large);
    /* Every cut of a good one is refused or decodes: never read beyond. */
    struct hello good = sample();
    uint8_t bytes[FRAME_HELLO_BYTES_MAX];
    size_t n = hello_encode(&good, bytes);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, bytes, cut);
        (void)hello_decode(exact, cut, &h, &why);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_longest_fits),
        cmocka_unit_test(test_bad_fields), cmocka_unit_test(test_other_version_keeps_names),
        cmocka_unit_test(test_garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
