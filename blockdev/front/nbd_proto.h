/* NBD on the wire, pure: what a client may say, what it is answered, and what ends the conversation.
 *
 * Fixed newstyle negotiation, structured replies, block size constraints and base:allocation, after
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. Every byte that a client sends is judged here and
 * nowhere else: what comes out is well-formed, aligned and inside the export, or it is an error with a reason. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/base/units.h"

/* Limits */
#define NBD_NAME_BYTES_MAX 4096          /* of any string, by the protocol */
#define NBD_REQUEST_BYTES_MAX (32 * MIB) /* one read or write: advertised, and what every client can live with */
#define NBD_PAYLOAD_BYTES_MAX (64 * MIB) /* longer than this, a payload is not even skipped */
#define NBD_DF_BYTES_MAX (64 * KIB)      /* one unfragmented read: as much as the protocol asks for */
#define NBD_OPTIONS_MAX 64               /* options in one negotiation */
#define NBD_OPTION_BYTES_MAX (8 * KIB)   /* longer data is skipped, and the option refused */
#define NBD_OPTION_SKIP_BYTES_MAX MIB    /* longer than this, it is not even skipped */
#define NBD_EXPORT_NAME_BYTES_MAX 255    /* of ours */
#define NBD_REFUSAL_BYTES_MAX 383        /* text that goes with a refusal */

/* Sizes on the wire */
#define NBD_GREETING_BYTES 18
#define NBD_OPTION_HEADER_BYTES 16
#define NBD_REQUEST_BYTES 28
#define NBD_SIMPLE_REPLY_BYTES 16
#define NBD_CHUNK_BYTES 20
#define NBD_CHUNK_DATA_BYTES (NBD_CHUNK_BYTES + 8)
#define NBD_CHUNK_HOLE_BYTES (NBD_CHUNK_BYTES + 12)
#define NBD_CHUNK_ERROR_BYTES (NBD_CHUNK_BYTES + 6)
#define NBD_REPLY_HEAD_BYTES_MAX NBD_CHUNK_HOLE_BYTES
#define NBD_BLOCK_STATUS_BYTES(extents) (NBD_CHUNK_BYTES + 4 + 8 * (size_t)(extents))

/* A buffer of this size always holds the longest message of the negotiation that is taken in one piece. */
#define NBD_NEGOTIATION_IN_BYTES (NBD_OPTION_HEADER_BYTES + NBD_OPTION_BYTES_MAX)
/* The longest answer to one message. */
#define NBD_NEGOTIATION_OUT_BYTES (2 * KIB)

enum nbd_cmd {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

#define NBD_CMD_FLAG_FUA (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE (1u << 1)
#define NBD_CMD_FLAG_DF (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO (1u << 4)

#define NBD_FLAG_HAS_FLAGS (1u << 0)
#define NBD_FLAG_READ_ONLY (1u << 1)
#define NBD_FLAG_SEND_FLUSH (1u << 2)
#define NBD_FLAG_SEND_FUA (1u << 3)
#define NBD_FLAG_ROTATIONAL (1u << 4)
#define NBD_FLAG_SEND_TRIM (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES (1u << 6)
#define NBD_FLAG_SEND_DF (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN (1u << 8)
#define NBD_FLAG_SEND_FAST_ZERO (1u << 11)

enum nbd_error {
    NBD_SUCCESS = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

#define NBD_STATE_HOLE (1u << 0)
#define NBD_STATE_ZERO (1u << 1)

/* The id that base:allocation has on every connection. */
#define NBD_CONTEXT_ALLOCATION 1

/* What is for sale. Strings are the caller's. */
struct nbd_export {
    const char *name;    /* at most NBD_EXPORT_NAME_BYTES_MAX */
    uint64_t size_bytes; /* a multiple of block_min_bytes */
    uint32_t block_min_bytes;
    uint32_t block_preferred_bytes;
    bool rotational;
    bool no_trim;        /* trims are not offered, and refused */
    const char *refusal; /* NULL: open; else what clients that want in are told, at most NBD_REFUSAL_BYTES_MAX */
};

/* What was agreed on with one client. */
struct nbd_session {
    bool structured;
    bool block_status;
};

enum nbd_phase {
    NBD_PHASE_CLIENT_FLAGS,
    NBD_PHASE_OPTION,
    NBD_PHASE_SKIP, /* the rest of an option that is too long */
    NBD_PHASE_TRANSMISSION,
    NBD_PHASE_END, /* close once what was answered is sent; `reason` says why, empty when the client asked for it */
};

struct nbd_negotiation {
    enum nbd_phase phase;
    struct nbd_session session;
    bool fixed_newstyle;
    bool no_zeroes;
    uint32_t option; /* being skipped */
    uint32_t skip_bytes;
    unsigned options;
    char reason[160];
};

/* Starts a negotiation; `greeting` is to be sent first. */
void nbd_negotiation_begin(struct nbd_negotiation *n, uint8_t greeting[NBD_GREETING_BYTES]);

/* Takes at most one message from `in` and writes the answer to it to `out`, *out_bytes long. Returns the bytes of `in`
 * that are used up; 0: the message is not complete yet. Not to be called in phases TRANSMISSION and END. */
size_t nbd_negotiate(struct nbd_negotiation *n, const struct nbd_export *e, const uint8_t *in, size_t in_bytes,
                     uint8_t out[NBD_NEGOTIATION_OUT_BYTES], size_t *out_bytes);

/* What becomes of a request. */
enum nbd_verdict {
    NBD_ACCEPT,     /* well-formed, aligned, inside the export, allowed in this session */
    NBD_REJECT,     /* answer with `error`; `payload_bytes` are to be skipped first */
    NBD_DISCONNECT, /* the client says good-bye: answer what is in flight, then close */
    NBD_BREAK,      /* the stream makes no sense any more: close; `why` says why */
};

struct nbd_request {
    enum nbd_cmd command; /* valid with NBD_ACCEPT */
    uint16_t flags;
    uint64_t cookie;
    uint64_t offset_bytes;
    uint32_t length_bytes;
    uint32_t payload_bytes; /* that follow the header */
    enum nbd_error error;
    const char *why;
};

enum nbd_verdict nbd_request_parse(const struct nbd_export *e, const struct nbd_session *s,
                                   const uint8_t header[NBD_REQUEST_BYTES], struct nbd_request *out);

/* 0 or a negative errno, as a client is told of it. */
enum nbd_error nbd_error_from(int32_t result);

/* Reply heads. Each returns how many bytes it wrote; the data, if any, follows. `done`: no chunk of this reply follows
 * any more. */
size_t nbd_put_simple(uint8_t *out, uint64_t cookie, enum nbd_error error);
size_t nbd_put_chunk_data(uint8_t *out, uint64_t cookie, bool done, uint64_t offset_bytes, uint32_t length_bytes);
size_t nbd_put_chunk_hole(uint8_t *out, uint64_t cookie, bool done, uint64_t offset_bytes, uint32_t length_bytes);
size_t nbd_put_chunk_error(uint8_t *out, uint64_t cookie, enum nbd_error error);

struct nbd_extent {
    uint32_t length_bytes;
    uint32_t state; /* NBD_STATE_ */
};

/* The whole answer to a block status request: `extents` >= 1 of them, NBD_BLOCK_STATUS_BYTES(extents) long. */
size_t nbd_put_block_status(uint8_t *out, uint64_t cookie, const struct nbd_extent *list, unsigned extents);
