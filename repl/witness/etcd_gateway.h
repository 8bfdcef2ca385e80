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

/* A key as it stood when a member answered. */
struct etcd_stored {
    uint64_t cluster_id;
    uint64_t mod_revision; /* 0: there is no such key */
    size_t value_bytes;    /* 0 also for a value that is longer than any of Lockstep's */
    char value[ETCD_VALUE_BYTES_MAX];
};

/* Reads a volume's key; linearizable, which is etcd's default. Returns the length of the body. */
size_t etcd_range_body(char body[ETCD_BODY_BYTES_MAX], const char *volume);

/* "If the key is still as it was when it was read, put `value` there, and into the history; else tell what it is." */
size_t etcd_txn_body(char body[ETCD_BODY_BYTES_MAX], const char *volume, uint64_t epoch,
                     const struct etcd_stored *as_read, const char *value, size_t value_bytes);

/* 0, or -EBADMSG: not what etcd would say about this volume's key. */
int etcd_range_answer(struct etcd_stored *out, const char *volume, const char *text, size_t bytes);
/* The same. `put`: carried out; else `out` is what stands instead. */
int etcd_txn_answer(bool *put, struct etcd_stored *out, const char *volume, const char *text, size_t bytes);

enum etcd_trouble {
    ETCD_TRIES_ELSEWHERE, /* this member's: it has no leader, is not ready, is none of etcd's */
    ETCD_REFUSES,         /* the cluster's, and no other member will do it: space, users, damage */
};

/* What an HTTP status other than 200, with its body, means; `reason` gets it in words. */
enum etcd_trouble etcd_error_answer(char reason[REGISTER_REASON_BYTES], long status, const char *text, size_t bytes);
