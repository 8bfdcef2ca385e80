/* The messages between a node and the embedded witness as plain values: what arrives is checked here, once. */
#pragma once

#include "proto/witness_wire.h"
#include "repl/core/decree.h"

/* The message without its prefix. Returns 0, or a negative errno with the reason, a constant text: -EPROTO: not such a
 * message; -EPROTONOSUPPORT: of another version, and only `number` is set. Names and texts are terminated, and hold
 * nothing that would spoil a line of a log; whether the request makes sense is register_request_fault()'s. */
int witness_question_decode(const uint8_t *bytes, size_t count, uint64_t *number, struct register_request *out,
                            const char **why);

/* The same; the answer's decree makes sense, and its outcome is one that goes with a decree or without. */
int witness_answer_decode(const uint8_t *bytes, size_t count, uint64_t *number, struct register_answer *out,
                          const char **why);

/* Prefix and message into `out`, which has room for WITNESS_FRAME_BYTES_MAX. Returns the bytes used, never 0. */
size_t witness_question_encode(uint8_t *out, uint64_t number, const struct register_request *request);
size_t witness_answer_encode(uint8_t *out, uint64_t number, const struct register_answer *answer);

/* False: no cause is called so. */
bool decree_cause_from_name(const char *name, enum decree_cause *out);

/* Letters, digits, '.', '_' and '-', at most NAME_BYTES_MAX - 1 of them. */
bool witness_name_is_valid(const char *name);
