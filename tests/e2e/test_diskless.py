#!/usr/bin/python3
"""The primary's disk fails: its clients notice nothing, as it goes on through its peer's leg. The peer's daemon may die meanwhile. The
service moves to the peer, and the leg that had failed comes back as a target: mended, or made anew on another disk."""

import os

from lib import fs, nbdio, run
from lib.cluster import Cluster

from test_disk_faults import CONNECTIONS, SIZE, faults_of


def no_holes_of_the_failed_leg(t, c):
    """A client that asks before it copies, as nbdcopy does, must not take a hole of the failed file for the volume's zeroes."""
    with open(c.a.backing, "rb") as f:
        hole = os.lseek(f.fileno(), 0, os.SEEK_HOLE)
        end = os.lseek(f.fileno(), hole, os.SEEK_DATA)
    start = (hole + 4095) // 4096 * 4096
    t.check(end - start >= 4096 and start + 4096 <= SIZE, "the failed file has a hole", (hole, end))
    h = nbdio.connect(c.a.uri, contexts=["base:allocation"])
    extents = []
    h.pwrite(os.urandom(4096), start)
    h.block_status(SIZE, 0, lambda context, offset, entries, error: extents.extend(entries))
    h.shutdown()
    t.check(sum(extents[0::2]) == SIZE and not any(extents[1::2]), "block status names no hole while diskless", extents[:8])


def a_replaced_disk(t):
    t.step("the primary's disk is gone for good: replaced by a fresh one, which gets everything")
    c = Cluster(t, size=SIZE, name="replaced", dead_after="1s")
    c.a.make_fail("disk", error="EIO", **{"write-errors-per-million": 1000000, "error-after-requests": 300})
    c.ready()
    load = nbdio.start(nbdio.scribblers(c.a.uri, SIZE, t.seed, CONNECTIONS, read_percent=20))
    s = c.a.wait("to be diskless", lambda s: s["diskless"])
    nbdio.headway(load, seconds=20)
    nbdio.stop(load)
    t.check(not any(s.errors for s in load), "no client saw an error")
    no_holes_of_the_failed_leg(t, c)
    c.a.cli("demote", c.volume)
    c.b.cli("promote", c.volume)
    c.a.cli("down", c.volume, ok=(0, 1, 2, 3, 4))
    c.a.stop()
    c.a.mend()
    c.a.replace_disk()
    c.b.wait("to be protected", lambda s: s["protected"], 60)
    c.stop()
    nbdio.verify_legs(c, load, "with a new disk")
    fs.remove(c.dir)


def test(t):
    faults_of(t, 0)
    a_replaced_disk(t)


if __name__ == "__main__":
    run.main(test, limit_s=300)
