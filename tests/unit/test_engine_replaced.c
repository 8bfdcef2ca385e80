/* A disk that was taken out, replaced, and comes back: its history may be equal to that of a leg that has moved on. */
#include "tests/unit/engine_pair.h"

#include <stdlib.h>
#include <string.h>

static const struct node_options strict = { .has_peer = true, .alone_after_ns = ENGINE_NEVER_ALONE };

/* A disk that is in no machine. */
struct shelf {
    struct superblock sb;
    uint8_t ring[LOG_BLOCKS * 4096], bitmap[4096], content[DISK_BYTES], stable[DISK_BYTES];
};

static struct shelf *take_out(struct node *n, struct node *other)
{
    order(n, EV_DETACH, false);
    run(n, other);
    disconnect_nodes(n, other);
    run(n, n);
    assert_int_equal(n->order_result, 0);
    assert_false(n->on_disk.attached);
    struct shelf *s = malloc(sizeof(*s));
    assert_non_null(s);
    s->sb = n->on_disk;
    memcpy(s->ring, n->ring, sizeof(s->ring));
    memcpy(s->bitmap, n->bitmap, sizeof(s->bitmap));
    memcpy(s->content, n->content, sizeof(s->content));
    memcpy(s->stable, n->stable, sizeof(s->stable));
    return s;
}

static void put_back(struct shelf *s, struct node *n)
{
    n->on_disk = s->sb;
    memcpy(n->ring, s->ring, sizeof(s->ring));
    memcpy(n->bitmap, s->bitmap, sizeof(s->bitmap));
    memcpy(n->content, s->content, sizeof(s->content));
    memcpy(n->stable, s->stable, sizeof(s->stable));
    node_restart(n, true);
    free(s);
}

/* B's disk is taken out while nobody is primary; a fresh one gets everything in its place. Then A is primary. */
static struct shelf *open_and_replace(struct node *a, struct node *b, bool b_was_primary)
{
    node_open_with(a, 0, &strict);
    node_open_with(b, 1, &strict);
    connect_nodes(a, b);
    struct node *first = b_was_primary ? b : a, *second = b_was_primary ? a : b;
    promote(first, second);
    write_block(first, 0, 1);
    run(a, b);
    order(first, EV_DEMOTE, false);
    run(a, b);
    assert_int_equal(first->order_result, 0);
    struct shelf *old = take_out(b, a);
    node_close(b);
    node_open_with(b, 1, &strict);
    b->on_disk.leg_id = id_of(9);
    node_restart(b, true);
    connect_nodes(a, b);
    run(a, b);
    assert_in_sync(a, b);
    promote(a, b);
    return old;
}

static void an_old_disk_is_no_leg_of_today(void **state)
{
    for (int was_primary = 0; was_primary < 2; was_primary++) {
        for (int killed = 0; killed < 2; killed++) {
            struct node a, b;
            struct shelf *old = open_and_replace(&a, &b, was_primary);
            write_block(&a, 0, 2);
            run(&a, &b);
            assert_int_equal(a.complete_result, 0);
            disconnect_nodes(&a, &b);
            if (killed)
                node_restart(&a, true); /* its log has bits: one of the two has to be the source */
            put_back(old, &b);
            connect_nodes(&a, &b);
            run(&a, &b);
            assert_in_sync(&a, &b);
            assert_int_equal(a.content[0], 2);
            assert_int_equal(b.content[0], 2);
            node_close(&a);
            node_close(&b);
        }
    }
}

/* Paired and nothing more, so that both of B's disks got the same history from A; or A's resync to the new one was
 * never ended. A has moved on, and leads; but not if it may have lost what both had. */
static void who_has_moved_on_is_the_source_or_nobody(void **state)
{
    for (int lost_power = 0; lost_power < 2; lost_power++) {
        struct node a, b;
        node_open_with(&a, 0, &strict);
        node_open_with(&b, 1, &strict);
        connect_nodes(&a, &b);
        promote(&a, &b);
        write_block(&a, 0, 2);
        run(&a, &b);
        struct shelf *old = take_out(&b, &a);
        order(&a, EV_DEMOTE, false);
        run(&a, &b);
        assert_int_equal(a.order_result, 0);
        node_close(&b);
        node_open_with(&b, 1, &strict);
        b.on_disk.leg_id = id_of(9);
        node_restart(&b, true);
        connect_nodes(&a, &b);
        assert_true(run_until_sent(&a, &b, &b, FRAME_SYNC_ASK));
        disconnect_nodes(&a, &b);
        if (lost_power)
            node_lose_power(&a);
        put_back(old, &b);
        hellos(&a, &b);
        assert_true(a.refused == lost_power && b.refused == lost_power);
        if (lost_power) {
            assert_non_null(strstr(a.text, "resolve gold42 --discard local"));
        } else {
            connect_judged(&a, &b);
            run(&a, &b);
            assert_in_sync(&a, &b);
            assert_int_equal(b.content[0], 2);
        }
        node_close(&a);
        node_close(&b);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_old_disk_is_no_leg_of_today),
        cmocka_unit_test(who_has_moved_on_is_the_source_or_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
