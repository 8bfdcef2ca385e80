/* Text of unknown origin, made fit for one line of a log, a terminal or JSON. */
#include "repl/node/printable.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

/* Length of the well-formed UTF-8 sequence at `p` (Unicode 15, table 3-7), or 0. */
static size_t utf8_length(const uint8_t *p, size_t bytes)
{
    if (p[0] < 0x80)
        return 1;
    size_t length = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || bytes < length)
        return 0;
    uint8_t low = 0x80;
    uint8_t high = 0xbf;
    if (p[0] == 0xe0)
        low = 0xa0; /* overlong */
    else if (p[0] == 0xed)
        high = 0x9f; /* surrogates */
    else if (p[0] == 0xf0)
        low = 0x90; /* overlong */
    else if (p[0] == 0xf4)
        high = 0x8f; /* beyond U+10FFFF */
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (p[i] < 0x80 || p[i] > 0xbf)
            return 0;
    return length;
}

size_t printable(char *out, size_t out_bytes, const char *text, size_t text_bytes)
{
    static const char more[] = "...";
    assert(out_bytes > sizeof(more));
    const uint8_t *in = (const uint8_t *)text;
    size_t used = 0;
    size_t cut = 0; /* where "..." still fits */
    for (size_t i = 0; i < text_bytes;) {
        size_t length = utf8_length(in + i, text_bytes - i);
        /* U+0080...U+009F are control characters too. */
        int bad = length == 0 || in[i] < 0x20 || in[i] == 0x7f || (length == 2 && in[i] == 0xc2 && in[i + 1] < 0xa0);
        size_t put = bad ? 1 : length;
        if (used + put > out_bytes - 1) {
            memcpy(out + cut, more, sizeof(more));
            return cut + sizeof(more) - 1;
        }
        if (bad)
            out[used] = '?';
        else
            memcpy(out + used, in + i, put);
        used += put;
        if (used <= out_bytes - sizeof(more))
            cut = used;
        i += length ? length : 1;
    }
    out[used] = 0;
    return used;
}
