/* SQLite's files on a disk that fails, or loses its power. */
#include "tests/unit/faulty_vfs.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repl/base/prng.h"
#include "repl/base/units.h"

#define FILES_MAX 8
#define FILE_BYTES_MAX (1 * MIB)
#define WRITES_MAX 4096
#define NAME_BYTES 64
#define SECTOR_BYTES 512

/* A file as the power would leave it. */
struct medium {
    char name[NAME_BYTES]; /* without its directory */
    bool exists;           /* what was removed is gone at once */
    uint8_t *synced;
    size_t synced_bytes;
    struct {
        uint64_t offset;
        size_t bytes;
        uint8_t *data; /* NULL: truncated to `offset` */
    } writes[WRITES_MAX];
    unsigned write_count;
};

static struct medium media[FILES_MAX];
static bool watching;
/* Told by the test, while another thread may be using SQLite. */
static atomic_uint operations, fail_from, fail_count;
static atomic_int fail_code;
static atomic_bool fail_carried_out;

struct file {
    sqlite3_file base;
    const char *name;    /* NULL: a temporary one */
    sqlite3_file real[]; /* with room for the real one's */
};

static sqlite3_vfs *below;
static sqlite3_vfs vfs;

void faulty_vfs_fail(unsigned from, unsigned count, int code, bool carried_out)
{
    fail_from = 0;
    operations = 0;
    fail_count = count;
    fail_code = code;
    fail_carried_out = carried_out;
    fail_from = from;
}

unsigned faulty_vfs_operations(void) { return operations; }

static bool fails(void)
{
    unsigned operation = ++operations;
    unsigned from = fail_from;
    return from && operation >= from && operation - from < fail_count;
}

/* ---- what the power leaves ---- */

static struct medium *find_medium(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    for (unsigned i = 0; i < FILES_MAX; i++) {
        if (media[i].name[0] == 0)
            snprintf(media[i].name, sizeof(media[i].name), "%s", name);
        if (strcmp(media[i].name, name) == 0)
            return &media[i];
    }
    abort();
}

static void forget_writes(struct medium *m)
{
    for (unsigned i = 0; i < m->write_count; i++)
        free(m->writes[i].data);
    m->write_count = 0;
}

static void note_write(struct medium *m, const void *data, size_t bytes, uint64_t offset)
{
    if (!m)
        return;
    assert(m->write_count < WRITES_MAX);
    uint8_t *copy = data ? malloc(bytes) : NULL;
    if (data)
        memcpy(copy, data, bytes);
    m->exists = true;
    m->writes[m->write_count].offset = offset;
    m->writes[m->write_count].bytes = bytes;
    m->writes[m->write_count++].data = copy;
}

static void apply(struct medium *m, unsigned at, size_t bytes)
{
    uint64_t offset = m->writes[at].offset;
    if (!m->writes[at].data) {
        m->synced_bytes = min_u64(m->synced_bytes, offset);
        return;
    }
    assert(offset + bytes <= FILE_BYTES_MAX);
    if (offset > m->synced_bytes)
        memset(m->synced + m->synced_bytes, 0, offset - m->synced_bytes);
    memcpy(m->synced + offset, m->writes[at].data, bytes);
    m->synced_bytes = max_u64(m->synced_bytes, offset + bytes);
}

static void note_sync(struct medium *m)
{
    if (!m)
        return;
    for (unsigned i = 0; i < m->write_count; i++)
        apply(m, i, m->writes[i].bytes);
    forget_writes(m);
}

void faulty_vfs_watch(const char *directory)
{
    for (unsigned i = 0; i < FILES_MAX; i++) {
        struct medium *m = &media[i];
        forget_writes(m);
        m->name[0] = 0;
        m->exists = false;
        m->synced_bytes = 0;
        if (!m->synced)
            m->synced = calloc(1, FILE_BYTES_MAX);
    }
    watching = true;
    DIR *dir = opendir(directory);
    assert(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        char path[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", directory, e->d_name);
        struct medium *m = find_medium(path);
        int fd = open(path, O_RDONLY);
        ssize_t n = read(fd, m->synced, FILE_BYTES_MAX);
        assert(n >= 0);
        close(fd);
        m->synced_bytes = (size_t)n;
        m->exists = true;
    }
    closedir(dir);
}

void faulty_vfs_cut(const char *directory, uint64_t seed)
{
    struct prng prng = prng_seed(seed);
    watching = false;
    for (unsigned i = 0; i < FILES_MAX; i++) {
        struct medium *m = &media[i];
        if (!m->exists)
            continue;
        for (unsigned w = 0; w < m->write_count; w++) {
            uint64_t how = prng_below(&prng, 3);
            size_t part = SECTOR_BYTES * prng_below(&prng, m->writes[w].bytes / SECTOR_BYTES + 1);
            if (how)
                apply(m, w, how == 1 ? m->writes[w].bytes : min_u64(part, m->writes[w].bytes));
        }
        char path[4096];
        snprintf(path, sizeof(path), "%s/%.63s", directory, m->name);
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        ssize_t n = write(fd, m->synced, m->synced_bytes);
        assert(n == (ssize_t)m->synced_bytes);
        close(fd);
    }
}

/* ---- files ---- */

#define REAL(f) (((struct file *)(f))->real)
#define BELOW(f, call, ...) REAL(f)->pMethods->call(REAL(f), ##__VA_ARGS__)

static struct medium *medium_of(sqlite3_file *f)
{
    const char *name = ((struct file *)f)->name;
    return watching && name ? find_medium(name) : NULL;
}

static int file_close(sqlite3_file *f) { return BELOW(f, xClose); }
static int file_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at) { return BELOW(f, xRead, to, n, at); }

static int file_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at)
{
    bool failing = fails();
    if (failing && !fail_carried_out)
        return fail_code;
    note_write(medium_of(f), from, (size_t)n, (uint64_t)at);
    int rc = BELOW(f, xWrite, from, n, at);
    return failing ? fail_code : rc;
}

static int file_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    if (fails())
        return fail_code;
    note_write(medium_of(f), NULL, 0, (uint64_t)size);
    return BELOW(f, xTruncate, size);
}

static int file_sync(sqlite3_file *f, int flags)
{
    bool failing = fails();
    if (failing && !fail_carried_out)
        return fail_code;
    note_sync(medium_of(f));
    int rc = BELOW(f, xSync, flags);
    return failing ? fail_code : rc;
}

static int file_size(sqlite3_file *f, sqlite3_int64 *out) { return BELOW(f, xFileSize, out); }
static int file_lock(sqlite3_file *f, int level) { return BELOW(f, xLock, level); }
static int file_unlock(sqlite3_file *f, int level) { return BELOW(f, xUnlock, level); }
static int file_check(sqlite3_file *f, int *out) { return BELOW(f, xCheckReservedLock, out); }
static int file_control(sqlite3_file *f, int op, void *arg) { return BELOW(f, xFileControl, op, arg); }
static int file_sector(sqlite3_file *f) { return BELOW(f, xSectorSize); }
static int file_traits(sqlite3_file *f) { return BELOW(f, xDeviceCharacteristics); }

/* Of the first version: without shared memory, which an exclusive database does not need. */
static const sqlite3_io_methods methods = {
    1,         file_close,  file_read,  file_write,   file_truncate, file_sync,   file_size,
    file_lock, file_unlock, file_check, file_control, file_sector,   file_traits,
};

static int vfs_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
    struct file *file = (struct file *)f;
    file->base.pMethods = NULL;
    file->name = name;
    int rc = below->xOpen(below, name, file->real, flags, out_flags);
    if (rc != SQLITE_OK)
        return rc;
    file->base.pMethods = &methods;
    if (watching && name)
        find_medium(name)->exists = true;
    return rc;
}

static int vfs_delete(sqlite3_vfs *v, const char *name, int sync)
{
    if (fails())
        return fail_code;
    if (watching) {
        struct medium *m = find_medium(name);
        forget_writes(m);
        m->exists = false;
        m->synced_bytes = 0;
    }
    return below->xDelete(below, name, sync);
}

void faulty_vfs_install(void)
{
    below = sqlite3_vfs_find(NULL);
    vfs = *below;
    vfs.zName = "faulty";
    vfs.szOsFile = (int)sizeof(struct file) + below->szOsFile;
    vfs.xOpen = vfs_open;
    vfs.xDelete = vfs_delete;
    int rc = sqlite3_vfs_register(&vfs, 1);
    assert(rc == SQLITE_OK);
}
