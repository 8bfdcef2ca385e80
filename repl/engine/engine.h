/* The engine of one volume on one node: events in, actions out. No I/O, no clock, no allocation after engine_open().
 *
 * It routes each event to the part that knows: mirror (writes, reads, flushes, the peer's writes), sync (may these two
 * legs go on together?), role (who may serve). The shell around it (repl/node, or the simulator) does everything else.
 */
#pragma once

#include "repl/core/action.h"
#include "repl/core/event.h"
#include "repl/core/verify_places.h"
#include "repl/mirror/mirror.h"
#include "repl/role/loss.h"
#include "repl/role/role.h"
#include "repl/sync/verify.h"

struct engine;

#define ENGINE_NEVER_ALONE UINT64_MAX

struct engine_config {
    const char *volume; /* the strings must live as long as the engine */
    const char *node;
    const char *peer;             /* NULL: a volume with a single node, never protected */
    const char *backing;          /* for notes */
    unsigned node_index;          /* of this node in the configuration, which both nodes share: breaks ties */
    uint64_t capacity_bytes;      /* the largest volume the backing can hold, or the configured size */
    uint32_t window_frames;       /* what this node lets the peer have on its way to it; at least 1 */
    uint64_t window_bytes;        /* at least IO_BYTES_MAX */
    uint32_t block_bytes;         /* what the backing needs changes aligned to; 0: BLOCK_BYTES */
    uint32_t granule_bytes;       /* of the bitmap; 0: GRANULE_BYTES_DEFAULT */
    uint32_t extent_bytes;        /* of the activity log; 0: EXTENT_BYTES_DEFAULT */
    uint32_t log_slots;           /* extents that may be hot at a time; 0: AL_SLOTS_DEFAULT */
    uint32_t log_blocks;          /* of the activity log's ring; 0: AL_RING_BLOCKS */
    uint32_t resync_window_bytes; /* as in struct resync_config; 0: the default */
    uint64_t age_tick_ns;         /* how often a leg that changes gets older (docs/METADATA.md); 0: each minute */
    uint32_t unflushed_max;       /* changes that the peer may lose with its power; 0: MIRROR_UNFLUSHED_MAX */
    uint64_t alone_after_ns;      /* how long a lost peer is waited for before the primary goes on alone;
                                     ENGINE_NEVER_ALONE: for ever */
    /* With a register (docs/FAILOVER.md): `alone_after_ns` is then `dead_after_ns`, or ENGINE_NEVER_ALONE for
     * `when-alone: suspend`; it counts from when the peer was last heard. */
    struct engine_failover {
        bool has_register;      /* else nothing of the rest counts, and nothing is asked */
        bool automatic;         /* `failover: automatic`: this node takes over by itself */
        uint64_t dead_after_ns; /* silence after which the peer counts as lost: as the session's. At least 1 ms */
        uint64_t fail_after_ns; /* requests that have waited for as long end with an error; 0: never */
    } failover;
    bool hold_when_deposed;       /* `when-deposed: wait`: clients of a primary that is deposed are held; a register's
                                     fail_after_ns ends that */
    uint64_t resync_bytes_per_s;  /* of what this leg gets as a target; 0: no limit */
    uint64_t verify_bytes_per_s;  /* that a verify ordered here compares; 0: no limit */
    uint64_t seed;                /* random: for tags of history entries */
    struct buf_pool *pool;        /* of the volume: for resync, and reads for the peer */
    size_t pool_keep_free_bytes;  /* what these leave of it */
    struct superblock superblock; /* as engine_attach() left it and as it lies on disk now */
    /* What its hello says of the configuration; all zero: nothing. */
    struct hello_config configured;
};

/* What a leg must remember from the moment a daemon attaches it: called on the superblock as read, whose result is
 * written before engine_open(). Marks what an earlier end without detaching may have left behind. */
void engine_attach(struct superblock *sb, struct id boot_id, bool has_peer);

/* What status shows. */
struct engine_view {
    enum role role;
    bool serving;
    uint64_t epoch;
    uint64_t lsn; /* last one given (primary) or applied (secondary) */
    uint64_t size_bytes;
    uint32_t block_bytes; /* that clients' requests are to be multiples of */
    struct id leg_id;
    enum leg_state leg;
    enum leg_doubt doubt;      /* what is known against it */
    uint64_t consistent_epoch; /* of an inconsistent leg: its last consistent state, as far as this node had it on
                                  record; 0: it has had none, or is consistent */
    uint64_t consistent_lsn;
    bool session_up;
    bool peer_leads;            /* as far as is known: a primary does not tell when it is demoted */
    enum leg_state peer_leg;    /* as last known; LEG_OUTDATED: it has left the in-sync set */
    uint64_t out_of_sync_bytes; /* that may differ between the legs, as far as this node knows */
    struct engine_resync {
        bool active;
        bool is_source; /* the peer gets what it lacks; else this node */
        uint64_t done_bytes;
        uint64_t total_bytes;
        uint64_t equal_bytes; /* in this session: found equal by digest, */
        uint64_t sent_bytes;  /* sent, */
        uint64_t zero_bytes;  /* zeroed without being sent */
    } resync;
    struct engine_growth {
        bool active; /* this leg gets room for a larger volume, or a resize was ordered here */
        bool waits_for_peer;
        uint64_t done_bytes;  /* zeroed */
        uint64_t total_bytes; /* 0: not known yet */
    } growth;
    uint64_t alone_epoch; /* since which changes are acknowledged without the peer; 0: they are not */
    uint64_t alone_since_ns;
    uint64_t verified_at_s; /* when the last verify here began that came to its end; 0: there was none */
    uint64_t verified_found_bytes;
    uint64_t diskless_epoch; /* since which it serves through the peer's leg, or is to; 0: it has a leg of its own */
    uint64_t diskless_since_ns;
    struct engine_apart {
        const char *rule;      /* of the handshake's, which waits for a person to give one leg up; NULL: none does */
        uint64_t common_epoch; /* up to which both legs are the same; 0: they have nothing in common */
        uint64_t differ_bytes_max;
        struct engine_apart_side {
            uint64_t epoch; /* of the first decree that the other has no part in; 0: there is none */
            uint64_t first_lsn;
            uint64_t lsn;
            uint64_t since_ns;      /* when that was; 0: not known */
            bool changed_known;     /* its bits tell what it has changed since; else that may be everything */
            uint64_t changed_bytes; /* at the most */
        } own, peer;
    } apart;
    struct engine_resolve_view {
        bool active; /* blocks are kept aside, or the leg is about to be given up */
        uint64_t done_bytes;
        uint64_t total_bytes; /* at the most */
    } resolve;
    struct engine_register {
        enum register_state state;
        const char *reason;   /* a sentence, as the register gave it; "" unless UNREACHABLE ... REFUSED. The engine's */
        struct decree decree; /* that stands, as last heard; none: never heard, or there is none */
        bool swap_under_way;  /* its end is not known yet */
        enum decree_cause swap_cause;
        uint64_t swap_since_ns;
    } witness;
    bool in_sync;        /* every acknowledged write is on two up-to-date legs; no switchover or demotion is stuck */
    const char *why_not; /* NULL when in_sync; else in words what is missing */
    uint32_t writes_waiting;    /* changes and flushes that wait for the peer */
    uint64_t oldest_waiting_ns; /* when the oldest of them came in; 0: none */
    uint64_t held_since_ns;     /* when it was deposed; its clients of then are held. 0: none */
};

#define ENGINE_ORDERS_MAX 16 /* operators' orders under way; more are refused */

/* Actions that one engine_step() can emit at the most (each operation in flight at most two, a resync's and a verify's,
 * and some of its own), and the room for their text. */
#define ENGINE_ACTIONS_MAX (2 * MIRROR_OPS + 2 * RESYNC_ACTIONS_MAX + 2 * VERIFY_ACTIONS_MAX + META_PAGES_MAX + 64)

/* Operations towards the disk: those of the mirror, from 0; of resync and verify (SYNC_OP_FIRST ...); and those of
 * the engine's own. */
#define ENGINE_OP_OWN_FLUSH UINT32_MAX
#define ENGINE_OP_GROW (UINT32_MAX - 1)
#define ENGINE_OP_KEEP (UINT32_MAX - 2)
#define ENGINE_TEXT_BYTES (16 * KIB)

/* Allocates all it will ever need. NULL: out of memory. */
struct engine *engine_open(const struct engine_config *config);
void engine_close(struct engine *e);

/* What lies on disk, before the first step: each page of the bitmap (NULL: it cannot be read), then the activity log's
 * whole ring, unreadable blocks filled with 0xff. Damage is told, and makes what it may hide count as out of sync. */
uint32_t engine_page_count(const struct engine *e);
void engine_load_page(struct engine *e, uint32_t index, const uint8_t *block);
void engine_load_log(struct engine *e, const uint8_t *ring, struct actions *out);

/* When it wants an EV_TICK; UINT64_MAX: not before something else happens. */
uint64_t engine_deadline_ns(const struct engine *e);

void engine_step(struct engine *e, const struct event *ev, struct actions *out);

/* True while one more EV_REQUEST of this kind may be given; else the front waits until something completes. */
bool engine_can_accept(const struct engine *e, enum op_kind kind);

/* The leg here holds every acknowledged change: not once it has failed, and never while the volume is served through
 * the peer's. */
bool engine_leg_is_current(const struct engine *e);

/* What this node says of itself on a new connection. `nonce`: random. The engine remembers what was said. */
void engine_hello(struct engine *e, const uint8_t nonce[HELLO_NONCE_BYTES], struct hello *out);

/* Of the verify under way, or the last. */
void engine_verify_view(const struct engine *e, struct verify_view *view);

/* What it found. Neighbours that are alike are one place. */
void engine_verify_places(const struct engine *e, struct verify_places *out);

void engine_view(struct engine *e, struct engine_view *out);

/* What is known of what a promotion of this leg by force would give up: a sentence without its end. `now`: the view of
 * this moment. */
void engine_loss_of_force(const struct engine *e, const struct engine_view *now, char text[LOSS_TEXT_BYTES]);

/* Its `in_sync`, at little cost, but for a switchover that is stuck. */
bool engine_is_in_sync(const struct engine *e);

/* A part of it that costs little: for a look a few times a second. */
struct engine_resync engine_resync_view(const struct engine *e);
