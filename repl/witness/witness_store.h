/* Where the embedded witness keeps decrees, and the ages of legs: one SQLite database in a directory of its own.
 * Belongs to one thread.
 *
 * The journal is a write-ahead log with synchronous=FULL: a commit is on stable storage when it returns, by one fsync
 * of the log. (With a rollback journal it would not be: the commit is the removal of that file, and FULL does not sync
 * the directory.) The database is opened exclusively, so that the log's index lies in memory and nobody else writes.
 *
 * What has gone wrong is never guessed at: after a failed write of which it is not certain that it left nothing behind,
 * the store is broken, and is to be closed and opened anew; what stands then, stands. Ages are
 * no decrees: they are put by themselves, and what goes wrong with them is told, and breaks nothing. */
#pragma once

#include "repl/base/err.h"
#include "repl/core/decree.h"

#define WITNESS_SCHEMA 2
#define WITNESS_VOLUMES_MAX 4096
#define WITNESS_HISTORY_AT_ONCE 64
#define WITNESS_DATABASE "witness.db"

/* A decree as the history has it. */
struct witness_entry {
    struct decree decree;
    uint64_t time_us; /* since 1970, UTC; by the witness's clock */
    char asker[NAME_BYTES_MAX];
    char note[REGISTER_REASON_BYTES];
};

struct witness_store;

/* Locks the directory, which is made if it does not exist, and opens the database in it. A missing one is made anew,
 * and *is_new set: if the nodes know better, they say so. One of an older version is upgraded in place, in one commit.
 * One that is damaged, of a newer version or none at all is refused. Returns 0, or a negative errno with a sentence
 * that says what to do. */
int witness_store_open(struct witness_store **out, const char *directory, bool *is_new, struct err *err);
void witness_store_close(struct witness_store *s);

/* Calls `volume` for each that is stored. 0, or a negative errno: an entry that cannot be is a damaged database. */
int witness_store_load(struct witness_store *s,
                       void (*volume)(void *ctx, const char *name, struct id volume_id, const struct decree *decree,
                                      uint64_t time_us),
                       void *ctx, struct err *err);

/* Calls `age` for each leg's age that is stored, in the order in which they grew. As witness_store_load(). */
int witness_store_load_ages(struct witness_store *s,
                            bool (*age)(void *ctx, const char *volume, const char *node, uint64_t age), void *ctx,
                            struct err *err);

/* Puts one decree in place of the one before it, `expected_epoch` and `expected_tag` (0: none), within a transaction
 * that the first call begins. -EAGAIN: the database has another one: somebody else has written to it. */
int witness_store_put(struct witness_store *s, const char *volume, struct id volume_id, uint64_t expected_epoch,
                      uint64_t expected_tag, const struct witness_entry *entry, struct err *err);

/* Commits what was put; 0: it is on stable storage. Else, as after a put that failed, nothing of it was carried out if
 * the store is not broken, and if it is, the next one to open it knows. */
int witness_store_commit(struct witness_store *s, struct err *err);
void witness_store_rollback(struct witness_store *s);
bool witness_store_is_broken(const struct witness_store *s);

/* Writes without changing anything, to stable storage; no other transaction is under way. 0: a decree could be put now.
 * Else as witness_store_put_ages(). */
int witness_store_try(struct witness_store *s, struct err *err);

/* An age that is to be stored: `node`'s, of the leg that it has of `volume`, whose decree is stored. */
struct witness_age {
    const char *volume;
    const char *node;
    uint64_t age;
};

/* Stores ages in a transaction of their own; no other is under way. Of each volume the REGISTER_TOLD_MAX that grew last
 * are kept. 0: they are on stable storage. Else none of them counts (a disk that failed may have them nonetheless), and
 * decrees can be put as before, unless the store is broken: SQLite cannot even roll back. */
int witness_store_put_ages(struct witness_store *s, const struct witness_age *ages, unsigned count, struct err *err);

/* Forgets the volume's decree, and its ages; its history stays. In a transaction of its own. */
int witness_store_forget(struct witness_store *s, const char *volume, struct err *err);

/* The decrees before `before` (0: from the last), newest first, at most WITNESS_HISTORY_AT_ONCE. `before` counts
 * decrees of the whole database in the order in which they were made; it is set for the next call, 0 at the end. */
int witness_store_history(struct witness_store *s, const char *volume, uint64_t *before,
                          struct witness_entry entries[WITNESS_HISTORY_AT_ONCE], unsigned *count, struct err *err);
