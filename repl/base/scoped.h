/* Scoped cleanup for set-up code: the resource goes when the variable does. The write path owns nothing to free. */
#pragma once

#include <stdlib.h>
#include <unistd.h>

static inline void scoped_free(void *p) { free(*(void **)p); }

static inline void scoped_close(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* Takes the file out of its variable's care, to hand it on. */
static inline int scoped_take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#define CLEANUP_FREE __attribute__((cleanup(scoped_free)))
#define CLEANUP_CLOSE __attribute__((cleanup(scoped_close)))
