/* Commands: from a client's request to the sink, in pieces, and back. */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "blockdev/front/nbd.h"
#include "repl/base/checksum.h"

/* A block status reply has a buffer of that size. */
#define MAP_REPLY_BYTES BUF_BYTES_MIN
static_assert(NBD_BLOCK_STATUS_BYTES(DISK_MAP_RUNS_MAX) <= MAP_REPLY_BYTES, "a reply fits");

/* Shorter reads than that are not worth looking through for zeroes. */
#define HOLE_BYTES_MIN (4 * KIB)

static bool can_accept(const struct nbd_server *s, enum op_kind kind)
{
    return s->serving && s->front.sink.can_accept(s->front.sink.ctx, kind);
}

void nbd_wait_for_reads(struct nbd_conn *c)
{
    if (list_empty(&c->wait_read_link))
        list_append(&c->server->waiting_reads, &c->wait_read_link);
}

void nbd_wait_for_changes(struct nbd_conn *c)
{
    if (list_empty(&c->wait_change_link))
        list_append(&c->server->waiting_changes, &c->wait_change_link);
}

/* What is free, without the room that is kept for orphans. */
static uint64_t without_orphans(unsigned free, unsigned orphans)
{
    unsigned kept = orphans < NBD_ORPHANS_MAX ? NBD_ORPHANS_MAX - orphans : 0;
    return free > kept ? free - kept : 0;
}

/* What there is of each thing for all clients together. */
static uint64_t available(const struct nbd_server *s, enum nbd_thing thing)
{
    size_t free_bytes = s->pool->free_bytes;
    switch (thing) {
    case NBD_COMMANDS: return without_orphans(s->commands_free_count, s->orphan_commands);
    case NBD_PIECES: return without_orphans(s->pieces_free_count, s->orphan_pieces);
    case NBD_READ_BYTES:
        return min_u64(s->read_budget_bytes > s->read_bytes ? s->read_budget_bytes - s->read_bytes : 0, free_bytes);
    case NBD_WRITE_BYTES: {
        uint64_t kept = s->keep_free_bytes + nbd_share_kept(&s->shares[NBD_READ_BYTES]);
        return free_bytes > kept ? free_bytes - kept : 0;
    }
    }
    return 0;
}

/* Whether there is room is asked of everything before anything is taken: nothing is ever given back for want of another
 * thing, which those who wait would take for room that came back. */
static bool may_have(const struct nbd_conn *c, enum nbd_thing thing, uint64_t more)
{
    const struct nbd_server *s = c->server;
    return nbd_share_allows(&s->shares[thing], c->held[thing], more, available(s, thing));
}

static void hold(struct nbd_conn *c, enum nbd_thing thing, uint64_t more)
{
    nbd_share_take(&c->server->shares[thing], &c->held[thing], more);
}

static void let_go(struct nbd_conn *c, enum nbd_thing thing, uint64_t less)
{
    nbd_share_give(&c->server->shares[thing], &c->held[thing], less);
}

void nbd_shares_forget(struct nbd_conn *c)
{
    for (unsigned i = 0; i < NBD_THINGS; i++)
        let_go(c, i, c->held[i]);
}

/* What buf_get() makes of it. */
static uint64_t buf_bytes(uint32_t bytes)
{
    uint64_t size = BUF_BYTES_MIN;
    while (size < bytes)
        size *= 2;
    return size;
}

/* A buffer for up to `left_bytes`: the scarcer memory is, the shorter; only of that length where `whole` is set. How
 * much of it is to be used comes back in *bytes. NULL: no room now. */
static struct buf *payload_buf(struct nbd_conn *c, enum nbd_thing thing, uint64_t left_bytes, bool whole,
                               uint32_t *bytes)
{
    struct nbd_server *s = c->server;
    const struct nbd_share *share = &s->shares[thing];
    uint64_t most = IO_BYTES_MAX;
    uint64_t part = nbd_share_free(share, available(s, thing)) / NBD_SCARCE_PART;
    while (!whole && most > share->each && most > part)
        most /= 2;
    size_t keep = thing == NBD_WRITE_BYTES ? s->keep_free_bytes : 0;
    for (*bytes = (uint32_t)min_u64(left_bytes, most);;) {
        struct buf *b = may_have(c, thing, buf_bytes(*bytes)) ? buf_get(s->pool, *bytes, keep) : NULL;
        if (b || whole || *bytes <= share->each)
            return b;
        *bytes = (uint32_t)max_u64(share->each, align_down(*bytes / 2, BUF_BYTES_MIN));
    }
}

static bool has_command(const struct nbd_conn *c) { return may_have(c, NBD_COMMANDS, 1); }
static bool has_piece(const struct nbd_conn *c) { return may_have(c, NBD_PIECES, 1); }

static struct nbd_command *command_get(struct nbd_conn *c, enum op_kind kind)
{
    struct nbd_server *s = c->server;
    struct nbd_command *command = container_of(list_pop(&s->commands_free), struct nbd_command, link);
    s->commands_free_count--;
    hold(c, NBD_COMMANDS, 1);
    list_append(&c->commands, &command->link);
    command->conn = c;
    command->request = c->request;
    command->kind = kind;
    command->op_flags = 0;
    command->next_bytes = c->request.offset_bytes;
    command->left_bytes = 0;
    command->sent_up_to_bytes = c->request.offset_bytes;
    command->result = 0;
    command->answered = false;
    command->abandoned = false;
    assert(command->pieces == 0 && command->in_sink == 0 && list_empty(&command->in_turn));
    return command;
}

static void command_put(struct nbd_command *command)
{
    struct nbd_server *s = command->server;
    struct nbd_conn *c = command->conn;
    assert(command->pieces == 0 && command->in_sink == 0);
    list_remove(&command->link);
    list_remove(&command->turn_link);
    command->conn = NULL;
    list_insert_before(s->commands_free.next, &command->link);
    s->commands_free_count++;
    s->released = true;
    if (c) {
        let_go(c, NBD_COMMANDS, 1);
        nbd_conn_check_drained(c);
    } else {
        s->orphan_commands--;
    }
}

static enum nbd_thing bytes_of(const struct nbd_command *command)
{
    return command->kind == OP_READ ? NBD_READ_BYTES : NBD_WRITE_BYTES;
}

static struct nbd_piece *piece_get(struct nbd_conn *c, struct nbd_command *command, struct buf *buf)
{
    struct nbd_server *s = c->server;
    struct nbd_piece *p = container_of(list_pop(&s->pieces_free), struct nbd_piece, link);
    s->pieces_free_count--;
    hold(c, NBD_PIECES, 1);
    if (buf)
        hold(c, bytes_of(command), buf->size_bytes);
    if (buf && command->kind == OP_READ)
        s->read_bytes += buf->size_bytes;
    command->pieces++;
    p->command = command;
    p->buf = buf;
    return p;
}

static void piece_put(struct nbd_piece *p)
{
    struct nbd_command *command = p->command;
    struct nbd_server *s = command->server;
    struct nbd_conn *c = command->conn;
    uint64_t bytes = p->buf ? p->buf->size_bytes : 0;
    if (p->buf)
        buf_put(p->buf);
    if (command->kind == OP_READ)
        s->read_bytes -= bytes;
    if (c) {
        let_go(c, NBD_PIECES, 1);
        let_go(c, bytes_of(command), bytes);
    } else {
        s->orphan_pieces--;
    }
    list_remove(&p->link);
    list_insert_before(s->pieces_free.next, &p->link);
    s->pieces_free_count++;
    s->released = true;
    command->pieces--;
}

static void submit(struct nbd_piece *p, uint64_t check)
{
    struct nbd_command *command = p->command;
    struct nbd_server *s = command->server;
    struct request r = {
        .kind = command->kind,
        .flags = command->op_flags,
        .offset_bytes = p->offset_bytes,
        .length_bytes = p->length_bytes,
        .buf = p->buf,
        .payload_check = check,
        .cookie = p,
    };
    command->in_sink++;
    s->in_sink++;
    s->front.sink.submit(s->front.sink.ctx, &r);
}

static void command_sent(struct nbd_answer *a)
{
    struct nbd_command *command = container_of(a, struct nbd_command, answer);
    a->data = NULL;
    a->head_bytes = 0;
    if (command->pieces == 0)
        command_put(command);
}

static bool own_answer_is_out(const struct nbd_command *command) { return command->answer.head_bytes > 0; }

static void answer_with(struct nbd_command *command, enum nbd_error error)
{
    struct nbd_answer *a = &command->answer;
    /* Only reads and block status owe a structured reply; a simple one is shorter and as good for the rest. */
    bool simple = !command->conn->session.structured ||
                  (command->request.command != NBD_CMD_READ && command->request.command != NBD_CMD_BLOCK_STATUS);
    assert(simple || error != NBD_SUCCESS);
    a->head_bytes = (uint32_t)(simple ? nbd_put_simple(a->head, command->request.cookie, error)
                                      : nbd_put_chunk_error(a->head, command->request.cookie, error));
    a->data_bytes = 0;
    a->sent = command_sent;
    command->answered = true;
    nbd_answer_queue(command->conn, a);
}

/* Ends a command where nothing of it is left to be done. */
static void command_settle(struct nbd_command *command)
{
    bool silent = command->answered || command->abandoned || !command->conn;
    if (!silent && command->left_bytes == 0 && command->in_sink == 0) {
        /* The success of a read is told with its last data. */
        bool answer_now = command->kind == OP_READ ? command->result != 0 : command->pieces == 0;
        if (answer_now) {
            answer_with(command, nbd_error_from(command->result));
            silent = true;
        }
    }
    if (silent && command->left_bytes == 0 && command->pieces == 0 && !own_answer_is_out(command))
        command_put(command);
}

/* Reads */

static bool read_has_begun_streaming(const struct nbd_command *command)
{
    return !command->conn->session.structured && command->sent_up_to_bytes > command->request.offset_bytes;
}

static void read_drop_waiting_pieces(struct nbd_command *command)
{
    struct list *node;
    while ((node = list_pop(&command->in_turn)))
        piece_put(container_of(node, struct nbd_piece, link));
    if (!command->conn)
        return;
    list_for_each_safe (at, &command->conn->resting) {
        struct nbd_piece *p = container_of(at, struct nbd_piece, link);
        if (p->command == command)
            piece_put(p);
    }
}

static void read_fail(struct nbd_command *command, int32_t result)
{
    command->result = result;
    command->left_bytes = 0;
    list_remove(&command->turn_link);
    if (command->conn && !command->answered && read_has_begun_streaming(command))
        nbd_conn_end(command->conn, NOTE_WARNING,
                     "a read failed after its reply had begun, and a simple reply has no other way to tell");
    read_drop_waiting_pieces(command);
}

/* Gives a piece the next part of its read, and starts it. */
static void read_piece_start(struct nbd_piece *p)
{
    struct nbd_command *command = p->command;
    p->offset_bytes = command->next_bytes;
    p->length_bytes = (uint32_t)min_u64(command->left_bytes, min_u64(p->buf->size_bytes, IO_BYTES_MAX));
    command->next_bytes += p->length_bytes;
    command->left_bytes -= p->length_bytes;
    submit(p, 0);
}

/* A piece that has done its part goes on with the next one: a read that has begun never waits for memory. */
static void read_piece_sent(struct nbd_answer *a)
{
    struct nbd_piece *p = container_of(a, struct nbd_piece, answer);
    struct nbd_command *command = p->command;
    if (!command->conn || command->left_bytes == 0) {
        piece_put(p);
        command_settle(command);
    } else if (can_accept(command->server, OP_READ)) {
        read_piece_start(p);
    } else {
        list_append(&command->conn->resting, &p->link);
        nbd_wait_for_reads(command->conn);
    }
}

void nbd_reads_resume(struct nbd_conn *c)
{
    struct list *node;
    while ((node = list_first(&c->resting))) {
        if (!can_accept(c->server, OP_READ)) {
            nbd_wait_for_reads(c);
            return;
        }
        list_remove(node);
        struct nbd_piece *p = container_of(node, struct nbd_piece, link);
        struct nbd_command *command = p->command;
        if (command->left_bytes > 0) {
            read_piece_start(p);
        } else {
            piece_put(p);
            command_settle(command);
        }
    }
}

void nbd_reads_cut(struct nbd_conn *c)
{
    list_for_each_safe (node, &c->commands) {
        struct nbd_command *command = container_of(node, struct nbd_command, link);
        if (command->kind != OP_READ || command->left_bytes == 0)
            continue;
        read_fail(command, -ESHUTDOWN);
        if (c->state == NBD_CONN_ENDING || c->state == NBD_CONN_FREE)
            return;
        command_settle(command);
    }
}

static struct buf *read_buf(struct nbd_conn *c, uint64_t left_bytes)
{
    bool whole = c->request.flags & NBD_CMD_FLAG_DF;
    uint32_t bytes;
    return has_piece(c) ? payload_buf(c, NBD_READ_BYTES, left_bytes, whole, &bytes) : NULL;
}

/* The piece and its buffer stay the read's until the read has ended. */
static void read_piece_begin(struct nbd_command *command, struct buf *b)
{
    struct nbd_piece *p = piece_get(command->conn, command, b);
    p->answer.sent = read_piece_sent;
    read_piece_start(p);
}

static bool read_begin(struct nbd_conn *c)
{
    uint64_t length = c->request.length_bytes;
    struct buf *b = can_accept(c->server, OP_READ) && has_command(c) ? read_buf(c, length) : NULL;
    if (!b)
        return false;
    struct nbd_command *command = command_get(c, OP_READ);
    command->left_bytes = length;
    do {
        read_piece_begin(command, b);
        bool more = command->left_bytes > 0 && command->pieces < NBD_READ_WINDOW && can_accept(c->server, OP_READ);
        b = more ? read_buf(c, command->left_bytes) : NULL;
    } while (b);
    return true;
}

static bool is_zero(const uint8_t *data, size_t bytes)
{
    static const uint8_t zeroes[16];
    return !memcmp(data, zeroes, sizeof(zeroes)) && !memcmp(data, data + sizeof(zeroes), bytes - sizeof(zeroes));
}

static void read_queue_chunk(struct nbd_command *command, struct nbd_piece *p)
{
    struct nbd_answer *a = &p->answer;
    bool last = command->left_bytes == 0 && command->in_sink == 0;
    uint64_t cookie = command->request.cookie;
    bool hole = p->length_bytes >= HOLE_BYTES_MIN && !(command->request.flags & NBD_CMD_FLAG_DF) &&
                is_zero(p->buf->data, p->length_bytes);
    a->data = p->buf->data;
    a->data_bytes = hole ? 0 : p->length_bytes;
    a->head_bytes = (uint32_t)(hole ? nbd_put_chunk_hole(a->head, cookie, last, p->offset_bytes, p->length_bytes)
                                    : nbd_put_chunk_data(a->head, cookie, last, p->offset_bytes, p->length_bytes));
    if (last)
        command->answered = true;
    nbd_answer_queue(command->conn, a);
}

static uint64_t read_end(const struct nbd_command *command)
{
    return command->request.offset_bytes + command->request.length_bytes;
}

/* Queues what is in order of a simple reply in several pieces. True when its end was queued. */
static bool read_stream(struct nbd_command *command)
{
    struct nbd_conn *c = command->conn;
    struct list *node;
    while ((node = list_first(&command->in_turn))) {
        struct nbd_piece *p = container_of(node, struct nbd_piece, link);
        if (p->offset_bytes != command->sent_up_to_bytes)
            return false;
        if (c->streaming && c->streaming != command) {
            if (list_empty(&command->turn_link))
                list_append(&c->turns, &command->turn_link);
            return false;
        }
        list_remove(node);
        struct nbd_answer *a = &p->answer;
        a->data = p->buf->data;
        a->data_bytes = p->length_bytes;
        a->head_bytes = 0;
        if (p->offset_bytes == command->request.offset_bytes) {
            a->head_bytes = (uint32_t)nbd_put_simple(a->head, command->request.cookie, NBD_SUCCESS);
            c->streaming = command;
        }
        command->sent_up_to_bytes += p->length_bytes;
        nbd_answer_stream(c, a);
    }
    if (command->sent_up_to_bytes < read_end(command))
        return false;
    command->answered = true;
    return true;
}

static void read_queue_in_order(struct nbd_command *command, struct nbd_piece *p)
{
    struct nbd_conn *c = command->conn;
    if (p->length_bytes == command->request.length_bytes) {
        struct nbd_answer *a = &p->answer;
        a->data = p->buf->data;
        a->data_bytes = p->length_bytes;
        a->head_bytes = (uint32_t)nbd_put_simple(a->head, command->request.cookie, NBD_SUCCESS);
        command->answered = true;
        nbd_answer_queue(c, a);
        return;
    }
    struct list *after = command->in_turn.next;
    while (after != &command->in_turn && container_of(after, struct nbd_piece, link)->offset_bytes < p->offset_bytes)
        after = after->next;
    list_insert_before(after, &p->link);
    while (command && read_stream(command)) {
        nbd_answer_stream_end(c);
        struct list *next = list_pop(&c->turns);
        command = next ? container_of(next, struct nbd_command, turn_link) : NULL;
    }
}

static void read_done(struct nbd_piece *p, int32_t result)
{
    struct nbd_command *command = p->command;
    if (result < 0 && command->result == 0)
        read_fail(command, result);
    if (command->result != 0 || !command->conn) {
        piece_put(p);
        command_settle(command);
    } else if (command->conn->session.structured) {
        read_queue_chunk(command, p);
    } else {
        read_queue_in_order(command, p);
    }
}

/* Writes */

/* Not accounted for as the client's until it is adopted: guesses come out of what nobody is guaranteed. */
struct buf *nbd_guess_buf(struct nbd_conn *c, uint32_t bytes)
{
    struct nbd_server *s = c->server;
    uint64_t rest = nbd_share_free(&s->shares[NBD_WRITE_BYTES], available(s, NBD_WRITE_BYTES));
    return buf_bytes(bytes) <= rest / NBD_SCARCE_PART ? buf_get(s->pool, bytes, s->keep_free_bytes) : NULL;
}

static bool write_begin(struct nbd_conn *c)
{
    if (!has_command(c))
        return false;
    c->command = command_get(c, OP_WRITE);
    c->command->op_flags = c->request.flags & NBD_CMD_FLAG_FUA ? OP_FLAG_FUA : 0;
    c->command->left_bytes = c->request.length_bytes;
    return true;
}

struct nbd_piece *nbd_write_piece(struct nbd_conn *c, struct nbd_command *command)
{
    if (!has_piece(c))
        return NULL;
    uint32_t bytes = (uint32_t)min_u64(command->left_bytes, IO_BYTES_MAX);
    struct buf *b = nbd_guess_adopt(c, bytes);
    if (!b)
        b = payload_buf(c, NBD_WRITE_BYTES, command->left_bytes, false, &bytes);
    if (!b)
        return NULL;
    struct nbd_piece *p = piece_get(c, command, b);
    p->offset_bytes = command->next_bytes;
    p->length_bytes = bytes;
    command->next_bytes += bytes;
    command->left_bytes -= bytes;
    return p;
}

bool nbd_write_submit(struct nbd_conn *c, struct nbd_piece *p)
{
    if (!can_accept(c->server, OP_WRITE))
        return false;
    submit(p, checksum64(p->buf->data, p->length_bytes));
    return true;
}

void nbd_write_abandon(struct nbd_conn *c)
{
    struct nbd_command *command = c->command;
    struct nbd_piece *p = c->piece;
    c->command = NULL;
    c->piece = NULL;
    if (!command)
        return;
    command->abandoned = true;
    command->left_bytes = 0;
    if (p)
        piece_put(p);
    command_settle(command);
}

/* Flush, trim, write zeroes: requests without payload, in pieces of at most OP_RANGE_BYTES_MAX. */

static void change_piece_begin(struct nbd_conn *c, struct nbd_command *command)
{
    struct nbd_piece *p = piece_get(c, command, NULL);
    p->offset_bytes = command->next_bytes;
    p->length_bytes = (uint32_t)min_u64(command->left_bytes, OP_RANGE_BYTES_MAX);
    command->next_bytes += p->length_bytes;
    command->left_bytes -= p->length_bytes;
    submit(p, 0);
}

/* False: not all of it is with the sink yet; what the client says next waits until it is. */
static bool change_begin(struct nbd_conn *c, enum op_kind kind, uint32_t op_flags)
{
    bool room = can_accept(c->server, kind) && has_piece(c);
    if (!c->command) {
        if (!room || !has_command(c))
            return false;
        c->command = command_get(c, kind);
        c->command->op_flags = op_flags;
        c->command->left_bytes = c->request.length_bytes;
    }
    struct nbd_command *command = c->command;
    for (; command->result == 0; room = can_accept(c->server, kind) && has_piece(c)) {
        if (!room)
            return false;
        change_piece_begin(c, command);
        if (command->left_bytes == 0) {
            c->command = NULL;
            return true;
        }
    }
    /* A piece has failed: the rest is not begun. */
    c->command = NULL;
    command->left_bytes = 0;
    command_settle(command);
    return true;
}

/* Block status */

static void map_piece_sent(struct nbd_answer *a)
{
    struct nbd_piece *p = container_of(a, struct nbd_piece, answer);
    struct nbd_command *command = p->command;
    piece_put(p);
    command_settle(command);
}

/* Runs as the file system knows them become extents in whole blocks: what is a hole only in part counts as data. */
static unsigned extents_of(const struct disk_map *map, uint32_t block_bytes, struct nbd_extent *out)
{
    uint64_t length = map->length_bytes;
    uint64_t end = 0;
    uint64_t told = 0;
    unsigned count = 0;
    for (unsigned i = 0; map->result == 0 && i < map->run_count && end < length; i++) {
        const struct disk_run *run = &map->runs[i];
        end = run->length_bytes < length - end ? end + run->length_bytes : length;
        uint64_t upto = run->hole ? align_down(end, block_bytes) : min_u64(align_up(end, block_bytes), length);
        if (upto <= told)
            continue;
        uint32_t state = run->hole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
        if (count > 0 && out[count - 1].state == state)
            out[count - 1].length_bytes += (uint32_t)(upto - told);
        else
            out[count++] = (struct nbd_extent) { (uint32_t)(upto - told), state };
        told = upto;
    }
    /* What cannot be told is data: always true, if not always of use. */
    if (count == 0)
        out[count++] = (struct nbd_extent) { (uint32_t)length, 0 };
    return count;
}

static void map_answer(struct nbd_piece *p, const struct disk_map *map)
{
    struct nbd_command *command = p->command;
    struct nbd_answer *a = &p->answer;
    struct nbd_extent extents[DISK_MAP_RUNS_MAX];
    unsigned count = extents_of(map, command->server->export.block_min_bytes, extents);
    a->data = p->buf->data;
    a->data_bytes = (uint32_t)nbd_put_block_status(p->buf->data, command->request.cookie, extents, count);
    a->head_bytes = 0;
    a->sent = map_piece_sent;
    command->answered = true;
    nbd_answer_queue(command->conn, a);
}

static bool backing_is_current(const struct nbd_server *s)
{
    return s->disk && s->front.sink.backing_is_current(s->front.sink.ctx);
}

static void map_done(struct disk_map *map)
{
    struct nbd_map *job = container_of(map, struct nbd_map, map);
    struct nbd_piece *p = job->piece;
    struct nbd_command *command = p->command;
    struct nbd_server *s = command->server;
    command->in_sink--;
    if (command->conn) {
        /* Asked again: it may have failed meanwhile, and lack what was written since. */
        if (!backing_is_current(s))
            map->run_count = 0;
        map_answer(p, map);
    } else {
        piece_put(p);
        command_settle(command);
    }
    list_append(&s->maps_free, &job->link);
    s->maps_busy--;
    s->released = true;
    nbd_server_check_closed(s);
}

static bool map_begin(struct nbd_conn *c)
{
    struct nbd_server *s = c->server;
    struct buf *b = has_command(c) && !list_empty(&s->maps_free) ? read_buf(c, MAP_REPLY_BYTES) : NULL;
    if (!b)
        return false;
    struct nbd_command *command = command_get(c, OP_READ);
    struct nbd_piece *p = piece_get(c, command, b);
    struct nbd_map *job = container_of(list_pop(&s->maps_free), struct nbd_map, link);
    job->piece = p;
    job->map.offset_bytes = c->request.offset_bytes;
    job->map.length_bytes = c->request.length_bytes;
    job->map.runs_max = c->request.flags & NBD_CMD_FLAG_REQ_ONE ? 1 : DISK_MAP_RUNS_MAX;
    job->map.run_count = 0;
    job->map.result = 0;
    job->map.done = map_done;
    if (backing_is_current(s)) {
        command->in_sink++;
        s->maps_busy++;
        disk_map(s->disk, &job->map);
    } else {
        map_answer(p, &job->map);
        list_append(&s->maps_free, &job->link);
    }
    return true;
}

bool nbd_command_begin(struct nbd_conn *c)
{
    const struct nbd_request *r = &c->request;
    uint32_t fua = r->flags & NBD_CMD_FLAG_FUA ? OP_FLAG_FUA : 0;
    uint32_t zero_flags = fua | (r->flags & NBD_CMD_FLAG_NO_HOLE ? OP_FLAG_KEEP_ALLOCATED : 0) |
                          (r->flags & NBD_CMD_FLAG_FAST_ZERO ? OP_FLAG_FAST_ONLY : 0);
    bool begun = false;
    bool reads = false;
    switch (r->command) {
    case NBD_CMD_READ:
        begun = read_begin(c);
        reads = true;
        break;
    case NBD_CMD_BLOCK_STATUS:
        begun = map_begin(c);
        reads = true;
        break;
    case NBD_CMD_WRITE: begun = write_begin(c); break;
    case NBD_CMD_FLUSH: begun = change_begin(c, OP_FLUSH, 0); break;
    case NBD_CMD_TRIM: begun = change_begin(c, OP_DISCARD, fua); break;
    case NBD_CMD_WRITE_ZEROES: begun = change_begin(c, OP_WRITE_ZEROES, zero_flags); break;
    case NBD_CMD_DISC:
    case NBD_CMD_CACHE: assert(!"never accepted"); break;
    }
    if (!begun && reads)
        nbd_wait_for_reads(c);
    else if (!begun)
        nbd_wait_for_changes(c);
    return begun;
}

bool nbd_command_reject(struct nbd_conn *c)
{
    if (!has_command(c)) {
        nbd_wait_for_changes(c);
        return false;
    }
    answer_with(command_get(c, OP_FLUSH), c->request.error);
    return true;
}

void nbd_commands_detach(struct nbd_conn *c)
{
    struct list *node;
    while ((node = list_pop(&c->commands))) {
        struct nbd_command *command = container_of(node, struct nbd_command, link);
        command->left_bytes = 0;
        read_drop_waiting_pieces(command);
        list_remove(&command->turn_link);
        command->conn = NULL;
        c->server->orphan_commands++;
        c->server->orphan_pieces += command->pieces;
        command_settle(command);
    }
    c->streaming = NULL;
}

void front_complete(void *cookie, int32_t result)
{
    struct nbd_piece *p = cookie;
    struct nbd_command *command = p->command;
    struct nbd_server *s = command->server;
    assert(command->in_sink > 0 && s->in_sink > 0);
    command->in_sink--;
    s->in_sink--;
    if (command->kind == OP_READ) {
        read_done(p, result);
    } else {
        if (result < 0 && command->result == 0)
            command->result = result;
        piece_put(p);
        command_settle(command);
    }
    nbd_server_check_closed(s);
}
