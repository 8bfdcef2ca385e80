/* A backing device: a block device or a file, opened for O_DIRECT, on the ring. Filters with the same face stack on
 * top.
 *
 * A disk_io is embedded, zeroed before its first use, and kept by its owner until `done`; nothing is allocated per
 * request. Requests are not ordered among each other: who needs an order waits. `done` is never called from within
 * disk_submit(); the io may be submitted again inside `done`. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "blockdev/ring/ring.h"
#include "repl/base/err.h"
#include "repl/core/op.h"

struct disk;
struct disk_io;

typedef void disk_done_fn(struct disk_io *io);

#define DISK_FILTERS_MAX 4

struct disk_io {
    /* The owner fills these in. */
    enum op_kind kind;
    uint32_t flags;        /* OP_FLAG_ */
    uint64_t offset_bytes; /* multiples of geometry.logical_block_bytes, else the result is -EINVAL */
    uint64_t length_bytes; /* > 0, likewise; at most IO_BYTES_MAX for OP_READ, OP_WRITE; OP_FLUSH: 0 */
    void *data;            /* OP_READ, OP_WRITE: length_bytes; aligned to BUF_BYTES_MIN */
    disk_done_fn *done;

    /* The result: 0: all of it was done; else a negative errno. A short transfer that does not go on is -EIO; what does
     * not lie inside the disk is -EIO for OP_READ and -ENOSPC for changes, and nothing was done. */
    int32_t result;

    /* The disk's own from here on. */
    uint32_t step;
    uint32_t retries;
    uint32_t depth; /* filters that the io went through */
    uint64_t progress_bytes;
    struct disk *disk;
    struct ring_op op;
    struct ring_timer timer;
    struct {
        struct disk *filter;
        disk_done_fn *done; /* of whoever is above that filter */
        uint64_t note;      /* the filter's own */
    } above[DISK_FILTERS_MAX];
};

struct disk_geometry {
    uint64_t size_bytes;          /* of the whole backing, a multiple of logical_block_bytes */
    uint32_t logical_block_bytes; /* what offsets and lengths must be multiples of: 512 ... 4096, a power of two */
    uint32_t memory_align_bytes;  /* what O_DIRECT needs memory aligned to: at most BUF_BYTES_MIN */
    bool is_block_device;
    bool
        direct; /* false: the file system refuses O_DIRECT, so that writes go through the page cache; worth a warning */
    bool rotational;
    bool can_unmap;     /* discards give storage back; they leave zeroes in any case */
    bool zeroes_fast;   /* OP_WRITE_ZEROES need not write zeroes out, as far as is known before the first one */
    bool fua;           /* a single write can be made durable without a whole flush */
    bool writes_inline; /* writes never fall back to kernel worker threads (memory-backed files) */
};

struct disk_map;

struct disk_ops {
    void (*submit)(struct disk *d, struct disk_io *io);
    void (*map)(struct disk *d, struct disk_map *map);
    int (*look_again)(struct disk *d, uint64_t *size_bytes); /* filters: NULL */
    void (*close)(struct disk *d);
};

struct disk {
    const struct disk_ops *ops;
    struct ring *ring;
    struct disk *below; /* filters: what they stand on */
    struct disk_geometry geometry;
    char path[256];
};

static inline void disk_submit(struct disk *d, struct disk_io *io) { d->ops->submit(d, io); }

/* The backing may have grown: from now on all that stand on it know its present size. -ENOSPC: it has shrunk. `d`: the
 * top of the stack. */
int disk_look_again(struct disk *d, struct err *err);

/* Closes the whole stack and lets go of the backing. No request may be in flight. */
void disk_close(struct disk *d);

#define DISK_OPEN_READ_ONLY (1u << 0)

/* Opens a backing for exclusive use: a second opener, also in another process, gets -EBUSY. The lock lives until the
 * last request in flight has ended, even if the process is killed; a killed predecessor whose last requests are still
 * on their way is waited for, for DISK_LOCK_WAIT_NS at most. Errors name the path and what to do. NULL with `err` set.
 */
struct disk *disk_open(struct ring *r, const char *path, unsigned flags, struct err *err);

/* The same lock and checks without a ring, for set-up code (`create`, reading the superblock): an open descriptor for
 * O_DIRECT and its geometry, or a negative errno. close() it to let go. */
int disk_open_fd(const char *path, unsigned flags, struct disk_geometry *geometry, struct err *err);

#define DISK_LOCK_WAIT_NS (5 * NS_PER_S)

/* Which runs of [offset, offset + length) hold data and which are holes, for NBD block status. Asked of the file system
 * on a thread beside the ring; `done` is called on the ring's thread. A hole reads as zeroes. */
#define DISK_MAP_RUNS_MAX 64

struct disk_map {
    uint64_t offset_bytes; /* multiples of BLOCK_BYTES, inside the disk */
    uint64_t length_bytes; /* > 0 */
    unsigned runs_max;     /* 1 ... DISK_MAP_RUNS_MAX */
    void (*done)(struct disk_map *map);

    /* The result: at least one run; together they cover a prefix of the range, and all of it if runs_max allows. */
    struct disk_run {
        uint64_t length_bytes; /* > 0, a multiple of BLOCK_BYTES */
        bool hole;
    } runs[DISK_MAP_RUNS_MAX];
    unsigned run_count;
    int32_t result; /* 0; a file system that cannot tell answers that all is data */

    /* The disk's own from here on. */
    struct ring_task task;
    struct disk *disk;
    struct list link;
};

static inline void disk_map(struct disk *d, struct disk_map *map) { d->ops->map(d, map); }

/* Filters. Each takes over `below` and is closed with it. Seeded: the same seed gives the same faults for the same
 * sequence of requests. NULL with `err` set: out of memory, or more than DISK_FILTERS_MAX; `below` is still the
 * caller's then. */
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

/* Other faults from now on; counts requests anew. */
void disk_filter_fault_set(struct disk *d, const struct disk_fault_config *config);

/* Each request starts after a random time in [min, max]. */
struct disk_delay_config {
    uint64_t seed;
    uint64_t min_ns;
    uint64_t max_ns;
};
struct disk *disk_filter_delay(struct disk *below, const struct disk_delay_config *config, struct err *err);

/* Writes every change and flush, with its payload, order and outcome, to the log at `path` (record_format.h), which is
 * made, or continued when it is one of a disk of that size. Stands right on a backing, so that whatever passes the
 * filters above is recorded as it reached the disk. Writes the log on the ring's thread: for tests. Once the log cannot
 * be written all changes fail with its errno. */
struct disk *disk_filter_record(struct disk *below, const char *path, struct err *err);
