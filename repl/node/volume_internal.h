/* What the files of a volume share: its state, and what one asks of another. All of it is of the volume's thread, but
 * for what `lock` protects. */
#pragma once

#include <pthread.h>

#include "blockdev/front/front.h"
#include "repl/engine/engine.h"
#include "repl/link/link.h"
#include "repl/node/leg.h"
#include "repl/node/rate.h"
#include "repl/node/registers.h"
#include "repl/node/verify_schedule.h"
#include "repl/node/volume.h"

#define ARENA_BYTES (32 * MIB)
/* Writes that wait for the peer leave this much for reads, which go on. */
#define KEEP_FREE_BYTES (8 * MIB)
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
    char keep[CONFIG_PATH_BYTES]; /* VOLUME_RESOLVE: the file */
    void (*done)(void *ctx, int result, const char *text);
    void *ctx;
};

/* The ACT_KEEP under way: its thread's while that runs. */
struct volume_keep {
    struct volume *volume;
    char path[CONFIG_PATH_BYTES];
    struct keep_file *file;
    const struct volume_order_task *order; /* whose it is; NULL: it has had its answer */
    bool whole;                            /* it has come to its end */
    bool told;                             /* ... and belongs to the order that just has its answer */
    enum keep_step step;
    const struct keep_info *info;
    const struct keep_piece *pieces;
    uint32_t count;
    const uint8_t *data;
    struct err err;
    pthread_t thread;
    bool threaded;
    struct ring_task task;
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
    char odd_config[ACTION_TEXT_BYTES]; /* of the peer's, as was told last */
    struct link *link;                  /* NULL: the volume has a single node */
    struct register_line *line;         /* NULL: the volume has no witness */
    struct register_answer answer;
    struct ring_task answer_task;
    bool accepts; /* engine_can_accept(), when looked at last; only with a witness */
    struct actions actions;
    struct volume_io *ios;      /* MIRROR_OPS */
    struct volume_io *sync_ios; /* VOLUME_SYNC_OPS */
    struct volume_io own_io;    /* of the engine's operations beside those */
    struct volume_io grow_io;
    struct volume_io keep_io;
    struct volume_keep keep;
    bool serves; /* as the host was told last */
    bool holds;  /* clients, since this node was deposed; the engine has not been told that they are gone */
    struct list orders;
    bool stopping;
    struct volume_order_task stop_order;
    struct ring_timer stop_retry;
    struct ring_timer tick; /* engine_deadline_ns() */
    uint64_t tick_at_ns;
    bool stepped; /* the engine was given an event in this turn, so that its deadline may be another */
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

static inline void volume_note(struct volume *v, enum note_level level, const char *topic, const char *text)
{
    v->host.note(v->host.ctx, v->config.volume, level, topic, text);
}

/* Gives the engine an event; what it wants done is gathered until the turn ends. */
static inline void volume_step(struct volume *v, struct event *ev)
{
    ev->now_ns = ring_now_ns(v->ring);
    v->stepped = true;
    engine_step(v->engine, ev, &v->actions);
}

/* volume_leg.c */
int volume_open_engine(struct volume *v, struct err *err); /* on a leg that is open */
void volume_start_disk_io(struct volume *v, const struct action *a);
void volume_write_superblock(struct volume *v, const struct superblock *sb);
void volume_grow(struct volume *v, enum grow_step grow_step);

/* volume_front.c */
int volume_open_front(struct volume *v, struct err *err);
void volume_serve(struct volume *v, uint64_t size_bytes);
void volume_close(struct volume *v, bool hold); /* to its clients; `hold`: as in ACT_SERVE */
bool volume_held_are_gone(struct volume *v);    /* `holds`. True: the engine is to be told, once */

/* volume_link.c */
struct hello_config volume_say_config(const struct volume_config *c);
int volume_open_link(struct volume *v, struct err *err); /* none, where the volume has a single node */

/* volume_register.c */
int volume_open_register(struct volume *v, struct err *err); /* none, without a witness */

/* volume_order.c */
void volume_run_order(struct ring_task *task); /* of a volume_order_task */
void volume_order_done(struct volume_order_task *task, int result, const char *text);

void volume_keep_ends(const struct volume_order_task *order); /* it has its answer */
/* `keep`: of VOLUME_RESOLVE; else "". */
void volume_order_with(struct volume *v, enum volume_order order, bool force, const char *keep,
                       void (*done)(void *ctx, int result, const char *text), void *ctx);

/* volume_keep.c */
void volume_keep(struct volume *v, const struct action *a);

/* volume_verify.c */
void volume_begin_schedule(struct volume *v);
