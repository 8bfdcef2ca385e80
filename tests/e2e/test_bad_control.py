#!/usr/bin/python3
"""What can go wrong on the control socket: garbage, oversized and half messages, clients that vanish or never read. The
daemon answers the next command as if nothing had happened."""

import os
import random
import signal
import socket
import threading

from lib import alloc, nbdio, proc, run
from lib.cluster import BUILD, KIB, MIB, Cluster
from lib.run import wait_until

RSS_SLACK_BYTES = 4 * MIB


def connect(node):
    s = socket.socket(socket.AF_UNIX)
    s.connect(str(node.control))  # waits while the daemon's queue of connections is full
    s.settimeout(10)
    return s


def send(node, data, read=True):
    """Sends what may be refused half-way, and reads the answer, if one comes, until the daemon closes."""
    s = connect(node)
    answer = b""
    try:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        while read and (more := s.recv(65536)):
            answer += more
    except OSError:
        pass
    s.close()
    return answer


def record(node, *words):
    """The bytes that `lockstep` sends for a command, taken down by a listener in between."""
    path = node.dir / "tap"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    taken = bytearray()

    def relay():
        client, _ = listener.accept()
        daemon = connect(node)
        client.settimeout(5)

        def back():
            try:
                while data := daemon.recv(65536):
                    client.sendall(data)
            except OSError:
                pass
            client.close()
        answers = threading.Thread(target=back, daemon=True)
        answers.start()
        try:
            while data := client.recv(65536):
                taken.extend(data)
                daemon.sendall(data)
        except OSError:
            pass
        daemon.close()
    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    proc.run([BUILD / "lockstep", *words, "--control", path], ok=None)
    thread.join(5)
    listener.close()
    path.unlink()
    return bytes(taken)


def test(t):
    rng = random.Random(t.seed)
    c = Cluster(t, size=64 * MIB)
    t.step("two nodes under load")
    c.ready()
    load = nbdio.start(nbdio.scribblers(c.a.uri, c.size, t.seed, 2))
    a = c.a
    files = len(os.listdir(f"/proc/{a.pid}/fd"))
    rss = a.rss_bytes()

    def fine(what):
        t.check(a.status()["protected"] and a.running, f"{what}: the next command is answered")

    t.step("garbage, and messages longer than any command")
    for what, data in (("noise", rng.randbytes(1 * MIB)), ("zeroes", bytes(64 * KIB)), ("all ones", b"\xff" * (1 * MIB)),
                       ("a length of 4 GiB, little endian", b"\xff\xff\xff\xff" + b"x" * (4 * MIB)),
                       ("a length of 2 GiB, big endian", b"\x7f\xff\xff\xff" + b"x" * (4 * MIB)),
                       ("a web browser", b"GET / HTTP/1.1\r\n\r\n"), ("one byte", b"\x01"), ("nothing", b"")):
        send(a, data)
        fine(what)

    t.step("real commands, cut off at every byte, and with every byte altered")
    for words in (("status", "--json"), ("promote", c.volume)):
        request = record(a, *words)
        if not request:
            raise run.Failure(f"`lockstep {' '.join(words)}` sent nothing")
        for cut in range(len(request)):
            send(a, request[:cut])
        for at in range(len(request)):
            for _ in range(4):
                altered = bytearray(request)
                altered[at] ^= 1 << rng.randrange(8)
                # Whoever alters a status request may get something else, but never orders a change of state from it.
                send(a, bytes(altered), read=words[0] == "status")
        fine(f"`lockstep {' '.join(words)}` ({len(request)} bytes), maimed")

    t.step("clients that vanish")
    for _ in range(200):
        connect(a).close()
    request = record(a, "status", "--json")
    for _ in range(100):
        s = connect(a)
        s.sendall(request)
        s.close()
    fine("300 clients gone before the answer")

    t.step("clients that say nothing: as many as one likes, and a command still gets through")
    silent = []
    for _ in range(300):
        try:
            silent.append(connect(a))
        except OSError:
            break
    fine(f"{len(silent)} silent clients")
    for s in silent:
        s.close()

    t.step("followers of events: one is killed, one never reads")
    logs = [t.dir / f"follower{i}.log" for i in range(2)]
    followers = [proc.spawn([BUILD / "lockstep", "events", "--control", a.control], log=path) for path in logs]
    t.cleanup.callback(lambda: [proc.kill(f) for f in followers])
    log = a.follow_events()
    # Whoever follows is told first what happened before.
    wait_until("all three to follow", lambda: all(path.stat().st_size for path in (*logs, log)), 10)
    followers[0].kill()
    followers[1].send_signal(signal.SIGSTOP)
    for _ in range(20 if t.long else 4):
        c.b.cli("down", c.volume)
        a.wait("not to be protected", lambda s: not s["protected"])
        c.b.cli("up", c.volume)
        a.wait("to be protected", lambda s: s["protected"])
    wait_until("the good follower to have been told", lambda: "not protected" in log.read_text(), 10, describe=log.read_text)
    fine("a follower that never reads")
    proc.kill(followers[1])

    t.step("nothing stays behind")
    proc.kill(a.events_process)
    wait_until("all of those connections to be closed", lambda: len(os.listdir(f"/proc/{a.pid}/fd")) <= files, 15,
               describe=lambda: f"{len(os.listdir(f'/proc/{a.pid}/fd'))} open files, {files} before")
    grown = a.rss_bytes() - rss
    if not alloc.is_sanitized(BUILD / "lockstepd"):  # a sanitizer keeps what was freed
        t.check(grown < RSS_SLACK_BYTES, f"memory: {grown // KIB:+} KiB")
    wrong = [s.errors for s in load if s.errors]
    nbdio.stop(load)
    t.check(not wrong, f"the load ({nbdio.total_ops(load)} requests) noticed nothing", wrong)
    c.stop()
    c.assert_legs_equal("after all that")


if __name__ == "__main__":
    run.main(test, limit_s=120)
