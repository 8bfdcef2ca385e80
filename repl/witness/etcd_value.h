/* What Lockstep keeps in etcd. A decree as a small JSON value of version 1, under /lockstep/VOLUME, and once more for
 * good under /lockstep/VOLUME/history/EPOCH.
 *
 *   {"lockstep":1,"volume_id":"HEX32","cluster_id":"DECIMAL","epoch":7,"tag":"HEX16","cause":"out","primary":"paris-a",
 *    "members":[{"node":"paris-a","leg_id":"HEX32"}],"asked_by":"paris-a","time":"2026-11-23T04:31:07Z","note":""}
 *
 * The highest age that a node has told of its leg, under /lockstep/VOLUME/age/NODE:
 *
 *   {"lockstep":1,"volume_id":"HEX32","age":12}
 *
 * Fields that are not known are passed over; what must not be passed over comes with a higher version. */
#pragma once

#include <stddef.h>
#include <time.h>

#include "repl/core/decree.h"

#define ETCD_VALUE_VERSION 1
#define ETCD_VALUE_BYTES_MAX 4096
#define ETCD_AGE_BYTES_MAX 256
#define ETCD_KEY_BYTES_MAX (2 * NAME_BYTES_MAX + 64)

struct etcd_value {
    struct id volume_id;
    uint64_t cluster_id; /* of the etcd cluster that it was written in; one restored from a snapshot may have another */
    struct decree decree;
};

/* /lockstep/VOLUME, without a prefix of any other key. Returns its length. */
size_t etcd_key(char out[ETCD_KEY_BYTES_MAX], const char *volume);
/* /lockstep/VOLUME/history/EPOCH, in twenty digits, so that etcd sorts them. */
size_t etcd_history_key(char out[ETCD_KEY_BYTES_MAX], const char *volume, uint64_t epoch);

/* /lockstep/VOLUME/age/NODE. */
size_t etcd_age_key(char out[ETCD_KEY_BYTES_MAX], const char *volume, const char *node);

/* The proposal of a swap. Returns its length without the NUL, or 0 if it could not be made: of a proposal that is none
 * (etcd_value_decode() would refuse it), or for want of memory. */
size_t etcd_value_encode(char out[ETCD_VALUE_BYTES_MAX], const struct register_request *swap, uint64_t cluster_id,
                         time_t now);

/* 0; -ENOTSUP: of a later version; -EBADMSG: not Lockstep's, or damaged. */
int etcd_value_decode(struct etcd_value *out, const char *text, size_t bytes);

struct etcd_age {
    struct id volume_id;
    uint64_t age; /* 1 to REGISTER_AGE_MAX */
};

/* Returns its length without the NUL. */
size_t etcd_age_encode(char out[ETCD_AGE_BYTES_MAX], const struct etcd_age *age);

/* As etcd_value_decode(). */
int etcd_age_decode(struct etcd_age *out, const char *text, size_t bytes);
