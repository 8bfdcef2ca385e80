/* What a key in etcd, as it was read, means for what was asked: the embedded witness's rules (register_table.h) on
 * etcd's storage. etcd's members outlive each other, so that there is no confirmed-anew. */
#pragma once

#include "repl/core/decree.h"
#include "repl/witness/etcd_gateway.h"

/* True: the proposal is to be put in place of just this; the answer is then the one for when that has succeeded. */
bool etcd_judge(const struct register_request *request, const struct etcd_stored *stored,
                struct register_answer *answer);

/* Whether the age that the request tells is to be put in place of just the one that was read: by what was answered, it
 * is higher. What is none of Lockstep's makes room; what is of a later version stays. */
bool etcd_age_is_due(const struct register_request *request, const struct etcd_stored *stored,
                     const struct register_answer *answer);
