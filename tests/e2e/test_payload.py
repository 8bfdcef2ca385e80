#!/usr/bin/python3
"""Payloads that are damaged on the link: found by their checksum, the path is dropped and told of, they are sent again, and
nothing damaged ever reaches a leg. Then a link that loses frames, breaks and delays."""

from lib import nbdio, run
from lib.cluster import MIB, Cluster
from lib.run import wait_until


def fault(node, **settings):
    node.settings = {"test": {"node": node.name, "link": settings}}
    node.args = ["--allow-test-faults"]


def one(t, name, ops, word, **settings):
    t.step(f"{name}: {', '.join(f'{k} {v}' for k, v in settings.items())}")
    c = Cluster(t, size=128 * MIB, name=f"volume{t.steps}", dead_after="1s")
    fault(c.b, **settings)
    c.write_config()
    c.ready()
    events = c.b.follow_events()
    load = nbdio.start(nbdio.scribblers(c.a.uri, c.size, t.seed, 4))
    def told():
        return next((l for l in events.read_text().splitlines() if word in l), None)
    wait_until(f"{ops} requests, and an event with '{word}'",
               lambda: (nbdio.total_ops(load) >= ops and told()) or not all(s.alive() for s in load), 100,
               describe=lambda: f"{[(s.ops, s.errors, s.wrong) for s in load]}; {c.b.log_tail()}")
    nbdio.stop(load)
    t.check(not any(s.errors for s in load), f"{nbdio.total_ops(load)} requests, no client saw an error", [s.errors for s in load])
    t.say(told().strip())
    times = sum("not protected" in line for line in c.b.log_text().splitlines())
    t.check(times > 0, f"{times} times the path was dropped, and the connection came back")
    c.a.wait("to be protected in the end", lambda s: s["protected"], 20)
    c.stop()
    for n in c.nodes:
        nbdio.verify_leg(t, n.backing, load, n.name)
    c.assert_legs_equal(name)


def test(t):
    n = 100 if t.long else 1
    one(t, "damaged payloads", 1500 * n, "is damaged", **{"seed": t.seed, "corrupt-per-million": 5000})
    one(t, "lost frames", 1000 * n, "came where", **{"seed": t.seed, "drop-per-million": 5000})
    one(t, "broken connections", 1000 * n, "cut by the fault filter", **{"seed": t.seed, "cut-per-million": 5000})
    one(t, "delays and all the rest", 800 * n, "not protected",
        **{"seed": t.seed, "drop-per-million": 2000, "cut-per-million": 2000, "corrupt-per-million": 2000,
           "delay-min": "100us", "delay-max": "5ms"})


if __name__ == "__main__":
    run.main(test, limit_s=120)
