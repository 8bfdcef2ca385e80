"""Cold random writes: nearly each goes to an extent that is not in the activity log, so that a block of the log has to be
on disk before either leg is written. The log covers 1 GiB of a volume of 64 GiB, so that 1 in 64 writes meets a hot
extent, however long it goes on. Hot ones, on the same volume: all over 512 MiB. Both legs are sparse: the cold
writes also pay for their holes."""

import statistics

from . import load, lockstep, media, meter, subjects
from .processes import Failure

SIZE_BYTES = 64 << 30
SPARE_BYTES = 128 << 20
LOG = "1GiB"
HOT_BYTES = 512 << 20
CASE = next(c for c in load.CASES if c.name == "4k-qd32")
TIMING, TIMING_QUICK = load.Timing(ramp_s=1, run_s=3), load.Timing(ramp_s=0.5, run_s=1.5)
ROUNDS = 3
ORDER = ("hot", "cold", "cold", "hot")
RANGE_BYTES = {"hot": HOT_BYTES, "cold": SIZE_BYTES}
AT_LEAST = 0.7


def _round(context, timing, number, samples, say):
    legs = [context.medium.sparse_file(leg, SIZE_BYTES + SPARE_BYTES) for leg in ("a", "b")]
    volume = lockstep.Volume(context.workspace, context.build, legs, {"size": "64GiB", "activity-log": LOG})
    volume.open()
    running = subjects.Running(load.nbd_target(volume.nodes[0].socket_path, lockstep.VOLUME), volume.servers(), legs)
    load.fill(running.target, HOT_BYTES)
    for which in ORDER:
        cpu = meter.CpuMeter(running.servers)
        figures = load.run_case(running.target, RANGE_BYTES[which], CASE, timing)
        samples.append({"round": number, "which": which, "figures": figures, "cpu_percent": cpu.read()})
        say(f"cold {number + 1} {which}: {figures['iops']:,.0f} IOPS, p50 {figures['p50_ns'] / 1e3:,.0f} µs, "
            f"p99 {figures['p99_ns'] / 1e3:,.0f} µs")
    subjects.stop(context.workspace, running)
    if media.first_difference(*legs, HOT_BYTES, context.medium.direct) is not None:
        raise Failure("the legs differ: it did not mirror")


def measure(context, say):
    samples = []
    rounds = context.runs or ROUNDS
    for number in range(rounds):
        _round(context, TIMING_QUICK if context.quick else TIMING, number, samples, say)

    def of(which, figure, number=None):
        return statistics.median(s["figures"][figure] for s in samples
                                 if s["which"] == which and number in (None, s["round"]))

    rows = [["random writes, 4 KiB at queue depth 32", "IOPS", "p50", "p99"]]
    for which, words in (("hot", "hot: over 512 MiB"), ("cold", f"cold: over 64 GiB, {LOG} of it in the log")):
        rows.append([words, f"{of(which, 'iops'):,.0f}", f"{of(which, 'p50_ns') / 1e3:,.0f} µs",
                     f"{of(which, 'p99_ns') / 1e3:,.0f} µs"])
    ratio = statistics.median(of("cold", "iops", n) / of("hot", "iops", n) for n in range(rounds))
    return {"rows": rows, "figures": {"samples": samples},
            "ratios": [{"target": "cold / hot, mirrored, 4 KiB QD32 IOPS", "sense": "min", "bound": AT_LEAST,
                        "ratio": ratio}]}
