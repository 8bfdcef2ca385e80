/* A read that the peer sent, because its own leg cannot: locked, read into memory of the pool, answered. */
#include <errno.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/mirror/mirror_internal.h"

static void peer_read_free(struct mirror *m, struct peer_read *p, struct actions *out)
{
    if (p->buf) {
        /* Not before the answer has left, which carries it. */
        actions_add(out, ACT_BUF_PUT)->put.buf = p->buf;
        m->peer_reads_reading--;
    }
    p->buf = NULL;
    p->state = PEER_READ_FREE;
    m->peer_reads_busy--;
    list_remove(&p->link);
    list_append(&m->peer_reads_free, &p->link);
    range_unlock(m->locks, &p->lock, out);
}

static void peer_read_answer(struct mirror *m, struct peer_read *p, int32_t result, struct actions *out)
{
    if (p->session != m->session)
        return;
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = result ? NULL : p->buf;
    a->send.frame = (struct frame) {
        .kind = FRAME_READ_DATA,
        .status = (uint16_t)-result,
        .payload_bytes = result ? 0 : (uint32_t)p->frame.length_bytes,
        .epoch = p->frame.epoch,
        .offset_bytes = p->frame.offset_bytes,
        .length_bytes = p->frame.length_bytes,
        .tag = p->frame.tag,
        .payload_check = result ? 0 : checksum64(p->buf->data, p->frame.length_bytes),
    };
}

static bool peer_read_start(struct mirror *m, struct peer_read *p, struct actions *out)
{
    if (m->peer_reads_reading == MIRROR_PEER_READS_READING_MAX)
        return false;
    p->buf = buf_get(m->pool, p->frame.length_bytes, m->pool_keep_free_bytes);
    if (!p->buf)
        return false;
    m->peer_reads_reading++;
    p->state = PEER_READ_READING;
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = OP_FIRST_PEER_READ + (uint32_t)(p - m->peer_reads);
    a->disk.kind = OP_READ;
    a->disk.flags = 0;
    a->disk.offset_bytes = p->frame.offset_bytes;
    a->disk.length_bytes = p->frame.length_bytes;
    a->disk.buf = p->buf;
    return true;
}

const char *mirror_peer_read(struct mirror *m, const struct frame *frame, struct actions *out)
{
    struct range range = { frame->offset_bytes, frame->length_bytes };
    if (!m->pool)
        return "this node answers no reads";
    if (range.length_bytes == 0 || range.length_bytes > IO_BYTES_MAX || !range_fits(range, m->size_bytes))
        return "read beyond the end of the volume, of no length, or too long (offset_bytes, length_blocks)";
    if (list_empty(&m->peer_reads_free))
        return "more reads in flight than a primary has";
    struct peer_read *p = container_of(list_pop(&m->peer_reads_free), struct peer_read, link);
    m->peer_reads_busy++;
    p->frame = *frame;
    p->session = m->session;
    p->state = PEER_READ_LOCKING;
    if (range_lock(m->locks, &p->lock, range, false))
        peer_read_granted(m, p, out);
    return NULL;
}

void peer_read_granted(struct mirror *m, struct peer_read *p, struct actions *out)
{
    /* Its session has ended, and its turn to be forgotten has not come yet. */
    if (p->session != m->session)
        return;
    p->state = PEER_READ_WAITING;
    list_append(&m->peer_reads_waiting, &p->link);
    mirror_memory_came_back(m, out);
}

bool mirror_wants_memory(const struct mirror *m)
{
    return !list_empty(&m->peer_reads_waiting) && m->peer_reads_reading < MIRROR_PEER_READS_READING_MAX;
}

void mirror_memory_came_back(struct mirror *m, struct actions *out)
{
    for (struct list *node; (node = list_first(&m->peer_reads_waiting));) {
        struct peer_read *p = container_of(node, struct peer_read, link);
        if (!peer_read_start(m, p, out))
            return;
        list_remove(&p->link);
    }
}

void peer_read_disk_done(struct mirror *m, struct peer_read *p, int32_t result, struct actions *out)
{
    assert(p->state == PEER_READ_READING);
    if (result)
        actions_note(out, NOTE_ERROR, "disk", "read of the primary failed on %s: %s, offset %llu, length %llu",
                     m->backing, strerror(-result), (unsigned long long)p->frame.offset_bytes,
                     (unsigned long long)p->frame.length_bytes);
    peer_read_answer(m, p, result, out);
    peer_read_free(m, p, out);
    mirror_memory_came_back(m, out);
}

void peer_reads_forget_unstarted(struct mirror *m, struct actions *out)
{
    for (unsigned i = 0; i < MIRROR_PEER_READS_MAX; i++) {
        struct peer_read *p = &m->peer_reads[i];
        if (p->state == PEER_READ_LOCKING || p->state == PEER_READ_WAITING)
            peer_read_free(m, p, out);
    }
}
