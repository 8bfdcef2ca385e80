/* The checksum that goes with a payload from capture to the peer's disk, and over every structure on disk:
 * XXH3-64 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md). It finds accidents, not attackers. */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint64_t checksum64(const void *data, size_t length_bytes);
