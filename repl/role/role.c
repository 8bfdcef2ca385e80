/* The phases of a node's role. */
#include "repl/role/role.h"

#include <assert.h>
#include <stddef.h>

const char *role_promotion_obstacle(const struct role_machine *r, enum leg_state leg, enum leg_doubt doubt, bool force)
{
    switch (r->phase) {
    case PHASE_SECONDARY: break;
    case PHASE_ASKING:
    case PHASE_PROMOTING:
    case PHASE_PRIMARY: return NULL;
    case PHASE_HANDING: return "it is just handing over to the peer; wait until that is done";
    case PHASE_DEMOTING: return "it is being demoted; wait until that is done";
    case PHASE_DETACHING:
    case PHASE_DETACHED: return "it is being taken down; `lockstep up` first";
    }
    if (force)
        return NULL;
    if (leg != LEG_UP_TO_DATE)
        return "its leg is not up to date (promise 4: only a leg that holds every acknowledged write is promoted). "
               "Promote "
               "the peer, or accept the loss with --force";
    switch (doubt) {
    case LEG_DOUBT_NONE: break;
    case LEG_DOUBT_WENT_BACK:
        return "its disk was put back from an older copy, and its leg lacks what was written since (promise 4). "
               "Promote "
               "the peer, or accept the loss with --force";
    case LEG_DOUBT_DIFFERS:
        return "a verify found that its leg differs from the peer's, which counts (promise 4). Promote the peer, or "
               "accept what this leg has there with --force";
    case LEG_DOUBT_LACKS:
        return "its leg may lack acknowledged writes: its server went down without warning, or a flush failed "
               "(promise 4). Promote the peer, or accept the loss with --force";
    }
    return NULL;
}

void role_promote(struct role_machine *r, bool ask)
{
    assert(r->phase == PHASE_SECONDARY);
    r->phase = ask ? PHASE_ASKING : PHASE_PROMOTING;
    r->decree_sent = false;
}

void role_agreed(struct role_machine *r)
{
    assert(r->phase == PHASE_ASKING);
    r->phase = PHASE_PROMOTING;
}

void role_demote(struct role_machine *r)
{
    assert(r->phase == PHASE_PRIMARY);
    r->phase = PHASE_DEMOTING;
    r->recorded = false;
}

void role_hand(struct role_machine *r)
{
    assert(r->phase == PHASE_PRIMARY);
    r->phase = PHASE_HANDING;
    r->handed = false;
}

void role_keep(struct role_machine *r)
{
    assert(r->phase == PHASE_HANDING);
    r->phase = PHASE_PRIMARY;
}

void role_detach(struct role_machine *r)
{
    assert(r->phase != PHASE_DETACHING && r->phase != PHASE_DETACHED);
    r->phase = PHASE_DETACHING;
    r->recorded = false;
}

void role_yield(struct role_machine *r)
{
    assert(r->phase == PHASE_ASKING || r->phase == PHASE_PROMOTING);
    r->phase = PHASE_SECONDARY;
}

void role_step_down(struct role_machine *r)
{
    if (role_of(r) == ROLE_PRIMARY || r->phase == PHASE_PROMOTING)
        r->phase = PHASE_SECONDARY; /* DETACHING goes on, with nothing left to drain */
}

void role_session_lost(struct role_machine *r) { r->decree_sent = false; }

static enum role_need send_decree_once(struct role_machine *r)
{
    if (r->decree_sent)
        return ROLE_NEED_NOTHING;
    r->decree_sent = true;
    return ROLE_NEED_DECREE;
}

static enum role_need next_while_leading(struct role_machine *r, const struct role_facts *facts)
{
    /* What a serving primary tells its peer of later epochs, the engine knows. */
    if (!facts->persisted || r->phase == PHASE_PRIMARY)
        return ROLE_NEED_NOTHING;
    if (facts->session_up && !facts->peer_agreed)
        return send_decree_once(r);
    r->phase = PHASE_PRIMARY;
    return ROLE_NEED_SERVE;
}

static enum role_need next_while_handing(struct role_machine *r, const struct role_facts *facts)
{
    if (r->handed || !facts->idle)
        return ROLE_NEED_NOTHING;
    if (!facts->flushed)
        return ROLE_NEED_FLUSH;
    r->handed = true;
    return ROLE_NEED_HAND;
}

static enum role_need next_while_ending(struct role_machine *r, const struct role_facts *facts, enum role_phase end)
{
    if (!facts->idle)
        return ROLE_NEED_NOTHING;
    if (!facts->flushed)
        return ROLE_NEED_FLUSH;
    if (!facts->released && !r->recorded)
        return ROLE_NEED_RELEASE;
    if (!r->recorded) {
        r->recorded = true;
        return ROLE_NEED_RECORD;
    }
    if (!facts->persisted)
        return ROLE_NEED_NOTHING;
    r->phase = end;
    return ROLE_NEED_FINISH;
}

enum role_need role_next(struct role_machine *r, const struct role_facts *facts)
{
    switch (r->phase) {
    case PHASE_SECONDARY:
    case PHASE_DETACHED: return ROLE_NEED_NOTHING;
    case PHASE_ASKING: return facts->session_up ? send_decree_once(r) : ROLE_NEED_NOTHING;
    case PHASE_PROMOTING:
    case PHASE_PRIMARY: return next_while_leading(r, facts);
    case PHASE_HANDING: return next_while_handing(r, facts);
    case PHASE_DEMOTING: return next_while_ending(r, facts, PHASE_SECONDARY);
    case PHASE_DETACHING: return next_while_ending(r, facts, PHASE_DETACHED);
    }
    return ROLE_NEED_NOTHING;
}
