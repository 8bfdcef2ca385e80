"""A cluster whose disks are recorded, and the replay of their logs (replay.c)."""

import shutil
import subprocess

from lib import proc
from lib.cluster import Cluster
from lib.run import BUILD, Failure

REPLAY = BUILD / "tests/crash/crash-replay"
BOOT_RECORDED = 1
BOOT_AFTER = 2  # another one: the machine went down in between


def with_test(node, boot, **disk):
    node.settings = {"test": {"node": node.name, "boot": boot, **({"disk": disk} if disk else {})}}
    node.args = ["--allow-test-faults"]


class Replay:
    """The disk of one node, as it could be found after a cut at any moment; moments only ever grow."""

    def __init__(self, t, log, base, work):
        self.t = t
        self.work = work
        proc.run(["cp", "--sparse=always", base, work], timeout_s=60)
        self.process = proc.spawn([REPLAY, log, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return [int(ns) for ns in self.process.stdout.readline().split()[1:]]

    def close(self):
        proc.kill(self.process)
        self.process.stdin.close()
        self.process.stdout.close()


class Recorded:
    """Two nodes from nothing to protected, with everything that reached their disks since `create`."""

    def __init__(self, t, size, scratch, name):
        self.t = t
        self.scratch = scratch
        self.cluster = Cluster(t, size=size, name=name, dead_after="1s")
        self.logs = []
        self.bases = []
        for n in self.cluster.nodes:
            self.logs.append(self.cluster.dir / f"{n.name}.record")
            self.bases.append(scratch / f"{n.name}.base")
            with_test(n, BOOT_RECORDED, record=self.logs[-1])
        self.cluster.write_config()
        self.cluster.start()
        for n, base in zip(self.cluster.nodes, self.bases):
            n.cli("create", self.cluster.volume)
            proc.run(["cp", "--sparse=always", n.backing, base], timeout_s=60)
        self.cluster.create_done()
        self.cluster.promote(self.cluster.a)

    def replays(self, name):
        return [Replay(self.t, log, base, self.scratch / f"{n.name}.{name}")
                for n, log, base in zip(self.cluster.nodes, self.logs, self.bases)]


def remove(*paths):
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
