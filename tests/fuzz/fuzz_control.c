/* Control requests: any bytes are refused with a reason, or give a request whose names are bounded. Also the prefix
 * that both ends cut the stream by. */
#include <stdlib.h>
#include <string.h>

#include "repl/node/control_codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t whole = control_frame_bytes(data, size);
    if (whole > CONTROL_PREFIX_BYTES + CONTROL_MESSAGE_BYTES_MAX || (whole > 0 && whole <= CONTROL_PREFIX_BYTES))
        abort();

    struct control_request r;
    struct err err = { 0 };
    if (control_request_decode(data, size, &r, &err) < 0) {
        if (err.code >= 0 || !err.text[0])
            abort();
        return 0;
    }
    bool all = r.command == CONTROL_STATUS || r.command == CONTROL_EVENTS || r.command == CONTROL_WITNESS_STATUS;
    if (strnlen(r.volume, sizeof(r.volume)) == sizeof(r.volume) || (!all && !r.volume[0]))
        abort();
    if (strcmp(control_command_name(r.command), "?") == 0)
        abort();
    if (strnlen(r.keep, sizeof(r.keep)) == sizeof(r.keep) || (r.keep[0] && r.keep[0] != '/'))
        abort();
    /* What a client named comes back to it in a result: that must always fit. */
    uint8_t frame[CONTROL_FRAME_BYTES_MAX];
    if (control_encode_result(frame, CONTROL_USED_WRONGLY, r.volume) == 0)
        abort();
    return 0;
}
