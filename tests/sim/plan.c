/* The course of a run: it sets the volume up, loads it while faults strike and operators give orders, then heals
 * everything and demands that all comes to a good end. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/plan.h"

#define POLL_NS (5 * NS_PER_MS)
#define LOAD_MAX_NS (3 * NS_PER_S)
#define SETUP_MAX_NS (10 * NS_PER_S)
#define READ_BACK_BLOCKS 32

static unsigned rate(struct sim *s, unsigned per_run, unsigned max)
{
    return chance(s, per_run) ? (unsigned)draw(s, 1, max) : 0;
}

static void network_faults(struct sim *s)
{
    s->net.faults = (struct sim_net_faults) {
        .connect_fail_per_million = rate(s, 300000, 500000),
        .connect_hang_per_million = rate(s, 200000, 200000),
        .break_per_million = rate(s, 400000, 10000),
        .drop_per_million = rate(s, 300000, 5000),
        .corrupt_payload_per_million = rate(s, 300000, 10000),
        .corrupt_header_per_million = rate(s, 300000, 5000),
        .slow_per_million = rate(s, 300000, 30000),
        .stale_per_million = rate(s, 500000, 1000000),
    };
}

void sim_plan_reset(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    *p = (struct sim_plan) { .home = (unsigned)draw(s, 0, 1), .gap_max_ns = draw(s, 1, 60) * NS_PER_MS };
    bool calm = chance(s, 100000);
    if (calm)
        sim_register_calm(s);
    if (!calm) {
        for (unsigned k = 0; k < STRIKE_RECOVERABLE; k++)
            p->kinds |= (uint64_t)chance(s, 250000) << k;
        /* At most one of those that end the service, so that each is seen alone. */
        if (chance(s, 350000))
            p->kinds |= UINT64_C(1) << draw(s, STRIKE_RECOVERABLE, STRIKES - 1);
        if (chance(s, 600000))
            network_faults(s);
    }
    if (s->registered) {
        p->kinds &= STRIKES_WITH_REGISTER;
        /* Few runs have these else: at most one in thirty. */
        if (!calm && chance(s, 150000))
            p->kinds = (p->kinds & (OF_STRIKE(STRIKE_RECOVERABLE) - 1)) |
                       OF_STRIKE(chance(s, 500000) ? STRIKE_POWER_BOTH : STRIKE_PROMOTE_FORCE);
    } else {
        p->kinds &= ~OF_STRIKE(STRIKE_SWITCHOVER);
    }
    /* Where everything else goes wrong as well, few come to their end. */
    if (has(s, STRIKE_SWITCHOVER) && chance(s, 500000)) {
        p->kinds &= OF_STRIKE(STRIKE_SWITCHOVER) | OF_STRIKE(STRIKE_POWER) | OF_STRIKE(STRIKE_BREAK);
        s->net.faults = (struct sim_net_faults) { 0 };
    }
    for (unsigned i = 0; i < SIM_NODES; i++)
        s->copy[i].taken = false;
    s->age_tick_ns = has(s, STRIKE_OLD_COPY) ? draw(s, 1, 30) * NS_PER_MS : 0;
    p->mends = chance(s, 700000);
    bool loses_power = has(s, STRIKE_POWER) || has(s, STRIKE_POWER_BOTH) || has(s, STRIKE_DISKLESS) ||
                       has(s, STRIKE_PROMOTE_FORCE) || has(s, STRIKE_FOUND) || has(s, STRIKE_LOG_POWER);
    /* One copy of the superblock may be spoilt, and a write of it fail on any; but where power cuts a write, which
     * tears two, one more is more than four copies can bear. */
    if (loses_power)
        p->kinds &= ~OF_STRIKE(STRIKE_META_DAMAGE);
    /* What one disk cannot read, and the other one has spoilt, nobody has. */
    if (has(s, STRIKE_FOUND) || has(s, STRIKE_SILENT_DAMAGE))
        p->kinds &= ~OF_STRIKE(STRIKE_LATENT_ERROR);
    p->cut.torn_per_million = rate(s, 500000, 500000);
    p->cut.unreadable_per_million = has(s, STRIKE_FOUND) ? 0 : rate(s, 300000, 100000);
    for (unsigned i = 0; i < SIM_NODES; i++)
        s->disk[i].faults.slow_per_million = rate(s, 400000, 50000);
    for (unsigned i = 0; i < SIM_NODES; i++)
        sim_at(s, now_plus(s, 1 + draw(s, 0, 30 * NS_PER_MS)), Q_START, i, 0);
    p->deadline_ns = now_plus(s, SETUP_MAX_NS);
    sim_at(s, now_plus(s, POLL_NS), Q_PLAN, 0, 0);
}

/* ---- looking ---- */

bool sim_node_view(const struct sim *s, unsigned node, struct engine_view *v)
{
    if (!s->node[node].up)
        return false;
    engine_view(s->node[node].engine, v);
    return true;
}

int sim_primary(const struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (s->node[i].up && s->node[i].serving)
            return (int)i;
    }
    return -1;
}

bool plan_is_diskless(const struct sim *s, unsigned node)
{
    struct engine_view v;
    return sim_node_view(s, node, &v) && v.diskless_epoch;
}

/* ---- the resync under way ---- */

bool sim_resyncs(const struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (s->node[i].up && engine_resync_view(s->node[i].engine).active)
            return true;
    }
    return false;
}

/* A resync that was interrupted goes on: with both daemons alive all the time, nothing is out of sync that was in sync
 * when it was interrupted, but for what was changed. */
void sim_plan_look(struct sim *s, unsigned node)
{
    struct engine_view v;
    struct engine_resync resync = { 0 };
    if (s->node[node].up)
        resync = engine_resync_view(s->node[node].engine);
    bool active = resync.active && resync.is_source && sim_node_view(s, node, &v);
    /* What the source takes for one may be over already, as its target is another daemon now. */
    active &= s->plan.resync.known || (s->node[1 - node].up && engine_resync_view(s->node[1 - node].engine).active);
    bool same_daemons = s->plan.resync.source == node;
    for (unsigned i = 0; i < SIM_NODES; i++)
        same_daemons &= s->plan.resync.boot[i] == s->node[i].boot;
    bool same = same_daemons && s->plan.resync.known;
    if (!active) {
        s->plan.resync.interrupted |= same;
        /* Its session may have outlived the target's daemon. */
        s->plan.resync.known &= same || s->plan.resync.source != node;
        return;
    }
    if (same && s->plan.resync.interrupted && s->plan.resync.done_bytes > 0 && s->plan.resync.left_bytes > 0) {
        uint64_t changed = (s->clients.changed_blocks - s->plan.resync.changed_blocks) * BLOCK_BYTES;
        COVER(resync_resumed);
        if (s->plan.resync.full)
            COVER(resync_full_resumed);
        if (s->plan.resync.full && s->legs.blank[1 - node])
            COVER(replaced_resumed);
        if (!s->goes_alone && !s->plan.resync.writes && !s->plan.resync.waited &&
            v.out_of_sync_bytes > s->plan.resync.left_bytes + changed)
            sim_fail(s, "starts-over",
                     "node %u: a resync was interrupted with %" PRIu64 " bytes left, and begins again with %" PRIu64
                     ", of which %" PRIu64 " were changed at the most",
                     node, s->plan.resync.left_bytes, v.out_of_sync_bytes, changed);
    }
    bool goes_on = same && s->plan.resync.full && s->plan.resync.left_bytes > 0;
    s->plan.resync.full = goes_on || v.resync.total_bytes == (uint64_t)s->block_count * BLOCK_BYTES;
    bool begins = !s->plan.resync.known || s->plan.resync.interrupted || s->plan.resync.source != node;
    for (unsigned i = 0; begins && i < SIM_NODES; i++)
        s->plan.resync.boot[i] = s->node[i].boot;
    /* A demotion by force that is under way gives up what waits for the peer, later: that is out of sync then. */
    s->plan.resync.known = sim_node_orders(s, node) == 0;
    s->plan.resync.interrupted = false;
    s->plan.resync.source = node;
    s->plan.resync.left_bytes = v.out_of_sync_bytes;
    s->plan.resync.done_bytes = v.resync.done_bytes;
    s->plan.resync.writes = s->clients.changes_in_flight > 0;
    /* Not at each look: what the target has and has not flushed may count as lost in the next session. */
    if (begins) {
        s->plan.resync.changed_blocks = s->clients.changed_blocks;
        s->plan.resync.waited = s->plan.resync.writes || (same_daemons && s->plan.resync.waited);
    }
}

/* ---- the stages ---- */

void plan_enter(struct sim *s, enum stage stage, uint64_t max_ns)
{
    static const char *const names[] = { "setup", "load", "heal", "read back", "detach", "end" };
    sim_trace(s, "  plan    %s", names[stage]);
    s->plan.stage = stage;
    if (stage == STAGE_HEAL)
        sim_trouble(s);
    s->plan.step = 0;
    /* A node whose buffers never come back cannot be healed. */
    for (unsigned i = 0; stage == STAGE_HEAL && i < SIM_NODES; i++)
        sim_node_drop_ballast(s, i);
    /* An order to adopt may wait for what never comes, and has to end before another one is given. */
    s->plan.deadline_ns = now_plus(s, max_ns + (stage == STAGE_HEAL && s->reg.back.is_back ? 2 * HEAL_MAX_NS : 0));
}

void plan_overdue(struct sim *s, const char *what)
{
    if (s->now_ns < s->plan.deadline_ns)
        return;
    char facts[1024] = "";
    size_t used = 0;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v))
            continue;
        used += (size_t)snprintf(
            facts + used, sizeof(facts) - used,
            "; node %c: %s, %s, epoch %" PRIu64
            ", leg %s, peer's leg %s, link %s (%s), why not in sync: %s, %u changes wait, %u disk requests",
            'A' + i, role_name(v.role), v.serving ? "serves" : "does not serve", v.epoch, leg_state_name(v.leg),
            leg_state_name(v.peer_leg), link_state_name(session_state(s->node[i].session)),
            session_reason(s->node[i].session), v.why_not ? v.why_not : "-", v.writes_waiting, s->disk[i].busy);
        if (used >= sizeof(facts))
            break;
    }
    sim_fail(s, "liveness", "%s; %u requests (%u changes) in flight%s", what, s->clients.in_flight,
             s->clients.changes_in_flight, facts);
}

static void setup(struct sim *s)
{
    struct engine_view v;
    unsigned home = s->plan.home;
    if (s->node[home].serving && (!s->registered || !decree_is_none(&s->reg.row.decree))) {
        plan_enter(s, STAGE_LOAD, LOAD_MAX_NS);
        s->plan.load_until_ns = s->plan.deadline_ns;
        for (uint32_t i = 0; i < s->clients.client_count; i++)
            sim_at(s, now_plus(s, 1 + i), Q_CLIENT, 0, i);
        return;
    }
    plan_overdue(s, "the volume does not come up");
    /* Some operators don't wait until the nodes have found each other. */
    if (sim_node_view(s, home, &v) && (v.session_up || chance(s, 20000)))
        plan_order(s, home, ORDER_PROMOTE);
}

static void load(struct sim *s)
{
    bool over = s->clients.left == 0 && (s->clients.in_flight == 0 || chance(s, 50000));
    over |= s->now_ns >= s->plan.load_until_ns;
    if (over && sim_sleeps(s)) /* what it is to wake up to */
        return;
    if (over) {
        s->clients.stopped = true;
        sim_net_heal(s);
        sim_register_heal(s);
        for (unsigned i = 0; i < SIM_NODES; i++) {
            s->disk[i].faults = (struct sim_disk_faults) { 0 };
            s->disk[i].stalled_until_ns = 0;
            s->node[i].meta.error_per_million = s->node[i].meta.page_error_per_million = 0;
        }
        plan_enter(s, STAGE_HEAL, HEAL_MAX_NS);
        return;
    }
    sim_register_strike(s);
    sim_rollback_strike(s);
    if (s->reg.back.is_back && chance(s, 100000))
        plan_adopts(s);
    sim_sleep_strike(s);
    sim_probe(s);
    plan_strike(s);
}

/* Everything is read back through the front, and flushed; then the legs are held against each other. */
static void read_back(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    int node = sim_primary(s);
    plan_overdue(s, "the volume cannot be read back");
    if (node < 0)
        return;
    while (p->step < s->block_count) {
        uint32_t count = (uint32_t)min_u64(READ_BACK_BLOCKS, s->block_count - p->step);
        if (!sim_client_submit(s, 0, (unsigned)node, OP_READ, 0, p->step, count))
            return;
        p->step += count;
    }
    if (s->clients.in_flight > 0)
        return;
    if (p->step == s->block_count) {
        if (sim_client_submit(s, 0, (unsigned)node, OP_FLUSH, 0, 0, 0))
            p->step++;
        return;
    }
    if (s->clients.flush_failed) { /* on a node that was deposed meanwhile */
        p->step = s->block_count;
        s->clients.flush_failed = false;
        return;
    }
    /* A frame that was lost long ago may be missed only now, and the flush have reached one leg: once more then. */
    if (!sim_legs_in_sync(s)) {
        plan_enter(s, STAGE_HEAL, HEAL_MAX_NS);
        return;
    }
    sim_audit(s);
    plan_sizes_agree(s);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct medium *m = &s->disk[i].data;
        if (memcmp(m->content, m->stable, (size_t)s->block_count * BLOCK_BYTES) != 0)
            sim_fail(s, "flush-not-stable", "leg %c: after a flush, with nothing in flight", 'A' + i);
    }
    uint32_t block = sim_legs_differ(s);
    if (block != UINT32_MAX)
        sim_fail(s, "legs-differ", "in block %u, at the end, with nothing in flight", block);
    for (uint32_t b = 0; s->model.torn_count > 0 && b < s->block_count; b++) {
        if (model_shows_torn(&s->model, sim_block(s->disk[0].data.content, b), b))
            COVER(torn_stayed);
    }
    COVER(converged);
    plan_enter(s, STAGE_DETACH, HEAL_MAX_NS);
}

static void detach(struct sim *s)
{
    plan_overdue(s, "the nodes do not come down");
    bool any_up = false;
    unsigned first = s->plan.home ^ (unsigned)(s->seed & 1);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        unsigned node = first ^ i;
        if (!s->node[node].up)
            continue;
        any_up = true;
        plan_order(s, node, ORDER_DETACH);
        break;
    }
    if (!any_up)
        plan_enter(s, STAGE_END, 0);
}

void sim_plan_event(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    if (p->stage == STAGE_LOAD)
        sim_at(s, now_plus(s, 1 + draw(s, 0, p->gap_max_ns)), Q_PLAN, 0, 0);
    else
        sim_at(s, now_plus(s, POLL_NS), Q_PLAN, 0, 0);
    switch (p->stage) {
    case STAGE_SETUP: setup(s); return;
    case STAGE_LOAD: load(s); return;
    case STAGE_HEAL: plan_heal(s); return;
    case STAGE_READ_BACK: read_back(s); return;
    case STAGE_DETACH: detach(s); return;
    case STAGE_END: s->ended = true; return;
    }
}
