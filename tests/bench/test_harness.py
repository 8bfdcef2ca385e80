#!/usr/bin/python3
"""Tests of the benchmark itself: usage is test_harness.py PATH-TO-lockstep-bench. No server is needed."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

BENCH_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench")
sys.path.insert(0, BENCH_DIR)

from harness import apart, compare, load, lockstep, media, memory, meter, network, processes, recovery, report  # noqa: E402

BENCH = None


def _fio_report(**changes):
    job = {"error": 0, "usr_cpu": 10.0, "sys_cpu": 20.25, "write": {
        "iops": 1000.0, "bw_bytes": 4096000, "total_ios": 5000,
        "lat_ns": {"max": 9000, "percentile": {"50.000000": 100, "90.000000": 200, "99.000000": 300,
                                               "99.900000": 400},
                   "bins": {"100": 2, "200": 2, "300": 1}}}}
    job.update(changes)
    return json.dumps({"jobs": [job]})


class Floor(unittest.TestCase):
    def run_floor(self, *arguments):
        return subprocess.run([BENCH, "floor", *arguments], capture_output=True, text=True, timeout=60)

    def test_quantiles_are_ordered_and_the_shape_is_told(self):
        done = self.run_floor("--json", "--count", "300", "--size", "5000", "--reply", "100")
        self.assertEqual(done.returncode, 0, done.stderr)
        r = json.loads(done.stdout)
        self.assertEqual((r["request_bytes"], r["reply_bytes"], r["turns"]), (5000, 100, 300))
        self.assertGreater(r["min_ns"], 0)
        self.assertLessEqual(r["min_ns"], r["p50_ns"])
        self.assertLessEqual(r["p50_ns"], r["p99_ns"])
        self.assertLessEqual(r["p99_ns"], r["max_ns"])

    def test_a_request_larger_than_the_socket_buffers_goes_through(self):
        done = self.run_floor("--json", "--count", "3", "--size", str(32 << 20))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_wrong_use_is_told_with_exit_2(self):
        for arguments in (["--size", "0"], ["--size", str((32 << 20) + 1)], ["--count", "-1"], ["--count", "1x"],
                          ["--bogus"], ["stray"], ["--listen", "a:1", "--connect", "b:1"]):
            done = self.run_floor(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertTrue(done.stderr, arguments)

    def test_between_hosts_one_bad_client_does_not_end_the_server(self):
        # An address of our own on the loopback, so that nobody else has that port there.
        pid = os.getpid()
        host, port = f"127.{64 + (pid >> 16) % 128}.{(pid >> 8) % 256}.{pid % 256}", 20000
        server = subprocess.Popen([BENCH, "floor", "--listen", f"{host}:{port}"], stderr=subprocess.PIPE, text=True)
        try:
            self.assertIn("serving", server.stderr.readline())
            with socket.create_connection((host, port)) as garbage:
                garbage.sendall(b"x" * 64)
                with contextlib.suppress(OSError):  # the server may have hung up already
                    garbage.shutdown(socket.SHUT_WR)
            self.assertIn("hello", server.stderr.readline())
            done = self.run_floor("--connect", f"{host}:{port}", "--count", "50", "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(json.loads(done.stdout)["turns"], 50)
        finally:
            server.kill()
            server.communicate()


class FioReports(unittest.TestCase):
    def test_figures_are_taken_over(self):
        f = load.parse("fio: this engine warns\n" + _fio_report())
        self.assertEqual((f["iops"], f["bytes_per_s"], f["p50_ns"], f["p999_ns"]), (1000.0, 4096000, 100, 400))
        self.assertAlmostEqual(f["median_ns"], 199.5)

    def test_a_median_lies_inside_its_bin(self):
        # 32768 ns ... 65535 ns: bins of 512 ns, named by their middles.
        self.assertAlmostEqual(load.median_ns({"43776": 4}), 43776)
        self.assertAlmostEqual(load.median_ns({"43776": 4, "44288": 0, "50000": 4}), 43776 + 256)
        self.assertAlmostEqual(load.median_ns({"40000": 2, "43776": 4}), 43776 - 256 + 128)
        with self.assertRaises(processes.Failure):
            load.median_ns({"43776": 0})

    def test_errors_and_empty_runs_are_failures(self):
        for bad in (_fio_report(error=5), "", "no json", '{"jobs": []}',
                    _fio_report(write={"total_ios": 0, "iops": 0})):
            with self.assertRaises(processes.Failure):
                load.parse(bad)


def _samples(**figures_by_subject_and_case):
    return [{"medium": "ram", "subject": key.split("__")[0].replace("_", "-"),
             "case": None if key == "floor" else key.split("__")[1].replace("_", "-"), "figures": f}
            for key, values in figures_by_subject_and_case.items() for f in values]


def _event(seconds, topic, text):
    return {"time": f"2026-11-22T18:00:{seconds:06.3f}Z", "topic": topic, "text": text}


class Resyncs(unittest.TestCase):
    EVENTS = [_event(1, "link", "connected to node-b over 127.0.0.1:1"), _event(2, "protected", "protected"),
              _event(3, "protected", "not protected: no connection to node-b"),
              _event(10.5, "link", "connected to node-b over 127.0.0.1:1"),
              _event(11, "resync", "the leg of node-b is up to date: 8192 bytes were equal, 4096 sent, 0 zeroed without "
                     "being sent"),
              _event(12.75, "protected", "protected")]

    def test_the_last_one_is_told(self):
        self.assertEqual(apart.resync_of(self.EVENTS),
                         {"seconds": 2.25, "equal_bytes": 8192, "sent_bytes": 4096, "zero_bytes": 0})

    def test_one_that_has_not_ended_is_none(self):
        for events in (self.EVENTS[:4], self.EVENTS[:2], []):
            with self.assertRaises(processes.Failure):
                apart.resync_of(events)


class Reconnects(unittest.TestCase):
    GIB = 1 << 30

    def test_two_legs_that_are_written_out_fit(self):
        for wanted, free, expected in ((10, 64, (10, 20)), (10, 20, (10, 8)), (10, 18, (8, 7)), (1, 20, (1, 2)),
                                       (1, 3, (1, 1))):
            found = apart.sizes(wanted * self.GIB, free * self.GIB)
            self.assertEqual(found, tuple(x * self.GIB for x in expected), (wanted, free))
            self.assertLess(2 * (found[1] + apart.SPARE_BYTES), free * self.GIB)
        with self.assertRaises(processes.Failure):
            apart.sizes(self.GIB, 2 * self.GIB)

    def test_rates(self):
        self.assertEqual([network.parse_rate(t) for t in ("none", "10Gbit", "1gbit")], [None, 10**10, 10**9])
        for bad in ("", "0Gbit", "401Gbit", "10", "10GB", "-1Gbit", "10Gbit "):
            with self.assertRaises(ValueError, msg=bad):
                network.parse_rate(bad)

    def test_both_loopbacks_are_the_default_and_others_can_be_named(self):
        self.assertEqual(recovery._arguments([]).link_rates, [None, 10**10])
        self.assertEqual(recovery._arguments(["--link-rate", "25Gbit"]).link_rates, [25 * 10**9])
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            recovery._arguments(["--link-rate", "fast"])

    def test_what_is_not_judged_is_told_and_no_target(self):
        def ratio(**more):
            return {"target": "t", "sense": "max", "bound": 1, "ratio": 2, **more}
        found = recovery._bind([ratio(judged=False), ratio(judged=True), ratio()], True)
        self.assertEqual([r["binding"] for r in found], [False, True, True])
        self.assertEqual(report.missed(found), found[1:])
        self.assertEqual(len(report.ratios_table(found)), 2 + 3)


class ShapedLoopback(unittest.TestCase):
    def test_as_it_is_nothing_is_in_between(self):
        with processes.Workspace() as w:
            self.assertEqual(network.Loopback(w, None).inside(["a", "b"]), ["a", "b"])

    def test_without_root_there_is_none(self):
        with processes.Workspace() as w, unittest.mock.patch("os.geteuid", return_value=1000):
            with self.assertRaisesRegex(processes.Failure, "root"):
                network.Loopback(w, 10**9)

    def test_a_shaped_one_has_its_rate_and_ends_with_the_run(self):
        size = 508 << 10
        with processes.Workspace() as w:
            try:
                loopback = network.Loopback(w, 10**9)
            except processes.Failure as e:
                self.skipTest(f"no shaped loopback here: {e}")
            done = subprocess.run(loopback.inside([BENCH, "link", "--json", f"--size={size}", "--depth=8", "--count=200"]),
                                  capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertLess(json.loads(done.stdout)["frames_per_s"] * size, 1.1 * 10**9 / 8)
            holder = loopback._holder
        self.assertFalse(holder.running())


class Ratios(unittest.TestCase):
    def find(self, found, words):
        return next(r for r in found if r["target"] == words)

    def test_a_ratio_is_of_medians(self):
        samples = _samples(lockstep__4k_qd1=[{"iops": i, "p50_ns": 1} for i in (90, 120, 1000)],
                           nbdkit__4k_qd1=[{"iops": i, "p50_ns": 1} for i in (1, 100, 110)])
        r = self.find(report.ratios(report.medians(samples), ["ram"]), "one leg / nbdkit, 4 KiB QD1 IOPS")
        self.assertAlmostEqual(r["ratio"], 1.2)
        self.assertTrue(r["reached"])

    def test_latency_is_measured_against_one_leg_plus_the_floor(self):
        for mirrored_ns, reached in ((115, True), (116, False)):
            samples = _samples(lockstep_mirror__4k_qd1=[{"iops": 1, "p50_ns": mirrored_ns}],
                               lockstep__4k_qd1=[{"iops": 1, "p50_ns": 70}], floor=[{"p50_ns": 30}])
            found = report.ratios(report.medians(samples), ["ram"])
            r = self.find(found, "mirrored / (one leg + R), 4 KiB QD1 p50")
            self.assertAlmostEqual(r["ratio"], mirrored_ns / 100)
            self.assertEqual(r["reached"], reached)
            self.assertEqual(bool(report.missed(found)), not reached)

    def test_what_was_not_measured_is_neither_reached_nor_missed(self):
        found = report.ratios({}, ["ram", "disk"])
        self.assertEqual(len(found), 2 * len(report.TARGETS))
        self.assertTrue(all(r["ratio"] is None and r["reached"] is None for r in found))
        self.assertEqual(report.missed(found), [])

    def test_targets_name_what_exists(self):
        from harness import subjects
        names = {s.name for s in subjects.all_subjects("")} | {"floor"}
        for _, sense, _, operand, base in report.TARGETS:
            self.assertIn(sense, ("min", "max"))
            for subject, case, _ in [operand, *base]:
                self.assertIn(subject, names)
                self.assertIn(case, [*report.case_names(), None])


class Legs(unittest.TestCase):
    def test_a_single_different_byte_is_found(self):
        size = media.CHUNK_BYTES + 8192
        with tempfile.TemporaryDirectory() as d:
            a, b = os.path.join(d, "a"), os.path.join(d, "b")
            for path in (a, b):
                with open(path, "wb") as f:
                    f.truncate(size + 4096)
            self.assertIsNone(media.first_difference(a, b, size, False))
            with open(b, "r+b") as f:
                f.seek(size)
                f.write(b"metadata behind the range may differ")
            self.assertIsNone(media.first_difference(a, b, size, False))
            with open(b, "r+b") as f:
                f.seek(size - 1)
                f.write(b"x")
            self.assertEqual(media.first_difference(a, b, size, False), media.CHUNK_BYTES)


    def test_files_of_a_killed_run_go_and_those_of_a_living_one_stay(self):
        dead = subprocess.Popen(["true"])
        dead.wait()
        with tempfile.TemporaryDirectory() as d, processes.Workspace() as w:
            old, ours, other = (os.path.join(d, n) for n in (
                f"lockstep-bench-{dead.pid}-a.img", f"lockstep-bench-{os.getpid()}-b.img", "lockstep-bench-x-a.img"))
            for path in (old, ours, other):
                open(path, "w").close()
            media.Medium("ram", d, w, 4096)
            self.assertEqual([os.path.exists(p) for p in (old, ours, other)], [False, True, True])

    def test_a_leg_is_written_out_once_and_goes_with_the_run(self):
        with tempfile.TemporaryDirectory() as d:
            with processes.Workspace() as w:
                medium = media.Medium("ram", d, w, 1 << 20)
                path = medium.file("a")
                self.assertEqual(medium.file("a"), path)
                self.assertEqual(os.path.getsize(path), (1 << 20) + media.SPARE_BYTES)
                self.assertGreaterEqual(os.stat(path).st_blocks * 512, os.path.getsize(path))
            self.assertFalse(os.path.exists(path))


class Memory(unittest.TestCase):
    def test_bound(self):
        self.assertEqual(memory.bound_bytes(1 << 40), (64 + 40) << 20)
        self.assertEqual(memory.bound_bytes(0), 64 << 20)

    def test_judgement(self):
        mib = 1 << 20
        self.assertEqual(memory.judge({"total": 20 * mib}, {"total": 21 * mib}, 64 * mib), [])
        self.assertEqual(len(memory.judge({"total": 20 * mib}, {"total": 21 * mib + 1}, 64 * mib)), 1)
        self.assertEqual(len(memory.judge({"total": 20 * mib}, {"total": 18 * mib}, 64 * mib)), 1)
        self.assertEqual(len(memory.judge({"total": 64 * mib + 4096}, {"total": 64 * mib}, 64 * mib)), 1)


class Cleaning(unittest.TestCase):
    """However the driver ends, nothing of it stays."""

    SCRIPT = """
import sys, os, time
sys.path.insert(0, {here!r})
from harness.processes import Workspace
with Workspace() as w:
    f = w.own_file({file!r})
    open(f, "w").close()
    p = w.start("sleeper", ["sleep", "600"])
    print(w.dir, p.pid, flush=True)
    while True: # a signal that comes just before a sleep begins is seen after it
        time.sleep(0.05)
"""

    def end_by(self, number):
        with tempfile.TemporaryDirectory() as d:
            file = os.path.join(d, "leg.img")
            script = self.SCRIPT.format(here=BENCH_DIR, file=file)
            driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
                                      stderr=subprocess.DEVNULL)
            try:
                directory, pid = driver.stdout.readline().split()
                driver.send_signal(number)
                driver.communicate(timeout=30)
            finally:
                driver.kill()
                driver.communicate()
            self.await_end(int(pid))
            self.directory = directory
            return os.path.exists(directory), os.path.exists(file)

    def await_end(self, pid):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                with open(f"/proc/{pid}/stat") as f:
                    if f.read().rsplit(")", 1)[1].split()[0] == "Z":
                        return
            except OSError:
                return
            time.sleep(0.02)
        self.fail(f"process {pid} is still there")

    def test_on_signals_processes_sockets_and_files_go(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.assertEqual(self.end_by(number), (False, False), number)

    def test_on_kill_processes_go(self):
        directory_left, _ = self.end_by(signal.SIGKILL)
        self.assertTrue(directory_left)  # nobody was there to remove it; the servers went all the same
        shutil.rmtree(self.directory)


class Disturbance(unittest.TestCase):
    def comparison(self, retries):
        with processes.Workspace() as w:
            a = compare._arguments(["--retries", str(retries), "--only", "floor"])
            return compare.Comparison(a, w)

    def least(self, retries, others):
        """The figure kept, and how many were taken, when others use so much in each."""
        others = list(others)
        taken = []

        class Meter:
            def __init__(self, _):
                pass

            def read(self):
                return {"others": others[len(taken) - 1], "servers": {}}

        real, meter.CpuMeter = meter.CpuMeter, Meter
        try:
            figures, _ = self.comparison(retries)._least_disturbed([], lambda: taken.append(1) or len(taken))
        finally:
            meter.CpuMeter = real
        return figures, len(taken)

    def test_an_undisturbed_figure_is_kept_at_once(self):
        self.assertEqual(self.least(3, [5, 0, 0, 0]), (1, 1))

    def test_the_least_disturbed_of_all_is_kept(self):
        self.assertEqual(self.least(3, [90, 30, 60, 40]), (2, 4))
        self.assertEqual(self.least(3, [90, 30, 2, 40]), (3, 3))

    def test_without_retries_the_figure_is_what_it_is(self):
        self.assertEqual(self.least(0, [150]), (1, 1))

    def test_the_meter_tells_others_from_ours(self):
        with processes.Workspace() as w:
            ours = w.start("ours", ["sh", "-c", "while :; do :; done"])
            cpu = meter.CpuMeter([ours])
            # However little a busy machine gives it.
            processes.wait_until("to be metered", lambda: cpu.read()["servers"]["ours"] > 0, ours, deadline_s=60)
        with processes.Workspace() as w:
            foreign = w.start("foreign", ["sh", "-c", "while :; do :; done"])
            cpu = meter.CpuMeter([])
            processes.wait_until("to be metered as another's", lambda: cpu.read()["others"] > 0, foreign, deadline_s=60)
            foreign.require_running()


class Arguments(unittest.TestCase):
    def test_only_narrows_each_kind_by_itself(self):
        a = compare._arguments(["--only", "ram,nbdkit", "--only", "4k-qd1"])
        self.assertEqual((a.media, a.subjects, a.cases), (["ram"], ["nbdkit"], ["4k-qd1"]))
        a = compare._arguments(["--only", "disk"])
        self.assertEqual(a.media, ["disk"])
        self.assertEqual(a.cases, report.case_names())

    def test_a_volume_has_what_the_configuration_needs(self):
        with processes.Workspace() as w:
            one = lockstep.Volume(w, "build", ["/a"])._config()
            two = lockstep.Volume(w, "build", ["/a", "/b"])._config()
        self.assertNotIn("paths", one)
        self.assertEqual(two.count("paths: [127.0.0.1:"), 2)
        self.assertIn("tls: none", two)


if __name__ == "__main__":
    BENCH = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    bad, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    for test, reason in result.skipped:
        print(f"skipped: {test}: {reason}")
    print(f"{result.testsRun - bad - skipped} passed, {bad} failed, {skipped} skipped")
    sys.exit(0 if result.wasSuccessful() else 1)
