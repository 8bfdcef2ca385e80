/* A leg's backing has grown: where its metadata will lie is cleared, and the log is copied there. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/node/leg.h"

#define CLEAR_STEP_BYTES (64 * MIB)
#define COPY_STEP_BYTES (256 * KIB)

static void answer(struct leg_grow *g)
{
    free(g->memory);
    g->memory = NULL;
    g->done(g->ctx, g->step, g->err.code, g->err.text, &g->plan);
}

static void answer_later_fired(struct ring_timer *t) { answer(container_of(t, struct leg_grow, timer)); }

/* Never from within leg_grow(). */
static void answer_later(struct leg_grow *g)
{
    g->timer.fired = answer_later_fired;
    ring_timer_set(g->leg->ring, &g->timer, 0);
}

static void submit(struct leg_grow *g, enum op_kind kind, struct range range, disk_done_fn *done)
{
    g->io.kind = kind;
    g->io.flags = 0;
    g->io.offset_bytes = range.offset_bytes;
    g->io.length_bytes = range.length_bytes;
    g->io.data = g->memory;
    g->io.done = done;
    disk_submit(g->leg->meta, &g->io);
}

static bool failed(struct leg_grow *g, const struct disk_io *io, const char *what)
{
    if (io->result == 0)
        return false;
    g->flush_failed = io->kind == OP_FLUSH;
    err_set(&g->err, io->result, "%s: %s failed: %s", g->leg->meta->path, what, strerror(-io->result));
    answer(g);
    return true;
}

/* ---- GROW_LOOK ---- */

static void clear_flushed(struct disk_io *io)
{
    struct leg_grow *g = container_of(io, struct leg_grow, io);
    if (!failed(g, io, "a flush of the metadata's new place"))
        answer(g);
}

static void clear_next(struct leg_grow *g);

static void cleared(struct disk_io *io)
{
    struct leg_grow *g = container_of(io, struct leg_grow, io);
    if (!failed(g, io, "clearing the metadata's new place"))
        clear_next(g);
}

static void clear_next(struct leg_grow *g)
{
    struct range r = { g->at_bytes, min_u64(g->end_bytes - g->at_bytes, CLEAR_STEP_BYTES) };
    g->at_bytes += r.length_bytes;
    if (r.length_bytes)
        submit(g, OP_WRITE_ZEROES, r, cleared);
    else
        submit(g, OP_FLUSH, r, clear_flushed);
}

/* A file is as large as it must be; a device is what it is. */
static int make_room_in_holder(struct leg *leg, uint64_t bytes, struct err *err)
{
    if (leg->meta->geometry.size_bytes >= bytes)
        return 0;
    if (leg->meta->geometry.is_block_device)
        return err_set(err, -ENOSPC, "%s has %llu bytes, and the metadata will take %llu: enlarge it first",
                       leg->meta->path, (unsigned long long)leg->meta->geometry.size_bytes, (unsigned long long)bytes);
    if (truncate(leg->meta->path, (off_t)bytes) < 0)
        return err_set(err, -errno, "%s: cannot be made %llu bytes long: %s", leg->meta->path,
                       (unsigned long long)bytes, strerror(errno));
    return disk_look_again(leg->meta, err);
}

/* Of a block device: yes, without a look. */
static bool has_grown_since_opened(const struct leg *leg)
{
    struct stat st;
    return stat(leg->bare->path, &st) < 0 || (uint64_t)st.st_size != leg->bare->geometry.size_bytes;
}

static int look(struct leg_grow *g, struct err *err)
{
    struct leg *leg = g->leg;
    const struct volume_config *config = g->config;
    bool internal = leg_is_internal(leg);
    if (config->test.disk_record[0] && has_grown_since_opened(leg))
        return err_set(err, -ENOTSUP, "it is being recorded (test.disk.record), for the size that it had");
    int r = disk_look_again(leg->disk, err);
    if (!r && !internal)
        r = disk_look_again(leg->meta, err);
    if (!r)
        r = leg_layout(config, leg->bare->geometry.size_bytes, 0, &g->next, err);
    if (r)
        return r;
    const struct meta_layout *now = &leg->layout;
    g->plan = (struct grow_plan) {
        .data_bytes = g->next.data_bytes,
        .backing_bytes = leg->bare->geometry.size_bytes,
        .move = g->next.data_bytes > now->data_bytes,
    };
    if (config->size_bytes)
        g->plan.data_bytes = min_u64(g->plan.data_bytes, config->size_bytes);
    g->at_bytes = g->end_bytes = 0;
    /* An old superblock is left there: it is zeroed with what is added, or has to stay beyond that. */
    if (g->plan.data_bytes < leg->former_end_bytes)
        return err_set(err, -ENOSPC,
                       "%s: the configured `size` ends before or in the place that the metadata has left, which is not "
                       "clear yet: make it at least %llu bytes",
                       config->file, (unsigned long long)leg->former_end_bytes);
    /* Room that nobody may use is left for later. */
    if (!g->plan.move || g->plan.data_bytes <= now->data_bytes) {
        g->plan.move = false;
        g->plan.data_bytes = min_u64(g->plan.data_bytes, now->data_bytes);
        return 0;
    }
    g->end_bytes = g->next.meta_offset_bytes + g->next.meta_bytes;
    if (!internal) {
        /* All but superblocks and log; what the bitmap will grow into was set aside, or is new. */
        g->at_bytes =
            meta_page_offset(now, META_BITMAP, 0) + (uint64_t)meta_page_count(now, META_BITMAP) * META_PAGE_BYTES;
        return make_room_in_holder(leg, g->next.meta_bytes, err);
    }
    uint64_t former_end = now->meta_offset_bytes + now->meta_bytes;
    if (g->next.meta_offset_bytes < former_end)
        return err_set(err, -ENOSPC,
                       "%s has grown by less than its metadata takes, which has to move: %llu bytes more are needed",
                       leg->bare->path, (unsigned long long)(former_end - g->next.meta_offset_bytes));
    g->at_bytes = g->next.meta_offset_bytes;
    g->plan.former = (struct range) { now->meta_offset_bytes, now->meta_bytes };
    if (g->plan.data_bytes < former_end)
        return err_set(err, -ENOSPC,
                       "%s: the configured `size` ends in the place that the metadata must leave: make it at least "
                       "%llu bytes",
                       config->file, (unsigned long long)former_end);
    return 0;
}

/* ---- GROW_MOVE ---- */

static void copied_flushed(struct disk_io *io)
{
    struct leg_grow *g = container_of(io, struct leg_grow, io);
    if (failed(g, io, "a flush of the activity log's copy"))
        return;
    g->leg->layout = g->next;
    answer(g);
}

static void copy_next(struct leg_grow *g);

static void copy_written(struct disk_io *io)
{
    struct leg_grow *g = container_of(io, struct leg_grow, io);
    if (failed(g, io, "writing the activity log's copy"))
        return;
    g->at_bytes += COPY_STEP_BYTES;
    copy_next(g);
}

static void copy_read(struct disk_io *io)
{
    struct leg_grow *g = container_of(io, struct leg_grow, io);
    if (failed(g, io, "reading the activity log"))
        return;
    uint64_t to = meta_page_offset(&g->next, META_ACTIVITY_LOG, 0) + g->at_bytes;
    submit(g, OP_WRITE, (struct range) { to, COPY_STEP_BYTES }, copy_written);
}

static void copy_next(struct leg_grow *g)
{
    const struct meta_layout *now = &g->leg->layout;
    uint64_t log_bytes = (uint64_t)meta_page_count(now, META_ACTIVITY_LOG) * META_PAGE_BYTES;
    uint64_t from = meta_page_offset(now, META_ACTIVITY_LOG, 0) + g->at_bytes;
    if (g->at_bytes < log_bytes)
        submit(g, OP_READ, (struct range) { from, COPY_STEP_BYTES }, copy_read);
    else
        submit(g, OP_FLUSH, (struct range) { 0, 0 }, copied_flushed);
}

void leg_grow(struct leg *leg, const struct volume_config *config, enum grow_step step, leg_grow_done_fn *done,
              void *ctx)
{
    struct leg_grow *g = &leg->grow;
    g->leg = leg;
    g->config = config;
    g->step = step;
    g->done = done;
    g->ctx = ctx;
    g->err = (struct err) { 0 };
    g->flush_failed = false;
    switch (step) {
    case GROW_LOOK:
        g->plan = (struct grow_plan) { 0 };
        if (look(g, &g->err) == 0 && g->at_bytes < g->end_bytes)
            clear_next(g);
        else
            answer_later(g);
        return;
    case GROW_MOVE:
        if (g->next.meta_offset_bytes == leg->layout.meta_offset_bytes) {
            leg->layout = g->next; /* the log stays where it is */
            answer_later(g);
            return;
        }
        if (posix_memalign(&g->memory, BUF_BYTES_MIN, COPY_STEP_BYTES)) {
            g->memory = NULL;
            err_set(&g->err, -ENOMEM, "out of memory");
            answer_later(g);
            return;
        }
        g->at_bytes = 0;
        copy_next(g);
        return;
    }
}
