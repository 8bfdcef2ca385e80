/* Nothing goes wrong any more: what operators do until all is well. */
#include <errno.h>
#include <string.h>

#include "tests/sim/plan.h"

/* Disks were replaced: their nodes are taken down and up, as the operators are told to. */
static bool restart_failed(struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v) || v.leg != LEG_FAILED || !s->plan.mends)
            continue;
        s->plan.mended[i] = true;
        if (!s->reg.back.is_back && chance(s, 300000))
            plan_replace(s, i); /* not mended: thrown away */
        if (s->node[i].up)
            sim_node_crash(s, i);
        return true;
    }
    return false;
}

/* Neither node may call the volume protected, and both tell why not, in these words. */
static bool demand_told(struct sim *s, const char *words)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v))
            continue;
        if (v.in_sync)
            sim_fail(s, "not-told", "node %u calls the volume protected, which needs a person (%s)", i,
                     words ? words : "a leg has failed");
        bool last = s->now_ns + NS_PER_S > s->plan.deadline_ns; /* it may be about to learn it */
        if (words && !last && !strstr(v.why_not, words) && !strstr(v.why_not, "failed"))
            return false;
        if (words && v.leg != LEG_FAILED && !strstr(v.why_not, words) && !strstr(v.why_not, "failed"))
            sim_fail(s, "not-told", "node %u: not in sync because of: %s. Where is \"%s\"?", i, v.why_not, words);
    }
    return true;
}

/* What only a person can mend: the volume must say so. */
static bool needs_a_person(struct sim *s)
{
    struct superblock a, b;
    sim_node_superblock(s, 0, &a);
    sim_node_superblock(s, 1, &b);
    /* One that has been part of nothing may still join. */
    bool both_used = a.history.count > 0 && b.history.count > 0;
    if (both_used && !id_is_none(a.volume_id) && !id_is_none(b.volume_id) && !id_equal(a.volume_id, b.volume_id)) {
        if (!demand_told(s, "different volumes"))
            return false;
        COVER(two_volumes);
        return true;
    }
    enum history_relation relation = history_relate(&a.history, &b.history);
    if (relation == HISTORY_DIVERGED) {
        if (!demand_told(s, "split brain"))
            return false;
        COVER(split_told);
        return true;
    }
    /* A target that was promoted by force. */
    bool is_newer = relation == HISTORY_DESCENDANT || relation == HISTORY_ANCESTOR;
    if (is_newer && s->plan.half_forced[relation == HISTORY_DESCENDANT ? 0 : 1]) {
        if (!demand_told(s, "split brain"))
            return false;
        COVER(half_told);
        return true;
    }
    /* The same before it had been part of anything. */
    bool forced = has(s, STRIKE_PROMOTE_FORCE) || has(s, STRIKE_PRIMARY_CRASH) || has(s, STRIKE_TAKEOVER);
    if (relation == HISTORY_UNRELATED && (forced || s->legs.split)) {
        /* One forced half-way out of a first resync is told like one that had a history, if the other was merely
         * paired. */
        bool half = s->plan.half_forced[0] || s->plan.half_forced[1];
        if (!demand_told(s, half ? NULL : "nothing in common"))
            return false;
        COVER(split_told);
        return true;
    }
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v) || v.leg != LEG_FAILED || s->plan.mends)
            continue;
        if (!demand_told(s, NULL))
            return false;
        COVER(leg_failed);
        return true;
    }
    return false;
}

/* What cannot be read on the source keeps a resync from its end, until it is written. */
static void write_unreadable(struct sim *s, unsigned node)
{
    struct medium *m = &s->disk[node].data;
    for (uint32_t b = 0; m->has_flaws && s->clients.in_flight == 0 && b < s->block_count; b++) {
        if (medium_is_readable(m, b, 1))
            continue;
        COVER(unreadable_healed);
        sim_client_submit(s, 0, node, OP_WRITE, 0, b, 1);
        return;
    }
}

static bool says(const struct engine_view *v, const char *words) { return v->why_not && strstr(v->why_not, words); }

#define APART "apart from each other"

/* Neither leg is overwritten until a person has said which one is kept. */
static bool says_choose(const struct engine_view *v)
{
    return says(v, "a verify found that it differs") || says(v, APART) || says(v, "Only a person can tell which is");
}

/* Each leg has what the other one may lack. Either is right, but not both. */
static void choose_one(struct sim *s)
{
    unsigned keep = s->plan.resolves ? 1 - s->plan.resolved : (unsigned)draw(s, 0, 1);
    struct superblock sb;
    if (s->plan.old_copy[keep])
        keep = 1 - keep;
    if (sim_node_orders(s, 0) > 0 || sim_node_orders(s, 1) > 0)
        return;
    sim_node_superblock(s, keep, &sb);
    if (!plan_order(s, keep, ORDER_PROMOTE_FORCE))
        return;
    s->plan.home = keep;
    COVER(found_refused);
    if (sb.differs)
        COVER(found_kept);
}

/* Each member has lost power, or been made half: an operator says which counts (docs/FAILOVER.md). */
static bool nobody_is_whole(struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct superblock sb;
        sim_node_superblock(s, i, &sb);
        if (sim_register_has(s, i) && !superblock_is_doubtful(&sb) && sb.leg == LEG_UP_TO_DATE)
            return false;
    }
    return true;
}

static void force_one(struct sim *s)
{
    /* Of two that both have all that was flushed, either. */
    unsigned keep = (unsigned)(s->seed & 1);
    for (unsigned i = 0; i < SIM_NODES; i++)
        if (sim_legs_is_target(s, i) || plan_is_new_disk(s, i) || s->plan.old_copy[i])
            keep = 1 - i;
    if (s->plan.resolves)
        keep = 1 - s->plan.resolved;
    if (s->now_ns + HEAL_MAX_NS * 2 / 3 > s->plan.deadline_ns && sim_node_orders(s, keep) == 0 &&
        plan_order(s, keep, ORDER_PROMOTE_FORCE))
        COVER(register_forced);
}

/* Where the register has it that nobody serves, no operator is needed for two good legs to find each other. */
static bool find_each_other(struct sim *s)
{
    const struct decree *d = &s->reg.row.decree;
    if (!s->registered || s->reg.back.is_back || decree_is_none(d) || *d->primary || s->legs.split ||
        sim_legs_in_sync(s))
        return false;
    struct superblock sb[SIM_NODES];
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        sim_node_superblock(s, i, &sb[i]);
        bool good = sb[i].leg == LEG_UP_TO_DATE && !superblock_is_doubtful(&sb[i]) && sb[i].registered;
        if (!good || sim_node_orders(s, i) > 0 || !sim_node_view(s, i, &v) || v.leg != LEG_UP_TO_DATE)
            return false;
    }
    if (history_relate(&sb[0].history, &sb[1].history) != HISTORY_EQUAL || sb[0].size_bytes != sb[1].size_bytes ||
        !id_equal(sb[0].peer_leg_id, sb[1].leg_id) || !id_equal(sb[1].peer_leg_id, sb[0].leg_id))
        return false;
    COVER(nobody_waited);
    if (s->now_ns + HEAL_MAX_NS / 2 > s->plan.deadline_ns)
        sim_fail(s, "apart", "nobody serves, both legs are good, and they are not in sync");
    return true;
}

/* Two that were promoted by hand before they had heard of the first decree have epochs that the register never gave. */
static void adopt(struct sim *s, unsigned node, const struct engine_view *v)
{
    bool late = s->now_ns + HEAL_MAX_NS * 2 / 3 > s->plan.deadline_ns;
    if (late && v->witness.state == REGISTER_STATE_OLDER && !sim_node_adopts(s, node))
        sim_node_order(s, node, ORDER_ADOPT);
}

/* What operators do when the nodes cannot decide. */
static void operate(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    struct engine_view v[SIM_NODES] = { 0 };
    for (unsigned i = 0; i < SIM_NODES; i++)
        sim_node_view(s, i, &v[i]);
    if (s->node[0].serving && s->node[1].serving) {
        /* Deposed, once one learns of the other; or promoted apart at the same epoch. */
        unsigned loser = s->legs.alone[0] == s->legs.alone[1] ? 1 - p->home : s->legs.alone[0] ? 1 : 0;
        if (says(&v[0], "split brain") || says(&v[1], "split brain") || says(&v[0], "demote"))
            plan_order(s, loser, ORDER_DEMOTE_FORCE);
        return;
    }
    /* A register that has started anew waits for a node whose disk was replaced: that one knows nothing. */
    char reason[REGISTER_REASON_BYTES];
    if (s->registered && s->now_ns + HEAL_MAX_NS * 2 / 3 > p->deadline_ns && !s->reg.row.confirmed &&
        register_row_confirm(&s->reg.row, reason)) {
        COVER(register_confirmed);
        sim_trouble(s);
    }
    int serving = sim_primary(s);
    bool adopts = plan_adopts(s);
    for (unsigned i = 0; i < SIM_NODES && s->registered && !adopts; i++)
        if (serving == (int)i || (serving < 0 && v[i].in_sync))
            adopt(s, i, &v[i]);
    if (serving >= 0) {
        write_unreadable(s, (unsigned)serving);
        if (says(&v[serving], "a verify has found") && !sim_node_verifies(s, (unsigned)serving))
            sim_node_order(s, (unsigned)serving, ORDER_VERIFY_REPAIR);
        if (says(&v[serving], "its leg lacks") && plan_order(s, (unsigned)serving, ORDER_DEMOTE_FORCE))
            p->home = 1 - (unsigned)serving;
        return;
    }
    if (says_choose(&v[0]) || says_choose(&v[1])) {
        bool apart = says(&v[0], APART) || says(&v[1], APART);
        if (apart && (s->legs.term[0] == 0 || s->legs.term[0] != s->legs.term[1]))
            sim_fail(s, "apart", "the nodes were not promoted apart: A was primary at epoch %llu, B at %llu",
                     (unsigned long long)s->legs.term[0], (unsigned long long)s->legs.term[1]);
        if (apart)
            COVER(apart_refused);
        choose_one(s);
        return;
    }
    /* One that was being demoted when it lost its peer is to let go of what waits first. */
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (v[i].role == ROLE_PRIMARY && v[i].writes_waiting > 0) {
            plan_order(s, i, chance(s, 500000) ? ORDER_DEMOTE_FORCE : ORDER_DETACH_FORCE);
            return;
        }
    }
    if (adopts)
        return;
    if (s->registered && nobody_is_whole(s)) {
        if (!plan_sole_leg_resumes(s))
            force_one(s);
        return;
    }
    if (!sim_register_needs_operator(s) || find_each_other(s))
        return;
    if (s->legs.alone[0] != s->legs.alone[1])
        p->home = s->legs.alone[0] ? 0 : 1;
    if (plan_is_new_disk(s, p->home))
        p->home = 1 - p->home;
    /* Who reads that a node was deposed, or is half made, goes to the other. */
    if (says(&v[p->home], p->home == 0 ? "paris-a was deposed" : "paris-b was deposed"))
        p->home = 1 - p->home;
    if (v[p->home].leg == LEG_OUTDATED) /* an older copy, which was put back */
        p->home = 1 - p->home;
    if (v[p->home].leg == LEG_SYNCING && v[1 - p->home].leg == LEG_UP_TO_DATE)
        p->home = 1 - p->home;
    /* Nobody promotes what he is giving up. */
    if (p->resolves)
        p->home = 1 - p->resolved;
    unsigned home = p->home;
    /* When neither can be promoted, and what the source cannot read keeps it so, only force helps. */
    bool stuck = s->now_ns + HEAL_MAX_NS * 3 / 4 > p->deadline_ns && v[home].leg == LEG_UP_TO_DATE;
    /* Who has just forced one waits for what comes of it, before he forces the other one. */
    bool forces = p->forces[1 - home] && sim_node_orders(s, 1 - home) > 0;
    bool force = !forces && (stuck || (p->gone[1 - home] && !s->legs.behind[home]));
    if (plan_order(s, home, force ? ORDER_PROMOTE_FORCE : ORDER_PROMOTE) && chance(s, 300000))
        p->home = 1 - home;
}

/* Where a disk has spoilt something without a word, a verify in the end finds exactly what differs, and its repair
 * leaves nothing. True: it is under way. */
static bool compares(struct sim *s)
{
    int node = sim_primary(s);
    if (!s->spoilt.any || s->plan.compare.over)
        return false;
    if (s->plan.compare.busy)
        return true;
    uint32_t differing = sim_legs_differing(s, s->plan.compare.blocks);
    if (differing)
        sim_fail(s, "repair", "the legs are in sync again, and differ in %u blocks that were compared", differing);
    s->plan.compare.busy = true;
    sim_node_order(s, (unsigned)node, ORDER_VERIFY_REPAIR);
    return true;
}

void plan_compared(struct sim *s, unsigned node, int32_t result)
{
    struct verify_view v;
    if (!s->plan.compare.busy)
        return;
    s->plan.compare.busy = false;
    if (result && result != -EILSEQ)
        return;
    /* Counted now: the volume may have grown since the order, and what it grew by is compared, too. */
    engine_verify_view(s->node[node].engine, &v);
    s->plan.compare.blocks = (uint32_t)(v.total_bytes / BLOCK_BYTES);
    uint32_t differing = sim_legs_differing(s, s->plan.compare.blocks);
    if (v.differing_bytes != (uint64_t)differing * BLOCK_BYTES)
        sim_fail(s, "verify", "node %u finds %llu bytes that differ, of %u blocks", node,
                 (unsigned long long)v.differing_bytes, differing);
    if (result)
        COVER(compare_found);
    else
        COVER(compared);
    s->plan.compare.over = result == 0;
}

void plan_heal(struct sim *s)
{
    struct sim_plan *p = &s->plan;
    bool late = s->now_ns + HEAL_MAX_NS / 2 > p->deadline_ns;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        bool survivor_first =
            p->gone[i] && !s->node[1 - i].serving && s->node[1 - i].up && !plan_is_new_disk(s, 1 - i) && !late;
        survivor_first &= !s->reg.back.is_back; /* that one wants both nodes' word */
        if (!s->node[i].up && !survivor_first) {
            p->gone[i] = false;
            sim_plan_start(s, i);
            return;
        }
    }
    bool verifies = sim_node_verifies(s, 0) || sim_node_verifies(s, 1); /* it may find something yet */
    int serving = sim_primary(s);
    bool serves = serving >= 0 && !sim_is_held_up(s, (unsigned)serving);
    bool rules = plan_register_rules(s);
    if (serves && rules && sim_legs_in_sync(s) && s->clients.in_flight == 0 && !verifies) {
        plan_overdue(s, "the volume does not grow, or is not verified");
        if (compares(s))
            return;
        if (plan_resizes_to_the_end(s))
            return;
        if (plan_rests(s))
            return;
        plan_enter(s, STAGE_READ_BACK, HEAL_MAX_NS);
        return;
    }
    if (restart_failed(s) || plan_goes_without(s))
        return;
    plan_resolve_on(s);
    if (late && !p->resolves && needs_a_person(s)) {
        plan_decide(s);
        return;
    }
    plan_overdue(s, "the volume is not in sync again");
    if (chance(s, 300000))
        operate(s);
}
