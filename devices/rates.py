"""How fast counters rise, from samples taken now and then. Pure: reads no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

WINDOW_S: Final = 5.0
"""Rates are those of so many seconds, about."""

MAX_SAMPLES: Final = 64

RISING: Final = ("_messages_received", "_messages_sent", "_bytes_received", "_bytes_sent")
"""How the names of counters end that have a rate."""

Number = int | float


class Rates:
    """The rates of one device's counters over the last few seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, Number]]] = deque(maxlen=MAX_SAMPLES)

    def add(self, now: float, counters: Mapping[str, Number]) -> None:
        """Take a sample. Counters that began anew, as those of a device that was started again, begin anew here."""
        sample = {name: value for name, value in counters.items() if name.endswith(RISING)}
        if self._samples and any(value < self._samples[-1][1].get(name, 0) for name, value in sample.items()):
            self._samples.clear()
        self._samples.append((now, sample))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()

    def per_second(self) -> dict[str, float]:
        """By the counter's name, to a tenth; 0.0 until there are two samples."""
        if not self._samples:
            return {}
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        seconds = ended - began
        return {
            name: round((value - first.get(name, 0)) / seconds, 1) if seconds > 0 else 0.0
            for name, value in last.items()
        }
