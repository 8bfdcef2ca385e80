#!/usr/bin/python3
"""A real file system on the volume; the primary's daemon is killed in mid-write; the other leg has all that fsync
promised."""

import os
import random
import time

from lib import fs, proc, run, tree
from lib.cluster import GIB, MIB, Cluster
from lib.run import wait_until

SOURCE = "/usr/share"
FILES_MIN = 100
LOAD_S_MAX = 30  # on a machine that is too busy to copy as much as we would like


def one_round(t, cluster, number, max_bytes, kill_after_bytes):
    a, b = cluster.nodes
    t.step(f"round {number}: ext4 on the volume ({cluster.size // MIB} MiB): NBD, nbdfuse, loop device, mkfs, mount")
    device = fs.BlockDevice(t, a.uri, f"dev{number}")
    volume = fs.Ext4(t, device.loop, f"volume{number}", make=True)
    t.cleanup.callback(a.end)  # before anything is unmounted: writes that wait for a peer would make it wait, too

    journal = t.dir / f"promises{number}"
    journal.touch()
    t.step(f"copying {SOURCE} in, replacing and deleting files; what fsync promised goes to a journal elsewhere")
    copier = proc.spawn(["/usr/bin/python3", "-m", "lib.tree", SOURCE, volume.dir, journal, max_bytes, t.seed + number],
                        log=t.dir / "copier.log", cwd=run.HERE)

    deadline = time.monotonic() + LOAD_S_MAX * (2 if t.long else 1)

    def enough():
        if copier.poll() is not None:
            return True
        told = tree.count_lines(journal)
        promised = told["+"] > FILES_MIN and told["-"] > 0
        return promised and (used_bytes(volume.dir) >= kill_after_bytes or time.monotonic() > deadline)
    wait_until(f"{kill_after_bytes // MIB} MiB to be in", enough, 400)
    before = b.status()["lsn"]
    wait_until("writes to go on", lambda: b.status()["lsn"] > before or copier.poll() is not None, 10)
    t.check(copier.poll() is None, "the copying is in full swing", f"ended: {(t.dir / 'copier.log').read_text()}")

    t.step("SIGKILL to the primary's daemon")
    tree.mark_end(journal)
    a.sigkill()
    status = proc.wait(copier, 60, "after its device died")
    t.check(status == 3, "the copier was stopped by an I/O error in mid-work", f"exit {status}")
    volume.close()
    device.close()

    t.step("the other leg, as a server that takes over would find it")
    b.wait("the loss of the peer to be seen", lambda s: s["peer"]["link"] != "connected")
    b.cli("promote", cluster.volume)
    export = t.dir / "export.img"
    proc.run(["nbdcopy", b.uri, export], timeout_s=300)
    t.check(b.stop() == 0, "the secondary's daemon ends cleanly on SIGTERM")
    image = fs.copy_leg(b.backing, cluster.size, t.dir / "leg-b.img")
    p = proc.run(["cmp", image, export], ok=None, timeout_s=300)
    t.check(p.returncode == 0, "promoted, it serves what is on its leg", p.stdout + p.stderr)
    export.unlink()
    fs.assert_clean_after_replay(t, image)
    survivor = fs.Ext4(t, image, "survivor", "ro")
    promises = tree.Promises(journal)
    t.check(len(promises.present) > 20 and promises.gone, "enough was promised to mean something",
            f"{len(promises.present)} files, {len(promises.gone)} deletes")
    promises.assert_kept(t, survivor.dir)
    survivor.unmount()
    image.unlink()


def used_bytes(folder):

    st = os.statvfs(folder)
    return (st.f_blocks - st.f_bfree) * st.f_frsize


def test(t):
    fs.need_block_device(t)
    rng = random.Random(t.seed)
    rounds = t.rounds(1, 6)
    for number in range(1, rounds + 1):
        size = rng.choice([2, 2, 4]) * GIB if t.long else 2 * GIB
        cluster = Cluster(t, size=size, name=f"round{number}")
        cluster.ready()
        most = 900 * MIB
        one_round(t, cluster, number, most, rng.randrange(40, 600 if t.long else 150) * MIB)
        fs.remove(cluster.dir)


if __name__ == "__main__":
    run.main(test, limit_s=150)
