"""Protobuf messages put together by hand, field by field: what no encoder of ours would say, tests can."""

import struct


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def number(field, n):
    return varint(field << 3) + varint(n)


def fixed(field, n):
    return varint(field << 3 | 1) + struct.pack("<Q", n)


def data(field, b):
    b = b.encode() if isinstance(b, str) else b
    return varint(field << 3 | 2) + varint(len(b)) + b


def parse(message):
    """{field: last value} of a message: numbers, or bytes."""
    fields, at = {}, 0

    def take():
        nonlocal at
        n = shift = 0
        while True:
            byte = message[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n
    while at < len(message):
        key = take()
        if key & 7 == 0:
            fields[key >> 3] = take()
        elif key & 7 == 1:
            fields[key >> 3] = struct.unpack_from("<Q", message, at)[0]
            at += 8
        else:
            length = take()
            fields[key >> 3] = message[at:at + length]
            at += length
    return fields
