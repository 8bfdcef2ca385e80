"""The load: fio, and what is taken from its output."""

import dataclasses
import json
import subprocess

from .processes import Failure, end_with_parent, find_program

HISTOGRAM_BITS = 6  # fio's FIO_IO_U_PLAT_BITS: so many bins for each power of two
PERCENTILES = (50, 90, 99, 99.9)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    block_bytes: int
    depth: int


CASES = (
    Case("4k-qd1", 4 << 10, 1),
    Case("4k-qd32", 4 << 10, 32),
    Case("64k-qd8", 64 << 10, 8),
    Case("1m-qd8", 1 << 20, 8),
)


@dataclasses.dataclass(frozen=True)
class Timing:
    ramp_s: float  # not counted
    run_s: float


@dataclasses.dataclass(frozen=True)
class Target:
    """Where fio writes: an engine and its options."""
    engine: str
    options: tuple


def nbd_target(socket_path, export=""):
    return Target("nbd", (f"--uri=nbd+unix:///{export}?socket={socket_path}",))


def file_target(path, direct):
    return Target("io_uring", (f"--filename={path}", f"--direct={int(direct)}", "--allow_file_create=0"))


def _job(name, target):
    return [f"--name={name}", f"--ioengine={target.engine}", *target.options]


def _command(target, size_bytes, mode, block_bytes, depth):
    return [find_program("fio", "fio"), *_job("load", target), *_options(size_bytes, mode, block_bytes, depth)]


def _for_time(timing):
    return ["--time_based=1", f"--ramp_time={timing.ramp_s * 1000:.0f}ms", f"--runtime={timing.run_s * 1000:.0f}ms"]


def _options(size_bytes, mode, block_bytes, depth):
    return [f"--rw={mode}", f"--bs={block_bytes}", f"--iodepth={depth}", f"--size={size_bytes}",
            "--norandommap=1",  # fio's own work, on the same two cores, stays small
            "--randrepeat=0", "--lat_percentiles=1", "--clat_percentiles=0",
            "--percentile_list=" + ":".join(str(p) for p in PERCENTILES), "--output-format=json+"]


def _fio(command, limit_s):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, preexec_fn=end_with_parent)
    except subprocess.TimeoutExpired:
        raise Failure(f"fio did not end within {limit_s:.0f} s: the server hangs") from None
    if done.returncode != 0:
        raise Failure(f"fio failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def _run(command, limit_s):
    return parse(_fio(command, limit_s))


def jobs(output):
    """Those of a fio JSON report. fio may print warnings before it."""
    try:
        found = json.loads(output[output.index("{"):])["jobs"]
        found[0]["error"]
    except (ValueError, KeyError, IndexError) as e:
        raise Failure(f"fio's report cannot be read ({e}): {output[:200]!r}") from None
    return found


def median_ns(bins):
    """Of fio's histogram: its own percentiles are bins, 1.6 % wide, too coarse where 2 % are to be told apart. Inside
    the bin of the median, samples are taken to be spread evenly."""
    counts = sorted((int(middle), count) for middle, count in bins.items() if count)
    half = sum(count for _, count in counts) / 2
    below = 0
    for middle, count in counts:
        if below + count >= half:
            width = 1 << max(0, middle.bit_length() - 1 - HISTOGRAM_BITS)
            return middle - width / 2 + width * (half - below) / count
        below += count
    raise Failure("fio: an empty histogram")


def parse(output):
    """The figures of the first job."""
    return figures_of(jobs(output)[0])


def figures_of(job):
    if job["error"] != 0:
        raise Failure(f"fio: writes failed with errno {job['error']}")
    write = job["write"]
    if write["total_ios"] == 0:
        raise Failure("fio: not a single write was counted")
    percentiles = {float(k): v for k, v in write["lat_ns"]["percentile"].items()}
    return {
        "iops": write["iops"],
        "bytes_per_s": write["bw_bytes"],
        "p50_ns": percentiles[50.0],
        "median_ns": median_ns(write["lat_ns"]["bins"]),
        "p90_ns": percentiles[90.0],
        "p99_ns": percentiles[99.0],
        "p999_ns": percentiles[99.9],
        "max_ns": write["lat_ns"]["max"],
        "client_cpu_percent": round(job["usr_cpu"] + job["sys_cpu"], 1),
    }


def fill(target, size_bytes, limit_s=300, flush=False):
    """Writes the whole range once through the server: it is warm, and each block is its own afterwards."""
    return _run(_command(target, size_bytes, "write", 1 << 20, 8) + ["--end_fsync=1"] * flush, limit_s)


def run_case(target, size_bytes, case, timing):
    command = _command(target, size_bytes, "randwrite", case.block_bytes, case.depth)
    return _run(command + _for_time(timing), timing.ramp_s + timing.run_s + 60)


def alternate(targets, size_bytes, case, timing):
    """Short runs one after the other, of one fio: a target for each. Returns the figures of each, in order."""
    command = [find_program("fio", "fio"), *_options(size_bytes, "randwrite", case.block_bytes, case.depth),
               "--thread", *_for_time(timing)]
    for number, target in enumerate(targets):
        command += [*_job(f"run{number}", target), "--stonewall"]
    done = _fio(command, len(targets) * (timing.ramp_s + timing.run_s + 1) + 60)
    return [figures_of(job) for job in jobs(done)]


def write_bytes(target, size_bytes, total_bytes, case, limit_s):
    """So many bytes at random places, as fast as they go."""
    command = _command(target, size_bytes, "randwrite", case.block_bytes, case.depth)
    return _run(command + [f"--io_size={total_bytes}"], limit_s)


def touch(target, size_bytes, block_bytes, stride_bytes, limit_s):
    """One block in each stride, then a flush."""
    command = _command(target, size_bytes, f"write:{stride_bytes - block_bytes}", block_bytes, 32)
    return _run(command + [f"--io_size={size_bytes // stride_bytes * block_bytes}", "--end_fsync=1"], limit_s)


def read_rates(paths, size_bytes, block_bytes, depth, direct):
    """Bytes per second of each of several files that are read from their beginnings at once."""
    command = [find_program("fio", "fio"), "--output-format=json", "--ioengine=io_uring", f"--direct={int(direct)}",
               "--rw=read", f"--bs={block_bytes}", f"--iodepth={depth}", f"--size={size_bytes}",
               "--allow_file_create=0"]
    for number, path in enumerate(paths):
        command += [f"--name=leg{number}", f"--filename={path}"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=end_with_parent)
    if done.returncode != 0:
        raise Failure(f"fio failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return [job["read"]["bw_bytes"] for job in jobs(done.stdout)]


def scattered_rates(source, target, size_bytes, block_bytes, depth, direct, seconds):
    """Bytes per second of random reads of one file and of random writes to another, at once."""
    command = [find_program("fio", "fio"), "--output-format=json", "--ioengine=io_uring", f"--direct={int(direct)}",
               f"--bs={block_bytes}", f"--iodepth={depth}", f"--size={size_bytes}", "--norandommap=1", "--randrepeat=0",
               "--time_based=1", f"--runtime={seconds}", "--allow_file_create=0",
               "--name=source", f"--filename={source}", "--rw=randread",
               "--name=target", f"--filename={target}", "--rw=randwrite"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, preexec_fn=end_with_parent)
    if done.returncode != 0:
        raise Failure(f"fio failed: {(done.stderr or done.stdout).strip()[-500:]}")
    read, written = jobs(done.stdout)
    return read["read"]["bw_bytes"], written["write"]["bw_bytes"]


def mixed_command(target, size_bytes, run_s):
    """Reads, writes of several sizes, flushes and trims at once, on two connections."""
    return [find_program("fio", "fio"), f"--ioengine={target.engine}", *target.options, f"--size={size_bytes}",
            "--norandommap=1", "--randrepeat=0", "--time_based=1", f"--runtime={run_s}", "--output-format=json",
            "--name=mixed", "--rw=randrw", "--rwmixread=30", "--bssplit=4k/60:16k/20:64k/15:1m/5", "--iodepth=32",
            "--fsync=200",
            "--name=trims", "--rw=randtrimwrite", "--bs=64k", "--iodepth=4"]
