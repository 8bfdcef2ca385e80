#!/usr/bin/python3
"""A volume of 16 TiB: it comes up within two seconds, after a clean end and after a crash of both nodes, and in no more memory
than is promised."""

import datetime
import os
import pathlib
import tempfile

from lib import nbdio, run
from lib.cluster import GIB, MIB, Cluster

TIB = 1 << 40
SIZE = 16 * TIB
UP_S_MAX = 2.0  # in the long form
RSS_MAX = 64 * MIB + 40 * MIB * (SIZE // TIB)
PLACES = 400  # cold ones, all over the volume


def sparse_dir(t):
    """On a file system that has files of that size; ext4 has not."""
    for where in (t.dir, pathlib.Path("/dev/shm")):
        if not os.access(where, os.W_OK):
            continue
        scratch = tempfile.TemporaryDirectory(prefix="lsbig-", dir=where)
        t.cleanup.callback(scratch.cleanup)
        path = pathlib.Path(scratch.name)
        try:
            (path / "probe").touch()
            os.truncate(path / "probe", SIZE + TIB)
            return path
        except OSError:
            continue
    t.skip("no file system here has files of 17 TiB")


def memory(t, c, when):
    used = [n.rss_bytes() for n in c.nodes]
    t.check(max(used) <= RSS_MAX, f"{when}: {' and '.join(str(u // MIB) for u in used)} MiB of {RSS_MAX // MIB} are in use", used)


def logged_at(line):
    return datetime.datetime.fromisoformat(line.split()[0])


def waited_for_cpu_s(pid):
    """For how long it was ready to run while others did: that says something about the machine, not about the daemon."""
    waited = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        waited.append(int((task / "schedstat").read_text(encoding="ascii").split()[1]) / 1e9)
    return max(waited)


def starts(t, c, when):
    for n in c.nodes:
        known = len(n.log_text())
        n.start()
        waited_s = waited_for_cpu_s(n.pid)
        first, ready = (n.wait_log(text, since=known) for text in (": 1 volume", " ready"))
        took_s = (logged_at(ready) - logged_at(first)).total_seconds()
        t.check(n.status()["state"] == "up", f"{n.name}, {when}: up", n.log_tail())
        most_s = UP_S_MAX * (1 if t.long else run.PATIENCE)
        t.check(took_s - waited_s < most_s, f"{took_s:.2f} s after its daemon was started, of which it waited {waited_s:.2f} s for a CPU")


def test(t):
    t.step("16 TiB, sparse")
    # Setting every bit takes a tenth of a second of CPU in one turn; how long that is on a busy machine is not the question here.
    c = Cluster(t, size=SIZE, backing_dir=sparse_dir(t), dead_after="10s")
    for n in c.nodes:
        os.truncate(n.backing, SIZE + TIB)
    c.ready()
    memory(t, c, "fresh")
    c.stop()
    starts(t, c, "after a clean end")
    c.promote(c.a)
    memory(t, c, "after a clean end")

    t.step(f"{PLACES} places of it are written, then both daemons are killed")
    h = nbdio.connect(c.a.uri)
    for i in range(PLACES):
        h.pwrite(bytes([i % 255 + 1]) * 4096, i * (SIZE // PLACES // MIB * MIB))
    for n in c.nodes:
        n.sigkill()
    starts(t, c, "after a crash")
    c.a.wait("the legs to be equal", lambda s: s["leg"] == s["peer"]["leg"] == "up-to-date" and not s["peer"]["out_of_sync_bytes"], 60)
    c.promote(c.a)
    h = nbdio.connect(c.a.uri)
    for i in range(PLACES):
        place = h.pread(4096, i * (SIZE // PLACES // MIB * MIB))
        if place != bytes([i % 255 + 1]) * 4096:
            raise run.Failure(f"place {i} is lost")
    h.shutdown()
    memory(t, c, "after a crash")
    held = [os.stat(n.backing).st_blocks * 512 for n in c.nodes]
    t.check(max(held) < GIB, f"the backings hold {' and '.join(str(b // MIB) for b in held)} MiB")

    t.step("one leg is made anew: all of it counts as out of sync; both daemons are killed in the middle of the resync")
    c.b.cli("down", c.volume)
    c.b.cli("create", c.volume, "--force", timeout_s=60)
    c.b.cli("up", c.volume)
    s = c.a.wait("a resync of everything", lambda s: s["peer"]["resync"] and s["peer"]["resync"]["done_bytes"], 30)
    t.check(s["peer"]["resync"]["total_bytes"] == SIZE, f"resync: {s['peer']['resync']}", s)
    memory(t, c, "with every bit set")
    for n in c.nodes:
        n.sigkill()
    starts(t, c, "with every bit set")
    memory(t, c, "with every bit set")
    for n in c.nodes:
        n.sigkill()


if __name__ == "__main__":
    run.main(test, limit_s=80)
