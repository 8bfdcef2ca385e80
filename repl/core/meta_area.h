/* The parts of a leg's metadata that are written page by page, beside the superblock. */
#pragma once

#define META_PAGE_BYTES 4096

enum meta_area {
    META_ACTIVITY_LOG, /* a ring of blocks */
    META_BITMAP,
};

/* What an engine has under way at the most. */
#define META_PAGES_MAX 8
