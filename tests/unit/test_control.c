/* The control socket: clients of every kind, none of which can crash it, block it, or disturb another. */
#include "repl/node/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "repl/base/endian.h"
#include "tests/unit/unit.h"

#define IMPATIENT_NS (200 * NS_PER_MS) /* for tests that wait for it to pass */
#define PATIENT_NS (60 * NS_PER_S)     /* for all others, however slow the machine is */

static char dir[64];
static char path[96];
static struct control *control;

/* What the owner was told. */
static struct control_client *asked; /* the last one with a request */
static struct control_request request;
static unsigned requests;
static unsigned gone;
static unsigned writable;
static char logged[1024];

static void on_request(void *ctx, struct control_client *c, const struct control_request *r)
{
    asked = c;
    request = *r;
    requests++;
}

static void on_writable(void *ctx, struct control_client *c) { writable++; }
static void on_gone(void *ctx, struct control_client *c) { gone++; }
static void on_log(void *ctx, enum log_level level, const char *text) { snprintf(logged, sizeof(logged), "%s", text); }

static uint64_t patience_ns = PATIENT_NS;

static struct control *open_at(const char *where, struct err *err)
{
    struct control_config config = {
        .path = where,
        .request_ns_max = patience_ns,
        .unread_ns_max = patience_ns,
        .request = on_request,
        .writable = on_writable,
        .gone = on_gone,
        .log = on_log,
    };
    return control_open(&config, err);
}

static int setup(void **state)
{
    asked = NULL;
    requests = gone = writable = 0;
    logged[0] = 0;
    snprintf(dir, sizeof(dir), "/tmp/test_control.XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/control.sock", dir);
    struct err err;
    control = open_at(path, &err);
    return control ? 0 : -1;
}

static int setup_impatient(void **state)
{
    patience_ns = IMPATIENT_NS;
    int rc = setup(state);
    patience_ns = PATIENT_NS;
    return rc;
}

static int teardown(void **state)
{
    if (control)
        control_close(control);
    control = NULL;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

/* Lets the server do what it has to do right now. */
static void settle(void)
{
    struct pollfd fd = { .fd = control_fd(control), .events = POLLIN };
    do
        control_step(control);
    while (poll(&fd, 1, 0) > 0);
}

/* Until something is true; the clock of the server's patience is the real one. */
#define SETTLE_UNTIL(truth)                                                                                            \
    do {                                                                                                               \
        struct pollfd fd_ = { .fd = control_fd(control), .events = POLLIN };                                           \
        for (unsigned i_ = 0; !(truth); i_++) {                                                                        \
            assert_true(i_ < 1000);                                                                                    \
            control_step(control);                                                                                     \
            poll(&fd_, 1, 10);                                                                                         \
        }                                                                                                              \
    } while (0)

static int connect_client(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    memcpy(addr.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    settle();
    return fd;
}

static void put(int fd, const void *bytes, size_t count)
{
    assert_int_equal(send(fd, bytes, count, MSG_NOSIGNAL), count);
}

static size_t pack_up(uint8_t *frame, size_t bytes, const char *volume)
{
    Lockstep__Control__Up up = LOCKSTEP__CONTROL__UP__INIT;
    up.volume = (char *)volume;
    Lockstep__Control__Request r = LOCKSTEP__CONTROL__REQUEST__INIT;
    r.version = CONTROL_VERSION;
    r.command_case = LOCKSTEP__CONTROL__REQUEST__COMMAND_UP;
    r.up = &up;
    return control_pack(&r.base, frame, bytes);
}

static void ask_up(int fd)
{
    uint8_t frame[128];
    put(fd, frame, pack_up(frame, sizeof(frame), "g"));
    settle();
}

/* Reads one message; NULL: the end. */
static Lockstep__Control__Response *next(int fd)
{
    static uint8_t frame[CONTROL_PREFIX_BYTES + CONTROL_MESSAGE_BYTES_MAX];
    size_t used = 0;
    int64_t whole = CONTROL_PREFIX_BYTES;
    while (used < (size_t)whole) {
        ssize_t n = recv(fd, frame + used, (size_t)whole - used, 0);
        if (n < 0 && errno == EAGAIN) {
            settle();
            continue;
        }
        if (n <= 0)
            return NULL;
        used += (size_t)n;
        if (used == CONTROL_PREFIX_BYTES)
            whole = control_frame_bytes(frame, used);
        assert_true(whole > 0);
    }
    Lockstep__Control__Response *r =
        lockstep__control__response__unpack(NULL, (size_t)whole - CONTROL_PREFIX_BYTES, frame + CONTROL_PREFIX_BYTES);
    assert_non_null(r);
    return r;
}

static void expect_result(int fd, unsigned code, const char *text)
{
    Lockstep__Control__Response *r = next(fd);
    assert_non_null(r);
    assert_int_equal(r->message_case, LOCKSTEP__CONTROL__RESPONSE__MESSAGE_RESULT);
    assert_int_equal(r->result->exit_code, code);
    if (!strstr(r->result->text, text))
        fail_msg("expected \"%s\" in \"%s\"", text, r->result->text);
    lockstep__control__response__free_unpacked(r, NULL);
    assert_null(next(fd));
    close(fd);
}

/* Whatever happened before: a well-behaved client is served. */
static void expect_alive(void)
{
    unsigned before = requests;
    int fd = connect_client();
    ask_up(fd);
    assert_int_equal(requests, before + 1);
    control_end(asked, CONTROL_DONE, "alive");
    expect_result(fd, CONTROL_DONE, "alive");
}

static void a_request_is_answered(void **state)
{
    int fd = connect_client();
    ask_up(fd);
    assert_int_equal(requests, 1);
    assert_int_equal(request.command, CONTROL_UP);
    assert_string_equal(request.volume, "g");
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    assert_true(control_send(asked, frame, control_encode_progress(frame, "half", 1, 2)));
    settle();
    Lockstep__Control__Response *r = next(fd);
    assert_int_equal(r->message_case, LOCKSTEP__CONTROL__RESPONSE__MESSAGE_PROGRESS);
    assert_int_equal(r->progress->done, 1);
    assert_int_equal(r->progress->total, 2);
    lockstep__control__response__free_unpacked(r, NULL);
    control_end(asked, CONTROL_REFUSED, "two\nlines");
    expect_result(fd, CONTROL_REFUSED, "two?lines");
    assert_int_equal(gone, 0);
}

static void a_request_may_come_in_bytes(void **state)
{
    int fd = connect_client();
    uint8_t frame[128];
    size_t bytes = pack_up(frame, sizeof(frame), "g");
    for (size_t i = 0; i < bytes; i++) {
        assert_int_equal(requests, 0);
        put(fd, frame + i, 1);
        settle();
    }
    assert_int_equal(requests, 1);
    control_end(asked, CONTROL_DONE, "");
    expect_result(fd, CONTROL_DONE, "");
}

static void garbage_is_refused(void **state)
{
    int fd = connect_client();
    put(fd, "GET / HTTP/1.0\r\n\r\n", 18);
    settle();
    expect_result(fd, CONTROL_USED_WRONGLY, "that is no request");
    fd = connect_client();
    put(fd, "\x05\0\0\0\xff\xff\xff\xff\xff", 9);
    settle();
    expect_result(fd, CONTROL_USED_WRONGLY, "that is no request");
    assert_non_null(strstr(logged, "refused"));
    fd = connect_client();
    put(fd, "\0\0\0\0", 4);
    settle();
    expect_result(fd, CONTROL_USED_WRONGLY, "its length");
    assert_int_equal(requests, 0);
    expect_alive();
}

static void an_oversized_request_is_refused(void **state)
{
    int fd = connect_client();
    le32 prefix = to_le32(CONTROL_MESSAGE_BYTES_MAX + 1);
    put(fd, &prefix, sizeof(prefix));
    settle();
    expect_result(fd, CONTROL_USED_WRONGLY, "its length");

    /* The longest that is allowed, of a protobuf field nobody knows: read to its end, then refused by its content. */
    fd = connect_client();
    static uint8_t big[CONTROL_PREFIX_BYTES + CONTROL_MESSAGE_BYTES_MAX];
    prefix = to_le32(CONTROL_MESSAGE_BYTES_MAX);
    memcpy(big, &prefix, sizeof(prefix));
    static const uint8_t unknown_field[] = { 0x9a, 0x06, 0xfb, 0xff, 0x03 }; /* 99: 65531 bytes */
    memcpy(big + CONTROL_PREFIX_BYTES, unknown_field, sizeof(unknown_field));
    for (size_t sent = 0; sent < sizeof(big);) {
        ssize_t n = send(fd, big + sent, sizeof(big) - sent, MSG_NOSIGNAL);
        if (n > 0)
            sent += (size_t)n;
        settle();
    }
    expect_result(fd, CONTROL_FAILED, "different versions");
    assert_int_equal(requests, 0);
    expect_alive();
}

static void more_than_one_request_is_refused(void **state)
{
    int fd = connect_client();
    uint8_t frame[256];
    size_t bytes = pack_up(frame, sizeof(frame), "g");
    memcpy(frame + bytes, frame, bytes);
    put(fd, frame, 2 * bytes);
    settle();
    expect_result(fd, CONTROL_USED_WRONGLY, "more than one request");
    assert_int_equal(requests, 0);

    fd = connect_client();
    ask_up(fd);
    assert_int_equal(requests, 1);
    put(fd, frame, bytes);
    settle();
    assert_int_equal(gone, 1); /* what was asked first is its owner's to end */
    assert_null(next(fd));
    close(fd);
    expect_alive();
}

static void requests_that_make_no_sense_are_refused(void **state)
{
    char long_name[NAME_BYTES_MAX + 1];
    memset(long_name, 'x', NAME_BYTES_MAX);
    long_name[NAME_BYTES_MAX] = 0;
    static const char *const none = "";
    const char *const names[] = { long_name, none };
    static const char *const reasons[] = { "at most 63 characters", "up needs the name of a volume" };
    for (unsigned i = 0; i < 2; i++) {
        int fd = connect_client();
        uint8_t frame[256];
        put(fd, frame, pack_up(frame, sizeof(frame), names[i]));
        settle();
        expect_result(fd, CONTROL_USED_WRONGLY, reasons[i]);
    }
    Lockstep__Control__Request r = LOCKSTEP__CONTROL__REQUEST__INIT;
    uint8_t frame[64];
    r.version = CONTROL_VERSION;
    int fd = connect_client();
    put(fd, frame, control_pack(&r.base, frame, sizeof(frame)));
    settle();
    expect_result(fd, CONTROL_USED_WRONGLY, "does not know that command");
    r.version = CONTROL_VERSION + 1;
    fd = connect_client();
    put(fd, frame, control_pack(&r.base, frame, sizeof(frame)));
    settle();
    expect_result(fd, CONTROL_FAILED, "different versions");
    assert_int_equal(requests, 0);
}

static void half_a_request_and_silence_ends_in_time(void **state)
{
    int silent = connect_client();
    int half = connect_client();
    put(half, "\x10\0\0\0\x08", 5);
    settle();
    assert_true(control_deadline_ns(control) != UINT64_MAX);
    SETTLE_UNTIL(control_deadline_ns(control) == UINT64_MAX);
    assert_non_null(strstr(logged, "did not finish its request in time"));
    assert_null(next(silent));
    assert_null(next(half));
    close(silent);
    close(half);
    assert_int_equal(gone, 0);
}

static void one_that_is_silent_holds_up_nobody(void **state)
{
    int silent = connect_client();
    int half = connect_client();
    put(half, "\x10\0\0\0\x08", 5);
    settle();
    expect_alive();
    close(silent);
    close(half);
}

static void a_client_may_go_at_any_time(void **state)
{
    close(connect_client()); /* before it asked */
    settle();
    assert_int_equal(gone, 0);

    int fd = connect_client(); /* in the middle of a command */
    ask_up(fd);
    close(fd);
    settle();
    assert_int_equal(gone, 1);

    fd = connect_client(); /* with an answer on its way */
    ask_up(fd);
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    assert_true(control_send(asked, frame, control_encode_progress(frame, "half", 1, 2)));
    close(fd);
    settle();
    assert_int_equal(gone, 2);

    fd = connect_client(); /* with its result on its way */
    ask_up(fd);
    control_end(asked, CONTROL_DONE, "");
    close(fd);
    settle();
    assert_int_equal(gone, 2);
    expect_alive();
}

/* As a hook's has, from when its process is made until it is a program of its own. */
static void a_copy_of_its_descriptor_keeps_nothing_alive(void **state)
{
    int fd = connect_client();
    ask_up(fd);
    pid_t holder = fork();
    assert_true(holder >= 0);
    if (holder == 0)
        for (;;)
            pause();
    control_end(asked, CONTROL_DONE, "done");
    control_step(control); /* it is sent, and the client is gone */
    struct pollfd events = { .fd = control_fd(control), .events = POLLIN };
    int stale = poll(&events, 1, 0);
    assert_int_equal(kill(holder, SIGKILL), 0);
    assert_int_equal(waitpid(holder, NULL, 0), holder);
    assert_int_equal(stale, 0);
    expect_result(fd, CONTROL_DONE, "done");
    expect_alive();
}

static void one_that_reads_slowly_gets_everything(void **state)
{
    int fd = connect_client();
    ask_up(fd);
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    unsigned sent = 0;
    unsigned received = 0;
    char text[512];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    while (control_send(asked, frame, control_encode_progress(frame, text, sent + 1, 0)))
        sent++;
    assert_true(sent > 50);
    assert_int_equal(writable, 0);
    bool more = true;
    while (received < sent) {
        Lockstep__Control__Response *r = next(fd);
        assert_non_null(r);
        assert_int_equal(r->progress->done, ++received);
        lockstep__control__response__free_unpacked(r, NULL);
        settle();
        if (writable && more) {
            assert_true(control_send(asked, frame, control_encode_progress(frame, text, sent + 1, 0)));
            sent++;
            more = false;
        }
    }
    assert_int_equal(writable, 1);
    control_end(asked, CONTROL_DONE, "all of it");
    expect_result(fd, CONTROL_DONE, "all of it");
}

static void one_that_reads_nothing_is_closed(void **state)
{
    int fd = connect_client();
    ask_up(fd);
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    char text[512];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    while (gone == 0) { /* fills its socket, then waits for it in vain */
        while (control_send(asked, frame, control_encode_progress(frame, text, 1, 0))) {}
        struct pollfd poller = { .fd = control_fd(control), .events = POLLIN };
        control_step(control);
        poll(&poller, 1, 1);
    }
    assert_non_null(strstr(logged, "did not read its answer in time"));
    close(fd);
}

static void many_clients_are_served_and_too_many_are_told(void **state)
{
    int fds[CONTROL_CLIENTS_MAX];
    struct control_client *asking[CONTROL_CLIENTS_MAX];
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        fds[i] = connect_client();
        ask_up(fds[i]);
        assert_int_equal(requests, i + 1);
        asking[i] = asked;
    }
    expect_result(connect_client(), CONTROL_FAILED, "too many clients");
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        control_end(asking[i], CONTROL_DONE, "");
        expect_result(fds[i], CONTROL_DONE, "");
    }
    expect_alive();
}

static void the_silent_make_room_for_who_speaks(void **state)
{
    int fds[CONTROL_CLIENTS_MAX];
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
        fds[i] = connect_client();
    expect_alive(); /* in the place of the first that came */
    assert_null(next(fds[0]));
    close(fds[0]);
    for (unsigned i = 1; i < CONTROL_CLIENTS_MAX; i++) {
        ask_up(fds[i]);
        control_end(asked, CONTROL_DONE, "");
        expect_result(fds[i], CONTROL_DONE, "");
    }
    assert_int_equal(requests, CONTROL_CLIENTS_MAX);
    assert_int_equal(gone, 0);
}

static void the_socket_is_the_owners_only(void **state)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_living_socket_is_not_taken_over(void **state)
{
    struct err err = { 0 };
    assert_null(open_at(path, &err));
    assert_int_equal(err.code, -EADDRINUSE);
    assert_non_null(strstr(err.text, path));
    expect_alive();

    /* Somebody else's, without our lock. */
    char other[108];
    snprintf(other, sizeof(other), "%s/other", dir);
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", other);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_null(open_at(other, &err));
    assert_int_equal(err.code, -EADDRINUSE);
    close(fd);

    /* Nobody listens any more: it is stale, and replaced. */
    assert_int_equal(access(other, F_OK), 0);
    struct control *c = open_at(other, &err);
    assert_non_null(c);
    control_close(c);
    assert_int_equal(access(other, F_OK), -1);
}

static void impossible_places_are_errors(void **state)
{
    struct err err = { 0 };
    char file[112];
    snprintf(file, sizeof(file), "%s/file", dir);
    close(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_null(open_at(file, &err));
    assert_int_equal(err.code, -EEXIST);
    assert_int_equal(access(file, F_OK), 0); /* and it is still there */
    assert_null(open_at("/nonexistent/directory/sock", &err));
    assert_int_equal(err.code, -ENOENT);
    assert_null(open_at("", &err));
    assert_int_equal(err.code, -ENAMETOOLONG);
    char long_path[200];
    memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = 0;
    assert_null(open_at(long_path, &err));
    assert_int_equal(err.code, -ENAMETOOLONG);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_request_is_answered),
        TEST(a_request_may_come_in_bytes),
        TEST(garbage_is_refused),
        TEST(an_oversized_request_is_refused),
        TEST(more_than_one_request_is_refused),
        TEST(requests_that_make_no_sense_are_refused),
        cmocka_unit_test_setup_teardown(half_a_request_and_silence_ends_in_time, setup_impatient, teardown),
        TEST(one_that_is_silent_holds_up_nobody),
        TEST(a_client_may_go_at_any_time),
        TEST(a_copy_of_its_descriptor_keeps_nothing_alive),
        TEST(one_that_reads_slowly_gets_everything),
        cmocka_unit_test_setup_teardown(one_that_reads_nothing_is_closed, setup_impatient, teardown),
        TEST(many_clients_are_served_and_too_many_are_told),
        TEST(the_silent_make_room_for_who_speaks),
        TEST(the_socket_is_the_owners_only),
        TEST(a_living_socket_is_not_taken_over),
        TEST(impossible_places_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
