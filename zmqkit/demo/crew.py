"""The worker processes of a run: started, watched, killed on purpose, and always ended.

This module knows processes and pipes, nothing of messages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

State = Literal["working", "killed", "stopped"]

STOP_S = 5.0
"""How long workers may take to stop when asked, all together; then they are killed."""


class WorkerDied(Exception):
    """A worker ended by itself, which it never should."""


@dataclasses.dataclass(slots=True)
class Member:
    """One worker process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    """What it writes to its standard error."""
    state: State = "working"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


class Crew:
    """All worker processes of one run, as a context; leaving it ends them.

    Args:
        source: where workers find their jobs.
        sink: where they push what they made.
        folder: where they may write their logs.
    """

    def __init__(self, source: str, sink: str, folder: Path) -> None:
        self.members: list[Member] = []
        self._arguments = ["--source", source, "--sink", sink]
        self._folder = folder

    def hire(self, *, hold_at: int = 0) -> Member:
        """Start one more worker. It stops, with its `hold_at`-th job in hand, until `release`; 0: it never does."""
        name = f"worker-{len(self.members) + 1}"
        log = self._folder / f"{name}.log"
        command = [sys.executable, "-P", "-m", "zmqkit.demo.worker", "--name", name, "--hold-at", str(hold_at)]
        # It imports from where this process does, whatever folder either stands in.
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                command + self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": path},
                process_group=0,  # Ctrl-C at the terminal is for the parent, which then ends its children
            )
        self.members.append(Member(name, process, log))
        return self.members[-1]

    def working(self) -> list[Member]:
        """Those that are neither killed nor stopped."""
        return [member for member in self.members if member.state == "working"]

    def holding(self) -> Member | None:
        """A worker that holds a job, taken and not finished, and waits for `release`; None if there is none now."""
        for member in self.working():
            stdout = member.process.stdout
            assert stdout is not None
            if select.select([stdout], [], [], 0)[0] and os.read(stdout.fileno(), 1024):
                return member
        return None

    def kill(self, member: Member) -> None:
        """End one worker with SIGKILL: it cannot say goodbye."""
        member.state = "killed"
        member.process.kill()
        member.process.wait()

    def release(self) -> None:
        """Let all go on that hold a job, and let none hold one from now on."""
        for member in self.working():
            stdin = member.process.stdin
            assert stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died; lost() tells
                os.write(stdin.fileno(), b"go\n")

    def lost(self) -> list[Member]:
        """Those that somebody else killed since the last look. Raises `WorkerDied` if one ended by itself."""
        found = []
        for member in self.working():
            code = member.process.poll()
            if code is None:
                continue
            if code >= 0:
                member.state = "stopped"
                said = member.log.read_text(errors="replace").strip() or "it said nothing"
                raise WorkerDied(f"{member.name} (process {member.pid}) ended by itself, with {code}:\n{said}")
            member.state = "killed"
            found.append(member)
        return found

    def stop(self) -> None:
        """Ask all to stop, wait for them, and kill those that do not."""
        stopping = self.working()
        for member in stopping:
            assert member.process.stdin is not None
            member.process.stdin.close()
        deadline = time.monotonic() + STOP_S
        for member in stopping:
            try:
                member.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
            member.state = "stopped"

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs: after an error or Ctrl-C nobody waits for an orderly end, and nothing is lost."""
        for member in self.members:
            member.process.kill()
        for member in self.members:
            member.process.wait()
            for pipe in (member.process.stdin, member.process.stdout):
                assert pipe is not None
                pipe.close()
