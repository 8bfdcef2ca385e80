#!/usr/bin/python3
"""Writes the seeds of corpus/witness: questions and answers, as protobuf has them."""
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e"))
from lib.protobuf import data, fixed, number  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent / "witness"


def leg(fill):
    return bytes([fill]) * 16


def decree(epoch, tag=77, cause="take", primary="paris-b", members=(("paris-b", leg(2)),)):
    return (number(1, epoch) + fixed(2, tag) + data(3, cause) + data(4, primary) +
            b"".join(data(5, data(1, node) + data(2, i)) for node, i in members))


def question(swap=b"", version=1, volume="gold42", volume_id=leg(9), node="paris-b", peer="paris-a", known=0, alone=0):
    return (number(1, version) + number(2, 5) + data(3, volume) + data(4, volume_id) + data(5, node) + data(6, peer) +
            number(7, known) + number(8, alone) + (data(9, swap) if swap else b""))


def swap(proposal, epoch=0, tag=0, over=0, note="they were silent"):
    return number(1, epoch) + fixed(2, tag) + data(3, proposal) + number(4, over) + data(5, note)


def answer(outcome, proposal=None, reason="", version=1):
    return (number(1, version) + number(2, 5) + number(3, outcome) + (data(4, proposal) if proposal else b"") +
            data(5, reason))


BOTH = (("paris-a", leg(1)), ("paris-b", leg(2)))
SEEDS = {
    "read": question(),
    "read_alone": question(alone=1, known=3),
    "read_no_id": question(volume_id=b""),
    "read_short_id": question(volume_id=b"123"),
    "read_single": question(peer=""),
    "first": question(swap(decree(1, cause="first", members=BOTH))),
    "take": question(swap(decree(5), epoch=4, tag=44), known=4),
    "nobody": question(swap(decree(5, cause="nobody", primary="", members=BOTH), epoch=4, tag=44)),
    "adopt": question(swap(decree(1 << 20, cause="adopt"), over=1), known=9),
    "swap_nothing": question(swap(b"")),
    "swap_foreign": question(swap(decree(5, primary="rome"), epoch=4, tag=44)),
    "swap_three": question(swap(decree(5, members=BOTH + (("rome", leg(3)),)), epoch=4, tag=44)),
    "swap_cause": question(swap(decree(5, cause="whim"), epoch=4, tag=44)),
    "swap_high": question(swap(decree(1 << 63), epoch=4, tag=44)),
    "swap_long_note": question(swap(decree(5), note="x" * 192)),
    "version": question(version=2),
    "bad_name": question(node="paris b\n"),
    "long_name": question(volume="g" * 64),
    "stands": answer(1, decree(7, members=BOTH)),
    "stands_none": answer(1),
    "done": answer(2, decree(7)),
    "lost": answer(3, decree(7)),
    "lost_none": answer(3),
    "older": answer(6, decree(7), "it has epoch 7"),
    "refused": answer(7, None, "the disk is full\n"),
    "outcome": answer(99),
    "answer_version": answer(1, version=2),
    "frame": struct.pack("<I", 5) + b"hello",
    "http": b"GET / HTTP/1.1\r\n\r\n",
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, seed in SEEDS.items():
        (HERE / name).write_bytes(seed)
