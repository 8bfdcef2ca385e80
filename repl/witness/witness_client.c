/* The client of the embedded witness: one connection, made again whenever it is lost, for the questions of all volumes.
 *
 * A question that was sent is answered on that connection or not at all: whoever asked is told that there is no answer,
 * and asks again with what he knows by then. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/base/net_address.h"
#include "repl/base/prng.h"
#include "repl/witness/register_backend.h"
#include "repl/witness/witness_codec.h"
#include "repl/witness/witness_keepalive.h"

#define SCHEME "lockstep://"
#define BACKOFF_NS_MIN (100 * NS_PER_MS)
#define BACKOFF_NS_MAX (1 * NS_PER_S)
#define IN_BYTES (4 * WITNESS_FRAME_BYTES_MAX)
#define OUT_BYTES (16 * WITNESS_FRAME_BYTES_MAX)
#define SLOT_BITS 10
static_assert(1 << SLOT_BITS == REGISTER_SLOTS_MAX, "a question's number has its slot in it");

enum slot_state {
    SLOT_IDLE,
    SLOT_WAITING, /* for a connection, or for room */
    SLOT_SENT,
};

struct slot {
    enum slot_state state;
    uint64_t number;
    uint64_t sent_ns;
    uint64_t deadline_ns;
    struct register_request request;
};

/* A look-up of the witness's name. The client's and the thread's; the one that comes second frees it. */
struct lookup {
    pthread_mutex_t lock;
    bool forgotten;
    bool ended;
    int wake_fd; /* a copy of the client's */
    int result;
    struct err err;
    struct net_address address;
    char text[];
};

enum link_phase {
    LINK_OFF, /* until retry_ns */
    LINK_LOOKING_UP,
    LINK_JOINING, /* until join_until_ns */
    LINK_UP,
};

struct client {
    struct register_options options;
    char *address;
    pthread_t thread;
    pthread_mutex_t lock; /* of slots, asked and stop */
    struct slot *slots;
    bool asked; /* ever: it is worth having a connection */
    bool stop;
    int wake_fd;
    /* The thread's own. */
    struct prng prng;
    enum link_phase phase;
    struct lookup *lookup;
    int fd;
    uint64_t retry_ns;
    uint64_t backoff_ns;
    uint64_t join_until_ns;
    uint64_t heard_ns;
    uint64_t serial;
    char trouble[REGISTER_REASON_BYTES]; /* why there is no connection; empty: there is, or none was tried */
    size_t in_used;
    size_t out_used;
    uint8_t in[IN_BYTES];
    uint8_t out[OUT_BYTES];
};

/* ---- answers ---- */

/* The slot's question is over; from here on it may ask again. */
static void answer(struct client *c, uint32_t slot, const struct register_answer *a)
{
    pthread_mutex_lock(&c->lock);
    assert(c->slots[slot].state != SLOT_IDLE);
    c->slots[slot].state = SLOT_IDLE;
    pthread_mutex_unlock(&c->lock);
    c->options.answered(c->options.context, slot, a);
}

static void __attribute__((format(printf, 3, 4)))
answer_unreachable(struct client *c, uint32_t slot, const char *format, ...)
{
    struct register_answer a = { .outcome = REGISTER_UNREACHABLE };
    va_list ap;
    va_start(ap, format);
    vsnprintf(a.reason, sizeof(a.reason), format, ap);
    va_end(ap);
    answer(c, slot, &a);
}

static enum slot_state state_of(struct client *c, uint32_t slot)
{
    pthread_mutex_lock(&c->lock);
    enum slot_state state = c->slots[slot].state;
    pthread_mutex_unlock(&c->lock);
    return state;
}

/* ---- the connection ---- */

static void __attribute__((format(printf, 2, 3))) drop(struct client *c, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(c->trouble, sizeof(c->trouble), format, ap);
    va_end(ap);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->phase = LINK_OFF;
    c->in_used = c->out_used = 0;
    /* Both nodes, and many volumes' clients, find out at the same moment. */
    c->retry_ns = clock_ns() + c->backoff_ns / 2 + prng_below(&c->prng, c->backoff_ns / 2);
    c->backoff_ns = min_u64(2 * c->backoff_ns, BACKOFF_NS_MAX);
    for (uint32_t slot = 0; slot < REGISTER_SLOTS_MAX; slot++)
        if (state_of(c, slot) == SLOT_SENT)
            answer_unreachable(c, slot, "%s", c->trouble);
}

static void join(struct client *c, const struct net_address *a)
{
    c->fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        drop(c, "no socket: %s", strerror(errno));
        return;
    }
    witness_keep_alive(c->fd);
    c->phase = LINK_JOINING;
    c->join_until_ns = clock_ns() + c->options.timeout_ms * NS_PER_MS;
    if (connect(c->fd, (const struct sockaddr *)&a->addr, a->bytes) < 0 && errno != EINPROGRESS)
        drop(c, "no witness in reach at %s: %s", c->address, strerror(errno));
}

static void joined(struct client *c)
{
    int error = 0;
    socklen_t bytes = sizeof(error);
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) < 0)
        error = errno;
    if (error) {
        drop(c, "no witness in reach at %s: %s", c->address, strerror(error));
        return;
    }
    c->phase = LINK_UP;
    c->trouble[0] = 0;
}

/* ---- the witness's name ---- */

static void lookup_free(struct lookup *l)
{
    pthread_mutex_destroy(&l->lock);
    close(l->wake_fd);
    free(l);
}

static void *lookup_thread(void *arg)
{
    struct lookup *l = arg;
    struct net_address address = { .bytes = 0 };
    struct err err = { 0 };
    int rc = net_address_resolve(l->text, false, &address, &err);
    uint64_t one = 1;
    pthread_mutex_lock(&l->lock);
    l->result = rc;
    l->address = address;
    l->err = err;
    l->ended = true;
    bool forgotten = l->forgotten;
    if (!forgotten)
        (void)!write(l->wake_fd, &one, sizeof(one)); /* full: it is awake */
    pthread_mutex_unlock(&l->lock);
    if (forgotten)
        lookup_free(l);
    return NULL;
}

static void look_up(struct client *c)
{
    size_t bytes = strlen(c->address) + 1;
    struct lookup *l = calloc(1, sizeof(*l) + bytes);
    int wake_fd = dup(c->wake_fd);
    if (!l || wake_fd < 0) {
        free(l);
        if (wake_fd >= 0)
            close(wake_fd);
        drop(c, "%s: out of memory or descriptors for a name look-up", c->address);
        return;
    }
    memcpy(l->text, c->address, bytes);
    l->wake_fd = wake_fd;
    pthread_mutex_init(&l->lock, NULL);
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int rc = pthread_create(&thread, &attr, lookup_thread, l);
    pthread_attr_destroy(&attr);
    if (rc) {
        lookup_free(l);
        drop(c, "%s: no thread for a name look-up: %s", c->address, strerror(rc));
        return;
    }
    c->lookup = l;
    c->phase = LINK_LOOKING_UP;
}

static void looked_up(struct client *c)
{
    struct lookup *l = c->lookup;
    pthread_mutex_lock(&l->lock);
    bool ended = l->ended;
    pthread_mutex_unlock(&l->lock);
    if (!ended)
        return;
    c->lookup = NULL;
    c->phase = LINK_OFF;
    if (l->result)
        drop(c, "%.*s", REGISTER_REASON_BYTES - 1, l->err.text);
    else
        join(c, &l->address);
    lookup_free(l);
}

static void lookup_forget(struct client *c)
{
    struct lookup *l = c->lookup;
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->forgotten = true;
    bool ended = l->ended;
    pthread_mutex_unlock(&l->lock);
    if (ended)
        lookup_free(l);
}

static void start(struct client *c)
{
    struct net_address address;
    struct err err = { 0 };
    int rc = net_address_parse(c->address, &address, &err);
    if (rc == 1)
        join(c, &address);
    else if (rc == 0)
        look_up(c);
    else
        drop(c, "%.*s", REGISTER_REASON_BYTES - 1, err.text);
}

/* ---- questions ---- */

static void send_questions(struct client *c)
{
    uint64_t now_ns = clock_ns();
    pthread_mutex_lock(&c->lock);
    for (uint32_t slot = 0; slot < REGISTER_SLOTS_MAX; slot++) {
        struct slot *s = &c->slots[slot];
        if (s->state != SLOT_WAITING)
            continue;
        if (c->out_used + WITNESS_FRAME_BYTES_MAX > sizeof(c->out))
            break;
        s->state = SLOT_SENT;
        s->sent_ns = now_ns;
        s->number = ++c->serial << SLOT_BITS | slot;
        c->out_used += witness_question_encode(c->out + c->out_used, s->number, &s->request);
    }
    pthread_mutex_unlock(&c->lock);
    size_t sent = 0;
    int error = 0;
    while (sent < c->out_used && !error) {
        ssize_t n = send(c->fd, c->out + sent, c->out_used - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            sent += (size_t)n;
        else if (errno != EINTR)
            error = errno;
    }
    c->out_used -= sent;
    memmove(c->out, c->out + sent, c->out_used);
    if (error && error != EAGAIN)
        drop(c, "the connection to the witness at %s is lost: %s", c->address, strerror(error));
}

/* Whether the answer is one to what was asked. */
static bool fits(const struct register_request *q, const struct register_answer *a)
{
    switch (a->outcome) {
    case REGISTER_STANDS: return q->ask == REGISTER_READ;
    case REGISTER_DONE:
        return q->ask == REGISTER_SWAP && a->decree.epoch == q->proposal.epoch && a->decree.tag == q->proposal.tag;
    case REGISTER_LOST: return q->ask == REGISTER_SWAP;
    case REGISTER_UNCONFIRMED:
    case REGISTER_UNREACHABLE:
    case REGISTER_OLDER:
    case REGISTER_REFUSED: return true;
    }
    return false;
}

static void take_answer(struct client *c, const uint8_t *message, size_t bytes)
{
    uint64_t number;
    struct register_answer a;
    const char *why = NULL;
    int rc = witness_answer_decode(message, bytes, &number, &a, &why);
    if (rc) {
        drop(c, "the witness at %s sent %s", c->address, why);
        return;
    }
    uint32_t slot = number & (REGISTER_SLOTS_MAX - 1);
    pthread_mutex_lock(&c->lock);
    struct slot *s = &c->slots[slot];
    bool awaited = s->state == SLOT_SENT && s->number == number; /* else it is too late */
    bool good = !awaited || fits(&s->request, &a);
    pthread_mutex_unlock(&c->lock);
    if (!good) {
        drop(c, "the witness at %s answers what was not asked", c->address);
        return;
    }
    c->backoff_ns = BACKOFF_NS_MIN;
    if (awaited)
        answer(c, slot, &a);
}

static void receive(struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_used, sizeof(c->in) - c->in_used, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        drop(c, "the connection to the witness at %s is lost: %s", c->address, n ? strerror(errno) : "it was closed");
        return;
    }
    c->in_used += (size_t)n;
    c->heard_ns = clock_ns();
    while (c->phase == LINK_UP) {
        int64_t whole = witness_frame_bytes(c->in, c->in_used);
        if (whole < 0) {
            drop(c, "what answers at %s is no witness, or one of another version", c->address);
            return;
        }
        if (whole == 0 || c->in_used < (size_t)whole)
            return;
        uint8_t message[WITNESS_MESSAGE_BYTES_MAX];
        size_t bytes = (size_t)whole - WITNESS_PREFIX_BYTES;
        memcpy(message, c->in + WITNESS_PREFIX_BYTES, bytes);
        c->in_used -= (size_t)whole;
        memmove(c->in, c->in + whole, c->in_used);
        take_answer(c, message, bytes);
    }
}

/* ---- the thread ---- */

/* Ends questions whose time is over. Returns when the next one's is. */
static uint64_t end_late(struct client *c)
{
    uint64_t now_ns = clock_ns();
    uint64_t due_ns = UINT64_MAX;
    bool unheard = false;
    for (uint32_t slot = 0; slot < REGISTER_SLOTS_MAX; slot++) {
        pthread_mutex_lock(&c->lock);
        struct slot s = { .state = c->slots[slot].state };
        if (s.state != SLOT_IDLE) {
            s.deadline_ns = c->slots[slot].deadline_ns;
            s.sent_ns = c->slots[slot].sent_ns;
        }
        pthread_mutex_unlock(&c->lock);
        if (s.state == SLOT_IDLE)
            continue;
        if (s.deadline_ns > now_ns) {
            due_ns = min_u64(due_ns, s.deadline_ns);
            continue;
        }
        unheard |= s.state == SLOT_SENT && c->heard_ns < s.sent_ns;
        if (c->trouble[0])
            answer_unreachable(c, slot, "%s", c->trouble);
        else
            answer_unreachable(c, slot, "the witness at %s has not answered within %u ms", c->address,
                               c->options.timeout_ms);
    }
    if (unheard && c->phase == LINK_UP) /* the line may be dead, and nobody has said so */
        drop(c, "the witness at %s does not answer", c->address);
    return due_ns;
}

static int timeout_ms(uint64_t due_ns)
{
    uint64_t now_ns = clock_ns();
    if (due_ns == UINT64_MAX)
        return -1;
    return due_ns <= now_ns ? 0 : (int)min_u64((due_ns - now_ns) / NS_PER_MS + 1, 60 * 1000);
}

/* What the connection is to do next, if time has come. Returns when it has. */
static uint64_t attend(struct client *c, bool asked)
{
    uint64_t now_ns = clock_ns();
    if (c->phase == LINK_LOOKING_UP)
        looked_up(c);
    if (c->phase == LINK_JOINING && now_ns >= c->join_until_ns)
        drop(c, "no witness in reach at %s: no answer to connecting", c->address);
    if (c->phase == LINK_OFF && asked && now_ns >= c->retry_ns)
        start(c);
    if (c->phase == LINK_UP)
        send_questions(c);
    if (c->phase == LINK_OFF)
        return asked ? c->retry_ns : UINT64_MAX;
    return c->phase == LINK_JOINING ? c->join_until_ns : UINT64_MAX;
}

static void *run(void *arg)
{
    struct client *c = arg;
    for (;;) {
        pthread_mutex_lock(&c->lock);
        bool asked = c->asked;
        bool stop = c->stop;
        pthread_mutex_unlock(&c->lock);
        if (stop)
            return NULL;
        uint64_t due_ns = attend(c, asked);
        due_ns = min_u64(due_ns, end_late(c));
        if (c->phase == LINK_OFF && asked)
            due_ns = min_u64(due_ns, c->retry_ns); /* end_late() may have dropped it */
        bool output = c->phase == LINK_JOINING || c->out_used;
        struct pollfd fds[] = {
            { .fd = c->wake_fd, .events = POLLIN },
            { .fd = c->fd, .events = (short)((c->phase == LINK_UP ? POLLIN : 0) | (output ? POLLOUT : 0)) },
        };
        if (poll(fds, ARRAY_LEN(fds), timeout_ms(due_ns)) < 0)
            assert(errno == EINTR);
        uint64_t count;
        if (fds[0].revents)
            (void)!read(c->wake_fd, &count, sizeof(count));
        if (c->phase == LINK_JOINING && fds[1].revents)
            joined(c);
        else if (c->phase == LINK_UP && (fds[1].revents & (POLLIN | POLLHUP | POLLERR)))
            receive(c);
    }
}

/* ---- register_backend ---- */

static void client_free(struct client *c)
{
    lookup_forget(c);
    if (c->fd >= 0)
        close(c->fd);
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    pthread_mutex_destroy(&c->lock);
    free(c->slots);
    free(c->address);
    free(c);
}

static int check_options(const struct register_options *o, char *error, size_t error_bytes)
{
    struct err err = { 0 };
    struct net_address ignored;
    if (o->tls_ca || o->tls_cert || o->tls_key) {
        snprintf(error, error_bytes,
                 "TLS to a witness is not supported by this version: leave it out, and keep the "
                 "witness on a network of its own");
        return -ENOTSUP;
    }
    if (net_address_parse(o->url + strlen(SCHEME), &ignored, &err) >= 0)
        return 0;
    snprintf(error, error_bytes, "%s", err.text);
    return -EINVAL;
}

static int client_open(void **out, const struct register_options *options, char *error, size_t error_bytes)
{
    int rc = check_options(options, error, error_bytes);
    if (rc)
        return rc;
    struct client *c = calloc(1, sizeof(*c));
    if (!c) {
        snprintf(error, error_bytes, "out of memory");
        return -ENOMEM;
    }
    c->options = *options;
    c->options.url = NULL;
    c->fd = -1;
    c->backoff_ns = BACKOFF_NS_MIN;
    c->prng = prng_seed(clock_ns() ^ (uintptr_t)c);
    c->address = strdup(options->url + strlen(SCHEME));
    c->slots = calloc(REGISTER_SLOTS_MAX, sizeof(*c->slots));
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&c->lock, NULL);
    rc = c->address && c->slots && c->wake_fd >= 0 ? 0 : -ENOMEM;
    if (rc == 0) {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        rc = -pthread_create(&c->thread, NULL, run, c);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (rc) {
        snprintf(error, error_bytes, "no thread, memory or descriptors for the witness's client: %s", strerror(-rc));
        client_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

static void wake(struct client *c)
{
    uint64_t one = 1;
    ssize_t n = write(c->wake_fd, &one, sizeof(one));
    assert(n == sizeof(one) || errno == EAGAIN);
}

static void client_ask(void *client, uint32_t slot, const struct register_request *request)
{
    struct client *c = client;
    struct slot *s = &c->slots[slot];
    pthread_mutex_lock(&c->lock);
    assert(s->state == SLOT_IDLE);
    s->state = SLOT_WAITING;
    s->request = *request;
    s->deadline_ns = clock_ns() + c->options.timeout_ms * NS_PER_MS;
    c->asked = true;
    pthread_mutex_unlock(&c->lock);
    wake(c);
}

static void client_close(void *client)
{
    struct client *c = client;
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_mutex_unlock(&c->lock);
    wake(c);
    pthread_join(c->thread, NULL);
    client_free(c);
}

const struct register_backend witness_backend = { client_open, client_ask, client_close };
