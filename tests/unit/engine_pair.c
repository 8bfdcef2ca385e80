/* Two engines, joined by hand. */
#include "tests/unit/engine_pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/meta/bitmap.h"

#define POOL_BYTES (8 * MIB)
#define POOL_KEEP_FREE_BYTES (1 * MIB)

struct id id_of(uint8_t fill)
{
    struct id id;
    memset(&id, fill, sizeof(id));
    return id;
}

static void attach(struct node *n)
{
    struct engine_config config = {
        .volume = "gold42",
        .node = n->index ? "paris-b" : "paris-a",
        .peer = !n->options.has_peer ? NULL
                : n->index           ? "paris-a"
                                     : "paris-b",
        .backing = n->index ? "/dev/b" : "/dev/a",
        .node_index = n->index,
        .capacity_bytes = VOLUME_BYTES,
        .window_frames = 8,
        .window_bytes = IO_BYTES_MAX,
        .extent_bytes = n->options.extent_bytes,
        .log_slots = n->options.log_slots ? n->options.log_slots : LOG_SLOTS,
        .log_blocks = LOG_BLOCKS,
        .alone_after_ns = n->options.alone_after_ns,
        .failover = n->options.failover,
        .configured = n->options.configured,
        .hold_when_deposed = n->options.hold_when_deposed,
        .seed = n->index + 1 + 2 * n->lives,
        .pool = &n->pool,
        .pool_keep_free_bytes = POOL_KEEP_FREE_BYTES,
        .superblock = n->on_disk,
    };
    engine_attach(&config.superblock, id_of((uint8_t)(50 + n->boot)), n->options.has_peer);
    n->on_disk = n->meta = config.superblock;
    assert_int_equal(buf_pool_open(&n->pool, POOL_BYTES), 0);
    n->engine = engine_open(&config);
    assert_non_null(n->engine);
    n->actions.max = ENGINE_ACTIONS_MAX;
    n->actions.list = calloc(n->actions.max, sizeof(struct action));
    n->actions.text_bytes = ENGINE_TEXT_BYTES;
    n->actions.text = calloc(1, n->actions.text_bytes);
    uint32_t pages = engine_page_count(n->engine);
    assert_true(pages <= 1);
    for (uint32_t i = 0; i < pages; i++)
        engine_load_page(n->engine, i, n->page_unreadable ? NULL : n->bitmap);
    engine_load_log(n->engine, n->ring, &n->actions);
}

static void take_actions(struct node *n);

void node_open_with(struct node *n, unsigned index, const struct node_options *options)
{
    *n = (struct node) { .index = index, .options = *options, .now_ns = NS_PER_S };
    n->on_disk = (struct superblock) {
        .sequence = 1, .leg = LEG_UP_TO_DATE, .pristine = true, .leg_id = id_of((uint8_t)(index + 1))
    };
    n->ring = calloc(LOG_BLOCKS, META_PAGE_BYTES);
    n->bitmap = calloc(1, META_PAGE_BYTES);
    n->content = calloc(1, DISK_BYTES);
    n->stable = calloc(1, DISK_BYTES);
    n->kept = calloc(1, DISK_BYTES);
    n->is_kept = calloc(DISK_BYTES / CHANGE_BYTES, sizeof(*n->is_kept));
    attach(n);
    take_actions(n);
}

void node_open(struct node *n, unsigned index, bool has_peer)
{
    node_open_with(n, index, &(struct node_options) { .has_peer = has_peer, .alone_after_ns = ENGINE_NEVER_ALONE });
}

static void forget_sent(struct node *n)
{
    for (unsigned i = 0; i < n->sent_count; i++)
        free(n->sent[i].payload);
    n->sent_count = 0;
}

static void detach_engine(struct node *n)
{
    forget_sent(n);
    engine_close(n->engine);
    buf_pool_abandon(&n->pool);
    free(n->actions.list);
    free(n->actions.text);
}

void node_close(struct node *n)
{
    detach_engine(n);
    free(n->ring);
    free(n->bitmap);
    free(n->content);
    free(n->stable);
    free(n->kept);
    free(n->is_kept);
}

void node_restart(struct node *n, bool has_peer)
{
    detach_engine(n);
    struct node fresh = {
        .index = n->index,
        .options = n->options,
        .now_ns = n->now_ns,
        .boot = n->boot,
        .lives = n->lives + 1,
        .on_disk = n->on_disk,
        .ring = n->ring,
        .bitmap = n->bitmap,
        .page_unreadable = n->page_unreadable,
        .content = n->content,
        .stable = n->stable,
        .kept = n->kept,
        .is_kept = n->is_kept,
        .kept_whole = n->kept_whole,
        .plan = n->plan,
    };
    *n = fresh;
    n->options.has_peer = has_peer;
    attach(n);
    take_actions(n);
}

void node_lose_power(struct node *n)
{
    n->boot++;
    memcpy(n->content, n->stable, DISK_BYTES);
    node_restart(n, n->options.has_peer);
}

static void keep_sent(struct node *n, const struct action *a)
{
    if (a->send.frame.kind == FRAME_HEARTBEAT) {
        n->age_told = a->send.frame.epoch;
        return;
    }
    assert_true(n->sent_count < NODE_QUEUE_MAX);
    struct sent_frame *s = &n->sent[n->sent_count++];
    s->frame = a->send.frame;
    s->payload = NULL;
    if (s->frame.payload_bytes) {
        s->payload = malloc(s->frame.payload_bytes);
        memcpy(s->payload, a->send.payload->data, s->frame.payload_bytes);
    }
    if (a->send.payload_is_given)
        buf_put(a->send.payload);
}

static void take_actions(struct node *n)
{
    for (uint32_t i = 0; i < n->actions.count; i++) {
        const struct action *a = &n->actions.list[i];
        switch (a->kind) {
        case ACT_DISK:
            assert_true(n->disk_count < NODE_QUEUE_MAX);
            n->disk[n->disk_count++] = *a;
            break;
        case ACT_META_WRITE:
            assert_false(n->meta_pending);
            n->meta_pending = true;
            n->meta = *a->meta.superblock;
            break;
        case ACT_META_PAGE:
            assert_true(n->page_count < META_PAGES_MAX);
            n->pages[n->page_count++] = *a;
            break;
        case ACT_SEND: keep_sent(n, a); break;
        case ACT_BUF_PUT: buf_put(a->put.buf); break;
        case ACT_COMPLETE:
            if (n->holds) {
                n->completed_held++;
            } else {
                n->completed++;
                n->complete_result = a->complete.result;
            }
            if (a->complete.cookie)
                buf_put(a->complete.cookie);
            break;
        case ACT_SESSION_READY: n->ready = true; break;
        case ACT_SESSION_REFUSE:
            n->refused = true;
            snprintf(n->text, sizeof(n->text), "%s", a->text.text);
            break;
        case ACT_SESSION_DROP:
            n->dropped = true;
            snprintf(n->text, sizeof(n->text), "%s", a->text.text);
            break;
        case ACT_SERVE:
            assert_false(a->serve.on && a->serve.hold);
            n->serving = a->serve.on;
            n->holds = a->serve.hold;
            n->served_bytes = a->serve.size_bytes;
            break;
        case ACT_GROW:
            assert_int_equal(n->grow_pending, 0);
            n->grow_pending = 1 + (int)a->grow.step;
            break;
        case ACT_KEEP:
            assert_int_equal(n->keep_pending, 0);
            n->keep_pending = 1 + (int)a->keep.step;
            n->keep = *a;
            break;
        case ACT_REGISTER:
            assert_null(n->asked);
            n->asked = a->ask.request;
            break;
        case ACT_ORDER_DONE:
            n->orders_done++;
            n->order_result = a->order.result;
            snprintf(n->order_text, sizeof(n->order_text), "%s", a->order.text ? a->order.text : "");
            break;
        case ACT_NOTE: {
            size_t used = strlen(n->notes);
            snprintf(n->notes + used, sizeof(n->notes) - used, "%s: %s\n", a->note.topic, a->note.text);
            break;
        }
        }
    }
    actions_clear(&n->actions);
    while (n->page_count && !n->hold_pages)
        page_done(n, 0);
}

void step(struct node *n, struct event ev)
{
    ev.now_ns = n->now_ns;
    engine_step(n->engine, &ev, &n->actions);
    take_actions(n);
}

void tick(struct node *n, uint64_t now_ns)
{
    assert_true(now_ns >= n->now_ns);
    n->now_ns = now_ns;
    step(n, (struct event) { .kind = EV_TICK });
    assert_true(engine_deadline_ns(n->engine) > now_ns); /* else the timer would fire again and again */
}

void meta_done(struct node *n, int32_t result)
{
    assert_true(n->meta_pending);
    n->meta_pending = false;
    if (result == 0)
        n->on_disk = n->meta;
    step(n, (struct event) { .kind = EV_META_DONE, .meta = { .result = result } });
}

void metas_done(struct node *n)
{
    while (n->meta_pending)
        meta_done(n, 0);
}

void page_done(struct node *n, int32_t result)
{
    assert_true(n->page_count > 0);
    struct action a = n->pages[0];
    memmove(&n->pages[0], &n->pages[1], --n->page_count * sizeof(n->pages[0]));
    if (result == 0) {
        switch (a.page.area) {
        case META_ACTIVITY_LOG:
            assert_true(a.page.index < LOG_BLOCKS);
            memcpy(n->ring + (size_t)a.page.index * META_PAGE_BYTES, a.page.block, META_PAGE_BYTES);
            break;
        case META_BITMAP:
            assert_int_equal(a.page.index, 0);
            memcpy(n->bitmap, a.page.block, META_PAGE_BYTES);
            break;
        }
    }
    step(n, (struct event) { .kind = EV_META_PAGE_DONE,
                             .page = { .area = a.page.area, .index = a.page.index, .result = result } });
}

void grow_done(struct node *n, int32_t result)
{
    assert_true(n->grow_pending > 0);
    enum grow_step done = (enum grow_step)(n->grow_pending - 1);
    n->grow_pending = 0;
    step(n, (struct event) { .kind = EV_GROW_DONE,
                             .grow = { .step = done, .result = result, .reason = "test", .plan = n->plan } });
}

static void forget_kept(struct node *n)
{
    memset(n->is_kept, 0, DISK_BYTES / CHANGE_BYTES * sizeof(*n->is_kept));
    n->kept_whole = false;
}

static void keep_pieces(struct node *n)
{
    for (uint32_t i = 0; i < n->keep.keep.count; i++) {
        const struct keep_piece *p = &n->keep.keep.pieces[i];
        assert_true(p->range.length_bytes > 0 && range_fits(p->range, VOLUME_BYTES));
        if (p->kind == KEEP_KIND_UNREADABLE)
            continue;
        memcpy(n->kept + p->range.offset_bytes, n->keep.keep.buf->data + p->buf_offset_bytes, p->range.length_bytes);
        for (uint64_t at = p->range.offset_bytes; at < range_end(p->range); at += CHANGE_BYTES) {
            assert_false(n->is_kept[at / CHANGE_BYTES]);
            n->is_kept[at / CHANGE_BYTES] = true;
        }
    }
}

void keep_done(struct node *n, int32_t result)
{
    assert_true(n->keep_pending > 0);
    enum keep_step done = (enum keep_step)(n->keep_pending - 1);
    n->keep_pending = 0;
    if (done == KEEP_BEGIN || done == KEEP_DROP)
        forget_kept(n);
    if (done == KEEP_DATA && result == 0)
        keep_pieces(n);
    n->kept_whole |= done == KEEP_END && result == 0;
    step(n, (struct event) { .kind = EV_KEEP_DONE, .keep = { .result = result, .reason = result ? "no room" : NULL } });
}

static void carry_out(struct node *n, const struct action *a)
{
    if (a->disk.kind == OP_FLUSH) {
        memcpy(n->stable, n->content, DISK_BYTES);
        return;
    }
    assert_true(a->disk.kind != OP_WRITE || a->disk.buf);
    assert_true(range_fits((struct range) { a->disk.offset_bytes, a->disk.length_bytes }, DISK_BYTES));
    uint8_t *at = n->content + a->disk.offset_bytes;
    uint8_t *data = a->disk.buf ? a->disk.buf->data + a->disk.buf_offset_bytes : NULL;
    if (a->disk.kind == OP_READ && data)
        memcpy(data, at, a->disk.length_bytes);
    else if (a->disk.kind == OP_WRITE && data)
        memcpy(at, data, a->disk.length_bytes);
    else if (a->disk.kind != OP_READ)
        memset(at, 0, a->disk.length_bytes);
}

void disk_done(struct node *n, int32_t result)
{
    assert_true(n->disk_count > 0);
    struct action a = n->disk[0];
    memmove(&n->disk[0], &n->disk[1], --n->disk_count * sizeof(n->disk[0]));
    if (result == 0)
        carry_out(n, &a);
    step(n, (struct event) { .kind = EV_DISK_DONE, .disk = { .op = a.disk.op, .result = result } });
}

void disks_done(struct node *n)
{
    while (n->disk_count)
        disk_done(n, 0);
}

static bool own_flush(const struct node *n, unsigned *at)
{
    for (*at = 0; *at < n->disk_count; ++*at)
        if (n->disk[*at].disk.op == ENGINE_OP_OWN_FLUSH)
            return true;
    return false;
}

void flush_done(struct node *n, int32_t result)
{
    unsigned at;
    assert_true(own_flush(n, &at));
    struct action a = n->disk[at];
    memmove(&n->disk[at], &n->disk[at + 1], (--n->disk_count - at) * sizeof(n->disk[0]));
    if (result == 0)
        carry_out(n, &a);
    step(n, (struct event) { .kind = EV_DISK_DONE, .disk = { .op = a.disk.op, .result = result } });
}

void patience_ends(struct node *n, uint64_t patience_ns)
{
    unsigned at;
    tick(n, n->now_ns + patience_ns);
    if (own_flush(n, &at))
        flush_done(n, 0);
}

void deliver_age(struct node *from, struct node *to)
{
    if (from->age_told)
        step(to, (struct event) { .kind = EV_HEARD, .heard = { .age = from->age_told } });
    from->age_told = 0;
}

struct frame deliver(struct node *from, struct node *to)
{
    assert_true(from->sent_count > 0);
    struct sent_frame s = from->sent[0];
    memmove(&from->sent[0], &from->sent[1], --from->sent_count * sizeof(from->sent[0]));
    struct buf *payload = NULL;
    if (s.payload) {
        payload = buf_get(&to->pool, s.frame.payload_bytes, 0);
        assert_non_null(payload);
        memcpy(payload->data, s.payload, s.frame.payload_bytes);
        free(s.payload);
    }
    step(to, (struct event) { .kind = EV_FRAME, .frame = { .frame = s.frame, .payload = payload } });
    return s.frame;
}

void say_hello(struct node *n, struct hello *out)
{
    uint8_t nonce[HELLO_NONCE_BYTES];
    memset(nonce, (int)n->index + 1, sizeof(nonce));
    engine_hello(n->engine, nonce, out);
}

void hellos(struct node *a, struct node *b)
{
    struct hello of_a, of_b;
    say_hello(a, &of_a);
    say_hello(b, &of_b);
    step(a, (struct event) { .kind = EV_HELLO, .hello = &of_b });
    step(b, (struct event) { .kind = EV_HELLO, .hello = &of_a });
}

void connect_nodes(struct node *a, struct node *b)
{
    hellos(a, b);
    connect_judged(a, b);
}

/* What it needs to say that it is ready comes to its end. */
static void bring_to_ready(struct node *n)
{
    unsigned at;
    metas_done(n);
    if (own_flush(n, &at))
        flush_done(n, 0);
    metas_done(n);
}

bool make_ready(struct node *a, struct node *b)
{
    bring_to_ready(a);
    bring_to_ready(b);
    /* The session tells a side only while it is not ready itself. */
    struct node *waits = a->ready ? b : a, *is_ready = waits == a ? b : a;
    if (is_ready->ready && !waits->ready) {
        step(waits, (struct event) { .kind = EV_PEER_READY });
        bring_to_ready(waits);
    }
    return a->ready && b->ready;
}

void session_up(struct node *a, struct node *b)
{
    assert_true(a->ready && b->ready);
    a->ready = b->ready = false;
    step(a, (struct event) { .kind = EV_SESSION_UP });
    step(b, (struct event) { .kind = EV_SESSION_UP });
}

void connect_judged(struct node *a, struct node *b)
{
    if (!make_ready(a, b))
        fail_msg("not connected: %s / %s", a->text, b->text);
    session_up(a, b);
}

void disconnect_nodes(struct node *a, struct node *b)
{
    forget_sent(a);
    forget_sent(b);
    a->dropped = b->dropped = a->refused = b->refused = a->ready = b->ready = false;
    step(a, (struct event) { .kind = EV_SESSION_DOWN, .down = { .reason = "test" } });
    if (b != a)
        step(b, (struct event) { .kind = EV_SESSION_DOWN, .down = { .reason = "test" } });
}

static bool run_one(struct node *n)
{
    if (n->meta_pending)
        meta_done(n, 0);
    else if (n->page_count)
        page_done(n, 0);
    else if (n->grow_pending)
        grow_done(n, 0);
    else if (n->keep_pending)
        keep_done(n, 0);
    else if (n->disk_count && !n->hold_disk)
        disk_done(n, 0);
    else
        return false;
    return true;
}

bool run_step(struct node *a, struct node *b)
{
    if (run_one(a) || run_one(b))
        return true;
    if (a->sent_count)
        deliver(a, b);
    else if (b->sent_count)
        deliver(b, a);
    else
        return false;
    return true;
}

bool run_until_sent(struct node *a, struct node *b, struct node *from, enum frame_kind kind)
{
    for (;;) {
        if (from && from->sent_count && from->sent[0].frame.kind == kind)
            return true;
        if (!run_step(a, b))
            return false;
    }
}

void run(struct node *a, struct node *b) { run_until_sent(a, b, NULL, FRAME_HELLO); }

void promote(struct node *a, struct node *b)
{
    step(a, (struct event) { .kind = EV_PROMOTE });
    if (a->sent_count) {
        assert_int_equal(deliver(a, b).kind, FRAME_DECREE);
        metas_done(b);
        assert_int_equal(deliver(b, a).kind, FRAME_ACK);
    }
    metas_done(a);
    assert_true(a->serving);
}

void open_promoted(struct node *a, struct node *b, const struct node_options *options)
{
    node_open_with(a, 0, options);
    node_open_with(b, 1, options);
    connect_nodes(a, b);
    promote(a, b);
}

void close_both(struct node *a, struct node *b)
{
    node_close(a);
    node_close(b);
}

void request(struct node *n, enum op_kind kind, uint64_t offset_bytes)
{
    uint64_t length_bytes = kind == OP_FLUSH ? 0 : CHANGE_BYTES;
    step(n, (struct event) { .kind = EV_REQUEST,
                             .request = { .kind = kind, .offset_bytes = offset_bytes, .length_bytes = length_bytes } });
}

void write_block(struct node *n, uint64_t offset_bytes, uint8_t fill)
{
    struct buf *buf = buf_get(&n->pool, CHANGE_BYTES, 0);
    assert_non_null(buf);
    memset(buf->data, fill, CHANGE_BYTES);
    step(n, (struct event) { .kind = EV_REQUEST,
                             .request = { .kind = OP_WRITE,
                                          .offset_bytes = offset_bytes,
                                          .length_bytes = CHANGE_BYTES,
                                          .buf = buf,
                                          .cookie = buf } });
}

void order(struct node *n, enum event_kind kind, bool force)
{
    step(n, (struct event) { .kind = kind, .order = { .force = force } });
}

struct engine_view view_of(struct node *n)
{
    struct engine_view view;
    engine_view(n->engine, &view);
    return view;
}

bool told(const struct node *n, const char *words) { return strstr(n->notes, words) != NULL; }

void assert_in_sync(struct node *a, struct node *b)
{
    assert_true(view_of(a).in_sync);
    assert_true(view_of(b).in_sync);
    assert_int_equal(view_of(a).size_bytes, view_of(b).size_bytes);
    assert_memory_equal(a->content, b->content, view_of(a).size_bytes);
}
