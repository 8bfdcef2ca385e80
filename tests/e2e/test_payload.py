#!/usr/bin/python3
"""Payloads that are damaged on the link: found by their checksum, the path is dropped and told of, they are sent again, and
nothing damaged ever reaches a leg. Then a link that loses frames, breaks and delays."""

from lib import nbdio, run
from lib.cluster import MIB, Cluster
from lib.run import wait_until

LONG_FAULTS = 100  # of each kind
LONG_S_MAX = 280


def one(t, name, ops, word, **settings):
    """Goes on for so many requests and, in the long form, so many faults. A connection that breaks soon after it was made is
    tried again ever later (up to two seconds): many faults a second would only show waiting, so the long form has fewer of
    them, and a connection counts as lasting sooner."""
    t.step(f"{name}: {', '.join(f'{k} {v}' for k, v in settings.items())}")
    c = Cluster(t, size=128 * MIB, name=f"volume{t.steps}", dead_after="300ms" if t.long else "1s")
    c.b.make_fail("link", **settings)
    c.ready()
    events = c.b.follow_events()
    load = nbdio.start(nbdio.scribblers(c.a.uri, c.size, t.seed, 4))
    faults = LONG_FAULTS if t.long else 1

    def told():
        return next((l for l in events.read_text().splitlines() if word in l), None)

    def drops():
        return sum("not protected" in line for line in c.b.log_text().splitlines())
    wait_until(f"{ops} requests, {faults} times a dropped path, and an event with '{word}'",
               lambda: (nbdio.total_ops(load) >= ops and drops() >= faults and told()) or not all(s.alive() for s in load),
               LONG_S_MAX if t.long else 100, poll_s=0.1,
               describe=lambda: f"{nbdio.total_ops(load)} requests, {drops()} drops"
                                f"{[s.errors or s.wrong for s in load if s.errors or s.wrong] or ''}; {c.b.log_tail(1)}")
    nbdio.stop(load)
    t.check(not any(s.errors for s in load), f"{nbdio.total_ops(load)} requests, no client saw an error", [s.errors for s in load])
    t.say(told().strip())
    t.check(drops() >= faults, f"{drops()} times the path was dropped, and the connection came back")
    c.a.wait("to be protected in the end", lambda s: s["protected"], 20)
    c.stop()
    nbdio.verify_legs(c, load, name)


def test(t):
    n = 20 if t.long else 1
    often, each = (1000, 400) if t.long else (5000, 2000)
    one(t, "damaged payloads", 1500 * n, "is damaged", **{"seed": t.seed, "corrupt-per-million": often})
    one(t, "lost frames", 1000 * n, "came where", **{"seed": t.seed, "drop-per-million": often})
    one(t, "broken connections", 1000 * n, "cut by the fault filter", **{"seed": t.seed, "cut-per-million": often})
    one(t, "delays and all the rest", 800 * n, "not protected",
        **{"seed": t.seed, "drop-per-million": each, "cut-per-million": each, "corrupt-per-million": each,
           "delay-min": "100us", "delay-max": "5ms"})


if __name__ == "__main__":
    run.main(test, limit_s=120, long_limit_s=1200)
