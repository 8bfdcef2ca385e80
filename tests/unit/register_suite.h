/* What a register has to do, of whatever kind: one suite, run against a URL. */
#pragma once

#include "repl/witness/register.h"

#define SUITE_TIMEOUT_MS 60000

/* A node's client, which waits for its answers. */
struct asker;

struct asker *asker_open(const char *url, unsigned timeout_ms);
void asker_close(struct asker *a);

/* Asks and waits. */
struct register_answer asker_ask(struct asker *a, uint32_t slot, const struct register_request *request);

/* Without waiting; asker_wait() gives the answer. */
void asker_begin(struct asker *a, uint32_t slot, const struct register_request *request);
struct register_answer asker_wait(struct asker *a, uint32_t slot);

#define NODE_A "paris-a"
#define NODE_B "paris-b"
enum { SET_A = 1, SET_B = 2, SET_BOTH = 3 };

struct id make_id(uint8_t fill);
struct decree make_decree(uint64_t epoch, uint64_t tag, enum decree_cause cause, const char *primary, unsigned set);
struct register_request make_read(const char *volume, const char *node, uint64_t known);
struct register_request make_swap(const char *volume, const char *node, const struct decree *expected,
                                  struct decree proposal);

/* A volume's name that was never used. */
const char *new_volume(char out[NAME_BYTES_MAX]);

/* The first decree of a volume, and both nodes have told what they know. */
struct decree make_first(struct asker *a, const char *volume);

/* Runs all of it. Returns how many tests failed. */
int register_suite_run(const char *url);
