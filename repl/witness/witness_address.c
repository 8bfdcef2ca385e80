/* TCP addresses of the embedded witness, for both ends. */
#include "repl/witness/witness_address.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#define HOST_BYTES 256
#define PORT_BYTES 8
#define KEEPALIVE_IDLE_S 5
#define KEEPALIVE_EVERY_S 2
#define KEEPALIVE_COUNT 3

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

static int look_up(const char *host, const char *port, int flags, struct witness_address *out)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags };
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(strcmp(host, "*") == 0 ? NULL : host, port, &hints, &list);
    if (rc != 0)
        return rc;
    memcpy(&out->addr, list->ai_addr, list->ai_addrlen);
    out->bytes = list->ai_addrlen;
    freeaddrinfo(list);
    return 0;
}

int witness_parse_numeric(const char *text, struct witness_address *out, struct err *err)
{
    char host[HOST_BYTES];
    char port[PORT_BYTES];
    int rc = split(text, host, port, err);
    return rc ? rc : look_up(host, port, AI_NUMERICHOST, out) == 0;
}

int witness_resolve(const char *text, bool to_listen, struct witness_address *out, struct err *err)
{
    char host[HOST_BYTES];
    char port[PORT_BYTES];
    int rc = split(text, host, port, err);
    if (rc)
        return rc;
    rc = look_up(host, port, to_listen ? AI_PASSIVE : 0, out);
    return rc ? err_set(err, -EADDRNOTAVAIL, "%s: %s", text, gai_strerror(rc)) : 0;
}

void witness_keep_alive(int fd)
{
    const struct {
        int level, name, value;
    } options[] = {
        { IPPROTO_TCP, TCP_NODELAY, 1 },
        { SOL_SOCKET, SO_KEEPALIVE, 1 },
        { IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S },
        { IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_EVERY_S },
        { IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT },
        { IPPROTO_TCP, TCP_USER_TIMEOUT, (KEEPALIVE_IDLE_S + KEEPALIVE_COUNT * KEEPALIVE_EVERY_S) * 1000 },
    };
    /* A socket that cannot do it works nonetheless, and is slower to notice. */
    for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(options[i].value));
}
