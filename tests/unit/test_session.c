/* The session: each rule by itself, and two of them over a network that does its worst, thousands of times. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/checksum.h"
#include "repl/base/prng.h"
#include "repl/link/session.h"
#include "tests/unit/unit.h"

#define DEAD_AFTER_NS (2 * NS_PER_S)
#define RETRY_MIN_NS (50 * NS_PER_MS)
#define RETRY_MAX_NS (1 * NS_PER_S)
#define REFUSED_RETRY_NS (5 * NS_PER_S)

static struct session_config config_of(bool initiator, unsigned paths, uint64_t seed)
{
    return (struct session_config) {
        .volume = "gold42",
        .node = initiator ? "paris-a" : "paris-b",
        .peer = initiator ? "paris-b" : "paris-a",
        .initiator = initiator,
        .path_count = paths,
        .dead_after_ns = DEAD_AFTER_NS,
        .retry_min_ns = RETRY_MIN_NS,
        .retry_max_ns = RETRY_MAX_NS,
        .refused_retry_ns = REFUSED_RETRY_NS,
        .seed = seed,
    };
}

static struct hello hello_of(const char *volume, const char *node, const char *peer)
{
    struct hello h = { .version = PROTOCOL_VERSION, .window_frames = 1, .window_bytes = 4096 };
    snprintf(h.volume, sizeof(h.volume), "%s", volume);
    snprintf(h.node, sizeof(h.node), "%s", node);
    snprintf(h.peer, sizeof(h.peer), "%s", peer);
    return h;
}

/* ------------------------------------------------------------------------------------------------- one session */

/* One session, and a peer made by hand. */
struct solo {
    struct session *s;
    struct session_actions out;
    uint64_t now;
    uint64_t number; /* of the peer's frames on the connection last used */
};

static struct solo *solo_open(bool initiator, unsigned paths)
{
    struct solo *t = calloc(1, sizeof(*t));
    struct session_config c = config_of(initiator, paths, 1);
    t->s = session_open(&c);
    t->now = 1000 * NS_PER_S;
    return t;
}

static void solo_close(struct solo *t)
{
    session_close(t->s);
    free(t);
}

static void step(struct solo *t, struct session_event ev)
{
    ev.now_ns = t->now;
    session_step(t->s, &ev, &t->out);
}

static void start(struct solo *t) { step(t, (struct session_event) { .kind = SV_START }); }

static void tick(struct solo *t) { step(t, (struct session_event) { .kind = SV_TICK }); }

static void tick_at_deadline(struct solo *t)
{
    uint64_t due = session_deadline_ns(t->s);
    assert_true(due != UINT64_MAX);
    if (due > t->now)
        t->now = due;
    tick(t);
}

static void opened(struct solo *t, conn_id conn, bool incoming)
{
    struct session_event ev = { .kind = SV_OPENED };
    ev.opened.conn = conn;
    ev.opened.incoming = incoming;
    t->number = 0;
    step(t, ev);
}

static void ended(struct solo *t, enum session_event_kind kind, conn_id conn, const char *why)
{
    struct session_event ev = { .kind = kind };
    ev.closed.conn = conn;
    ev.closed.reason = why;
    step(t, ev);
}

static void says_hello(struct solo *t, conn_id conn, struct hello h)
{
    struct session_event ev = { .kind = SV_HELLO };
    ev.hello.conn = conn;
    ev.hello.frame.kind = FRAME_HELLO;
    ev.hello.frame.number = ++t->number;
    ev.hello.hello = &h;
    step(t, ev);
}

static void says(struct solo *t, conn_id conn, struct frame f)
{
    struct session_event ev = { .kind = SV_FRAME };
    ev.frame.conn = conn;
    ev.frame.frame = f;
    ev.frame.frame.number = ++t->number;
    step(t, ev);
}

static struct buf_pool pool;

static void says_text(struct solo *t, conn_id conn, uint16_t status, const char *words)
{
    struct session_event ev = { .kind = SV_FRAME };
    struct buf *b = buf_get(&pool, 4096, 0);
    memcpy(b->data, words, strlen(words));
    ev.frame.conn = conn;
    ev.frame.frame = (struct frame) {
        .kind = FRAME_REFUSE,
        .status = status,
        .number = ++t->number,
        .payload_bytes = (uint32_t)strlen(words),
        .payload_check = checksum64(words, strlen(words)),
    };
    ev.frame.payload = b;
    step(t, ev);
}

static const struct session_action *find(const struct solo *t, enum session_action_kind kind)
{
    for (unsigned i = 0; i < t->out.count; i++)
        if (t->out.list[i].kind == kind)
            return &t->out.list[i];
    return NULL;
}

static const struct event *event_of(const struct solo *t)
{
    const struct session_action *a = find(t, SA_EVENT);
    return a ? &a->event : NULL;
}

static void expect_event(const struct solo *t, enum event_kind kind)
{
    const struct event *ev = event_of(t);
    assert_non_null(ev);
    assert_int_equal(ev->kind, kind);
}

static void expect_closed(const struct solo *t, conn_id conn)
{
    const struct session_action *a = find(t, SA_CLOSE);
    assert_non_null(a);
    assert_int_equal(a->close.conn, conn);
}

static const char *refusal(const struct solo *t, uint16_t status)
{
    const struct session_action *a = find(t, SA_SEND);
    assert_non_null(a);
    assert_int_equal(a->send.frame.kind, FRAME_REFUSE);
    assert_int_equal(a->send.frame.status, status);
    assert_int_equal(a->send.frame.payload_bytes, strlen(a->send.text));
    return a->send.text;
}

static void expect_down(const struct solo *t, const char *reason)
{
    expect_event(t, EV_SESSION_DOWN);
    if (!strstr(event_of(t)->down.reason, reason))
        fail_msg("down for \"%s\", not \"%s\"", event_of(t)->down.reason, reason);
}

static conn_id dialled(const struct solo *t)
{
    const struct session_action *a = find(t, SA_CONNECT);
    assert_non_null(a);
    return a->connect.conn;
}

/* The acceptor, up on connection 1. */
static struct solo *accepted_up(void)
{
    struct solo *t = solo_open(false, 1);
    start(t);
    opened(t, 1, true);
    says_hello(t, 1, hello_of("gold42", "paris-a", "paris-b"));
    assert_non_null(find(t, SA_SEND_HELLO));
    expect_event(t, EV_HELLO);
    assert_string_equal(event_of(t)->hello->node, "paris-a");
    step(t, (struct session_event) { .kind = SV_READY });
    assert_int_equal(find(t, SA_SEND)->send.frame.kind, FRAME_READY);
    assert_null(event_of(t));
    assert_int_equal(session_state(t->s), LINK_CONNECTING);
    says(t, 1, (struct frame) { .kind = FRAME_READY });
    expect_event(t, EV_SESSION_UP);
    assert_int_equal(session_state(t->s), LINK_CONNECTED);
    assert_int_equal(session_conn(t->s), 1);
    return t;
}

/* The initiator, up. */
static struct solo *connected_up(unsigned paths)
{
    struct solo *t = solo_open(true, paths);
    start(t);
    tick_at_deadline(t);
    conn_id conn = dialled(t);
    opened(t, conn, false);
    assert_int_equal(find(t, SA_SEND_HELLO)->send.frame.number, 1);
    says_hello(t, conn, hello_of("gold42", "paris-b", "paris-a"));
    expect_event(t, EV_HELLO);
    says(t, conn, (struct frame) { .kind = FRAME_READY });
    expect_event(t, EV_PEER_READY);
    step(t, (struct session_event) { .kind = SV_READY });
    expect_event(t, EV_SESSION_UP);
    return t;
}

static void test_both_come_up(void **state)
{
    solo_close(accepted_up());
    solo_close(connected_up(1));
}

static void test_frames_both_ways(void **state)
{
    struct solo *t = accepted_up();
    says(t, 1, (struct frame) { .kind = FRAME_FLUSH, .tag = 9 });
    expect_event(t, EV_FRAME);
    assert_int_equal(event_of(t)->frame.frame.tag, 9);
    struct session_event ev = { .kind = SV_SEND };
    ev.send.frame = (struct frame) { .kind = FRAME_ACK, .tag = 9 };
    step(t, ev);
    /* Hello, ready and the first heartbeat went before. */
    assert_int_equal(find(t, SA_SEND)->send.frame.number, 4);
    assert_int_equal(find(t, SA_SEND)->send.conn, 1);
    solo_close(t);
}

static void test_gap(void **state)
{
    struct solo *t = accepted_up();
    t->number++;
    says(t, 1, (struct frame) { .kind = FRAME_HEARTBEAT });
    expect_closed(t, 1);
    expect_down(t, "frame number 4 came where 3 was due");
    assert_non_null(strstr(refusal(t, FRAME_REFUSE_FOR_NOW), "number 4"));
    assert_int_equal(session_conn(t->s), 0);
    /* Whatever still comes on it is not heard. */
    says(t, 1, (struct frame) { .kind = FRAME_FLUSH });
    assert_int_equal(t->out.count, 0);
    solo_close(t);
}

static void test_repeated_number(void **state)
{
    struct solo *t = accepted_up();
    t->number--;
    says(t, 1, (struct frame) { .kind = FRAME_HEARTBEAT });
    expect_down(t, "frame number 2 came where 3 was due");
    solo_close(t);
}

static void test_silence(void **state)
{
    struct solo *t = accepted_up();
    uint64_t begin = t->now;
    unsigned heartbeats = 0;
    while (!event_of(t) || event_of(t)->kind != EV_SESSION_DOWN) {
        tick_at_deadline(t);
        heartbeats += find(t, SA_SEND) && find(t, SA_SEND)->send.frame.kind == FRAME_HEARTBEAT;
    }
    assert_int_equal(t->now - begin, DEAD_AFTER_NS);
    assert_int_equal(heartbeats, 3);
    expect_down(t, "nothing heard of paris-a");
    expect_closed(t, 1);
    assert_false(find(t, SA_CLOSE)->close.after_sending);
    solo_close(t);
}

static void test_heard_but_no_frame_yet(void **state)
{
    struct solo *t = accepted_up();
    /* A large frame on a slow line, or a receiver without buffers: bytes, no frame. */
    for (unsigned i = 0; i < 40; i++) {
        t->now += DEAD_AFTER_NS / 4;
        struct session_event ev = { .kind = SV_TICK };
        ev.tick.heard_ns = t->now - DEAD_AFTER_NS / 8;
        step(t, ev);
        assert_null(event_of(t));
    }
    solo_close(t);
}

static void test_overslept(void **state)
{
    struct solo *t = accepted_up();
    t->now += 10 * DEAD_AFTER_NS; /* the whole node stood still: what the peer said meanwhile waits to be received */
    tick(t);
    assert_null(event_of(t));
    says(t, 1, (struct frame) { .kind = FRAME_HEARTBEAT });
    tick_at_deadline(t);
    assert_null(event_of(t));
    /* But not for ever. */
    t->now += 10 * DEAD_AFTER_NS;
    tick(t);
    assert_null(event_of(t));
    tick_at_deadline(t);
    while (!event_of(t))
        tick_at_deadline(t);
    expect_down(t, "nothing heard");
    solo_close(t);
}

static void test_round_trip_time(void **state)
{
    struct solo *t = accepted_up();
    const struct session_action *sent = find(t, SA_SEND);
    assert_int_equal(sent->send.frame.kind, FRAME_HEARTBEAT);
    uint64_t stamp = sent->send.frame.lsn, sent_ns = t->now;
    t->now += 700 * NS_PER_US;
    says(t, 1, (struct frame) { .kind = FRAME_HEARTBEAT, .lsn = 5, .offset_bytes = stamp });
    assert_int_equal(session_rtt_ns(t->s), 700 * NS_PER_US);
    /* ... and what the peer had received from this node, was sent then. */
    assert_int_equal(event_of(t)->kind, EV_HEARD);
    assert_int_equal(event_of(t)->heard.sent_ns, t->now - 700 * NS_PER_US);
    /* Ours gives the peer's stamp back, and for how long we kept it. */
    uint64_t kept = session_deadline_ns(t->s) - t->now;
    tick_at_deadline(t);
    assert_int_equal(find(t, SA_SEND)->send.frame.offset_bytes, 5);
    assert_int_equal(find(t, SA_SEND)->send.frame.tag, kept / NS_PER_US);
    /* What the peer has kept is no part of the round trip, but of the age of what it had received. */
    t->now += 800 * NS_PER_US;
    says(t, 1,
         (struct frame) { .kind = FRAME_HEARTBEAT,
                          .lsn = 6,
                          .offset_bytes = stamp,
                          .tag = (uint32_t)((t->now - sent_ns) / NS_PER_US) - 700 });
    assert_int_equal(session_rtt_ns(t->s) / NS_PER_US, 700);
    assert_int_equal(event_of(t)->heard.sent_ns, sent_ns);
    /* Nonsense changes nothing. */
    says(t, 1, (struct frame) { .kind = FRAME_HEARTBEAT, .lsn = 5, .offset_bytes = UINT64_MAX });
    assert_int_equal(session_rtt_ns(t->s), 700 * NS_PER_US);
    solo_close(t);
}

/* What the engine says of its leg goes with each heartbeat; what the peer's says, to the engine. */
static void test_age(void **state)
{
    struct solo *t = accepted_up();
    assert_int_equal(find(t, SA_SEND)->send.frame.epoch, 0);
    struct session_event ev = { .kind = SV_SEND };
    ev.send.frame = (struct frame) { .kind = FRAME_HEARTBEAT, .epoch = 7 };
    step(t, ev);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(find(t, SA_SEND)->send.frame.kind, FRAME_HEARTBEAT);
        assert_int_equal(find(t, SA_SEND)->send.frame.epoch, 7);
        tick_at_deadline(t);
    }
    /* Also before it has heard anything of this node; by an older release it is not said. */
    says(t, 1, (struct frame) { .kind = FRAME_HEARTBEAT, .lsn = 5, .epoch = 9 });
    assert_int_equal(event_of(t)->kind, EV_HEARD);
    assert_int_equal(event_of(t)->heard.age, 9);
    assert_int_equal(event_of(t)->heard.sent_ns, 0);
    says(t, 1, (struct frame) { .kind = FRAME_HEARTBEAT, .lsn = 5 });
    assert_null(event_of(t));
    solo_close(t);
}

static void test_damaged_payload(void **state)
{
    struct solo *t = accepted_up();
    struct buf *b = buf_get(&pool, 4096, 0);
    memset(b->data, 1, 4096);
    struct session_event ev = { .kind = SV_FRAME };
    ev.frame.conn = 1;
    ev.frame.payload = b;
    ev.frame.frame = (struct frame) {
        .kind = FRAME_WRITE, .number = 3, .lsn = 77, .offset_bytes = 8192, .payload_bytes = 4096, .length_bytes = 4096
    };
    ev.frame.frame.payload_check = checksum64(b->data, 4096) ^ 1;
    step(t, ev);
    expect_down(t, "damaged payload of a write (lsn 77)");
    const struct session_action *n = find(t, SA_NOTE);
    assert_int_equal(n->note.level, NOTE_ERROR);
    assert_non_null(strstr(n->note.text, "lsn 77, offset 8192, 4096 bytes"));
    assert_int_equal(pool.free_bytes, pool.arena_bytes);
    solo_close(t);
}

static void test_not_before_up(void **state)
{
    for (int kind = FRAME_WRITE; kind <= FRAME_KIND_LAST; kind++) {
        struct solo *t = solo_open(false, 1);
        start(t);
        opened(t, 1, true);
        says_hello(t, 1, hello_of("gold42", "paris-a", "paris-b"));
        says(t, 1, (struct frame) { .kind = FRAME_HEARTBEAT });
        assert_null(event_of(t));
        says(t, 1, (struct frame) { .kind = (enum frame_kind)kind });
        expect_down(t, "before the session is up");
        solo_close(t);
    }
}

static void test_ready_twice(void **state)
{
    struct solo *t = solo_open(false, 1);
    start(t);
    opened(t, 1, true);
    says_hello(t, 1, hello_of("gold42", "paris-a", "paris-b"));
    says(t, 1, (struct frame) { .kind = FRAME_READY });
    says(t, 1, (struct frame) { .kind = FRAME_READY });
    expect_down(t, "ready said twice");
    solo_close(t);
    t = accepted_up();
    says(t, 1, (struct frame) { .kind = FRAME_READY });
    expect_down(t, "ready although the session is up");
    solo_close(t);
}

static void test_second_hello(void **state)
{
    struct solo *t = accepted_up();
    says_hello(t, 1, hello_of("gold42", "paris-a", "paris-b"));
    expect_down(t, "a second hello");
    solo_close(t);
}

static void test_stranger_frames(void **state)
{
    struct solo *t = accepted_up();
    opened(t, 2, true);
    says(t, 2, (struct frame) { .kind = FRAME_WRITE });
    expect_closed(t, 2);
    assert_null(event_of(t));
    opened(t, 3, true);
    t->number = 1;
    says_hello(t, 3, hello_of("gold42", "paris-a", "paris-b"));
    expect_closed(t, 3);
    opened(t, 4, true);
    ended(t, SV_GARBAGE, 4, "not a Lockstep frame (magic)");
    expect_closed(t, 4);
    assert_int_equal(session_conn(t->s), 1);
    assert_int_equal(session_state(t->s), LINK_CONNECTED);
    solo_close(t);
}

static void test_misnamed_hellos(void **state)
{
    struct solo *t = accepted_up();
    struct hello wrong[] = {
        hello_of("silver7", "paris-a", "paris-b"),
        hello_of("gold42", "london", "paris-b"),
        hello_of("gold42", "paris-a", "london"),
    };
    static const char *const said[] = {
        "this is volume gold42 on paris-b, not volume silver7",
        "the peer of paris-b for volume gold42 is paris-a, not london",
        "this is node paris-b, not london",
    };
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        opened(t, 10 + i, true);
        says_hello(t, 10 + i, wrong[i]);
        expect_closed(t, 10 + i);
        assert_string_equal(refusal(t, FRAME_REFUSE_LASTING), said[i]);
        assert_null(event_of(t));
        assert_int_equal(session_conn(t->s), 1);
    }
    solo_close(t);
}

static void test_strangers_are_bounded(void **state)
{
    struct solo *t = accepted_up();
    unsigned notes = 0;
    for (conn_id i = 0; i < 200; i++) {
        opened(t, 100 + i, true);
        if (i < SESSION_STRANGERS_MAX)
            assert_null(find(t, SA_CLOSE));
        else
            expect_closed(t, 100 + i - SESSION_STRANGERS_MAX);
        notes += find(t, SA_NOTE) != NULL;
    }
    /* 192 were turned away: that is one line of the log. */
    assert_int_equal(notes, 1);
    /* The others have their time to speak, and no more. */
    uint64_t begin = t->now;
    unsigned gone = 0;
    while (gone < SESSION_STRANGERS_MAX) {
        assert_true(t->now <= begin + DEAD_AFTER_NS);
        t->number = 2 + (t->now - begin) / (DEAD_AFTER_NS / 4); /* the peer goes on */
        tick_at_deadline(t);
        for (unsigned i = 0; i < t->out.count; i++)
            gone += t->out.list[i].kind == SA_CLOSE && t->out.list[i].close.conn != 1;
    }
    solo_close(t);
}

static void test_newer_connection_replaces(void **state)
{
    struct solo *t = accepted_up();
    opened(t, 2, true);
    assert_int_equal(session_conn(t->s), 1);
    says_hello(t, 2, hello_of("gold42", "paris-a", "paris-b"));
    /* The engine hears of the end first, and answers as the one that knows of it. */
    expect_closed(t, 1);
    expect_down(t, "paris-a connected anew");
    assert_null(find(t, SA_SEND_HELLO));
    assert_true(session_deadline_ns(t->s) <= t->now);
    uint64_t number = t->number;
    says(t, 1, (struct frame) { .kind = FRAME_FLUSH });
    assert_int_equal(t->out.count, 0);
    t->number = number;
    tick(t);
    assert_int_equal(find(t, SA_SEND_HELLO)->send.conn, 2);
    expect_event(t, EV_HELLO);
    step(t, (struct session_event) { .kind = SV_READY });
    says(t, 2, (struct frame) { .kind = FRAME_READY });
    expect_event(t, EV_SESSION_UP);
    assert_int_equal(session_conn(t->s), 2);
    solo_close(t);
}

static void test_engine_refuses(void **state)
{
    struct solo *t = solo_open(true, 2);
    start(t);
    tick_at_deadline(t);
    conn_id conn = dialled(t);
    opened(t, conn, false);
    says_hello(t, conn, hello_of("gold42", "paris-b", "paris-a"));
    struct session_event ev = { .kind = SV_REFUSE };
    ev.text.text = "another history";
    step(t, ev);
    assert_string_equal(refusal(t, FRAME_REFUSE_LASTING), "another history");
    assert_true(find(t, SA_CLOSE)->close.after_sending);
    expect_down(t, "another history");
    assert_int_equal(session_state(t->s), LINK_REFUSED);
    /* The engine's late words are about a session that is over. */
    step(t, (struct session_event) { .kind = SV_READY });
    assert_int_equal(t->out.count, 0);
    step(t, ev);
    assert_int_equal(t->out.count, 0);
    uint64_t begin = t->now;
    tick_at_deadline(t);
    assert_true(t->now - begin >= REFUSED_RETRY_NS / 2 && t->now - begin <= REFUSED_RETRY_NS);
    assert_int_equal(find(t, SA_CONNECT)->connect.path, 0);
    assert_int_equal(session_state(t->s), LINK_REFUSED);
    ended(t, SV_OPEN_FAILED, dialled(t), "Connection refused");
    assert_int_equal(session_state(t->s), LINK_CONNECTING);
    solo_close(t);
}

static void test_peer_refuses(void **state)
{
    struct solo *t = solo_open(true, 1);
    start(t);
    tick_at_deadline(t);
    conn_id conn = dialled(t);
    opened(t, conn, false);
    says_text(t, conn, FRAME_REFUSE_LASTING, "the sizes differ\x1b[31m");
    assert_null(event_of(t)); /* no hello, no down */
    expect_closed(t, conn);
    assert_int_equal(session_state(t->s), LINK_REFUSED);
    assert_string_equal(session_reason(t->s), "paris-b refuses: the sizes differ?[31m");
    assert_int_equal(pool.free_bytes, pool.arena_bytes);
    uint64_t begin = t->now;
    tick_at_deadline(t);
    assert_true(t->now - begin >= REFUSED_RETRY_NS / 2);
    solo_close(t);

    t = connected_up(1);
    begin = t->now;
    says_text(t, session_conn(t->s), FRAME_REFUSE_FOR_NOW, "disconnected by its operator");
    expect_down(t, "paris-b ended the connection: disconnected by its operator");
    assert_int_equal(session_state(t->s), LINK_CONNECTING);
    tick_at_deadline(t);
    assert_true(t->now - begin <= RETRY_MIN_NS);
    dialled(t);
    solo_close(t);
}

static void test_wrong_node_answers(void **state)
{
    struct solo *t = solo_open(true, 1);
    start(t);
    tick_at_deadline(t);
    conn_id conn = dialled(t);
    opened(t, conn, false);
    says_hello(t, conn, hello_of("gold42", "london", "paris-a"));
    assert_null(event_of(t));
    assert_non_null(strstr(refusal(t, FRAME_REFUSE_LASTING), "is paris-b, not london"));
    assert_int_equal(session_state(t->s), LINK_REFUSED);
    solo_close(t);
}

static void test_back_off(void **state)
{
    struct solo *t = solo_open(true, 3);
    start(t);
    uint64_t base = RETRY_MIN_NS;
    for (unsigned round = 0; round < 12; round++) {
        for (unsigned path = 0; path < 3; path++) {
            uint64_t before = t->now;
            tick_at_deadline(t);
            const struct session_action *a = find(t, SA_CONNECT);
            assert_non_null(a);
            assert_int_equal(a->connect.path, path);
            assert_true(a->connect.conn & CONN_OUTGOING);
            if (path > 0) {
                assert_int_equal(t->now, before);
            } else if (round > 0) {
                assert_true(t->now - before >= base / 2 && t->now - before <= base);
                base = min_u64(2 * base, RETRY_MAX_NS);
            }
            ended(t, SV_OPEN_FAILED, a->connect.conn, "Connection refused");
        }
    }
    assert_string_equal(session_reason(t->s), "no connection to paris-b over path 3: Connection refused");
    solo_close(t);
}

/* Who lives is found again before the other node acts as if it were lost, however often the connection broke. */
static void test_back_off_is_shorter_than_dead_after(void **state)
{
    struct session_config c = config_of(true, 1, 1);
    c.dead_after_ns = 60 * NS_PER_MS;
    struct solo *t = calloc(1, sizeof(*t));
    t->s = session_open(&c);
    t->now = 1000 * NS_PER_S;
    start(t);
    for (unsigned round = 0; round < 20; round++) {
        uint64_t before = t->now;
        tick_at_deadline(t);
        assert_true(t->now - before <= c.dead_after_ns / 2);
        ended(t, SV_OPEN_FAILED, dialled(t), "Connection refused");
    }
    solo_close(t);
}

static void test_back_off_only_ends_with_a_lasting_session(void **state)
{
    struct solo *t = connected_up(1);
    uint64_t longest = 0;
    for (unsigned i = 0; i < 20; i++) {
        ended(t, SV_CLOSED, session_conn(t->s), "Connection reset by peer");
        expect_down(t, "Connection reset by peer");
        uint64_t before = t->now;
        tick_at_deadline(t);
        longest = max_u64(longest, t->now - before);
        conn_id conn = dialled(t);
        opened(t, conn, false);
        says_hello(t, conn, hello_of("gold42", "paris-b", "paris-a"));
        says(t, conn, (struct frame) { .kind = FRAME_READY });
        step(t, (struct session_event) { .kind = SV_READY });
        expect_event(t, EV_SESSION_UP);
    }
    assert_true(longest > RETRY_MAX_NS / 2);
    t->now += DEAD_AFTER_NS;
    ended(t, SV_CLOSED, session_conn(t->s), "Connection reset by peer");
    uint64_t before = t->now;
    tick_at_deadline(t);
    assert_true(t->now - before <= RETRY_MIN_NS);
    solo_close(t);
}

static void test_same_failure_is_told_once(void **state)
{
    struct solo *t = solo_open(true, 2);
    start(t);
    unsigned notes = 0;
    uint64_t begin = t->now;
    while (t->now - begin < 30 * NS_PER_S) {
        tick_at_deadline(t);
        ended(t, SV_OPEN_FAILED, dialled(t), "Connection refused");
        notes += find(t, SA_NOTE) != NULL;
    }
    assert_int_equal(notes, 2); /* one for each path */
    solo_close(t);
}

static void test_opening_takes_too_long(void **state)
{
    struct solo *t = solo_open(true, 2);
    start(t);
    tick_at_deadline(t);
    conn_id first = dialled(t);
    uint64_t begin = t->now;
    tick_at_deadline(t);
    assert_int_equal(t->now - begin, DEAD_AFTER_NS);
    expect_closed(t, first);
    tick_at_deadline(t);
    assert_int_equal(find(t, SA_CONNECT)->connect.path, 1);
    assert_int_not_equal(dialled(t), first);
    /* The first one comes up after all. */
    conn_id second = dialled(t);
    opened(t, first, false);
    expect_closed(t, first);
    assert_int_equal(session_conn(t->s), second);
    /* And one that comes up, but says nothing. */
    opened(t, second, false);
    begin = t->now;
    while (!find(t, SA_CLOSE))
        tick_at_deadline(t);
    assert_int_equal(t->now - begin, DEAD_AFTER_NS);
    expect_closed(t, second);
    solo_close(t);
}

static void test_silent_path_is_left(void **state)
{
    struct solo *t = connected_up(2);
    while (!event_of(t) || event_of(t)->kind != EV_SESSION_DOWN)
        tick_at_deadline(t);
    tick_at_deadline(t);
    assert_int_equal(find(t, SA_CONNECT)->connect.path, 1);
    solo_close(t);
}

static void test_stop(void **state)
{
    struct solo *t = accepted_up();
    opened(t, 2, true);
    step(t, (struct session_event) { .kind = SV_STOP });
    expect_down(t, "disconnected by the operator");
    assert_int_equal(session_state(t->s), LINK_DOWN);
    unsigned closed = 0;
    for (unsigned i = 0; i < t->out.count; i++)
        closed += t->out.list[i].kind == SA_CLOSE;
    assert_int_equal(closed, 2);
    assert_true(session_deadline_ns(t->s) == UINT64_MAX);
    opened(t, 3, true);
    says_hello(t, 3, hello_of("gold42", "paris-a", "paris-b"));
    assert_string_equal(refusal(t, FRAME_REFUSE_LASTING), "paris-b is disconnected by its operator");
    start(t);
    opened(t, 4, true);
    says_hello(t, 4, hello_of("gold42", "paris-a", "paris-b"));
    expect_event(t, EV_HELLO);
    solo_close(t);
}

static void test_initiator_accepts_nobody(void **state)
{
    struct solo *t = connected_up(1);
    opened(t, 7, true);
    expect_closed(t, 7);
    assert_null(event_of(t));
    solo_close(t);
}

static void test_longest_refusal(void **state)
{
    struct solo *t = accepted_up();
    char words[4 * FRAME_REFUSE_BYTES_MAX];
    memset(words, 'x', sizeof(words));
    words[sizeof(words) - 1] = 0;
    struct session_event ev = { .kind = SV_DROP };
    ev.text.text = words;
    step(t, ev);
    assert_true(strlen(refusal(t, FRAME_REFUSE_FOR_NOW)) <= FRAME_REFUSE_BYTES_MAX);
    expect_down(t, "xxx");
    solo_close(t);
}

/* ------------------------------------------------------------------------------------------------- two of them */

#define PIPES_MAX 64
#define MESSAGES_MAX 4096
#define FAULTY_NS (20 * NS_PER_S)
#define HEALED_NS (3 * REFUSED_RETRY_NS + 4 * DEAD_AFTER_NS)

struct message {
    enum session_event_kind kind;
    uint64_t due_ns;
    uint64_t order;
    unsigned pipe;
    bool to_b;
    struct frame frame;
    struct hello hello;
    struct buf *payload;
};

/* A connection: what A and B call it. */
struct pipe {
    conn_id id[2]; /* 0: closed on that side */
    unsigned path;
    uint64_t last_due_ns[2]; /* keeps the order of each direction */
    bool black_hole;         /* nothing passes any more, and nobody is told */
};

struct side {
    struct world *w;
    struct session *s;
    unsigned index;
    bool judging, up;
    unsigned ups;
    uint64_t verdict_ns; /* when the engine makes up its mind; UINT64_MAX: not asked */
    uint64_t peer_session;
    uint64_t got_lsn, next_lsn;
    bool refuses;
};

struct world {
    struct prng prng;
    uint64_t now;
    uint64_t order;
    bool faulty;
    struct side sides[2];
    struct pipe pipes[PIPES_MAX];
    unsigned pipe_count;
    conn_id accepted;
    struct message messages[MESSAGES_MAX];
    unsigned message_count;
    uint64_t frames_received;
};

static bool fault(struct world *w, unsigned per_million) { return w->faulty && prng_chance(&w->prng, per_million); }

static void post(struct world *w, struct message m, unsigned pipe, unsigned to)
{
    struct pipe *p = &w->pipes[pipe];
    uint64_t delay = prng_below(&w->prng, 5 * NS_PER_MS);
    if (fault(w, 5000))
        delay = prng_below(&w->prng, 3 * NS_PER_S);
    m.pipe = pipe;
    m.to_b = to == 1;
    m.order = w->order++;
    m.due_ns = max_u64(w->now + delay, p->last_due_ns[to]);
    p->last_due_ns[to] = m.due_ns;
    assert_true(w->message_count < MESSAGES_MAX);
    w->messages[w->message_count++] = m;
}

static void feed(struct side *side, const struct session_event *ev);

static void engine_event(struct side *side, const struct event *ev)
{
    struct world *w = side->w;
    switch (ev->kind) {
    case EV_HELLO:
        assert_false(side->judging || side->up);
        side->judging = true;
        side->verdict_ns = w->now + prng_below(&w->prng, 20 * NS_PER_MS);
        break;
    case EV_PEER_READY: assert_true(side->judging && !side->up); break;
    case EV_SESSION_UP:
        assert_true(side->judging && !side->up);
        side->up = true;
        side->ups++;
        side->peer_session = 0;
        side->got_lsn = 0;
        side->next_lsn = 1;
        break;
    case EV_SESSION_DOWN:
        assert_true(side->judging);
        assert_true(ev->down.reason[0] != 0);
        side->judging = false;
        side->up = false;
        side->verdict_ns = UINT64_MAX;
        break;
    case EV_FRAME:
        assert_true(side->up);
        /* All of one session of the peer, without gaps, from its first frame. */
        if (side->peer_session == 0)
            side->peer_session = ev->frame.frame.epoch;
        assert_int_equal(ev->frame.frame.epoch, side->peer_session);
        assert_int_equal(ev->frame.frame.lsn, side->got_lsn + 1);
        side->got_lsn++;
        w->frames_received++;
        if (ev->frame.payload) {
            assert_int_equal(checksum64(ev->frame.payload->data, 4096), ev->frame.frame.payload_check);
            buf_put(ev->frame.payload);
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
    case EV_ADOPT: fail_msg("not the session's to give"); break;
    }
}

static struct pipe *pipe_of(struct world *w, unsigned side, conn_id id, unsigned *index)
{
    for (unsigned i = 0; i < w->pipe_count; i++) {
        if (w->pipes[i].id[side] == id) {
            *index = i;
            return &w->pipes[i];
        }
    }
    return NULL;
}

static unsigned new_pipe(struct world *w)
{
    for (unsigned i = 0; i < w->pipe_count; i++) {
        bool referred = w->pipes[i].id[0] || w->pipes[i].id[1];
        for (unsigned k = 0; k < w->message_count; k++)
            referred = referred || w->messages[k].pipe == i;
        if (!referred) {
            w->pipes[i] = (struct pipe) { { 0 } };
            return i;
        }
    }
    assert_true(w->pipe_count < PIPES_MAX);
    return w->pipe_count++;
}

static void connect_pipe(struct world *w, conn_id id, unsigned path)
{
    unsigned i = new_pipe(w);
    w->pipes[i].id[0] = id;
    w->pipes[i].path = path;
    if (fault(w, 200000)) {
        post(w, (struct message) { .kind = SV_OPEN_FAILED }, i, 0);
        return;
    }
    if (fault(w, 100000)) {
        w->pipes[i].black_hole = true;
        return;
    }
    w->pipes[i].id[1] = ++w->accepted;
    post(w, (struct message) { .kind = SV_OPENED }, i, 1);
    post(w, (struct message) { .kind = SV_OPENED }, i, 0);
}

static void send_message(struct world *w, unsigned from, const struct session_action *a)
{
    unsigned i;
    struct pipe *p = pipe_of(w, from, a->send.conn, &i);
    if (!p || p->black_hole || fault(w, 2000))
        return;
    struct message m = { .kind = SV_FRAME, .frame = a->send.frame, .payload = a->send.payload };
    if (a->kind == SA_SEND_HELLO) {
        m.kind = SV_HELLO;
        m.hello = from == 0 ? hello_of("gold42", "paris-a", "paris-b") : hello_of("gold42", "paris-b", "paris-a");
    } else if (a->send.text) {
        m.payload = buf_get(&pool, 4096, 0);
        assert_non_null(m.payload);
        memcpy(m.payload->data, a->send.text, a->send.frame.payload_bytes);
    } else if (m.payload) {
        buf_ref(m.payload);
        if (fault(w, 2000))
            m.frame.payload_check ^= 1;
    }
    if (fault(w, 1000))
        p->black_hole = true;
    post(w, m, i, !from);
}

static void close_pipe(struct world *w, unsigned from, conn_id id)
{
    unsigned i;
    struct pipe *p = pipe_of(w, from, id, &i);
    if (!p)
        return;
    p->id[from] = 0;
    /* The other side may never hear of it. */
    if (!p->black_hole && !fault(w, 300000) && p->id[!from])
        post(w, (struct message) { .kind = SV_CLOSED }, i, !from);
}

static void feed(struct side *side, const struct session_event *ev)
{
    struct world *w = side->w;
    struct session_actions out;
    session_step(side->s, ev, &out);
    for (unsigned i = 0; i < out.count; i++) {
        const struct session_action *a = &out.list[i];
        switch (a->kind) {
        case SA_CONNECT: connect_pipe(w, a->connect.conn, a->connect.path); break;
        case SA_SEND:
        case SA_SEND_HELLO: send_message(w, side->index, a); break;
        case SA_CLOSE: close_pipe(w, side->index, a->close.conn); break;
        case SA_EVENT:
            assert_int_equal(i, out.count - 1);
            engine_event(side, &a->event);
            break;
        case SA_NOTE: assert_true(a->note.text[0] != 0); break;
        }
    }
}

static void receive_message(struct world *w, unsigned k)
{
    struct message m = w->messages[k];
    w->messages[k] = w->messages[--w->message_count];
    struct pipe *p = &w->pipes[m.pipe];
    conn_id id = p->id[m.to_b];
    struct session_event ev = { .kind = m.kind, .now_ns = w->now };
    /* What was on its way when a connection fell into a hole is gone, too; what this side closed is not reported. */
    if (!id || (p->black_hole && m.kind != SV_OPEN_FAILED)) {
        if (m.payload)
            buf_put(m.payload);
        return;
    }
    switch (m.kind) {
    case SV_OPENED:
        ev.opened.conn = id;
        ev.opened.incoming = m.to_b;
        ev.opened.path = p->path;
        break;
    case SV_HELLO:
        ev.hello.conn = id;
        ev.hello.frame = m.frame;
        ev.hello.hello = &m.hello;
        break;
    case SV_FRAME:
        ev.frame.conn = id;
        ev.frame.frame = m.frame;
        ev.frame.payload = m.payload;
        break;
    case SV_CLOSED:
    case SV_OPEN_FAILED:
        p->id[m.to_b] = 0;
        ev.closed.conn = id;
        ev.closed.reason = "the network";
        break;
    case SV_START:
    case SV_STOP:
    case SV_GARBAGE:
    case SV_TICK:
    case SV_SEND:
    case SV_READY:
    case SV_REFUSE:
    case SV_DROP: fail_msg("not a message"); break;
    }
    feed(&w->sides[m.to_b], &ev);
}

static void send_some(struct side *side)
{
    struct world *w = side->w;
    for (uint64_t n = prng_below(&w->prng, 4); side->up && n > 0; n--) {
        struct session_event ev = { .kind = SV_SEND, .now_ns = w->now };
        ev.send.frame = (struct frame) { .kind = FRAME_FLUSH, .epoch = side->ups, .lsn = side->next_lsn++ };
        struct buf *b = prng_chance(&w->prng, 300000) ? buf_get(&pool, 4096, 0) : NULL;
        if (b) {
            memset(b->data, (int)prng_next(&w->prng) & 0xff, 4096);
            ev.send.frame.kind = FRAME_WRITE;
            ev.send.frame.payload_bytes = 4096;
            ev.send.frame.payload_check = checksum64(b->data, 4096);
            ev.send.payload = b;
        }
        feed(side, &ev);
        if (b)
            buf_put(b);
    }
}

static void engine_acts(struct side *side)
{
    struct world *w = side->w;
    if (side->judging && w->now >= side->verdict_ns) {
        side->verdict_ns = UINT64_MAX;
        struct session_event ev = { .kind = fault(w, 30000) ? SV_REFUSE : SV_READY, .now_ns = w->now };
        ev.text.text = "for a test";
        feed(side, &ev);
    }
    if (fault(w, 200)) {
        struct session_event ev = { .kind = SV_DROP, .now_ns = w->now };
        ev.text.text = "for a test";
        feed(side, &ev);
    }
    if (fault(w, 50)) {
        feed(side, &(struct session_event) { .kind = SV_STOP, .now_ns = w->now });
        feed(side, &(struct session_event) { .kind = SV_START, .now_ns = w->now });
    }
    send_some(side);
}

/* The next thing to happen, in order of time; false when that is after `end`. */
static bool world_step(struct world *w, uint64_t end)
{
    uint64_t next = w->now + (w->faulty ? 20 : 250) * NS_PER_MS; /* the engines send something */
    unsigned first = w->message_count;
    for (unsigned k = 0; k < w->message_count; k++) {
        const struct message *m = &w->messages[k];
        if (first == w->message_count || m->due_ns < w->messages[first].due_ns ||
            (m->due_ns == w->messages[first].due_ns && m->order < w->messages[first].order))
            first = k;
    }
    if (first < w->message_count && w->messages[first].due_ns <= next)
        next = w->messages[first].due_ns;
    else
        first = w->message_count;
    for (unsigned i = 0; i < 2; i++) {
        if (session_deadline_ns(w->sides[i].s) < next) {
            next = session_deadline_ns(w->sides[i].s);
            first = w->message_count;
        }
    }
    if (next > end)
        return false;
    w->now = max_u64(w->now, next);
    if (first < w->message_count)
        receive_message(w, first);
    bool sent = false;
    for (unsigned i = 0; i < 2; i++) {
        if (session_deadline_ns(w->sides[i].s) <= w->now)
            feed(&w->sides[i], &(struct session_event) { .kind = SV_TICK, .now_ns = w->now });
        if (first == w->message_count && !sent)
            engine_acts(&w->sides[i]);
        if (w->faulty && prng_chance(&w->prng, 20000))
            sent = true;
    }
    return true;
}

static uint64_t sessions_seen;
static uint64_t frames_seen;

static void run_world(uint64_t seed)
{
    static struct world w;
    w = (struct world) { .prng = prng_seed(seed), .now = NS_PER_S, .faulty = true };
    for (unsigned i = 0; i < 2; i++) {
        struct session_config c = config_of(i == 0, 1 + (unsigned)(seed % 3), seed + i);
        w.sides[i] = (struct side) { .w = &w, .s = session_open(&c), .index = i, .verdict_ns = UINT64_MAX };
        feed(&w.sides[i], &(struct session_event) { .kind = SV_START, .now_ns = w.now });
    }
    uint64_t faulty_until = w.now + FAULTY_NS;
    while (world_step(&w, faulty_until))
        ;
    /* The network heals; also what has fallen into a hole stays there. */
    w.now = faulty_until;
    w.faulty = false;
    unsigned ups = 0;
    while (world_step(&w, faulty_until + HEALED_NS))
        if (w.now < faulty_until + HEALED_NS / 2)
            ups = w.sides[0].ups;
    if (!w.sides[0].up || !w.sides[1].up)
        fail_msg("seed %llu: not up after the faults ended: a: \"%s\", b: \"%s\"", (unsigned long long)seed,
                 session_reason(w.sides[0].s), session_reason(w.sides[1].s));
    /* And stays up. */
    assert_int_equal(w.sides[0].ups, ups);
    unsigned i;
    const struct pipe *p = pipe_of(&w, 0, session_conn(w.sides[0].s), &i);
    assert_non_null(p);
    assert_int_equal(p->id[1], session_conn(w.sides[1].s));
    assert_true(w.frames_received > 0);
    sessions_seen += w.sides[0].ups;
    frames_seen += w.frames_received;
    assert_true(session_rtt_ns(w.sides[0].s) > 0 && session_rtt_ns(w.sides[0].s) < 15 * NS_PER_MS);
    for (unsigned k = 0; k < 2; k++) {
        feed(&w.sides[k], &(struct session_event) { .kind = SV_STOP, .now_ns = w.now });
        assert_false(w.sides[k].up || w.sides[k].judging);
        session_close(w.sides[k].s);
    }
    for (unsigned k = 0; k < w.message_count; k++)
        if (w.messages[k].payload)
            buf_put(w.messages[k].payload);
}

static void test_bad_networks(void **state)
{
    const char *from = getenv("SESSION_SEED");
    const char *count = getenv("SESSION_SEEDS");
    uint64_t first = from ? strtoull(from, NULL, 0) : 1;
    uint64_t seeds = count ? strtoull(count, NULL, 0) : 1000;
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        size_t before = pool.free_bytes;
        run_world(seed);
        if (pool.free_bytes != before)
            fail_msg("seed %llu leaks buffers", (unsigned long long)seed);
    }
    printf("%llu networks: %llu sessions, %llu frames\n", (unsigned long long)seeds, (unsigned long long)sessions_seen,
           (unsigned long long)frames_seen);
    /* The faults let sessions come up, and end them. */
    assert_true(sessions_seen > 3 * seeds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_come_up),
        cmocka_unit_test(test_frames_both_ways),
        cmocka_unit_test(test_gap),
        cmocka_unit_test(test_repeated_number),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_heard_but_no_frame_yet),
        cmocka_unit_test(test_overslept),
        cmocka_unit_test(test_round_trip_time),
        cmocka_unit_test(test_age),
        cmocka_unit_test(test_damaged_payload),
        cmocka_unit_test(test_not_before_up),
        cmocka_unit_test(test_ready_twice),
        cmocka_unit_test(test_second_hello),
        cmocka_unit_test(test_stranger_frames),
        cmocka_unit_test(test_misnamed_hellos),
        cmocka_unit_test(test_strangers_are_bounded),
        cmocka_unit_test(test_newer_connection_replaces),
        cmocka_unit_test(test_engine_refuses),
        cmocka_unit_test(test_peer_refuses),
        cmocka_unit_test(test_wrong_node_answers),
        cmocka_unit_test(test_back_off),
        cmocka_unit_test(test_back_off_is_shorter_than_dead_after),
        cmocka_unit_test(test_back_off_only_ends_with_a_lasting_session),
        cmocka_unit_test(test_same_failure_is_told_once),
        cmocka_unit_test(test_opening_takes_too_long),
        cmocka_unit_test(test_silent_path_is_left),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_initiator_accepts_nobody),
        cmocka_unit_test(test_longest_refusal),
        cmocka_unit_test(test_bad_networks),
    };
    assert_int_equal(buf_pool_open(&pool, 16 * MIB), 0);
    cmocka_set_test_filter(getenv("TEST")); /* to run one alone */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed == 0)
        buf_pool_close(&pool);
    return failed;
}
