/* Orders of operators, from other threads to the engine and back. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "repl/node/volume_internal.h"

void volume_order_done(struct volume_order_task *task, int result, const char *text)
{
    list_remove(&task->pending);
    volume_keep_ends(task);
    task->done(task->ctx, result, text);
    if (task != &task->volume->stop_order && task != &task->volume->scheduled)
        free(task);
}

void volume_run_order(struct ring_task *task)
{
    struct volume_order_task *order = container_of(task, struct volume_order_task, task);
    struct volume *v = order->volume;
    list_append(&v->orders, &order->pending);
    if (v->stopping) {
        volume_order_done(order, -ECANCELED, "the volume is being stopped");
        return;
    }
    static const enum event_kind kinds[] = {
        [VOLUME_PROMOTE] = EV_PROMOTE,       [VOLUME_DEMOTE] = EV_DEMOTE, [VOLUME_VERIFY] = EV_VERIFY,
        [VOLUME_SWITCHOVER] = EV_SWITCHOVER, [VOLUME_ADOPT] = EV_ADOPT,   [VOLUME_RESIZE] = EV_RESIZE,
        [VOLUME_RESOLVE] = EV_RESOLVE,       [VOLUME_DETACH] = EV_DETACH,
    };
    volume_step(v, &(struct event) {
                       .kind = kinds[order->order],
                       .order = { .force = order->force, .cookie = order, .unix_s = (uint64_t)time(NULL) },
                   });
}

void volume_order(struct volume *v, enum volume_order order, bool force,
                  void (*done)(void *ctx, int result, const char *text), void *ctx)
{
    volume_order_with(v, order, force, "", done, ctx);
}

void volume_order_with(struct volume *v, enum volume_order order, bool force, const char *keep,
                       void (*done)(void *ctx, int result, const char *text), void *ctx)
{
    struct volume_order_task *task = calloc(1, sizeof(*task));
    if (!task) {
        done(ctx, -ENOMEM, "out of memory");
        return;
    }
    task->task.run = volume_run_order;
    task->volume = v;
    task->order = order;
    task->force = force;
    snprintf(task->keep, sizeof(task->keep), "%s", keep);
    task->done = done;
    task->ctx = ctx;
    list_init(&task->pending);
    ring_post(v->ring, &task->task);
}
