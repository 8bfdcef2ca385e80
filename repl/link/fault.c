/* A transport filter that makes a network bad: frames come late, damaged or never, connections break. */
#include <errno.h>
#include <stdlib.h>

#include "repl/base/prng.h"
#include "repl/link/link.h"

#define FAULT_HELD_MAX 4096
#define FAULT_CONNS_MAX 32

enum held_kind {
    HELD_FRAME,
    HELD_CLOSED,
    HELD_GARBAGE,
};

/* What came from below and has not been passed on yet. */
struct held {
    struct list link;
    enum held_kind kind;
    conn_id conn;
    uint64_t due_ns;
    struct frame frame;
    struct buf *payload;
    char reason[128];
};

struct fault_conn {
    conn_id id; /* 0: none */
    unsigned held;
    uint64_t last_due_ns;
};

struct fault {
    struct transport base;
    struct ring *ring;
    struct transport_fault_config config;
    struct prng prng;
    struct ring_timer timer;
    struct list queue; /* by due_ns */
    struct list unused;
    struct fault_conn conns[FAULT_CONNS_MAX];
    struct held *pool;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static struct fault *fault_of(const struct transport *t) { return container_of(t, struct fault, base); }

static struct held *held_of(struct list *node) { return container_of(node, struct held, link); }

static struct fault_conn *find(struct fault *f, conn_id id)
{
    for (unsigned i = 0; i < FAULT_CONNS_MAX; i++)
        if (f->conns[i].id == id)
            return &f->conns[i];
    return NULL;
}

static void arm(struct fault *f)
{
    if (!f->config.stall && !list_empty(&f->queue))
        ring_timer_set(f->ring, &f->timer, held_of(list_first(&f->queue))->due_ns);
}

static void forget(struct fault *f, conn_id id)
{
    struct fault_conn *c = find(f, id);
    if (!c)
        return;
    list_for_each_safe (node, &f->queue) {
        struct held *h = held_of(node);
        if (h->conn != id)
            continue;
        if (h->payload)
            buf_put(h->payload);
        list_remove(&h->link);
        list_append(&f->unused, &h->link);
    }
    *c = (struct fault_conn) { 0 };
}

static void pass_on(struct fault *f, struct held *h)
{
    struct transport_sink *sink = &f->base.sink;
    struct held copy = *h;
    list_remove(&h->link);
    list_append(&f->unused, &h->link);
    struct fault_conn *c = find(f, copy.conn);
    if (c)
        c->held--;
    switch (copy.kind) {
    case HELD_FRAME: sink->frame(sink->ctx, copy.conn, &copy.frame, copy.payload); break;
    case HELD_CLOSED:
        forget(f, copy.conn);
        sink->closed(sink->ctx, copy.conn, copy.reason);
        break;
    case HELD_GARBAGE: sink->garbage(sink->ctx, copy.conn, copy.reason); break;
    }
}

static void timer_fired(struct ring_timer *timer)
{
    struct fault *f = container_of(timer, struct fault, timer);
    struct list *node;
    while (!f->config.stall && (node = list_first(&f->queue)) && held_of(node)->due_ns <= ring_now_ns(f->ring))
        pass_on(f, held_of(node));
    arm(f);
}

/* NULL: no room, or an unknown connection. */
static struct held *hold(struct fault *f, conn_id conn, enum held_kind kind)
{
    struct fault_conn *c = find(f, conn);
    struct list *node = c ? list_pop(&f->unused) : NULL;
    if (!node)
        return NULL;
    uint64_t spread = f->config.delay_max_ns - f->config.delay_min_ns;
    uint64_t delay = f->config.delay_min_ns + (spread ? prng_below(&f->prng, spread) : 0);
    struct held *h = held_of(node);
    h->kind = kind;
    h->conn = conn;
    h->payload = NULL;
    h->due_ns = max_u64(c->last_due_ns, ring_now_ns(f->ring) + delay);
    c->last_due_ns = h->due_ns;
    c->held++;
    struct list *where = &f->queue;
    while (where->prev != &f->queue && held_of(where->prev)->due_ns > h->due_ns)
        where = where->prev;
    list_insert_before(where, &h->link);
    arm(f);
    return h;
}

static bool passes_at_once(struct fault *f, conn_id conn)
{
    struct fault_conn *c = find(f, conn);
    return !f->config.stall && f->config.delay_max_ns == 0 && (!c || c->held == 0);
}

static void cut(struct fault *f, conn_id conn, const char *reason)
{
    forget(f, conn);
    f->base.below->ops->drop(f->base.below, conn, false);
    f->base.sink.closed(f->base.sink.ctx, conn, reason);
}

static void on_frame(void *ctx, conn_id conn, const struct frame *frame, struct buf *payload)
{
    struct fault *f = ctx;
    bool dropped = prng_chance(&f->prng, f->config.drop_per_million);
    bool broken = prng_chance(&f->prng, f->config.cut_per_million);
    if (prng_chance(&f->prng, f->config.corrupt_per_million) && payload) {
        uint64_t bit = prng_below(&f->prng, (uint64_t)frame->payload_bytes * 8);
        payload->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    if (!dropped && !broken && passes_at_once(f, conn)) {
        f->base.sink.frame(f->base.sink.ctx, conn, frame, payload);
        return;
    }
    struct held *h = dropped || broken ? NULL : hold(f, conn, HELD_FRAME);
    if (h) {
        h->frame = *frame;
        h->payload = payload;
        return;
    }
    if (payload)
        buf_put(payload);
    if (!dropped)
        cut(f, conn, broken ? "cut by the fault filter" : "more frames than the fault filter can hold");
}

static void on_opened(void *ctx, conn_id conn, bool incoming, unsigned path)
{
    struct fault *f = ctx;
    struct fault_conn *c = find(f, 0);
    if (c)
        *c = (struct fault_conn) { .id = conn };
    f->base.sink.opened(f->base.sink.ctx, conn, incoming, path);
}

static void on_open_failed(void *ctx, conn_id conn, const char *reason)
{
    struct fault *f = ctx;
    f->base.sink.open_failed(f->base.sink.ctx, conn, reason);
}

static void end(struct fault *f, conn_id conn, enum held_kind kind, const char *reason)
{
    struct held *h = passes_at_once(f, conn) ? NULL : hold(f, conn, kind);
    if (h) {
        unsigned i = 0;
        for (; reason[i] && i < sizeof(h->reason) - 1; i++)
            h->reason[i] = reason[i];
        h->reason[i] = 0;
        return;
    }
    if (kind == HELD_CLOSED) {
        forget(f, conn);
        f->base.sink.closed(f->base.sink.ctx, conn, reason);
    } else {
        f->base.sink.garbage(f->base.sink.ctx, conn, reason);
    }
}

static void on_closed(void *ctx, conn_id conn, const char *reason) { end(ctx, conn, HELD_CLOSED, reason); }

static void on_garbage(void *ctx, conn_id conn, const char *reason) { end(ctx, conn, HELD_GARBAGE, reason); }

static void on_note(void *ctx, enum note_level level, const char *text)
{
    struct fault *f = ctx;
    f->base.sink.note(f->base.sink.ctx, level, text);
}

static void start(struct transport *t) { t->below->ops->start(t->below); }

static void connect_to(struct transport *t, conn_id conn, unsigned path)
{
    t->below->ops->connect(t->below, conn, path);
}

static void send_frame(struct transport *t, conn_id conn, const struct frame *frame, struct buf *payload)
{
    t->below->ops->send(t->below, conn, frame, payload);
}

static void drop(struct transport *t, conn_id conn, bool after_sending)
{
    forget(fault_of(t), conn);
    t->below->ops->drop(t->below, conn, after_sending);
}

static uint64_t heard_ns(const struct transport *t, conn_id conn)
{
    const struct fault *f = fault_of(t);
    /* What is held here has not been heard of above. */
    return f->config.stall || !list_empty(&f->queue) ? 0 : t->below->ops->heard_ns(t->below, conn);
}

static void flush(struct transport *t) { t->below->ops->flush(t->below); }

static void resume(struct transport *t) { t->below->ops->resume(t->below); }

static void below_closed(void *ctx)
{
    struct fault *f = ctx;
    void (*closed)(void *ctx) = f->closed;
    void *closed_ctx = f->closed_ctx;
    free(f->pool);
    free(f);
    closed(closed_ctx);
}

static void close_filter(struct transport *t, void (*closed)(void *ctx), void *ctx)
{
    struct fault *f = fault_of(t);
    f->closed = closed;
    f->closed_ctx = ctx;
    ring_timer_clear(f->ring, &f->timer);
    for (unsigned i = 0; i < FAULT_CONNS_MAX; i++)
        if (f->conns[i].id)
            forget(f, f->conns[i].id);
    t->below->ops->close(t->below, below_closed, f);
}

static const struct transport_ops fault_ops = {
    .name = "fault",
    .start = start,
    .connect = connect_to,
    .send = send_frame,
    .drop = drop,
    .heard_ns = heard_ns,
    .flush = flush,
    .resume = resume,
    .close = close_filter,
};

struct transport *transport_filter_fault(struct ring *r, struct transport *below,
                                         const struct transport_fault_config *config, struct err *err)
{
    struct fault *f = calloc(1, sizeof(*f));
    struct held *pool = calloc(FAULT_HELD_MAX, sizeof(*pool));
    if (!f || !pool) {
        free(f);
        free(pool);
        err_set(err, -ENOMEM, "no memory for the fault filter");
        return NULL;
    }
    f->base.ops = &fault_ops;
    f->base.below = below;
    f->ring = r;
    f->pool = pool;
    f->timer.fired = timer_fired;
    list_init(&f->queue);
    list_init(&f->unused);
    for (unsigned i = 0; i < FAULT_HELD_MAX; i++)
        list_append(&f->unused, &pool[i].link);
    f->prng = prng_seed(config->seed);
    f->config = *config;
    below->sink = (struct transport_sink) {
        .ctx = f,
        .opened = on_opened,
        .open_failed = on_open_failed,
        .closed = on_closed,
        .frame = on_frame,
        .garbage = on_garbage,
        .note = on_note,
    };
    return &f->base;
}

void transport_filter_fault_set(struct transport *t, const struct transport_fault_config *config)
{
    struct fault *f = fault_of(t);
    assert(t->ops == &fault_ops && config->delay_min_ns <= config->delay_max_ns);
    f->config = *config;
    f->prng = prng_seed(config->seed);
    arm(f);
}
