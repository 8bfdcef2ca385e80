#!/usr/bin/python3
"""Two nodes and a register (a witness, or an etcd of three members) on hosts of their own, under load all the time. In each round
something is killed, stopped, cut off or made slow, at random; then all is mended, and the volume has to be protected again without
anybody's help.

Whatever happens: what was acknowledged is there, on whichever node it is looked for; two nodes never serve at a time; in the
end both legs are equal. With `when-alone: suspend` nothing is acknowledged while a node is away. How long clients waited is told as
distributions.

    LOCKSTEP_SEED=N LOCKSTEP_ROUND=17 tests/e2e/run torture    # round 17 of that seed alone
    LOCKSTEP_REGISTER=etcd, LOCKSTEP_WHEN_ALONE=suspend        # instead of a witness, and of strict
    LOCKSTEP_DEAD_AFTER_MS=500                                 # shorter rounds
    LOCKSTEP_STORMS=1                                          # rounds of three to six faults only"""

import json
import os
import pathlib
import sys
import time

from lib import apps, clients, nbdio, proc, run, schedule
from lib.cluster import BUILD, DONE, MIB, REFUSED
from lib.etcd import Quorum
from lib.failover import Trio
from lib.net import Net
from lib.run import Failure, wait_until
from lib.spread import Spread
from lib.witness import Witness

# The volume's parts.
FOLLOWED_BYTES = 24 * MIB
FIO_AT, FIO_BYTES = 32 * MIB, 8 * MIB
PROBES_AT = 64 * MIB
DATABASE_AT, DATABASE_BYTES = 128 * MIB, 384 * MIB
VOLUME_BYTES = DATABASE_AT + DATABASE_BYTES

FOLLOWERS = 3
HEADWAY_OPS = 30
MENDED_S = 90 / run.PATIENCE  # until all is as it was; most of it is for a machine that has other things to do
VERIFY_EVERY = 25  # rounds
SHORT_ROUNDS, LONG_ROUNDS = 14, 500
SHORT_GRACE_S = 4.0  # the short form shares its machine
OTHERS_DEAD_AFTER_S = 1.0  # of the short form's rounds in another mode
REGISTERS, WHEN_ALONE = ("witness", "etcd"), ("strict", "suspend")
ASKED_FOR = ("REGISTER", "WHEN_ALONE", "ROUND", "ROUNDS", "STORMS")  # who says one of these wants just that
HISTORY_KEPT = 40
NO_SWITCHOVER = "not without a `witness`"  # what a daemon says that has none yet


class Mode:
    def __init__(self, register="witness", when_alone="strict"):
        if register not in REGISTERS or when_alone not in WHEN_ALONE:
            raise Failure(f"LOCKSTEP_REGISTER={register}, LOCKSTEP_WHEN_ALONE={when_alone}: there are {REGISTERS} and {WHEN_ALONE}")
        self.register, self.when_alone = register, when_alone
        self.suspends = when_alone == "suspend"
        # Where no primary goes on alone there are no two sides of which an operator could force one.
        self.without = ("force",) if self.suspends else ()

    @property
    def name(self):
        return "-".join(word for word, usual in ((self.register, "witness"), (self.when_alone, "strict")) if word != usual)

    @property
    def given(self):
        """To ask for it again."""
        return {"LOCKSTEP_REGISTER": self.register, "LOCKSTEP_WHEN_ALONE": self.when_alone}

    def draw(self, seed, number, dead_after_s, storms=False):
        return schedule.draw(seed, number, dead_after_s, storms, self.without)


class Absence:
    """When one of the two nodes could not have had a write: was dead, stood still, or did not hear the other one, or not the
    other one it. From after it began until before it ended."""

    def __init__(self):
        self.begun = {}  # whose, or which cut: since
        self.ended = []  # (since, until)

    def begin(self, what):
        self.begun.setdefault(what, time.monotonic())

    def end(self, what=None):
        """That one, or all."""
        until = time.monotonic()
        for key in [what] if what else list(self.begun):
            if key in self.begun:
                self.ended.append((self.begun.pop(key), until))

    def take(self):
        ended, self.ended = self.ended, []
        return ended


class Torture:
    def __init__(self, t, dead_after_s, mode):
        self.t = t
        self.dead_after_s = dead_after_s
        self.mode = mode
        self.net = Net(t)
        suffix = f"-{mode.name}" if mode.name else ""
        if mode.register == "etcd":
            self.witness = Quorum(t, self.net)
        else:
            self.witness = Witness(t, f"witness{suffix}", address=self.net.address("w"), prefix=self.net.hosts["w"].prefix).start()
        self.cluster = Trio(t, size=VOLUME_BYTES, dead_after=f"{int(dead_after_s * 1000)}ms", net=self.net, url=self.witness.url,
                            settings={"when-alone": mode.when_alone}, name=f"cluster{suffix}")
        self.absence = Absence()
        self.diary = open(t.dir / f"schedule{suffix}.log", "w", encoding="utf-8")
        t.cleanup.callback(self.diary.close)
        self.killed = set()  # whose end we know of
        self.moves = self.needless = 0
        self.switchovers = []
        self.spreads = {
            "kill": Spread(f"primary killed: until the first {self.sign} on the other node", dead_after_s + 1),
            "cut": Spread(f"primary's network cut: until the first {self.sign} on the other node", dead_after_s + 1),
            "lost": Spread("peer lost: from its return until the first write that had waited" if mode.suspends else
                           "peer lost: the longest wait of a write on the primary", None if mode.suspends else dead_after_s + 0.5),
            "switchover": Spread("switchover: the application's pause", 0.3),
            "mended": Spread("everything mended: until the volume is protected", None),
        }
        self.cluster.ready()
        self.service = clients.Service(self.cluster.nodes)
        self.followers = nbdio.start(clients.followers(self.service, FOLLOWED_BYTES, t.seed, FOLLOWERS))
        self.probes = clients.Probes(self.service, PROBES_AT, t.seed)
        self.database = apps.Database(t, self.service, DATABASE_AT, DATABASE_BYTES)
        self.fio = apps.Fio(t, self.service, FIO_AT, FIO_BYTES)
        self.epoch = self.decrees()[0]["epoch"]

    def note(self, text):
        now = time.time()
        self.diary.write(f"{time.strftime('%H:%M:%S', time.gmtime(now))}.{int(now * 1e6) % 1000000:06d}Z {text}\n")
        self.diary.flush()

    def decrees(self):
        """The newest first."""
        return self.witness.history(self.cluster.volume)

    # --- what is done to whom

    def process(self, letter):
        """P, S, W of this round."""
        return {"P": self.primary, "S": self.secondary, "W": self.witness}[letter]

    def lines(self, fault):
        host = {self.cluster.a: "a", self.cluster.b: "b", self.witness: "w"}
        return [tuple(host[self.process(letter)] for letter in line.split(">")) for line in fault.lines.split()]

    @property
    def sign(self):
        """What tells that a node serves, also one without its peer."""
        return "read" if self.mode.suspends else "write"

    def signs_of(self, node):
        return (self.probes.reads_of(node) if self.mode.suspends else self.probes.of(node)).acknowledged()

    def kill(self, letter):
        who = self.process(letter)
        self.killed.add(letter)
        self.absence.end(letter)
        if who.running:
            who.sigkill()
        if letter != "W":
            self.absence.begin(letter)

    def stand_still(self, letter):
        who = self.process(letter)
        who.pause()
        if letter != "W":
            proc.wait_stopped(who.daemon)
            self.absence.begin(letter)

    def bring_back(self, letter):
        who = self.process(letter)
        if not who.running:
            self.absence.end(letter)
            self.killed.discard(letter)
            if letter == "W":
                who.launch()
            else:
                who.start(wait=False)

    def begin(self, fault):
        self.note(f"begin {fault}")
        if fault.what in ("cut", "flap"):
            fault.rules = self.net.cut([(*line, fault.how) for line in self.lines(fault)])
            if any(self.net.address("w") not in rule.split() for rule in fault.rules):
                self.absence.begin(fault)
        elif fault.what == "delay":
            self.net.lengthen(self.lines(fault), fault.delay_ms)
        elif fault.what == "switchover":
            node = self.primary if "primary" in fault.whom else self.secondary
            self.switchovers.append(node.spawn_cli("switchover", self.cluster.volume))
        for letter in fault.people:
            who = self.process(letter)
            if fault.what == "kill":
                self.kill(letter)
            elif who.running and fault.what == "stop":
                self.stand_still(letter)
            elif who.running and fault.what == "end":
                self.absence.end(letter)
                fault.told = who.daemon
                who.daemon.terminate()
                self.killed.add(letter)

    def end(self, fault):
        self.note(f"end {fault.name}")
        if fault.what in ("cut", "flap"):
            self.absence.end(fault)
            self.net.heal(fault.rules)
        elif fault.what == "delay":
            self.net.shorten()
        for letter in fault.people:
            who = self.process(letter)
            if fault.what == "end" and who.running and who.daemon is fault.told:
                self.absence.end(letter)
                who.resume()
                proc.wait(who.daemon, 30, "after SIGTERM")
            if fault.what in ("kill", "end"):
                self.bring_back(letter)
            elif who.running:
                self.absence.end(letter)
                who.resume()

    def timeline(self, faults):
        """[(when, what to do, fault)]"""
        todo = []
        for f in faults:
            times = 3 if f.what == "flap" else 1
            for i in range(times):
                step = f.for_s / times
                todo.append((f.at_s + i * step, self.begin, f))
                if f.for_s:
                    todo.append((f.at_s + (i + 0.6 if times > 1 else 1) * step, self.end, f))
        return sorted(todo, key=lambda entry: entry[0])

    def mend(self):
        self.absence.end()
        self.net.heal()
        for letter in "PSW":
            who = self.process(letter)
            if who.running:
                who.resume()
            elif letter in self.killed:
                self.bring_back(letter)
            else:
                raise Failure(f"a daemon has ended by itself, {self.name_of(letter)}: {self.log_of(who)}")
        self.killed.clear()

    def name_of(self, letter):
        return f"the {self.mode.register}" if letter == "W" else self.process(letter).name

    @staticmethod
    def log_of(who):
        return " | ".join(who.log_text().splitlines()[-6:])

    # --- a round

    def run(self, r):
        self.note(f"round {r.number}: {r}")
        self.primary = self.service.at
        self.secondary = next(n for n in self.cluster.nodes if n is not self.primary)
        if self.mode.register == "etcd":
            self.witness.draw(self.t.seed, r.number)
        if r.faults[0].what == "force":
            self.split_brain(r.faults[0])
        else:
            self.suffer(r)

    def split_brain(self, f):
        """The primary goes on alone, is lost as well, and a person has the other node serve, which lacks what was written
        since. Then both are there, are refused, and he gives up what the first one has."""
        volume = self.cluster.volume
        self.probes.settle()
        clients.pause(self.followers, True)
        for c in self.followers:
            c.begin_to_lose()
        clients.pause(self.followers, False)
        self.kill("S")
        alone = self.primary.wait("to go on alone", lambda s: s["witness"]["in_sync"] == [self.primary.name], 60)
        nbdio.headway(self.followers, HEADWAY_OPS, what="writes on one leg")
        time.sleep(f.for_s)
        self.kill("P")
        self.bring_back("S")
        self.secondary.wait_ready()
        self.secondary.wait("to know of the register", lambda s: s["witness"]["state"] == "reachable", 30)
        p = self.secondary.cli("promote", volume, ok=None)
        if p.returncode != REFUSED:
            raise Failure(f"promotion of a leg that is not in the set: exit {p.returncode} {p.stderr}")
        p = self.secondary.cli("promote", volume, "--force")
        self.note(f"forced: {p.stdout.strip()} {p.stderr.strip()}")
        s = self.secondary.wait("to serve", lambda s: s["serving"], 30)
        self.t.check(s["epoch"] > alone["epoch"], f"{self.secondary.name} serves by force", s)
        wait_until("the service to move", lambda: self.service.at is self.secondary, 10)
        nbdio.headway(self.followers, HEADWAY_OPS, what="the clients to go on")
        clients.pause(self.followers, True)
        for c in self.followers:
            c.lost()
        clients.pause(self.followers, False)
        self.bring_back("P")
        self.primary.wait_ready()
        for n in self.cluster.nodes:
            n.wait("to tell of a split brain", lambda s: s["split_brain"], 30)
        p = self.primary.cli("resolve", volume, "--discard", "local", timeout_s=60)
        self.note(f"resolved: {p.stdout.strip()}")
        self.mend()
        self.wait_mended()
        nbdio.headway(self.followers, HEADWAY_OPS, what="the clients to go on")
        self.probes.begin_anew()
        clients.audit(self.followers)
        self.epoch = self.decrees()[0]["epoch"]
        self.moves += 1
        self.probes.go_on()

    def suffer(self, r):
        app = {"postgres": self.database, "fio": self.fio}.get(r.application)
        if app:
            app.start()
        errors = [len(f.seen_errors) for f in self.followers]
        began = time.monotonic()
        when = {}
        for at_s, do, fault in self.timeline(r.faults):
            self.sleep_until(began + at_s, app)
            if do == self.begin:
                when.setdefault(fault, time.monotonic())
            do(fault)
        self.let_it_show(r, when, app)
        self.note("mend")
        mended = time.monotonic()
        self.mend()
        self.wait_mended()
        self.spreads["mended"].add(r.number, time.monotonic() - mended)
        self.note(f"protected; {self.service.at.name} serves at epoch {self.service.epoch}")
        nbdio.headway(self.followers, HEADWAY_OPS, what="the clients to go on")
        clients.complain(self.followers)
        self.end_switchovers(r)
        if app is self.database:
            if app.moved() or not app.load.alive():
                app.fail_over()
            app.stop()
        elif app:
            app.finish()
        runs = self.probes.settle()
        clients.audit(self.followers)
        alone = self.absence.take()
        if self.mode.suspends:
            self.nothing_alone(alone)
        self.judge(r, runs, [f.seen_errors[n:] for f, n in zip(self.followers, errors)])
        if r.single:
            self.measure(r, when[r.single], alone)
        self.probes.go_on()

    def nothing_alone(self, absences):
        """`when-alone: suspend`: each acknowledged write is on two legs."""
        for n in self.cluster.nodes:
            for a in self.probes.of(n).acknowledged():
                for since, until in absences:
                    if since < a.begin and a.end < until:
                        raise Failure(f"{n.name} acknowledged a write of {a.begin:.4f} to {a.end:.4f}, while one of the two could not"
                                      f" have it: {since:.4f} to {until:.4f}")

    def sleep_until(self, then, app):
        while (left := then - time.monotonic()) > 0:
            self.move_along(app)
            time.sleep(min(left, 0.02))

    def move_along(self, app):
        """An application moves with its service; where it could not write yet, when all is mended."""
        if app is self.database and not self.mode.suspends and app.moved():
            app.fail_over()

    def let_it_show(self, r, when, app):
        """Where a single fault has to move the service, it is not mended before that, if the machine is slow."""
        f = r.single
        if f and self.must_move(f):
            since = when[f]
            wait_until(f"a {self.sign} on {self.secondary.name}", lambda: any(a.begin > since for a in self.signs_of(self.secondary)),
                       self.dead_after_s * 2 + 15)
        self.move_along(app)

    def must_move(self, f):
        return self.stays_away(f) and f.name in ("kill primary", "cut primary", "end primary")

    def stays_away(self, f):
        return f.for_s > 1.5 * self.dead_after_s

    def wait_mended(self):
        for who in self.cluster.nodes:
            if who.ready:
                who.wait_ready(30)
        wait_until(f"the {self.mode.register} to answer", self.witness.is_up, 30)
        states = []

        def mended():
            states[:] = [n.status() for n in self.cluster.nodes]
            # One that has restarted decides nothing before it has heard both: a node lost by then would be a second fault.
            return (self.witness.is_decided(self.cluster.volume) and
                    all(s and self.cluster.both_in_sync(s) for s in states) and
                    [s["serving"] for s in states].count(True) == 1 and
                    self.service.at is self.cluster.nodes[[s["serving"] for s in states].index(True)])
        wait_until("both legs in sync, and one node to serve", mended, MENDED_S, poll_s=0.05, describe=lambda: json.dumps(states))

    def end_switchovers(self, r):
        for p in self.switchovers:
            status = proc.wait(p, 60, "a switchover")
            self.note(f"switchover: exit {status}")
            if r.single and status != DONE:
                logs = [(n.dir / "cli.log") for n in self.cluster.nodes]
                texts = [l.read_text()[-300:] for l in logs if l.exists()]
                if any(NO_SWITCHOVER in text for text in texts):
                    self.t.skip_part("the daemon has no switchover yet")
                    continue
                raise Failure(f"switchover ended with {status}: {texts}")
        self.switchovers = []

    def judge(self, r, runs, errors):
        """Against what the register says of this round."""
        news = [d for d in reversed(self.decrees()) if d["epoch"] > self.epoch]
        terms = [self.primary.name]
        for d in news:
            if d["primary"] and d["primary"] != terms[-1]:
                terms.append(d["primary"])
        self.epoch = max([self.epoch] + [d["epoch"] for d in news])
        self.note("decrees: " + ", ".join(f"{d['epoch']} {d['cause']} {d['primary']}" for d in news) + f"; acknowledged on {runs}")
        left = iter(terms)
        if not all(node in left for node in runs):
            raise Failure(f"writes were acknowledged on {runs}, but the register made primary {terms}")
        self.moves += len(terms) - 1
        f = r.single
        if f and (self.peer_lost(f) or f.name in ("kill witness", "stop witness", "cut witness")):
            if len(terms) > 1 and not self.may_take_over(f):
                raise Failure(f"{f.name}: the service moved: {terms}")
            if any(errors) and len(terms) == 1:
                raise Failure(f"{f.name}: a client saw an error: {errors}")
        if f and f.name == "cut link":
            self.needless += len(terms) - 1

    def peer_lost(self, f):
        return f.name in ("kill secondary", "stop secondary", "cut secondary", "end secondary")

    def may_take_over(self, f):
        """A peer that was never out of the set has heard nothing for long enough, if it lives, when it is heard again itself."""
        return self.mode.suspends and f.name in ("stop secondary", "cut secondary")

    def measure(self, r, since, absences):
        f = r.single
        if self.must_move(f) and f.what in ("kill", "cut"):
            first = min(a.end for a in self.signs_of(self.secondary) if a.begin > since)
            self.spreads[f.what].add(r.number, first - since)
        elif self.mode.suspends and self.peer_lost(f) and self.stays_away(f):
            self.has_waited(r, absences)
        elif self.peer_lost(f) and f.what != "end" and self.stays_away(f):
            waits = [a.end - a.begin for a in self.probes.of(self.primary).acknowledged() if a.end > since]
            waits += [end - begin for s in self.followers for begin, end in s.slow if end > since]
            self.spreads["lost"].add(r.number, max(waits))
        elif f.what == "switchover" and self.service.at is not self.primary:
            ends = sorted(a.end for n in self.cluster.nodes for a in self.probes.of(n).acknowledged())
            self.spreads["switchover"].add(r.number, max(b - a for a, b in zip(ends, ends[1:]) if b > since))

    def has_waited(self, r, absences):
        """What the primary was asked while it was alone, it answers when its peer is back, if it still serves then."""
        if self.service.at is self.primary and absences:
            until = max(until for _, until in absences)
            waited = [a.end for a in self.probes.of(self.primary).acknowledged() if a.begin < until < a.end]
            if not waited:
                raise Failure(f"{r.single.name}: no write has waited for the peer until {until:.4f}")
            self.spreads["lost"].add(r.number, min(waited) - until)

    # --- the end

    def verify(self):
        p = self.service.at.cli("verify", self.cluster.volume, ok=None, timeout_s=120)
        self.t.check(p.returncode == DONE, "`lockstep verify` finds both legs equal", p.stdout + p.stderr)

    def finish(self, verify):
        clients.audit(self.followers)
        self.probes.stop()
        nbdio.stop(self.followers)
        if verify:
            self.verify()
        self.service.stop()
        primary = self.service.at
        primary.cli("down", self.cluster.volume)
        self.cluster.stop()
        nbdio.verify_legs(self.cluster, self.followers, "at the end")
        self.witness.sigkill()

    def tell(self, rounds):
        self.t.say(f"{rounds} rounds{f' with {self.mode.name}' if self.mode.name else ''}; the service moved {self.moves} times, {self.needless} of them as only the line between the"
                   f" nodes was cut; {sum(f.writes for f in self.followers)} writes acknowledged")
        for s in self.spreads.values():
            self.t.say(str(s))
        report = {"seed": self.t.seed, "register": self.mode.register, "when_alone": self.mode.when_alone, "rounds": rounds,
                  "dead_after_s": self.dead_after_s, "moves": self.moves, "load_average": os.getloadavg()[0],
                  "spreads": [s.summary() for s in self.spreads.values()]}
        path = pathlib.Path(os.environ.get("LOCKSTEP_LOGS", BUILD)) / f"torture{self.mode.name and '-'}{self.mode.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
        self.t.say(f"in {path}")


def run_rounds(t, mode, dead_after_s, numbers, storms=False, verify=True):
    words = f"two nodes and {'an etcd of three members' if mode.register == 'etcd' else 'a witness'}, when-alone: {mode.when_alone}"
    t.step(f"{words}; protected; {len(numbers)} rounds of seed {t.seed}, dead-after {dead_after_s} s")
    x = Torture(t, dead_after_s, mode)
    done = 0
    for number in numbers:
        r = mode.draw(t.seed, number, dead_after_s, storms)
        t.step(f"round {number}: {r}")
        try:
            x.run(r)
        except BaseException:
            x.note("failed")
            try:
                (t.dir / "decrees.log").write_text(json.dumps(x.decrees()[:HISTORY_KEPT], indent=1))
            except Failure:
                pass
            given = {**mode.given, "LOCKSTEP_DEAD_AFTER_MS": int(dead_after_s * 1000), **({"LOCKSTEP_STORMS": 1} if storms else {}),
                     "LOCKSTEP_SEED": t.seed, "LOCKSTEP_ROUND": number}
            t.say(f"to replay: {' '.join(f'{name}={value}' for name, value in given.items())} tests/e2e/run torture")
            x.tell(done)
            raise
        done += 1
        if done % VERIFY_EVERY == 0:
            x.verify()
    t.step("the end")
    x.finish(verify)
    x.tell(done)
    for s in (s for s in x.spreads.values() if s.samples and s.limit_s):
        t.check(s.kept(0 if t.long else SHORT_GRACE_S), f"{s.name}: as promised", str(s))


def first_with(t, mode, dead_after_s, wanted):
    """The number of the seed's first round of such a fault alone, that lasts, and without an application."""
    for number in range(1, LONG_ROUNDS):
        r = mode.draw(t.seed, number, dead_after_s)
        if r.single and not r.application and r.single.name in wanted and r.single.for_s > 1.5 * dead_after_s:
            return number
    raise Failure(f"no round of {wanted} in {LONG_ROUNDS}")


def others(t):
    """The short form's few rounds of each other mode: one in which the peer is lost, and one in which the primary is."""
    for mode, faults in ((Mode(when_alone="suspend"), (("kill secondary",), ("kill primary", "cut primary"))),
                         (Mode(register="etcd"), (("kill primary", "cut primary"),))):
        numbers = [first_with(t, mode, OTHERS_DEAD_AFTER_S, wanted) for wanted in faults]
        try:
            run_rounds(t, mode, OTHERS_DEAD_AFTER_S, numbers, verify=False)  # the legs are compared anyway
        except run.Skip as reason:
            t.skip_part(f"{mode.name}: {reason}")


def test(t):
    mode = Mode(os.environ.get("LOCKSTEP_REGISTER", "witness"), os.environ.get("LOCKSTEP_WHEN_ALONE", "strict"))
    dead_after_s = int(os.environ.get("LOCKSTEP_DEAD_AFTER_MS", 2000)) / 1000
    only = os.environ.get("LOCKSTEP_ROUND")
    count = t.rounds(1 if only else SHORT_ROUNDS, 1 if only else LONG_ROUNDS)
    sys.setswitchinterval(0.0005)  # who measures must not wait for who loads
    run_rounds(t, mode, dead_after_s, [int(only)] * count if only else range(1, count + 1), "LOCKSTEP_STORMS" in os.environ)
    if not t.long and not any(f"LOCKSTEP_{name}" in os.environ for name in ASKED_FOR):
        others(t)


if __name__ == "__main__":
    run.main(test, limit_s=320, long_limit_s=5 * 3600)
