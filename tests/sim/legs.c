/* What each leg must hold, at any moment and after a loss of power, and what "in sync" must mean. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/sim.h"

void sim_legs_reset(struct sim *s)
{
    s->legs = (struct sim_legs) { .span = model_span_begin(&s->model) };
    for (unsigned i = 0; i < SIM_NODES; i++)
        s->legs.flushed[i] = model_span_begun(&s->model, s->legs.span);
}

/* The model may forget what no leg can hold any more. */
static void forget(struct sim *s)
{
    const struct sim_legs *l = &s->legs;
    uint64_t oldest = min_u64(l->flushed[0], l->flushed[1]);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (l->behind[i])
            oldest = min_u64(oldest, l->bound[i]);
        if (s->copy[i].taken)
            oldest = min_u64(oldest, s->copy[i].flushed);
    }
    model_span_move(&s->model, l->span, max_u64(oldest, model_span_begun(&s->model, l->span)));
}

void sim_legs_flushed(struct sim *s, unsigned node, uint64_t begun)
{
    if (begun <= s->legs.flushed[node])
        return;
    s->legs.flushed[node] = begun;
    forget(s);
}

static void fall_behind(struct sim *s, unsigned node, uint64_t bound)
{
    struct sim_legs *l = &s->legs;
    l->bound[node] = l->behind[node] ? min_u64(l->bound[node], bound) : bound;
    l->behind[node] = true;
    l->since[node] = s->model.clock++;
    sim_trace(s, "  legs    %c falls behind, and has what was acknowledged before %" PRIu64, 'A' + node,
              l->bound[node]);
}

void sim_legs_replaced(struct sim *s, unsigned node)
{
    struct sim_legs *l = &s->legs;
    l->blank[node] = true;
    l->alone[node] = false;
    l->flushed[node] = l->taken_in[node] = 0;
    fall_behind(s, node, 0);
}

void sim_legs_put_back(struct sim *s, unsigned node, uint64_t flushed)
{
    struct sim_legs *l = &s->legs;
    l->flushed[node] = flushed;
    l->alone[node] = false;
    fall_behind(s, node, flushed);
    l->cut[node] = l->since[node];
}

/* It holds all that was acknowledged, whether or not both nodes were seen in sync since it did not. */
static void is_whole(struct sim_legs *l, unsigned node)
{
    if (l->blank[node]) /* it was taken in, and its source heard nothing of that any more */
        l->flushed[node] = l->taken_in[node];
    l->behind[node] = l->blank[node] = false;
}

/* What is acknowledged while the record has the other leg out of the in-sync set, a crash at this moment must not hide:
 * on a leg that could be promoted without force, the histories have to tell that it is the older one. So the source's
 * record of a resync's end comes before the target's. */
static void check_histories_tell(struct sim *s, unsigned node, const struct superblock *own)
{
    struct superblock theirs;
    sim_node_superblock(s, 1 - node, &theirs);
    if (theirs.leg != LEG_UP_TO_DATE || superblock_is_doubtful(&theirs) || theirs.history.count == 0)
        return;
    /* Promoted by force half-way: that is told by the handshake, whatever the histories say (needs_a_person()). */
    if (s->plan.half_forced[1 - node])
        return;
    enum history_relation relation = history_relate(&own->history, &theirs.history);
    if (relation == HISTORY_EQUAL || relation == HISTORY_ANCESTOR)
        sim_fail(
            s, "untold",
            "node %u acknowledges with the other one out of the in-sync set, whose leg is up to date, and no older "
            "by the histories: after a crash nobody could tell",
            node);
}

static void split(struct sim *s, const char *why)
{
    sim_trace(s, "  legs    split brain: %s", why);
    s->legs.split = true;
    s->legs.parted = s->model.clock++;
}

/* The register has taken the other one in, which has that on record; this node slept meanwhile, and wakes up to what
 * that one had answered before. */
static bool was_taken_in(struct sim *s, unsigned node, const struct superblock *own)
{
    struct superblock theirs;
    sim_node_superblock(s, 1 - node, &theirs);
    return s->registered && !s->reg.forced && sim_register_has(s, 1 - node) && theirs.leg == LEG_UP_TO_DATE &&
           history_relate(&own->history, &theirs.history) == HISTORY_ANCESTOR;
}

void sim_legs_acked(struct sim *s, unsigned node, const char *lacking)
{
    struct sim_legs *l = &s->legs;
    unsigned other = 1 - node;
    struct superblock sb;
    struct engine_view v;
    if (l->split || (!lacking && sim_legs_in_sync(s)))
        return;
    sim_node_superblock(s, node, &sb);
    if (sb.peer_in_sync && !lacking)
        return;
    if (sb.peer_in_sync)
        sim_fail(s, lacking, "on node %u, whose superblock has the other one in the in-sync set; leg %c: %s", node,
                 'A' + other, s->model.facts);
    if (!lacking && was_taken_in(s, node, &sb))
        return;
    COVER(acked_alone);
    sim_register_acked_alone(s, node);
    check_histories_tell(s, node, &sb);
    /* Whether the other leg has it, its content cannot always tell: what was in flight together has no order. */
    if (!l->behind[other])
        fall_behind(s, other, s->model.clock);
    bool together = sim_node_view(s, node, &v) && v.session_up && !lacking;
    l->alone[node] |= !together;
    if (!l->alone[0] || !l->alone[1])
        return;
    /* The other one's may have come here without both being in sync at any time, as when its leg failed at the end. */
    struct superblock theirs;
    sim_node_superblock(s, other, &theirs);
    enum history_relation relation = history_relate(&sb.history, &theirs.history);
    if (relation == HISTORY_EQUAL || relation == HISTORY_DESCENDANT) {
        l->alone[other] = false;
        l->behind[node] = false;
        return;
    }
    if (relation == HISTORY_ANCESTOR)
        sim_fail(s, "split-brain", "node %u acknowledges what node %u lacks, on an older leg than that one's", node,
                 other);
    COVER(split_brain);
    split(s, "both nodes have acknowledged alone");
}

/* From now on `node` has the only leg that counts. */
static void demand_all_is_stable(struct sim *s, unsigned node, const char *what)
{
    uint64_t now = s->model.clock++;
    if (!sim_leg_is_current(s, node, SIM_STABLE, now))
        sim_fail(s, "left-unflushed",
                 "it is put on record that leg %c %s, and leg %c would lose with its power what "
                 "both had: %s",
                 'B' - (int)node, what, 'A' + node, s->model.facts);
    sim_legs_flushed(s, node, now);
}

void sim_legs_taken_in(struct sim *s, unsigned node) { s->legs.taken_in[node] = s->legs.flushed[1 - node]; }

void sim_legs_leaves_behind(struct sim *s, unsigned node)
{
    /* (A new leg has never had anything.) */
    if (s->legs.split || s->legs.behind[node] || s->legs.blank[1 - node])
        return;
    COVER(left_behind);
    demand_all_is_stable(s, node, "has left the in-sync set");
}

void sim_legs_becomes_target(struct sim *s, unsigned node)
{
    const struct sim_legs *l = &s->legs;
    struct superblock own, source;
    /* Promoted by force, and has died before it served: what that gives up is gone when its leg is a source. */
    if (s->reg.forced && s->reg.forced_node == 1 - node)
        sim_legs_serves(s, 1 - node);
    sim_node_superblock(s, node, &own);
    sim_node_superblock(s, 1 - node, &source);
    /* A flush has failed on both: what its cache had not written, no later flush saves. */
    bool lacks = source.lost_power || own.peer_leg == LEG_FAILED;
    if (l->split || l->behind[0] || l->behind[1] || lacks)
        return;
    COVER(whole_targeted);
    demand_all_is_stable(s, 1 - node, "is being resynced");
}

static bool has_alone_since(const struct history *h, uint64_t epoch, bool or_before)
{
    for (unsigned i = h->count; i-- > 0;) {
        if (h->entries[i].epoch == epoch)
            return true;
        if (!or_before)
            return false;
    }
    return false;
}

void sim_legs_acked_through(struct sim *s, unsigned node)
{
    struct sim_legs *l = &s->legs;
    unsigned other = 1 - node;
    struct superblock sb;
    struct engine_view v;
    if (l->split || !sim_node_view(s, node, &v))
        return;
    sim_node_superblock(s, other, &sb);
    /* It may have taken over since it said so, and serve. */
    if (sb.peer_in_sync || !has_alone_since(&sb.history, v.diskless_epoch, sb.epoch > v.epoch))
        sim_fail(s, "diskless-early",
                 "node %u acknowledges through the leg of node %u, whose superblock does not have the other one out of "
                 "the in-sync set since epoch %" PRIu64,
                 node, other, v.diskless_epoch);
    /* An acknowledgement that was on its way may come later than that. */
    struct engine_view theirs;
    if (superblock_is_doubtful(&sb) && sim_node_view(s, other, &theirs) && theirs.session_up)
        sim_fail(s, "diskless-leg",
                 "node %u acknowledges through the leg of node %u, which has lost power, or was found to differ", node,
                 other);
    if (l->behind[other] && !sim_leg_is_current(s, other, SIM_CONTENT, s->model.clock))
        sim_fail(s, "diskless-leg", "node %u goes on through the leg of node %u: %s", node, other, s->model.facts);
    COVER(acked_diskless);
    is_whole(l, other);
    if (!l->behind[node])
        fall_behind(s, node, s->model.clock);
    l->alone[node] = false;
    l->alone[other] = true;
}

bool sim_legs_is_target(struct sim *s, unsigned node)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    return sb.leg == LEG_SYNCING;
}

void sim_legs_keep(struct sim *s, unsigned node)
{
    struct sim_legs *l = &s->legs;
    unsigned other = 1 - node;
    uint64_t bound = l->behind[node] ? l->bound[node] : MODEL_NEVER;
    /* The other node's own; and what this leg has lost itself. */
    model_give_up(&s->model, other, l->split ? min_u64(bound, l->parted) : bound, MODEL_NEVER);
    /* ... also what it has acknowledged through the other leg, until it did so on its own again. */
    if (l->behind[node])
        model_give_up(&s->model, node, bound, l->split ? max_u64(l->since[node], l->parted) : MODEL_NEVER);
    if (l->split && l->cut[node] > l->parted)
        model_give_up(&s->model, node, min_u64(bound, l->flushed[node]), l->cut[node]);
    if (!sim_leg_is_current(s, node, SIM_CONTENT, s->model.clock))
        sim_fail(s, "kept-leg", "leg %c, which a person keeps, lacks what its own node has acknowledged: %s",
                 'A' + node, s->model.facts);
    l->behind[node] = l->split = false;
    forget(s);
}

/* Of all that the other node has acknowledged, by what lies on the disks. */
static bool has_been_part(struct sim *s, unsigned node)
{
    struct superblock own, theirs;
    sim_node_superblock(s, node, &own);
    sim_node_superblock(s, 1 - node, &theirs);
    enum history_relation relation = history_relate(&own.history, &theirs.history);
    return relation == HISTORY_EQUAL || relation == HISTORY_DESCENDANT;
}

bool sim_legs_can_be_source(struct sim *s, unsigned node)
{
    struct superblock sb, theirs;
    sim_node_superblock(s, node, &sb);
    sim_node_superblock(s, 1 - node, &theirs);
    return !s->legs.behind[node] && sb.leg == LEG_UP_TO_DATE && !superblock_is_doubtful(&sb) && !sb.reads_lie &&
           theirs.peer_leg != LEG_FAILED && has_been_part(s, node);
}

/* What was acknowledged after the leg's bound is given up. */
static void give_up(struct sim *s, unsigned node)
{
    struct sim_legs *l = &s->legs;
    model_lost_power(&s->model, l->bound[node]);
    l->behind[node] = false;
    forget(s);
}

void sim_legs_serves(struct sim *s, unsigned node)
{
    struct sim_legs *l = &s->legs;
    sim_legs_look(s);
    if (l->split || !l->behind[node])
        return;
    /* Half made, by force: what the other one has is not given up for that. Only a person can tell which is the volume.
     * That this one may seem to have everything counts for nothing: see below. */
    bool decreed = sim_is_forced(s, node);
    if (s->plan.half[node] && (s->plan.forces[node] || decreed) && s->acked_epoch > 0 &&
        !sim_legs_is_target(s, 1 - node)) {
        COVER(half_served);
        split(s, "one was promoted half made");
        return;
    }
    /* A resync may have ended without the source knowing of it. That alone the content does not tell when the other
     * node has acknowledged without this leg, or when it was promoted by force after a loss of power: what was in
     * flight together has no order, so that it may seem to have what it lacks. */
    bool forced = (s->plan.forces[node] && s->plan.obstacle[node]) || decreed;
    bool has_all = sim_leg_is_current(s, node, SIM_CONTENT, s->model.clock);
    if (has_all && !forced && (!l->alone[1 - node] || has_been_part(s, node))) {
        is_whole(l, node);
        return;
    }
    struct engine_view v, other;
    bool connected =
        sim_node_view(s, node, &v) && v.session_up && sim_node_view(s, 1 - node, &other) && other.session_up;
    bool new_disk = l->blank[node] && !l->alone[1 - node];
    if (!s->plan.forces[node] && !decreed &&
        (s->plan.obstacle[node] || connected || new_disk || s->plan.old_copy[node]))
        sim_fail(s, "stale-promoted", "node %u serves without force, and lacks what was acknowledged: %s", node,
                 s->model.facts);
    COVER(stale_served);
    if (!l->alone[1 - node])
        give_up(s, node);
}

/* Which leg the others' content will come from, when none holds everything. */
static unsigned leader(struct sim *s)
{
    const struct sim_legs *l = &s->legs;
    struct superblock sb[SIM_NODES];
    for (unsigned i = 0; i < SIM_NODES; i++)
        sim_node_superblock(s, i, &sb[i]);
    switch (history_relate(&sb[0].history, &sb[1].history)) {
    case HISTORY_DESCENDANT: return 0;
    case HISTORY_ANCESTOR: return 1;
    case HISTORY_EQUAL:
    case HISTORY_DIVERGED:
    case HISTORY_UNRELATED: break;
    }
    if (l->blank[0] != l->blank[1])
        return l->blank[0] ? 1 : 0;
    if (s->plan.old_copy[0] != s->plan.old_copy[1])
        return s->plan.old_copy[0] ? 1 : 0;
    /* Diverged, and nobody will decide; but what was acknowledged is on one leg only. */
    if (l->alone[0] != l->alone[1])
        return l->alone[0] ? 0 : 1;
    if ((sb[0].leg == LEG_SYNCING) != (sb[1].leg == LEG_SYNCING))
        return sb[0].leg == LEG_SYNCING ? 1 : 0;
    /* Nothing on record tells. One may have flushed more than was asked of it, but no client knows of that. */
    return l->bound[0] <= l->bound[1] ? 0 : 1;
}

/* By a decree of this node's own, which is on its disk. */
static bool has_left_it_behind(struct sim *s, unsigned node)
{
    struct superblock own, theirs;
    sim_node_superblock(s, node, &own);
    sim_node_superblock(s, 1 - node, &theirs);
    return !own.peer_in_sync && history_relate(&own.history, &theirs.history) == HISTORY_DESCENDANT;
}

/* It is, or what it has judged is on its way to the disk. */
static bool will_be_target(struct sim *s, unsigned node)
{
    struct engine_view v;
    return sim_legs_is_target(s, node) || (sim_node_view(s, node, &v) && v.leg == LEG_SYNCING);
}

static const uint64_t *spoilt(const struct sim *s, unsigned node, enum sim_layer layer)
{
    const struct medium *m = &s->disk[node].data;
    return !m->has_flaws ? NULL : layer == SIM_STABLE ? m->stable_damaged : m->damaged;
}

void sim_legs_power_lost(struct sim *s, const bool cut[SIM_NODES])
{
    struct sim_legs *l = &s->legs;
    bool lost[SIM_NODES];
    for (unsigned i = 0; i < SIM_NODES; i++) {
        lost[i] = cut[i] && !l->blank[i];
        if (cut[i] && l->blank[i]) /* nobody counts on it, but for what was mirrored to it */
            l->cut[i] = l->since[i] = s->model.clock++;
        if (lost[i] && l->split)
            l->cut[i] = s->model.clock++;
        if (!lost[i] || l->split)
            continue;
        s->model.damaged = spoilt(s, i, SIM_CONTENT);
        bool durable = l->behind[i] || model_check_durable(&s->model, &s->disk[i].image[SIM_CONTENT], l->flushed[i]);
        s->model.damaged = NULL;
        if (!durable)
            sim_fail(s, "power-loss", "leg %c lacks what was acknowledged and flushed: %s", 'A' + i, s->model.facts);
        fall_behind(s, i, l->flushed[i]);
        l->cut[i] = l->since[i];
    }
    /* One that is just being resynced cannot stand in for it, whatever it has. The other one had all that was
     * acknowledged before that on stable storage: sim_legs_becomes_target(). */
    for (unsigned i = 0; i < SIM_NODES; i++) {
        unsigned other = 1 - i;
        if (lost[i] && !lost[other] && !l->split && !l->behind[other] && will_be_target(s, other))
            fall_behind(s, other, min_u64(l->flushed[i], l->flushed[other]));
    }
    /* Nor one that has left the in-sync set by what is on the disk: nobody can tell that nothing has been acknowledged
     * without it yet. It has everything, but the volume goes on from the leg that is alone in the set. */
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (lost[i] && !lost[1 - i] && !l->split && !l->behind[1 - i] && has_left_it_behind(s, i))
            fall_behind(s, 1 - i, s->model.clock);
    }
    /* Nor one that has failed, whatever it has. */
    for (unsigned i = 0; i < SIM_NODES; i++) {
        unsigned other = 1 - i;
        struct superblock theirs;
        struct engine_view v;
        sim_node_superblock(s, other, &theirs);
        bool has_failed =
            theirs.leg == LEG_FAILED || theirs.lost_power || (sim_node_view(s, other, &v) && v.leg == LEG_FAILED);
        if (lost[i] && !lost[other] && has_failed && !l->split && !l->behind[other])
            fall_behind(s, other, min_u64(l->flushed[i], l->flushed[other]));
    }
    if (!l->behind[0] || !l->behind[1] || l->split)
        return;
    /* No leg is left that holds everything. What was acknowledged and not flushed may be gone with both. */
    COVER(power_lost_both);
    unsigned best = leader(s), other = 1 - best;
    /* (An older copy lacks what was stable by itself, too.) */
    if (!l->alone[best] && !l->alone[other] && l->bound[other] >= l->bound[best] && !s->plan.old_copy[other])
        l->behind[other] = false;
    give_up(s, best);
}

bool sim_leg_holds(struct sim *s, unsigned node, enum sim_layer layer, uint32_t write)
{
    const struct sim_legs *l = &s->legs;
    /* The leg had it, and said so, before it lost it. */
    bool asks = layer == SIM_STABLE && !l->blank[node] && !s->plan.old_copy[node];
    if (l->behind[node] && s->model.writes[write].begin < l->since[node] && !asks)
        return true;
    s->model.damaged = spoilt(s, node, layer);
    bool holds = model_check_holds(&s->model, &s->disk[node].image[layer], write);
    s->model.damaged = NULL;
    return holds;
}

bool sim_leg_is_current(struct sim *s, unsigned node, enum sim_layer layer, uint64_t bound)
{
    s->model.damaged = spoilt(s, node, layer);
    bool current = model_check_current(&s->model, &s->disk[node].image[layer], bound);
    s->model.damaged = NULL;
    return current;
}

uint32_t sim_legs_differ(const struct sim *s)
{
    uint8_t *a = s->disk[0].data.content, *b = s->disk[1].data.content;
    const uint64_t *damaged[SIM_NODES] = { spoilt(s, 0, SIM_CONTENT), spoilt(s, 1, SIM_CONTENT) };
    for (uint32_t i = 0; i < s->block_count; i++) {
        bool is_spoilt = (damaged[0] && sector_bit(damaged[0], i)) || (damaged[1] && sector_bit(damaged[1], i));
        if (!is_spoilt && memcmp(sim_block(a, i), sim_block(b, i), BLOCK_BYTES) != 0)
            return i;
    }
    return UINT32_MAX;
}

uint32_t sim_legs_differing(const struct sim *s, uint32_t blocks)
{
    uint8_t *a = s->disk[0].data.content, *b = s->disk[1].data.content;
    uint32_t count = 0;
    for (uint32_t i = 0; i < blocks; i++)
        count += memcmp(sim_block(a, i), sim_block(b, i), BLOCK_BYTES) != 0;
    return count;
}

static void audit_leg(struct sim *s, unsigned node)
{
    const struct sim_legs *l = &s->legs;
    if (l->blank[node])
        return;
    uint64_t bound = l->behind[node] ? l->bound[node] : s->model.clock;
    if (!sim_leg_is_current(s, node, SIM_CONTENT, bound))
        sim_fail(s, "audit", "leg %c lacks what was acknowledged%s: %s", 'A' + node,
                 l->behind[node] ? " before it fell behind" : "", s->model.facts);
    if (!sim_leg_is_current(s, node, SIM_STABLE, l->flushed[node]))
        sim_fail(s, "audit", "the stable layer of leg %c lacks what was acknowledged and flushed: %s", 'A' + node,
                 s->model.facts);
}

bool sim_legs_in_sync(const struct sim *s)
{
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (!s->node[i].up || !engine_is_in_sync(s->node[i].engine))
            return false;
    }
    return true;
}

void sim_legs_look(struct sim *s)
{
    struct sim_legs *l = &s->legs;
    if (!sim_legs_in_sync(s))
        return;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (l->term[i] && sim_node_view(s, i, &v) && v.role != ROLE_PRIMARY)
            l->term[i] = 0;
    }
    for (unsigned i = 0; i < SIM_NODES; i++) {
        if (s->plan.old_copy[i])
            sim_fail(s, "older-copy", "node %u and its peer are in sync, and its disk was put back from an older copy",
                     i);
    }
    if (!(l->behind[0] || l->behind[1] || l->alone[0] || l->alone[1]))
        return;
    if (l->split)
        sim_fail(s, "split-brain", "both nodes have acknowledged what the other lacks, and now they are in sync");
    COVER(caught_up);
    sim_trace(s, "  legs    in sync");
    sim_force_is_over(s);
    /* Nothing that one leg has on stable storage is only in the other's cache. */
    l->flushed[0] = l->flushed[1] = max_u64(l->flushed[0], l->flushed[1]);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        l->behind[i] = l->alone[i] = l->blank[i] = false;
        s->plan.half_forced[i] = false;
        audit_leg(s, i);
    }
    forget(s);
}

void sim_audit(struct sim *s)
{
    COVER(audits);
    sim_legs_look(s);
    for (unsigned i = 0; i < SIM_NODES && !s->legs.split; i++)
        audit_leg(s, i);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (!sim_node_view(s, i, &v))
            continue;
        if (v.in_sync != (v.why_not == NULL))
            sim_fail(s, "view", "node %u: in sync is %d, and why not: %s", i, v.in_sync, v.why_not ? v.why_not : "-");
        if (v.in_sync && v.out_of_sync_bytes)
            sim_fail(s, "view", "node %u says in sync, and its bitmap that %" PRIu64 " bytes may differ", i,
                     v.out_of_sync_bytes);
    }
    bool quiet = s->clients.changes_in_flight == 0 && s->disk[0].busy == 0 && s->disk[1].busy == 0;
    if (!sim_legs_in_sync(s) || !quiet)
        return;
    uint32_t block = sim_legs_differ(s);
    if (block != UINT32_MAX)
        sim_fail(s, "view", "both nodes say in sync, no change is in flight, and the legs differ in block %u", block);
}
