/* A leg that gets room for a larger volume: what engine and shell say to each other (docs/RECOVERY.md, "Growing"). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/base/range.h"

enum grow_step {
    GROW_LOOK, /* how large is the backing now, and where would the metadata lie? That place is cleared, on stable
                  storage */
    GROW_MOVE, /* the activity log's ring is copied there, on stable storage; all metadata goes there from now on. No
                  page and no superblock is on its way */
};

/* The answer to GROW_LOOK. */
struct grow_plan {
    uint64_t data_bytes;    /* the largest volume there will be room for; a configured size counts */
    uint64_t backing_bytes; /* for the superblock */
    bool move;              /* GROW_MOVE is needed */
    struct range former;    /* the metadata's place until then, if that will be data; length 0: it will not */
};
