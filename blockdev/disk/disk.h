/* A backing device: a block device or a file, opened for O_DIRECT, on the ring. Filters with the same face stack on
 * top.
 *
 * A disk_io is embedded and kept by its owner until `done`; nothing is allocated per request. Requests are not ordered
 * among each other: who needs an order waits. `done` is never called from within disk_submit(). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "blockdev/ring/ring.h"
#include "repl/base/err.h"
#include "repl/core/op.h"

struct disk;
struct disk_io;

typedef void disk_done_fn(struct disk_io *io);

struct disk_io {
    /* The owner fills these in. */
    enum op_kind kind;
    uint32_t flags;        /* OP_FLAG_ */
    uint64_t offset_bytes; /* multiples of BLOCK_BYTES */
    uint64_t length_bytes; /* OP_FLUSH: 0 */
    void *data;            /* OP_READ, OP_WRITE: length_bytes; aligned to BUF_BYTES_MIN */
    disk_done_fn *done;

    /* The result: 0, or a negative errno. A short transfer that does not go on is -EIO (reads beyond the end too). */
    int32_t result;

    /* The disk's own from here on. */
    struct disk *disk;
    struct ring_op op;
    struct list link;
    struct ring_timer timer;
    uint64_t progress_bytes;
    uint32_t phase;
    disk_done_fn *outer_done; /* a filter keeps the owner's here */
};

struct disk_geometry {
    uint64_t size_bytes;          /* of the whole backing, a multiple of BLOCK_BYTES */
    uint32_t logical_block_bytes; /* what O_DIRECT needs offsets and lengths aligned to: at most 4096 */
    uint32_t memory_align_bytes;  /* what O_DIRECT needs memory aligned to: at most BUF_BYTES_MIN */
    bool is_block_device;
    bool rotational;
    bool can_unmap;     /* discards give storage back and leave zeroes */
    bool fua;           /* a single write can be made durable without a whole flush */
    bool writes_inline; /* writes never fall back to kernel worker threads (memory-backed files) */
};

struct disk_ops {
    void (*submit)(struct disk *d, struct disk_io *io);
    void (*close)(struct disk *d);
};

struct disk {
    const struct disk_ops *ops;
    struct disk *below; /* filters: what they stand on */
    struct disk_geometry geometry;
    char path[256];
};

static inline void disk_submit(struct disk *d, struct disk_io *io) { d->ops->submit(d, io); }

/* Closes the whole stack. No request may be in flight. */
void disk_close(struct disk *d);

#define DISK_OPEN_READ_ONLY (1u << 0)

/* Opens a backing for exclusive use: a second opener, also in another process, gets -EBUSY. The lock lives until the
 * last request in flight has ended, even if the process is killed. Errors name the path and what to do. */
struct disk *disk_open(struct ring *r, const char *path, unsigned flags, struct err *err);

/* The same lock and checks without a ring, for set-up code (`create`, reading the superblock): an open descriptor for
 * O_DIRECT and its geometry, or a negative errno. */
int disk_open_fd(const char *path, unsigned flags, struct disk_geometry *geometry, struct err *err);

/* Which runs of [offset, offset + length) hold data and which are holes, for NBD block status. Asked of the file system
 * on a thread beside the ring. Calls `each` on the ring's thread for every run in order, then `done`. */
struct disk_map {
    uint64_t offset_bytes;
    uint64_t length_bytes;
    unsigned runs_max;
    void (*done)(struct disk_map *map);
    struct disk_run {
        uint64_t length_bytes;
        bool hole;
    } runs[64];
    unsigned run_count; /* result; at least 1, covering a prefix of the range */
    int32_t result;
    struct ring_task task;
    struct disk *disk;
    struct list link;
};
void disk_map(struct disk *d, struct disk_map *map);

/* Filters. Each takes over `below` and is closed with it. Seeded: the same seed gives the same faults for the same
 * sequence of requests. */
struct disk_fault_config {
    uint64_t seed;
    unsigned error_per_million[OP_FLUSH + 1]; /* by op_kind */
    int error;                                /* negative errno that is given */
    uint64_t error_offset_bytes;              /* only requests that touch this range fail; length 0: everywhere */
    uint64_t error_length_bytes;
    uint64_t error_after_requests; /* none of the first that many */
    unsigned short_per_million;    /* transfers cut short: done in part, then -EIO */
};
struct disk *disk_filter_fault(struct disk *below, const struct disk_fault_config *config, struct err *err);

struct disk_delay_config {
    uint64_t seed;
    uint64_t min_ns;
    uint64_t max_ns;
};
struct disk *disk_filter_delay(struct ring *r, struct disk *below, const struct disk_delay_config *config,
                               struct err *err);
