/* Hooks: real scripts, what they are told, in which order they run, and how they are ended. */
#include "repl/node/hook.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "tests/unit/unit.h"

#define PATIENCE_NS (20 * NS_PER_S)

static char dir[64];
static struct volume_config volumes[2];
static const struct config config = { .count = ARRAY_LEN(volumes), .volumes = volumes };
static struct hooks *hooks;

/* ---- a disk that hangs ---- */

static atomic_bool signals_are_lost; /* as of a process that is in a system call without end */
static atomic_bool programs_hang;    /* they lie on such a disk */
static atomic_bool program_hangs;    /* one that was begun */

int kill(pid_t pid, int number) { return atomic_load(&signals_are_lost) ? 0 : (int)syscall(SYS_kill, pid, number); }

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const argv[], char *const env[])
{
    while (atomic_load(&programs_hang)) {
        atomic_store(&program_hangs, true);
        usleep(1000);
    }
    int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[],
                char *const[]) = (__typeof__(real))dlsym(RTLD_NEXT, "posix_spawn");
    assert_non_null(real);
    return real(pid, path, actions, attributes, argv, env);
}

/* ---- what is told ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char all[16384]; /* notes and lines, each "LEVEL text\n" */
static size_t all_used;

static void add(const char *word, const char *text)
{
    pthread_mutex_lock(&lock);
    if (all_used < sizeof(all) - 1) /* what comes when it is full is not kept */
        all_used += (size_t)snprintf(all + all_used, sizeof(all) - all_used, "%s %s\n", word, text);
    pthread_mutex_unlock(&lock);
}

static void take_log(void *ctx, const char *volume, enum log_level level, const char *text)
{
    (void)ctx, (void)volume, (void)level;
    add("log", text);
}

static void take_note(void *ctx, const char *volume, enum note_level level, const char *topic, const char *text)
{
    (void)ctx, (void)volume;
    assert_string_equal(topic, "hook");
    add(level == NOTE_ERROR ? "ERROR" : "note", text);
}

static bool was_told(const char *text)
{
    pthread_mutex_lock(&lock);
    bool found = strstr(all, text);
    pthread_mutex_unlock(&lock);
    return found;
}

static const char *all_told(void)
{
    static char copy[sizeof(all)];
    pthread_mutex_lock(&lock);
    memcpy(copy, all, sizeof(copy));
    pthread_mutex_unlock(&lock);
    copy[sizeof(copy) - 1] = 0;
    return copy;
}

static void nap(void) { nanosleep(&(struct timespec) { .tv_nsec = 2 * (long)NS_PER_MS }, NULL); }

static void wait_told(const char *text)
{
    uint64_t until_ns = clock_ns() + PATIENCE_NS;
    while (!was_told(text)) {
        if (clock_ns() > until_ns)
            fail_msg("not told: %s\n%s", text, all_told());
        nap();
    }
}

static void wait_idle(void)
{
    uint64_t until_ns = clock_ns() + PATIENCE_NS;
    while (hooks_count(hooks)) {
        if (clock_ns() > until_ns)
            fail_msg("%u hooks never end\n%s", hooks_count(hooks), all_told());
        nap();
    }
}

/* ---- scripts ---- */

static const char *in_dir(const char *name)
{
    static char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static void write_script(const char *name, const char *body, mode_t mode)
{
    FILE *f = fopen(in_dir(name), "we");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\ncd %s\n%s", dir, body);
    fclose(f);
    assert_int_equal(chmod(in_dir(name), mode), 0);
}

static void set_hooks(const char *promote, const char *demote)
{
    write_script("promote", promote, 0755);
    write_script("demote", demote, 0755);
    snprintf(volumes[0].hooks.promote, sizeof(volumes[0].hooks.promote), "%s", in_dir("promote"));
    snprintf(volumes[0].hooks.demote, sizeof(volumes[0].hooks.demote), "%s", in_dir("demote"));
}

static bool exists(const char *name) { return access(in_dir(name), F_OK) == 0; }

static void wait_for_file(const char *name)
{
    uint64_t until_ns = clock_ns() + PATIENCE_NS;
    while (!exists(name)) {
        if (clock_ns() > until_ns)
            fail_msg("no file %s\n%s", name, all_told());
        nap();
    }
}

static bool lives(const char *file_with_pid)
{
    int pid = 0;
    FILE *f = fopen(in_dir(file_with_pid), "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &pid), 1);
    fclose(f);
    char path[64], state = 'X';
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    f = fopen(path, "re");
    if (!f)
        return false;
    if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
        state = 'X';
    fclose(f);
    return state != 'Z' && state != 'X';
}

/* What was killed takes a moment to be gone. */
static void wait_gone(const char *file_with_pid)
{
    uint64_t until_ns = clock_ns() + PATIENCE_NS;
    while (lives(file_with_pid) && clock_ns() < until_ns)
        nap();
    assert_false(lives(file_with_pid));
}

static void open_hooks(void)
{
    struct volume_host host = { .log = take_log, .note = take_note };
    struct err err = { 0 };
    hooks = hooks_open(&config, &host, &err);
    if (!hooks)
        fail_msg("%s", err.text);
}

static int setup(void **state)
{
    (void)state;
    all[0] = 0;
    all_used = 0;
    memset(volumes, 0, sizeof(volumes));
    snprintf(dir, sizeof(dir), "/tmp/test_hook.XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    for (unsigned i = 0; i < ARRAY_LEN(volumes); i++) {
        snprintf(volumes[i].volume, sizeof(volumes[i].volume), "g%u", i);
        snprintf(volumes[i].nodes[0].name, sizeof(volumes[i].nodes[0].name), "paris-a");
        snprintf(volumes[i].nodes[0].device, sizeof(volumes[i].nodes[0].device), "unix:/run/g.sock");
        volumes[i].hooks.ns_max = 30 * NS_PER_S;
    }
    return 0;
}

/* Runs the hook with more and more time, until that was enough for a script to come to where it says `touch ready`. */
static uint64_t run_until_ready(uint64_t ns_max)
{
    for (;; ns_max *= 2) {
        all[0] = 0;
        all_used = 0;
        volumes[0].hooks.ns_max = ns_max;
        open_hooks();
        hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
        wait_idle();
        if (exists("ready"))
            return ns_max;
        assert_true(hooks_end(hooks));
        hooks_close(hooks);
    }
}

static int teardown(void **state)
{
    (void)state;
    atomic_store(&signals_are_lost, false);
    atomic_store(&programs_hang, false);
    hooks_close(hooks);
    hooks = NULL;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

/* ---- tests ---- */

static void a_hook_is_told_what_has_happened(void **state)
{
    (void)state;
    setenv("LOCKSTEP_VOLUME", "somebody else's", 1);
    setenv("NOTIFY_SOCKET", "/run/secret", 1);
    set_hooks("env | grep -E '^(LOCKSTEP|NOTIFY)' | sort\ncat\necho to stderr >&2\nprintf 'without a line end'\n",
              "exit 0\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
    wait_idle();
    unsetenv("LOCKSTEP_VOLUME");
    unsetenv("NOTIFY_SOCKET");
    const char *in_order = strstr(all, "log hook promote: LOCKSTEP_DEVICE=nbd:unix:/run/g.sock\n"
                                       "log hook promote: LOCKSTEP_EPOCH=7\n"
                                       "log hook promote: LOCKSTEP_NODE=paris-a\n"
                                       "log hook promote: LOCKSTEP_ROLE=primary\n"
                                       "log hook promote: LOCKSTEP_VOLUME=g0\n"
                                       "log hook promote: to stderr\n"
                                       "log hook promote: without a line end\n");
    if (!in_order)
        fail_msg("%s", all);
    assert_true(was_told("has begun, at epoch 7"));
    assert_true(was_told("/promote is done, after "));
    assert_false(was_told("ERROR"));
    hooks_run(hooks, "g0", HOOK_DEMOTE, 8);
    wait_idle();
    assert_true(was_told("/demote is done"));
}

static void a_volume_without_hooks_runs_none(void **state)
{
    (void)state;
    open_hooks();
    hooks_run(hooks, "g1", HOOK_PROMOTE, 7);
    wait_idle();
    assert_string_equal(all, "");
}

static void a_failure_is_told_as_an_error(void **state)
{
    (void)state;
    set_hooks("exit 3\n", "kill -9 $$\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
    wait_told("ended with 3 after ");
    assert_true(was_told("the volume is served nonetheless"));
    hooks_run(hooks, "g0", HOOK_DEMOTE, 7);
    wait_told("was ended by signal 9");
    assert_true(was_told("ERROR demote: "));

    chmod(in_dir("promote"), 0644);
    hooks_run(hooks, "g0", HOOK_PROMOTE, 8);
    wait_told("cannot be run: Permission denied");
    unlink(in_dir("promote"));
    hooks_run(hooks, "g0", HOOK_PROMOTE, 9);
    wait_told("cannot be run: No such file or directory");
    wait_idle();
}

/* At the start, and not when a failover needs it. */
static void what_cannot_be_run_is_warned_of_at_the_start(void **state)
{
    (void)state;
    set_hooks("exit 0\n", "exit 0\n");
    volumes[1].hooks = volumes[0].hooks;
    open_hooks();
    assert_true(hooks_end(hooks));
    assert_string_equal(all_told(), "");
    hooks_close(hooks);
    assert_int_equal(chmod(in_dir("promote"), 0644), 0);
    unlink(in_dir("demote"));
    snprintf(volumes[1].hooks.promote, sizeof(volumes[1].hooks.promote), "%s", dir);
    open_hooks();
    wait_told("/promote could not be run: Permission denied");
    wait_told("note demote: ");
    wait_told("/demote could not be run: No such file or directory");
    wait_told(" could not be run: Is a directory");
}

static void one_that_takes_too_long_is_ended(void **state)
{
    (void)state;
    set_hooks("sleep 1000 & echo $! > child; trap 'echo asked; exit 4' TERM; touch ready; wait\n", "exit 0\n");
    uint64_t began_ns = clock_ns();
    uint64_t waited_ns = run_until_ready(300 * NS_PER_MS);
    assert_true(clock_ns() - began_ns >= waited_ns);
    assert_true(was_told("log hook promote: asked"));
    assert_true(was_told("ended with 4 after "));
    assert_true(was_told(": it took too long; "));
    wait_gone("child"); /* its whole group */
}

static void one_that_does_not_listen_is_killed(void **state)
{
    (void)state;
    set_hooks("trap '' TERM\necho $$ > pid\ntouch ready\nwhile :; do sleep 0.1; done\n", "exit 0\n");
    uint64_t began_ns = clock_ns();
    run_until_ready(200 * NS_PER_MS);
    assert_true(clock_ns() - began_ns >= HOOK_TERM_NS);
    assert_true(was_told("was ended by signal 9"));
    assert_false(lives("pid"));
}

static void a_demote_ends_the_promote_before_it(void **state)
{
    (void)state;
    set_hooks("touch began; sleep 1000; touch finished\n", "test -e began && touch demoted\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
    wait_for_file("began");
    hooks_run(hooks, "g0", HOOK_DEMOTE, 8);
    wait_idle();
    assert_true(exists("demoted"));
    assert_false(exists("finished"));
    assert_true(was_told("the volume is not served here any more"));
    assert_false(was_told("the volume is served nonetheless"));
    assert_false(was_told("ERROR"));
    const char *end = strstr(all, "not served here any more");
    assert_non_null(strstr(end, "/demote has begun, at epoch 8")); /* one at a time */
}

static void a_promote_waits_for_the_demote_before_it(void **state)
{
    (void)state;
    set_hooks("test -e demoted && touch promoted\n",
              "touch demoting; while test -e promote && ! test -e go; do sleep 0.01; done; touch demoted\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_DEMOTE, 7);
    wait_for_file("demoting");
    hooks_run(hooks, "g0", HOOK_PROMOTE, 8);
    assert_int_equal(hooks_count(hooks), 2);
    write_script("go", "", 0644);
    wait_idle();
    assert_true(exists("promoted"));
    assert_false(was_told("ERROR"));
}

static void what_was_overtaken_is_left_out(void **state)
{
    (void)state;
    set_hooks("touch promoted\n",
              "echo x >> demotes; touch demoting; while test -e promote && ! test -e go; do sleep 0.01; done\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_DEMOTE, 7);
    wait_for_file("demoting");
    for (unsigned i = 0; i < 5; i++) {
        hooks_run(hooks, "g0", HOOK_PROMOTE, 8 + i);
        hooks_run(hooks, "g0", HOOK_DEMOTE, 8 + i);
    }
    write_script("go", "", 0644);
    wait_idle();
    assert_false(exists("promoted")); /* none had begun */
    struct stat st;
    assert_int_equal(stat(in_dir("demotes"), &st), 0);
    assert_int_equal(st.st_size, 4); /* the first, and one for all that came meanwhile */
    assert_true(was_told("/demote has begun, at epoch 12"));
}

static void volumes_do_not_wait_for_each_other(void **state)
{
    (void)state;
    set_hooks("while test -e promote && ! test -e go; do sleep 0.01; done\n", "exit 0\n");
    volumes[1].hooks = volumes[0].hooks;
    write_script("other", "touch go\n", 0755);
    snprintf(volumes[1].hooks.promote, sizeof(volumes[1].hooks.promote), "%s", in_dir("other"));
    open_hooks();
    hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
    wait_told("has begun");
    hooks_run(hooks, "g1", HOOK_PROMOTE, 7);
    wait_idle();
    assert_false(was_told("ERROR"));
}

static void what_prints_without_end_holds_up_nobody(void **state)
{
    (void)state;
    set_hooks("yes | head -c 300000\n", "exit 0\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
    wait_idle();
    all[sizeof(all) - 1] = 0;
    assert_true(was_told("log hook promote: y\n"));
}

static void what_is_left_behind_ends_with_the_hook(void **state)
{
    (void)state;
    set_hooks("sleep 1000 & echo $! > child\n", "exit 0\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
    wait_idle();
    assert_true(was_told("/promote is done"));
    wait_gone("child");
}

static void nothing_outlives_the_daemon(void **state)
{
    (void)state;
    set_hooks("echo $$ > pid.tmp; mv pid.tmp pid; sleep 1000\n", "touch demoted\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
    wait_for_file("pid");
    assert_true(hooks_end(hooks));
    assert_true(was_told(": the daemon ends; "));
    assert_false(lives("pid"));
    assert_false(was_told("not run"));
    hooks_run(hooks, "g0", HOOK_DEMOTE, 8); /* by a volume that ends late */
    assert_false(exists("demoted"));
    assert_true(was_told("ERROR demote: not run, as the daemon ends"));
}

static void a_demote_that_the_end_leaves_out_is_told(void **state)
{
    (void)state;
    set_hooks("exit 0\n", "touch began; sleep 1000\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_DEMOTE, 7);
    wait_for_file("began");
    hooks_run(hooks, "g0", HOOK_DEMOTE, 8);
    assert_true(hooks_end(hooks));
    assert_true(was_told("ERROR demote: not run, as the daemon ends"));
}

static void what_no_signal_ends_is_left_behind(void **state)
{
    (void)state;
    set_hooks("touch began; while test -e promote && ! test -e go; do sleep 0.01; done\n", "exit 0\n");
    open_hooks();
    hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
    wait_for_file("began");
    atomic_store(&signals_are_lost, true);
    (void)hooks_end(hooks); /* false where this process stood still for longer than HOOK_END_NS leaves to spare */
    wait_told("ERROR promote: ");
    wait_told("does not end");
    write_script("go", "", 0644);
}

static void a_program_that_hangs_does_not_hang_the_end(void **state)
{
    (void)state;
    set_hooks("exit 0\n", "exit 0\n");
    open_hooks();
    atomic_store(&programs_hang, true);
    hooks_run(hooks, "g0", HOOK_PROMOTE, 7);
    while (!atomic_load(&program_hangs))
        nap();
    assert_false(hooks_end(hooks));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_hook_is_told_what_has_happened),
        TEST(a_volume_without_hooks_runs_none),
        TEST(a_failure_is_told_as_an_error),
        TEST(what_cannot_be_run_is_warned_of_at_the_start),
        TEST(one_that_takes_too_long_is_ended),
        TEST(one_that_does_not_listen_is_killed),
        TEST(a_demote_ends_the_promote_before_it),
        TEST(a_promote_waits_for_the_demote_before_it),
        TEST(what_was_overtaken_is_left_out),
        TEST(volumes_do_not_wait_for_each_other),
        TEST(what_prints_without_end_holds_up_nobody),
        TEST(what_is_left_behind_ends_with_the_hook),
        TEST(nothing_outlives_the_daemon),
        TEST(a_demote_that_the_end_leaves_out_is_told),
        TEST(what_no_signal_ends_is_left_behind),
        TEST(a_program_that_hangs_does_not_hang_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
