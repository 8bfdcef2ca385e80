/* What a change needs, beside its range, before a leg may be written: its extents in the activity log, a place in the
 * unflushed set, and a leg. */
#include "repl/meta/activity_log.h"
#include "repl/mirror/mirror_internal.h"

/* The peer will acknowledge it without having it on stable storage. */
static bool needs_place(const struct mirror *m, const struct change *c)
{
    return m->unflushed.ring && !m->alone && !change_is_durable(c);
}

enum admission admission_ask(struct mirror *m, struct change *c)
{
    if (c->result)
        return ADMISSION_REFUSED;
    /* The peer's leg is the only one: there is nothing that it could differ from. */
    if (!m->local)
        return ADMISSION_GO;
    if (m->leg_failed)
        return is_undecided(m) && !change_is_own_flush(m, c) ? ADMISSION_WAIT : ADMISSION_REFUSED;
    if (change_is_flush(c))
        return ADMISSION_GO;
    bool place = needs_place(m, c);
    if (place && !unflushed_has_room(&m->unflushed))
        return ADMISSION_WAIT;
    /* The log comes last: who is in it keeps its extents there. */
    if (m->al && al_enter(m->al, c->lock.range) != AL_HOT)
        return ADMISSION_WAIT;
    c->logged = m->al != NULL;
    c->reserved = place;
    m->unflushed.reserved += place;
    return ADMISSION_GO;
}

void admission_over(struct mirror *m, struct change *c)
{
    if (c->logged)
        al_leave(m->al, c->lock.range);
    if (c->reserved)
        m->unflushed.reserved--;
    c->logged = false;
    c->reserved = false;
}

void admission_retry(struct mirror *m, struct actions *out)
{
    /* Few, and they keep changes away from their ranges. */
    reads_retry_repairs(m, out);
    /* Each asks once, the oldest first. Who has to wait on goes back to the queue, in the same order. */
    struct list asking;
    list_init(&asking);
    for (struct list *node; (node = list_pop(&m->log_queue));)
        list_append(&asking, node);
    for (struct list *node; (node = list_pop(&asking));)
        change_ask_again(m, container_of(node, struct change, queue), out);
}

bool mirror_wants_log(const struct mirror *m) { return m->al && anyone_waits(m); }

bool mirror_log_stuck(const struct mirror *m)
{
    if (!anyone_waits(m))
        return false;
    return (m->unflushed.ring && !unflushed_has_room(&m->unflushed)) || (m->al && al_wants_flush(m->al));
}

void mirror_log_committed(struct mirror *m, struct actions *out) { admission_retry(m, out); }
