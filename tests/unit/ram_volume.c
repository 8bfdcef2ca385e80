/* A volume in memory behind an NBD front. */
#include "tests/unit/ram_volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "repl/base/checksum.h"

static void die(const char *what, const char *text)
{
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

static bool is_read(const struct request *r) { return r->kind == OP_READ; }

static bool can_accept(void *ctx, enum op_kind kind)
{
    struct ram_volume *v = ctx;
    if (kind == OP_READ)
        return v->config.accept_reads_max == 0 || v->reads < v->config.accept_reads_max;
    return v->config.accept_changes_max == 0 || v->changes < v->config.accept_changes_max;
}

static bool backing_is_current(void *ctx)
{
    struct ram_volume *v = ctx;
    return !v->backing_is_stale;
}

static void submit(void *ctx, const struct request *r)
{
    struct ram_volume *v = ctx;
    assert(can_accept(ctx, r->kind) && v->waiting_count < RAM_REQUESTS_MAX);
    assert(r->offset_bytes % BLOCK_BYTES == 0 && r->length_bytes % BLOCK_BYTES == 0);
    assert(r->offset_bytes + r->length_bytes <= v->config.size_bytes);
    switch (r->kind) {
    case OP_READ:
    case OP_WRITE:
        assert(r->length_bytes > 0 && r->length_bytes <= IO_BYTES_MAX && r->buf->size_bytes >= r->length_bytes);
        break;
    case OP_DISCARD:
    case OP_WRITE_ZEROES: assert(r->length_bytes > 0 && r->length_bytes <= OP_RANGE_BYTES_MAX && !r->buf); break;
    case OP_FLUSH: assert(r->length_bytes == 0 && r->offset_bytes == 0 && !r->buf); break;
    }
    v->submitted[r->kind]++;
    v->longest_bytes = r->kind == OP_WRITE ? max_u64(v->longest_bytes, r->length_bytes) : v->longest_bytes;
    v->fua_writes += (r->flags & OP_FLAG_FUA) != 0;
    v->kept_allocated += (r->flags & OP_FLAG_KEEP_ALLOCATED) != 0;
    v->lowest_free_bytes = v->pool.free_bytes < v->lowest_free_bytes ? v->pool.free_bytes : v->lowest_free_bytes;
    if (is_read(r))
        v->reads++;
    else
        v->changes++;
    v->waiting[v->waiting_count++] = *r;
}

static void note(void *ctx, enum note_level level, const char *text)
{
    struct ram_volume *v = ctx;
    pthread_mutex_lock(&v->notes_lock);
    size_t used = strlen(v->notes);
    snprintf(v->notes + used, sizeof(v->notes) - used, "%d %s\n", (int)level, text);
    pthread_mutex_unlock(&v->notes_lock);
}

bool ram_noted(struct ram_volume *v, const char *text)
{
    pthread_mutex_lock(&v->notes_lock);
    bool found = strstr(v->notes, text) != NULL;
    pthread_mutex_unlock(&v->notes_lock);
    return found;
}

/* Long ranges without touching memory that was never used. */
static void zero(uint8_t *at, size_t bytes)
{
    if (bytes >= MIB && (uintptr_t)at % 4096 == 0 && bytes % 4096 == 0)
        assert(madvise(at, bytes, MADV_DONTNEED) == 0);
    else
        memset(at, 0, bytes);
}

static int32_t carry_out(struct ram_volume *v, const struct request *r)
{
    bool touches = r->offset_bytes <= v->fail_offset_bytes && v->fail_offset_bytes - r->offset_bytes < r->length_bytes;
    if (touches)
        return v->fail_result;
    uint8_t *at = v->data + r->offset_bytes;
    switch (r->kind) {
    case OP_READ: memcpy(r->buf->data, at, r->length_bytes); return 0;
    case OP_WRITE:
        if (checksum64(r->buf->data, r->length_bytes) != r->payload_check)
            v->bad_checks++;
        memcpy(at, r->buf->data, r->length_bytes);
        return 0;
    case OP_WRITE_ZEROES:
        if ((r->flags & OP_FLAG_FAST_ONLY) && v->fast_zero_is_slow)
            return -EOPNOTSUPP;
        zero(at, r->length_bytes);
        return 0;
    case OP_DISCARD: zero(at, r->length_bytes); return 0;
    case OP_FLUSH: return 0;
    }
    return -EINVAL;
}

static bool is_held(const struct ram_volume *v, const struct request *r)
{
    return is_read(r) ? v->hold_reads : v->hold_changes;
}

static void answer_all(struct ram_volume *v)
{
    unsigned count = v->waiting_count;
    unsigned held = 0;
    /* Nothing is added meanwhile: front_complete() never submits. */
    for (unsigned i = 0; i < count; i++) {
        struct request r = v->waiting[v->reverse ? count - 1 - i : i];
        if (is_held(v, &r))
            continue;
        if (is_read(&r))
            v->reads--;
        else
            v->changes--;
        front_complete(r.cookie, carry_out(v, &r));
    }
    for (unsigned i = 0; i < count; i++) {
        if (is_held(v, &v->waiting[i]))
            v->waiting[held++] = v->waiting[i];
    }
    v->waiting_count = held;
}

static void wake_run(struct ring_task *task) { container_of(task, struct ram_volume, wake)->woken = false; }

static void idle(void *ctx)
{
    struct ram_volume *v = ctx;
    v->turns++;
    answer_all(v);
    if (!v->front)
        return;
    front_resume(v->front);
    front_flush_answers(v->front);
    /* What was submitted just now is answered in the next turn, for which something must wake the loop. */
    bool more = false;
    for (unsigned i = 0; i < v->waiting_count; i++)
        more |= !is_held(v, &v->waiting[i]);
    if (more && !v->woken) {
        v->woken = true;
        v->wake.run = wake_run;
        ring_post(v->ring, &v->wake);
    }
}

static void map_run(struct ring_task *task)
{
    struct disk_map *m = container_of(task, struct disk_map, task);
    m->done(m);
}

static void map(struct disk *d, struct disk_map *m)
{
    struct ram_volume *v = container_of(d, struct ram_volume, disk);
    /* In the simplest possible way: one part of the volume after the other. */
    uint64_t part = v->config.size_bytes / ARRAY_LEN(v->hole_map);
    uint64_t at = m->offset_bytes;
    uint64_t end = m->offset_bytes + m->length_bytes;
    m->result = v->map_fails ? -EIO : 0;
    m->run_count = 0;
    while (at < end && m->run_count < m->runs_max) {
        uint64_t next = min_u64(align_down(at, part) + part, end);
        m->runs[m->run_count].length_bytes = next - at;
        m->runs[m->run_count].hole = v->hole_map[at / part];
        m->run_count++;
        at = next;
    }
    m->task.run = map_run;
    ring_post(v->ring, &m->task);
}

static const struct disk_ops disk_ops = { .map = map };

static void *run(void *arg)
{
    struct ram_volume *v = arg;
    struct err err = { 0 };
    struct ring_config rc = {
        .entries = 256, .files_max = 80, .arena = v->pool.arena, .arena_bytes = v->pool.arena_bytes
    };
    v->ring = ring_open(&rc, &err);
    if (!v->ring)
        die("ring_open", err.text);
    struct front_config fc = {
        .ring = v->ring,
        .pool = &v->pool,
        .disk = &v->disk,
        .sink = { v, can_accept, backing_is_current, submit, note },
        .volume = "gold42",
        .address = v->config.address,
        .keep_free_bytes = v->config.keep_free_bytes,
    };
    v->front = front_nbd_open(&fc, &err);
    if (!v->front)
        die("front_nbd_open", err.text);
    if (v->config.serve)
        front_serve(v->front, v->config.size_bytes, v->disk.geometry.logical_block_bytes);
    sem_post(&v->ready);
    ring_run(v->ring, idle, v);
    ring_close(v->ring);
    return NULL;
}

struct ram_volume *ram_open(const struct ram_config *config)
{
    struct ram_volume *v = calloc(1, sizeof(*v));
    if (!v || buf_pool_open(&v->pool, config->arena_bytes) < 0)
        die("ram_open", "out of memory");
    v->config = *config;
    v->fail_offset_bytes = UINT64_MAX;
    v->lowest_free_bytes = SIZE_MAX;
    v->disk.ops = &disk_ops;
    v->disk.geometry.size_bytes = config->size_bytes;
    v->disk.geometry.can_unmap = !config->no_unmap;
    v->disk.geometry.logical_block_bytes = config->logical_block_bytes ? config->logical_block_bytes : BLOCK_BYTES;
    v->data =
        mmap(NULL, config->size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (v->data == MAP_FAILED)
        die("ram_open", "no memory for the volume");
    pthread_mutex_init(&v->notes_lock, NULL);
    sem_init(&v->ready, 0, 0);
    if (pthread_create(&v->thread, NULL, run, v) != 0)
        die("ram_open", "no thread");
    sem_wait(&v->ready);
    return v;
}

struct call {
    struct ring_task task;
    struct ram_volume *v;
    void (*fn)(struct ram_volume *v, void *arg);
    void *arg;
    sem_t done;
};

static void call_run(struct ring_task *task)
{
    struct call *c = container_of(task, struct call, task);
    c->fn(c->v, c->arg);
    sem_post(&c->done);
}

void ram_call(struct ram_volume *v, void (*fn)(struct ram_volume *v, void *arg), void *arg)
{
    struct call c = { .task.run = call_run, .v = v, .fn = fn, .arg = arg };
    sem_init(&c.done, 0, 0);
    ring_post(v->ring, &c.task);
    sem_wait(&c.done);
    sem_destroy(&c.done);
}

static void closed(void *ctx)
{
    struct ram_volume *v = ctx;
    v->front = NULL;
    ring_stop(v->ring);
}

static void close_front(struct ram_volume *v, void *arg)
{
    v->hold_changes = false;
    v->hold_reads = false;
    front_close(v->front, closed, v);
}

void ram_close(struct ram_volume *v)
{
    ram_call(v, close_front, NULL);
    pthread_join(v->thread, NULL);
    assert(v->waiting_count == 0 && v->bad_checks == 0);
    /* Asserts that every buffer came back. */
    buf_pool_close(&v->pool);
    munmap(v->data, v->config.size_bytes);
    sem_destroy(&v->ready);
    pthread_mutex_destroy(&v->notes_lock);
    free(v);
}
