"""Runs: neighbouring messages of one row, which are lent together. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from zmqkit.patterns.pipeline.rows import Row


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring messages of one row, to be delivered."""

    row: Row
    index: int
    count: int
    alone: bool

    @property
    def bits(self) -> int:
        """Of the row."""
        return ((1 << self.count) - 1) << self.index


def runs(bits: int) -> Iterator[tuple[int, int]]:
    """The runs of set bits, each as (index, count)."""
    index = 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        index += skip
        count = ((bits + 1) & ~bits).bit_length() - 1
        yield index, count
        bits >>= count
        index += count
