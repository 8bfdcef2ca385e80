/* A conversation with the daemon. */
#include "repl/cli/question.h"

#include <stdio.h>
#include <string.h>

#include "repl/base/units.h"

static const struct witness_word {
    const char *name;
    Lockstep__Control__WitnessOrder__Kind kind;
} witness_words[] = {
    { "status", LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__STATUS },
    { "history", LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__HISTORY },
    { "confirm", LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__CONFIRM },
    { "forget", LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__FORGET },
    { "adopt", _LOCKSTEP__CONTROL__WITNESS_ORDER__KIND_IS_INT_SIZE }, /* not of the witness: an order to a volume */
};

static const struct witness_word *find_witness_word(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(witness_words); i++)
        if (strcmp(witness_words[i].name, name) == 0)
            return &witness_words[i];
    return NULL;
}

bool question_has_witness_word(const char *word) { return find_witness_word(word) != NULL; }

bool question_is_adopt(const struct arguments *args) { return args->word && strcmp(args->word, "adopt") == 0; }

/* The request, with room for every command in it. */
struct question {
    Lockstep__Control__Request request;
    union {
        Lockstep__Control__Create create;
        Lockstep__Control__Up up;
        Lockstep__Control__Down down;
        Lockstep__Control__StatusQuery status;
        Lockstep__Control__EventsQuery events;
        Lockstep__Control__Promote promote;
        Lockstep__Control__Demote demote;
        Lockstep__Control__Verify verify;
        Lockstep__Control__Resize resize;
        Lockstep__Control__Resolve resolve;
        Lockstep__Control__Switchover switchover;
        Lockstep__Control__Adopt adopt;
        Lockstep__Control__WitnessOrder witness;
    };
};

static void compose(const struct arguments *args, struct question *q)
{
    static char none[] = "";
    char *volume = args->volume ? (char *)args->volume : none; /* the generated structures have no const in them */
    bool force = args->given & OPTION_FORCE;
    Lockstep__Control__Request *r = &q->request;
    lockstep__control__request__init(r);
    r->version = CONTROL_VERSION;
    const char *name = args->command->name;
    if (strcmp(name, "create") == 0) {
        lockstep__control__create__init(&q->create);
        q->create.volume = volume;
        q->create.force = force;
        q->create.adopt = args->given & OPTION_ADOPT;
        r->create = &q->create;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_CREATE;
    } else if (strcmp(name, "up") == 0) {
        lockstep__control__up__init(&q->up);
        q->up.volume = volume;
        r->up = &q->up;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_UP;
    } else if (strcmp(name, "down") == 0) {
        lockstep__control__down__init(&q->down);
        q->down.volume = volume;
        q->down.force = force;
        r->down = &q->down;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_DOWN;
    } else if (strcmp(name, "status") == 0) {
        lockstep__control__status_query__init(&q->status);
        q->status.volume = volume;
        r->status = &q->status;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_STATUS;
    } else if (strcmp(name, "events") == 0) {
        lockstep__control__events_query__init(&q->events);
        q->events.volume = volume;
        q->events.follow = !(args->given & OPTION_NO_FOLLOW);
        r->events = &q->events;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_EVENTS;
    } else if (strcmp(name, "promote") == 0) {
        lockstep__control__promote__init(&q->promote);
        q->promote.volume = volume;
        q->promote.force = force;
        r->promote = &q->promote;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_PROMOTE;
    } else if (strcmp(name, "resize") == 0) {
        lockstep__control__resize__init(&q->resize);
        q->resize.volume = volume;
        r->resize = &q->resize;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_RESIZE;
    } else if (strcmp(name, "resolve") == 0) {
        lockstep__control__resolve__init(&q->resolve);
        q->resolve.volume = volume;
        q->resolve.keep = args->keep ? (char *)args->keep : none;
        q->resolve.force = force;
        r->resolve = &q->resolve;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_RESOLVE;
    } else if (strcmp(name, "verify") == 0) {
        lockstep__control__verify__init(&q->verify);
        q->verify.volume = volume;
        q->verify.repair = args->given & OPTION_REPAIR;
        r->verify = &q->verify;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_VERIFY;
    } else if (strcmp(name, "switchover") == 0) {
        lockstep__control__switchover__init(&q->switchover);
        q->switchover.volume = volume;
        r->switchover = &q->switchover;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_SWITCHOVER;
    } else if (question_is_adopt(args)) {
        lockstep__control__adopt__init(&q->adopt);
        q->adopt.volume = volume;
        r->adopt = &q->adopt;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_ADOPT;
    } else if (strcmp(name, "witness") == 0) {
        lockstep__control__witness_order__init(&q->witness);
        q->witness.volume = volume;
        q->witness.kind = find_witness_word(args->word)->kind;
        q->witness.force = force;
        r->witness = &q->witness;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_WITNESS;
    } else {
        lockstep__control__demote__init(&q->demote);
        q->demote.volume = volume;
        q->demote.force = force;
        r->demote = &q->demote;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_DEMOTE;
    }
}

enum control_exit question_ask(const struct arguments *args, bool (*each)(void *ctx, Lockstep__Control__Response *r),
                               void *ctx, struct err *text)
{
    struct question question;
    compose(args, &question);
    static struct client client;
    text->text[0] = 0;
    enum control_exit code = client_ask(&client, args->control, &question.request, args->timeout_ns, text);
    bool ended = code != CONTROL_DONE;
    while (!ended) {
        Lockstep__Control__Response *r = client_next(&client, &code, text);
        if (!r)
            break;
        if (r->message_case == LOCKSTEP__CONTROL__RESPONSE__MESSAGE_RESULT) {
            code = r->result->exit_code <= CONTROL_TIMED_OUT ? (enum control_exit)r->result->exit_code : CONTROL_FAILED;
            snprintf(text->text, sizeof(text->text), "%s", r->result->text);
            ended = true;
        }
        if (ended || !each(ctx, r))
            lockstep__control__response__free_unpacked(r, NULL);
    }
    client_close(&client);
    return code;
}
