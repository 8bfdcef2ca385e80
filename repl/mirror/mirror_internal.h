/* What the mirror's files share. */
#pragma once

#include "repl/core/range_lock.h"
#include "repl/mirror/mirror.h"

enum local_progress {
    LOCAL_LOCKING, /* waits for its range */
    LOCAL_PENDING, /* with the disk */
    LOCAL_DONE,
    LOCAL_FAILED,
};

enum remote_progress {
    REMOTE_NONE,   /* no peer is configured, the change has not got its range yet, or the local disk may refuse it */
    REMOTE_QUEUED, /* to be sent, when there is a session and room in its window */
    REMOTE_SENT,
    REMOTE_DONE,
};

/* A change or flush of the primary, from request to completion. */
struct change {
    struct request request;
    struct range_lock lock; /* unused by flushes */
    struct list live;       /* all in flight, in LSN order; or the free list */
    struct list queue;      /* among those to be sent, in LSN order */
    uint64_t lsn;           /* of a flush: the last one given before it */
    uint64_t since_ns;
    bool in_use;
    enum local_progress local;
    enum remote_progress remote;
    int32_t result; /* the first failure */
};

struct read {
    struct request request;
    struct range_lock lock;
    struct list free;
    bool waiting; /* for its range */
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

struct mirror {
    const char *backing;
    const char *peer;
    uint64_t size_bytes;
    uint64_t lsn;
    struct range_locks *locks; /* of the volume */
    struct mirror_faults faults;
    bool leg_failed;
    bool completed_any;

    struct list changes_live;
    struct list changes_free;
    struct list send_queue;
    bool sending;     /* a session is up and takes changes */
    uint64_t session; /* counts sessions: an acknowledgement belongs to the one its change came in */
    uint64_t epoch;
    uint32_t sent_frames; /* not yet acknowledged */
    uint64_t sent_bytes;
    uint32_t window_frames;
    uint64_t window_bytes;

    struct list reads_free;
    uint32_t reads_busy;
    struct list peer_live;
    struct list peer_free;

    struct change changes[MIRROR_CHANGES_MAX];
    struct read reads[MIRROR_READS_MAX];
    struct peer_change peer_changes[MIRROR_PEER_CHANGES_MAX];
};

/* Operations towards the disk are numbered: changes first, then reads, then peer changes. */
#define OP_FIRST_READ MIRROR_CHANGES_MAX
#define OP_FIRST_PEER_CHANGE (OP_FIRST_READ + MIRROR_READS_MAX)
#define OP_END (OP_FIRST_PEER_CHANGE + MIRROR_PEER_CHANGES_MAX)

void change_request(struct mirror *m, const struct request *request, uint64_t now_ns, struct actions *out);
void change_granted(struct mirror *m, struct change *c, struct actions *out);
void change_disk_done(struct mirror *m, struct change *c, int32_t result, struct actions *out);

void read_request(struct mirror *m, const struct request *request, struct actions *out);
void read_granted(struct mirror *m, struct read *r, struct actions *out);
void read_disk_done(struct mirror *m, struct read *r, int32_t result, struct actions *out);
void reads_fail_waiting(struct mirror *m, int32_t result, struct actions *out);

void peer_change_granted(struct mirror *m, struct peer_change *p, struct actions *out);
void peer_change_disk_done(struct mirror *m, struct peer_change *p, int32_t result, struct actions *out);
void peer_changes_forget_unstarted(struct mirror *m, struct actions *out);

/* A change or flush failed on the local disk: our own, or one of the peer's. */
void mirror_local_failure(struct mirror *m, bool durable, bool own);
