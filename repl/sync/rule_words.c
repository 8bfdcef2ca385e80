/* The words in which rules speak, of more than a line. */
#include "repl/sync/rule.h"

#include <stdarg.h>
#include <stdio.h>

void say(struct sync_judgement *j, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(j->text, sizeof(j->text), format, ap);
    va_end(ap);
}

uint64_t pair_tag(const struct hello *a, const struct hello *b)
{
    uint64_t tag = 0;
    for (unsigned i = 0; i < sizeof(a->leg_id.bytes); i++)
        tag ^= (uint64_t)(a->leg_id.bytes[i] ^ b->leg_id.bytes[i]) << (i % 8 * 8);
    return tag ? tag : 1;
}

static bool is_merely_paired(const struct hello *a, const struct hello *b)
{
    return knows(a, b) && a->history.count == 1 && a->history.entries[0].tag == pair_tag(a, b);
}

enum history_relation relation(const struct hello *own, const struct hello *peer)
{
    enum history_relation r = history_relate(&own->history, &peer->history);
    if (r != HISTORY_UNRELATED)
        return r;
    /* Who recorded the pairing, and was part of nothing after it, has nothing that the other lacks, although that one
     * went on without recording it: they were never in sync, whatever has been begun on that leg since. */
    if (is_merely_paired(own, peer))
        return HISTORY_ANCESTOR;
    return is_merely_paired(peer, own) ? HISTORY_DESCENDANT : r;
}

bool are_equal(const struct hello *own, const struct hello *peer)
{
    return own->history.count > 0 && relation(own, peer) == HISTORY_EQUAL && own->leg != LEG_SYNCING &&
           peer->leg != LEG_SYNCING;
}
