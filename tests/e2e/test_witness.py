#!/usr/bin/python3
"""A daemon that is a witness: what it has answered survives SIGKILL, what is restored is older, what is damaged does not
start; and what its operator can look at and decide."""

import os
import random
import shutil
import sqlite3
import threading

from lib import proc, run
from lib.cluster import BUILD, DONE, FAILED, MIB, NO_DAEMON, REFUSED, USAGE, Cluster
from lib.run import Failure, wait_until
from lib.witness import Node, Witness

KILLS, KILLS_LONG = 8, 200


def must(truth, otherwise):
    if not truth:
        raise Failure(otherwise)


def first(t, a, b, tag=70):
    a.ask()
    b.ask()
    outcome, epoch, got, reason = a.swap((0, 0), tag, cause="first")
    t.check((outcome, epoch, got) == ("done", 1, tag), f"{a.volume} has its first decree", f"{outcome}: {reason}")
    a.known = b.known = epoch
    return epoch, tag


def killed_at_any_moment(t, w):
    rng = random.Random(t.seed)
    kills = t.rounds(KILLS, KILLS_LONG)
    a, b = Node(w, "killed", "paris-a"), Node(w, "killed", "paris-b")
    standing = first(t, a, b)
    answered = finished = 0
    for _ in range(kills):
        killer = threading.Timer(rng.uniform(0.01, 0.3), w.process.kill)
        killer.start()
        asked = None
        try:
            while True:
                asked = rng.getrandbits(63) | 1
                outcome, epoch, tag, reason = a.swap(standing, asked)
                must(outcome == "done" and tag == asked, f"{outcome}: {reason}")
                standing = (epoch, tag)
                a.known = epoch
                answered += 1
        except OSError:
            pass
        killer.join()
        w.sigkill()
        w.start()
        outcome, epoch, tag, reason = a.ask()
        must(outcome == "unconfirmed" and (epoch, tag) in (standing, (standing[0] + 1, asked)),
                        f"after a kill {epoch} {tag:x} stands, answered was {standing}: {outcome} {reason}")
        finished += (epoch, tag) != standing
        # Nothing is decided before both nodes have told; the retry of what was carried out finds itself nonetheless.
        if (epoch, tag) != standing:
            retried = a.swap(standing, asked)
            must(retried[0] == "done", f"a retry: {retried}")
            standing = (epoch, tag)
            a.known = epoch
        outcome, *_, reason = a.swap(standing, 5)
        must(outcome == "unconfirmed" and "paris-b" in reason, f"{outcome}: {reason}")
        b.known = rng.choice([standing[0], standing[0] - 1])
        b.hang_up()
        b.ask()
    history = w.history("killed")
    t.check([d["epoch"] for d in history] == list(range(standing[0], 0, -1)),
            f"{kills} kills, {answered} decrees answered: all are there, {finished} more had been carried out unanswered",
            f"{len(history)} of {standing[0]} in the history")


def ages(t, w):
    t.step("the highest age that a node told of its leg survives SIGKILL at any moment")
    rng = random.Random(t.seed)
    kills = t.rounds(KILLS // 2, KILLS_LONG // 4)
    a, b = Node(w, "aged", "paris-a"), Node(w, "aged", "paris-b")
    first(t, a, b)
    b.age = 3
    b.ask()
    for _ in range(kills):
        killer = threading.Timer(rng.uniform(0.01, 0.2), w.process.kill)
        killer.start()
        answered = a.age
        try:
            while True:
                a.age += 1
                outcome, *_, reason = a.ask()
                must(outcome in ("stands", "unconfirmed") and a.remembered == answered, f"{outcome}: {reason}, {a.remembered} for {answered}")
                answered = a.age
        except OSError:
            pass
        killer.join()
        w.sigkill()
        w.start()
        told, a.age = a.age, 1  # its disk is put back from an old copy
        a.ask()
        must(a.remembered in (answered, told), f"{a.remembered} is remembered, {answered} was answered, {told} was told last")
        a.age = a.remembered
        b.hang_up()
        b.ask()
        must(b.remembered == 3, f"the other node's: {b.remembered}")
    shown = {x["node"]: x["age"] for x in w.status("aged")["leg_ages"]}
    t.check(shown == {"paris-a": a.age, "paris-b": 3}, f"{kills} kills, up to age {a.age}; status shows them", shown)

    t.step("a database of before there were ages is upgraded in place")
    w.stop()
    db = sqlite3.connect(w.state / "witness.db")
    db.executescript("DROP TABLE age; PRAGMA user_version=1;")
    db.close()
    w.start()
    a.hang_up()
    outcome, epoch, *_ = a.ask()
    t.check((outcome, epoch, a.remembered) == ("unconfirmed", 1, 0), "its decrees stand, and it has no ages", (outcome, epoch))
    a.ask()
    t.check(a.remembered == a.age, "until they are told", a.remembered)
    w.stop()
    w.start()
    a.hang_up()
    a.ask()
    t.check(a.remembered == a.age, "and they stay", a.remembered)
    w.lockstep("forget", "aged", "--force")
    t.check(w.status("aged")["leg_ages"] == [], "until the volume is forgotten")
    a.hang_up()
    b.hang_up()


def test(t):
    w = Witness(t).start()
    t.step("the suite of all registers, against this one")
    suite = BUILD / "tests" / "unit" / "test_witness"
    if suite.exists():
        p = proc.run([suite, w.url], ok=None, timeout_s=120)
        t.check(p.returncode == 0, "the suite passes", (p.stdout + p.stderr)[-1500:])
    else:
        t.skip_part(f"no {suite}")

    t.step("killed while it decides")
    killed_at_any_moment(t, w)

    ages(t, w)

    t.step("what an operator sees and decides")
    a, b = Node(w, "gold42", "paris-a"), Node(w, "gold42", "paris-b")
    standing = first(t, a, b)
    text = w.lockstep("status", "gold42").stdout
    t.check("epoch 1 (first)" in text and "primary paris-a; in sync: paris-a, paris-b" in text, "status tells the decree", text)
    w.stop()
    w.start()
    seen = w.status("gold42")
    t.check(not seen["confirmed"] and not seen["older"], "after a start it waits", seen)
    a.hang_up()
    t.check(a.swap(standing, 71, ("paris-a",), "out")[0] == "unconfirmed", "and decides nothing")
    t.check("paris-a" in w.lockstep("status", "gold42").stdout, "status tells whom it has heard")
    p = w.lockstep("confirm", "gold42")
    t.check("decides again" in p.stdout and w.status("gold42")["confirmed"], "until an operator says so", p.stdout)
    t.check(a.swap(standing, 71, ("paris-a",), "out")[:3] == ("done", 2, 71), "then it does")
    last = w.history("gold42")[0]
    t.check(last["cause"] == "out" and last["in_sync"] == ["paris-a"] and last["asked_by"] == "paris-a" and
            last["note"] == "by a test", "the history has who and why", last)
    events = proc.run([BUILD / "lockstep", "--control", w.control, "events", "gold42", "--no-follow"], ok=None)
    t.check(events.returncode == USAGE, "gold42 is no volume of this daemon's own", events.stderr)
    for words, code in ((("confirm", "silver1"), USAGE), (("history", "silver1"), USAGE), (("forget", "silver1"), USAGE),
                        (("status", "silver1"), USAGE), (("confirm",), USAGE), (("adore", "gold42"), USAGE)):
        p = w.lockstep(*words, ok=None)
        t.check(p.returncode == code and p.stderr, f"witness {' '.join(words)}: exit {code}", f"{p.returncode}: {p.stderr}")

    t.step("restored from a backup: older, and an operator cannot confirm it")
    w.stop()
    shutil.copy(w.state / "witness.db", w.dir / "saved")
    w.start()
    a.hang_up()
    b.hang_up()
    a.known = b.known = 2
    a.ask()
    b.ask()
    t.check(a.swap((2, 71), 72)[0] == "done", "a decree after the backup")
    a.known = 3
    w.stop()
    shutil.copy(w.dir / "saved", w.state / "witness.db")
    w.start()
    a.hang_up()
    b.hang_up()
    outcome, epoch, _, reason = a.ask()
    t.check(outcome == "older" and epoch == 2 and "adopt" in reason, reason, outcome)
    outcome, *_, reason = b.swap((2, 71), 99, ("paris-b",), "take")
    t.check(outcome == "unconfirmed" and "restored from a backup" in reason, reason, outcome)
    p = w.lockstep("confirm", "gold42", ok=None)
    t.check(p.returncode == REFUSED and "adopt" in p.stderr, p.stderr.strip(), p.returncode)
    t.check(w.status("gold42")["older"], "status says older")
    p = w.lockstep("forget", "gold42", ok=None)
    t.check(p.returncode == REFUSED and "heard here: paris-" in p.stderr and w.status("gold42")["decree"],
            "nor is it forgotten while its nodes are heard", f"{p.returncode}: {p.stderr}")
    p = w.lockstep("confirm", "gold42", "--force", ok=None)
    t.check(p.returncode == USAGE, "force is for forget only", p.stderr)
    w.lockstep("forget", "gold42", "--force")
    outcome, epoch, _, reason = a.ask()
    t.check(outcome == "older" and epoch == 0, f"forgotten, and the node knows: {reason}", outcome)

    t.step("a second one for the same directory")
    other = Witness(t, "other")
    other.config.write_text(f'witness: {{listen: "127.0.0.1:{other.port}", state: {w.state}, tls: none}}\n')
    p = proc.run(other.argv(), ok=None, timeout_s=20)
    t.check(p.returncode == FAILED and "another lockstepd is the witness of" in p.stderr, "is refused", p.stderr)

    t.step("a database that was replaced under it")
    os.rename(w.state / "witness.db", w.state / "elsewhere")
    c, d = Node(w, "silver1", "paris-a"), Node(w, "silver1", "paris-b")
    c.ask()
    d.ask()
    outcome, *_, reason = c.swap((0, 0), 5, cause="first")
    t.check(outcome == "unreachable" and "moved or replaced" in reason, reason, outcome)
    p = w.lockstep("status", ok=None)
    t.check(p.returncode == FAILED and "witness.db" in p.stderr, p.stderr.strip(), p.returncode)
    os.rename(w.state / "elsewhere", w.state / "witness.db")
    wait_until("it to be open again", lambda: w.lockstep("status", ok=None).returncode == DONE, 20)
    c.ask()
    d.ask()
    t.check(c.swap((0, 0), 5, cause="first")[0] == "done", "put back, it goes on")

    t.step("a damaged database")
    w.stop()
    with open(w.state / "witness.db", "r+b") as f:
        f.seek(100)
        f.write(os.urandom(200))
    p = proc.run(w.argv(), ok=None, timeout_s=20)
    t.check(p.returncode == FAILED and "is damaged" in p.stderr and "adopt" in p.stderr, p.stderr.strip().splitlines()[-1],
            p.returncode)
    t.check(w.lockstep("status", ok=None).returncode == NO_DAEMON, "and there is no daemon")

    t.step("a daemon that is no witness")
    pair = Cluster(t, size=64 * MIB)
    pair.a.start()
    p = proc.run([BUILD / "lockstep", "--control", pair.a.control, "witness", "status"], ok=None)
    t.check(p.returncode == USAGE and "is no witness" in p.stderr, p.stderr.strip(), p.returncode)
    pair.a.stop()


if __name__ == "__main__":
    run.main(test, limit_s=120, long_limit_s=600)
