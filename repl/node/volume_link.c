/* A volume's link: what comes from the peer, and how it is reached. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "repl/base/checksum.h"
#include "repl/node/volume_internal.h"

#define RETRY_MIN_NS (100 * NS_PER_MS)
#define RETRY_MAX_NS (2 * NS_PER_S)
#define REFUSED_RETRY_NS (5 * NS_PER_S)

/* What the engine wanted of a session that has ended since is void: the next one, whose hello may come in the same
 * turn, must not be taken for accepted. */
static void forget_session_actions(struct actions *actions)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < actions->count; i++) {
        enum action_kind kind = actions->list[i].kind;
        if (kind == ACT_SEND && actions->list[i].send.payload_is_given)
            buf_put(actions->list[i].send.payload);
        if (kind != ACT_SEND && kind != ACT_SESSION_READY && kind != ACT_SESSION_REFUSE && kind != ACT_SESSION_DROP)
            actions->list[kept++] = actions->list[i];
    }
    actions->count = kept;
}

struct hello_config volume_say_config(const struct volume_config *c)
{
    uint64_t url = checksum64(c->witness.url, strlen(c->witness.url));
    return (struct hello_config) {
        .dead_after_us = c->dead_after_ns / NS_PER_US,
        .witness = config_has_witness(c) ? max_u64(url, 1) : 0,
        .failover = c->failover_automatic ? 2 : 1,
        .when_alone = 1 + (uint32_t)c->when_alone,
    };
}

/* What must not differ, the handshake refuses. The rest is told once, as a change of it goes from node to node. */
static void note_odd_config(struct volume *v, const struct hello *peer)
{
    struct hello_config own = volume_say_config(&v->config);
    const struct hello_config *other = &peer->config;
    bool says = other->dead_after_us;
    const char *witness = says && own.witness != other->witness ? " witness" : "";
    const char *failover = says && own.failover != other->failover ? " failover" : "";
    const char *when_alone = says && own.when_alone != other->when_alone ? " when-alone" : "";
    char text[ACTION_TEXT_BYTES] = "";
    if (*witness || *failover || *when_alone)
        snprintf(text, sizeof(text),
                 "the configuration of %s differs from that of %s in%s%s%s: use the same file on both nodes",
                 peer->node, config_self(&v->config)->name, witness, failover, when_alone);
    if (*text && strcmp(text, v->odd_config) != 0)
        volume_note(v, NOTE_WARNING, "config", text);
    memcpy(v->odd_config, text, sizeof(text));
}

static void link_event(void *ctx, const struct event *ev)
{
    struct event copy = *ev;
    if (ev->kind == EV_SESSION_DOWN)
        forget_session_actions(&((struct volume *)ctx)->actions);
    if (ev->kind == EV_HELLO)
        note_odd_config(ctx, ev->hello);
    volume_step(ctx, &copy);
}

static void link_hello(void *ctx, struct hello *out)
{
    struct volume *v = ctx;
    uint8_t nonce[HELLO_NONCE_BYTES];
    /* Never fails once the kernel has begun to give random numbers, which open_engine() has seen. */
    if (getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce))
        memset(nonce, 0, sizeof(nonce));
    engine_hello(v->engine, nonce, out);
}

static void link_note(void *ctx, enum note_level level, const char *text) { volume_note(ctx, level, "link", text); }

int volume_open_link(struct volume *v, struct err *err)
{
    const struct config_node *self = config_self(&v->config);
    const struct config_node *peer = config_peer(&v->config);
    if (!peer)
        return 0;
    bool initiator = v->config.self == 0;
    struct transport_config tc = {
        .ring = v->ring, .pool = &v->pool, .path_count = self->path_count, .initiator = initiator
    };
    struct link_config lc = {
        .session = {
            .volume = v->config.volume,
            .node = self->name,
            .peer = peer->name,
            .initiator = initiator,
            .path_count = self->path_count,
            .dead_after_ns = v->config.dead_after_ns,
            .retry_min_ns = RETRY_MIN_NS,
            .retry_max_ns = RETRY_MAX_NS,
            .refused_retry_ns = REFUSED_RETRY_NS,
        },
        .ring = v->ring,
        .pool = &v->pool,
        .ctx = v,
        .event = link_event,
        .hello = link_hello,
        .note = link_note,
    };
    for (unsigned i = 0; i < self->path_count; i++) {
        tc.listen[i] = self->paths[i];
        tc.connect[i] = peer->paths[i];
        lc.session.path_names[i] = peer->paths[i];
    }
    if (getrandom(&lc.session.seed, sizeof(lc.session.seed), 0) < 0)
        return err_set(err, -errno, "no random numbers from the kernel");
    lc.transport = transport_tcp_open(&tc, err);
    if (lc.transport && v->config.test.link_fault_on) {
        struct transport *faulty = transport_filter_fault(v->ring, lc.transport, &v->config.test.link_fault, err);
        if (!faulty)
            return err->code;
        lc.transport = faulty;
    }
    if (!lc.transport)
        return err->code;
    v->link = link_open(&lc, err);
    return v->link ? 0 : err->code;
}
