/* The conductor: routes each event to mirror, sync or role, and does what they need of each other. */
#include "repl/engine/engine.h"
#include "repl/base/resident.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

void engine_attach(struct superblock *sb, struct id boot_id, bool has_peer)
{
    /* A pair stays one while its configuration names one node only: what happened to it counts when they meet again. */
    bool is_pair = has_peer || !id_is_none(sb->peer_leg_id);
    /* A leg without a history has been part of nothing; but one in its first resync is getting the other's changes. */
    if (sb->attached && is_pair && (sb->history.count > 0 || sb->leg == LEG_SYNCING))
        sb->lost_power |= !id_equal(sb->boot_id, boot_id);
    /* A flush had failed: what it was to save may be lost, as if the power had gone. */
    if (sb->leg == LEG_FAILED) {
        sb->leg = LEG_UP_TO_DATE;
        sb->lost_power |= is_pair;
    }
    /* A cache does not outlive its machine's run: what is read now is what is there. */
    sb->first_of_run = !id_equal(sb->boot_id, boot_id);
    if (sb->first_of_run)
        sb->reads_lie = false;
    if (sb->age == 0) /* from here on it tells */
        sb->age = 1;
    sb->role = ROLE_SECONDARY;
    sb->unclean = sb->attached;
    sb->attached = true;
    sb->boot_id = boot_id;
    sb->sequence++;
}

static bool open_parts(struct engine *e)
{
    const struct engine_config *c = &e->config;
    struct err err = { 0 };
    e->bitmap =
        bitmap_open(e->sb.size_bytes, c->granule_bytes ? c->granule_bytes : GRANULE_BYTES_DEFAULT, e->sb.leg_id, &err);
    e->al = al_open(&(struct al_options) { .size_bytes = e->sb.size_bytes,
                                           .extent_bytes = c->extent_bytes ? c->extent_bytes : EXTENT_BYTES_DEFAULT,
                                           .slots = c->log_slots,
                                           .ring_blocks = c->log_blocks,
                                           .owner = e->sb.leg_id },
                    &err);
    range_locks_init(&e->locks);
    if (!e->bitmap || !e->al)
        return false;
    e->mirror = mirror_open(&(struct mirror_config) { .backing = c->backing,
                                                      .peer = c->peer,
                                                      .locks = &e->locks,
                                                      .al = c->peer ? e->al : NULL,
                                                      .bitmap = c->peer ? e->bitmap : NULL,
                                                      .pool = c->pool,
                                                      .pool_keep_free_bytes = c->pool_keep_free_bytes,
                                                      .unflushed_max = c->unflushed_max,
                                                      .lsn = e->sb.lsn });
    return e->mirror && sync_open(e);
}

struct engine *engine_open(const struct engine_config *config)
{
    assert(config->window_frames > 0 && config->window_bytes >= IO_BYTES_MAX);
    struct engine *e = resident_calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->config = *config;
    e->chance = prng_seed(config->seed);
    e->sb = config->superblock;
    e->sb_wanted = e->sb.sequence;
    e->sb_stable = e->sb.sequence;
    e->age.stable = e->sb.age;
    e->age.peer_stable = e->sb.peer_age;
    e->age.lsn = e->sb.lsn;
    e->peer_leg = LEG_NONE;
    e->memory_at_ns = UINT64_MAX;
    e->stall_look_ns = UINT64_MAX;
    e->witness.patience_ns = UINT64_MAX;
    e->untouched = e->sb.pristine;
    if (!open_parts(e)) {
        engine_close(e);
        return NULL;
    }
    mirror_set_size(e->mirror, e->sb.size_bytes);
    register_begin(e);
    return e;
}

bool engine_fix_size(struct engine *e, uint64_t size_bytes)
{
    if (e->sb.size_bytes == size_bytes)
        return true;
    struct err err = { 0 };
    if (bitmap_resize(e->bitmap, size_bytes, &err))
        return false;
    al_set_size(e->al, size_bytes);
    mirror_set_size(e->mirror, size_bytes);
    e->sb.size_bytes = size_bytes;
    want_persisted(e);
    /* An older copy of a smaller leg: what its bits say ends where it did. */
    if (e->sb.full || e->sb.went_back)
        log_count_all(e);
    return true;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    sync_close(e);
    if (e->mirror)
        mirror_close(e->mirror);
    if (e->bitmap)
        bitmap_close(e->bitmap);
    if (e->al)
        al_close(e->al);
    free(e);
}

/* Asked after most events, so without the words. */
bool engine_is_in_sync(const struct engine *e)
{
    return e->config.peer && own_leg(e) == LEG_UP_TO_DATE && e->session == SESSION_UP &&
           e->peer_state == PEER_IN_SYNC && !superblock_is_doubtful(&e->sb) && bitmap_dirty_bytes(e->bitmap) == 0;
}

__attribute__((format(printf, 2, 3))) static const char *why(struct engine *e, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(e->why_not, sizeof(e->why_not), format, ap);
    va_end(ap);
    return e->why_not;
}

/* The leg that is being resynced was made the only member by force, and its node died before it knew. NULL: it was
 * not. */
static const char *why_source_does_not_count(struct engine *e)
{
    const struct decree *d = &e->witness.decree;
    bool resyncs = e->session == SESSION_UP && (e->peer_state == PEER_TARGET || e->peer_state == PEER_SOURCE);
    bool own_is_source = e->peer_state == PEER_TARGET;
    bool current = register_rules(e) && !decree_is_none(d) && d->epoch >= e->sb.epoch;
    if (!resyncs || !current || decree_has_member(d, own_is_source ? e->sb.leg_id : e->peer.leg_id))
        return NULL;
    const char *from = own_is_source ? e->config.node : e->config.peer;
    const char *to = own_is_source ? e->config.peer : e->config.node;
    return why(
        e,
        "the leg of %s is being resynced from %s, which is not in the in-sync set by the witness: that of %s was "
        "promoted by force before it was complete. When it is, `lockstep promote --force` on %s",
        to, from, to, from);
}

static const char *why_own_leg_is_not_whole(struct engine *e)
{
    const char *node = e->config.node, *peer = e->config.peer;
    if (own_leg(e) == LEG_SYNCING && e->session == SESSION_UP)
        return why(e, "the leg of %s is being resynced from %s", node, peer);
    if (own_leg(e) == LEG_SYNCING)
        return why(e, "the leg of %s is inconsistent until its resync from %s goes on", node, peer);
    if (own_leg(e) != LEG_UP_TO_DATE)
        return why(e, "the leg of %s is %s", node, leg_state_name(own_leg(e)));
    if (e->sb.went_back && e->session != SESSION_UP && (!e->refused[0] || e->refused_for_now))
        return why(e,
                   "the disk of %s was put back from an older copy: its leg lacks what was written since, and gets "
                   "everything from %s as soon as that is there. Without it: what %s has is all there is after "
                   "`lockstep promote --force`, which accepts the loss",
                   node, peer, node);
    return NULL;
}

static const char *why_not_in_session(struct engine *e)
{
    const char *node = e->config.node, *peer = e->config.peer;
    if (e->peer_state == PEER_IN_SYNC && e->sb.differs)
        return why(e,
                   "the leg of %s differs from that of %s, as a verify there has found: `lockstep verify --repair` "
                   "on %s",
                   node, peer, peer);
    if (e->peer_state == PEER_IN_SYNC)
        return why(e, "%llu bytes differ, as a verify has found: `lockstep verify --repair`",
                   (unsigned long long)bitmap_dirty_bytes(e->bitmap));
    if (e->peer_state == PEER_THROUGH)
        return why(e,
                   "the leg of %s has failed, and it serves through this one, the only one. Demote it, and promote %s",
                   peer, node);
    return why(e, "the leg of %s is being resynced", e->peer_state == PEER_TARGET ? peer : node);
}

static const char *why_not_apart(struct engine *e)
{
    const char *node = e->config.node, *peer = e->config.peer;
    if (e->refused[0])
        return e->refused;
    if (e->peer_leg == LEG_FAILED)
        return why(e, "the leg of %s has failed", peer);
    if (is_leading(e) && e->config.failover.has_register && !e->sb.registered && !e->alone)
        return why(e,
                   "no connection to %s, and the volume has no decree yet: the first one is made when both legs are in "
                   "sync, and without it %s does not go on alone. If %s is gone for good, take `witness` out of the "
                   "configuration until another one is in its place",
                   peer, node, peer);
    if (e->alone)
        return why(e, "no connection to %s; %s goes on alone since epoch %llu", peer, node,
                   (unsigned long long)alone_epoch(e));
    if (!is_leading(e))
        return why(e, "no connection to %s", peer);
    /* What it shows as served is not, as long as that lasts. */
    bool may_be_deposed = register_rules(e) && e->witness.state != REGISTER_STATE_REACHABLE;
    const char *then = may_be_deposed ? ", and it may serve by now" : "";
    if (e->witness.reads_held)
        return why(e, "no connection to %s: reads and writes wait here%s", peer, then);
    return why(e, "no connection to %s: writes wait here%s", peer, then);
}

/* Why the volume is not protected, or NULL when it is. */
const char *engine_why_not(struct engine *e)
{
    /* What was acknowledged may be on both, and yet nothing is served. */
    if (release_is_stuck(e))
        return why(e, "%s serves no more, and waits for the witness to hear that nobody is to serve", e->config.node);
    if (handover_is_stuck(e))
        return why(e, "%s has stopped for a switchover, and waits for the witness to tell who serves", e->config.node);
    if (engine_is_in_sync(e))
        return NULL;
    if (!e->config.peer)
        return "the volume has a single node";
    if (diskless_is(e))
        return diskless_why_not(e);
    struct resync_view resync;
    if (sync_progress(e, &resync) && resync.unreadable_bytes) {
        bool is_target = e->peer_state == PEER_SOURCE;
        return why(e,
                   "the leg of %s is being resynced, and what cannot be read on %s, as at offset %llu, stays out of "
                   "sync until it is written",
                   is_target ? e->config.node : e->config.peer, is_target ? e->config.peer : e->config.node,
                   (unsigned long long)resync.unreadable_offset_bytes);
    }
    const char *text = why_source_does_not_count(e);
    if (!text)
        text = why_own_leg_is_not_whole(e);
    if (!text)
        text = e->session == SESSION_UP ? why_not_in_session(e) : why_not_apart(e);
    return text;
}

#define MEMORY_RETRY_NS (10 * NS_PER_MS) /* the peer's reads wait for buffers */

/* Changes go to the peer when it has our epoch on disk. */
static void send_changes_when_possible(struct engine *e, struct actions *out)
{
    /* Diskless, what counts is what the peer has on record. */
    bool recorded = persisted(e) || e->leg_is_out;
    if (e->session != SESSION_UP || !is_leading(e) || !recorded || e->peer_epoch < e->sb.epoch)
        return;
    if (e->peer_ready)
        return;
    e->peer_ready = true;
    alone_end(e, out);
}

/* What this leg cannot read, the peer's can, as long as it has everything. */
static void mask_reads_when_possible(struct engine *e, uint64_t now_ns, struct actions *out)
{
    bool readable =
        e->session == SESSION_UP && is_leading(e) && e->peer_ready && e->peer_state == PEER_IN_SYNC && !e->leg_failed;
    if (readable != e->peer_readable) {
        e->peer_readable = readable;
        mirror_set_peer_readable(e->mirror, readable, out);
    }
    e->memory_at_ns = UINT64_MAX;
    if (mirror_wants_memory(e->mirror)) {
        mirror_memory_came_back(e->mirror, out);
        e->memory_at_ns = mirror_wants_memory(e->mirror) ? now_ns + MEMORY_RETRY_NS : UINT64_MAX;
    }
}

/* Bounds what counts as out of sync when the peer or its power is lost, and what the activity log has to keep. */
#define OWN_FLUSH_NS (5 * NS_PER_S)

static void flush_when_wanted(struct engine *e, uint64_t now_ns, struct actions *out)
{
    if (!is_leading(e) || e->leg_failed)
        return;
    bool wanted = mirror_wants_flush(e->mirror);
    if (now_ns >= e->flush_at_ns) {
        struct mirror_view mirror;
        mirror_view(e->mirror, &mirror);
        e->flush_at_ns = now_ns + OWN_FLUSH_NS;
        wanted |= mirror.unflushed > 0;
        log_seal(e, out);
    }
    if (wanted)
        mirror_flush(e->mirror, now_ns, out);
}

/* Whatever has become possible, happens: by level, not by edge, so that no order of events can leave it undone. */
static void engine_advance(struct engine *e, uint64_t now_ns, struct actions *out)
{
    faults_handle(e, mirror_take_faults(e->mirror), out);
    verify_end_if_overtaken(e, out);
    superblock_write_if_wanted(e, out);
    /* What a failed leg still records of itself, nobody waits for. */
    if (e->session == SESSION_JUDGED && (persisted(e) || diskless_is(e)) && sync_may_begin(e)) {
        e->session = SESSION_READY;
        actions_add(out, ACT_SESSION_READY);
    }
    if (e->session == SESSION_UP && e->taken_owed && persisted(e)) {
        e->taken_owed = false;
        e->peer_epoch = max_u64(e->peer_epoch, e->taken_epoch);
        decree_send(FRAME_ACK, FRAME_FLAG_TAKEN, e->taken_epoch, 0, out);
    }
    if (e->session == SESSION_UP && e->decree_owed && persisted(e)) {
        e->decree_owed = false;
        e->peer_epoch = e->decree_epoch;
        decree_send(FRAME_ACK, 0, e->decree_epoch, 0, out);
        alone_end(e, out);
    }
    /* With its leg failed this node acknowledges nothing any more: what waits for the peer ends, with an error. */
    if (e->leg_failed && !diskless_is(e) && e->session == SESSION_NONE && is_leading(e))
        mirror_abandon_waiting(e->mirror, -EIO, out);
    send_changes_when_possible(e, out); /* a draining primary ends over its session... */
    grow_advance(e, out);
    resolve_advance(e, out);
    register_advance(e, out); /* an answer begins something... */
    promotions_advance(e, out);
    orders_carry_out(e, now_ns, out);
    order_serve_size(e, out);
    alone_advance(e, now_ns, out);
    leg_stable_advance(e, out);
    send_changes_when_possible(e, out); /* ... and one that has just been promoted begins with it */
    mask_reads_when_possible(e, now_ns, out);
    sync_advance(e, now_ns, out);
    verify_advance(e, now_ns, out);
    log_advance(e, out);
    flush_when_wanted(e, now_ns, out);
    diskless_advance(e, out);
    age_advance(e, out);
    stall_look(e, out);
    patience_look(e, out);
    hold_look(e, out);
    register_advance(e, out); /* ... and what has begun may be a question */
    leg_stable_advance(e, out);
    lease_look(e, out);
    superblock_write_if_wanted(e, out);
    bool in_sync = engine_is_in_sync(e) && !handover_is_stuck(e) && !release_is_stuck(e);
    if (in_sync != e->was_in_sync && e->config.peer)
        actions_note(out, in_sync ? NOTE_INFO : NOTE_WARNING, "protected", in_sync ? "protected" : "not protected: %s",
                     in_sync ? "" : engine_why_not(e));
    e->was_in_sync = in_sync;
}

/* The events of the write path change nothing but the mirror, as long as nothing fails and nobody waits for idleness.
 * Nor do they while a block of the log is on its way: who waits then is looked at when it has come. */
static bool is_steady(struct engine *e)
{
    return (e->role.phase == PHASE_PRIMARY || e->role.phase == PHASE_SECONDARY) &&
           !mirror_needs_engine(e->mirror, e->log.phase == LOG_IDLE) && e->verify.mend == MEND_NOTHING &&
           e->stable != STABLE_WANTED;
}

static bool is_of_write_path(const struct frame *f)
{
    return f->kind >= FRAME_WRITE && f->kind <= FRAME_ACK && f->tag != TAG_DECREE;
}

void engine_step(struct engine *e, const struct event *ev, struct actions *out)
{
    e->now_ns = ev->now_ns;
    lease_look(e, out);
    switch (ev->kind) {
    case EV_REQUEST:
        if (patience_is_over(e)) {
            patience_fail(&ev->request, out);
            return;
        }
        assert(role_is_serving(&e->role));
        e->request_ns = ev->now_ns;
        mirror_request(e->mirror, &ev->request, ev->now_ns, out);
        if (is_steady(e))
            return;
        break;
    case EV_DISK_DONE:
        if (verify_owns(ev->disk.op)) {
            verify_on_disk_done(e, ev->disk.op, ev->disk.result, ev->now_ns, out);
            break;
        }
        if (sync_owns(ev->disk.op)) {
            if (!sync_on_disk_done(e, ev->disk.op, ev->disk.result, ev->now_ns, out) && is_steady(e))
                return;
            break;
        }
        if (ev->disk.op == OP_GROW) {
            grow_on_disk_done(e, ev->disk.result, out);
            break;
        }
        if (ev->disk.op == OP_KEEP) {
            resolve_on_disk_done(e, ev->disk.result);
            break;
        }
        if (ev->disk.op != OP_OWN_FLUSH) {
            mirror_disk_done(e->mirror, ev->disk.op, ev->disk.result, out);
            if (is_steady(e))
                return;
            break;
        }
        e->own_flush_busy = false;
        switch (e->own_flush_for) {
        case FLUSH_FOR_ENDING: e->own_flushed = true; break;
        case FLUSH_FOR_STABLE: leg_on_stable_flushed(e, ev->disk.result); break;
        case FLUSH_IN_VAIN: break;
        }
        if (ev->disk.result) {
            actions_note(out, NOTE_ERROR, "disk", "flush failed on %s: %s", e->config.backing,
                         strerror(-ev->disk.result));
            mirror_fail_leg(e->mirror, out);
            faults_handle(e, (struct mirror_faults) { .leg = true, .flush = true }, out);
            session_drop(e, actions_text(out, "the leg of %s has failed", e->config.node), out);
        }
        break;
    case EV_FRAME:
        session_on_frame(e, &ev->frame.frame, ev->frame.payload, ev->now_ns, out);
        if (is_of_write_path(&ev->frame.frame) && e->session == SESSION_UP && is_steady(e))
            return;
        break;
    case EV_META_DONE: superblock_on_written(e, ev->meta.result, out); break;
    case EV_META_PAGE_DONE: log_on_page_done(e, ev->page.area, ev->page.index, ev->page.result, out); break;
    case EV_TICK: break;
    case EV_HELD_GONE: hold_forget(e); break;
    case EV_HELLO: session_on_hello(e, ev->hello, out); break;
    case EV_PEER_READY: session_on_peer_ready(e); break;
    case EV_SESSION_UP: session_on_up(e, ev->now_ns, ev->heard.sent_ns, out); break;
    case EV_SESSION_DOWN: session_on_down(e, ev->now_ns, ev->down.heard_ns, out); break;
    case EV_PROMOTE: order_promote(e, ev->order.force, ev->order.cookie, out); break;
    case EV_DEMOTE: order_demote(e, ev->order.force, ev->order.cookie, out); break;
    case EV_VERIFY:
        e->verify.order_s = ev->order.unix_s;
        verify_order(e, ev->order.force, ev->order.cookie, ev->now_ns, out);
        break;
    case EV_RESIZE: resize_order(e, ev->order.cookie, out); break;
    case EV_GROW_DONE: grow_on_done(e, ev, out); break;
    case EV_RESOLVE: resolve_order(e, ev->order.force, ev->order.cookie, out); break;
    case EV_KEEP_DONE: resolve_on_keep_done(e, ev->keep.result, ev->keep.reason); break;
    case EV_REGISTER: register_on_answer(e, ev->answer, out); break;
    case EV_ADOPT: adopt_order(e, ev->order.cookie, out); break;
    case EV_SWITCHOVER: handover_order(e, ev->order.cookie, out); break;
    case EV_HEARD:
        if (ev->heard.sent_ns)
            lease_on_heard(e, ev->heard.sent_ns);
        age_on_heard(e, ev->heard.age);
        lease_look(e, out);
        return;
    case EV_DETACH: order_detach(e, ev->order.force, ev->order.cookie, out); break;
    }
    engine_advance(e, ev->now_ns, out);
}

bool engine_can_accept(const struct engine *e, enum op_kind kind)
{
    return (role_is_serving(&e->role) && mirror_can_accept(e->mirror, kind)) || patience_is_over(e);
}

bool engine_leg_is_current(const struct engine *e)
{
    return own_leg(e) == LEG_UP_TO_DATE && !diskless_is(e) && !e->leg_is_out;
}

void engine_make_hello(struct engine *e, struct hello *out)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    *out = (struct hello) {
        .version = PROTOCOL_VERSION,
        .size_bytes = e->sb.size_bytes,
        .capacity_bytes = e->sb.size_bytes ? grow_room_bytes(e) : e->config.capacity_bytes,
        .volume_id = e->sb.volume_id,
        .leg_id = e->sb.leg_id,
        .peer_leg_id = e->sb.peer_leg_id,
        .epoch = e->sb.epoch,
        /* Also while it takes its epoch alone, and while it drains to detach: it will serve, or still has changes. */
        .role = is_leading(e) || e->role.phase == PHASE_PROMOTING ? ROLE_PRIMARY : ROLE_SECONDARY,
        .leg = own_leg(e),
        .pristine = engine_is_pristine(e),
        .lost_power = e->sb.lost_power,
        .differs = e->sb.differs,
        .went_back = e->sb.went_back,
        .peer_failed = e->sb.peer_leg == LEG_FAILED,
        .window_frames = e->config.window_frames,
        .window_bytes = e->config.window_bytes,
        .block_bytes = own_block_bytes(e),
        .served_block_bytes = is_leading(e) ? e->served_block_bytes : 0,
        .granule_bytes = bitmap_granule_bytes(e->bitmap),
        .lsn = mirror.lsn,
        /* Once there is a bitmap, its bits tell all that `full` stands for on disk. */
        .full = e->sb.full && e->sb.size_bytes == 0,
        .dirty_bytes = bitmap_dirty_bytes(e->bitmap),
        .was_primary = e->sb.was_primary,
        .served_epoch = e->sb.served_epoch,
        .peer_in_sync = e->sb.peer_in_sync && !swaps_let_target_in(e),
        .registered = register_rules(e),
        .asked_epoch = register_rules(e) ? e->sb.asked_epoch : 0,
        .hands_over = true,
        .history = e->sb.history,
        .base = e->sb.base,
        .age = e->age.stable,
        .peer_age = e->sb.peer_age,
        .config = e->config.configured,
        .alone_s = e->entry_ns ? (e->now_ns - e->entry_ns) / NS_PER_S + 1 : 0,
    };
    diskless_add_to_hello(e, out);
    snprintf(out->volume, sizeof(out->volume), "%s", e->config.volume);
    snprintf(out->node, sizeof(out->node), "%s", e->config.node);
    snprintf(out->peer, sizeof(out->peer), "%s", e->config.peer ? e->config.peer : "");
}

void engine_hello(struct engine *e, const uint8_t nonce[HELLO_NONCE_BYTES], struct hello *out)
{
    engine_make_hello(e, out);
    memcpy(out->nonce, nonce, HELLO_NONCE_BYTES);
    e->said = *out;
}

uint64_t engine_deadline_ns(const struct engine *e)
{
    uint64_t at_ns = e->alone_at_ns ? e->alone_at_ns : UINT64_MAX;
    if (is_leading(e) && !e->leg_failed)
        at_ns = min_u64(at_ns, e->flush_at_ns);
    at_ns = min_u64(at_ns, promotions_deadline_ns(e));
    at_ns = min_u64(at_ns, verify_next_ns(e));
    at_ns = min_u64(at_ns, resolve_deadline_ns(e));
    at_ns = min_u64(at_ns, e->stall_look_ns);
    at_ns = min_u64(at_ns, register_deadline_ns(e));
    at_ns = min_u64(at_ns, patience_deadline_ns(e));
    at_ns = min_u64(at_ns, age_deadline_ns(e));
    at_ns = min_u64(at_ns, hold_deadline_ns(e));
    return min_u64(min_u64(at_ns, e->memory_at_ns), sync_deadline_ns(e));
}

/* Who has left the in-sync set is behind, whatever it last said of itself. */
static enum leg_state peer_leg_now(const struct engine *e)
{
    if (e->peer_state == PEER_TARGET)
        return LEG_SYNCING;
    bool has_left = e->sb.history.count > 0 && !e->sb.peer_in_sync && e->peer_state == PEER_AWAY;
    return has_left && e->peer_leg == LEG_UP_TO_DATE ? LEG_OUTDATED : e->peer_leg;
}

struct engine_resync engine_resync_view(const struct engine *e)
{
    struct resync_view view;
    if (!sync_progress(e, &view))
        return (struct engine_resync) { 0 };
    return (struct engine_resync) { .active = true,
                                    .is_source = e->peer_state == PEER_TARGET,
                                    .done_bytes = view.done_bytes,
                                    .total_bytes = view.total_bytes,
                                    .equal_bytes = view.equal_bytes,
                                    .sent_bytes = view.data_bytes,
                                    .zero_bytes = view.zero_bytes };
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
        .leg_id = e->sb.leg_id,
        .leg = e->sb.went_back && own_leg(e) == LEG_UP_TO_DATE ? LEG_OUTDATED : own_leg(e),
        .doubt = own_doubt(e),
        .consistent_epoch = e->sb.leg == LEG_SYNCING ? e->sb.consistent_epoch : 0,
        .consistent_lsn = e->sb.leg == LEG_SYNCING ? e->sb.consistent_lsn : 0,
        .session_up = e->session == SESSION_UP,
        .peer_leads = e->session == SESSION_UP && e->peer_leads,
        .peer_leg = peer_leg_now(e),
        .out_of_sync_bytes = bitmap_dirty_bytes(e->bitmap),
        .resync = engine_resync_view(e),
        .growth = grow_view(e),
        .apart = resolve_apart_view(e),
        .resolve = resolve_view(e),
        .alone_epoch = e->alone ? alone_epoch(e) : 0,
        .alone_since_ns = e->alone ? e->alone_since_ns : 0,
        .verified_at_s = e->sb.verified_at_s,
        .verified_found_bytes = e->sb.verified_found_bytes,
        .diskless_epoch = diskless_is(e) ? e->diskless_entry.epoch : 0,
        .diskless_since_ns = diskless_is(e) ? e->diskless_since_ns : 0,
        .witness = register_view(e),
        .why_not = engine_why_not(e),
        .writes_waiting = mirror.waiting,
        .oldest_waiting_ns = mirror.oldest_waiting_ns,
        .held_since_ns = e->held_since_ns,
    };
    out->in_sync = out->why_not == NULL;
}
