/* The control socket: one request of each client, and the answers back. */
#include "repl/node/control.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/base/list.h"
#include "repl/base/scoped.h"

#define IN_BYTES (CONTROL_PREFIX_BYTES + CONTROL_MESSAGE_BYTES_MAX)
#define OUT_BYTES (64 * 1024)
#define OUT_BYTES_FOR_RESULT CONTROL_FRAME_BYTES_MAX /* kept free, so that a result always fits */
#define EVENTS_AT_ONCE 32
/* So that the requests of those who were let in are read before more come. */
#define ACCEPTS_AT_ONCE (EVENTS_AT_ONCE / 2)
static_assert(OUT_BYTES >= 2 * CONTROL_FRAME_BYTES_MAX, "a message and a result fit");

enum client_state {
    CLIENT_ASKING,   /* its request is not all there */
    CLIENT_ANSWERED, /* the owner has the request and answers */
    CLIENT_ENDING,   /* the result is queued: closed when all has left */
};

struct control_client {
    struct list link;
    struct control *control;
    void *user;
    enum client_state state;
    int fd;
    uint32_t events;      /* that epoll watches */
    uint64_t deadline_ns; /* UINT64_MAX: none */
    bool wants_writable;  /* control_send() had no room */
    bool finished;        /* it sends no more, but may still read */
    size_t in_used;
    size_t out_sent;
    size_t out_used;
    uint8_t *in; /* IN_BYTES; NULL once the request is there */
    uint8_t out[OUT_BYTES];
};

struct control {
    struct control_config config;
    struct list clients;
    unsigned client_count;
    int epoll_fd;
    int listen_fd;
    int lock_fd;
    char path[CONFIG_SOCKET_BYTES];
};

static void say(struct control *c, enum log_level level, const char *text)
{
    c->config.log(c->config.ctx, level, text);
}

/* ---- clients ---- */

static void client_free(struct control_client *client)
{
    list_remove(&client->link);
    client->control->client_count--;
    /* Not left to close(): a hook that is just being started has a copy of every descriptor until it is a program of
     * its own, and for as long events would come for memory that is gone. */
    int rc = epoll_ctl(client->control->epoll_fd, EPOLL_CTL_DEL, client->fd, NULL);
    assert(rc == 0);
    close(client->fd);
    free(client->in);
    free(client);
}

/* Ends a client from our side; its owner, if it has the request, hears of it. */
static void client_drop(struct control_client *client)
{
    struct control *c = client->control;
    if (client->state == CLIENT_ANSWERED)
        c->config.gone(c->config.ctx, client);
    client_free(client);
}

static void client_watch(struct control_client *client, bool output)
{
    uint32_t events = (client->finished ? 0 : EPOLLIN) | (output ? EPOLLOUT : 0);
    if (client->events == events)
        return;
    struct epoll_event ev = { .events = events, .data.ptr = client };
    int rc = epoll_ctl(client->control->epoll_fd, EPOLL_CTL_MOD, client->fd, &ev);
    assert(rc == 0);
    client->events = events;
}

/* Sends what is queued. False: the client was dropped. */
static bool client_flush(struct control_client *client)
{
    struct control *c = client->control;
    while (client->out_sent < client->out_used) {
        ssize_t n = send(client->fd, client->out + client->out_sent, client->out_used - client->out_sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            client_watch(client, true);
            return true;
        }
        if (n < 0) {
            client_drop(client);
            return false;
        }
        client->out_sent += (size_t)n;
        client->deadline_ns = clock_ns() + c->config.unread_ns_max; /* it reads: its patience begins anew */
    }
    client->out_sent = 0;
    client->out_used = 0;
    client->deadline_ns = UINT64_MAX;
    if (client->state == CLIENT_ENDING) {
        client_free(client);
        return false;
    }
    client_watch(client, false);
    return true;
}

bool control_send(struct control_client *client, const uint8_t *frame, size_t bytes)
{
    assert(client->state == CLIENT_ANSWERED && bytes <= CONTROL_FRAME_BYTES_MAX);
    if (client->out_used + bytes + OUT_BYTES_FOR_RESULT > sizeof(client->out)) {
        client->wants_writable = true;
        return false;
    }
    memcpy(client->out + client->out_used, frame, bytes);
    client->out_used += bytes;
    /* From now on, not from the first EAGAIN: epoll calls a socket writable only when most of its buffer is free. */
    if (client->deadline_ns == UINT64_MAX)
        client->deadline_ns = clock_ns() + client->control->config.unread_ns_max;
    /* Sent by the next control_step(), so that nothing is called back from here. */
    client_watch(client, true);
    return true;
}

void control_end(struct control_client *client, enum control_exit code, const char *text)
{
    assert(client->state != CLIENT_ENDING);
    assert(client->out_used + OUT_BYTES_FOR_RESULT <= sizeof(client->out));
    client->out_used += control_encode_result(client->out + client->out_used, code, text);
    client->state = CLIENT_ENDING;
    client->deadline_ns = clock_ns() + client->control->config.unread_ns_max;
    client_watch(client, true);
}

void control_set_user(struct control_client *client, void *user) { client->user = user; }
void *control_user(const struct control_client *client) { return client->user; }

/* The bytes at the beginning may be a request by now. */
static void client_consider(struct control_client *client)
{
    struct control *c = client->control;
    int64_t whole = control_frame_bytes(client->in, client->in_used);
    if (whole < 0) {
        say(c, LOG_LEVEL_WARNING, "control socket: a client sent a message of a size that no request has; closed");
        control_end(client, CONTROL_USED_WRONGLY, "that is no request: its length is none that a request has");
        return;
    }
    if (whole == 0 || client->in_used < (size_t)whole)
        return;
    struct control_request request;
    struct err err = { 0 };
    int rc = client->in_used > (size_t)whole
                 ? err_set(&err, -EPROTO, "more than one request was sent on one connection")
                 : control_request_decode(client->in + CONTROL_PREFIX_BYTES, (size_t)whole - CONTROL_PREFIX_BYTES,
                                          &request, &err);
    free(client->in);
    client->in = NULL;
    if (rc) {
        char text[sizeof(err.text) + 64];
        snprintf(text, sizeof(text), "control socket: a client was refused: %s", err.text);
        say(c, LOG_LEVEL_WARNING, text);
        control_end(client, rc == -EPROTONOSUPPORT ? CONTROL_FAILED : CONTROL_USED_WRONGLY, err.text);
        return;
    }
    client->state = CLIENT_ANSWERED;
    client->deadline_ns = UINT64_MAX;
    c->config.request(c->config.ctx, client, &request);
}

static void client_readable(struct control_client *client)
{
    struct control *c = client->control;
    uint8_t surplus[512];
    bool asking = client->state == CLIENT_ASKING;
    uint8_t *to = asking ? client->in + client->in_used : surplus;
    size_t room = asking ? IN_BYTES - client->in_used : sizeof(surplus);
    ssize_t n = recv(client->fd, to, room, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (client->state == CLIENT_ENDING && n >= 0) {
        /* It may still be sending what was refused, or be done with sending and read on. */
        client->finished = n == 0;
        client_watch(client, true);
        return;
    }
    if (n > 0 && !asking)
        say(c, LOG_LEVEL_WARNING, "control socket: a client sent more than its request; closed");
    if (n <= 0 || !asking) {
        client_drop(client);
        return;
    }
    client->in_used += (size_t)n;
    client_consider(client);
}

/* Who has not said what he wants makes room for who may: silence must not keep a command out. */
static void make_room(struct control *c)
{
    list_for_each (link, &c->clients) {
        struct control_client *client = container_of(link, struct control_client, link);
        if (client->state != CLIENT_ASKING)
            continue;
        client_drop(client);
        return;
    }
}

static void accept_clients(struct control *c)
{
    for (unsigned i = 0; i < ACCEPTS_AT_ONCE; i++) {
        int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && errno == EINTR)
            continue;
        if (fd < 0) {
            if (errno != EAGAIN && errno != ECONNABORTED)
                say(c, LOG_LEVEL_WARNING,
                    "control socket: a client could not be accepted: out of descriptors or memory");
            return;
        }
        if (c->client_count == CONTROL_CLIENTS_MAX)
            make_room(c);
        struct control_client *client = c->client_count < CONTROL_CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
        uint8_t *in = client ? malloc(IN_BYTES) : NULL;
        struct epoll_event ev = { .events = EPOLLIN, .data.ptr = client };
        if (!in || epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
            uint8_t frame[CONTROL_FRAME_BYTES_MAX];
            size_t bytes = control_encode_result(frame, CONTROL_FAILED,
                                                 "lockstepd has too many clients on its control socket; try again");
            (void)!send(fd, frame, bytes, MSG_NOSIGNAL | MSG_DONTWAIT); /* it is closed in any case */
            close(fd);
            free(in);
            free(client);
            continue;
        }
        client->control = c;
        client->fd = fd;
        client->in = in;
        client->events = EPOLLIN;
        client->state = CLIENT_ASKING;
        client->deadline_ns = clock_ns() + c->config.request_ns_max;
        list_append(&c->clients, &client->link);
        c->client_count++;
    }
}

static void client_step(struct control_client *client, uint32_t events)
{
    if (events & EPOLLOUT) {
        if (!client_flush(client))
            return;
        if (client->wants_writable && client->out_used == 0 && client->state == CLIENT_ANSWERED) {
            client->wants_writable = false;
            struct control *c = client->control;
            c->config.writable(c->config.ctx, client); /* may end it, but does not free it */
        }
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        client_readable(client);
}

static void drop_late(struct control *c)
{
    uint64_t now = clock_ns();
    list_for_each_safe (link, &c->clients) {
        struct control_client *client = container_of(link, struct control_client, link);
        if (client->deadline_ns > now)
            continue;
        say(c, LOG_LEVEL_WARNING,
            client->state == CLIENT_ASKING ? "control socket: a client did not finish its request in time; closed"
                                           : "control socket: a client did not read its answer in time; closed");
        client_drop(client);
    }
}

void control_step(struct control *c)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int n = epoll_wait(c->epoll_fd, events, EVENTS_AT_ONCE, 0);
    /* A client is freed only by its own event, or after the batch, so that its pointers stay valid. */
    bool newcomers = false;
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr)
            client_step(events[i].data.ptr, events[i].events);
        else
            newcomers = true;
    }
    drop_late(c);
    if (newcomers)
        accept_clients(c);
}

int control_fd(const struct control *c) { return c->epoll_fd; }

uint64_t control_deadline_ns(const struct control *c)
{
    uint64_t earliest = UINT64_MAX;
    list_for_each (link, &c->clients) {
        earliest = min_u64(earliest, container_of(link, struct control_client, link)->deadline_ns);
    }
    return earliest;
}

/* ---- the socket ---- */

/* A second daemon must not take the first one's socket away, also not when both start in the same instant. */
static int take_lock(const char *path, struct err *err)
{
    char lock[CONFIG_SOCKET_BYTES + 8];
    snprintf(lock, sizeof(lock), "%s.lock", path);
    int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, -errno, "control socket: %s cannot be made: %s", lock, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int rc = errno == EWOULDBLOCK
                     ? err_set(err, -EADDRINUSE, "control socket: another lockstepd listens on %s", path)
                     : err_set(err, -errno, "control socket: %s: %s", lock, strerror(errno));
        close(fd);
        return rc;
    }
    return fd;
}

/* Removes what an ended daemon left behind; anything else is an error. */
static int clear_the_place(const char *path, const struct sockaddr_un *addr, struct err *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_set(err, -errno, "control socket: %s: %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, -EEXIST, "control socket: %s is there and is no socket; name another with --control", path);
    CLEANUP_CLOSE int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return err_set(err, -errno, "control socket: %s", strerror(errno));
    if (connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN)
        return err_set(err, -EADDRINUSE, "control socket: something listens on %s already", path);
    if (errno != ECONNREFUSED)
        return err_set(err, -errno, "control socket: %s: %s", path, strerror(errno));
    if (unlink(path) < 0 && errno != ENOENT)
        return err_set(err, -errno, "control socket: the stale %s cannot be removed: %s", path, strerror(errno));
    return 0;
}

static int make_socket(const char *path, struct err *err)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    memcpy(addr.sun_path, path, strlen(path) + 1); /* its length was checked */
    int rc = clear_the_place(path, &addr, err);
    if (rc)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, -errno, "control socket: %s", strerror(errno));
    /* Before bind(): Linux gives the file the socket's mode, so that it never stands open to others. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        listen(fd, CONTROL_CLIENTS_MAX) < 0) {
        rc = err_set(err, -errno, "control socket: %s cannot be made: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    return fd;
}

struct control *control_open(const struct control_config *config, struct err *err)
{
    if (strlen(config->path) >= CONFIG_SOCKET_BYTES || !*config->path) {
        err_set(err, -ENAMETOOLONG, "control socket: expected a name of 1 to %d bytes, found %s",
                CONFIG_SOCKET_BYTES - 1, config->path);
        return NULL;
    }
    struct control *c = calloc(1, sizeof(*c));
    if (!c) {
        err_set(err, -ENOMEM, "control socket: out of memory");
        return NULL;
    }
    c->config = *config;
    if (!c->config.request_ns_max)
        c->config.request_ns_max = CONTROL_REQUEST_NS_MAX;
    if (!c->config.unread_ns_max)
        c->config.unread_ns_max = CONTROL_UNREAD_NS_MAX;
    memcpy(c->path, config->path, strlen(config->path) + 1);
    list_init(&c->clients);
    c->epoll_fd = -1;
    c->listen_fd = -1;
    c->lock_fd = take_lock(c->path, err);
    if (c->lock_fd >= 0)
        c->listen_fd = make_socket(c->path, err);
    if (c->listen_fd >= 0) {
        c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };
        if (c->epoll_fd < 0 || epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->listen_fd, &ev) < 0)
            err_set(err, -errno, "control socket: %s", strerror(errno));
        else
            return c;
    }
    control_close(c);
    return NULL;
}

void control_close(struct control *c)
{
    while (!list_empty(&c->clients))
        client_free(container_of(list_first(&c->clients), struct control_client, link));
    if (c->listen_fd >= 0) {
        unlink(c->path);
        close(c->listen_fd);
    }
    if (c->epoll_fd >= 0)
        close(c->epoll_fd);
    if (c->lock_fd >= 0)
        close(c->lock_fd);
    free(c);
}
