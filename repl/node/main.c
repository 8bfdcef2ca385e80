/* lockstepd: options, signals and limits around the node. */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/control_wire.h"
#include "repl/node/hook.h"
#include "repl/node/leg.h"
#include "repl/node/node.h"
#include "repl/node/notify.h"
#include "repl/node/quantity.h"
#include "repl/node/registers.h"
#include "repl/witness/witness.h"

#define DEFAULT_CONFIG "/etc/lockstep/"
#define DEFAULT_CONTROL CONFIG_RUN_DIR "/control.sock"
#define FILES_PER_VOLUME 256 /* clients, paths, backing, ring */
#define FILES_OF_THE_DAEMON 256
#define LARGE_BYTES (64 * 1024)
#define STATE_PATH_BYTES_MAX 129 /* a file's name behind it fits into CONFIG_PATH_BYTES */

static const char usage[] =
    "usage: lockstepd [OPTION...]\n"
    "\n"
    "Keeps this server's volumes identical with those of their peers. lockstep(1) commands it.\n"
    "\n"
    "  -c, --config PATH        a volume's or witness's file, or a directory of them (default: " DEFAULT_CONFIG ")\n"
    "  -n, --node NAME          which of the configured nodes this is (default: the host name)\n"
    "  -s, --control SOCKET     where lockstep reaches the daemon (default: " DEFAULT_CONTROL ")\n"
    "      --state DIR          where what is given up of a split brain is kept (default: " CONFIG_STATE_DIR ")\n"
    "      --log-level LEVEL    error, warning, info or debug (default: info)\n"
    "      --drain-timeout TIME how long a shutdown waits for writes that wait for a peer (default: 30s)\n"
    "      --check              read the configuration, say whether it is right, and end\n"
    "      --allow-test-faults  accept `test:` sections, which inject faults\n"
    "  -h, --help               this text\n"
    "  -V, --version            the version\n"
    "\n"
    "SIGTERM and SIGINT drain and detach all volumes, and end the daemon; a second one ends it at once.\n"
    "SIGHUP is only logged: the configuration is read at the start.\n"
    "Exit codes: 0 ended cleanly; 1 failed, or ended without draining; 2 used wrongly, or a wrong configuration.\n";

struct arguments {
    const char *config;
    const char *node;
    const char *control;
    const char *state; /* NULL: CONFIG_STATE_DIR */
    enum log_level level;
    uint64_t drain_ns;
    bool allow_test_faults;
    bool check;
};

enum option_code {
    OPTION_LOG_LEVEL = 256,
    OPTION_STATE,
    OPTION_DRAIN_TIMEOUT,
    OPTION_CHECK,
    OPTION_TEST_FAULTS,
};

static void __attribute__((noreturn)) used_wrongly(const char *what, const char *value)
{
    fprintf(stderr, "lockstepd: %s%s; see lockstepd --help\n", what, value);
    exit(CONTROL_USED_WRONGLY);
}

static void parse_arguments(int argc, char **argv, struct arguments *out)
{
    static const struct option options[] = {
        { "config", required_argument, NULL, 'c' },
        { "node", required_argument, NULL, 'n' },
        { "control", required_argument, NULL, 's' },
        { "state", required_argument, NULL, OPTION_STATE },
        { "log-level", required_argument, NULL, OPTION_LOG_LEVEL },
        { "drain-timeout", required_argument, NULL, OPTION_DRAIN_TIMEOUT },
        { "check", no_argument, NULL, OPTION_CHECK },
        { "allow-test-faults", no_argument, NULL, OPTION_TEST_FAULTS },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { 0 },
    };
    *out = (struct arguments) {
        .config = DEFAULT_CONFIG,
        .control = DEFAULT_CONTROL,
        .level = LOG_LEVEL_INFO,
        .drain_ns = NODE_DRAIN_NS_DEFAULT,
    };
    for (int code; (code = getopt_long(argc, argv, "c:n:s:hV", options, NULL)) != -1;) {
        switch (code) {
        case 'c': out->config = optarg; break;
        case 'n': out->node = optarg; break;
        case 's': out->control = optarg; break;
        case OPTION_STATE:
            out->state = optarg;
            if (optarg[0] != '/' || strlen(optarg) >= STATE_PATH_BYTES_MAX)
                used_wrongly("--state: expected a directory of at most 128 characters, from the root on, found ",
                             optarg);
            break;
        case OPTION_LOG_LEVEL:
            if (!log_level_from_name(optarg, &out->level))
                used_wrongly("--log-level: expected error, warning, info or debug, found ", optarg);
            break;
        case OPTION_DRAIN_TIMEOUT:
            if (!quantity_time(optarg, &out->drain_ns))
                used_wrongly("--drain-timeout: expected a time such as 30s, found ", optarg);
            break;
        case OPTION_CHECK: out->check = true; break;
        case OPTION_TEST_FAULTS: out->allow_test_faults = true; break;
        case 'h': fputs(usage, stdout); exit(0);
        case 'V': puts("lockstepd " LOCKSTEP_VERSION); exit(0);
        default: exit(CONTROL_USED_WRONGLY); /* getopt has said why */
        }
    }
    if (optind < argc)
        used_wrongly("expected options only, found ", argv[optind]);
}

/* Signals arrive at the loop, as reads; every thread inherits the mask. */
static int take_signals(void)
{
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGHUP); /* a closed terminal, or a habit: volumes are not ended for it */
    if (pthread_sigmask(SIG_BLOCK, &ours, NULL) || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return -1;
    return signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void raise_limit(struct log *log, int resource, rlim_t wanted, const char *name, const char *consequence)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) < 0 || limit.rlim_cur >= wanted)
        return;
    struct rlimit raised = { .rlim_cur = wanted, .rlim_max = limit.rlim_max > wanted ? limit.rlim_max : wanted };
    if (setrlimit(resource, &raised) == 0)
        return;
    limit.rlim_cur = limit.rlim_max; /* what an unprivileged daemon may have */
    setrlimit(resource, &limit);
    log_line(log, LOG_LEVEL_WARNING, NULL, "%s stays at %llu, where %s: %s", name, (unsigned long long)limit.rlim_cur,
             wanted == RLIM_INFINITY ? "no limit is wanted" : "more is wanted", consequence);
}

static void raise_limits(struct log *log, const struct config *config)
{
    /* Older kernels count the rings' and registered buffers' memory here. */
    raise_limit(log, RLIMIT_MEMLOCK, RLIM_INFINITY, "RLIMIT_MEMLOCK", "buffers may not be registered with io_uring");
    rlim_t files = FILES_OF_THE_DAEMON + (rlim_t)config->count * FILES_PER_VOLUME;
    if (config->has_witness)
        files += WITNESS_CONNECTIONS_MAX;
    raise_limit(log, RLIMIT_NOFILE, files, "RLIMIT_NOFILE", "many clients at once may be turned away");
}

static void tell_ready(void *ctx)
{
    log_text(ctx, LOG_LEVEL_INFO, NULL, "ready");
    notify_systemd("READY=1");
}

static void tell_stopping(void *ctx)
{
    (void)ctx;
    notify_systemd("STOPPING=1");
}

/* The control socket or a volume's, as `device: auto` has it, is to be there. */
static bool wants_run_dir(const struct arguments *args, const struct config *config)
{
    static const char socket_in_it[] = "unix:" CONFIG_RUN_DIR "/";
    bool wanted = strncmp(args->control, CONFIG_RUN_DIR "/", strlen(CONFIG_RUN_DIR "/")) == 0;
    for (unsigned i = 0; i < config->count; i++)
        wanted |= strncmp(config_self(&config->volumes[i])->device, socket_in_it, strlen(socket_in_it)) == 0;
    return wanted;
}

static int run(const struct arguments *args, const struct config *config, struct log *log)
{
    int signal_fd = take_signals();
    if (signal_fd < 0) {
        log_line(log, LOG_LEVEL_ERROR, NULL, "no signalfd: %s", strerror(errno));
        return CONTROL_FAILED;
    }
    raise_limits(log, config);
    if (wants_run_dir(args, config))
        mkdir(CONFIG_RUN_DIR, 0755); /* fails where it exists; what else may be wrong, the socket will tell */
    log_line(log, LOG_LEVEL_INFO, NULL, "lockstepd " LOCKSTEP_VERSION ": %u volume%s%s from %s", config->count,
             config->count == 1 ? "" : "s", config->has_witness ? " and a witness" : "", args->config);

    char host[NAME_BYTES_MAX] = "";
    gethostname(host, sizeof(host) - 1);
    struct node_options options = {
        .config = config,
        .name = args->node      ? args->node
                : config->count ? config_self(&config->volumes[0])->name
                                : host,
        .control_path = args->control,
        .state = args->state,
        .log = log,
        .drain_ns_max = args->drain_ns,
        .ready_ns_max = NODE_READY_NS_MAX,
        .signal_fd = signal_fd,
        .ready = tell_ready,
        .stopping = tell_stopping,
        .ctx = log,
    };
    struct err err = { 0 };
    struct node *node = node_open(&options, &err);
    if (!node) {
        log_text(log, LOG_LEVEL_ERROR, NULL, err.text);
        return CONTROL_FAILED;
    }
    switch (node_run(node)) {
    case NODE_CLEAN:
        node_close(node);
        log_text(log, LOG_LEVEL_INFO, NULL, "ended cleanly");
        return CONTROL_DONE;
    case NODE_UNCLEAN:
        node_close(node);
        log_text(log, LOG_LEVEL_ERROR, NULL, "ended, not cleanly: see above");
        return CONTROL_FAILED;
    case NODE_ABANDONED:
        log_text(log, LOG_LEVEL_ERROR, NULL,
                 "ended, not cleanly: a thread waits for a disk, for `create`, or to start a hook");
        log_close(log);
        unlink(args->control);
        _exit(CONTROL_FAILED);
    }
    return CONTROL_FAILED;
}

/* What keeps nothing from starting, but will hurt in the failover that it is for. */
static bool warn_of_hook(const struct volume_config *c, const char *kind, const char *program)
{
    int rc = *program ? hook_why_not_run(program) : 0;
    if (rc)
        fprintf(stderr, "warning: volume %s: hooks: %s: %s could not be run: %s\n", c->volume, kind, program,
                strerror(rc));
    return rc != 0;
}

/* Beyond the files' words: what the daemon opens when it starts. Connects to nobody. */
static int check(const char *path, const struct config *config)
{
    struct err err = { 0 };
    struct registers *registers = registers_open(config, &err);
    if (!registers) {
        fprintf(stderr, "%s\n", err.text);
        return CONTROL_USED_WRONGLY;
    }
    registers_close(registers);
    bool warned = false;
    for (unsigned i = 0; i < config->count; i++) {
        const struct volume_config *c = &config->volumes[i];
        warned |= warn_of_hook(c, "promote", c->hooks.promote);
        warned |= warn_of_hook(c, "demote", c->hooks.demote);
    }
    printf("%s: %u volume%s%s, nothing wrong%s\n", path, config->count, config->count == 1 ? "" : "s",
           config->has_witness ? " and a witness" : "", warned ? " that keeps it from starting" : "");
    return CONTROL_DONE;
}

int main(int argc, char **argv)
{
    /* What is large, above all a control client's buffers, goes back to the system when it is freed: glibc would keep
     * up to all that was ever in use at a time, and raise this limit by itself. */
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);

    struct arguments args;
    parse_arguments(argc, argv, &args);

    char here[CONFIG_PATH_BYTES];
    struct config_options config_options = {
        .node = args.node,
        .allow_test_faults = args.allow_test_faults,
        .directory = getcwd(here, sizeof(here)),
    };
    struct config config;
    struct err err = { 0 };
    if (config_load(args.config, &config_options, &config, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return CONTROL_USED_WRONGLY;
    }
    for (unsigned i = 0; i < config.count; i++) {
        if (leg_check_size(&config.volumes[i], &err)) {
            fprintf(stderr, "%s\n", err.text);
            config_free(&config);
            return CONTROL_USED_WRONGLY;
        }
    }
    if (args.check) {
        int code = check(args.config, &config);
        config_free(&config);
        return code;
    }

    struct log_config log_config = {
        .fd = STDERR_FILENO,
        .level = args.level,
        .journal = log_fd_is_journal(STDERR_FILENO),
    };
    /* The logger's thread is made before signals are blocked; it blocks them itself. */
    struct log *log = log_open(&log_config, &err);
    if (!log) {
        fprintf(stderr, "lockstepd: %s\n", err.text);
        config_free(&config);
        return CONTROL_FAILED;
    }
    int code = run(&args, &config, log);
    log_close(log);
    config_free(&config);
    return code;
}
