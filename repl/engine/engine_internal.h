/* What the engine's files share. */
#pragma once

#include "repl/base/prng.h"
#include "repl/core/range_lock.h"
#include "repl/engine/engine.h"
#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"
#include "repl/mirror/mirror.h"
#include "repl/role/role.h"
#include "repl/role/swaps.h"
#include "repl/sync/decide.h"
#include "repl/sync/resync_source.h"
#include "repl/sync/resync_target.h"
#include "repl/sync/verify_reply.h"

/* The engine's own operations, beside the mirror's. */
#define OP_OWN_FLUSH ENGINE_OP_OWN_FLUSH
#define OP_GROW ENGINE_OP_GROW
#define OP_KEEP ENGINE_OP_KEEP
#define TAG_DECREE UINT32_MAX

enum session_phase {
    SESSION_NONE,
    SESSION_JUDGED, /* accepted; what that changes is being persisted */
    SESSION_READY,  /* the peer was told */
    SESSION_UP,
    SESSION_ENDING, /* refused or dropped: EV_SESSION_DOWN is on its way */
};

/* What the peer of the present session is to this leg. */
enum peer_state {
    PEER_AWAY,
    PEER_IN_SYNC, /* equal, but for what is in flight */
    PEER_TARGET,  /* it gets from us what it lacks */
    PEER_SOURCE,  /* we get from it what we lack */
    PEER_THROUGH, /* one of the two has no leg, and serves through the other's */
};

/* The primary's own leg has failed: engine_diskless.c. */
enum diskless {
    DISKLESS_NOT,
    DISKLESS_WANTED,  /* nothing completes before the peer has recorded it */
    DISKLESS_DECIDED, /* the peer has */
};

#define PAGE_SLOTS (META_PAGES_MAX - 1) /* and the log's block */
#define PASS_PAGES_MAX (PAGE_SLOTS / 2) /* the log's next block must find room for the pages that it needs */

/* The activity log and the bitmap on their way to the disk: engine_log.c. */
struct engine_log {
    enum log_phase {
        LOG_IDLE,
        LOG_PAGES, /* the bitmap's pages come first */
        LOG_BLOCK, /* the log's block is on its way */
        LOG_WIPE,  /* its damaged blocks make room for good ones */
    } phase;
    bool wipe_wanted;   /* before anything is committed */
    uint32_t wipe_next; /* block */
    struct al_commit commit;
    uint32_t evicted_next;
    uint64_t page_next;
    unsigned needed_busy;
    /* A pass writes each page that is stale when it comes by, once, also those that nobody waits for. */
    bool settle;        /* one is to begin */
    bool passing;       /* one is under way */
    bool pass_of_full;  /* ... and has begun when `full` was on record and all bits were set */
    uint64_t pass_next; /* page */
    unsigned pass_busy; /* pages of it with the disk */
    struct page_slot {
        bool busy;
        bool needed; /* by the block under way; else of the pass */
        uint64_t page;
        uint8_t block[META_PAGE_BYTES];
    } slots[PAGE_SLOTS];
};

#define BUSY_NS (100 * NS_PER_MS) /* application writes flow if there was a request in this time */

struct engine_verify {
    struct verify *asker;
    struct verify_reply *answerer;
    bool answers; /* in this session */
    bool running;
    bool repair;
    void *cookie;     /* of the order */
    uint64_t order_s; /* when the latest order came, by the calendar */
    uint64_t begun_s; /* when that was which is under way */
    enum verify_telling {
        TELLING_NOTHING,
        TELLING_ASKED, /* the peer was told that its leg differs */
        TELLING_DONE,  /* ... and has it on record, or refuses */
    } telling;
    bool marked; /* bits were set */
    enum verify_mend {
        MEND_NOTHING,
        MEND_WANTED, /* what only the peer can read is to be read through the mirror */
        MEND_BEGUN,
    } mend;
    struct range mend_range;
    uint64_t mend_at_ns; /* MEND_WANTED: when the mirror is asked again */
    bool told_owed;      /* the peer waits to hear that what it has found is on record here */
    struct verify_run {
        struct range range;
        enum verify_finding finding;
    } runs[VERIFY_PLACES_MAX]; /* of which each is told */
    unsigned run_count;
    unsigned places;
};

/* This leg gets room: engine_grow.c. */
struct engine_grow {
    enum grow_phase {
        GROW_IDLE,
        GROW_LOOKING,   /* the shell looks, and clears the metadata's new place */
        GROW_ZEROING,   /* what will be data reads as zeroes */
        GROW_QUIETING,  /* no more of the log, the bitmap or the superblock is written; waits for what is under way */
        GROW_MOVING,    /* the shell copies the log to its new place */
        GROW_RECORDING, /* the superblock goes there: from then on it counts */
        GROW_WIPING,    /* the former place reads as zeroes */
        GROW_NOTING,    /* the room goes into the superblock */
    } phase;
    struct grow_plan plan;
    uint64_t cursor_bytes; /* ZEROING, WIPING: done up to here */
    bool disk_busy;
    bool flushing;
    uint64_t piece_bytes; /* with the disk */
    uint64_t zeroed_bytes;
    uint64_t total_bytes; /* to be zeroed */
};

/* The order to resize, and what the peer asks of this node: engine_resize.c. */
struct engine_resize {
    bool ordered;
    void *cookie;
    uint32_t number; /* of the resize, in this session */
    bool own_ready;
    bool peer_ready;
    uint64_t peer_room_bytes;
    uint64_t size_bytes; /* agreed; 0: not yet */
    bool recording;      /* ... on this leg, and on the peer's already */

    bool asked; /* by the peer, for room */
    uint32_t asked_number;
    bool set_owed; /* the peer waits for the size to be on disk here */
    uint32_t set_number;
};

/* The peer of the last hello, if it was refused until a person gives one of the legs up. */
struct engine_apart_peer {
    bool known;
    const char *rule;
    struct hello peer;
    uint64_t heard_ns;
};

/* This leg is being given up: engine_resolve.c. */
struct engine_resolve {
    enum resolve_phase {
        RESOLVE_IDLE,
        RESOLVE_OPENING,   /* the shell makes the file */
        RESOLVE_READING,   /* and gets what is read */
        RESOLVE_CLOSING,   /* has it on stable storage, under its name */
        RESOLVE_LISTENING, /* the peer's next hello decides */
        RESOLVE_RECORDING, /* the leg is given up in memory, and soon on disk */
        RESOLVE_DROPPING,  /* nothing comes of it, as soon as nothing of it is under way */
    } phase;
    void *cookie; /* of the order */
    struct keep_info info;
    struct buf *buf;
    uint32_t buf_used_bytes;
    struct keep_piece pieces[KEEP_PIECES_MAX];
    unsigned piece_count;
    uint64_t cursor_bytes; /* done up to here */
    uint64_t singly_until_bytes;
    struct range reading;
    uint64_t kept_bytes;
    uint64_t unreadable_bytes;
    uint64_t unreadable_at_bytes; /* the first of them */
    bool force;                   /* they are given up, too */
    bool disk_busy;
    bool keep_busy;
    enum keep_step step; /* keep_busy: which */
    bool file;           /* there is one, which is not whole yet */
    uint64_t until_ns;   /* LISTENING */
    int32_t result;      /* DROPPING */
    char why[ACTION_TEXT_BYTES];
};

/* The register: engine_register.c, engine_swaps.c, engine_lease.c. */
struct engine_witness {
    enum register_state state;
    char reason[REGISTER_REASON_BYTES];
    struct decree decree;            /* that stands, as last heard */
    uint64_t highest_epoch;          /* that it was heard to have: also of one that is older by now */
    struct register_request request; /* under way, or the last; its proposal: the swap's */
    bool asked;                      /* it is under way */
    bool is_void;                    /* ... and its answer is about a swap of which the end is known */
    bool fresh;                      /* `decree` was read in this step */
    uint64_t read_at_ns;             /* when it is to be read next */
    enum swap_progress {
        SWAP_NOT,
        SWAP_PREPARED, /* what comes before it is on its way to the disk */
        SWAP_SENT,     /* until its end is known */
    } swap;
    int swap_row; /* of the table */
    uint64_t swap_since_ns;
    uint64_t asked_before; /* SWAP_PREPARED: the superblock's `asked_epoch` without it */
    uint64_t retry_at_ns;
    uint64_t alone_until_ns; /* a session was ended for what is to be asked: nobody comes into the way of it so long */

    uint64_t heard_ns;              /* when a primary was last heard of; at first: the start */
    uint64_t lent_ns;               /* ... in a session, of whose reads this node has let it be sure; 0: of none */
    uint64_t session_ns;            /* when the present session came up */
    bool out_wanted;                /* the peer is lost */
    uint64_t target_since_ns;       /* when it was first refused, as its target is in the set; 0: it is not */
    uint64_t peer_asked_epoch;      /* the peer has asked to take over from it; 0: it has not */
    bool took_in;                   /* the target of this session is in the set now */
    bool in_forgotten;              /* it may be: "in" was asked for, and its end is not waited for any more */
    struct history_entry forgotten; /* ... which it would have made */
    bool complete; /* this leg was the target of the last session, and had everything when that ended */
    bool adopt;    /* ordered */
    void *adopt_cookie;
    uint64_t adopt_until_ns;
    bool handed;            /* of a secondary: its primary has stopped for a switchover, and waits for it */
    bool peer_waits;        /* PHASE_HANDING: the peer has asked for it, and hears if it is called off */
    uint64_t hand_until_ns; /* PHASE_HANDING: the present step ends, with whatever has come of it */
    bool hand_unread;       /* ... the register has not answered since it began */
    bool gives_up;          /* ... the peer does not take over, or nobody knows */
    char why_kept[REGISTER_REASON_BYTES]; /* ... and why */
    bool switch_asked;                    /* of a secondary: its primary was asked to hand over, as was ordered here */
    uint64_t switch_until_ns;
    bool promote;              /* ordered */
    uint64_t promote_until_ns; /* when the order ends, whatever comes of what was asked for it */
    bool ended;                /* a demotion has come so far that nobody is to serve */
    bool nobody;               /* ... and nobody is, by the register */
    uint64_t release_until_ns; /* ... or its order ends without */
    bool unreleased;           /* DETACHING: the decree names this node still */
    bool leg_is_declared;      /* DISKLESS_WANTED: this leg is out of the set by the register */

    uint64_t decree_sent_ns; /* when the peer was last told of an epoch that begins here */
    uint64_t lease_until_ns;
    bool reads_held;
    uint64_t held_since_ns; /* reads_held: since when */

    uint64_t patience_ns;   /* when to look for requests that have waited too long; UINT64_MAX: none can */
    uint64_t hand_since_ns; /* PHASE_HANDING: since when requests are held in the front */
    bool fails_held;        /* ... they fail from now on, until it is known who serves */
};

/* How old this leg is, and what others know of that: engine_age.c. */
struct engine_age {
    uint64_t stable;      /* of this leg, as on its disk */
    uint64_t peer_stable; /* the superblock's `peer_age` there */
    uint64_t told;        /* to the peer of this session */
    uint64_t recorded;    /* the highest of this leg that the peer or the register was heard to know */
    uint64_t at_ns;       /* the next tick */
    uint64_t lsn;         /* at the last one */
    bool met;             /* the peer, since this leg was attached */
    bool write;           /* a superblock is to be written that nobody waits for */
    bool other_told;      /* people were told that somebody else uses this node's name */
};

struct engine {
    struct engine_config config;
    struct range_locks locks;
    struct mirror *mirror;
    struct activity_log *al;
    struct bitmap *bitmap;
    struct engine_log log;
    struct prng chance; /* for tags of history entries */
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
    struct hello said;   /* our latest */
    bool session_was_up;
    bool peer_is_ready; /* it has said so, in this session */
    bool peer_ready;    /* the mirror may send */
    bool decree_owed;   /* the peer waits for our acknowledgement of its decree */
    uint64_t decree_epoch;
    bool taken_owed; /* the same of one that it has taken already */
    uint64_t taken_epoch;
    enum peer_state peer_state;
    uint64_t told_epoch;  /* of the entry that the peer was told and has not acknowledged; 0: none */
    uint64_t alone_at_ns; /* when the peer counts as lost; 0: it does not */
    enum stable {
        STABLE_NOT,
        STABLE_WANTED,
        STABLE_FLUSHING,
        STABLE_ALL, /* what was acknowledged before the last session's end, and since, is so on this leg */
    } stable;
    bool alone_flushes; /* ... is waited for before the decree */
    bool alone_wanted;  /* ... as soon as the decree is on disk */
    struct resync_source *source;
    struct resync_target *target;
    struct engine_verify verify;
    struct engine_grow grow;
    struct engine_resize resize;
    struct engine_apart_peer apart;
    struct engine_resolve resolve;
    uint64_t entry_ns; /* when the last entry of the history was made, by this node; 0: not known */
    struct engine_witness witness;
    struct engine_age age;
    uint64_t served_size_bytes; /* what clients are told */
    bool peer_leads;            /* as far as is known: a primary does not tell when it is demoted */
    bool sync_full;             /* target: everything is compared */
    bool sync_begun;            /* one of them, in this session */
    bool sync_finishing;        /* source: the target is done; what this node records of it is on its way to the disk */
    bool finish_told;           /* ... and then to the target */
    uint64_t sync_settle_ns;    /* source: when the bits that are clear by now are to be so on disk */
    bool peer_readable;         /* the mirror was told that the peer stands in for what this leg cannot read */
    uint64_t memory_at_ns;      /* when reads of the peer that wait for memory are tried again */
    uint64_t request_ns;        /* when the application last asked for something */
    uint64_t alone_since_ns; /* since when it has been alone, or was before a resync that did not end; 0: it was not */
    bool alone;              /* the mirror acknowledges what the peer lacks, as it does until it is told otherwise */
    enum leg_state peer_leg; /* as last known */
    uint32_t peer_block_bytes;     /* likewise */
    uint32_t served_block_bytes;   /* what clients are told while we serve */
    uint64_t entry_tag;            /* of the next entry; 0: a random one */
    uint64_t asked_epoch;          /* PHASE_ASKING: that the peer is to agree to */
    bool promote_force;            /* the promotion under way is to overcome what stands against it */
    bool promoted_half_made;       /* it has made an inconsistent leg count */
    char refused[SYNC_TEXT_BYTES]; /* the last refusal, so that each is told once */
    bool refused_for_now;          /* ... until one of the two has stepped down, or has had the register's answer */
    bool refused_a_primary;        /* the last hello was a primary's, and no session came of it */
    uint64_t refused_primary_ns;   /* ... when that was */
    uint64_t hellos_heard;
    bool is_behind;      /* the last hello was that of a leg which has gone on without this one */
    bool person_decides; /* ... or told, with this node's, that either leg may lack what the other has */

    bool ending_flushed;    /* the peer was asked to flush before this node lets go */
    uint64_t flush_at_ns;   /* leading: when the next own flush of both legs is due */
    uint32_t pages_damaged; /* of the bitmap, when it was loaded */

    uint64_t now_ns;  /* of the present step */
    bool replaceable; /* the peer's leg has all that was acknowledged: a failure of the own one fails nobody */
    enum diskless diskless;
    bool leg_is_out;                     /* the mirror uses the peer's leg only */
    struct history_entry diskless_entry; /* of the decree that takes the own leg out */
    uint64_t diskless_since_ns;

    bool untouched;  /* the leg was zeroes when it was attached */
    bool leg_failed; /* in this attachment */
    bool own_flush_busy;
    enum own_flush {
        FLUSH_FOR_ENDING,
        FLUSH_FOR_STABLE,
        FLUSH_IN_VAIN, /* what it was for is called off */
    } own_flush_for;
    bool own_flushed;      /* since the leg became idle for an ending */
    bool draining_primary; /* DETACHING from primary: the peer is still needed */
    void *orders[ENGINE_ORDERS_MAX];
    unsigned order_count;
    struct promotion {
        void *cookie;
        bool force;
        uint64_t heard;              /* hellos, when it was ordered */
    } promotions[ENGINE_ORDERS_MAX]; /* that wait until the handshake with the peer is decided, or for its hello */
    unsigned promotion_count;
    uint64_t promotions_until_ns;
    bool session_made;      /* both hellos were accepted here */
    bool handshake_refused; /* SESSION_ENDING: by this node's judgement of the peer's hello */

    uint64_t held_since_ns; /* engine_hold.c; 0: nobody is held */
    uint64_t held_until_ns;
    uint64_t stall_look_ns; /* UINT64_MAX: it does not lead */
    bool stalled;           /* that was told */

    bool was_in_sync;
    char why_not[SYNC_TEXT_BYTES];
};

static inline enum leg_state own_leg(const struct engine *e) { return e->leg_failed ? LEG_FAILED : e->sb.leg; }

/* What is known against it, up to date or not. */
static inline enum leg_doubt own_doubt(const struct engine *e)
{
    return e->sb.went_back    ? LEG_DOUBT_WENT_BACK
           : e->sb.lost_power ? LEG_DOUBT_LACKS
           : e->sb.differs    ? LEG_DOUBT_DIFFERS
                              : LEG_DOUBT_NONE;
}

static inline uint32_t own_block_bytes(const struct engine *e)
{
    return e->config.block_bytes ? e->config.block_bytes : BLOCK_BYTES;
}

static inline bool persisted(const struct engine *e) { return e->sb_stable == e->sb_wanted; }

/* To be called after each change of e->sb; engine_advance() writes. */
static inline void want_persisted(struct engine *e) { e->sb_wanted = e->sb_stable + (e->sb_busy ? 2 : 1); }

/* It has, or may still have, changes of its own for the peer. */
static inline bool is_leading(const struct engine *e)
{
    return role_of(&e->role) == ROLE_PRIMARY || e->draining_primary;
}

/* Primary still, but its front is closed: what is left is in flight. */
static inline bool is_draining(const struct engine *e)
{
    return e->role.phase == PHASE_DEMOTING || e->draining_primary;
}

#define TEXT_NO_MEMORY "out of memory for the bitmap of a volume of this size"
#define TEXT_BROKEN "the superblock could not be written; see the log"

/* engine.c */
const char *engine_why_not(struct engine *e);
void engine_make_hello(struct engine *e, struct hello *out);
bool engine_fix_size(struct engine *e, uint64_t size_bytes); /* false: out of memory */

/* engine_session.c */
void session_waits_no_more(struct engine *e); /* what the register had to answer first, it has */
void session_drop(struct engine *e, const char *text, struct actions *out);
void session_on_hello(struct engine *e, const struct hello *peer, struct actions *out);
void session_on_peer_ready(struct engine *e);
void engine_joins(struct engine *e); /* this leg is paired with that of the last hello from now on */
void session_on_up(struct engine *e, uint64_t now_ns, uint64_t said_ns, struct actions *out);
void session_on_down(struct engine *e, uint64_t now_ns, uint64_t heard_ns, struct actions *out);
void session_on_frame(struct engine *e, const struct frame *frame, struct buf *payload, uint64_t now_ns,
                      struct actions *out);

/* engine_decree.c */
void decree_send(enum frame_kind kind, uint8_t flags, uint64_t epoch, uint16_t status, struct actions *out);
void decree_agreed(struct engine *e); /* both legs have the same history, and this node knows it */
/* A primary serves no longer, and what is in flight there fails. `why` is a constant text. */
void decree_step_down(struct engine *e, const char *why, struct actions *out);
void decree_on_ask(struct engine *e, const struct frame *frame, struct actions *out);
const char *decree_on_taken(struct engine *e, const struct frame *frame, struct actions *out);
/* The source of the last session has taken this leg in, as the register says; `entry` is of that decree. */
void decree_taken_unheard(struct engine *e, struct history_entry entry, struct actions *out);
bool decree_take(struct engine *e, uint64_t epoch, struct actions *out); /* false: out of memory */
/* This leg counts from its last entry on, whatever it lacks. */
void decree_accept_loss(struct engine *e);
/* The serving primary takes another epoch, with or without the peer in the in-sync set. */
void decree_renew(struct engine *e, bool peer_in_sync, struct actions *out);
void decree_tell(struct engine *e, struct actions *out);
void decree_on_answer(struct engine *e, const struct frame *frame, struct actions *out);

/* engine_adopt.c */
void adopt_order(struct engine *e, void *cookie, struct actions *out);
void adopt_on_answer(struct engine *e, bool of_read, const struct register_answer *a, struct actions *out);
void adopt_ends(struct engine *e, bool done, struct actions *out); /* its swap has */
void adopt_advance(struct engine *e, struct actions *out);
uint64_t adopt_deadline_ns(const struct engine *e);

/* engine_handover.c */
void handover_order(struct engine *e, void *cookie, struct actions *out);
void handover_on_frame(struct engine *e, const struct frame *frame, struct actions *out);
void handover_on_refused(struct engine *e, const struct frame *frame, struct actions *out);
void handover_hand(struct engine *e, struct actions *out); /* drained and flushed, and the register has answered */
bool handover_waits_for_register(const struct engine *e);
/* What is read now decides whether there is a way back: it has to be a register that can carry out swaps. */
bool handover_tries_register(const struct engine *e);
void handover_on_answer(struct engine *e, bool good, struct actions *out); /* of the register, to a read */
/* The peer has this node's place by a decree: it is secondary from here on. */
void handover_is_taken(struct engine *e, struct actions *out);
void handover_returns(struct engine *e, struct actions *out); /* ... or this node has it again, by its own */
/* PHASE_HANDING comes to an end that nobody waits for: drains still, and goes on; or takes no requests any more. */
void handover_is_called_off(struct engine *e, const char *why, struct actions *out);
/* Of a secondary: nothing comes of what was ordered here. */
void handover_fails(struct engine *e, const char *text, struct actions *out);
/* This node has stopped, its peer does not take over, and the register has not said yet whose turn it is. */
bool handover_is_stuck(const struct engine *e);
void handover_on_session_down(struct engine *e, struct actions *out);
void handover_was_read(struct engine *e, int row, struct actions *out); /* the register, just now */
void handover_advance(struct engine *e, struct actions *out);
uint64_t handover_deadline_ns(const struct engine *e);

/* engine_alone.c */
/* There is no session: since now, or since `heard_ns`, if that is not 0. */
void alone_consider(struct engine *e, uint64_t now_ns, uint64_t heard_ns);
void alone_forget(struct engine *e);
void alone_on_session_up(struct engine *e);
void alone_end(struct engine *e, struct actions *out); /* the mirror: changes are sent from now on */
uint64_t alone_epoch(const struct engine *e);          /* of the decree by which the peer left the in-sync set */
void alone_advance(struct engine *e, uint64_t now_ns, struct actions *out);

/* engine_diskless.c */
bool diskless_is(const struct engine *e);                   /* decided or not */
bool diskless_begin(struct engine *e, struct actions *out); /* false: the peer cannot stand in */
void diskless_add_to_hello(const struct engine *e, struct hello *hello);
void diskless_on_refused(struct engine *e, const struct hello *peer);
void diskless_judged(struct engine *e, struct actions *out);
void diskless_on_session_up(struct engine *e, struct actions *out);
void diskless_declared(struct engine *e, const struct decree *d);
void diskless_give_up(struct engine *e, struct actions *out); /* what waits for the decision fails */
void diskless_advance(struct engine *e, struct actions *out);
const char *diskless_why_not(struct engine *e);

/* engine_age.c */
/* Above `other`, and above all that anybody was heard to have on record of this leg. */
void age_raise_above(struct engine *e, uint64_t other);
void age_leap(struct engine *e); /* ... and above all that nobody told: this leg gets everything */
bool age_is_below_record(const struct engine *e);
void age_on_hello(struct engine *e, const struct hello *peer, const struct sync_judgement *j, struct actions *out);
void age_on_heard(struct engine *e, uint64_t age);                         /* of the peer's leg */
void age_on_register(struct engine *e, uint64_t age, struct actions *out); /* what it knows of this one; 0: nothing */
void age_advance(struct engine *e, struct actions *out);
uint64_t age_deadline_ns(const struct engine *e);

/* engine_sync.c */
/* A sentence: what is left of an inconsistent leg. */
const char *sync_last_consistent(const struct engine *e, struct actions *out);
void sync_judged_source(struct engine *e, bool full, struct actions *out);
void sync_judged_target(struct engine *e, bool full, struct actions *out);
bool sync_may_begin(const struct engine *e); /* this node can say that it is ready, when its record is on disk */
void sync_on_peer_ready(struct engine *e);
bool sync_open(struct engine *e); /* false: out of memory */
void sync_close(struct engine *e);
bool sync_is_idle(const struct engine *e);
bool sync_progress(const struct engine *e, struct resync_view *view); /* false: none is under way */
void sync_on_session_up(struct engine *e, uint64_t now_ns);
void sync_on_session_down(struct engine *e, struct actions *out);
/* The session is to end: no bit is cleared any more, and nothing is called stable. */
void sync_leave(struct engine *e, struct actions *out);
/* Takes over the payload's reference. NULL, or what is wrong. */
const char *sync_on_frame(struct engine *e, const struct frame *frame, struct buf *payload, uint64_t now_ns,
                          struct actions *out);
void sync_advance(struct engine *e, uint64_t now_ns, struct actions *out);
bool sync_owns(uint32_t op);
/* False: nothing has become possible of which the mirror would not tell. */
bool sync_on_disk_done(struct engine *e, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out);
uint64_t sync_deadline_ns(const struct engine *e);
bool sync_target_is_done(const struct engine *e);
void sync_target_finish(struct engine *e, struct actions *out);
void sync_leg_is_whole(struct engine *e); /* its superblock says so from now on */
void sync_source_on_told(struct engine *e, struct actions *out);

/* engine_verify.c */
bool verify_parts_open(struct engine *e, const struct resync_config *config);
void verify_parts_close(struct engine *e);
bool verify_parts_idle(const struct engine *e);
void verify_on_session_up(struct engine *e);
void verify_on_session_down(struct engine *e, struct actions *out);
void verify_order(struct engine *e, bool repair, void *cookie, uint64_t now_ns, struct actions *out);
/* Before anything else of a step: ends one that a change of roles has overtaken. */
void verify_end_if_overtaken(struct engine *e, struct actions *out);
const char *verify_on_frame(struct engine *e, const struct frame *frame, struct buf *payload, uint64_t now_ns,
                            struct actions *out);
/* FRAME_VERIFY_FOUND, and its answer. */
const char *verify_on_found(struct engine *e, const struct frame *frame, struct actions *out);
bool verify_owns(uint32_t op);
void verify_on_disk_done(struct engine *e, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out);
void verify_advance(struct engine *e, uint64_t now_ns, struct actions *out);
uint64_t verify_next_ns(const struct engine *e);

/* engine_log.c */
void log_advance(struct engine *e, struct actions *out);
bool log_is_idle(const struct engine *e); /* nothing of it is with the disk */
bool log_is_settled(const struct engine *e);
void log_seal(struct engine *e, struct actions *out); /* what the newest block tells, if only that one does */
void log_count_all(struct engine *e);                 /* every granule counts as out of sync from now on */
void log_on_page_done(struct engine *e, enum meta_area area, uint32_t index, int32_t result, struct actions *out);

/* engine_order.c */
void order_answer(void *cookie, int32_t result, const char *text, struct actions *out);
bool order_keep(struct engine *e, void *cookie, struct actions *out); /* false: too many; it is answered */
uint64_t register_wait_ns(const struct engine *e);                    /* for how long an order waits for it */
void orders_finish(struct engine *e, int32_t result, const char *text, struct actions *out);
void order_promote(struct engine *e, bool force, void *cookie, struct actions *out);
/* The orders that are kept, once more: the volume has no decree yet, and what stands against them may be new. */
void orders_promote_undecreed(struct engine *e, struct actions *out);
void order_demote(struct engine *e, bool force, void *cookie, struct actions *out);
void order_detach(struct engine *e, bool force, void *cookie, struct actions *out);
/* The handshake that they wait for is lost: nobody knows what the peer would have said. */
void promotions_lost(struct engine *e, struct actions *out);
void promotions_advance(struct engine *e, struct actions *out);
uint64_t promotions_deadline_ns(const struct engine *e);
bool engine_is_pristine(const struct engine *e);
void order_serve_size(struct engine *e, struct actions *out);
void orders_carry_out(struct engine *e, uint64_t now_ns, struct actions *out);

/* engine_grow.c */
void grow_begin(struct engine *e, struct actions *out); /* or joins what is under way; ends with resize_on_room() */
bool grow_is_idle(const struct engine *e);
bool grow_holds_log(const struct engine *e); /* nothing of log or bitmap may be begun */
void grow_advance(struct engine *e, struct actions *out);
void grow_on_done(struct engine *e, const struct event *ev, struct actions *out);
void grow_on_disk_done(struct engine *e, int32_t result, struct actions *out);
uint64_t grow_room_bytes(const struct engine *e); /* that a volume can have at once */
struct engine_growth grow_view(const struct engine *e);

/* engine_resize.c */
void resize_order(struct engine *e, void *cookie, struct actions *out);
void resize_on_room(struct engine *e, int32_t result, const char *text, struct actions *out); /* of this leg */
void resize_on_session_down(struct engine *e, struct actions *out);
const char *resize_on_frame(struct engine *e, const struct frame *frame, struct actions *out);
void resize_advance(struct engine *e, struct actions *out);

/* engine_resolve.c */
void resolve_order(struct engine *e, bool force, void *cookie, struct actions *out);
bool resolve_is_idle(const struct engine *e);
/* The handshake's judgement, before anything else comes of it. */
void resolve_on_hello(struct engine *e, const struct hello *peer, const struct sync_judgement *j, struct actions *out);
void resolve_on_disk_done(struct engine *e, int32_t result);
void resolve_on_keep_done(struct engine *e, int32_t result, const char *reason);
void resolve_advance(struct engine *e, struct actions *out);
uint64_t resolve_deadline_ns(const struct engine *e);
struct engine_apart resolve_apart_view(const struct engine *e);
struct engine_resolve_view resolve_view(const struct engine *e);
/* engine_register.c */
void register_begin(struct engine *e);
bool register_rules(const struct engine *e);    /* this node acts by a register's decrees */
bool register_may_rule(const struct engine *e); /* ... or will have: the first one is under way */
void register_forget_swap(struct engine *e);
bool register_wants_no_session(const struct engine *e); /* but with a primary: something is to be asked first */
void register_on_answer(struct engine *e, const struct register_answer *answer, struct actions *out);
void register_advance(struct engine *e, struct actions *out);
uint64_t register_deadline_ns(const struct engine *e);
uint64_t register_known_epoch(const struct engine *e); /* below it no register is followed; 0: it was told of none */
void register_take_decree(struct engine *e, const struct decree *d); /* that stands */
struct engine_register register_view(const struct engine *e);

/* engine_swaps.c */
void swap_gather(struct engine *e, struct swap_facts *f);
void swap_won(struct engine *e, const struct decree *d, struct actions *out);
void swap_lost(struct engine *e, struct actions *out);
void swaps_forget_in(struct engine *e);
/* A demotion whose end the register does not hear of: nothing is served any more, here or elsewhere. */
bool release_is_stuck(const struct engine *e);
void swaps_advance(struct engine *e, struct actions *out);
void swaps_on_session_up(struct engine *e);
/* `was_made`: both hellos were accepted here. */
void swaps_on_session_down(struct engine *e, bool was_made, uint64_t heard_ns);
/* Before it is judged: this node may not be what it has said any more. */
void swaps_on_hello(struct engine *e, const struct hello *peer, struct actions *out);
void swaps_heard_of(struct engine *e, const struct hello *peer);
bool swaps_are_of_one_register(const struct engine *e, const struct hello *peer);
bool swaps_may_be_own(const struct engine *e, const struct hello *peer);
bool swaps_may_be_granted(const struct engine *e);
void swaps_on_refused(struct engine *e, const struct hello *peer, const struct sync_judgement *j);
bool swaps_let_target_in(const struct engine *e);
void swaps_promote(struct engine *e, const struct swap_facts *f, int row, struct actions *out);
void swaps_promotion_fails(struct engine *e, const char *text, struct actions *out);
uint64_t swap_deadline_ns(const struct engine *e);
void decree_was_read(struct engine *e, const struct decree *d, struct actions *out);

/* engine_lease.c */
void lease_on_heard(struct engine *e, uint64_t sent_ns);
void lease_look(struct engine *e, struct actions *out);

/* engine_patience.c */
void patience_look(struct engine *e, struct actions *out);
uint64_t patience_deadline_ns(const struct engine *e);
bool patience_is_over(const struct engine *e); /* a request is taken only to fail */
void patience_fail(const struct request *request, struct actions *out);

/* engine_hold.c */
bool hold_begin(struct engine *e); /* a primary with clients is deposed. False: they are not to be held */
bool hold_end(struct engine *e, struct actions *out); /* false: nobody is held */
void hold_forget(struct engine *e);                   /* they are gone; or the front opens, and lets them go before */
void hold_look(struct engine *e, struct actions *out);
uint64_t hold_deadline_ns(const struct engine *e);

/* engine_stall.c */
void stall_look(struct engine *e, struct actions *out);

/* engine_leg.c */
void leg_flush(struct engine *e, enum own_flush what_for, struct actions *out);
/* All that was acknowledged is to be on this leg's stable storage: `stable` says when. Not while a session is up. */
void leg_want_stable(struct engine *e);
void leg_stable_advance(struct engine *e, struct actions *out);
void leg_on_stable_flushed(struct engine *e, int32_t result);
void superblock_write_if_wanted(struct engine *e, struct actions *out);
void peer_has_failed(struct engine *e);
void leg_failed(struct engine *e, const char *what, struct actions *out); /* in words, for the log */
void faults_handle(struct engine *e, struct mirror_faults faults, struct actions *out);
/* The disk failed in a way that only a resync mends, and the mirror does not know yet. `text`: why the session ends. */
void leg_fail_for_good(struct engine *e, const char *text, struct actions *out);
void superblock_on_written(struct engine *e, int32_t result, struct actions *out);
