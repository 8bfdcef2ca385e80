#!/usr/bin/python3
"""The replay of power cuts, on logs made by hand: what must survive does under every seed, what may be lost is lost under
some, and kept under others.

usage: test_replay.py crash-replay
"""
import ctypes
import os
import struct
import subprocess
import sys
import tempfile
import unittest

OPEN, SUBMIT, COMPLETE, CLOSE = 1, 2, 3, 4
READ, WRITE, DISCARD, ZEROES, FLUSH = range(5)
FUA = 1
SIZE = 1 << 20
SECTOR = 512
SEEDS = 200

_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_64bits.restype = ctypes.c_uint64
_xxhash.XXH3_64bits.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
FILE = struct.Struct("<8sII Q 32x Q")
EVENT = struct.Struct("<4sBBHIiQQQQQII")


def checksum(data):
    return _xxhash.XXH3_64bits(data, len(data))


class Log:
    def __init__(self):
        head = FILE.pack(b"LKRECLOG", 1, 512, SIZE, 0)
        self.data = FILE.pack(b"LKRECLOG", 1, 512, SIZE, checksum(head))
        self.number = 0
        self.event(OPEN)

    def event(self, event, op=0, flags=0, result=0, request=0, offset=0, length=0, payload=b""):
        self.number += 1
        request = request or self.number
        head = [b"REVT", event, op, 0, flags, result, self.number, request, self.number * 1000, offset, length, len(payload), 0]
        head[-1] = checksum(EVENT.pack(*head)) & 0xFFFFFFFF
        self.data += EVENT.pack(*head) + payload
        return self.number

    def submit(self, op, sector=0, sectors=0, letter=b"", flags=0):
        number = self.event(SUBMIT, op, flags, offset=sector * SECTOR, length=sectors * SECTOR,
                            payload=letter * (sectors * SECTOR))
        return number, op, flags, sector * SECTOR, sectors * SECTOR

    def complete(self, request, result=0):
        number, op, flags, offset, length = request
        return self.event(COMPLETE, op, flags, result, number, offset, length)

    def write(self, sector, sectors, letter, flags=0):
        return self.complete(self.submit(WRITE, sector, sectors, letter, flags))

    def flush(self, result=0):
        return self.complete(self.submit(FLUSH), result)


class Replay:
    def __init__(self, log, base=bytes(SIZE), found=None):
        self.dir = tempfile.TemporaryDirectory(prefix="replay-")
        self.work = os.path.join(self.dir.name, "work")
        with open(os.path.join(self.dir.name, "log"), "wb") as f:
            f.write(log.data)
        with open(self.work, "wb") as f:
            f.write(base)
        argv = [PROGRAM, os.path.join(self.dir.name, "log"), self.work]
        if found:
            with open(os.path.join(self.dir.name, "found"), "wb") as f:
                f.write(found[1])
            argv.append(f"{found[0]}={f.name}")
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.greeting = self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)
        self.dir.cleanup()

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer.startswith("ok"), answer
        return dict(word.split("=") for word in answer.split()[1:] if "=" in word) or answer.split()[1:]

    def sectors(self, count):
        with open(self.work, "rb") as f:
            data = f.read(count * SECTOR)
        found = [data[i * SECTOR:(i + 1) * SECTOR] for i in range(count)]
        assert all(s == s[:1] * SECTOR for s in found), "a sector is torn"
        return "".join(chr(s[0]) if s[0] else "." for s in found)

    def found(self, count):
        """What the first sectors may hold, over all seeds."""
        seen = set()
        for seed in range(SEEDS):
            self.tell(f"look {seed}")
            seen.add(self.sectors(count))
        return seen


class Semantics(unittest.TestCase):
    def outcomes(self, log, count, at=None):
        with Replay(log) as r:
            r.tell(f"at {at or log.number}")
            return r.found(count)

    def test_what_a_flush_covered_is_there(self):
        log = Log()
        log.write(0, 2, b"a")
        log.flush()
        self.assertEqual(self.outcomes(log, 2), {"aa"})

    def test_nothing_is_certain_before_the_flush_has_completed(self):
        log = Log()
        log.write(0, 2, b"a")
        log.submit(FLUSH)
        self.assertEqual(self.outcomes(log, 2), {"aa", "a.", ".a", ".."})

    def test_a_write_in_flight_may_be_there_in_part(self):
        log = Log()
        log.submit(WRITE, 0, 2, b"a")
        self.assertEqual(self.outcomes(log, 2), {"aa", "a.", ".a", ".."})

    def test_a_flush_does_not_cover_what_completed_after_it_began(self):
        log = Log()
        w = log.submit(WRITE, 0, 1, b"a")
        f = log.submit(FLUSH)
        log.complete(w)
        log.complete(f)
        self.assertEqual(self.outcomes(log, 1), {"a", "."})

    def test_fua_is_certain_alone_and_hides_what_is_older(self):
        log = Log()
        log.write(0, 2, b"a")
        log.write(0, 1, b"b", FUA)
        self.assertEqual(self.outcomes(log, 2), {"ba", "b."})

    def test_what_is_newer_than_fua_may_be_on_top(self):
        log = Log()
        log.write(0, 1, b"b", FUA)
        log.write(0, 1, b"c")
        log.write(0, 1, b"d")
        self.assertEqual(self.outcomes(log, 1), {"b", "c", "d"})

    def test_discards_and_zeroes_are_changes_like_others(self):
        log = Log()
        log.write(0, 4, b"a", FUA)
        log.complete(log.submit(DISCARD, 0, 1))
        log.complete(log.submit(ZEROES, 1, 1))
        self.assertEqual(self.outcomes(log, 4), {"aaaa", ".aaa", "a.aa", "..aa"})
        log.flush()
        self.assertEqual(self.outcomes(log, 4), {"..aa"})

    def test_a_failed_flush_vouches_for_nothing_and_no_later_one_does(self):
        log = Log()
        log.write(0, 1, b"a")
        log.flush(result=-5)
        log.flush()
        self.assertEqual(self.outcomes(log, 1), {"a", "."})
        log.write(0, 1, b"b")
        log.flush()
        self.assertEqual(self.outcomes(log, 1), {"b"})

    def test_a_failed_write_may_be_there_for_ever(self):
        log = Log()
        log.complete(log.submit(WRITE, 0, 1, b"a"), -5)
        log.flush()
        self.assertEqual(self.outcomes(log, 1), {"a", "."})

    def test_what_a_killed_daemon_had_in_flight_stays_in_doubt(self):
        log = Log()
        log.submit(WRITE, 0, 1, b"a")
        log.submit(FLUSH)
        log.event(OPEN)
        log.flush()
        self.assertEqual(self.outcomes(log, 1), {"a", "."})

    def test_what_was_found_after_a_kill_is_certain_after_the_next_flush(self):
        log = Log()
        log.write(0, 3, b"o")
        log.flush()
        log.submit(WRITE, 0, 2, b"a")
        log.submit(WRITE, 2, 1, b"b", flags=FUA)
        log.event(OPEN)
        opened = log.number
        flushed = log.flush()
        # Half of the one had come to the disk, nothing of the other.
        disk = (b"a" + b"o" + b"o").ljust(SIZE // SECTOR, bytes(1))
        found = b"".join(bytes([letter]) * SECTOR for letter in disk)
        with Replay(log, found=((opened - 1) * 1000 + 1, found)) as r:
            r.tell(f"at {opened}")
            self.assertLess({"aoo", "ooo", "aab"}, r.found(3))
            r.tell("look all")
            self.assertEqual(r.sectors(3), "aoo")
            r.tell(f"at {flushed}")
            self.assertEqual(r.found(3), {"aoo"})
        # A copy that was taken later is not about this kill.
        with Replay(log, found=(opened * 1000 + 1, found)) as r:
            r.tell(f"at {flushed}")
            self.assertLess({"aoo", "ooo", "aab"}, r.found(3))

    def test_the_walk_goes_by_number_and_by_time_and_looks_are_taken_back(self):
        log = Log()
        log.write(0, 1, b"a")
        end = log.flush()
        log.write(0, 1, b"b")
        with Replay(log) as r:
            self.assertEqual(r.tell("flushes"), [str(end * 1000)])
            self.assertEqual(r.tell("touched 0"), [str(n * 1000) for n in (2, 3, 6, 7)])
            self.assertEqual(r.tell("touched 0 512"), [str(n * 1000) for n in (2, 3, 6, 7)])
            self.assertEqual(r.tell("touched 512"), [])
            self.assertEqual(r.tell("touched 0 0"), [])
            self.assertEqual(r.tell(f"time {end * 1000 + 999}")["at"], str(end))
            self.assertEqual(r.tell("look all")["survived"], "0")
            self.assertEqual(r.tell(f"at {log.number}")["uncertain"], "1")
            r.tell("look all")
            self.assertEqual(r.sectors(1), "b")
            copy = r.work + ".cut"
            r.tell(f"cut none {copy}")
            self.assertEqual(r.sectors(1), "a")
            with open(copy, "rb") as f:
                self.assertEqual(f.read(), b"a" * SECTOR + bytes(SIZE - SECTOR))

    def test_a_sector_tears_inside_only_where_that_is_wanted(self):
        log = Log()
        log.write(0, 2, b"a")
        log.flush()
        log.write(0, 1, b"b")
        with Replay(log) as r:
            r.tell(f"at {log.number}")
            torn = set()
            for seed in range(SEEDS):
                self.assertEqual(r.tell(f"look {seed}")["torn"], "0")
                state = r.tell(f"look {seed}t")
                with open(r.work, "rb") as f:
                    data = f.read(2 * SECTOR)
                self.assertEqual(data[SECTOR:], b"a" * SECTOR)
                words = [data[i:i + 8] for i in range(0, SECTOR, 8)]
                self.assertLessEqual(set(words), {b"a" * 8, b"b" * 8})
                if len(set(words)) == 2:
                    self.assertEqual(state["torn"], "1")
                    torn.add((words[0], words[-1]))
            self.assertGreaterEqual(torn, {(b"b" * 8, b"a" * 8), (b"a" * 8, b"b" * 8)})
            r.tell("look none")
            self.assertEqual(r.sectors(2), "aa")

    def test_a_large_discard_is_taken_back_whole(self):
        log = Log()
        log.complete(log.submit(DISCARD, 0, SIZE // SECTOR))
        with Replay(log, b"z" * SIZE) as r:
            r.tell(f"at {log.number}")
            r.tell("look all")
            self.assertEqual(r.sectors(SIZE // SECTOR), "." * (SIZE // SECTOR))
            r.tell("look none")
            self.assertEqual(r.sectors(SIZE // SECTOR), "z" * (SIZE // SECTOR))

    def test_changes_in_flight_to_one_place_are_counted(self):
        log = Log()
        log.submit(WRITE, 0, 4, b"a")
        log.submit(WRITE, 3, 1, b"b")
        with Replay(log) as r:
            self.assertEqual(r.tell(f"at {log.number}")["overlaps"], "1")

    def test_a_log_cut_off_in_an_event_ends_before_it(self):
        log = Log()
        log.write(0, 1, b"a", FUA)
        whole = log.number
        log.write(0, 1, b"b", FUA)
        log.data = log.data[:-70]
        with Replay(log) as r:
            self.assertEqual(r.tell("at 100")["at"], str(whole))
            self.assertEqual(r.found(1), {"a"})

    def test_a_damaged_log_is_refused(self):
        log = Log()
        log.write(0, 1, b"a")
        log.data = log.data[:70] + b"\xff" + log.data[71:]
        with Replay(log) as r:
            self.assertEqual(r.greeting, "")
            self.assertEqual(r.process.wait(10), 1)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
