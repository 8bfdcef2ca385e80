/* Receiving a byte stream straight into the places where its parts belong.
 *
 * A stream of [header][payload][header][payload]... is received by one call into a list of places: a header slot, a
 * payload buffer, a header slot, and so on, as the reader guesses that the stream goes on. scatter_take() then moves
 * each part to where it belongs: nothing is copied where the guess was right, and a wrong guess costs a copy, never a
 * wrong byte. NBD clients and the peer send runs of equal writes, so that the guess is right nearly always.
 *
 * A place given to scatter_post() must stay valid until its bytes are taken or scatter_reset() is called. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define SCATTER_PLACES_MAX 64

struct scatter {
    struct iovec places[SCATTER_PLACES_MAX]; /* what is not yet received of each place */
    uint8_t *starts[SCATTER_PLACES_MAX];     /* where the bytes not yet taken of each place begin */
    unsigned count;                          /* places posted */
    unsigned fill;                           /* place that the next received byte goes to */
    unsigned next;                           /* place that the next byte to take is in */
    size_t available_bytes;                  /* received, not yet taken */
    size_t room_bytes;                       /* posted, not yet received */
};

/* Forgets all places and whatever was received and not taken. */
void scatter_reset(struct scatter *s);

/* Adds a place of `bytes` > 0 for the stream to go on in. False when the list is full. */
bool scatter_post(struct scatter *s, void *place, size_t bytes);

/* The places to receive into, for recvmsg(). */
static inline struct iovec *scatter_iov(struct scatter *s) { return &s->places[s->fill]; }

static inline unsigned scatter_iov_count(const struct scatter *s) { return s->count - s->fill; }

/* Tells that `bytes` <= room_bytes were received into the places. */
void scatter_received(struct scatter *s, size_t bytes);

/* True when the next `bytes` of the stream begin at `place` and lie there in one piece, or will once received. */
bool scatter_lies_at(const struct scatter *s, const void *place, size_t bytes);

/* Takes the next `bytes` <= available_bytes of the stream and leaves them at `to`, which is either the place they lie
 * at already, or memory that holds no part of the stream that is not taken yet. */
void scatter_take(struct scatter *s, void *to, size_t bytes);
