/* One NBD client: its bytes are received where they belong and become commands. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "blockdev/front/nbd.h"

static void receive(struct nbd_conn *c);
static void parse(struct nbd_conn *c);
static void negotiate(struct nbd_conn *c);

static bool is_open(const struct nbd_conn *c) { return c->state != NBD_CONN_FREE && c->state != NBD_CONN_ENDING; }

/* Guesses */

static void guess_put(struct nbd_conn *c, struct buf *b)
{
    c->server->released = true;
    buf_put(b);
}

static void guesses_drop(struct nbd_conn *c, unsigned keep)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < c->guess_count; i++) {
        struct buf *b = c->guesses[i];
        if (!b)
            continue;
        bool fits = b->size_bytes >= c->guess_bytes && b->size_bytes / 2 < max_u64(c->guess_bytes, BUF_BYTES_MIN);
        if (kept < keep && fits)
            c->guesses[kept++] = b;
        else
            guess_put(c, b);
    }
    c->guess_count = kept;
    c->guess_next = 0;
}

/* How many payloads the next receive should have room for. Twice as many when all guesses were right; a little more
 * than came in otherwise. */
static void guesses_adapt(struct nbd_conn *c)
{
    if (c->writes_seen == 0 && c->others_seen > 0)
        c->guess_want = 0;
    else if (c->writes_seen > 0 && c->writes_seen >= c->guess_want)
        c->guess_want = c->guess_want > 0 ? 2 * c->guess_want : 1;
    else if (c->writes_seen > 0 && c->guess_want > c->writes_seen + 1)
        c->guess_want--;
    c->writes_seen = 0;
    c->others_seen = 0;
    unsigned most = c->guess_bytes > 0 ? (unsigned)(NBD_GUESSES_BYTES_MAX / c->guess_bytes) : 0;
    if (most > NBD_GUESSES_MAX)
        most = NBD_GUESSES_MAX;
    if (c->guess_want > most)
        c->guess_want = most;
}

struct buf *nbd_guess_adopt(struct nbd_conn *c, uint32_t bytes)
{
    /* A longer place would have more of the stream behind the payload. */
    if (bytes != c->posted_bytes)
        return NULL;
    for (unsigned i = c->guess_next; i < c->guess_count; i++) {
        struct buf *b = c->guesses[i];
        if (b && scatter_lies_at(&c->scatter, b->data, bytes)) {
            c->guesses[i] = NULL;
            c->guess_next = i + 1;
            return b;
        }
    }
    return NULL;
}

static void guesses_post(struct nbd_conn *c)
{
    guesses_adapt(c);
    guesses_drop(c, c->guess_want);
    c->posted_bytes = c->guess_bytes;
    while (c->guess_count < c->guess_want) {
        struct buf *b = nbd_guess_buf(c, c->guess_bytes);
        if (!b)
            break;
        c->guesses[c->guess_count++] = b;
    }
    if (c->guess_count == 0) {
        scatter_post(&c->scatter, c->heads, sizeof(c->heads));
        return;
    }
    /* A receive for a payload goes on with a header first; one for a header already has it. */
    if (c->rx != NBD_RX_HEADER)
        scatter_post(&c->scatter, c->heads[NBD_GUESSES_MAX], NBD_REQUEST_BYTES);
    for (unsigned i = 0; i < c->guess_count; i++) {
        scatter_post(&c->scatter, c->guesses[i]->data, c->guess_bytes);
        scatter_post(&c->scatter, c->heads[i], NBD_REQUEST_BYTES);
    }
}

/* Receiving */

static void receive(struct nbd_conn *c)
{
    assert(!c->recv_op.busy && c->scatter.available_bytes == 0);
    scatter_reset(&c->scatter);
    int flags = 0;
    if (c->state == NBD_CONN_NEGOTIATING) {
        scatter_post(&c->scatter, c->in + c->in_bytes, sizeof(c->in) - c->in_bytes);
    } else {
        bool guess = true;
        if (c->rx == NBD_RX_HEADER) {
            scatter_post(&c->scatter, c->header + c->have_bytes, NBD_REQUEST_BYTES - c->have_bytes);
        } else if (c->rx == NBD_RX_PAYLOAD) {
            scatter_post(&c->scatter, c->piece->buf->data + c->have_bytes, c->piece->length_bytes - c->have_bytes);
            guess = c->command->left_bytes == 0;
            if (c->piece->length_bytes - c->have_bytes >= NBD_WAIT_ALL_BYTES_MIN) {
                /* A socket holds a part of it at a time: let the kernel gather them, and wake us once. */
                flags = MSG_WAITALL;
                guess = false;
            }
        } else {
            assert(c->rx == NBD_RX_SKIP);
            scatter_post(&c->scatter, c->server->trash, min_u64(c->skip_bytes, NBD_TRASH_BYTES));
            guess = false;
        }
        if (guess)
            guesses_post(c);
    }
    c->recv_msg = (struct msghdr) { .msg_iov = scatter_iov(&c->scatter), .msg_iovlen = scatter_iov_count(&c->scatter) };
    ring_recvmsg(c->server->ring, &c->recv_op, c->file, &c->recv_msg, flags);
}

static void on_end_of_stream(struct nbd_conn *c, int32_t result)
{
    if (result < 0) {
        char reason[96];
        snprintf(reason, sizeof(reason), "receiving from it failed: %s", strerror(-result));
        nbd_conn_end(c, NOTE_INFO, reason);
    } else if (c->state == NBD_CONN_NEGOTIATING) {
        nbd_conn_end(c, NOTE_INFO, "it left during negotiation");
    } else {
        if (c->rx != NBD_RX_HEADER || c->have_bytes > 0)
            nbd_note(c->server, NOTE_WARNING, "NBD client %s: it left in the middle of a request", c->name);
        /* It may have shut down its sending side only: what it asked for is still answered. */
        nbd_conn_drain(c);
    }
}

static void recv_done(struct ring_op *op, int32_t result)
{
    struct nbd_conn *c = container_of(op, struct nbd_conn, recv_op);
    bool trimmed = c->trim && result == -ECANCELED;
    c->trim = false;
    if (c->state == NBD_CONN_ENDING) {
        nbd_conn_check_free(c);
        return;
    }
    if (c->state == NBD_CONN_HELD) {
        c->unanswered += result > 0;
        nbd_conn_check_held(c);
        return;
    }
    if (c->state == NBD_CONN_DRAINING) {
        nbd_write_abandon(c);
        nbd_conn_check_drained(c);
        return;
    }
    if (trimmed) {
        receive(c);
        return;
    }
    if (result <= 0) {
        on_end_of_stream(c, result);
        return;
    }
    c->active = true;
    scatter_received(&c->scatter, (size_t)result);
    if (c->state == NBD_CONN_NEGOTIATING) {
        c->in_bytes += (size_t)result;
        scatter_reset(&c->scatter);
        negotiate(c);
    } else {
        parse(c);
    }
}

/* Takes what there is of `bytes`, have_bytes of which are there already. True when they are complete. */
static bool take(struct nbd_conn *c, uint8_t *to, uint32_t bytes)
{
    uint32_t part = (uint32_t)min_u64(bytes - c->have_bytes, c->scatter.available_bytes);
    if (part > 0)
        scatter_take(&c->scatter, to + c->have_bytes, part);
    c->have_bytes += part;
    return c->have_bytes == bytes;
}

static bool skip(struct nbd_conn *c)
{
    while (c->skip_bytes > 0 && c->scatter.available_bytes > 0) {
        uint64_t part = min_u64(min_u64(c->skip_bytes, c->scatter.available_bytes), NBD_TRASH_BYTES);
        scatter_take(&c->scatter, c->server->trash, part);
        c->skip_bytes -= (uint32_t)part;
    }
    return c->skip_bytes == 0;
}

static void rx_enter(struct nbd_conn *c, enum nbd_rx rx)
{
    c->rx = rx;
    c->have_bytes = 0;
}

static void on_header(struct nbd_conn *c)
{
    struct nbd_request *r = &c->request;
    c->verdict = nbd_request_parse(&c->server->export, &c->session, c->header, r);
    if (r->payload_bytes > 0) {
        c->writes_seen++;
        c->guess_bytes = r->payload_bytes <= NBD_GUESS_BYTES_MAX ? r->payload_bytes : 0;
    } else {
        c->others_seen++;
    }
    switch (c->verdict) {
    case NBD_ACCEPT: rx_enter(c, NBD_RX_ADMIT); return;
    case NBD_REJECT:
        if (!c->rejected)
            nbd_note(c->server, NOTE_INFO, "NBD client %s: refused a request: %s (told once)", c->name, r->why);
        c->rejected = true;
        c->skip_bytes = r->payload_bytes;
        rx_enter(c, NBD_RX_SKIP);
        return;
    case NBD_DISCONNECT:
        rx_enter(c, NBD_RX_HEADER);
        nbd_conn_drain(c);
        return;
    case NBD_BREAK: nbd_conn_end(c, NOTE_WARNING, r->why); return;
    }
}

static void on_admitted(struct nbd_conn *c)
{
    bool has_payload = c->verdict == NBD_ACCEPT && c->request.command == NBD_CMD_WRITE;
    rx_enter(c, has_payload ? NBD_RX_PIECE : NBD_RX_HEADER);
}

/* One step of the client's stream. False: it waits, for bytes or for room. */
static bool parse_step(struct nbd_conn *c)
{
    switch (c->rx) {
    case NBD_RX_HEADER:
        if (!take(c, c->header, NBD_REQUEST_BYTES)) {
            receive(c);
            return false;
        }
        on_header(c);
        return true;
    case NBD_RX_SKIP:
        if (!skip(c)) {
            receive(c);
            return false;
        }
        rx_enter(c, NBD_RX_ADMIT);
        return true;
    case NBD_RX_ADMIT:
        if (!(c->verdict == NBD_ACCEPT ? nbd_command_begin(c) : nbd_command_reject(c)))
            return false;
        on_admitted(c);
        return true;
    case NBD_RX_PIECE:
        c->piece = nbd_write_piece(c, c->command);
        if (!c->piece) {
            nbd_wait_for_changes(c);
            return false;
        }
        rx_enter(c, NBD_RX_PAYLOAD);
        return true;
    case NBD_RX_PAYLOAD:
        if (!take(c, c->piece->buf->data, c->piece->length_bytes)) {
            receive(c);
            return false;
        }
        rx_enter(c, NBD_RX_SUBMIT);
        return true;
    case NBD_RX_SUBMIT: {
        bool last = c->command->left_bytes == 0;
        if (!nbd_write_submit(c, c->piece)) {
            nbd_wait_for_changes(c);
            return false;
        }
        c->piece = NULL;
        if (last)
            c->command = NULL;
        rx_enter(c, last ? NBD_RX_HEADER : NBD_RX_PIECE);
        return true;
    }
    }
    return false;
}

static void parse(struct nbd_conn *c)
{
    while (c->state == NBD_CONN_SERVING && parse_step(c))
        ;
}

void nbd_conn_resume(struct nbd_conn *c)
{
    nbd_reads_resume(c);
    bool waits = c->rx == NBD_RX_ADMIT || c->rx == NBD_RX_PIECE || c->rx == NBD_RX_SUBMIT;
    if (c->state == NBD_CONN_SERVING && waits && !c->recv_op.busy)
        parse(c);
}

/* Negotiating */

static void begin_serving(struct nbd_conn *c)
{
    if (!c->server->serving) {
        nbd_conn_end(c, NOTE_INFO, "the volume stopped being served here");
        return;
    }
    c->state = NBD_CONN_SERVING;
    c->session = c->negotiation.session;
    rx_enter(c, NBD_RX_HEADER);
    nbd_note(c->server, NOTE_INFO, "NBD client %s is connected%s", c->name,
             c->session.structured ? "" : ", without structured replies");
    scatter_reset(&c->scatter);
    if (c->in_bytes > 0) {
        scatter_post(&c->scatter, c->in, c->in_bytes);
        scatter_received(&c->scatter, c->in_bytes);
    }
    parse(c);
}

static void negotiate(struct nbd_conn *c)
{
    struct nbd_negotiation *n = &c->negotiation;
    for (;;) {
        if (n->phase == NBD_PHASE_TRANSMISSION) {
            begin_serving(c);
            return;
        }
        if (n->phase == NBD_PHASE_END) {
            nbd_conn_end(c, n->reason[0] ? NOTE_WARNING : NOTE_INFO, n->reason[0] ? n->reason : "it only looked");
            return;
        }
        size_t out = 0;
        size_t used = nbd_negotiate(n, &c->server->export, c->in, c->in_bytes, c->out, &out);
        c->in_bytes -= used;
        memmove(c->in, c->in + used, c->in_bytes);
        if (out > 0) {
            nbd_send_plain(c, c->out, out);
            return;
        }
        if (used == 0) {
            receive(c);
            return;
        }
    }
}

void nbd_negotiation_sent(struct nbd_conn *c) { negotiate(c); }

/* Coming and going */

void nbd_conn_begin(struct nbd_server *s, int fd, const char *name)
{
    struct nbd_conn *c = s->conns;
    while (c->state != NBD_CONN_FREE)
        c++;
    assert(c < s->conns + NBD_CONNECTIONS_MAX);
    int slot = ring_register_file(s->ring, fd);
    if (slot < 0) {
        nbd_note(s, NOTE_WARNING, "NBD client %s is turned away: no file slot is free: %s", name, strerror(-slot));
        close(fd);
        return;
    }
    s->connection_count++;
    c->state = NBD_CONN_NEGOTIATING;
    c->fd = fd;
    c->file = (struct ring_file) { slot };
    snprintf(c->name, sizeof(c->name), "%s", name);
    c->since_ns = ring_now_ns(s->ring);
    c->active = true;
    c->rejected = false;
    c->in_bytes = 0;
    c->guess_want = 0;
    c->guess_bytes = 0;
    c->writes_seen = 0;
    c->others_seen = 0;
    rx_enter(c, NBD_RX_HEADER);
    scatter_reset(&c->scatter);
    nbd_negotiation_begin(&c->negotiation, c->out);
    nbd_send_plain(c, c->out, NBD_GREETING_BYTES);
}

void nbd_conn_init(struct nbd_server *s, struct nbd_conn *c)
{
    c->server = s;
    c->state = NBD_CONN_FREE;
    c->recv_op.done = recv_done;
    c->send_op.done = nbd_send_done;
    list_init(&c->commands);
    list_init(&c->wait_read_link);
    list_init(&c->wait_change_link);
    list_init(&c->resting);
    list_init(&c->answers);
    list_init(&c->sending);
    list_init(&c->behind);
    list_init(&c->turns);
    list_init(&c->ready_link);
}

void nbd_conn_end(struct nbd_conn *c, enum note_level level, const char *reason)
{
    if (!is_open(c))
        return;
    struct nbd_server *s = c->server;
    nbd_note(s, level, "NBD client %s is disconnected: %s", c->name, reason);
    s->held_count -= c->state == NBD_CONN_HELD;
    c->state = NBD_CONN_ENDING;
    list_remove(&c->wait_read_link);
    list_remove(&c->wait_change_link);
    list_remove(&c->ready_link);
    shutdown(c->fd, SHUT_RDWR);
    if (c->recv_op.busy)
        ring_cancel(s->ring, &c->recv_op);
    if (c->send_op.busy)
        ring_cancel(s->ring, &c->send_op);
    nbd_conn_check_free(c);
}

/* The ring has let go of what it holds: all of it is given back. What the sink is busy with is nobody's from now on. */
static void give_all_back(struct nbd_conn *c)
{
    nbd_write_abandon(c);
    c->guess_bytes = 0;
    guesses_drop(c, 0);
    scatter_reset(&c->scatter);
    nbd_commands_detach(c);
    nbd_send_drop_all(c);
    list_remove(&c->ready_link);
    list_remove(&c->wait_read_link);
    list_remove(&c->wait_change_link);
    nbd_shares_forget(c);
    c->server->released = true;
}

void nbd_conn_check_free(struct nbd_conn *c)
{
    if (c->state != NBD_CONN_ENDING || c->recv_op.busy || c->send_op.busy)
        return;
    struct nbd_server *s = c->server;
    give_all_back(c);
    ring_unregister_file(s->ring, c->file.slot);
    close(c->fd);
    c->state = NBD_CONN_FREE;
    s->connection_count--;
    nbd_server_check_closed(s);
}

static unsigned unanswered(const struct nbd_conn *c)
{
    unsigned count = c->state == NBD_CONN_SERVING && c->rx == NBD_RX_ADMIT && !c->command;
    list_for_each (node, &c->commands)
        count++;
    return count;
}

void nbd_conn_hold(struct nbd_conn *c)
{
    if (c->state != NBD_CONN_SERVING && c->state != NBD_CONN_DRAINING)
        return;
    c->unanswered = unanswered(c);
    c->state = NBD_CONN_HELD;
    c->server->held_count++;
    /* Now, and not when the ring lets go: what fails next would be answered, or disconnect it. */
    if (!c->recv_op.busy)
        nbd_write_abandon(c);
    nbd_commands_detach(c);
    /* Also answers that were under way: a client that does not take them would keep their buffers. */
    if (c->recv_op.busy)
        ring_cancel(c->server->ring, &c->recv_op);
    if (c->send_op.busy)
        ring_cancel(c->server->ring, &c->send_op);
    nbd_conn_check_held(c);
}

void nbd_conn_check_held(struct nbd_conn *c)
{
    if (c->state == NBD_CONN_HELD && !c->recv_op.busy && !c->send_op.busy)
        give_all_back(c);
}

unsigned nbd_conn_waiting(const struct nbd_conn *c)
{
    int unread_bytes = 0;
    bool unread = ioctl(c->fd, FIONREAD, &unread_bytes) == 0 && unread_bytes > 0;
    return c->unanswered + unread;
}

void nbd_conn_drain(struct nbd_conn *c)
{
    if (c->state != NBD_CONN_SERVING)
        return;
    c->state = NBD_CONN_DRAINING;
    c->drain_ns = ring_now_ns(c->server->ring);
    c->progress_ns = c->drain_ns;
    if (c->recv_op.busy)
        ring_cancel(c->server->ring, &c->recv_op);
    else
        nbd_write_abandon(c);
    nbd_conn_check_drained(c);
}

void nbd_conn_check_drained(struct nbd_conn *c)
{
    if (c->state == NBD_CONN_DRAINING && !c->recv_op.busy && !c->send_op.busy && list_empty(&c->commands) &&
        list_empty(&c->answers) && list_empty(&c->sending))
        nbd_conn_end(c, NOTE_INFO, c->server->serving ? "it is done" : "the volume is no longer served here");
}

static bool sink_has_some(const struct nbd_conn *c)
{
    list_for_each (node, &c->commands) {
        if (container_of(node, struct nbd_command, link)->in_sink > 0)
            return true;
    }
    return false;
}

bool nbd_conn_waits_for_sink(const struct nbd_conn *c)
{
    return c->state == NBD_CONN_DRAINING && !c->recv_op.busy && !c->send_op.busy && sink_has_some(c);
}

/* Closed both ways, as far as can be told: over TCP a client that only stopped sending looks the same. */
static bool has_hung_up(const struct nbd_conn *c)
{
    struct pollfd p = { .fd = c->fd };
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

/* ... which is enough where it will not be answered: it wants no more. */
static bool has_stopped_sending(const struct nbd_conn *c)
{
    struct pollfd p = { .fd = c->fd, .events = POLLRDHUP };
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

void nbd_conn_tick(struct nbd_conn *c, uint64_t now_ns)
{
    struct nbd_server *s = c->server;
    if (c->state == NBD_CONN_HELD) {
        if (has_stopped_sending(c))
            nbd_conn_end(c, NOTE_INFO, "it left while it was held");
        return;
    }
    if (c->state == NBD_CONN_NEGOTIATING && now_ns - c->since_ns > (s->closing ? 0 : NBD_NEGOTIATION_NS)) {
        nbd_conn_end(c, NOTE_WARNING, s->closing ? "shutting down" : "it took too long to negotiate");
        return;
    }
    if (c->state == NBD_CONN_DRAINING) {
        if (has_hung_up(c))
            nbd_conn_end(c, NOTE_INFO, "it left without waiting for its answers");
        else if (sink_has_some(c))
            c->progress_ns = now_ns;
        else if (now_ns - c->progress_ns > (s->closing ? NBD_CLOSE_NS : NBD_DRAIN_NS))
            nbd_conn_end(c, NOTE_WARNING, "it does not read its answers");
        return;
    }
    unsigned keep = c->guess_bytes <= NBD_IDLE_GUESS_BYTES_MAX ? 1 : 0;
    bool idle = c->state == NBD_CONN_SERVING && !c->active && c->recv_op.busy && c->rx == NBD_RX_HEADER;
    if (idle && c->guess_count > keep && !c->trim) {
        c->guess_want = keep;
        c->trim = true;
        ring_cancel(s->ring, &c->recv_op);
    }
    c->active = false;
}
