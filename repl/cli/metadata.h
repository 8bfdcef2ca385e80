/* `lockstep metadata dump`: what a leg's metadata says, read from its file or device without a daemon, and never
 * written. */
#pragma once

#include "repl/base/range.h"
#include "repl/cli/show.h"
#include "repl/core/superblock.h"
#include "repl/meta/superblock_disk.h"

#define METADATA_TEXT_BYTES 256

struct metadata_source {
    const char *backing;
    const char *metadata; /* the file or device that holds it; NULL: the end of the backing */
};

enum metadata_copy_state {
    COPY_GOOD,
    COPY_DIFFERS, /* readable, but not what enough others say: a write that was cut off, or missed */
    COPY_DAMAGED, /* or not readable, not ours, or of another format: see its reason */
};

struct metadata {
    const char *path; /* of what holds it; the source's */
    bool in_use;      /* a daemon has it open: what is read may change meanwhile */
    struct metadata_copy {
        enum metadata_copy_state state;
        uint64_t sequence; /* 0: not readable */
        char reason[METADATA_TEXT_BYTES];
    } copies[SUPERBLOCK_COPIES];
    bool lost;   /* too few do, of those that are ours */
    bool usable; /* enough copies agree; nothing below is filled else */
    char why_not[METADATA_TEXT_BYTES];
    struct superblock superblock;

    bool log_damaged; /* then there are no extents */
    char log_reason[METADATA_TEXT_BYTES];
    uint64_t log_next_sequence;
    uint64_t hot_extents;
    uint64_t range_count;
    struct range *ranges; /* of the hot extents, in order, neighbours joined; owned */

    uint64_t dirty_bytes;
    uint64_t pages, written_pages, damaged_pages;
    char page_reason[METADATA_TEXT_BYTES]; /* of the first damaged one */
};

/* Negative errno: it cannot be read at all. Else metadata_free() it. */
int metadata_read(const struct metadata_source *source, struct metadata *m, struct err *err);
void metadata_free(struct metadata *m);

/* `verbose`: with each range of hot extents. JSON: one line. */
void metadata_show(const struct show *s, const struct metadata *m, bool verbose);
