"""What crash recovery costs the writes before it, and how long it takes: four figures, each with its target."""

import argparse
import dataclasses
import json
import os
import sys
import time

from . import apart, cold, crash, hot, machine, media, network, report
from .compare import TOP
from .processes import Failure, Workspace

CASES = {"hot": hot, "cold": cold, "reconnect": apart, "crash": crash}


@dataclasses.dataclass
class Context:
    """What each case gets."""
    build: str
    against: str  # another build's directory, or None
    medium: media.Medium
    workspace: Workspace
    quick: bool
    runs: int
    written_bytes: int  # None: the case's own
    link_rates: list  # of `reconnect`, bits per second; None: as loopback is


def say(text):
    print(text, file=sys.stderr, flush=True)


def _arguments(argv):
    p = argparse.ArgumentParser(
        prog="bench/recovery",
        description="hot: the latency of writes to hot extents against another build's, side by side (needs --against). "
        "cold: random writes that have to go through the activity log, against hot ones. "
        "reconnect: how long until both legs are equal after the peer was away while much was written, over the loopback as "
        "it is (no target) and over one with the rate of a link between machines (see --link-rate). "
        "crash: the same after a crash of the primary with nothing different.")
    p.add_argument("--only", action="append", default=[], metavar="CASE[,CASE...]", help=f"of {', '.join(CASES)}")
    p.add_argument("--quick", action="store_true", help="shorter runs and smaller volumes: for a first look")
    p.add_argument("--runs", type=int, help="rounds of hot and cold (default: the case's own number)")
    p.add_argument("--written", type=int, metavar="GIB", help="reconnect: what is written while apart; crash: what is hot")
    p.add_argument("--link-rate", default=apart.LINK_RATES, metavar="RATE[,RATE...]",
                   help="reconnect: over a loopback that is shaped to it, or `none`: as it is "
                   f"(default {apart.LINK_RATES}; shaping needs root and the kernel's tbf)")
    p.add_argument("--build", default=os.path.join(TOP, "build"), metavar="DIR", help="where lockstepd was built")
    p.add_argument("--against", metavar="DIR", help="hot: where the other one was built")
    p.add_argument("--disk", metavar="DIR", help="measure in a directory on a disk, not in memory; targets are for memory")
    p.add_argument("--ram", default="/dev/shm", metavar="DIR", help="directory in memory (default /dev/shm)")
    p.add_argument("--json", metavar="PATH", help="all raw figures (default BUILD/bench/recovery.json)")
    p.add_argument("--check", action="store_true", help="exit 1 when a target was missed")
    a = p.parse_args(argv)
    if (a.runs is not None and a.runs < 1) or (a.written is not None and a.written < 1):
        p.error("--runs and --written are at least 1")
    wanted = [name for group in a.only for name in group.split(",")]
    for name in wanted:
        if name not in CASES:
            p.error(f"--only: there is no {name}; see --help")
    if "hot" in wanted and not a.against:
        p.error("hot compares two builds: --against DIR")
    try:
        a.link_rates = [network.parse_rate(text) for text in a.link_rate.split(",")]
    except ValueError as e:
        p.error(f"--link-rate: {e}")
    a.cases = [n for n in CASES if n in wanted] or [n for n in CASES if n != "hot" or a.against]
    a.json = a.json or os.path.join(a.build, "bench", "recovery.json")
    return a


def _bind(found, on_ram):
    """The ratios as report.py takes them."""
    for r in found:
        r["medium"] = "ram" if on_ram else "disk"
        r["binding"] = on_ram and r.get("judged", True)
        r["reached"] = r["ratio"] >= r["bound"] if r["sense"] == "min" else r["ratio"] <= r["bound"]
    return found


def main(argv=None):
    a = _arguments(argv)
    on_ram = not a.disk
    directory = a.ram if on_ram else a.disk
    started_s = time.monotonic()
    results, ratios, lines = {}, [], []
    try:
        os.makedirs(os.path.dirname(os.path.abspath(a.json)), exist_ok=True)
        os.makedirs(directory, exist_ok=True)
        facts = machine.facts(a.build, directory)
        if a.against:
            facts["against"] = machine.commit_of(a.against)
        with Workspace() as workspace:
            for name in a.cases:
                medium = media.Medium("ram" if on_ram else "disk", directory, workspace, hot.SIZE_BYTES)
                found = CASES[name].measure(Context(a.build, a.against, medium, workspace, a.quick, a.runs,
                                                    a.written and a.written << 30, a.link_rates), say)
                medium.release()
                results[name] = found["figures"]
                ratios += _bind(found["ratios"], on_ram)
                lines += [""] + report.table(found["rows"]) + found.get("notes", [])
    except Failure as e:
        say(f"bench/recovery: {e}")
        return 1
    document = {"version": 1, "machine": facts, "quick": a.quick, "seconds": round(time.monotonic() - started_s),
                "cases": results, "ratios": ratios}
    with open(a.json, "w") as f:
        json.dump(document, f, indent=1)
    print("\n".join(machine.describe(facts) + lines + [""] + report.ratios_table(ratios)))
    print(f"\nall figures: {a.json}")
    return 1 if a.check and report.missed(ratios) else 0
