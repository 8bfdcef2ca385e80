/* The register is put back to what it was at an earlier time, or has lost everything; and the operators who adopt
 * (docs/FAILOVER.md, "The witness").
 *
 * There are two kinds. The embedded witness has started anew then, and waits for both nodes' word; so any older state
 * of it may be put back. etcd answers at once: with its keys left it is put back only where both nodes have on record
 * that there was more, which is what is promised of it; with its keys deleted, as the manual says, where both act by a
 * register at all; and as another cluster, whatever it has. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/plan.h"

static bool happens(struct sim *s, unsigned per_million) { return sim_chance(s, CHANCE_ROLLBACK, per_million); }

void sim_rollback_reset(struct sim *s)
{
    struct sim_register *r = &s->reg;
    if (!s->registered || r->calm || !happens(s, 150000))
        return;
    r->back.often = true;
    r->back.etcd = happens(s, 500000);
    /* Each of these takes an operator who wants a register himself, or leaves one leg that nobody knows enough of. */
    s->plan.kinds &= ~(OF_STRIKE(STRIKE_OLD_COPY) | OF_STRIKE(STRIKE_REPLACE) | OF_STRIKE(STRIKE_PROMOTE_FORCE));
}

/* What etcd is asked it answers by its decree alone: it remembers nobody's word. */
void sim_rollback_forgets_words(struct sim *s)
{
    struct register_row *row = &s->reg.row;
    if (!s->reg.back.etcd)
        return;
    memset(row->told, 0, sizeof(row->told));
    row->highest_told = 0;
    row->confirmed = true;
}

/* Of another cluster's decree etcd's client says that it is older, whatever its epoch (repl/witness/etcd_judge.c). */
bool sim_rollback_judges(struct sim *s, const struct register_request *request, struct register_answer *a)
{
    bool adopts = request->ask == REGISTER_SWAP && request->over_older;
    if (!s->reg.back.foreign || adopts)
        return false;
    struct register_row unchanged = s->reg.row;
    register_row_ask(&s->reg.row, request, a);
    s->reg.row = unchanged;
    if (a->outcome != REGISTER_REFUSED) {
        a->outcome = REGISTER_OLDER;
        snprintf(a->reason, sizeof(a->reason), "another etcd cluster's decree: restored from a backup");
    }
    a->decree = unchanged.decree;
    return true;
}

void sim_rollback_decreed(struct sim *s)
{
    struct sim_rollback *b = &s->reg.back;
    const struct decree *d = &s->reg.row.decree;
    b->highest_epoch = max_u64(b->highest_epoch, d->epoch);
    b->last = *d;
    b->foreign = false;
    if (b->is_back && d->cause == DECREE_ADOPT)
        COVER(rollback_adopted);
    b->is_back = false;
}

/* ---- it is put back ---- */

static bool is_sound(struct sim *s, unsigned node)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    bool lost_power = sb.attached && !id_equal(sb.boot_id, s->node[node].machine);
    return !superblock_is_doubtful(&sb) && !lost_power;
}

/* An operator's is carried out over whatever is there, also at a second time: docs/STATUS.md. */
static bool is_asked_to_adopt(const struct sim *s, unsigned node)
{
    struct engine_view v;
    return sim_node_view(s, node, &v) && v.witness.swap_under_way && v.witness.swap_cause == DECREE_ADOPT;
}

static bool has_more_on_record(struct sim *s, unsigned node, uint64_t epoch)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    return sb.registered && max_u64(sb.epoch, sb.heard_epoch) > epoch;
}

/* What is on its way there is lost with the connections. */
static void put(struct sim *s, const struct register_row *row)
{
    struct sim_register *r = &s->reg;
    for (uint32_t i = 0; i < SIM_REGISTER_MESSAGES_MAX; i++)
        r->messages[i].lost |= r->messages[i].busy && r->messages[i].step == REGISTER_ARRIVES;
    sim_trace(s, "R node    is put back from epoch %" PRIu64 " to %" PRIu64 "%s", r->row.decree.epoch,
              row->decree.epoch, r->back.foreign ? ", of another cluster" : "");
    struct register_row was = *row;
    register_row_start(&r->row, SIM_VOLUME, was.volume_id, decree_is_none(&was.decree) ? NULL : &was.decree);
    memcpy(r->row.ages, was.ages, sizeof(was.ages));
    r->back.refused = 0;
    r->back.taken = false; /* never twice: what is copied from here on is of this time */
    r->back.is_back = true;
    r->back.at_ns = s->now_ns;
    sim_trouble(s);
}

void sim_rollback_strike(struct sim *s)
{
    struct sim_rollback *b = &s->reg.back;
    const struct decree *now = &s->reg.row.decree;
    if (!b->often || b->is_back || decree_is_none(now) || !happens(s, 150000))
        return;
    if (!b->taken || happens(s, 100000)) {
        b->taken = true;
        b->copy = s->reg.row;
        return;
    }
    struct register_row to = b->copy;
    bool loses_all = happens(s, 200000);
    if (loses_all)
        register_row_start(&to, SIM_VOLUME, (struct id) { { 0 } }, NULL);
    bool foreign = b->etcd && !loses_all && happens(s, 300000);
    bool known = has_more_on_record(s, 0, to.decree.epoch) && has_more_on_record(s, 1, to.decree.epoch);
    if (is_asked_to_adopt(s, 0) || is_asked_to_adopt(s, 1) || !is_sound(s, 0) || !is_sound(s, 1) ||
        (b->etcd && !foreign && !known))
        return;
    if (!b->etcd)
        COVER(rollback_witness);
    else if (foreign)
        COVER(rollback_foreign);
    else
        COVER(rollback_etcd);
    if (loses_all)
        COVER(rollback_to_nothing);
    b->foreign = foreign;
    put(s, &to);
    /* Whoever starts now has nothing but its record of what it had read before. */
    int serving = sim_primary(s);
    if (happens(s, 500000))
        sim_at(s, now_plus(s, sim_between(s, CHANCE_ROLLBACK, 1, 2 * s->dead_after_ns)), Q_CRASH, serving == 0 ? 1 : 0,
               CUT_NODE);
}

/* ---- operators ---- */

static bool is_older(const struct engine_view *v)
{
    return v->witness.state == REGISTER_STATE_OLDER || v->witness.state == REGISTER_STATE_REFUSED ||
           (v->witness.state == REGISTER_STATE_UNCONFIRMED && strstr(v->witness.reason, "restored from a backup"));
}

bool plan_register_rules(struct sim *s)
{
    struct sim_rollback *b = &s->reg.back;
    bool good = s->now_ns > b->at_ns + 4 * s->dead_after_ns; /* whatever they have heard is of what it is now */
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        good &= sim_node_view(s, i, &v) && v.witness.state == REGISTER_STATE_REACHABLE;
    }
    b->is_back &= !good;
    return !b->is_back;
}

static bool is_source(const struct sim *s, unsigned node)
{
    struct engine_resync resync = engine_resync_view(s->node[node].engine);
    return resync.active && resync.is_source;
}

/* The primary; where nobody serves, the source of a resync, or who served last. */
static unsigned whose_decree(struct sim *s, const struct engine_view v[SIM_NODES])
{
    int serving = sim_primary(s);
    if (serving >= 0)
        return (unsigned)serving;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (s->node[i].up && is_source(s, i))
            return i;
        if (v[i].leg != LEG_UP_TO_DATE && v[1 - i].leg == LEG_UP_TO_DATE)
            return 1 - i;
    }
    return s->served_at[0] > s->served_at[1] ? 0 : 1;
}

/* Where an order to adopt is given next. */
static unsigned who_is_asked(struct sim *s, const struct engine_view v[SIM_NODES])
{
    struct superblock theirs;
    unsigned node = whose_decree(s, v), other = 1 - node;
    /* To who knows less it is merely unconfirmed. */
    bool knows_less = v[node].witness.state != REGISTER_STATE_OLDER && v[other].witness.state == REGISTER_STATE_OLDER;
    if (knows_less && sim_primary(s) < 0 && happens(s, 500000))
        return other;
    /* What it asks for keeps the two apart: there first. */
    sim_node_superblock(s, other, &theirs);
    bool is_apart = !v[node].session_up && (v[other].witness.swap_under_way || theirs.asked_epoch);
    return is_apart && happens(s, 700000) ? other : node;
}

/* Who was demoted, and waits to tell the register, is taken down by force: nobody's writes wait there. */
static bool takes_down(struct sim *s, const struct engine_view v[SIM_NODES])
{
    for (unsigned i = 0; s->plan.stage == STAGE_HEAL && i < SIM_NODES; i++) {
        if (v[i].role != ROLE_PRIMARY || v[i].serving || v[i].writes_waiting > 0)
            continue;
        plan_order(s, i, ORDER_DETACH_FORCE);
        return true;
    }
    return false;
}

/* Of two volumes of one name it has the one that is no more. */
static void forgets_other_volume(struct sim *s)
{
    struct superblock a, b;
    sim_node_superblock(s, 0, &a);
    sim_node_superblock(s, 1, &b);
    if (id_equal(a.volume_id, b.volume_id))
        sim_register_keeps(s, 0);
}

bool plan_adopts(struct sim *s)
{
    struct engine_view v[SIM_NODES] = { 0 };
    bool older = false;
    for (unsigned i = 0; i < SIM_NODES; i++)
        older |= sim_node_view(s, i, &v[i]) && is_older(&v[i]);
    if (!s->reg.back.is_back || !older)
        return false;
    if (sim_node_adopts(s, 0) || sim_node_adopts(s, 1))
        return true;
    forgets_other_volume(s);
    if (takes_down(s, v))
        return true;
    unsigned node = who_is_asked(s, v);
    if (s->node[node].up && !sim_is_paused(&s->node[node], s->now_ns))
        sim_node_order(s, node, ORDER_ADOPT);
    return true;
}

/* Both configurations are changed, and both daemons start with that. */
bool plan_goes_without(struct sim *s)
{
    struct sim_rollback *b = &s->reg.back;
    if (!b->is_back || b->without || b->refused < 2)
        return false;
    struct engine_view v[SIM_NODES] = { 0 };
    for (unsigned i = 0; i < SIM_NODES; i++)
        sim_node_view(s, i, &v[i]);
    s->plan.home = whose_decree(s, v);
    for (unsigned i = 0; i < SIM_NODES; i++)
        if (s->node[i].up)
            sim_node_crash(s, i);
    COVER(rollback_without);
    sim_trace(s, "  plan    the nodes go without a register");
    b->without = true;
    b->is_back = false;
    s->registered = false;
    s->plan.deadline_ns = now_plus(s, HEAL_MAX_NS);
    return true;
}
