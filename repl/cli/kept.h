/* `lockstep resolve --list` and `--export`: what a file of kept blocks holds, read without a daemon. */
#pragma once

#include "repl/base/err.h"
#include "repl/cli/show.h"
#include "repl/meta/kept_disk.h"

struct kept_visitor {
    void *ctx;
    /* Negative errno with `err` set: no further. `data` of KEEP_KIND_DATA, else NULL. */
    int (*head)(void *ctx, const struct keep_info *info, uint64_t made_us, struct err *err);
    int (*extent)(void *ctx, const struct kept_extent *e, const uint8_t *data, struct err *err);
};

/* All of it, in order; its sums when all was whole. What is damaged was visited up to there. */
int kept_walk(const char *path, const struct kept_visitor *visitor, struct kept_sums *sums, struct err *err);

/* Whose blocks, since when, and where. JSON: one line. Nothing is shown of a file that is not whole. */
int kept_list(const struct show *s, const char *path, struct err *err);

/* Writes what is kept into a new file `image` as large as the volume, or, by force, into one that is there; what is not
 * kept stays as it is. -EEXIST: refused, as there is such a file; by force, too, if it is `path` itself, one that
 * somebody has locked as a daemon does, or a leg. */
int kept_export(const struct show *s, const char *path, const char *image, bool force, struct err *err);
