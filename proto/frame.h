/* The data plane on the wire: a fixed header of 64 little-endian bytes, then `payload_bytes` of payload.
 * docs/PROTOCOL.md has the format byte by byte and the rules of a session. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "repl/base/block.h"
#include "repl/base/endian.h"
#include "repl/base/units.h"

#define FRAME_MAGIC UINT32_C(0x314b534c) /* "LSK1" as bytes on the wire */
#define FRAME_BYTES 64
#define FRAME_PAYLOAD_BYTES_MAX (1 * MIB)
#define FRAME_EPOCH_MAX (UINT64_MAX / 2) /* so that there is always a next one */
#define FRAME_LSN_MAX (UINT64_MAX / 2)
/* No session leaves out as many between two changes; only what was done without the peer does, which a hello tells. */
#define FRAME_LSN_JUMP_MAX (UINT64_C(1) << 40)
#define FRAME_HELLO_BYTES_MAX (4 * KIB) /* what a stranger can make us hold */
#define FRAME_REFUSE_BYTES_MAX 512

enum frame_kind {
    FRAME_HELLO = 1, /* payload: protobuf Hello. First frame of each side */
    FRAME_READY,     /* this side accepts the session */
    FRAME_REFUSE,    /* the connection ends. Payload: the reason as text. `status`: FRAME_REFUSE_ */
    FRAME_HEARTBEAT, /* keeps the path alive; its number shows a lost tail. `lsn`: the sender's clock; `offset_bytes`:
                        the peer's, from its last heartbeat (0: none yet); `tag`: for how many microseconds that was
                        kept; `epoch`: the age of the sender's leg (0: it does not say) */
    FRAME_WRITE,     /* payload at offset; acknowledged when the peer's disk has completed it */
    FRAME_DISCARD,
    FRAME_WRITE_ZEROES,
    FRAME_FLUSH,  /* acknowledged when all that was acknowledged before is on the peer's stable storage */
    FRAME_ACK,    /* of the change or flush with this `tag` and `lsn`; `status`: 0, or the errno of the peer's disk */
    FRAME_DECREE, /* the sender wants to be primary at `epoch`; acknowledged when the peer has persisted that epoch.
                     With FRAME_FLAG_TAKEN: the sender has taken it, its first change has `lsn`, and `offset_bytes` is
                     the random tag of its entry in the history; acknowledged when the peer has persisted that entry,
                     too. With FRAME_FLAG_HAND, of a switchover: the primary of `epoch` has stopped, and the peer is to
                     take its place; or, from a secondary: the primary is to do so. Acknowledged with that flag, and why
                     not, if nothing comes of it */

    FRAME_SYNC_BITS, /* source to target: which granules of [offset, offset + length) may differ. Payload: one bit each,
                        from the low end of each byte; or none, with FRAME_FLAG_ALL. `length` 0: these were all */
    FRAME_SYNC_ASK,  /* target to source. `tag`: the window: 1, 2, 3, ... in each session. Payload: struct
                        sync_entry_wire, 1 ... SYNC_ENTRIES_MAX. For the view: `offset_bytes`: of the whole resync;
                        `lsn`: of what is done */
    FRAME_SYNC_DATA, /* the source's answer, with the same tag. Payload: SYNC_TABLE_BYTES: an enum sync_answer for each
                        entry; then the data of those that have some, in order */
    FRAME_SYNC_STABLE, /* target to source: the windows up to `tag` are equal (but for what the source could not read),
                          and on the target's stable storage. Source to target: on its own, too */
    FRAME_SYNC_DONE,   /* target to source: nothing that it knows of differs any more */

    FRAME_READ,      /* primary to peer: offset and length. For what the primary's own leg cannot read */
    FRAME_READ_DATA, /* its answer, with the same tag; `status`: 0 and the data, or an errno */

    FRAME_VERIFY_ASK,   /* primary to peer: the digest of offset and length */
    FRAME_VERIFY_REPLY, /* its answer, with the same tag; `status`: 0 and struct digest_wire, or an errno */
    FRAME_VERIFY_FOUND, /* from who asks: the legs differ (first at offset, length), and the sender's counts. Answered
                           with FRAME_FLAG_TAKEN: `status` 0: that is on record; or an errno: the peer is no secondary
                         */

    FRAME_RESIZE,       /* primary to peer: get your leg room for more (`offset_bytes` 0); or: the volume has
                           `offset_bytes` from now on. `tag`: the primary's name for this resize */
    FRAME_RESIZE_REPLY, /* its answer, with the same tag: `status` 0 and in `offset_bytes` what there is room for, or
                           the size, which it has persisted; or an errno */
};
#define FRAME_KIND_LAST FRAME_RESIZE_REPLY

#define FRAME_REFUSE_FOR_NOW 0 /* this connection is over; try again as after any loss */
#define FRAME_REFUSE_LASTING 1 /* only a person, or a restart, can change it */

#define FRAME_FLAG_FUA (1u << 0)
#define FRAME_FLAG_KEEP_ALLOCATED (1u << 1)
#define FRAME_FLAG_TAKEN (1u << 2) /* FRAME_DECREE, and the FRAME_ACK that answers it; FRAME_VERIFY_FOUND */
#define FRAME_FLAG_ALL (1u << 3)   /* FRAME_SYNC_BITS: every bit of the range is set */
#define FRAME_FLAG_BUSY (1u << 4)  /* FRAME_SYNC_DATA: application writes flow; ask for one window at a time */
#define FRAME_FLAG_HAND (1u << 5)  /* FRAME_DECREE, and the FRAME_ACK that refuses it: only to who knows it */

struct digest_wire {
    le64 low;
    le64 high;
};

/* A run of granules in a window, with XXH3-128 of what the target has there, keyed for this session. */
struct sync_entry_wire {
    le64 offset_bytes;
    le32 length_bytes;
    le32 flags; /* SYNC_ENTRY_ */
    struct digest_wire digest;
};
static_assert(sizeof(struct sync_entry_wire) == 32, "");
#define SYNC_ENTRY_DIGEST (1u << 0) /* the digest counts; else the data is wanted in any case */

#define SYNC_ENTRIES_MAX 127
#define SYNC_TABLE_BYTES 4096                                /* so that the data behind it is aligned for a disk */
#define SYNC_WINDOW_BYTES_MAX (512 * KIB - SYNC_TABLE_BYTES) /* of all entries; fills a buffer with its table */
enum sync_answer {
    SYNC_ANSWER_EQUAL = 0, /* only to an entry with a digest */
    SYNC_ANSWER_DATA = 1,
    SYNC_ANSWER_ZEROES = 2,
    SYNC_ANSWER_UNREADABLE = 3, /* the source's disk cannot read it: it stays as it is, and marked */
};
#define SYNC_WINDOWS_MAX 8            /* that were asked for and are not answered */
#define SYNC_UNSTABLE_WINDOWS_MAX 128 /* that were asked for and are not stable on both legs */
#define SYNC_BITS_BYTES_MAX (4 * KIB)

/* As on the wire. */
struct frame_wire {
    le32 magic;
    uint8_t kind;
    uint8_t flags;
    le16 status;        /* FRAME_ACK: a positive errno, 0 for success; FRAME_REFUSE: FRAME_REFUSE_ */
    le32 payload_bytes; /* that follow the header; 0 ... FRAME_PAYLOAD_BYTES_MAX */
    le32 header_check;  /* low half of XXH3-64 over the header with this field as 0 */
    le64 number;        /* of this frame on its connection, from 1, without gaps */
    le64 epoch;
    le64 lsn;
    le64 offset_bytes;
    le32 length_blocks; /* of BLOCK_BYTES; WRITE: payload_bytes / BLOCK_BYTES */
    le32 tag;           /* the sender's name for the change or flush; its ACK carries it back */
    le64 payload_check; /* WRITE: XXH3-64 of the payload, made at capture; other kinds: made when sent; 0 without
                           payload */
};
static_assert(sizeof(struct frame_wire) == FRAME_BYTES, "the header is 64 bytes");

/* The same, decoded and known to be well-formed. */
struct frame {
    enum frame_kind kind;
    uint8_t flags;
    uint16_t status;
    uint32_t payload_bytes;
    uint64_t number;
    uint64_t epoch;
    uint64_t lsn;
    uint64_t offset_bytes;
    uint64_t length_bytes;
    uint32_t tag;
    uint64_t payload_check;
};

void frame_encode(const struct frame *frame, struct frame_wire *wire);

/* Checks all that can be known from the header alone: magic, check, kind, payload length for that kind. Returns 0, or a
 * negative errno with `*why` set to a constant text that says which field is wrong. */
int frame_decode(const struct frame_wire *wire, struct frame *frame, const char **why);

const char *frame_kind_name(enum frame_kind kind);
