/* Base64 with padding (RFC 4648, section 4): how etcd's JSON gateway spells keys and values. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Without a NUL. */
#define BASE64_BYTES(bytes) (((bytes) + 2) / 3 * 4)

/* Writes BASE64_BYTES(bytes) characters and a NUL. */
void base64_encode(char *out, const void *data, size_t bytes);

/* How many bytes it was; -EBADMSG if it is not what an encoder writes (other characters, white space, bits left over),
 * -EMSGSIZE if it is more than `out_bytes`. */
ssize_t base64_decode(void *out, size_t out_bytes, const char *text, size_t text_bytes);
