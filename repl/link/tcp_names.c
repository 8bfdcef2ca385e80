/* Addresses from their text; names are looked up on a thread of their own, because that can take many seconds. */
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/scoped.h"
#include "repl/link/tcp_private.h"

static int split(const char *text, char host[static TCP_NAME_BYTES_MAX], char port[static 16], struct err *err)
{
    const char *colon = strrchr(text, ':');
    size_t host_bytes = colon ? (size_t)(colon - text) : 0;
    if (!colon || host_bytes == 0 || host_bytes >= TCP_NAME_BYTES_MAX || colon[1] == 0 || strlen(colon + 1) >= 16)
        return err_set(err, -EINVAL, "\"%s\" is no address: HOST:PORT expected", text);
    if (text[0] == '[' && text[host_bytes - 1] == ']') {
        text++;
        host_bytes -= 2;
    }
    memcpy(host, text, host_bytes);
    host[host_bytes] = 0;
    memcpy(port, colon + 1, strlen(colon + 1) + 1);
    return 0;
}

static int look_up(const char *host, const char *port, int flags, struct tcp_address *out)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags };
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(host, port, &hints, &list);
    if (rc != 0)
        return rc;
    memcpy(&out->addr, list->ai_addr, list->ai_addrlen);
    out->bytes = list->ai_addrlen;
    freeaddrinfo(list);
    return 0;
}

int tcp_parse_numeric(const char *text, struct tcp_address *out, struct err *err)
{
    char host[TCP_NAME_BYTES_MAX];
    char port[16];
    int rc = split(text, host, port, err);
    if (rc < 0)
        return rc;
    return look_up(host, port, AI_NUMERICHOST, out) == 0;
}

int tcp_resolve(const char *text, struct tcp_address *out, struct err *err)
{
    char host[TCP_NAME_BYTES_MAX];
    char port[16];
    int rc = split(text, host, port, err);
    if (rc < 0)
        return rc;
    rc = look_up(host, port, AI_PASSIVE, out);
    if (rc != 0)
        return err_set(err, -EADDRNOTAVAIL, "%s: %s", text, gai_strerror(rc));
    return 0;
}

/* Belongs to both the path and the thread until one of them lets go; who comes second frees it. */
struct tcp_lookup {
    struct ring_task task;
    struct ring *ring;
    void *ctx;
    void (*done)(void *ctx, int result, const struct tcp_address *address, const char *reason);
    char text[TCP_NAME_BYTES_MAX];
    struct tcp_address address;
    struct err err;
    int result;
    pthread_mutex_t lock;
    bool forgotten; /* by the path */
};

static void lookup_free(struct tcp_lookup *l)
{
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static void lookup_ended(struct ring_task *task)
{
    struct tcp_lookup *l = container_of(task, struct tcp_lookup, task);
    /* The thread may still be about to leave the lock that it posted under. */
    pthread_mutex_lock(&l->lock);
    bool forgotten = l->forgotten;
    pthread_mutex_unlock(&l->lock);
    if (!forgotten)
        l->done(l->ctx, l->result, &l->address, l->err.text);
    lookup_free(l);
}

static void *lookup_thread(void *arg)
{
    struct tcp_lookup *l = arg;
    l->result = tcp_resolve(l->text, &l->address, &l->err);
    pthread_mutex_lock(&l->lock);
    bool forgotten = l->forgotten;
    if (!forgotten)
        ring_post(l->ring, &l->task);
    pthread_mutex_unlock(&l->lock);
    if (forgotten)
        lookup_free(l);
    return NULL;
}

struct tcp_lookup *tcp_lookup_start(struct ring *r, const char *text, void *ctx,
                                    void (*done)(void *ctx, int result, const struct tcp_address *address,
                                                 const char *reason),
                                    struct err *err)
{
    struct tcp_lookup *l = calloc(1, sizeof(*l));
    if (!l) {
        err_set(err, -ENOMEM, "%s: no memory for a name look-up", text);
        return NULL;
    }
    l->ring = r;
    l->ctx = ctx;
    l->done = done;
    l->task.run = lookup_ended;
    snprintf(l->text, sizeof(l->text), "%s", text);
    pthread_mutex_init(&l->lock, NULL);
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int rc = pthread_create(&thread, &attr, lookup_thread, l);
    pthread_attr_destroy(&attr);
    if (rc != 0) {
        err_set(err, -rc, "%s: no thread for a name look-up: %s", text, strerror(rc));
        lookup_free(l);
        return NULL;
    }
    return l;
}

void tcp_lookup_forget(struct tcp_lookup *l)
{
    /* Once posted it is freed by its task, which the ring runs before it closes. */
    pthread_mutex_lock(&l->lock);
    l->forgotten = true;
    pthread_mutex_unlock(&l->lock);
}
