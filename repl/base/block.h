/* The alignment of every offset and length inside Lockstep: the logical block that a volume shows its users. */
#pragma once

#define BLOCK_BYTES 512

/* Some disks need more; the volume then shows the larger of its two legs' blocks. */
#define BLOCK_BYTES_MAX 4096
