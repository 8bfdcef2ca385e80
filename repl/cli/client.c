/* The command line's end of the control socket. */
#include "repl/cli/client.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/base/units.h"

/* True when the socket is ready; false: the time is over. */
static bool wait_for(struct client *c, short events)
{
    struct pollfd fd = { .fd = c->fd, .events = events };
    for (;;) {
        int timeout_ms = -1;
        if (c->deadline_ns != UINT64_MAX) {
            uint64_t now_ns = clock_ns();
            if (now_ns >= c->deadline_ns)
                return false;
            timeout_ms = (int)min_u64((c->deadline_ns - now_ns) / NS_PER_MS + 1, 3600 * 1000);
        }
        if (poll(&fd, 1, timeout_ms) > 0)
            return true;
    }
}

static enum control_exit timed_out(struct err *err)
{
    err_set(err, -ETIMEDOUT, "lockstepd has not answered in time; what was ordered may still go on there");
    return CONTROL_TIMED_OUT;
}

/* A daemon that is stopped, or hangs, accepts nobody: once its backlog is full, connect() waits. */
static void limit_connect(const struct client *c)
{
    if (c->deadline_ns == UINT64_MAX)
        return;
    uint64_t now_ns = clock_ns();
    uint64_t left_us = (c->deadline_ns > now_ns ? c->deadline_ns - now_ns : 0) / NS_PER_US + 1; /* 0: for ever */
    struct timeval limit = { .tv_sec = (time_t)(left_us * NS_PER_US / NS_PER_S),
                             .tv_usec = (suseconds_t)(left_us % (NS_PER_S / NS_PER_US)) };
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)); /* if it fails, connect() has no limit */
}

static enum control_exit connect_to(struct client *c, const char *path, struct err *err)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(addr.sun_path) || !*path) {
        err_set(err, -ENAMETOOLONG, "--control: expected a name of 1 to %zu bytes", sizeof(addr.sun_path) - 1);
        return CONTROL_USED_WRONGLY;
    }
    memcpy(addr.sun_path, path, strlen(path) + 1);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        err_set(err, -errno, "no socket: %s", strerror(errno));
        return CONTROL_FAILED;
    }
    int rc;
    do { /* a signal that ends nobody, as when a shell's job is stopped and goes on */
        limit_connect(c);
        rc = connect(c->fd, (const struct sockaddr *)&addr, sizeof(addr));
    } while (rc < 0 && errno == EINTR);
    if (rc == 0)
        return CONTROL_DONE;
    if (errno == EAGAIN)
        return timed_out(err);
    err_set(err, -errno, "no lockstepd in reach at %s (%s)%s", path, strerror(errno),
            errno == EACCES ? ": only its owner and root may command it" : ": is it running?");
    return CONTROL_UNREACHABLE;
}

enum control_exit client_ask(struct client *c, const char *socket_path, const Lockstep__Control__Request *request,
                             uint64_t timeout_ns, struct err *err)
{
    c->fd = -1;
    c->used = 0;
    c->deadline_ns = timeout_ns == UINT64_MAX ? UINT64_MAX : clock_ns() + timeout_ns;
    enum control_exit code = connect_to(c, socket_path, err);
    if (code)
        return code;
    uint8_t frame[1024];
    size_t bytes = control_pack(&request->base, frame, sizeof(frame));
    if (bytes == 0) {
        err_set(err, -EMSGSIZE, "a name in this order is too long: all of it has at most %zu bytes", sizeof(frame));
        return CONTROL_USED_WRONGLY;
    }
    for (size_t sent = 0; sent < bytes;) {
        if (!wait_for(c, POLLOUT))
            return timed_out(err);
        ssize_t n = send(c->fd, frame + sent, bytes - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            break; /* it may have told why before it closed: that is still to be read */
        if (n > 0)
            sent += (size_t)n;
    }
    return CONTROL_DONE;
}

static Lockstep__Control__Response *broken(enum control_exit *code, struct err *err, const char *text)
{
    *code = CONTROL_FAILED;
    err_set(err, -EPROTO, "%s", text);
    return NULL;
}

Lockstep__Control__Response *client_next(struct client *c, enum control_exit *code, struct err *err)
{
    for (;;) {
        int64_t whole = control_frame_bytes(c->in, c->used);
        if (whole < 0)
            return broken(code, err, "what answers is not lockstepd, or one of another version");
        if (whole > 0 && c->used >= (size_t)whole) {
            Lockstep__Control__Response *r = lockstep__control__response__unpack(
                NULL, (size_t)whole - CONTROL_PREFIX_BYTES, c->in + CONTROL_PREFIX_BYTES);
            c->used -= (size_t)whole;
            memmove(c->in, c->in + whole, c->used);
            return r ? r : broken(code, err, "lockstepd sent an answer that cannot be read; is it of another version?");
        }
        if (!wait_for(c, POLLIN)) {
            *code = timed_out(err);
            return NULL;
        }
        ssize_t n = recv(c->fd, c->in + c->used, sizeof(c->in) - c->used, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0) {
            *code = CONTROL_UNREACHABLE;
            err_set(err, -ECONNRESET, "lockstepd ended before it had answered");
            return NULL;
        }
        c->used += (size_t)n;
    }
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}
