/* The last state changes of all volumes, in order. */
#include "repl/node/events.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "repl/node/printable.h"

#define US_PER_S UINT64_C(1000000)

int events_open(struct events *e)
{
    e->next = 1;
    e->kept = calloc(EVENTS_KEPT, sizeof(*e->kept));
    return e->kept ? 0 : -ENOMEM;
}

void events_close(struct events *e)
{
    free(e->kept);
    e->kept = NULL;
}

void event_record_fill(struct event_record *r, const char *volume, enum note_level level, const char *topic,
                       const char *text)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(r, 0, sizeof(*r));
    r->time_us = (uint64_t)now.tv_sec * US_PER_S + (uint64_t)now.tv_nsec / NS_PER_US;
    r->level = level;
    snprintf(r->volume, sizeof(r->volume), "%s", volume ? volume : "");
    snprintf(r->topic, sizeof(r->topic), "%s", topic);
    printable(r->text, sizeof(r->text), text, strlen(text));
}

void events_add(struct events *e, const struct event_record *record)
{
    struct event_record *r = &e->kept[e->next % EVENTS_KEPT];
    *r = *record;
    r->sequence = e->next++;
}

uint64_t events_oldest(const struct events *e) { return e->next > EVENTS_KEPT ? e->next - EVENTS_KEPT : 1; }

const struct event_record *events_next(const struct events *e, uint64_t *cursor, const char *volume, uint64_t *missed)
{
    uint64_t oldest = events_oldest(e);
    *missed = *cursor < oldest ? oldest - *cursor : 0;
    if (*cursor < oldest)
        *cursor = oldest;
    while (*cursor < e->next) {
        const struct event_record *r = &e->kept[(*cursor)++ % EVENTS_KEPT];
        if (!volume || strcmp(r->volume, volume) == 0)
            return r;
    }
    return NULL;
}

const char *note_level_name(enum note_level level)
{
    switch (level) {
    case NOTE_INFO: return "info";
    case NOTE_WARNING: return "warning";
    case NOTE_ERROR: return "error";
    }
    return "?";
}
