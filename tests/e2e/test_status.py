#!/usr/bin/python3
"""`lockstep status` tells the truth, also when something is odd: a peer that is somebody else's, a volume whose thread
hangs, a place to print to that is full."""

import contextlib
import ctypes
import json
import os
import signal

from lib import proc, run
from lib.cluster import BUILD, FAILED, MIB, Cluster

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000  # waitpid: threads, too


@contextlib.contextmanager
def hanging(tid):
    """One thread of a process stands still, as one that waits for a broken device does; the others go on."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long

    def ptrace(request):
        if libc.ptrace(request, tid, None, None) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")
    ptrace(PTRACE_SEIZE)
    ptrace(PTRACE_INTERRUPT)
    os.waitpid(tid, WALL)
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH)


def test(t):
    c = Cluster(t, size=64 * MIB, dead_after="1min")
    c.ready()

    t.step("the thread of the volume hangs")
    tid = next(tid for tid, name in c.a.threads().items() if name.startswith("vol-"))
    try:
        stack = contextlib.ExitStack()
        stack.enter_context(hanging(tid))
    except OSError as e:
        t.skip_part(f"a thread that hangs: {e}")
    else:
        with stack:
            s = c.a.status()
            t.check(s is not None, "status answers nonetheless")
            t.check(not s["protected"] and s["why_not"], f"and claims nothing: {s['why_not']}", json.dumps(s))
        c.a.wait("to be protected again", lambda s: s["protected"])

    t.step("SIGHUP ends nobody")
    c.a.daemon.send_signal(signal.SIGHUP)
    c.a.wait_log("SIGHUP: nothing was read again")
    t.check(c.a.status()["protected"], "the primary goes on")

    t.step("clients that come and go, as a monitor's do, do not push the state changes out of the events")
    proc.run(["nbdinfo", "--size", c.a.uri])
    c.a.wait_log("NBD client")
    topics = [json.loads(line)["topic"] for line in c.a.cli("events", "--no-follow", "--json").stdout.splitlines()]
    t.check("role" in topics and "client" not in topics, "they are in the log only", topics)

    t.step("the volume is down: what nobody has looked at is null, not zero")
    c.b.cli("down", c.volume)
    s = c.b.wait("to be down", lambda s: s["state"] == "down")
    unknown = [s[key] for key in ("role", "epoch", "lsn", "size_bytes", "leg", "writes_waiting", "oldest_waiting_us")]
    unknown += [s["peer"][key] for key in ("leg", "out_of_sync_bytes", "rtt_us", "resync")]
    t.check(set(unknown) == {None}, "null", json.dumps(s))
    t.check(not s["protected"] and not s["serving"] and "lockstep up" in s["why_not"], f"why not: {s['why_not']}", json.dumps(s))
    c.b.cli("up", c.volume)
    c.a.wait("to be protected again", lambda s: s["protected"])

    t.step("nothing can be printed")
    with open("/dev/full", "w", encoding="ascii") as full:
        for words in (("status",), ("status", "--json"), ("events", "--no-follow"), ("up", c.volume)):
            p = proc.run([BUILD / "lockstep", *words, "--control", c.a.control], ok=None, stdout=full)
            t.check(p.returncode == FAILED and p.stderr, f"`lockstep {' '.join(words)}` fails: {p.stderr.strip()}", p.returncode)
    c.stop()

    if os.geteuid() != 0:
        t.skip_part("`device: auto` needs root, to make /run/lockstep")
    else:
        t.step("`device: auto`, with the control socket elsewhere: its directory is made, too")
        c = Cluster(t, size=64 * MIB, name="auto", volume=f"e2e-{os.getpid()}", names=("paris-a",))
        c.a.extra = {"device": "auto"}
        c.write_config()
        c.a.start()
        c.create()
        t.check(os.path.exists(f"/run/lockstep/{c.volume}.sock"), f"{c.a.status()['device']} is there")
        c.stop()
        with contextlib.suppress(OSError):  # somebody else's volume
            os.rmdir("/run/lockstep")

    t.step("the peer is somebody else's")
    c = Cluster(t, size=64 * MIB, name="strangers")
    c.b.settings = {"volume": "silver7"}
    c.write_config()
    for n in c.nodes:
        n.start(wait=False)
    c.a.wait_ready()
    c.a.cli("create", c.volume)
    c.a.cli("up", c.volume)
    run.wait_until("B's daemon to answer", lambda: c.b.cli("create", "silver7", ok=None).returncode == 0, 15)
    c.b.cli("up", "silver7")
    s = c.a.wait("to be refused", lambda s: s["peer"]["link"] == "refused")
    t.check("silver7" in s["why_not"], f"why not: {s['why_not']}", json.dumps(s))
    c.stop()


if __name__ == "__main__":
    run.main(test, limit_s=60)
