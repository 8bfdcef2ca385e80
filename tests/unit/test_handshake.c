/* The handshake table: all pairs of states that two nodes can present, judged from both ends. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

#include "repl/base/units.h"
#include "repl/sync/handshake.h"

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
    };
    snprintf(h.node, sizeof(h.node), "%s", node);
    snprintf(h.peer, sizeof(h.peer), "%s", peer);
    return h;
}

static struct hello a(void) { return fresh("paris-a", "paris-b", 1); }
static struct hello b(void) { return fresh("paris-b", "paris-a", 2); }

static void pair_up(struct hello *x, struct hello *y)
{
    x->peer_leg_id = y->leg_id;
    y->peer_leg_id = x->leg_id;
    x->volume_id = y->volume_id = make_id(9);
    x->size_bytes = y->size_bytes = GIB;
    x->pristine = y->pristine = false;
}

static void expect(const struct hello *x, const struct hello *y, const char *rule, enum sync_verdict verdict)
{
    struct sync_judgement from_x, from_y;
    sync_judge(x, y, &from_x);
    sync_judge(y, x, &from_y);
    assert_string_equal(from_x.rule, rule);
    assert_string_equal(from_y.rule, rule);
    assert_int_equal(from_x.verdict, verdict);
    assert_int_equal(from_x.text[0] == 0, verdict != SYNC_REFUSE);
}

static void each_rule_has_its_case(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    expect(&x, &y, "both-fresh", SYNC_PAIR);

    x.version++;
    expect(&x, &y, "other-version", SYNC_REFUSE);
    x = a();
    strcpy(y.volume, "silver");
    expect(&x, &y, "other-volume", SYNC_REFUSE);
    y = fresh("paris-c", "paris-a", 2);
    expect(&x, &y, "other-nodes", SYNC_REFUSE);
    y = b();
    y.window_bytes = 4096;
    expect(&x, &y, "window-too-small", SYNC_REFUSE);
    y = b();
    y.leg_id = x.leg_id;
    expect(&x, &y, "same-leg", SYNC_REFUSE);

    y = b();
    pair_up(&x, &y);
    expect(&x, &y, "paired", SYNC_CONNECT);
    y.volume_id = make_id(8);
    y.peer_leg_id = make_id(7);
    expect(&x, &y, "other-volume-id", SYNC_REFUSE);

    x = a(), y = b();
    pair_up(&x, &y);
    x.role = ROLE_PRIMARY;
    x.epoch = 3, y.epoch = 3;
    expect(&x, &y, "paired", SYNC_CONNECT);
    y.epoch = 4;
    expect(&x, &y, "deposed", SYNC_REFUSE);
    y.role = ROLE_PRIMARY;
    expect(&x, &y, "deposed", SYNC_REFUSE);
    y.epoch = 3;
    expect(&x, &y, "two-primaries", SYNC_REFUSE);
    y.role = ROLE_SECONDARY;
    y.leg = LEG_FAILED;
    expect(&x, &y, "leg-failed", SYNC_REFUSE);
    y.leg = LEG_UP_TO_DATE;
    y.lost_power = true;
    expect(&x, &y, "lost-power", SYNC_REFUSE);
    y.lost_power = false;
    x.unclean_primary = true;
    expect(&x, &y, "unclean-primary", SYNC_REFUSE);
    x.unclean_primary = false;
    y.size_bytes = 2 * GIB;
    expect(&x, &y, "other-size", SYNC_REFUSE);
    y.size_bytes = x.size_bytes;
    x.served_block_bytes = 512;
    y.block_bytes = 4096;
    expect(&x, &y, "block-too-large", SYNC_REFUSE);
    x.served_block_bytes = 4096;
    expect(&x, &y, "paired", SYNC_CONNECT);

    /* A leg made anew beside one that has been written to. */
    x = a(), y = b();
    pair_up(&x, &y);
    y = b();
    y.leg_id = make_id(3);
    expect(&x, &y, "strangers", SYNC_REFUSE);
    /* Adopted data beside zeroes. */
    x = a(), y = b();
    x.pristine = false;
    expect(&x, &y, "strangers", SYNC_REFUSE);
}

static void only_the_deposed_primary_steps_down(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    struct sync_judgement j;
    pair_up(&x, &y);
    x.role = ROLE_PRIMARY;
    x.epoch = 3, y.epoch = 4;
    sync_judge(&x, &y, &j);
    assert_true(j.own_deposed);
    sync_judge(&y, &x, &j);
    assert_false(j.own_deposed);
}

/* A crash between the two records of a pairing must not make the legs strangers. */
static void half_paired_legs_pair(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    x.peer_leg_id = y.leg_id;
    x.pristine = false;
    x.volume_id = make_id(9);
    x.size_bytes = GIB / 2;
    expect(&x, &y, "both-fresh", SYNC_PAIR);
    struct sync_judgement j;
    sync_judge(&y, &x, &j);
    assert_true(id_equal(j.volume_id, x.volume_id));
    assert_int_equal(j.size_bytes, GIB / 2);
}

static void the_smaller_backing_decides(void **state)
{
    (void)state;
    struct hello x = a(), y = b();
    struct sync_judgement j, k;
    y.capacity_bytes = GIB / 2;
    sync_judge(&x, &y, &j);
    sync_judge(&y, &x, &k);
    assert_int_equal(j.size_bytes, GIB / 2);
    assert_int_equal(k.size_bytes, GIB / 2);
    assert_true(id_equal(j.volume_id, k.volume_id) && !id_is_none(j.volume_id));
    x.size_bytes = GIB;
    expect(&x, &y, "other-size", SYNC_REFUSE);
}

/* What a leg can be, as far as the table looks. */
static struct hello vary(struct hello h, unsigned bits, struct id other_leg)
{
    h.role = bits & 1 ? ROLE_PRIMARY : ROLE_SECONDARY;
    h.epoch = 5 + (bits >> 1 & 1);
    h.leg = bits & 4 ? LEG_UP_TO_DATE : LEG_FAILED;
    h.pristine = bits & 8;
    h.lost_power = bits & 16;
    h.unclean_primary = bits & 32;
    h.size_bytes = bits & 64 ? GIB : 0;
    h.volume_id = bits & 128 ? make_id(9) : make_id(0);
    h.peer_leg_id = bits & 256 ? (bits & 512 ? other_leg : make_id(77)) : make_id(0);
    return h;
}

static void both_ends_always_agree(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 1024; i++) {
        struct hello x = vary(a(), i, b().leg_id);
        for (unsigned k = 0; k < 1024; k++) {
            struct hello y = vary(b(), k, a().leg_id);
            struct sync_judgement from_x, from_y;
            sync_judge(&x, &y, &from_x);
            sync_judge(&y, &x, &from_y);
            if (from_x.verdict != from_y.verdict || from_x.rule != from_y.rule)
                fail_msg("states %u and %u: %s here, %s there", i, k, from_x.rule, from_y.rule);
            if (from_x.verdict == SYNC_REFUSE)
                continue;
            assert_true(id_equal(from_x.volume_id, from_y.volume_id));
            assert_int_equal(from_x.size_bytes, from_y.size_bytes);
            assert_int_equal(from_x.epoch, from_y.epoch);
            /* Legs that may differ never go on. */
            assert_true(x.leg == LEG_UP_TO_DATE && y.leg == LEG_UP_TO_DATE);
            assert_false(x.lost_power || y.lost_power || x.unclean_primary || y.unclean_primary);
            assert_false(x.role == ROLE_PRIMARY && y.role == ROLE_PRIMARY);
            bool x_has_data = !x.pristine && !id_equal(x.peer_leg_id, y.leg_id);
            bool y_has_data = !y.pristine && !id_equal(y.peer_leg_id, x.leg_id);
            assert_false(x_has_data || y_has_data);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rule_has_its_case), cmocka_unit_test(only_the_deposed_primary_steps_down),
        cmocka_unit_test(half_paired_legs_pair),  cmocka_unit_test(the_smaller_backing_decides),
        cmocka_unit_test(both_ends_always_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
