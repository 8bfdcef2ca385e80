#!/usr/bin/python3
"""With a witness: the primary is killed, the secondary takes over by itself and has every acknowledged write; the old
primary returns as secondary and is in sync again. The secondary is killed: the primary goes on. The witness is killed:
nothing stops. The same with etcd, three members of which one is killed."""

import time

from lib import nbdio, run
from lib.cluster import MIB
from lib.etcd import Etcd
from lib.failover import Prober, Trio, move, wait_hooks
from lib.run import stays

DEAD_AFTER_S = 2.0
# What it should take, with a second to spare, is printed; a machine whose two cores others use may take longer.
TAKEOVER_MAX_S = DEAD_AFTER_S + 10


def kill_primary(t, c, primary, other):
    epoch = other.status()["epoch"]
    prober = Prober(c)
    prober.wait_on(primary.uri, 20)
    nbdio.headway(c.load, 200, what="the load to run")
    killed = time.monotonic()
    primary.sigkill()
    prober.wait_on(other.uri, TAKEOVER_MAX_S)
    took = prober.longest_pause_s(killed)
    t.check(True, f"{other.name} served {took:.2f} s after the last answer of {primary.name}, with dead-after {DEAD_AFTER_S} s")
    c.samples.append(took)
    blocks = move(c.load, other.uri)
    t.check(True, f"it has every acknowledged write: {blocks} blocks")
    s = other.wait("to be primary alone", lambda s: s["role"] == "primary" and s["serving"] and s["epoch"] > epoch)
    t.check(s["witness"]["primary"] == other.name and s["witness"]["in_sync"] == [other.name], "the register says so", s["witness"])
    t.check(not s["protected"] and s["why_not"], f"not protected: {s['why_not']}")
    wait_hooks(other, "that it is primary", lambda told: ("primary", s["epoch"]) in told)
    t.check(True, "its promote hook was run")

    t.step(f"{primary.name} returns")
    nbdio.headway(c.load, 200, what="the load to run")
    primary.start()
    s = primary.wait("to be in sync again, as secondary", lambda s: c.both_in_sync(s) and s["role"] == "secondary" and not s["serving"], 60)
    other.wait("the register to have both", c.both_in_sync)
    wait_hooks(primary, "that it is secondary", lambda told: told[-1][0] == "secondary")
    t.check(True, "its demote hook, which nobody ran when it was killed, was run")
    nbdio.headway(c.load, 200, what="the load to run")
    prober.stop()


def kill_secondary(t, c, primary, secondary):
    prober = Prober(c)
    prober.wait_on(primary.uri, 20)
    killed = time.monotonic()
    secondary.sigkill()
    primary.wait("to go on alone", lambda s: s["witness"]["in_sync"] == [primary.name], 30)
    nbdio.headway(c.load, 200, what="the load to go on")
    t.check(True, f"{primary.name} went on alone; the longest pause of a write was {prober.longest_pause_s(killed):.2f} s")
    secondary.start()
    primary.wait("both to be in sync", c.both_in_sync, 60)
    prober.stop()


def kill_witness(t, c, primary):
    c.witness.sigkill()
    s = primary.wait("the loss to be seen", lambda s: s["witness"]["state"] == "unreachable", 30)
    t.check(s["witness"]["reason"], f"status says why: {s['witness']['reason']}")
    t.check(s["protected"] and s["serving"], "the volume is served, and protected, as before")
    stays("the volume is served", lambda: primary.status()["serving"], 2 * DEAD_AFTER_S)
    nbdio.headway(c.load, 500, what="the load to go on")
    p = primary.cli("down", c.volume, ok=None)
    t.check(p.returncode == 4 and "witness" in p.stderr, "`down` is refused, as the register would go on naming it", p.stderr)
    c.witness.start()
    for n in c.nodes:
        n.wait("the witness to answer", lambda s: s["witness"]["state"] == "reachable", 30)


def tell(t, c, what):
    c.samples.sort()
    t.say(f"takeovers with {what}: {', '.join(f'{s:.2f}' for s in c.samples)} s")


def with_witness(t):
    c = Trio(t, size=256 * MIB, dead_after=f"{int(DEAD_AFTER_S)}s")
    c.samples = []
    t.step("two nodes and a witness, protected")
    s = c.under_load()
    t.check(s["failover"] == "automatic" and s["when_alone"] == "strict", "status tells failover and when-alone", s)
    a, b = c.nodes
    wait_hooks(a, "that it is primary", lambda told: told and told[0][0] == "primary")
    t.check(True, "the promote hook was run")
    primary, other = a, b
    for _ in range(t.rounds(2, 100)):
        t.step(f"{primary.name}, the primary, is killed under load")
        kill_primary(t, c, primary, other)
        primary, other = other, primary

    t.step("the secondary is killed under load")
    kill_secondary(t, c, primary, other)
    t.step("the witness is killed")
    kill_witness(t, c, primary)

    t.step("`down` on the primary: nobody takes over")
    nbdio.stop(c.load)
    primary.cli("down", c.volume)
    other.wait("the register to name nobody", lambda s: s["witness"]["primary"] is None)
    stays("nobody serves", lambda: not other.status()["serving"], 2 * DEAD_AFTER_S)
    primary.cli("up", c.volume)
    other.cli("promote", c.volume)
    other.wait("both to be in sync", c.both_in_sync, 30)
    t.check(other.status()["serving"], "`promote` on a member serves again")
    c.end()
    tell(t, c, "the witness")


def with_etcd(t):
    """The same nodes, another register."""
    etcd = Etcd(t, members=3).start()
    c = Trio(t, size=64 * MIB, dead_after=f"{int(DEAD_AFTER_S)}s", url=etcd.url(), name="fleet")
    c.samples = []
    t.step("two nodes and an etcd of three members, protected")
    c.under_load()
    primary, other = c.nodes
    for number in range(t.rounds(2, 20)):
        if number == 1:
            t.step("one member of three is killed: nobody notices")
            etcd.members[0].kill()
            nbdio.headway(c.load, 200, what="the load to go on")
        t.step(f"{primary.name}, the primary, is killed under load")
        kill_primary(t, c, primary, other)
        primary, other = other, primary
    t.step("the secondary is killed under load")
    kill_secondary(t, c, primary, other)
    t.step("no majority is left: the volume is served, and nobody takes over")
    etcd.members[1].kill()
    s = primary.wait("the loss to be seen", lambda s: s["witness"]["state"] == "unreachable", 30)
    t.check(s["serving"] and s["protected"], f"served, and protected, as before: {s['witness']['reason']}")
    nbdio.headway(c.load, 200, what="the load to go on")
    nbdio.stop(c.load)
    primary.sigkill()
    stays("nobody serves", lambda: not other.status()["serving"], 3 * DEAD_AFTER_S)
    t.step("a second member is back: the secondary takes over")
    etcd.members[1].start()
    other.wait("to serve", lambda s: s["serving"], 30)
    primary.start()
    other.wait("both to be in sync", c.both_in_sync, 60)
    c.end()
    causes = [d["cause"] for d in etcd.history(c.volume).values()]
    t.check(causes.count("take") == len(c.samples) + 1, "etcd has the history", causes)
    tell(t, c, "etcd")


def test(t):
    with_witness(t)
    try:
        with_etcd(t)
    except run.Skip as reason:
        t.skip_part(f"etcd: {reason}")


if __name__ == "__main__":
    run.main(test, limit_s=230, long_limit_s=3600)
