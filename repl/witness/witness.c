/* The embedded witness: its thread, and an operator's orders. */
#include "repl/witness/witness.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/witness/witness_internal.h"

#define EVENTS_AT_ONCE 64

void witness_tell(struct witness *w, const char *volume, enum note_level level, const char *format, ...)
{
    char text[sizeof(w->store_err.text) + 128];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    w->options.tell(w->options.ctx, volume, level, text);
}

/* ---- orders ---- */

static void describe(const struct volume_row *v, struct witness_volume *out)
{
    const struct register_row *row = &v->row;
    *out = (struct witness_volume) {
        .decree = row->decree,
        .since_us = v->since_us,
        .confirmed = row->confirmed && row->highest_told <= row->decree.epoch,
        .highest_told = row->highest_told,
    };
    memcpy(out->name, row->volume, sizeof(out->name));
    static_assert(ARRAY_LEN(out->told) == REGISTER_TOLD_MAX, "room for all who told");
    for (; out->told_count < REGISTER_TOLD_MAX && row->told[out->told_count].node[0]; out->told_count++) {
        memcpy(out->told[out->told_count].node, row->told[out->told_count].node, NAME_BYTES_MAX);
        out->told[out->told_count].epoch = row->told[out->told_count].epoch;
    }
    static_assert(ARRAY_LEN(out->ages) == REGISTER_TOLD_MAX, "room for all ages");
    for (; out->age_count < REGISTER_TOLD_MAX && row->ages[out->age_count].node[0]; out->age_count++) {
        memcpy(out->ages[out->age_count].node, row->ages[out->age_count].node, NAME_BYTES_MAX);
        out->ages[out->age_count].age = row->ages[out->age_count].age;
    }
}

static void order_status(struct witness *w, struct witness_order *o, const struct volume_row *one)
{
    if (one) {
        describe(one, &o->volume_list[o->count++]);
        return;
    }
    uint64_t at = o->cursor;
    for (; at < w->row_count && o->count < WITNESS_VOLUMES_AT_ONCE; at++)
        describe(&w->rows[at], &o->volume_list[o->count++]);
    o->cursor = at < w->row_count ? at : 0;
}

static void order_confirm(struct witness *w, struct witness_order *o, struct volume_row *row)
{
    char reason[REGISTER_REASON_BYTES];
    if (!register_row_confirm(&row->row, reason)) {
        err_set(&o->err, -EPERM, "volume %s: %s", o->volume, reason);
        return;
    }
    row->told_outcomes = 0;
    witness_tell(w, o->volume, NOTE_WARNING, "confirmed by an operator at epoch %" PRIu64, row->row.decree.epoch);
}

/* Its nodes would call this witness older, and nothing would be decided for them. */
static bool lives(const struct witness *w, struct witness_order *o, const struct volume_row *row)
{
    uint64_t now_ns = clock_ns(), max_ns = w->options.lives_ns_max ? w->options.lives_ns_max : WITNESS_LIVES_NS_MAX;
    char who[128 + REGISTER_TOLD_MAX * NAME_BYTES_MAX / 2] = "";
    size_t used = 0;
    for (unsigned i = 0; i < REGISTER_TOLD_MAX; i++) {
        const struct heard_node *h = &row->heard[i];
        if (h->node[0] && now_ns - h->at_ns < max_ns && used < sizeof(who))
            used += (size_t)snprintf(who + used, sizeof(who) - used, "%s%s %" PRIu64 " s ago", used ? ", " : "",
                                     h->node, (now_ns - h->at_ns) / NS_PER_S);
    }
    if (used)
        err_set(&o->err, -EPERM,
                "volume %s lives, heard here: %s. Without its decree it has no failover until `lockstep witness "
                "adopt` on its primary. Take it down on its nodes first, or take `witness` out of their configuration; "
                "then, or if those are of another volume, --force",
                o->volume, who);
    return used > 0;
}

static void order_forget(struct witness *w, struct witness_order *o, struct volume_row *row)
{
    if (!o->force && !decree_is_none(&row->row.decree) && lives(w, o, row))
        return;
    if (!decree_is_none(&row->row.decree) && witness_store_forget(w->store, o->volume, &o->err)) {
        if (witness_store_is_broken(w->store))
            batch_store_lost(w, &o->err);
        return;
    }
    register_row_start(&row->row, o->volume, (struct id) { 0 }, NULL);
    row->since_us = 0;
    row->told_outcomes = 0;
    memset(row->heard, 0, sizeof(row->heard));
    witness_tell(w, o->volume, NOTE_WARNING, "forgotten by an operator's order");
}

static void order_history(struct witness *w, struct witness_order *o)
{
    int rc = witness_store_history(w->store, o->volume, &o->cursor, o->entries, &o->count, &o->err);
    if (rc == 0 && o->count == 0 && !batch_find(w, o->volume))
        err_set(&o->err, -ENOENT, "the witness has never heard of volume %s", o->volume);
}

static void carry_out_order(struct witness *w, struct witness_order *o)
{
    o->err = (struct err) { 0 };
    o->count = 0;
    o->volumes = w->row_count;
    o->connections = w->conn_count;
    if (!w->store) {
        err_set(&o->err, -EIO, "%s", w->store_err.text);
        return;
    }
    struct volume_row *row = *o->volume ? batch_find(w, o->volume) : NULL;
    bool needs_row = o->kind != WITNESS_HISTORY && (o->kind != WITNESS_STATUS || *o->volume);
    if (needs_row && !row) {
        err_set(&o->err, -ENOENT, "no node has asked for a volume %s since the witness started, and it has no decree",
                o->volume);
        return;
    }
    switch (o->kind) {
    case WITNESS_STATUS: order_status(w, o, row); return;
    case WITNESS_HISTORY: order_history(w, o); return;
    case WITNESS_CONFIRM: order_confirm(w, o, row); return;
    case WITNESS_FORGET: order_forget(w, o, row); return;
    }
}

static struct witness_order *next_order(struct witness *w)
{
    pthread_mutex_lock(&w->lock);
    struct list *first = list_pop(&w->orders);
    pthread_mutex_unlock(&w->lock);
    return first ? container_of(first, struct witness_order, link) : NULL;
}

static bool told_to_stop(struct witness *w)
{
    pthread_mutex_lock(&w->lock);
    bool stop = w->stop;
    pthread_mutex_unlock(&w->lock);
    return stop;
}

static void wake(struct witness *w)
{
    uint64_t one = 1;
    ssize_t n = write(w->wake_fd, &one, sizeof(one));
    assert(n == sizeof(one) || errno == EAGAIN);
}

void witness_order(struct witness *w, struct witness_order *o)
{
    pthread_mutex_lock(&w->lock);
    list_append(&w->orders, &o->link);
    pthread_mutex_unlock(&w->lock);
    wake(w);
}

/* ---- the thread ---- */

static void open_again(struct witness *w)
{
    struct err err = { 0 };
    if (batch_open(w, NULL, &err) == 0) {
        witness_tell(w, NULL, NOTE_INFO, "the database is open again: %u volume%s", w->row_count,
                     w->row_count == 1 ? "" : "s");
        return;
    }
    w->reopen_ns = clock_ns() + REOPEN_NS;
    if (strcmp(err.text, w->store_err.text) != 0)
        witness_tell(w, NULL, NOTE_ERROR, "%s", err.text);
    w->store_err = err;
}

static int timeout_ms(uint64_t due_ns)
{
    uint64_t now_ns = clock_ns();
    if (due_ns == UINT64_MAX)
        return -1;
    return due_ns <= now_ns ? 0 : (int)min_u64((due_ns - now_ns) / NS_PER_MS + 1, 60 * 1000);
}

static void *run(void *arg)
{
    struct witness *w = arg;
    uint64_t due_ns = UINT64_MAX;
    while (!told_to_stop(w)) {
        struct epoll_event events[EVENTS_AT_ONCE];
        if (!w->store)
            due_ns = min_u64(due_ns, w->reopen_ns);
        int n = epoll_wait(w->epoll_fd, events, EVENTS_AT_ONCE, timeout_ms(due_ns));
        if (!w->store && clock_ns() >= w->reopen_ns)
            open_again(w);
        bool newcomers = false;
        for (int i = 0; i < n; i++) {
            uint64_t count;
            if (events[i].data.ptr == &w->wake_fd)
                (void)!read(w->wake_fd, &count, sizeof(count));
            else if (events[i].data.ptr == &w->listen_fd)
                newcomers = true;
            else
                conn_step(w, events[i].data.ptr, events[i].events);
        }
        due_ns = conns_sweep(w);
        /* A client is let in, and another made room, when no event points to it any more. */
        if (newcomers)
            conns_accept(w);
        for (struct witness_order *o; (o = next_order(w));) {
            carry_out_order(w, o);
            o->done(o);
        }
    }
    for (struct witness_order *o; (o = next_order(w));) {
        err_set(&o->err, -ECANCELED, "the witness is shutting down");
        o->count = 0;
        o->done(o);
    }
    return NULL;
}

/* ---- opening ---- */

static int watch(struct witness *w, int fd, void *what, struct err *err)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = what };
    return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? err_set(err, -errno, "witness: %s", strerror(errno))
                                                              : 0;
}

static int start_thread(struct witness *w, struct err *err)
{
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->epoll_fd < 0 || w->wake_fd < 0)
        return err_set(err, -errno, "witness: %s", strerror(errno));
    int rc = watch(w, w->listen_fd, &w->listen_fd, err);
    if (rc == 0)
        rc = watch(w, w->wake_fd, &w->wake_fd, err);
    if (rc)
        return rc;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = -pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc ? err_set(err, rc, "witness: no thread: %s", strerror(-rc)) : 0;
}

static void free_all(struct witness *w)
{
    conns_close(w);
    if (w->store)
        witness_store_close(w->store);
    if (w->epoll_fd >= 0)
        close(w->epoll_fd);
    if (w->wake_fd >= 0)
        close(w->wake_fd);
    pthread_mutex_destroy(&w->lock);
    free(w->rows);
    free(w->state);
    free(w);
}

static void tell_opened(struct witness *w, bool is_new)
{
    if (is_new)
        witness_tell(w, NULL, NOTE_WARNING,
                     "%s held no register: a new one was made. If there was one, the nodes know, and say so", w->state);
    witness_tell(w, NULL, NOTE_INFO, "witness on %s, of %u volume%s; its registers are in %s", w->address, w->row_count,
                 w->row_count == 1 ? "" : "s", w->state);
}

struct witness *witness_open(const struct witness_options *options, struct err *err)
{
    struct witness *w = calloc(1, sizeof(*w));
    if (!w) {
        err_set(err, -ENOMEM, "witness: out of memory");
        return NULL;
    }
    w->options = *options;
    if (!w->options.question_ns_max)
        w->options.question_ns_max = WITNESS_QUESTION_NS_MAX;
    if (!w->options.unread_ns_max)
        w->options.unread_ns_max = WITNESS_UNREAD_NS_MAX;
    w->listen_fd = w->epoll_fd = w->wake_fd = -1;
    list_init(&w->orders);
    list_init(&w->conns);
    pthread_mutex_init(&w->lock, NULL);
    w->rows = calloc(WITNESS_VOLUMES_MAX, sizeof(*w->rows));
    w->state = strdup(options->state);
    bool is_new = false;
    int rc = w->rows && w->state ? 0 : err_set(err, -ENOMEM, "witness: out of memory");
    if (rc == 0)
        rc = batch_open(w, &is_new, err);
    if (rc == 0)
        rc = conns_listen(w, err);
    if (rc == 0) {
        tell_opened(w, is_new);
        rc = start_thread(w, err);
    }
    if (rc) {
        free_all(w);
        return NULL;
    }
    return w;
}

void witness_close(struct witness *w)
{
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_mutex_unlock(&w->lock);
    wake(w);
    pthread_join(w->thread, NULL);
    free_all(w);
}

const char *witness_address(const struct witness *w) { return w->address; }
