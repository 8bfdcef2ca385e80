"""What clients were promised, with the times: which writes must be on a disk that lost its power at some moment.

Times are time.monotonic_ns(), the clock of the recorded logs. A client's view is a little late: what it has heard of had
happened before."""

import bisect
import mmap
import os
import struct
import time

import nbd

from lib import nbdio
from lib.run import Failure

BAD_SHOWN = 5


class History:
    """The changes of one block, in order: one connection makes them, one after the other."""

    __slots__ = ("stamps", "sent", "answered", "fua")

    def __init__(self):
        self.stamps = []
        self.sent = []
        self.answered = []  # None: not yet
        self.fua = []


class Scribe(nbdio.Scribbler):
    """A Scribbler that keeps its whole history."""

    def __init__(self, *args, stride_bytes=0, grown=False, **more):
        """`stride_bytes`: only the first blocks in each so many bytes are used, all over the share. `grown`: the share is in
        what a resize has added, and nothing is known of it before it was written to."""
        super().__init__(*args, **more)
        self.stride = stride_bytes // self.block_bytes
        assert not self.stride or 2 * self.blocks_max <= self.stride
        self.grown = grown
        self.histories = {}
        self.flushes = []  # (sent, answered)

    def place(self, n):
        if not self.stride:
            return super().place(n)
        return self.first + self.stride * self.random.randrange(self.count // self.stride) + self.random.randrange(self.blocks_max)

    def flush(self):
        sent = time.monotonic_ns()
        self.handle.flush()
        self.flushes.append((sent, time.monotonic_ns()))

    def change(self, at, n, stamp, send):
        fua = self.random.randrange(100) < self.fua_percent
        blocks = [self.histories.setdefault(b, History()) for b in range(at, at + n)]
        for b in range(at, at + n):
            self.doubt.setdefault(b, set()).add(stamp)
        sent = time.monotonic_ns()
        for h in blocks:
            h.stamps.append(stamp)
            h.sent.append(sent)
            h.answered.append(None)
            h.fua.append(fua)
        send(nbd.CMD_FLAG_FUA if fua else 0)
        answered = time.monotonic_ns()
        for h in blocks:
            h.answered[-1] = answered
        for b in range(at, at + n):
            self.acked[b] = stamp
            del self.doubt[b]
        self.writes += 1


class Ledger:
    """All scribes' histories together. Only when none of them is at work."""

    def __init__(self, scribes):
        self.scribes = scribes
        flushes = sorted((answered, sent) for s in scribes for sent, answered in s.flushes)
        self.flush_answered = [answered for answered, _ in flushes]
        self.flush_sent = []  # the latest of those answered by then
        latest = 0
        for _, sent in flushes:
            latest = max(latest, sent)
            self.flush_sent.append(latest)

    def covered(self, at_ns):
        """What was answered before this moment was covered by a flush that was answered before `at_ns`."""
        i = bisect.bisect_right(self.flush_answered, at_ns)
        return self.flush_sent[i - 1] if i else 0

    @staticmethod
    def allowed(history, at_ns, until_ns, covered_ns):
        """The stamps that a block may hold at `at_ns`, the newest first, back to the last that was promised by `until_ns`.
        `covered_ns`: None: what was answered is certain."""
        stamps = []
        for i in range(bisect.bisect_right(history.sent, at_ns) - 1, -1, -1):
            stamps.append(history.stamps[i])
            answered = history.answered[i]
            if answered is not None and answered <= until_ns and (covered_ns is None or history.fua[i] or answered < covered_ns):
                return stamps
        return stamps + [nbdio.ZEROES]

    def promised(self, at_ns):
        """(changes answered, of those: certain by flush or FUA) in blocks, over all histories."""
        covered = self.covered(at_ns)
        answered = certain = 0
        for s in self.scribes:
            for h in s.histories.values():
                for i, a in enumerate(h.answered):
                    if a is not None and a <= at_ns:
                        answered += 1
                        certain += h.fua[i] or a < covered
        return answered, certain

    def written_between(self, from_ns, to_ns):
        """Offsets of the blocks of which a change was answered in that time."""
        return [number * s.block_bytes for s in self.scribes for number, h in s.histories.items()
                if any(a is not None and from_ns <= a < to_ns for a in h.answered)]

    def faults(self, image, at_ns, lost_power, left_ns=None):
        """What an image of a leg lacks of what was promised by then, as texts. `lost_power`: only what was flushed, or
        FUA, has to be there; else everything that was answered. `left_ns`: since when the leg need not get anything any
        more, as changes are acknowledged without it; what it has in place of what it had is newer."""
        until = at_ns if left_ns is None else left_ns
        covered = self.covered(until) if lost_power else None
        wrong = []
        for s in self.scribes:
            size = s.block_bytes
            for number, history in s.histories.items():
                if s.grown and history.sent[0] > at_ns:
                    continue
                data = image[number * size:(number + 1) * size]
                allowed = self.allowed(history, at_ns, until, covered)
                if data == nbdio.pattern(allowed[0], number, size) or all_words_in(data, number, allowed):
                    continue
                wrong.append(f"block {number} (offset {number * size}) holds {nbdio.stamp_of(data, number, size)},"
                             f" may hold {allowed[:BAD_SHOWN]}")
        return wrong

    def check(self, path, at_ns, lost_power, whose, left_ns=None):
        fd = os.open(path, os.O_RDONLY)
        try:
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as image:
                wrong = self.faults(image, at_ns, lost_power, left_ns)
        finally:
            os.close(fd)
        if wrong:
            raise Failure(f"{whose}: {len(wrong)} blocks lack what was promised: " + "; ".join(wrong[:BAD_SHOWN]))


def all_words_in(data, number, stamps):
    """Not all of a block need have come to the disk, nor all of a sector."""
    right = [struct.unpack("<QQ", nbdio.pattern(stamp, number, 16)) for stamp in stamps]
    words = struct.unpack(f"<{len(data) // 8}Q", data)
    return set(words[0::2]) <= {r[0] for r in right} and set(words[1::2]) <= {r[1] for r in right}
