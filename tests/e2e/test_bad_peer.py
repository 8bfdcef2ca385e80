#!/usr/bin/python3
"""Strangers, wrong peers and broken peers on the link: refused with a reason, thrown out, and never a danger to the peer
that is connected, its data, or the daemon."""

import os
import random
import resource
import socket
import threading

from lib import nbdio, run, wire
from lib.cluster import GIB, MIB, Cluster
from lib.run import wait_until
from lib.wire import Stranger

DEAD_AFTER_S = 2
FLOOD = 600
PATIENCE_S = 40  # on any machine, in which a stranger who says nothing must be gone


def open_files(node):
    return len(os.listdir(f"/proc/{node.pid}/fd"))


class Undisturbed:
    """`with Undisturbed(...)`: inside, the load goes on, the link stays connected, and no file stays open."""

    def __init__(self, t, c, what):
        self.t, self.c, self.what = t, c, what

    def __enter__(self):
        self.files = {n: open_files(n) for n in self.c.nodes}
        self.logs = {n: len(n.log_text()) for n in self.c.nodes}

    def __exit__(self, kind, _value, _trace):
        if kind:
            return
        c = self.c
        nbdio.headway(c.load, 50)
        for n in c.nodes:
            new = n.log_text()[self.logs[n]:]
            lost = [line for line in new.splitlines() if "link" in line and ("lost" in line or "down" in line)]
            if lost:
                raise run.Failure(f"{n.name} lost its peer: {lost[0]}")
            wait_until(f"{n.name} to close what strangers left", lambda n=n: open_files(n) <= self.files[n], PATIENCE_S,
                       describe=lambda n=n: f"{open_files(n)} open files, {self.files[n]} before")
        s = c.a.status()
        self.t.check(s["protected"] and s["peer"]["link"] == "connected", f"{self.what}: the peer stays, writes go on", s)


def thrown_out(t, c, what, data, word=None):
    """A connection that says `data` is closed. Of the reasons only the first in a while goes to the log: `word`."""
    before = len(c.b.log_text())
    with Undisturbed(t, c, what):
        s = Stranger(c.b.port)
        s.send(data)
        if not s.closed_within(PATIENCE_S):
            raise run.Failure(f"{what}: not thrown out within {PATIENCE_S} s")
        s.close()
    if word:
        c.b.wait_log(word, 5, before)


def garbage(t, c):
    t.step("garbage, half frames and silence on the listening path, while the real peer is connected and busy")
    rng = random.Random(t.seed)
    thrown_out(t, c, "noise", rng.randbytes(1 * MIB), "magic")
    thrown_out(t, c, "a web browser", b"GET / HTTP/1.1\r\nHost: gold42\r\n\r\n" + bytes(64))
    thrown_out(t, c, "nothing but zeroes", bytes(4096))
    thrown_out(t, c, "a header whose check is wrong", wire.frame(wire.HELLO, b"x")[:-9] + bytes(9))
    thrown_out(t, c, "half a header, then silence", wire.frame(wire.HEARTBEAT)[:31])
    thrown_out(t, c, "a hello that stops in the middle, then silence", wire.frame(wire.HELLO, good(c))[:-5])
    thrown_out(t, c, "nothing at all", b"")
    thrown_out(t, c, "a hello that is no protobuf", wire.frame(wire.HELLO, b"\xff" * 200))
    thrown_out(t, c, "a hello without names", wire.frame(wire.HELLO, wire.hello(version=1)))
    thrown_out(t, c, "a hello of a megabyte", wire.frame(wire.HELLO, bytes(MIB)))
    thrown_out(t, c, "a hello whose payload is damaged", wire.frame(wire.HELLO, good(c), check=1))
    thrown_out(t, c, "a hello with a window in which no write fits", wire.frame(wire.HELLO, good(c, window_frames=0)))
    thrown_out(t, c, "a hello with a history that cannot be",
               wire.frame(wire.HELLO, good(c, **{**WITH_HISTORY, "history_tag": 0})))
    thrown_out(t, c, "a write before any hello",
               wire.frame(wire.WRITE, b"evil" * 1024, epoch=1, lsn=1, offset=0, blocks=8))
    thrown_out(t, c, "a flush before any hello", wire.frame(wire.FLUSH, epoch=1, lsn=1))


# Of a leg that has been part of something else.
WITH_HISTORY = {"history_epoch": 1, "history_first_lsn": 1, "history_tag": 0x5eed, "epoch": 1}


def good(c, **other):
    return wire.good_hello(c, c.a, c.b, **other)


def refused(t, c, what, other, word):
    """A hello with something wrong is answered with the reason, and closed."""
    s = Stranger(c.b.port)
    s.send(wire.frame(wire.HELLO, good(c, **other)))
    reason = s.refusal()
    closed = s.closed_within(PATIENCE_S)
    s.close()
    t.check(reason and word in reason, f"{what}: \"{reason}\"", f"the reason is {reason!r}; expected it to say '{word}'")
    t.check(closed, "and closed")


def wrong_peers(t, c):
    t.step("peers of others: refused, and told why; ours stays")
    for what, other, word in (("another volume", {"volume": "silver7"}, "silver7"), ("another node", {"node": "rome-x"}, "rome-x"),
                              ("one who looks for somebody else", {"peer": "rome-x"}, "rome-x")):
        with Undisturbed(t, c, what):
            refused(t, c, what, other, word)

    t.step("impostors, who have the right names: they may take the connection, as a peer that comes back does, but not more")
    for what, other, word in (("a version of the future", {"version": 99}, "99"),
                              ("another size", {"size_bytes": 2 * GIB, "capacity_bytes": 2 * GIB, "pristine": 0}, "bytes"),
                              ("another leg", WITH_HISTORY, "nothing in common"),
                              ("another volume of that name", {**WITH_HISTORY, "volume_id": bytes([7] * 16)}, "different"),
                              ("another primary", {"role": 1, "epoch": 1}, ""),
                              ("a leg that is not up to date", {"leg": 4}, "failed"),
                              ("two halves of a leg", {**WITH_HISTORY, "leg": 2}, "")):
        refused(t, c, what, other, word)
        c.a.wait("to be protected again", lambda s: s["protected"], 20)
        nbdio.headway(c.load, 50, seconds=20)
    t.check(True, "after each of them the real peer was back, and the writes that had waited completed")

    t.step("one who has a new leg is taken for ours with a replaced disk; ours gets its place back, and the legs are compared")
    s = Stranger(c.b.port)
    s.send(wire.frame(wire.HELLO, good(c)))
    kinds = []
    while (f := s.read_frame()) is not None and f[0] != wire.READY:
        kinds.append(f[0])
    t.check(f is not None, "it is welcome", kinds)
    s.close()
    c.a.wait("to be protected again", lambda s: s["protected"], 40)


def flood(t, c):
    t.step(f"a flood: {FLOOD} connections that say nothing, while the real peer works")
    with Undisturbed(t, c, f"{FLOOD} connections"):
        flood_of = []
        for i in range(FLOOD):
            try:
                s = socket.create_connection(("127.0.0.1", c.b.port), timeout=5)
                if i % 3 == 0:
                    s.sendall(wire.frame(wire.HEARTBEAT)[:13])
                flood_of.append(s)
            except OSError:
                pass
        most = max(open_files(c.b) for _ in range(20))
        t.check(len(flood_of) > FLOOD // 2, f"{len(flood_of)} were opened; the daemon had at most {most} files open at a time")
        t.check(most < 200, "strangers cannot use up its files")
        nbdio.headway(c.load, 200, what="the load to go on during the flood")
        for s in flood_of:
            s.close()


def reconnect_in_flood(t, c):
    t.step("the real peer comes back while strangers keep knocking")
    stop = threading.Event()

    def knock():
        mine = []
        while not stop.is_set():
            try:
                mine.append(socket.create_connection(("127.0.0.1", c.b.port), timeout=1))
                if len(mine) > 100:
                    mine.pop(0).close()
            except OSError:
                pass
            stop.wait(0.002)
        for s in mine:
            s.close()
    knocker = threading.Thread(target=knock, daemon=True)
    knocker.start()
    try:
        c.b.cli("down", c.volume)
        c.a.wait("not to be protected", lambda s: not s["protected"])
        c.b.cli("up", c.volume)
        c.a.wait("to be protected again in the flood", lambda s: s["protected"], 20)
        t.check(True, "it got through")
    finally:
        stop.set()
        knocker.join(5)


class BadAcceptor:
    """Listens where the peer should be, and answers whoever connects with what it was given."""

    def __init__(self, port, answer):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(16)
        self.answer = answer
        self.calls = 0
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        open_ones = []
        try:
            while True:
                s, _ = self.listener.accept()
                self.calls += 1
                open_ones.append(s)
                try:
                    s.sendall(self.answer)
                except OSError:
                    pass
        except OSError:
            for s in open_ones:
                s.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


def bad_acceptors(t):
    t.step("somebody else listens where the peer should be")
    c = Cluster(t, size=64 * MIB, name="lonely")
    a, b = c.nodes
    a.start()
    a.cli("create", c.volume)
    a.cli("up", c.volume)
    hello = lambda **other: wire.frame(wire.HELLO, wire.good_hello(c, b, a, **other))
    for what, answer, word in (("noise", os.urandom(65536), ""), ("half a frame, then silence", hello()[:70], ""),
                               ("a hello of another volume", hello(volume="silver7"), "silver7"),
                               ("a hello of another version", hello(version=99), "99"),
                               ("a refusal", wire.frame(wire.REFUSE, b"the moon is full"), "the moon is full")):
        since = len(a.log_text())
        acceptor = BadAcceptor(b.port, answer)
        wait_until("our node to call", lambda acceptor=acceptor: acceptor.calls > 0, 20)
        if word:
            a.wait_log(word, 10, since)
        t.check(a.running and a.status()["peer"]["link"] != "connected", f"{what}: not taken for the peer")
        acceptor.close()
    t.step("and the real peer is found once it is there")
    b.start()
    b.cli("create", c.volume)
    b.cli("up", c.volume)
    c.promote(a)
    c.stop()


def test(t):
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    c = Cluster(t, size=256 * MIB, dead_after=f"{DEAD_AFTER_S}s")
    t.step("two nodes, protected, under load")
    c.ready()
    c.load = nbdio.start(nbdio.scribblers(c.a.uri, c.size, t.seed, 2))
    garbage(t, c)
    wrong_peers(t, c)
    flood(t, c)
    reconnect_in_flood(t, c)
    t.step("nothing of all that reached a leg")
    nbdio.stop(c.load)
    c.stop()
    nbdio.verify_legs(c, c.load, "after all strangers")
    bad_acceptors(t)


if __name__ == "__main__":
    run.main(test, limit_s=150)
