/* The engine of one volume on one node: events in, actions out. No I/O, no clock, no allocation after engine_open().
 *
 * It routes each event to the part that knows: mirror (writes, reads, flushes, the peer's writes), sync (may these two
 * legs go on together?), role (who may serve). The shell around it (repl/node, or the simulator) does everything else.
 */
#pragma once

#include "repl/core/action.h"
#include "repl/core/event.h"
#include "repl/mirror/mirror.h"

struct engine;

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
    struct superblock superblock; /* as engine_attach() left it and as it lies on disk now */
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
    enum leg_state leg;
    bool session_up;
    enum leg_state peer_leg;    /* as last known */
    bool in_sync;               /* every acknowledged write is on two up-to-date legs */
    const char *why_not;        /* NULL when in_sync; else in words what is missing */
    uint32_t writes_waiting;    /* changes and flushes that wait for the peer */
    uint64_t oldest_waiting_ns; /* when the oldest of them came in; 0: none */
};

#define ENGINE_ORDERS_MAX 16 /* operators' orders under way; more are refused */

/* Actions that one engine_step() can emit at the most (each operation in flight at most two, and some of its own), and
 * the room for their text. */
#define ENGINE_ACTIONS_MAX (2 * MIRROR_OPS + 64)
#define ENGINE_TEXT_BYTES (16 * KIB)

/* Allocates all it will ever need. NULL: out of memory. */
struct engine *engine_open(const struct engine_config *config);
void engine_close(struct engine *e);

void engine_step(struct engine *e, const struct event *ev, struct actions *out);

/* True while one more EV_REQUEST of this kind may be given; else the front waits until something completes. */
bool engine_can_accept(const struct engine *e, enum op_kind kind);

/* What this node says of itself on a new connection. The engine remembers that it was said. */
void engine_hello(struct engine *e, struct hello *out);

void engine_view(struct engine *e, struct engine_view *out);
