/* What a client asks for: the request, the job that it needs (create, up), the result. Orders to a volume, and what
 * flows to a client, are in files of their own. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/node/command_internal.h"

void command_free(struct command *c)
{
    list_remove(&c->link);
    free(c->witness);
    free(c);
}

void command_finish(struct command *c, enum control_exit code, const char *format, ...)
{
    char text[CONTROL_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    if (c->client)
        control_end(c->client, code, text);
    command_free(c);
}

const char *command_why_not_up(const struct node_volume *nv, char *out, size_t out_bytes)
{
    const char *volume = nv->config->volume;
    switch (nv->state) {
    case STATE_NOT_CREATED:
    case STATE_FAILED: snprintf(out, out_bytes, "%s", nv->err.text); break;
    case STATE_DOWN: snprintf(out, out_bytes, "the volume is down: bring it up with `lockstep up %s`", volume); break;
    case STATE_STARTING: snprintf(out, out_bytes, "the volume is being brought up"); break;
    case STATE_CREATING: snprintf(out, out_bytes, "the volume is being created"); break;
    case STATE_STOPPING: snprintf(out, out_bytes, "the volume is being taken down"); break;
    case STATE_UP: out[0] = 0; break;
    }
    return out;
}

/* ---- jobs ---- */

static void begin_job(struct command *c, enum job_kind kind)
{
    struct err err = { 0 };
    c->phase = PHASE_JOB;
    if (node_volume_begin(c->nv, kind, c->request.adopt, c->request.force, &err))
        command_finish(c, CONTROL_FAILED, "%s", err.text);
}

static void begin_up(struct command *c)
{
    struct node_volume *nv = c->nv;
    switch (nv->state) {
    case STATE_UP: command_finish(c, CONTROL_DONE, "volume %s is up", nv->config->volume); return;
    case STATE_STARTING: c->phase = PHASE_JOB; return;
    case STATE_NOT_CREATED:
    case STATE_DOWN:
    case STATE_FAILED: begin_job(c, JOB_START); return;
    case STATE_CREATING:
    case STATE_STOPPING:
        command_finish(c, CONTROL_FAILED, "volume %s is being %s; wait until that is done", nv->config->volume,
                       nv->state == STATE_CREATING ? "created" : "taken down");
        return;
    }
}

static void begin_create(struct command *c)
{
    struct node_volume *nv = c->nv;
    switch (nv->state) {
    case STATE_NOT_CREATED:
    case STATE_DOWN:
    case STATE_FAILED: begin_job(c, JOB_CREATE); return;
    case STATE_UP:
        command_finish(
            c, CONTROL_REFUSED,
            "volume %s is up, and creating it would lose its data: if that is what you want, take it down first, "
            "with `lockstep down %s`",
            nv->config->volume, nv->config->volume);
        return;
    case STATE_CREATING:
    case STATE_STARTING:
    case STATE_STOPPING:
        command_finish(c, CONTROL_FAILED, "volume %s is %s; wait until that is done", nv->config->volume,
                       volume_state_name(nv->state));
        return;
    }
}

/* Of `create` alone -EEXIST is a refusal; else these are errors of system calls, which risk nothing. */
static enum control_exit exit_code_of_job(enum job_kind kind, int result)
{
    return kind == JOB_CREATE && result == -EEXIST ? CONTROL_REFUSED : CONTROL_FAILED;
}

void command_job_ended(struct node_volume *nv, enum job_kind kind)
{
    const char *volume = nv->config->volume;
    list_for_each_safe (link, &nv->node->commands) {
        struct command *c = container_of(link, struct command, link);
        if (c->nv != nv || c->phase != PHASE_JOB)
            continue;
        if (nv->job.err.code)
            command_finish(c, exit_code_of_job(kind, nv->job.err.code), "volume %s: %s", volume, nv->job.err.text);
        else if (kind == JOB_CREATE)
            command_finish(c, CONTROL_DONE, "volume %s is created on %s; bring it up with `lockstep up %s`%s%s", volume,
                           config_self(nv->config)->name, volume, nv->job.err.text[0] ? ". Note: " : "",
                           nv->job.err.text);
        else
            command_finish(c, CONTROL_DONE, "volume %s is %s%s%s", volume, kind == JOB_START ? "up" : "down",
                           c->takes_only_good_leg
                               ? ". This was its only up-to-date leg: nobody can use the volume until it is up again"
                               : "",
                           c->still_named ? ". The witness still names this node as its primary: its peer may take over"
                                          : "");
    }
}

/* ---- requests ---- */

static struct node_volume *find(struct node *n, const char *name)
{
    for (unsigned i = 0; i < n->volume_count; i++)
        if (strcmp(n->volumes[i].config->volume, name) == 0)
            return &n->volumes[i];
    return NULL;
}

static void unknown_volume(struct command *c)
{
    struct node *n = c->node;
    char names[512] = "none";
    size_t used = 0;
    for (unsigned i = 0; i < n->volume_count && used < sizeof(names); i++)
        used +=
            (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "", n->volumes[i].config->volume);
    command_finish(c, CONTROL_USED_WRONGLY, "there is no volume %s in this node's configuration; there are: %s",
                   c->request.volume, names);
}

static void begin(struct command *c)
{
    switch (c->request.command) {
    case CONTROL_CREATE: begin_create(c); return;
    case CONTROL_UP: begin_up(c); return;
    case CONTROL_DOWN: command_begin_down(c); return;
    case CONTROL_PROMOTE: command_begin_promotion(c); return;
    case CONTROL_DEMOTE: command_begin_order(c, VOLUME_DEMOTE); return;
    case CONTROL_VERIFY:
        c->request.force = c->request.repair;
        command_begin_order(c, VOLUME_VERIFY);
        return;
    case CONTROL_RESIZE: command_begin_order(c, VOLUME_RESIZE); return;
    case CONTROL_RESOLVE: command_begin_resolve(c); return;
    case CONTROL_EVENTS:
        c->cursor = events_oldest(&c->node->events);
        c->phase = PHASE_STREAMS;
        command_stream(c);
        return;
    case CONTROL_STATUS:
        c->phase = PHASE_STREAMS;
        command_stream(c);
        return;
    case CONTROL_SWITCHOVER: command_begin_switchover(c); return;
    case CONTROL_ADOPT: command_begin_order(c, VOLUME_ADOPT); return;
    case CONTROL_WITNESS_STATUS:
    case CONTROL_WITNESS_HISTORY:
    case CONTROL_WITNESS_CONFIRM:
    case CONTROL_WITNESS_FORGET: command_witness_begin(c); return;
    }
}

void command_request(void *ctx, struct control_client *client, const struct control_request *request)
{
    struct node *n = ctx;
    struct command *c = calloc(1, sizeof(*c));
    if (!c) {
        control_end(client, CONTROL_FAILED, "lockstepd is out of memory");
        return;
    }
    c->node = n;
    c->client = client;
    c->request = *request;
    list_append(&n->commands, &c->link);
    control_set_user(client, c);
    bool only_looks = request->command == CONTROL_STATUS || request->command == CONTROL_EVENTS ||
                      request->command == CONTROL_WITNESS_STATUS || request->command == CONTROL_WITNESS_HISTORY;
    if (!only_looks)
        log_line(n->options.log, LOG_LEVEL_INFO, request->volume, "told to %s%s%s",
                 control_command_name(request->command), request->adopt ? " --adopt" : "",
                 request->force ? " --force" : "");
    if (*request->volume && !control_is_for_witness(request->command)) {
        c->nv = find(n, request->volume);
        if (!c->nv) {
            unknown_volume(c);
            return;
        }
    }
    if (n->ending && !only_looks)
        command_finish(c, CONTROL_FAILED, "lockstepd is shutting down");
    else
        begin(c);
}

void command_writable(void *ctx, struct control_client *client)
{
    (void)ctx;
    struct command *c = control_user(client);
    if (c->phase == PHASE_STREAMS)
        command_stream(c);
}

/* What was ordered goes on; nobody will hear of its end. */
void command_gone(void *ctx, struct control_client *client)
{
    (void)ctx;
    struct command *c = control_user(client);
    c->client = NULL;
    if (c->phase != PHASE_ORDERED && c->phase != PHASE_WITNESS) /* else another thread holds a pointer to it */
        command_free(c);
}
