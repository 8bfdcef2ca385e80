/* Setting a ring up with the best the kernel has, and saying plainly what is wrong where it has none. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "blockdev/ring/ring_private.h"

static const struct mode {
    unsigned flags;
    const char *name;
    const char *since;
} modes[] = {
    /* Completions are processed when the loop asks, all at once, and never interrupt it in between. */
    { IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
      "single issuer, deferred task work", "6.1" },
    { IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL, "cooperative task work",
      "5.19" },
    { 0, "plain", "5.15" },
};

/* What 5.15 has and the loop relies on. */
#define FEATURES_NEEDED                                                                                                \
    (IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG |                    \
     IORING_FEAT_NATIVE_WORKERS | IORING_FEAT_RSRC_TAGS)

void ring_log(const struct ring *r, const char *format, ...)
{
    if (!r->log)
        return;
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    r->log(r->log_ctx, text);
}

/* The first integer after `key` in a file of /proc, or -1. */
static long proc_value(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    char line[256];
    long value = -1;
    while (value < 0 && fgets(line, sizeof(line), f)) {
        if (strncmp(line, key, strlen(key)) == 0)
            value = strtol(line + strlen(key), NULL, 10);
    }
    fclose(f);
    return value;
}

static int explain(struct err *err, int code)
{
    struct utsname u = { .release = "unknown" };
    uname(&u);
    long disabled = proc_value("/proc/sys/kernel/io_uring_disabled", "");
    bool filtered = proc_value("/proc/self/status", "Seccomp:") == 2;
    switch (-code) {
    case EPERM:
    case EACCES:
        if (disabled == 2)
            return err_set(err, code,
                           "io_uring is disabled on this machine (kernel.io_uring_disabled = 2): allow it with "
                           "'sysctl kernel.io_uring_disabled=0'");
        if (disabled == 1)
            return err_set(err, code,
                           "io_uring is restricted on this machine (kernel.io_uring_disabled = 1): run as a member of "
                           "the group in kernel.io_uring_group, or allow it with 'sysctl kernel.io_uring_disabled=0'");
        if (filtered)
            return err_set(err, code,
                           "io_uring is forbidden by the seccomp filter of this container or service: allow "
                           "io_uring_setup, io_uring_enter and io_uring_register in its profile");
        return err_set(err, code,
                       "io_uring is not permitted to this process: look at the security policy (SELinux, AppArmor) "
                       "that it runs under");
    case ENOSYS:
        if (filtered)
            return err_set(err, code,
                           "io_uring is hidden by the seccomp filter of this container or service, or missing in this "
                           "kernel (%s): allow io_uring_setup, io_uring_enter and io_uring_register in its profile",
                           u.release);
        return err_set(err, code,
                       "this kernel (%s) has no io_uring: Linux 5.15 or newer, built with CONFIG_IO_URING, is needed",
                       u.release);
    case ENOMEM: return err_set(err, code, "io_uring: no memory for the ring: %s", strerror(-code));
    case EMFILE:
        return err_set(err, code,
                       "io_uring: too many open files: raise the limit (LimitNOFILE= in the service, or ulimit -n)");
    default: return err_set(err, code, "io_uring cannot be set up: %s", strerror(-code));
    }
}

static int set_up(struct ring *r, const struct ring_config *config, struct err *err)
{
    struct utsname u = { .release = "unknown" };
    uname(&u);
    int rc = -EINVAL;
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct io_uring_params p = {
            .flags = modes[i].flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
            .cq_entries = config->entries * 4,
        };
        bool last = i + 1 == ARRAY_LEN(modes);
        rc = i < config->modes_skipped && !last ? -EINVAL : io_uring_queue_init_params(config->entries, &r->uring, &p);
        if (rc == -EINVAL && !last) {
            ring_log(r, "io_uring: this kernel (%s) lacks '%s' (Linux %s): going on with '%s'", u.release,
                     modes[i].name, modes[i].since, modes[i + 1].name);
            continue;
        }
        if (rc < 0)
            return explain(err, rc);
        r->mode = modes[i].name;
        r->can_poll_first = !last;
        r->tells_of_work = modes[i].flags & IORING_SETUP_TASKRUN_FLAG;
        if ((p.features & FEATURES_NEEDED) != FEATURES_NEEDED) {
            io_uring_queue_exit(&r->uring);
            return err_set(err, -ENOSYS, "the io_uring of this kernel (%s) is too old: Linux 5.15 or newer is needed",
                           u.release);
        }
        break;
    }
    /* Saves a look-up in every io_uring_enter(); Linux 5.18. Nothing is lost without. */
    io_uring_register_ring_fd(&r->uring);
    return 0;
}

static int register_files(struct ring *r, unsigned files_max, struct err *err)
{
    if (files_max == 0)
        return 0;
    int rc = io_uring_register_files_sparse(&r->uring, files_max);
    if (rc == -EINVAL) { /* before Linux 5.19: the same, spelled out */
        int *none = malloc(files_max * sizeof(*none));
        if (!none)
            return err_set(err, -ENOMEM, "io_uring: no memory for %u files", files_max);
        for (unsigned i = 0; i < files_max; i++)
            none[i] = -1;
        rc = io_uring_register_files(&r->uring, none, files_max);
        free(none);
    }
    if (rc == -EMFILE)
        return err_set(err, rc,
                       "io_uring: the limit on open files is below the %u that are needed: raise it (LimitNOFILE= in "
                       "the service, or ulimit -n)",
                       files_max);
    if (rc < 0)
        return err_set(err, rc, "io_uring: registering %u files: %s", files_max, strerror(-rc));
    r->free_slots = malloc(files_max * sizeof(*r->free_slots));
    if (!r->free_slots)
        return err_set(err, -ENOMEM, "io_uring: no memory for %u files", files_max);
    r->files_max = files_max;
    while (r->free_slot_count < files_max) {
        r->free_slots[r->free_slot_count] = files_max - 1 - r->free_slot_count;
        r->free_slot_count++;
    }
    return 0;
}

/* Only faster, hence never an error. */
static void register_arena(struct ring *r, void *arena, size_t arena_bytes)
{
    if (arena_bytes == 0)
        return;
    struct iovec pieces[RING_ARENA_PIECES_MAX];
    unsigned count = 0;
    for (size_t at = 0; at < arena_bytes && count < RING_ARENA_PIECES_MAX; at += RING_ARENA_PIECE_BYTES) {
        pieces[count].iov_base = (uint8_t *)arena + at;
        pieces[count].iov_len = min_u64(arena_bytes - at, RING_ARENA_PIECE_BYTES);
        count++;
    }
    int rc = io_uring_register_buffers(&r->uring, pieces, count);
    if (rc == 0) {
        r->arena = (uintptr_t)arena;
        r->arena_bytes = min_u64(arena_bytes, count * RING_ARENA_PIECE_BYTES);
        return;
    }
    struct rlimit limit = { 0 };
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (rc == -ENOMEM && limit.rlim_cur != RLIM_INFINITY)
        ring_log(r,
                 "io_uring: the buffers (%llu MiB) stay unregistered, which costs some speed: the limit on locked "
                 "memory is %llu KiB: raise it (LimitMEMLOCK=infinity in the service, or ulimit -l)",
                 (unsigned long long)(arena_bytes / MIB), (unsigned long long)(limit.rlim_cur / KIB));
    else
        ring_log(r, "io_uring: the buffers (%llu MiB) stay unregistered, which costs some speed: %s",
                 (unsigned long long)(arena_bytes / MIB), strerror(-rc));
}

struct ring *ring_open(const struct ring_config *config, struct err *err)
{
    assert(config->entries > 0);
    struct ring *r = calloc(1, sizeof(*r));
    if (!r) {
        err_set(err, -ENOMEM, "io_uring: out of memory");
        return NULL;
    }
    r->wake_fd = -1;
    r->alarm_due_ns = UINT64_MAX;
    r->log = config->log;
    r->log_ctx = config->log_ctx;
    list_init(&r->backlog);
    list_init(&r->kernel);
    list_init(&r->ended);
    list_init(&r->timers);
    if (set_up(r, config, err) < 0) {
        free(r);
        return NULL;
    }
    register_arena(r, config->arena, config->arena_bytes);
    int rc = register_files(r, config->files_max, err);
    if (rc == 0 && (rc = ring_wake_open(r)) < 0)
        err_set(err, rc, "io_uring: eventfd: %s", strerror(-rc));
    if (rc < 0) {
        ring_close(r);
        return NULL;
    }
    return r;
}

int ring_register_file(struct ring *r, int fd)
{
    if (r->free_slot_count == 0)
        return -ENFILE;
    unsigned slot = r->free_slots[r->free_slot_count - 1];
    int rc = io_uring_register_files_update(&r->uring, slot, &fd, 1);
    if (rc < 0)
        return rc;
    r->free_slot_count--;
    return (int)slot;
}

void ring_unregister_file(struct ring *r, int slot)
{
    assert(slot >= 0 && (unsigned)slot < r->files_max && r->free_slot_count < r->files_max);
    int none = -1;
    int rc = io_uring_register_files_update(&r->uring, (unsigned)slot, &none, 1);
    assert(rc == 1);
    r->free_slots[r->free_slot_count++] = (unsigned)slot;
}
