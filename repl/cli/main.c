/* lockstep: the command line. What each command does, and how its answer is shown. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/units.h"
#include "repl/cli/arguments.h"
#include "repl/cli/kept.h"
#include "repl/cli/metadata.h"
#include "repl/cli/question.h"
#include "repl/cli/show.h"
#include "repl/cli/witness_show.h"
#include "repl/node/config.h"

#define WATCH_EVERY_NS (1 * NS_PER_S)

static struct show show_to_stdout(const struct arguments *args)
{
    bool json = args->given & OPTION_JSON;
    return (struct show) {
        .out = stdout,
        .json = json,
        .colour = !json && isatty(STDOUT_FILENO) == 1 && !getenv("NO_COLOR"),
    };
}

/* ---- what changes something, and verify ---- */

struct progress {
    const char *volume;
    bool quiet;
    int last_tenth;
    Lockstep__Control__Response *found; /* by a verify; owned, may be NULL */
};

static bool take_progress(void *ctx, Lockstep__Control__Response *r)
{
    struct progress *p = ctx;
    if (r->message_case == LOCKSTEP__CONTROL__RESPONSE__MESSAGE_PLACES && !p->found) {
        p->found = r;
        return true;
    }
    if (r->message_case == LOCKSTEP__CONTROL__RESPONSE__MESSAGE_PROGRESS && !p->quiet)
        show_progress(r->progress, p->volume, &p->last_tenth);
    return false;
}

int run_order(const struct arguments *args)
{
    struct show show = show_to_stdout(args);
    struct progress progress = { .volume = args->volume, .quiet = show.json, .last_tenth = -1 };
    struct err text;
    enum control_exit code = question_ask(args, take_progress, &progress, &text);
    show_progress_end(progress.last_tenth);
    if (strcmp(args->command->name, "verify") == 0)
        show_verify_result(&show, code, text.text, progress.found ? progress.found->places : NULL);
    else
        show_result(&show, code, text.text);
    if (progress.found)
        lockstep__control__response__free_unpacked(progress.found, NULL);
    return (int)code;
}

/* ---- status ---- */

struct status {
    char node[NAME_BYTES_MAX];
    size_t count;
    Lockstep__Control__Response *answers[CONFIG_VOLUMES_MAX];
};

static bool take_status(void *ctx, Lockstep__Control__Response *r)
{
    struct status *s = ctx;
    if (r->message_case == LOCKSTEP__CONTROL__RESPONSE__MESSAGE_NODE)
        snprintf(s->node, sizeof(s->node), "%s", r->node->name);
    if (r->message_case != LOCKSTEP__CONTROL__RESPONSE__MESSAGE_VOLUME || s->count == CONFIG_VOLUMES_MAX)
        return false;
    s->answers[s->count++] = r;
    return true;
}

static enum control_exit status_once(const struct arguments *args, const struct show *show, bool redraw)
{
    static struct status status;
    status.count = 0;
    struct err text;
    enum control_exit code = question_ask(args, take_status, &status, &text);
    if (redraw)
        fputs("\033[H\033[2J", stdout);
    if (code == CONTROL_DONE) {
        Lockstep__Control__VolumeStatus *volumes[CONFIG_VOLUMES_MAX];
        for (size_t i = 0; i < status.count; i++)
            volumes[i] = status.answers[i]->volume;
        show_status(show, status.node, volumes, status.count);
    } else {
        show_result(show, code, text.text);
    }
    for (size_t i = 0; i < status.count; i++)
        lockstep__control__response__free_unpacked(status.answers[i], NULL);
    return code;
}

int run_status(const struct arguments *args)
{
    struct show show = show_to_stdout(args);
    if (!(args->given & OPTION_WATCH))
        return (int)status_once(args, &show, false);
    bool redraw = !show.json && isatty(STDOUT_FILENO) == 1;
    for (;;) {
        enum control_exit code = status_once(args, &show, redraw);
        if (code == CONTROL_USED_WRONGLY)
            return (int)code;
        if (ferror(stdout)) /* nobody reads it any more */
            return CONTROL_FAILED;
        if (!show.json && !redraw)
            fputc('\n', stdout);
        struct timespec pause = { .tv_sec = (time_t)(WATCH_EVERY_NS / NS_PER_S) };
        nanosleep(&pause, NULL);
    }
}

/* ---- events ---- */

static bool take_event(void *ctx, Lockstep__Control__Response *r)
{
    if (r->message_case == LOCKSTEP__CONTROL__RESPONSE__MESSAGE_EVENT)
        show_event(ctx, r->event);
    return false;
}

int run_events(const struct arguments *args)
{
    struct show show = show_to_stdout(args);
    struct err text;
    enum control_exit code = question_ask(args, take_event, &show, &text);
    if (code)
        show_result(&show, code, text.text);
    return (int)code;
}

/* ---- witness ---- */

struct witness_answers {
    Lockstep__Control__Response *witness;
    Lockstep__Control__Response **list;
    size_t count;
    size_t room;
    bool out_of_memory;
};

static bool take_witness(void *ctx, Lockstep__Control__Response *r)
{
    struct witness_answers *w = ctx;
    if (r->message_case == LOCKSTEP__CONTROL__RESPONSE__MESSAGE_WITNESS && !w->witness) {
        w->witness = r;
        return true;
    }
    if (r->message_case != LOCKSTEP__CONTROL__RESPONSE__MESSAGE_WITNESS_VOLUME &&
        r->message_case != LOCKSTEP__CONTROL__RESPONSE__MESSAGE_DECREE)
        return false;
    if (w->count == w->room) {
        size_t room = w->room ? 2 * w->room : 64;
        Lockstep__Control__Response **grown = realloc(w->list, room * sizeof(Lockstep__Control__Response *));
        if (!grown) {
            w->out_of_memory = true;
            return false;
        }
        w->list = grown;
        w->room = room;
    }
    w->list[w->count++] = r;
    return true;
}

int run_witness(const struct arguments *args)
{
    if (question_is_adopt(args))
        return run_order(args);
    struct show show = show_to_stdout(args);
    struct witness_answers answers = { .count = 0 };
    struct err text;
    enum control_exit code = question_ask(args, take_witness, &answers, &text);
    if (code == CONTROL_DONE && answers.out_of_memory) {
        code = CONTROL_FAILED;
        err_set(&text, -ENOMEM, "out of memory");
    }
    if (code == CONTROL_DONE && strcmp(args->word, "history") == 0)
        show_witness_history(&show, args->volume, answers.list, answers.count);
    else if (code == CONTROL_DONE && answers.witness)
        show_witness_status(&show, answers.witness->witness, answers.list, answers.count);
    else
        show_result(&show, code, text.text);
    for (size_t i = 0; i < answers.count; i++)
        lockstep__control__response__free_unpacked(answers.list[i], NULL);
    if (answers.witness)
        lockstep__control__response__free_unpacked(answers.witness, NULL);
    free(answers.list);
    return (int)code;
}

/* ---- resolve ---- */

static int run_kept(const struct arguments *args)
{
    struct show show = show_to_stdout(args);
    struct err err = { 0 };
    int r = args->list ? kept_list(&show, args->list, &err)
                       : kept_export(&show, args->export, args->to, args->given & OPTION_FORCE, &err);
    if (r)
        show_result(&show, r == -EEXIST ? CONTROL_REFUSED : CONTROL_FAILED, err.text);
    return !r ? CONTROL_DONE : r == -EEXIST ? CONTROL_REFUSED : CONTROL_FAILED;
}

/* The daemon works in another directory. */
static const char *from_the_root(const char *name)
{
    static char path[CONFIG_PATH_BYTES];
    char here[CONFIG_PATH_BYTES];
    if (name[0] == '/')
        return name;
    if (!getcwd(here, sizeof(here)) || snprintf(path, sizeof(path), "%s/%s", here, name) >= (int)sizeof(path))
        used_wrongly("--keep: %s: the whole name is too long", name);
    return path;
}

int run_resolve(const struct arguments *args)
{
    if (args->list || args->export) {
        bool alien = args->volume || args->discard || args->keep || (args->list && args->export);
        if (alien || !args->export != !args->to)
            used_wrongly("resolve: expected --list FILE, or --export FILE --to IMAGE, and nothing else with it");
        return run_kept(args);
    }
    if (!args->volume || args->to)
        used_wrongly("resolve: expected the name of a volume and --discard local, or --list, or --export");
    if (!args->discard || strcmp(args->discard, "local") != 0)
        used_wrongly("resolve: expected --discard local, on the node whose changes are to be given up");
    struct arguments whole = *args;
    if (args->keep)
        whole.keep = from_the_root(args->keep);
    return run_order(&whole);
}

/* ---- metadata ---- */

/* Backing and metadata of the volume, as the configuration has them. `found` keeps the names. */
static int find_source(const struct arguments *args, struct volume_config *found, struct metadata_source *source,
                       struct err *err)
{
    /* A test's faults are none of the disk's. */
    struct config_options options = { .node = args->node, .allow_test_faults = true };
    struct config config;
    int r = config_load(args->config, &options, &config, err);
    if (r)
        return r;
    r = err_set(err, -ENOENT, "%s: there is no volume %s", args->config, args->volume);
    for (unsigned i = 0; i < config.count; i++) {
        if (strcmp(config.volumes[i].volume, args->volume) != 0)
            continue;
        *found = config.volumes[i];
        const struct config_node *self = config_self(found);
        *source = (struct metadata_source) { self->backing, self->metadata[0] ? self->metadata : NULL };
        r = 0;
    }
    config_free(&config);
    return r;
}

int run_metadata(const struct arguments *args)
{
    if (!args->backing == !args->volume)
        used_wrongly("metadata dump: expected a volume's name or --backing, and not both");
    if (args->metadata && !args->backing)
        used_wrongly("metadata dump: --metadata goes with --backing; a volume's configuration tells it");
    struct show show = show_to_stdout(args);
    struct metadata_source source = { args->backing, args->metadata };
    static struct volume_config config;
    static struct metadata metadata;
    struct err err = { 0 };
    int r = args->volume ? find_source(args, &config, &source, &err) : 0;
    if (!r)
        r = metadata_read(&source, &metadata, &err);
    if (r) {
        show_result(&show, CONTROL_FAILED, err.text);
        return CONTROL_FAILED;
    }
    metadata_show(&show, &metadata, args->given & OPTION_VERBOSE);
    metadata_free(&metadata);
    return metadata.usable ? CONTROL_DONE : CONTROL_FAILED;
}

int main(int argc, char **argv)
{
    struct arguments args;
    arguments_parse(&args, argc, argv);
    int code = args.command->run(&args);
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    fputs("lockstep: what was to be printed could not be written\n", stderr);
    return code ? code : CONTROL_FAILED;
}
