"""Is what clients of one block were told explained by some order of its reads and writes, each at one moment between its
question and its answer?

Every write has a value of its own, so that a read names its write, and there is no search (Gibbons and Korach, "Testing
Shared Memories", 1997): a write and the reads of it must all lie together in that order. From the first of their ends to
the last of their beginnings the block has that value for certain: no two such times may overlap, and no other value may
have its only chance within one of them."""

import math

NEVER = math.inf  # the end of a write that failed or was not answered: it may count at any later time, or not at all


def explain(first, writes, reads):
    """None, or what is wrong. `first`: the value before all. writes: [(value, begin, end)]; reads: [(value, begin, end)]
    of those that were answered."""
    written = {first: (-NEVER, -NEVER)}
    for value, begin, end in writes:
        assert value not in written, "each value is written once"
        written[value] = (begin, end)
    groups = {value: [times] for value, times in written.items()}
    for value, begin, end in reads:
        if value not in written:
            return f"a read at {begin:.6f} returned {value}, which nobody wrote"
        if end < written[value][0]:
            return f"a read returned {value} at {end:.6f}, before it was written at {written[value][0]:.6f}"
        groups[value].append((begin, end))
    certain, chances = [], []
    for value, times in groups.items():
        first_end = min(end for _, end in times)
        last_begin = max(begin for begin, _ in times)
        if first_end == NEVER:
            continue  # nobody was told of it
        if first_end < last_begin:
            certain.append((first_end, last_begin, value))
        else:
            chances.append((last_begin, first_end, value))
    certain.sort()
    for (_, until, one), (since, _, other) in zip(certain, certain[1:]):
        if since < until:
            return f"the block had {other} at {since:.6f}, and {one} as late as {until:.6f}"
    for begin, end, value in chances:
        within = next(((a, b, v) for a, b, v in certain if a < begin and end < b), None)
        if within:
            return (f"{value}, of {begin:.6f} to {end:.6f}, came and went while the block had {within[2]}, from {within[0]:.6f}"
                    f" to {within[1]:.6f}")
    return None
