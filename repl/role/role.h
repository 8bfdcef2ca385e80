/* Who may serve: promotion, demotion and detaching, as a machine of phases. Pure. Without a witness an operator
 * decides; the machine sees to it that what he asks for happens in a safe order.
 *
 *   SECONDARY --promote, connected--> ASKING --peer has persisted the epoch--> PROMOTING
 *   SECONDARY --promote, alone--> PROMOTING --epoch persisted--> PRIMARY
 *   PRIMARY --demote--> DEMOTING --all changes complete, role persisted--> SECONDARY
 *   PRIMARY --switchover--> HANDING --the peer has the decree--> SECONDARY, or --it has not, by one of ours--> PRIMARY
 *   any --detach--> DETACHING --all complete, flushed, marked clean--> DETACHED
 *
 * The machine asks for what must be done next; the engine does it and tells the facts. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/core/names.h"

enum role_phase {
    PHASE_SECONDARY,
    PHASE_ASKING, /* the connected peer is to agree first: nothing of it is persisted, an objection leaves no trace */
    PHASE_PROMOTING, /* the epoch is being persisted */
    PHASE_PRIMARY,
    PHASE_HANDING, /* a switchover: its front is open still, and takes no request */
    PHASE_DEMOTING,
    PHASE_DETACHING,
    PHASE_DETACHED,
};

/* What the engine knows when it asks. */
struct role_facts {
    bool idle;      /* nothing is in flight on this leg */
    bool persisted; /* the superblock on disk says what the one in memory says */
    bool flushed;   /* the leg was flushed since it became idle */
    bool released;  /* the register, if there is one, has been told that nobody serves */
    bool session_up;
    bool peer_agreed; /* the peer has persisted our epoch */
};

enum role_need {
    ROLE_NEED_NOTHING, /* wait for facts to change */
    ROLE_NEED_DECREE,  /* tell the peer our epoch */
    ROLE_NEED_SERVE,   /* promotion is complete: open the front */
    ROLE_NEED_HAND,    /* drained and flushed: let the peer take over */
    ROLE_NEED_RELEASE, /* tell the register that nobody serves */
    ROLE_NEED_RECORD,  /* put role_recorded() into the superblock and persist it */
    ROLE_NEED_FLUSH,   /* flush the leg */
    ROLE_NEED_FINISH,  /* the order is carried out */
};

struct role_machine {
    enum role_phase phase;
    bool decree_sent; /* in this session */
    bool recorded;    /* DEMOTING, DETACHING: the final superblock was asked for */
    bool handed;      /* HANDING: the peer was told, and may have this node's place, or get it yet */
};

/* The role that the node shows and that lies in its superblock. */
static inline enum role role_of(const struct role_machine *r)
{
    bool leads = r->phase == PHASE_PRIMARY || r->phase == PHASE_HANDING || r->phase == PHASE_DEMOTING;
    return leads ? ROLE_PRIMARY : ROLE_SECONDARY;
}

/* It takes requests. */
static inline bool role_is_serving(const struct role_machine *r) { return r->phase == PHASE_PRIMARY; }

/* Its front is open: requests that it does not take wait there. */
static inline bool role_has_front(const struct role_machine *r)
{
    return r->phase == PHASE_PRIMARY || r->phase == PHASE_HANDING;
}

/* What is known against a leg that is up to date else; the worse of two. */
enum leg_doubt {
    LEG_DOUBT_NONE,
    LEG_DOUBT_WENT_BACK, /* its disk was put back from an older copy */
    LEG_DOUBT_DIFFERS,   /* a verify found it to differ from the other one, which counts */
    LEG_DOUBT_LACKS,     /* it may lack what was acknowledged and not flushed */
};

/* What stands against promoting this leg, as a constant text; NULL: nothing. */
const char *role_promotion_obstacle(const struct role_machine *r, enum leg_state leg, enum leg_doubt doubt, bool force);

/* `ask`: a peer is connected. */
void role_promote(struct role_machine *r, bool ask);
/* ASKING: the peer has persisted the epoch. */
void role_agreed(struct role_machine *r);
void role_demote(struct role_machine *r);
void role_detach(struct role_machine *r);
void role_hand(struct role_machine *r);
/* HANDING: its place stays its own. */
void role_keep(struct role_machine *r);
/* The promotion is called off: the peer is primary, becomes it, or cannot be asked any more. */
void role_yield(struct role_machine *r);
/* Another epoch has overtaken us: secondary at once. */
void role_step_down(struct role_machine *r);
/* The session ended: the peer must be told again. */
void role_session_lost(struct role_machine *r);

/* What must be done next; the machine counts on the engine to do it. */
enum role_need role_next(struct role_machine *r, const struct role_facts *facts);
