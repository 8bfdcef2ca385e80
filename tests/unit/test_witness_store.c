/* The witness's database: what is committed stays, whatever the disk does; what is damaged, foreign or newer is named
 * and refused. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/base/prng.h"
#include "repl/base/units.h"
#include "repl/witness/register_table.h"
#include "repl/witness/witness_store.h"
#include "tests/unit/faulty_vfs.h"
#include "tests/unit/witness_dir.h"

/* ---- directories ---- */

static int set_up(void **state)
{
    next_dir();
    faulty_vfs_fail(0, 0, 0, false);
    return 0;
}

static int begin(void **state)
{
    faulty_vfs_install();
    return make_top();
}

static int end(void **state)
{
    remove_top();
    return 0;
}

/* ---- decrees ---- */

static struct id make_id(uint8_t fill)
{
    struct id id;
    memset(&id, fill, sizeof(id));
    return id;
}

static struct witness_entry make_entry(uint64_t epoch)
{
    struct witness_entry e = { .time_us = 1000 + epoch, .asker = "paris-a", .note = "it was cut off" };
    e.decree = (struct decree) {
        .epoch = epoch,
        .tag = UINT64_MAX - epoch, /* the sign must not matter */
        .cause = DECREE_OUT,
        .primary = "paris-a",
        .member_count = 1 + epoch % 2,
        .members = { { "paris-a", make_id(1) }, { "paris-b", make_id(2) } },
    };
    return e;
}

static struct witness_store *open_store(void)
{
    struct witness_store *s = NULL;
    struct err err = { 0 };
    bool is_new;
    if (witness_store_open(&s, dir, &is_new, &err))
        fail_msg("%s", err.text);
    return s;
}

/* Epoch + 1 in place of epoch. */
static int raise_epoch(struct witness_store *s, uint64_t epoch, struct err *err)
{
    struct witness_entry e = make_entry(epoch + 1);
    int rc = witness_store_put(s, "gold42", make_id(9), epoch, epoch ? UINT64_MAX - epoch : 0, &e, err);
    return rc ? rc : witness_store_commit(s, err);
}

struct loaded {
    unsigned count;
    struct decree decree;
    struct id volume_id;
    uint64_t time_us;
};

static void take(void *ctx, const char *name, struct id volume_id, const struct decree *decree, uint64_t time_us)
{
    assert_string_equal(name, "gold42");
    *(struct loaded *)ctx = (struct loaded) { 1, *decree, volume_id, time_us };
}

static uint64_t standing(struct witness_store *s)
{
    struct loaded l = { 0 };
    struct err err = { 0 };
    if (witness_store_load(s, take, &l, &err))
        fail_msg("%s", err.text);
    if (l.count == 0)
        return 0;
    struct witness_entry right = make_entry(l.decree.epoch);
    if (right.decree.member_count == 1)
        memset(&right.decree.members[1], 0, sizeof(right.decree.members[1]));
    assert_memory_equal(&l.decree, &right.decree, sizeof(right.decree));
    assert_true(id_equal(l.volume_id, make_id(9)));
    assert_int_equal(l.time_us, right.time_us);
    return l.decree.epoch;
}

/* ---- ages ---- */

struct ages {
    unsigned count;
    struct {
        char node[NAME_BYTES_MAX];
        uint64_t age;
    } of[8];
};

static bool take_age(void *ctx, const char *volume, const char *node, uint64_t age)
{
    struct ages *a = ctx;
    if (strcmp(volume, "gold42") != 0)
        return false;
    assert_true(a->count < ARRAY_LEN(a->of));
    snprintf(a->of[a->count].node, NAME_BYTES_MAX, "%s", node);
    a->of[a->count++].age = age;
    return true;
}

static struct ages stored_ages(struct witness_store *s)
{
    struct ages a = { 0 };
    struct err err = { 0 };
    if (witness_store_load_ages(s, take_age, &a, &err))
        fail_msg("%s", err.text);
    return a;
}

static uint64_t age_of(struct witness_store *s, const char *node)
{
    struct ages a = stored_ages(s);
    for (unsigned i = 0; i < a.count; i++)
        if (strcmp(a.of[i].node, node) == 0)
            return a.of[i].age;
    return 0;
}

static int put_age(struct witness_store *s, const char *node, uint64_t age, struct err *err)
{
    const struct witness_age a = { "gold42", node, age };
    return witness_store_put_ages(s, &a, 1, err);
}

/* ---- tests ---- */

static void keeps_decrees_and_their_history(void **state)
{
    struct err err = { 0 };
    struct witness_store *s = NULL;
    bool is_new = false;
    assert_int_equal(witness_store_open(&s, dir, &is_new, &err), 0);
    assert_true(is_new);
    assert_int_equal(standing(s), 0);
    for (uint64_t epoch = 0; epoch < 150; epoch++)
        assert_int_equal(raise_epoch(s, epoch, &err), 0);
    witness_store_close(s);
    assert_int_equal(witness_store_open(&s, dir, &is_new, &err), 0);
    assert_false(is_new);
    assert_int_equal(standing(s), 150);
    uint64_t before = 0;
    uint64_t epoch = 150;
    do {
        static struct witness_entry entries[WITNESS_HISTORY_AT_ONCE];
        unsigned count;
        assert_int_equal(witness_store_history(s, "gold42", &before, entries, &count, &err), 0);
        for (unsigned i = 0; i < count; i++, epoch--) {
            assert_int_equal(entries[i].decree.epoch, epoch);
            assert_int_equal(entries[i].decree.tag, UINT64_MAX - epoch);
            assert_int_equal(entries[i].time_us, 1000 + epoch);
            assert_string_equal(entries[i].asker, "paris-a");
            assert_string_equal(entries[i].note, "it was cut off");
        }
    } while (before);
    assert_int_equal(epoch, 0);
    assert_int_equal(witness_store_forget(s, "gold42", &err), 0);
    assert_int_equal(standing(s), 0);
    assert_int_equal(raise_epoch(s, 0, &err), 0);
    witness_store_close(s);
}

static void keeps_ages(void **state)
{
    struct err err = { 0 };
    struct witness_store *s = open_store();
    assert_int_equal(raise_epoch(s, 0, &err), 0);
    const struct witness_age both[] = { { "gold42", "paris-a", 5 }, { "gold42", "paris-b", INT64_MAX } };
    assert_int_equal(witness_store_put_ages(s, both, 2, &err), 0);
    assert_int_equal(put_age(s, "paris-a", 6, &err), 0);
    witness_store_close(s);
    s = open_store();
    struct ages a = stored_ages(s);
    assert_int_equal(a.count, 2);
    assert_string_equal(a.of[1].node, "paris-a"); /* which grew last */
    assert_int_equal(a.of[1].age, 6);
    assert_true(a.of[0].age == INT64_MAX);
    /* No more than are remembered; those that grew last. */
    for (unsigned i = 0; i < 10; i++) {
        char name[NAME_BYTES_MAX];
        snprintf(name, sizeof(name), "stranger-%u", i);
        assert_int_equal(put_age(s, name, 100, &err), 0);
        assert_int_equal(put_age(s, "paris-a", 7 + i, &err), 0);
    }
    a = stored_ages(s);
    assert_int_equal(a.count, REGISTER_TOLD_MAX);
    assert_string_equal(a.of[REGISTER_TOLD_MAX - 1].node, "paris-a");
    assert_int_equal(age_of(s, "paris-a"), 16);
    assert_int_equal(age_of(s, "stranger-9"), 100);
    assert_int_equal(standing(s), 1);
    assert_int_equal(witness_store_forget(s, "gold42", &err), 0);
    assert_int_equal(stored_ages(s).count, 0);
    witness_store_close(s);
}

static void spoil(const char *sql)
{
    sqlite3 *db;
    char *why = NULL;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    assert_int_equal(sqlite3_open_v2(in_dir(WITNESS_DATABASE), &db, flags, "unix"), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s", why);
    sqlite3_close(db);
}

/* What lockstepd made before it knew of ages. */
static const char version_1[] =
    "CREATE TABLE decree (number INTEGER PRIMARY KEY AUTOINCREMENT, volume TEXT NOT NULL, volume_id BLOB NOT NULL,"
    " epoch INTEGER NOT NULL, tag INTEGER NOT NULL, cause TEXT NOT NULL, primary_node TEXT NOT NULL,"
    " node_1 TEXT NOT NULL, leg_1 BLOB NOT NULL, node_2 TEXT, leg_2 BLOB,"
    " time_us INTEGER NOT NULL, asker TEXT NOT NULL, note TEXT NOT NULL) STRICT;"
    "CREATE INDEX decree_by_volume ON decree (volume, number);"
    "CREATE TABLE volume (name TEXT PRIMARY KEY, volume_id BLOB NOT NULL, epoch INTEGER NOT NULL, tag INTEGER NOT NULL,"
    " number INTEGER NOT NULL REFERENCES decree (number)) STRICT, WITHOUT ROWID;"
    "PRAGMA application_id=1280538484; PRAGMA user_version=1;"
    "INSERT INTO decree VALUES (1, 'gold42', x'09090909090909090909090909090909', 1, -2, 'out', 'paris-a',"
    " 'paris-a', x'01010101010101010101010101010101', 'paris-b', x'02020202020202020202020202020202',"
    " 1001, 'paris-a', 'it was cut off');"
    "INSERT INTO volume VALUES ('gold42', x'09090909090909090909090909090909', 1, -2, 1);";

static void an_older_one_is_upgraded(void **state)
{
    struct err err = { 0 };
    bool is_new = true;
    struct witness_store *s = NULL;
    mkdir(dir, 0700);
    spoil(version_1);
    assert_int_equal(witness_store_open(&s, dir, &is_new, &err), 0);
    assert_false(is_new);
    assert_int_equal(standing(s), 1);
    assert_int_equal(stored_ages(s).count, 0);
    assert_int_equal(put_age(s, "paris-a", 5, &err), 0);
    assert_int_equal(raise_epoch(s, 1, &err), 0);
    witness_store_close(s);
    s = open_store();
    assert_int_equal(standing(s), 2);
    assert_int_equal(age_of(s, "paris-a"), 5);
    witness_store_close(s);
}

/* Whatever the disk does meanwhile: it is of the one version or of the other, and opens when the disk is well. */
static void an_upgrade_on_a_disk_that_fails(void **state)
{
    static const int codes[] = { SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC };
    unsigned failures = 0;
    unsigned upgraded = 0;
    for (unsigned code = 0; code < ARRAY_LEN(codes); code++)
        for (unsigned from = 1; from < 40; from++) {
            struct err err = { 0 };
            bool is_new;
            struct witness_store *s = NULL;
            set_up(state);
            mkdir(dir, 0700);
            spoil(version_1);
            faulty_vfs_fail(from, UINT32_MAX, codes[code], false);
            int rc = witness_store_open(&s, dir, &is_new, &err);
            faulty_vfs_fail(0, 0, 0, false);
            if (rc == 0)
                witness_store_close(s);
            failures += rc != 0;
            upgraded += rc == 0;
            s = open_store();
            assert_int_equal(standing(s), 1);
            assert_int_equal(put_age(s, "paris-a", 5, &err), 0);
            witness_store_close(s);
        }
    print_message("%u upgrades failed, %u did not\n", failures, upgraded);
    assert_true(failures > 10 && upgraded > 10);
}

/* Each write and sync of an age's commit fails, in turn: decrees are put before and after as if nothing had been. */
static void an_age_that_cannot_be_stored_breaks_nothing(void **state)
{
    static const int codes[] = { SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC };
    struct err err = { 0 };
    struct witness_store *s = open_store();
    assert_int_equal(raise_epoch(s, 0, &err), 0);
    unsigned failures = 0;
    uint64_t epoch = 1;
    uint64_t age = 1;
    assert_int_equal(put_age(s, "paris-a", age, &err), 0);
    for (unsigned code = 0; code < ARRAY_LEN(codes); code++)
        for (unsigned carried_out = 0; carried_out < 2; carried_out++)
            for (unsigned from = 1; from < 12; from++) {
                if (codes[code] == SQLITE_FULL && carried_out)
                    continue;
                faulty_vfs_fail(from, 1, codes[code], carried_out);
                int rc = put_age(s, "paris-a", age + 1, &err);
                assert_true(rc == 0 || faulty_vfs_operations() >= from);
                faulty_vfs_fail(0, 0, 0, false);
                failures += rc != 0;
                age += rc == 0;
                assert_false(witness_store_is_broken(s));
                assert_int_equal(age_of(s, "paris-a"), age);
                assert_int_equal(standing(s), epoch);
                if (from % 2 == 0)
                    assert_int_equal(raise_epoch(s, epoch++, &err), 0);
                if (from % 3 == 0)
                    assert_int_equal(put_age(s, "paris-a", ++age, &err), 0);
                if (from % 4 == 0) {
                    witness_store_close(s);
                    s = open_store();
                    assert_int_equal(standing(s), epoch);
                    uint64_t found = age_of(s, "paris-a");
                    assert_true(found == age || (rc && found == age + 1));
                    age = found;
                }
            }
    print_message("%u ages were not stored\n", failures);
    assert_true(failures > 10);
    /* A disk that has failed for good: neither, and the decree's failure is what breaks the store. */
    faulty_vfs_fail(1, UINT32_MAX, SQLITE_IOERR_WRITE, false);
    assert_true(put_age(s, "paris-a", age + 1, &err) < 0);
    assert_false(witness_store_is_broken(s));
    assert_true(raise_epoch(s, epoch, &err) < 0);
    assert_true(witness_store_is_broken(s));
    faulty_vfs_fail(0, 0, 0, false);
    witness_store_close(s);
    /* One that was moved: the next decree says so. */
    s = open_store();
    char path[256];
    snprintf(path, sizeof(path), "%s", in_dir(WITNESS_DATABASE));
    assert_int_equal(rename(path, in_dir("elsewhere")), 0);
    assert_int_equal(put_age(s, "paris-a", age + 2, &err), -ESTALE);
    assert_false(witness_store_is_broken(s));
    witness_store_close(s);
}

static void one_witness_a_directory(void **state)
{
    struct err err = { 0 };
    struct witness_store *s = open_store();
    struct witness_store *other = NULL;
    bool is_new;
    assert_int_equal(witness_store_open(&other, dir, &is_new, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "another lockstepd"));
    witness_store_close(s);
}

/* A database that some other program has changed, although it could not be while we have it: not guessed at. */
static void another_decree_than_expected(void **state)
{
    struct err err = { 0 };
    struct witness_store *s = open_store();
    assert_int_equal(raise_epoch(s, 0, &err), 0);
    assert_int_equal(raise_epoch(s, 5, &err), -EAGAIN);
    assert_true(witness_store_is_broken(s));
    witness_store_close(s);
    s = open_store();
    assert_int_equal(standing(s), 1);
    witness_store_close(s);
}

static void refused(const char *words)
{
    struct witness_store *s = NULL;
    struct err err = { 0 };
    bool is_new = true;
    int rc = witness_store_open(&s, dir, &is_new, &err);
    if (rc == 0) { /* what is wrong with its rows is found by loading them */
        struct loaded l = { 0 };
        rc = witness_store_load(s, take, &l, &err);
        if (rc == 0)
            rc = witness_store_load_ages(s, take_age, &(struct ages) { 0 }, &err);
        witness_store_close(s);
    }
    assert_true(rc < 0);
    assert_false(is_new);
    if (!strstr(err.text, words))
        fail_msg("expected \"%s\" in: %s", words, err.text);
}

static void write_file(const char *name, const char *text, off_t at)
{
    int fd = open(in_dir(name), O_WRONLY | O_CREAT, 0600);
    assert_int_equal(pwrite(fd, text, strlen(text), at), strlen(text));
    close(fd);
}

static void what_is_no_witness_database_is_refused(void **state)
{
    mkdir(dir, 0700);
    write_file(WITNESS_DATABASE, "this is not SQLite's, and long enough to see that it is not", 0);
    refused("no database of a witness");
    truncate(in_dir(WITNESS_DATABASE), 0);
    refused("is empty");
    unlink(in_dir(WITNESS_DATABASE));
    spoil("CREATE TABLE photos (name TEXT)");
    refused("no database of a witness");
    unlink(in_dir(WITNESS_DATABASE));
    mkdir(in_dir(WITNESS_DATABASE), 0700);
    refused("cannot be");
}

static void a_newer_one_is_refused(void **state)
{
    witness_store_close(open_store());
    spoil("PRAGMA user_version=3");
    refused("is of version 3, and this lockstepd knows 2");
    spoil("PRAGMA user_version=0");
    refused("is of version 0, and this lockstepd knows 2");
}

static void a_log_without_its_database_is_refused(void **state)
{
    mkdir(dir, 0700);
    write_file(WITNESS_DATABASE "-wal", "frames", 0);
    refused("is gone, and its log");
}

static void a_missing_one_is_not_made_when_it_was_there(void **state)
{
    struct witness_store *s = open_store();
    struct err err = { 0 };
    witness_store_close(s);
    unlink(in_dir(WITNESS_DATABASE));
    assert_int_equal(witness_store_open(&s, dir, NULL, &err), -ENOENT);
    assert_true(access(in_dir(WITNESS_DATABASE), F_OK) < 0);
}

static void rows_that_cannot_be_are_refused(void **state)
{
    static const char *const damages[] = {
        "UPDATE volume SET epoch = epoch + 1",
        "UPDATE volume SET tag = 77",
        "UPDATE volume SET number = 99",
        "UPDATE volume SET volume_id = x'01'",
        "UPDATE volume SET volume_id = zeroblob(16)",
        "UPDATE volume SET name = 'gold 42'",
        "UPDATE decree SET volume = 'silver1'",
        "UPDATE decree SET cause = 'whim'",
        "UPDATE decree SET primary_node = 'paris a'",
        "UPDATE decree SET node_1 = ''",
        "UPDATE decree SET leg_1 = x'0102'",
        "UPDATE decree SET epoch = -1; UPDATE volume SET epoch = -1",
        "UPDATE decree SET tag = 0; UPDATE volume SET tag = 0",
        "DELETE FROM decree",
        "UPDATE age SET age = 0",
        "UPDATE age SET age = -1",
        "UPDATE age SET node = 'paris a'",
        "UPDATE age SET volume = 'silver1'",
    };
    struct err err = { 0 };
    struct witness_store *s = open_store();
    assert_int_equal(raise_epoch(s, 0, &err), 0);
    assert_int_equal(put_age(s, "paris-a", 5, &err), 0);
    witness_store_close(s);
    char saved[256];
    snprintf(saved, sizeof(saved), "%s", in_dir("saved"));
    copy_file(in_dir(WITNESS_DATABASE), saved);
    for (unsigned i = 0; i < ARRAY_LEN(damages); i++) {
        copy_file(saved, in_dir(WITNESS_DATABASE));
        spoil(damages[i]);
        refused("is damaged");
    }
    copy_file(saved, in_dir(WITNESS_DATABASE));
    s = open_store();
    assert_int_equal(standing(s), 1);
    witness_store_close(s);
}

/* Each page spoilt, in turn: it is found, or harmless; never another decree. */
static void damaged_pages_are_found(void **state)
{
    struct err err = { 0 };
    struct witness_store *s = open_store();
    for (uint64_t epoch = 0; epoch < 40; epoch++)
        assert_int_equal(raise_epoch(s, epoch, &err), 0);
    witness_store_close(s);
    char saved[256];
    snprintf(saved, sizeof(saved), "%s", in_dir("saved"));
    copy_file(in_dir(WITNESS_DATABASE), saved);
    struct stat st;
    assert_int_equal(stat(saved, &st), 0);
    unsigned found = 0;
    for (off_t at = 0; at < st.st_size; at += 512) {
        copy_file(saved, in_dir(WITNESS_DATABASE));
        write_file(WITNESS_DATABASE, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", at);
        bool is_new;
        s = NULL;
        struct loaded l = { 0 };
        int rc = witness_store_open(&s, dir, &is_new, &err);
        if (rc == 0)
            rc = witness_store_load(s, take, &l, &err);
        if (rc == 0)
            assert_int_equal(standing(s), 40);
        else
            found++;
        if (s)
            witness_store_close(s);
    }
    print_message("%u of %u places found to be damaged\n", found, (unsigned)(st.st_size / 512));
    assert_true(found >= 4);
}

static void one_that_was_replaced_is_not_written_to(void **state)
{
    struct err err = { 0 };
    struct witness_store *s = open_store();
    assert_int_equal(raise_epoch(s, 0, &err), 0);
    char path[256];
    snprintf(path, sizeof(path), "%s", in_dir(WITNESS_DATABASE));
    assert_int_equal(rename(path, in_dir("elsewhere")), 0);
    assert_int_equal(raise_epoch(s, 1, &err), -ESTALE);
    assert_true(witness_store_is_broken(s));
    witness_store_close(s);
}

/* Each write and sync of a commit fails, in turn: done and not done are both true, and nothing lies in between. */
static void a_disk_that_fails_at_each_step(void **state)
{
    static const int codes[] = { SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC };
    unsigned failures = 0;
    unsigned unknown = 0;
    struct err err = { 0 };
    struct witness_store *s = open_store();
    uint64_t epoch = 0;
    for (unsigned code = 0; code < ARRAY_LEN(codes); code++)
        for (unsigned carried_out = 0; carried_out < 2; carried_out++)
            for (unsigned from = 1; from < 12; from++) {
                if (codes[code] == SQLITE_FULL && carried_out)
                    continue; /* a full disk does not do what it refuses */
                faulty_vfs_fail(from, 1, codes[code], carried_out);
                int rc = raise_epoch(s, epoch, &err);
                bool reached = faulty_vfs_operations() >= from;
                bool broken = witness_store_is_broken(s);
                faulty_vfs_fail(0, 0, 0, false);
                assert_true(rc == 0 || reached);
                if (rc == 0) {
                    assert_int_equal(standing(s), epoch + 1);
                } else {
                    failures++;
                    unknown += broken;
                    assert_int_equal(broken, codes[code] != SQLITE_FULL);
                    assert_int_equal(rc == -ENOSPC, codes[code] == SQLITE_FULL);
                    if (!broken)
                        assert_int_equal(standing(s), epoch); /* and it goes on */
                }
                uint64_t stands = epoch;
                if (rc == 0 || !broken)
                    stands = standing(s);
                witness_store_close(s);
                s = open_store();
                if (rc == 0 || !broken)
                    assert_int_equal(standing(s), stands);
                else
                    assert_true(standing(s) == epoch || standing(s) == epoch + 1);
                epoch = standing(s);
            }
    print_message("%u commits failed, of %u nobody knew\n", failures, unknown);
    assert_true(failures > 10 && unknown > 5);
    witness_store_close(s);
}

/* The power is cut at any write: what was committed is there. */
static void power_cuts(void **state)
{
    unsigned kept = 0;
    unsigned raised_nonetheless = 0;
    char base[sizeof(dir)];
    snprintf(base, sizeof(base), "%s", dir);
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct prng prng = prng_seed(seed);
        struct err err = { 0 };
        snprintf(dir, sizeof(dir), "%.60s-a%u", base, (unsigned)seed);
        struct witness_store *s = open_store();
        faulty_vfs_watch(dir);
        uint64_t epoch = 0;
        /* From some operation on nothing reaches the disk; among them, sometimes, a checkpoint. */
        faulty_vfs_fail(1 + (unsigned)prng_below(&prng, 60), UINT32_MAX, SQLITE_IOERR, false);
        while (epoch < 50 && raise_epoch(s, epoch, &err) == 0) {
            epoch++;
            if (prng_chance(&prng, 100000)) {
                witness_store_close(s);
                struct witness_store *again = NULL;
                s = NULL;
                if (witness_store_open(&again, dir, NULL, &err))
                    break;
                s = again;
            }
        }
        snprintf(dir, sizeof(dir), "%.60s-b%u", base, (unsigned)seed);
        mkdir(dir, 0700);
        faulty_vfs_cut(dir, seed);
        faulty_vfs_fail(0, 0, 0, false);
        if (s)
            witness_store_close(s);
        s = open_store();
        uint64_t found = standing(s);
        if (found != epoch && found != epoch + 1)
            fail_msg("seed %u: epoch %u was committed, %u is there", (unsigned)seed, (unsigned)epoch, (unsigned)found);
        raised_nonetheless += found > epoch;
        kept += found > 0;
        witness_store_close(s);
    }
    print_message("300 power cuts, decrees after %u of them, %u of an unfinished commit\n", kept, raised_nonetheless);
    assert_true(kept > 200);
}

static void a_directory_that_cannot_be_written(void **state)
{
    struct witness_store *s = NULL;
    struct err err = { 0 };
    bool is_new;
    snprintf(dir, sizeof(dir), "/proc/lockstep-witness");
    assert_true(witness_store_open(&s, dir, &is_new, &err) < 0);
    assert_non_null(strstr(err.text, "/proc/lockstep-witness"));
    snprintf(dir, sizeof(dir), "/sys/kernel");
    assert_true(witness_store_open(&s, dir, &is_new, &err) < 0);
    assert_non_null(strstr(err.text, "may write to"));
}

#define TEST(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(keeps_decrees_and_their_history),
        TEST(keeps_ages),
        TEST(an_older_one_is_upgraded),
        TEST(an_upgrade_on_a_disk_that_fails),
        TEST(an_age_that_cannot_be_stored_breaks_nothing),
        TEST(one_witness_a_directory),
        TEST(another_decree_than_expected),
        TEST(what_is_no_witness_database_is_refused),
        TEST(a_newer_one_is_refused),
        TEST(a_log_without_its_database_is_refused),
        TEST(a_missing_one_is_not_made_when_it_was_there),
        TEST(rows_that_cannot_be_are_refused),
        TEST(damaged_pages_are_found),
        TEST(one_that_was_replaced_is_not_written_to),
        TEST(a_disk_that_fails_at_each_step),
        TEST(power_cuts),
        TEST(a_directory_that_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
