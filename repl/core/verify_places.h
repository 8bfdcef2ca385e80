/* Where a verify found the legs to differ: what the engine tells of it, and an operator gets to see. */
#pragma once

#include "repl/base/range.h"

#define VERIFY_PLACES_MAX 16

struct verify_places {
    unsigned total; /* of which the first `count` are known */
    unsigned count;
    struct verify_place {
        struct range range;
        const char *what; /* in words; lives as long as the program */
    } places[VERIFY_PLACES_MAX];
};
