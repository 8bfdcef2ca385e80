/* Who asks the register for what: in every state that the table can be asked in, what it says is one of what the
 * protocol allows (docs/FAILOVER.md). */
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

#include "repl/base/units.h"
#include "repl/role/swaps.h"

static const struct id own_leg = { { 1 } }, peer_leg = { { 2 } }, other_leg = { { 3 } };

static void add(struct decree *d, const char *node, struct id leg)
{
    struct decree_member *m = &d->members[d->member_count++];
    strcpy(m->node, node);
    m->leg_id = leg;
}

/* All that a number can say: its digits, in mixed bases. */
static unsigned digit(uint64_t *n, unsigned base)
{
    unsigned d = (unsigned)(*n % base);
    *n /= base;
    return d;
}

static bool bit(uint64_t *n) { return digit(n, 2); }

#define STATES_MAX (UINT64_C(3) * 5 * 3 * 6 * 2 * 2 * 2 * 2 * (1 << 11))

static void state_of(uint64_t n, struct swap_facts *f, struct decree *stands)
{
    static const enum swap_role roles[] = { SWAP_SECONDARY, SWAP_PRIMARY, SWAP_HANDING,
                                            SWAP_DRAINING,  SWAP_ENDING,  SWAP_BUSY };
    memset(stands, 0, sizeof(*stands));
    stands->tag = 77;
    unsigned primary = digit(&n, 3), set = digit(&n, 5), epoch = digit(&n, 3);
    if (primary < 2)
        strcpy(stands->primary, primary ? "b" : "a");
    if (set == 0 || set == 2)
        add(stands, "a", own_leg);
    if (set == 1 || set == 2)
        add(stands, "b", peer_leg);
    if (set == 3) /* a disk that was replaced */
        add(stands, "a", other_leg);
    if (set == 4) { /* there is none */
        memset(stands, 0, sizeof(*stands));
    } else {
        stands->epoch = 9 + epoch; /* below, at, and above what this node has seen */
    }
    *f = (struct swap_facts) {
        .node = "a", .peer = "b", .leg_id = own_leg, .peer_leg_id = peer_leg, .stands = stands, .epoch = 10
    };
    f->role = roles[digit(&n, 6)];
    f->registered = bit(&n);
    f->whole = bit(&n);
    f->lost_power = bit(&n);
    f->serves_peer = bit(&n);
    bool *flags[] = { &f->peer_lost,  &f->peer_is_target, &f->resync_done, &f->peer_has_asked,
                      &f->leg_failed, &f->in_sync,        &f->silent,      &f->automatic,
                      &f->promote,    &f->force,          &f->lends };
    for (unsigned i = 0; i < ARRAY_LEN(flags); i++)
        *flags[i] = bit(&n);
    f->never_served = f->handed = f->gives_up = f->has_asked =
        f->peer_lost && f->in_sync; /* no more than that of them */
    f->leg_is_lost = f->leg_failed;
    f->peer_is_whole = f->in_sync;
}

static bool is_primary(const struct decree *d, const char *node) { return strcmp(d->primary, node) == 0; }

static void check(const struct swap_facts *f, enum decree_cause cause, const struct decree *d)
{
    const struct decree *s = f->stands;
    bool own_in = decree_has_member(s, f->leg_id);
    bool sole = own_in && s->member_count == 1;
    /* What can be a decree at all. */
    assert_true(d->epoch > s->epoch && d->epoch > f->epoch && d->tag && d->cause == cause);
    assert_true(d->member_count >= 1 && d->member_count <= DECREE_MEMBERS_MAX);
    /* Rule no-older-register. */
    if (cause != DECREE_FIRST && cause != DECREE_ADOPT)
        assert_true(f->registered && s->epoch >= f->epoch && !decree_is_none(s));
    else
        assert_true(decree_is_none(s) || cause == DECREE_ADOPT ||
                    (!f->registered && s->cause == DECREE_FIRST && s->epoch <= f->epoch));
    /* A primary changes its own decree only. */
    if (f->role != SWAP_SECONDARY && cause != DECREE_FIRST && cause != DECREE_ADOPT)
        assert_true(is_primary(s, "a") && s->epoch == f->epoch);
    /* Rules member-and-whole, sole-leg. */
    if (f->role == SWAP_SECONDARY && is_primary(d, "a") && cause != DECREE_FORCE)
        assert_true(own_in && f->whole && (!f->lost_power || sole));
    if (cause == DECREE_FORCE)
        assert_true(f->force && d->member_count == 1);
    /* Rule take-after-silence; and nobody is overtaken whose session is up. */
    if (f->role == SWAP_SECONDARY && is_primary(s, "b") && is_primary(d, "a") && cause != DECREE_SWITCH) {
        assert_true(cause == DECREE_TAKE || cause == DECREE_FORCE);
        assert_false(f->serves_peer);
        if (cause == DECREE_TAKE)
            assert_true(f->silent && (f->automatic || f->promote) && !f->lost_power);
    }
    if (cause == DECREE_RESUME)
        assert_false(f->lends);
    /* Nobody begins to serve where an operator has ended that, but by his order. */
    if (!*s->primary && !decree_is_none(s) && f->role == SWAP_SECONDARY && is_primary(d, "a"))
        assert_true(f->promote || f->force);
    /* Nobody becomes a member but by these. */
    for (uint32_t i = 0; i < d->member_count; i++)
        if (!decree_has_member(s, d->members[i].leg_id))
            assert_true(cause == DECREE_IN || cause == DECREE_FIRST || cause == DECREE_FORCE || cause == DECREE_ADOPT);
    if (cause == DECREE_IN)
        assert_true(f->resync_done);
    if (cause == DECREE_NOBODY)
        assert_true(!*d->primary && f->role == SWAP_ENDING);
    /* Rule leg-out-first. */
    bool is_pair = s->member_count == 2;
    if (cause == DECREE_NOBODY && is_pair && f->leg_is_lost && f->peer_is_whole)
        assert_true(d->member_count == 1 && decree_has_member(d, f->peer_leg_id));
    else if (cause == DECREE_NOBODY)
        assert_int_equal(d->member_count, s->member_count);
    /* Who leaves, and whose word that is. */
    bool loses = s->member_count == 2 && d->member_count == 1;
    if (loses && cause == DECREE_LEG_OUT)
        assert_true(f->leg_failed && decree_has_member(d, f->peer_leg_id));
    if (loses && cause == DECREE_OUT)
        assert_true((f->peer_lost || f->peer_is_target) && decree_has_member(d, f->leg_id));
    if (loses && f->role == SWAP_SECONDARY && cause == DECREE_OUT)
        assert_true(!*s->primary);
    /* Nobody has acknowledged anything since. */
    if (loses && cause != DECREE_NOBODY)
        assert_true(swap_makes_entry(d));
}

static void whatever_is_asked_is_allowed(void **state)
{
    (void)state;
    unsigned seen[DECREE_ADOPT + 1] = { 0 };
    for (uint64_t n = 0; n < STATES_MAX; n++) {
        struct decree stands;
        struct swap_facts f;
        state_of(n, &f, &stands);
        int row = swap_choose(&f);
        if (row < 0)
            continue;
        struct decree d = swap_propose(row, &f, 5);
        check(&f, swap_cause(row), &d);
        seen[swap_cause(row)]++;
    }
    for (enum decree_cause c = DECREE_FIRST; c < DECREE_ADOPT; c++)
        if (!seen[c])
            fail_msg("nobody ever asks for \"%s\"", decree_cause_name(c));
}

/* A gap keeps clear of epochs that were given away in a time that is lost. */
static void adopting_leaves_a_gap(void **state)
{
    (void)state;
    struct decree none = { 0 };
    struct swap_facts f = {
        .node = "a", .peer = "b", .leg_id = own_leg, .peer_leg_id = peer_leg, .stands = &none, .epoch = 10
    };
    f.role = SWAP_PRIMARY;
    f.registered = f.adopt = f.in_sync = true;
    int row = swap_choose(&f);
    assert_int_equal(swap_cause(row), DECREE_ADOPT);
    struct decree d = swap_propose(row, &f, 5);
    assert_true(d.epoch == 10 + (UINT64_C(1) << 20) && d.member_count == 2 && is_primary(&d, "a"));
    /* Who leaves the set does so by "out", when what this leg has is flushed. */
    f.in_sync = false, f.peer_is_kept = true;
    assert_int_equal(swap_propose(row, &f, 5).member_count, 2);
    f.peer_is_kept = false;
    assert_int_equal(swap_propose(row, &f, 5).member_count, 1);
    f.in_sync = true;
    /* Also over another etcd cluster's of the same epoch; not over one that knows more. */
    none.epoch = 10;
    assert_int_equal(swap_choose(&f), row);
    none.epoch = 11;
    assert_true(swap_choose(&f) < 0);
    /* Above whatever was heard of, also where that was another node's to act by, and what stands is between the two. */
    f.known_epoch = 12;
    assert_int_equal(swap_cause(swap_choose(&f)), DECREE_ADOPT);
    assert_int_equal(swap_propose(swap_choose(&f), &f, 4).epoch, 12 + (1 << 20));
    none.epoch = 13;
    assert_int_equal(swap_choose(&f), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_is_asked_is_allowed),
        cmocka_unit_test(adopting_leaves_a_gap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
