/* Answers: gathered over a turn of the loop, sent by one call, data straight from where it was read to. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockdev/front/nbd.h"

static void mark_ready(struct nbd_conn *c)
{
    if (list_empty(&c->ready_link))
        list_append(&c->server->ready, &c->ready_link);
}

void nbd_answer_queue(struct nbd_conn *c, struct nbd_answer *a)
{
    list_append(c->streaming ? &c->behind : &c->answers, &a->link);
    mark_ready(c);
}

void nbd_answer_stream(struct nbd_conn *c, struct nbd_answer *a)
{
    list_append(&c->answers, &a->link);
    mark_ready(c);
}

void nbd_answer_stream_end(struct nbd_conn *c)
{
    c->streaming = NULL;
    struct list *node;
    while ((node = list_pop(&c->behind)))
        list_append(&c->answers, node);
}

static void send_rest(struct nbd_conn *c)
{
    c->send_msg = (struct msghdr) { .msg_iov = &c->iov[c->iov_first], .msg_iovlen = c->iov_count - c->iov_first };
    ring_sendmsg(c->server->ring, &c->send_op, c->file, &c->send_msg, MSG_NOSIGNAL);
}

void nbd_send(struct nbd_conn *c)
{
    bool open = c->state == NBD_CONN_SERVING || c->state == NBD_CONN_DRAINING;
    if (!open || c->send_op.busy || list_empty(&c->answers))
        return;
    c->iov_first = 0;
    c->iov_count = 0;
    size_t heads = 0;
    size_t bytes = 0;
    struct list *node;
    for (unsigned n = 0; n < NBD_SEND_ANSWERS_MAX && bytes < NBD_SEND_BYTES_MAX; n++) {
        if (!(node = list_pop(&c->answers)))
            break;
        list_append(&c->sending, node);
        struct nbd_answer *a = container_of(node, struct nbd_answer, link);
        if (a->head_bytes > 0) {
            /* Heads of answers without data become one run. */
            uint8_t *at = c->send_heads + heads;
            memcpy(at, a->head, a->head_bytes);
            heads += a->head_bytes;
            struct iovec *last = c->iov_count > 0 ? &c->iov[c->iov_count - 1] : NULL;
            if (last && (uint8_t *)last->iov_base + last->iov_len == at)
                last->iov_len += a->head_bytes;
            else
                c->iov[c->iov_count++] = (struct iovec) { at, a->head_bytes };
        }
        if (a->data_bytes > 0)
            c->iov[c->iov_count++] = (struct iovec) { (void *)a->data, a->data_bytes };
        bytes += a->head_bytes + a->data_bytes;
    }
    assert(c->iov_count > 0);
    send_rest(c);
}

/* Steps over what was sent. True when nothing is left. */
static bool advance(struct nbd_conn *c, size_t bytes)
{
    while (c->iov_first < c->iov_count) {
        struct iovec *v = &c->iov[c->iov_first];
        if (bytes < v->iov_len) {
            v->iov_base = (uint8_t *)v->iov_base + bytes;
            v->iov_len -= bytes;
            return false;
        }
        bytes -= v->iov_len;
        c->iov_first++;
    }
    return true;
}

void nbd_send_done(struct ring_op *op, int32_t result)
{
    struct nbd_conn *c = container_of(op, struct nbd_conn, send_op);
    if (c->state == NBD_CONN_ENDING) {
        nbd_conn_check_free(c);
        return;
    }
    if (c->state == NBD_CONN_HELD) {
        nbd_conn_check_held(c);
        return;
    }
    if (result <= 0) {
        char reason[96];
        snprintf(reason, sizeof(reason), "sending to it failed: %s", strerror(-result));
        nbd_conn_end(c, NOTE_INFO, reason);
        return;
    }
    c->progress_ns = ring_now_ns(c->server->ring);
    if (!advance(c, (size_t)result)) {
        send_rest(c);
        return;
    }
    if (c->state == NBD_CONN_NEGOTIATING) {
        nbd_negotiation_sent(c);
        return;
    }
    struct list *node;
    while ((node = list_pop(&c->sending))) {
        struct nbd_answer *a = container_of(node, struct nbd_answer, link);
        a->sent(a);
    }
    if (!list_empty(&c->answers))
        mark_ready(c);
    nbd_conn_check_drained(c);
}

void nbd_send_plain(struct nbd_conn *c, const uint8_t *data, size_t bytes)
{
    c->iov[0] = (struct iovec) { (void *)data, bytes };
    c->iov_first = 0;
    c->iov_count = 1;
    send_rest(c);
}

void nbd_send_drop_all(struct nbd_conn *c)
{
    struct list *lists[] = { &c->sending, &c->answers, &c->behind };
    for (unsigned i = 0; i < ARRAY_LEN(lists); i++) {
        struct list *node;
        while ((node = list_pop(lists[i]))) {
            struct nbd_answer *a = container_of(node, struct nbd_answer, link);
            a->sent(a);
        }
    }
}
