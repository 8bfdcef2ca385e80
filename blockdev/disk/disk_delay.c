/* A filter that makes requests wait, by seed. */
#include <errno.h>
#include <stdlib.h>

#include "blockdev/disk/disk_private.h"
#include "repl/base/prng.h"

struct disk_delay {
    struct disk disk;
    struct disk_delay_config config;
    struct prng prng;
};

static void waited(struct ring_timer *t)
{
    struct disk_io *io = container_of(t, struct disk_io, timer);
    struct disk *below = disk_filter_of(io)->below;
    disk_filter_leave(io);
    disk_submit(below, io);
}

static void delay_submit(struct disk *d, struct disk_io *io)
{
    struct disk_delay *f = container_of(d, struct disk_delay, disk);
    uint64_t span_ns = f->config.max_ns - f->config.min_ns;
    uint64_t wait_ns = f->config.min_ns + prng_below(&f->prng, span_ns + 1);
    disk_filter_enter(d, io, io->done);
    io->timer.fired = waited;
    ring_timer_set(d->ring, &io->timer, ring_now_ns(d->ring) + wait_ns);
}

static void delay_map(struct disk *d, struct disk_map *map) { disk_map(d->below, map); }

static void delay_close(struct disk *d) { free(container_of(d, struct disk_delay, disk)); }

static const struct disk_ops delay_ops = { delay_submit, delay_map, NULL, delay_close };

struct disk *disk_filter_delay(struct disk *below, const struct disk_delay_config *config, struct err *err)
{
    assert(config->min_ns <= config->max_ns && config->max_ns < UINT64_MAX);
    struct disk_delay *f = calloc(1, sizeof(*f));
    if (!f) {
        err_set(err, -ENOMEM, "%s: no memory for a delay filter", below->path);
        return NULL;
    }
    if (disk_filter_init(&f->disk, &delay_ops, below, err) < 0) {
        free(f);
        return NULL;
    }
    f->config = *config;
    f->prng = prng_seed(config->seed);
    return &f->disk;
}
