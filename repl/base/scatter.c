/* A byte stream, received where its parts belong. */
#include "repl/base/scatter.h"

#include <string.h>

void scatter_reset(struct scatter *s)
{
    s->count = 0;
    s->fill = 0;
    s->next = 0;
    s->available_bytes = 0;
    s->room_bytes = 0;
}

bool scatter_post(struct scatter *s, void *place, size_t bytes)
{
    assert(bytes > 0);
    if (s->count == SCATTER_PLACES_MAX)
        return false;
    s->places[s->count] = (struct iovec) { place, bytes };
    s->starts[s->count] = place;
    s->count++;
    s->room_bytes += bytes;
    return true;
}

void scatter_received(struct scatter *s, size_t bytes)
{
    assert(bytes <= s->room_bytes);
    s->available_bytes += bytes;
    s->room_bytes -= bytes;
    while (bytes > 0) {
        struct iovec *place = &s->places[s->fill];
        size_t part = bytes < place->iov_len ? bytes : place->iov_len;
        place->iov_base = (uint8_t *)place->iov_base + part;
        place->iov_len -= part;
        bytes -= part;
        if (place->iov_len == 0)
            s->fill++;
    }
}

static size_t received_in(const struct scatter *s, unsigned place)
{
    return (size_t)((uint8_t *)s->places[place].iov_base - s->starts[place]);
}

bool scatter_lies_at(const struct scatter *s, const void *place, size_t bytes)
{
    return s->next < s->count && s->starts[s->next] == place &&
           received_in(s, s->next) + s->places[s->next].iov_len >= bytes;
}

void scatter_take(struct scatter *s, void *to, size_t bytes)
{
    assert(bytes <= s->available_bytes);
    uint8_t *out = to;
    s->available_bytes -= bytes;
    while (bytes > 0) {
        uint8_t *from = s->starts[s->next];
        size_t here = received_in(s, s->next);
        size_t part = bytes < here ? bytes : here;
        if (from != out)
            memmove(out, from, part);
        s->starts[s->next] += part;
        out += part;
        bytes -= part;
        /* A place is done with once it is both full and taken. */
        if (received_in(s, s->next) == 0 && s->next < s->fill)
            s->next++;
    }
    if (s->available_bytes == 0 && s->room_bytes == 0)
        scatter_reset(s);
}
