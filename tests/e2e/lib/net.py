"""Three hosts, each in a network namespace of its own, and the router between them, on which every line can be cut (either
way, silently or with an ICMP answer) or made long.

Namespaces have no names: each is that of a process that dies with the test, and goes with it."""

import ctypes
import os
import socket
import subprocess
import threading

from lib import proc
from lib.run import HERE, Failure, wait_until

NAMES = ("a", "b", "w")
LONG_LINE = "long0"  # what goes through it comes back later
PREF_CUT, PREF_BACK, PREF_LONG = 100, 200, 300
TABLE_LONG = 77
CLONE_NEWNET = 0x40000000


class Host:
    """`prefix`: before the command of a process that is to live there; its pid is the command's own."""

    def __init__(self, name):
        self.name = name
        self.holder = proc.spawn(["unshare", "--net", "sleep", "infinity"])
        wait_until(f"{name}'s namespace", self.is_apart, 10)

    @property
    def namespace(self):
        return f"/proc/{self.holder.pid}/ns/net"

    def is_apart(self):
        try:
            return os.stat(self.namespace).st_ino != os.stat("/proc/self/ns/net").st_ino
        except OSError:
            return False

    @property
    def prefix(self):
        return ["nsenter", f"--net={self.namespace}", "--"]

    def run(self, *words, **more):
        return proc.run([*self.prefix, *words], **more)

    def connect(self, address, timeout_s):
        """A TCP connection from there, for this process. A socket stays in the namespace of the thread that made it."""
        made = []

        def make():
            with open(self.namespace, "rb") as f:
                if ctypes.CDLL(None).setns(f.fileno(), CLONE_NEWNET) == 0:
                    made.append(socket.socket())
        maker = threading.Thread(target=make)
        maker.start()
        maker.join()
        if not made:
            raise Failure(f"no socket in {self.name}'s namespace")
        made[0].settimeout(timeout_s)
        made[0].connect(address)
        return made[0]

    def ip(self, *lines):
        self.run("ip", "-batch", "-", input="".join(line + "\n" for line in lines))


class Net:
    def __init__(self, t):
        t.need_root()
        t.need("ip", "unshare", "nsenter")
        self.t = t
        self.hosts = {}
        self.router = None
        self.rules = []  # what heal() takes away again
        self.long_line = None
        self.long_rules = []
        t.cleanup.callback(self.close)
        try:
            self.build()
        except Failure as e:
            t.skip(f"no network namespaces with a router between them: {e}")

    def build(self):
        self.router = Host("router")
        self.router.ip("link set lo up")
        self.router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for number, name in enumerate(NAMES, 1):
            host = self.hosts[name] = Host(name)
            self.router.ip(f"link add {name}0 type veth peer name up0 netns {host.holder.pid}",
                           f"addr add 10.77.{number}.1/24 dev {name}0", f"link set {name}0 up")
            host.ip("link set lo up", f"addr add {self.address(name)}/24 dev up0", "link set up0 up",
                    f"route add default via 10.77.{number}.1")
        # As cuts do: to find out now whether this kernel can.
        self.cut([("a", "b", "blackhole")])
        self.heal()

    @staticmethod
    def address(name):
        return f"10.77.{NAMES.index(name) + 1}.2"

    def change(self, word, rules):
        self.router.ip(*(f"rule {word} {rule}" for rule in rules))

    def cut(self, lines):
        """lines: [(from, to, how)]; how: blackhole (silence), or prohibit (who sends is told). Returns what heal() takes."""
        rules = [f"pref {PREF_CUT} from {self.address(a)} to {self.address(b)} {how}" for a, b, how in lines]
        rules = [r for r in rules if r not in self.rules]
        if rules:
            self.change("add", rules)
            self.rules += rules
        return rules

    def lengthen(self, lines, delay_ms):
        """Each way of [(from, to)] takes so much longer. One delay at a time."""
        assert not self.long_line
        self.long_line = proc.spawn([*self.router.prefix, "/usr/bin/python3", HERE / "lib" / "long_line.py", LONG_LINE,
                                     delay_ms], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self.long_line.stdout.readline() != b"ready\n":
            raise Failure("a line with delay cannot be made: is /dev/net/tun there?")
        self.router.ip(f"link set {LONG_LINE} up", f"route add default dev {LONG_LINE} table {TABLE_LONG}")
        rules = [f"pref {PREF_BACK} iif {LONG_LINE} lookup main"]
        rules += [f"pref {PREF_LONG} from {self.address(a)} to {self.address(b)} lookup {TABLE_LONG}" for a, b in lines]
        self.change("add", rules)
        self.long_rules = rules

    def heal(self, rules=None):
        """Those rules, or everything."""
        if rules is None:
            rules = list(self.rules)
            self.shorten()
        rules = [r for r in rules if r in self.rules]
        if rules:
            self.change("del", rules)
            self.rules = [r for r in self.rules if r not in rules]

    def shorten(self):
        if self.long_line:
            self.change("del", self.long_rules)
            proc.kill(self.long_line)
            self.long_line.stdout.close()
            self.long_line = None

    def close(self):
        for p in [self.long_line, *(h.holder for h in self.hosts.values()), self.router and self.router.holder]:
            if p:
                proc.kill(p)
