/* Messages on the control socket: each behind its length. */
#include "proto/control_wire.h"

#include <errno.h>
#include <string.h>

#include "repl/base/endian.h"

size_t control_pack(const ProtobufCMessage *message, uint8_t *out, size_t out_bytes)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    if (bytes > CONTROL_MESSAGE_BYTES_MAX || bytes + CONTROL_PREFIX_BYTES > out_bytes)
        return 0;
    le32 prefix = to_le32((uint32_t)bytes);
    memcpy(out, &prefix, sizeof(prefix));
    protobuf_c_message_pack(message, out + CONTROL_PREFIX_BYTES);
    return bytes + CONTROL_PREFIX_BYTES;
}

int64_t control_frame_bytes(const uint8_t *in, size_t in_bytes)
{
    le32 prefix;
    if (in_bytes < sizeof(prefix))
        return 0;
    memcpy(&prefix, in, sizeof(prefix));
    uint32_t bytes = from_le32(prefix);
    if (bytes == 0 || bytes > CONTROL_MESSAGE_BYTES_MAX)
        return -EMSGSIZE;
    return (int64_t)bytes + CONTROL_PREFIX_BYTES;
}
