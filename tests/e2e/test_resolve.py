#!/usr/bin/python3
"""A split brain, ended by `lockstep resolve --discard local`: both nodes show what each side has; the discarded blocks are
kept byte for byte, and can be listed and exported; nothing is lost when the daemon is killed in the middle; then the leg
gets what it lacks, and the volume is protected."""

import json
import os
import shutil
import time

from lib import nbdio, proc, run
from lib.cluster import BUILD, DONE, FAILED, KIB, MIB, NO_DAEMON, REFUSED, USAGE, Cluster
from lib.run import wait_until

SIZE = 64 * MIB
BLOCK = 4 * KIB
COMMON, OF_A, OF_B = 1, 2, 3
PROTECTED_S = 40
APART_S = 20


def lockstep(*words, ok=(DONE,)):
    """Without a daemon."""
    return proc.run([BUILD / "lockstep", *words], ok=ok, timeout_s=60)


class Split:
    """A primary that went on alone, was demoted and taken down; and its peer, which was promoted without it and serves."""

    def __init__(self, t, name, count=200):
        self.t = t
        self.c = Cluster(t, size=SIZE, name=name, dead_after="500ms", settings={"when-alone": "continue"})
        self.a, self.b = self.c.nodes
        for n in self.c.nodes:
            n.args = ["--state", n.dir / "state"]
        # Far from each other, so that each is an extent of its own; both wrote the third.
        self.places = {COMMON: [i * 16 for i in range(50)], OF_A: [2000 + 3 * i for i in range(count)],
                       OF_B: [2000 + 6 * i + 1 for i in range(40)] + [2000 + 6 * i for i in range(40)]}
        self.c.ready()
        self.write(self.a, COMMON)
        self.b.sigkill()
        self.a.wait("to go on alone", lambda s: s["alone"])
        self.write(self.a, OF_A)
        self.a.cli("demote", self.c.volume)
        self.a.stop()
        self.had = t.dir / f"{name}-had"
        shutil.copyfile(self.a.backing, self.had)  # nobody has it open: what is read is what is there
        self.b.start()
        self.b.cli("promote", self.c.volume)
        self.b.wait("to go on alone", lambda s: s["alone"])
        self.write(self.b, OF_B)
        self.a.start()
        self.wait_apart()

    def write(self, node, stamp):
        h = nbdio.connect(node.uri)
        for b in self.places[stamp]:
            h.pwrite(nbdio.pattern(stamp, b, BLOCK), b * BLOCK)
        h.flush()
        h.shutdown()

    def wait_apart(self):
        for n in self.c.nodes:
            n.wait("to tell of a split brain", lambda s: s["split_brain"], APART_S)

    def expect(self, block):
        """In the volume, once B's leg is what is left of it."""
        for stamp in (OF_B, COMMON):
            if block in self.places[stamp]:
                return stamp
        return nbdio.ZEROES

    def check_had(self, why):
        """A's leg is as it was."""
        self.a.stop()
        with open(self.a.backing, "rb") as now, open(self.had, "rb") as then:
            same = all(now.read(MIB) == then.read(MIB) for _ in range(SIZE // MIB))
        self.t.check(same, f"A's leg still holds what it had ({why})")
        self.a.start()

    def check_kept(self, path):
        """All that A wrote alone, as it was there, and nothing that it was not."""
        listed = json.loads(lockstep("resolve", "--list", path, "--json").stdout)
        blocks = set()
        with open(self.had, "rb") as had:
            image = self.t.dir / f"image-{time.monotonic_ns()}"
            lockstep("resolve", "--export", path, "--to", image)
            with open(image, "rb") as exported:
                for e in listed["extents"]:
                    at, n = e["offset_bytes"], e["length_bytes"]
                    if os.pread(had.fileno(), n, at) != os.pread(exported.fileno(), n, at):
                        raise run.Failure(f"what was kept at {at} is not what the leg had")
                    blocks.update(range(at // BLOCK, (at + n) // BLOCK))
            self.t.check(os.stat(image).st_size == SIZE and os.stat(image).st_blocks * 512 < SIZE // 2,
                         "the image is as large as the volume, and sparse")
        missing = set(self.places[OF_A]) - blocks
        self.t.check(not missing, f"{len(self.places[OF_A])} blocks that A wrote alone are kept, of {len(blocks)} in all", missing)
        return listed

    def check_end(self):
        for n in self.c.nodes:
            s = n.wait("to be protected", lambda s: s["protected"], PROTECTED_S)
            self.t.check(s["split_brain"] is None, f"{n.name} knows of no split brain any more")
        h = nbdio.connect(self.b.uri)
        touched = sorted({b for blocks in self.places.values() for b in blocks})
        wrong = [b for b in touched if nbdio.stamp_of(h.pread(BLOCK, b * BLOCK), b, BLOCK) != self.expect(b)]
        h.shutdown()
        self.t.check(not wrong, f"the volume holds what B acknowledged, and what both had ({len(touched)} blocks)", wrong[:5])
        self.c.stop()
        self.c.assert_legs_equal("after the split brain")


def ended(t):
    t.step("a split brain: both nodes say what each side has")
    v = Split(t, "split")
    a, b = v.a.status()["split_brain"], v.b.status()["split_brain"]
    t.check(a["rule"] == "split-brain" and a["common_epoch"] == b["common_epoch"], f"as {a}", b)
    t.check(a["local"]["changed_bytes"] >= len(v.places[OF_A]) * BLOCK and a["peer"]["changed_bytes"] >= len(v.places[OF_B]) * BLOCK,
            "as many blocks as either wrote, at least")
    t.check((b["local"]["changed_bytes"], b["peer"]["changed_bytes"]) == (a["peer"]["changed_bytes"], a["local"]["changed_bytes"])
            and a["differ_bytes_max"] == a["local"]["changed_bytes"] + a["peer"]["changed_bytes"], "and both say the same")
    t.check(a["local"]["since"] is None and a["peer"]["since"] and b["local"]["since"],
            f"B went on by itself at {b['local']['since']} ({a['peer']['since']} as A knows it); of A, started again, nobody knows")
    text = v.a.cli("status").stdout
    t.check("apart   split-brain: the same up to epoch" in text and "lockstep resolve gold42 --discard local" in text,
            "so does the one for eyes, which says what to do", text)

    t.step("what is refused, and why")
    p = v.b.cli("resolve", v.c.volume, "--discard", "local", ok=(REFUSED,))
    t.check("paris-b is primary" in p.stderr, "on the primary", p.stderr)
    p = v.a.cli("promote", v.c.volume, "--force", ok=(REFUSED,))
    t.check("paris-b is primary, as it has just said" in p.stderr and v.a.status()["role"] == "secondary",
            "a promotion by force beside it, as soon as it has said so once more", p.stderr)
    for words in ([v.c.volume], [v.c.volume, "--discard", "peer"], ["--discard", "local"], ["--list"], ["--export", "x"],
                  ["--list", "x", "--to", "y"]):
        v.a.cli("resolve", *words, ok=(USAGE,))
    t.check(True, "used wrongly")
    p = v.a.cli("resolve", v.c.volume, "--discard", "local", "--keep", "/" + "x" * 2000, ok=(USAGE,))
    t.check("a name in this order is too long" in p.stderr, p.stderr.strip(), p)
    there = t.dir / "there"
    there.write_text("somebody's")
    p = v.a.cli("resolve", v.c.volume, "--discard", "local", "--keep", there, ok=(REFUSED,))
    t.check("nothing was given up" in p.stderr and there.read_text() == "somebody's", "over a file that is there", p.stderr)
    p = v.a.cli("resolve", v.c.volume, "--discard", "local", "--keep", t.dir / "no-such" / "kept", ok=(FAILED,))
    t.check("nothing was given up" in p.stderr, "into no directory", p.stderr)
    t.check("is no file of kept blocks" in lockstep("resolve", "--list", v.a.backing, ok=(FAILED,)).stderr, "a list of what is none")
    v.check_had("after refusals")
    v.wait_apart()

    t.step("it is ended")
    p = v.a.cli("resolve", v.c.volume, "--discard", "local", timeout_s=60)
    kept = next((v.a.dir / "state").iterdir())
    t.check(str(kept) in p.stdout and kept.name.startswith("gold42-") and kept.suffix == ".kept", f"{p.stdout.strip()}")
    listed = v.check_kept(kept)
    t.check((listed["volume"], listed["node"], listed["peer"], listed["everything"]) == ("gold42", "paris-a", "paris-b", False)
            and listed["common_epoch"] == a["common_epoch"] and listed["first_epoch"] == a["local"]["epoch"], "the file says whose they are")
    image = t.dir / "over"
    image.write_text("")
    t.check("--force" in lockstep("resolve", "--export", kept, "--to", image, ok=(REFUSED,)).stderr, "no image is written over")
    v.check_end()
    p = v.a.cli("resolve", v.c.volume, "--discard", "local", ok=(NO_DAEMON,))


def killed(t):
    t.step("killed while it keeps")
    v = Split(t, "killed", count=600)
    # Each read takes its time.
    v.a.stop()
    args = v.a.args
    v.a.make_fail("disk", **{"delay-min": "5ms", "delay-max": "10ms"})
    v.a.args = args + v.a.args
    v.a.start()
    v.wait_apart()
    kept, partial = t.dir / "kept", t.dir / "kept.partial"
    order = v.a.spawn_cli("resolve", v.c.volume, "--discard", "local", "--keep", kept)
    wait_until("blocks to be kept", lambda: partial.exists() and partial.stat().st_size > 0, 20, pause=lambda: time.sleep(0.01))
    v.a.sigkill()
    t.check(order.wait(20) == NO_DAEMON, "its client is told")
    t.check(not kept.exists() and partial.exists(), "there is part of a file, and none of the name")
    p = lockstep("resolve", "--list", partial, ok=(FAILED,))
    t.check("in the middle" in p.stderr or "damaged" in p.stderr, "which is not taken for a whole one", p.stderr)
    v.a.mend()
    v.a.args = args
    v.a.start()
    v.check_had("after being killed")
    v.wait_apart()

    t.step("killed when all is kept, and perhaps given up")
    order = v.a.spawn_cli("resolve", v.c.volume, "--discard", "local", "--keep", kept)
    wait_until("all to be kept", kept.exists, 20, pause=lambda: time.sleep(0.001))
    v.a.sigkill()
    order.wait(20)
    v.check_kept(kept)
    v.a.start()
    s = v.a.wait("to know where it is", lambda s: s["split_brain"] or s["peer"]["link"] == "connected", APART_S)
    t.say(f"the leg is {s['leg']}")
    if s["split_brain"]:
        v.check_had("it had not been given up")
        v.wait_apart()
        again = t.dir / "again"
        p = v.a.cli("resolve", v.c.volume, "--discard", "local", "--keep", kept, ok=(REFUSED,))
        t.check("not written over" in p.stderr, "the file that is there stays", p.stderr)
        v.a.cli("resolve", v.c.volume, "--discard", "local", "--keep", again, timeout_s=60)
        v.check_kept(again)

    t.step("killed again in the resync")
    v.a.sigkill()
    v.a.start()
    v.check_end()


def test(t):
    ended(t)
    killed(t)


if __name__ == "__main__":
    run.main(test, limit_s=170)
