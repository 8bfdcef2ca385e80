"""What happens in a round of the torture run: drawn from the seed and the round's number, so that each can be had again by
itself. Nodes are named by what they are when the round begins."""

import random

# After a node was killed, stopped or cut off the other one acts within some 1.3 of dead-after: these are shorter and longer.
SHORT, LONG = (0.05, 0.9), (2.0, 3.0)  # times dead-after
LONG_PERCENT = 75
COMBINED_PERCENT, STORM_PERCENT = 25, 5  # rounds of two faults that overlap, or nearly; of more
STORM_MAX = 6
TELLING_PERCENT = 20  # of the cuts: who sends is told, as by a router, instead of silence

# name: (weight, what is cut). P, S, W: primary, secondary, witness; "P>S": what P sends to S.
CUTS = {
    "primary": (10, "P>S S>P P>W W>P"),
    "secondary": (6, "S>P P>S S>W W>S"),
    "link": (5, "P>S S>P"),
    "primary from witness": (1, "P>W W>P"),
    "secondary from witness": (1, "S>W W>S"),
    "witness": (1, "P>W W>P S>W W>S"),
    "all": (2, "P>S S>P P>W W>P S>W W>S"),
    "primary's sending": (3, "P>S P>W"),
    "primary's hearing": (3, "S>P W>P"),
    "secondary's sending": (2, "S>P S>W"),
    "secondary's hearing": (2, "P>S W>S"),
    "link, to the secondary": (2, "P>S"),
    "link, to the primary": (2, "S>P"),
    "primary to witness": (1, "P>W"),
    "witness to primary": (1, "W>P"),
    "secondary to witness": (1, "S>W"),
    "witness to secondary": (1, "W>S"),
    "link, and primary from witness": (1, "P>S S>P P>W"),
}
DELAYS = {
    "link": "P>S S>P",
    "to the secondary": "P>S",
    "to the primary": "S>P",
    "primary from witness": "P>W W>P",
    "everything": "P>S S>P P>W W>P S>W W>S",
}
DELAY_MS = (20, 900)

# (weight, what, to whom)
SINGLES = [
    (24, "kill", "primary"), (8, "kill", "secondary"), (2, "kill", "witness"), (3, "kill", "both"), (2, "kill", "all"),
    (6, "stop", "primary"), (5, "stop", "secondary"), (1, "stop", "witness"), (2, "stop", "both"),
    (2, "end", "primary"), (2, "end", "secondary"),
    (26, "cut", None), (2, "flap", None), (4, "delay", None), (12, "switchover", None),
    (1, "force", "secondary"),
]
PEOPLE = {"primary": "P", "secondary": "S", "witness": "W", "both": "PS", "all": "PSW"}
APPLICATIONS = {3: "postgres", 6: "fio"}  # by the round's number modulo 8


class Fault:
    def __init__(self, what, whom, at_s, for_s, **more):
        self.what, self.whom = what, whom
        self.at_s, self.for_s = at_s, for_s  # since the round began; how long
        self.lines = more.get("lines", "")  # what is cut or made long
        self.how = more.get("how", "blackhole")
        self.delay_ms = more.get("delay_ms", 0)
        self.rules, self.told = [], None  # what has to be undone: cuts; the process that was told to end

    @property
    def people(self):
        """Whose process it is done to."""
        return PEOPLE.get(self.whom, "") if self.what in ("kill", "stop", "end") else ""

    @property
    def name(self):
        return f"{self.what} {self.whom}"

    def __str__(self):
        how = " (told)" if self.how == "prohibit" and self.lines else ""
        delay = f" by {self.delay_ms} ms" if self.delay_ms else ""
        time = f", {self.for_s:.2f} s" if self.for_s else ""
        return f"{self.name}{delay}{how} at {self.at_s:.2f} s{time}"


class Round:
    def __init__(self, number, faults, application):
        self.number = number
        self.faults = faults
        self.application = application

    @property
    def single(self):
        """The only fault there is, or None."""
        return self.faults[0] if len(self.faults) == 1 else None

    def __str__(self):
        extra = f"; under {self.application}" if self.application else ""
        return " + ".join(map(str, self.faults)) + extra


def weighed(rng, table):
    return rng.choices(table, [row[0] for row in table])[0][1:]


def one(rng, dead_after_s, at_s, without=()):
    what, whom = weighed(rng, [row for row in SINGLES if row[1] not in without])
    for_s = dead_after_s * rng.uniform(*(LONG if rng.randrange(100) < LONG_PERCENT else SHORT))
    how = "prohibit" if rng.randrange(100) < TELLING_PERCENT else "blackhole"
    if what in ("cut", "flap"):
        whom, lines = weighed(rng, [(weight, name, lines) for name, (weight, lines) in CUTS.items()])
        return Fault(what, whom, at_s, for_s, lines=lines, how=how)
    if what == "delay":
        whom = rng.choice(sorted(DELAYS))
        return Fault(what, whom, at_s, for_s * 1.5, lines=DELAYS[whom], delay_ms=rng.randint(*DELAY_MS))
    if what == "switchover":
        return Fault(what, rng.choice(("told on the primary", "told on the secondary")), at_s, 0)
    if what == "force":
        return Fault(what, whom, at_s, rng.uniform(0.1, 2))
    return Fault(what, whom, at_s, for_s)


def how_many_more(rng, storms):
    roll = rng.randrange(100)
    if storms or roll >= 100 - STORM_PERCENT:
        return rng.randint(2, STORM_MAX - 1)
    return 1 if roll < COMBINED_PERCENT else 0


def draw(seed, number, dead_after_s, storms=False, without=()):
    """`storms`: nothing but rounds of many faults. `without`: faults that there are not."""
    rng = random.Random(f"{seed}/{number}")
    application = APPLICATIONS.get(number % 8)
    at_s = rng.uniform(0.3, 1.0)
    faults = [one(rng, dead_after_s, at_s, without)]
    if faults[0].what == "force":
        application = None  # it would lose what it was promised, by an operator's decision
    elif application != "postgres" or storms:
        more = how_many_more(rng, storms)
        for _ in range(more):
            # One delay at a time, and one switchover.
            without = ["force"] + [what for what in ("delay", "switchover") if any(f.what == what for f in faults)]
            at_s += rng.uniform(0, 1.5) * dead_after_s
            faults.append(one(rng, dead_after_s, at_s, without))
    return Round(number, faults, None if storms else application)
