"""Processes, sockets and files of a run, all gone when it ends, however it ends."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

START_DEADLINE_S = 20
STOP_DEADLINE_S = 20
POLL_S = 0.02
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """Something that is told to the user in one line, without a traceback."""


def find_program(name, package=None):
    path = shutil.which(name)
    if not path:
        raise Failure(f"{name} is not installed" + (f" (Debian: apt-get install {package})" if package else ""))
    return path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def end_with_parent():
    """In the child: a driver that is killed outright leaves no server behind."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    def __init__(self, name, command, log_path):
        self.name = name
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self._popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           preexec_fn=end_with_parent)

    @property
    def pid(self):
        return self._popen.pid

    def running(self):
        return self._popen.poll() is None

    def cpu_s(self):
        """User and system time so far, of all threads."""
        try:
            with open(f"/proc/{self.pid}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        """{"total", "anon", "file", "shmem"}: what of it is in memory."""
        names = {"VmRSS": "total", "RssAnon": "anon", "RssFile": "file", "RssShmem": "shmem"}
        found = {}
        try:
            with open(f"/proc/{self.pid}/status") as f:
                for line in f:
                    key, _, value = line.partition(":")
                    if key in names:
                        found[names[key]] = int(value.split()[0]) * 1024
        except OSError:
            pass
        if len(found) != len(names):  # gone, or a zombie, which has no memory
            raise Failure(f"{self.name} (pid {self.pid}) has ended{self.log_tail()}")
        return found

    def log_tail(self, lines=8):
        try:
            with open(self.log_path, errors="replace") as f:
                tail = f.read().strip().splitlines()[-lines:]
        except OSError:
            return ""
        return "".join(f"\n    {self.name}: {line}" for line in tail)

    def require_running(self):
        if not self.running():
            raise Failure(f"{self.name} ended with status {self._popen.returncode}{self.log_tail()}")

    def kill(self):
        self._popen.kill()
        self._popen.wait()

    def stop(self):
        """SIGTERM, and SIGKILL for one that does not listen. Returns whether it ended by itself."""
        if self.running():
            self._popen.terminate()
            try:
                self._popen.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
                return False
        return True


def _exit_on(number, _):
    raise SystemExit(128 + number)


class Workspace:
    """A temporary directory for sockets, configurations and logs, and the processes started in it."""

    def __init__(self):
        self._processes = []
        self._files = []
        self.dir = tempfile.mkdtemp(prefix="lockstep-bench-")
        self._serial = 0

    def __enter__(self):
        self._handlers = {number: signal.signal(number, _exit_on) for number in ENDING_SIGNALS}
        return self

    def __exit__(self, *_):
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C does not cut the cleaning short
        try:
            self._clean()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _clean(self):
        for process in reversed(self._processes):
            process.stop()
        for path in self._files:
            if os.path.exists(path):
                os.unlink(path)
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        """A fresh name in the temporary directory, short enough for a unix socket."""
        self._serial += 1
        return os.path.join(self.dir, f"{self._serial}-{name}")

    def own_file(self, path):
        """A file outside the directory that goes when the run ends."""
        self._files.append(path)
        return path

    def start(self, name, command):
        process = Process(name, command, self.path(f"{name}.log"))
        self._processes.append(process)
        return process

    def kill(self, process):
        self._processes.remove(process)
        process.kill()

    def stop(self, process):
        self._processes.remove(process)
        if not process.stop():
            raise Failure(f"{process.name} did not end within {STOP_DEADLINE_S} s of SIGTERM{process.log_tail()}")


def wait_until(what, condition, process, deadline_s=START_DEADLINE_S, poll_s=POLL_S):
    """Polls `condition` while `process` lives, up to a deadline. Returns its first true value."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        process.require_running()
        if time.monotonic() > end:
            raise Failure(f"{process.name}: {what} did not happen within {deadline_s} s{process.log_tail()}")
        time.sleep(poll_s)


def nbd_greets(address):
    """Whether an NBD server answers: address is a unix socket's path or (host, port)."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        try:
            s.connect(address)
            return s.recv(8) == b"NBDMAGIC"
        except OSError:
            return False
