/* The superblock, to and from its block on disk, and the choice among its copies. */
#include "repl/meta/superblock_disk.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "repl/base/block.h"
#include "repl/base/checksum.h"
#include "repl/base/endian.h"
#include "repl/meta/al_block.h"
#include "repl/meta/bitmap.h"

#define SUPERBLOCK_MAGIC UINT64_C(0x5345504554534b4c) /* "LKSTEPES" as bytes */
#define SUPERBLOCK_VERSION 2
#define COUNTER_MAX (UINT64_MAX / 2) /* so that there is always a next one */

#define FLAG_ATTACHED (1u << 0)
#define FLAG_PRISTINE (1u << 1)
#define FLAG_ADOPTED (1u << 2)
#define FLAG_LOST_POWER (1u << 4)
#define FLAG_PEER_IN_SYNC (1u << 5)
#define FLAG_WAS_PRIMARY (1u << 6)
#define FLAG_FULL (1u << 7)
#define FLAG_READS_LIE (1u << 8)
#define FLAG_DIFFERS (1u << 9)
#define FLAG_REGISTERED (1u << 10)
#define FLAG_WENT_BACK (1u << 11)
#define FLAGS_KNOWN (((1u << 12) - 1) & ~(1u << 3)) /* one is reserved: it meant "unclean" */

struct entry_disk {
    le64 epoch;
    le64 first_lsn;
    le64 tag;
};

struct superblock_disk {
    le64 magic;
    le64 check; /* XXH3-64 over the block with this field as 0 */
    le32 version;
    le32 copy; /* which of the copies this is: a misdirected write is told from a good one */
    le64 sequence;
    le64 size_bytes;
    le64 backing_bytes;
    le64 epoch;
    le64 lsn;
    le32 flags;
    uint8_t role;
    uint8_t leg;
    uint8_t peer_leg;
    uint8_t reserved;
    struct id volume_id;
    struct id leg_id;
    struct id peer_leg_id;
    struct id boot_id;
    char volume[NAME_BYTES_MAX];
    char node[NAME_BYTES_MAX];
    le64 al_from;
    le32 granule_bytes;
    le32 extent_bytes;
    le64 consistent_epoch;
    le64 consistent_lsn;
    struct entry_disk base;
    le32 history_count;
    uint8_t reserved_too[4];
    struct entry_disk history[HISTORY_MAX];
    le64 room_bytes;
    le64 moved_from_bytes;
    le64 verified_at_s;
    le64 verified_found_bytes;
    le64 served_epoch;
    le64 asked_epoch;
    le64 age;
    le64 peer_age;
    le64 heard_epoch;
    uint8_t zero[SUPERBLOCK_BYTES - 400 - HISTORY_MAX * 24];
};
static_assert(sizeof(struct superblock_disk) == SUPERBLOCK_BYTES, "a superblock is one block");
static_assert(offsetof(struct superblock_disk, volume_id) == 72, "no padding");
static_assert(offsetof(struct superblock_disk, history) == 328, "no padding");
static_assert(offsetof(struct superblock_disk, served_epoch) == 1896, "no padding");
static_assert(offsetof(struct superblock_disk, asked_epoch) == 1904, "no padding");
static_assert(offsetof(struct superblock_disk, age) == 1912, "no padding");
static_assert(offsetof(struct superblock_disk, heard_epoch) == 1928, "no padding");

static uint64_t block_check(const struct superblock_disk *d)
{
    struct superblock_disk copy = *d;
    copy.check = to_le64(0);
    return checksum64(&copy, sizeof(copy));
}

static struct entry_disk entry_encode(struct history_entry e)
{
    return (struct entry_disk) { to_le64(e.epoch), to_le64(e.first_lsn), to_le64(e.tag) };
}

static struct history_entry entry_decode(struct entry_disk d)
{
    return (struct history_entry) { from_le64(d.epoch), from_le64(d.first_lsn), from_le64(d.tag) };
}

static uint32_t flags_of(const struct superblock *sb)
{
    return (sb->attached ? FLAG_ATTACHED : 0) | (sb->pristine ? FLAG_PRISTINE : 0) | (sb->adopted ? FLAG_ADOPTED : 0) |
           (sb->lost_power ? FLAG_LOST_POWER : 0) | (sb->peer_in_sync ? FLAG_PEER_IN_SYNC : 0) |
           (sb->was_primary ? FLAG_WAS_PRIMARY : 0) | (sb->full ? FLAG_FULL : 0) |
           (sb->reads_lie ? FLAG_READS_LIE : 0) | (sb->differs ? FLAG_DIFFERS : 0) |
           (sb->registered ? FLAG_REGISTERED : 0) | (sb->went_back ? FLAG_WENT_BACK : 0);
}

void superblock_write_order(unsigned bad, uint8_t order[SUPERBLOCK_COPIES])
{
    unsigned n = 0;
    for (uint8_t i = 0; i < SUPERBLOCK_COPIES; i++) {
        if (bad >> i & 1)
            order[n++] = i;
    }
    for (uint8_t i = 0; i < SUPERBLOCK_COPIES; i++) {
        if (!(bad >> i & 1))
            order[n++] = i;
    }
}

void superblock_encode(const struct superblock *sb, unsigned copy, uint8_t block[SUPERBLOCK_BYTES])
{
    struct superblock_disk d = {
        .magic = to_le64(SUPERBLOCK_MAGIC),
        .version = to_le32(SUPERBLOCK_VERSION),
        .copy = to_le32(copy),
        .sequence = to_le64(sb->sequence),
        .size_bytes = to_le64(sb->size_bytes),
        .backing_bytes = to_le64(sb->backing_bytes),
        .epoch = to_le64(sb->epoch),
        .lsn = to_le64(sb->lsn),
        .flags = to_le32(flags_of(sb)),
        .role = (uint8_t)sb->role,
        .leg = (uint8_t)sb->leg,
        .peer_leg = (uint8_t)sb->peer_leg,
        .volume_id = sb->volume_id,
        .leg_id = sb->leg_id,
        .peer_leg_id = sb->peer_leg_id,
        .boot_id = sb->boot_id,
        .al_from = to_le64(sb->al_from),
        .granule_bytes = to_le32(sb->granule_bytes),
        .extent_bytes = to_le32(sb->extent_bytes),
        .consistent_epoch = to_le64(sb->consistent_epoch),
        .consistent_lsn = to_le64(sb->consistent_lsn),
        .verified_at_s = to_le64(sb->verified_at_s),
        .verified_found_bytes = to_le64(sb->verified_found_bytes),
        .served_epoch = to_le64(sb->served_epoch),
        .asked_epoch = to_le64(sb->asked_epoch),
        .age = to_le64(sb->age),
        .peer_age = to_le64(sb->peer_age),
        .heard_epoch = to_le64(sb->heard_epoch),
        .base = entry_encode(sb->base),
        .history_count = to_le32(sb->history.count),
        .room_bytes = to_le64(sb->room_bytes),
        .moved_from_bytes = to_le64(sb->moved_from_bytes),
    };
    assert(sb->history.count <= HISTORY_MAX);
    for (uint32_t i = 0; i < sb->history.count; i++)
        d.history[i] = entry_encode(sb->history.entries[i]);
    memcpy(d.volume, sb->volume, sizeof(d.volume));
    memcpy(d.node, sb->node, sizeof(d.node));
    d.check = to_le64(block_check(&d));
    memcpy(block, &d, sizeof(d));
}

static int bad(struct err *err, const char *field)
{
    return err_set(err, -EBADMSG, "superblock with an impossible %s", field);
}

/* A later version may say something there that must not be passed over; and it is no damage. */
static int unknown(struct err *err, const char *what, unsigned value)
{
    return err_set(err, -ENOTSUP,
                   "metadata with %s %u, which this program does not know: use the program that wrote it", what, value);
}

static int check_reserved(const struct superblock_disk *d, struct err *err)
{
    const struct {
        const void *from;
        size_t bytes;
    } parts[] = {
        { &d->reserved, sizeof(d->reserved) },
        { d->reserved_too, sizeof(d->reserved_too) },
        { &d->history[from_le32(d->history_count)],
          (HISTORY_MAX - from_le32(d->history_count)) * sizeof(d->history[0]) },
        { d->zero, sizeof(d->zero) },
    };
    for (unsigned i = 0; i < ARRAY_LEN(parts); i++)
        for (size_t k = 0; k < parts[i].bytes; k++)
            if (((const uint8_t *)parts[i].from)[k])
                return unknown(err, "something at byte",
                               (unsigned)((const uint8_t *)parts[i].from + k - (const uint8_t *)d));
    return 0;
}

static bool is_power_of_two(uint32_t v) { return v && (v & (v - 1)) == 0; }

static bool is_size(le64 bytes) { return from_le64(bytes) % BLOCK_BYTES == 0 && from_le64(bytes) <= VOLUME_BYTES_MAX; }

static int check_fields(const struct superblock_disk *d, struct err *err)
{
    if (from_le32(d->flags) & ~FLAGS_KNOWN)
        return unknown(err, "flags", from_le32(d->flags) & ~FLAGS_KNOWN);
    if (d->role > ROLE_PRIMARY)
        return bad(err, "role");
    if (d->leg > LEG_FAILED || d->peer_leg > LEG_FAILED)
        return bad(err, "leg state");
    if (!name_is_printable(d->volume) || !name_is_printable(d->node))
        return bad(err, "name");
    if (id_is_none(d->leg_id))
        return bad(err, "leg id");
    if (!is_size(d->size_bytes))
        return bad(err, "size");
    if (!is_size(d->room_bytes))
        return bad(err, "room to grow");
    if (from_le64(d->sequence) > COUNTER_MAX)
        return bad(err, "sequence");
    if (from_le64(d->epoch) > COUNTER_MAX)
        return bad(err, "epoch");
    if (from_le64(d->served_epoch) > from_le64(d->epoch))
        return bad(err, "served epoch");
    if (from_le64(d->asked_epoch) > COUNTER_MAX)
        return bad(err, "epoch asked for");
    if (from_le64(d->age) > COUNTER_MAX || from_le64(d->peer_age) > COUNTER_MAX)
        return bad(err, "age");
    if (from_le64(d->heard_epoch) > COUNTER_MAX)
        return bad(err, "epoch of the register's");
    if (from_le64(d->lsn) > COUNTER_MAX)
        return bad(err, "lsn");
    uint32_t granule = from_le32(d->granule_bytes), extent = from_le32(d->extent_bytes);
    if (!is_power_of_two(granule) || granule < GRANULE_BYTES_MIN || granule > GRANULE_BYTES_MAX)
        return bad(err, "granule");
    if (!is_power_of_two(extent) || extent < granule || extent > EXTENT_BYTES_MAX)
        return bad(err, "extent");
    if (max_u64(from_le64(d->size_bytes), from_le64(d->room_bytes)) / extent >= AL_NO_EXTENT)
        return bad(err, "number of extents");
    if (from_le64(d->al_from) > AL_SEQUENCE_MAX)
        return bad(err, "beginning of the activity log");
    if (from_le32(d->history_count) > HISTORY_MAX)
        return bad(err, "history");
    return check_reserved(d, err);
}

int superblock_decode(const uint8_t block[SUPERBLOCK_BYTES], unsigned copy, struct superblock *sb, struct err *err)
{
    struct superblock_disk d;
    memcpy(&d, block, sizeof(d));
    if (from_le64(d.magic) != SUPERBLOCK_MAGIC)
        return err_set(err, -ENOENT, "no Lockstep metadata");
    if (from_le64(d.check) != block_check(&d))
        return err_set(err, -EBADMSG, "superblock copy %u is damaged (checksum)", copy);
    if (from_le32(d.version) != SUPERBLOCK_VERSION)
        return err_set(err, -ENOTSUP,
                       "metadata of %s format %u, where this program knows format %u: use the program that wrote it",
                       from_le32(d.version) > SUPERBLOCK_VERSION ? "the newer" : "the older", from_le32(d.version),
                       SUPERBLOCK_VERSION);
    /* Nothing below can be the disk's doing, the checksum was right: but a bug or a forger must not get further. */
    if (from_le32(d.copy) != copy)
        return err_set(err, -EBADMSG, "superblock copy %u lies where copy %u belongs", from_le32(d.copy), copy);
    int r = check_fields(&d, err);
    if (r)
        return r;
    *sb = (struct superblock) {
        .sequence = from_le64(d.sequence),
        .size_bytes = from_le64(d.size_bytes),
        .backing_bytes = from_le64(d.backing_bytes),
        .volume_id = d.volume_id,
        .leg_id = d.leg_id,
        .peer_leg_id = d.peer_leg_id,
        .boot_id = d.boot_id,
        .epoch = from_le64(d.epoch),
        .lsn = from_le64(d.lsn),
        .role = (enum role)d.role,
        .leg = (enum leg_state)d.leg,
        .peer_leg = (enum leg_state)d.peer_leg,
        .attached = from_le32(d.flags) & FLAG_ATTACHED,
        .pristine = from_le32(d.flags) & FLAG_PRISTINE,
        .adopted = from_le32(d.flags) & FLAG_ADOPTED,
        .lost_power = from_le32(d.flags) & FLAG_LOST_POWER,
        .peer_in_sync = from_le32(d.flags) & FLAG_PEER_IN_SYNC,
        .was_primary = from_le32(d.flags) & FLAG_WAS_PRIMARY,
        .full = from_le32(d.flags) & FLAG_FULL,
        .reads_lie = from_le32(d.flags) & FLAG_READS_LIE,
        .differs = from_le32(d.flags) & FLAG_DIFFERS,
        .registered = from_le32(d.flags) & FLAG_REGISTERED,
        .went_back = from_le32(d.flags) & FLAG_WENT_BACK,
        .al_from = from_le64(d.al_from),
        .granule_bytes = from_le32(d.granule_bytes),
        .extent_bytes = from_le32(d.extent_bytes),
        .base = entry_decode(d.base),
        .consistent_epoch = from_le64(d.consistent_epoch),
        .consistent_lsn = from_le64(d.consistent_lsn),
        .verified_at_s = from_le64(d.verified_at_s),
        .verified_found_bytes = from_le64(d.verified_found_bytes),
        .served_epoch = from_le64(d.served_epoch),
        .asked_epoch = from_le64(d.asked_epoch),
        .age = from_le64(d.age),
        .peer_age = from_le64(d.peer_age),
        .heard_epoch = from_le64(d.heard_epoch),
        .history.count = from_le32(d.history_count),
        .room_bytes = from_le64(d.room_bytes),
        .moved_from_bytes = from_le64(d.moved_from_bytes),
    };
    memcpy(sb->volume, d.volume, sizeof(sb->volume));
    memcpy(sb->node, d.node, sizeof(sb->node));
    for (uint32_t i = 0; i < sb->history.count; i++)
        sb->history.entries[i] = entry_decode(d.history[i]);
    const struct history_entry *last = history_last(&sb->history);
    if (!history_is_valid(&sb->history) || (last && last->epoch > sb->epoch))
        return bad(err, "history");
    if (history_entry_is_none(sb->base) && (sb->base.epoch || sb->base.first_lsn))
        return bad(err, "base of the bitmap");
    return 0;
}

/* All that differs between the copies of one write is their number, and so the checksum. Sequences alone do not tell: a
 * write that reached one copy before a crash has the same one as that which came after it. */
static bool say_the_same(const uint8_t *a, const uint8_t *b)
{
    size_t from = offsetof(struct superblock_disk, sequence);
    return memcmp(a + from, b + from, SUPERBLOCK_BYTES - from) == 0;
}

struct copies {
    struct superblock found[SUPERBLOCK_COPIES];
    bool valid[SUPERBLOCK_COPIES];
    unsigned votes[SUPERBLOCK_COPIES]; /* how many say the same, itself included */
};

static int newest_with(const struct copies *c, unsigned votes)
{
    int best = -1;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        bool counts = c->valid[i] && c->votes[i] >= votes;
        if (counts && (best < 0 || c->found[i].sequence > c->found[best].sequence))
            best = (int)i;
    }
    return best;
}

/* A write that was reported as done is on three copies, so that of any two copies one has it, or what came after it:
 * the newest of two or more is no older. Two of one sequence that say different things cannot be told apart. */
static int newest_of_enough(const struct copies *c)
{
    unsigned valid = 0, same_sequence = 0;
    int best = newest_with(c, 1);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        valid += c->valid[i];
        same_sequence += c->valid[i] && c->found[i].sequence == c->found[best].sequence;
    }
    return valid >= SUPERBLOCK_COPIES_TO_READ && same_sequence == 1 ? best : -1;
}

int superblock_choose(uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES], struct superblock *sb, unsigned *good,
                      struct err *err)
{
    struct copies c = { 0 };
    struct err first = { 0 };
    unsigned ours = 0, newer = 0;
    uint64_t highest = 0;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        struct err e = { 0 };
        int r = superblock_decode(blocks[i], i, &c.found[i], &e);
        c.valid[i] = r == 0;
        ours += r != -ENOENT;
        newer += r == -ENOTSUP;
        if (r == 0)
            highest = max_u64(highest, c.found[i].sequence);
        if (r && r != -ENOENT && !first.code)
            first = e;
    }
    if (ours == 0)
        return err_set(err, -ENOENT, "no Lockstep metadata");
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        for (unsigned j = 0; c.valid[i] && j < SUPERBLOCK_COPIES; j++)
            c.votes[i] += c.valid[j] && say_the_same(blocks[i], blocks[j]);
    int best = newest_with(&c, SUPERBLOCK_COPIES_TO_READ);
    if (best < 0 && newest_with(&c, 1) >= 0)
        best = newest_of_enough(&c);
    if (best < 0) {
        if (newer)
            return err_set(err, -ENOTSUP, "%s", first.text);
        return err_set(err, -EBADMSG, "fewer than %u of %u superblock copies agree%s%s", SUPERBLOCK_COPIES_TO_READ,
                       SUPERBLOCK_COPIES, first.code ? "; " : "", first.code ? first.text : "");
    }
    *sb = c.found[best];
    /* The next write must not have the sequence of one that was cut short. */
    sb->sequence = highest;
    *good = 0;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        if (c.valid[i] && say_the_same(blocks[i], blocks[best]))
            *good |= 1u << i;
    }
    return 0;
}
