/* A read: from the local leg, never ahead of a change that is not acknowledged yet; from the peer's where the local one
 * cannot be read. */
#include <errno.h>
#include <string.h>

#include "repl/meta/activity_log.h"
#include "repl/meta/bitmap.h"
#include "repl/mirror/mirror_internal.h"

static uint32_t read_index(const struct mirror *m, const struct read *r) { return (uint32_t)(r - m->reads); }

static void read_start_disk(struct mirror *m, struct read *r, enum op_kind kind, struct buf *buf, struct actions *out)
{
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = OP_FIRST_READ + read_index(m, r);
    a->disk.kind = kind;
    a->disk.flags = 0;
    a->disk.offset_bytes = r->request.offset_bytes;
    a->disk.length_bytes = r->request.length_bytes;
    a->disk.buf = buf;
}

static void read_send(struct mirror *m, struct read *r, struct actions *out)
{
    r->state = READ_SENT;
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = NULL;
    a->send.frame = (struct frame) {
        .kind = FRAME_READ,
        .epoch = m->epoch,
        .offset_bytes = r->request.offset_bytes,
        .length_bytes = r->request.length_bytes,
        .tag = read_index(m, r),
    };
}

static void read_ask_peer(struct mirror *m, struct read *r, struct actions *out)
{
    r->state = READ_QUEUED;
    if (m->sending)
        read_send(m, r, out);
}

/* The last one of all: nobody's but mirror_mend()'s. */
static bool read_is_mend(const struct mirror *m, const struct read *r) { return r == &m->reads[MIRROR_READS_MAX - 1]; }

static void read_answer(struct mirror *m, struct read *r, int32_t result, struct actions *out)
{
    if (read_is_mend(m, r)) {
        m->mend_result = result;
        return;
    }
    struct action *a = actions_add(out, ACT_COMPLETE);
    a->complete.cookie = r->request.cookie;
    a->complete.result = result;
}

static void read_free(struct mirror *m, struct read *r, struct actions *out)
{
    if (r->payload)
        buf_put(r->payload);
    r->payload = NULL;
    if (r->logged)
        al_leave(m->al, r->lock.range);
    r->logged = false;
    r->state = READ_FREE;
    m->reads_busy--;
    if (read_is_mend(m, r)) {
        buf_put(r->request.buf);
        m->mend_over = true;
    } else {
        list_append(&m->reads_free, &r->link);
    }
    range_unlock(m->locks, &r->lock, out);
}

static void read_complete(struct mirror *m, struct read *r, int32_t result, struct actions *out)
{
    read_answer(m, r, result, out);
    read_free(m, r, out);
}

static void read_begin(struct mirror *m, struct read *r, const struct request *request, struct actions *out)
{
    m->reads_busy++;
    r->request = *request;
    r->result = 0;
    struct range range = { request->offset_bytes, request->length_bytes };
    assert(range_fits(range, m->size_bytes));
    /* A shared lock: what a change in flight has put on this leg may not be on the peer's yet. Were it shown, and this
     * node lost then, the reader would have seen something that never was. */
    r->state = READ_LOCKING;
    if (range_lock(m->locks, &r->lock, range, false))
        read_granted(m, r, out);
}

void read_request(struct mirror *m, const struct request *request, struct actions *out)
{
    read_begin(m, container_of(list_pop(&m->reads_free), struct read, link), request, out);
}

bool mirror_mend(struct mirror *m, struct range range, struct actions *out)
{
    struct read *r = &m->reads[MIRROR_READS_MAX - 1];
    struct buf *buf = r->state == READ_FREE && !m->mend_over && m->pool
                          ? buf_get(m->pool, range.length_bytes, m->pool_keep_free_bytes)
                          : NULL;
    if (!buf)
        return false;
    struct request request = {
        .kind = OP_READ, .offset_bytes = range.offset_bytes, .length_bytes = range.length_bytes, .buf = buf
    };
    read_begin(m, r, &request, out);
    return true;
}

bool mirror_mend_over(struct mirror *m, int32_t *result)
{
    bool over = m->mend_over;
    m->mend_over = false;
    *result = m->mend_result;
    return over;
}

static void read_start_local(struct mirror *m, struct read *r, struct actions *out)
{
    r->state = READ_LOCAL;
    read_start_disk(m, r, OP_READ, r->request.buf, out);
}

void read_granted(struct mirror *m, struct read *r, struct actions *out)
{
    if (r->result) { /* reads_fail_waiting() */
        read_complete(m, r, r->result, out);
        return;
    }
    /* One that mends shows nothing to anybody. */
    if (m->reads_held && !read_is_mend(m, r)) {
        r->state = READ_HELD;
        return;
    }
    if (!m->local) {
        read_ask_peer(m, r, out);
        return;
    }
    if (is_undecided_for_reads(m)) {
        r->state = READ_QUEUED;
        return;
    }
    read_start_local(m, r, out);
}

/* With the range locked, and without bits in it, the peer's leg holds the same as the own one should. */
static bool peer_may_answer(const struct mirror *m, const struct read *r)
{
    if (!m->local)
        return true;
    return m->peer_readable && m->sending && !(m->bitmap && bitmap_any(m->bitmap, r->lock.range));
}

/* It is not there, but nothing goes on without it: a change would wait, too. What mends for nobody, is tried again. */
static bool peer_is_waited_for(const struct mirror *m, const struct read *r)
{
    return m->local && m->replaceable && !read_is_mend(m, r);
}

static void read_local_done(struct mirror *m, struct read *r, int32_t result, struct actions *out)
{
    if (result == 0) {
        /* The leg may have failed, or be out, since this was given to the disk. */
        if (is_undecided_for_reads(m))
            r->state = READ_QUEUED;
        else if (!m->local && m->reads_lie)
            read_ask_peer(m, r, out);
        else
            read_complete(m, r, 0, out);
        return;
    }
    r->result = result;
    bool masked = peer_may_answer(m, r);
    bool waits = !masked && peer_is_waited_for(m, r);
    actions_note(out, NOTE_ERROR, "disk", "read failed on %s: %s, offset %llu, length %llu%s", m->backing,
                 strerror(-result), (unsigned long long)r->request.offset_bytes,
                 (unsigned long long)r->request.length_bytes,
                 masked  ? "; the peer is asked"
                 : waits ? "; the peer will be asked when it is back"
                         : "");
    if (masked)
        read_ask_peer(m, r, out);
    else if (waits)
        r->state = READ_QUEUED;
    else
        read_complete(m, r, result, out);
}

static void read_repair_done(struct mirror *m, struct read *r, int32_t result, struct actions *out)
{
    /* The leg stays: it lacks what it lacked before, the peer is asked again, and the application has its data. A disk
     * that refuses writes fails the next change. */
    m->repairs_failed += result != 0;
    if (read_is_mend(m, r))
        m->mend_result = result;
    actions_note(out, result ? NOTE_ERROR : NOTE_WARNING, "disk", "%s on %s%s%s, offset %llu, length %llu",
                 result ? "could not write back what was unreadable" : "wrote back what was unreadable", m->backing,
                 result ? ": " : "", result ? strerror(-result) : "", (unsigned long long)r->request.offset_bytes,
                 (unsigned long long)r->request.length_bytes);
    read_free(m, r, out);
}

/* A change of this leg alone: were it torn by a loss of power, or lost from the disk's cache, nothing but the activity
 * log would tell of it. */
static void read_repair(struct mirror *m, struct read *r, struct actions *out)
{
    if (m->al && al_enter(m->al, r->lock.range) != AL_HOT) {
        r->state = READ_LOGGING;
        list_append(&m->repair_queue, &r->link);
        return;
    }
    r->logged = m->al != NULL;
    r->state = READ_REPAIRING;
    read_start_disk(m, r, OP_WRITE, r->payload, out);
}

/* The next who reads it asks the peer again. */
static void read_give_up_repair(struct mirror *m, struct read *r, struct actions *out)
{
    list_remove(&r->link);
    if (read_is_mend(m, r))
        m->mend_result = -EAGAIN;
    read_free(m, r, out);
}

void reads_retry_repairs(struct mirror *m, struct actions *out)
{
    struct list asking;
    list_init(&asking);
    for (struct list *node; (node = list_pop(&m->repair_queue));)
        list_append(&asking, node);
    for (struct list *node; (node = list_pop(&asking));) {
        struct read *r = container_of(node, struct read, link);
        if (m->leg_failed || !m->local || !m->sending)
            read_give_up_repair(m, r, out);
        else
            read_repair(m, r, out);
    }
}

void read_disk_done(struct mirror *m, struct read *r, int32_t result, struct actions *out)
{
    if (r->state == READ_REPAIRING) {
        read_repair_done(m, r, result, out);
        return;
    }
    assert(r->state == READ_LOCAL);
    read_local_done(m, r, result, out);
}

static const char *what_is_wrong(const struct mirror *m, const struct frame *frame)
{
    if (frame->tag >= MIRROR_READS_MAX || m->reads[frame->tag].state != READ_SENT)
        return "answer to a read that was not asked for (tag)";
    const struct request *request = &m->reads[frame->tag].request;
    if (frame->status == 0 &&
        (frame->offset_bytes != request->offset_bytes || frame->payload_bytes != request->length_bytes))
        return "answer to another read than was asked for (offset_bytes, payload_bytes)";
    return NULL;
}

/* Two readers of one bad spot: the first mends it for both. */
static bool is_being_repaired(const struct mirror *m, struct range range)
{
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        const struct read *r = &m->reads[i];
        if ((r->state == READ_REPAIRING || r->state == READ_LOGGING) && range_overlaps(r->lock.range, range))
            return true;
    }
    return false;
}

const char *mirror_read_data(struct mirror *m, const struct frame *frame, struct buf *payload, struct actions *out)
{
    const char *wrong = what_is_wrong(m, frame);
    struct read *r = wrong ? NULL : &m->reads[frame->tag];
    if (r && frame->status == 0 && (!m->local || peer_may_answer(m, r))) {
        memcpy(r->request.buf->data, payload->data, r->request.length_bytes);
        read_answer(m, r, 0, out);
        m->reads_masked += r->result != 0 && !read_is_mend(m, r);
        if (m->local && !m->leg_failed && !is_being_repaired(m, r->lock.range)) {
            /* Under the read's shared lock: no change touches the range, and what others read there meanwhile is
             * either the same data or the error, which the peer masks for them, too. */
            r->payload = payload;
            read_repair(m, r, out);
            return NULL;
        }
        read_free(m, r, out);
    } else if (r) {
        if (frame->status)
            actions_note(out, NOTE_ERROR, "disk", "read failed on %s's disk: %s, offset %llu, length %llu", m->peer,
                         strerror(frame->status), (unsigned long long)r->request.offset_bytes,
                         (unsigned long long)r->request.length_bytes);
        /* The own disk's error, where there was one: it is the one to look after. */
        read_complete(m, r, r->result ? r->result : -EIO, out);
    }
    if (payload)
        buf_put(payload);
    return wrong;
}

void reads_peer_lost(struct mirror *m, struct actions *out)
{
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        struct read *r = &m->reads[i];
        if (r->state == READ_LOGGING) /* a slot of the log may need a flush of the peer, which may be long in coming */
            read_give_up_repair(m, r, out);
        if (r->state != READ_SENT)
            continue;
        r->state = READ_QUEUED;
        if (m->local && !peer_is_waited_for(m, r))
            read_complete(m, r, r->result, out);
    }
}

void reads_released(struct mirror *m, struct actions *out)
{
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        if (m->reads[i].state == READ_HELD)
            read_granted(m, &m->reads[i], out);
    }
}

/* The peer will not be asked: what the own disk says is the answer, an error or not. */
void reads_unreplaced(struct mirror *m, struct actions *out)
{
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        struct read *r = &m->reads[i];
        if (r->state != READ_QUEUED)
            continue;
        if (r->result)
            read_complete(m, r, r->result, out);
        else
            read_start_local(m, r, out);
    }
}

uint32_t reads_waiting(const struct mirror *m)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++)
        count += m->reads[i].state == READ_QUEUED || m->reads[i].state == READ_HELD;
    return count;
}

void reads_peer_ready(struct mirror *m, struct actions *out)
{
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        if (m->reads[i].state == READ_QUEUED && peer_may_answer(m, &m->reads[i]))
            read_send(m, &m->reads[i], out);
    }
}

void reads_fail_waiting(struct mirror *m, int32_t result, struct actions *out)
{
    /* One that ends gives its range back, perhaps to another: none of them reaches the disk any more. */
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        if (m->reads[i].state == READ_LOCKING)
            m->reads[i].result = result;
    }
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        enum read_state state = m->reads[i].state;
        if (state == READ_LOCKING || state == READ_QUEUED || state == READ_HELD)
            read_complete(m, &m->reads[i], result, out);
    }
}
