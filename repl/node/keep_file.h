/* Writes a file of kept blocks (repl/meta/kept_disk.h). Blocks its thread.
 *
 * It is written beside its name, as NAME.partial, and gets its name when all of it is on stable storage: what has the
 * name is whole. A partial one that a crash has left is written over by the next that is to have this name; whatever
 * else is called so is left alone. */
#pragma once

#include "repl/base/err.h"
#include "repl/core/keep.h"

struct keep_file;

/* NULL with `err` set: -EEXIST: something has the name, or that of the partial one; -ENOSPC: no room for
 * info->bytes_max, or for `held_bytes`, all that the backing holds (UINT64_MAX: not known), if that is less. */
struct keep_file *keep_file_open(const char *path, const struct keep_info *info, uint64_t held_bytes, struct err *err);

/* `data`: what the pieces' offsets point into. After an error only keep_file_drop() may follow. */
int keep_file_add(struct keep_file *f, const struct keep_piece *pieces, uint32_t count, const uint8_t *data,
                  struct err *err);

/* On stable storage, under its name; frees it. After an error only keep_file_drop() may follow, and it is not freed. */
int keep_file_end(struct keep_file *f, struct err *err);

/* Away with it; frees it. */
void keep_file_drop(struct keep_file *f);
