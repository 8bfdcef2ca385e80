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
