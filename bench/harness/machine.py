"""What the figures were measured on: a benchmark without these facts says nothing."""

import datetime
import os
import platform
import re
import shutil
import subprocess


def _first_line(path):
    try:
        with open(path) as f:
            return f.readline().strip()
    except OSError:
        return None


def _cpu_model():
    try:
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or None


def _memory_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _output(*command, cwd=None):
    """First line that a program prints, or None where there is no such program."""
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _package_version(package):
    return _output("dpkg-query", "-W", "-f=${Version}", package)


def _file_system(path):
    found = _output("findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "--target", path)
    return found and " ".join(found.split())


def load_average():
    return [round(x, 2) for x in os.getloadavg()]


def commit_of(directory):
    """Of the source tree that a build directory lies in."""
    return _output("git", "describe", "--always", "--dirty", "--abbrev=12", cwd=directory)


def facts(build_dir, disk_dir):
    cpus = len(os.sched_getaffinity(0))
    commit = commit_of(os.path.dirname(os.path.abspath(__file__)))
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": cpus,
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "virtualised": _output("systemd-detect-virt", "--vm") or ("yes" if _is_guest() else "no"),
        "memory_bytes": _memory_bytes(),
        "load_average_at_start": load_average(),
        "io_uring_disabled": _first_line("/proc/sys/kernel/io_uring_disabled"),
        "tcp_congestion_control": _first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
        "disk_file_system": _file_system(disk_dir),
        "versions": {
            "lockstep": _output(os.path.join(build_dir, "lockstepd"), "--version"),
            "commit": commit,
            "nbdkit": _output("nbdkit", "--version"),
            "qemu-storage-daemon": _output("qemu-storage-daemon", "--version"),
            "fio": _output("fio", "--version"),
            "libnbd": _package_version("libnbd0"),
            "liburing": _package_version("liburing2"),
        },
    }


def _is_guest():
    try:
        with open("/proc/cpuinfo") as f:
            return re.search(r"^flags.*\bhypervisor\b", f.read(), re.MULTILINE) is not None
    except OSError:
        return False


def describe(f):
    """The facts in a few lines, for eyes."""
    versions = "; ".join(f"{name}: {version}" for name, version in f["versions"].items() if version)
    guest = {"no": "bare metal", "yes": "a virtual machine"}.get(f["virtualised"], f["virtualised"])
    return [
        *([f"compared with: {f['against']}"] if f.get("against") else []),
        f"{f['date']}  Linux {f['kernel']}, {f['cpus']} CPUs ({f['cpu']}), {f['memory_bytes'] / 2**30:.0f} GiB, {guest}",
        f"{versions}",
        f"load average at the start: {f['load_average_at_start'][0]}; disk: {f['disk_file_system']}",
    ]
