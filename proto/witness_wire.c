/* Messages between a node and the embedded witness: each behind its length. */
#include "proto/witness_wire.h"

size_t witness_pack(const ProtobufCMessage *message, uint8_t *out)
{
    return prefixed_pack(message, out, WITNESS_FRAME_BYTES_MAX, WITNESS_MESSAGE_BYTES_MAX);
}

int64_t witness_frame_bytes(const uint8_t *in, size_t in_bytes)
{
    return prefixed_bytes(in, in_bytes, WITNESS_MESSAGE_BYTES_MAX);
}
