/* The last state changes of all volumes, in order, for `lockstep events`. Belongs to one thread; what volumes' threads
 * report comes through a queue. */
#pragma once

#include "repl/core/action.h"
#include "repl/core/names.h"

#define EVENTS_KEPT 1024
#define EVENT_TOPIC_BYTES 16

struct event_record {
    uint64_t sequence; /* from 1, without gaps */
    uint64_t time_us;  /* since 1970, UTC */
    enum note_level level;
    char volume[NAME_BYTES_MAX]; /* "": the daemon's own */
    char topic[EVENT_TOPIC_BYTES];
    char text[ACTION_TEXT_BYTES];
};

struct events {
    uint64_t next; /* the sequence that the next one gets */
    struct event_record *kept;
};

/* Returns 0 or -ENOMEM. */
int events_open(struct events *e);
void events_close(struct events *e);

/* Fills in a record for events_add(), with the time of now. Text is made printable. */
void event_record_fill(struct event_record *r, const char *volume, enum note_level level, const char *topic,
                       const char *text);

/* Copies the record and gives it its sequence number. */
void events_add(struct events *e, const struct event_record *record);

/* Where a cursor begins that is to see everything kept. */
uint64_t events_oldest(const struct events *e);

/* The first kept one whose sequence is at least *cursor and that is of this volume (NULL: of any), or NULL. Moves
 * *cursor behind it, or to the end. `missed` gets how many that the cursor had yet to see are not kept any more, of
 * whatever volume. */
const struct event_record *events_next(const struct events *e, uint64_t *cursor, const char *volume, uint64_t *missed);

/* "info", "warning", "error". */
const char *note_level_name(enum note_level level);
