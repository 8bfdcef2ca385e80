/* Where the embedded witness keeps decrees, and the ages of legs: one SQLite database. */
#include "repl/witness/witness_store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/witness/register_table.h"
#include "repl/witness/witness_codec.h"

#define APPLICATION_ID 0x4c537774 /* "LSwt" */
#define LOCK_FILE "witness.lock"
#define BUSY_MS 1000

#define WAY_BACK "then `lockstep witness adopt` on each primary"

struct witness_store {
    char path[PATH_MAX];
    int lock_fd;
    sqlite3 *db;
    sqlite3_stmt *insert;
    sqlite3_stmt *replace;
    sqlite3_stmt *add;
    sqlite3_stmt *put_age;
    sqlite3_stmt *trim_ages;
    bool in_transaction;
    bool broken;
};

/* Rows are numbered anew when they are replaced: the one that grew last has the highest number. */
#define AGE_TABLE                                                                                                      \
    "CREATE TABLE age ("                                                                                               \
    " number INTEGER PRIMARY KEY, volume TEXT NOT NULL, node TEXT NOT NULL, age INTEGER NOT NULL,"                     \
    " UNIQUE (volume, node)) STRICT;"

static const char schema[] =
    "CREATE TABLE decree ("
    " number INTEGER PRIMARY KEY AUTOINCREMENT,"
    " volume TEXT NOT NULL, volume_id BLOB NOT NULL,"
    " epoch INTEGER NOT NULL, tag INTEGER NOT NULL, cause TEXT NOT NULL, primary_node TEXT NOT NULL,"
    " node_1 TEXT NOT NULL, leg_1 BLOB NOT NULL, node_2 TEXT, leg_2 BLOB,"
    " time_us INTEGER NOT NULL, asker TEXT NOT NULL, note TEXT NOT NULL) STRICT;"
    "CREATE INDEX decree_by_volume ON decree (volume, number);"
    "CREATE TABLE volume ("
    " name TEXT PRIMARY KEY, volume_id BLOB NOT NULL, epoch INTEGER NOT NULL, tag INTEGER NOT NULL,"
    " number INTEGER NOT NULL REFERENCES decree (number)) STRICT, WITHOUT ROWID;" AGE_TABLE;

/* ---- errors ---- */

static int to_errno(int code)
{
    switch (code & 0xff) {
    case SQLITE_FULL: return -ENOSPC;
    case SQLITE_NOMEM: return -ENOMEM;
    case SQLITE_READONLY:
    case SQLITE_PERM: return -EROFS;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return -EBUSY;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT: return -EUCLEAN;
    default: return -EIO;
    }
}

/* What SQLite has complained of, and what to do about it. */
static int say(struct witness_store *s, struct err *err)
{
    int code = s->db ? sqlite3_extended_errcode(s->db) : SQLITE_NOMEM;
    char system[128] = "";
    int number = s->db ? sqlite3_system_errno(s->db) : 0;
    if (number && (code & 0xff) != SQLITE_FULL)
        snprintf(system, sizeof(system), " (%s)", strerror(number));
    const char *what = s->db ? sqlite3_errmsg(s->db) : "out of memory";
    switch (code & 0xff) {
    case SQLITE_FULL:
        return err_set(err, -ENOSPC, "%s: the disk is full: make room; nothing has to be started anew", s->path);
    case SQLITE_NOTADB:
        return err_set(err, -EUCLEAN,
                       "%s: is no database of a witness: move it away, so that a new one is made, " WAY_BACK, s->path);
    case SQLITE_CORRUPT:
        return err_set(err, -EUCLEAN,
                       "%s: is damaged (%s): restore a copy, or move it away, so that a new one is made; " WAY_BACK,
                       s->path, what);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
        return err_set(err, to_errno(code), "%s: cannot be written%s: give lockstepd a directory that it may write to",
                       s->path, system);
    default: return err_set(err, to_errno(code), "%s: %s%s", s->path, what, system);
    }
}

static int damaged(struct witness_store *s, const char *volume, struct err *err)
{
    return err_set(err, -EUCLEAN,
                   "%s: is damaged: what it has of volume %.63s cannot be; restore a copy, or move it away, so that a "
                   "new one is made; " WAY_BACK,
                   s->path, volume);
}

/* ---- opening ---- */

static int lock_directory(struct witness_store *s, const char *directory, struct err *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/" LOCK_FILE, directory) >= (int)sizeof(path))
        return err_set(err, -ENAMETOOLONG, "%.200s: too long a name", directory);
    if (mkdir(directory, 0700) < 0 && errno != EEXIST)
        return err_set(err, -errno, "%s: cannot be made: %s", directory, strerror(errno));
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd < 0)
        return err_set(err, -errno, "%s: cannot be written: %s: give lockstepd a directory that it may write to", path,
                       strerror(errno));
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK
                   ? err_set(err, -EADDRINUSE, "%s: another lockstepd is the witness of this directory", directory)
                   : err_set(err, -errno, "%s: %s", path, strerror(errno));
    return 0;
}

static int sync_directory(const char *directory, struct err *err)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) < 0 ? err_set(err, -errno, "%s: %s", directory, strerror(errno)) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

static int connect_to(struct witness_store *s, const char *path, bool make, struct err *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | (make ? SQLITE_OPEN_CREATE : 0);
    if (sqlite3_open_v2(path, &s->db, flags, NULL) != SQLITE_OK)
        return say(s, err);
    sqlite3_busy_timeout(s->db, BUSY_MS);
    return 0;
}

static void disconnect(struct witness_store *s)
{
    sqlite3_finalize(s->insert);
    sqlite3_finalize(s->replace);
    sqlite3_finalize(s->add);
    sqlite3_finalize(s->put_age);
    sqlite3_finalize(s->trim_ages);
    s->insert = s->replace = s->add = s->put_age = s->trim_ages = NULL;
    sqlite3_close(s->db);
    s->db = NULL;
}

static int run(struct witness_store *s, const char *sql, struct err *err)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : say(s, err);
}

/* The first column of the first row, as text. */
static int ask(struct witness_store *s, const char *sql, char *out, size_t out_bytes, struct err *err)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &q, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(q);
    const unsigned char *text = rc == SQLITE_ROW ? sqlite3_column_text(q, 0) : NULL;
    snprintf(out, out_bytes, "%s", text ? (const char *)text : "");
    rc = text ? 0 : say(s, err);
    sqlite3_finalize(q);
    return rc;
}

static int ask_number(struct witness_store *s, const char *sql, long long *out, struct err *err)
{
    char text[32];
    int rc = ask(s, sql, text, sizeof(text), err);
    *out = strtoll(text, NULL, 10);
    return rc;
}

/* Under another name first: what is called witness.db is always whole. */
static int make_database(struct witness_store *s, const char *directory, struct err *err)
{
    char path[PATH_MAX + sizeof(".new")];
    char journal[sizeof(path) + sizeof("-journal")];
    snprintf(path, sizeof(path), "%s.new", s->path);
    snprintf(journal, sizeof(journal), "%s-journal", path);
    if ((unlink(path) < 0 && errno != ENOENT) || (unlink(journal) < 0 && errno != ENOENT))
        return err_set(err, -errno, "%s: cannot be removed: %s", path, strerror(errno));
    char sql[sizeof(schema) + 256];
    snprintf(sql, sizeof(sql),
             "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA; BEGIN; %s"
             "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT;",
             schema, APPLICATION_ID, WITNESS_SCHEMA);
    int rc = connect_to(s, path, true, err);
    if (rc == 0)
        rc = run(s, sql, err);
    disconnect(s);
    if (rc)
        return rc;
    if (rename(path, s->path) < 0)
        return err_set(err, -errno, "%s: cannot be made: %s", s->path, strerror(errno));
    return sync_directory(directory, err);
}

/* `version` is what it has. */
static int check_database(struct witness_store *s, long long *version, struct err *err)
{
    long long application = 0;
    int rc = ask_number(s, "PRAGMA application_id", &application, err);
    if (rc == 0)
        rc = ask_number(s, "PRAGMA user_version", version, err);
    if (rc)
        return rc;
    if (application != APPLICATION_ID)
        return err_set(err, -EUCLEAN,
                       "%s: is no database of a witness: move it away, so that a new one is made, " WAY_BACK, s->path);
    if (*version < 1 || *version > WITNESS_SCHEMA)
        return err_set(
            err, -EPROTONOSUPPORT,
            "%s: is of version %lld, and this lockstepd knows %d: use the lockstepd that made it, or a newer "
            "one",
            s->path, *version, WITNESS_SCHEMA);
    char text[256];
    rc = ask(s, "PRAGMA quick_check(1)", text, sizeof(text), err);
    if (rc == 0 && strcmp(text, "ok") != 0)
        rc = err_set(err, -EUCLEAN,
                     "%s: is damaged (%s): restore a copy, or move it away, so that a new one is made; " WAY_BACK,
                     s->path, text);
    return rc;
}

/* Version 1 had no ages. */
static int upgrade(struct witness_store *s, long long version, struct err *err)
{
    char sql[sizeof(AGE_TABLE) + 128];
    if (version == WITNESS_SCHEMA)
        return 0;
    snprintf(sql, sizeof(sql), "BEGIN IMMEDIATE; %sPRAGMA user_version=%d; COMMIT;", AGE_TABLE, WITNESS_SCHEMA);
    return run(s, sql, err);
}

static int prepare(struct witness_store *s, const char *sql, sqlite3_stmt **out, struct err *err)
{
    return sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL) == SQLITE_OK ? 0 : say(s, err);
}

static int open_database(struct witness_store *s, struct err *err)
{
    char mode[16];
    long long version = 0;
    int rc = connect_to(s, s->path, false, err);
    if (rc == 0)
        rc = run(s, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=FULL; PRAGMA trusted_schema=OFF;", err);
    if (rc == 0)
        rc = ask(s, "PRAGMA journal_mode=WAL", mode, sizeof(mode), err);
    if (rc == 0 && strcmp(mode, "wal") != 0)
        rc = err_set(err, -EIO, "%s: no write-ahead log can be had on this file system (found: %s)", s->path, mode);
    if (rc == 0)
        rc = check_database(s, &version, err);
    if (rc == 0)
        rc = upgrade(s, version, err);
    /* What a broken store has left in the log may be in the cache only. Into the database with it, which is synced. */
    if (rc == 0 && sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) != SQLITE_OK)
        rc = say(s, err);
    if (rc == 0)
        rc = prepare(s,
                     "INSERT INTO decree (volume, volume_id, epoch, tag, cause, primary_node, node_1, leg_1, node_2, "
                     "leg_2, time_us, asker, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
                     &s->insert, err);
    if (rc == 0)
        rc = prepare(s,
                     "UPDATE volume SET volume_id = ?2, epoch = ?3, tag = ?4, number = ?5 "
                     "WHERE name = ?1 AND epoch = ?6 AND tag = ?7",
                     &s->replace, err);
    if (rc == 0)
        rc = prepare(s,
                     "INSERT INTO volume (name, volume_id, epoch, tag, number) VALUES (?1, ?2, ?3, ?4, ?5) "
                     "ON CONFLICT DO NOTHING",
                     &s->add, err);
    if (rc == 0)
        rc = prepare(s, "INSERT OR REPLACE INTO age (volume, node, age) VALUES (?1, ?2, ?3)", &s->put_age, err);
    if (rc == 0)
        rc = prepare(s,
                     "DELETE FROM age WHERE volume = ?1 AND number NOT IN "
                     "(SELECT number FROM age WHERE volume = ?1 ORDER BY number DESC LIMIT ?2)",
                     &s->trim_ages, err);
    return rc;
}

/* A log without its database, as it is left by who moved only one of them: SQLite would put it into the next one. */
static int check_orphan(struct witness_store *s, struct err *err)
{
    char log[PATH_MAX + sizeof("-wal")];
    snprintf(log, sizeof(log), "%s-wal", s->path);
    return access(log, F_OK) < 0
               ? 0
               : err_set(err, -EUCLEAN,
                         "%s: is gone, and its log %s is there: restore both, or move the log away, so "
                         "that a new database is made; " WAY_BACK,
                         s->path, log);
}

static int find_database(struct witness_store *s, const char *directory, bool *is_new, struct err *err)
{
    struct stat st;
    if (lstat(s->path, &st) == 0)
        /* SQLite would take it for one that is still to be made. */
        return st.st_size > 0 ? 0
                              : err_set(err, -EUCLEAN,
                                        "%s: is empty: move it away, so that a new one is made, " WAY_BACK, s->path);
    if (errno != ENOENT)
        return err_set(err, -errno, "%s: %s", s->path, strerror(errno));
    if (!is_new)
        return err_set(err, -ENOENT, "%s: is gone: restore it, or start lockstepd again to have a new one made",
                       s->path);
    int rc = check_orphan(s, err);
    if (rc == 0)
        rc = make_database(s, directory, err);
    *is_new = rc == 0;
    return rc;
}

int witness_store_open(struct witness_store **out, const char *directory, bool *is_new, struct err *err)
{
    struct witness_store *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(err, -ENOMEM, "out of memory");
    s->lock_fd = -1;
    if (is_new)
        *is_new = false;
    int rc = lock_directory(s, directory, err);
    /* With room for what SQLite appends. */
    if (rc == 0 &&
        snprintf(s->path, sizeof(s->path) - 16, "%s/" WITNESS_DATABASE, directory) >= (int)sizeof(s->path) - 16)
        rc = err_set(err, -ENAMETOOLONG, "%.200s: too long a name", directory);
    if (rc == 0)
        rc = find_database(s, directory, is_new, err);
    if (rc == 0)
        rc = open_database(s, err);
    if (rc) {
        witness_store_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void witness_store_close(struct witness_store *s)
{
    disconnect(s);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    free(s);
}

bool witness_store_is_broken(const struct witness_store *s) { return s->broken; }

/* ---- rows ---- */

static bool column_name(sqlite3_stmt *q, int column, bool may_be_empty, char out[static NAME_BYTES_MAX])
{
    const char *text = (const char *)sqlite3_column_text(q, column);
    if (!text || (!witness_name_is_valid(text) && !(may_be_empty && !*text)))
        return false;
    memcpy(out, text, strlen(text) + 1);
    return true;
}

static bool column_id(sqlite3_stmt *q, int column, struct id *out)
{
    const void *blob = sqlite3_column_blob(q, column);
    if (!blob || sqlite3_column_bytes(q, column) != (int)sizeof(out->bytes))
        return false;
    memcpy(out->bytes, blob, sizeof(out->bytes));
    return !id_is_none(*out);
}

#define DECREE_COLUMNS "d.epoch, d.tag, d.cause, d.primary_node, d.node_1, d.leg_1, d.node_2, d.leg_2"

/* From DECREE_COLUMNS, which begin at `at`. */
static bool column_decree(sqlite3_stmt *q, int at, struct decree *out)
{
    memset(out, 0, sizeof(*out));
    const char *cause = (const char *)sqlite3_column_text(q, at + 2);
    out->epoch = (uint64_t)sqlite3_column_int64(q, at);
    out->tag = (uint64_t)sqlite3_column_int64(q, at + 1);
    out->member_count = sqlite3_column_type(q, at + 6) == SQLITE_NULL ? 1 : 2;
    return out->epoch > 0 && out->epoch <= REGISTER_EPOCH_MAX && out->tag != 0 && cause &&
           decree_cause_from_name(cause, &out->cause) && column_name(q, at + 3, true, out->primary) &&
           column_name(q, at + 4, false, out->members[0].node) && column_id(q, at + 5, &out->members[0].leg_id) &&
           (out->member_count == 1 ||
            (column_name(q, at + 6, false, out->members[1].node) && column_id(q, at + 7, &out->members[1].leg_id)));
}

int witness_store_load(struct witness_store *s,
                       void (*volume)(void *ctx, const char *name, struct id volume_id, const struct decree *decree,
                                      uint64_t time_us),
                       void *ctx, struct err *err)
{
    sqlite3_stmt *q = NULL;
    int rc =
        prepare(s,
                "SELECT v.name, v.volume_id, v.epoch = d.epoch AND v.tag = d.tag AND v.name = d.volume, "
                "d.time_us, " DECREE_COLUMNS " FROM volume v LEFT JOIN decree d ON d.number = v.number ORDER BY v.name",
                &q, err);
    if (rc)
        return rc;
    int step = SQLITE_ROW;
    for (unsigned count = 0; rc == 0 && (step = sqlite3_step(q)) == SQLITE_ROW; count++) {
        char name[NAME_BYTES_MAX] = "?";
        struct id id;
        struct decree decree;
        bool good = count < WITNESS_VOLUMES_MAX && column_name(q, 0, false, name) && column_id(q, 1, &id) &&
                    sqlite3_column_int(q, 2) == 1 && column_decree(q, 4, &decree);
        if (good)
            volume(ctx, name, id, &decree, (uint64_t)sqlite3_column_int64(q, 3));
        else
            rc = damaged(s, name, err);
    }
    if (rc == 0 && step != SQLITE_DONE)
        rc = say(s, err);
    sqlite3_finalize(q);
    return rc;
}

int witness_store_load_ages(struct witness_store *s,
                            bool (*age)(void *ctx, const char *volume, const char *node, uint64_t age), void *ctx,
                            struct err *err)
{
    sqlite3_stmt *q = NULL;
    int rc = prepare(s, "SELECT volume, node, age FROM age ORDER BY number", &q, err);
    if (rc)
        return rc;
    int step = SQLITE_ROW;
    while (rc == 0 && (step = sqlite3_step(q)) == SQLITE_ROW) {
        char volume[NAME_BYTES_MAX] = "?";
        char node[NAME_BYTES_MAX];
        sqlite3_int64 value = sqlite3_column_int64(q, 2);
        if (!column_name(q, 0, false, volume) || !column_name(q, 1, false, node) || value <= 0 ||
            !age(ctx, volume, node, (uint64_t)value))
            rc = damaged(s, volume, err);
    }
    if (rc == 0 && step != SQLITE_DONE)
        rc = say(s, err);
    sqlite3_finalize(q);
    return rc;
}

int witness_store_history(struct witness_store *s, const char *volume, uint64_t *before,
                          struct witness_entry entries[WITNESS_HISTORY_AT_ONCE], unsigned *count, struct err *err)
{
    *count = 0;
    sqlite3_stmt *q = NULL;
    int rc = prepare(s,
                     "SELECT d.number, d.time_us, d.asker, d.note, " DECREE_COLUMNS
                     " FROM decree d WHERE d.volume = ?1 AND (?2 = 0 OR d.number < ?2) ORDER BY d.number DESC LIMIT ?3",
                     &q, err);
    if (rc)
        return rc;
    sqlite3_bind_text(q, 1, volume, -1, SQLITE_STATIC);
    sqlite3_bind_int64(q, 2, (sqlite3_int64)*before);
    sqlite3_bind_int(q, 3, WITNESS_HISTORY_AT_ONCE);
    int step = SQLITE_ROW;
    while (rc == 0 && *count < WITNESS_HISTORY_AT_ONCE && (step = sqlite3_step(q)) == SQLITE_ROW) {
        struct witness_entry *e = &entries[*count];
        const char *note = (const char *)sqlite3_column_text(q, 3);
        *before = (uint64_t)sqlite3_column_int64(q, 0);
        e->time_us = (uint64_t)sqlite3_column_int64(q, 1);
        snprintf(e->note, sizeof(e->note), "%s", note ? note : "");
        if (column_name(q, 2, false, e->asker) && column_decree(q, 4, &e->decree))
            ++*count;
        else
            rc = damaged(s, volume, err);
    }
    if (rc == 0 && step != SQLITE_ROW && step != SQLITE_DONE)
        rc = say(s, err);
    if (*count < WITNESS_HISTORY_AT_ONCE)
        *before = 0;
    sqlite3_finalize(q);
    return rc;
}

/* ---- changes ---- */

/* Of a full disk SQLite is told before the commit is written; of anything else it cannot say what has reached the
 * disk. */
static int failed(struct witness_store *s, struct err *err)
{
    int rc = say(s, err);
    sqlite3_reset(s->insert);
    sqlite3_reset(s->replace);
    sqlite3_reset(s->add);
    if (rc != -ENOSPC && rc != -EBUSY)
        s->broken = true;
    witness_store_rollback(s);
    return rc;
}

void witness_store_rollback(struct witness_store *s)
{
    /* SQLite may have rolled back by itself. */
    if (s->in_transaction && !sqlite3_get_autocommit(s->db) &&
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
        s->broken = true;
    s->in_transaction = false;
}

/* A database that was restored under a running witness: what is written to the old one would be lost. */
static int check_place(struct witness_store *s, struct err *err)
{
    int moved = 0;
    if (sqlite3_file_control(s->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) != SQLITE_OK || !moved)
        return 0;
    return err_set(err, -ESTALE, "%s: was moved or replaced while it was in use", s->path);
}

static int begin(struct witness_store *s, struct err *err)
{
    if (s->in_transaction)
        return 0;
    int rc = check_place(s, err);
    if (rc) {
        s->broken = true;
        return rc;
    }
    if (sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return failed(s, err);
    s->in_transaction = true;
    return 0;
}

static bool step_change(sqlite3_stmt *q)
{
    bool done = sqlite3_step(q) == SQLITE_DONE;
    return sqlite3_reset(q) == SQLITE_OK && done;
}

static void bind_id(sqlite3_stmt *q, int at, const struct id *id)
{
    sqlite3_bind_blob(q, at, id->bytes, (int)sizeof(id->bytes), SQLITE_STATIC);
}

static bool add_to_history(struct witness_store *s, const char *volume, const struct id *volume_id,
                           const struct witness_entry *e)
{
    const struct decree *d = &e->decree;
    sqlite3_stmt *q = s->insert;
    sqlite3_clear_bindings(q);
    sqlite3_bind_text(q, 1, volume, -1, SQLITE_STATIC);
    bind_id(q, 2, volume_id);
    sqlite3_bind_int64(q, 3, (sqlite3_int64)d->epoch);
    sqlite3_bind_int64(q, 4, (sqlite3_int64)d->tag);
    sqlite3_bind_text(q, 5, decree_cause_name(d->cause), -1, SQLITE_STATIC);
    sqlite3_bind_text(q, 6, d->primary, -1, SQLITE_STATIC);
    for (uint32_t i = 0; i < d->member_count; i++) {
        sqlite3_bind_text(q, 7 + 2 * (int)i, d->members[i].node, -1, SQLITE_STATIC);
        bind_id(q, 8 + 2 * (int)i, &d->members[i].leg_id);
    }
    sqlite3_bind_int64(q, 11, (sqlite3_int64)e->time_us);
    sqlite3_bind_text(q, 12, e->asker, -1, SQLITE_STATIC);
    sqlite3_bind_text(q, 13, e->note, -1, SQLITE_STATIC);
    return step_change(q);
}

int witness_store_put(struct witness_store *s, const char *volume, struct id volume_id, uint64_t expected_epoch,
                      uint64_t expected_tag, const struct witness_entry *entry, struct err *err)
{
    assert(!s->broken && entry->decree.member_count >= 1);
    int rc = begin(s, err);
    if (rc)
        return rc;
    if (!add_to_history(s, volume, &volume_id, entry))
        return failed(s, err);
    sqlite3_int64 number = sqlite3_last_insert_rowid(s->db);
    sqlite3_stmt *q = expected_epoch ? s->replace : s->add;
    sqlite3_bind_text(q, 1, volume, -1, SQLITE_STATIC);
    bind_id(q, 2, &volume_id);
    sqlite3_bind_int64(q, 3, (sqlite3_int64)entry->decree.epoch);
    sqlite3_bind_int64(q, 4, (sqlite3_int64)entry->decree.tag);
    sqlite3_bind_int64(q, 5, number);
    if (expected_epoch) {
        sqlite3_bind_int64(q, 6, (sqlite3_int64)expected_epoch);
        sqlite3_bind_int64(q, 7, (sqlite3_int64)expected_tag);
    }
    if (!step_change(q))
        return failed(s, err);
    if (sqlite3_changes(s->db) == 1)
        return 0;
    s->broken = true;
    witness_store_rollback(s);
    return err_set(err, -EAGAIN, "%s: somebody else has written to it", s->path);
}

int witness_store_commit(struct witness_store *s, struct err *err)
{
    if (!s->in_transaction)
        return 0;
    if (sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        return failed(s, err);
    s->in_transaction = false;
    return 0;
}

static bool put_age(struct witness_store *s, const struct witness_age *a)
{
    sqlite3_bind_text(s->put_age, 1, a->volume, -1, SQLITE_STATIC);
    sqlite3_bind_text(s->put_age, 2, a->node, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s->put_age, 3, (sqlite3_int64)a->age);
    sqlite3_bind_text(s->trim_ages, 1, a->volume, -1, SQLITE_STATIC);
    sqlite3_bind_int(s->trim_ages, 2, REGISTER_TOLD_MAX);
    return step_change(s->put_age) && step_change(s->trim_ages);
}

/* What is left behind in the log by a commit that failed is of no harm, should it come to light: an age that was told
 * is true. And the next commit begins where that one did, so that no decree of before or after depends on it. */
int witness_store_put_ages(struct witness_store *s, const struct witness_age *ages, unsigned count, struct err *err)
{
    assert(!s->broken && !s->in_transaction);
    int rc = check_place(s, err); /* the next decree, too, finds that it was moved */
    if (rc)
        return rc;
    if (sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return say(s, err);
    s->in_transaction = true;
    bool done = true;
    for (unsigned i = 0; done && i < count; i++)
        done = put_age(s, &ages[i]);
    if (done && sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK) {
        s->in_transaction = false;
        return 0;
    }
    rc = say(s, err);
    sqlite3_reset(s->put_age);
    sqlite3_reset(s->trim_ages);
    witness_store_rollback(s);
    return rc;
}

int witness_store_try(struct witness_store *s, struct err *err)
{
    assert(!s->broken && !s->in_transaction);
    int rc = check_place(s, err);
    if (rc)
        return rc;
    if (sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return say(s, err);
    s->in_transaction = true;
    /* Pages that a decree changes, too, are changed and changed back: SQLite skips what does not change at all. */
#define LAST " WHERE number = (SELECT max(number) FROM volume);"
    static const char same[] = "UPDATE decree SET tag = ~tag" LAST "UPDATE decree SET tag = ~tag" LAST
                               "UPDATE volume SET tag = ~tag" LAST "UPDATE volume SET tag = ~tag" LAST "COMMIT";
#undef LAST
    if (sqlite3_exec(s->db, same, NULL, NULL, NULL) == SQLITE_OK) {
        s->in_transaction = false;
        return 0;
    }
    rc = say(s, err);
    witness_store_rollback(s);
    return rc;
}

static bool delete_of(struct witness_store *s, const char *sql, const char *volume)
{
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(s->db, sql, -1, &q, NULL) != SQLITE_OK)
        return false;
    sqlite3_bind_text(q, 1, volume, -1, SQLITE_STATIC);
    bool done = sqlite3_step(q) == SQLITE_DONE;
    return sqlite3_finalize(q) == SQLITE_OK && done;
}

int witness_store_forget(struct witness_store *s, const char *volume, struct err *err)
{
    int rc = begin(s, err);
    if (rc)
        return rc;
    bool done = delete_of(s, "DELETE FROM volume WHERE name = ?1", volume) &&
                delete_of(s, "DELETE FROM age WHERE volume = ?1", volume);
    return done ? witness_store_commit(s, err) : failed(s, err);
}
