#!/usr/bin/python3
"""Backings that must not be touched, or cannot be used: every refusal names the backing and the reason, and nothing was
written to it."""

import hashlib
import json
import os
import signal
import time

from lib import fs, nbdio, proc, run
from lib.cluster import DONE, FAILED, KIB, METADATA_BYTES, MIB, NO_DAEMON, REFUSED, Cluster

FUSE_FORGETS_S = 1.5  # nbdfuse has the kernel ask again after a second
METADATA_LAYOUT_BYTES = 7 * MIB  # of a small backing: docs/METADATA.md, "Where it lies"


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def refused(t, node, what, words, statuses=(FAILED, REFUSED), command="create"):
    """The command fails with one of these exit codes, and says each of these words."""
    p = node.cli(command, node.cluster.volume, ok=None)
    said = (p.stderr + p.stdout).strip()
    t.check(p.returncode in statuses, f"{what}: `lockstep {command}` exits with {p.returncode}", f"{p.returncode}: {said}")
    t.check(all(w.lower() in said.lower() for w in words), said, f"expected it to say {words}")


def single(t, name, backing, size=64 * MIB):
    """A daemon with a volume of one node on that backing."""
    c = Cluster(t, size=size, name=name, names=("paris-a",), backings=(backing,))
    c.a.start()
    return c


def image(t, name, size=64 * MIB + METADATA_BYTES):
    path = t.dir / name
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def test(t):
    t.step("missing")
    c = single(t, "missing", t.dir / "nowhere.img")
    refused(t, c.a, "no such file", ["nowhere.img", "does not exist"])
    t.check(not (t.dir / "nowhere.img").exists(), "and none was made")
    c.stop()

    t.step("neither file nor block device")
    folder = t.dir / "folder"
    folder.mkdir()
    c = single(t, "dir", folder)
    refused(t, c.a, "a directory", ["folder"])
    c.stop()

    t.step("not ours: `up` without `create`")
    path = image(t, "blank.img")
    c = single(t, "blank", path)
    refused(t, c.a, "a blank file", ["blank.img", "create"], command="up")
    t.check(c.a.cli("promote", c.volume, ok=None).returncode != DONE, "and nothing to promote")
    c.stop()

    t.step("holding a file system, a partition table, or another volume's metadata")
    contents = [("ext4", lambda p: proc.run(["mkfs.ext4", "-q", p])), ("swap", lambda p: proc.run(["mkswap", p])),
                ("a partition table", mbr)]
    for what, make in contents:
        path = image(t, f"{what.split()[-1]}.img")
        make(path)
        before = digest(path)
        c = single(t, what.split()[-1], path)
        refused(t, c.a, what, [path.name, "--force"], statuses=(REFUSED,))
        t.check(digest(path) == before, "the backing is untouched")
        c.stop()
    c = single(t, "force", t.dir / "ext4.img")
    c.a.cli("create", c.volume, "--force")
    t.say("ok: `create --force` makes it ours")
    refused(t, c.a, "metadata that is there already", ["ext4.img", "--force"], statuses=(FAILED, REFUSED))
    c.a.cli("up", c.volume)
    c.promote(c.a, protected=False)
    proc.run(["nbdcopy", c.a.uri, t.dir / "zeroes"], timeout_s=60)
    t.check(proc.run(["cmp", "-n", 64 * MIB, t.dir / "zeroes", "/dev/zero"], ok=None).returncode == 0,
            "and it starts as zeroes: what was there is not shown")

    t.step("in use")
    other = Cluster(t, size=64 * MIB, name="second", names=("paris-a",), backings=(t.dir / "ext4.img",))
    other.a.start(wait=False)
    other.a.wait_ready()
    refused(t, other.a, "a backing that another daemon serves", ["ext4.img", "in use"], command="up")
    other.stop()
    t.check(c.a.status()["serving"], "who serves it goes on")
    c.stop()

    t.step("too small")
    for size in (4 * KIB, 1 * MIB):
        path = image(t, f"small{size}.img", size)
        c = single(t, f"small{size}", path)
        refused(t, c.a, f"{size // KIB} KiB", [path.name, "small"])
        c.stop()

    t.step("shrunk after it was made")
    path = image(t, "shrunk.img")
    c = Cluster(t, size=None, name="shrunk", names=("paris-a",), backings=(path,))
    c.a.extra = {"metadata": t.dir / "shrunk.meta"}  # else it would be gone with the end of the backing
    c.write_config()
    c.a.start()
    c.create()
    c.promote(c.a, protected=False)
    c.stop()
    os.truncate(path, 32 * MIB)
    c.a.start()
    refused(t, c.a, "half of it is gone", ["shrunk.img", "shrunk"], command="up")
    c.stop()

    t.step("another volume's, and none any more")
    path = image(t, "another.img")
    c = single(t, "another", path)
    c.create()
    c.stop()
    other = Cluster(t, size=64 * MIB, name="mistaken", volume="silver7", names=("paris-a",), backings=(path,))
    other.a.start()
    before = digest(path)
    refused(t, other.a, "a leg of another volume", ["another.img", c.volume, other.volume], command="up")
    t.check(digest(path) == before, "the backing is untouched")
    other.stop()
    with open(path, "r+b") as f:
        f.seek(64 * MIB)
        f.write(bytes(METADATA_BYTES))
    c.a.start()
    refused(t, c.a, "zeroes where the metadata was", ["another.img", "holds no leg"], command="up")
    c.stop()
    path = image(t, "cut.img")
    c = single(t, "cut", path, size=None)
    c.create()
    c.stop()
    os.truncate(path, 64 * MIB)
    c.a.start()
    refused(t, c.a, "the end is gone, and the metadata with it", ["cut.img", "former size"], command="up")
    c.stop()

    t.step("metadata whose file system is not mounted")
    c = Cluster(t, size=None, name="unmounted", names=("paris-a",), backings=(image(t, "unmounted.img"),))
    mount = t.dir / "mount"
    mount.mkdir()
    c.a.extra = {"metadata": mount / "meta"}
    c.write_config()
    c.a.start()
    t.check(c.a.status()["state"] == "not-created", "a blank one is one that was never made")
    c.create()
    c.promote(c.a, protected=False)
    h = nbdio.connect(c.a.uri)
    precious = os.urandom(4 * KIB)
    h.pwrite(precious, 4 * MIB)
    h.shutdown()
    c.stop()
    before = digest(c.a.backing)
    mount.rename(t.dir / "elsewhere")
    mount.mkdir()
    c.a.start()
    s = c.a.status()
    t.check(s["state"] == "failed" and "mounted" in s["why_not"], s["why_not"], s)
    refused(t, c.a, "a leg whose metadata is missing", ["unmounted.img", "not blank", "--force"], statuses=(REFUSED,))
    t.check(digest(c.a.backing) == before and not (mount / "meta").exists(), "nothing was touched, and no file was made")
    mount.rmdir()
    (t.dir / "elsewhere").rename(mount)
    c.a.cli("up", c.volume)
    c.promote(c.a, protected=False)
    h = nbdio.connect(c.a.uri)
    t.check(h.pread(4 * KIB, 4 * MIB) == precious, "mounted, it comes up with all that it held")
    h.shutdown()
    c.stop()

    t.step("one copy of the superblock is damaged")
    path = image(t, "copy.img")
    c = single(t, "copy", path)
    c.create()
    c.stop()
    damage_copies(path, 2)
    c.a.start()
    c.a.wait("to be up", lambda s: s["state"] == "up")
    said = c.a.wait_log("superblock copy 2")
    t.check("damaged" in said and "written again" in said and path.name in said, said)
    dump = json.loads(c.a.cli("metadata", "dump", "--backing", path, "--json").stdout)
    t.check([copy["state"] for copy in dump["copies"]] == ["good"] * 4, "all four are good again", dump["copies"])
    c.stop()

    t.step("three of the four copies are damaged, then all: what a leg holds is not lost without a word")
    c = Cluster(t, size=64 * MIB, name="lost")
    path = c.a.backing
    c.ready()
    h = nbdio.connect(c.a.uri)
    precious = os.urandom(4 * KIB)
    h.pwrite(precious, 4 * MIB)
    h.shutdown()
    c.stop()
    no_superblock = "none of its superblocks"
    for copies, words in (((0, 1, 3), "fewer than 2 of 4"), ((2,), "fewer than 2 of 4"), ((), no_superblock)):
        damage_copies(path, *copies)
        if words == no_superblock:
            with open(path, "r+b") as f:
                f.seek(-METADATA_LAYOUT_BYTES, os.SEEK_END)
                f.write(os.urandom(1 * MIB))
        c.a.start()
        s = c.a.status()
        t.check(s["state"] == "failed" and words in s["why_not"], s["why_not"], s)
        refused(t, c.a, "too few", [path.name, "create --force", "create --adopt --force", words], command="up")
        for option in ([], ["--adopt"]):
            p = c.a.cli("create", c.volume, *option, ok=None)
            t.check(p.returncode == REFUSED and "--adopt --force" in p.stderr, p.stderr.strip(), p.returncode)
        c.a.stop()
    c.a.start()
    c.a.cli("create", c.volume, "--adopt", "--force")
    c.a.cli("up", c.volume)
    c.a.stop()
    with open(path, "rb") as f:
        f.seek(4 * MIB)
        t.check(f.read(4 * KIB) == precious, "`create --adopt --force`, as was said, and what it held is there")

    t.step("noise where all the metadata was")
    path = image(t, "damaged.img")
    c = single(t, "damaged", path)
    c.create()
    c.stop()
    with open(path, "r+b") as f:
        f.seek(64 * MIB)
        f.write(os.urandom(METADATA_BYTES))
    c.a.start()
    refused(t, c.a, "noise where the metadata was", ["damaged.img"], command="up")
    c.stop()

    t.step("read-only")
    if os.geteuid() != 0 or fs.why_no_block_device():
        t.skip_part(f"a read-only block device needs root and a loop device: {fs.why_no_block_device()}")
    else:
        path = image(t, "readonly.img")
        readonly = fs.Loop(t, path, "-r")
        t.cleanup.callback(readonly.close)
        loop = readonly.device
        c = single(t, "readonly", loop)
        refused(t, c.a, "a read-only device", [loop, "read-only"])
        c.stop()

        t.step("a block device that is mounted")
        path = image(t, "mounted.img")
        mounted = fs.Ext4(t, make_ext4(path), name="mounted")
        c = single(t, "mounted-volume", mounted.loop)
        refused(t, c.a, "a mounted device", [mounted.loop, "in use"])
        c.stop()

        t.step("the file under a mounted loop device: not even with --force")
        before = digest(path)
        c = single(t, "under-loop", path)
        p = c.a.cli("create", c.volume, "--force", ok=None)
        t.check(p.returncode == FAILED and f"{path} is in use by" in p.stderr and mounted.loop in p.stderr,
                p.stderr.strip(), p.returncode)
        t.check(digest(path) == before, "the file is untouched")
        c.stop()
        mounted.unmount()
        beside_a_device_that_hangs(t)

    t.step("no daemon at all")
    p = c.a.cli("status", ok=None)
    t.check(p.returncode == NO_DAEMON and str(c.a.control) in p.stderr, p.stderr.strip(), p.returncode)


def beside_a_device_that_hangs(t):
    t.step("somebody's loop device stands on a FUSE file system that does not answer")
    serving = single(t, "serving", image(t, "serving.img"))
    serving.a.cli("create", serving.volume)
    serving.create_done()
    serving.promote(serving.a, protected=False)
    device = fs.BlockDevice(t, serving.a.uri, "hangs")
    device.fuse.send_signal(signal.SIGSTOP)
    t.cleanup.callback(device.fuse.send_signal, signal.SIGCONT)
    time.sleep(FUSE_FORGETS_S)
    c = single(t, "beside", image(t, "beside.img"))
    p = c.a.cli("create", c.volume)
    c.create_done()
    c.a.wait("to be up", lambda s: s["state"] == "up")
    t.check(p.returncode == 0, "created and brought up all the same")
    c.stop()
    device.fuse.send_signal(signal.SIGCONT)
    device.close()
    serving.stop()


def damage_copies(path, *copies):
    """Of the superblock, in the metadata at the end of a small backing."""
    with open(path, "r+b") as f:
        for copy in copies:
            f.seek(-METADATA_LAYOUT_BYTES + copy * 256 * KIB + 300, os.SEEK_END)
            f.write(os.urandom(100))


def make_ext4(path):
    proc.run(["mkfs.ext4", "-q", path])
    return path


def mbr(path):
    """One partition, as sfdisk would make it."""
    with open(path, "r+b") as f:
        f.seek(440)
        f.write(bytes([0x4C, 0x53, 0x4B, 0x31, 0, 0]) + bytes([0, 32, 33, 0, 0x83, 130, 170, 2, 0, 8, 0, 0, 0, 160, 0, 0]))
        f.seek(510)
        f.write(b"\x55\xaa")


if __name__ == "__main__":
    run.main(test, limit_s=90)
