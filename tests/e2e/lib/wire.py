"""A peer that says what we want it to: frames and hellos as docs/PROTOCOL.md has them, made by hand, so that a mistake in
the daemon's own encoder cannot hide one in its decoder."""

import ctypes
import socket
import struct
import time

from lib import protobuf

HEADER = struct.Struct("<IBBHIIQQQQIIQ")
MAGIC = 0x314B534C
HELLO, READY, REFUSE, HEARTBEAT, WRITE, DISCARD, WRITE_ZEROES, FLUSH, ACK, DECREE = range(1, 11)
BLOCK_BYTES = 512

_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_64bits.restype = ctypes.c_uint64
_xxhash.XXH3_64bits.argtypes = (ctypes.c_char_p, ctypes.c_size_t)


def checksum64(data):
    return _xxhash.XXH3_64bits(data, len(data))


def frame(kind, payload=b"", number=1, flags=0, status=0, epoch=0, lsn=0, offset=0, blocks=0, tag=0, check=None):
    if check is None:
        check = checksum64(payload) if payload else 0
    fields = [MAGIC, kind, flags, status, len(payload), 0, number, epoch, lsn, offset, blocks, tag, check]
    fields[5] = checksum64(HEADER.pack(*fields)) & 0xFFFFFFFF
    return HEADER.pack(*fields) + payload


# Field numbers and kinds of proto/handshake.proto.
FIELDS = {"version": 1, "features": 2, "volume": 3, "node": 4, "peer": 5, "size_bytes": 6, "capacity_bytes": 7,
          "volume_id": 8, "leg_id": 9, "peer_leg_id": 10, "epoch": 11, "role": 12, "leg": 13, "pristine": 14,
          "lost_power": 15, "window_frames": 17, "window_bytes": 18,
          "granule_bytes": 21, "full": 22, "history_epoch": 26, "history_first_lsn": 27, "history_tag": 28,
          "nonce": 32}
FIXED64 = ("history_tag",)


def hello(**values):
    out = b""
    for name, value in values.items():
        field = FIELDS[name]
        if isinstance(value, (bytes, str)):
            out += protobuf.data(field, value)
        elif name in FIXED64:
            out += protobuf.fixed(field, value)
        else:
            out += protobuf.number(field, int(value))
    return out


def good_hello(cluster, speaker, listener, **other):
    """What `speaker` might say of a fresh leg."""
    values = {"version": 1, "volume": cluster.volume, "node": speaker.name, "peer": listener.name,
              "capacity_bytes": cluster.size, "leg_id": bytes(range(16)), "leg": 1, "pristine": 1, "window_frames": 256,
              "window_bytes": 64 << 20, "granule_bytes": 4096, "nonce": bytes(32)}
    values.update(other)
    return hello(**values)


class Stranger:
    """A connection to a daemon's path."""

    def __init__(self, port, timeout_s=60):
        self.s = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)

    def send(self, data):
        """False when the other side has had enough."""
        try:
            self.s.sendall(data)
            return True
        except OSError:
            return False

    def read_frame(self):
        """(kind, header fields, payload), or None when the connection ended."""
        head = self.read(HEADER.size)
        if head is None:
            return None
        fields = HEADER.unpack(head)
        return fields[1], fields, self.read(fields[4])

    def read(self, count):
        data = b""
        while len(data) < count:
            try:
                more = self.s.recv(count - len(data))
            except OSError:
                return None
            if not more:
                return None
            data += more
        return data

    def closed_within(self, seconds):
        """Reads on until the other side closes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.s.settimeout(left)
            try:
                if not self.s.recv(65536):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False

    def refusal(self, seconds=60):
        """The reason that the other side gives, or None."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            f = self.read_frame()
            if f is None:
                return None
            if f[0] == REFUSE:
                return f[2].decode(errors="replace")
        return None

    def close(self):
        self.s.close()
