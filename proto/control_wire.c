/* Messages on the control socket: each behind its length. */
#include "proto/control_wire.h"

size_t control_pack(const ProtobufCMessage *message, uint8_t *out, size_t out_bytes)
{
    return prefixed_pack(message, out, out_bytes, CONTROL_MESSAGE_BYTES_MAX);
}

int64_t control_frame_bytes(const uint8_t *in, size_t in_bytes)
{
    return prefixed_bytes(in, in_bytes, CONTROL_MESSAGE_BYTES_MAX);
}
