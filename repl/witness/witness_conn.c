/* The embedded witness's clients: questions in, answers out, and the end of those who do it wrong. */
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/base/net_address.h"
#include "repl/witness/witness_internal.h"
#include "repl/witness/witness_keepalive.h"

#define BACKLOG 128
#define ACCEPTS_AT_ONCE 32

/* ---- ends ---- */

static void drop(struct witness *w, struct conn *c, const char *why)
{
    if (c->dead)
        return;
    c->dead = true;
    if (why)
        witness_tell(w, NULL, NOTE_WARNING, "%s: %s; its connection was closed", c->who, why);
    /* Nothing may come of it any more; its memory stays until the end of the round. */
    epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1;
}

static void conn_free(struct witness *w, struct conn *c)
{
    assert(c->pending == 0);
    list_remove(&c->link);
    w->conn_count--;
    free(c);
}

/* ---- sending ---- */

void conn_answer(struct conn *c, uint64_t number, const struct register_answer *answer)
{
    assert(c->out_used + WITNESS_FRAME_BYTES_MAX <= sizeof(c->out));
    c->out_used += witness_answer_encode(c->out + c->out_used, number, answer);
}

static bool has_room(const struct conn *c)
{
    return c->out_used + (c->pending + 1) * (size_t)WITNESS_FRAME_BYTES_MAX <= sizeof(c->out);
}

static void watch(struct witness *w, struct conn *c)
{
    uint32_t events = (has_room(c) ? EPOLLIN : 0U) | (c->out_used ? EPOLLOUT : 0U);
    if (c->dead || c->events == events)
        return;
    struct epoll_event ev = { .events = events, .data.ptr = c };
    int rc = epoll_ctl(w->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
    assert(rc == 0);
    c->events = events;
}

static void flush(struct witness *w, struct conn *c)
{
    size_t sent = 0;
    while (!c->dead && sent < c->out_used) {
        ssize_t n = send(c->fd, c->out + sent, c->out_used - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            drop(w, c, strerror(errno));
        if (n < 0)
            break;
        sent += (size_t)n;
    }
    c->out_used -= sent;
    memmove(c->out, c->out + sent, c->out_used);
    if (c->out_used == 0)
        c->out_until_ns = UINT64_MAX;
    else if (sent || c->out_until_ns == UINT64_MAX) /* it reads: its patience begins anew */
        c->out_until_ns = clock_ns() + w->options.unread_ns_max;
}

/* ---- receiving ---- */

static void say_version(struct conn *c, uint64_t number)
{
    struct register_answer a = { .outcome = REGISTER_REFUSED };
    snprintf(a.reason, sizeof(a.reason), "the witness speaks version %u of the protocol, and the node another",
             WITNESS_VERSION);
    conn_answer(c, number, &a);
}

static void take_question(struct witness *w, struct conn *c, const uint8_t *message, size_t bytes)
{
    if (w->batch_count == BATCH_MAX)
        batch_run(w);
    struct pending *p = &w->batch[w->batch_count];
    const char *why = NULL;
    int rc = witness_question_decode(message, bytes, &p->number, &p->request, &why);
    if (rc == -EPROTONOSUPPORT) {
        say_version(c, p->number);
        return;
    }
    if (rc) {
        char text[128];
        snprintf(text, sizeof(text), "sent %s", why);
        drop(w, c, text);
        return;
    }
    c->asked = true;
    p->conn = c;
    c->pending++;
    w->batch_count++;
}

/* Takes the whole questions that are there, as long as there is room for their answers. */
static void take(struct witness *w, struct conn *c)
{
    size_t taken = 0;
    bool waits_for_room = false;
    while (!c->dead) {
        int64_t whole = witness_frame_bytes(c->in + taken, c->in_used - taken);
        if (whole < 0) {
            drop(w, c, "sent a message of a length that none has");
            return;
        }
        if (whole == 0 || c->in_used - taken < (size_t)whole)
            break;
        waits_for_room = !has_room(c);
        if (waits_for_room)
            break;
        take_question(w, c, c->in + taken + WITNESS_PREFIX_BYTES, (size_t)whole - WITNESS_PREFIX_BYTES);
        taken += (size_t)whole;
    }
    c->in_used -= taken;
    memmove(c->in, c->in + taken, c->in_used);
    if (waits_for_room || (c->in_used == 0 && c->asked))
        c->in_until_ns = UINT64_MAX;
    else if (taken || c->in_until_ns == UINT64_MAX)
        c->in_until_ns = clock_ns() + w->options.question_ns_max;
}

static void receive(struct witness *w, struct conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_used, sizeof(c->in) - c->in_used, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        drop(w, c, n < 0 ? strerror(errno) : c->in_used ? "ended in the middle of a message" : NULL);
        return;
    }
    c->in_used += (size_t)n;
    c->heard_ns = clock_ns();
    take(w, c);
}

void conn_step(struct witness *w, struct conn *c, uint32_t events)
{
    if (!c->dead && (events & EPOLLOUT))
        flush(w, c);
    if (!c->dead && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
        if (c->in_used < sizeof(c->in))
            receive(w, c);
        else if (events & (EPOLLHUP | EPOLLERR))
            drop(w, c, NULL);
    }
}

uint64_t conns_sweep(struct witness *w)
{
    uint64_t due_ns = UINT64_MAX;
    /* What waited for room in its connection's answers may be taken now: until no question is left. */
    do {
        batch_run(w);
        list_for_each (link, &w->conns) {
            struct conn *c = container_of(link, struct conn, link);
            if (c->out_used)
                flush(w, c);
            if (!c->dead && c->in_used)
                take(w, c);
        }
    } while (w->batch_count > 0);
    uint64_t now_ns = clock_ns();
    list_for_each_safe (link, &w->conns) {
        struct conn *c = container_of(link, struct conn, link);
        if (c->in_until_ns <= now_ns)
            drop(w, c, c->asked ? "did not finish a message in time" : "asked nothing in time");
        if (c->out_until_ns <= now_ns)
            drop(w, c, "did not read its answers in time");
        if (c->dead) {
            conn_free(w, c);
            continue;
        }
        watch(w, c);
        due_ns = min_u64(due_ns, min_u64(c->in_until_ns, c->out_until_ns));
    }
    return due_ns;
}

void conns_close(struct witness *w)
{
    while (!list_empty(&w->conns)) {
        struct conn *c = container_of(list_first(&w->conns), struct conn, link);
        if (c->fd >= 0)
            close(c->fd);
        conn_free(w, c);
    }
    if (w->listen_fd >= 0)
        close(w->listen_fd);
}

/* ---- arriving ---- */

static void name_of(const struct sockaddr *addr, socklen_t bytes, char *out, size_t out_bytes)
{
    char host[INET6_ADDRSTRLEN];
    char port[8];
    if (getnameinfo(addr, bytes, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(out, out_bytes, "?");
    else
        snprintf(out, out_bytes, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* Whoever was silent longest, and above all who never asked anything. */
static void make_room(struct witness *w)
{
    struct conn *oldest = NULL;
    list_for_each (link, &w->conns) {
        struct conn *c = container_of(link, struct conn, link);
        if (c->dead || c->pending)
            continue;
        if (!oldest || (!c->asked && oldest->asked) || (c->asked == oldest->asked && c->heard_ns < oldest->heard_ns))
            oldest = c;
    }
    if (!oldest)
        return;
    drop(w, oldest, "was silent longest of too many clients");
    conn_free(w, oldest);
}

static void add(struct witness *w, int fd, const struct sockaddr_storage *addr, socklen_t bytes)
{
    if (w->conn_count == WITNESS_CONNECTIONS_MAX)
        make_room(w);
    struct conn *c = w->conn_count < WITNESS_CONNECTIONS_MAX ? calloc(1, sizeof(*c)) : NULL;
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };
    if (!c || epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        witness_tell(w, NULL, NOTE_WARNING, "a client was turned away: too many, or no memory");
        close(fd);
        free(c);
        return;
    }
    witness_keep_alive(fd);
    c->fd = fd;
    c->events = EPOLLIN;
    c->heard_ns = clock_ns();
    c->in_until_ns = c->heard_ns + w->options.question_ns_max;
    c->out_until_ns = UINT64_MAX;
    name_of((const struct sockaddr *)addr, bytes, c->who, sizeof(c->who));
    list_append(&w->conns, &c->link);
    w->conn_count++;
}

void conns_accept(struct witness *w)
{
    for (unsigned i = 0; i < ACCEPTS_AT_ONCE; i++) {
        struct sockaddr_storage addr;
        socklen_t bytes = sizeof(addr);
        int fd = accept4(w->listen_fd, (struct sockaddr *)&addr, &bytes, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0) {
            if (errno != EAGAIN)
                witness_tell(w, NULL, NOTE_WARNING, "a client could not be accepted: %s", strerror(errno));
            return;
        }
        add(w, fd, &addr, bytes);
    }
}

int conns_listen(struct witness *w, struct err *err)
{
    struct net_address a;
    int rc = net_address_resolve(w->options.listen, true, &a, err);
    if (rc)
        return rc;
    w->listen_fd = socket(a.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    struct sockaddr_storage bound = { 0 };
    socklen_t bytes = sizeof(bound);
    if (w->listen_fd < 0 || setsockopt(w->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(w->listen_fd, (const struct sockaddr *)&a.addr, a.bytes) < 0 || listen(w->listen_fd, BACKLOG) < 0 ||
        getsockname(w->listen_fd, (struct sockaddr *)&bound, &bytes) < 0)
        return err_set(err, -errno, "witness: %s cannot be listened on: %s", w->options.listen, strerror(errno));
    name_of((const struct sockaddr *)&bound, bytes, w->address, sizeof(w->address));
    return 0;
}
