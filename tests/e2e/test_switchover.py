#!/usr/bin/python3
"""`lockstep switchover` under load: the volume moves with nothing lost and nothing resynced, and how long clients wait."""

import os
import time

from lib import nbdio, proc, run
from lib.cluster import FAILED, MIB, REFUSED
from lib.failover import Prober, Trio, move, wait_hooks
from lib.witness import Witness


def switch(t, c, primary, other, on):
    prober = Prober(c)
    prober.wait_on(primary.uri, 20)
    nbdio.headway(c.load, 200, what="the load to run")
    began = time.monotonic()
    on.cli("switchover", c.volume)
    prober.wait_on(other.uri, 20)
    t.pauses.append(prober.longest_pause_s(began))
    blocks = move(c.load, other.uri)
    s = other.wait("to serve", lambda s: c.both_in_sync(s) and s["serving"])
    t.check(s["peer"]["resync"] is None and s["peer"]["out_of_sync_bytes"] == 0, "there is nothing to resync")
    t.check(True, f"{primary.name} -> {other.name}, told on {on.name}: a pause of {t.pauses[-1] * 1000:.0f} ms;"
                  f" {blocks} blocks read on the other side")
    wait_hooks(other, "that it is primary", lambda told: told[-1:] and told[-1][0] == "primary")
    wait_hooks(primary, "that it is secondary", lambda told: told[-1:] and told[-1][0] == "secondary")
    t.check(True, "the hooks were run")
    prober.stop()


def witness_without_room(t):
    """It answers what is asked, and could not store that service has moved."""
    if os.geteuid() != 0:
        t.skip_part("a full file system: needs root")
        return
    t.step("refused while the witness's disk is full")
    w = Witness(t, "small")
    w.state.mkdir()
    proc.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", w.state])
    w.start()
    c = Trio(t, size=64 * MIB, url=w.url, name="full")
    c.ready()
    with open(w.state / "filler", "wb", buffering=0) as f:
        try:
            while f.write(bytes(4096)):
                pass
        except OSError:
            pass
    p = c.a.cli("switchover", c.volume, ok=None)
    t.check(p.returncode == FAILED and "the disk is full" in p.stderr and "serves on" in p.stderr, p.stderr.strip(), p)
    h = nbdio.connect(c.a.uri)
    h.pwrite(bytes(4096), 0)
    h.shutdown()
    t.check(c.a.status()["serving"], "the primary serves on, and answers")
    (w.state / "filler").unlink()
    c.a.wait("the witness to do what it is asked", lambda s: s["witness"]["state"] == "reachable", 30)
    c.a.cli("switchover", c.volume)
    c.b.wait("to serve", lambda s: s["serving"], 30)
    c.stop()
    w.stop()
    proc.run(["umount", w.state])


def test(t):
    t.pauses = []
    c = Trio(t, size=256 * MIB)
    c.under_load()
    primary, other = c.nodes
    for number in range(t.rounds(4, 100)):
        t.step(f"{primary.name} hands over to {other.name}")
        switch(t, c, primary, other, on=primary if number % 2 else other)
        primary, other = other, primary
    t.step("refused while the other node is away")
    nbdio.stop(c.load)
    other.stop()
    p = primary.cli("switchover", c.volume, ok=None)
    t.check(p.returncode in (REFUSED, 4), "switchover is refused", p.stderr)
    t.check(primary.status()["serving"], "and the primary serves on")
    other.start()
    primary.wait("both to be in sync", c.both_in_sync, 60)
    c.end()
    t.pauses.sort()
    witness_without_room(t)
    t.say(f"pauses: {', '.join(f'{s * 1000:.0f}' for s in t.pauses)} ms")


if __name__ == "__main__":
    run.main(test, limit_s=170, long_limit_s=3600)
