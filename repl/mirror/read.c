/* A read: from the local leg, and never ahead of a change that is not acknowledged yet. */
#include <string.h>

#include "repl/mirror/mirror_internal.h"

void read_request(struct mirror *m, const struct request *request, struct actions *out)
{
    struct read *r = container_of(list_pop(&m->reads_free), struct read, free);
    m->reads_busy++;
    r->request = *request;
    struct range range = { request->offset_bytes, request->length_bytes };
    assert(range_fits(range, m->size_bytes));
    /* A shared lock: what a change in flight has put on this leg may not be on the peer's yet. Were it shown, and this
     * node lost then, the reader would have seen something that never was. */
    r->waiting = true;
    if (range_lock(m->locks, &r->lock, range, false))
        read_granted(m, r, out);
}

void read_granted(struct mirror *m, struct read *r, struct actions *out)
{
    r->waiting = false;
    struct action *a = actions_add(out, ACT_DISK);
    a->disk.op = OP_FIRST_READ + (uint32_t)(r - m->reads);
    a->disk.kind = OP_READ;
    a->disk.flags = 0;
    a->disk.offset_bytes = r->request.offset_bytes;
    a->disk.length_bytes = r->request.length_bytes;
    a->disk.buf = r->request.buf;
}

static void read_complete(struct mirror *m, struct read *r, int32_t result, struct actions *out)
{
    struct action *a = actions_add(out, ACT_COMPLETE);
    a->complete.cookie = r->request.cookie;
    a->complete.result = result;
    m->reads_busy--;
    list_append(&m->reads_free, &r->free);
    range_unlock(m->locks, &r->lock, out);
}

void read_disk_done(struct mirror *m, struct read *r, int32_t result, struct actions *out)
{
    if (result)
        actions_note(out, NOTE_ERROR, "disk", "read failed on %s: %s, offset %llu, length %llu", m->backing,
                     strerror(-result), (unsigned long long)r->request.offset_bytes,
                     (unsigned long long)r->request.length_bytes);
    read_complete(m, r, result, out);
}

void reads_fail_waiting(struct mirror *m, int32_t result, struct actions *out)
{
    for (unsigned i = 0; i < MIRROR_READS_MAX; i++) {
        if (m->reads[i].waiting) {
            m->reads[i].waiting = false;
            read_complete(m, &m->reads[i], result, out);
        }
    }
}
