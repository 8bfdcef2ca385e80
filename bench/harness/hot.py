"""Two builds side by side: writes to hot extents, one leg and mirrored. Both builds' daemons run at once on files of
their own, and many short runs alternate between them in the order A B B A, so that whatever drifts, drifts for both. Each
round starts both anew and swaps their files. The CPUs are kept awake, and
everybody stays on one of them: whether two that wake each other share a CPU makes more difference than 2 %."""

import os
import statistics

from . import awake, load, lockstep, media, meter, subjects
from .processes import Failure

SIZE_BYTES = 512 << 20
CASES = [c for c in load.CASES if c.name in ("4k-qd1", "4k-qd32")]
# Short and many: what a busy host does to one of them lasts longer than a pair, and a median is as good as its count.
TIMING = load.Timing(ramp_s=0.05, run_s=0.2)
PAIRS = 25
ROUNDS, ROUNDS_QUICK = 3, 1
SLOWER_AT_MOST = 1.02
SHAPES = {"one leg": ("a",), "mirrored": ("a", "b")}
OTHER_FILE = {"a": "c", "b": "d"}


def _start(context, build, legs):
    volume = lockstep.Volume(context.workspace, build, [context.medium.file(leg) for leg in legs])
    volume.open()
    running = subjects.Running(load.nbd_target(volume.nodes[0].socket_path, lockstep.VOLUME), volume.servers(),
                               tuple(context.medium.file(leg) for leg in legs))
    load.fill(running.target, SIZE_BYTES)
    return running


def _pairs(running, case, first, loops):
    """Figures of each pair of runs, and of all of them the daemons' CPU time a write."""
    order = [("new", "old") if (pair + first) % 2 else ("old", "new") for pair in range(PAIRS)]
    all_of_it = meter.CpuMeter([server for each in running.values() for server in each.servers] + loops)
    meters = {which: meter.CpuMeter(each.servers) for which, each in running.items()}
    figures = load.alternate([running[which].target for pair in order for which in pair], SIZE_BYTES, case, TIMING)
    used = {which: each.read() for which, each in meters.items()}
    pairs = [dict(zip(pair, figures[2 * number:])) for number, pair in enumerate(order)]
    cpu = {}
    for which, u in used.items():
        writes = sum(pair[which]["iops"] for pair in pairs) * (TIMING.ramp_s + TIMING.run_s)
        cpu[which] = sum(u["servers"].values()) / 100 * u["seconds"] * 1e9 / writes
    return pairs, cpu, all_of_it.read()["others"]


def _stay(running, cpus):
    """fio on the first CPU, the primaries on the next one, their peers on the one after that; of two, on fio's."""
    for each in running.values():
        for number, server in enumerate(each.servers):
            for thread in os.listdir(f"/proc/{server.pid}/task"):
                os.sched_setaffinity(int(thread), {cpus[(number + 1) % len(cpus)]})
    os.sched_setaffinity(0, {cpus[0]})


def _round(context, number, shape, samples, blocks):
    own = SHAPES[shape]
    other = tuple(OTHER_FILE[leg] for leg in own)
    if number % 2:
        own, other = other, own
    running = {"new": _start(context, context.build, own), "old": _start(context, context.against, other)}
    cpus = sorted(os.sched_getaffinity(0))
    for case in CASES:
        with awake.cpus() as loops:
            _stay(running, cpus)
            pairs, cpu, others = _pairs(running, case, number, loops)
        os.sched_setaffinity(0, cpus)
        samples += [{"shape": shape, "case": case.name, "round": number, **pair} for pair in pairs]
        blocks.append({"shape": shape, "case": case.name, "round": number, "cpu_ns_per_write": cpu, "others_percent": others})
    for each in running.values():
        subjects.stop(context.workspace, each)
        if len(each.legs) == 2:
            offset = media.first_difference(*each.legs, SIZE_BYTES, context.medium.direct)
            if offset is not None:
                raise Failure(f"the legs differ near offset {offset}: it did not mirror")


def _ratios_of(samples, figure):
    return [s["new"][figure] / s["old"][figure] for s in samples]


def _row(shape, case, mine, blocks):
    latency = sorted(_ratios_of(mine, "median_ns"))
    quartiles = statistics.quantiles(latency, n=4) if len(latency) > 1 else [latency[0]] * 3
    cells = [f"{shape}, {case}"]
    for which in ("old", "new"):
        p50 = statistics.median(s[which]["median_ns"] for s in mine) / 1e3
        cpu = statistics.median(b["cpu_ns_per_write"][which] for b in blocks) / 1e3
        cells.append(f"p50 {p50:,.2f} µs, CPU {cpu:,.2f} µs")
    return cells + [f"{statistics.median(latency):.3f} ({quartiles[0]:.3f} … {quartiles[2]:.3f})",
                    f"{statistics.median(b['cpu_ns_per_write']['new'] / b['cpu_ns_per_write']['old'] for b in blocks):.3f}"]


def measure(context, say):
    why = subjects.is_missing(subjects.Lockstep(context.against), context.against)
    if why:
        raise Failure(f"--against: {why}")
    samples, blocks = [], []
    for number in range(context.runs or (ROUNDS_QUICK if context.quick else ROUNDS)):
        for shape in SHAPES:
            _round(context, number, shape, samples, blocks)
            latest = [s for s in samples if s["round"] == number and s["shape"] == shape]
            say(f"hot {number + 1} {shape}: new / old p50 " + ", ".join(
                f"{statistics.median(_ratios_of([s for s in latest if s['case'] == c.name], 'median_ns')):.3f} at {c.name}"
                for c in CASES))
    rows = [["hot extents", "the other build", "this build", "p50, new / old (quartiles)", "CPU of the daemons, new / old"]]
    ratios = []
    for shape in SHAPES:
        for case in CASES:
            mine = [s for s in samples if s["shape"] == shape and s["case"] == case.name]
            rows.append(_row(shape, case.name, mine, [b for b in blocks if b["shape"] == shape and b["case"] == case.name]))
            ratios.append({"target": f"hot writes, p50, new / old, {shape}, {case.name}", "sense": "max",
                           "bound": SLOWER_AT_MOST, "ratio": statistics.median(_ratios_of(mine, "median_ns"))})
    disturbed = statistics.median(b["others_percent"] for b in blocks)
    return {"rows": rows, "ratios": ratios, "figures": {"samples": samples, "blocks": blocks},
            "notes": [f"{len(samples) // len(SHAPES) // len(CASES)} pairs of runs of {TIMING.run_s:g} s a row; others used "
                      f"{disturbed:.0f} % of a CPU in the median"]}
