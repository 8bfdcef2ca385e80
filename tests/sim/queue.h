/* What is still to happen in a run, in the order of simulated time; ties are broken by the seed. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum queue_kind {
    Q_DISK,     /* node; a: slot of the request */
    Q_META,     /* node; a: slot of the request */
    Q_FRAME,    /* node: direction; a: connection */
    Q_OPENED,   /* node: side; a: connection */
    Q_TICK,     /* node: its session's deadline */
    Q_CLIENT,   /* a: client */
    Q_PLAN,     /* the next fault or order */
    Q_CRASH,    /* node; a: enum cut */
    Q_START,    /* node: its daemon starts */
    Q_ORDER,    /* node; a: enum order */
    Q_GROW,     /* node; a: enum grow_step */
    Q_KEEP,     /* node */
    Q_REGISTER, /* a: message */
    Q_WAKE,     /* node: a client has asked it while it slept */
};

struct queue_event {
    uint64_t time_ns;
    uint32_t tie;
    uint32_t serial;
    enum queue_kind kind;
    uint32_t node;
    uint32_t boot; /* of the node; an event of an earlier boot is void */
    uint32_t a;
};

struct queue {
    struct queue_event *heap;
    uint32_t count;
    uint32_t max;
    uint32_t serial;
};

void queue_clear(struct queue *q);
void queue_push(struct queue *q, struct queue_event ev);
bool queue_pop(struct queue *q, struct queue_event *out);
