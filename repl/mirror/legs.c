/* Which legs count: the peer comes and goes, and one of the two may have to go on without the other. */
#include <errno.h>

#include "repl/mirror/mirror_internal.h"

void mirror_peer_hold(struct mirror *m)
{
    assert(!m->sending || m->sent_frames == 0);
    m->sending = false;
    m->alone = false;
}

void mirror_raise_lsn(struct mirror *m, uint64_t lsn) { m->lsn = max_u64(m->lsn, lsn); }

void mirror_set_epoch(struct mirror *m, uint64_t epoch)
{
    assert(epoch >= m->epoch);
    m->epoch = epoch;
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
    m->alone = false;
    /* Queued anew: some were sent in the last session and some were not, and LSN order is to hold for all. */
    while (list_pop(&m->send_queue)) {}
    list_for_each (pos, &m->changes_live) {
        struct change *c = container_of(pos, struct change, live);
        assert(c->remote != REMOTE_SENT);
        /* What was given up waits for the own disk only. The peer may have gone on since: it must not get it now. */
        if (c->remote == REMOTE_QUEUED && c->result == 0)
            list_append(&m->send_queue, &c->queue);
    }
    changes_send(m, out);
    reads_peer_ready(m, out);
    admission_retry(m, out);
}

void mirror_peer_lost(struct mirror *m, struct actions *out)
{
    m->session++;
    m->sending = false;
    changes_step(m, CHANGE_PEER_LOST, 0, out);
    m->peer_readable = false;
    reads_peer_lost(m, out);
    peer_changes_forget_unstarted(m, out);
    peer_reads_forget_unstarted(m, out);
}

void mirror_set_peer_readable(struct mirror *m, bool readable, struct actions *out)
{
    assert(!readable || m->sending);
    m->peer_readable = readable;
    if (readable)
        reads_peer_ready(m, out);
}

void mirror_set_replaceable(struct mirror *m, bool replaceable, struct actions *out)
{
    assert(!replaceable || (m->peer && !m->alone));
    bool undecided = is_undecided(m);
    m->replaceable = replaceable;
    if (undecided && !replaceable)
        changes_step(m, CHANGE_UNREPLACED, 0, out);
    if (m->local && !replaceable)
        reads_unreplaced(m, out);
    if (undecided && !replaceable)
        admission_retry(m, out);
}

void mirror_hold_reads(struct mirror *m, bool hold, struct actions *out)
{
    bool released = m->reads_held && !hold;
    m->reads_held = hold;
    if (released)
        reads_released(m, out);
}

void mirror_go_alone(struct mirror *m, struct actions *out)
{
    assert(!m->sending && m->local);
    m->alone = true;
    if (m->bitmap)
        mirror_unflushed_to_bitmap(m);
    /* All have their bits before the first completes. What the peer has acknowledged is on both legs, or will be. */
    list_for_each (pos, &m->changes_live) {
        struct change *c = container_of(pos, struct change, live);
        if (c->started && c->remote != REMOTE_DONE)
            change_mark(m, c);
    }
    changes_step(m, CHANGE_ALONE, 0, out);
    admission_retry(m, out);
}

void mirror_set_local(struct mirror *m, bool local, struct actions *out)
{
    if (local) {
        assert(mirror_is_idle(m));
        m->local = true;
        m->leg_failed = false;
        return;
    }
    assert(m->peer && !m->alone);
    m->local = false;
    changes_step(m, CHANGE_LEG_OUT, 0, out);
    admission_retry(m, out);
}

void mirror_fail_leg(struct mirror *m, struct actions *out)
{
    m->leg_failed = true;
    m->reads_lie = true;
    admission_retry(m, out);
}

static void fail_changes(struct mirror *m, int32_t result, bool also_acked, struct actions *out)
{
    assert(result < 0 && !m->sending);
    /* All have their result before the first gives its range back: whom that lets go on must not reach the disk. */
    list_for_each (pos, &m->changes_live) {
        struct change *c = container_of(pos, struct change, live);
        if (c->result == 0 && (also_acked || c->remote != REMOTE_DONE))
            c->result = result;
        /* Not only when the disk is done with it: the next hello comes before. */
        if (c->result && c->started && m->local)
            change_mark(m, c);
    }
    /* Reads that wait behind these changes would see what the peer, who goes on alone, may not have. */
    reads_fail_waiting(m, result, out);
    changes_step(m, CHANGE_ABANDONED, result, out);
}

void mirror_abandon_waiting(struct mirror *m, int32_t result, struct actions *out)
{
    fail_changes(m, result, false, out);
}

void mirror_fail_all(struct mirror *m, int32_t result, struct actions *out) { fail_changes(m, result, true, out); }
