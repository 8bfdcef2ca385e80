/* What the engine wants done. The shell (repl/node, or the simulator) carries the actions out in the order given. */
#pragma once

#include <stdarg.h>

#include "repl/core/event.h"
#include "repl/core/keep.h"
#include "repl/core/superblock.h"

enum action_kind {
    ACT_DISK,       /* .disk: start it; answered by EV_DISK_DONE */
    ACT_META_WRITE, /* .meta: put the superblock on stable storage; answered by EV_META_DONE. Never two at a time */
    ACT_META_PAGE,  /* .page: put it on stable storage; answered by EV_META_PAGE_DONE. Any order, META_PAGES_MAX at most
                     */
    ACT_SEND,       /* .send: to the peer, in this order. The link takes its own reference to the payload */
    ACT_BUF_PUT,    /* .put: give the engine's reference back; a frame sent before may carry the buffer */
    ACT_COMPLETE,   /* .complete: answer the front; its reference to the buffer is its own again */
    ACT_SESSION_READY,  /* the peer's hello was accepted: tell it */
    ACT_SESSION_REFUSE, /* .text: tell it why, close, try again later */
    ACT_SESSION_DROP,   /* .text: the peer broke the rules or failed: close, connect again */
    ACT_SERVE, /* .serve: open or close the front. After closing no EV_REQUEST may follow. Open already: the size has
                  grown. Closed already: clients that it holds are let go */
    ACT_GROW,  /* .grow: answered by EV_GROW_DONE. One at a time */
    ACT_KEEP,  /* .keep: answered by EV_KEEP_DONE. One at a time */
    ACT_ORDER_DONE, /* .order: an operator's order has ended */
    ACT_REGISTER,   /* .ask: answered by EV_REGISTER. One at a time; only with engine_config.failover.has_register */
    ACT_NOTE,       /* .note: a state change or fault that people want to know of */
};

enum note_level {
    NOTE_INFO,
    NOTE_WARNING,
    NOTE_ERROR, /* needs a person */
};

#define ACTION_TEXT_BYTES 384

struct action {
    enum action_kind kind;
    union {
        struct {
            uint32_t op; /* comes back in EV_DISK_DONE */
            enum op_kind kind;
            uint32_t flags;
            uint64_t offset_bytes;
            uint64_t length_bytes;
            struct buf *buf;           /* OP_READ, OP_WRITE; the engine keeps it referenced until EV_DISK_DONE */
            uint32_t buf_offset_bytes; /* where in the buffer the data begins; aligned like the offset on the disk */
        } disk;
        struct {
            const struct superblock *superblock; /* unchanged until EV_META_DONE */
        } meta;
        struct {
            enum meta_area area;
            uint32_t index;       /* of the page in its area */
            const uint8_t *block; /* META_PAGE_BYTES; unchanged until EV_META_PAGE_DONE */
        } page;
        struct {
            struct frame frame; /* `number` is the session's to fill in */
            struct buf *payload;
            bool payload_is_given; /* the emitter's reference goes along: who carries this out gives it back */
        } send;
        struct {
            struct buf *buf;
        } put;
        struct {
            void *cookie;
            int32_t result; /* 0 or negative errno */
        } complete;
        struct {
            bool on;
            bool hold; /* closed to all, but nobody is told: those who are connected are neither answered from here on,
                          whatever ACT_COMPLETE says, nor disconnected before the next ACT_SERVE */
            uint64_t size_bytes; /* of the volume, when on */
        } serve;
        struct {
            enum grow_step step;
        } grow;
        struct {
            enum keep_step step;
            void *cookie;                    /* KEEP_BEGIN: of the order, which says where to */
            const struct keep_info *info;    /* KEEP_BEGIN: unchanged until EV_KEEP_DONE, like what follows */
            const struct keep_piece *pieces; /* KEEP_DATA: in order */
            uint32_t count;
            const struct buf *buf;
        } keep;
        struct {
            void *cookie;
            int32_t result;   /* 0: done; -EBUSY, -EPERM, ...: refused */
            const char *text; /* points into the actions' text; NULL: it is done, and there is nothing to add */
        } order;
        struct {
            const struct register_request *request; /* unchanged until EV_REGISTER */
        } ask;
        struct {
            enum note_level level;
            const char *topic; /* a constant word: "role", "link", "leg", "serve", "disk", "payload", "witness" */
            const char *text;
        } note;
        struct {
            const char *text;
        } text;
    };
};

/* The actions of one or more steps. The memory is the owner's, fixed at open. */
struct actions {
    struct action *list;
    uint32_t count;
    uint32_t max;
    char *text; /* what the const char * above point into */
    uint32_t text_used;
    uint32_t text_bytes;
};

static inline void actions_clear(struct actions *out)
{
    out->count = 0;
    out->text_used = 0;
}

/* The new action is all zeroes but for its kind. */
struct action *actions_add(struct actions *out, enum action_kind kind);

/* Text that lives until actions_clear(); cut short when the room is used up, never overrun. */
const char *actions_text(struct actions *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

void actions_note(struct actions *out, enum note_level level, const char *topic, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
