/* Verify: are the two legs really equal? One node walks the volume and compares digests with its peer, whose half is
 * repl/sync/verify_reply.h.
 *
 * While a range is compared, its lock keeps changes away from both legs: what is told to differ does differ, under
 * whatever load. A piece that differs is compared again in smaller ones, down to granules. Pure, like a resync. */
#pragma once

#include "repl/sync/resync.h"

#define VERIFY_PIECE_BYTES (1 * MIB)
#define VERIFY_WINDOWS_MAX 4 /* compared at a time */
#define VERIFY_OP_FIRST SYNC_VERIFY_OP_FIRST
#define VERIFY_REPLY_OP_FIRST (SYNC_VERIFY_OP_FIRST + SYNC_WINDOWS_MAX)
#define VERIFY_ACTIONS_MAX 32 /* that one call can emit, beside those of others who were waiting for a range */
static_assert(SYNC_WINDOWS_MAX + VERIFY_WINDOWS_MAX <= SYNC_VERIFY_OPS, "both halves have operations");

enum verify_finding {
    VERIFY_DIFFERS,
    VERIFY_UNREADABLE_HERE,  /* and could not be mended, although the peer can read it */
    VERIFY_UNREADABLE_THERE, /* this leg can read it */
    VERIFY_UNREADABLE_BOTH,
};

/* A granule, still locked, but for VERIFY_UNREADABLE_HERE: who sets its bit here sets it before any change of that
 * range can complete. */
typedef void verify_found_fn(void *ctx, struct range granule, enum verify_finding finding, struct actions *out);

struct verify;

/* NULL: out of memory. Uses the configuration as a resync does; the bitmap for its sizes only. */
struct verify *verify_open(const struct resync_config *config, verify_found_fn *found, void *ctx);
void verify_close(struct verify *v);

/* With a session up, and both legs in sync. The key is the same on both nodes. All of the volume is compared, also what
 * it grows by before the end. */
void verify_begin(struct verify *v, const struct digest_key *key, uint64_t now_ns, struct actions *out);

/* FRAME_VERIFY_REPLY; takes over the payload's reference. NULL, or what is wrong with it: a constant text. */
const char *verify_frame(struct verify *v, const struct frame *frame, struct buf *payload, uint64_t now_ns,
                         struct actions *out);

/* Application writes flow: one window at a time. */
void verify_set_busy(struct verify *v, bool busy);

/* A granule that only the peer can read is no difference: it waits to be mended. True: here is one, which waits for
 * verify_mended(); one at a time. */
bool verify_wants_mend(struct verify *v, struct range *range);
/* 0: it can be read here again, and is as the peer has it. */
void verify_mended(struct verify *v, int32_t result, uint64_t now_ns, struct actions *out);

/* Operations VERIFY_OP_FIRST ... VERIFY_REPLY_OP_FIRST - 1. */
void verify_disk_done(struct verify *v, uint32_t op, int32_t result, uint64_t now_ns, struct actions *out);
void verify_tick(struct verify *v, uint64_t now_ns, struct actions *out);
uint64_t verify_deadline_ns(const struct verify *v); /* UINT64_MAX: none */

/* The session ended. */
void verify_stop(struct verify *v, struct actions *out);

/* Somebody has had enough; the session goes on. What the peer was asked it will still answer. */
void verify_cancel(struct verify *v, struct actions *out);
bool verify_is_idle(const struct verify *v);

struct verify_view {
    bool running;
    bool done;            /* all of it was compared; until the next beginning */
    uint64_t total_bytes; /* the volume's size, as of the end */
    uint64_t done_bytes;
    uint64_t differing_bytes;
    uint64_t unreadable_bytes; /* and not mended */
    uint64_t mended_bytes;
};
void verify_view(const struct verify *v, struct verify_view *view);
