/* Making a leg: `lockstep create`. */
#pragma once

#include "repl/node/config.h"

/* Writes fresh metadata on this node's backing. Without `adopt` the leg becomes zeroes; with it, what is there is kept
 * and is the truth. Refuses with -EEXIST a backing that holds metadata, a file system or a partition table, unless told
 * `force`. Blocks; calls `progress`, which may be NULL, from time to time. Needs no running volume, and refuses with
 * -EBUSY a backing that is in use. 0 with a text in `err`: done, and whoever ordered it must know that. */
int volume_create(const struct volume_config *config, bool adopt, bool force,
                  void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes), void *ctx, struct err *err);
