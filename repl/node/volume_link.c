/* A volume's link: what comes from the peer, and how it is reached. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

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

static void link_event(void *ctx, const struct event *ev)
{
    struct event copy = *ev;
    if (ev->kind == EV_SESSION_DOWN)
        forget_session_actions(&((struct volume *)ctx)->actions);
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
