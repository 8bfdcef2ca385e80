"""Medians, ratios against the targets, and the tables for eyes."""

import statistics

from .load import CASES

# name, what it is in words, how it must compare ("min": at least), the bound, and the operands as (subject, case, figure).
# `base` is a list whose figures are added up; a figure of None is the floor's.
TARGETS = (
    ("one leg / nbdkit, 4 KiB QD1 IOPS", "min", 1.0,
     ("lockstep", "4k-qd1", "iops"), [("nbdkit", "4k-qd1", "iops")]),
    ("one leg / nbdkit, 4 KiB QD32 IOPS", "min", 1.0,
     ("lockstep", "4k-qd32", "iops"), [("nbdkit", "4k-qd32", "iops")]),
    ("mirrored / (one leg + R), 4 KiB QD1 p50", "max", 1.15,
     ("lockstep-mirror", "4k-qd1", "p50_ns"), [("lockstep", "4k-qd1", "p50_ns"), ("floor", None, "p50_ns")]),
    ("mirrored / qemu's mirror, 4 KiB QD32 IOPS", "min", 5.0,
     ("lockstep-mirror", "4k-qd32", "iops"), [("qemu-mirror", "4k-qd32", "iops")]),
    ("mirrored / nbdkit's one leg, 4 KiB QD32 IOPS", "min", 0.5,
     ("lockstep-mirror", "4k-qd32", "iops"), [("nbdkit", "4k-qd32", "iops")]),
    ("mirrored / qemu's mirror, 1 MiB QD8 bytes/s", "min", 2.0,
     ("lockstep-mirror", "1m-qd8", "bytes_per_s"), [("qemu-mirror", "1m-qd8", "bytes_per_s")]),
)

BINDING_MEDIUM = "ram"  # where the targets must be reached; on other media the ratios inform


def medians(samples):
    """{(medium, subject, case): {figure: median}} of the raw samples."""
    groups = {}
    for sample in samples:
        groups.setdefault((sample["medium"], sample["subject"], sample["case"]), []).append(sample["figures"])
    return {key: {name: statistics.median(f[name] for f in figures) for name in figures[0]}
            for key, figures in groups.items()}


def ratios(mid, media):
    """The targets' ratios by medium; `ratio` and `reached` are None where an operand was not measured."""
    found = []
    for medium in media:
        for words, sense, bound, (subject, case, figure), base in TARGETS:
            value = mid.get((medium, subject, case), {}).get(figure)
            parts = [mid.get((medium, s, c), {}).get(f) for s, c, f in base]
            ratio = None if value is None or None in parts else value / sum(parts)
            reached = None if ratio is None else (ratio >= bound if sense == "min" else ratio <= bound)
            found.append({"medium": medium, "target": words, "sense": sense, "bound": bound, "ratio": ratio,
                          "reached": reached, "binding": medium == BINDING_MEDIUM})
    return found


def missed(found):
    return [r for r in found if r["binding"] and r["reached"] is False]


def _cell(case, figures):
    if not figures:
        return "–"
    latency = f"p50 {figures['p50_ns'] / 1e3:,.0f} µs, p99 {figures['p99_ns'] / 1e3:,.0f}"
    if case.block_bytes >= 1 << 20:
        return f"{figures['bytes_per_s'] / 1e6:,.0f} MB/s, {latency}"
    return f"{figures['iops']:,.0f} IOPS, {latency}"


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def figures_table(mid, medium, subjects, cases):
    rows = [[medium] + [case.name for case in cases]]
    for subject in subjects:
        cells = [_cell(case, mid.get((medium, subject.name, case.name))) for case in cases]
        if any(cell != "–" for cell in cells):
            rows.append([subject.label] + cells)
    lines = table(rows)
    floor = mid.get((medium, "floor", None))
    if floor:
        lines.append(f"R, the floor (4 KiB out, 64 bytes back, TCP on loopback): p50 {floor['p50_ns'] / 1e3:.1f} µs, "
                     f"p99 {floor['p99_ns'] / 1e3:.1f} µs")
    return lines


def ratios_table(found):
    rows = [["ratio", "medium", "measured", "target", ""]]
    for r in found:
        if r["ratio"] is None:
            continue
        mark = ("reached" if r["reached"] else "MISSED") if r["binding"] else ""
        sign = "≥" if r["sense"] == "min" else "≤"
        digits = 3 if abs(r["bound"] - 1) < 0.1 else 2
        rows.append([r["target"], r["medium"], f"{r['ratio']:.{digits}f}", f"{sign} {r['bound']:g}", mark])
    return table(rows) if len(rows) > 1 else []


def others(samples):
    """{medium: (median, worst)} of the CPU that processes without a part in it used while a sample was taken."""
    by_medium = {}
    for sample in samples:
        by_medium.setdefault(sample["medium"], []).append(sample["cpu_percent"]["others"])
    return {medium: (statistics.median(values), max(values)) for medium, values in by_medium.items()}


def text(facts_lines, mid, media, subjects, cases, found, runs, disturbed):
    lines = list(facts_lines)
    lines.append(f"random writes, medians of {runs} alternated run{'s' if runs != 1 else ''}")
    for medium, (median, worst) in disturbed.items():
        lines.append(f"{medium}: others used {median:.0f} % of a CPU in the median, {worst:.0f} % at worst")
    for medium in media:
        lines += [""] + figures_table(mid, medium, subjects, cases)
    ratio_lines = ratios_table(found)
    if ratio_lines:
        lines += [""] + ratio_lines
    return "\n".join(lines)


def case_names():
    return [case.name for case in CASES]
