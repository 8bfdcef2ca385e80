/* A client of the register, of either kind: the embedded witness, or etcd.
 *
 * It works beside the volumes' threads, on a thread of its own, and never makes a caller wait. */
#pragma once

#include <stddef.h>

#include "repl/core/decree.h"

#define REGISTER_TIMEOUT_MS_MIN 100
#define REGISTER_TIMEOUT_MS_MAX 60000
#define REGISTER_SLOTS_MAX 1024 /* volumes that one client asks for */

struct register_client;

struct register_options {
    const char *url;    /* lockstep://ADDR:PORT, or etcd+http://ADDR:PORT[,...], etcd+https://... */
    const char *tls_ca; /* files; NULL: none */
    const char *tls_cert;
    const char *tls_key;
    unsigned timeout_ms; /* after which a question without an answer is REGISTER_UNREACHABLE; REGISTER_TIMEOUT_MS_MIN
                            ... _MAX */
    /* The answer to what was asked for `slot`; valid during the call. On the client's thread: it must not wait, and
     * must not call the client. */
    void (*answered)(void *context, uint32_t slot, const struct register_answer *answer);
    void *context;
};

/* Takes copies of what the options point to. 0, or a negative errno with a sentence in `error`. Does not connect: what
 * is out of reach is an answer like any other. */
int register_open(struct register_client **out, const struct register_options *options, char *error,
                  size_t error_bytes);

/* From any thread. Each call gets exactly one answer, unless the client is closed before. One question a slot at a
 * time. */
void register_ask(struct register_client *client, uint32_t slot, const struct register_request *request);

/* Waits for the client's thread; after it no answer comes. */
void register_close(struct register_client *client);
