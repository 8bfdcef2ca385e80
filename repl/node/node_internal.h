/* What node.c (the loop), node_volume.c (the life of a volume) and command*.c (what a client asks for) share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "repl/base/list.h"
#include "repl/node/control.h"
#include "repl/node/events.h"
#include "repl/node/hook.h"
#include "repl/node/node.h"
#include "repl/node/queue.h"
#include "repl/node/registers.h"
#include "repl/node/volume.h"

#define NOTES_WAITING_MAX 1024   /* from volumes' threads to the loop; more are dropped and counted */
#define ANSWERS_WAITING_MAX 1024 /* likewise, but these must not be dropped: see ORDERS_MAX */
#define ORDERS_MAX 512           /* under way in all volumes together */
static_assert(ORDERS_MAX + CONFIG_VOLUMES_MAX <= ANSWERS_WAITING_MAX, "every order and every job can answer");

enum volume_state {
    STATE_NOT_CREATED, /* its backing holds no leg */
    STATE_DOWN,        /* by order */
    STATE_FAILED,      /* bringing it up failed */
    STATE_STARTING,
    STATE_CREATING,
    STATE_UP,
    STATE_STOPPING,
};

enum job_kind {
    JOB_START,
    JOB_CREATE,
    JOB_STOP,
};

/* What blocks, on a thread of its own. One per volume at a time. */
struct job {
    struct node *node;
    struct node_volume *nv;
    enum job_kind kind;
    bool adopt;
    bool force;
    struct volume *volume; /* JOB_STOP: to be stopped; JOB_START: the result */
    struct err err;
    pthread_t thread;
    atomic_uint_fast64_t done_bytes;
    atomic_uint_fast64_t total_bytes;
};

struct node_volume {
    struct node *node;
    const struct volume_config *config;
    enum volume_state state;
    enum volume_state before; /* the job that runs */
    struct err err;           /* STATE_NOT_CREATED, STATE_FAILED: why */
    struct volume *volume;    /* STATE_UP */
    struct job job;           /* STATE_STARTING, _CREATING, _STOPPING */
    /* While shutting down. */
    bool detach_ordered;
    bool detach_delay_told;
    bool yield_told;
    uint64_t detach_again_ns; /* 0: not ordered yet */
};

enum command_phase {
    PHASE_ORDERED, /* the volume's thread has an order of ours and will answer */
    PHASE_JOB,     /* waits for the job of its volume to end */
    PHASE_WITNESS, /* the witness's thread has an order of ours and will answer */
    PHASE_STREAMS, /* status or events flow, or what the witness has answered */
};

/* A request on its way to its result. */
struct command {
    struct list link;
    struct node *node;
    struct control_client *client; /* NULL: it went away, or never was */
    bool by_node;                  /* the node itself detaches its volumes, to shut down */
    struct control_request request;
    struct node_volume *nv; /* NULL: all */
    enum command_phase phase;
    /* PHASE_ORDERED */
    bool tries_first;         /* a promotion by force: without it first, which tells what is risked */
    bool demotes;             /* a `down`: the volume is to be demoted before it is detached */
    bool still_named;         /* ... but the register will go on naming this node as its primary */
    bool takes_only_good_leg; /* a `down` that is carried out all the same */
    bool was_primary;         /* this node, when a promotion or a switchover was ordered */
    struct volume *volume;
    bool has_kept;               /* of a resolve: its file is whole; likewise */
    struct verify_places places; /* of a verify, when it has ended: written by the volume's thread */
    /* PHASE_STREAMS */
    uint64_t cursor;  /* of the events; of status: 0: nothing sent yet, n: n - 1 volumes */
    uint64_t told_ns; /* when progress was sent last */
    /* Of the witness's: owned; the witness's own in PHASE_WITNESS. */
    struct witness_command *witness;
};

struct answer {
    enum { ANSWER_ORDER, ANSWER_JOB, ANSWER_WITNESS } kind;
    struct command *command; /* ANSWER_ORDER, ANSWER_WITNESS */
    struct node_volume *nv;  /* ANSWER_JOB */
    int result;
    char text[ACTION_TEXT_BYTES];
};

struct node {
    struct node_options options;
    struct control *control;
    struct witness *witness; /* NULL: this daemon is none */
    struct events events;
    struct queue notes;   /* of struct event_record */
    struct queue answers; /* of struct answer */
    struct list commands;
    unsigned orders; /* given to volumes and not answered */
    unsigned volume_count;
    struct node_volume *volumes;
    struct volume_host host;
    struct registers *registers;
    struct hooks *hooks;
    bool ready_told;
    uint64_t ready_until_ns;
    bool ending;
    bool unclean;
    uint64_t drain_until_ns; /* while ending */
    uint64_t yield_until_ns; /* likewise: secondaries let their primaries go first */
    uint64_t abandon_at_ns;  /* UINT64_MAX until draining was given up */
};

/* The daemon's own state change, from the loop. */
void node_note(struct node *n, const char *volume, enum note_level level, const char *topic, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* ---- node_volume.c ---- */

const char *volume_state_name(enum volume_state s);

/* Begins a job. -EAGAIN with `err` set: there is no thread for it; nothing has changed. */
int node_volume_begin(struct node_volume *nv, enum job_kind kind, bool adopt, bool force, struct err *err);

/* The job has ended: joins it and enters the state that follows. job.err tells how it went. */
void node_volume_end_job(struct node_volume *nv);

bool node_volume_has_job(const struct node_volume *nv);

/* ---- command*.c ---- */

void command_request(void *ctx, struct control_client *client, const struct control_request *request);
void command_writable(void *ctx, struct control_client *client);
void command_gone(void *ctx, struct control_client *client);

/* The order of a command was answered. */
void command_ordered(struct command *c, int result, const char *text);

/* The job that commands wait for has ended. */
void command_job_ended(struct node_volume *nv, enum job_kind kind);

/* Orders a volume to detach, for the node itself. */
void command_detach(struct node_volume *nv);

/* It is in use, or may be needed, and without its leg there is no good one: worth a second thought. */
bool command_takes_only_good_leg(struct node_volume *nv);

/* Events have come: lets those who follow have them. */
void command_events(struct node *n);

/* Tells waiting clients how far what they wait for is. Returns when to be called again; UINT64_MAX: when something
 * happens. */
uint64_t command_progress(struct node *n);

void command_free(struct command *c);

/* Ends the command: its client, if it is still there, gets the result. */
void command_finish(struct command *c, enum control_exit code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- command_witness.c ---- */

void command_witness_begin(struct command *c);

/* The witness has answered. */
void command_witness_answered(struct command *c);

/* Sends as much of the answer as there is room for. */
void command_witness_stream(struct command *c);
