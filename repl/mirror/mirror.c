/* The mirror's frame: memory, locks, and which operation a disk's answer belongs to. */
#include <stdlib.h>

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

static void own_lock(struct mirror *m, struct range_lock *lock, range_granted_fn *on_granted)
{
    lock->owner = m;
    lock->on_granted = on_granted;
    list_init(&lock->granted);
}

struct mirror *mirror_open(const struct mirror_config *config)
{
    struct mirror *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->backing = config->backing;
    m->peer = config->peer;
    m->lsn = config->lsn;
    m->locks = config->locks;
    list_init(&m->changes_live);
    list_init(&m->changes_free);
    list_init(&m->send_queue);
    list_init(&m->reads_free);
    list_init(&m->peer_live);
    list_init(&m->peer_free);
    for (unsigned i = 0; i < MIRROR_CHANGES_MAX; i++) {
        list_init(&m->changes[i].queue);
        own_lock(m, &m->changes[i].lock, on_change_granted);
        list_append(&m->changes_free, &m->changes[i].live);
    }
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        own_lock(m, &m->reads[i].lock, on_read_granted);
        list_append(&m->reads_free, &m->reads[i].free);
    }
    for (unsigned i = 0; i < MIRROR_PEER_CHANGES_MAX; i++) {
        own_lock(m, &m->peer_changes[i].lock, on_peer_change_granted);
        list_append(&m->peer_free, &m->peer_changes[i].live);
    }
    return m;
}

void mirror_close(struct mirror *m) { free(m); }

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
    assert(op < OP_END && result <= 0);
    if (op < OP_FIRST_READ)
        change_disk_done(m, &m->changes[op], result, out);
    else if (op < OP_FIRST_PEER_CHANGE)
        read_disk_done(m, &m->reads[op - OP_FIRST_READ], result, out);
    else
        peer_change_disk_done(m, &m->peer_changes[op - OP_FIRST_PEER_CHANGE], result, out);
}

void mirror_local_failure(struct mirror *m, bool durable, bool own)
{
    m->leg_failed = true;
    m->faults.leg = true;
    m->faults.flush |= durable;
    m->faults.own |= own;
}

void mirror_fail_leg(struct mirror *m) { m->leg_failed = true; }

bool mirror_is_idle(const struct mirror *m)
{
    return list_empty(&m->changes_live) && m->reads_busy == 0 && list_empty(&m->peer_live);
}

bool mirror_has_faults(const struct mirror *m) { return m->faults.leg || m->faults.peer_leg; }

struct mirror_faults mirror_take_faults(struct mirror *m)
{
    struct mirror_faults faults = m->faults;
    m->faults = (struct mirror_faults) { 0 };
    return faults;
}

void mirror_view(const struct mirror *m, struct mirror_view *view)
{
    *view = (struct mirror_view) { .lsn = m->lsn, .completed_any = m->completed_any };
    list_for_each (pos, &m->changes_live) {
        const struct change *c = container_of(pos, struct change, live);
        if (c->request.kind != OP_FLUSH && c->local != LOCAL_LOCKING)
            view->unsettled = true;
        bool not_sent_yet = m->peer && c->remote == REMOTE_NONE && c->local == LOCAL_PENDING;
        if (c->remote != REMOTE_QUEUED && c->remote != REMOTE_SENT && !not_sent_yet)
            continue;
        view->waiting++;
        if (!view->oldest_waiting_ns)
            view->oldest_waiting_ns = c->since_ns;
    }
}
