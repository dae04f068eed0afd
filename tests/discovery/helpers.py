"""What the tests of discovery share: a watcher that can be waited for, and other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

from zmqkit.discovery import Found

PATIENCE_S = 30.0


class Seen:
    """Keeps what a watch tells, and waits for it."""

    def __init__(self) -> None:
        self.told: list[frozenset[Found]] = []
        self._changed = threading.Condition()

    def __call__(self, found: frozenset[Found]) -> None:
        with self._changed:
            self.told.append(found)
            self._changed.notify_all()

    @property
    def now(self) -> frozenset[Found]:
        return self.told[-1] if self.told else frozenset()

    def wait(self, accept: Callable[[frozenset[Found]], bool]) -> frozenset[Found]:
        with self._changed:
            assert self._changed.wait_for(lambda: accept(self.now), PATIENCE_S), f"only {self.now} was found"
            return self.now

    def wait_for_instances(self, *instances: str) -> frozenset[Found]:
        return self.wait(lambda found: {each.instance for each in found} == set(instances))


class Script:
    """Another process that runs `code` and then waits for a line on stdin; its first line of output is `said`."""

    def __init__(self, code: str, *args: str, prefix: tuple[str, ...] = (), **environment: str | None) -> None:
        values = {**os.environ, **environment}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", textwrap.dedent(code), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={key: value for key, value in values.items() if value is not None},
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)

    def end(self) -> str:
        """Let it go on to its end; returns what else it said."""
        rest, _ = self.process.communicate("\n", timeout=PATIENCE_S)
        assert self.process.returncode == 0
        return rest.strip()


ANNOUNCER = """\
import sys
from zmqkit import discovery
name, address, role, instance = sys.argv[1:]
announcement = discovery.announce(name, address.split(","), role=role, instance=instance, peer_name="a test")
print("announced", flush=True)
sys.stdin.readline()
if instance != "leave-it-to-exit":
    announcement.close()
"""
