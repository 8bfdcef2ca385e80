/* Base64, strictly. */
#include "repl/witness/base64.h"

#include <errno.h>
#include <stdbool.h>

#define NO_DIGIT 0xff

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(char *out, const void *data, size_t bytes)
{
    const uint8_t *in = data;
    for (; bytes > 0; in += 3) {
        uint32_t bits = (uint32_t)in[0] << 16;
        bits |= bytes > 1 ? (uint32_t)in[1] << 8 : 0;
        bits |= bytes > 2 ? (uint32_t)in[2] : 0;
        *out++ = digits[bits >> 18];
        *out++ = digits[bits >> 12 & 63];
        *out++ = bytes > 1 ? digits[bits >> 6 & 63] : '=';
        *out++ = bytes > 2 ? digits[bits & 63] : '=';
        bytes -= bytes < 3 ? bytes : 3;
    }
    *out = 0;
}

static uint8_t value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return (uint8_t)(c - 'A');
    if (c >= 'a' && c <= 'z')
        return (uint8_t)(c - 'a' + 26);
    if (c >= '0' && c <= '9')
        return (uint8_t)(c - '0' + 52);
    if (c == '+')
        return 62;
    return c == '/' ? 63 : NO_DIGIT;
}

ssize_t base64_decode(void *out, size_t out_bytes, const char *text, size_t text_bytes)
{
    if (text_bytes % 4 != 0)
        return -EBADMSG;
    uint8_t *to = out;
    size_t done = 0;
    for (size_t at = 0; at < text_bytes; at += 4) {
        bool last = at + 4 == text_bytes;
        unsigned padding = last && text[at + 3] == '=' ? (text[at + 2] == '=' ? 2 : 1) : 0;
        uint32_t bits = 0;
        for (unsigned i = 0; i < 4; i++) {
            uint8_t digit = i + padding < 4 ? value_of(text[at + i]) : 0;
            if (digit == NO_DIGIT)
                return -EBADMSG;
            bits = bits << 6 | digit;
        }
        unsigned count = 3 - padding;
        /* What the padding leaves no room for is zero, or two texts would mean one thing. */
        if ((bits & ((UINT32_C(1) << (8 * padding)) - 1)) != 0)
            return -EBADMSG;
        if (out_bytes - done < count)
            return -EMSGSIZE;
        for (unsigned i = 0; i < count; i++)
            to[done++] = (uint8_t)(bits >> (16 - 8 * i));
    }
    return (ssize_t)done;
}
