/* Sizes, times and addresses as people write them. */
#include "repl/node/quantity.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "repl/base/units.h"

#define HOST_BYTES_MAX 253 /* of a domain name, RFC 1035 */
#define LABEL_BYTES_MAX 63
#define PORT_DIGITS_MAX 5

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit size_units[] = { { "KiB", KIB }, { "MiB", MIB }, { "GiB", GIB }, { "TiB", TIB } };

static const struct unit time_units[] = {
    { "us", NS_PER_US },      { "ms", NS_PER_MS },      { "s", NS_PER_S },
    { "min", 60 * NS_PER_S }, { "h", 3600 * NS_PER_S }, { "d", 86400 * NS_PER_S },
};

/* The digits at *text, which it moves past them. */
static bool digits(const char **text, uint64_t *out)
{
    const char *p = *text;
    uint64_t v = 0;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return false;
    if (p == *text)
        return false;
    *text = p;
    *out = v;
    return true;
}

static bool with_unit(const char *text, const struct unit *units, size_t unit_count, uint64_t *out)
{
    uint64_t v;
    if (!digits(&text, &v))
        return false;
    if (*text == ' ')
        text++;
    for (size_t i = 0; i < unit_count; i++)
        if (strcmp(text, units[i].name) == 0)
            return !__builtin_mul_overflow(v, units[i].factor, out);
    return false;
}

bool quantity_size(const char *text, uint64_t *bytes)
{
    return with_unit(text, size_units, ARRAY_LEN(size_units), bytes);
}

bool quantity_time(const char *text, uint64_t *ns) { return with_unit(text, time_units, ARRAY_LEN(time_units), ns); }

bool quantity_number(const char *text, uint64_t max, uint64_t *out)
{
    return digits(&text, out) && *text == 0 && *out <= max;
}

/* RFC 1123: labels of letters, digits and inner hyphens. A name of digits and dots only would be a broken address. */
static bool host_name_is_valid(const char *host)
{
    size_t label = 0;
    bool letter = false;
    for (const char *p = host; *p; p++) {
        bool alpha = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
        bool digit = *p >= '0' && *p <= '9';
        letter |= alpha;
        if (*p == '.') {
            if (label == 0 || p[-1] == '-')
                return false;
            label = 0;
        } else if (alpha || digit || (*p == '-' && label > 0)) {
            if (++label > LABEL_BYTES_MAX)
                return false;
        } else {
            return false;
        }
    }
    return letter && label > 0 && host[strlen(host) - 1] != '-';
}

bool quantity_address(const char *text, bool *loopback)
{
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text)
        return false;
    uint64_t port;
    if (strlen(colon + 1) > PORT_DIGITS_MAX || !quantity_number(colon + 1, UINT16_MAX, &port) || port == 0)
        return false;

    bool bracketed = text[0] == '[' && colon[-1] == ']' && colon - text > 2;
    size_t host_bytes = (size_t)(colon - text) - (bracketed ? 2 : 0);
    char host[HOST_BYTES_MAX + 1];
    if (host_bytes > HOST_BYTES_MAX)
        return false;
    memcpy(host, text + (bracketed ? 1 : 0), host_bytes);
    host[host_bytes] = 0;

    bool local = false;
    if (bracketed) {
        struct in6_addr v6;
        if (inet_pton(AF_INET6, host, &v6) != 1)
            return false;
        local = IN6_IS_ADDR_LOOPBACK(&v6);
    } else {
        struct in_addr v4;
        if (inet_pton(AF_INET, host, &v4) == 1)
            local = (ntohl(v4.s_addr) >> 24) == 127;
        else if (host_name_is_valid(host))
            local = strcmp(host, "localhost") == 0;
        else
            return false;
    }
    if (loopback)
        *loopback = local;
    return true;
}
