/* Encoding and decoding the recording filter's log. */
#include "blockdev/disk/record_format.h"

#include <errno.h>
#include <stdbool.h>

#include "repl/base/checksum.h"
#include "repl/base/range.h"
#include "repl/core/op.h"

void record_file_header_encode(uint64_t size_bytes, uint32_t logical_block_bytes, struct record_file_header *out)
{
    *out = (struct record_file_header) {
        .magic = to_le64(RECORD_MAGIC),
        .version = to_le32(RECORD_VERSION),
        .logical_block_bytes = to_le32(logical_block_bytes),
        .size_bytes = to_le64(size_bytes),
    };
    out->check = to_le64(checksum64(out, sizeof(*out)));
}

int record_file_header_decode(const struct record_file_header *h, uint64_t *size_bytes, struct err *err)
{
    struct record_file_header copy = *h;
    copy.check = to_le64(0);
    if (from_le64(h->magic) != RECORD_MAGIC)
        return err_set(err, -EBADMSG, "is no log of a recorded disk");
    if (from_le32(h->version) != RECORD_VERSION)
        return err_set(err, -EBADMSG, "is a log of version %u, where %u is known", from_le32(h->version),
                       RECORD_VERSION);
    if (from_le64(h->check) != checksum64(&copy, sizeof(copy)))
        return err_set(err, -EBADMSG, "the file header is damaged");
    *size_bytes = from_le64(h->size_bytes);
    return 0;
}

static uint32_t event_check(const struct record_event_header *h)
{
    struct record_event_header copy = *h;
    copy.check = to_le32(0);
    return (uint32_t)checksum64(&copy, sizeof(copy));
}

void record_event_encode(const struct record_event *e, struct record_event_header *out)
{
    *out = (struct record_event_header) {
        .magic = to_le32(RECORD_EVENT_MAGIC),
        .event = (uint8_t)e->event,
        .op = e->op,
        .flags = to_le32(e->flags),
        .result = to_le32((uint32_t)e->result),
        .number = to_le64(e->number),
        .request = to_le64(e->request),
        .time_ns = to_le64(e->time_ns),
        .offset_bytes = to_le64(e->offset_bytes),
        .length_bytes = to_le64(e->length_bytes),
        .payload_bytes = to_le32(e->payload_bytes),
    };
    out->check = to_le32(event_check(out));
}

static bool is_possible(const struct record_event *e, uint64_t size_bytes)
{
    bool is_request = e->event == RECORD_SUBMIT || e->event == RECORD_COMPLETE;
    bool has_payload = e->event == RECORD_SUBMIT && e->op == OP_WRITE;
    if (e->payload_bytes != (has_payload ? e->length_bytes : 0))
        return false;
    if (!is_request)
        return e->event == RECORD_OPEN || e->event == RECORD_CLOSE;
    if (e->op == OP_READ || e->op > OP_FLUSH)
        return false;
    if (e->op == OP_FLUSH)
        return e->length_bytes == 0;
    return e->length_bytes > 0 && range_fits((struct range) { e->offset_bytes, e->length_bytes }, size_bytes);
}

int record_event_decode(const struct record_event_header *h, uint64_t number, uint64_t size_bytes,
                        struct record_event *out, struct err *err)
{
    if (from_le32(h->magic) != RECORD_EVENT_MAGIC || from_le32(h->check) != event_check(h))
        return err_set(err, -EBADMSG, "event %llu is damaged", (unsigned long long)number);
    *out = (struct record_event) {
        .event = (enum record_event_kind)h->event,
        .op = h->op,
        .flags = from_le32(h->flags),
        .result = (int32_t)from_le32(h->result),
        .number = from_le64(h->number),
        .request = from_le64(h->request),
        .time_ns = from_le64(h->time_ns),
        .offset_bytes = from_le64(h->offset_bytes),
        .length_bytes = from_le64(h->length_bytes),
        .payload_bytes = from_le32(h->payload_bytes),
    };
    if (out->number != number || !is_possible(out, size_bytes))
        return err_set(err, -EBADMSG, "event %llu cannot be", (unsigned long long)number);
    return 0;
}
