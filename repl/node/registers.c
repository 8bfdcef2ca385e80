/* The daemon's registers, and the volumes' lines to them.
 *
 * A slot of a client belongs to a line until that is closed and what it asked last is answered: so an answer that comes
 * late reaches neither a volume that is gone nor the one that came after it. */
#include "repl/node/registers.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define ERROR_BYTES 256

struct register_line {
    struct shared_client *client;
    uint32_t slot;
    bool open;
    bool asked;
    void (*answered)(void *ctx, const struct register_answer *answer);
    void *ctx;
};

struct shared_client {
    struct config_witness witness;
    unsigned timeout_ms;
    struct register_client *client;
    pthread_mutex_t lock; /* of the lines. Never held while the client is called */
    struct register_line lines[REGISTER_SLOTS_MAX];
};

struct registers {
    unsigned count;
    struct shared_client *clients[CONFIG_VOLUMES_MAX];
};
static_assert(CONFIG_VOLUMES_MAX <= REGISTER_SLOTS_MAX, "each volume has a slot");

static bool is_same(const struct config_witness *a, const struct config_witness *b)
{
    return strcmp(a->url, b->url) == 0 && strcmp(a->tls_ca, b->tls_ca) == 0 && strcmp(a->tls_cert, b->tls_cert) == 0 &&
           strcmp(a->tls_key, b->tls_key) == 0;
}

/* A volume with a short dead-after is in a hurry; the others that ask the same witness are not. */
static unsigned timeout_ms_of(const struct volume_config *volume)
{
    uint64_t ms = volume->dead_after_ns / NS_PER_MS;
    return (unsigned)max_u64(min_u64(ms, REGISTER_TIMEOUT_MS_MAX), REGISTER_TIMEOUT_MS_MIN);
}

static struct shared_client *find(struct registers *rs, const struct volume_config *volume)
{
    for (unsigned i = 0; i < rs->count; i++)
        if (is_same(&rs->clients[i]->witness, &volume->witness) && rs->clients[i]->timeout_ms == timeout_ms_of(volume))
            return rs->clients[i];
    return NULL;
}

/* On the client's thread. */
static void take_answer(void *context, uint32_t slot, const struct register_answer *answer)
{
    struct shared_client *c = context;
    struct register_line *line = &c->lines[slot];
    pthread_mutex_lock(&c->lock);
    assert(line->asked);
    line->asked = false;
    if (line->open)
        line->answered(line->ctx, answer);
    pthread_mutex_unlock(&c->lock);
}

static struct shared_client *add(struct registers *rs, const struct volume_config *volume)
{
    struct shared_client *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->witness = volume->witness;
    c->timeout_ms = timeout_ms_of(volume);
    pthread_mutex_init(&c->lock, NULL);
    for (uint32_t i = 0; i < REGISTER_SLOTS_MAX; i++) {
        c->lines[i].client = c;
        c->lines[i].slot = i;
    }
    rs->clients[rs->count++] = c;
    return c;
}

static const char *file_or_null(const char *name) { return *name ? name : NULL; }

static int connect_client(struct shared_client *c, struct err *err)
{
    char error[ERROR_BYTES] = "";
    int rc = register_open(&c->client,
                           &(struct register_options) {
                               .url = c->witness.url,
                               .tls_ca = file_or_null(c->witness.tls_ca),
                               .tls_cert = file_or_null(c->witness.tls_cert),
                               .tls_key = file_or_null(c->witness.tls_key),
                               .timeout_ms = c->timeout_ms,
                               .answered = take_answer,
                               .context = c,
                           },
                           error, sizeof(error));
    return rc ? err_set(err, rc, "witness %.200s: %s", c->witness.url, error) : 0;
}

struct registers *registers_open(const struct config *config, struct err *err)
{
    struct registers *rs = calloc(1, sizeof(*rs));
    bool failed = !rs;
    for (unsigned i = 0; i < config->count && !failed; i++) {
        const struct volume_config *volume = &config->volumes[i];
        if (!config_has_witness(volume))
            continue;
        failed = !find(rs, volume) && !add(rs, volume);
    }
    if (failed)
        err_set(err, -ENOMEM, "out of memory");
    for (unsigned i = 0; rs && i < rs->count && !failed; i++)
        failed = connect_client(rs->clients[i], err) != 0;
    if (!failed)
        return rs;
    registers_close(rs);
    return NULL;
}

void registers_close(struct registers *rs)
{
    for (unsigned i = 0; rs && i < rs->count; i++) {
        struct shared_client *c = rs->clients[i];
        if (c->client)
            register_close(c->client);
        pthread_mutex_destroy(&c->lock);
        free(c);
    }
    free(rs);
}

struct register_line *register_line_open(struct registers *rs, const struct volume_config *volume,
                                         void (*answered)(void *ctx, const struct register_answer *answer), void *ctx,
                                         struct err *err)
{
    struct shared_client *c = find(rs, volume);
    assert(c);
    struct register_line *found = NULL;
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < REGISTER_SLOTS_MAX && !found; i++)
        if (!c->lines[i].open && !c->lines[i].asked)
            found = &c->lines[i];
    if (found) {
        found->open = true;
        found->answered = answered;
        found->ctx = ctx;
    }
    pthread_mutex_unlock(&c->lock);
    if (!found)
        err_set(err, -EAGAIN, "witness %.200s: too many questions wait for its answers", volume->witness.url);
    return found;
}

void register_line_ask(struct register_line *line, const struct register_request *request)
{
    pthread_mutex_lock(&line->client->lock);
    assert(line->open && !line->asked);
    line->asked = true;
    pthread_mutex_unlock(&line->client->lock);
    register_ask(line->client->client, line->slot, request);
}

void register_line_close(struct register_line *line)
{
    if (!line)
        return;
    pthread_mutex_lock(&line->client->lock);
    line->open = false;
    pthread_mutex_unlock(&line->client->lock);
}
