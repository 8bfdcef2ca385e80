/* A simulated transport between the two nodes: delays, breaks, stalls, loses and damages what it carries. Within one
 * connection frames keep their order; a connection that one end has given up goes on delivering to the other. */
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/link/hello_codec.h"
#include "tests/sim/sim.h"

#define DELAY_LONG_NS (50 * NS_PER_MS)
#define CONNECT_HANG_NS (2 * NS_PER_S)
#define RETRY_NS (50 * NS_PER_US) /* until a receiver without buffers looks again */

static struct sim_conn *find(struct sim *s, unsigned node, conn_id id)
{
    for (uint32_t i = s->net.conn_count; i-- > 0;) {
        struct sim_conn *c = &s->net.conns[i];
        if (c->id[node] == id && c->boot[node] == s->node[node].boot && !(c->stranger && node == 0))
            return c;
    }
    return NULL;
}

static uint32_t index_of(const struct sim *s, const struct sim_conn *c) { return (uint32_t)(c - s->net.conns); }

static struct sim_message *message_new(struct sim *s)
{
    struct sim_message *m = s->net.free;
    if (m)
        s->net.free = m->next;
    else if (!(m = malloc(sizeof(*m))))
        abort();
    *m = (struct sim_message) { 0 };
    s->net.on_way++;
    return m;
}

static void message_free(struct sim *s, struct sim_message *m)
{
    if (m->payload)
        buf_put(m->payload);
    free(m->copy);
    m->next = s->net.free;
    s->net.free = m;
    s->net.on_way--;
}

static void message_lose(struct sim *s, struct sim_message *m)
{
    if (!m->is_close && m->header.kind == FRAME_ACK)
        COVER(acks_lost);
    message_free(s, m);
}

static void drop_all(struct sim *s, struct sim_conn *c, unsigned from)
{
    while (c->head[from]) {
        struct sim_message *m = c->head[from];
        c->head[from] = m->next;
        message_lose(s, m);
    }
    c->tail[from] = NULL;
}

void sim_net_reset(struct sim *s)
{
    struct sim_net *n = &s->net;
    for (uint32_t i = 0; i < n->conn_count; i++) {
        drop_all(s, &n->conns[i], 0);
        drop_all(s, &n->conns[i], 1);
    }
    n->conn_count = 0;
    n->faults = (struct sim_net_faults) { 0 };
    n->partitioned_until_ns = 0;
    n->bad_paths = 0;
    n->no_goodbye = false;
    n->last_lsn[0] = n->last_lsn[1] = 0;
    n->delay_min_ns = sim_between(s, CHANCE_NET, 5 * NS_PER_US, 200 * NS_PER_US);
    n->delay_max_ns = n->delay_min_ns + sim_between(s, CHANCE_NET, 1 * NS_PER_US, 500 * NS_PER_US);
}

static uint64_t delay_ns(struct sim *s)
{
    if (sim_chance(s, CHANCE_NET, s->net.faults.slow_per_million))
        return sim_between(s, CHANCE_NET, s->net.delay_max_ns, DELAY_LONG_NS);
    return sim_between(s, CHANCE_NET, s->net.delay_min_ns, s->net.delay_max_ns);
}

static void enqueue(struct sim *s, struct sim_conn *c, unsigned from, struct sim_message *m)
{
    m->time_ns = max_u64(c->last_ns[from], s->now_ns + delay_ns(s));
    c->last_ns[from] = m->time_ns;
    m->next = NULL;
    if (c->tail[from])
        c->tail[from]->next = m;
    else
        c->head[from] = m;
    c->tail[from] = m;
    sim_at(s, m->time_ns, Q_FRAME, from, index_of(s, c));
}

/* Tells the other side, some time after what is on its way, that the connection is gone. */
static void enqueue_close(struct sim *s, struct sim_conn *c, unsigned from)
{
    if (c->closing[from])
        return;
    c->closing[from] = true;
    struct sim_message *m = message_new(s);
    m->is_close = true;
    enqueue(s, c, from, m);
}

/* Whatever is on its way from this side from some point on does not arrive. */
static void lose_tail(struct sim *s, struct sim_conn *c, unsigned from)
{
    uint32_t count = 0;
    for (struct sim_message *m = c->head[from]; m; m = m->next)
        count++;
    uint32_t keep = (uint32_t)sim_below(s, CHANCE_NET, count + 1);
    struct sim_message *last = NULL, *m = c->head[from];
    for (; keep > 0 && m; keep--) {
        last = m;
        m = m->next;
    }
    while (m) {
        struct sim_message *next = m->next;
        if (m->is_close)
            c->closing[from] = false;
        message_lose(s, m);
        m = next;
    }
    if (last)
        last->next = NULL;
    else
        c->head[from] = NULL;
    c->tail[from] = last;
}

static struct sim_conn *conn_new(struct sim *s, unsigned path)
{
    struct sim_net *n = &s->net;
    if (n->conn_count == SIM_CONNS_MAX)
        sim_fail(s, "connections", "more than %u were made", SIM_CONNS_MAX);
    struct sim_conn *c = &n->conns[n->conn_count++];
    *c = (struct sim_conn) { .path = path, .boot = { s->node[0].boot, s->node[1].boot } };
    return c;
}

void sim_net_connect(struct sim *s, unsigned node, conn_id id, unsigned path)
{
    if (node != 0)
        sim_fail(s, "connect", "the acceptor connects");
    if (!(id & CONN_OUTGOING) || find(s, node, id))
        sim_fail(s, "connect", "connection %x is not the session's to name, or named twice", id);
    struct sim_conn *c = conn_new(s, path);
    c->id[0] = id;
    c->id[1] = ++s->net.last_incoming;
    /* The answer takes a round trip, or a time-out. */
    uint64_t after = 2 * delay_ns(s);
    if (sim_chance(s, CHANCE_NET, s->net.faults.connect_hang_per_million)) {
        COVER(connect_hung);
        c->lost[0] = true;
        after = CONNECT_HANG_NS;
    }
    sim_trace(s, "A net     connects %x on path %u", id, path);
    sim_at(s, s->now_ns + after, Q_OPENED, 0, index_of(s, c));
}

void sim_net_opened_event(struct sim *s, unsigned side, uint32_t index)
{
    struct sim_conn *c = &s->net.conns[index];
    if (c->side[side] != SIDE_OPENING || c->boot[side] != s->node[side].boot)
        return;
    if (side == 0) {
        bool fails = c->lost[0] || !s->node[1].up || c->boot[1] != s->node[1].boot ||
                     s->net.partitioned_until_ns > s->now_ns || (s->net.bad_paths >> c->path & 1) ||
                     sim_chance(s, CHANCE_NET, s->net.faults.connect_fail_per_million);
        if (fails) {
            COVER(connect_failed);
            c->side[0] = c->side[1] = SIDE_CLOSED;
            sim_node_session(
                s, 0, (struct session_event) { .kind = SV_OPEN_FAILED, .closed = { c->id[0], "Connection refused" } });
            return;
        }
        /* Either end may see it open first. */
        sim_at(s, s->now_ns + sim_below(s, CHANCE_NET, s->net.delay_max_ns), Q_OPENED, 1, index);
    }
    c->side[side] = SIDE_OPEN;
    c->heard_ns[side] = sim_node_now(s, side);
    sim_trace(s, "%c net     %x is open", 'A' + side, c->id[side]);
    sim_node_session(
        s, side,
        (struct session_event) { .kind = SV_OPENED,
                                 .opened = { .conn = c->id[side], .incoming = side == 1, .path = c->path } });
}

static void break_conn(struct sim *s, struct sim_conn *c, bool half_open)
{
    unsigned unaware = half_open ? (unsigned)sim_below(s, CHANCE_NET, SIM_NODES) : SIM_NODES;
    COVER(conn_broken);
    if (half_open)
        COVER(half_open);
    sim_trace(s, "  net     %x breaks%s", c->id[0], half_open ? ", one end does not notice" : "");
    for (unsigned from = 0; from < SIM_NODES; from++) {
        lose_tail(s, c, from);
        c->lost[from] = true;
        if (1 - from != unaware)
            enqueue_close(s, c, from);
    }
}

static void count_resent(struct sim *s, unsigned node, const struct frame *f, const struct buf *payload)
{
    if (f->kind != FRAME_WRITE && f->kind != FRAME_DISCARD && f->kind != FRAME_WRITE_ZEROES)
        return;
    if (f->lsn > s->net.last_lsn[node]) {
        s->net.last_lsn[node] = f->lsn;
        return;
    }
    COVER(resent);
    assert(f->kind != FRAME_WRITE || payload);
    const uint8_t *there = s->disk[1 - node].data.content + f->offset_bytes;
    if (f->kind == FRAME_WRITE && memcmp(there, payload->data, f->length_bytes) == 0)
        COVER(resent_had_it);
}

void sim_net_send(struct sim *s, unsigned node, conn_id id, const struct frame *frame, struct buf *payload,
                  const void *bytes)
{
    struct sim_conn *c = find(s, node, id);
    if (!c || c->side[node] != SIDE_OPEN)
        return; /* the transport has lost it, or will in a moment: the session is told, or was */
    if (frame->payload_bytes > 0 && !payload == !bytes)
        sim_fail(s, "send", "node %u: %s with %u bytes of payload, and nowhere to take them from", node,
                 frame_kind_name(frame->kind), frame->payload_bytes);
    count_resent(s, node, frame, payload);
    sim_plan_sends(s, node, frame);
    const struct sim_net_faults *f = &s->net.faults;
    if (!c->lost[node] && sim_chance(s, CHANCE_NET, f->break_per_million))
        break_conn(s, c, sim_chance(s, CHANCE_NET, 300000));
    if (c->lost[node] || c->side[1 - node] == SIDE_CLOSED)
        return;
    if (sim_chance(s, CHANCE_NET, f->drop_per_million)) {
        COVER(frame_dropped);
        sim_trace(s, "%c net     loses %s %llu", 'A' + node, frame_kind_name(frame->kind),
                  (unsigned long long)frame->number);
        return;
    }
    struct sim_message *m = message_new(s);
    frame_encode(frame, &m->header);
    m->payload_check = frame->payload_check;
    m->payload_bytes = frame->payload_bytes;
    if (frame->payload_bytes && payload) {
        m->payload = payload;
        buf_ref(payload);
    } else if (frame->payload_bytes) {
        m->copy = malloc(frame->payload_bytes);
        if (!m->copy)
            abort();
        memcpy(m->copy, bytes, frame->payload_bytes);
    }
    m->corrupted = m->payload_bytes > 0 && sim_chance(s, CHANCE_NET, f->corrupt_payload_per_million);
    if (sim_chance(s, CHANCE_NET, f->corrupt_header_per_million)) {
        COVER(header_corrupted);
        uint64_t bit = sim_below(s, CHANCE_NET, FRAME_BYTES * 8);
        ((uint8_t *)&m->header)[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    enqueue(s, c, node, m);
}

void sim_net_close(struct sim *s, unsigned node, conn_id id, bool after_sending)
{
    struct sim_conn *c = find(s, node, id);
    if (!c || c->side[node] == SIDE_CLOSED)
        return;
    sim_trace(s, "%c net     closes %x%s", 'A' + node, id, after_sending ? " after sending" : "");
    bool was_open = c->side[node] == SIDE_OPEN;
    c->side[node] = SIDE_CLOSED;
    if (!was_open)
        return; /* the other end either never knows, or finds out when it looks */
    if (!after_sending && sim_chance(s, CHANCE_NET, 500000))
        lose_tail(s, c, node);
    if (s->net.no_goodbye)
        COVER(no_goodbye);
    else if (!c->lost[node])
        enqueue_close(s, c, node);
    c->lost[node] = true;
}

uint64_t sim_net_heard_ns(const struct sim *s, unsigned node, conn_id id)
{
    const struct sim_conn *c = find((struct sim *)s, node, id);
    if (!c || c->side[node] != SIDE_OPEN)
        return 0;
    bool holds_back = c->starved[node] && c->head[1 - node];
    return holds_back ? sim_node_now(s, node) : c->heard_ns[node];
}

bool sim_net_is_open(const struct sim *s, unsigned node, conn_id id)
{
    const struct sim_conn *c = find((struct sim *)s, node, id);
    return c && c->side[node] == SIDE_OPEN;
}

static const void *payload_of(const struct sim_message *m) { return m->payload ? m->payload->data : m->copy; }

static void garbage(struct sim *s, unsigned to, const struct sim_conn *c, const char *why)
{
    sim_node_session(s, to, (struct session_event) { .kind = SV_GARBAGE, .closed = { c->id[to], why } });
}

/* What a transport does with a whole frame. False: no buffer is free for it now. */
static bool hand_over(struct sim *s, struct sim_conn *c, unsigned to, struct sim_message *m)
{
    struct frame frame;
    const char *why;
    if (frame_decode(&m->header, &frame, &why) < 0) {
        garbage(s, to, c, why);
        return true;
    }
    if (!m->corrupted && m->payload_bytes && checksum64(payload_of(m), m->payload_bytes) != m->payload_check)
        sim_fail(s, "payload-changed", "node %u: the payload of %s LSN %llu is not what its checksum was made of",
                 1 - to, frame_kind_name(frame.kind), (unsigned long long)frame.lsn);
    struct buf *payload = NULL;
    if (m->payload_bytes) {
        payload = buf_get(&s->node[to].pool, m->payload_bytes, 0);
        if (!payload) {
            COVER(link_starved);
            return false;
        }
        memcpy(payload->data, payload_of(m), m->payload_bytes);
        if (m->corrupted) {
            COVER(payload_corrupted);
            uint64_t bit = sim_below(s, CHANCE_NET, (uint64_t)m->payload_bytes * 8);
            payload->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
    COVER(frames);
    sim_mix(s, frame.number << 8 | (uint64_t)frame.kind);
    sim_trace(s, "%c net     %x receives %s %llu (lsn %llu, tag %u, %llu+%llu, status %u)%s", 'A' + to, c->id[to],
              frame_kind_name(frame.kind), (unsigned long long)frame.number, (unsigned long long)frame.lsn, frame.tag,
              (unsigned long long)frame.offset_bytes, (unsigned long long)frame.length_bytes, frame.status,
              m->corrupted ? ", corrupted" : "");
    if (frame.kind == FRAME_HELLO) {
        assert(payload);
        struct hello hello;
        struct session_event ev = { .kind = SV_HELLO, .hello = { .conn = c->id[to], .frame = frame, .hello = &hello } };
        bool whole = checksum64(payload->data, frame.payload_bytes) == frame.payload_check;
        COVER(hellos);
        if (!whole)
            garbage(s, to, c, "hello damaged on its way (payload_check)");
        else if (hello_decode(payload->data, frame.payload_bytes, &hello, &why) < 0)
            garbage(s, to, c, why);
        else {
            struct superblock own;
            sim_node_superblock(s, to, &own);
            if (hello.dirty_bytes && history_relate(&own.history, &hello.history) == HISTORY_EQUAL)
                COVER(bits_left);
            sim_node_session(s, to, ev);
        }
        buf_put(payload);
        return true;
    }
    sim_node_session(s, to,
                     (struct session_event) { .kind = SV_FRAME,
                                              .frame = { .conn = c->id[to], .frame = frame, .payload = payload } });
    return true;
}

void sim_net_frame_event(struct sim *s, unsigned from, uint32_t index)
{
    struct sim_conn *c = &s->net.conns[index];
    unsigned to = 1 - from;
    bool receives = s->node[to].up && c->boot[to] == s->node[to].boot && !(c->stranger && to == 0);
    uint64_t held_until = max_u64(c->stalled_until_ns[from], s->net.partitioned_until_ns);
    if (held_until > s->now_ns || (receives && c->head[from] && c->side[to] == SIDE_OPENING)) {
        sim_at(s, max_u64(held_until, s->now_ns + RETRY_NS), Q_FRAME, from, index);
        return;
    }
    struct sim_message *m = c->head[from];
    if (!m || m->time_ns > s->now_ns)
        return; /* that of this event was lost */
    bool open = c->side[to] == SIDE_OPEN;
    /* The transport may have had it in hand when the session closed the connection. */
    bool stale = !open && !m->is_close && sim_chance(s, CHANCE_NET, s->net.faults.stale_per_million);
    if (receives && open && !m->is_close && index + 1 < s->net.conn_count && !s->net.conns[index + 1].stranger)
        COVER(old_conn_delivers);
    c->head[from] = m->next;
    if (!c->head[from])
        c->tail[from] = NULL;
    if (receives && m->is_close && open) {
        c->side[to] = SIDE_CLOSED;
        c->lost[to] = true;
        sim_trace(s, "%c net     %x is closed by the other end", 'A' + to, c->id[to]);
        sim_node_session(
            s, to, (struct session_event) { .kind = SV_CLOSED, .closed = { c->id[to], "Connection reset by peer" } });
    } else if (receives && (open || stale) && !m->is_close) {
        if (stale)
            COVER(frame_stale);
        c->heard_ns[to] = sim_node_now(s, to);
        c->starved[to] = !hand_over(s, c, to, m);
        if (c->starved[to]) {
            m->next = c->head[from];
            c->head[from] = m;
            if (!c->tail[from])
                c->tail[from] = m;
            sim_at(s, s->now_ns + RETRY_NS, Q_FRAME, from, index);
            return;
        }
        message_free(s, m);
        return;
    }
    message_lose(s, m);
}

void sim_net_crash(struct sim *s, unsigned node, bool silent)
{
    for (uint32_t i = 0; i < s->net.conn_count; i++) {
        struct sim_conn *c = &s->net.conns[i];
        if (c->side[node] == SIDE_CLOSED && !c->head[node])
            continue;
        /* What has left goes on; it must not need the dead process's memory. */
        if (c->side[node] != SIDE_CLOSED)
            lose_tail(s, c, node);
        for (struct sim_message *m = c->head[node]; m; m = m->next) {
            if (!m->payload)
                continue;
            m->copy = malloc(m->payload_bytes);
            if (!m->copy)
                abort();
            memcpy(m->copy, m->payload->data, m->payload_bytes);
            buf_put(m->payload);
            m->payload = NULL;
        }
        if (c->side[node] == SIDE_OPEN && !silent && !c->lost[node])
            enqueue_close(s, c, node);
        c->side[node] = SIDE_CLOSED;
        c->lost[node] = true;
    }
}

void sim_net_break(struct sim *s, bool half_open)
{
    for (uint32_t i = s->net.conn_count; i-- > 0;) {
        struct sim_conn *c = &s->net.conns[i];
        if (!c->stranger && c->side[0] == SIDE_OPEN && c->side[1] == SIDE_OPEN && !c->lost[0]) {
            break_conn(s, c, half_open);
            return;
        }
    }
}

void sim_net_stall(struct sim *s, unsigned from, uint64_t until_ns)
{
    for (uint32_t i = 0; i < s->net.conn_count; i++) {
        struct sim_conn *c = &s->net.conns[i];
        if (c->side[1 - from] != SIDE_CLOSED)
            c->stalled_until_ns[from] = until_ns;
    }
}

void sim_net_stranger(struct sim *s)
{
    if (!s->node[1].up || s->net.conn_count >= SIM_CONNS_MAX / 2) /* the other half is for what nodes make themselves */
        return;
    COVER(stranger);
    struct sim_conn *c = conn_new(s, 0);
    c->stranger = true;
    c->id[0] = 0;
    c->id[1] = ++s->net.last_incoming;
    c->side[0] = SIDE_OPEN;
    sim_at(s, s->now_ns + 1, Q_OPENED, 1, index_of(s, c));
    struct sim_message *m;
    switch (sim_below(s, CHANCE_NET, 4)) {
    case 0: break; /* says nothing */
    case 1:        /* says nonsense */
        m = message_new(s);
        m->header.magic = to_le32(UINT32_C(0x20544547));
        enqueue(s, c, 0, m);
        break;
    case 2: /* comes for another volume */ enqueue_close(s, c, 0); break;
    default: {
        uint8_t bytes[FRAME_HELLO_BYTES_MAX];
        struct hello hello = { .version = PROTOCOL_VERSION,
                               .volume = "silver7",
                               .node = "a",
                               .peer = "b",
                               .window_frames = 1,
                               .granule_bytes = 4096,
                               .window_bytes = 1 };
        struct frame frame = { .kind = FRAME_HELLO, .number = 1 };
        frame.payload_bytes = (uint32_t)hello_encode(&hello, bytes);
        frame.payload_check = checksum64(bytes, frame.payload_bytes);
        m = message_new(s);
        frame_encode(&frame, &m->header);
        m->payload_check = frame.payload_check;
        m->payload_bytes = frame.payload_bytes;
        m->copy = malloc(frame.payload_bytes);
        if (!m->copy)
            abort();
        memcpy(m->copy, bytes, frame.payload_bytes);
        enqueue(s, c, 0, m);
    }
    }
}

void sim_net_heal(struct sim *s)
{
    s->net.faults = (struct sim_net_faults) { 0 };
    s->net.partitioned_until_ns = 0;
    s->net.bad_paths = 0;
    s->net.no_goodbye = false;
    for (uint32_t i = 0; i < s->net.conn_count; i++)
        s->net.conns[i].stalled_until_ns[0] = s->net.conns[i].stalled_until_ns[1] = 0;
}
