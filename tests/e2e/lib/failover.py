"""Two nodes and a register, and how long a client waits when the volume moves from one to the other."""

import threading
import time

import nbd

from lib import nbdio
from lib.cluster import MIB, Cluster
from lib.run import wait_until
from lib.witness import Witness

PROBE_PAUSE_S = 0.005
PROBES_BYTES = 4 * MIB  # at the volume's end


class Trio(Cluster):
    """A cluster with a register: a witness of its own, or the one at `url`; each node's hooks write down what they are told.
    With a `net` (lib/net.py) each of the three is a host of its own."""

    def __init__(self, t, dead_after="2s", settings=None, url=None, name="cluster", net=None, **more):
        self.witness = None
        if not url:
            place = {"address": net.address("w"), "prefix": net.hosts["w"].prefix} if net else {}
            self.witness = Witness(t, f"{name}-witness", **place).start()
            url = self.witness.url
        super().__init__(t, dead_after=dead_after, settings={"witness": url, **(settings or {})}, name=name, **more)
        for host, n in zip("ab", self.nodes if net else ()):
            n.prefix = net.hosts[host].prefix
            n.extra["paths"] = [f"{net.address(host)}:{n.port}"]
        for n in self.nodes:
            script = n.dir / "hook"
            script.write_text(f'#!/bin/sh\necho "$LOCKSTEP_ROLE $LOCKSTEP_EPOCH $LOCKSTEP_NODE" >> {n.dir}/hooks\n')
            script.chmod(0o755)
            n.settings = {"hooks": {"promote": script, "demote": script}}
        self.write_config()

    def ready(self):
        super().ready()
        return self.a.wait("the register to have both legs in the set", self.both_in_sync)

    def under_load(self):
        """Ready, and written to on the first node, but for what is a Prober's."""
        status = self.ready()
        self.load = nbdio.start(nbdio.scribblers(self.a.uri, self.size - PROBES_BYTES, self.t.seed, 4))
        return status

    def end(self):
        """Both legs are looked at, after the load has ended."""
        self.stop()
        nbdio.verify_legs(self, self.load, "at the end")

    def both_in_sync(self, status):
        return status["protected"] and status["witness"]["state"] == "reachable" and \
            sorted(status["witness"]["in_sync"] or []) == sorted(n.name for n in self.nodes)


def hooks_of(node):
    """What its hooks were told: [(role, epoch)]."""
    path = node.dir / "hooks"
    lines = [l.split() for l in path.read_text().splitlines()] if path.exists() else []
    assert all(l[2] == node.name for l in lines)
    return [(l[0], int(l[1])) for l in lines]


def wait_hooks(node, what, predicate):
    """They are programs of their own, and end when they end."""
    return wait_until(f"{node.name}'s hooks to tell {what}", lambda: predicate(hooks_of(node)), 30, describe=lambda: hooks_of(node))


class Prober:
    """A client that finds the volume wherever it is served, and writes a block again and again."""

    def __init__(self, cluster):
        self.uris = [n.uri for n in cluster.nodes]
        self.offset_bytes = cluster.size - PROBES_BYTES
        self.done = []  # (when, uri) of each write that was answered
        self.stopping = False
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        at = 0
        while not self.stopping:
            uri = self.uris[at % len(self.uris)]
            try:
                h = nbdio.connect(uri)
                while not self.stopping:
                    h.pwrite(bytes(4096), self.offset_bytes)
                    self.done.append((time.monotonic(), uri))
                    time.sleep(PROBE_PAUSE_S)
                h.shutdown()
            except nbd.Error:
                at += 1
                time.sleep(PROBE_PAUSE_S)

    def wait_on(self, uri, seconds):
        wait_until(f"a write on {uri}", lambda: self.done and self.done[-1][1] == uri, seconds)

    def longest_pause_s(self, since):
        """Between two answers, the later of them after that time."""
        times = [when for when, _ in list(self.done)]
        return max(b - a for a, b in zip(times, times[1:]) if b > since)

    def stop(self):
        self.stopping = True
        self.thread.join(20)


def move(load, uri):
    """The load's connections have ended, or are about to: goes on there, after each has read all that it was promised."""
    for s in load:
        s.stopping = True
        s.thread.join(30)
        if s.wrong:
            raise nbdio.Failure(s.wrong)
    blocks = 0
    for s in load:
        s.reconnect(uri)
        for block in s.touched():
            s.check_blocks(s.handle.pread(s.block_bytes, block * s.block_bytes), block, "after the volume moved")
            blocks += 1
        s.start()
    return blocks
