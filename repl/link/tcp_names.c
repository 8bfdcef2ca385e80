/* Names are looked up on a thread of their own, because that can take many seconds. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/scoped.h"
#include "repl/link/tcp_private.h"

/* Belongs to both the path and the thread until one of them lets go; who comes second frees it. */
struct tcp_lookup {
    struct ring_task task;
    struct ring *ring;
    void *ctx;
    void (*done)(void *ctx, int result, const struct net_address *address, const char *reason);
    char text[NET_ADDRESS_TEXT_BYTES_MAX];
    struct net_address address;
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
    l->result = net_address_resolve(l->text, false, &l->address, &l->err);
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
                                    void (*done)(void *ctx, int result, const struct net_address *address,
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
