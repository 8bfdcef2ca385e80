"""A file system on a volume whose nodes are killed again and again, and what each kill has to be followed by.

A secondary that is killed comes back by itself, and the application waits at most. A primary that is killed takes its
device with it: the other node is promoted, the application goes on there, and the old primary comes back by a resync.
With `when-alone: continue` nobody waits for a node that is away."""

import contextlib
import time

from lib import fs
from lib.cluster import Cluster

AWAY_S_MAX = 1.0  # how long a killed node stays away: shorter and longer than the link takes to notice
DEAD_AFTER = "500ms"


class Site:
    """The volume, and ext4 on it at the primary."""

    def __init__(self, t, size, rng):
        self.t = t
        self.rng = rng
        self.alone = rng.choice(("strict", "continue"))
        t.say(f"when-alone: {self.alone}")
        self.cluster = Cluster(t, size=size, name="kills", dead_after=DEAD_AFTER, settings={"when-alone": self.alone})
        self.cluster.ready()
        self.primary, self.secondary = self.cluster.nodes
        self.mounts = 0
        self.counts = {"secondary": 0, "primary": 0}
        self.spent_s = {}  # on what
        self.open(make=True)

    @property
    def dir(self):
        return self.volume.dir

    def open(self, make=False):
        self.mounts += 1
        self.device = fs.BlockDevice(self.t, self.primary.uri, f"dev{self.mounts}")
        self.volume = fs.Ext4(self.t, self.device.loop, f"volume{self.mounts}", make=make)
        self.t.cleanup.callback(self.primary.end)  # before anything is unmounted: writes that wait would make it wait, too

    def close(self):
        self.volume.close()
        self.device.close()

    @contextlib.contextmanager
    def spending(self, what):
        """Many rounds take long: this tells where the time went."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.spent_s[what] = self.spent_s.get(what, 0) + time.monotonic() - began

    def victim(self):
        """Which is killed next."""
        return self.rng.choice(("secondary", "primary"))

    def kill_secondary(self):
        """Gone, and back after a moment; protected again without anybody's help."""
        self.counts["secondary"] += 1
        self.secondary.sigkill()
        with self.spending("away"):
            time.sleep(self.rng.uniform(0, AWAY_S_MAX))
        with self.spending("its return"):
            self.secondary.start()
            self.primary.wait("to be protected again", lambda s: s["protected"], 30)

    def kill_primary(self):
        """Gone, and its device with it. Whoever used it has to stop before fail_over()."""
        self.counts["primary"] += 1
        self.primary.sigkill()

    def fail_over(self):
        """The other node takes over, the application's file system is mounted there, and the killed node comes back."""
        with self.spending("unmounting"):
            self.close()
        self.primary, self.secondary = self.secondary, self.primary
        with self.spending("promoting"):
            self.primary.wait("the loss of the peer to be seen", lambda s: s["peer"]["link"] != "connected")
            self.primary.cli("promote", self.cluster.volume)
        # Where writes wait for the peer, nothing can be mounted without it.
        back_first = self.alone == "strict" or self.rng.random() < 0.5
        if back_first:
            self.secondary.start()
        with self.spending("mounting"):
            self.open()
        if not back_first:
            self.secondary.start()
        with self.spending("resyncing"):
            self.primary.wait("to be protected again", lambda s: s["protected"], 60)

    def check_legs(self, why):
        """Unmounts and ends in order, compares the legs, and leaves all as it was."""
        self.volume.unmount()
        self.close()
        for n in (self.primary, self.secondary):
            self.t.check(n.stop() == 0, f"{n.name}'s daemon ends cleanly on SIGTERM")
        self.cluster.assert_legs_equal(why)
        self.cluster.start()
        self.cluster.promote(self.primary)
        self.open()

    def surviving_leg(self):
        """After the primary was killed: a copy of what is on the other leg."""
        self.close()
        self.secondary.wait("the loss of the peer to be seen", lambda s: s["peer"]["link"] != "connected")
        self.t.check(self.secondary.stop() == 0, "the secondary's daemon ends cleanly on SIGTERM")
        return fs.copy_leg(self.secondary.backing, self.cluster.size, self.t.dir / "survivor.img")

    def tell(self):
        return ", ".join(f"{count} x {whose}" for whose, count in self.counts.items() if count)

    def tell_spent(self):
        spent = sorted(self.spent_s.items(), key=lambda item: -item[1])
        self.t.say("seconds spent: " + ", ".join(f"{s:.0f} {what}" for what, s in spent))


def journal_lines(path):
    with open(path, "rb") as f:
        return f.read().count(b"\n")
