"""What is recorded: two nodes under load that go through one state after the other, and when each of these began and
ended. Whether it really came about is asked of their status as it happens, and of the logs afterwards."""

import contextlib
import dataclasses
import os
import random
import time

import recorded
from ledger import Ledger, Scribe
from lib import nbdio, proc, run
from lib.cluster import KIB, METADATA_BYTES, MIB, Cluster
from lib.run import Failure, wait_until

SHARES = ((4 * MIB, 4096, 8), (4 * MIB, 4096, 32), (2 * MIB, 4096, 1), (256 * KIB, 512, 16))  # bytes, block, blocks at once
APART = 32 * MIB  # from one share to the next
EXTENT = 4 * MIB
WAIT_S = 60


def now():
    return time.monotonic_ns()


@dataclasses.dataclass
class Phase:
    what: str
    began: int
    ended: int
    weight: int = 1  # how many of the moments that are chosen at random fall into it, against others


class Recording:
    """What they have in common. A subclass plays its part in play()."""

    size = 128 * MIB  # None: as large as the backings allow
    settings = {}
    pace = {}  # settings that recoveries go without

    def __init__(self, t, plan, scratch, seed, name):
        self.t = t
        self.plan = plan
        self.seed = seed
        self.cluster = Cluster(t, size=self.size, name=name, dead_after="1s", settings={**self.settings, **self.pace},
                               backings=self.backings(t, name))
        self.rec = recorded.Recorded(t, self.cluster, scratch)
        self.primary, self.secondary = self.cluster.nodes
        self.scribes = []
        self.phases = []
        self.lags = []  # [node, since when it need not get anything any more, until when]
        self.killed = False
        with self.phase("the pair is made"):
            self.begin()
        self.began = now()
        self.scribes = [self.scribe(i * APART, *share) for i, share in enumerate(SHARES)]
        self.play()
        self.ended = now()

    def backings(self, t, name):
        return None

    def begin(self):
        self.rec.from_create()

    @property
    def ledger(self):
        return Ledger(self.scribes)

    @property
    def former_size(self):
        """Where metadata and what is added to the volume begin."""
        return self.size

    @property
    def nodes(self):
        return self.cluster.nodes

    # --- what happens

    def scribe(self, start, length, block, most, **more):
        number = len(self.scribes)
        return Scribe(self.primary.uri, start, length, self.seed * 1000 + number, number=number, block_bytes=block,
                      blocks_max=most, read_percent=5, flush_percent=1, fua_percent=5, **more)

    @contextlib.contextmanager
    def phase(self, what, weight=1):
        began = now()
        yield
        self.phases.append(Phase(what, began, now(), weight))

    def load_for(self, seconds):
        """All scribes at work, for so long and some hundred requests at least."""
        for s in self.scribes:
            if not s.alive():
                if s.thread.ident is not None:
                    s.reconnect(self.primary.uri)
                s.start()
        before = nbdio.total_ops(self.scribes)
        deadline = time.monotonic() + seconds
        wait_until("the load", lambda: time.monotonic() > deadline or self.bad(), seconds + 10)
        wait_until("some hundred requests", lambda: nbdio.total_ops(self.scribes) > before + 300 or self.bad(), WAIT_S)
        if self.bad():
            raise Failure(f"a client saw an error: {self.bad()}")

    def bad(self):
        return [s.wrong or s.errors for s in self.scribes if s.wrong or s.errors]

    def load_ends(self):
        """By itself, as its server is gone; or as it is told to."""
        nbdio.stop(self.scribes)

    def kill(self, node):
        """SIGKILL. What it has by now it has to keep; from now on changes may be acknowledged without it, where that is allowed."""
        self.killed = True
        if self.settings.get("when-alone") == "continue":
            self.leaves(node)
        node.sigkill()

    def leaves(self, node):
        if not self.lag(node, now()):
            self.lags.append([node, now(), None])

    def is_back(self, node):
        for lag in self.lags:
            if lag[0] is node and lag[2] is None:
                lag[2] = now()

    def lag(self, node, at_ns):
        """Since when `node` lacks what was acknowledged by `at_ns`; None: it has everything."""
        return next((since for n, since, until in self.lags
                     if n is node and since <= at_ns and (until is None or at_ns < until)), None)

    def when(self, at_ns):
        """For messages: the moment, and what happened then."""
        what = next((p for p in self.phases if p.began <= at_ns < p.ended), None)
        return f"{at_ns} ({f'{what.what}, after {(at_ns - what.began) / 1e9:.6f} s' if what else 'between phases'})"

    def protected_again(self, node):
        s = self.primary.wait("to be protected", lambda s: s["protected"], WAIT_S)
        self.is_back(node)
        self.t.check(s["peer"]["out_of_sync_bytes"] == 0 and not s["alone"] and not s["diskless"],
                     f"{node.name} has everything again", s)

    def goes_on_alone(self, what, seconds):
        """The secondary is killed."""
        with self.phase(what, 3):
            self.kill(self.secondary)
            self.primary.wait("to go on alone", lambda s: s["alone"], WAIT_S)
            self.load_for(seconds)

    def resync_is_seen(self, share=0.0):
        """The secondary's, when so much of it is done."""
        s = self.primary.wait(f"a resync that is at {share:.0%}", lambda s: s["peer"]["resync"] and s["peer"]["leg"] == "syncing" and
                              s["peer"]["resync"]["done_bytes"] >= share * s["peer"]["resync"]["total_bytes"], WAIT_S)
        r = s["peer"]["resync"]
        self.t.check(s["peer"]["out_of_sync_bytes"] > 0,
                     f"a resync is under way: {r['done_bytes'] // KIB} of {r['total_bytes'] // KIB} KiB", s)

    def ends_staggered(self):
        """One daemon is killed in the middle of the load, then the other."""
        first, second = random.Random(self.seed).sample(self.nodes, 2)
        with self.phase("one node is dead"):
            self.kill(first)
            run.stays("the other node goes on", lambda: second.running, 0.5)
            second.sigkill()
            self.load_ends()

    def ends_clean(self, why):
        """Both are stopped in order. Where no daemon was killed so far, the log tells all of the disk."""
        nbdio.stop(self.scribes)
        self.cluster.stop()
        if self.killed:
            return
        self.t.step(f"after a clean end{why}, the log replayed to its end is the disk, byte for byte")
        for n, r in zip(self.nodes, self.rec.replays("clean")):
            state = r.tell(f"at {r.state['events']}")
            self.t.check(state["at"] == state["events"] and state["overlaps"] == 0 and state["uncertain"] == 0,
                         f"{n.name}: {state['events']} events; everything was flushed in the end, and no two changes were in"
                         " flight to one place", state)
            p = proc.run(["cmp", r.work, n.backing], ok=None, timeout_s=60)
            self.t.check(p.returncode == 0, f"{n.name}: the replayed image is the backing", p.stdout + p.stderr)
            r.close()
            recorded.remove(r.work)

    # --- afterwards

    def it_happened(self, changes, replays):
        """Fails if the logs do not show what this recording is for. `changes(node, what)`: to the volume's blocks in the
        phases of that name."""

    def both_were_written(self, changes, *phases):
        for what in phases:
            counts = [changes(n, what) for n in self.nodes]
            self.t.check(min(counts) > 0, f"{what}: {' and '.join(map(str, counts))} changes reached the disks", counts)

    def one_was_written(self, changes, node, *phases):
        """And the other one was not. Its daemon's last requests may have ended after it was killed."""
        other = self.nodes[1 - self.nodes.index(node)]
        for what in phases:
            here, there = changes(node, what), changes(other, what)
            self.t.check(here > 100 + 10 * there, f"{what}: {here} changes on {node.name}'s disk, {there} on {other.name}'s")


class Protected(Recording):
    """Both have everything; a clean end, then one that is not."""

    size = 128 * MIB

    def play(self):
        self.t.step(f"{len(SHARES)} connections write to a volume of {self.size // MIB} MiB for {self.plan.load_s} s; both disks"
                    " are recorded")
        with self.phase("load", 4):
            self.load_for(self.plan.load_s)
        self.ends_clean("")
        self.t.step("load again, on the same volume; first one daemon is killed in the middle of it, then the other")
        self.cluster.start()
        self.cluster.promote(self.primary)
        with self.phase("load", 4):
            self.load_for(self.plan.load_s)
        self.ends_staggered()

    def it_happened(self, changes, replays):
        self.both_were_written(changes, "load")


class Alone(Recording):
    """The secondary is killed, the primary goes on alone; it is back, and resynced under load."""

    settings = {"when-alone": "continue"}
    pace = {"resync-rate": "2MiB"}

    def play(self):
        self.t.step("`when-alone: continue`: load; the secondary is killed, the primary goes on alone; it is back and resynced under"
                    " load; both are killed")
        with self.phase("load"):
            self.load_for(self.plan.phase_s)
        self.goes_on_alone("alone", self.plan.phase_s)
        with self.phase("resync", 3):
            self.rec.start_killed(self.secondary)
            self.resync_is_seen()
            self.protected_again(self.secondary)
        with self.phase("load again"):
            self.load_for(self.plan.phase_s)
        self.ends_staggered()

    def it_happened(self, changes, replays):
        self.both_were_written(changes, "load", "resync", "load again")
        self.one_was_written(changes, self.primary, "alone")


class Interrupted(Recording):
    """A resync whose target is killed in the middle, and then its source."""

    settings = {"when-alone": "continue"}
    pace = {"resync-rate": "8MiB"}
    bulk = (16 * MIB, 64 * KIB, 8)  # so that it takes some seconds

    def play(self):
        self.t.step("`when-alone: continue`: a resync under load, whose target is killed in the middle; then its source")
        self.scribes.append(self.scribe(len(SHARES) * APART - MIB - self.bulk[0], *self.bulk))
        with self.phase("load"):
            self.load_for(self.plan.phase_s)
        self.goes_on_alone("alone", self.plan.phase_s)
        with self.phase("first resync", 3):
            self.rec.start_killed(self.secondary)
            self.resync_is_seen(0.2)
        self.goes_on_alone("alone again", self.plan.phase_s / 2)
        with self.phase("second resync", 3):
            self.rec.start_killed(self.secondary)
            self.resync_is_seen(0.2)
        with self.phase("its source is dead", 2):
            self.primary.sigkill()
            self.load_ends()
            s = self.secondary.wait("the loss to be seen", lambda s: s["peer"]["link"] != "connected", WAIT_S)
            self.t.check(s["leg"] == "syncing", f"{self.secondary.name}'s leg is left half made", s)
            self.rec.start_killed(self.primary)
            self.primary.wait_ready(WAIT_S)
            self.cluster.promote(self.primary, protected=False)
        with self.phase("third resync", 3):
            self.load_for(0)
            self.protected_again(self.secondary)
        with self.phase("load again"):
            self.load_for(self.plan.phase_s)
        self.ends_staggered()

    def it_happened(self, changes, replays):
        self.both_were_written(changes, "load", "first resync", "second resync", "third resync", "load again")
        self.one_was_written(changes, self.primary, "alone", "alone again")


class SmallLog(Recording):
    """Writes all over a volume that is larger than its activity log: extents are given up, and pages of the bitmap written
    before that while the primary is alone."""

    slots = 64
    size = 2 * slots * EXTENT
    settings = {"when-alone": "continue", "activity-log": f"{slots * EXTENT // MIB}MiB"}
    share = (size // 4, 4096, 8)
    stride = MIB

    def play(self):
        self.t.step(f"an activity log of {self.slots} extents, and writes to {self.size // EXTENT}: protected, alone, and in a resync")
        for s in self.scribes:
            s.handle.shutdown()
        self.scribes = []
        for i in range(4):
            self.scribes.append(self.scribe(i * self.share[0], *self.share, stride_bytes=self.stride))
        with self.phase("load", 3):
            self.load_for(self.plan.phase_s)
        self.goes_on_alone("alone", self.plan.phase_s)
        with self.phase("resync", 3):
            self.rec.start_killed(self.secondary)
            self.protected_again(self.secondary)
        with self.phase("load again"):
            self.load_for(self.plan.phase_s)
        self.ends_staggered()

    def it_happened(self, changes, replays):
        self.both_were_written(changes, "load", "resync", "load again")
        self.one_was_written(changes, self.primary, "alone")
        for p in self.phases:
            if p.what in ("load", "alone"):
                extents = {offset // EXTENT for offset in self.ledger.written_between(p.began, p.ended)}
                self.t.check(len(extents) > self.slots, f"{p.what}: {len(extents)} extents were written to; some were given up", extents)
                # docs/METADATA.md, "Where it lies": the bitmap is the last MiB but one, as the dirty map is as large.
                end = os.stat(self.primary.backing).st_size
                pages = [ns for ns in replays[self.nodes.index(self.primary)].times(f"touched {end - 2 * MIB} {end - MIB}")
                         if p.began <= ns < p.ended]
                self.t.check(p.what == "load" or len(pages) > 2, f"{p.what}: {len(pages) // 2} pages of the bitmap were written", len(pages))


class Resized(Recording):
    """Both backings have grown, full of what was somebody else's; the volume grows under load."""

    size = None
    small = 96 * MIB + METADATA_BYTES
    large = small + 96 * MIB
    new_share = (2 * MIB, 4096, 8)

    def backings(self, t, name):
        paths = []
        for n in "ab":
            paths.append(t.dir / f"{name}-{n}.img")
            with open(paths[-1], "wb") as f:
                f.truncate(self.small)
        return paths

    def grow(self, node):
        with open(node.backing, "r+b") as f:
            f.seek(self.small)
            noise = os.urandom(MIB)
            for _ in range(self.small, self.large, MIB):
                f.write(noise)

    @property
    def former_size(self):
        return self.former

    def begin(self):
        self.rec.from_pair(self.grow)
        self.former = self.primary.status()["size_bytes"]

    def play(self):
        self.t.step(f"a volume of {self.former // MIB} MiB on backings that have grown: it is resized under load")
        with self.phase("load"):
            self.load_for(self.plan.phase_s)
        with self.phase("resize", 8):
            self.primary.cli("resize", self.cluster.volume, timeout_s=WAIT_S)
        self.resized = now()
        self.new_size = self.primary.status()["size_bytes"]
        self.t.check(self.new_size > self.former + METADATA_BYTES, f"it has {self.new_size // MIB} MiB", self.new_size)
        self.scribes.append(self.scribe(self.former // MIB * MIB + MIB, *self.new_share, grown=True))
        self.scribes.append(self.scribe(self.new_size // MIB * MIB - 4 * MIB, *self.new_share, grown=True))
        with self.phase("load again"):
            self.load_for(self.plan.phase_s)
        self.ends_clean(" of what has grown")
        self.cluster.start()
        self.cluster.promote(self.primary)
        with self.phase("load again"):
            self.load_for(self.plan.phase_s)
        self.ends_staggered()

    def grows_to_the_end(self, c, at_ns):
        """After a recovery: the size that clients may have seen, or another resize brings it there."""
        size = c.a.status()["size_bytes"]
        if size not in ((self.new_size,) if at_ns >= self.resized else (self.former, self.new_size)):
            raise Failure(f"the volume has {size} bytes after the cut at {at_ns}, resized at {self.resized}")
        if size != self.new_size:
            c.a.cli("resize", c.volume, timeout_s=WAIT_S)
        if (after := c.a.status()["size_bytes"]) != self.new_size:
            raise Failure(f"the volume has {after} bytes after another resize, should have {self.new_size}; cut at {at_ns}")

    def it_happened(self, changes, replays):
        self.both_were_written(changes, "load", "resize", "load again")
        for n, r in zip(self.nodes, replays):
            resize = next(p for p in self.phases if p.what == "resize")
            moved = [ns for ns in r.times(f"touched {self.new_size}") if ns < resize.ended]
            self.t.check(moved and moved[0] >= resize.began, f"{n.name}: the metadata came to its new place in the resize", moved[:1])


class Diskless(Recording):
    """The primary's leg fails, it goes on through its peer's; the service moves there, and the leg comes back."""

    settings = {"when-alone": "continue"}
    failing = 31 * MIB  # where its disk refuses writes, and nobody else writes

    def begin(self):
        self.rec.record(self.primary, error="EIO", **{"write-errors-per-million": 1000000, "error-offset": "31MiB",
                                                      "error-length": "64KiB"})
        super().begin()

    def play(self):
        self.t.step("the primary's leg fails under load, and it goes on through its peer's; the service moves to the peer, and the leg"
                    " comes back under load")
        with self.phase("load"):
            self.load_for(self.plan.phase_s)
        with self.phase("diskless", 4):
            h = nbdio.connect(self.primary.uri)
            self.leaves(self.primary)
            h.pwrite(b"\x5a" * 4096, self.failing)
            h.shutdown()
            s = self.primary.wait("to be diskless", lambda s: s["diskless"], WAIT_S)
            self.t.check(s["leg"] == "failed" and s["serving"], f"{self.primary.name}: {s['why_not']}", s)
        with self.phase("still diskless", 4):
            self.load_for(self.plan.phase_s)
        with self.phase("the service moves", 2):
            nbdio.stop(self.scribes)
            failed, self.primary = self.primary, self.secondary
            failed.cli("demote", self.cluster.volume)
            self.primary.cli("promote", self.cluster.volume)
            self.secondary = failed
            self.load_for(0)
        with self.phase("the leg comes back", 4):
            failed.stop()
            self.rec.record(failed)
            failed.start()
            self.load_for(0)
            self.protected_again(failed)
        with self.phase("load again"):
            self.load_for(self.plan.phase_s)
        self.ends_staggered()

    def it_happened(self, changes, replays):
        self.both_were_written(changes, "load", "the leg comes back", "load again")
        self.one_was_written(changes, self.primary, "still diskless")


KINDS = {"protected": Protected, "alone": Alone, "interrupted": Interrupted, "small-log": SmallLog, "resized": Resized,
         "diskless": Diskless}
