"""Reads what preload_malloc.c counts, while the daemon runs."""

import mmap
import os
import struct

from lib import proc
from lib.run import BUILD

THREADS_MAX = 256
TRACES_MAX = 4
TRACE_DEPTH = 8
HEADER = struct.Struct("<QQ")
SLOT = struct.Struct(f"<qQQQQ{TRACES_MAX * TRACE_DEPTH}Q")


def library():
    """The preload library, or None where it was not built."""
    path = BUILD / "tests/e2e/libpreload_malloc.so"
    return path if path.exists() else None


def is_sanitized(program):
    """A sanitizer brings an allocator of its own, which nothing can be put in front of."""
    return any(name in proc.run(["ldd", program]).stdout for name in ("libasan", "libtsan", "libubsan"))


class Counters:
    """Put `env` into a node's environment before its daemon starts."""

    def __init__(self, path):
        self.path = path
        self.bytes = HEADER.size + THREADS_MAX * SLOT.size
        with open(path, "wb") as f:
            f.truncate(self.bytes)
        self.fd = os.open(path, os.O_RDWR)
        self.map = mmap.mmap(self.fd, self.bytes)
        self.env = {"LD_PRELOAD": str(library()), "LOCKSTEP_ALLOC_FILE": str(path)}

    def arm(self):
        """From now on the first callers of each thread are kept."""
        self.map[:8] = struct.pack("<Q", 1)

    def read(self):
        """{tid: (allocations, frees, mappings, traces)}"""
        _, used = HEADER.unpack_from(self.map)
        result = {}
        for i in range(min(used, THREADS_MAX)):
            tid, allocations, frees, mappings, count, *traces = SLOT.unpack_from(self.map, HEADER.size + i * SLOT.size)
            shown = [[a for a in traces[n * TRACE_DEPTH:(n + 1) * TRACE_DEPTH] if a] for n in range(count)]
            result[tid] = (allocations, frees, mappings, shown)
        return result


def where(pid, addresses):
    """Return addresses of a running program as function and line."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as f:
        maps = [line.split() for line in f]
    lines = []
    for a in addresses:
        for m in maps:
            lo, hi = (int(x, 16) for x in m[0].split("-"))
            if lo <= a < hi and len(m) > 5:
                base = next(int(n[0].split("-")[0], 16) for n in maps if len(n) > 5 and n[5] == m[5])
                p = proc.run(["addr2line", "-sfpe", m[5], hex(a - 1 - base)], ok=None)
                lines.append(p.stdout.strip() or m[5])
    return " < ".join(lines)
