/* The embedded witness's questions: those that arrive together are answered after one commit. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "repl/base/clock.h"
#include "repl/witness/witness_internal.h"

static uint64_t wall_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- rows ---- */

struct volume_row *batch_find(struct witness *w, const char *volume)
{
    for (unsigned i = 0; i < w->row_count; i++)
        if (strcmp(w->rows[i].row.volume, volume) == 0)
            return &w->rows[i];
    return NULL;
}

static struct volume_row *find_or_add(struct witness *w, const char *volume)
{
    struct volume_row *row = batch_find(w, volume);
    if (row || w->row_count == WITNESS_VOLUMES_MAX)
        return row;
    row = &w->rows[w->row_count++];
    *row = (struct volume_row) { .since_us = 0 };
    register_row_start(&row->row, volume, (struct id) { 0 }, NULL);
    return row;
}

static void add_stored(void *ctx, const char *name, struct id volume_id, const struct decree *decree, uint64_t time_us)
{
    struct witness *w = ctx;
    assert(w->row_count < WITNESS_VOLUMES_MAX);
    struct volume_row *row = &w->rows[w->row_count++];
    *row = (struct volume_row) { .since_us = time_us };
    register_row_start(&row->row, name, volume_id, decree);
}

static bool add_stored_age(void *ctx, const char *volume, const char *node, uint64_t age)
{
    struct volume_row *row = batch_find(ctx, volume);
    return row && register_row_take_age(&row->row, node, age);
}

int batch_open(struct witness *w, bool *is_new, struct err *err)
{
    assert(!w->store);
    w->row_count = 0;
    int rc = witness_store_open(&w->store, w->state, is_new, err);
    if (rc == 0)
        rc = witness_store_load(w->store, add_stored, w, err);
    if (rc == 0)
        rc = witness_store_load_ages(w->store, add_stored_age, w, err);
    if (rc && w->store) {
        witness_store_close(w->store);
        w->store = NULL;
    }
    return rc;
}

void batch_store_lost(struct witness *w, const struct err *err)
{
    if (w->store)
        witness_store_close(w->store);
    w->store = NULL;
    w->store_err = *err;
    w->reopen_ns = clock_ns() + REOPEN_NS;
    witness_tell(w, NULL, NOTE_ERROR, "nothing is decided until the database can be opened again: %s", err->text);
}

/* ---- what the log hears of it ---- */

static void tell_decree(struct witness *w, const struct pending *p)
{
    const struct decree *d = &p->volume->row.decree;
    char set[2 * NAME_BYTES_MAX + 4];
    snprintf(set, sizeof(set), "%s%s%s", d->members[0].node, d->member_count > 1 ? ", " : "",
             d->member_count > 1 ? d->members[1].node : "");
    witness_tell(w, p->volume->row.volume, NOTE_INFO,
                 "epoch %" PRIu64 " (%s, asked for by %s): primary %s; in sync: %s", d->epoch,
                 decree_cause_name(d->cause), p->request.node, *d->primary ? d->primary : "nobody", set);
}

/* Each kind of refusal once for each decree: nodes ask again and again. */
static void tell_refusal(struct witness *w, struct pending *p)
{
    unsigned bit = 1U << p->answer.outcome;
    if (p->volume->told_outcomes & bit)
        return;
    p->volume->told_outcomes |= bit;
    witness_tell(w, p->volume->row.volume, NOTE_WARNING, "%s was refused: %s", p->request.node, p->answer.reason);
}

static void tell(struct witness *w, struct pending *p)
{
    if (!p->volume)
        return;
    if (!p->was_confirmed && p->volume->row.confirmed && !decree_is_none(&p->volume->row.decree))
        witness_tell(w, p->volume->row.volume, NOTE_INFO, "confirmed by its nodes at epoch %" PRIu64,
                     p->volume->row.decree.epoch);
    switch (p->answer.outcome) {
    case REGISTER_DONE:
        if (p->changed)
            tell_decree(w, p);
        break;
    case REGISTER_STANDS:
    case REGISTER_LOST:
    case REGISTER_UNREACHABLE: break;
    case REGISTER_UNCONFIRMED:
        if (p->request.ask == REGISTER_SWAP)
            tell_refusal(w, p);
        break;
    case REGISTER_OLDER:
    case REGISTER_REFUSED: tell_refusal(w, p); break;
    }
}

/* ---- questions ---- */

static void fail(struct pending *p, enum register_outcome outcome, const char *reason)
{
    memset(&p->answer, 0, sizeof(p->answer));
    p->answer.outcome = outcome;
    snprintf(p->answer.reason, sizeof(p->answer.reason), "%.*s", REGISTER_REASON_BYTES - 1, reason);
    p->changed = false;
}

static int carry_out(struct witness *w, struct pending *p, struct err *err)
{
    p->changed = false;
    p->volume = find_or_add(w, p->request.volume);
    if (!p->volume) {
        fail(p, REGISTER_REFUSED, "the witness knows too many volumes already; start another witness for this one");
        return 0;
    }
    p->before = p->volume->row;
    p->was_confirmed = p->before.confirmed;
    p->changed = register_row_ask(&p->volume->row, &p->request, &p->answer);
    if (!p->changed)
        return 0;
    p->time_us = wall_us();
    struct witness_entry entry = { .decree = p->volume->row.decree, .time_us = p->time_us };
    memcpy(entry.asker, p->request.node, sizeof(entry.asker));
    memcpy(entry.note, p->request.note, sizeof(entry.note));
    return witness_store_put(w->store, p->request.volume, p->request.volume_id, p->before.decree.epoch,
                             p->before.decree.tag, &entry, err);
}

/* Some of the batch; 0: all of it is answered. Else nothing has changed. */
static int run_part(struct witness *w, unsigned from, unsigned to, struct err *err)
{
    int rc = 0;
    unsigned done = from;
    for (; rc == 0 && done < to; done++)
        rc = carry_out(w, &w->batch[done], err);
    if (rc == 0)
        rc = witness_store_commit(w->store, err);
    if (rc == 0)
        return 0;
    witness_store_rollback(w->store);
    for (; done > from; done--)
        if (w->batch[done - 1].volume)
            w->batch[done - 1].volume->row = w->batch[done - 1].before;
    return rc;
}

static void store_failed(struct witness *w, const struct err *err)
{
    for (unsigned i = 0; i < w->batch_count; i++) {
        w->batch[i].volume = NULL;
        fail(&w->batch[i], REGISTER_UNREACHABLE, err->text);
    }
    batch_store_lost(w, err);
    w->reopen_ns = 0; /* once at once */
}

/* One by one: who changes nothing is answered also if the disk is full. */
static void run_singly(struct witness *w)
{
    for (unsigned i = 0; i < w->batch_count; i++) {
        struct err err = { 0 };
        if (run_part(w, i, i + 1, &err) == 0)
            continue;
        if (witness_store_is_broken(w->store)) {
            store_failed(w, &err);
            return;
        }
        fail(&w->batch[i], REGISTER_REFUSED, err.text);
    }
}

static void answer_all(struct witness *w)
{
    struct err err = { 0 };
    if (!w->store) {
        for (unsigned i = 0; i < w->batch_count; i++) {
            w->batch[i].volume = NULL;
            fail(&w->batch[i], REGISTER_UNREACHABLE, w->store_err.text);
        }
    } else if (run_part(w, 0, w->batch_count, &err)) {
        if (witness_store_is_broken(w->store))
            store_failed(w, &err);
        else
            run_singly(w);
    }
}

/* Who is about to depend on a swap asks whether one could be carried out: a full disk answers reads else. */
static void try_for_those_who_ask(struct witness *w)
{
    struct err err = { 0 };
    bool tried = false;
    for (unsigned i = 0; i < w->batch_count; i++) {
        struct pending *p = &w->batch[i];
        if (!p->volume || p->request.ask != REGISTER_READ || !p->request.tries || p->answer.outcome != REGISTER_STANDS)
            continue;
        if (!tried && witness_store_try(w->store, &err) && witness_store_is_broken(w->store)) {
            store_failed(w, &err);
            return;
        }
        tried = true;
        if (err.code)
            fail(p, REGISTER_REFUSED, err.text);
    }
}

/* ---- ages ---- */

/* Rule leg-age. After the decrees, and in a commit of their own: what goes wrong with an age changes no answer, and an
 * answer tells only what is on stable storage. An age that cannot be stored is not remembered; its node tells it again.
 *
 * Before the answers leave, so that an age whose question was answered is lost only with a disk that fails. Nobody
 * waits for more than one commit a minute. */
static void keep_ages(struct witness *w)
{
    struct witness_age ages[BATCH_MAX];
    unsigned count = 0;
    if (clock_ns() < w->ages_rest_until_ns)
        return;
    for (unsigned i = 0; i < w->batch_count; i++) {
        struct pending *p = &w->batch[i];
        const struct register_request *q = &p->request;
        if (p->volume && register_tells_age(q, &p->answer) &&
            register_row_take_age(&p->volume->row, q->node, q->leg_age))
            ages[count++] = (struct witness_age) { q->volume, q->node, q->leg_age };
    }
    if (count == 0)
        return;
    struct err err = { 0 };
    if (witness_store_put_ages(w->store, ages, count, &err) == 0) {
        if (w->ages_fail)
            witness_tell(w, NULL, NOTE_INFO, "the ages of legs are stored again");
        w->ages_fail = false;
        return;
    }
    for (unsigned i = 0; i < w->batch_count; i++)
        if (w->batch[i].volume)
            memcpy(w->batch[i].volume->row.ages, w->batch[i].before.ages, sizeof(w->batch[i].before.ages));
    if (!w->ages_fail)
        witness_tell(w, NULL, NOTE_ERROR,
                     "the ages of legs cannot be stored: a disk that is put back from an old copy may not be noticed; "
                     "decrees are given nonetheless: %s",
                     err.text);
    w->ages_fail = true;
    w->ages_rest_until_ns = clock_ns() + REOPEN_NS;
    if (witness_store_is_broken(w->store))
        batch_store_lost(w, &err);
}

/* Not who asks for another volume of this name, nor a new disk, which has no part of it yet. */
static void note_heard(struct pending *p, uint64_t now_ns)
{
    bool heard = p->answer.outcome != REGISTER_REFUSED && p->answer.outcome != REGISTER_UNREACHABLE;
    if (!p->volume || !heard || id_is_none(p->request.volume_id))
        return;
    struct heard_node *at = &p->volume->heard[0];
    for (unsigned i = 0; i < REGISTER_TOLD_MAX; i++) {
        struct heard_node *h = &p->volume->heard[i];
        if (strcmp(h->node, p->request.node) == 0) {
            at = h;
            break;
        }
        if (h->at_ns < at->at_ns)
            at = h;
    }
    memcpy(at->node, p->request.node, sizeof(at->node));
    at->at_ns = now_ns;
}

void batch_run(struct witness *w)
{
    uint64_t now_ns = clock_ns();
    answer_all(w);
    try_for_those_who_ask(w);
    keep_ages(w);
    for (unsigned i = 0; i < w->batch_count; i++) {
        struct pending *p = &w->batch[i];
        if (p->changed) {
            p->volume->since_us = p->time_us;
            p->volume->told_outcomes = 0;
        }
        tell(w, p);
        note_heard(p, now_ns);
        p->conn->pending--;
        if (!p->conn->dead)
            conn_answer(p->conn, p->number, &p->answer);
    }
    w->batch_count = 0;
}
