/* A change or flush on the primary: on both legs at once, complete when both have it. */
#include <errno.h>
#include <string.h>

#include "repl/mirror/mirror_internal.h"

static uint32_t change_op(const struct mirror *m, const struct change *c) { return (uint32_t)(c - m->changes); }

static bool is_flush(const struct change *c) { return c->request.kind == OP_FLUSH; }

static bool is_durable(const struct change *c) { return is_flush(c) || (c->request.flags & OP_FLAG_FUA); }

static uint32_t payload_bytes(const struct change *c)
{
    return c->request.kind == OP_WRITE ? (uint32_t)c->request.length_bytes : 0;
}

static enum frame_kind frame_kind_of(enum op_kind kind)
{
    switch (kind) {
    case OP_WRITE: return FRAME_WRITE;
    case OP_DISCARD: return FRAME_DISCARD;
    case OP_WRITE_ZEROES: return FRAME_WRITE_ZEROES;
    case OP_FLUSH: return FRAME_FLUSH;
    case OP_READ: break;
    }
    assert(!"reads are not sent");
    return FRAME_FLUSH;
}

static void change_start_disk(struct mirror *m, struct change *c, struct actions *out)
{
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = change_op(m, c);
    a->disk.kind = c->request.kind;
    a->disk.flags = c->request.flags;
    a->disk.offset_bytes = c->request.offset_bytes;
    a->disk.length_bytes = c->request.length_bytes;
    a->disk.buf = c->request.buf;
}

static void change_send(struct mirror *m, struct change *c, struct actions *out)
{
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = c->request.kind == OP_WRITE ? c->request.buf : NULL;
    a->send.frame = (struct frame) {
        .kind = frame_kind_of(c->request.kind),
        .flags = (uint8_t)((c->request.flags & OP_FLAG_FUA ? FRAME_FLAG_FUA : 0) |
                           (c->request.flags & OP_FLAG_KEEP_ALLOCATED ? FRAME_FLAG_KEEP_ALLOCATED : 0)),
        .payload_bytes = payload_bytes(c),
        .epoch = m->epoch,
        .lsn = c->lsn,
        .offset_bytes = c->request.offset_bytes,
        .length_bytes = c->request.length_bytes,
        .tag = change_op(m, c),
        .payload_check = c->request.payload_check,
    };
    c->remote = REMOTE_SENT;
    m->sent_frames++;
    m->sent_bytes += payload_bytes(c);
}

/* Zeroes that may be refused because they would not be fast: only the local disk is asked, and it first. The peer's
 * does them in any way, so that no leg ever refuses what the other has done. */
static bool is_refusable(const struct change *c) { return c->request.flags & OP_FLAG_FAST_ONLY; }

/* Sends what waits, as far as the peer's window reaches. */
static void send_what_fits(struct mirror *m, struct actions *out)
{
    while (m->sending && !list_empty(&m->send_queue)) {
        struct change *c = container_of(list_first(&m->send_queue), struct change, queue);
        bool fits = m->sent_frames < m->window_frames && m->sent_bytes + payload_bytes(c) <= m->window_bytes;
        if (!fits)
            return;
        list_remove(&c->queue);
        change_send(m, c, out);
    }
}

static void change_queue(struct mirror *m, struct change *c, struct actions *out)
{
    c->remote = REMOTE_QUEUED;
    list_append(&m->send_queue, &c->queue);
    send_what_fits(m, out);
}

static void change_complete(struct mirror *m, struct change *c, struct actions *out)
{
    /* After a failure of the leg nothing is acknowledged on it, whatever this one request met. */
    if (m->leg_failed && c->result == 0)
        c->result = -EIO;
    /* Refused, it has left no trace. */
    if (c->result != -EOPNOTSUPP || !is_refusable(c))
        m->completed_any = true;
    struct action *a = actions_add(out, ACT_COMPLETE);
    a->complete.cookie = c->request.cookie;
    a->complete.result = c->result;
    c->in_use = false;
    c->remote = REMOTE_NONE;
    list_remove(&c->queue);
    list_remove(&c->live);
    list_append(&m->changes_free, &c->live);
    if (!is_flush(c))
        range_unlock(m->locks, &c->lock, out);
}

/* Both legs have it; or it has failed, and nothing of it is on its way any more. */
static void change_complete_if_over(struct mirror *m, struct change *c, struct actions *out)
{
    bool local_over = c->local == LOCAL_DONE || c->local == LOCAL_FAILED;
    bool remote_over = c->remote == REMOTE_DONE || c->remote == REMOTE_NONE;
    bool given_up = c->result != 0 && c->remote == REMOTE_QUEUED;
    if (local_over && (remote_over || given_up))
        change_complete(m, c, out);
}

enum change_event {
    CHANGE_GRANTED,    /* it has its range (a flush needs none) */
    CHANGE_LOCAL_DONE, /* with `result` */
    CHANGE_ACKED,      /* by the peer, with `result` */
    CHANGE_PEER_LOST,
    CHANGE_ABANDONED, /* it has got its result, and will not wait for the peer any longer */
};

/* Everything that happens to a change passes here. */
static void change_step(struct mirror *m, struct change *c, enum change_event event, int32_t result,
                        struct actions *out)
{
    assert(c->in_use);
    switch (event) {
    case CHANGE_GRANTED:
        assert(c->local == LOCAL_LOCKING && c->remote == REMOTE_NONE);
        if (m->leg_failed || c->result) {
            c->local = LOCAL_FAILED;
            break;
        }
        /* The peer first: its way is longer. */
        if (m->peer && !is_refusable(c))
            change_queue(m, c, out);
        c->local = LOCAL_PENDING;
        change_start_disk(m, c, out);
        break;
    case CHANGE_LOCAL_DONE:
        assert(c->local == LOCAL_PENDING);
        c->local = result ? LOCAL_FAILED : LOCAL_DONE;
        if (result == -EOPNOTSUPP && is_refusable(c)) {
            c->result = c->result ? c->result : result;
        } else if (result) {
            actions_note(out, NOTE_ERROR, "disk", "%s failed on %s: %s, offset %llu, length %llu, LSN %llu",
                         op_name(c->request.kind), m->backing, strerror(-result),
                         (unsigned long long)c->request.offset_bytes, (unsigned long long)c->request.length_bytes,
                         (unsigned long long)c->lsn);
            mirror_local_failure(m, is_durable(c), true);
            c->result = result;
        } else if (m->peer && is_refusable(c) && c->result == 0) {
            change_queue(m, c, out);
        }
        break;
    case CHANGE_ACKED:
        assert(c->remote == REMOTE_SENT);
        if (result == 0) {
            c->remote = REMOTE_DONE;
            break;
        }
        actions_note(out, NOTE_ERROR, "disk", "%s failed on %s's disk: %s, offset %llu, length %llu, LSN %llu",
                     op_name(c->request.kind), m->peer, strerror(-result), (unsigned long long)c->request.offset_bytes,
                     (unsigned long long)c->request.length_bytes, (unsigned long long)c->lsn);
        m->faults.peer_leg = true;
        m->faults.peer_flush |= is_durable(c);
        m->sending = false;
        c->remote = REMOTE_QUEUED;
        break;
    case CHANGE_PEER_LOST:
        if (c->remote == REMOTE_SENT)
            c->remote = REMOTE_QUEUED;
        break;
    case CHANGE_ABANDONED: assert(c->remote != REMOTE_SENT); break;
    }
    change_complete_if_over(m, c, out);
}

void change_request(struct mirror *m, const struct request *request, uint64_t now_ns, struct actions *out)
{
    struct change *c = container_of(list_pop(&m->changes_free), struct change, live);
    list_append(&m->changes_live, &c->live);
    c->request = *request;
    c->since_ns = now_ns;
    c->in_use = true;
    c->local = LOCAL_LOCKING;
    c->remote = REMOTE_NONE;
    c->result = 0;
    if (is_flush(c)) {
        c->lsn = m->lsn;
        change_step(m, c, CHANGE_GRANTED, 0, out);
        return;
    }
    c->lsn = ++m->lsn;
    struct range range = { request->offset_bytes, request->length_bytes };
    assert(range_fits(range, m->size_bytes));
    if (range_lock(m->locks, &c->lock, range, true))
        change_step(m, c, CHANGE_GRANTED, 0, out);
}

void change_granted(struct mirror *m, struct change *c, struct actions *out)
{
    change_step(m, c, CHANGE_GRANTED, 0, out);
}

void change_disk_done(struct mirror *m, struct change *c, int32_t result, struct actions *out)
{
    change_step(m, c, CHANGE_LOCAL_DONE, result, out);
}

const char *mirror_ack(struct mirror *m, const struct frame *ack, struct actions *out)
{
    if (ack->tag >= MIRROR_CHANGES_MAX)
        return "acknowledgement of a change that cannot be (tag)";
    struct change *c = &m->changes[ack->tag];
    if (c->remote != REMOTE_SENT || c->lsn != ack->lsn)
        return "acknowledgement of a change that was not sent (tag, lsn)";
    m->sent_frames--;
    m->sent_bytes -= payload_bytes(c);
    change_step(m, c, CHANGE_ACKED, -(int32_t)ack->status, out);
    send_what_fits(m, out);
    return NULL;
}

void mirror_peer_ready(struct mirror *m, uint64_t epoch, uint32_t window_frames, uint64_t window_bytes,
                       struct actions *out)
{
    m->session++;
    m->sending = true;
    m->epoch = epoch;
    m->window_frames = window_frames;
    m->window_bytes = window_bytes;
    m->sent_frames = 0;
    m->sent_bytes = 0;
    /* Queued anew: some were sent in the last session and some were not, and LSN order is to hold for all. */
    while (list_pop(&m->send_queue)) {}
    list_for_each (pos, &m->changes_live) {
        struct change *c = container_of(pos, struct change, live);
        assert(c->remote != REMOTE_SENT);
        if (c->remote == REMOTE_QUEUED)
            list_append(&m->send_queue, &c->queue);
    }
    send_what_fits(m, out);
}

/* Gives an event to every change in flight. By index: one change's completion may start or complete others. */
static void change_step_all(struct mirror *m, enum change_event event, int32_t result, struct actions *out)
{
    for (unsigned i = 0; i < MIRROR_CHANGES_MAX; i++) {
        if (m->changes[i].in_use)
            change_step(m, &m->changes[i], event, result, out);
    }
}

void mirror_peer_lost(struct mirror *m, struct actions *out)
{
    m->session++;
    m->sending = false;
    change_step_all(m, CHANGE_PEER_LOST, 0, out);
    peer_changes_forget_unstarted(m, out);
}

static void fail_changes(struct mirror *m, int32_t result, bool also_acked, struct actions *out)
{
    assert(result < 0 && !m->sending);
    /* All have their result before the first gives its range back: whom that lets go on must not reach the disk. */
    list_for_each (pos, &m->changes_live) {
        struct change *c = container_of(pos, struct change, live);
        if (c->result == 0 && (also_acked || c->remote != REMOTE_DONE))
            c->result = result;
    }
    /* Reads that wait behind these changes would see what the peer, who goes on alone, may not have. */
    reads_fail_waiting(m, result, out);
    change_step_all(m, CHANGE_ABANDONED, result, out);
}

void mirror_abandon_waiting(struct mirror *m, int32_t result, struct actions *out)
{
    fail_changes(m, result, false, out);
}

void mirror_fail_all(struct mirror *m, int32_t result, struct actions *out) { fail_changes(m, result, true, out); }
