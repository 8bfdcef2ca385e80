#!/usr/bin/python3
"""Two nodes of Pacemaker, for real, with the volume as a promotable clone and an application beside the primary: it comes
up, moves when a node is to be free, and when a daemon, or a node, is lost; a daemon that hangs has its node fenced; and
what a person changes beside Pacemaker is put right."""

import signal
import time

from lib import boxes, nbdio, run
from lib.cluster import BUILD, MIB, Cluster
from lib.pacemaker import PROGRAMS, SETTLES_S_MAX, Pacemaker
from lib.run import wait_until

PROMOTED, UNPROMOTED = "Promoted", "Unpromoted"

CONFIGURATION = """<configuration>
<crm_config><cluster_property_set id="options">
  <nvpair id="stonith" name="stonith-enabled" value="true"/>
  <nvpair id="leader" name="dc-deadtime" value="3s"/>
  <nvpair id="load" name="load-threshold" value="10000%"/>
</cluster_property_set></crm_config>
<nodes><node id="1" uname="paris-a"/><node id="2" uname="paris-b"/></nodes>
<resources>
<primitive id="switch" class="stonith" type="fence_of_the_test"><instance_attributes id="switch-of">
  <nvpair id="switch-list" name="pcmk_host_list" value="paris-a paris-b"/>
  <nvpair id="switch-check" name="pcmk_host_check" value="static-list"/>
</instance_attributes></primitive>
<clone id="gold-clone">
  <meta_attributes id="gold-meta">
    <nvpair id="gold-promotable" name="promotable" value="true"/>
    <nvpair id="gold-notify" name="notify" value="true"/>
    <nvpair id="gold-interleave" name="interleave" value="true"/>
  </meta_attributes>
  <primitive id="gold" class="ocf" provider="lockstep" type="lockstep">
    <instance_attributes id="gold-is">
      <nvpair id="gold-volume" name="volume" value="gold42"/>
      <nvpair id="gold-control" name="control" value="/run/lockstep/control"/>
      <nvpair id="gold-binary" name="binary" value="BINARY"/>
    </instance_attributes>
    <operations>
      <op id="gold-primary" name="monitor" interval="2s" timeout="6s" role="Promoted"/>
      <op id="gold-secondary" name="monitor" interval="3s" timeout="6s" role="Unpromoted"/>
      <op id="gold-start" name="start" interval="0" timeout="30s"/>
      <op id="gold-promote" name="promote" interval="0" timeout="30s"/>
      <op id="gold-demote" name="demote" interval="0" timeout="8s"/>
      <op id="gold-stop" name="stop" interval="0" timeout="8s"/>
    </operations>
  </primitive>
</clone>
<primitive id="application" class="ocf" provider="pacemaker" type="Dummy"/>
</resources>
<constraints>
<rsc_order id="after" first="gold-clone" first-action="promote" then="application" then-action="start"/>
<rsc_colocation id="beside" rsc="application" with-rsc="gold-clone" with-rsc-role="Promoted" score="INFINITY"/>
</constraints>
</configuration>"""


def all_there(t, load, node):
    """Nothing that was acknowledged is missing on the new primary."""
    blocks = 0
    for s in load:
        s.stopping = True
        s.thread.join(30)
        if s.wrong:
            raise nbdio.Failure(s.wrong)
        s.reconnect(node.uri)
        for block in s.touched():
            s.check_blocks(s.handle.pread(s.block_bytes, block * s.block_bytes), block, "after it moved")
            blocks += 1
    t.check(True, f"all {blocks} blocks that were acknowledged are there")


def moved(t, p, load, old, new, roles):
    """The volume and what uses it are on the other node."""
    p.wait_roles("gold", roles)
    p.wait_roles("application", {new.name: "Started"})
    s = new.wait("to serve", lambda s: s["serving"])
    t.check(s["role"] == "primary" and not (old.status() or {}).get("serving"), f"{new.name} serves, and {old.name} does not")
    all_there(t, load, new)


def settled(t, p, c, load):
    """Pacemaker has found that nobody serves, and has somebody serve: either node. Returns that one, and the other."""
    def look():
        for new, old in ((c.a, c.b), (c.b, c.a)):
            if (p.roles("gold") == {new.name: PROMOTED, old.name: UNPROMOTED} and p.roles("application") == {new.name: "Started"}
                    and new.status()["serving"] and not old.status()["serving"]):
                return new, old
        return None
    new, old = wait_until("one node to serve", look, SETTLES_S_MAX, poll_s=0.3,
                          describe=lambda: f"{p.roles('gold')} {' // '.join(m.logs() for m in p.machines)}")
    t.check(True, f"{new.name} serves, with the application, and {old.name} does not")
    all_there(t, load, new)
    return new, old


def busy(load):
    """When something happens, writes are under way; no longer, as Pacemaker needs the processor, too."""
    nbdio.start(load)
    nbdio.headway(load, 200, what="the load to run")


def all_well(t, p, c, primary, secondary):
    p.wait_roles("gold", {primary.name: PROMOTED, secondary.name: UNPROMOTED})
    p.wait_roles("application", {primary.name: "Started"})
    primary.wait("to be protected", lambda s: s["protected"], 60)
    wait_until("the scores", lambda: (p.score("gold", primary.name), p.score("gold", secondary.name)) == ("10000", "1000"), 60, poll_s=0.3,
               describe=lambda: f"{p.score('gold', primary.name)}, {p.score('gold', secondary.name)}")
    t.check(True, f"{primary.name} is promoted, with the application, and has a score of 10000; {secondary.name} has 1000")


def test(t):
    boxes.need(t)
    t.need(*PROGRAMS)
    c = Cluster(t, size=64 * MIB, dead_after="1s", settings={"when-alone": "continue"})
    c.start()
    c.create()
    c.a.wait("the link", lambda s: s["peer"]["link"] == "connected")

    t.step("Pacemaker finds two legs, and promotes one")
    p = Pacemaker(t, c, CONFIGURATION.replace("BINARY", str(BUILD / "lockstep")))
    p.start()
    wait_until("a primary", lambda: PROMOTED in p.roles("gold").values(), SETTLES_S_MAX, poll_s=0.3,
               describe=lambda: f"{p.roles('gold')} {' // '.join(m.logs() for m in p.machines)}")
    first = next(name for name, role in p.roles("gold").items() if role == PROMOTED)
    primary, secondary = sorted(c.nodes, key=lambda n: n.name != first)
    all_well(t, p, c, primary, secondary)
    load = nbdio.scribblers(primary.uri, c.size - MIB, t.seed, 2)

    t.step(f"{primary.name} is to be free (standby)")
    busy(load)
    p.any().run("crm_attribute", "--name", "standby", "--node", primary.name, "--lifetime", "forever", "--update", "on")
    moved(t, p, load, primary, secondary, {secondary.name: PROMOTED})
    t.check(primary.status()["state"] == "down", "its leg is down")
    p.any().run("crm_attribute", "--name", "standby", "--node", primary.name, "--lifetime", "forever", "--delete")
    primary, secondary = secondary, primary
    all_well(t, p, c, primary, secondary)

    t.step(f"the daemon of {primary.name} is killed, and the init system restarts it at once")
    busy(load)
    killed = time.monotonic()
    primary.sigkill()
    primary.start()
    primary, secondary = settled(t, p, c, load)
    t.say(f"{time.monotonic() - killed:.1f} s until all of that was seen, with a monitor every 2 s")
    all_well(t, p, c, primary, secondary)

    t.step(f"a person demotes {primary.name}: Pacemaker finds it, and has the volume served again")
    busy(load)
    primary.cli("demote", c.volume)
    primary, secondary = settled(t, p, c, load)
    all_well(t, p, c, primary, secondary)

    t.step(f"the daemon of {primary.name} is killed, and nobody restarts it")
    busy(load)
    killed = time.monotonic()
    primary.sigkill()
    moved(t, p, load, primary, secondary, {secondary.name: PROMOTED})
    t.say(f"{time.monotonic() - killed:.1f} s until all of that was seen")
    t.check(p.fenced == [], "nobody has been fenced so far", p.fenced)
    primary.start()
    p.any().run("crm_resource", "--cleanup", "--resource", "gold")
    primary, secondary = secondary, primary
    all_well(t, p, c, primary, secondary)

    t.step(f"the daemon of {primary.name} hangs: stop cannot know, and Pacemaker has the node fenced")
    busy(load)
    primary.daemon.send_signal(signal.SIGSTOP)
    moved(t, p, load, primary, secondary, {secondary.name: PROMOTED})
    t.check(set(p.fenced) == {primary.name}, "it was switched off first", p.fenced)

    t.step(f"{primary.name} is switched on again")
    primary.start()
    p.start(next(m for m in p.machines if m.node is primary))
    primary, secondary = secondary, primary
    all_well(t, p, c, primary, secondary)

    t.step(f"{primary.name} is lost")
    busy(load)
    p.fenced.clear()
    lost = time.monotonic()
    next(m for m in p.machines if m.node is primary).power_off()
    moved(t, p, load, primary, secondary, {secondary.name: PROMOTED})
    t.check(set(p.fenced) == {primary.name}, f"fenced, and taken over in {time.monotonic() - lost:.1f} s", p.fenced)


if __name__ == "__main__":
    run.main(test, limit_s=400)
