/* NBD on the wire: negotiation, requests, replies. */
#include "blockdev/front/nbd_proto.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repl/base/endian.h"
#include "repl/base/range.h"

#define NBD_MAGIC UINT64_C(0x4e42444d41474943)        /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC UINT64_C(0x49484156454F5054) /* "IHAVEOPT" */
#define NBD_REP_MAGIC UINT64_C(0x3e889045565a9)
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_CHUNK_MAGIC 0x668e33efu

/* Both ends of the handshake use the same two bits. */
#define NBD_FLAG_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_NO_ZEROES (1u << 1)

enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ACK 1u
#define NBD_REP_SERVER 2u
#define NBD_REP_INFO 3u
#define NBD_REP_META_CONTEXT 4u
#define NBD_REP_ERR(n) ((1u << 31) + (n))
#define NBD_REP_ERR_UNSUP NBD_REP_ERR(1u)
#define NBD_REP_ERR_POLICY NBD_REP_ERR(2u)
#define NBD_REP_ERR_INVALID NBD_REP_ERR(3u)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERR(6u)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERR(9u)

#define NBD_INFO_EXPORT 0u
#define NBD_INFO_NAME 1u
#define NBD_INFO_DESCRIPTION 2u
#define NBD_INFO_BLOCK_SIZE 3u

#define NBD_REPLY_TYPE_OFFSET_DATA 1u
#define NBD_REPLY_TYPE_OFFSET_HOLE 2u
#define NBD_REPLY_TYPE_BLOCK_STATUS 5u
#define NBD_REPLY_TYPE_ERROR ((1u << 15) + 1)
#define NBD_REPLY_FLAG_DONE 1u

#define NBD_CONTEXT_NAMESPACE "base:"
#define NBD_CONTEXT_NAME "base:allocation"

/* The zeroes after an answer to NBD_OPT_EXPORT_NAME, which only the oldest clients want. */
#define NBD_EXPORT_NAME_ZEROES 124

#define WIRE __attribute__((packed))

struct WIRE wire_option {
    be64 magic;
    be32 option;
    be32 length;
};
static_assert(sizeof(struct wire_option) == NBD_OPTION_HEADER_BYTES, "as in the protocol");

struct WIRE wire_option_reply {
    be64 magic;
    be32 option;
    be32 type;
    be32 length;
};
static_assert(sizeof(struct wire_option_reply) == 20, "as in the protocol");

struct WIRE wire_info_export {
    be16 type;
    be64 size;
    be16 flags;
};
static_assert(sizeof(struct wire_info_export) == 12, "as in the protocol");

struct WIRE wire_info_block_size {
    be16 type;
    be32 min;
    be32 preferred;
    be32 max;
};
static_assert(sizeof(struct wire_info_block_size) == 14, "as in the protocol");

struct WIRE wire_request {
    be32 magic;
    be16 flags;
    be16 type;
    be64 cookie;
    be64 offset;
    be32 length;
};
static_assert(sizeof(struct wire_request) == NBD_REQUEST_BYTES, "as in the protocol");

struct WIRE wire_simple_reply {
    be32 magic;
    be32 error;
    be64 cookie;
};
static_assert(sizeof(struct wire_simple_reply) == NBD_SIMPLE_REPLY_BYTES, "as in the protocol");

struct WIRE wire_chunk {
    be32 magic;
    be16 flags;
    be16 type;
    be64 cookie;
    be32 length;
};
static_assert(sizeof(struct wire_chunk) == NBD_CHUNK_BYTES, "as in the protocol");

/* The longest answer is the one to NBD_OPT_INFO: four informations and an acknowledgement, or a refusal. */
static_assert(5 * sizeof(struct wire_option_reply) + sizeof(struct wire_info_export) +
                      sizeof(struct wire_info_block_size) + 2 * (2 + NBD_EXPORT_NAME_BYTES_MAX + 64) +
                      NBD_REFUSAL_BYTES_MAX <=
                  NBD_NEGOTIATION_OUT_BYTES,
              "every answer fits");

/* A run of bytes that is read from the front. */
struct bytes {
    const uint8_t *at;
    size_t left;
};

static bool take_u16(struct bytes *b, uint16_t *out)
{
    be16 v;
    if (b->left < sizeof(v))
        return false;
    memcpy(&v, b->at, sizeof(v));
    b->at += sizeof(v);
    b->left -= sizeof(v);
    *out = from_be16(v);
    return true;
}

static bool take_u32(struct bytes *b, uint32_t *out)
{
    be32 v;
    if (b->left < sizeof(v))
        return false;
    memcpy(&v, b->at, sizeof(v));
    b->at += sizeof(v);
    b->left -= sizeof(v);
    *out = from_be32(v);
    return true;
}

/* A string with its length in front. */
static bool take_string(struct bytes *b, struct bytes *out)
{
    uint32_t length;
    if (!take_u32(b, &length) || length > b->left || length > NBD_NAME_BYTES_MAX)
        return false;
    *out = (struct bytes) { b->at, length };
    b->at += length;
    b->left -= length;
    return true;
}

static bool equals(struct bytes b, const char *text) { return b.left == strlen(text) && !memcmp(b.at, text, b.left); }

/* The empty name asks for the default export: the only one there is. */
static bool names_export(struct bytes name, const struct nbd_export *e)
{
    return name.left == 0 || equals(name, e->name);
}

/* The answer to one message, as it grows. */
struct outgoing {
    uint8_t *at;
    size_t used;
    uint32_t option;
};

static void put(struct outgoing *a, const void *data, size_t bytes)
{
    assert(bytes <= NBD_NEGOTIATION_OUT_BYTES - a->used);
    memcpy(a->at + a->used, data, bytes);
    a->used += bytes;
}

static void put_reply(struct outgoing *a, uint32_t type, size_t length)
{
    struct wire_option_reply r = { to_be64(NBD_REP_MAGIC), to_be32(a->option), to_be32(type),
                                   to_be32((uint32_t)length) };
    put(a, &r, sizeof(r));
}

static void put_error(struct outgoing *a, uint32_t type, const char *text)
{
    size_t length = strnlen(text, NBD_REFUSAL_BYTES_MAX);
    put_reply(a, type, length);
    put(a, text, length);
}

static void end(struct nbd_negotiation *n, const char *reason)
{
    n->phase = NBD_PHASE_END;
    snprintf(n->reason, sizeof(n->reason), "%s", reason);
}

static uint16_t transmission_flags(const struct nbd_export *e, const struct nbd_session *s)
{
    unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_WRITE_ZEROES |
                     NBD_FLAG_SEND_FAST_ZERO | NBD_FLAG_CAN_MULTI_CONN;
    if (!e->no_trim)
        flags |= NBD_FLAG_SEND_TRIM;
    if (e->rotational)
        flags |= NBD_FLAG_ROTATIONAL;
    if (s->structured)
        flags |= NBD_FLAG_SEND_DF;
    return (uint16_t)flags;
}

void nbd_negotiation_begin(struct nbd_negotiation *n, uint8_t greeting[NBD_GREETING_BYTES])
{
    *n = (struct nbd_negotiation) { .phase = NBD_PHASE_CLIENT_FLAGS };
    struct WIRE {
        be64 magic;
        be64 option_magic;
        be16 flags;
    } g = { to_be64(NBD_MAGIC), to_be64(NBD_OPTION_MAGIC), to_be16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES) };
    static_assert(sizeof(g) == NBD_GREETING_BYTES, "as in the protocol");
    memcpy(greeting, &g, sizeof(g));
}

static void on_client_flags(struct nbd_negotiation *n, uint32_t flags)
{
    if (flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) {
        end(n, "it set handshake flags that do not exist");
        return;
    }
    n->fixed_newstyle = flags & NBD_FLAG_FIXED_NEWSTYLE;
    n->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    n->phase = NBD_PHASE_OPTION;
}

/* The old way in: no way to tell an error but to hang up. */
static void on_export_name(struct nbd_negotiation *n, const struct nbd_export *e, struct bytes name, struct outgoing *a)
{
    if (!names_export(name, e)) {
        end(n, "it asked for an export that is not here");
        return;
    }
    if (e->refusal) {
        end(n, e->refusal);
        return;
    }
    be64 size = to_be64(e->size_bytes);
    be16 flags = to_be16(transmission_flags(e, &n->session));
    put(a, &size, sizeof(size));
    put(a, &flags, sizeof(flags));
    if (!n->no_zeroes) {
        static const uint8_t zeroes[NBD_EXPORT_NAME_ZEROES];
        put(a, zeroes, sizeof(zeroes));
    }
    n->phase = NBD_PHASE_TRANSMISSION;
}

static void on_list(const struct nbd_export *e, struct bytes data, struct outgoing *a)
{
    if (data.left > 0) {
        put_error(a, NBD_REP_ERR_INVALID, "NBD_OPT_LIST takes no data");
        return;
    }
    be32 length = to_be32((uint32_t)strlen(e->name));
    put_reply(a, NBD_REP_SERVER, sizeof(length) + strlen(e->name));
    put(a, &length, sizeof(length));
    put(a, e->name, strlen(e->name));
    put_reply(a, NBD_REP_ACK, 0);
}

static void put_info_text(struct outgoing *a, uint16_t type, const char *prefix, const char *name)
{
    be16 info = to_be16(type);
    put_reply(a, NBD_REP_INFO, sizeof(info) + strlen(prefix) + strlen(name));
    put(a, &info, sizeof(info));
    put(a, prefix, strlen(prefix));
    put(a, name, strlen(name));
}

static void on_info_or_go(struct nbd_negotiation *n, const struct nbd_export *e, struct bytes data, struct outgoing *a)
{
    struct bytes name;
    uint16_t requests;
    if (!take_string(&data, &name) || !take_u16(&data, &requests) || data.left != 2u * requests) {
        put_error(a, NBD_REP_ERR_INVALID, "the lengths inside the option do not add up");
        return;
    }
    if (!names_export(name, e)) {
        put_error(a, NBD_REP_ERR_UNKNOWN, "there is no such export here");
        return;
    }
    if (e->refusal) {
        /* Not "unknown": some clients would say that there is no such export, and keep the reason to themselves. */
        put_error(a, NBD_REP_ERR_POLICY, e->refusal);
        return;
    }
    struct wire_info_export export = { to_be16(NBD_INFO_EXPORT), to_be64(e->size_bytes),
                                       to_be16(transmission_flags(e, &n->session)) };
    put_reply(a, NBD_REP_INFO, sizeof(export));
    put(a, &export, sizeof(export));

    /* Told to everybody: who did not ask may ignore it, and is then given an error instead of a misaligned write. */
    struct wire_info_block_size block = { to_be16(NBD_INFO_BLOCK_SIZE), to_be32(e->block_min_bytes),
                                          to_be32(e->block_preferred_bytes), to_be32((uint32_t)NBD_REQUEST_BYTES_MAX) };
    put_reply(a, NBD_REP_INFO, sizeof(block));
    put(a, &block, sizeof(block));

    bool name_given = false;
    bool description_given = false;
    uint16_t request;
    while (take_u16(&data, &request)) {
        if (request == NBD_INFO_NAME && !name_given) {
            put_info_text(a, NBD_INFO_NAME, "", e->name);
            name_given = true;
        }
        if (request == NBD_INFO_DESCRIPTION && !description_given) {
            put_info_text(a, NBD_INFO_DESCRIPTION, "Lockstep volume ", e->name);
            description_given = true;
        }
    }
    put_reply(a, NBD_REP_ACK, 0);
    if (a->option == NBD_OPT_GO)
        n->phase = NBD_PHASE_TRANSMISSION;
}

static void on_structured_reply(struct nbd_negotiation *n, struct bytes data, struct outgoing *a)
{
    if (data.left > 0) {
        put_error(a, NBD_REP_ERR_INVALID, "NBD_OPT_STRUCTURED_REPLY takes no data");
        return;
    }
    n->session.structured = true;
    put_reply(a, NBD_REP_ACK, 0);
}

static void on_meta_context(struct nbd_negotiation *n, const struct nbd_export *e, struct bytes data,
                            struct outgoing *a)
{
    bool set = a->option == NBD_OPT_SET_META_CONTEXT;
    /* A new selection replaces the old one even when it fails. */
    if (set)
        n->session.block_status = false;
    if (!n->session.structured) {
        put_error(a, NBD_REP_ERR_INVALID, "structured replies have to be negotiated first");
        return;
    }
    struct bytes name;
    uint32_t queries;
    if (!take_string(&data, &name) || !take_u32(&data, &queries)) {
        put_error(a, NBD_REP_ERR_INVALID, "the lengths inside the option do not add up");
        return;
    }
    bool chosen = !set && queries == 0;
    for (uint32_t i = 0; i < queries; i++) {
        struct bytes query;
        /* Ends at the end of the data at the latest, however large a count the client claims. */
        if (!take_string(&data, &query)) {
            put_error(a, NBD_REP_ERR_INVALID, "the lengths inside the option do not add up");
            return;
        }
        chosen |= equals(query, NBD_CONTEXT_NAME) || (!set && equals(query, NBD_CONTEXT_NAMESPACE));
    }
    if (data.left > 0) {
        put_error(a, NBD_REP_ERR_INVALID, "there is data after the last query");
        return;
    }
    if (!names_export(name, e)) {
        put_error(a, NBD_REP_ERR_UNKNOWN, "there is no such export here");
        return;
    }
    if (chosen) {
        be32 id = to_be32(set ? NBD_CONTEXT_ALLOCATION : 0);
        put_reply(a, NBD_REP_META_CONTEXT, sizeof(id) + strlen(NBD_CONTEXT_NAME));
        put(a, &id, sizeof(id));
        put(a, NBD_CONTEXT_NAME, strlen(NBD_CONTEXT_NAME));
        if (set)
            n->session.block_status = true;
    }
    put_reply(a, NBD_REP_ACK, 0);
}

static void on_option(struct nbd_negotiation *n, const struct nbd_export *e, struct bytes data, struct outgoing *a)
{
    if (!n->fixed_newstyle && a->option != NBD_OPT_EXPORT_NAME) {
        end(n, "it does not know fixed newstyle, but sent options of it");
        return;
    }
    switch (a->option) {
    case NBD_OPT_EXPORT_NAME: on_export_name(n, e, data, a); return;
    case NBD_OPT_ABORT:
        put_reply(a, NBD_REP_ACK, 0);
        end(n, "");
        return;
    case NBD_OPT_LIST: on_list(e, data, a); return;
    case NBD_OPT_STARTTLS: put_error(a, NBD_REP_ERR_UNSUP, "TLS is not offered here"); return;
    case NBD_OPT_INFO:
    case NBD_OPT_GO: on_info_or_go(n, e, data, a); return;
    case NBD_OPT_STRUCTURED_REPLY: on_structured_reply(n, data, a); return;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT: on_meta_context(n, e, data, a); return;
    }
    put_error(a, NBD_REP_ERR_UNSUP, "this option is not known here");
}

/* Judges an option by its header alone. True: its data is to be waited for and handed to on_option(). */
static bool option_wanted(struct nbd_negotiation *n, const struct wire_option *o)
{
    uint32_t length = from_be32(o->length);
    if (from_be64(o->magic) != NBD_OPTION_MAGIC) {
        end(n, "what should be an option does not begin with its magic");
        return false;
    }
    if (n->options == NBD_OPTIONS_MAX) {
        end(n, "it sent too many options");
        return false;
    }
    if (length <= NBD_OPTION_BYTES_MAX)
        return true;
    if (length > NBD_OPTION_SKIP_BYTES_MAX || from_be32(o->option) == NBD_OPT_EXPORT_NAME || !n->fixed_newstyle) {
        end(n, "it sent an option of absurd length");
        return false;
    }
    n->phase = NBD_PHASE_SKIP;
    n->option = from_be32(o->option);
    n->skip_bytes = length;
    return false;
}

size_t nbd_negotiate(struct nbd_negotiation *n, const struct nbd_export *e, const uint8_t *in, size_t in_bytes,
                     uint8_t out[NBD_NEGOTIATION_OUT_BYTES], size_t *out_bytes)
{
    struct bytes b = { in, in_bytes };
    struct outgoing a = { .at = out };
    *out_bytes = 0;
    switch (n->phase) {
    case NBD_PHASE_CLIENT_FLAGS: {
        uint32_t flags;
        if (!take_u32(&b, &flags))
            return 0;
        on_client_flags(n, flags);
        return sizeof(flags);
    }
    case NBD_PHASE_OPTION: {
        struct wire_option o;
        if (b.left < sizeof(o))
            return 0;
        memcpy(&o, b.at, sizeof(o));
        if (!option_wanted(n, &o)) {
            n->options++;
            return sizeof(o);
        }
        size_t length = from_be32(o.length);
        if (b.left < sizeof(o) + length)
            return 0;
        n->options++;
        a.option = from_be32(o.option);
        on_option(n, e, (struct bytes) { b.at + sizeof(o), length }, &a);
        *out_bytes = a.used;
        return sizeof(o) + length;
    }
    case NBD_PHASE_SKIP: {
        size_t part = (size_t)min_u64(b.left, n->skip_bytes);
        n->skip_bytes -= (uint32_t)part;
        if (n->skip_bytes == 0) {
            a.option = n->option;
            put_error(&a, NBD_REP_ERR_TOO_BIG, "the option is too long");
            *out_bytes = a.used;
            n->phase = NBD_PHASE_OPTION;
        }
        return part;
    }
    case NBD_PHASE_TRANSMISSION:
    case NBD_PHASE_END: break;
    }
    assert(!"a negotiation that is over");
    return 0;
}

static enum nbd_verdict reject(struct nbd_request *r, enum nbd_error error, const char *why)
{
    r->error = error;
    r->why = why;
    return NBD_REJECT;
}

/* The flags that each command may carry in this session. FUA is allowed on all of them, by the protocol. */
static unsigned flags_allowed(const struct nbd_session *s, enum nbd_cmd command)
{
    switch (command) {
    case NBD_CMD_READ: return NBD_CMD_FLAG_FUA | (s->structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE_ZEROES: return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS: return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
    case NBD_CMD_WRITE:
    case NBD_CMD_FLUSH:
    case NBD_CMD_TRIM:
    case NBD_CMD_DISC:
    case NBD_CMD_CACHE: return NBD_CMD_FLAG_FUA;
    }
    return 0;
}

static enum nbd_verdict check_range(const struct nbd_export *e, struct nbd_request *r)
{
    bool grows = r->command == NBD_CMD_WRITE || r->command == NBD_CMD_WRITE_ZEROES;
    if (r->length_bytes == 0)
        return reject(r, NBD_EINVAL, "its length is 0");
    if (!range_fits((struct range) { r->offset_bytes, r->length_bytes }, e->size_bytes))
        return reject(r, grows ? NBD_ENOSPC : NBD_EINVAL, "it reaches beyond the end of the volume");
    if (r->offset_bytes % e->block_min_bytes != 0 || r->length_bytes % e->block_min_bytes != 0)
        return reject(r, NBD_EINVAL, "it is not aligned to the minimum block size");
    return NBD_ACCEPT;
}

enum nbd_verdict nbd_request_parse(const struct nbd_export *e, const struct nbd_session *s,
                                   const uint8_t header[NBD_REQUEST_BYTES], struct nbd_request *out)
{
    struct wire_request w;
    memcpy(&w, header, sizeof(w));
    uint16_t type = from_be16(w.type);
    struct nbd_request r = {
        .flags = from_be16(w.flags),
        .cookie = w.cookie.be, /* opaque: given back as it came */
        .offset_bytes = from_be64(w.offset),
        .length_bytes = from_be32(w.length),
    };
    enum nbd_verdict verdict = NBD_ACCEPT;
    if (from_be32(w.magic) != NBD_REQUEST_MAGIC) {
        r.why = "what should be a request does not begin with its magic";
        *out = r;
        return NBD_BREAK;
    }
    if (type > NBD_CMD_BLOCK_STATUS || type == NBD_CMD_CACHE) {
        verdict = reject(&r, NBD_EINVAL, "its command is not known here");
        *out = r;
        return verdict;
    }
    r.command = (enum nbd_cmd)type;
    if (r.command == NBD_CMD_DISC) {
        *out = r;
        return NBD_DISCONNECT;
    }
    if (r.command == NBD_CMD_WRITE) {
        r.payload_bytes = r.length_bytes;
        if (r.payload_bytes > NBD_PAYLOAD_BYTES_MAX) {
            r.why = "it announced a write of absurd length";
            *out = r;
            return NBD_BREAK;
        }
    }
    if (r.flags & ~flags_allowed(s, r.command)) {
        verdict = reject(&r, NBD_EINVAL, "it has flags that do not belong to its command");
        *out = r;
        return verdict;
    }
    switch (r.command) {
    case NBD_CMD_READ:
        if (r.length_bytes > NBD_REQUEST_BYTES_MAX)
            verdict = reject(&r, NBD_EINVAL, "it is longer than the maximum block size");
        else if ((r.flags & NBD_CMD_FLAG_DF) && r.length_bytes > NBD_DF_BYTES_MAX)
            verdict = reject(&r, NBD_EOVERFLOW, "it is too long for a reply in one piece");
        else
            verdict = check_range(e, &r);
        break;
    case NBD_CMD_WRITE:
        if (r.length_bytes > NBD_REQUEST_BYTES_MAX)
            verdict = reject(&r, NBD_EINVAL, "it is longer than the maximum block size");
        else
            verdict = check_range(e, &r);
        break;
    case NBD_CMD_TRIM:
        verdict = e->no_trim ? reject(&r, NBD_EINVAL, "trims are not offered here") : check_range(e, &r);
        break;
    case NBD_CMD_WRITE_ZEROES: verdict = check_range(e, &r); break;
    case NBD_CMD_BLOCK_STATUS:
        if (!s->block_status)
            verdict = reject(&r, NBD_EINVAL, "no metadata context was negotiated");
        else
            verdict = check_range(e, &r);
        break;
    case NBD_CMD_FLUSH:
        if (r.offset_bytes != 0 || r.length_bytes != 0)
            verdict = reject(&r, NBD_EINVAL, "a flush has neither offset nor length");
        break;
    case NBD_CMD_DISC:
    case NBD_CMD_CACHE: break;
    }
    *out = r;
    return verdict;
}

enum nbd_error nbd_error_from(int32_t result)
{
    switch (result) {
    case 0: return NBD_SUCCESS;
    case -EPERM:
    case -EACCES:
    case -EROFS: return NBD_EPERM;
    case -ENOMEM: return NBD_ENOMEM;
    case -EINVAL: return NBD_EINVAL;
    case -ENOSPC:
    case -EDQUOT:
    case -EFBIG: return NBD_ENOSPC;
    case -EOVERFLOW: return NBD_EOVERFLOW;
    case -EOPNOTSUPP: return NBD_ENOTSUP;
    case -ESHUTDOWN: return NBD_ESHUTDOWN;
    }
    return NBD_EIO;
}

size_t nbd_put_simple(uint8_t *out, uint64_t cookie, enum nbd_error error)
{
    struct wire_simple_reply r = { to_be32(NBD_SIMPLE_REPLY_MAGIC), to_be32(error), { cookie } };
    memcpy(out, &r, sizeof(r));
    return sizeof(r);
}

static size_t put_chunk(uint8_t *out, uint64_t cookie, bool done, uint16_t type, size_t length)
{
    struct wire_chunk c = { to_be32(NBD_CHUNK_MAGIC),
                            to_be16(done ? NBD_REPLY_FLAG_DONE : 0),
                            to_be16(type),
                            { cookie },
                            to_be32((uint32_t)length) };
    memcpy(out, &c, sizeof(c));
    return sizeof(c);
}

size_t nbd_put_chunk_data(uint8_t *out, uint64_t cookie, bool done, uint64_t offset_bytes, uint32_t length_bytes)
{
    be64 offset = to_be64(offset_bytes);
    size_t n = put_chunk(out, cookie, done, NBD_REPLY_TYPE_OFFSET_DATA, sizeof(offset) + length_bytes);
    memcpy(out + n, &offset, sizeof(offset));
    return n + sizeof(offset);
}

size_t nbd_put_chunk_hole(uint8_t *out, uint64_t cookie, bool done, uint64_t offset_bytes, uint32_t length_bytes)
{
    struct WIRE {
        be64 offset;
        be32 length;
    } hole = { to_be64(offset_bytes), to_be32(length_bytes) };
    size_t n = put_chunk(out, cookie, done, NBD_REPLY_TYPE_OFFSET_HOLE, sizeof(hole));
    memcpy(out + n, &hole, sizeof(hole));
    return n + sizeof(hole);
}

size_t nbd_put_chunk_error(uint8_t *out, uint64_t cookie, enum nbd_error error)
{
    struct WIRE {
        be32 error;
        be16 text_bytes;
    } body = { to_be32(error), to_be16(0) };
    size_t n = put_chunk(out, cookie, true, NBD_REPLY_TYPE_ERROR, sizeof(body));
    memcpy(out + n, &body, sizeof(body));
    return n + sizeof(body);
}

size_t nbd_put_block_status(uint8_t *out, uint64_t cookie, const struct nbd_extent *list, unsigned extents)
{
    assert(extents > 0);
    be32 id = to_be32(NBD_CONTEXT_ALLOCATION);
    size_t n = put_chunk(out, cookie, true, NBD_REPLY_TYPE_BLOCK_STATUS, sizeof(id) + 8 * (size_t)extents);
    memcpy(out + n, &id, sizeof(id));
    n += sizeof(id);
    for (unsigned i = 0; i < extents; i++) {
        be32 pair[2] = { to_be32(list[i].length_bytes), to_be32(list[i].state) };
        memcpy(out + n, pair, sizeof(pair));
        n += sizeof(pair);
    }
    return n;
}
