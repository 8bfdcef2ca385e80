/* The shell of one engine: its thread, its loop, and the carrying out of actions.
 *
 * A turn of the loop takes completions, each of which gives the engine an event (volume_leg.c, volume_front.c,
 * volume_link.c, volume_order.c); what the engine wants done is gathered and carried out at the end of the turn, frames
 * to the peer first, so that one system call takes all of it along. */
#include "repl/node/volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "blockdev/ring/prompt.h"
#include "repl/node/volume_internal.h"

#define RING_ENTRIES 1024
#define RING_FILES_MAX 128

/* ---- one turn of the loop ---- */

static void carry_out(struct volume *v, const struct action *a)
{
    switch (a->kind) {
    case ACT_SEND: break; /* sent already */
    case ACT_DISK: volume_start_disk_io(v, a); break;
    case ACT_BUF_PUT: buf_put(a->put.buf); break;
    case ACT_COMPLETE: front_complete(a->complete.cookie, a->complete.result); break;
    case ACT_META_WRITE: volume_write_superblock(v, a->meta.superblock); break;
    case ACT_META_PAGE: leg_write_page(&v->leg, a->page.area, a->page.index, a->page.block); break;
    case ACT_SESSION_READY: link_ready(v->link); break;
    case ACT_SESSION_REFUSE: link_refuse(v->link, a->text.text); break;
    case ACT_SESSION_DROP: link_drop(v->link, a->text.text); break;
    case ACT_SERVE:
        if (a->serve.on)
            volume_serve(v, a->serve.size_bytes);
        else
            volume_close(v, a->serve.hold);
        break;
    case ACT_GROW: volume_grow(v, a->grow.step); break;
    case ACT_KEEP: volume_keep(v, a); break;
    case ACT_REGISTER: register_line_ask(v->line, a->ask.request); break;
    case ACT_ORDER_DONE: volume_order_done(a->order.cookie, a->order.result, a->order.text); break;
    case ACT_NOTE: volume_note(v, a->note.level, a->note.topic, a->note.text); break;
    }
}

/* Carries out what was gathered. Nothing in here gives the engine an event, so that the list stands still. */
static void carry_out_all(struct volume *v)
{
    struct actions *actions = &v->actions;
    /* The peer first, and all frames in one call: the way there is the longest part of a write. */
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct action *a = &actions->list[i];
        if (a->kind == ACT_SEND)
            link_send(v->link, &a->send.frame, a->send.payload);
        if (a->kind == ACT_SEND && a->send.payload_is_given)
            buf_put(a->send.payload);
    }
    if (v->link)
        link_flush(v->link);
    for (uint32_t i = 0; i < actions->count; i++)
        carry_out(v, &actions->list[i]);
    actions_clear(actions);
}

static void tick(struct ring_timer *t)
{
    struct volume *v = container_of(t, struct volume, tick);
    v->tick_at_ns = UINT64_MAX;
    volume_step(v, &(struct event) { .kind = EV_TICK });
}

/* What the engine waits for changes with its events only. */
static void set_tick(struct volume *v)
{
    if (!v->stepped)
        return;
    v->stepped = false;
    uint64_t at_ns = engine_deadline_ns(v->engine);
    if (at_ns == v->tick_at_ns)
        return;
    v->tick_at_ns = at_ns;
    v->tick.fired = tick;
    if (at_ns == UINT64_MAX)
        ring_timer_clear(v->ring, &v->tick);
    else
        ring_timer_set(v->ring, &v->tick, at_ns);
}

/* So that a rate is known whenever status is asked for. */
static void look_at_resync(struct volume *v)
{
    uint64_t now_ns = ring_now_ns(v->ring);
    if (now_ns < v->resync_look_ns)
        return;
    v->resync_look_ns = now_ns + RATE_SAMPLE_NS;
    struct engine_resync resync = engine_resync_view(v->engine);
    if (resync.active)
        rate_sample(&v->resync_rate, now_ns, resync.done_bytes);
    else
        rate_reset(&v->resync_rate);
}

/* Where a register decides, requests may have to wait although there is room: a switchover that was given up, say. */
static bool accepts_again(struct volume *v)
{
    if (!v->line)
        return false;
    bool before = v->accepts;
    v->accepts = engine_can_accept(v->engine, OP_WRITE);
    return v->accepts && !before;
}

static void end_of_turn(void *ctx)
{
    struct volume *v = ctx;
    for (;;) {
        bool worked = v->actions.count > 0;
        if (worked)
            carry_out_all(v);
        /* Completions made room: whoever waited for it may go on, and may want more done. */
        bool accepts = accepts_again(v); /* both are asked: each forgets what it told */
        bool room = buf_pool_take_starved(&v->pool) || accepts;
        if ((worked || room) && v->front)
            front_resume(v->front);
        if (room && v->link)
            link_resume(v->link);
        /* Clients come and go without the engine. */
        if (v->holds && v->actions.count == 0 && volume_held_are_gone(v))
            volume_step(v, &(struct event) { .kind = EV_HELD_GONE });
        if (v->actions.count == 0)
            break;
    }
    if (v->front)
        front_flush_answers(v->front);
    if (v->link)
        link_flush(v->link);
    set_tick(v);
    look_at_resync(v);
}

/* ---- the thread ---- */

static void log_line(void *ctx, const char *text)
{
    struct volume *v = ctx;
    v->host.log(v->host.ctx, v->config.volume, LOG_LEVEL_INFO, text);
}

static int open_all(struct volume *v, struct err *err)
{
    int r = buf_pool_open(&v->pool, ARENA_BYTES);
    if (r)
        return err_set(err, r, "no memory for the buffers of volume %s (%llu bytes)", v->config.volume,
                       (unsigned long long)ARENA_BYTES);
    v->ring = ring_open(
        &(struct ring_config) {
            .entries = RING_ENTRIES,
            .files_max = RING_FILES_MAX,
            .arena = v->pool.arena,
            .arena_bytes = v->pool.arena_bytes,
            .log = log_line,
            .log_ctx = v,
        },
        err);
    if (!v->ring)
        return err->code;
    r = leg_open(&v->leg, v->ring, &v->pool, &v->config, err);
    if (!r && !v->leg.bare->geometry.direct)
        volume_note(v, NOTE_WARNING, "disk",
                    "the backing's file system refuses O_DIRECT: writes go through the page cache");
    if (!r)
        r = volume_open_engine(v, err);
    if (!r)
        r = volume_open_register(v, err);
    if (!r)
        r = volume_open_front(v, err);
    if (!r)
        r = volume_open_link(v, err);
    /* -ENOENT says that there is no leg, and so nothing to lose; not that something else is missing. */
    if (r == -ENOENT && v->engine)
        r = err->code = -ENXIO;
    return r;
}

static void stop_if_closed(struct volume *v)
{
    if (!v->front && !v->link)
        ring_stop(v->ring);
}

static void front_closed(void *ctx)
{
    struct volume *v = ctx;
    v->front = NULL;
    stop_if_closed(v);
}

static void link_closed(void *ctx)
{
    struct volume *v = ctx;
    v->link = NULL;
    stop_if_closed(v);
}

static void close_parts(struct volume *v)
{
    v->stopping = true;
    if (v->config.verify_every_ns && v->ring)
        ring_timer_clear(v->ring, &v->verify_timer);
    if (v->front)
        front_close(v->front, front_closed, v);
    if (v->link)
        link_close(v->link, link_closed, v);
    stop_if_closed(v);
}

#define STOP_RETRY_NS (20 * NS_PER_MS)

static void stop_retry(struct ring_timer *t);

static void stop_order_done(void *ctx, int result, const char *text)
{
    struct volume *v = ctx;
    /* Its role is just changing, or a connection just closing: that ends by itself. */
    if (result == -EBUSY) {
        v->stop_retry.fired = stop_retry;
        ring_timer_set(v->ring, &v->stop_retry, ring_now_ns(v->ring) + STOP_RETRY_NS);
        return;
    }
    if (result)
        volume_note(v, NOTE_ERROR, "leg", text);
    close_parts(v);
}

static void stop_begin(struct volume *v)
{
    struct volume_order_task *order = &v->stop_order;
    *order = (struct volume_order_task) {
        .volume = v, .order = VOLUME_DETACH, .force = true, .done = stop_order_done, .ctx = v
    };
    list_init(&order->pending);
    volume_run_order(&order->task);
}

static void stop_retry(struct ring_timer *t) { stop_begin(container_of(t, struct volume, stop_retry)); }

static void run_stop(struct ring_task *task) { stop_begin(container_of(task, struct volume, stop_task)); }

static void free_all(struct volume *v)
{
    register_line_close(v->line); /* before the ring that its answers are posted to */
    for (struct list *pos; (pos = list_first(&v->orders));)
        volume_order_done(container_of(pos, struct volume_order_task, pending), -ECANCELED, "the volume was stopped");
    leg_close(&v->leg);
    /* Who posted the stop may still be inside ring_post(), about to wake a ring that is awake already. */
    pthread_mutex_lock(&v->lock);
    pthread_mutex_unlock(&v->lock);
    if (v->ring)
        ring_close(v->ring);
    engine_close(v->engine);
    free(v->actions.list);
    free(v->actions.text);
    free(v->ios);
    free(v->sync_ios);
    buf_pool_abandon(&v->pool);
}

static void tell_started(struct volume *v, bool failed)
{
    pthread_mutex_lock(&v->lock);
    v->started = true;
    v->start_failed = failed;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

static void *volume_thread(void *ctx)
{
    struct volume *v = ctx;
    char name[16];
    snprintf(name, sizeof(name), "vol-%.11s", v->config.volume);
    prctl(PR_SET_NAME, name);
    thread_be_prompt();
    bool failed = open_all(v, &v->start_err) != 0;
    if (failed && v->ring) {
        close_parts(v);
        ring_run(v->ring, NULL, NULL);
        free_all(v);
    } else if (failed) {
        buf_pool_abandon(&v->pool);
    }
    tell_started(v, failed);
    if (failed)
        return NULL;
    if (v->link)
        link_start(v->link);
    volume_begin_schedule(v);
    ring_run(v->ring, end_of_turn, v);
    free_all(v);
    return NULL;
}

static void volume_free(struct volume *v)
{
    pthread_cond_destroy(&v->changed);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

struct volume *volume_start(const struct volume_config *config, const struct volume_host *host, struct err *err)
{
    struct volume *v = calloc(1, sizeof(*v));
    if (!v) {
        err_set(err, -ENOMEM, "out of memory");
        return NULL;
    }
    v->config = *config;
    v->host = *host;
    list_init(&v->orders);
    pthread_mutex_init(&v->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&v->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int r = pthread_create(&v->thread, NULL, volume_thread, v);
    if (r) {
        err_set(err, -r, "no thread for volume %s: %s", config->volume, strerror(r));
        volume_free(v);
        return NULL;
    }
    pthread_mutex_lock(&v->lock);
    while (!v->started)
        pthread_cond_wait(&v->changed, &v->lock);
    bool failed = v->start_failed;
    pthread_mutex_unlock(&v->lock);
    if (!failed)
        return v;
    pthread_join(v->thread, NULL);
    *err = v->start_err;
    volume_free(v);
    return NULL;
}

void volume_stop(struct volume *v)
{
    v->stop_task.run = run_stop;
    pthread_mutex_lock(&v->lock);
    ring_post(v->ring, &v->stop_task);
    pthread_mutex_unlock(&v->lock);
    pthread_join(v->thread, NULL);
    volume_free(v);
}
