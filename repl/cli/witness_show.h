/* What the command line prints of a witness. */
#pragma once

#include "repl/cli/show.h"

/* All of `lockstep witness status`. JSON: one line. */
void show_witness_status(const struct show *s, const Lockstep__Control__WitnessStatus *witness,
                         Lockstep__Control__Response *const *volumes, size_t count);

/* All of `lockstep witness history`, in the order given. JSON: one line. */
void show_witness_history(const struct show *s, const char *volume, Lockstep__Control__Response *const *decrees,
                          size_t count);
