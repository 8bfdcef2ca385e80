/* `when-deposed: wait`: clients of a primary that was deposed are held. None of them is answered any more, and none of
 * what it asks is carried out, ever: its connection only stays open, until somebody ends that.
 *
 * To the mirror it is as if all had failed. What comes back of it frees buffers, and nobody is told. */
#include "repl/engine/engine_internal.h"

bool hold_begin(struct engine *e)
{
    uint64_t fail_after_ns = e->config.failover.has_register ? e->config.failover.fail_after_ns : 0;
    if (!e->config.hold_when_deposed)
        return false;
    e->held_since_ns = e->now_ns;
    e->held_until_ns = fail_after_ns ? e->now_ns + fail_after_ns : UINT64_MAX;
    return true;
}

bool hold_end(struct engine *e, struct actions *out)
{
    if (!e->held_since_ns)
        return false;
    hold_forget(e);
    actions_add(out, ACT_SERVE)->serve.on = false;
    return true;
}

void hold_forget(struct engine *e) { e->held_since_ns = 0; }

void hold_look(struct engine *e, struct actions *out)
{
    if (e->held_since_ns && e->now_ns >= e->held_until_ns && hold_end(e, out))
        actions_note(out, NOTE_WARNING, "role",
                     "who is held still since this node was deposed is disconnected (`fail-after`)");
}

uint64_t hold_deadline_ns(const struct engine *e) { return e->held_since_ns ? e->held_until_ns : UINT64_MAX; }
