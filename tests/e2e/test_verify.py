#!/usr/bin/python3
"""`lockstep verify`: finds what was planted on either leg, and nothing else, while the volume is written to; repairs it."""

import os

from lib import nbdio, run
from lib.cluster import FAILED, MIB, Cluster

SIZE = 128 * MIB
QUIET = 96 * MIB  # nobody writes from here on, so that what is planted there stays


def flip(node, offset):
    """A bit on the disk itself, under a daemon that has it open."""
    fd = os.open(node.backing, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, offset)[0]
        os.pwrite(fd, bytes([byte ^ 0x10]), offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def test(t):
    c = Cluster(t, size=SIZE)
    c.ready()
    load = nbdio.scribblers(c.a.uri, QUIET, seed=7)
    nbdio.start(load)

    t.step("equal legs under load: nothing is found")
    for _ in range(20 if t.long else 2):
        p = c.a.cli("verify", c.volume)
        t.check("equal" in p.stdout, p.stdout.strip(), p.stdout)

    for node, offset in ((c.a, QUIET + 5 * MIB + 4096 + 17), (c.b, QUIET + 9 * MIB + 511)):
        t.step(f"one bit is flipped on {node.name}'s disk")
        flip(node, offset)
        p = c.a.cli("verify", c.volume, ok=(FAILED,))
        at = offset // 4096 * 4096
        t.check(f"4096 bytes in 1 place differ, the first at offset {at}," in p.stderr, "it is found, and nothing else", p.stderr)
        s = c.a.status()
        t.check(not s["protected"] and "differ" in s["why_not"], f"the volume is not called protected: {s['why_not']}", s)
        t.check(s["peer"]["out_of_sync_bytes"] == 4096, "4096 bytes are out of sync", s["peer"])

        t.step("it is repaired: the peer gets what the primary has")
        c.a.cli("verify", c.volume, "--repair", ok=(FAILED,))
        c.a.wait("to be protected again", lambda s: s["protected"])
        p = c.a.cli("verify", c.volume)
        t.check("equal" in p.stdout, p.stdout.strip(), p.stdout)

    t.step("where it cannot be done, it says why")
    p = c.b.cli("verify", c.volume, ok=(FAILED,))
    t.check(c.a.name in p.stderr, p.stderr.strip(), p.stderr)
    c.b.stop()
    c.a.wait("to have lost its peer", lambda s: not s["protected"])
    p = c.a.cli("verify", c.volume, ok=(FAILED,))
    t.check("in sync" in p.stderr, p.stderr.strip(), p.stderr)
    c.b.start()
    c.a.wait("to be protected again", lambda s: s["protected"])

    nbdio.stop(load)
    c.stop()
    c.assert_legs_equal("after the repairs")


if __name__ == "__main__":
    run.main(test, limit_s=100)
