/* Text of unknown origin, made fit for one line of a log, a terminal or JSON. */
#pragma once

#include <stddef.h>

/* Copies at most out_bytes - 1 bytes and ends with NUL. Control characters and what is not UTF-8 become '?'; what is
 * too long ends with "...". Returns the length. */
size_t printable(char *out, size_t out_bytes, const char *text, size_t text_bytes);
