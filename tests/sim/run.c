/* One run of one seed: the clock, chance, the trace, and how a run fails. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "tests/sim/sim.h"

#define STEPS_MAX 5000000
#define AUDIT_EVERY_STEPS 512

uint64_t sim_below(struct sim *s, enum chance c, uint64_t bound) { return prng_below(&s->chance[c], bound); }

uint64_t sim_between(struct sim *s, enum chance c, uint64_t low, uint64_t high)
{
    return low + sim_below(s, c, high - low + 1);
}

bool sim_chance(struct sim *s, enum chance c, unsigned per_million)
{
    return per_million > 0 && prng_chance(&s->chance[c], per_million);
}

void sim_at(struct sim *s, uint64_t time_ns, enum queue_kind kind, uint32_t node, uint32_t a)
{
    queue_push(&s->queue, (struct queue_event) { .time_ns = time_ns,
                                                 .tie = (uint32_t)prng_next(&s->chance[CHANCE_QUEUE]),
                                                 .kind = kind,
                                                 .node = node,
                                                 .boot = node < SIM_NODES ? s->node[node].boot : 0,
                                                 .a = a });
}

void sim_trace_line(struct sim *s, const char *format, ...)
{
    char *line = s->trace[s->trace_count++ % SIM_TRACE_LINES];
    int n = snprintf(line, SIM_TRACE_BYTES, "%12.6f ms %6" PRIu64 "  ", (double)s->now_ns / 1e6, s->steps);
    va_list ap;
    va_start(ap, format);
    vsnprintf(line + n, SIM_TRACE_BYTES - (size_t)n, format, ap);
    va_end(ap);
    if (s->trace_all)
        puts(line);
}

void sim_trace_print(const struct sim *s)
{
    if (s->trace_all || !s->tracing)
        return;
    uint64_t from = s->trace_count > SIM_TRACE_LINES ? s->trace_count - SIM_TRACE_LINES : 0;
    printf("the last %" PRIu64 " of %" PRIu64 " events:\n", s->trace_count - from, s->trace_count);
    for (uint64_t i = from; i < s->trace_count; i++)
        puts(s->trace[i % SIM_TRACE_LINES]);
}

void sim_mix(struct sim *s, uint64_t value)
{
    s->hash = (s->hash ^ value ^ s->now_ns << 20) * UINT64_C(0x9fb21c651e98df25);
    s->hash ^= s->hash >> 29;
}

void sim_fail(struct sim *s, const char *check, const char *format, ...)
{
    if (s->tracing) {
        sim_trace_print(s);
        printf("seed %" PRIu64 " FAILED at step %" PRIu64 ", %.6f ms: %s: ", s->seed, s->steps, (double)s->now_ns / 1e6,
               check);
        va_list ap;
        va_start(ap, format);
        vprintf(format, ap);
        va_end(ap);
        printf("\n");
        fflush(stdout);
    }
    _Exit(SIM_EXIT_VIOLATION);
}

void sim_reset(struct sim *s, uint64_t seed)
{
    s->seed = seed;
    s->now_ns = 0;
    s->steps = 0;
    s->hash = seed;
    s->trace_count = 0;
    struct prng root = prng_seed(seed * UINT64_C(0x2545f4914f6cdd1d) + 1);
    for (unsigned i = 0; i < CHANCES; i++)
        s->chance[i] = prng_seed(prng_next(&root));
    queue_clear(&s->queue);
    s->block_count = (uint32_t)sim_between(s, CHANCE_PLAN, 2, MODEL_BLOCKS_MAX / 32) * 32;
    s->goes_alone = sim_chance(s, CHANCE_PLAN, 500000);
    /* A small log gives extents up all the time; then no change may touch more than fit. */
    s->log_slots = MODEL_BLOCKS_MAX / 8 + (uint32_t)sim_below(s, CHANCE_PLAN, 64);
    if (sim_chance(s, CHANCE_PLAN, 400000))
        s->log_slots = (uint32_t)sim_between(s, CHANCE_PLAN, 4, 8);
    s->dead_after_ns = sim_between(s, CHANCE_PLAN, 20, 200) * NS_PER_MS;
    /* The largest lets more come than a node has buffers for. */
    static const uint32_t windows[] = { 1, 4, 64, 64, 1024 };
    s->window_frames = windows[sim_below(s, CHANCE_PLAN, ARRAY_LEN(windows))];
    s->window_bytes = IO_BYTES_MAX;
    s->acked_epoch = 0;
    s->acked_node = -1;
    memset(s->served_at, 0, sizeof(s->served_at));
    s->ended = false;
    if (s->spoilt.any)
        s->spoilt = (struct sim_spoilt) { 0 };
    model_reset(&s->model, s->block_count);
    sim_register_reset(s);
    sim_sleep_reset(s);
    s->probed = UINT32_MAX;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        sim_disk_reset(s, i, s->block_count);
        sim_node_reset(s, i);
    }
    sim_net_reset(s);
    sim_clients_reset(s);
    sim_legs_reset(s);
    sim_plan_reset(s);
    sim_rollback_reset(s);
    sim_moves_reset(s);
}

static void dispatch(struct sim *s, const struct queue_event *ev)
{
    bool of_this_boot = ev->node < SIM_NODES && s->node[ev->node].up && ev->boot == s->node[ev->node].boot;
    /* What is for a node that stands still reaches it when it goes on. A frame's event is of its sender. */
    unsigned reached = ev->kind == Q_FRAME ? 1 - ev->node : ev->node;
    bool reaches = ev->kind == Q_DISK || ev->kind == Q_META || ev->kind == Q_TICK || ev->kind == Q_FRAME ||
                   ev->kind == Q_OPENED || ev->kind == Q_GROW || ev->kind == Q_ORDER;
    if (reaches && reached < SIM_NODES && sim_is_paused(&s->node[reached], s->now_ns)) {
        struct queue_event later = *ev;
        later.time_ns = s->node[reached].paused_until_ns;
        if (ev->kind == Q_TICK && of_this_boot && s->node[reached].tick_at_ns == s->now_ns)
            s->node[reached].tick_at_ns = later.time_ns;
        queue_push(&s->queue, later);
        return;
    }
    switch (ev->kind) {
    case Q_DISK:
        if (of_this_boot)
            sim_disk_event(s, ev->node, ev->a);
        return;
    case Q_META:
        if (of_this_boot)
            sim_meta_event(s, ev->node, ev->a);
        return;
    case Q_TICK:
        if (of_this_boot)
            sim_node_tick(s, ev->node);
        return;
    case Q_FRAME: sim_net_frame_event(s, ev->node, ev->a); return;
    case Q_OPENED: sim_net_opened_event(s, ev->node, ev->a); return;
    case Q_CLIENT: sim_client_event(s, ev->a); return;
    case Q_PLAN: sim_plan_event(s); return;
    case Q_START:
        if (!s->node[ev->node].up)
            sim_plan_start(s, ev->node);
        return;
    case Q_CRASH:
        if (of_this_boot)
            sim_plan_cut(s, ev->node, (enum cut)ev->a);
        return;
    case Q_GROW:
        if (of_this_boot)
            sim_grow_event(s, ev->node, (enum grow_step)ev->a);
        return;
    case Q_KEEP:
        if (of_this_boot)
            sim_keep_event(s, ev->node);
        return;
    case Q_REGISTER: sim_register_event(s, ev->a); return;
    case Q_WAKE:
        if (of_this_boot)
            sim_wake_event(s, ev->node);
        return;
    case Q_ORDER: sim_plan_late_order(s, ev->node, (enum order)ev->a); return;
    }
}

/* What has not ended in order ends here, so that the world can be used again. */
static void tear_down(struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (s->node[i].up)
            sim_node_crash(s, i);
    }
    sim_net_reset(s);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        sim_mix(s, checksum64(s->disk[i].data.content, (size_t)s->block_count * BLOCK_BYTES));
        sim_mix(s, checksum64(s->disk[i].data.stable, (size_t)s->block_count * BLOCK_BYTES));
        sim_mix(s, checksum64(s->node[i].meta.medium.stable, SUPERBLOCK_COPIES * (size_t)SUPERBLOCK_BYTES));
    }
}

uint64_t sim_run(struct sim *s, uint64_t seed)
{
    sim_reset(s, seed);
    if (s->only_registered && !s->registered)
        return s->hash;
    struct queue_event ev;
    while (!s->ended && queue_pop(&s->queue, &ev)) {
        if (ev.time_ns < s->now_ns)
            sim_fail(s, "simulator", "time goes back");
        s->now_ns = ev.time_ns;
        if (++s->steps > STEPS_MAX)
            sim_fail(s, "liveness", "no end after %u steps", STEPS_MAX);
        dispatch(s, &ev);
        if (s->steps % AUDIT_EVERY_STEPS == 0) {
            sim_audit(s);
            sim_register_check(s);
        }
    }
    tear_down(s);
    return s->hash;
}

struct sim *sim_new(void)
{
    struct sim *s = calloc(1, sizeof(*s));
    if (!s)
        abort();
    s->net.conns = calloc(SIM_CONNS_MAX, sizeof(*s->net.conns));
    s->trace = calloc(SIM_TRACE_LINES, sizeof(*s->trace));
    s->actions = (struct actions) { .list = calloc(ENGINE_ACTIONS_MAX, sizeof(struct action)),
                                    .max = ENGINE_ACTIONS_MAX,
                                    .text = calloc(1, ENGINE_TEXT_BYTES),
                                    .text_bytes = ENGINE_TEXT_BYTES };
    if (!s->net.conns || !s->trace || !s->actions.list || !s->actions.text)
        abort();
    for (unsigned i = 0; i < SIM_NODES; i++) {
        sim_disk_open(&s->disk[i]);
        sim_meta_open(&s->node[i].meta);
        if (buf_pool_open(&s->node[i].pool, SIM_POOL_BYTES) < 0)
            abort();
    }
    return s;
}
