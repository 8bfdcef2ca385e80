/* How far what clients wait for is, told every now and then. */
#include <stdio.h>

#include "repl/base/clock.h"
#include "repl/node/command_internal.h"

#define PROGRESS_EVERY_NS (250 * NS_PER_MS)
#define WAITING_TOLD_EVERY_NS (2 * NS_PER_S)

static void tell(struct command *c, const char *text, uint64_t done, uint64_t total, uint64_t now_ns)
{
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    c->told_ns = now_ns;
    control_send(c->client, frame, control_encode_progress(frame, text, done, total));
}

static const char *words_of_order(const struct command *c, const struct volume_status *s)
{
    switch (c->request.command) {
    case CONTROL_PROMOTE: return "promoting";
    case CONTROL_SWITCHOVER: return "switching over";
    case CONTROL_ADOPT: return "asking the witness";
    case CONTROL_VERIFY: return "comparing";
    case CONTROL_RESIZE: return s->growth.waits_for_peer ? "the peer's leg gets room, too" : "growing";
    case CONTROL_RESOLVE:
        return s->resolve.done_bytes < s->resolve.total_bytes ? "keeping" : "waiting to hear of the peer once more";
    case CONTROL_DEMOTE:
    case CONTROL_DOWN:
    case CONTROL_CREATE:
    case CONTROL_UP:
    case CONTROL_STATUS:
    case CONTROL_EVENTS:
    case CONTROL_WITNESS_STATUS:
    case CONTROL_WITNESS_HISTORY:
    case CONTROL_WITNESS_CONFIRM:
    case CONTROL_WITNESS_FORGET: break;
    }
    return "draining";
}

static void tell_order(struct command *c, bool due, uint64_t now_ns)
{
    bool verify = c->request.command == CONTROL_VERIFY, resize = c->request.command == CONTROL_RESIZE;
    bool resolve = c->request.command == CONTROL_RESOLVE;
    if (!due && !verify && !resize && !resolve)
        return;
    char text[CONFIG_PATH_BYTES + 32];
    struct volume_status s;
    volume_status(c->nv->volume, &s);
    if (verify && s.verify_total_bytes) {
        tell(c, "comparing", s.verify_done_bytes, s.verify_total_bytes, now_ns);
    } else if (resize && s.growth.total_bytes) {
        tell(c, "zeroing what is added", s.growth.done_bytes, s.growth.total_bytes, now_ns);
    } else if (resolve && s.resolve.done_bytes < s.resolve.total_bytes) {
        snprintf(text, sizeof(text), "keeping in %s", c->request.keep);
        tell(c, text, s.resolve.done_bytes, s.resolve.total_bytes, now_ns);
    } else if (resolve) {
        if (due)
            tell(c, words_of_order(c, &s), 0, 0, now_ns);
    } else if (due) {
        snprintf(text, sizeof(text), "%s, %u writes wait for the peer", words_of_order(c, &s), s.writes_waiting);
        tell(c, text, 0, 0, now_ns);
    }
}

static void tell_progress(struct command *c, uint64_t now_ns)
{
    bool due = now_ns - c->told_ns >= WAITING_TOLD_EVERY_NS;
    if (c->phase == PHASE_JOB && c->nv->state == STATE_CREATING) {
        struct job *job = &c->nv->job;
        uint64_t total = atomic_load_explicit(&job->total_bytes, memory_order_relaxed);
        uint64_t done = atomic_load_explicit(&job->done_bytes, memory_order_relaxed);
        if (total)
            tell(c, "zeroing", done, total, now_ns);
    } else if (c->phase == PHASE_ORDERED && c->nv->state == STATE_UP) {
        tell_order(c, due, now_ns);
    } else if (due) {
        tell(c, volume_state_name(c->nv->state), 0, 0, now_ns);
    }
}

uint64_t command_progress(struct node *n)
{
    uint64_t now_ns = clock_ns();
    bool anyone = false;
    list_for_each_safe (link, &n->commands) {
        struct command *c = container_of(link, struct command, link);
        if (!c->client || c->phase == PHASE_STREAMS || c->phase == PHASE_WITNESS)
            continue;
        anyone = true;
        if (!c->told_ns)
            c->told_ns = now_ns; /* what ends at once needs no telling */
        else if (now_ns - c->told_ns >= PROGRESS_EVERY_NS)
            tell_progress(c, now_ns);
    }
    return anyone ? now_ns + PROGRESS_EVERY_NS : UINT64_MAX;
}
