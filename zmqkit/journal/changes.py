"""From a heap of writes to what a transaction has to do. Pure.

The usual commit is a handful of new rows, and the deletes of a handful of old ones that lie side by side. So the keys
that may be there already are cleared by spans, and what remains to be done is to insert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

from zmqkit.journal.layout import LogState
from zmqkit.journal.store import HIGHEST_KEY, pack_head
from zmqkit.protocol.core import Write


class Change(NamedTuple):
    """What a commit does to one log: spans to clear first, then rows to insert."""

    log: str
    cleared: list[tuple[int, int]]
    puts: list[tuple[int, int, int, bytes]]
    """key, weight, crc, value"""
    weight: int
    """The sum of the weights that are put."""
    highest: int
    """The highest key ever used, this commit included."""
    new: int
    """How many of the rows have keys that were never used before."""
    deleted: int
    """How many keys are deleted."""


def plan(writes: Sequence[Write], state_of: Callable[[str], LogState]) -> list[Change]:
    """Sort writes out: by log, the last of each key, what is to be cleared, what is to be inserted.

    Args:
        writes: at least one, in their order.
        state_of: tells a log's state, or raises ValueError for an unknown one.

    Raises:
        ValueError: an unknown log, or a key or weight out of range.
    """
    names = {write[0] for write in writes}
    by_log: dict[str, dict[int, Write]]
    if len(names) == 1:
        by_log = {writes[0][0]: {write[1]: write for write in writes}}
    else:
        by_log = {name: {} for name in names}
        for write in writes:
            by_log[write[0]][write[1]] = write
    return [_change(log, last, state_of(log).highest) for log, last in by_log.items()]


def _change(log: str, last: dict[int, Write], highest: int) -> Change:
    low, high = min(last), max(last)
    if not (low >= 1 and high <= HIGHEST_KEY):
        raise ValueError(f"keys are whole numbers from 1 to 2**63 - 1, got {low} to {high}")
    # `store.checksum`, written out: the call would cost as much as the sum.
    puts = [
        (key, weight, crc32(value, crc32(pack_head(key, weight))), value)
        for _, key, weight, value in last.values()
        if value is not None
    ]
    weights = [put[1] for put in puts]
    if weights and min(weights) < 0:
        raise ValueError(f"weights are whole numbers from 0 to 2**63 - 1, got {min(weights)}")
    # Keys above the highest were never used: nothing can be there, and nothing needs to be looked up.
    used = [key for key in last if key <= highest] if low <= highest else []
    new = sum([put[0] > highest for put in puts]) if used else len(puts)
    return Change(log, runs(used), puts, sum(weights), max(highest, high), new, len(last) - len(puts))


def runs(keys: Iterable[int]) -> list[tuple[int, int]]:
    """The spans (first, last) of consecutive keys that the given distinct keys form, in order."""
    ordered = sorted(keys)
    if not ordered:
        return []
    if ordered[-1] - ordered[0] == len(ordered) - 1:
        return [(ordered[0], ordered[-1])]
    spans = []
    first = last = ordered[0]
    for key in ordered[1:]:
        if key != last + 1:
            spans.append((first, last))
            first = key
        last = key
    spans.append((first, last))
    return spans
