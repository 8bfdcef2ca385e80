#!/usr/bin/python3
"""The OCF resource agent: ocf-tester, and what that cannot see: two nodes, their scores, and every way in which an
action can fail. Pacemaker's own part is a stand-in for crm_attribute here; test_pacemaker.py has the real one."""

import json
import os
import shutil
import time

from lib import nbdio, proc, run
from lib.cluster import BUILD, MIB, Cluster
from lib.run import TOP

# What OCF calls them, and Pacemaker reads them as.
SUCCESS, ERR_GENERIC, ERR_UNIMPLEMENTED, ERR_INSTALLED, ERR_CONFIGURED, NOT_RUNNING, PROMOTED, FAILED_PROMOTED = 0, 1, 3, 5, 6, 7, 8, 9
PRIMARY, SURE, LAST_SEEN, NONE = "10000", "1000", "10", None

SCHEMA = "/usr/share/resource-agents"
VOLUME = "gold42"
RECURRING_MS = 10000
TIMEOUT_S = 30
SHORT_S = 7  # of actions that are to fail by it
LONG_S = 60
DAEMON_WAIT_MAX_S = 10  # the agent's

# What Pacemaker would keep: one file a node.
CRM_ATTRIBUTE = """#!/bin/sh
file=$SCORE_FILE
query=no update= delete=no
while [ $# -gt 0 ]; do
    case $1 in
    --query) query=yes ;;
    --delete) delete=yes ;;
    --update) update=$2 && shift ;;
    esac
    shift
done
if [ $query = yes ]; then cat "$file" 2>/dev/null || exit 6; exit 0; fi
if [ $delete = yes ]; then rm -f "$file"; else echo "$update" >"$file"; fi
"""


class Agent:
    """The agent on one node, as Pacemaker would run it there."""

    def __init__(self, t, node, path, sbin):
        self.t, self.node, self.path = t, node, path
        self.score_file = node.dir / "score"
        self.parameters = {"volume": VOLUME, "control": node.control, "binary": BUILD / "lockstep"}
        self.dir = node.dir
        self.env = {**os.environ, "OCF_ROOT": "/usr/lib/ocf", "OCF_RA_VERSION_MAJOR": "1", "OCF_RESOURCE_INSTANCE": "gold",
                    "HA_SBIN_DIR": str(sbin), "SCORE_FILE": str(self.score_file)}

    def environment(self, timeout_s=TIMEOUT_S, probe=False, meta=None, **parameters):
        env = {**self.env, "OCF_RESKEY_CRM_meta_timeout": str(timeout_s * 1000),
               "OCF_RESKEY_CRM_meta_interval": "0" if probe else str(RECURRING_MS)}
        env.update({f"OCF_RESKEY_CRM_meta_{k}": str(v) for k, v in (meta or {}).items()})
        env.update({f"OCF_RESKEY_{k}": str(v) for k, v in {**self.parameters, **parameters}.items() if v is not None})
        return env

    def run(self, action, timeout_s=TIMEOUT_S, **more):
        """(exit code, the reason it gave). Pacemaker would have given up after the time."""
        p = proc.run([self.path, action], env=self.environment(timeout_s, **more), timeout_s=timeout_s, ok=None)
        reasons = [line.split(":", 1)[1] for line in p.stderr.splitlines() if line.startswith("ocf-exit-reason:")]
        self.said = p.stderr
        return p.returncode, " ".join(reasons)

    def check(self, action, wanted, reason="", **more):
        code, why = self.run(action, **more)
        what = f"{self.node.name}: {action} returns {wanted}" + (f": {why}" if why else "")
        good = code == wanted and reason in why and (wanted in (SUCCESS, NOT_RUNNING, PROMOTED) or bool(why))
        self.t.check(good, what, f"{code}, reason '{why}', wanted '{reason}'; {self.said}")

    @property
    def score(self):
        return self.score_file.read_text().strip() if self.score_file.exists() else NONE

    def check_score(self, wanted, why):
        self.t.check(self.score == wanted, f"{self.node.name}'s promotion score is {wanted}: {why}", self.score)


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def meta_data(t, agent):
    t.step("meta-data: against the schemas of resource-agents; as nobody; without parameters")
    for user in (None, "nobody"):
        argv = [agent.path, "meta-data"] if user is None else ["su", user, "-s", "/bin/sh", "-c", f"{agent.path} meta-data"]
        xml = proc.run(argv, env={**os.environ, "OCF_ROOT": "/usr/lib/ocf"}).stdout
        t.check("<resource-agent name=\"lockstep\"" in xml, f"it is told to {user or 'root'}", xml)
    file = t.dir / "meta.xml"
    file.write_text(xml)
    shutil.copy(f"{SCHEMA}/ra-api-1.dtd", t.dir)
    proc.run(["xmllint", "--noout", "--valid", file])
    file.write_text(xml.replace('<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">', ""))
    proc.run(["xmllint", "--noout", "--relaxng", f"{SCHEMA}/metadata.rng", file])
    t.check(True, "ra-api-1.dtd and metadata.rng find nothing")
    file.write_text(xml.replace("Unpromoted", "slave").replace('<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">', ""))
    bad = proc.run(["xmllint", "--noout", "--relaxng", f"{SCHEMA}/metadata.rng", file], ok=None)
    t.check(bad.returncode != 0, "and would have found a role of no such name")


def wrong_parameters(t, agent):
    t.step("wrong parameters: the same everywhere, or of this node only")
    for action in ("validate-all", "start", "monitor", "promote", "demote", "notify"):
        agent.check(action, ERR_CONFIGURED, "volume is missing", volume=None)
    agent.check("validate-all", ERR_CONFIGURED, "no volume's name", volume="gold 42;reboot")
    agent.check("validate-all", ERR_CONFIGURED, "no volume's name", volume="-h")
    agent.check("validate-all", ERR_CONFIGURED, "no absolute path", control="control.sock")
    agent.check("validate-all", ERR_CONFIGURED, "promoted-max", meta={"promoted_max": 2})
    agent.check("validate-all", ERR_CONFIGURED, "promoted-max", meta={"master_max": 2})
    agent.check("start", ERR_CONFIGURED, "clone-node-max", meta={"promoted_max": 1, "clone_node_max": 2})
    agent.check("validate-all", ERR_INSTALLED, "there is no command", binary="/nowhere/lockstep")
    agent.check("monitor", ERR_INSTALLED, "there is no command", binary="/nowhere/lockstep", probe=True)
    agent.check("promote", ERR_CONFIGURED, "clone-node-max", meta={"clone_node_max": 2})
    agent.check("stop", SUCCESS, meta={"promoted_max": 2, "clone_node_max": 2})
    agent.check("stop", SUCCESS, volume=None)
    agent.check("stop", SUCCESS, binary="/nowhere/lockstep")
    code, _ = agent.run("migrate_to")
    t.check(code == ERR_UNIMPLEMENTED, "an action that it does not have", code)
    code, _ = agent.run("usage")
    t.check(code == SUCCESS, "usage", code)


def no_daemon(t, agent):
    t.step("lockstepd does not run")
    agent.check("validate-all", SUCCESS)
    agent.check("monitor", NOT_RUNNING, probe=True)
    agent.check("monitor", NOT_RUNNING)
    agent.check("promote", NOT_RUNNING)
    agent.check("demote", NOT_RUNNING)
    agent.check("notify", SUCCESS, meta={"notify_type": "post"})
    agent.check("stop", SUCCESS)
    began = time.monotonic()
    agent.check("start", ERR_GENERIC, "is it running?", timeout_s=LONG_S)
    took_s = time.monotonic() - began
    t.check(DAEMON_WAIT_MAX_S - 2 < took_s < LONG_S / 2, f"start has given up after {took_s:.1f} s: a promotion of the other node waits for it")


def not_here(t, agent):
    t.step("the volume is not in this node's configuration")
    wrong = {"volume": "silver7"}
    agent.check("validate-all", ERR_INSTALLED, "no volume silver7", **wrong)
    agent.check("monitor", NOT_RUNNING, probe=True, **wrong)
    agent.check("monitor", ERR_INSTALLED, "silver7", **wrong)
    for action in ("start", "promote", "demote"):
        agent.check(action, ERR_INSTALLED, "no volume silver7", **wrong)
    agent.check("stop", SUCCESS, **wrong)
    t.step("it is, but has no leg on this node")
    agent.check("validate-all", ERR_INSTALLED, "lockstep create")
    agent.check("start", ERR_INSTALLED, "lockstep create")
    agent.check("monitor", NOT_RUNNING, probe=True)
    agent.check("stop", SUCCESS)


def ocf_tester(t, agent):
    t.step("ocf-tester: a node and its peer")
    argv = ["ocf-tester", "-v", "-n", "gold"]
    for name, v in agent.parameters.items():
        argv += ["-o", f"{name}={v}"]
    # Pacemaker's own crm_attribute, which finds no cluster.
    p = proc.run([*argv, agent.path], env={**agent.env, "HA_SBIN_DIR": "/usr/sbin"}, ok=None, timeout_s=150)
    last = p.stdout.splitlines()[-1] if p.stdout else ""
    t.check(p.returncode == 0 and "passed all tests" in last, f"{last.rsplit('/', 1)[-1]}", p.stdout + p.stderr)
    missed = [line for line in p.stdout.splitlines() if "does not support" in line]
    t.say("; ".join(missed))
    t.check(not any("promote" in line or "demote" in line or "notify" in line for line in missed),
            "promote, demote and notify are among what was tested", p.stdout)


def roles(t, c, a, b):
    t.step("start both, promote one")
    a.check("start", SUCCESS)
    b.check("start", SUCCESS)
    for agent in (a, b):
        agent.check("start", SUCCESS)
        agent.check("monitor", SUCCESS)
        agent.check("validate-all", SUCCESS)
        agent.check_score(SURE, "both legs are equal")
    a.check("promote", SUCCESS)
    a.check("promote", SUCCESS)
    a.check("monitor", PROMOTED)
    a.check("monitor", PROMOTED, probe=True)
    b.check("monitor", SUCCESS)
    a.check_score(PRIMARY, "it serves")
    b.check_score(SURE, "its leg is up to date")
    began = time.monotonic()
    b.check("promote", ERR_GENERIC, f"{c.a.name} is primary", timeout_s=SHORT_S)
    t.check(time.monotonic() - began > 2, "that may pass, and is tried for a while; at once it would have its leg restarted again and again")
    b.check_score(SURE, "its leg is still up to date")
    t.check(c.a.status()["serving"] and not c.b.status()["serving"], "the primary goes on serving")
    promote = proc.spawn([b.path, "promote"], env=b.environment(), log=b.dir / "agent.log")
    run.stays("a promotion waits", lambda: promote.poll() is None, 1)
    a.check("demote", SUCCESS)
    t.check(proc.wait(promote, TIMEOUT_S) == SUCCESS, "and succeeds once the peer has been demoted", (b.dir / "agent.log").read_text())
    b.check("demote", SUCCESS)
    a.check("promote", SUCCESS)

    t.step("a person has changed roles: monitor says what is, and Pacemaker compares")
    c.a.cli("demote", VOLUME)
    a.check("monitor", SUCCESS)
    a.check_score(SURE, "no longer that of a primary")
    c.b.cli("promote", VOLUME)
    b.check("monitor", PROMOTED)
    a.check("demote", SUCCESS)
    b.check("demote", SUCCESS)
    a.check("promote", SUCCESS)
    a.check("monitor", PROMOTED)


def daemon_killed(t, c, a, b):
    t.step("the primary's daemon is killed; the other node takes over, with everything")
    c.load = nbdio.start(nbdio.scribblers(c.a.uri, c.size - MIB, t.seed, 2))
    nbdio.headway(c.load, 200, what="the load to run")
    c.a.sigkill()
    a.check("monitor", NOT_RUNNING)
    a.check_score(NONE, "there is nothing to promote")
    c.b.wait("to see it", lambda s: s["peer"]["link"] != "connected")
    b.check("notify", SUCCESS, meta={"notify_type": "pre"})
    b.check_score(SURE, "before it looks again")
    b.check("notify", SUCCESS, meta={"notify_type": "post"})
    b.check_score(LAST_SEEN, "what it was when both met last")
    a.check("demote", NOT_RUNNING)
    a.check("stop", SUCCESS)
    b.check("promote", SUCCESS)
    b.check("monitor", PROMOTED)
    b.check_score(PRIMARY, "it serves")
    blocks = 0
    for s in c.load:
        s.stopping = True
        s.thread.join(30)
        s.reconnect(c.b.uri)
        for block in s.touched():
            s.check_blocks(s.handle.pread(s.block_bytes, block * s.block_bytes), block, "after the takeover")
            blocks += 1
        s.handle.shutdown()
    t.check(blocks > 100, f"{blocks} blocks that were acknowledged are there")

    t.step("the daemon is back a little later than the cluster's start of it")
    start = proc.spawn([a.path, "start"], env=a.environment(), log=a.dir / "agent.log")
    run.stays("start waits for the daemon", lambda: start.poll() is None, 0.5)
    c.a.start()
    t.check(proc.wait(start, TIMEOUT_S) == SUCCESS, "start succeeds", (a.dir / "agent.log").read_text())
    a.check("monitor", SUCCESS)
    c.a.wait("to be in sync", lambda s: s["protected"], 30)
    a.check("notify", SUCCESS, meta={"notify_type": "post"})
    a.check_score(SURE, "in sync again")
    b.check("demote", SUCCESS)
    b.check("demote", SUCCESS)
    a.check("promote", SUCCESS)
    a.check("monitor", PROMOTED)
    b.check("monitor", SUCCESS)

    t.step("a volume that a person has promoted is started")
    a.check("start", SUCCESS)
    t.check(c.a.status()["role"] == "secondary", "it is secondary, as Pacemaker takes it for")


def writes_wait(t, c, a, b):
    t.step("writes wait for a peer that is gone: demote says so; stop ends, and they fail")
    a.check("promote", SUCCESS)
    c.b.sigkill()
    c.a.wait("to see it", lambda s: s["peer"]["link"] != "connected")
    h = nbdio.connect(c.a.uri)
    waiting = nbdio.nbd.Buffer.from_bytearray(bytearray(4096))
    cookie = h.aio_pwrite(waiting, 0)
    c.a.wait("a write to wait", lambda s: s["writes_waiting"] == 1)
    a.check("monitor", PROMOTED)
    a.check("demote", ERR_GENERIC, "requests wait for", timeout_s=SHORT_S)
    a.check("stop", SUCCESS, timeout_s=SHORT_S)
    t.check("by force" in a.said and "requests wait for" in a.said, "that it took force is in the log", a.said)

    def failed():
        h.poll(0)
        return h.aio_command_completed(cookie)
    try:
        run.wait_until("the write to end", failed, 10)
        t.check(False, "the write that waited fails")
    except nbdio.nbd.Error as e:
        t.check(True, f"the write that waited fails: {e}")
    a.check("monitor", NOT_RUNNING)
    a.check_score(NONE, "it is down")

    t.step("a node that comes up without its peer may be the older one")
    a.check("start", SUCCESS)
    a.check_score(NONE, "it has not met its peer yet")
    a.check("monitor", SUCCESS)
    a.check_score(NONE, "nor at the next look")
    c.b.start()
    c.a.wait("the link", lambda s: s["protected"])
    a.check("monitor", SUCCESS)
    a.check_score(SURE, "now it has")


def behind(t, c, a, b):
    t.step("a leg that is not up to date: no score, no promotion; the one that is can be stopped all the same")
    c.stop()
    c.settings = {"when-alone": "continue", "resync-rate": "1MiB"}
    c.write_config()
    c.start()
    c.promote(c.a)
    b.check("stop", SUCCESS)
    c.a.wait("to see it", lambda s: s["peer"]["link"] != "connected")
    h = nbdio.connect(c.a.uri)
    for at in range(0, 48 * MIB, MIB):
        h.pwrite(os.urandom(MIB), at)
    h.shutdown()
    a.check("monitor", PROMOTED)
    b.check("start", SUCCESS)
    c.b.wait("the resync", lambda s: s["leg"] == "syncing" and s["peer"]["resync"])
    b.check("monitor", SUCCESS)
    b.check_score(NONE, "its leg is syncing")
    a.check("demote", SUCCESS)
    b.check("promote", ERR_GENERIC, "not up to date")
    b.check_score(NONE, "it still is")
    a.check("monitor", SUCCESS)
    a.check_score(SURE, "it has everything")
    began = time.monotonic()
    a.check("stop", SUCCESS)
    t.check(time.monotonic() - began < TIMEOUT_S / 3, "at once: it would be refused again")
    t.check("by force" in a.said and "only up-to-date leg" in a.said, "that it was the only good leg is in the log", a.said)
    b.check("monitor", SUCCESS)
    b.check_score(NONE, "half of a leg")
    a.check("start", SUCCESS)
    a.check("promote", SUCCESS)

    t.step("split brain: no score on either side, a person decides")
    c.stop()
    del c.settings["resync-rate"]
    c.write_config()
    c.start()
    c.b.wait("to be in sync", lambda s: s["protected"], 60)
    for agent in (a, b):
        agent.check("stop", SUCCESS)
    for agent in (a, b):
        agent.node.cli("up", VOLUME)
        agent.node.cli("promote", VOLUME)
        h = nbdio.connect(agent.node.uri)
        h.pwrite(os.urandom(MIB), 0)
        h.shutdown()
        agent.node.cli("down", VOLUME, "--force")
    for agent in (a, b):
        agent.node.cli("up", VOLUME)
    for agent in (a, b):
        agent.node.wait("to be refused", lambda s: s["peer"]["link"] == "refused")
        agent.check("monitor", SUCCESS)
        agent.check_score(NONE, "split brain")


def hung(t, c, agent):
    t.step("a daemon that hangs: whether it serves nobody can know, so that stop fails, and Pacemaker has the node fenced")
    agent.node.pause()
    agent.check("monitor", ERR_GENERIC, "not answered in time", timeout_s=SHORT_S)
    agent.check("stop", ERR_GENERIC, "may still be served", timeout_s=SHORT_S)
    agent.check("demote", ERR_GENERIC, "not answered in time", timeout_s=SHORT_S)
    before = agent.score
    began = time.monotonic()
    agent.check("notify", SUCCESS, meta={"notify_type": "post"})
    t.check(time.monotonic() - began < TIMEOUT_S / 4, "notify keeps nobody waiting")
    agent.check_score(before, "as it was")
    agent.node.resume()
    agent.node.wait("to answer", lambda s: True)
    agent.check("monitor", SUCCESS)


def just_fenced(t, c, gone, agent):
    t.step("promoted while the peer that was just fenced still counts as connected")
    c.b.wait("the link", lambda s: s["protected"])
    gone.node.pause()
    t.check(c.b.status()["peer"]["link"] == "connected", "it still does")
    agent.check("promote", SUCCESS)
    agent.check("monitor", PROMOTED)
    agent.check("demote", SUCCESS)
    gone.node.resume()
    c.b.wait("the link", lambda s: s["protected"])


PEER = {"name": "b", "link": "connected", "reason": None, "leg": "up-to-date"}
WITNESS = {"state": "reachable", "reason": None, "epoch": 7, "primary": "b", "in_sync": ["a", "b"]}


def answer(t, **keys):
    """A command that answers with the status of an ordinary secondary, but for these keys."""
    v = {"name": VOLUME, "state": "up", "role": "secondary", "protected": False, "why_not": None, "serving": False, "leg": "up-to-date",
         "split_brain": None, "peer": PEER, "witness": None, **keys}
    text = json.dumps({"version": 1, "node": "a", "volumes": [v]}, separators=(",", ":"))
    return script(t.dir / "answer", f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")


def strange_answers(t, c, agent):
    t.step("answers that are none of lockstep's, or look like something else")
    nonsense = script(t.dir / "nonsense", "#!/bin/sh\necho '<html>'\n")
    agent.check("monitor", ERR_GENERIC, "html", binary=nonsense)
    agent.check("stop", ERR_GENERIC, "may still be served", binary=nonsense, timeout_s=SHORT_S)
    agent.check("start", ERR_GENERIC, binary=nonsense, timeout_s=SHORT_S)
    agent.check("promote", ERR_GENERIC, "html", binary=nonsense, timeout_s=SHORT_S)
    agent.check("demote", ERR_GENERIC, "html", binary=nonsense, timeout_s=SHORT_S)
    tricky = answer(t, why_not='he said "leg":"failed", and "role":"primary"',
                    peer={**PEER, "reason": '"link":"refused","peer":{"name":"c","link":"refused"}'})
    agent.check("monitor", SUCCESS, binary=tricky)
    agent.check_score(SURE, "a text in the answer is no key of it")
    agent.check("monitor", FAILED_PROMOTED, "not served", binary=answer(t, role="primary"))
    agent.check("monitor", ERR_GENERIC, "is odd", binary=answer(t, state="odd"))

    t.step("force is refused while a role changes: stop tries again")
    busy = script(t.dir / "busy", f"""#!/bin/sh
cd {t.dir}
case $* in
status*) if [ -e taken-down ]; then state=down; else state=up; fi && echo '{{"volumes":[{{"state":"'$state'"}}]}}' && exit ;;
*--force*) echo try >>tries && [ "$(wc -l <tries)" -eq 3 ] && : >taken-down && exit ;;
esac
echo '{{"text":"its role is just changing"}}'
exit 1
""")
    agent.check("stop", SUCCESS, binary=busy, timeout_s=SHORT_S * 2)
    t.check("by force" in agent.said and "just changing" in agent.said, "and force was used three times", agent.said)

    t.step("scores of what only a daemon with a witness says, or one that has met a split brain")
    gone = {**PEER, "link": "connecting"}
    for keys, wanted, why in (
            ({"peer": None}, SURE, "a volume of one node"),
            ({"peer": {"title": "b"}}, LAST_SEEN, "a peer of which nothing is said, after it had a score"),
            ({"split_brain": {"local": {"epoch": 2}, "peer": None}, "peer": gone}, NONE, "a split brain, whose other side is away"),
            ({"peer": gone, "witness": WITNESS, "failover": "manual"}, LAST_SEEN, "the witness is to say"),
            ({"peer": gone, "witness": {**WITNESS, "in_sync": ["b"]}, "failover": "manual"}, NONE, "the witness has said that it is out"),
            ({"peer": gone, "witness": {**WITNESS, "epoch": None, "in_sync": None}, "failover": "manual"}, LAST_SEEN,
             "the witness has not said anything yet"),
            ({"peer": gone, "witness": None, "failover": "manual"}, LAST_SEEN, "it had one"),
            ({"split_brain": {"local": {"epoch": 2}, "peer": {"epoch": 3}}, "peer": {**PEER, "link": "refused"}}, NONE, "a split brain"),
            ({"peer": gone}, NONE, "it had none"),
            ({"peer": {**gone, "leg": "outdated"}}, SURE, "the peer is known to be behind"),
            ({"leg": "outdated"}, NONE, "it is behind itself")):
        agent.check("monitor", SUCCESS, binary=answer(t, **keys))
        agent.check_score(wanted, why)

    t.step("who fails over by himself: as the daemon says; with a witness also when it says nothing")
    for keys, ours in (({"failover": "automatic", "witness": WITNESS}, False), ({"witness": WITNESS}, False),
                       ({"failover": "of a later version", "witness": WITNESS}, False), ({"failover": "manual", "witness": WITNESS}, True),
                       ({"failover": "manual"}, True), ({"failover": None}, True), ({}, True)):
        said = answer(t, **keys)
        t.say(f"{keys}:")
        agent.check("monitor", SUCCESS if ours else NOT_RUNNING, binary=said)
        agent.check("validate-all", SUCCESS if ours else ERR_CONFIGURED, "" if ours else "failover: manual", binary=said)
        agent.check_score(SURE if ours else NONE, "Pacemaker's" if ours else "not Pacemaker's")


def automatic(t, c, agent):
    t.step("a volume whose nodes fail over by themselves is left alone, and told so")
    # Not supported by the daemon yet: its status is given the key that will say so.
    wrapped = script(t.dir / "automatic", f"#!/bin/sh\n{BUILD}/lockstep \"$@\" | sed 's/\"leg\":/\"failover\":\"automatic\",&/'\n")
    node = agent.node
    node.cli("up", VOLUME)
    node.cli("promote", VOLUME)
    for action in ("validate-all", "start", "promote", "demote"):
        agent.check(action, ERR_CONFIGURED, "failover: manual", binary=wrapped)
    agent.check("monitor", NOT_RUNNING, binary=wrapped, probe=True)
    agent.check("stop", SUCCESS, binary=wrapped)
    t.check(node.status()["serving"], "it is served as before")
    agent.check_score(NONE, "not Pacemaker's")


def test(t):
    t.need("ocf-tester", "xmllint")
    t.need_root()
    sbin = t.dir / "sbin"
    sbin.mkdir(mode=0o755)
    script(sbin / "crm_attribute", CRM_ATTRIBUTE)
    path = t.dir / "lockstep"
    shutil.copy(TOP / "repl/cluster/lockstep", path)
    path.chmod(0o755)
    c = Cluster(t, size=64 * MIB, dead_after="1s", volume=VOLUME)
    a, b = (Agent(t, n, path, sbin) for n in c.nodes)

    meta_data(t, a)
    wrong_parameters(t, a)
    no_daemon(t, a)
    c.start()
    not_here(t, a)
    c.create()
    ocf_tester(t, a)
    roles(t, c, a, b)
    daemon_killed(t, c, a, b)
    writes_wait(t, c, a, b)
    hung(t, c, a)
    just_fenced(t, c, a, b)
    strange_answers(t, c, a)
    behind(t, c, a, b)
    a.check("stop", SUCCESS)
    b.check("stop", SUCCESS)
    automatic(t, c, a)


if __name__ == "__main__":
    run.main(test, limit_s=280)
