"""PostgreSQL on a directory of our choice: nobody's system cluster is touched.

A Committer is a client that inserts one number a transaction, and appends the number to a journal elsewhere only after
COMMIT has been answered. A journal entry is a promise that the database made."""

import os
import pwd
import subprocess
import threading

from lib import proc
from lib.run import Failure, find_program, wait_until

SCALE = 5  # of pgbench


def binaries():
    """The newest server's directory of programs, or None."""
    base = "/usr/lib/postgresql"
    versions = sorted((v for v in os.listdir(base) if v.isdigit()), key=int) if os.path.isdir(base) else []
    for v in reversed(versions):
        if os.path.exists(f"{base}/{v}/bin/postgres"):
            return f"{base}/{v}/bin"
    found = find_program("postgres")
    return os.path.dirname(found) if found else None


def user():
    """Whom it runs as: the server refuses root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise Failure("neither user postgres nor nobody exists")


class Postgres:
    def __init__(self, t, data, name):
        self.t = t
        self.data = data
        self.bin = binaries()
        self.user = user()
        self.sockets = t.dir / f"{name}-sock"
        self.sockets.mkdir()
        os.chown(self.sockets, self.user.pw_uid, self.user.pw_gid)
        self.log = t.dir / f"{name}.log"
        self.server = None
        t.cleanup.callback(self.kill)

    def env(self):
        return {"PATH": os.environ["PATH"], "LC_ALL": "C", "PGHOST": str(self.sockets), "PGDATABASE": "postgres",
                "PGUSER": "postgres", "HOME": str(self.sockets)}

    def run(self, program, *words, ok=(0,), timeout_s=60):
        return proc.run([f"{self.bin}/{program}", *words], user=self.user, env=self.env(), cwd="/", ok=ok,
                        timeout_s=timeout_s)

    def init(self):
        self.data.mkdir()
        self.data.chmod(0o700)
        os.chown(self.data, self.user.pw_uid, self.user.pw_gid)
        self.run("initdb", "-D", self.data, "-U", "postgres", "--data-checksums", "--no-locale", "-A", "trust",
                 timeout_s=120)

    def start(self, seconds=60):
        # Small WAL and frequent checkpoints: the crash should find every kind of write under way.
        settings = {"listen_addresses": "", "unix_socket_directories": self.sockets, "shared_buffers": "16MB",
                    "max_wal_size": "64MB", "min_wal_size": "32MB", "checkpoint_timeout": "30s",
                    "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self.server = proc.spawn([f"{self.bin}/postgres", "-D", self.data, *options], user=self.user, log=self.log,
                                 env=self.env(), cwd="/")

        def ready():
            if self.server.poll() is not None:
                raise Failure(f"PostgreSQL did not start: {self.log.read_text()[-2000:]}")
            return self.run("pg_isready", "-q", ok=None).returncode == 0
        wait_until("PostgreSQL to accept connections", ready, seconds, poll_s=0.1)

    def sql(self, text, timeout_s=60):
        return self.run("psql", "-XAtqc", text, timeout_s=timeout_s).stdout.strip()

    def kill(self):
        """The power goes: no shutdown, no checkpoint."""
        if self.server:
            proc.kill_family(self.server, 60)
            self.server = None

    def stop(self):
        self.run("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")
        proc.wait(self.server, 30)
        self.server = None


class Committer:
    """Inserts number, number + step, ... until its server is gone."""

    def __init__(self, pg, journal, number, step):
        self.count = 0
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.psql = proc.spawn([f"{pg.bin}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"], user=pg.user, env=pg.env(),
                               cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        pg.t.cleanup.callback(self.end)
        self.thread = threading.Thread(target=self.work, args=(number, step), daemon=True)
        self.thread.start()

    def work(self, number, step):
        try:
            while True:
                # The echo comes only after COMMIT was answered.
                self.psql.stdin.write(b"BEGIN; INSERT INTO committed VALUES (%d); COMMIT;\n\\echo %d\n" % (number, number))
                self.psql.stdin.flush()
                if self.psql.stdout.readline() != b"%d\n" % number:
                    return
                os.write(self.journal, b"%d\n" % number)
                self.count += 1
                number += step
        except OSError:
            pass

    def end(self):
        proc.kill(self.psql)
        self.thread.join(10)


class Load:
    """pgbench's own mix beside committers."""

    def __init__(self, pg, journal, committers, clients, start=0):
        self.pg = pg
        self.bench = proc.spawn([f"{pg.bin}/pgbench", "-n", "-T", "600", "-c", clients, "-j", "1"], user=pg.user,
                                env=pg.env(), cwd="/", log=pg.t.dir / "pgbench.log")
        self.committers = [Committer(pg, journal, start + i, committers) for i in range(committers)]
        pg.t.cleanup.callback(self.end)

    @property
    def committed(self):
        return sum(c.count for c in self.committers)

    def alive(self):
        return self.bench.poll() is None and all(c.psql.poll() is None for c in self.committers)

    def end(self):
        proc.kill(self.bench)
        for c in self.committers:
            c.end()


def read_journal(path):
    with open(path, "rb") as f:
        return {int(line) for line in f.read().split(b"\n")[:-1]}


def prepare(pg):
    pg.run("pgbench", "-i", "-q", "-s", SCALE, timeout_s=180)
    pg.sql("CREATE TABLE committed (id bigint PRIMARY KEY); CREATE EXTENSION amcheck")


def verify(t, pg, promised, committers):
    """Every committed number is there, and the database is sound."""
    rows = pg.sql("SELECT id FROM committed", timeout_s=120).split()
    found = set(map(int, rows))
    lost = sorted(promised - found)
    t.check(not lost, f"all {len(promised)} commits that were answered are there", f"{len(lost)} are lost: {lost[:20]}")
    t.check(len(found - promised) <= committers, "beyond them only commits that were under way",
            f"{len(found - promised)} more")
    sums = pg.sql("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
                  " (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
    t.check(len(set(sums.split("|"))) == 1, f"pgbench's books balance ({sums.split('|')[0]})", sums)
    p = pg.run("pg_amcheck", "--heapallindexed", "--parent-check", "postgres", ok=None, timeout_s=180)
    t.check(p.returncode == 0, "pg_amcheck finds tables and indexes sound", p.stdout + p.stderr)
    pg.stop()
    p = pg.run("pg_checksums", "--check", "-D", pg.data, ok=None, timeout_s=120)
    t.check(p.returncode == 0, "pg_checksums finds every page's checksum right", p.stdout + p.stderr)
