/* The NBD server: listens, accepts, keeps time, opens and closes. */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "blockdev/front/nbd.h"
#include "repl/base/scoped.h"

#define NBD_BACKLOG 128
#define NBD_SOCKET_MODE 0660
#define NBD_BLOCK_BYTES_MIN 512
#define NBD_BLOCK_BYTES_PREFERRED 4096

/* Keep-alives on TCP: a client whose machine vanished is gone after about a minute. */
#define NBD_KEEPALIVE_IDLE_S 30
#define NBD_KEEPALIVE_INTERVAL_S 10
#define NBD_KEEPALIVE_PROBES 3

static const char *const no_reason_yet = "the volume is not served here yet";

static struct nbd_server *server_of(const struct front *f) { return container_of(f, struct nbd_server, front); }

static void tick_set(struct nbd_server *s)
{
    if (!s->tick.set)
        ring_timer_set(s->ring, &s->tick, ring_now_ns(s->ring) + NBD_TICK_NS);
}

static void warnings_end(struct nbd_server *s)
{
    char text[ACTION_TEXT_BYTES];
    if (s->warnings_untold) {
        snprintf(text, sizeof(text), "NBD clients: %u more warnings in the last %u s, which are not told",
                 s->warnings_untold, (unsigned)(NBD_WARNINGS_NS / NS_PER_S));
        s->front.sink.note(s->front.sink.ctx, NOTE_WARNING, text);
    }
    s->warnings_since_ns = 0;
    s->warnings = 0;
    s->warnings_untold = 0;
}

static void warnings_tick(struct nbd_server *s)
{
    if (s->warnings_since_ns && ring_now_ns(s->ring) - s->warnings_since_ns >= NBD_WARNINGS_NS)
        warnings_end(s);
}

static bool warning_is_due(struct nbd_server *s)
{
    warnings_tick(s);
    if (s->warnings == NBD_WARNINGS_MAX) {
        s->warnings_untold++;
        return false;
    }
    if (!s->warnings_since_ns)
        s->warnings_since_ns = ring_now_ns(s->ring);
    s->warnings++;
    tick_set(s);
    return true;
}

void nbd_note(struct nbd_server *s, enum note_level level, const char *format, ...)
{
    char text[ACTION_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    if (level != NOTE_WARNING || warning_is_due(s))
        s->front.sink.note(s->front.sink.ctx, level, text);
}

/* Clients */

static void name_client(int fd, char *name, size_t bytes)
{
    struct sockaddr_storage addr;
    socklen_t addr_bytes = sizeof(addr);
    char host[INET6_ADDRSTRLEN] = "?";
    memset(&addr, 0, sizeof(addr));
    if (getpeername(fd, (struct sockaddr *)&addr, &addr_bytes) == 0 && addr.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&addr;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(name, bytes, "%s:%u", host, ntohs(in->sin_port));
    } else if (addr.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&addr;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        snprintf(name, bytes, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        struct ucred who = { 0 };
        socklen_t who_bytes = sizeof(who);
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &who_bytes);
        snprintf(name, bytes, "pid %d", who.pid);
    }
}

static void set_tcp_options(int fd)
{
    /* Best effort: a client is served without them, too. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int) { 1 }, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int) { 1 }, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int) { NBD_KEEPALIVE_IDLE_S }, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int) { NBD_KEEPALIVE_INTERVAL_S }, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int) { NBD_KEEPALIVE_PROBES }, sizeof(int));
}

/* Who left first, and waits for the sink since: the least likely to be there still. */
static void make_room(struct nbd_server *s)
{
    struct nbd_conn *first = NULL;
    for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++) {
        struct nbd_conn *c = &s->conns[i];
        if (nbd_conn_waits_for_sink(c) && (!first || c->drain_ns < first->drain_ns))
            first = c;
    }
    if (first)
        nbd_conn_end(first, NOTE_INFO, "it had left, and its place is needed");
}

static void on_client(struct nbd_server *s, int fd)
{
    char name[80];
    if (s->closing) {
        close(fd);
        return;
    }
    name_client(fd, name, sizeof(name));
    if (s->connection_count == NBD_CONNECTIONS_MAX)
        make_room(s);
    if (s->connection_count == NBD_CONNECTIONS_MAX) {
        if (!s->flooded)
            nbd_note(s, NOTE_WARNING, "NBD client %s is turned away: there are %d already", name, NBD_CONNECTIONS_MAX);
        s->flooded = true;
        close(fd);
        return;
    }
    s->flooded = false;
    if (s->unix_path[0] == '\0')
        set_tcp_options(fd);
    nbd_conn_begin(s, fd, name);
    tick_set(s);
}

static void accept_done(struct ring_op *op, int32_t result)
{
    struct nbd_listener *l = container_of(op, struct nbd_listener, accept_op);
    struct nbd_server *s = l->server;
    if (result >= 0)
        on_client(s, result);
    if (s->closing) {
        nbd_server_check_closed(s);
        return;
    }
    if (result == -EMFILE || result == -ENFILE || result == -ENOMEM || result == -ENOBUFS) {
        nbd_note(s, NOTE_ERROR, "NBD clients have to wait: accepting failed: %s", strerror(-result));
        /* Goes on with the next tick, not in a circle. */
        tick_set(s);
        return;
    }
    ring_accept(s->ring, &l->accept_op, l->fd);
}

static void tick(struct ring_timer *t)
{
    struct nbd_server *s = container_of(t, struct nbd_server, tick);
    for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++) {
        if (s->conns[i].state != NBD_CONN_FREE)
            nbd_conn_tick(&s->conns[i], ring_now_ns(s->ring));
    }
    for (unsigned i = 0; i < s->listener_count && !s->closing; i++) {
        if (!s->listeners[i].accept_op.busy)
            ring_accept(s->ring, &s->listeners[i].accept_op, s->listeners[i].fd);
    }
    warnings_tick(s);
    if (s->connection_count > 0 || s->warnings_since_ns)
        tick_set(s);
}

/* Waiting for room */

static void resume_waiting(struct nbd_server *s, struct list *waiting, size_t link_offset)
{
    struct list turn;
    struct list *node;
    list_init(&turn);
    /* Those who still find no room queue up again, in the same order. */
    while ((node = list_pop(waiting)))
        list_append(&turn, node);
    while ((node = list_pop(&turn)))
        nbd_conn_resume((struct nbd_conn *)(void *)((char *)node - link_offset));
}

static bool somebody_waits(const struct nbd_server *s)
{
    return !list_empty(&s->waiting_changes) || !list_empty(&s->waiting_reads);
}

static void front_nbd_resume(struct front *f)
{
    struct nbd_server *s = server_of(f);
    s->released = false;
    if (!somebody_waits(s))
        return;
    resume_waiting(s, &s->waiting_changes, offsetof(struct nbd_conn, wait_change_link));
    resume_waiting(s, &s->waiting_reads, offsetof(struct nbd_conn, wait_read_link));
}

static void resume_run(struct ring_task *task)
{
    struct nbd_server *s = container_of(task, struct nbd_server, resume_task);
    s->resume_posted = false;
    front_nbd_resume(&s->front);
    nbd_server_check_closed(s);
}

static void flush_answers(struct front *f)
{
    struct nbd_server *s = server_of(f);
    struct list *node;
    while ((node = list_pop(&s->ready)))
        nbd_send(container_of(node, struct nbd_conn, ready_link));
    /* What a client waits for may be what another one gave back just now, and nobody outside knows of that. */
    if (s->released && somebody_waits(s) && !s->resume_posted) {
        s->resume_posted = true;
        ring_post(s->ring, &s->resume_task);
    }
}

/* Opening and closing the shop */

/* At once: whoever is served later shares nothing with them. */
static void held_end(struct nbd_server *s)
{
    for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++) {
        if (s->conns[i].state == NBD_CONN_HELD)
            nbd_conn_end(&s->conns[i], NOTE_INFO, "it was held, and that has ended");
    }
}

static void serve(struct front *f, uint64_t size_bytes, uint32_t block_bytes)
{
    struct nbd_server *s = server_of(f);
    held_end(s);
    s->export.block_min_bytes = block_bytes;
    s->export.size_bytes = align_down(size_bytes, block_bytes);
    s->export.refusal = NULL;
    s->serving = true;
}

static void drain_all(struct nbd_server *s)
{
    for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++) {
        struct nbd_conn *c = &s->conns[i];
        if (c->state == NBD_CONN_SERVING)
            nbd_conn_drain(c);
        if (c->state == NBD_CONN_DRAINING)
            nbd_reads_cut(c);
    }
}

static void turn_away(struct nbd_server *s, const char *why)
{
    snprintf(s->refusal, sizeof(s->refusal), "%s", why);
    s->export.refusal = s->refusal;
}

static void refuse(struct front *f, const char *why)
{
    struct nbd_server *s = server_of(f);
    turn_away(s, why);
    held_end(s);
    if (!s->serving)
        return;
    s->serving = false;
    drain_all(s);
}

static void hold(struct front *f, const char *why)
{
    struct nbd_server *s = server_of(f);
    turn_away(s, why);
    s->serving = false;
    for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++)
        nbd_conn_hold(&s->conns[i]);
}

static bool holds(const struct front *f) { return server_of(f)->held_count > 0; }

static struct front_held held(const struct front *f)
{
    struct front_held held = { .clients = server_of(f)->held_count };
    for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++) {
        const struct nbd_conn *c = &server_of(f)->conns[i];
        held.requests += c->state == NBD_CONN_HELD ? nbd_conn_waiting(c) : 0;
    }
    return held;
}

static bool is_quiet(const struct front *f) { return server_of(f)->in_sink == 0; }

static void listeners_close(struct nbd_server *s)
{
    for (unsigned i = 0; i < s->listener_count; i++)
        close(s->listeners[i].fd);
    s->listener_count = 0;
    struct stat st;
    bool still_ours = s->unix_path[0] && stat(s->unix_path, &st) == 0 && st.st_ino == s->unix_inode;
    if (still_ours)
        unlink(s->unix_path);
}

static void close_run(struct ring_task *task)
{
    struct nbd_server *s = container_of(task, struct nbd_server, close_task);
    void (*closed)(void *ctx) = s->closed;
    void *ctx = s->closed_ctx;
    warnings_end(s);
    ring_timer_clear(s->ring, &s->tick);
    listeners_close(s);
    free(s);
    closed(ctx);
}

void nbd_server_check_closed(struct nbd_server *s)
{
    if (!s->closing || s->close_posted || s->resume_posted || s->connection_count > 0 || s->in_sink > 0 ||
        s->maps_busy > 0)
        return;
    for (unsigned i = 0; i < s->listener_count; i++) {
        if (s->listeners[i].accept_op.busy)
            return;
    }
    assert(s->commands_free_count == ARRAY_LEN(s->commands) && s->pieces_free_count == ARRAY_LEN(s->pieces));
    assert(s->orphan_commands == 0 && s->orphan_pieces == 0);
    assert(s->read_bytes == 0);
    s->close_posted = true;
    ring_post(s->ring, &s->close_task);
}

static void front_nbd_close(struct front *f, void (*closed)(void *ctx), void *ctx)
{
    struct nbd_server *s = server_of(f);
    assert(!s->closing);
    s->closing = true;
    s->closed = closed;
    s->closed_ctx = ctx;
    s->serving = false;
    held_end(s);
    for (unsigned i = 0; i < s->listener_count; i++) {
        if (s->listeners[i].accept_op.busy)
            ring_cancel(s->ring, &s->listeners[i].accept_op);
    }
    for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++) {
        if (s->conns[i].state == NBD_CONN_NEGOTIATING)
            nbd_conn_end(&s->conns[i], NOTE_INFO, "shutting down");
    }
    drain_all(s);
    nbd_server_check_closed(s);
}

static const struct front_ops ops = {
    .serve = serve,
    .refuse = refuse,
    .hold = hold,
    .holds = holds,
    .held = held,
    .resume = front_nbd_resume,
    .flush_answers = flush_answers,
    .is_quiet = is_quiet,
    .close = front_nbd_close,
};

/* Listening */

static int add_listener(struct nbd_server *s, int fd)
{
    struct nbd_listener *l = &s->listeners[s->listener_count++];
    l->server = s;
    l->fd = fd;
    l->accept_op.done = accept_done;
    return 0;
}

/* Removes a socket that a server left behind when it was killed; anything else in its place is not ours to remove. */
static int remove_stale(const struct sockaddr_un *addr, struct err *err)
{
    struct stat st;
    if (lstat(addr->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : err_set(err, -errno, "cannot look at %s: %s", addr->sun_path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, -EEXIST, "%s exists and is no socket: choose another path or remove it", addr->sun_path);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN)
        return err_set(err, -EADDRINUSE, "somebody already listens on %s", addr->sun_path);
    if (errno != ECONNREFUSED)
        return err_set(err, -errno, "cannot tell whether somebody listens on %s: %s", addr->sun_path, strerror(errno));
    if (unlink(addr->sun_path) < 0)
        return err_set(err, -errno, "cannot remove the stale socket %s: %s", addr->sun_path, strerror(errno));
    return 0;
}

static int listen_unix(struct nbd_server *s, const char *path, struct err *err)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    if (path[0] == '\0' || strlen(path) >= sizeof(addr.sun_path))
        return err_set(err, -EINVAL, "the socket path \"%s\" must have 1 to %zu characters", path,
                       sizeof(addr.sun_path) - 1);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    int rc = remove_stale(&addr, err);
    if (rc < 0)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    add_listener(s, fd);
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return err_set(err, -errno, "cannot bind to %s: %s", path, strerror(errno));
    struct stat st;
    /* Nobody can connect before listen(), so that nobody gets in with a laxer mode. */
    if (stat(path, &st) < 0 || chmod(path, NBD_SOCKET_MODE) < 0 || listen(fd, NBD_BACKLOG) < 0) {
        rc = err_set(err, -errno, "cannot listen on %s: %s", path, strerror(errno));
        unlink(path);
        return rc;
    }
    snprintf(s->unix_path, sizeof(s->unix_path), "%s", path);
    s->unix_inode = st.st_ino;
    return 0;
}

static int listen_tcp_one(struct nbd_server *s, const struct addrinfo *ai, const char *address, struct err *err)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, -errno, "cannot make a socket for %s: %s", address, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int) { 1 }, sizeof(int));
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int) { 1 }, sizeof(int));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, NBD_BACKLOG) < 0) {
        int rc = err_set(err, -errno, "cannot listen on %s: %s", address, strerror(errno));
        close(fd);
        return rc;
    }
    return add_listener(s, fd);
}

static int listen_tcp(struct nbd_server *s, const char *address, struct err *err)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || colon[1] == '\0' || (size_t)(colon - address) >= sizeof(host))
        return err_set(err, -EINVAL, "\"%s\" is neither unix:/PATH nor HOST:PORT", address);
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = '\0';
    char *name = host;
    size_t length = strlen(host);
    if (host[0] == '[' && host[length - 1] == ']') {
        host[length - 1] = '\0';
        name++;
    }
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
    struct addrinfo *list = NULL;
    int failed = getaddrinfo(name, colon + 1, &hints, &list);
    if (failed)
        return err_set(err, -EINVAL, "cannot find the address %s: %s", address, gai_strerror(failed));
    /* A name that stands for several addresses is served if any of them is ours. */
    int rc = -EADDRNOTAVAIL;
    unsigned before = s->listener_count;
    for (const struct addrinfo *ai = list; ai && s->listener_count < NBD_LISTENERS_MAX; ai = ai->ai_next)
        rc = listen_tcp_one(s, ai, address, err);
    freeaddrinfo(list);
    return s->listener_count > before ? 0 : rc;
}

static int check_config(const struct front_config *config, struct err *err)
{
    if (strlen(config->volume) > NBD_EXPORT_NAME_BYTES_MAX)
        return err_set(err, -ENAMETOOLONG, "the volume name has more than %d characters", NBD_EXPORT_NAME_BYTES_MAX);
    if (config->pool->arena_bytes < config->keep_free_bytes + NBD_POOL_BYTES_MIN)
        return err_set(err, -EINVAL,
                       "the buffer pool of %zu bytes is too small: %zu are to be kept free, and %zu needed",
                       config->pool->arena_bytes, config->keep_free_bytes, (size_t)NBD_POOL_BYTES_MIN);
    return 0;
}

/* Half of the pool is for reads. Of each half, at most half is guaranteed; the rest is for those who need it. */
static void shares_init(struct nbd_server *s)
{
    s->read_budget_bytes = (s->pool->arena_bytes - s->keep_free_bytes) / 2;
    uint64_t each = NBD_BYTES_EACH_MAX;
    while (each > BUF_BYTES_MIN && each * NBD_CONNECTIONS_MAX > s->read_budget_bytes / 2)
        each /= 2;
    uint64_t guaranteed[NBD_THINGS] = {
        [NBD_COMMANDS] = NBD_COMMANDS_EACH,
        [NBD_PIECES] = NBD_PIECES_EACH,
        [NBD_READ_BYTES] = each,
        [NBD_WRITE_BYTES] = each,
    };
    for (unsigned i = 0; i < NBD_THINGS; i++)
        s->shares[i] = (struct nbd_share) { .clients = NBD_CONNECTIONS_MAX, .each = guaranteed[i] };
}

static void tables_init(struct nbd_server *s)
{
    list_init(&s->waiting_reads);
    list_init(&s->waiting_changes);
    list_init(&s->ready);
    list_init(&s->commands_free);
    list_init(&s->pieces_free);
    list_init(&s->maps_free);
    for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++)
        nbd_conn_init(s, &s->conns[i]);
    for (unsigned i = 0; i < ARRAY_LEN(s->commands); i++) {
        struct nbd_command *command = &s->commands[i];
        command->server = s;
        list_init(&command->turn_link);
        list_init(&command->in_turn);
        list_append(&s->commands_free, &command->link);
    }
    s->commands_free_count = ARRAY_LEN(s->commands);
    for (unsigned i = 0; i < ARRAY_LEN(s->pieces); i++)
        list_append(&s->pieces_free, &s->pieces[i].link);
    s->pieces_free_count = ARRAY_LEN(s->pieces);
    for (unsigned i = 0; i < NBD_MAPS_MAX; i++)
        list_append(&s->maps_free, &s->maps[i].link);
}

struct front *front_nbd_open(const struct front_config *config, struct err *err)
{
    if (check_config(config, err) < 0)
        return NULL;
    struct nbd_server *s = calloc(1, sizeof(*s));
    if (!s) {
        err_set(err, -ENOMEM, "out of memory");
        return NULL;
    }
    s->front = (struct front) { &ops, config->sink };
    s->ring = config->ring;
    s->pool = config->pool;
    s->disk = config->disk;
    s->keep_free_bytes = config->keep_free_bytes;
    shares_init(s);
    snprintf(s->name, sizeof(s->name), "%s", config->volume);
    s->export.name = s->name;
    s->export.refusal = no_reason_yet;
    s->export.block_min_bytes = NBD_BLOCK_BYTES_MIN;
    s->export.block_preferred_bytes = NBD_BLOCK_BYTES_PREFERRED;
    s->export.rotational = s->disk && s->disk->geometry.rotational;
    /* A discard leaves zeroes on both legs. Where they can only be written out, it would cost what it is to save: mkfs,
     * which trims all of the volume first, would write all of it. */
    s->export.no_trim = s->disk && !s->disk->geometry.can_unmap;
    s->tick.fired = tick;
    s->resume_task.run = resume_run;
    s->close_task.run = close_run;
    tables_init(s);

    const char *prefix = "unix:";
    bool is_unix = strncmp(config->address, prefix, strlen(prefix)) == 0;
    int rc = is_unix ? listen_unix(s, config->address + strlen(prefix), err) : listen_tcp(s, config->address, err);
    if (rc < 0) {
        listeners_close(s);
        free(s);
        return NULL;
    }
    for (unsigned i = 0; i < s->listener_count; i++)
        ring_accept(s->ring, &s->listeners[i].accept_op, s->listeners[i].fd);
    return &s->front;
}
