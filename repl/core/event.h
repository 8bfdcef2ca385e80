/* What happens to a volume: everything the engine ever learns, it learns from one of these. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "proto/frame.h"
#include "repl/base/buf.h"
#include "repl/core/decree.h"
#include "repl/core/grow.h"
#include "repl/core/hello.h"
#include "repl/core/meta_area.h"
#include "repl/core/op.h"

/* An application's request, cut to size, aligned and inside the volume's size by the front. */
struct request {
    enum op_kind kind;
    uint32_t flags;        /* OP_FLAG_ */
    uint64_t offset_bytes; /* multiples of BLOCK_BYTES */
    uint64_t length_bytes; /* > 0, at most IO_BYTES_MAX for OP_READ and OP_WRITE; 0 for OP_FLUSH */
    struct buf *buf; /* OP_WRITE: the payload, OP_READ: room for it; one reference stays the front's until completion */
    uint64_t payload_check; /* OP_WRITE: checksum64 of the payload, made at capture */
    void *cookie;           /* the front's; comes back in ACT_COMPLETE */
};

enum event_kind {
    EV_REQUEST,        /* .request: only while the engine serves and engine_can_accept() says so */
    EV_DISK_DONE,      /* .disk: an ACT_DISK of ours has ended */
    EV_META_DONE,      /* .meta: the ACT_META_WRITE has ended */
    EV_META_PAGE_DONE, /* .page: the ACT_META_PAGE has ended */
    EV_TICK,           /* engine_deadline_ns() has come */
    EV_HELLO,          /* .hello: the peer's, on a new session; answered by ACT_SESSION_READY or ACT_SESSION_REFUSE */
    EV_PEER_READY,     /* the peer is ready, and this side has not said so yet */
    EV_SESSION_UP,     /* both sides are ready: frames may be sent from now on. .heard: of this node's hello */
    EV_SESSION_DOWN, /* .down: nothing sent before counts any more, and nothing of that session will arrive any more */
    EV_HEARD,        /* .heard: the peer of this session has received what this node sent at that time */
    EV_FRAME,        /* .frame: a change, flush, ack or decree from the peer, its payload verified */
    EV_PROMOTE,      /* .order */
    EV_DEMOTE,       /* .order */
    EV_VERIFY,       /* .order: compare both legs; force: and repair what differs. Ends with 0, -EILSEQ (they differ) or
                        another errno */
    EV_RESIZE,       /* .order: the volume grows as far as both legs have room */
    EV_GROW_DONE,    /* .grow: the ACT_GROW has ended */
    EV_RESOLVE,      /* .order: what this leg has that the peer's has not is kept aside, then given up */
    EV_KEEP_DONE,    /* .keep: the ACT_KEEP has ended */
    EV_DETACH,       /* .order: drain, mark the leg clean, be done */
    EV_REGISTER,     /* .answer: to the ACT_REGISTER */
    EV_SWITCHOVER,   /* .order: the node that does not serve takes over, with nothing lost and nothing resynced */
    EV_HELD_GONE,    /* of those whom an ACT_SERVE said to hold nobody is there, or nobody was */
    EV_ADOPT,        /* .order: this primary's decree is put over a register that is older, or has none */
};

struct event {
    enum event_kind kind;
    uint64_t now_ns; /* monotonic, and going on while the machine sleeps. Read after what the event tells was taken in:
                        of an EV_REQUEST, after the request came from its client (docs/FAILOVER.md, "Reads") */
    union {
        struct request request;
        struct {
            uint32_t op;    /* from the ACT_DISK */
            int32_t result; /* 0: all of it was done; else negative errno. A short transfer is -EIO */
        } disk;
        struct {
            int32_t result; /* 0: enough copies are on stable storage; else negative errno */
        } meta;
        struct {
            enum meta_area area;
            uint32_t index;
            int32_t result; /* 0: it is on stable storage; else negative errno */
        } page;
        const struct hello *hello; /* valid during the step */
        struct {
            const char *reason; /* valid during the step */
            uint64_t heard_ns;  /* when the peer was last heard in it, or later; 0: now */
        } down;
        struct {
            uint64_t sent_ns; /* by this node's clock, as of `now_ns`; 0: not known */
            uint64_t age;     /* EV_HEARD: that the peer tells of its leg; 0: none */
        } heard;
        const struct register_answer *answer; /* valid during the step */
        struct {
            struct frame frame;
            struct buf *payload; /* FRAME_WRITE: one reference, given to the engine */
        } frame;
        struct {
            bool force;
            void *cookie;    /* comes back in ACT_ORDER_DONE */
            uint64_t unix_s; /* EV_VERIFY: the calendar's time, for the record; 0: not known */
        } order;
        struct {
            enum grow_step step;
            int32_t result;        /* 0, or a negative errno */
            const char *reason;    /* of an error, in a sentence; valid during the step */
            bool flush_failed;     /* ... of a flush: the disk may have lost other things, too */
            struct grow_plan plan; /* of GROW_LOOK */
        } grow;
        struct {
            int32_t result;     /* 0, or a negative errno */
            const char *reason; /* of an error, in a sentence; valid during the step */
        } keep;
    };
};
