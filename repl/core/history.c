/* Histories of decrees, and how two of them relate. */
#include "repl/core/history.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

bool history_is_valid(const struct history *h)
{
    if (h->count > HISTORY_MAX)
        return false;
    for (uint32_t i = 0; i < h->count; i++) {
        if (history_entry_is_none(h->entries[i]))
            return false;
        if (i > 0 && h->entries[i].epoch <= h->entries[i - 1].epoch)
            return false;
    }
    return true;
}

bool history_may_append(const struct history *h, struct history_entry e)
{
    const struct history_entry *last = history_last(h);
    return !history_entry_is_none(e) && (!last || e.epoch > last->epoch);
}

void history_append(struct history *h, struct history_entry e)
{
    assert(history_may_append(h, e));
    if (h->count == HISTORY_MAX) {
        memmove(&h->entries[0], &h->entries[1], (HISTORY_MAX - 1) * sizeof(h->entries[0]));
        h->count--;
    }
    h->entries[h->count++] = e;
}

const struct history_entry *history_last(const struct history *h)
{
    assert(h->count <= HISTORY_MAX);
    return h->count ? &h->entries[h->count - 1] : NULL;
}

bool history_holds(const struct history *h, struct history_entry e)
{
    assert(h->count <= HISTORY_MAX);
    for (uint32_t i = 0; i < h->count; i++)
        if (history_entry_equal(h->entries[i], e))
            return true;
    return false;
}

int history_last_common(const struct history *a, const struct history *b)
{
    for (int i = (int)a->count - 1; i >= 0; i--)
        if (history_holds(b, a->entries[i]))
            return i;
    return -1;
}

enum history_relation history_relate(const struct history *a, const struct history *b)
{
    assert(history_is_valid(a) && history_is_valid(b));
    const struct history_entry *last_a = history_last(a), *last_b = history_last(b);
    bool a_in_b = !last_a || history_holds(b, *last_a);
    bool b_in_a = !last_b || history_holds(a, *last_b);
    /* Epochs rise, so that each can only hold the other's last entry when it is its own last, too. */
    if (a_in_b && b_in_a)
        return HISTORY_EQUAL;
    if (a_in_b)
        return HISTORY_ANCESTOR;
    if (b_in_a)
        return HISTORY_DESCENDANT;
    return history_last_common(a, b) >= 0 ? HISTORY_DIVERGED : HISTORY_UNRELATED;
}
