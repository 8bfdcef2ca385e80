/* The shell of one engine: its thread, its loop, and the carrying out of actions.
 *
 * A turn of the loop takes completions, each of which gives the engine an event; what the engine wants done is gathered
 * and carried out at the end of the turn, frames to the peer first, so that one system call takes all of it along. */
#include "repl/node/volume.h"
#include "repl/base/resident.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <time.h>

#include "blockdev/front/front.h"
#include "blockdev/ring/prompt.h"
#include "repl/base/scoped.h"
#include "repl/engine/engine.h"
#include "repl/link/link.h"
#include "repl/meta/activity_log.h"
#include "repl/node/leg.h"
#include "repl/node/rate.h"
#include "repl/node/verify_schedule.h"
#include "repl/sync/resync.h"

#define ARENA_BYTES (32 * MIB)
/* The peer may have as much on its way to us as leaves room for what an earlier session left behind. */
#define WINDOW_BYTES (ARENA_BYTES / 2)
#define WINDOW_FRAMES (MIRROR_PEER_CHANGES_MAX / 2)
/* Writes that wait for the peer leave this much for reads, which go on. */
#define KEEP_FREE_BYTES (8 * MIB)
#define RING_ENTRIES 1024
#define RING_FILES_MAX 128
#define RETRY_MIN_NS (100 * NS_PER_MS)
#define RETRY_MAX_NS (2 * NS_PER_S)
#define REFUSED_RETRY_NS (5 * NS_PER_S)
#define STATUS_WAIT_NS (1 * NS_PER_S)

static_assert(CONFIG_ACTIVITY_LOG_BYTES_STEP == EXTENT_BYTES_DEFAULT, "a step is an extent");
static_assert(CONFIG_ACTIVITY_LOG_BYTES_DEFAULT == (uint64_t)AL_SLOTS_DEFAULT * EXTENT_BYTES_DEFAULT, "as without one");
static_assert(CONFIG_ACTIVITY_LOG_BYTES_MAX == (uint64_t)AL_SLOTS_MAX * EXTENT_BYTES_DEFAULT, "there are enough slots");
static_assert(CONFIG_ACTIVITY_LOG_BYTES_MIN > OP_RANGE_BYTES_MAX + EXTENT_BYTES_DEFAULT, "any change fits");

/* The engine numbers its operations in two ranges: the mirror's, and those of a resync. */
#define SYNC_OPS (SYNC_OP_END - SYNC_OP_FIRST)
/* Gathered in a turn; above the mark no more requests are taken until they are carried out. */
#define ACTIONS_MAX (2 * ENGINE_ACTIONS_MAX)
#define ACTIONS_MARK ENGINE_ACTIONS_MAX

struct volume_io {
    struct disk_io io;
    struct volume *volume;
    uint32_t op;
};

struct volume_order_task {
    struct ring_task task;
    struct list pending;
    struct volume *volume;
    enum volume_order order;
    bool force;
    void (*done)(void *ctx, int result, const char *text);
    void *ctx;
};

struct volume {
    struct volume_config config;
    struct volume_host host;
    pthread_t thread;

    struct ring *ring;
    struct buf_pool pool;
    struct leg leg;
    struct engine *engine;
    struct front *front;
    struct link *link; /* NULL: the volume has a single node */
    struct actions actions;
    struct volume_io *ios;      /* MIRROR_OPS */
    struct volume_io *sync_ios; /* SYNC_OPS */
    struct volume_io own_io;    /* of the engine's operations beside those */
    struct volume_io grow_io;
    struct list orders;
    bool stopping;
    struct volume_order_task stop_order;
    struct ring_timer stop_retry;
    struct ring_timer tick; /* engine_deadline_ns() */
    uint64_t tick_at_ns;
    struct volume_order_task scheduled; /* the verify that nobody ordered */
    bool scheduled_runs;
    bool scheduled_began;
    struct verify_plan verify_plan;
    struct ring_timer verify_timer; /* when to look at the calendar */
    struct rate resync_rate;
    uint64_t resync_look_ns; /* when to look at its progress next */

    /* Between the volume's thread and others. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool started;
    bool start_failed;
    struct err start_err;
    struct volume_status status;
    uint64_t status_count; /* snapshots made */
    bool status_asked;
    struct ring_task status_task;
    struct ring_task stop_task;
};

static void note(struct volume *v, enum note_level level, const char *topic, const char *text)
{
    v->host.note(v->host.ctx, v->config.volume, level, topic, text);
}

static void step(struct volume *v, struct event *ev)
{
    ev->now_ns = ring_now_ns(v->ring);
    engine_step(v->engine, ev, &v->actions);
}

/* ---- disk ---- */

static void disk_io_done(struct disk_io *io)
{
    struct volume_io *vio = container_of(io, struct volume_io, io);
    step(vio->volume, &(struct event) { .kind = EV_DISK_DONE, .disk = { .op = vio->op, .result = io->result } });
}

static struct volume_io *io_of(struct volume *v, uint32_t op)
{
    if (op < MIRROR_OPS)
        return &v->ios[op];
    if (op >= SYNC_OP_FIRST && op < SYNC_OP_END)
        return &v->sync_ios[op - SYNC_OP_FIRST];
    return op == ENGINE_OP_GROW ? &v->grow_io : &v->own_io;
}

static void start_disk_io(struct volume *v, const struct action *a)
{
    struct volume_io *vio = io_of(v, a->disk.op);
    vio->volume = v;
    vio->op = a->disk.op;
    vio->io.kind = a->disk.kind;
    vio->io.flags = a->disk.flags;
    vio->io.offset_bytes = a->disk.offset_bytes;
    vio->io.length_bytes = a->disk.length_bytes;
    vio->io.data = a->disk.buf ? a->disk.buf->data + a->disk.buf_offset_bytes : NULL;
    vio->io.done = disk_io_done;
    disk_submit(v->leg.disk, &vio->io);
}

static void superblock_written(void *ctx, int32_t result)
{
    step(ctx, &(struct event) { .kind = EV_META_DONE, .meta = { .result = result } });
}

static void page_written(void *ctx, enum meta_area area, uint32_t index, int32_t result)
{
    step(ctx, &(struct event) { .kind = EV_META_PAGE_DONE, .page = { area, index, result } });
}

static void grow_done(void *ctx, enum grow_step step_done, int32_t err, const char *reason,
                      const struct grow_plan *plan)
{
    struct volume *v = ctx;
    step(v, &(struct event) {
                .kind = EV_GROW_DONE,
                .grow = { .step = step_done,
                          .result = err,
                          .reason = reason,
                          .flush_failed = v->leg.grow.flush_failed,
                          .plan = *plan },
            });
}

/* ---- front ---- */

static bool sink_can_accept(void *ctx, enum op_kind kind)
{
    struct volume *v = ctx;
    return !v->stopping && v->actions.count < ACTIONS_MARK && engine_can_accept(v->engine, kind);
}

static bool sink_backing_is_current(void *ctx)
{
    const struct volume *v = ctx;
    return engine_leg_is_current(v->engine);
}

static void sink_submit(void *ctx, const struct request *request)
{
    step(ctx, &(struct event) { .kind = EV_REQUEST, .request = *request });
}

/* That a client comes or goes is no change of the volume's state: a monitor that looks every second would leave nothing
 * else among the events. */
static void sink_note(void *ctx, enum note_level level, const char *text)
{
    struct volume *v = ctx;
    if (level == NOTE_INFO)
        v->host.log(v->host.ctx, v->config.volume, LOG_LEVEL_INFO, text);
    else
        note(v, level, "client", text);
}

static void refuse_clients(struct volume *v)
{
    char why[STATUS_TEXT_BYTES];
    const struct config_node *peer = config_peer(&v->config);
    if (peer)
        snprintf(why, sizeof(why), "volume %s is not served by %s; its other node is %s (%s)", v->config.volume,
                 config_self(&v->config)->name, peer->name, peer->device);
    else
        snprintf(why, sizeof(why), "volume %s is not served: it was not promoted", v->config.volume);
    front_refuse(v->front, why);
}

static void set_serving(struct volume *v, bool on, uint64_t size_bytes)
{
    if (!v->front) /* closed already: nobody is there to be served or refused */
        return;
    if (!on) {
        refuse_clients(v);
        return;
    }
    struct engine_view view;
    engine_view(v->engine, &view);
    front_serve(v->front, size_bytes, view.block_bytes);
}

/* ---- link ---- */

/* What the engine wanted of a session that has ended since is void: the next one, whose hello may come in the same
 * turn, must not be taken for accepted. */
static void forget_session_actions(struct actions *actions)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < actions->count; i++) {
        enum action_kind kind = actions->list[i].kind;
        if (kind == ACT_SEND && actions->list[i].send.payload_is_given)
            buf_put(actions->list[i].send.payload);
        if (kind != ACT_SEND && kind != ACT_SESSION_READY && kind != ACT_SESSION_REFUSE && kind != ACT_SESSION_DROP)
            actions->list[kept++] = actions->list[i];
    }
    actions->count = kept;
}

static void link_event(void *ctx, const struct event *ev)
{
    struct event copy = *ev;
    if (ev->kind == EV_SESSION_DOWN)
        forget_session_actions(&((struct volume *)ctx)->actions);
    step(ctx, &copy);
}

static void link_hello(void *ctx, struct hello *out)
{
    struct volume *v = ctx;
    uint8_t nonce[HELLO_NONCE_BYTES];
    /* Never fails once the kernel has begun to give random numbers, which open_engine() has seen. */
    if (getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce))
        memset(nonce, 0, sizeof(nonce));
    engine_hello(v->engine, nonce, out);
}

static void link_note(void *ctx, enum note_level level, const char *text) { note(ctx, level, "link", text); }

/* ---- actions ---- */

static void order_done(struct volume_order_task *task, int result, const char *text)
{
    list_remove(&task->pending);
    task->done(task->ctx, result, text);
    if (task != &task->volume->stop_order && task != &task->volume->scheduled)
        free(task);
}

static void carry_out(struct volume *v, const struct action *a)
{
    switch (a->kind) {
    case ACT_SEND: break; /* sent already */
    case ACT_DISK: start_disk_io(v, a); break;
    case ACT_BUF_PUT: buf_put(a->put.buf); break;
    case ACT_COMPLETE: front_complete(a->complete.cookie, a->complete.result); break;
    case ACT_META_WRITE: leg_write_superblock(&v->leg, a->meta.superblock, superblock_written, v); break;
    case ACT_META_PAGE: leg_write_page(&v->leg, a->page.area, a->page.index, a->page.block); break;
    case ACT_SESSION_READY: link_ready(v->link); break;
    case ACT_SESSION_REFUSE: link_refuse(v->link, a->text.text); break;
    case ACT_SESSION_DROP: link_drop(v->link, a->text.text); break;
    case ACT_SERVE: set_serving(v, a->serve.on, a->serve.size_bytes); break;
    case ACT_GROW: leg_grow(&v->leg, &v->config, a->grow.step, grow_done, v); break;
    case ACT_ORDER_DONE: order_done(a->order.cookie, a->order.result, a->order.text); break;
    case ACT_NOTE: note(v, a->note.level, a->note.topic, a->note.text); break;
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
    step(v, &(struct event) { .kind = EV_TICK });
}

static void set_tick(struct volume *v)
{
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

static void end_of_turn(void *ctx)
{
    struct volume *v = ctx;
    for (;;) {
        bool worked = v->actions.count > 0;
        if (worked)
            carry_out_all(v);
        /* Completions made room: whoever waited for it may go on, and may want more done. */
        bool room = buf_pool_take_starved(&v->pool);
        if ((worked || room) && v->front)
            front_resume(v->front);
        if (room && v->link)
            link_resume(v->link);
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

/* ---- orders and status from other threads ---- */

static void run_order(struct ring_task *task)
{
    struct volume_order_task *order = container_of(task, struct volume_order_task, task);
    struct volume *v = order->volume;
    list_append(&v->orders, &order->pending);
    if (v->stopping) {
        order_done(order, -ECANCELED, "the volume is being stopped");
        return;
    }
    static const enum event_kind kinds[] = {
        [VOLUME_PROMOTE] = EV_PROMOTE, [VOLUME_DEMOTE] = EV_DEMOTE, [VOLUME_VERIFY] = EV_VERIFY,
        [VOLUME_RESIZE] = EV_RESIZE,   [VOLUME_DETACH] = EV_DETACH,
    };
    step(v, &(struct event) {
                .kind = kinds[order->order],
                .order = { .force = order->force, .cookie = order, .unix_s = (uint64_t)time(NULL) },
            });
}

/* ---- the verify that nobody orders ---- */

#define CALENDAR_LOOK_NS NS_PER_S

static struct verify_clocks verify_clocks(const struct volume *v)
{
    struct engine_view view;
    engine_view(v->engine, &view);
    return (struct verify_clocks) {
        .now_s = (uint64_t)time(NULL),
        .monotonic_s = ring_now_ns(v->ring) / NS_PER_S,
        .last_s = view.verified_at_s,
    };
}

static void plan_verify(struct volume *v, bool skipped)
{
    verify_plan_make(&v->verify_plan, &v->config, verify_clocks(v), skipped);
}

static void scheduled_done(void *ctx, int result, const char *text)
{
    struct volume *v = ctx;
    char said[STATUS_TEXT_BYTES];
    v->scheduled_runs = false;
    if (v->stopping)
        return;
    bool over = result == 0 || result == -EILSEQ; /* what it found is told already */
    plan_verify(v, !over);
    if (over)
        return;
    snprintf(said, sizeof(said), "the scheduled verify %s: %s",
             v->scheduled_began ? "was cut off before its end" : "is skipped", text ? text : strerror(-result));
    note(v, NOTE_WARNING, "verify", said);
}

/* On the primary only: who else is to run it cannot tell what is being written. */
static void look_at_calendar(struct ring_timer *t)
{
    struct volume *v = container_of(t, struct volume, verify_timer);
    struct engine_view view;
    struct verify_view verify;
    if (v->stopping)
        return;
    ring_timer_set(v->ring, t, ring_now_ns(v->ring) + CALENDAR_LOOK_NS);
    engine_verify_view(v->engine, &verify);
    /* One that was ordered counts as this one if it comes to its end. */
    if (v->scheduled_runs || verify.running || !verify_plan_is_due(&v->verify_plan, &v->config, verify_clocks(v)))
        return;
    engine_view(v->engine, &view);
    if (view.role != ROLE_PRIMARY || !view.serving) {
        /* At any time: as soon as it is primary. */
        if (v->config.verify_at_minute != CONFIG_ANY_TIME)
            plan_verify(v, true);
        return;
    }
    v->scheduled_runs = true;
    v->scheduled_began = false;
    v->scheduled = (struct volume_order_task) { .volume = v, .order = VOLUME_VERIFY, .done = scheduled_done, .ctx = v };
    list_init(&v->scheduled.pending);
    note(v, NOTE_INFO, "verify", "the scheduled verify begins");
    run_order(&v->scheduled.task);
    engine_verify_view(v->engine, &verify);
    v->scheduled_began = verify.running;
}

static void begin_schedule(struct volume *v)
{
    if (v->config.verify_every_ns == 0)
        return;
    plan_verify(v, false);
    v->verify_timer.fired = look_at_calendar;
    ring_timer_set(v->ring, &v->verify_timer, ring_now_ns(v->ring) + CALENDAR_LOOK_NS);
}

void volume_order(struct volume *v, enum volume_order order, bool force,
                  void (*done)(void *ctx, int result, const char *text), void *ctx)
{
    struct volume_order_task *task = calloc(1, sizeof(*task));
    if (!task) {
        done(ctx, -ENOMEM, "out of memory");
        return;
    }
    task->task.run = run_order;
    task->volume = v;
    task->order = order;
    task->force = force;
    task->done = done;
    task->ctx = ctx;
    list_init(&task->pending);
    ring_post(v->ring, &task->task);
}

/* A monotonic time of the past as one of the calendar. */
static uint64_t calendar_us(uint64_t now_ns, uint64_t then_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t now_us = (uint64_t)now.tv_sec * (NS_PER_S / NS_PER_US) + (uint64_t)now.tv_nsec / NS_PER_US;
    uint64_t ago_us = now_ns > then_ns ? (now_ns - then_ns) / NS_PER_US : 0;
    return now_us > ago_us ? now_us - ago_us : 0;
}

static struct volume_resync resync_status(struct volume *v, const struct engine_resync *resync, uint64_t now_ns)
{
    if (!resync->active)
        return (struct volume_resync) { 0 };
    return (struct volume_resync) { .active = true,
                                    .is_source = resync->is_source,
                                    .done_bytes = resync->done_bytes,
                                    .total_bytes = resync->total_bytes,
                                    .rate_bytes_per_s = rate_bytes_per_s(&v->resync_rate, now_ns, resync->done_bytes),
                                    .equal_bytes = resync->equal_bytes,
                                    .sent_bytes = resync->sent_bytes,
                                    .zero_bytes = resync->zero_bytes };
}

static void make_status(struct volume *v, struct volume_status *s)
{
    struct engine_view view;
    engine_view(v->engine, &view);
    struct verify_view verify;
    engine_verify_view(v->engine, &verify);
    uint64_t now_ns = ring_now_ns(v->ring);
    *s = (struct volume_status) {
        .role = view.role,
        .serving = view.serving,
        .is_protected = view.in_sync,
        .epoch = view.epoch,
        .lsn = view.lsn,
        .size_bytes = view.size_bytes,
        .leg = view.leg,
        .writes_waiting = view.writes_waiting,
        .verify_done_bytes = verify.running ? verify.done_bytes : 0,
        .verify_total_bytes = verify.running ? verify.total_bytes : 0,
        .peer_leads = view.peer_leads,
        .peer_leg = view.peer_leg,
        .out_of_sync_bytes = view.out_of_sync_bytes,
        .verified_at_us = view.verified_at_s * (NS_PER_S / NS_PER_US),
        .verified_found_bytes = view.verified_found_bytes,
        .verify_next_us =
            v->config.verify_every_ns && view.role == ROLE_PRIMARY ? v->verify_plan.next_s * (NS_PER_S / NS_PER_US) : 0,
        .resync = resync_status(v, &view.resync, now_ns),
        .alone_epoch = view.alone_epoch,
        .alone_since_us = view.alone_epoch ? calendar_us(now_ns, view.alone_since_ns) : 0,
        .diskless_epoch = view.diskless_epoch,
        .diskless_since_us = view.diskless_epoch ? calendar_us(now_ns, view.diskless_since_ns) : 0,
    };
    if (view.oldest_waiting_ns && now_ns > view.oldest_waiting_ns)
        s->oldest_waiting_us = (now_ns - view.oldest_waiting_ns) / NS_PER_US;
    snprintf(s->why_not, sizeof(s->why_not), "%s", view.why_not ? view.why_not : "");
    if (!v->link)
        return;
    const struct session *session = link_session(v->link);
    s->link = session_state(session);
    snprintf(s->link_reason, sizeof(s->link_reason), "%s", session_reason(session));
    if (s->link == LINK_CONNECTED)
        snprintf(s->transport, sizeof(s->transport), "%s", link_transport_name(v->link));
    /* Whom the session itself refuses, the engine never hears of. */
    if (s->link == LINK_REFUSED && view.leg == LEG_UP_TO_DATE)
        snprintf(s->why_not, sizeof(s->why_not), "%s", s->link_reason);
    s->path = session_path(session);
    s->rtt_us = session_rtt_ns(session) / NS_PER_US;
}

static void run_status(struct ring_task *task)
{
    struct volume *v = container_of(task, struct volume, status_task);
    struct volume_status status;
    make_status(v, &status);
    pthread_mutex_lock(&v->lock);
    v->status = status;
    v->status_count++;
    v->status_asked = false;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

void volume_verify_places(struct volume *v, struct verify_places *out) { engine_verify_places(v->engine, out); }

void volume_status(struct volume *v, struct volume_status *out)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    pthread_mutex_lock(&v->lock);
    uint64_t before = v->status_count;
    if (!v->status_asked) /* else it has not answered the last time, and was waited for then */
        until.tv_sec += (time_t)(STATUS_WAIT_NS / NS_PER_S);
    if (!v->status_asked) {
        v->status_asked = true;
        v->status_task.run = run_status;
        ring_post(v->ring, &v->status_task);
    }
    while (v->status_count == before && pthread_cond_timedwait(&v->changed, &v->lock, &until) == 0) {}
    *out = v->status;
    if (v->status_count == before) { /* nobody can tell what has become of it since */
        out->is_protected = false;
        snprintf(out->why_not, sizeof(out->why_not),
                 "the volume's thread does not answer, perhaps for a disk that hangs; all else shown is what it said "
                 "last");
    }
    pthread_mutex_unlock(&v->lock);
}

/* ---- the thread ---- */

/* `disguise`: 0, or what a test wants to pass for another boot. */
static int read_boot_id(uint64_t disguise, struct id *out, struct err *err)
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    *out = (struct id) { 0 };
    FILE *f = fopen(path, "re");
    unsigned n = 0;
    unsigned byte = 0;
    for (int c, half = 0; f && n < sizeof(out->bytes) && (c = fgetc(f)) != EOF;) {
        if (c == '-' || c == '\n')
            continue;
        byte = (byte << 4 & 0xff) | (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
        if (half++ % 2)
            out->bytes[n++] = (uint8_t)byte;
    }
    if (f)
        fclose(f);
    for (unsigned i = 0; i < sizeof(disguise); i++)
        out->bytes[i] ^= (uint8_t)(disguise >> 8 * i);
    return n == sizeof(out->bytes) ? 0 : err_set(err, -EIO, "%s: cannot be read", path);
}

struct attach_write {
    struct ring *ring;
    int32_t result;
};

static void attach_written(void *ctx, int32_t result)
{
    struct attach_write *w = ctx;
    w->result = result;
    ring_stop(w->ring);
}

/* Reads the superblock, and has it remember on disk that a daemon has the leg attached. */
static int attach_leg(struct volume *v, struct superblock *sb, struct err *err)
{
    struct id boot_id;
    int r = leg_read_superblock(&v->leg, &v->config, sb, err);
    if (!r)
        r = read_boot_id(v->config.test.boot, &boot_id, err);
    if (r)
        return r;
    r = leg_wipe_stale(&v->leg, sb, err);
    if (r)
        return r;
    if (err->text[0])
        note(v, NOTE_WARNING, "leg", err->text);
    engine_attach(sb, boot_id, v->config.node_count > 1);
    struct attach_write w = { .ring = v->ring };
    leg_write_superblock(&v->leg, sb, attach_written, &w);
    ring_run(v->ring, NULL, NULL);
    if (w.result)
        return err_set(err, w.result, "%s: the metadata cannot be written: %s", v->leg.meta->path, strerror(-w.result));
    return 0;
}

static void page_found(void *ctx, uint32_t index, const uint8_t *block)
{
    struct volume *v = ctx;
    engine_load_page(v->engine, index, block);
}

static void log_block_found(void *ctx, uint32_t index, const uint8_t *block)
{
    uint8_t *ring = ctx;
    if (block)
        memcpy(ring + (size_t)index * META_PAGE_BYTES, block, META_PAGE_BYTES);
}

/* What a crash left in the activity log becomes set bits before anything else happens. */
static int load_metadata(struct volume *v, struct err *err)
{
    uint32_t blocks = meta_page_count(&v->leg.layout, META_ACTIVITY_LOG);
    size_t ring_bytes = (size_t)blocks * META_PAGE_BYTES;
    CLEANUP_FREE uint8_t *ring = malloc(ring_bytes);
    if (!ring)
        return err_set(err, -ENOMEM, "out of memory");
    memset(ring, 0xff, ring_bytes); /* what cannot be read */
    int r = leg_read_area(&v->leg, &v->pool, META_BITMAP, engine_page_count(v->engine), page_found, v, err);
    if (!r)
        r = leg_read_area(&v->leg, &v->pool, META_ACTIVITY_LOG, blocks, log_block_found, ring, err);
    if (!r)
        engine_load_log(v->engine, ring, &v->actions);
    return r;
}

static int open_engine(struct volume *v, struct err *err)
{
    const struct config_node *peer = config_peer(&v->config);
    struct engine_config config = {
        .volume = v->config.volume,
        .node = config_self(&v->config)->name,
        .peer = peer ? peer->name : NULL,
        .backing = v->leg.bare->path,
        .node_index = v->config.self,
        .window_frames = WINDOW_FRAMES,
        .window_bytes = WINDOW_BYTES,
        .block_bytes = v->leg.bare->geometry.logical_block_bytes,
        .log_slots = (uint32_t)(v->config.activity_log_bytes / EXTENT_BYTES_DEFAULT),
        .alone_after_ns = v->config.when_alone == ALONE_CONTINUE ? v->config.dead_after_ns : ENGINE_NEVER_ALONE,
        .resync_bytes_per_s = v->config.resync_bytes_per_s,
        .verify_bytes_per_s = v->config.verify_bytes_per_s,
        .pool = &v->pool,
        .pool_keep_free_bytes = KEEP_FREE_BYTES,
    };
    if (getrandom(&config.seed, sizeof(config.seed), 0) < 0)
        return err_set(err, -errno, "no random numbers from the kernel");
    v->leg.page_done = page_written;
    v->leg.page_ctx = v;
    int r = attach_leg(v, &config.superblock, err);
    if (!r)
        r = leg_capacity(&v->leg, &v->config, config.superblock.size_bytes, &config.capacity_bytes, err);
    if (r)
        return r;
    uint64_t room_bytes = leg_room_bytes(&v->leg, &v->config);
    if (config.superblock.size_bytes && room_bytes > config.superblock.size_bytes) {
        char text[STATUS_TEXT_BYTES];
        snprintf(text, sizeof(text),
                 "%s has room for %llu bytes, where the volume has %llu: `lockstep resize`, once the peer's has, too",
                 v->leg.bare->path, (unsigned long long)room_bytes, (unsigned long long)config.superblock.size_bytes);
        note(v, NOTE_INFO, "leg", text);
    }
    v->tick_at_ns = UINT64_MAX;
    v->engine = engine_open(&config);
    v->ios = resident_calloc(MIRROR_OPS, sizeof(*v->ios));
    v->sync_ios = resident_calloc(SYNC_OPS, sizeof(*v->sync_ios));
    v->actions.list = resident_calloc(ACTIONS_MAX, sizeof(*v->actions.list));
    v->actions.max = ACTIONS_MAX;
    v->actions.text_bytes = 2 * ENGINE_TEXT_BYTES;
    v->actions.text = resident_calloc(1, v->actions.text_bytes);
    if (!v->engine || !v->ios || !v->sync_ios || !v->actions.list || !v->actions.text)
        return err_set(err, -ENOMEM, "out of memory");
    return load_metadata(v, err);
}

static int open_front(struct volume *v, struct err *err)
{
    v->front = front_nbd_open(
        &(struct front_config) {
            .ring = v->ring,
            .pool = &v->pool,
            .disk = v->leg.bare,
            .sink = { .ctx = v,
                      .can_accept = sink_can_accept,
                      .backing_is_current = sink_backing_is_current,
                      .submit = sink_submit,
                      .note = sink_note },
            .volume = v->config.volume,
            .address = config_self(&v->config)->device,
            .keep_free_bytes = KEEP_FREE_BYTES,
        },
        err);
    if (!v->front)
        return err->code;
    refuse_clients(v);
    return 0;
}

static int open_link(struct volume *v, struct err *err)
{
    const struct config_node *self = config_self(&v->config);
    const struct config_node *peer = config_peer(&v->config);
    if (!peer)
        return 0;
    bool initiator = v->config.self == 0;
    struct transport_config tc = {
        .ring = v->ring, .pool = &v->pool, .path_count = self->path_count, .initiator = initiator
    };
    struct link_config lc = {
        .session = {
            .volume = v->config.volume,
            .node = self->name,
            .peer = peer->name,
            .initiator = initiator,
            .path_count = self->path_count,
            .dead_after_ns = v->config.dead_after_ns,
            .retry_min_ns = RETRY_MIN_NS,
            .retry_max_ns = RETRY_MAX_NS,
            .refused_retry_ns = REFUSED_RETRY_NS,
        },
        .ring = v->ring,
        .pool = &v->pool,
        .ctx = v,
        .event = link_event,
        .hello = link_hello,
        .note = link_note,
    };
    for (unsigned i = 0; i < self->path_count; i++) {
        tc.listen[i] = self->paths[i];
        tc.connect[i] = peer->paths[i];
        lc.session.path_names[i] = peer->paths[i];
    }
    if (getrandom(&lc.session.seed, sizeof(lc.session.seed), 0) < 0)
        return err_set(err, -errno, "no random numbers from the kernel");
    lc.transport = transport_tcp_open(&tc, err);
    if (lc.transport && v->config.test.link_fault_on) {
        struct transport *faulty = transport_filter_fault(v->ring, lc.transport, &v->config.test.link_fault, err);
        if (!faulty)
            return err->code;
        lc.transport = faulty;
    }
    if (!lc.transport)
        return err->code;
    v->link = link_open(&lc, err);
    return v->link ? 0 : err->code;
}

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
        note(v, NOTE_WARNING, "disk", "the backing's file system refuses O_DIRECT: writes go through the page cache");
    if (!r)
        r = open_engine(v, err);
    if (!r)
        r = open_front(v, err);
    if (!r)
        r = open_link(v, err);
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
        note(v, NOTE_ERROR, "leg", text);
    close_parts(v);
}

static void stop_begin(struct volume *v)
{
    struct volume_order_task *order = &v->stop_order;
    *order = (struct volume_order_task) {
        .volume = v, .order = VOLUME_DETACH, .force = true, .done = stop_order_done, .ctx = v
    };
    list_init(&order->pending);
    run_order(&order->task);
}

static void stop_retry(struct ring_timer *t) { stop_begin(container_of(t, struct volume, stop_retry)); }

static void run_stop(struct ring_task *task) { stop_begin(container_of(task, struct volume, stop_task)); }

static void free_all(struct volume *v)
{
    for (struct list *pos; (pos = list_first(&v->orders));)
        order_done(container_of(pos, struct volume_order_task, pending), -ECANCELED, "the volume was stopped");
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
    begin_schedule(v);
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
