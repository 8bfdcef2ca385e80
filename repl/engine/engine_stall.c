/* Writes that hang are told of: a disk that neither answers nor fails holds them up for as long as it likes.
 *
 * A peer that is not there is told of elsewhere, and gone on without where that is allowed. A disk that hangs, on
 * either node, is not: its daemon goes on sending heartbeats, and what it may still write some day cannot be taken
 * back. So an operator has to know. */
#include "repl/engine/engine_internal.h"

#define LOOK_EVERY_NS (5 * NS_PER_S) /* so that nothing is counted or timed on the write path */
#define STALL_NS (10 * NS_PER_S)

static const char *stalled_by(const struct engine *e, enum mirror_wait wait, struct actions *out)
{
    switch (wait) {
    case WAIT_NOTHING: break;
    case WAIT_PEER:
        if (e->stable == STABLE_FLUSHING || (e->stable == STABLE_WANTED && e->own_flush_busy))
            return actions_text(out, "a flush of %s, which neither ends nor fails", e->config.backing);
        if (e->stable == STABLE_WANTED) /* what the peer has, and this disk has not yet */
            return actions_text(out, "%s, which neither answers nor fails", e->config.backing);
        if (e->session == SESSION_UP)
            return actions_text(out, "%s, which is connected, to answer: its disk may hang", e->config.peer);
        break;
    case WAIT_RANGE: return "a read of the same blocks, or a resync or verify of them, that does not end";
    case WAIT_LOG: return "its activity log, and the flush that makes room in it";
    case WAIT_DISK: return actions_text(out, "%s, which neither answers nor fails", e->config.backing);
    }
    return NULL;
}

void stall_look(struct engine *e, struct actions *out)
{
    if (!is_leading(e)) {
        e->stall_look_ns = UINT64_MAX;
        e->stalled = false;
        return;
    }
    if (e->stall_look_ns != UINT64_MAX && e->now_ns < e->stall_look_ns)
        return;
    e->stall_look_ns = e->now_ns + LOOK_EVERY_NS;
    uint64_t since_ns;
    enum mirror_wait wait = mirror_oldest(e->mirror, &since_ns);
    bool long_ago = wait != WAIT_NOTHING && e->now_ns - since_ns >= STALL_NS;
    const char *by = long_ago ? stalled_by(e, wait, out) : NULL;
    if (by && !e->stalled)
        actions_note(out, NOTE_ERROR, "stall", "a write of the application's has waited for %llu s on %s for %s",
                     (unsigned long long)((e->now_ns - since_ns) / NS_PER_S), e->config.node, by);
    else if (!by && e->stalled)
        actions_note(out, NOTE_INFO, "stall", "writes go on");
    e->stalled = by != NULL;
}
