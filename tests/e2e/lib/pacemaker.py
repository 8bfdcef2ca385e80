"""Pacemaker for real: corosync and pacemakerd for each node of a cluster, in namespaces of their own, and a power switch.

The daemons of Lockstep stay outside: the agent reaches its own by the control socket. Corosync speaks over a virtual
cable. What Pacemaker fences is switched off by the test: daemon, cluster and all.
"""

import shutil
import threading
import xml.etree.ElementTree as ET

from lib.boxes import CABLE, Box, Hub
from lib.run import TOP, wait_until

PROGRAMS = ("corosync", "pacemakerd", "crm_mon", "crm_attribute", "crm_resource")
SETTLES_S_MAX = 150  # it takes some ten seconds on a machine that is not busy

NODE = """#!/bin/sh
# The machine of one node: all that its cluster writes is its own, and gone with it.
set -e
hostname {name}
mount --make-rprivate /
for folder in /run /dev/shm /var/lib/corosync /var/lib/pacemaker; do mount -t tmpfs tmpfs $folder; done
mkdir -p /run/lockstep /run/lock /run/crm /var/lib/pacemaker/cib /var/lib/pacemaker/pengine /var/lib/pacemaker/cores \
    /var/lib/pacemaker/blackbox
install -m 600 {shared}/cib.xml /var/lib/pacemaker/cib/cib.xml
chown -R hacluster:haclient /run/crm /var/lib/pacemaker
mount --bind {dir} /run/lockstep
mount --bind {cluster}/log /var/log
mount --bind {shared}/corosync /etc/corosync
mount -t overlay overlay -o lowerdir={shared}/sbin:/usr/sbin /usr/sbin
mount -t overlay overlay -o lowerdir={shared}/resource.d:/usr/lib/ocf/resource.d /usr/lib/ocf/resource.d
ip link set lo up
until ip link show {cable} >/dev/null 2>&1; do sleep 0.05; done
ip address add 10.77.0.{number}/24 dev {cable}
ip link set {cable} up
corosync -f >{cluster}/corosync.log 2>&1 &
until corosync-quorumtool -s >/dev/null 2>&1; [ $? -ne 1 ]; do sleep 0.1; done
exec env PCMK_logfile=/var/log/pacemaker.log PCMK_logfacility=none pacemakerd >{cluster}/pacemakerd.log 2>&1
"""

COROSYNC = """totem {{
    version: 2
    cluster_name: lockstep
    token: 5000
}}
quorum {{
    provider: corosync_votequorum
    two_node: 1
    wait_for_all: 1
}}
logging {{
    to_stderr: yes
    to_syslog: no
}}
system {{
    sched_rr: no
    move_to_root_cgroup: no
}}
nodelist {{
{nodes}
}}
"""

CIB = """<?xml version="1.0"?>
<cib crm_feature_set="3.0.0" validate-with="pacemaker-3.8" epoch="1" num_updates="0" admin_epoch="0">
{configuration}
<status/>
</cib>
"""

# A fence agent: asks the test, and waits until it has been done.
FENCE = """#!/bin/sh
action=reboot
plug=
while IFS='=' read -r key value; do
    case $key in
    action) action=$value ;;
    port | plug | nodename) plug=$value ;;
    esac
done
case $action in
metadata)
    cat <<'END'
<?xml version="1.0"?>
<resource-agent name="fence_of_the_test" shortdesc="The test's power switch">
<longdesc>The test's power switch</longdesc>
<parameters>
<parameter name="action" required="1"><content type="string" default="reboot"/><shortdesc lang="en">What to do</shortdesc></parameter>
<parameter name="port" required="0"><content type="string"/><shortdesc lang="en">Which node</shortdesc></parameter>
</parameters>
<actions>
<action name="on"/><action name="off"/><action name="reboot"/><action name="status"/><action name="monitor"/>
<action name="list"/><action name="metadata"/>
</actions>
</resource-agent>
END
    ;;
off | reboot)
    : >{switch}/off-"$plug"
    while [ -e {switch}/off-"$plug" ]; do sleep 0.05; done
    ;;
esac
"""


class Machine(Box):
    """One node's cluster: its Lockstep node beside it."""

    def __init__(self, pacemaker, node, number):
        self.node = node
        self.dir = node.dir / "pacemaker"
        (self.dir / "log").mkdir(parents=True)
        script = self.dir / "node"
        script.write_text(NODE.format(name=node.name, dir=node.dir, cluster=self.dir, shared=pacemaker.dir, number=number,
                                      cable=CABLE))
        script.chmod(0o755)
        super().__init__(pacemaker.hub, number, node.name, script, self.dir / "node.log")

    def power_off(self):
        super().power_off()
        if self.node.running:
            self.node.sigkill()

    def logs(self):
        found = []
        for file in sorted(self.dir.rglob("*log")):
            if file.is_file():
                found += [f"{file.name}: {line}" for line in file.read_text(errors="replace").splitlines()[-3:]]
        return f"{self.name}: " + " | ".join(found)


class Pacemaker:
    def __init__(self, t, cluster, configuration, agent=TOP / "repl/cluster/lockstep"):
        self.t = t
        self.dir = t.dir / "pacemaker"
        for name in ("corosync", "sbin", "resource.d/lockstep", "switch"):
            (self.dir / name).mkdir(parents=True)
        self.switch = self.dir / "switch"
        shutil.copy(agent, self.dir / "resource.d/lockstep/lockstep")
        (self.dir / "resource.d/lockstep/lockstep").chmod(0o755)
        # There from the start, as the cluster would otherwise look for a leader for 20 s.
        (self.dir / "cib.xml").write_text(CIB.format(configuration=configuration))
        fence = self.dir / "sbin/fence_of_the_test"
        fence.write_text(FENCE.replace("{switch}", str(self.switch)))
        fence.chmod(0o755)
        self.hub = Hub(t)
        self.machines = [Machine(self, n, i + 1) for i, n in enumerate(cluster.nodes)]
        nodes = "\n".join(f"    node {{\n        ring0_addr: 10.77.0.{m.number}\n        name: {m.name}\n        nodeid: {m.number}\n    }}"
                          for m in self.machines)
        (self.dir / "corosync/corosync.conf").write_text(COROSYNC.format(nodes=nodes))
        self.fenced = []
        self.stopping = threading.Event()
        t.cleanup.callback(self.end)
        self.thread = threading.Thread(target=self.serve_switch, daemon=True)
        self.thread.start()

    def end(self):
        self.stopping.set()
        self.thread.join(20)
        for m in self.machines:
            Box.power_off(m)

    def serve_switch(self):
        while not self.stopping.wait(0.05):
            for m in self.machines:
                order = self.switch / f"off-{m.name}"
                if order.exists():
                    if m.running:
                        m.power_off()
                    self.fenced.append(m.name)
                    order.unlink()

    def start(self, *machines):
        """Those, or all."""
        for m in machines or self.machines:
            m.start()

    def any(self):
        return next(m for m in self.machines if m.running)

    def roles(self, resource):
        """{node: role} as the cluster sees it; {} while nobody answers."""
        p = self.any().run("crm_mon", "--one-shot", "--output-as=xml", ok=None)
        if p.returncode != 0:
            return {}
        found = {}
        for r in ET.fromstring(p.stdout).iter("resource"):
            if r.get("id").split(":")[0] == resource and r.get("failed") == "false":
                for n in r.findall("node"):
                    found[n.get("name")] = r.get("role")
        return found

    def wait_roles(self, resource, wanted, seconds=SETTLES_S_MAX):
        wait_until(f"{resource} to be {wanted}", lambda: self.roles(resource) == wanted, seconds, poll_s=0.3,
                   describe=lambda: f"{self.roles(resource)}; {' // '.join(m.logs() for m in self.machines)}")

    def score(self, resource, name):
        p = self.any().run("crm_attribute", f"--promotion={resource}", "--node", name, "--query", "--quiet", ok=None)
        return p.stdout.strip() if p.returncode == 0 else None
