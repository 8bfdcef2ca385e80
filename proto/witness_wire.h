/* Messages between a node and the embedded witness: each behind its length, a little-endian 32-bit number. Used by both
 * ends. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "proto/prefixed.h"
#include "proto/witness.pb-c.h"

#define WITNESS_VERSION 1
#define WITNESS_PREFIX_BYTES PREFIX_BYTES
#define WITNESS_MESSAGE_BYTES_MAX 2048 /* without the prefix; the longest that makes sense is half of it */
#define WITNESS_FRAME_BYTES_MAX (WITNESS_PREFIX_BYTES + WITNESS_MESSAGE_BYTES_MAX)

/* Writes prefix and message to `out`, which has room for WITNESS_FRAME_BYTES_MAX. Returns how many bytes that is, or 0:
 * it does not fit. */
size_t witness_pack(const ProtobufCMessage *message, uint8_t *out);

/* How long the message at the beginning of `in` is, prefix included: 0 while too little is there to tell, -EMSGSIZE
 * when it is empty or longer than allowed. It is all there once `in_bytes` reaches the result. */
int64_t witness_frame_bytes(const uint8_t *in, size_t in_bytes);
