/* TCP addresses from their text. */
#include "repl/base/net_address.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>

#define HOST_BYTES NET_ADDRESS_TEXT_BYTES_MAX
#define PORT_BYTES 16

static int split(const char *text, char host[static HOST_BYTES], char port[static PORT_BYTES], struct err *err)
{
    const char *colon = strrchr(text, ':');
    size_t host_bytes = colon ? (size_t)(colon - text) : 0;
    if (!colon || host_bytes == 0 || host_bytes >= HOST_BYTES || !colon[1] || strlen(colon + 1) >= PORT_BYTES)
        return err_set(err, -EINVAL, "\"%.200s\" is no address: HOST:PORT expected", text);
    if (text[0] == '[' && text[host_bytes - 1] == ']') {
        text++;
        host_bytes -= 2;
    }
    memcpy(host, text, host_bytes);
    host[host_bytes] = 0;
    memcpy(port, colon + 1, strlen(colon + 1) + 1);
    return 0;
}

static int look_up(const char *host, const char *port, int flags, struct net_address *out)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags };
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(host, port, &hints, &list);
    if (rc != 0)
        return rc;
    memcpy(&out->addr, list->ai_addr, list->ai_addrlen);
    out->bytes = list->ai_addrlen;
    freeaddrinfo(list);
    return 0;
}

int net_address_parse(const char *text, struct net_address *out, struct err *err)
{
    char host[HOST_BYTES];
    char port[PORT_BYTES];
    int rc = split(text, host, port, err);
    return rc ? rc : look_up(host, port, AI_NUMERICHOST, out) == 0;
}

int net_address_resolve(const char *text, bool to_listen, struct net_address *out, struct err *err)
{
    char host[HOST_BYTES];
    char port[PORT_BYTES];
    int rc = split(text, host, port, err);
    if (rc)
        return rc;
    bool any = to_listen && strcmp(host, "*") == 0;
    rc = look_up(any ? NULL : host, port, to_listen ? AI_PASSIVE : 0, out);
    return rc ? err_set(err, -EADDRNOTAVAIL, "%s: %s", text, gai_strerror(rc)) : 0;
}
