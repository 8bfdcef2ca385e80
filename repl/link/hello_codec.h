/* A node's hello, to and from the payload of FRAME_HELLO (proto/handshake.proto). */
#pragma once

#include <stddef.h>

#include "proto/frame.h"
#include "repl/core/hello.h"

/* Writes at most FRAME_HELLO_BYTES_MAX bytes to `out`, which has room for so many; returns how many. */
size_t hello_encode(const struct hello *hello, uint8_t *out);

/* Checks every field: names are 1 to NAME_BYTES_MAX - 1 bytes without control characters, ids have 16 bytes or none,
 * enumerations are known, sizes are multiples of BLOCK_BYTES. A hello of another protocol version only needs its
 * version and names: the rest is left zero, and it is for the engine to refuse it. Allocates and frees again.
 * Returns 0, or -EPROTO with `*why` set to a constant text that names the field. */
int hello_decode(const uint8_t *data, size_t bytes, struct hello *hello, const char **why);
