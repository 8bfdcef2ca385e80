/* Operators' orders: who gives which when, and what their end must be. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "tests/sim/plan.h"

static bool link_is_down(const struct sim *s, unsigned node)
{
    struct engine_view v;
    return !sim_node_view(s, node, &v) || !v.session_up;
}

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

/* What only force overcomes. */
static bool has_obstacle(struct sim *s, unsigned node)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    return superblock_is_doubtful(&sb) || sb.leg != LEG_UP_TO_DATE;
}

bool plan_order(struct sim *s, unsigned node, enum order what)
{
    struct engine_view v;
    /* One at a time; but force may come to the help of one that waits. */
    bool force = what == ORDER_PROMOTE_FORCE || what == ORDER_DEMOTE_FORCE || what == ORDER_DETACH_FORCE;
    if (sim_is_paused(&s->node[node], s->now_ns))
        return false;
    if (!sim_node_view(s, node, &v) || sim_node_orders(s, node) > (force ? 1 : 0))
        return false;
    bool promotes = what == ORDER_PROMOTE || what == ORDER_PROMOTE_FORCE;
    struct engine_view other;
    bool connected = v.session_up && sim_node_view(s, 1 - node, &other) && other.session_up;
    if (promotes && (force || !connected) && plan_is_new_disk(s, node))
        return false;
    /* Who served last, the two tell each other: what the register had to say nobody knows. */
    if (promotes && !connected && s->reg.back.without && !s->legs.split)
        return false;
    /* Nobody forces an older copy. Without a register nothing on it would tell, out of the other one's sight. */
    bool tells = s->registered || connected || plan_copy_is_told(s, node);
    if (promotes && s->plan.old_copy[node] && (force || !tells))
        return false;
    /* Seldom is a node promoted although the operator knows that the other one went on without it. */
    if (promotes && !connected && s->legs.alone[1 - node] && !s->legs.split &&
        !chance(s, s->registered && force ? 500000 : 100000))
        return false;
    if (promotes && sim_node_orders(s, node) == 0) {
        s->plan.asked[node] = connected && v.role == ROLE_SECONDARY && other_leads(s, node);
        s->plan.forces[node] = what == ORDER_PROMOTE_FORCE;
        s->plan.obstacle[node] = has_obstacle(s, node);
        s->plan.half[node] = v.leg == LEG_SYNCING;
    }
    if (what == ORDER_PROMOTE_FORCE) /* it serves before it has written anything back */
        sim_disk_stop_lying(s, node);
    sim_node_order(s, node, what);
    return true;
}

/* Nobody serves by a decree that is not there yet. A switchover: both legs have everything, and nobody has anything to
 * resync. */
static void check_decree(struct sim *s, unsigned node)
{
    const struct decree *d = &s->reg.row.decree;
    struct engine_view v, other;
    if (s->registered && sim_node_view(s, node, &v) && v.witness.decree.epoch > s->reg.back.highest_epoch)
        sim_fail(s, "undecreed", "node %u serves by a decree of epoch %" PRIu64 ", which the register never had", node,
                 v.witness.decree.epoch);
    if (!s->registered || d->cause != DECREE_SWITCH || !sim_node_view(s, node, &v) || v.epoch != d->epoch)
        return;
    COVER(switched);
    if (!v.session_up || !sim_node_view(s, 1 - node, &other) || !other.session_up)
        return;
    COVER(switched_in_sync);
    if (!v.in_sync || v.out_of_sync_bytes || other.out_of_sync_bytes)
        sim_fail(s, "switchover", "node %u has taken over, and is not in sync: %s", node, v.why_not ? v.why_not : "-");
}

/* Without a witness, an operator may promote a node that cannot see the other, so that two may serve. One will be
 * deposed, and what waited there is lost; or both go on alone, and that is a split brain. Connected, there is one
 * primary. */
void sim_plan_serves(struct sim *s, unsigned node)
{
    struct engine_view v;
    check_decree(s, node);
    sim_legs_serves(s, node);
    s->served_at[node] = s->model.clock;
    if (link_is_down(s, node) && !s->legs.split && !s->legs.behind[node]) {
        COVER(survivor_checked);
        sim_audit(s);
    }
    if (!sim_node_view(s, node, &v) || !other_leads(s, node))
        return;
    struct engine_view other;
    if (v.session_up && sim_node_view(s, 1 - node, &other) && other.session_up)
        sim_fail(s, "two-primaries", "node %u begins to serve, connected to the other, which is primary", node);
    if (s->plan.asked[node] && !s->registered)
        sim_fail(s, "two-primaries", "node %u was told to promote while it was connected to a primary, and serves",
                 node);
    COVER(two_primaries);
}

/* The disks of most runs spoil nothing without a word: two legs that are in sync are equal, as far as both can be read.
 */
static void verify_done(struct sim *s, unsigned node, int32_t result, const char *text)
{
    struct engine_view v;
    struct verify_view verify;
    plan_compared(s, node, result);
    engine_verify_view(s->node[node].engine, &verify);
    if (result == 0 && sim_node_view(s, node, &v) && verify.total_bytes != v.size_bytes)
        sim_fail(s, "verify", "node %u calls the legs equal: %" PRIu64 " bytes, of %" PRIu64, node, verify.total_bytes,
                 v.size_bytes);
    if (result == 0)
        COVER(verified);
    else if (result == -EBUSY)
        COVER(verify_refused);
    else if (result != -EILSEQ)
        COVER(verify_broken);
    else if (strstr(text, "cannot be read"))
        COVER(verify_unreadable);
    else if (!s->spoilt.any)
        sim_fail(s, "verify", "node %u finds what cannot be: %s", node, text);
    else {
        COVER(verify_found);
        if (has(s, STRIKE_FOUND) && chance(s, 800000))
            sim_at(s, now_plus(s, draw(s, 100 * NS_PER_US, 20 * NS_PER_MS)), Q_CRASH, node,
                   chance(s, 900000) ? CUT_FOUND : CUT_NODE);
    }
}

void sim_plan_order_done(struct sim *s, unsigned node, enum order what, int32_t result, const char *text)
{
    /* What the peer has not flushed is marked when a primary ends without it. */
    s->plan.resync.known &= what == ORDER_PROMOTE || what == ORDER_PROMOTE_FORCE || order_stands_aside(what);
    s->plan.resync.known &= result != -EILSEQ;
    /* What such a leg lacks is in no bitmap. */
    s->plan.resync.known &= what != ORDER_PROMOTE_FORCE || !s->plan.obstacle[node];
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
        struct engine_view other;
        if (s->legs.alone[node] && sim_node_view(s, 1 - node, &other) && other.leg == LEG_FAILED)
            COVER(diskless_swapped);
        s->plan.detaches_primary[node] = false;
        if (node != s->plan.home) {
            COVER(role_swapped);
            s->plan.home = node;
        }
        return;
    case ORDER_PROMOTE_FORCE:
        if (result < 0) {
            COVER(promote_refused);
            if (s->registered)
                COVER(force_refused);
            return;
        }
        COVER(promoted_force);
        if (s->plan.half[node])
            COVER(promoted_half);
        s->plan.home = node;
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
    case ORDER_RESOLVE:
    case ORDER_RESOLVE_FORCE: plan_resolve_done(s, node, result); return;
    case ORDER_SWITCHOVER:
        if (result == 0)
            s->plan.home = strcmp(s->reg.row.decree.primary, SIM_NODE_NAME(1)) == 0;
        else if (result == -EBUSY && strstr(text, "serves on"))
            COVER(switch_called_off);
        else
            COVER(switch_refused);
        return;
    case ORDER_RESIZE: plan_resize_done(s, node, result); return;
    case ORDER_ADOPT:
        s->reg.back.refused += result == -EPERM;
        if (result == 0)
            COVER(register_adopted);
        return;
    case ORDER_VERIFY:
    case ORDER_VERIFY_REPAIR: verify_done(s, node, result, text); return;
    }
}

void sim_plan_late_order(struct sim *s, unsigned node, enum order what)
{
    if (s->plan.stage == STAGE_LOAD)
        plan_order(s, node, what);
}
