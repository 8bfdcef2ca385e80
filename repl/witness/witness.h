/* The embedded witness: serves the registers of volumes over TCP, from a database in a directory. A thread of its own,
 * which waits for no client; what clients do wrong ends their own connection, with a line in the log. */
#pragma once

#include "repl/base/list.h"
#include "repl/core/action.h"
#include "repl/witness/witness_store.h"

#define WITNESS_CONNECTIONS_MAX 1024                      /* the one that was silent longest makes room */
#define WITNESS_QUESTION_NS_MAX (UINT64_C(10000000000))   /* from connecting, or a message's first byte, to its last */
#define WITNESS_UNREAD_NS_MAX (UINT64_C(30000000000))     /* for how long a client may leave its answers unread */
#define WITNESS_LIVES_NS_MAX (900 * UINT64_C(1000000000)) /* a volume lives so long after a node asked for it last */
#define WITNESS_ADDRESS_BYTES 272                         /* "HOST:PORT", with the final NUL */

struct witness;

struct witness_options {
    const char *listen;       /* "HOST:PORT" or "[V6]:PORT"; port 0: any */
    const char *state;        /* directory */
    uint64_t question_ns_max; /* 0: WITNESS_QUESTION_NS_MAX */
    uint64_t unread_ns_max;   /* 0: WITNESS_UNREAD_NS_MAX */
    uint64_t lives_ns_max;    /* 0: WITNESS_LIVES_NS_MAX, which is longer than any node is silent that serves */
    void *ctx;
    /* From the witness's thread, and from witness_open(): what has happened. `volume` may be NULL. Must not wait. */
    void (*tell)(void *ctx, const char *volume, enum note_level level, const char *text);
};

/* Takes copies. NULL with `err` set: an address that cannot be listened on, a database that cannot be used. */
struct witness *witness_open(const struct witness_options *options, struct err *err);

/* Ends the thread; orders under way are answered with -ECANCELED. */
void witness_close(struct witness *w);

/* Where it listens, as numbers. */
const char *witness_address(const struct witness *w);

/* ---- orders of an operator ---- */

#define WITNESS_VOLUMES_AT_ONCE 64

enum witness_order_kind {
    WITNESS_STATUS,  /* of one volume, or ("") of all */
    WITNESS_HISTORY, /* of one volume */
    WITNESS_CONFIRM, /* one volume: its swaps may be carried out */
    WITNESS_FORGET,  /* one volume: there is no decree of it any more. Refused if it lives, unless by force */
};

struct witness_volume {
    char name[NAME_BYTES_MAX];
    struct decree decree;  /* its epoch is 0: there is none */
    uint64_t since_us;     /* when it was made, since 1970, UTC; 0: there is none */
    bool confirmed;        /* swaps may be carried out */
    uint64_t highest_told; /* above the decree's epoch: nodes know better */
    unsigned told_count;
    struct {
        char node[NAME_BYTES_MAX];
        uint64_t epoch;
    } told[4]; /* who has told since the start what he knows */
    unsigned age_count;
    struct {
        char node[NAME_BYTES_MAX];
        uint64_t age;
    } ages[4]; /* the highest that each node ever told of its leg */
};

/* The caller's, until `done`, which is called on the witness's thread. */
struct witness_order {
    struct list link; /* the witness's */
    void (*done)(struct witness_order *o);
    enum witness_order_kind kind;
    char volume[NAME_BYTES_MAX];
    bool force;      /* WITNESS_FORGET */
    uint64_t cursor; /* where to go on, 0 at first; afterwards 0: that was the end */
    /* The answer. */
    struct err err;       /* its code is 0: done. -ENOENT: nobody has asked for such a volume; -EPERM: refused */
    unsigned volumes;     /* known */
    unsigned connections; /* of nodes */
    unsigned count;       /* of what follows */
    union {
        struct witness_volume volume_list[WITNESS_VOLUMES_AT_ONCE];
        struct witness_entry entries[WITNESS_HISTORY_AT_ONCE];
    };
};

void witness_order(struct witness *w, struct witness_order *o);
