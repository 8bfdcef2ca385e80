/* Volumes and their registers: who shares a client, where answers go, and a real volume at a register of the test's. */
#include "repl/node/registers.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/node/create.h"
#include "repl/node/volume.h"
#include "tests/unit/unit.h"

/* ---- a register that answers when a test wants ---- */

struct register_client {
    char url[CONFIG_WITNESS_BYTES];
    unsigned timeout_ms;
    bool has_ca;
    struct register_options options;
    bool asked[REGISTER_SLOTS_MAX];
    struct register_request requests[REGISTER_SLOTS_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct register_client *clients[8];
static unsigned client_count, closed_count, asks;
static int open_result;

int register_open(struct register_client **out, const struct register_options *options, char *error, size_t error_bytes)
{
    if (open_result) {
        snprintf(error, error_bytes, "the test does not want to");
        return open_result;
    }
    struct register_client *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    c->options = *options;
    snprintf(c->url, sizeof(c->url), "%s", options->url);
    c->has_ca = options->tls_ca;
    c->timeout_ms = options->timeout_ms;
    clients[client_count++] = c;
    *out = c;
    return 0;
}

void register_ask(struct register_client *c, uint32_t slot, const struct register_request *request)
{
    pthread_mutex_lock(&lock);
    assert_false(c->asked[slot]); /* one at a time */
    c->asked[slot] = true;
    c->requests[slot] = *request;
    asks++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void register_close(struct register_client *c)
{
    closed_count++;
    free(c);
}

static void answer(struct register_client *c, uint32_t slot, const struct register_answer *a)
{
    pthread_mutex_lock(&lock);
    assert_true(c->asked[slot]);
    c->asked[slot] = false;
    pthread_mutex_unlock(&lock);
    c->options.answered(c->options.context, slot, a);
}

static uint32_t wait_for_ask(struct register_client *c)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        for (uint32_t i = 0; i < REGISTER_SLOTS_MAX; i++)
            if (c->asked[i]) {
                pthread_mutex_unlock(&lock);
                return i;
            }
        pthread_cond_wait(&changed, &lock);
    }
}

static int reset(void **state)
{
    (void)state;
    client_count = closed_count = asks = 0;
    open_result = 0;
    return 0;
}

/* ---- sharing ---- */

#define URL_A "lockstep://127.0.0.1:1"
#define URL_B "etcd+https://127.0.0.1:2"

static struct volume_config volumes[4];
static const struct config config = { .count = ARRAY_LEN(volumes), .volumes = volumes };

static void set_volume(unsigned i, const char *url, const char *ca, uint64_t dead_after_ns)
{
    volumes[i] = (struct volume_config) { .dead_after_ns = dead_after_ns };
    snprintf(volumes[i].witness.url, sizeof(volumes[i].witness.url), "%s", url);
    snprintf(volumes[i].witness.tls_ca, sizeof(volumes[i].witness.tls_ca), "%s", ca);
}

static struct registers *open_registers(void)
{
    struct err err = { 0 };
    struct registers *rs = registers_open(&config, &err);
    if (!rs)
        fail_msg("%s", err.text);
    return rs;
}

struct heard {
    unsigned count;
    struct register_answer last;
};

static void hear(void *ctx, const struct register_answer *a)
{
    struct heard *h = ctx;
    h->count++;
    h->last = *a;
}

static struct register_line *open_line(struct registers *rs, unsigned volume, struct heard *heard)
{
    struct err err = { 0 };
    struct register_line *line = register_line_open(rs, &volumes[volume], hear, heard, &err);
    assert_non_null(line);
    return line;
}

static void one_client_for_each_register(void **state)
{
    (void)state;
    set_volume(0, URL_A, "", 2 * NS_PER_S);
    set_volume(1, URL_A, "", 2 * NS_PER_S);
    set_volume(2, URL_B, "ca.pem", 600 * NS_PER_S);
    set_volume(3, "", "", 2 * NS_PER_S);
    struct registers *rs = open_registers();
    assert_int_equal(client_count, 2);
    assert_string_equal(clients[0]->url, URL_A);
    assert_int_equal(clients[0]->timeout_ms, 2000);
    assert_false(clients[0]->has_ca);
    assert_true(clients[1]->has_ca);
    assert_int_equal(clients[1]->timeout_ms, REGISTER_TIMEOUT_MS_MAX);
    registers_close(rs);
    assert_int_equal(closed_count, 2);

    /* The same address with other files is another one. */
    set_volume(3, URL_B, "other.pem", 100 * NS_PER_MS);
    rs = open_registers();
    assert_int_equal(client_count, 5);
    registers_close(rs);
}

/* Nobody waits for longer than it wants to, and nobody gives up the register because another one is in a hurry. */
static void each_volume_waits_for_as_long_as_it_wants_to(void **state)
{
    (void)state;
    set_volume(0, URL_A, "", 2 * NS_PER_S);
    set_volume(1, URL_A, "", 100 * NS_PER_MS);
    set_volume(2, "", "", 2 * NS_PER_S);
    set_volume(3, URL_A, "", 2 * NS_PER_S);
    struct registers *rs = open_registers();
    struct heard heard = { 0 };
    assert_int_equal(client_count, 2);
    assert_int_equal(clients[0]->timeout_ms, 2000);
    assert_int_equal(clients[1]->timeout_ms, 100);
    struct register_line *lines[] = { open_line(rs, 0, &heard), open_line(rs, 1, &heard), open_line(rs, 3, &heard) };
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++)
        register_line_ask(lines[i], &(struct register_request) { .known_epoch = i });
    assert_true(clients[0]->asked[0] && clients[0]->asked[1] && clients[1]->asked[0]);
    assert_int_equal(clients[1]->requests[0].known_epoch, 1);
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++)
        register_line_close(lines[i]);
    registers_close(rs);
}

static void a_register_that_cannot_be_opened_is_told(void **state)
{
    (void)state;
    set_volume(0, URL_A, "", NS_PER_S);
    open_result = -EINVAL;
    struct err err = { 0 };
    assert_null(registers_open(&config, &err));
    assert_int_equal(err.code, -EINVAL);
    assert_string_equal(err.text, "witness " URL_A ": the test does not want to");
}

static void each_volume_gets_its_own_answer(void **state)
{
    (void)state;
    set_volume(0, URL_A, "", NS_PER_S);
    set_volume(1, URL_A, "", NS_PER_S);
    set_volume(2, "", "", NS_PER_S);
    set_volume(3, "", "", NS_PER_S);
    struct registers *rs = open_registers();
    struct heard a = { 0 }, b = { 0 };
    struct register_line *line_a = open_line(rs, 0, &a), *line_b = open_line(rs, 1, &b);
    register_line_ask(line_a, &(struct register_request) { .known_epoch = 1 });
    register_line_ask(line_b, &(struct register_request) { .known_epoch = 2 });
    struct register_client *c = clients[0];
    assert_int_equal(c->requests[0].known_epoch, 1);
    assert_int_equal(c->requests[1].known_epoch, 2);
    answer(c, 1, &(struct register_answer) { .outcome = REGISTER_STANDS, .decree = { .epoch = 9 } });
    assert_int_equal(a.count, 0);
    assert_int_equal(b.count, 1);
    assert_int_equal(b.last.decree.epoch, 9);
    answer(c, 0, &(struct register_answer) { .outcome = REGISTER_UNREACHABLE });
    assert_int_equal(a.count, 1);
    register_line_ask(line_a, &(struct register_request) { .known_epoch = 3 });
    answer(c, 0, &(struct register_answer) { .outcome = REGISTER_STANDS });
    assert_int_equal(a.count, 2);
    register_line_close(line_a);
    register_line_close(line_b);
    registers_close(rs);
}

static void a_late_answer_reaches_nobody(void **state)
{
    (void)state;
    set_volume(0, URL_A, "", NS_PER_S);
    set_volume(1, "", "", NS_PER_S);
    struct registers *rs = open_registers();
    struct heard before = { 0 }, after = { 0 };
    struct register_line *line = open_line(rs, 0, &before);
    register_line_ask(line, &(struct register_request) { .ask = REGISTER_SWAP });
    register_line_close(line);

    line = open_line(rs, 0, &after); /* the volume is up again */
    register_line_ask(line, &(struct register_request) { .ask = REGISTER_READ });
    assert_int_equal(asks, 2);
    answer(clients[0], 0, &(struct register_answer) { .outcome = REGISTER_DONE });
    assert_int_equal(before.count + after.count, 0);
    answer(clients[0], 1, &(struct register_answer) { .outcome = REGISTER_STANDS });
    assert_int_equal(before.count, 0);
    assert_int_equal(after.count, 1);
    register_line_close(line);

    line = open_line(rs, 0, &after); /* the first slot is free again */
    register_line_ask(line, &(struct register_request) { .ask = REGISTER_READ });
    assert_true(clients[0]->asked[0]);
    register_line_close(line);
    registers_close(rs);
}

static void unanswered_questions_are_bounded(void **state)
{
    (void)state;
    set_volume(0, URL_A, "", NS_PER_S);
    set_volume(1, "", "", NS_PER_S);
    struct registers *rs = open_registers();
    struct heard heard = { 0 };
    struct err err = { 0 };
    for (unsigned i = 0; i < REGISTER_SLOTS_MAX; i++) {
        struct register_line *line = open_line(rs, 0, &heard);
        register_line_ask(line, &(struct register_request) { .ask = REGISTER_READ });
        register_line_close(line);
    }
    assert_null(register_line_open(rs, &volumes[0], hear, &heard, &err));
    assert_int_equal(err.code, -EAGAIN);
    answer(clients[0], 7, &(struct register_answer) { .outcome = REGISTER_STANDS });
    register_line_close(open_line(rs, 0, &heard));
    assert_int_equal(heard.count, 0);
    registers_close(rs);
}

/* ---- a volume ---- */

static char dir[64];

static void ignore_log(void *ctx, const char *volume, enum log_level level, const char *text)
{
    (void)ctx, (void)volume, (void)level, (void)text;
}

static void ignore_note(void *ctx, const char *volume, enum note_level level, const char *topic, const char *text)
{
    (void)ctx, (void)volume, (void)level, (void)topic, (void)text;
}

static unsigned closings;

static void count_served(void *ctx, const char *volume, bool on, uint64_t epoch)
{
    (void)ctx, (void)volume, (void)epoch;
    closings += !on;
}

static void no_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)ctx, (void)done_bytes, (void)total_bytes;
}

static void make_volume(void)
{
    struct volume_config *c = &volumes[0];
    set_volume(0, URL_A, "", 100 * NS_PER_MS);
    set_volume(1, "", "", NS_PER_S);
    snprintf(dir, sizeof(dir), "/tmp/test_registers.XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(c->volume, sizeof(c->volume), "gold");
    c->node_count = 1;
    c->activity_log_bytes = CONFIG_ACTIVITY_LOG_BYTES_DEFAULT;
    c->verify_at_minute = CONFIG_ANY_TIME;
    c->failover_automatic = true;
    snprintf(c->nodes[0].name, sizeof(c->nodes[0].name), "a");
    snprintf(c->nodes[0].backing, sizeof(c->nodes[0].backing), "%s/backing", dir);
    snprintf(c->nodes[0].device, sizeof(c->nodes[0].device), "unix:%s/nbd", dir);
    int fd = open(c->nodes[0].backing, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 80 * MIB), 0);
    close(fd);
    struct err err = { 0 };
    if (volume_create(c, false, false, no_progress, NULL, &err))
        fail_msg("%s", err.text);
}

static void remove_volume(void)
{
    unlink(volumes[0].nodes[0].backing);
    assert_int_equal(rmdir(dir), 0);
}

static void done(void *ctx, int result, const char *text)
{
    (void)text;
    pthread_mutex_lock(&lock);
    *(int *)ctx = result;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

#define NOT_YET 1

/* Gives an order; meanwhile the register answers READ with `decree`, or is out of reach, and does each SWAP. */
static int carry_out(struct volume *v, enum volume_order order, struct decree *decree)
{
    int result = NOT_YET;
    volume_order(v, order, true, done, &result);
    for (;;) {
        uint32_t slot = REGISTER_SLOTS_MAX;
        pthread_mutex_lock(&lock);
        while (result == NOT_YET && slot == REGISTER_SLOTS_MAX) {
            for (uint32_t i = 0; i < REGISTER_SLOTS_MAX; i++)
                slot = clients[0]->asked[i] ? i : slot;
            if (slot == REGISTER_SLOTS_MAX)
                pthread_cond_wait(&changed, &lock);
        }
        bool over = result != NOT_YET;
        struct register_request request =
            slot < REGISTER_SLOTS_MAX ? clients[0]->requests[slot] : (struct register_request) { 0 };
        pthread_mutex_unlock(&lock);
        if (over)
            return result;
        bool swap = request.ask == REGISTER_SWAP;
        if (swap)
            *decree = request.proposal;
        answer(clients[0], slot,
               &(struct register_answer) { .outcome = swap ? REGISTER_DONE : REGISTER_STANDS, .decree = *decree });
    }
}

static struct volume *try_start(struct registers *rs, struct err *err)
{
    struct volume_host host = { .log = ignore_log, .note = ignore_note, .served = count_served, .registers = rs };
    return volume_start(&volumes[0], &host, err);
}

static struct volume *start_volume(struct registers *rs)
{
    struct err err = { 0 };
    struct volume *v = try_start(rs, &err);
    if (!v)
        fail_msg("%s", err.text);
    return v;
}

static void a_volume_asks_its_register(void **state)
{
    (void)state;
    make_volume();
    struct registers *rs = open_registers();
    struct volume *v = start_volume(rs);
    struct decree decree = { 0 };
    assert_int_equal(carry_out(v, VOLUME_PROMOTE, &decree), 0);
    struct volume_status s;
    volume_status(v, &s);
    assert_true(s.serving);

    struct register_client *c = clients[0];
    uint32_t slot = wait_for_ask(c); /* it reads every dead-after */
    assert_int_equal(c->requests[slot].ask, REGISTER_READ);
    assert_string_equal(c->requests[slot].volume, "gold");
    assert_string_equal(c->requests[slot].node, "a");
    assert_string_equal(c->requests[slot].peer, "");
    answer(c, slot, &(struct register_answer) { .outcome = REGISTER_UNREACHABLE, .reason = "nobody is there" });
    slot = wait_for_ask(c);
    volume_status(v, &s);
    assert_true(s.has_witness);
    assert_int_equal(s.witness.state, REGISTER_STATE_UNREACHABLE);
    assert_string_equal(s.witness.reason, "nobody is there");
    assert_true(s.serving); /* nothing stops for that */

    /* It is stopped with a question that nobody has answered yet; the answer comes into the void. */
    volume_stop(v);
    answer(c, slot, &(struct register_answer) { .outcome = REGISTER_STANDS });
    registers_close(rs);
    remove_volume();
}

/* Once, by whichever start finds it: also by one that comes to nothing, as its device cannot be opened. */
static void what_was_closed_by_a_crash_is_told(void **state)
{
    (void)state;
    char command[256], device[sizeof(volumes[0].nodes[0].device)];
    make_volume();
    struct registers *rs = open_registers();
    struct volume *v = start_volume(rs);
    struct decree decree = { 0 };
    assert_int_equal(carry_out(v, VOLUME_PROMOTE, &decree), 0);
    snprintf(command, sizeof(command), "cp --sparse=always %s/backing %s/crashed", dir, dir);
    assert_int_equal(system(command), 0);
    volume_stop(v);
    snprintf(command, sizeof(command), "mv %s/crashed %s/backing", dir, dir);
    assert_int_equal(system(command), 0);

    closings = 0;
    struct err err = { 0 };
    memcpy(device, volumes[0].nodes[0].device, sizeof(device));
    snprintf(volumes[0].nodes[0].device, sizeof(device), "unix:%s/nowhere/nbd", dir);
    assert_null(try_start(rs, &err));
    assert_int_equal(closings, 1);
    memcpy(volumes[0].nodes[0].device, device, sizeof(device));
    volume_stop(start_volume(rs));
    assert_int_equal(closings, 1);
    for (uint32_t i = 0; i < REGISTER_SLOTS_MAX; i++)
        if (clients[0]->asked[i])
            answer(clients[0], i, &(struct register_answer) { .outcome = REGISTER_UNREACHABLE });
    registers_close(rs);
    remove_volume();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(one_client_for_each_register, reset),
        cmocka_unit_test_setup(each_volume_waits_for_as_long_as_it_wants_to, reset),
        cmocka_unit_test_setup(a_register_that_cannot_be_opened_is_told, reset),
        cmocka_unit_test_setup(each_volume_gets_its_own_answer, reset),
        cmocka_unit_test_setup(a_late_answer_reaches_nobody, reset),
        cmocka_unit_test_setup(unanswered_questions_are_bounded, reset),
        cmocka_unit_test_setup(a_volume_asks_its_register, reset),
        cmocka_unit_test_setup(what_was_closed_by_a_crash_is_told, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
