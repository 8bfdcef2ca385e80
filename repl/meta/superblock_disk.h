/* The superblock as it lies on disk, and where. Pure: bytes in, values out. docs/METADATA.md has the format. */
#pragma once

#include "repl/base/err.h"
#include "repl/base/range.h"
#include "repl/base/units.h"
#include "repl/core/meta_area.h"
#include "repl/core/superblock.h"

#define VOLUME_BYTES_MAX (64 * TIB)
#define EXTENT_BYTES_MAX (64u << 20) /* so that one change's extents are not the whole disk */

/* Where the metadata lies. Fixed by sizes alone, so that it can be found again. Room for the activity log, the bitmap
 * and the dirty map is set aside from the beginning. */
struct meta_layout {
    uint64_t data_bytes;        /* the largest volume that the leg can hold, a multiple of 4096 */
    uint64_t meta_offset_bytes; /* from the start of the file or device that holds the metadata */
    uint64_t meta_bytes;
};

/* At the end of the backing itself. -ENOSPC when the backing is too small. */
int meta_layout_internal(uint64_t backing_bytes, struct meta_layout *out, struct err *err);

/* On a file or device of its own, from its start. `holder_bytes`: its size; 0: a file that will be made as large as
 * meta_bytes says. -ENOSPC when it is too small. */
int meta_layout_external(uint64_t backing_bytes, uint64_t holder_bytes, struct meta_layout *out, struct err *err);

/* Where a page of an area lies, from the start of what holds the metadata; and how many pages an area has. */
uint64_t meta_page_offset(const struct meta_layout *layout, enum meta_area area, uint32_t index);
uint32_t meta_page_count(const struct meta_layout *layout, enum meta_area area);

#define SUPERBLOCK_COPIES 4
#define SUPERBLOCK_COPIES_TO_READ 2  /* that must be good */
#define SUPERBLOCK_COPIES_TO_WRITE 3 /* so many that any two copies have the last write among them */
#define SUPERBLOCK_COPIES_AT_ONCE 2  /* that may be torn by one loss of power: enough are left that agree */
#define SUPERBLOCK_BYTES 4096

/* Of copy 0 ... SUPERBLOCK_COPIES - 1, from the start of what holds the metadata. */
uint64_t superblock_copy_offset(const struct meta_layout *layout, unsigned copy);

#define SUPERBLOCK_SPACING_BYTES (256 * KIB) /* from copy to copy; internal metadata lies at a multiple of it */

/* Looking for the copies of a leg whose backing has grown since they were written: they lie before what was its end
 * then. From the present end backwards, two of the four places in each MiB. What lies behind the volume's data is come
 * to before anything that its users may have written there. The caller reads, and says when it has been enough. */
#define SUPERBLOCK_SEARCH_READS 32

struct superblock_search {
    uint64_t end_bytes; /* all from here on was looked at */
};

void superblock_search_begin(struct superblock_search *s, uint64_t backing_bytes);

/* The next places to read SUPERBLOCK_BYTES from, the last of the backing first; 0: it has come to the beginning. */
unsigned superblock_search_next(struct superblock_search *s, uint64_t places[SUPERBLOCK_SEARCH_READS]);

/* What was read there. True: it is a good copy, in the place that belongs to it; `out`: the layout that it tells of.
 * `but`: one that was looked at before, where too few copies agree: its copies are passed over. May be NULL. */
bool superblock_search_look(uint64_t place_bytes, const uint8_t block[SUPERBLOCK_BYTES], const struct meta_layout *but,
                            struct meta_layout *out);

/* Where no copy is ours, the log or the bitmap behind them may be: then there was a leg, and what it held is still
 * there. The range to read, a multiple of META_TRACE_STEP_BYTES long; and whether `bytes` of it, in whole pages, tell
 * of one. */
#define META_TRACE_STEP_BYTES (256 * KIB)

struct range meta_trace_range(const struct meta_layout *layout);
bool meta_trace_found(const uint8_t *bytes, uint64_t length_bytes);

/* For whoever has lost too many copies. */
#define METADATA_LOST_ADVICE                                                                                           \
    "the metadata is lost. If the peer's leg is good, `lockstep create --force` makes this one anew, and it gets all " \
    "from there; if it is not, `lockstep create --adopt --force` keeps what this one holds, as after a crash"

/* In which order the copies are to be written: first those of which it is known that they do not agree with the rest
 * (bits of `bad`: by what was read, or as the last write has missed them). The power that is lost in each of several
 * writes in a row then tears the same ones again, and not those that are left. */
void superblock_write_order(unsigned bad, uint8_t order[SUPERBLOCK_COPIES]);

void superblock_encode(const struct superblock *sb, unsigned copy, uint8_t block[SUPERBLOCK_BYTES]);

/* -ENOENT: not ours (no magic); -EBADMSG: damaged; -ENOTSUP: of another format; 0: good. `err` says which field. */
int superblock_decode(const uint8_t block[SUPERBLOCK_BYTES], unsigned copy, struct superblock *sb, struct err *err);

/* Chooses among the copies read: the highest sequence that SUPERBLOCK_COPIES_TO_READ agree on; when no two agree, the
 * highest of as many good ones. `sb` gets the highest sequence of all good copies, which the next write is to exceed.
 * `good` gets a bit for each copy that agreed; the others want repair. -ENOENT when no copy is ours, -EBADMSG when too
 * many are damaged, or two of one sequence are left that say different things. */
int superblock_choose(uint8_t blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES], struct superblock *sb, unsigned *good,
                      struct err *err);
