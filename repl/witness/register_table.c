/* One volume's row in the embedded witness, and what it answers. */
#include "repl/witness/register_table.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- requests that cannot be ---- */

static bool is_terminated(const char *text, size_t bytes) { return memchr(text, 0, bytes) != NULL; }

static bool is_of_the_volume(const struct register_request *q, const char *node)
{
    return strcmp(node, q->node) == 0 || (*q->peer && strcmp(node, q->peer) == 0);
}

static bool cause_is_known(enum decree_cause cause)
{
    switch (cause) {
    case DECREE_FIRST:
    case DECREE_OUT:
    case DECREE_TAKE:
    case DECREE_IN:
    case DECREE_RESUME:
    case DECREE_RENEW:
    case DECREE_SWITCH:
    case DECREE_LEG_OUT:
    case DECREE_NOBODY:
    case DECREE_PROMOTE:
    case DECREE_FORCE:
    case DECREE_ADOPT: return true;
    }
    return false;
}

static const char *members_fault(const struct register_request *q)
{
    const struct decree *d = &q->proposal;
    if (d->member_count < 1 || d->member_count > DECREE_MEMBERS_MAX)
        return "a decree has one or two members";
    for (uint32_t i = 0; i < d->member_count; i++) {
        const struct decree_member *m = &d->members[i];
        if (!is_terminated(m->node, sizeof(m->node)) || !*m->node || !is_of_the_volume(q, m->node))
            return "a decree's member is no node of the volume";
        if (id_is_none(m->leg_id))
            return "a decree's member has no leg";
        for (uint32_t j = 0; j < i; j++)
            if (id_equal(m->leg_id, d->members[j].leg_id) || strcmp(m->node, d->members[j].node) == 0)
                return "a decree's members are one and the same";
    }
    return NULL;
}

static const char *swap_fault(const struct register_request *q)
{
    const struct decree *d = &q->proposal;
    if (id_is_none(q->volume_id))
        return "a decree of a volume that has no identity";
    if ((q->expected_epoch == 0) != (q->expected_tag == 0))
        return "a swap expects an epoch and a tag, or neither";
    if (q->expected_epoch > REGISTER_EPOCH_MAX)
        return "an expected epoch that is out of range";
    if (d->epoch > REGISTER_EPOCH_MAX || d->epoch <= q->expected_epoch)
        return "a proposed epoch that is not above the expected one, or out of range";
    if (d->tag == 0 || d->tag == q->expected_tag)
        return "a proposal without a tag of its own";
    if (!cause_is_known(d->cause))
        return "a decree's cause that is unknown; is this register's version older than the node's?";
    if (q->over_older && d->cause != DECREE_ADOPT)
        return "only adopt replaces whatever stands";
    if (!is_terminated(d->primary, sizeof(d->primary)) || (*d->primary && !is_of_the_volume(q, d->primary)))
        return "a decree's primary is no node of the volume";
    if (!is_terminated(q->note, sizeof(q->note)))
        return "a note without an end";
    return members_fault(q);
}

const char *register_request_fault(const struct register_request *q)
{
    if (!is_terminated(q->volume, sizeof(q->volume)) || !*q->volume)
        return "a volume without a name";
    if (!is_terminated(q->node, sizeof(q->node)) || !*q->node)
        return "a node without a name";
    if (!is_terminated(q->peer, sizeof(q->peer)) || strcmp(q->node, q->peer) == 0)
        return "a peer that is the node itself, or a name without an end";
    if (q->known_epoch > REGISTER_EPOCH_MAX)
        return "a known epoch that is out of range";
    if (q->leg_age > REGISTER_AGE_MAX)
        return "a leg's age that is out of range";
    switch (q->ask) {
    case REGISTER_READ: return NULL;
    case REGISTER_SWAP: return swap_fault(q);
    }
    return "a question that is unknown; is this register's version older than the node's?";
}

/* ---- what the nodes told since the start ---- */

static const struct register_told *find_told(const struct register_row *row, const char *node)
{
    for (unsigned i = 0; i < REGISTER_TOLD_MAX; i++)
        if (strcmp(row->told[i].node, node) == 0)
            return &row->told[i];
    return NULL;
}

/* Whoever told longest ago makes room. What he told stays in highest_told. */
static void note_told(struct register_row *row, const char *node, uint64_t epoch)
{
    unsigned place = 0;
    while (place < REGISTER_TOLD_MAX - 1 && strcmp(row->told[place].node, node) != 0)
        place++;
    struct register_told told = { .epoch = epoch };
    if (strcmp(row->told[place].node, node) == 0 && row->told[place].epoch > epoch)
        told.epoch = row->told[place].epoch;
    memcpy(told.node, node, strlen(node) + 1);
    memmove(&row->told[1], &row->told[0], place * sizeof(row->told[0]));
    row->told[0] = told;
    if (epoch > row->highest_told)
        row->highest_told = epoch;
}

/* Whom confirmed-anew still waits for: NULL: nobody. The decree's nodes count, too, should the request's be others. */
static const char *awaited(const struct register_row *row, const struct register_request *q)
{
    const char *needed[3 + DECREE_MEMBERS_MAX] = { q->node, q->peer, row->decree.primary };
    unsigned count = 3;
    for (uint32_t i = 0; i < row->decree.member_count; i++)
        needed[count++] = row->decree.members[i].node;
    for (unsigned i = 0; i < count; i++)
        if (*needed[i] && !find_told(row, needed[i]))
            return needed[i];
    return NULL;
}

static bool is_alone(const struct decree *d, const char *node)
{
    return d->member_count == 1 && strcmp(d->primary, node) == 0 && strcmp(d->members[0].node, node) == 0;
}

static uint64_t known_by(const struct register_request *q)
{
    /* What it expects it was told by this register. */
    return q->ask == REGISTER_SWAP && q->expected_epoch > q->known_epoch ? q->expected_epoch : q->known_epoch;
}

static void listen_to(struct register_row *row, const struct register_request *q)
{
    /* Who has no part of the volume yet, a new disk, knows nothing that its node knew before. */
    if (id_is_none(q->volume_id) && !id_is_none(row->volume_id))
        return;
    note_told(row, q->node, known_by(q));
    bool serves_alone = q->ask == REGISTER_READ && q->serving_alone && q->known_epoch == row->decree.epoch &&
                        is_alone(&row->decree, q->node);
    if (row->highest_told <= row->decree.epoch && (serves_alone || !awaited(row, q)))
        row->confirmed = true;
}

/* ---- ages ---- */

/* A new disk has no part of the volume, and its node's former leg is none of its own. */
static uint64_t age_for(const struct register_row *row, const struct register_request *q)
{
    for (unsigned i = 0; i < REGISTER_TOLD_MAX && !id_is_none(q->volume_id); i++)
        if (strcmp(row->ages[i].node, q->node) == 0)
            return row->ages[i].age;
    return 0;
}

bool register_tells_age(const struct register_request *q, const struct register_answer *a)
{
    bool heard = a->outcome != REGISTER_REFUSED && a->outcome != REGISTER_UNREACHABLE;
    return heard && !decree_is_none(&a->decree) && !id_is_none(q->volume_id) && q->leg_age > a->leg_age;
}

bool register_row_take_age(struct register_row *row, const char *node, uint64_t age)
{
    assert(*node && age <= REGISTER_AGE_MAX);
    unsigned place = 0;
    while (place < REGISTER_TOLD_MAX - 1 && strcmp(row->ages[place].node, node) != 0)
        place++;
    uint64_t known = strcmp(row->ages[place].node, node) == 0 ? row->ages[place].age : 0;
    if (age <= known)
        return false;
    struct register_age taken = { .age = age };
    memcpy(taken.node, node, strlen(node) + 1);
    memmove(&row->ages[1], &row->ages[0], place * sizeof(row->ages[0]));
    row->ages[0] = taken;
    return true;
}

/* ---- answers ---- */

static void refuse(struct register_answer *a, const char *fault)
{
    a->outcome = REGISTER_REFUSED;
    snprintf(a->reason, sizeof(a->reason), "%s", fault);
}

static bool is_other_volume(const struct register_row *row, const struct register_request *q)
{
    return !id_is_none(row->volume_id) && !id_is_none(q->volume_id) && !id_equal(row->volume_id, q->volume_id);
}

/* Each fits into a reason with the longest names and numbers. */
static void say_older(const struct register_row *row, const struct register_request *q, struct register_answer *a)
{
    a->outcome = REGISTER_OLDER;
    if (decree_is_none(&row->decree))
        snprintf(a->reason, sizeof(a->reason),
                 "it has no decree, and %s knows epoch %" PRIu64
                 ": wrong address, or data lost; `lockstep witness adopt` on the primary",
                 q->node, known_by(q));
    else
        snprintf(a->reason, sizeof(a->reason),
                 "it has epoch %" PRIu64 ", %s knows %" PRIu64
                 ": restored from a backup; `lockstep witness adopt` on the primary",
                 row->decree.epoch, q->node, known_by(q));
}

static void say_unconfirmed(const struct register_row *row, const struct register_request *q, struct register_answer *a)
{
    a->outcome = REGISTER_UNCONFIRMED;
    const char *node = awaited(row, q);
    if (row->highest_told > row->decree.epoch)
        snprintf(a->reason, sizeof(a->reason),
                 "it has epoch %" PRIu64 ", and another node knows %" PRIu64
                 ": restored from a backup; `lockstep witness adopt` on the primary",
                 row->decree.epoch, row->highest_told);
    else
        snprintf(a->reason, sizeof(a->reason),
                 "it has started anew and waits for %s's word; is that node gone: `lockstep witness confirm` where the "
                 "witness runs",
                 node ? node : "a node");
}

static bool is_confirmed(const struct register_row *row)
{
    return row->confirmed && row->highest_told <= row->decree.epoch;
}

static bool swap(struct register_row *row, const struct register_request *q, struct register_answer *a)
{
    const struct decree *now = &row->decree;
    const struct decree *then = &q->proposal;
    if (now->epoch == then->epoch && now->tag == then->tag && known_by(q) <= now->epoch) {
        a->outcome = REGISTER_DONE;
        return false;
    }
    if (q->over_older) {
        uint64_t highest = row->highest_told > now->epoch ? row->highest_told : now->epoch;
        if (then->epoch <= highest) {
            a->outcome = now->epoch >= then->epoch ? REGISTER_LOST : REGISTER_REFUSED;
            if (a->outcome == REGISTER_REFUSED)
                refuse(a, "a node knows a higher epoch than what is to be adopted; connect both nodes");
            return false;
        }
        row->confirmed = true; /* the nodes know everything that was ever decided */
    } else {
        if (known_by(q) > now->epoch) {
            say_older(row, q, a);
            return false;
        }
        if (now->epoch == q->expected_epoch && now->tag != q->expected_tag) {
            refuse(a, "the register has another decree of the same epoch than the node knows: it was rolled back; "
                      "`lockstep witness adopt` on the primary");
            return false;
        }
        if (now->epoch != q->expected_epoch) {
            a->outcome = REGISTER_LOST;
            return false;
        }
        if (!is_confirmed(row)) {
            say_unconfirmed(row, q, a);
            return false;
        }
    }
    assert(then->epoch > row->decree.epoch && then->epoch > row->highest_told);
    row->decree = *then;
    row->volume_id = q->volume_id;
    a->outcome = REGISTER_DONE;
    return true;
}

bool register_row_ask(struct register_row *row, const struct register_request *q, struct register_answer *a)
{
    memset(a, 0, sizeof(*a));
    const char *fault = register_request_fault(q);
    if (fault || strcmp(row->volume, q->volume) != 0) {
        refuse(a, fault ? fault : "asked for by another name");
        return false;
    }
    if (is_other_volume(row, q)) {
        refuse(a, "the register has another volume of this name; name this one otherwise, or if that one is no more: "
                  "`lockstep witness forget` where the witness runs");
        return false;
    }
    listen_to(row, q);
    a->leg_age = age_for(row, q);
    bool changed = false;
    if (q->ask == REGISTER_SWAP)
        changed = swap(row, q, a);
    else if (known_by(q) > row->decree.epoch)
        say_older(row, q, a);
    else if (is_confirmed(row))
        a->outcome = REGISTER_STANDS;
    else
        say_unconfirmed(row, q, a);
    a->decree = row->decree;
    return changed;
}

bool register_row_confirm(struct register_row *row, char reason[REGISTER_REASON_BYTES])
{
    reason[0] = 0;
    if (row->highest_told > row->decree.epoch) {
        snprintf(reason, REGISTER_REASON_BYTES,
                 "a node knows epoch %" PRIu64 ", and the register only %" PRIu64
                 ": it was restored from a backup; `lockstep witness adopt` on the primary is the way back",
                 row->highest_told, row->decree.epoch);
        return false;
    }
    row->confirmed = true;
    return true;
}

void register_row_start(struct register_row *row, const char *volume, struct id volume_id, const struct decree *decree)
{
    assert(*volume && strlen(volume) < NAME_BYTES_MAX);
    memset(row, 0, sizeof(*row));
    memcpy(row->volume, volume, strlen(volume) + 1);
    row->volume_id = volume_id;
    if (decree)
        row->decree = *decree;
    assert(decree_is_none(&row->decree) || !id_is_none(volume_id));
}
