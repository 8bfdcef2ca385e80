#!/usr/bin/python3
"""includes.py finds what it is there for: each case is a small tree and exactly the violations expected of it."""
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import includes  # noqa: E402

GROUND = {"repl/base/units.h": "#pragma once\n", "repl/core/op.h": '#pragma once\n#include "repl/base/units.h"\n'}


def violations(files):
    with tempfile.TemporaryDirectory() as tree:
        for path, text in {**GROUND, **files}.items():
            os.makedirs(os.path.dirname(os.path.join(tree, path)) or tree, exist_ok=True)
            with open(os.path.join(tree, path), "w", encoding="utf-8") as f:
                f.write(text)
        check = includes.Check(tree)
        check.run()
        return check.violations


class Includes(unittest.TestCase):
    def check(self, files, *expected):
        found = violations(files)
        self.assertEqual(len(found), len(expected), found)
        for violation, (place, words) in zip(found, expected):
            self.assertTrue(violation.startswith(place + ": "), violation)
            self.assertIn(words, violation)

    def test_downward_is_fine(self):
        self.check({"repl/node/main.c": '#include "repl/core/op.h"\n#include <liburing.h>\n'})

    def test_upward_is_found(self):
        self.check({"repl/base/up.c": '/* one */\n#include "repl/core/op.h"\n'},
                   ("repl/base/up.c:2", "stands above it"))

    def test_strangers_are_found(self):
        self.check({"repl/mirror/mirror.h": "#pragma once\n", "repl/sync/sync.c": '#include "repl/mirror/mirror.h"\n'},
                   ("repl/sync/sync.c:1", "don't know each other"))

    def test_circle_is_found(self):
        self.check({"repl/core/a.h": '#include "repl/core/b.h"\n', "repl/core/b.h": '\n#include "repl/core/a.h"\n'},
                   ("repl/core/b.h:2", "repl/core/a.h -> repl/core/b.h -> repl/core/a.h"))

    def test_path_must_be_from_the_root(self):
        self.check({"repl/core/a.c": '#include "op.h"\n'}, ("repl/core/a.c:1", "not a path from the root"))

    def test_file_outside_the_house_is_found(self):
        self.check({"misc/a.c": "int a;\n"}, ("misc/a.c:1", "no module"))

    def test_pure_module_with_input_or_output_is_found(self):
        for header in ("liburing.h", "sys/socket.h", "pthread.h", "time.h", "infiniband/verbs.h",
                       "protobuf-c/protobuf-c.h", "unistd.h"):
            self.check({"repl/mirror/a.c": "#include <%s>\n" % header}, ("repl/mirror/a.c:1", "<%s>" % header))

    def test_pure_file_in_an_impure_module_is_found(self):
        self.check({"repl/link/session.c": "#include <sys/socket.h>\n", "repl/link/tcp.c": "#include <sys/socket.h>\n"},
                   ("repl/link/session.c:1", "<sys/socket.h>"))

    def test_pure_includes_impure_of_the_project(self):
        self.check({"blockdev/ring/ring.h": "#pragma once\n", "repl/engine/e.c": '#include "blockdev/ring/ring.h"\n'},
                   ("repl/engine/e.c:1", "which is not pure"))

    def test_generated_protobuf_is_known_and_not_pure(self):
        files = {"proto/control.proto": "", "repl/node/c.c": '#include "proto/control.pb-c.h"\n'}
        self.check(files)
        self.check({**files, "repl/engine/e.c": '#include "proto/control.pb-c.h"\n'},
                   ("repl/engine/e.c:1", "which is not pure"))

    def test_allocation_in_a_step_is_found(self):
        self.check({"repl/mirror/m.c":
                    "struct m *mirror_open(void)\n{\n    return malloc(1);\n}\n\n"
                    "void mirror_close(struct m *m)\n{\n    free(m);\n}\n\n"
                    "void mirror_step(struct m *m)\n{\n    if (m) {\n        free(strdup(\"x\"));\n    }\n}\n"},
                   ("repl/mirror/m.c:14", "mirror_step() calls free()"),
                   ("repl/mirror/m.c:14", "mirror_step() calls strdup()"))

    def test_clock_is_found(self):
        self.check({"repl/role/r.c": "int f(void) { return (int)time(0); }\n"}, ("repl/role/r.c:1", "calls time()"))

    def test_the_projects_own_clock_is_found(self):
        files = {"repl/base/clock.h": "#pragma once\n", "repl/node/n.c": '#include "repl/base/clock.h"\n'}
        self.check(files)
        self.check({**files, "repl/role/r.c": '#include "repl/base/clock.h"\n'}, ("repl/role/r.c:1", "which is not pure"))

    def test_comments_strings_and_members_are_not_calls(self):
        self.check({"repl/role/r.c":
                    '/* #include <time.h>\n   malloc(1) */\nconst char *s = "time(0) /* ";\n'
                    "void f(struct o *o)\n{\n    o->time(0); // free(o)\n}\n#define LITERAL '\"'\n"})

    def test_comment_does_not_hide_what_follows(self):
        self.check({"repl/role/r.c": '/* " */\n#include <time.h>\n'}, ("repl/role/r.c:2", "<time.h>"))


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    failed = len(result.failures) + len(result.errors)
    print("%d passed, %d failed, %d skipped" % (result.testsRun - failed, failed, 0))
    sys.exit(1 if failed else 0)
