/* When a volume's next verify is due. */
#include "repl/node/verify_schedule.h"

#include <time.h>

#define HOUR_S UINT64_C(3600)
#define SKIPPED_RETRY_S HOUR_S /* of a schedule without a time of day */
#define LATE_S 60              /* that a time of day may have passed */
#define CLOCK_SET_S 5          /* by which the calendar moves when it is set, and not just adjusted */

/* The first such time of day from `from_s` on. */
static uint64_t time_of_day_from(uint64_t from_s, int32_t minute)
{
    time_t from = (time_t)from_s;
    struct tm day;
    localtime_r(&from, &day);
    /* One more day than there can be: where clocks are put forward, a time of day may be missing. */
    for (int i = 0; i < 3; i++) {
        struct tm at = day;
        at.tm_mday += i;
        at.tm_hour = minute / 60;
        at.tm_min = minute % 60;
        at.tm_sec = 0;
        at.tm_isdst = -1;
        time_t t = mktime(&at);
        if (t >= from)
            return (uint64_t)t;
    }
    return from_s;
}

uint64_t verify_schedule_next_s(const struct volume_config *config, uint64_t last_s, uint64_t now_s)
{
    if (config->verify_every_ns == 0)
        return VERIFY_NEVER_S;
    uint64_t every_s = config->verify_every_ns / NS_PER_S;
    bool any_time = config->verify_at_minute == CONFIG_ANY_TIME;
    /* The last one began somewhat after its time of day: that must not cost a day. */
    uint64_t wait_s = any_time ? every_s : every_s - min_u64(every_s / 2, HOUR_S);
    /* A record of the future is one of a clock that was wrong. */
    uint64_t from_s = last_s ? max_u64(now_s, min_u64(last_s, now_s) + wait_s) : now_s;
    return any_time ? from_s : time_of_day_from(from_s, config->verify_at_minute);
}

static int64_t clocks_of(struct verify_clocks at) { return (int64_t)at.now_s - (int64_t)at.monotonic_s; }

void verify_plan_make(struct verify_plan *p, const struct volume_config *config, struct verify_clocks at, bool skipped)
{
    bool any_time = config->verify_at_minute == CONFIG_ANY_TIME;
    uint64_t from_s = !skipped ? at.now_s : at.now_s + (any_time ? SKIPPED_RETRY_S : LATE_S);
    p->next_s = verify_schedule_next_s(config, at.last_s, from_s);
    p->last_s = at.last_s;
    p->clocks_s = clocks_of(at);
}

bool verify_plan_is_due(struct verify_plan *p, const struct volume_config *config, struct verify_clocks at)
{
    int64_t moved_s = clocks_of(at) - p->clocks_s;
    bool set = moved_s > CLOCK_SET_S || moved_s < -CLOCK_SET_S;
    bool late = config->verify_at_minute != CONFIG_ANY_TIME && at.now_s > p->next_s && at.now_s - p->next_s > LATE_S;
    if (set || late || at.last_s != p->last_s)
        verify_plan_make(p, config, at, false);
    p->clocks_s = clocks_of(at);
    return at.now_s >= p->next_s;
}
