/* The embedded witness's rules: each request against each row, and histories of two nodes with a witness that loses its
 * memory and goes back in time. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

#include "repl/base/prng.h"
#include "repl/base/units.h"
#include "repl/witness/register_table.h"

static struct id make_id(uint8_t fill)
{
    struct id id;
    memset(&id, fill, sizeof(id));
    return id;
}

#define VOLUME_ID 9
#define A "paris-a"
#define B "paris-b"

enum { SET_A = 1, SET_B = 2, SET_BOTH = 3 };

static struct decree make_decree(uint64_t epoch, uint64_t tag, const char *primary, unsigned set)
{
    struct decree d = { .epoch = epoch, .tag = tag, .cause = DECREE_RENEW };
    snprintf(d.primary, sizeof(d.primary), "%s", primary);
    for (unsigned i = 0; i < 2; i++) {
        if (!(set & (1u << i)))
            continue;
        struct decree_member *m = &d.members[d.member_count++];
        snprintf(m->node, sizeof(m->node), "%s", i ? B : A);
        m->leg_id = make_id((uint8_t)(1 + i));
    }
    return d;
}

static struct register_request make_read(const char *node, uint64_t known)
{
    struct register_request q = {
        .ask = REGISTER_READ, .volume_id = make_id(VOLUME_ID), .volume = "gold42", .known_epoch = known
    };
    snprintf(q.node, sizeof(q.node), "%s", node);
    snprintf(q.peer, sizeof(q.peer), "%s", strcmp(node, A) == 0 ? B : A);
    return q;
}

static struct register_request make_swap(const char *node, uint64_t known, uint64_t epoch, uint64_t tag,
                                         struct decree proposal)
{
    struct register_request q = make_read(node, known);
    q.ask = REGISTER_SWAP;
    q.expected_epoch = epoch;
    q.expected_tag = tag;
    q.proposal = proposal;
    return q;
}

static bool same_decree(const struct decree *x, const struct decree *y)
{
    return x->epoch == y->epoch && x->tag == y->tag && strcmp(x->primary, y->primary) == 0 &&
           x->member_count == y->member_count;
}

/* Asks, and checks what holds of each answer. Returns whether the row has changed. */
static bool ask(struct register_row *row, const struct register_request *q, struct register_answer *a)
{
    struct register_row before = *row;
    bool changed = register_row_ask(row, q, a);
    bool says_why =
        a->outcome == REGISTER_UNCONFIRMED || a->outcome == REGISTER_OLDER || a->outcome == REGISTER_REFUSED;
    assert_int_equal(says_why, a->reason[0] != 0);
    assert_true(memchr(a->reason, 0, sizeof(a->reason) - 1) != NULL); /* not cut */
    assert_true(a->outcome != REGISTER_UNREACHABLE);
    assert_true(!before.confirmed || row->confirmed);
    assert_true(row->highest_told >= before.highest_told);
    if (a->outcome != REGISTER_REFUSED)
        assert_true(same_decree(&a->decree, &row->decree));
    if (!changed) {
        assert_true(same_decree(&row->decree, &before.decree));
        assert_true(id_equal(row->volume_id, before.volume_id));
        assert_true(a->outcome != REGISTER_DONE || same_decree(&row->decree, &q->proposal));
        return false;
    }
    assert_int_equal(q->ask, REGISTER_SWAP);
    assert_int_equal(a->outcome, REGISTER_DONE);
    assert_true(same_decree(&row->decree, &q->proposal));
    assert_true(id_equal(row->volume_id, q->volume_id));
    assert_true(row->decree.epoch > before.decree.epoch && row->decree.epoch > row->highest_told);
    assert_true(row->confirmed);
    assert_true(q->over_older || (before.decree.epoch == q->expected_epoch && before.decree.tag == q->expected_tag));
    return true;
}

static void expect(struct register_row *row, const struct register_request *q, enum register_outcome outcome)
{
    struct register_answer a;
    ask(row, q, &a);
    if (a.outcome != outcome)
        print_message("answer %d, expected %d: %s\n", a.outcome, outcome, a.reason);
    assert_int_equal(a.outcome, outcome);
}

static struct register_row started(const struct decree *decree)
{
    struct register_row row;
    register_row_start(&row, "gold42", decree ? make_id(VOLUME_ID) : (struct id) { 0 }, decree);
    return row;
}

static struct register_row confirmed(const struct decree *decree)
{
    struct register_row row = started(decree);
    char reason[REGISTER_REASON_BYTES];
    assert_true(register_row_confirm(&row, reason));
    return row;
}

/* ---- one question ---- */

static void first_decree(void **state)
{
    struct register_row row = started(NULL);
    struct register_request first = make_swap(A, 0, 0, 0, make_decree(7, 70, A, SET_BOTH));
    first.proposal.cause = DECREE_FIRST;
    struct register_request reads = make_read(A, 0);
    expect(&row, &reads, REGISTER_UNCONFIRMED);
    expect(&row, &first, REGISTER_UNCONFIRMED); /* an empty database may be a lost one */
    reads = make_read(B, 0);
    expect(&row, &reads, REGISTER_STANDS);
    expect(&row, &first, REGISTER_DONE);
    expect(&row, &first, REGISTER_DONE);
    struct register_request other = make_swap(B, 0, 0, 0, make_decree(8, 80, B, SET_BOTH));
    expect(&row, &other, REGISTER_LOST);
}

static void a_retry_finds_its_own(void **state)
{
    struct decree d = make_decree(3, 30, A, SET_BOTH);
    struct register_row row = confirmed(&d);
    struct register_request out = make_swap(A, 3, 3, 30, make_decree(4, 40, A, SET_A));
    struct register_answer a;
    assert_true(ask(&row, &out, &a));
    assert_false(ask(&row, &out, &a));
    assert_int_equal(a.outcome, REGISTER_DONE);
    /* Also of a witness that has restarted meanwhile, and waits for the other node. */
    struct register_row again = started(&row.decree);
    assert_false(ask(&again, &out, &a));
    assert_int_equal(a.outcome, REGISTER_DONE);
    assert_false(again.confirmed);
    /* The same node's other swap, with the same epoch, primary and set, is not it. */
    struct register_request twin = make_swap(A, 3, 3, 30, make_decree(4, 41, A, SET_A));
    expect(&row, &twin, REGISTER_LOST);
}

static void of_two_swaps_one_wins(void **state)
{
    for (unsigned first = 0; first < 2; first++) {
        struct decree d = make_decree(3, 30, A, SET_BOTH);
        struct register_row row = confirmed(&d);
        struct register_request q[2] = { make_swap(A, 3, 3, 30, make_decree(4, 40, A, SET_A)),
                                         make_swap(B, 3, 3, 30, make_decree(4, 41, B, SET_B)) };
        expect(&row, &q[first], REGISTER_DONE);
        expect(&row, &q[1 - first], REGISTER_LOST);
        assert_string_equal(row.decree.primary, first ? B : A);
    }
}

static void every_question_to_every_row(void **state)
{
    unsigned asked = 0;
    unsigned counts[REGISTER_REFUSED + 1] = { 0 };
    for (uint64_t stands = 0; stands <= 3; stands++)
        for (unsigned mode = 0; mode < 3; mode++) /* unconfirmed, confirmed, told of something higher */
            for (uint64_t expects = 0; expects <= 4; expects++)
                for (unsigned tag = 0; tag < 2; tag++)
                    for (uint64_t known = 0; known <= 5; known++)
                        for (uint64_t proposes = expects + 1; proposes <= 6; proposes++)
                            for (unsigned own = 0; own < 2; own++)
                                for (unsigned over = 0; over < 2; over++) {
                                    struct decree d = make_decree(stands, stands * 10, A, SET_BOTH);
                                    struct register_row row =
                                        mode == 0 ? started(stands ? &d : NULL) : confirmed(stands ? &d : NULL);
                                    if (mode == 2) {
                                        struct register_request higher = make_read(B, stands + 1);
                                        struct register_answer ignored;
                                        ask(&row, &higher, &ignored);
                                    }
                                    uint64_t expected_tag = expects ? expects * 10 + tag : 0;
                                    struct decree proposal =
                                        make_decree(proposes, own ? proposes * 10 : proposes * 10 + 5, A, SET_BOTH);
                                    if (over)
                                        proposal.cause = DECREE_ADOPT;
                                    struct register_request q = make_swap(A, known, expects, expected_tag, proposal);
                                    q.over_older = over;
                                    struct register_answer a;
                                    bool changed = ask(&row, &q, &a);
                                    asked++;
                                    counts[a.outcome]++;

                                    uint64_t knows = max_u64(known, expects);
                                    bool stands_already = own && proposes == stands;
                                    enum register_outcome right;
                                    if (over)
                                        right = stands_already && knows <= stands ? REGISTER_DONE
                                                : stands >= proposes              ? REGISTER_LOST
                                                : knows >= proposes || (mode == 2 && stands + 1 >= proposes)
                                                    ? REGISTER_REFUSED
                                                    : REGISTER_DONE;
                                    else if (knows > stands)
                                        right = REGISTER_OLDER;
                                    else if (stands_already)
                                        right = REGISTER_DONE;
                                    else if (expects != stands)
                                        right = REGISTER_LOST;
                                    else if (expected_tag != stands * 10)
                                        right = REGISTER_REFUSED;
                                    else
                                        right = mode == 1 ? REGISTER_DONE : REGISTER_UNCONFIRMED;
                                    assert_int_equal(a.outcome, right);
                                    assert_int_equal(changed,
                                                     right == REGISTER_DONE && !(stands_already && knows <= stands));
                                }
    print_message("%u questions\n", asked);
    for (unsigned i = 0; i < ARRAY_LEN(counts); i++)
        assert_int_equal(counts[i] > 0, i != REGISTER_STANDS && i != REGISTER_UNREACHABLE);
}

/* ---- confirmed-anew ---- */

static void waits_for_both_nodes(void **state)
{
    for (unsigned higher = 0; higher < 2; higher++) {
        struct decree d = make_decree(3, 30, A, SET_BOTH);
        struct register_row row = started(&d);
        struct register_request swap = make_swap(A, 3, 3, 30, make_decree(4, 40, A, SET_A));
        struct register_request again = make_read(A, 3);
        struct register_request other = make_read(B, 3 + higher);
        expect(&row, &swap, REGISTER_UNCONFIRMED);
        expect(&row, &again, REGISTER_UNCONFIRMED); /* its own word twice is not the other's */
        expect(&row, &swap, REGISTER_UNCONFIRMED);
        expect(&row, &other, higher ? REGISTER_OLDER : REGISTER_STANDS);
        expect(&row, &swap, higher ? REGISTER_UNCONFIRMED : REGISTER_DONE);
    }
}

static void one_that_serves_alone_is_enough(void **state)
{
    static const char *const nodes[] = { A, B, "" };
    for (unsigned primary = 0; primary < 3; primary++)
        for (unsigned set = SET_A; set <= SET_BOTH; set++)
            for (uint64_t known = 2; known <= 4; known++)
                for (unsigned serving = 0; serving < 2; serving++)
                    for (unsigned in_a_swap = 0; in_a_swap < 2; in_a_swap++)
                        for (unsigned other_knows = 0; other_knows < 2; other_knows++) {
                            struct decree d = make_decree(3, 30, nodes[primary], set);
                            struct register_row row = started(&d);
                            struct register_answer a;
                            if (other_knows) {
                                struct register_request q = make_read(B, 4);
                                ask(&row, &q, &a);
                            }
                            struct register_request q =
                                in_a_swap ? make_swap(A, known, known, known * 10, make_decree(9, 90, A, SET_BOTH))
                                          : make_read(A, known);
                            q.serving_alone = serving;
                            ask(&row, &q, &a);
                            bool enough =
                                primary == 0 && set == SET_A && known == 3 && serving && !in_a_swap && !other_knows;
                            assert_int_equal(row.confirmed, enough);
                        }
}

static void a_volume_of_one_node(void **state)
{
    struct decree d = make_decree(3, 30, A, SET_A);
    struct register_row row = started(&d);
    struct register_request q = make_swap(A, 3, 3, 30, make_decree(4, 40, A, SET_A));
    q.peer[0] = 0;
    expect(&row, &q, REGISTER_DONE);
    /* Not if the decree knows of another one. */
    d = make_decree(3, 30, A, SET_BOTH);
    row = started(&d);
    expect(&row, &q, REGISTER_UNCONFIRMED);
}

static void a_new_disk_knows_nothing(void **state)
{
    struct decree d = make_decree(3, 30, A, SET_BOTH);
    struct register_row row = started(&d);
    struct register_request fresh = make_read(B, 0);
    fresh.volume_id = (struct id) { 0 };
    expect(&row, &fresh, REGISTER_UNCONFIRMED);
    struct register_request swap = make_swap(A, 3, 3, 30, make_decree(4, 40, A, SET_A));
    expect(&row, &swap, REGISTER_UNCONFIRMED);
    char reason[REGISTER_REASON_BYTES];
    assert_true(register_row_confirm(&row, reason));
    expect(&row, &swap, REGISTER_DONE);
}

static void an_operator_cannot_confirm_what_is_older(void **state)
{
    struct decree d = make_decree(3, 30, A, SET_BOTH);
    struct register_row row = started(&d);
    struct register_request knows_more = make_read(B, 5);
    expect(&row, &knows_more, REGISTER_OLDER);
    char reason[REGISTER_REASON_BYTES];
    assert_false(register_row_confirm(&row, reason));
    assert_non_null(strstr(reason, "adopt"));
    struct register_request adopt = make_swap(A, 3, 3, 30, make_decree(5, 50, A, SET_BOTH));
    adopt.over_older = true;
    adopt.proposal.cause = DECREE_ADOPT;
    expect(&row, &adopt, REGISTER_REFUSED); /* not high enough */
    adopt.proposal.epoch = 5 + (1 << 20);
    expect(&row, &adopt, REGISTER_DONE);
    struct register_request out =
        make_swap(B, 5, adopt.proposal.epoch, 50, make_decree(adopt.proposal.epoch + 1, 60, B, SET_B));
    expect(&row, &out, REGISTER_DONE);
}

static void a_node_that_is_being_replaced(void **state)
{
    /* Three names tell, in turn; who counts is who asks, its peer, and the decree's. */
    struct decree d = make_decree(3, 30, A, SET_A);
    struct register_row row = started(&d);
    for (unsigned i = 0; i < 20; i++) {
        struct register_request q = make_read(B, 2);
        char name[NAME_BYTES_MAX];
        snprintf(name, sizeof(name), "stranger-%u", i % 3);
        memcpy(q.node, name, sizeof(name));
        struct register_answer a;
        ask(&row, &q, &a);
        assert_false(row.confirmed);
    }
    struct register_request q = make_read("paris-c", 1);
    expect(&row, &q, REGISTER_UNCONFIRMED);
    q = make_read(A, 3);
    snprintf(q.peer, sizeof(q.peer), "paris-c");
    expect(&row, &q, REGISTER_STANDS);
    assert_true(row.confirmed);
}

/* ---- ages ---- */

/* As a register does that stores whatever is news. Returns the age that was answered. */
static uint64_t tell(struct register_row *row, struct register_request q, uint64_t age, enum register_outcome outcome)
{
    struct register_answer a;
    q.leg_age = age;
    register_row_ask(row, &q, &a);
    assert_int_equal(a.outcome, outcome);
    uint64_t known = a.leg_age;
    struct register_row before = *row;
    bool news = register_tells_age(&q, &a) && register_row_take_age(row, q.node, q.leg_age);
    if (!news)
        assert_memory_equal(row, &before, sizeof(before));
    register_row_ask(row, &q, &a);
    assert_int_equal(a.leg_age, news ? age : known);
    return known;
}

static void the_highest_age_is_remembered(void **state)
{
    struct decree d = make_decree(3, 30, A, SET_BOTH);
    struct register_row row = started(&d);
    assert_int_equal(tell(&row, make_read(A, 3), 5, REGISTER_UNCONFIRMED), 0); /* whatever else it answers */
    assert_int_equal(tell(&row, make_read(B, 3), 9, REGISTER_STANDS), 0);      /* another node's is another's */
    assert_int_equal(tell(&row, make_read(A, 3), 7, REGISTER_STANDS), 5);
    assert_int_equal(tell(&row, make_read(A, 3), 4, REGISTER_STANDS), 7); /* put back from an old copy */
    assert_int_equal(tell(&row, make_read(A, 3), 0, REGISTER_STANDS), 7); /* an older version of a node tells none */
    assert_int_equal(tell(&row, make_read(A, 9), 8, REGISTER_OLDER), 7);
    assert_int_equal(tell(&row, make_read(B, 3), 9, REGISTER_UNCONFIRMED), 9);
    assert_int_equal(tell(&row, make_read(A, 3), REGISTER_AGE_MAX, REGISTER_UNCONFIRMED), 8);
    /* In a swap as in a read, whoever wins. */
    row = confirmed(&d);
    assert_int_equal(tell(&row, make_swap(A, 3, 3, 30, make_decree(4, 40, A, SET_A)), 5, REGISTER_DONE), 0);
    assert_int_equal(tell(&row, make_swap(B, 3, 3, 30, make_decree(4, 41, B, SET_B)), 6, REGISTER_LOST), 0);
    assert_int_equal(tell(&row, make_read(A, 4), 5, REGISTER_STANDS), 5);
    assert_int_equal(tell(&row, make_read(B, 4), 6, REGISTER_STANDS), 6);
}

static void an_age_is_of_the_volume_that_stands(void **state)
{
    struct register_row row = confirmed(NULL);
    assert_int_equal(tell(&row, make_read(A, 0), 5, REGISTER_STANDS), 0);
    assert_int_equal(tell(&row, make_read(A, 0), 5, REGISTER_STANDS), 0); /* of a volume without a decree: none */
    struct register_request first = make_swap(A, 0, 0, 0, make_decree(7, 70, A, SET_BOTH));
    assert_int_equal(tell(&row, first, 5, REGISTER_DONE), 0);
    assert_int_equal(tell(&row, make_read(A, 7), 5, REGISTER_STANDS), 5);
    struct register_request q = make_read(A, 0);
    q.volume_id = make_id(77);
    assert_int_equal(tell(&row, q, 9, REGISTER_REFUSED), 0);
    q.volume_id = (struct id) { 0 }; /* a new disk: its node's former leg is none of its own */
    assert_int_equal(tell(&row, q, 9, REGISTER_STANDS), 0);
    assert_int_equal(tell(&row, make_read(A, 7), 5, REGISTER_STANDS), 5);
    /* Forgotten, and made anew. */
    row = confirmed(NULL);
    first.volume_id = make_id(77);
    assert_int_equal(tell(&row, first, 1, REGISTER_DONE), 0);
}

static void no_more_ages_than_nodes_are_remembered(void **state)
{
    struct decree d = make_decree(3, 30, A, SET_BOTH);
    struct register_row row = confirmed(&d);
    assert_int_equal(tell(&row, make_read(A, 3), 5, REGISTER_STANDS), 0);
    for (unsigned i = 0; i < 20; i++) {
        char name[NAME_BYTES_MAX];
        snprintf(name, sizeof(name), "stranger-%u", i);
        assert_int_equal(tell(&row, make_read(name, 3), 100, REGISTER_STANDS), 0);
        assert_int_equal(tell(&row, make_read(A, 3), 6 + i, REGISTER_STANDS), 5 + i); /* whose age grows, stays */
    }
    unsigned count = 0;
    while (count < REGISTER_TOLD_MAX && row.ages[count].node[0])
        count++;
    assert_int_equal(count, REGISTER_TOLD_MAX);
    assert_string_equal(row.ages[0].node, A);
}

/* ---- requests that cannot be ---- */

struct fault_case {
    const char *what;
    void (*spoil)(struct register_request *q);
};

#define FILL(text) memset(text, 'x', sizeof(text))
static void no_volume(struct register_request *q) { q->volume[0] = 0; }
static void endless_volume(struct register_request *q) { FILL(q->volume); }
static void no_node(struct register_request *q) { q->node[0] = 0; }
static void endless_node(struct register_request *q) { FILL(q->node); }
static void endless_peer(struct register_request *q) { FILL(q->peer); }
static void own_peer(struct register_request *q) { memcpy(q->peer, q->node, sizeof(q->peer)); }
static void too_old(struct register_request *q) { q->leg_age = UINT64_C(1) << 63; }
static void knows_too_much(struct register_request *q) { q->known_epoch = UINT64_C(1) << 63; }
static void unknown_question(struct register_request *q) { q->ask = (enum register_ask)2; }
static void no_identity(struct register_request *q) { memset(&q->volume_id, 0, sizeof(q->volume_id)); }
static void epoch_without_tag(struct register_request *q) { q->expected_tag = 0; }
static void tag_without_epoch(struct register_request *q) { q->expected_epoch = 0; }
static void expects_too_much(struct register_request *q)
{
    q->expected_epoch = UINT64_C(1) << 63;
    q->proposal.epoch = q->expected_epoch + 1;
}
static void too_high(struct register_request *q) { q->proposal.epoch = UINT64_C(1) << 63; }
static void not_higher(struct register_request *q) { q->proposal.epoch = q->expected_epoch; }
static void no_tag(struct register_request *q) { q->proposal.tag = 0; }
static void old_tag(struct register_request *q) { q->proposal.tag = q->expected_tag; }
static void unknown_cause(struct register_request *q) { q->proposal.cause = (enum decree_cause)99; }
static void over_without_adopt(struct register_request *q) { q->over_older = true; }
static void endless_primary(struct register_request *q) { FILL(q->proposal.primary); }
static void foreign_primary(struct register_request *q) { snprintf(q->proposal.primary, NAME_BYTES_MAX, "rome"); }
static void endless_note(struct register_request *q) { FILL(q->note); }
static void no_members(struct register_request *q) { q->proposal.member_count = 0; }
static void three_members(struct register_request *q) { q->proposal.member_count = 3; }
static void foreign_member(struct register_request *q)
{
    snprintf(q->proposal.members[1].node, NAME_BYTES_MAX, "rome");
}
static void nameless_member(struct register_request *q) { q->proposal.members[0].node[0] = 0; }
static void endless_member(struct register_request *q) { FILL(q->proposal.members[0].node); }
static void member_without_leg(struct register_request *q) { memset(&q->proposal.members[1].leg_id, 0, 16); }
static void one_leg_twice(struct register_request *q) { q->proposal.members[1].leg_id = q->proposal.members[0].leg_id; }
static void one_node_twice(struct register_request *q)
{
    memcpy(q->proposal.members[1].node, q->proposal.members[0].node, NAME_BYTES_MAX);
}
static void other_volume(struct register_request *q) { q->volume_id = make_id(77); }
static void other_name(struct register_request *q) { snprintf(q->volume, sizeof(q->volume), "silver1"); }

static void refuses_what_cannot_be(void **state)
{
    static void (*const spoils[])(struct register_request *) = {
        no_volume,         endless_volume,    no_node,
        endless_node,      endless_peer,      own_peer,
        knows_too_much,    unknown_question,  no_identity,
        epoch_without_tag, tag_without_epoch, expects_too_much,
        too_high,          not_higher,        no_tag,
        old_tag,           unknown_cause,     over_without_adopt,
        endless_primary,   foreign_primary,   endless_note,
        no_members,        three_members,     foreign_member,
        nameless_member,   endless_member,    member_without_leg,
        one_leg_twice,     one_node_twice,    other_volume,
        other_name,        too_old,
    };
    for (unsigned i = 0; i < ARRAY_LEN(spoils); i++) {
        struct decree d = make_decree(3, 30, A, SET_BOTH);
        struct register_row row = confirmed(&d);
        struct register_request q = make_swap(A, 3, 3, 30, make_decree(4, 40, B, SET_BOTH));
        spoils[i](&q);
        struct register_row before = row;
        expect(&row, &q, REGISTER_REFUSED);
        assert_memory_equal(&row, &before, sizeof(row)); /* nor is it listened to */
    }
    struct decree d = make_decree(3, 30, A, SET_BOTH);
    struct register_row row = confirmed(&d);
    struct register_request q = make_swap(A, 3, 3, 30, make_decree(4, 40, "", SET_BOTH)); /* nobody */
    expect(&row, &q, REGISTER_DONE);
}

/* ---- histories ---- */

#define EPOCHS 400
#define STATES 8

struct node {
    const char *name;
    unsigned index;
    uint64_t known;         /* on disk */
    struct decree standing; /* the last one read; not on disk */
    bool pending;
    struct register_request swap;
    bool serving;
    struct register_request late; /* a swap from before a crash, on its way */
    bool is_late;
};

struct history {
    struct prng prng;
    struct register_row row;
    struct decree old[STATES]; /* backups */
    unsigned backups;
    struct node nodes[2];
    uint64_t tags[EPOCHS]; /* which decree was learned by any node, by epoch */
    uint64_t next_tag;
    unsigned done;
    unsigned restores;
    unsigned adopted;
};

/* Persisted, and never two decrees of one epoch. */
static void learn(struct history *h, struct node *n, const struct decree *d)
{
    if (decree_is_none(d))
        return;
    assert_true(d->epoch < EPOCHS);
    assert_true(h->tags[d->epoch] == 0 || h->tags[d->epoch] == d->tag);
    h->tags[d->epoch] = d->tag;
    n->known = max_u64(n->known, d->epoch);
    n->standing = *d;
}

static bool is_member(const struct decree *d, const struct node *n)
{
    return decree_has_member(d, make_id((uint8_t)(1 + n->index)));
}

static void propose(struct history *h, struct node *n)
{
    const struct decree *s = &n->standing;
    bool mine = strcmp(s->primary, n->name) == 0;
    if (s->epoch != n->known || (s->epoch && !is_member(s, n)) || s->epoch + 2 >= EPOCHS)
        return;
    unsigned set = prng_chance(&h->prng, 500000) ? SET_BOTH : 1u << n->index;
    if (!mine && s->member_count == 1)
        set = 1u << n->index;
    n->swap = make_swap(n->name, n->known, s->epoch, s->tag, make_decree(s->epoch + 1, ++h->next_tag, n->name, set));
    n->pending = true;
}

static void talk(struct history *h, struct node *n, bool answer_lost)
{
    struct register_request q = n->pending ? n->swap : make_read(n->name, n->known);
    q.known_epoch = n->known;
    q.serving_alone = !n->pending && n->serving && n->standing.epoch == n->known && n->standing.member_count == 1;
    struct register_answer a;
    ask(&h->row, &q, &a);
    if (answer_lost)
        return;
    switch (a.outcome) {
    case REGISTER_DONE:
        learn(h, n, &a.decree);
        n->pending = false;
        n->serving = true;
        h->done++;
        break;
    case REGISTER_LOST:
        n->pending = false;
        n->serving = false;
        learn(h, n, &a.decree);
        break;
    case REGISTER_STANDS:
        if (a.decree.tag != n->standing.tag)
            n->serving = false;
        learn(h, n, &a.decree);
        break;
    case REGISTER_OLDER: assert_true(n->known > a.decree.epoch); break;
    case REGISTER_UNCONFIRMED: break;
    case REGISTER_UNREACHABLE:
    case REGISTER_REFUSED: fail_msg("refused: %s", a.reason);
    }
}

static void crash(struct node *n)
{
    n->is_late = n->pending;
    n->late = n->swap;
    n->pending = n->serving = false;
    n->standing = (struct decree) { 0 };
}

/* The way back that is always there: with both nodes in reach. */
static void adopt(struct history *h)
{
    struct node *n = &h->nodes[0];
    uint64_t highest = max_u64(max_u64(h->nodes[0].known, h->nodes[1].known), h->row.decree.epoch);
    if (highest + 1 >= EPOCHS)
        return;
    struct decree d = make_decree(highest + 1, ++h->next_tag, n->name, SET_BOTH);
    d.cause = DECREE_ADOPT;
    struct register_request q = make_swap(n->name, n->known, 0, 0, d);
    q.over_older = true;
    struct register_answer a;
    assert_true(ask(&h->row, &q, &a));
    learn(h, n, &a.decree);
    n->pending = false;
    n->serving = true;
    h->nodes[1].pending = h->nodes[1].serving = false;
    h->adopted++;
}

static void step(struct history *h)
{
    struct node *n = &h->nodes[prng_below(&h->prng, 2)];
    switch (prng_below(&h->prng, 40)) {
    case 0: crash(n); break;
    case 1:
        if (h->backups < STATES)
            h->old[h->backups++] = h->row.decree;
        break;
    case 2:
        if (h->backups == 0 || !prng_chance(&h->prng, 300000))
            break;
        /* What was on its way came on connections that have ended. */
        /* Backups that were made after this one are of a past that is given up. */
        h->backups = 1 + (unsigned)prng_below(&h->prng, h->backups);
        register_row_start(&h->row, "gold42", make_id(VOLUME_ID), &h->old[h->backups - 1]);
        h->nodes[0].is_late = h->nodes[1].is_late = false;
        h->restores++;
        break;
    case 3: {
        struct decree same = h->row.decree;
        register_row_start(&h->row, "gold42", h->row.volume_id, &same);
        h->nodes[0].is_late = h->nodes[1].is_late = false;
        break;
    }
    case 4:
        if (h->row.highest_told > h->row.decree.epoch)
            adopt(h);
        break;
    case 5:
        if (n->is_late) {
            struct register_answer a;
            ask(&h->row, &n->late, &a);
            n->is_late = false;
        }
        break;
    default:
        if (!n->pending && prng_chance(&h->prng, 400000))
            propose(h, n);
        else
            talk(h, n, prng_chance(&h->prng, 200000));
    }
}

/* Whatever the register forgets and the nodes retry, no node learns of two decrees of one epoch. */
static void no_epoch_is_given_twice(void **state)
{
    unsigned done = 0;
    unsigned restores = 0;
    unsigned adopted = 0;
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        struct history h = { .prng = prng_seed(seed),
                             .nodes = { { .name = A, .index = 0 }, { .name = B, .index = 1 } } };
        h.row = started(NULL);
        for (unsigned i = 0; i < 400; i++)
            step(&h);
        done += h.done;
        restores += h.restores;
        adopted += h.adopted;
    }
    print_message("%u swaps learned of, %u restores, %u adopted\n", done, restores, adopted);
    assert_true(done > 10000 && restores > 1000 && adopted > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_decree),
        cmocka_unit_test(a_retry_finds_its_own),
        cmocka_unit_test(of_two_swaps_one_wins),
        cmocka_unit_test(every_question_to_every_row),
        cmocka_unit_test(waits_for_both_nodes),
        cmocka_unit_test(one_that_serves_alone_is_enough),
        cmocka_unit_test(a_volume_of_one_node),
        cmocka_unit_test(a_new_disk_knows_nothing),
        cmocka_unit_test(an_operator_cannot_confirm_what_is_older),
        cmocka_unit_test(a_node_that_is_being_replaced),
        cmocka_unit_test(the_highest_age_is_remembered),
        cmocka_unit_test(an_age_is_of_the_volume_that_stands),
        cmocka_unit_test(no_more_ages_than_nodes_are_remembered),
        cmocka_unit_test(refuses_what_cannot_be),
        cmocka_unit_test(no_epoch_is_given_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
