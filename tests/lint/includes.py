#!/usr/bin/python3
"""The house keeps its order: includes point down, never up or in a circle, and pure code stays pure.

usage: includes.py [TREE]

Reads the sources as text, so that it needs no build, and prints FILE:LINE: REASON for each violation; exit 1 if any.
"""
import os
import re
import sys

# From the ground up; a file includes only its own module and those above it in this list (docs/ARCHITECTURE.md).
MODULES = [
    "repl/base", "proto", "repl/core", "repl/meta",
    "blockdev/ring", "blockdev/disk", "blockdev/front",
    "repl/mirror", "repl/sync", "repl/role", "repl/stream",
    "repl/link", "repl/witness", "repl/engine", "repl/offsite",
    "repl/node", "repl/cli", "bench", "tests",
]

# These don't know each other; the engine does.
STRANGERS = {"repl/mirror", "repl/sync", "repl/role", "repl/stream"}

# Takes events, emits actions. The simulator relies on it: nothing here may touch the world.
PURE_MODULES = {"repl/core", "repl/meta", "repl/mirror", "repl/sync", "repl/role", "repl/stream", "repl/engine"}
PURE_FILES = {
    "repl/link/session.h", "repl/link/session_internal.h", "repl/link/session.c", "repl/link/session_actions.c",
    "repl/link/session_retry.c", "repl/link/session_strangers.c",
    "blockdev/front/nbd_proto.h", "blockdev/front/nbd_proto.c",
    "repl/witness/register_table.h", "repl/witness/register_table.c",
}
# What pure code may include of code that is not pure itself: values and arithmetic.
PURE_MAY_USE_MODULES = {"repl/base"}
PURE_MAY_NOT_USE_FILES = {"repl/base/clock.h"}
PURE_MAY_USE_FILES = {"proto/frame.h"}
PURE_MAY_USE_SYSTEM = {
    "assert.h", "ctype.h", "endian.h", "errno.h", "inttypes.h", "limits.h", "stdalign.h", "stdarg.h", "stdbool.h",
    "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h",
}

IMPURE_CALLS = {
    "clock_gettime", "gettimeofday", "time", "clock", "sleep", "usleep", "nanosleep",
    "rand", "random", "srand", "getrandom", "getenv",
    "printf", "vprintf", "fprintf", "vfprintf", "fopen", "fwrite", "fread", "puts", "putchar", "perror", "system",
}
ALLOCATING_CALLS = {
    "malloc", "calloc", "resident_calloc", "realloc", "reallocarray", "aligned_alloc", "posix_memalign", "free", "strdup", "strndup",
    "asprintf", "vasprintf", "alloca", "mmap", "munmap", "buf_pool_open", "buf_pool_close",
}
# Only what opens, closes or resizes a thing may allocate or free; a step never does.
MAY_ALLOCATE = re.compile(r"_(open|close|resize)$")

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]*)"|<([^>]*)>)', re.M)
CALL = re.compile(r"(?<![\w.>])(\w+)[ \t]*\(")
SKIPPED_DIRS = re.compile(r"^(build.*|\..*)$")


def blank(text):
    """The text without comments and literals, every character that stays at its place."""
    def spaces(match):
        return re.sub(r"[^\n]", " ", match.group())
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', spaces, text, flags=re.S)


def without_comments(text):
    """Like blank(), but literals stay: an include's file name is one."""
    def keep_literals(match):
        return match.group() if match.group()[0] in "\"'" else re.sub(r"[^\n]", " ", match.group())
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', keep_literals, text, flags=re.S)


def functions(code):
    """(name, start, end) of each function body in blanked code."""
    depth, since, found = 0, 0, []
    name, start = None, 0
    for at, char in enumerate(code):
        if char == "{":
            if depth == 0:
                head = re.sub(r"^[ \t]*#.*$", "", code[since:at], flags=re.M)
                call = re.search(r"(\w+)\s*\(", re.sub(r"__attribute__\s*\(\(.*?\)\)", "", head))
                name, start = (call.group(1), at) if call and head.rstrip().endswith(")") else (None, at)
            depth += 1
        elif char == "}":
            depth = max(depth - 1, 0)
            if depth == 0:
                if name:
                    found.append((name, start, at))
                name, since = None, at + 1
        elif char == ";" and depth == 0:
            since = at + 1
    return found


def module_of(path):
    found = [m for m in MODULES if path.startswith(m + "/")]
    return max(found, key=len) if found else None


def is_pure(path):
    return module_of(path) in PURE_MODULES or path in PURE_FILES


def may_be_used_by_pure(path):
    if path in PURE_MAY_NOT_USE_FILES:
        return False
    return is_pure(path) or module_of(path) in PURE_MAY_USE_MODULES or path in PURE_MAY_USE_FILES


class Check:
    def __init__(self, tree):
        self.tree = tree
        self.violations = []
        self.includes = {}  # path -> [(line, included path)]

    def say(self, path, line, reason):
        self.violations.append("%s:%d: %s" % (path, line, reason))

    def run(self):
        paths = []
        for folder, dirs, files in os.walk(self.tree):
            dirs[:] = sorted(d for d in dirs if not SKIPPED_DIRS.match(d))
            paths += [os.path.relpath(os.path.join(folder, f), self.tree) for f in sorted(files) if f[-2:] in (".c", ".h")]
        for path in paths:
            with open(os.path.join(self.tree, path), encoding="utf-8") as f:
                self.read(path, f.read())
        self.find_circles()
        return paths

    def read(self, path, text):
        self.includes[path] = []
        if module_of(path) is None:
            self.say(path, 1, "belongs to no module of the house")
            return
        for match in INCLUDE.finditer(without_comments(text)):
            line = text.count("\n", 0, match.start()) + 1
            if match.group(1) is not None:
                self.project_include(path, line, match.group(1))
            elif is_pure(path) and match.group(2) not in PURE_MAY_USE_SYSTEM:
                self.say(path, line, "pure code includes <%s>" % match.group(2))
        if is_pure(path):
            self.read_pure(path, blank(text))

    def project_include(self, path, line, included):
        generated = included.endswith(".pb-c.h")
        source = included[:-len(".pb-c.h")] + ".proto" if generated else included
        if not os.path.isfile(os.path.join(self.tree, source)):
            self.say(path, line, 'includes "%s", which is not a path from the root of the tree' % included)
            return
        self.includes[path].append((line, included))
        mine, theirs = module_of(path), module_of(included)
        if theirs is None:
            self.say(path, line, 'includes "%s", which belongs to no module of the house' % included)
        elif MODULES.index(theirs) > MODULES.index(mine):
            self.say(path, line, '%s includes "%s", which stands above it' % (mine, included))
        elif mine != theirs and {mine, theirs} <= STRANGERS:
            self.say(path, line, '%s includes "%s": these two don\'t know each other' % (mine, included))
        elif is_pure(path) and not may_be_used_by_pure(included):
            self.say(path, line, 'pure code includes "%s", which is not pure' % included)

    def read_pure(self, path, code):
        bodies = functions(code)
        for match in CALL.finditer(code):
            called, at = match.group(1), match.start()
            line = code.count("\n", 0, at) + 1
            if called in IMPURE_CALLS:
                self.say(path, line, "pure code calls %s()" % called)
            elif called in ALLOCATING_CALLS:
                inside = [name for name, start, end in bodies if start < at < end]
                if inside and not MAY_ALLOCATE.search(inside[0]):
                    self.say(path, line, "%s() calls %s(): only ..._open(), ..._close() and ..._resize() may" % (inside[0], called))

    def find_circles(self):
        done, trail = set(), []

        def visit(path):
            if path in done or path not in self.includes:
                return
            trail.append(path)
            for line, included in self.includes[path]:
                if included in trail:
                    circle = trail[trail.index(included):] + [included]
                    self.say(path, line, "includes in a circle: " + " -> ".join(circle))
                else:
                    visit(included)
            trail.pop()
            done.add(path)

        for path in sorted(self.includes):
            visit(path)


def main():
    check = Check(sys.argv[1] if len(sys.argv) > 1 else ".")
    paths = check.run()
    for violation in check.violations:
        print(violation)
    print("%d files, %d violations" % (len(paths), len(check.violations)))
    sys.exit(1 if check.violations or not paths else 0)


if __name__ == "__main__":
    main()
