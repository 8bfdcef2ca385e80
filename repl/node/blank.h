/* Whether a backing holds anything, as far as is worth a look before it is taken for a new disk. */
#pragma once

#include <stdint.h>

#include "repl/base/err.h"
#include "repl/base/units.h"

/* Of what is no hole; a used disk shows itself long before. */
#define BLANK_LOOK_BYTES (64 * MIB)

/* `fd`: open for reading, O_DIRECT or not, `size_bytes` long. 0: only holes and zeroes in its first BLANK_LOOK_BYTES
 * that are no holes. -EEXIST with `err` set: something is there. Other negative errnos: it cannot be read. */
int blank_look(const char *path, int fd, uint64_t size_bytes, struct err *err);
