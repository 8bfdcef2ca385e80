#!/usr/bin/python3
"""Writes the seeds of corpus/superblock, metadata, bitmap and activity_log. Checksums are 0: the fuzzers put the right ones in."""
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
NONE = 0xffffffff


def entry(epoch):
    return struct.pack("<QQQ", epoch, epoch * 100, epoch * 10)


def superblock(copy, sequence=3, version=2, epochs=range(1, 8), count=None, size=1 << 30, backing=2 << 30, al_from=77,
               granule=4096, extent=4 << 20):
    epochs = list(epochs)
    b = b"LKSTEPES" + struct.pack("<QIIQQQQQ", 0, version, copy, sequence, size, backing, 64, 123456)
    b += struct.pack("<IBBBB", 0xe1, 1, 1, 3, 0) + b"".join(bytes([i + 1]) * 16 for i in range(4))
    b += b"gold42".ljust(64, b"\0") + b"paris-a".ljust(64, b"\0")
    assert len(b) == 264
    b += struct.pack("<QIIQQ", al_from, granule, extent, 5, 999) + entry(6)
    b += struct.pack("<II", len(epochs) if count is None else count, 0) + b"".join(entry(e) for e in epochs)
    return b.ljust(4096, b"\0")


def page(index, granule=512, owner=1, bits=b""):
    b = b"LKSSTMAP" + struct.pack("<QIIQ", 0, 1, granule, index) + bytes([owner]).ljust(16, b"\0") + bytes(16)
    assert len(b) == 64
    return (b + bits).ljust(4096, b"\0")


def al(sequence, updates, context, slots=8, context_slots=4, owner=1, extent=4096):
    b = b"LKSCALOG" + struct.pack("<QIIQ", 0, 1, extent, sequence) + bytes([owner]).ljust(16, b"\0")
    b += struct.pack("<IHH", slots, context_slots, len(updates)) + bytes(8)
    assert len(b) == 64
    b += b"".join(struct.pack("<II", *u) for u in updates)
    return (b.ljust(64 + 240 * 8, b"\0") + struct.pack("<%dI" % len(context), *context)).ljust(4096, b"\0")


def ring(blocks, mask=0, size=8):
    """`mask`: which places keep their wrong checksum; also from_sequence."""
    places = [bytes(4096)] * size
    for b in blocks:
        places[struct.unpack_from("<Q", b, 24)[0] % size] = b
    return (bytes([mask]) + b"".join(places)).rstrip(b"\0")


def log(count, slots=8):
    """`count` blocks, each of which takes one extent in, as the program writes them."""
    table, blocks = [NONE] * slots, []
    for i in range(count):
        table[i % slots] = i % 60
        first = (i + 1) % 2 * 4
        blocks.append(al(i + 1, [(i % slots, i % 60)], table[first:first + 4]))
    return blocks


def leg(options=0, size=8 << 20, backing=16 << 20, **more):
    """What fuzz_metadata reads: superblocks, blocks of the log, pages. """
    blocks = [superblock(i, size=size, backing=backing, al_from=1, **more) for i in range(4)]
    blocks = [b[:88] + bytes([2]).ljust(16, b"\0") + b[104:] for b in blocks]  # as the others' owner
    blocks += [al(i + 1, [(i, i % 2)] if i < 2 else [], [0, 1, NONE, NONE] if i % 2 else [NONE] * 4, owner=2, extent=4 << 20)
               for i in range(4)]
    blocks += [page(0, granule=4096, owner=2, bits=b"\x0f"), page(1, granule=4096, owner=2)]
    return bytes([options]) + b"".join(blocks)


SEEDS = {
    "metadata": {
        "internal": leg(),
        "external": leg(1),
        "unsized": leg(size=0),
        "many_extents": leg(1, size=3 << 40, backing=4 << 40, granule=512, extent=512),
        "small_units": leg(granule=512, extent=512),
        "other_backing": leg(backing=1 << 30),
        "nothing": b"\0",
    },
    "superblock": {
        "short_and_empty": b"LKSTEPES",
        "three_of_one_and_one_newer": superblock(0) + superblock(1) + superblock(2) + superblock(3, 4),
        "full_history": b"".join(superblock(i, epochs=range(1, 65)) for i in range(4)),
        "no_history": b"".join(superblock(i, epochs=[]) for i in range(4)),
        "history_too_long": superblock(0, count=65) + superblock(1, count=0xffffffff),
        "history_that_falls": superblock(0, epochs=[3, 2]) + superblock(1, epochs=[3, 3]) + superblock(2, epochs=[0]),
        "other_formats": superblock(0, version=1) + superblock(1, version=3),
    },
    "bitmap": {
        "never_written": b"",
        "some": page(0, bits=b"\x01\x80\xff"),
        "all": page(0, bits=b"\xff" * 4032),
        "second": page(1, bits=b"\xff" * 12 + b"\x0f"),
        "beyond_the_end": page(1, bits=b"\xff" * 13),
        "other_granule": page(0, granule=4096),
        "other_leg": page(0, owner=2),
    },
    "activity_log": {
        "fresh": b"\0",
        "one": ring(log(1)),
        "wrapped": ring(log(20)),
        "torn": ring(log(20), mask=1 << 20 % 8),
        "gap": ring(log(20), mask=1 << 19 % 8),
        "two_torn": ring(log(20), mask=3 << 19 % 8),
        "void": ring(log(20), mask=20),
        "other_leg": ring([al(5, [(0, 1)], [1, NONE, NONE, NONE], owner=2)]),
        "many_slots": ring([al(5, [(0, 1)], [1, NONE, NONE, NONE], slots=2 ** 18, context_slots=1)]),
        "twice": ring([al(1, [(0, 1)], [NONE] * 4), al(2, [(1, 1)], [1, 1, NONE, NONE])]),
        "highest": ring([al(2 ** 63 - 1, [], [NONE] * 4)]),
    },
}

for folder, files in SEEDS.items():
    (HERE / folder).mkdir(exist_ok=True)
    for name, data in files.items():
        (HERE / folder / name).write_bytes(data)
