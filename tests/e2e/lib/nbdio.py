"""Random writes over NBD whose every block can be judged afterwards: on the export, and on a leg.

A Scribbler is one connection with a slice of the volume to itself. Each write carries a stamp of its own in every block,
so that what is found in a block tells which write it came from. A block that was written may hold its last acknowledged
write, or one that was sent after it and never answered; anything else is a broken promise."""

import os
import random
import struct
import threading

import nbd

from lib.run import PATIENCE, Failure, wait_until

ZEROES = 0  # the stamp of a block that was never written, trimmed or zeroed
BAD_SHOWN = 5
SECTOR_BYTES = 512  # what a disk writes whole or not at all


def connect(uri, contexts=()):
    h = nbd.NBD()
    for context in contexts:
        h.add_meta_context(context)
    h.connect_uri(uri)
    return h


def pattern(stamp, block, block_bytes):
    if stamp == ZEROES:
        return bytes(block_bytes)
    return struct.pack("<QQ", stamp, block) * (block_bytes // 16)


def stamp_of(data, block, block_bytes):
    """The stamp of a block's content; None when it is no whole block of ours."""
    stamp, number = struct.unpack_from("<QQ", data)
    if stamp == ZEROES and number == 0:
        return ZEROES if data == bytes(block_bytes) else None
    return stamp if data == pattern(stamp, block, block_bytes) else None


class Scribbler:
    def __init__(self, uri, start_bytes, length_bytes, seed, block_bytes=4096, blocks_max=32, number=0,
                 read_percent=20, zero_percent=5, trim_percent=5, flush_percent=2, fua_percent=10, stop_on_error=True,
                 connect_now=True):
        assert start_bytes % block_bytes == 0 and length_bytes % block_bytes == 0
        self.block_bytes = block_bytes
        self.first = start_bytes // block_bytes
        self.count = length_bytes // block_bytes
        self.blocks_max = min(blocks_max, self.count)
        self.random = random.Random(seed)
        self.next_stamp = (number + 1) << 40
        self.percents = (read_percent, zero_percent, trim_percent, flush_percent)
        self.fua_percent = fua_percent
        self.stop_on_error = stop_on_error
        self.acked = {}  # block -> stamp of the last acknowledged write
        self.doubt = {}  # block -> stamps of later writes that were not acknowledged
        self.ops = 0
        self.writes = 0  # acknowledged
        self.errors = []
        self.wrong = None
        self.stopping = False
        self.handle = connect(uri) if connect_now else None
        self.thread = threading.Thread(target=self.work, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def stop(self, seconds=20):
        self.stopping = True
        self.thread.join(seconds * PATIENCE)
        if self.thread.is_alive():
            raise Failure(f"a request is still unanswered after {seconds * PATIENCE} s")
        if self.wrong:
            raise Failure(self.wrong)
        return self

    def reconnect(self, uri):
        """After the server went away in order: goes on with what it knows."""
        assert not self.thread.is_alive()
        self.stopping = False
        self.errors = []
        self.handle = connect(uri)
        self.thread = threading.Thread(target=self.work, daemon=True)

    def alive(self):
        return self.thread.is_alive()

    def work(self):
        while not self.stopping:
            try:
                self.one()
            except nbd.Error as e:
                self.errors.append(e)
                if self.stop_on_error or self.handle.aio_is_dead() or self.handle.aio_is_closed():
                    return
            except Failure as e:
                self.wrong = str(e)
                return

    def place(self, n):
        return self.first + self.random.randrange(self.count - n + 1)

    def one(self):
        n = self.random.randint(1, self.blocks_max)
        at = self.place(n)
        roll = self.random.randrange(100)
        read, zero, trim, flush = self.percents
        if roll < read:
            self.check_blocks(self.handle.pread(n * self.block_bytes, at * self.block_bytes), at, "read back")
        elif roll < read + zero:
            self.change(at, n, ZEROES, lambda flags: self.handle.zero(n * self.block_bytes, at * self.block_bytes, flags))
        elif roll < read + zero + trim:
            self.change(at, n, ZEROES, lambda flags: self.handle.trim(n * self.block_bytes, at * self.block_bytes, flags))
        elif roll < read + zero + trim + flush:
            self.flush()
        else:
            self.next_stamp += 1
            stamp = self.next_stamp
            data = b"".join(pattern(stamp, b, self.block_bytes) for b in range(at, at + n))
            self.change(at, n, stamp, lambda flags: self.handle.pwrite(data, at * self.block_bytes, flags))
        self.ops += 1

    def change(self, at, n, stamp, send):
        for b in range(at, at + n):
            self.doubt.setdefault(b, set()).add(stamp)
        send(nbd.CMD_FLAG_FUA if self.random.randrange(100) < self.fua_percent else 0)
        for b in range(at, at + n):
            self.acked[b] = stamp
            del self.doubt[b]
        self.writes += 1

    def flush(self):
        self.handle.flush()

    def allowed(self, block):
        return {self.acked.get(block, ZEROES)} | self.doubt.get(block, set())

    def check_blocks(self, data, at, where):
        size = self.block_bytes
        for i in range(len(data) // size):
            block = data[i * size:(i + 1) * size]
            found = stamp_of(block, at + i, size)
            if found not in self.allowed(at + i) and not self.is_torn(block, at + i):
                raise Failure(f"{where}: block {at + i} (offset {(at + i) * size}) holds {found}, may hold"
                              f" {sorted(self.allowed(at + i))}")

    def is_torn(self, data, number):
        """A write that failed, or was never answered, may be there in part: in whole sectors, each of them old or new."""
        if number not in self.doubt:
            return False
        right = [pattern(stamp, number, SECTOR_BYTES) for stamp in self.allowed(number)]
        return all(data[i:i + SECTOR_BYTES] in right for i in range(0, len(data), SECTOR_BYTES))

    def touched(self):
        return sorted(set(self.acked) | set(self.doubt))


def verify_leg(t, path, scribblers, whose):
    """Every acknowledged write is on the leg."""
    wrong = []
    blocks = 0
    fd = os.open(path, os.O_RDONLY)
    try:
        for s in scribblers:
            for b in s.touched():
                blocks += 1
                try:
                    s.check_blocks(os.pread(fd, s.block_bytes, b * s.block_bytes), b, whose)
                except Failure as e:
                    wrong.append(str(e))
    finally:
        os.close(fd)
    if wrong:
        raise Failure(f"{len(wrong)} of {blocks} blocks are wrong: " + "; ".join(wrong[:BAD_SHOWN]))
    t.say(f"ok: {whose} has all {sum(s.writes for s in scribblers)} acknowledged writes ({blocks} blocks;"
          f" {sum(len(s.doubt) for s in scribblers)} in doubt)")


def verify_legs(cluster, scribblers, why):
    """Of a cluster that is down: both legs have all of it, and are equal."""
    for n in cluster.nodes:
        verify_leg(cluster.t, n.backing, scribblers, n.name)
    cluster.assert_legs_equal(why)


def scribblers(uri, size_bytes, seed, connections=4, **more):
    """Several connections, each with its share of the volume."""
    block = more.get("block_bytes", 4096)
    share = size_bytes // connections // block * block
    return [Scribbler(uri, i * share, share, seed * 1000 + i, number=i, **more) for i in range(connections)]


def start(all_of_them):
    return [s.start() for s in all_of_them]


def stop(all_of_them, seconds=20):
    for s in all_of_them:
        s.stopping = True
    return [s.stop(seconds) for s in all_of_them]


def total_ops(all_of_them):
    return sum(s.ops for s in all_of_them)


def headway(all_of_them, ops=300, seconds=30, what="the load to go on"):
    """Until so many more requests are answered."""
    before = total_ops(all_of_them)
    wait_until(what, lambda: total_ops(all_of_them) > before + ops or any(s.wrong for s in all_of_them), seconds,
               describe=lambda: [(s.ops, s.errors, s.wrong) for s in all_of_them])
