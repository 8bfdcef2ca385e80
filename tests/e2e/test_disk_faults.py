#!/usr/bin/python3
"""A disk that fails, on the secondary: no write is acknowledged that is not on both legs, and the event names the device, the errno,
the offset and the LSN; or the primary goes on alone, where it may. With injected faults, and with a disk that is really full.
Unreadable sectors, and slow disks, on either node.
What follows on the primary is test_diskless."""

import os
import re

import nbd

from lib import fs, nbdio, proc, run
from lib.cluster import KIB, METADATA_BYTES, MIB, REFUSED, Cluster
from lib.run import wait_until

SIZE = 64 * MIB
BAD_OFFSET = 40 * MIB  # what the injected fault covers
BAD_LENGTH = 64 * KIB
RANGE = {"error-offset": f"{BAD_OFFSET // MIB}MiB", "error-length": f"{BAD_LENGTH // KIB}KiB"}
IN_RANGE = {"write-errors-per-million": 1000000, **RANGE}
CONNECTIONS = 4
SHARED = SIZE - 4 * MIB  # by the connections of the load; what is beyond is nobody's

ERRNO_TEXT = {"EIO": "Input/output error", "ENOSPC": "No space left on device", "EROFS": "Read-only file system",
              "EREMOTEIO": "Remote I/O error"}


def assert_event(t, node, backing, errno, what):
    """Device, errno, offset and LSN, in one line."""
    line = node.wait_log(f"disk: {what}{'' if node is node.cluster.a else ' of the primary'} failed on {backing}: {ERRNO_TEXT[errno]}", 10)
    t.say(line.strip())
    found = re.search(r"offset (\d+).*LSN (\d+)", line)
    t.check(found, f"{node.name}: the event of the failed {what} names device, errno, offset and LSN", line)
    return int(found[1])


def a_failed_write(t, name, victim_index, errno, settings, in_range=True):
    t.step(f"{name}")
    c = Cluster(t, size=SIZE, name=re.sub(r"\W+", "-", name), dead_after="1s")
    victim = c.nodes[victim_index]
    victim.make_fail("disk", error=errno, **settings)
    c.ready()

    # Where nothing is wrong, everything goes on; the last connection is the one that meets the fault.
    # Only what can fail so as to tell of it: a read that fails tells its client.
    load = nbdio.start(nbdio.scribblers(c.a.uri, SHARED, t.seed, CONNECTIONS, read_percent=0))
    offset = assert_event(t, victim, victim.backing, errno, "write")
    if in_range:
        t.check(offset < BAD_OFFSET + BAD_LENGTH and offset + MIB > BAD_OFFSET, f"the offset is where the fault was put: {offset}")
    if victim is c.a:
        goes_on_diskless(t, c, load)
        fs.remove(c.dir)
        return
    c.a.wait_log(f"failed on {c.b.name}'s disk: {ERRNO_TEXT[errno]}", 10)
    s = c.a.wait("not to be protected", lambda s: not s["protected"])
    t.check("leg" in s["why_not"] or victim.name in s["why_not"], f"status: {s['why_not']}")

    # From here on nothing may be acknowledged. One that is to show it: sent now, far from the fault.
    before = [s.writes for s in load]
    h = nbdio.connect(c.a.uri)
    buffer = nbd.Buffer.from_bytearray(bytearray(b"x" * 4096))
    cookie = h.aio_pwrite(buffer, SHARED)
    outcome = []

    def acknowledged():
        try:
            h.poll(10)
            return h.aio_command_completed(cookie)
        except nbd.Error as e:
            outcome.append(e.errno)
            return False
    run.stays("no write is acknowledged", lambda: outcome or not acknowledged(), 2.5)
    t.check([s.writes for s in load] == before, "no write is acknowledged while a leg is failed"
            f" (a new one {'gets ' + outcome[0] if outcome else 'waits'})")
    t.check(c.a.running and c.b.running, "neither daemon ended")
    for n in c.nodes:
        n.sigkill()
    for s in load:
        s.stop()
    for n in c.nodes:
        nbdio.verify_leg(t, n.backing, load, n.name)
    fs.remove(c.dir)


def goes_on_diskless(t, c, load):
    """The primary's disk has failed: its clients notice nothing. Then the service moves to the peer."""
    s = c.a.wait("to be diskless", lambda s: s["diskless"])
    t.check(not s["protected"] and s["leg"] == "failed" and "failed" in s["why_not"], f"status: {s['why_not']}", s)
    line = c.a.wait_log(f"goes on without a leg of its own, through that of {c.b.name}, from epoch {s['diskless']['epoch']}", 10)
    t.say(line.strip())
    nbdio.headway(load, seconds=20)
    s = c.b.status()
    t.check("failed" in s["why_not"] and c.a.name in s["why_not"] and not s["protected"], f"{c.b.name} says: {s['why_not']}", s)
    h = nbdio.connect(c.a.uri)
    mark = os.urandom(64 * KIB)
    h.pwrite(mark, SHARED)
    h.flush()
    t.check(bytes(h.pread(64 * KIB, SHARED)) == mark, "what is written is read back, from the other leg")

    t.say("the node with the only leg is killed, and comes back")
    c.b.sigkill()
    c.a.wait("to wait", lambda s: s["peer"]["link"] != "connected" and "waits" in s["why_not"])
    h.aio_pread(nbd.Buffer(4096), SHARED)
    c.b.start()
    nbdio.headway(load, seconds=20)
    nbdio.stop(load)
    t.check(not any(s.errors for s in load), "no client saw an error")
    h.shutdown()

    t.say("as status tells: demoted here, promoted there; the disk is mended, and its leg comes back")
    c.a.cli("demote", c.volume)
    c.b.cli("promote", c.volume)
    h = nbdio.connect(c.b.uri)
    t.check(bytes(h.pread(64 * KIB, SHARED)) == mark, "the other node has it")
    h.shutdown()
    c.a.stop()
    c.a.mend()
    c.a.start()
    c.b.wait("to be protected", lambda s: s["protected"], 60)
    c.stop()
    nbdio.verify_legs(c, load, "after a leg that had failed came back")


def recovers(t):
    t.step("the secondary's disk fails for a while; mended, `down` and `up` there, and the waiting writes complete")
    c = Cluster(t, size=SIZE, name="mended", dead_after="1s")
    c.b.make_fail("disk", error="ENOSPC", **IN_RANGE)
    c.ready()
    # Neither flush nor FUA: a failed flush would be for good.
    load = nbdio.start(nbdio.scribblers(c.a.uri, SIZE, t.seed, CONNECTIONS, flush_percent=0, fua_percent=0))
    assert_event(t, c.b, c.b.backing, "ENOSPC", "write")
    c.a.wait("not to be protected", lambda s: not s["protected"])
    c.b.stop()
    c.b.mend()
    c.b.start()
    c.a.wait("to be protected again", lambda s: s["protected"], 20)
    nbdio.headway(load, 500, seconds=20)
    nbdio.stop(load)
    t.check(not any(s.errors for s in load), "no client saw an error")
    c.stop()
    nbdio.verify_legs(c, load, "after the mending")
    fs.remove(c.dir)


def goes_on_alone(t, what, settings):
    t.step(f"`when-alone: continue`: a {what} fails on the secondary; the primary goes on alone, and resyncs the leg when it is mended")
    c = Cluster(t, size=SIZE, name=f"alone-{what}", dead_after="500ms", settings={"when-alone": "continue"})
    c.b.make_fail("disk", error="EIO", **settings)
    c.ready()
    load = nbdio.start(nbdio.scribblers(c.a.uri, SIZE, t.seed, CONNECTIONS))
    t.say(c.b.wait_log(f"{what} of the primary failed on {c.b.backing}: {ERRNO_TEXT['EIO']}", 15).strip())
    s = c.a.wait("to go on alone", lambda s: s["alone"])
    t.check(not s["protected"] and s["serving"] and s["peer"]["leg"] == "failed", f"status: {s['why_not']}; alone: {s['alone']}", s)
    nbdio.headway(load, 200, seconds=20)
    s = c.a.status()
    t.check(s["alone"] and s["peer"]["out_of_sync_bytes"] > 0, f"{s['peer']['out_of_sync_bytes']} bytes are out of sync", s)
    s = c.b.status()
    t.check(s["leg"] == "failed" and not s["protected"], f"{c.b.name} says: {s['why_not']}", s)
    p = c.b.cli("promote", c.volume, ok=(REFUSED,))
    t.say(p.stderr.strip())
    c.b.stop()
    c.b.mend()
    c.b.start()
    s = c.a.wait("to be protected again", lambda s: s["protected"], 60)
    t.check(s["alone"] is None and s["peer"]["leg"] == "up-to-date" and s["peer"]["out_of_sync_bytes"] == 0, "mended, its leg comes back", s)
    nbdio.headway(load, 100, seconds=20)
    nbdio.stop(load)
    t.check(not any(s.errors for s in load), "no client saw an error")
    c.stop()
    nbdio.verify_legs(c, load, "after going on without a leg that had failed")
    fs.remove(c.dir)


def a_failed_flush(t, victim_index):
    t.step(f"a flush fails on the {('primary', 'secondary')[victim_index]}")
    c = Cluster(t, size=SIZE, name=f"flush{victim_index}", dead_after="1s")
    victim = c.nodes[victim_index]
    victim.make_fail("disk", error="EIO", **{"flush-errors-per-million": 1000000})
    c.ready()
    h = nbdio.connect(c.a.uri)
    h.pwrite(b"before".ljust(4096), 0)
    t.check(True, "a write before it is acknowledged")
    flush = Pending(h, h.aio_flush())
    t.say(victim.wait_log(f"flush{'' if victim is c.a else ' of the primary'} failed on {victim.backing}: {ERRNO_TEXT['EIO']}", 15).strip())
    if victim is c.a:
        # It waits for the record that the own leg is out, and counts with the peer's.
        wait_until("the flush to be acknowledged", lambda: not flush.unacknowledged(), 10)
        h.pwrite(b"after".ljust(4096), 8192)
        h.flush()
        t.check(not flush.outcome and c.a.status()["diskless"], "it is acknowledged with the peer's leg alone, and so is what follows")
        for n in c.nodes:
            n.sigkill()
        with open(c.b.backing, "rb") as f:
            data = f.read(8192 + 4096)
        t.check(data.startswith(b"before") and data[8192:].startswith(b"after"), f"{c.b.name} has it")
        fs.remove(c.dir)
        return
    run.stays("the flush is not acknowledged", flush.unacknowledged, 1)
    buffer = nbd.Buffer.from_bytearray(bytearray(4096))
    write = Pending(h, h.aio_pwrite(buffer, 8192))
    run.stays("a write after it is not acknowledged", write.unacknowledged, 1.5)
    t.check(True, f"the flush {flush.outcome or 'waits'}, a write after it {write.outcome or 'waits'}")
    for n in c.nodes:
        n.sigkill()
    fs.remove(c.dir)


class Pending:
    """A request that must not succeed."""

    def __init__(self, handle, cookie):
        self.handle, self.cookie = handle, cookie
        self.outcome = None

    def unacknowledged(self):
        if self.outcome:
            return True
        try:
            self.handle.poll(10)
            return not self.handle.aio_command_completed(self.cookie)
        except nbd.Error as e:
            self.outcome = f"fails with {e.errno}"
            return True


def killed_while_slow(t, victim_index):
    """A disk that takes its time: who acknowledges before it is done is found out when the daemons are killed."""
    t.step(f"both daemons are killed under load while the {('primary', 'secondary')[victim_index]}'s disk is slow")
    c = Cluster(t, size=SIZE, name=f"slow{victim_index}", dead_after="1s")
    victim = c.nodes[victim_index]
    victim.make_fail("disk", **{"delay-min": "10ms", "delay-max": "60ms"})
    c.ready()
    # Small shares, written again and again: an old content that is still there would not be noticed otherwise.
    load = nbdio.start(nbdio.scribblers(c.a.uri, 16 * MIB, t.seed, 8, blocks_max=8, read_percent=0))
    wait_until("some hundred writes", lambda: sum(s.writes for s in load) > 400, 60)
    for n in (victim, c.nodes[1 - victim_index]):
        n.sigkill()
    for s in load:
        s.stop()
    for n in c.nodes:
        nbdio.verify_leg(t, n.backing, load, n.name)
    t.check(any(s.doubt for s in load), "and they were killed in the middle of writes")
    fs.remove(c.dir)


def read_error(t):
    t.step("a read fails on the primary: the peer answers in its place; while it is away, the read waits as a write does")
    c = Cluster(t, size=SIZE, name="read", dead_after="1s")
    c.a.make_fail("disk", error="EIO", **{"read-errors-per-million": 1000000, **RANGE})
    c.ready()
    h = nbdio.connect(c.a.uri)
    h.pwrite(b"x" * 4096, BAD_OFFSET)
    t.check(bytes(h.pread(4096, BAD_OFFSET)) == b"x" * 4096, "the client gets what it wrote")
    t.say(c.a.wait_log(f"read failed on {c.a.backing}", 5).strip())
    h.pwrite(b"y" * 4096, 0)
    t.check(bytes(h.pread(4096, 0)) == b"y" * 4096, "the rest of the volume goes on")
    t.check(c.a.status()["protected"], "protected, since both legs have what was written")
    c.b.cli("down", c.volume)
    c.a.wait("not to be protected", lambda s: not s["protected"])
    buf = nbd.Buffer(4096)
    cookie = h.aio_pread(buf, BAD_OFFSET)
    t.say(c.a.wait_log("the peer will be asked when it is back", 5).strip())
    h.poll(500)
    t.check(not h.aio_command_completed(cookie), "without the peer the read waits")
    t.check(bytes(h.pread(4096, 0)) == b"y" * 4096, "others do not")
    c.b.cli("up", c.volume)
    while not h.aio_command_completed(cookie):
        h.poll(-1)
    t.check(bytes(buf.to_bytearray()) == b"x" * 4096, "and is answered when it is back")
    h.shutdown()
    c.stop()
    fs.remove(c.dir)


def really_full(t, victim_index):
    whose = ("primary", "secondary")[victim_index]
    if os.geteuid() != 0:
        t.skip_part("a file system that fills up needs root")
        return
    t.step(f"the {whose}'s file system is full: a sparse backing of {SIZE // MIB} MiB where 16 MiB fit")
    small = t.dir / f"small{victim_index}"
    small.mkdir()
    image = t.dir / f"small{victim_index}.img"
    with open(image, "wb") as f:
        f.truncate(24 * MIB)
    reason = fs.why_no_block_device()
    if reason:
        t.skip_part(f"a file system that fills up: {reason}")
        return
    proc.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image])
    disk = fs.Ext4(t, image, name=f"small{victim_index}")
    backings = [t.dir / f"full-{i}.img" for i in range(2)]
    backings[victim_index] = disk.dir / "full.img"
    for path in backings:
        with open(path, "wb") as f:
            f.truncate(SIZE + METADATA_BYTES)
    c = Cluster(t, size=SIZE, name=f"full{victim_index}", dead_after="1s", backings=backings)
    victim = c.nodes[victim_index]
    for n in c.nodes:
        t.cleanup.callback(n.end)  # before the file system is unmounted
    c.ready()
    load = nbdio.start(nbdio.scribblers(c.a.uri, SIZE, t.seed, CONNECTIONS, zero_percent=0, trim_percent=0))
    assert_event(t, victim, victim.backing, "ENOSPC", "write")
    c.a.wait("not to be protected", lambda s: not s["protected"])
    if victim is c.a:
        c.a.wait("to be diskless", lambda s: s["diskless"])
        nbdio.headway(load, seconds=20)
    else:
        before = [s.writes for s in load]
        run.stays("no write is acknowledged", lambda: [s.writes for s in load] == before, 2)
    t.check(c.a.running and c.b.running, "neither daemon ended")
    for n in c.nodes:
        n.sigkill()
    for s in load:
        s.stop()
    for n in c.nodes:
        if n is c.b or victim is c.b:
            nbdio.verify_leg(t, n.backing, load, n.name)
    disk.unmount()
    for path in (*backings, image):
        path.unlink(missing_ok=True)


def faults_of(t, victim):
    whose = ("primary", "secondary")[victim]
    a_failed_write(t, f"EIO on the {whose}", victim, "EIO", IN_RANGE)
    a_failed_write(t, f"ENOSPC on the {whose}", victim, "ENOSPC", IN_RANGE)
    a_failed_write(t, f"short writes on the {whose}", victim, "EIO",
                   {"short-transfers-per-million": 20000, "error-after-requests": 300}, in_range=False)
    a_failed_flush(t, victim)
    really_full(t, victim)


def test(t):
    faults_of(t, 1)
    for victim in range(2):
        killed_while_slow(t, victim)
    recovers(t)
    goes_on_alone(t, "write", IN_RANGE)
    goes_on_alone(t, "flush", {"flush-errors-per-million": 1000000})
    read_error(t)


if __name__ == "__main__":
    run.main(test, limit_s=150)
