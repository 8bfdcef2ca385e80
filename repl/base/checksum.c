/* XXH3-64 over a run of bytes. */
#include "repl/base/checksum.h"

/* The library's plain functions were built for the oldest x86-64. The dispatching ones look at the CPU once and take
 * AVX2 or AVX-512. 1 MiB in the cache takes a third of the time, from memory about the same; the value is the same. */
#ifdef XXH_DISPATCHES
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

uint64_t checksum64(const void *data, size_t length_bytes) { return XXH3_64bits(data, length_bytes); }
