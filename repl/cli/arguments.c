/* The commands of the command line, their options and their help. */
#include "repl/cli/arguments.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/units.h"
#include "repl/cli/question.h"
#include "repl/node/config.h"
#include "repl/node/quantity.h"

#define DEFAULT_CONTROL CONFIG_RUN_DIR "/control.sock"
#define CONFIG_DIR "/etc/lockstep"
#define STATUS_TIMEOUT_NS (10 * NS_PER_S)
#define ORDER_TIMEOUT_NS (60 * NS_PER_S)

#define OPTIONS_EVERYWHERE (OPTION_JSON | OPTION_CONTROL | OPTION_HELP)

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
      "  --force  although this leg may lack acknowledged writes: they are lost. Not beside a primary in reach\n",
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
      "  forget VOLUME    there is no such volume any more; its name may be used for another one. Refused while its\n"
      "                   nodes are heard, unless with --force\n"
      "  adopt VOLUME     on the volume's primary, whose witness was restored from a backup or is a new one: the\n"
      "                   witness takes over what this node and its peer know\n",
      OPTION_FORCE | OPTION_TIMEOUT, false, ORDER_TIMEOUT_NS, run_witness },
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

void used_wrongly(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fputs("lockstep: ", stderr);
    vfprintf(stderr, format, ap);
    fputs("; see lockstep --help\n", stderr);
    va_end(ap);
    exit(CONTROL_USED_WRONGLY);
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
        if (count < 2 || !question_has_witness_word(words[1]))
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

void arguments_parse(struct arguments *args, int argc, char **argv)
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
    if ((args->given & OPTION_FORCE) && args->command->run == run_witness && strcmp(args->word, "forget") != 0)
        used_wrongly("witness %s has no option --force", args->word);
    if (!(args->given & OPTION_TIMEOUT))
        args->timeout_ns = args->command->timeout_ns;
}
