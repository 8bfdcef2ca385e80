#!/usr/bin/python3
"""Writes the seeds of corpus/kept. Checksums are 0: the fuzzer puts the right ones in."""
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
DATA, ZEROES, UNREADABLE = range(3)


def head(version=1, flags=0, volume=b"gold42", zero=b""):
    b = b".LKSKEPT" + struct.pack("<QIIQQQQQ", 0, version, flags, 1763886000000000, 16 << 20, 7, 700, 8192)
    b += bytes([1]) * 16 + bytes([2]) * 16 + struct.pack("<QQQ", 3, 300, 33) + struct.pack("<QQQ", 5, 500, 55)
    b += volume.ljust(64, b"\0") + b"paris-a".ljust(64, b"\0") + b"paris-b".ljust(64, b"\0")
    assert len(b) == 336
    return (b + zero).ljust(4096, b"\0")


def chunk(number, extents, data_bytes=None, count=None):
    data = sum(n for _, n, kind in extents if kind == DATA)
    b = b".LKSCHNK" + struct.pack("<QQQII", 0, number, 0, data if data_bytes is None else data_bytes,
                                  len(extents) if count is None else count) + bytes(40)
    assert len(b) == 80
    b += b"".join(struct.pack("<QQII", at, n, kind, 0) for at, n, kind in extents)
    return b.ljust(8192, b"\0") + b"d" * data


def end(chunks, extents, data=0, zeroes=0, unreadable=0):
    return (b".LKSENDS" + struct.pack("<QQQQQQ", 0, chunks, extents, data, zeroes, unreadable)).ljust(4096, b"\0")


SOME = chunk(0, [(4096, 512, DATA), (8192, 1 << 20, ZEROES), (2 << 20, 512, UNREADABLE)])
MORE = chunk(1, [(3 << 20, 512, DATA)])
SEEDS = {
    "empty": head() + end(0, 0),
    "some": head() + SOME + MORE + end(2, 4, 1024, 1 << 20, 512),
    "everything": head(flags=1) + chunk(0, [(0, 16 << 20, ZEROES)]) + end(1, 1, 0, 16 << 20),
    "cut_off": head() + SOME,
    "chunk_missing": head() + MORE + end(1, 1, 512),
    "wrong_sums": head() + SOME + end(1, 4, 512, 1 << 20, 512),
    "beyond_the_end": head() + chunk(0, [((16 << 20) - 512, 1024, ZEROES)]) + end(1, 1, 0, 1024),
    "wraps": head() + chunk(0, [((1 << 64) - 512, 1024, ZEROES)]) + end(1, 1, 0, 1024),
    "falls": head() + chunk(0, [(8192, 512, ZEROES), (4096, 512, ZEROES)]) + end(1, 2, 0, 1024),
    "overlaps": head() + SOME + chunk(1, [(4096, 512, DATA)]) + end(2, 4, 1024, 1 << 20, 512),
    "too_many": head() + chunk(0, [(0, 512, ZEROES)], count=339) + end(1, 339),
    "none": head() + chunk(0, []) + end(1, 0),
    "other_data": head() + chunk(0, [(0, 512, DATA)], data_bytes=4096) + bytes(4096) + end(1, 1, 512),
    "long_data": head() + chunk(0, [(0, 512, DATA)], data_bytes=(1 << 32) - 1) + end(1, 1, 512),
    "other_kind": head() + chunk(0, [(0, 512, 3)]) + end(1, 1),
    "behind_the_end": head() + end(0, 0) + b"x",
    "newer": head(version=2) + end(0, 0),
    "other_flags": head(flags=2) + end(0, 0),
    "steering": head(volume=b"\x1b[2J") + end(0, 0),
    "no_name": head(volume=b"") + end(0, 0),
    "not_ours": b"something else".ljust(4096, b"\0"),
    "short": b".LKSKEPT",
}

if __name__ == "__main__":
    (HERE / "kept").mkdir(exist_ok=True)
    for name, seed in SEEDS.items():
        (HERE / "kept" / name).write_bytes(seed)
