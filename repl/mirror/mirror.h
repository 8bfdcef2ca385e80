/* The mirror: every change on both legs, every read from the local one. Pure.
 *
 * On the primary, a change (write, discard, write-zeroes) takes its LSN, locks its range, goes to the peer and to the
 * local disk at the same time, and completes when both have it. A flush does the same without a range. On the
 * secondary, a peer change locks its range, goes to the disk, and is acknowledged.
 *
 * It knows nothing of roles, handshakes or promotion: the engine tells it when it may send, and asks it what failed. */
#pragma once

#include "repl/core/action.h"
#include "repl/core/event.h"

#define MIRROR_CHANGES_MAX 1024 /* changes and flushes in flight on the primary */
#define MIRROR_READS_MAX 256
#define MIRROR_PEER_CHANGES_MAX 1024 /* on the secondary: those of the session, and leftovers of earlier ones */

struct mirror;

struct mirror_config {
    const char *backing; /* for notes */
    const char *peer;    /* for notes; NULL: there is none, changes are local only */
    struct range_locks *locks;
    uint64_t lsn; /* the highest that may be in use already */
};

/* Allocates all it will ever need. NULL: out of memory. */
struct mirror *mirror_open(const struct mirror_config *config);
void mirror_close(struct mirror *m);

/* The volume's size: requests and peer changes must lie within. */
void mirror_set_size(struct mirror *m, uint64_t size_bytes);

/* ---- primary ---- */

bool mirror_can_accept(const struct mirror *m, enum op_kind kind);
void mirror_request(struct mirror *m, const struct request *request, uint64_t now_ns, struct actions *out);

/* From now on changes may be sent, at this epoch and within the peer's window. Everything that the peer did not
 * acknowledge in an earlier session is sent again, in LSN order. */
void mirror_peer_ready(struct mirror *m, uint64_t epoch, uint32_t window_frames, uint64_t window_bytes,
                       struct actions *out);

/* The session ended: what was sent and not acknowledged waits to be sent again. Peer changes of the session that were
 * not started yet are forgotten: the peer will send them again. */
void mirror_peer_lost(struct mirror *m, struct actions *out);

/* FRAME_ACK. NULL, or what is wrong with it: a constant text. */
const char *mirror_ack(struct mirror *m, const struct frame *ack, struct actions *out);

/* Completes with `result` (a negative errno) all changes that wait for a peer that is not there, and all reads that
 * wait for such changes. Only without a session. */
void mirror_abandon_waiting(struct mirror *m, int32_t result, struct actions *out);

/* The same for all changes in flight, also those that only the local disk is still busy with. */
void mirror_fail_all(struct mirror *m, int32_t result, struct actions *out);

/* ---- secondary ---- */

/* FRAME_WRITE, _DISCARD, _WRITE_ZEROES, _FLUSH; takes over the payload's reference. NULL, or what is wrong with it. */
const char *mirror_peer_change(struct mirror *m, const struct frame *frame, struct buf *payload, struct actions *out);

/* ---- both ---- */

void mirror_disk_done(struct mirror *m, uint32_t op, int32_t result, struct actions *out);

/* No change, read, flush or peer change is in flight. */
bool mirror_is_idle(const struct mirror *m);

/* What has failed since it was last asked. */
struct mirror_faults {
    bool leg;      /* a change or flush failed on the local disk: from then on no change is acknowledged */
    bool flush;    /* ... and one was a flush or FUA: earlier writes may be lost */
    bool own;      /* ... and one was of this node's own, as primary: the peer's leg may have it */
    bool peer_leg; /* the peer reported the same of its disk */
    bool peer_flush;
};
struct mirror_faults mirror_take_faults(struct mirror *m);
bool mirror_has_faults(const struct mirror *m);

/* The local leg failed for a reason of its own (its metadata): as if a change had failed on it. */
void mirror_fail_leg(struct mirror *m);

struct mirror_view {
    uint64_t lsn;               /* the last given, or applied for the peer */
    uint32_t waiting;           /* changes and flushes that the peer has not acknowledged */
    bool unsettled;             /* a change was begun and is not on both legs yet, or not known to be */
    uint64_t oldest_waiting_ns; /* when the oldest of them came in; 0: none */
    bool completed_any;         /* a change was completed towards the front since open, with whatever result */
};
void mirror_view(const struct mirror *m, struct mirror_view *view);
