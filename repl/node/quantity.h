/* Sizes, times and addresses as people write them in the configuration and on the command line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "40GiB": digits and one of KiB, MiB, GiB, TiB; a blank between them is allowed. False: something else, or more than
 * fits. */
bool quantity_size(const char *text, uint64_t *bytes);

/* "2s": digits and one of us, ms, s, min, h, d. */
bool quantity_time(const char *text, uint64_t *ns);

/* A plain number in decimal digits, at most `max`. */
bool quantity_number(const char *text, uint64_t max, uint64_t *out);

/* "10.0.0.1:7789", "[fd00::1]:7789" or "host.example:7789" with a port of 1 ... 65535. `loopback`, if not NULL, is told
 * whether it can only be reached from this machine. */
bool quantity_address(const char *text, bool *loopback);
