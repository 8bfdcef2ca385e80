/* lockstep-sim: runs seeds in parallel, tells what they reached, and replays those that fail. */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "tests/sim/sim.h"

#define JOBS_MAX 64
#define SEED_SECONDS_MAX 120 /* of CPU: a step that does not return. Others may have this machine for longer */

struct worker {
    _Atomic uint64_t seed; /* under way */
    uint64_t runs;
    uint64_t steps;
    uint64_t hash; /* the sum of all runs': the same whichever process runs which seed */
    struct cover cover;
};

struct board {
    _Atomic uint64_t next;
    uint64_t end;
    struct worker workers[JOBS_MAX];
};

static struct {
    uint64_t seeds;
    uint64_t from;
    unsigned jobs;
    unsigned failures_max;
    bool one; /* a single seed, told in full */
    bool trace_all;
    bool twice;
    bool counts;
    bool registered;
} options = { .seeds = 1000, .from = 1, .failures_max = 3 };

static struct sim *traced; /* whose trace is printed when an assertion fails */

/* NOLINTBEGIN(bugprone-signal-handler): it never returns, and what it prints is worth more than a clean end. */
static void on_abort(int signal_number)
{
    if (traced) {
        sim_trace_print(traced);
        printf("seed %" PRIu64 " FAILED at step %" PRIu64 ", %.6f ms: %s\n", traced->seed, traced->steps,
               (double)traced->now_ns / 1e6,
               signal_number == SIGPROF ? "a step does not return" : "an assertion or a sanitizer");
        fflush(stdout);
    }
    _Exit(SIM_EXIT_VIOLATION);
}
/* NOLINTEND(bugprone-signal-handler) */

static void limit_time(void)
{
    const struct itimerval limit = { .it_value.tv_sec = SEED_SECONDS_MAX };
    setitimer(ITIMER_PROF, &limit, NULL);
}

/* Takes seeds off the board until there are none left. A violation ends the process; the parent knows the seed. */
static void work(struct board *board, struct worker *w)
{
    struct sim *s = sim_new();
    s->only_registered = options.registered;
    cover_here = &w->cover;
    for (;;) {
        uint64_t seed = atomic_fetch_add(&board->next, 1);
        if (seed >= board->end)
            _Exit(0);
        atomic_store(&w->seed, seed);
        limit_time();
        uint64_t hash = sim_run(s, seed);
        w->steps += s->steps;
        w->hash += hash;
        if (options.twice && sim_run(s, seed) != hash)
            _Exit(SIM_EXIT_VIOLATION);
        w->runs++;
    }
}

/* In a process of its own, with a trace. Returns whether it failed. */
static bool replay(uint64_t seed)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        abort();
    if (pid > 0) {
        int status;
        waitpid(pid, &status, 0);
        return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    struct sim *s = sim_new();
    traced = s;
    s->tracing = true;
    s->trace_all = options.trace_all;
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
    signal(SIGPROF, on_abort);
    limit_time();
    uint64_t hash = sim_run(s, seed);
    uint64_t steps = s->steps;
    if (sim_run(s, seed) != hash) {
        printf("seed %" PRIu64 " FAILED: run twice, it went two ways\n", seed);
        _Exit(SIM_EXIT_VIOLATION);
    }
    printf("seed %" PRIu64 ": passed, %" PRIu64 " steps, %.3f ms simulated, hash %016" PRIx64 "\n", seed, steps,
           (double)s->now_ns / 1e6, hash);
    fflush(stdout);
    _Exit(0);
}

static pid_t start_worker(struct board *board, unsigned i)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        abort();
    if (pid == 0) {
        /* Quiet: what there is to say, the replay says. */
        if (!freopen("/dev/null", "w", stderr))
            abort();
        signal(SIGPROF, SIG_DFL);
        work(board, &board->workers[i]);
    }
    return pid;
}

static void progress(const struct board *board, uint64_t begun_ns, bool last)
{
    static uint64_t told;
    if (!isatty(STDOUT_FILENO))
        return;
    uint64_t done = 0, seconds = (clock_ns() - begun_ns) / NS_PER_S;
    for (unsigned i = 0; i < options.jobs; i++)
        done += board->workers[i].runs;
    if (seconds == told && !last)
        return;
    told = seconds;
    printf("\r\033[K");
    if (!last)
        printf("%" PRIu64 " of %" PRIu64 " seeds, %" PRIu64 " s", done, options.seeds, seconds);
    fflush(stdout);
}

static unsigned run_all(struct board *board)
{
    uint64_t begun_ns = clock_ns();
    pid_t pids[JOBS_MAX];
    unsigned running = options.jobs, failures = 0;
    for (unsigned i = 0; i < options.jobs; i++)
        pids[i] = start_worker(board, i);
    while (running > 0) {
        int status;
        pid_t pid = waitpid(-1, &status, isatty(STDOUT_FILENO) ? WNOHANG : 0);
        if (pid <= 0) {
            /* Only how often a person is told. */
            nanosleep(&(struct timespec) { .tv_nsec = 100000000 }, NULL);
            progress(board, begun_ns, false);
            continue;
        }
        unsigned i = 0;
        while (i < options.jobs && pids[i] != pid)
            i++;
        if (i == options.jobs)
            continue;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            running--;
            continue;
        }
        progress(board, begun_ns, true);
        uint64_t seed = atomic_load(&board->workers[i].seed);
        if (!replay(seed))
            printf("seed %" PRIu64 " FAILED: and passes when it is replayed\n", seed);
        printf("replay it with: build/tests/sim/lockstep-sim --seed %" PRIu64 " --trace\n\n", seed);
        if (++failures >= options.failures_max)
            atomic_store(&board->next, board->end);
        pids[i] = start_worker(board, i);
    }
    progress(board, begun_ns, true);
    struct cover *sum = calloc(1, sizeof(*sum));
    uint64_t runs = 0, steps = 0, hash = 0, seconds = (clock_ns() - begun_ns) / NS_PER_S;
    for (unsigned i = 0; sum && i < options.jobs; i++) {
        cover_add(sum, &board->workers[i].cover);
        runs += board->workers[i].runs;
        steps += board->workers[i].steps;
        hash += board->workers[i].hash;
    }
    if (options.counts)
        cover_print(stdout, sum);
    if (sum)
        printf("with a register: service moved by itself %" PRIu64 " times, of those %" PRIu64
               " from a primary that ran and served; %" PRIu64 " calm runs, and %" PRIu64
               " calm ends of a run, in which it stayed\n",
               sum->hits[COVER_took_over], sum->hits[COVER_took_living], sum->hits[COVER_calm_runs],
               sum->hits[COVER_rested]);
    printf("%" PRIu64 " seeds from %" PRIu64 ": %" PRIu64 " passed, %u failed, %" PRIu64 " steps, %" PRIu64
           " s, hash %016" PRIx64 "\n",
           options.seeds, options.from, runs, failures, steps, seconds, hash);
    if (!failures)
        failures += cover_missing(stdout, sum, options.seeds);
    free(sum);
    return failures;
}

static void usage(FILE *f)
{
    fputs("usage: lockstep-sim [--seeds N] [--from S] [--jobs J] [--failures F] [--twice] [--counts] [--registered]\n"
          "       lockstep-sim --seed S [--trace]\n"
          "\n"
          "  --seeds N     runs N seeds (1000), beginning with --from S (1)\n"
          "  --jobs J      in J processes (as many as there are processors)\n"
          "  --failures F  stops after F failed seeds (3)\n"
          "  --twice       runs each seed twice and demands that both runs are the same\n"
          "  --counts      tells how often each fault struck and each rare branch was reached\n"
          "  --registered  runs only those whose nodes have a register\n"
          "  --seed S      runs one seed; if it fails, prints what happened last\n"
          "  --trace       prints all that happens\n"
          "\n"
          "A batch of 10000 seeds or more also fails when a rare branch was never reached; of the rarest, one of "
          "60000.\n",
          f);
}

static uint64_t number(const char *text, uint64_t low, uint64_t high)
{
    char *end;
    uint64_t v = strtoull(text, &end, 10);
    if (!*text || *end || *text == '-' || v < low || v > high) {
        fprintf(stderr, "lockstep-sim: %s is not a number from %" PRIu64 " to %" PRIu64 "\n", text, low, high);
        exit(2);
    }
    return v;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        { "seeds", required_argument, NULL, 'n' },
        { "from", required_argument, NULL, 'f' },
        { "jobs", required_argument, NULL, 'j' },
        { "seed", required_argument, NULL, 's' },
        { "failures", required_argument, NULL, 'x' },
        { "trace", no_argument, NULL, 't' },
        { "twice", no_argument, NULL, '2' },
        { "counts", no_argument, NULL, 'c' },
        { "help", no_argument, NULL, 'h' },
        { "registered", no_argument, NULL, 'r' },
        { 0 },
    };
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    options.jobs = (unsigned)(cores < 1 ? 1 : cores > JOBS_MAX ? JOBS_MAX : cores);
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'n': options.seeds = number(optarg, 1, UINT64_MAX / 4); break;
        case 'f': options.from = number(optarg, 0, UINT64_MAX / 4); break;
        case 'j': options.jobs = (unsigned)number(optarg, 1, JOBS_MAX); break;
        case 'x': options.failures_max = (unsigned)number(optarg, 1, UINT32_MAX); break;
        case 's':
            options.one = true;
            options.from = number(optarg, 0, UINT64_MAX / 2);
            break;
        case 't': options.trace_all = true; break;
        case '2': options.twice = true; break;
        case 'c': options.counts = true; break;
        case 'r': options.registered = true; break;
        case 'h': usage(stdout); return 0;
        default: usage(stderr); return 2;
        }
    }
    if (optind < argc) {
        usage(stderr);
        return 2;
    }
    if (options.one)
        return replay(options.from) ? 1 : 0;
    struct board *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED)
        abort();
    atomic_store(&board->next, options.from);
    board->end = options.from + options.seeds;
    return run_all(board) ? 1 : 0;
}
