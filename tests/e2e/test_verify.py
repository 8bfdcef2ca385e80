#!/usr/bin/python3
"""`lockstep verify`: finds what was planted on either leg, and nothing else, while the volume is written to; repairs it."""

import json
import os

from lib import nbdio, proc, run
from lib.cluster import FAILED, MIB, NO_DAEMON, REFUSED, Cluster

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
    c = Cluster(t, size=SIZE, settings={"verify": {"every": "1h"}})
    c.ready()
    t.step("the schedule's first one begins by itself; its result is kept over a restart, which begins none")
    s = c.a.wait("to have compared both legs", lambda s: s["verify"]["last"])
    t.check(s["verify"]["found_bytes"] == 0 and s["verify"]["next"] > s["verify"]["last"], "nothing was found", s["verify"])
    c.a.wait_log("the scheduled verify begins")
    c.a.stop()
    since = len(c.a.log_text())
    c.a.start()
    c.promote(c.a)
    again = c.a.status()["verify"]
    t.check(again["last"] == s["verify"]["last"] and again["next"] == s["verify"]["next"], "it is remembered", again)
    t.check("scheduled" not in c.a.log_text()[since:], "none has begun", c.a.log_tail())
    # The other node has none on record, and would begin one as soon as it is primary, beside those that are ordered.
    c.stop()
    c.settings = {}
    c.write_config()
    c.start()
    c.promote(c.a)

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
        t.check(p.stdout.strip() == f"offset {at}, length 4096: the legs differ", "it is listed", p.stdout)
        p = c.a.cli("verify", c.volume, "--json", ok=(FAILED,))
        found = json.loads(p.stdout)
        t.check(found["differences"] == [{"offset_bytes": at, "length_bytes": 4096, "what": "the legs differ"}]
                and found["more_differences"] == 0, "in JSON, too", p.stdout)
        s = c.a.status()
        t.check(not s["protected"] and "differ" in s["why_not"], f"the volume is not called protected: {s['why_not']}", s)
        t.check(s["peer"]["out_of_sync_bytes"] == 4096, "4096 bytes are out of sync", s["peer"])
        s = c.b.status()
        t.check(not s["protected"] and "differs" in s["why_not"], f"nor does the peer call it so: {s['why_not']}", s)
        p = c.b.cli("promote", c.volume, ok=(REFUSED,))
        t.check("verify" in p.stderr, f"the peer is not promoted: {p.stderr.strip()}", p.stderr)

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
    p = c.a.cli("verify", c.volume, ok=(NO_DAEMON,))
    t.check("in sync" in p.stderr, p.stderr.strip(), p.stderr)
    c.b.start()
    c.a.wait("to be protected again", lambda s: s["protected"])

    nbdio.stop(load)
    t.step("the primary is demoted while it compares: the verify ends, the other node takes over, nobody minds")
    c.a.stop()
    c.a.settings = {"verify-rate": "4MiB"}  # half a minute
    c.write_config()
    c.a.start()
    c.promote(c.a)
    since = len(c.a.log_text())
    running = c.a.spawn_cli("verify", c.volume)
    c.a.wait_log("comparing both legs", since=since)
    c.a.cli("demote", c.volume)
    status = proc.wait(running, 30, "the verify to end")
    said = (c.a.dir / "cli.log").read_text(errors="replace")
    t.check(status == FAILED and "roles" in said, f"it ends with that: {said.strip()}", status)
    c.b.cli("promote", c.volume)
    p = c.b.cli("verify", c.volume)
    t.check("equal" in p.stdout, p.stdout.strip(), p.stdout)

    t.step("without a primary, the node that is told to repair is right")
    c.b.cli("demote", c.volume)
    at = QUIET + MIB
    flip(c.b, at)
    c.b.cli("verify", c.volume, "--repair", ok=(FAILED,))
    c.b.wait("to be protected again", lambda s: s["protected"])
    c.a.wait("to be protected again", lambda s: s["protected"])
    p = c.b.cli("verify", c.volume)
    t.check("equal" in p.stdout, p.stdout.strip(), p.stdout)

    c.stop()
    c.assert_legs_equal("after the repairs")
    with open(c.a.backing, "rb") as f:
        f.seek(at)
        t.check(f.read(1) == b"\x10", "the other node has what that node had")


if __name__ == "__main__":
    run.main(test, limit_s=100)
