/* The register as a third party: the embedded witness's own rules (repl/witness/register_table.c) behind a network that
 * delays, loses and repeats what it carries, one way or both, for each node by itself.
 *
 * A node waits for its answer as long as its client does; what it has asked may arrive at any later time, also after it
 * has died, and be carried out then. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/plan.h"

#define DELAY_MAX_NS (2 * NS_PER_MS)

static uint64_t between(struct sim *s, uint64_t low, uint64_t high)
{
    return sim_between(s, CHANCE_REGISTER, low, high);
}

static bool happens(struct sim *s, unsigned per_million) { return sim_chance(s, CHANCE_REGISTER, per_million); }

void sim_register_reset(struct sim *s)
{
    struct sim_register *r = &s->reg;
    *r = (struct sim_register) { 0 };
    s->registered = happens(s, 500000);
    if (!s->registered)
        return;
    register_row_start(&r->row, SIM_VOLUME, (struct id) { { 0 } }, NULL);
    r->automatic = happens(s, 800000);
    r->suspends = happens(s, 150000);
    r->timeout_ns = between(s, s->dead_after_ns / 2, 2 * s->dead_after_ns);
    r->fail_after_ns = happens(s, 300000) ? between(s, s->dead_after_ns, 5 * s->dead_after_ns) : 0;
    r->calm = happens(s, 200000);
    r->lose_per_million = r->calm ? 0 : (unsigned)between(s, 0, 100000);
    r->late_per_million = r->calm ? 0 : (unsigned)between(s, 0, 300000);
    r->repeat_per_million = r->calm ? 0 : (unsigned)between(s, 0, 200000);
    if (!r->calm)
        r->strikes = (unsigned)between(s, 0, 15);
}

static uint64_t delay_ns(struct sim *s)
{
    if (happens(s, s->reg.late_per_million))
        return between(s, 1, 4 * s->dead_after_ns);
    return between(s, 50 * NS_PER_US, DELAY_MAX_NS);
}

static bool is_lost(struct sim *s, unsigned node, enum sim_register_way way)
{
    const struct sim_register *r = &s->reg;
    return r->cut_until_ns[node][way] > s->now_ns || r->down_until_ns > s->now_ns || happens(s, r->lose_per_million);
}

static uint32_t message_new(struct sim *s, unsigned node)
{
    for (uint32_t i = 0; i < SIM_REGISTER_MESSAGES_MAX; i++) {
        struct sim_register_message *m = &s->reg.messages[i];
        if (m->busy)
            continue;
        *m = (struct sim_register_message) { .busy = true, .node = node, .boot = s->node[node].boot };
        return i;
    }
    sim_fail(s, "simulator", "too many questions are on their way to the register");
}

/* Not of the node's boot: it arrives whatever has become of that. */
static void send(struct sim *s, uint32_t message, uint64_t in_ns)
{
    sim_at(s, s->now_ns + in_ns, Q_REGISTER, SIM_NODES, message);
}

static bool is_claim(const struct register_request *q)
{
    enum decree_cause cause = q->proposal.cause;
    return q->ask == REGISTER_SWAP && (cause == DECREE_TAKE || cause == DECREE_PROMOTE || cause == DECREE_FORCE);
}

/* Rules no-session-while-asking, member-and-whole: what is sent may be carried out at any later time. */
static void check_claim(struct sim *s, unsigned node, const struct register_request *request)
{
    const struct decree *d = &request->proposal;
    if (!is_claim(request))
        return;
    struct superblock sb;
    struct engine_view v;
    if (sim_node_view(s, node, &v) && v.session_up)
        sim_fail(s, "asking", "node %u asks to take over in a session", node);
    sim_node_superblock(s, node, &sb);
    if (sb.asked_epoch != request->expected_epoch)
        sim_fail(s, "asking", "node %u asks to take over from epoch %" PRIu64 ", and its superblock has %" PRIu64, node,
                 request->expected_epoch, sb.asked_epoch);
    if (d->cause != DECREE_FORCE && (sb.leg != LEG_UP_TO_DATE || sb.differs))
        sim_fail(s, "asking", "node %u asks to take over, and its leg is %s", node, leg_state_name(sb.leg));
}

uint64_t sim_register_age(const struct sim *s, unsigned node)
{
    for (unsigned i = 0; i < REGISTER_TOLD_MAX; i++)
        if (strcmp(s->reg.row.ages[i].node, SIM_NODE_NAME(node)) == 0)
            return s->reg.row.ages[i].age;
    return 0;
}

void sim_register_ask(struct sim *s, unsigned node, const struct register_request *request)
{
    struct sim_node *n = &s->node[node];
    check_claim(s, node, request);
    sim_age_is_told(s, node, request->leg_age);
    if (n->asks)
        sim_fail(s, "register", "node %u asks, and has not been answered", node);
    n->asks = true;
    n->asked_serial++;
    unsigned copies = is_lost(s, node, WAY_THERE) ? 0 : 1 + happens(s, s->reg.repeat_per_million);
    for (unsigned i = 0; i < copies; i++) {
        uint32_t m = message_new(s, node);
        s->reg.messages[m].step = REGISTER_ARRIVES;
        s->reg.messages[m].request = *request;
        s->reg.messages[m].serial = n->asked_serial;
        send(s, m, i == 0 ? delay_ns(s) : between(s, 1, 6 * s->dead_after_ns));
    }
    uint32_t patience = message_new(s, node);
    s->reg.messages[patience].step = REGISTER_TIMES_OUT;
    s->reg.messages[patience].serial = n->asked_serial;
    send(s, patience, s->reg.timeout_ns);
}

static const char *outcome_name(enum register_outcome o)
{
    static const char *const names[] = {
        [REGISTER_STANDS] = "stands",
        [REGISTER_DONE] = "done",
        [REGISTER_LOST] = "lost",
        [REGISTER_UNREACHABLE] = "unreachable",
        [REGISTER_UNCONFIRMED] = "unconfirmed",
        [REGISTER_OLDER] = "older",
        [REGISTER_REFUSED] = "refused",
    };
    return names[o];
}

/* Whose place it is by now has stopped before: nothing that it was asked is under way. */
static void switched(struct sim *s, unsigned node)
{
    unsigned left = sim_clients_busy(s, 1 - node);
    if (left)
        sim_fail(s, "undrained", "node %u has the other one's place, where %u requests are in flight", node, left);
    sim_plan_hands_over(s, 1 - node);
}

static void arrive(struct sim *s, const struct sim_register_message *m)
{
    struct register_answer a;
    const struct register_request request = m->request;
    unsigned node = m->node;
    uint64_t before = s->reg.row.decree.epoch;
    if (s->reg.down_until_ns > s->now_ns)
        return;
    sim_rollback_forgets_words(s);
    if (!sim_rollback_judges(s, &request, &a))
        register_row_ask(&s->reg.row, &request, &a);
    if (register_tells_age(&request, &a))
        register_row_take_age(&s->reg.row, request.node, request.leg_age);
    if (request.ask == REGISTER_SWAP)
        sim_trace(s, "R swap    of %c: %s, epoch %" PRIu64 " for %" PRIu64 ": %s", 'A' + node,
                  decree_cause_name(request.proposal.cause), request.proposal.epoch, request.expected_epoch,
                  outcome_name(a.outcome));
    /* Two operators made two volumes of two fresh legs; or the register was put back. */
    bool may_refuse = strstr(a.reason, "another volume") || (s->reg.back.often && strstr(a.reason, "adopt"));
    if (a.outcome == REGISTER_REFUSED && !may_refuse)
        sim_fail(s, "register", "node %u is refused: %s", node, a.reason);
    const struct decree *d = &s->reg.row.decree;
    if (d->epoch != before) {
        COVER(decrees);
        sim_rollback_decreed(s);
        if (d->cause == DECREE_FORCE)
            sim_force_decreed(s, node);
        if (d->cause == DECREE_TAKE)
            COVER(took_over);
        sim_moves_decreed(s, node);
        if (d->cause == DECREE_SWITCH)
            switched(s, node);
        struct superblock sb;
        sim_node_superblock(s, node, &sb);
        if (d->cause == DECREE_RESUME && sb.lost_power)
            COVER(sole_resumed);
        /* A sole leg resumes also after a failed flush, with nobody to write back what its cache shows: docs/STATUS.md
         */
        if (d->cause == DECREE_RESUME || d->cause == DECREE_PROMOTE)
            sim_disk_stop_lying(s, node);
        if (d->cause == DECREE_OUT) /* the bits of what the peer has not flushed are set then */
            s->plan.resync.known = false;
        if (m->boot != s->node[node].boot)
            COVER(decree_of_the_dead);
        sim_trace(s, "R decree  %" PRIu64 ": %s, primary %s, set%s%s", d->epoch, decree_cause_name(d->cause),
                  *d->primary ? d->primary : "none", sim_register_has(s, 0) ? " A" : "",
                  sim_register_has(s, 1) ? " B" : "");
        sim_register_check(s);
    }
    if (is_lost(s, node, WAY_BACK)) {
        if (request.ask == REGISTER_SWAP && a.outcome == REGISTER_DONE)
            COVER(swap_answer_lost);
        return;
    }
    uint32_t back = message_new(s, node);
    s->reg.messages[back].step = REGISTER_ANSWERS;
    s->reg.messages[back].boot = m->boot;
    s->reg.messages[back].serial = m->serial;
    s->reg.messages[back].answer = a;
    send(s, back, delay_ns(s));
}

static void answered(struct sim *s, unsigned node, const struct register_answer *a)
{
    struct sim_node *n = &s->node[node];
    n->asks = false;
    n->answer = *a;
    sim_trace(s, "%c witness %s", 'A' + node, outcome_name(a->outcome));
    sim_node_engine(s, node, (struct event) { .kind = EV_REGISTER, .answer = &n->answer });
}

void sim_register_event(struct sim *s, uint32_t index)
{
    struct sim_register_message *m = &s->reg.messages[index];
    struct sim_node *n = &s->node[m->node];
    if (m->step == REGISTER_ARRIVES) {
        struct sim_register_message it = *m;
        m->busy = false;
        if (!it.lost)
            arrive(s, &it);
        return;
    }
    if (n->paused_until_ns > s->now_ns) {
        send(s, index, n->paused_until_ns - s->now_ns);
        return;
    }
    struct sim_register_message it = *m;
    m->busy = false;
    if (!n->up || it.boot != n->boot || !n->asks || it.serial != n->asked_serial)
        return;
    if (it.step == REGISTER_TIMES_OUT)
        it.answer = (struct register_answer) { .outcome = REGISTER_UNREACHABLE, .reason = "no answer in time" };
    answered(s, it.node, &it.answer);
}

bool sim_register_has(struct sim *s, unsigned node)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    return decree_has_member(&s->reg.row.decree, sb.leg_id);
}

/* Rule all-there: what the register calls a member has everything, or knows itself that it has not. */
void sim_register_check(struct sim *s)
{
    /* By force a leg becomes one that lacks something; and what was put back is not true any more. */
    if (!s->registered || s->reg.forced || s->reg.back.is_back || s->legs.split || decree_is_none(&s->reg.row.decree))
        return;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct superblock sb;
        sim_node_superblock(s, i, &sb);
        /* Its daemon will find out when it is started. */
        bool lost_power = sb.attached && !id_equal(sb.boot_id, s->node[i].machine);
        if (!decree_has_member(&s->reg.row.decree, sb.leg_id) || superblock_is_doubtful(&sb) || lost_power ||
            s->plan.old_copy[i] || sb.leg != LEG_UP_TO_DATE)
            continue;
        if (!sim_leg_is_current(s, i, SIM_CONTENT, s->model.clock))
            sim_fail(s, "member", "leg %c is in the set of epoch %" PRIu64 ", and lacks what was acknowledged: %s",
                     'A' + i, s->reg.row.decree.epoch, s->model.facts);
    }
}

/* Rule out-first. A member may be a disk that was taken out: nobody looks at what it has, but it may be back. One that
 * is there is looked at with each decree; it may just be taken in. */
void sim_register_acked_alone(struct sim *s, unsigned node)
{
    const struct decree *d = &s->reg.row.decree;
    struct superblock own, theirs;
    sim_node_superblock(s, node, &own);
    sim_node_superblock(s, 1 - node, &theirs);
    if (!s->registered || s->reg.forced || !own.registered || own.epoch != d->epoch)
        return;
    for (uint32_t i = 0; i < d->member_count; i++)
        if (!id_equal(d->members[i].leg_id, own.leg_id) && !id_equal(d->members[i].leg_id, theirs.leg_id))
            sim_fail(s, "member",
                     "node %u acknowledges alone, and a leg that was replaced is in the set of epoch %" PRIu64, node,
                     d->epoch);
}

/* Rule no-session-while-asking: one that was sent may be carried out yet, and would find that its node went on. Of a
 * session that its node has left the other one may hear later. */
void sim_register_session_is_up(struct sim *s, unsigned node)
{
    uint64_t epoch = 0;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct engine_view v;
        if (sim_node_view(s, i, &v))
            epoch = max_u64(epoch, v.epoch);
    }
    for (uint32_t i = 0; s->registered && i < SIM_REGISTER_MESSAGES_MAX; i++) {
        const struct sim_register_message *m = &s->reg.messages[i];
        struct superblock sb;
        bool claims = m->busy && !m->lost && m->node == node && !s->plan.old_copy[node] &&
                      m->step == REGISTER_ARRIVES && is_claim(&m->request);
        /* It was given up for an order to adopt, and expects what this register does not have. */
        bool expects_other = s->reg.back.foreign || m->request.expected_epoch != s->reg.row.decree.epoch;
        if (s->reg.back.is_back && expects_other)
            continue;
        if (!claims || m->request.expected_epoch < epoch)
            continue;
        sim_node_superblock(s, node, &sb);
        if (decree_has_member(&m->request.proposal, sb.leg_id)) /* else its disk was replaced since */
            sim_fail(s, "asking",
                     "node %u has a session at epoch %" PRIu64 ", and has asked to take over from %" PRIu64, node,
                     epoch, m->request.expected_epoch);
    }
}

/* Rule out-before-target: where the register answers, no leg that it calls a member is made one, but by the person who
 * gives it up, or where its source did not know of the decree when that was decided: while the record before was on its
 * way, if this one had to wait for that. */
void sim_register_becomes_target(struct sim *s, unsigned node, bool source_knows_decree)
{
    bool given_up = s->plan.resolves && s->plan.resolved == node;
    if (s->registered && !given_up && s->reg.calm && source_knows_decree && sim_register_has(s, node))
        sim_fail(s, "target", "leg %c is to be resynced, and in the set of epoch %" PRIu64, 'A' + node,
                 s->reg.row.decree.epoch);
}

/* Rule taken-either-way. */
void sim_register_takes_in(struct sim *s, unsigned node, const struct superblock *before, const struct superblock *sb)
{
    struct engine_view v;
    bool becomes_whole = before->leg == LEG_SYNCING && sb->leg == LEG_UP_TO_DATE && sb->role == ROLE_SECONDARY;
    if (!s->registered || !becomes_whole || !sim_node_view(s, node, &v) || v.session_up)
        return;
    COVER(taken_by_word);
    /* Of a word that is old by now it is as whole as anybody who was left behind. */
    bool counts = sim_register_has(s, node) && !s->legs.split && !s->reg.forced;
    if (counts && !sim_leg_is_current(s, node, SIM_CONTENT, s->model.clock))
        sim_fail(s, "member", "leg %c takes itself for whole, and lacks what was acknowledged: %s", 'A' + node,
                 s->model.facts);
}

/* ---- faults ---- */

void sim_register_calm(struct sim *s)
{
    struct sim_register *r = &s->reg;
    r->calm = true;
    r->lose_per_million = r->late_per_million = r->repeat_per_million = r->strikes = 0;
    s->sleep = (struct sim_sleep) { 0 };
}

void sim_register_starts_anew(struct sim *s)
{
    struct sim_register *r = &s->reg;
    const struct register_row was = r->row;
    sim_trace(s, "R node    starts anew");
    register_row_start(&r->row, SIM_VOLUME, was.volume_id, decree_is_none(&was.decree) ? NULL : &was.decree);
    memcpy(r->row.ages, was.ages, sizeof(was.ages)); /* these are stored, too */
}

void sim_register_strike(struct sim *s)
{
    struct sim_register *r = &s->reg;
    unsigned node = (unsigned)between(s, 0, 1);
    uint64_t until_ns = s->now_ns + between(s, 1, 4 * s->dead_after_ns);
    if (r->deaf_until_ns && s->now_ns >= r->deaf_until_ns)
        r->deaf_until_ns = s->net.bad_paths = s->net.no_goodbye = 0;
    if (!s->registered || r->strikes == 0 || r->deaf_until_ns || !happens(s, 300000))
        return;
    /* One node hears the other, who does not hear it: for longer than it takes to take over. */
    if (happens(s, 200000))
        sim_net_stall(s, node, s->now_ns + between(s, s->dead_after_ns, 4 * s->dead_after_ns));
    /* The same of the primary, on the only connection there is, and it hears nothing of the register, either. */
    int serving = sim_primary(s);
    if (serving >= 0 && r->automatic && sim_legs_in_sync(s) && happens(s, 100000)) {
        COVER(deaf_primary);
        s->net.no_goodbye = happens(s, 500000);
        sim_trace(s, "%c node    hears its peer, and is heard by nobody", 'A' + serving);
        r->deaf_until_ns = s->now_ns + 3 * s->dead_after_ns;
        sim_net_stall(s, (unsigned)serving, r->deaf_until_ns);
        s->net.bad_paths = 3;
        r->cut_until_ns[serving][WAY_THERE] = r->cut_until_ns[serving][WAY_BACK] = r->deaf_until_ns;
        return;
    }
    switch (between(s, 0, 3)) {
    case 0:
        if (!(r->strikes & 1))
            return;
        COVER(register_down);
        r->down_until_ns = until_ns;
        return;
    case 1:
        if (!(r->strikes & 2))
            return;
        COVER(register_cut);
        r->cut_until_ns[node][between(s, 0, 1)] = until_ns;
        if (happens(s, 300000))
            r->cut_until_ns[node][WAY_THERE] = r->cut_until_ns[node][WAY_BACK] = until_ns;
        return;
    case 2:
        if (!(r->strikes & 4))
            return;
        COVER(register_restart);
        sim_register_starts_anew(s);
        return;
    default:
        /* (What reaches it has been put off to the end of its first stop.) */
        if (!(r->strikes & 8) || !s->node[node].up || sim_is_paused(&s->node[node], s->now_ns))
            return;
        COVER(paused);
        sim_trace(s, "%c node    is stopped for %" PRIu64 " ms", 'A' + node, (until_ns - s->now_ns) / NS_PER_MS);
        s->node[node].paused_until_ns = until_ns;
        return;
    }
}

void sim_register_heal(struct sim *s)
{
    struct sim_register *r = &s->reg;
    r->lose_per_million = r->late_per_million = r->repeat_per_million = r->strikes = 0;
    r->down_until_ns = r->deaf_until_ns = 0;
    memset(r->cut_until_ns, 0, sizeof(r->cut_until_ns));
    for (unsigned i = 0; i < SIM_NODES; i++)
        s->node[i].paused_until_ns = 0;
}

/* `lockstep witness forget`: the volume that a person has kept is another one. */
void sim_register_keeps(struct sim *s, unsigned node)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    const struct id known = s->reg.row.volume_id;
    if (s->registered && !id_is_none(known) && !id_is_none(sb.volume_id) && !id_equal(known, sb.volume_id)) {
        register_row_start(&s->reg.row, SIM_VOLUME, (struct id) { { 0 } }, NULL);
        s->reg.back.is_back = s->reg.back.foreign = s->reg.back.taken = false;
    }
}

/* By itself nobody serves a volume that was demoted, or where nobody takes over without an operator, or acts by the
 * decree: a first one that was late, of which neither knows. */
bool sim_register_needs_operator(struct sim *s)
{
    const struct decree *d = &s->reg.row.decree;
    bool acts = false;
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct superblock sb;
        sim_node_superblock(s, i, &sb);
        acts |= sb.registered;
    }
    return !s->registered || !s->reg.automatic || !acts || decree_is_none(d) || !*d->primary;
}
