#!/usr/bin/python3
"""A backing that grows: while the node is down, and under a volume that is in use."""

import os

from lib import nbdio, run
from lib.cluster import FAILED, MIB, Cluster

SMALL = 64 * MIB
SEED = 5


def grow(node, size):
    os.truncate(node.backing, size)


def grown_while_down(t, name, metadata):
    t.step(f"a backing that has grown while its node was down ({name} metadata)")
    c = Cluster(t, size=None, name=f"down-{name}", names=("paris-a",), backings=(t.dir / f"{name}.img",))
    (t.dir / f"{name}.img").touch()
    grow(c.a, SMALL)
    if metadata:
        c.a.extra = {"metadata": t.dir / f"{name}.meta"}
    c.write_config()
    c.a.start()
    c.create()
    c.promote(c.a, protected=False)
    before = c.a.status()["size_bytes"]
    load = nbdio.start(nbdio.scribblers(c.a.uri, before, SEED))
    run.wait_until("writes", lambda: nbdio.total_ops(load) > 200, 20)
    nbdio.stop(load)
    for size in (SMALL + 4096, SMALL + 100 * MIB):
        c.a.stop()
        grow(c.a, size)
        c.a.start()
        c.promote(c.a, protected=False)
        t.check(c.a.status()["size_bytes"] == before, f"{size - SMALL} bytes more: it comes up with its old size",
                c.a.status())
        nbdio.verify_leg(t, c.a.backing, load, c.a.name)
    t.check("can grow" in c.a.log_text(), "and says that it can grow", c.a.log_tail())
    p = c.a.cli("create", c.volume, ok=None)
    t.check(p.returncode != 0, "`create` does not take it for a blank one", p.stderr)
    c.stop()
    if not metadata:
        p = c.a.cli("metadata", "dump", "--backing", c.a.backing, ok=None)
        t.check(p.returncode == 0 and c.volume in p.stdout, "`metadata dump` finds it, too", p.stdout + p.stderr)
    grow(c.a, SMALL // 2)
    c.a.start()
    p = c.a.cli("up", c.volume, ok=None)
    t.check(p.returncode == FAILED and "former size" in p.stderr or "shrunk" in p.stderr, p.stderr.strip(), p.returncode)
    c.stop()


def test(t):
    grown_while_down(t, "internal", metadata=False)
    grown_while_down(t, "external", metadata=True)


if __name__ == "__main__":
    run.main(test, limit_s=150)
