/* lockstep-bench: picks the subcommand. */
#include <stdio.h>
#include <string.h>

#include "bench/commands.h"
#include "repl/base/units.h"

static const struct {
    const char *name;
    int (*main)(int argc, char **argv);
    const char *does;
} commands[] = {
    { "floor", floor_main, "round trip of an io_uring ping-pong over TCP: what no mirrored write can beat" },
    { "link", link_main, "round trip of a write frame and its ack over two production links" },
};

static void usage(FILE *out)
{
    fprintf(out, "usage: lockstep-bench COMMAND [OPTION...]\n\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].does);
    fprintf(out, "\nlockstep-bench COMMAND --help tells more.\n");
}

int main(int argc, char **argv)
{
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        usage(stdout);
        return BENCH_DONE;
    }
    for (size_t i = 0; argc >= 2 && i < ARRAY_LEN(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].main(argc - 1, argv + 1);
    usage(stderr);
    return BENCH_USED_WRONGLY;
}
