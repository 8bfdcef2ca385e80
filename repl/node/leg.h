/* This node's leg of a volume: its backing, where its metadata lies, and the superblock on it. */
#pragma once

#include "blockdev/disk/disk.h"
#include "repl/base/buf.h"
#include "repl/core/grow.h"
#include "repl/core/meta_area.h"
#include "repl/core/superblock.h"
#include "repl/meta/superblock_disk.h"
#include "repl/node/config.h"

/* `err` and `reason` of an error; `plan` of GROW_LOOK. */
typedef void leg_grow_done_fn(void *ctx, enum grow_step step, int32_t err, const char *reason,
                              const struct grow_plan *plan);

struct leg {
    struct ring *ring;
    struct disk *disk; /* the data, with the configured test filters on top */
    struct disk *meta; /* what holds the metadata; the same as `bare` where it is internal */
    struct disk *bare; /* the backing without faults and delays; with the recorder, if one is configured */
    struct meta_layout layout;
    struct meta_layout present; /* that the backing's present size would give, where it has grown */
    unsigned
        suspects; /* bits: copies at the present end that did not count, and must not later: for leg_wipe_stale() */
    uint64_t former_end_bytes; /* of the metadata's former place, if leg_wipe_stale() left something there; else 0 */
    struct leg_store {
        struct leg_copy {
            struct disk_io io;
            struct leg *leg;
        } copies[SUPERBLOCK_COPIES];
        struct buf *blocks; /* of all copies, one after the other */
        enum op_kind kind;
        uint8_t order[SUPERBLOCK_COPIES];
        unsigned started; /* copies, in that order, of which `pending` are under way */
        unsigned pending;
        unsigned good;
        unsigned bad;  /* bits: copies that the last write missed; after a read, those that did not agree */
        unsigned told; /* of those, what leg_tell_write() has said */
        int32_t first_error;
        void (*done)(void *ctx, int32_t result);
        void *ctx;
    } store;
    struct leg_page {
        struct disk_io io;
        struct leg *leg;
        bool busy;
        enum meta_area area;
        uint32_t index;
    } pages[META_PAGES_MAX];
    struct buf *page_blocks; /* of the pages, one after the other */
    void (*page_done)(void *ctx, enum meta_area area, uint32_t index, int32_t result);
    void *page_ctx;
    struct leg_grow {
        struct disk_io io;
        struct ring_timer timer;
        struct leg *leg;
        const struct volume_config *config;
        enum grow_step step;
        struct grow_plan plan;
        struct meta_layout next; /* from GROW_MOVE on */
        uint64_t at_bytes, end_bytes;
        void *memory; /* to copy through; owned */
        struct err err;
        bool flush_failed; /* `err` is of a flush */
        leg_grow_done_fn *done;
        void *ctx;
    } grow;
};

/* Before anything is opened for good: -EINVAL with one line "FILE:LINE: size: ..." when the configuration wants a
 * larger volume than the backing has room for. 0 when it fits, or the backing cannot be looked at: what opens it will
 * tell. */
int leg_check_size(const struct volume_config *config, struct err *err);

/* Metadata of its own file or device, of which nothing is there: no file, or an empty one. */
bool leg_metadata_is_missing(const struct volume_config *config);

/* Opens backing and metadata for exclusive use and finds the layout. On the ring's thread, before the loop runs. On an
 * error nothing is left open. -ENOENT: there is no backing, or it is blank and its metadata was not made yet; -ENXIO:
 * the metadata is missing, but the backing is not blank. */
int leg_open(struct leg *leg, struct ring *ring, struct buf_pool *pool, const struct volume_config *config,
             struct err *err);
void leg_close(struct leg *leg);

static inline bool leg_is_internal(const struct leg *leg) { return leg->meta == leg->bare; }

/* Reads the superblock, running the loop until it is there; copies that did not agree are repaired by the next write.
 * -ENOENT: the backing was never created. Other volume or node, a backing that has shrunk: refused with what to do.
 * One that has grown keeps its layout until a resize; internal metadata is looked for at former ends, for seconds. */
int leg_read_superblock(struct leg *leg, const struct volume_config *config, struct superblock *sb, struct err *err);

/* Starts to write all copies, SUPERBLOCK_COPIES_AT_ONCE at a time, each stable when done; `done` gets 0 when
 * SUPERBLOCK_COPIES_TO_WRITE are, else the first error. One at a time. */
void leg_write_superblock(struct leg *leg, const struct superblock *sb, void (*done)(void *ctx, int32_t result),
                          void *ctx);

/* What was wrong with a copy when the superblock was read; to be asked before it is written again, and told when it
 * was. 0: nothing; -ESTALE: it was older or newer than the others; -EBADMSG: it was damaged, or could not be read. */
int leg_tell_read_copy(struct leg *leg, unsigned copy, struct err *err);

/* After a write of the superblock that counts: true, with a text without a code, when it has missed a copy that the one
 * before had not. */
bool leg_tell_write(struct leg *leg, struct err *err);

/* Starts to write a page of META_PAGE_BYTES, stable when leg->page_done is called. META_PAGES_MAX at a time. */
void leg_write_page(struct leg *leg, enum meta_area area, uint32_t index, const uint8_t *block);

/* Called with each page; NULL: it cannot be read. */
typedef void leg_page_fn(void *ctx, uint32_t index, const uint8_t *block);

/* Reads the first `count` pages of an area, running the loop, and hands them over in any order. -ENOMEM: no buffers. */
int leg_read_area(struct leg *leg, struct buf_pool *pool, enum meta_area area, uint32_t count, leg_page_fn *found,
                  void *ctx, struct err *err);

/* The largest volume that fits, or the configured size; -ENOSPC when that does not fit. `size_bytes`: of the volume, 0
 * while it is not fixed; once it is, a larger configured size is what it may grow to. */
int leg_capacity(const struct leg *leg, const struct volume_config *config, uint64_t size_bytes, uint64_t *out,
                 struct err *err);

/* To what a volume could grow here: what the backing's present size gives, or the configured size. */
uint64_t leg_room_bytes(const struct leg *leg, const struct volume_config *config);

/* Carries out a step, as repl/core/grow.h says; `done` is not called from within. One at a time; GROW_MOVE only after a
 * GROW_LOOK whose plan wants it. */
void leg_grow(struct leg *leg, const struct volume_config *config, enum grow_step step, leg_grow_done_fn *done,
              void *ctx);

/* To be called when the superblock was read, before anything else is written: superblocks in places of which none may
 * count any more are gone, on stable storage. 0 with a text in `err`: but for one, which alone never counts;
 * sb->moved_from_bytes says so on. Runs the loop. */
int leg_wipe_stale(struct leg *leg, struct superblock *sb, struct err *err);

/* The layout of a configured leg, given the sizes of its backing and of what holds its metadata (0 where that is a file
 * that is still to be made). */
int leg_layout(const struct volume_config *config, uint64_t backing_bytes, uint64_t holder_bytes,
               struct meta_layout *out, struct err *err);
