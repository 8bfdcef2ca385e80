/* The operations: each fills in its submission and hands it to the loop. */
#include <poll.h>
#include <sys/socket.h>

#include "blockdev/ring/ring_private.h"

static struct io_uring_sqe *begin(struct ring_op *op, uint16_t ready_events)
{
    assert(!op->busy);
    op->ready_events = ready_events;
    op->sqe = (struct io_uring_sqe) { 0 };
    return &op->sqe;
}

static void submit_on(struct ring *r, struct ring_op *op, struct ring_file f)
{
    assert(f.slot >= 0 && (unsigned)f.slot < r->files_max);
    op->sqe.flags |= IOSQE_FIXED_FILE;
    ring_submit_op(r, op);
}

/* The registered piece of the arena that holds all of [data, data + bytes), or -1. */
static int piece_of(const struct ring *r, const void *data, uint32_t bytes)
{
    size_t at = (uintptr_t)data - r->arena;
    if ((uintptr_t)data < r->arena || at >= r->arena_bytes || bytes > r->arena_bytes - at)
        return -1;
    size_t first = at / RING_ARENA_PIECE_BYTES;
    size_t last = (at + bytes - 1) / RING_ARENA_PIECE_BYTES;
    return first == last ? (int)first : -1;
}

void ring_read(struct ring *r, struct ring_op *op, struct ring_file f, void *data, uint32_t bytes,
               uint64_t offset_bytes)
{
    assert(bytes > 0);
    struct io_uring_sqe *sqe = begin(op, 0);
    int piece = piece_of(r, data, bytes);
    if (piece >= 0)
        io_uring_prep_read_fixed(sqe, f.slot, data, bytes, offset_bytes, piece);
    else
        io_uring_prep_read(sqe, f.slot, data, bytes, offset_bytes);
    submit_on(r, op, f);
}

static void write_op(struct ring *r, struct ring_op *op, struct ring_file f, const void *data, uint32_t bytes,
                     uint64_t offset_bytes, int rw_flags, uint8_t sqe_flags)
{
    assert(bytes > 0);
    struct io_uring_sqe *sqe = begin(op, 0);
    int piece = piece_of(r, data, bytes);
    if (piece >= 0)
        io_uring_prep_write_fixed(sqe, f.slot, data, bytes, offset_bytes, piece);
    else
        io_uring_prep_write(sqe, f.slot, data, bytes, offset_bytes);
    sqe->rw_flags = rw_flags;
    sqe->flags |= sqe_flags;
    submit_on(r, op, f);
}

void ring_write(struct ring *r, struct ring_op *op, struct ring_file f, const void *data, uint32_t bytes,
                uint64_t offset_bytes, int rw_flags)
{
    write_op(r, op, f, data, bytes, offset_bytes, rw_flags, 0);
}

void ring_write_aside(struct ring *r, struct ring_op *op, struct ring_file f, const void *data, uint32_t bytes,
                      uint64_t offset_bytes, int rw_flags)
{
    write_op(r, op, f, data, bytes, offset_bytes, rw_flags, IOSQE_ASYNC);
}

void ring_fdatasync(struct ring *r, struct ring_op *op, struct ring_file f)
{
    io_uring_prep_fsync(begin(op, 0), f.slot, IORING_FSYNC_DATASYNC);
    submit_on(r, op, f);
}

void ring_fallocate(struct ring *r, struct ring_op *op, struct ring_file f, int mode, uint64_t offset_bytes,
                    uint64_t length_bytes)
{
    io_uring_prep_fallocate(begin(op, 0), f.slot, mode, (off_t)offset_bytes, (off_t)length_bytes);
    submit_on(r, op, f);
}

void ring_accept(struct ring *r, struct ring_op *op, int listen_fd)
{
    io_uring_prep_accept(begin(op, POLLIN), listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    ring_submit_op(r, op);
}

void ring_connect(struct ring *r, struct ring_op *op, int fd, const void *addr, unsigned addr_bytes)
{
    io_uring_prep_connect(begin(op, 0), fd, addr, addr_bytes);
    ring_submit_op(r, op);
}

void ring_recvmsg(struct ring *r, struct ring_op *op, struct ring_file f, struct msghdr *msg, int flags)
{
    struct io_uring_sqe *sqe = begin(op, POLLIN);
    io_uring_prep_recvmsg(sqe, f.slot, msg, (unsigned)flags);
    /* Saves an attempt that would find nothing; data that has come in the meantime is still noticed at once. */
    if (op->socket_drained)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    submit_on(r, op, f);
}

void ring_sendmsg(struct ring *r, struct ring_op *op, struct ring_file f, const struct msghdr *msg, int flags)
{
    io_uring_prep_sendmsg(begin(op, POLLOUT), f.slot, msg, (unsigned)flags | MSG_NOSIGNAL);
    submit_on(r, op, f);
}
