/* TCP addresses from their text. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

#include "repl/base/err.h"

#define NET_ADDRESS_TEXT_BYTES_MAX 256

struct net_address {
    struct sockaddr_storage addr;
    socklen_t bytes;
};

/* "HOST:PORT" or "[V6]:PORT", and "*:PORT" to listen on. A name is looked up, which can take many seconds. 0, or
 * -EINVAL, -EADDRNOTAVAIL. */
int net_address_resolve(const char *text, bool to_listen, struct net_address *out, struct err *err);

/* The same without looking anything up: 1: done; 0: it may hold a name; -EINVAL. */
int net_address_parse(const char *text, struct net_address *out, struct err *err);
