/* Two engines and the register that they ask, joined by hand: the test answers when it sees fit. */
#pragma once

#include "repl/witness/register_table.h"
#include "tests/unit/engine_pair.h"

#define DEAD_AFTER_NS (2 * NS_PER_S)
#define TAKE_AFTER_NS (DEAD_AFTER_NS + DEAD_AFTER_NS / 4)

extern const struct node_options automatic; /* `failover: automatic` */

struct world {
    struct node a, b;
    struct register_row row;
    uint64_t leg_age[2]; /* what the register has heard of the nodes' legs; reset: it has forgotten */
};

void answer_with(struct node *n, enum register_outcome outcome);
/* The register answers. */
void answer(struct world *w, struct node *n);
/* It carries out what it is asked, and the answer is lost. */
void lose_answer(struct world *w, struct node *n);

/* All that is under way on one node comes to its end. */
void calm(struct world *w, struct node *n);
void calm_both(struct world *w);

/* False: one of the two ends it. */
bool meet(struct world *w);
void meet_at_last(struct world *w);

void wait_ns(struct world *w, struct node *n, uint64_t ns);

bool is_member(const struct world *w, const struct node *n);
bool is_named(const struct world *w, const struct node *n);

/* A pair that has served, with its first decree. */
struct world *open_world(const struct node_options *options);
void close_world(struct world *w);
