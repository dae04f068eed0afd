"""What the controller of a run wrote down about its devices: when each was away, and how soon work went on.

It imports nothing of zmqkit; it knows the lines that `tests.chaos.fleet` writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.reader import lines

DEVICES = ("queue", "streamer")


@dataclasses.dataclass(slots=True)
class Absence:
    """A device was killed, or stopped. Times are those of the one clock that all processes share.

    Attributes:
        device: its name.
        killed: rather than stopped.
        began: when.
        opened: when its successor was open, or it went on; None: it was killed anew before that.
        until: when all sessions went through it again, or it was killed anew; None: it never came to that.
    """

    device: str
    killed: bool
    began: float
    opened: float | None = None
    until: float | None = None


def is_device(name: str) -> bool:
    """Whether this is a device's name."""
    return name.rpartition("-")[0] in DEVICES


def absences(history: Path) -> list[Absence]:
    """All absences of a run's devices, in the order of their beginnings."""
    found: list[Absence] = []
    away: dict[str, Absence] = {}
    for kind, name, *rest in lines(history):
        if not is_device(name):
            continue
        at = float(rest[-1])
        if kind in ("kill", "stop"):
            before = away.pop(name, None)
            if before is not None:
                before.until = at
            found.append(Absence(name, kind == "kill", at))
            away[name] = found[-1]
        elif name in away:
            absence = away[name]
            if kind in ("open", "go"):
                absence.opened = at
            if kind == "busy" or (kind == "go" and not absence.killed):
                absence.until = at
                del away[name]
    return found


def outages(found: Sequence[Absence]) -> list[tuple[float, float]]:
    """From when until when something was away: absences that overlap, or follow on each other, are one."""
    joined: list[tuple[float, float]] = []
    for absence in found:
        until = float("inf") if absence.until is None else absence.until
        if joined and absence.began <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(until, joined[-1][1]))
        else:
            joined.append((absence.began, until))
    return joined


@dataclasses.dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from SIGKILL until the successor was open, and until something was answered through it."""

    open_s: float
    answered_s: float


def restarts(found: Sequence[Absence], answered: Sequence[float]) -> list[Restart]:
    """Of all kills that no other absence came into.

    Args:
        found: see `absences`.
        answered: when something came through, sorted.
    """
    measured = []
    for absence in found:
        if not absence.killed or absence.opened is None:
            continue
        opened = absence.opened
        first = next((at for at in answered if at >= opened), None)
        if first is not None and not any(
            other is not absence and other.began < first and (other.until is None or other.until > absence.began)
            for other in found
        ):
            measured.append(Restart(opened - absence.began, first - absence.began))
    return measured
