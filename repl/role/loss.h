/* What an operator's order gives up, in words and in numbers where they are known: for him, for the log, and for the
 * register's history (docs/FAILOVER.md, "Forced promotion"). Pure. */
#pragma once

#include "repl/core/decree.h"
#include "repl/role/role.h"

#define LOSS_TEXT_BYTES REGISTER_REASON_BYTES

/* What a node knows of a leg that is promoted by force. */
struct loss_facts {
    const char *node;
    const char *peer; /* NULL: a volume of one node */
    struct id leg_id; /* none: there is no leg to ask, and the node's name has to do */
    enum leg_state leg;
    enum leg_doubt doubt;      /* against a leg that is up to date else */
    uint64_t epoch;            /* the last that it has, */
    uint64_t lsn;              /* and the last change */
    uint64_t consistent_epoch; /* LEG_SYNCING: of its last consistent state; 0: it has had none on record */
    uint64_t consistent_lsn;
    uint64_t to_come_bytes;      /* LEG_SYNCING: when it was last connected */
    uint64_t peer_changed_bytes; /* split brain: by the peer alone, at the most, when it was heard last; 0: not known */
    const struct decree *stands; /* in the register; NULL: there is none */
};

/* A sentence without its end; what does not fit is cut off. */
void loss_of_force(const struct loss_facts *f, char text[LOSS_TEXT_BYTES]);

/* The same of a node that puts a decree over `stands`, which is older than `epoch`, the highest that it knows. */
void loss_of_adopting(const struct decree *stands, uint64_t epoch, char text[LOSS_TEXT_BYTES]);
