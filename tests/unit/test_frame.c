/* The data-plane header: what goes over, and what is refused by name. */
#include <errno.h>
#include <string.h>

#include "proto/frame.h"
#include "repl/base/checksum.h"
#include "tests/unit/unit.h"

static struct frame write_frame(void)
{
    return (struct frame) {
        .kind = FRAME_WRITE,
        .flags = FRAME_FLAG_FUA,
        .payload_bytes = 4096,
        .number = UINT64_C(0x0102030405060708),
        .epoch = 7,
        .lsn = 123456,
        .offset_bytes = 64 * TIB - 4096,
        .length_bytes = 4096,
        .tag = 0xdeadbeef,
        .payload_check = UINT64_C(0x1122334455667788),
    };
}

static void test_layout(void **state)
{
    struct frame f = write_frame();
    struct frame_wire wire;
    frame_encode(&f, &wire);
    const uint8_t *b = (const uint8_t *)&wire;
    assert_memory_equal(b, "LSK1", 4);
    assert_int_equal(b[4], 5);
    assert_int_equal(b[5], 1);
    assert_memory_equal(b + 8, "\x00\x10\x00\x00", 4);
    assert_memory_equal(b + 16, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
    assert_int_equal(b[24], 7);
    assert_memory_equal(b + 32, "\x40\xe2\x01\x00", 4);
    assert_memory_equal(b + 48, "\x08\x00\x00\x00\xef\xbe\xad\xde", 8);
    assert_memory_equal(b + 56, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
}

static void test_every_kind_round_trips(void **state)
{
    for (int kind = FRAME_HELLO; kind <= FRAME_KIND_LAST; kind++) {
        struct frame f = write_frame();
        f.kind = (enum frame_kind)kind;
        f.status = 5;
        if (kind != FRAME_WRITE && kind != FRAME_HELLO)
            f.payload_bytes = 0;
        if (kind == FRAME_SYNC_ASK)
            f.payload_bytes = 64;
        if (kind == FRAME_SYNC_DATA)
            f.payload_bytes = SYNC_TABLE_BYTES + 4096;
        if (kind == FRAME_SYNC_BITS)
            f.payload_bytes = 1;
        if (kind != FRAME_WRITE)
            f.flags = 0;
        struct frame_wire wire;
        struct frame back;
        const char *why = NULL;
        frame_encode(&f, &wire);
        assert_int_equal(frame_decode(&wire, &back, &why), 0);
        struct frame_wire again;
        frame_encode(&back, &again);
        assert_memory_equal(&wire, &again, sizeof(wire));
        assert_int_equal(back.kind, kind);
        assert_string_not_equal(frame_kind_name(f.kind), "?");
    }
}

static void test_any_bit_flip_is_seen(void **state)
{
    struct frame f = write_frame();
    for (unsigned bit = 0; bit < FRAME_BYTES * 8; bit++) {
        struct frame_wire wire;
        struct frame back;
        const char *why = NULL;
        frame_encode(&f, &wire);
        ((uint8_t *)&wire)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(frame_decode(&wire, &back, &why), -EPROTO);
    }
}

static void refused(struct frame f, const char *field)
{
    struct frame_wire wire;
    struct frame back;
    const char *why = "";
    frame_encode(&f, &wire);
    assert_int_equal(frame_decode(&wire, &back, &why), -EPROTO);
    if (!strstr(why, field))
        fail_msg("refused with \"%s\", which does not name %s", why, field);
}

static void test_bad_fields(void **state)
{
    struct frame f = write_frame();
    f.kind = (enum frame_kind)0;
    refused(f, "(kind)");
    f.kind = (enum frame_kind)(FRAME_KIND_LAST + 1);
    refused(f, "(kind)");
    f = write_frame();
    f.flags = FRAME_FLAG_KEEP_ALLOCATED;
    refused(f, "(flags)");
    f = write_frame();
    f.kind = FRAME_DECREE;
    f.flags = 0;
    f.payload_bytes = 0;
    f.length_bytes = 0;
    f.epoch = FRAME_EPOCH_MAX + 1; /* the one after the last would be lower than any */
    refused(f, "(epoch)");
    for (int kind = FRAME_HELLO; kind <= FRAME_KIND_LAST; kind++) {
        f = (struct frame) { .kind = (enum frame_kind)kind, .number = 1, .lsn = FRAME_LSN_MAX + 1 };
        refused(f, "(lsn)");
    }
    f = write_frame();
    f.number = 0;
    refused(f, "(number)");
    f = write_frame();
    f.payload_bytes = 512;
    refused(f, "(length_blocks)");
    f = write_frame();
    f.offset_bytes = 100;
    refused(f, "(offset_bytes)");
    f = write_frame();
    f.kind = FRAME_DISCARD;
    refused(f, "(payload_bytes)");
    f.payload_bytes = 0;
    f.length_bytes = 0;
    refused(f, "(offset_bytes, length_blocks)");
    f = write_frame();
    f.kind = FRAME_HELLO;
    f.flags = 0;
    f.payload_bytes = FRAME_HELLO_BYTES_MAX + 1;
    refused(f, "(payload_bytes)");
    f.kind = FRAME_REFUSE;
    refused(f, "(payload_bytes)");

    /* Longer than frame_encode() would ever write. */
    struct frame_wire wire;
    struct frame back;
    const char *why = "";
    f = write_frame();
    frame_encode(&f, &wire);
    wire.payload_bytes = to_le32(FRAME_PAYLOAD_BYTES_MAX + BLOCK_BYTES);
    wire.length_blocks = to_le32((FRAME_PAYLOAD_BYTES_MAX + BLOCK_BYTES) / BLOCK_BYTES);
    wire.header_check = to_le32(0);
    wire.header_check = to_le32((uint32_t)checksum64(&wire, sizeof(wire)));
    assert_int_equal(frame_decode(&wire, &back, &why), -EPROTO);
    assert_non_null(strstr(why, "longer"));
}

static void test_bad_sync_frames(void **state)
{
    static const struct {
        enum frame_kind kind;
        uint8_t flags;
        uint16_t status;
        uint32_t payload_bytes;
        uint64_t offset_bytes, length_bytes;
        const char *field;
    } cases[] = {
        { FRAME_DECREE, 0, 0, 512, 0, 0, "(payload_bytes)" },
        { FRAME_DECREE, FRAME_FLAG_TAKEN, 0, 0, 0, 0, "(offset_bytes)" },
        { FRAME_SYNC_BITS, 0, 0, 0, 0, 4096, "(payload_bytes)" },
        { FRAME_SYNC_BITS, FRAME_FLAG_ALL, 0, 8, 0, 4096, "(payload_bytes)" },
        { FRAME_SYNC_BITS, 0, 0, 8, 0, 0, "(payload_bytes)" },
        { FRAME_SYNC_BITS, 0, 0, SYNC_BITS_BYTES_MAX + 1, 0, 4096, "(offset_bytes, payload_bytes)" },
        { FRAME_SYNC_BITS, 0, 0, 8, 100, 4096, "(offset_bytes, payload_bytes)" },
        { FRAME_SYNC_ASK, 0, 0, 0, 0, 0, "(payload_bytes)" },
        { FRAME_SYNC_ASK, 0, 0, 33, 0, 0, "(payload_bytes)" },
        { FRAME_SYNC_ASK, 0, 0, 32 * (SYNC_ENTRIES_MAX + 1), 0, 0, "(payload_bytes)" },
        { FRAME_SYNC_DATA, 0, 0, SYNC_TABLE_BYTES - 1, 0, 0, "(payload_bytes)" },
        { FRAME_SYNC_DATA, 0, 0, SYNC_TABLE_BYTES + SYNC_WINDOW_BYTES_MAX + 512, 0, 0, "(payload_bytes)" },
        { FRAME_SYNC_STABLE, 0, 0, 8, 0, 0, "(payload_bytes)" },
        { FRAME_SYNC_DONE, 0, 0, 8, 0, 0, "(payload_bytes)" },
        { FRAME_READ, 0, 0, 8, 0, 4096, "(payload_bytes)" },
        { FRAME_READ, 0, 0, 0, 0, 0, "length_blocks" },
        { FRAME_READ, 0, 0, 0, 100, 512, "offset_bytes" },
        { FRAME_READ_DATA, 0, 0, 0, 0, 0, "status" },
        { FRAME_READ_DATA, 0, 5, 512, 0, 0, "status" },
        { FRAME_VERIFY_ASK, 0, 0, 0, 0, FRAME_PAYLOAD_BYTES_MAX + 512, "length_blocks" },
        { FRAME_VERIFY_REPLY, 0, 0, 8, 0, 0, "(payload_bytes)" },
        { FRAME_RESIZE, 0, 0, 8, 0, 0, "(payload_bytes)" },
        { FRAME_RESIZE_REPLY, 0, 0, 0, 100, 0, "(offset_bytes)" },
        { FRAME_READ, FRAME_FLAG_BUSY, 0, 0, 0, 512, "(flags)" },
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        refused((struct frame) { .kind = cases[i].kind,
                                 .flags = cases[i].flags,
                                 .status = cases[i].status,
                                 .payload_bytes = cases[i].payload_bytes,
                                 .number = 1,
                                 .offset_bytes = cases[i].offset_bytes,
                                 .length_bytes = cases[i].length_bytes },
                cases[i].field);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_every_kind_round_trips),
        cmocka_unit_test(test_any_bit_flip_is_seen),
        cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_bad_sync_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
