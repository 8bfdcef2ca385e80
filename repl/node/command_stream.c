/* What flows to a client: the state of the volumes, and the events. As much as there is room for, and on when it has
 * read. */
#include <stdio.h>

#include "repl/node/command_internal.h"

static size_t encode_volume(const struct node_volume *nv, uint8_t *frame)
{
    char why[sizeof(nv->err.text)];
    struct volume_status status;
    if (nv->state == STATE_UP)
        volume_status(nv->volume, &status);
    return control_encode_volume(frame, nv->config, volume_state_name(nv->state),
                                 command_why_not_up(nv, why, sizeof(why)), nv->state == STATE_UP ? &status : NULL);
}

/* Sends as much as there is room for; goes on when the client has read it. */
static void stream_status(struct command *c)
{
    struct node *n = c->node;
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    if (c->cursor == 0) {
        if (!control_send(c->client, frame, control_encode_node(frame, n->options.name, c->nv ? 1 : n->volume_count)))
            return;
        c->cursor = 1;
    }
    unsigned count = c->nv ? 1 : n->volume_count;
    for (; c->cursor - 1 < count; c->cursor++) {
        const struct node_volume *nv = c->nv ? c->nv : &n->volumes[c->cursor - 1];
        if (!control_send(c->client, frame, encode_volume(nv, frame)))
            return;
    }
    command_finish(c, CONTROL_DONE, "%s", "");
}

static bool send_missed(struct command *c, uint64_t missed)
{
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    struct event_record r;
    char text[96];
    snprintf(text, sizeof(text), "%llu events are missing here: they came faster than they were read",
             (unsigned long long)missed);
    event_record_fill(&r, NULL, NOTE_WARNING, "events", text);
    return control_send(c->client, frame, control_encode_event(frame, &r));
}

static void stream_events(struct command *c)
{
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    for (;;) {
        uint64_t before = c->cursor;
        uint64_t missed;
        const struct event_record *r =
            events_next(&c->node->events, &c->cursor, c->nv ? c->nv->config->volume : NULL, &missed);
        if (missed && !send_missed(c, missed)) {
            c->cursor = before;
            return;
        }
        if (!r)
            break;
        if (!control_send(c->client, frame, control_encode_event(frame, r))) {
            c->cursor = missed ? r->sequence : before; /* what is missing was told */
            return;
        }
    }
    if (!c->request.follow)
        command_finish(c, CONTROL_DONE, "%s", "");
}

void command_stream(struct command *c)
{
    if (control_is_for_witness(c->request.command))
        command_witness_stream(c);
    else if (c->request.command == CONTROL_STATUS)
        stream_status(c);
    else
        stream_events(c);
}

void command_events(struct node *n)
{
    list_for_each_safe (link, &n->commands) {
        struct command *c = container_of(link, struct command, link);
        if (c->phase == PHASE_STREAMS && c->request.command == CONTROL_EVENTS)
            stream_events(c);
    }
}
