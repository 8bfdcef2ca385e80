/* Telling systemd how the daemon is doing. */
#include "repl/node/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "repl/base/scoped.h"

int notify_systemd(const char *message)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    if (!path)
        return 0;
    size_t bytes = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || bytes < 2 || bytes >= sizeof(addr.sun_path))
        return -EINVAL;
    memcpy(addr.sun_path, path, bytes);
    if (path[0] == '@') /* an abstract socket: its name begins with NUL and ends with its length */
        addr.sun_path[0] = 0;
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    socklen_t addr_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes);
    ssize_t n = sendto(fd, message, strlen(message), MSG_NOSIGNAL, (const struct sockaddr *)&addr, addr_bytes);
    return n < 0 ? -errno : 0;
}
