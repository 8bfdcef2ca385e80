/* What a leg has been part of: one entry for each decree, which tells whose leg is the older one, and whether two legs
 * went apart. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define HISTORY_MAX 64

/* One decree. `tag` is random and never 0: two nodes that decide alone on the same epoch make different entries. */
struct history_entry {
    uint64_t epoch;
    uint64_t first_lsn; /* for people; 0: of a register's decree that takes a leg in */
    uint64_t tag;
};

/* Oldest first, epochs strictly rising; the oldest is forgotten when there is no room. All zeroes: none. */
struct history {
    uint32_t count;
    struct history_entry entries[HISTORY_MAX];
};

/* What `a` is to `b`. */
enum history_relation {
    HISTORY_EQUAL,      /* the last entries are the same, or both are empty */
    HISTORY_ANCESTOR,   /* b went on from where a ended; or a is empty and b is not */
    HISTORY_DESCENDANT, /* the other way around */
    HISTORY_DIVERGED,   /* they have entries in common, and each went on without the other */
    HISTORY_UNRELATED,  /* nothing in common; or what was common is so old that it is forgotten */
};

static inline bool history_entry_equal(struct history_entry a, struct history_entry b)
{
    return a.epoch == b.epoch && a.first_lsn == b.first_lsn && a.tag == b.tag;
}

static inline bool history_entry_is_none(struct history_entry e) { return e.tag == 0; }

/* False for what cannot be: more entries than there is room for, epochs that do not rise, an entry without a tag. For
 * what comes from a disk or the peer, before anything else is asked of it. */
bool history_is_valid(const struct history *h);

/* May `e` be appended: it has a tag, and a higher epoch than all that is there. */
bool history_may_append(const struct history *h, struct history_entry e);

/* Appends `e`, which must be one that may be. */
void history_append(struct history *h, struct history_entry e);

/* The newest entry; NULL: there is none. Of `h` itself: good as long as it is not changed. */
const struct history_entry *history_last(const struct history *h);

bool history_holds(const struct history *h, struct history_entry e);

/* The index in `a` of the newest entry that `b` holds, too; -1: none. */
int history_last_common(const struct history *a, const struct history *b);

enum history_relation history_relate(const struct history *a, const struct history *b);
