/* etcd+http://HOST:PORT,... and etcd+https://HOST:PORT,...: where the members of an etcd cluster answer. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define ETCD_ENDPOINTS_MAX 9
#define ETCD_HOST_BYTES_MAX 256                           /* HOST or [IPV6], with the final NUL */
#define ETCD_ENDPOINT_BYTES_MAX (ETCD_HOST_BYTES_MAX + 6) /* with :PORT */

struct etcd_url {
    bool tls;
    unsigned count;                                              /* 1 ... ETCD_ENDPOINTS_MAX */
    char endpoints[ETCD_ENDPOINTS_MAX][ETCD_ENDPOINT_BYTES_MAX]; /* HOST:PORT, as it was written */
};

/* 0, or -EINVAL with a sentence in `error`. */
int etcd_url_parse(struct etcd_url *url, const char *text, char *error, size_t error_bytes);
