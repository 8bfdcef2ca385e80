/* A volume's leg: opened with the engine whose leg it is, and what the engine wants of it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "repl/base/resident.h"
#include "repl/base/scoped.h"
#include "repl/meta/activity_log.h"
#include "repl/node/volume_internal.h"

/* The peer may have as much on its way to us as leaves room for what an earlier session left behind. */
#define WINDOW_BYTES (ARENA_BYTES / 2)
#define WINDOW_FRAMES (MIRROR_PEER_CHANGES_MAX / 2)
#define VOLUME_SYNC_OPS (SYNC_OP_END - SYNC_OP_FIRST)

static_assert(CONFIG_ACTIVITY_LOG_BYTES_STEP == EXTENT_BYTES_DEFAULT, "a step is an extent");
static_assert(CONFIG_ACTIVITY_LOG_BYTES_DEFAULT == (uint64_t)AL_SLOTS_DEFAULT * EXTENT_BYTES_DEFAULT, "as without one");
static_assert(CONFIG_ACTIVITY_LOG_BYTES_MAX == (uint64_t)AL_SLOTS_MAX * EXTENT_BYTES_DEFAULT, "there are enough slots");
static_assert(CONFIG_ACTIVITY_LOG_BYTES_MIN > OP_RANGE_BYTES_MAX + EXTENT_BYTES_DEFAULT, "any change fits");

/* ---- operations ---- */

static void disk_io_done(struct disk_io *io)
{
    struct volume_io *vio = container_of(io, struct volume_io, io);
    volume_step(vio->volume, &(struct event) { .kind = EV_DISK_DONE, .disk = { .op = vio->op, .result = io->result } });
}

/* The engine numbers its operations in two ranges: the mirror's, and those of a resync. */
static struct volume_io *io_of(struct volume *v, uint32_t op)
{
    if (op < MIRROR_OPS)
        return &v->ios[op];
    if (op >= SYNC_OP_FIRST && op < SYNC_OP_END)
        return &v->sync_ios[op - SYNC_OP_FIRST];
    if (op == ENGINE_OP_KEEP)
        return &v->keep_io;
    return op == ENGINE_OP_GROW ? &v->grow_io : &v->own_io;
}

void volume_start_disk_io(struct volume *v, const struct action *a)
{
    struct volume_io *vio = io_of(v, a->disk.op);
    vio->volume = v;
    vio->op = a->disk.op;
    vio->io.kind = a->disk.kind;
    vio->io.flags = a->disk.flags;
    vio->io.offset_bytes = a->disk.offset_bytes;
    vio->io.length_bytes = a->disk.length_bytes;
    vio->io.data = a->disk.buf ? a->disk.buf->data + a->disk.buf_offset_bytes : NULL;
    vio->io.done = disk_io_done;
    disk_submit(v->leg.disk, &vio->io);
}

static void tell_missed_copy(struct volume *v)
{
    struct err said = { 0 };
    if (leg_tell_write(&v->leg, &said))
        volume_note(v, NOTE_WARNING, "leg", said.text);
}

static void superblock_written(void *ctx, int32_t result)
{
    if (!result)
        tell_missed_copy(ctx);
    volume_step(ctx, &(struct event) { .kind = EV_META_DONE, .meta = { .result = result } });
}

void volume_write_superblock(struct volume *v, const struct superblock *sb)
{
    leg_write_superblock(&v->leg, sb, superblock_written, v);
}

static void page_written(void *ctx, enum meta_area area, uint32_t index, int32_t result)
{
    volume_step(ctx, &(struct event) { .kind = EV_META_PAGE_DONE, .page = { area, index, result } });
}

static void grow_done(void *ctx, enum grow_step step_done, int32_t err, const char *reason,
                      const struct grow_plan *plan)
{
    struct volume *v = ctx;
    volume_step(v, &(struct event) {
                       .kind = EV_GROW_DONE,
                       .grow = { .step = step_done,
                                 .result = err,
                                 .reason = reason,
                                 .flush_failed = v->leg.grow.flush_failed,
                                 .plan = *plan },
                   });
}

void volume_grow(struct volume *v, enum grow_step grow_step) { leg_grow(&v->leg, &v->config, grow_step, grow_done, v); }

/* ---- opening ---- */

/* `disguise`: 0, or what a test wants to pass for another boot. */
static int read_boot_id(uint64_t disguise, struct id *out, struct err *err)
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    *out = (struct id) { 0 };
    FILE *f = fopen(path, "re");
    unsigned n = 0;
    unsigned byte = 0;
    for (int c, half = 0; f && n < sizeof(out->bytes) && (c = fgetc(f)) != EOF;) {
        if (c == '-' || c == '\n')
            continue;
        byte = (byte << 4 & 0xff) | (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
        if (half++ % 2)
            out->bytes[n++] = (uint8_t)byte;
    }
    if (f)
        fclose(f);
    for (unsigned i = 0; i < sizeof(disguise); i++)
        out->bytes[i] ^= (uint8_t)(disguise >> 8 * i);
    return n == sizeof(out->bytes) ? 0 : err_set(err, -EIO, "%s: cannot be read", path);
}

struct attach_write {
    struct ring *ring;
    int32_t result;
};

static void attach_written(void *ctx, int32_t result)
{
    struct attach_write *w = ctx;
    w->result = result;
    ring_stop(w->ring);
}

/* Reads the superblock, and has it remember on disk that a daemon has the leg attached. */
static int attach_leg(struct volume *v, struct superblock *sb, struct err *err)
{
    struct id boot_id;
    int r = leg_read_superblock(&v->leg, &v->config, sb, err);
    if (!r)
        r = read_boot_id(v->config.test.boot, &boot_id, err);
    if (r)
        return r;
    r = leg_wipe_stale(&v->leg, sb, err);
    if (r)
        return r;
    if (err->text[0])
        volume_note(v, NOTE_WARNING, "leg", err->text);
    struct err copies[SUPERBLOCK_COPIES] = { 0 };
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        leg_tell_read_copy(&v->leg, i, &copies[i]);
    if (sb->registered && !config_has_witness(&v->config))
        volume_note(v, NOTE_WARNING, "witness",
                    "a witness decides who serves this volume, and none is in the configuration any more: take it out "
                    "on the other node, too, or take that one down. Else both may serve");
    bool ended_serving = sb->role == ROLE_PRIMARY;
    engine_attach(sb, boot_id, v->config.node_count > 1);
    struct attach_write w = { .ring = v->ring };
    leg_write_superblock(&v->leg, sb, attach_written, &w);
    ring_run(v->ring, NULL, NULL);
    if (w.result)
        return err_set(err, w.result, "%s: the metadata cannot be written: %s", v->leg.meta->path, strerror(-w.result));
    /* Nobody was there to say so then; and whatever fails from here on, the next start knows nothing of it. */
    if (ended_serving)
        v->host.served(v->host.ctx, v->config.volume, false, sb->epoch);
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        if (copies[i].code && !(v->leg.store.bad & 1u << i))
            volume_note(v, copies[i].code == -ESTALE ? NOTE_INFO : NOTE_WARNING, "leg", copies[i].text);
    tell_missed_copy(v);
    return 0;
}

static void page_found(void *ctx, uint32_t index, const uint8_t *block)
{
    struct volume *v = ctx;
    engine_load_page(v->engine, index, block);
}

static void log_block_found(void *ctx, uint32_t index, const uint8_t *block)
{
    uint8_t *ring = ctx;
    if (block)
        memcpy(ring + (size_t)index * META_PAGE_BYTES, block, META_PAGE_BYTES);
}

/* What a crash left in the activity log becomes set bits before anything else happens. */
static int load_metadata(struct volume *v, struct err *err)
{
    uint32_t blocks = meta_page_count(&v->leg.layout, META_ACTIVITY_LOG);
    size_t ring_bytes = (size_t)blocks * META_PAGE_BYTES;
    CLEANUP_FREE uint8_t *ring = malloc(ring_bytes);
    if (!ring)
        return err_set(err, -ENOMEM, "out of memory");
    memset(ring, 0xff, ring_bytes); /* what cannot be read */
    int r = leg_read_area(&v->leg, &v->pool, META_BITMAP, engine_page_count(v->engine), page_found, v, err);
    if (!r)
        r = leg_read_area(&v->leg, &v->pool, META_ACTIVITY_LOG, blocks, log_block_found, ring, err);
    if (!r)
        engine_load_log(v->engine, ring, &v->actions);
    return r;
}

static bool goes_on_alone(const struct volume_config *c)
{
    return c->when_alone == ALONE_CONTINUE || (c->when_alone == ALONE_STRICT && config_has_witness(c));
}

int volume_open_engine(struct volume *v, struct err *err)
{
    const struct config_node *peer = config_peer(&v->config);
    struct engine_config config = {
        .volume = v->config.volume,
        .node = config_self(&v->config)->name,
        .peer = peer ? peer->name : NULL,
        .backing = v->leg.bare->path,
        .node_index = v->config.self,
        .window_frames = WINDOW_FRAMES,
        .window_bytes = WINDOW_BYTES,
        .block_bytes = v->leg.bare->geometry.logical_block_bytes,
        .log_slots = (uint32_t)(v->config.activity_log_bytes / EXTENT_BYTES_DEFAULT),
        .alone_after_ns = goes_on_alone(&v->config) ? v->config.dead_after_ns : ENGINE_NEVER_ALONE,
        .failover = { .has_register = config_has_witness(&v->config),
                      .automatic = v->config.failover_automatic,
                      .dead_after_ns = v->config.dead_after_ns,
                      .fail_after_ns = v->config.fail_after_ns },
        .hold_when_deposed = v->config.when_deposed == DEPOSED_WAIT,
        .configured = volume_say_config(&v->config),
        .resync_bytes_per_s = v->config.resync_bytes_per_s,
        .verify_bytes_per_s = v->config.verify_bytes_per_s,
        .pool = &v->pool,
        .pool_keep_free_bytes = KEEP_FREE_BYTES,
    };
    if (getrandom(&config.seed, sizeof(config.seed), 0) < 0)
        return err_set(err, -errno, "no random numbers from the kernel");
    v->leg.page_done = page_written;
    v->leg.page_ctx = v;
    int r = attach_leg(v, &config.superblock, err);
    if (!r)
        r = leg_capacity(&v->leg, &v->config, config.superblock.size_bytes, &config.capacity_bytes, err);
    if (r)
        return r;
    uint64_t room_bytes = leg_room_bytes(&v->leg, &v->config);
    if (config.superblock.size_bytes && room_bytes > config.superblock.size_bytes) {
        char text[STATUS_TEXT_BYTES];
        snprintf(text, sizeof(text),
                 "%s has room for %llu bytes, where the volume has %llu: `lockstep resize`, once the peer's has, too",
                 v->leg.bare->path, (unsigned long long)room_bytes, (unsigned long long)config.superblock.size_bytes);
        volume_note(v, NOTE_INFO, "leg", text);
    }
    v->tick_at_ns = UINT64_MAX;
    v->stepped = true;
    v->engine = engine_open(&config);
    v->ios = resident_calloc(MIRROR_OPS, sizeof(*v->ios));
    v->sync_ios = resident_calloc(VOLUME_SYNC_OPS, sizeof(*v->sync_ios));
    v->actions.list = resident_calloc(ACTIONS_MAX, sizeof(*v->actions.list));
    v->actions.max = ACTIONS_MAX;
    v->actions.text_bytes = 2 * ENGINE_TEXT_BYTES;
    v->actions.text = resident_calloc(1, v->actions.text_bytes);
    if (!v->engine || !v->ios || !v->sync_ios || !v->actions.list || !v->actions.text)
        return err_set(err, -ENOMEM, "out of memory");
    return load_metadata(v, err);
}
