"""A loopback with the rate of a link between machines: TCP inside a network namespace of its own, whose `lo` is shaped by the
kernel's token bucket. Both directions go through the one bucket, so that what comes back costs what goes out a little."""

import os
import re
import subprocess

from .processes import Failure, find_program, wait_until

UNSHAPED = "none"
RATE = re.compile(r"(\d+)Gbit", re.IGNORECASE)
GBIT = 10**9  # bits per second
GBITS_MIN, GBITS_MAX = 1, 400
BURST_BYTES = 4 << 20  # at 10 Gbit/s those of 3.4 ms, as a timer is late where all CPUs are busy
QUEUE_MS = 50  # longer than what the sockets hold: nothing is dropped


def parse_rate(text):
    """Bits per second; None for `none`, the loopback as it is. ValueError."""
    if text == UNSHAPED:
        return None
    found = RATE.fullmatch(text)
    if not found or not GBITS_MIN <= int(found.group(1)) <= GBITS_MAX:
        raise ValueError(f"{text!r}: a rate is `{UNSHAPED}`, or {GBITS_MIN}Gbit to {GBITS_MAX}Gbit")
    return int(found.group(1)) * GBIT


def in_words(rate):
    return f"loopback at {rate // GBIT} Gbit/s" if rate else "loopback, unshaped"


class Loopback:
    """`rate`: bits per second, or None: that of the machine. Failure where the machine cannot have a shaped one."""

    def __init__(self, workspace, rate):
        self._workspace = workspace
        self._holder = None
        if not rate:
            return
        if os.geteuid() != 0:
            raise Failure("a network namespace with a shaped loopback needs root")
        programs = [find_program(name, package) for name, package in (
            ("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2"), ("tc", "iproute2"))]
        # Without a name in /run/netns: it goes with its processes, however the run ends.
        self._holder = workspace.start("network", [programs[0], "--net", "sleep", "infinity"])
        try:
            wait_until("a network namespace", self._is_apart, self._holder)
            self._require("ip", "link", "set", "lo", "up")
            self._require("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", f"{rate}bit", "burst",
                          f"{BURST_BYTES}b", "latency", f"{QUEUE_MS}ms")
        except Failure:
            if self._holder.running():
                self.close()
            raise

    def _namespace(self):
        return f"/proc/{self._holder.pid}/ns/net"

    def _is_apart(self):
        try:
            return os.stat(self._namespace()).st_ino != os.stat("/proc/self/ns/net").st_ino
        except OSError:
            return False

    def _require(self, *command):
        done = subprocess.run(self.inside(list(command)), capture_output=True, text=True, timeout=20)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")

    def inside(self, command):
        """The command for a process whose TCP goes this way. Its pid is the command's own: nsenter becomes it."""
        return ["nsenter", f"--net={self._namespace()}", "--", *command] if self._holder else command

    def close(self):
        if self._holder:
            self._workspace.stop(self._holder)
            self._holder = None
