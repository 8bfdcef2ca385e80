"""The comparison: in every round each subject is started, filled, loaded with each case and stopped, one after the
other; a figure is the median over the rounds, so that what drifts on the machine drifts for all."""

import argparse
import json
import os
import sys
import time

from . import floor, load, machine, media, meter, report, subjects
from .processes import Failure, Workspace

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

FULL = load.Timing(ramp_s=2, run_s=8)
QUICK = load.Timing(ramp_s=0.5, run_s=2)
FLOOR_TURNS = {FULL: 100_000, QUICK: 30_000}
MEDIA = ("ram", "disk")
DISTURBED_PERCENT = 10  # of one CPU, used by processes that have no part in the measurement


def _arguments(argv):
    names = [s.name for s in subjects.all_subjects("")] + ["floor"]
    p = argparse.ArgumentParser(
        prog="bench/compare", description="Compares Lockstep with nbdkit, qemu and the network's floor.",
        epilog=f"media: {', '.join(MEDIA)}; subjects: {', '.join(names)}; cases: {', '.join(report.case_names())}")
    p.add_argument("--quick", action="store_true",
                   help=f"{QUICK.run_s:g} s a case instead of {FULL.run_s:g} s: for a first look")
    p.add_argument("--only", action="append", default=[], metavar="NAME[,NAME...]",
                   help="only these media, subjects or cases")
    p.add_argument("--runs", type=int, default=3, help="rounds; a figure is their median (default 3)")
    p.add_argument("--size", type=int, default=1024, metavar="MIB", help="range that is written (default 1024 MiB)")
    p.add_argument("--build", default=os.path.join(TOP, "build"), metavar="DIR", help="where lockstepd was built")
    p.add_argument("--ram", default="/dev/shm", metavar="DIR", help="directory in memory (default /dev/shm)")
    p.add_argument("--disk", metavar="DIR", help="directory on the disk to measure (default BUILD/bench)")
    p.add_argument("--json", metavar="PATH", help="all raw figures, facts and ratios (default BUILD/bench/compare.json)")
    p.add_argument("--retries", type=int, default=0, metavar="N",
                   help=f"on a shared machine: measure a case up to N times more when others used over "
                   f"{DISTURBED_PERCENT} %% of a CPU meanwhile, and keep the least disturbed figure (default 0)")
    p.add_argument("--check", action="store_true", help="exit 1 when a target was missed or could not be computed")
    a = p.parse_args(argv)
    if a.runs < 1 or a.size < 64 or a.retries < 0:
        p.error("--runs is at least 1, --size at least 64, --retries at least 0")
    a.disk = a.disk or os.path.join(a.build, "bench")
    a.json = a.json or os.path.join(a.build, "bench", "compare.json")

    wanted = [name for group in a.only for name in group.split(",")]
    for name in wanted:
        if name not in (*MEDIA, *names, *report.case_names()):
            p.error(f"--only: there is no {name}; see --help")

    def chosen(all_names):
        return [n for n in all_names if n in wanted] or list(all_names)

    a.media, a.subjects, a.cases = chosen(MEDIA), chosen(names), chosen(report.case_names())
    return a


class Comparison:
    def __init__(self, arguments, workspace):
        self._a = arguments
        self._workspace = workspace
        self._timing = QUICK if arguments.quick else FULL
        self._size_bytes = arguments.size << 20
        self._cases = [c for c in load.CASES if c.name in arguments.cases]
        self._subjects = []
        self.left_out = {}
        self.samples = []
        for subject in subjects.all_subjects(arguments.build):
            if subject.name in arguments.subjects:
                why = subjects.is_missing(subject, arguments.build)
                if why:
                    self.left_out[subject.name] = why
                    _say(f"left out: {subject.name}: {why}")
                else:
                    self._subjects.append(subject)

    def run(self):
        for name in self._a.media:
            medium = media.Medium(name, self._a.ram if name == "ram" else self._a.disk, self._workspace,
                                  self._size_bytes)
            for number in range(1, self._a.runs + 1):
                if "floor" in self._a.subjects:
                    self._measure_floor(medium, number)
                for subject in self._subjects:
                    self._round(medium, subject, number)
            medium.release()

    def _least_disturbed(self, servers, measure):
        """(figures, CPU use) of the first undisturbed of up to 1 + retries measurements, else of the least disturbed."""
        best = None
        for _ in range(1 + self._a.retries):
            cpu = meter.CpuMeter(servers)
            figures = measure()
            found = (figures, cpu.read())
            if best is None or found[1]["others"] < best[1]["others"]:
                best = found
            if best[1]["others"] <= DISTURBED_PERCENT:
                break
        return best

    def _measure_floor(self, medium, number):
        figures, cpu = self._least_disturbed([], lambda: floor.measure(self._a.build, FLOOR_TURNS[self._timing]))
        self._add(medium, "floor", None, number, {k: v for k, v in figures.items() if k.endswith("_ns")}, cpu)
        _say(f"{medium.name} {number}/{self._a.runs} floor: R p50 {figures['p50_ns'] / 1e3:.1f} µs"
             f"{_disturbance(cpu)}")

    def _round(self, medium, subject, number):
        running = subject.start(self._workspace, medium)
        load.fill(running.target, self._size_bytes)
        for case in self._cases:
            figures, cpu = self._least_disturbed(
                running.servers, lambda c=case: load.run_case(running.target, self._size_bytes, c, self._timing))
            self._add(medium, subject.name, case.name, number, figures, cpu)
            _say(f"{medium.name} {number}/{self._a.runs} {subject.name} {case.name}: {figures['iops']:,.0f} IOPS, "
                 f"{figures['bytes_per_s'] / 1e6:,.0f} MB/s, p50 {figures['p50_ns'] / 1e3:,.1f} µs{_disturbance(cpu)}")
        subjects.stop(self._workspace, running)
        medium.drain()
        if running.legs:
            offset = media.first_difference(*running.legs, self._size_bytes, medium.direct)
            if offset is not None:
                raise Failure(f"{subject.name}: the legs differ near offset {offset}: it did not mirror, so its figures "
                              f"are worth nothing")

    def _add(self, medium, subject, case, number, figures, cpu):
        self.samples.append({"medium": medium.name, "subject": subject, "case": case, "run": number,
                             "figures": figures, "cpu_percent": cpu})

    def report(self, facts, seconds):
        mid = report.medians(self.samples)
        found = report.ratios(mid, self._a.media)
        text = report.text(machine.describe(facts), mid, self._a.media, subjects.all_subjects(self._a.build), self._cases,
                           found, self._a.runs, report.others(self.samples))
        document = {
            "version": 1, "machine": facts, "quick": self._a.quick, "runs": self._a.runs,
            "size_bytes": self._size_bytes, "ramp_s": self._timing.ramp_s, "run_s": self._timing.run_s,
            "seconds": round(seconds), "left_out": self.left_out, "samples": self.samples,
            "medians": [{"medium": m, "subject": s, "case": c, "figures": f} for (m, s, c), f in mid.items()],
            "ratios": found,
        }
        return text, document, found


def _disturbance(cpu):
    return f" (others used {cpu['others']:.0f} % of a CPU)" if cpu["others"] > DISTURBED_PERCENT else ""


def _say(text):
    print(text, file=sys.stderr, flush=True)


def main(argv=None):
    a = _arguments(argv)
    started_s = time.monotonic()
    try:
        os.makedirs(a.disk, exist_ok=True)
        os.makedirs(os.path.dirname(os.path.abspath(a.json)), exist_ok=True)
        facts = machine.facts(a.build, a.disk)
        with Workspace() as workspace:
            comparison = Comparison(a, workspace)
            comparison.run()
        text, document, found = comparison.report(facts, time.monotonic() - started_s)
    except Failure as e:
        _say(f"bench/compare: {e}")
        return 1
    with open(a.json, "w") as f:
        json.dump(document, f, indent=1)
    print(text)
    print(f"\nall figures: {a.json}")
    if a.check and (report.missed(found) or any(r["binding"] and r["ratio"] is None for r in found)):
        return 1
    return 0
