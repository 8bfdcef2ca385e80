"""A volume as a real block device with ext4 on it: NBD export -> nbdfuse -> loop device -> mkfs, mount.

Everything here ends within its deadline even when the daemon behind the export is gone and I/O fails. What must not
be is a daemon that is alive but waits for its peer: unmounting would wait with it. So kill() or promote first."""

import os
import shutil
import stat
import subprocess

from lib import proc
from lib.run import Failure, wait_until


def need_block_device(t):
    """Skips the test, with the reason, where an export cannot become a block device."""
    t.need_root()
    t.need("nbdfuse", "losetup", "mkfs.ext4", "e2fsck", "mount")
    reason = why_no_block_device()
    if reason:
        t.skip(reason)


def why_no_block_device():
    for device in ("/dev/fuse", "/dev/loop-control"):
        try:
            if not stat.S_ISCHR(os.stat(device).st_mode):
                return f"{device} is no device"
            os.close(os.open(device, os.O_RDWR))
        except OSError as e:
            return f"cannot open {device}: {e.strerror}"
    p = proc.run(["losetup", "-f"], ok=None)
    loop = p.stdout.strip()
    if p.returncode != 0 or not os.path.exists(loop):
        return f"no free loop device: {p.stderr.strip() or loop + ' is missing'}"
    return None


def quietly(argv, seconds=20):
    """For clean-up: a program that may fail, and must not hang."""
    p = proc.spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return p.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        p.kill()
        return None


class Loop:
    """A loop device that goes when nobody has it open any more: also when the test is killed outright, as the one who
    keeps it open until then dies with the test, and mounts go with the test's namespace."""

    def __init__(self, t, path, *options):
        self.device = proc.run(["losetup", *options, "--show", "-f", path]).stdout.strip()
        t.loops.append(self.device)
        try:
            # A process of its own: the last close of a device whose server hangs may never return.
            with open(self.device, "rb") as f:
                self.keeper = proc.spawn(["sleep", "infinity"], stdin=f)
        finally:
            quietly(["losetup", "-d", self.device])

    def close(self):
        if self.keeper.poll() is None:
            self.keeper.kill()
        try:
            self.keeper.wait(timeout=20)
        except subprocess.TimeoutExpired:
            pass  # whoever looks for what is left behind will find it


class BlockDevice:
    """An NBD export, or with losetup's options a part of it, as /dev/loopN."""

    def __init__(self, t, uri, name="dev", *part):
        self.t = t
        self.dir = t.dir / name
        self.dir.mkdir()
        self.loop = self.loop_device = None
        self.log = t.dir / f"{name}.log"
        pidfile = t.dir / f"{name}.pid"
        self.fuse = proc.spawn(["nbdfuse", "-P", pidfile, self.dir, uri], log=self.log)
        t.cleanup.callback(self.close)

        def up():
            if self.fuse.poll() is not None:
                raise Failure(f"nbdfuse: {self.log.read_text().strip()}")
            return pidfile.exists()
        wait_until("nbdfuse to mount", up, 20)
        self.loop_device = Loop(t, self.dir / "nbd", "--direct-io=on", *part)
        self.loop = self.loop_device.device

    def close(self):
        if self.loop_device:
            self.loop_device.close()
            self.loop = self.loop_device = None
        if self.fuse:
            quietly(["umount", self.dir]) == 0 or quietly(["umount", "-l", self.dir])
            try:
                self.fuse.wait(timeout=5)
            except subprocess.TimeoutExpired:
                pass
            proc.kill(self.fuse)
            self.fuse = None


class Ext4:
    """A mounted ext4. `device`: a block device; or an image file, which gets a loop device of its own."""

    def __init__(self, t, device, name="mnt", options="", make=False):
        self.t = t
        self.dir = t.dir / name
        self.dir.mkdir(exist_ok=True)
        self.loop = self.loop_device = None
        self.mounted = False
        t.cleanup.callback(self.close)
        if os.path.isfile(device):
            self.loop_device = Loop(t, device)
            self.loop = self.loop_device.device
        device = self.loop or device
        if make:
            # Lazy initialisation would write behind our back for minutes.
            proc.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device], timeout_s=120)
        proc.run(["mount", "-t", "ext4", *(["-o", options] if options else []), device, self.dir], timeout_s=60)
        self.mounted = True

    def unmount(self):
        proc.run(["umount", self.dir], timeout_s=60)
        self.mounted = False
        self.close()

    def close(self):
        """Whatever state it is in; a device that is gone included."""
        if self.mounted:
            quietly(["umount", self.dir]) == 0 or quietly(["umount", "-l", self.dir])
            self.mounted = False
        if self.loop_device:
            self.loop_device.close()
            self.loop = self.loop_device = None


def copy_leg(backing, size_bytes, to):
    """The volume as it lies on a leg: data starts at the backing's first byte. The copy is sparse, the leg untouched."""
    proc.run(["cp", "--sparse=always", backing, to], timeout_s=300)
    os.truncate(to, size_bytes)
    return to


def assert_clean_after_replay(t, image):
    """What a server that takes over would do: mount (which replays the journal), and nothing more. Then e2fsck, which
    may look but not touch, has to find no fault."""
    fs = Ext4(t, image, name="replay")
    fs.unmount()
    p = proc.run(["e2fsck", "-fn", image], ok=None, timeout_s=300)
    t.check(p.returncode == 0, "e2fsck -fn finds nothing to complain of", f"exit {p.returncode}: {p.stdout} {p.stderr}")


def remove(path):
    shutil.rmtree(path, ignore_errors=True)
