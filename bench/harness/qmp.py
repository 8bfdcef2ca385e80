"""The few words of QMP that a mirror job needs."""

import json
import socket
import time

from .processes import Failure


class Qmp:
    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r")
        self._events = []
        if "QMP" not in self._read():
            raise Failure("qemu-storage-daemon: no QMP greeting")
        self.command("qmp_capabilities")

    def close(self):
        self._lines.close()
        self._socket.close()

    def _read(self):
        line = self._lines.readline()
        if not line:
            raise Failure("qemu-storage-daemon closed its QMP connection")
        return json.loads(line)

    def command(self, name, **arguments):
        self._socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        while True:
            message = self._read()
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise Failure(f"qemu-storage-daemon: {name}: {message['error'].get('desc')}")
            else:
                return message.get("return")

    def wait_event(self, name, failures=(), deadline_s=120):
        end = time.monotonic() + deadline_s
        while True:
            for event in self._events:
                if event["event"] in failures:
                    raise Failure(f"qemu-storage-daemon: {event['event']}: {event.get('data')}")
                if event["event"] == name:
                    self._events.remove(event)
                    return event
            self._socket.settimeout(max(0.1, end - time.monotonic()))
            try:
                self._events.append(self._read())
            except socket.timeout:
                raise Failure(f"qemu-storage-daemon: no {name} within {deadline_s} s") from None
