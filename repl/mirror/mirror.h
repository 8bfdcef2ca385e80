/* The mirror: every change on both legs, every read from the local one. Pure.
 *
 * On the primary, a change (write, discard, write-zeroes) takes its LSN, locks its range, enters the activity log, goes
 * to the peer and to the local disk at the same time, and completes when both have it. A flush does the same without
 * a range. On the secondary, a peer change locks its range, goes to the disk, and is acknowledged.
 *
 * When one leg has left the in-sync set, changes complete with the other one: alone (without the peer; what it lacks is
 * marked in the bitmap) or diskless (without the own leg; reads are the peer's, too).
 *
 * It knows nothing of roles, handshakes or decrees: the engine tells it when it may send and who is in sync, carries
 * out commits of the activity log, and asks what failed. */
#pragma once

#include "repl/base/range.h"
#include "repl/core/action.h"
#include "repl/core/event.h"

#define MIRROR_CHANGES_MAX 1024      /* changes and flushes in flight on the primary */
#define MIRROR_READS_MAX 256         /* one of them is mirror_mend()'s */
#define MIRROR_PEER_CHANGES_MAX 1024 /* on the secondary: those of the session, and leftovers of earlier ones */

#define MIRROR_PEER_READS_READING_MAX 16 /* on the secondary, with memory, of any session: the others wait */
/* As many as a primary has, and leftovers of earlier sessions, which are with the disk. */
#define MIRROR_PEER_READS_MAX (MIRROR_READS_MAX + MIRROR_PEER_READS_READING_MAX)
#define MIRROR_UNFLUSHED_MAX 65536 /* changes that the peer may lose with its power; 16 bytes each */

/* Operations towards the disk have numbers below this one. */
#define MIRROR_OPS (MIRROR_CHANGES_MAX + 1 + MIRROR_READS_MAX + MIRROR_PEER_CHANGES_MAX + MIRROR_PEER_READS_MAX)

struct activity_log;
struct bitmap;
struct mirror;

struct mirror_config {
    const char *backing; /* for notes */
    const char *peer;    /* for notes; NULL: there is none, changes are local only */
    struct range_locks *locks;
    uint64_t lsn;            /* the highest that may be in use already */
    struct activity_log *al; /* NULL: changes do not wait for one */
    struct bitmap *bitmap;   /* NULL: nothing is marked, and no unflushed set is kept */
    struct buf_pool *pool;   /* for what the peer reads here; NULL: it may not */
    size_t pool_keep_free_bytes;
    uint32_t unflushed_max; /* a power of two; 0: MIRROR_UNFLUSHED_MAX. Less only in tests */
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
 * acknowledge in an earlier session is sent again, in LSN order. Ends going alone: new changes complete when both legs
 * have them; what was begun alone is never sent. A peer that has lost its power since it was last ready: first
 * mirror_unflushed_to_bitmap(). */
void mirror_peer_ready(struct mirror *m, uint64_t epoch, uint32_t window_frames, uint64_t window_bytes,
                       struct actions *out);

/* A new term as primary begins: nothing is sent before the next mirror_peer_ready(), as the peer does not know of it
 * yet, and nothing completes with the local leg alone before the next mirror_go_alone(), whatever an earlier term came
 * to. Nothing may be on its way to the peer. */
void mirror_peer_hold(struct mirror *m);

/* LSNs that this node gives from now on are above `lsn`. */
void mirror_raise_lsn(struct mirror *m, uint64_t lsn);

/* Changes that are sent from now on belong to another epoch of the same primary. */
void mirror_set_epoch(struct mirror *m, uint64_t epoch);

/* The session ended: what was sent and not acknowledged waits to be sent again. Peer changes of the session that were
 * not started yet are forgotten: the peer will send them again. */
void mirror_peer_lost(struct mirror *m, struct actions *out);

/* FRAME_ACK. NULL, or what is wrong with it: a constant text. */
const char *mirror_ack(struct mirror *m, const struct frame *ack, struct actions *out);

/* ---- the activity log (mirror_config.al) ----
 *
 * The engine carries out the log's commits. After each step in which changes came in or ended: al_commit_begin(), if
 * mirror_wants_log(); and mirror_flush(), if mirror_wants_flush(). */

/* A change waits for its extents, or what mends a read does. Costs nothing. */
bool mirror_wants_log(const struct mirror *m);

/* Asked after each event of the write path, and cheap: something is to be done that only the engine can do: handle a
 * fault, commit, flush. What waits for a commit or flush that is under way is looked at when that is done. */
bool mirror_needs_engine(const struct mirror *m, bool log_is_idle);

/* To be called right after each al_commit_done(), before anything else of the mirror: those that wait ask again, the
 * oldest first. */
void mirror_log_committed(struct mirror *m, struct actions *out);

/* Something waits for the log or for a place in the unflushed set, and a flush of both legs is needed for that, or will
 * be soon. */
bool mirror_log_stuck(const struct mirror *m);

/* ---- own flushes, and the unflushed set ---- */

/* Someone waits for a flush, or will soon; none of our own is under way, and one could succeed. */
bool mirror_wants_flush(const struct mirror *m);

/* Flushes as an application's flush does (alone: this leg only), and completes to nobody. Nothing happens while one is
 * under way, without a session to a peer that counts, or with a failed leg. A session that ends, ends it. A failure is
 * told by mirror_take_faults(), as any flush's. */
void mirror_flush(struct mirror *m, uint64_t now_ns, struct actions *out);

/* What the peer has acknowledged since the last flush becomes set bits: it may lack it, because it lost its power. */
void mirror_unflushed_to_bitmap(struct mirror *m);

/* ---- one leg ---- */

/* Only without a session, when it is on stable storage that the peer is not in the in-sync set: until the next
 * mirror_peer_ready() changes and flushes complete with the local leg. What the peer may lack has its bits set before:
 * what it has not flushed, what was on its way to it, and of each later change before the local disk is written. A
 * primary that comes up alone calls this before its first request. */
void mirror_go_alone(struct mirror *m, struct actions *out);

/* The peer is connected and up to date. While it is so, read errors are masked: the peer is asked, and what it sends is
 * also written back. The end of the session sets it to false. */
void mirror_set_peer_readable(struct mirror *m, bool readable, struct actions *out);

/* The peer's leg, connected now or not, holds every acknowledged change and may become the only one. While it is so, a
 * failure of the own leg fails nobody: from then on nothing completes, but for reads that the own leg can still answer,
 * before mirror_set_local(). A read that the own leg cannot answer waits for the peer as a change does; after a failed
 * flush all do: the disk may have dropped what it had not written, and show what was there before. False fails what
 * waits for that, but for reads that can have what the leg shows. */
void mirror_set_replaceable(struct mirror *m, bool replaceable, struct actions *out);

/* False: it is on stable storage (the peer's) that the own leg is not in the in-sync set: changes and flushes complete
 * with the peer alone, and reads are sent to it; all of them wait when it is lost. True, only while idle: the own leg
 * is in use again. */
void mirror_set_local(struct mirror *m, bool local, struct actions *out);

/* Reads a range of the own leg as an application would, for nobody: what cannot be read comes from the peer, and is
 * written back. At most IO_BYTES_MAX. False: one is under way, or there is no memory. */
bool mirror_mend(struct mirror *m, struct range range, struct actions *out);

/* True once, when it is over. 0: the range can be read here again; else the errno that stands. */
bool mirror_mend_over(struct mirror *m, int32_t *result);

/* FRAME_READ_DATA; takes over the payload's reference. NULL, or what is wrong with it: a constant text. */
const char *mirror_read_data(struct mirror *m, const struct frame *frame, struct buf *payload, struct actions *out);

/* Completes with `result` (a negative errno) all changes that wait for a peer that is not there, and all reads that
 * wait for such changes, or for the peer. Only without a session. */
void mirror_abandon_waiting(struct mirror *m, int32_t result, struct actions *out);

/* The same for all changes in flight, also those that only the local disk is still busy with. */
void mirror_fail_all(struct mirror *m, int32_t result, struct actions *out);

/* ---- secondary ---- */

/* FRAME_WRITE, _DISCARD, _WRITE_ZEROES, _FLUSH; takes over the payload's reference. NULL, or what is wrong with it. */
const char *mirror_peer_change(struct mirror *m, const struct frame *frame, struct buf *payload, struct actions *out);

/* FRAME_READ. NULL, or what is wrong with it. Answered with FRAME_READ_DATA. */
const char *mirror_peer_read(struct mirror *m, const struct frame *frame, struct actions *out);

/* The peer's reads wait for memory; to be tried again when buffers came back to the pool. */
bool mirror_wants_memory(const struct mirror *m);
void mirror_memory_came_back(struct mirror *m, struct actions *out);

/* ---- both ---- */

void mirror_disk_done(struct mirror *m, uint32_t op, int32_t result, struct actions *out);

/* No change, read, flush or peer change is in flight. */
bool mirror_is_idle(const struct mirror *m);

/* What the oldest change or flush of the application's waits for. */
enum mirror_wait { WAIT_NOTHING, WAIT_RANGE, WAIT_LOG, WAIT_DISK, WAIT_PEER };
/* `since_ns`: when it came in; untouched with WAIT_NOTHING. */
enum mirror_wait mirror_oldest(const struct mirror *m, uint64_t *since_ns);

/* Without a session: a change is in flight that the peer has acknowledged, and completes as soon as this leg's disk has
 * it. When none is, and this node does not go on alone, nothing is acknowledged before the next session. */
bool mirror_completes_yet(const struct mirror *m);

/* Reads that get their range while this is so wait until it is over, as a change waits for the peer: another node may
 * be serving, and what they would show may be old (docs/FAILOVER.md, "Reads"). */
void mirror_hold_reads(struct mirror *m, bool hold, struct actions *out);

/* What has failed since it was last asked. */
struct mirror_faults {
    bool leg;      /* a change or flush failed on the local disk: from then on no change is acknowledged */
    bool flush;    /* ... and one was a flush or FUA: earlier writes may be lost */
    bool own;      /* ... and one was of this node's own, as primary: the peer's leg may have it */
    bool unheard;  /* ... and one was the peer's, of an earlier session: no acknowledgement tells it */
    bool peer_leg; /* the peer reported the same of its disk */
    bool peer_flush;
};
struct mirror_faults mirror_take_faults(struct mirror *m);
bool mirror_has_faults(const struct mirror *m);

/* The local leg failed for a reason of its own (its metadata, a commit of the activity log): as if a change had failed
 * on it, but that mirror_take_faults() does not tell. Nothing that waits reaches a disk. `out`: may be NULL while
 * nothing is in flight. */
void mirror_fail_leg(struct mirror *m, struct actions *out);

struct mirror_view {
    uint64_t lsn;               /* the last given, or applied for the peer */
    uint32_t waiting;           /* changes and flushes that need the peer, and that it has not acknowledged */
    uint32_t reads_waiting;     /* reads that wait for a peer that is not there */
    bool undecided;             /* changes wait for what becomes of a failed leg: see mirror_set_replaceable() */
    uint32_t logging;           /* changes that wait for the activity log, or a flush, or a decision */
    bool unsettled;             /* a change was begun and is not on both legs yet, or not known to be */
    uint64_t oldest_waiting_ns; /* when the oldest of them came in; 0: none */
    bool completed_any;         /* a change was completed towards the front since open, with whatever result */
    bool alone;
    bool diskless;
    uint32_t unflushed;      /* changes that the peer has acknowledged since the last flush */
    uint64_t reads_masked;   /* that the own leg failed, and the peer did not, since open */
    uint64_t repairs_failed; /* of these: could not be written back */
};
void mirror_view(const struct mirror *m, struct mirror_view *view);
