"""Taps on what a process does to its disk: each operation is announced before and after it is done.

The journal is the real one behind a proxy that is made from its interface, and so are the connections to the user's
database. Nothing is imitated.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.crashpoints.operations import WRITERS, Place, methods, shape_of
from zmqkit.journal import SqliteJournal, layout
from zmqkit.patterns.pipeline import outbox, sending
from zmqkit.protocol import core

QUIET = ("select", "pragma")
"""Statements that change nothing."""


_NOT_THERE = object()


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Within this block a module or class has this in place of what it has by that name."""
    before = vars(owner).get(name, _NOT_THERE)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _NOT_THERE:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


class Tap:
    """Told of every operation.

    Attributes:
        listener: called with the name of an operation and "before" or "after"; None: nobody listens.
        seen: how often each was done.
        places: how often the cores wrote where.
    """

    def __init__(self) -> None:
        self.listener: Callable[[str, str], None] | None = None
        self.seen: Counter[str] = Counter()
        self.places: Counter[Place] = Counter()

    @contextlib.contextmanager
    def around(self, name: str) -> Iterator[None]:
        """An operation. One that fails has no after."""
        self.seen[name] += 1
        if self.listener is not None:
            self.listener(name, "before")
        yield
        if self.listener is not None:
            self.listener(name, "after")


class TappedJournal:
    """A journal whose every method is announced."""

    _methods = frozenset(methods())

    def __init__(self, tap: Tap, *arguments: Any, **more: Any) -> None:
        self._tap = tap
        with tap.around("journal.open"):
            self._journal = SqliteJournal(*arguments, reserve_bytes=0, **more)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._journal, name)
        if name not in self._methods:
            return value

        def tapped(*arguments: Any) -> Any:
            with self._tap.around(f"journal.{name}"):
                return value(*arguments)

        return tapped


@contextlib.contextmanager
def tapped(tap: Tap, *, vfs: str | None = None) -> Iterator[None]:
    """Within this block pushers open tapped journals, and all connections of sqlite3 are tapped.

    An outbox is emptied by who asks for it, not by a thread: so the order of all operations is that of the story.

    Args:
        tap: told of them.
        vfs: of apsw, for the journals.
    """

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            return _told(tap, sql, lambda: super(Connection, self).execute(sql, *more))

        def executemany(self, sql: str, *more: Any) -> sqlite3.Cursor:
            return _told(tap, sql, lambda: super(Connection, self).executemany(sql, *more))

        def commit(self) -> None:
            with tap.around("commit of sqlite3"):
                super().commit()

    connect = sqlite3.connect

    def connected(*arguments: Any, factory: type[sqlite3.Connection] = sqlite3.Connection, **more: Any) -> Any:
        return connect(*arguments, factory=type("Tapped", (Connection, factory), {}), **more)

    def journal(*arguments: Any, **more: Any) -> TappedJournal:
        return TappedJournal(tap, *arguments, vfs=vfs, **more)

    write = core.Outputs.write

    def written(self: core.Outputs, log: str, key: int, weight: int, value: bytes | None) -> int:
        depth = 1
        while (function := sys._getframe(depth).f_code.co_name) in WRITERS:
            depth += 1
        tap.places[Place(function, log, "delete" if value is None else "put")] += 1
        return write(self, log, key, weight, value)

    with (
        replaced(sqlite3, "connect", connected),
        replaced(sending, "SqliteJournal", journal),
        replaced(core.Outputs, "write", written),
        replaced(outbox.Relay, "_begin", lambda self: None),
        replaced(layout, "WAL_PAGES", 40),
    ):
        yield


def _told(tap: Tap, sql: str, call: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
    if sql.lstrip().lower().startswith(QUIET):
        return call()
    with tap.around(shape_of(sql) or " ".join(sql.lower().split()[:3])):
        return call()
