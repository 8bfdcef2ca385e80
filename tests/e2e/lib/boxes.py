"""Machines of a cluster that are none: namespaces of their own for what runs on them, joined by a switch.

    hub = Hub(t)
    box = Box(hub, 1, "paris-a", script, log)   # the script finds its network as `cable`, and configures it
    box.start()
    box.run("ip", "address")
    box.power_off()                             # all that ran in it is gone, the others stay joined
"""

import os

from lib import proc
from lib.run import wait_until

PROGRAMS = ("unshare", "nsenter", "ip")
CABLE = "cable"


def need(t):
    """Skips the test where there cannot be any."""
    t.need_root()
    t.need(*PROGRAMS)
    words = "unshare --net --uts --ipc --mount --pid --fork ip link add name hub type bridge"
    tried = proc.run(words.split(), ok=None)
    if tried.returncode != 0:
        t.skip(f"namespaces with a bridge in them: {tried.stderr.strip()}")


def inside(unshare):
    """The first process of the namespaces, once it is there."""
    found = proc.children(unshare.pid)
    own = [p for p in found if os.readlink(f"/proc/{p}/ns/net") != os.readlink("/proc/self/ns/net")]
    return own[0] if own else None


class Hub:
    def __init__(self, t):
        self.process = proc.spawn(["unshare", "--net", "--fork", "--kill-child", "sleep", "infinity"])
        t.cleanup.callback(proc.kill_family, self.process)
        self.init = wait_until("a network", lambda: inside(self.process), 10)
        self.ip("link add hub type bridge")
        self.ip("link set hub up")

    def ip(self, words):
        proc.run(["nsenter", "--target", self.init, "--net", "ip", *words.split()])


class Box:
    def __init__(self, hub, number, name, script, log):
        self.hub, self.number, self.name, self.script, self.log = hub, number, name, script, log
        self.process = None
        self.init = None  # the first process inside

    def start(self):
        self.process = proc.spawn(["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child",
                                   "--mount-proc", self.script], log=self.log)
        self.init = wait_until(f"{self.name}'s namespaces", lambda: inside(self.process), 10)
        self.hub.ip(f"link add port{self.number} type veth peer name {CABLE} netns {self.init}")
        self.hub.ip(f"link set port{self.number} master hub up")

    def run(self, *words, ok=(0,), timeout_s=30):
        return proc.run(["nsenter", "--target", self.init, "--all", *words], ok=ok, timeout_s=timeout_s)

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def power_off(self):
        if self.process:
            proc.kill_family(self.process)
