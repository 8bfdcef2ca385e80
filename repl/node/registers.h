/* The daemon's registers: one client for each witness that its configuration names, shared by the
 * volumes that wait for as long. */
#pragma once

#include "repl/base/err.h"
#include "repl/node/config.h"
#include "repl/witness/register.h"

struct registers;
struct register_line; /* a volume's way to its register */

/* Connects to none: who is out of reach is an answer. NULL with `err` set. */
struct registers *registers_open(const struct config *config, struct err *err);

/* After all lines were closed. NULL is allowed. */
void registers_close(struct registers *rs);

/* From any thread. `volume`: one of the configuration's, with a witness. `answered` is called on a thread of the
 * register's client: it must not wait, nor use the line. NULL with `err` set: -EAGAIN: more questions of volumes that
 * are closed wait for their answers than there may be. */
struct register_line *register_line_open(struct registers *rs, const struct volume_config *volume,
                                         void (*answered)(void *ctx, const struct register_answer *answer), void *ctx,
                                         struct err *err);

/* One at a time; gets exactly one answer, unless the line is closed before. Never waits for the register. */
void register_line_ask(struct register_line *line, const struct register_request *request);

/* After it `answered` is not called, whatever was asked: what a swap under way comes to is not known, as after a crash.
 * NULL is allowed. */
void register_line_close(struct register_line *line);
