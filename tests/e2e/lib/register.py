"""What a node asks of its register, through the daemon's own client, and what it is answered."""

import json
import queue
import random
import subprocess
import threading

from lib import proc
from lib.run import BUILD, Failure

PROBE = BUILD / "tests/e2e/register_probe"


class Probe:
    """One node's client. Questions of different slots go side by side."""

    def __init__(self, t, url, node="paris-a", peer="paris-b", timeout_ms=30000, tls=()):
        self.node, self.peer, self.timeout_ms = node, peer, timeout_ms
        self.p = proc.spawn([PROBE, url, timeout_ms, *tls], log=t.dir / "probe.log", stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, bufsize=1)
        t.cleanup.callback(proc.kill, self.p)
        self.answers = queue.Queue()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self):
        for line in self.p.stdout:
            self.answers.put(json.loads(line))

    def ask(self, slot=0, **question):
        question = {"slot": slot, "volume_id": 1, "node": self.node, "peer": self.peer, **question}
        self.p.stdin.write(json.dumps(question) + "\n")
        self.p.stdin.flush()

    def answer(self):
        try:
            return self.answers.get(timeout=self.timeout_ms / 1000 + 10)
        except queue.Empty:
            raise Failure(f"{self.node}'s client gave no answer; exit {self.p.poll()}") from None

    def read(self, volume="gold", known_epoch=0, **more):
        self.ask(ask="read", volume=volume, known_epoch=known_epoch, **more)
        return self.answer()

    def swap(self, stands, **more):
        self.ask(**self.proposal(stands, **more))
        return self.answer()

    def proposal(self, stands, volume="gold", **more):
        """A swap that expects what an answer said, or nothing yet (None)."""
        epoch, tag = (stands["epoch"], stands["tag"]) if stands else (0, 0)
        return {"ask": "swap", "volume": volume, "known_epoch": epoch, "expected_epoch": epoch, "expected_tag": tag,
                "epoch": epoch + 1, "tag": new_tag(), "cause": "renew" if epoch else "first", "primary": self.node,
                "members": [self.node, self.peer], "note": f"by {self.node}", **more}

    def close(self, seconds=5):
        """As a daemon does when it ends, whatever is under way."""
        self.p.stdin.close()
        status = proc.wait(self.p, seconds, "after its register was closed")
        if status != 0:
            raise Failure(f"{self.node}'s client ended with {status}")


def new_tag():
    return random.getrandbits(62) + 1
