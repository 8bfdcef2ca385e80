"""Two nodes of one volume on this machine: configuration, daemons, and what an operator would type.

    c = Cluster(t, size=GIB)
    c.start()                    # both daemons
    c.create()                   # the legs
    a, b = c.nodes
    c.promote(a)                 # and waits until the volume is protected
    c.a.sigkill()
"""

import json
import os
import random
import select
import signal
import socket
import subprocess
import time

from lib import proc
from lib.run import BUILD, PATIENCE, Failure, wait_until

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

# What a backing needs beyond the volume: the copies of the superblock and the room set aside for log and bitmaps.
METADATA_BYTES = 64 * MIB

# Not everything that may be waited for is an event: `wait` looks this often all the same.
LOOK_S = 0.1

# lockstep's exit codes
DONE, FAILED, USAGE, REFUSED, NO_DAEMON, TIMED_OUT = range(6)


claims = []


def ports():
    """Below those that the kernel gives to whoever asks for any: one of these may be somebody's before our daemon listens."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
        first = int(f.read().split()[0])
    return range(10000, first if first > 12000 else 32768)


def free_port():
    """Nobody listens there, and no other test on this machine is given it while this one runs: the name of a socket says so."""
    while True:
        port = random.SystemRandom().choice(ports())
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                claim.bind(f"\0lockstep-test-port-{port}")
                s.bind(("", port))
            except OSError:
                claim.close()
                continue
        claims.append(claim)
        return port


def yaml(value, indent=0):
    """Block-style YAML of dicts, lists of dicts, and scalars: as a person would write the file."""
    pad = "  " * indent
    lines = []
    for key, v in value.items():
        if isinstance(v, dict):
            lines.append(f"{pad}{key}:")
            lines.append(yaml(v, indent + 1))
        elif isinstance(v, list) and v and isinstance(v[0], dict):
            lines.append(f"{pad}{key}:")
            for item in v:
                body = yaml(item, indent + 2)
                lines.append(f"{pad}  - {body.lstrip()}")
        elif isinstance(v, list):
            lines.append(f"{pad}{key}: [{', '.join(map(str, v))}]")
        else:
            lines.append(f"{pad}{key}: {v}")
    return "\n".join(lines)


class Events:
    """What `lockstep events` says while it runs: for who wants to know when to look again."""

    def __init__(self, node):
        self.process = proc.spawn([BUILD / "lockstep", "events", "--control", node.control], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL)
        os.set_blocking(self.process.stdout.fileno(), False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        proc.kill(self.process)
        self.process.stdout.close()

    def wait(self, seconds):
        """Until something happens, or the time is over, or the daemon has ended."""
        fd = self.process.stdout.fileno()
        if select.select([fd], [], [], seconds)[0] and not os.read(fd, 1 << 20):
            proc.wait(self.process, 5)
            return False
        return True


class Node:
    """One daemon, its leg, and its command line."""

    def __init__(self, cluster, name, backing):
        self.cluster = cluster
        self.t = cluster.t
        self.name = name
        self.dir = cluster.dir / name
        self.dir.mkdir()
        self.dir.chmod(0o711)
        self.backing = backing
        self.control = self.dir / "control"
        self.socket = self.dir / "nbd"
        self.log = self.dir / "lockstepd.log"
        self.port = free_port()
        self.config_file = self.dir / f"{cluster.volume}.yaml"
        self.prefix = []  # before the daemon's command: where it is to live
        self.args = []  # more arguments for lockstepd
        self.env = {}
        self.extra = {}  # more keys of this node in the configuration
        self.settings = {}  # keys at the top of this node's copy of the configuration only
        self.daemon = None
        self.ready = None  # a socket to which the daemon says that it is
        self.events_process = None
        self.t.cleanup.callback(self.end)

    @property
    def uri(self):
        return f"nbd+unix:///{self.cluster.volume}?socket={self.socket}"

    def make_fail(self, part, **settings):
        """From the next start on, this node's `disk` or `link` does as these settings of `test:` say."""
        self.settings = {"test": {"node": self.name, part: settings}}
        self.args = ["--allow-test-faults"]
        self.cluster.write_config()

    def mend(self):
        self.settings, self.args = {}, []
        self.cluster.write_config()

    # --- the daemon

    def start(self, wait=True):
        assert self.daemon is None or self.daemon.poll() is not None, "runs already"
        if not self.config_file.exists():
            self.cluster.write_config()
        argv = [*self.prefix, BUILD / "lockstepd", "--config", self.config_file, "--node", self.name, "--control", self.control]
        notify = self.dir / "notify"
        notify.unlink(missing_ok=True)
        self.close_ready()
        self.ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ready.bind(str(notify))
        self.daemon = proc.spawn(argv + self.args, log=self.log, stdin=subprocess.DEVNULL,
                                 env={**os.environ, **self.env, "NOTIFY_SOCKET": str(notify)})
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=15):
        """Until every volume is up or has failed, as the daemon tells who started it."""
        deadline = time.monotonic() + seconds * PATIENCE
        ended = os.pidfd_open(self.daemon.pid)
        try:
            while True:
                seen, _, _ = select.select([self.ready, ended], [], [], max(0, deadline - time.monotonic()))
                if self.ready in seen and b"READY=1" in self.ready.recv(4096):
                    return
                if self.ready not in seen and ended in seen:
                    raise Failure(f"{self.name}: lockstepd ended with {self.daemon.wait()}: {self.log_tail()}")
                if not seen:
                    raise Failure(f"{self.name}: lockstepd is not ready after {seconds * PATIENCE} s: {self.log_tail()}")
        finally:
            os.close(ended)
            self.close_ready()

    def close_ready(self):
        if self.ready:
            self.ready.close()
            self.ready = None

    @property
    def pid(self):
        return self.daemon.pid

    @property
    def running(self):
        return self.daemon is not None and self.daemon.poll() is None

    def sigkill(self):
        self.daemon.send_signal(signal.SIGKILL)
        proc.wait(self.daemon, 20, "after SIGKILL")

    def stop(self, seconds=20):
        """SIGTERM; the daemon drains and ends by itself. Returns its exit status."""
        self.daemon.send_signal(signal.SIGTERM)
        try:
            return self.daemon.wait(timeout=seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name}: lockstepd still runs {seconds * PATIENCE} s after SIGTERM: {self.log_tail()}") from None

    def replace_disk(self, size=None):
        """By a blank one, of the same size or another, and a leg on it. The daemon has ended before, and is started."""
        with open(self.backing, "r+b") as f:
            size = size or f.seek(0, 2)
            f.truncate(0)
            f.truncate(size)
        if "metadata" in self.extra:
            self.extra["metadata"].unlink()
        self.start()
        self.cli("create", self.cluster.volume)
        self.cli("up", self.cluster.volume)

    def pause(self):
        self.daemon.send_signal(signal.SIGSTOP)

    def resume(self):
        self.daemon.send_signal(signal.SIGCONT)

    def end(self):
        """For clean-up: whatever state it is in."""
        for p in (self.events_process, self.daemon):
            if p and p.poll() is None:
                p.kill()
                proc.wait(p, 20, "after SIGKILL")
        self.close_ready()

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines=6):
        return " | ".join(self.log_text().splitlines()[-lines:])

    def threads(self):
        """{tid: name} of the daemon."""
        tasks = {}
        for tid in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{tid}/comm", encoding="ascii") as f:
                tasks[int(tid)] = f.read().strip()
        return tasks

    def rss_bytes(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            return next(int(l.split()[1]) * KIB for l in f if l.startswith("VmRSS:"))

    # --- the command line

    def cli(self, *words, ok=(DONE,), timeout_s=30):
        return proc.run([BUILD / "lockstep", *words, "--control", self.control], ok=ok, timeout_s=timeout_s)

    def spawn_cli(self, *words):
        """Goes on beside the test, which waits for its end."""
        return proc.spawn([BUILD / "lockstep", *words, "--control", self.control], log=self.dir / "cli.log")

    def status(self):
        """The volume's entry of `lockstep status --json`; None when there is no daemon."""
        p = self.cli("status", "--json", ok=None)
        if p.returncode != DONE:
            return None
        volumes = json.loads(p.stdout)["volumes"]
        return next((v for v in volumes if v["name"] == self.cluster.volume), None)

    def wait(self, what, predicate, seconds=15):
        """Until the predicate holds for the volume's status, which is returned. Looks whenever something has happened."""
        last = []

        def look():
            s = self.status()
            last[:] = [s]
            return s if s is not None and predicate(s) else None
        if s := look():
            return s
        with Events(self) as events:
            return wait_until(f"{self.name}: {what}", look, seconds, describe=lambda: json.dumps(last[0]),
                              pause=lambda: events.wait(LOOK_S) or time.sleep(LOOK_S / 4))

    def wait_log(self, text, seconds=15, since=0):
        """Until a line of the log, from byte `since` on, holds the text; returns that line."""
        def look():
            return next((l for l in self.log_text()[since:].splitlines() if text in l), None)
        return wait_until(f"{self.name}'s log to say '{text}'", look, seconds, describe=self.log_tail)

    def follow_events(self):
        """Starts `lockstep events`; its lines gather in events.log."""
        path = self.dir / "events.log"
        self.events_process = proc.spawn([BUILD / "lockstep", "events", "--control", self.control], log=path)
        return path

    def leg_digest(self, cluster_size=None):
        return proc.run(["sha256sum", self.backing], timeout_s=300).stdout.split()[0]


class Cluster:
    def __init__(self, t, size=GIB, name="cluster", volume="gold42", dead_after="2s", backing_dir=None, names=("paris-a", "paris-b"),
                 backings=None, settings=None):
        self.t = t
        self.volume = volume
        self.size = size
        self.dead_after = dead_after
        self.settings = settings or {}
        self.dir = t.dir / name
        self.dir.mkdir()
        self.dir.chmod(0o711)
        self.nodes = []
        for i, name in enumerate(names):
            if backings:
                backing = backings[i]
            else:
                backing = (backing_dir or self.dir) / f"{name}.img"
                with open(backing, "wb") as f:
                    f.truncate(size + METADATA_BYTES)
            self.nodes.append(Node(self, name, backing))
        self.write_config()

    @property
    def a(self):
        return self.nodes[0]

    @property
    def b(self):
        return self.nodes[1]

    def config(self, node):
        """What `node`'s configuration file says, as a dict: the same on every node, but for `node.settings`."""
        # Every daemon would try to own an NBD socket of that path, so each node names its own.
        c = {"volume": self.volume}
        if self.size:
            c["size"] = f"{self.size // MIB}MiB"
        c["nodes"] = []
        for n in self.nodes:
            c["nodes"].append({"name": n.name, "backing": n.backing, "metadata": "internal",
                               "device": f"nbd:unix:{n.socket}", **n.extra})
            if len(self.nodes) > 1:
                c["nodes"][-1].setdefault("paths", [f"127.0.0.1:{n.port}"])
        if len(self.nodes) > 1:
            c["link"] = {"transport": "tcp", "tls": "none", "dead-after": self.dead_after}
        c.update(self.settings)
        c.update(node.settings)
        return c

    def write_config(self):
        for n in self.nodes:
            n.config_file.write_text(yaml(self.config(n)) + "\n")

    def start(self):
        for n in self.nodes:
            n.start(wait=False)
        for n in self.nodes:
            n.wait_ready()

    def create(self, *options):
        for n in self.nodes:
            n.cli("create", self.volume, *options)
        self.create_done()

    def create_done(self):
        """Created on each node: brings the legs up."""
        for n in self.nodes:
            n.cli("up", self.volume)

    def promote(self, node, protected=True):
        if len(self.nodes) > 1:
            for n in self.nodes:
                n.wait("the link to be connected", lambda s: s["peer"]["link"] == "connected")
        node.cli("promote", self.volume)
        return node.wait("to be serving" + (" and protected" if protected else ""),
                         lambda s: s["serving"] and s["role"] == "primary" and (s["protected"] or not protected))

    def ready(self):
        """From nothing to a protected volume that node A serves."""
        self.start()
        self.create()
        return self.promote(self.a, protected=len(self.nodes) > 1)

    def stop(self):
        for n in self.nodes:
            if n.running:
                status = n.stop()
                if status != 0:
                    raise Failure(f"{n.name}: lockstepd ended with {status} on SIGTERM: {n.log_tail()}")

    def assert_legs_equal(self, why, size=None):
        """Compares the two backings over the volume's size, byte by byte."""
        size = size or self.size
        p = proc.run(["cmp", "-n", size, self.a.backing, self.b.backing], ok=None, timeout_s=300)
        self.t.check(p.returncode == 0, f"both legs are equal over {size // MIB} MiB ({why})",
                     (p.stdout + p.stderr).strip())
