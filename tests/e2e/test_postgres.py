#!/usr/bin/python3
"""PostgreSQL on the volume under load; the primary's daemon and PostgreSQL are killed; started from the other leg, it has
every commit that was answered."""

import random

from lib import fs, pg, run
from lib.cluster import GIB, Cluster
from lib.run import wait_until

COMMITTERS = 3
BENCH_CLIENTS = 3


def one_round(t, number, commits_before_kill):
    cluster = Cluster(t, size=2 * GIB, name=f"round{number}")
    cluster.ready()
    a, b = cluster.nodes
    t.step(f"round {number}: PostgreSQL on ext4 on the volume; pgbench's tables in")
    device = fs.BlockDevice(t, a.uri, f"dev{number}")
    volume = fs.Ext4(t, device.loop, f"volume{number}", make=True)
    t.cleanup.callback(a.end)  # before anything is unmounted
    server = pg.Postgres(t, volume.dir / "data", f"pg{number}")
    server.init()
    server.start()
    pg.prepare(server)

    journal = t.dir / f"committed{number}"
    t.step(f"load: {BENCH_CLIENTS} pgbench clients, and {COMMITTERS} that note each commit that was answered")
    load = pg.Load(server, journal, COMMITTERS, BENCH_CLIENTS)
    wait_until(f"{commits_before_kill} commits", lambda: not load.alive() or load.committed >= commits_before_kill, 200,
               describe=lambda: f"{load.committed} commits")
    t.check(load.alive(), "all clients are at work", (t.dir / "pgbench.log").read_text()[-500:])

    t.step("SIGKILL to the primary's daemon, then to PostgreSQL")
    a.sigkill()
    server.kill()
    load.end()
    volume.close()
    device.close()

    t.step("PostgreSQL started from the other leg")
    b.wait("the loss of the peer to be seen", lambda s: s["peer"]["link"] != "connected")
    t.check(b.stop() == 0, "the secondary's daemon ends cleanly on SIGTERM")
    image = fs.copy_leg(b.backing, cluster.size, t.dir / "leg-b.img")
    survivor = fs.Ext4(t, image, f"survivor{number}")
    server = pg.Postgres(t, survivor.dir / "data", f"pg{number}b")
    server.start()
    promised = pg.read_journal(journal)
    t.check(len(promised) >= commits_before_kill, "enough was committed to mean something", f"{len(promised)}")
    pg.verify(t, server, promised, COMMITTERS)
    survivor.unmount()
    image.unlink()
    fs.remove(cluster.dir)


def test(t):
    fs.need_block_device(t)
    if not pg.binaries():
        t.skip("no PostgreSQL server is installed")
    rng = random.Random(t.seed)
    for number in range(1, t.rounds(1, 6) + 1):
        one_round(t, number, rng.randrange(300, 10000 if t.long else 3000))


if __name__ == "__main__":
    run.main(test, limit_s=180)
