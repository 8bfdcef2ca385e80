/* The life of a volume in the daemon: created, up, down, and the threads that take it from one to the other. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "repl/node/create.h"
#include "repl/node/node_internal.h"

const char *volume_state_name(enum volume_state s)
{
    switch (s) {
    case STATE_NOT_CREATED: return "not-created";
    case STATE_DOWN: return "down";
    case STATE_FAILED: return "failed";
    case STATE_STARTING: return "starting";
    case STATE_CREATING: return "creating";
    case STATE_UP: return "up";
    case STATE_STOPPING: return "stopping";
    }
    return "?";
}

bool node_volume_has_job(const struct node_volume *nv)
{
    return nv->state == STATE_STARTING || nv->state == STATE_CREATING || nv->state == STATE_STOPPING;
}

static void job_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct job *job = ctx;
    atomic_store_explicit(&job->total_bytes, total_bytes, memory_order_relaxed);
    atomic_store_explicit(&job->done_bytes, done_bytes, memory_order_relaxed);
}

static void *job_run(void *arg)
{
    struct job *job = arg;
    const struct volume_config *config = job->nv->config;
    switch (job->kind) {
    case JOB_START: job->volume = volume_start(config, &job->node->host, &job->err); break;
    case JOB_CREATE: volume_create(config, job->adopt, job->force, job_progress, job, &job->err); break;
    case JOB_STOP:
        volume_stop(job->volume);
        job->volume = NULL;
        break;
    }
    struct answer answer = { .kind = ANSWER_JOB, .nv = job->nv };
    bool put = queue_put(&job->node->answers, &answer);
    assert(put);
    return NULL;
}

int node_volume_begin(struct node_volume *nv, enum job_kind kind, bool adopt, bool force, struct err *err)
{
    assert(!node_volume_has_job(nv) && (kind == JOB_STOP) == (nv->state == STATE_UP));
    struct job *job = &nv->job;
    memset(job, 0, sizeof(*job));
    job->node = nv->node;
    job->nv = nv;
    job->kind = kind;
    job->adopt = adopt;
    job->force = force;
    job->volume = nv->volume;
    int rc = pthread_create(&job->thread, NULL, job_run, job);
    if (rc)
        return err_set(err, -EAGAIN, "no thread for volume %s: %s", nv->config->volume, strerror(rc));
    nv->volume = NULL; /* the job's now */
    nv->before = nv->state;
    switch (kind) {
    case JOB_START: nv->state = STATE_STARTING; break;
    case JOB_CREATE: nv->state = STATE_CREATING; break;
    case JOB_STOP: nv->state = STATE_STOPPING; break;
    }
    return 0;
}

/* A missing leg is one that `create` can make; a missing backing is a fault. Both are -ENOENT. */
static bool only_lacks_metadata(const struct node_volume *nv)
{
    return nv->job.err.code == -ENOENT && access(config_self(nv->config)->backing, F_OK) == 0;
}

static void end_start(struct node_volume *nv)
{
    if (nv->job.volume) {
        nv->volume = nv->job.volume;
        nv->state = STATE_UP;
        node_note(nv->node, nv->config->volume, NOTE_INFO, "volume", "up on %s", config_self(nv->config)->name);
        return;
    }
    nv->err = nv->job.err;
    if (only_lacks_metadata(nv)) {
        nv->state = STATE_NOT_CREATED;
        node_note(nv->node, nv->config->volume, NOTE_INFO, "volume", "not brought up: %s", nv->err.text);
    } else {
        nv->state = STATE_FAILED;
        node_note(nv->node, nv->config->volume, NOTE_ERROR, "volume", "cannot be brought up: %s", nv->err.text);
    }
}

static void end_create(struct node_volume *nv)
{
    const struct job *job = &nv->job;
    const char *volume = nv->config->volume;
    if (job->err.code == 0) {
        nv->state = STATE_DOWN;
        node_note(nv->node, volume, NOTE_INFO, "volume", "created on %s%s", config_self(nv->config)->name,
                  job->adopt ? ", with the data that was there" : "");
        if (job->err.text[0])
            node_note(nv->node, volume, NOTE_WARNING, "volume", "created, but %s", job->err.text);
    } else if (job->err.code == -EEXIST || job->err.code == -EBUSY) { /* refused: nothing was touched */
        nv->state = nv->before;
        node_note(nv->node, volume, NOTE_WARNING, "volume", "not created: %s", job->err.text);
    } else {
        nv->state = STATE_FAILED;
        nv->err = job->err;
        node_note(nv->node, volume, NOTE_ERROR, "volume", "not created: %s", job->err.text);
    }
}

void node_volume_end_job(struct node_volume *nv)
{
    assert(node_volume_has_job(nv));
    struct job *job = &nv->job;
    pthread_join(job->thread, NULL);
    switch (job->kind) {
    case JOB_START: end_start(nv); break;
    case JOB_CREATE: end_create(nv); break;
    case JOB_STOP:
        nv->state = STATE_DOWN;
        node_note(nv->node, nv->config->volume, NOTE_INFO, "volume", "down on %s", config_self(nv->config)->name);
        break;
    }
}
