#!/usr/bin/python3
"""Legs that were apart are made equal again, by themselves: the secondary was killed while the primary went on alone or
waited; the primary was killed and either node promoted; both were killed; the target was killed in the middle, or the source;
a disk was replaced; data was adopted. After each: protected, both legs equal to the byte, and nothing lost that was acknowledged."""

import os
import re
import time

import nbd

from lib import nbdio, proc, run
from lib.cluster import GIB, KIB, MIB, REFUSED, Cluster

PROTECTED_S = 40
CONTINUE = {"when-alone": "continue"}
RESYNC_RATE = 256 * MIB
EXTENT = 4 * MIB  # of the activity log
UNDER_WAY = 8 * 508 * KIB  # of a resync: asked for, and not written


def protected(node):
    return node.wait("to be protected", lambda s: s["protected"], PROTECTED_S)


def allocated(path):
    return os.stat(path).st_blocks * 512


class Volume:
    """A cluster under load, whose every acknowledged write is known."""

    def __init__(self, t, name, size=256 * MIB, settings=None, connections=2, dead_after="500ms"):
        self.t = t
        self.c = Cluster(t, size=size, name=name, dead_after=dead_after, settings=settings)
        self.connections = connections
        self.load = []
        self.primary, self.secondary = self.c.nodes

    def begin(self):
        self.load = nbdio.scribblers(self.primary.uri, self.c.size, self.t.seed, self.connections)
        nbdio.start(self.load)
        nbdio.headway(self.load, 100)

    def load_ends(self):
        """After its server was killed."""
        for s in self.load:
            s.stopping = True
            s.thread.join(20)
            self.t.check(not s.alive() and not s.wrong, "the client of a killed primary ends", s.wrong)

    def load_goes_on(self):
        for s in self.load:
            s.reconnect(self.primary.uri)
            s.start()
        nbdio.headway(self.load, 100)

    def check_served(self):
        """What is served is what was acknowledged, or was in doubt; from here on what is read counts."""
        h = nbdio.connect(self.primary.uri)
        for s in self.load:
            for b in s.touched():
                s.check_blocks(h.pread(s.block_bytes, b * s.block_bytes), b, "after the crash")
        h.shutdown()

    def check_legs(self, why):
        """Down in order on both, then both legs hold all of it, and are equal."""
        nbdio.stop(self.load)
        self.c.stop()
        nbdio.verify_legs(self.c, self.load, why)

    def start_again(self):
        self.c.start()
        self.c.promote(self.primary)
        self.load_goes_on()

    def swap(self):
        self.primary, self.secondary = self.secondary, self.primary


def alone_and_back(t):
    t.step("`when-alone: continue`: the secondary is killed, the primary goes on")
    v = Volume(t, "alone", settings=CONTINUE)
    v.c.ready()
    v.begin()
    v.secondary.sigkill()
    s = v.primary.wait("to go on alone", lambda s: s["alone"])
    t.check(not s["protected"] and "alone" in s["why_not"] and s["peer"]["leg"] == "outdated",
            f"status: {s['why_not']}; alone: {s['alone']}; the peer's leg: {s['peer']['leg']}", s)
    t.check(f"epoch {s['alone']['epoch']}" in s["why_not"] and s["alone"]["epoch"] == s["epoch"], "and says since which epoch", s)
    text = v.primary.cli("status").stdout
    t.check("alone   since epoch" in text, "so does the one for eyes", text)
    p = v.primary.cli("down", v.c.volume, ok=(REFUSED,))
    t.check("only up-to-date leg" in p.stderr, "`down` of the only good leg is refused", p.stderr)
    nbdio.headway(v.load)
    s = v.primary.status()
    t.check(s["peer"]["out_of_sync_bytes"] > 0, f"{s['peer']['out_of_sync_bytes']} bytes are out of sync")

    t.step("it is back: resynced under load")
    v.secondary.start()
    s = protected(v.primary)
    t.check(s["alone"] is None and s["peer"]["resync"] is None and s["peer"]["out_of_sync_bytes"] == 0,
            "nothing is out of sync any more", s)
    nbdio.headway(v.load, 100)
    v.check_legs("after going on alone")

    t.step("the primary is killed while it goes on alone: it comes back, goes on from where it was")
    v.start_again()
    v.secondary.sigkill()
    v.primary.wait("to go on alone", lambda s: s["alone"])
    nbdio.headway(v.load)
    v.primary.sigkill()
    v.load_ends()
    v.primary.start()
    v.primary.cli("promote", v.c.volume)
    v.primary.wait("to go on alone", lambda s: s["serving"] and s["alone"])
    v.check_served()
    v.load_goes_on()
    v.secondary.start()
    protected(v.primary)
    v.check_legs("after the crash of a primary that was alone")


def strict_kills(t):
    t.step("`when-alone: strict`: the primary is killed in mid-load; the other is promoted")
    v = Volume(t, "strict")
    v.c.ready()
    v.begin()
    v.primary.sigkill()
    v.load_ends()
    v.swap()
    v.primary.wait("the loss to be seen", lambda s: s["peer"]["link"] != "connected")
    v.primary.cli("promote", v.c.volume)
    v.secondary.start()
    protected(v.primary)
    v.check_served()
    v.load_goes_on()
    v.check_legs("after the death of a primary")

    t.step("the primary is killed, and is promoted itself when it is back")
    v.start_again()
    v.primary.sigkill()
    v.load_ends()
    v.primary.start()
    v.c.promote(v.primary)
    v.check_served()
    v.load_goes_on()
    v.check_legs("after the return of a primary")

    t.step("both are killed")
    v.start_again()
    for n in v.c.nodes:
        n.sigkill()
    v.load_ends()
    v.c.start()
    v.swap()
    t.step("they make their legs equal without a primary; then the other one is promoted")
    for n in v.c.nodes:
        n.wait("an up-to-date leg", lambda s: s["leg"] == s["peer"]["leg"] == "up-to-date" and not s["peer"]["resync"])
    v.c.promote(v.primary)
    v.check_served()
    v.load_goes_on()
    v.check_legs("after the death of both")


def interrupted(t):
    t.step("a resync whose target is killed in the middle goes on where it was")
    size = GIB
    v = Volume(t, "interrupted", size=size, settings={**CONTINUE, "resync-rate": f"{RESYNC_RATE // MIB}MiB"})
    v.c.ready()
    v.secondary.sigkill()
    v.primary.wait("to go on alone", lambda s: s["alone"])
    h = nbdio.connect(v.primary.uri)
    data = os.urandom(4 * MIB)
    written = 768 * MIB
    for at in range(0, written, len(data)):
        h.pwrite(data, at)
    s = v.primary.status()
    t.check(s["peer"]["out_of_sync_bytes"] == written, f"{written // MIB} MiB are out of sync", s)
    done = 0
    kills = 0
    for share in (0.2, 0.5):
        v.secondary.start(wait=False)
        s = v.primary.wait(f"a resync that is at {share:.0%}", lambda s, share=share: s["peer"]["resync"] and
                           s["peer"]["resync"]["done_bytes"] >= share * written, PROTECTED_S)
        r = s["peer"]["resync"]
        t.check(s["peer"]["leg"] == "syncing" and r["total_bytes"] >= r["done_bytes"] and r["to_peer"],
                f"resync: {r}; the target's leg is syncing", s)
        rate = r["rate_bytes_per_s"]
        t.check(0 < rate < 4 * RESYNC_RATE, f"it goes at {rate // MIB} MiB/s, as its limit of {RESYNC_RATE // MIB} allows", s)
        t.check(r["eta_s"] == -((r["done_bytes"] - r["total_bytes"]) // rate), f"and has {r['eta_s']} s left", s)
        v.secondary.sigkill()
        kills += 1
        s = v.primary.wait("its loss to be seen", lambda s: s["peer"]["link"] != "connected")
        left = s["peer"]["out_of_sync_bytes"]
        t.check(left <= written - (share - 0.1) * written, f"{left // MIB} MiB are left", s)
        done = written - left
    v.secondary.start()
    s = v.primary.wait("the resync to go on", lambda s: s["protected"] or s["peer"]["resync"])
    if s["peer"]["resync"]:
        t.check(s["peer"]["resync"]["total_bytes"] <= written - done + 64 * MIB, "and has only the rest to do", s)
    protected(v.primary)
    h.shutdown()
    v.c.stop()
    v.c.assert_legs_equal(f"after {kills} interruptions")

    t.step("a target is never promoted, but by force")
    v.c.start()
    v.c.promote(v.primary)
    v.secondary.sigkill()
    v.primary.wait("to go on alone", lambda s: s["alone"])
    h = nbdio.connect(v.primary.uri)
    for at in range(0, written, len(data)):
        h.pwrite(data, at)
    h.shutdown()
    v.secondary.start(wait=False)
    source = v.primary.wait("a resync", lambda s: s["peer"]["resync"] and s["peer"]["resync"]["done_bytes"], PROTECTED_S)
    v.primary.sigkill()
    s = v.secondary.wait("to have lost its source", lambda s: s["peer"]["link"] != "connected" and s["leg"] == "syncing")
    t.check("inconsistent" in s["why_not"], f"why not: {s['why_not']}", s)
    was = s["consistent"]
    t.check(0 < was["epoch"] < source["epoch"] and 0 < was["lsn"] < source["lsn"],
            f"last consistent: {was}, when its source is at epoch {source['epoch']}, LSN {source['lsn']}", s)
    words = f"last consistent state, epoch {was['epoch']}, LSN {was['lsn']}"
    t.check(words in v.secondary.cli("status").stdout, f"for eyes: {words}")
    p = v.secondary.cli("promote", v.c.volume, ok=(REFUSED,))
    t.check("--force" in p.stderr and words in p.stderr, f"promote: {p.stderr.strip()}", p.stderr)
    v.primary.start()
    v.c.promote(v.primary)
    v.c.stop()
    v.c.assert_legs_equal("after the source of a resync was killed")


def source_killed(t):
    """What is sent over both sessions is the difference, once. The crash makes all extents of the source's activity log count
    as different: what the target got already, and what never differed, is compared by digests, and not sent.

    The bound is above the difference by what was under way at the kill, twice: windows that the source had sent and the target
    has not written, which are sent again; and as many that were counted after the target was asked."""
    t.step("a resync by bits whose source is killed at about half goes on where it was: nothing is sent twice")
    rate = 16 * MIB
    # The target is asked what it got while its source stands still, and must not end the session before it has answered.
    v = Volume(t, "source", size=512 * MIB, settings={**CONTINUE, "resync-rate": f"{rate // MIB}MiB"}, dead_after="5s")
    v.c.ready()
    v.secondary.sigkill()
    v.primary.wait("to go on alone", lambda s: s["alone"])
    h = nbdio.connect(v.primary.uri)
    extents = range(0, 32 * EXTENT, EXTENT)
    for at in extents:  # half of each
        h.pwrite(os.urandom(EXTENT // 2), at)
    h.flush()
    written = len(extents) * EXTENT // 2
    s = v.primary.status()
    t.check(s["peer"]["out_of_sync_bytes"] == written, f"{written // MIB} MiB differ, in {len(extents)} extents", s)
    v.secondary.start(wait=False)
    s = v.secondary.wait("to have got some of it", lambda s: s["peer"]["resync"] and s["peer"]["resync"]["sent_bytes"] >= 0.4 * written,
                         PROTECTED_S)
    v.primary.pause()
    s = v.secondary.status()
    first = s["peer"]["resync"]["sent_bytes"]
    v.primary.sigkill()
    t.check(first < 0.9 * written and s["leg"] == "syncing", f"its source is killed when {first // MIB} MiB were sent", s)
    since = len(v.secondary.log_text())
    v.primary.start()
    v.c.promote(v.primary, protected=False)
    protected(v.primary)
    v.secondary.wait_log("is up to date", since=since)
    log = v.secondary.log_text()[since:]
    t.check("the blocks that may differ are compared" in log and "everything is compared" not in log, "it went on by bits", log)
    equal, second = map(int, re.search(r"is up to date: (\d+) bytes were equal, (\d+) sent", log).groups())
    t.check(equal + second <= len(extents) * EXTENT, f"then {equal // MIB} MiB were equal, and {second // MIB} MiB sent: no more than"
            f" the {len(extents)} extents of the log", (equal, second))
    t.check(written - UNDER_WAY <= first + second <= written + 2 * UNDER_WAY,
            f"{first + second} bytes were sent in both sessions, of {written} that differed", (first, second))
    v.c.stop()
    v.c.assert_legs_equal("after its source was killed")


def replaced_disk(t):
    t.step("the secondary's disk is replaced: `create` there, and everything is resynced; holes stay holes")
    v = Volume(t, "replaced", size=512 * MIB)
    v.c.ready()
    v.begin()
    h = nbdio.connect(v.primary.uri)
    nbdio.stop(v.load)
    written = sum(len(s.touched()) * s.block_bytes for s in v.load)
    v.secondary.stop()
    v.secondary.replace_disk()
    for s in v.load:
        s.reconnect(v.primary.uri)
        s.start()
    protected(v.primary)
    h.shutdown()
    v.check_legs("after a full resync")
    sizes = [allocated(n.backing) for n in v.c.nodes]
    t.check(sizes[1] < sizes[0] + written / 2 + 8 * MIB, f"allocated: {sizes[0] // MIB} MiB and {sizes[1] // MIB} MiB of 512")

    t.step("what is discarded while the secondary is away is given back there, too")
    v.c.start()
    v.c.promote(v.primary)
    h = nbdio.connect(v.primary.uri)
    h.pwrite(os.urandom(16 * MIB), 64 * MIB)
    h.pwrite(os.urandom(16 * MIB), 80 * MIB)
    h.flush()
    v.c.stop()
    full = allocated(v.secondary.backing)
    for n in v.c.nodes:
        n.settings = CONTINUE
    v.c.write_config()
    v.c.start()
    v.c.promote(v.primary)
    v.secondary.sigkill()
    v.primary.wait("to go on alone", lambda s: s["alone"])
    h = nbdio.connect(v.primary.uri)
    h.trim(32 * MIB, 64 * MIB)
    h.shutdown()
    v.secondary.start()
    protected(v.primary)
    v.c.stop()
    v.c.assert_legs_equal("after a resync of discards")
    left = allocated(v.secondary.backing)
    t.check(left <= full - 28 * MIB, f"{(full - left) // MIB} of 32 MiB are given back")


def long_discards(t):
    t.step("a discard of 1 GiB, and one of 4 GiB - 512: in pieces, on both legs")
    c = Cluster(t, size=5 * GIB, name="discards", dead_after="500ms")
    c.ready()
    h = nbdio.connect(c.a.uri)
    data = os.urandom(MIB)
    places = (0, 128 * MIB - MIB, 128 * MIB, 1024 * MIB - MIB, 1024 * MIB)
    for at in places:
        h.pwrite(data, at)
    h.trim(GIB, 0)
    for at in places:
        want = data if at >= GIB else bytes(MIB)
        t.check(h.pread(MIB, at) == want, f"at {at // MIB} MiB: {'kept' if at >= GIB else 'zeroes'}")
    h.zero(GIB, 512 * MIB)
    t.check(h.pread(MIB, GIB) == bytes(MIB), "and so does write-zeroes")
    for at in places:
        h.pwrite(data, at)
    h.trim(4 * GIB - 512, 0, nbd.CMD_FLAG_FUA)
    t.check(all(h.pread(MIB, at) == bytes(MIB) for at in places), "the longest one that there is")
    h.shutdown()
    t.check(c.a.status()["protected"], "still protected")
    c.stop()
    proc.run(["cmp", "-n", 2 * GIB, c.a.backing, c.b.backing], timeout_s=120)
    t.check(max(allocated(n.backing) for n in c.nodes) < 16 * MIB, "and nothing stays allocated")


def adopted(t):
    t.step("`create --adopt` with two nodes: the other leg gets the data that is there")
    c = Cluster(t, size=0, name="adopted", dead_after="500ms")
    size = 128 * MIB
    data = os.urandom(MIB)
    for n in c.nodes:
        n.extra = {"metadata": n.dir / "meta"}
        os.truncate(n.backing, size)
    with open(c.a.backing, "r+b") as f:
        f.seek(5 * MIB)
        f.write(data)
        f.seek(size - MIB)
        f.write(data)
    c.write_config()
    c.start()
    c.a.cli("create", c.volume, "--adopt")
    c.b.cli("create", c.volume)
    c.create_done()
    c.promote(c.a)
    h = nbdio.connect(c.a.uri)
    t.check(h.get_size() == size and h.pread(MIB, 5 * MIB) == data, "it is served")
    h.pwrite(data, 0)
    h.shutdown()
    c.stop()
    c.assert_legs_equal("after adoption", size)

    t.step("two that were both adopted are nobody's pair")
    c = Cluster(t, size=64 * MIB, name="both", dead_after="500ms")
    for n in c.nodes:
        n.extra = {"metadata": n.dir / "meta"}
    c.write_config()
    c.start()
    c.create("--adopt")
    s = c.a.wait("to be refused", lambda s: s["peer"]["link"] == "refused")
    t.check(s["why_not"], f"why not: {s['why_not']}", s)
    c.stop()


def test(t):
    begun = time.monotonic()
    for part in (alone_and_back, strict_kills, interrupted, source_killed, replaced_disk, long_discards, adopted):
        part(t)
        t.say(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    run.main(test, limit_s=200)
