/* The blocks in which this leg and its peer's may differ: one bit a granule in memory, and its pages on disk.
 *
 * A set bit: may differ. Set outward, cleared inward. A bit that is set in memory only is safe as long as the activity
 * log on disk covers its extent; the caller has the page written before it gives that cover up (docs/METADATA.md).
 * Pure: nothing here reads, writes or waits, and only open, resize and close allocate. Not thread-safe. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/base/err.h"
#include "repl/base/range.h"
#include "repl/base/units.h"
#include "repl/core/names.h"

#define BITMAP_PAGE_BYTES 4096
#define BITMAP_PAGE_HEADER_BYTES 64
#define BITMAP_PAGE_GRANULES ((BITMAP_PAGE_BYTES - BITMAP_PAGE_HEADER_BYTES) * 8u)
#define BITMAP_NONE UINT64_MAX

#define BITMAP_PAGE_MAGIC UINT64_C(0x50414d5453534b4c) /* "LKSSTMAP" as bytes */
#define GRANULE_BYTES_DEFAULT 4096u
#define GRANULE_BYTES_MIN 512u
#define GRANULE_BYTES_MAX (1u << 18) /* a resync asks for whole ones */

struct bitmap;

/* How many pages a volume of this size has, for the layout on disk. `granule_bytes`: a power of two, from
 * GRANULE_BYTES_MIN to GRANULE_BYTES_MAX. */
uint64_t bitmap_pages_for(uint64_t size_bytes, uint32_t granule_bytes);

/* Nothing is set, and every page counts as equal to the disk's: load them, or know that they are zeroes. `owner`: the
 * leg's id; a page of another owner counts as damaged. `size_bytes` may be 0 until it is known. Memory is zero until
 * touched. NULL: out of memory. */
struct bitmap *bitmap_open(uint64_t size_bytes, uint32_t granule_bytes, struct id owner, struct err *err);
void bitmap_close(struct bitmap *b);

/* The volume has grown; what is new is clear. -EINVAL: it would shrink; -ENOMEM: as it was. */
int bitmap_resize(struct bitmap *b, uint64_t size_bytes, struct err *err);

uint64_t bitmap_size_bytes(const struct bitmap *b);
uint32_t bitmap_granule_bytes(const struct bitmap *b);

/* ---- Bits. A range must lie inside the volume; it may be empty. ---- */

/* All granules that the range touches. True: one of them was clear before. */
bool bitmap_set(struct bitmap *b, struct range range);

/* All granules that lie wholly inside the range; the volume's last one may be shorter than the others. */
void bitmap_clear(struct bitmap *b, struct range range);

/* Is any granule set that the range touches? */
bool bitmap_any(const struct bitmap *b, struct range range);

void bitmap_set_all(struct bitmap *b);

/* Of all set granules together. Costs nothing. */
uint64_t bitmap_dirty_bytes(const struct bitmap *b);

/* The first run of set granules from `from_bytes` on, which is a granule's start or the volume's end or beyond it. At
 * most `length_bytes_max` long, which is a granule or more. False: there is none. */
bool bitmap_next(const struct bitmap *b, uint64_t from_bytes, uint64_t length_bytes_max, struct range *out);

/* ---- For the wire: one bit a granule, the lowest first. ---- */

/* The bytes that the bits of `range` take. The range starts at a granule, and ends at one or at the volume's end. */
uint64_t bitmap_wire_bytes(const struct bitmap *b, struct range range);

void bitmap_export(const struct bitmap *b, struct range range, uint8_t *bytes);

/* Sets what is set there; bits beyond the range are not looked at. */
void bitmap_import(struct bitmap *b, struct range range, const uint8_t *bytes);

/* ---- Pages on disk ---- */

uint64_t bitmap_page_count(const struct bitmap *b);
uint64_t bitmap_page_of(const struct bitmap *b, uint64_t offset_bytes);

/* What the page covers, cut at the volume's end. */
struct range bitmap_page_range(const struct bitmap *b, uint64_t page);

/* May the disk's page differ from memory's? Also while it is being written. */
bool bitmap_page_is_stale(const struct bitmap *b, uint64_t page);

/* The page is stale from now on: what was read of it may not be on stable storage. */
void bitmap_page_touch(struct bitmap *b, uint64_t page);

/* The first page from `from` on that differs and is not being written; BITMAP_NONE: there is none. */
uint64_t bitmap_next_stale(const struct bitmap *b, uint64_t from);

/* How many pages are stale, those that are being written among them. Costs nothing. */
uint64_t bitmap_stale_pages(const struct bitmap *b);

/* Makes the page's block, and takes the page as being written until bitmap_page_written(). What changes meanwhile makes
 * it stale again. One write of a page at a time. */
void bitmap_page_encode(struct bitmap *b, uint64_t page, uint8_t block[BITMAP_PAGE_BYTES]);
void bitmap_page_written(struct bitmap *b, uint64_t page, bool ok);

/* Unites the page read from the disk with memory's. All zeroes: never written, nothing is set. -EBADMSG: damaged, or
 * not the page that belongs there; nothing was changed. The caller then sets all its bits, and reports it. */
int bitmap_page_load(struct bitmap *b, uint64_t page, const uint8_t block[BITMAP_PAGE_BYTES], struct err *err);
void bitmap_page_set_all(struct bitmap *b, uint64_t page);
