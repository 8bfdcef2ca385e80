/* What an operator's order gives up. */
#include "repl/role/loss.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static void add(char text[LOSS_TEXT_BYTES], const char *format, ...)
{
    size_t used = strlen(text);
    va_list ap;
    va_start(ap, format);
    vsnprintf(text + used, LOSS_TEXT_BYTES - used, format, ap);
    va_end(ap);
}

static bool is_out(const struct loss_facts *f)
{
    if (!f->stands || decree_is_none(f->stands))
        return false;
    if (!id_is_none(f->leg_id)) /* another disk of this node's may be in it */
        return !decree_has_member(f->stands, f->leg_id);
    return !decree_has_member_of(f->stands, f->node);
}

static void add_doubt(const struct loss_facts *f, char text[LOSS_TEXT_BYTES])
{
    switch (f->doubt) {
    case LEG_DOUBT_NONE: return;
    case LEG_DOUBT_WENT_BACK: add(text, ", put back from an older copy"); return;
    case LEG_DOUBT_DIFFERS: add(text, ", found by a verify to differ"); return;
    case LEG_DOUBT_LACKS: add(text, ", perhaps without what it had not flushed"); return;
    }
}

void loss_of_force(const struct loss_facts *f, char text[LOSS_TEXT_BYTES])
{
    text[0] = 0;
    add(text, "%s is %s at epoch %llu, LSN %llu", f->node, leg_state_name(f->leg), (unsigned long long)f->epoch,
        (unsigned long long)f->lsn);
    if (f->leg == LEG_SYNCING && f->consistent_epoch)
        add(text, ", consistent at epoch %llu, LSN %llu", (unsigned long long)f->consistent_epoch,
            (unsigned long long)f->consistent_lsn);
    else if (f->leg != LEG_SYNCING)
        add_doubt(f, text);
    if (is_out(f))
        add(text, ", not in the set of epoch %llu%s", (unsigned long long)f->stands->epoch,
            f->stands->epoch < f->epoch ? ", the last that was read here" : "");
    /* The bits of another leg are what itself has changed, or may have: nothing of what the peer wrote alone. */
    if (f->leg == LEG_SYNCING && f->to_come_bytes)
        add(text, "; it lacks %llu bytes, and what came since", (unsigned long long)f->to_come_bytes);
    else if (f->peer && f->peer_changed_bytes)
        add(text, "; it lacks what %s has changed alone, at most %llu bytes when that was heard last", f->peer,
            (unsigned long long)f->peer_changed_bytes);
    else if (f->peer)
        add(text, "; what it lacks of %s is not known here", f->peer);
}

void loss_of_adopting(const struct decree *stands, uint64_t epoch, char text[LOSS_TEXT_BYTES])
{
    if (decree_is_none(stands))
        snprintf(text, LOSS_TEXT_BYTES, "over no decree, where epoch %llu was known", (unsigned long long)epoch);
    else
        snprintf(text, LOSS_TEXT_BYTES, "over epoch %llu (%s), primary %s, where epoch %llu was known",
                 (unsigned long long)stands->epoch, decree_cause_name(stands->cause),
                 *stands->primary ? stands->primary : "nobody", (unsigned long long)epoch);
}
