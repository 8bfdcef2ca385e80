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

#define CLEANUP_FREE __attribute__((cleanup(scoped_free)))
#define CLEANUP_CLOSE __attribute__((cleanup(scoped_close)))
