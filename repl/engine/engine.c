/* The conductor: routes each event to mirror, sync or role, and does what they need of each other. */
#include "repl/engine/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/mirror/mirror.h"
#include "repl/role/role.h"
#include "repl/sync/handshake.h"

/* The engine's own operations, beside the mirror's. */
#define OP_OWN_FLUSH UINT32_MAX
#define TAG_DECREE UINT32_MAX

enum session_phase {
    SESSION_NONE,
    SESSION_JUDGED, /* accepted; what that changes is being persisted */
    SESSION_READY,  /* the peer was told */
    SESSION_UP,
    SESSION_ENDING, /* refused or dropped: EV_SESSION_DOWN is on its way */
};

struct engine {
    struct engine_config config;
    struct mirror *mirror;
    struct role_machine role;

    struct superblock sb;         /* as it should be on disk */
    struct superblock sb_writing; /* what ACT_META_WRITE was given */
    uint64_t sb_wanted;           /* sequence that the present `sb` will have, and has once it is on disk */
    uint64_t sb_stable;           /* sequence on disk */
    bool sb_busy;
    bool sb_broken; /* it could not be written: the leg has failed */

    enum session_phase session;
    struct hello peer;   /* its hello in this session */
    uint64_t peer_epoch; /* that the peer is known to have persisted */
    uint64_t said_epoch; /* in our latest hello */
    bool session_was_up;
    bool peer_ready;  /* the mirror may send */
    bool decree_owed; /* the peer waits for our acknowledgement of its decree */
    uint64_t decree_epoch;
    enum leg_state peer_leg;       /* as last known */
    uint32_t peer_block_bytes;     /* likewise */
    uint32_t served_block_bytes;   /* what clients are told while we serve */
    uint64_t asked_epoch;          /* PHASE_ASKING: that the peer is to agree to */
    bool promote_force;            /* the promotion under way is to overcome what stands against it */
    char refused[SYNC_TEXT_BYTES]; /* the last refusal, so that each is told once */
    bool refused_a_primary;        /* the last hello was a primary's, and no session came of it */

    bool untouched;  /* the leg was zeroes when it was attached */
    bool leg_failed; /* in this attachment */
    bool own_flush_busy;
    bool own_flushed;      /* since the leg became idle for an ending */
    bool draining_primary; /* DETACHING from primary: the peer is still needed */
    void *orders[ENGINE_ORDERS_MAX];
    unsigned order_count;

    bool was_in_sync;
    char why_not[SYNC_TEXT_BYTES];
};

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
    e->mirror =
        mirror_open(&(struct mirror_config) { .backing = config->backing, .peer = config->peer, .lsn = e->sb.lsn });
    if (!e->mirror) {
        free(e);
        return NULL;
    }
    mirror_set_size(e->mirror, e->sb.size_bytes);
    if (e->sb.leg == LEG_FAILED)
        mirror_fail_leg(e->mirror);
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

static enum leg_state own_leg(const struct engine *e) { return e->leg_failed ? LEG_FAILED : e->sb.leg; }

static uint32_t own_block_bytes(const struct engine *e)
{
    return e->config.block_bytes ? e->config.block_bytes : BLOCK_BYTES;
}

/* ---- the superblock ---- */

static bool persisted(const struct engine *e) { return e->sb_stable == e->sb_wanted; }

/* To be called after each change of e->sb; engine_advance() writes. */
static void want_persisted(struct engine *e) { e->sb_wanted = e->sb_stable + (e->sb_busy ? 2 : 1); }

static void write_superblock_if_wanted(struct engine *e, struct actions *out)
{
    if (persisted(e) || e->sb_busy || e->sb_broken)
        return;
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    e->sb.lsn = mirror.lsn;
    e->sb.sequence = e->sb_wanted;
    e->sb_writing = e->sb;
    e->sb_busy = true;
    actions_add(out, ACT_META_WRITE)->meta.superblock = &e->sb_writing;
}

/* ---- orders ---- */

#define TEXT_BROKEN "the superblock could not be written; see the log"

static void finish_orders(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    for (unsigned i = 0; i < e->order_count; i++) {
        struct action *a = actions_add(out, ACT_ORDER_DONE);
        a->order.cookie = e->orders[i];
        a->order.result = result;
        a->order.text = text;
    }
    e->order_count = 0;
}

static void answer_order(void *cookie, int32_t result, const char *text, struct actions *out)
{
    struct action *a = actions_add(out, ACT_ORDER_DONE);
    a->order.cookie = cookie;
    a->order.result = result;
    a->order.text = text;
}

static bool keep_order(struct engine *e, void *cookie, struct actions *out)
{
    if (e->order_count == ENGINE_ORDERS_MAX) {
        answer_order(cookie, -EBUSY, "too many orders are under way; wait for them", out);
        return false;
    }
    e->orders[e->order_count++] = cookie;
    return true;
}

/* ---- the session ---- */

static void drop_session(struct engine *e, const char *text, struct actions *out)
{
    if (e->session == SESSION_NONE || e->session == SESSION_ENDING)
        return;
    e->session = SESSION_ENDING;
    actions_add(out, ACT_SESSION_DROP)->text.text = text;
}

static void send_control(enum frame_kind kind, uint64_t epoch, uint16_t status, struct actions *out)
{
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = NULL;
    a->send.frame = (struct frame) { .kind = kind, .epoch = epoch, .tag = TAG_DECREE, .status = status };
}

/* It has, or may still have, changes of its own for the peer. */
static bool is_leading(const struct engine *e) { return role_of(&e->role) == ROLE_PRIMARY || e->draining_primary; }

/* A primary that learns that another epoch has begun serves no longer. What waits was never acknowledged. */
static void step_down(struct engine *e, struct actions *out)
{
    if (role_is_serving(&e->role))
        actions_add(out, ACT_SERVE)->serve.on = false;
    role_step_down(&e->role);
    e->draining_primary = false;
    e->sb.role = ROLE_SECONDARY;
    /* What has been completed is on both legs. What has not may be on one: also on the peer's only, while our own disk
     * is still busy with it, which we may not live to see. */
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    e->sb.unclean |= mirror.unsettled;
    want_persisted(e);
    mirror_fail_all(e->mirror, -EIO, out);
    if (e->role.phase == PHASE_SECONDARY)
        finish_orders(e, -EPERM, "this node was deposed", out);
    actions_note(out, NOTE_ERROR, "role", "deposed: another epoch has begun; this node is secondary");
}

static void refuse(struct engine *e, const char *text, struct actions *out)
{
    e->session = SESSION_ENDING;
    actions_add(out, ACT_SESSION_REFUSE)->text.text = actions_text(out, "%s", text);
    if (strcmp(e->refused, text) == 0)
        return;
    snprintf(e->refused, sizeof(e->refused), "%s", text);
    actions_note(out, NOTE_ERROR, "link", "refused: %s", text);
}

static void on_hello(struct engine *e, const struct hello *peer, struct actions *out)
{
    assert(e->session == SESSION_NONE && e->config.peer);
    bool leaving = e->role.phase == PHASE_DETACHED || (e->role.phase == PHASE_DETACHING && !e->draining_primary);
    if (leaving) {
        e->session = SESSION_ENDING;
        actions_add(out, ACT_SESSION_REFUSE)->text.text =
            actions_text(out, "volume %s is being taken down on %s", e->config.volume, e->config.node);
        return;
    }
    /* As we are now, which is not always what we said: the peer has seen the epoch that was said. */
    struct hello own;
    uint64_t said_epoch = e->said_epoch;
    engine_hello(e, &own);
    e->said_epoch = said_epoch;
    struct sync_judgement j;
    sync_judge(&own, peer, &j);
    e->peer_leg = peer->leg;
    e->peer_block_bytes = peer->block_bytes;
    e->refused_a_primary = peer->role == ROLE_PRIMARY;
    if (j.verdict == SYNC_REFUSE) {
        if (j.own_deposed)
            step_down(e, out);
        /* Refused or not, the epoch is seen: this node must not take it a second time. */
        bool same_volume = !id_is_none(own.volume_id) && id_equal(own.volume_id, peer->volume_id);
        if (same_volume && !is_leading(e) && e->role.phase != PHASE_PROMOTING && peer->epoch > e->sb.epoch) {
            e->sb.epoch = peer->epoch;
            want_persisted(e);
        }
        refuse(e, j.text, out);
        return;
    }
    if (e->sb.peer_leg == LEG_FAILED) {
        refuse(e,
               "the peer's leg failed a flush and may lack acknowledged writes. This version has no resync: save the "
               "data, run `lockstep create --force` on both nodes, put it back",
               out);
        return;
    }
    e->refused[0] = 0;
    e->refused_a_primary = false;
    e->session = SESSION_JUDGED;
    e->peer = *peer;
    e->peer_epoch = peer->epoch;
    e->peer_ready = false;
    if (j.verdict == SYNC_PAIR)
        e->sb.pristine = false;
    bool changed = e->sb.epoch != j.epoch || e->sb.size_bytes != j.size_bytes ||
                   !id_equal(e->sb.volume_id, j.volume_id) || !id_equal(e->sb.peer_leg_id, peer->leg_id);
    if (!changed)
        return;
    e->sb.epoch = j.epoch;
    e->sb.size_bytes = j.size_bytes;
    e->sb.volume_id = j.volume_id;
    e->sb.peer_leg_id = peer->leg_id;
    mirror_set_size(e->mirror, j.size_bytes);
    want_persisted(e);
    if (j.verdict == SYNC_PAIR)
        actions_note(out, NOTE_INFO, "leg", "paired with the fresh leg of %s; the volume has %llu bytes", peer->node,
                     (unsigned long long)j.size_bytes);
}

static void on_session_up(struct engine *e, struct actions *out)
{
    assert(e->session == SESSION_READY || e->session == SESSION_ENDING);
    if (e->session == SESSION_ENDING)
        return;
    e->session = SESSION_UP;
    e->session_was_up = true;
    /* The peer judged our hello as we judged its: it has persisted the higher of both epochs. */
    e->peer_epoch = max_u64(e->peer.epoch, e->said_epoch);
    /* A secondary's mirror has nothing to send; it learns that a session began. A leader's learns it when the peer has
     * agreed to the epoch. */
    if (!is_leading(e))
        mirror_peer_ready(e->mirror, e->sb.epoch, e->peer.window_frames, e->peer.window_bytes, out);
}

static void on_session_down(struct engine *e, struct actions *out)
{
    bool was_up = e->session_was_up;
    e->session = SESSION_NONE;
    e->session_was_up = false;
    e->peer_ready = false;
    e->decree_owed = false;
    role_session_lost(&e->role);
    /* The peer may be primary, and about to say so. An operator who promotes now knows that they are apart. */
    if (e->role.phase == PHASE_ASKING) {
        role_yield(&e->role);
        finish_orders(
            e, -EBUSY,
            actions_text(out, "the connection to %s was lost before it agreed. If it is not primary, promote again",
                         e->config.peer),
            out);
    }
    mirror_peer_lost(e->mirror, out);
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    /* Why it ended, the session has told already. */
    if (was_up && mirror.waiting)
        actions_note(out, NOTE_WARNING, "link", "%u writes wait until %s is back", mirror.waiting, e->config.peer);
}

static void on_decree(struct engine *e, const struct frame *frame, struct actions *out)
{
    uint16_t objection = 0;
    switch (e->role.phase) {
    case PHASE_PROMOTING:
    case PHASE_PRIMARY:
    case PHASE_DEMOTING:
    case PHASE_DETACHING:
    case PHASE_DETACHED: objection = EBUSY; break;
    case PHASE_ASKING:
        /* Both were told to promote: the higher epoch wins, then the node that is listed first. */
        if (frame->epoch < e->asked_epoch || (frame->epoch == e->asked_epoch && e->config.node_index == 0)) {
            objection = EBUSY;
            break;
        }
        role_yield(&e->role);
        finish_orders(e, -EBUSY, actions_text(out, "%s is becoming primary", e->config.peer), out);
        break;
    case PHASE_SECONDARY:
        if (frame->epoch < e->sb.epoch)
            objection = ESTALE;
        break;
    }
    if (objection) {
        send_control(FRAME_ACK, frame->epoch, objection, out);
        return;
    }
    if (frame->epoch > e->sb.epoch) {
        e->sb.epoch = frame->epoch;
        want_persisted(e);
    }
    e->decree_owed = true;
    e->decree_epoch = frame->epoch;
    actions_note(out, NOTE_INFO, "role", "%s is primary from epoch %llu", e->config.peer,
                 (unsigned long long)frame->epoch);
}

/* This node takes an epoch that nobody has served at. */
static void take_epoch(struct engine *e, uint64_t epoch, struct actions *out)
{
    e->sb.epoch = epoch;
    e->sb.role = ROLE_PRIMARY;
    e->sb.pristine = false;
    e->peer_ready = false; /* of an earlier term in the same session: the mirror is to learn the new epoch */
    if (e->promote_force && (own_leg(e) != LEG_UP_TO_DATE || e->sb.lost_power)) {
        actions_note(out, NOTE_WARNING, "role",
                     "promotion was forced: acknowledged writes may be lost, and the legs may "
                     "differ until a resync");
        e->sb.unclean = e->config.peer != NULL;
        e->sb.lost_power = false;
    }
    if (!e->config.peer && !id_is_none(e->sb.peer_leg_id)) {
        /* From now on writes are acknowledged that the leg which it was paired with lacks. */
        actions_note(
            out, NOTE_WARNING, "leg",
            "promoted with no peer in the configuration: the leg that this one was paired with is left behind, "
            "and needs a full resync to come back");
        e->sb.peer_leg_id = (struct id) { 0 };
        e->sb.peer_leg = LEG_NONE;
    }
    if (id_is_none(e->sb.volume_id))
        e->sb.volume_id = e->sb.leg_id;
    if (e->sb.size_bytes == 0) {
        e->sb.size_bytes = e->config.capacity_bytes;
        mirror_set_size(e->mirror, e->sb.size_bytes);
    }
    want_persisted(e);
}

static void on_decree_ack(struct engine *e, const struct frame *frame, struct actions *out)
{
    if (e->role.phase == PHASE_ASKING && frame->epoch == e->asked_epoch) {
        if (frame->status == 0) {
            role_agreed(&e->role);
            e->peer_epoch = frame->epoch;
            take_epoch(e, frame->epoch, out);
            return;
        }
        role_yield(&e->role);
        finish_orders(
            e, -EPERM,
            actions_text(out, "%s is primary, or is becoming it: demote it first (promise 3: one primary at a time)",
                         e->config.peer),
            out);
        return;
    }
    bool ours = (e->role.phase == PHASE_PROMOTING || is_leading(e)) && frame->epoch == e->sb.epoch;
    if (!ours)
        return;
    if (frame->status == 0)
        e->peer_epoch = frame->epoch;
    else
        drop_session(e, "the peer does not accept this node as primary", out);
}

/* A frame that breaks the rules ends the session; `payload` is released here. */
static void broken_rule(struct engine *e, const struct frame *frame, struct buf *payload, const char *text,
                        struct actions *out)
{
    if (payload)
        buf_put(payload);
    drop_session(e, actions_text(out, "%s frame: %s", frame_kind_name(frame->kind), text), out);
}

static void on_frame(struct engine *e, const struct frame *frame, struct buf *payload, struct actions *out)
{
    if (e->session != SESSION_UP) {
        /* Ours to drop: we have ended this session, but the news has not come back yet. */
        if (payload)
            buf_put(payload);
        return;
    }
    const char *wrong = NULL;
    switch (frame->kind) {
    case FRAME_WRITE:
    case FRAME_DISCARD:
    case FRAME_WRITE_ZEROES:
    case FRAME_FLUSH:
        /* Who asks to be primary is still secondary, of a primary that may be about to object. */
        if (e->role.phase != PHASE_SECONDARY && e->role.phase != PHASE_ASKING)
            broken_rule(e, frame, payload, "this node is not secondary", out);
        else if (frame->epoch != e->sb.epoch || e->decree_owed)
            broken_rule(e, frame, payload, "not of the current epoch (epoch)", out);
        else if ((frame->offset_bytes | frame->length_bytes) % own_block_bytes(e))
            /* Else the disk would refuse it, and the leg would seem to have failed. */
            broken_rule(e, frame, payload, "not aligned to this leg's blocks (offset_bytes, length_blocks)", out);
        else
            wrong = mirror_peer_change(e->mirror, frame, payload, out);
        break;
    case FRAME_ACK:
        if (frame->tag == TAG_DECREE)
            on_decree_ack(e, frame, out);
        else
            wrong = mirror_ack(e->mirror, frame, out);
        break;
    case FRAME_DECREE: on_decree(e, frame, out); break;
    case FRAME_HELLO:
    case FRAME_READY:
    case FRAME_REFUSE:
    case FRAME_HEARTBEAT: wrong = "not expected here"; break;
    }
    if (wrong)
        broken_rule(e, frame, NULL, wrong, out);
}

/* ---- faults ---- */

static void on_faults(struct engine *e, struct mirror_faults faults, struct actions *out)
{
    /* On the secondary a failed write was not acknowledged and will be sent again, so that the leg is good once its
     * disk is; a failed flush may have lost what was acknowledged before. The application was told that a change of
     * this node's own failed, and the legs may differ there. Both last until a resync, also when they are not the first
     * to fail. */
    bool lasting = faults.leg && e->config.peer && (faults.flush || faults.own);
    if (lasting && e->sb.leg != LEG_FAILED) {
        e->sb.leg = LEG_FAILED;
        want_persisted(e);
    }
    if (faults.leg && !e->leg_failed) {
        e->leg_failed = true;
        actions_note(out, NOTE_ERROR, "leg",
                     "the leg on %s has failed (%s): no write is acknowledged until it is mended", e->config.backing,
                     faults.flush ? "a flush" : "a write");
        /* The peer must not go on in the belief that there are two good legs: the next hello tells it. A primary learns
         * it from the acknowledgement. */
        if (faults.own || is_leading(e))
            drop_session(e, actions_text(out, "the leg of %s has failed", e->config.node), out);
    }
    if (faults.peer_leg) {
        e->peer_leg = LEG_FAILED;
        if (faults.peer_flush) {
            e->sb.peer_leg = LEG_FAILED;
            want_persisted(e);
        }
        drop_session(e, actions_text(out, "the leg of %s has failed", e->config.peer), out);
    }
}

static void on_meta_done(struct engine *e, int32_t result, struct actions *out)
{
    assert(e->sb_busy);
    e->sb_busy = false;
    if (result == 0) {
        e->sb_stable = e->sb_writing.sequence;
        return;
    }
    /* Promise 7: a failed metadata write fails the leg. What was to be persisted must not happen. */
    e->sb_broken = true;
    e->leg_failed = true;
    e->sb.leg = LEG_FAILED;
    mirror_fail_leg(e->mirror);
    actions_note(out, NOTE_ERROR, "leg", "the superblock on %s could not be written: %s. The leg has failed",
                 e->config.backing, strerror(-result));
    drop_session(e, "the leg's metadata could not be written", out);
    /* A demotion or detach goes on to its end, which is not reached before nothing is in flight. */
    if (e->role.phase == PHASE_ASKING || e->role.phase == PHASE_PROMOTING) {
        role_yield(&e->role);
        finish_orders(e, -EIO, TEXT_BROKEN, out);
    }
}

/* ---- roles ---- */

static void on_promote(struct engine *e, bool force, void *cookie, struct actions *out)
{
    if (e->role.phase == PHASE_PRIMARY) {
        answer_order(cookie, 0, NULL, out);
        return;
    }
    const char *obstacle = role_promotion_obstacle(&e->role, own_leg(e), e->sb.lost_power, force);
    if (e->sb_broken)
        obstacle = "its metadata cannot be written; mend the disk";
    if (obstacle) {
        answer_order(cookie, -EPERM, obstacle, out);
        return;
    }
    if (e->role.phase == PHASE_SECONDARY && e->session != SESSION_NONE && e->session != SESSION_UP) {
        answer_order(cookie, -EBUSY, "the connection to the peer is just being made or closed; try again", out);
        return;
    }
    if (e->refused_a_primary && !force) {
        answer_order(cookie, -EPERM,
                     actions_text(out,
                                  "%s was primary when it was last heard of (promise 3: one primary at a time). Demote "
                                  "it, or use --force if it will never serve again. It is not connected: %s",
                                  e->config.peer, e->refused),
                     out);
        return;
    }
    if (e->decree_owed) {
        answer_order(cookie, -EBUSY, actions_text(out, "%s is becoming primary", e->config.peer), out);
        return;
    }
    if (!keep_order(e, cookie, out) || e->role.phase != PHASE_SECONDARY)
        return;
    bool ask = e->session == SESSION_UP;
    role_promote(&e->role, ask);
    e->promote_force = force;
    e->asked_epoch = e->sb.epoch + 1;
    if (!ask)
        take_epoch(e, e->asked_epoch, out);
}

/* Before the last change can complete, someone must be there to complete it. */
static bool may_drain(struct engine *e, bool force, void *cookie, struct actions *out)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    bool stuck = mirror.waiting > 0 && e->session != SESSION_UP;
    if (!stuck)
        return true;
    if (e->session == SESSION_ENDING) {
        answer_order(cookie, -EBUSY, "the connection to the peer is just closing; try again", out);
        return false;
    }
    if (!force) {
        answer_order(cookie, -EBUSY,
                     actions_text(out, "%u writes wait for %s. Bring it back, or let them fail with --force",
                                  mirror.waiting, e->config.peer),
                     out);
        return false;
    }
    /* A session that is just being made was agreed to by a peer who does not know of this. */
    drop_session(e, "writes that waited for the peer were given up", out);
    actions_note(out, NOTE_WARNING, "role", "%u waiting writes fail, as ordered", mirror.waiting);
    e->sb.unclean = true;
    want_persisted(e);
    mirror_abandon_waiting(e->mirror, -EIO, out);
    return true;
}

static void on_demote(struct engine *e, bool force, void *cookie, struct actions *out)
{
    switch (e->role.phase) {
    case PHASE_SECONDARY: answer_order(cookie, 0, NULL, out); return;
    case PHASE_ASKING:
    case PHASE_PROMOTING: answer_order(cookie, -EBUSY, "it is being promoted; wait until that is done", out); return;
    case PHASE_DETACHING:
    case PHASE_DETACHED: answer_order(cookie, -EBUSY, "it is being taken down", out); return;
    case PHASE_PRIMARY:
    case PHASE_DEMOTING: break;
    }
    if (!may_drain(e, force, cookie, out) || !keep_order(e, cookie, out) || e->role.phase == PHASE_DEMOTING)
        return;
    actions_add(out, ACT_SERVE)->serve.on = false;
    e->own_flushed = false;
    role_demote(&e->role);
}

static void on_detach(struct engine *e, bool force, void *cookie, struct actions *out)
{
    if (e->role.phase == PHASE_DETACHED) {
        answer_order(cookie, 0, NULL, out);
        return;
    }
    /* A demotion may wait for a peer who will not come: nobody must have to know that to end it. */
    if (e->role.phase == PHASE_DEMOTING && !may_drain(e, force, cookie, out))
        return;
    if (e->role.phase == PHASE_ASKING || e->role.phase == PHASE_PROMOTING || e->role.phase == PHASE_DEMOTING) {
        answer_order(cookie, -EBUSY, "its role is just changing; try again in a moment", out);
        return;
    }
    if (!may_drain(e, force, cookie, out) || !keep_order(e, cookie, out) || e->role.phase == PHASE_DETACHING)
        return;
    e->draining_primary = e->role.phase == PHASE_PRIMARY;
    if (e->draining_primary)
        actions_add(out, ACT_SERVE)->serve.on = false;
    else
        drop_session(e, actions_text(out, "volume %s is taken down on %s", e->config.volume, e->config.node), out);
    e->own_flushed = false;
    role_detach(&e->role);
}

/* Zeroes still: nothing was completed on it, so nothing is there that anybody may count on. */
static bool is_pristine(const struct engine *e)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    return e->untouched && !e->sb.adopted && !mirror.completed_any;
}

static void record_ending(struct engine *e)
{
    e->sb.role = ROLE_SECONDARY;
    e->sb.pristine = is_pristine(e) && id_is_none(e->sb.peer_leg_id);
    if (e->role.phase == PHASE_DETACHING)
        e->sb.attached = false;
    want_persisted(e);
}

static void carry_out_role(struct engine *e, struct actions *out)
{
    bool ending = e->role.phase == PHASE_DEMOTING || e->role.phase == PHASE_DETACHING;
    for (;;) {
        struct role_facts facts = {
            .idle = mirror_is_idle(e->mirror),
            /* What cannot be written any more will not hold up the end: the disk then tells of an unclean one. */
            .persisted = persisted(e) || (ending && e->sb_broken),
            .flushed = e->own_flushed,
            .session_up = e->session == SESSION_UP,
            .peer_agreed = e->peer_epoch == e->sb.epoch,
        };
        switch (role_next(&e->role, &facts)) {
        case ROLE_NEED_NOTHING: return;
        case ROLE_NEED_DECREE:
            send_control(FRAME_DECREE, e->role.phase == PHASE_ASKING ? e->asked_epoch : e->sb.epoch, 0, out);
            break;
        case ROLE_NEED_SERVE:
            e->served_block_bytes = (uint32_t)max_u64(own_block_bytes(e), e->peer_block_bytes);
            actions_add(out, ACT_SERVE)->serve.on = true;
            actions_note(out, NOTE_INFO, "role", "%s is primary at epoch %llu", e->config.node,
                         (unsigned long long)e->sb.epoch);
            finish_orders(e, 0, NULL, out);
            break;
        case ROLE_NEED_FLUSH:
            if (e->own_flush_busy)
                return;
            e->own_flush_busy = true;
            struct action *a = actions_add(out, ACT_DISK);
            a->disk.op = OP_OWN_FLUSH;
            a->disk.kind = OP_FLUSH;
            a->disk.flags = 0;
            a->disk.offset_bytes = 0;
            a->disk.length_bytes = 0;
            a->disk.buf = NULL;
            return;
        case ROLE_NEED_RECORD:
            record_ending(e);
            write_superblock_if_wanted(e, out);
            break;
        case ROLE_NEED_FINISH:
            actions_note(out, NOTE_INFO, "role", e->role.phase == PHASE_DETACHED ? "%s is detached" : "%s is secondary",
                         e->config.node);
            if (e->role.phase == PHASE_DETACHED)
                drop_session(e, "the volume is taken down", out);
            finish_orders(e, e->sb_broken ? -EIO : 0, e->sb_broken ? TEXT_BROKEN : NULL, out);
            break;
        }
    }
}

/* ---- stepping ---- */

/* Why the volume is not protected, or NULL when it is. */
static const char *find_why_not(struct engine *e)
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
    on_faults(e, mirror_take_faults(e->mirror), out);
    write_superblock_if_wanted(e, out);
    if (e->session == SESSION_JUDGED && persisted(e)) {
        e->session = SESSION_READY;
        actions_add(out, ACT_SESSION_READY);
    }
    if (e->session == SESSION_UP && e->decree_owed && persisted(e)) {
        e->decree_owed = false;
        e->peer_epoch = e->decree_epoch;
        send_control(FRAME_ACK, e->decree_epoch, 0, out);
        mirror_peer_ready(e->mirror, e->sb.epoch, e->peer.window_frames, e->peer.window_bytes, out);
    }
    /* With its leg failed this node acknowledges nothing any more: what waits for the peer ends, with an error. */
    if (e->leg_failed && e->session == SESSION_NONE && is_leading(e))
        mirror_abandon_waiting(e->mirror, -EIO, out);
    carry_out_role(e, out);
    if (e->session == SESSION_UP && is_leading(e) && !e->peer_ready && e->peer_epoch == e->sb.epoch && persisted(e)) {
        e->peer_ready = true;
        mirror_peer_ready(e->mirror, e->sb.epoch, e->peer.window_frames, e->peer.window_bytes, out);
    }
    bool in_sync = find_why_not(e) == NULL;
    if (in_sync != e->was_in_sync && e->config.peer)
        actions_note(out, in_sync ? NOTE_INFO : NOTE_WARNING, "protected", in_sync ? "protected" : "not protected: %s",
                     in_sync ? "" : find_why_not(e));
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
            mirror_fail_leg(e->mirror);
            on_faults(e, (struct mirror_faults) { .leg = true, .flush = true }, out);
        }
        break;
    case EV_FRAME:
        on_frame(e, &ev->frame.frame, ev->frame.payload, out);
        if (ev->frame.frame.kind != FRAME_DECREE && ev->frame.frame.tag != TAG_DECREE && e->session == SESSION_UP &&
            is_steady(e))
            return;
        break;
    case EV_META_DONE: on_meta_done(e, ev->meta.result, out); break;
    case EV_HELLO: on_hello(e, &ev->hello, out); break;
    case EV_SESSION_UP: on_session_up(e, out); break;
    case EV_SESSION_DOWN: on_session_down(e, out); break;
    case EV_PROMOTE: on_promote(e, ev->order.force, ev->order.cookie, out); break;
    case EV_DEMOTE: on_demote(e, ev->order.force, ev->order.cookie, out); break;
    case EV_DETACH: on_detach(e, ev->order.force, ev->order.cookie, out); break;
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
        .pristine = is_pristine(e),
        .lost_power = e->sb.lost_power,
        .unclean_primary = e->sb.unclean,
        .window_frames = e->config.window_frames,
        .window_bytes = e->config.window_bytes,
        .block_bytes = own_block_bytes(e),
        .served_block_bytes = is_leading(e) ? e->served_block_bytes : 0,
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
        .why_not = find_why_not(e),
        .writes_waiting = mirror.waiting,
        .oldest_waiting_ns = mirror.oldest_waiting_ns,
    };
    out->in_sync = out->why_not == NULL;
}
