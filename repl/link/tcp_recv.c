/* Receiving: payloads land in pool buffers straight from the socket.
 *
 * Each receive posts the rest of the frame that is under way, and then room for the frames that will follow if they are
 * like those that came: header, payload, header, payload... Where the guess is right nothing is copied; where it is
 * wrong, scatter_take() copies. */
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>

#include "repl/link/tcp_private.h"

static void drop_spares(struct tcp_conn *c)
{
    for (unsigned i = 0; i < c->spare_count; i++)
        buf_put(c->spare[i]);
    c->spare_count = 0;
}

void tcp_recv_forget(struct tcp_conn *c)
{
    assert(!c->recv_op.busy);
    drop_spares(c);
    if (c->payload)
        buf_put(c->payload);
    c->payload = NULL;
    scatter_reset(&c->in);
}

static bool is_room_for(const struct buf *b, uint32_t payload_bytes)
{
    /* Neither too small, nor so large that small writes would bind the pool. */
    return b->size_bytes >= payload_bytes && (b->size_bytes == BUF_BYTES_MIN || b->size_bytes / 2 < payload_bytes);
}

/* Room for payloads to come, in c->spare, as far as the pool has it. */
static void gather_spares(struct tcp_conn *c)
{
    unsigned want = c->expect_frames;
    if ((uint64_t)want * c->expect_payload_bytes > TCP_RECV_GUESS_BYTES_MAX)
        want = (unsigned)(TCP_RECV_GUESS_BYTES_MAX / c->expect_payload_bytes);
    if (want == 0)
        want = 1;
    unsigned kept = 0;
    for (unsigned i = 0; i < c->spare_count; i++) {
        if (kept < want && is_room_for(c->spare[i], c->expect_payload_bytes))
            c->spare[kept++] = c->spare[i];
        else
            buf_put(c->spare[i]);
    }
    c->spare_count = kept;
    while (c->spare_count < want) {
        struct buf *b = buf_get(c->tcp->pool, c->expect_payload_bytes, 0);
        if (!b)
            break;
        c->spare[c->spare_count++] = b;
    }
}

static void post_rest(struct tcp_conn *c)
{
    if (c->header_done)
        scatter_post(&c->in, c->payload->data + c->payload_have, c->frame.payload_bytes - c->payload_have);
    else
        scatter_post(&c->in, (uint8_t *)&c->wire + c->wire_have, sizeof(c->wire) - c->wire_have);
}

static void post_guess(struct tcp_conn *c)
{
    if (c->expect_payload_bytes == 0) {
        drop_spares(c);
        scatter_post(&c->in, c->headers, sizeof(c->headers));
        return;
    }
    gather_spares(c);
    unsigned headers = 0;
    bool payload_next = !c->header_done;
    for (unsigned i = 0; i < c->spare_count; i++) {
        if (!payload_next)
            scatter_post(&c->in, &c->headers[headers++], FRAME_BYTES);
        scatter_post(&c->in, c->spare[i]->data, c->expect_payload_bytes);
        payload_next = false;
    }
    if (!payload_next)
        scatter_post(&c->in, &c->headers[headers], FRAME_BYTES);
}

/* A large payload comes in many segments, and each would wake us: the kernel gathers a good part of it first. That
 * nothing completes meanwhile is not silence: tcp_heard_ns(). */
static void set_low_water(struct tcp_conn *c)
{
    uint32_t rest = c->header_done ? c->frame.payload_bytes - c->payload_have : 0;
    int low_water = rest < TCP_LOW_WATER_BYTES_MIN ? 1 : (int)min_u64(rest, TCP_LOW_WATER_BYTES_MAX);
    if (low_water == c->low_water)
        return;
    /* Where it does not help it does no harm: the kernel wakes us as often as before. */
    (void)setsockopt(c->fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water));
    c->low_water = low_water;
}

uint64_t tcp_heard_ns(const struct tcp_conn *c)
{
    struct tcp_info info;
    socklen_t bytes = sizeof(info);
    if (c->low_water == 1 || getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) < 0)
        return c->heard_ns;
    uint64_t ago_ns = info.tcpi_last_data_recv * NS_PER_MS;
    uint64_t now_ns = ring_now_ns(c->tcp->ring);
    return max_u64(c->heard_ns, now_ns > ago_ns ? now_ns - ago_ns : 0);
}

static void receive(struct tcp_conn *c)
{
    assert(c->in.available_bytes == 0 && !c->starved);
    scatter_reset(&c->in);
    set_low_water(c);
    post_rest(c);
    /* A stranger gets no room before he has said hello. */
    if (c->frames_in > 0)
        post_guess(c);
    c->in_msg = (struct msghdr) { .msg_iov = scatter_iov(&c->in), .msg_iovlen = scatter_iov_count(&c->in) };
    ring_recvmsg(c->tcp->ring, &c->recv_op, c->file, &c->in_msg, 0);
}

static void throw_away(struct tcp_conn *c)
{
    tcp_recv_forget(c);
    scatter_post(&c->in, c->headers, sizeof(c->headers));
    c->in_msg = (struct msghdr) { .msg_iov = scatter_iov(&c->in), .msg_iovlen = scatter_iov_count(&c->in) };
    ring_recvmsg(c->tcp->ring, &c->recv_op, c->file, &c->in_msg, 0);
}

/* A buffer kept aside, so that hellos get through while the pool is exhausted. */
static struct buf *hello_room(struct tcp *t)
{
    for (unsigned i = 0; i < ARRAY_LEN(t->hello_room); i++) {
        if (t->hello_room[i]->refs == 1) {
            buf_ref(t->hello_room[i]);
            return t->hello_room[i];
        }
    }
    return NULL;
}

/* Where the payload of c->frame goes: best, the place that it already lies in. */
static struct buf *place_payload(struct tcp_conn *c)
{
    for (unsigned i = 0; i < c->spare_count; i++) {
        struct buf *b = c->spare[i];
        /* A spare may be used where the payload lies in it, or where nothing that came lies in any. */
        if (!is_room_for(b, c->frame.payload_bytes) ||
            (c->in.available_bytes > 0 && !scatter_lies_at(&c->in, b->data, c->frame.payload_bytes)))
            continue;
        c->spare_count--;
        memmove(&c->spare[i], &c->spare[i + 1], (c->spare_count - i) * sizeof(c->spare[0]));
        return b;
    }
    struct buf *b = buf_get(c->tcp->pool, c->frame.payload_bytes, 0);
    if (!b && (c->frame.kind == FRAME_HELLO || c->frame.kind == FRAME_REFUSE))
        b = hello_room(c->tcp);
    return b;
}

static uint32_t take(struct tcp_conn *c, void *to, uint32_t have, uint32_t want)
{
    uint32_t n = (uint32_t)min_u64(want - have, c->in.available_bytes);
    if (n > 0)
        scatter_take(&c->in, (uint8_t *)to + have, n);
    return have + n;
}

static void garbage(struct tcp_conn *c, const char *reason)
{
    /* Nothing more is received: the sink drops it. */
    c->deaf = true;
    c->tcp->base.sink.garbage(c->tcp->base.sink.ctx, c->id, reason);
}

static void deliver(struct tcp_conn *c)
{
    struct frame frame = c->frame;
    struct buf *payload = c->payload;
    c->payload = NULL;
    c->payload_have = 0;
    c->header_done = false;
    c->wire_have = 0;
    c->frames_in++;
    if (frame.kind == FRAME_HELLO || frame.kind == FRAME_REFUSE) {
        /* Says nothing of what follows. */
    } else if (frame.payload_bytes) {
        c->expect_payload_bytes = frame.payload_bytes;
        c->bare_run = 0;
    } else if (++c->bare_run >= TCP_RECV_BARE_MAX) {
        c->expect_payload_bytes = 0;
    }
    c->tcp->base.sink.frame(c->tcp->base.sink.ctx, c->id, &frame, payload);
}

/* One step along the stream. False: it needs more bytes, or a buffer, or it has ended. */
static bool advance(struct tcp_conn *c)
{
    if (!c->header_done) {
        c->wire_have = take(c, &c->wire, c->wire_have, sizeof(c->wire));
        if (c->wire_have < sizeof(c->wire))
            return false;
        const char *why = NULL;
        if (frame_decode(&c->wire, &c->frame, &why) < 0) {
            garbage(c, why);
            return false;
        }
        if (c->frames_in == 0 && c->frame.kind != FRAME_HELLO && c->frame.kind != FRAME_REFUSE) {
            garbage(c, "its first frame is not a hello (kind)");
            return false;
        }
        c->header_done = true;
    }
    if (c->frame.payload_bytes > 0) {
        if (!c->payload)
            c->payload = place_payload(c);
        c->starved = !c->payload;
        if (c->starved)
            return false;
        c->payload_have = take(c, c->payload->data, c->payload_have, c->frame.payload_bytes);
        if (c->payload_have < c->frame.payload_bytes)
            return false;
    }
    deliver(c);
    return true;
}

static void go_on(struct tcp_conn *c)
{
    conn_id id = c->id;
    unsigned frames = 0;
    bool more = true;
    while (more) {
        more = advance(c);
        if (c->state != CONN_OPEN || c->id != id || c->deaf)
            return;
        frames += more;
    }
    if (frames > c->expect_frames / 2)
        c->expect_frames = frames * 2 < TCP_RECV_FRAMES_MAX ? frames * 2 : TCP_RECV_FRAMES_MAX;
    else if (c->expect_frames > 1)
        c->expect_frames--;
    if (!c->starved)
        receive(c);
}

void tcp_recv_start(struct tcp_conn *c)
{
    if (c->recv_op.busy)
        return;
    if (c->state == CONN_LINGERING)
        throw_away(c);
    else
        receive(c);
}

void tcp_recv_resume(struct tcp_conn *c)
{
    if (c->state != CONN_OPEN || !c->starved)
        return;
    c->starved = false;
    c->heard_ns = ring_now_ns(c->tcp->ring);
    go_on(c);
}

void tcp_recv_done(struct ring_op *op, int32_t result)
{
    struct tcp_conn *c = container_of(op, struct tcp_conn, recv_op);
    switch (c->state) {
    case CONN_FREE:
    case CONN_RESOLVING:
    case CONN_CONNECTING: assert(!"receiving on no connection"); return;
    case CONN_CLOSING: tcp_release_if_done(c); return;
    case CONN_LINGERING:
        if (result > 0)
            throw_away(c);
        else if (tcp_send_is_idle(c))
            tcp_begin_close(c);
        return;
    case CONN_OPEN: break;
    }
    if (result <= 0) {
        if (result == 0 && c->send_error)
            result = c->send_error;
        tcp_fail(c, result == 0 ? "closed by the other side" : strerror(-result));
        return;
    }
    c->heard_ns = ring_now_ns(c->tcp->ring);
    scatter_received(&c->in, (size_t)result);
    go_on(c);
}
