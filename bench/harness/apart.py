"""Reconnect: the secondary is killed, the primary goes on alone and is written to at random; then the secondary is started
again. What counts is the time from the connection to `protected`, against what the link alone would take for the
bytes that differ. The link's rate is that of the production link between two processes, without engine and disk, with
frames as long as a resync's, over the same loopback: the target is judged on one with the rate of a link between
machines, as a loopback that is not shaped is as fast as memory. Both legs are written out before, as those of a volume
in use are."""

import datetime
import json
import os
import re
import statistics
import subprocess
import time

from . import load, lockstep, media, meter, network
from .processes import Failure, end_with_parent

WRITTEN_BYTES, WRITTEN_BYTES_QUICK = 10 << 30, 1 << 30
VOLUME_PER_WRITTEN_MAX = 2
WRITTEN_PER_VOLUME_MAX = 1.25  # 71 % of the blocks differ; with more of them hardly anything is scattered
APART_S, APART_S_QUICK = 60, 5  # the latter also for what is not judged
SPARE_BYTES = 128 << 20
ROOM_SHARE = 0.85  # of what is free, for both legs
LINK_RATES = "none,10Gbit"
JUDGED_BITS_PER_S_MAX = 10 * network.GBIT
CASE = next(c for c in load.CASES if c.name == "4k-qd32")
WINDOW_BYTES = 508 << 10  # SYNC_WINDOW_BYTES_MAX
LINK_FRAMES, LINK_DEPTH, LINK_RUNS = 4000, 8, 3  # 1.7 s each at 10 Gbit/s
DISK_DEPTH, DISK_S = 128, 3  # what the disks give for the same pattern
SHARE_AT_LEAST = 0.5  # of the link, or of the slower disk
LINK_TIMES, EXTRA_S = 1.5, 1.0
WRITE_LIMIT_S = PROTECTED_LIMIT_S = 600
BIT_BYTES = 4096  # of the bitmap
POLL_S = 0.25
TOOK = re.compile(r"is up to date: (\d+) bytes were equal, (\d+) sent, (\d+) zeroed")


def link_rate(build, loopback):
    """Bytes per second, the median of a few."""
    command = loopback.inside([os.path.join(build, "lockstep-bench"), "link", "--json", f"--size={WINDOW_BYTES}",
                               f"--depth={LINK_DEPTH}", f"--count={LINK_FRAMES}"])
    found = []
    for _ in range(LINK_RUNS):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=end_with_parent)
        if done.returncode != 0:
            raise Failure(f"lockstep-bench link: {done.stderr.strip()}")
        found.append(json.loads(done.stdout)["frames_per_s"] * WINDOW_BYTES)
    return statistics.median(found)


def _time_s(event):
    return datetime.datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()


def resync_of(events):
    """{"seconds", "equal_bytes", "sent_bytes", "zero_bytes"} of the last resync: from its connection until `protected`."""
    def last(topic, text):
        found = [e for e in events if e["topic"] == topic and e["text"].startswith(text)]
        if not found:
            raise Failure(f"no event of {topic}: {text}")
        return found[-1]

    up = last("link", "connected to")
    done = last("protected", "protected")
    took = [TOOK.search(e["text"]) for e in events if e["topic"] == "resync" and TOOK.search(e["text"])]
    if not took or _time_s(done) < _time_s(up):
        raise Failure("the events tell of no resync that ended")
    equal, sent, zeroes = (int(x) for x in took[-1].groups())
    return {"seconds": _time_s(done) - _time_s(up), "equal_bytes": equal, "sent_bytes": sent, "zero_bytes": zeroes}


def sizes(wanted_bytes, free_bytes):
    """(what is written, the volume it is written over): whole GiB, so that two legs that are written out fit."""
    room = int(free_bytes * ROOM_SHARE) // 2 - SPARE_BYTES
    size = min(wanted_bytes * VOLUME_PER_WRITTEN_MAX, room) >> 30 << 30
    if size < 1 << 30:
        raise Failure("reconnect: there is no room for 1 GiB on each leg")
    return min(wanted_bytes, int(size * WRITTEN_PER_VOLUME_MAX) >> 30 << 30), size


def _diverge(volume, size, written, least_s, meanwhile, say):
    """Kills the secondary and writes to the primary. Returns what fio says, for how long they were apart, and what differs."""
    primary, secondary = volume.nodes
    # What the secondary had not flushed when it went would be out of sync, too.
    load.fill(load.nbd_target(primary.socket_path, lockstep.VOLUME), size, WRITE_LIMIT_S, flush=True)
    volume.wait(primary, "being protected", lambda s: s["protected"], PROTECTED_LIMIT_S)
    volume.kill(secondary)
    began_s = time.monotonic()
    volume.wait(primary, "going on alone", lambda s: s["alone"])
    figures = load.write_bytes(load.nbd_target(primary.socket_path, lockstep.VOLUME), size, written, CASE, WRITE_LIMIT_S)
    say(f"reconnect: {written >> 20} MiB written alone at {figures['iops']:,.0f} IOPS")
    meanwhile()
    time.sleep(max(0, least_s - (time.monotonic() - began_s)))  # not a synchronisation: that long they are apart
    return figures, time.monotonic() - began_s, volume.status(primary)["peer"]["out_of_sync_bytes"]


def _resync(volume, differing):
    """Starts the secondary. Returns what its resync took, and of the machine until then."""
    primary, secondary = volume.nodes
    volume.start(secondary)
    cpu = meter.CpuMeter(volume.servers())
    volume.wait(primary, "being protected", lambda s: s["protected"], PROTECTED_LIMIT_S, POLL_S)
    took, used = resync_of(volume.events(primary)), cpu.read()
    took["with_start_s"] = used["seconds"]
    took["others_cpu_percent"] = used["others"]
    took["cpu_us_per_block"] = [used["servers"][s.name] / 100 * used["seconds"] * 1e6 / max(1, differing // BIT_BYTES)
                                for s in volume.servers()]
    return took


def _form(context, legs, written, size, rate, loopback, say):
    """One run over one loopback: its cells of the table, its figures, its ratios."""
    words = network.in_words(rate)
    judged = bool(rate) and rate <= JUDGED_BITS_PER_S_MAX
    volume = lockstep.Volume(context.workspace, context.build, legs, {"size": f"{size >> 20}MiB", "when-alone": "continue"},
                             dead_after="500ms", loopback=loopback)
    volume.open()
    rates = []
    figures, apart_s, differing = _diverge(volume, size, written,
                                           APART_S if judged and not context.quick else APART_S_QUICK,
                                           lambda: rates.append(link_rate(context.build, loopback)), say)
    took = _resync(volume, differing)
    rates.append(link_rate(context.build, loopback))
    volume.stop()
    offset = media.first_difference(*legs, size, context.medium.direct)
    if offset is not None:
        raise Failure(f"the legs differ near offset {offset} after they were told to be protected")

    disks = load.scattered_rates(*legs, size, CASE.block_bytes, DISK_DEPTH, context.medium.direct, DISK_S)
    link = statistics.median(rates)
    bound_s = LINK_TIMES * differing / link + EXTRA_S
    say(f"reconnect, {words}: {differing >> 20} MiB differ, protected after {took['seconds']:.2f} s")
    source_us, target_us = took["cpu_us_per_block"]
    cells = [["reconnect", words],
             ["apart", f"{apart_s:.0f} s"],
             ["differing", f"{differing / 2**30:.2f} GiB; sent {took['sent_bytes'] / 2**30:.2f}, "
                           f"equal {took['equal_bytes'] / 2**30:.2f}"],
             ["the link alone", f"{link / 1e6:,.0f} MB/s ({min(rates) / 1e6:,.0f} … {max(rates) / 1e6:,.0f})"],
             ["the disks alone, 4 KiB at random, at once", f"read {disks[0] / 1e6:,.0f}, write {disks[1] / 1e6:,.0f} MB/s"],
             ["until protected", f"{took['seconds']:.2f} s, {differing / took['seconds'] / 1e6:,.0f} MB/s"],
             ["... from the start of the daemon", f"{took['with_start_s']:.2f} s"],
             [f"bound: {LINK_TIMES:g} × differing / link + {EXTRA_S:g} s", f"{bound_s:.2f} s"],
             ["CPU time for each 4 KiB that differ", f"source {source_us:.1f} µs, target {target_us:.1f} µs"],
             ["others meanwhile", f"{took['others_cpu_percent']:.0f} % of a CPU"]]
    return {"cells": cells,
            "figures": {"link_bits_per_s": rate, "apart_s": apart_s, "differing_bytes": differing,
                        "link_bytes_per_s": rates, "disk_bytes_per_s": disks, "resync": took, "bound_s": bound_s,
                        "alone": figures},
            "ratios": [{"target": f"time to protected / its bound, {words}", "sense": "max", "bound": 1,
                        "ratio": took["seconds"] / bound_s, "judged": judged},
                       {"target": f"resync / the slowest of link and disks, bytes/s, {words}", "sense": "min",
                        "bound": SHARE_AT_LEAST, "ratio": differing / took["seconds"] / min(link, *disks)}]}


def measure(context, say):
    wanted = context.written_bytes or (WRITTEN_BYTES_QUICK if context.quick else WRITTEN_BYTES)
    written, size = sizes(wanted, context.medium.free_bytes())
    range_words = f"{written >> 30} GiB written in 4 KiB at random over {size >> 30} GiB that were written out before"
    say(f"reconnect: {range_words}" + (f"; there is no room for {wanted >> 30} GiB" if written < wanted else ""))
    legs = [context.medium.sparse_file(leg, size + SPARE_BYTES) for leg in ("a", "b")]
    forms, notes = [], [range_words]
    for rate in context.link_rates:
        try:
            loopback = network.Loopback(context.workspace, rate)
        except Failure as e:
            notes.append(f"skipped: {network.in_words(rate)}: {e}")
            say(f"reconnect: {notes[-1]}")
            continue
        forms.append(_form(context, legs, written, size, rate, loopback, say))
        loopback.close()
    if not forms:
        raise Failure("reconnect: nothing could be measured")
    rows = [[same[0][0]] + [words for _, words in same] for same in zip(*(f["cells"] for f in forms))]
    return {"rows": rows, "notes": notes,
            "figures": {"written_bytes": written, "size_bytes": size, "forms": [f["figures"] for f in forms],
                        "notes": notes},
            "ratios": [r for f in forms for r in f["ratios"]]}
