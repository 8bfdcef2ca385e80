#!/usr/bin/python3
"""ext4 on the volume, and a node killed at random in each of many rounds: all that fsync promised is there, on both legs,
and at last on the one that outlives the primary."""

import random

from lib import fs, kills, proc, run, tree
from lib.cluster import GIB, MIB
from lib.run import wait_until

SOURCE = "/usr/share"
ROUND_BYTES_MAX = 200 * MIB
ROUNDS_BETWEEN_CHECKS = 20


class Round:
    """A copier with a folder and a journal of its own."""

    def __init__(self, t, site, number):
        self.t = t
        self.name = f"round{number}"
        self.journal = t.dir / f"promises{number}"
        self.journal.touch()
        (site.dir / self.name).mkdir()
        tree.fsync_dir(site.dir)
        self.log = t.dir / "copier.log"
        self.copier = proc.spawn(["/usr/bin/python3", "-m", "lib.tree", SOURCE, site.dir / self.name, self.journal,
                                  ROUND_BYTES_MAX, t.seed + number, site.sources], log=self.log, cwd=run.HERE)

    def goes_on(self, lines):
        """Waits until that many more lines are in the journal."""
        before = kills.journal_lines(self.journal)
        wait_until("files to be copied", lambda: self.copier.poll() is not None or kills.journal_lines(self.journal) >= before + lines,
                   60, poll_s=0.05, describe=lambda: f"{kills.journal_lines(self.journal) - before} of {lines} lines")
        if self.copier.poll() not in (None, 0):  # 0: it has copied all that it was to
            raise run.Failure(f"the copier ended with {self.copier.returncode}: {self.log.read_text()[-500:]}")

    def assert_kept(self, top):
        promises = tree.Promises(self.journal)
        wrong = promises.verify(top / self.name)
        if wrong:
            raise run.Failure(f"{self.name}: {len(wrong)} of {len(promises.present) + len(promises.gone)} promises broken: "
                              + "; ".join(wrong[:8]))
        return len(promises.present)

    def remove(self, top):
        fs.remove(top / self.name)
        self.journal.unlink()


def kept(t, rounds, top, where):
    t.check(True, f"{where}: {sum(r.assert_kept(top) for r in rounds)} files of {len(rounds)} rounds have the right digest")


def test(t):
    fs.need_block_device(t)
    rng = random.Random(t.seed)
    rounds = t.rounds(4, 200)
    t.step(f"ext4 on the volume; {rounds} rounds, in each of which a node is killed")
    site = kills.Site(t, 2 * GIB, rng)
    site.sources = tree.keep_list(SOURCE, t.dir / "sources")
    since = []
    for number in range(1, rounds + 1):
        r = Round(t, site, number)
        since.append(r)
        with site.spending("copying"):
            r.goes_on(rng.randrange(10, 100))
        victim = "primary" if number == rounds else site.victim()
        if victim == "secondary":
            site.kill_secondary()
            with site.spending("copying"):
                r.goes_on(10)
            proc.kill(r.copier)
        else:
            tree.mark_end(r.journal)
            site.kill_primary()
            with site.spending("the copier's end"):
                status = proc.wait(r.copier, 60, "after its device died")
            if status not in (0, 3):  # it may have been at its end
                raise run.Failure(f"the copier ended with {status}: {r.log.read_text()[-500:]}")
            if number < rounds:
                site.fail_over()
                with site.spending("digests"):
                    kept(t, since, site.dir, f"round {number}, on {site.primary.name} after the primary was killed")
        if number % ROUNDS_BETWEEN_CHECKS == 0 and number < rounds:
            t.step(f"round {number}: {site.tell()} killed")
            with site.spending("comparing legs"):
                site.check_legs(f"after {number} rounds")
            with site.spending("digests"):
                kept(t, since, site.dir, "mounted again")
            for old in since:
                old.remove(site.dir)
            since = []
            site.tell_spent()

    site.tell_spent()
    t.step(f"{site.tell()} killed; what is on the leg of the node that is left")
    image = site.surviving_leg()
    fs.assert_clean_after_replay(t, image)
    survivor = fs.Ext4(t, image, "survivor", "ro")
    kept(t, since, survivor.dir, "the surviving leg")
    survivor.unmount()
    image.unlink()


if __name__ == "__main__":
    run.main(test, limit_s=170, long_limit_s=2 * 3600)
