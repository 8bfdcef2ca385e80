/* What this node asks the register, and what it hears from it.
 *
 * One question is under way at a time. The register is read every dead-after, whatever goes on: a deposed node learns
 * of it so, a register that has started anew hears of both nodes, and `status` tells whether it can be reached. What is
 * to be changed, the table in repl/role/swaps.c says. Rule read-then-swap: it is asked for when the register has just
 * answered. Rule one-swap: once it was sent, it is sent again until its end is known; whoever could go on at the epoch
 * that it expects has to wait, too. What follows from its end is in engine_swaps.c. */
#include <stdio.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

#define RETRY_NS (100 * NS_PER_MS) /* of a swap whose end is not known, and of a register that does not answer */

bool register_rules(const struct engine *e) { return e->config.failover.has_register && e->sb.registered; }

bool register_may_rule(const struct engine *e)
{
    return register_rules(e) || (e->config.failover.has_register && e->witness.swap != SWAP_NOT);
}

static bool is_used(const struct engine *e)
{
    /* Which volume it is that a register is asked for, is known when it is one. */
    return e->config.failover.has_register && !id_is_none(e->sb.volume_id) && e->role.phase != PHASE_DETACHED;
}

static void take_name(char to[NAME_BYTES_MAX], const char *name)
{
    snprintf(to, NAME_BYTES_MAX, "%s", name ? name : "");
}

void register_begin(struct engine *e)
{
    if (!e->config.failover.has_register)
        return;
    e->witness.state = REGISTER_STATE_ASKING;
    e->witness.highest_epoch = e->sb.heard_epoch;
    take_name(e->witness.request.volume, e->config.volume);
    take_name(e->witness.request.node, e->config.node);
    take_name(e->witness.request.peer, e->config.peer);
}

/* Below what this node has heard of, no register may be. One that was never told of the volume knows of none, and is
 * not older for that. */
uint64_t register_known_epoch(const struct engine *e)
{
    return e->sb.registered ? max_u64(e->sb.epoch, e->witness.highest_epoch) : 0;
}

/* Rule no-older-register, also after a restart. What is recorded as the own epoch needs no second place: whoever acts
 * by a decree has it there. */
static void record_what_was_heard(struct engine *e)
{
    uint64_t recorded = max_u64(e->sb.epoch, e->sb.heard_epoch);
    if (!e->sb.registered || e->witness.highest_epoch <= recorded)
        return;
    e->sb.heard_epoch = e->witness.highest_epoch;
    want_persisted(e);
}

void register_take_decree(struct engine *e, const struct decree *d)
{
    e->witness.decree = *d;
    e->witness.highest_epoch = max_u64(e->witness.highest_epoch, d->epoch);
}

static void send(struct engine *e, enum register_ask what, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    assert(!w->asked);
    struct register_request *r = &w->request;
    r->ask = what;
    r->volume_id = e->sb.volume_id;
    r->leg_age = e->age.stable;
    r->known_epoch = register_known_epoch(e);
    r->serving_alone = what == REGISTER_READ && register_rules(e) && e->role.phase == PHASE_PRIMARY &&
                       !e->sb.peer_in_sync && !e->leg_is_out && r->known_epoch == e->sb.epoch && persisted(e);
    r->tries = what == REGISTER_READ && handover_tries_register(e);
    w->asked = true;
    actions_add(out, ACT_REGISTER)->ask.request = r;
}

/* ---- the swap ---- */

/* All but the hand-over's two are about a peer that is not there; and who asks for itself takes part in nothing. */
static bool needs_no_session(enum decree_cause cause)
{
    switch (cause) {
    case DECREE_IN:
    case DECREE_FIRST:
    case DECREE_SWITCH:
    case DECREE_NOBODY:
    case DECREE_ADOPT: return false;
    case DECREE_OUT:
    case DECREE_TAKE:
    case DECREE_RESUME:
    case DECREE_RENEW:
    case DECREE_LEG_OUT:
    case DECREE_PROMOTE:
    case DECREE_FORCE: return true;
    }
    return true;
}

/* The register has just taken the peer in, and that one has it not on record yet that its leg is whole: if the session
 * ended now, R would name a member that is half made, by its own word. Its disk may hang: for a while only. */
static bool peer_is_about_to_be_whole(const struct engine *e)
{
    const struct engine_witness *w = &e->witness;
    bool comes_back = e->session == SESSION_UP && e->peer_state == PEER_TARGET && (e->sync_finishing || w->took_in);
    uint64_t until_ns = w->promote_until_ns - register_wait_ns(e) + 2 * e->config.failover.dead_after_ns;
    return comes_back && e->now_ns < until_ns;
}

/* False: there is a session to end first, or one is being made. The next one is not made before there was the time for
 * a flush and for what is to be asked: connections come back sooner than that. */
static bool is_free_for(struct engine *e, enum decree_cause cause, struct actions *out)
{
    if (e->session == SESSION_NONE || !needs_no_session(cause))
        return true;
    if (cause == DECREE_PROMOTE && peer_is_about_to_be_whole(e))
        return false;
    if (e->session == SESSION_UP) {
        e->witness.alone_until_ns = e->now_ns + e->config.failover.dead_after_ns;
        session_drop(e, actions_text(out, "%s asks the witness for a decree", e->config.node), out);
    }
    return false;
}

bool register_wants_no_session(const struct engine *e) { return e->now_ns < e->witness.alone_until_ns; }

void engine_loss_of_force(const struct engine *e, const struct engine_view *now, char text[LOSS_TEXT_BYTES])
{
    loss_of_force(
        &(struct loss_facts) { .node = e->config.node,
                               .peer = e->config.peer,
                               .leg_id = now->leg_id,
                               .leg = now->leg,
                               .doubt = now->doubt,
                               .epoch = now->epoch,
                               .lsn = now->lsn,
                               .consistent_epoch = now->consistent_epoch,
                               .consistent_lsn = now->consistent_lsn,
                               .to_come_bytes = now->out_of_sync_bytes,
                               .peer_changed_bytes = now->apart.peer.changed_known ? now->apart.peer.changed_bytes : 0,
                               .stands = &e->witness.decree },
        text);
}

/* What an operator gives up by it, for the register's history. */
static void note_loss(struct engine *e, struct register_request *r)
{
    r->note[0] = 0;
    if (r->proposal.cause == DECREE_ADOPT)
        loss_of_adopting(&e->witness.decree, register_known_epoch(e), r->note);
    if (r->proposal.cause != DECREE_FORCE)
        return;
    struct engine_view now;
    engine_view(e, &now);
    engine_loss_of_force(e, &now, r->note);
}

static void prepare(struct engine *e, int row, const struct swap_facts *facts)
{
    struct engine_witness *w = &e->witness;
    uint64_t tag = prng_next(&e->chance);
    w->request.proposal = swap_propose(row, facts, tag ? tag : 1);
    w->request.expected_epoch = w->decree.epoch;
    w->request.expected_tag = w->decree.tag;
    w->request.over_older = w->request.proposal.cause == DECREE_ADOPT;
    note_loss(e, &w->request);
    w->swap = SWAP_PREPARED;
    w->swap_row = row;
    w->swap_since_ns = e->now_ns;
    w->asked_before = e->sb.asked_epoch;
    /* Rule no-session-while-asking: on record before it is asked for, so that it holds after a crash, too. */
    if (swap_is_claim(w->request.proposal.cause)) {
        e->sb.asked_epoch = w->decree.epoch;
        want_persisted(e);
    }
}

/* What let it be prepared has to hold still when its record is on disk. One that never gets there was not asked for. */
static void send_what_is_prepared(struct engine *e)
{
    struct engine_witness *w = &e->witness;
    bool claims = swap_is_claim(w->request.proposal.cause);
    struct swap_facts facts;
    swap_gather(e, &facts);
    if (swap_choose(&facts) != w->swap_row) {
        w->swap = SWAP_NOT;
        w->read_at_ns = e->now_ns;
        if (e->sb.asked_epoch != w->asked_before) {
            e->sb.asked_epoch = w->asked_before;
            want_persisted(e);
        }
    } else if (persisted(e) || (!claims && e->leg_failed)) {
        w->swap = SWAP_SENT;
        w->retry_at_ns = e->now_ns;
    }
}

/* An epoch above the one that it expects stands, and it is another node's: it was not carried out, or that is history.
 */
void register_forget_swap(struct engine *e)
{
    struct engine_witness *w = &e->witness;
    if (w->swap == SWAP_NOT)
        return;
    w->swap = SWAP_NOT;
    w->is_void = w->asked && w->request.ask == REGISTER_SWAP;
}

static void swap_over(struct engine *e, bool done, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    w->swap = SWAP_NOT;
    w->alone_until_ns = 0;
    w->fresh = false;
    session_waits_no_more(e);
    w->read_at_ns = e->now_ns; /* a lost one: by what stands instead */
    if (w->request.proposal.cause == DECREE_ADOPT)
        adopt_ends(e, done, out);
    if (done)
        swap_won(e, &w->request.proposal, out);
    else
        swap_lost(e, out);
}

/* ---- answers ---- */

static enum register_state state_after(enum register_outcome outcome)
{
    switch (outcome) {
    case REGISTER_STANDS:
    case REGISTER_DONE:
    case REGISTER_LOST: return REGISTER_STATE_REACHABLE;
    case REGISTER_UNREACHABLE: return REGISTER_STATE_UNREACHABLE;
    case REGISTER_UNCONFIRMED: return REGISTER_STATE_UNCONFIRMED;
    case REGISTER_OLDER: return REGISTER_STATE_OLDER;
    case REGISTER_REFUSED: return REGISTER_STATE_REFUSED;
    }
    return REGISTER_STATE_REFUSED;
}

static void take_state(struct engine *e, const struct register_answer *answer, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    enum register_state before = w->state;
    w->state = state_after(answer->outcome);
    bool good = w->state == REGISTER_STATE_REACHABLE;
    bool was_good = before == REGISTER_STATE_REACHABLE || before == REGISTER_STATE_ASKING;
    snprintf(w->reason, sizeof(w->reason), "%s", good ? "" : answer->reason);
    if (good && !was_good)
        actions_note(out, NOTE_INFO, "witness", "the witness answers again");
    else if (!good && w->state != before)
        actions_note(out, w->state == REGISTER_STATE_OLDER ? NOTE_ERROR : NOTE_WARNING, "witness", "the witness: %s",
                     w->reason);
    /* In a session there is one that lives: what it was late for, as nobody answered it, either, it may do first. */
    if (good && !was_good && e->session != SESSION_NONE)
        e->witness.heard_ns = max_u64(e->witness.heard_ns, e->now_ns);
}

static void follow(struct engine *e, const struct register_answer *answer, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    assert(w->asked);
    bool of_swap = w->request.ask == REGISTER_SWAP && !w->is_void && w->swap == SWAP_SENT;
    bool of_read = w->request.ask == REGISTER_READ;
    w->asked = false;
    w->is_void = false;
    if (e->role.phase == PHASE_DETACHED) /* its disk is being closed: whoever has it next asks again */
        return;
    take_state(e, answer, out);
    /* Whatever else it says: before this node serves by it. */
    age_on_register(e, answer->leg_age, out);
    bool good = w->state == REGISTER_STATE_REACHABLE;
    if (!good && of_read)
        swaps_promotion_fails(
            e, actions_text(out, "nobody begins to serve without the witness, by force neither: %s", w->reason), out);
    w->read_at_ns = e->now_ns + (good ? e->config.failover.dead_after_ns : RETRY_NS);
    w->retry_at_ns = e->now_ns + RETRY_NS;
    if (of_read)
        handover_on_answer(e, good, out);
    adopt_on_answer(e, of_read, answer, out);
    /* Rule no-older-register, whatever let it through. */
    bool tells = good || answer->outcome == REGISTER_UNCONFIRMED;
    if (tells && answer->outcome != REGISTER_DONE && answer->decree.epoch < register_known_epoch(e)) {
        w->state = good ? REGISTER_STATE_OLDER : w->state;
        return;
    }
    if (of_swap && answer->outcome == REGISTER_DONE) {
        register_take_decree(e, &w->request.proposal);
        swap_over(e, true, out);
    } else if (of_swap && answer->outcome == REGISTER_LOST) {
        register_take_decree(e, &answer->decree);
        swap_over(e, false, out);
    } else if (of_read && (answer->outcome == REGISTER_STANDS || answer->outcome == REGISTER_UNCONFIRMED)) {
        /* Rule read-then-swap: of one that would not carry it out nothing is asked. */
        w->fresh = good;
        decree_was_read(e, &answer->decree, out);
    }
}

void register_on_answer(struct engine *e, const struct register_answer *answer, struct actions *out)
{
    follow(e, answer, out);
    record_what_was_heard(e);
}

/* ---- asking ---- */

static void ask_for_what_is_wanted(struct engine *e, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    struct swap_facts facts;
    swap_gather(e, &facts);
    int row = persisted(e) || e->leg_failed ? swap_choose(&facts) : -1;
    /* Over one that is older an operator has a decree put, and nothing else follows from what it has. */
    if (w->state == REGISTER_STATE_OLDER && row >= 0 && swap_cause(row) != DECREE_ADOPT)
        row = -1;
    /* Out of reach it carries nothing out: no session ends for that. */
    bool answers = w->fresh || w->state == REGISTER_STATE_REACHABLE;
    bool free = row >= 0 && answers && is_free_for(e, swap_cause(row), out);
    if (w->fresh) {
        swaps_promote(e, &facts, row, out);
        handover_was_read(e, row, out);
    }
    if (free && w->fresh)
        prepare(e, row, &facts);
    else if (free)
        w->read_at_ns = e->now_ns;
    w->fresh = false;
}

void register_advance(struct engine *e, struct actions *out)
{
    struct engine_witness *w = &e->witness;
    if (!is_used(e))
        return;
    swaps_advance(e, out);
    adopt_advance(e, out);
    handover_advance(e, out);
    if (w->swap == SWAP_NOT && !w->asked)
        ask_for_what_is_wanted(e, out);
    if (w->swap == SWAP_PREPARED && !w->asked)
        send_what_is_prepared(e);
    if (w->asked)
        return;
    if (w->swap == SWAP_SENT && e->now_ns >= w->retry_at_ns)
        send(e, REGISTER_SWAP, out);
    else if (w->swap == SWAP_NOT && e->now_ns >= w->read_at_ns)
        send(e, REGISTER_READ, out);
}

uint64_t register_deadline_ns(const struct engine *e)
{
    const struct engine_witness *w = &e->witness;
    if (!is_used(e))
        return UINT64_MAX;
    uint64_t at_ns = min_u64(min_u64(swap_deadline_ns(e), adopt_deadline_ns(e)), handover_deadline_ns(e));
    if (w->asked || w->swap == SWAP_PREPARED)
        return at_ns;
    return min_u64(at_ns, w->swap == SWAP_SENT ? w->retry_at_ns : w->read_at_ns);
}

struct engine_register register_view(const struct engine *e)
{
    const struct engine_witness *w = &e->witness;
    return (struct engine_register) { .state = w->state,
                                      .reason = w->reason,
                                      .decree = w->decree,
                                      .swap_under_way = w->swap != SWAP_NOT,
                                      .swap_cause = w->request.proposal.cause,
                                      .swap_since_ns = w->swap != SWAP_NOT ? w->swap_since_ns : 0 };
}
