"""Processes that die with the test, and are waited for with a deadline."""

import os
import signal
import subprocess

from lib.run import PATIENCE, Failure, find_program, wait_until


def spawn(argv, log=None, user=None, **more):
    """Starts a program that is killed when this process dies. Call from the main thread: the kernel ties the two
    to the thread that forked. `log`: a file its stderr (and stdout, unless given) is appended to."""
    cover = [find_program("setpriv"), "--pdeathsig", "KILL"]
    if user:
        cover += ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    if log:
        with open(log, "ab") as f:
            more.setdefault("stdout", f)
            return subprocess.Popen(cover + ["--"] + [str(a) for a in argv], stderr=f, **more)
    return subprocess.Popen(cover + ["--"] + [str(a) for a in argv], **more)


def run(argv, timeout_s=30, ok=(0,), user=None, input=None, **more):
    """Runs to the end, with input and output as text. `ok`: exit statuses that are no failure; None: any."""
    if input is not None:
        more["stdin"] = subprocess.PIPE
    more.setdefault("stdout", subprocess.PIPE)
    more.setdefault("stderr", subprocess.PIPE)
    p = spawn(argv, user=user, text=True, errors="replace", **more)
    try:
        out, err = p.communicate(input, timeout=timeout_s * PATIENCE)
    except subprocess.TimeoutExpired:
        p.kill()
        raise Failure(f"{' '.join(map(str, argv))}: did not end within {timeout_s * PATIENCE} s") from None
    except BaseException:
        p.kill()
        raise
    if ok is not None and p.returncode not in ok:
        raise Failure(f"{' '.join(map(str, argv))}: exit {p.returncode}: {(err or out or '').strip()[-2000:]}")
    return subprocess.CompletedProcess(argv, p.returncode, out or "", err or "")


def kill(p, seconds=20):
    """SIGKILL, and gone."""
    if p and p.poll() is None:
        p.kill()
        wait(p, seconds, "after SIGKILL")
    return p.returncode if p else None


def wait(p, seconds, why=""):
    try:
        return p.wait(timeout=seconds * PATIENCE)
    except subprocess.TimeoutExpired:
        what = p.args[-1] if not isinstance(p.args, str) else p.args
        raise Failure(f"{what} (pid {p.pid}) still runs after {seconds * PATIENCE} s {why}") from None


def wait_stopped(p, seconds=20):
    """After SIGSTOP: the signal is only on its way."""
    def is_stopped():
        with open(f"/proc/{p.pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rsplit(")", 1)[1].split()[0] in "TtZ"
    wait_until(f"pid {p.pid} to stand still", is_stopped, seconds, poll_s=0.001)


def children(pid):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as f:
                    if int(f.read().rsplit(")", 1)[1].split()[1]) == pid:
                        found.append(int(name))
            except OSError:
                pass
    return found


def kill_family(p, seconds=20):
    """SIGKILL to a process and its children, by their ids: also those that have made themselves leaders of a session."""
    if p.poll() is not None:
        return
    p.send_signal(signal.SIGSTOP)  # no child is born while they are counted
    family = [p.pid, *children(p.pid)]
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    wait(p, seconds, "after SIGKILL")
    wait_until("its children to end", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in family[1:]), seconds)
