"""What is compared: each subject brings its servers up on a medium's files and says where fio shall write."""

import dataclasses
import os

from . import lockstep
from .load import Target, file_target, nbd_target
from .processes import find_program, free_port, nbd_greets, wait_until
from .qmp import Qmp


@dataclasses.dataclass
class Running:
    target: Target
    servers: list  # their CPU time is counted
    legs: tuple = ()  # files that must be equal over the loaded range once `stop` has returned
    close: object = None  # called before the servers are stopped


class Raw:
    """The files themselves, without any server: what the medium can do."""
    name, label, mirrored = "raw", "the file itself (io_uring)", False

    def start(self, workspace, medium):
        return Running(file_target(medium.file("a"), medium.direct), [])


class Nbdkit:
    """nbdkit 1.32 cannot open a file with O_DIRECT: on disk it writes to the page cache, and its figures there are
    no target."""
    name, label, mirrored = "nbdkit", "nbdkit file", False

    def start(self, workspace, medium):
        path = workspace.path("nbdkit.sock")
        server = workspace.start("nbdkit", [find_program("nbdkit", "nbdkit"), "--foreground", "--unix", path,
                                            "file", medium.file("a")])
        wait_until("greeting an NBD client", lambda: nbd_greets(path), server)
        return Running(nbd_target(path), [server])


# qemu's fastest ways on both media, as measured (docs/PERFORMANCE.md): one leg with Linux AIO, the mirror with a pool of
# threads (its stalls over TCP, see QemuMirrorUnix, are rarer then). A tmpfs of Linux before 6.6 has no O_DIRECT, which
# Linux AIO needs.
def _qemu_one_leg(medium):
    return ("on", "native") if medium.direct else ("off", "io_uring")


def _qemu_mirror(medium):
    return ("on" if medium.direct else "off"), "threads"


def _start_qemu_storage_daemon(workspace, medium, caching):
    direct, aio = caching
    socket_path, qmp_path = workspace.path("qemu.sock"), workspace.path("qmp.sock")
    path = medium.file("a")
    server = workspace.start("qemu-storage-daemon", [
        find_program("qemu-storage-daemon", "qemu-system-common"),
        "--blockdev", f"driver=file,node-name=leg-a,filename={path},cache.direct={direct},aio={aio},discard=unmap",
        "--nbd-server", f"addr.type=unix,addr.path={socket_path}",
        "--export", "type=nbd,id=export,node-name=leg-a,name=bench,writable=on",
        "--chardev", f"socket,id=qmp,path={qmp_path},server=on,wait=off", "--monitor", "chardev=qmp"])
    wait_until("greeting an NBD client", lambda: nbd_greets(socket_path), server)
    return server, socket_path, qmp_path


class Qemu:
    name, label, mirrored = "qemu", "qemu-storage-daemon", False

    def start(self, workspace, medium):
        server, socket_path, _ = _start_qemu_storage_daemon(workspace, medium, _qemu_one_leg(medium))
        return Running(nbd_target(socket_path, "bench"), [server])


class QemuMirror:
    """A mirror job that blocks writes until the target has them, to a qemu-nbd over TCP on loopback."""
    name, label, mirrored = "qemu-mirror", "qemu-storage-daemon, write-blocking mirror to qemu-nbd over TCP", True

    def start(self, workspace, medium):
        direct, aio = _qemu_mirror(medium)
        address, listen, greeting = self._peer_address(workspace)
        peer = workspace.start("qemu-nbd", [
            find_program("qemu-nbd", "qemu-utils"), "--format=raw", "--persistent", *listen, "--export-name=bench",
            f"--cache={'none' if direct == 'on' else 'writeback'}", f"--aio={aio}", medium.file("b")])
        wait_until("greeting an NBD client", lambda: nbd_greets(greeting), peer)
        server, socket_path, qmp_path = _start_qemu_storage_daemon(workspace, medium, (direct, aio))
        qmp = Qmp(qmp_path)
        qmp.command("blockdev-add", **{"node-name": "leg-b", "driver": "nbd", "export": "bench", "server": address})
        qmp.command("blockdev-mirror", **{
            "job-id": "mirror", "device": "leg-a", "target": "leg-b", "sync": "full",
            "copy-mode": "write-blocking"})
        qmp.wait_event("BLOCK_JOB_READY", failures=("BLOCK_JOB_ERROR", "BLOCK_JOB_COMPLETED"))
        return Running(nbd_target(socket_path, "bench"), [server, peer], (medium.file("a"), medium.file("b")),
                       lambda: _end_mirror(qmp))

    def _peer_address(self, workspace):
        port = free_port()
        return ({"type": "inet", "host": "127.0.0.1", "port": str(port)},
                ["--bind=127.0.0.1", f"--port={port}"], ("127.0.0.1", port))


class QemuMirrorUnix(QemuMirror):
    """The same over a unix socket. qemu 7.2's NBD server leaves Nagle's algorithm on, so that over TCP some of its
    replies wait 40 ms for a delayed ACK; this one shows the mirror job without that, and without any TCP."""
    name, label = "qemu-mirror-unix", "the same mirror over a unix socket"

    def _peer_address(self, workspace):
        path = workspace.path("qemu-nbd.sock")
        return {"type": "unix", "path": path}, [f"--socket={path}"], path


def _end_mirror(qmp):
    """Lets the job pivot to the target, which it does only once both are equal."""
    qmp.command("block-job-complete", device="mirror")
    qmp.wait_event("BLOCK_JOB_COMPLETED", failures=("BLOCK_JOB_ERROR",))
    qmp.close()


class Lockstep:
    name, label, mirrored = "lockstep", "lockstepd, one leg", False

    def __init__(self, build_dir):
        self._build_dir = build_dir

    def start(self, workspace, medium):
        volume = lockstep.Volume(workspace, self._build_dir, [medium.file("a")])
        volume.open()
        return Running(nbd_target(volume.nodes[0].socket_path, lockstep.VOLUME), volume.servers())


class LockstepMirror:
    name, label, mirrored = "lockstep-mirror", "lockstepd to lockstepd over TCP", True

    def __init__(self, build_dir):
        self._build_dir = build_dir

    def start(self, workspace, medium):
        legs = (medium.file("a"), medium.file("b"))
        volume = lockstep.Volume(workspace, self._build_dir, legs)
        volume.open()
        return Running(nbd_target(volume.nodes[0].socket_path, lockstep.VOLUME), volume.servers(), legs)


def all_subjects(build_dir):
    """In the order of a round: what is divided by each other stands side by side."""
    return [Raw(), Nbdkit(), Lockstep(build_dir), Qemu(), LockstepMirror(build_dir), QemuMirror(),
            QemuMirrorUnix()]


def stop(workspace, running):
    if running.close:
        running.close()
    for server in running.servers:
        workspace.stop(server)


def is_missing(subject, build_dir):
    """Why a subject cannot run here, or None."""
    if isinstance(subject, (Lockstep, LockstepMirror)):
        missing = [p for p in ("lockstepd", "lockstep") if not os.path.exists(os.path.join(build_dir, p))]
        if missing:
            return f"{', '.join(missing)} not built in {build_dir}"
    return None
