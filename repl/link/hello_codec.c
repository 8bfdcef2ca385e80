/* The hello, to and from protobuf. */
#include "repl/link/hello_codec.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "proto/handshake.pb-c.h"

/* Three names, three ids, the nonce, the numbers at their longest, and a full history: below what a frame may carry. */
static_assert(3 * (NAME_BYTES_MAX + 3) + 3 * (sizeof(struct id) + 3) + HELLO_NONCE_BYTES + 3 + 35 * 13 + 4 * 9 +
                      HISTORY_MAX * (10 + 10 + 8) <=
                  FRAME_HELLO_BYTES_MAX,
              "fits");

static_assert((int)LOCKSTEP__HELLO_ROLE__HELLO_ROLE_SECONDARY == (int)ROLE_SECONDARY, "same numbers");
static_assert((int)LOCKSTEP__HELLO_ROLE__HELLO_ROLE_PRIMARY == (int)ROLE_PRIMARY, "same numbers");
static_assert((int)LOCKSTEP__HELLO_LEG__HELLO_LEG_NONE == (int)LEG_NONE, "same numbers");
static_assert((int)LOCKSTEP__HELLO_LEG__HELLO_LEG_UP_TO_DATE == (int)LEG_UP_TO_DATE, "same numbers");
static_assert((int)LOCKSTEP__HELLO_LEG__HELLO_LEG_SYNCING == (int)LEG_SYNCING, "same numbers");
static_assert((int)LOCKSTEP__HELLO_LEG__HELLO_LEG_OUTDATED == (int)LEG_OUTDATED, "same numbers");
static_assert((int)LOCKSTEP__HELLO_LEG__HELLO_LEG_FAILED == (int)LEG_FAILED, "same numbers");

static ProtobufCBinaryData id_field(const struct id *id)
{
    if (id_is_none(*id))
        return (ProtobufCBinaryData) { 0 };
    return (ProtobufCBinaryData) { sizeof(id->bytes), (uint8_t *)id->bytes };
}

size_t hello_encode(const struct hello *hello, uint8_t *out)
{
    Lockstep__Hello m = LOCKSTEP__HELLO__INIT;
    m.version = hello->version;
    m.features = hello->features;
    m.volume = (char *)hello->volume;
    m.node = (char *)hello->node;
    m.peer = (char *)hello->peer;
    m.size_bytes = hello->size_bytes;
    m.capacity_bytes = hello->capacity_bytes;
    m.volume_id = id_field(&hello->volume_id);
    m.leg_id = id_field(&hello->leg_id);
    m.peer_leg_id = id_field(&hello->peer_leg_id);
    m.epoch = hello->epoch;
    m.role = (Lockstep__HelloRole)hello->role;
    m.leg = (Lockstep__HelloLeg)hello->leg;
    m.pristine = hello->pristine;
    m.lost_power = hello->lost_power;
    m.differs = hello->differs;
    m.went_back = hello->went_back;
    m.age = hello->age;
    m.peer_age = hello->peer_age;
    m.peer_failed = hello->peer_failed;
    m.window_frames = hello->window_frames;
    m.window_bytes = hello->window_bytes;
    m.block_bytes = hello->block_bytes;
    m.served_block_bytes = hello->served_block_bytes;
    m.granule_bytes = hello->granule_bytes;
    m.lsn = hello->lsn;
    m.full = hello->full;
    m.dirty_bytes = hello->dirty_bytes;
    m.was_primary = hello->was_primary;
    m.served_epoch = hello->served_epoch;
    m.peer_in_sync = hello->peer_in_sync;
    m.diskless = hello->diskless;
    m.alone_s = hello->alone_s;
    m.registered = hello->registered;
    m.asked_epoch = hello->asked_epoch;
    m.hands_over = hello->hands_over;
    m.dead_after_us = hello->config.dead_after_us;
    m.witness = hello->config.witness;
    m.failover = hello->config.failover;
    m.when_alone = hello->config.when_alone;
    uint64_t epochs[HISTORY_MAX], lsns[HISTORY_MAX], tags[HISTORY_MAX];
    for (uint32_t i = 0; i < hello->history.count; i++) {
        epochs[i] = hello->history.entries[i].epoch;
        lsns[i] = hello->history.entries[i].first_lsn;
        tags[i] = hello->history.entries[i].tag;
    }
    m.n_history_epoch = m.n_history_first_lsn = m.n_history_tag = hello->history.count;
    m.history_epoch = epochs;
    m.history_first_lsn = lsns;
    m.history_tag = tags;
    m.base_epoch = hello->base.epoch;
    m.base_first_lsn = hello->base.first_lsn;
    m.base_tag = hello->base.tag;
    m.nonce = (ProtobufCBinaryData) { sizeof(hello->nonce), (uint8_t *)hello->nonce };
    size_t bytes = lockstep__hello__pack(&m, out);
    assert(bytes <= FRAME_HELLO_BYTES_MAX);
    return bytes;
}

static int wrong(const char **why, const char *text)
{
    *why = text;
    return -EPROTO;
}

static bool take_name(const char *from, char to[static NAME_BYTES_MAX])
{
    size_t n = strlen(from);
    if (n == 0 || n >= NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)from[i];
        if (c < 0x20 || c == 0x7f)
            return false;
    }
    memcpy(to, from, n + 1);
    return true;
}

static bool take_id(ProtobufCBinaryData from, struct id *to)
{
    if (from.len != 0 && from.len != sizeof(to->bytes))
        return false;
    if (from.len)
        memcpy(to->bytes, from.data, from.len);
    return true;
}

static bool is_block_size(uint32_t bytes)
{
    return bytes >= BLOCK_BYTES && bytes <= BLOCK_BYTES_MAX && (bytes & (bytes - 1)) == 0;
}

static bool take_history(const Lockstep__Hello *m, struct history *h)
{
    if (m->n_history_epoch > HISTORY_MAX || m->n_history_first_lsn != m->n_history_epoch ||
        m->n_history_tag != m->n_history_epoch)
        return false;
    h->count = (uint32_t)m->n_history_epoch;
    for (uint32_t i = 0; i < h->count; i++)
        h->entries[i] = (struct history_entry) { m->history_epoch[i], m->history_first_lsn[i], m->history_tag[i] };
    /* The leg has seen every epoch that it was part of. */
    return history_is_valid(h) && (h->count == 0 || h->entries[h->count - 1].epoch <= m->epoch);
}

static bool is_granule(uint32_t bytes) { return bytes >= BLOCK_BYTES && bytes <= MIB && (bytes & (bytes - 1)) == 0; }

static int take_state(const Lockstep__Hello *m, struct hello *h, const char **why)
{
    if (m->size_bytes % BLOCK_BYTES)
        return wrong(why, "size that is not whole blocks (size_bytes)");
    if (m->capacity_bytes % BLOCK_BYTES)
        return wrong(why, "capacity that is not whole blocks (capacity_bytes)");
    if (!take_id(m->volume_id, &h->volume_id) || !take_id(m->leg_id, &h->leg_id) ||
        !take_id(m->peer_leg_id, &h->peer_leg_id))
        return wrong(why, "identity that does not have 16 bytes (volume_id, leg_id, peer_leg_id)");
    if (m->epoch > FRAME_EPOCH_MAX || m->lsn > FRAME_LSN_MAX)
        return wrong(why, "impossible epoch or LSN (epoch, lsn)");
    if (m->served_epoch > m->epoch)
        return wrong(why, "served at an epoch that it has not seen (served_epoch)");
    if (m->asked_epoch > FRAME_EPOCH_MAX)
        return wrong(why, "impossible epoch asked for (asked_epoch)");
    if (m->age > FRAME_EPOCH_MAX || m->peer_age > FRAME_EPOCH_MAX)
        return wrong(why, "impossible age (age, peer_age)");
    if (m->went_back && !m->differs)
        return wrong(why, "leg that went back in time, and lacks nothing (went_back)");
    if ((unsigned)m->role > ROLE_PRIMARY)
        return wrong(why, "unknown role (role)");
    if ((unsigned)m->leg > LEG_FAILED)
        return wrong(why, "unknown leg state (leg)");
    if (m->window_frames == 0 || m->window_bytes < FRAME_PAYLOAD_BYTES_MAX)
        return wrong(why, "window that not every frame fits through (window_frames, window_bytes)");
    if ((m->block_bytes && !is_block_size(m->block_bytes)) ||
        (m->served_block_bytes && !is_block_size(m->served_block_bytes)))
        return wrong(why, "impossible block size (block_bytes, served_block_bytes)");
    if (!take_history(m, &h->history))
        return wrong(why, "history that cannot be (history)");
    if (m->diskless && ((unsigned)m->role != ROLE_PRIMARY || (unsigned)m->leg != LEG_FAILED || h->history.count == 0))
        return wrong(why, "diskless, and no primary whose leg has failed (diskless)");
    if (m->base_tag == 0 && (m->base_epoch || m->base_first_lsn))
        return wrong(why, "start of the bitmap without a tag (base)");
    if (!is_granule(m->granule_bytes))
        return wrong(why, "impossible granule (granule_bytes)");
    if (m->nonce.len != sizeof(h->nonce))
        return wrong(why, "nonce that does not have 32 bytes (nonce)");
    memcpy(h->nonce, m->nonce.data, sizeof(h->nonce));
    h->base = (struct history_entry) { m->base_epoch, m->base_first_lsn, m->base_tag };
    h->granule_bytes = m->granule_bytes;
    h->lsn = m->lsn;
    h->full = m->full;
    h->dirty_bytes = m->dirty_bytes;
    h->was_primary = m->was_primary;
    h->served_epoch = m->served_epoch;
    h->peer_in_sync = m->peer_in_sync;
    h->diskless = m->diskless;
    h->alone_s = m->alone_s;
    h->registered = m->registered;
    h->asked_epoch = m->asked_epoch;
    h->hands_over = m->hands_over;
    h->config = (struct hello_config) {
        .dead_after_us = m->dead_after_us,
        .witness = m->witness,
        .failover = m->failover,
        .when_alone = m->when_alone,
    };
    h->size_bytes = m->size_bytes;
    h->capacity_bytes = m->capacity_bytes;
    h->epoch = m->epoch;
    h->role = (enum role)m->role;
    h->leg = (enum leg_state)m->leg;
    h->pristine = m->pristine;
    h->lost_power = m->lost_power;
    h->differs = m->differs;
    h->went_back = m->went_back;
    h->age = m->age;
    h->peer_age = m->peer_age;
    h->peer_failed = m->peer_failed;
    h->window_frames = m->window_frames;
    h->window_bytes = m->window_bytes;
    h->block_bytes = m->block_bytes ? m->block_bytes : BLOCK_BYTES;
    h->served_block_bytes = m->served_block_bytes;
    return 0;
}

int hello_decode(const uint8_t *data, size_t bytes, struct hello *hello, const char **why)
{
    *hello = (struct hello) { 0 };
    Lockstep__Hello *m = bytes <= FRAME_HELLO_BYTES_MAX ? lockstep__hello__unpack(NULL, bytes, data) : NULL;
    if (!m)
        return wrong(why, "not a hello message");
    int result = 0;
    hello->version = m->version;
    hello->features = m->features;
    if (!take_name(m->volume, hello->volume))
        result = wrong(why, "volume name empty, too long or not printable (volume)");
    else if (!take_name(m->node, hello->node))
        result = wrong(why, "node name empty, too long or not printable (node)");
    else if (!take_name(m->peer, hello->peer))
        result = wrong(why, "peer name empty, too long or not printable (peer)");
    else if (m->version == PROTOCOL_VERSION)
        result = take_state(m, hello, why);
    lockstep__hello__free_unpacked(m, NULL);
    return result;
}
