/* Counting what was reached. */
#include "tests/sim/cover.h"

#include <inttypes.h>
#include <stdbool.h>

static struct cover nowhere;
struct cover *cover_here = &nowhere;

static const struct {
    const char *name;
    const char *text;
    unsigned batches;
} marks[COVER_MARKS] = {
#define COVER_ROW(name, batches, text) { #name, text, batches },
    COVER_LIST(COVER_ROW)
#undef COVER_ROW
};

void cover_add(struct cover *to, const struct cover *from)
{
    for (unsigned i = 0; i < COVER_MARKS; i++)
        to->hits[i] += from->hits[i];
}

void cover_print(FILE *f, const struct cover *c)
{
    for (unsigned i = 0; i < COVER_MARKS; i++)
        fprintf(f, "%14" PRIu64 "  %-18s %s\n", c->hits[i], marks[i].name, marks[i].text);
}

unsigned cover_missing(FILE *f, const struct cover *c, uint64_t seeds)
{
    unsigned missing = 0;
    for (unsigned i = 0; i < COVER_MARKS; i++) {
        bool expected = marks[i].batches && seeds >= marks[i].batches * (uint64_t)COVER_SEEDS_MIN;
        if (!expected || c->hits[i] > 0)
            continue;
        fprintf(f, "never reached: %s (%s)\n", marks[i].name, marks[i].text);
        missing++;
    }
    return missing;
}
