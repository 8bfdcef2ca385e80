/* The daemon around volumes: commands over the real control socket, with volumes that do as a test wants. */
#include "repl/node/node.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "repl/cli/client.h"
#include "repl/node/control_codec.h"
#include "repl/node/create.h"
#include "repl/node/notify.h"
#include "repl/node/volume.h"
#include "tests/unit/unit.h"

/* ---- volumes that do as a test wants ---- */

struct fake_order {
    struct volume *volume;
    pthread_t thread;
    enum volume_order order;
    bool force;
    void (*done)(void *ctx, int result, const char *text);
    void *ctx;
};

struct volume {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping;
    struct volume_host host;
    struct fake_order orders[8];
    unsigned order_count;
};

enum answer_kind {
    ANSWER_DONE,
    ANSWER_REFUSED,          /* -EPERM */
    ANSWER_REFUSED_UNFORCED, /* likewise, but done by force */
    ANSWER_REFUSED_ON_CUE,   /* likewise, when `cue` is given */
    ANSWER_NOT_NOW,          /* -EBUSY */
    ANSWER_NO_PEER,          /* -ENOTCONN */
    ANSWER_DIFFERS,          /* -EILSEQ */
    ANSWER_NEVER,            /* until the volume is stopped */
    ANSWER_LATE,             /* done, but heard of only when the volume is being stopped */
};

static _Atomic enum answer_kind answer_kind;
static atomic_bool leg_exists;
static atomic_int create_result;
static atomic_int start_result;
static atomic_bool create_waits, start_waits, cue;
static atomic_uint detached, stopped, forced, late;
static _Atomic enum volume_order given[16];
static atomic_uint given_count;
static struct volume_status shown;
static char kept_in[CONFIG_PATH_BYTES];
static char g[] = "g";
#define STATE_DIR "/tmp" /* is there already: nothing is written */

struct volume *volume_start(const struct volume_config *config, const struct volume_host *host, struct err *err)
{
    while (atomic_load(&start_waits))
        usleep(1000); /* stands for a disk that does not answer */
    if (atomic_load(&start_result)) {
        err_set(err, atomic_load(&start_result), "the kernel does not want to");
        return NULL;
    }
    if (!atomic_load(&leg_exists)) {
        err_set(err, -ENOENT, "%s: holds no leg yet", config_self(config)->backing);
        return NULL;
    }
    struct volume *v = calloc(1, sizeof(*v));
    assert_non_null(v);
    v->host = *host;
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->changed, NULL);
    host->note(host->ctx, config->volume, NOTE_INFO, "link", "hello from the volume");
    return v;
}

static void *run_order(void *arg)
{
    struct fake_order *o = arg;
    struct volume *v = o->volume;
    enum answer_kind kind = atomic_load(&answer_kind);
    if (kind == ANSWER_NEVER || kind == ANSWER_LATE) {
        if (kind == ANSWER_LATE)
            atomic_fetch_add(&late, 1);
        pthread_mutex_lock(&v->lock);
        while (!v->stopping)
            pthread_cond_wait(&v->changed, &v->lock);
        pthread_mutex_unlock(&v->lock);
        if (kind == ANSWER_LATE)
            o->done(o->ctx, 0, NULL);
        else
            o->done(o->ctx, -ECANCELED, "the volume was stopped");
    } else if (kind == ANSWER_REFUSED_ON_CUE && !o->force) {
        while (!atomic_load(&cue))
            usleep(1000);
        o->done(o->ctx, -EPERM, "its leg is not in the in-sync set");
    } else if (kind == ANSWER_REFUSED || (kind == ANSWER_REFUSED_UNFORCED && !o->force)) {
        o->done(o->ctx, -EPERM, "promise 4 forbids it");
    } else if (kind == ANSWER_NOT_NOW) {
        o->done(o->ctx, -EBUSY, "its role is just changing");
    } else if (kind == ANSWER_DIFFERS) {
        o->done(o->ctx, -EILSEQ, "they differ");
    } else if (kind == ANSWER_NO_PEER) {
        o->done(o->ctx, -ENOTCONN, "5 requests wait for b");
    } else {
        if (o->order == VOLUME_DETACH)
            atomic_fetch_add(&detached, 1);
        if (o->force)
            atomic_fetch_add(&forced, 1);
        o->done(o->ctx, 0, NULL);
    }
    return NULL;
}

void volume_order(struct volume *v, enum volume_order order, bool force,
                  void (*done)(void *ctx, int result, const char *text), void *ctx)
{
    if (v->order_count == ARRAY_LEN(v->orders)) { /* a test that orders in a loop */
        done(ctx, -EBUSY, "enough");
        return;
    }
    struct fake_order *o = &v->orders[v->order_count++];
    atomic_store(&given[atomic_fetch_add(&given_count, 1) % ARRAY_LEN(given)], order);
    *o = (struct fake_order) { .volume = v, .order = order, .force = force, .done = done, .ctx = ctx };
    assert_int_equal(pthread_create(&o->thread, NULL, run_order, o), 0);
}

void volume_resolve(struct volume *v, const char *keep, bool force,
                    void (*done)(void *ctx, int result, const char *text), void *ctx)
{
    pthread_mutex_lock(&v->lock);
    snprintf(kept_in, sizeof(kept_in), "%s", keep);
    pthread_mutex_unlock(&v->lock);
    volume_order(v, VOLUME_RESOLVE, force, done, ctx);
}

bool volume_has_kept(const struct volume *v) { return v->order_count > 0; }

void volume_verify_places(struct volume *v, struct verify_places *out)
{
    assert_true(v->order_count > 0); /* one of its own orders has ended */
    *out = (struct verify_places) { .total = 19, .count = VERIFY_PLACES_MAX };
    for (unsigned i = 0; i < VERIFY_PLACES_MAX; i++)
        out->places[i] = (struct verify_place) { { i * MIB, 4096 }, "the legs differ" };
}

void volume_status(struct volume *v, struct volume_status *out)
{
    assert_non_null(v);
    *out = shown;
}

void volume_stop(struct volume *v)
{
    pthread_mutex_lock(&v->lock);
    v->stopping = true;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    for (unsigned i = 0; i < v->order_count; i++)
        pthread_join(v->orders[i].thread, NULL);
    v->host.served(v->host.ctx, g, false, 7);
    pthread_cond_destroy(&v->changed);
    pthread_mutex_destroy(&v->lock);
    free(v);
    atomic_fetch_add(&stopped, 1);
}

int volume_create(const struct volume_config *config, bool adopt, bool force,
                  void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes), void *ctx, struct err *err)
{
    progress(ctx, 1, 4);
    while (atomic_load(&create_waits))
        usleep(1000); /* stands for a disk at work */
    int rc = force ? 0 : atomic_load(&create_result);
    if (rc)
        return err_set(err, rc, "%s: holds data (ext4)", config_self(config)->backing);
    atomic_store(&leg_exists, true);
    return 0;
}

/* ---- the node under test ---- */

static char dir[64];
static char socket_path[96];
static struct config config;
static struct log *quiet_log;
static uint64_t ready_ns_max;
static struct node *node;
static pthread_t node_thread;
static int signals[2];
static atomic_uint readies, stoppings;

static void count(void *counter) { atomic_fetch_add((atomic_uint *)counter, 1); }
static void on_ready(void *ctx) { count(&readies); }
static void on_stopping(void *ctx) { count(&stoppings); }

static void *run_node(void *arg) { return (void *)(uintptr_t)node_run(arg); }

static void open_node(uint64_t drain_ns)
{
    struct node_options options = {
        .config = &config,
        .name = "a",
        .control_path = socket_path,
        .state = STATE_DIR,
        .log = quiet_log,
        .drain_ns_max = drain_ns,
        .ready_ns_max = ready_ns_max,
        .signal_fd = signals[0],
        .ready = on_ready,
        .stopping = on_stopping,
    };
    struct err err = { 0 };
    node = node_open(&options, &err);
    if (!node)
        fail_msg("%s", err.text);
    assert_int_equal(pthread_create(&node_thread, NULL, run_node, node), 0);
}

static void send_signal(uint32_t number)
{
    struct signalfd_siginfo info = { .ssi_signo = number };
    assert_int_equal(write(signals[1], &info, sizeof(info)), sizeof(info));
}

static void signal_node(void) { send_signal(SIGTERM); }

static void expect_end(enum node_end expected)
{
    void *end;
    pthread_join(node_thread, &end);
    assert_int_equal((enum node_end)(uintptr_t)end, expected);
    node_close(node);
    node = NULL;
}

static int setup(void **state)
{
    snprintf(dir, sizeof(dir), "/tmp/test_node.XXXXXX");
    if (!mkdtemp(dir) || pipe2(signals, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    snprintf(socket_path, sizeof(socket_path), "%s/control.sock", dir);
    char path[128];
    snprintf(path, sizeof(path), "%s/g.yaml", dir);
    FILE *f = fopen(path, "we");
    fputs("volume: g\nnodes:\n  - {name: a, backing: g.img, paths: ['127.0.0.1:1']}\n"
          "  - {name: b, backing: g.img, paths: ['127.0.0.1:2']}\n",
          f);
    fclose(f);
    snprintf(path, sizeof(path), "%s/g.img", dir);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    struct config_options options = { .node = "a" };
    struct err err;
    if (config_load(dir, &options, &config, &err))
        return -1;
    struct log_config log_config = { .fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .level = LOG_LEVEL_DEBUG };
    quiet_log = log_open(&log_config, &err);
    atomic_store(&answer_kind, ANSWER_DONE);
    atomic_store(&leg_exists, true);
    atomic_store(&create_result, 0);
    atomic_store(&start_result, 0);
    atomic_store(&create_waits, false);
    atomic_store(&start_waits, false);
    atomic_store(&cue, false);
    ready_ns_max = 3600 * NS_PER_S;
    atomic_store(&detached, 0);
    atomic_store(&stopped, 0);
    atomic_store(&forced, 0);
    atomic_store(&given_count, 0);
    atomic_store(&late, 0);
    atomic_store(&readies, 0);
    atomic_store(&stoppings, 0);
    shown = (struct volume_status) { .is_protected = true,
                                     .role = ROLE_PRIMARY,
                                     .leg = LEG_UP_TO_DATE,
                                     .peer_leg = LEG_UP_TO_DATE,
                                     .link = LINK_CONNECTED,
                                     .serving = true,
                                     .epoch = 7,
                                     .lsn = 123456,
                                     .size_bytes = GIB,
                                     .transport = "tcp",
                                     .rtt_us = 412 };
    return 0;
}

static int teardown(void **state)
{
    if (node)
        return -1; /* a test failed; its thread is still running */
    log_close(quiet_log);
    config_free(&config);
    close(signals[0]);
    close(signals[1]);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

/* ---- asking ---- */

static struct client client;
static char result_text[CONTROL_TEXT_BYTES];

/* Reads to the result; `each` sees what comes before. */
static unsigned read_result(void (*each)(const Lockstep__Control__Response *r))
{
    for (;;) {
        enum control_exit code;
        struct err err = { 0 };
        Lockstep__Control__Response *r = client_next(&client, &code, &err);
        if (!r) {
            client_close(&client);
            snprintf(result_text, sizeof(result_text), "%s", err.text);
            return 100 + (unsigned)code;
        }
        bool last = r->message_case == LOCKSTEP__CONTROL__RESPONSE__MESSAGE_RESULT;
        unsigned exit_code = last ? r->result->exit_code : 0;
        if (last)
            snprintf(result_text, sizeof(result_text), "%s", r->result->text);
        else if (each)
            each(r);
        lockstep__control__response__free_unpacked(r, NULL);
        if (last) {
            client_close(&client);
            return exit_code;
        }
    }
}

static void send_request(const Lockstep__Control__Request *r)
{
    struct err err = { 0 };
    if (client_ask(&client, socket_path, r, 60 * NS_PER_S, &err))
        fail_msg("%s", err.text);
}

#define SEND(CASE, member, type, TYPE, ...)                                                                            \
    do {                                                                                                               \
        Lockstep__Control__##type body_ = { PROTOBUF_C_MESSAGE_INIT(&lockstep__control__##TYPE##__descriptor),         \
                                            __VA_ARGS__ };                                                             \
        Lockstep__Control__Request r_ = LOCKSTEP__CONTROL__REQUEST__INIT;                                              \
        r_.version = CONTROL_VERSION;                                                                                  \
        r_.command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_##CASE;                                                  \
        r_.member = &body_;                                                                                            \
        send_request(&r_);                                                                                             \
    } while (0)

static unsigned ask_create(bool force)
{
    SEND(CREATE, create, Create, create, .volume = g, .force = force);
    return read_result(NULL);
}

static unsigned ask_up(void)
{
    SEND(UP, up, Up, up, .volume = g);
    return read_result(NULL);
}

static unsigned ask_down(bool force)
{
    SEND(DOWN, down, Down, down, .volume = g, .force = force);
    return read_result(NULL);
}

static unsigned ask_promote(bool force)
{
    SEND(PROMOTE, promote, Promote, promote, .volume = g, .force = force);
    return read_result(NULL);
}

static unsigned ask_switchover(void)
{
    SEND(SWITCHOVER, switchover, Switchover, switchover, .volume = g);
    return read_result(NULL);
}

static unsigned ask_adopt(void)
{
    SEND(ADOPT, adopt, Adopt, adopt, .volume = g);
    return read_result(NULL);
}

static unsigned ask_demote(void)
{
    SEND(DEMOTE, demote, Demote, demote, .volume = g);
    return read_result(NULL);
}

static Lockstep__Control__VolumeStatus last;
static char last_state[32], last_why[STATUS_TEXT_BYTES], last_role[32], last_path[64];

static void keep_status(const Lockstep__Control__Response *r)
{
    if (r->message_case != LOCKSTEP__CONTROL__RESPONSE__MESSAGE_VOLUME)
        return;
    last = *r->volume;
    snprintf(last_state, sizeof(last_state), "%s", r->volume->state);
    snprintf(last_why, sizeof(last_why), "%s", r->volume->why_not);
    snprintf(last_role, sizeof(last_role), "%s", r->volume->role);
    snprintf(last_path, sizeof(last_path), "%s", r->volume->peer->path);
}

static const char *state_of_volume(void)
{
    char all[] = "";
    SEND(STATUS, status, StatusQuery, status_query, .volume = all);
    assert_int_equal(read_result(keep_status), CONTROL_DONE);
    return last_state;
}

/* Until the start-up is over. */
static void wait_ready(void)
{
    for (unsigned i = 0; !atomic_load(&readies); i++) {
        assert_true(i < 10000);
        usleep(1000);
    }
}

static void end_cleanly(void)
{
    signal_node();
    expect_end(NODE_CLEAN);
    assert_int_equal(atomic_load(&stoppings), 1);
    assert_int_equal(atomic_load(&readies), 1);
}

/* ---- tests ---- */

static void volumes_come_up_and_are_drained(void **state)
{
    open_node(60 * NS_PER_S);
    wait_ready();
    assert_string_equal(state_of_volume(), "up");
    assert_true(last.protected_);
    assert_string_equal(last_why, "");
    assert_string_equal(last_role, "primary");
    assert_string_equal(last_path, "127.0.0.1:2");
    assert_int_equal(last.lsn, 123456);
    assert_int_equal(ask_up(), CONTROL_DONE); /* it is already */
    end_cleanly();
    assert_int_equal(atomic_load(&detached), 1);
    assert_int_equal(atomic_load(&stopped), 1);
}

static void a_volume_is_created_and_brought_up(void **state)
{
    atomic_store(&leg_exists, false);
    open_node(60 * NS_PER_S);
    wait_ready();
    assert_string_equal(state_of_volume(), "not-created");
    assert_non_null(strstr(last_why, "holds no leg yet"));
    assert_string_equal(last_role, "");
    assert_false(last.protected_);
    assert_int_equal(ask_promote(false), CONTROL_FAILED);
    assert_non_null(strstr(result_text, "holds no leg yet"));

    atomic_store(&create_result, -EEXIST);
    assert_int_equal(ask_create(false), CONTROL_REFUSED);
    assert_string_equal(state_of_volume(), "not-created"); /* nothing was touched */
    assert_int_equal(ask_create(true), CONTROL_DONE);
    assert_string_equal(state_of_volume(), "down");
    assert_int_equal(ask_up(), CONTROL_DONE);
    assert_string_equal(state_of_volume(), "up");
    assert_int_equal(ask_create(true), CONTROL_REFUSED);
    assert_int_equal(ask_down(false), CONTROL_DONE);
    assert_string_equal(state_of_volume(), "down");
    assert_int_equal(ask_down(false), CONTROL_DONE); /* it is already */
    end_cleanly();
}

static void a_missing_backing_is_a_failure(void **state)
{
    atomic_store(&leg_exists, false);
    char path[128];
    snprintf(path, sizeof(path), "%s/g.img", dir);
    unlink(path);
    open_node(60 * NS_PER_S);
    wait_ready();
    assert_string_equal(state_of_volume(), "failed");
    end_cleanly();
}

static void orders_are_answered_with_their_exit_code(void **state)
{
    open_node(60 * NS_PER_S);
    wait_ready();
    shown.role = ROLE_SECONDARY;
    assert_int_equal(ask_promote(false), CONTROL_DONE);
    assert_string_equal(result_text, "volume g: a is primary");
    assert_int_equal(atomic_load(&forced), 0);
    assert_int_equal(ask_promote(true), CONTROL_DONE);
    assert_int_equal(atomic_load(&forced), 1);
    assert_int_equal(ask_demote(), CONTROL_DONE);
    assert_string_equal(result_text, "volume g: a is secondary");
    atomic_store(&answer_kind, ANSWER_REFUSED);
    assert_int_equal(ask_promote(false), CONTROL_REFUSED);
    assert_string_equal(result_text, "volume g: promise 4 forbids it");
    atomic_store(&answer_kind, ANSWER_NOT_NOW);
    assert_int_equal(ask_down(false), CONTROL_FAILED);
    assert_string_equal(state_of_volume(), "up");
    atomic_store(&answer_kind, ANSWER_NO_PEER);
    assert_int_equal(ask_down(false), CONTROL_UNREACHABLE);
    assert_string_equal(state_of_volume(), "up");
    atomic_store(&answer_kind, ANSWER_DONE);
    end_cleanly();
}

/* EPERM of a system call is not the EPERM of a promise. */
static void a_fault_while_coming_up_is_no_refusal(void **state)
{
    atomic_store(&start_result, -EPERM);
    open_node(60 * NS_PER_S);
    wait_ready();
    assert_int_equal(ask_up(), CONTROL_FAILED);
    atomic_store(&start_result, -EEXIST);
    assert_int_equal(ask_up(), CONTROL_FAILED);
    end_cleanly();
}

/* On a new server, before its first volume: systemd would kill who never gets ready. */
static void a_daemon_without_volumes_is_ready(void **state)
{
    unsigned count = config.count;
    config.count = 0;
    open_node(60 * NS_PER_S);
    wait_ready();
    end_cleanly();
    config.count = count;
}

/* systemd would kill it, and with it the volumes that are up. */
static void a_disk_that_hangs_does_not_keep_the_daemon_from_being_ready(void **state)
{
    atomic_store(&start_waits, true);
    ready_ns_max = NS_PER_S / 10;
    open_node(60 * NS_PER_S);
    wait_ready();
    assert_string_equal(state_of_volume(), "starting");
    atomic_store(&start_waits, false);
    assert_int_equal(ask_up(), CONTROL_DONE);
    assert_string_equal(state_of_volume(), "up");
    end_cleanly(); /* ready was told once */
}

static void do_nothing(int number) {}

/* Also where signals come in between. */
static void a_daemon_that_accepts_nobody_is_timed_out(void **state)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 0), 0);
    int before_us = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(before_us, (struct sockaddr *)&addr, sizeof(addr)), 0);

    Lockstep__Control__StatusQuery query = LOCKSTEP__CONTROL__STATUS_QUERY__INIT;
    Lockstep__Control__Request r = LOCKSTEP__CONTROL__REQUEST__INIT;
    r.version = CONTROL_VERSION;
    r.command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_STATUS;
    r.status = &query;
    struct sigaction interrupt = { .sa_handler = do_nothing }, before;
    struct itimerval often = { .it_interval.tv_usec = 20000, .it_value.tv_usec = 20000 }, never = { 0 };
    sigaction(SIGALRM, &interrupt, &before);
    setitimer(ITIMER_REAL, &often, NULL);
    struct err err = { 0 };
    enum control_exit code = client_ask(&client, socket_path, &r, NS_PER_S / 10, &err);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    assert_int_equal(code, CONTROL_TIMED_OUT);
    client_close(&client);
    close(before_us);
    close(fd);
}

static void the_only_good_leg_stays_up(void **state)
{
    shown.peer_leg = LEG_FAILED;
    open_node(60 * NS_PER_S);
    wait_ready();
    assert_int_equal(ask_down(false), CONTROL_REFUSED);
    assert_non_null(strstr(result_text, "only up-to-date leg"));
    assert_int_equal(ask_down(true), CONTROL_DONE);
    assert_non_null(strstr(result_text, "only up-to-date leg"));
    assert_int_equal(atomic_load(&forced), 1);
    end_cleanly();
}

/* Nobody uses it, so that it may go; who takes it away hears what that means. */
static void the_only_good_leg_that_nobody_uses_goes_with_a_warning(void **state)
{
    shown.role = ROLE_SECONDARY;
    shown.link = LINK_CONNECTING;
    shown.peer_leg = LEG_OUTDATED;
    open_node(60 * NS_PER_S);
    wait_ready();
    assert_int_equal(ask_down(false), CONTROL_DONE);
    assert_non_null(strstr(result_text, "only up-to-date leg"));
    end_cleanly();
}

/* Of a new volume nobody knows. */
static void a_leg_whose_peer_was_never_heard_of_goes(void **state)
{
    shown.role = ROLE_SECONDARY;
    shown.link = LINK_CONNECTING;
    shown.peer_leg = LEG_NONE;
    open_node(60 * NS_PER_S);
    wait_ready();
    assert_int_equal(ask_down(false), CONTROL_DONE);
    assert_null(strstr(result_text, "only up-to-date leg"));
    end_cleanly();
}

static char warnings[2048];

static const char *words_sought;
static unsigned words_seen;

static void seek_words(const Lockstep__Control__Response *r)
{
    words_seen += strstr(r->event->text, words_sought) != NULL;
}

/* ---- with a witness ---- */

static void open_node_with_witness(enum register_state state)
{
    struct config_witness *w = &config.volumes[0].witness;
    snprintf(w->url, sizeof(w->url), "lockstep://127.0.0.1:1"); /* nobody is there, and nobody is asked */
    shown.has_witness = true;
    shown.witness.state = state;
    open_node(NODE_DRAIN_NS_DEFAULT);
    wait_ready();
}

static void a_switchover_and_an_adoption_are_orders(void **state)
{
    open_node_with_witness(REGISTER_STATE_REACHABLE);
    shown.role = ROLE_PRIMARY;
    snprintf(shown.why_not, sizeof(shown.why_not), "writes wait here");
    assert_int_equal(ask_switchover(), CONTROL_DONE);
    assert_string_equal(result_text, "volume g: b serves it now");
    assert_int_equal(ask_promote(false), CONTROL_DONE);
    assert_string_equal(result_text, "volume g: a is primary already; not protected: writes wait here");
    shown.why_not[0] = 0;
    assert_int_equal(ask_promote(true), CONTROL_DONE);
    assert_string_equal(result_text, "volume g: a is primary already");
    shown.role = ROLE_SECONDARY;
    assert_int_equal(ask_switchover(), CONTROL_DONE);
    assert_string_equal(result_text, "volume g: a serves it now");
    assert_int_equal(ask_adopt(), CONTROL_DONE);
    assert_int_equal(given[3], VOLUME_SWITCHOVER);
    assert_int_equal(given[4], VOLUME_ADOPT);
    atomic_store(&answer_kind, ANSWER_REFUSED);
    assert_int_equal(ask_switchover(), CONTROL_REFUSED);
    assert_string_equal(result_text, "volume g: promise 4 forbids it");
    atomic_store(&answer_kind, ANSWER_NO_PEER);
    assert_int_equal(ask_adopt(), CONTROL_UNREACHABLE);
    atomic_store(&answer_kind, ANSWER_DONE);
    end_cleanly();
}

/* It was not heard of since the start, but the witness has it in sync: it would take over. */
static void beside_another_member_it_is_not_the_only_good_leg(void **state)
{
    shown.link = LINK_CONNECTING;
    shown.peer_leg = LEG_NONE;
    shown.witness.decree = (struct decree) {
        .epoch = 9, .cause = DECREE_OUT, .primary = "a", .member_count = 1, .members = { { .node = "a" } }
    };
    open_node_with_witness(REGISTER_STATE_REACHABLE);
    assert_int_equal(ask_down(false), CONTROL_REFUSED);
    assert_non_null(strstr(result_text, "only up-to-date leg"));

    shown.witness.decree.member_count = 2;
    snprintf(shown.witness.decree.members[1].node, sizeof(shown.witness.decree.members[1].node), "b");
    shown.peer_leg = LEG_FAILED; /* what was heard of it since is worse */
    assert_int_equal(ask_down(false), CONTROL_REFUSED);
    shown.peer_leg = LEG_NONE;
    assert_int_equal(ask_down(false), CONTROL_DONE);
    end_cleanly();
}

/* The other node was forced beside it, and this one has read that: nobody needs its leg. */
static void who_is_out_of_the_set_is_not_the_only_good_leg(void **state)
{
    shown.role = ROLE_SECONDARY;
    shown.link = LINK_CONNECTING;
    shown.peer_leg = LEG_OUTDATED;
    shown.witness.decree = (struct decree) {
        .epoch = 9, .cause = DECREE_FORCE, .primary = "b", .member_count = 1, .members = { { .node = "b" } }
    };
    open_node_with_witness(REGISTER_STATE_REACHABLE);
    assert_int_equal(ask_down(false), CONTROL_DONE);
    assert_null(strstr(result_text, "only up-to-date leg"));
    end_cleanly();
}

static char told[CONTROL_TEXT_BYTES];

static void keep_progress(const Lockstep__Control__Response *r)
{
    if (r->message_case == LOCKSTEP__CONTROL__RESPONSE__MESSAGE_PROGRESS)
        snprintf(told, sizeof(told), "%s", r->progress->text);
}

static void force_tells_first_what_it_risks(void **state)
{
    shown.role = ROLE_SECONDARY;
    snprintf(shown.may_be_lost, sizeof(shown.may_be_lost), "a is outdated at epoch 7");
    shown.witness.decree = (struct decree) {
        .epoch = 9, .cause = DECREE_OUT, .primary = "paris-b", .member_count = 1, .members = { { .node = "paris-b" } }
    };
    open_node_with_witness(REGISTER_STATE_REACHABLE);
    assert_int_equal(ask_promote(true), CONTROL_DONE); /* nothing stood against it */
    assert_int_equal(atomic_load(&given_count), 1);
    assert_int_equal(atomic_load(&forced), 0);

    atomic_store(&answer_kind, ANSWER_REFUSED_UNFORCED);
    SEND(PROMOTE, promote, Promote, promote, .volume = g, .force = true);
    assert_int_equal(read_result(keep_progress), CONTROL_DONE);
    assert_string_equal(told,
                        "asked to promote by force, although: promise 4 forbids it; may be lost: a is outdated at "
                        "epoch 7; the witness has epoch 9 (out), primary paris-b, in sync paris-b");
    assert_int_equal(atomic_load(&given_count), 3);
    assert_int_equal(atomic_load(&forced), 1);

    shown.may_be_lost[0] = 0;
    SEND(PROMOTE, promote, Promote, promote, .volume = g, .force = true);
    assert_int_equal(read_result(keep_progress), CONTROL_DONE);
    assert_non_null(strstr(told, "may be lost: not known, as the volume's thread does not answer; "));

    atomic_store(&answer_kind, ANSWER_NO_PEER); /* what force does not help against */
    assert_int_equal(ask_promote(true), CONTROL_UNREACHABLE);
    assert_int_equal(atomic_load(&given_count), 6);
    atomic_store(&answer_kind, ANSWER_DONE);
    end_cleanly();
}

static bool was_told(const char *words)
{
    char all[] = "";
    words_sought = words;
    words_seen = 0;
    SEND(EVENTS, events, EventsQuery, events_query, .volume = all, .follow = false);
    assert_int_equal(read_result(seek_words), CONTROL_DONE);
    return words_seen > 0;
}

/* The primary may be back since. */
static void what_its_operator_has_given_up_is_not_forced(void **state)
{
    shown.role = ROLE_SECONDARY;
    open_node_with_witness(REGISTER_STATE_REACHABLE);
    atomic_store(&answer_kind, ANSWER_REFUSED_ON_CUE);
    SEND(PROMOTE, promote, Promote, promote, .volume = g, .force = true);
    static struct client operator;
    operator= client;
    while (!atomic_load(&given_count))
        usleep(1000);
    client_close(&operator);
    assert_string_equal(state_of_volume(), "up");
    assert_string_equal(state_of_volume(), "up"); /* by now it has seen that one go */
    atomic_store(&cue, true);
    while (!was_told("not forced"))
        usleep(1000);
    assert_int_equal(atomic_load(&given_count), 1);
    atomic_store(&answer_kind, ANSWER_DONE);
    end_cleanly();
}

static void a_primary_is_demoted_before_it_is_taken_down(void **state)
{
    open_node_with_witness(REGISTER_STATE_REACHABLE);
    assert_int_equal(ask_down(false), CONTROL_DONE);
    assert_int_equal(atomic_load(&given_count), 2);
    assert_int_equal(given[0], VOLUME_DEMOTE);
    assert_int_equal(given[1], VOLUME_DETACH);
    assert_string_equal(result_text, "volume g is down");

    assert_int_equal(ask_up(), CONTROL_DONE);
    atomic_store(&answer_kind, ANSWER_NO_PEER); /* it cannot be demoted: nothing is detached */
    assert_int_equal(ask_down(false), CONTROL_UNREACHABLE);
    assert_int_equal(atomic_load(&given_count), 3);
    atomic_store(&answer_kind, ANSWER_DONE);

    signal_node(); /* the peer is to take over from a daemon that ends */
    expect_end(NODE_CLEAN);
    assert_int_equal(atomic_load(&given_count), 4);
    assert_int_equal(given[3], VOLUME_DETACH);
}

static void a_primary_that_cannot_tell_its_witness_stays_up(void **state)
{
    open_node_with_witness(REGISTER_STATE_UNREACHABLE);
    assert_int_equal(ask_down(false), CONTROL_UNREACHABLE);
    assert_non_null(strstr(result_text, "would go on naming it"));
    assert_int_equal(atomic_load(&given_count), 0);
    assert_int_equal(ask_down(true), CONTROL_DONE);
    assert_int_equal(given[0], VOLUME_DETACH);
    assert_non_null(strstr(result_text, "The witness still names this node"));
    end_cleanly();
}

static void a_secondary_that_its_primary_needs_stays_up(void **state)
{
    shown.role = ROLE_SECONDARY;
    shown.peer_leads = true;
    open_node_with_witness(REGISTER_STATE_UNREACHABLE);
    assert_int_equal(ask_down(false), CONTROL_REFUSED);
    assert_non_null(strstr(result_text, "without the witness it may not go on alone"));
    shown.witness.state = REGISTER_STATE_REACHABLE;
    config.volumes[0].when_alone = ALONE_SUSPEND;
    assert_int_equal(ask_down(false), CONTROL_REFUSED);
    assert_non_null(strstr(result_text, "when-alone: suspend"));
    config.volumes[0].when_alone = ALONE_STRICT;
    assert_int_equal(ask_down(false), CONTROL_DONE);
    assert_int_equal(atomic_load(&given_count), 1);
    end_cleanly();
}

static void keep_warnings(const Lockstep__Control__Response *r)
{
    if (strcmp(r->event->topic, "config") == 0)
        snprintf(warnings + strlen(warnings), sizeof(warnings) - strlen(warnings), "%s\n", r->event->text);
}

/* What the configuration allows, and many would not want. */
static const char *warnings_at_start(void)
{
    char all[] = "";
    open_node(60 * NS_PER_S);
    wait_ready();
    warnings[0] = 0;
    SEND(EVENTS, events, EventsQuery, events_query, .volume = all, .follow = false);
    assert_int_equal(read_result(keep_warnings), CONTROL_DONE);
    signal_node();
    expect_end(NODE_CLEAN);
    atomic_store(&readies, 0);
    return warnings;
}

static void what_is_open_to_others_is_warned_of(void **state)
{
    config.volumes[0].tls_missing = false;
    assert_string_equal(warnings_at_start(), "");
    config.volumes[0].link_is_open = true;
    assert_non_null(strstr(warnings_at_start(), "neither encrypted nor authenticated"));
    config.volumes[0].nodes[0].device_is_open = true;
    assert_non_null(strstr(warnings_at_start(), "can read and write the volume"));
}

static void unknown_volumes_are_told_apart(void **state)
{
    open_node(60 * NS_PER_S);
    wait_ready();
    char other[] = "other";
    SEND(UP, up, Up, up, .volume = other);
    assert_int_equal(read_result(NULL), CONTROL_USED_WRONGLY);
    assert_string_equal(result_text, "there is no volume other in this node's configuration; there are: g");
    end_cleanly();
}

static unsigned events_seen, hellos, hangups;

static void count_events(const Lockstep__Control__Response *r)
{
    assert_int_equal(r->message_case, LOCKSTEP__CONTROL__RESPONSE__MESSAGE_EVENT);
    assert_int_equal(r->event->sequence, events_seen + 1);
    events_seen++;
    hellos += strcmp(r->event->text, "hello from the volume") == 0;
    hangups += strncmp(r->event->text, "SIGHUP", strlen("SIGHUP")) == 0;
}

static void events_are_shown_and_followed(void **state)
{
    open_node(60 * NS_PER_S);
    wait_ready();
    char all[] = "";
    events_seen = hellos = 0;
    SEND(EVENTS, events, EventsQuery, events_query, .volume = all, .follow = false);
    assert_int_equal(read_result(count_events), CONTROL_DONE);
    assert_true(events_seen >= 3); /* tls, the volume's own, up */
    assert_int_equal(hellos, 1);

    events_seen = 0;
    SEND(EVENTS, events, EventsQuery, events_query, .volume = all, .follow = true);
    static struct client follower;
    follower = client;
    assert_int_equal(ask_down(false), CONTROL_DONE);
    assert_int_equal(ask_up(), CONTROL_DONE);
    client = follower;
    hellos = 0;
    while (hellos < 2) { /* the second came while following */
        enum control_exit code;
        struct err err;
        Lockstep__Control__Response *r = client_next(&client, &code, &err);
        assert_non_null(r);
        count_events(r);
        lockstep__control__response__free_unpacked(r, NULL);
    }
    client_close(&client);
    end_cleanly();
}

static void status_answers_while_a_job_runs(void **state)
{
    atomic_store(&leg_exists, false);
    open_node(60 * NS_PER_S);
    wait_ready();
    atomic_store(&create_waits, true);
    SEND(CREATE, create, Create, create, .volume = g);
    static struct client creator;
    creator = client;
    while (strcmp(state_of_volume(), "creating") != 0) {}
    assert_int_equal(ask_up(), CONTROL_FAILED);
    assert_int_equal(ask_create(false), CONTROL_FAILED);
    assert_int_equal(ask_down(false), CONTROL_FAILED);
    client = creator;
    enum control_exit code;
    struct err err;
    Lockstep__Control__Response *r = client_next(&client, &code, &err); /* progress comes by itself */
    assert_non_null(r);
    assert_int_equal(r->message_case, LOCKSTEP__CONTROL__RESPONSE__MESSAGE_PROGRESS);
    assert_int_equal(r->progress->done, 1);
    assert_int_equal(r->progress->total, 4);
    lockstep__control__response__free_unpacked(r, NULL);
    atomic_store(&create_waits, false);
    assert_int_equal(read_result(NULL), CONTROL_DONE);
    end_cleanly();
}

static unsigned places_seen;

static void count_places(const Lockstep__Control__Response *r)
{
    if (r->message_case != LOCKSTEP__CONTROL__RESPONSE__MESSAGE_PLACES)
        return;
    assert_int_equal(r->places->total, 19);
    for (size_t i = 0; i < r->places->n_place; i++) {
        assert_int_equal(r->places->place[i]->offset_bytes, i * MIB);
        assert_int_equal(r->places->place[i]->length_bytes, 4096);
        assert_string_equal(r->places->place[i]->what, "the legs differ");
        places_seen++;
    }
}

static void a_verify_tells_where_the_legs_differ(void **state)
{
    open_node(60 * NS_PER_S);
    wait_ready();
    places_seen = 0;
    SEND(VERIFY, verify, Verify, verify, .volume = g);
    assert_int_equal(read_result(count_places), CONTROL_DONE);
    assert_int_equal(places_seen, 0);
    atomic_store(&answer_kind, ANSWER_DIFFERS);
    SEND(VERIFY, verify, Verify, verify, .volume = g);
    assert_int_equal(read_result(count_places), CONTROL_FAILED);
    assert_string_equal(result_text, "volume g: they differ");
    assert_int_equal(places_seen, VERIFY_PLACES_MAX);
    SEND(VERIFY, verify, Verify, verify, .volume = g);
    client_close(&client); /* nobody is told */
    atomic_store(&answer_kind, ANSWER_DONE);
    end_cleanly();
}

static void what_is_given_up_goes_into_a_file_that_is_told(void **state)
{
    static char named[] = "/somewhere/kept";
    open_node(60 * NS_PER_S);
    wait_ready();
    SEND(RESOLVE, resolve, Resolve, resolve, .volume = g, .keep = named);
    assert_int_equal(read_result(NULL), CONTROL_DONE);
    assert_string_equal(kept_in, "/somewhere/kept");
    assert_non_null(strstr(result_text, "What was kept is in /somewhere/kept"));
    /* By the volume and the time, where the daemon keeps such things. */
    SEND(RESOLVE, resolve, Resolve, resolve, .volume = g);
    assert_int_equal(read_result(NULL), CONTROL_DONE);
    assert_int_equal(strncmp(kept_in, STATE_DIR "/g-2", strlen(STATE_DIR "/g-2")), 0);
    assert_int_equal(strcmp(kept_in + strlen(kept_in) - strlen("Z.kept"), "Z.kept"), 0);
    /* Also of one that came to nothing. */
    atomic_store(&answer_kind, ANSWER_NO_PEER);
    SEND(RESOLVE, resolve, Resolve, resolve, .volume = g, .keep = named);
    assert_int_equal(read_result(NULL), CONTROL_UNREACHABLE);
    assert_non_null(strstr(result_text, "What was kept is in /somewhere/kept"));
    atomic_store(&answer_kind, ANSWER_DONE);
    end_cleanly();
}

static void a_resize_tells_how_far_it_is(void **state)
{
    open_node(60 * NS_PER_S);
    wait_ready();
    shown.growth = (struct volume_growth) { .active = true, .done_bytes = 3 * GIB, .total_bytes = 5 * GIB };
    atomic_store(&answer_kind, ANSWER_NEVER);
    SEND(RESIZE, resize, Resize, resize, .volume = g);
    enum control_exit code;
    struct err err;
    Lockstep__Control__Response *r = client_next(&client, &code, &err);
    assert_non_null(r);
    assert_int_equal(r->message_case, LOCKSTEP__CONTROL__RESPONSE__MESSAGE_PROGRESS);
    assert_int_equal(r->progress->done, 3 * GIB);
    assert_int_equal(r->progress->total, 5 * GIB);
    assert_string_equal(r->progress->text, "zeroing what is added");
    lockstep__control__response__free_unpacked(r, NULL);
    client_close(&client);
    atomic_store(&answer_kind, ANSWER_DONE);
    assert_int_equal(ask_down(false), CONTROL_DONE);
    end_cleanly();
}

static void clients_may_go_while_their_command_runs(void **state)
{
    open_node(60 * NS_PER_S);
    wait_ready();
    atomic_store(&answer_kind, ANSWER_NEVER);
    SEND(PROMOTE, promote, Promote, promote, .volume = g);
    client_close(&client);
    SEND(DEMOTE, demote, Demote, demote, .volume = g);
    client_close(&client);
    assert_string_equal(state_of_volume(), "up");
    atomic_store(&answer_kind, ANSWER_DONE);
    assert_int_equal(ask_down(false), CONTROL_DONE); /* answers what nobody waits for any more, too */
    end_cleanly();
}

static void a_hangup_is_told_and_ends_nothing(void **state)
{
    char all[] = "";
    open_node(60 * NS_PER_S);
    wait_ready();
    send_signal(SIGHUP);
    do {
        events_seen = hangups = 0;
        SEND(EVENTS, events, EventsQuery, events_query, .volume = all, .follow = false);
        assert_int_equal(read_result(count_events), CONTROL_DONE);
    } while (hangups == 0);
    assert_int_equal(atomic_load(&stoppings), 0);
    assert_string_equal(state_of_volume(), "up");
    send_signal(SIGTERM);
    send_signal(SIGHUP); /* not the second signal, which ends at once */
    expect_end(NODE_CLEAN);
}

static void what_cannot_drain_does_not_hang_the_shutdown(void **state)
{
    open_node(300 * NS_PER_MS);
    wait_ready();
    atomic_store(&answer_kind, ANSWER_NO_PEER);
    signal_node();
    expect_end(NODE_UNCLEAN);
    assert_int_equal(atomic_load(&detached), 0);
    assert_int_equal(atomic_load(&stopped), 1);
}

/* What it does, such as to give up the service address, nobody else would do. */
static void a_demote_hook_runs_also_when_draining_was_given_up(void **state)
{
    struct config_hooks *hooks = &config.volumes[0].hooks;
    snprintf(hooks->demote, sizeof(hooks->demote), "%s/demote", dir);
    hooks->ns_max = 30 * NS_PER_S;
    FILE *f = fopen(hooks->demote, "we");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\nsleep 1\ntouch %s/demoted\n", dir);
    fclose(f);
    assert_int_equal(chmod(hooks->demote, 0755), 0);
    open_node(100 * NS_PER_MS);
    wait_ready();
    atomic_store(&answer_kind, ANSWER_NO_PEER);
    signal_node();
    expect_end(NODE_UNCLEAN);
    char path[128];
    snprintf(path, sizeof(path), "%s/demoted", dir);
    assert_int_equal(access(path, F_OK), 0);
}

static void a_second_signal_ends_at_once(void **state)
{
    open_node(3600 * NS_PER_S);
    wait_ready();
    atomic_store(&answer_kind, ANSWER_NEVER);
    signal_node();
    while (!atomic_load(&stoppings))
        usleep(1000);
    signal_node();
    expect_end(NODE_UNCLEAN);
    assert_int_equal(atomic_load(&stopped), 1);
}

static void an_answer_may_come_after_the_volume_is_given_up(void **state)
{
    open_node(3600 * NS_PER_S);
    wait_ready();
    atomic_store(&answer_kind, ANSWER_LATE);
    SEND(RESIZE, resize, Resize, resize, .volume = g);
    while (!atomic_load(&late))
        usleep(1000);
    atomic_store(&answer_kind, ANSWER_NEVER);
    signal_node();
    while (!atomic_load(&stoppings))
        usleep(1000);
    signal_node();
    assert_int_equal(read_result(NULL), CONTROL_DONE);
    assert_string_equal(result_text, "volume g has grown, and is being stopped");
    expect_end(NODE_UNCLEAN);
}

static void draining_goes_on_when_the_peer_is_back(void **state)
{
    open_node(3600 * NS_PER_S);
    wait_ready();
    atomic_store(&answer_kind, ANSWER_NO_PEER);
    signal_node();
    while (!atomic_load(&stoppings))
        usleep(1000);
    assert_int_equal(ask_up(), CONTROL_FAILED); /* no commands any more, but status */
    assert_string_equal(result_text, "lockstepd is shutting down");
    assert_string_equal(state_of_volume(), "up");
    atomic_store(&answer_kind, ANSWER_DONE);
    expect_end(NODE_CLEAN);
    assert_int_equal(atomic_load(&detached), 1);
}

static void systemd_is_told(void **state)
{
    unsetenv("NOTIFY_SOCKET");
    assert_int_equal(notify_systemd("READY=1"), 0);
    for (unsigned abstract = 0; abstract < 2; abstract++) {
        char name[128];
        snprintf(name, sizeof(name), "%s%s/notify", abstract ? "@" : "", dir);
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        memcpy(addr.sun_path, name, strlen(name));
        if (abstract)
            addr.sun_path[0] = 0;
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
        assert_int_equal(bind(fd, (struct sockaddr *)&addr, bytes), 0);
        setenv("NOTIFY_SOCKET", name, 1);
        assert_int_equal(notify_systemd("READY=1"), 0);
        char got[16] = "";
        assert_int_equal(recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT), 7);
        assert_string_equal(got, "READY=1");
        close(fd);
    }
    setenv("NOTIFY_SOCKET", "relative", 1);
    assert_int_equal(notify_systemd("READY=1"), -EINVAL);
    unsetenv("NOTIFY_SOCKET");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(volumes_come_up_and_are_drained),
        TEST(a_volume_is_created_and_brought_up),
        TEST(a_missing_backing_is_a_failure),
        TEST(orders_are_answered_with_their_exit_code),
        TEST(a_fault_while_coming_up_is_no_refusal),
        TEST(a_daemon_without_volumes_is_ready),
        TEST(a_disk_that_hangs_does_not_keep_the_daemon_from_being_ready),
        TEST(a_daemon_that_accepts_nobody_is_timed_out),
        TEST(the_only_good_leg_stays_up),
        TEST(the_only_good_leg_that_nobody_uses_goes_with_a_warning),
        TEST(a_leg_whose_peer_was_never_heard_of_goes),
        TEST(a_switchover_and_an_adoption_are_orders),
        TEST(beside_another_member_it_is_not_the_only_good_leg),
        TEST(who_is_out_of_the_set_is_not_the_only_good_leg),
        TEST(force_tells_first_what_it_risks),
        TEST(what_its_operator_has_given_up_is_not_forced),
        TEST(a_primary_is_demoted_before_it_is_taken_down),
        TEST(a_primary_that_cannot_tell_its_witness_stays_up),
        TEST(a_secondary_that_its_primary_needs_stays_up),
        TEST(what_is_open_to_others_is_warned_of),
        TEST(unknown_volumes_are_told_apart),
        TEST(events_are_shown_and_followed),
        TEST(status_answers_while_a_job_runs),
        TEST(a_verify_tells_where_the_legs_differ),
        TEST(what_is_given_up_goes_into_a_file_that_is_told),
        TEST(a_resize_tells_how_far_it_is),
        TEST(clients_may_go_while_their_command_runs),
        TEST(a_hangup_is_told_and_ends_nothing),
        TEST(what_cannot_drain_does_not_hang_the_shutdown),
        TEST(a_demote_hook_runs_also_when_draining_was_given_up),
        TEST(a_second_signal_ends_at_once),
        TEST(an_answer_may_come_after_the_volume_is_given_up),
        TEST(draining_goes_on_when_the_peer_is_back),
        TEST(systemd_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
