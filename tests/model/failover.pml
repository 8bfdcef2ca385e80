/* The failover protocol of docs/FAILOVER.md: two nodes, the register, and a network that may do what it likes.
 *
 * What is in it
 *   register   {epoch, primary, set}, changed by compare-and-swap only. A swap may arrive at any time after it was sent,
 *              also after its sender has crashed; swaps and their answers may be lost; who hears nothing sends again.
 *   nodes      crash and restart at any moment, and lose power. On disk: the highest epoch seen, what was asked for,
 *              the leg, and what is known against that. All else is gone; with the power, also what was not flushed.
 *   link       sessions, as docs/PROTOCOL.md has them: what was sent in one is not read in another, each end loses it
 *              when it likes. Within one, frames are lost, repeated, and overtake each other, which is worse than TCP.
 *   data       a few writes; a leg is the set of those that it holds. A resync first makes a leg worthless.
 *   time       only as silence: `silent[n]` is "take-after has passed since n heard its peer". What a node with less
 *              patience concluded from anything that n heard before that is over by then.
 * What is not: bits (a resync is of everything; RECOVERY.md), orders other than switchover, force.
 *
 * What is checked
 *   one-epoch   a write that was accepted when a higher epoch had been opened is never acknowledged
 *   all-there   each leg of the register's set holds every write that was acknowledged, or seen by a read; or knows that
 *               its power was lost
 *   flushed     what a flush has promised is on each leg of the set whatever loses its power; what two legs had
 *               completed is not lost with the power of one
 *   no-going-back  a read shows every such write
 *   back-again  (-DLIVE) when faults end, whatever they left: with both nodes there is service, and both legs are in
 *               sync; with one, there is service if its leg is in the set. In two parts: what is left to do comes to an
 *               end in each order of steps (no acceptance cycle, without any fairness), and where it ends, it is so.
 *
 * tests/model/run.py builds it, and each broken variant (-DBREAK_...), which must fail. */

#ifndef EPOCHS
#define EPOCHS 4 /* swaps that make a higher one are not tried while there are faults */
#endif
#ifndef WRITES
#define WRITES 2
#endif
#ifndef CRASHES
#define CRASHES 2
#endif
#ifndef RESTARTS
#define RESTARTS 0 /* of the register, and then of an old copy of it */
#endif
#define EPOCHS_CALM (EPOCHS + 5) /* what the way back may take */

/* ---- what a node is doing ---- */
#define SECONDARY 0
#define PRIMARY 1
#define HANDING 2 /* a switchover: it has stopped and drained, and waits for its end */

/* ---- the swap that it has asked for, and of which it does not know the end ---- */
#define NONE 0
#define OUT 1    /* the peer leaves the set */
#define IN 2     /* the peer comes back into it */
#define RESUME 3 /* the decree names this node, which does not serve; or it is to have another epoch, and no more */
#define TAKE 4   /* automatic failover */
#define SWITCH 5 /* switchover, on the target */
#define LEG_OUT 6 /* the primary's leg has failed: it leaves the set, and the primary serves through its peer's */

#define me(n) (1 << (n))
#define BOTH 3

/* the register */
byte reg_epoch = 1, reg_primary = 0, reg_set = BOTH;
bool reg_is_own[2]; /* its decree has the tag of the swap that this node waits for */
/* Swaps on their way to it, by what they expect: [2 * n] is the one that n waits for, [2 * n + 1] one of n's from
 * before a crash. 0: none. What expects an epoch that is gone can do nothing any more, and is taken out. */
byte swap_expects[4];
byte swap_set[4];
bool answer[2]; /* on its way: "yes, that is your tag" */
#if RESTARTS
byte old_epoch = 1, old_primary = 0, old_set = BOTH; /* a backup of it */
byte backups, restarts;
bool said[2] = true; /* since its start this node has told it what it knows, and that was no higher epoch */
#define is_confirmed (said[0] && said[1])
#define has_told(n) said[n]
#else
#define is_confirmed true
#define has_told(n) true
#endif

/* on disk */
byte epoch[2] = 1;     /* the highest seen */
byte wanted[2];        /* it has asked to take over from this epoch; 0: or the matter is settled */
byte leg[2];           /* the writes that it holds */
byte stable[2];        /* those of them that a loss of power leaves */
bool whole[2] = true;  /* not `syncing` */
bool lost_power[2];    /* it may lack what it had not flushed */

/* in memory */
bool up[2] = true;
byte role[2];
byte term[2], set[2];  /* PRIMARY, HANDING: the decree it acts on */
byte asked[2];         /* which swap */
byte asked_at[2];      /* the epoch that it expects */
byte asked_set[2];
bool unsure[2];        /* resumed after a crash: its leg may hold what was in flight then */
bool silent[2];        /* take-after has passed since the peer was heard, or since the start */
bool lease[2];         /* the peer heard this node less than dead-after ago, on this node's clock */
bool no_leg[2];        /* a primary whose leg has failed */
bool copied[2];        /* a target: its resync is complete */
bool in_session[2];
byte writing[2];       /* the one in flight; 0: none */
bool peer_has_it[2], too_late[2];
#ifdef BREAK_RETRY_BLIND
bool gave_up[2];
#endif

/* frames on their way to a node, in the session of which it knows */
byte f_write[2], f_write_epoch[2], f_ack[2], f_taken[2], f_hand[2];
bool f_done[2], f_echo[2];

/* what is checked */
byte writes;          /* given so far: 1, 2, ... */
byte counted_on;      /* acknowledged, or seen by a read */
byte last_set = BOTH; /* of the last decree that was made, also if the register has lost it */
byte mirrored;        /* acknowledged when both legs had it */
byte flushed;         /* what a flush was answered for */
byte opened;          /* the highest epoch at which a device was opened */
byte crashes;
bool calm, gone[2];

#define all_there(n) ((counted_on & ~leg[n]) == 0)
#define is_good(n) (whole[n] && !lost_power[n])
#ifdef RESYNC_IN_SET /* a target may stay in the set: it knows itself that it is one */
#define is_excused(n) !whole[n]
#else
#define is_excused(n) false
#endif
#define check_member(n) \
    assert(!is_confirmed || !(reg_set & me(n)) || lost_power[n] || is_excused(n) || all_there(n)); \
    assert(!is_confirmed || !(reg_set & me(n)) || is_excused(n) || (flushed & ~stable[n]) == 0)
#define check_all_there() check_member(0); check_member(1)
#define may_raise (reg_epoch < (calm -> EPOCHS_CALM : EPOCHS))

inline empty_inbox(n)
{
    f_write[n] = 0; f_write_epoch[n] = 0; f_ack[n] = 0; f_taken[n] = 0; f_hand[n] = 0; f_done[n] = 0; f_echo[n] = 0
}

inline end_session(n)
{
    in_session[n] = 0;
    empty_inbox(n)
}

/* Persisted before anything is done that comes of it. */
inline see_epoch(n, e)
{
    if
    :: e > epoch[n] -> epoch[n] = e; wanted[n] = 0
    :: else
    fi
}

/* Stops serving, first of all. What was in flight fails. */
inline step_down(n)
{
    role[n] = SECONDARY; term[n] = 0; set[n] = 0; writing[n] = 0; peer_has_it[n] = 0; too_late[n] = 0;
    asked[n] = NONE; asked_at[n] = 0; asked_set[n] = 0; answer[n] = 0; reg_is_own[n] = 0; swap_expects[2 * n] = 0; swap_set[2 * n] = 0;
    unsure[n] = 0; no_leg[n] = 0; lease[n] = 0; copied[n] = 0; silent[n] = 0;
    end_session(n)
}

inline lose_memory(n)
{
    /* What it has sent to the register is on its way still. Of two that are, the older one is left out. */
    if
    :: swap_expects[2 * n] != 0 -> swap_expects[2 * n + 1] = swap_expects[2 * n]; swap_set[2 * n + 1] = swap_set[2 * n]
    :: else
    fi;
    step_down(n);
    up[n] = 0
}

/* Reads the register and sends a swap; what happens to the register in between makes the swap fail. */
inline ask(n, what, s)
{
    asked[n] = what; asked_at[n] = reg_epoch; asked_set[n] = s;
    reg_is_own[n] = 0; answer[n] = 0;
    swap_expects[2 * n] = reg_epoch; swap_set[2 * n] = s
}

inline forget_asked(n)
{
    asked[n] = NONE; asked_at[n] = 0; asked_set[n] = 0; answer[n] = 0; reg_is_own[n] = 0
}

inline drop_if_dead(i)
{
    if
    :: swap_expects[i] != 0 && swap_expects[i] < reg_epoch -> swap_expects[i] = 0; swap_set[i] = 0
    :: else
    fi
}

/* The register carries out a swap. */
inline arrive(i)
{
    assert(swap_expects[i] == reg_epoch);
    reg_epoch++; reg_primary = (i) / 2; reg_set = swap_set[i]; last_set = reg_set;
    reg_is_own[0] = 0; reg_is_own[1] = 0;
    if
    :: (i) % 2 == 0 -> reg_is_own[(i) / 2] = 1
    :: else
    fi;
    drop_if_dead(0); drop_if_dead(1); drop_if_dead(2); drop_if_dead(3);
    check_all_there()
}

/* This node begins to serve. */
inline open(n, s)
{
    role[n] = PRIMARY; term[n] = asked_at[n] + 1; set[n] = s;
    silent[n] = 0; copied[n] = 0; lost_power[n] = 0;
    if :: term[n] > opened -> opened = term[n] :: else fi;
    end_session(n)
}

proctype node(byte n)
{
    byte o = 1 - n;
    do
    /* ---- crash and restart ---- */
    :: d_step { up[n] && !calm && crashes < CRASHES ->
        crashes++;
        lose_memory(n);
#ifdef BREAK_EPOCH_NOT_PERSISTED
        epoch[n] = 1;
#endif
#ifdef BREAK_ASKING_NOT_PERSISTED
        wanted[n] = 0;
#endif
#ifdef BREAK_RETRY_BLIND
        gave_up[n] = 0;
#endif
        skip }
#if !RESTARTS /* two misfortunes at once that are not looked at together */
    :: d_step { up[n] && !calm && crashes < CRASHES ->
        crashes++;
        lose_memory(n);
        leg[n] = leg[n] & stable[n]; lost_power[n] = 1;
        if
        :: last_set == me(n) ->
            /* It had the only leg: what was not flushed is gone, as with any disk. */
            assert((counted_on & mirrored & ~leg[n]) == 0);
            counted_on = counted_on & leg[n]
        :: else
        fi;
        check_all_there() }
#endif
    :: d_step { !up[n] && !gone[n] -> up[n] = 1 }

    /* ---- the register: a swap arrives, is lost, is sent again ---- */
    :: d_step { swap_expects[2 * n] != 0 && is_confirmed -> arrive(2 * n); answer[n] = 1; swap_expects[2 * n] = 0; swap_set[2 * n] = 0 }
    :: d_step { swap_expects[2 * n] != 0 && is_confirmed && !calm -> arrive(2 * n); swap_expects[2 * n] = 0; swap_set[2 * n] = 0 /* the answer is lost */ }
    :: d_step { swap_expects[2 * n] != 0 && !calm -> swap_expects[2 * n] = 0; swap_set[2 * n] = 0 }
    :: d_step { swap_expects[2 * n + 1] != 0 && is_confirmed -> arrive(2 * n + 1); swap_expects[2 * n + 1] = 0; swap_set[2 * n + 1] = 0 }
    :: d_step { swap_expects[2 * n + 1] != 0 -> swap_expects[2 * n + 1] = 0; swap_set[2 * n + 1] = 0 }
    :: d_step { up[n] && asked[n] != NONE && swap_expects[2 * n] == 0 && !answer[n] && has_told(n) && reg_epoch >= asked_at[n] ->
        if
        :: reg_epoch == asked_at[n] -> swap_expects[2 * n] = asked_at[n]; swap_set[2 * n] = asked_set[n]
#ifdef BREAK_RETRY_BLIND
        :: reg_is_own[n] -> see_epoch(n, reg_epoch); step_down(n); gave_up[n] = 1
#else
        :: reg_is_own[n] -> answer[n] = 1
#endif
#ifdef BREAK_RETRY_WITHOUT_TAG
        :: reg_epoch == asked_at[n] + 1 && reg_primary == n && !reg_is_own[n] -> answer[n] = 1
        :: reg_epoch != asked_at[n] && !(reg_epoch == asked_at[n] + 1 && reg_primary == n) -> see_epoch(n, reg_epoch); step_down(n)
#else
        :: reg_epoch != asked_at[n] && !reg_is_own[n] -> see_epoch(n, reg_epoch); step_down(n) /* another one won */
#endif
        fi }

#if RESTARTS
    /* ---- the register's start: each node tells it anew; who knows a higher epoch objects for good ---- */
    :: d_step { !said[n] && up[n] && epoch[n] <= reg_epoch && asked_at[n] <= reg_epoch -> said[n] = 1; answer[n] = 0 /* of a connection that is gone */; check_all_there() }
    :: d_step { !is_confirmed && up[n] && asked[n] == NONE &&
#ifdef BREAK_SOLE_MEMBER_CONFIRMS
        epoch[n] <= reg_epoch &&
#else
        role[n] == PRIMARY && set[n] == me(n) && term[n] == reg_epoch &&
#endif
        reg_primary == n && reg_set == me(n) ->
        said[0] = 1; said[1] = 1; check_all_there() }
#endif

    /* ---- the answer: persisted, then acted on ---- */
    :: d_step { up[n] && answer[n] ->
        see_epoch(n, asked_at[n] + 1);
        if
        :: asked[n] == OUT -> term[n] = asked_at[n] + 1; set[n] = me(n); unsure[n] = 0; if :: term[n] > opened -> opened = term[n] :: else fi
        :: asked[n] == LEG_OUT -> term[n] = asked_at[n] + 1; set[n] = me(o); if :: term[n] > opened -> opened = term[n] :: else fi
        :: asked[n] == IN -> term[n] = asked_at[n] + 1; set[n] = BOTH; if :: term[n] > opened -> opened = term[n] :: else fi;
            if :: in_session[n] && in_session[o] -> f_taken[o] = term[n] :: else fi
        :: asked[n] == RESUME ->
            if :: role[n] == SECONDARY -> unsure[n] = (asked_set[n] == BOTH) :: else fi;
            open(n, asked_set[n])
        :: asked[n] == TAKE || asked[n] == SWITCH -> open(n, asked_set[n])
        fi;
        forget_asked(n) }

    /* ---- the deposed ---- */
    :: d_step { up[n] && role[n] != SECONDARY && asked[n] == NONE && reg_epoch > term[n] -> see_epoch(n, reg_epoch); step_down(n) }

    /* ---- sessions: this node is primary, or the peer of one that was overtaken ---- */
    :: d_step { up[n] && up[o] && role[n] == PRIMARY && asked[n] == NONE && !(in_session[n] && in_session[o]) &&
        (epoch[o] > term[n] || (role[o] != SECONDARY && term[o] > term[n])) ->
        see_epoch(n, epoch[o]); step_down(n) }
    :: d_step { up[n] && up[o] && role[n] == PRIMARY && asked[n] == NONE && role[o] == SECONDARY && epoch[o] <= term[n] &&
        (!calm || reg_epoch == term[n]) &&
        !(in_session[n] && in_session[o]) &&
#ifndef BREAK_SESSION_WHILE_ASKING
        wanted[o] < term[n] && (asked[o] == NONE || asked_at[o] < term[n]) &&
#endif
#if defined(BREAK_TARGET_IN_SET) || defined(RESYNC_IN_SET)
        !no_leg[n]
#else
        (set[n] == me(n) || (!unsure[n] && is_good(o) && !(no_leg[n] && set[n] == BOTH)))
#endif
        ->
        if
#ifdef BREAK_SESSION_WHILE_ASKING
        :: asked[o] != NONE && asked_at[o] < term[n] -> forget_asked(o)
#else
        :: asked[o] != NONE -> forget_asked(o) /* it can have no success any more */
#endif
        :: else
        fi;
        see_epoch(o, term[n]);
        end_session(n); end_session(o);
        in_session[n] = 1; in_session[o] = 1; silent[o] = 0; copied[o] = 0;
        if
        :: set[n] != me(n) && !unsure[n] && is_good(o) /* in sync */
        :: else -> whole[o] = 0; leg[o] = 0; stable[o] = 0; unsure[n] = 0; check_all_there()
        fi }
    :: d_step { in_session[n] && (!calm || !in_session[o]) ->
        end_session(n); peer_has_it[n] = 0 }

    /* ---- a write ---- */
    :: d_step { up[n] && role[n] == PRIMARY && writing[n] == 0 && writes < WRITES && !calm ->
        writes++; writing[n] = writes; if :: !no_leg[n] -> leg[n] = leg[n] | (1 << (writes - 1)) :: else fi; peer_has_it[n] = 0; too_late[n] = (term[n] < opened) }
    :: d_step { up[n] && role[n] == PRIMARY && writing[n] != 0 && in_session[n] && in_session[o] && !peer_has_it[n] && f_write[o] == 0 && f_ack[n] == 0 &&
        (!calm || epoch[o] == term[n]) ->
        f_write[o] = writing[n]; f_write_epoch[o] = term[n] }
    :: d_step { f_write[n] != 0 ->
        if
        :: up[n] && role[n] == SECONDARY && (asked[n] == NONE
#ifdef BREAK_SESSION_WHILE_ASKING
            || true
#endif
            ) && f_write_epoch[n] == epoch[n] ->
            leg[n] = leg[n] | (1 << (f_write[n] - 1));
            if :: in_session[o] -> f_ack[o] = f_write[n] :: else fi
        :: else
        fi;
        f_write[n] = 0; f_write_epoch[n] = 0 }
    :: d_step { f_write[n] != 0 && !calm -> f_write[n] = 0; f_write_epoch[n] = 0 }
    :: d_step { f_ack[n] != 0 && !calm -> f_ack[n] = 0 }
    :: d_step { f_ack[n] != 0 ->
        if
        :: role[n] == PRIMARY && f_ack[n] == writing[n] -> peer_has_it[n] = 1
        :: else
        fi;
        f_ack[n] = 0 }
    :: d_step { up[n] && role[n] == PRIMARY && writing[n] != 0 &&
#ifndef BREAK_LEG_OUT_UNDECLARED
        !(no_leg[n] && set[n] == BOTH) &&
#endif
        (peer_has_it[n] || (set[n] == me(n) && !in_session[n]
#ifndef BREAK_REJOIN_UNKNOWN
            && asked[n] != IN
#endif
            )
#ifdef BREAK_ACK_BEFORE_SWAP
            || (asked[n] == OUT && !in_session[n])
#endif
        ) ->
        counted_on = counted_on | (1 << (writing[n] - 1));
        if :: peer_has_it[n] && set[n] == BOTH -> mirrored = mirrored | (1 << (writing[n] - 1)) :: else fi;
        check_all_there();
        assert(!too_late[n]);
        writing[n] = 0; peer_has_it[n] = 0; too_late[n] = 0 }

    /* ---- a flush: of both legs, or of the one that is left ---- */
    :: d_step { up[n] && role[n] == PRIMARY && !calm && writing[n] == 0 && (flushed != counted_on || stable[n] != leg[n]) &&
        !(no_leg[n] && set[n] == BOTH) &&
        ((set[n] == me(n) && asked[n] != IN && !in_session[n]) ||
        (up[o] && in_session[n] && in_session[o] && role[o] == SECONDARY && asked[o] == NONE && epoch[o] == term[n])) ->
        if :: !no_leg[n] -> stable[n] = leg[n] :: else fi;
        if :: in_session[n] -> stable[o] = leg[o] :: else fi;
        flushed = flushed | counted_on;
        check_all_there() }

    /* ---- a read: with the peer in the set, only within the lease ---- */
    :: d_step { up[n] && role[n] == PRIMARY && !calm && ((set[n] == me(n) && asked[n] != IN) || (lease[n] && set[n] != me(o))
#ifdef BREAK_READ_WITHOUT_LEASE
            || true
#endif
        ) ->
        assert(all_there(n));
        if
        :: writing[n] != 0 -> counted_on = counted_on | (leg[n] & ~(1 << (writing[n] - 1)))
        :: else -> counted_on = counted_on | leg[n]
        fi;
        check_all_there() }

    /* ---- a read without a leg of its own: the peer answers, who knows whether it still should ---- */
    :: d_step { up[n] && role[n] == PRIMARY && !calm && set[n] == me(o) && in_session[n] && in_session[o] && role[o] == SECONDARY &&
        asked[o] == NONE && epoch[o] == term[n] ->
        assert(all_there(o));
        if
        :: writing[n] != 0 -> counted_on = counted_on | (leg[o] & ~(1 << (writing[n] - 1)))
        :: else -> counted_on = counted_on | leg[o]
        fi;
        check_all_there() }

    /* ---- the lease: the peer has heard this node, and says so ---- */
    :: d_step { in_session[n] && up[n] && role[n] == SECONDARY && (asked[n] == NONE
#ifdef BREAK_SESSION_WHILE_ASKING
        || true
#endif
        ) && in_session[o] && !f_echo[o] && !lease[o] ->
        f_echo[o] = 1; silent[n] = 0 }
    :: d_step { f_echo[n] && role[n] == PRIMARY -> f_echo[n] = 0; lease[n] = 1 }
    :: d_step { f_echo[n] && !calm -> f_echo[n] = 0 }
    :: d_step { up[n] && role[n] == SECONDARY && asked[n] == NONE && !in_session[n] && !silent[n] &&
        (!calm || !up[o] || role[o] == SECONDARY) /* a primary that lives is in time, unless there are faults */ ->
        silent[n] = 1;
#ifdef BREAK_LEASE_BY_HEARING
        if :: f_echo[o] -> skip :: else -> lease[o] = 0 fi
#else
        lease[o] = 0; f_echo[o] = 0
#endif
        }

    /* ---- swaps ---- */
    :: d_step { up[n] && role[n] == PRIMARY && asked[n] == NONE && set[n] == BOTH && !no_leg[n] && !in_session[n] && reg_epoch == term[n] && may_raise ->
#ifndef BREAK_OUT_UNFLUSHED
        stable[n] = leg[n];
#endif
        ask(n, OUT, me(n)) }
    :: d_step { up[n] && role[n] == PRIMARY && asked[n] == NONE && set[n] == me(n) && in_session[n] && reg_epoch == term[n] && may_raise &&
#ifdef BREAK_REJOIN_EARLY
        true
#else
        f_done[n]
#endif
        -> ask(n, IN, BOTH) }
    :: d_step { up[n] && role[n] == SECONDARY && asked[n] == NONE && !in_session[n] && is_good(n) &&
#ifndef BREAK_TAKE_AT_ONCE
        silent[n] &&
#endif
#ifndef BREAK_PROMOTE_OUTSIDE_SET
        (reg_set & me(n)) &&
#endif
        reg_primary == o && reg_epoch >= epoch[n] && may_raise ->
#ifndef BREAK_TAKE_UNFLUSHED
        stable[n] = leg[n];
#endif
        wanted[n] = reg_epoch;
        ask(n, TAKE, me(n)) }
    :: d_step { up[n] && role[n] == SECONDARY && asked[n] == NONE && !in_session[n] && whole[n] && (!lost_power[n]
#ifndef BREAK_SOLE_LEG_WAITS
            || reg_set == me(n)
#endif
            ) && (reg_set & me(n)) &&
        reg_primary == n && reg_epoch >= epoch[n] && may_raise &&
#ifdef BREAK_RETRY_BLIND
        !gave_up[n] &&
#endif
        true ->
#ifdef BREAK_RESUME_WITHOUT_SWAP
        unsure[n] = (reg_set == BOTH); asked_at[n] = reg_epoch - 1; see_epoch(n, reg_epoch); open(n, reg_set); asked_at[n] = 0
#else
        ask(n, RESUME, reg_set)
#endif
        }
#ifndef LIVE /* it waits for an operator to mend the disk */
    :: d_step { up[n] && role[n] == PRIMARY && !calm && crashes < CRASHES && !no_leg[n] && asked[n] == NONE && set[n] == BOTH && !unsure[n] &&
        in_session[n] && in_session[o] && is_good(o) ->
        crashes++;
        no_leg[n] = 1;
#ifndef BREAK_LEG_OUT_UNDECLARED
        end_session(n); peer_has_it[n] = 0;
#endif
        mirrored = 0 /* there is only one leg now that has it */ }
    :: d_step { up[n] && role[n] == PRIMARY && no_leg[n] && asked[n] == NONE && set[n] == BOTH && reg_epoch == term[n] && may_raise ->
        end_session(n); peer_has_it[n] = 0;
        ask(n, LEG_OUT, me(o)) }
#endif
    /* Its peer may yet have its place, by a swap that it has sent: this one changes nothing but the epoch. */
    :: d_step { up[n] && role[n] == PRIMARY && asked[n] == NONE && set[n] != me(n) && !in_session[n] && wanted[o] >= term[n] && reg_epoch == term[n] && may_raise ->
        ask(n, RESUME, set[n]) }
    /* The register names it while it is somebody's secondary: a swap of its own, from before a crash, has arrived. */
    :: d_step { in_session[n] && up[n] && role[n] == SECONDARY && asked[n] == NONE && reg_primary == n && reg_epoch > epoch[n] -> end_session(n) }

    /* ---- a resync, and its end ---- */
    :: d_step { up[n] && up[o] && role[n] == PRIMARY && in_session[n] && in_session[o] && !whole[o] && !copied[o] && role[o] == SECONDARY ->
        leg[o] = leg[n]; copied[o] = 1;
#ifndef BREAK_REJOIN_UNSTABLE
        stable[n] = leg[n]; stable[o] = leg[o];
#endif
        f_done[n] = 1 }
#ifdef RESYNC_IN_SET
    :: d_step { up[n] && role[n] == PRIMARY && asked[n] == NONE && set[n] == BOTH && in_session[n] && in_session[o] && f_done[n] ->
        f_done[n] = 0; f_taken[o] = term[n] }
#endif
    :: d_step { f_taken[n] != 0 && up[n] && role[n] == SECONDARY -> see_epoch(n, f_taken[n]); whole[n] = 1; lost_power[n] = 0; copied[n] = 0; f_taken[n] = 0 }
    :: d_step { f_taken[n] != 0 && !calm -> f_taken[n] = 0 }
#ifndef BREAK_TAKEN_BY_FRAME_ONLY
    /* The register's word counts as its source's. */
    :: d_step { up[n] && role[n] == SECONDARY && copied[n] && (reg_set & me(n)) && reg_primary == o && reg_epoch >= epoch[n] ->
        see_epoch(n, reg_epoch); whole[n] = 1; lost_power[n] = 0; copied[n] = 0; f_taken[n] = 0 }
#endif

    /* ---- switchover ---- */
    :: d_step { up[n] && role[n] == PRIMARY && !calm && asked[n] == NONE && set[n] == BOTH && !no_leg[n] && in_session[n] && in_session[o] && !unsure[n] && writing[n] == 0 ->
        role[n] = HANDING; lease[n] = 0; f_hand[o] = term[n] }
    :: d_step { f_hand[n] != 0 && up[n] && role[n] == SECONDARY && asked[n] == NONE && is_good(n) && epoch[n] == f_hand[n] && reg_epoch == f_hand[n] && may_raise ->
        f_hand[n] = 0; ask(n, SWITCH, BOTH) }
    :: d_step { f_hand[n] != 0 && (!calm || reg_epoch != f_hand[n]) -> f_hand[n] = 0 }
    /* Given up: by a swap of its own. */
    :: d_step { up[n] && role[n] == HANDING && asked[n] == NONE && reg_epoch == term[n] && may_raise ->
#ifdef BREAK_SWITCH_BACK_WITHOUT_SWAP
        role[n] = PRIMARY
#else
        ask(n, RESUME, BOTH)
#endif
        }
    od
}

#if RESTARTS
proctype backup_and_restore()
{
    do
    :: d_step { backups < 1 -> backups++; old_epoch = reg_epoch; old_primary = reg_primary; old_set = reg_set }
    :: d_step { restarts < RESTARTS ->
        restarts++;
        if
        :: old_epoch != reg_epoch -> reg_epoch = old_epoch; reg_primary = old_primary; reg_set = old_set; reg_is_own[0] = 0; reg_is_own[1] = 0
        :: else
        fi;
        swap_expects[0] = 0; swap_expects[1] = 0; swap_expects[2] = 0; swap_expects[3] = 0;
        swap_set[0] = 0; swap_set[1] = 0; swap_set[2] = 0; swap_set[3] = 0;
#ifndef BREAK_OLD_REGISTER
        said[0] = 0; said[1] = 0
#endif
        }
    od
}
#endif

#define serves(n) (up[n] && role[n] == PRIMARY && asked[n] == NONE && reg_epoch == term[n] && reg_primary == n)

init {
    atomic {
        role[0] = PRIMARY; term[0] = 1; set[0] = BOTH; opened = 1;
        in_session[0] = 1; in_session[1] = 1;
        run node(0); run node(1);
#if RESTARTS
        run backup_and_restore()
#endif
    }
#ifdef LIVE
    /* The faults end; or the last one is that a node is gone for good. */
    if
    :: d_step { true -> calm = 1 }
    :: d_step { true -> calm = 1; gone[0] = 1; lose_memory(0) }
    :: d_step { true -> calm = 1; gone[1] = 1; lose_memory(1) }
    fi;
accept_calm:
    timeout;
    assert(gone[0] || gone[1] || (crashes > 1 && reg_set == BOTH && !is_good(0) && !is_good(1)) || (up[0] && up[1] && is_good(0) && is_good(1) && reg_set == BOTH && in_session[0] && in_session[1] &&
        ((serves(0) && set[0] == BOTH && lease[0]) || (serves(1) && set[1] == BOTH && lease[1]))));
    assert(!gone[0] || !(reg_set & me(1)) || (crashes > 0 && reg_set == BOTH && !is_good(1)) || (serves(1) && set[1] == me(1)));
    assert(!gone[1] || !(reg_set & me(0)) || (crashes > 0 && reg_set == BOTH && !is_good(0)) || (serves(0) && set[0] == me(0)))
#endif
}
