/* A message of protobuf's behind its length. */
#include "proto/prefixed.h"

#include <errno.h>
#include <string.h>

#include "repl/base/endian.h"

size_t prefixed_pack(const ProtobufCMessage *message, uint8_t *out, size_t out_bytes, size_t bytes_max)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    if (bytes > bytes_max || bytes + PREFIX_BYTES > out_bytes)
        return 0;
    le32 prefix = to_le32((uint32_t)bytes);
    memcpy(out, &prefix, sizeof(prefix));
    protobuf_c_message_pack(message, out + PREFIX_BYTES);
    return bytes + PREFIX_BYTES;
}

int64_t prefixed_bytes(const uint8_t *in, size_t in_bytes, size_t bytes_max)
{
    le32 prefix;
    if (in_bytes < sizeof(prefix))
        return 0;
    memcpy(&prefix, in, sizeof(prefix));
    uint32_t bytes = from_le32(prefix);
    if (bytes == 0 || bytes > bytes_max)
        return -EMSGSIZE;
    return (int64_t)bytes + PREFIX_BYTES;
}
