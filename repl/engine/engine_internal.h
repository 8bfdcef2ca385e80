/* What the engine's files share. */
#pragma once

#include "repl/core/range_lock.h"
#include "repl/engine/engine.h"
#include "repl/mirror/mirror.h"
#include "repl/role/role.h"
#include "repl/sync/handshake.h"

/* The engine's own operations, beside the mirror's. */
#define OP_OWN_FLUSH UINT32_MAX
#define TAG_DECREE UINT32_MAX

enum session_phase {
    SESSION_NONE,
    SESSION_JUDGED, /* accepted; what that changes is being persisted */
    SESSION_READY,  /* the peer was told */
    SESSION_UP,
    SESSION_ENDING, /* refused or dropped: EV_SESSION_DOWN is on its way */
};

struct engine {
    struct engine_config config;
    struct range_locks locks;
    struct mirror *mirror;
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
    uint64_t said_epoch; /* in our latest hello */
    bool session_was_up;
    bool peer_ready;  /* the mirror may send */
    bool decree_owed; /* the peer waits for our acknowledgement of its decree */
    uint64_t decree_epoch;
    enum leg_state peer_leg;       /* as last known */
    uint32_t peer_block_bytes;     /* likewise */
    uint32_t served_block_bytes;   /* what clients are told while we serve */
    uint64_t asked_epoch;          /* PHASE_ASKING: that the peer is to agree to */
    bool promote_force;            /* the promotion under way is to overcome what stands against it */
    char refused[SYNC_TEXT_BYTES]; /* the last refusal, so that each is told once */
    bool refused_a_primary;        /* the last hello was a primary's, and no session came of it */

    bool untouched;  /* the leg was zeroes when it was attached */
    bool leg_failed; /* in this attachment */
    bool own_flush_busy;
    bool own_flushed;      /* since the leg became idle for an ending */
    bool draining_primary; /* DETACHING from primary: the peer is still needed */
    void *orders[ENGINE_ORDERS_MAX];
    unsigned order_count;

    bool was_in_sync;
    char why_not[SYNC_TEXT_BYTES];
};

static inline enum leg_state own_leg(const struct engine *e) { return e->leg_failed ? LEG_FAILED : e->sb.leg; }

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

#define TEXT_BROKEN "the superblock could not be written; see the log"

/* engine.c */
const char *engine_why_not(struct engine *e);

/* engine_session.c */
void session_drop(struct engine *e, const char *text, struct actions *out);
void session_on_hello(struct engine *e, const struct hello *peer, struct actions *out);
void session_on_up(struct engine *e, struct actions *out);
void session_on_down(struct engine *e, struct actions *out);
void session_on_frame(struct engine *e, const struct frame *frame, struct buf *payload, struct actions *out);

/* engine_decree.c */
void decree_send(enum frame_kind kind, uint64_t epoch, uint16_t status, struct actions *out);
void decree_step_down(struct engine *e, struct actions *out);
void decree_on_ask(struct engine *e, const struct frame *frame, struct actions *out);
void decree_take(struct engine *e, uint64_t epoch, struct actions *out);
void decree_on_answer(struct engine *e, const struct frame *frame, struct actions *out);

/* engine_order.c */
void orders_finish(struct engine *e, int32_t result, const char *text, struct actions *out);
void order_promote(struct engine *e, bool force, void *cookie, struct actions *out);
void order_demote(struct engine *e, bool force, void *cookie, struct actions *out);
void order_detach(struct engine *e, bool force, void *cookie, struct actions *out);
bool engine_is_pristine(const struct engine *e);
void orders_carry_out(struct engine *e, struct actions *out);

/* engine_leg.c */
void superblock_write_if_wanted(struct engine *e, struct actions *out);
void faults_handle(struct engine *e, struct mirror_faults faults, struct actions *out);
void superblock_on_written(struct engine *e, int32_t result, struct actions *out);
