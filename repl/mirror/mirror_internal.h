/* What the mirror's files share. */
#pragma once

#include "repl/core/range_lock.h"
#include "repl/mirror/mirror.h"

enum local_progress {
    LOCAL_LOCKING, /* waits for its range */
    LOCAL_LOGGING, /* has it, and waits for the activity log, for a flush, or for what becomes of a failed leg */
    LOCAL_PENDING, /* with the disk */
    LOCAL_DONE,
    LOCAL_FAILED,
};

enum remote_progress {
    REMOTE_NONE,   /* it is not to go to the peer, it has not started yet, or the local disk may refuse it */
    REMOTE_QUEUED, /* to be sent, when there is a session and room in its window */
    REMOTE_SENT,
    REMOTE_DONE,
};

/* A change or flush of the primary, from request to completion. */
struct change {
    struct request request;
    struct range_lock lock; /* unused by flushes */
    struct list live;       /* all in flight, in LSN order; or the free list */
    struct list queue;      /* among those to be sent, in LSN order; or, LOCAL_LOGGING, among those that wait */
    uint64_t lsn;           /* of a flush: the last one given before it */
    uint64_t since_ns;
    bool in_use;
    enum local_progress local;
    enum remote_progress remote;
    int32_t result; /* the first failure */

    bool started;            /* a leg may have been written */
    bool logged;             /* it is in the activity log */
    bool reserved;           /* it has a place in the unflushed set */
    bool marked;             /* its bits are set, and the peer gets it from a resync */
    uint64_t unflushed_mark; /* of a flush: what was acknowledged before it started */
    uint32_t al_generation;  /* likewise */
};

enum read_state {
    READ_FREE,
    READ_LOCKING, /* waits for its range */
    READ_LOCAL,   /* with the local disk */
    READ_QUEUED,  /* to be sent to the peer, when there is a session */
    READ_HELD,    /* by mirror_hold_reads() */
    READ_SENT,
    READ_LOGGING,   /* completed; what the peer sent waits for the activity log */
    READ_REPAIRING, /* ... and is being written to the local disk */
};

struct read {
    struct request request;
    struct range_lock lock;
    struct list link; /* the free list; or, READ_LOGGING, among those that wait */
    enum read_state state;
    int32_t result;      /* of the local disk */
    bool logged;         /* what mends it is in the activity log */
    struct buf *payload; /* READ_LOGGING, READ_REPAIRING */
};

/* A change or flush that the peer sent. */
struct peer_change {
    struct frame frame;
    struct buf *payload;
    struct range_lock lock;
    struct list live; /* all in flight, in the order of arrival; or the free list */
    uint64_t session;
    bool started; /* with the disk */
};

enum peer_read_state { PEER_READ_FREE, PEER_READ_LOCKING, PEER_READ_WAITING /* for memory */, PEER_READ_READING };

/* A read that the peer sent. */
struct peer_read {
    struct frame frame;
    struct buf *buf; /* PEER_READ_READING */
    struct range_lock lock;
    struct list link; /* the free list; or, PEER_READ_WAITING, in the order of waiting */
    enum peer_read_state state;
    uint64_t session;
};

/* What the peer has acknowledged, and may lose with its power: a ring of exact ranges. Positions only grow. */
struct unflushed {
    struct range *ring;
    uint64_t mask;     /* the ring's length, a power of two, less one */
    uint64_t head;     /* where the next one goes */
    uint64_t tail;     /* the oldest */
    uint32_t reserved; /* places promised to changes in flight */
};

struct mirror {
    const char *backing;
    const char *peer;
    uint64_t size_bytes;
    uint64_t lsn;
    struct range_locks *locks; /* of the volume */
    struct activity_log *al;   /* NULL: nothing is logged */
    struct bitmap *bitmap;     /* NULL: nothing is marked */
    struct buf_pool *pool;     /* for what the peer reads; NULL: it may not */
    size_t pool_keep_free_bytes;
    struct mirror_faults faults;
    bool leg_failed;
    bool reads_lie;     /* ... in a way that may have taken its cache along: what it shows may be what it had before */
    bool local;         /* the own leg is in the in-sync set, and in use by the primary */
    bool alone;         /* changes complete without the peer */
    bool peer_readable; /* it is connected and up to date, and answers what the own leg cannot read */
    bool replaceable;   /* it has everything, and can stand in for the own leg */
    bool reads_held;    /* mirror_hold_reads() */
    bool completed_any;
    uint64_t reads_masked;
    uint64_t repairs_failed;

    struct list changes_live;
    struct list changes_free;
    struct list send_queue;
    struct list log_queue; /* LOCAL_LOGGING, the oldest first */
    struct unflushed unflushed;
    bool sending;     /* a session is up and takes changes */
    uint64_t session; /* counts sessions: an acknowledgement belongs to the one its change came in */
    uint64_t epoch;
    uint32_t sent_frames; /* not yet acknowledged */
    uint64_t sent_bytes;
    uint32_t window_frames;
    uint64_t window_bytes;

    struct list reads_free;
    struct list repair_queue; /* READ_LOGGING, the oldest first */
    uint32_t reads_busy;
    bool mend_over;      /* and nobody has asked yet */
    int32_t mend_result; /* of the one under way, so far; or of the last */
    struct list peer_live;
    struct list peer_free;
    struct list peer_reads_free;
    struct list peer_reads_waiting;
    uint32_t peer_reads_busy;    /* not free */
    uint32_t peer_reads_reading; /* have memory */

    struct change changes[MIRROR_CHANGES_MAX + 1]; /* the last one is our own flush */
    struct read reads[MIRROR_READS_MAX];           /* the last one is mirror_mend()'s */
    struct peer_change peer_changes[MIRROR_PEER_CHANGES_MAX];
    struct peer_read peer_reads[MIRROR_PEER_READS_MAX];
};

/* Operations towards the disk are numbered: changes first, then reads, then what the peer sent. */
#define OP_FIRST_READ (MIRROR_CHANGES_MAX + 1)
#define OP_FIRST_PEER_CHANGE (OP_FIRST_READ + MIRROR_READS_MAX)
#define OP_FIRST_PEER_READ (OP_FIRST_PEER_CHANGE + MIRROR_PEER_CHANGES_MAX)
static_assert(OP_FIRST_PEER_READ + MIRROR_PEER_READS_MAX == MIRROR_OPS, "all of them");

static inline bool change_is_flush(const struct change *c) { return c->request.kind == OP_FLUSH; }

/* Everything that the application was not told is durable yet: a flush or FUA change ends that. */
static inline bool change_is_durable(const struct change *c)
{
    return change_is_flush(c) || (c->request.flags & OP_FLAG_FUA);
}

static inline bool change_is_own_flush(const struct mirror *m, const struct change *c)
{
    return c == &m->changes[MIRROR_CHANGES_MAX];
}

/* The own leg has failed, and the peer can go on for it: what the failure concerns waits for mirror_set_local(). */
static inline bool is_undecided(const struct mirror *m) { return m->local && m->leg_failed && m->replaceable; }

/* Its reads wait for the peer, too: what was acknowledged may not show on the own leg any more. */
static inline bool is_undecided_for_reads(const struct mirror *m) { return is_undecided(m) && m->reads_lie; }

/* change.c */
enum change_event {
    CHANGE_GRANTED,    /* it has its range (a flush needs none) */
    CHANGE_ASKS_AGAIN, /* what it waited for, beside its range, may be there now */
    CHANGE_LOCAL_DONE, /* with `result` */
    CHANGE_ACKED,      /* by the peer, with `result` */
    CHANGE_PEER_LOST,
    CHANGE_UNREPLACED, /* the peer will not stand in for the local leg */
    CHANGE_ALONE,      /* its bits are set: the peer is not waited for */
    CHANGE_LEG_OUT,    /* the local leg has left the in-sync set: the peer has the only one */
    CHANGE_ABANDONED,  /* it has got its result, and will not wait for the peer any longer */
};

/* To every change in flight. */
void changes_step(struct mirror *m, enum change_event event, int32_t result, struct actions *out);
/* What waits for the peer, as far as its window reaches. */
void changes_send(struct mirror *m, struct actions *out);
/* Sets its bits: from now on a resync brings it to the peer. */
void change_mark(struct mirror *m, struct change *c);
void change_request(struct mirror *m, const struct request *request, uint64_t now_ns, struct actions *out);
void change_granted(struct mirror *m, struct change *c, struct actions *out);
void change_ask_again(struct mirror *m, struct change *c, struct actions *out);
void change_disk_done(struct mirror *m, struct change *c, int32_t result, struct actions *out);

/* admission.c */
enum admission { ADMISSION_GO, ADMISSION_WAIT, ADMISSION_REFUSED };
enum admission admission_ask(struct mirror *m, struct change *c);
void admission_over(struct mirror *m, struct change *c);
void admission_retry(struct mirror *m, struct actions *out);

static inline bool anyone_waits(const struct mirror *m)
{
    return !list_empty(&m->log_queue) || !list_empty(&m->repair_queue);
}

/* unflushed.c */
static inline uint64_t unflushed_used(const struct unflushed *u) { return u->head - u->tail; }
static inline bool unflushed_is_half_full(const struct unflushed *u) { return unflushed_used(u) > u->mask / 2; }
static inline bool unflushed_has_room(const struct unflushed *u) { return unflushed_used(u) + u->reserved <= u->mask; }
void unflushed_add(struct unflushed *u, struct range range);
void unflushed_drop(struct unflushed *u, uint64_t mark);

/* read.c */
void read_request(struct mirror *m, const struct request *request, struct actions *out);
void read_granted(struct mirror *m, struct read *r, struct actions *out);
void read_disk_done(struct mirror *m, struct read *r, int32_t result, struct actions *out);
void reads_fail_waiting(struct mirror *m, int32_t result, struct actions *out);
void reads_peer_lost(struct mirror *m, struct actions *out);
void reads_peer_ready(struct mirror *m, struct actions *out);
void reads_retry_repairs(struct mirror *m, struct actions *out);
void reads_released(struct mirror *m, struct actions *out);
void reads_unreplaced(struct mirror *m, struct actions *out);
uint32_t reads_waiting(const struct mirror *m);

/* peer_change.c */
void peer_change_granted(struct mirror *m, struct peer_change *p, struct actions *out);
void peer_change_disk_done(struct mirror *m, struct peer_change *p, int32_t result, struct actions *out);
void peer_changes_forget_unstarted(struct mirror *m, struct actions *out);

/* peer_read.c */
void peer_read_granted(struct mirror *m, struct peer_read *p, struct actions *out);
void peer_read_disk_done(struct mirror *m, struct peer_read *p, int32_t result, struct actions *out);
void peer_reads_forget_unstarted(struct mirror *m, struct actions *out);

/* A change or flush failed on the local disk: our own, or one of the peer's. */
void mirror_local_failure(struct mirror *m, bool durable, bool own);
