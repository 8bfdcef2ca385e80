"""A cluster whose disks are recorded, and the replay of their logs (replay.c)."""

import shutil
import subprocess
import time

from lib import proc
from lib.run import BUILD, Failure

REPLAY = BUILD / "tests/crash/crash-replay"
BOOT_RECORDED = 1
BOOT_AFTER = 2  # another one: the machine went down in between


def with_test(node, boot, **disk):
    node.settings = {"test": {"node": node.name, "boot": boot, **({"disk": disk} if disk else {})}}
    node.args = ["--allow-test-faults"]


class Replay:
    """The disk of one node, as it could be found after a cut at any moment; moments only ever grow."""

    def __init__(self, t, log, base, work, found=()):
        self.t = t
        self.work = work
        proc.run(["cp", "--sparse=always", base, work], timeout_s=60)
        self.process = proc.spawn([REPLAY, log, work, *(f"{ns}={path}" for ns, path in found)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        t.cleanup.callback(self.close)
        self.state = self.answer("the log")

    def answer(self, command):
        line = self.process.stdout.readline()
        if not line.startswith("ok"):
            raise Failure(f"crash-replay, {command}: {line.strip() or 'ended'}")
        return {k: int(v) for k, v in (word.split("=") for word in line.split()[1:])}

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        self.state = self.answer(command)
        return self.state

    def times(self, command):
        """The answer to one that asks for moments."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return [int(ns) for ns in self.process.stdout.readline().split()[1:]]

    def close(self):
        proc.kill(self.process)
        self.process.stdin.close()
        self.process.stdout.close()


class Recorded:
    """Two nodes whose disks are recorded from one moment on, to protected. `cluster`: new, and down."""

    def __init__(self, t, cluster, scratch):
        self.t = t
        self.scratch = scratch
        self.cluster = cluster
        self.logs = [cluster.dir / f"{n.name}.record" for n in cluster.nodes]
        self.bases = [scratch / f"{n.name}.base" for n in cluster.nodes]
        self.found = [[] for _ in cluster.nodes]  # (when, a copy of the disk that a killed daemon has left)

    def record(self, node, **disk):
        """From the node's next start on. `disk`: faults that stand on the recorder, in `test.disk`."""
        with_test(node, BOOT_RECORDED, record=self.logs[self.cluster.nodes.index(node)], **disk)
        self.cluster.write_config()

    def keep_base(self, node):
        """What the log begins with."""
        proc.run(["cp", "--sparse=always", node.backing, self.bases[self.cluster.nodes.index(node)]], timeout_s=60)

    def start_killed(self, node):
        """Not waited for. The replay has to know what became of what was in flight: nothing else tells."""
        found = self.found[self.cluster.nodes.index(node)]
        path = self.scratch / f"{node.name}.found{len(found)}"
        # Not through the page cache, past which the daemon writes.
        p = proc.run(["dd", f"if={node.backing}", f"of={path}", "bs=1M", "iflag=direct", "conv=sparse"], ok=None, timeout_s=60)
        if p.returncode != 0:
            proc.run(["cp", "--sparse=always", node.backing, path], timeout_s=60)
        found.append((time.monotonic_ns(), path))
        node.start(wait=False)

    def from_create(self):
        """Everything since `create`."""
        for n in self.cluster.nodes:
            if "test" not in n.settings:
                self.record(n)
        self.cluster.start()
        for n in self.cluster.nodes:
            n.cli("create", self.cluster.volume)
            self.keep_base(n)
        self.cluster.create_done()
        self.cluster.promote(self.cluster.a)

    def from_pair(self, grow):
        """A pair that exists, and whose backings have grown since (by `grow(node)`)."""
        for n in self.cluster.nodes:
            with_test(n, BOOT_RECORDED)
        self.cluster.write_config()
        self.cluster.ready()
        self.cluster.stop()
        for n in self.cluster.nodes:
            grow(n)
            self.keep_base(n)
            self.record(n)
        self.cluster.start()
        self.cluster.promote(self.cluster.a)

    def replays(self, name):
        return [Replay(self.t, log, base, self.scratch / f"{n.name}.{name}", found)
                for n, log, base, found in zip(self.cluster.nodes, self.logs, self.bases, self.found)]

    def remove(self):
        remove(self.cluster.dir, *self.bases, *(path for found in self.found for _, path in found))


def remove(*paths):
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
