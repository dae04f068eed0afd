"""Real processes, killed as they enter one system call, or lied to about it: by strace, and the call is not made.

What the system holds of a killed process's writes stays, as after any kill -9. A call that fails may be of the journal,
its lock, the inbox or the outbox. Knows Linux and strace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

CALLS: Final = ("pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "unlink")
"""What changes files, or makes a change last. (What goes by `write` is no journal's nor database's.)"""

SECONDS: Final = 60.0


ERRORS: Final = {"pwrite64": ("EIO", "ENOSPC"), "fdatasync": ("EIO",), "fsync": ("EIO",), "ftruncate": ("EIO",)}
"""What a disk may say."""


class Kill(NamedTuple):
    """At the so many-th call of this name."""

    call: str
    at: int


class Failure(NamedTuple):
    """From the so many-th call of this name on so many fail."""

    call: str
    at: int
    times: int
    error: str


class Ended(NamedTuple):
    """How a life ended."""

    status: int
    """Negative: by that signal."""
    said: str
    """The end of what it wrote to stderr."""


def missing() -> str:
    """Why processes cannot be killed so here; empty if they can."""
    if shutil.which("strace") is None:
        return "needs strace, which is not installed"
    tried = _strace(Path(os.devnull), [], [sys.executable, "-c", "pass"])
    return f"strace may not trace here: {tried.said}" if tried.status else ""


def live(folder: Path, kill: Kill | None) -> Ended:
    """One life of the program; None: to its end."""
    program = [sys.executable, "-m", "tests.crashpoints.program", str(folder)]
    if kill is None:
        return _run(program)
    return _strace(Path(os.devnull), [f"inject={kill.call}:signal=KILL:when={kill.at}"], program)


def fail(folder: Path, failure: Failure) -> None:
    """A life in which calls fail, and one on a sound disk.

    Raises:
        AssertionError: one of them ended in disorder.
    """
    call, at, times, error = failure
    program = [sys.executable, "-m", "tests.crashpoints.program", str(folder), "patient"]
    expression = f"inject={call}:error={error}:when={at}..{at + times - 1}"
    for ended in (_strace(Path(os.devnull), [expression], program), live(folder, None)):
        if ended.status:
            raise AssertionError(f"{failure}: it ended with {ended.status}: {ended.said}")


def calls_of(folder: Path) -> Counter[str]:
    """How many calls of each name a life makes."""
    log = folder / "calls"
    ended = _strace(log, [], [sys.executable, "-m", "tests.crashpoints.program", str(folder)])
    if ended.status:
        raise AssertionError(f"the program ended with {ended}")
    lines = log.read_text().splitlines()
    return Counter(name for line in lines for name in CALLS if f" {name}(" in line)


def lives(folder: Path, *kills: Kill) -> list[Ended]:
    """Kill one life after the other, and let the last one end by itself.

    Raises:
        AssertionError: a life ended otherwise than by the kill, or by itself, in good order.
    """
    ended = []
    for kill in (*kills, None):
        ended.append(found := live(folder, kill))
        # A life may end before it comes to so many calls.
        if found.status not in ((0,) if kill is None else (0, -9, 137)):
            raise AssertionError(f"killed at {kills}, then, at {kill}, it ended with {found.status}: {found.said}")
    return ended


def _strace(log: Path, expressions: list[str], program: list[str]) -> Ended:
    options = ["-f", "-qq", "-o", str(log), "-e", f"trace={','.join(CALLS)}"]
    for each in expressions:
        options += ["-e", each]
    return _run(["strace", *options, *program])


def _run(command: list[str]) -> Ended:
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS, check=False)
    return Ended(done.returncode, done.stderr[-2000:])
