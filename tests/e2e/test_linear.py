#!/usr/bin/python3
"""What judges the torture run's clients: histories that are in order, and such as are not."""

import itertools
import random

from lib import linear, run
from lib.linear import NEVER


def by_search(first, writes, reads):
    """The same by trying every order: for small histories."""
    certain = [("w", *w) for w in writes if w[2] != NEVER]
    doubtful = [("w", *w) for w in writes if w[2] == NEVER]
    for count in range(len(doubtful) + 1):
        for some in itertools.combinations(doubtful, count):
            ops = certain + list(some) + [("r", *r) for r in reads]
            if place(first, ops):
                return True
    return False


def place(value, left):
    if not left:
        return True
    first_end = min(end for _, _, _, end in left)
    for op in left:
        kind, number, begin, _ = op
        if begin > first_end or (kind == "r" and number != value):
            continue
        if place(number if kind == "w" else value, [o for o in left if o is not op]):
            return True
    return False


def random_history(rng):
    writes, reads = [], []
    for value in range(1, rng.randint(2, 5)):
        begin = rng.random()
        writes.append((value, begin, NEVER if rng.random() < 0.2 else begin + rng.random() / 3))
    for _ in range(rng.randint(1, 4)):
        begin = rng.random()
        reads.append((rng.randrange(len(writes) + 1), begin, begin + rng.random() / 3))
    return 0, writes, reads


def test(t):
    t.step("cases with a name")
    old = [(1, 1.0, 2.0), (2, 3.0, 4.0)]
    t.check(linear.explain(0, old, [(2, 5.0, 6.0)]) is None, "the last write is read")
    t.check(linear.explain(0, old, [(1, 5.0, 6.0)]), "an older one is not")
    t.check(linear.explain(0, old, [(0, 5.0, 6.0)]), "nor what was before all")
    t.check(linear.explain(0, old, [(3, 5.0, 6.0)]), "nor what nobody wrote")
    t.check(linear.explain(0, old, [(1, 3.5, 6.0)]) is None, "while a write is under way both may be read")
    t.check(linear.explain(0, old, [(2, 3.1, 3.2), (1, 3.3, 3.4)]), "but not the new and then the old one")
    lost = [(1, 1.0, NEVER), (2, 3.0, 4.0)]
    t.check(linear.explain(0, lost, [(0, 2.0, 2.1), (1, 2.2, 2.3)]) is None, "a write without an answer may count later")
    t.check(linear.explain(0, lost, [(2, 5.0, 6.0)]) is None, "or never")
    t.check(linear.explain(0, lost, [(1, 2.2, 2.3), (0, 2.5, 2.6)]), "but what was seen is not taken back")
    t.check(linear.explain(0, [(1, 1.0, 2.0), (2, 2.5, 3.0)], [(1, 2.1, 2.2), (1, 3.5, 4.0)]),
            "a write that was acknowledged in between is not lost")

    t.step("against a search through all orders")
    rng = random.Random(t.seed)
    verdicts = [0, 0]
    for _ in range(5000):
        history = random_history(rng)
        fine = linear.explain(*history) is None
        if fine != by_search(*history):
            raise run.Failure(f"{history}: {linear.explain(*history) or 'in order'}; the search says otherwise")
        verdicts[fine] += 1
    t.check(min(verdicts) > 500, f"5000 histories, {verdicts[1]} of them in order: the same verdict")


if __name__ == "__main__":
    run.main(test, limit_s=60)
