/* What both machines of a resync share with their owner: configuration, key, state, progress.
 *
 * The target asks, window by window, for all granules that either leg's bitmap has set; the source answers each with
 * "equal" (by digest), data or zeroes; the target writes, flushes, and says what is stable; the source flushes, clears,
 * and says so; the target clears. The order of locks and frames that keeps this right beside application writes is
 * argued in docs/RECOVERY.md, "Resync".
 *
 * Pure: driven by frames, disk results, granted locks and ticks; emits ACT_DISK, ACT_SEND and ACT_NOTE; allocates at
 * open only. Each machine may be open without a session; begin and stop follow the sessions. A request that is with the
 * disk when its session ends keeps its buffer and its range until the disk has answered, across sessions. */
#pragma once

#include "repl/base/digest.h"
#include "repl/core/action.h"
#include "repl/core/range_lock.h"
#include "repl/meta/bitmap.h"

/* Operations towards the disk are numbered from here on, far above the mirror's. */
#define SYNC_OP_FIRST (UINT32_C(1) << 20)
#define RESYNC_OPS (SYNC_WINDOWS_MAX * SYNC_ENTRIES_MAX + 1) /* of one machine: its windows', and a flush */
#define SYNC_TARGET_OP_FIRST SYNC_OP_FIRST
#define SYNC_SOURCE_OP_FIRST (SYNC_TARGET_OP_FIRST + RESYNC_OPS)
#define SYNC_VERIFY_OP_FIRST (SYNC_SOURCE_OP_FIRST + RESYNC_OPS)
#define SYNC_VERIFY_OPS 16
#define SYNC_OP_END (SYNC_VERIFY_OP_FIRST + SYNC_VERIFY_OPS)

/* Actions that one call of a machine can emit at the most, beside those that a range given back lets others emit. */
#define RESYNC_ACTIONS_MAX (RESYNC_OPS + 128)

/* Longer granules do not fit a window. */
#define RESYNC_GRANULE_BYTES_MAX (256 * KIB)
static_assert(GRANULE_BYTES_MAX <= RESYNC_GRANULE_BYTES_MAX, "any bitmap can be resynced");

struct resync_config {
    const char *backing; /* for notes; the strings live as long as the machine */
    const char *peer;    /* for notes */
    struct range_locks *locks;
    struct bitmap *bitmap; /* of this leg; both legs' have the same size and granules */
    struct buf_pool *pool;
    size_t keep_free_bytes; /* what a resync leaves of the pool for writes and the link */
    uint32_t window_bytes;  /* whole granules that a target asks for at a time, and then flushes. 0:
                               SYNC_WINDOW_BYTES_MAX,  and it flushes now and then. Less only in tests */
    uint64_t bytes_per_s;   /* that a target asks for, or a verify compares, at the most; 0: no limit */
};

/* Of the two hellos' nonces: the same on both nodes. */
struct digest_key resync_key(const uint8_t source_nonce[32], const uint8_t target_nonce[32]);

enum resync_state {
    RESYNC_IDLE, /* no session */
    RESYNC_RUNNING,
    RESYNC_UNREADABLE, /* all is done but for what the source cannot read; it is tried again from time to time */
    RESYNC_DONE,       /* both legs are equal, and stable, wherever bits are clear, and all of them are */
    RESYNC_AGAIN,      /* source: the target is done, but bits were set meanwhile: only a new session gets them over */
    RESYNC_FAILED,     /* this leg could not be written or flushed: it has failed */
};

struct resync_view {
    enum resync_state state;
    uint64_t done_bytes; /* of the whole resync, on both sides alike */
    uint64_t total_bytes;
    uint64_t unreadable_bytes; /* target: of which no content could be had when they were last asked for; source: that
                                  it has answered so in this session, some more than once */
    uint64_t unreadable_offset_bytes; /* the last of them */
    uint64_t equal_bytes;             /* in this session: found equal by digest, */
    uint64_t data_bytes;              /* sent, */
    uint64_t zero_bytes;              /* sent as zeroes without data */
};
