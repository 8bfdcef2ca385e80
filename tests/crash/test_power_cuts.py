#!/usr/bin/python3
"""Power cuts: both nodes' disks are recorded under load, and looked at as they could be found after a cut at any moment.
Whatever was flushed is on each of them that has to have it; whatever was answered is on the one that lost no power; daemons
recover from what is left.

usage: test_power_cuts.py [RECORDING...]: one of each that is named, instead of all that the form has
"""

import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import recorded
from lib import nbdio, proc, run
from lib.cluster import MIB, Cluster
from lib.run import BUILD, Failure
from recordings import KINDS, WAIT_S, Resized

BLOCK = 4096
LOST = {"both nodes lose power": (True, True), "the first node loses power": (True, False), "the second node loses power": (False, True)}


class Plan:
    """How much of everything. `recordings`: their names; the rest is for each of them."""

    def __init__(self, t, names):
        long = t.long
        if names:
            self.recordings = names
        elif long:
            self.recordings = ["protected"] * t.rounds(8, 8) + [name for name in KINDS if name != "protected"]
        else:
            self.recordings = ["protected"] * t.rounds(1, 1) + ["alone"]
        self.load_s = 3 if long else 2
        self.phase_s = 1
        self.flush_cuts = 1_000_000 if long else 40  # most of them, each just before and just after it has completed
        self.metadata_cuts = 300 if long else 80  # right after the submission or completion of such a write
        self.metadata_seeds = 32 if long else 8  # of each of these
        self.random_cuts = 400 if long else 50
        self.seeds = 2 if long else 1  # of a cut, beside the one at which nothing survives that need not
        self.recoveries = 30 if long else 5


def scratch_dir(t):
    """In memory where there is some: images are copied there and back."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    scratch = tempfile.TemporaryDirectory(prefix="lscuts-", dir=where)
    t.cleanup.callback(scratch.cleanup)
    return pathlib.Path(scratch.name)


def spread(phases, count, rng):
    """So many moments, each phase with its share of them, and with one at least. Returns (when, in which phase)."""
    chosen = [p for p in phases for _ in range(p.weight)]
    some = list(phases) + [chosen[i * len(chosen) // max(count - len(phases), 1)] for i in range(count - len(phases))]
    return [(rng.randrange(p.began, p.ended), p) for p in some]


def moments(t, plan, recording):
    """When to cut: just before and just after flushes have completed; while metadata is written; and anywhere in each of the
    phases. The logs have to show that these came about."""
    rng = random.Random(recording.seed)
    nodes = recording.nodes
    replays = recording.rec.replays("times")
    touched = [r.times(f"touched 0 {recording.former_size}") for r in replays]

    def changes(node, what):
        return sum(p.began <= ns < p.ended for p in recording.phases if p.what == what for ns in touched[nodes.index(node)])
    recording.it_happened(changes, replays)
    recording.phases[0].began = max(r.state["first"] for r in replays)
    flushes = [ns for r in replays for ns in r.times("flushes") if ns >= recording.began]
    metadata = [(ns, n) for n, r in zip(nodes, replays) for ns in r.times(f"touched {recording.former_size}")]
    for r in replays:
        r.close()
        recorded.remove(r.work)
    chosen = flushes if len(flushes) <= plan.flush_cuts else rng.sample(flushes, plan.flush_cuts)
    at = [ns + d for ns in chosen for d in (-1, 0)] + [ns for ns, _ in spread(recording.phases, plan.random_cuts, rng)]
    torn = metadata if len(metadata) <= plan.metadata_cuts else rng.sample(metadata, plan.metadata_cuts)
    places = spread(recording.phases, plan.recoveries, rng)
    kinds = list(LOST)
    # The first of each phase: both.
    recover = [(ns, (kinds[0] if i < len(recording.phases) else rng.choice([*kinds, kinds[0]]), p)) for i, (ns, p) in enumerate(places)]
    t.say(f"{len(flushes)} flushes completed, {len(metadata) // 2} metadata blocks written; {len(at)} cuts, {len(torn)} in"
          f" the middle of metadata, {len(recover)} recoveries")
    return sorted([(ns, None) for ns in at] + torn + recover, key=lambda moment: moment[0])


def any_seed(rng):
    """Of what survives; in half of them sectors are torn inside, too."""
    return f"{rng.randrange(1 << 32)}{rng.choice(('', 't'))}"


def look_at_cut(plan, recording, replays, ledger, at_ns, rng):
    """Both disks as they could be found, and each as it is when only its daemon dies. Returns how many sectors were torn inside."""
    inside = 0
    for n, r in zip(recording.nodes, replays):
        since = recording.lag(n, at_ns)
        r.tell(f"time {at_ns}")
        if r.state["overlaps"]:
            raise Failure(f"{n.name}: two changes were in flight to one place by {at_ns}: {r.state}")
        for seed in ["none"] + [any_seed(rng) for _ in range(plan.seeds)]:
            inside += r.tell(f"look {seed}")["torn"]
            ledger.check(r.work, at_ns, True, f"{n.name}, power cut at {recording.when(at_ns)} with seed {seed}", since)
            check_metadata(r, f"{n.name}, power cut at {at_ns} with seed {seed}")
        r.tell("look all")
        ledger.check(r.work, at_ns, False, f"{n.name}, alive at {recording.when(at_ns)} when the other lost its power", since)
    return inside


def check_metadata(replay, whose):
    # Thousands of times: without what proc.run() puts around a program.
    p = subprocess.run([BUILD / "lockstep", "metadata", "dump", "--backing", replay.work], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=60 * run.PATIENCE, check=False)
    if p.returncode != 0:
        raise Failure(f"{whose}: the metadata cannot be used: {p.stderr.strip()}")


def look_at_metadata(plan, node, replay, at_ns, rng):
    """In the middle of a write of metadata: which sectors of it survive matters most."""
    replay.tell(f"time {at_ns}")
    for _ in range(plan.metadata_seeds):
        seed = any_seed(rng)
        replay.tell(f"look {seed}")
        check_metadata(replay, f"{node.name}, power cut at {at_ns} with seed {seed}")


def recover(t, recording, replays, ledger, at_ns, what, rng, name):
    """Daemons on what is left. They become a protected volume, with what was promised by then and equal legs, and nothing is
    on record as different."""
    lost = LOST[what]
    when = recording.when(at_ns)
    images = []
    for n, r, lost_power in zip(recording.nodes, replays, lost):
        images.append(recording.rec.scratch / f"{n.name}.cut")
        r.tell(f"time {at_ns}")
        r.tell(f"cut {any_seed(rng) if lost_power else 'all'} {images[-1]}")
    c = Cluster(t, size=recording.size, name=name, dead_after="1s", backings=images, settings=recording.settings)
    for n, lost_power in zip(c.nodes, lost):
        recorded.with_test(n, recorded.BOOT_AFTER if lost_power else recorded.BOOT_RECORDED)
    c.write_config()
    c.start()
    for n in c.nodes:
        s = n.wait("the leg to be up, and the pair to be told whether it may go on",
                   lambda s: s["state"] in ("failed", "down", "not-created") or s["peer"]["link"] in ("connected", "refused"))
        if s["state"] != "up":
            raise Failure(f"{n.name} does not come up ({what} at {when}): {s['why_not']}")
        if s["peer"]["link"] == "refused":
            raise Failure(f"refused ({what} at {when}): {s['peer']['reason']}")
    # Of those who have to have everything: if one lost no power, all that was answered is there.
    lost_power = all(was_lost for n, was_lost in zip(recording.nodes, lost) if recording.lag(n, at_ns) is None)
    size = whole_again(c, recording, ledger, at_ns, lost_power)
    c.stop()
    for n in c.nodes:
        ledger.check(n.backing, at_ns, lost_power, f"{n.name}, after its daemon's recovery ({what} at {when})")
        check_nothing_differs(n, f"{n.name}, after its daemon's recovery ({what} at {when})")
    p = proc.run(["cmp", "-n", size, *images], ok=None, timeout_s=60)
    if p.returncode != 0:
        raise Failure(f"the legs differ after recovery ({what} at {when}): {p.stdout}{p.stderr}")
    recorded.remove(c.dir, *images)


def check_nothing_differs(node, whose):
    p = proc.run([BUILD / "lockstep", "metadata", "dump", "--json", "--backing", node.backing], timeout_s=60)
    metadata = json.loads(p.stdout)
    if metadata["bitmap"]["dirty_bytes"] or metadata["superblock"]["full"]:
        raise Failure(f"{whose}: out of sync on record: {metadata['bitmap']}, full: {metadata['superblock']['full']}")


def whole_again(c, recording, ledger, at_ns, lost_power):
    """In sync without anybody's help; what is served is what was promised, and it takes writes. Returns its size."""
    for n in c.nodes:
        n.wait("both legs to be up-to-date", lambda s: s["leg"] == "up-to-date" and s["peer"]["leg"] == "up-to-date"
               and not s["peer"]["out_of_sync_bytes"], WAIT_S)
    c.promote(c.a)
    if isinstance(recording, Resized):
        recording.grows_to_the_end(c, at_ns)
    h = nbdio.connect(c.a.uri)
    image = c.dir / "served"
    with open(image, "wb") as f:
        f.truncate(h.get_size())
        for offset in range(0, h.get_size(), MIB):
            data = h.pread(min(MIB, h.get_size() - offset), offset)
            if any(data):
                os.pwrite(f.fileno(), data, offset)
    ledger.check(image, at_ns, lost_power, f"served after the cut at {recording.when(at_ns)}")
    size = h.get_size()
    h.pwrite(b"\xa5" * BLOCK, size // BLOCK * BLOCK - BLOCK)
    h.flush()
    h.shutdown()
    return size


def one_round(t, plan, scratch, seed, name, number):
    t.step(f"recording {number}, {name}: two nodes on recorded disks")
    recording = KINDS[name](t, plan, scratch, seed, f"recorded{number}")
    ledger = recording.ledger
    answered, certain = ledger.promised(recording.ended)
    t.say(f"{sum(s.writes for s in ledger.scribes)} changes of {answered} blocks answered, {certain} of them flushed;"
          f" logs of {' and '.join(str(log.stat().st_size // MIB) for log in recording.rec.logs)} MiB")
    t.check(answered > 2000 and 0 < certain < answered, "enough was promised to mean something", (answered, certain))

    t.step("cuts: what was flushed is on each disk, what was answered on the one that lost no power; daemons recover to a"
           " protected volume")
    rng = random.Random(seed)
    chosen = moments(t, plan, recording)
    replays = recording.rec.replays("cuts")
    cuts = torn = uncertain = inside = 0
    recovered = collections.Counter()
    told = time.monotonic()
    for done, (at_ns, what) in enumerate(chosen):
        if what is None:
            inside += look_at_cut(plan, recording, replays, ledger, at_ns, rng)
            cuts += 1
            uncertain = max(uncertain, *(r.state["sectors"] for r in replays))
        elif what in recording.nodes:
            look_at_metadata(plan, what, replays[recording.nodes.index(what)], at_ns, rng)
            torn += plan.metadata_seeds
        else:
            lost, phase = what
            recover(t, recording, replays, ledger, at_ns, lost, rng, f"recovery{number}-{done}")
            recovered[lost] += 1
            recovered["in: " + phase.what] += 1
        if time.monotonic() > told + run.TELL_EVERY_S:
            told = time.monotonic()
            t.say(f"... {done + 1} of {len(chosen)} moments")
    t.check(uncertain > 0, f"{cuts} cuts, each with {plan.seeds + 1} choices of what survives on each of both disks;"
            f" up to {uncertain} sectors were in doubt")
    t.check(inside > 0, f"{inside} sectors of data and metadata were torn inside")
    for what, count in sorted(recovered.items()):
        t.say(f"{count} x {what}: protected, legs equal, nothing out of sync")
    for r in replays:
        r.close()
    recording.rec.remove()
    recorded.remove(*(r.work for r in replays))
    return collections.Counter({"cuts": cuts, "disks looked at": cuts * 2 * (plan.seeds + 2), "torn writes of metadata": torn,
                                "recoveries": sum(recovered[what] for what in LOST)})


def test(t):
    names = sys.argv[1:]
    if unknown := [name for name in names if name not in KINDS]:
        raise Failure(f"no such recording: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    plan = Plan(t, names)
    scratch = scratch_dir(t)
    total = collections.Counter()
    for number, name in enumerate(plan.recordings, 1):
        total += one_round(t, plan, scratch, t.seed + number, name, number)
        t.say(f"so far: {number} recordings; " + ", ".join(f"{count} {what}" for what, count in total.items()))


if __name__ == "__main__":
    run.main(test, limit_s=360, long_limit_s=4 * 3600)
