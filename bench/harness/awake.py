"""Keeps the CPUs from going to sleep: on each a loop of the idle class, which gives way to everything else at once.

What a CPU takes to wake up, in a virtual machine an exit to its host, is then in nobody's latency. It is most of what
two measurements of the same program differ by, where each request finds everybody asleep. (What `idle=poll` does for a
whole machine.)"""

import contextlib
import os
import sys

from .processes import Process


# In a session of its own, which is a group of its own to the scheduler: else the loops would give way within the
# benchmark's group only, and take that group's part of a busy machine.
_LOOP = "{{ echo 19 >/proc/self/autogroup; }} 2>/dev/null; exec chrt -i 0 taskset -c {cpu} {python} -c 'while True: pass'"


@contextlib.contextmanager
def cpus():
    """Yields the loops, for who counts CPU time."""
    loops = [Process(f"loop on CPU {cpu}", ["setsid", "sh", "-c", _LOOP.format(cpu=cpu, python=sys.executable)], os.devnull)
             for cpu in sorted(os.sched_getaffinity(0))]
    try:
        yield loops
    finally:
        for each in loops:
            each.stop()
