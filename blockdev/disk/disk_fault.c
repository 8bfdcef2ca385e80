/* A filter that makes requests fail, by seed. */
#include <errno.h>
#include <stdlib.h>

#include "blockdev/disk/disk_private.h"
#include "repl/base/prng.h"
#include "repl/base/range.h"

struct disk_fault {
    struct disk disk;
    struct disk_fault_config config;
    struct prng prng;
    uint64_t requests;
};

static void cut_short_done(struct disk_io *io)
{
    io->length_bytes = *disk_filter_note(io);
    disk_filter_leave(io);
    if (io->result == 0)
        io->result = -EIO;
    io->done(io);
}

static bool touches(const struct disk_fault_config *c, const struct disk_io *io)
{
    if (c->error_length_bytes == 0 || io->kind == OP_FLUSH)
        return true;
    return range_overlaps((struct range) { c->error_offset_bytes, c->error_length_bytes },
                          (struct range) { io->offset_bytes, io->length_bytes });
}

static void fault_submit(struct disk *d, struct disk_io *io)
{
    struct disk_fault *f = container_of(d, struct disk_fault, disk);
    const struct disk_fault_config *c = &f->config;
    /* As many draws for every request, so that what one suffers does not depend on what the others were. */
    bool fail = prng_chance(&f->prng, c->error_per_million[io->kind]);
    bool cut = prng_chance(&f->prng, c->short_per_million);
    uint64_t portion = prng_next(&f->prng);
    bool spared = f->requests++ < c->error_after_requests || !touches(c, io);
    uint64_t blocks = io->length_bytes / d->geometry.logical_block_bytes;
    if (!spared && fail) {
        disk_end_later(d->ring, io, c->error);
    } else if (!spared && cut && blocks > 1 && (io->kind == OP_READ || io->kind == OP_WRITE)) {
        disk_filter_enter(d, io, cut_short_done);
        *disk_filter_note(io) = io->length_bytes;
        io->length_bytes = (1 + portion % (blocks - 1)) * d->geometry.logical_block_bytes;
        disk_submit(d->below, io);
    } else {
        disk_submit(d->below, io);
    }
}

static void fault_map(struct disk *d, struct disk_map *map) { disk_map(d->below, map); }

static void fault_close(struct disk *d) { free(container_of(d, struct disk_fault, disk)); }

static const struct disk_ops fault_ops = { fault_submit, fault_map, NULL, fault_close };

void disk_filter_fault_set(struct disk *d, const struct disk_fault_config *config)
{
    assert(d->ops == &fault_ops && config->error < 0);
    struct disk_fault *f = container_of(d, struct disk_fault, disk);
    f->config = *config;
    f->prng = prng_seed(config->seed);
    f->requests = 0;
}

struct disk *disk_filter_fault(struct disk *below, const struct disk_fault_config *config, struct err *err)
{
    struct disk_fault *f = calloc(1, sizeof(*f));
    if (!f) {
        err_set(err, -ENOMEM, "%s: no memory for a fault filter", below->path);
        return NULL;
    }
    if (disk_filter_init(&f->disk, &fault_ops, below, err) < 0) {
        free(f);
        return NULL;
    }
    disk_filter_fault_set(&f->disk, config);
    return &f->disk;
}
