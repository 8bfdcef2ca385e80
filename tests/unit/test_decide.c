/* The handshake table over histories: all pairs of states that two nodes can present, judged from both ends. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

#include "repl/base/units.h"
#include "repl/sync/decide.h"

static struct id make_id(uint8_t fill)
{
    struct id id;
    memset(&id, fill, sizeof(id));
    return id;
}

static struct hello fresh(const char *node, const char *peer, uint8_t leg)
{
    struct hello h = {
        .version = PROTOCOL_VERSION,
        .volume = "gold42",
        .capacity_bytes = GIB,
        .leg_id = make_id(leg),
        .leg = LEG_UP_TO_DATE,
        .pristine = true,
        .window_frames = 16,
        .window_bytes = MIB,
        .granule_bytes = 4096,
    };
    snprintf(h.node, sizeof(h.node), "%s", node);
    snprintf(h.peer, sizeof(h.peer), "%s", peer);
    return h;
}

static struct hello a(void) { return fresh("paris-a", "paris-b", 1); }
static struct hello b(void) { return fresh("paris-b", "paris-a", 2); }

static void part_of(struct hello *h, uint64_t epoch, uint64_t tag)
{
    history_append(&h->history, (struct history_entry) { epoch, epoch * 100, tag });
    h->epoch = max_u64(h->epoch, epoch);
}

/* Both have served together at epochs 1 and 2. */
static void pair_up(struct hello *x, struct hello *y)
{
    x->peer_leg_id = y->leg_id;
    y->peer_leg_id = x->leg_id;
    x->volume_id = y->volume_id = make_id(9);
    x->size_bytes = y->size_bytes = GIB;
    x->pristine = y->pristine = false;
    for (uint64_t epoch = 1; epoch <= 2; epoch++) {
        part_of(x, epoch, epoch);
        part_of(y, epoch, epoch);
    }
    x->base = y->base = x->history.entries[1];
}

static bool opposite(enum sync_verdict x, enum sync_verdict y)
{
    if (x == SYNC_SOURCE)
        return y == SYNC_TARGET;
    if (x == SYNC_TARGET)
        return y == SYNC_SOURCE;
    return x == y;
}

static struct sync_judgement judge(const struct hello *x, const struct hello *y)
{
    struct sync_judgement from_x, from_y;
    sync_decide(x, y, &from_x);
    sync_decide(y, x, &from_y);
    assert_true(opposite(from_x.verdict, from_y.verdict));
    assert_int_equal(from_x.full, from_y.full);
    if (from_x.verdict == SYNC_REFUSE) {
        assert_string_equal(from_x.rule, from_y.rule);
        assert_true(from_x.text[0] && from_y.text[0]);
    } else {
        assert_true(from_x.text[0] == 0);
        assert_int_equal(from_x.size_bytes, from_y.size_bytes);
        assert_int_equal(from_x.epoch, from_y.epoch);
        assert_memory_equal(&from_x.volume_id, &from_y.volume_id, sizeof(struct id));
        assert_true(history_entry_equal(from_x.pair_entry, from_y.pair_entry));
        assert_int_equal(history_entry_is_none(from_x.pair_entry), from_x.verdict != SYNC_PAIR);
    }
    return from_x;
}

static void expect(const struct hello *x, const struct hello *y, const char *rule, enum sync_verdict verdict, bool full)
{
    struct sync_judgement j = judge(x, y);
    assert_string_equal(j.rule, rule);
    assert_int_equal(j.verdict, verdict);
    assert_int_equal(j.full, full);
}

static void who_is_configured_otherwise(void **state)
{
    struct hello x = a(), y = b();
    x.config = (struct hello_config) { .dead_after_us = 2000000, .witness = 7, .failover = 2, .when_alone = 1 };
    expect(&x, &y, "both-fresh", SYNC_PAIR, false); /* the other one does not say */
    y.config = (struct hello_config) { .dead_after_us = 2000000, .witness = 8, .failover = 1, .when_alone = 2 };
    expect(&x, &y, "both-fresh", SYNC_PAIR, false); /* told, and no more */
    y.config.witness = 0;
    expect(&x, &y, "one-without-witness", SYNC_REFUSE, false);
    assert_string_equal(
        judge(&x, &y).text,
        "paris-a has a witness in its configuration, and paris-b has none: the configuration must be the same on both");
    y.config.witness = 8;
    y.config.dead_after_us = 1500000;
    expect(&x, &y, "other-dead-after", SYNC_REFUSE, false);
    assert_string_equal(
        judge(&y, &x).text,
        "dead-after is 1.5 s on paris-b and 2 s on paris-a: the configuration must be the same on both");
    /* Without a register nobody counts on the other's; but each has to hear the other in time. */
    x.config.witness = y.config.witness = 0;
    expect(&x, &y, "both-fresh", SYNC_PAIR, false);
    y.config.dead_after_us = 4000000;
    expect(&x, &y, "other-dead-after", SYNC_REFUSE, false);
    y.config.dead_after_us--;
    expect(&x, &y, "both-fresh", SYNC_PAIR, false);
    x.config.witness = 7;
    expect(&x, &y, "one-without-witness", SYNC_REFUSE, false);
    y.config.witness = 8;
    /* A primary that was deposed stops first. */
    pair_up(&x, &y);
    x.role = y.role = ROLE_PRIMARY;
    part_of(&y, 3, 3);
    expect(&x, &y, "deposed", SYNC_REFUSE, false);
    assert_true(judge(&x, &y).own_deposed);
}

/* Epochs that nobody had from the register end no term that it has given. */
static void a_registers_primary_meets_one_without(void **state)
{
    struct hello x = a(), y = b();
    pair_up(&x, &y);
    x.config = (struct hello_config) { .dead_after_us = 2000000, .witness = 7 };
    y.config = (struct hello_config) { .dead_after_us = 2000000 };
    x.role = ROLE_PRIMARY;
    y.epoch = x.epoch + 5;
    expect(&x, &y, "deposed", SYNC_REFUSE, false); /* it has no decree yet: an operator has promoted it */
    x.registered = true;
    for (int both = 0; both < 2; both++) {
        y.role = both ? ROLE_PRIMARY : ROLE_SECONDARY;
        expect(&x, &y, "one-without-witness", SYNC_REFUSE, false);
        struct sync_judgement j = judge(&x, &y);
        assert_true(!j.own_deposed && j.two_primaries == both);
    }
    y.epoch = x.epoch;
    expect(&x, &y, "one-without-witness", SYNC_REFUSE, false);
    y.config.dead_after_us = 0; /* it does not say: of an older release */
    y.epoch = x.epoch + 5;
    expect(&x, &y, "deposed", SYNC_REFUSE, false);
    /* A decree is more than what an operator has said to one of the two. */
    y.config.dead_after_us = 2000000;
    y.epoch = x.epoch - 1;
    expect(&x, &y, "deposed", SYNC_REFUSE, false);
    assert_true(judge(&y, &x).own_deposed);
}

static void who_belongs_to_whom(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    expect(&x, &y, "both-fresh", SYNC_PAIR, false);
    x.version++;
    expect(&x, &y, "other-version", SYNC_REFUSE, false);
    x = a();
    strcpy(y.volume, "silver");
    expect(&x, &y, "other-volume", SYNC_REFUSE, false);
    y = fresh("paris-c", "paris-a", 2);
    expect(&x, &y, "other-nodes", SYNC_REFUSE, false);
    y = b();
    y.window_bytes = 4096;
    expect(&x, &y, "window-too-small", SYNC_REFUSE, false);
    y = b();
    y.leg_id = x.leg_id;
    expect(&x, &y, "same-leg", SYNC_REFUSE, false);
    y = b();
    y.granule_bytes = 512;
    expect(&x, &y, "other-granule", SYNC_REFUSE, false);

    /* One has recorded the pairing, the other died before, and takes the same entry now. */
    x = a(), y = b();
    struct sync_judgement pairing = judge(&x, &y);
    x.peer_leg_id = y.leg_id;
    x.pristine = false;
    x.epoch = pairing.epoch;
    history_append(&x.history, pairing.pair_entry);
    expect(&x, &y, "both-fresh", SYNC_PAIR, false);
    struct sync_judgement again = judge(&x, &y);
    assert_true(history_entry_equal(again.pair_entry, pairing.pair_entry));
    x.lost_power = true; /* there was nothing to lose */
    expect(&x, &y, "both-fresh", SYNC_PAIR, false);
    x.lost_power = false;
    y.pristine = false; /* but if there is data on the other, it is not zeroes as this one is */
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);
    y.peer_leg_id = x.leg_id;
    y.epoch = pairing.epoch;
    history_append(&y.history, pairing.pair_entry);
    expect(&x, &y, "in-sync", SYNC_CONNECT, false);

    /* Written to alone since, it is no longer fresh; nor is what it has marked. */
    x.history.entries[0].tag ^= 4;
    y = b();
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);
    x.history.entries[0].tag ^= 4;
    x.dirty_bytes = 4096;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);

    x = a(), y = b();
    pair_up(&x, &y);
    expect(&x, &y, "in-sync", SYNC_CONNECT, false);
    y.volume_id = make_id(8);
    expect(&x, &y, "other-volume-id", SYNC_REFUSE, false);
    y.volume_id = x.volume_id;
    y.size_bytes = 2 * GIB;
    expect(&x, &y, "other-size", SYNC_REFUSE, false);
    /* A resize was cut off between the two nodes' records of it. */
    x.capacity_bytes = y.size_bytes;
    expect(&x, &y, "in-sync", SYNC_CONNECT, false);
    assert_int_equal(judge(&x, &y).size_bytes, y.size_bytes);
    x.capacity_bytes = x.size_bytes;
    y.capacity_bytes = 4 * GIB;
    expect(&x, &y, "other-size", SYNC_REFUSE, false);
    y.size_bytes = x.size_bytes;
    x.served_block_bytes = 512;
    y.block_bytes = 4096;
    expect(&x, &y, "block-too-large", SYNC_REFUSE, false);

    /* One has served in the first resync of a leg whose disk was replaced then. */
    for (unsigned i = 0; i < 2; i++) {
        struct hello served = i ? b() : a(), made_anew = i ? a() : b();
        served.pristine = false;
        served.volume_id = make_id(9);
        served.size_bytes = GIB;
        served.epoch = 2;
        served.peer_leg_id = make_id(7);
        expect(&served, &made_anew, "own-is-ahead", SYNC_SOURCE, true);
        served.lost_power = served.peer_failed = true;
        expect(&served, &made_anew, "own-is-ahead", SYNC_SOURCE, true);
        made_anew.was_primary = true;
        expect(&served, &made_anew, "own-is-ahead", SYNC_SOURCE, true);
        made_anew.role = ROLE_PRIMARY;
        made_anew.epoch = 2;
        expect(&served, &made_anew, "primary-is-behind", SYNC_REFUSE, false);
    }

    /* A disk was replaced; or data adopted, and the peer added. */
    x = a(), y = b();
    pair_up(&x, &y);
    y = b();
    y.leg_id = make_id(3);
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);
    x = a(), y = b();
    x.pristine = false;
    part_of(&x, 1, 77);
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);
}

static void who_is_primary(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    pair_up(&x, &y);
    x.role = ROLE_PRIMARY;
    expect(&x, &y, "in-sync", SYNC_CONNECT, false);
    y.role = ROLE_PRIMARY;
    expect(&x, &y, "two-primaries", SYNC_REFUSE, false);
    y.epoch = 3;
    expect(&x, &y, "deposed", SYNC_REFUSE, false);
    struct sync_judgement j;
    sync_decide(&x, &y, &j);
    assert_true(j.own_deposed && j.for_now);
    sync_decide(&y, &x, &j);
    assert_true(!j.own_deposed && j.for_now);
    y.role = ROLE_SECONDARY;
    expect(&x, &y, "deposed", SYNC_REFUSE, false);
    x.epoch = 3;
    part_of(&y, 4, 5);
    x.epoch = 4; /* has seen it, and serves all the same */
    expect(&x, &y, "primary-is-behind", SYNC_REFUSE, false);
}

static void what_one_lacks_the_other_gives(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    pair_up(&x, &y);
    /* It went on alone: the other gets what its bitmap tells. */
    part_of(&x, 3, 33);
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.base = x.history.entries[2]; /* the bitmap began after the other had left */
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);
    x.base = x.history.entries[0];
    x.peer_leg_id = make_id(7);
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);
    x.peer_leg_id = y.leg_id;
    y.full = true;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);

    /* Both went on. */
    y.full = false;
    part_of(&y, 3, 34);
    expect(&x, &y, "split-brain", SYNC_REFUSE, false);
    struct sync_judgement j;
    sync_decide(&x, &y, &j);
    assert_non_null(strstr(j.text, "up to epoch 2"));
    assert_non_null(strstr(j.text, "paris-a went on alone from epoch 3, LSN 300"));
    assert_non_null(strstr(j.text, "paris-b from epoch 3, LSN 300"));

    x = a(), y = b();
    part_of(&x, 1, 1);
    part_of(&y, 1, 2);
    x.pristine = y.pristine = false;
    expect(&x, &y, "unrelated", SYNC_REFUSE, false);
}

/* What the peer knows of each leg's age. */
static void know_ages(struct hello *x, struct hello *y)
{
    x->age = y->peer_age = 5;
    y->age = x->peer_age = 9;
}

/* As engine_age.c marks it. */
static struct hello marked(const struct hello *own, const struct hello *peer)
{
    struct hello h = *own;
    h.age = max_u64(h.age, peer->peer_age) + 1;
    h.went_back = h.differs = true;
    h.dirty_bytes = h.size_bytes;
    return h;
}

/* As engine_resolve.c leaves a leg that was given up: by the bits of both, or with nothing that could be relied on. */
static struct hello given_up(const struct hello *own, const struct hello *peer)
{
    struct hello h = *own;
    bool by_bits = sync_bits_tell_apart(own, peer);
    h.history.count = (uint32_t)(history_last_common(&own->history, &peer->history) + 1);
    h.leg = LEG_SYNCING;
    h.was_primary = h.peer_in_sync = h.pristine = false;
    h.served_epoch = 0;
    if (!by_bits) {
        h.base = (struct history_entry) { 0 };
        h.age = max_u64(h.age, peer->peer_age) + 1;
    }
    return h;
}

static void what_a_person_gives_up_gets_everything_from_the_other(void **state)
{
    struct hello x = a(), y = b();
    pair_up(&x, &y);
    part_of(&x, 3, 33);
    part_of(&y, 4, 44);
    x.dirty_bytes = y.dirty_bytes = 4096;
    assert_true(judge(&x, &y).resolvable);
    assert_true(sync_bits_tell_apart(&x, &y) && sync_bits_tell_apart(&y, &x));
    struct hello lost = given_up(&x, &y);
    expect(&y, &lost, "own-is-ahead", SYNC_SOURCE, false);
    y.role = ROLE_PRIMARY;
    expect(&y, &lost, "own-is-ahead", SYNC_SOURCE, false);
    y.role = ROLE_SECONDARY;
    /* The one that is kept may know nothing of the other; or has no bits for it. */
    y.base = y.history.entries[2];
    expect(&y, &lost, "own-is-ahead", SYNC_SOURCE, true);
    assert_false(sync_bits_tell_apart(&y, &x));
    y.base = y.history.entries[1];
    x.base = x.history.entries[2];
    assert_false(sync_bits_tell_apart(&x, &y));
    x.base = x.history.entries[1];
    x.peer_leg_id = make_id(7);
    assert_false(sync_bits_tell_apart(&x, &y));
    lost = given_up(&x, &y);
    expect(&y, &lost, "own-is-ahead", SYNC_SOURCE, true);

    /* Nothing in common: like a new disk in its first resync. */
    x = a(), y = b();
    part_of(&x, 1, 1);
    part_of(&y, 1, 2);
    x.pristine = y.pristine = false;
    assert_true(judge(&x, &y).resolvable);
    lost = given_up(&x, &y);
    assert_int_equal(lost.history.count, 0);
    expect(&y, &lost, "own-is-ahead", SYNC_SOURCE, true);

    /* No refusal of another kind is a person's to end so. */
    x = a(), y = b();
    pair_up(&x, &y);
    y.volume_id = make_id(8);
    assert_false(judge(&x, &y).resolvable);
    y.volume_id = x.volume_id;
    x.role = y.role = ROLE_PRIMARY;
    assert_false(judge(&x, &y).resolvable);

    /* All that is said is to fit into what is shown of it. */
    x = a(), y = b();
    pair_up(&x, &y);
    part_of(&x, 12345, 33);
    part_of(&y, 123456, 44);
    x.history.entries[2].first_lsn = y.history.entries[2].first_lsn = UINT64_C(1) << 40;
    assert_true(strlen(judge(&x, &y).text) < 384);
    assert_non_null(strstr(judge(&x, &y).text, "`lockstep resolve gold42 --discard local`"));
}

static void equal_histories_reconcile_what_is_left(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    pair_up(&x, &y);
    x.dirty_bytes = 4096;
    expect(&x, &y, y.leg_id.bytes[0] > x.leg_id.bytes[0] ? "peer-is-ahead" : "own-is-ahead", SYNC_TARGET, false);
    x.was_primary = true;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.lost_power = true; /* the other has what was flushed nowhere */
    expect(&x, &y, "peer-is-ahead", SYNC_TARGET, false);
    y.lost_power = true;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    /* The disk that failed may not have recorded it: the other leg's word counts as much. */
    y.lost_power = x.lost_power = false;
    y.peer_failed = true;
    expect(&x, &y, "peer-is-ahead", SYNC_TARGET, false);
    x.dirty_bytes = 0;
    expect(&x, &y, "peer-is-ahead", SYNC_TARGET, false);
    x.peer_failed = true;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.peer_failed = y.peer_failed = false;
    expect(&x, &y, "in-sync", SYNC_CONNECT, false);
    x.dirty_bytes = 4096;
    /* One was killed, the other promoted and demoted without it: who served last has what was read last. Not who has
     * seen the higher epoch, nor who was asked for its consent to a promotion that came to nothing. */
    x.was_primary = y.was_primary = true;
    x.epoch = x.served_epoch = 5;
    y.epoch = y.served_epoch = 6;
    for (unsigned lacks = 0; lacks < 2; lacks++) {
        x.lost_power = y.lost_power = lacks;
        x.epoch = 5;
        expect(&x, &y, "peer-is-ahead", SYNC_TARGET, false);
        x.epoch = 6;
        expect(&x, &y, "peer-is-ahead", SYNC_TARGET, false);
        x.epoch = 7;
        expect(&x, &y, "peer-is-ahead", SYNC_TARGET, false);
        y.was_primary = false;
        expect(&x, &y, "peer-is-ahead", SYNC_TARGET, false);
        y.was_primary = true;
    }
    x.lost_power = y.lost_power = false;
    x.served_epoch = y.served_epoch;
    y.was_primary = false;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.served_epoch = 7;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.epoch = y.epoch;
    x.lost_power = true;
    x.role = ROLE_PRIMARY;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
}

/* Both were promoted while neither saw the other: what they had acknowledged before, either may lack by now. */
static void two_that_were_promoted_apart_wait_for_a_person(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    pair_up(&x, &y);
    x.epoch = y.epoch = x.served_epoch = y.served_epoch = 7;
    x.was_primary = true;
    x.lost_power = true;
    expect(&x, &y, "peer-is-ahead", SYNC_TARGET, false); /* the other one lacks nothing */
    x.peer_failed = true;
    expect(&x, &y, "promoted-apart", SYNC_REFUSE, false);
    struct sync_judgement j;
    for (int from_y = 0; from_y < 2; from_y++) {
        sync_decide(from_y ? &y : &x, from_y ? &x : &y, &j);
        assert_non_null(strstr(j.text, "were both promoted at epoch 7, apart from each other, and each may lack"));
        assert_non_null(strstr(j.text, "`lockstep promote --force` on the one to keep"));
    }
    y.served_epoch = 6;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.served_epoch = y.served_epoch = 0; /* neither has served */
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.served_epoch = y.served_epoch = 7;
    x.role = ROLE_PRIMARY; /* the person has decided */
    x.lost_power = false;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
}

/* One lacks what was acknowledged last, the other one has it, and blocks that are wrong. */
static void what_a_verify_found_weighs_less_than_a_loss(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    pair_up(&x, &y);
    y.differs = true;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.dirty_bytes = 4096;
    y.was_primary = true; /* whoever was primary before */
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    y.was_primary = false;
    x.was_primary = true;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.lost_power = true;
    expect(&x, &y, "found-to-differ", SYNC_REFUSE, false);
    struct sync_judgement j;
    for (int from_y = 0; from_y < 2; from_y++) {
        sync_decide(from_y ? &y : &x, from_y ? &x : &y, &j);
        assert_non_null(strstr(j.text, "paris-a went down without warning, or a flush failed there, and may lack"));
        assert_non_null(strstr(j.text, "paris-b has them, but a verify found that it differs in some blocks"));
        assert_non_null(strstr(j.text, "`lockstep promote --force` on the one to keep"));
    }
    /* The same by the other one's word; and whatever else was found of it. */
    x.lost_power = false;
    y.peer_failed = true;
    expect(&x, &y, "found-to-differ", SYNC_REFUSE, false);
    x.differs = true;
    expect(&x, &y, "found-to-differ", SYNC_REFUSE, false);
    /* Both flags on one leg, or both have lost: no more than what the other one has. */
    y.differs = false;
    expect(&x, &y, "peer-is-ahead", SYNC_TARGET, false);
    x.differs = y.peer_failed = false;
    x.lost_power = y.lost_power = y.differs = true;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.lost_power = x.was_primary = false;
    y.was_primary = true;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.lost_power = true;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);

    /* Not where it is decided otherwise: a primary is the source; a target that is half made can be nothing else. */
    x = a(), y = b();
    pair_up(&x, &y);
    x.lost_power = y.differs = true;
    x.role = ROLE_PRIMARY;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.role = ROLE_SECONDARY;
    y.leg = LEG_SYNCING;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    y.leg = LEG_UP_TO_DATE;
    y.peer_leg_id = make_id(7);
    expect(&x, &y, "replaced", SYNC_REFUSE, false);
    y.peer_leg_id = x.leg_id;
    x.peer_leg_id = make_id(7);
    expect(&x, &y, "replaced", SYNC_REFUSE, false);
    x.lost_power = false;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);
    x.differs = true;
    expect(&x, &y, "replaced", SYNC_REFUSE, false);

    /* Either one is promoted by force: everything is compared, what was lost and what was found. */
    for (int forces_y = 0; forces_y < 2; forces_y++) {
        x = a(), y = b();
        pair_up(&x, &y);
        x.lost_power = y.differs = true;
        struct hello *forced = forces_y ? &y : &x;
        forced->lost_power = forced->differs = false;
        forced->role = ROLE_PRIMARY;
        part_of(forced, 3, 33);
        forced->base = forced->history.entries[2];
        expect(&x, &y, forces_y ? "peer-is-ahead" : "own-is-ahead", forces_y ? SYNC_TARGET : SYNC_SOURCE, true);
    }
}

static void a_primary_without_a_leg_serves_through_the_other(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    pair_up(&x, &y);
    x.role = ROLE_PRIMARY;
    x.leg = LEG_FAILED;
    expect(&x, &y, "leg-failed", SYNC_REFUSE, false);
    x.diskless = true;
    part_of(&x, 3, 33);
    expect(&x, &y, "through-the-peer", SYNC_THROUGH, false);
    y.dirty_bytes = 4096; /* it has begun to record that */
    expect(&x, &y, "through-the-peer", SYNC_THROUGH, false);
    y.was_primary = true; /* or has served in between, and its writes have failed */
    expect(&x, &y, "leg-failed", SYNC_REFUSE, false);
    y.was_primary = false;
    y.epoch = 3; /* it has seen that epoch, and not this entry */
    expect(&x, &y, "leg-failed", SYNC_REFUSE, false);
    struct hello before = y;
    part_of(&y, 3, 33);
    y.full = true, y.dirty_bytes = 4096; /* as it has recorded */
    expect(&x, &y, "through-the-peer", SYNC_THROUGH, false);
    y.lost_power = true;
    expect(&x, &y, "only-leg-lost-power", SYNC_REFUSE, false);
    struct sync_judgement j;
    sync_decide(&x, &y, &j);
    assert_non_null(strstr(j.text, "without warning"));
    y.lost_power = false;
    y.differs = true;
    expect(&x, &y, "only-leg-lost-power", SYNC_REFUSE, false);
    sync_decide(&x, &y, &j);
    assert_non_null(strstr(j.text, "found by a verify to differ"));
    y.differs = false;
    x.peer_failed = true; /* the same, as the primary has heard: its own disk may not tell */
    expect(&x, &y, "only-leg-lost-power", SYNC_REFUSE, false);
    x.peer_failed = false;
    y.peer_failed = true; /* of that leg, which is no news */
    expect(&x, &y, "through-the-peer", SYNC_THROUGH, false);
    y.leg = LEG_SYNCING;
    expect(&x, &y, "leg-failed", SYNC_REFUSE, false);
    y.leg = LEG_UP_TO_DATE;
    y.role = ROLE_PRIMARY;
    expect(&x, &y, "two-primaries", SYNC_REFUSE, false);
    y.epoch = 4;
    expect(&x, &y, "deposed", SYNC_REFUSE, false);
    y = before;
    part_of(&y, 3, 44); /* it went on alone */
    expect(&x, &y, "leg-failed", SYNC_REFUSE, false);
    y = before;
    y.peer_leg_id = make_id(9); /* another leg's peer */
    expect(&x, &y, "leg-failed", SYNC_REFUSE, false);

    /* It comes back with what its disk had: without that decree, it is the target. */
    x = a(), y = b();
    pair_up(&x, &y);
    part_of(&y, 3, 33);
    y.full = true;
    x.was_primary = true;
    expect(&x, &y, "peer-is-ahead", SYNC_TARGET, true);
}

/* The one of the two that knows of the register is enough, if it does not know of older things. */
static void a_target_leaves_the_set_first(void **state)
{
    for (unsigned who = 0; who < 3; who++) {
        struct hello x = a(), y = b();
        pair_up(&x, &y);
        x.was_primary = x.peer_in_sync = y.peer_in_sync = true;
        y.lost_power = true;
        expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
        x.registered = who != 1;
        y.registered = who != 0;
        expect(&x, &y, "target-in-set", SYNC_REFUSE, false);
        struct sync_judgement j = judge(&x, &y);
        assert_true(j.for_now && j.target_in_set);
        x.peer_in_sync = false;
        expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    }
}

static void a_syncing_leg_only_takes(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    pair_up(&x, &y);
    part_of(&x, 3, 33);
    y.leg = LEG_SYNCING;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);
    x.leg = LEG_SYNCING;
    expect(&x, &y, "both-syncing", SYNC_REFUSE, false);
    x.leg = LEG_UP_TO_DATE;
    y.role = ROLE_PRIMARY, y.epoch = 3;
    expect(&x, &y, "primary-is-behind", SYNC_REFUSE, false);
    y.role = ROLE_SECONDARY;
    part_of(&y, 4, 44);
    expect(&x, &y, "split-brain", SYNC_REFUSE, false);

    /* A resync of everything was interrupted: it goes on by the bitmap that it went by. */
    x = a(), y = b();
    part_of(&x, 1, 1);
    x.pristine = y.pristine = false;
    y.leg = LEG_SYNCING;
    x.peer_leg_id = y.leg_id;
    y.peer_leg_id = x.leg_id;
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, true);
    x.base = y.base = x.history.entries[0];
    expect(&x, &y, "own-is-ahead", SYNC_SOURCE, false);

    /* Promoted by force half-way: what the other has is not to be overwritten without a word, whatever else is said. */
    x = a(), y = b();
    pair_up(&x, &y);
    part_of(&y, 3, 33);
    y.base = (struct history_entry) { 0 };
    expect(&x, &y, "forced-half-made", SYNC_REFUSE, false);
    struct sync_judgement j;
    sync_decide(&x, &y, &j);
    assert_non_null(
        strstr(j.text, "split brain: paris-b was promoted by force in the middle of its resync from paris-a"));
    sync_decide(&y, &x, &j);
    assert_non_null(
        strstr(j.text, "split brain: paris-b was promoted by force in the middle of its resync from paris-a"));
    x.lost_power = true; /* it may lack something, but less than that one */
    expect(&x, &y, "forced-half-made", SYNC_REFUSE, false);
    x.lost_power = false;
    x.history = (struct history) { 0 }; /* the first resync of all: it served before it had been part of anything */
    expect(&x, &y, "forced-half-made", SYNC_REFUSE, false);
    x.pristine = true; /* but nothing was ever written to it */
    expect(&x, &y, "peer-is-ahead", SYNC_TARGET, true);
    /* Whoever is made anew gets everything from the other; so does one that is half made itself. */
    x = a();
    x.leg_id = make_id(3);
    expect(&x, &y, "peer-is-ahead", SYNC_TARGET, true);
    x = a(), y = b();
    pair_up(&x, &y);
    part_of(&y, 3, 33);
    y.base = (struct history_entry) { 0 };
    x.leg = LEG_SYNCING;
    expect(&x, &y, "peer-is-ahead", SYNC_TARGET, true);

    /* The leg that it came from is gone, and an older one is back. */
    x = a(), y = b();
    pair_up(&x, &y);
    part_of(&y, 3, 33);
    y.leg = LEG_SYNCING;
    expect(&x, &y, "syncing-is-newer", SYNC_REFUSE, false);
}

/* A disk that was put back from an older copy, while both were in sync. */
static void a_leg_that_went_back_is_no_source(void **state)
{
    (void)state;
    struct hello x = a(), y = b(), m;
    struct sync_judgement j;
    pair_up(&x, &y);
    expect(&x, &y, "in-sync", SYNC_CONNECT, false); /* neither tells */
    know_ages(&x, &y);
    expect(&x, &y, "in-sync", SYNC_CONNECT, false);
    y.age--;
    expect(&x, &y, "older-copy", SYNC_REFUSE, false);
    sync_decide(&y, &x, &j);
    assert_true(j.own_went_back && j.for_now && !j.resolvable);
    assert_non_null(strstr(j.text, "the disk of paris-b was put back from an older copy"));
    sync_decide(&x, &y, &j);
    assert_true(!j.own_went_back && j.for_now);
    m = y, m.age = 0; /* by an older release */
    expect(&x, &m, "in-sync", SYNC_CONNECT, false);

    /* Its node knows: it gets everything, also where nothing but its history is older; but from no other that may
     * lack something itself. */
    m = marked(&y, &x);
    expect(&x, &m, "own-is-ahead", SYNC_SOURCE, false);
    m.was_primary = true;
    m.served_epoch = m.epoch;
    expect(&x, &m, "own-is-ahead", SYNC_SOURCE, false);
    x.lost_power = true;
    expect(&x, &m, "only-an-older-copy", SYNC_REFUSE, false);
    m.lost_power = true;
    expect(&x, &m, "only-an-older-copy", SYNC_REFUSE, false);
    assert_true(judge(&x, &m).person_decides);
    x.role = ROLE_PRIMARY; /* a person has decided, or it has served since */
    expect(&x, &m, "own-is-ahead", SYNC_SOURCE, false);
    x.role = ROLE_SECONDARY, x.lost_power = false;
    x.leg = LEG_SYNCING;
    expect(&x, &m, "only-an-older-copy", SYNC_REFUSE, false);
    sync_decide(&x, &m, &j);
    assert_non_null(strstr(j.text, "the leg of paris-a is inconsistent"));
    x.leg = LEG_UP_TO_DATE;
    m = marked(&y, &x), m.leg = LEG_SYNCING;
    expect(&x, &m, "own-is-ahead", SYNC_SOURCE, false);

    /* Both are. */
    struct hello both = x;
    both.age--;
    sync_decide(&both, &y, &j);
    assert_true(j.own_went_back);
    sync_decide(&y, &both, &j);
    assert_true(j.own_went_back);
    m = marked(&y, &both), both = marked(&both, &y);
    expect(&both, &m, "only-an-older-copy", SYNC_REFUSE, false);

    /* It serves, or has: a person decides, and nothing flows from it. */
    y.role = ROLE_PRIMARY;
    y.epoch++;
    expect(&x, &y, "served-an-older-copy", SYNC_REFUSE, false);
    sync_decide(&y, &x, &j);
    assert_true(j.resolvable && j.person_decides && !j.own_went_back && !j.for_now);
    assert_non_null(strstr(j.text, "and demote it"));
    y.role = ROLE_SECONDARY;
    expect(&x, &y, "older-copy", SYNC_REFUSE, false); /* nothing came of it */
    part_of(&y, 7, 77);
    expect(&x, &y, "served-an-older-copy", SYNC_REFUSE, false);
    m = given_up(&y, &x); /* whose bits are all set then */
    expect(&x, &m, "own-is-ahead", SYNC_SOURCE, false);
    m = x, m.peer_age = 0;
    m = given_up(&m, &y);
    expect(&y, &m, "own-is-ahead", SYNC_SOURCE, false);
    part_of(&x, 8, 88);
    expect(&x, &y, "split-brain", SYNC_REFUSE, false);

    /* It was marked by the register's word, and has been part of more than the other one. */
    x = a(), y = b();
    pair_up(&x, &y);
    know_ages(&x, &y);
    part_of(&y, 7, 77);
    m = marked(&y, &x);
    expect(&x, &m, "only-an-older-copy", SYNC_REFUSE, false);
    sync_decide(&x, &m, &j);
    assert_non_null(strstr(j.text, "the leg of paris-a is older yet"));
}

/* All that can be of two nodes, and of what they know of each other's age. */
static struct hello aged_state_of(struct hello h, unsigned n, uint64_t own_tag)
{
    unsigned past = n % 5;
    n /= 5;
    if (past == 0) {
        h.history = (struct history) { 0 };
        h.epoch = 0;
    }
    if (past >= 2)
        part_of(&h, 3, past == 4 ? own_tag : 33);
    if (past == 3)
        part_of(&h, 4, 44);
    h.role = n % 2 ? ROLE_PRIMARY : ROLE_SECONDARY;
    n /= 2;
    h.lost_power = n % 2;
    n /= 2;
    static const enum leg_state legs[] = { LEG_UP_TO_DATE, LEG_SYNCING, LEG_FAILED };
    h.leg = legs[n % 3];
    n /= 3;
    h.age = 5 - (n == 1);
    h.went_back = h.differs = n == 2;
    h.dirty_bytes = n == 2 ? h.size_bytes : 0;
    h.peer_age = 5;
    return h;
}
#define AGED_STATES (5 * 2 * 2 * 3 * 3)

static void all_pairs_of_ages(void **state)
{
    (void)state;
    struct hello x0 = a(), y0 = b();
    pair_up(&x0, &y0);
    unsigned long flows = 0, back = 0, served = 0;
    for (unsigned i = 0; i < AGED_STATES; i++) {
        for (unsigned k = 0; k < AGED_STATES; k++) {
            struct hello x = aged_state_of(x0, i, 101), y = aged_state_of(y0, k, 102);
            struct sync_judgement of_x = judge(&x, &y), of_y;
            sync_decide(&y, &x, &of_y);
            if (of_x.verdict != SYNC_REFUSE) {
                const struct hello *from = of_x.verdict == SYNC_TARGET ? &y : &x, *to = from == &x ? &y : &x;
                bool either = of_x.verdict != SYNC_SOURCE && of_x.verdict != SYNC_TARGET;
                /* One that was part of nothing cannot have gone back. */
                assert_false(from->went_back && from->history.count > 0);
                assert_false(from->age < 5 && from->history.count > 0);
                assert_false(to->age < 5 && to->history.count > 0);
                if (either)
                    assert_false(to->went_back);
                flows++;
                continue;
            }
            if (of_x.own_went_back || of_y.own_went_back) {
                struct hello mx = of_x.own_went_back ? marked(&x, &y) : x;
                struct hello my = of_y.own_went_back ? marked(&y, &x) : y;
                assert_true(!of_x.own_went_back || x.role == ROLE_SECONDARY || x.leg == LEG_SYNCING);
                struct sync_judgement then = judge(&mx, &my);
                assert_string_not_equal(then.rule, "older-copy");
                assert_string_not_equal(then.rule, "served-an-older-copy");
                back++;
            } else if (strcmp(of_x.rule, "served-an-older-copy") == 0 && y.leg == LEG_UP_TO_DATE &&
                       y.role == ROLE_SECONDARY && x.role == ROLE_SECONDARY) {
                struct hello lost = given_up(&x, &y);
                lost.peer_age = 0;
                struct sync_judgement then = judge(&y, &lost);
                assert_true(then.verdict == SYNC_SOURCE || y.went_back);
                served++;
            }
        }
    }
    assert_true(flows > 0 && back > 0 && served > 0);
}

/* One node's states, by a number: what it was part of, and what has happened to it. */
#define STATES (5 * 2 * 2 * 2 * 2 * 2 * 2 * 2 * 2 * 4)

static struct hello state_of(struct hello h, unsigned n, uint64_t own_tag)
{
    unsigned past = n % 5;
    n /= 5;
    if (past == 0) {
        h.history = (struct history) { 0 };
        h.epoch = 0;
    }
    if (past >= 2)
        part_of(&h, 3, past == 4 ? own_tag : 33); /* 4: alone, so that two of them went apart */
    if (past == 3)
        part_of(&h, 4, 44);
    h.role = n % 2 ? ROLE_PRIMARY : ROLE_SECONDARY;
    n /= 2;
    h.lost_power = n % 2;
    n /= 2;
    h.differs = n % 2;
    n /= 2;
    h.peer_failed = n % 2;
    n /= 2;
    h.dirty_bytes = n % 2 ? 8192 : 0;
    n /= 2;
    h.full = n % 2;
    n /= 2;
    h.was_primary = n % 2;
    h.served_epoch = h.was_primary ? h.epoch : h.epoch / 2;
    n /= 2;
    if (n % 2)
        h.base = (struct history_entry) { 0 };
    n /= 2;
    static const enum leg_state legs[] = { LEG_UP_TO_DATE, LEG_SYNCING, LEG_FAILED, LEG_FAILED };
    h.leg = legs[n];
    h.diskless = n == 3 && h.role == ROLE_PRIMARY && h.history.count > 0;
    return h;
}

/* Of equal histories, with nobody primary and both legs whole: who may lack what was acknowledged overwrites none that
 * has it; nor does who was found to differ overwrite one of which nothing worse is known. */
static void assert_nothing_worse(const struct hello *from, const struct hello *to)
{
    bool from_lacks = from->lost_power || to->peer_failed, to_lacks = to->lost_power || from->peer_failed;
    assert_false(from_lacks && !to_lacks);
    bool same_term = from->served_epoch > 0 && from->served_epoch == to->served_epoch;
    assert_false(from_lacks && to_lacks && same_term && from->history.count > 0);
    if (from_lacks == to_lacks)
        assert_false(from->differs && !to->differs);
    if (from_lacks == to_lacks && from->differs == to->differs && from->history.count > 0)
        assert_true(from->served_epoch >= to->served_epoch);
    else if (from->history.count > 0)
        assert_false(from->differs);
}

static void all_pairs_of_states(void **state)
{
    (void)state;
    struct hello x0 = a(), y0 = b();
    pair_up(&x0, &y0);
    unsigned long verdicts[SYNC_THROUGH + 1] = { 0 }, resolved = 0;
    for (unsigned i = 0; i < STATES; i++) {
        struct hello x = state_of(x0, i, 101);
        for (unsigned k = 0; k < STATES; k++) {
            struct hello y = state_of(y0, k, 102);
            struct sync_judgement j = judge(&x, &y);
            verdicts[j.verdict]++;
            enum history_relation r = history_relate(&x.history, &y.history);
            if (j.verdict == SYNC_REFUSE) {
                /* Who is given up gets what the other has, and nothing else stands against it. */
                if (j.resolvable && x.role == ROLE_SECONDARY && x.leg != LEG_FAILED && y.leg == LEG_UP_TO_DATE) {
                    struct hello lost = given_up(&x, &y);
                    assert_int_equal(judge(&y, &lost).verdict, SYNC_SOURCE);
                    resolved++;
                }
                continue;
            }
            /* Data never flows from the older to the newer leg, from an inconsistent one, or to a primary. */
            assert_true(r != HISTORY_DIVERGED && r != HISTORY_UNRELATED);
            if (j.verdict == SYNC_THROUGH) {
                /* The only leg has everything: it was part of the decree that makes it so, or of the one before. */
                assert_true(x.diskless != y.diskless);
                const struct hello *without = x.diskless ? &x : &y;
                const struct hello *with = without == &x ? &y : &x;
                assert_int_equal(with->leg, LEG_UP_TO_DATE);
                assert_int_equal(with->role, ROLE_SECONDARY);
                assert_false(with->lost_power || with->differs || without->peer_failed);
                assert_true(with->epoch <= without->epoch);
                enum history_relation has = history_relate(&with->history, &without->history);
                assert_true(has == HISTORY_EQUAL || has == HISTORY_ANCESTOR);
                if (has == HISTORY_ANCESTOR) {
                    assert_int_equal(without->history.count, with->history.count + 1);
                    assert_false(with->full || (with->was_primary && with->dirty_bytes));
                }
                continue;
            }
            assert_false(x.leg == LEG_FAILED || y.leg == LEG_FAILED);
            if (j.verdict == SYNC_SOURCE || j.verdict == SYNC_TARGET) {
                const struct hello *from = j.verdict == SYNC_SOURCE ? &x : &y;
                const struct hello *to = from == &x ? &y : &x;
                enum history_relation d = history_relate(&from->history, &to->history);
                assert_true(d == HISTORY_DESCENDANT || d == HISTORY_EQUAL);
                assert_true(from->leg == LEG_UP_TO_DATE);
                assert_int_equal(to->role, ROLE_SECONDARY);
                if (d == HISTORY_EQUAL && to->leg == LEG_UP_TO_DATE && from->role == ROLE_SECONDARY)
                    assert_nothing_worse(from, to);
                /* A leg that was promoted by force half-way overwrites none but another half-made one. */
                if (d == HISTORY_DESCENDANT && history_entry_is_none(from->base))
                    assert_int_equal(to->leg, LEG_SYNCING);
                if (from->full || to->full || (d == HISTORY_DESCENDANT && history_entry_is_none(from->base)))
                    assert_true(j.full);
            } else {
                /* Nothing is left over silently. A pair that is just being made has nothing that power could take. */
                if (j.verdict == SYNC_CONNECT) {
                    assert_int_equal(r, HISTORY_EQUAL);
                    assert_false(x.lost_power || y.lost_power || x.differs || y.differs);
                }
                assert_int_equal(x.dirty_bytes + y.dirty_bytes, 0);
                assert_false(x.full || y.full);
                assert_true(x.leg == LEG_UP_TO_DATE && y.leg == LEG_UP_TO_DATE);
            }
        }
    }
    for (unsigned v = 0; v <= SYNC_THROUGH; v++) {
        if (v != SYNC_PAIR)
            assert_true(verdicts[v] > 0);
    }
    assert_true(resolved > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_belongs_to_whom),
        cmocka_unit_test(who_is_configured_otherwise),
        cmocka_unit_test(a_registers_primary_meets_one_without),
        cmocka_unit_test(who_is_primary),
        cmocka_unit_test(what_one_lacks_the_other_gives),
        cmocka_unit_test(what_a_person_gives_up_gets_everything_from_the_other),
        cmocka_unit_test(equal_histories_reconcile_what_is_left),
        cmocka_unit_test(two_that_were_promoted_apart_wait_for_a_person),
        cmocka_unit_test(what_a_verify_found_weighs_less_than_a_loss),
        cmocka_unit_test(a_primary_without_a_leg_serves_through_the_other),
        cmocka_unit_test(a_target_leaves_the_set_first),
        cmocka_unit_test(a_syncing_leg_only_takes),
        cmocka_unit_test(a_leg_that_went_back_is_no_source),
        cmocka_unit_test(all_pairs_of_ages),
        cmocka_unit_test(all_pairs_of_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
