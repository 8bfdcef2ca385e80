/* A change or flush that the peer sent: locked, put on the disk, acknowledged. */
#include <errno.h>
#include <string.h>

#include "repl/mirror/mirror_internal.h"

static enum op_kind op_kind_of(enum frame_kind kind)
{
    switch (kind) {
    case FRAME_WRITE: return OP_WRITE;
    case FRAME_DISCARD: return OP_DISCARD;
    case FRAME_WRITE_ZEROES: return OP_WRITE_ZEROES;
    case FRAME_FLUSH: return OP_FLUSH;
    case FRAME_HELLO:
    case FRAME_READY:
    case FRAME_REFUSE:
    case FRAME_HEARTBEAT:
    case FRAME_ACK:
    case FRAME_DECREE:
    case FRAME_SYNC_BITS:
    case FRAME_SYNC_ASK:
    case FRAME_SYNC_DATA:
    case FRAME_SYNC_STABLE:
    case FRAME_SYNC_DONE:
    case FRAME_READ:
    case FRAME_READ_DATA:
    case FRAME_VERIFY_ASK:
    case FRAME_VERIFY_REPLY:
    case FRAME_VERIFY_FOUND:
    case FRAME_RESIZE:
    case FRAME_RESIZE_REPLY: break;
    }
    assert(!"the engine passes changes and flushes only");
    return OP_FLUSH;
}

static bool has_range(const struct peer_change *p) { return p->frame.kind != FRAME_FLUSH; }

static void acknowledge(const struct frame *frame, int32_t result, struct actions *out)
{
    struct action *a = actions_add(out, ACT_SEND);
    a->send.payload = NULL;
    a->send.frame = (struct frame) {
        .kind = FRAME_ACK,
        .status = (uint16_t)-result,
        .epoch = frame->epoch,
        .lsn = frame->lsn,
        .tag = frame->tag,
    };
}

static void peer_change_free(struct mirror *m, struct peer_change *p, struct actions *out)
{
    if (p->payload)
        buf_put(p->payload);
    p->payload = NULL;
    list_remove(&p->live);
    list_append(&m->peer_free, &p->live);
    if (has_range(p))
        range_unlock(m->locks, &p->lock, out);
}

const char *mirror_peer_change(struct mirror *m, const struct frame *frame, struct buf *payload, struct actions *out)
{
    struct range range = { frame->offset_bytes, frame->length_bytes };
    const char *wrong = NULL;
    if (frame->kind != FRAME_FLUSH && !range_fits(range, m->size_bytes))
        wrong = "change beyond the end of the volume (offset_bytes, length_blocks)";
    else if (frame->lsn > m->lsn && frame->lsn - m->lsn > FRAME_LSN_JUMP_MAX)
        wrong = "change far ahead of all before it (lsn)";
    else if (list_empty(&m->peer_free))
        wrong = "more changes in flight than the window allows";
    if (wrong || m->leg_failed) {
        if (payload)
            buf_put(payload);
        if (!wrong)
            acknowledge(frame, -EIO, out);
        return wrong;
    }
    struct peer_change *p = container_of(list_pop(&m->peer_free), struct peer_change, live);
    list_append(&m->peer_live, &p->live);
    p->frame = *frame;
    p->payload = payload;
    p->session = m->session;
    p->started = false;
    if (!has_range(p) || range_lock(m->locks, &p->lock, range, true))
        peer_change_granted(m, p, out);
    return NULL;
}

void peer_change_granted(struct mirror *m, struct peer_change *p, struct actions *out)
{
    p->started = true;
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = OP_FIRST_PEER_CHANGE + (uint32_t)(p - m->peer_changes);
    a->disk.kind = op_kind_of(p->frame.kind);
    a->disk.flags = (p->frame.flags & FRAME_FLAG_FUA ? OP_FLAG_FUA : 0) |
                    (p->frame.flags & FRAME_FLAG_KEEP_ALLOCATED ? OP_FLAG_KEEP_ALLOCATED : 0);
    a->disk.offset_bytes = p->frame.offset_bytes;
    a->disk.length_bytes = p->frame.length_bytes;
    a->disk.buf = p->payload;
}

void peer_change_disk_done(struct mirror *m, struct peer_change *p, int32_t result, struct actions *out)
{
    if (result) {
        bool durable = !has_range(p) || (p->frame.flags & FRAME_FLAG_FUA);
        actions_note(out, NOTE_ERROR, "disk", "%s of the primary failed on %s: %s, offset %llu, length %llu, LSN %llu",
                     frame_kind_name(p->frame.kind), m->backing, strerror(-result),
                     (unsigned long long)p->frame.offset_bytes, (unsigned long long)p->frame.length_bytes,
                     (unsigned long long)p->frame.lsn);
        mirror_local_failure(m, durable, false);
        m->faults.unheard |= p->session != m->session;
    } else {
        m->lsn = max_u64(m->lsn, p->frame.lsn);
    }
    /* After a failure of the leg nothing more is acknowledged on it. */
    if (m->leg_failed && result == 0)
        result = -EIO;
    if (p->session == m->session)
        acknowledge(&p->frame, result, out);
    peer_change_free(m, p, out);
}

void peer_changes_forget_unstarted(struct mirror *m, struct actions *out)
{
    /* The latest first: whom a forgotten one would let go on is forgotten already. */
    struct list *pos = m->peer_live.prev;
    while (pos != &m->peer_live) {
        struct peer_change *p = container_of(pos, struct peer_change, live);
        pos = pos->prev;
        if (!p->started)
            peer_change_free(m, p, out);
    }
}
