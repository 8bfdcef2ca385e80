/* The verify that nobody orders: by the calendar (verify_schedule.h), on the primary. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "repl/base/clock.h"
#include "repl/node/volume_internal.h"

#define CALENDAR_LOOK_NS NS_PER_S

static struct verify_clocks verify_clocks(const struct volume *v)
{
    struct engine_view view;
    engine_view(v->engine, &view);
    return (struct verify_clocks) {
        .now_s = (uint64_t)time(NULL),
        .monotonic_s = clock_awake_ns() / NS_PER_S,
        .last_s = view.verified_at_s,
    };
}

static void plan_verify(struct volume *v, bool skipped)
{
    verify_plan_make(&v->verify_plan, &v->config, verify_clocks(v), skipped);
}

static void scheduled_done(void *ctx, int result, const char *text)
{
    struct volume *v = ctx;
    char said[STATUS_TEXT_BYTES];
    v->scheduled_runs = false;
    if (v->stopping)
        return;
    bool over = result == 0 || result == -EILSEQ; /* what it found is told already */
    plan_verify(v, !over);
    if (over)
        return;
    snprintf(said, sizeof(said), "the scheduled verify %s: %s",
             v->scheduled_began ? "was cut off before its end" : "is skipped", text ? text : strerror(-result));
    volume_note(v, NOTE_WARNING, "verify", said);
}

/* On the primary only: who else is to run it cannot tell what is being written. */
static void look_at_calendar(struct ring_timer *t)
{
    struct volume *v = container_of(t, struct volume, verify_timer);
    struct engine_view view;
    struct verify_view verify;
    if (v->stopping)
        return;
    ring_timer_set(v->ring, t, ring_now_ns(v->ring) + CALENDAR_LOOK_NS);
    engine_verify_view(v->engine, &verify);
    /* One that was ordered counts as this one if it comes to its end. */
    if (v->scheduled_runs || verify.running || !verify_plan_is_due(&v->verify_plan, &v->config, verify_clocks(v)))
        return;
    engine_view(v->engine, &view);
    if (view.role != ROLE_PRIMARY || !view.serving) {
        /* At any time: as soon as it is primary. */
        if (v->config.verify_at_minute != CONFIG_ANY_TIME)
            plan_verify(v, true);
        return;
    }
    v->scheduled_runs = true;
    v->scheduled_began = false;
    v->scheduled = (struct volume_order_task) { .volume = v, .order = VOLUME_VERIFY, .done = scheduled_done, .ctx = v };
    list_init(&v->scheduled.pending);
    volume_note(v, NOTE_INFO, "verify", "the scheduled verify begins");
    volume_run_order(&v->scheduled.task);
    engine_verify_view(v->engine, &verify);
    v->scheduled_began = verify.running;
}

void volume_begin_schedule(struct volume *v)
{
    if (v->config.verify_every_ns == 0)
        return;
    plan_verify(v, false);
    v->verify_timer.fired = look_at_calendar;
    ring_timer_set(v->ring, &v->verify_timer, ring_now_ns(v->ring) + CALENDAR_LOOK_NS);
}
