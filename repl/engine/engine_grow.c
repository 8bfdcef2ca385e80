/* This leg gets room for a larger volume.
 *
 * Step by step, so that after a crash at any of them the leg is found as it was, or with room (docs/RECOVERY.md):
 * the metadata's new place is cleared; what will be data is zeroed, but for the metadata's former place; the activity
 * log is copied while nothing of it is written; the superblock goes to the new place, which makes it count; the former
 * place is zeroed, too, and with it the old superblocks; then the superblock says that there is room. The size of the
 * volume stays as it is: that is engine_resize.c. */
#include <errno.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

#define ZERO_STEP_BYTES (16 * MIB) /* one at a time: the application's requests go beside it */

uint64_t grow_room_bytes(const struct engine *e) { return max_u64(e->sb.size_bytes, e->sb.room_bytes); }

struct engine_growth grow_view(const struct engine *e)
{
    bool zeroes = e->grow.phase != GROW_IDLE;
    return (struct engine_growth) { .active = zeroes || e->resize.ordered,
                                    .waits_for_peer = e->resize.own_ready && !e->resize.peer_ready,
                                    .done_bytes = zeroes ? e->grow.zeroed_bytes : 0,
                                    .total_bytes = zeroes ? e->grow.total_bytes : 0 };
}

bool grow_is_idle(const struct engine *e) { return e->grow.phase == GROW_IDLE; }

bool grow_holds_log(const struct engine *e)
{
    return e->grow.phase == GROW_QUIETING || e->grow.phase == GROW_MOVING || e->grow.phase == GROW_RECORDING;
}

static void shell_step(enum grow_step step, struct actions *out) { actions_add(out, ACT_GROW)->grow.step = step; }

static void ended(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    e->grow.phase = GROW_IDLE;
    if (result)
        actions_note(out, NOTE_WARNING, "leg", "no room for a larger volume: %s", text);
    resize_on_room(e, result, text, out);
}

void grow_begin(struct engine *e, struct actions *out)
{
    if (e->grow.phase != GROW_IDLE)
        return;
    e->grow = (struct engine_grow) { .phase = GROW_LOOKING };
    shell_step(GROW_LOOK, out);
}

/* Zeroes [cursor, end) but for `spare`, then flushes. True: all is done. */
static bool zero(struct engine *e, uint64_t end, struct range spare, struct actions *out)
{
    struct engine_grow *g = &e->grow;
    if (g->disk_busy)
        return false;
    if (g->cursor_bytes >= spare.offset_bytes && g->cursor_bytes < range_end(spare))
        g->cursor_bytes = range_end(spare);
    if (g->cursor_bytes >= end && g->flushing)
        return true;
    g->disk_busy = true;
    g->piece_bytes = 0;
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = OP_GROW;
    if (g->cursor_bytes >= end) {
        g->flushing = true;
        a->disk.kind = OP_FLUSH;
        return false;
    }
    uint64_t stop = g->cursor_bytes < spare.offset_bytes && spare.length_bytes ? min_u64(end, spare.offset_bytes) : end;
    a->disk.kind = OP_WRITE_ZEROES;
    a->disk.offset_bytes = g->cursor_bytes;
    a->disk.length_bytes = min_u64(stop - g->cursor_bytes, ZERO_STEP_BYTES);
    g->piece_bytes = a->disk.length_bytes;
    g->cursor_bytes += g->piece_bytes;
    return false;
}

static void begin_zeroing(struct engine *e, enum grow_phase phase, uint64_t from_bytes)
{
    e->grow.phase = phase;
    e->grow.cursor_bytes = from_bytes;
    e->grow.flushing = false;
}

static void note_room(struct engine *e)
{
    e->grow.phase = GROW_NOTING;
    e->sb.room_bytes = e->grow.plan.data_bytes;
    e->sb.moved_from_bytes = 0;
    want_persisted(e);
}

/* What makes going on pointless; NULL: nothing. */
static const char *obstacle(const struct engine *e)
{
    if (e->leg_failed || e->sb_broken)
        return "the leg has failed";
    if (e->role.phase == PHASE_DEMOTING || e->role.phase == PHASE_DETACHING || e->role.phase == PHASE_DETACHED)
        return "the volume is being taken down or demoted";
    return NULL;
}

static void advance(struct engine *e, struct actions *out)
{
    struct engine_grow *g = &e->grow;
    const struct grow_plan *p = &g->plan;
    const char *text = obstacle(e);
    switch (g->phase) {
    case GROW_IDLE:
    case GROW_LOOKING:
    case GROW_MOVING: return; /* the shell answers */
    case GROW_ZEROING:
        if (text && !g->disk_busy)
            ended(e, -ECANCELED, text, out);
        else if (zero(e, p->data_bytes, p->former, out)) {
            if (p->move)
                g->phase = GROW_QUIETING;
            else
                note_room(e);
        }
        return;
    case GROW_QUIETING:
        /* The bitmap's new place is all zeroes, so that there must be nothing in it. */
        if (!text && (e->sb.full || bitmap_dirty_bytes(e->bitmap)))
            text = "the legs differ: it can be done once they are equal";
        if (text) {
            ended(e, -ECANCELED, text, out);
            return;
        }
        if (!log_is_idle(e) || e->sb_busy || !persisted(e))
            return;
        g->phase = GROW_MOVING;
        shell_step(GROW_MOVE, out);
        return;
    case GROW_RECORDING:
        if (e->sb_broken)
            ended(e, -EIO, text, out);
        else if (persisted(e) && p->former.length_bytes)
            begin_zeroing(e, GROW_WIPING, p->former.offset_bytes);
        else if (persisted(e))
            note_room(e);
        return;
    case GROW_WIPING:
        if (text && !g->disk_busy)
            ended(e, -ECANCELED, text, out);
        else if (zero(e, range_end(p->former), (struct range) { 0, 0 }, out))
            note_room(e);
        return;
    case GROW_NOTING:
        if (e->sb_broken)
            ended(e, -EIO, text, out);
        else if (persisted(e))
            ended(e, 0, NULL, out);
        return;
    }
}

void grow_advance(struct engine *e, struct actions *out)
{
    enum grow_phase before;
    do {
        before = e->grow.phase;
        advance(e, out);
    } while (e->grow.phase != before);
    resize_advance(e, out);
}

/* The shell has looked. */
static void looked(struct engine *e, const struct grow_plan *plan, struct actions *out)
{
    e->grow.plan = *plan;
    uint64_t room = grow_room_bytes(e);
    if (plan->data_bytes <= room) {
        ended(e, 0, NULL, out);
        return;
    }
    if (room % own_block_bytes(e)) {
        ended(e, -EINVAL, "the volume's size is no multiple of the disk's blocks", out);
        return;
    }
    /* What is said to be room stays as it is: a handshake may make it part of the volume at any time. */
    e->grow.total_bytes = plan->data_bytes - room;
    begin_zeroing(e, GROW_ZEROING, room);
}

void grow_on_done(struct engine *e, const struct event *ev, struct actions *out)
{
    struct engine_grow *g = &e->grow;
    const char *reason = ev->grow.reason ? ev->grow.reason : strerror(-ev->grow.result);
    if (ev->grow.flush_failed) { /* the disk's, and not only of the metadata's new place: as below */
        ended(e, ev->grow.result, actions_text(out, "%s", reason), out);
        leg_fail_for_good(e, actions_text(out, "the leg of %s has failed", e->config.node), out);
        return;
    }
    switch (ev->grow.step) {
    case GROW_LOOK:
        assert(g->phase == GROW_LOOKING);
        if (ev->grow.result)
            ended(e, ev->grow.result, actions_text(out, "%s", reason), out);
        else
            looked(e, &ev->grow.plan, out);
        return;
    case GROW_MOVE:
        assert(g->phase == GROW_MOVING);
        if (ev->grow.result) {
            ended(e, ev->grow.result, actions_text(out, "%s", reason), out);
            return;
        }
        if (g->plan.former.length_bytes)
            e->sb.moved_from_bytes = e->sb.backing_bytes;
        e->sb.backing_bytes = g->plan.backing_bytes;
        g->phase = GROW_RECORDING;
        want_persisted(e);
        return;
    }
}

void grow_on_disk_done(struct engine *e, int32_t result, struct actions *out)
{
    struct engine_grow *g = &e->grow;
    assert(g->disk_busy);
    g->disk_busy = false;
    if (result == 0) {
        g->zeroed_bytes += g->piece_bytes;
        return;
    }
    /* What could not be zeroed, nobody counts on: there is no room, that is all. A flush is of the whole disk: what the
     * application has completed may be lost with it, and the next one succeeds. */
    bool may_have_lost = g->flushing;
    ended(e, result,
          actions_text(out, "%s of what is to be added failed on %s: %s", g->flushing ? "a flush" : "the zeroing",
                       e->config.backing, strerror(-result)),
          out);
    if (may_have_lost)
        leg_fail_for_good(e, actions_text(out, "the leg of %s has failed", e->config.node), out);
}
