/* Frame headers: whatever the 64 bytes say, decoding refuses them or gives a frame that encodes to the same bytes. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "repl/base/checksum.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_frame(const struct frame_wire *wire)
{
    struct frame frame;
    const char *why = NULL;
    if (frame_decode(wire, &frame, &why) < 0) {
        if (!why || why[0] == 0)
            abort();
        return;
    }
    if (frame.payload_bytes > FRAME_PAYLOAD_BYTES_MAX || frame.lsn > FRAME_LSN_MAX ||
        frame_kind_name(frame.kind)[0] == '?')
        abort();
    struct frame_wire again;
    frame_encode(&frame, &again);
    if (memcmp(wire, &again, sizeof(again)) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame_wire wire = { 0 };
    memcpy(&wire, data, size < sizeof(wire) ? size : sizeof(wire));
    try_frame(&wire);
    /* And as if the sender had meant it: magic and check are right. */
    wire.magic = to_le32(FRAME_MAGIC);
    wire.header_check = to_le32(0);
    wire.header_check = to_le32((uint32_t)checksum64(&wire, sizeof(wire)));
    try_frame(&wire);
    return 0;
}
