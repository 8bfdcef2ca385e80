/* What the command line prints: for eyes, or as JSON. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "proto/control_wire.h"

struct show {
    FILE *out;
    bool json;
    bool colour; /* only for eyes, and only on a terminal */
};

/* All of `lockstep status`. `volumes` in the order of the daemon. JSON: one line. */
void show_status(const struct show *s, const char *node, Lockstep__Control__VolumeStatus *const *volumes, size_t count);

/* One line. */
void show_event(const struct show *s, const Lockstep__Control__Event *event);

/* How a command ended. For eyes: to `out` if it was done, else to stderr. JSON: to `out` in any case. */
void show_result(const struct show *s, enum control_exit code, const char *text);

/* How a verify ended, with what it found, or NULL. For eyes: a line to `out` for each place, before the result. */
void show_verify_result(const struct show *s, enum control_exit code, const char *text,
                        const Lockstep__Control__Places *found);

/* How far something is, on stderr: a bar that is drawn over on a terminal, else a line for every tenth. `last_tenth` is
 * the caller's to keep, -1 at first. */
void show_progress(const Lockstep__Control__Progress *p, const char *volume, int *last_tenth);

/* Ends the bar, if one was drawn. */
void show_progress_end(int last_tenth);
