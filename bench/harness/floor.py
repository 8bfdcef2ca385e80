"""R: the round trip below which no mirrored write can go."""

import json
import os
import subprocess

from .processes import Failure, end_with_parent


def measure(build_dir, turns):
    program = os.path.join(build_dir, "lockstep-bench")
    done = subprocess.run([program, "floor", "--json", "--count", str(turns)], capture_output=True, text=True,
                          timeout=300, preexec_fn=end_with_parent)
    if done.returncode != 0:
        raise Failure(f"lockstep-bench floor: {done.stderr.strip()}")
    return json.loads(done.stdout)
