/* The transport over TCP: its connections, from accept or connect to the last word. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repl/link/tcp_private.h"

static struct tcp *tcp_of(const struct transport *t) { return container_of(t, struct tcp, base); }

static void wake_soon(struct tcp *t)
{
    if (!t->wake.set)
        ring_timer_set(t->ring, &t->wake, ring_now_ns(t->ring));
}

struct tcp_conn *tcp_find(const struct tcp *t, conn_id id)
{
    for (unsigned i = 0; i < TCP_CONNS_MAX; i++)
        if (t->conns[i].id == id && t->conns[i].state != CONN_FREE)
            return (struct tcp_conn *)&t->conns[i];
    return NULL;
}

static void enter(struct tcp_conn *c, enum tcp_conn_state state)
{
    c->state = state;
    c->since_ns = ring_now_ns(c->tcp->ring);
}

/* ------------------------------------------------------------------------------------------------- endings */

/* Now, and without leaving anything queued in the kernel: a peer that comes back later must not be sent what belongs to
 * a session that has ended. Works also while the kernel still keeps the file open for a while. */
static void abort_socket(int fd)
{
    struct sockaddr nobody = { .sa_family = AF_UNSPEC };
    (void)connect(fd, &nobody, sizeof(nobody));
    (void)shutdown(fd, SHUT_RDWR);
}

void tcp_begin_close(struct tcp_conn *c)
{
    struct ring *r = c->tcp->ring;
    if (c->state == CONN_FREE || c->state == CONN_CLOSING)
        return;
    if (c->state == CONN_OPEN || c->state == CONN_CONNECTING)
        abort_socket(c->fd);
    if (c->tcp->names[c->path].waits == c)
        c->tcp->names[c->path].waits = NULL;
    ring_timer_clear(r, &c->linger);
    ring_cancel(r, &c->connect_op);
    ring_cancel(r, &c->recv_op);
    ring_cancel(r, &c->send_op);
    c->id = 0;
    enter(c, CONN_CLOSING);
    /* Not now: a caller up the stack may still look at it. */
    wake_soon(c->tcp);
}

static void finish_close(struct tcp *t)
{
    if (!t->closing)
        return;
    for (unsigned i = 0; i < TCP_CONNS_MAX; i++)
        if (t->conns[i].state != CONN_FREE)
            return;
    for (unsigned i = 0; i < SESSION_PATHS_MAX; i++)
        if (t->listeners[i].op.busy)
            return;
    void (*closed)(void *ctx) = t->closed;
    void *ctx = t->closed_ctx;
    ring_timer_clear(t->ring, &t->wake);
    for (unsigned i = 0; i < SESSION_PATHS_MAX; i++) {
        ring_timer_clear(t->ring, &t->listeners[i].pause);
        if (t->listeners[i].accepted >= 0)
            close(t->listeners[i].accepted);
        if (t->listeners[i].fd >= 0)
            close(t->listeners[i].fd);
    }
    for (unsigned i = 0; i < ARRAY_LEN(t->hello_room); i++)
        buf_put(t->hello_room[i]);
    free(t->slots);
    free(t);
    closed(ctx);
}

static void release(struct tcp_conn *c)
{
    tcp_recv_forget(c);
    tcp_send_forget(c);
    if (c->file.slot >= 0)
        ring_unregister_file(c->tcp->ring, c->file.slot);
    if (c->fd >= 0)
        close(c->fd);
    c->file.slot = -1;
    c->fd = -1;
    c->state = CONN_FREE;
}

/* Only from the loop, and not from below a report: the slot may be taken anew at once. */
void tcp_release_if_done(struct tcp_conn *c)
{
    if (c->state == CONN_CLOSING && !c->connect_op.busy && !c->recv_op.busy && !c->send_op.busy)
        wake_soon(c->tcp);
}

void tcp_fail(struct tcp_conn *c, const char *reason)
{
    struct tcp *t = c->tcp;
    conn_id id = c->id;
    bool was_open = c->state == CONN_OPEN;
    char text[TCP_REASON_BYTES_MAX];
    snprintf(text, sizeof(text), "%s", reason);
    tcp_begin_close(c);
    if (was_open)
        t->base.sink.closed(t->base.sink.ctx, id, text);
    else
        t->base.sink.open_failed(t->base.sink.ctx, id, text);
}

void tcp_fail_later(struct tcp_conn *c, const char *reason)
{
    snprintf(c->failed, sizeof(c->failed), "%s", reason);
    wake_soon(c->tcp);
}

void tcp_last_word_sent(struct tcp_conn *c)
{
    if (c->recv_op.busy)
        shutdown(c->fd, SHUT_WR);
    else
        tcp_begin_close(c);
}

static void linger_over(struct ring_timer *timer)
{
    struct tcp_conn *c = container_of(timer, struct tcp_conn, linger);
    if (c->state == CONN_LINGERING)
        tcp_begin_close(c);
}

static void drop(struct transport *base, conn_id id, bool after_sending)
{
    struct tcp_conn *c = tcp_find(tcp_of(base), id);
    if (tcp_of(base)->unplaced == id)
        tcp_of(base)->unplaced = 0;
    if (!c || c->state == CONN_LINGERING)
        return;
    if (!after_sending || c->state != CONN_OPEN || c->failed[0]) {
        tcp_begin_close(c);
        return;
    }
    enter(c, CONN_LINGERING);
    ring_timer_set(c->tcp->ring, &c->linger, ring_now_ns(c->tcp->ring) + TCP_LINGER_NS);
    /* Reading goes on from the loop: what was received so far may be in the hands of a caller. */
    wake_soon(c->tcp);
}

/* ------------------------------------------------------------------------------------------------- beginnings */

static struct tcp_conn *take_free(struct tcp *t, conn_id id, unsigned path)
{
    for (unsigned i = 0; i < TCP_CONNS_MAX; i++) {
        struct tcp_conn *c = &t->conns[i];
        if (c->state != CONN_FREE)
            continue;
        c->id = id;
        c->path = path;
        c->fd = -1;
        c->file.slot = -1;
        c->heard_ns = ring_now_ns(t->ring);
        c->failed[0] = 0;
        c->wire_have = 0;
        c->header_done = false;
        c->payload_have = 0;
        c->low_water = 1; /* a new socket's */
        c->starved = false;
        c->deaf = false;
        c->frames_in = 0;
        c->expect_payload_bytes = 0;
        c->bare_run = 0;
        c->expect_frames = 1;
        c->first_sent_bytes = 0;
        c->send_error = 0;
        return c;
    }
    return NULL;
}

static int make_ready(struct tcp_conn *c)
{
    int on = 1;
    int unsent = TCP_UNSENT_BYTES;
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
    c->file.slot = ring_register_file(c->tcp->ring, c->fd);
    return c->file.slot < 0 ? c->file.slot : 0;
}

static void open_now(struct tcp_conn *c, bool incoming)
{
    struct tcp *t = c->tcp;
    enter(c, CONN_OPEN);
    c->heard_ns = c->since_ns;
    conn_id id = c->id;
    t->base.sink.opened(t->base.sink.ctx, id, incoming, c->path);
    if (c->state == CONN_OPEN && c->id == id)
        tcp_recv_start(c);
}

static void connect_done(struct ring_op *op, int32_t result)
{
    struct tcp_conn *c = container_of(op, struct tcp_conn, connect_op);
    if (c->state == CONN_CLOSING) {
        tcp_release_if_done(c);
        return;
    }
    assert(c->state == CONN_CONNECTING);
    if (result == 0)
        result = make_ready(c);
    if (result < 0)
        tcp_fail(c, strerror(-result));
    else
        open_now(c, false);
}

static void connect_socket(struct tcp_conn *c)
{
    enter(c, CONN_CONNECTING);
    c->fd = socket(c->to.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
    if (c->fd < 0)
        tcp_fail_later(c, strerror(errno));
    else
        ring_connect(c->tcp->ring, &c->connect_op, c->fd, &c->to.addr, c->to.bytes);
}

static void name_use(struct tcp_name *name, struct tcp_conn *c)
{
    name->ended = false;
    c->to = name->address;
    if (name->failed[0])
        tcp_fail_later(c, name->failed);
    else
        connect_socket(c);
}

static void looked_up(void *ctx, int result, const struct net_address *address, const char *reason)
{
    struct tcp_name *name = ctx;
    struct tcp_conn *c = name->waits;
    name->lookup = NULL;
    name->waits = NULL;
    name->ended = true;
    name->address = *address;
    snprintf(name->failed, sizeof(name->failed), "%s", result < 0 ? reason : "");
    if (c)
        name_use(name, c);
}

static void find_by_name(struct tcp_conn *c)
{
    struct tcp *t = c->tcp;
    const char *text = t->connect_to[c->path];
    struct tcp_name *name = &t->names[c->path];
    struct err err = { 0 };
    if (name->ended) {
        name_use(name, c);
        return;
    }
    if (name->lookup) {
        snprintf(err.text, sizeof(err.text), "still looking up %s: the name servers are slow", text);
        tcp_fail_later(c, err.text);
        return;
    }
    name->lookup = tcp_lookup_start(t->ring, text, name, looked_up, &err);
    if (name->lookup)
        name->waits = c;
    else
        tcp_fail_later(c, err.text);
}

/* When all places are taken, those on their way out make room; meanwhile the next wait in the kernel's queue. */
static void evict_lingering(struct tcp *t)
{
    struct tcp_conn *oldest = NULL;
    for (unsigned i = 0; i < TCP_CONNS_MAX; i++) {
        struct tcp_conn *c = &t->conns[i];
        if (c->state == CONN_CLOSING)
            return;
        if (c->state == CONN_LINGERING && (!oldest || c->since_ns < oldest->since_ns))
            oldest = c;
    }
    if (oldest)
        tcp_begin_close(oldest);
}

static void connect_to(struct transport *base, conn_id id, unsigned path)
{
    struct tcp *t = tcp_of(base);
    assert(path < t->path_count && (id & CONN_OUTGOING) && !tcp_find(t, id));
    struct tcp_conn *c = take_free(t, id, path);
    if (!c) {
        /* Those before it are still on their way out; it is for the caller to try again. */
        t->unplaced = id;
        evict_lingering(t);
        wake_soon(t);
        return;
    }
    enter(c, CONN_RESOLVING);
    struct err err = { 0 };
    int rc = net_address_parse(t->connect_to[path], &c->to, &err);
    if (rc > 0)
        connect_socket(c);
    else if (rc == 0)
        find_by_name(c);
    else
        tcp_fail_later(c, err.text);
}

/* ------------------------------------------------------------------------------------------------- accepting */

static void accept_next(struct tcp_listener *l)
{
    if (!l->tcp->closing && l->fd >= 0 && !l->op.busy && l->accepted < 0 && !l->pause.set)
        ring_accept(l->tcp->ring, &l->op, l->fd);
}

static conn_id name_conn(struct tcp *t)
{
    do {
        t->conns_named = t->conns_named % (CONN_OUTGOING - 1) + 1;
    } while (tcp_find(t, t->conns_named));
    return t->conns_named;
}

static void place_accepted(struct tcp_listener *l)
{
    struct tcp *t = l->tcp;
    if (l->accepted < 0)
        return;
    struct tcp_conn *c = take_free(t, name_conn(t), l->path);
    if (!c) {
        evict_lingering(t);
        return;
    }
    c->fd = l->accepted;
    l->accepted = -1;
    int rc = make_ready(c);
    if (rc < 0) {
        char text[256];
        snprintf(text, sizeof(text), "a connection on path %u was closed at once: %s", l->path + 1, strerror(-rc));
        t->base.sink.note(t->base.sink.ctx, NOTE_WARNING, text);
        close(c->fd);
        c->fd = -1;
        c->id = 0;
    } else {
        open_now(c, true);
    }
    accept_next(l);
}

static void accept_paused(struct ring_timer *timer) { accept_next(container_of(timer, struct tcp_listener, pause)); }

static void accept_done(struct ring_op *op, int32_t result)
{
    struct tcp_listener *l = container_of(op, struct tcp_listener, op);
    struct tcp *t = l->tcp;
    if (t->closing) {
        if (result >= 0)
            close(result);
        wake_soon(t);
        return;
    }
    if (result < 0) {
        /* The connection was gone before it was accepted, or descriptors or memory are short for now. */
        if (result != -ECONNABORTED) {
            char text[256];
            snprintf(text, sizeof(text), "cannot accept connections on path %u: %s; will try on", l->path + 1,
                     strerror(-result));
            t->base.sink.note(t->base.sink.ctx, NOTE_WARNING, text);
        }
        ring_timer_set(t->ring, &l->pause, ring_now_ns(t->ring) + TCP_ACCEPT_PAUSE_NS);
        return;
    }
    l->accepted = result;
    place_accepted(l);
}

static int listen_on(struct tcp_listener *l, const char *text, struct err *err)
{
    struct net_address a;
    int rc = net_address_resolve(text, false, &a, err);
    if (rc < 0)
        return rc;
    int on = 1;
    l->fd = socket(a.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    if (l->fd < 0)
        return err_set(err, -errno, "%s: %s", text, strerror(errno));
    (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a.addr.ss_family == AF_INET6)
        (void)setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    rc = bind(l->fd, (struct sockaddr *)&a.addr, a.bytes);
    if (rc < 0 && errno == EADDRNOTAVAIL) {
        /* Its interface may come up later: one path that is down must not keep the others from being used. */
        snprintf(l->warning, sizeof(l->warning),
                 "%s is no address of this machine now: the path works once it is (or is the configuration wrong?)",
                 text);
        (void)setsockopt(l->fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on));
        rc = bind(l->fd, (struct sockaddr *)&a.addr, a.bytes);
    }
    if (rc < 0)
        return err_set(err, -errno, "cannot listen on %s: %s", text, strerror(errno));
    if (listen(l->fd, SOMAXCONN) < 0)
        return err_set(err, -errno, "cannot listen on %s: %s", text, strerror(errno));
    return 0;
}

/* ------------------------------------------------------------------------------------------------- operations */

static void start(struct transport *base)
{
    struct tcp *t = tcp_of(base);
    for (unsigned i = 0; i < t->path_count; i++) {
        if (t->listeners[i].warning[0])
            t->base.sink.note(t->base.sink.ctx, NOTE_WARNING, t->listeners[i].warning);
        accept_next(&t->listeners[i]);
    }
}

static void send_frame(struct transport *base, conn_id id, const struct frame *frame, struct buf *payload)
{
    struct tcp_conn *c = tcp_find(tcp_of(base), id);
    if (c)
        tcp_send_queue(c, frame, payload);
}

static uint64_t heard_ns(const struct transport *base, conn_id id)
{
    const struct tcp *t = tcp_of(base);
    const struct tcp_conn *c = tcp_find(t, id);
    if (!c)
        return 0;
    return c->starved ? ring_now_ns(t->ring) : tcp_heard_ns(c);
}

static void flush(struct transport *base)
{
    struct tcp *t = tcp_of(base);
    for (unsigned i = 0; i < TCP_CONNS_MAX; i++)
        if (!list_empty(&t->conns[i].queue))
            tcp_send_flush(&t->conns[i]);
}

static void resume(struct transport *base)
{
    struct tcp *t = tcp_of(base);
    for (unsigned i = 0; i < TCP_CONNS_MAX; i++) {
        if (t->conns[i].state == CONN_OPEN && t->conns[i].starved) {
            /* Frames are reported from the loop only. */
            t->conns[i].resume = true;
            wake_soon(t);
        }
    }
}

static void close_transport(struct transport *base, void (*closed)(void *ctx), void *ctx)
{
    struct tcp *t = tcp_of(base);
    t->closing = true;
    t->closed = closed;
    t->closed_ctx = ctx;
    for (unsigned i = 0; i < TCP_CONNS_MAX; i++) {
        if (t->conns[i].state != CONN_LINGERING)
            tcp_begin_close(&t->conns[i]);
        else
            tcp_send_flush(&t->conns[i]);
    }
    for (unsigned i = 0; i < SESSION_PATHS_MAX; i++) {
        ring_cancel(t->ring, &t->listeners[i].op);
        if (t->names[i].lookup)
            tcp_lookup_forget(t->names[i].lookup);
        t->names[i].lookup = NULL;
    }
    wake_soon(t);
}

static void serve_conn(struct tcp_conn *c)
{
    if (c->state == CONN_CLOSING && !c->connect_op.busy && !c->recv_op.busy && !c->send_op.busy)
        release(c);
    else if (c->failed[0] && c->state != CONN_FREE && c->state != CONN_CLOSING && c->state != CONN_LINGERING)
        tcp_fail(c, c->failed);
    else if (c->state == CONN_LINGERING && !c->recv_op.busy)
        tcp_recv_start(c);
    else if (c->resume)
        tcp_recv_resume(c);
    if (c->state == CONN_LINGERING && tcp_send_is_idle(c))
        tcp_last_word_sent(c);
    c->resume = false;
}

static void woken(struct ring_timer *timer)
{
    struct tcp *t = container_of(timer, struct tcp, wake);
    for (unsigned i = 0; i < TCP_CONNS_MAX; i++)
        serve_conn(&t->conns[i]);
    if (t->unplaced && !t->closing) {
        conn_id id = t->unplaced;
        t->unplaced = 0;
        t->base.sink.open_failed(t->base.sink.ctx, id, "too many connections are still being closed");
    }
    for (unsigned i = 0; i < t->path_count && !t->closing; i++)
        place_accepted(&t->listeners[i]);
    finish_close(t);
}

static const struct transport_ops tcp_ops = {
    .name = "tcp",
    .start = start,
    .connect = connect_to,
    .send = send_frame,
    .drop = drop,
    .heard_ns = heard_ns,
    .flush = flush,
    .resume = resume,
    .close = close_transport,
};

/* Nothing is in flight and nobody has heard of it. */
static void discard(struct tcp *t)
{
    for (unsigned i = 0; i < SESSION_PATHS_MAX; i++)
        if (t->listeners[i].fd >= 0)
            close(t->listeners[i].fd);
    for (unsigned i = 0; i < ARRAY_LEN(t->hello_room); i++)
        if (t->hello_room[i])
            buf_put(t->hello_room[i]);
    free(t->slots);
    free(t);
}

static void init_conn(struct tcp *t, struct tcp_conn *c)
{
    c->tcp = t;
    c->fd = -1;
    c->file.slot = -1;
    c->connect_op.done = connect_done;
    c->recv_op.done = tcp_recv_done;
    c->send_op.done = tcp_send_done;
    c->linger.fired = linger_over;
    list_init(&c->queue);
    scatter_reset(&c->in);
}

struct transport *transport_tcp_open(const struct transport_config *config, struct err *err)
{
    assert(config->path_count > 0 && config->path_count <= SESSION_PATHS_MAX);
    struct tcp *t = calloc(1, sizeof(*t));
    if (!t) {
        err_set(err, -ENOMEM, "no memory for the link");
        return NULL;
    }
    t->base.ops = &tcp_ops;
    t->ring = config->ring;
    t->pool = config->pool;
    t->initiator = config->initiator;
    t->path_count = config->path_count;
    t->wake.fired = woken;
    for (unsigned i = 0; i < TCP_CONNS_MAX; i++)
        init_conn(t, &t->conns[i]);
    for (unsigned i = 0; i < SESSION_PATHS_MAX; i++) {
        t->listeners[i] = (struct tcp_listener) { .tcp = t, .path = i, .fd = -1, .accepted = -1 };
        t->listeners[i].op.done = accept_done;
        t->listeners[i].pause.fired = accept_paused;
    }
    list_init(&t->free_slots);
    t->slots = calloc(TCP_SEND_SLOTS, sizeof(*t->slots));
    if (!t->slots) {
        err_set(err, -ENOMEM, "no memory for the link");
        discard(t);
        return NULL;
    }
    for (unsigned i = 0; i < TCP_SEND_SLOTS; i++)
        list_append(&t->free_slots, &t->slots[i].link);
    for (unsigned i = 0; i < ARRAY_LEN(t->hello_room); i++) {
        t->hello_room[i] = buf_get(t->pool, FRAME_HELLO_BYTES_MAX, 0);
        if (!t->hello_room[i]) {
            err_set(err, -ENOMEM, "no buffers for the link");
            discard(t);
            return NULL;
        }
    }
    for (unsigned i = 0; i < t->path_count; i++) {
        int rc = 0;
        if (config->initiator)
            snprintf(t->connect_to[i], sizeof(t->connect_to[i]), "%s", config->connect[i]);
        else
            rc = listen_on(&t->listeners[i], config->listen[i], err);
        if (rc < 0) {
            discard(t);
            return NULL;
        }
    }
    return &t->base;
}
