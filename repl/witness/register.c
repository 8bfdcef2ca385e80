/* Which kind of register a URL means. */
#include "repl/witness/register.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/witness/register_backend.h"

struct register_client {
    const struct register_backend *backend;
    void *client;
};

/* By how the URL begins. Ends with an empty row. */
static const struct {
    const char *scheme;
    const struct register_backend *backend;
} kinds[] = {
    { "lockstep://", &witness_backend },
    { "etcd+http://", &etcd_backend },
    { "etcd+https://", &etcd_backend },
    { NULL, NULL },
};

static const struct register_backend *backend_of(const char *url)
{
    for (unsigned i = 0; kinds[i].scheme; i++)
        if (strncmp(url, kinds[i].scheme, strlen(kinds[i].scheme)) == 0)
            return kinds[i].backend;
    return NULL;
}

int register_open(struct register_client **out, const struct register_options *options, char *error, size_t error_bytes)
{
    assert(options->answered && error_bytes > 0);
    const struct register_backend *backend = backend_of(options->url);
    if (!backend) {
        snprintf(error, error_bytes,
                 "expected a register's URL, lockstep://HOST:PORT or etcd+https://HOST:PORT,..., found %s",
                 options->url);
        return -EINVAL;
    }
    if (options->timeout_ms < REGISTER_TIMEOUT_MS_MIN || options->timeout_ms > REGISTER_TIMEOUT_MS_MAX) {
        snprintf(error, error_bytes, "expected a time of %u to %u ms for a register's answer, found %u",
                 REGISTER_TIMEOUT_MS_MIN, REGISTER_TIMEOUT_MS_MAX, options->timeout_ms);
        return -EINVAL;
    }
    struct register_client *c = calloc(1, sizeof(*c));
    if (!c) {
        snprintf(error, error_bytes, "out of memory");
        return -ENOMEM;
    }
    c->backend = backend;
    int rc = backend->open(&c->client, options, error, error_bytes);
    if (rc) {
        free(c);
        return rc;
    }
    *out = c;
    return 0;
}

void register_ask(struct register_client *client, uint32_t slot, const struct register_request *request)
{
    assert(slot < REGISTER_SLOTS_MAX);
    client->backend->ask(client->client, slot, request);
}

void register_close(struct register_client *client)
{
    client->backend->close(client->client);
    free(client);
}
