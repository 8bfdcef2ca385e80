/* A conversation with the daemon: the request that arguments make, and what comes back. */
#pragma once

#include "repl/base/err.h"
#include "repl/cli/arguments.h"
#include "repl/cli/client.h"

/* Of `lockstep witness`: what may follow it. */
bool question_has_witness_word(const char *word);

/* `lockstep witness adopt`, which is an order to a volume. */
bool question_is_adopt(const struct arguments *args);

/* Asks, and gives each answer but the result to `each`, which keeps it by returning true. Returns the exit code; `text`
 * gets the result's or the error's. */
enum control_exit question_ask(const struct arguments *args, bool (*each)(void *ctx, Lockstep__Control__Response *r),
                               void *ctx, struct err *text);
