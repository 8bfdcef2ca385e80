/* The target of a resync: asks for what may differ, window by window, until nothing does. */
#pragma once

#include "repl/sync/resync.h"

struct resync_target;

/* NULL: out of memory. */
struct resync_target *resync_target_open(const struct resync_config *config);

/* What is with the disk is forgotten: no answer may come any more. */
void resync_target_close(struct resync_target *t);

/* A session is up in which this leg is the target; the source's bits will come. Whatever the peer sends of the
 * application's writes must be applied from now on, also where the legs differ. Bits are set by nobody else until
 * resync_target_stop(), which comes before a new beginning. `reads_count`: what this leg's disk shows is what it has,
 * or will have after a flush; else no digest is made of it, and all that may differ is written. */
void resync_target_begin(struct resync_target *t, const struct digest_key *key, bool reads_count, uint64_t now_ns);

/* FRAME_SYNC_BITS, _DATA, _STABLE; takes over the payload's reference. NULL, or what is wrong with it: a constant
 * text. */
const char *resync_target_frame(struct resync_target *t, const struct frame *frame, struct buf *payload,
                                uint64_t now_ns, struct actions *out);

/* Answers to operations from SYNC_TARGET_OP_FIRST on, RESYNC_OPS of them; also to those of earlier sessions. False:
 * more of the same window are with the disk, and nothing has become possible but for whom a range was given to. */
bool resync_target_disk_done(struct resync_target *t, uint32_t op, int32_t result, uint64_t now_ns,
                             struct actions *out);

/* The deadline has come, or something that may have freed buffers. */
void resync_target_tick(struct resync_target *t, uint64_t now_ns, struct actions *out);
uint64_t resync_target_deadline_ns(const struct resync_target *t); /* UINT64_MAX: none */

/* The session has ended, or this leg has failed. What is not stable is asked for again in the next one. */
void resync_target_stop(struct resync_target *t, struct actions *out);

/* Nothing of it is with the disk. */
bool resync_target_is_idle(const struct resync_target *t);

/* Costs little: for a look after each step. RESYNC_DONE: FRAME_SYNC_DONE was sent. RESYNC_FAILED stays until the next
 * beginning. */
enum resync_state resync_target_state(const struct resync_target *t);
void resync_target_view(const struct resync_target *t, struct resync_view *view);
