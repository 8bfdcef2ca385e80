/* The URL of an etcd cluster. */
#include "repl/witness/etcd_url.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define EXPECTED "expected etcd+https://HOST:PORT,HOST:PORT,... (or etcd+http://)"

static bool is_port(const char *text, size_t bytes)
{
    unsigned long port = 0;
    if (bytes == 0 || bytes > 5)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        if (!isdigit((unsigned char)text[i]))
            return false;
        port = 10 * port + (unsigned long)(text[i] - '0');
    }
    return port > 0 && port <= 65535;
}

static bool is_host(const char *text, size_t bytes)
{
    bool v6 = bytes > 2 && text[0] == '[' && text[bytes - 1] == ']';
    if (v6) {
        text++;
        bytes -= 2;
    }
    if (bytes == 0 || bytes >= ETCD_HOST_BYTES_MAX - 2)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (v6 ? !isxdigit(c) && c != ':' && c != '.' : !isalnum(c) && c != '-' && c != '.' && c != '_')
            return false;
    }
    return true;
}

static int bad_endpoint(const char *text, size_t bytes, const char *what, char *error, size_t error_bytes)
{
    snprintf(error, error_bytes, EXPECTED ", found %.*s: %s", (int)(bytes < 64 ? bytes : 64), text, what);
    return -EINVAL;
}

static int parse_endpoint(struct etcd_url *url, const char *text, size_t bytes, char *error, size_t error_bytes)
{
    if (memmem(text, bytes, "://", 3))
        return bad_endpoint(text, bytes, "the scheme is written once, before the first host", error, error_bytes);
    /* etcd's gateway takes no name of a user from a certificate, and a password would stand in this file. */
    if (memchr(text, '@', bytes))
        return bad_endpoint(text, bytes, "users of etcd's own are not supported, only certificates", error,
                            error_bytes);
    const char *colon = memrchr(text, ':', bytes);
    if (!colon || !is_port(colon + 1, bytes - (size_t)(colon + 1 - text)) || !is_host(text, (size_t)(colon - text)))
        return bad_endpoint(text, bytes, "this is no HOST:PORT", error, error_bytes);
    if (url->count == ETCD_ENDPOINTS_MAX) {
        snprintf(error, error_bytes, EXPECTED ", found more than %d of them", ETCD_ENDPOINTS_MAX);
        return -EINVAL;
    }
    memcpy(url->endpoints[url->count], text, bytes);
    url->endpoints[url->count++][bytes] = 0;
    return 0;
}

int etcd_url_parse(struct etcd_url *url, const char *text, char *error, size_t error_bytes)
{
    static const char http[] = "etcd+http://", https[] = "etcd+https://";
    memset(url, 0, sizeof(*url));
    url->tls = strncmp(text, https, sizeof(https) - 1) == 0;
    if (!url->tls && strncmp(text, http, sizeof(http) - 1) != 0)
        return bad_endpoint(text, strlen(text), "not a URL of etcd", error, error_bytes);
    const char *at = text + (url->tls ? sizeof(https) : sizeof(http)) - 1;
    for (;;) {
        size_t bytes = strcspn(at, ",");
        int rc = parse_endpoint(url, at, bytes, error, error_bytes);
        if (rc)
            return rc;
        if (!at[bytes])
            return 0;
        at += bytes + 1;
    }
}
