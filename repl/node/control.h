/* The control socket: accepts clients, reads one request of each, and carries the answers back. Knows nothing of
 * volumes. Belongs to one thread and never blocks it.
 *
 * A client that sends garbage, too much, half a request and then nothing, or that does not read its answers, is told if
 * it can be, and closed; nobody else notices. */
#pragma once

#include "repl/node/control_codec.h"

#define CONTROL_CLIENTS_MAX 64
#define CONTROL_REQUEST_NS_MAX (10 * NS_PER_S) /* from connecting to a whole request */
#define CONTROL_UNREAD_NS_MAX (30 * NS_PER_S)  /* for how long a client may leave its answers unread */

struct control;
struct control_client;

struct control_config {
    const char *path;        /* of the socket: at most 107 bytes */
    uint64_t request_ns_max; /* 0: CONTROL_REQUEST_NS_MAX */
    uint64_t unread_ns_max;  /* 0: CONTROL_UNREAD_NS_MAX */
    void *ctx;
    /* A request has come; it is answered by control_send() and control_end(), now or later. */
    void (*request)(void *ctx, struct control_client *c, const struct control_request *request);
    /* What was sent has left: there is room again. Only between the request and control_end(). */
    void (*writable)(void *ctx, struct control_client *c);
    /* The client is gone before control_end(); it must not be used any more. What was ordered goes on. */
    void (*gone)(void *ctx, struct control_client *c);
    void (*log)(void *ctx, enum log_level level, const char *text);
};

/* Makes the socket with mode 0600, in place of a stale one that nobody listens on; a living one is -EADDRINUSE. Beside
 * it lies PATH.lock, held while the daemon lives. NULL with `err` set. */
struct control *control_open(const struct control_config *config, struct err *err);

/* Closes all clients, without `gone`, and removes the socket. */
void control_close(struct control *c);

/* Readable when control_step() has something to do; control_step() also wants to be called at control_deadline_ns()
 * (clock_ns(); UINT64_MAX: never), and calls back from within. */
int control_fd(const struct control *c);
uint64_t control_deadline_ns(const struct control *c);
void control_step(struct control *c);

/* Queues one encoded message. False: no room before `writable`. There is always room for one message after the request
 * has come, after `writable`, and after nothing was sent since. */
bool control_send(struct control_client *c, const uint8_t *frame, size_t bytes);

/* Queues the result and ends the connection once everything has left. The client must not be used any more; there is
 * always room. */
void control_end(struct control_client *c, enum control_exit code, const char *text);

/* The owner's. */
void control_set_user(struct control_client *c, void *user);
void *control_user(const struct control_client *c);
