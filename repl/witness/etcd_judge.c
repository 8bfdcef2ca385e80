/* Judges what etcd has. */
#include "repl/witness/etcd_judge.h"

#include <errno.h>
#include <stdio.h>

#include "repl/witness/etcd_value.h"
#include "repl/witness/register_table.h"

static void say(struct register_answer *a, enum register_outcome outcome, const char *what, const char *volume,
                const char *advice)
{
    a->outcome = outcome;
    snprintf(a->reason, sizeof(a->reason), "%s in /lockstep/%.*s; %s", what, NAME_BYTES_MAX, volume, advice);
}

bool etcd_judge(const struct register_request *q, const struct etcd_stored *stored, struct register_answer *a)
{
    memset(a, 0, sizeof(*a));
    struct register_row row;
    struct etcd_value value = { .volume_id = q->volume_id, .cluster_id = stored->cluster_id };
    if (stored->mod_revision > 0) {
        int rc = etcd_value_decode(&value, stored->value, stored->value_bytes);
        if (rc) {
            say(a, REGISTER_REFUSED, rc == -ENOTSUP ? "a later version's decree is" : "what is none of Lockstep's is",
                q->volume,
                rc == -ENOTSUP ? "upgrade this node" : "look with `etcdctl get`; `etcdctl del` if it may go");
            return false;
        }
        if (!id_is_none(q->volume_id) && !id_equal(q->volume_id, value.volume_id)) {
            say(a, REGISTER_REFUSED, "another volume of this name is", q->volume,
                "name this one otherwise; `etcdctl del` if that one is no more");
            return false;
        }
    }
    register_row_start(&row, q->volume, value.volume_id, decree_is_none(&value.decree) ? NULL : &value.decree);
    row.confirmed = true;
    /* Whatever else is there tells nothing of this volume's leg, and no decree waits for it. */
    struct etcd_age age;
    if (etcd_age_decode(&age, stored->age.value, stored->age.value_bytes) == 0 &&
        id_equal(age.volume_id, value.volume_id))
        register_row_take_age(&row, q->node, age.age);
    bool put = register_row_ask(&row, q, a);
    /* What a cluster has brought along from another one is of a time before a restore, whatever its epoch. Only an
     * operator's adopt goes over it. */
    bool adopts = q->ask == REGISTER_SWAP && q->over_older;
    if (value.cluster_id != stored->cluster_id && a->outcome != REGISTER_REFUSED && !adopts) {
        a->decree = value.decree;
        say(a, REGISTER_OLDER, "another etcd cluster's decree is", q->volume,
            "was this one restored from a backup? `lockstep witness adopt` on the primary");
        return false;
    }
    return put;
}

bool etcd_age_is_due(const struct register_request *q, const struct etcd_stored *stored,
                     const struct register_answer *a)
{
    struct etcd_age age;
    return register_tells_age(q, a) && etcd_age_decode(&age, stored->age.value, stored->age.value_bytes) != -ENOTSUP;
}
