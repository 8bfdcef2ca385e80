/* What strikes: faults, losses of power, and orders at the worst moments. */
#include "tests/sim/plan.h"

static void crash(struct sim *s, unsigned node)
{
    sim_node_crash(s, node);
    sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, node, 0);
}

/* These machines lose power at one instant. */
static void power_loss(struct sim *s, const bool cut[SIM_NODES])
{
    bool lost[SIM_NODES] = { false };
    /* Where the register is older as well, and wants both nodes' word, nobody serves without a person. */
    for (unsigned i = 0; s->reg.back.is_back && i < SIM_NODES; i++)
        if (cut[i] && s->node[i].up)
            sim_node_crash(s, i);
    if (s->reg.back.is_back)
        return;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (!cut[i])
            continue;
        struct superblock sb;
        if (s->legs.blank[i] && sim_legs_is_target(s, i))
            COVER(replaced_power);
        if (s->legs.blank[1 - i] && sim_legs_is_target(s, 1 - i))
            COVER(replaced_source_power);
        sim_node_power_loss(s, i);
        sim_node_superblock(s, i, &sb);
        lost[i] = sb.attached; /* else everything was flushed before */
    }
    sim_legs_power_lost(s, lost);
}

static void power_of(struct sim *s, const bool cut[SIM_NODES])
{
    if (s->plan.stage != STAGE_LOAD)
        return;
    power_loss(s, cut);
    if (s->registered && cut[0] && cut[1]) {
        plan_outage(s);
        plan_outage_ends(s);
        return;
    }
    for (unsigned i = 0; i < SIM_NODES; i++) {
        /* Back soon, or when all is healed. */
        if (cut[i] && chance(s, 800000))
            sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, i, 0);
    }
}

void plan_cut_power_of(struct sim *s, unsigned node)
{
    power_loss(s, (bool[SIM_NODES]) { node == 0, node == 1 });
    sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, node, 0);
}

static void strike_power(struct sim *s, bool both)
{
    int serving = sim_primary(s);
    unsigned node = (unsigned)draw(s, 0, 1);
    bool cut[SIM_NODES] = { both || node == 0, both || node == 1 };
    if (s->plan.stage != STAGE_LOAD)
        return;
    if (both && sim_resyncs(s))
        COVER(resync_power_both);
    if (both)
        COVER(power_both);
    else if (serving == (int)node)
        COVER(power_primary);
    else
        COVER(power_secondary);
    power_of(s, cut);
}

/* A daemon may die in the middle of a superblock, and a machine, too. */
void sim_plan_writes_meta(struct sim *s, unsigned node, const struct superblock *sb)
{
    bool is_secondary = !s->node[node].serving && sb->role == ROLE_SECONDARY && sb->attached;
    plan_copy_on_record(s, node, sb);
    if (sb->role == ROLE_PRIMARY)
        s->legs.term[node] = sb->epoch;
    /* Made whole since the order, as by a handshake that came before its promotion. */
    if (sb->leg == LEG_UP_TO_DATE && sb->peer_in_sync) {
        s->plan.half[node] = false;
        sim_legs_taken_in(s, node);
    }
    /* From here on it may be so on disk, whatever becomes of the order. That the leg was half made may never have been
     * there: the record of that, if it was not begun yet, gives way to the promotion's. */
    if (sb->role == ROLE_PRIMARY && s->plan.half[node] && (s->plan.forces[node] || sim_is_forced(s, node)))
        s->plan.half_forced[node] = true;
    if (s->plan.stage != STAGE_LOAD)
        return;
    if (has(s, STRIKE_SECONDARY_CRASH) && is_secondary && chance(s, 100000))
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_CRASH, node, CUT_DAEMON);
    if (has(s, STRIKE_POWER) && chance(s, 300000))
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_CRASH, node, CUT_POWER);
    /* The record that the primary's leg is out. */
    if (has(s, STRIKE_DISKLESS) && is_secondary && plan_is_diskless(s, 1 - node) && chance(s, 300000)) {
        COVER(diskless_cut_peer);
        unsigned cut = chance(s, 600000) ? node : 1 - node;
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_CRASH, cut,
               cut == node && chance(s, 200000) ? CUT_POWER_OF : CUT_NODE);
    }
}

/* The moments after a flush are those in which most could be lost that must not be. */
void sim_plan_flushed(struct sim *s)
{
    if (s->plan.stage == STAGE_LOAD && has(s, STRIKE_POWER_BOTH) && chance(s, 20000))
        sim_at(s, now_plus(s, draw(s, 1, NS_PER_MS)), Q_CRASH, 0, CUT_POWER_BOTH);
}

/* Who ignored it would have let a change begin that no crash is survived with; and what says that this leg has failed
 * is just on its way to the superblock. */
void sim_plan_page_failed(struct sim *s, unsigned node)
{
    if (s->plan.stage == STAGE_LOAD && has(s, STRIKE_LOG_POWER) && chance(s, 700000))
        sim_at(s, now_plus(s, draw(s, 1, chance(s, 500000) ? 500 * NS_PER_US : 5 * NS_PER_MS)), Q_CRASH, node,
               CUT_PAGE);
}

static void cut_soon(struct sim *s, unsigned node, enum cut how)
{
    sim_at(s, now_plus(s, draw(s, 1, NS_PER_MS)), Q_CRASH, node, how);
}

/* Each step of a switchover is a moment in which either node, their connection, or the register may be lost. */
void sim_plan_hands_over(struct sim *s, unsigned from)
{
    if (s->plan.stage != STAGE_LOAD || !has(s, STRIKE_SWITCHOVER) || !chance(s, 400000))
        return;
    COVER(switch_cut);
    if (!s->reg.calm && chance(s, 300000))
        s->reg.down_until_ns = now_plus(s, draw(s, 1, 4 * s->dead_after_ns));
    enum cut how = has(s, STRIKE_POWER) && chance(s, 300000) ? CUT_POWER_OF : CUT_NODE;
    unsigned node = chance(s, 500000) ? from : 1 - from;
    sim_at(s, now_plus(s, draw(s, 1, 5 * NS_PER_MS)), Q_CRASH, node, chance(s, 300000) ? CUT_SESSION : how);
}

/* Each frame of a resync is a moment in which something may end. */
void sim_plan_sends(struct sim *s, unsigned from, const struct frame *frame)
{
    bool taken = frame->kind == FRAME_DECREE && (frame->flags & FRAME_FLAG_TAKEN);
    if (frame->kind == FRAME_HEARTBEAT)
        sim_age_is_told(s, from, frame->epoch);
    if (frame->kind == FRAME_DECREE && (frame->flags & FRAME_FLAG_HAND))
        sim_plan_hands_over(s, from);
    bool of_resync = taken || (frame->kind >= FRAME_SYNC_BITS && frame->kind <= FRAME_SYNC_DONE);
    if (!of_resync || s->plan.stage != STAGE_LOAD)
        return;
    if (frame->kind == FRAME_SYNC_DONE && s->clients.changes_in_flight > 0)
        COVER(finish_raced);
    bool rare = taken || frame->kind == FRAME_SYNC_DONE;
    unsigned target = frame->kind == FRAME_SYNC_DATA || taken ? 1 - from : from;
    if (has(s, STRIKE_RESYNC_BREAK) && chance(s, rare ? 400000 : 100000)) {
        cut_soon(s, from, CUT_SESSION);
        if (taken)
            COVER(break_taken);
        else if (frame->kind == FRAME_SYNC_BITS)
            COVER(break_bits);
        else if (frame->kind == FRAME_SYNC_ASK)
            COVER(break_ask);
        else if (frame->kind == FRAME_SYNC_DATA)
            COVER(break_data);
        else if (frame->kind == FRAME_SYNC_STABLE)
            COVER(break_stable);
        else
            COVER(break_done);
    }
    if (has(s, STRIKE_PRIMARY_CRASH) && taken && chance(s, 300000))
        cut_soon(s, from, CUT_SOURCE);
    if (has(s, STRIKE_SECONDARY_CRASH) && target == from && chance(s, rare ? 200000 : 30000))
        cut_soon(s, from, CUT_DAEMON);
    if (has(s, STRIKE_POWER) && chance(s, rare ? 200000 : 20000))
        cut_soon(s, from, CUT_POWER);
    if (has(s, STRIKE_POWER_BOTH) && chance(s, rare ? 200000 : 20000))
        cut_soon(s, from, CUT_POWER_BOTH);
    /* What either calls stable is believed at once; and what was sent may be in its sender's cache still. */
    if (has(s, STRIKE_POWER) && frame->kind == FRAME_SYNC_STABLE && chance(s, 500000)) {
        unsigned victim = chance(s, 500000) ? from : 1 - from;
        uint64_t after_ns = draw(s, 1, 200 * NS_PER_US);
        /* A flush that is under way yet does not end before that, and the frame arrives. */
        if (chance(s, 500000)) {
            after_ns += 500 * NS_PER_US;
            s->disk[victim].stalled_until_ns = now_plus(s, NS_PER_MS);
        }
        sim_at(s, now_plus(s, after_ns), Q_CRASH, victim, CUT_POWER_THIS);
    }
    if (has(s, STRIKE_PROMOTE_FORCE) && frame->kind == FRAME_SYNC_DATA &&
        chance(s, s->legs.behind[target] ? 400000 : 50000)) {
        if (chance(s, 700000))
            cut_soon(s, from, CUT_SESSION);
        sim_at(s, now_plus(s, draw(s, 1, 3 * NS_PER_MS)), Q_ORDER, target, ORDER_PROMOTE_FORCE);
    }
}

bool sim_plan_cuts_start(struct sim *s)
{
    bool may = has(s, STRIKE_POWER) || has(s, STRIKE_POWER_BOTH);
    return may && !s->reg.back.is_back && s->plan.stage == STAGE_LOAD && chance(s, 100000);
}

void sim_plan_start_is_cut(struct sim *s, unsigned node)
{
    COVER(power_at_start);
    power_loss(s, (bool[SIM_NODES]) { node == 0, node == 1 });
    sim_at(s, now_plus(s, draw(s, 1, 50) * NS_PER_MS), Q_START, node, 0);
}

void sim_plan_cut(struct sim *s, unsigned node, enum cut how)
{
    if (how == CUT_SESSION) {
        if (s->plan.stage == STAGE_LOAD)
            sim_net_break(s, chance(s, 300000));
        return;
    }
    if (how == CUT_SOURCE) {
        if (s->plan.stage != STAGE_LOAD)
            return;
        COVER(finish_source_dies);
        crash(s, node);
        return;
    }
    if (how == CUT_POWER_THIS) {
        COVER(power_stable);
        power_of(s, (bool[SIM_NODES]) { node == 0, node == 1 });
        return;
    }
    if (how == CUT_RESOLVE) {
        if (!s->plan.resolves)
            return;
        COVER(resolve_cut);
        /* (One more copy of the superblock that is torn would be too many.) */
        if (has(s, STRIKE_META_DAMAGE) || chance(s, 500000))
            sim_node_crash(s, node);
        else
            plan_cut_power_of(s, node);
        return;
    }
    if (how == CUT_REPLACE) {
        if (s->plan.stage == STAGE_LOAD)
            plan_replace(s, node);
        return;
    }
    if (how == CUT_FOUND) {
        if (s->plan.stage != STAGE_LOAD || sim_primary(s) != (int)node)
            return;
        COVER(found_power);
        plan_cut_power_of(s, node);
        return;
    }
    if (how == CUT_PAGE) {
        if (s->plan.stage != STAGE_LOAD || !s->node[node].up)
            return;
        COVER(page_power);
        plan_cut_power_of(s, node);
        return;
    }
    if (how == CUT_NODE || how == CUT_POWER_OF) {
        if (s->plan.stage != STAGE_LOAD || !s->node[node].up)
            return;
        if (how == CUT_NODE)
            crash(s, node);
        else {
            if (has(s, STRIKE_DISKLESS))
                COVER(diskless_power);
            plan_cut_power_of(s, node);
        }
        return;
    }
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
    if (chance(s, 700000))
        sim_at(s, now_plus(s, draw(s, 1, 500) * NS_PER_MS), Q_START, primary_node, 0);
    else
        s->plan.gone[primary_node] = true;
    if (chance(s, 700000))
        sim_at(s, now_plus(s, draw(s, 0, 2 * s->dead_after_ns)), Q_ORDER, 1 - primary_node,
               s->registered || chance(s, 700000) ? ORDER_PROMOTE : ORDER_PROMOTE_FORCE);
}

static void strike_force(struct sim *s, unsigned primary_node)
{
    /* It loses power, and is to be forced in the middle of its resync: sim_plan_sends(). */
    if (chance(s, 400000)) {
        COVER(half_lacks);
        plan_cut_power_of(s, 1 - primary_node);
        return;
    }
    if (s->registered) {
        plan_force_in_error(s, primary_node);
        return;
    }
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
            plan_order(s, p, ORDER_DETACH);
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

static void strike_diskless(struct sim *s, unsigned p)
{
    unsigned other = 1 - p;
    if (!plan_is_diskless(s, p)) {
        /* By a write or a flush, or by its metadata. */
        if (chance(s, 700000)) {
            if (chance(s, 700000)) /* else no write is first */
                s->disk[p].faults.error_per_million[OP_WRITE] = (unsigned)draw(s, 1, 1000000);
            s->disk[p].faults.error_per_million[OP_FLUSH] = (unsigned)draw(s, 1, 1000000);
        }
        if (chance(s, 500000))
            s->node[p].meta.error_per_million = (unsigned)draw(s, 1, 1000000);
        return;
    }
    switch (draw(s, 0, 9)) {
    case 0:
        COVER(diskless_cut_primary);
        crash(s, p);
        return;
    case 1:
        if (s->node[other].up)
            crash(s, other);
        return;
    case 2:
        if (s->node[other].up) {
            COVER(diskless_power);
            plan_cut_power_of(s, other);
        }
        return;
    case 3:
        if (!plan_order(s, p, chance(s, 700000) ? ORDER_DEMOTE : ORDER_DETACH))
            return;
        sim_at(s, now_plus(s, draw(s, 1, 100 * NS_PER_MS)), Q_ORDER, other, ORDER_PROMOTE);
        return;
    case 4:
        s->net.partitioned_until_ns = now_plus(s, draw(s, 1, 3) * s->dead_after_ns);
        sim_at(s, now_plus(s, draw(s, 0, 2 * s->dead_after_ns)), Q_ORDER, other, ORDER_PROMOTE);
        return;
    case 5: plan_order(s, p, ORDER_DEMOTE_FORCE); return;
    case 6: s->disk[other].faults.error_per_million[OP_WRITE] = (unsigned)draw(s, 1, 10000); return;
    default: sim_net_break(s, chance(s, 300000)); return;
    }
}

static void disk_errors(struct sim *s, unsigned p)
{
    /* Also while the primary is on its way out. */
    if (chance(s, 300000))
        plan_order(s, p, chance(s, 500000) ? ORDER_DETACH : ORDER_DEMOTE);
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

/* Whatever else is going on: what it finds must be there, and what it is overtaken by must not mind. */
static void strike_verify(struct sim *s, unsigned primary_node)
{
    unsigned node = chance(s, 800000) ? primary_node : 1 - primary_node;
    if (!s->node[node].up || sim_node_verifies(s, node))
        return;
    sim_node_order(s, node, chance(s, 300000) ? ORDER_VERIFY_REPAIR : ORDER_VERIFY);
    /* Its primary goes, the peer comes. */
    if (chance(s, 200000) && plan_order(s, primary_node, ORDER_DEMOTE))
        sim_at(s, now_plus(s, draw(s, 1, 20 * NS_PER_MS)), Q_ORDER, (unsigned)draw(s, 0, 1), ORDER_PROMOTE);
}

/* What follows when it is found: sim_plan_order_done(). */
static void strike_found(struct sim *s, unsigned primary_node)
{
    if (!sim_legs_in_sync(s) || sim_node_verifies(s, primary_node))
        return;
    sim_disk_rot(s, 1 - primary_node);
    sim_node_order(s, primary_node, ORDER_VERIFY);
}

static void strike_at(struct sim *s, enum strike k, unsigned p)
{
    unsigned other = 1 - p;
    bool other_up = s->node[other].up && sim_node_orders(s, other) == 0 && !s->node[other].serving;
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
        if (!other_up)
            return;
        COVER(secondary_crash);
        crash(s, other);
        return;
    case STRIKE_SECONDARY_DETACH:
        if (!other_up)
            return;
        COVER(secondary_detach);
        plan_order(s, other, ORDER_DETACH);
        return;
    case STRIKE_DEMOTE:
        if (!plan_order(s, p, ORDER_DEMOTE))
            return;
        /* Someone is to be primary again afterwards: the peer, or the same. */
        sim_at(s, now_plus(s, draw(s, 1, 100 * NS_PER_MS)), Q_ORDER, chance(s, 600000) ? other : p, ORDER_PROMOTE);
        return;
    case STRIKE_PROMOTE_SECONDARY: plan_order(s, other, ORDER_PROMOTE); return;
    case STRIKE_PROMOTE_BOTH:
        if (!plan_order(s, p, ORDER_DEMOTE))
            return;
        COVER(promote_race);
        uint64_t at_ns = now_plus(s, draw(s, 10 * NS_PER_MS, 60 * NS_PER_MS));
        sim_at(s, at_ns, Q_ORDER, 0, ORDER_PROMOTE);
        sim_at(s, at_ns + draw(s, 0, 3 * NS_PER_MS), Q_ORDER, 1, ORDER_PROMOTE);
        return;
    case STRIKE_PRIMARY_DETACH:
        if (plan_order(s, p, ORDER_DETACH))
            s->plan.detaches_primary[p] = true;
        return;
    case STRIKE_DISK_ERRORS: disk_errors(s, p); return;
    case STRIKE_DISKLESS: strike_diskless(s, p); return;
    case STRIKE_META_ERRORS: s->node[draw(s, 0, 1)].meta.error_per_million = (unsigned)draw(s, 1, 400000); return;
    case STRIKE_PRIMARY_CRASH:
        if (!s->node[other].serving)
            strike_primary_crash(s, p);
        return;
    case STRIKE_PROMOTE_FORCE:
        if (s->node[other].up)
            strike_force(s, p);
        return;
    case STRIKE_DEMOTE_FORCE:
        if (chance(s, 700000))
            s->net.partitioned_until_ns = now_plus(s, draw(s, 1, 3 * s->dead_after_ns));
        sim_at(s, now_plus(s, draw(s, 1, 3 * s->dead_after_ns)), Q_ORDER, p, ORDER_DEMOTE_FORCE);
        return;
    case STRIKE_TAKEOVER:
        if (s->node[other].up)
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
    case STRIKE_VERIFY: strike_verify(s, p); return;
    case STRIKE_RESYNC_BREAK: return;
    case STRIKE_RESIZE: plan_resize(s, p); return;
    case STRIKE_SWITCHOVER:
        if (sim_legs_in_sync(s) || chance(s, 20000)) /* else it is refused */
            plan_order(s, chance(s, 600000) ? p : other, ORDER_SWITCHOVER);
        return;
    case STRIKE_OLD_COPY: plan_copy(s); return;
    case STRIKE_REPLACE: plan_replace(s, chance(s, 700000) ? other : p); return;
    case STRIKE_LATENT_ERROR: sim_disk_make_unreadable(s, (unsigned)draw(s, 0, 1)); return;
    case STRIKE_POWER: strike_power(s, false); return;
    case STRIKE_POWER_BOTH: strike_power(s, true); return;
    case STRIKE_LOG_POWER:
        /* Mostly the primary's: only that one has a log to write. */
        s->node[chance(s, 800000) ? p : other].meta.page_error_per_million = (unsigned)draw(s, 1000, 400000);
        return;
    case STRIKE_FOUND: strike_found(s, p); return;
    case STRIKE_SILENT_DAMAGE: silent_damage(s); return;
    case STRIKES: break;
    }
}

void plan_strike(struct sim *s)
{
    if (s->plan.kinds == 0 || chance(s, 300000))
        return;
    enum strike k;
    do
        k = (enum strike)draw(s, 0, STRIKES - 1);
    while (!has(s, k));
    if (has(s, STRIKE_SWITCHOVER) && chance(s, 300000))
        k = STRIKE_SWITCHOVER;
    if (has(s, STRIKE_OLD_COPY) && chance(s, 150000))
        k = STRIKE_OLD_COPY;
    int p = sim_primary(s);
    if (p >= 0) {
        strike_at(s, k, (unsigned)p);
        return;
    }
    /* Nobody serves: an operator who sees that may promote. */
    if (chance(s, 200000))
        plan_order(s, (unsigned)draw(s, 0, 1), ORDER_PROMOTE);
}
