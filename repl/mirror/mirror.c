/* The mirror's frame: memory, locks, and which operation a disk's answer belongs to. */
#include <stdlib.h>

#include "repl/base/resident.h"
#include "repl/mirror/mirror_internal.h"

static void on_change_granted(struct range_lock *lock, struct actions *out)
{
    change_granted(lock->owner, container_of(lock, struct change, lock), out);
}

static void on_read_granted(struct range_lock *lock, struct actions *out)
{
    read_granted(lock->owner, container_of(lock, struct read, lock), out);
}

static void on_peer_change_granted(struct range_lock *lock, struct actions *out)
{
    peer_change_granted(lock->owner, container_of(lock, struct peer_change, lock), out);
}

static void on_peer_read_granted(struct range_lock *lock, struct actions *out)
{
    peer_read_granted(lock->owner, container_of(lock, struct peer_read, lock), out);
}

static void own_lock(struct mirror *m, struct range_lock *lock, range_granted_fn *on_granted)
{
    lock->owner = m;
    lock->on_granted = on_granted;
    list_init(&lock->granted);
}

struct mirror *mirror_open(const struct mirror_config *config)
{
    uint32_t unflushed_max = config->unflushed_max ? config->unflushed_max : MIRROR_UNFLUSHED_MAX;
    assert(unflushed_max > 1 && (unflushed_max & (unflushed_max - 1)) == 0);
    struct mirror *m = resident_calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    /* Without bits there is nothing that the set could become. */
    if (config->peer && config->bitmap) {
        m->unflushed.ring = resident_calloc(unflushed_max, sizeof(*m->unflushed.ring));
        m->unflushed.mask = unflushed_max - 1;
        if (!m->unflushed.ring) {
            free(m);
            return NULL;
        }
    }
    m->backing = config->backing;
    m->peer = config->peer;
    m->lsn = config->lsn;
    m->locks = config->locks;
    m->al = config->al;
    m->bitmap = config->bitmap;
    m->pool = config->pool;
    m->pool_keep_free_bytes = config->pool_keep_free_bytes;
    m->local = true;
    list_init(&m->changes_live);
    list_init(&m->changes_free);
    list_init(&m->send_queue);
    list_init(&m->log_queue);
    list_init(&m->reads_free);
    list_init(&m->repair_queue);
    list_init(&m->peer_live);
    list_init(&m->peer_free);
    list_init(&m->peer_reads_free);
    list_init(&m->peer_reads_waiting);
    for (unsigned i = 0; i < MIRROR_CHANGES_MAX; i++) {
        list_init(&m->changes[i].queue);
        own_lock(m, &m->changes[i].lock, on_change_granted);
        list_append(&m->changes_free, &m->changes[i].live);
    }
    list_init(&m->changes[MIRROR_CHANGES_MAX].queue);
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        own_lock(m, &m->reads[i].lock, on_read_granted);
        list_init(&m->reads[i].link);
        if (i != MIRROR_READS_MAX - 1)
            list_append(&m->reads_free, &m->reads[i].link);
    }
    for (unsigned i = 0; i < MIRROR_PEER_CHANGES_MAX; i++) {
        own_lock(m, &m->peer_changes[i].lock, on_peer_change_granted);
        list_append(&m->peer_free, &m->peer_changes[i].live);
    }
    for (unsigned i = 0; i < MIRROR_PEER_READS_MAX; i++) {
        own_lock(m, &m->peer_reads[i].lock, on_peer_read_granted);
        list_append(&m->peer_reads_free, &m->peer_reads[i].link);
    }
    return m;
}

void mirror_close(struct mirror *m)
{
    free(m->unflushed.ring);
    free(m);
}

void mirror_set_size(struct mirror *m, uint64_t size_bytes) { m->size_bytes = size_bytes; }

bool mirror_can_accept(const struct mirror *m, enum op_kind kind)
{
    return kind == OP_READ ? !list_empty(&m->reads_free) : !list_empty(&m->changes_free);
}

void mirror_request(struct mirror *m, const struct request *request, uint64_t now_ns, struct actions *out)
{
    assert(mirror_can_accept(m, request->kind));
    if (request->kind == OP_READ)
        read_request(m, request, out);
    else
        change_request(m, request, now_ns, out);
}

void mirror_disk_done(struct mirror *m, uint32_t op, int32_t result, struct actions *out)
{
    assert(op < MIRROR_OPS && result <= 0);
    if (op < OP_FIRST_READ)
        change_disk_done(m, &m->changes[op], result, out);
    else if (op < OP_FIRST_PEER_CHANGE)
        read_disk_done(m, &m->reads[op - OP_FIRST_READ], result, out);
    else if (op < OP_FIRST_PEER_READ)
        peer_change_disk_done(m, &m->peer_changes[op - OP_FIRST_PEER_CHANGE], result, out);
    else
        peer_read_disk_done(m, &m->peer_reads[op - OP_FIRST_PEER_READ], result, out);
}

void mirror_local_failure(struct mirror *m, bool durable, bool own)
{
    m->leg_failed = true;
    m->faults.leg = true;
    m->faults.flush |= durable;
    m->reads_lie |= durable;
    m->faults.own |= own;
}

bool mirror_is_idle(const struct mirror *m)
{
    return list_empty(&m->changes_live) && m->reads_busy == 0 && list_empty(&m->peer_live) && m->peer_reads_busy == 0;
}

bool mirror_has_faults(const struct mirror *m) { return m->faults.leg || m->faults.peer_leg; }

struct mirror_faults mirror_take_faults(struct mirror *m)
{
    struct mirror_faults faults = m->faults;
    m->faults = (struct mirror_faults) { 0 };
    return faults;
}

/* Not acknowledged by the peer, which it needs. */
static bool needs_peer(const struct mirror *m, const struct change *c)
{
    if (c->result)
        return false;
    if (c->remote == REMOTE_QUEUED || c->remote == REMOTE_SENT)
        return true;
    bool to_be_sent = m->peer && !m->alone && !c->marked && c->remote == REMOTE_NONE;
    return to_be_sent && (c->local == LOCAL_LOCKING || c->local == LOCAL_LOGGING || c->local == LOCAL_PENDING);
}

enum mirror_wait mirror_oldest(const struct mirror *m, uint64_t *since_ns)
{
    list_for_each (pos, &m->changes_live) {
        const struct change *c = container_of(pos, struct change, live);
        if (change_is_own_flush(m, c))
            continue;
        *since_ns = c->since_ns;
        switch (c->local) {
        case LOCAL_LOCKING: return WAIT_RANGE;
        case LOCAL_LOGGING: return WAIT_LOG;
        case LOCAL_PENDING: return WAIT_DISK;
        case LOCAL_DONE:
        case LOCAL_FAILED: return WAIT_PEER;
        }
    }
    return WAIT_NOTHING;
}

bool mirror_completes_yet(const struct mirror *m)
{
    list_for_each (pos, &m->changes_live) {
        const struct change *c = container_of(pos, struct change, live);
        if (!change_is_flush(c) && c->remote == REMOTE_DONE && c->local == LOCAL_PENDING && c->result == 0)
            return true;
    }
    return false;
}

void mirror_view(const struct mirror *m, struct mirror_view *view)
{
    *view = (struct mirror_view) {
        .lsn = m->lsn,
        .completed_any = m->completed_any,
        .alone = m->alone,
        .diskless = !m->local,
        .reads_waiting = m->reads_busy ? reads_waiting(m) : 0,
        .undecided = is_undecided(m) && !list_empty(&m->changes_live),
        .unflushed = (uint32_t)(m->unflushed.head - m->unflushed.tail),
        .reads_masked = m->reads_masked,
        .repairs_failed = m->repairs_failed,
    };
    list_for_each (pos, &m->changes_live) {
        const struct change *c = container_of(pos, struct change, live);
        if (change_is_own_flush(m, c))
            continue;
        if (!change_is_flush(c) && c->started)
            view->unsettled = true;
        if (c->local == LOCAL_LOGGING)
            view->logging++;
        if (!needs_peer(m, c))
            continue;
        view->waiting++;
        if (!view->oldest_waiting_ns)
            view->oldest_waiting_ns = c->since_ns;
    }
}
