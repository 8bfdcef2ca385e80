"""Reconnect: the secondary is killed, the primary goes on alone and is written to at random; then the secondary is started
again. What counts is the time from the connection to `protected`, against what the link alone would take for the
bytes that differ. The link's rate is that of the production link between two processes, without engine and disk, with
frames as long as a resync's."""

import datetime
import json
import math
import os
import re
import statistics
import subprocess
import time

from . import load, lockstep, media
from .processes import Failure, end_with_parent

WRITTEN_BYTES, WRITTEN_BYTES_QUICK = 10 << 30, 1 << 30
VOLUME_PER_WRITTEN = 2
DIFFERING_SHARE = 1 - math.exp(-1 / VOLUME_PER_WRITTEN)  # of the volume, as some places are written twice
APART_S, APART_S_QUICK = 60, 5
SPARE_BYTES = 128 << 20
ROOM_SHARE = 0.8  # of what is free
CASE = next(c for c in load.CASES if c.name == "4k-qd32")
WINDOW_BYTES = 508 << 10  # SYNC_WINDOW_BYTES_MAX
LINK_FRAMES, LINK_DEPTH, LINK_RUNS = 8000, 8, 3
DISK_DEPTH, DISK_S = 128, 3  # what the disks give for the same pattern
SHARE_AT_LEAST = 0.5  # of the link, or of the slower disk
LINK_TIMES, EXTRA_S = 1.5, 1.0
PROTECTED_LIMIT_S = 600
POLL_S = 0.25
TOOK = re.compile(r"is up to date: (\d+) bytes were equal, (\d+) sent, (\d+) zeroed")


def link_rate(build):
    """Bytes per second, the median of a few."""
    found = []
    for _ in range(LINK_RUNS):
        done = subprocess.run([os.path.join(build, "lockstep-bench"), "link", "--json", f"--size={WINDOW_BYTES}",
                               f"--depth={LINK_DEPTH}", f"--count={LINK_FRAMES}"],
                              capture_output=True, text=True, timeout=120, preexec_fn=end_with_parent)
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


def _written(context, say):
    wanted = context.written_bytes or (WRITTEN_BYTES_QUICK if context.quick else WRITTEN_BYTES)
    both_legs = 2 * DIFFERING_SHARE * VOLUME_PER_WRITTEN  # what they take up in the end for each byte that is written
    room_gib = int(context.medium.free_bytes() * ROOM_SHARE / both_legs) >> 30
    if wanted >> 30 <= room_gib:
        return wanted
    say(f"reconnect: there is room to write {room_gib} GiB, not {wanted >> 30}")
    if room_gib < 1:
        raise Failure("reconnect: there is no room for 1 GiB on each leg")
    return room_gib << 30


def measure(context, say):
    written = _written(context, say)
    size = written * VOLUME_PER_WRITTEN
    legs = [context.medium.sparse_file(leg, size + SPARE_BYTES) for leg in ("a", "b")]
    volume = lockstep.Volume(context.workspace, context.build, legs,
                             {"size": f"{size >> 20}MiB", "when-alone": "continue"}, dead_after="500ms")
    volume.open()
    primary, secondary = volume.nodes
    volume.kill(secondary)
    began_s = time.monotonic()
    volume.wait(primary, "going on alone", lambda s: s["alone"])
    figures = load.write_bytes(load.nbd_target(primary.socket_path, lockstep.VOLUME), size, written, CASE, 600)
    say(f"reconnect: {written >> 20} MiB written alone at {figures['iops']:,.0f} IOPS")
    rates = [link_rate(context.build)]
    apart_s = APART_S_QUICK if context.quick else APART_S
    time.sleep(max(0, apart_s - (time.monotonic() - began_s)))  # not a synchronisation: that long they are apart
    differing = volume.status(primary)["peer"]["out_of_sync_bytes"]
    apart_s = time.monotonic() - began_s
    volume.start(secondary)
    started_s = time.monotonic()
    volume.wait(primary, "being protected", lambda s: s["protected"], PROTECTED_LIMIT_S, POLL_S)
    with_start_s = time.monotonic() - started_s
    took = resync_of(volume.events(primary))
    rates.append(link_rate(context.build))
    volume.stop()
    offset = media.first_difference(*legs, size, context.medium.direct)
    if offset is not None:
        raise Failure(f"the legs differ near offset {offset} after they were told to be protected")

    disks = load.scattered_rates(*legs, size, CASE.block_bytes, DISK_DEPTH, context.medium.direct, DISK_S)
    rate = statistics.median(rates)
    bound_s = LINK_TIMES * differing / rate + EXTRA_S
    say(f"reconnect: {differing >> 20} MiB differ, protected after {took['seconds']:.2f} s")
    rows = [["reconnect", ""],
            ["apart", f"{apart_s:.0f} s, {written / 2**30:.0f} GiB written in 4 KiB at random over {size / 2**30:.0f} GiB"],
            ["differing", f"{differing / 2**30:.2f} GiB; sent {took['sent_bytes'] / 2**30:.2f} GiB, "
                          f"found equal {took['equal_bytes'] / 2**30:.2f} GiB"],
            ["the link alone", f"{rate / 1e6:,.0f} MB/s ({min(rates) / 1e6:,.0f} … {max(rates) / 1e6:,.0f})"],
            ["the disks alone, 4 KiB at random, at once", f"read {disks[0] / 1e6:,.0f} MB/s, "
                                                          f"write {disks[1] / 1e6:,.0f} MB/s"],
            ["until protected", f"{took['seconds']:.2f} s, {differing / took['seconds'] / 1e6:,.0f} MB/s; "
                                f"{with_start_s:.2f} s from the start of the daemon"],
            ["bound", f"{LINK_TIMES:g} × differing / link + {EXTRA_S:g} s = {bound_s:.2f} s"]]
    return {"rows": rows,
            "figures": {"written_bytes": written, "size_bytes": size, "apart_s": apart_s, "differing_bytes": differing,
                        "link_bytes_per_s": rates, "disk_bytes_per_s": disks, "resync": took, "bound_s": bound_s,
                        "alone": figures},
            "ratios": [{"target": "time to protected / its bound", "sense": "max", "bound": 1,
                        "ratio": took["seconds"] / bound_s},
                       {"target": "resync / the slowest of link and disks, bytes/s", "sense": "min", "bound": SHARE_AT_LEAST,
                        "ratio": differing / took["seconds"] / min(rate, *disks)}]}
