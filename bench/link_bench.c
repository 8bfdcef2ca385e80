/* lockstep-bench link: what the production link makes of a round trip, beside the floor's ping-pong: write frames one
 * way, acks back, between two processes over loopback; no engine, no disk. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/commands.h"
#include "bench/latency.h"
#include "repl/base/checksum.h"
#include "repl/base/clock.h"
#include "repl/link/link.h"

#define COUNT_DEFAULT 100000
#define DEPTH_MAX 1024
#define WARM_UP_SHARE 10
#define PATIENCE_NS (10 * NS_PER_S)

static const char help[] = "usage: lockstep-bench link [--size BYTES] [--depth FRAMES] [--count FRAMES] [--json]\n\n"
                           "Sends COUNT writes (100000) of SIZE bytes (4096; up to 1 MiB) over two links on loopback,\n"
                           "DEPTH (1) of them unacknowledged; prints the quantiles from send to ack.\n";

struct counters {
    uint64_t turns; /* system calls of the ring: one a turn */
    uint64_t frames;
};

struct node {
    struct ring *ring;
    struct buf_pool pool;
    struct link *link;
    struct counters *counters;
    bool up;
    bool server;
    struct ring_timer patience;

    /* Client. */
    uint32_t bytes;
    uint32_t depth;
    uint64_t count;
    uint64_t sent, acked;
    uint64_t *began_ns; /* by frame, then its latency */
    struct buf *payload;
    uint64_t payload_check;
    uint64_t first_ns, last_ns;
    struct counters at_first;
};

static void send_more(struct node *n)
{
    while (n->up && !n->server && n->sent < n->count && n->sent - n->acked < n->depth) {
        struct frame f = {
            .kind = FRAME_WRITE,
            .lsn = n->sent + 1,
            .tag = (uint32_t)n->sent,
            .payload_bytes = n->bytes,
            .length_bytes = n->bytes,
            .payload_check = n->payload_check,
        };
        n->began_ns[n->sent++] = clock_ns();
        link_send(n->link, &f, n->payload);
    }
}

static void on_frame(struct node *n, const struct event *ev)
{
    if (n->server) {
        n->counters->frames++;
        struct frame ack = { .kind = FRAME_ACK, .lsn = ev->frame.frame.lsn, .tag = ev->frame.frame.tag };
        link_send(n->link, &ack, NULL);
        if (ev->frame.payload)
            buf_put(ev->frame.payload);
        return;
    }
    uint64_t now = clock_ns();
    n->began_ns[n->acked] = now - n->began_ns[n->acked];
    n->acked++;
    if (n->acked == n->count / WARM_UP_SHARE) {
        n->first_ns = now;
        n->at_first = *n->counters;
    }
    n->last_ns = now;
    send_more(n);
}

static void on_event(void *ctx, const struct event *ev)
{
    struct node *n = ctx;
    switch (ev->kind) {
    case EV_HELLO: link_ready(n->link); break;
    case EV_PEER_READY: break;
    case EV_SESSION_UP:
        n->up = true;
        ring_timer_clear(n->ring, &n->patience);
        send_more(n);
        break;
    case EV_SESSION_DOWN:
        if (!n->server)
            fprintf(stderr, "lockstep-bench link: %s\n", ev->down.reason);
        ring_stop(n->ring);
        break;
    case EV_FRAME: on_frame(n, ev); break;
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
    case EV_HEARD:
    case EV_REGISTER:
    case EV_SWITCHOVER:
    case EV_HELD_GONE:
    case EV_ADOPT: break;
    }
}

static void on_hello(void *ctx, struct hello *h)
{
    const struct node *n = ctx;
    *h = (struct hello) { .version = PROTOCOL_VERSION,
                          .volume = "bench",
                          .window_frames = DEPTH_MAX,
                          .window_bytes = DEPTH_MAX * MIB,
                          .granule_bytes = 4096 };
    snprintf(h->node, sizeof(h->node), "%s", n->server ? "server" : "client");
    snprintf(h->peer, sizeof(h->peer), "%s", n->server ? "client" : "server");
}

static void on_note(void *ctx, enum note_level level, const char *text)
{
    const struct node *n = ctx;
    /* The end of the run is an end of the connection, too. */
    if (level != NOTE_INFO && !n->up)
        fprintf(stderr, "lockstep-bench link: %s\n", text);
}

static void idle(void *ctx)
{
    struct node *n = ctx;
    n->counters->turns++;
    if (buf_pool_take_starved(&n->pool))
        link_resume(n->link);
    link_flush(n->link);
    if (!n->server && n->acked == n->count)
        ring_stop(n->ring);
}

static void out_of_patience(struct ring_timer *t)
{
    struct node *n = container_of(t, struct node, patience);
    fprintf(stderr, "lockstep-bench link: no connection: %s\n", session_reason(link_session(n->link)));
    ring_stop(n->ring);
}

static void closed(void *ctx) { ring_stop(((struct node *)ctx)->ring); }

static bool open_node(struct node *n, const char *address, struct err *err)
{
    size_t pool_bytes = align_up((uint64_t)n->depth * n->bytes * 2, BUF_BYTES_MAX) + 8 * MIB;
    if (buf_pool_open(&n->pool, pool_bytes) < 0) {
        err_set(err, -ENOMEM, "no memory for buffers");
        return false;
    }
    n->ring = ring_open(&(struct ring_config) { .entries = 256, .files_max = TRANSPORT_FILES_MAX }, err);
    if (!n->ring)
        return false;
    struct transport *t = transport_tcp_open(&(struct transport_config) { .ring = n->ring,
                                                                          .pool = &n->pool,
                                                                          .path_count = 1,
                                                                          .listen = { address },
                                                                          .connect = { address },
                                                                          .initiator = !n->server },
                                             err);
    if (!t)
        return false;
    struct link_config config = {
        .ring = n->ring,
        .pool = &n->pool,
        .transport = t,
        .ctx = n,
        .event = on_event,
        .hello = on_hello,
        .note = on_note,
        .session = {
            .volume = "bench",
            .node = n->server ? "server" : "client",
            .peer = n->server ? "client" : "server",
            .initiator = !n->server,
            .path_count = 1,
            .path_names = { address },
            .dead_after_ns = 2 * NS_PER_S,
            .retry_min_ns = 20 * NS_PER_MS,
            .retry_max_ns = 100 * NS_PER_MS,
            .refused_retry_ns = NS_PER_S,
        },
    };
    n->link = link_open(&config, err);
    if (!n->link)
        return false;
    n->patience.fired = out_of_patience;
    ring_timer_set(n->ring, &n->patience, clock_ns() + PATIENCE_NS);
    link_start(n->link);
    return true;
}

static bool run_node(struct node *n, const char *address)
{
    struct err err = { 0 };
    if (!open_node(n, address, &err)) {
        fprintf(stderr, "lockstep-bench link: %s\n", err.text);
        return false;
    }
    if (!n->server) {
        n->payload = buf_get(&n->pool, n->bytes, 0);
        memset(n->payload->data, 0x5a, n->bytes);
        n->payload_check = checksum64(n->payload->data, n->bytes);
    }
    ring_run(n->ring, idle, n);
    bool done = n->server ? n->up : n->acked == n->count;
    ring_timer_clear(n->ring, &n->patience);
    if (n->payload)
        buf_put(n->payload);
    link_close(n->link, closed, n);
    ring_run(n->ring, NULL, NULL);
    ring_close(n->ring);
    buf_pool_close(&n->pool);
    return done;
}

static bool free_address(char *text, size_t bytes)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool found = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
                 getsockname(fd, (struct sockaddr *)&a, &length) == 0;
    if (fd >= 0)
        close(fd);
    snprintf(text, bytes, "127.0.0.1:%u", ntohs(a.sin_port));
    return found;
}

static void report(struct node *n, const struct counters *client, const struct counters *server, bool json)
{
    uint64_t cold = n->count / WARM_UP_SHARE;
    uint64_t frames = n->count - cold;
    struct latency_summary s = latency_summarise(n->began_ns + cold, frames);
    double per_s = (double)frames * 1e9 / (double)(n->last_ns - n->first_ns);
    double turns = (double)(client->turns - n->at_first.turns) / (double)frames;
    double server_turns = (double)server->turns / (double)server->frames;
    if (json)
        printf("{\"version\":1,\"size_bytes\":%u,\"depth\":%u,\"frames\":%" PRIu64 ",\"min_ns\":%" PRIu64
               ",\"p50_ns\":%" PRIu64 ",\"p99_ns\":%" PRIu64 ",\"p999_ns\":%" PRIu64 ",\"max_ns\":%" PRIu64
               ",\"frames_per_s\":%.0f,\"client_syscalls_per_frame\":%.2f,\"server_syscalls_per_frame\":%.2f}\n",
               n->bytes, n->depth, frames, s.min_ns, s.p50_ns, s.p99_ns, s.p999_ns, s.max_ns, per_s, turns,
               server_turns);
    else
        printf("%u bytes, %u in flight, %" PRIu64 " frames\n"
               "  p50 %.1f us   p99 %.1f us   p99.9 %.1f us   max %.1f us   %.0f frames/s   %.0f MB/s\n"
               "  system calls a frame: sender %.2f, receiver %.2f\n",
               n->bytes, n->depth, frames, (double)s.p50_ns / 1e3, (double)s.p99_ns / 1e3, (double)s.p999_ns / 1e3,
               (double)s.max_ns / 1e3, per_s, per_s * n->bytes / 1e6, turns, server_turns);
}

static int measure(struct node *n, bool json)
{
    char address[64];
    struct counters *counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    n->began_ns = calloc(n->count, sizeof(*n->began_ns));
    if (counters == MAP_FAILED || !n->began_ns || !free_address(address, sizeof(address))) {
        perror("lockstep-bench link");
        return BENCH_FAILED;
    }
    pid_t parent = getpid();
    pid_t child = fork();
    if (child < 0) {
        perror("lockstep-bench link: fork");
        return BENCH_FAILED;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(BENCH_FAILED);
        n->server = true;
        n->counters = &counters[1];
        _exit(run_node(n, address) ? BENCH_DONE : BENCH_FAILED);
    }
    n->counters = &counters[0];
    bool done = run_node(n, address);
    int status;
    waitpid(child, &status, 0);
    if (done)
        report(n, &counters[0], &counters[1], json);
    free(n->began_ns);
    munmap(counters, 4096);
    return done && status == 0 ? BENCH_DONE : BENCH_FAILED;
}

int link_main(int argc, char **argv)
{
    static const struct option options[] = {
        { "size", required_argument, NULL, 's' },  { "depth", required_argument, NULL, 'd' },
        { "count", required_argument, NULL, 'n' }, { "json", no_argument, NULL, 'j' },
        { "help", no_argument, NULL, 'h' },        { 0 },
    };
    struct node n = { .bytes = 4096, .depth = 1, .count = COUNT_DEFAULT };
    bool json = false;
    int c;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 's': n.bytes = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'd': n.depth = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'n': n.count = strtoull(optarg, NULL, 10); break;
        case 'j': json = true; break;
        case 'h': fputs(help, stdout); return BENCH_DONE;
        default: fputs(help, stderr); return BENCH_USED_WRONGLY;
        }
    }
    if (optind != argc || n.bytes == 0 || n.bytes % BLOCK_BYTES || n.bytes > FRAME_PAYLOAD_BYTES_MAX || n.depth == 0 ||
        n.depth > DEPTH_MAX || n.count < WARM_UP_SHARE) {
        fputs(help, stderr);
        return BENCH_USED_WRONGLY;
    }
    return measure(&n, json);
}
