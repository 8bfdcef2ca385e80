/* Which swap a node asks the register for. */
#include "repl/role/swaps.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "repl/base/units.h"

#define ADOPT_GAP (UINT64_C(1) << 20) /* keeps clear of epochs that were given away in a time that is lost */

typedef bool applies_fn(const struct swap_facts *f);

/* Which legs hold every acknowledged write, if the swap is carried out. */
enum swap_set {
    SET_AS_IT_STANDS,
    SET_OWN,
    SET_PEER,
    SET_BOTH,
    SET_KNOWN, /* both if they are in sync now, else this node's */
    SET_LEFT,  /* both if nobody is to leave: they are in sync, or would be by a decree; else this node's */
};

enum swap_server { SERVER_OWN, SERVER_NOBODY, SERVER_AS_IT_STANDS };

struct row {
    enum decree_cause cause;
    unsigned roles; /* 1 << SWAP_... */
    applies_fn *applies;
    enum swap_set set;
    enum swap_server primary;
};

static bool names(const struct swap_facts *f, const char *node)
{
    return node && *f->stands->primary && strcmp(f->stands->primary, node) == 0;
}

static bool has_own(const struct swap_facts *f) { return decree_has_member(f->stands, f->leg_id); }

static bool has_peer(const struct swap_facts *f)
{
    return !id_is_none(f->peer_leg_id) && decree_has_member(f->stands, f->peer_leg_id);
}

/* Also the leg that was there before the present one. */
static bool has_other(const struct swap_facts *f) { return has_own(f) && f->stands->member_count > 1; }

/* Rule no-older-register; and what is not this node's to change, it leaves alone. */
static bool is_current(const struct swap_facts *f)
{
    return f->registered && !decree_is_none(f->stands) && f->stands->epoch >= f->epoch;
}

/* A primary changes the decree that it acts on, and no other. */
static bool is_own(const struct swap_facts *f)
{
    return is_current(f) && f->stands->epoch == f->epoch && names(f, f->node);
}

/* Rules member-and-whole, sole-leg. */
static bool may_serve(const struct swap_facts *f)
{
    bool sole = f->stands->member_count == 1 && has_own(f);
    return is_current(f) && has_own(f) && f->whole && (!f->lost_power || sole);
}

/* ... of its own accord. From a primary that serves through this leg it takes what that one believes to be there:
 * whether it counts without, an operator decides. */
static bool may_take_over(const struct swap_facts *f) { return may_serve(f) && !f->lost_power; }

/* Of another etcd cluster it is older also at the same epoch. */
static bool adopts(const struct swap_facts *f)
{
    bool may = f->role == SWAP_PRIMARY || (f->whole && !f->serves_peer);
    return f->adopt && may && f->stands->epoch <= max_u64(f->epoch, f->known_epoch);
}

static bool hands_over(const struct swap_facts *f)
{
    return f->handed && may_serve(f) && names(f, f->peer) && f->stands->epoch == f->epoch && has_peer(f);
}

static bool goes_back(const struct swap_facts *f) { return is_own(f) && f->gives_up; }

static bool puts_leg_out(const struct swap_facts *f) { return is_own(f) && f->leg_failed && has_peer(f) && has_own(f); }

static bool makes_void(const struct swap_facts *f) { return is_own(f) && f->peer_has_asked; }

/* Rules out-first, out-before-target. */
static bool puts_peer_out(const struct swap_facts *f)
{
    return is_own(f) && has_other(f) && (f->peer_lost || f->peer_is_target);
}

static bool takes_peer_in(const struct swap_facts *f) { return is_own(f) && f->resync_done; }

bool swap_is_late_first(const struct decree *stands, uint64_t epoch)
{
    return stands->cause == DECREE_FIRST && stands->epoch <= epoch;
}

/* Without one the volume was made before there was a register: its primary knows who is in sync, or that nobody else
 * has anything. */
static bool begins(const struct swap_facts *f)
{
    return !f->registered && (decree_is_none(f->stands) || swap_is_late_first(f->stands, f->epoch)) &&
           (f->in_sync || f->never_served);
}

static bool ends(const struct swap_facts *f) { return is_own(f); }

/* Rule leg-out-first: its disk may forget that it failed. As a member the peer has everything. */
static bool ends_without_leg(const struct swap_facts *f)
{
    return ends(f) && f->leg_is_lost && has_peer(f) && f->peer_is_whole;
}

static bool is_asked(const struct swap_facts *f) { return f->promote || f->automatic; }

/* Nobody has demoted it: it has restarted; or a swap of its own, from before a crash, has arrived. Whom it has served
 * since, as an operator had it forget that swap, is not overtaken: rule take-after-silence. */
static bool resumes(const struct swap_facts *f) { return may_serve(f) && names(f, f->node) && !f->lends; }

/* Rule take-after-silence. */
static bool takes_over(const struct swap_facts *f)
{
    return may_take_over(f) && names(f, f->peer) && f->silent && !f->serves_peer && is_asked(f);
}

static bool begins_to_serve(const struct swap_facts *f) { return f->promote && may_serve(f) && !*f->stands->primary; }

static bool needs_force(const struct swap_facts *f) { return names(f, f->peer) ? !may_take_over(f) : !may_serve(f); }

static bool forces(const struct swap_facts *f)
{
    return f->force && is_current(f) && !f->serves_peer && needs_force(f);
}

/* Where a primary is named, that one makes it void, by "renew" or "resume". */
static bool withdraws(const struct swap_facts *f) { return f->has_asked && is_current(f) && !*f->stands->primary; }

/* A secondary that is a source, where nobody serves: its target must not be taken for a member. Whoever is named may be
 * serving, whatever a hello says that somebody has kept. */
static bool puts_target_out(const struct swap_facts *f)
{
    return may_serve(f) && has_other(f) && f->peer_is_target && !*f->stands->primary;
}

/* ... and when that one is done. */
static bool takes_target_in(const struct swap_facts *f)
{
    return may_serve(f) && f->resync_done && !*f->stands->primary;
}

#define OF(role) (1u << (role))

static const struct row rows[] = {
    { DECREE_ADOPT, OF(SWAP_PRIMARY) | OF(SWAP_SECONDARY), adopts, SET_LEFT, SERVER_OWN },
    { DECREE_NOBODY, OF(SWAP_ENDING), ends_without_leg, SET_PEER, SERVER_NOBODY },
    { DECREE_NOBODY, OF(SWAP_ENDING), ends, SET_AS_IT_STANDS, SERVER_NOBODY },
    { DECREE_RENEW, OF(SWAP_HANDING), goes_back, SET_AS_IT_STANDS, SERVER_OWN },
    { DECREE_LEG_OUT, OF(SWAP_PRIMARY) | OF(SWAP_DRAINING), puts_leg_out, SET_PEER, SERVER_OWN },
    { DECREE_RENEW, OF(SWAP_PRIMARY) | OF(SWAP_DRAINING), makes_void, SET_AS_IT_STANDS, SERVER_OWN },
    { DECREE_OUT, OF(SWAP_PRIMARY) | OF(SWAP_DRAINING), puts_peer_out, SET_OWN, SERVER_OWN },
    { DECREE_IN, OF(SWAP_PRIMARY), takes_peer_in, SET_BOTH, SERVER_OWN },
    { DECREE_FIRST, OF(SWAP_PRIMARY), begins, SET_KNOWN, SERVER_OWN },
    { DECREE_SWITCH, OF(SWAP_SECONDARY), hands_over, SET_AS_IT_STANDS, SERVER_OWN },
    { DECREE_RESUME, OF(SWAP_SECONDARY), resumes, SET_AS_IT_STANDS, SERVER_OWN },
    { DECREE_TAKE, OF(SWAP_SECONDARY), takes_over, SET_OWN, SERVER_OWN },
    { DECREE_PROMOTE, OF(SWAP_SECONDARY), begins_to_serve, SET_AS_IT_STANDS, SERVER_OWN },
    { DECREE_FORCE, OF(SWAP_SECONDARY), forces, SET_OWN, SERVER_OWN },
    { DECREE_RENEW, OF(SWAP_SECONDARY), withdraws, SET_AS_IT_STANDS, SERVER_AS_IT_STANDS },
    { DECREE_OUT, OF(SWAP_SECONDARY), puts_target_out, SET_OWN, SERVER_AS_IT_STANDS },
    { DECREE_IN, OF(SWAP_SECONDARY), takes_target_in, SET_BOTH, SERVER_AS_IT_STANDS },
};

int swap_choose(const struct swap_facts *f)
{
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        if ((rows[i].roles & OF(f->role)) && rows[i].applies(f))
            return (int)i;
    }
    return -1;
}

enum decree_cause swap_cause(int row)
{
    assert(row >= 0 && (unsigned)row < ARRAY_LEN(rows));
    return rows[row].cause;
}

static void add_member(struct decree *d, const char *node, struct id leg_id)
{
    struct decree_member *m = &d->members[d->member_count++];
    snprintf(m->node, sizeof(m->node), "%s", node);
    m->leg_id = leg_id;
}

static void propose_set(enum swap_set set, const struct swap_facts *f, struct decree *d)
{
    switch (set) {
    case SET_AS_IT_STANDS:
        d->member_count = f->stands->member_count;
        memcpy(d->members, f->stands->members, sizeof(d->members));
        return;
    case SET_OWN: add_member(d, f->node, f->leg_id); return;
    case SET_PEER: add_member(d, f->peer, f->peer_leg_id); return;
    case SET_KNOWN:
        add_member(d, f->node, f->leg_id);
        if (f->in_sync)
            add_member(d, f->peer, f->peer_leg_id);
        return;
    case SET_LEFT:
        add_member(d, f->node, f->leg_id);
        if (f->in_sync || f->peer_is_kept)
            add_member(d, f->peer, f->peer_leg_id);
        return;
    case SET_BOTH:
        add_member(d, f->node, f->leg_id);
        add_member(d, f->peer, f->peer_leg_id);
        return;
    }
}

struct decree swap_propose(int row, const struct swap_facts *f, uint64_t tag)
{
    assert(tag && row >= 0 && (unsigned)row < ARRAY_LEN(rows));
    const struct row *r = &rows[row];
    uint64_t above = max_u64(f->stands->epoch, max_u64(f->epoch, f->known_epoch));
    struct decree d = { .epoch = above + (r->cause == DECREE_ADOPT ? ADOPT_GAP : 1), .tag = tag, .cause = r->cause };
    propose_set(r->set, f, &d);
    switch (r->primary) {
    case SERVER_OWN: snprintf(d.primary, sizeof(d.primary), "%s", f->node); break;
    case SERVER_NOBODY: break;
    case SERVER_AS_IT_STANDS: memcpy(d.primary, f->stands->primary, sizeof(d.primary)); break;
    }
    return d;
}

bool swap_makes_entry(const struct decree *d)
{
    switch (d->cause) {
    case DECREE_OUT:
    case DECREE_TAKE:
    case DECREE_IN:
    case DECREE_LEG_OUT:
    case DECREE_FORCE: return true;
    case DECREE_ADOPT: /* the other leg may have been taken in by what is lost, and have that on record */
    case DECREE_FIRST: return d->member_count == 1; /* a leg that was part of nothing is no new one any more */
    case DECREE_RESUME:
    case DECREE_RENEW:
    case DECREE_SWITCH:
    case DECREE_NOBODY:
    case DECREE_PROMOTE: return false;
    }
    return false;
}

bool swap_is_claim(enum decree_cause cause)
{
    switch (cause) {
    case DECREE_TAKE:
    case DECREE_PROMOTE:
    case DECREE_FORCE: return true;
    case DECREE_OUT:
    case DECREE_IN:
    case DECREE_LEG_OUT:
    case DECREE_FIRST:
    case DECREE_RESUME:
    case DECREE_RENEW:
    case DECREE_SWITCH:
    case DECREE_NOBODY:
    case DECREE_ADOPT: return false;
    }
    return false;
}

const char *swap_obstacle(const struct swap_facts *f)
{
    static const char leads[] = "the peer is primary: demote it first, or `lockstep switchover`";
    bool peer_leads = f->serves_peer && *f->stands->primary;
    if (f->role != SWAP_SECONDARY || !f->registered)
        return NULL;
    if (f->force)
        return peer_leads ? leads : NULL;
    if (!is_current(f))
        return "the witness knows an older decree than this node: see `lockstep status`";
    if (!has_own(f))
        return "its leg is not in the in-sync set (promise 4: only a leg that holds every acknowledged write is "
               "promoted). Promote the peer, or accept the loss with --force";
    if (f->went_back)
        return "its disk was put back from an older copy, and its leg lacks what was written since (promise 4). "
               "Promote "
               "the peer, or accept the loss with --force";
    if (needs_force(f))
        return "its leg may lack acknowledged writes (promise 4). Promote the peer, or accept the loss with --force";
    return peer_leads ? leads : NULL;
}
