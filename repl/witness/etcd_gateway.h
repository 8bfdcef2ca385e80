/* etcd's JSON gateway: what is sent to it, and what it answers
 * (etcd's Documentation/dev-guide/api_grpc_gateway.md; 3.4 and later have it under /v3/). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/core/decree.h"
#include "repl/witness/etcd_value.h"

#define ETCD_RANGE_PATH "/v3/kv/range"
#define ETCD_TXN_PATH "/v3/kv/txn"
#define ETCD_BODY_BYTES_MAX (20 * 1024) /* what is sent */
#define ETCD_ANSWER_BYTES_MAX (64 * 1024)

/* Keys as they stood when a member answered. */
struct etcd_stored_age {
    uint64_t mod_revision; /* 0: there is no such key, or it was not asked for */
    size_t value_bytes;    /* 0 also for a value that is longer than any of Lockstep's */
    char value[ETCD_AGE_BYTES_MAX];
};

struct etcd_stored {
    uint64_t cluster_id;
    uint64_t mod_revision; /* of the volume's key; 0: there is no such key */
    size_t value_bytes;    /* 0 also for a value that is longer than any of Lockstep's */
    char value[ETCD_VALUE_BYTES_MAX];
    struct etcd_stored_age age; /* the asking node's */
};

/* Each returns the length of the body. Reads are linearizable, which is etcd's default. */

/* Reads a volume's key, and nothing else; for ETCD_RANGE_PATH. */
size_t etcd_range_body(char body[ETCD_BODY_BYTES_MAX], const char *volume);

/* The others are for ETCD_TXN_PATH. Reads a volume's key and `node`'s age, both at one moment. */
size_t etcd_read_body(char body[ETCD_BODY_BYTES_MAX], const char *volume, const char *node);

/* "If the volume's key is still as it was when it was read, put `value` there, and into the history; else tell what it
 * is, and `node`'s age." NULL: without the age. */
size_t etcd_txn_body(char body[ETCD_BODY_BYTES_MAX], const char *volume, const char *node, uint64_t epoch,
                     const struct etcd_stored *as_read, const char *value, size_t value_bytes);

/* "If `node`'s age is still as it was when it was read, put this one there." */
size_t etcd_age_body(char body[ETCD_BODY_BYTES_MAX], const char *volume, const char *node,
                     const struct etcd_stored_age *as_read, const struct etcd_age *age);

/* 0, or -EBADMSG: not what etcd would say about these keys. */
int etcd_range_answer(struct etcd_stored *out, const char *volume, const char *text, size_t bytes);
int etcd_read_answer(struct etcd_stored *out, const char *volume, const char *node, const char *text, size_t bytes);
/* The same. `put`: carried out, and `out` has nothing but the cluster's id; else `out` is what stands instead. */
int etcd_txn_answer(bool *put, struct etcd_stored *out, const char *volume, const char *node, const char *text,
                    size_t bytes);

enum etcd_trouble {
    ETCD_TRIES_ELSEWHERE, /* this member's: it has no leader, is not ready, is none of etcd's */
    ETCD_REFUSES,         /* the cluster's, and no other member will do it: space, users, damage */
};

/* What an HTTP status other than 200, with its body, means; `reason` gets it in words. */
enum etcd_trouble etcd_error_answer(char reason[REGISTER_REASON_BYTES], long status, const char *text, size_t bytes);
