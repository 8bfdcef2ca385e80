/* A block of the activity log, to and from its bytes on disk. */
#include "repl/meta/al_block.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/base/endian.h"
#include "repl/base/units.h"

#define AL_VERSION 1

struct al_block_disk {
    le64 magic;
    le64 check; /* XXH3-64 over the block with this field as 0 */
    le32 version;
    le32 extent_bytes;
    le64 sequence;
    struct id owner;
    le32 slots;
    le16 context_slots;
    le16 update_count;
    uint8_t zero[8];
    struct {
        le32 slot;
        le32 extent;
    } updates[AL_UPDATES_MAX];
    le32 context[AL_CONTEXT_MAX];
};
static_assert(sizeof(struct al_block_disk) == AL_BLOCK_BYTES, "one block");
static_assert(offsetof(struct al_block_disk, updates) == 64, "no padding");

uint32_t al_cycle(uint32_t slots, uint32_t context_slots)
{
    assert(slots > 0 && context_slots > 0);
    return (slots + context_slots - 1) / context_slots;
}

struct al_window al_window_of(uint64_t sequence, uint32_t slots, uint32_t context_slots)
{
    uint32_t first = (uint32_t)(sequence % al_cycle(slots, context_slots)) * context_slots;
    return (struct al_window) { first, (uint32_t)min_u64(context_slots, slots - first) };
}

static uint64_t block_check(const struct al_block_disk *d)
{
    struct al_block_disk copy = *d;
    copy.check = to_le64(0);
    return checksum64(&copy, sizeof(copy));
}

void al_block_encode(const struct al_block *b, uint8_t block[AL_BLOCK_BYTES])
{
    assert(b->update_count <= AL_UPDATES_MAX && b->context_slots <= AL_CONTEXT_MAX);
    struct al_block_disk d = {
        .magic = to_le64(AL_MAGIC),
        .version = to_le32(AL_VERSION),
        .extent_bytes = to_le32(b->extent_bytes),
        .sequence = to_le64(b->sequence),
        .owner = b->owner,
        .slots = to_le32(b->slots),
        .context_slots = to_le16((uint16_t)b->context_slots),
        .update_count = to_le16((uint16_t)b->update_count),
    };
    for (uint32_t i = 0; i < b->update_count; i++) {
        d.updates[i].slot = to_le32(b->updates[i].slot);
        d.updates[i].extent = to_le32(b->updates[i].extent);
    }
    uint32_t window = al_window_of(b->sequence, b->slots, b->context_slots).count;
    for (uint32_t i = 0; i < window; i++)
        d.context[i] = to_le32(b->context[i]);
    d.check = to_le64(block_check(&d));
    memcpy(block, &d, sizeof(d));
}

static int bad(struct err *err, const char *what) { return err_set(err, -EBADMSG, "activity log block: %s", what); }

static bool is_zero(const void *bytes, size_t n)
{
    const uint8_t *b = bytes;
    return n == 0 || (b[0] == 0 && memcmp(b, b + 1, n - 1) == 0);
}

/* What the checksum does not tell: a bug or a forger must not get further. */
static int check_fields(const struct al_block_disk *d, const struct al_block *b, struct err *err)
{
    if (b->sequence == 0 || b->sequence > AL_SEQUENCE_MAX)
        return bad(err, "impossible sequence");
    if (b->slots == 0 || b->slots > AL_SLOTS_MAX)
        return bad(err, "impossible number of slots");
    if (b->context_slots == 0 || b->context_slots > AL_CONTEXT_MAX)
        return bad(err, "impossible context");
    if (b->update_count > AL_UPDATES_MAX)
        return bad(err, "impossible number of updates");
    uint32_t window = al_window_of(b->sequence, b->slots, b->context_slots).count;
    if (!is_zero(d->zero, sizeof(d->zero)) ||
        !is_zero(&d->updates[b->update_count], (AL_UPDATES_MAX - b->update_count) * sizeof(d->updates[0])) ||
        !is_zero(&d->context[window], (AL_CONTEXT_MAX - window) * sizeof(d->context[0])))
        return bad(err, "something where nothing belongs");
    return 0;
}

/* A slot that is both updated and in the context says the same in both. */
static int check_updates(const struct al_block *b, struct err *err)
{
    struct al_window w = al_window_of(b->sequence, b->slots, b->context_slots);
    for (uint32_t i = 0; i < b->update_count; i++) {
        uint32_t slot = b->updates[i].slot, extent = b->updates[i].extent;
        if (slot >= b->slots || extent == AL_NO_EXTENT)
            return bad(err, "impossible update");
        bool in_window = slot >= w.first && slot - w.first < w.count;
        if (in_window && b->context[slot - w.first] != extent)
            return bad(err, "updates and context differ");
    }
    return 0;
}

int al_block_decode(const uint8_t block[AL_BLOCK_BYTES], struct al_block *b, struct err *err)
{
    struct al_block_disk d;
    memcpy(&d, block, sizeof(d));
    if (is_zero(&d, sizeof(d)))
        return err_set(err, -ENOENT, "activity log block: never written");
    if (from_le64(d.magic) != AL_MAGIC)
        return bad(err, "is none (magic)");
    if (from_le64(d.check) != block_check(&d))
        return bad(err, "is damaged (checksum)");
    if (from_le32(d.version) != AL_VERSION)
        return bad(err, "is of another format");
    memset(b, 0, sizeof(*b));
    b->sequence = from_le64(d.sequence);
    b->owner = d.owner;
    b->extent_bytes = from_le32(d.extent_bytes);
    b->slots = from_le32(d.slots);
    b->context_slots = from_le16(d.context_slots);
    b->update_count = from_le16(d.update_count);
    int r = check_fields(&d, b, err);
    if (r)
        return r;
    for (uint32_t i = 0; i < b->update_count; i++)
        b->updates[i] = (struct al_update) { from_le32(d.updates[i].slot), from_le32(d.updates[i].extent) };
    uint32_t window = al_window_of(b->sequence, b->slots, b->context_slots).count;
    for (uint32_t i = 0; i < window; i++)
        b->context[i] = from_le32(d.context[i]);
    return check_updates(b, err);
}
