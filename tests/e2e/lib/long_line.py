"""A tun device whose every packet comes back after a while: python3 long_line.py NAME DELAY_MS, until it is killed."""

import collections
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
PACKET_BYTES_MAX = 65536
PACKETS_MAX = 20000


def main(name, delay_s):
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    print("ready", flush=True)
    under_way = collections.deque()
    while True:
        wait_s = max(0, under_way[0][0] - time.monotonic()) if under_way else None
        if select.select([tun], [], [], wait_s)[0] and len(under_way) < PACKETS_MAX:
            try:
                under_way.append((time.monotonic() + delay_s, os.read(tun, PACKET_BYTES_MAX)))
            except OSError:
                time.sleep(0.01)  # not up yet
        while under_way and under_way[0][0] <= time.monotonic():
            try:
                os.write(tun, under_way.popleft()[1])
            except OSError:
                pass  # a line may lose packets


main(sys.argv[1], int(sys.argv[2]) / 1000)
