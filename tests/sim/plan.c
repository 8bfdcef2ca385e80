/* The course of a run: it sets the volume up, loads it while faults strike and operators give orders, then heals
 * everything and demands that all comes to a good end. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

#define POLL_NS (5 * NS_PER_MS)
#define LOAD_MAX_NS (3 * NS_PER_S)
#define SETUP_MAX_NS (10 * NS_PER_S)
#define HEAL_MAX_NS (10 * NS_PER_S) /* simulated: in which all must be well again once nothing goes wrong any more */
#define READ_BACK_BLOCKS 32

enum strike {
    STRIKE_BREAK,
    STRIKE_STALL,
    STRIKE_PARTITION,
    STRIKE_STRANGER,
    STRIKE_PATH,
    STRIKE_DISK_STALL,
    STRIKE_SECONDARY_CRASH,
    STRIKE_SECONDARY_DETACH,
    STRIKE_DEMOTE,
    STRIKE_PROMOTE_SECONDARY,
    STRIKE_PROMOTE_BOTH,
    STRIKE_PRIMARY_DETACH,
    STRIKE_CLOCK,
    STRIKE_META_DAMAGE,
    STRIKE_LATENT_ERROR,
    STRIKE_RECOVERABLE, /* those above: the volume is in sync again afterwards */
    STRIKE_DISK_ERRORS = STRIKE_RECOVERABLE,
    STRIKE_META_ERRORS,
    STRIKE_PRIMARY_CRASH,
    STRIKE_PROMOTE_FORCE,
    STRIKE_DEMOTE_FORCE,
    STRIKE_TAKEOVER,
    STRIKE_POWER,
    STRIKE_POWER_BOTH,
    STRIKE_SILENT_DAMAGE, /* the last: not drawn unless VERIFY_EXISTS */
    STRIKES,
};

#define STRIKES_DRAWN (VERIFY_EXISTS ? STRIKES : STRIKE_SILENT_DAMAGE)

static bool has(const struct sim *s, enum strike k) { return s->plan.kinds >> k & 1; }

static uint64_t now_plus(const struct sim *s, uint64_t ns) { return s->now_ns + ns; }

static uint64_t draw(struct sim *s, uint64_t low, uint64_t high) { return sim_between(s, CHANCE_PLAN, low, high); }

static bool chance(struct sim *s, unsigned per_million) { return sim_chance(s, CHANCE_PLAN, per_million); }

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
    if (!calm) {
        for (unsigned k = 0; k < STRIKE_RECOVERABLE; k++)
            p->kinds |= (uint32_t)chance(s, 250000) << k;
        /* At most one of those that end the service, so that each is seen alone. */
        if (chance(s, 350000))
            p->kinds |= 1u << draw(s, STRIKE_RECOVERABLE, STRIKES_DRAWN - 1);
        if (chance(s, 600000))
            network_faults(s);
    }
    bool loses_power = has(s, STRIKE_POWER) || has(s, STRIKE_POWER_BOTH);
    if (loses_power)
        sim_legs_watch(s);
    /* One copy of the superblock may be spoilt, or a write of it cut, or fail: two of these are more than four copies
     * can bear. */
    if (loses_power || has(s, STRIKE_META_ERRORS))
        p->kinds &= ~(1u << STRIKE_META_DAMAGE);
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

/* Something has happened after which the legs may rightly stay apart. */
static bool trouble(const struct sim *s)
{
    return s->plan.may_differ || s->disk[0].has_failed || s->disk[1].has_failed || s->node[0].meta_has_failed ||
           s->node[1].meta_has_failed;
}

/* ---- orders ---- */

/* Is the other node primary, or was it when it died, or does it still have changes of its own? */
static bool other_leads(struct sim *s, unsigned node)
{
    struct engine_view other;
    struct superblock sb;
    if (sim_node_view(s, 1 - node, &other))
        return other.role == ROLE_PRIMARY || other.writes_waiting > 0;
    sim_node_superblock(s, 1 - node, &sb);
    return sb.attached && sb.role == ROLE_PRIMARY;
}

/* The other has seen an epoch that this node has not, and will depose it when they meet. */
static bool other_is_ahead(struct sim *s, unsigned node)
{
    struct superblock own, other;
    sim_node_superblock(s, node, &own);
    sim_node_superblock(s, 1 - node, &other);
    return other.epoch > own.epoch;
}

static bool order(struct sim *s, unsigned node, enum order what)
{
    struct engine_view v;
    /* One at a time; but force may come to the help of one that waits. */
    bool force = what == ORDER_PROMOTE_FORCE || what == ORDER_DEMOTE_FORCE || what == ORDER_DETACH_FORCE;
    if (!sim_node_view(s, node, &v) || sim_node_orders(s, node) > (force ? 1 : 0))
        return false;
    bool promotes = what == ORDER_PROMOTE || what == ORDER_PROMOTE_FORCE;
    struct engine_view other;
    bool connected = v.session_up && sim_node_view(s, 1 - node, &other) && other.session_up;
    if (promotes && !v.session_up && (other_leads(s, node) || other_is_ahead(s, node)))
        s->plan.may_differ = true;
    if (promotes && sim_node_orders(s, node) == 0)
        s->plan.asked[node] = connected && v.role == ROLE_SECONDARY && other_leads(s, node);
    sim_node_order(s, node, what);
    return true;
}

/* Without a witness, an operator may promote a node that cannot see the other: no write is acknowledged without both,
 * so that two may serve, but one will be deposed, and what waited there is lost. Connected, there is one primary. */
void sim_plan_serves(struct sim *s, unsigned node)
{
    struct engine_view v;
    if (!sim_node_view(s, node, &v) || !other_leads(s, node))
        return;
    struct engine_view other;
    if (v.session_up && sim_node_view(s, 1 - node, &other) && other.session_up)
        sim_fail(s, "two-primaries", "node %u begins to serve, connected to the other, which is primary", node);
    if (s->plan.asked[node])
        sim_fail(s, "two-primaries", "node %u was told to promote while it was connected to a primary, and serves",
                 node);
    COVER(two_primaries);
    s->plan.may_differ = true;
}

static void end_service(struct sim *s, unsigned survivor)
{
    s->plan.service_ended = true;
    s->plan.survivor = survivor;
}

void sim_plan_order_done(struct sim *s, unsigned node, enum order what, int32_t result, const char *text)
{
    if (node != s->plan.home && s->plan.stage == STAGE_SETUP)
        sim_fail(s, "simulator", "node %u ends an order that it was not given", node);
    if (result < 0 && (!text || !*text))
        sim_fail(s, "order", "node %u: order %d is refused with %d and without a reason", node, (int)what, result);
    switch (what) {
    case ORDER_PROMOTE:
        if (result < 0) {
            COVER(promote_refused);
            return;
        }
        COVER(promoted);
        s->plan.detaches_primary[node] = false;
        if (node != s->plan.home) {
            COVER(role_swapped);
            s->plan.home = node;
        }
        return;
    case ORDER_PROMOTE_FORCE:
        if (result < 0) {
            COVER(promote_refused);
            return;
        }
        COVER(promoted_force);
        if (s->plan.stage == STAGE_LOAD && s->plan.may_differ) {
            end_service(s, node);
            s->plan.load_until_ns = now_plus(s, draw(s, 1, 600) * NS_PER_MS);
        }
        return;
    case ORDER_DEMOTE:
    case ORDER_DEMOTE_FORCE:
        if (result == 0)
            COVER(demoted);
        return;
    case ORDER_DETACH:
    case ORDER_DETACH_FORCE:
        if (result == 0 && what == ORDER_DETACH && s->plan.detaches_primary[node])
            COVER(primary_detach);
        if (result == 0 && s->plan.stage == STAGE_LOAD)
            sim_at(s, now_plus(s, draw(s, 1, 50) * NS_PER_MS), Q_START, node, 0);
        return;
    }
}

/* ---- what strikes ---- */

static void crash(struct sim *s, unsigned node)
{
    sim_node_crash(s, node);
    sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, node, 0);
}

/* These machines lose power at one instant. Until there is a resync, a leg that was in use is refused from then on. */
static void power_loss(struct sim *s, const bool cut[SIM_NODES])
{
    struct sim_plan *p = &s->plan;
    int serving = sim_primary(s);
    bool lost[SIM_NODES] = { false };
    bool ends = false;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (!cut[i])
            continue;
        struct superblock sb;
        sim_node_power_loss(s, i);
        sim_node_superblock(s, i, &sb);
        lost[i] = sb.attached; /* else everything was flushed before */
        ends |= (sb.attached && !sb.pristine) || serving == (int)i;
    }
    sim_legs_power_lost(s, lost);
    if (RESYNC_EXISTS || p->stage != STAGE_LOAD || p->service_ended || !ends)
        return;
    /* Whoever has everything; else whoever the operator takes for it. */
    unsigned survivor = s->legs.behind[0] ? 1 : 0;
    if (s->legs.behind[0] == s->legs.behind[1])
        survivor = cut[0] == cut[1] ? (unsigned)draw(s, 0, 1) : cut[0] ? 1 : 0;
    end_service(s, survivor);
    p->load_until_ns = now_plus(s, draw(s, 1, 600) * NS_PER_MS);
}

static void strike_power(struct sim *s, bool both)
{
    int serving = sim_primary(s);
    unsigned node = (unsigned)draw(s, 0, 1);
    bool cut[SIM_NODES] = { both || node == 0, both || node == 1 };
    if (s->plan.stage != STAGE_LOAD || s->plan.service_ended)
        return;
    if (both)
        COVER(power_both);
    else if (serving == (int)node)
        COVER(power_primary);
    else
        COVER(power_secondary);
    power_loss(s, cut);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        /* Back soon, or when all is healed. */
        if (cut[i] && (!s->plan.service_ended || chance(s, 500000)))
            sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, i, 0);
    }
}

/* A daemon may die in the middle of a superblock, and a machine, too. */
void sim_plan_writes_meta(struct sim *s, unsigned node, const struct superblock *sb)
{
    bool is_secondary = !s->node[node].serving && sb->role == ROLE_SECONDARY && sb->attached;
    if (s->plan.stage != STAGE_LOAD)
        return;
    if (has(s, STRIKE_SECONDARY_CRASH) && is_secondary && chance(s, 100000))
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_CRASH, node, CUT_DAEMON);
    if (has(s, STRIKE_POWER) && chance(s, 300000))
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_CRASH, node, CUT_POWER);
}

/* The moments after a flush are those in which most could be lost that must not be. */
void sim_plan_flushed(struct sim *s)
{
    if (s->plan.stage == STAGE_LOAD && has(s, STRIKE_POWER_BOTH) && chance(s, 20000))
        sim_at(s, now_plus(s, draw(s, 1, NS_PER_MS)), Q_CRASH, 0, CUT_POWER_BOTH);
}

bool sim_plan_cuts_start(struct sim *s)
{
    bool may = has(s, STRIKE_POWER) || has(s, STRIKE_POWER_BOTH);
    return may && s->plan.stage == STAGE_LOAD && chance(s, 100000);
}

void sim_plan_start_is_cut(struct sim *s, unsigned node)
{
    COVER(power_at_start);
    power_loss(s, (bool[SIM_NODES]) { node == 0, node == 1 });
    sim_at(s, now_plus(s, draw(s, 1, 50) * NS_PER_MS), Q_START, node, 0);
}

void sim_plan_cut(struct sim *s, unsigned node, enum cut how)
{
    if (how != CUT_DAEMON) {
        strike_power(s, how == CUT_POWER_BOTH);
        return;
    }
    struct engine_view v;
    bool is_secondary = sim_node_view(s, node, &v) && v.role == ROLE_SECONDARY && v.writes_waiting == 0;
    if (s->plan.stage == STAGE_LOAD && is_secondary && sim_node_orders(s, node) == 0)
        crash(s, node);
}

static void strike_primary_crash(struct sim *s, unsigned primary_node)
{
    COVER(primary_crash);
    sim_node_crash(s, primary_node);
    end_service(s, 1 - primary_node);
    /* Back later, to be refused; or gone for good. */
    if (chance(s, 500000))
        sim_at(s, now_plus(s, draw(s, 1, 500) * NS_PER_MS), Q_START, primary_node, 0);
    s->plan.load_until_ns = now_plus(s, draw(s, 1, 600) * NS_PER_MS);
}

static void strike_force(struct sim *s, unsigned primary_node)
{
    /* The operator sees no primary and takes his decision, rightly or not. */
    s->net.partitioned_until_ns = now_plus(s, draw(s, 1, 3) * s->dead_after_ns);
    sim_at(s, now_plus(s, draw(s, 0, 2 * s->dead_after_ns)), Q_ORDER, 1 - primary_node, ORDER_PROMOTE_FORCE);
}

/* The primary's disk hangs, it loses its peer, the peer is promoted, they meet again, and the deposed one is killed:
 * what it had not finished is where the legs may differ. Or both are told to come down in the middle of it. */
static void strike_takeover(struct sim *s, unsigned p)
{
    unsigned other = 1 - p;
    bool drains = chance(s, 300000);
    switch (s->plan.takeover++) {
    case 0:
        COVER(takeover);
        s->disk[p].stalled_until_ns = now_plus(s, 3 * s->dead_after_ns);
        return;
    case 1:
        if (drains)
            order(s, p, ORDER_DETACH);
        s->net.bad_paths = 3;
        sim_net_break(s, false);
        sim_at(s, now_plus(s, draw(s, 1, 5) * NS_PER_MS), Q_ORDER, other,
               chance(s, 500000) ? ORDER_PROMOTE : ORDER_PROMOTE_FORCE);
        if (drains)
            sim_at(s, now_plus(s, draw(s, 8, 20) * NS_PER_MS), Q_ORDER, other, ORDER_DETACH);
        return;
    case 2:
        s->net.bad_paths = 0;
        if (!drains)
            sim_at(s, now_plus(s, draw(s, 1, 30) * NS_PER_MS), Q_CRASH, p, CUT_DAEMON);
        return;
    default: return;
    }
}

static void disk_errors(struct sim *s, unsigned p)
{
    /* Also while the primary is on its way out. */
    if (chance(s, 300000))
        order(s, p, chance(s, 500000) ? ORDER_DETACH : ORDER_DEMOTE);
    unsigned node = (unsigned)draw(s, 0, 1);
    struct sim_disk_faults *f = &s->disk[node].faults;
    switch (draw(s, 0, 3)) {
    case 0: f->error_per_million[OP_WRITE] = (unsigned)draw(s, 1, 100000); break;
    case 1: f->error_per_million[OP_FLUSH] = (unsigned)draw(s, 1, 300000); break;
    case 2: f->short_per_million = (unsigned)draw(s, 1, 100000); break;
    default:
        f->error_per_million[OP_READ] = (unsigned)draw(s, 1, 100000);
        f->error_per_million[OP_DISCARD] = f->error_per_million[OP_WRITE_ZEROES] = (unsigned)draw(s, 1, 200000);
    }
}

static void silent_damage(struct sim *s)
{
    unsigned node = (unsigned)draw(s, 0, 1);
    struct sim_disk_faults *f = &s->disk[node].faults;
    switch (draw(s, 0, 2)) {
    case 0: f->lost_per_million = (unsigned)draw(s, 1, 50000); return;
    case 1: f->misdirected_per_million = (unsigned)draw(s, 1, 50000); return;
    default: sim_disk_rot(s, node);
    }
}

static void strike_at(struct sim *s, enum strike k, unsigned p)
{
    unsigned other = 1 - p;
    bool other_up = s->node[other].up && sim_node_orders(s, other) == 0 && !s->node[other].serving;
    bool healthy = !s->plan.service_ended;
    switch (k) {
    case STRIKE_BREAK: sim_net_break(s, chance(s, 300000)); return;
    case STRIKE_STALL:
        COVER(stalled);
        sim_net_stall(s, (unsigned)draw(s, 0, 1), now_plus(s, draw(s, 1, 3 * s->dead_after_ns)));
        return;
    case STRIKE_PARTITION:
        COVER(partition);
        s->net.partitioned_until_ns = now_plus(s, draw(s, 1, 3 * s->dead_after_ns));
        return;
    case STRIKE_STRANGER: sim_net_stranger(s); return;
    case STRIKE_PATH: s->net.bad_paths = (unsigned)draw(s, 0, 3); return;
    case STRIKE_DISK_STALL:
        COVER(disk_stall);
        s->disk[draw(s, 0, 1)].stalled_until_ns = now_plus(s, draw(s, 1, 3 * s->dead_after_ns));
        return;
    case STRIKE_SECONDARY_CRASH:
        if (!other_up || !healthy)
            return;
        COVER(secondary_crash);
        crash(s, other);
        return;
    case STRIKE_SECONDARY_DETACH:
        if (!other_up || !healthy)
            return;
        COVER(secondary_detach);
        order(s, other, ORDER_DETACH);
        return;
    case STRIKE_DEMOTE:
        if (!order(s, p, ORDER_DEMOTE))
            return;
        /* Someone is to be primary again afterwards: the peer, or the same. */
        sim_at(s, now_plus(s, draw(s, 1, 100 * NS_PER_MS)), Q_ORDER, chance(s, 600000) ? other : p, ORDER_PROMOTE);
        return;
    case STRIKE_PROMOTE_SECONDARY:
        if (healthy)
            order(s, other, ORDER_PROMOTE);
        return;
    case STRIKE_PROMOTE_BOTH:
        if (!healthy || !order(s, p, ORDER_DEMOTE))
            return;
        COVER(promote_race);
        uint64_t at_ns = now_plus(s, draw(s, 10 * NS_PER_MS, 60 * NS_PER_MS));
        sim_at(s, at_ns, Q_ORDER, 0, ORDER_PROMOTE);
        sim_at(s, at_ns + draw(s, 0, 3 * NS_PER_MS), Q_ORDER, 1, ORDER_PROMOTE);
        return;
    case STRIKE_PRIMARY_DETACH:
        if (healthy && order(s, p, ORDER_DETACH))
            s->plan.detaches_primary[p] = true;
        return;
    case STRIKE_DISK_ERRORS: disk_errors(s, p); return;
    case STRIKE_META_ERRORS: s->node[draw(s, 0, 1)].meta.error_per_million = (unsigned)draw(s, 1, 400000); return;
    case STRIKE_PRIMARY_CRASH:
        if (healthy && !s->node[other].serving)
            strike_primary_crash(s, p);
        return;
    case STRIKE_PROMOTE_FORCE:
        if (healthy && s->node[other].up)
            strike_force(s, p);
        return;
    case STRIKE_DEMOTE_FORCE:
        if (!healthy)
            return;
        if (chance(s, 700000))
            s->net.partitioned_until_ns = now_plus(s, draw(s, 1, 3 * s->dead_after_ns));
        s->plan.may_differ = true;
        sim_at(s, now_plus(s, draw(s, 1, 3 * s->dead_after_ns)), Q_ORDER, p, ORDER_DEMOTE_FORCE);
        return;
    case STRIKE_TAKEOVER:
        if (healthy && s->node[other].up)
            strike_takeover(s, p);
        return;
    case STRIKE_CLOCK:
        COVER(clock_jump);
        sim_node_clock_jump(s, (unsigned)draw(s, 0, 1), draw(s, 1, 10 * NS_PER_S));
        return;
    case STRIKE_META_DAMAGE:
        if (sim_meta_damage(s, (unsigned)draw(s, 0, 1)))
            COVER(meta_damage);
        return;
    case STRIKE_LATENT_ERROR: sim_disk_make_unreadable(s, (unsigned)draw(s, 0, 1)); return;
    case STRIKE_POWER: strike_power(s, false); return;
    case STRIKE_POWER_BOTH: strike_power(s, true); return;
    case STRIKE_SILENT_DAMAGE: silent_damage(s); return;
    case STRIKES: break;
    }
}

static void strike(struct sim *s)
{
    if (s->plan.kinds == 0 || chance(s, 300000))
        return;
    enum strike k;
    do
        k = (enum strike)draw(s, 0, STRIKES - 1);
    while (!has(s, k));
    int p = sim_primary(s);
    if (p >= 0) {
        strike_at(s, k, (unsigned)p);
        return;
    }
    /* Nobody serves: an operator who sees that may promote. */
    if (!s->plan.service_ended && chance(s, 200000))
        order(s, (unsigned)draw(s, 0, 1), ORDER_PROMOTE);
}

/* ---- the stages ---- */

static void enter(struct sim *s, enum stage stage, uint64_t max_ns)
{
    static const char *const names[] = { "setup", "load", "heal", "read back", "detach", "end" };
    sim_trace(s, "  plan    %s", names[stage]);
    s->plan.stage = stage;
    s->plan.step = 0;
    s->plan.deadline_ns = now_plus(s, max_ns);
}

static void overdue(struct sim *s, const char *what)
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
    if (s->node[home].serving) {
        enter(s, STAGE_LOAD, LOAD_MAX_NS);
        s->plan.load_until_ns = s->plan.deadline_ns;
        for (uint32_t i = 0; i < s->clients.client_count; i++)
            sim_at(s, now_plus(s, 1 + i), Q_CLIENT, 0, i);
        return;
    }
    overdue(s, "the volume does not come up");
    /* Some operators don't wait until the nodes have found each other. */
    if (sim_node_view(s, home, &v) && (v.session_up || chance(s, 20000)))
        order(s, home, ORDER_PROMOTE);
}

static void load(struct sim *s)
{
    bool over = s->clients.left == 0 && (s->clients.in_flight == 0 || chance(s, 50000));
    if ((over && !s->plan.service_ended) || s->now_ns >= s->plan.load_until_ns) {
        s->clients.stopped = true;
        sim_net_heal(s);
        for (unsigned i = 0; i < SIM_NODES; i++) {
            s->disk[i].faults = (struct sim_disk_faults) { 0 };
            s->disk[i].stalled_until_ns = 0;
            s->node[i].meta.error_per_million = 0;
        }
        enter(s, STAGE_HEAL, HEAL_MAX_NS);
        return;
    }
    strike(s);
}

static bool link_is_down(const struct sim *s, unsigned node)
{
    struct engine_view v;
    return !sim_node_view(s, node, &v) || !v.session_up;
}

/* The primary is gone for good: what its requests may have left behind is settled once nothing of it is on its way to
 * the survivor, whose leg must hold all that was acknowledged. */
static bool settle_survivor(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    if (p->settled)
        return true;
    if (!link_is_down(s, p->survivor) || s->disk[p->survivor].busy > 0)
        return false;
    p->settled = true;
    sim_audit(s);
    COVER(survivor_checked);
    return true;
}

static void heal_ended_service(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    overdue(s, "the survivor cannot be made to serve");
    if (!settle_survivor(s))
        return;
    struct sim_node *n = &s->node[p->survivor];
    struct engine_view v = { 0 }, other = { 0 };
    sim_node_view(s, p->survivor, &v);
    sim_node_view(s, 1 - p->survivor, &other);
    if (!n->serving) {
        /* One that was being demoted when it lost its peer is to let go of what waits first. */
        if (v.role == ROLE_PRIMARY)
            order(s, p->survivor, chance(s, 500000) ? ORDER_DEMOTE_FORCE : ORDER_DETACH_FORCE);
        else
            order(s, p->survivor, ORDER_PROMOTE_FORCE);
        return;
    }
    if (s->node[1 - p->survivor].serving) {
        /* Deposed, once it learns of it; or promoted apart at the same epoch, or before they were a pair, so that a
         * person must decide. */
        if (v.epoch == other.epoch || s->now_ns + HEAL_MAX_NS / 2 > p->deadline_ns)
            order(s, 1 - p->survivor, ORDER_DEMOTE_FORCE);
        return;
    }
    COVER(service_ended);
    enter(s, STAGE_READ_BACK, HEAL_MAX_NS);
}

/* A disk failed: every request must end all the same, and the volume must not call itself protected. Mended and
 * attached again, a leg that only missed what was not acknowledged may be in sync once more. */
static bool failed_for_good(const struct sim *s)
{
    /* Promoted apart, at one epoch: a person has to decide. */
    struct engine_view a, b;
    if (sim_node_view(s, 0, &a) && sim_node_view(s, 1, &b) && a.role == ROLE_PRIMARY && b.role == ROLE_PRIMARY)
        return true;
    /* Promoted apart before they were a pair: two volumes of one name. */
    struct superblock first, second;
    sim_node_superblock((struct sim *)s, 0, &first);
    sim_node_superblock((struct sim *)s, 1, &second);
    if (!id_is_none(first.volume_id) && !id_is_none(second.volume_id) && !id_equal(first.volume_id, second.volume_id))
        return true;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (sim_node_view(s, i, &v) && (v.leg == LEG_FAILED || v.peer_leg == LEG_FAILED))
            return true;
        struct superblock sb;
        sim_node_superblock((struct sim *)s, i, &sb);
        if (sb.leg == LEG_FAILED || sb.peer_leg == LEG_FAILED || sb.unclean)
            return true;
    }
    return false;
}

/* The disk is mended: its node is taken down and up, as the operator is told to. */
static bool restart_failed(struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v) || v.leg != LEG_FAILED || v.role == ROLE_PRIMARY || s->plan.mended[i])
            continue;
        s->plan.mended[i] = true;
        sim_node_crash(s, i);
        return true;
    }
    return false;
}

static void heal(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (!s->node[i].up && !(p->service_ended && i != p->survivor)) {
            sim_node_start(s, i);
            return;
        }
    }
    int serving = sim_primary(s);
    struct engine_view v;
    if (p->service_ended && !(serving >= 0 && sim_legs_in_sync(s, (unsigned)serving))) {
        heal_ended_service(s);
        return;
    }
    p->service_ended = false; /* the other was deposed, but had nothing that was not on both */
    if (serving >= 0 && sim_node_view(s, (unsigned)serving, &v) && v.in_sync && s->clients.in_flight == 0) {
        enter(s, STAGE_READ_BACK, HEAL_MAX_NS);
        return;
    }
    if (trouble(s)) {
        if (restart_failed(s))
            return;
        if (s->now_ns + HEAL_MAX_NS / 2 > p->deadline_ns && failed_for_good(s)) {
            if (serving >= 0 && v.in_sync)
                sim_fail(s, "failed-leg", "node %d calls the volume protected after a leg has failed", serving);
            COVER(leg_failed);
            enter(s, STAGE_END, 0);
            return;
        }
    }
    overdue(s, "the volume is not in sync again");
    if (serving < 0 && chance(s, 300000)) {
        unsigned home = p->home;
        if (order(s, home, ORDER_PROMOTE) && chance(s, 300000))
            p->home = 1 - home;
    }
}

/* A leg that has no peer to go on with: it is read back, unless changes wait that keep their ranges, and acknowledges
 * nothing more. */
static void read_back_alone(struct sim *s, unsigned node)
{
    struct sim_plan *p = &s->plan;
    if (s->clients.changes_in_flight == 0) {
        while (p->step < s->block_count) {
            uint32_t count = (uint32_t)min_u64(READ_BACK_BLOCKS, s->block_count - p->step);
            if (!sim_client_submit(s, 0, node, OP_READ, 0, p->step, count))
                return;
            p->step += count;
        }
        if (s->clients.reads_in_flight > 0)
            return;
        sim_client_submit(s, 0, node, OP_WRITE, 0, 0, 1);
        p->deadline_ns = now_plus(s, NS_PER_S);
        return;
    }
    if (s->disk[node].busy)
        return;
    sim_audit(s);
    enter(s, STAGE_END, 0);
}

/* Everything is read back through the front, and flushed; then the legs are held against each other. */
static void read_back(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    int node = sim_primary(s);
    overdue(s, "the volume cannot be read back");
    if (node < 0 && p->service_ended) {
        /* It was deposed after all, by one that was promoted apart. */
        p->survivor = 1 - p->survivor;
        enter(s, STAGE_HEAL, HEAL_MAX_NS);
        return;
    }
    if (node < 0)
        return;
    struct engine_view v;
    if (!sim_node_view(s, (unsigned)node, &v))
        return;
    if (p->service_ended && !sim_legs_in_sync(s, (unsigned)node)) {
        read_back_alone(s, (unsigned)node);
        return;
    }
    if (p->service_ended) { /* the other was deposed, had nothing of its own, and is back */
        p->service_ended = false;
        p->step = 0;
    }
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
    sim_audit(s);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct medium *m = &s->disk[i].data;
        if (memcmp(m->content, m->stable, (size_t)s->block_count * BLOCK_BYTES) != 0)
            sim_fail(s, "flush-not-stable", "leg %c: after a flush, with nothing in flight", 'A' + i);
    }
    uint32_t block = sim_legs_differ(s);
    if (block != UINT32_MAX)
        sim_fail(s, "legs-differ", "in block %u, at the end, with nothing in flight", block);
    COVER(converged);
    enter(s, STAGE_DETACH, HEAL_MAX_NS);
}

static void detach(struct sim *s)
{
    overdue(s, "the nodes do not come down");
    bool any_up = false;
    unsigned first = s->plan.home ^ (unsigned)(s->seed & 1);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        unsigned node = first ^ i;
        if (!s->node[node].up)
            continue;
        any_up = true;
        order(s, node, ORDER_DETACH);
        break;
    }
    if (!any_up)
        enter(s, STAGE_END, 0);
}

void sim_plan_late_order(struct sim *s, unsigned node, enum order what)
{
    if (s->plan.stage == STAGE_LOAD)
        order(s, node, what);
}

void sim_plan_event(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    if (p->stage == STAGE_LOAD)
        sim_at(s, now_plus(s, 1 + draw(s, 0, p->gap_max_ns)), Q_PLAN, 0, 0);
    else
        sim_at(s, now_plus(s, POLL_NS), Q_PLAN, 0, 0);
    if (p->service_ended && !p->settled)
        settle_survivor(s);
    switch (p->stage) {
    case STAGE_SETUP: setup(s); return;
    case STAGE_LOAD: load(s); return;
    case STAGE_HEAL: heal(s); return;
    case STAGE_READ_BACK: read_back(s); return;
    case STAGE_DETACH: detach(s); return;
    case STAGE_END: s->ended = true; return;
    }
}
