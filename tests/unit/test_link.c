/* The link over real sockets: two nodes on one ring, over loopback, with a bad network in between where a test asks
 * for it. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/checksum.h"
#include "repl/base/clock.h"
#include "repl/base/prng.h"
#include "repl/link/hello_codec.h"
#include "repl/link/link.h"
#include "tests/unit/unit.h"

#define DEAD_AFTER_NS (400 * NS_PER_MS)
#define RETRY_MIN_NS (10 * NS_PER_MS)
#define RETRY_MAX_NS (100 * NS_PER_MS)
#define REFUSED_RETRY_NS (300 * NS_PER_MS)
#define PATIENCE_NS (20 * NS_PER_S)
#define WRITE_BYTES_MAX (1 * MIB)

struct node {
    struct lab *lab;
    const char *name;
    struct buf_pool pool;
    struct link *link;
    struct transport *fault;
    bool closed;

    /* What it says and does. */
    const char *volume;
    const char *refuse; /* says so to every hello */
    bool hold_verdict;
    bool keep_payloads; /* does not give buffers back */

    /* What it saw. */
    bool judging;
    bool up;
    unsigned hellos, ups, downs;
    char last_down[512];
    char notes[16384];
    struct hello peer;

    /* Sender: a window of unacknowledged writes, as the engine keeps one. */
    uint64_t to_send;
    uint64_t next_lsn;
    uint64_t acked; /* all up to this one */
    uint32_t window;
    uint32_t bytes[4]; /* sizes, taken in turn */
    unsigned sizes;

    /* Receiver. */
    uint64_t applied; /* lsn */
    uint64_t writes;
    uint64_t flushes;
    struct buf *kept[256];
    unsigned kept_count;
};

struct lab {
    struct ring *ring;
    struct node a, b;
    char address[SESSION_PATHS_MAX][64];
    const char *via; /* what A connects to on path 0 instead of B's address */
    unsigned paths;
    bool (*until)(struct lab *lab);
    struct ring_timer patience;
    bool timed_out;
    unsigned turns;
};

/* ------------------------------------------------------------------------------------------------- the nodes */

static void fill(uint8_t *data, size_t bytes, uint64_t lsn)
{
    struct prng p = prng_seed(lsn);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t v = i % 4096 == 0 ? prng_next(&p) : lsn + i;
        memcpy(data + i, &v, 8);
    }
}

static void pump(struct node *n)
{
    while (n->up && n->next_lsn <= n->to_send && n->next_lsn - n->acked <= n->window) {
        uint32_t bytes = n->bytes[n->next_lsn % n->sizes];
        struct frame f = { .kind = FRAME_WRITE, .lsn = n->next_lsn, .tag = (uint32_t)n->next_lsn };
        f.offset_bytes = n->next_lsn * WRITE_BYTES_MAX;
        f.length_bytes = f.payload_bytes = bytes;
        struct buf *b = buf_get(&n->pool, bytes, 0);
        if (!b)
            return;
        fill(b->data, bytes, n->next_lsn);
        f.payload_check = checksum64(b->data, bytes);
        link_send(n->link, &f, b);
        buf_put(b);
        n->next_lsn++;
    }
}

static void on_write(struct node *n, const struct event *ev)
{
    const struct frame *f = &ev->frame.frame;
    static uint8_t expected[WRITE_BYTES_MAX];
    assert_true(n->up);
    assert_non_null(ev->frame.payload);
    /* After a reconnect the sender starts again with what was not acknowledged: never beyond what we have. */
    assert_true(f->lsn <= n->applied + 1);
    fill(expected, f->payload_bytes, f->lsn);
    assert_memory_equal(ev->frame.payload->data, expected, f->payload_bytes);
    assert_int_equal((uintptr_t)ev->frame.payload->data % BUF_BYTES_MIN, 0);
    if (f->lsn == n->applied + 1)
        n->applied++;
    n->writes++;
    if (n->keep_payloads)
        n->kept[n->kept_count++] = ev->frame.payload;
    else
        buf_put(ev->frame.payload);
    struct frame ack = { .kind = FRAME_ACK, .lsn = f->lsn, .tag = f->tag };
    if (!n->keep_payloads)
        link_send(n->link, &ack, NULL);
}

static void on_event(void *ctx, const struct event *ev)
{
    struct node *n = ctx;
    switch (ev->kind) {
    case EV_HELLO:
        assert_false(n->judging);
        assert_false(n->up);
        n->judging = true;
        n->hellos++;
        n->peer = *ev->hello;
        if (n->refuse)
            link_refuse(n->link, n->refuse);
        else if (!n->hold_verdict)
            link_ready(n->link);
        break;
    case EV_PEER_READY: assert_true(n->judging && !n->up); break;
    case EV_SESSION_UP:
        assert_true(n->judging);
        assert_false(n->up);
        n->up = true;
        n->ups++;
        n->next_lsn = n->acked + 1;
        break;
    case EV_SESSION_DOWN:
        assert_true(n->judging);
        n->judging = false;
        n->up = false;
        n->downs++;
        snprintf(n->last_down, sizeof(n->last_down), "%s", ev->down.reason);
        break;
    case EV_FRAME:
        assert_true(n->up);
        if (ev->frame.frame.kind == FRAME_WRITE) {
            on_write(n, ev);
        } else if (ev->frame.frame.kind == FRAME_ACK) {
            assert_true(ev->frame.frame.lsn <= n->acked + 1);
            if (ev->frame.frame.lsn == n->acked + 1)
                n->acked++;
        } else {
            assert_int_equal(ev->frame.frame.kind, FRAME_FLUSH);
            n->flushes++;
        }
        break;
    case EV_HEARD: break;
    case EV_REQUEST:
    case EV_DISK_DONE:
    case EV_META_DONE:
    case EV_META_PAGE_DONE:
    case EV_TICK:
    case EV_VERIFY:
    case EV_RESIZE:
    case EV_GROW_DONE:
    case EV_RESOLVE:
    case EV_KEEP_DONE:
    case EV_PROMOTE:
    case EV_DEMOTE:
    case EV_DETACH:
    case EV_REGISTER:
    case EV_SWITCHOVER:
    case EV_HELD_GONE:
    case EV_ADOPT: fail_msg("the link gave an event that is not its own"); break;
    }
}

static void on_hello(void *ctx, struct hello *out)
{
    struct node *n = ctx;
    *out = (struct hello) {
        .version = PROTOCOL_VERSION, .window_frames = 32, .window_bytes = 32 * MIB, .granule_bytes = 4096
    };
    snprintf(out->volume, sizeof(out->volume), "%s", n->volume);
    snprintf(out->node, sizeof(out->node), "%s", n->name);
    snprintf(out->peer, sizeof(out->peer), "%s", n == &n->lab->a ? n->lab->b.name : n->lab->a.name);
    out->epoch = 7;
}

static void on_note(void *ctx, enum note_level level, const char *text)
{
    struct node *n = ctx;
    size_t used = strlen(n->notes);
    if (used + strlen(text) + 2 < sizeof(n->notes))
        snprintf(n->notes + used, sizeof(n->notes) - used, "%s\n", text);
    if (getenv("LINK_NOTES"))
        fprintf(stderr, "%s: %s\n", n->name, text);
}

static void idle(void *ctx)
{
    struct lab *lab = ctx;
    lab->turns++;
    struct node *nodes[] = { &lab->a, &lab->b };
    for (unsigned i = 0; i < 2; i++) {
        struct node *n = nodes[i];
        if (!n->link)
            continue;
        pump(n);
        if (buf_pool_take_starved(&n->pool))
            link_resume(n->link);
        link_flush(n->link);
    }
    if (lab->until(lab))
        ring_stop(lab->ring);
}

static void out_of_patience(struct ring_timer *t)
{
    struct lab *lab = container_of(t, struct lab, patience);
    lab->timed_out = true;
    ring_stop(lab->ring);
}

#define RUN(lab, condition)                                                                                            \
    do {                                                                                                               \
        if (!run(lab, condition))                                                                                      \
            fail_msg("still not %s; a: \"%s\"; b: \"%s\"", #condition, session_reason(link_session((lab)->a.link)),    \
                     session_reason(link_session((lab)->b.link)));                                                     \
    } while (0)

static bool run(struct lab *lab, bool (*until)(struct lab *lab))
{
    lab->until = until;
    lab->timed_out = false;
    /* The ring's own clock stands still between runs. */
    ring_timer_set(lab->ring, &lab->patience, clock_ns() + PATIENCE_NS);
    ring_run(lab->ring, idle, lab);
    ring_timer_clear(lab->ring, &lab->patience);
    return !lab->timed_out;
}

static uint64_t wait_until_ns;

static bool time_is_over(struct lab *lab) { return ring_now_ns(lab->ring) >= wait_until_ns; }

static void wake_up(struct ring_timer *t) {}

static void run_for(struct lab *lab, uint64_t ns)
{
    struct ring_timer t = { .fired = wake_up };
    wait_until_ns = clock_ns() + ns;
    ring_timer_set(lab->ring, &t, wait_until_ns);
    assert_true(run(lab, time_is_over));
    ring_timer_clear(lab->ring, &t);
}

/* ------------------------------------------------------------------------------------------------- the lab */

static bool node_is_closed(struct lab *lab) { return lab->a.closed && lab->b.closed; }

static void closed(void *ctx)
{
    struct node *n = ctx;
    n->closed = true;
}

static void open_node(struct lab *lab, struct node *n, const char *name, size_t pool_bytes)
{
    n->lab = lab;
    n->name = name;
    n->volume = "gold42";
    n->window = 32;
    n->bytes[0] = 4096;
    n->sizes = 1;
    n->next_lsn = 1;
    assert_int_equal(buf_pool_open(&n->pool, pool_bytes), 0);
}

static void start_link(struct lab *lab, struct node *n)
{
    bool initiator = n == &lab->a;
    struct err err = { 0 };
    struct transport_config tc = {
        .ring = lab->ring, .pool = &n->pool, .path_count = lab->paths, .initiator = initiator
    };
    struct link_config lc = { .ring = lab->ring, .pool = &n->pool, .ctx = n };
    for (unsigned i = 0; i < lab->paths; i++) {
        tc.listen[i] = lab->address[i];
        tc.connect[i] = i == 0 && lab->via ? lab->via : lab->address[i];
        lc.session.path_names[i] = lab->address[i];
    }
    struct transport *tcp = transport_tcp_open(&tc, &err);
    if (!tcp)
        fail_msg("%s", err.text);
    struct transport_fault_config none = { .seed = 1 };
    n->fault = transport_filter_fault(lab->ring, tcp, &none, &err);
    assert_non_null(n->fault);
    lc.transport = n->fault;
    lc.event = on_event;
    lc.hello = on_hello;
    lc.note = on_note;
    lc.session.volume = n->volume;
    lc.session.node = n->name;
    lc.session.peer = initiator ? lab->b.name : lab->a.name;
    lc.session.initiator = initiator;
    lc.session.path_count = lab->paths;
    lc.session.dead_after_ns = DEAD_AFTER_NS;
    lc.session.retry_min_ns = RETRY_MIN_NS;
    lc.session.retry_max_ns = RETRY_MAX_NS;
    lc.session.refused_retry_ns = REFUSED_RETRY_NS;
    lc.session.seed = initiator;
    n->link = link_open(&lc, &err);
    assert_non_null(n->link);
    assert_string_equal(link_transport_name(n->link), "tcp");
    link_start(n->link);
}

static bool both_up(struct lab *lab) { return lab->a.up && lab->b.up; }
static bool both_down(struct lab *lab) { return !lab->a.up && !lab->b.up; }
static bool all_acked(struct lab *lab) { return lab->a.acked == lab->a.to_send; }

static struct lab *lab_open(unsigned paths, size_t pool_bytes)
{
    static unsigned port;
    struct lab *lab = calloc(1, sizeof(*lab));
    struct err err = { 0 };
    struct ring_config rc = { .entries = 256, .files_max = 2 * TRANSPORT_FILES_MAX };
    lab->ring = ring_open(&rc, &err);
    if (!lab->ring) {
        printf("skipped: no io_uring here: %s\n", err.text);
        exit(77);
    }
    lab->patience.fired = out_of_patience;
    lab->paths = paths;
    port++;
    for (unsigned i = 0; i < paths; i++)
        snprintf(lab->address[i], sizeof(lab->address[i]), "%s:%u", own_loopback(),
                 20000 + port * SESSION_PATHS_MAX + i);
    open_node(lab, &lab->a, "paris-a", pool_bytes);
    open_node(lab, &lab->b, "paris-b", pool_bytes);
    return lab;
}

static void lab_close(struct lab *lab)
{
    struct node *nodes[] = { &lab->a, &lab->b };
    for (unsigned i = 0; i < 2; i++) {
        nodes[i]->closed = !nodes[i]->link;
        while (nodes[i]->kept_count)
            buf_put(nodes[i]->kept[--nodes[i]->kept_count]);
        if (nodes[i]->link)
            link_close(nodes[i]->link, closed, nodes[i]);
        nodes[i]->link = NULL;
    }
    assert_true(run(lab, node_is_closed));
    /* Would tell of a leaked buffer. */
    buf_pool_close(&lab->a.pool);
    buf_pool_close(&lab->b.pool);
    ring_close(lab->ring);
    free(lab);
}

static struct lab *lab_up(unsigned paths, size_t pool_bytes)
{
    struct lab *lab = lab_open(paths, pool_bytes);
    start_link(lab, &lab->b);
    start_link(lab, &lab->a);
    RUN(lab, both_up);
    return lab;
}

static int dial(struct lab *lab, unsigned path)
{
    char host[64];
    snprintf(host, sizeof(host), "%s", lab->address[path]);
    char *colon = strchr(host, ':');
    *colon = 0;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1)) };
    assert_int_equal(inet_pton(AF_INET, host, &to.sin_addr), 1);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    /* Completes in the kernel; the ring need not run. */
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static bool was_closed(int fd)
{
    uint8_t byte[4096];
    ssize_t n;
    while ((n = recv(fd, byte, sizeof(byte), MSG_DONTWAIT)) > 0)
        ;
    return n == 0 || errno == ECONNRESET;
}

static void set_faults(struct node *n, struct transport_fault_config config)
{
    config.seed = 42;
    transport_filter_fault_set(n->fault, &config);
}

static void assert_noted(const struct node *n, const char *text)
{
    if (!strstr(n->notes, text))
        fail_msg("%s did not note \"%s\", but: %s", n->name, text, n->notes);
}

/* ------------------------------------------------------------------------------------------------- tests */

static void test_up_and_data(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    assert_int_equal(session_state(link_session(lab->a.link)), LINK_CONNECTED);
    assert_string_equal(lab->a.peer.node, "paris-b");
    assert_string_equal(lab->b.peer.node, "paris-a");
    assert_int_equal(lab->b.peer.epoch, 7);
    lab->a.to_send = 5000;
    RUN(lab, all_acked);
    assert_int_equal(lab->b.writes, 5000);
    assert_int_equal(lab->a.ups, 1);
    /* Quiet for longer than dead_after: heartbeats keep it alive, and measure. */
    run_for(lab, 2 * DEAD_AFTER_NS);
    assert_int_equal(lab->a.downs, 0);
    assert_true(session_rtt_ns(link_session(lab->a.link)) > 0);
    lab_close(lab);
}

static void test_large_and_mixed(void **state)
{
    struct lab *lab = lab_up(1, 64 * MIB);
    lab->a.window = 8;
    lab->a.bytes[0] = WRITE_BYTES_MAX;
    lab->a.to_send = 100;
    RUN(lab, all_acked);
    lab->a.window = 24;
    lab->a.sizes = 4;
    lab->a.bytes[0] = 512;
    lab->a.bytes[1] = 65536;
    lab->a.bytes[2] = 4096;
    lab->a.bytes[3] = WRITE_BYTES_MAX - 512;
    lab->a.to_send = 600;
    RUN(lab, all_acked);
    assert_int_equal(lab->b.writes, 600);
    assert_int_equal(lab->a.ups, 1);
    lab_close(lab);
}

static bool b_got_flushes(struct lab *lab) { return lab->b.flushes == 1000; }

static void test_many_bare_frames(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    for (unsigned i = 0; i < 1000; i++)
        link_send(lab->a.link, &(struct frame) { .kind = FRAME_FLUSH, .tag = i }, NULL);
    RUN(lab, b_got_flushes);
    lab_close(lab);
}

static bool b_is_judging(struct lab *lab) { return lab->b.judging && lab->a.judging; }

static void test_verdict_may_take_long(void **state)
{
    struct lab *lab = lab_open(1, 16 * MIB);
    lab->b.hold_verdict = true;
    start_link(lab, &lab->b);
    start_link(lab, &lab->a);
    RUN(lab, b_is_judging);
    run_for(lab, 3 * DEAD_AFTER_NS);
    assert_int_equal(lab->a.downs, 0);
    assert_false(lab->a.up);
    link_ready(lab->b.link);
    assert_false(lab->b.up); /* not from within the call */
    RUN(lab, both_up);
    assert_int_equal(lab->a.hellos, 1);
    lab_close(lab);
}

static bool b_came_back(struct lab *lab) { return both_up(lab) && lab->b.ups == 2 && lab->a.ups == 2; }

static void test_drop_and_reconnect(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    lab->a.to_send = 100;
    link_drop(lab->b.link, "tested");
    assert_true(lab->b.up); /* learns of it from the loop */
    RUN(lab, b_came_back);
    assert_non_null(strstr(lab->b.last_down, "tested"));
    assert_non_null(strstr(lab->a.last_down, "paris-b ended the connection: tested"));
    RUN(lab, all_acked);
    lab_close(lab);
}

static bool one_is_closed(struct lab *lab) { return lab->a.closed || lab->b.closed; }
static bool one_is_down(struct lab *lab) { return !lab->a.up || !lab->b.up; }

static void restart(struct lab *lab, struct node *n, struct node *other)
{
    link_close(n->link, closed, n);
    n->link = NULL;
    n->up = n->judging = false;
    n->closed = false;
    assert_true(run(lab, one_is_closed));
    if (other->up) {
        n->up = true; /* one_is_down() looks at the other */
        assert_true(run(lab, one_is_down));
        n->up = false;
    }
    assert_int_equal(session_state(link_session(other->link)), LINK_CONNECTING);
    assert_non_null(strstr(other->last_down, "disconnected by its operator"));
    n->closed = false;
    start_link(lab, n);
    RUN(lab, both_up);
}

static void test_restart_of_a_node(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    restart(lab, &lab->a, &lab->b);
    restart(lab, &lab->b, &lab->a);
    lab->a.to_send = 10;
    RUN(lab, all_acked);
    lab_close(lab);
}

static void test_close_at_any_time(void **state)
{
    for (unsigned ms = 0; ms < 12; ms++) {
        struct lab *lab = lab_open(2, 16 * MIB);
        start_link(lab, &lab->b);
        /* Looked up, connecting to nobody, or on the way up. */
        if (ms % 3 == 0)
            snprintf(lab->address[0], sizeof(lab->address[0]), "nobody.invalid:1");
        if (ms % 3 == 1)
            snprintf(lab->address[0], sizeof(lab->address[0]), "127.0.0.1:1");
        start_link(lab, &lab->a);
        lab->a.to_send = 1000;
        if (ms > 0)
            run_for(lab, ms * NS_PER_MS / 2);
        lab_close(lab);
    }
}

static bool a_refused(struct lab *lab) { return lab->a.hellos >= 2 && lab->a.downs == lab->a.hellos; }

static void test_refused_then_accepted(void **state)
{
    struct lab *lab = lab_open(1, 16 * MIB);
    lab->b.refuse = "the sizes differ: 1 GiB here, 2 GiB there";
    start_link(lab, &lab->b);
    start_link(lab, &lab->a);
    RUN(lab, a_refused);
    assert_int_equal(session_state(link_session(lab->a.link)), LINK_REFUSED);
    assert_int_equal(session_state(link_session(lab->b.link)), LINK_REFUSED);
    assert_string_equal(session_reason(link_session(lab->a.link)),
                        "paris-b refuses: the sizes differ: 1 GiB here, 2 GiB there");
    assert_int_equal(lab->b.hellos, lab->b.downs);
    lab->b.refuse = NULL;
    RUN(lab, both_up);
    assert_string_equal(session_reason(link_session(lab->a.link)), "");
    lab_close(lab);
}

static bool a_was_refused(struct lab *lab) { return session_state(link_session(lab->a.link)) == LINK_REFUSED; }

static void test_other_volume(void **state)
{
    struct lab *lab = lab_open(1, 16 * MIB);
    lab->a.volume = "silver7";
    start_link(lab, &lab->b);
    start_link(lab, &lab->a);
    RUN(lab, a_was_refused);
    assert_string_equal(session_reason(link_session(lab->a.link)),
                        "paris-b refuses: this is volume gold42 on paris-b, not volume silver7");
    assert_int_equal(lab->b.hellos, 0);
    assert_int_equal(session_state(link_session(lab->b.link)), LINK_REFUSED);
    assert_noted(&lab->b, "not volume silver7");
    lab_close(lab);
}

static bool a_lost_it(struct lab *lab) { return lab->a.downs >= 1; }

static void test_corrupt_payload(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    set_faults(&lab->b, (struct transport_fault_config) { .corrupt_per_million = 20000 });
    lab->a.to_send = 300;
    RUN(lab, a_lost_it);
    assert_noted(&lab->b, "payload of a write from paris-a");
    assert_noted(&lab->b, "checksum is");
    set_faults(&lab->b, (struct transport_fault_config) { 0 });
    RUN(lab, all_acked);
    assert_int_equal(lab->b.applied, 300);
    lab_close(lab);
}

static void test_bad_network(void **state)
{
    struct lab *lab = lab_up(2, 32 * MIB);
    struct transport_fault_config bad = {
        .drop_per_million = 3000,
        .corrupt_per_million = 3000,
        .cut_per_million = 3000,
        .delay_min_ns = 100 * NS_PER_US,
        .delay_max_ns = 3 * NS_PER_MS,
    };
    set_faults(&lab->a, bad);
    set_faults(&lab->b, bad);
    lab->a.to_send = 1500;
    RUN(lab, all_acked);
    assert_int_equal(lab->b.applied, 1500);
    assert_true(lab->a.downs > 0);
    set_faults(&lab->a, (struct transport_fault_config) { 0 });
    set_faults(&lab->b, (struct transport_fault_config) { 0 });
    RUN(lab, both_up);
    lab_close(lab);
}

static bool a_has_measured_it(struct lab *lab) { return session_rtt_ns(link_session(lab->a.link)) >= 5 * NS_PER_MS; }

static void test_delay(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    struct transport_fault_config late = { .delay_min_ns = 20 * NS_PER_MS, .delay_max_ns = 20 * NS_PER_MS };
    set_faults(&lab->a, late);
    set_faults(&lab->b, late);
    lab->a.to_send = 1;
    uint64_t before = clock_ns();
    RUN(lab, all_acked);
    assert_true(ring_now_ns(lab->ring) - before >= 40 * NS_PER_MS);
    RUN(lab, a_has_measured_it);
    lab_close(lab);
}

static void test_stall(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    uint64_t before = ring_now_ns(lab->ring); /* of the turn in which the last was heard, or soon after */
    set_faults(&lab->a, (struct transport_fault_config) { .stall = true });
    set_faults(&lab->b, (struct transport_fault_config) { .stall = true });
    RUN(lab, both_down);
    assert_true(ring_now_ns(lab->ring) - before >= DEAD_AFTER_NS / 2);
    assert_non_null(strstr(lab->a.last_down, "nothing heard of paris-b"));
    set_faults(&lab->a, (struct transport_fault_config) { 0 });
    set_faults(&lab->b, (struct transport_fault_config) { 0 });
    RUN(lab, both_up);
    lab_close(lab);
}

/* A peer made by hand: frames of all kinds and sizes in one stream, cut up at random. */
#define STREAM_BYTES (12 * MIB)

static struct {
    int fd;
    uint8_t *bytes;
    size_t length, sent;
    uint64_t number, writes, flushes;
    size_t chunk_max;
    struct prng prng;
} stream;

static void stream_add(struct frame f, const void *payload)
{
    struct frame_wire wire;
    f.number = ++stream.number;
    frame_encode(&f, &wire);
    assert_true(stream.length + sizeof(wire) + f.payload_bytes <= STREAM_BYTES);
    memcpy(stream.bytes + stream.length, &wire, sizeof(wire));
    stream.length += sizeof(wire);
    if (f.payload_bytes)
        memcpy(stream.bytes + stream.length, payload, f.payload_bytes);
    stream.length += f.payload_bytes;
}

static void stream_add_write(uint32_t bytes)
{
    static uint8_t data[WRITE_BYTES_MAX];
    fill(data, bytes, ++stream.writes);
    struct frame f = { .kind = FRAME_WRITE, .lsn = stream.writes, .offset_bytes = 512 * stream.writes };
    f.length_bytes = f.payload_bytes = bytes;
    f.payload_check = checksum64(data, bytes);
    stream_add(f, data);
}

static void stream_build(uint64_t seed)
{
    stream.prng = prng_seed(seed);
    stream.length = stream.sent = 0;
    stream.number = stream.writes = stream.flushes = 0;
    stream.chunk_max = 1 + prng_below(&stream.prng, seed % 3 == 0 ? 200 : 30000);
    struct hello hello = {
        .version = PROTOCOL_VERSION,
        .volume = "gold42",
        .node = "paris-a",
        .peer = "paris-b",
        .window_frames = 1,
        .granule_bytes = 4096,
        .window_bytes = FRAME_PAYLOAD_BYTES_MAX,
    };
    uint8_t bytes[FRAME_HELLO_BYTES_MAX];
    struct frame f = { .kind = FRAME_HELLO };
    f.payload_bytes = (uint32_t)hello_encode(&hello, bytes);
    f.payload_check = checksum64(bytes, f.payload_bytes);
    stream_add(f, bytes);
    stream_add((struct frame) { .kind = FRAME_READY }, NULL);
    size_t wanted = stream.chunk_max < 200 ? STREAM_BYTES / 40 : STREAM_BYTES / 4;
    uint32_t size = 4096;
    while (stream.length < wanted) {
        /* Runs of equal sizes, as applications write, and changes between them. */
        if (prng_chance(&stream.prng, 100000))
            size = BLOCK_BYTES << prng_below(&stream.prng, 8);
        if (prng_chance(&stream.prng, 20000))
            size = (uint32_t)(BLOCK_BYTES * (1 + prng_below(&stream.prng, 600)));
        if (prng_chance(&stream.prng, 200000)) {
            stream.flushes++;
            stream_add((struct frame) { .kind = FRAME_FLUSH, .tag = 1 }, NULL);
        } else if (prng_chance(&stream.prng, 100000)) {
            stream_add((struct frame) { .kind = FRAME_HEARTBEAT }, NULL);
        } else {
            stream_add_write(size);
        }
    }
}

static bool stream_is_through(struct lab *lab)
{
    uint8_t acks[4096];
    while (recv(stream.fd, acks, sizeof(acks), MSG_DONTWAIT) > 0)
        ;
    size_t chunk = 1 + prng_below(&stream.prng, stream.chunk_max);
    if (chunk > stream.length - stream.sent)
        chunk = stream.length - stream.sent;
    ssize_t n = chunk ? send(stream.fd, stream.bytes + stream.sent, chunk, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (n > 0)
        stream.sent += (size_t)n;
    return lab->b.writes == stream.writes && lab->b.flushes == stream.flushes;
}

static void keep_turning(struct ring_timer *t);

static struct ring_timer turner = { .fired = keep_turning };
static struct ring *turned;

static void keep_turning(struct ring_timer *t) { ring_timer_set(turned, t, ring_now_ns(turned)); }

static void test_stream_cut_anywhere(void **state)
{
    stream.bytes = malloc(STREAM_BYTES);
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct lab *lab = lab_open(1, 8 * MIB);
        start_link(lab, &lab->b);
        stream_build(seed);
        stream.fd = dial(lab, 0);
        turned = lab->ring;
        ring_timer_set(lab->ring, &turner, 0);
        if (!run(lab, stream_is_through))
            fail_msg("seed %llu: %llu of %llu writes came through: %s", (unsigned long long)seed,
                     (unsigned long long)lab->b.writes, (unsigned long long)stream.writes, lab->b.notes);
        assert_int_equal(lab->b.applied, stream.writes);
        assert_int_equal(lab->b.downs, 0);
        ring_timer_clear(lab->ring, &turner);
        close(stream.fd);
        lab_close(lab);
    }
    free(stream.bytes);
}

static int stranger_fds[256];
static unsigned stranger_count;

static bool strangers_are_gone(struct lab *lab)
{
    unsigned open = 0;
    for (unsigned i = 0; i < stranger_count; i++) {
        if (stranger_fds[i] < 0)
            continue;
        if (was_closed(stranger_fds[i])) {
            close(stranger_fds[i]);
            stranger_fds[i] = -1;
        } else {
            open++;
        }
    }
    return open == 0;
}

static void test_garbage(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    stranger_count = 0;
    struct prng p = prng_seed(7);
    for (unsigned i = 0; i < 6; i++) {
        int fd = dial(lab, 0);
        uint64_t junk[512];
        for (unsigned k = 0; k < ARRAY_LEN(junk); k++)
            junk[k] = prng_next(&p);
        assert_int_equal(send(fd, junk, sizeof(junk), MSG_NOSIGNAL), sizeof(junk));
        stranger_fds[stranger_count++] = fd;
    }
    /* A frame, but no hello; and a hello that is none. */
    struct frame_wire wire;
    int fd = dial(lab, 0);
    frame_encode(&(struct frame) { .kind = FRAME_FLUSH, .number = 1 }, &wire);
    assert_int_equal(send(fd, &wire, sizeof(wire), MSG_NOSIGNAL), sizeof(wire));
    stranger_fds[stranger_count++] = fd;
    fd = dial(lab, 0);
    uint8_t not_hello[64];
    memset(not_hello, 0xff, sizeof(not_hello));
    frame_encode(&(struct frame) { .kind = FRAME_HELLO,
                                   .number = 1,
                                   .payload_bytes = sizeof(not_hello),
                                   .payload_check = checksum64(not_hello, sizeof(not_hello)) },
                 &wire);
    assert_int_equal(send(fd, &wire, sizeof(wire), MSG_NOSIGNAL), sizeof(wire));
    assert_int_equal(send(fd, not_hello, sizeof(not_hello), MSG_NOSIGNAL), sizeof(not_hello));
    stranger_fds[stranger_count++] = fd;
    lab->a.to_send = 1000;
    RUN(lab, all_acked);
    RUN(lab, strangers_are_gone);
    assert_int_equal(lab->a.downs, 0);
    assert_int_equal(lab->b.downs, 0);
    assert_noted(&lab->b, "turned away");
    lab_close(lab);
}

static void test_half_a_frame_then_silence(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    stranger_count = 0;
    int fd = dial(lab, 0);
    struct frame_wire wire;
    frame_encode(&(struct frame) { .kind = FRAME_HELLO, .number = 1, .payload_bytes = 100 }, &wire);
    assert_int_equal(send(fd, &wire, 40, MSG_NOSIGNAL), 40);
    stranger_fds[stranger_count++] = fd;
    fd = dial(lab, 0);
    assert_int_equal(send(fd, &wire, sizeof(wire), MSG_NOSIGNAL), sizeof(wire));
    stranger_fds[stranger_count++] = fd;
    RUN(lab, strangers_are_gone);
    assert_int_equal(lab->a.downs, 0);
    lab_close(lab);
}

static bool dials_done(struct lab *lab)
{
    if (stranger_count < 200)
        stranger_fds[stranger_count++] = dial(lab, 0);
    return stranger_count == 200;
}

static void test_flood(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    stranger_count = 0;
    /* A burst, and then one in every turn of the loop, while the peer works. */
    for (unsigned i = 0; i < 100; i++)
        stranger_fds[stranger_count++] = dial(lab, 0);
    lab->a.to_send = 20000;
    RUN(lab, dials_done);
    RUN(lab, all_acked);
    assert_int_equal(lab->a.downs, 0);
    assert_int_equal(lab->b.downs, 0);
    assert_true(lab->b.pool.free_bytes > 12 * MIB);
    /* Nor do they keep the peer from coming back. */
    link_drop(lab->a.link, "tested");
    RUN(lab, b_came_back);
    RUN(lab, strangers_are_gone);
    lab_close(lab);
}

static bool b_is_full(struct lab *lab) { return lab->b.pool.starved; }

static void test_back_pressure(void **state)
{
    struct lab *lab = lab_up(1, 1 * MIB);
    lab->b.keep_payloads = true;
    lab->a.window = 1000;
    lab->a.to_send = 1000;
    buf_pool_take_starved(&lab->b.pool);
    RUN(lab, b_is_full);
    /* Not receiving is not the peer's silence. */
    run_for(lab, 3 * DEAD_AFTER_NS);
    assert_int_equal(lab->b.downs, 0);
    assert_int_equal(lab->a.downs, 0);
    assert_true(lab->b.writes < 256);
    lab->b.keep_payloads = false;
    for (uint64_t lsn = lab->b.applied - lab->b.kept_count + 1; lab->b.kept_count > 0; lsn++) {
        buf_put(lab->b.kept[--lab->b.kept_count]);
        link_send(lab->b.link, &(struct frame) { .kind = FRAME_ACK, .lsn = lsn, .tag = (uint32_t)lsn }, NULL);
    }
    RUN(lab, all_acked);
    assert_int_equal(lab->b.writes, 1000);
    lab_close(lab);
}

static bool a_on_second_path(struct lab *lab) { return both_up(lab) && session_path(link_session(lab->a.link)) == 1; }

/* A slow line between A and B: so many bytes, so often. */
#define SLOW_BYTES 8192
#define SLOW_EVERY_MS 20

struct slow_line {
    int listen_fd;
    int to_b; /* connected already */
};

static void *slow_line_run(void *arg)
{
    const struct slow_line *line = arg;
    struct pollfd ends[2] = { { .fd = accept(line->listen_fd, NULL, NULL), .events = POLLIN },
                              { .fd = line->to_b, .events = POLLIN } };
    bool open = true;
    while (open && poll(ends, 2, -1) > 0) {
        for (unsigned i = 0; i < 2; i++) {
            uint8_t data[SLOW_BYTES];
            ssize_t n = ends[i].revents ? recv(ends[i].fd, data, sizeof(data), 0) : -1;
            for (ssize_t sent = 0, part = 0; sent < n && part >= 0; sent += part)
                part = send(ends[1 - i].fd, data + sent, (size_t)(n - sent), MSG_NOSIGNAL);
            open = open && (n > 0 || !ends[i].revents);
        }
        usleep(SLOW_EVERY_MS * 1000); /* the line's slowness, which is what is tested */
    }
    close(ends[0].fd);
    close(ends[1].fd);
    return NULL;
}

/* A payload that takes much longer than dead_after to come in is not silence. */
static void test_slow_line(void **state)
{
    struct lab *lab = lab_open(1, 16 * MIB);
    char via[64];
    snprintf(via, sizeof(via), "%.*s:%u", (int)strcspn(lab->address[0], ":"), lab->address[0], 19999);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(19999) };
    char host[64];
    snprintf(host, sizeof(host), "%.*s", (int)strcspn(via, ":"), via);
    assert_int_equal(inet_pton(AF_INET, host, &at.sin_addr), 1);
    struct slow_line line = { .listen_fd = socket(AF_INET, SOCK_STREAM, 0) };
    int on = 1;
    setsockopt(line.listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    assert_int_equal(bind(line.listen_fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(line.listen_fd, 1), 0);
    lab->via = via;
    start_link(lab, &lab->b);
    line.to_b = dial(lab, 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, slow_line_run, &line), 0);
    start_link(lab, &lab->a);
    RUN(lab, both_up);

    lab->a.bytes[0] = WRITE_BYTES_MAX / 2;
    lab->a.to_send = 1;
    uint64_t before = clock_ns();
    RUN(lab, all_acked);
    assert_true(clock_ns() - before > 2 * DEAD_AFTER_NS);
    assert_int_equal(lab->a.downs, 0);
    assert_int_equal(lab->b.downs, 0);
    lab_close(lab);
    pthread_join(thread, NULL);
    close(line.listen_fd);
}

static void test_path_failover(void **state)
{
    struct lab *lab = lab_open(2, 16 * MIB);
    /* Nobody listens on the first path. */
    char dead[64];
    snprintf(dead, sizeof(dead), "%s", lab->address[0]);
    char alive[64];
    snprintf(alive, sizeof(alive), "%s", lab->address[1]);
    snprintf(lab->address[0], sizeof(lab->address[0]), "%s", alive);
    lab->paths = 1;
    start_link(lab, &lab->b);
    lab->paths = 2;
    snprintf(lab->address[0], sizeof(lab->address[0]), "%s", dead);
    start_link(lab, &lab->a);
    RUN(lab, a_on_second_path);
    assert_noted(&lab->a, "Connection refused");
    lab->a.to_send = 10;
    RUN(lab, all_acked);
    lab_close(lab);
}

static bool a_next_path(struct lab *lab) { return lab->a.ups == 2 && a_on_second_path(lab); }

static void test_silent_path_is_left(void **state)
{
    struct lab *lab = lab_up(2, 16 * MIB);
    assert_int_equal(session_path(link_session(lab->a.link)), 0);
    set_faults(&lab->a, (struct transport_fault_config) { .stall = true });
    RUN(lab, a_lost_it);
    set_faults(&lab->a, (struct transport_fault_config) { 0 });
    RUN(lab, a_next_path);
    lab_close(lab);
}

static void test_stop_and_start(void **state)
{
    struct lab *lab = lab_up(1, 16 * MIB);
    link_stop(lab->b.link);
    assert_true(lab->b.up);
    RUN(lab, both_down);
    assert_int_equal(session_state(link_session(lab->b.link)), LINK_DOWN);
    RUN(lab, a_was_refused);
    assert_string_equal(session_reason(link_session(lab->a.link)),
                        "paris-b refuses: paris-b is disconnected by its operator");
    link_start(lab->b.link);
    RUN(lab, both_up);
    link_stop(lab->a.link);
    RUN(lab, both_down);
    run_for(lab, DEAD_AFTER_NS);
    assert_int_equal(session_state(link_session(lab->b.link)), LINK_CONNECTING);
    link_start(lab->a.link);
    RUN(lab, both_up);
    lab_close(lab);
}

/* In place of the C library's: "localhost" is an address that nobody else listens at, and a name server that does not
 * answer until it is told to. */
static sem_t name_server;

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **list)
{
    typedef int look_up_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    look_up_fn *real = (look_up_fn *)dlsym(RTLD_NEXT, "getaddrinfo");
    struct addrinfo wanted = *hints;
    if (host && strcmp(host, "slow.invalid") == 0 && !(hints->ai_flags & AI_NUMERICHOST)) {
        while (sem_wait(&name_server) != 0) {}
        host = "localhost";
    }
    bool ours = host && strcmp(host, "localhost") == 0;
    if (ours)
        wanted.ai_family = AF_INET;
    int rc = real(host, port, &wanted, list);
    for (struct addrinfo *a = rc == 0 && ours ? *list : NULL; a; a = a->ai_next)
        inet_pton(AF_INET, own_loopback(), &((struct sockaddr_in *)a->ai_addr)->sin_addr);
    return rc;
}

static void test_host_names(void **state)
{
    struct lab *lab = lab_open(2, 16 * MIB);
    char *port = strchr(lab->address[1], ':');
    char text[64];
    snprintf(text, sizeof(text), "localhost%s", port);
    snprintf(lab->address[1], sizeof(lab->address[1]), "%s", text);
    /* By name, after a name that no one has (RFC 2606). */
    snprintf(lab->address[0], sizeof(lab->address[0]), "%s", lab->address[1]);
    lab->paths = 1;
    start_link(lab, &lab->b);
    lab->paths = 2;
    snprintf(lab->address[0], sizeof(lab->address[0]), "nobody.invalid:1");
    start_link(lab, &lab->a);
    RUN(lab, a_on_second_path);
    lab_close(lab);
}

static bool a_says_still_looking(struct lab *lab)
{
    return strstr(session_reason(link_session(lab->a.link)), "still looking up slow.invalid:");
}

static bool a_is_closed(struct lab *lab) { return lab->a.closed; }

/* Several attempts to connect long: one look-up, and the attempt after it has what it found. */
static void test_slow_name_server(void **state)
{
    struct lab *lab = lab_open(1, 16 * MIB);
    char text[64];
    assert_int_equal(sem_init(&name_server, 0, 0), 0);
    snprintf(text, sizeof(text), "localhost%s", strchr(lab->address[0], ':'));
    snprintf(lab->address[0], sizeof(lab->address[0]), "%s", text);
    start_link(lab, &lab->b);
    snprintf(text, sizeof(text), "slow.invalid%s", strchr(lab->address[0], ':'));
    snprintf(lab->address[0], sizeof(lab->address[0]), "%s", text);
    start_link(lab, &lab->a);
    RUN(lab, a_says_still_looking);
    run_for(lab, 3 * DEAD_AFTER_NS);
    assert_false(lab->a.up);
    sem_post(&name_server);
    RUN(lab, both_up);
    /* The next time it is looked up anew; and one that runs while the link is closed is nobody's. */
    link_drop(lab->a.link, "as the test wants it");
    run_for(lab, DEAD_AFTER_NS);
    assert_false(lab->a.up);
    struct node *a = &lab->a;
    link_close(a->link, closed, a);
    a->link = NULL;
    RUN(lab, a_is_closed);
    sem_post(&name_server);
    a->closed = false;
    lab_close(lab);
    sem_destroy(&name_server);
}

static void test_bad_addresses(void **state)
{
    struct lab *lab = lab_open(1, 16 * MIB);
    static const char *const bad[] = { "nowhere", ":1", "127.0.0.1:", "127.0.0.1:123456789012345678" };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = { 0 };
        struct transport_config tc = { .ring = lab->ring, .pool = &lab->b.pool, .path_count = 1, .listen = { bad[i] } };
        assert_null(transport_tcp_open(&tc, &err));
        assert_non_null(strstr(err.text, bad[i]));
    }
    /* Taken. */
    struct err err = { 0 };
    start_link(lab, &lab->b);
    struct transport_config tc = {
        .ring = lab->ring, .pool = &lab->a.pool, .path_count = 1, .listen = { lab->address[0] }
    };
    assert_null(transport_tcp_open(&tc, &err));
    assert_non_null(strstr(err.text, "cannot listen on 127."));
    lab_close(lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_up_and_data),
        cmocka_unit_test(test_large_and_mixed),
        cmocka_unit_test(test_many_bare_frames),
        cmocka_unit_test(test_verdict_may_take_long),
        cmocka_unit_test(test_drop_and_reconnect),
        cmocka_unit_test(test_restart_of_a_node),
        cmocka_unit_test(test_close_at_any_time),
        cmocka_unit_test(test_refused_then_accepted),
        cmocka_unit_test(test_other_volume),
        cmocka_unit_test(test_corrupt_payload),
        cmocka_unit_test(test_bad_network),
        cmocka_unit_test(test_delay),
        cmocka_unit_test(test_stall),
        cmocka_unit_test(test_stream_cut_anywhere),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_half_a_frame_then_silence),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_slow_line),
        cmocka_unit_test(test_path_failover),
        cmocka_unit_test(test_silent_path_is_left),
        cmocka_unit_test(test_stop_and_start),
        cmocka_unit_test(test_host_names),
        cmocka_unit_test(test_slow_name_server),
        cmocka_unit_test(test_bad_addresses),
    };
    cmocka_set_test_filter(getenv("TEST")); /* to run one alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
