/* What can be asked of a volume, whoever asks: an application through the front, the peer through the link, or a disk's
 * caller. */
#pragma once

#include <stdint.h>

#include "repl/base/block.h"
#include "repl/base/units.h"

enum op_kind {
    OP_READ,
    OP_WRITE,
    OP_DISCARD, /* the range reads as zeroes afterwards, on both legs alike; its storage is given back where possible */
    OP_WRITE_ZEROES, /* the range reads as zeroes afterwards; its storage is kept if OP_FLAG_KEEP_ALLOCATED */
    OP_FLUSH,        /* everything completed before is on stable storage afterwards */
};

#define OP_FLAG_FUA (1u << 0)            /* this change is on stable storage when it completes */
#define OP_FLAG_KEEP_ALLOCATED (1u << 1) /* OP_WRITE_ZEROES: do not punch a hole (NBD_CMD_FLAG_NO_HOLE) */
#define OP_FLAG_FAST_ONLY (1u << 2)      /* OP_WRITE_ZEROES: fail with -EOPNOTSUPP rather than write zeroes out */

/* The longest read or write in one piece; the front cuts longer requests up. Discards and zeroes have no payload and
 * are limited by OP_RANGE_BYTES_MAX only. */
#define IO_BYTES_MAX (1 * MIB)
#define OP_RANGE_BYTES_MAX (128 * MIB)

static inline const char *op_name(enum op_kind kind)
{
    switch (kind) {
    case OP_READ: return "read";
    case OP_WRITE: return "write";
    case OP_DISCARD: return "discard";
    case OP_WRITE_ZEROES: return "write-zeroes";
    case OP_FLUSH: return "flush";
    }
    return "?";
}
