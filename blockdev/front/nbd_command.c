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

/* What is free for the payloads of writes, and for those of reads. */
static uint64_t writable_bytes(const struct nbd_server *s)
{
    size_t free_bytes = s->pool->free_bytes;
    return free_bytes > s->keep_free_bytes ? free_bytes - s->keep_free_bytes : 0;
}

static uint64_t readable_bytes(const struct nbd_server *s)
{
    return s->read_budget_bytes > s->read_bytes ? s->read_budget_bytes - s->read_bytes : 0;
}

static uint32_t piece_bytes(uint64_t left_bytes, uint64_t free_bytes)
{
    uint64_t most = IO_BYTES_MAX;
    while (most > NBD_PIECE_BYTES_MIN && most > free_bytes / NBD_SCARCE_PART)
        most /= 2;
    return (uint32_t)min_u64(left_bytes, most);
}

/* A command's place in the table. */

static struct nbd_command *command_get(struct nbd_conn *c)
{
    struct nbd_server *s = c->server;
    if (!nbd_share_allows(c->command_count, 1, s->commands_free_count))
        return NULL;
    struct nbd_command *command = container_of(list_pop(&s->commands_free), struct nbd_command, link);
    s->commands_free_count--;
    c->command_count++;
    list_append(&c->commands, &command->link);
    command->conn = c;
    command->request = c->request;
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
        c->command_count--;
        nbd_conn_check_drained(c);
    }
}

/* A piece's place in the table. */

static struct nbd_piece *piece_get(struct nbd_conn *c, struct nbd_command *command)
{
    struct nbd_server *s = c->server;
    if (!nbd_share_allows(c->piece_count, 1, s->pieces_free_count))
        return NULL;
    struct nbd_piece *p = container_of(list_pop(&s->pieces_free), struct nbd_piece, link);
    s->pieces_free_count--;
    c->piece_count++;
    command->pieces++;
    p->command = command;
    p->buf = NULL;
    p->charged_bytes = 0;
    return p;
}

static void piece_put(struct nbd_piece *p)
{
    struct nbd_command *command = p->command;
    struct nbd_server *s = command->server;
    struct nbd_conn *c = command->conn;
    bool reads = command->kind == OP_READ;
    if (p->buf)
        buf_put(p->buf);
    if (reads)
        s->read_bytes -= p->charged_bytes;
    if (c) {
        c->piece_count--;
        if (reads)
            c->read_bytes -= p->charged_bytes;
        else
            c->write_bytes -= p->charged_bytes;
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

/* A buffer for part of a read. It stays the read's until the read has ended. */
static bool read_piece_begin(struct nbd_command *command)
{
    struct nbd_conn *c = command->conn;
    struct nbd_server *s = c->server;
    uint64_t free_bytes = readable_bytes(s);
    uint32_t bytes = piece_bytes(command->left_bytes, free_bytes);
    uint64_t charge = align_up(bytes, BUF_BYTES_MIN);
    if (!nbd_share_allows(c->read_bytes, charge, free_bytes))
        return false;
    struct nbd_piece *p = piece_get(c, command);
    if (!p)
        return false;
    while (!(p->buf = buf_get(s->pool, bytes, 0)) && bytes > NBD_PIECE_BYTES_MIN)
        bytes = (uint32_t)max_u64(NBD_PIECE_BYTES_MIN, align_down(bytes / 2, BUF_BYTES_MIN));
    if (!p->buf) {
        piece_put(p);
        return false;
    }
    p->charged_bytes = p->buf->size_bytes;
    c->read_bytes += p->charged_bytes;
    s->read_bytes += p->charged_bytes;
    p->answer.sent = read_piece_sent;
    read_piece_start(p);
    return true;
}

static bool read_begin(struct nbd_conn *c)
{
    if (!can_accept(c->server, OP_READ))
        return false;
    struct nbd_command *command = command_get(c);
    if (!command)
        return false;
    command->kind = OP_READ;
    command->left_bytes = c->request.length_bytes;
    if (!read_piece_begin(command)) {
        command->left_bytes = 0;
        command_put(command);
        return false;
    }
    while (command->left_bytes > 0 && command->pieces < NBD_READ_WINDOW && can_accept(c->server, OP_READ)) {
        if (!read_piece_begin(command))
            break;
    }
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

uint32_t nbd_write_piece_bytes(const struct nbd_server *s, uint64_t left_bytes)
{
    return piece_bytes(left_bytes, writable_bytes(s));
}

struct buf *nbd_write_buf(struct nbd_conn *c, uint32_t bytes)
{
    struct nbd_server *s = c->server;
    if (!nbd_share_allows(c->write_bytes, bytes, writable_bytes(s)))
        return NULL;
    struct buf *b = buf_get(s->pool, bytes, s->keep_free_bytes);
    if (b)
        c->write_bytes += b->size_bytes;
    return b;
}

struct buf *nbd_guess_buf(struct nbd_conn *c, uint32_t bytes)
{
    return nbd_share_allows(c->write_bytes, bytes, writable_bytes(c->server) / NBD_SCARCE_PART)
               ? nbd_write_buf(c, bytes)
               : NULL;
}

void nbd_write_buf_put(struct nbd_conn *c, struct buf *b)
{
    c->write_bytes -= b->size_bytes;
    c->server->released = true;
    buf_put(b);
}

static bool write_begin(struct nbd_conn *c)
{
    struct nbd_command *command = command_get(c);
    if (!command)
        return false;
    command->kind = OP_WRITE;
    command->op_flags = c->request.flags & NBD_CMD_FLAG_FUA ? OP_FLAG_FUA : 0;
    command->left_bytes = c->request.length_bytes;
    c->command = command;
    return true;
}

struct nbd_piece *nbd_write_piece(struct nbd_conn *c, struct nbd_command *command, struct buf *adopt)
{
    uint32_t bytes = nbd_write_piece_bytes(c->server, command->left_bytes);
    struct nbd_piece *p = piece_get(c, command);
    if (!p)
        return NULL;
    p->buf = adopt;
    while (!p->buf && !(p->buf = nbd_write_buf(c, bytes)) && bytes > NBD_PIECE_BYTES_MIN)
        bytes = (uint32_t)max_u64(NBD_PIECE_BYTES_MIN, align_down(bytes / 2, BUF_BYTES_MIN));
    if (!p->buf) {
        piece_put(p);
        return NULL;
    }
    p->charged_bytes = p->buf->size_bytes;
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

/* Flush, trim, write zeroes: one request without payload. */

static bool change_begin(struct nbd_conn *c, enum op_kind kind, uint32_t op_flags)
{
    if (!can_accept(c->server, kind))
        return false;
    struct nbd_command *command = command_get(c);
    if (!command)
        return false;
    command->kind = kind;
    command->op_flags = op_flags;
    struct nbd_piece *p = piece_get(c, command);
    if (!p) {
        command_put(command);
        return false;
    }
    p->offset_bytes = c->request.offset_bytes;
    p->length_bytes = c->request.length_bytes;
    submit(p, 0);
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

static void map_done(struct disk_map *map)
{
    struct nbd_map *job = container_of(map, struct nbd_map, map);
    struct nbd_piece *p = job->piece;
    struct nbd_command *command = p->command;
    struct nbd_server *s = command->server;
    command->in_sink--;
    if (command->conn) {
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
    if (list_empty(&s->maps_free) || !nbd_share_allows(c->read_bytes, MAP_REPLY_BYTES, readable_bytes(s)))
        return false;
    struct nbd_command *command = command_get(c);
    if (!command)
        return false;
    command->kind = OP_READ;
    struct nbd_piece *p = piece_get(c, command);
    if (p)
        p->buf = buf_get(s->pool, MAP_REPLY_BYTES, 0);
    if (!p || !p->buf) {
        if (p)
            piece_put(p);
        command_put(command);
        return false;
    }
    p->charged_bytes = p->buf->size_bytes;
    c->read_bytes += p->charged_bytes;
    s->read_bytes += p->charged_bytes;

    struct nbd_map *job = container_of(list_pop(&s->maps_free), struct nbd_map, link);
    job->piece = p;
    job->map.offset_bytes = c->request.offset_bytes;
    job->map.length_bytes = c->request.length_bytes;
    job->map.runs_max = c->request.flags & NBD_CMD_FLAG_REQ_ONE ? 1 : DISK_MAP_RUNS_MAX;
    job->map.run_count = 0;
    job->map.result = 0;
    job->map.done = map_done;
    if (s->disk) {
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
    struct nbd_command *command = command_get(c);
    if (!command) {
        nbd_wait_for_changes(c);
        return false;
    }
    command->kind = OP_FLUSH; /* nothing to account for */
    answer_with(command, c->request.error);
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
