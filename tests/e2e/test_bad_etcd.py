#!/usr/bin/python3
"""What can be wrong with an etcd: what is none, values that are none, a full database, users, a cluster that was restored or
is empty. A node is told what it is, and what to do."""

import http.server
import json
import subprocess
import threading

from lib import proc, run
from lib.etcd import Etcd
from lib.register import Probe

MIB = 1 << 20


def answered(t, what, answer, outcome, says=""):
    t.check(answer["outcome"] == outcome and says in answer["reason"], f"{what}: {outcome} {answer['reason']}", answer)
    return answer


def urls(t):
    t.step("URLs that are none: refused before anything is asked")
    for url, says in {"etcd+http://127.0.0.1": "no HOST:PORT", "etcd+https://root:secret@127.0.0.1:2379": "not supported",
                      "etcd+http://127.0.0.1:2379,http://127.0.0.1:2380": "once", "etcd://127.0.0.1:1": "expected"}.items():
        p = proc.run([run.BUILD / "tests/e2e/register_probe", url, 1000], ok=None, stdin=subprocess.DEVNULL)
        t.check(p.returncode == 2 and says in p.stderr, p.stderr.strip(), p)
    p = proc.run([run.BUILD / "tests/e2e/register_probe", "etcd+https://127.0.0.1:1", 1000, "/nowhere/ca.pem"], ok=None, stdin=subprocess.DEVNULL)
    t.check(p.returncode == 2 and "/nowhere/ca.pem" in p.stderr, p.stderr.strip(), p)


class Stranger(http.server.BaseHTTPRequestHandler):
    """A web server, and an etcd of long ago."""
    protocol_version = "HTTP/1.1"
    answer = b""
    status = 200

    def do_POST(self):  # noqa: N802, the base class's name
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *words):
        pass


class StrangersServer(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that has heard enough hangs up."""


def is_told(t, what, p, says):
    """Of a register out of reach. It is asked again while there is time; what is told is why it failed last, and that may be
    that the time was over."""
    answers = [p.read()]
    run.wait_until(f"{what}: {says}", lambda: says in answers[-1]["reason"] or answers.append(p.read()), 20, describe=lambda: answers[-1])
    answered(t, what, answers[-1], "unreachable", says)


def strangers(t, etcd):
    t.step("an endpoint that is no etcd: passed over, and told of if it is the only one")
    server = StrangersServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    t.cleanup.callback(server.shutdown)
    endpoint = f"127.0.0.1:{server.server_port}"
    p = Probe(t, etcd.url(endpoint), timeout_ms=500)
    for status, body, says in ((404, b"Not Found", "etcd 3.4"), (200, b"<html>hello</html>", "none of etcd's"),
                               (200, b"{}", "none of etcd's"), (200, b'{"kvs":[]}', "none of etcd's"),
                               (200, b" " * (80 << 10), "longer"), (503, b'{"message":"etcdserver: no leader"}', "no leader"),
                               (302, b"", "HTTP status 302")):
        Stranger.status, Stranger.answer = status, body
        is_told(t, f"{status} {body[:30].decode().strip()}", p, says)
        both = Probe(t, etcd.url(endpoint, *etcd.members), timeout_ms=3000)
        answered(t, "with a true one behind it", both.read(), "stands")
        both.close()
    p.close()
    nobody = Probe(t, "etcd+http://127.0.0.1:1", timeout_ms=500)
    is_told(t, "nobody there", nobody, "127.0.0.1:1")
    nowhere = Probe(t, "etcd+http://no-such-host.invalid:2379", timeout_ms=500)
    is_told(t, "no such name", nowhere, "no-such-host.invalid")
    nobody.close()
    nowhere.close()


def foreign_values(t, etcd):
    t.step("what is none of Lockstep's in its key is left there")
    p = Probe(t, etcd.url())
    for value, says in (("hello", "none of Lockstep's"), ("", "none of Lockstep's"), ("x" * 10000, "none of Lockstep's"),
                        ('{"lockstep":1}', "none of Lockstep's"), ('{"lockstep":2,"new":"form"}', "upgrade this node")):
        etcd.put("/lockstep/foreign", value)
        answered(t, f"{value[:30]!r}, read", p.read("foreign"), "refused", says)
        answered(t, "swapped", p.swap(None, volume="foreign"), "refused", says)
        answered(t, "adopted", p.swap(None, volume="foreign", cause="adopt", over_older=True), "refused", says)
        t.check(etcd.get("/lockstep/foreign") == value, "it is still there")
    p.close()


def no_space(t):
    t.step("etcd's database is full")
    etcd = Etcd(t, "etcd-full", options=["--quota-backend-bytes", str(4 * MIB)]).start()
    p = Probe(t, etcd.url())
    first = answered(t, "a decree", p.swap(None), "done")
    member = etcd.members[0]
    for n in range(20):
        status, said = member.call("/v3/kv/put", key="Zm9v", value="A" * MIB)
        if status != 200:
            break
    t.check("space exceeded" in said.get("message", ""), f"full after {n} MiB", said)
    asked = p.proposal(first)
    p.ask(**asked)
    answered(t, "a swap", p.answer(), "refused", "NOSPACE")
    seen = answered(t, "a read", p.read(known_epoch=1, leg_age=5), "stands")
    t.check(seen["tag"] == first["tag"] and etcd.age() is None, "and nothing has changed; an age is not stored, and refuses nothing", seen)
    revision = etcd.call("/v3/kv/range", key="Zm9v")["header"]["revision"]
    etcd.call("/v3/kv/compaction", revision=revision, physical=True)
    etcd.call("/v3/maintenance/defragment")
    alarms = etcd.call("/v3/maintenance/alarm", action="GET")["alarms"]
    for alarm in alarms:
        etcd.call("/v3/maintenance/alarm", action="DEACTIVATE", memberID=alarm["memberID"], alarm="NOSPACE")
    p.ask(**asked)
    done = answered(t, "compacted, defragmented, disarmed: the same swap", p.answer(), "done")
    t.check(done["tag"] == asked["tag"], "its own", done)
    p.close()


def users(t):
    t.step("etcd wants users")
    etcd = Etcd(t, "etcd-users").start()
    p = Probe(t, etcd.url())
    first = answered(t, "a decree", p.swap(None), "done")
    etcd.call("/v3/auth/user/add", name="root", password="secret")
    etcd.call("/v3/auth/role/add", name="root")
    etcd.call("/v3/auth/user/grant", user="root", role="root")
    etcd.call("/v3/auth/enable")
    answered(t, "a read", p.read(known_epoch=1), "refused", "--client-cert-auth")
    answered(t, "a swap", p.swap(first), "refused", "--client-cert-auth")
    p.close()


def restored(t):
    t.step("a cluster that was restored from a snapshot is an older register, also if a node knows no better")
    etcd = Etcd(t, "etcd-old").start()
    p = Probe(t, etcd.url())
    first = answered(t, "a first decree", p.swap(None), "done")
    member = etcd.members[0]
    snapshot = t.dir / "snapshot.db"
    t.need("etcdctl")
    scheme = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
    proc.run(["etcdctl", "--endpoints", member.endpoint, "snapshot", "save", snapshot], env=scheme)
    second = answered(t, "a decree after the snapshot", p.swap(first), "done")
    etcd.wipe()
    etcd.token = "restored"
    proc.run(["etcdctl", "snapshot", "restore", snapshot, "--name", member.name, "--data-dir", member.dir,
              "--initial-cluster", f"{member.name}=http://127.0.0.1:{member.peer_port}", "--initial-cluster-token", etcd.token,
              "--initial-advertise-peer-urls", f"http://127.0.0.1:{member.peer_port}"], env=scheme)
    etcd.start()
    answered(t, "for who knows of the decree that is lost", p.read(known_epoch=2), "older", "another etcd cluster")
    b = Probe(t, etcd.url(), "paris-b", "paris-a")
    seen = answered(t, "for who does not", b.read(known_epoch=1), "older", "adopt")
    t.check(seen["tag"] == first["tag"], "it is told what stands there", seen)
    answered(t, "who would take over", b.swap(first, cause="take"), "older", "adopt")
    adopted = answered(t, "adopt", p.swap(second, cause="adopt", over_older=True, epoch=1 << 20), "done")
    answered(t, "then, for the other node", b.read(known_epoch=1), "stands")
    t.check(json.loads(etcd.get("/lockstep/gold"))["cause"] == "adopt", "as the history says")

    t.step("an empty cluster, and nodes that know more")
    etcd.wipe()
    etcd.start()
    answered(t, "a read", p.read(known_epoch=adopted["epoch"]), "older", "no decree")
    answered(t, "a swap", p.swap(adopted), "older", "no decree")
    answered(t, "adopt", p.swap(adopted, cause="adopt", over_older=True, epoch=1 << 21), "done")
    p.close()
    b.close()


def test(t):
    urls(t)
    etcd = Etcd(t).start()
    strangers(t, etcd)
    foreign_values(t, etcd)
    no_space(t)
    users(t)
    restored(t)


if __name__ == "__main__":
    run.main(test, limit_s=110)
