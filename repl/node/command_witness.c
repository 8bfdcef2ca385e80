/* What an operator asks of the witness in this daemon: the order to its thread, and the answer, page by page. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repl/node/node_internal.h"

struct witness_command {
    struct witness_order order;
    struct command *command;
    bool head_sent;
    unsigned sent; /* of the order's page */
};

/* On the witness's thread. */
static void order_done(struct witness_order *o)
{
    struct witness_command *w = container_of(o, struct witness_command, order);
    struct answer answer = { .kind = ANSWER_WITNESS, .command = w->command };
    bool put = queue_put(&w->command->node->answers, &answer);
    assert(put);
}

static enum witness_order_kind kind_of(const struct command *c)
{
    assert(control_is_for_witness(c->request.command));
    return WITNESS_STATUS + (c->request.command - CONTROL_WITNESS_STATUS);
}
static_assert(CONTROL_WITNESS_FORGET - CONTROL_WITNESS_STATUS == WITNESS_FORGET - WITNESS_STATUS, "in the same order");

static void give_order(struct command *c)
{
    c->phase = PHASE_WITNESS;
    c->witness->sent = 0;
    c->node->orders++;
    witness_order(c->node->witness, &c->witness->order);
}

void command_witness_begin(struct command *c)
{
    if (!c->node->witness) {
        command_finish(c, CONTROL_USED_WRONGLY,
                       "this lockstepd is no witness: its configuration has no file with a `witness:` section");
        return;
    }
    c->witness = c->node->orders < ORDERS_MAX ? calloc(1, sizeof(*c->witness)) : NULL;
    if (!c->witness) {
        command_finish(c, CONTROL_FAILED, "out of memory, or too many orders are under way; wait for them");
        return;
    }
    c->witness->command = c;
    c->witness->order.done = order_done;
    c->witness->order.kind = kind_of(c);
    c->witness->order.force = c->request.force;
    memcpy(c->witness->order.volume, c->request.volume, sizeof(c->request.volume));
    give_order(c);
}

static enum control_exit exit_code_of(int result)
{
    switch (result) {
    case -EPERM: return CONTROL_REFUSED;
    case -ENOENT: return CONTROL_USED_WRONGLY;
    default: return CONTROL_FAILED;
    }
}

void command_witness_answered(struct command *c)
{
    c->node->orders--;
    if (!c->client) {
        command_free(c);
        return;
    }
    const struct witness_order *o = &c->witness->order;
    if (o->err.code) {
        command_finish(c, exit_code_of(o->err.code), "%s", o->err.text);
        return;
    }
    c->phase = PHASE_STREAMS;
    command_witness_stream(c);
}

static bool send_head(struct command *c)
{
    struct witness_command *w = c->witness;
    const struct witness_config *config = &c->node->options.config->witness;
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    if (w->head_sent || w->order.kind != WITNESS_STATUS)
        return true;
    w->head_sent = control_send(c->client, frame,
                                control_encode_witness(frame, witness_address(c->node->witness), config->state,
                                                       w->order.volumes, w->order.connections));
    return w->head_sent;
}

static void say_done(struct command *c)
{
    switch (c->witness->order.kind) {
    case WITNESS_STATUS:
    case WITNESS_HISTORY: command_finish(c, CONTROL_DONE, "%s", ""); return;
    case WITNESS_CONFIRM:
        command_finish(c, CONTROL_DONE, "volume %s: the witness decides again", c->request.volume);
        return;
    case WITNESS_FORGET:
        command_finish(c, CONTROL_DONE,
                       "volume %s is forgotten. Nodes that were part of it know, and call this witness older",
                       c->request.volume);
        return;
    }
}

void command_witness_stream(struct command *c)
{
    struct witness_command *w = c->witness;
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    if (!send_head(c))
        return;
    for (; w->sent < w->order.count; w->sent++) {
        size_t bytes = w->order.kind == WITNESS_STATUS
                           ? control_encode_witness_volume(frame, &w->order.volume_list[w->sent])
                           : control_encode_decree(frame, &w->order.entries[w->sent]);
        if (!control_send(c->client, frame, bytes))
            return;
    }
    if (!w->order.cursor)
        say_done(c);
    else if (c->node->orders < ORDERS_MAX)
        give_order(c);
    else
        command_finish(c, CONTROL_FAILED, "too many orders are under way; wait for them");
}
