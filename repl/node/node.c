/* The daemon without its process: the loop, and the shutting down. */
#include "repl/node/node.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/node/node_internal.h"

#define END_GRACE_NS (5 * NS_PER_S) /* for threads and hooks to end after draining was given up */
/* Two nodes that are told to end at about the same time: as much as one hears of it before the other. */
#define YIELD_NS (2 * NS_PER_S)

/* ---- what volumes' threads tell ---- */

static enum log_level log_level_of(enum note_level level)
{
    switch (level) {
    case NOTE_INFO: return LOG_LEVEL_INFO;
    case NOTE_WARNING: return LOG_LEVEL_WARNING;
    case NOTE_ERROR: return LOG_LEVEL_ERROR;
    }
    return LOG_LEVEL_ERROR;
}

static void host_log(void *ctx, const char *volume, enum log_level level, const char *text)
{
    struct node *n = ctx;
    log_text(n->options.log, level, volume, text);
}

static void host_note(void *ctx, const char *volume, enum note_level level, const char *topic, const char *text)
{
    struct node *n = ctx;
    log_line(n->options.log, log_level_of(level), volume, "%s: %s", topic, text);
    struct event_record record;
    event_record_fill(&record, volume, level, topic, text);
    queue_put(&n->notes, &record);
}

static void host_served(void *ctx, const char *volume, bool on, uint64_t epoch)
{
    struct node *n = ctx;
    hooks_run(n->hooks, volume, on ? HOOK_PROMOTE : HOOK_DEMOTE, epoch);
}

void node_note(struct node *n, const char *volume, enum note_level level, const char *topic, const char *format, ...)
{
    char text[ACTION_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    host_note(n, volume, level, topic, text);
}

static void control_log(void *ctx, enum log_level level, const char *text)
{
    struct node *n = ctx;
    log_text(n->options.log, level, NULL, text);
}

static void take_notes(struct node *n)
{
    struct event_record record;
    queue_awake(&n->notes);
    bool any = false;
    while (queue_take(&n->notes, &record)) {
        events_add(&n->events, &record);
        any = true;
    }
    uint64_t dropped = queue_take_dropped(&n->notes);
    if (dropped) {
        char text[96];
        snprintf(text, sizeof(text), "%llu events were dropped: they came too fast", (unsigned long long)dropped);
        event_record_fill(&record, NULL, NOTE_WARNING, "events", text);
        events_add(&n->events, &record);
        any = true;
    }
    if (any)
        command_events(n);
}

static void take_answers(struct node *n)
{
    struct answer answer;
    queue_awake(&n->answers);
    while (queue_take(&n->answers, &answer)) {
        switch (answer.kind) {
        case ANSWER_WITNESS: command_witness_answered(answer.command); break;
        case ANSWER_ORDER: command_ordered(answer.command, answer.result, answer.text); break;
        case ANSWER_JOB: {
            enum job_kind kind = answer.nv->job.kind;
            node_volume_end_job(answer.nv);
            command_job_ended(answer.nv, kind);
            break;
        }
        }
    }
}

/* ---- shutting down ---- */

static unsigned count_jobs(const struct node *n)
{
    unsigned count = 0;
    for (unsigned i = 0; i < n->volume_count; i++)
        count += node_volume_has_job(&n->volumes[i]);
    return count;
}

static unsigned count_up(const struct node *n)
{
    unsigned count = 0;
    for (unsigned i = 0; i < n->volume_count; i++)
        count += n->volumes[i].state == STATE_UP;
    return count;
}

static bool draining_was_given_up(const struct node *n) { return n->abandon_at_ns != UINT64_MAX; }

/* Ends volumes as a crash would: what was acknowledged is safe, what waits was never acknowledged. */
static void give_up_draining(struct node *n, const char *why)
{
    n->abandon_at_ns = clock_ns() + END_GRACE_NS;
    for (unsigned i = 0; i < n->volume_count; i++) {
        struct node_volume *nv = &n->volumes[i];
        if (nv->state == STATE_CREATING) {
            n->unclean = true;
            node_note(n, nv->config->volume, NOTE_ERROR, "volume", "%s: creating it was cut short; do it again", why);
        }
        if (nv->state != STATE_UP)
            continue;
        n->unclean = true;
        struct volume_status s;
        volume_status(nv->volume, &s);
        node_note(n, nv->config->volume, NOTE_ERROR, "volume",
                  "%s: ended without draining; %u writes that waited for the peer were never acknowledged", why,
                  s.writes_waiting);
        struct err err = { 0 };
        if (node_volume_begin(nv, JOB_STOP, false, false, &err))
            node_note(n, nv->config->volume, NOTE_ERROR, "volume", "%s", err.text);
    }
}

/* Who sends a signal, or shuts the machine down, cannot be asked whether that is meant. */
static void warn_of_only_good_legs(struct node *n)
{
    for (unsigned i = 0; i < n->volume_count; i++) {
        struct node_volume *nv = &n->volumes[i];
        if (nv->state == STATE_UP && command_takes_only_good_leg(nv))
            node_note(n, nv->config->volume, NOTE_WARNING, "volume",
                      "told to end, and this is its only up-to-date leg: nobody can use the volume until this node is "
                      "back, as %s has none, as far as is known here",
                      config_peer(nv->config)->name);
    }
}

static void begin_ending(struct node *n)
{
    n->ending = true;
    n->drain_until_ns = clock_ns() + n->options.drain_ns_max;
    n->yield_until_ns = clock_ns() + min_u64(YIELD_NS, n->options.drain_ns_max);
    if (n->options.stopping)
        n->options.stopping(n->options.ctx);
    warn_of_only_good_legs(n);
    unsigned up = count_up(n);
    log_line(n->options.log, LOG_LEVEL_INFO, NULL,
             "shutting down: %u volume%s to drain, for at most %llu s; another signal ends at once", up,
             up == 1 ? "" : "s", (unsigned long long)(n->options.drain_ns_max / NS_PER_S));
}

/* A primary needs its peer for its last writes, and to end cleanly. If both are told to end, the secondary must not be
 * the first; if only the secondary is, all goes on while it waits. */
static bool yields_to_primary(struct node_volume *nv, uint64_t now_ns)
{
    struct node *n = nv->node;
    if (now_ns >= n->yield_until_ns)
        return false;
    struct volume_status s;
    volume_status(nv->volume, &s);
    bool yields = s.role == ROLE_SECONDARY && s.link == LINK_CONNECTED && s.peer_leads;
    if (yields && !nv->yield_told)
        log_line(n->options.log, LOG_LEVEL_INFO, nv->config->volume,
                 "waits for %llu s at most for %s, which is primary, to end first if it is told to end, too",
                 (unsigned long long)(YIELD_NS / NS_PER_S), config_peer(nv->config)->name);
    nv->yield_told |= yields;
    return yields;
}

/* Returns true when nothing is left to be ended. */
static bool go_on_ending(struct node *n)
{
    uint64_t now_ns = clock_ns();
    for (unsigned i = 0; i < n->volume_count && !draining_was_given_up(n); i++) {
        struct node_volume *nv = &n->volumes[i];
        bool due = nv->state == STATE_UP && !nv->detach_ordered && nv->detach_again_ns <= now_ns;
        if (due && !yields_to_primary(nv, now_ns))
            command_detach(nv);
    }
    unsigned left = count_up(n) + count_jobs(n) + hooks_count(n->hooks);
    if (left && now_ns >= n->drain_until_ns && !draining_was_given_up(n))
        give_up_draining(n, "the time to drain is over");
    return left == 0 || now_ns >= n->abandon_at_ns;
}

static void take_signals(struct node *n)
{
    struct signalfd_siginfo info;
    while (read(n->options.signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGHUP)
            node_note(n, NULL, NOTE_WARNING, "config",
                      "SIGHUP: nothing was read again; the configuration is read when lockstepd starts, and only then");
        else if (!n->ending)
            begin_ending(n);
        else if (!draining_was_given_up(n))
            give_up_draining(n, "told to end at once");
    }
}

/* ---- the loop ---- */

static int poll_timeout_ms(uint64_t due_ns)
{
    uint64_t now_ns = clock_ns();
    if (due_ns == UINT64_MAX)
        return -1;
    if (due_ns <= now_ns)
        return 0;
    return (int)min_u64((due_ns - now_ns) / NS_PER_MS + 1, 60 * 1000);
}

/* Who waits for `ready` may end the daemon if it does not come: one disk that hangs must not take all volumes along. */
static void tell_when_ready(struct node *n)
{
    bool waits = count_jobs(n) > 0;
    if (n->ready_told || (waits && clock_ns() < n->ready_until_ns))
        return;
    n->ready_told = true;
    for (unsigned i = 0; i < n->volume_count; i++)
        if (n->volumes[i].state == STATE_STARTING)
            node_note(n, n->volumes[i].config->volume, NOTE_WARNING, "volume",
                      "takes long to be brought up, and is not waited for any more: its disk, or looking up a name of "
                      "its `paths`, does not answer");
    if (n->options.ready)
        n->options.ready(n->options.ctx);
}

enum node_end node_run(struct node *n)
{
    for (;;) {
        tell_when_ready(n); /* before waiting: there may be no volume to wait for */
        uint64_t due_ns = min_u64(control_deadline_ns(n->control), command_progress(n));
        if (!n->ready_told)
            due_ns = min_u64(due_ns, n->ready_until_ns);
        if (n->ending) {
            if (go_on_ending(n))
                break;
            due_ns = min_u64(due_ns, clock_ns() + NS_PER_S / 10);
        }
        struct pollfd fds[] = {
            { .fd = control_fd(n->control), .events = POLLIN },
            { .fd = queue_wake_fd(&n->notes), .events = POLLIN },
            { .fd = queue_wake_fd(&n->answers), .events = POLLIN },
            { .fd = n->options.signal_fd, .events = POLLIN },
        };
        if (poll(fds, ARRAY_LEN(fds), poll_timeout_ms(due_ns)) < 0)
            assert(errno == EINTR);
        take_answers(n);
        take_notes(n);
        take_signals(n);
        control_step(n->control);
    }
    bool hooks_ended = hooks_end(n->hooks);
    take_notes(n);
    control_step(n->control);
    if (count_jobs(n) || !hooks_ended)
        return NODE_ABANDONED;
    return n->unclean ? NODE_UNCLEAN : NODE_CLEAN;
}

static void warn_of_config(const struct node_volume *nv)
{
    const struct volume_config *config = nv->config;
    if (config->tls_missing)
        node_note(nv->node, config->volume, NOTE_WARNING, "config",
                  "the link is not encrypted; write `tls: none` into its section if that is meant");
    if (config->link_is_open)
        node_note(
            nv->node, config->volume, NOTE_WARNING, "config",
            "the link leaves this machine and is neither encrypted nor authenticated (`tls: none`): it belongs on "
            "a network of its own");
    if (config->witness.is_open)
        node_note(nv->node, config->volume, NOTE_WARNING, "config",
                  "what is asked of the witness leaves this machine and is neither encrypted nor authenticated: it "
                  "belongs on a network of its own, as who reaches the witness may decide about the volume");
    if (config_self(config)->device_is_open)
        node_note(
            nv->node, config->volume, NOTE_WARNING, "config",
            "whoever reaches %s can read and write the volume while this node is primary: NBD asks for no password "
            "here. Use `nbd:unix:`, or an address on a network of its own",
            config_self(config)->device);
}

static void witness_note(void *ctx, const char *volume, enum note_level level, const char *text)
{
    host_note(ctx, volume, level, "witness", text);
}

/* Before the volumes: they may be asking it. */
static int open_witness(struct node *n, struct err *err)
{
    const struct witness_config *config = &n->options.config->witness;
    if (!n->options.config->has_witness)
        return 0;
    struct witness_options options = {
        .listen = config->listen,
        .state = config->state,
        .ctx = n,
        .tell = witness_note,
    };
    n->witness = witness_open(&options, err);
    if (!n->witness)
        return err->code;
    if (config->is_open)
        node_note(n, NULL, NOTE_WARNING, "config",
                  "whoever reaches the witness on %s can change who serves (`tls: none`): it belongs on a network of "
                  "its own",
                  config->listen);
    if (config->tls_missing)
        node_note(n, NULL, NOTE_WARNING, "config",
                  "the witness is not encrypted; write `tls: none` into its section if that is meant");
    return 0;
}

struct node *node_open(const struct node_options *options, struct err *err)
{
    struct node *n = calloc(1, sizeof(*n));
    struct node_volume *volumes = calloc(options->config->count + 1, sizeof(*volumes));
    if (!n || !volumes) {
        err_set(err, -ENOMEM, "out of memory");
        free(n);
        free(volumes);
        return NULL;
    }
    n->options = *options;
    n->abandon_at_ns = UINT64_MAX;
    n->ready_until_ns = clock_ns() + options->ready_ns_max;
    n->volumes = volumes;
    n->volume_count = options->config->count;
    n->host = (struct volume_host) { .ctx = n, .log = host_log, .note = host_note, .served = host_served };
    list_init(&n->commands);
    struct control_config control = {
        .path = options->control_path,
        .ctx = n,
        .request = command_request,
        .writable = command_writable,
        .gone = command_gone,
        .log = control_log,
    };
    n->notes.wake_fd = -1;
    n->answers.wake_fd = -1;
    if (events_open(&n->events) || queue_open(&n->notes, NOTES_WAITING_MAX, sizeof(struct event_record)) ||
        queue_open(&n->answers, ANSWERS_WAITING_MAX, sizeof(struct answer)))
        err_set(err, -ENOMEM, "out of memory or descriptors");
    else if ((n->registers = registers_open(options->config, err)) &&
             (n->hooks = hooks_open(options->config, &n->host, err)))
        n->control = control_open(&control, err);
    n->host.registers = n->registers;
    if (!n->control || open_witness(n, err)) {
        node_close(n);
        return NULL;
    }
    for (unsigned i = 0; i < n->volume_count; i++) {
        struct node_volume *nv = &n->volumes[i];
        nv->node = n;
        nv->config = &options->config->volumes[i];
        nv->state = STATE_DOWN;
        warn_of_config(nv);
        if (node_volume_begin(nv, JOB_START, false, false, &nv->err)) {
            nv->state = STATE_FAILED;
            node_note(n, nv->config->volume, NOTE_ERROR, "volume", "%s", nv->err.text);
        }
    }
    return n;
}

void node_close(struct node *n)
{
    if (n->witness)
        witness_close(n->witness); /* answers what it was asked */
    if (n->control)
        control_close(n->control);
    while (!list_empty(&n->commands))
        command_free(container_of(list_first(&n->commands), struct command, link));
    if (n->answers.wake_fd >= 0)
        queue_close(&n->answers);
    if (n->notes.wake_fd >= 0)
        queue_close(&n->notes);
    registers_close(n->registers);
    hooks_close(n->hooks);
    events_close(&n->events);
    free(n->volumes);
    free(n);
}
