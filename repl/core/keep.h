/* What is kept aside of a leg before it gives its changes up: what engine, shell and the file of kept blocks say of it
 * (docs/RECOVERY.md, "Split brain"). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/base/range.h"
#include "repl/core/history.h"
#include "repl/core/names.h"

enum keep_step {
    KEEP_BEGIN, /* a new file, for what `info` says; refused if there is no room */
    KEEP_DATA,  /* these pieces */
    KEEP_END,   /* that was all: on stable storage, under its name */
    KEEP_DROP,  /* of no use any more: the file goes away */
};

/* Whose blocks they are, and since when. */
struct keep_info {
    char volume[NAME_BYTES_MAX];
    char node[NAME_BYTES_MAX];
    char peer[NAME_BYTES_MAX]; /* whose leg is kept as the volume */
    struct id volume_id;
    struct id leg_id;
    uint64_t size_bytes;         /* of the volume */
    uint64_t epoch;              /* of the leg when it was given up */
    uint64_t lsn;                /* likewise */
    struct history_entry common; /* up to it both legs were the same; none: nothing in common */
    struct history_entry first;  /* the leg's first decree of its own after that; none: it has none */
    bool everything;             /* all that the leg holds, as nobody knows what it has changed since */
    uint64_t bytes_max;          /* that can come */
};

enum keep_kind {
    KEEP_KIND_DATA,
    KEEP_KIND_ZEROES,
    KEEP_KIND_UNREADABLE, /* the disk could not read it */
};

/* Of the engine's: DATA, whose bytes lie in the buffer, or UNREADABLE. */
struct keep_piece {
    struct range range;
    uint32_t buf_offset_bytes;
    enum keep_kind kind;
};

#define KEEP_PIECES_MAX 256 /* at a time */
