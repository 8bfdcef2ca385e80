/* Two engines and the register that they ask, joined by hand. */
#include "tests/unit/engine_world.h"

#include <string.h>

const struct node_options automatic = {
    .has_peer = true,
    .alone_after_ns = DEAD_AFTER_NS,
    .failover = { .has_register = true, .automatic = true, .dead_after_ns = DEAD_AFTER_NS },
};

void answer_with(struct node *n, enum register_outcome outcome)
{
    assert_non_null(n->asked);
    n->asked = NULL;
    step(n, (struct event) { .kind = EV_REGISTER,
                             .answer = &(struct register_answer) { .outcome = outcome, .reason = "test" } });
}

static void ask_register(struct world *w, struct node *n, struct register_answer *a)
{
    assert_non_null(n->asked);
    uint64_t age = n->asked->leg_age;
    assert_true(age > 0 && age <= n->on_disk.age); /* it tells none that its disk does not have */
    register_row_ask(&w->row, n->asked, a);
    if (register_tells_age(n->asked, a))
        register_row_take_age(&w->row, n->asked->node, age);
    if (a->outcome == REGISTER_DONE)
        memcpy(w->note, n->asked->note, sizeof(w->note));
}

/* The register answers. */
void answer(struct world *w, struct node *n)
{
    struct register_answer a;
    if (n == w->cut_off) {
        answer_with(n, REGISTER_UNREACHABLE);
        return;
    }
    ask_register(w, n, &a);
    n->asked = NULL;
    step(n, (struct event) { .kind = EV_REGISTER, .answer = &a });
}

/* It carries out what it is asked, and the answer is lost. */
void lose_answer(struct world *w, struct node *n)
{
    struct register_answer a;
    ask_register(w, n, &a);
    answer_with(n, REGISTER_UNREACHABLE);
}

void run_until_asks(struct world *w, struct node *n, enum decree_cause cause)
{
    struct node *other = n == &w->a ? &w->b : &w->a;
    while (!n->asked || n->asked->ask == REGISTER_READ) {
        if (n->asked)
            answer(w, n);
        else if (other->asked)
            answer(w, other);
        else
            assert_true(run_step(&w->a, &w->b));
    }
    assert_int_equal(n->asked->proposal.cause, cause);
}

/* All that is under way on one node comes to its end. */
void calm(struct world *w, struct node *n)
{
    while (n->asked || n->meta_pending || n->disk_count) {
        metas_done(n);
        disks_done(n);
        if (n->asked)
            answer(w, n);
    }
}

void calm_both(struct world *w)
{
    do {
        run(&w->a, &w->b);
        calm(w, &w->a);
        calm(w, &w->b);
    } while (w->a.sent_count || w->b.sent_count || w->a.asked || w->b.asked);
}

void calm_without_register(struct node *n)
{
    while (n->asked || n->meta_pending || n->disk_count) {
        metas_done(n);
        disks_done(n);
        if (n->asked)
            answer_with(n, REGISTER_UNREACHABLE);
    }
}

/* False: one of the two ends it. */
bool meet(struct world *w)
{
    hellos(&w->a, &w->b);
    calm(w, &w->a);
    calm(w, &w->b);
    if (!w->a.dropped && !w->b.dropped && make_ready(&w->a, &w->b)) {
        session_up(&w->a, &w->b);
        calm_both(w);
        if (!w->a.dropped && !w->b.dropped)
            return true;
    }
    disconnect_nodes(&w->a, &w->b);
    calm_both(w);
    return false;
}

void meet_at_last(struct world *w)
{
    for (unsigned i = 0; i < 10; i++)
        if (meet(w))
            return;
    fail_msg("no session: %s / %s", w->a.text, w->b.text);
}

void replace_disk(struct node *n)
{
    memset(n->ring, 0, LOG_BLOCKS * META_PAGE_BYTES);
    memset(n->bitmap, 0, META_PAGE_BYTES);
    memset(n->content, 0, DISK_BYTES);
    memset(n->stable, 0, DISK_BYTES);
    n->on_disk = (struct superblock) { .sequence = 1, .leg = LEG_UP_TO_DATE, .pristine = true, .leg_id = id_of(9) };
    node_restart(n, true);
}

void join_the_new_leg(struct world *w)
{
    unsigned tries = 0;
    for (;;) {
        calm_without_register(&w->a);
        hellos(&w->a, &w->b);
        if (!w->a.dropped && !w->b.dropped)
            break;
        disconnect_nodes(&w->a, &w->b);
        calm_without_register(&w->a);
        tick(&w->a, w->a.now_ns + DEAD_AFTER_NS / 4);
        assert_true(++tries < 20);
    }
    calm_without_register(&w->a);
    calm_without_register(&w->b);
    connect_judged(&w->a, &w->b);
}

void wait_ns(struct world *w, struct node *n, uint64_t ns)
{
    uint64_t until_ns = n->now_ns + ns;
    calm(w, n);
    while (n->now_ns < until_ns) {
        uint64_t next_ns = engine_deadline_ns(n->engine);
        tick(n, next_ns > n->now_ns && next_ns < until_ns ? next_ns : until_ns);
        calm(w, n);
    }
}

uint64_t age_told(const struct world *w, const char *node)
{
    for (unsigned i = 0; i < REGISTER_TOLD_MAX; i++)
        if (strcmp(w->row.ages[i].node, node) == 0)
            return w->row.ages[i].age;
    return 0;
}

bool is_member(const struct world *w, const struct node *n)
{
    return decree_has_member(&w->row.decree, n->on_disk.leg_id);
}

bool is_named(const struct world *w, const struct node *n)
{
    return strcmp(w->row.decree.primary, n->index ? "paris-b" : "paris-a") == 0;
}

struct world *open_pair(const struct node_options *options)
{
    static struct world w;
    memset(&w, 0, sizeof(w));
    register_row_start(&w.row, "gold42", (struct id) { { 0 } }, NULL);
    node_open_with(&w.a, 0, options);
    node_open_with(&w.b, 1, options);
    connect_nodes(&w.a, &w.b);
    calm_both(&w);
    return &w;
}

struct world *open_world(const struct node_options *options)
{
    struct world *w = open_pair(options);
    order(&w->a, EV_PROMOTE, false);
    calm_both(w);
    assert_true(w->a.serving);
    assert_true(w->a.dropped); /* the first decree is told by a hello */
    disconnect_nodes(&w->a, &w->b);
    meet_at_last(w);
    assert_int_equal(w->row.decree.cause, DECREE_FIRST);
    assert_true(is_named(w, &w->a) && is_member(w, &w->a) && is_member(w, &w->b));
    assert_true(w->a.on_disk.registered && w->b.on_disk.registered);
    assert_in_sync(&w->a, &w->b);
    return w;
}

void close_world(struct world *w)
{
    node_close(&w->a);
    node_close(&w->b);
}
