/* When a volume's next verify is due, by the calendar. */
#pragma once

#include <stdint.h>

#include "repl/node/config.h"

#define VERIFY_NEVER_S UINT64_MAX

/* The first time from `now_s` on (seconds since 1970) that the schedule names, after one at `last_s` (0: there was
 * none); VERIFY_NEVER_S: there is no schedule. With a time of day: the next such time, local, on a day that is `every`
 * after the last one, or later. Time that was missed is not made up for: with a time of day, its next one is waited
 * for. */
uint64_t verify_schedule_next_s(const struct volume_config *config, uint64_t last_s, uint64_t now_s);

/* The plan of a running volume, kept in step with the clocks. */
struct verify_plan {
    uint64_t next_s;  /* since 1970; VERIFY_NEVER_S */
    uint64_t last_s;  /* of the verify after which that is */
    int64_t clocks_s; /* the calendar less the monotonic clock, when they were last looked at */
};

/* What a look at the plan needs to know, in seconds; `now_s` by the calendar. */
struct verify_clocks {
    uint64_t now_s;
    uint64_t monotonic_s;
    uint64_t last_s; /* when the last verify that came to its end began; 0: there was none */
};

/* `skipped`: its time has come, and it could not be run. With a time of day the next such one is waited for, else an
 * hour. */
void verify_plan_make(struct verify_plan *p, const struct volume_config *config, struct verify_clocks at, bool skipped);

/* Is it due? Made anew when somebody has run a verify meanwhile, when the calendar was set, or when a time of day has
 * passed unused. To be called every second or so. */
bool verify_plan_is_due(struct verify_plan *p, const struct volume_config *config, struct verify_clocks at);
