/* The embedded witness and its client over real sockets: the suite of all registers, and what may happen to this one:
 * garbage, slow, silent and too many clients, lost answers, restarts, backups, full and broken disks, an operator. */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/witness/witness.h"
#include "repl/witness/witness_codec.h"
#include "tests/unit/faulty_vfs.h"
#include "tests/unit/register_suite.h"
#include "tests/unit/witness_dir.h"

#define WAIT_MS 60000

/* ---- a witness ---- */

static char url[320];
static char listen_at[WITNESS_ADDRESS_BYTES];
static uint64_t patience_ns; /* of the witness with its clients */
static uint64_t lives_ns;
static struct witness *witness;

/* What it told, newest last. */
static pthread_mutex_t told_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told_more = PTHREAD_COND_INITIALIZER;
static char told[64 * 1024];
static size_t told_used;

static void hear(void *ctx, const char *volume, enum note_level level, const char *text)
{
    pthread_mutex_lock(&told_lock);
    if (told_used < sizeof(told))
        told_used += (size_t)snprintf(told + told_used, sizeof(told) - told_used, "%s%s%s\n", volume ? volume : "",
                                      volume ? ": " : "", text);
    pthread_cond_broadcast(&told_more);
    pthread_mutex_unlock(&told_lock);
}

static void wait_until_told(const char *words)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    pthread_mutex_lock(&told_lock);
    while (!strstr(told, words)) {
        if (pthread_cond_timedwait(&told_more, &told_lock, &until) == 0)
            continue;
        pthread_mutex_unlock(&told_lock);
        fail_msg("expected \"%s\" in: %s", words, told);
    }
    pthread_mutex_unlock(&told_lock);
}

static void forget_what_was_told(void)
{
    pthread_mutex_lock(&told_lock);
    told_used = 0;
    told[0] = 0;
    pthread_mutex_unlock(&told_lock);
}

static void start_witness(void)
{
    struct witness_options options = {
        .listen = listen_at,
        .state = dir,
        .question_ns_max = patience_ns,
        .unread_ns_max = patience_ns,
        .lives_ns_max = lives_ns,
        .tell = hear,
    };
    struct err err = { 0 };
    witness = witness_open(&options, &err);
    if (!witness)
        fail_msg("%s", err.text);
    snprintf(listen_at, sizeof(listen_at), "%s", witness_address(witness));
    snprintf(url, sizeof(url), "lockstep://%s", listen_at);
}

static void restart_witness(void)
{
    witness_close(witness);
    start_witness();
}

static int set_up(void **state)
{
    next_dir();
    snprintf(listen_at, sizeof(listen_at), "%s:0", own_loopback()); /* some tests come back to the port that they got */
    patience_ns = lives_ns = 0;                                     /* its own */
    forget_what_was_told();
    faulty_vfs_fail(0, 0, 0, false);
    start_witness();
    return 0;
}

static int tear_down(void **state)
{
    witness_close(witness);
    return 0;
}

static void expect(const struct register_answer *a, enum register_outcome outcome, const char *words)
{
    if (a->outcome != outcome || !strstr(a->reason, words))
        fail_msg("answer %d, expected %d with \"%s\": %s", a->outcome, outcome, words, a->reason);
}

static struct decree swap(struct asker *a, const char *volume, const char *node, const struct decree *standing,
                          unsigned set)
{
    struct register_request q =
        make_swap(volume, node, standing, make_decree(standing->epoch + 1, standing->tag + 1, DECREE_RENEW, node, set));
    struct register_answer answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_DONE, "");
    return answer.decree;
}

static void read_as(struct asker *a, const char *volume, const char *node, uint64_t known,
                    enum register_outcome outcome)
{
    struct register_request q = make_read(volume, node, known);
    struct register_answer answer = asker_ask(a, 0, &q);
    expect(&answer, outcome, "");
}

/* ---- raw clients ---- */

static int raw_connect(void)
{
    struct sockaddr_in addr = { .sin_family = AF_INET };
    addr.sin_port = htons((uint16_t)atoi(strchr(listen_at, ':') + 1));
    assert_int_equal(inet_pton(AF_INET, own_loopback(), &addr.sin_addr), 1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

static void raw_send(int fd, const void *bytes, size_t count)
{
    assert_int_equal(send(fd, bytes, count, MSG_NOSIGNAL), count);
}

/* The witness closes it. */
static void expect_end(int fd)
{
    uint8_t bytes[4096];
    struct pollfd p = { .fd = fd, .events = POLLIN };
    ssize_t n = 1;
    while (n > 0) {
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        n = recv(fd, bytes, sizeof(bytes), 0);
    }
    close(fd);
}

static void raw_receive(int fd, struct register_answer *out, uint64_t *number)
{
    uint8_t frame[WITNESS_FRAME_BYTES_MAX];
    size_t used = 0;
    for (;;) {
        int64_t whole = witness_frame_bytes(frame, used);
        assert_true(whole >= 0);
        if (whole && used == (size_t)whole)
            break;
        size_t wanted = whole ? (size_t)whole - used : WITNESS_PREFIX_BYTES - used;
        struct pollfd p = { .fd = fd, .events = POLLIN };
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        ssize_t n = recv(fd, frame + used, wanted, 0);
        assert_true(n > 0);
        used += (size_t)n;
    }
    const char *why = "";
    if (witness_answer_decode(frame + WITNESS_PREFIX_BYTES, used - WITNESS_PREFIX_BYTES, number, out, &why))
        fail_msg("%s", why);
}

/* ---- tests ---- */

static void garbage_ends_its_own_connection(void **state)
{
    static const struct {
        const char *bytes;
        size_t count;
        const char *words;
    } cases[] = {
        { "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 26, "of a length that none has" },
        { "\0\0\0\0", 4, "of a length that none has" },
        { "\1\10\0\0xxxx", 8, "of a length that none has" },
        { "\5\0\0\0hello", 9, "sent what is no question" },
        { "\2\0\0\0\10\1", 6, "without a proper name" },
    };
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(a, new_volume(volume));
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        forget_what_was_told();
        int fd = raw_connect();
        raw_send(fd, cases[i].bytes, cases[i].count);
        expect_end(fd);
        wait_until_told(cases[i].words);
        d = swap(a, volume, NODE_A, &d, SET_BOTH);
    }
    /* Random bytes of all lengths. */
    for (unsigned i = 0; i < 200; i++) {
        uint8_t bytes[512];
        for (unsigned j = 0; j < sizeof(bytes); j++)
            bytes[j] = (uint8_t)(rand() >> 8);
        bytes[1] &= 3;
        bytes[2] = bytes[3] = 0;
        int fd = raw_connect();
        raw_send(fd, bytes, 1 + (unsigned)rand() % sizeof(bytes));
        shutdown(fd, SHUT_WR);
        expect_end(fd);
    }
    swap(a, volume, NODE_A, &d, SET_BOTH);
    asker_close(a);
}

static void silent_and_slow_clients_are_ended(void **state)
{
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(a, new_volume(volume));
    asker_close(a);
    patience_ns = 300 * NS_PER_MS;
    restart_witness();
    a = asker_open(url, SUITE_TIMEOUT_MS);
    /* Who has asked once may take its time; on a busy machine the first question itself may come too late. */
    struct register_request first = make_read(volume, NODE_A, d.epoch);
    struct register_answer heard = asker_ask(a, 0, &first);
    while (heard.outcome == REGISTER_UNREACHABLE)
        heard = asker_ask(a, 0, &first);
    expect(&heard, REGISTER_UNCONFIRMED, "");
    read_as(a, volume, NODE_B, d.epoch, REGISTER_STANDS);
    int silent = raw_connect();
    int slow = raw_connect();
    raw_send(slow, "\50\0\0\0half", 8);
    d = swap(a, volume, NODE_A, &d, SET_BOTH); /* while they are there */
    expect_end(silent);
    expect_end(slow);
    wait_until_told("asked nothing in time");
    d = swap(a, volume, NODE_A, &d, SET_BOTH);
    /* One that asks and asks, and never reads. */
    forget_what_was_told();
    int deaf = raw_connect();
    uint8_t frame[WITNESS_FRAME_BYTES_MAX];
    struct register_request q = make_read(volume, NODE_B, 7);
    size_t bytes = witness_question_encode(frame, 1, &q);
    struct pollfd p = { .fd = deaf, .events = POLLOUT };
    while (poll(&p, 1, WAIT_MS) == 1 && !(p.revents & (POLLERR | POLLHUP)) &&
           send(deaf, frame, bytes, MSG_NOSIGNAL) > 0)
        ;
    wait_until_told("in time"); /* did not read; or, as its kernel drops what it has no room for, did not go on */
    close(deaf);
    swap(a, volume, NODE_A, &d, SET_BOTH);
    asker_close(a);
}

/* In bytes of one, and in heaps. */
static void questions_arrive_in_any_pieces(void **state)
{
    uint8_t frame[WITNESS_FRAME_BYTES_MAX];
    struct register_request q = make_read("gold42", NODE_A, 0);
    size_t bytes = witness_question_encode(frame, 77, &q);
    int fd = raw_connect();
    for (size_t i = 0; i < bytes; i++)
        raw_send(fd, frame + i, 1);
    struct register_answer a;
    uint64_t number;
    raw_receive(fd, &a, &number);
    assert_int_equal(number, 77);
    expect(&a, REGISTER_UNCONFIRMED, "");
    static uint8_t heap[300 * 128];
    size_t used = 0;
    for (unsigned i = 0; i < 300; i++) {
        bytes = witness_question_encode(frame, i, &q);
        assert_true(used + bytes <= sizeof(heap));
        memcpy(heap + used, frame, bytes);
        used += bytes;
    }
    raw_send(fd, heap, used);
    for (unsigned i = 0; i < 300; i++) {
        raw_receive(fd, &a, &number);
        assert_int_equal(number, i);
    }
    close(fd);
}

static void another_version_is_told(void **state)
{
    uint8_t frame[] = { 4, 0, 0, 0, 8, 9, 16, 5 }; /* version 9, number 5 */
    int fd = raw_connect();
    raw_send(fd, frame, sizeof(frame));
    struct register_answer a;
    uint64_t number;
    raw_receive(fd, &a, &number);
    assert_int_equal(number, 5);
    expect(&a, REGISTER_REFUSED, "version 1");
    close(fd);
}

static void the_silent_make_room(void **state)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = min_u64(limit.rlim_max, 3 * WITNESS_CONNECTIONS_MAX);
    if (limit.rlim_cur < 2 * WITNESS_CONNECTIONS_MAX + 100) {
        print_message("skipped: only %llu descriptors may be had\n", (unsigned long long)limit.rlim_cur);
        skip();
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(a, new_volume(volume));
    static int fds[WITNESS_CONNECTIONS_MAX + 20];
    for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
        fds[i] = raw_connect();
    wait_until_told("was silent longest of too many");
    swap(a, volume, NODE_A, &d, SET_BOTH);
    for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
        close(fds[i]);
    asker_close(a);
}

/* ---- a line between them that can be cut ---- */

static struct {
    int listener;
    pthread_t thread;
    unsigned answers_to_pass; /* then the line is cut as the next one arrives; UINT_MAX: never */
    unsigned cuts;
} line;

static bool pass(int from, int to)
{
    uint8_t bytes[8192];
    ssize_t n = recv(from, bytes, sizeof(bytes), 0);
    return n > 0 && send(to, bytes, (size_t)n, MSG_NOSIGNAL) == n;
}

static void *run_line(void *arg)
{
    for (;;) {
        int node = accept(line.listener, NULL, NULL);
        if (node < 0)
            return NULL;
        int there = raw_connect();
        for (bool whole = true; whole;) {
            struct pollfd p[] = { { .fd = node, .events = POLLIN }, { .fd = there, .events = POLLIN } };
            poll(p, 2, -1);
            if (p[0].revents)
                whole = pass(node, there);
            if (whole && p[1].revents) {
                whole = line.answers_to_pass > 0 && pass(there, node);
                line.cuts += !whole;
                line.answers_to_pass = line.answers_to_pass ? line.answers_to_pass - 1 : 1000;
            }
        }
        close(node);
        close(there);
    }
}

static void lay_line(char out[64])
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t bytes = sizeof(addr);
    line.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(line.listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(line.listener, 8), 0);
    getsockname(line.listener, (struct sockaddr *)&addr, &bytes);
    snprintf(out, 64, "lockstep://127.0.0.1:%u", ntohs(addr.sin_port));
    assert_int_equal(pthread_create(&line.thread, NULL, run_line, NULL), 0);
}

static void take_line_away(void)
{
    shutdown(line.listener, SHUT_RDWR);
    pthread_join(line.thread, NULL);
    close(line.listener);
}

static void an_answer_is_lost(void **state)
{
    struct asker *direct = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(direct, new_volume(volume));
    char lined[64];
    line.answers_to_pass = 1;
    line.cuts = 0;
    lay_line(lined);
    struct asker *a = asker_open(lined, SUITE_TIMEOUT_MS);
    read_as(a, volume, NODE_A, d.epoch, REGISTER_STANDS);
    struct register_request q = make_swap(volume, NODE_A, &d, make_decree(8, 80, DECREE_OUT, NODE_A, SET_A));
    struct register_answer answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_UNREACHABLE, "is lost");
    read_as(direct, volume, NODE_B, 8, REGISTER_STANDS); /* it was carried out */
    answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_DONE, "");
    /* Meanwhile somebody else went on. */
    struct decree taken = swap(direct, volume, NODE_B, &answer.decree, SET_BOTH);
    answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_LOST, "");
    assert_int_equal(answer.decree.tag, taken.tag);
    asker_close(a);
    take_line_away();
    assert_int_equal(line.cuts, 1);
    asker_close(direct);
}

/* Somebody who listens, and does not answer: as a witness whose disk hangs. */
static void no_answer_is_told_in_time(void **state)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t bytes = sizeof(addr);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(listener, 8), 0);
    getsockname(listener, (struct sockaddr *)&addr, &bytes);
    char mute[64];
    snprintf(mute, sizeof(mute), "lockstep://127.0.0.1:%u", ntohs(addr.sin_port));
    struct asker *a = asker_open(mute, 200);
    struct register_request q = make_read("gold42", NODE_A, 0);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t begin_ns = clock_ns();
        struct register_answer answer = asker_ask(a, i, &q);
        expect(&answer, REGISTER_UNREACHABLE, "");
        assert_true(clock_ns() - begin_ns >= 150 * NS_PER_MS);
    }
    asker_close(a);
    close(listener);
    /* Nobody listens, and the port stays ours. */
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(inet_pton(AF_INET, own_loopback(), &addr.sin_addr), 1);
    assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
    snprintf(mute, sizeof(mute), "lockstep://%s:%u", own_loopback(), ntohs(addr.sin_port));
    a = asker_open(mute, 60000);
    struct register_answer answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_UNREACHABLE, "no witness in reach");
    close(listener);
    /* A name that cannot be looked up. */
    asker_close(a);
    a = asker_open("lockstep://witness.invalid:7790", 200);
    answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_UNREACHABLE, "");
    asker_begin(a, 5, &q); /* closing does not wait for it */
    asker_close(a);
}

static void urls_that_cannot_be(void **state)
{
    static const char *const urls[] = { "lockstep://", "lockstep://host", "lockstep://:7790", "http://a:1", "" };
    for (unsigned i = 0; i < ARRAY_LEN(urls); i++) {
        struct register_options options = { .url = urls[i], .timeout_ms = 1000, .answered = (void *)hear };
        struct register_client *c = NULL;
        char error[256] = "";
        assert_true(register_open(&c, &options, error, sizeof(error)) < 0);
        assert_true(error[0] && !c);
        options.url = "lockstep://127.0.0.1:1";
        options.tls_ca = "ca.pem";
        assert_int_equal(register_open(&c, &options, error, sizeof(error)), -ENOTSUP);
    }
}

/* ---- orders ---- */

struct waiting_order {
    struct witness_order order;
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool is_done;
};

static void order_done(struct witness_order *o)
{
    struct waiting_order *w = (struct waiting_order *)o;
    pthread_mutex_lock(&w->lock);
    w->is_done = true;
    pthread_cond_signal(&w->done);
    pthread_mutex_unlock(&w->lock);
}

static struct witness_order *order_by(enum witness_order_kind kind, const char *volume, uint64_t cursor, bool force)
{
    static struct waiting_order w;
    memset(&w, 0, sizeof(w));
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.done, NULL);
    w.order.kind = kind;
    w.order.cursor = cursor;
    w.order.force = force;
    w.order.done = order_done;
    snprintf(w.order.volume, sizeof(w.order.volume), "%s", volume);
    witness_order(witness, &w.order);
    pthread_mutex_lock(&w.lock);
    while (!w.is_done)
        pthread_cond_wait(&w.done, &w.lock);
    pthread_mutex_unlock(&w.lock);
    return &w.order;
}

static struct witness_order *order(enum witness_order_kind kind, const char *volume, uint64_t cursor)
{
    return order_by(kind, volume, cursor, false);
}

/* ---- starts, backups, disks ---- */

static void a_restarted_witness_waits_for_both(void **state)
{
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    struct asker *b = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(a, new_volume(volume));
    restart_witness();
    /* The client finds its way back by itself; that its connection was lost it says once. */
    struct register_request q = make_swap(volume, NODE_A, &d, make_decree(8, 80, DECREE_OUT, NODE_A, SET_A));
    struct register_answer answer = asker_ask(a, 0, &q);
    if (answer.outcome == REGISTER_UNREACHABLE)
        answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_UNCONFIRMED, "waits for paris-b's word");
    wait_until_told("paris-a was refused: it has started anew");
    q = make_read(volume, NODE_B, 7);
    answer = asker_ask(b, 0, &q);
    if (answer.outcome == REGISTER_UNREACHABLE)
        answer = asker_ask(b, 0, &q);
    expect(&answer, REGISTER_STANDS, "");
    wait_until_told("confirmed by its nodes at epoch 7");
    d = swap(a, volume, NODE_A, &d, SET_A);
    /* Who serves alone is enough. */
    restart_witness();
    q = make_read(volume, NODE_A, d.epoch);
    q.serving_alone = true;
    answer = asker_ask(a, 0, &q);
    if (answer.outcome == REGISTER_UNREACHABLE)
        answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_STANDS, "");
    swap(a, volume, NODE_A, &d, SET_BOTH);
    asker_close(a);
    asker_close(b);
}

static void a_restored_witness_grants_nothing_twice(void **state)
{
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d7 = make_first(a, new_volume(volume));
    witness_close(witness); /* so that its log is in the database */
    char saved[256];
    snprintf(saved, sizeof(saved), "%s", in_dir("saved"));
    copy_file(in_dir(WITNESS_DATABASE), saved);
    start_witness();
    asker_close(a);
    a = asker_open(url, SUITE_TIMEOUT_MS);
    read_as(a, volume, NODE_A, 7, REGISTER_UNCONFIRMED);
    read_as(a, volume, NODE_B, 7, REGISTER_STANDS);
    struct decree d8 = swap(a, volume, NODE_A, &d7, SET_A);
    witness_close(witness);
    copy_file(saved, in_dir(WITNESS_DATABASE));
    start_witness();
    asker_close(a);
    a = asker_open(url, SUITE_TIMEOUT_MS);
    /* B has not heard of epoch 8. */
    struct register_request take = make_swap(volume, NODE_B, &d7, make_decree(8, 99, DECREE_TAKE, NODE_B, SET_B));
    struct register_answer answer = asker_ask(a, 0, &take);
    expect(&answer, REGISTER_UNCONFIRMED, "paris-a");
    struct register_request q = make_read(volume, NODE_A, d8.epoch);
    q.serving_alone = true;
    answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_OLDER, "adopt");
    assert_int_equal(answer.decree.epoch, 7);
    wait_until_told("restored from a backup");
    answer = asker_ask(a, 0, &take);
    expect(&answer, REGISTER_UNCONFIRMED, "restored from a backup");
    q = make_swap(volume, NODE_A, &d8, make_decree(8 + (1 << 20), 5, DECREE_ADOPT, NODE_A, SET_A));
    q.over_older = true;
    answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_DONE, "");
    answer = asker_ask(a, 0, &take);
    expect(&answer, REGISTER_LOST, "");
    asker_close(a);
}

static void a_lost_database_is_older(void **state)
{
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    make_first(a, new_volume(volume));
    witness_close(witness);
    assert_int_equal(unlink(in_dir(WITNESS_DATABASE)), 0);
    forget_what_was_told();
    start_witness();
    wait_until_told("a new one was made");
    asker_close(a);
    a = asker_open(url, SUITE_TIMEOUT_MS);
    struct register_request q = make_read(volume, NODE_A, 7);
    struct register_answer answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_OLDER, "has no decree");
    asker_close(a);
}

static void a_full_disk_refuses_and_goes_on(void **state)
{
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(a, new_volume(volume));
    faulty_vfs_fail(1, UINT32_MAX, SQLITE_FULL, false);
    struct register_request q = make_swap(volume, NODE_A, &d, make_decree(8, 80, DECREE_OUT, NODE_A, SET_A));
    struct register_answer answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_REFUSED, "the disk is full: make room");
    read_as(a, volume, NODE_B, 7, REGISTER_STANDS);
    wait_until_told("paris-a was refused: ");
    /* Who is about to need a swap is told before. */
    struct register_request tries = make_read(volume, NODE_B, 7);
    tries.tries = true;
    answer = asker_ask(a, 0, &tries);
    expect(&answer, REGISTER_REFUSED, "the disk is full: make room");
    faulty_vfs_fail(0, 0, 0, false);
    answer = asker_ask(a, 0, &tries);
    expect(&answer, REGISTER_STANDS, "");
    answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_DONE, "");
    asker_close(a);
}

static uint64_t tell_age(struct asker *a, const char *volume, const char *node, uint64_t known, uint64_t age)
{
    struct register_request q = make_read(volume, node, known);
    q.leg_age = age;
    struct register_answer answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_STANDS, "");
    return answer.leg_age;
}

/* It is stored before the answer leaves. */
static void an_age_survives(void **state)
{
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    make_first(a, new_volume(volume));
    assert_int_equal(tell_age(a, volume, NODE_A, 7, 5), 0);
    assert_int_equal(tell_age(a, volume, NODE_B, 7, 6), 0);
    restart_witness();
    asker_close(a);
    a = asker_open(url, SUITE_TIMEOUT_MS);
    read_as(a, volume, NODE_B, 7, REGISTER_UNCONFIRMED);
    assert_int_equal(tell_age(a, volume, NODE_A, 7, 3), 5);
    assert_int_equal(tell_age(a, volume, NODE_B, 7, 0), 6);
    struct witness_order *o = order(WITNESS_STATUS, volume, 0);
    assert_int_equal(o->volume_list[0].age_count, 2);
    assert_int_equal(order_by(WITNESS_FORGET, volume, 0, true)->err.code, 0);
    assert_int_equal(order(WITNESS_STATUS, volume, 0)->volume_list[0].age_count, 0);
    make_first(a, volume);
    assert_int_equal(tell_age(a, volume, NODE_A, 7, 1), 0);
    asker_close(a);
}

/* Nothing is different but that no age is remembered, nor claimed to be. */
static void an_age_that_cannot_be_stored_changes_no_answer(void **state)
{
    static const int codes[] = { SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC };
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(a, new_volume(volume));
    uint64_t age = 5;
    assert_int_equal(tell_age(a, volume, NODE_A, 7, age), 0);
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        forget_what_was_told();
        faulty_vfs_fail(1, UINT32_MAX, codes[i], false);
        assert_int_equal(tell_age(a, volume, NODE_A, d.epoch, age + 1), age);
        wait_until_told("the ages of legs cannot be stored");
        assert_int_equal(tell_age(a, volume, NODE_A, d.epoch, age + 1), age);
        faulty_vfs_fail(0, 0, 0, false);
        /* The witness is not as after a start: who is left alone goes on. */
        d = swap(a, volume, NODE_A, &d, i % 2 ? SET_BOTH : SET_A);
        /* After a rest it is stored. */
        while (tell_age(a, volume, NODE_A, d.epoch, age + 1) != age + 1)
            ;
        age++;
        wait_until_told("the ages of legs are stored again");
    }
    /* With a decree that fits no more than the age does, the decree is what is refused. */
    faulty_vfs_fail(1, UINT32_MAX, SQLITE_FULL, false);
    struct register_request q = make_swap(volume, NODE_A, &d, make_decree(d.epoch + 1, 5, DECREE_OUT, NODE_A, SET_A));
    q.leg_age = age + 1;
    struct register_answer answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_REFUSED, "the disk is full");
    faulty_vfs_fail(0, 0, 0, false);
    assert_int_equal(tell_age(a, volume, NODE_A, d.epoch, 0), age);
    asker_close(a);
}

static void nothing_is_guessed_of_a_broken_disk(void **state)
{
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(a, new_volume(volume));
    /* Carried out, and the disk says it failed; then it answers nothing for a while. */
    for (unsigned carried_out = 0; carried_out < 2; carried_out++) {
        forget_what_was_told();
        faulty_vfs_fail(1, 1000, SQLITE_IOERR_FSYNC, carried_out);
        struct register_request q =
            make_swap(volume, NODE_A, &d, make_decree(d.epoch + 1, d.tag + 1, DECREE_OUT, NODE_A, SET_A));
        struct register_answer answer = asker_ask(a, 0, &q);
        expect(&answer, REGISTER_UNREACHABLE, WITNESS_DATABASE);
        wait_until_told("nothing is decided until the database can be opened again");
        faulty_vfs_fail(0, 0, 0, false);
        wait_until_told("the database is open again");
        /* It is as if it had been restarted. */
        read_as(a, volume, NODE_B, d.epoch, REGISTER_UNCONFIRMED);
        read_as(a, volume, NODE_A, d.epoch, REGISTER_STANDS);
        answer = asker_ask(a, 0, &q);
        expect(&answer, REGISTER_DONE, "");
        d = answer.decree;
    }
    asker_close(a);
}

static void a_damaged_database_does_not_start(void **state)
{
    witness_close(witness);
    int fd = open(in_dir(WITNESS_DATABASE), O_WRONLY);
    assert_int_equal(pwrite(fd, "spoilt", 6, 100), 6);
    close(fd);
    struct witness_options options = { .listen = "127.0.0.1:0", .state = dir, .tell = hear };
    struct err err = { 0 };
    assert_null(witness_open(&options, &err));
    assert_non_null(strstr(err.text, "is damaged"));
    assert_non_null(strstr(err.text, "adopt"));
    assert_int_equal(unlink(in_dir(WITNESS_DATABASE)), 0);
    start_witness();
}

static void what_cannot_be_opened_is_told(void **state)
{
    struct err err = { 0 };
    struct witness_options options = { .listen = listen_at, .state = dir, .tell = hear };
    assert_null(witness_open(&options, &err));
    assert_non_null(strstr(err.text, "another lockstepd"));
    options.state = in_dir("second");
    assert_null(witness_open(&options, &err));
    assert_non_null(strstr(err.text, "cannot be listened on"));
    options.listen = "nowhere";
    assert_null(witness_open(&options, &err));
    assert_non_null(strstr(err.text, "HOST:PORT"));
}

/* ---- an operator ---- */

static void an_operator_looks_and_decides(void **state)
{
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(a, new_volume(volume));
    for (unsigned i = 0; i < 100; i++)
        d = swap(a, volume, NODE_A, &d, SET_BOTH);
    struct witness_order *o = order(WITNESS_STATUS, "", 0);
    assert_int_equal(o->err.code, 0);
    assert_int_equal(o->count, 1);
    assert_string_equal(o->volume_list[0].name, volume);
    assert_int_equal(o->volume_list[0].decree.epoch, d.epoch);
    assert_true(o->volume_list[0].confirmed && o->volume_list[0].since_us > 0);
    assert_int_equal(o->volume_list[0].told_count, 2);
    assert_true(o->connections >= 1);
    uint64_t cursor = 0;
    uint64_t epoch = d.epoch;
    do {
        o = order(WITNESS_HISTORY, volume, cursor);
        assert_int_equal(o->err.code, 0);
        for (unsigned i = 0; i < o->count; i++, epoch--) {
            assert_int_equal(o->entries[i].decree.epoch, epoch);
            assert_string_equal(o->entries[i].asker, NODE_A);
            assert_string_equal(o->entries[i].note, "by a test");
        }
        cursor = o->cursor;
    } while (cursor);
    assert_int_equal(epoch, 6);

    restart_witness();
    assert_false(order(WITNESS_STATUS, volume, 0)->volume_list[0].confirmed);
    assert_int_equal(order(WITNESS_CONFIRM, volume, 0)->err.code, 0);
    assert_true(order(WITNESS_STATUS, volume, 0)->volume_list[0].confirmed);
    asker_close(a);
    a = asker_open(url, SUITE_TIMEOUT_MS);
    d = swap(a, volume, NODE_A, &d, SET_A);
    read_as(a, volume, NODE_B, d.epoch + 1, REGISTER_OLDER);
    o = order(WITNESS_CONFIRM, volume, 0);
    assert_int_equal(o->err.code, -EPERM);
    assert_non_null(strstr(o->err.text, "adopt"));
    assert_false(order(WITNESS_STATUS, volume, 0)->volume_list[0].confirmed);

    assert_int_equal(order_by(WITNESS_FORGET, volume, 0, true)->err.code, 0);
    read_as(a, volume, NODE_A, d.epoch, REGISTER_OLDER); /* who was part of it, is not fooled */
    assert_int_equal(order(WITNESS_HISTORY, volume, 0)->count, WITNESS_HISTORY_AT_ONCE);
    static const enum witness_order_kind kinds[] = { WITNESS_STATUS, WITNESS_HISTORY, WITNESS_CONFIRM, WITNESS_FORGET };
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
        assert_int_equal(order(kinds[i], "silver1", 0)->err.code, -ENOENT);
    asker_close(a);
}

/* Its nodes have asked for it a moment ago: it would have no failover any more. */
static void a_volume_that_lives_is_not_forgotten(void **state)
{
    struct asker *a = asker_open(url, SUITE_TIMEOUT_MS);
    char volume[NAME_BYTES_MAX];
    struct decree d = make_first(a, new_volume(volume));
    read_as(a, volume, NODE_B, d.epoch, REGISTER_STANDS);
    struct witness_order *o = order(WITNESS_FORGET, volume, 0);
    assert_int_equal(o->err.code, -EPERM);
    assert_non_null(strstr(o->err.text, NODE_A " "));
    assert_non_null(strstr(o->err.text, NODE_B " "));
    assert_non_null(strstr(o->err.text, " s ago"));
    assert_non_null(strstr(o->err.text, "--force"));
    assert_int_equal(order(WITNESS_STATUS, volume, 0)->volume_list[0].decree.epoch, d.epoch);
    assert_int_equal(order_by(WITNESS_FORGET, volume, 0, true)->err.code, 0);
    assert_int_equal(order(WITNESS_STATUS, volume, 0)->volume_list[0].decree.epoch, 0);

    d = make_first(a, volume);
    lives_ns = 1; /* what was heard longer ago than that counts for nothing */
    restart_witness();
    asker_close(a);
    a = asker_open(url, SUITE_TIMEOUT_MS);
    read_as(a, volume, NODE_A, d.epoch, REGISTER_UNCONFIRMED);
    assert_int_equal(order(WITNESS_FORGET, volume, 0)->err.code, 0);

    /* Those of another volume of this name are those who want it forgotten. */
    lives_ns = 0;
    d = make_first(a, volume);
    restart_witness();
    asker_close(a);
    a = asker_open(url, SUITE_TIMEOUT_MS);
    struct register_request q = make_read(volume, NODE_A, d.epoch);
    q.volume_id.bytes[0] ^= 1;
    struct register_answer answer = asker_ask(a, 0, &q);
    expect(&answer, REGISTER_REFUSED, "another volume of this name");
    assert_int_equal(order(WITNESS_FORGET, volume, 0)->err.code, 0);
    asker_close(a);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1) /* a register of another kind, or elsewhere */
        return register_suite_run(argv[1]);
    faulty_vfs_install();
    if (make_top())
        return 1;
    set_up(NULL);
    int failed = register_suite_run(url);
    tear_down(NULL);
    const struct CMUnitTest tests[] = {
        TEST(garbage_ends_its_own_connection),
        TEST(silent_and_slow_clients_are_ended),
        TEST(questions_arrive_in_any_pieces),
        TEST(another_version_is_told),
        TEST(the_silent_make_room),
        TEST(an_answer_is_lost),
        TEST(no_answer_is_told_in_time),
        TEST(urls_that_cannot_be),
        TEST(a_restarted_witness_waits_for_both),
        TEST(a_restored_witness_grants_nothing_twice),
        TEST(a_lost_database_is_older),
        TEST(a_full_disk_refuses_and_goes_on),
        TEST(an_age_survives),
        TEST(an_age_that_cannot_be_stored_changes_no_answer),
        TEST(nothing_is_guessed_of_a_broken_disk),
        TEST(a_damaged_database_does_not_start),
        TEST(what_cannot_be_opened_is_told),
        TEST(an_operator_looks_and_decides),
        TEST(a_volume_that_lives_is_not_forgotten),
    };
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    remove_top();
    return failed;
}
