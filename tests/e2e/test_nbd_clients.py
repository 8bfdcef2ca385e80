#!/usr/bin/python3
"""The clients people have: libnbd's tools and bindings, qemu's tools. Nothing they do may lose or alter data."""

import hashlib
import json
import os
import random

import nbd

from lib import nbdio, proc, run
from lib.cluster import GIB, MIB, Cluster
from lib.run import wait_until

VOLUME_BYTES = 1 * GIB


def nbdinfo(t, c):
    t.step("nbdinfo: the export is what INTERFACE.md promises")
    export = json.loads(proc.run(["nbdinfo", "--json", c.a.uri]).stdout)
    x = export["exports"][0]
    t.check(export["protocol"] == "newstyle-fixed" and not export["TLS"], "fixed newstyle", export)
    t.check(export.get("structured") is True, "structured replies")
    t.check(x["export-name"] == c.volume and x["export-size"] == VOLUME_BYTES, "name and size", x)
    for flag in ("can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero", "can_multi_conn"):
        t.check(x[flag], flag)
    t.check(not x["is_read_only"], "writable")
    t.check("base:allocation" in x["contexts"], "base:allocation", x["contexts"])
    t.check(x["block_size_minimum"] <= 4096 and x["block_size_maximum"] >= 32 * MIB or x["block_size_maximum"] == 0xffffffff,
            f"block sizes {x['block_size_minimum']} / {x['block_size_preferred']} / {x['block_size_maximum']}")
    listed = json.loads(proc.run(["nbdinfo", "--list", "--json", f"nbd+unix:///?socket={c.a.socket}"]).stdout)
    t.check([e["export-name"] for e in listed["exports"]] == [c.volume], "the list of exports has the volume", listed)
    p = proc.run(["nbdinfo", f"nbd+unix:///other?socket={c.a.socket}"], ok=None)
    t.check(p.returncode != 0, f"another export name is refused: {p.stderr.strip().splitlines()[-1]}")


def block_status(t, c):
    t.step("nbdinfo --map: what was written is data, what was not is a hole")
    h = nbdio.connect(c.a.uri)
    h.pwrite(os.urandom(1 * MIB), 100 * MIB)
    h.flush()
    h.shutdown()
    runs = json.loads(proc.run(["nbdinfo", "--map", "--json", c.a.uri]).stdout)
    t.check(sum(r["length"] for r in runs) == VOLUME_BYTES, "the map covers the volume")
    data = [r for r in runs if not r["type"] & 1]
    holes = [r for r in runs if r["type"] & 2 and r["type"] & 1]
    t.check(any(r["offset"] <= 100 * MIB and r["offset"] + r["length"] >= 101 * MIB for r in data), "written: data", runs[:8])
    t.check(sum(r["length"] for r in holes) > VOLUME_BYTES // 2, "never written: holes that read as zeroes", runs[:8])


def nbdcopy(t, c, megabytes):
    t.step(f"nbdcopy: {megabytes} MiB in and out, several connections, requests of 32 MiB and of 4 KiB")
    for request in (32 * MIB, 256 * 1024, 4096):
        source = t.dir / "source"
        size = megabytes * MIB if request > 4096 else 8 * MIB
        with open(source, "wb") as f:
            # A hole in the middle, so that zeroes are written, too.
            f.write(os.urandom(size // 4))
            f.seek(size // 2)
            f.write(os.urandom(size // 2))
        proc.run(["nbdcopy", f"--request-size={request}", "--connections=4", "--flush", source, c.a.uri], timeout_s=120)
        back = t.dir / "back"
        proc.run(["nbdcopy", f"--request-size={request}", "--connections=4", c.a.uri, back], timeout_s=120)
        same = proc.run(["cmp", "-n", size, source, back], ok=None)
        t.check(same.returncode == 0, f"request size {request}: digest {sha256(source)[:16]} both ways", same.stdout)
        source.unlink()
        back.unlink()


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def qemu(t, c):
    t.step("qemu-img and qemu-io")
    info = json.loads(proc.run(["qemu-img", "info", "--output=json", c.a.uri]).stdout)
    t.check(info["virtual-size"] == VOLUME_BYTES, "qemu-img info: the size", info)
    script = ["-c", "write -P 0xa5 1M 3M", "-c", "write -f -P 0x5a 3M 4k", "-c", "write -z -f 2M 64k", "-c", "discard 8M 1M",
              "-c", "flush", "-c", "read -P 0xa5 1M 1M", "-c", "read -P 0 2M 64k", "-c", "read -P 0x5a 3M 4k", "-c", "read -P 0 8M 1M",
              "-c", "aio_write -P 0x11 20M 16M", "-c", "aio_write -P 0x22 40M 16M", "-c", "aio_flush",
              "-c", "read -P 0x11 20M 16M", "-c", "read -P 0x22 40M 16M"]
    p = proc.run(["qemu-io", "-f", "raw", *script, c.a.uri], ok=None, timeout_s=60)
    t.check(p.returncode == 0 and "verification failed" not in p.stdout, "qemu-io reads what it wrote", p.stdout + p.stderr)
    image = t.dir / "image.qcow2"
    proc.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", c.a.uri, image], timeout_s=120)
    p = proc.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, c.a.uri], ok=None, timeout_s=120)
    t.check(p.returncode == 0, "qemu-img convert and compare: identical", p.stdout + p.stderr)
    proc.run(["qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", image, c.a.uri], timeout_s=120)
    p = proc.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, c.a.uri], ok=None, timeout_s=120)
    t.check(p.returncode == 0, "and back in: identical", p.stdout + p.stderr)
    image.unlink()


def random_ops(t, c, ops):
    t.step("random requests against a model: 8 connections, 512-byte and 4 KiB blocks, every kind")
    load = nbdio.scribblers(c.a.uri, VOLUME_BYTES // 2, t.seed, 4, block_bytes=512, blocks_max=300)
    more = nbdio.scribblers(c.a.uri, VOLUME_BYTES // 2, t.seed + 1, 4, block_bytes=4096, blocks_max=600)
    for s in more:
        s.first += VOLUME_BYTES // 2 // 4096
    load += more
    # They start from a volume whose content they know.
    h = nbdio.connect(c.a.uri)
    for offset in range(0, VOLUME_BYTES, 512 * MIB):
        h.zero(512 * MIB, offset)
    h.shutdown()
    nbdio.start(load)
    wait_until(f"{ops} requests", lambda: nbdio.total_ops(load) >= ops or not all(s.alive() for s in load), 500,
               describe=lambda: f"{nbdio.total_ops(load)} requests")
    nbdio.stop(load)
    t.check(not any(s.errors for s in load), f"{nbdio.total_ops(load)} requests, no error", [s.errors for s in load])
    return load


def overlapping(t, c, rounds):
    """Which of two overlapping writes wins is free; that both legs agree, and blocks are whole, is not."""
    t.step("overlapping writes from several connections at once: both legs agree on the winner")
    rng = random.Random(t.seed)
    handles = [nbdio.connect(c.a.uri) for _ in range(4)]
    window, block = 64 * 1024, 4096
    for n in range(rounds):
        sent = []
        for h in handles:
            for _ in range(8):
                at = rng.randrange(0, window, block)
                length = rng.randrange(block, window + block - at, block)
                data = nbd.Buffer.from_bytearray(bytearray([rng.randrange(1, 256)]) * length)
                sent.append((h, h.aio_pwrite(data, at), data))
        for h in handles:
            while h.aio_in_flight():
                h.poll(1000)
        for h, cookie, _ in sent:
            h.aio_command_completed(cookie)
        if n % 50 == 49:
            seen = handles[0].pread(window, 0)
            for at in range(0, window, block):
                if len(set(seen[at:at + block])) != 1:
                    raise run.Failure(f"block at {at} is a mixture of two writes")
    handles[0].flush()
    for h in handles:
        h.shutdown()
    t.check(True, f"{rounds * 32} overlapping writes were acknowledged, and no block is a mixture")


def limits(t, c):
    t.step("requests at and beyond the limits")
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.connect_uri(c.a.uri)
    data = os.urandom(32 * MIB)
    h.pwrite(data, 512 * MIB)
    t.check(bytes(h.pread(32 * MIB, 512 * MIB)) == data, "a request of 32 MiB in one piece, there and back")
    for what, call in (("a read beyond the end", lambda: h.pread(4096, VOLUME_BYTES)),
                       ("a write across the end", lambda: h.pwrite(bytes(8192), VOLUME_BYTES - 4096)),
                       ("a trim beyond the end", lambda: h.trim(4096, VOLUME_BYTES))):
        try:
            call()
            raise run.Failure(f"{what} was not refused")
        except nbd.Error as e:
            t.say(f"ok: {what}: {e.errno}")
    t.check(bytes(h.pread(4096, 512 * MIB)) == data[:4096], "the connection goes on")
    h.shutdown()


def secondary(t, c):
    t.step("the secondary's socket: served elsewhere, and where")
    p = proc.run(["nbdinfo", c.b.uri], ok=None)
    t.check(p.returncode != 0, "nbdinfo finds no export")
    p = proc.run(["qemu-img", "info", c.b.uri], ok=None)  # which shows the server's own words
    t.say(p.stderr.strip().splitlines()[-1])
    t.check(c.volume in p.stderr and c.a.name in p.stderr, "the answer names the volume and the node that serves it", p.stderr)


def test(t):
    t.need("nbdinfo", "nbdcopy", "qemu-img", "qemu-io")
    c = Cluster(t, size=VOLUME_BYTES)
    t.step("two nodes, protected")
    c.ready()
    nbdinfo(t, c)
    block_status(t, c)
    nbdcopy(t, c, 512 if t.long else 64)
    qemu(t, c)
    limits(t, c)
    overlapping(t, c, 3000 if t.long else 200)
    load = random_ops(t, c, 60_000 if t.long else 6_000)
    secondary(t, c)
    t.step("both legs")
    c.stop()
    nbdio.verify_legs(c, load, "after all clients")


if __name__ == "__main__":
    run.main(test, limit_s=120, long_limit_s=1200)
