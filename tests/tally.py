#!/usr/bin/python3
"""Counts what a run of meson's tests found, for ./dev test: cases, not programs, where a program tells its cases.

usage: tally.py LABEL BUILD_DIR

Prints `row NAME PASSED FAILED SKIPPED SECONDS` for each suite, and `note TEXT` for each failure and each skip. A test
tells its cases as cmocka does, or by ending its output with the line `N passed, N failed, N skipped`.
"""
import json
import re
import sys

OWN_TALLY = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")
CMOCKA_GROUP = re.compile(r"^\[==========\] (?:[\w ]*: )?(\d+) test\(s\) run\.", re.M)
CMOCKA_END = {
    word: re.compile(r"^\[ *%s *\] (?:[\w ]*: )?(\d+) test\(s\)" % word, re.M) for word in ("PASSED", "FAILED", "SKIPPED")
}


def cases_of(stdout, output):
    """(passed, failed, skipped) as the program itself counted them, or None. cmocka writes to both of its outputs."""
    lines = [line for line in stdout.splitlines() if line.strip()]
    own = OWN_TALLY.match(lines[-1].strip()) if lines else None
    if own:
        return tuple(int(n) for n in own.groups())
    if CMOCKA_GROUP.search(output):
        return tuple(sum(int(n) for n in CMOCKA_END[word].findall(output)) for word in ("PASSED", "FAILED", "SKIPPED"))
    return None


def last_line(output):
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "(it said nothing)"


def judge(test):
    """(passed, failed, skipped) of one line of testlog.json."""
    output = test["stdout"] + "\n" + test.get("stderr", "")
    if test["result"] == "SKIP":
        return 0, 0, 1
    cases = cases_of(test["stdout"], output)
    if test["result"] in ("OK", "EXPECTEDFAIL"):
        if cases is None:
            return 1, 0, 0
        # A program that counts no case at all has proven nothing, whatever its exit code.
        return cases if sum(cases) > 0 and cases[1] == 0 else (cases[0], max(cases[1], 1), cases[2])
    if cases is None:
        return 0, 1, 0
    return cases[0], max(cases[1], 1), cases[2]


def skips_told(test):
    """Skipped cases of a program that passed as a whole: their reasons, as far as it told them."""
    output = test["stdout"] + "\n" + test.get("stderr", "")
    reasons = re.findall(r"^(?:skipped|SKIP): (.*)$", output, re.M)
    return reasons or re.findall(r"^\[ *SKIPPED *\] (\w+)$", output, re.M) or ["no reason given"]


def main():
    label, build_dir = sys.argv[1:]
    with open(build_dir + "/meson-info/intro-tests.json") as f:
        suite_of = {tuple(t["cmd"]): (t["suite"] or ["other"])[-1].rpartition(":")[2] for t in json.load(f)}
    with open(build_dir + "/meson-logs/testlog.json") as f:
        tests = [json.loads(line) for line in f]
    if not tests:
        sys.exit("no results")

    suites = {}
    for test in tests:
        passed, failed, skipped = judge(test)
        suite = suites.setdefault(suite_of.get(tuple(test["command"]), "other"), [0, 0, 0, [], []])
        suite[0] += passed
        suite[1] += failed
        suite[2] += skipped
        suite[3].append(test["starttime"])
        suite[4].append(test["starttime"] + test["duration"])
        name = label + "/" + test["name"].rpartition(" / ")[2]
        if failed:
            print("note FAILED:  %s: %s, exit code %s; %s/meson-logs/testlog.txt" %
                  (name, test["result"].lower(), test["returncode"], build_dir))
        if test["result"] == "SKIP":
            print("note skipped: %s: %s" % (name, last_line(test["stdout"] + "\n" + test.get("stderr", ""))))
        elif skipped:
            for reason in skips_told(test):
                print("note skipped: %s: %s" % (name, reason))
    for suite, (passed, failed, skipped, starts, ends) in suites.items():
        print("row %s/%s %d %d %d %d" % (label, suite, passed, failed, skipped, round(max(ends) - min(starts))))


if __name__ == "__main__":
    main()
