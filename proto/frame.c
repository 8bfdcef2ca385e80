/* The data-plane header, to and from its 64 bytes. */
#include "proto/frame.h"

#include <errno.h>

#include "repl/base/checksum.h"

static uint32_t header_check(const struct frame_wire *wire)
{
    struct frame_wire copy = *wire;
    copy.header_check = to_le32(0);
    return (uint32_t)checksum64(&copy, sizeof(copy));
}

void frame_encode(const struct frame *frame, struct frame_wire *wire)
{
    assert(frame->payload_bytes <= FRAME_PAYLOAD_BYTES_MAX);
    assert(frame->length_bytes % BLOCK_BYTES == 0);
    *wire = (struct frame_wire) {
        .magic = to_le32(FRAME_MAGIC),
        .kind = (uint8_t)frame->kind,
        .flags = frame->flags,
        .status = to_le16(frame->status),
        .payload_bytes = to_le32(frame->payload_bytes),
        .number = to_le64(frame->number),
        .epoch = to_le64(frame->epoch),
        .lsn = to_le64(frame->lsn),
        .offset_bytes = to_le64(frame->offset_bytes),
        .length_blocks = to_le32((uint32_t)(frame->length_bytes / BLOCK_BYTES)),
        .tag = to_le32(frame->tag),
        .payload_check = to_le64(frame->payload_check),
    };
    wire->header_check = to_le32(header_check(wire));
}

static int wrong(const char **why, const char *text)
{
    *why = text;
    return -EPROTO;
}

static uint8_t flags_of(enum frame_kind kind)
{
    switch (kind) {
    case FRAME_WRITE:
    case FRAME_DISCARD: return FRAME_FLAG_FUA;
    case FRAME_WRITE_ZEROES: return FRAME_FLAG_FUA | FRAME_FLAG_KEEP_ALLOCATED;
    case FRAME_HELLO:
    case FRAME_READY:
    case FRAME_REFUSE:
    case FRAME_HEARTBEAT:
    case FRAME_FLUSH:
    case FRAME_ACK:
    case FRAME_DECREE: return 0;
    }
    return 0;
}

int frame_decode(const struct frame_wire *wire, struct frame *frame, const char **why)
{
    if (from_le32(wire->magic) != FRAME_MAGIC)
        return wrong(why, "not a Lockstep frame (magic)");
    if (from_le32(wire->header_check) != header_check(wire))
        return wrong(why, "damaged frame header (header_check)");
    *frame = (struct frame) {
        .kind = (enum frame_kind)wire->kind,
        .flags = wire->flags,
        .status = from_le16(wire->status),
        .payload_bytes = from_le32(wire->payload_bytes),
        .number = from_le64(wire->number),
        .epoch = from_le64(wire->epoch),
        .lsn = from_le64(wire->lsn),
        .offset_bytes = from_le64(wire->offset_bytes),
        .length_bytes = (uint64_t)from_le32(wire->length_blocks) * BLOCK_BYTES,
        .tag = from_le32(wire->tag),
        .payload_check = from_le64(wire->payload_check),
    };
    if (frame->payload_bytes > FRAME_PAYLOAD_BYTES_MAX)
        return wrong(why, "payload longer than a frame may carry (payload_bytes)");
    if (frame->kind < FRAME_HELLO || frame->kind > FRAME_DECREE)
        return wrong(why, "unknown frame (kind)");
    if (frame->flags & ~flags_of(frame->kind))
        return wrong(why, "flag that a frame of this kind cannot have (flags)");
    if (frame->epoch > FRAME_EPOCH_MAX)
        return wrong(why, "impossible epoch (epoch)");
    if (frame->number == 0)
        return wrong(why, "frame without a number (number)");
    switch (frame->kind) {
    case FRAME_HELLO:
        if (frame->payload_bytes == 0 || frame->payload_bytes > FRAME_HELLO_BYTES_MAX)
            return wrong(why, "hello without a payload, or too long (payload_bytes)");
        return 0;
    case FRAME_REFUSE:
        if (frame->payload_bytes > FRAME_REFUSE_BYTES_MAX)
            return wrong(why, "refusal with too long a reason (payload_bytes)");
        return 0;
    case FRAME_WRITE:
        if (frame->payload_bytes == 0 || frame->payload_bytes != frame->length_bytes)
            return wrong(why, "write whose payload is not its length (length_blocks)");
        if (frame->offset_bytes % BLOCK_BYTES)
            return wrong(why, "write that is not aligned (offset_bytes)");
        return 0;
    case FRAME_DISCARD:
    case FRAME_WRITE_ZEROES:
        if (frame->payload_bytes)
            break;
        if (frame->length_bytes == 0 || frame->offset_bytes % BLOCK_BYTES)
            return wrong(why, "discard or zeroes of no length, or not aligned (offset_bytes, length_blocks)");
        return 0;
    case FRAME_READY:
    case FRAME_HEARTBEAT:
    case FRAME_FLUSH:
    case FRAME_ACK:
    case FRAME_DECREE:
        if (frame->payload_bytes)
            break;
        return 0;
    }
    return wrong(why, "frame of a kind that carries no payload has one (payload_bytes)");
}

const char *frame_kind_name(enum frame_kind kind)
{
    switch (kind) {
    case FRAME_HELLO: return "hello";
    case FRAME_READY: return "ready";
    case FRAME_REFUSE: return "refuse";
    case FRAME_HEARTBEAT: return "heartbeat";
    case FRAME_WRITE: return "write";
    case FRAME_DISCARD: return "discard";
    case FRAME_WRITE_ZEROES: return "write-zeroes";
    case FRAME_FLUSH: return "flush";
    case FRAME_ACK: return "ack";
    case FRAME_DECREE: return "decree";
    }
    return "?";
}
