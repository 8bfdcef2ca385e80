#!/usr/bin/python3
"""A backing that grows: while the node is down, and under a volume that is in use."""

import os
import random
import shutil
import time

from lib import fs, nbdio, proc, run
from lib.cluster import DONE, FAILED, MIB, NO_DAEMON, REFUSED, Cluster
from lib.run import BUILD

SMALL = 64 * MIB
LARGE = 144 * MIB
GROWTH = 16 * MIB
KILL_WITHIN_S = 0.05  # after the daemon was told
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
    c.a.wait_log("lockstep resize")
    t.check(True, "and says that it can grow")
    c.a.cli("down", c.volume)
    p = c.a.cli("create", c.volume, ok=None)
    t.check(p.returncode == REFUSED and "already holds a leg" in p.stderr, f"`create` finds it: {p.stderr.strip()}", p.returncode)
    c.stop()
    if not metadata:
        p = c.a.cli("metadata", "dump", "--backing", c.a.backing, ok=None)
        t.check(p.returncode == 0 and c.volume in p.stdout, "`metadata dump` finds it, too", p.stdout + p.stderr)
    grow(c.a, SMALL // 2)
    c.a.start()
    p = c.a.cli("up", c.volume, ok=None)
    t.check(p.returncode == FAILED and "former size" in p.stderr or "shrunk" in p.stderr, p.stderr.strip(), p.returncode)
    c.stop()


def pair(t, name, metadata=False, size=SMALL):
    backings = [t.dir / f"{name}-{n}.img" for n in "ab"]
    for b in backings:
        b.touch()
        os.truncate(b, size)
    c = Cluster(t, size=None, name=name, backings=backings)
    if metadata:
        for n in c.nodes:
            n.extra = {"metadata": t.dir / f"{name}-{n.name}.meta"}
        c.write_config()
    c.ready()
    return c


def resize(node, ok=(DONE,)):
    return node.cli("resize", node.cluster.volume, ok=ok, timeout_s=60)


def is_zero(t, path, start, size, why):
    fd = os.open(path, os.O_RDONLY)
    try:
        same = all(not os.pread(fd, min(MIB, start + size - at), at).strip(b"\0") for at in range(start, start + size, MIB))
    finally:
        os.close(fd)
    t.check(same, f"{size} bytes from {start} on are zeroes ({why})")


def fill(path, start, size):
    """What a disk may hold that was somebody else's before."""
    with open(path, "r+b") as f:
        f.seek(start)
        noise = os.urandom(MIB)
        for _ in range(0, size, MIB):
            f.write(noise)


def grow_under_load(t, name, metadata):
    t.step(f"both backings grow under load, then the volume ({name} metadata)")
    c = pair(t, f"load-{name}", metadata)
    before = c.a.status()["size_bytes"]
    load = nbdio.start(nbdio.scribblers(c.a.uri, before, SEED))
    p = resize(c.a, ok=None)
    t.check(p.returncode == FAILED and "room" in p.stderr, f"nothing to grow to: {p.stderr.strip()}", p.returncode)
    grow(c.a, LARGE)
    fill(c.a.backing, SMALL, LARGE - SMALL)
    p = resize(c.a, ok=None)
    t.check(p.returncode == FAILED and c.b.name in p.stderr, f"only one has grown: {p.stderr.strip()}", p.returncode)
    t.check(c.a.status()["size_bytes"] == before, "the volume is as large as before")
    grow(c.b, LARGE)
    fill(c.b.backing, SMALL, LARGE - SMALL)
    p = resize(c.b, ok=None)
    t.check(p.returncode == FAILED and "primary" in p.stderr, f"on the secondary: {p.stderr.strip()}", p.returncode)
    p = resize(c.a)
    t.say(f"ok: {(p.stdout + p.stderr).strip()}")
    after = c.a.status()["size_bytes"]
    t.check(after > before + 64 * MIB and c.b.status()["size_bytes"] == after, f"{after} bytes on both", c.b.status())
    t.check(c.a.status()["protected"], "and protected")
    p = proc.run(["nbdinfo", "--size", c.a.uri])
    t.check(int(p.stdout) == after, "new clients see it", p.stdout)
    new = nbdio.start(nbdio.scribblers(c.a.uri, after, SEED + 1, connections=1, zero_percent=0, trim_percent=0)[:1])
    for s in new:  # beyond what the others use
        s.first, s.count = before // 4096 + 1, (after - before) // 4096 - 1
    run.wait_until("writes to the new part", lambda: nbdio.total_ops(new) > 100, 20)
    nbdio.stop(load + new)
    verified(t, c)
    c.stop()
    c.assert_legs_equal("after a resize under load", after)
    for n in c.nodes:
        nbdio.verify_leg(t, n.backing, load + new, n.name)
    c.start()
    c.promote(c.b)
    t.check(c.b.status()["size_bytes"] == after, "and it comes up so, on either node")
    nbdio.verify_leg(t, c.b.backing, load + new, c.b.name)
    c.stop()


def verified(t, c):
    p = c.a.cli("verify", c.volume, ok=None, timeout_s=120)
    t.check(p.returncode == DONE, "verify finds both legs equal", p.stdout + p.stderr)


def killed(t, rounds):
    t.step(f"either node killed at any step of a resize, {rounds} times")
    c = pair(t, "killed")
    size = SMALL
    chance = random.Random(SEED)
    load = nbdio.scribblers(c.a.uri, c.a.status()["size_bytes"], SEED)
    nbdio.start(load)
    hits = 0
    for i in range(rounds):
        size += GROWTH
        for n in c.nodes:
            grow(n, size)
            fill(n.backing, size - GROWTH, GROWTH)
        before = c.a.status()["size_bytes"]
        since = len(c.a.log_text())
        order = proc.spawn([BUILD / "lockstep", "resize", c.volume, "--control", c.a.control], log=t.dir / "order.log")
        c.a.wait_log("told to resize", since=since)
        time.sleep(chance.random() * KILL_WITHIN_S)
        victim = chance.choice(c.nodes)
        victim.sigkill()
        hits += proc.wait(order, 20, "after a node was killed") != DONE
        if victim is c.a:
            for s in load:
                s.thread.join(20)
        victim.start()
        c.promote(c.a)
        if victim is c.a:
            for s in load:
                s.reconnect(c.a.uri)
                s.thread.start()
        now = [n.status()["size_bytes"] for n in c.nodes]
        t.check(now[0] == now[1] and now[0] >= before, f"{i}: {victim.name} killed: both have {now[0]} bytes, of {before}", now)
        resize(c.a, ok=(DONE, FAILED))
        now = [n.status()["size_bytes"] for n in c.nodes]
        t.check(now[0] == now[1] and now[0] > before, f"{i}: then they grow to {now[0]}", now)
    nbdio.stop(load)
    t.say(f"{hits} of {rounds} kills cut a resize off")
    t.check(hits > 0 or not t.long, "and that is not none of so many", hits)
    verified(t, c)
    c.stop()
    c.assert_legs_equal("after all the kills", now[0])
    for n in c.nodes:
        nbdio.verify_leg(t, n.backing, load, n.name)
    is_zero(t, c.b.backing, SMALL, now[0] - SMALL, "the new part")


def limited_by_size(t):
    t.step("a configured `size`")
    c = pair(t, "size")
    before = c.a.status()["size_bytes"]
    c.stop()
    for n in c.nodes:
        n.settings = {"size": f"{before // MIB}MiB"}
        grow(n, LARGE)
    c.write_config()
    c.start()
    c.promote(c.a)
    p = resize(c.a, ok=None)
    t.check(p.returncode == FAILED and "size" in p.stderr, p.stderr.strip(), p.returncode)
    c.stop()
    for n in c.nodes:
        n.settings = {"size": f"{(LARGE - 32 * MIB) // MIB}MiB"}
    c.write_config()
    c.start()
    c.promote(c.a)
    t.check(c.a.status()["size_bytes"] == before, "a larger `size` alone changes nothing")
    c.a.wait_log(f"has room for {LARGE - 32 * MIB} bytes")
    resize(c.a)
    t.check(c.a.status()["size_bytes"] == LARGE - 32 * MIB, "it grows to `size`", c.a.status())
    c.b.stop()
    p = resize(c.a, ok=None)
    t.check(p.returncode == NO_DAEMON, f"without a peer: {p.stderr.strip()}", p.returncode)
    c.a.stop()


def ext4_grows(t):
    reason = fs.why_no_block_device() if os.geteuid() == 0 else "it needs root"
    if reason or not shutil.which("resize2fs"):
        t.say(f"(left out: ext4 on a volume that grows: {reason or 'no resize2fs'})")
        return
    t.step("ext4 on it: grown with resize2fs")
    c = pair(t, "ext4")
    device = fs.BlockDevice(t, c.a.uri, "ext4-before")
    ext4 = fs.Ext4(t, device.loop, make=True)
    (ext4.dir / "kept").write_bytes(b"kept" * MIB)
    for n in c.nodes:
        grow(n, LARGE)
        fill(n.backing, SMALL, LARGE - SMALL)
    resize(c.a)  # while it is mounted
    (ext4.dir / "later").write_bytes(b"late" * MIB)
    ext4.unmount()
    device.close()
    after = c.a.status()["size_bytes"]
    device = fs.BlockDevice(t, c.a.uri, "ext4-after")
    proc.run(["e2fsck", "-fp", device.loop], timeout_s=60)
    proc.run(["resize2fs", device.loop], timeout_s=60)
    ext4 = fs.Ext4(t, device.loop, name="grown")
    free = os.statvfs(ext4.dir)
    t.check(free.f_blocks * free.f_frsize > SMALL, "the file system is larger", free)
    t.check((ext4.dir / "kept").read_bytes() == b"kept" * MIB and (ext4.dir / "later").read_bytes() == b"late" * MIB,
            "and has all its files")
    (ext4.dir / "large").write_bytes(os.urandom(16 * MIB))
    ext4.unmount()
    device.close()
    c.stop()
    c.assert_legs_equal("with ext4 on them", after)
    fs.assert_clean_after_replay(t, fs.copy_leg(c.b.backing, after, t.dir / "leg.img"))


def test(t):
    grown_while_down(t, "internal", metadata=False)
    grown_while_down(t, "external", metadata=True)
    grow_under_load(t, "internal", metadata=False)
    grow_under_load(t, "external", metadata=True)
    limited_by_size(t)
    ext4_grows(t)
    killed(t, 100 if t.long else 5)


if __name__ == "__main__":
    run.main(test, limit_s=290)
