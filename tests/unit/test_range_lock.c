/* Range locks against the plainest model there is: every pair compared. */
#include "tests/unit/unit.h"

#include "repl/base/block.h"
#include "repl/base/prng.h"
#include "repl/core/range_lock.h"

#define LOCKS 200
#define ROUNDS 20000

static struct range_locks locks;
static struct range_lock held[LOCKS];
static bool in_use[LOCKS];

static struct range_lock *told[LOCKS];
static unsigned told_count;

static void note_granted(struct range_lock *lock, struct actions *out)
{
    (void)out;
    assert_true(told_count < LOCKS);
    told[told_count++] = lock;
}

static bool model_granted(unsigned i)
{
    for (unsigned j = 0; j < LOCKS; j++) {
        bool earlier = in_use[j] && j != i && held[j].order < held[i].order;
        bool conflicts = (held[i].exclusive || held[j].exclusive) && range_overlaps(held[i].range, held[j].range);
        if (earlier && conflicts)
            return false;
    }
    return true;
}

static struct range random_range(struct prng *p)
{
    /* Short ones, ones that straddle regions, and now and then one that is wider than a region. */
    uint64_t length = prng_chance(p, 30000)    ? (1 + prng_below(p, 8)) * MIB + BLOCK_BYTES
                      : prng_chance(p, 200000) ? MIB
                                               : 4096 * (1 + prng_below(p, 8));
    uint64_t offset = prng_below(p, 16 * MIB / 512) * 512;
    return (struct range) { offset, length };
}

static void agrees_with_the_model(void **state)
{
    (void)state;
    struct prng p = prng_seed(1);
    range_locks_init(&locks);
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned i = (unsigned)prng_below(&p, LOCKS);
        bool was_granted[LOCKS];
        for (unsigned j = 0; j < LOCKS; j++)
            was_granted[j] = in_use[j] && held[j].blockers == 0;
        if (!in_use[i]) {
            held[i].on_granted = note_granted;
            bool now = range_lock(&locks, &held[i], random_range(&p), prng_chance(&p, 600000));
            in_use[i] = true;
            assert_int_equal(now, model_granted(i));
            continue;
        }
        /* Waiting ones are given back too: a session can end at any time. */
        told_count = 0;
        in_use[i] = false;
        range_unlock(&locks, &held[i], NULL);
        for (unsigned k = 0; k < told_count; k++) {
            unsigned j = (unsigned)(told[k] - held);
            assert_true(in_use[j] && !was_granted[j] && model_granted(j));
            was_granted[j] = true;
        }
        for (unsigned j = 0; j < LOCKS; j++) {
            if (in_use[j])
                assert_int_equal(was_granted[j], model_granted(j));
        }
    }
}

static void readers_share_and_writers_wait_their_turn(void **state)
{
    (void)state;
    struct range_lock read1 = { .on_granted = note_granted }, read2 = read1, write = read1, read3 = read1;
    struct range r = { 0, 4096 };
    range_locks_init(&locks);
    told_count = 0;
    assert_true(range_lock(&locks, &read1, r, false));
    assert_true(range_lock(&locks, &read2, r, false));
    assert_false(range_lock(&locks, &write, r, true));
    assert_false(range_lock(&locks, &read3, r, false)); /* behind the writer: it would starve else */
    range_unlock(&locks, &read1, NULL);
    assert_int_equal(told_count, 0);
    range_unlock(&locks, &read2, NULL);
    assert_int_equal(told_count, 1);
    assert_ptr_equal(told[0], &write);
    range_unlock(&locks, &write, NULL);
    assert_int_equal(told_count, 2);
    assert_ptr_equal(told[1], &read3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_model),
        cmocka_unit_test(readers_share_and_writers_wait_their_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
