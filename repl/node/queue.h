/* A bounded queue from any thread to one: what volumes' threads tell the logger and the control loop without ever
 * waiting for them.
 *
 * All memory is there from the beginning. Putting into a full queue drops the item and counts it. The algorithm is
 * Dmitry Vyukov's bounded queue (1024cores.net), with a single consumer. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct queue {
    uint8_t *slots; /* each: a struct queue_slot, then the item */
    size_t slot_bytes;
    size_t item_bytes;
    uint64_t mask;
    atomic_uint_fast64_t head;    /* the next to put; producers move it */
    uint64_t tail;                /* the next to take; the consumer's */
    atomic_uint_fast64_t dropped; /* since queue_take_dropped() */
    int wake_fd;
};

/* `items`: a power of two. Returns 0 or a negative errno. */
int queue_open(struct queue *q, unsigned items, size_t item_bytes);

/* Nobody may put any more. */
void queue_close(struct queue *q);

/* From any thread: copies item_bytes. Never waits. False: full, and counted. */
bool queue_put(struct queue *q, const void *item);

/* The consumer only. False: there is none right now. */
bool queue_take(struct queue *q, void *item);

/* How many were dropped since the last call. The consumer only. */
uint64_t queue_take_dropped(struct queue *q);

/* Becomes readable when something was put. Call queue_awake() after it did, and before taking until there is none. */
int queue_wake_fd(const struct queue *q);
void queue_awake(struct queue *q);

/* Makes queue_wake_fd() readable without an item. From any thread. */
void queue_wake(struct queue *q);
