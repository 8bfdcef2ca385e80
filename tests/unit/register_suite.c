/* What a register has to do, of whatever kind. */
#include "tests/unit/unit.h"

#include "tests/unit/register_suite.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "repl/base/units.h"

#define WAIT_S 100 /* longer than any answer may take */

static const char *suite_url;

/* ---- a client that waits ---- */

struct asker {
    struct register_client *client;
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool here[REGISTER_SLOTS_MAX];
    struct register_answer answers[REGISTER_SLOTS_MAX];
};

static void take_answer(void *context, uint32_t slot, const struct register_answer *answer)
{
    struct asker *a = context;
    pthread_mutex_lock(&a->lock);
    assert_false(a->here[slot]);
    a->here[slot] = true;
    a->answers[slot] = *answer;
    pthread_cond_broadcast(&a->answered);
    pthread_mutex_unlock(&a->lock);
}

struct asker *asker_open(const char *url, unsigned timeout_ms)
{
    struct asker *a = calloc(1, sizeof(*a));
    struct register_options options = { .url = url, .timeout_ms = timeout_ms, .answered = take_answer, .context = a };
    char error[256];
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->answered, NULL);
    if (register_open(&a->client, &options, error, sizeof(error)))
        fail_msg("%s: %s", url, error);
    return a;
}

void asker_close(struct asker *a)
{
    register_close(a->client);
    pthread_cond_destroy(&a->answered);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void asker_begin(struct asker *a, uint32_t slot, const struct register_request *request)
{
    register_ask(a->client, slot, request);
}

struct register_answer asker_wait(struct asker *a, uint32_t slot)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    pthread_mutex_lock(&a->lock);
    while (!a->here[slot])
        assert_int_equal(pthread_cond_timedwait(&a->answered, &a->lock, &until), 0);
    a->here[slot] = false;
    struct register_answer answer = a->answers[slot];
    pthread_mutex_unlock(&a->lock);
    return answer;
}

struct register_answer asker_ask(struct asker *a, uint32_t slot, const struct register_request *request)
{
    asker_begin(a, slot, request);
    return asker_wait(a, slot);
}

/* ---- what is asked ---- */

struct id make_id(uint8_t fill)
{
    struct id id;
    memset(&id, fill, sizeof(id));
    return id;
}

struct decree make_decree(uint64_t epoch, uint64_t tag, enum decree_cause cause, const char *primary, unsigned set)
{
    struct decree d = { .epoch = epoch, .tag = tag, .cause = cause };
    snprintf(d.primary, sizeof(d.primary), "%s", primary);
    for (unsigned i = 0; i < 2; i++) {
        if (!(set & (1U << i)))
            continue;
        struct decree_member *m = &d.members[d.member_count++];
        snprintf(m->node, sizeof(m->node), "%s", i ? NODE_B : NODE_A);
        m->leg_id = make_id((uint8_t)(1 + i));
    }
    return d;
}

struct register_request make_read(const char *volume, const char *node, uint64_t known)
{
    struct register_request q = { .ask = REGISTER_READ, .volume_id = make_id(9), .known_epoch = known };
    snprintf(q.volume, sizeof(q.volume), "%s", volume);
    snprintf(q.node, sizeof(q.node), "%s", node);
    snprintf(q.peer, sizeof(q.peer), "%s", strcmp(node, NODE_A) == 0 ? NODE_B : NODE_A);
    return q;
}

struct register_request make_swap(const char *volume, const char *node, const struct decree *expected,
                                  struct decree proposal)
{
    struct register_request q = make_read(volume, node, expected->epoch);
    q.ask = REGISTER_SWAP;
    q.expected_epoch = expected->epoch;
    q.expected_tag = expected->tag;
    q.proposal = proposal;
    snprintf(q.note, sizeof(q.note), "by a test");
    return q;
}

const char *new_volume(char out[NAME_BYTES_MAX])
{
    uint64_t number;
    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        abort();
    snprintf(out, NAME_BYTES_MAX, "gold-%016llx", (unsigned long long)number);
    return out;
}

static bool same_decree(const struct decree *x, const struct decree *y)
{
    if (x->epoch != y->epoch || x->tag != y->tag || x->cause != y->cause || strcmp(x->primary, y->primary) != 0 ||
        x->member_count != y->member_count)
        return false;
    for (uint32_t i = 0; i < x->member_count; i++)
        if (!decree_has_member(y, x->members[i].leg_id))
            return false;
    return true;
}

static void expect(const struct register_answer *a, enum register_outcome outcome)
{
    if (a->outcome != outcome)
        fail_msg("answer %d, expected %d: %s", a->outcome, outcome, a->reason);
    bool says_why = outcome == REGISTER_UNREACHABLE || outcome == REGISTER_UNCONFIRMED || outcome == REGISTER_OLDER ||
                    outcome == REGISTER_REFUSED;
    assert_int_equal(says_why, a->reason[0] != 0);
}

static struct register_answer ask(struct asker *a, const struct register_request *q, enum register_outcome outcome)
{
    struct register_answer answer = asker_ask(a, 0, q);
    expect(&answer, outcome);
    return answer;
}

/* One that starts anew may wait for both nodes' word. */
static struct register_answer ask_new(struct asker *a, const struct register_request *q)
{
    struct register_answer answer = asker_ask(a, 0, q);
    assert_true(answer.outcome == REGISTER_STANDS || answer.outcome == REGISTER_UNCONFIRMED);
    return answer;
}

struct decree make_first(struct asker *a, const char *volume)
{
    static const struct decree none;
    struct register_request q = make_read(volume, NODE_A, 0);
    ask_new(a, &q);
    q = make_read(volume, NODE_B, 0);
    ask(a, &q, REGISTER_STANDS);
    q = make_swap(volume, NODE_A, &none, make_decree(7, 70, DECREE_FIRST, NODE_A, SET_BOTH));
    return ask(a, &q, REGISTER_DONE).decree;
}

/* ---- tests ---- */

struct pair {
    struct asker *a;
    struct asker *b;
    char volume[NAME_BYTES_MAX];
};

static int open_pair(void **state)
{
    struct pair *p = calloc(1, sizeof(*p));
    p->a = asker_open(suite_url, SUITE_TIMEOUT_MS);
    p->b = asker_open(suite_url, SUITE_TIMEOUT_MS);
    new_volume(p->volume);
    *state = p;
    return 0;
}

static int close_pair(void **state)
{
    struct pair *p = *state;
    asker_close(p->a);
    asker_close(p->b);
    free(p);
    return 0;
}

static void what_was_swapped_stands(void **state)
{
    struct pair *p = *state;
    struct register_request q = make_read(p->volume, NODE_A, 0);
    struct register_answer a = ask_new(p->a, &q);
    assert_true(decree_is_none(&a.decree));
    struct decree first = make_first(p->a, p->volume);
    struct decree right = make_decree(7, 70, DECREE_FIRST, NODE_A, SET_BOTH);
    assert_true(same_decree(&first, &right));
    q = make_read(p->volume, NODE_B, 0);
    a = ask(p->b, &q, REGISTER_STANDS);
    assert_true(same_decree(&a.decree, &first));
    struct decree nobody = make_decree(8, UINT64_MAX, DECREE_NOBODY, "", SET_B);
    q = make_swap(p->volume, NODE_A, &first, nobody);
    ask(p->a, &q, REGISTER_DONE);
    q = make_read(p->volume, NODE_B, 7);
    a = ask(p->b, &q, REGISTER_STANDS);
    assert_true(same_decree(&a.decree, &nobody));
}

static void a_retry_finds_its_own(void **state)
{
    struct pair *p = *state;
    struct decree first = make_first(p->a, p->volume);
    struct register_request q = make_swap(p->volume, NODE_A, &first, make_decree(8, 80, DECREE_OUT, NODE_A, SET_A));
    ask(p->a, &q, REGISTER_DONE);
    struct register_answer a = ask(p->b, &q, REGISTER_DONE); /* on another connection */
    assert_true(same_decree(&a.decree, &q.proposal));
    q.proposal.tag = 81;
    a = ask(p->a, &q, REGISTER_LOST);
    assert_int_equal(a.decree.tag, 80);
}

static void a_stale_epoch_loses(void **state)
{
    struct pair *p = *state;
    struct decree first = make_first(p->a, p->volume);
    struct register_request in =
        make_swap(p->volume, NODE_A, &first, make_decree(8, 80, DECREE_RENEW, NODE_A, SET_BOTH));
    ask(p->a, &in, REGISTER_DONE);
    struct register_request q = make_swap(p->volume, NODE_B, &first, make_decree(9, 90, DECREE_TAKE, NODE_B, SET_B));
    struct register_answer a = ask(p->b, &q, REGISTER_LOST);
    assert_true(same_decree(&a.decree, &in.proposal));
    static const struct decree none;
    q = make_swap(p->volume, NODE_B, &none, make_decree(9, 90, DECREE_FIRST, NODE_B, SET_B));
    ask(p->b, &q, REGISTER_LOST);
}

static void another_volume_of_the_name_is_refused(void **state)
{
    struct pair *p = *state;
    struct decree first = make_first(p->a, p->volume);
    struct register_request q = make_swap(p->volume, NODE_B, &first, make_decree(8, 80, DECREE_TAKE, NODE_B, SET_B));
    q.volume_id = make_id(77);
    ask(p->b, &q, REGISTER_REFUSED);
    q = make_read(p->volume, NODE_B, 0);
    q.volume_id = make_id(77);
    ask(p->b, &q, REGISTER_REFUSED);
    q = make_read(p->volume, NODE_B, 0);
    struct register_answer a = ask(p->b, &q, REGISTER_STANDS);
    assert_true(same_decree(&a.decree, &first));
}

static void what_cannot_be_is_refused(void **state)
{
    struct pair *p = *state;
    struct decree first = make_first(p->a, p->volume);
    struct register_request good = make_swap(p->volume, NODE_B, &first, make_decree(8, 80, DECREE_TAKE, NODE_B, SET_B));
    for (unsigned i = 0; i < 6; i++) {
        struct register_request q = good;
        switch (i) {
        case 0: snprintf(q.proposal.primary, NAME_BYTES_MAX, "rome"); break;
        case 1: q.proposal.member_count = 0; break;
        case 2: q.proposal.epoch = first.epoch; break;
        case 3: q.proposal.epoch = UINT64_C(1) << 63; break;
        case 4: q.proposal.tag = 0; break;
        case 5: q.over_older = true; break;
        default: break;
        }
        ask(p->b, &q, REGISTER_REFUSED);
    }
    ask(p->b, &good, REGISTER_DONE);
}

static void an_older_register_is_told(void **state)
{
    struct pair *p = *state;
    struct register_request q = make_read(p->volume, NODE_A, 3);
    struct register_answer a = ask(p->a, &q, REGISTER_OLDER);
    assert_true(decree_is_none(&a.decree));
    char volume[NAME_BYTES_MAX];
    struct decree first = make_first(p->a, new_volume(volume));
    q = make_read(volume, NODE_A, 8);
    a = ask(p->a, &q, REGISTER_OLDER);
    assert_true(same_decree(&a.decree, &first));
    q = make_swap(volume, NODE_A, &first, make_decree(9, 90, DECREE_OUT, NODE_A, SET_A));
    q.known_epoch = 8;
    ask(p->a, &q, REGISTER_OLDER);
    /* The way back. */
    q.proposal = make_decree(8 + (1 << 20), 90, DECREE_ADOPT, NODE_A, SET_BOTH);
    q.over_older = true;
    ask(p->a, &q, REGISTER_DONE);
    ask(p->a, &q, REGISTER_DONE);
    struct register_request read = make_read(volume, NODE_B, 8);
    a = ask(p->b, &read, REGISTER_STANDS);
    assert_true(same_decree(&a.decree, &q.proposal));
}

/* Asks as with a leg of that age. Returns the age that the register had. */
static uint64_t tell(struct asker *a, struct register_request q, uint64_t age, enum register_outcome outcome)
{
    q.leg_age = age;
    return ask(a, &q, outcome).leg_age;
}

static void the_highest_age_is_remembered(void **state)
{
    struct pair *p = *state;
    struct decree first = make_first(p->a, p->volume);
    const struct register_request a = make_read(p->volume, NODE_A, 7), b = make_read(p->volume, NODE_B, 7);
    assert_int_equal(tell(p->a, a, 5, REGISTER_STANDS), 0);
    assert_int_equal(tell(p->a, a, 7, REGISTER_STANDS), 5);
    assert_int_equal(tell(p->a, a, 4, REGISTER_STANDS), 7); /* put back from an old copy */
    assert_int_equal(tell(p->b, a, 0, REGISTER_STANDS), 7); /* over another connection */
    assert_int_equal(tell(p->b, b, 3, REGISTER_STANDS), 0); /* another node's is another's */
    assert_int_equal(tell(p->b, b, 3, REGISTER_STANDS), 3);
    /* In a swap as in a read, whoever wins. */
    struct register_request q = make_swap(p->volume, NODE_A, &first, make_decree(8, 80, DECREE_OUT, NODE_A, SET_A));
    assert_int_equal(tell(p->a, q, 9, REGISTER_DONE), 7);
    assert_int_equal(tell(p->a, q, 10, REGISTER_DONE), 9); /* a retry */
    q = make_swap(p->volume, NODE_B, &first, make_decree(8, 81, DECREE_TAKE, NODE_B, SET_B));
    assert_int_equal(tell(p->b, q, INT64_MAX, REGISTER_LOST), 3);
    assert_int_equal(tell(p->a, a, 10, REGISTER_STANDS), 10);
    assert_true(tell(p->b, b, 3, REGISTER_STANDS) == INT64_MAX);
    assert_int_equal(tell(p->a, a, UINT64_C(1) << 63, REGISTER_REFUSED), 0);
    assert_int_equal(tell(p->a, make_read(p->volume, NODE_A, 99), 11, REGISTER_OLDER), 10);
    assert_int_equal(tell(p->a, make_read(p->volume, NODE_A, 99), 11, REGISTER_OLDER), 11);
}

static void an_age_is_of_a_volume_with_a_decree(void **state)
{
    struct pair *p = *state;
    static const struct decree none;
    struct register_request q = make_read(p->volume, NODE_A, 0);
    ask_new(p->a, &q);
    const struct register_request b = make_read(p->volume, NODE_B, 0);
    assert_int_equal(tell(p->b, b, 5, REGISTER_STANDS), 0);
    assert_int_equal(tell(p->b, b, 5, REGISTER_STANDS), 0);
    q = make_swap(p->volume, NODE_A, &none, make_decree(7, 70, DECREE_FIRST, NODE_A, SET_BOTH));
    assert_int_equal(tell(p->a, q, 6, REGISTER_DONE), 0);
    assert_int_equal(tell(p->a, make_read(p->volume, NODE_A, 7), 6, REGISTER_STANDS), 6);
    assert_int_equal(tell(p->b, b, 5, REGISTER_STANDS), 0);
    q = b;
    q.volume_id = make_id(77);
    assert_int_equal(tell(p->b, q, 8, REGISTER_REFUSED), 0);
    q.volume_id = (struct id) { 0 }; /* a new disk */
    assert_int_equal(tell(p->b, q, 8, REGISTER_STANDS), 0);
    assert_int_equal(tell(p->b, b, 5, REGISTER_STANDS), 5);
}

#define ROUNDS 100

static void of_two_at_once_one_wins(void **state)
{
    struct pair *p = *state;
    struct decree standing = make_first(p->a, p->volume);
    unsigned won_by_a = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t epoch = standing.epoch + 1;
        struct register_request qa =
            make_swap(p->volume, NODE_A, &standing, make_decree(epoch, 1000 + 2 * round, DECREE_OUT, NODE_A, SET_A));
        struct register_request qb =
            make_swap(p->volume, NODE_B, &standing, make_decree(epoch, 1001 + 2 * round, DECREE_TAKE, NODE_B, SET_B));
        bool a_first = round % 2 == 0;
        asker_begin(a_first ? p->a : p->b, 1, a_first ? &qa : &qb);
        asker_begin(a_first ? p->b : p->a, 1, a_first ? &qb : &qa);
        struct register_answer a = asker_wait(p->a, 1);
        struct register_answer b = asker_wait(p->b, 1);
        bool a_won = a.outcome == REGISTER_DONE;
        expect(&a, a_won ? REGISTER_DONE : REGISTER_LOST);
        expect(&b, a_won ? REGISTER_LOST : REGISTER_DONE);
        assert_true(same_decree(&a.decree, &b.decree));
        assert_true(same_decree(&a.decree, a_won ? &qa.proposal : &qb.proposal));
        standing = a.decree;
        won_by_a += a_won;
    }
    print_message("%u of %u rounds won by one, %u by the other\n", won_by_a, ROUNDS, ROUNDS - won_by_a);
}

#define VOLUMES 64

static void many_volumes_at_once(void **state)
{
    struct pair *p = *state;
    static char volumes[VOLUMES][NAME_BYTES_MAX];
    static struct decree standing[VOLUMES];
    for (unsigned i = 0; i < VOLUMES; i++)
        standing[i] = make_first(p->a, new_volume(volumes[i]));
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (unsigned i = 0; i < VOLUMES; i++) {
        struct register_request q =
            make_swap(volumes[i], NODE_B, &standing[i], make_decree(8, 80 + i, DECREE_TAKE, NODE_B, SET_B));
        asker_begin(p->b, i, &q);
    }
    for (unsigned i = 0; i < VOLUMES; i++) {
        struct register_answer a = asker_wait(p->b, i);
        expect(&a, REGISTER_DONE);
        assert_int_equal(a.decree.tag, 80 + i);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ms = (double)(end.tv_sec - begin.tv_sec) * 1e3 + (double)(end.tv_nsec - begin.tv_nsec) / 1e6;
    print_message("%u volumes swapped at once in %.1f ms\n", VOLUMES, ms);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_pair, close_pair)

int register_suite_run(const char *url)
{
    suite_url = url;
    const struct CMUnitTest tests[] = {
        TEST(what_was_swapped_stands),       TEST(a_retry_finds_its_own),
        TEST(a_stale_epoch_loses),           TEST(another_volume_of_the_name_is_refused),
        TEST(what_cannot_be_is_refused),     TEST(an_older_register_is_told),
        TEST(of_two_at_once_one_wins),       TEST(many_volumes_at_once),
        TEST(the_highest_age_is_remembered), TEST(an_age_is_of_a_volume_with_a_decree),
    };
    return cmocka_run_group_tests_name(url, tests, NULL, NULL);
}
