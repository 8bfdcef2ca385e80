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
    char note[REGISTER_REASON_BYTES]; /* that the last decree came with */
    const struct node *cut_off;       /* what it asks does not arrive */
};

void answer_with(struct node *n, enum register_outcome outcome);
/* The register answers. */
void answer(struct world *w, struct node *n);
/* It carries out what it is asked, and the answer is lost. */
void lose_answer(struct world *w, struct node *n);

/* All else comes to its end, step by step, up to the moment at which this node asks for a decree. */
void run_until_asks(struct world *w, struct node *n, enum decree_cause cause);

/* All that is under way on one node comes to its end. */
void calm(struct world *w, struct node *n);
void calm_both(struct world *w);
/* All that is under way but for the register, which does not answer. */
void calm_without_register(struct node *n);

/* False: one of the two ends it. */
bool meet(struct world *w);
void meet_at_last(struct world *w);

/* Its disk is thrown away, and a new one is in its place. */
void replace_disk(struct node *n);
/* B's new leg becomes a target, while the set has the old one: the register does not answer for so long. */
void join_the_new_leg(struct world *w);

void wait_ns(struct world *w, struct node *n, uint64_t ns);

/* The highest that the register remembers; 0: none. */
uint64_t age_told(const struct world *w, const char *node);

bool is_member(const struct world *w, const struct node *n);
bool is_named(const struct world *w, const struct node *n);

/* Fresh, and in session; there is no decree. */
struct world *open_pair(const struct node_options *options);
/* A pair that has served, with its first decree. */
struct world *open_world(const struct node_options *options);
void close_world(struct world *w);
