/* XXH3-64 over a run of bytes. */
#include "repl/base/checksum.h"

#include <xxhash.h>

uint64_t checksum64(const void *data, size_t length_bytes) { return XXH3_64bits(data, length_bytes); }
