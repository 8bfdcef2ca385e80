#!/usr/bin/python3
"""PostgreSQL on the volume under load, and a node killed at random in each of many rounds: every commit that was answered
is there, at last on the leg that outlives the primary."""

import random

from lib import fs, kills, pg, run
from lib.cluster import GIB
from lib.run import wait_until

COMMITTERS = 3
BENCH_CLIENTS = 2
ROUNDS_PER_LOAD = 25  # pgbench runs for ten minutes at most
IDS_PER_LOAD = 100_000_000


class Work:
    """The server, and its clients, which are started anew now and then."""

    def __init__(self, t, site):
        self.t = t
        self.site = site
        self.journal = t.dir / "committed"
        self.journal.touch()
        self.servers = self.loads = 0
        self.start_server(init=True)
        self.load = None

    def start_server(self, init=False):
        self.servers += 1
        self.server = pg.Postgres(self.t, self.site.dir / "data", f"pg{self.servers}")
        if init:
            self.server.init()
        self.server.start()
        if init:
            pg.prepare(self.server)

    def start_load(self):
        self.load = pg.Load(self.server, self.journal, COMMITTERS, BENCH_CLIENTS, start=self.loads * IDS_PER_LOAD)
        self.loads += 1

    def goes_on(self, commits):
        before = self.load.committed
        wait_until(f"{commits} commits", lambda: not self.load.alive() or self.load.committed >= before + commits, 60,
                   poll_s=0.05, describe=lambda: f"{self.load.committed - before} commits")
        if not self.load.alive():
            raise run.Failure(f"a client has ended: {(self.t.dir / 'pgbench.log').read_text()[-500:]}")

    def die(self):
        """With its device, and all at once."""
        self.server.kill()
        self.load.end()

    def assert_kept(self, why):
        found = set(map(int, self.server.sql("SELECT id FROM committed", timeout_s=120).split()))
        promised = pg.read_journal(self.journal)
        self.t.check(promised <= found, f"{why}: all {len(promised)} commits that were answered are there",
                     f"{len(promised - found)} are lost: {sorted(promised - found)[:20]}")


def test(t):
    fs.need_block_device(t)
    if not pg.binaries():
        t.skip("no PostgreSQL server is installed")
    rng = random.Random(t.seed)
    rounds = t.rounds(4, 200)
    t.step(f"PostgreSQL on ext4 on the volume; {rounds} rounds, in each of which a node is killed")
    site = kills.Site(t, 2 * GIB, rng)
    work = Work(t, site)
    for number in range(1, rounds + 1):
        if number % ROUNDS_PER_LOAD == 1:
            if work.load:
                work.load.end()
                t.step(f"round {number}: {site.tell()} killed")
                site.tell_spent()
            work.start_load()
        with site.spending("commits"):
            work.goes_on(rng.randrange(20, 400))
        victim = "primary" if number == rounds else site.victim()
        if victim == "secondary":
            site.kill_secondary()
            with site.spending("commits"):
                work.goes_on(20)
            continue
        site.kill_primary()
        with site.spending("the server's end"):
            work.die()
        if number < rounds:
            site.fail_over()
            with site.spending("the server's recovery"):
                work.start_server()
            with site.spending("reading commits"):
                work.assert_kept(f"round {number}, on {site.primary.name} after the primary was killed")
            work.start_load()

    site.tell_spent()
    t.step(f"{site.tell()} killed; PostgreSQL started from the leg of the node that is left")
    image = site.surviving_leg()
    survivor = fs.Ext4(t, image, "survivor")
    server = pg.Postgres(t, survivor.dir / "data", "survivor-pg")
    server.start()
    promised = pg.read_journal(work.journal)
    t.check(len(promised) >= 20 * rounds, "enough was committed to mean something", f"{len(promised)}")
    pg.verify(t, server, promised, COMMITTERS * work.loads)
    survivor.unmount()
    image.unlink()


if __name__ == "__main__":
    run.main(test, limit_s=170, long_limit_s=2 * 3600)
