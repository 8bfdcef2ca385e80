"""How a test runs: it says what it does, waits with deadlines, and leaves nothing behind however it ends.

A test is a function that takes a Test:

    def test(t):
        t.step("what happens now, and what it proves")
        t.check(x == y, "legs are equal", f"{x} != {y}")

    if __name__ == "__main__":
        run.main(test, limit_s=60)

Exit status: 0 passed, 1 failed, 77 skipped with the reason printed.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

SKIPPED = 77
PATIENCE = 3  # times every deadline: they are made for a machine that has its CPU to itself
LEFT_S = 10  # what was killed a moment ago may still be on its way out
TELL_EVERY_S = 20  # what takes longer says how far it is

# losetup, mkfs and their like are not on everybody's.
os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"

HERE = pathlib.Path(__file__).resolve().parent.parent
TOP = HERE.parent.parent
BUILD = pathlib.Path(os.environ.get("LOCKSTEP_BUILD", TOP / "build")).resolve()


class Failure(Exception):
    """What the test set out to show is not so."""


class Skip(Exception):
    """The machine lacks what the test needs."""


class Test:
    def __init__(self, name, limit_s):
        self.name = name
        self.limit_s = limit_s
        self.long = os.environ.get("LOCKSTEP_LONG", "") not in ("", "0")
        self.seed = int(os.environ.get("LOCKSTEP_SEED") or time.time_ns() % 1_000_000)
        self.cleanup = contextlib.ExitStack()
        self.started = time.monotonic()
        self.steps = 0
        self.parts_skipped = 0
        self.loops = []  # devices that the test has made
        # On a disk, and short: a unix socket's path has 108 bytes.
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lse2e-", dir=os.environ.get("LOCKSTEP_SCRATCH", "/var/tmp")))
        self.dir.chmod(0o711)
        self.cleanup.callback(shutil.rmtree, self.dir, ignore_errors=True)

    def rounds(self, short, long):
        """How many of them: by the form, or by LOCKSTEP_ROUNDS."""
        return int(os.environ.get("LOCKSTEP_ROUNDS") or (long if self.long else short))

    def step(self, text):
        self.steps += 1
        print(f"[{time.monotonic() - self.started:6.1f}s] {self.steps:2}. {text}", flush=True)

    def say(self, text):
        print(f"{'':13}{text}", flush=True)

    def check(self, ok, what, otherwise=""):
        """States a fact; a false one ends the test."""
        if not ok:
            raise Failure(f"{what}: not so. {otherwise}")
        self.say(f"ok: {what}")

    def skip(self, reason):
        raise Skip(reason)

    def skip_part(self, reason):
        """The rest of the test goes on; the result tells of what was left out."""
        self.parts_skipped += 1
        print(f"skipped: {reason}", flush=True)

    def need(self, *programs):
        for program in programs:
            if not find_program(program):
                self.skip(f"{program} is not installed")

    def need_root(self):
        if os.geteuid() != 0:
            self.skip("needs root (mounts, loop devices)")

    def keep_logs(self):
        """After a failure: the daemons' logs and configuration outlive the scratch directory; with LOCKSTEP_KEEP=all also
        disks and journals."""
        keep_all = os.environ.get("LOCKSTEP_KEEP") == "all"
        kept = pathlib.Path(os.environ.get("LOCKSTEP_LOGS", BUILD / "e2e-failed")) / self.name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        # Nothing mounted is looked at: it may be a volume whose writes wait, and would make us wait, too.
        with open("/proc/self/mountinfo", encoding="utf-8") as f:
            mounted = {line.split()[4] for line in f}
        for folder, folders, names in os.walk(self.dir):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in mounted]
            for file in (pathlib.Path(folder, name) for name in sorted(names)):
                if not file.is_file():
                    continue
                to = kept / str(file.relative_to(self.dir)).replace("/", "-")
                if file.suffix in (".log", ".yaml") and file.stat().st_size < 64 << 20:
                    shutil.copy(file, to)
                elif keep_all:
                    subprocess.run(["cp", "--sparse=always", file, to], check=True, timeout=300)
        return kept


def find_program(name):
    return shutil.which(name)


def wait_until(what, predicate, seconds, poll_s=0.02, describe=None, pause=None):
    """Returns the predicate's first true value; a Failure that tells what was seen last when the time is over, PATIENCE times
    as many seconds. `pause`: returns when it may be worth looking again."""
    seconds *= PATIENCE
    began = time.monotonic()
    told = began
    while True:
        value = predicate()
        if value:
            return value
        now = time.monotonic()
        if now > began + seconds:
            seen = f"; last seen: {describe()}" if describe else ""
            raise Failure(f"waited {seconds} s in vain for: {what}{seen}")
        if now > told + TELL_EVERY_S:
            told = now
            print(f"{'':13}... {now - began:.0f} s: {what}{f': {describe()}' if describe else ''}", flush=True)
        if pause:
            pause()
        else:
            time.sleep(poll_s)


def stays(what, predicate, seconds, poll_s=0.05):
    """The opposite of waiting: the predicate has to hold at every look for that long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not predicate():
            raise Failure(f"did not last: {what}")
        time.sleep(poll_s)


def left_behind(folder, loops):
    """What still knows of a scratch directory that is gone: loop devices and processes."""
    found = []
    for loop in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            # Of a file on a FUSE mount that was taken away the kernel knows no more than "/nbd".
            if str(folder) in loop.read_text() or (loop.read_text().strip() == "/nbd" and f"/dev/{loop.parts[3]}" in loops):
                found.append(f"/dev/{loop.parts[3]} on {loop.read_text().strip()}")
        except OSError:
            pass
    for command in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(folder) in command.read_bytes():
                found.append(f"process {command.parts[2]}: {command.read_bytes().replace(bytes(1), b' ').decode(errors='replace')}")
        except OSError:
            pass
    return found


def _on_signal(number, _frame):
    raise SystemExit(128 + number)


def _on_alarm(_number, _frame):
    raise Failure("took longer than it may")


def _enter_mount_namespace():
    """Mounts made in here vanish with the last process that sees them, even if all of them are killed."""
    if os.environ.get("LOCKSTEP_E2E_NAMESPACE") or os.geteuid() != 0:
        return
    os.environ["LOCKSTEP_E2E_NAMESPACE"] = "1"
    unshare = find_program("unshare")
    if unshare and subprocess.run([unshare, "-m", "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
        os.execv(unshare, [unshare, "-m", sys.executable] + sys.argv)


def main(function, limit_s, long_limit_s=None, teller=Test):
    _enter_mount_namespace()
    name = pathlib.Path(sys.argv[0]).name.removesuffix(".py")
    t = teller(name, limit_s)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _on_signal)
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.alarm(PATIENCE * (long_limit_s or 20 * limit_s if t.long else limit_s))
    status = 1
    try:
        with t.cleanup:
            try:
                if not (BUILD / "lockstepd").exists():
                    t.skip(f"no lockstepd in {BUILD}")
                function(t)
                status = 0
            except Skip as reason:
                print(f"SKIP {name}: {reason}", flush=True)
                status = SKIPPED
            except BaseException as e:
                signal.alarm(0)
                if isinstance(e, Failure):
                    where = traceback.extract_tb(e.__traceback__)
                    line = next((f for f in reversed(where) if pathlib.Path(f.filename).name in (name, name + ".py")), where[-1])
                    print(f"FAIL {name}:{line.lineno}: {e}", flush=True)
                else:
                    traceback.print_exc()
                print(f"     seed {t.seed}; logs kept in {t.keep_logs()}", flush=True)
                if isinstance(e, SystemExit):
                    status = e.code
            finally:
                # From here on nothing may be cut short: what was started has to be ended.
                signal.alarm(0)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
    except BaseException:
        traceback.print_exc()
        status = status or 1
    until = time.monotonic() + LEFT_S
    while (left := left_behind(t.dir, t.loops)) and time.monotonic() < until:
        time.sleep(0.1)
    for thing in left:
        print(f"LEFT BEHIND: {thing}", flush=True)
        status = status or 1
    if status == 0 and teller is Test:
        print(f"PASS {name} in {time.monotonic() - t.started:.1f} s", flush=True)
        if t.parts_skipped:
            print(f"1 passed, 0 failed, {t.parts_skipped} skipped", flush=True)
    sys.stdout.flush()
    # Not sys.exit(): a thread of ours that hangs on a dead device must not keep the test from ending.
    os._exit(status)
