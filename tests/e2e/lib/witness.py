"""A witness as a daemon, and a node's side of its protocol: proto/witness.proto, put together by hand."""

import json
import signal
import socket
import struct

from lib import proc
from lib.cluster import BUILD, free_port
from lib.protobuf import data, fixed, number, parse
from lib.run import Failure, wait_until

OUTCOMES = ["none", "stands", "done", "lost", "unreachable", "unconfirmed", "older", "refused"]


class Witness:
    def __init__(self, t, name="witness", address="127.0.0.1", prefix=()):
        self.address = address
        self.prefix = list(prefix)  # before the daemon's command: where it is to live
        self.dir = t.dir / name
        self.dir.mkdir()
        self.port = free_port()
        self.state = self.dir / "state"
        self.control = self.dir / "control.sock"
        self.log = self.dir / "witness.log"
        self.config = self.dir / "witness.yaml"
        self.config.write_text(f'witness: {{listen: "{self.address}:{self.port}", state: state, tls: none}}\n')
        self.process = None
        t.cleanup.callback(lambda: proc.kill(self.process))

    @property
    def url(self):
        return f"lockstep://{self.address}:{self.port}"

    def argv(self):
        return [*self.prefix, BUILD / "lockstepd", "--config", self.config, "--node", "rome", "--control", self.control]

    def launch(self):
        self.process = proc.spawn(self.argv(), log=self.log)

    def start(self):
        self.launch()
        wait_until("the witness to listen", self.is_up, 20)
        return self

    def is_up(self):
        if self.process.poll() is not None:
            raise Failure(f"the witness ended: {self.log.read_text()[-500:]}")
        return self.lockstep("status", ok=None).returncode == 0

    def sigkill(self):
        proc.kill(self.process)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        self.process.terminate()
        return proc.wait(self.process, 20)

    def log_text(self):
        return self.log.read_text(errors="replace")

    def lockstep(self, *words, ok=(0,)):
        return proc.run([BUILD / "lockstep", "--control", self.control, "witness", *words], ok=ok)

    def status(self, volume):
        return json.loads(self.lockstep("status", volume, "--json").stdout)["witness"]["volumes"][0]

    def is_decided(self, volume):
        """Both nodes have told it what they know since it started."""
        return self.status(volume)["confirmed"]

    def history(self, volume):
        """The newest first."""
        return json.loads(self.lockstep("history", volume, "--json").stdout)["decrees"]


class Node:
    """A node of one volume, and its connection to the witness."""
    PEERS = {"paris-a": "paris-b", "paris-b": "paris-a"}

    def __init__(self, witness, volume, name):
        self.witness, self.volume, self.name = witness, volume, name
        self.known = 0
        self.age = 0  # of its leg; 0: it does not tell
        self.remembered = 0  # the age that the last answer told
        self.socket = None

    def ask(self, swap=b""):
        """(outcome, epoch, tag, reason); OSError: no answer."""
        question = (number(1, 1) + number(2, 1) + data(3, self.volume) + data(4, b"\t" * 16) + data(5, self.name) +
                    data(6, self.PEERS[self.name]) + number(7, self.known) + (data(9, swap) if swap else b"") +
                    (number(10, self.age) if self.age else b""))
        try:
            if not self.socket:
                self.socket = socket.create_connection((self.witness.address, self.witness.port), timeout=60)
            self.socket.sendall(struct.pack("<I", len(question)) + question)
            answer = parse(self.receive(struct.unpack("<I", self.receive(4))[0]))
        except OSError:
            self.hang_up()
            raise
        decree = parse(answer.get(4, b""))
        self.remembered = answer.get(6, 0)
        return OUTCOMES[answer.get(3, 0)], decree.get(1, 0), decree.get(2, 0), answer.get(5, b"").decode()

    def receive(self, count):
        got = b""
        while len(got) < count:
            more = self.socket.recv(count - len(got))
            if not more:
                raise OSError("the witness has closed the connection")
            got += more
        return got

    def hang_up(self):
        if self.socket:
            self.socket.close()
        self.socket = None

    def swap(self, expected, tag, members=("paris-a", "paris-b"), cause="renew", note="by a test"):
        """From (epoch, tag) to the next epoch, with that tag."""
        decree = (number(1, expected[0] + 1) + fixed(2, tag) + data(3, cause) + data(4, self.name) +
                  b"".join(data(5, data(1, m) + data(2, bytes([1 + (m == "paris-b")]) * 16)) for m in members))
        return self.ask(number(1, expected[0]) + fixed(2, expected[1]) + data(3, decree) + data(5, note))
