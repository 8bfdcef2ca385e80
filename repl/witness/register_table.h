/* One volume's row in the embedded witness, and what it answers (docs/FAILOVER.md). Pure: the witness stores what has
 * changed before it sends the answer; the simulator does as it likes.
 *
 * The rules, in the order in which they are looked at:
 *   cannot-be      a request that no node in its right mind sends: REFUSED
 *   other-volume   the row belongs to another volume of the same name: REFUSED
 *   older          the node knows of a higher epoch than stands here: OLDER
 *   own-tag        what is proposed stands already: DONE
 *   swapped        what the swap expects does not stand any more: LOST
 *   confirmed-anew since its start the register has not heard of both nodes what they know, or one knows of a higher
 *                  epoch: UNCONFIRMED
 * A READ tells the register what the node knows, as a SWAP does: that is how confirmed-anew ends. Until then its answer
 * is UNCONFIRMED, too, with what stands, so that nobody asks for a swap that cannot be carried out.
 *
 * Beside them, and with no say in any outcome:
 *   leg-age        the register remembers the highest age of its leg that each node has told, and answers with it */
#pragma once

#include "repl/core/decree.h"

#define REGISTER_EPOCH_MAX INT64_MAX
#define REGISTER_AGE_MAX INT64_MAX
#define REGISTER_TOLD_MAX 4 /* nodes that are remembered: two; more while one is being replaced by another */

struct register_told {
    char node[NAME_BYTES_MAX]; /* empty: free */
    uint64_t epoch;            /* the highest that it told */
};

struct register_age {
    char node[NAME_BYTES_MAX]; /* empty: free */
    uint64_t age;              /* the highest that it told of its leg */
};

struct register_row {
    /* What is stored. */
    char volume[NAME_BYTES_MAX];
    struct id volume_id;                         /* none until the first decree */
    struct decree decree;                        /* its epoch is 0: there is none */
    struct register_age ages[REGISTER_TOLD_MAX]; /* of volume_id; the one that grew last comes first */
    /* What is known since the start. */
    bool confirmed;                               /* swaps may be carried out; it stays so */
    uint64_t highest_told;                        /* by anybody; above the decree's: this register was rolled back */
    struct register_told told[REGISTER_TOLD_MAX]; /* the one who told last comes first */
};

/* The row as it is when the register has started: `decree` as stored, nothing confirmed, no ages yet. NULL: there is no
 * decree. */
void register_row_start(struct register_row *row, const char *volume, struct id volume_id, const struct decree *decree);

/* Answers a request for this row's volume. True: decree and volume_id have changed, and are to be on stable storage
 * before the answer leaves; if that fails, the row goes back to what it was, and the proposal was not carried out.
 *
 * `known_epoch` counts decrees of this register: a node that never was told one by any sends 0. `serving_alone` counts
 * in a READ only: in a SWAP one is under way. */
bool register_row_ask(struct register_row *row, const struct register_request *request, struct register_answer *answer);

/* Whether the request tells an age that its answer shows to be news. It has to be of the volume whose decree stands: of
 * one without a decree nobody is promoted by the register's word, and nothing is remembered. */
bool register_tells_age(const struct register_request *request, const struct register_answer *answer);

/* Remembers an age, 1 to REGISTER_AGE_MAX; the node whose age grew longest ago makes room. False: it is none that is
 * higher, and nothing has changed. What is taken here the next answer tells, so that who stores ages stores it first,
 * or puts `ages` back. */
bool register_row_take_age(struct register_row *row, const char *node, uint64_t age);

/* An operator's word instead of that of a node that is gone. False, with what to do instead in `reason`, if a node is
 * known to know better. */
bool register_row_confirm(struct register_row *row, char reason[REGISTER_REASON_BYTES]);

/* What is wrong with a request, as a constant text, whatever the row; NULL: nothing. For the wire's edge, and for
 * registers of another kind. */
const char *register_request_fault(const struct register_request *request);
