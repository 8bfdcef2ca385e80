/* The floor of a mirrored write, as an io_uring ping-pong over TCP.
 *
 * This stands on plain liburing and not on blockdev/ring: it is what blockdev/ring is measured against, so nothing is
 * here but the two operations of a turn and the one io_uring_enter() that submits both and waits for the second. */
#include "bench/pingpong.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/clock.h"
#include "repl/base/endian.h"
#include "repl/base/scoped.h"

#define HELLO_MAGIC UINT64_C(0x31676e6f50676e50) /* "PngPong1" */

struct hello {
    le64 magic;
    le32 request_bytes;
    le32 reply_bytes;
};

#define SQ_ENTRIES 8

enum { SOCKET_SLOT = 0 };
enum turn_op { TURN_SEND = 1, TURN_RECV = 2 };

struct turns {
    struct io_uring ring;
    bool quiet_sends;    /* a send that succeeds leaves no completion behind (Linux 5.17) */
    bool deferred;       /* single issuer, deferred task work (Linux 6.1) */
    unsigned recv_flags; /* IORING_RECVSEND_POLL_FIRST where the kernel has it (all that have `deferred` do) */
};

static bool last_ring_deferred;

const char *pingpong_ring_kind(void) { return last_ring_deferred ? "single issuer, deferred task work" : "plain"; }

static int turns_open(struct turns *t, int fd, struct err *err)
{
    struct io_uring_params params = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN };
    int rc = io_uring_queue_init_params(SQ_ENTRIES, &t->ring, &params);
    t->deferred = rc == 0;
    if (rc == -EINVAL) {
        params = (struct io_uring_params) { 0 };
        rc = io_uring_queue_init_params(SQ_ENTRIES, &t->ring, &params);
    }
    if (rc < 0)
        return err_set(err, rc,
                       "io_uring is not usable here: %s (kernel.io_uring_disabled, a seccomp filter, or an old "
                       "kernel)",
                       strerror(-rc));
    last_ring_deferred = t->deferred;
    t->quiet_sends = params.features & IORING_FEAT_CQE_SKIP;
    t->recv_flags = t->deferred ? IORING_RECVSEND_POLL_FIRST : 0;
    rc = io_uring_register_files(&t->ring, &fd, 1);
    if (rc < 0) {
        io_uring_queue_exit(&t->ring);
        return err_set(err, rc, "registering the socket: %s", strerror(-rc));
    }
    io_uring_register_ring_fd(&t->ring); /* spares a file look-up a turn; kernels before 5.18 do without */
    return 0;
}

static void turns_queue_send(struct turns *t, const void *data, uint32_t bytes)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&t->ring); /* never NULL: a turn queues two of SQ_ENTRIES */
    io_uring_prep_send(sqe, SOCKET_SLOT, data, bytes, MSG_WAITALL | MSG_NOSIGNAL);
    io_uring_sqe_set_data64(sqe, TURN_SEND);
    sqe->flags = IOSQE_FIXED_FILE | (t->quiet_sends ? IOSQE_CQE_SKIP_SUCCESS : 0);
}

static void turns_queue_recv(struct turns *t, void *data, uint32_t bytes)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&t->ring);
    io_uring_prep_recv(sqe, SOCKET_SLOT, data, bytes, MSG_WAITALL);
    io_uring_sqe_set_data64(sqe, TURN_RECV);
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->ioprio = (uint16_t)t->recv_flags;
}

/* Submits what is queued and waits until the receive of `recv_bytes` is done. Returns 1, 0 when the peer closed before
 * the first byte, or a negative errno. */
static int turns_run(struct turns *t, uint32_t send_bytes, uint8_t *recv_data, uint32_t recv_bytes)
{
    bool sending = send_bytes > 0 && !t->quiet_sends;
    uint32_t received = 0;

    for (;;) {
        unsigned pending = (received < recv_bytes) + (unsigned)sending;
        if (pending == 0)
            return 1;
        int rc = io_uring_submit_and_wait(&t->ring, pending);
        if (rc < 0 && rc != -EINTR)
            return rc;

        struct io_uring_cqe *cqe;
        while (io_uring_peek_cqe(&t->ring, &cqe) == 0) {
            enum turn_op op = (enum turn_op)cqe->user_data;
            int32_t result = cqe->res;
            io_uring_cqe_seen(&t->ring, cqe);
            if (result < 0)
                return result;
            if (op == TURN_SEND) {
                if ((uint32_t)result != send_bytes)
                    return -EPIPE;
                sending = false;
                continue;
            }
            if (result == 0)
                return received == 0 ? 0 : -ECONNRESET;
            received += (uint32_t)result;
            if (received < recv_bytes) /* kernels before 5.19 end a MSG_WAITALL receive early */
                turns_queue_recv(t, recv_data + received, recv_bytes - received);
        }
    }
}

static bool shape_valid(struct pingpong_shape shape)
{
    return shape.request_bytes >= 1 && shape.request_bytes <= PINGPONG_BYTES_MAX && shape.reply_bytes >= 1 &&
           shape.reply_bytes <= PINGPONG_BYTES_MAX;
}

static int serve_turns(struct turns *t, struct pingpong_shape shape, uint8_t *request, const uint8_t *reply)
{
    turns_queue_recv(t, request, shape.request_bytes);
    int rc = turns_run(t, 0, request, shape.request_bytes);
    while (rc > 0) {
        turns_queue_send(t, reply, shape.reply_bytes);
        turns_queue_recv(t, request, shape.request_bytes);
        rc = turns_run(t, shape.reply_bytes, request, shape.request_bytes);
    }
    return rc;
}

int pingpong_serve(int fd, struct err *err)
{
    struct hello hello;
    ssize_t got = recv(fd, &hello, sizeof(hello), MSG_WAITALL);
    if (got != (ssize_t)sizeof(hello) || from_le64(hello.magic) != HELLO_MAGIC)
        return err_set(err, -EPROTO, "the client did not begin with a ping-pong hello");
    struct pingpong_shape shape = { from_le32(hello.request_bytes), from_le32(hello.reply_bytes) };
    if (!shape_valid(shape))
        return err_set(err, -EPROTO, "the client asks for %u bytes out and %u back: 1 to %llu are possible",
                       shape.request_bytes, shape.reply_bytes, (unsigned long long)PINGPONG_BYTES_MAX);

    CLEANUP_FREE uint8_t *request = malloc(shape.request_bytes);
    CLEANUP_FREE uint8_t *reply = calloc(1, shape.reply_bytes);
    if (!request || !reply)
        return err_set(err, -ENOMEM, "no memory for %u bytes", shape.request_bytes + shape.reply_bytes);

    struct turns turns;
    int rc = turns_open(&turns, fd, err);
    if (rc < 0)
        return rc;
    rc = serve_turns(&turns, shape, request, reply);
    io_uring_queue_exit(&turns.ring);
    return rc < 0 ? err_set(err, rc, "serving: %s", strerror(-rc)) : 0;
}

static int measure_turns(struct turns *t, struct pingpong_shape shape, const uint8_t *request, uint8_t *reply,
                         uint64_t *samples_ns, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t start_ns = clock_ns();
        turns_queue_send(t, request, shape.request_bytes);
        turns_queue_recv(t, reply, shape.reply_bytes);
        int rc = turns_run(t, shape.request_bytes, reply, shape.reply_bytes);
        if (rc <= 0)
            return rc < 0 ? rc : -ECONNRESET;
        samples_ns[i] = clock_ns() - start_ns;
    }
    return 0;
}

int pingpong_measure(int fd, struct pingpong_shape shape, uint64_t *samples_ns, size_t count, struct err *err)
{
    assert(shape_valid(shape));
    CLEANUP_FREE uint8_t *request = calloc(1, shape.request_bytes);
    CLEANUP_FREE uint8_t *reply = malloc(shape.reply_bytes);
    if (!request || !reply)
        return err_set(err, -ENOMEM, "no memory for %u bytes", shape.request_bytes + shape.reply_bytes);

    struct hello hello = { to_le64(HELLO_MAGIC), to_le32(shape.request_bytes), to_le32(shape.reply_bytes) };
    if (send(fd, &hello, sizeof(hello), MSG_NOSIGNAL) != (ssize_t)sizeof(hello))
        return err_set(err, -errno, "greeting the server: %s", strerror(errno));

    struct turns turns;
    int rc = turns_open(&turns, fd, err);
    if (rc < 0)
        return rc;
    rc = measure_turns(&turns, shape, request, reply, samples_ns, count);
    io_uring_queue_exit(&turns.ring);
    return rc < 0 ? err_set(err, rc, "measuring: %s", strerror(-rc)) : 0;
}
