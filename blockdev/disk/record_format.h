/* The log of the recording filter, byte by byte: what reached a disk, in which order. docs/TESTING.md tells its use.
 *
 * A file header, then events, each a header of 64 bytes with the payload right behind it. Integers are little-endian.
 * Events stand in the order in which they happened, and are numbered so, from 1 on. A request has two: RECORD_SUBMIT
 * is in the log before the disk below gets the request, RECORD_COMPLETE before whoever is above hears of its end. So a
 * log cut off anywhere between two events is a state that the disk was in, as far as anybody can tell. A log that a
 * killed daemon leaves may end within an event, which then had not happened yet. */
#pragma once

#include "repl/base/endian.h"
#include "repl/base/err.h"

#define RECORD_MAGIC UINT64_C(0x474f4c4345524b4c) /* "LKRECLOG" */
#define RECORD_EVENT_MAGIC UINT32_C(0x54564552)   /* "REVT" */
#define RECORD_VERSION 1

struct record_file_header {
    le64 magic;
    le32 version;
    le32 logical_block_bytes;
    le64 size_bytes; /* of the disk */
    le64 reserved[4];
    le64 check; /* XXH3-64 of the header with this field as zero */
};
_Static_assert(sizeof(struct record_file_header) == 64, "the file header is 64 bytes");

enum record_event_kind {
    RECORD_OPEN = 1, /* the filter was put on the disk: nothing is in flight any more */
    RECORD_SUBMIT = 2,
    RECORD_COMPLETE = 3,
    RECORD_CLOSE = 4,
};

struct record_event_header {
    le32 magic;
    uint8_t event; /* enum record_event_kind */
    uint8_t op;    /* enum op_kind; never OP_READ. RECORD_OPEN, RECORD_CLOSE: 0 */
    le16 reserved;
    le32 flags;   /* OP_FLAG_ */
    le32 result;  /* RECORD_COMPLETE: 0 or a negative errno, in two's complement */
    le64 number;  /* of this event */
    le64 request; /* number of the RECORD_SUBMIT that it belongs to */
    le64 time_ns; /* CLOCK_MONOTONIC: logs of one machine can be told against each other */
    le64 offset_bytes;
    le64 length_bytes;  /* OP_FLUSH: 0 */
    le32 payload_bytes; /* length_bytes for RECORD_SUBMIT of OP_WRITE; else 0 */
    le32 check;         /* the low half of XXH3-64 of the header with this field as zero */
};
_Static_assert(sizeof(struct record_event_header) == 64, "an event header is 64 bytes");

/* The same as plain values. */
struct record_event {
    enum record_event_kind event;
    uint8_t op;
    uint32_t flags;
    int32_t result;
    uint64_t number;
    uint64_t request;
    uint64_t time_ns;
    uint64_t offset_bytes;
    uint64_t length_bytes;
    uint32_t payload_bytes;
};

void record_file_header_encode(uint64_t size_bytes, uint32_t logical_block_bytes, struct record_file_header *out);

/* 0, or -EBADMSG: not a log, of another version, or damaged. */
int record_file_header_decode(const struct record_file_header *h, uint64_t *size_bytes, struct err *err);

void record_event_encode(const struct record_event *e, struct record_event_header *out);

/* `number`: the one that is due. `size_bytes`: of the disk; what lies beyond it is refused. 0, or -EBADMSG. */
int record_event_decode(const struct record_event_header *h, uint64_t number, uint64_t size_bytes,
                        struct record_event *out, struct err *err);
