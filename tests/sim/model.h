/* What the volume may hold and what a read may return: each block is a register, and its history must be linearizable.
 *
 * Every write has content of its own, so that what lies in a block names the write that put it there. All operations
 * that carry one value form a cluster; with f the earliest end and s the latest begin of a cluster's operations, a
 * history of a register is linearizable iff there are no two clusters X, Y with f(X) < s(Y) and f(Y) < s(X)
 * (Gibbons, Korach: "Testing Shared Memories", SIAM J. Comput. 26(4), 1997). f(X) < s(Y) means: X came before Y.
 * Writes that were answered with an error are left out of this: they may show or not.
 * Zeroes are the one value that many writes share; a read of zeroes counts for a cluster only when just one fits. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/base/block.h"

#define MODEL_BLOCKS_MAX 256
#define MODEL_SPANS_MAX 2049 /* requests in flight, and one to keep what must not be forgotten */
#define MODEL_NEVER UINT64_MAX

struct model_write {
    uint64_t begin;
    uint64_t acked; /* MODEL_NEVER until it was acknowledged */
    uint64_t ended; /* the latest moment at which it may still have taken effect */
    uint32_t first;
    uint32_t count;
    bool zero;
    bool durable;   /* acknowledged as stable */
    bool given_up;  /* it was acknowledged, and counts as answered with an error now; or it was in flight then */
    unsigned owner; /* the node that it was given to; not looked at here */
};

struct model_cluster {
    uint32_t write; /* 0: what the volume held at first */
    bool zero;      /* as in its write */
    bool failed;    /* it was answered with an error, or lost */
    uint64_t acked; /* as in its write */
    uint64_t first_end;
    uint64_t last_begin;
    uint64_t version; /* the block's, for which this holds: */
    uint64_t current; /* who shows this lacks nothing that was acknowledged before */
};

struct model_block {
    struct model_cluster *live; /* all that a read may still return */
    uint32_t count;
    uint32_t max;
    uint64_t version; /* another one whenever anything is different that a check of an image looks at */
};

/* What was found out about a block of an image. */
struct model_seen {
    uint64_t stamp; /* of what was looked at; 0: nothing yet */
    bool known;     /* it is what some write put there: */
    bool zero;
    uint32_t write;   /* unless zero */
    uint64_t version; /* the block's, for which this holds: */
    uint64_t current; /* it lacks nothing that was acknowledged before; 0: not known */
};

/* A layer of a leg. Each check looks only at what is new. */
struct model_image {
    const uint8_t *data;            /* of the whole leg */
    const uint64_t *stamps;         /* of each block: see medium.h. NULL: any may have changed */
    const struct model_image *twin; /* another layer, with stamps of the same kind; or NULL */
    struct model_seen seen[MODEL_BLOCKS_MAX];
};

/* What a loss of power has left of two writes in a block. */
struct model_torn {
    uint32_t write; /* it counts as this one */
    uint32_t block;
    uint8_t data[BLOCK_BYTES];
};

struct model {
    uint64_t clock; /* counts begins and ends; only their order matters */
    uint32_t block_count;
    struct model_block blocks[MODEL_BLOCKS_MAX];
    struct model_write *writes; /* by id; 0 is the initial content */
    uint32_t write_count;
    uint32_t write_max;
    uint64_t spans[MODEL_SPANS_MAX]; /* begins of reads and flushes in flight; 0: free */
    unsigned span_bound;             /* above all that were ever used */
    uint64_t versions;               /* given to blocks so far; never reset */
    const uint64_t *damaged;         /* blocks that the checks leave out, as their disk has spoilt them; NULL: none */
    char facts[1024];                /* of the last check that failed */
    struct model_torn *torn;
    uint32_t torn_count;
    uint32_t torn_max;
};

void model_reset(struct model *m, uint32_t block_count);

/* The volume has more blocks: zeroes. */
void model_grow(struct model *m, uint32_t block_count);

/* A write, or a discard or write-zeroes, is given to a volume. Returns its id. */
uint32_t model_write_begin(struct model *m, uint32_t first, uint32_t count, bool zero);

/* The content of block `block` as this write leaves it. */
void model_fill(uint32_t write, uint32_t block, uint8_t data[BLOCK_BYTES]);

void model_write_acked(struct model *m, uint32_t write);

/* It was answered with an error, or its daemon has died and nothing of it is on its way any more: what it may have left
 * behind, it has left behind by now. */
void model_write_ended(struct model *m, uint32_t write);

/* All that was acknowledged since `since` and not as stable may be gone: it counts as answered with an error. What is
 * in flight may be gone as well, from one of the two that had it. */
void model_lost_power(struct model *m, uint64_t since);

/* What `owner` got acknowledged in [since, until) is given up by a person: it counts as answered with an error, also
 * what was acknowledged as stable. */
void model_give_up(struct model *m, unsigned owner, uint64_t since, uint64_t until);

/* A read or flush begins. Returns its span. */
uint32_t model_span_begin(struct model *m);
uint64_t model_span_begun(const struct model *m, uint32_t span);
void model_span_end(struct model *m, uint32_t span);
void model_span_move(struct model *m, uint32_t span, uint64_t begun); /* as if it had begun then */

/* A loss of power has left `torn` in a block of a leg: a part of `after`, which was being written, the rest of
 * `before`. It counts as one more write, that was answered with an error and is as old as the older of both: it may
 * show or not, but not where either of them may not. */
void model_tear(struct model *m, uint32_t block, const uint8_t before[BLOCK_BYTES], const uint8_t after[BLOCK_BYTES],
                const uint8_t torn[BLOCK_BYTES]);

/* Is it what such a loss of power has left? */
bool model_shows_torn(const struct model *m, const uint8_t data[BLOCK_BYTES], uint32_t block);

/* Does a block show the content of this write? */
bool model_shows(const uint8_t data[BLOCK_BYTES], uint32_t write, uint32_t block);

/* ... or of some write that was answered with an error? */
bool model_shows_failed(const struct model *m, const uint8_t data[BLOCK_BYTES], uint32_t block, uint32_t *write);

/* The checks. False: violated, and `facts` says by what. Blocks in `damaged` pass. */

/* A read in `span` has returned this. */
bool model_check_read(struct model *m, uint32_t span, uint32_t first, uint32_t count, const uint8_t *data);

/* `image` holds `write`, or in some blocks what came later. */
bool model_check_holds(struct model *m, struct model_image *image, uint32_t write);

/* Nothing in `image` is older than what was acknowledged before `bound`. */
bool model_check_current(struct model *m, struct model_image *image, uint64_t bound);

/* ... nor than what was acknowledged as stable since then. */
bool model_check_durable(struct model *m, struct model_image *image, uint64_t bound);
