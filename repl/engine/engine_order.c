/* Operators' orders: promote, demote, detach, and their way to the end. */
#include <errno.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

void orders_finish(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    for (unsigned i = 0; i < e->order_count; i++) {
        struct action *a = actions_add(out, ACT_ORDER_DONE);
        a->order.cookie = e->orders[i];
        a->order.result = result;
        a->order.text = text;
    }
    e->order_count = 0;
}

void order_answer(void *cookie, int32_t result, const char *text, struct actions *out)
{
    struct action *a = actions_add(out, ACT_ORDER_DONE);
    a->order.cookie = cookie;
    a->order.result = result;
    a->order.text = text;
}

bool order_keep(struct engine *e, void *cookie, struct actions *out)
{
    if (e->order_count + e->promotion_count >= ENGINE_ORDERS_MAX) {
        order_answer(cookie, -EBUSY, "too many orders are under way; wait for them", out);
        return false;
    }
    e->orders[e->order_count++] = cookie;
    return true;
}

/* A handshake is decided in moments. One that hangs, as a disk does not take up its superblock, is not waited for. */
#define PROMOTION_WAIT_NS (10 * NS_PER_S)

/* The same of the register; who is to be silent has to be so first. */
uint64_t register_wait_ns(const struct engine *e) { return PROMOTION_WAIT_NS + 2 * e->config.failover.dead_after_ns; }

static bool awaits_handshake(const struct engine *e)
{
    return e->role.phase == PHASE_SECONDARY && e->session != SESSION_NONE && e->session != SESSION_UP;
}

/* Who is refused says hello every few seconds, and a path that does not answer costs a dead-after before it is that
 * one's turn. An order is not to wait for longer than the one who gives it. */
static uint64_t in_reach_ns(const struct engine *e)
{
    return min_u64(10 * NS_PER_S + 4 * e->config.failover.dead_after_ns, 50 * NS_PER_S);
}

/* Two that do not go on together, and the other one is primary: it was, a moment ago. */
static bool refuses_a_primary_in_reach(const struct engine *e)
{
    return e->role.phase == PHASE_SECONDARY && e->refused_a_primary && e->session != SESSION_UP &&
           e->now_ns < e->refused_primary_ns + in_reach_ns(e);
}

/* What it is by now, its next hello says: it may have been demoted, or switched off, for this very order. */
static bool awaits_hello(const struct engine *e, bool force, uint64_t heard)
{
    return force && refuses_a_primary_in_reach(e) && e->hellos_heard == heard;
}

static void keep_promotion(struct engine *e, bool force, uint64_t heard, void *cookie, struct actions *out)
{
    if (e->order_count + e->promotion_count >= ENGINE_ORDERS_MAX) {
        order_answer(cookie, -EBUSY, "too many orders are under way; wait for them", out);
        return;
    }
    if (e->promotion_count == 0)
        e->promotions_until_ns = e->now_ns + PROMOTION_WAIT_NS;
    e->promotions[e->promotion_count++] = (struct promotion) { cookie, force, heard };
}

/* All; or all but those that wait for a hello. */
static void promotions_refuse(struct engine *e, bool all, const char *text, struct actions *out)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < e->promotion_count; i++) {
        struct promotion p = e->promotions[i];
        if (!all && awaits_hello(e, p.force, p.heard))
            e->promotions[kept++] = p;
        else
            order_answer(p.cookie, -EBUSY, text, out);
    }
    e->promotion_count = kept;
}

/* The peer may be primary, or become it. Who promotes again knows that they are apart. A refusal was a decision: what
 * follows from that, order_promote() knows. */
void promotions_lost(struct engine *e, struct actions *out)
{
    if (e->promotion_count > 0 && e->role.phase == PHASE_SECONDARY && !e->handshake_refused)
        promotions_refuse(e, false,
                          actions_text(out,
                                       "the connection to %s was lost before both had agreed. If it is not primary, "
                                       "promote again",
                                       e->config.peer),
                          out);
}

static void promote(struct engine *e, bool force, bool undecreed, uint64_t heard, void *cookie, struct actions *out);

void promotions_advance(struct engine *e, struct actions *out)
{
    if (e->promotion_count == 0)
        return;
    if (awaits_handshake(e)) {
        if (e->now_ns >= e->promotions_until_ns)
            promotions_refuse(e, true,
                              actions_text(out,
                                           "the handshake with %s takes long: a disk may hang, here or there. Try "
                                           "again, or take %s down first",
                                           e->config.peer, e->config.peer),
                              out);
        return;
    }
    struct promotion kept[ENGINE_ORDERS_MAX];
    unsigned count = e->promotion_count;
    memcpy(kept, e->promotions, sizeof(kept));
    e->promotion_count = 0;
    for (unsigned i = 0; i < count; i++)
        promote(e, kept[i].force, false, kept[i].heard, kept[i].cookie, out);
}

uint64_t promotions_deadline_ns(const struct engine *e)
{
    if (e->promotion_count == 0)
        return UINT64_MAX;
    return awaits_handshake(e) ? e->promotions_until_ns : e->refused_primary_ns + in_reach_ns(e);
}

static void begin_promotion(struct engine *e, struct actions *out)
{
    bool ask = e->session == SESSION_UP;
    role_promote(&e->role, ask);
    e->is_behind = e->person_decides = false; /* or its loss is accepted */
    e->promoted_half_made = false;
    /* Also without the register that it heard of: what that one has is older from here on, when it is back. */
    e->asked_epoch = max_u64(e->sb.epoch, e->sb.heard_epoch) + 1;
    if (!ask && !decree_take(e, e->asked_epoch, out)) {
        role_yield(&e->role);
        orders_finish(e, -ENOMEM, TEXT_NO_MEMORY, out);
    }
}

/* `undecreed`: the register has just said that the volume has no decree yet. `heard`: hellos, when it was ordered. */
static void promote(struct engine *e, bool force, bool undecreed, uint64_t heard, void *cookie, struct actions *out)
{
    if (e->role.phase == PHASE_PRIMARY) {
        order_answer(cookie, 0, NULL, out);
        return;
    }
    /* What the peer has done since, and whether this leg counts as it is, the register knows better. */
    bool asks = register_rules(e);
    enum leg_doubt doubt = asks ? LEG_DOUBT_NONE : own_doubt(e);
    const char *obstacle = role_promotion_obstacle(&e->role, own_leg(e), doubt, force);
    /* By force neither: it would serve, and each write would fail. */
    if (!obstacle && e->leg_failed && e->role.phase == PHASE_SECONDARY)
        obstacle =
            "its leg has failed: mend its disk, and attach it again (`lockstep down`, `up`), or promote the peer";
    if (release_is_stuck(e))
        obstacle = "it is being demoted, and the witness has not heard yet that nobody is to serve: mend that, then "
                   "promote it. Or `lockstep down --force` here, which leaves the register as it is: then its peer may "
                   "take over";
    if (e->leg_is_out)
        obstacle = "its leg has failed, and requests to the disk are not over; try again, or promote the peer";
    if (e->sb_broken)
        obstacle = "its metadata cannot be written; mend the disk";
    if (obstacle) {
        bool half_made = !force && e->sb.leg == LEG_SYNCING && e->role.phase == PHASE_SECONDARY;
        if (half_made)
            obstacle = actions_text(out, "%s. %s", obstacle, sync_last_consistent(e, out));
        order_answer(cookie, -EPERM, obstacle, out);
        return;
    }
    if (!resolve_is_idle(e)) {
        order_answer(cookie, -EBUSY, "its changes are just being given up (`lockstep resolve`); wait for the end", out);
        return;
    }
    if (!asks && e->is_behind && e->session != SESSION_UP && !force) {
        order_answer(
            cookie, -EPERM,
            actions_text(out,
                         "%s has gone on without this leg, as was heard of it last (promise 4: only a leg that "
                         "holds every acknowledged write is promoted). Promote %s, or accept the loss with "
                         "--force",
                         e->config.peer, e->config.peer),
            out);
        return;
    }
    if (awaits_handshake(e) || (awaits_hello(e, force, heard) && !undecreed)) {
        keep_promotion(e, force, heard, cookie, out);
        return;
    }
    if (force && !undecreed && refuses_a_primary_in_reach(e)) {
        order_answer(cookie, -EPERM,
                     actions_text(out,
                                  "%s is primary, as it has just said (promise 3: one primary at a time). Demote it "
                                  "first, or end its daemon, and order this again.%s%s",
                                  e->config.peer, *e->refused ? " It is not connected: " : "", e->refused),
                     out);
        return;
    }
    if (!asks && e->person_decides && !force) {
        order_answer(cookie, -EPERM,
                     actions_text(out,
                                  "its leg and that of %s may each lack what the other one has (`lockstep status` says "
                                  "how that came about). Compare both, and accept the loss on the one to keep with "
                                  "--force",
                                  e->config.peer),
                     out);
        return;
    }
    /* Also by force: what the source sends would overwrite what is served here. */
    if (e->session == SESSION_UP && e->peer_state == PEER_SOURCE) {
        order_answer(
            cookie, -EPERM,
            actions_text(out,
                         "its leg just gets what it lacks from %s, which has everything (promise 4): promote %s, or "
                         "wait until the resync is done",
                         e->config.peer, e->config.peer),
            out);
        return;
    }
    if (!asks && e->refused_a_primary && !force) {
        order_answer(cookie, -EPERM,
                     actions_text(out,
                                  "%s was primary when it was last heard of (promise 3: one primary at a time). Demote "
                                  "it, or use --force if it will never serve again. It is not connected: %s",
                                  e->config.peer, e->refused),
                     out);
        return;
    }
    if (e->decree_owed) {
        order_answer(cookie, -EBUSY, actions_text(out, "%s is becoming primary", e->config.peer), out);
        return;
    }
    if (e->witness.switch_asked) {
        order_answer(cookie, -EBUSY, "a switchover is under way; wait for its end", out);
        return;
    }
    if (e->witness.promote && e->promote_force != force) { /* one answer would be for both */
        order_answer(cookie, -EBUSY,
                     actions_text(out, "it is just being promoted %s --force; wait for the end of that",
                                  e->promote_force ? "with" : "without"),
                     out);
        return;
    }
    if (!order_keep(e, cookie, out) || e->role.phase != PHASE_SECONDARY)
        return;
    e->promote_force = force;
    if (e->config.failover.has_register && !id_is_none(e->sb.volume_id) && !undecreed) {
        e->witness.promote = true;
        e->witness.promote_until_ns = e->now_ns + register_wait_ns(e);
        e->witness.read_at_ns = e->now_ns;
        return;
    }
    begin_promotion(e, out);
}

void order_promote(struct engine *e, bool force, void *cookie, struct actions *out)
{
    promote(e, force, false, e->hellos_heard, cookie, out);
}

void orders_promote_undecreed(struct engine *e, struct actions *out)
{
    void *orders[ENGINE_ORDERS_MAX];
    unsigned count = e->order_count;
    memcpy(orders, e->orders, sizeof(orders));
    e->order_count = 0;
    e->witness.promote = false;
    for (unsigned i = 0; i < count; i++)
        promote(e, e->promote_force, true, e->hellos_heard, orders[i], out);
}

/* Before the last change can complete, someone must be there to complete it. */
static bool may_drain(struct engine *e, bool force, void *cookie, struct actions *out)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    uint32_t waiting = mirror.waiting + mirror.reads_waiting;
    bool stuck = (waiting > 0 || mirror.undecided) && e->session != SESSION_UP;
    if (!stuck)
        return true;
    if (e->session == SESSION_ENDING) {
        order_answer(cookie, -EBUSY, "the connection to the peer is just closing; try again", out);
        return false;
    }
    if (!force) {
        order_answer(cookie, -ENOTCONN,
                     actions_text(out, "%u requests wait for %s. Bring it back, or let them fail with --force", waiting,
                                  e->config.peer),
                     out);
        return false;
    }
    /* A session that is just being made was agreed to by a peer who does not know of this. */
    session_drop(e, "writes that waited for the peer were given up", out);
    actions_note(out, NOTE_WARNING, "role", "%u waiting requests fail, as ordered", waiting);
    mirror_abandon_waiting(e->mirror, -EIO, out);
    diskless_give_up(e, out);
    return true;
}

#define TEXT_IS_PROMOTED "it is being promoted; wait until that is done"

void order_demote(struct engine *e, bool force, void *cookie, struct actions *out)
{
    switch (e->role.phase) {
    case PHASE_SECONDARY:
        if (e->promotion_count > 0 || e->witness.promote)
            order_answer(cookie, -EBUSY, TEXT_IS_PROMOTED, out);
        else if (hold_end(e, out))
            order_answer(cookie, 0, "it was secondary already; what was held since it was deposed ends with an error",
                         out);
        else
            order_answer(cookie, 0, NULL, out);
        return;
    case PHASE_ASKING:
    case PHASE_PROMOTING: order_answer(cookie, -EBUSY, TEXT_IS_PROMOTED, out); return;
    case PHASE_HANDING: order_answer(cookie, -EBUSY, "it is just handing over to the peer", out); return;
    case PHASE_DETACHING:
    case PHASE_DETACHED: order_answer(cookie, -EBUSY, "it is being taken down", out); return;
    case PHASE_PRIMARY:
    case PHASE_DEMOTING: break;
    }
    e->witness.release_until_ns = e->now_ns + register_wait_ns(e);
    if (!may_drain(e, force, cookie, out) || !order_keep(e, cookie, out) || e->role.phase == PHASE_DEMOTING)
        return;
    actions_add(out, ACT_SERVE)->serve.on = false;
    e->own_flushed = false;
    e->ending_flushed = false;
    e->witness.ended = e->witness.nobody = false;
    role_demote(&e->role);
}

void order_detach(struct engine *e, bool force, void *cookie, struct actions *out)
{
    if (e->role.phase == PHASE_DETACHED) {
        order_answer(cookie, 0, NULL, out);
        return;
    }
    if (e->role.phase == PHASE_HANDING)
        handover_is_called_off(e, "it is being taken down", out);
    handover_fails(e, "it is being taken down", out);
    /* A demotion may wait for a peer who will not come: nobody must have to know that to end it. */
    if (e->role.phase == PHASE_DEMOTING && !may_drain(e, force, cookie, out))
        return;
    /* What is left of a demotion is the register's to hear. */
    e->witness.unreleased = e->role.phase == PHASE_DEMOTING && e->witness.ended;
    bool changes = e->role.phase == PHASE_DEMOTING && !e->witness.unreleased;
    if (e->role.phase == PHASE_ASKING || e->role.phase == PHASE_PROMOTING || changes) {
        order_answer(cookie, -EBUSY, "its role is just changing; try again in a moment", out);
        return;
    }
    swaps_promotion_fails(e, "it is being taken down", out);
    if (!may_drain(e, force, cookie, out) || !order_keep(e, cookie, out) || e->role.phase == PHASE_DETACHING)
        return;
    hold_end(e, out);
    e->draining_primary = e->role.phase == PHASE_PRIMARY;
    if (e->draining_primary)
        actions_add(out, ACT_SERVE)->serve.on = false;
    else
        session_drop(e, actions_text(out, "volume %s is taken down on %s", e->config.volume, e->config.node), out);
    e->own_flushed = false;
    e->ending_flushed = false;
    role_detach(&e->role);
}

/* Zeroes still: nothing was completed on it, so nothing is there that anybody may count on. */
bool engine_is_pristine(const struct engine *e)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    return e->untouched && !e->sb.adopted && !mirror.completed_any;
}

/* All that this leg knows of the other is on disk, so that the activity log may be given up: what the peer has not
 * flushed is flushed with it if it is there, and counts as out of sync if not. */
static bool is_settled(struct engine *e, struct actions *out)
{
    if (e->leg_failed)
        log_advance(e, out); /* ends what waits for the log: nothing else may come that would ask again */
    if (!mirror_is_idle(e->mirror) || !verify_parts_idle(e) || !grow_is_idle(e) || !resolve_is_idle(e))
        return false;
    /* A resync can take hours. It survives a demotion, and goes on after the next `up`: neither waits for its end. */
    if (e->role.phase == PHASE_DETACHING && !sync_is_idle(e)) {
        session_drop(e, actions_text(out, "volume %s is taken down on %s", e->config.volume, e->config.node), out);
        return false;
    }
    if (e->leg_is_out && e->peer_ready && e->session == SESSION_UP && !e->ending_flushed) {
        e->ending_flushed = true;
        mirror_flush(e->mirror, 0, out);
        return false;
    }
    /* What is with the disk still is in memory that goes with the volume. */
    if (e->leg_failed)
        return log_is_idle(e);
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    if (mirror.unflushed && e->peer_ready && e->session == SESSION_UP && !e->ending_flushed) {
        e->ending_flushed = true;
        mirror_flush(e->mirror, 0, out);
        return false;
    }
    /* A handshake was judged without the bits that this would become, and nobody would clear them. It comes up soon, or
     * ends. */
    bool deciding = e->session == SESSION_JUDGED || e->session == SESSION_READY ||
                    (e->session == SESSION_UP && is_leading(e) && !e->peer_ready);
    if (mirror.unflushed && deciding)
        return false;
    mirror_unflushed_to_bitmap(e->mirror);
    e->log.settle = true;
    log_advance(e, out);
    return log_is_settled(e);
}

static void record_ending(struct engine *e)
{
    if (!e->leg_failed)
        e->sb.al_from = al_clear(e->al);
    e->ending_flushed = false;
    e->sb.role = ROLE_SECONDARY;
    e->sb.pristine = engine_is_pristine(e) && id_is_none(e->sb.peer_leg_id);
    if (e->role.phase == PHASE_DETACHING)
        e->sb.attached = false;
    want_persisted(e);
}

static void serve_on(struct engine *e, struct actions *out)
{
    hold_forget(e);
    struct action *a = actions_add(out, ACT_SERVE);
    a->serve.on = true;
    a->serve.size_bytes = e->served_size_bytes = e->sb.size_bytes;
}

/* Clients that come from now on see the size that is on disk. */
void order_serve_size(struct engine *e, struct actions *out)
{
    if (!role_is_serving(&e->role) || !persisted(e) || e->served_size_bytes == e->sb.size_bytes)
        return;
    serve_on(e, out);
    actions_note(out, NOTE_INFO, "serve", "the volume has %llu bytes now", (unsigned long long)e->sb.size_bytes);
}

static const char *ending_text(const struct engine *e)
{
    if (e->sb_broken)
        return TEXT_BROKEN;
    return e->role.phase == PHASE_DETACHED && e->witness.unreleased
               ? "The witness has not heard that nobody is to serve: its decree still names this node, and the peer "
                 "may take over"
               : NULL;
}

void orders_carry_out(struct engine *e, uint64_t now_ns, struct actions *out)
{
    bool ending = e->role.phase == PHASE_DEMOTING || e->role.phase == PHASE_DETACHING;
    bool hands = e->role.phase == PHASE_HANDING && !e->role.handed;
    for (;;) {
        struct role_facts facts = {
            .idle = (ending || hands) && is_settled(e, out) && !e->own_flush_busy && !handover_waits_for_register(e),
            /* What cannot be written any more will not hold up the end: the disk then tells of an unclean one. */
            .persisted = persisted(e) || (ending && e->sb_broken),
            .flushed = e->own_flushed,
            /* Also where the first decree, which names this node, is under way. */
            .released = !register_may_rule(e) || e->role.phase != PHASE_DEMOTING || e->witness.nobody,
            .session_up = e->session == SESSION_UP,
            .peer_agreed = e->peer_epoch == e->sb.epoch,
        };
        switch (role_next(&e->role, &facts)) {
        case ROLE_NEED_NOTHING: return;
        case ROLE_NEED_DECREE:
            e->witness.decree_sent_ns = now_ns;
            decree_send(FRAME_DECREE, 0, e->role.phase == PHASE_ASKING ? e->asked_epoch : e->sb.epoch, 0, out);
            break;
        case ROLE_NEED_SERVE:
            e->served_block_bytes = (uint32_t)max_u64(own_block_bytes(e), e->peer_block_bytes);
            serve_on(e, out);
            actions_note(out, NOTE_INFO, "role", "%s is primary at epoch %llu", e->config.node,
                         (unsigned long long)e->sb.epoch);
            orders_finish(e, 0, e->promoted_half_made ? sync_last_consistent(e, out) : NULL, out);
            if (e->session == SESSION_NONE)
                alone_consider(e, now_ns, 0);
            break;
        case ROLE_NEED_FLUSH:
            if (!e->own_flush_busy)
                leg_flush(e, FLUSH_FOR_ENDING, out);
            return;
        case ROLE_NEED_HAND: handover_hand(e, out); return;
        case ROLE_NEED_RELEASE:
            if (!e->witness.ended)
                e->witness.release_until_ns = now_ns + register_wait_ns(e);
            e->witness.ended = true;
            return;
        case ROLE_NEED_RECORD:
            record_ending(e);
            superblock_write_if_wanted(e, out);
            break;
        case ROLE_NEED_FINISH:
            actions_note(out, NOTE_INFO, "role", e->role.phase == PHASE_DETACHED ? "%s is detached" : "%s is secondary",
                         e->config.node);
            if (e->role.phase == PHASE_DETACHED) {
                e->draining_primary = false; /* it may have to stay as it is: no hello may call it primary */
                session_drop(e, "the volume is taken down", out);
            } else if (e->session == SESSION_UP && e->peer_state == PEER_IN_SYNC && bitmap_dirty_bytes(e->bitmap) &&
                       e->verify.telling != TELLING_DONE) {
                /* The bits of a verify. The peer, which has no record of them, is not to serve before it has the same.
                 * One that has waits for an operator's force, or the next session. */
                session_drop(e, "what a verify found is resynced", out);
            }
            orders_finish(e, e->sb_broken ? -EIO : 0, ending_text(e), out);
            break;
        }
    }
}
