/* The least that a mirrored write can cost on a connection: a request one way, a short reply back, one system call a
 * turn. Both functions block, and take a connected TCP socket that stays the caller's. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "repl/base/err.h"
#include "repl/base/units.h"

#define PINGPONG_BYTES_MAX (32 * MIB) /* of a request, and of a reply */

struct pingpong_shape {
    uint32_t request_bytes; /* 1 .. PINGPONG_BYTES_MAX */
    uint32_t reply_bytes;   /* 1 .. PINGPONG_BYTES_MAX */
};

/* Answers requests until the client closes the connection. The client says the shape first. Returns 0, or a negative
 * errno. */
int pingpong_serve(int fd, struct err *err);

/* Fills samples_ns[count] with the round trip of each turn, in order: a caller leaves out the first, cold ones. */
int pingpong_measure(int fd, struct pingpong_shape shape, uint64_t *samples_ns, size_t count, struct err *err);

/* What the ring of the last call in this process could use, for a report. */
const char *pingpong_ring_kind(void);
