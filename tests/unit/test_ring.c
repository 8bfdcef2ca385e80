/* The loop, in every mode that this kernel has: order, time, threads, cancelling, overflow, sockets, and refusals. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "blockdev/ring/ring.h"
#include "repl/base/clock.h"
#include "repl/base/prng.h"
#include "repl/base/units.h"

#define ENTRIES 8 /* small, so that queues overflow */
#define FILES_MAX 16
#define MODES 3

static unsigned modes_skipped; /* every test runs once per mode */
static char log_text[4096];

static void log_line(void *ctx, const char *text)
{
    size_t used = strlen(log_text);
    snprintf(log_text + used, sizeof(log_text) - used, "%s\n", text);
}

static struct ring *open_ring(void *arena, size_t arena_bytes)
{
    log_text[0] = 0;
    struct ring_config config = {
        .entries = ENTRIES,
        .files_max = FILES_MAX,
        .arena = arena,
        .arena_bytes = arena_bytes,
        .log = log_line,
        .modes_skipped = modes_skipped,
    };
    struct err err = { 0 };
    struct ring *r = ring_open(&config, &err);
    if (!r)
        fail_msg("ring_open: %s", err.text);
    return r;
}

static int setup(void **state)
{
    *state = open_ring(NULL, 0);
    return 0;
}

static int teardown(void **state)
{
    ring_close(*state);
    return 0;
}

/* An op that remembers how it ended. */
struct noted_op {
    struct ring_op op;
    struct ring *ring;
    int32_t result;
    unsigned times;
    unsigned *left; /* stops the ring when it comes to 0 */
};

static void noted(struct ring_op *op, int32_t result)
{
    struct noted_op *n = container_of(op, struct noted_op, op);
    n->result = result;
    n->times++;
    if (n->left && --*n->left == 0)
        ring_stop(n->ring);
}

static struct noted_op noted_op(struct ring *r, unsigned *left)
{
    return (struct noted_op) { .op.done = noted, .ring = r, .left = left };
}

/* A timer that ends a ring_run() that would otherwise hang. */
struct stop_timer {
    struct ring_timer timer;
    struct ring *ring;
    bool fired;
};

static void stop_fired(struct ring_timer *t)
{
    struct stop_timer *s = container_of(t, struct stop_timer, timer);
    s->fired = true;
    ring_stop(s->ring);
}

static void run_for(struct ring *r, uint64_t ns)
{
    struct stop_timer s = { .timer.fired = stop_fired, .ring = r };
    ring_timer_set(r, &s.timer, clock_ns() + ns);
    ring_run(r, NULL, NULL);
    ring_timer_clear(r, &s.timer);
}

static int temporary_file(void)
{
    char path[] = "/tmp/test_ring.XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    unlink(path);
    return fd;
}

/* --- timers --- */

struct order_timer {
    struct ring_timer timer;
    struct ring *ring;
    unsigned *next;
    unsigned place;
    unsigned last;
    uint64_t fired_ns;
};

static void order_fired(struct ring_timer *t)
{
    struct order_timer *o = container_of(t, struct order_timer, timer);
    assert_false(o->timer.set);
    o->place = (*o->next)++;
    o->fired_ns = clock_ns();
    if (o->place == o->last)
        ring_stop(o->ring);
}

static void timers_fire_in_order_and_not_early(void **state)
{
    struct ring *r = *state;
    enum { N = 40 };
    struct order_timer t[N];
    unsigned next = 0;
    uint64_t start = clock_ns();
    for (unsigned i = 0; i < N; i++) {
        unsigned rank = i * 7 % N; /* set in another order than they are due */
        t[i] = (struct order_timer) { .timer.fired = order_fired, .ring = r, .next = &next, .last = N - 1 };
        ring_timer_set(r, &t[i].timer, start + (1 + rank) * NS_PER_MS / 2);
    }
    ring_run(r, NULL, NULL);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(t[i].place, i * 7 % N);
        assert_true(t[i].fired_ns >= t[i].timer.due_ns);
    }
}

static void a_timer_moved_or_cleared_does_not_fire_when_it_was_due(void **state)
{
    struct ring *r = *state;
    unsigned next;
    struct order_timer earlier, later, cleared;
    uint64_t start;
    bool in_time = false;
    while (!in_time) { /* a busy machine may take this thread off its core for longer than the timers wait */
        next = 0;
        earlier = (struct order_timer) { .timer.fired = order_fired, .ring = r, .next = &next, .last = 9 };
        later = cleared = earlier;
        start = clock_ns();
        ring_timer_set(r, &earlier.timer, start + 10 * NS_PER_S);
        ring_timer_set(r, &later.timer, start + 100 * NS_PER_MS);
        ring_timer_set(r, &cleared.timer, start + 100 * NS_PER_MS);
        run_for(r, NS_PER_MS / 10); /* the kernel's timer is armed by now */
        ring_timer_set(r, &earlier.timer, start + 50 * NS_PER_MS);
        ring_timer_set(r, &later.timer, start + 150 * NS_PER_MS);
        ring_timer_clear(r, &cleared.timer);
        ring_timer_clear(r, &cleared.timer); /* twice is harmless */
        in_time = clock_ns() < start + 50 * NS_PER_MS;
        if (!in_time) {
            ring_timer_clear(r, &earlier.timer);
            ring_timer_clear(r, &later.timer);
        }
    }
    run_for(r, 250 * NS_PER_MS);
    assert_int_equal(next, 2);
    assert_int_equal(earlier.place, 0);
    assert_int_equal(later.place, 1);
    assert_true(earlier.fired_ns >= start + 50 * NS_PER_MS);
    assert_true(later.fired_ns >= start + 150 * NS_PER_MS);
}

static struct order_timer *victim;

static void clears_the_victim(struct ring_timer *t)
{
    struct order_timer *o = container_of(t, struct order_timer, timer);
    ring_timer_clear(o->ring, &victim->timer);
    ring_stop(o->ring);
}

static void a_timer_can_clear_another_that_is_due_too(void **state)
{
    struct ring *r = *state;
    unsigned next = 0;
    struct order_timer first = { .timer.fired = clears_the_victim, .ring = r };
    struct order_timer second = { .timer.fired = order_fired, .ring = r, .next = &next, .last = 9 };
    victim = &second;
    uint64_t due = clock_ns();
    ring_timer_set(r, &first.timer, due);
    ring_timer_set(r, &second.timer, due);
    ring_run(r, NULL, NULL);
    assert_int_equal(next, 0);
    assert_false(second.timer.set);
}

struct greedy_timer {
    struct ring_timer timer;
    struct ring *ring;
    unsigned times;
};

static void sets_itself_again_at_once(struct ring_timer *t)
{
    struct greedy_timer *g = container_of(t, struct greedy_timer, timer);
    g->times++;
    ring_timer_set(g->ring, t, 0);
}

static void a_timer_that_is_always_due_does_not_hold_up_the_loop(void **state)
{
    struct ring *r = *state;
    struct greedy_timer g = { .timer.fired = sets_itself_again_at_once, .ring = r };
    ring_timer_set(r, &g.timer, 0);
    int fd = temporary_file();
    int slot = ring_register_file(r, fd);
    unsigned left = 1;
    struct noted_op op = noted_op(r, &left);
    ring_write(r, &op.op, (struct ring_file) { slot }, "x", 1, 0, 0);
    ring_run(r, NULL, NULL);
    assert_int_equal(op.result, 1);
    assert_true(g.times >= 1);
    ring_timer_clear(r, &g.timer);
    ring_unregister_file(r, slot);
    close(fd);
}

/* --- tasks from threads --- */

struct counted_task {
    struct ring_task task;
    unsigned thread;
    unsigned number;
};

enum { POSTERS = 3, TASKS = 5000 };

static struct poster {
    pthread_t thread;
    struct ring *ring;
    struct counted_task tasks[TASKS];
} posters[POSTERS];
static unsigned ran[POSTERS];
static unsigned ran_all;
static struct ring *task_ring;
static pthread_t task_thread;

static void counted_run(struct ring_task *task)
{
    struct counted_task *t = container_of(task, struct counted_task, task);
    assert_true(pthread_equal(pthread_self(), task_thread));
    assert_int_equal(t->number, ran[t->thread]); /* in order, per poster */
    ran[t->thread]++;
    if (++ran_all == POSTERS * TASKS)
        ring_stop(task_ring);
}

static void *post_all(void *arg)
{
    struct poster *p = arg;
    for (unsigned i = 0; i < TASKS; i++) {
        ring_post(p->ring, &p->tasks[i].task);
        if (i % 64 == 0)
            sched_yield();
    }
    return NULL;
}

static void tasks_of_many_threads_run_once_in_order_on_the_rings_thread(void **state)
{
    struct ring *r = *state;
    memset(ran, 0, sizeof(ran));
    ran_all = 0;
    task_ring = r;
    task_thread = pthread_self();
    for (unsigned i = 0; i < POSTERS; i++) {
        posters[i].ring = r;
        for (unsigned j = 0; j < TASKS; j++)
            posters[i].tasks[j] = (struct counted_task) { .task.run = counted_run, .thread = i, .number = j };
        assert_int_equal(pthread_create(&posters[i].thread, NULL, post_all, &posters[i]), 0);
    }
    ring_run(r, NULL, NULL);
    for (unsigned i = 0; i < POSTERS; i++) {
        pthread_join(posters[i].thread, NULL);
        assert_int_equal(ran[i], TASKS);
    }
}

static unsigned late_runs;
static void late_run(struct ring_task *task) { late_runs++; }

static void close_runs_what_was_posted(void **state)
{
    struct ring *r = open_ring(NULL, 0);
    struct ring_task task = { .run = late_run };
    late_runs = 0;
    ring_post(r, &task);
    ring_close(r);
    assert_int_equal(late_runs, 1);
}

struct stopper {
    struct ring_task task;
    struct ring *ring;
};

static void timer_nothing(struct ring_timer *t) {}
static void stopper_run(struct ring_task *task) { ring_stop(container_of(task, struct stopper, task)->ring); }

static void *stopper_post(void *arg)
{
    struct stopper *s = arg;
    ring_post(s->ring, &s->task);
    return NULL;
}

/* The loop may be awake for another reason, and take the task before its poster has come to wake it. ASan sees the
 * poster in a ring that is freed, TSan any order that would allow it. */
static void close_lets_a_poster_leave_first(void **state)
{
    for (unsigned i = 0; i < 200; i++) {
        struct ring *r = open_ring(NULL, 0);
        struct ring_timer awake = { .fired = timer_nothing };
        ring_timer_set(r, &awake, ring_now_ns(r));
        struct stopper s = { .task.run = stopper_run, .ring = r };
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, stopper_post, &s), 0);
        ring_run(r, NULL, NULL);
        ring_close(r);
        pthread_join(thread, NULL);
    }
}

/* --- operations --- */

static void far_more_than_the_queue_holds(void **state)
{
    struct ring *r = *state;
    enum { N = ENTRIES * 100 };
    static struct noted_op ops[N];
    static uint8_t data[N], back[N];
    int fd = temporary_file();
    struct ring_file f = { ring_register_file(r, fd) };
    unsigned left = N;
    for (unsigned i = 0; i < N; i++) {
        data[i] = (uint8_t)(i * 13);
        ops[i] = noted_op(r, &left);
        ring_write(r, &ops[i].op, f, &data[i], 1, i, 0);
        assert_true(ops[i].op.busy);
        assert_int_equal(ops[i].times, 0); /* never from within the call */
    }
    ring_run(r, NULL, NULL);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(ops[i].result, 1);
        assert_int_equal(ops[i].times, 1);
        assert_false(ops[i].op.busy);
    }
    left = N;
    for (unsigned i = 0; i < N; i++)
        ring_read(r, &ops[i].op, f, &back[i], 1, i);
    ring_run(r, NULL, NULL);
    assert_memory_equal(data, back, N);
    ring_unregister_file(r, f.slot);
    close(fd);
}

/* Each completion submits more than the queue holds, from within `done`. */
struct burst {
    struct noted_op op;
    struct burst *children;
    unsigned count;
    struct ring_file file;
};

static void burst_done(struct ring_op *op, int32_t result)
{
    struct burst *b = container_of(container_of(op, struct noted_op, op), struct burst, op);
    for (unsigned i = 0; i < b->count; i++)
        ring_write(b->op.ring, &b->children[i].op.op, b->file, "y", 1, i, 0);
    noted(op, result);
}

static void overflow_from_within_a_completion(void **state)
{
    struct ring *r = *state;
    enum { PARENTS = 10, CHILDREN = ENTRIES * 10 };
    static struct burst parents[PARENTS], children[PARENTS][CHILDREN];
    int fd = temporary_file();
    struct ring_file f = { ring_register_file(r, fd) };
    unsigned left = PARENTS * (CHILDREN + 1);
    for (unsigned i = 0; i < PARENTS; i++) {
        for (unsigned j = 0; j < CHILDREN; j++)
            children[i][j] = (struct burst) { .op = noted_op(r, &left) };
        parents[i] = (struct burst) { .op = noted_op(r, &left), children[i], CHILDREN, f };
        parents[i].op.op.done = burst_done;
        ring_write(r, &parents[i].op.op, f, "x", 1, 0, 0);
    }
    ring_run(r, NULL, NULL);
    for (unsigned i = 0; i < PARENTS; i++) {
        for (unsigned j = 0; j < CHILDREN; j++)
            assert_int_equal(children[i][j].op.times, 1);
    }
    ring_unregister_file(r, f.slot);
    close(fd);
}

static void registered_memory_and_memory_outside_it(void **state)
{
    const size_t arena_bytes = 1 * MIB;
    uint8_t *arena = mmap(NULL, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(arena, MAP_FAILED);
    struct ring *r = open_ring(arena, arena_bytes);
    assert_null(strstr(log_text, "unregistered"));
    int fd = temporary_file();
    struct ring_file f = { ring_register_file(r, fd) };
    struct prng p = prng_seed(7);
    for (size_t i = 0; i < arena_bytes; i++)
        arena[i] = (uint8_t)prng_next(&p);
    static uint8_t outside[8192];
    unsigned left = 3;
    struct noted_op a = noted_op(r, &left), b = a, c = a;
    ring_write(r, &a.op, f, arena, 4096, 0, 0);
    ring_write(r, &b.op, f, arena + arena_bytes - 4096, 4096, 4096, RWF_DSYNC); /* up to its very end */
    memset(outside, 0x5a, sizeof(outside));
    ring_write(r, &c.op, f, outside, sizeof(outside), 8192, 0);
    ring_run(r, NULL, NULL);
    assert_int_equal(a.result, 4096);
    assert_int_equal(b.result, 4096);
    assert_int_equal(c.result, sizeof(outside));
    left = 2;
    ring_read(r, &a.op, f, arena + 65536, 8192, 0);
    ring_read(r, &b.op, f, outside, 4096, 4096);
    ring_run(r, NULL, NULL);
    assert_memory_equal(arena + 65536, arena, 4096);
    assert_memory_equal(arena + 65536 + 4096, arena + arena_bytes - 4096, 4096);
    assert_memory_equal(outside, arena + arena_bytes - 4096, 4096);
    left = 2;
    ring_fdatasync(r, &a.op, f);
    ring_fallocate(r, &b.op, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
    ring_run(r, NULL, NULL);
    assert_int_equal(a.result, 0);
    assert_int_equal(b.result, 0);
    ring_close(r);
    munmap(arena, arena_bytes);
    close(fd);
}

static void errors_come_back_as_results(void **state)
{
    struct ring *r = *state;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    struct ring_file f = { ring_register_file(r, fd) };
    unsigned left = 2;
    struct noted_op a = noted_op(r, &left), b = a;
    ring_write(r, &a.op, f, "x", 1, 0, 0);
    ring_write(r, &b.op, (struct ring_file) { f.slot == 0 ? 1 : 0 }, "x", 1, 0, 0); /* nothing registered there */
    ring_run(r, NULL, NULL);
    assert_int_equal(a.result, -EBADF);
    assert_int_equal(b.result, -EBADF);
    ring_unregister_file(r, f.slot);
    close(fd);
}

static void slots_run_out_and_come_back(void **state)
{
    struct ring *r = *state;
    int fd = temporary_file();
    int slots[FILES_MAX];
    for (unsigned i = 0; i < FILES_MAX; i++) {
        slots[i] = ring_register_file(r, fd);
        assert_in_range(slots[i], 0, FILES_MAX - 1);
    }
    assert_int_equal(ring_register_file(r, fd), -ENFILE);
    ring_unregister_file(r, slots[5]);
    assert_int_equal(ring_register_file(r, 1 << 20), -EBADF); /* and the slot is not lost */
    assert_int_equal(ring_register_file(r, fd), slots[5]);
    for (unsigned i = 0; i < FILES_MAX; i++)
        ring_unregister_file(r, slots[i]);
    close(fd);
}

/* --- cancelling --- */

static void cancel_ends_a_receive_that_would_wait_for_ever(void **state)
{
    struct ring *r = *state;
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
    struct ring_file f = { ring_register_file(r, s[0]) };
    char byte;
    struct iovec iov = { &byte, 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    unsigned left = 1;
    struct noted_op op = noted_op(r, &left);
    /* Before the kernel has seen it, and after. */
    for (unsigned i = 0; i < 2; i++) {
        left = 1;
        ring_recvmsg(r, &op.op, f, &msg, 0);
        if (i == 1)
            run_for(r, NS_PER_MS);
        assert_true(op.op.busy);
        ring_cancel(r, &op.op);
        ring_cancel(r, &op.op);
        assert_true(op.op.busy); /* `done` is not called from within */
        ring_run(r, NULL, NULL);
        assert_int_equal(op.result, -ECANCELED);
        assert_int_equal(op.times, i + 1);
    }
    ring_cancel(r, &op.op); /* not busy: harmless */
    ring_unregister_file(r, f.slot);
    close(s[0]);
    close(s[1]);
}

static void cancelling_many_more_than_the_queue_holds(void **state)
{
    struct ring *r = *state;
    enum { N = ENTRIES * 20 };
    static struct noted_op ops[N];
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    struct ring_file f = { ring_register_file(r, s[0]) };
    char byte;
    struct iovec iov = { &byte, 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    unsigned left = N;
    for (unsigned i = 0; i < N; i++) {
        ops[i] = noted_op(r, &left);
        ring_recvmsg(r, &ops[i].op, f, &msg, 0);
    }
    for (unsigned i = 0; i < N; i++)
        ring_cancel(r, &ops[i].op);
    ring_run(r, NULL, NULL);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(ops[i].result, -ECANCELED);
        assert_int_equal(ops[i].times, 1);
    }
    ring_unregister_file(r, f.slot);
    close(s[0]);
    close(s[1]);
}

static struct noted_op resubmitted;
static struct ring_file resubmit_file;
static struct msghdr resubmit_msg;

static void submits_another(struct ring_op *op, int32_t result)
{
    noted(op, result);
    struct noted_op *n = container_of(op, struct noted_op, op);
    resubmitted = noted_op(n->ring, NULL);
    ring_recvmsg(n->ring, &resubmitted.op, resubmit_file, &resubmit_msg, 0);
}

static void close_ends_all_that_is_in_flight(void **state)
{
    struct ring *r = open_ring(NULL, 0);
    enum { N = ENTRIES * 4 };
    static struct noted_op ops[N];
    int s[2], listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    struct ring_file f = { ring_register_file(r, s[0]) };
    char byte;
    struct iovec iov = { &byte, 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    resubmit_file = f;
    resubmit_msg = msg;
    struct noted_op accept = noted_op(r, NULL);
    accept.op.done = submits_another;
    ring_accept(r, &accept.op, listener);
    for (unsigned i = 0; i < N; i++) {
        ops[i] = noted_op(r, NULL);
        ring_recvmsg(r, &ops[i].op, f, &msg, 0);
    }
    struct order_timer timer = { .timer.fired = order_fired };
    ring_timer_set(r, &timer.timer, clock_ns() + NS_PER_S);
    run_for(r, NS_PER_MS);
    struct noted_op unseen = noted_op(r, NULL); /* not yet with the kernel */
    ring_recvmsg(r, &unseen.op, f, &msg, 0);
    ring_close(r);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(ops[i].times, 1);
        assert_int_equal(ops[i].result, -ECANCELED);
    }
    assert_int_equal(accept.result, -ECANCELED);
    assert_int_equal(resubmitted.times, 1);
    assert_int_equal(resubmitted.result, -ECANCELED);
    assert_int_equal(unseen.result, -ECANCELED);
    assert_false(timer.timer.set);
    close(s[0]);
    close(s[1]);
    close(listener);
}

/* --- sockets --- */

static void accept_connect_send_receive(void **state)
{
    struct ring *r = *state;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t addr_bytes = sizeof(addr);
    assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(listener, 4), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&addr, &addr_bytes), 0);

    unsigned left = 2;
    struct noted_op accept = noted_op(r, &left), connect = accept;
    int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    ring_accept(r, &accept.op, listener);
    run_for(r, NS_PER_MS); /* it waits, although the listener does not block */
    assert_true(accept.op.busy);
    ring_connect(r, &connect.op, client, &addr, sizeof(addr));
    ring_run(r, NULL, NULL);
    assert_int_equal(connect.result, 0);
    int server = accept.result;
    assert_true(server >= 0);
    assert_true(fcntl(server, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(server, F_GETFD) & FD_CLOEXEC);

    /* More than the socket buffers hold, so that sending must wait for receiving. */
    enum { BYTES = 8 << 20 };
    uint8_t *out = malloc(BYTES), *in = malloc(BYTES);
    struct prng p = prng_seed(3);
    for (size_t i = 0; i < BYTES; i += 8) {
        uint64_t v = prng_next(&p);
        memcpy(out + i, &v, 8);
    }
    struct ring_file cf = { ring_register_file(r, client) }, sf = { ring_register_file(r, server) };
    size_t sent = 0, received = 0;
    struct noted_op send = noted_op(r, NULL), recv = noted_op(r, NULL);
    unsigned one = 1;
    send.left = &one;
    recv.left = &one;
    struct iovec out_iov, in_iov;
    struct msghdr out_msg = { .msg_iov = &out_iov, .msg_iovlen = 1 };
    struct msghdr in_msg = { .msg_iov = &in_iov, .msg_iovlen = 1 };
    while (received < BYTES) {
        if (!send.op.busy && sent < BYTES) {
            out_iov = (struct iovec) { out + sent, BYTES - sent };
            ring_sendmsg(r, &send.op, cf, &out_msg, 0);
        }
        if (!recv.op.busy) {
            in_iov = (struct iovec) { in + received, BYTES - received };
            ring_recvmsg(r, &recv.op, sf, &in_msg, 0);
        }
        one = 1;
        unsigned sends = send.times, recvs = recv.times;
        ring_run(r, NULL, NULL);
        if (send.times > sends) {
            assert_true(send.result > 0);
            sent += (size_t)send.result;
        }
        if (recv.times > recvs) {
            assert_true(recv.result > 0);
            received += (size_t)recv.result;
        }
    }
    assert_memory_equal(in, out, BYTES);

    /* The end of the stream, and a send to nobody: an error, not a signal. */
    shutdown(client, SHUT_WR);
    one = 1;
    ring_recvmsg(r, &recv.op, sf, &in_msg, 0);
    in_iov = (struct iovec) { in, 1 };
    ring_run(r, NULL, NULL);
    assert_int_equal(recv.result, 0);
    one = 1;
    out_iov = (struct iovec) { out, 1 };
    ring_sendmsg(r, &send.op, cf, &out_msg, 0);
    ring_run(r, NULL, NULL);
    assert_int_equal(send.result, -EPIPE);

    /* Nobody listens any more. */
    ring_unregister_file(r, cf.slot);
    ring_unregister_file(r, sf.slot);
    close(listener);
    close(client);
    close(server);
    client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    left = 1;
    ring_connect(r, &connect.op, client, &addr, sizeof(addr));
    ring_run(r, NULL, NULL);
    assert_int_equal(connect.result, -ECONNREFUSED);
    close(client);
    free(out);
    free(in);
}

static unsigned idle_calls;
static void count_idle(void *ctx) { idle_calls++; }

static void idle_once_a_turn_and_time_passes(void **state)
{
    struct ring *r = *state;
    struct stop_timer s = { .timer.fired = stop_fired, .ring = r };
    uint64_t start = clock_ns();
    idle_calls = 0;
    ring_timer_set(r, &s.timer, start + 2 * NS_PER_MS);
    ring_run(r, count_idle, NULL);
    assert_true(s.fired);
    /* Two at best: once before sleeping; the kernel may wake the loop for nothing, but it never spins. */
    assert_in_range(idle_calls, 1, 5);
    assert_true(ring_now_ns(r) >= start + 2 * NS_PER_MS);
}

/* Sends every byte back. */
static void *echo(void *fd)
{
    char c;
    while (read(*(int *)fd, &c, 1) == 1 && write(*(int *)fd, &c, 1) == 1) {}
    return NULL;
}

/* However close the events were: when they stop, the loop sleeps, and uses no CPU. */
static void a_loop_that_was_busy_falls_asleep(void **state)
{
    struct ring *r = *state;
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, echo, &s[1]), 0);
    struct ring_file f = { ring_register_file(r, s[0]) };
    char c = 0;
    struct iovec iov = { &c, 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    for (unsigned i = 0; i < 500; i++) {
        unsigned left = 2;
        struct noted_op out = noted_op(r, &left), in = noted_op(r, &left);
        ring_sendmsg(r, &out.op, f, &msg, 0);
        ring_recvmsg(r, &in.op, f, &msg, 0);
        ring_run(r, NULL, NULL);
        assert_int_equal(in.result, 1);
    }
    struct timespec before, after;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    run_for(r, 200 * NS_PER_MS);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    int64_t used_ns = (after.tv_sec - before.tv_sec) * (int64_t)NS_PER_S + after.tv_nsec - before.tv_nsec;
    assert_in_range(used_ns, 0, 20 * NS_PER_MS);
    shutdown(s[0], SHUT_RDWR);
    pthread_join(thread, NULL);
    ring_unregister_file(r, f.slot);
    close(s[0]);
    close(s[1]);
}

static void stop_idle(void *ctx) { ring_stop(ctx); }

static void stopping_while_idle_submits_and_does_not_sleep(void **state)
{
    struct ring *r = *state;
    int fd = temporary_file();
    struct ring_file f = { ring_register_file(r, fd) };
    struct noted_op op = noted_op(r, NULL);
    ring_write(r, &op.op, f, "z", 1, 0, 0);
    ring_run(r, stop_idle, r); /* would hang for ever if it slept with nothing to come */
    ring_run(r, stop_idle, r);
    if (op.op.busy) {
        unsigned left = 1;
        op.left = &left;
        ring_run(r, NULL, NULL);
    }
    assert_int_equal(op.result, 1);
    ring_unregister_file(r, f.slot);
    close(fd);
}

/* --- what the system may refuse --- */

/* Makes one system call fail in this process, as a container's profile does. */
static void forbid(unsigned call, unsigned code)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { ARRAY_LEN(program), program };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        _exit(77);
}

static void refusals_say_what_is_wrong(void **state)
{
    static const struct {
        unsigned code;
        const char *says;
    } cases[] = { { EPERM, "seccomp" }, { ENOSYS, "seccomp" }, { ENOMEM, "no memory" } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            forbid(SYS_io_uring_setup, cases[i].code);
            struct ring_config config = { .entries = ENTRIES };
            struct err err = { 0 };
            struct ring *r = ring_open(&config, &err);
            bool good = !r && err.code == -(int)cases[i].code && strstr(err.text, cases[i].says);
            if (!good)
                fprintf(stderr, "%s\n", err.text);
            _exit(good ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77) {
            printf("skipped: seccomp filters cannot be set here\n");
            skip();
        }
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

static void without_locked_memory_it_goes_on_unregistered(void **state)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        /* Root is exempt from the limit. */
        if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
            _exit(77);
        struct rlimit limit = { 65536, 65536 };
        setrlimit(RLIMIT_MEMLOCK, &limit);
        const size_t bytes = 4 * MIB;
        void *arena = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        struct ring *r = open_ring(arena, bytes);
        bool good = strstr(log_text, "LimitMEMLOCK") != NULL;
        if (!good)
            fprintf(stderr, "log: %s\n", log_text);
        int fd = temporary_file();
        struct ring_file f = { ring_register_file(r, fd) };
        unsigned left = 1;
        struct noted_op op = noted_op(r, &left);
        ring_write(r, &op.op, f, arena, 4096, 0, 0);
        ring_run(r, NULL, NULL);
        good = good && op.result == 4096;
        ring_close(r);
        _exit(good ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        printf("skipped: cannot become an ordinary user\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void an_older_way_is_logged_once_each(void **state)
{
    struct ring *r = open_ring(NULL, 0);
    printf("mode %u: %s\n", modes_skipped, ring_mode(r));
    unsigned lines = 0;
    for (const char *c = log_text; *c; c++)
        lines += *c == '\n';
    assert_true(lines >= modes_skipped && lines < MODES);
    if (lines > 0)
        assert_non_null(strstr(log_text, "going on with"));
    ring_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(timers_fire_in_order_and_not_early, setup, teardown),
        cmocka_unit_test_setup_teardown(a_timer_moved_or_cleared_does_not_fire_when_it_was_due, setup, teardown),
        cmocka_unit_test_setup_teardown(a_timer_can_clear_another_that_is_due_too, setup, teardown),
        cmocka_unit_test_setup_teardown(a_timer_that_is_always_due_does_not_hold_up_the_loop, setup, teardown),
        cmocka_unit_test_setup_teardown(tasks_of_many_threads_run_once_in_order_on_the_rings_thread, setup, teardown),
        cmocka_unit_test(close_runs_what_was_posted),
        cmocka_unit_test(close_lets_a_poster_leave_first),
        cmocka_unit_test_setup_teardown(far_more_than_the_queue_holds, setup, teardown),
        cmocka_unit_test_setup_teardown(overflow_from_within_a_completion, setup, teardown),
        cmocka_unit_test(registered_memory_and_memory_outside_it),
        cmocka_unit_test_setup_teardown(errors_come_back_as_results, setup, teardown),
        cmocka_unit_test_setup_teardown(slots_run_out_and_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(cancel_ends_a_receive_that_would_wait_for_ever, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelling_many_more_than_the_queue_holds, setup, teardown),
        cmocka_unit_test(close_ends_all_that_is_in_flight),
        cmocka_unit_test_setup_teardown(accept_connect_send_receive, setup, teardown),
        cmocka_unit_test_setup_teardown(idle_once_a_turn_and_time_passes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_loop_that_was_busy_falls_asleep, setup, teardown),
        cmocka_unit_test_setup_teardown(stopping_while_idle_submits_and_does_not_sleep, setup, teardown),
        cmocka_unit_test(refusals_say_what_is_wrong),
        cmocka_unit_test(without_locked_memory_it_goes_on_unregistered),
        cmocka_unit_test(an_older_way_is_logged_once_each),
    };
    struct ring_config config = { .entries = ENTRIES };
    struct err err = { 0 };
    struct ring *r = ring_open(&config, &err);
    if (!r) {
        printf("skipped: %s\n", err.text);
        return 77;
    }
    ring_close(r);
    int failed = 0;
    for (modes_skipped = 0; modes_skipped < MODES; modes_skipped++)
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed;
}
