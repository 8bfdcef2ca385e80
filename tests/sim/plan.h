/* What the files of a run's course share: what may strike, orders, and the stages. */
#pragma once

#include "tests/sim/sim.h"

#define HEAL_MAX_NS (20 * NS_PER_S) /* simulated: in which all must be well again once nothing goes wrong any more */

enum strike {
    STRIKE_BREAK,
    STRIKE_STALL,
    STRIKE_PARTITION,
    STRIKE_STRANGER,
    STRIKE_PATH,
    STRIKE_DISK_STALL,
    STRIKE_SECONDARY_CRASH,
    STRIKE_SECONDARY_DETACH,
    STRIKE_DEMOTE,
    STRIKE_PROMOTE_SECONDARY,
    STRIKE_PROMOTE_BOTH,
    STRIKE_PRIMARY_DETACH,
    STRIKE_CLOCK,
    STRIKE_META_DAMAGE,
    STRIKE_LATENT_ERROR,
    STRIKE_VERIFY,
    STRIKE_RESYNC_BREAK, /* see sim_plan_sends() */
    STRIKE_OLD_COPY,     /* a node's disk is put back from an older copy */
    STRIKE_REPLACE,      /* a node gets a new disk */
    STRIKE_RESIZE,
    STRIKE_SWITCHOVER,  /* and something goes wrong at its worst moments */
    STRIKE_RECOVERABLE, /* those above: the volume is in sync again afterwards */
    STRIKE_DISK_ERRORS = STRIKE_RECOVERABLE,
    STRIKE_DISKLESS, /* the primary's disk fails; then cuts and orders at the worst moments */
    STRIKE_META_ERRORS,
    STRIKE_PRIMARY_CRASH,
    STRIKE_PROMOTE_FORCE,
    STRIKE_DEMOTE_FORCE,
    STRIKE_TAKEOVER,
    STRIKE_POWER,
    STRIKE_POWER_BOTH,
    STRIKE_LOG_POWER,     /* a page of the activity log or the bitmap fails, and the power is lost just then */
    STRIKE_FOUND,         /* a verify finds what has rotted on the secondary; then the primary's power is cut */
    STRIKE_SILENT_DAMAGE, /* writes that are lost or land elsewhere, and bits that rot, on either */
    STRIKES,
};

#define OF_STRIKE(k) (UINT64_C(1) << (k))
#define STRIKES_WITH_REGISTER                                                                                          \
    (OF_STRIKE(STRIKE_BREAK) | OF_STRIKE(STRIKE_STALL) | OF_STRIKE(STRIKE_PARTITION) | OF_STRIKE(STRIKE_STRANGER) |    \
     OF_STRIKE(STRIKE_PATH) | OF_STRIKE(STRIKE_DISK_STALL) | OF_STRIKE(STRIKE_SECONDARY_CRASH) |                       \
     OF_STRIKE(STRIKE_SECONDARY_DETACH) | OF_STRIKE(STRIKE_DEMOTE) | OF_STRIKE(STRIKE_PROMOTE_SECONDARY) |             \
     OF_STRIKE(STRIKE_PROMOTE_BOTH) | OF_STRIKE(STRIKE_PRIMARY_DETACH) | OF_STRIKE(STRIKE_VERIFY) |                    \
     OF_STRIKE(STRIKE_RESYNC_BREAK) | OF_STRIKE(STRIKE_PRIMARY_CRASH) | OF_STRIKE(STRIKE_RESIZE) |                     \
     OF_STRIKE(STRIKE_META_DAMAGE) | OF_STRIKE(STRIKE_POWER) | OF_STRIKE(STRIKE_DISKLESS) |                            \
     OF_STRIKE(STRIKE_LATENT_ERROR) | OF_STRIKE(STRIKE_META_ERRORS) | OF_STRIKE(STRIKE_DISK_ERRORS) |                  \
     OF_STRIKE(STRIKE_LOG_POWER) | OF_STRIKE(STRIKE_REPLACE) | OF_STRIKE(STRIKE_SWITCHOVER) |                          \
     OF_STRIKE(STRIKE_OLD_COPY) | OF_STRIKE(STRIKE_POWER_BOTH) | OF_STRIKE(STRIKE_PROMOTE_FORCE))

static inline bool has(const struct sim *s, enum strike k) { return s->plan.kinds >> k & 1; }

static inline uint64_t now_plus(const struct sim *s, uint64_t ns) { return s->now_ns + ns; }

static inline uint64_t draw(struct sim *s, uint64_t low, uint64_t high)
{
    return sim_between(s, CHANCE_PLAN, low, high);
}

static inline bool chance(struct sim *s, unsigned per_million) { return sim_chance(s, CHANCE_PLAN, per_million); }

/* plan.c */
void plan_enter(struct sim *s, enum stage stage, uint64_t max_ns);
void plan_overdue(struct sim *s, const char *what); /* fails, if the stage has lasted too long */
bool plan_is_diskless(const struct sim *s, unsigned node);

/* orders.c */
/* False: it cannot be given now, or nobody would. */
bool plan_order(struct sim *s, unsigned node, enum order what);

/* strikes.c */
void plan_strike(struct sim *s);
void plan_cut_power_of(struct sim *s, unsigned node); /* its machine is back soon */

/* replace.c */
/* If it may be given up: the node's leg is made anew before its daemon is started the next time. */
void plan_replace(struct sim *s, unsigned node);
/* Nobody gives up the only good copy: the other leg has all that was acknowledged, and its node knows it. */
bool plan_may_be_given_up(struct sim *s, unsigned node);

/* copy.c */
void plan_copy(struct sim *s);                        /* the next step: it is taken, or put back when it may be */
bool plan_copy_is_told(struct sim *s, unsigned node); /* on its disk, or it was */
void plan_copy_on_record(struct sim *s, unsigned node, const struct superblock *sb);

/* replace.c */
/* Both nodes have told that only a person can go on: one leg is kept, the other one made anew and filled from it; or a
 * disk that nobody was to mend is mended after all. */
void plan_decide(struct sim *s);
/* It is one, and has never been whole: nobody takes it for the volume. */
bool plan_is_new_disk(struct sim *s, unsigned node);

/* outage.c: both machines have lost their power, and there is a register */
void plan_outage(struct sim *s);
void plan_outage_ends(struct sim *s); /* when they are started */
/* Rule sole-leg: the register names the node of the only member, which is whole but for its power. */
bool plan_sole_leg_resumes(struct sim *s);

/* rollback.c: the register is older than a node knows. True: it is up to who adopts, or has just been ordered to */
bool plan_adopts(struct sim *s);
/* It was not put back, or a decree was made since, or it knows as much as the nodes. */
bool plan_register_rules(struct sim *s);
/* ... and not even an operator can have it follow the nodes: they take the register out of the configuration. */
bool plan_goes_without(struct sim *s);

/* force.c */
void plan_force_in_error(struct sim *s, unsigned primary_node);

/* moves.c */
bool plan_rests(struct sim *s); /* in sync, and for a while nobody touches anything. True: it is under way */

/* resolve.c */
bool plan_can_resolve(struct sim *s, unsigned node); /* `node` may be the one that is given up */
void plan_resolve(struct sim *s, unsigned node);
void plan_resolve_on(struct sim *s);
void plan_resolve_done(struct sim *s, unsigned node, int32_t result);

/* resize.c */
void plan_resize(struct sim *s, unsigned p); /* by the primary, or not */
void plan_resize_done(struct sim *s, unsigned node, int32_t result);
bool plan_resizes_to_the_end(struct sim *s); /* in sync, and nothing goes wrong any more. True: it is under way */
void plan_sizes_agree(struct sim *s);        /* fails, if not */

/* heal.c */
void plan_heal(struct sim *s);
void plan_compared(struct sim *s, unsigned node, int32_t result); /* a verify has ended */
