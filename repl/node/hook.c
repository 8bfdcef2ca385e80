/* Hooks: one thread that starts them, gathers what they print, and ends those that take too long or are out of date. */
#include "repl/node/hook.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/node/printable.h"
#include "repl/node/queue.h"

#define LINE_BYTES 512    /* of what a hook prints; longer lines are cut in pieces */
#define SETTING_BYTES 400 /* of "LOCKSTEP_DEVICE=..." */
#define LINES_A_LOOK 64   /* so that one that prints without end does not hold up the others */

enum setting { SETTING_VOLUME, SETTING_NODE, SETTING_ROLE, SETTING_EPOCH, SETTING_DEVICE, SETTING_COUNT };

struct waiting {
    bool is;
    uint64_t epoch;
};

/* The hooks of one volume. */
struct hook {
    const struct volume_config *config;
    struct waiting waiting[HOOK_DEMOTE + 1]; /* a promote after the demote, where both wait */
    /* The one that runs. */
    pid_t pid; /* also of its process group; 0: none does */
    enum hook_kind kind;
    int pidfd;
    int output;        /* -1: closed */
    const char *ended; /* why it was told to end; NULL: it was not */
    bool overtaken;    /* as the volume is not served any more */
    bool killed;
    bool hangs; /* no signal ends it */
    uint64_t began_ns;
    uint64_t due_ns; /* when SIGTERM is due, after that SIGKILL, and then its end */
    char line[LINE_BYTES];
    size_t line_used;
};

/* What a volume has told. */
struct call {
    unsigned hook;
    enum hook_kind kind;
    uint64_t epoch;
};

struct hooks {
    struct volume_host host;
    struct queue calls;
    pthread_t thread;
    int ended_fd; /* an eventfd that the thread writes as its last deed: pthread_join() itself has no limit of time */
    atomic_uint count;
    atomic_bool closing;
    bool joined;
    unsigned hook_count;
    struct hook *hooks;
    struct pollfd *fds; /* of the thread: the queue's, and two for each hook */
};

static const char *kind_name(enum hook_kind kind) { return kind == HOOK_PROMOTE ? "promote" : "demote"; }

static const char *program_of(const struct hook *k, enum hook_kind kind)
{
    return kind == HOOK_PROMOTE ? k->config->hooks.promote : k->config->hooks.demote;
}

static void __attribute__((format(printf, 4, 5)))
note(struct hooks *h, const struct hook *k, enum note_level level, const char *format, ...)
{
    char text[ACTION_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    h->host.note(h->host.ctx, k->config->volume, level, "hook", text);
}

/* ---- starting ---- */

/* The daemon's environment, less what is between it and who started it, plus what a hook is told. */
static char **make_environment(char settings[SETTING_COUNT][SETTING_BYTES])
{
    static const char *const not_for_hooks[] = { "LOCKSTEP_", "NOTIFY_SOCKET=", "JOURNAL_STREAM=", "WATCHDOG_",
                                                 "LISTEN_" };
    size_t count = 0;
    while (environ[count])
        count++;
    char **env = calloc(count + SETTING_COUNT + 1, sizeof(*env));
    if (!env)
        return NULL;
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        bool ours = false;
        for (size_t j = 0; j < ARRAY_LEN(not_for_hooks); j++)
            ours |= strncmp(environ[i], not_for_hooks[j], strlen(not_for_hooks[j])) == 0;
        if (!ours)
            env[used++] = environ[i];
    }
    for (size_t i = 0; i < SETTING_COUNT; i++)
        env[used++] = settings[i];
    return env;
}

/* In a process group of its own, with nothing of the daemon's but its environment and where it stands. */
static int spawn(const char *program, int output, char **env, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, output, STDERR_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    char *argv[] = { (char *)program, NULL };
    int rc = posix_spawn(pid, program, &files, &attributes, argv, env);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return rc;
}

static int start_program(struct hook *k, enum hook_kind kind, uint64_t epoch)
{
    const struct volume_config *c = k->config;
    char settings[SETTING_COUNT][SETTING_BYTES];
    snprintf(settings[SETTING_VOLUME], SETTING_BYTES, "LOCKSTEP_VOLUME=%s", c->volume);
    snprintf(settings[SETTING_NODE], SETTING_BYTES, "LOCKSTEP_NODE=%s", config_self(c)->name);
    snprintf(settings[SETTING_ROLE], SETTING_BYTES, "LOCKSTEP_ROLE=%s",
             role_name(kind == HOOK_PROMOTE ? ROLE_PRIMARY : ROLE_SECONDARY));
    snprintf(settings[SETTING_EPOCH], SETTING_BYTES, "LOCKSTEP_EPOCH=%llu", (unsigned long long)epoch);
    snprintf(settings[SETTING_DEVICE], SETTING_BYTES, "LOCKSTEP_DEVICE=nbd:%s", config_self(c)->device);
    char **env = make_environment(settings);
    if (!env)
        return ENOMEM;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) {
        free(env);
        return errno;
    }
    fcntl(ends[1], F_SETFL, 0); /* the hook's end waits, as programs expect */
    int rc = spawn(program_of(k, kind), ends[1], env, &k->pid);
    close(ends[1]);
    free(env);
    if (rc) {
        close(ends[0]);
        k->pid = 0;
        return rc;
    }
    k->output = ends[0];
    k->pidfd = pidfd_open(k->pid, 0);
    if (k->pidfd >= 0)
        return 0;
    rc = errno; /* nobody would see its end */
    kill(-k->pid, SIGKILL);
    while (waitpid(k->pid, NULL, 0) < 0 && errno == EINTR) {}
    close(k->output);
    k->output = -1;
    k->pid = 0;
    return rc;
}

static void start(struct hooks *h, struct hook *k, enum hook_kind kind)
{
    uint64_t epoch = k->waiting[kind].epoch;
    k->waiting[kind].is = false;
    k->kind = kind;
    k->ended = NULL;
    k->overtaken = k->killed = k->hangs = false;
    k->line_used = 0;
    k->began_ns = clock_ns();
    k->due_ns = k->began_ns + k->config->hooks.ns_max;
    int rc = start_program(k, kind, epoch);
    if (rc) {
        note(h, k, NOTE_ERROR, "%s: %s cannot be run: %s", kind_name(kind), program_of(k, kind), strerror(rc));
        atomic_fetch_sub(&h->count, 1);
        return;
    }
    note(h, k, NOTE_INFO, "%s: %s has begun, at epoch %llu", kind_name(kind), program_of(k, kind),
         (unsigned long long)epoch);
}

/* ---- what it prints ---- */

static void log_line(struct hooks *h, struct hook *k)
{
    char text[LINE_BYTES + 32];
    char shown[LINE_BYTES + 32];
    int n = snprintf(text, sizeof(text), "hook %s: %.*s", kind_name(k->kind), (int)k->line_used, k->line);
    printable(shown, sizeof(shown), text, (size_t)n);
    h->host.log(h->host.ctx, k->config->volume, LOG_LEVEL_INFO, shown);
    k->line_used = 0;
}

static void close_output(struct hooks *h, struct hook *k)
{
    if (k->output < 0)
        return;
    if (k->line_used)
        log_line(h, k);
    close(k->output);
    k->output = -1;
}

static void take_output(struct hooks *h, struct hook *k)
{
    char some[LINE_BYTES];
    for (unsigned lines = 0; k->output >= 0 && lines < LINES_A_LOOK;) {
        ssize_t n = read(k->output, some, sizeof(some));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            close_output(h, k);
            return;
        }
        for (ssize_t i = 0; i < n; i++) {
            if (some[i] != '\n')
                k->line[k->line_used++] = some[i];
            if (some[i] != '\n' && k->line_used < sizeof(k->line))
                continue;
            log_line(h, k);
            lines++;
        }
    }
}

/* ---- its end ---- */

static void tell_end(struct hooks *h, struct hook *k, int status)
{
    const char *kind = kind_name(k->kind), *program = program_of(k, k->kind);
    unsigned long long ms = (clock_ns() - k->began_ns) / NS_PER_MS;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && !k->ended) {
        note(h, k, NOTE_INFO, "%s: %s is done, after %llu ms", kind, program, ms);
        return;
    }
    char how[64];
    if (WIFEXITED(status))
        snprintf(how, sizeof(how), "ended with %d", WEXITSTATUS(status));
    else
        snprintf(how, sizeof(how), "was ended by signal %d", WTERMSIG(status));
    if (k->overtaken) {
        note(h, k, NOTE_WARNING, "%s: %s %s after %llu ms: %s; what it was to do may be done in part", kind, program,
             how, ms, k->ended);
        return;
    }
    const char *means =
        k->kind == HOOK_PROMOTE ? "the volume is served nonetheless" : "the volume is closed nonetheless";
    note(h, k, NOTE_ERROR, "%s: %s %s after %llu ms%s%s; %s, but what it was to do may not be done", kind, program, how,
         ms, k->ended ? ": " : "", k->ended ? k->ended : "", means);
}

/* The process has ended, and is still there to be asked: so its group is still its own. */
static void reap(struct hooks *h, struct hook *k)
{
    int status = 0;
    kill(-k->pid, SIGKILL); /* what it has left behind */
    while (waitpid(k->pid, &status, 0) < 0 && errno == EINTR) {}
    take_output(h, k);
    close_output(h, k);
    tell_end(h, k, status);
    if (k->pidfd >= 0)
        close(k->pidfd);
    k->pid = 0;
    atomic_fetch_sub(&h->count, 1);
}

static void end(struct hook *k, const char *why)
{
    if (k->pid == 0 || k->ended)
        return;
    k->ended = why;
    k->due_ns = clock_ns() + HOOK_TERM_NS;
    kill(-k->pid, SIGTERM);
}

static void look_at_time(struct hooks *h, struct hook *k, uint64_t now_ns)
{
    if (k->pid == 0 || now_ns < k->due_ns)
        return;
    if (!k->ended) {
        end(k, "it took too long");
        return;
    }
    if (!k->killed) {
        k->killed = true;
        kill(-k->pid, SIGKILL);
        k->due_ns = now_ns + HOOK_KILL_NS;
        return;
    }
    k->hangs = true;
    k->due_ns = UINT64_MAX;
    note(h, k, NOTE_ERROR, "%s: %s does not end, although it was killed: it hangs, as on a disk that does not answer",
         kind_name(k->kind), program_of(k, k->kind));
}

/* ---- the thread ---- */

static void leave_out(struct hooks *h, struct hook *k, enum hook_kind kind)
{
    if (!k->waiting[kind].is)
        return;
    k->waiting[kind].is = false;
    atomic_fetch_sub(&h->count, 1);
}

/* A demote makes a promote void that has not begun, and ends one that runs. Two demotes that wait are one. */
static void take_call(struct hooks *h, const struct call *call)
{
    struct hook *k = &h->hooks[call->hook];
    leave_out(h, k, call->kind);
    if (call->kind == HOOK_DEMOTE) {
        leave_out(h, k, HOOK_PROMOTE);
        if (k->kind == HOOK_PROMOTE && k->pid != 0 && !k->ended) {
            end(k, "the volume is not served here any more");
            k->overtaken = true;
        }
    }
    bool has_program = *program_of(k, call->kind);
    if (has_program)
        k->waiting[call->kind] = (struct waiting) { .is = true, .epoch = call->epoch };
    else
        atomic_fetch_sub(&h->count, 1);
}

static void take_calls(struct hooks *h)
{
    struct call call;
    while (queue_take(&h->calls, &call))
        take_call(h, &call);
}

/* Nobody will do what it was to do. */
static void tell_left_out(struct hooks *h, const struct hook *k)
{
    note(h, k, NOTE_ERROR, "%s: not run, as the daemon ends", kind_name(HOOK_DEMOTE));
}

static void advance(struct hooks *h, struct hook *k)
{
    if (atomic_load(&h->closing)) {
        end(k, "the daemon ends");
        if (k->waiting[HOOK_DEMOTE].is)
            tell_left_out(h, k);
        leave_out(h, k, HOOK_DEMOTE);
        leave_out(h, k, HOOK_PROMOTE);
    }
    while (k->pid == 0 && (k->waiting[HOOK_DEMOTE].is || k->waiting[HOOK_PROMOTE].is))
        start(h, k, k->waiting[HOOK_DEMOTE].is ? HOOK_DEMOTE : HOOK_PROMOTE);
}

/* And may end yet. */
static bool any_runs(const struct hooks *h)
{
    for (unsigned i = 0; i < h->hook_count; i++)
        if (h->hooks[i].pid && !h->hooks[i].hangs)
            return true;
    return false;
}

static int timeout_ms(const struct hooks *h)
{
    uint64_t due_ns = UINT64_MAX, now_ns = clock_ns();
    for (unsigned i = 0; i < h->hook_count; i++)
        if (h->hooks[i].pid)
            due_ns = min_u64(due_ns, h->hooks[i].due_ns);
    if (due_ns == UINT64_MAX)
        return -1;
    return due_ns <= now_ns ? 0 : (int)min_u64((due_ns - now_ns) / NS_PER_MS + 1, 60 * 1000);
}

static void wait_for_something(struct hooks *h)
{
    h->fds[0] = (struct pollfd) { .fd = queue_wake_fd(&h->calls), .events = POLLIN };
    for (unsigned i = 0; i < h->hook_count; i++) {
        const struct hook *k = &h->hooks[i];
        h->fds[1 + 2 * i] = (struct pollfd) { .fd = k->pid ? k->pidfd : -1, .events = POLLIN };
        h->fds[2 + 2 * i] = (struct pollfd) { .fd = k->pid ? k->output : -1, .events = POLLIN };
    }
    if (poll(h->fds, 1 + 2 * h->hook_count, timeout_ms(h)) < 0)
        assert(errno == EINTR);
}

int hook_why_not_run(const char *program)
{
    struct stat st;
    if (stat(program, &st) < 0)
        return errno;
    if (S_ISDIR(st.st_mode))
        return EISDIR;
    return access(program, X_OK) < 0 ? errno : 0;
}

/* On this thread, as a program may lie on a file system that hangs. */
static void warn_of_programs(struct hooks *h)
{
    for (unsigned i = 0; i < h->hook_count; i++)
        for (enum hook_kind kind = HOOK_PROMOTE; kind <= HOOK_DEMOTE; kind++) {
            const char *program = program_of(&h->hooks[i], kind);
            int rc = *program ? hook_why_not_run(program) : 0;
            if (rc)
                note(h, &h->hooks[i], NOTE_WARNING, "%s: %s could not be run: %s", kind_name(kind), program,
                     strerror(rc));
        }
}

static void *run(void *arg)
{
    struct hooks *h = arg;
    warn_of_programs(h);
    for (;;) {
        queue_awake(&h->calls);
        bool closing = atomic_load(&h->closing);
        take_calls(h); /* if it closes: all that came before */
        for (unsigned i = 0; i < h->hook_count; i++)
            advance(h, &h->hooks[i]);
        if (closing && !any_runs(h)) {
            eventfd_write(h->ended_fd, 1);
            return NULL;
        }
        wait_for_something(h);
        uint64_t now_ns = clock_ns();
        for (unsigned i = 0; i < h->hook_count; i++) {
            struct hook *k = &h->hooks[i];
            if (h->fds[2 + 2 * i].revents)
                take_output(h, k);
            if (h->fds[1 + 2 * i].revents)
                reap(h, k);
            look_at_time(h, k, now_ns);
        }
    }
}

/* ---- from outside ---- */

struct hooks *hooks_open(const struct config *config, const struct volume_host *host, struct err *err)
{
    struct hooks *h = calloc(1, sizeof(*h));
    struct hook *list = calloc(config->count + 1, sizeof(*list));
    struct pollfd *fds = calloc(1 + 2 * (size_t)config->count, sizeof(*fds));
    int rc = h && list && fds ? queue_open(&h->calls, HOOKS_WAITING_MAX, sizeof(struct call)) : -ENOMEM;
    if (!rc) {
        h->host = *host;
        h->hooks = list;
        h->fds = fds;
        h->hook_count = config->count;
        for (unsigned i = 0; i < config->count; i++)
            list[i] = (struct hook) { .config = &config->volumes[i], .output = -1, .pidfd = -1 };
        h->ended_fd = eventfd(0, EFD_CLOEXEC);
        rc = h->ended_fd < 0 ? -errno : -pthread_create(&h->thread, NULL, run, h);
        if (!rc)
            return h;
        if (h->ended_fd >= 0)
            close(h->ended_fd);
        queue_close(&h->calls);
    }
    err_set(err, rc, "hooks cannot be run: %s", strerror(-rc));
    free(h);
    free(list);
    free(fds);
    return NULL;
}

void hooks_run(struct hooks *h, const char *volume, enum hook_kind kind, uint64_t epoch)
{
    for (unsigned i = 0; i < h->hook_count; i++) {
        const struct volume_config *c = h->hooks[i].config;
        if (strcmp(c->volume, volume) != 0 || !(*c->hooks.promote || *c->hooks.demote))
            continue;
        if (atomic_load(&h->closing)) {
            if (kind == HOOK_DEMOTE && *c->hooks.demote)
                tell_left_out(h, &h->hooks[i]);
            return;
        }
        atomic_fetch_add(&h->count, 1);
        if (queue_put(&h->calls, &(struct call) { .hook = i, .kind = kind, .epoch = epoch }))
            return;
        atomic_fetch_sub(&h->count, 1);
        note(h, &h->hooks[i], NOTE_ERROR, "%s: not run, as too many hooks wait to be", kind_name(kind));
        return;
    }
}

unsigned hooks_count(const struct hooks *h) { return atomic_load(&h->count); }

bool hooks_end(struct hooks *h)
{
    if (atomic_exchange(&h->closing, true))
        return h->joined;
    queue_wake(&h->calls);
    struct pollfd ended = { .fd = h->ended_fd, .events = POLLIN };
    uint64_t until_ns = clock_ns() + HOOK_END_NS, now_ns;
    while (!ended.revents && (now_ns = clock_ns()) < until_ns)
        poll(&ended, 1, (int)((until_ns - now_ns) / NS_PER_MS) + 1);
    if (!ended.revents)
        return false;
    pthread_join(h->thread, NULL);
    h->joined = true;
    return true;
}

void hooks_close(struct hooks *h)
{
    if (!h)
        return;
    if (!hooks_end(h))
        pthread_join(h->thread, NULL);
    for (unsigned i = 0; i < h->hook_count; i++) {
        struct hook *k = &h->hooks[i];
        if (k->pid) /* left behind */
            close(k->pidfd);
        if (k->output >= 0)
            close(k->output);
    }
    queue_close(&h->calls);
    close(h->ended_fd);
    free(h->hooks);
    free(h->fds);
    free(h);
}
