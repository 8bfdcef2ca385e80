/* Integers with a byte order. Wire and disk structures are made of these, so that forgetting a conversion does not
 * compile. */
#pragma once

#include <endian.h>
#include <stdint.h>

typedef struct {
    uint16_t le;
} le16;
typedef struct {
    uint32_t le;
} le32;
typedef struct {
    uint64_t le;
} le64;
typedef struct {
    uint16_t be;
} be16;
typedef struct {
    uint32_t be;
} be32;
typedef struct {
    uint64_t be;
} be64;

static inline le16 to_le16(uint16_t v) { return (le16) { htole16(v) }; }
static inline le32 to_le32(uint32_t v) { return (le32) { htole32(v) }; }
static inline le64 to_le64(uint64_t v) { return (le64) { htole64(v) }; }
static inline uint16_t from_le16(le16 v) { return le16toh(v.le); }
static inline uint32_t from_le32(le32 v) { return le32toh(v.le); }
static inline uint64_t from_le64(le64 v) { return le64toh(v.le); }

static inline be16 to_be16(uint16_t v) { return (be16) { htobe16(v) }; }
static inline be32 to_be32(uint32_t v) { return (be32) { htobe32(v) }; }
static inline be64 to_be64(uint64_t v) { return (be64) { htobe64(v) }; }
static inline uint16_t from_be16(be16 v) { return be16toh(v.be); }
static inline uint32_t from_be32(be32 v) { return be32toh(v.be); }
static inline uint64_t from_be64(be64 v) { return be64toh(v.be); }
