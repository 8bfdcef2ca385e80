/* Sharing what is scarce among clients that do not know of each other, some of which may mean no good.
 *
 * Each client is guaranteed a little. The rest goes by dynamic thresholds (Choudhury and Hahne, "Dynamic queue length
 * thresholds for shared-memory packet switches", 1998): beyond its guarantee a client may hold at most as much as is
 * left free, so that one greedy client gets half of it, and what it gets when it comes late, too, is never nothing. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "repl/base/units.h"

struct nbd_share {
    uint64_t clients;
    uint64_t each; /* guaranteed to every client */
    uint64_t used; /* of all guarantees together */
};

/* What is kept for those who have not used up their guarantee. */
static inline uint64_t nbd_share_kept(const struct nbd_share *s) { return s->clients * s->each - s->used; }

/* What anybody may have, of what is available. */
static inline uint64_t nbd_share_free(const struct nbd_share *s, uint64_t available)
{
    uint64_t kept = nbd_share_kept(s);
    return available > kept ? available - kept : 0;
}

/* May a client that holds `mine` have `more`? */
static inline bool nbd_share_allows(const struct nbd_share *s, uint64_t mine, uint64_t more, uint64_t available)
{
    if (more > available)
        return false;
    if (mine + more <= s->each)
        return true;
    uint64_t beyond = mine + more - s->each; /* that it would hold of the rest */
    uint64_t from_rest = min_u64(beyond, more);
    uint64_t rest = nbd_share_free(s, available);
    return from_rest <= rest && beyond <= rest;
}

static inline void nbd_share_take(struct nbd_share *s, uint64_t *mine, uint64_t more)
{
    s->used += min_u64(s->each, *mine + more) - min_u64(s->each, *mine);
    *mine += more;
}

static inline void nbd_share_give(struct nbd_share *s, uint64_t *mine, uint64_t less)
{
    assert(*mine >= less);
    s->used -= min_u64(s->each, *mine) - min_u64(s->each, *mine - less);
    *mine -= less;
}
