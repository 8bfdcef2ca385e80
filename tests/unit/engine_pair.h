/* Two engines, joined by hand: each node's disks and what it wants done, which the test answers when it sees fit. */
#pragma once

#include "tests/unit/unit.h"

#include "repl/engine/engine.h"

#define VOLUME_BYTES (1 * MIB)
#define DISK_BYTES (4 * VOLUME_BYTES) /* of which the volume does not know at first */
#define CHANGE_BYTES 4096             /* of request() and write_block() */
#define LOG_SLOTS 256
#define LOG_BLOCKS 64
#define NODE_QUEUE_MAX 256

struct node_options {
    bool has_peer;
    uint64_t alone_after_ns;
    uint32_t extent_bytes; /* as in struct engine_config; 0: the default, which covers the volume */
    uint32_t log_slots;    /* 0: LOG_SLOTS */
    struct engine_failover failover;
    struct hello_config configured;
    bool hold_when_deposed;
};

struct sent_frame {
    struct frame frame;
    uint8_t *payload; /* a copy */
};

/* One node: its engine, its disks, and what it wants done and nobody has done yet. */
struct node {
    unsigned index;
    struct node_options options;
    struct engine *engine;
    struct actions actions;
    struct buf_pool pool;
    uint64_t now_ns;
    uint8_t boot;
    unsigned lives; /* of daemons before this one: none draws the same tags again */

    /* What lies on the disks. */
    struct superblock on_disk;
    uint8_t *ring;
    uint8_t *bitmap;
    bool page_unreadable;
    uint8_t *content;
    uint8_t *stable; /* what a power cut leaves of it */

    bool serving;
    bool holds; /* its clients of before: what completes is told to nobody */
    uint64_t served_bytes;
    struct grow_plan plan;                /* what a look at the backing will give */
    const struct register_request *asked; /* of the register, and not answered; NULL: nothing */
    int grow_pending;                     /* 1 + the step of the ACT_GROW that nobody has answered; 0: there is none */
    int keep_pending;                     /* the same of the ACT_KEEP */
    struct action keep;                   /* ... itself */
    uint8_t *kept;                        /* what was kept, at its places... */
    bool *is_kept;                        /* ... of each CHANGE_BYTES */
    bool kept_whole;                      /* to its end */
    bool hold_pages;                      /* else each is on disk at once */
    bool hold_disk;                       /* run() leaves what is with its disk there */
    struct action pages[META_PAGES_MAX];
    unsigned page_count;
    bool meta_pending;
    struct superblock meta;             /* the last one given to the disk */
    struct action disk[NODE_QUEUE_MAX]; /* started, not answered */
    unsigned disk_count;
    struct sent_frame sent[NODE_QUEUE_MAX];
    unsigned sent_count;
    uint64_t age_told; /* to the peer, in heartbeats, which are not among what was sent */
    int completed;     /* ACT_COMPLETE seen, and the last result */
    int32_t complete_result;
    int completed_held; /* seen while it holds */
    int orders_done;
    int32_t order_result;
    char order_text[ACTION_TEXT_BYTES];
    bool ready;
    bool refused;
    bool dropped;
    char text[ACTION_TEXT_BYTES * 2]; /* of the last refusal or drop */
    char notes[16 * KIB];             /* all, one a line */
};

struct id id_of(uint8_t fill);

/* A fresh leg. */
void node_open_with(struct node *n, unsigned index, const struct node_options *options);
void node_open(struct node *n, unsigned index, bool has_peer);
void node_close(struct node *n);

/* The daemon's end, clean or not, and another one's beginning, whose configuration may have a peer or not. What was on
 * its way to the disks did not get there; what they had completed is there. */
void node_restart(struct node *n, bool has_peer);
/* The same of the machine: what was completed and not flushed is gone. */
void node_lose_power(struct node *n);

void step(struct node *n, struct event ev);
void tick(struct node *n, uint64_t now_ns);

void meta_done(struct node *n, int32_t result);
void metas_done(struct node *n);
/* Answers the oldest page of the log or the bitmap (hold_pages). */
void page_done(struct node *n, int32_t result);
/* Answers the oldest disk request. */
void disk_done(struct node *n, int32_t result);
void disks_done(struct node *n);
/* Answers the leg's own flush, which is under way. */
void flush_done(struct node *n, int32_t result);
/* The peer counts as lost: what both have is flushed, as it is before a decree, if one is needed. */
void patience_ends(struct node *n, uint64_t patience_ns);
/* Answers the ACT_GROW. */
void grow_done(struct node *n, int32_t result);
/* Answers the ACT_KEEP. */
void keep_done(struct node *n, int32_t result);
/* Carries the age of its leg over that it has told, if it has told any. */
void deliver_age(struct node *from, struct node *to);
/* Carries the oldest frame over. */
struct frame deliver(struct node *from, struct node *to);

void say_hello(struct node *n, struct hello *out);
void hellos(struct node *a, struct node *b);
void connect_nodes(struct node *a, struct node *b);
void connect_judged(struct node *a, struct node *b); /* the rest of it, after hellos() */
/* ... until both have said that they are ready, with their flushes and records; false: one has not. */
bool make_ready(struct node *a, struct node *b);
void session_up(struct node *a, struct node *b); /* when both are */
void disconnect_nodes(struct node *a, struct node *b);
/* Everything that is under way comes to its end. */
void run(struct node *a, struct node *b);
/* The next thing that is under way comes to its end; false: nothing is. */
bool run_step(struct node *a, struct node *b);
/* The same, but the next frame of this kind from `from` is left in its queue, first; true: there it is. */
bool run_until_sent(struct node *a, struct node *b, struct node *from, enum frame_kind kind);

void promote(struct node *a, struct node *b);
/* Node 0 and node 1, fresh, paired, in sync; a is primary. */
void open_promoted(struct node *a, struct node *b, const struct node_options *options);
void close_both(struct node *a, struct node *b);
/* Discards stand for most changes: they need no buffer. */
void request(struct node *n, enum op_kind kind, uint64_t offset_bytes);
/* A block full of `fill`. */
void write_block(struct node *n, uint64_t offset_bytes, uint8_t fill);
void order(struct node *n, enum event_kind kind, bool force);

struct engine_view view_of(struct node *n);
bool told(const struct node *n, const char *words);
/* Both know that they are in sync, and their contents are equal. */
void assert_in_sync(struct node *a, struct node *b);
