"""The memory check: a daemon's resident size stays what it was when the volume was opened, whatever the load."""

import argparse
import json
import os
import subprocess
import sys
import time

from . import load, lockstep, machine, media
from .compare import TOP
from .processes import Failure, Workspace, end_with_parent

MOVE_BYTES_MAX = 1 << 20  # RSS under load against RSS after open
BOUND_BASE_BYTES = 64 << 20  # DESIGN.md: at most 64 MiB ...
BOUND_BYTES_PER_TIB = 40 << 20  # ... plus 40 MiB per TiB of volume
SLICE_S = 10  # each slice is a new fio: connections come and go
SAMPLE_S = 1


def bound_bytes(volume_bytes):
    return BOUND_BASE_BYTES + volume_bytes * BOUND_BYTES_PER_TIB // (1 << 40)


def _arguments(argv):
    p = argparse.ArgumentParser(
        prog="bench/memory", description="Loads a mirrored volume and watches the memory of both daemons. Exit 1 when "
        "one moves by more than 1 MiB from what it had after open, or exceeds its bound.")
    p.add_argument("--minutes", type=float, default=10, help="how long (default 10)")
    p.add_argument("--quick", action="store_true", help="30 seconds")
    p.add_argument("--size", type=int, default=1024, metavar="MIB", help="range that is loaded (default 1024 MiB)")
    p.add_argument("--build", default=os.path.join(TOP, "build"), metavar="DIR", help="where lockstepd was built")
    p.add_argument("--dir", default="/dev/shm", help="where the legs' files are made (default /dev/shm)")
    p.add_argument("--json", metavar="PATH", help="all samples")
    a = p.parse_args(argv)
    a.seconds = 30 if a.quick else a.minutes * 60
    if a.seconds < SLICE_S:
        p.error(f"--minutes: at least {SLICE_S} seconds")
    return a


class Watch:
    def __init__(self, servers):
        self._servers = servers
        self.after_open = {s.name: s.resident_bytes() for s in servers}
        self.samples = []

    def sample(self, at_s):
        self.samples.append({"at_s": round(at_s, 1), "servers": {s.name: s.resident_bytes() for s in self._servers}})

    def furthest(self, name):
        """The sample's sizes that are furthest from what the server had after open."""
        start = self.after_open[name]["total"]
        return max((s["servers"][name] for s in self.samples), key=lambda r: abs(r["total"] - start))


def _load_and_watch(watch, target, size_bytes, seconds):
    started_s = time.monotonic()
    while (left_s := seconds - (time.monotonic() - started_s)) >= 1:
        run_s = int(min(SLICE_S, left_s))
        fio = subprocess.Popen(load.mixed_command(target, size_bytes, run_s), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, preexec_fn=end_with_parent)
        deadline_s = time.monotonic() + run_s + 60
        try:
            while True:
                try:
                    output, errors = fio.communicate(timeout=SAMPLE_S)
                    break
                except subprocess.TimeoutExpired:
                    watch.sample(time.monotonic() - started_s)
                if time.monotonic() > deadline_s:
                    raise Failure("fio does not end: the daemon hangs")
        finally:
            if fio.poll() is None:
                fio.kill()
                fio.wait()
        if fio.returncode != 0:
            raise Failure(f"fio failed: {(errors or output).strip()[-500:]}")
        watch.sample(time.monotonic() - started_s)


def judge(after_open, furthest, bound):
    """The reasons why a server's memory is not as promised; none when it is."""
    why = []
    moved = furthest["total"] - after_open["total"]
    if abs(moved) > MOVE_BYTES_MAX:
        why.append(f"moved by {moved / 2**20:+.2f} MiB, allowed are {MOVE_BYTES_MAX / 2**20:.0f}")
    if max(furthest["total"], after_open["total"]) > bound:
        why.append(f"exceeds its bound of {bound / 2**20:.1f} MiB")
    return why


def _mib(sizes):
    return (f"{sizes['total'] / 2**20:.2f} MiB (anonymous {sizes['anon'] / 2**20:.2f}, "
            f"file {sizes['file'] / 2**20:.2f}, shared {sizes['shmem'] / 2**20:.2f})")


def _check(a, workspace):
    size_bytes = a.size << 20
    medium = media.Medium("memory", a.dir, workspace, size_bytes)
    volume = lockstep.Volume(workspace, a.build, [medium.file("a"), medium.file("b")])
    volume.open()
    watch = Watch(volume.servers())
    _load_and_watch(watch, load.nbd_target(volume.nodes[0].socket_path, lockstep.VOLUME), size_bytes, a.seconds)

    volume_bytes = volume.status(volume.nodes[0])["size_bytes"]
    bound = bound_bytes(volume_bytes)
    print(f"{a.seconds:.0f} s of mixed load, {len(watch.samples)} samples; bound for {volume_bytes / 2**30:.2f} GiB: "
          f"64 MiB + 40 MiB/TiB = {bound / 2**20:.1f} MiB")
    reasons = {}
    for name, after_open in watch.after_open.items():
        furthest = watch.furthest(name)
        reasons[name] = judge(after_open, furthest, bound)
        print(f"  {name}: after open {_mib(after_open)}; furthest from it {_mib(furthest)}: "
              f"{'; '.join(reasons[name]) or 'constant'}")
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"version": 1, "machine": machine.facts(a.build, a.dir), "seconds": a.seconds,
                       "bound_bytes": bound, "after_open": watch.after_open, "samples": watch.samples,
                       "reasons": reasons}, f, indent=1)
    for server in volume.servers():
        workspace.stop(server)
    return 1 if any(reasons.values()) else 0


def main(argv=None):
    a = _arguments(argv)
    try:
        with Workspace() as workspace:
            return _check(a, workspace)
    except Failure as e:
        print(f"bench/memory: {e}", file=sys.stderr)
        return 1
