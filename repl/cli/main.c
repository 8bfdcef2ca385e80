/* lockstep: the command line. Turns arguments into one request and prints what comes back. */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/units.h"
#include "repl/cli/client.h"
#include "repl/cli/kept.h"
#include "repl/cli/metadata.h"
#include "repl/cli/show.h"
#include "repl/cli/witness_show.h"
#include "repl/node/config.h"
#include "repl/node/quantity.h"

#define DEFAULT_CONTROL CONFIG_RUN_DIR "/control.sock"
#define CONFIG_DIR "/etc/lockstep"
#define STATUS_TIMEOUT_NS (10 * NS_PER_S)
#define ORDER_TIMEOUT_NS (60 * NS_PER_S)
#define WATCH_EVERY_NS (1 * NS_PER_S)

/* Beyond any character, so that getopt can return them. */
enum option_bit {
    OPTION_JSON = 1 << 8,
    OPTION_CONTROL = 1 << 9,
    OPTION_FORCE = 1 << 10,
    OPTION_ADOPT = 1 << 11,
    OPTION_WATCH = 1 << 12,
    OPTION_NO_FOLLOW = 1 << 13,
    OPTION_TIMEOUT = 1 << 14,
    OPTION_HELP = 1 << 15,
    OPTION_VERSION = 1 << 16,
    OPTION_CONFIG = 1 << 17,
    OPTION_NODE = 1 << 18,
    OPTION_BACKING = 1 << 19,
    OPTION_METADATA = 1 << 20,
    OPTION_VERBOSE = 1 << 21,
    OPTION_REPAIR = 1 << 22,
    OPTION_DISCARD = 1 << 23,
    OPTION_KEEP = 1 << 24,
    OPTION_LIST = 1 << 25,
    OPTION_EXPORT = 1 << 26,
    OPTION_TO = 1 << 27,
};
#define OPTIONS_EVERYWHERE (OPTION_JSON | OPTION_CONTROL | OPTION_HELP)

struct arguments {
    const struct command_info *command;
    const char *word;   /* of `witness` and `metadata`: what follows the command */
    const char *volume; /* NULL: not named */
    const char *control;
    const char *config;   /* file or directory */
    const char *node;     /* NULL: this machine's */
    const char *backing;  /* NULL: not named */
    const char *metadata; /* likewise */
    const char *discard;  /* of `resolve`, likewise, as what follows */
    const char *keep;
    const char *list;
    const char *export;
    const char *to;
    uint64_t timeout_ns;
    unsigned given; /* of enum option_bit */
};

struct command_info {
    const char *name;
    const char *synopsis;
    const char *summary;
    const char *help;
    unsigned options; /* beside those everywhere */
    bool volume_needed;
    uint64_t timeout_ns;
    int (*run)(const struct arguments *args);
};

static int run_order(const struct arguments *args);
static int run_status(const struct arguments *args);
static int run_events(const struct arguments *args);
static int run_metadata(const struct arguments *args);
static int run_witness(const struct arguments *args);
static int run_resolve(const struct arguments *args);

static const struct command_info commands[] = {
    { "create", "VOLUME [--adopt] [--force]", "writes fresh metadata on this node's backing",
      "Makes this node's leg of the volume. Without --adopt the volume begins as zeroes, on both nodes; what the\n"
      "backing held is lost. Refuses a backing that holds metadata, a file system or a partition table.\n"
      "\n"
      "  --adopt  keep what the backing holds: this leg's data is the truth\n"
      "  --force  write over what looks like somebody's data\n",
      OPTION_ADOPT | OPTION_FORCE | OPTION_TIMEOUT, true, UINT64_MAX, run_order },
    { "up", "VOLUME", "attaches the volume",
      "Attaches this node's leg and connects to the peer. The daemon does so by itself when it starts.\n",
      OPTION_TIMEOUT, true, ORDER_TIMEOUT_NS, run_order },
    { "down", "VOLUME [--force]", "drains and detaches the volume",
      "Waits until what is under way is on both legs, then lets go of the backing. Refuses to take the only\n"
      "up-to-date leg away while it is in use.\n"
      "\n"
      "  --force  also the only up-to-date leg; writes that wait for the peer fail\n",
      OPTION_FORCE | OPTION_TIMEOUT, true, ORDER_TIMEOUT_NS, run_order },
    { "status", "[VOLUME] [--watch]", "shows how the volumes are",
      "The one place to look. `protected` means: every acknowledged write is on two up-to-date legs.\n"
      "\n"
      "  --watch  again every second, until interrupted\n",
      OPTION_WATCH | OPTION_TIMEOUT, false, STATUS_TIMEOUT_NS, run_status },
    { "events", "[VOLUME] [--no-follow]", "follows every state change, with its cause",
      "Prints the state changes that the daemon remembers, then each new one as it happens.\n"
      "\n"
      "  --no-follow  end after those that are remembered\n",
      OPTION_NO_FOLLOW, false, UINT64_MAX, run_events },
    { "promote", "VOLUME [--force]", "makes this node primary",
      "This node begins to serve the volume, or says why not.\n"
      "\n"
      "  --force  although this leg may lack acknowledged writes: they are lost\n",
      OPTION_FORCE | OPTION_TIMEOUT, true, ORDER_TIMEOUT_NS, run_order },
    { "demote", "VOLUME [--force]", "makes this node secondary",
      "Stops serving the volume, once what is under way is on both legs.\n"
      "\n"
      "  --force  writes that wait for the peer fail\n",
      OPTION_FORCE | OPTION_TIMEOUT, true, ORDER_TIMEOUT_NS, run_order },
    { "switchover", "VOLUME", "has the other node take over",
      "On either node, with a witness: the primary lets what is under way end, and its peer serves, with nothing lost\n"
      "and nothing to be resynced. Refused, with the reason, unless both legs are in sync and the witness answers.\n",
      OPTION_TIMEOUT, true, ORDER_TIMEOUT_NS, run_order },
    { "verify", "VOLUME [--repair]", "compares the legs",
      "Compares both legs, block by block, while the volume is used, and waits for the end. Run on the primary;\n"
      "on either node when there is none. Exits with 1 when something differs: the first 16 places are listed, and\n"
      "all count as out of sync from then on.\n"
      "\n"
      "  --repair  and resyncs what differs: the other leg gets what this one has\n",
      OPTION_REPAIR | OPTION_TIMEOUT, true, UINT64_MAX, run_order },
    { "resize", "VOLUME", "grows the volume to its backings' new size",
      "Makes the volume as large as both backings have room for, after both have grown, while it is used; waits for "
      "the\n"
      "end. Run on the primary, with both legs equal. The new part reads as zeroes. Clients that are connected keep "
      "the\n"
      "old size until they connect anew.\n",
      OPTION_TIMEOUT, true, UINT64_MAX, run_order },
    { "resolve", "VOLUME --discard local", "ends a split brain",
      "Gives up what this node's leg has changed since both legs were the same, and gets the rest from the peer.\n"
      "Before, the blocks that are given up are kept in a file. Run on the node whose changes are not wanted;\n"
      "`lockstep status` shows what each side has.\n"
      "\n"
      "  --discard local  this node's changes; nothing else can be said\n"
      "  --keep FILE      where they are kept (default: a new one where the daemon has its state)\n"
      "  --list FILE      shows what such a file holds; needs no daemon, like what follows\n"
      "  --export FILE --to IMAGE  writes what it holds, in its places, into a new, sparse image of the volume\n"
      "  --force          also what the disk cannot read, and so is not kept;\n"
      "                   with --export: into a file that is there, such as a copy of the volume\n",
      OPTION_DISCARD | OPTION_KEEP | OPTION_LIST | OPTION_EXPORT | OPTION_TO | OPTION_FORCE | OPTION_TIMEOUT, false,
      UINT64_MAX, run_resolve },
    { "metadata", "dump [VOLUME] [OPTION...]", "shows what a leg remembers on disk",
      "Reads the leg's metadata from its backing, without a daemon, and changes nothing. Which copies of the\n"
      "superblock are good; what it says; the history of decrees; what the activity log and the bitmap hold.\n"
      "\n"
      "  --config PATH    where the volume's configuration is (default: " CONFIG_DIR ")\n"
      "  --node NAME      this node's name there (default: the host's)\n"
      "  --backing PATH   this backing, instead of a volume of the configuration\n"
      "  --metadata PATH  with --backing: where its metadata is, unless at its end\n"
      "  --verbose        with each range of the activity log\n",
      OPTION_CONFIG | OPTION_NODE | OPTION_BACKING | OPTION_METADATA | OPTION_VERBOSE, false, UINT64_MAX,
      run_metadata },
    { "witness", "WORD [VOLUME]", "what the witness has decided",
      "On the machine whose lockstepd is the witness, but for adopt. WORD is one of\n"
      "\n"
      "  status [VOLUME]  the decree of each volume: who serves, whose legs are in sync, since when, and why\n"
      "  history VOLUME   all its decrees, the newest first\n"
      "  confirm VOLUME   the witness has started anew, and one of the volume's nodes is gone: decide without its "
      "word.\n"
      "                   If that node knows of a later decree, and comes back, its later writes are lost\n"
      "  forget VOLUME    there is no such volume any more; its name may be used for another one\n"
      "  adopt VOLUME     on the volume's primary, whose witness was restored from a backup or is a new one: the\n"
      "                   witness takes over what this node and its peer know\n",
      OPTION_TIMEOUT, false, ORDER_TIMEOUT_NS, run_witness },
};

static const char common_help[] = "\n"
                                  "  --control SOCKET  the daemon's socket (default: " DEFAULT_CONTROL ")\n"
                                  "  --json            print JSON\n";

static const char timeout_help[] = "  --timeout TIME    stop waiting for the daemon's answer, and exit with 5\n";

static void print_help(FILE *out)
{
    fputs("usage: lockstep COMMAND [VOLUME] [OPTION...]\n\n", out);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-8s %-28s %s\n", commands[i].name, commands[i].synopsis, commands[i].summary);
    fputs(common_help, out);
    fputs(timeout_help, out);
    fputs("  --help            this text; after a command: more about it\n"
          "  --version         the version\n"
          "\n"
          "Exit codes: 0 done; 1 failed; 2 used wrongly; 3 refused, as it would risk data; 4 no daemon or peer in\n"
          "reach; 5 timed out.\n",
          out);
}

static void print_command_help(const struct command_info *c)
{
    printf("usage: lockstep %s %s\n\n%s%s%s", c->name, c->synopsis, c->help, common_help,
           c->options & OPTION_TIMEOUT ? timeout_help : "");
}

static void __attribute__((noreturn, format(printf, 1, 2))) used_wrongly(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fputs("lockstep: ", stderr);
    vfprintf(stderr, format, ap);
    fputs("; see lockstep --help\n", stderr);
    va_end(ap);
    exit(CONTROL_USED_WRONGLY);
}

static const struct witness_word {
    const char *name;
    Lockstep__Control__WitnessOrder__Kind kind;
} witness_words[] = {
    { "status", LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__STATUS },
    { "history", LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__HISTORY },
    { "confirm", LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__CONFIRM },
    { "forget", LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__FORGET },
    { "adopt", _LOCKSTEP__CONTROL__WITNESS_ORDER__KIND_IS_INT_SIZE }, /* not of the witness: an order to a volume */
};

static const struct witness_word *find_witness_word(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(witness_words); i++)
        if (strcmp(witness_words[i].name, name) == 0)
            return &witness_words[i];
    return NULL;
}

static const struct command_info *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static void take_positionals(struct arguments *args, int count, char **words)
{
    if (count == 0) {
        if (args->given & OPTION_HELP) {
            print_help(stdout);
            exit(CONTROL_DONE);
        }
        print_help(stderr);
        exit(CONTROL_USED_WRONGLY);
    }
    args->command = find_command(words[0]);
    if (!args->command)
        used_wrongly("there is no command %s", words[0]);
    if (args->given & OPTION_HELP) {
        print_command_help(args->command);
        exit(CONTROL_DONE);
    }
    bool needs_volume = args->command->volume_needed;
    if (args->command->run == run_metadata) {
        if (count < 2 || strcmp(words[1], "dump") != 0)
            used_wrongly("metadata: expected dump");
        words++;
        count--;
    } else if (args->command->run == run_witness) {
        if (count < 2 || find_witness_word(words[1]) == NULL)
            used_wrongly("witness: expected status, history, confirm, forget or adopt");
        args->word = words[1];
        needs_volume = strcmp(args->word, "status") != 0;
        words++;
        count--;
    }
    if (count > 2)
        used_wrongly("%s: expected one volume, found also %s", words[0], words[2]);
    if (count == 2)
        args->volume = words[1];
    if (args->volume && (!*args->volume || strlen(args->volume) >= NAME_BYTES_MAX))
        used_wrongly("%s: a volume's name has 1 to %d characters", words[0], NAME_BYTES_MAX - 1);
    if (!args->volume && needs_volume)
        used_wrongly("%s: expected the name of a volume", words[0]);
}

static void parse_arguments(int argc, char **argv, struct arguments *args)
{
    static const struct option options[] = {
        { "json", no_argument, NULL, OPTION_JSON },
        { "control", required_argument, NULL, OPTION_CONTROL },
        { "force", no_argument, NULL, OPTION_FORCE },
        { "adopt", no_argument, NULL, OPTION_ADOPT },
        { "repair", no_argument, NULL, OPTION_REPAIR },
        { "discard", required_argument, NULL, OPTION_DISCARD },
        { "keep", required_argument, NULL, OPTION_KEEP },
        { "list", required_argument, NULL, OPTION_LIST },
        { "export", required_argument, NULL, OPTION_EXPORT },
        { "to", required_argument, NULL, OPTION_TO },
        { "watch", no_argument, NULL, OPTION_WATCH },
        { "no-follow", no_argument, NULL, OPTION_NO_FOLLOW },
        { "timeout", required_argument, NULL, OPTION_TIMEOUT },
        { "config", required_argument, NULL, OPTION_CONFIG },
        { "node", required_argument, NULL, OPTION_NODE },
        { "backing", required_argument, NULL, OPTION_BACKING },
        { "metadata", required_argument, NULL, OPTION_METADATA },
        { "verbose", no_argument, NULL, OPTION_VERBOSE },
        { "help", no_argument, NULL, OPTION_HELP },
        { "version", no_argument, NULL, OPTION_VERSION },
        { 0 },
    };
    *args = (struct arguments) { .control = DEFAULT_CONTROL, .config = CONFIG_DIR };
    const struct {
        int code;
        const char **to;
    } texts[] = {
        { OPTION_CONTROL, &args->control }, { OPTION_CONFIG, &args->config },     { OPTION_NODE, &args->node },
        { OPTION_BACKING, &args->backing }, { OPTION_METADATA, &args->metadata }, { OPTION_DISCARD, &args->discard },
        { OPTION_KEEP, &args->keep },       { OPTION_LIST, &args->list },         { OPTION_EXPORT, &args->export },
        { OPTION_TO, &args->to },
    };
    for (int code; (code = getopt_long(argc, argv, "hV", options, NULL)) != -1;) {
        if (code == 'V' || code == OPTION_VERSION) {
            puts("lockstep " LOCKSTEP_VERSION);
            exit(CONTROL_DONE);
        }
        if (code == '?')
            exit(CONTROL_USED_WRONGLY); /* getopt has said why */
        for (size_t i = 0; i < ARRAY_LEN(texts); i++)
            if (code == texts[i].code)
                *texts[i].to = optarg;
        if (code == OPTION_TIMEOUT && !quantity_time(optarg, &args->timeout_ns))
            used_wrongly("--timeout: expected a time such as 30s, found %s", optarg);
        args->given |= code == 'h' ? OPTION_HELP : (unsigned)code;
    }
    take_positionals(args, argc - optind, argv + optind);
    unsigned alien = args->given & ~(args->command->options | OPTIONS_EVERYWHERE);
    for (const struct option *o = options; o->name; o++)
        if (alien & (unsigned)o->val)
            used_wrongly("%s has no option --%s", args->command->name, o->name);
    if (!(args->given & OPTION_TIMEOUT))
        args->timeout_ns = args->command->timeout_ns;
}

static struct show show_to_stdout(const struct arguments *args)
{
    bool json = args->given & OPTION_JSON;
    return (struct show) {
        .out = stdout,
        .json = json,
        .colour = !json && isatty(STDOUT_FILENO) == 1 && !getenv("NO_COLOR"),
    };
}

/* The request, with room for every command in it. */
struct question {
    Lockstep__Control__Request request;
    union {
        Lockstep__Control__Create create;
        Lockstep__Control__Up up;
        Lockstep__Control__Down down;
        Lockstep__Control__StatusQuery status;
        Lockstep__Control__EventsQuery events;
        Lockstep__Control__Promote promote;
        Lockstep__Control__Demote demote;
        Lockstep__Control__Verify verify;
        Lockstep__Control__Resize resize;
        Lockstep__Control__Resolve resolve;
        Lockstep__Control__Switchover switchover;
        Lockstep__Control__Adopt adopt;
        Lockstep__Control__WitnessOrder witness;
    };
};

static bool is_adopt(const struct arguments *args) { return args->word && strcmp(args->word, "adopt") == 0; }

static void compose(const struct arguments *args, struct question *q)
{
    static char none[] = "";
    char *volume = args->volume ? (char *)args->volume : none; /* the generated structures have no const in them */
    bool force = args->given & OPTION_FORCE;
    Lockstep__Control__Request *r = &q->request;
    lockstep__control__request__init(r);
    r->version = CONTROL_VERSION;
    const char *name = args->command->name;
    if (strcmp(name, "create") == 0) {
        lockstep__control__create__init(&q->create);
        q->create.volume = volume;
        q->create.force = force;
        q->create.adopt = args->given & OPTION_ADOPT;
        r->create = &q->create;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_CREATE;
    } else if (strcmp(name, "up") == 0) {
        lockstep__control__up__init(&q->up);
        q->up.volume = volume;
        r->up = &q->up;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_UP;
    } else if (strcmp(name, "down") == 0) {
        lockstep__control__down__init(&q->down);
        q->down.volume = volume;
        q->down.force = force;
        r->down = &q->down;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_DOWN;
    } else if (strcmp(name, "status") == 0) {
        lockstep__control__status_query__init(&q->status);
        q->status.volume = volume;
        r->status = &q->status;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_STATUS;
    } else if (strcmp(name, "events") == 0) {
        lockstep__control__events_query__init(&q->events);
        q->events.volume = volume;
        q->events.follow = !(args->given & OPTION_NO_FOLLOW);
        r->events = &q->events;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_EVENTS;
    } else if (strcmp(name, "promote") == 0) {
        lockstep__control__promote__init(&q->promote);
        q->promote.volume = volume;
        q->promote.force = force;
        r->promote = &q->promote;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_PROMOTE;
    } else if (strcmp(name, "resize") == 0) {
        lockstep__control__resize__init(&q->resize);
        q->resize.volume = volume;
        r->resize = &q->resize;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_RESIZE;
    } else if (strcmp(name, "resolve") == 0) {
        lockstep__control__resolve__init(&q->resolve);
        q->resolve.volume = volume;
        q->resolve.keep = args->keep ? (char *)args->keep : none;
        q->resolve.force = force;
        r->resolve = &q->resolve;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_RESOLVE;
    } else if (strcmp(name, "verify") == 0) {
        lockstep__control__verify__init(&q->verify);
        q->verify.volume = volume;
        q->verify.repair = args->given & OPTION_REPAIR;
        r->verify = &q->verify;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_VERIFY;
    } else if (strcmp(name, "switchover") == 0) {
        lockstep__control__switchover__init(&q->switchover);
        q->switchover.volume = volume;
        r->switchover = &q->switchover;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_SWITCHOVER;
    } else if (is_adopt(args)) {
        lockstep__control__adopt__init(&q->adopt);
        q->adopt.volume = volume;
        r->adopt = &q->adopt;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_ADOPT;
    } else if (strcmp(name, "witness") == 0) {
        lockstep__control__witness_order__init(&q->witness);
        q->witness.volume = volume;
        q->witness.kind = find_witness_word(args->word)->kind;
        r->witness = &q->witness;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_WITNESS;
    } else {
        lockstep__control__demote__init(&q->demote);
        q->demote.volume = volume;
        q->demote.force = force;
        r->demote = &q->demote;
        r->command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_DEMOTE;
    }
}

/* One conversation: asks, and gives each answer but the result to `each`, which keeps it by returning true. Returns the
 * exit code; `text` gets the result's or the error's. */
static enum control_exit converse(const struct arguments *args, bool (*each)(void *ctx, Lockstep__Control__Response *r),
                                  void *ctx, struct err *text)
{
    struct question question;
    compose(args, &question);
    static struct client client;
    text->text[0] = 0;
    enum control_exit code = client_ask(&client, args->control, &question.request, args->timeout_ns, text);
    bool ended = code != CONTROL_DONE;
    while (!ended) {
        Lockstep__Control__Response *r = client_next(&client, &code, text);
        if (!r)
            break;
        if (r->message_case == LOCKSTEP__CONTROL__RESPONSE__MESSAGE_RESULT) {
            code = r->result->exit_code <= CONTROL_TIMED_OUT ? (enum control_exit)r->result->exit_code : CONTROL_FAILED;
            snprintf(text->text, sizeof(text->text), "%s", r->result->text);
            ended = true;
        }
        if (ended || !each(ctx, r))
            lockstep__control__response__free_unpacked(r, NULL);
    }
    client_close(&client);
    return code;
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

static int run_order(const struct arguments *args)
{
    struct show show = show_to_stdout(args);
    struct progress progress = { .volume = args->volume, .quiet = show.json, .last_tenth = -1 };
    struct err text;
    enum control_exit code = converse(args, take_progress, &progress, &text);
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
    enum control_exit code = converse(args, take_status, &status, &text);
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

static int run_status(const struct arguments *args)
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

static int run_events(const struct arguments *args)
{
    struct show show = show_to_stdout(args);
    struct err text;
    enum control_exit code = converse(args, take_event, &show, &text);
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

static int run_witness(const struct arguments *args)
{
    if (is_adopt(args))
        return run_order(args);
    struct show show = show_to_stdout(args);
    struct witness_answers answers = { .count = 0 };
    struct err text;
    enum control_exit code = converse(args, take_witness, &answers, &text);
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

static int run_resolve(const struct arguments *args)
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

static int run_metadata(const struct arguments *args)
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
    parse_arguments(argc, argv, &args);
    int code = args.command->run(&args);
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    fputs("lockstep: what was to be printed could not be written\n", stderr);
    return code ? code : CONTROL_FAILED;
}
