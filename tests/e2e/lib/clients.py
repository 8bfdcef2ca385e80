"""Clients of a volume that moves: some follow the service wherever it goes, and some stay with a node to see whether it
answers when it must not.

Where the service is, the promote hooks tell, as they would move a service address. A follower whose request waits on a node
gives it up when the service is elsewhere; what became of it is unknown."""

import random
import threading
import time

import nbd

from lib import linear, nbdio
from lib.failover import hooks_of
from lib.run import PATIENCE, Failure, wait_until

LOOK_S = 0.005
POLL_MS = 20  # an answer is seen at once; that the service has moved, so often
AGAIN_S = 0.005
AUDIT_BYTES = 1 << 20
SLOW_S = 0.05  # longer writes are remembered


class Moved(Exception):
    """The service is elsewhere, or the client is to end: who waits for this node waits in vain."""


class Service:
    """Which node serves, by its promote hook with the highest epoch."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.sizes = {n: -1 for n in nodes}
        self.at, self.epoch = nodes[0], 0
        self.stopping = False
        self.look()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def look(self):
        for n in self.nodes:
            path = n.dir / "hooks"
            size = path.stat().st_size if path.exists() else 0
            if size == self.sizes[n]:
                continue
            self.sizes[n] = size
            epochs = [epoch for role, epoch in hooks_of(n) if role == "primary"]
            if epochs and max(epochs) > self.epoch:
                self.epoch, self.at = max(epochs), n

    def work(self):
        while not self.stopping:
            self.look()
            time.sleep(LOOK_S)

    def stop(self):
        self.stopping = True
        self.thread.join(10)


class Channel:
    """A connection that can be given up in the middle of a request, at which libnbd's own calls would wait."""

    def __init__(self, uri, given_up):
        self.given_up = given_up
        self.h = nbd.NBD()
        self.kept = None  # what is under way must not be freed
        try:
            self.h.aio_connect_uri(uri)
            self.wait(self.h.aio_is_ready)
        except BaseException:
            self.close()
            raise

    def wait(self, done):
        while not done():
            if self.given_up():
                raise Moved
            self.h.poll(POLL_MS)

    def ask(self, cookie):
        self.wait(lambda: self.h.aio_command_completed(cookie))

    def pread(self, count, offset, flags=0):
        # Not libnbd's own Buffer, which in its 1.14 is never freed.
        self.kept = bytearray(count)
        self.ask(self.h.aio_pread(self.kept, offset, flags=flags))
        return bytes(self.kept)

    def pwrite(self, data, offset, flags=0):
        self.kept = data
        self.ask(self.h.aio_pwrite(data, offset, flags=flags))

    def zero(self, count, offset, flags=0):
        self.ask(self.h.aio_zero(count, offset, flags=flags))

    def trim(self, count, offset, flags=0):
        self.ask(self.h.aio_trim(count, offset, flags=flags))

    def flush(self):
        self.ask(self.h.aio_flush())

    def close(self):
        self.h = None  # which closes it


class Follower(nbdio.Scribbler):
    """A scribbler that looks for the service again whenever it has lost it."""

    def __init__(self, service, *place, **more):
        self.service = service
        self.audits_wanted = self.audits = 0
        self.seen_errors = []  # (when, what)
        self.slow = []  # (begin, end) of changes that took long, and were acknowledged
        self.pausing, self.paused = False, False
        self.either = None  # block -> all that it has held since: any of it may come back
        super().__init__(None, *place, connect_now=False, **more)

    def work(self):
        turn = 0
        while not self.stopping:
            node = self.service.at if turn % 2 == 0 else self.service.nodes[turn // 2 % 2]
            epoch = self.service.epoch
            try:
                self.handle = Channel(node.uri, lambda n=node, e=epoch: self.stopping or (self.service.at is not n and
                                                                                       self.service.epoch > e))
            except (nbd.Error, Moved):
                turn += 1
                time.sleep(AGAIN_S)
                continue
            try:
                while not self.stopping:
                    self.one()
                    if self.audits < self.audits_wanted:
                        self.audit()
                    while self.pausing and not self.stopping:
                        self.paused = True
                        time.sleep(AGAIN_S)
                    self.paused = False
            except nbd.Error as e:
                self.seen_errors.append((time.monotonic(), str(e)))
            except Moved:
                pass
            except Failure as e:
                self.wrong = f"on {node.name}: {e}"
                return
            finally:
                self.handle.close()
            turn = 0

    def change(self, at, n, stamp, send):
        if self.either is not None:
            for b in range(at, at + n):
                self.either.setdefault(b, super().allowed(b)).add(stamp)
        began = time.monotonic()
        super().change(at, n, stamp, send)
        ended = time.monotonic()
        if ended - began > SLOW_S:
            self.slow.append((began, ended))

    def allowed(self, block):
        return super().allowed(block) | (self.either or {}).get(block, set())

    def begin_to_lose(self):
        """From now on what is acknowledged may be given up, by a person."""
        self.either = {}

    def lost(self):
        """It is, or is not. What is written from now on is promised again. Only while it rests, or has no connection."""
        for block, stamps in self.either.items():
            self.doubt.setdefault(block, set()).update(stamps)
        self.either = None

    def audit(self):
        """Reads all that it has."""
        per_read = AUDIT_BYTES // self.block_bytes
        for at in range(self.first, self.first + self.count, per_read):
            n = min(per_read, self.first + self.count - at)
            self.check_blocks(self.handle.pread(n * self.block_bytes, at * self.block_bytes), at, "looking at all")
        self.audits += 1


def followers(service, size_bytes, seed, count):
    share = size_bytes // count // 4096 * 4096
    return [Follower(service, i * share, share, seed * 1000 + i, number=i) for i in range(count)]


def audit(all_of_them, seconds=60):
    for f in all_of_them:
        f.audits_wanted = f.audits + 1
    wait_until("every block to be read", lambda: any(f.wrong for f in all_of_them) or
               all(f.audits >= f.audits_wanted for f in all_of_them), seconds,
               describe=lambda: [(f.ops, f.seen_errors[-2:]) for f in all_of_them])
    complain(all_of_them)


def complain(all_of_them):
    for f in all_of_them:
        if f.wrong:
            raise Failure(f.wrong)
        if not f.thread.is_alive():
            raise Failure("a client has ended by itself")


def pause(all_of_them, on):
    for f in all_of_them:
        f.pausing = on
    wait_until("the clients to rest", lambda: all(f.paused == on for f in all_of_them), 30)


class Asked:
    """One request of a prober."""
    __slots__ = ("block", "stamp", "begin", "end", "found", "answered")

    def __init__(self, block, stamp):
        self.block = block
        self.stamp = stamp  # 0: a read
        self.begin = time.monotonic()
        self.end = linear.NEVER
        self.found = None
        self.answered = False


PROBE_BLOCK = 4096
PROBE_BLOCKS = 4
PROBE_PAUSE_S = 0.004
SECTORS = PROBE_BLOCK // nbdio.SECTOR_BYTES


def stamps_of(data, block):
    """Of each sector: what failed may be there in part."""
    size = nbdio.SECTOR_BYTES
    return tuple(nbdio.stamp_of(data[i:i + size], block, size) for i in range(0, PROBE_BLOCK, size))


class Prober:
    """Asks one node, and only that, to write a few blocks that all probers share, or to read them. Not both: where writes
    wait, reads may be answered, but for those of a block that a write waits for."""

    def __init__(self, node, number, first_block, seed, writer=None):
        self.node = node
        self.first = first_block
        self.random = random.Random(f"{seed}/{number}/{writer is None}")
        self.writer = writer  # of the same node; None: it is one
        self.next_stamp = (number + 1) << 48
        self.asked = []
        self.under_way = None
        self.resting = self.rests = self.stopping = False
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while not self.stopping:
            if self.resting:
                self.rests = True
                time.sleep(AGAIN_S)
                continue
            try:
                channel = Channel(self.node.uri, lambda: self.stopping or (self.resting and not self.under_way))
            except (nbd.Error, Moved):
                time.sleep(AGAIN_S)
                continue
            try:
                while not self.stopping and not self.resting:
                    self.one(channel)
                    time.sleep(PROBE_PAUSE_S)
            except (nbd.Error, Moved):
                pass
            finally:
                self.under_way = None
                channel.close()

    def one(self, channel):
        block = self.first + self.random.randrange(PROBE_BLOCKS)
        if self.writer and (waits := self.writer.under_way) and waits.block == block:
            return
        stamp = 0
        if not self.writer:
            self.next_stamp += 1
            stamp = self.next_stamp
        asked = self.under_way = Asked(block, stamp)
        self.asked.append(asked)
        if stamp:
            channel.pwrite(nbdio.pattern(stamp, block, PROBE_BLOCK), block * PROBE_BLOCK)
        else:
            asked.found = stamps_of(channel.pread(PROBE_BLOCK, block * PROBE_BLOCK), block)
        asked.end = time.monotonic()
        asked.answered = True
        self.under_way = None

    def acknowledged(self):
        return [a for a in list(self.asked) if a.answered]

    def rest(self, seconds=30 / PATIENCE):
        self.resting = True
        wait_until(f"{self.node.name} to answer what it was asked", lambda: self.rests, seconds,
                   describe=lambda: self.under_way and f"asked {time.monotonic() - self.under_way.begin:.1f} s ago")

    def go_on(self):
        self.asked = []
        self.rests = self.resting = False

    def stop(self):
        self.stopping = True
        self.thread.join(20)


class Probes:
    """The probers of both nodes, and the judgement of what they were told."""

    def __init__(self, service, offset_bytes, seed):
        self.service = service
        self.first_block = offset_bytes // PROBE_BLOCK
        self.before = {}  # block -> the stamps that it had when this round began
        self.writers = {n: Prober(n, i, self.first_block, seed) for i, n in enumerate(service.nodes)}
        self.readers = [Prober(n, i, self.first_block, seed, self.writers[n]) for i, n in enumerate(service.nodes)]
        self.all = [*self.writers.values(), *self.readers]

    def of(self, node):
        """Who has it write."""
        return self.writers[node]

    def reads_of(self, node):
        """Who has it read."""
        return next(p for p in self.readers if p.node is node)

    def settle(self):
        """All rest. Returns who acknowledged writes, in order; a Failure if what they were told is in no order."""
        for p in self.all:
            p.rest()
        last = {}
        for block in range(self.first_block, self.first_block + PROBE_BLOCKS):
            read = Asked(block, 0)
            channel = Channel(self.service.at.uri, lambda: time.monotonic() > read.begin + 30)
            read.found = stamps_of(channel.pread(PROBE_BLOCK, block * PROBE_BLOCK), block)
            read.end, read.answered = time.monotonic(), True
            channel.close()
            asked = [a for p in self.all for a in p.asked if a.block == block] + [read]
            self.judge(block, asked)
            last[block] = read.found
        self.before = last
        return self.runs()

    def judge(self, block, asked):
        before = asked[-1].found if self.before is None else self.before.get(block, (nbdio.ZEROES,) * SECTORS)
        writes = [(a.stamp, a.begin, a.end) for a in asked if a.stamp]
        reads = [a for a in asked if not a.stamp and a.answered]
        whole = all(len(set(found)) == 1 for found in [before, *(a.found for a in reads)])
        for sector in range(1 if whole else SECTORS):
            wrong = linear.explain(before[sector], writes, [(a.found[sector], a.begin, a.end) for a in reads])
            if wrong:
                raise Failure(f"block {block} of those that are asked of both nodes: {wrong}; " + self.tell(block))

    def tell(self, block, last=12):
        lines = []
        for p in self.all:
            some = [a for a in p.asked if a.block == block][-last:]
            lines.append(f"{p.node.name}: " + ", ".join(f"{'w' if a.stamp else 'r'} {a.stamp or a.found} {a.begin:.4f}-{a.end:.4f}" for a in some))
        return "; ".join(lines)

    def runs(self):
        """The nodes that acknowledged writes, each as often as it took turns. A write counts for its beginning: one that was
        begun before another node's first acknowledgement may be answered late."""
        all_of_them = sorted((a.begin, a.end, n.name) for n, p in self.writers.items() for a in p.acknowledged())
        runs, first_end = [], None
        for begin, end, name in all_of_them:
            if runs and runs[-1] == name:
                first_end = min(first_end, end)
            elif len(runs) > 1 and runs[-2] == name and begin < first_end:
                pass
            else:
                runs.append(name)
                first_end = end
        return runs

    def go_on(self):
        for p in self.all:
            p.go_on()

    def begin_anew(self):
        """Acknowledged writes were given up by a person: whatever is there now is right."""
        for p in self.all:
            p.rest()
            p.asked = []
        self.before = None
        self.settle()

    def stop(self):
        for p in self.all:
            p.stop()
