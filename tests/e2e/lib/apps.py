"""What runs on a volume that moves: PostgreSQL, whose commits are promises, and fio, which verifies what it has written."""

import socket
import threading

from lib import fs, pg, proc
from lib.run import Failure, wait_until

COMMITTERS, BENCH_CLIENTS = 3, 1
IDS_PER_LOAD = 100_000_000
PIECE_BYTES = 1 << 18
BEGUN_BYTES = 1 << 18  # what a client has sent that is at work


class Database:
    """PostgreSQL on ext4 on a part of the volume. It dies with the server that it runs on, and is started on the other."""

    def __init__(self, t, service, offset_bytes, size_bytes):
        self.t, self.service = t, service
        self.place = ("--offset", offset_bytes, "--sizelimit", size_bytes)
        self.journal = t.dir / "committed"
        self.journal.touch()
        self.servers = self.loads = self.devices = 0
        self.at = self.epoch = None
        self.device = self.volume = self.server = self.load = None

    def start(self):
        make = self.servers == 0
        self.at, self.epoch = self.service.at, self.service.epoch
        self.devices += 1
        self.device = fs.BlockDevice(self.t, self.at.uri, f"pgdev{self.devices}", *self.place)
        self.volume = fs.Ext4(self.t, self.device.loop, f"pgmnt{self.devices}", make=make)
        self.servers += 1
        self.server = pg.Postgres(self.t, self.volume.dir / "data", f"pg{self.servers}")
        if make:
            self.server.init()
        self.server.start()
        if make:
            pg.prepare(self.server)
        self.start_load()

    def start_load(self):
        self.load = pg.Load(self.server, self.journal, COMMITTERS, BENCH_CLIENTS, start=self.loads * IDS_PER_LOAD)
        self.loads += 1

    def goes_on(self, commits=20, seconds=60):
        before = self.load.committed
        wait_until(f"{commits} commits", lambda: not self.load.alive() or self.load.committed >= before + commits, seconds,
                   describe=lambda: f"{self.load.committed - before} commits")
        if not self.load.alive():
            raise Failure(f"a client of PostgreSQL has ended: {self.server.log.read_text()[-800:]}")

    def moved(self):
        return self.service.epoch > self.epoch and (self.service.at is not self.at or not self.load.alive())

    def die(self):
        """As the server does that it runs on. Its device first: nothing may wait for a node that waits."""
        proc.kill(self.device.fuse)
        self.server.kill()
        self.load.end()
        self.volume.close()
        self.device.close()

    def fail_over(self):
        self.die()
        self.start()
        self.check(f"after the service moved to {self.at.name}")
        self.goes_on()

    def check(self, why):
        promised = pg.read_journal(self.journal)
        found = set(map(int, self.server.sql("SELECT id FROM committed", timeout_s=120).split()))
        # What is promised now was read first: more may be found than was promised then.
        self.t.check(promised <= found, f"{why}: all {len(promised)} commits that were answered are there",
                     f"{len(promised - found)} are lost: {sorted(promised - found)[:20]}")

    def stop(self):
        """Until the next time."""
        self.load.end()
        self.check("at the end of the round")
        self.server.stop()
        self.volume.unmount()
        self.device.close()


class Relay:
    """A socket that leads to wherever the service is. When that moves, connections through it end."""

    def __init__(self, t, service, path):
        self.service, self.path = service, path
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.stopping = False
        self.carried_bytes = 0
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()
        t.cleanup.callback(self.close)

    def work(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.carry, args=(client,), daemon=True).start()

    def carry(self, client):
        node, epoch = self.service.at, self.service.epoch
        try:
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(node.socket))
        except OSError:
            client.close()
            return
        ways = [threading.Thread(target=self.pump, args=way, daemon=True) for way in ((client, server), (server, client))]
        for way in ways:
            way.start()
        while all(way.is_alive() for way in ways) and not self.stopping:
            ways[0].join(0.05)
            if self.service.at is not node and self.service.epoch > epoch:
                break
        for s in (client, server):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for way in ways:
            way.join(5)
        client.close()
        server.close()

    def pump(self, source, target):
        try:
            while piece := source.recv(PIECE_BYTES):
                target.sendall(piece)
                self.carried_bytes += len(piece)
        except OSError:
            pass

    def close(self):
        self.stopping = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()


class Fio:
    """fio --verify behind a client that does as a good initiator does: it asks again until it is answered."""

    def __init__(self, t, service, offset_bytes, size_bytes):
        self.t, self.service = t, service
        self.offset_bytes, self.size_bytes = offset_bytes, size_bytes
        self.runs = 0

    def start(self):
        self.runs += 1
        folder = self.t.dir / f"fio{self.runs}"
        folder.mkdir()
        self.relay = Relay(self.t, self.service, folder / "r")
        path = folder / "k"
        self.kit = proc.spawn(["nbdkit", "-f", "-U", path, "--filter=retry", "nbd",
                               f"uri=nbd+unix:///{self.service.at.cluster.volume}?socket={folder / 'r'}",
                               "retries=100", "retry-delay=1", "retry-exponential=no"], log=folder / "nbdkit.log")
        self.t.cleanup.callback(proc.kill, self.kit)
        wait_until("nbdkit to listen", path.exists, 20)
        self.log = folder / "fio.log"
        self.fio = proc.spawn(["fio", "--name=verified", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={path}", "--rw=randwrite",
                               "--bsrange=4k-32k", "--iodepth=8", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
                               "--rate_iops=,300", f"--offset={self.offset_bytes}", f"--size={self.size_bytes}",
                               f"--randseed={self.t.seed + self.runs}"], log=self.log, cwd=folder)
        self.t.cleanup.callback(proc.kill, self.fio)
        # Nobody repeats the first connection.
        wait_until("fio to write", lambda: self.relay.carried_bytes > BEGUN_BYTES or self.fio.poll() is not None, 30)

    def finish(self, seconds=180):
        """Until it has read all that it wrote."""
        wait_until("fio to end", lambda: self.fio.poll() is not None, seconds)
        text = self.log.read_text()
        self.t.check(self.fio.returncode == 0, "fio has verified what it wrote", f"exit {self.fio.returncode}: {text[-1000:]}")
        proc.kill(self.kit)
        self.relay.close()
