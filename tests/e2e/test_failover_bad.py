#!/usr/bin/python3
"""With a witness, and something wrong: both nodes are told to promote at once; a configuration that differs between the nodes; the
only up-to-date leg is taken away; a promotion by force, and what is on record of it; a witness that is slow; a node whose disk is
an old copy of itself."""

import signal
import subprocess

from lib import nbdio, proc, run
from lib.cluster import BUILD, FAILED, MIB, REFUSED
from lib.failover import Trio
from lib.run import stays
from lib.witness import Witness

DEAD_AFTER_S = 1.0
SIZE = 64 * MIB


def both_promote(t, c):
    """At once; which of them won."""
    orders = [subprocess.Popen([BUILD / "lockstep", "promote", c.volume, "--control", n.control], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True) for n in c.nodes]
    said = [(p.communicate(timeout=60)[1].strip(), p.returncode) for p in orders]
    won = [i for i, (_, status) in enumerate(said) if status == 0]
    t.check(len(won) == 1, f"one has won: {c.nodes[won[0]].name if won else 'none'}", said)
    text, status = said[1 - won[0]]
    t.check(status in (REFUSED, FAILED) and text, f"the other is told why not: {text}", said)
    return c.nodes[won[0]], c.nodes[1 - won[0]]


def promoted_at_once(t, c):
    t.step("two nodes of a new volume are told to promote at once")
    c.start()
    c.create()
    for n in c.nodes:
        n.wait("the link to be connected", lambda s: s["peer"]["link"] == "connected")
    winner, loser = both_promote(t, c)
    winner.wait("the register to have both legs in the set", c.both_in_sync)
    for _ in range(t.rounds(3, 50)):
        t.step(f"{winner.name} is demoted, and both are told to promote at once")
        winner.cli("demote", c.volume)
        for n in c.nodes:
            n.wait("the register to name nobody", lambda s: s["witness"]["primary"] is None)
        winner, loser = both_promote(t, c)
        s = winner.wait("to serve, in sync", lambda s: s["serving"] and c.both_in_sync(s))
        t.check(not loser.status()["serving"] and s["witness"]["primary"] == winner.name, "one serves, and the register says so", s)
    return winner, loser


def restart(c, node, **settings):
    kept = node.settings
    node.settings = {**kept, **settings}
    c.write_config()
    node.settings = kept
    node.stop()
    node.start()


def is_refused(t, primary, other, words):
    for n in (primary, other):
        s = n.wait(f"to refuse: {words}", lambda s: s["peer"]["link"] == "refused" and words in s["peer"]["reason"], 30)
    t.check(s["why_not"], f"{other.name}: {s['peer']['reason']}")
    t.check(primary.status()["serving"] and not other.status()["serving"], f"{primary.name} serves on")


def back_to_normal(c, primary, other):
    restart(c, other)
    primary.wait("both to be in sync", c.both_in_sync, 30)


def configured_otherwise(t, c, primary, other):
    t.step("one node has no witness")
    c.settings.pop("witness")
    url = c.witness.url
    c.write_config()
    restart(c, other)
    c.settings["witness"] = url
    is_refused(t, primary, other, "has a witness in its configuration")
    s = other.status()
    t.check(s["failover"] == "manual" and s["witness"] is None, "its status says so", s)
    p = other.cli("promote", c.volume, ok=None)
    t.check(p.returncode == REFUSED, f"`promote` there is refused: {p.stderr.strip()}", p)
    back_to_normal(c, primary, other)

    t.step("another dead-after")
    restart(c, other, link={"transport": "tcp", "tls": "none", "dead-after": "3s"})
    is_refused(t, primary, other, "dead-after is")
    back_to_normal(c, primary, other)

    t.step("another failover: it is told, and holds for the node that says so")
    since = len(other.log_text())
    restart(c, other, failover="manual")
    other.wait_log("differs from that of", since=since)
    primary.wait("both to be in sync", c.both_in_sync, 30)
    t.check(other.status()["failover"] == "manual" and primary.status()["failover"] == "automatic", "status says which is which")
    primary.sigkill()
    stays("nobody takes over", lambda: not other.status()["serving"], 3 * DEAD_AFTER_S)
    primary.start()
    primary.wait("to serve again", lambda s: s["serving"] and c.both_in_sync(s), 30)
    back_to_normal(c, primary, other)

    t.step("another witness, which knows nothing of the volume")
    stranger = Witness(t, "stranger").start()
    since = len(primary.log_text())
    restart(c, other, witness=stranger.url)
    primary.wait_log("in witness:", since=since)
    s = other.wait("to say that it is older", lambda s: s["witness"]["state"] == "older", 30)
    t.check(s["witness"]["reason"], f"{other.name}: {s['witness']['reason']}")
    primary.sigkill()
    stays("nobody takes over by it", lambda: not other.status()["serving"], 3 * DEAD_AFTER_S)
    p = other.cli("promote", c.volume, ok=None)
    t.check(p.returncode == REFUSED, f"nor does an operator: {p.stderr.strip()}", p)
    primary.start()
    primary.wait("to serve again", lambda s: s["serving"], 30)
    back_to_normal(c, primary, other)

    t.step("another name of the volume")
    volume, kept = c.volume, other.config_file.read_text()
    other.config_file.write_text(kept.replace(f"volume: {volume}", "volume: silver7"))
    other.stop()
    other.start()
    s = proc.run([BUILD / "lockstep", "up", "silver7", "--control", other.control], ok=None)
    t.check(s.returncode == FAILED and volume in s.stderr and "silver7" in s.stderr, s.stderr.strip(), s)
    primary.wait("to serve alone", lambda s: s["serving"] and s["witness"]["in_sync"] == [primary.name], 30)
    other.config_file.write_text(kept)
    back_to_normal(c, primary, other)


def only_leg(t, c, primary, other):
    t.step("the only up-to-date leg is taken away")
    other.stop()
    primary.wait("to be alone", lambda s: s["witness"]["in_sync"] == [primary.name], 30)
    p = primary.cli("down", c.volume, ok=None)
    t.check(p.returncode == REFUSED and "only up-to-date leg" in p.stderr, "`down` is refused", p.stderr)
    since = len(primary.log_text())
    primary.stop()
    primary.wait_log("told to end, and this is its only up-to-date leg", since=since)
    t.check(True, "SIGTERM warns of it")
    other.start()
    stays("the other one does not take over", lambda: not other.status()["serving"], 3 * DEAD_AFTER_S)
    p = other.cli("promote", c.volume, ok=None)
    t.check(p.returncode == REFUSED, f"nor is it promoted: {p.stderr.strip()}", p)
    primary.start()
    primary.wait("to serve again, and both to be in sync", lambda s: s["serving"] and c.both_in_sync(s), 30)


def forced(t, c, primary, other):
    """Who serves after it, and who does not."""
    t.step("the other node is promoted by force: what that gives up is on record, in numbers")
    other.stop()
    primary.wait("to be alone", lambda s: s["witness"]["in_sync"] == [primary.name], 30)
    h = nbdio.connect(primary.uri)
    h.pwrite(b"x" * MIB, 0)
    h.shutdown()
    primary.stop()
    other.start()
    since = len(other.log_text())
    s = other.wait("to reach the register", lambda s: s["witness"]["state"] == "reachable", 30)
    standing = s["witness"]["epoch"]
    numbers = f"{other.name} is up-to-date at epoch {s['epoch']}, LSN {s['lsn']}, not in the set of epoch {standing}"
    p = other.cli("promote", c.volume, "--force", timeout_s=60)
    t.check(numbers in p.stdout + p.stderr, f"the command says it: {numbers}", p)
    other.wait_log(numbers, since=since)
    t.check(True, "so does the node's log")
    other.wait("to serve", lambda s: s["serving"], 30)
    newest, before = c.witness.history(c.volume)[:2]
    t.check((newest["cause"], newest["asked_by"], before["epoch"]) == ("force", other.name, standing), "the witness's history has it", newest)
    t.check(newest["note"] == f"{numbers}; what it lacks of {primary.name} is not known here", f"with {newest['note']}", newest)
    t.check(before["note"] is None, "a decree that gives up nothing says nothing", before)
    t.check(newest["note"] in c.witness.lockstep("history", c.volume).stdout, "also for eyes")
    primary.start()
    primary.wait("to tell of a split brain", lambda s: s["split_brain"], 30)
    p = primary.cli("promote", c.volume, "--force", ok=None, timeout_s=60)
    t.check(p.returncode == REFUSED and f"{other.name} is primary, as it has just said" in p.stderr and other.status()["serving"],
            "nor is the first one forced beside the one that serves", p)
    primary.cli("resolve", c.volume, "--discard", "local", "--keep", t.dir / "kept", timeout_s=60)
    other.wait("both to be in sync", c.both_in_sync, 60)
    return other, primary


def slow_witness(t, c, primary, other):
    t.step("the witness stands still, and then the secondary does not answer any more")
    load = nbdio.start(nbdio.scribblers(primary.uri, SIZE, t.seed, 2))
    nbdio.headway(load, 100)
    c.witness.process.send_signal(signal.SIGSTOP)
    primary.wait("the loss to be seen", lambda s: s["witness"]["state"] == "unreachable", 30)
    nbdio.headway(load, 100)
    other.sigkill()
    primary.wait("writes to wait", lambda s: s["writes_waiting"] and s["peer"]["link"] != "connected", 30)
    done = nbdio.total_ops(load)
    stays("they wait", lambda: primary.status()["writes_waiting"] > 0, 2 * DEAD_AFTER_S)
    c.witness.process.send_signal(signal.SIGCONT)
    primary.wait("to go on alone", lambda s: s["witness"]["in_sync"] == [primary.name], 30)
    nbdio.headway(load, 100)
    t.check(nbdio.total_ops(load) > done, "they go on when it answers")
    other.start()
    primary.wait("both to be in sync", c.both_in_sync, 60)
    nbdio.stop(load)
    return load


def old_image(t, c, primary, other, load):
    """Of a node that was shut down in order, and whose peer goes on: what it lacks the peer's bits alone do not tell."""
    t.step("a copy of the secondary's disk is put back after it was in sync again, and more was written")
    for s in load:
        s.reconnect(primary.uri)
    nbdio.start(load)
    nbdio.headway(load, 200)
    other.stop()
    copy = other.dir / "copy.img"
    proc.run(["cp", "--sparse=always", other.backing, copy])
    nbdio.headway(load, 200)
    other.start()
    primary.wait("both to be in sync", c.both_in_sync, 60)
    nbdio.headway(load, 200)
    other.stop()
    proc.run(["cp", "--sparse=always", copy, other.backing])
    other.start()
    primary.wait("both to be in sync", c.both_in_sync, 60)
    nbdio.headway(load, 200)
    nbdio.stop(load)


def unseen_image(t, c, primary, other, load):
    """Of a node in sync, that was there all the time but for a moment in which nobody could go on without it: neither histories
    nor bits tell of what is missing."""
    t.step("a copy of the secondary's disk is made while both are in sync; it is killed, and back at once")
    copy = other.dir / "copy.img"
    primary.wait("both to be in sync", c.both_in_sync, 60)
    proc.run(["dd", f"if={other.backing}", f"of={copy}", "bs=1M", "iflag=direct", "status=none"])
    other.sigkill()
    other.start()
    primary.wait("both to be in sync", c.both_in_sync, 60)
    for s in load:
        s.reconnect(primary.uri)
    nbdio.start(load)
    nbdio.headway(load, 200)
    t.step("more is written; it is killed again, the copy is put back, and it starts")
    since = len(other.log_text())
    other.sigkill()
    proc.run(["cp", "--sparse=always", copy, other.backing])
    other.start()
    other.wait_log("was put back from an older copy", since=since)
    primary.wait("both to be in sync", c.both_in_sync, 60)
    nbdio.headway(load, 200)
    nbdio.stop(load)
    c.stop()
    nbdio.verify_legs(c, load, "an old copy was brought up to date")


def test(t):
    c = Trio(t, size=SIZE, dead_after=f"{int(DEAD_AFTER_S)}s")
    primary, other = promoted_at_once(t, c)
    configured_otherwise(t, c, primary, other)
    only_leg(t, c, primary, other)
    primary, other = forced(t, c, primary, other)
    load = slow_witness(t, c, primary, other)
    old_image(t, c, primary, other, load)
    unseen_image(t, c, primary, other, load)


if __name__ == "__main__":
    run.main(test, limit_s=200, long_limit_s=900)
