/* The NBD protocol byte by byte: negotiation, requests, replies. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockdev/front/nbd_proto.h"
#include "repl/base/endian.h"

#define OPT_EXPORT_NAME 1
#define OPT_ABORT 2
#define OPT_LIST 3
#define OPT_STARTTLS 5
#define OPT_INFO 6
#define OPT_GO 7
#define OPT_STRUCTURED_REPLY 8
#define OPT_LIST_META 9
#define OPT_SET_META 10

#define REP_ACK 1u
#define REP_SERVER 2u
#define REP_INFO 3u
#define REP_META 4u
#define ERR_UNSUP 0x80000001u
#define ERR_POLICY 0x80000002u
#define ERR_INVALID 0x80000003u
#define ERR_UNKNOWN 0x80000006u
#define ERR_TOO_BIG 0x80000009u

/* A client's side of a negotiation: what it sends, and what came back. */
struct client {
    struct nbd_negotiation n;
    struct nbd_export export;
    uint8_t out[NBD_NEGOTIATION_OUT_BYTES];
    size_t out_bytes;
    size_t out_read;
};

static uint8_t message[128 * KIB];
static size_t message_bytes;

static void add(const void *data, size_t bytes)
{
    assert_true(message_bytes + bytes <= sizeof(message));
    memcpy(message + message_bytes, data, bytes);
    message_bytes += bytes;
}

static void add16(uint16_t v) { add(&(be16) { htobe16(v) }, 2); }
static void add32(uint32_t v) { add(&(be32) { htobe32(v) }, 4); }
static void add64(uint64_t v) { add(&(be64) { htobe64(v) }, 8); }

static void add_string(const char *text)
{
    add32((uint32_t)strlen(text));
    add(text, strlen(text));
}

static void option_begin(uint32_t option)
{
    message_bytes = 0;
    add("IHAVEOPT", 8);
    add32(option);
    add32(0);
}

/* Sends what was gathered, in one go, and expects all of it to be taken. */
static void option_send(struct client *c)
{
    be32 length = to_be32((uint32_t)(message_bytes - NBD_OPTION_HEADER_BYTES));
    memcpy(message + 12, &length, sizeof(length));
    /* One byte short of it must never be enough. */
    assert_int_equal(nbd_negotiate(&c->n, &c->export, message, message_bytes - 1, c->out, &c->out_bytes), 0);
    assert_int_equal(nbd_negotiate(&c->n, &c->export, message, message_bytes, c->out, &c->out_bytes), message_bytes);
    c->out_read = 0;
}

static uint64_t get(struct client *c, unsigned bytes)
{
    uint64_t v = 0;
    assert_true(c->out_read + bytes <= c->out_bytes);
    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | c->out[c->out_read++];
    return v;
}

/* Expects the head of a reply; returns the length of its data. */
static uint32_t expect(struct client *c, uint32_t option, uint32_t type)
{
    assert_int_equal(get(c, 8), 0x3e889045565a9);
    assert_int_equal(get(c, 4), option);
    assert_int_equal(get(c, 4), type);
    return (uint32_t)get(c, 4);
}

static void expect_text(struct client *c, uint32_t length, const char *text)
{
    assert_int_equal(length, strlen(text));
    assert_memory_equal(c->out + c->out_read, text, length);
    c->out_read += length;
}

static void expect_end(struct client *c) { assert_int_equal(c->out_read, c->out_bytes); }

static void expect_error(struct client *c, uint32_t option, uint32_t type)
{
    uint32_t length = expect(c, option, type);
    assert_true(length > 0);
    c->out_read += length;
    expect_end(c);
    assert_int_equal(c->n.phase, NBD_PHASE_OPTION);
}

static struct client connected(uint32_t flags)
{
    struct client c = {
        .export = { .name = "gold42", .size_bytes = GIB, .block_min_bytes = 512, .block_preferred_bytes = 4096 }
    };
    uint8_t greeting[NBD_GREETING_BYTES];
    nbd_negotiation_begin(&c.n, greeting);
    assert_memory_equal(greeting, "NBDMAGICIHAVEOPT\0\3", NBD_GREETING_BYTES);
    message_bytes = 0;
    add32(flags);
    assert_int_equal(nbd_negotiate(&c.n, &c.export, message, 3, c.out, &c.out_bytes), 0);
    assert_int_equal(nbd_negotiate(&c.n, &c.export, message, 4, c.out, &c.out_bytes), 4);
    assert_int_equal(c.out_bytes, 0);
    return c;
}

static void go(struct client *c, uint32_t option, const char *name, unsigned infos, const uint16_t *info)
{
    option_begin(option);
    add_string(name);
    add16((uint16_t)infos);
    for (unsigned i = 0; i < infos; i++)
        add16(info[i]);
    option_send(c);
}

static void structured(struct client *c)
{
    option_begin(OPT_STRUCTURED_REPLY);
    option_send(c);
    assert_int_equal(expect(c, OPT_STRUCTURED_REPLY, REP_ACK), 0);
    expect_end(c);
}

static void meta(struct client *c, uint32_t option, const char *name, unsigned queries, const char *const *query)
{
    option_begin(option);
    add_string(name);
    add32(queries);
    for (unsigned i = 0; i < queries; i++)
        add_string(query[i]);
    option_send(c);
}

static unsigned expect_export(struct client *c, uint32_t option)
{
    assert_int_equal(expect(c, option, REP_INFO), 12);
    assert_int_equal(get(c, 2), 0);
    assert_int_equal(get(c, 8), GIB);
    unsigned flags = (unsigned)get(c, 2);
    assert_int_equal(expect(c, option, REP_INFO), 14);
    assert_int_equal(get(c, 2), 3);
    assert_int_equal(get(c, 4), 512);
    assert_int_equal(get(c, 4), 4096);
    assert_int_equal(get(c, 4), 32 * MIB);
    return flags;
}

static void test_go(void **state)
{
    struct client c = connected(3);
    structured(&c);
    go(&c, OPT_GO, "gold42", 3, (uint16_t[]) { 1, 3, 2 });
    unsigned flags = expect_export(&c, OPT_GO);
    assert_int_equal(flags, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |
                                NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_DF | NBD_FLAG_CAN_MULTI_CONN |
                                NBD_FLAG_SEND_FAST_ZERO);
    uint32_t length = expect(&c, OPT_GO, REP_INFO);
    assert_int_equal(get(&c, 2), 1);
    expect_text(&c, length - 2, "gold42");
    length = expect(&c, OPT_GO, REP_INFO);
    assert_int_equal(get(&c, 2), 2);
    expect_text(&c, length - 2, "Lockstep volume gold42");
    assert_int_equal(expect(&c, OPT_GO, REP_ACK), 0);
    expect_end(&c);
    assert_int_equal(c.n.phase, NBD_PHASE_TRANSMISSION);
    assert_true(c.n.session.structured && !c.n.session.block_status);
}

static void test_info_repeats_and_unknown_requests(void **state)
{
    struct client c = connected(3);
    c.export.rotational = true;
    /* Asking for the same thing a hundred times gives one answer: no amplification. */
    uint16_t info[100];
    for (unsigned i = 0; i < 100; i++)
        info[i] = i < 90 ? 1 : 77;
    go(&c, OPT_INFO, "", 100, info);
    unsigned flags = expect_export(&c, OPT_INFO);
    assert_true((flags & NBD_FLAG_ROTATIONAL) && !(flags & NBD_FLAG_SEND_DF));
    uint32_t length = expect(&c, OPT_INFO, REP_INFO);
    assert_int_equal(get(&c, 2), 1);
    expect_text(&c, length - 2, "gold42");
    assert_int_equal(expect(&c, OPT_INFO, REP_ACK), 0);
    expect_end(&c);
    assert_int_equal(c.n.phase, NBD_PHASE_OPTION);
}

static void test_trims_that_are_not_offered(void **state)
{
    struct client c = connected(3);
    c.export.no_trim = true;
    go(&c, OPT_GO, "gold42", 0, NULL);
    assert_int_equal(expect(&c, OPT_GO, REP_INFO), 12);
    assert_int_equal(get(&c, 2), 0);
    assert_int_equal(get(&c, 8), GIB);
    unsigned flags = (unsigned)get(&c, 2);
    assert_true((flags & NBD_FLAG_SEND_WRITE_ZEROES) && !(flags & NBD_FLAG_SEND_TRIM));
}

static void test_longest_name_fits(void **state)
{
    struct client c = connected(3);
    char name[NBD_EXPORT_NAME_BYTES_MAX + 1];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    c.export.name = name;
    go(&c, OPT_GO, name, 2, (uint16_t[]) { 1, 2 });
    assert_int_equal(c.n.phase, NBD_PHASE_TRANSMISSION);
}

static void test_refusal(void **state)
{
    struct client c = connected(3);
    c.export.refusal = "volume gold42 is served by paris-a";
    for (uint32_t option = OPT_INFO; option <= OPT_GO; option++) {
        go(&c, option, "gold42", 0, NULL);
        expect_text(&c, expect(&c, option, ERR_POLICY), "volume gold42 is served by paris-a");
        expect_end(&c);
        assert_int_equal(c.n.phase, NBD_PHASE_OPTION);
    }
    option_begin(OPT_LIST);
    option_send(&c);
    assert_int_equal(expect(&c, OPT_LIST, REP_SERVER), 4 + 6);
    expect_text(&c, (uint32_t)get(&c, 4), "gold42");
    assert_int_equal(expect(&c, OPT_LIST, REP_ACK), 0);
    /* The old way in can only be closed. */
    option_begin(OPT_EXPORT_NAME);
    add("gold42", 6);
    option_send(&c);
    assert_int_equal(c.out_bytes, 0);
    assert_int_equal(c.n.phase, NBD_PHASE_END);
    assert_string_equal(c.n.reason, "volume gold42 is served by paris-a");
}

static void test_wrong_name(void **state)
{
    struct client c = connected(3);
    go(&c, OPT_GO, "gold4", 0, NULL);
    expect_error(&c, OPT_GO, ERR_UNKNOWN);
    go(&c, OPT_GO, "gold420", 0, NULL);
    expect_error(&c, OPT_GO, ERR_UNKNOWN);
    option_begin(OPT_EXPORT_NAME);
    add("silver", 6);
    option_send(&c);
    assert_int_equal(c.n.phase, NBD_PHASE_END);
}

static void test_export_name(void **state)
{
    for (unsigned no_zeroes = 0; no_zeroes < 2; no_zeroes++) {
        struct client c = connected(no_zeroes ? 2 : 0);
        option_begin(OPT_EXPORT_NAME);
        add("gold42", 6);
        option_send(&c);
        assert_int_equal(c.n.phase, NBD_PHASE_TRANSMISSION);
        assert_int_equal(c.out_bytes, no_zeroes ? 10 : 134);
        assert_int_equal(get(&c, 8), GIB);
        assert_true(get(&c, 2) & NBD_FLAG_HAS_FLAGS);
    }
}

static void test_export_name_with_options(void **state)
{
    struct client c = connected(0);
    option_begin(OPT_LIST);
    option_send(&c);
    assert_int_equal(c.n.phase, NBD_PHASE_END);
    assert_int_equal(c.out_bytes, 0);
}

static void test_abort(void **state)
{
    struct client c = connected(3);
    option_begin(OPT_ABORT);
    add("bye", 3);
    option_send(&c);
    assert_int_equal(expect(&c, OPT_ABORT, REP_ACK), 0);
    expect_end(&c);
    assert_int_equal(c.n.phase, NBD_PHASE_END);
    assert_string_equal(c.n.reason, "");
}

static void test_unsupported_options(void **state)
{
    struct client c = connected(3);
    uint32_t unknown[] = { 0, 4, OPT_STARTTLS, 11, 0x7fffffff, 0xffffffff };
    for (unsigned i = 0; i < ARRAY_LEN(unknown); i++) {
        option_begin(unknown[i]);
        add("data", i % 5);
        option_send(&c);
        expect_error(&c, unknown[i], ERR_UNSUP);
    }
}

static void test_options_with_data_that_take_none(void **state)
{
    struct client c = connected(3);
    option_begin(OPT_LIST);
    add("x", 1);
    option_send(&c);
    expect_error(&c, OPT_LIST, ERR_INVALID);
    option_begin(OPT_STRUCTURED_REPLY);
    add("x", 1);
    option_send(&c);
    expect_error(&c, OPT_STRUCTURED_REPLY, ERR_INVALID);
    assert_false(c.n.session.structured);
}

/* The lengths inside an option, each larger and smaller than it is. */
static void test_lengths_that_lie(void **state)
{
    for (int off = -6; off <= 6; off++) {
        if (off == 0)
            continue;
        struct client c = connected(3);
        option_begin(OPT_GO);
        add32((uint32_t)(6 + off));
        add("gold42", 6);
        add16(0);
        option_send(&c);
        expect_error(&c, OPT_GO, ERR_INVALID);
    }
    uint32_t huge[] = { 4097, 0x7fffffff, 0xffffffff, 0xfffffffa };
    for (unsigned i = 0; i < ARRAY_LEN(huge); i++) {
        struct client c = connected(3);
        structured(&c);
        option_begin(OPT_GO);
        add32(huge[i]);
        add("gold42\0\0", 8);
        option_send(&c);
        expect_error(&c, OPT_GO, ERR_INVALID);

        option_begin(OPT_SET_META);
        add_string("gold42");
        add32(huge[i]); /* so many queries */
        add_string("base:allocation");
        option_send(&c);
        expect_error(&c, OPT_SET_META, ERR_INVALID);
        assert_false(c.n.session.block_status);

        option_begin(OPT_SET_META);
        add_string("gold42");
        add32(1);
        add32(huge[i]);
        add("base:allocation", 15);
        option_send(&c);
        expect_error(&c, OPT_SET_META, ERR_INVALID);
    }
    struct client c = connected(3);
    option_begin(OPT_GO);
    add("\0\0", 2);
    option_send(&c);
    expect_error(&c, OPT_GO, ERR_INVALID);
}

static void test_meta_context(void **state)
{
    static const char *const both[] = { "qemu:dirty-bitmap:x", "base:allocation" };
    static const char *const wild[] = { "base:" };
    static const char *const other[] = { "base:nothing", "x-y:z", "" };
    struct client c = connected(3);
    meta(&c, OPT_SET_META, "gold42", 2, both);
    expect_error(&c, OPT_SET_META, ERR_INVALID);
    structured(&c);

    struct {
        uint32_t option;
        unsigned queries;
        const char *const *query;
        bool found;
    } cases[] = {
        { OPT_LIST_META, 0, NULL, true },   { OPT_LIST_META, 1, wild, true }, { OPT_LIST_META, 2, both, true },
        { OPT_LIST_META, 3, other, false }, { OPT_SET_META, 0, NULL, false }, { OPT_SET_META, 1, wild, false },
        { OPT_SET_META, 3, other, false },  { OPT_SET_META, 2, both, true },
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        meta(&c, cases[i].option, "gold42", cases[i].queries, cases[i].query);
        if (cases[i].found) {
            uint32_t length = expect(&c, cases[i].option, REP_META);
            assert_int_equal(get(&c, 4), cases[i].option == OPT_SET_META ? NBD_CONTEXT_ALLOCATION : 0);
            expect_text(&c, length - 4, "base:allocation");
        }
        assert_int_equal(expect(&c, cases[i].option, REP_ACK), 0);
        expect_end(&c);
    }
    assert_true(c.n.session.block_status);
    /* A selection that fails leaves none. */
    meta(&c, OPT_SET_META, "silver", 2, both);
    expect_error(&c, OPT_SET_META, ERR_UNKNOWN);
    assert_false(c.n.session.block_status);

    option_begin(OPT_LIST_META);
    add_string("gold42");
    add32(0);
    add("x", 1);
    option_send(&c);
    expect_error(&c, OPT_LIST_META, ERR_INVALID);
}

static void test_oversized_option_is_skipped(void **state)
{
    struct client c = connected(3);
    uint32_t lengths[] = { NBD_OPTION_BYTES_MAX + 1, NBD_OPTION_SKIP_BYTES_MAX };
    static uint8_t junk[4096];
    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        option_begin(OPT_GO);
        be32 length = to_be32(lengths[i]);
        memcpy(message + 12, &length, sizeof(length));
        assert_int_equal(nbd_negotiate(&c.n, &c.export, message, message_bytes, c.out, &c.out_bytes),
                         NBD_OPTION_HEADER_BYTES);
        for (size_t left = lengths[i]; left > 0;) {
            assert_int_equal(c.out_bytes, 0);
            assert_int_equal(c.n.phase, NBD_PHASE_SKIP);
            size_t part = nbd_negotiate(&c.n, &c.export, junk, sizeof(junk), c.out, &c.out_bytes);
            assert_int_equal(part, left < sizeof(junk) ? left : sizeof(junk));
            left -= part;
        }
        c.out_read = 0;
        expect_error(&c, OPT_GO, ERR_TOO_BIG);
    }
    /* And goes on as if nothing had been. */
    go(&c, OPT_GO, "gold42", 0, NULL);
    assert_int_equal(c.n.phase, NBD_PHASE_TRANSMISSION);
}

static void test_negotiation_that_ends(void **state)
{
    struct {
        const char *magic;
        uint32_t option;
        uint32_t length;
    } cases[] = {
        { "IHAVEOPX", OPT_LIST, 0 },
        { "IHAVEOPT", OPT_GO, NBD_OPTION_SKIP_BYTES_MAX + 1 },
        { "IHAVEOPT", 99, 0xffffffff },
        { "IHAVEOPT", OPT_EXPORT_NAME, NBD_OPTION_BYTES_MAX + 1 },
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct client c = connected(3);
        message_bytes = 0;
        add(cases[i].magic, 8);
        add32(cases[i].option);
        add32(cases[i].length);
        nbd_negotiate(&c.n, &c.export, message, message_bytes, c.out, &c.out_bytes);
        assert_int_equal(c.n.phase, NBD_PHASE_END);
        assert_true(c.n.reason[0] != '\0');
        assert_int_equal(c.out_bytes, 0);
    }
    struct client flags;
    uint8_t greeting[NBD_GREETING_BYTES];
    nbd_negotiation_begin(&flags.n, greeting);
    message_bytes = 0;
    add32(4);
    nbd_negotiate(&flags.n, &flags.export, message, message_bytes, flags.out, &flags.out_bytes);
    assert_int_equal(flags.n.phase, NBD_PHASE_END);
}

static void test_option_flood(void **state)
{
    struct client c = connected(3);
    for (unsigned i = 0; i < NBD_OPTIONS_MAX; i++) {
        option_begin(OPT_STRUCTURED_REPLY);
        option_send(&c);
    }
    option_begin(OPT_GO);
    nbd_negotiate(&c.n, &c.export, message, message_bytes, c.out, &c.out_bytes);
    assert_int_equal(c.n.phase, NBD_PHASE_END);
}

/* Requests */

static const struct nbd_session plain;
static const struct nbd_session rich = { .structured = true, .block_status = true };
static const struct nbd_export export = { .name = "gold42", .size_bytes = GIB, .block_min_bytes = 4096 };

static enum nbd_verdict parse(const struct nbd_session *s, uint16_t flags, uint16_t type, uint64_t offset,
                              uint32_t length, struct nbd_request *out)
{
    message_bytes = 0;
    add32(0x25609513);
    add16(flags);
    add16(type);
    add64(0x0102030405060708);
    add64(offset);
    add32(length);
    assert_int_equal(message_bytes, NBD_REQUEST_BYTES);
    return nbd_request_parse(&export, s, message, out);
}

static void test_requests(void **state)
{
    struct {
        const struct nbd_session *session;
        uint16_t flags;
        uint16_t type;
        uint64_t offset;
        uint32_t length;
        enum nbd_verdict verdict;
        enum nbd_error error;
    } cases[] = {
        { &plain, 0, NBD_CMD_READ, 0, 4096, NBD_ACCEPT, 0 },
        { &plain, NBD_CMD_FLAG_FUA, NBD_CMD_READ, GIB - 4096, 4096, NBD_ACCEPT, 0 },
        { &plain, 0, NBD_CMD_READ, 0, 32 * MIB, NBD_ACCEPT, 0 },
        { &plain, 0, NBD_CMD_READ, 0, 32 * MIB + 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_READ, 0, 0, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_READ, 512, 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_READ, 0, 512, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_READ, GIB, 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_READ, GIB - 4096, 8192, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_READ, UINT64_MAX - 4095, 8192, NBD_REJECT, NBD_EINVAL },
        { &plain, NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 4096, NBD_REJECT, NBD_EINVAL },
        { &rich, NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 65536, NBD_ACCEPT, 0 },
        { &rich, NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, NBD_DF_BYTES_MAX + 4096, NBD_REJECT, NBD_EOVERFLOW },
        { &rich, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_READ, 0, 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 0, 4096, NBD_ACCEPT, 0 },
        { &plain, 0, NBD_CMD_WRITE, GIB, 4096, NBD_REJECT, NBD_ENOSPC },
        { &plain, 0, NBD_CMD_WRITE, UINT64_MAX, 4096, NBD_REJECT, NBD_ENOSPC },
        { &plain, 0, NBD_CMD_WRITE, 1, 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_WRITE, 0, 32 * MIB + 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_WRITE, 0, NBD_PAYLOAD_BYTES_MAX, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_WRITE, 0, NBD_PAYLOAD_BYTES_MAX + 1, NBD_BREAK, 0 },
        { &plain, 0, NBD_CMD_WRITE, 0, UINT32_MAX, NBD_BREAK, 0 },
        { &plain, 32, NBD_CMD_WRITE, 0, 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_WRITE, 0, 0, NBD_REJECT, NBD_EINVAL },
        { &plain, NBD_CMD_FLAG_FUA, NBD_CMD_TRIM, 0, GIB, NBD_ACCEPT, 0 },
        { &plain, 0, NBD_CMD_TRIM, 4096, GIB, NBD_REJECT, NBD_EINVAL },
        { &plain, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_TRIM, 0, 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 0, GIB,
          NBD_ACCEPT, 0 },
        { &plain, 0, NBD_CMD_WRITE_ZEROES, 4096, GIB, NBD_REJECT, NBD_ENOSPC },
        { &plain, 0, NBD_CMD_FLUSH, 0, 0, NBD_ACCEPT, 0 },
        { &plain, NBD_CMD_FLAG_FUA, NBD_CMD_FLUSH, 0, 0, NBD_ACCEPT, 0 },
        { &plain, 0, NBD_CMD_FLUSH, 4096, 0, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_FLUSH, 0, 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_BLOCK_STATUS, 0, 4096, NBD_REJECT, NBD_EINVAL },
        { &rich, NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 0, GIB, NBD_ACCEPT, 0 },
        { &rich, 0, NBD_CMD_BLOCK_STATUS, 4096, GIB, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, NBD_CMD_DISC, 0, 0, NBD_DISCONNECT, 0 },
        { &plain, 0, NBD_CMD_CACHE, 0, 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, 8, 0, 4096, NBD_REJECT, NBD_EINVAL },
        { &plain, 0, 0xffff, 0, 4096, NBD_REJECT, NBD_EINVAL },
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct nbd_request r;
        enum nbd_verdict verdict =
            parse(cases[i].session, cases[i].flags, cases[i].type, cases[i].offset, cases[i].length, &r);
        if (verdict != cases[i].verdict)
            print_error("case %u\n", i);
        assert_int_equal(verdict, cases[i].verdict);
        if (verdict == NBD_REJECT)
            assert_int_equal(r.error, cases[i].error);
        if (verdict == NBD_REJECT || verdict == NBD_BREAK)
            assert_non_null(r.why);
        /* The payload follows whether the write is wanted or not. */
        if (verdict != NBD_BREAK)
            assert_int_equal(r.payload_bytes, cases[i].type == NBD_CMD_WRITE ? cases[i].length : 0);
    }
    struct nbd_request r;
    parse(&plain, 0, NBD_CMD_READ, 0, 4096, &r);
    message[0] ^= 1;
    assert_int_equal(nbd_request_parse(&export, &plain, message, &r), NBD_BREAK);
}

/* Replies, compared with what the protocol's text says. */
static void test_replies(void **state)
{
    struct nbd_request r;
    parse(&plain, 0, NBD_CMD_READ, 0, 4096, &r);
    uint8_t out[NBD_BLOCK_STATUS_BYTES(2)];

    assert_int_equal(nbd_put_simple(out, r.cookie, NBD_ENOSPC), NBD_SIMPLE_REPLY_BYTES);
    assert_memory_equal(out, "\x67\x44\x66\x98\0\0\0\x1c\1\2\3\4\5\6\7\x8", 16);

    assert_int_equal(nbd_put_chunk_data(out, r.cookie, false, 0x1000, 0x200), NBD_CHUNK_DATA_BYTES);
    assert_memory_equal(out, "\x66\x8e\x33\xef\0\0\0\1\1\2\3\4\5\6\7\x8\0\0\2\x8\0\0\0\0\0\0\x10\0", 28);

    assert_int_equal(nbd_put_chunk_hole(out, r.cookie, true, 0x1000, 0x200), NBD_CHUNK_HOLE_BYTES);
    assert_memory_equal(out, "\x66\x8e\x33\xef\0\1\0\2\1\2\3\4\5\6\7\x8\0\0\0\xc\0\0\0\0\0\0\x10\0\0\0\2\0", 32);

    assert_int_equal(nbd_put_chunk_error(out, r.cookie, NBD_EIO), NBD_CHUNK_ERROR_BYTES);
    assert_memory_equal(out, "\x66\x8e\x33\xef\0\1\x80\1\1\2\3\4\5\6\7\x8\0\0\0\6\0\0\0\5\0\0", 26);

    struct nbd_extent extents[] = { { 0x1000, 0 }, { 0x2000, NBD_STATE_HOLE | NBD_STATE_ZERO } };
    assert_int_equal(nbd_put_block_status(out, r.cookie, extents, 2), NBD_BLOCK_STATUS_BYTES(2));
    assert_memory_equal(
        out, "\x66\x8e\x33\xef\0\1\0\5\1\2\3\4\5\6\7\x8\0\0\0\x14\0\0\0\1\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\3", 40);
}

static void test_errors(void **state)
{
    assert_int_equal(nbd_error_from(0), NBD_SUCCESS);
    assert_int_equal(nbd_error_from(-EIO), NBD_EIO);
    assert_int_equal(nbd_error_from(-ENOSPC), NBD_ENOSPC);
    assert_int_equal(nbd_error_from(-EDQUOT), NBD_ENOSPC);
    assert_int_equal(nbd_error_from(-EOPNOTSUPP), NBD_ENOTSUP);
    assert_int_equal(nbd_error_from(-EROFS), NBD_EPERM);
    assert_int_equal(nbd_error_from(-ESHUTDOWN), NBD_ESHUTDOWN);
    assert_int_equal(nbd_error_from(-ENOTCONN), NBD_EIO);
    assert_int_equal(nbd_error_from(-123456), NBD_EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_go),
        cmocka_unit_test(test_info_repeats_and_unknown_requests),
        cmocka_unit_test(test_trims_that_are_not_offered),
        cmocka_unit_test(test_longest_name_fits),
        cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_wrong_name),
        cmocka_unit_test(test_export_name),
        cmocka_unit_test(test_export_name_with_options),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_unsupported_options),
        cmocka_unit_test(test_options_with_data_that_take_none),
        cmocka_unit_test(test_lengths_that_lie),
        cmocka_unit_test(test_meta_context),
        cmocka_unit_test(test_oversized_option_is_skipped),
        cmocka_unit_test(test_negotiation_that_ends),
        cmocka_unit_test(test_option_flood),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
