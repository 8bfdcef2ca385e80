#!/usr/bin/python3
"""The manual, the completion and the example say what the programs say of themselves.

usage: test_manual.py LOCKSTEP LOCKSTEPD SOURCE-TREE
"""
import os
import re
import subprocess
import sys
import tempfile

lockstep, lockstepd, tree = sys.argv[1:]
failures = []


def check(truth, what):
    if not truth:
        failures.append(what)


def read(*path):
    with open(os.path.join(tree, *path), encoding="utf-8") as f:
        return f.read()


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def options_of(text):
    return {o for o in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text)}


def fl(page):
    return set(re.findall(r"\bFl -([a-z][a-z-]+)", page))


man1, man8, man5 = (read("docs", "man", name) for name in ("lockstep.1", "lockstepd.8", "lockstep.yaml.5"))
completion = read("repl", "cli", "completion", "lockstep.bash")

overview = output(lockstep, "--help")
commands = re.findall(r"^  ([a-z]+) +(?:dump |WORD )?(?:VOLUME|\[VOLUME\])", overview, re.M)
check(len(commands) >= 7, "lockstep --help lists its commands")
offered = re.search(r"compgen -W '([a-z ]+)'", completion).group(1).split()
check(commands == offered, "the completion offers %s, lockstep has %s" % (offered, commands))
options = options_of(overview)
for command in commands:
    text = output(lockstep, command, "--help")
    options |= options_of(text)
    check(re.search(r"^\.It Ic %s\b" % command, man1, re.M), "lockstep.1 has no command %s" % command)
    for option in options_of(text) - {"json", "control", "help"}:
        arm = re.search(r"^ +(?:[a-z]+ \| )*%s(?: \| [a-z]+)*\) options.*" % command, completion, re.M)
        check(arm and "--" + option in arm.group(), "the completion lacks %s --%s" % (command, option))
check(options == fl(man1), "lockstep.1 and --help differ in %s" % sorted(options ^ fl(man1)))
options = options_of(output(lockstepd, "--help"))
check(options == fl(man8), "lockstepd.8 and --help differ in %s" % sorted(options ^ fl(man8)))

keys = {path.rsplit(".", 1)[-1] for path in re.findall(r'^    { "([^"]+)",', read("repl", "node", "config_schema.c"), re.M)}
keys = {k for k in keys if not k.endswith("[]") and k not in ("ca", "cert", "key", "promote", "demote", "freeze", "thaw",
                                                              "store", "at", "keep", "continuous")}
for key in sorted(keys):
    check(re.search(r"\bIc %s\b" % re.escape(key), man5), "lockstep.yaml.5 lacks the key %s" % key)

example = os.path.join(tree, "examples", "gold42.yaml")
for node in ("paris-a", "paris-b"):
    output(lockstepd, "--check", "--config", example, "--node", node)
output(lockstepd, "--check", "--config", os.path.join(tree, "examples", "witness.yaml"))
shown = re.search(r"\.Bd -literal\n(volume:.*?)\.Ed", man5, re.S).group(1)
with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
    f.write(shown)
    f.flush()
    output(lockstepd, "--check", "--config", f.name, "--node", "paris-a")

for failure in failures:
    print(failure)
sys.exit(1 if failures else 0)
