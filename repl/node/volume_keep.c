/* What a leg gives up goes into a file first: on a thread beside the volume's, as that file's disk may hang. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "repl/node/keep_file.h"
#include "repl/node/volume_internal.h"

/* No more can come of a file than it holds; of a device nobody knows. */
static uint64_t held_bytes(const struct volume *v)
{
    struct stat st;
    bool is_file = stat(v->leg.bare->path, &st) == 0 && S_ISREG(st.st_mode);
    return is_file ? (uint64_t)st.st_blocks * 512 : UINT64_MAX;
}

static void run_step(struct volume_keep *k)
{
    switch (k->step) {
    case KEEP_BEGIN: k->file = keep_file_open(k->path, k->info, held_bytes(k->volume), &k->err); return;
    case KEEP_DATA: keep_file_add(k->file, k->pieces, k->count, k->data, &k->err); return;
    case KEEP_END:
        if (keep_file_end(k->file, &k->err) == 0) {
            k->file = NULL;
            k->whole = true;
        }
        return;
    case KEEP_DROP:
        keep_file_drop(k->file);
        k->file = NULL;
        return;
    }
}

static void *keep_thread(void *arg)
{
    struct volume_keep *k = arg;
    run_step(k);
    ring_post(k->volume->ring, &k->task);
    return NULL;
}

static void step_done(struct ring_task *task)
{
    struct volume_keep *k = container_of(task, struct volume_keep, task);
    if (k->threaded)
        pthread_join(k->thread, NULL);
    volume_step(k->volume, &(struct event) {
                               .kind = EV_KEEP_DONE,
                               .keep = { .result = k->err.code, .reason = k->err.code ? k->err.text : NULL },
                           });
}

void volume_keep(struct volume *v, const struct action *a)
{
    struct volume_keep *k = &v->keep;
    k->volume = v;
    k->step = a->keep.step;
    k->err = (struct err) { 0 };
    k->task.run = step_done;
    if (k->step == KEEP_BEGIN) {
        const struct volume_order_task *order = a->keep.cookie;
        memcpy(k->path, order->keep, sizeof(k->path));
        k->order = order;
        k->whole = false;
        k->info = a->keep.info;
    }
    k->pieces = a->keep.pieces;
    k->count = a->keep.count;
    k->data = a->keep.buf ? a->keep.buf->data : NULL;
    int rc = pthread_create(&k->thread, NULL, keep_thread, k);
    k->threaded = rc == 0;
    if (rc == 0)
        return;
    /* What is dropped is dropped in any case. */
    if (k->step == KEEP_DROP)
        run_step(k);
    else
        err_set(&k->err, -EAGAIN, "no thread to write %s: %s", k->path, strerror(rc));
    ring_post(v->ring, &k->task);
}

/* One that was refused while another is under way has kept nothing. */
void volume_keep_ends(const struct volume_order_task *order)
{
    struct volume_keep *k = &order->volume->keep;
    k->told = k->whole && k->order == order;
    if (k->order == order)
        k->order = NULL;
}

bool volume_has_kept(const struct volume *v) { return v->keep.told; }

void volume_resolve(struct volume *v, const char *keep, bool force,
                    void (*done)(void *ctx, int result, const char *text), void *ctx)
{
    volume_order_with(v, VOLUME_RESOLVE, force, keep, done, ctx);
}
