#!/usr/bin/python3
"""The page for who is on call (docs/FAILOVER.md, "On call") has each state, cause and rule that the program has a name for,
and quotes each reason that it gives: those who search the page for what they see, find it.

usage: test_on_call.py SOURCE-TREE

Names and texts are taken from the sources. A reason counts as quoted if a quotation's words are in it, but for what stands
for names and numbers there, and in no other reason.
"""
import functools
import os
import re
import sys

PAGE = "docs/FAILOVER.md"
SECTION = "On call"
STANDS_FOR_ANYTHING = r"\b(?:NODE|PEER|BACKING|PATH|N|gold42)\b|\.\.\."
QUOTED_CHARACTERS_MIN = 12

# Functions that give a value its word: each `return "word"` in them.
NAMES = [
    ("repl/core/names.h", "role_name"),
    ("repl/core/names.h", "leg_state_name"),
    ("repl/core/names.h", "link_state_name"),
    ("repl/core/decree.h", "decree_cause_name"),
    ("repl/core/decree.h", "register_state_name"),
    ("repl/node/node_volume.c", "volume_state_name"),
]
# Functions that say why: each text in them.
REASONS = [
    ("repl/engine/engine.c", "engine_why_not"),
    ("repl/engine/engine.c", "why_source_does_not_count"),
    ("repl/engine/engine.c", "why_own_leg_is_not_whole"),
    ("repl/engine/engine.c", "why_not_in_session"),
    ("repl/engine/engine.c", "why_not_apart"),
    ("repl/engine/engine_diskless.c", "diskless_why_not"),
    ("repl/node/volume_status.c", "waits_for_witness"),
    ("repl/node/volume_status.c", "add_what_waits"),
    ("repl/node/volume_status.c", "volume_status"),
    ("repl/node/command.c", "command_why_not_up"),
    ("repl/engine/engine_session.c", "session_on_hello"),
    ("repl/engine/engine_session.c", "on_refusal"),
    ("repl/engine/engine_order.c", "order_promote"),
    ("repl/role/role.c", "role_promotion_obstacle"),
    ("repl/role/swaps.c", "swap_obstacle"),
]
RULES = "repl/sync"  # one table of all, in decide.c; each in one of the files
# They pass within the order itself, say all that there is to be said, or are no reasons.
NOT_FOR_THE_PAGE = [
    "it is being demoted; wait",
    "it is just handing over to the peer; wait",
    "it is being taken down; `lockstep up` first",
    "requests to the disk are not over; try again",
    "its metadata cannot be written; mend the disk",
    "its changes are just being given up",
    "is becoming primary",
    "is being taken down on",
    "out of memory for the bitmap",
    "the peer is primary, too: what waited for it",  # told beside the rule
    "paired with the fresh leg of",
    "^the leg of %s is %s$",  # a state of a leg, which is among the names
]


def read(tree, path):
    with open(os.path.join(tree, path), encoding="utf-8") as f:
        return f.read()


def plain(text):
    return re.sub(r"\s+", " ", text)


def section(page):
    begin = page.index("\n## %s\n" % SECTION)
    return page[begin:page.index("\n## ", begin + 4)]


def quotations(page):
    """What is quoted outside of commands, as patterns."""
    found = set()
    for text in re.findall(r'"([^"]+)"', plain(re.sub(r"^ {4}.*$", "", page, flags=re.M))):
        pieces = [p.strip(" ;,") for p in re.split(STANDS_FOR_ANYTHING, text)]
        if sum(map(len, pieces)) >= QUOTED_CHARACTERS_MIN:
            found.add(".*".join(map(re.escape, pieces)))
    return found


def body(code, function):
    """Of its definition, which ends with the first brace that begins a line, or is one line."""
    head = r"^[^\n;{}#/]*\b%s\([^;{}]*\)" % function
    m = re.search(head + r"\n\{\n(.*?)^\}", code, re.M | re.S) or re.search(head + r" \{(.*)\}$", code, re.M)
    if not m:
        sys.exit("%s() is not found any more: this test is to be told where it is" % function)
    return m.group(1)


def texts(code):
    """Of more than a word; those that are written in several pieces put together."""
    code = re.sub(r"/\*.*?\*/", "", code, flags=re.S)
    for whole in re.finditer(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*', code):
        text = plain("".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', whole.group())))
        if len(re.sub(r"%[-.*0-9]*(?:llu|zu|u|d|s)", "", text)) >= QUOTED_CHARACTERS_MIN and \
                not any(re.search(n, text) for n in NOT_FOR_THE_PAGE):
            yield text


@functools.lru_cache(maxsize=None)
def is_in(quotation, text):
    return re.search(quotation, text) is not None


class Program:
    def __init__(self, tree):
        self.names = {}  # {name: where it is from}
        self.reasons = {}  # {text: where it is from}
        for path, function in NAMES:
            names = set(re.findall(r'"([a-z-]+)"', body(read(tree, path), function)))
            self.add(self.names, names, "%s, %s()" % (path, function))
        for path, function in REASONS:
            self.add(self.reasons, set(texts(body(read(tree, path), function))), "%s, %s()" % (path, function))
        listed = re.findall(r"^    &(rule_\w+),", read(tree, RULES + "/decide.c"), re.M)
        for path in sorted(f for f in os.listdir(os.path.join(tree, RULES)) if f.endswith(".c")):
            path = "%s/%s" % (RULES, path)
            self.add_rules(path, read(tree, path), listed)
        if listed:
            sys.exit("%s/decide.c has %s, which this test does not find" % (RULES, ", ".join(listed)))

    def add_rules(self, path, code, listed):
        """Takes those that it finds from the list."""
        for variable, name, verdict, explain in re.findall(
                r'^const struct rule (\w+) = \{ "([a-z-]+)",\s+\w+,\s+(SYNC_\w+)(?:,\s+(\w+))?', code, re.M):
            if variable not in listed:
                sys.exit("%s: %s is in no table" % (path, variable))
            listed.remove(variable)
            self.add(self.names, {name}, "%s, a rule" % path)
            if bool(explain) != (verdict == "SYNC_REFUSE"):
                sys.exit("%s: %s refuses and does not say why, or the other way round" % (path, variable))
            if explain:
                # Its first text is the sentence; others are parts that are put into it.
                text = next(t for t in texts(body(code, explain)) if "%s" in t)
                self.add(self.reasons, {text}, "%s, rule %s" % (path, name))

    @staticmethod
    def add(to, found, where):
        if not found:
            sys.exit("%s: nothing is found there any more" % where)
        to.update({f: where for f in found})

    def missing(self, page):
        """What is not on the page: [complaint]."""
        lacks = ["does not name `%s` (%s)" % (n, w) for n, w in self.names.items() if "`%s`" % n not in page]
        quoted = quotations(page)
        for text, where in self.reasons.items():
            # One that goes on where this one ends has these words, too.
            others = [t for t in self.reasons if not t.startswith(text)]
            if not any(is_in(q, text) and not any(is_in(q, t) for t in others) for q in quoted):
                lacks.append('does not quote "%s" (%s)' % (text, where))
        return lacks


def without(page, name):
    """The page as it would be if nobody had written of it: without the rows and sentences that name it."""
    return "\n".join(line for line in page.split("\n") if "`%s`" % name not in line)


def main():
    tree = sys.argv[1]
    page = section(read(tree, PAGE))
    program = Program(tree)
    lacks = program.missing(page)
    for complaint in lacks:
        print('%s, "%s", %s' % (PAGE, SECTION, complaint))
    blind = [name for name in program.names if not program.missing(without(page, name))]
    blind += [] if len(program.missing("")) == len(program.names) + len(program.reasons) else ["the whole page"]
    for name in blind:
        print("%s can be taken out of the page, and is not missed" % name)
    print("%d names, %d reasons; %d are not there" % (len(program.names), len(program.reasons), len(lacks)))
    sys.exit(1 if lacks or blind else 0)


if __name__ == "__main__":
    main()
