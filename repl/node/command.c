/* What a client asks for: from the request over orders and jobs to the result, with its exit code and what to do. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/base/scoped.h"
#include "repl/node/node_internal.h"

#define PROGRESS_EVERY_NS (250 * NS_PER_MS)
#define WAITING_TOLD_EVERY_NS (2 * NS_PER_S)

void command_free(struct command *c)
{
    list_remove(&c->link);
    free(c->witness);
    free(c);
}

void command_finish(struct command *c, enum control_exit code, const char *format, ...)
{
    char text[CONTROL_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    if (c->client)
        control_end(c->client, code, text);
    command_free(c);
}

/* ---- status ---- */

static const char *why_not_up(const struct node_volume *nv, char *out, size_t out_bytes)
{
    const char *volume = nv->config->volume;
    switch (nv->state) {
    case STATE_NOT_CREATED:
    case STATE_FAILED: snprintf(out, out_bytes, "%s", nv->err.text); break;
    case STATE_DOWN: snprintf(out, out_bytes, "the volume is down: bring it up with `lockstep up %s`", volume); break;
    case STATE_STARTING: snprintf(out, out_bytes, "the volume is being brought up"); break;
    case STATE_CREATING: snprintf(out, out_bytes, "the volume is being created"); break;
    case STATE_STOPPING: snprintf(out, out_bytes, "the volume is being taken down"); break;
    case STATE_UP: out[0] = 0; break;
    }
    return out;
}

static size_t encode_volume(const struct node_volume *nv, uint8_t *frame)
{
    char why[sizeof(nv->err.text)];
    struct volume_status status;
    if (nv->state == STATE_UP)
        volume_status(nv->volume, &status);
    return control_encode_volume(frame, nv->config, volume_state_name(nv->state), why_not_up(nv, why, sizeof(why)),
                                 nv->state == STATE_UP ? &status : NULL);
}

/* Sends as much as there is room for; goes on when the client has read it. */
static void stream_status(struct command *c)
{
    struct node *n = c->node;
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    if (c->cursor == 0) {
        if (!control_send(c->client, frame, control_encode_node(frame, n->options.name, c->nv ? 1 : n->volume_count)))
            return;
        c->cursor = 1;
    }
    unsigned count = c->nv ? 1 : n->volume_count;
    for (; c->cursor - 1 < count; c->cursor++) {
        const struct node_volume *nv = c->nv ? c->nv : &n->volumes[c->cursor - 1];
        if (!control_send(c->client, frame, encode_volume(nv, frame)))
            return;
    }
    command_finish(c, CONTROL_DONE, "%s", "");
}

/* ---- events ---- */

static bool send_missed(struct command *c, uint64_t missed)
{
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    struct event_record r;
    char text[96];
    snprintf(text, sizeof(text), "%llu events are missing here: they came faster than they were read",
             (unsigned long long)missed);
    event_record_fill(&r, NULL, NOTE_WARNING, "events", text);
    return control_send(c->client, frame, control_encode_event(frame, &r));
}

static void stream_events(struct command *c)
{
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    for (;;) {
        uint64_t before = c->cursor;
        uint64_t missed;
        const struct event_record *r =
            events_next(&c->node->events, &c->cursor, c->nv ? c->nv->config->volume : NULL, &missed);
        if (missed && !send_missed(c, missed)) {
            c->cursor = before;
            return;
        }
        if (!r)
            break;
        if (!control_send(c->client, frame, control_encode_event(frame, r))) {
            c->cursor = missed ? r->sequence : before; /* what is missing was told */
            return;
        }
    }
    if (!c->request.follow)
        command_finish(c, CONTROL_DONE, "%s", "");
}

static void stream(struct command *c)
{
    if (control_is_for_witness(c->request.command))
        command_witness_stream(c);
    else if (c->request.command == CONTROL_STATUS)
        stream_status(c);
    else
        stream_events(c);
}

void command_events(struct node *n)
{
    list_for_each_safe (link, &n->commands) {
        struct command *c = container_of(link, struct command, link);
        if (c->phase == PHASE_STREAMS && c->request.command == CONTROL_EVENTS)
            stream_events(c);
    }
}

/* ---- orders ---- */

static enum control_exit exit_code_of(int result)
{
    switch (result) {
    case 0: return CONTROL_DONE;
    case -EPERM:
    case -EEXIST: return CONTROL_REFUSED;
    case -ENOTCONN:
    case -EHOSTUNREACH: return CONTROL_UNREACHABLE;
    case -ETIMEDOUT: return CONTROL_TIMED_OUT;
    default: return CONTROL_FAILED;
    }
}

/* On the volume's thread. */
static void order_done(void *ctx, int result, const char *text)
{
    struct command *c = ctx;
    struct answer answer = { .kind = ANSWER_ORDER, .command = c, .result = result };
    if (c->request.command == CONTROL_VERIFY && result == -EILSEQ)
        volume_verify_places(c->volume, &c->places);
    if (c->request.command == CONTROL_RESOLVE)
        c->has_kept = volume_has_kept(c->volume);
    snprintf(answer.text, sizeof(answer.text), "%s", text ? text : "");
    bool put = queue_put(&c->node->answers, &answer);
    assert(put);
}

/* A crash must not take the directory's name with it, once a file in it is all that is left of a leg's changes. What
 * else may be wrong, the file will tell. */
static void make_state(const char *state)
{
    char above[CONFIG_PATH_BYTES];
    if (mkdir(state, 0700) < 0)
        return;
    snprintf(above, sizeof(above), "%s", state);
    CLEANUP_CLOSE int fd = open(dirname(above), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        fsync(fd);
}

/* Named after the volume and the time, by the second. */
static void choose_keep(struct command *c)
{
    const char *state = c->node->options.state ? c->node->options.state : CONFIG_STATE_DIR;
    char stamp[32];
    time_t now = time(NULL);
    struct tm tm;
    if (c->request.keep[0])
        return;
    gmtime_r(&now, &tm);
    strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
    make_state(state);
    snprintf(c->request.keep, sizeof(c->request.keep), "%s/%s-%s.kept", state, c->nv->config->volume, stamp);
}

static void order(struct command *c, enum volume_order what, bool force)
{
    if (c->node->orders >= ORDERS_MAX) {
        command_finish(c, CONTROL_FAILED, "too many orders are under way; wait for them");
        return;
    }
    c->phase = PHASE_ORDERED;
    c->volume = c->nv->volume;
    c->node->orders++;
    if (what == VOLUME_RESOLVE)
        volume_resolve(c->nv->volume, c->request.keep, force, order_done, c);
    else
        volume_order(c->nv->volume, what, force, order_done, c);
}

void command_detach(struct node_volume *nv)
{
    struct node *n = nv->node;
    struct command *c = n->orders < ORDERS_MAX ? calloc(1, sizeof(*c)) : NULL;
    nv->detach_again_ns = clock_ns() + NS_PER_S / 2;
    if (!c)
        return; /* tried again */
    c->node = n;
    c->nv = nv;
    c->by_node = true;
    c->request.command = CONTROL_DOWN;
    list_append(&n->commands, &c->link);
    nv->detach_ordered = true;
    order(c, VOLUME_DETACH, false);
}

/* The volume has drained and is detached, or never will be: its thread can end. */
static void detached(struct command *c)
{
    struct node_volume *nv = c->nv;
    c->phase = PHASE_JOB;
    struct err err = { 0 };
    if (nv->state == STATE_UP && node_volume_begin(nv, JOB_STOP, false, false, &err)) {
        command_finish(c, CONTROL_FAILED, "%s; it is detached: try again", err.text);
        return;
    }
    if (nv->state != STATE_STOPPING) /* another command's stop has ended already */
        command_finish(c, CONTROL_DONE, "volume %s is down", nv->config->volume);
}

static void ordered_by_node(struct command *c, int result, const char *text)
{
    struct node_volume *nv = c->nv;
    nv->detach_ordered = false;
    if (result != -EBUSY && result != -ENOTCONN) { /* else it may be possible later */
        if (result && result != -ECANCELED)        /* that was us, and was told */
            node_note(c->node, nv->config->volume, NOTE_ERROR, "volume", "not detached cleanly: %s", text);
        c->node->unclean |= result != 0;
        detached(c);
        return;
    }
    if (!nv->detach_delay_told)
        node_note(c->node, nv->config->volume, NOTE_WARNING, "volume", "cannot be detached yet: %s", text);
    nv->detach_delay_told = true;
    command_free(c);
}

static void __attribute__((format(printf, 2, 3))) add_words(char text[CONTROL_TEXT_BYTES], const char *format, ...)
{
    size_t used = strlen(text);
    va_list ap;
    va_start(ap, format);
    vsnprintf(text + used, CONTROL_TEXT_BYTES - used, format, ap);
    va_end(ap);
}

/* What is known, in numbers, of what a promotion of this leg by force gives up. */
static void say_what_may_be_lost(const struct volume_status *s, char text[CONTROL_TEXT_BYTES])
{
    const struct decree *d = &s->witness.decree;
    text[0] = 0;
    add_words(text, "may be lost: %s",
              *s->may_be_lost ? s->may_be_lost : "not known, as the volume's thread does not answer");
    if (!s->has_witness || decree_is_none(d))
        return;
    add_words(text, "; the witness has epoch %llu (%s), primary %s, in sync", (unsigned long long)d->epoch,
              decree_cause_name(d->cause), *d->primary ? d->primary : "nobody");
    for (uint32_t i = 0; i < d->member_count && i < DECREE_MEMBERS_MAX; i++)
        add_words(text, "%s %s", i ? "," : "", d->members[i].node);
}

/* It is tried with that on record; what becomes of it, the volume tells. `although`: why it was refused without force,
 * if that was tried. */
static void promote_by_force(struct command *c, const char *although)
{
    struct node_volume *nv = c->nv;
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    char lost[CONTROL_TEXT_BYTES];
    char said[CONTROL_TEXT_BYTES] = "asked to promote by force";
    struct volume_status s;
    volume_status(nv->volume, &s);
    if (s.role != ROLE_PRIMARY) {
        if (although)
            add_words(said, ", although: %s", although);
        say_what_may_be_lost(&s, lost);
        node_note(c->node, nv->config->volume, NOTE_WARNING, "role", "%s", said);
        node_note(c->node, nv->config->volume, NOTE_WARNING, "role", "%s", lost);
        add_words(said, "; %s", lost);
        if (c->client)
            control_send(c->client, frame, control_encode_progress(frame, said, 0, 0));
    }
    order(c, VOLUME_PROMOTE, true);
}

/* It took a while to be refused: whoever ordered it may have given it up, as the primary is back. */
static void give_up_force(struct command *c, const char *although)
{
    node_note(c->node, c->nv->config->volume, NOTE_WARNING, "role",
              "refused, and not forced, as who ordered that is gone: %s", although);
    command_finish(c, CONTROL_REFUSED, "not forced");
}

/* The volume serves no more, or it does and is taken down nonetheless. */
static void go_on_with_down(struct command *c, int result, const char *text)
{
    const char *volume = c->nv->config->volume;
    if (result && (result == -EBUSY || !c->request.force)) {
        command_finish(c, exit_code_of(result), "volume %s: %s", volume, *text ? text : strerror(-result));
        return;
    }
    c->still_named = result != 0;
    order(c, VOLUME_DETACH, c->request.force);
}

/* The two orders that another one follows. True if one does. */
static bool go_on(struct command *c, int result, const char *text)
{
    bool forces = c->tries_first && result == -EPERM;
    bool goes_down = c->demotes;
    c->tries_first = c->demotes = false;
    if (!forces && !goes_down)
        return false;
    if (c->nv->state != STATE_UP)
        command_finish(c, CONTROL_FAILED, "volume %s is being stopped", c->nv->config->volume);
    else if (forces && !c->client)
        give_up_force(c, text);
    else if (forces)
        promote_by_force(c, text);
    else
        go_on_with_down(c, result, text);
    return true;
}

/* Nothing was done, and who has ordered it may wait for something that is in the way still. */
static void finish_promoted_before(struct command *c)
{
    const char *node = config_self(c->nv->config)->name;
    struct volume_status s = { .why_not = "" };
    if (c->nv->state == STATE_UP)
        volume_status(c->nv->volume, &s);
    command_finish(c, CONTROL_DONE, "volume %s: %s is primary already%s%s", c->nv->config->volume, node,
                   *s.why_not ? "; not protected: " : "", s.why_not);
}

static void finish_role(struct command *c, const char *text)
{
    const char *volume = c->nv->config->volume;
    const char *node = config_self(c->nv->config)->name;
    const char *stop = *text ? ". " : "";
    if (c->request.command == CONTROL_PROMOTE && c->was_primary)
        finish_promoted_before(c);
    else if (c->request.command == CONTROL_SWITCHOVER)
        command_finish(c, CONTROL_DONE, "volume %s: %s serves it now%s%s", volume,
                       c->was_primary ? config_peer(c->nv->config)->name : node, stop, text);
    else if (c->request.command == CONTROL_ADOPT)
        command_finish(c, CONTROL_DONE, "volume %s: the witness has what this node knows%s%s", volume, stop, text);
    else
        command_finish(c, CONTROL_DONE, "volume %s: %s is %s%s%s", volume, node,
                       c->request.command == CONTROL_PROMOTE ? "primary" : "secondary", stop, text);
}

/* The answer may have been on its way when the volume was stopped, as by a second signal. */
static void finish_resized(struct command *c)
{
    struct volume_status s;
    if (!c->nv->volume) {
        command_finish(c, CONTROL_DONE, "volume %s has grown, and is being stopped", c->nv->config->volume);
        return;
    }
    volume_status(c->nv->volume, &s);
    command_finish(c, CONTROL_DONE, "volume %s has %llu bytes now; clients see it when they connect anew",
                   c->nv->config->volume, (unsigned long long)s.size_bytes);
}

/* Also of an order that came to nothing. */
static void finish_resolved(struct command *c, int result, const char *text)
{
    command_finish(c, exit_code_of(result), "volume %s: %s%s%s", c->nv->config->volume,
                   *text ? text : strerror(-result), c->has_kept ? ". What was kept is in " : "",
                   c->has_kept ? c->request.keep : "");
}

void command_ordered(struct command *c, int result, const char *text)
{
    c->node->orders--;
    if (c->by_node) {
        ordered_by_node(c, result, text);
        return;
    }
    if (go_on(c, result, text))
        return;
    const char *volume = c->nv->config->volume;
    if (c->client && c->places.total) {
        uint8_t frame[CONTROL_FRAME_BYTES_MAX];
        control_send(c->client, frame, control_encode_places(frame, &c->places));
    }
    if (c->request.command == CONTROL_RESOLVE) {
        finish_resolved(c, result, text);
        return;
    }
    if (result) {
        command_finish(c, exit_code_of(result), "volume %s: %s", volume, *text ? text : strerror(-result));
        return;
    }
    if (c->request.command == CONTROL_DOWN)
        detached(c);
    else if (c->request.command == CONTROL_RESIZE)
        finish_resized(c);
    else if (c->request.command == CONTROL_VERIFY)
        command_finish(c, CONTROL_DONE, "volume %s: both legs are equal", volume);
    else
        finish_role(c, text);
}

/* The other node's leg is up to date, as was heard of it last; or, where nothing was since the start, as the witness
 * has it. */
static bool peer_has_good_leg(const struct node_volume *nv, const struct volume_status *s)
{
    const struct decree *d = &s->witness.decree;
    bool is_member = false;
    for (uint32_t i = 0; s->has_witness && i < d->member_count && i < DECREE_MEMBERS_MAX; i++)
        is_member |= strcmp(d->members[i].node, config_peer(nv->config)->name) == 0;
    return s->peer_leg == LEG_UP_TO_DATE || (s->peer_leg == LEG_NONE && is_member);
}

bool command_takes_only_good_leg(struct node_volume *nv)
{
    struct volume_status s;
    volume_status(nv->volume, &s);
    bool in_use = s.role == ROLE_PRIMARY || s.link == LINK_CONNECTED;
    return config_peer(nv->config) && in_use && s.leg == LEG_UP_TO_DATE && !peer_has_good_leg(nv, &s);
}

static void warn_of_waiting_writes(struct node_volume *nv)
{
    struct volume_status s;
    volume_status(nv->volume, &s);
    bool goes_on_alone = s.has_witness && nv->config->when_alone == ALONE_STRICT;
    if (s.role != ROLE_SECONDARY || s.link != LINK_CONNECTED || goes_on_alone)
        return;
    node_note(nv->node, nv->config->volume, NOTE_WARNING, "volume",
              "taken down while connected: if %s is primary, its writes wait until this leg is up again",
              config_peer(nv->config)->name);
}

/* With a witness: the primary could not go on without this leg. NULL: it could, or this is not its peer. */
static const char *why_primary_would_wait(const struct node_volume *nv, const struct volume_status *s)
{
    if (!s->has_witness || s->role != ROLE_SECONDARY || s->link != LINK_CONNECTED || !s->peer_leads)
        return NULL;
    if (nv->config->when_alone == ALONE_SUSPEND)
        return "with `when-alone: suspend` its writes wait until this leg is back";
    return s->witness.state == REGISTER_STATE_REACHABLE
               ? NULL
               : "without the witness it may not go on alone: its writes wait until this leg or the witness is back";
}

/* With a witness a primary is demoted first, so that the register names nobody: else its peer would take over. */
static void begin_detaching(struct command *c)
{
    struct node_volume *nv = c->nv;
    struct volume_status s;
    volume_status(nv->volume, &s);
    const char *why = c->request.force ? NULL : why_primary_would_wait(nv, &s);
    if (why) {
        command_finish(c, CONTROL_REFUSED, "volume %s: %s is primary, and %s; take it down nonetheless with --force",
                       nv->config->volume, config_peer(nv->config)->name, why);
        return;
    }
    bool serves = s.has_witness && s.role == ROLE_PRIMARY;
    bool is_answered = s.witness.state == REGISTER_STATE_REACHABLE;
    if (serves && !is_answered && !c->request.force) {
        command_finish(
            c, CONTROL_UNREACHABLE,
            "volume %s: the witness, which names this node as its primary, is %s, and would go on naming it; "
            "take it down nonetheless with --force",
            nv->config->volume, register_state_name(s.witness.state));
        return;
    }
    c->demotes = serves && is_answered;
    c->still_named = serves && !is_answered;
    if (c->demotes)
        order(c, VOLUME_DEMOTE, c->request.force);
    else
        order(c, VOLUME_DETACH, c->request.force);
}

static void begin_down(struct command *c)
{
    struct node_volume *nv = c->nv;
    switch (nv->state) {
    case STATE_UP:
        if (!c->request.force && command_takes_only_good_leg(nv)) {
            command_finish(
                c, CONTROL_REFUSED,
                "volume %s: this is its only up-to-date leg; without it nobody can use the volume. Wait until the "
                "leg of %s is up-to-date, or take it down nonetheless with --force",
                nv->config->volume, config_peer(nv->config)->name);
            return;
        }
        warn_of_waiting_writes(nv);
        begin_detaching(c);
        return;
    case STATE_STOPPING: c->phase = PHASE_JOB; return;
    case STATE_NOT_CREATED:
    case STATE_DOWN:
    case STATE_FAILED: command_finish(c, CONTROL_DONE, "volume %s is down", nv->config->volume); return;
    case STATE_STARTING:
    case STATE_CREATING:
        command_finish(c, CONTROL_FAILED, "volume %s is %s; wait until that is done", nv->config->volume,
                       nv->state == STATE_STARTING ? "being brought up" : "being created");
        return;
    }
}

static bool is_primary(const struct node_volume *nv)
{
    struct volume_status s;
    if (nv->state != STATE_UP)
        return false;
    volume_status(nv->volume, &s);
    return s.role == ROLE_PRIMARY;
}

static void begin_role(struct command *c, enum volume_order what)
{
    if (c->nv->state == STATE_UP) {
        order(c, what, c->request.force && !c->tries_first);
        return;
    }
    char why[sizeof(c->nv->err.text)];
    command_finish(c, CONTROL_FAILED, "volume %s: %s", c->nv->config->volume, why_not_up(c->nv, why, sizeof(why)));
}

static void begin_switchover(struct command *c)
{
    c->was_primary = is_primary(c->nv);
    begin_role(c, VOLUME_SWITCHOVER);
}

/* Where a register knows who has what, force is for what is refused without it. */
static void begin_promotion(struct command *c)
{
    c->tries_first = c->request.force && config_has_witness(c->nv->config);
    c->was_primary = is_primary(c->nv);
    if (c->nv->state == STATE_UP && c->request.force && !c->tries_first)
        promote_by_force(c, NULL);
    else
        begin_role(c, VOLUME_PROMOTE);
}

/* ---- jobs ---- */

static void begin_job(struct command *c, enum job_kind kind)
{
    struct err err = { 0 };
    c->phase = PHASE_JOB;
    if (node_volume_begin(c->nv, kind, c->request.adopt, c->request.force, &err))
        command_finish(c, CONTROL_FAILED, "%s", err.text);
}

static void begin_up(struct command *c)
{
    struct node_volume *nv = c->nv;
    switch (nv->state) {
    case STATE_UP: command_finish(c, CONTROL_DONE, "volume %s is up", nv->config->volume); return;
    case STATE_STARTING: c->phase = PHASE_JOB; return;
    case STATE_NOT_CREATED:
    case STATE_DOWN:
    case STATE_FAILED: begin_job(c, JOB_START); return;
    case STATE_CREATING:
    case STATE_STOPPING:
        command_finish(c, CONTROL_FAILED, "volume %s is being %s; wait until that is done", nv->config->volume,
                       nv->state == STATE_CREATING ? "created" : "taken down");
        return;
    }
}

static void begin_create(struct command *c)
{
    struct node_volume *nv = c->nv;
    switch (nv->state) {
    case STATE_NOT_CREATED:
    case STATE_DOWN:
    case STATE_FAILED: begin_job(c, JOB_CREATE); return;
    case STATE_UP:
        command_finish(
            c, CONTROL_REFUSED,
            "volume %s is up, and creating it would lose its data: if that is what you want, take it down first, "
            "with `lockstep down %s`",
            nv->config->volume, nv->config->volume);
        return;
    case STATE_CREATING:
    case STATE_STARTING:
    case STATE_STOPPING:
        command_finish(c, CONTROL_FAILED, "volume %s is %s; wait until that is done", nv->config->volume,
                       volume_state_name(nv->state));
        return;
    }
}

/* Of `create` alone -EEXIST is a refusal; else these are errors of system calls, which risk nothing. */
static enum control_exit exit_code_of_job(enum job_kind kind, int result)
{
    return kind == JOB_CREATE && result == -EEXIST ? CONTROL_REFUSED : CONTROL_FAILED;
}

void command_job_ended(struct node_volume *nv, enum job_kind kind)
{
    const char *volume = nv->config->volume;
    list_for_each_safe (link, &nv->node->commands) {
        struct command *c = container_of(link, struct command, link);
        if (c->nv != nv || c->phase != PHASE_JOB)
            continue;
        if (nv->job.err.code)
            command_finish(c, exit_code_of_job(kind, nv->job.err.code), "volume %s: %s", volume, nv->job.err.text);
        else if (kind == JOB_CREATE)
            command_finish(c, CONTROL_DONE, "volume %s is created on %s; bring it up with `lockstep up %s`%s%s", volume,
                           config_self(nv->config)->name, volume, nv->job.err.text[0] ? ". Note: " : "",
                           nv->job.err.text);
        else
            command_finish(c, CONTROL_DONE, "volume %s is %s%s", volume, kind == JOB_START ? "up" : "down",
                           c->still_named ? ". The witness still names this node as its primary: its peer may take over"
                                          : "");
    }
}

/* ---- requests ---- */

static struct node_volume *find(struct node *n, const char *name)
{
    for (unsigned i = 0; i < n->volume_count; i++)
        if (strcmp(n->volumes[i].config->volume, name) == 0)
            return &n->volumes[i];
    return NULL;
}

static void unknown_volume(struct command *c)
{
    struct node *n = c->node;
    char names[512] = "none";
    size_t used = 0;
    for (unsigned i = 0; i < n->volume_count && used < sizeof(names); i++)
        used +=
            (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "", n->volumes[i].config->volume);
    command_finish(c, CONTROL_USED_WRONGLY, "there is no volume %s in this node's configuration; there are: %s",
                   c->request.volume, names);
}

static void begin(struct command *c)
{
    switch (c->request.command) {
    case CONTROL_CREATE: begin_create(c); return;
    case CONTROL_UP: begin_up(c); return;
    case CONTROL_DOWN: begin_down(c); return;
    case CONTROL_PROMOTE: begin_promotion(c); return;
    case CONTROL_DEMOTE: begin_role(c, VOLUME_DEMOTE); return;
    case CONTROL_VERIFY:
        c->request.force = c->request.repair;
        begin_role(c, VOLUME_VERIFY);
        return;
    case CONTROL_RESIZE: begin_role(c, VOLUME_RESIZE); return;
    case CONTROL_RESOLVE:
        choose_keep(c);
        begin_role(c, VOLUME_RESOLVE);
        return;
    case CONTROL_EVENTS:
        c->cursor = events_oldest(&c->node->events);
        c->phase = PHASE_STREAMS;
        stream(c);
        return;
    case CONTROL_STATUS:
        c->phase = PHASE_STREAMS;
        stream(c);
        return;
    case CONTROL_SWITCHOVER: begin_switchover(c); return;
    case CONTROL_ADOPT: begin_role(c, VOLUME_ADOPT); return;
    case CONTROL_WITNESS_STATUS:
    case CONTROL_WITNESS_HISTORY:
    case CONTROL_WITNESS_CONFIRM:
    case CONTROL_WITNESS_FORGET: command_witness_begin(c); return;
    }
}

void command_request(void *ctx, struct control_client *client, const struct control_request *request)
{
    struct node *n = ctx;
    struct command *c = calloc(1, sizeof(*c));
    if (!c) {
        control_end(client, CONTROL_FAILED, "lockstepd is out of memory");
        return;
    }
    c->node = n;
    c->client = client;
    c->request = *request;
    list_append(&n->commands, &c->link);
    control_set_user(client, c);
    bool only_looks = request->command == CONTROL_STATUS || request->command == CONTROL_EVENTS ||
                      request->command == CONTROL_WITNESS_STATUS || request->command == CONTROL_WITNESS_HISTORY;
    if (!only_looks)
        log_line(n->options.log, LOG_LEVEL_INFO, request->volume, "told to %s%s%s",
                 control_command_name(request->command), request->adopt ? " --adopt" : "",
                 request->force ? " --force" : "");
    if (*request->volume && !control_is_for_witness(request->command)) {
        c->nv = find(n, request->volume);
        if (!c->nv) {
            unknown_volume(c);
            return;
        }
    }
    if (n->ending && !only_looks)
        command_finish(c, CONTROL_FAILED, "lockstepd is shutting down");
    else
        begin(c);
}

void command_writable(void *ctx, struct control_client *client)
{
    (void)ctx;
    struct command *c = control_user(client);
    if (c->phase == PHASE_STREAMS)
        stream(c);
}

/* What was ordered goes on; nobody will hear of its end. */
void command_gone(void *ctx, struct control_client *client)
{
    (void)ctx;
    struct command *c = control_user(client);
    c->client = NULL;
    if (c->phase != PHASE_ORDERED && c->phase != PHASE_WITNESS) /* else another thread holds a pointer to it */
        command_free(c);
}

/* ---- progress ---- */

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
