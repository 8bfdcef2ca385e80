#!/usr/bin/python3
"""`lockstep switchover` under load: the volume moves with nothing lost and nothing resynced, and how long clients wait."""

import time

from lib import nbdio, run
from lib.cluster import MIB, REFUSED
from lib.failover import Prober, Trio, move, wait_hooks


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
    t.say(f"pauses: {', '.join(f'{s * 1000:.0f}' for s in t.pauses)} ms")


if __name__ == "__main__":
    run.main(test, limit_s=170, long_limit_s=3600)
