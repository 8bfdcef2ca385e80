/* A message of protobuf's behind its length, a little-endian 32-bit number: how the control socket and the witness
 * frame theirs. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#define PREFIX_BYTES 4

/* Writes prefix and message to `out`, which has room for `out_bytes`. `bytes_max`: of the message alone. Returns how
 * many bytes that is, or 0: it does not fit. */
size_t prefixed_pack(const ProtobufCMessage *message, uint8_t *out, size_t out_bytes, size_t bytes_max);

/* How long the message at the start of `in` is, with its prefix: 0 if the prefix is not there yet, -EMSGSIZE for a
 * length that cannot be. */
int64_t prefixed_bytes(const uint8_t *in, size_t in_bytes, size_t bytes_max);
