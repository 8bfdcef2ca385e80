/* What a kind of register has to bring, behind repl/witness/register.h. */
#pragma once

#include "repl/witness/register.h"

/* The same rules as register_open(), register_ask() and register_close() have, each for a client of this kind's own
 * making. register.c has checked the options' ranges, and that `slot` is below REGISTER_SLOTS_MAX. */
struct register_backend {
    int (*open)(void **out, const struct register_options *options, char *error, size_t error_bytes);
    void (*ask)(void *client, uint32_t slot, const struct register_request *request);
    void (*close)(void *client);
};

extern const struct register_backend witness_backend; /* lockstep:// */
extern const struct register_backend etcd_backend;    /* etcd+http://, etcd+https:// */
