"""A crash of the primary with much of the volume hot and nothing different: everything hot is compared by digests, and no
payload is sent. Both legs are sparse files; what reading them costs is measured with fio, both at once, as the
two nodes read them."""

import time

from . import apart, load, lockstep

HOT_BYTES, HOT_BYTES_QUICK = 256 << 30, 32 << 30
BEYOND_BYTES = 44 << 30  # of the volume, that never was hot
SPARE_BYTES = 128 << 20
EXTENT_BYTES = 4 << 20
READ_BYTES, READ_BYTES_QUICK = 16 << 30, 8 << 30
READ_BLOCK_BYTES, READ_DEPTH = 64 << 10, 64  # as a resync reads: runs of 64 KiB, 8 windows of 8
LIMIT_S = 900
POLL_S = 0.5
AT_LEAST = 0.5


def measure(context, say):
    hot = context.written_bytes or (HOT_BYTES_QUICK if context.quick else HOT_BYTES)
    size = hot + BEYOND_BYTES
    legs = [context.medium.sparse_file(leg, size + SPARE_BYTES) for leg in ("a", "b")]
    volume = lockstep.Volume(context.workspace, context.build, legs, {"size": f"{size >> 20}MiB"}, dead_after="500ms")
    volume.open()
    primary, secondary = volume.nodes
    load.touch(load.nbd_target(primary.socket_path, lockstep.VOLUME), hot, 4096, EXTENT_BYTES, 300)
    say(f"crash: {hot >> 30} GiB of {size >> 30} GiB are hot")
    volume.kill(primary)
    volume.wait(secondary, "seeing the crash", lambda s: s["peer"]["link"] != "connected")
    volume.start(primary)
    started_s = time.monotonic()
    state = volume.wait(primary, "being up", lambda s: s["state"] == "up" and s["size_bytes"])
    differing = state["peer"]["out_of_sync_bytes"]
    if state["peer"]["link"] == "connected":
        differing = max(differing, (state["peer"]["resync"] or {}).get("total_bytes", 0))
    volume.wait(primary, "being connected", lambda s: s["peer"]["link"] == "connected")
    volume.promote(primary)
    served_s = time.monotonic() - started_s
    volume.wait(primary, "being protected", lambda s: s["protected"], LIMIT_S, POLL_S)
    took = apart.resync_of(volume.events(primary))
    volume.stop()
    say(f"crash: protected after {took['seconds']:.1f} s")
    reads = load.read_rates(legs, READ_BYTES_QUICK if context.quick else READ_BYTES, READ_BLOCK_BYTES, READ_DEPTH,
                            context.medium.direct)
    rate = took["equal_bytes"] / took["seconds"]
    rows = [["crash of the primary, nothing different", ""],
            ["hot when it crashed", f"{hot / 2**30:.0f} GiB; counted as out of sync: {differing / 2**30:.0f} GiB"],
            ["served again", f"{served_s:.2f} s after the start of its daemon, by `promote`"],
            ["compared", f"{took['equal_bytes'] / 2**30:.1f} GiB equal by digest; {took['sent_bytes']} bytes sent, "
                         f"{took['zero_bytes']} zeroed"],
            ["until protected", f"{took['seconds']:.1f} s, {rate / 1e6:,.0f} MB/s from each leg"],
            ["fio reading both files at once, 64 KiB at 64", f"{min(reads) / 1e6:,.0f} MB/s each"]]
    return {"rows": rows,
            "figures": {"hot_bytes": hot, "size_bytes": size, "resync": took, "served_s": served_s,
                        "read_bytes_per_s": reads},
            "ratios": [{"target": "crash, nothing different: bytes sent", "sense": "max", "bound": 0,
                        "ratio": took["sent_bytes"] + took["zero_bytes"]},
                       {"target": "crash: compared / read by fio, bytes/s", "sense": "min", "bound": AT_LEAST,
                        "ratio": rate / min(reads)}]}
