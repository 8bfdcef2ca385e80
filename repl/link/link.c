/* The link: carries out what the session decides, on a transport and the ring's clock. */
#include "repl/link/link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/link/hello_codec.h"

/* Payloads of hellos and refusals that may be on their way out while the pool is exhausted. */
#define CONTROL_ROOMS 4
/* Events that the engine's own calls cause wait for the loop: at most "up", then "down". */
#define DEFERRED_MAX 2

struct link {
    struct link_config config;
    struct session *session;
    struct transport *transport;
    struct ring_timer timer;
    struct buf *control[CONTROL_ROOMS];
    struct event deferred[DEFERRED_MAX];
    unsigned deferred_count;
    char deferred_reason[ACTION_TEXT_BYTES];
    unsigned calls; /* link_ calls that we are in: no event leaves from there */
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static uint64_t now_ns(const struct link *l) { return ring_now_ns(l->config.ring); }

/* ------------------------------------------------------------------------------------------------- events */

static void defer(struct link *l, const struct event *ev)
{
    assert(l->deferred_count < DEFERRED_MAX);
    struct event *copy = &l->deferred[l->deferred_count++];
    *copy = *ev;
    if (ev->kind == EV_SESSION_DOWN) {
        snprintf(l->deferred_reason, sizeof(l->deferred_reason), "%s", ev->down.reason);
        copy->down.reason = l->deferred_reason;
    }
    ring_timer_set(l->config.ring, &l->timer, now_ns(l));
}

static void give_deferred(struct link *l)
{
    while (l->deferred_count > 0) {
        struct event ev = l->deferred[0];
        l->deferred[0] = l->deferred[1];
        l->deferred_count--;
        l->config.event(l->config.ctx, &ev);
    }
}

static void give(struct link *l, const struct event *ev)
{
    if (l->closing) {
        if (ev->kind == EV_FRAME && ev->frame.payload)
            buf_put(ev->frame.payload);
        return;
    }
    if (l->calls > 0) {
        defer(l, ev);
        return;
    }
    give_deferred(l);
    l->config.event(l->config.ctx, ev);
    give_deferred(l);
}

/* ------------------------------------------------------------------------------------------------- actions */

static struct buf *control_room(struct link *l)
{
    struct buf *b = buf_get(l->config.pool, FRAME_HELLO_BYTES_MAX, 0);
    for (unsigned i = 0; !b && i < CONTROL_ROOMS; i++) {
        if (l->control[i]->refs == 1) {
            b = l->control[i];
            buf_ref(b);
        }
    }
    return b;
}

static void send_control(struct link *l, const struct session_action *a)
{
    struct frame frame = a->send.frame;
    struct buf *b = control_room(l);
    if (!b) {
        /* Its number will be missing, and the peer ends the connection for that. */
        l->config.note(l->config.ctx, NOTE_WARNING, "no buffer for a hello or refusal: not sent");
        return;
    }
    if (frame.kind == FRAME_HELLO) {
        struct hello hello = { 0 };
        l->config.hello(l->config.ctx, &hello);
        frame.payload_bytes = (uint32_t)hello_encode(&hello, b->data);
        frame.payload_check = checksum64(b->data, frame.payload_bytes);
    } else {
        memcpy(b->data, a->send.text, frame.payload_bytes);
    }
    l->transport->ops->send(l->transport, a->send.conn, &frame, b);
    buf_put(b);
}

static void carry_out(struct link *l, const struct session_action *a)
{
    struct transport *t = l->transport;
    switch (a->kind) {
    case SA_CONNECT: t->ops->connect(t, a->connect.conn, a->connect.path); break;
    case SA_SEND:
        if (a->send.text)
            send_control(l, a);
        else
            t->ops->send(t, a->send.conn, &a->send.frame, a->send.payload);
        break;
    case SA_SEND_HELLO: send_control(l, a); break;
    case SA_CLOSE: t->ops->drop(t, a->close.conn, a->close.after_sending); break;
    case SA_EVENT: give(l, &a->event); break;
    case SA_NOTE: l->config.note(l->config.ctx, a->note.level, a->note.text); break;
    }
}

static void arm_timer(struct link *l)
{
    uint64_t due = session_deadline_ns(l->session);
    /* A deadline that moved away, as every frame moves it, is found out when the timer fires. */
    if (due != UINT64_MAX && !l->closing && (!l->timer.set || due < l->timer.due_ns))
        ring_timer_set(l->config.ring, &l->timer, due);
}

static void step(struct link *l, const struct session_event *ev)
{
    struct session_actions out;
    session_step(l->session, ev, &out);
    for (unsigned i = 0; i < out.count; i++)
        carry_out(l, &out.list[i]);
}

static void tick(struct link *l)
{
    struct session_event ev = { .kind = SV_TICK, .now_ns = now_ns(l) };
    conn_id conn = session_conn(l->session);
    ev.tick.heard_ns = conn ? l->transport->ops->heard_ns(l->transport, conn) : 0;
    step(l, &ev);
}

static void tick_while_due(struct link *l)
{
    while (!l->closing && session_deadline_ns(l->session) <= now_ns(l))
        tick(l);
    if (!l->closing)
        arm_timer(l);
}

/* From the loop: what happened, and what is due because of it. */
static void feed(struct link *l, const struct session_event *ev)
{
    if (l->closing)
        return;
    step(l, ev);
    tick_while_due(l);
}

/* From a link_ call: events and whatever else is due wait for the loop. */
static void feed_from_above(struct link *l, const struct session_event *ev)
{
    l->calls++;
    step(l, ev);
    l->calls--;
    arm_timer(l);
}

static void timer_fired(struct ring_timer *timer)
{
    struct link *l = container_of(timer, struct link, timer);
    give_deferred(l);
    tick_while_due(l);
}

/* ------------------------------------------------------------------------------------------------- reports */

static void on_opened(void *ctx, conn_id conn, bool incoming, unsigned path)
{
    struct link *l = ctx;
    struct session_event ev = { .kind = SV_OPENED, .now_ns = now_ns(l) };
    ev.opened.conn = conn;
    ev.opened.incoming = incoming;
    ev.opened.path = path;
    feed(l, &ev);
}

static void on_ended(struct link *l, enum session_event_kind kind, conn_id conn, const char *reason)
{
    struct session_event ev = { .kind = kind, .now_ns = now_ns(l) };
    ev.closed.conn = conn;
    ev.closed.reason = reason;
    feed(l, &ev);
}

static void on_open_failed(void *ctx, conn_id conn, const char *reason) { on_ended(ctx, SV_OPEN_FAILED, conn, reason); }

static void on_closed(void *ctx, conn_id conn, const char *reason) { on_ended(ctx, SV_CLOSED, conn, reason); }

static void on_garbage(void *ctx, conn_id conn, const char *reason) { on_ended(ctx, SV_GARBAGE, conn, reason); }

static void on_hello(struct link *l, conn_id conn, const struct frame *frame, struct buf *payload)
{
    struct hello hello;
    const char *why = "damaged hello (payload_check)";
    bool good = checksum64(payload->data, frame->payload_bytes) == frame->payload_check &&
                hello_decode(payload->data, frame->payload_bytes, &hello, &why) == 0;
    buf_put(payload);
    struct session_event ev = { .kind = SV_HELLO,
                                .now_ns = now_ns(l),
                                .hello = { .conn = conn, .frame = *frame, .hello = &hello } };
    if (good)
        feed(l, &ev);
    else
        on_garbage(l, conn, why);
}

static void on_frame(void *ctx, conn_id conn, const struct frame *frame, struct buf *payload)
{
    struct link *l = ctx;
    if (l->closing) {
        if (payload)
            buf_put(payload);
        return;
    }
    if (frame->kind == FRAME_HELLO) {
        on_hello(l, conn, frame, payload);
        return;
    }
    struct session_event ev;
    ev.kind = SV_FRAME;
    ev.now_ns = now_ns(l);
    ev.frame.conn = conn;
    ev.frame.frame = *frame;
    ev.frame.payload = payload;
    feed(l, &ev);
}

static void on_note(void *ctx, enum note_level level, const char *text)
{
    struct link *l = ctx;
    l->config.note(l->config.ctx, level, text);
}

/* ------------------------------------------------------------------------------------------------- from above */

static void free_link(struct link *l)
{
    for (unsigned i = 0; i < CONTROL_ROOMS; i++)
        if (l->control[i])
            buf_put(l->control[i]);
    if (l->session)
        session_close(l->session);
    free(l);
}

struct link *link_open(const struct link_config *config, struct err *err)
{
    struct link *l = calloc(1, sizeof(*l));
    if (!l) {
        err_set(err, -ENOMEM, "no memory for the link");
        return NULL;
    }
    l->config = *config;
    l->transport = config->transport;
    l->timer.fired = timer_fired;
    l->session = session_open(&config->session);
    bool complete = l->session;
    for (unsigned i = 0; i < CONTROL_ROOMS; i++) {
        l->control[i] = buf_get(config->pool, FRAME_HELLO_BYTES_MAX, 0);
        complete = complete && l->control[i];
    }
    if (!complete) {
        err_set(err, -ENOMEM, "no memory or buffers for the link");
        free_link(l);
        return NULL;
    }
    l->transport->sink = (struct transport_sink) {
        .ctx = l,
        .opened = on_opened,
        .open_failed = on_open_failed,
        .closed = on_closed,
        .frame = on_frame,
        .garbage = on_garbage,
        .note = on_note,
    };
    l->transport->ops->start(l->transport);
    return l;
}

void link_start(struct link *l)
{
    feed_from_above(l, &(struct session_event) { .kind = SV_START, .now_ns = now_ns(l) });
}

void link_stop(struct link *l) { feed_from_above(l, &(struct session_event) { .kind = SV_STOP, .now_ns = now_ns(l) }); }

static void transport_closed(void *ctx)
{
    struct link *l = ctx;
    void (*closed)(void *ctx) = l->closed;
    void *closed_ctx = l->closed_ctx;
    free_link(l);
    closed(closed_ctx);
}

void link_close(struct link *l, void (*closed)(void *ctx), void *ctx)
{
    l->closing = true;
    l->deferred_count = 0;
    l->closed = closed;
    l->closed_ctx = ctx;
    step(l, &(struct session_event) { .kind = SV_STOP, .now_ns = now_ns(l) });
    ring_timer_clear(l->config.ring, &l->timer);
    l->transport->ops->close(l->transport, transport_closed, l);
}

void link_send(struct link *l, const struct frame *frame, struct buf *payload)
{
    struct session_event ev;
    ev.kind = SV_SEND;
    ev.now_ns = now_ns(l);
    ev.send.frame = *frame;
    ev.send.payload = payload;
    feed_from_above(l, &ev);
}

void link_ready(struct link *l)
{
    feed_from_above(l, &(struct session_event) { .kind = SV_READY, .now_ns = now_ns(l) });
}

void link_refuse(struct link *l, const char *text)
{
    feed_from_above(l, &(struct session_event) { .kind = SV_REFUSE, .now_ns = now_ns(l), .text.text = text });
}

void link_drop(struct link *l, const char *text)
{
    feed_from_above(l, &(struct session_event) { .kind = SV_DROP, .now_ns = now_ns(l), .text.text = text });
}

void link_flush(struct link *l) { l->transport->ops->flush(l->transport); }

void link_resume(struct link *l) { l->transport->ops->resume(l->transport); }

const struct session *link_session(const struct link *l) { return l->session; }

const char *link_transport_name(const struct link *l)
{
    const struct transport *t = l->transport;
    while (t->below)
        t = t->below;
    return t->ops->name;
}
