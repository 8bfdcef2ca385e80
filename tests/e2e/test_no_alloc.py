#!/usr/bin/python3
"""A volume's thread allocates nothing while it serves: counted at malloc and mmap themselves, on both nodes, under every
kind of request. Memory stays what it was after open."""

import time

from lib import alloc, nbdio, run
from lib.cluster import BUILD, GIB, KIB, MIB, Cluster
from lib.run import wait_until

RSS_SLACK_BYTES = 1 * MIB
CONNECTIONS = 6


def warm(t, load, ops):
    """Until every connection has done so many requests of its mix."""
    goal = [s.ops + ops for s in load]
    wait_until(f"{ops} requests on each connection", lambda: all(s.ops >= g or not s.alive() for s, g in zip(load, goal)), 120,
               describe=lambda: [(s.ops, s.errors) for s in load])
    t.check(all(s.alive() for s in load), "every connection goes on", [(s.errors, s.wrong) for s in load])


def test(t):
    library = alloc.library()
    if not library:
        t.skip("the preload library was not built")
    if alloc.is_sanitized(BUILD / "lockstepd"):
        t.skip("built with a sanitizer, which brings its own allocator")
    seconds = 600 if t.long else 6
    t.step("two nodes, with a counter in front of malloc and mmap")
    c = Cluster(t, size=1 * GIB)
    counters = {}
    for n in c.nodes:
        counters[n] = alloc.Counters(t.dir / f"{n.name}.alloc")
        n.env = counters[n].env
    c.ready()

    t.step(f"{CONNECTIONS} connections: reads, writes up to 128 KiB, zeroes, trims, flushes, FUA; until all have warmed up")
    load = nbdio.start(nbdio.scribblers(c.a.uri, c.size, t.seed, CONNECTIONS))
    warm(t, load, 300)

    t.step(f"counting for {seconds} s under that load")
    for counter in counters.values():
        counter.arm()
    before = {n: counters[n].read() for n in c.nodes}
    rss_before = {n: n.rss_bytes() for n in c.nodes}
    ops_before = nbdio.total_ops(load)
    time.sleep(seconds)
    wait_until("enough requests", lambda: nbdio.total_ops(load) - ops_before > 100 * seconds, 120)
    after = {n: counters[n].read() for n in c.nodes}
    rss_after = {n: n.rss_bytes() for n in c.nodes}
    ops = nbdio.total_ops(load) - ops_before
    t.check(all(s.alive() for s in load), "the load never paused", [(s.errors, s.wrong) for s in load])
    t.say(f"{ops} requests were served meanwhile")

    nothing = (0, 0, 0, [])
    for n in c.nodes:
        names = n.threads()
        volume_threads = [tid for tid, name in names.items() if c.volume in name]
        t.check(volume_threads, f"{n.name} has a thread for the volume", names)
        t.check(any(slot[0] > 0 for slot in before[n].values()), f"{n.name}: the counter counts (open allocates)")
        for tid in volume_threads:
            b, a = before[n].get(tid, nothing), after[n].get(tid, nothing)
            new = [a[i] - b[i] for i in range(3)]
            traces = "; ".join(alloc.where(n.pid, trace) for trace in a[3])
            t.check(new == [0, 0, 0], f"{n.name}, thread {names[tid]}: no allocation, no free, no mapping",
                    f"{new[0]} allocations, {new[1]} frees, {new[2]} mappings: {traces}")
        grown = rss_after[n] - rss_before[n]
        t.check(abs(grown) <= RSS_SLACK_BYTES, f"{n.name}: resident memory stays at {rss_before[n] // KIB} KiB ({grown // KIB:+} KiB)",
                f"{rss_before[n]} -> {rss_after[n]}")

    nbdio.stop(load)
    c.stop()
    c.assert_legs_equal("after the load")


if __name__ == "__main__":
    run.main(test, limit_s=60, long_limit_s=900)
