/* Looks for anything but zeroes on a backing. */
#include "repl/node/blank.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repl/base/scoped.h"

#define LOOK_STEP_BYTES (1 * MIB)
#define LOOK_ALIGN_BYTES 4096

static bool only_zeroes(const uint8_t *bytes, size_t count)
{
    return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}

/* Of a block device it is not known what is a hole. */
static uint64_t skip_holes(int fd, uint64_t at, uint64_t size_bytes)
{
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? size_bytes : at;
    return max_u64(at, align_down((uint64_t)data, LOOK_ALIGN_BYTES));
}

int blank_look(const char *path, int fd, uint64_t size_bytes, struct err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    if (posix_memalign(&bytes, LOOK_ALIGN_BYTES, LOOK_STEP_BYTES))
        return err_set(err, -ENOMEM, "out of memory");
    for (uint64_t at = 0, looked = 0; looked < BLANK_LOOK_BYTES; looked += LOOK_STEP_BYTES) {
        at = skip_holes(fd, at, size_bytes);
        if (at >= size_bytes)
            break;
        ssize_t n = pread(fd, bytes, LOOK_STEP_BYTES, (off_t)at);
        if (n < 0)
            return err_set(err, -errno, "%s: cannot be read at offset %llu: %s", path, (unsigned long long)at,
                           strerror(errno));
        if (n == 0)
            break;
        if (!only_zeroes(bytes, (size_t)n))
            return err_set(err, -EEXIST, "%s: is not blank: there is data in the MiB at offset %llu", path,
                           (unsigned long long)at);
        at += (uint64_t)n;
    }
    return 0;
}
