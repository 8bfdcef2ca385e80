/* Decrees of the register: what this node knows that makes it ask for one, and what follows when it has one, or another
 * one stands. */
#include <errno.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

/* Rule living-primary: of two nodes that have lost each other and both reach the register, the primary's swap comes
 * first. */
static uint64_t take_after_ns(const struct engine *e)
{
    return e->config.failover.dead_after_ns + e->config.failover.dead_after_ns / 4;
}

/* ---- the facts ---- */

static enum swap_role role_for_swaps(const struct engine *e)
{
    switch (e->role.phase) {
    case PHASE_SECONDARY: /* who cannot record what it gets, or is giving its changes up, gets nothing */
        return e->sb_broken || !resolve_is_idle(e) ? SWAP_BUSY : SWAP_SECONDARY;
    case PHASE_PRIMARY: return SWAP_PRIMARY;
    case PHASE_HANDING: return e->role.handed ? SWAP_HANDING : SWAP_BUSY;
    case PHASE_DEMOTING: return e->witness.ended ? SWAP_ENDING : SWAP_DRAINING;
    case PHASE_DETACHING: return e->draining_primary ? SWAP_DRAINING : SWAP_BUSY;
    case PHASE_ASKING:
    case PHASE_PROMOTING:
    case PHASE_DETACHED: return SWAP_BUSY;
    }
    return SWAP_BUSY;
}

static bool leads(const struct engine *e) { return is_leading(e) || e->role.phase == PHASE_PROMOTING; }

static bool serves_peer(const struct engine *e) { return e->session == SESSION_UP && e->peer_leads; }

/* Since when a secondary has heard of no primary. In a session there is a node that may be about to resume: it is to be
 * given as long. */
static uint64_t silent_since_ns(const struct engine *e)
{
    return e->session == SESSION_UP ? max_u64(e->witness.heard_ns, e->witness.session_ns) : e->witness.heard_ns;
}

static bool is_silent(const struct engine *e)
{
    return e->role.phase == PHASE_SECONDARY && !serves_peer(e) &&
           (e->stable == STABLE_ALL || e->session == SESSION_UP) && e->now_ns >= silent_since_ns(e) + take_after_ns(e);
}

static bool lends(const struct engine *e)
{
    const struct engine_witness *w = &e->witness;
    return serves_peer(e) || (w->lent_ns && e->now_ns < w->lent_ns + take_after_ns(e));
}

/* The bits are clear, and the set lacks it only because nobody could ask. */
static bool may_take_peer_in(const struct engine *e)
{
    bool ready = e->peer_ready || !is_leading(e);
    return e->session == SESSION_UP && ready && e->peer_state == PEER_TARGET && e->sync_begun &&
           resync_source_state(e->source) == RESYNC_DONE && !e->sync_finishing;
}

/* What this leg has is flushed, and it can go on as the only one. */
static bool can_be_left_alone(const struct engine *e)
{
    return e->stable == STABLE_ALL && e->session == SESSION_NONE && !e->leg_failed && !e->sb_broken;
}

/* The last epoch that is on record is of a decree that named this node, or that it made an entry for. Else that of
 * another one: it was deposed by it, or its peer has told of it. */
static bool is_own_epoch(const struct engine *e)
{
    const struct history_entry *last = history_last(&e->sb.history);
    return e->sb.served_epoch == e->sb.epoch || (last && last->epoch == e->sb.epoch);
}

/* Rule no-older-register: what was ever decided. Who is alone by its own record does, if it has heard of nothing since,
 * nor asked for "in": who was taken in may have taken over.
 * The source of a target that is done has heard both, as the other leg has what it has by now. Not of a new leg, which
 * knows nothing of what its node has done before. And where each lacks what the other had flushed, that is an
 * operator's loss to accept. */
static bool knows_everything(const struct engine *e, bool in_sync)
{
    bool heard_of_none = e->witness.highest_epoch <= e->sb.epoch && is_own_epoch(e) && !e->witness.in_forgotten;
    bool alone = !e->sb.peer_in_sync && heard_of_none;
    return in_sync || alone || (may_take_peer_in(e) && !e->sb.lost_power && e->peer.history.count > 0);
}

/* It asked to take over, perhaps before it died, from what stands yet. */
bool swaps_may_be_granted(const struct engine *e)
{
    return e->sb.asked_epoch && e->sb.asked_epoch >= e->witness.decree.epoch;
}

void swap_gather(struct engine *e, struct swap_facts *f)
{
    struct engine_witness *w = &e->witness;
    bool secondary = e->role.phase == PHASE_SECONDARY;
    bool in_sync = e->session == SESSION_UP && e->peer_state == PEER_IN_SYNC && (!is_leading(e) || e->peer_ready);
    *f = (struct swap_facts) {
        .node = e->config.node,
        .peer = e->config.peer,
        .leg_id = e->sb.leg_id,
        .peer_leg_id = e->sb.peer_leg_id,
        .stands = &w->decree,
        .registered = e->sb.registered,
        .epoch = e->sb.epoch,
        .known_epoch = max_u64(e->sb.epoch, e->witness.highest_epoch),
        .role = role_for_swaps(e),
        .whole = own_leg(e) == LEG_UP_TO_DATE && !e->sb.differs && !e->sb_broken && !e->leg_is_out,
        .lost_power = e->sb.lost_power,
        .went_back = e->sb.went_back,
        .serves_peer = serves_peer(e),
        .peer_lost = w->out_wanted && can_be_left_alone(e),
        .peer_is_target = w->target_since_ns && can_be_left_alone(e),
        .resync_done = may_take_peer_in(e),
        .peer_has_asked = (w->peer_asked_epoch && w->peer_asked_epoch >= e->sb.epoch) || w->in_forgotten,
        .leg_failed = e->diskless == DISKLESS_WANTED && !w->leg_is_declared,
        .in_sync = in_sync,
        .never_served = e->role.phase == PHASE_PRIMARY && e->sb.history.count == 0,
        .leg_is_lost = e->leg_failed || e->sb_broken,
        .peer_is_whole = e->sb.peer_in_sync && e->sb.peer_leg != LEG_FAILED && !e->sb.full,
        .lends = lends(e),
        .silent = is_silent(e),
        .automatic = e->config.failover.automatic,
        .gives_up = w->gives_up,
        .handed = secondary && w->handed && in_sync,
        .has_asked = secondary && swaps_may_be_granted(e),
        .promote = secondary && w->promote,
        .force = secondary && w->promote && e->promote_force,
        .peer_is_kept = w->in_forgotten || (e->sb.peer_in_sync && may_take_peer_in(e)),
        .adopt = w->adopt && w->state == REGISTER_STATE_OLDER && knows_everything(e, in_sync),
    };
}

/* ---- silence ---- */

void swaps_on_session_up(struct engine *e)
{
    struct engine_witness *w = &e->witness;
    w->session_ns = e->now_ns;
    if (!e->peer_leads) /* it says so itself */
        w->lent_ns = 0;
    w->out_wanted = false;
    w->target_since_ns = 0;
    w->peer_asked_epoch = 0;
}

void swaps_on_session_down(struct engine *e, bool was_made, uint64_t heard_ns)
{
    struct engine_witness *w = &e->witness;
    if (was_made && e->peer_leads)
        w->heard_ns = w->lent_ns = max_u64(w->heard_ns, heard_ns ? heard_ns : e->now_ns);
}

/* Rule flush-before-leaving: so that it is not left for later. */
static void flush_when_silent(struct engine *e)
{
    struct engine_witness *w = &e->witness;
    if (w->heard_ns == 0)
        w->heard_ns = e->now_ns;
    bool silent = e->role.phase == PHASE_SECONDARY && !serves_peer(e) && register_rules(e) &&
                  e->now_ns >= w->heard_ns + e->config.failover.dead_after_ns;
    if (silent && e->session == SESSION_NONE)
        leg_want_stable(e);
}

/* ---- the peer's hello ---- */

/* The epochs of a peer that asks none, as far as it says, are none of the register's: one that was given by an operator
 * would make the register an older one. */
bool swaps_are_of_one_register(const struct engine *e, const struct hello *peer)
{
    return !register_rules(e) || peer->config.dead_after_us == 0 || peer->config.witness != 0;
}

/* Rule one-swap: what its end may be, a session would not know of. An epoch above the one that it expects is its end,
 * if another node serves there. Whoever is deposed by that stops before it forgets what it may not do meanwhile,
 * whatever the hello is refused for. */
void swaps_on_hello(struct engine *e, const struct hello *peer, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    bool same = id_equal(peer->volume_id, e->sb.volume_id) && swaps_are_of_one_register(e, peer);
    if (!register_rules(e) || peer->role != ROLE_PRIMARY || !same)
        return;
    if (peer->epoch > e->sb.epoch && leads(e))
        decree_step_down(e, "this node was deposed: another epoch has begun", out);
    if (w->swap != SWAP_NOT && peer->epoch > w->request.expected_epoch)
        register_forget_swap(e);
}

/* Rule living-primary: a primary at an epoch that is news has just begun, also where it is refused. */
void swaps_heard_of(struct engine *e, const struct hello *peer)
{
    if (peer->role == ROLE_PRIMARY)
        e->witness.heard_ns = max_u64(e->witness.heard_ns, e->now_ns);
}

/* The decree that a peer who does not serve has heard of, is it the one that was asked for here? The answer says so. */
bool swaps_may_be_own(const struct engine *e, const struct hello *peer)
{
    const struct engine_witness *w = &e->witness;
    return w->swap == SWAP_SENT && peer->role == ROLE_SECONDARY && peer->epoch <= w->request.proposal.epoch;
}

/* Rules answer-by-renewal, out-before-target. */
void swaps_on_refused(struct engine *e, const struct hello *peer, const struct sync_judgement *j)
{
    struct engine_witness *w = &e->witness;
    if (!register_rules(e))
        return;
    if (j->peer_asked)
        w->peer_asked_epoch = peer->asked_epoch;
    if (j->target_in_set) {
        if (w->target_since_ns == 0) {
            w->target_since_ns = e->now_ns;
            w->read_at_ns = e->now_ns; /* what it is said to be was so a while ago */
        }
        leg_want_stable(e);
    }
}

/* The register has not answered for so long: the session goes on with the target in the set, which knows itself what it
 * is. Not where this leg is known to be no member: the other one's may be the only one. */
bool swaps_let_target_in(const struct engine *e)
{
    const struct engine_witness *w = &e->witness;
    bool may_count = decree_is_none(&w->decree) || decree_has_member(&w->decree, e->sb.leg_id);
    return may_count && w->target_since_ns && e->now_ns >= w->target_since_ns + e->config.failover.dead_after_ns &&
           w->swap == SWAP_NOT && w->state != REGISTER_STATE_REACHABLE;
}

/* ---- what stands ---- */

/* Rule persist-first: an epoch on disk is one that the register had. */
static void see_epoch(struct engine *e, uint64_t epoch)
{
    if (epoch > e->sb.epoch) {
        e->sb.epoch = epoch;
        want_persisted(e);
    }
    if (e->sb.asked_epoch && e->sb.asked_epoch < e->sb.epoch) {
        e->sb.asked_epoch = 0;
        want_persisted(e);
    }
}

static bool history_has(const struct history *h, const struct decree *d)
{
    for (uint32_t i = 0; i < h->count; i++)
        if (h->entries[i].epoch == d->epoch && h->entries[i].tag == d->tag)
            return true;
    return false;
}

/* Of "in" either node makes the entry, the target perhaps by the register's word alone: there is no LSN in it. */
static struct history_entry entry_of_in(const struct decree *d)
{
    return (struct history_entry) { d->epoch, 0, d->tag };
}

/* Also the leg that was there before the peer's present one: it may be back. */
static bool has_other_member(const struct engine *e, const struct decree *d)
{
    return d->member_count > (decree_has_member(d, e->sb.leg_id) ? 1 : 0);
}

static void append(struct engine *e, struct history_entry made)
{
    if (!history_may_append(&e->sb.history, made))
        return;
    history_append(&e->sb.history, made);
    e->entry_ns = e->now_ns;
}

/* Its end is not waited for any more, and it may have been carried out. */
void swaps_forget_in(struct engine *e)
{
    struct engine_witness *w = &e->witness;
    if (w->swap != SWAP_SENT || w->request.proposal.cause != DECREE_IN)
        return;
    w->in_forgotten = true;
    w->forgotten = entry_of_in(&w->request.proposal);
}

static void record(struct engine *e, const struct decree *d, bool entry)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    e->sb.registered = true;
    if (is_leading(e))
        e->sb.served_epoch = d->epoch;
    e->sb.peer_in_sync = has_other_member(e, d);
    struct history_entry made =
        d->cause == DECREE_IN ? entry_of_in(d) : (struct history_entry) { d->epoch, mirror.lsn + 1, d->tag };
    if (entry && !history_has(&e->sb.history, d))
        append(e, made);
    want_persisted(e);
    see_epoch(e, d->epoch);
}

/* Its session goes on, with the other side leading. Not one that is younger than the hand-over: on the other side may
 * be another daemon since, or another leg, which does not know of it, and takes this node for its primary. */
static bool is_taken_in_session(const struct engine *e)
{
    return e->role.phase == PHASE_HANDING && e->role.handed && e->session == SESSION_UP &&
           e->witness.session_ns <= e->witness.hand_since_ns && !e->leg_failed && !e->sb_broken;
}

/* Rule stop-first. */
static void depose(struct engine *e, uint64_t epoch, struct actions *out)
{
    if (is_taken_in_session(e)) {
        handover_is_taken(e, out);
        see_epoch(e, epoch);
        return;
    }
    bool was_leading = leads(e);
    /* What is on its way in a session that has not noticed yet is nobody's. */
    if (was_leading && e->session != SESSION_NONE) {
        session_drop(e, "this node was deposed", out);
        e->peer_ready = false;
        mirror_peer_lost(e->mirror, out);
    }
    if (was_leading)
        decree_step_down(e, "this node was deposed: the witness has another decree", out);
    see_epoch(e, epoch);
}

/* A swap of its own was carried out, and it died before it had recorded that: what it made is made up for. Where nobody
 * is named it may have been any swap since the other leg has left, which is older from there on. */
static void catch_up(struct engine *e, const struct decree *d)
{
    bool mine = (!*d->primary || strcmp(d->primary, e->config.node) == 0) && decree_has_member(d, e->sb.leg_id);
    bool peer_has_left = e->sb.peer_in_sync && !has_other_member(e, d);
    bool entry = swap_makes_entry(d) || peer_has_left;
    /* The epoch it may have from its peer already, who was refused there. */
    bool known = history_has(&e->sb.history, d) || d->epoch < e->sb.epoch || (d->epoch == e->sb.epoch && !entry);
    bool may = e->role.phase == PHASE_SECONDARY && e->session == SESSION_NONE && e->sb.leg == LEG_UP_TO_DATE;
    /* What it has is being given up: it makes no entry that would outlive that. */
    if (!mine || known || !may || !resolve_is_idle(e))
        return;
    record(e, d, entry);
    if (d->cause == DECREE_FORCE && superblock_is_doubtful(&e->sb) && !e->sb.went_back) /* since it was forced */
        decree_accept_loss(e);
}

/* Rule taken-either-way. From asking for "in" on the source acknowledges nothing without this leg, whatever becomes of
 * the session, until it is out again: what this leg had at the session's end is everything. Of that session's "in": one
 * that stood before it was of another time. */
static void be_taken_by_word(struct engine *e, const struct decree *d, struct actions *out)
{
    bool by_source = d->cause == DECREE_IN && strcmp(d->primary, e->config.peer ? e->config.peer : "") == 0 &&
                     decree_has_member(d, e->sb.leg_id) && decree_has_member(d, e->peer.leg_id);
    bool waits = e->witness.complete && e->session == SESSION_NONE && e->role.phase == PHASE_SECONDARY &&
                 own_leg(e) == LEG_SYNCING && !e->sb_broken && resolve_is_idle(e);
    if (!waits || !by_source || !e->witness.fresh || d->epoch < e->sb.epoch || d->epoch <= e->peer.epoch)
        return;
    e->witness.complete = false;
    decree_taken_unheard(e, entry_of_in(d), out);
    see_epoch(e, d->epoch);
}

/* From now on this node acts by the register's decrees; false: by none yet. Its peer is to do the same, and learns of
 * it by the next hello: else each would leave it to the other one to serve. */
static bool registers(struct engine *e, const struct decree *d, struct actions *out)
{
    if (e->sb.registered)
        return !decree_is_none(d);
    if (decree_is_none(d) || swap_is_late_first(d, e->sb.epoch))
        return false;
    e->sb.registered = true;
    want_persisted(e);
    session_drop(e, "the volume has a decree", out);
    return true;
}

void decree_was_read(struct engine *e, const struct decree *d, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    bool later = d->epoch > max_u64(e->sb.epoch, w->decree.epoch);
    register_take_decree(e, d);
    if (!registers(e, d, out))
        return;
    /* At the own epoch an operator has promoted this node, when it did not know of any decree. */
    bool is_others = *d->primary && strcmp(d->primary, e->config.node) != 0;
    if (leads(e) && (d->epoch > e->sb.epoch || (d->epoch == e->sb.epoch && is_others)))
        depose(e, d->epoch, out);
    if (later && e->config.peer && strcmp(d->primary, e->config.peer) == 0)
        w->heard_ns = max_u64(w->heard_ns, e->now_ns); /* it lives */
    catch_up(e, d);
    be_taken_by_word(e, d, out);
}

/* ---- an operator's promotion ---- */

#define TEXT_LEG_FAILED "its leg has failed: mend its disk, or promote the peer"
#define TEXT_NAMED_AND_FAILED                                                                                          \
    "its leg has failed since it asked, and the witness names it: it serves as soon as its disk is mended and it is "  \
    "attached again (`lockstep down`, `up`); or promote the peer"

static void promotion_ends(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    if (!e->witness.promote)
        return;
    e->witness.promote = false;
    orders_finish(e, result, text, out);
}

void swaps_promotion_fails(struct engine *e, const char *text, struct actions *out)
{
    promotion_ends(e, -EPERM, text, out);
}

/* ---- the end of a swap ---- */

static void become_primary(struct engine *e, const struct decree *d, struct actions *out)
{
    /* It is being taken down: the register names it, and when it is back, it knows of that from there. */
    if (e->role.phase != PHASE_SECONDARY)
        return;
    /* Its leg has failed since it asked: it would serve, and each write would fail. */
    bool unfit = own_leg(e) != LEG_UP_TO_DATE || e->sb.went_back;
    bool alone = !has_other_member(e, d);
    bool useless = e->sb_broken || e->leg_failed || e->leg_is_out || (unfit && d->cause != DECREE_FORCE);
    if (useless) {
        promotion_ends(e, -EIO, alone ? TEXT_NAMED_AND_FAILED : TEXT_LEG_FAILED, out);
        handover_fails(e, "its leg has failed: mend its disk", out);
        session_drop(e, "the leg that was to take over has failed", out);
        e->sb.registered = true;
        want_persisted(e);
        see_epoch(e, d->epoch);
        return;
    }
    e->witness.promote = e->witness.handed = e->witness.switch_asked = false;
    e->stable = STABLE_NOT;
    e->entry_tag = d->tag;
    e->sb.registered = true;
    e->sb.asked_epoch = 0;
    e->promote_force = d->cause == DECREE_FORCE;
    e->is_behind = e->person_decides = false;
    role_promote(&e->role, false);
    e->promoted_half_made = false;
    if (!decree_take(e, d->epoch, out)) {
        role_yield(&e->role);
        orders_finish(e, -ENOMEM, TEXT_NO_MEMORY, out);
        return;
    }
    e->entry_tag = 0;
    /* Rule sole-leg: nobody has more than it has. By force somebody may, which decree_take() has seen to. */
    if (alone)
        e->sb.lost_power = false;
    record(e, d, swap_makes_entry(d));
}

/* With the peer out of the set, what waits for it does not wait for the usual time. */
static void go_on_alone(struct engine *e)
{
    e->witness.out_wanted = false;
    if (e->session == SESSION_NONE)
        alone_consider(e, e->now_ns, 0);
}

void swap_won(struct engine *e, const struct decree *d, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    bool entry = swap_makes_entry(d);
    if (w->in_forgotten && d->cause == DECREE_ADOPT) /* the peer has it, too, if it was carried out */
        append(e, w->forgotten);
    w->in_forgotten = false; /* it expected what stood before */
    actions_note(out, NOTE_INFO, "witness", "%s: epoch %llu, primary %s, %u in the in-sync set",
                 decree_cause_name(d->cause), (unsigned long long)d->epoch, *d->primary ? d->primary : "none",
                 d->member_count);
    switch (d->cause) {
    case DECREE_TAKE:
    case DECREE_RESUME:
    case DECREE_PROMOTE:
    case DECREE_FORCE:
    case DECREE_SWITCH: become_primary(e, d, out); return;
    case DECREE_OUT:
        record(e, d, entry);
        /* What it has and has not flushed is not stable there: it is to be, before it is a member again. */
        mirror_unflushed_to_bitmap(e->mirror);
        e->stable = STABLE_NOT; /* what is acknowledged from now on is another matter */
        w->target_since_ns = 0;
        if (e->leg_failed) /* since it was asked for: nobody stands in for it now */
            diskless_give_up(e, out);
        go_on_alone(e);
        return;
    case DECREE_IN:
        record(e, d, entry);
        w->took_in = may_take_peer_in(e);
        go_on_alone(e);
        return;
    case DECREE_RENEW:
        record(e, d, entry);
        w->peer_asked_epoch = 0;
        handover_returns(e, out);
        go_on_alone(e);
        return;
    case DECREE_FIRST:
    case DECREE_ADOPT:
        record(e, d, entry);
        /* The peer learns of the epoch, and that there is a register, by the next hello. */
        session_drop(e, "the volume has a new decree", out);
        go_on_alone(e);
        return;
    case DECREE_LEG_OUT:
        see_epoch(e, d->epoch);
        diskless_declared(e, d);
        return;
    case DECREE_NOBODY:
        record(e, d, entry);
        w->ended = false;
        w->nobody = true;
        return;
    }
}

void swap_lost(struct engine *e, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    actions_note(out, NOTE_WARNING, "witness", "%s was not granted: epoch %llu stands, primary %s",
                 decree_cause_name(w->request.proposal.cause), (unsigned long long)w->decree.epoch,
                 *w->decree.primary ? w->decree.primary : "none");
    w->heard_ns = max_u64(w->heard_ns, e->now_ns);
    handover_fails(e, "another decree came first: see `lockstep status`", out);
    if (registers(e, &w->decree, out))
        depose(e, w->decree.epoch, out);
}

/* The register has just been read. */
void swaps_promote(struct engine *e, const struct swap_facts *f, int row, struct actions *out)
{
    if (!e->witness.promote || row >= 0)
        return;
    const char *obstacle = swap_obstacle(f);
    if (obstacle) {
        swaps_promotion_fails(e, obstacle, out);
    } else if (!e->sb.registered) {
        /* The volume has no decree yet: an operator knows who serves, as without a register. */
        orders_promote_undecreed(e, out);
    }
    /* Else the peer was primary a moment ago: it is waited for as long as that takes. */
}

/* ---- time ---- */

static bool releases(const struct engine *e) { return e->role.phase == PHASE_DEMOTING && e->witness.ended; }

bool release_is_stuck(const struct engine *e)
{
    enum register_state state = e->witness.state;
    return releases(e) && state != REGISTER_STATE_REACHABLE && state != REGISTER_STATE_ASKING;
}

/* What the register said last, if it said anything but that it is there. */
static const char *why_not_released(struct engine *e, struct actions *out)
{
    const struct engine_witness *w = &e->witness;
    bool refuses = w->state == REGISTER_STATE_REFUSED || w->state == REGISTER_STATE_OLDER ||
                   w->state == REGISTER_STATE_UNCONFIRMED;
    return actions_text(out,
                        "nothing is served here any more, but the witness %s%s%s, and has not heard that nobody is to "
                        "serve: this node tells it as soon as it does, unless it is taken down (`lockstep down "
                        "--force`)",
                        refuses ? "does not take it" : "does not answer", *w->reason ? ": " : "", w->reason);
}

void swaps_advance(struct engine *e, struct actions *out)
{
    flush_when_silent(e);
    if (e->leg_failed && e->witness.swap != SWAP_SENT)
        promotion_ends(e, -EIO, TEXT_LEG_FAILED, out);
    /* Late, not refused: what is refused may be followed by force. */
    if (e->witness.promote && e->now_ns >= e->witness.promote_until_ns)
        promotion_ends(e, -ETIMEDOUT,
                       e->witness.swap == SWAP_SENT
                           ? "the witness does not answer what it was asked: this node serves yet, if it was "
                             "carried out. See `lockstep status`"
                           : "it was not this node's turn in time: see `lockstep status`",
                       out);
    if (releases(e) && e->order_count > 0 && e->now_ns >= e->witness.release_until_ns)
        orders_finish(e, -ETIMEDOUT, why_not_released(e, out), out);
}

uint64_t swap_deadline_ns(const struct engine *e)
{
    const struct engine_witness *w = &e->witness;
    uint64_t at_ns = w->promote ? w->promote_until_ns : UINT64_MAX;
    if (releases(e) && e->order_count > 0)
        at_ns = min_u64(at_ns, w->release_until_ns);
    if (e->role.phase != PHASE_SECONDARY || serves_peer(e) || !register_rules(e) || e->leg_failed)
        return at_ns;
    if (e->stable == STABLE_NOT && e->session == SESSION_NONE)
        return min_u64(at_ns, w->heard_ns + e->config.failover.dead_after_ns);
    uint64_t take_ns = silent_since_ns(e) + take_after_ns(e);
    return e->now_ns < take_ns ? min_u64(at_ns, take_ns) : at_ns;
}
