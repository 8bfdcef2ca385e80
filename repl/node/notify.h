/* Telling systemd how the daemon is doing, as sd_notify(3) describes, without its library. */
#pragma once

/* Sends "READY=1" and the like to NOTIFY_SOCKET; does nothing where there is none. Returns 0 or a negative errno, of
 * interest to nobody but tests. */
int notify_systemd(const char *message);
