/* Who holds a backing? Read from /proc and /sys, for a message that a person can act on. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "blockdev/disk/disk_private.h"

#define CACHED_ATTEMPTS 8 /* a rename anywhere can spoil one */
#define PF_EXITING 0x4    /* include/linux/sched.h; in field 9 of /proc/PID/stat */

/* A process that was killed but is still on its way out lets go soon. */
static bool is_leaving(long pid)
{
    char path[64], line[1024];
    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return true;
    char *got = fgets(line, sizeof(line), f);
    fclose(f);
    /* The name, in parentheses, may hold anything. */
    const char *end = got ? strrchr(line, ')') : NULL;
    char state = 'X';
    unsigned long task_flags = 0;
    if (!end || sscanf(end, ") %c %*d %*d %*d %*d %*d %lu", &state, &task_flags) != 2)
        return true;
    if (state == 'Z' || state == 'X' || (task_flags & PF_EXITING))
        return true;
    snprintf(path, sizeof(path), "/proc/%ld/status", pid);
    f = fopen(path, "re");
    if (!f)
        return true;
    unsigned long long pending = 0;
    bool killed = false;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "SigPnd: %llx", &pending) == 1 || sscanf(line, "ShdPnd: %llx", &pending) == 1)
            killed = killed || (pending >> (SIGKILL - 1) & 1);
    }
    fclose(f);
    return killed;
}

static void name_process(long pid, char *who, size_t who_bytes)
{
    char path[64], name[64] = "a process";
    snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
    FILE *f = fopen(path, "re");
    if (f) {
        if (fgets(name, sizeof(name), f))
            name[strcspn(name, "\n")] = 0;
        fclose(f);
    }
    snprintf(who, who_bytes, "%s (pid %ld)", name, pid);
}

/* Files are locked by flock(). */
static long locker_of(const struct stat *st)
{
    FILE *f = fopen("/proc/locks", "re");
    if (!f)
        return 0;
    char line[256];
    long found = 0;
    while (!found && fgets(line, sizeof(line), f)) {
        long pid;
        unsigned major, minor;
        unsigned long inode;
        if (sscanf(line, "%*d: FLOCK %*s %*s %ld %x:%x:%lu", &pid, &major, &minor, &inode) == 4 &&
            makedev(major, minor) == st->st_dev && inode == st->st_ino)
            found = pid;
    }
    fclose(f);
    return found;
}

/* Devices built on top (LVM, RAID, dm-crypt, ...). */
static bool device_above(const struct stat *st, char *who, size_t who_bytes)
{
    char path[64];
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders", major(st->st_rdev), minor(st->st_rdev));
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    bool found = false;
    const struct dirent *e;
    while (!found && (e = readdir(dir))) {
        if (e->d_name[0] != '.') {
            snprintf(who, who_bytes, "the device /dev/%s, which stands on it", e->d_name);
            found = true;
        }
    }
    closedir(dir);
    return found;
}

static bool mounted_at(const struct stat *st, char *who, size_t who_bytes)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return false;
    char line[PATH_MAX + 256], at[PATH_MAX];
    bool found = false;
    while (!found && fgets(line, sizeof(line), f)) {
        unsigned major, minor;
        if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &major, &minor, at) == 3 && makedev(major, minor) == st->st_rdev) {
            snprintf(who, who_bytes, "the file system that is mounted at %s", at);
            found = true;
        }
    }
    fclose(f);
    return found;
}

/* True when a process has the device open for writing: whoever only reads (udev, blkid) holds no lock. */
static bool writes_device(long pid, const struct stat *st)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%ld/fd", pid);
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    bool found = false;
    const struct dirent *e;
    while (!found && (e = readdir(dir))) {
        struct stat open_st;
        if (!isdigit((unsigned char)e->d_name[0]) || fstatat(dirfd(dir), e->d_name, &open_st, 0) < 0 ||
            !S_ISBLK(open_st.st_mode) || open_st.st_rdev != st->st_rdev)
            continue;
        struct stat link_st;
        found = fstatat(dirfd(dir), e->d_name, &link_st, AT_SYMLINK_NOFOLLOW) == 0 && (link_st.st_mode & S_IWUSR);
    }
    closedir(dir);
    return found;
}

static long writer_of(const struct stat *st)
{
    DIR *dir = opendir("/proc");
    if (!dir)
        return 0;
    long found = 0;
    const struct dirent *e;
    while (!found && (e = readdir(dir))) {
        long pid = strtol(e->d_name, NULL, 10);
        if (pid > 0 && writes_device(pid, st))
            found = pid;
    }
    closedir(dir);
    return found;
}

/* As stat(), of a file that somebody holds open, but without ever asking a file system that may have to ask somebody:
 * the loop device may stand on a network or FUSE file system that hangs, perhaps for want of this very volume. What
 * such a file system does not vouch for at once is taken for another file. */
static bool stat_held(const char *path, struct stat *out)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_CACHED };
    int fd = -1;
    errno = EAGAIN;
    for (unsigned attempt = 0; fd < 0 && errno == EAGAIN && attempt < CACHED_ATTEMPTS; attempt++)
        fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
    if (fd < 0)
        return errno != EAGAIN && errno != ENOENT && stat(path, out) == 0; /* openat2() is not allowed here */
    struct statx st;
    bool known = statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &st) == 0;
    close(fd);
    out->st_dev = makedev(st.stx_dev_major, st.stx_dev_minor);
    out->st_ino = st.stx_ino;
    return known;
}

static bool is_loop_on(const char *device, const struct stat *st)
{
    char path[128], file[PATH_MAX];
    snprintf(path, sizeof(path), "/sys/block/%.64s/loop/backing_file", device);
    FILE *f = fopen(path, "re");
    if (!f) /* not in use */
        return false;
    const char *got = fgets(file, sizeof(file), f);
    fclose(f);
    struct stat below;
    if (!got)
        return false;
    file[strcspn(file, "\n")] = 0;
    return stat_held(file, &below) && below.st_dev == st->st_dev && below.st_ino == st->st_ino;
}

bool disk_under_loop(const struct stat *st, char *who, size_t who_bytes)
{
    DIR *dir = opendir("/sys/block");
    if (!dir)
        return false;
    bool found = false;
    const struct dirent *e;
    while (!found && (e = readdir(dir))) {
        found = strncmp(e->d_name, "loop", 4) == 0 && is_loop_on(e->d_name, st);
        if (found)
            snprintf(who, who_bytes, "the loop device /dev/%.64s, which stands on it", e->d_name);
    }
    closedir(dir);
    return found;
}

bool disk_busy_by(const char *path, const struct stat *st, char *who, size_t who_bytes)
{
    bool device = S_ISBLK(st->st_mode);
    if (device && (device_above(st, who, who_bytes) || mounted_at(st, who, who_bytes)))
        return true;
    long pid = device ? writer_of(st) : locker_of(st);
    if (pid > 0) {
        name_process(pid, who, who_bytes);
        return !is_leaving(pid);
    }
    snprintf(who, who_bytes, "something that cannot be seen from here (try 'fuser -v %s' and lsblk)", path);
    return false;
}
