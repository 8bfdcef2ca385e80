/* The subcommands of lockstep-bench. Each takes its own argv (argv[0] is its name) and returns an exit code. */
#pragma once

enum bench_exit { BENCH_DONE = 0, BENCH_FAILED = 1, BENCH_USED_WRONGLY = 2 };

int floor_main(int argc, char **argv);
int link_main(int argc, char **argv);
