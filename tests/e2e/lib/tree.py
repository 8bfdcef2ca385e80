"""Copies a real tree in and deletes from it, with a journal, kept elsewhere, of what the file system has promised.

A line is written only after every fsync that it rests on has returned:

    + SHA256 PATH   the file is there with this content
    ? PATH          about to be replaced or deleted: either is right until the next line for PATH
    - PATH          it is gone
    ~ PATH          the last fsync that the next line for PATH rests on is about to begin
    ! TEXT          mark_end(): the device is about to die

An fsync that begins after the device's end promises nothing here, whatever it returns: ext4 answers 0 for what was part of a
transaction whose commit has failed, until somebody meets the aborted journal (jbd2_complete_transaction() in Linux 6.18: one
that neither runs nor is being committed "is by definition already completed"). Seen as well with nbdkit in lockstepd's
place: one file in some 300 kills with 16 threads that mostly delete.

Also a program, so that it can be killed, and fail with its device:

    python3 -m lib.tree FROM TO JOURNAL MAX_BYTES SEED [LIST]

LIST: a file with what keep_list() has found in FROM, so that many copiers need not look each for themselves.
"""

import collections
import hashlib
import os
import random
import sys
import threading

from lib.run import Failure

WORKERS = 4  # fsyncs of several files share a journal commit, as they do in life
FILE_BYTES_MAX = 32 << 20
DELETE_PERCENT = 10
REPLACE_PERCENT = 5


def source_files(top):
    """(path, bytes) of regular files under top."""
    found = []
    for folder, _folders, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            st = os.lstat(path)
            if os.path.isfile(path) and not os.path.islink(path) and st.st_size <= FILE_BYTES_MAX and "\n" not in path:
                found.append(path)
    return sorted(found)


def keep_list(top, path):
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as f:
        f.writelines(name + "\n" for name in source_files(top))
    return path


def fsync_dir(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dirs(path):
    """mkdir -p, each level durable before the next is used."""
    if os.path.isdir(path):
        return
    make_dirs(os.path.dirname(path))
    try:
        os.mkdir(path)
    except FileExistsError:
        pass
    fsync_dir(os.path.dirname(path))


class Copier:
    def __init__(self, source, target, journal, max_bytes, seed, files):
        self.source = source
        self.target = target
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.lock = threading.Lock()
        self.folders = threading.Lock()  # who finds a folder there may rely on it
        self.random = random.Random(seed)
        self.left_bytes = max_bytes
        self.files = files
        self.random.shuffle(self.files)
        self.done = []  # paths that are there and that nobody works on
        self.error = None

    def note(self, line):
        os.write(self.journal, os.fsencode(line + "\n"))

    def next_job(self):
        with self.lock:
            if self.error or self.left_bytes <= 0 or not self.files:
                return None
            roll = self.random.randrange(100)
            if self.done and roll < DELETE_PERCENT + REPLACE_PERCENT:
                victim = self.done.pop(self.random.randrange(len(self.done)))
                if roll < DELETE_PERCENT:
                    return ("delete", victim, None)
                return ("replace", victim, self.files[self.random.randrange(len(self.files))])
            path = self.files.pop()
            return ("copy", os.path.relpath(path, self.source), path)

    def write(self, source, to):
        with open(source, "rb") as f:
            data = f.read()
        with open(to, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        with self.lock:
            self.left_bytes -= len(data)
        return hashlib.sha256(data).hexdigest()

    def work(self):
        try:
            while job := self.next_job():
                what, name, source = job
                to = os.path.join(self.target, name)
                if what == "copy":
                    with self.folders:
                        make_dirs(os.path.dirname(to))
                    digest = self.write(source, to)
                elif what == "replace":
                    self.note(f"? {name}")
                    digest = self.write(source, to + ".lse2e-new")
                    os.rename(to + ".lse2e-new", to)
                else:
                    self.note(f"? {name}")
                    os.unlink(to)
                self.note(f"~ {name}")
                fsync_dir(os.path.dirname(to))
                if what == "delete":
                    self.note(f"- {name}")
                else:
                    self.note(f"+ {digest} {name}")
                    with self.lock:
                        self.done.append(name)
        except OSError as e:
            with self.lock:
                self.error = self.error or e

    def run(self):
        workers = [threading.Thread(target=self.work, daemon=True) for _ in range(WORKERS)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        return self.error


def mark_end(journal):
    """To be called before the device is killed."""
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, b"! its device is about to die\n")
    finally:
        os.close(fd)


def count_lines(journal):
    """Of each kind, so far."""
    with open(journal, "rb") as f:
        return collections.Counter(chr(line[0]) for line in f.read().split(b"\n")[:-1])


class Promises:
    """A journal, read back."""

    def __init__(self, journal):
        self.present = {}
        self.former = {}  # all digests that a name was ever promised with
        self.gone = set()
        self.in_doubt = set()
        late = set()  # names whose last fsync began after the end
        ended = False
        with open(journal, "rb") as f:
            for raw in f.read().split(b"\n")[:-1]:
                line = os.fsdecode(raw)
                if line[0] == "!":
                    ended = True
                    continue
                if line[0] == "~":
                    if ended:
                        late.add(line[2:])
                    continue
                digest, name = line[2:].split(" ", 1) if line[0] == "+" else (None, line[2:])
                self.forget(name)
                if line[0] == "?" or name in late:
                    self.in_doubt.add(name)
                elif line[0] == "-":
                    self.gone.add(name)
                else:
                    self.present[name] = digest
                    self.former.setdefault(name, []).append(digest)

    def forget(self, name):
        self.present.pop(name, None)
        self.gone.discard(name)
        self.in_doubt.discard(name)

    def verify(self, top):
        """Returns what is wrong with the tree: a list of texts, empty when every promise was kept."""
        wrong = []
        for name, digest in self.present.items():
            try:
                with open(os.path.join(top, name), "rb") as f:
                    data = f.read()
                if hashlib.sha256(data).hexdigest() != digest:
                    wrong.append(f"{name}: other content than what was fsync'd: {self.describe(name, data)}")
            except OSError as e:
                wrong.append(f"{name}: fsync'd, but: {e.strerror}")
        for name in self.gone:
            if os.path.lexists(os.path.join(top, name)):
                wrong.append(f"{name}: deleted and fsync'd, but back again")
        return wrong

    def describe(self, name, data):
        """What is there instead."""
        found = hashlib.sha256(data).hexdigest()
        zero_blocks = sum(not any(data[at:at + 4096]) for at in range(0, len(data), 4096))
        return (f"{len(data)} bytes, {zero_blocks} of {(len(data) + 4095) // 4096} blocks zero; "
                + ("what was promised before" if found in self.former[name] else "never promised")
                + f"; promised {len(self.former[name])} times")

    def assert_kept(self, t, top):
        wrong = self.verify(top)
        if wrong:
            raise Failure(f"{len(wrong)} of {len(self.present) + len(self.gone)} promises broken: " + "; ".join(wrong[:8]))
        t.say(f"ok: {len(self.present)} files have the right digest, {len(self.gone)} deletes stayed"
              f" ({len(self.in_doubt)} were under way when the server died)")


def main(source, target, journal, max_bytes, seed, listed=None):
    if listed:
        with open(listed, encoding="utf-8", errors="surrogateescape") as f:
            files = f.read().split("\n")[:-1]
    else:
        files = source_files(source)
    error = Copier(source, target, journal, int(max_bytes), int(seed), files).run()
    if error:
        print(f"stopped: {error.strerror}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)
    sys.exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
