/* What disks and filters have in common. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockdev/disk/disk_private.h"

void disk_close(struct disk *d)
{
    while (d) {
        struct disk *below = d->below;
        d->ops->close(d);
        d = below;
    }
}

int disk_look_again(struct disk *d, struct err *err)
{
    struct disk *bottom = d;
    while (bottom->below)
        bottom = bottom->below;
    uint64_t size_bytes;
    int r = bottom->ops->look_again(bottom, &size_bytes);
    if (r < 0)
        return err_set(err, r, "%s: its size cannot be told: %s", d->path, strerror(-r));
    if (size_bytes < bottom->geometry.size_bytes)
        return err_set(err, -ENOSPC, "%s: has shrunk from %llu to %llu bytes: restore its size", d->path,
                       (unsigned long long)bottom->geometry.size_bytes, (unsigned long long)size_bytes);
    for (; d; d = d->below)
        d->geometry.size_bytes = size_bytes;
    return 0;
}

static void end_now(struct ring_timer *t)
{
    struct disk_io *io = container_of(t, struct disk_io, timer);
    io->done(io);
}

void disk_end_later(struct ring *r, struct disk_io *io, int32_t result)
{
    io->result = result;
    io->timer.fired = end_now;
    ring_timer_set(r, &io->timer, 0);
}

int disk_filter_init(struct disk *d, const struct disk_ops *ops, struct disk *below, struct err *err)
{
    unsigned filters = 1;
    for (const struct disk *b = below; b->below; b = b->below)
        filters++;
    if (filters > DISK_FILTERS_MAX)
        return err_set(err, -E2BIG, "%s: at most %d filters stand on a disk", below->path, DISK_FILTERS_MAX);
    *d = *below;
    d->ops = ops;
    d->below = below;
    return 0;
}

void disk_filter_enter(struct disk *d, struct disk_io *io, disk_done_fn *done)
{
    assert(io->depth < DISK_FILTERS_MAX);
    io->above[io->depth].filter = d;
    io->above[io->depth].done = io->done;
    io->depth++;
    io->done = done;
}

struct disk *disk_filter_of(const struct disk_io *io)
{
    assert(io->depth > 0);
    return io->above[io->depth - 1].filter;
}

uint64_t *disk_filter_note(struct disk_io *io)
{
    assert(io->depth > 0);
    return &io->above[io->depth - 1].note;
}

void disk_filter_leave(struct disk_io *io)
{
    assert(io->depth > 0);
    io->depth--;
    io->done = io->above[io->depth].done;
}
