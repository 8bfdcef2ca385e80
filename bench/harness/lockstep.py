"""Lockstep volumes as an operator makes them: configuration, daemons, create, promote, status."""

import json
import os
import subprocess

from .processes import POLL_S, START_DEADLINE_S, Failure, free_port, wait_until

VOLUME = "bench"
NODE_NAMES = ("node-a", "node-b")
COMMAND_LIMIT_S = 60


class Node:
    def __init__(self, workspace, name, backing, has_peer):
        self.name = name
        self.backing = backing
        self.socket_path = workspace.path(f"{name}.nbd")
        self.control_path = workspace.path(f"{name}.control")
        self.path = f"127.0.0.1:{free_port()}" if has_peer else None
        self.daemon = None

    def config(self):
        lines = [f"  - name: {self.name}", f"    backing: {self.backing}", "    metadata: internal",
                 f"    device: nbd:unix:{self.socket_path}"]
        if self.path:
            lines.append(f"    paths: [{self.path}]")
        return lines


class Volume:
    """One volume on one or two daemons of this machine; the first backing's node becomes primary. `settings`: further
    keys of the configuration, by name; `dead_after`: of the link; `loopback`: a network.Loopback for it."""

    def __init__(self, workspace, build_dir, backings, settings=None, dead_after=None, loopback=None):
        self._workspace = workspace
        self._build_dir = build_dir
        self._settings = settings or {}
        self._dead_after = dead_after
        self._loopback = loopback
        self.nodes = [Node(workspace, name, backing, len(backings) > 1)
                      for name, backing in zip(NODE_NAMES, backings)]
        self._config_path = workspace.path("bench.yaml")
        with open(self._config_path, "w") as f:
            f.write(self._config())

    def _config(self):
        lines = [f"volume: {VOLUME}", "nodes:"]
        for node in self.nodes:
            lines += node.config()
        if len(self.nodes) > 1:
            lines += ["link:", "  transport: tcp", "  tls: none"]
            lines += [f"  dead-after: {self._dead_after}"] if self._dead_after else []
        lines += [f"{key}: {value}" for key, value in self._settings.items()]
        return "\n".join(lines) + "\n"

    def servers(self):
        return [node.daemon for node in self.nodes]

    def _cli(self, node, *arguments):
        command = [os.path.join(self._build_dir, "lockstep"), *arguments, "--control", node.control_path]
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S)

    def _require(self, node, *arguments):
        done = self._cli(node, *arguments)
        if done.returncode != 0:
            text = (done.stderr or done.stdout).strip()
            raise Failure(f"lockstep {' '.join(arguments)} on {node.name}: exit {done.returncode}: {text}"
                          f"{node.daemon.log_tail()}")
        return done.stdout

    def status(self, node):
        """The volume's part of `lockstep status --json`; {} while the daemon does not answer or does not have it up."""
        done = self._cli(node, "status", VOLUME, "--json")
        if done.returncode != 0:
            return {}
        volumes = json.loads(done.stdout)["volumes"]
        return volumes[0] if volumes else {}

    def events(self, node):
        """All that the daemon has to tell since it was started, oldest first."""
        return [json.loads(line) for line in self._require(node, "events", VOLUME, "--no-follow", "--json").splitlines()]

    def wait(self, node, what, condition, deadline_s=START_DEADLINE_S, poll_s=POLL_S):
        """The first status of `node` that meets the condition."""
        def status():
            found = self.status(node)
            return found if found and condition(found) else None
        return wait_until(what, status, node.daemon, deadline_s, poll_s)

    def _settled_state(self, node):
        """None while the daemon does not answer yet, or is busy with the volume."""
        state = self.status(node).get("state")
        return state if state not in ("starting", "creating", "stopping") else None

    def start(self, node):
        """Only the daemon. What it finds on its backing it brings up by itself."""
        command = [os.path.join(self._build_dir, "lockstepd"), "--config", self._config_path, "--node", node.name,
                   "--control", node.control_path]
        node.daemon = self._workspace.start(f"lockstepd-{node.name}",
                                            self._loopback.inside(command) if self._loopback else command)

    def kill(self, node):
        """As a crash does: without a word."""
        self._workspace.kill(node.daemon)
        node.daemon = None

    def promote(self, node):
        self._require(node, "promote", VOLUME)
        self.wait(node, "serving", lambda s: s["serving"])

    def stop(self):
        for node in self.nodes:
            if node.daemon:
                self._workspace.stop(node.daemon)
                node.daemon = None

    def open(self):
        for node in self.nodes:
            self.start(node)
        for node in self.nodes:
            state = wait_until("having looked at its backing", lambda n=node: self._settled_state(n), node.daemon)
            if state == "up":  # the leg of the round before
                self._require(node, "down", VOLUME)
        # Nobody is up before all are new: a leg of the round before would give a new one what it has. The files served
        # other subjects before: whatever they hold may go.
        for command in (("create", VOLUME, "--force"), ("up", VOLUME)):
            for node in self.nodes:
                self._require(node, *command)
        primary = self.nodes[0]
        if len(self.nodes) > 1:
            self.wait(primary, "connecting to its peer", lambda s: (s.get("peer") or {}).get("link") == "connected")
        self.promote(primary)
        if len(self.nodes) > 1:
            self.wait(primary, "being protected", lambda s: s["protected"])
