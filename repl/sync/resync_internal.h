/* What the two machines of a resync share: windows of ranges that are locked and go to the disk, and the record of
 * windows that are not stable yet. */
#pragma once

#include "repl/sync/resync.h"

#define RETRY_NS (1 * NS_PER_MS) /* when no buffer was free */

enum entry_state {
    ENTRY_IDLE,   /* nothing is asked of the disk */
    ENTRY_WANTED, /* waits for its range */
    ENTRY_DISK,   /* has its range, and is with the disk */
    ENTRY_OVER,   /* has its range, and the disk is done */
};

struct sync_entry {
    uint64_t offset_bytes;
    uint32_t length_bytes;
    uint32_t buf_offset_bytes;
    bool has_digest;
    enum sync_answer answer;
    struct digest digest;
    /* From window_want() until its range is given back. */
    enum entry_state state;
    enum op_kind op;
    int32_t result;
    uint32_t span;
};

/* Entries that lie close together share one lock, gaps and all: scattered blocks come by the hundred, and each lock
 * looks at all others of its region. Who changes something in a gap waits for a disk, as he would beside it. */
#define SPAN_GAP_BYTES_MAX (64 * KIB)
#define SPAN_BYTES_MAX RANGE_LOCK_REGION_BYTES /* but for a single entry */

enum span_state {
    SPAN_FREE,
    SPAN_LOCKING, /* waits for its range */
    SPAN_LOCKED,
};

struct sync_span {
    enum span_state state;
    uint32_t first; /* entries [first, end): those that were wanted, and others that lie between */
    uint32_t end;
    uint32_t busy; /* entries that wait for its range or are with the disk */
    struct range_lock lock;
};

enum window_state {
    WINDOW_FREE,
    WINDOW_READING,  /* target: for digests; source: for the answer */
    WINDOW_ASKED,    /* target: holds no range and no buffer, waits for the answer */
    WINDOW_WRITING,  /* target; source: what it has read, back */
    WINDOW_DRAINING, /* its session is over; the disk is not done with it */
    WINDOW_MENDING,  /* verify: holds nothing, waits until what only the peer can read can be read here */
    WINDOW_VOID,     /* verify: holds nothing; asked in one that was ended, the answer is still to come */
};

struct sync_window {
    enum window_state state;
    uint32_t number; /* target: once it was asked */
    uint32_t op_first;
    uint32_t count;
    uint32_t span_count;
    uint32_t busy; /* entries that wait for their range or are with the disk */
    struct buf *buf;
    struct range_locks *locks;
    struct sync_entry entries[SYNC_ENTRIES_MAX]; /* of rising offsets */
    struct sync_span spans[SYNC_ENTRIES_MAX];
};

/* A window from its number until it is stable. */
struct sync_record {
    bool over; /* target: written; source: answered */
    uint32_t count;
    struct {
        uint64_t offset_bytes;
        uint32_t length_bytes;
        bool stays; /* its bits stay set, whatever the target says */
    } entries[SYNC_ENTRIES_MAX];
};

/* The windows after `*done` up to `up_to` are stable on both legs: clears what does not stay. */
void records_clear(const struct sync_record *records, uint32_t *done, uint32_t up_to, struct bitmap *bitmap);

/* Numbers wrap around. */
static inline bool number_after(uint32_t a, uint32_t b) { return (int32_t)(a - b) > 0; }

static inline struct range entry_range(const struct sync_entry *e)
{
    return (struct range) { e->offset_bytes, e->length_bytes };
}

void window_open(struct sync_window *w, struct range_locks *locks, uint32_t op_first);

/* Entry `i` is for the disk: window_go() begins it. */
void window_want(struct sync_window *w, uint32_t i, enum op_kind op);

/* Asks for the ranges of all entries that are wanted, in one step; each goes to the disk once it has its range. No
 * range may be held. */
void window_go(struct sync_window *w, bool exclusive, struct actions *out);

/* Writes what entry `i` has read, whose range it holds exclusively, where it was read. */
void window_write_back(struct sync_window *w, uint32_t i, struct actions *out);

/* The disk's answer to entry `i`, which keeps its range. True: it was the last that the window waited for. */
bool window_disk_done(struct sync_window *w, uint32_t i, int32_t result);

/* Gives back the range of entry `i` and its neighbours, if the disk is done with all of them. */
void window_unlock_if_over(struct sync_window *w, uint32_t i, struct actions *out);

/* Gives back all ranges. The disk is done with all of them. */
void window_unlock(struct sync_window *w, struct actions *out);

/* The session is over: takes SYNC_WINDOWS_MAX windows out of use, but for what is with the disk. */
void windows_stop(struct sync_window *windows, struct actions *out);

/* WINDOW_DRAINING: gives back what the disk is done with; free once nothing is left. */
void window_drain(struct sync_window *w, struct actions *out);

/* Gives the buffer back and is free. No range may be held. */
void window_free(struct sync_window *w);

/* Is `range` made of whole granules of a volume, where the last may be short? */
bool is_granules(const struct bitmap *b, struct range range);
