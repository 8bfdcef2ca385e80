/* The file of kept blocks as it lies on disk. */
#include "repl/meta/kept_disk.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/base/endian.h"
#include "repl/meta/superblock_disk.h"

#define HEAD_MAGIC UINT64_C(0x5450454b534b4c2e)  /* ".LKSKEPT" as bytes */
#define CHUNK_MAGIC UINT64_C(0x4b4e4843534b4c2e) /* ".LKSCHNK" */
#define END_MAGIC UINT64_C(0x53444e45534b4c2e)   /* ".LKSENDS" */
#define KEPT_VERSION 1u
#define FLAG_EVERYTHING (1u << 0)

struct entry_disk {
    le64 epoch;
    le64 first_lsn;
    le64 tag;
};

struct head_disk {
    le64 magic;
    le64 check; /* of the block, with this field zero */
    le32 version;
    le32 flags;
    le64 made_us;
    le64 size_bytes;
    le64 epoch;
    le64 lsn;
    le64 bytes_max;
    struct id volume_id;
    struct id leg_id;
    struct entry_disk common;
    struct entry_disk first;
    char volume[NAME_BYTES_MAX];
    char node[NAME_BYTES_MAX];
    char peer[NAME_BYTES_MAX];
    uint8_t zero[KEPT_BLOCK_BYTES - 336];
};
static_assert(sizeof(struct head_disk) == KEPT_BLOCK_BYTES, "a head is one block");
static_assert(offsetof(struct head_disk, zero) == 336, "no padding");

struct extent_disk {
    le64 offset_bytes;
    le64 length_bytes;
    le32 kind;
    le32 zero;
};

struct chunk_disk {
    le64 magic;
    le64 check; /* of the head, with this field zero */
    le64 number;
    le64 data_check;
    le32 data_bytes;
    le32 count;
    uint8_t zero[40];
    struct extent_disk extents[KEPT_EXTENTS_MAX];
};
static_assert(sizeof(struct chunk_disk) == KEPT_CHUNK_HEAD_BYTES, "a chunk's head is two blocks");
static_assert(offsetof(struct chunk_disk, extents) == 80, "no padding");

struct end_disk {
    le64 magic;
    le64 check; /* of the block, with this field zero */
    le64 chunks;
    le64 extents;
    le64 data_bytes;
    le64 zero_bytes;
    le64 unreadable_bytes;
    uint8_t zero[KEPT_BLOCK_BYTES - 56];
};
static_assert(sizeof(struct end_disk) == KEPT_BLOCK_BYTES, "an end is one block");

static le64 check_of(const void *block, size_t bytes)
{
    uint8_t copy[KEPT_CHUNK_HEAD_BYTES];
    assert(bytes <= sizeof(copy));
    memcpy(copy, block, bytes);
    memset(copy + offsetof(struct head_disk, check), 0, sizeof(le64));
    return to_le64(checksum64(copy, bytes));
}
static_assert(offsetof(struct head_disk, check) == offsetof(struct chunk_disk, check) &&
                  offsetof(struct head_disk, check) == offsetof(struct end_disk, check),
              "in all of them");

static bool is_zero(const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (((const uint8_t *)bytes)[i])
            return false;
    return true;
}

static int damaged(struct err *err, const char *what)
{
    return err_set(err, -EBADMSG, "the file of kept blocks is damaged: %s", what);
}

/* ---- the head ---- */

static struct entry_disk entry_encode(struct history_entry e)
{
    return (struct entry_disk) { to_le64(e.epoch), to_le64(e.first_lsn), to_le64(e.tag) };
}

static struct history_entry entry_decode(struct entry_disk e)
{
    return (struct history_entry) { from_le64(e.epoch), from_le64(e.first_lsn), from_le64(e.tag) };
}

void kept_encode_head(const struct keep_info *info, uint64_t made_us, uint8_t block[KEPT_BLOCK_BYTES])
{
    struct head_disk d = {
        .magic = to_le64(HEAD_MAGIC),
        .version = to_le32(KEPT_VERSION),
        .flags = to_le32(info->everything ? FLAG_EVERYTHING : 0),
        .made_us = to_le64(made_us),
        .size_bytes = to_le64(info->size_bytes),
        .epoch = to_le64(info->epoch),
        .lsn = to_le64(info->lsn),
        .bytes_max = to_le64(info->bytes_max),
        .volume_id = info->volume_id,
        .leg_id = info->leg_id,
        .common = entry_encode(info->common),
        .first = entry_encode(info->first),
    };
    memcpy(d.volume, info->volume, sizeof(d.volume));
    memcpy(d.node, info->node, sizeof(d.node));
    memcpy(d.peer, info->peer, sizeof(d.peer));
    d.check = check_of(&d, sizeof(d));
    memcpy(block, &d, sizeof(d));
}

int kept_decode_head(const uint8_t block[KEPT_BLOCK_BYTES], struct keep_info *info, uint64_t *made_us, struct err *err)
{
    struct head_disk d;
    memcpy(&d, block, sizeof(d));
    if (from_le64(d.magic) != HEAD_MAGIC)
        return err_set(err, -ENOENT, "that is no file of kept blocks");
    if (from_le64(d.check) != from_le64(check_of(&d, sizeof(d))))
        return damaged(err, "its head's checksum");
    if (from_le32(d.version) != KEPT_VERSION || (from_le32(d.flags) & ~FLAG_EVERYTHING) ||
        !is_zero(d.zero, sizeof(d.zero)))
        return err_set(err, -ENOTSUP,
                       "a file of kept blocks of format %u, where this program knows format %u: use the program that "
                       "wrote it",
                       from_le32(d.version), KEPT_VERSION);
    if (!name_is_printable(d.volume) || !name_is_printable(d.node) || !name_is_printable(d.peer))
        return damaged(err, "a name");
    if (from_le64(d.size_bytes) == 0 || from_le64(d.size_bytes) > VOLUME_BYTES_MAX)
        return damaged(err, "the volume's size");
    *info = (struct keep_info) {
        .volume_id = d.volume_id,
        .leg_id = d.leg_id,
        .size_bytes = from_le64(d.size_bytes),
        .epoch = from_le64(d.epoch),
        .lsn = from_le64(d.lsn),
        .common = entry_decode(d.common),
        .first = entry_decode(d.first),
        .everything = from_le32(d.flags) & FLAG_EVERYTHING,
        .bytes_max = from_le64(d.bytes_max),
    };
    memcpy(info->volume, d.volume, sizeof(info->volume));
    memcpy(info->node, d.node, sizeof(info->node));
    memcpy(info->peer, d.peer, sizeof(info->peer));
    *made_us = from_le64(d.made_us);
    return 0;
}

/* ---- chunks ---- */

void kept_encode_chunk(const struct kept_chunk *c, uint8_t head[KEPT_CHUNK_HEAD_BYTES])
{
    assert(c->count > 0 && c->count <= KEPT_EXTENTS_MAX && c->data_bytes <= KEPT_CHUNK_DATA_BYTES_MAX);
    struct chunk_disk d = {
        .magic = to_le64(CHUNK_MAGIC),
        .number = to_le64(c->number),
        .data_check = to_le64(c->data_check),
        .data_bytes = to_le32(c->data_bytes),
        .count = to_le32(c->count),
    };
    for (uint32_t i = 0; i < c->count; i++)
        d.extents[i] = (struct extent_disk) { to_le64(c->extents[i].range.offset_bytes),
                                              to_le64(c->extents[i].range.length_bytes),
                                              to_le32((uint32_t)c->extents[i].kind),
                                              { 0 } };
    d.check = check_of(&d, sizeof(d));
    memcpy(head, &d, sizeof(d));
}

static bool take_extent(const struct extent_disk *d, uint64_t size_bytes, uint64_t *from_bytes, struct kept_extent *out)
{
    *out = (struct kept_extent) { { from_le64(d->offset_bytes), from_le64(d->length_bytes) },
                                  (enum keep_kind)from_le32(d->kind) };
    if (from_le32(d->kind) > KEEP_KIND_UNREADABLE || from_le32(d->zero) || out->range.length_bytes == 0 ||
        out->range.offset_bytes < *from_bytes || !range_fits(out->range, size_bytes))
        return false;
    *from_bytes = range_end(out->range);
    return true;
}

void kept_count(struct kept_sums *sums, const struct kept_chunk *c)
{
    sums->chunks++;
    sums->extents += c->count;
    for (uint32_t i = 0; i < c->count; i++) {
        uint64_t bytes = c->extents[i].range.length_bytes;
        switch (c->extents[i].kind) {
        case KEEP_KIND_DATA: sums->data_bytes += bytes; break;
        case KEEP_KIND_ZEROES: sums->zero_bytes += bytes; break;
        case KEEP_KIND_UNREADABLE: sums->unreadable_bytes += bytes; break;
        }
    }
}

int kept_decode_chunk(const uint8_t head[KEPT_CHUNK_HEAD_BYTES], uint64_t size_bytes, struct kept_sums *sums,
                      uint64_t *from_bytes, struct kept_chunk *c, struct err *err)
{
    struct chunk_disk d;
    memcpy(&d, head, sizeof(d));
    if (from_le64(d.magic) != CHUNK_MAGIC || from_le64(d.check) != from_le64(check_of(&d, sizeof(d))))
        return damaged(err, "a chunk's checksum");
    c->number = from_le64(d.number);
    c->count = from_le32(d.count);
    c->data_bytes = from_le32(d.data_bytes);
    c->data_check = from_le64(d.data_check);
    if (c->number != sums->chunks)
        return damaged(err, "a chunk is missing");
    if (c->count == 0 || c->count > KEPT_EXTENTS_MAX || c->data_bytes > KEPT_CHUNK_DATA_BYTES_MAX ||
        !is_zero(d.zero, sizeof(d.zero)) ||
        !is_zero(&d.extents[c->count], (KEPT_EXTENTS_MAX - c->count) * sizeof(d.extents[0])))
        return damaged(err, "an impossible chunk");
    uint64_t data_bytes = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        if (!take_extent(&d.extents[i], size_bytes, from_bytes, &c->extents[i]))
            return damaged(err, "an impossible extent");
        data_bytes += c->extents[i].kind == KEEP_KIND_DATA ? c->extents[i].range.length_bytes : 0;
    }
    if (data_bytes != c->data_bytes)
        return damaged(err, "a chunk with other data than its extents have");
    kept_count(sums, c);
    return 0;
}

/* ---- the end ---- */

void kept_encode_end(const struct kept_sums *sums, uint8_t block[KEPT_BLOCK_BYTES])
{
    struct end_disk d = {
        .magic = to_le64(END_MAGIC),
        .chunks = to_le64(sums->chunks),
        .extents = to_le64(sums->extents),
        .data_bytes = to_le64(sums->data_bytes),
        .zero_bytes = to_le64(sums->zero_bytes),
        .unreadable_bytes = to_le64(sums->unreadable_bytes),
    };
    d.check = check_of(&d, sizeof(d));
    memcpy(block, &d, sizeof(d));
}

bool kept_is_head(const uint8_t first[8])
{
    le64 magic;
    memcpy(&magic, first, sizeof(magic));
    return from_le64(magic) == HEAD_MAGIC;
}

bool kept_is_end(const uint8_t block[KEPT_BLOCK_BYTES])
{
    le64 magic;
    memcpy(&magic, block, sizeof(magic));
    return from_le64(magic) == END_MAGIC;
}

int kept_decode_end(const uint8_t block[KEPT_BLOCK_BYTES], const struct kept_sums *sums, struct err *err)
{
    struct end_disk d;
    memcpy(&d, block, sizeof(d));
    if (!kept_is_end(block) || from_le64(d.check) != from_le64(check_of(&d, sizeof(d))) ||
        !is_zero(d.zero, sizeof(d.zero)))
        return damaged(err, "its end's checksum");
    if (from_le64(d.chunks) != sums->chunks || from_le64(d.extents) != sums->extents ||
        from_le64(d.data_bytes) != sums->data_bytes || from_le64(d.zero_bytes) != sums->zero_bytes ||
        from_le64(d.unreadable_bytes) != sums->unreadable_bytes)
        return damaged(err, "its end tells of more or less than there is");
    return 0;
}
