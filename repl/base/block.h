/* The alignment of every offset and length inside Lockstep: the logical block that a volume shows its users. */
#pragma once

#define BLOCK_BYTES 512
