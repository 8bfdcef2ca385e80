"""CPU time while a case runs: of the servers, and of everything on the machine that has no part in it."""

import os
import resource
import time


def _machine_busy_s():
    """User, nice, system, interrupt and stolen time of all CPUs; idle and I/O wait left out."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(x) for x in f.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_s():
    """This process and its ended children: fio."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class CpuMeter:
    """Percentages are of one CPU. `others` also has the kernel's threads: on disk, a subject's own write-back."""

    def __init__(self, servers):
        self._servers = servers
        self._start_s = time.monotonic()
        self._start_servers_s = [server.cpu_s() for server in servers]
        self._start_busy_s, self._start_own_s = _machine_busy_s(), _own_s()

    def read(self):
        wall_s = time.monotonic() - self._start_s
        used_s = [server.cpu_s() - start for server, start in zip(self._servers, self._start_servers_s)]
        others_s = (_machine_busy_s() - self._start_busy_s) - (_own_s() - self._start_own_s) - sum(used_s)
        return {"servers": {server.name: round(100 * s / wall_s, 1) for server, s in zip(self._servers, used_s)},
                "seconds": wall_s,
                "others": round(max(0.0, 100 * others_s / wall_s), 1)}
