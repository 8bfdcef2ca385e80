/* The source of a resync: tells which granules may differ, answers the target's questions, clears what is stable.
 *
 * It bounds what a hostile target can make it hold: SYNC_WINDOWS_MAX questions, of which each is a window's buffer and
 * ranges at the most, and a record of SYNC_UNSTABLE_WINDOWS_MAX answers. */
#pragma once

#include "repl/sync/resync.h"

struct resync_source;

/* NULL: out of memory. */
struct resync_source *resync_source_open(const struct resync_config *config);

/* What is with the disk is forgotten: no answer may come any more. */
void resync_source_close(struct resync_source *s);

/* A session is up in which the peer's leg is the target, which lacks nothing but what either bitmap says. From now on
 * until resync_source_stop(), every change of the application's goes to the peer before its range is unlocked.
 * `reads_count`: what this leg's disk shows is what it has, or will have after a flush; else all that is read for an
 * answer is written back before. */
void resync_source_begin(struct resync_source *s, const struct digest_key *key, bool reads_count, uint64_t now_ns,
                         struct actions *out);

/* FRAME_SYNC_ASK, _STABLE, _DONE; takes over the payload's reference. NULL, or what is wrong with it: a constant text.
 */
const char *resync_source_frame(struct resync_source *s, const struct frame *frame, struct buf *payload,
                                uint64_t now_ns, struct actions *out);

/* Do application writes flow? The target then asks for one window at a time. */
void resync_source_set_busy(struct resync_source *s, bool busy);

/* Answers to operations from SYNC_SOURCE_OP_FIRST on, RESYNC_OPS of them; also to those of earlier sessions. False:
 * more of the same window are with the disk, and nothing has become possible but for whom a range was given to. */
bool resync_source_disk_done(struct resync_source *s, uint32_t op, int32_t result, uint64_t now_ns,
                             struct actions *out);

/* The deadline has come, or something that may have freed buffers. */
void resync_source_tick(struct resync_source *s, uint64_t now_ns, struct actions *out);
uint64_t resync_source_deadline_ns(const struct resync_source *s); /* UINT64_MAX: none */

/* To be called before bits are set for a reason of their own, such as a write that the target's disk refused: no answer
 * given before clears them then. Not needed for changes that reach both legs. */
void resync_source_stop(struct resync_source *s, struct actions *out);

/* Nothing of it is with the disk. */
bool resync_source_is_idle(const struct resync_source *s);

/* Costs little: for a look after each step. RESYNC_DONE: time for the decree that takes the target in. RESYNC_FAILED
 * stays until the next beginning. */
enum resync_state resync_source_state(const struct resync_source *s);
void resync_source_view(const struct resync_source *s, struct resync_view *view);
