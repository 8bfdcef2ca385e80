/* The conductor: routes each event to mirror, sync or role, and does what they need of each other. */
#include "repl/engine/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

void engine_attach(struct superblock *sb, struct id boot_id, bool has_peer)
{
    /* A pair stays one while its configuration names one node only: what happened to it counts when they meet again. */
    bool is_pair = has_peer || !id_is_none(sb->peer_leg_id);
    if (sb->attached && is_pair) {
        sb->unclean |= sb->role == ROLE_PRIMARY;
        sb->lost_power |= !id_equal(sb->boot_id, boot_id) && !sb->pristine;
    }
    sb->role = ROLE_SECONDARY;
    sb->attached = true;
    sb->boot_id = boot_id;
    sb->sequence++;
}

struct engine *engine_open(const struct engine_config *config)
{
    assert(config->window_frames > 0 && config->window_bytes >= IO_BYTES_MAX);
    struct engine *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->config = *config;
    e->sb = config->superblock;
    e->sb_wanted = e->sb.sequence;
    e->sb_stable = e->sb.sequence;
    e->peer_leg = LEG_NONE;
    e->untouched = e->sb.pristine;
    range_locks_init(&e->locks);
    e->mirror = mirror_open(&(struct mirror_config) {
        .backing = config->backing, .peer = config->peer, .locks = &e->locks, .lsn = e->sb.lsn });
    if (!e->mirror) {
        free(e);
        return NULL;
    }
    mirror_set_size(e->mirror, e->sb.size_bytes);
    if (e->sb.leg == LEG_FAILED)
        mirror_fail_leg(e->mirror, NULL);
    e->leg_failed = e->sb.leg == LEG_FAILED;
    return e;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    mirror_close(e->mirror);
    free(e);
}

/* Why the volume is not protected, or NULL when it is. */
const char *engine_why_not(struct engine *e)
{
    if (!e->config.peer)
        return "the volume has a single node";
    if (own_leg(e) != LEG_UP_TO_DATE) {
        snprintf(e->why_not, sizeof(e->why_not), "the leg of %s has failed", e->config.node);
        return e->why_not;
    }
    if (e->session == SESSION_UP)
        return NULL;
    if (e->refused[0])
        return e->refused;
    if (e->peer_leg == LEG_FAILED)
        snprintf(e->why_not, sizeof(e->why_not), "the leg of %s has failed", e->config.peer);
    else
        snprintf(e->why_not, sizeof(e->why_not), "no connection to %s", e->config.peer);
    return e->why_not;
}

/* Whatever has become possible, happens: by level, not by edge, so that no order of events can leave it undone. */
static void engine_advance(struct engine *e, struct actions *out)
{
    faults_handle(e, mirror_take_faults(e->mirror), out);
    superblock_write_if_wanted(e, out);
    if (e->session == SESSION_JUDGED && persisted(e)) {
        e->session = SESSION_READY;
        actions_add(out, ACT_SESSION_READY);
    }
    if (e->session == SESSION_UP && e->decree_owed && persisted(e)) {
        e->decree_owed = false;
        e->peer_epoch = e->decree_epoch;
        decree_send(FRAME_ACK, e->decree_epoch, 0, out);
        mirror_peer_ready(e->mirror, e->sb.epoch, e->peer.window_frames, e->peer.window_bytes, out);
    }
    /* With its leg failed this node acknowledges nothing any more: what waits for the peer ends, with an error. */
    if (e->leg_failed && e->session == SESSION_NONE && is_leading(e))
        mirror_abandon_waiting(e->mirror, -EIO, out);
    orders_carry_out(e, out);
    if (e->session == SESSION_UP && is_leading(e) && !e->peer_ready && e->peer_epoch == e->sb.epoch && persisted(e)) {
        e->peer_ready = true;
        mirror_peer_ready(e->mirror, e->sb.epoch, e->peer.window_frames, e->peer.window_bytes, out);
    }
    bool in_sync = engine_why_not(e) == NULL;
    if (in_sync != e->was_in_sync && e->config.peer)
        actions_note(out, in_sync ? NOTE_INFO : NOTE_WARNING, "protected", in_sync ? "protected" : "not protected: %s",
                     in_sync ? "" : engine_why_not(e));
    e->was_in_sync = in_sync;
}

/* The events of the write path change nothing but the mirror, as long as nothing fails and nobody waits for idleness.
 */
static bool is_steady(struct engine *e)
{
    return (e->role.phase == PHASE_PRIMARY || e->role.phase == PHASE_SECONDARY) && !mirror_has_faults(e->mirror);
}

void engine_step(struct engine *e, const struct event *ev, struct actions *out)
{
    switch (ev->kind) {
    case EV_REQUEST:
        assert(role_is_serving(&e->role));
        mirror_request(e->mirror, &ev->request, ev->now_ns, out);
        if (is_steady(e))
            return;
        break;
    case EV_DISK_DONE:
        if (ev->disk.op != OP_OWN_FLUSH) {
            mirror_disk_done(e->mirror, ev->disk.op, ev->disk.result, out);
            if (is_steady(e))
                return;
            break;
        }
        e->own_flush_busy = false;
        e->own_flushed = true;
        if (ev->disk.result) {
            actions_note(out, NOTE_ERROR, "disk", "flush failed on %s: %s", e->config.backing,
                         strerror(-ev->disk.result));
            mirror_fail_leg(e->mirror, out);
            faults_handle(e, (struct mirror_faults) { .leg = true, .flush = true }, out);
        }
        break;
    case EV_FRAME:
        session_on_frame(e, &ev->frame.frame, ev->frame.payload, out);
        if (ev->frame.frame.kind != FRAME_DECREE && ev->frame.frame.tag != TAG_DECREE && e->session == SESSION_UP &&
            is_steady(e))
            return;
        break;
    case EV_META_DONE: superblock_on_written(e, ev->meta.result, out); break;
    case EV_META_PAGE_DONE:
    case EV_TICK: break;
    case EV_HELLO: session_on_hello(e, ev->hello, out); break;
    case EV_SESSION_UP: session_on_up(e, out); break;
    case EV_SESSION_DOWN: session_on_down(e, out); break;
    case EV_PROMOTE: order_promote(e, ev->order.force, ev->order.cookie, out); break;
    case EV_DEMOTE: order_demote(e, ev->order.force, ev->order.cookie, out); break;
    case EV_DETACH: order_detach(e, ev->order.force, ev->order.cookie, out); break;
    }
    engine_advance(e, out);
}

bool engine_can_accept(const struct engine *e, enum op_kind kind)
{
    return role_is_serving(&e->role) && mirror_can_accept(e->mirror, kind);
}

void engine_hello(struct engine *e, struct hello *out)
{
    e->said_epoch = e->sb.epoch;
    *out = (struct hello) {
        .version = PROTOCOL_VERSION,
        .size_bytes = e->sb.size_bytes,
        .capacity_bytes = e->config.capacity_bytes,
        .volume_id = e->sb.volume_id,
        .leg_id = e->sb.leg_id,
        .peer_leg_id = e->sb.peer_leg_id,
        .epoch = e->sb.epoch,
        /* Also while it takes its epoch alone, and while it drains to detach: it will serve, or still has changes. */
        .role = is_leading(e) || e->role.phase == PHASE_PROMOTING ? ROLE_PRIMARY : ROLE_SECONDARY,
        .leg = own_leg(e),
        .pristine = engine_is_pristine(e),
        .lost_power = e->sb.lost_power,
        .unclean_primary = e->sb.unclean,
        .window_frames = e->config.window_frames,
        .window_bytes = e->config.window_bytes,
        .block_bytes = own_block_bytes(e),
        .served_block_bytes = is_leading(e) ? e->served_block_bytes : 0,
        .granule_bytes = 4096,
    };
    snprintf(out->volume, sizeof(out->volume), "%s", e->config.volume);
    snprintf(out->node, sizeof(out->node), "%s", e->config.node);
    snprintf(out->peer, sizeof(out->peer), "%s", e->config.peer ? e->config.peer : "");
}

void engine_view(struct engine *e, struct engine_view *out)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    *out = (struct engine_view) {
        .role = is_leading(e) ? ROLE_PRIMARY : ROLE_SECONDARY,
        .serving = role_is_serving(&e->role),
        .epoch = e->sb.epoch,
        .lsn = mirror.lsn,
        .size_bytes = e->sb.size_bytes,
        .block_bytes = e->served_block_bytes,
        .leg = own_leg(e),
        .session_up = e->session == SESSION_UP,
        .peer_leg = e->peer_leg,
        .why_not = engine_why_not(e),
        .writes_waiting = mirror.waiting,
        .oldest_waiting_ns = mirror.oldest_waiting_ns,
    };
    out->in_sync = out->why_not == NULL;
}
