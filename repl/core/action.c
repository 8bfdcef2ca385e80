/* A list of actions in memory that its owner fixed at open. */
#include "repl/core/action.h"

#include <stdio.h>

struct action *actions_add(struct actions *out, enum action_kind kind)
{
    assert(out->count < out->max);
    struct action *a = &out->list[out->count++];
    *a = (struct action) { .kind = kind };
    return a;
}

__attribute__((format(printf, 2, 0))) static const char *actions_vtext(struct actions *out, const char *format,
                                                                       va_list ap)
{
    char *text = out->text + out->text_used;
    uint32_t room = out->text_bytes - out->text_used;
    if (room < 2)
        return "";
    int n = vsnprintf(text, room, format, ap);
    uint32_t used = n < 0 ? 0 : (uint32_t)n;
    out->text_used += used < room ? used + 1 : room;
    return text;
}

const char *actions_text(struct actions *out, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const char *text = actions_vtext(out, format, ap);
    va_end(ap);
    return text;
}

void actions_note(struct actions *out, enum note_level level, const char *topic, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const char *text = actions_vtext(out, format, ap);
    va_end(ap);
    struct action *a = actions_add(out, ACT_NOTE);
    a->note.level = level;
    a->note.topic = topic;
    a->note.text = text;
}
