/* One simulated world: two nodes, their disks, the network between them, their clients and operators. A seed decides
 * everything that happens in it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/base/prng.h"
#include "repl/core/action.h"
#include "repl/engine/engine.h"
#include "repl/link/session.h"
#include "repl/meta/superblock_disk.h"
#include "tests/sim/cover.h"
#include "tests/sim/model.h"
#include "tests/sim/queue.h"

#define SIM_NODES 2
#define SIM_VOLUME "gold42"
#define SIM_EXIT_VIOLATION 3
#define SIM_GRANULE_BYTES BLOCK_BYTES /* of the bitmap */
#define SIM_EXTENT_BYTES (8 * BLOCK_BYTES)

struct sim;

/* ---- run.c: the clock, chance, the trace, and how a run fails ---- */

/* The streams of chance, so that what one part draws does not change what another meets. */
enum chance { CHANCE_PLAN, CHANCE_CLIENT, CHANCE_DISK, CHANCE_NET, CHANCE_NODE, CHANCE_QUEUE, CHANCES };

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
    uint64_t check;                          /* of the payload when it was submitted */
    uint64_t dirty_before[SIM_BITMAP_WORDS]; /* OP_FLUSH: what it has to make stable */
};

struct sim_disk {
    unsigned node;
    uint32_t block_count;
    uint8_t *content;                 /* what a read returns */
    uint8_t *stable;                  /* what would survive a loss of power */
    uint64_t dirty[SIM_BITMAP_WORDS]; /* blocks whose content has not reached `stable` */
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
};

void sim_disk_reset(struct sim *s, unsigned node, uint32_t block_count);
void sim_disk_submit(struct sim *s, unsigned node, const struct action *a);
void sim_disk_event(struct sim *s, unsigned node, uint32_t slot);
void sim_disk_crash(struct sim *s, unsigned node); /* the process dies: what was in flight has happened, or half */

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
    uint64_t heard_ns[SIM_NODES]; /* when this side last received something */
    bool starved[SIM_NODES];      /* this side has no buffer for what has come */
    uint64_t stalled_until_ns[SIM_NODES];
    struct sim_message *head[SIM_NODES]; /* on their way from this side */
    struct sim_message *tail[SIM_NODES];
};

#define SIM_CONNS_MAX 4096

struct sim_net {
    struct sim_conn *conns; /* SIM_CONNS_MAX */
    uint32_t conn_count;
    struct sim_message *free;
    struct sim_net_faults faults;
    uint64_t partitioned_until_ns;
    unsigned bad_paths; /* bits: connects on this path fail */
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
uint64_t sim_net_heard_ns(const struct sim *s, unsigned node, conn_id id);
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
#define SIM_POOL_BYTES (1 * MIB)

#define SIM_ORDERS_MAX 4
enum order { ORDER_PROMOTE, ORDER_PROMOTE_FORCE, ORDER_DEMOTE, ORDER_DEMOTE_FORCE, ORDER_DETACH, ORDER_DETACH_FORCE };

struct sim_node {
    unsigned index;
    bool up;
    uint32_t boot;     /* counts the starts of its daemon */
    struct id machine; /* its boot id: no machine restarts here, only daemons do */
    struct engine *engine;
    struct session *session;
    struct buf_pool pool;
    struct buf *ballast[5];  /* all but 1/32 of the pool, so that buffers run out */
    uint64_t clock_ahead_ns; /* nodes don't agree on the time */
    bool serving;
    bool stepping; /* inside sim_node_run() */

    struct event events[SIM_EVENTS_MAX]; /* for the engine */
    char event_text[SIM_EVENTS_MAX][128];
    uint32_t event_head;
    uint32_t event_count;

    uint8_t meta[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    bool meta_busy;
    uint8_t meta_pending[SUPERBLOCK_COPIES][SUPERBLOCK_BYTES];
    bool meta_copy_busy[SUPERBLOCK_COPIES];
    unsigned meta_left;
    unsigned meta_good;
    unsigned meta_error_per_million;
    bool meta_has_failed;

    uint64_t tick_at_ns; /* when the next Q_TICK comes; UINT64_MAX: none is queued */
    bool tells_heard;    /* its transport knows when bytes last came */

    struct sim_order {
        bool busy;
        enum order what;
    } orders[SIM_ORDERS_MAX]; /* given and not yet answered */
    bool detached;            /* the engine has said so */
};

void sim_node_create(struct sim *s, unsigned node);
void sim_node_superblock(struct sim *s, unsigned node, struct superblock *sb); /* as it would be read now */
void sim_node_start(struct sim *s, unsigned node);
void sim_node_crash(struct sim *s, unsigned node);

/* Gives something to the engine or the session, and carries out all that follows. */
void sim_node_engine(struct sim *s, unsigned node, struct event ev);
void sim_node_session(struct sim *s, unsigned node, struct session_event ev);
void sim_node_meta_event(struct sim *s, unsigned node, uint32_t copy);
void sim_node_tick(struct sim *s, unsigned node);
void sim_node_order(struct sim *s, unsigned node, enum order what);
unsigned sim_node_orders(const struct sim *s, unsigned node); /* under way */
uint64_t sim_node_now(const struct sim *s, unsigned node);

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
    uint32_t in_flight;
    uint32_t changes_in_flight;
    uint32_t reads_in_flight;
    uint32_t left; /* requests still to make */
    bool stopped;
};

void sim_clients_reset(struct sim *s);
void sim_client_event(struct sim *s, uint32_t client);

/* One request outside any client's turn. False when it cannot be taken now. */
bool sim_client_submit(struct sim *s, uint32_t client, unsigned node, enum op_kind kind, uint32_t flags, uint32_t first,
                       uint32_t count);
void sim_client_complete(struct sim *s, unsigned node, void *cookie, int32_t result);
void sim_clients_daemon_died(struct sim *s, unsigned node);
void sim_clients_session_lost(struct sim *s);

/* ---- plan.c: faults, orders, and the phases of a run ---- */

enum stage { STAGE_SETUP, STAGE_LOAD, STAGE_HEAL, STAGE_READ_BACK, STAGE_DETACH, STAGE_END };

struct sim_plan {
    enum stage stage;
    uint32_t kinds; /* bits: what may strike in this run */
    uint64_t gap_max_ns;
    uint64_t load_until_ns;
    uint64_t deadline_ns; /* of the stage */
    unsigned home;        /* the node that is to be primary */
    uint32_t step;        /* of the stage */
    bool service_ended;   /* the primary died, or a promotion was forced: nothing is in sync again */
    bool settled;         /* ... and nothing it had begun is on its way any more */
    unsigned survivor;
    bool may_differ;                  /* an operator took a decision that may leave the legs different */
    unsigned takeover;                /* steps of STRIKE_TAKEOVER taken */
    bool asked[SIM_NODES];            /* promoted while it was connected to a primary, who has to agree */
    bool detaches_primary[SIM_NODES]; /* it was told to, while it was primary */
    bool mended[SIM_NODES];           /* the failed leg was taken down and up */
};

void sim_plan_reset(struct sim *s);
void sim_plan_event(struct sim *s);
void sim_plan_writes_meta(struct sim *s, unsigned node, const struct superblock *sb);
void sim_plan_crash(struct sim *s, unsigned node);                        /* when its time comes */
void sim_plan_serves(struct sim *s, unsigned node);                       /* its engine opens the front */
void sim_plan_late_order(struct sim *s, unsigned node, enum order order); /* given when its time comes */
void sim_plan_order_done(struct sim *s, unsigned node, enum order order, int32_t result, const char *text);

/* What a view of both legs must show at any moment. */
void sim_audit(struct sim *s);

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

    uint32_t block_count;
    struct sim_disk disk[SIM_NODES];
    struct sim_net net;
    struct sim_node node[SIM_NODES];
    struct sim_clients clients;
    struct sim_plan plan;
    struct model model;

    struct actions actions; /* of one engine step */
    uint64_t dead_after_ns;
    uint32_t window_frames;
    uint64_t window_bytes;

    /* Which node has got changes acknowledged at which epoch. */
    uint64_t acked_epoch;
    int acked_node;
    bool ended;
};

struct sim *sim_new(void);
void sim_trace_print(const struct sim *s);

/* Runs one seed to its end. The same world can be used for one seed after the other. Returns the run's hash. */
uint64_t sim_run(struct sim *s, uint64_t seed);

static inline uint8_t *sim_block(uint8_t *image, uint32_t block) { return image + (size_t)block * BLOCK_BYTES; }
