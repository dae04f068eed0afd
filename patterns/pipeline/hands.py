"""What a pusher's core keeps in hand: settings, what arrives, what is being stored, what settled.

Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from zmqkit.options import Backoff, Limits, Point, Window
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.doubt import Inbox
from zmqkit.patterns.pipeline.rows import Pack, Row
from zmqkit.patterns.pipeline.runs import Run
from zmqkit.patterns.pipeline.wire import Outcome
from zmqkit.protocol.session import Session


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PusherSettings:
    """What a pusher's core is made with.

    Attributes:
        origin: what ids derive from: the journal and its epoch.
        epoch: fresh at every open; leases of another epoch are stale.
        durable: there is a journal.
        wall: wall time minus the driver's clock, in seconds.
        max_failures: a message that fails so often becomes a dead letter.
        backoff: pauses between tries.
        max_waiting: how many messages may be accepted and not settled; None: no limit but `limits` in memory.
        limits: bounds of what memory holds where there is no journal.
        dedupe: how long, and how many, ids are remembered.
    """

    origin: str
    epoch: bytes
    durable: bool
    wall: float = 0.0
    max_failures: int = 20
    backoff: Backoff = Backoff()
    max_waiting: int | None = None
    limits: Limits = Limits()
    dedupe: Window = dataclasses.field(default_factory=Window)


class Arrival(NamedTuple):
    pack: Pack
    first: int
    ticket: Any
    wait: bool
    watcher: Any
    letters: Sequence[int] = ()
    due: int = 0
    """Not before, in microseconds since 1970; 0: at once."""
    expires: int = 0
    """Not after, likewise; 0: for ever."""
    more: Sequence[Any] = ()
    """Further ones, which are accepted together with this one."""

    @property
    def messages(self) -> int:
        """How many messages, of all of them."""
        return len(self.pack) + sum([len(each.pack) for each in self.more])

    @property
    def size(self) -> int:
        """How many bytes of bodies."""
        return len(self.pack.blob) + sum([len(each.pack.blob) for each in self.more])


class Storing(NamedTuple):
    number: int
    row: Row
    tickets: list[Any]
    letters: Sequence[int]
    up_to: int
    """All sequences up to this one are dealt with, duplicates among them."""
    told: list[tuple[Any, int | None]] | tuple[()] = ()
    """Further tickets, with the sequence of the message that was sent before under the same id, if there was one."""


class Counts(NamedTuple):
    """How many messages have settled since this opening, and ids of those that are not due."""

    acked: int
    dead: int
    expired: int
    not_due: tuple[str, ...]


class Awaited(NamedTuple):
    point: Point
    first: int
    last: int
    ticket: Any


@dataclasses.dataclass(slots=True)
class Settling:
    """What one turn settled, until the journal has it."""

    number: int = 0
    acked: int = 0
    dead: int = 0
    expired: int = 0
    rows: dict[int, tuple[Row, int]] = dataclasses.field(default_factory=dict)
    """Rows that changed, with what was done of them when it was written."""
    letters: dict[int, tuple[bytes, str]] = dataclasses.field(default_factory=dict)
    """Dead letters by sequence, with their reasons."""
    ended: list[tuple[int, int, Outcome, str]] = dataclasses.field(default_factory=list)
    """What became of messages: key of the row, bits, outcome, reason."""
    answers: list[tuple[Session, wire.Settled]] = dataclasses.field(default_factory=list)
    lendings: list[tuple[Inbox, Run]] = dataclasses.field(default_factory=list)
    """What may be lent to an inbox as soon as its marks are stored."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.answers)

    def absorb(self, other: Settling) -> None:
        """Take over what an attempt to store did not store."""
        self.acked += other.acked
        self.dead += other.dead
        self.expired += other.expired
        self.rows = {**other.rows, **self.rows}
        self.letters = {**other.letters, **self.letters}
        self.ended = other.ended + self.ended
        self.answers = other.answers + self.answers
        self.lendings = other.lendings + self.lendings


def merge(group: list[Arrival], origin: str) -> Row:
    """One row of neighbouring messages."""
    first = group[0]
    if len(group) == 1:
        pack = first.pack
        return Row(first.first, origin, pack.sent_at, pack.codec, pack.lengths, pack.blob, pack.ids, pack.headers)
    lengths: list[int] = []
    ids: dict[int, str] = {}
    headers: dict[int, dict[str, str]] = {}
    for each in group:
        at = len(lengths)
        lengths += each.pack.lengths
        if each.pack.ids:
            ids.update((at + i, value) for i, value in each.pack.ids.items())
        if each.pack.headers:
            headers.update((at + i, value) for i, value in each.pack.headers.items())
    blob = b"".join([each.pack.blob for each in group])
    return Row(first.first, origin, first.pack.sent_at, first.pack.codec, lengths, blob, ids, headers)
