/* The command line's end of the control socket. Blocks, for as long as it is told. */
#pragma once

#include "proto/control_wire.h"
#include "repl/base/err.h"

struct client {
    int fd;
    uint64_t deadline_ns; /* clock_ns(), for the whole conversation; UINT64_MAX: none */
    size_t used;          /* of `in` */
    uint8_t in[CONTROL_PREFIX_BYTES + CONTROL_MESSAGE_BYTES_MAX];
};

/* Connects and sends the request. `timeout_ns`: UINT64_MAX: none. Returns CONTROL_DONE, or the exit code with `err`
 * set. Close it in either case. */
enum control_exit client_ask(struct client *c, const char *socket_path, const Lockstep__Control__Request *request,
                             uint64_t timeout_ns, struct err *err);

/* The next answer, to be freed with lockstep__control__response__free_unpacked(); or NULL with the exit code and `err`
 * set. */
Lockstep__Control__Response *client_next(struct client *c, enum control_exit *code, struct err *err);

void client_close(struct client *c);
