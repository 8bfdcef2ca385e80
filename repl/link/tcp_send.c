/* Sending: the frames of one turn leave in one call, headers and payloads from where they lie. */
#include <errno.h>
#include <string.h>

#include "repl/link/tcp_private.h"

static struct tcp_send_slot *slot_of(struct list *node) { return container_of(node, struct tcp_send_slot, link); }

static void free_first(struct tcp_conn *c)
{
    struct tcp_send_slot *slot = slot_of(list_pop(&c->queue));
    if (slot->payload)
        buf_put(slot->payload);
    slot->payload = NULL;
    /* Last in, first out: its memory is still in the cache. */
    list_insert_before(c->tcp->free_slots.next, &slot->link);
    c->first_sent_bytes = 0;
}

void tcp_send_queue(struct tcp_conn *c, const struct frame *frame, struct buf *payload)
{
    assert(frame->payload_bytes == 0 || (payload && payload->size_bytes >= frame->payload_bytes));
    if (c->state != CONN_OPEN || c->failed[0])
        return;
    struct list *node = list_pop(&c->tcp->free_slots);
    if (!node) {
        tcp_fail_later(c, "it does not take what is sent to it (send queue full)");
        return;
    }
    struct tcp_send_slot *slot = slot_of(node);
    frame_encode(frame, &slot->wire);
    slot->payload = frame->payload_bytes ? payload : NULL;
    slot->payload_bytes = frame->payload_bytes;
    if (slot->payload)
        buf_ref(payload);
    list_append(&c->queue, &slot->link);
}

static void add_piece(struct tcp_conn *c, const void *data, uint32_t bytes, uint32_t *skip)
{
    uint32_t skipped = *skip < bytes ? *skip : bytes;
    *skip -= skipped;
    if (bytes > skipped)
        c->out_iov[c->out_msg.msg_iovlen++] = (struct iovec) { (uint8_t *)data + skipped, bytes - skipped };
}

void tcp_send_flush(struct tcp_conn *c)
{
    if ((c->state != CONN_OPEN && c->state != CONN_LINGERING) || c->failed[0] || c->send_op.busy ||
        list_empty(&c->queue))
        return;
    c->out_msg = (struct msghdr) { .msg_iov = c->out_iov };
    uint32_t skip = c->first_sent_bytes;
    uint64_t bytes = 0;
    list_for_each (node, &c->queue) {
        struct tcp_send_slot *slot = slot_of(node);
        if (c->out_msg.msg_iovlen + 2 > TCP_SEND_IOV_MAX || bytes >= TCP_SEND_BYTES_MAX)
            break;
        add_piece(c, &slot->wire, sizeof(slot->wire), &skip);
        if (slot->payload)
            add_piece(c, slot->payload->data, slot->payload_bytes, &skip);
        bytes += sizeof(slot->wire) + slot->payload_bytes;
    }
    /* Waits for all: else a large write would come back in pieces of the socket's buffer. */
    ring_sendmsg(c->tcp->ring, &c->send_op, c->file, &c->out_msg, MSG_WAITALL);
}

void tcp_send_done(struct ring_op *op, int32_t result)
{
    struct tcp_conn *c = container_of(op, struct tcp_conn, send_op);
    for (uint64_t left = result > 0 ? (uint64_t)result : 0; left > 0;) {
        struct tcp_send_slot *slot = slot_of(list_first(&c->queue));
        uint32_t rest = (uint32_t)sizeof(slot->wire) + slot->payload_bytes - c->first_sent_bytes;
        if (left < rest) {
            c->first_sent_bytes += (uint32_t)left;
            break;
        }
        left -= rest;
        free_first(c);
    }
    if (c->state == CONN_CLOSING) {
        tcp_release_if_done(c);
        return;
    }
    if (result <= 0) {
        /* What the peer said last may still be there to be read, its reason for example: the receiver reports the end,
         * unless it waits for buffers itself. */
        c->send_error = result < 0 ? result : -EPIPE;
        tcp_send_forget(c);
        shutdown(c->fd, SHUT_RDWR);
        if (c->state == CONN_OPEN && !c->recv_op.busy)
            tcp_fail(c, strerror(-c->send_error));
    }
    if (c->state == CONN_LINGERING && list_empty(&c->queue))
        tcp_last_word_sent(c);
}

void tcp_send_forget(struct tcp_conn *c)
{
    assert(!c->send_op.busy);
    while (!list_empty(&c->queue))
        free_first(c);
}

bool tcp_send_is_idle(const struct tcp_conn *c) { return list_empty(&c->queue) && !c->send_op.busy; }
