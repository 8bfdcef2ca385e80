#!/usr/bin/python3
"""Power cuts: both nodes' disks are recorded under load, and looked at as they could be found after a cut at any moment.
Whatever was flushed is on each of them; whatever was answered is on the one that lost no power; daemons recover from
what is left."""

import collections
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import recorded
from ledger import Ledger, Scribe
from lib import nbdio, proc, run
from lib.cluster import KIB, MIB, Cluster
from lib.run import BUILD, Failure, wait_until

SIZE = 128 * MIB
SHARES = ((4 * MIB, 4096, 8), (4 * MIB, 4096, 32), (2 * MIB, 4096, 1), (256 * KIB, 512, 16))  # bytes, block, blocks at once
APART = 32 * MIB  # from one share to the next
LOST_BOTH, LOST_A, LOST_B = "both nodes lose power", "the primary loses power", "the secondary loses power"


class Plan:
    """How much of everything. Of each round: one recording, and its cuts."""

    def __init__(self, t):
        long = t.long
        self.rounds = t.rounds(1, 8)
        self.load_s = 3
        self.flush_cuts = 1_000_000 if long else 60  # most of them, each just before and just after it has completed
        self.metadata_cuts = 2000 if long else 150  # right after the submission or completion of such a write
        self.metadata_seeds = 32 if long else 8  # of each of these
        self.random_cuts = 400 if long else 60
        self.seeds = 2 if long else 1  # of a cut, beside the one at which nothing survives that need not
        self.recoveries = 25 if long else 6


def scratch_dir(t):
    """In memory where there is some: images are copied there and back."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    scratch = tempfile.TemporaryDirectory(prefix="lscuts-", dir=where)
    t.cleanup.callback(scratch.cleanup)
    return pathlib.Path(scratch.name)


def load(t, c, scribes, seconds):
    before = nbdio.total_ops(scribes)
    nbdio.start(scribes)
    deadline = time.monotonic() + seconds
    wait_until("the load", lambda: time.monotonic() > deadline or any(s.wrong or s.errors for s in scribes), seconds + 10)
    wait_until("some hundred requests", lambda: nbdio.total_ops(scribes) > before + 300, 60)
    bad = [s.wrong or s.errors for s in scribes if s.wrong or s.errors]
    if bad:
        raise Failure(f"a client saw an error: {bad}")


def record(t, plan, scratch, seed, name):
    """Load with a clean end, then load with a staggered one. Returns what was recorded, the ledger, and the moments."""
    rec = recorded.Recorded(t, SIZE, scratch, name)
    c = rec.cluster
    began = time.monotonic_ns()
    t.step(f"{len(SHARES)} connections write to a volume of {SIZE // MIB} MiB for {plan.load_s} s; both disks are recorded")
    scribes = [Scribe(c.a.uri, i * APART, share, seed * 1000 + i, number=i, block_bytes=block, blocks_max=most,
                      read_percent=5, flush_percent=1, fua_percent=5) for i, (share, block, most) in enumerate(SHARES)]
    load(t, c, scribes, plan.load_s)
    nbdio.stop(scribes)
    c.stop()
    clean = time.monotonic_ns()

    t.step("after a clean end, the log replayed to its end is the disk, byte for byte")
    for n, r in zip(c.nodes, rec.replays("clean")):
        state = r.tell(f"at {r.state['events']}")
        t.check(state["at"] == state["events"] and state["overlaps"] == 0 and state["uncertain"] == 0,
                f"{n.name}: {state['events']} events; everything was flushed in the end, and no two changes were in flight to"
                " one place", state)
        p = proc.run(["cmp", r.work, n.backing], ok=None, timeout_s=60)
        t.check(p.returncode == 0, f"{n.name}: the replayed image is the backing", p.stdout + p.stderr)
        r.close()
        recorded.remove(r.work)

    t.step("load again, on the same volume; first one daemon is killed in the middle of it, then the other")
    c.start()
    c.promote(c.a)
    for s in scribes:
        s.reconnect(c.a.uri)
    load(t, c, scribes, plan.load_s)
    first, second = random.Random(seed).sample(c.nodes, 2)
    killed = time.monotonic_ns()
    first.sigkill()
    run.stays("the other node goes on", lambda: second.running, 0.5)
    second.sigkill()
    nbdio.stop(scribes)
    ended = time.monotonic_ns()
    return rec, Ledger(scribes), began, clean, killed, ended


def moments(t, plan, rec, seed, began, clean, killed, ended):
    """When to cut: just before and just after flushes have completed; while metadata is written; and anywhere: some
    while nothing was promised yet, and some when one node was dead already."""
    rng = random.Random(seed)
    flushes = []
    metadata = []
    for n, r in zip(rec.cluster.nodes, rec.replays("times")):
        flushes += r.times("flushes")
        metadata += [(ns, n) for ns in r.times(f"touched {SIZE}")]
        first = r.state["first"]
        r.close()
        recorded.remove(r.work)
    flushes = [ns for ns in flushes if ns >= began]
    chosen = flushes if len(flushes) <= plan.flush_cuts else rng.sample(flushes, plan.flush_cuts)
    at = [ns + d for ns in chosen for d in (-1, 0)]
    few = max(plan.random_cuts // 12, 1)
    at += [rng.randrange(first, began) for _ in range(few)]
    at += [rng.randrange(killed, ended) for _ in range(few)]
    at += [rng.randrange(began, killed) for _ in range(plan.random_cuts - 2 * few)]
    touched = metadata if len(metadata) <= plan.metadata_cuts else rng.sample(metadata, plan.metadata_cuts)
    # Recoveries: a few from each phase.
    recover = [(rng.randrange(first, began), LOST_BOTH), (rng.randrange(clean, killed), LOST_A), (rng.randrange(killed, ended), LOST_BOTH)]
    while len(recover) < plan.recoveries:
        recover.append((rng.randrange(began, killed), rng.choice((LOST_BOTH, LOST_BOTH, LOST_A, LOST_B))))
    t.say(f"{len(flushes)} flushes completed, {len(metadata) // 2} metadata blocks written; {len(at)} cuts, {len(touched)} in"
          f" the middle of metadata, {len(recover)} recoveries")
    return sorted([(ns, None) for ns in at] + touched + recover, key=lambda moment: moment[0])


def any_seed(rng):
    """Of what survives; in half of them sectors are torn inside, too."""
    return f"{rng.randrange(1 << 32)}{rng.choice(('', 't'))}"


def look_at_cut(t, plan, rec, replays, ledger, at_ns, rng):
    """Both disks as they could be found, and each as it is when only its daemon dies. Returns how many sectors were torn inside."""
    inside = 0
    for n, r in zip(rec.cluster.nodes, replays):
        r.tell(f"time {at_ns}")
        if r.state["overlaps"]:
            raise Failure(f"{n.name}: two changes were in flight to one place by {at_ns}: {r.state}")
        for seed in ["none"] + [any_seed(rng) for _ in range(plan.seeds)]:
            inside += r.tell(f"look {seed}")["torn"]
            ledger.check(r.work, at_ns, True, f"{n.name}, power cut at {at_ns} with seed {seed}")
            check_metadata(r, f"{n.name}, power cut at {at_ns} with seed {seed}")
        r.tell("look all")
        ledger.check(r.work, at_ns, False, f"{n.name}, alive at {at_ns} when the other lost its power")
    return inside


def check_metadata(replay, whose):
    # Thousands of times: without what proc.run() puts around a program.
    p = subprocess.run([BUILD / "lockstep", "metadata", "dump", "--backing", replay.work], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=60, check=False)
    if p.returncode != 0:
        raise Failure(f"{whose}: the metadata cannot be used: {p.stderr.strip()}")


def look_at_metadata(plan, node, replay, at_ns, rng):
    """In the middle of a write of metadata: which sectors of it survive matters most."""
    replay.tell(f"time {at_ns}")
    for _ in range(plan.metadata_seeds):
        seed = any_seed(rng)
        replay.tell(f"look {seed}")
        check_metadata(replay, f"{node.name}, power cut at {at_ns} with seed {seed}")


def recover(t, rec, replays, ledger, at_ns, what, rng, number):
    """Daemons on what is left. They become a protected volume."""
    lost = {LOST_BOTH: (True, True), LOST_A: (True, False), LOST_B: (False, True)}[what]
    images = []
    for n, r, lost_power in zip(rec.cluster.nodes, replays, lost):
        images.append(rec.scratch / f"{n.name}.cut")
        r.tell(f"time {at_ns}")
        r.tell(f"cut {any_seed(rng) if lost_power else 'all'} {images[-1]}")
    c = Cluster(t, size=SIZE, name=f"recovery{number}", dead_after="1s", backings=images)
    for n, lost_power in zip(c.nodes, lost):
        recorded.with_test(n, recorded.BOOT_AFTER if lost_power else recorded.BOOT_RECORDED)
    c.write_config()
    c.start()
    for n in c.nodes:
        s = n.wait("the leg to be up, and the pair to be told whether it may go on",
                   lambda s: s["state"] in ("failed", "down", "not-created") or s["peer"]["link"] in ("connected", "refused"))
        if s["state"] != "up":
            raise Failure(f"{n.name} does not come up ({what} at {at_ns}): {s['why_not']}")
        if s["peer"]["link"] == "refused":
            raise Failure(f"refused ({what} at {at_ns}): {s['peer']['reason']}")
    whole_again(t, c, ledger, at_ns, lost)
    c.stop()
    for n, lost_power in zip(c.nodes, lost):
        ledger.check(n.backing, at_ns, lost_power, f"{n.name}, after its daemon's recovery ({what} at {at_ns})")
    p = proc.run(["cmp", "-n", SIZE, *images], ok=None, timeout_s=60)
    if p.returncode != 0:
        raise Failure(f"the legs differ after recovery ({what} at {at_ns}): {p.stdout}{p.stderr}")
    recorded.remove(c.dir, *images)


def whole_again(t, c, ledger, at_ns, lost):
    """In sync without anybody's help; what is served is what was promised, and it takes writes."""
    for n in c.nodes:
        n.wait("both legs to be up-to-date", lambda s: s["leg"] == "up-to-date" and s["peer"]["leg"] == "up-to-date"
               and not s["peer"]["out_of_sync_bytes"], 60)
    c.promote(c.a)
    h = nbdio.connect(c.a.uri)
    image = c.dir / "served"
    with open(image, "wb") as f:
        for offset in range(0, SIZE, MIB):
            f.write(h.pread(MIB, offset))
    # With one leg that lost no power, everything that was answered is there.
    ledger.check(image, at_ns, all(lost), f"served after the cut at {at_ns}")
    h.pwrite(b"\xa5" * 4096, SIZE - 4096)
    h.flush()
    h.shutdown()


def one_round(t, plan, scratch, seed, number):
    t.step(f"round {number}: two nodes on recorded disks, protected")
    rec, ledger, *times = record(t, plan, scratch, seed, f"recorded{number}")
    answered, certain = ledger.promised(times[-1])
    t.say(f"{sum(s.writes for s in ledger.scribes)} changes of {answered} blocks answered, {certain} of them flushed;"
          f" logs of {' and '.join(str(log.stat().st_size // MIB) for log in rec.logs)} MiB")
    t.check(answered > 2000 and 0 < certain < answered, "enough was promised to mean something", (answered, certain))

    t.step("cuts: what was flushed is on each disk, what was answered on the one that lost no power; daemons recover to a"
           " protected volume")
    rng = random.Random(seed)
    replays = rec.replays("cuts")
    cuts = torn = uncertain = inside = 0
    recovered = {}
    chosen = moments(t, plan, rec, seed, *times)
    told = time.monotonic()
    for done, (at_ns, what) in enumerate(chosen):
        if what is None:
            inside += look_at_cut(t, plan, rec, replays, ledger, at_ns, rng)
            cuts += 1
            uncertain = max(uncertain, *(r.state["sectors"] for r in replays))
        elif what in rec.cluster.nodes:
            look_at_metadata(plan, what, replays[rec.cluster.nodes.index(what)], at_ns, rng)
            torn += plan.metadata_seeds
        else:
            recover(t, rec, replays, ledger, at_ns, what, rng, f"{number}-{done}")
            recovered[what] = recovered.get(what, 0) + 1
        if time.monotonic() > told + run.TELL_EVERY_S:
            told = time.monotonic()
            t.say(f"... {done + 1} of {len(chosen)} moments")
    t.check(uncertain > 0, f"{cuts} cuts, each with {plan.seeds + 1} choices of what survives on each of both disks;"
            f" up to {uncertain} sectors were in doubt")
    t.check(inside > 0, f"{inside} sectors of data and metadata were torn inside")
    for what, count in sorted(recovered.items()):
        t.say(f"{count} x {what}: protected, legs equal")
    for r in replays:
        r.close()
    recorded.remove(rec.cluster.dir, *rec.bases, *(r.work for r in replays))
    return collections.Counter({"cuts": cuts, "disks looked at": cuts * 2 * (plan.seeds + 2), "torn writes of metadata": torn,
                                "recoveries": sum(recovered.values())})


def test(t):
    plan = Plan(t)
    scratch = scratch_dir(t)
    total = collections.Counter()
    for number in range(1, plan.rounds + 1):
        total += one_round(t, plan, scratch, t.seed + number, number)
        t.say(f"so far: {number} recordings; " + ", ".join(f"{count} {what}" for what, count in total.items()))


if __name__ == "__main__":
    run.main(test, limit_s=240, long_limit_s=3 * 3600)
