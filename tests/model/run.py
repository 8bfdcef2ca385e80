#!/usr/bin/python3
"""Checks the failover protocol (failover.pml, docs/FAILOVER.md) with SPIN: the protocol must hold, exhaustively within
its bounds, and each variant with one rule broken must fail. What it prints is the result, with its counts.

usage: run.py [--long] [--trail] [NAME...]

--long    larger bounds: exhaustive where memory allows, else as far as a bitstate search comes. Some hours.
--trail   of a case that fails: the steps that lead there
NAME      only these cases"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile

MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "failover.pml")
MEMORY_MIB = 2048
DEPTH = 2_000_000

# What an assertion of the model is called in its head and in the document.
PROPERTIES = [
    ("gone", "back-again"),
    ("too_late", "one-epoch"),
    ("flushed", "flushed"),
    ("mirrored", "flushed"),
    ("reg_set", "all-there"),
    ("counted_on", "no-going-back"),
]


class Case:
    def __init__(self, name, defines, what, broken=False, bitstate=False):
        self.name, self.defines, self.what, self.broken, self.bitstate = name, defines, what, broken, bitstate


def bounds(epochs, writes, crashes):
    return [f"EPOCHS={epochs}", f"WRITES={writes}", f"CRASHES={crashes}"]


SHORT = [
    Case("safety", bounds(5, 2, 1), "one epoch acknowledges; nothing acknowledged, read or flushed is lost"),
    Case("restored", bounds(4, 1, 1) + ["RESTARTS=1"], "the same, with a register that is started again, or from a backup"),
    Case("resync-in-set", bounds(4, 1, 2) + ["RESYNC_IN_SET"], "the same where a target stays in the set (no register in reach)"),
    Case("liveness", bounds(3, 1, 1) + ["LIVE"], "when the faults end there is service"),
]

LONG = [
    Case("safety-4-1-3", bounds(4, 1, 3), "as safety, more crashes"),
    Case("safety-5-2-2", bounds(5, 2, 2), "as safety, another crash"),
    Case("restored-4-1-2", bounds(4, 1, 2) + ["RESTARTS=1"], "as restored, another crash"),
    Case("liveness-3-1-2", bounds(3, 1, 2) + ["LIVE"], "as liveness, another crash"),
    Case("liveness-4-2-1", bounds(4, 2, 1) + ["LIVE"], "as liveness, another write, and another epoch"),
    Case("safety-7-3-3", bounds(7, 3, 3), "as safety, more of everything", bitstate=True),
    Case("restored-5-2-2", bounds(5, 2, 2) + ["RESTARTS=2"], "as restored, more of everything", bitstate=True),
    Case("liveness-5-2-2", bounds(5, 2, 2) + ["LIVE"], "as liveness, more of everything", bitstate=True),
]


def broken(name, what, epochs=4, writes=2, crashes=1, more=()):
    define = "BREAK_" + name.upper().replace("-", "_")
    return Case(name, bounds(epochs, writes, crashes) + [define, *more], what, broken=True)


BROKEN = [
    broken("ack-before-swap", "what the peer lacks is acknowledged while the swap is under way"),
    broken("promote-outside-set", "a node takes over that is not in the set"),
    broken("epoch-not-persisted", "a restarted node does not know the highest epoch it has seen"),
    broken("retry-without-tag", "a swap is taken for one's own because it names this node"),
    broken("retry-blind", "a retry does not find its own swap", more=["LIVE"]),
    broken("rejoin-early", "the peer is taken in before its resync is complete"),
    broken("rejoin-unknown", "alone, while the swap that takes the peer in may have been done"),
    broken("target-in-set", "a leg becomes a target before it has left the set"),
    broken("resume-without-swap", "a restarted primary goes on at the epoch that it had"),
    broken("switch-back-without-swap", "a switchover is given up without a swap"),
    broken("session-while-asking", "who has asked to take over goes on as secondary meanwhile"),
    broken("take-at-once", "a node takes over without waiting for silence"),
    broken("asking-not-persisted", "a restarted node does not know that it has asked to take over", crashes=2),
    broken("lease-by-hearing", "the lease counts from what was heard, not from what the peer has heard"),
    broken("read-without-lease", "a primary whose peer is in the set answers reads without a lease"),
    broken("rejoin-unstable", "the peer is taken in before its resync is on stable storage"),
    broken("out-unflushed", "the peer leaves the set before this leg is flushed"),
    broken("take-unflushed", "a node takes over before its leg is flushed"),
    broken("leg-out-undeclared", "a primary whose leg has failed acknowledges what its peer has, and its leg is still a member"),
    broken("taken-by-frame-only", "a node whose resync is complete does not look into the register", more=["LIVE"]),
    broken("sole-leg-waits", "a leg that lost power does not resume although it is the only one", more=["LIVE"]),
    broken("sole-member-confirms", "who alone is in the set of a restored register vouches for it without serving", writes=1, more=["RESTARTS=1"]),
    broken("old-register", "a register that is started from a backup goes on at once", writes=1, more=["RESTARTS=1"]),
]


class Result:
    """What pan said."""

    def __init__(self, text, seconds):
        def number(pattern):
            m = re.search(pattern, text)
            return int(float(m.group(1))) if m else 0

        self.text, self.seconds = text, seconds
        self.states = number(r"([\d.e+]+) states, stored")
        self.depth = number(r"depth reached (\d+)")
        self.errors = number(r"errors: (\d+)")
        m = re.search(r"pan:\d+: (.*?)(?: \(at depth (\d+)\))?$", text, re.M)
        self.said = m.group(1) if m else ""
        self.said_at = int(m.group(2)) if m and m.group(2) else self.depth
        self.whole = "Search not completed" not in text and "max search depth too small" not in text and \
            "memory" not in self.said and "errors:" in text
        m = re.search(r"^\s*([\d.]+)\s+total actual memory", text, re.M)
        self.mib = float(m.group(1)) if m else 0.0

    def property(self):
        for text, name in PROPERTIES:
            if "assertion violated" in self.said and text in self.said:
                return name
        if "acceptance cycle" in self.said:
            return "back-again"
        return self.said


def cpu_seconds():
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


def show_trail(case, where, defines):
    """The steps, each as the line of the model with which it begins, and what it changed."""
    done = subprocess.run(["spin", *defines, "-t", "-p", "-g", "-k", "failover.pml.trail", MODEL], cwd=where, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with open(MODEL, encoding="utf-8") as f:
        source = f.read().split("\n")
    state, changed, step = {}, {}, "the beginning"
    for line in done.stdout.split("\n") + ["end"]:
        value = re.match(r"\t\t(\S+) = (\S+)$", line)
        if value:
            if state.get(value.group(1), "0") != value.group(2):
                changed[value.group(1)] = value.group(2)
            state[value.group(1)] = value.group(2)
            continue
        m = re.match(r"\s*\d+:\s+proc\s+(\d+) \(([^:]*).*?\) \S+:(\d+) \(state \d+\)", line)
        begins = m and source[int(m.group(3)) - 1].lstrip().startswith(":: d_step")
        if not (begins or line == "end") or not (changed or begins):
            continue
        if changed or line == "end":
            print(f"{step}\n        " + ", ".join(f"{k} = {v}" for k, v in changed.items()))
        if begins:
            step = f"{m.group(2)} {int(m.group(1)) - 1}, line {m.group(3)}: {source[int(m.group(3)) - 1].strip()[12:112]}"
        changed = {}


def check(case, where, trail):
    defines = ["-D" + d for d in case.defines]
    subprocess.run(["spin", *defines, "-a", MODEL], cwd=where, check=True, stdout=subprocess.DEVNULL)
    lives = "LIVE" in case.defines
    options = ["-DNOREDUCE", f"-DMEMLIM={MEMORY_MIB}", "-DVECTORSZ=512"]
    if not lives:
        options.append("-DSAFETY")
    if trail and not lives:
        options.append("-DBFS")  # the shortest way
    else:
        options.append("-DBITSTATE" if case.bitstate else "-DCOLLAPSE")
    subprocess.run(["cc", "-O0" if case.broken else "-O1", "-w", *options, "-o", "pan", "pan.c"], cwd=where, check=True)
    before = cpu_seconds()
    # -E: nodes have no end states of their own; the model looks at where they come to rest itself. -a: no cycle in which
    # they do not, once there are no faults.
    command = ["./pan", "-E", f"-m{DEPTH}", *(["-a"] if lives else []),
               *(["-w33", "-k3"] if case.bitstate and not trail else ["-w24"])]
    done = subprocess.run(command, cwd=where, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    result = Result(done.stdout, cpu_seconds() - before)
    if trail and result.errors:
        show_trail(case, where, defines)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--trail", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    if not shutil.which("spin"):
        print("spin is not installed (Debian's package `spin`)")
        return 77
    cases = SHORT + (LONG if args.long else []) + BROKEN
    if args.names:
        unknown = set(args.names) - {c.name for c in SHORT + LONG + BROKEN}
        if unknown:
            parser.error(f"no such case: {', '.join(sorted(unknown))}")
        cases = [c for c in SHORT + LONG + BROKEN if c.name in args.names]
    failed = 0
    print(f"{'case':26} {'states':>11} {'depth':>8} {'MiB':>6} {'s':>6}  result")
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="lockstep-model-") as where:
            r = check(case, where, args.trail)
        if case.broken:
            ok = r.errors > 0 and r.property() != r.said
            words = f"{r.property()} fails, as it must: {case.what}" if ok else f"NOT FOUND: {case.what}"
        else:
            ok = r.errors == 0 and r.whole
            kind = "bitstate" if case.bitstate else "exhaustive"
            words = f"holds ({kind}): {case.what}" if ok else f"FAILS: {r.property() or 'not searched to the end'}"
        print(f"{case.name:26} {r.states:11,} {r.said_at if r.errors else r.depth:8,} {r.mib:6.0f} {r.seconds:6.1f}  {words}", flush=True)
        if not ok:
            failed += 1
            print(r.text)
    print(f"{len(cases) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
