/* Everything that an NBD client sends: a negotiation in chunks of any size, then requests. */
#include <assert.h>
#include <string.h>

#include "blockdev/front/nbd_proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE_BYTES GIB

static void check_request(const struct nbd_export *e, enum nbd_verdict verdict, const struct nbd_request *r)
{
    assert(r->payload_bytes <= NBD_PAYLOAD_BYTES_MAX || verdict == NBD_BREAK);
    switch (verdict) {
    case NBD_ACCEPT:
        if (r->command == NBD_CMD_FLUSH) {
            assert(r->offset_bytes == 0 && r->length_bytes == 0);
            break;
        }
        assert(r->length_bytes > 0 && r->offset_bytes < SIZE_BYTES && r->length_bytes <= SIZE_BYTES - r->offset_bytes);
        assert(r->offset_bytes % e->block_min_bytes == 0 && r->length_bytes % e->block_min_bytes == 0);
        if (r->command == NBD_CMD_READ || r->command == NBD_CMD_WRITE)
            assert(r->length_bytes <= NBD_REQUEST_BYTES_MAX);
        break;
    case NBD_REJECT: assert(r->error != NBD_SUCCESS && r->why); break;
    case NBD_BREAK: assert(r->why); break;
    case NBD_DISCONNECT: break;
    }
}

/* As a connection does it: a window that is filled by chunks, and emptied by one message after the other. */
static size_t negotiation(struct nbd_negotiation *n, const struct nbd_export *e, const uint8_t *data, size_t size,
                          size_t chunk)
{
    static uint8_t window[NBD_NEGOTIATION_IN_BYTES];
    uint8_t out[NBD_NEGOTIATION_OUT_BYTES];
    size_t filled = 0;
    size_t at = 0;
    while (n->phase != NBD_PHASE_TRANSMISSION && n->phase != NBD_PHASE_END) {
        size_t out_bytes = 0;
        size_t used = nbd_negotiate(n, e, window, filled, out, &out_bytes);
        assert(used <= filled && out_bytes <= sizeof(out));
        filled -= used;
        memmove(window, window + used, filled);
        if (used > 0)
            continue;
        /* A full window always holds a message. */
        assert(filled < sizeof(window));
        size_t part = min_u64(chunk, min_u64(size - at, sizeof(window) - filled));
        if (part == 0)
            break;
        memcpy(window + filled, data + at, part);
        filled += part;
        at += part;
    }
    return at - filled;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct nbd_export e = {
        .name = "gold42",
        .size_bytes = SIZE_BYTES,
        .block_min_bytes = data[0] & 1 ? 512 : 4096,
        .block_preferred_bytes = 4096,
        .refusal = data[0] & 2 ? "volume gold42 is served by paris-a" : NULL,
    };
    size_t chunk = 1 + (size_t)data[1] * data[1];
    data += 2;
    size -= 2;
    struct nbd_negotiation n;
    uint8_t greeting[NBD_GREETING_BYTES];
    nbd_negotiation_begin(&n, greeting);
    size_t at = negotiation(&n, &e, data, size, chunk);
    if (n.phase != NBD_PHASE_TRANSMISSION)
        return 0;
    assert(!e.refusal);
    while (size - at >= NBD_REQUEST_BYTES) {
        struct nbd_request r;
        enum nbd_verdict verdict = nbd_request_parse(&e, &n.session, data + at, &r);
        check_request(&e, verdict, &r);
        if (verdict == NBD_BREAK || verdict == NBD_DISCONNECT)
            break;
        at += NBD_REQUEST_BYTES + min_u64(r.payload_bytes, size - at - NBD_REQUEST_BYTES);
    }
    return 0;
}
