#!/usr/bin/python3
"""Configuration that is wrong: the daemon does not start, exits with 2, and says in one line which file, line and key, and
what was expected."""

from lib import proc, run
from lib.cluster import BUILD, DONE, MIB, USAGE, Cluster


def start(c, text, *options):
    a = c.a
    a.config_file.write_text(text)
    return proc.run([BUILD / "lockstepd", "--config", a.config_file, "--node", a.name, "--control", a.control, *options],
                    ok=None, timeout_s=20)


def refused(t, c, what, text, line, key, *options):
    p = start(c, text, *options)
    said = p.stderr.strip()
    where = f"{c.a.config_file}:{line}:" if line else str(c.a.config_file)
    t.check(p.returncode == USAGE, f"{what}: exit 2", f"exit {p.returncode}: {said}")
    t.check(len(said.splitlines()) == 1 and where in said and key in said, said.replace(str(c.a.dir) + "/", ""),
            f"expected one line with '{where}' and '{key}'")


def line_of(text, needle, occurrence=1):
    seen = 0
    for n, line in enumerate(text.splitlines(), 1):
        if needle in line:
            seen += 1
            if seen == occurrence:
                return n
    raise AssertionError(needle)


def test(t):
    c = Cluster(t, size=64 * MIB)
    good = c.a.config_file.read_text()
    t.step("the configuration that all of these are made from is a good one")
    c.a.start()
    c.a.stop()

    t.step("wrong in one place each")

    def swap(old, new, count=1):
        assert old in good, old
        return good.replace(old, new, count)

    tls = line_of(good, "tls:")
    refused(t, c, "an unknown key", swap("size:", "sise:"), line_of(good, "size:"), "sise")
    refused(t, c, "an unknown key further in", swap("transport:", "transprot:"), line_of(good, "transport:"), "transprot")
    refused(t, c, "an unknown key of a node", swap("metadata:", "metdata:"), line_of(good, "metadata:"), "metdata")
    refused(t, c, "a size that is none", swap("size: 64MiB", "size: plenty"), line_of(good, "size:"), "size")
    refused(t, c, "a size without a unit that makes sense", swap("size: 64MiB", "size: -1GiB"), line_of(good, "size:"), "size")
    refused(t, c, "a mapping where a word belongs", swap("size: 64MiB", "size: {a: b}"), line_of(good, "size:"), "size")
    refused(t, c, "a word where a mapping belongs", swap("link:\n", "link: yes\nl2:\n"), None, "l")
    refused(t, c, "a time that is none", swap("dead-after: 2s", "dead-after: soon"), line_of(good, "dead-after"), "dead-after")
    refused(t, c, "two nodes of one name", swap("name: paris-b", "name: paris-a"), line_of(good, "name: paris-b"), "name")
    refused(t, c, "an address without a port", swap(f"127.0.0.1:{c.b.port}", "127.0.0.1"), line_of(good, "paths:", 2), "paths")
    refused(t, c, "a device of an unknown kind", swap("device: nbd:", "device: floppy:"), line_of(good, "device:"), "device")
    refused(t, c, "TLS that is not there yet", swap("tls: none", "tls: {ca: a, cert: b, key: c}"), tls, "tls")
    refused(t, c, "faults that nobody allowed", good + "test: {disk: {error: EIO}}\n", len(good.splitlines()) + 1, "test")
    first_node_only = good[:good.index("  - name: paris-b")] + good[good.index("link:"):]
    refused(t, c, "a missing peer", first_node_only, line_of(good, "nodes:"), "nodes")
    refused(t, c, "no volume", "\n".join(good.splitlines()[1:]) + "\n", 1, "volume")
    refused(t, c, "text that is no YAML", swap("nodes:", "nodes: ]["), line_of(good, "nodes:"), "")
    refused(t, c, "bytes that are no text", "volume: \x00\x01\x02\n", None, "")
    refused(t, c, "nothing at all", "", None, "")

    refused(t, c, "a size larger than the backing", swap("size: 64MiB", "size: 1GiB"), line_of(good, "size:"), "size")

    t.step("a node that the file does not know")
    c.a.config_file.write_text(good)
    p = proc.run([BUILD / "lockstepd", "--config", c.a.config_file, "--node", "rome-a", "--control", c.a.control], ok=None)
    t.check(p.returncode == USAGE and "rome-a" in p.stderr, p.stderr.strip().replace(str(c.a.dir) + "/", ""), p.returncode)

    t.step("a file that cannot be read")
    missing = c.a.dir / "missing.yaml"
    p = proc.run([BUILD / "lockstepd", "--config", missing, "--node", c.a.name, "--control", c.a.control], ok=None)
    t.check(p.returncode == USAGE and str(missing) in p.stderr and "No such file" in p.stderr, "missing: exit 2, and said so",
            f"{p.returncode}: {p.stderr}")
    p = proc.run([BUILD / "lockstepd", "--config", "/proc/self/mem", "--node", c.a.name, "--control", c.a.control], ok=None)
    t.check(p.returncode == USAGE and "/proc/self/mem" in p.stderr, "unreadable: exit 2, and said so", f"{p.returncode}: {p.stderr}")

    t.step("two files of one directory that want the same backing")
    folder = c.a.dir / "conf.d"
    folder.mkdir()
    (folder / "one.yaml").write_text(good)
    (folder / "two.yaml").write_text(good.replace("volume: gold42", "volume: gold43"))
    p = proc.run([BUILD / "lockstepd", "--config", folder, "--node", c.a.name, "--control", c.a.control], ok=None)
    t.check(p.returncode == USAGE and "two.yaml" in p.stderr and "one.yaml" in p.stderr, p.stderr.strip().replace(str(c.a.dir) + "/", ""),
            p.returncode)

    t.step("--check looks at what the daemon opens when it starts")
    p = start(c, good, "--check")
    t.check(p.returncode == DONE and "1 volume, nothing wrong\n" in p.stdout and not p.stderr, p.stdout.strip(), p)
    p = start(c, good + "witness: etcd+https://127.0.0.1:1\nwitness-tls: {ca: nowhere.pem}\n", "--check")
    t.check(p.returncode == USAGE and "nowhere.pem: No such file" in p.stderr and not p.stdout, p.stderr.strip(), p)
    p = start(c, good + "hooks: {promote: nowhere, demote: /bin/true}\n", "--check")
    t.check(p.returncode == DONE and "nowhere could not be run: No such file" in p.stderr and "demote" not in p.stderr,
            p.stderr.strip(), p)

    t.step("options that are wrong")
    for options in (["--config"], ["--no-such-option"], ["--config", c.a.config_file, "surplus"]):
        p = proc.run([BUILD / "lockstepd", *options], ok=None)
        t.check(p.returncode == USAGE and p.stderr, f"{options[0]}: exit 2", f"{p.returncode}: {p.stderr}")


if __name__ == "__main__":
    run.main(test, limit_s=60)
