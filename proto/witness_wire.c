/* Messages between a node and the embedded witness: each behind its length. */
#include "proto/witness_wire.h"

#include <errno.h>
#include <string.h>

#include "repl/base/endian.h"

size_t witness_pack(const ProtobufCMessage *message, uint8_t *out)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    if (bytes > WITNESS_MESSAGE_BYTES_MAX)
        return 0;
    le32 prefix = to_le32((uint32_t)bytes);
    memcpy(out, &prefix, sizeof(prefix));
    protobuf_c_message_pack(message, out + WITNESS_PREFIX_BYTES);
    return bytes + WITNESS_PREFIX_BYTES;
}

int64_t witness_frame_bytes(const uint8_t *in, size_t in_bytes)
{
    le32 prefix;
    if (in_bytes < sizeof(prefix))
        return 0;
    memcpy(&prefix, in, sizeof(prefix));
    uint32_t bytes = from_le32(prefix);
    if (bytes == 0 || bytes > WITNESS_MESSAGE_BYTES_MAX)
        return -EMSGSIZE;
    return (int64_t)bytes + WITNESS_PREFIX_BYTES;
}
