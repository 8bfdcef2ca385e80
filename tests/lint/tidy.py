#!/usr/bin/python3
"""clang-tidy on every source that the build compiles, several at a time; what passed before and is unchanged is not read again.

usage: tidy.py BUILD_DIR     configured with clang, and built, so that generated headers exist
"""
import concurrent.futures
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys

# clang counts the warnings that it does not show; nobody needs the count.
NOISE = re.compile(r"^\d+ warnings?( and \d+ errors?)? generated\.$\n?", re.M)


def content(command):
    """What clang-tidy would read: the source with all it includes, comments too, for they may hold NOLINT."""
    words = shlex.split(command["command"])
    for option in ("-o", "-MF", "-MQ"):
        if option in words:
            at = words.index(option)
            del words[at:at + 2]
    words = [w for w in words if w not in ("-c", "-MD")] + ["-E", "-C", "-o", "-"]
    return subprocess.run(words, cwd=command["directory"], stdout=subprocess.PIPE, check=True).stdout


def check(build_dir, command, rules):
    """What clang-tidy has to say; empty: nothing."""
    source = os.path.relpath(os.path.join(command["directory"], command["file"]))
    stamp = os.path.join(build_dir, "tidy", source + ".passed")
    digest = hashlib.sha256(rules + content(command)).hexdigest()
    if os.path.exists(stamp):
        with open(stamp, encoding="ascii") as f:
            if f.read() == digest:
                return ""
    done = subprocess.run(["clang-tidy", "-p", build_dir, "--quiet", "--warnings-as-errors=*", source], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    said = NOISE.sub("", done.stdout)
    if done.returncode != 0:
        return said or "%s: clang-tidy ended with %d" % (source, done.returncode)
    os.makedirs(os.path.dirname(stamp), exist_ok=True)
    with open(stamp, "w", encoding="ascii") as f:
        f.write(digest)
    return ""


def main():
    build_dir = sys.argv[1]
    rules = subprocess.run(["clang-tidy", "--version"], stdout=subprocess.PIPE, check=True).stdout
    for path in (".clang-tidy", "tests/.clang-tidy"):
        with open(path, "rb") as f:
            rules += f.read()
    with open(os.path.join(build_dir, "compile_commands.json"), encoding="utf-8") as f:
        commands = {c["file"]: c for c in json.load(f)}.values()
    mine = [c for c in commands if c["file"].endswith(".c") and c["file"].startswith("../")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        failed = [said for said in pool.map(lambda c: check(build_dir, c, rules), mine) if said]
    print("".join(failed), end="")
    print("%d sources, %d with findings" % (len(mine), len(failed)))
    sys.exit(1 if failed or not mine else 0)


if __name__ == "__main__":
    main()
