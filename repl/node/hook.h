/* An operator's programs, run when a volume has begun or ended to be served here: beside the volumes, which never wait
 * for them.
 *
 * One thread starts and watches all of them. Hooks of a volume run one at a time and in order; what the volume has gone
 * beyond is ended or left out: a promote when the node has ended to serve (docs/man/lockstep.yaml.5). */
#pragma once

#include "repl/base/err.h"
#include "repl/node/config.h"
#include "repl/node/volume_host.h"

#define HOOK_TERM_NS (5 * NS_PER_S) /* from SIGTERM to SIGKILL */
#define HOOK_KILL_NS NS_PER_S       /* from SIGKILL until it counts as one that no signal ends */
#define HOOK_END_NS (HOOK_TERM_NS + HOOK_KILL_NS + NS_PER_S)
#define HOOKS_WAITING_MAX 1024 /* to be begun, of all volumes; more are dropped, and told of */

enum hook_kind {
    HOOK_PROMOTE, /* this node serves the volume */
    HOOK_DEMOTE,  /* it does not any more */
};

struct hooks;

/* 0: it can be; else an errno. May hang on a dead file system. */
int hook_why_not_run(const char *program);

/* `config` and what the host's callbacks need outlive it. The environment is the daemon's, with LOCKSTEP_VOLUME, _NODE,
 * _ROLE, _EPOCH and _DEVICE. NULL with `err` set. */
struct hooks *hooks_open(const struct config *config, const struct volume_host *host, struct err *err);

/* From any thread; never waits. Nothing is done where the volume has no such hook. */
void hooks_run(struct hooks *h, const char *volume, enum hook_kind kind, uint64_t epoch);

/* How many run or are to be run. From any thread. */
unsigned hooks_count(const struct hooks *h);

/* Ends all that still run, within HOOK_END_NS, and leaves out what has not begun or comes later. What hangs in a system
 * call, as on a dead NFS, is left behind, and told of. False: the thread itself hangs so, as it starts a program, and
 * uses `h` still. */
bool hooks_end(struct hooks *h);

/* After hooks_end(), when nobody can call hooks_run() any more; waits for a thread that hangs. NULL is allowed. */
void hooks_close(struct hooks *h);
