/* lockstep-bench floor: the ping-pong between two processes of this machine, or between two machines. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "bench/commands.h"
#include "bench/latency.h"
#include "bench/pingpong.h"
#include "blockdev/ring/prompt.h"
#include "repl/base/scoped.h"

#define TURNS_DEFAULT 100000
#define TURNS_MAX 100000000
#define WARM_UP_SHARE 10 /* one turn in so many, before those that count */
#define HELLO_TIMEOUT_S 5

struct options {
    struct pingpong_shape shape;
    size_t turns;
    const char *listen;
    const char *connect;
    bool json;
};

static const char help[] =
    "usage: lockstep-bench floor [--size BYTES] [--reply BYTES] [--count TURNS] [--json]\n"
    "       lockstep-bench floor --listen ADDRESS:PORT\n"
    "       lockstep-bench floor --connect ADDRESS:PORT [--size BYTES] [--reply BYTES] [--count TURNS] [--json]\n\n"
    "Sends SIZE bytes (4096) over TCP, waits for REPLY bytes (64), and again, COUNT times (100000); prints the\n"
    "quantiles of the round trip. Without an address: between two processes over loopback. Between two machines:\n"
    "--listen on one (it serves one client after the other until it is ended), --connect on the other.\n";

static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && text[0] != '-' && *value >= min && *value <= max;
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option long_options[] = {
        { "size", required_argument, NULL, 's' },    { "reply", required_argument, NULL, 'r' },
        { "count", required_argument, NULL, 'n' },   { "listen", required_argument, NULL, 'l' },
        { "connect", required_argument, NULL, 'c' }, { "json", no_argument, NULL, 'j' },
        { "help", no_argument, NULL, 'h' },          { 0 },
    };
    uint64_t value;
    int c;
    while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        switch (c) {
        case 's':
        case 'r':
            if (!parse_number(optarg, 1, PINGPONG_BYTES_MAX, &value)) {
                fprintf(stderr, "lockstep-bench floor: %s: expected 1 to %" PRIu64 " bytes\n", optarg,
                        PINGPONG_BYTES_MAX);
                return BENCH_USED_WRONGLY;
            }
            *(c == 's' ? &o->shape.request_bytes : &o->shape.reply_bytes) = (uint32_t)value;
            break;
        case 'n':
            if (!parse_number(optarg, 1, TURNS_MAX, &value)) {
                fprintf(stderr, "lockstep-bench floor: %s: expected 1 to %d turns\n", optarg, TURNS_MAX);
                return BENCH_USED_WRONGLY;
            }
            o->turns = value;
            break;
        case 'l': o->listen = optarg; break;
        case 'c': o->connect = optarg; break;
        case 'j': o->json = true; break;
        case 'h': fputs(help, stdout); exit(BENCH_DONE);
        default: fputs(help, stderr); return BENCH_USED_WRONGLY;
        }
    }
    if (optind != argc || (o->listen && o->connect)) {
        fputs(help, stderr);
        return BENCH_USED_WRONGLY;
    }
    return BENCH_DONE;
}

/* A TCP socket that listens on or is connected to ADDRESS:PORT ([v6]:PORT), or a negative errno. */
static int open_socket(const char *where, bool listening, struct err *err)
{
    CLEANUP_FREE char *host = strdup(where);
    char *port = host ? strrchr(host, ':') : NULL;
    if (!port)
        return err_set(err, -EINVAL, "%s: expected ADDRESS:PORT", where);
    *port++ = '\0';
    char *name = host;
    size_t length = strlen(name);
    if (length >= 2 && name[0] == '[' && name[length - 1] == ']') {
        name[length - 1] = '\0';
        name++;
    }

    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = listening ? AI_PASSIVE : 0 };
    struct addrinfo *found;
    int rc = getaddrinfo(*name ? name : NULL, port, &hints, &found);
    if (rc)
        return err_set(err, -EINVAL, "%s: %s", where, gai_strerror(rc));

    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    if (fd < 0)
        rc = -errno;
    else if (listening) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        rc = bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, 16) ? -errno : fd;
    } else {
        rc = connect(fd, found->ai_addr, found->ai_addrlen) ? -errno : fd;
    }
    freeaddrinfo(found);
    if (rc < 0) {
        if (fd >= 0)
            close(fd);
        return err_set(err, rc, "%s: %s", where, strerror(-rc));
    }
    return rc;
}

static void set_no_delay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int accept_client(int listen_fd, struct err *err)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return err_set(err, -errno, "accept: %s", strerror(errno));
    set_no_delay(fd);
    struct timeval hello_timeout = { .tv_sec = HELLO_TIMEOUT_S };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &hello_timeout, sizeof(hello_timeout));
    return fd;
}

static int failed(const struct err *err)
{
    fprintf(stderr, "lockstep-bench floor: %s\n", err->text);
    return BENCH_FAILED;
}

static int serve(const char *where)
{
    struct err err = { 0 };
    CLEANUP_CLOSE int listen_fd = open_socket(where, true, &err);
    if (listen_fd < 0)
        return failed(&err);
    fprintf(stderr, "serving on %s\n", where);
    for (;;) {
        CLEANUP_CLOSE int fd = accept_client(listen_fd, &err);
        if (fd < 0)
            return failed(&err);
        if (pingpong_serve(fd, &err) < 0)
            failed(&err); /* this client's trouble; the next may do better */
    }
}

static void print_text(const struct options *o, const struct latency_summary *s)
{
    printf("%u bytes one way, %u back, %zu turns (ring: %s)\n", o->shape.request_bytes, o->shape.reply_bytes, s->count,
           pingpong_ring_kind());
    printf("  min %.1f us   p50 %.1f us   p99 %.1f us   p99.9 %.1f us   max %.1f us   mean %.1f us\n",
           (double)s->min_ns / 1e3, (double)s->p50_ns / 1e3, (double)s->p99_ns / 1e3, (double)s->p999_ns / 1e3,
           (double)s->max_ns / 1e3, (double)s->mean_ns / 1e3);
}

static void print_json(const struct options *o, const struct latency_summary *s)
{
    printf("{\"version\":1,\"request_bytes\":%u,\"reply_bytes\":%u,\"turns\":%zu,\"ring\":\"%s\",\"min_ns\":%" PRIu64
           ",\"p50_ns\":%" PRIu64 ",\"p99_ns\":%" PRIu64 ",\"p999_ns\":%" PRIu64 ",\"max_ns\":%" PRIu64
           ",\"mean_ns\":%" PRIu64 "}\n",
           o->shape.request_bytes, o->shape.reply_bytes, s->count, pingpong_ring_kind(), s->min_ns, s->p50_ns,
           s->p99_ns, s->p999_ns, s->max_ns, s->mean_ns);
}

static int measure(const struct options *o, const char *where)
{
    struct err err = { 0 };
    CLEANUP_CLOSE int fd = open_socket(where, false, &err);
    if (fd < 0)
        return failed(&err);
    set_no_delay(fd);

    size_t warm_up = o->turns / WARM_UP_SHARE;
    CLEANUP_FREE uint64_t *samples_ns = calloc(warm_up + o->turns, sizeof(*samples_ns));
    if (!samples_ns) {
        fprintf(stderr, "lockstep-bench floor: no memory for %zu samples\n", warm_up + o->turns);
        return BENCH_FAILED;
    }
    if (pingpong_measure(fd, o->shape, samples_ns, warm_up + o->turns, &err) < 0)
        return failed(&err);
    struct latency_summary summary = latency_summarise(samples_ns + warm_up, o->turns);
    (o->json ? print_json : print_text)(o, &summary);
    return BENCH_DONE;
}

/* Both ends on this machine, each in a process and on a ring of its own, as two nodes are. */
static int measure_loopback(const struct options *o)
{
    struct err err = { 0 };
    CLEANUP_CLOSE int listen_fd = open_socket("127.0.0.1:0", true, &err);
    if (listen_fd < 0)
        return failed(&err);
    struct sockaddr_in bound = { 0 };
    socklen_t bound_bytes = sizeof(bound);
    if (getsockname(listen_fd, (struct sockaddr *)&bound, &bound_bytes) < 0) {
        fprintf(stderr, "lockstep-bench floor: getsockname: %s\n", strerror(errno));
        return BENCH_FAILED;
    }

    pid_t parent = getpid();
    pid_t server = fork();
    if (server < 0) {
        fprintf(stderr, "lockstep-bench floor: fork: %s\n", strerror(errno));
        return BENCH_FAILED;
    }
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(BENCH_FAILED);
        int fd = accept_client(listen_fd, &err);
        _exit(fd < 0 || pingpong_serve(fd, &err) < 0 ? failed(&err) : BENCH_DONE);
    }

    char where[32];
    snprintf(where, sizeof(where), "127.0.0.1:%u", ntohs(bound.sin_port));
    int code = measure(o, where);
    int status;
    waitpid(server, &status, 0); /* it ends when the connection does */
    return code == BENCH_DONE && status != 0 ? BENCH_FAILED : code;
}

int floor_main(int argc, char **argv)
{
    /* As the daemons' threads do: the floor must not lie higher for want of it. */
    thread_be_prompt();
    struct options o = { .shape = { 4096, 64 }, .turns = TURNS_DEFAULT };
    int code = parse(argc, argv, &o);
    if (code != BENCH_DONE)
        return code;
    if (o.listen)
        return serve(o.listen);
    return o.connect ? measure(&o, o.connect) : measure_loopback(&o);
}
