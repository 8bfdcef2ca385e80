/* SQLite's files on a disk that fails, or loses its power, when a test says so. Becomes SQLite's default when it is
 * installed. One thread at a time uses SQLite; faulty_vfs_fail() may be another's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

void faulty_vfs_install(void);

/* From the n-th write, sync, truncation or removal on (1: the next), as long as `count` says, SQLite is told `code`
 * (SQLITE_FULL, SQLITE_IOERR_FSYNC, ...). `carried_out`: although it was done. 0: never. */
void faulty_vfs_fail(unsigned from, unsigned count, int code, bool carried_out);

/* Operations since faulty_vfs_fail(), failed ones included. */
unsigned faulty_vfs_operations(void);

/* From now on it is known what is on stable storage: what lies in `directory` now, and what is synced. */
void faulty_vfs_watch(const char *directory);

/* Makes `directory` what a disk may hold whose power was cut now: all that was synced, and of what was written since
 * any part, by `seed`. */
void faulty_vfs_cut(const char *directory, uint64_t seed);
