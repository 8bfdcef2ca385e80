"""A real etcd on this machine: members of its own, in the test's scratch directory, on ports that are free; with a `net`
(lib/net.py) all of them on the host of the witness."""

import base64
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading

from lib import proc
from lib.cluster import free_port
from lib.run import Failure, wait_until


MEMORY = pathlib.Path("/dev/shm")
MEMORY_BYTES_MIN = 2 << 30  # a member sets 128 MiB aside for its log
CALL_S = 20


def scratch(t):
    """Memory, if there is enough: etcd loses its leader when a busy disk takes a second for a flush, and what is tested
    here is not the disk."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < MEMORY_BYTES_MIN:
        return t.dir
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lse2e-", dir=MEMORY))
    t.cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Member:
    def __init__(self, etcd, n):
        self.etcd, self.name = etcd, f"m{n}"
        self.address = etcd.net.address("w") if etcd.net else "127.0.0.1"
        self.port, self.peer_port = free_port(), free_port()
        self.dir = etcd.dir / self.name
        self.p = None

    @property
    def endpoint(self):
        return f"{self.address}:{self.port}"

    @property
    def log(self):
        return self.etcd.log.with_name(f"{self.etcd.log.name}-{self.name}.log")

    def start(self):
        scheme = "https" if self.etcd.tls else "http"
        initial = ",".join(f"{m.name}=http://{m.address}:{m.peer_port}" for m in self.etcd.members)
        prefix = self.etcd.net.hosts["w"].prefix if self.etcd.net else []
        words = [*prefix, "etcd", "--name", self.name, "--data-dir", self.dir, "--logger", "zap",
                 "--listen-client-urls", f"{scheme}://{self.endpoint}", "--advertise-client-urls", f"{scheme}://{self.endpoint}",
                 "--listen-peer-urls", f"http://{self.address}:{self.peer_port}",
                 "--initial-advertise-peer-urls", f"http://{self.address}:{self.peer_port}",
                 "--initial-cluster", initial, "--initial-cluster-token", self.etcd.token,
                 "--heartbeat-interval", "50", "--election-timeout", "500", *self.etcd.options]
        # It takes its options from the environment, too.
        env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        self.p = proc.spawn(words, log=self.log, env=env, stdin=subprocess.DEVNULL)
        self.etcd.t.cleanup.callback(self.kill)

    def kill(self):
        if self.p:
            proc.kill(self.p)

    def pause(self):
        self.p.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.p.send_signal(signal.SIGCONT)

    def call(self, path, **body):
        """(HTTP status, what the gateway says)."""
        if self.etcd.tls:
            context = ssl.create_default_context(cafile=self.etcd.tls.ca)
            context.load_cert_chain(self.etcd.tls.client_cert, self.etcd.tls.client_key)
            c = http.client.HTTPSConnection(self.address, self.port, timeout=CALL_S, context=context)
        else:
            c = http.client.HTTPConnection(self.address, self.port, timeout=CALL_S)
        try:
            if self.etcd.net:
                c.sock = self.etcd.net.hosts["w"].connect((self.address, self.port), CALL_S)
            c.request("POST", path, json.dumps(body))
            r = c.getresponse()
            return r.status, json.loads(r.read() or b"{}")
        finally:
            c.close()

    def ready(self):
        try:
            return self.call("/v3/kv/range", key=b64("ready?"))[0] == 200
        except (OSError, ValueError, http.client.HTTPException):
            return False


class Etcd:
    def __init__(self, t, name="etcd", members=1, tls=None, options=(), net=None):
        t.need("etcd", "setpriv")
        self.t, self.tls, self.token, self.net = t, tls, name, net
        self.options = [*options]
        if tls:
            self.options += ["--cert-file", tls.cert, "--key-file", tls.key, "--trusted-ca-file", tls.ca, "--client-cert-auth"]
        self.dir = scratch(t) / name
        self.dir.mkdir()
        self.members = []
        for n in range(members):
            self.members.append(Member(self, n))
        self.log = t.dir / name

    def start(self):
        for m in self.members:
            m.start()
        self.wait_ready()
        return self

    def wait_ready(self, members=None):
        for m in members or self.members:
            wait_until(f"etcd's {m.name} answers", m.ready, 60, describe=lambda m=m: f"its exit status: {m.p.poll()}")

    def url(self, *members):
        endpoints = [m.endpoint if isinstance(m, Member) else m for m in members or self.members]
        return f"etcd+http{'s' if self.tls else ''}://{','.join(endpoints)}"

    def call(self, path, **body):
        alive = next(m for m in self.members if m.p.poll() is None)
        status, said = alive.call(path, **body)
        if status != 200:
            raise Failure(f"etcd said {status} to {path}: {said}")
        return said

    def get(self, key, prefix=False):
        """Of one key its value, or None; of a prefix {key: value}."""
        end = {"range_end": b64(key[:-1] + chr(ord(key[-1]) + 1))} if prefix else {}
        kvs = self.call("/v3/kv/range", key=b64(key), **end).get("kvs", [])
        found = {base64.b64decode(kv["key"]).decode(): base64.b64decode(kv.get("value", "")).decode() for kv in kvs}
        return found if prefix else found.get(key)

    def put(self, key, value):
        self.call("/v3/kv/put", key=b64(key), value=b64(value))

    def history(self, volume="gold"):
        found = self.get(f"/lockstep/{volume}/history/", prefix=True)
        return {int(key.rsplit("/", 1)[1]): json.loads(value) for key, value in sorted(found.items())}

    def age(self, volume="gold", node="paris-a"):
        value = self.get(f"/lockstep/{volume}/age/{node}")
        return json.loads(value)["age"] if value else None

    def wipe(self):
        for m in self.members:
            m.kill()
            shutil.rmtree(m.dir)


class Quorum:
    """An etcd in the place of a witness (lib/witness.py), for who asks, kills and stops that one. What is done to it is done to
    some of its members: one, of which nobody may notice anything, or so many that nothing is decided any more."""
    name = "etcd"

    def __init__(self, t, net):
        self.etcd = Etcd(t, members=3, net=net).start()
        self.url = self.etcd.url()
        self.hit = self.etcd.members

    def draw(self, seed, number):
        """Who is hit in that round."""
        rng = random.Random(f"{seed}/{number}/members")
        self.hit = rng.sample(self.etcd.members, rng.randint(1, len(self.etcd.members)))

    @property
    def running(self):
        return all(m.p.poll() is None for m in self.etcd.members)

    def launch(self):
        """Those that are gone; the others go on."""
        for m in self.etcd.members:
            if m.p.poll() is None:
                m.go_on()
            else:
                m.start()

    def sigkill(self):
        for m in self.hit:
            m.kill()

    def pause(self):
        for m in self.hit:
            m.pause()

    def resume(self):
        for m in self.etcd.members:
            m.go_on()

    def is_up(self):
        return all(m.ready() for m in self.etcd.members)

    def is_decided(self, _volume):
        """It remembers by itself who has told it what."""
        return True

    def history(self, volume):
        try:
            return list(reversed(self.etcd.history(volume).values()))
        except (OSError, http.client.HTTPException, StopIteration) as e:
            raise Failure(f"etcd does not tell its history: {e}") from None

    def log_text(self):
        return "".join(m.log.read_text(errors="replace") for m in self.etcd.members)


class Tls:
    """An authority, and what it has signed: made anew by openssl."""

    def __init__(self, t, name="tls"):
        t.need("openssl")
        self.dir = t.dir / name
        self.dir.mkdir()
        self.ca, ca_key = self._path("ca.pem"), self._path("ca.key")
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                      "-subj", f"/CN={name}", "-keyout", ca_key, "-out", self.ca)
        # etcd's gateway is a client of its own member, and shows the member's certificate.
        self.cert, self.key = self._sign("member", "serverAuth,clientAuth", "subjectAltName=IP:127.0.0.1", ca_key)
        self.client_cert, self.client_key = self._sign("node", "clientAuth", "subjectAltName=DNS:node", ca_key)

    def _path(self, name):
        return str(self.dir / name)

    @staticmethod
    def _openssl(*words):
        proc.run(["openssl", *words])

    def _sign(self, name, usage, subject, ca_key):
        cert, key, request, extensions = (self._path(f"{name}.{end}") for end in ("pem", "key", "csr", "ext"))
        with open(extensions, "w", encoding="ascii") as f:
            f.write(f"extendedKeyUsage={usage}\n{subject}\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", key, "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
                      "-extfile", extensions, "-out", cert)
        return cert, key

    @property
    def client(self):
        return self.ca, self.client_cert, self.client_key


class Proxy:
    """Between a client and a member, over plain HTTP; does to transactions what `mode` says.

    pass     nothing
    deaf     the member carries it out, its answer is lost, the connection with it
    silent   the member carries it out, and the client hears nothing more, of whatever it asks
    hold     it waits here until release(), and the client hears nothing more
    """

    def __init__(self, t, member):
        self.member, self.mode = member, "pass"
        self.held, self.sockets = [], []
        self.seen = threading.Semaphore(0)  # once for each transaction that was treated specially
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "127.0.0.1:%d" % self.listener.getsockname()[1]
        t.cleanup.callback(self.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        try:
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.member.port))
                self.sockets += [client, server]
                threading.Thread(target=self._serve, args=(client, server), daemon=True).start()
        except OSError:
            pass

    @staticmethod
    def _message(s):
        """One HTTP message with a Content-Length, or nothing."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = s.recv(65536)
            if not more:
                return b""
            data += more
        head, body = data.split(b"\r\n\r\n", 1)
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += s.recv(65536)
        return head + b"\r\n\r\n" + body

    def _serve(self, client, server):
        try:
            while request := self._message(client):
                mode = self.mode
                # What only reads compares nothing.
                is_txn = b"/v3/kv/txn" in request.split(b"\r\n", 1)[0] and b'"compare"' in request
                if mode == "hold" and is_txn:
                    self.held.append((server, request))
                    self.seen.release()
                    return
                if mode in ("silent", "hold") and not is_txn and self.held_back():
                    return
                server.sendall(request)
                answer = self._message(server)
                if mode == "deaf" and is_txn:
                    self.mode = "pass"
                    client.shutdown(socket.SHUT_RDWR)
                    client.close()
                    self.seen.release()
                    return
                if mode == "silent" and is_txn:
                    self.held.append((server, None))
                    self.seen.release()
                    return
                client.sendall(answer)
        except (OSError, StopIteration):
            pass

    def held_back(self):
        return bool(self.held)

    def release(self):
        """What was held goes to the member, and is answered to nobody."""
        for server, request in self.held:
            if request:
                server.sendall(request)
                if b" 200 " not in self._message(server).split(b"\r\n", 1)[0]:
                    raise Failure("etcd did not take the transaction that was held")
        self.held = []
        self.mode = "pass"

    def close(self):
        self.listener.close()
        for s in self.sockets:
            s.close()


def b64(text):
    return base64.b64encode(text.encode()).decode()
