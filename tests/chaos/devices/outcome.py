"""How long a run with devices is, and what it came to. Knows no process, and nothing of zmqkit."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping

from tests.chaos.devices.plan import BOUND_S
from tests.chaos.devices.reader import Restart

LEAST_SHARE = 0.5
"""So much of the work of the undisturbed half must have been done in the other one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Length:
    """How long a run is.

    Attributes:
        seconds: so long all are left alone, and so long harm is done, in turns.
        steps: so much harm is done, however long that takes; None: as much as there is time for.
        pause_s: between two steps, the least and the most.
    """

    seconds: float
    steps: int | None = None
    pause_s: tuple[float, float] = (3.0, 7.0)


@dataclasses.dataclass
class Outcome:
    """What a run came to.

    Attributes:
        violations: the reader's, in words.
        complaints: what else was not as it should be: errors in logs and counters, journals with something left.
        counted: what the reader counted.
        again: what was done again, or too late; where all sessions go on nothing is.
        work: what is done, in words.
        kills, stops: of devices.
        undisturbed, disturbed: how much work was done in a second, while all were left alone and while harm was done.
        resumed: sessions that their peers went on with, after a connection was lost.
        passed_on: of them those that a device led to their other end which had another life before.
        lost: sessions that peers gave up before all came to their end.
        away: how long devices were away, each time.
        restarts: what restarting them took; empty where that is not measured.
        seconds: the whole run.
    """

    violations: list[str]
    complaints: list[str]
    counted: Mapping[str, int]
    again: Mapping[str, int]
    work: str
    kills: int
    stops: int
    undisturbed: float
    disturbed: float
    resumed: int
    passed_on: int
    lost: int
    away: list[float]
    restarts: list[Restart]
    seconds: float

    @property
    def failures(self) -> list[str]:
        """All that is wrong; empty when all is well."""
        found = self.violations + self.complaints
        if not self.resumed or not self.passed_on:
            found.append("no session went on through a device that was started again")
        if self.lost and max(self.away, default=0.0) < BOUND_S / 2:
            found.append(f"{self.lost} sessions were lost, and no device was away for long")
        if not self.lost:
            found += [f"{count} x {name}, and no session was lost" for name, count in self.again.items() if count]
        return found

    @property
    def share(self) -> float:
        """Of the work of the undisturbed half that which was done in the other."""
        return self.disturbed / self.undisturbed if self.undisturbed else 0.0

    @property
    def idle(self) -> list[str]:
        """What else a long run must have shown."""
        if self.share >= LEAST_SHARE:
            return []
        return [f"only {self.share:.2f} x the work of the undisturbed half was done"]

    def table(self) -> str:
        """For people."""
        rows: list[tuple[str, str]] = [(name, f"{value:,}") for name, value in {**self.counted, **self.again}.items()]
        rows += [
            ("kills of devices", f"{self.kills}"),
            ("stops of devices", f"{self.stops}"),
            ("away, longest, s", f"{max(self.away, default=0.0):.2f}"),
            ("sessions resumed", f"{self.resumed:,}"),
            ("through new devices", f"{self.passed_on:,}"),
            ("sessions lost", f"{self.lost:,}"),
            (f"{self.work}/s, alone", f"{self.undisturbed:,.0f}"),
            (f"{self.work}/s, with kills", f"{self.disturbed:,.0f}"),
            ("ratio", f"{self.share:.2f}"),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        shown = [f"{name:<26}{value:>12}" for name, value in rows]
        if self.restarts:
            spans = {
                "its successor was open": [each.open_s for each in self.restarts],
                "the first call was answered through it": [each.answered_s for each in self.restarts],
            }
            shown += [
                f"from SIGKILL until {what}: {statistics.median(found):.2f} s, at most {max(found):.2f} s, "
                f"of {len(found)} kills"
                for what, found in spans.items()
            ]
        return "\n".join(shown)
