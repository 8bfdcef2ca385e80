#!/usr/bin/python3
"""Writes the seeds of corpus/nbd: conversations of real clients, well-formed and broken ones."""
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent / "nbd"


def opt(option, data=b"", length=None):
    return b"IHAVEOPT" + struct.pack(">II", option, len(data) if length is None else length) + data


def text(s):
    return struct.pack(">I", len(s)) + s


def go(option, name, infos=()):
    return opt(option, text(name) + struct.pack(">H", len(infos)) + b"".join(struct.pack(">H", i) for i in infos))


def meta(option, name, queries):
    return opt(option, text(name) + struct.pack(">I", len(queries)) + b"".join(text(q) for q in queries))


def req(kind, offset=0, length=0, flags=0, payload=b"", magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, kind, 0x1122334455667788, offset, length) + payload


FIXED = struct.pack(">I", 3)
MODERN = FIXED + opt(8) + meta(10, b"gold42", [b"base:allocation"]) + go(7, b"gold42", (3, 1, 2))
KIB4 = bytes(4096)

SEEDS = {
    "libnbd": MODERN + req(1, 4096, 4096, 1, KIB4) + req(0, 4096, 4096) + req(3) + req(7, 0, 1 << 20) + req(2),
    "kernel": FIXED + go(7, b"gold42") + req(0, 0, 4096) + req(4, 0, 8192) + req(6, 0, 8192, 2) + req(2),
    "qemu": FIXED + opt(5) + opt(8) + meta(9, b"", []) + meta(10, b"", [b"qemu:x", b"base:allocation"]) +
            go(6, b"", (3,)) + go(7, b"", (3,)) + req(0, 0, 65536, 4) + req(6, 0, 4096, 16) + req(2),
    "oldest": struct.pack(">I", 0) + opt(1, b"gold42") + req(0, 0, 4096) + req(2),
    "list_abort": FIXED + opt(3) + opt(2),
    "wrong_name": FIXED + go(7, b"silver") + opt(1, b"silver"),
    "name_too_long": FIXED + opt(7, struct.pack(">I", 5000) + b"gold42"),
    "queries_lie": FIXED + opt(8) + opt(10, text(b"gold42") + struct.pack(">I", 0xFFFFFFFF) + text(b"base:")),
    "oversized": FIXED + opt(7, bytes(9000)) + go(7, b"gold42") + req(0, 0, 4096),
    "absurd": FIXED + opt(7, b"", 0xFFFFFFFF),
    "flood": FIXED + opt(99) * 70,
    "bad_magic": MODERN + req(0, 0, 4096, magic=0x12345678),
    "bad_ranges": MODERN + req(0, 1 << 30, 4096) + req(0, (1 << 64) - 512, 1024) + req(0, 1, 4096) + req(0, 0, 0) +
                  req(3, 1, 1) + req(7, 0, 0) + req(9, 0, 4096) + req(5, 0, 4096) + req(0, 0, 1 << 26),
    "bad_write": MODERN + req(1, 1 << 40, 4096, 0, KIB4) + req(1, 0, 4096, 0xFFFF, KIB4) + req(1, 0, 0xFFFFFFFF),
    "half_request": MODERN + req(1, 0, 4096, 0, KIB4[:100]),
}

HERE.mkdir(exist_ok=True)
for name, conversation in SEEDS.items():
    for mode, chunk in ((0, 255), (1, 1), (2, 9)):
        (HERE / f"{name}-{mode}").write_bytes(bytes((mode, chunk)) + conversation)
