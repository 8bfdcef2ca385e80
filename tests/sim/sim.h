/* One simulated world: two nodes, their disks, the network between them, their clients and operators. A seed decides
 * everything that happens in it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/base/prng.h"
#include "repl/core/action.h"
#include "repl/core/meta_area.h"
#include "repl/engine/engine.h"
#include "repl/link/session.h"
#include "repl/meta/superblock_disk.h"
#include "repl/witness/register_table.h"
#include "tests/sim/cover.h"
#include "tests/sim/medium.h"
#include "tests/sim/model.h"
#include "tests/sim/queue.h"

#define SIM_NODES 2
#define SIM_VOLUME "gold42"
#define SIM_NODE_NAME(node) ((node) == 0 ? "paris-a" : "paris-b")
#define SIM_EXIT_VIOLATION 3
#define SIM_GRANULE_BYTES BLOCK_BYTES /* of the bitmap */
#define SIM_EXTENT_BYTES (8 * BLOCK_BYTES)

/* What the engine cannot do yet. Once it can, runs must end accordingly, and the checks are as sharp as that. */
#define RESYNC_EXISTS true      /* a leg that lost power, or whose primary died so, comes back by itself */
#define READ_REPAIR_EXISTS true /* what one leg cannot read comes from the other, and is mended */

struct sim;

/* ---- run.c: the clock, chance, the trace, and how a run fails ---- */

/* The streams of chance, so that what one part draws does not change what another meets. */
enum chance {
    CHANCE_PLAN,
    CHANCE_CLIENT,
    CHANCE_DISK,
    CHANCE_NET,
    CHANCE_NODE,
    CHANCE_QUEUE,
    CHANCE_REGISTER,
    CHANCE_ROLLBACK,
    CHANCES
};

uint64_t sim_below(struct sim *s, enum chance c, uint64_t bound);
uint64_t sim_between(struct sim *s, enum chance c, uint64_t low, uint64_t high);
bool sim_chance(struct sim *s, enum chance c, unsigned per_million);

void sim_at(struct sim *s, uint64_t time_ns, enum queue_kind kind, uint32_t node, uint32_t a);

#define SIM_TRACE_LINES 200
#define SIM_TRACE_BYTES 200
void sim_trace_line(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define sim_trace(s, ...)                                                                                              \
    do {                                                                                                               \
        if ((s)->tracing)                                                                                              \
            sim_trace_line(s, __VA_ARGS__);                                                                            \
    } while (0)

/* Folds a value into the run's hash. */
void sim_mix(struct sim *s, uint64_t value);

/* A promise is broken: tells which and how, and ends the process. */
void sim_fail(struct sim *s, const char *check, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));

/* ---- disk.c ---- */

#define SIM_DISK_REQUESTS_MAX 4096
#define SIM_BITMAP_WORDS (MODEL_BLOCKS_MAX / 64)

struct sim_disk_faults {
    unsigned error_per_million[OP_FLUSH + 1];
    unsigned short_per_million; /* writes cut short */
    unsigned slow_per_million;  /* requests that take long */

    /* Reported as done all the same: nothing but a comparison of both legs finds these. */
    unsigned lost_per_million;        /* changes that never happen */
    unsigned misdirected_per_million; /* changes that land elsewhere */
};

struct sim_disk_request {
    bool busy;
    uint32_t serial;
    uint32_t op;
    enum op_kind kind;
    uint32_t flags;
    uint32_t first;
    uint32_t count;
    struct buf *buf;
    uint32_t buf_offset;
    uint64_t begun_ns;
    uint64_t check;                          /* of the payload when it was submitted */
    uint64_t dirty_before[SIM_BITMAP_WORDS]; /* OP_FLUSH: what it has to make stable */
};

/* Of a medium: what a read returns, and what a loss of power leaves. */
enum sim_layer { SIM_CONTENT, SIM_STABLE, SIM_LAYERS };

#define SIM_SPOILT_MAX 96 /* contents of one block: a disk spoils it less often than that */

/* What either disk holds and should not, by content: it has rotted there, landed there, or is what a lost write was to
 * replace. So it is known again on the other disk, whether a resync brings it there, or finds it there already. */
struct sim_spoilt {
    bool any;
    uint8_t count[MODEL_BLOCKS_MAX];
    uint64_t checks[MODEL_BLOCKS_MAX][SIM_SPOILT_MAX];
    uint64_t last_ns[MODEL_BLOCKS_MAX]; /* when the last of them came */
};

struct sim_disk {
    unsigned node;
    uint32_t block_count;                 /* of the backing */
    struct medium data;                   /* of MODEL_BLOCKS_MAX sectors */
    struct model_image image[SIM_LAYERS]; /* of it, for the model */
    uint16_t readers[MODEL_BLOCKS_MAX];
    uint16_t writers[MODEL_BLOCKS_MAX];
    struct sim_disk_request requests[SIM_DISK_REQUESTS_MAX];
    uint32_t request_high; /* slots used so far */
    uint32_t free_slots[SIM_DISK_REQUESTS_MAX];
    uint32_t free_count;
    uint32_t busy;
    struct sim_disk_faults faults;
    uint64_t stalled_until_ns;
    bool zeroes_fast; /* else write-zeroes that must be fast are refused */
    bool has_failed;  /* a write, discard, zeroes or flush has failed since the run began */
    bool shows_old;   /* a flush has failed, and this daemon has not ended since */
    bool lies;        /* since its daemon ended it reads what a failed flush has lost */
};

void sim_disk_open(struct sim_disk *d);
void sim_disk_reset(struct sim *s, unsigned node, uint32_t block_count);
/* By a new one, all zeroes; or, `spoilt`, with anything in its blocks. The node is down. */
void sim_disk_replace(struct sim *s, unsigned node, bool spoilt);
/* Its backing; what lies in the new part is anything. */
void sim_disk_grow(struct sim *s, unsigned node, uint32_t block_count);
void sim_disk_submit(struct sim *s, unsigned node, const struct action *a);
void sim_disk_event(struct sim *s, unsigned node, uint32_t slot);
void sim_disk_crash(struct sim *s, unsigned node); /* the process dies: what was in flight has happened, or half */

void sim_disk_daemon_ends(struct sim *s, unsigned node);

/* What a disk reads and does not have is found dirty after all. */
void sim_disk_stop_lying(struct sim *s, unsigned node);

/* The machine loses power: of what was in flight any part has happened, of what was not stable any part is left. */
void sim_disk_power_loss(struct sim *s, unsigned node, unsigned survive_per_million);
bool sim_disk_make_unreadable(struct sim *s, unsigned node); /* some block, until it is written. False: not that one */
void sim_disk_rot(struct sim *s, unsigned node);             /* a bit somewhere */
/* The first from there on that a read of this disk shows as it was before a failed flush; UINT32_MAX: none. */
uint32_t sim_disk_old_block(struct sim *s, unsigned node, uint32_t from);
bool sim_is_spoilt(const struct sim *s, uint32_t block, const uint8_t *data);

/* So that a volume of this size is not resynced by one question. */
#define SIM_RESYNC_WINDOW_BYTES (8 * KIB)

/* ---- meta.c: the metadata area of a leg ---- */

#define SIM_META_LOG_PAGES 32
#define SIM_META_BITMAP_PAGES 2 /* the largest volume has one, whose granules are blocks */
#define SIM_META_REQUESTS_MAX (META_PAGES_MAX + SUPERBLOCK_COPIES)

enum sim_meta_area {
    SIM_META_ACTIVITY_LOG = META_ACTIVITY_LOG,
    SIM_META_BITMAP = META_BITMAP,
    SIM_META_SUPERBLOCK, /* its pages are its copies */
};

typedef void sim_meta_done_fn(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t index, int32_t result);

struct sim_meta_request {
    bool busy;
    enum sim_meta_area area;
    uint32_t index;
    const uint8_t *block;
    uint64_t check; /* of the block when it was submitted */
    sim_meta_done_fn *done;
};

struct sim_meta {
    struct medium medium;
    uint64_t superblock_stamps[SUPERBLOCK_COPIES * META_PAGE_BYTES / SECTOR_BYTES]; /* when it was last read */
    struct sim_meta_request requests[SIM_META_REQUESTS_MAX];
    uint32_t busy;
    unsigned error_per_million;
    unsigned page_error_per_million; /* of the activity log and the bitmap alone */
    uint32_t log_newest;             /* the pages of the log that were written last */
    uint32_t log_before;
    bool log_sealed; /* the newest is on disk, and without it nothing would be missing */
};

void sim_meta_open(struct sim_meta *meta);
void sim_meta_reset(struct sim_meta *meta);

/* Writes a page, stable when `done` is called with 0. The block stays unchanged until then; it is forgotten when the
 * node goes down. Pages are written in any order, each by one write at a time. */
void sim_meta_write(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t index, const uint8_t *block,
                    sim_meta_done_fn *done);

/* As a node reads it when it starts: 0, or -EIO and a block full of 0xff. */
int sim_meta_read(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t index,
                  uint8_t block[META_PAGE_BYTES]);

/* At once and stable: of those sectors of the page whose bits are set. */
/* A flush of the superblocks. */
void sim_meta_settle_superblocks(struct sim *s, unsigned node);
void sim_meta_put(struct sim *s, unsigned node, enum sim_meta_area area, uint32_t index, const uint8_t *block,
                  unsigned sectors);
#define SIM_META_WHOLE 0xffu

/* False: the superblock's copies are as when this was last asked, and no sector has a flaw. */
bool sim_meta_superblock_is_new(struct sim_meta *meta);

void sim_meta_event(struct sim *s, unsigned node, uint32_t slot);
void sim_meta_crash(struct sim *s, unsigned node);
void sim_meta_power_loss(struct sim *s, unsigned node, unsigned survive_per_million);

/* A bit of some page rots, or a sector of it cannot be read any more; of the superblock's copies one at a time. False:
 * nothing happened. */
bool sim_meta_damage(struct sim *s, unsigned node);

/* ---- net.c ---- */

struct sim_net_faults {
    unsigned connect_fail_per_million;
    unsigned connect_hang_per_million;
    unsigned break_per_million; /* per frame */
    unsigned drop_per_million;
    unsigned corrupt_payload_per_million;
    unsigned corrupt_header_per_million;
    unsigned slow_per_million; /* frames that take long, and all behind them */
    unsigned stale_per_million;
};

struct sim_message {
    struct sim_message *next;
    uint64_t time_ns;
    bool is_close; /* no frame: the other side is told that the connection is gone */
    bool corrupted;
    struct frame_wire header;
    uint64_t payload_check; /* as sent */
    uint32_t payload_bytes;
    struct buf *payload; /* the sender's buffer, until it is delivered */
    uint8_t *copy;       /* of the payload, where there is no buffer or the sender has died */
};

enum sim_side_state { SIDE_OPENING, SIDE_OPEN, SIDE_CLOSED };

struct sim_conn {
    conn_id id[SIM_NODES];
    uint32_t boot[SIM_NODES];
    enum sim_side_state side[SIM_NODES];
    unsigned path;
    bool stranger;                /* side 0 is somebody else */
    bool lost[SIM_NODES];         /* what this side sends goes nowhere any more */
    bool closing[SIM_NODES];      /* a close is on its way from this side */
    uint64_t last_ns[SIM_NODES];  /* when the last message on its way from this side arrives */
    uint64_t heard_ns[SIM_NODES]; /* when this side last received something, by its own clock */
    bool starved[SIM_NODES];      /* this side has no buffer for what has come */
    uint64_t stalled_until_ns[SIM_NODES];
    struct sim_message *head[SIM_NODES]; /* on their way from this side */
    struct sim_message *tail[SIM_NODES];
};

#define SIM_CONNS_MAX 16384 /* where nodes that do not find to each other are waited for */

struct sim_net {
    struct sim_conn *conns; /* SIM_CONNS_MAX */
    uint32_t conn_count;
    struct sim_message *free;
    struct sim_net_faults faults;
    uint64_t partitioned_until_ns;
    unsigned bad_paths; /* bits: connects on this path fail */
    bool no_goodbye;    /* the end of a connection does not reach the other side */
    uint64_t delay_min_ns;
    uint64_t delay_max_ns;
    uint32_t on_way;              /* messages */
    uint64_t last_lsn[SIM_NODES]; /* of the changes sent */
    conn_id last_incoming;
};

void sim_net_reset(struct sim *s);
void sim_net_connect(struct sim *s, unsigned node, conn_id id, unsigned path);

/* `payload` or `bytes` hold frame->payload_bytes, or both are NULL. */
void sim_net_send(struct sim *s, unsigned node, conn_id id, const struct frame *frame, struct buf *payload,
                  const void *bytes);
void sim_net_close(struct sim *s, unsigned node, conn_id id, bool after_sending);
void sim_net_opened_event(struct sim *s, unsigned side, uint32_t conn);
void sim_net_frame_event(struct sim *s, unsigned from, uint32_t conn);
uint64_t sim_net_heard_ns(const struct sim *s, unsigned node, conn_id id); /* by the node's clock; 0: not open */
bool sim_net_is_open(const struct sim *s, unsigned node, conn_id id);

/* The node's process ends: `silent`: as if its machine had, so that nobody is told. */
void sim_net_crash(struct sim *s, unsigned node, bool silent);

/* Faults of a moment. */
void sim_net_break(struct sim *s, bool half_open);
void sim_net_stall(struct sim *s, unsigned from, uint64_t until_ns);
void sim_net_stranger(struct sim *s);
void sim_net_heal(struct sim *s);

/* ---- node.c: a daemon's shell around engine and session ---- */

#define SIM_EVENTS_MAX 64
#define SIM_POOL_BYTES (2 * MIB)
/* Twice what a run has changes: what is more would only be zeroed at each start. */
#define SIM_UNFLUSHED_MAX 8192

#define SIM_ORDERS_MAX 6
enum order {
    ORDER_PROMOTE,
    ORDER_PROMOTE_FORCE,
    ORDER_DEMOTE,
    ORDER_DEMOTE_FORCE,
    ORDER_DETACH,
    ORDER_DETACH_FORCE,
    ORDER_VERIFY,
    ORDER_VERIFY_REPAIR,
    ORDER_RESIZE,
    ORDER_RESOLVE,
    ORDER_RESOLVE_FORCE,
    ORDER_SWITCHOVER,
    ORDER_ADOPT,
};

static inline bool order_verifies(enum order o) { return o == ORDER_VERIFY || o == ORDER_VERIFY_REPAIR; }
static inline bool order_resolves(enum order o) { return o == ORDER_RESOLVE || o == ORDER_RESOLVE_FORCE; }

/* It holds up no other. */
static inline bool order_stands_aside(enum order o)
{
    return order_verifies(o) || o == ORDER_RESIZE || o == ORDER_ADOPT || order_resolves(o);
}

/* What a leg that is to be given up has in its file. */
struct sim_keep {
    bool open;  /* it is being written */
    bool whole; /* it is on stable storage */
    int32_t result;
    enum { SIM_KEPT_NOT, SIM_KEPT, SIM_KEPT_UNREADABLE } state[MODEL_BLOCKS_MAX];
    uint8_t data[MODEL_BLOCKS_MAX * BLOCK_BYTES];
};

/* A node's own clock: nodes agree neither on the time nor on how fast it goes. */
struct sim_clock {
    uint64_t world_ns; /* it showed `local_ns` then */
    uint64_t local_ns;
    uint64_t per_million; /* of the world's speed */
};

struct sim_node {
    unsigned index;
    bool up;
    uint32_t boot;     /* counts the starts of its daemon */
    struct id machine; /* its boot id: another one after a loss of power */
    struct engine *engine;
    struct session *session;
    struct buf_pool pool;
    struct buf *ballast[5]; /* all but 1/32 of the pool, so that buffers run out */
    struct sim_clock clock;
    bool serving;
    bool holds;    /* its clients of before hear nothing: what they had asked for has no known end */
    bool stepping; /* inside sim_node_run() */

    struct event events[SIM_EVENTS_MAX]; /* for the engine */
    char event_text[SIM_EVENTS_MAX][128];
    uint32_t event_head;
    uint32_t event_count;

    struct sim_meta meta;
    struct superblock superblock_read; /* as it was read last */
    unsigned superblock_bad;           /* bits: copies that did not agree when it was last read */
    bool superblock_busy;
    uint8_t superblock_blocks[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES]; /* on their way to the disk */
    uint8_t superblock_order[SUPERBLOCK_COPIES];
    unsigned superblock_started; /* copies, of which `superblock_left` are under way */
    unsigned superblock_left;
    unsigned superblock_good;
    uint64_t superblock_epoch; /* under way */
    uint64_t superblock_done_ns;
    bool knew_decree[2]; /* the other node had a decree on record when the last superblock was begun, and when the one
                            before */
    uint64_t epoch;      /* on stable storage */
    bool meta_has_failed;
    struct id hello_volume; /* of the peer's last hello */
    uint64_t hello_epoch;   /* ... and what it said */
    uint64_t heard_epoch;   /* the highest of those that it refused, as a secondary */
    uint64_t traced_dirty_bytes;

    uint64_t tick_at_ns; /* when the next Q_TICK comes; UINT64_MAX: none is queued */
    bool tells_heard;    /* its transport knows when bytes last came */

    struct sim_order {
        bool busy;
        enum order what;
    } orders[SIM_ORDERS_MAX]; /* given and not yet answered */
    struct sim_keep keep;
    bool detached;          /* the engine has said so */
    bool moves;             /* its metadata, to its new place */
    uint32_t former_blocks; /* behind the volume, where it was before; 0: elsewhere */
    uint32_t served_blocks; /* that its clients have seen, at the most */
    bool asks;              /* the register, and has not been answered */
    uint32_t asked_serial;
    struct register_answer answer;
    uint64_t paused_until_ns; /* it stands still, as after SIGSTOP: nothing reaches it, and its clock goes on */
};

void sim_node_reset(struct sim *s, unsigned node);
void sim_node_create(struct sim *s, unsigned node); /* a fresh leg, as `lockstep create` leaves it */
void sim_node_superblock(struct sim *s, unsigned node, struct superblock *sb); /* as it would be read now */
void sim_node_drop_ballast(struct sim *s, unsigned node);
void sim_node_start(struct sim *s, unsigned node);
void sim_node_crash(struct sim *s, unsigned node);

/* The machine loses power; its daemon may be down. */
void sim_node_power_loss(struct sim *s, unsigned node);

/* Its clock goes forward, as after the machine was suspended. */
void sim_node_clock_jump(struct sim *s, unsigned node, uint64_t by_ns);

/* Gives something to the engine or the session, and carries out all that follows. */
void sim_node_engine(struct sim *s, unsigned node, struct event ev);
void sim_node_session(struct sim *s, unsigned node, struct session_event ev);
void sim_node_tick(struct sim *s, unsigned node);
void sim_node_order(struct sim *s, unsigned node, enum order what);
unsigned sim_node_orders(const struct sim *s, unsigned node); /* under way, that hold up others */
bool sim_node_verifies(const struct sim *s, unsigned node);
bool sim_node_adopts(const struct sim *s, unsigned node);
bool sim_node_resolves(const struct sim *s, unsigned node);
uint64_t sim_node_now(const struct sim *s, unsigned node);

static inline bool sim_is_paused(const struct sim_node *n, uint64_t now_ns) { return n->paused_until_ns > now_ns; }

/* ---- register.c: the third party ---- */

#define SIM_REGISTER_MESSAGES_MAX 1024

enum sim_register_way { WAY_THERE, WAY_BACK, WAYS };

struct sim_register_message {
    bool busy;
    bool lost; /* with the register that it was on its way to */
    enum { REGISTER_ARRIVES, REGISTER_ANSWERS, REGISTER_TIMES_OUT } step;
    unsigned node;
    uint32_t boot;
    uint32_t serial;
    struct register_request request;
    struct register_answer answer;
};

/* rollback.c: it is put back to an older copy of itself. */
struct sim_rollback {
    bool often;             /* in this run */
    bool etcd;              /* it remembers nobody's word, and nothing but the decree and the ages */
    bool taken;             /* there is a copy */
    bool is_back;           /* it was put back, and no decree was made since */
    uint64_t at_ns;         /* ... when */
    bool foreign;           /* ... as another cluster */
    bool without;           /* the nodes have none any more, as what they know together is not everything */
    unsigned refused;       /* how many orders to adopt since it was put back */
    uint64_t highest_epoch; /* that it ever had */
    struct decree last;     /* that it has made, at whatever time */
    struct register_row copy;
};

struct sim_register {
    struct sim_rollback back;
    struct register_row row;
    bool automatic;         /* `failover` */
    bool suspends;          /* `when-alone: suspend` */
    bool calm;              /* it answers at once, always */
    bool forced;            /* an operator has promoted a leg that lacks something, and nobody has it again yet */
    unsigned forced_node;   /* ... whose leg that is */
    uint64_t fail_after_ns; /* 0: never */
    uint64_t timeout_ns;
    unsigned lose_per_million;
    unsigned late_per_million;   /* messages that come long after */
    unsigned repeat_per_million; /* questions that arrive once more, at any later time */
    unsigned strikes;            /* bits: which of sim_register_strike() */
    uint64_t cut_until_ns[SIM_NODES][WAYS];
    uint64_t down_until_ns;
    uint64_t deaf_until_ns; /* a primary is heard by nobody, on no path; 0: none is */
    struct sim_register_message messages[SIM_REGISTER_MESSAGES_MAX];
};

void sim_register_reset(struct sim *s);
/* The highest that the register has heard of the node's leg; 0: none. */
uint64_t sim_register_age(const struct sim *s, unsigned node);
void sim_register_ask(struct sim *s, unsigned node, const struct register_request *request);
void sim_register_event(struct sim *s, uint32_t message);
bool sim_register_has(struct sim *s, unsigned node);         /* its leg is a member */
void sim_register_check(struct sim *s);                      /* every member has everything */
void sim_register_acked_alone(struct sim *s, unsigned node); /* ... also a disk that is not there */
void sim_register_session_is_up(struct sim *s, unsigned node);
void sim_register_becomes_target(struct sim *s, unsigned node, bool source_knows_decree);
/* A target becomes whole. */
void sim_register_takes_in(struct sim *s, unsigned node, const struct superblock *before, const struct superblock *sb);
void sim_register_keeps(struct sim *s, unsigned node);
void sim_register_strike(struct sim *s);
void sim_register_heal(struct sim *s);
bool sim_register_needs_operator(struct sim *s); /* for somebody to serve */
void sim_register_calm(struct sim *s);           /* nothing strikes in this run */
void sim_register_starts_anew(struct sim *s);    /* it forgets whom it has heard */

void sim_rollback_reset(struct sim *s);
void sim_rollback_strike(struct sim *s);
void sim_rollback_forgets_words(struct sim *s);
/* Another cluster's: true, and what the client makes of it. */
bool sim_rollback_judges(struct sim *s, const struct register_request *request, struct register_answer *a);
void sim_rollback_decreed(struct sim *s);

/* ---- sleep.c: machines that sleep, and clocks that jump, in runs with a register ---- */

struct sim_sleep {
    bool often;
    bool jumps;
    bool had_long;
    uint64_t
        lease_void_until_ns[SIM_NODES]; /* the other one's clock has jumped: a read may be of the past until then */
};

void sim_sleep_reset(struct sim *s);
void sim_sleep_strike(struct sim *s);
bool sim_sleeps(const struct sim *s);              /* either node stands still */
void sim_wake_event(struct sim *s, unsigned node); /* a client asks one that has slept */
bool sim_sleep_lease_is_void(const struct sim *s, unsigned node, uint64_t begun_ns); /* of a read */

/* ---- force.c: promotions by force, where nobody should ---- */

void sim_force_decreed(struct sim *s, unsigned node);
/* By the register's decree: also where it has died before it was told, or the order had its end before. */
bool sim_is_forced(const struct sim *s, unsigned node);
void sim_force_is_over(struct sim *s); /* both legs have everything again, or a person has decided */
/* A change is acknowledged: not by whom the register's answer has deposed. */
void sim_force_acked(struct sim *s, unsigned node, const struct engine_view *v);

/* ---- probe.c: who has not noticed that another node serves ---- */

void sim_probe(struct sim *s);

/* ---- moves.c: service that moves for nothing ---- */

struct sim_moves {
    bool calm;           /* nothing strikes in this run */
    uint64_t trouble_ns; /* when something was wrong last: a node started or ended, or got an order */
    uint64_t rests_until_ns;
    bool rested;
};

void sim_moves_reset(struct sim *s);
void sim_trouble(struct sim *s);
void sim_moves_decreed(struct sim *s, unsigned by); /* a decree that `by` has asked for */

/* ---- resize.c: sizes ---- */

/* The shell's part of a leg that gets room. */
void sim_grow(struct sim *s, unsigned node, enum grow_step step);
void sim_grow_event(struct sim *s, unsigned node, enum grow_step step);

/* No size shrinks, and none is taken for which the other leg has no room; room is zeroes. */
void sim_size_on_record(struct sim *s, unsigned node, const struct superblock *sb); /* is about to go to its disk */
void sim_size_served(struct sim *s, unsigned node, uint64_t bytes);

/* ---- resolve.c: what is given up is kept ---- */

/* The shell's part. */
void sim_keep(struct sim *s, unsigned node, const struct action *a);
void sim_keep_event(struct sim *s, unsigned node);

/* What the leg has on its own is kept before it is given up. */
void sim_resolve_on_record(struct sim *s, unsigned node, const struct superblock *before, const struct superblock *sb);

/* ---- client.c ---- */

#define SIM_CLIENTS_MAX 4
#define SIM_OPS_MAX 2048

struct sim_op {
    bool busy;
    uint32_t generation;
    uint32_t client;
    unsigned node;
    uint32_t boot;
    enum op_kind kind;
    uint32_t flags;
    uint32_t first;
    uint32_t count;
    struct buf *buf;
    uint32_t write; /* changes: the model's id */
    uint32_t span;  /* reads, flushes and FUA changes */
    bool has_span;
    uint64_t begun_ns;
};

struct sim_client {
    unsigned queue_depth;
    unsigned in_flight;
    unsigned count_max; /* blocks a request */
    unsigned read_per_million;
    unsigned zero_per_million;
    unsigned flush_per_million;
    unsigned fua_per_million;
    unsigned hot_per_million; /* requests inside the hot range */
    uint64_t think_max_ns;
};

struct sim_clients {
    struct sim_client client[SIM_CLIENTS_MAX];
    unsigned client_count;
    uint32_t hot_first;
    uint32_t hot_count;
    struct sim_op ops[SIM_OPS_MAX];
    uint64_t ops_busy[SIM_OPS_MAX / 64]; /* bits */
    uint32_t in_flight;
    uint32_t changes_in_flight;
    uint32_t reads_in_flight;
    uint32_t left; /* requests still to make */
    uint64_t changed_blocks;
    bool flush_failed; /* the last one that ended */
    bool stopped;
};

void sim_clients_reset(struct sim *s);
void sim_client_event(struct sim *s, uint32_t client);

/* It has stopped for a switchover of which nobody knows the end, and may let fail what waits for that. */
bool sim_is_held_up(struct sim *s, unsigned node);
/* One request outside any client's turn. False when it cannot be taken now. */
bool sim_client_submit(struct sim *s, uint32_t client, unsigned node, enum op_kind kind, uint32_t flags, uint32_t first,
                       uint32_t count);
void sim_client_complete(struct sim *s, unsigned node, void *cookie, int32_t result);
unsigned sim_clients_busy(struct sim *s, unsigned node);               /* requests in flight there */
bool sim_clients_change(struct sim *s, unsigned node, uint32_t block); /* one of them is a change of this block */
void sim_clients_daemon_died(struct sim *s, unsigned node);
void sim_clients_session_lost(struct sim *s);

/* ---- legs.c: what each leg must hold ---- */

struct sim_legs {
    uint32_t span;                /* keeps the model from forgetting what a leg may still hold */
    uint64_t flushed[SIM_NODES];  /* what was acknowledged before is stable on this leg */
    bool behind[SIM_NODES];       /* the leg lost power, or the other went on alone; and it is not in sync again yet */
    uint64_t since[SIM_NODES];    /* ... which was then */
    uint64_t bound[SIM_NODES];    /* ... but has what was acknowledged before, and what was acknowledged as stable */
    bool alone[SIM_NODES];        /* this node has acknowledged what the other leg lacks, since they were in sync */
    bool blank[SIM_NODES];        /* behind, as its disk was replaced: it has nothing until it is in sync */
    uint64_t taken_in[SIM_NODES]; /* `flushed` of the other one, when this one's record said last that it is in sync */
    uint64_t cut[SIM_NODES];      /* when it last lost power */
    uint64_t term[SIM_NODES]; /* epoch at which it was, or could have been, primary, and not in sync after it; or 0 */
    uint64_t parted;          /* `split` since then */
    bool split;               /* both have: nothing can be said of the volume's content any more */
};

void sim_legs_reset(struct sim *s);
void sim_legs_flushed(struct sim *s, unsigned node, uint64_t begun); /* by the model's clock */

void sim_legs_replaced(struct sim *s, unsigned node);

/* It has what was acknowledged before `flushed`, by the model's clock, and nobody knows what else. */
void sim_legs_put_back(struct sim *s, unsigned node, uint64_t flushed);

/* `node` acknowledges a change, or a flush. `lacking`: the other leg has it not, and this is the check that fails
 * unless it is on record that the other one is not in the in-sync set. */
void sim_legs_acked(struct sim *s, unsigned node, const char *lacking);

/* `node` puts on record that its leg is up to date, and the other one, too. */
void sim_legs_taken_in(struct sim *s, unsigned node);

/* `node` puts on record that the other one has left the in-sync set: what was acknowledged has to be stable here. */
void sim_legs_leaves_behind(struct sim *s, unsigned node);

/* `node` puts on record that it is being resynced: what was acknowledged, and its leg has, has to be stable on the
 * other one. */
void sim_legs_becomes_target(struct sim *s, unsigned node);

/* A person keeps this node's leg, and gives up what only the other one has. What was acknowledged before they parted,
 * and by this node since then, has to be there. */
void sim_legs_keep(struct sim *s, unsigned node);

/* `node`, whose own leg is out, acknowledges through the other one's. Fails unless that is on record there. */
void sim_legs_acked_through(struct sim *s, unsigned node);

/* Its record says that it is being resynced: it cannot be promoted without force, whatever else it says. */
bool sim_legs_is_target(struct sim *s, unsigned node);

/* By what lies on the disks: a resync would make the other one from it, had that one lost something. */
bool sim_legs_can_be_source(struct sim *s, unsigned node);

/* A node begins to serve on a leg that lacks something: what that is, is given up; or the nodes are apart, and what is
 * read here is not the volume any more. */
void sim_legs_serves(struct sim *s, unsigned node);

/* Whatever was behind is not, once both nodes say that they are in sync; and then it must have everything. To be called
 * after each step of an engine. */
void sim_legs_look(struct sim *s);

/* Their machines lose power at one instant. Called when the disks have settled. */
void sim_legs_power_lost(struct sim *s, const bool lost[SIM_NODES]);

/* Both nodes say that both legs hold everything: after the silent death of one, the other may not know better. */
bool sim_legs_in_sync(const struct sim *s);

/* On this node: see the model's checks. */
bool sim_leg_holds(struct sim *s, unsigned node, enum sim_layer layer, uint32_t write);
bool sim_leg_is_current(struct sim *s, unsigned node, enum sim_layer layer, uint64_t bound);

/* The first block that reads otherwise on the other leg, and that neither disk has spoilt; or UINT32_MAX. */
uint32_t sim_legs_differ(const struct sim *s);
uint32_t sim_legs_differing(const struct sim *s, uint32_t blocks); /* of so many, spoilt or not */

/* What a view of both legs must show at any moment. */
void sim_audit(struct sim *s);

/* ---- plan.c: faults, orders, and the phases of a run ---- */

enum stage { STAGE_SETUP, STAGE_LOAD, STAGE_HEAL, STAGE_READ_BACK, STAGE_DETACH, STAGE_END };

struct sim_plan {
    enum stage stage;
    uint64_t kinds; /* bits: what may strike in this run */
    uint64_t gap_max_ns;
    uint64_t load_until_ns;
    uint64_t deadline_ns;        /* of the stage */
    unsigned home;               /* the node that is to be primary */
    uint32_t step;               /* of the stage */
    bool gone[SIM_NODES];        /* a killed primary: it is back when the other one serves, or will not */
    bool mends;                  /* failed disks are replaced by the operators, who take their nodes down and up */
    bool half[SIM_NODES];        /* the promotion was of a target of a resync, by the engine's memory */
    bool forces[SIM_NODES];      /* the promotion under way is by force */
    bool half_forced[SIM_NODES]; /* was promoted by force as the target of a resync, and was not in sync since */
    bool obstacle[SIM_NODES];    /* ... and nothing less would do */
    /* The last resync, as its source saw it. */
    struct {
        bool known;
        bool interrupted;
        unsigned source;
        uint32_t boot[SIM_NODES];
        uint64_t left_bytes;
        uint64_t done_bytes;
        bool full;   /* all of the volume was to be compared when it began */
        bool writes; /* changes were in flight */
        bool waited; /* there were changes in flight when its session began: they go to the target in it */
        uint64_t changed_blocks;
    } resync;
    unsigned takeover;                /* steps of STRIKE_TAKEOVER taken */
    bool asked[SIM_NODES];            /* promoted while it was connected to a primary, who has to agree */
    bool detaches_primary[SIM_NODES]; /* it was told to, while it was primary */
    bool mended[SIM_NODES];           /* the failed leg was taken down and up */
    bool resolves;                    /* a person gives up a leg, which is on its record soon */
    unsigned resolved;                /* of this node */
    bool resolves_by_force;           /* as it has heard that some of it cannot be read */
    bool was_half;                    /* it was inconsistent before that */
    bool keeps_something;             /* it has anything to keep */
    uint64_t alone_since;      /* what its node got acknowledged from then on, the other leg has not; or MODEL_NEVER */
    bool decided;              /* a person has ended a split brain: there must be none after that */
    uint32_t grow_to;          /* blocks, of both backings, sooner or later; 0: nobody thinks of it */
    bool wrote_to_the_end;     /* ... when the volume has grown */
    bool old_copy[SIM_NODES];  /* its disk was put back from an older copy, and it is not whole since */
    bool copy_told[SIM_NODES]; /* ... which its record says, or has said */
    bool replaces[SIM_NODES];  /* its disk is to be replaced while it is down */
    /* What a loss of power does to sectors that are just being written. */
    struct {
        unsigned torn_per_million;
        unsigned unreadable_per_million;
    } cut;
    /* The verify of the end, where a disk has spoilt something. */
    struct {
        bool busy;
        bool over;
        uint32_t blocks; /* that one has compared; what differed there is repaired */
    } compare;
};

void sim_plan_reset(struct sim *s);
void sim_plan_event(struct sim *s);
void sim_plan_writes_meta(struct sim *s, unsigned node, const struct superblock *sb);
void sim_plan_flushed(struct sim *s);
void sim_plan_page_failed(struct sim *s, unsigned node); /* of its activity log or bitmap */
void sim_plan_sends(struct sim *s, unsigned from, const struct frame *frame);
void sim_plan_hands_over(struct sim *s, unsigned from); /* it has told the other node, or that one has its place */
void sim_plan_look(struct sim *s, unsigned node);       /* after each step of its engine */
bool sim_resyncs(const struct sim *s);                  /* a resync is under way */
void sim_plan_start(struct sim *s, unsigned node);      /* its daemon */
bool sim_plan_cuts_start(struct sim *s); /* while a daemon writes its first superblock, its machine loses power... */
void sim_plan_start_is_cut(struct sim *s, unsigned node); /* ... now */
enum cut {
    CUT_DAEMON,
    CUT_POWER,
    CUT_POWER_BOTH,
    CUT_POWER_THIS,
    CUT_SESSION,
    CUT_SOURCE,
    CUT_NODE,
    CUT_POWER_OF,
    CUT_REPLACE,
    CUT_RESOLVE,
    CUT_PAGE, /* after a page of metadata has failed */
    CUT_FOUND /* after a verify has found something */
};
void sim_plan_cut(struct sim *s, unsigned node, enum cut how);            /* when its time comes */
void sim_plan_serves(struct sim *s, unsigned node);                       /* its engine opens the front */
void sim_plan_late_order(struct sim *s, unsigned node, enum order order); /* given when its time comes */
void sim_plan_order_done(struct sim *s, unsigned node, enum order order, int32_t result, const char *text);

bool sim_node_view(const struct sim *s, unsigned node, struct engine_view *v); /* false: it is down */
int sim_primary(const struct sim *s);                                          /* -1: nobody serves */

/* ---- copy.c: a disk that is put back from an older copy ---- */

struct sim_copy {
    bool taken;
    struct superblock superblock;
    uint64_t flushed;     /* as of the leg, then */
    uint32_t block_count; /* of the backing */
    uint32_t log_newest, log_before;
    uint8_t data[MODEL_BLOCKS_MAX * SECTOR_BYTES];
    uint8_t meta[(SUPERBLOCK_COPIES + SIM_META_LOG_PAGES + SIM_META_BITMAP_PAGES) * META_PAGE_BYTES];
};

void sim_plan_note(struct sim *s, unsigned node, const char *text); /* its engine's, for people */
/* Fails, if its disk does not have that age. */
void sim_age_is_told(struct sim *s, unsigned node, uint64_t age);

struct sim {
    uint64_t seed;
    uint64_t now_ns;
    uint64_t steps;
    uint64_t hash;
    struct prng chance[CHANCES];
    struct queue queue;
    bool tracing;
    bool trace_all;
    char (*trace)[SIM_TRACE_BYTES];
    uint64_t trace_count;

    uint32_t block_count; /* of the volume, as clients have seen it */
    struct sim_disk disk[SIM_NODES];
    struct sim_spoilt spoilt;
    struct sim_net net;
    struct sim_node node[SIM_NODES];
    struct sim_clients clients;
    struct sim_legs legs;
    struct sim_copy copy[SIM_NODES];
    struct sim_plan plan;
    struct sim_register reg;
    struct sim_sleep sleep;
    struct sim_moves moves;
    uint32_t probed;      /* the block that is written and read on both; UINT32_MAX: none yet */
    bool registered;      /* the nodes have a register */
    bool only_registered; /* a run whose nodes have none ends at once */
    struct model model;

    struct actions actions; /* of one engine step */
    uint64_t dead_after_ns;
    uint64_t age_tick_ns;
    bool goes_alone; /* when-alone: continue */
    uint32_t log_slots;
    uint32_t window_frames;
    uint64_t window_bytes;

    /* Which node has got changes acknowledged at which epoch. */
    uint64_t acked_epoch;
    int acked_node;
    uint64_t served_at[SIM_NODES]; /* when it last began to serve, by the model's clock */
    bool ended;
};

struct sim *sim_new(void);
void sim_trace_print(const struct sim *s);

void sim_reset(struct sim *s, uint64_t seed);

/* Runs one seed to its end. The same world can be used for one seed after the other. Returns the run's hash. */
uint64_t sim_run(struct sim *s, uint64_t seed);

static inline uint8_t *sim_block(uint8_t *image, uint32_t block) { return image + (size_t)block * BLOCK_BYTES; }
