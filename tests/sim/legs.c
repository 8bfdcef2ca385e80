/* What each leg must hold, at any moment and after a loss of power, and what "in sync" must mean. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/sim.h"

void sim_legs_reset(struct sim *s) { s->legs = (struct sim_legs) { .flushed = 1 }; }

void sim_legs_watch(struct sim *s)
{
    s->legs.watched = true;
    s->legs.span = model_span_begin(&s->model);
    s->legs.flushed = model_span_begun(&s->model, s->legs.span);
}

/* The model may forget what no leg can hold any more. */
static void forget(struct sim *s)
{
    uint64_t oldest = s->legs.flushed;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (s->legs.behind[i])
            oldest = min_u64(oldest, s->legs.bound[i]);
    }
    if (s->legs.watched)
        model_span_move(&s->model, s->legs.span, oldest);
}

void sim_legs_flushed(struct sim *s, uint64_t begun)
{
    if (begun <= s->legs.flushed)
        return;
    s->legs.flushed = begun;
    forget(s);
}

void sim_legs_power_lost(struct sim *s, const bool lost[SIM_NODES])
{
    struct sim_legs *l = &s->legs;
    if (!l->watched)
        sim_fail(s, "simulator", "power is lost in a run that was not to lose any");
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (!lost[i] || l->behind[i])
            continue;
        if (!model_check_durable(&s->model, s->disk[i].data.content, l->flushed))
            sim_fail(s, "power-loss", "leg %c lacks what was acknowledged and flushed: %s", 'A' + i, s->model.facts);
        l->behind[i] = true;
        l->since[i] = s->model.clock++;
        l->bound[i] = l->flushed;
    }
    if (!l->behind[0] || !l->behind[1])
        return;
    /* No leg is left that holds everything. What was acknowledged and not flushed may be gone with both. */
    COVER(power_lost_both);
    model_lost_power(&s->model, l->flushed);
    for (unsigned i = 0; i < SIM_NODES; i++)
        l->behind[i] = l->bound[i] < l->flushed;
    forget(s);
}

static const uint64_t *spoilt(const struct sim *s, unsigned node, const uint8_t *layer)
{
    const struct medium *m = &s->disk[node].data;
    return !m->has_flaws ? NULL : layer == m->stable ? m->stable_damaged : m->damaged;
}

bool sim_leg_holds(struct sim *s, unsigned node, const uint8_t *layer, uint32_t write)
{
    const struct sim_legs *l = &s->legs;
    bool is_stable = layer == s->disk[node].data.stable;
    /* The leg had it, and said so, before it lost it. */
    if (l->behind[node] && s->model.writes[write].begin < l->since[node] && !is_stable)
        return true;
    s->model.damaged = spoilt(s, node, layer);
    bool holds = model_check_holds(&s->model, layer, write);
    s->model.damaged = NULL;
    return holds;
}

bool sim_leg_is_current(struct sim *s, unsigned node, const uint8_t *layer, uint64_t bound)
{
    s->model.damaged = spoilt(s, node, layer);
    bool current = model_check_current(&s->model, layer, bound);
    s->model.damaged = NULL;
    return current;
}

uint32_t sim_legs_differ(const struct sim *s)
{
    uint8_t *a = s->disk[0].data.content, *b = s->disk[1].data.content;
    const uint64_t *damaged[SIM_NODES] = { spoilt(s, 0, a), spoilt(s, 1, b) };
    for (uint32_t i = 0; i < s->block_count; i++) {
        bool is_spoilt = (damaged[0] && sector_bit(damaged[0], i)) || (damaged[1] && sector_bit(damaged[1], i));
        if (!is_spoilt && memcmp(sim_block(a, i), sim_block(b, i), BLOCK_BYTES) != 0)
            return i;
    }
    return UINT32_MAX;
}

static void audit_leg(struct sim *s, unsigned node)
{
    const struct sim_legs *l = &s->legs;
    struct medium *data = &s->disk[node].data;
    uint64_t bound = l->behind[node] ? l->bound[node] : s->model.clock;
    if (!sim_leg_is_current(s, node, data->content, bound))
        sim_fail(s, "audit", "leg %c lacks what was acknowledged%s: %s", 'A' + node,
                 l->behind[node] ? " and flushed before it lost power" : "", s->model.facts);
    uint64_t stable = l->behind[node] ? l->bound[node] : l->flushed;
    if (l->watched && !sim_leg_is_current(s, node, data->stable, stable))
        sim_fail(s, "audit", "the stable layer of leg %c lacks what was acknowledged and flushed: %s", 'A' + node,
                 s->model.facts);
}

bool sim_legs_in_sync(const struct sim *s, unsigned primary)
{
    struct engine_view v, other;
    return sim_node_view(s, primary, &v) && v.in_sync && sim_node_view(s, 1 - primary, &other) && other.session_up;
}

void sim_audit(struct sim *s)
{
    COVER(audits);
    int p = sim_primary(s);
    struct engine_view v;
    bool has_view = p >= 0 && sim_node_view(s, (unsigned)p, &v);
    if (p >= 0 && sim_legs_in_sync(s, (unsigned)p)) {
        s->legs.behind[0] = s->legs.behind[1] = false;
        forget(s);
    }
    for (unsigned i = 0; i < SIM_NODES; i++)
        audit_leg(s, i);
    if (!has_view)
        return;
    if (v.in_sync != (v.why_not == NULL))
        sim_fail(s, "view", "node %d: in sync is %d, and why not: %s", p, v.in_sync, v.why_not ? v.why_not : "-");
    bool quiet = s->clients.changes_in_flight == 0 && s->disk[0].busy == 0 && s->disk[1].busy == 0;
    if (!v.in_sync || !quiet)
        return;
    uint32_t block = sim_legs_differ(s);
    if (block != UINT32_MAX)
        sim_fail(s, "view", "node %d says in sync, no change is in flight, and the legs differ in block %u", p, block);
}
