/* May these two legs go on together? A table of named rules over what both nodes say of themselves; the first that
 * applies decides. Pure, and symmetric: both ends judge the same two hellos, each from its side, and reach the same
 * verdict, so that no end goes on while the other refuses.
 *
 * Legs that may differ are refused: this version has no resync. */
#pragma once

#include "repl/core/hello.h"

enum sync_verdict {
    SYNC_REFUSE,
    SYNC_CONNECT, /* the legs are a pair, and each holds every acknowledged write */
    SYNC_PAIR,    /* fresh legs, equal because both are zeroes: from now on they are a pair */
};

#define SYNC_TEXT_BYTES 320

struct sync_judgement {
    enum sync_verdict verdict;
    const char *rule;           /* its name, for the log and the tests */
    bool own_deposed;           /* refused, and we are a primary that another epoch has overtaken */
    char text[SYNC_TEXT_BYTES]; /* SYNC_REFUSE: why, and what to do, from our side; else "" */
    uint64_t size_bytes;        /* else: of the volume from now on */
    struct id volume_id;
    uint64_t epoch; /* the highest that either has seen */
};

void sync_judge(const struct hello *own, const struct hello *peer, struct sync_judgement *out);

/* The id of a volume that has none yet: of one leg, or of two that are paired while neither has one. */
struct id sync_volume_id(struct id leg, struct id peer_leg);
