#!/usr/bin/python3
"""`when-deposed: wait`: a primary stands still until the other node has taken over. Its clients get no answer and no error, and
nothing that they ask is done, while it is resynced; until an operator ends it, or the volume is served there again."""

import nbd

from lib import nbdio, run
from lib.cluster import MIB
from lib.failover import Trio, move
from lib.run import stays, wait_until

DEAD_AFTER_S = 1.0
SIZE = 64 * MIB
LATE = SIZE - MIB  # where only requests that come too late would write
BLOCK = 4096


def depose(t, c, primary, other):
    """Under load, and with a client that has nothing under way."""
    idle = nbdio.connect(primary.uri)
    nbdio.headway(c.load, 200, what="the load to run")
    primary.pause()
    try:
        other.wait("to take over", lambda s: s["serving"], 30)
    finally:
        primary.resume()
    s = primary.wait("to be in sync, as secondary, and hold its clients",
                     lambda s: c.both_in_sync(s) and s["role"] == "secondary" and s["held"], 60)
    t.check(s["held"]["clients"] == len(c.load) + 1 and s["held"]["requests"] >= len(c.load) and not s["serving"],
            f"it holds {s['held']}", s)
    return idle


def is_silent(c, primary, idle, ops):
    """Neither an answer nor an error, also for what comes now."""
    late = [idle.aio_pwrite(b"x" * BLOCK, LATE), idle.aio_pread(nbd.Buffer(BLOCK), 0), idle.aio_flush()]

    def look():
        idle.poll(0)
        return primary.status()["held"] and nbdio.total_ops(c.load) == ops and \
            all(s.alive() and not s.errors and not s.wrong for s in c.load) and \
            not any(idle.aio_command_completed(cookie) for cookie in late) and not idle.aio_is_dead() and not idle.aio_is_closed()
    stays("clients hear nothing", look, 4 * DEAD_AFTER_S)


def is_over(t, c, idle, why):
    wait_until("the load to end", lambda: not any(s.alive() for s in c.load), 20)
    t.check(all(s.errors for s in c.load), f"{why}: the load has errors")

    def ended():
        try:
            idle.poll(100)
        except nbd.Error:
            pass
        return idle.aio_is_dead() or idle.aio_is_closed()
    wait_until("the idle client to be disconnected", ended, 20)


def leaves_by_itself(t, c, primary, other):
    for s in c.load:
        s.handle.shutdown()
    client = nbdio.connect(primary.uri)
    primary.pause()
    try:
        other.wait("to take over", lambda s: s["serving"], 30)
    finally:
        primary.resume()
    primary.wait("to be in sync, and hold one client",
                 lambda s: c.both_in_sync(s) and s["held"] and s["held"]["clients"] == 1, 60)
    del client
    primary.wait("to see that it has left", lambda s: s["held"] is None, 20)
    p = primary.cli("demote", c.volume)
    t.check("ends with an error" not in p.stdout, f"`demote` tells of nobody: {p.stdout.strip()}", p)


def nobody_wrote_late(t, c):
    for n in c.nodes:
        with open(n.backing, "rb") as f:
            f.seek(LATE)
            t.check(f.read(BLOCK) == bytes(BLOCK), f"{n.name}: nothing was written that came too late")


def test(t):
    c = Trio(t, size=SIZE, dead_after=f"{int(DEAD_AFTER_S)}s", settings={"when-deposed": "wait"})
    c.ready()
    a, b = c.nodes
    c.load = nbdio.start(nbdio.scribblers(a.uri, LATE, t.seed, 4))

    t.step(f"{a.name} stands still, {b.name} takes over, {a.name} goes on")
    idle = depose(t, c, a, b)
    is_silent(c, a, idle, nbdio.total_ops(c.load))
    t.check(True, "nobody is answered, and nobody fails")
    said = a.cli("status").stdout
    t.check("nothing is answered, or carried out" in said, "status says so", said)
    try:
        nbdio.connect(a.uri)
        t.check(False, "a new client is refused")
    except nbd.Error as e:
        t.check(True, f"a new client is refused: {str(e).strip()}")
    p = b.cli("verify", c.volume, timeout_s=60)
    t.check(True, f"the legs are equal: {p.stdout.strip()}")

    t.step("`demote` there ends it")
    p = a.cli("demote", c.volume)
    t.check("ends with an error" in p.stdout, f"it says: {p.stdout.strip()}", p)
    is_over(t, c, idle, "ended by an operator")
    t.check(a.status()["held"] is None, "nobody is held any more")

    t.step(f"the same of {b.name}, and it takes the volume back")
    blocks = move(c.load, b.uri)
    t.check(True, f"{b.name} has what was acknowledged: {blocks} blocks")
    idle = depose(t, c, b, a)
    is_silent(c, b, idle, nbdio.total_ops(c.load))
    b.cli("switchover", c.volume)
    b.wait("to serve, and hold nobody", lambda s: c.both_in_sync(s) and s["serving"] and s["held"] is None, 30)
    is_over(t, c, idle, "served there again")
    move(c.load, b.uri)
    nbdio.headway(c.load, 200, what="new clients to be served")
    nbdio.stop(c.load)

    t.step("who is held leaves by itself: nothing is left to end")
    leaves_by_itself(t, c, b, a)
    c.stop()
    nbdio.verify_legs(c, c.load, "at the end")
    nobody_wrote_late(t, c)


if __name__ == "__main__":
    run.main(test, limit_s=110, long_limit_s=300)
