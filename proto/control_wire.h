/* Messages on the control socket: each behind its length, a little-endian 32-bit number. Used by both ends. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "proto/control.pb-c.h"
#include "proto/prefixed.h"

#define CONTROL_VERSION 1
#define CONTROL_PREFIX_BYTES PREFIX_BYTES
#define CONTROL_MESSAGE_BYTES_MAX (64 * 1024) /* without the prefix */

/* The exit codes of `lockstep`, which the daemon decides. */
enum control_exit {
    CONTROL_DONE = 0,
    CONTROL_FAILED = 1,
    CONTROL_USED_WRONGLY = 2,
    CONTROL_REFUSED = 3, /* it would risk data */
    CONTROL_UNREACHABLE = 4,
    CONTROL_TIMED_OUT = 5,
};

/* Writes prefix and message to `out`. Returns how many bytes that is, or 0: it does not fit. */
size_t control_pack(const ProtobufCMessage *message, uint8_t *out, size_t out_bytes);

/* How long the message at the beginning of `in` is, prefix included: 0 while too little is there to tell, -EMSGSIZE
 * when it is empty or longer than allowed. It is all there once `in_bytes` reaches the result. */
int64_t control_frame_bytes(const uint8_t *in, size_t in_bytes);
