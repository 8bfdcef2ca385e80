#!/usr/bin/python3
"""Both nodes are told to end at about the same time, in either order, under load: both end cleanly, nothing that was
acknowledged is missing on either leg, and nothing has to be resynced afterwards."""

import random
import signal
import time

from lib import nbdio, proc, run
from lib.cluster import MIB, Cluster

SIZE = 128 * MIB
SKEW_S_MAX, SKEW_S_MAX_LONG = 0.3, 1.0  # between the two; lockstepd's YIELD_NS is for more, on a machine that is not busy
END_S_MAX = 10
YIELD_S = 2


def told_to_end(node):
    node.daemon.send_signal(signal.SIGTERM)


def assert_clean(t, c, load, why):
    for n in c.nodes:
        status = proc.wait(n.daemon, END_S_MAX, f"after SIGTERM: {n.log_tail()}")
        t.check(status == 0, f"{n.name} ended cleanly", f"{status}: {n.log_tail()}")
    nbdio.stop(load)
    nbdio.verify_legs(c, load, why)


def test(t):
    rng = random.Random(t.seed)
    c = Cluster(t, size=SIZE)
    c.ready()
    load = nbdio.start(nbdio.scribblers(c.a.uri, SIZE, t.seed))
    for number in range(20 if t.long else 4):
        first, second = (c.b, c.a) if number % 4 < 3 else (c.a, c.b)
        skew_s = rng.uniform(0, SKEW_S_MAX_LONG if t.long else SKEW_S_MAX) if number % 2 else 0
        t.step(f"{first.name} is told to end, and {skew_s * 1000:.0f} ms later {second.name}; {c.a.name} is primary")
        nbdio.headway(load, what="the load to run")
        told_to_end(first)
        time.sleep(skew_s)  # that much apart: what is tried, and no synchronisation
        told_to_end(second)
        assert_clean(t, c, load, f"round {number + 1}")
        c.start()
        c.promote(c.a)
        s = c.a.status()
        t.check(s["protected"] and s["peer"]["out_of_sync_bytes"] == 0, "started again, nothing is out of sync", s)
        for s in load:
            s.reconnect(c.a.uri)
        nbdio.start(load)

    t.step("only the secondary is told to end: it waits a little, the load goes on meanwhile, and it ends cleanly all the same")
    nbdio.headway(load, what="the load to run")
    ops = nbdio.total_ops(load)
    began = time.monotonic()
    status = c.b.stop(END_S_MAX)
    took = time.monotonic() - began
    done = nbdio.total_ops(load) - ops
    t.check(status == 0 and took >= YIELD_S, f"it ended after {took:.1f} s", f"{status}, {took:.1f} s: {c.b.log_tail()}")
    t.check(done > 0, f"{done} requests were served meanwhile")
    c.b.start()
    c.a.wait("to be protected again", lambda s: s["protected"])
    nbdio.headway(load)

    t.step("and once more in order: demoted, then both stopped")
    c.a.cli("demote", c.volume)
    nbdio.stop(load)
    c.stop()
    nbdio.verify_legs(c, load, "at last")


if __name__ == "__main__":
    run.main(test, limit_s=100, long_limit_s=400)
