/* The daemon without its process: all volumes of this node, the control socket that commands them, and the loop that
 * waits for either. One thread; whatever blocks (attaching, creating, joining a volume's thread) runs beside it. */
#pragma once

#include "repl/node/config.h"
#include "repl/node/log.h"

#define NODE_DRAIN_NS_DEFAULT (30 * NS_PER_S)
#define NODE_READY_NS_MAX (20 * NS_PER_S) /* less than what systemd waits by default, 90 s */

struct node;

struct node_options {
    const struct config *config; /* outlives the node */
    const char *name;            /* this node's, for status */
    const char *control_path;
    const char *state; /* the directory for what is kept; NULL: CONFIG_STATE_DIR */
    struct log *log;
    uint64_t drain_ns_max; /* how long shutting down waits for volumes to drain */
    int signal_fd;         /* a signalfd: SIGHUP is only logged; any other ends the node, and again, at once */
    uint64_t ready_ns_max; /* how long a volume whose disk does not answer keeps `ready` waiting */
    /* Called once: every volume has been brought up or has failed to, or ready_ns_max is over. May be NULL. */
    void (*ready)(void *ctx);
    void (*stopping)(void *ctx); /* shutting down has begun. May be NULL */
    void *ctx;
};

/* Opens the control socket and begins to bring up every volume that has metadata. NULL with `err` set. */
struct node *node_open(const struct node_options *options, struct err *err);

enum node_end {
    NODE_CLEAN,     /* every volume was drained and detached */
    NODE_UNCLEAN,   /* one was not; its next start is like one after a crash */
    NODE_ABANDONED, /* a thread would not end: do not free anything, leave the process */
};

/* Runs until signalled. */
enum node_end node_run(struct node *n);

/* Not after NODE_ABANDONED. */
void node_close(struct node *n);
