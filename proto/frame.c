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
    case FRAME_SYNC_ASK:
    case FRAME_SYNC_STABLE:
    case FRAME_SYNC_DONE:
    case FRAME_READ:
    case FRAME_READ_DATA:
    case FRAME_VERIFY_ASK:
    case FRAME_VERIFY_REPLY:
    case FRAME_RESIZE:
    case FRAME_RESIZE_REPLY: return 0;
    case FRAME_VERIFY_FOUND: return FRAME_FLAG_TAKEN;
    case FRAME_ACK:
    case FRAME_DECREE: return FRAME_FLAG_TAKEN | FRAME_FLAG_HAND;
    case FRAME_SYNC_BITS: return FRAME_FLAG_ALL;
    case FRAME_SYNC_DATA: return FRAME_FLAG_BUSY;
    }
    return 0;
}

/* Payloads of many records of one size. */
static bool is_records(const struct frame *frame, uint32_t record_bytes, uint32_t count_max)
{
    return frame->payload_bytes > 0 && frame->payload_bytes % record_bytes == 0 &&
           frame->payload_bytes / record_bytes <= count_max;
}

/* Those who ask for one read: aligned, and no longer than an answer can be. */
static bool is_readable(const struct frame *frame)
{
    return frame->length_bytes > 0 && frame->length_bytes <= FRAME_PAYLOAD_BYTES_MAX &&
           frame->offset_bytes % BLOCK_BYTES == 0;
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
    if (frame->kind < FRAME_HELLO || frame->kind > FRAME_KIND_LAST)
        return wrong(why, "unknown frame (kind)");
    if (frame->flags & ~flags_of(frame->kind))
        return wrong(why, "flag that a frame of this kind cannot have (flags)");
    if (frame->epoch > FRAME_EPOCH_MAX)
        return wrong(why, "impossible epoch (epoch)");
    /* In frames that have a clock or a count in it, too: none of them comes near. */
    if (frame->lsn > FRAME_LSN_MAX)
        return wrong(why, "impossible LSN (lsn)");
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
    case FRAME_SYNC_STABLE:
    case FRAME_SYNC_DONE:
    case FRAME_VERIFY_FOUND:
        if (frame->payload_bytes)
            break;
        return 0;
    case FRAME_DECREE:
        if (frame->payload_bytes)
            break;
        if ((frame->flags & FRAME_FLAG_TAKEN) && frame->offset_bytes == 0)
            return wrong(why, "decree that was taken and has no tag (offset_bytes)");
        if ((frame->flags & FRAME_FLAG_TAKEN) && (frame->flags & FRAME_FLAG_HAND))
            return wrong(why, "decree that was taken, and is handed over (flags)");
        return 0;
    case FRAME_SYNC_BITS:
        if (frame->offset_bytes % BLOCK_BYTES || frame->payload_bytes > SYNC_BITS_BYTES_MAX)
            return wrong(why, "bits that are not aligned, or too many (offset_bytes, payload_bytes)");
        if ((frame->length_bytes == 0 || (frame->flags & FRAME_FLAG_ALL)) != (frame->payload_bytes == 0))
            return wrong(why, "bits without a payload, or a payload without bits (payload_bytes)");
        return 0;
    case FRAME_SYNC_ASK:
        if (!is_records(frame, sizeof(struct sync_entry_wire), SYNC_ENTRIES_MAX))
            return wrong(why, "window of no entries, too many, or a part of one (payload_bytes)");
        return 0;
    case FRAME_SYNC_DATA:
        if (frame->payload_bytes < SYNC_TABLE_BYTES || frame->payload_bytes > SYNC_TABLE_BYTES + SYNC_WINDOW_BYTES_MAX)
            return wrong(why, "answer without its table, or too long (payload_bytes)");
        return 0;
    case FRAME_READ:
    case FRAME_VERIFY_ASK:
        if (frame->payload_bytes)
            break;
        if (!is_readable(frame))
            return wrong(why, "read of no length, too long, or not aligned (offset_bytes, length_blocks)");
        return 0;
    case FRAME_READ_DATA:
        if (frame->payload_bytes % BLOCK_BYTES || (frame->status == 0) != (frame->payload_bytes > 0))
            return wrong(why, "read answered with no data, or a failed one with some (payload_bytes, status)");
        return 0;
    case FRAME_RESIZE:
    case FRAME_RESIZE_REPLY:
        if (frame->payload_bytes)
            break;
        if (frame->offset_bytes % BLOCK_BYTES)
            return wrong(why, "size that is not whole blocks (offset_bytes)");
        return 0;
    case FRAME_VERIFY_REPLY:
        if (frame->payload_bytes != (frame->status == 0 ? sizeof(struct digest_wire) : 0))
            return wrong(why, "digest of the wrong length (payload_bytes)");
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
    case FRAME_SYNC_BITS: return "sync-bits";
    case FRAME_SYNC_ASK: return "sync-ask";
    case FRAME_SYNC_DATA: return "sync-data";
    case FRAME_SYNC_STABLE: return "sync-stable";
    case FRAME_SYNC_DONE: return "sync-done";
    case FRAME_READ: return "read";
    case FRAME_READ_DATA: return "read-data";
    case FRAME_VERIFY_ASK: return "verify-ask";
    case FRAME_VERIFY_REPLY: return "verify-reply";
    case FRAME_VERIFY_FOUND: return "verify-found";
    case FRAME_RESIZE: return "resize";
    case FRAME_RESIZE_REPLY: return "resize-reply";
    }
    return "?";
}
