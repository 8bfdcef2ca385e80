#!/usr/bin/python3
"""The example for keepalived, run by two real ones: the service address is on the node that serves the volume, on no
other, and follows it; what keepalived starts beside it, too."""

import os
import shutil

from lib import boxes, nbdio, proc, run
from lib.boxes import CABLE, Box, Hub
from lib.cluster import BUILD, MIB, Cluster
from lib.failover import Trio
from lib.run import TOP, stays, wait_until

EXAMPLE = TOP / "examples/keepalived"
ADDRESS = "192.0.2.42/24"
MOVES_S_MAX = 60  # it takes one to four seconds on a machine that is not busy

NODE = """#!/bin/sh
set -e
hostname {name}
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/lockstep
mount --bind {dir} /run/lockstep
mount --bind {dir}/sbin /usr/local/sbin
ip link set lo up
until ip link show {cable} >/dev/null 2>&1; do sleep 0.05; done
ip address add 192.0.2.{number}/24 dev {cable}
ip link set {cable} up
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
exec keepalived --dont-fork --log-console --use-file {dir}/keepalived.conf >{dir}/keepalived.log 2>&1
"""


class Router(Box):
    """One node's keepalived."""

    def __init__(self, hub, number, node):
        self.node = node
        self.told = node.dir / "told"
        sbin = node.dir / "sbin"
        sbin.mkdir()
        for name in ("lockstep-serves", "lockstep-notify"):
            shutil.copy(EXAMPLE / name, sbin / name)
        (sbin / "lockstep").write_text(f'#!/bin/sh\nexec {BUILD}/lockstep "$@" --control /run/lockstep/control\n')
        (sbin / "systemctl").write_text('#!/bin/sh\necho "$*" >>/run/lockstep/told\n')
        for file in sbin.iterdir():
            file.chmod(0o755)
        sbin.chmod(0o755)
        text = (EXAMPLE / "keepalived.conf").read_text()
        (node.dir / "keepalived.conf").write_text(text.replace("interface eth0", f"interface {CABLE}"))
        script = node.dir / "router"
        script.write_text(NODE.format(name=node.name, dir=node.dir, cable=CABLE, number=number))
        script.chmod(0o755)
        super().__init__(hub, number, node.name, script, node.dir / "router.log")

    def has_address(self):
        return f" {ADDRESS} " in self.run("ip", "address", "show", CABLE).stdout

    def last_told(self):
        return self.told.read_text().splitlines()[-1] if self.told.exists() else None

    def tail(self):
        return (self.node.dir / "keepalived.log").read_text(errors="replace")[-800:]


def serves(node, *options):
    return proc.run([EXAMPLE / "lockstep-serves", node.cluster.volume, "--control", node.control, *options],
                    env={**os.environ, "LOCKSTEP": str(BUILD / "lockstep")}, ok=None).returncode == 0


def wait_address(t, routers, on):
    wait_until(f"the address to be on {on.name if on else 'nobody'}", lambda: [r for r in routers if r.has_address()] == ([on] if on else []),
               MOVES_S_MAX, poll_s=0.2, describe=lambda: " // ".join(f"{r.name}: {r.tail()}" for r in routers))
    for r in routers:
        wanted = "start gold42.target" if r is on else "stop gold42.target"
        wait_until(f"{r.name} to be told to {wanted}", lambda: r.last_told() == wanted, MOVES_S_MAX, describe=r.last_told)
    t.check(True, f"the address and the application are {f'on {on.name}' if on else 'nowhere'}")


def what_serves(t, c):
    t.step("lockstep-serves: the node that serves, also while its writes wait; not one that may have been replaced")
    t.check(not serves(c.a), "no daemon")
    c.start()
    t.check(not serves(c.a), "no leg")
    c.create()
    t.check(not serves(c.a), "nobody is primary")
    c.promote(c.a)
    t.check(serves(c.a) and not serves(c.b), f"{c.a.name} is")
    c.a.pause()
    t.check(not serves(c.a), "a daemon that hangs")
    c.a.resume()
    answers = {"reachable": True, "unreachable": False, "older": False}
    for state, wanted in answers.items():
        fake = t.dir / "fake"
        fake.write_text(f"""#!/bin/sh
echo '{{"volumes":[{{"serving":true,"peer":{{"link":"down"}},"witness":{{"state":"{state}","epoch":7}}}}]}}'
""")
        fake.chmod(0o755)
        p = proc.run([EXAMPLE / "lockstep-serves", c.volume], env={**os.environ, "LOCKSTEP": str(fake)}, ok=None)
        t.check((p.returncode == 0) == wanted, f"a primary without its peer, with a witness that is {state}: {wanted}")


def serves_alone(t):
    """Nobody else is in the set: it serves whether the witness answers or not."""
    t.step("one that goes on alone, and then loses its witness, too")
    c = Trio(t, size=64 * MIB, dead_after="1s", name="alone")
    c.ready()
    c.b.sigkill()
    c.a.wait("to go on alone", lambda s: s["alone"] and s["serving"], 30)
    c.witness.sigkill()
    c.a.wait("to lose the witness", lambda s: s["witness"]["state"] == "unreachable", 30)
    h = nbdio.connect(c.a.uri)
    h.pwrite(bytes(4096), 0)
    h.shutdown()
    t.check(serves(c.a), "its writes are answered, and it counts as serving")
    c.a.end()


def test(t):
    boxes.need(t)
    t.need("keepalived")
    c = Cluster(t, size=64 * MIB, dead_after="1s")
    what_serves(t, c)
    serves_alone(t)

    t.step("two keepalived, with the example's configuration")
    hub = Hub(t)
    a, b = routers = [Router(hub, i + 1, n) for i, n in enumerate(c.nodes)]
    for r in routers:
        t.cleanup.callback(r.power_off)
        r.start()
    wait_address(t, routers, a)

    t.step(f"{c.b.name} is promoted instead")
    c.a.cli("demote", c.volume)
    wait_address(t, routers, None)
    c.b.cli("promote", c.volume)
    wait_address(t, routers, b)
    stays("the address stays", lambda: b.has_address() and not a.has_address(), 3)

    t.step(f"the daemon of {c.b.name} is killed, {c.a.name} takes over")
    c.b.sigkill()
    c.a.wait("to see it", lambda s: s["peer"]["link"] != "connected")
    c.a.cli("promote", c.volume)
    t.check(serves(c.a), "it serves, though its writes wait for its peer: there is no witness that could have replaced it")
    wait_address(t, routers, a)

    t.step(f"the machine of {c.a.name} is lost; {c.b.name} comes back")
    a.power_off()
    c.a.sigkill()
    c.b.start()
    c.b.cli("promote", c.volume)
    wait_until("the address", b.has_address, MOVES_S_MAX, describe=b.tail)
    wait_until(f"{b.name} to be told to start", lambda: b.last_told() == "start gold42.target", MOVES_S_MAX, describe=b.last_told)
    t.check(True, f"the address and the application are on {b.name}")


if __name__ == "__main__":
    run.main(test, limit_s=230)
