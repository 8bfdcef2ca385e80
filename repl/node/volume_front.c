/* A volume's front: what its clients ask for, and whether they are served. */
#include <stdio.h>

#include "repl/node/volume_internal.h"

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

/* A read may be answered for as long as this node's lease lasts: not by a clock that was read before the request came.
 */
static void sink_submit(void *ctx, const struct request *request)
{
    struct volume *v = ctx;
    if (v->line)
        ring_look_at_clock(v->ring);
    volume_step(v, &(struct event) { .kind = EV_REQUEST, .request = *request });
}

/* That a client comes or goes is no change of the volume's state: a monitor that looks every second would leave nothing
 * else among the events. */
static void sink_note(void *ctx, enum note_level level, const char *text)
{
    struct volume *v = ctx;
    if (level == NOTE_INFO)
        v->host.log(v->host.ctx, v->config.volume, LOG_LEVEL_INFO, text);
    else
        volume_note(v, level, "client", text);
}

static void say_why_not(const struct volume *v, char why[STATUS_TEXT_BYTES])
{
    const struct config_node *peer = config_peer(&v->config);
    if (peer)
        snprintf(why, STATUS_TEXT_BYTES, "volume %s is not served by %s; its other node is %s (%s)", v->config.volume,
                 config_self(&v->config)->name, peer->name, peer->device);
    else
        snprintf(why, STATUS_TEXT_BYTES, "volume %s is not served: it was not promoted", v->config.volume);
}

static void refuse_clients(struct volume *v)
{
    char why[STATUS_TEXT_BYTES];
    say_why_not(v, why);
    front_refuse(v->front, why);
}

static void hold_clients(struct volume *v)
{
    char text[STATUS_TEXT_BYTES];
    say_why_not(v, text);
    front_hold(v->front, text);
    struct front_held held = front_held(v->front);
    if (!held.clients)
        return;
    snprintf(text, sizeof(text),
             "clients are held without an answer, as this node was deposed: %u, with %u requests at least. `lockstep "
             "demote %s` ends them with an error",
             held.clients, held.requests, v->config.volume);
    volume_note(v, NOTE_WARNING, "role", text);
}

static void tell_host(struct volume *v, bool on, uint64_t epoch)
{
    if (v->serves != on)
        v->host.served(v->host.ctx, v->config.volume, on, epoch);
    v->serves = on;
}

void volume_serve(struct volume *v, uint64_t size_bytes)
{
    struct engine_view view;
    engine_view(v->engine, &view);
    v->holds = false;
    /* Closed already, nobody is there to be served. */
    if (v->front)
        front_serve(v->front, size_bytes, view.block_bytes);
    tell_host(v, v->front, view.epoch);
}

void volume_close(struct volume *v, bool hold)
{
    struct engine_view view;
    engine_view(v->engine, &view);
    v->holds = v->front && hold;
    if (v->holds)
        hold_clients(v);
    else if (v->front)
        refuse_clients(v);
    tell_host(v, false, view.epoch);
}

bool volume_held_are_gone(struct volume *v)
{
    bool gone = v->front && !front_holds(v->front);
    v->holds &= !gone;
    return gone;
}

int volume_open_front(struct volume *v, struct err *err)
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
