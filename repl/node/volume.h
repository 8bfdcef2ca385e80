/* A volume that runs on this node: one thread, one ring, one engine, and what carries the engine's actions out. */
#pragma once

#include "repl/core/verify_places.h"
#include "repl/node/config.h"
#include "repl/node/volume_host.h"

struct volume;

/* Attaches the leg and starts the thread; returns when the volume listens, or NULL with `err` set (err->code -ENOENT:
 * not created yet). Config and host are copied; what host->ctx points to outlives the volume. May block for seconds. */
struct volume *volume_start(const struct volume_config *config, const struct volume_host *host, struct err *err);

enum volume_order {
    VOLUME_PROMOTE,
    VOLUME_DEMOTE,
    VOLUME_VERIFY,     /* compare both legs; `force`: and resync what differs. -EILSEQ: they differ */
    VOLUME_RESIZE,     /* grow as far as both legs have room */
    VOLUME_RESOLVE,    /* by volume_resolve() */
    VOLUME_SWITCHOVER, /* with a witness: the node that does not serve takes over */
    VOLUME_ADOPT,      /* with a witness: this primary's decree is put over one that is older */
    VOLUME_DETACH,     /* drain, flush, mark clean; then volume_stop() */
};

/* Gives an operator's order, from any thread. `done` is called once, on the volume's thread: 0; -EPERM: refused, as it
 * would risk data; -EBUSY: not now; -ENOTCONN: the peer is out of reach; other negative errnos: failed. `text` says
 * why, in one sentence; NULL when done. */
void volume_order(struct volume *v, enum volume_order order, bool force,
                  void (*done)(void *ctx, int result, const char *text), void *ctx);

/* The same: what this leg has and the peer's has not is kept in the file `keep`, a name of less than CONFIG_PATH_BYTES,
 * then given up; by force also if some of it cannot be read. */
void volume_resolve(struct volume *v, const char *keep, bool force,
                    void (*done)(void *ctx, int result, const char *text), void *ctx);

/* There is such a file, whole, whatever else came of the order. Only within its `done`. */
bool volume_has_kept(const struct volume *v);

/* Where the verify that has just ended with -EILSEQ found differences. Only within the `done` of its order. */
void volume_verify_places(struct volume *v, struct verify_places *out);

/* From one thread, not the volume's: waits until the volume's thread has answered, or a second at most. Then it gives
 * the latest snapshot, but for `is_protected` and `why_not`, and waits no more until there was an answer. */
void volume_status(struct volume *v, struct volume_status *out);

/* Detaches, if that was not done yet, letting writes fail that wait for the peer; then ends the thread and frees the
 * volume. Takes as long as the disk does: who cannot wait ends the process, which the leg will remember as unclean. */
void volume_stop(struct volume *v);
