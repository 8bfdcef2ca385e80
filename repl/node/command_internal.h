/* What the files of a client's command share: command.c (from the request to the result), command_order.c (orders to a
 * volume), command_down.c (taking it down), command_stream.c (status and events) and command_progress.c. */
#pragma once

#include "repl/node/node_internal.h"

/* Why a volume does not run, in a sentence; "" when it does. Returns `out`. */
const char *command_why_not_up(const struct node_volume *nv, char *out, size_t out_bytes);

/* ---- command_order.c ---- */

/* Gives the volume, which is up, an order; command_ordered() gets the answer. Ends the command if that cannot be. */
void command_order(struct command *c, enum volume_order what, bool force);

enum control_exit command_exit_of_order(int result);

/* The same for what a client asks for: not if the volume is not up. */
void command_begin_order(struct command *c, enum volume_order what);
void command_begin_promotion(struct command *c);
void command_begin_switchover(struct command *c);
void command_begin_resolve(struct command *c);

/* ---- command_down.c ---- */

void command_begin_down(struct command *c);

/* The demotion before it was answered: the volume serves no more, or it does and is taken down nonetheless. */
void command_go_on_with_down(struct command *c, int result, const char *text);

/* The volume has drained and is detached, or never will be: its thread can end. */
void command_detached(struct command *c);

/* The answer to command_detach(). */
void command_detached_by_node(struct command *c, int result, const char *text);

/* ---- command_stream.c ---- */

/* Sends as much of the answer as there is room for. */
void command_stream(struct command *c);
