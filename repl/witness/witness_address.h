/* TCP addresses of the embedded witness, for both ends. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

#include "repl/base/err.h"

struct witness_address {
    struct sockaddr_storage addr;
    socklen_t bytes;
};

/* "HOST:PORT", "[V6]:PORT" or "*:PORT". A name is looked up, which can take many seconds. 0, or -EINVAL,
 * -EADDRNOTAVAIL. */
int witness_resolve(const char *text, bool to_listen, struct witness_address *out, struct err *err);

/* The same without looking anything up: 1: done; 0: it holds a name; -EINVAL. */
int witness_parse_numeric(const char *text, struct witness_address *out, struct err *err);

/* Questions and answers leave at once, and an end that is gone is found out in seconds. */
void witness_keep_alive(int fd);
