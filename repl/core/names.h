/* States and identities that operators, peers and disks all speak of, with the words they are called by everywhere. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NAME_BYTES_MAX 64 /* of a volume or node, with the final NUL */

/* As read from a disk. Names are shown on terminals: nothing that steers one. */
static inline bool name_is_printable(const char name[NAME_BYTES_MAX])
{
    if (!name[0] || !memchr(name, 0, NAME_BYTES_MAX))
        return false;
    for (const char *c = name; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return false;
    return true;
}

/* A random 128-bit identity; all zero: none. */
struct id {
    uint8_t bytes[16];
};

static inline bool id_is_none(struct id id)
{
    static const struct id none;
    return memcmp(&id, &none, sizeof(id)) == 0;
}

static inline bool id_equal(struct id a, struct id b) { return memcmp(&a, &b, sizeof(a)) == 0; }

enum role {
    ROLE_SECONDARY = 0, /* applies what the primary sends */
    ROLE_PRIMARY = 1,   /* serves the device */
};

enum leg_state {
    LEG_NONE = 0,       /* there is none, or nothing is known of it */
    LEG_UP_TO_DATE = 1, /* holds every acknowledged write */
    LEG_SYNCING = 2,    /* inconsistent while a resync runs */
    LEG_OUTDATED = 3,   /* consistent, old */
    LEG_FAILED = 4,     /* its disk failed, or it may lack acknowledged writes */
};

enum link_state {
    LINK_DOWN = 0,
    LINK_CONNECTING = 1,
    LINK_CONNECTED = 2,
    LINK_REFUSED = 3, /* the nodes can talk but must not go on; the reason tells what to do */
};

static inline const char *role_name(enum role r) { return r == ROLE_PRIMARY ? "primary" : "secondary"; }

static inline const char *leg_state_name(enum leg_state s)
{
    switch (s) {
    case LEG_NONE: return "none";
    case LEG_UP_TO_DATE: return "up-to-date";
    case LEG_SYNCING: return "syncing";
    case LEG_OUTDATED: return "outdated";
    case LEG_FAILED: return "failed";
    }
    return "?";
}

static inline const char *link_state_name(enum link_state s)
{
    switch (s) {
    case LINK_DOWN: return "down";
    case LINK_CONNECTING: return "connecting";
    case LINK_CONNECTED: return "connected";
    case LINK_REFUSED: return "refused";
    }
    return "?";
}
