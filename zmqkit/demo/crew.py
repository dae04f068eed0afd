"""The processes of a run: started, watched, killed on purpose, and always ended.

This module knows processes and pipes, nothing of messages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

State = Literal["working", "killed", "stopped"]
Role = Literal["sender", "worker", "sink"]

STOP_S = 5.0
"""How long processes may take to stop when asked, all together; then they are killed."""


class ProcessDied(Exception):
    """A process ended by itself, which it never should."""


@dataclasses.dataclass(slots=True)
class Member:
    """One process."""

    role: Role
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    """What it writes to its standard error."""
    state: State = "working"
    holding: bool = False
    """It has work in hand, taken and not finished, and waits for `Crew.release`."""
    told: dict[str, Any] = dataclasses.field(default_factory=dict)
    """All that it told, the newest of each."""
    cut: bytes = b""
    """The beginning of a line."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


class Crew:
    """All processes of one run, as a context; leaving it ends them.

    Args:
        folder: where they may write their logs.
    """

    def __init__(self, folder: Path) -> None:
        self.members: list[Member] = []
        self._folder = folder

    def hire(self, role: Role, **options: object) -> Member:
        """Start one more process, with these options; with ``hold_at`` it holds work in hand at that point."""
        name = f"{role}-{1 + sum(member.role == role for member in self.members)}"
        log = self._folder / f"{name}.log"
        command = [sys.executable, "-P", "-m", f"zmqkit.demo.{role}", "--name", name]
        for option, value in options.items():
            command += [f"--{option.replace('_', '-')}", str(value)]
        # It imports from where this process does, whatever folder either stands in.
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": path},
                process_group=0,  # Ctrl-C at the terminal is for the parent, which then ends its children
            )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self.members.append(Member(role, name, process, log))
        return self.members[-1]

    def all_of(self, role: Role) -> list[Member]:
        """The members of a role, in the order in which they were hired."""
        return [member for member in self.members if member.role == role]

    def now(self, role: Role) -> Member:
        """Who was hired last for a role."""
        return self.all_of(role)[-1]

    def hear(self, within_s: float) -> Iterator[tuple[Member, dict[str, Any]]]:
        """Wait until somebody tells something, and give all that is there."""
        listening = {member.process.stdout: member for member in self.working()}
        readable, _, _ = select.select([stdout for stdout in listening if stdout is not None], [], [], within_s)
        for stdout in readable:
            yield from self._read(listening[stdout])

    def _read(self, member: Member) -> Iterator[tuple[Member, dict[str, Any]]]:
        assert member.process.stdout is not None
        data = b""
        with contextlib.suppress(BlockingIOError):
            while some := os.read(member.process.stdout.fileno(), 1 << 16):
                data += some
        *whole, member.cut = (member.cut + data).split(b"\n")
        for line in whole:
            told = json.loads(line)
            member.holding = member.holding or bool(told.pop("holding", False))
            member.told.update(told)
            yield member, told

    def working(self) -> list[Member]:
        """Those that are neither killed nor stopped."""
        return [member for member in self.members if member.state == "working"]

    def kill(self, member: Member) -> None:
        """End one process with SIGKILL: it cannot say goodbye. What it told before is read."""
        member.process.kill()
        member.process.wait()
        for _ in self._read(member):
            pass
        member.state = "killed"

    def release(self, role: Role) -> None:
        """Let all of a role go on that hold work in hand, and let none hold any from now on."""
        for member in self.working():
            if member.role == role:
                member.holding = False
                stdin = member.process.stdin
                assert stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it died; lost() tells
                    os.write(stdin.fileno(), b"go\n")

    def lost(self) -> list[Member]:
        """Those that somebody else killed since the last look. Raises `ProcessDied` if one ended by itself."""
        found = []
        for member in self.working():
            code = member.process.poll()
            if code is None:
                continue
            if code >= 0:
                member.state = "stopped"
                said = member.log.read_text(errors="replace").strip() or "it said nothing"
                raise ProcessDied(f"{member.name} (process {member.pid}) ended by itself, with {code}:\n{said}")
            for _ in self._read(member):
                pass
            member.state = "killed"
            found.append(member)
        return found

    def stop(self, role: Role) -> None:
        """Ask all of a role to stop, wait for them, and kill those that do not."""
        stopping = [member for member in self.working() if member.role == role]
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
            for _ in self._read(member):
                pass
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
