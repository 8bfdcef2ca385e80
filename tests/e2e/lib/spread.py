"""Samples of one kind as a distribution, and what it must keep to."""

import math


def percentile(samples, percent):
    """The smallest sample that so many percent of them do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class Spread:
    def __init__(self, name, limit_s):
        self.name = name
        self.limit_s = limit_s  # for p99; None: none is promised
        self.samples = []  # (round, seconds)

    def add(self, number, seconds):
        self.samples.append((number, seconds))

    def summary(self):
        values = [s for _, s in self.samples]
        told = {"name": self.name, "count": len(values), "limit_p99_s": self.limit_s}
        if values:
            told |= {f"p{p}_s": round(percentile(values, p), 4) for p in (50, 90, 99)}
            told["max_s"] = round(max(values), 4)
            told["slowest_round"] = max(self.samples, key=lambda s: s[1])[0]
        return told

    def __str__(self):
        s = self.summary()
        if not s["count"]:
            return f"{self.name}: no round of this kind"
        limit = f" (p99 at most {self.limit_s:.2f} s)" if self.limit_s else ""
        return (f"{self.name}: {s['count']} times, p50 {s['p50_s']:.3f} s, p90 {s['p90_s']:.3f} s, p99 {s['p99_s']:.3f} s,"
                f" max {s['max_s']:.3f} s in round {s['slowest_round']}{limit}")

    def kept(self, grace_s=0):
        return self.summary()["p99_s"] <= self.limit_s + grace_s
