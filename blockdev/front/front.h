/* Capture: what hands an application's requests to the engine. NBD today, ublk later, behind one table of operations.
 *
 * The front validates everything a client sends, cuts requests into pieces of at most IO_BYTES_MAX (those without
 * payload: OP_RANGE_BYTES_MAX), receives payloads straight into buffers of the volume's pool, and makes their checksum:
 * the sink above gets well-formed requests only. When the sink or the pool has no room, the front stops reading the
 * client's socket: back-pressure, not memory. */
#pragma once

#include "blockdev/disk/disk.h"
#include "blockdev/ring/ring.h"
#include "repl/base/buf.h"
#include "repl/core/action.h"
#include "repl/core/event.h"

struct front;

/* The volume above the front. */
struct front_sink {
    void *ctx;
    bool (*can_accept)(void *ctx, enum op_kind kind);
    /* The backing holds what the volume holds, so that its holes are the volume's. Else all is told to be data: a
     * client takes a hole for zeroes, and does not read it. */
    bool (*backing_is_current)(void *ctx);
    /* Only after can_accept() said yes. Answered by front_complete(request->cookie), never from within the call. */
    void (*submit)(void *ctx, const struct request *request);
    void (*note)(void *ctx, enum note_level level,
                 const char *text); /* a client came, went, or was thrown out, and why */
};

struct front_config {
    struct ring *ring;
    struct buf_pool *pool;
    struct disk *disk; /* for block status and the constraints to advertise; not for data */
    struct front_sink sink;
    const char *volume;     /* export name */
    const char *address;    /* "unix:/path" or "HOST:PORT" */
    size_t keep_free_bytes; /* of the pool: writes leave that much, so that reads and the peer can go on */
};

/* Who is held, and how many requests of theirs wait, at the least: what nobody reads, nobody counts. */
struct front_held {
    unsigned clients;
    unsigned requests;
};

struct front_ops {
    void (*serve)(struct front *f, uint64_t size_bytes, uint32_t block_bytes);
    void (*refuse)(struct front *f, const char *why);
    void (*hold)(struct front *f, const char *why);
    bool (*holds)(const struct front *f);
    struct front_held (*held)(const struct front *f);
    void (*resume)(struct front *f);
    void (*flush_answers)(struct front *f);
    bool (*is_quiet)(const struct front *f);
    void (*close)(struct front *f, void (*closed)(void *ctx), void *ctx);
};

struct front {
    const struct front_ops *ops;
    struct front_sink sink;
};

/* Listens at once; until front_serve() clients are told `why` of front_refuse(). A stale unix socket that nobody
 * listens on is replaced; a living one is an error. */
struct front *front_nbd_open(const struct front_config *config, struct err *err);

/* Opens for business with a volume of this size, whose clients must keep to multiples of `block_bytes`, a power of two.
 * Those that are held are disconnected first. */
static inline void front_serve(struct front *f, uint64_t size_bytes, uint32_t block_bytes)
{
    f->ops->serve(f, size_bytes, block_bytes);
}

/* Stops taking requests: clients are disconnected once what they have in flight is answered, and new ones are refused
 * during negotiation with `why` (copied), for example "volume gold42 is served by paris-a". Those that are held are
 * disconnected at once. */
static inline void front_refuse(struct front *f, const char *why) { f->ops->refuse(f, why); }

/* The same to new clients. Those that are being served are held: they get no answer any more, nothing is taken from
 * them, and they stay connected, until they leave or front_serve(), front_refuse() or front_close() is called. What the
 * sink is busy with for them is still to be completed. A client that stops sending counts as one that has left. */
static inline void front_hold(struct front *f, const char *why) { f->ops->hold(f, why); }

/* Somebody is: cheap, while front_held() asks the sockets. */
static inline bool front_holds(const struct front *f) { return f->ops->holds(f); }

static inline struct front_held front_held(const struct front *f) { return f->ops->held(f); }

/* Room may have come back in the sink or in the pool: goes on with what waited, so that it may call sink.submit().
 * Cheap when nothing waits: call it in every turn of the loop in which something has completed, before
 * front_flush_answers().
 */
static inline void front_resume(struct front *f) { f->ops->resume(f); }

/* Sends the answers gathered since the last call; called once per turn of the loop. Never calls sink.submit(). */
static inline void front_flush_answers(struct front *f) { f->ops->flush_answers(f); }

/* True when no request is with the sink. */
static inline bool front_is_quiet(const struct front *f) { return f->ops->is_quiet(f); }

/* Ends all connections and frees the front; `closed` is called from the loop when nothing is in flight any more. */
static inline void front_close(struct front *f, void (*closed)(void *ctx), void *ctx) { f->ops->close(f, closed, ctx); }

/* Ends a request: `cookie` as in struct request, `result` 0 or a negative errno. Never calls sink.submit(), so that it
 * may be called while the engine's actions are carried out; but not from within sink.submit(). */
void front_complete(void *cookie, int32_t result);
