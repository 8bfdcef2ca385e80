/* This node's leg: its superblock, and what fails on it. */
#include <errno.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

void leg_flush(struct engine *e, enum own_flush what_for, struct actions *out)
{
    assert(!e->own_flush_busy);
    e->own_flush_busy = true;
    e->own_flush_for = what_for;
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = OP_OWN_FLUSH;
    a->disk.kind = OP_FLUSH;
}

void leg_want_stable(struct engine *e)
{
    if (e->stable == STABLE_NOT)
        e->stable = STABLE_WANTED;
}

void leg_stable_advance(struct engine *e, struct actions *out)
{
    if (e->stable != STABLE_WANTED || e->own_flush_busy || e->leg_failed || e->sb_broken)
        return;
    /* Who ends has just flushed, and leaves nothing with its disk. */
    bool ending = e->role.phase == PHASE_DEMOTING || e->role.phase == PHASE_DETACHING;
    if (e->role.phase == PHASE_DETACHED || (ending && e->own_flushed))
        return;
    /* What completes later would not be covered. */
    if (mirror_completes_yet(e->mirror))
        return;
    e->stable = STABLE_FLUSHING;
    leg_flush(e, FLUSH_FOR_STABLE, out);
}

/* Of one that was begun before a session which was up meanwhile, nothing comes. */
void leg_on_stable_flushed(struct engine *e, int32_t result)
{
    if (e->stable == STABLE_FLUSHING && result == 0)
        e->stable = STABLE_ALL;
}

void superblock_write_if_wanted(struct engine *e, struct actions *out)
{
    if ((persisted(e) && !e->age.write) || e->sb_busy || e->sb_broken || e->grow.phase == GROW_MOVING)
        return;
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    e->sb.lsn = mirror.lsn;
    e->sb.sequence = e->sb_stable + 1;
    if (e->sb.heard_epoch <= e->sb.epoch) /* says nothing any more, and an earlier release refuses it */
        e->sb.heard_epoch = 0;
    e->sb_writing = e->sb;
    e->sb_busy = true;
    e->age.write = false;
    actions_add(out, ACT_META_WRITE)->meta.superblock = &e->sb_writing;
}

/* On record here, too: its own disk, which has failed, may not take that up. */
void peer_has_failed(struct engine *e)
{
    if (e->sb.peer_leg == LEG_FAILED)
        return;
    e->sb.peer_leg = LEG_FAILED;
    want_persisted(e);
}

void leg_failed(struct engine *e, const char *what, struct actions *out)
{
    if (e->leg_failed)
        return;
    e->leg_failed = true;
    e->peer_readable = false;
    mirror_set_peer_readable(e->mirror, false, out);
    /* It would serve, and each write would fail. Also by force: who ordered it did not know of this. */
    if (e->role.phase == PHASE_ASKING) {
        role_yield(&e->role);
        orders_finish(e, -EIO,
                      actions_text(out, "the leg of %s has failed (%s): mend its disk, or promote %s", e->config.node,
                                   what, e->config.peer),
                      out);
    }
    if (!diskless_begin(e, out))
        actions_note(out, NOTE_ERROR, "leg",
                     "the leg on %s has failed (%s): no write is acknowledged until it is mended", e->config.backing,
                     what);
}

void faults_handle(struct engine *e, struct mirror_faults faults, struct actions *out)
{
    /* On the secondary a failed write was not acknowledged and will be sent again, so that the leg is good once its
     * disk is; a failed flush may have lost what was acknowledged before. The application was told that a change of
     * this node's own failed, and the legs may differ there. Both last until a resync, also when they are not the first
     * to fail. */
    if (faults.leg && faults.flush && e->config.peer && !e->sb.reads_lie) {
        e->sb.reads_lie = true;
        want_persisted(e);
    }
    bool lasting = faults.leg && e->config.peer && (faults.flush || faults.own);
    if (lasting && e->sb.leg == LEG_SYNCING && !e->sb.lost_power) {
        e->sb.lost_power = true; /* and inconsistent it stays */
        want_persisted(e);
    } else if (lasting && e->sb.leg == LEG_UP_TO_DATE) {
        e->sb.leg = LEG_FAILED;
        want_persisted(e);
    }
    if (faults.leg && !e->leg_failed) {
        leg_failed(e, faults.flush ? "a flush" : "a write", out);
        /* The peer must not go on in the belief that there are two good legs: the next hello tells it. A primary learns
         * it from the acknowledgement; but what was begun in an earlier session is acknowledged to nobody, and a target
         * that goes on would call stable what it has just lost. */
        if (faults.own || faults.unheard || is_leading(e) || e->peer_state == PEER_SOURCE)
            session_drop(e, actions_text(out, "the leg of %s has failed", e->config.node), out);
    }
    /* The peer may be unable to record it, with the same disk: what it had not flushed counts as lost from now on. */
    if (faults.peer_flush) {
        mirror_unflushed_to_bitmap(e->mirror);
        peer_has_failed(e);
    }
    if (faults.peer_leg) {
        e->peer_leg = LEG_FAILED;
        session_drop(e, actions_text(out, "the leg of %s has failed", e->config.peer), out);
    }
}

void leg_fail_for_good(struct engine *e, const char *text, struct actions *out)
{
    mirror_fail_leg(e->mirror, out);
    faults_handle(e, (struct mirror_faults) { .leg = true, .flush = true, .own = is_leading(e) }, out);
    session_drop(e, text, out);
}

void superblock_on_written(struct engine *e, int32_t result, struct actions *out)
{
    assert(e->sb_busy);
    e->sb_busy = false;
    if (result == 0) {
        e->sb_stable = e->sb_writing.sequence;
        e->sb_wanted = max_u64(e->sb_wanted, e->sb_stable);
        e->age.stable = e->sb_writing.age;
        e->age.peer_stable = e->sb_writing.peer_age;
        return;
    }
    /* Promise 7: a failed metadata write fails the leg. What was to be persisted must not happen. */
    e->sb_broken = true;
    actions_note(out, NOTE_ERROR, "leg", "the superblock on %s could not be written: %s. The leg has failed",
                 e->config.backing, strerror(-result));
    mirror_fail_leg(e->mirror, out);
    leg_failed(e, "its superblock", out);
    e->sb.leg = LEG_FAILED;
    session_drop(e, "the leg's metadata could not be written", out);
    swaps_promotion_fails(e, TEXT_BROKEN, out);
    /* A demotion or detach goes on to its end, which is not reached before nothing is in flight. */
    if (e->role.phase == PHASE_ASKING || e->role.phase == PHASE_PROMOTING) {
        role_yield(&e->role);
        orders_finish(e, -EIO, TEXT_BROKEN, out);
    }
}
