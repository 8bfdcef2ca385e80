/* Orders to a volume: what is given to its thread, what follows its answer, and the words for how it ended. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/scoped.h"
#include "repl/node/command_internal.h"

enum control_exit command_exit_of_order(int result)
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

void command_order(struct command *c, enum volume_order what, bool force)
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
    command_order(c, VOLUME_PROMOTE, true);
}

/* It took a while to be refused: whoever ordered it may have given it up, as the primary is back. */
static void give_up_force(struct command *c, const char *although)
{
    node_note(c->node, c->nv->config->volume, NOTE_WARNING, "role",
              "refused, and not forced, as who ordered that is gone: %s", although);
    command_finish(c, CONTROL_REFUSED, "not forced");
}

static bool is_primary(const struct node_volume *nv)
{
    struct volume_status s;
    if (nv->state != STATE_UP)
        return false;
    volume_status(nv->volume, &s);
    return s.role == ROLE_PRIMARY;
}

void command_begin_order(struct command *c, enum volume_order what)
{
    if (c->nv->state == STATE_UP) {
        command_order(c, what, c->request.force && !c->tries_first);
        return;
    }
    char why[sizeof(c->nv->err.text)];
    command_finish(c, CONTROL_FAILED, "volume %s: %s", c->nv->config->volume,
                   command_why_not_up(c->nv, why, sizeof(why)));
}

/* Where a register knows who has what, force is for what is refused without it. */
void command_begin_promotion(struct command *c)
{
    c->tries_first = c->request.force && config_has_witness(c->nv->config);
    c->was_primary = is_primary(c->nv);
    if (c->nv->state == STATE_UP && c->request.force && !c->tries_first)
        promote_by_force(c, NULL);
    else
        command_begin_order(c, VOLUME_PROMOTE);
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

void command_begin_resolve(struct command *c)
{
    choose_keep(c);
    command_begin_order(c, VOLUME_RESOLVE);
}

void command_begin_switchover(struct command *c)
{
    c->was_primary = is_primary(c->nv);
    command_begin_order(c, VOLUME_SWITCHOVER);
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
        command_go_on_with_down(c, result, text);
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
    command_finish(c, command_exit_of_order(result), "volume %s: %s%s%s", c->nv->config->volume,
                   *text ? text : strerror(-result), c->has_kept ? ". What was kept is in " : "",
                   c->has_kept ? c->request.keep : "");
}

void command_ordered(struct command *c, int result, const char *text)
{
    c->node->orders--;
    if (c->by_node) {
        command_detached_by_node(c, result, text);
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
        command_finish(c, command_exit_of_order(result), "volume %s: %s", volume, *text ? text : strerror(-result));
        return;
    }
    if (c->request.command == CONTROL_DOWN)
        command_detached(c);
    else if (c->request.command == CONTROL_RESIZE)
        finish_resized(c);
    else if (c->request.command == CONTROL_VERIFY)
        command_finish(c, CONTROL_DONE, "volume %s: both legs are equal", volume);
    else
        finish_role(c, text);
}
