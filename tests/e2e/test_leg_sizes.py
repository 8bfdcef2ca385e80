#!/usr/bin/python3
"""Two legs of different size make a volume of the smaller one's; a disk in the place of another may be larger, and is refused, with
both sizes, where it is smaller. And metadata in a file that was cut off: no part of it is guessed."""

import os

from lib import nbdio, run
from lib.cluster import FAILED, MIB, REFUSED, Cluster

LARGE, SIZE, TOO_SMALL = 96 * MIB, 64 * MIB, 48 * MIB


def pairs(t):
    t.step(f"legs of {LARGE // MIB} and {SIZE // MIB} MiB")
    c = Cluster(t, size=0, name="pair", dead_after="500ms")
    for n, size in zip(c.nodes, (LARGE, SIZE)):
        n.extra = {"metadata": n.dir / "meta"}
        os.truncate(n.backing, size)
    c.write_config()
    s = c.ready()
    t.check(s["size_bytes"] == c.b.status()["size_bytes"] == SIZE, f"the volume has {s['size_bytes'] // MIB} MiB on both", s)
    h = nbdio.connect(c.a.uri)
    t.check(h.get_size() == SIZE, "and so it is served")
    last = os.urandom(MIB)
    h.pwrite(last, SIZE - MIB)
    h.flush()
    h.shutdown()

    t.step(f"the smaller disk is replaced by one of {TOO_SMALL // MIB} MiB")
    c.b.stop()
    c.b.replace_disk(TOO_SMALL)
    for n in c.nodes:
        s = n.wait("to refuse the other", lambda s: s["peer"]["link"] == "refused")
        t.check(all(f"{size} {where}" in s["why_not"].replace("bytes on", "on") for size, where in
                    ((SIZE, f"on {c.a.name}"), (TOO_SMALL, f"on {c.b.name}"))) and not s["protected"], f"{n.name}: {s['why_not']}", s)
    s = c.a.status()
    t.check(s["serving"] and s["size_bytes"] == SIZE, "the volume is served with the size that it had", s)

    t.step(f"by one of {LARGE // MIB + 1} MiB: it gets everything, and the size stays")
    c.b.stop()
    c.b.replace_disk(LARGE + MIB)
    s = c.a.wait("to be protected", lambda s: s["protected"], 40)
    t.check(s["size_bytes"] == c.b.status()["size_bytes"] == SIZE, "in sync", s)
    c.stop()
    c.assert_legs_equal("after a larger disk took the place of a smaller one", SIZE)
    with open(c.b.backing, "rb") as f:
        f.seek(SIZE - MIB)
        t.check(f.read(MIB) == last and not any(f.read()), "the volume's end is there, and nothing beyond it")


def metadata_cut_off(t):
    t.step("metadata in a file that was cut off")
    c = Cluster(t, size=0, name="cut", names=("paris-a",))
    c.a.extra = {"metadata": c.a.dir / "meta"}
    os.truncate(c.a.backing, SIZE)
    c.write_config()
    c.ready()
    h = nbdio.connect(c.a.uri)
    precious = os.urandom(MIB)
    h.pwrite(precious, 0)
    h.shutdown()
    c.stop()
    whole = c.a.extra["metadata"].read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 16 * 1024, 4096, 1):
        c.a.extra["metadata"].write_bytes(whole[:size])
        c.a.start()
        p = c.a.cli("up", c.volume, ok=None)
        t.check(p.returncode in (FAILED, REFUSED), f"{size} of {len(whole)} bytes: `up` exits with {p.returncode}", p.stderr)
        t.check(str(c.a.extra["metadata"]) in p.stderr, p.stderr.strip())
        p = c.a.cli("promote", c.volume, "--force", ok=None)
        t.check(p.returncode != 0, "nor is it promoted by force", p.stdout)
        c.stop()
        t.check(c.a.extra["metadata"].read_bytes() == whole[:size], "what is left of it is as it was")
    c.a.extra["metadata"].write_bytes(whole)
    c.a.start()
    c.promote(c.a, protected=False)
    h = nbdio.connect(c.a.uri)
    t.check(h.pread(MIB, 0) == precious, "with the whole of it the leg comes up")
    h.shutdown()
    c.stop()


def test(t):
    pairs(t)
    metadata_cut_off(t)


if __name__ == "__main__":
    run.main(test, limit_s=90)
