"""Two builds side by side: writes to hot extents, one leg and mirrored. Both builds' daemons run at once on files of
their own, and short runs alternate between them in the order A B B A, so that whatever drifts, drifts for both. Each
round starts both anew and swaps their files."""

import statistics

from . import load, lockstep, media, meter, subjects
from .processes import Failure

SIZE_BYTES = 512 << 20
CASES = [c for c in load.CASES if c.name in ("4k-qd1", "4k-qd32")]
TIMING = load.Timing(ramp_s=0.3, run_s=1.2)
PAIRS = 3
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


def _sample(running, case):
    cpu = meter.CpuMeter(running.servers)
    figures = load.run_case(running.target, SIZE_BYTES, case, TIMING)
    used = cpu.read()
    writes = figures["iops"] * (TIMING.ramp_s + TIMING.run_s)
    figures["cpu_ns_per_write"] = sum(used["servers"].values()) / 100 * used["seconds"] * 1e9 / writes
    figures["others_percent"] = used["others"]
    return figures


def _round(context, number, shape, samples):
    own = SHAPES[shape]
    other = tuple(OTHER_FILE[leg] for leg in own)
    if number % 2:
        own, other = other, own
    running = {"new": _start(context, context.build, own), "old": _start(context, context.against, other)}
    for case in CASES:
        for pair in range(PAIRS):
            order = ("new", "old") if (pair + number) % 2 else ("old", "new")
            found = {which: _sample(running[which], case) for which in order}
            samples.append({"shape": shape, "case": case.name, "round": number, **found})
    for each in running.values():
        subjects.stop(context.workspace, each)
        if len(each.legs) == 2:
            offset = media.first_difference(*each.legs, SIZE_BYTES, context.medium.direct)
            if offset is not None:
                raise Failure(f"the legs differ near offset {offset}: it did not mirror")


def _ratios_of(samples, figure):
    return [s["new"][figure] / s["old"][figure] for s in samples]


def _row(shape, case, mine):
    latency = sorted(_ratios_of(mine, "median_ns"))
    quartiles = statistics.quantiles(latency, n=4) if len(latency) > 1 else [latency[0]] * 3
    cells = [f"{shape}, {case}"]
    for which in ("old", "new"):
        p50 = statistics.median(s[which]["median_ns"] for s in mine) / 1e3
        cpu = statistics.median(s[which]["cpu_ns_per_write"] for s in mine) / 1e3
        cells.append(f"p50 {p50:,.2f} µs, CPU {cpu:,.2f} µs")
    return cells + [f"{statistics.median(latency):.3f} ({quartiles[0]:.3f} … {quartiles[2]:.3f})",
                    f"{statistics.median(_ratios_of(mine, 'cpu_ns_per_write')):.3f}"]


def measure(context, say):
    why = subjects.is_missing(subjects.Lockstep(context.against), context.against)
    if why:
        raise Failure(f"--against: {why}")
    samples = []
    for number in range(context.runs or (ROUNDS_QUICK if context.quick else ROUNDS)):
        for shape in SHAPES:
            _round(context, number, shape, samples)
            latest = [s for s in samples if s["round"] == number and s["shape"] == shape]
            say(f"hot {number + 1} {shape}: new / old p50 " + ", ".join(
                f"{statistics.median(_ratios_of([s for s in latest if s['case'] == c.name], 'median_ns')):.3f} at {c.name}"
                for c in CASES))
    rows = [["hot extents", "the other build", "this build", "p50, new / old (quartiles)", "CPU of the daemons, new / old"]]
    ratios = []
    for shape in SHAPES:
        for case in CASES:
            mine = [s for s in samples if s["shape"] == shape and s["case"] == case.name]
            rows.append(_row(shape, case.name, mine))
            ratios.append({"target": f"hot writes, p50, new / old, {shape}, {case.name}", "sense": "max",
                           "bound": SLOWER_AT_MOST, "ratio": statistics.median(_ratios_of(mine, "median_ns"))})
    disturbed = statistics.median(s[w]["others_percent"] for s in samples for w in ("new", "old"))
    return {"rows": rows, "ratios": ratios, "figures": {"samples": samples},
            "notes": [f"{len(samples) // len(SHAPES) // len(CASES)} pairs of runs of {TIMING.run_s:g} s a row; others used "
                      f"{disturbed:.0f} % of a CPU in the median"]}
