/* Hellos: any payload is refused with a reason, or gives a hello that survives encoding and decoding unchanged. */
#include <stdlib.h>
#include <string.h>

#include "repl/link/hello_codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hello hello;
    const char *why = NULL;
    if (hello_decode(data, size, &hello, &why) < 0) {
        if (!why)
            abort();
        return 0;
    }
    if (strlen(hello.volume) >= NAME_BYTES_MAX || hello.role > ROLE_PRIMARY || hello.leg > LEG_FAILED)
        abort();
    if (hello.version != PROTOCOL_VERSION)
        return 0;
    uint8_t bytes[FRAME_HELLO_BYTES_MAX];
    uint8_t bytes_again[FRAME_HELLO_BYTES_MAX];
    struct hello again;
    size_t n = hello_encode(&hello, bytes);
    if (hello_decode(bytes, n, &again, &why) < 0)
        abort();
    if (hello_encode(&again, bytes_again) != n || memcmp(bytes, bytes_again, n) != 0)
        abort();
    return 0;
}
