/* Control messages as plain values: what arrives is checked here, once; what leaves is put together here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/control_wire.h"
#include "repl/base/err.h"
#include "repl/core/names.h"
#include "repl/core/verify_places.h"
#include "repl/node/config.h"
#include "repl/node/events.h"
#include "repl/node/volume_host.h"
#include "repl/witness/witness.h"

enum control_command {
    CONTROL_CREATE,
    CONTROL_UP,
    CONTROL_DOWN,
    CONTROL_STATUS,
    CONTROL_EVENTS,
    CONTROL_PROMOTE,
    CONTROL_DEMOTE,
    CONTROL_VERIFY,
    CONTROL_RESIZE,
    CONTROL_RESOLVE,
    CONTROL_SWITCHOVER,
    CONTROL_ADOPT,
    CONTROL_WITNESS_STATUS,
    CONTROL_WITNESS_HISTORY,
    CONTROL_WITNESS_CONFIRM,
    CONTROL_WITNESS_FORGET,
};

static inline bool control_is_for_witness(enum control_command c) { return c >= CONTROL_WITNESS_STATUS; }

/* "create", "up", ... */
const char *control_command_name(enum control_command c);

struct control_request {
    enum control_command command;
    char volume[NAME_BYTES_MAX];  /* "": all; only of CONTROL_STATUS, _EVENTS and _WITNESS_STATUS. Whether there is such
                                     a volume is not known here */
    bool force;                   /* CONTROL_CREATE, _DOWN, _PROMOTE, _DEMOTE, _RESOLVE, _WITNESS_FORGET */
    bool repair;                  /* CONTROL_VERIFY */
    bool adopt;                   /* CONTROL_CREATE */
    bool follow;                  /* CONTROL_EVENTS */
    char keep[CONFIG_PATH_BYTES]; /* CONTROL_RESOLVE: absolute; "": the daemon chooses */
};

/* The message without its prefix. Returns 0, or a negative errno with the reason: -EPROTO: no request at all;
 * -EPROTONOSUPPORT: of another version; -EINVAL: makes no sense. */
int control_request_decode(const uint8_t *bytes, size_t count, struct control_request *out, struct err *err);

/* Each of these writes prefix and message to `out`, which has room for CONTROL_FRAME_BYTES_MAX, and returns the bytes
 * used: never 0. Texts are cut and made printable where they may be of foreign origin. */
#define CONTROL_TEXT_BYTES 1024
#define CONTROL_FRAME_BYTES_MAX 4096 /* of any answer, prefix included */

size_t control_encode_result(uint8_t *out, enum control_exit code, const char *text);
size_t control_encode_progress(uint8_t *out, const char *text, uint64_t done, uint64_t total);
size_t control_encode_places(uint8_t *out, const struct verify_places *places);
size_t control_encode_node(uint8_t *out, const char *name, unsigned volumes);
size_t control_encode_event(uint8_t *out, const struct event_record *record);
size_t control_encode_witness(uint8_t *out, const char *listen, const char *state, unsigned volumes,
                              unsigned connections);
size_t control_encode_witness_volume(uint8_t *out, const struct witness_volume *volume);
size_t control_encode_decree(uint8_t *out, const struct witness_entry *entry);

/* `status`: NULL unless the volume is up. `why_not` is shown instead of the status's when that is NULL. */
size_t control_encode_volume(uint8_t *out, const struct volume_config *config, const char *state, const char *why_not,
                             const struct volume_status *status);
