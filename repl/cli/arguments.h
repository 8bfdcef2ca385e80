/* What was asked for on the command line: the arguments, and the commands that there are. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

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

/* A command's own code (main.c). Returns the exit code. */
typedef int run_command(const struct arguments *args);

struct command_info {
    const char *name;
    const char *synopsis;
    const char *summary;
    const char *help;
    unsigned options; /* beside those everywhere */
    bool volume_needed;
    uint64_t timeout_ns;
    run_command *run;
};

run_command run_order;
run_command run_status;
run_command run_events;
run_command run_metadata;
run_command run_witness;
run_command run_resolve;

/* Ends the program if it was asked for help, or used wrongly. Keeps pointers into `argv`. */
void arguments_parse(struct arguments *args, int argc, char **argv);

/* Says so, and ends the program. */
void used_wrongly(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
