/* What a volume's thread and the daemon around it tell each other: log lines and state changes upward, a snapshot of
 * the state for whoever asks. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "repl/core/action.h"
#include "repl/core/decree.h"
#include "repl/core/names.h"
#include "repl/role/loss.h"
#include "repl/role/role.h"

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

struct registers;

/* Callbacks of the daemon. They may be called from any thread, copy what they are given, and never block: what there
 * is no room for is dropped, counted, and told of later. The host outlives the volume. */
struct volume_host {
    void *ctx;
    /* For who looks for a cause. `volume` is put in front. */
    void (*log)(void *ctx, const char *volume, enum log_level level, const char *text);
    /* A state change or fault: goes to `lockstep events` and to the log. `topic`: one word, as in ACT_NOTE. */
    void (*note)(void *ctx, const char *volume, enum note_level level, const char *topic, const char *text);
    /* The volume is open to clients here from now on, or is closed: not for each, but when that changes. */
    void (*served)(void *ctx, const char *volume, bool on, uint64_t epoch);
    struct registers *registers; /* those of the configuration (registers.h); outlive the volume */
};

#define STATUS_TEXT_BYTES 768 /* a refusal, and what waits for the witness */
#define STATUS_RULE_BYTES 32

/* A consistent snapshot, made by the volume's thread at least a few times a second. */
struct volume_status {
    enum role role;
    bool serving;
    bool is_protected;               /* every acknowledged write is on two up-to-date legs */
    char why_not[STATUS_TEXT_BYTES]; /* "" when protected; else in words what is missing */
    uint64_t epoch;
    uint64_t lsn;
    uint64_t size_bytes; /* 0: not fixed yet */
    enum leg_state leg;
    uint64_t consistent_epoch; /* of an inconsistent leg: its last consistent state; 0: none */
    uint64_t consistent_lsn;
    char may_be_lost[LOSS_TEXT_BYTES]; /* by a promotion of it by force, as engine_loss_of_force() says it; "": not
                                          known */
    uint32_t writes_waiting;           /* changes and flushes that wait for the peer */
    uint64_t oldest_waiting_us;        /* for how long the oldest of them has waited; 0: none */
    uint32_t held_clients;             /* since this node was deposed; 0: none, like all of these */
    uint32_t held_requests;            /* of theirs that wait, at the least */
    uint64_t held_since_us;            /* since 1970, UTC */
    /* The peer. Of a volume with a single node: LINK_DOWN, LEG_NONE, empty strings and zeroes. */
    enum link_state link;
    char link_reason[STATUS_TEXT_BYTES]; /* why it is not connected; "" when it is */
    char transport[16];                  /* "tcp"; "" when not connected */
    unsigned path;                       /* index in the configured paths: in use, or tried last */
    uint64_t rtt_us;                     /* smoothed; 0: not known yet */
    bool peer_leads;                     /* it is connected and, as far as is known, primary */
    enum leg_state peer_leg;
    uint64_t verify_done_bytes; /* of the verify under way; total 0: none is */
    uint64_t verify_total_bytes;
    uint64_t verified_at_us;       /* when the last one that came to its end began, since 1970; 0: never */
    uint64_t verified_found_bytes; /* that it found to differ */
    uint64_t verify_next_us;       /* by the schedule; 0: none, or not here */
    uint64_t out_of_sync_bytes;    /* that may differ between the legs */
    struct volume_resync {
        bool active;
        bool is_source; /* the peer gets what it lacks; else this node */
        uint64_t done_bytes;
        uint64_t total_bytes;
        uint64_t rate_bytes_per_s; /* over the last seconds; 0: not known */
        uint64_t equal_bytes;      /* since the peer is connected: found equal by digest, */
        uint64_t sent_bytes;       /* sent, */
        uint64_t zero_bytes;       /* zeroed without being sent */
    } resync;
    struct volume_growth {
        bool active;          /* this leg gets room for a larger volume, or a resize was ordered here */
        bool waits_for_peer;  /* this leg has room */
        uint64_t done_bytes;  /* zeroed */
        uint64_t total_bytes; /* 0: not known yet */
    } growth;
    struct volume_apart {
        char rule[STATUS_RULE_BYTES]; /* of the refusal that waits for a person to give one leg up; "": none does */
        uint64_t common_epoch;        /* up to which both legs are the same; 0: they have nothing in common */
        uint64_t differ_bytes_max;
        struct volume_apart_side {
            uint64_t epoch; /* of its first decree of its own; 0: it has none */
            uint64_t first_lsn;
            uint64_t lsn;
            uint64_t since_us; /* since 1970, UTC, by this node's clock; 0: not known */
            bool changed_known;
            uint64_t changed_bytes; /* since then, at the most */
        } own, peer;
    } apart;
    struct volume_resolve {
        bool active;
        uint64_t done_bytes;
        uint64_t total_bytes;
    } resolve;
    uint64_t alone_epoch;    /* since which changes are acknowledged without the peer; 0: they are not */
    uint64_t alone_since_us; /* since 1970, UTC */
    uint64_t diskless_epoch; /* since which its leg has failed, and the peer's stands in, or is to; 0: it has its own */
    uint64_t diskless_since_us;
    bool has_witness;
    struct volume_witness {
        enum register_state state;
        char reason[REGISTER_REASON_BYTES]; /* why it is not reachable, in a sentence; "" when it is */
        struct decree decree;               /* that stands, as last heard; its epoch is 0: none was */
        bool swap_under_way;                /* its end is not known yet */
        enum decree_cause swap_cause;
        uint64_t swap_since_us; /* since 1970, UTC */
    } witness;
};
