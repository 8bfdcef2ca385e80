/* A change or flush on the primary: on both legs at once, complete when both have it; or on the one that is left. */
#include <errno.h>
#include <string.h>

#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"
#include "repl/mirror/mirror_internal.h"

static uint32_t change_op(const struct mirror *m, const struct change *c) { return (uint32_t)(c - m->changes); }

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
void changes_send(struct mirror *m, struct actions *out)
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
    changes_send(m, out);
}

/* The legs may differ where it writes, from now on until a resync. In memory first: its extents in the activity log
 * stay on disk until these bits are there, too. */
void change_mark(struct mirror *m, struct change *c)
{
    if (change_is_flush(c) || c->marked)
        return;
    c->marked = true;
    if (m->bitmap)
        bitmap_set(m->bitmap, c->lock.range);
}

static void change_free(struct mirror *m, struct change *c, struct actions *out)
{
    bool flush = change_is_flush(c);
    c->in_use = false;
    c->remote = REMOTE_NONE;
    list_remove(&c->queue);
    list_remove(&c->live);
    if (!change_is_own_flush(m, c))
        list_append(&m->changes_free, &c->live);
    if (!flush)
        range_unlock(m->locks, &c->lock, out);
}

/* All that was acknowledged before the flush began is stable where it counts: on both legs, or on the one that is left.
 */
static void flush_succeeded(struct mirror *m, bool on_peer, uint64_t mark, uint32_t generation, struct actions *out)
{
    if (on_peer)
        unflushed_drop(&m->unflushed, mark);
    if (m->local && m->al)
        al_flush_done(m->al, generation);
    /* Who waits for what this has freed goes first. */
    admission_retry(m, out);
}

static void change_complete(struct mirror *m, struct change *c, struct actions *out)
{
    /* After a failure of the leg nothing is acknowledged on it, whatever this one request met. */
    if (m->local && m->leg_failed && c->result == 0)
        c->result = -EIO;
    /* Refused, it has left no trace. */
    bool no_trace = !c->started || (c->result == -EOPNOTSUPP && is_refusable(c));
    if (c->result && m->local && !no_trace)
        change_mark(m, c);
    admission_over(m, c);
    if (!change_is_own_flush(m, c)) {
        m->completed_any |= c->result != -EOPNOTSUPP || !is_refusable(c);
        struct action *a = actions_add(out, ACT_COMPLETE);
        a->complete.cookie = c->request.cookie;
        a->complete.result = c->result;
    }
    bool flushed = change_is_flush(c) && c->result == 0;
    bool on_peer = c->remote == REMOTE_DONE;
    change_free(m, c, out);
    /* Nothing was unlocked by it, so that its fields are still its own. */
    if (flushed)
        flush_succeeded(m, on_peer, c->unflushed_mark, c->al_generation, out);
}

/* Both legs have it, or the one that is left; or it has failed, and nothing of it is on its way any more. */
static void change_complete_if_over(struct mirror *m, struct change *c, struct actions *out)
{
    bool local_over = c->local == LOCAL_DONE || c->local == LOCAL_FAILED;
    bool remote_over = c->remote == REMOTE_DONE || c->remote == REMOTE_NONE;
    bool given_up = c->result != 0 && c->remote == REMOTE_QUEUED;
    bool undecided = c->result == 0 && is_undecided(m) && !change_is_own_flush(m, c);
    if (local_over && (remote_over || given_up) && !undecided)
        change_complete(m, c, out);
}

/* Gives it to whom it is to reach. */
static void change_start(struct mirror *m, struct change *c, struct actions *out)
{
    c->started = true;
    if (change_is_flush(c)) {
        c->unflushed_mark = m->unflushed.head;
        c->al_generation = m->al ? al_flush_begin(m->al) : 0;
    }
    if (m->alone)
        change_mark(m, c);
    /* The peer first: its way is longer. */
    if (m->peer && !m->alone && !(m->local && is_refusable(c)))
        change_queue(m, c, out);
    c->local = m->local ? LOCAL_PENDING : LOCAL_DONE;
    if (m->local)
        change_start_disk(m, c, out);
}

static void change_start_if_admitted(struct mirror *m, struct change *c, struct actions *out)
{
    switch (admission_ask(m, c)) {
    case ADMISSION_GO: change_start(m, c, out); break;
    case ADMISSION_WAIT:
        c->local = LOCAL_LOGGING;
        list_append(&m->log_queue, &c->queue);
        break;
    case ADMISSION_REFUSED: c->local = LOCAL_FAILED; break;
    }
}

/* The local disk has failed it. */
static void change_local_failed(struct mirror *m, struct change *c, int32_t result, struct actions *out)
{
    actions_note(out, NOTE_ERROR, "disk", "%s failed on %s: %s, offset %llu, length %llu, LSN %llu",
                 op_name(c->request.kind), m->backing, strerror(-result), (unsigned long long)c->request.offset_bytes,
                 (unsigned long long)c->request.length_bytes, (unsigned long long)c->lsn);
    if (!m->local) {
        /* The leg was given up already, but for less than this, it may be: from now on what it shows is not believed,
         * not even to reads that it was given before. What it was to be asked first goes to the peer now. */
        mirror_local_failure(m, change_is_durable(c), true);
        if (c->remote == REMOTE_NONE && c->result == 0)
            change_queue(m, c, out);
        return;
    }
    mirror_local_failure(m, change_is_durable(c), true);
    if (!is_undecided(m) && c->result == 0)
        c->result = result;
}

/* Everything that happens to a change passes here. */
static void change_step(struct mirror *m, struct change *c, enum change_event event, int32_t result,
                        struct actions *out)
{
    assert(c->in_use);
    switch (event) {
    case CHANGE_GRANTED:
        assert(c->local == LOCAL_LOCKING && c->remote == REMOTE_NONE);
        change_start_if_admitted(m, c, out);
        break;
    case CHANGE_ASKS_AGAIN:
        assert(c->local == LOCAL_LOGGING && c->remote == REMOTE_NONE);
        change_start_if_admitted(m, c, out);
        break;
    case CHANGE_LOCAL_DONE:
        assert(c->local == LOCAL_PENDING);
        c->local = result ? LOCAL_FAILED : LOCAL_DONE;
        if (result == -EOPNOTSUPP && is_refusable(c))
            c->result = c->result ? c->result : result;
        else if (result)
            change_local_failed(m, c, result, out);
        else if (m->peer && is_refusable(c) && c->result == 0 && !c->marked && c->remote == REMOTE_NONE)
            change_queue(m, c, out);
        break;
    case CHANGE_ACKED:
        assert(c->remote == REMOTE_SENT);
        if (result == 0) {
            c->remote = REMOTE_DONE;
            if (c->reserved)
                unflushed_add(&m->unflushed, c->lock.range);
            c->reserved = false;
            break;
        }
        actions_note(out, NOTE_ERROR, "disk", "%s failed on %s's disk: %s, offset %llu, length %llu, LSN %llu",
                     op_name(c->request.kind), m->peer, strerror(-result), (unsigned long long)c->request.offset_bytes,
                     (unsigned long long)c->request.length_bytes, (unsigned long long)c->lsn);
        m->faults.peer_leg = true;
        m->faults.peer_flush |= change_is_durable(c);
        m->sending = false;
        c->remote = REMOTE_QUEUED;
        break;
    case CHANGE_PEER_LOST:
        if (c->remote == REMOTE_SENT)
            c->remote = REMOTE_QUEUED;
        /* Nobody waits for it: another one can be begun when the peer is back. */
        if (change_is_own_flush(m, c) && c->remote == REMOTE_QUEUED && c->result == 0)
            c->result = -ENOTCONN;
        break;
    case CHANGE_UNREPLACED:
        if (c->local == LOCAL_FAILED && c->result == 0)
            c->result = -EIO;
        break;
    case CHANGE_ALONE:
        assert(c->remote != REMOTE_SENT);
        if (c->remote == REMOTE_QUEUED) {
            c->remote = REMOTE_NONE;
            list_remove(&c->queue);
        }
        if (c->reserved)
            m->unflushed.reserved--;
        c->reserved = false;
        break;
    case CHANGE_LEG_OUT:
        /* It was to go to the peer when the local disk had not refused it. */
        if (c->local == LOCAL_FAILED && c->remote == REMOTE_NONE && c->result == 0 && is_refusable(c))
            change_queue(m, c, out);
        break;
    case CHANGE_ABANDONED:
        assert(c->remote != REMOTE_SENT);
        if (c->local == LOCAL_LOGGING)
            c->local = LOCAL_FAILED;
        break;
    }
    change_complete_if_over(m, c, out);
}

static void change_begin(struct mirror *m, struct change *c, const struct request *request, uint64_t now_ns)
{
    list_append(&m->changes_live, &c->live);
    c->request = *request;
    c->since_ns = now_ns;
    c->in_use = true;
    c->local = LOCAL_LOCKING;
    c->remote = REMOTE_NONE;
    c->result = 0;
    c->started = false;
    c->logged = false;
    c->reserved = false;
    c->marked = false;
    c->lsn = change_is_flush(c) ? m->lsn : ++m->lsn;
}

void change_request(struct mirror *m, const struct request *request, uint64_t now_ns, struct actions *out)
{
    struct change *c = container_of(list_pop(&m->changes_free), struct change, live);
    change_begin(m, c, request, now_ns);
    if (change_is_flush(c)) {
        change_step(m, c, CHANGE_GRANTED, 0, out);
        return;
    }
    struct range range = { request->offset_bytes, request->length_bytes };
    assert(range_fits(range, m->size_bytes));
    if (range_lock(m->locks, &c->lock, range, true))
        change_step(m, c, CHANGE_GRANTED, 0, out);
}

static bool own_flush_can_begin(const struct mirror *m)
{
    bool both_reachable = !m->peer || m->alone || m->sending;
    return !m->changes[MIRROR_CHANGES_MAX].in_use && both_reachable && !(m->local && m->leg_failed);
}

void mirror_flush(struct mirror *m, uint64_t now_ns, struct actions *out)
{
    if (!own_flush_can_begin(m))
        return;
    struct change *c = &m->changes[MIRROR_CHANGES_MAX];
    change_begin(m, c, &(struct request) { .kind = OP_FLUSH }, now_ns);
    change_step(m, c, CHANGE_GRANTED, 0, out);
}

bool mirror_wants_flush(const struct mirror *m)
{
    bool full = m->unflushed.ring && unflushed_is_half_full(&m->unflushed);
    return (full || mirror_log_stuck(m)) && own_flush_can_begin(m);
}

bool mirror_needs_engine(const struct mirror *m, bool log_is_idle)
{
    if (mirror_has_faults(m))
        return true;
    if (anyone_waits(m))
        return log_is_idle;
    return m->unflushed.ring && unflushed_is_half_full(&m->unflushed) && own_flush_can_begin(m);
}

void change_granted(struct mirror *m, struct change *c, struct actions *out)
{
    change_step(m, c, CHANGE_GRANTED, 0, out);
}

void change_ask_again(struct mirror *m, struct change *c, struct actions *out)
{
    change_step(m, c, CHANGE_ASKS_AGAIN, 0, out);
}

void change_disk_done(struct mirror *m, struct change *c, int32_t result, struct actions *out)
{
    bool had_failed = m->leg_failed;
    change_step(m, c, CHANGE_LOCAL_DONE, result, out);
    /* Nobody will commit or flush for those that wait. */
    if (m->leg_failed && !had_failed)
        admission_retry(m, out);
}

const char *mirror_ack(struct mirror *m, const struct frame *ack, struct actions *out)
{
    if (ack->tag > MIRROR_CHANGES_MAX)
        return "acknowledgement of a change that cannot be (tag)";
    struct change *c = &m->changes[ack->tag];
    if (c->remote != REMOTE_SENT || c->lsn != ack->lsn)
        return "acknowledgement of a change that was not sent (tag, lsn)";
    m->sent_frames--;
    m->sent_bytes -= payload_bytes(c);
    change_step(m, c, CHANGE_ACKED, -(int32_t)ack->status, out);
    changes_send(m, out);
    return NULL;
}

/* Gives an event to every change in flight. By index: one change's completion may start or complete others. */
void changes_step(struct mirror *m, enum change_event event, int32_t result, struct actions *out)
{
    for (unsigned i = 0; i <= MIRROR_CHANGES_MAX; i++) {
        if (m->changes[i].in_use)
            change_step(m, &m->changes[i], event, result, out);
    }
}
