"""What the volumes lie on: files in memory, and files on a disk behind O_DIRECT."""

import mmap
import os
import re
import tempfile

from .processes import Failure

CHUNK_BYTES = 8 << 20
LEG_FILE = re.compile(r"lockstep-bench-(\d+)-[a-d]\.img")
SPARE_BYTES = 128 << 20  # beyond the loaded range: a backing also holds Lockstep's metadata


def _direct_works(directory):
    with tempfile.NamedTemporaryFile(dir=directory) as f:
        try:
            os.close(os.open(f.name, os.O_RDWR | os.O_DIRECT))
            return True
        except OSError:
            return False


def _remove_leftovers(directory):
    """Of runs that were killed outright, and so could not clean up."""
    for name in os.listdir(directory):
        found = LEG_FILE.fullmatch(name)
        if found and not os.path.exists(f"/proc/{found.group(1)}"):
            os.unlink(os.path.join(directory, name))


def _available_bytes():
    with open("/proc/meminfo") as f:
        for line in f:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    raise Failure("/proc/meminfo does not tell what memory is available")


class Medium:
    """A directory and how files in it are opened: `direct` when O_DIRECT is used (tmpfs knows it from Linux 6.6 on)."""

    def __init__(self, name, directory, workspace, size_bytes):
        self.name = name
        self.directory = directory
        self.size_bytes = size_bytes
        self._workspace = workspace
        self._files = {}
        _remove_leftovers(directory)
        self.direct = _direct_works(directory)

    def file(self, leg):
        """The leg's file, created on first use: preallocated, then written once, so that no later write has to
        allocate or convert an extent. All subjects use the same files, one after the other."""
        if leg not in self._files:
            path = os.path.join(self.directory, f"lockstep-bench-{os.getpid()}-{leg}.img")
            self._workspace.own_file(path)
            _write_out(path, self.size_bytes + SPARE_BYTES)
            self._files[leg] = path
        return self._files[leg]

    def sparse_file(self, leg, size_bytes):
        """A fresh file of holes, in place of the leg's former one."""
        self.drop(leg)
        path = os.path.join(self.directory, f"lockstep-bench-{os.getpid()}-{leg}.img")
        self._workspace.own_file(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.truncate(fd, size_bytes)
        except OSError as e:
            raise Failure(f"{self.directory}: no file of {size_bytes >> 30} GiB there: {e.strerror}") from None
        finally:
            os.close(fd)
        self._files[leg] = path
        return path

    def drop(self, leg):
        path = self._files.pop(leg, None)
        if path:
            os.unlink(path)

    def free_bytes(self):
        """What files here may still take: of memory, no more than there is."""
        stat = os.statvfs(self.directory)
        free = stat.f_bavail * stat.f_frsize
        return min(free, _available_bytes()) if self.name == "ram" else free

    def drain(self):
        """Nothing that one subject left in the page cache is written out during the next one's run."""
        for path in self._files.values():
            fd = os.open(path, os.O_RDWR)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def release(self):
        for path in self._files.values():
            os.unlink(path)
        self._files.clear()


def _write_out(path, size_bytes):
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        stat = os.statvfs(os.path.dirname(path))
        if stat.f_bavail * stat.f_frsize < size_bytes:
            raise Failure(f"{os.path.dirname(path)}: {size_bytes >> 20} MiB do not fit there (see --size)")
        os.posix_fallocate(fd, 0, size_bytes)
        chunk = os.urandom(CHUNK_BYTES)
        for offset in range(0, size_bytes, CHUNK_BYTES):
            os.pwrite(fd, chunk[:min(CHUNK_BYTES, size_bytes - offset)], offset)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def first_difference(path_a, path_b, size_bytes, direct):
    """Offset of the first differing chunk of the first size_bytes, or None when equal. Reads past the page cache when
    the servers wrote past it."""
    flags = os.O_RDONLY | (os.O_DIRECT if direct else 0)
    a, b = os.open(path_a, flags), os.open(path_b, flags)
    try:
        with mmap.mmap(-1, CHUNK_BYTES) as chunk_a, mmap.mmap(-1, CHUNK_BYTES) as chunk_b:
            view_a, view_b = memoryview(chunk_a), memoryview(chunk_b)
            try:
                for offset in range(0, size_bytes, CHUNK_BYTES):
                    bytes_here = min(CHUNK_BYTES, size_bytes - offset)
                    got_a = os.preadv(a, [view_a[:bytes_here]], offset)
                    got_b = os.preadv(b, [view_b[:bytes_here]], offset)
                    if (got_a, got_b) != (bytes_here, bytes_here) or view_a[:bytes_here] != view_b[:bytes_here]:
                        return offset
            finally:
                view_a.release()
                view_b.release()
        return None
    finally:
        os.close(a)
        os.close(b)
