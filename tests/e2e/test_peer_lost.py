#!/usr/bin/python3
"""The secondary is lost: writes wait, reads go on, status tells the truth; it comes back: the waiting writes complete and
both legs are equal. Killed, stalled beyond dead-after, shut down
in order, and taken down by its operator."""

import nbd

from lib import nbdio, run
from lib.cluster import MIB, Cluster
from lib.run import stays, wait_until

DEAD_AFTER_S = 1.0
WAITING_SHOWN_S = 3 * DEAD_AFTER_S


class OneWrite:
    """A write that may take its time."""

    def __init__(self, uri, data, offset_bytes):
        self.h = nbdio.connect(uri)
        self.buffer = nbd.Buffer.from_bytearray(bytearray(data))
        self.cookie = self.h.aio_pwrite(self.buffer, offset_bytes)

    def done(self):
        self.h.poll(0)
        return self.h.aio_command_completed(self.cookie)

    def shutdown(self):
        self.h.shutdown()


def lose_and_return(t, c, how, lose, give_back):
    a, b = c.nodes
    t.step(f"the secondary is {how} while {len(c.load)} connections write")
    nbdio.headway(c.load, 200, what="the load to run")
    lose()
    status = a.wait("the loss to be seen", lambda s: not s["protected"], 15)
    t.say(f"status: protected {status['protected']}, why not: {status['why_not']}")
    t.check(status["why_not"], "status says in words what is missing")
    t.check(status["serving"] and status["role"] == "primary", "the primary goes on serving")

    write = OneWrite(a.uri, b"w" * 65536, c.share_free)
    reader = nbdio.connect(a.uri)
    reads = 0

    def still_waiting():
        nonlocal reads
        reader.pread(4096, 0)
        reads += 1
        return not write.done()
    stays("the write waits", still_waiting, WAITING_SHOWN_S)
    t.check(reads > 0, f"a write waited {WAITING_SHOWN_S:.0f} s; {reads} reads were answered meanwhile")
    reader.shutdown()
    waiting = {s: s.writes for s in c.load}
    stays("no other write completes either", lambda: all(s.writes == w for s, w in waiting.items()), 0.5)

    t.step("the secondary is back")
    give_back()
    wait_until("the waiting write to complete", write.done, 20, describe=lambda: a.status())
    t.check(True, "the waiting write completed")
    a.wait("to be protected again", lambda s: s["protected"] and s["why_not"] is None)
    write.shutdown()
    nbdio.headway(c.load, 200, what="the load to run again")


def kill(node):
    return node.sigkill, node.start


def stall(node):
    return node.pause, node.resume


def shut_down(node):
    return node.stop, node.start


def take_down(node, volume):
    return lambda: node.cli("down", volume), lambda: node.cli("up", volume)


def test(t):
    c = Cluster(t, size=256 * MIB, dead_after=f"{int(DEAD_AFTER_S * 1000)}ms")
    a, b = c.nodes
    t.step("two nodes, protected")
    c.ready()
    c.share_free = c.size - 4 * MIB  # beyond every scribbler's share
    c.load = nbdio.start(nbdio.scribblers(a.uri, c.share_free, t.seed, 4))
    for _ in range(10 if t.long else 1):
        lose_and_return(t, c, "killed (SIGKILL)", *kill(b))
        lose_and_return(t, c, f"stopped for longer than dead-after ({DEAD_AFTER_S} s)", *stall(b))
        lose_and_return(t, c, "shut down (SIGTERM)", *shut_down(b))
        lose_and_return(t, c, "taken down by `lockstep down`", *take_down(b, c.volume))

    t.step("everything acknowledged is on both legs")
    nbdio.stop(c.load)
    c.stop()
    t.check(True, "both daemons ended by themselves on SIGTERM, with status 0")
    nbdio.verify_legs(c, c.load, "after loss and return")

    t.step("both start again; after a clean end the volume goes on where it was")
    c.start()
    c.promote(a)
    for s in c.load:
        h = nbdio.connect(a.uri)
        for block in s.touched()[:200]:
            s.check_blocks(h.pread(s.block_bytes, block * s.block_bytes), block, "after the restart")
        h.shutdown()
    t.check(True, "what was written before is read again")
    c.stop()


if __name__ == "__main__":
    run.main(test, limit_s=90)
